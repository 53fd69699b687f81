"""Webhooks over REST: managed with a token, and deliveries without one."""

import base64
import hashlib
import hmac
import json
import re
from typing import Any

import pytest

from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.webhooks.directory import LOOKS_PER_SECOND
from tests.gateway.rest.fakes import NOW_TEXT, OTHER_TENANT, TENANT, Rest, T

SECRET = "It's a secret"


def body_of(name: str = "hook", **fields: Any) -> dict[str, Any]:
    return {
        "sourceName": "GENERIC",
        "name": name,
        "eventKeyExpression": "'made:' + input.type",
        "authType": "HMAC",
        "auth": {
            "algorithm": "SHA256",
            "encoding": "HEX",
            "signatureHeaderName": "X-Signature",
            "signingSecret": SECRET,
        },
    } | fields


def basic(name: str = "hook", **fields: Any) -> dict[str, Any]:
    auth = {"username": "ann", "password": "pass:word"}
    return body_of(name, authType="BASIC", auth=auth) | fields


async def create(rest: Rest, **fields: Any) -> Any:
    answer = await rest.post(f"{T}/webhooks", body_of(**fields))
    assert answer.status_code == 200, answer.text
    assert SECRET not in answer.text
    return answer.json()


async def deliver(rest: Rest, body: Any, name: str = "hook", **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    signature = hmac.new(SECRET.encode(), content, hashlib.sha256).hexdigest()
    given = {"X-Signature": signature, "Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    request = rest.client.build_request("POST", f"{T}/webhooks/{name}", content=content, headers=given)
    del request.headers["Authorization"]
    if "authorization" in headers:
        request.headers["Authorization"] = headers["authorization"]
    return await rest.client.send(request)


def refused(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    (error,) = answer.json()["errors"]
    return str(error["description"])


# ---------------------------------------------------------------- management


async def test_a_webhook_is_made_read_changed_and_deleted(rest: Rest) -> None:
    made = await create(
        rest, scopeExpression="headers['x-team']", staticPayload={"n": 1}, returnEventAsResponsePayload=False
    )
    assert made["metadata"]["id"] == "00000000-0000-0000-0000-000000000000"
    del made["metadata"]
    assert made == {
        "tenantId": TENANT,
        "name": "hook",
        "sourceName": "GENERIC",
        "eventKeyExpression": "'made:' + input.type",
        "scopeExpression": "headers['x-team']",
        "staticPayload": {"n": 1},
        "authType": "HMAC",
        "returnEventAsResponsePayload": False,
    }
    path = f"{T}/webhooks/hook"
    assert (await rest.get_json(path)) | {"metadata": None} == made | {"metadata": None}
    answer = await rest.client.patch(path, json={"eventKeyExpression": "'x'", "scopeExpression": None})
    changed = answer.json()
    assert (changed["eventKeyExpression"], changed["staticPayload"]) == ("'x'", {"n": 1})
    assert "scopeExpression" not in changed
    answer = await rest.client.patch(path, json={"staticPayload": None, "returnEventAsResponsePayload": True})
    assert "staticPayload" not in answer.json()
    assert answer.json()["returnEventAsResponsePayload"] is True
    deleted = await rest.client.delete(path)
    assert (deleted.status_code, deleted.json()["name"]) == (200, "hook")
    for method in ("GET", "DELETE", "PATCH"):
        gone = await rest.client.request(method, path, json={} if method == "PATCH" else None)
        assert (gone.status_code, gone.json()) == (404, {"message": "webhook 'hook' not found"})
    assert (await rest.get_json(f"{T}/webhooks")) == {"rows": []}


async def test_webhooks_are_listed_by_source_and_name(rest: Rest) -> None:
    for name, source in (("a", "GENERIC"), ("b b", "GITHUB"), ("c", "LINEAR")):
        await create(rest, name=name, sourceName=source)

    async def names(**params: Any) -> list[str]:
        return [row["name"] for row in (await rest.get_json(f"{T}/webhooks", **params))["rows"]]

    assert await names() == ["c", "b b", "a"]
    assert await names(limit=1, offset=1) == ["b b"]
    assert await names(sourceNames=["GITHUB", "LINEAR"]) == ["c", "b b"]
    assert await names(webhookNames=["a", "c"], sourceNames="LINEAR") == ["c"]
    assert (await rest.get(f"{T}/webhooks", sourceNames="GITLAB")).status_code == 400


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"eventKeyExpression": "input."}, "eventKeyExpression: CEL expression `input.` does not compile"),
        ({"eventKeyExpression": "1"}, "must be a string"),
        ({"eventKeyExpression": "payload.a"}, "there is no variable payload"),
        ({"eventKeyExpression": ""}, "eventKeyExpression: CEL expression `` does not compile: it is empty"),
        ({"eventKeyExpression": "'" + "x" * 10_000 + "'"}, "may have 10,000"),
        ({"scopeExpression": "header.a"}, "scopeExpression: .*did you mean headers"),
        ({"name": ""}, "name '' is not valid"),
        ({"name": "a/b"}, "name 'a/b' is not valid"),
        ({"name": ".."}, "name '..' is not valid"),
        ({"name": "a\x00"}, "is not valid"),
        ({"name": "x" * 201}, "at most 200"),
        ({"staticPayload": {"a": "x" * 70_000}}, "staticPayload has"),
        ({"staticPayload": {"a": "\x00"}}, "staticPayload holds an invalid null character"),
        (basic(sourceName="STRIPE"), "deliveries of source STRIPE are signed"),
        ({"sourceName": "SVIX"}, "auth.signingSecret is no secret of source SVIX"),
        (basic(auth={"username": "a:b", "password": "p"}), "auth.username holds a colon"),
        (basic(auth={"username": "", "password": "p"}), "auth.username is empty"),
        (basic(auth={"username": "a", "password": "p" * 5_000}), "auth.password has 5,000 characters"),
        (
            {"authType": "API_KEY", "auth": {"headerName": "no header", "apiKey": "k"}},
            "auth.headerName 'no header' is not the name of a header",
        ),
    ],
)
async def test_a_webhook_that_cannot_work_is_refused_naming_the_field(
    rest: Rest, fields: dict[str, Any], text: str
) -> None:
    answer = await rest.post(f"{T}/webhooks", body_of(**{"name": "hook", **fields}))
    assert re.search(text, refused(answer, 400)), answer.text
    assert not rest.webhooks.rows


