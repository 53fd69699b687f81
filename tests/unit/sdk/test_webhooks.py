"""Webhooks of the SDK, as they travel over REST."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from broadaxe import (
    Broadaxe,
    ClientConfig,
    NotFoundError,
    RequestRefusedError,
    V1WebhookAPIKeyAuth,
    V1WebhookAuthType,
    V1WebhookBasicAuth,
    V1WebhookHMACAlgorithm,
    V1WebhookHMACAuth,
    V1WebhookHMACEncoding,
    V1WebhookSourceName,
)
from tests.unit.sdk.clients import TOKEN
from tests.unit.sdk.fake_rest import META, TENANT, Call, FakeRest

ROW = {
    "metadata": META | {"id": "00000000-0000-0000-0000-000000000000"},
    "tenantId": TENANT,
    "name": "a b",
    "sourceName": "SLACK",
    "eventKeyExpression": "input.type",
    "authType": "HMAC",
    "returnEventAsResponsePayload": True,
}
BASE = f"/api/v1/stable/tenants/{TENANT}/webhooks"
HMAC = V1WebhookHMACAuth(
    algorithm=V1WebhookHMACAlgorithm.SHA512,
    encoding=V1WebhookHMACEncoding.BASE64URL,
    signature_header_name="X-Signature",
    signing_secret="hush",
)


@pytest.fixture
def rest() -> Iterator[FakeRest]:
    with FakeRest(
        lambda call: (200, {"rows": [ROW]} if call.path == BASE and call.method == "GET" else ROW)
    ) as rest:
        yield rest


@pytest.fixture
def client(rest: FakeRest) -> Broadaxe:
    return Broadaxe(token=TOKEN, config=ClientConfig(server_url=rest.url))


@pytest.mark.parametrize(
    ("auth", "kind", "sent"),
    [
        (V1WebhookBasicAuth(username="u", password="p"), "BASIC", {"username": "u", "password": "p"}),
        (
            V1WebhookAPIKeyAuth(header_name="X-K", api_key="k"),
            "API_KEY",
            {"headerName": "X-K", "apiKey": "k"},
        ),
        (
            HMAC,
            "HMAC",
            {
                "algorithm": "SHA512",
                "encoding": "BASE64URL",
                "signatureHeaderName": "X-Signature",
                "signingSecret": "hush",
            },
        ),
    ],
)
def test_credentials_of_each_kind_are_sent_and_never_shown(
    rest: FakeRest, client: Broadaxe, auth: Any, kind: str, sent: dict[str, str]
) -> None:
    made = client.webhooks.create(V1WebhookSourceName.GENERIC, "hook", "input.type", auth)
    (call,) = rest.calls
    assert (call.method, call.path) == ("POST", BASE)
    assert call.body == {
        "sourceName": "GENERIC",
        "name": "hook",
        "eventKeyExpression": "input.type",
        "authType": kind,
        "auth": sent,
    }
    assert made.auth_type is V1WebhookAuthType.HMAC
    assert "hush" not in repr(auth)
    assert "'p'" not in repr(auth)


def test_a_webhook_is_read_changed_and_deleted_by_its_name(rest: FakeRest, client: Broadaxe) -> None:
    hooks = client.webhooks
    assert hooks.get("a b").name == "a b"
    hooks.update("a b", scope_expression="input.s", static_payload={"n": 1})
    hooks.update("a b", event_key_expression="'k'", return_event_as_response_payload=False)
    hooks.delete("a b")
    asyncio.run(hooks.aio_get("x/y"))
    assert [(call.method, call.path.removeprefix(BASE), call.body) for call in rest.calls] == [
        ("GET", "/a%20b", None),
        ("PATCH", "/a%20b", {"scopeExpression": "input.s", "staticPayload": {"n": 1}}),
        ("PATCH", "/a%20b", {"eventKeyExpression": "'k'", "returnEventAsResponsePayload": False}),
        ("DELETE", "/a%20b", None),
        ("GET", "/x%2Fy", None),
    ]
    assert hooks.url("a b") == f"{rest.url}{BASE}/a%20b"


def test_webhooks_are_listed_by_name_and_source(rest: FakeRest, client: Broadaxe) -> None:
    found = client.webhooks.list(
        limit=2, offset=1, webhook_names=["a b", "c"], source_names=[V1WebhookSourceName.SLACK]
    )
    assert [row.name for row in found.rows] == ["a b"]
    assert rest.calls[0].query == {
        "limit": ["2"],
        "offset": ["1"],
        "webhookNames": ["a b", "c"],
        "sourceNames": ["SLACK"],
    }


def test_refusals_are_raised_in_the_servers_words() -> None:
    def answer(call: Call) -> tuple[int, Any]:
        if call.method == "POST":
            return 400, {"errors": [{"description": "name: webhook 'a' exists already"}]}
        return 404, {"message": "webhook 'a' not found"}

    with FakeRest(answer) as rest:
        client = Broadaxe(token=TOKEN, config=ClientConfig(server_url=rest.url))
        with pytest.raises(RequestRefusedError, match="'a' exists already"):
            client.webhooks.create(V1WebhookSourceName.GENERIC, "a", "'k'", HMAC)
        with pytest.raises(NotFoundError, match="webhook 'a' not found"):
            client.webhooks.delete("a")
