"""Credentials and signatures of deliveries: as each sender documents its own, and nothing else.

The signatures are computed here, by the documented schemes alone; where a sender publishes an example, that is the vector.
"""

import base64
import hashlib
import hmac
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_gateway.webhooks.definition import (
    Algorithm,
    ApiKeyAuth,
    Auth,
    BasicAuth,
    Encoding,
    HmacAuth,
    Source,
)
from broadaxe_gateway.webhooks.signatures import DeliveryRefused, check_delivery

NOW = 1_767_323_045.0
AT = int(NOW)
BODY = '{"type":"payment_intent.created","amount":1999,"who":"Zo\u00eb"}'.encode()
SECRET = "whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH"


def refusal(
    source: Source, auth: Auth, headers: dict[str, str], body: bytes = BODY, now: float = NOW
) -> DeliveryRefused | None:
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        check_delivery(source, auth, lower, body, now)
    except DeliveryRefused as refused:
        return refused
    return None


def status(*args: Any, **options: Any) -> HTTPStatus | None:
    refused = refusal(*args, **options)
    return None if refused is None else refused.status


# ---------------------------------------------------------------- GitHub

GITHUB = HmacAuth(Algorithm.SHA256, Encoding.HEX, "X-Hub-Signature-256", "It's a Secret to Everybody")


def test_githubs_published_example_passes_and_its_changes_do_not() -> None:
    # docs.github.com: "Validating webhook deliveries", testing the webhook payload validation
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    body = b"Hello, World!"
    assert status(Source.GITHUB, GITHUB, {"X-Hub-Signature-256": signature}, body) is None
    assert status(Source.GITHUB, GITHUB, {"X-Hub-Signature-256": signature}, b"Hello, World?") == 403
    assert status(Source.GITHUB, GITHUB, {"X-Hub-Signature-256": signature[:-1] + "8"}, body) == 403
    assert status(Source.GITHUB, GITHUB, {"X-Hub-Signature-256": signature.upper()}, body) == 403
    other = GITHUB._replace(secret="It's a secret to everybody")
    assert status(Source.GITHUB, other, {"X-Hub-Signature-256": signature}, body) == 403
    refused = refusal(Source.GITHUB, GITHUB, {"X-Hub-Signature": signature}, body)
    assert refused is not None
    assert (refused.status, refused.message) == (403, "header X-Hub-Signature-256 is missing")


# ---------------------------------------------------------------- generic and Linear


@pytest.mark.parametrize("source", [Source.GENERIC, Source.LINEAR, Source.GITHUB])
@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_signature_passes_in_its_algorithm_and_encoding_alone(
    source: Source, algorithm: Algorithm, encoding: Encoding
) -> None:
    digest = hmac.new(b"key", BODY, algorithm.lower()).digest()
    written = {
        Encoding.HEX: digest.hex(),
        Encoding.BASE64: base64.b64encode(digest).decode(),
        Encoding.BASE64URL: base64.urlsafe_b64encode(digest).decode(),
    }
    auth = HmacAuth(algorithm, encoding, "X-Signature", "key")
    assert status(source, auth, {"x-signature": written[encoding]}) is None
    assert status(source, auth, {"x-signature": f" {algorithm.lower()}={written[encoding]} "}) is None
    for other, text in written.items():
        if text != written[encoding]:
            assert status(source, auth, {"x-signature": text}) == 403, other
    wrong = hmac.new(b"key", BODY, "sha256" if algorithm is not Algorithm.SHA256 else "sha1").hexdigest()
    assert status(source, auth._replace(encoding=Encoding.HEX), {"x-signature": wrong}) == 403
    assert status(source, auth, {"x-signature": written[encoding]}, BODY + b" ") == 403
    assert status(source, auth, {"x-signature": ""}) == 403
    assert status(source, auth, {"x-signature": "\u00e9"}) == 403


def test_basic_credentials_are_compared_whole() -> None:
    auth = BasicAuth("ann", "p:w\u00e9")

    def given(text: str, scheme: str = "Basic") -> dict[str, str]:
        return {"Authorization": f"{scheme} {base64.b64encode(text.encode()).decode()}"}

    assert status(Source.GENERIC, auth, given("ann:p:w\u00e9")) is None
    assert status(Source.GENERIC, auth, given("ann:p:w\u00e9", "basic")) is None
    for headers in (
        given("ann:p:w"),
        given("ann:"),
        given("ann"),
        given(":p:w\u00e9"),
        given("Ann:p:w\u00e9"),
        given("ann:p:w\u00e9", "Bearer"),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic"},
        {},
    ):
        refused = refusal(Source.GENERIC, auth, headers)
        assert refused is not None, headers
        assert refused.status == 403
        assert "p:w" not in refused.message