@pytest.mark.parametrize(
    "fields",
    [
        {"authType": "NONE"},
        {"authType": "BASIC"},
        {"auth": None},
        {"sourceName": "GITLAB"},
        {"auth": {"algorithm": "SHA3"}},
        {"name": None},
    ],
)
async def test_what_fits_no_schema_is_refused_without_showing_secrets(
    rest: Rest, fields: dict[str, Any]
) -> None:
    answer = await rest.post(f"{T}/webhooks", body_of(**fields))
    assert answer.status_code == 400
    assert SECRET not in answer.text
    assert not rest.webhooks.rows


async def test_a_taken_name_is_a_clear_refusal(rest: Rest) -> None:
    await create(rest)
    answer = await rest.post(f"{T}/webhooks", body_of())
    assert "webhook 'hook' exists already" in refused(answer, 400)


async def test_management_needs_a_token_of_the_tenant(rest: Rest) -> None:
    await create(rest)
    other = T.replace(TENANT, OTHER_TENANT)
    for token in ("foreign", "bad"):
        headers = {"Authorization": f"Bearer {token}"}
        for method, path in (
            ("GET", f"{T}/webhooks"),
            ("POST", f"{T}/webhooks"),
            ("GET", f"{T}/webhooks/hook"),
            ("GET", f"{T}/webhooks/hook/refusals"),
            ("PATCH", f"{T}/webhooks/hook"),
            ("DELETE", f"{T}/webhooks/hook"),
        ):
            answer = await rest.client.request(method, path, json=body_of("b"), headers=headers)
            assert answer.status_code == 403, (method, path)
    assert (await rest.client.get(f"{other}/webhooks")).status_code == 403
    assert [row.name for row in rest.webhooks.rows.values()] == ["hook"]


