"""What users say of a webhook, and what must be true of it. Pure; raises `Refused` naming the field.

A webhook that could never take a delivery is refused when it is made: an expression that does not compile, a source whose senders sign
with another kind of credentials, a secret that cannot be the sender's.
"""

import base64
import binascii
import json
import re
from enum import StrEnum
from typing import Any, NamedTuple

from broadaxe_actors import cel
from broadaxe_actors.cel import Environment, Expression
from broadaxe_gateway.rpc.convert.checks import check_object, check_text, refuse, shown

MAX_NAME_CHARACTERS = 200
MAX_CREDENTIAL_CHARACTERS = 4_096
MAX_HEADER_CHARACTERS = 100
MAX_STATIC_BYTES = 65_536
MAX_WEBHOOKS = 1_000
"""Of a tenant, whatever its limits are."""
SVIX_PREFIX = "whsec_"
_NAME = re.compile(r"[^/\\?#%\x00-\x1f\x7f]+")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Source(StrEnum):
    """Who sends: `V1WebhookSourceName`."""

    GENERIC = "GENERIC"
    GITHUB = "GITHUB"
    STRIPE = "STRIPE"
    SLACK = "SLACK"
    LINEAR = "LINEAR"
    SVIX = "SVIX"


class AuthType(StrEnum):
    """`V1WebhookAuthType`."""

    BASIC = "BASIC"
    API_KEY = "API_KEY"
    HMAC = "HMAC"


class Algorithm(StrEnum):
    """`V1WebhookHMACAlgorithm`."""

    SHA1 = "SHA1"
    SHA256 = "SHA256"
    SHA512 = "SHA512"
    MD5 = "MD5"


class Encoding(StrEnum):
    """`V1WebhookHMACEncoding`."""

    HEX = "HEX"
    BASE64 = "BASE64"
    BASE64URL = "BASE64URL"


SIGNED_SOURCES = frozenset({Source.STRIPE, Source.SLACK, Source.SVIX})
"""Their deliveries are signed in a way of their own."""


class BasicAuth(NamedTuple):
    username: str
    password: str

    def __repr__(self) -> str:
        return "BasicAuth(...)"


class ApiKeyAuth(NamedTuple):
    header_name: str
    api_key: str

    def __repr__(self) -> str:
        return f"ApiKeyAuth({self.header_name!r}, ...)"


class HmacAuth(NamedTuple):
    algorithm: Algorithm
    encoding: Encoding
    header_name: str
    secret: str

    def __repr__(self) -> str:
        return f"HmacAuth({self.algorithm}, {self.encoding}, {self.header_name!r}, ...)"


Auth = BasicAuth | ApiKeyAuth | HmacAuth
AUTH_TYPES: dict[type[Auth], AuthType] = {
    BasicAuth: AuthType.BASIC,
    ApiKeyAuth: AuthType.API_KEY,
    HmacAuth: AuthType.HMAC,
}


class Webhook(NamedTuple):
    """A webhook ready to take deliveries."""

    tenant_id: str
    name: str
    source: Source
    auth: Auth
    event_key: Expression
    scope: Expression | None
    static_payload: dict[str, Any] | None
    returns_event: bool


def check_webhook_name(name: str) -> str:
    """A name that a URL can end with."""
    if not name.strip() or name in {".", ".."} or not _NAME.fullmatch(name):
        raise refuse(
            f"name {shown(name)} is not valid: it is the last part of the webhook's URL and may hold neither / \\ ? # % nor control characters"
        )
    if len(name) > MAX_NAME_CHARACTERS:
        raise refuse(f"name has {len(name):,} characters, expected at most {MAX_NAME_CHARACTERS}")
    return name


def check_event_key_expression(text: str) -> Expression:
    return _compiled(text, Environment.WEBHOOK_EVENT_KEY, "eventKeyExpression")


def check_scope_expression(text: str) -> Expression:
    return _compiled(text, Environment.WEBHOOK_SCOPE, "scopeExpression")


def _compiled(text: str, environment: Environment, field: str) -> Expression:
    try:
        return cel.compile(check_text(text, field), environment)
    except cel.InvalidExpression as error:
        raise refuse(f"{field}: {error}") from error


def check_static_payload(value: dict[str, Any]) -> str:
    """As JSON text."""
    text = json.dumps(value, separators=(",", ":"))
    check_object(text, "staticPayload")
    if len(text) > MAX_STATIC_BYTES:
        raise refuse(f"staticPayload has {len(text):,} bytes of JSON, expected at most {MAX_STATIC_BYTES:,}")
    return text


def check_auth(source: Source, auth: Auth) -> Auth:
    """Credentials that a sender of this source can show."""
    kind = AUTH_TYPES[type(auth)]
    if source in SIGNED_SOURCES and not isinstance(auth, HmacAuth):
        raise refuse(
            f"authType is {kind}, and deliveries of source {source} are signed: expected HMAC with the signing secret that {source} shows"
        )
    if isinstance(auth, BasicAuth):
        _check_credential(auth.username, "auth.username")
        _check_credential(auth.password, "auth.password")
        if ":" in auth.username:
            raise refuse(
                "auth.username holds a colon, which basic authentication has no way to send: choose another"
            )
    elif isinstance(auth, ApiKeyAuth):
        _check_header(auth.header_name, "auth.headerName")
        _check_credential(auth.api_key, "auth.apiKey")
        if auth.api_key != auth.api_key.strip():
            raise refuse("auth.apiKey begins or ends with a space, which a header cannot carry")
    else:
        _check_header(auth.header_name, "auth.signatureHeaderName")
        _check_credential(auth.secret, "auth.signingSecret")
        if source is Source.SVIX and svix_key(auth.secret) is None:
            raise refuse(
                f"auth.signingSecret is no secret of source SVIX: expected {SVIX_PREFIX} and base64, as its dashboard shows it"
            )
    return auth


def _check_header(name: str, field: str) -> None:
    if len(name) > MAX_HEADER_CHARACTERS or not _HEADER.fullmatch(name):
        raise refuse(f"{field} {shown(name)} is not the name of a header")


def _check_credential(value: str, field: str) -> None:
    """The text never shows the value."""
    if not value:
        raise refuse(f"{field} is empty")
    if len(value) > MAX_CREDENTIAL_CHARACTERS:
        raise refuse(f"{field} has {len(value):,} characters, expected at most {MAX_CREDENTIAL_CHARACTERS:,}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise refuse(f"{field} holds half of a surrogate pair, which is no character") from error


def svix_key(secret: str) -> bytes | None:
    """The key that a secret of Svix stands for; None for what is none."""
    text = secret.strip().removeprefix(SVIX_PREFIX)
    try:
        return base64.b64decode(text, validate=True) or None
    except (binascii.Error, ValueError):
        return None


def auth_to_json(auth: Auth) -> bytes:
    """What is sealed: every field, since a user name may be as secret as its password."""
    return json.dumps(auth._asdict(), separators=(",", ":")).encode()


def auth_from_json(kind: str, text: bytes) -> Auth:
    """Raises `ValueError` or `TypeError` for what `auth_to_json` has not written."""
    fields = json.loads(text)
    if kind == AuthType.BASIC:
        return BasicAuth(**fields)
    if kind == AuthType.API_KEY:
        return ApiKeyAuth(**fields)
    found = HmacAuth(**fields)
    return found._replace(algorithm=Algorithm(found.algorithm), encoding=Encoding(found.encoding))