def test_an_api_key_is_the_whole_header() -> None:
    auth = ApiKeyAuth("X-Api-Key", "k-1")
    assert status(Source.GENERIC, auth, {"X-API-KEY": "k-1"}) is None
    assert status(Source.GENERIC, auth, {"X-API-KEY": " k-1 "}) is None
    for value in ("Bearer k-1", "k-1,k-1", "K-1", "k-", ""):
        assert status(Source.GENERIC, auth, {"x-api-key": value}) == 403, value
    assert status(Source.GENERIC, auth, {"api-key": "k-1"}) == 403


# ---------------------------------------------------------------- Slack

SLACK = HmacAuth(Algorithm.SHA256, Encoding.HEX, "X-Slack-Signature", "8f742231b10e8888abcd99yyyzzz85a5")


def slack_headers(body: bytes, at: int | str = AT, secret: str = SLACK.secret) -> dict[str, str]:
    """docs.slack.dev, "Verifying requests from Slack": v0:timestamp:body, HMAC SHA256, hex, v0= in front."""
    text = b"v0:" + str(at).encode() + b":" + body
    return {
        "X-Slack-Request-Timestamp": str(at),
        "X-Slack-Signature": "v0=" + hmac.new(secret.encode(), text, hashlib.sha256).hexdigest(),
    }