# ---------------------------------------------------------------- deliveries


async def test_a_delivery_is_an_event(rest: Rest) -> None:
    await create(rest, scopeExpression="headers['x-team']", staticPayload={"env": "test"})
    answer = await deliver(rest, {"type": "a", "env": "x"}, X_Team="red")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["message"] == "ok"
    event = body["event"]
    assert event["metadata"] == {"id": event["metadata"]["id"], "createdAt": NOW_TEXT, "updatedAt": NOW_TEXT}
    assert (event["key"], event["scope"], event["tenantId"]) == ("made:a", "red", TENANT)
    assert event["payload"] == {"type": "a", "env": "test"}
    assert event["triggeringWebhookName"] == "hook"
    assert set(event["workflowRunSummary"].values()) == {0}
    (pushed,) = rest.engine.pushed
    assert (pushed.key, pushed.scope, json.loads(pushed.payload)) == (
        "made:a",
        "red",
        {"type": "a", "env": "test"},
    )


async def test_a_webhook_may_return_nothing(rest: Rest) -> None:
    await create(rest, returnEventAsResponsePayload=False)
    answer = await deliver(rest, {"type": "a"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert len(rest.engine.pushed) == 1


async def test_a_wrong_signature_changes_nothing_and_is_told(rest: Rest) -> None:
    await create(rest)
    for signature in ("0" * 64, "", "sha256="):
        text = refused(await deliver(rest, {"type": "a"}, X_Signature=signature), 403)
        assert "X-Signature" in text
        assert SECRET not in text
    assert not rest.engine.pushed
    rows = (await rest.get_json(f"{T}/webhooks/hook/refusals"))["rows"]
    assert {row["stage"] for row in rows} == {"VALIDATION"}
    assert rows[0]["at"] == NOW_TEXT


async def test_basic_credentials_in_the_header_of_tokens(rest: Rest) -> None:
    answer = await rest.post(f"{T}/webhooks", basic(eventKeyExpression="'k'"))
    assert answer.status_code == 200
    assert "pass:word" not in answer.text
    good = base64.b64encode(b"ann:pass:word").decode()
    assert (await deliver(rest, {}, authorization=f"Basic {good}")).status_code == 200
    bad = base64.b64encode(b"ann:pass").decode()
    refused(await deliver(rest, {}, authorization=f"Basic {bad}"), 403)
    # A token of the tenant is no credential of the webhook.
    refused(await deliver(rest, {}, authorization="Bearer good"), 403)


async def test_slack_is_answered_its_challenge_before_anything_is_checked(rest: Rest) -> None:
    await create(rest, sourceName="SLACK")
    answer = await deliver(rest, {"type": "url_verification", "challenge": "c-1"}, X_Signature="")
    assert (answer.status_code, answer.json()) == (200, {"challenge": "c-1"})
    assert not rest.engine.pushed


async def test_expressions_that_fail_are_told_and_noted(rest: Rest) -> None:
    await create(rest, scopeExpression="input.team")
    for body, stage, text in (
        ({"team": "t"}, "EVENT_KEY", "the event key expression must evaluate to a string"),
        ({"type": 1, "team": "t"}, "EVENT_KEY", "the event key expression must evaluate to a string"),
        ({"type": "a", "team": ["t"]}, "SCOPE", "the scope expression must evaluate to a string"),
        ({"type": "x" * 2_000, "team": "t"}, "EVENT_KEY", "expected at most 2,000"),
        (b"[]", "BODY", "no JSON object"),
    ):
        assert text in refused(await deliver(rest, body), 400)
        newest = (await rest.get_json(f"{T}/webhooks/hook/refusals"))["rows"][0]
        assert (newest["stage"], newest["status"]) == (stage, 400)
        assert text in newest["message"]
    assert not rest.engine.pushed


async def test_an_empty_key_is_refused(rest: Rest) -> None:
    await create(rest, eventKeyExpression="input.key")
    assert "empty key" in refused(await deliver(rest, {"key": ""}), 400)


async def test_refusals_are_bounded_and_repeats_counted(rest: Rest) -> None:
    await create(rest)
    for number in range(25):
        await deliver(rest, {"type": number})
        await deliver(rest, {"type": "a"}, X_Signature="0")
        rest.clock.now += 1
    await deliver(rest, {"type": "a"}, X_Signature="0")
    rows = (await rest.get_json(f"{T}/webhooks/hook/refusals"))["rows"]
    assert len(rows) == 20
    assert (rows[0]["repeats"], rows[1]["repeats"]) == (2, 1)
    await rest.client.delete(f"{T}/webhooks/hook")
    await create(rest)
    assert (await rest.get_json(f"{T}/webhooks/hook/refusals"))["rows"] == []
    assert (await rest.get(f"{T}/webhooks/other/refusals")).status_code == 404


async def test_a_limit_of_the_tenant_is_429(rest: Rest) -> None:
    await create(rest)
    rest.engine.refusal = Refused(Code.RESOURCE_EXHAUSTED, "EVENT: 10 of 10")
    assert refused(await deliver(rest, {"type": "a"}), 429) == "EVENT: 10 of 10"
    (row,) = (await rest.get_json(f"{T}/webhooks/hook/refusals"))["rows"]
    assert (row["stage"], row["status"]) == ("LIMIT", 429)


async def test_a_webhook_takes_fifty_a_second_and_a_hundred_at_once(rest: Rest) -> None:
    await create(rest)
    await create(rest, name="other")
    for _ in range(100):
        assert (await deliver(rest, {"type": "a"})).status_code == 200
    answer = await deliver(rest, {"type": "a"})
    assert answer.status_code == 429
    assert answer.json() == {
        "message": "webhook 'hook' takes 50 deliveries a second, 100 at once: send them later"
    }
    assert (await deliver(rest, {"type": "a"}, name="other")).status_code == 200
    rest.clock.now += 0.125
    statuses = [(await deliver(rest, {"type": "a"})).status_code for _ in range(7)]
    assert statuses == [200] * 6 + [429]


async def test_unknown_webhooks_are_404_and_guessing_is_rationed(rest: Rest) -> None:
    for name in ("nobody", "a%00b"):
        answer = await deliver(rest, {}, name=name)
        assert (answer.status_code, answer.json()) == (404, {"message": "not found"})
    foreign = await rest.client.post(f"{T.replace(TENANT, OTHER_TENANT)}/webhooks/hook", json={})
    assert (foreign.status_code, foreign.json()) == (404, {"message": "not found"})
    assert (await rest.client.post(f"{T.replace(TENANT, 'no-id')}/webhooks/hook", json={})).status_code == 400
    statuses = {(await deliver(rest, {}, name=f"n{n}")).status_code for n in range(LOOKS_PER_SECOND)}
    assert statuses == {404, 429}


async def test_a_body_may_be_as_large_as_a_message(rest: Rest) -> None:
    await create(rest)
    answer = await deliver(rest, {"type": "a", "fill": "x" * 900_000})
    assert answer.status_code == 200, answer.text
    assert (await deliver(rest, {"type": "a", "fill": "x" * 1_100_000})).status_code == 413
    assert len(rest.engine.pushed) == 1


async def test_a_form_starts_an_event(rest: Rest) -> None:
    await create(rest, eventKeyExpression="'form:' + input.command")
    answer = await deliver(rest, b"command=%2Fgo&text=now", Content_Type="application/x-www-form-urlencoded")
    assert answer.json()["event"]["key"] == "form:/go"
