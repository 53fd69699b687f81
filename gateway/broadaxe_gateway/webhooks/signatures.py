"""Whether a delivery comes from who it says: credentials and signatures, as the senders' documentation has them (rest 9.3). Pure.

Secrets are compared in constant time, letters of either case told apart. A refusal names the header that is at fault, never what was
expected in it. Times are seconds since the epoch; senders sign the time along, so that a delivery which somebody kept cannot be sent again
later.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from http import HTTPStatus

from broadaxe_gateway.webhooks.definition import (
    Algorithm,
    ApiKeyAuth,
    Auth,
    BasicAuth,
    Encoding,
    HmacAuth,
    Source,
    svix_key,
)

SLACK_TOLERANCE_SECONDS = 300
STRIPE_TOLERANCE_SECONDS = 600
SVIX_TOLERANCE_SECONDS = 300

_HASHES = {
    Algorithm.SHA1: hashlib.sha1,
    Algorithm.SHA256: hashlib.sha256,
    Algorithm.SHA512: hashlib.sha512,
    Algorithm.MD5: hashlib.md5,
}
_PREFIXES = tuple(f"{algorithm.lower()}=" for algorithm in Algorithm)
_SECONDS = re.compile(r"[0-9]{1,12}")
_SVIX_VERSION = "v1"

Headers = Mapping[str, str]
"""First value by lower-case name."""


class DeliveryRefused(Exception):
    """A delivery that is not taken. `message` is for the sender and holds no secret."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def check_delivery(source: Source, auth: Auth, headers: Headers, body: bytes, now: float) -> None:
    """Nothing, or `DeliveryRefused`."""
    if isinstance(auth, BasicAuth):
        _check_basic(auth, headers)
    elif isinstance(auth, ApiKeyAuth):
        given = _header(headers, auth.header_name, HTTPStatus.FORBIDDEN)
        if not _is_same(given, auth.api_key):
            raise _forbidden(f"the API key in header {auth.header_name} is wrong")
    elif source is Source.SLACK:
        _check_slack(auth, headers, body, now)
    elif source is Source.STRIPE:
        _check_stripe(auth, headers, body, now)
    elif source is Source.SVIX:
        _check_svix(auth, headers, body, now)
    else:
        given = _header(headers, auth.header_name, HTTPStatus.FORBIDDEN)
        if not _is_same(_bare(given), _bare(sign(auth, body))):
            raise _wrong_signature(auth.header_name)


def sign(auth: HmacAuth, text: bytes) -> str:
    """The encoded HMAC of a text."""
    return _encoded(hmac.new(auth.secret.encode(), text, _HASHES[auth.algorithm]).digest(), auth.encoding)


def _encoded(digest: bytes, encoding: Encoding) -> str:
    if encoding is Encoding.HEX:
        return digest.hex()
    encode = base64.b64encode if encoding is Encoding.BASE64 else base64.urlsafe_b64encode
    return encode(digest).decode()


# ---------------------------------------------------------------- senders