def test_slacks_published_example_passes() -> None:
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = {
        "X-Slack-Request-Timestamp": "1531420618",
        "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    }
    assert slack_headers(body, 1531420618) == headers
    assert status(Source.SLACK, SLACK, headers, body, 1531420618.0) is None
    assert status(Source.SLACK, SLACK, headers, body[:-1], 1531420618.0) == 403


def test_slack_is_heard_for_five_minutes() -> None:
    for age, expected in ((0, None), (300, None), (301, 403), (-3_000, None)):
        headers = slack_headers(BODY, AT - age)
        assert status(Source.SLACK, SLACK, headers) == expected, age
    headers = slack_headers(BODY)
    moved = headers | {"X-Slack-Request-Timestamp": str(AT + 1)}
    assert status(Source.SLACK, SLACK, moved) == 403
    bare = headers | {"X-Slack-Signature": headers["X-Slack-Signature"].removeprefix("v0=")}
    assert status(Source.SLACK, SLACK, bare) == 403
    for text in ("", "now", "1e9", "-1", "\u0663", "9" * 20):
        assert status(Source.SLACK, SLACK, headers | {"X-Slack-Request-Timestamp": text}) == 403, text
    assert status(Source.SLACK, SLACK, slack_headers(BODY, secret="other")) == 403


# ---------------------------------------------------------------- Stripe

STRIPE = HmacAuth(Algorithm.SHA256, Encoding.HEX, "Stripe-Signature", SECRET)


def stripe_signature(body: bytes, at: int = AT, secret: str = SECRET) -> str:
    """docs.stripe.com, "Verify webhook signatures manually": timestamp.body, HMAC SHA256, hex; the secret as it is shown."""
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


def test_stripe_signs_time_and_body() -> None:
    right = stripe_signature(BODY)
    wrong = stripe_signature(BODY, secret="whsec_other")
    for text in (
        f"t={AT},v1={right}",
        f"t={AT},v1={right},v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39",
        f"v1={right}, t={AT}",
        # While a secret is being replaced there is a signature by each.
        f"t={AT},v1={wrong},v1={right}",
        f"t={AT},v1={right},v1={wrong}",
    ):
        assert status(Source.STRIPE, STRIPE, {"Stripe-Signature": text}) is None, text
    for text, expected in (
        (f"t={AT},v1={wrong}", 403),
        (f"t={AT + 1},v1={right}", 403),
        (f"t={AT},v0={right}", 400),
        (f"v1={right}", 400),
        (f"t=,v1={right}", 400),
        (f"t=soon,v1={right}", 400),
        (f"t={AT},v1={right},x", 400),
        (f"t={AT},v1=a=b", 400),
        ("", 400),
        (right, 400),
    ):
        assert status(Source.STRIPE, STRIPE, {"Stripe-Signature": text}) == expected, text
    assert status(Source.STRIPE, STRIPE, {"Stripe-Signature": f"t={AT},v1={right}"}, BODY + b"\n") == 403
    assert status(Source.STRIPE, STRIPE, {}) == 400


def test_stripe_is_heard_for_ten_minutes() -> None:
    for age, expected in ((600, None), (601, 400), (-3_000, None)):
        text = f"t={AT - age},v1={stripe_signature(BODY, AT - age)}"
        assert status(Source.STRIPE, STRIPE, {"Stripe-Signature": text}) == expected, age


# ---------------------------------------------------------------- Svix

SVIX = HmacAuth(Algorithm.SHA1, Encoding.HEX, "ignored", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


def svix_headers(
    body: bytes, at: int = AT, message_id: str = "msg_1", secret: str = SVIX.secret, family: str = "svix"
) -> dict[str, str]:
    """docs.svix.com, "Verifying payloads manually": id.timestamp.body, HMAC SHA256 with the decoded secret, base64, v1, in front."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = hmac.new(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256).digest()
    return {
        f"{family}-id": message_id,
        f"{family}-timestamp": str(at),
        f"{family}-signature": "v1," + base64.b64encode(signature).decode(),
    }


def test_svixs_published_example_passes() -> None:
    body = b'{"test": 2432232314}'
    headers = {
        "svix-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "svix-timestamp": "1614265330",
        "svix-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert status(Source.SVIX, SVIX, headers, body, 1614265330.0) is None
    assert status(Source.SVIX, SVIX, headers, body + b" ", 1614265330.0) == 403
    assert status(Source.SVIX, SVIX, headers, body) == 400


@pytest.mark.parametrize("family", ["svix", "webhook"])
def test_svix_signs_id_time_and_body(family: str) -> None:
    headers = svix_headers(BODY, family=family)
    name = f"{family}-signature"
    assert status(Source.SVIX, SVIX, headers) is None
    several = f"v1,{base64.b64encode(b'x' * 32).decode()} {headers[name]} v1a,aaaa"
    assert status(Source.SVIX, SVIX, headers | {name: several}) is None
    for change, expected in (
        ({f"{family}-id": "msg_2"}, 403),
        ({f"{family}-timestamp": str(AT + 1)}, 403),
        ({name: headers[name].removeprefix("v1,")}, 403),
        ({name: headers[name].replace("v1,", "v2,")}, 403),
        ({f"{family}-timestamp": "x"}, 400),
        ({f"{family}-id": ""}, 400),
        ({f"{family}-timestamp": ""}, 400),
        ({name: ""}, 400),
    ):
        assert status(Source.SVIX, SVIX, headers | change) == expected, change
    for age, expected in ((300, None), (301, 400), (-300, None), (-301, 400)):
        assert status(Source.SVIX, SVIX, svix_headers(BODY, AT - age, family=family)) == expected, age


# ---------------------------------------------------------------- whatever comes

HEADER = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60)
NAMES = (
    "authorization",
    "stripe-signature",
    "x-signature",
    "x-slack-request-timestamp",
    "svix-id",
    "svix-timestamp",
    "svix-signature",
    "webhook-signature",
)


@given(
    st.sampled_from(list(Source)),
    st.sampled_from(
        [
            BasicAuth("a", "b"),
            ApiKeyAuth("X-Signature", "k"),
            HmacAuth(Algorithm.SHA256, Encoding.HEX, "X-Signature", SVIX.secret),
        ]
    ),
    st.dictionaries(st.sampled_from(NAMES), HEADER | st.just(f"t={AT},v1=00") | st.just(str(AT))),
    st.binary(max_size=40),
)
def test_whatever_is_sent_is_refused_and_never_an_error(
    source: Source, auth: Auth, headers: dict[str, str], body: bytes
) -> None:
    refused = refusal(source, auth, headers, body)
    assert refused is not None or headers.get("x-signature") == "k"
    if refused is not None:
        assert refused.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN)


def test_credentials_are_not_shown() -> None:
    for auth in (BasicAuth("u-s", "p-w"), ApiKeyAuth("X", "k-y"), STRIPE):
        assert not {"u-s", "p-w", "k-y", SECRET} & set(repr(auth).replace("'", " ").split())
        assert SECRET not in f"{auth} {auth!r}"