def _check_basic(auth: BasicAuth, headers: Headers) -> None:
    scheme, _, encoded = _header(headers, "Authorization", HTTPStatus.FORBIDDEN).partition(" ")
    try:
        given = base64.b64decode(encoded.strip(), validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        given = b""
    username, colon, password = given.partition(b":")
    # Both are compared in any case: which of them is wrong must not show in the time.
    is_user = hmac.compare_digest(username, auth.username.encode())
    is_password = hmac.compare_digest(password, auth.password.encode())
    if not (colon and is_user and is_password):
        raise _forbidden(
            "user name or password in header Authorization is wrong: expected basic authentication"
        )


def _check_slack(auth: HmacAuth, headers: Headers, body: bytes, now: float) -> None:
    name = "X-Slack-Request-Timestamp"
    timestamp = _header(headers, name, HTTPStatus.FORBIDDEN)
    at = _seconds(timestamp, name, HTTPStatus.FORBIDDEN)
    given = _header(headers, auth.header_name, HTTPStatus.FORBIDDEN)
    if now - at > SLACK_TOLERANCE_SECONDS:
        raise _too_old(name, SLACK_TOLERANCE_SECONDS, HTTPStatus.FORBIDDEN)
    if not _is_same(given, "v0=" + sign(auth, b"v0:%s:%s" % (timestamp.encode(), body))):
        raise _wrong_signature(auth.header_name)


def _check_stripe(auth: HmacAuth, headers: Headers, body: bytes, now: float) -> None:
    name = auth.header_name
    timestamp, signatures = "", []
    for part in _header(headers, name, HTTPStatus.BAD_REQUEST).split(","):
        # Padding of base64 ends a part, and separates nothing.
        key, equals, value = part.strip().partition("=")
        if not equals or "=" in value.rstrip("="):
            raise _malformed(name, "expected t=<seconds>,v1=<signature>")
        if key == "t":
            timestamp = value
        elif key == "v1":
            # Several while a secret is being replaced: one of each.
            signatures.append(value)
    if not timestamp or not signatures:
        raise _malformed(name, "expected t=<seconds>,v1=<signature>")
    at = _seconds(timestamp, name, HTTPStatus.BAD_REQUEST)
    if now - at > STRIPE_TOLERANCE_SECONDS:
        raise _too_old(name, STRIPE_TOLERANCE_SECONDS, HTTPStatus.BAD_REQUEST)
    expected = sign(auth, b"%s.%s" % (timestamp.encode(), body))
    if not _is_any(signatures, expected):
        raise _wrong_signature(name)


def _check_svix(auth: HmacAuth, headers: Headers, body: bytes, now: float) -> None:
    family = next((name for name in ("svix", "webhook") if f"{name}-signature" in headers), "svix")
    message_id = _header(headers, f"{family}-id", HTTPStatus.BAD_REQUEST)
    timestamp = _header(headers, f"{family}-timestamp", HTTPStatus.BAD_REQUEST)
    given = _header(headers, f"{family}-signature", HTTPStatus.BAD_REQUEST)
    at = _seconds(timestamp, f"{family}-timestamp", HTTPStatus.BAD_REQUEST)
    if abs(now - at) > SVIX_TOLERANCE_SECONDS:
        raise DeliveryRefused(
            HTTPStatus.BAD_REQUEST,
            f"the time in header {family}-timestamp is more than {SVIX_TOLERANCE_SECONDS // 60} minutes off",
        )
    key = svix_key(auth.secret)
    assert key is not None, "checked when the webhook was made"
    text = b"%s.%s.%s" % (_bytes(message_id), timestamp.encode(), body)
    expected = _encoded(hmac.new(key, text, hashlib.sha256).digest(), Encoding.BASE64)
    signatures = [
        value
        for version, comma, value in (item.partition(",") for item in given.split())
        if comma and version == _SVIX_VERSION
    ]
    if not _is_any(signatures, expected):
        raise _wrong_signature(f"{family}-signature")


# ---------------------------------------------------------------- parts


def _header(headers: Headers, name: str, status: HTTPStatus) -> str:
    value = headers.get(name.lower(), "").strip()
    if not value:
        raise DeliveryRefused(status, f"header {name} is missing")
    return value


def _seconds(text: str, name: str, status: HTTPStatus) -> int:
    if not _SECONDS.fullmatch(text):
        raise DeliveryRefused(
            status, f"header {name} is malformed: its time is no number of seconds since 1970"
        )
    return int(text)


def _bare(signature: str) -> str:
    """Without the name of the algorithm that some senders put in front."""
    text = signature.strip()
    for prefix in _PREFIXES:
        if text.startswith(prefix):
            return text[len(prefix) :].strip()
    return text


def _bytes(text: str) -> bytes:
    # HTTP headers are read as Latin-1: so they are the bytes that came.
    return text.encode("latin-1", "replace")


def _is_same(given: str, expected: str) -> bool:
    return hmac.compare_digest(_bytes(given), expected.encode())


def _is_any(given: list[str], expected: str) -> bool:
    """Whether one of them is right; all are compared."""
    return sum(_is_same(value, expected) for value in given) > 0


def _forbidden(message: str) -> DeliveryRefused:
    return DeliveryRefused(HTTPStatus.FORBIDDEN, message)


def _wrong_signature(name: str) -> DeliveryRefused:
    return _forbidden(
        f"the signature in header {name} is not that of this body: the signing secret differs, or the body was changed on its way"
    )


def _malformed(name: str, expected: str) -> DeliveryRefused:
    return DeliveryRefused(HTTPStatus.BAD_REQUEST, f"header {name} is malformed: {expected}")


def _too_old(name: str, seconds: int, status: HTTPStatus) -> DeliveryRefused:
    return DeliveryRefused(status, f"the time in header {name} is older than {seconds // 60} minutes")
