"""Webhooks on a real server: a delivery starts runs, by our SDK's client and by an unmodified hatchet-sdk's, and over a restart."""

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broadaxe import (
    Broadaxe,
    ClientConfig,
    ClientTLSConfig,
    RequestRefusedError,
    V1WebhookHMACAuth,
    V1WebhookSourceName,
)
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.wire import BareWorker, Wire, unique
from tests.processes import PYTHON, ROLES, Process, Server, closing, server_directory

pytestmark = pytest.mark.timeout(180)

SECRET = "whsec_test"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with server_directory() as directory, closing(one := Server(directory)):
        yield one.start()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    bare = Wire(server.grpc_address, server.token)
    yield bare
    bare.close()


@pytest.fixture
def client(server: Server) -> Iterator[Broadaxe]:
    with client_of(server) as client:
        yield client


def client_of(server: Server) -> Broadaxe:
    return Broadaxe(
        token=server.token,
        host_port=server.grpc_address,
        config=ClientConfig(server_url=server.http_url, tls_config=ClientTLSConfig(strategy="none")),
    )


def auth(header: str, secret: str = SECRET) -> V1WebhookHMACAuth:
    return V1WebhookHMACAuth(signature_header_name=header, signing_secret=secret)


def put(wire: Wire, name: str, *events: str) -> str:
    """Registers a workflow of one task that these events start; its action."""
    task = v1.CreateTaskOpts(readable_id="only", action=f"{name}:only", timeout="60s", schedule_timeout="5m")
    wire.put(v1.CreateWorkflowVersionRequest(name=name, tasks=[task], event_triggers=events))
    return task.action


def sign(text: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def stripe(url: str, body: dict[str, Any], *, at: int | None = None, secret: str = SECRET) -> httpx.Response:
    content, at = json.dumps(body).encode(), int(time.time()) if at is None else at
    signature = sign(f"{at}.".encode() + content, secret)
    headers = {"Stripe-Signature": f"t={at},v1={signature}", "Content-Type": "application/json"}
    return httpx.post(url, content=content, headers=headers, timeout=20)


def test_a_delivery_starts_a_run(client: Broadaxe, wire: Wire) -> None:
    name = unique("paid")
    client.webhooks.create(
        V1WebhookSourceName.STRIPE,
        name,
        f"'{name}:' + input.type",
        auth("Stripe-Signature"),
        static_payload={"env": "test"},
    )
    action = put(wire, name, f"{name}:invoice.paid")
    worker = BareWorker(wire, action)
    try:
        url = client.webhooks.url(name)
        answer = stripe(url, {"type": "invoice.paid", "amount": 5})
        assert answer.status_code == 200, answer.text
        started = worker.next()
        assert json.loads(started.action_payload)["input"] == {
            "type": "invoice.paid",
            "amount": 5,
            "env": "test",
        }
        event = answer.json()["event"]
        metadata = json.loads(started.additional_metadata)
        assert metadata["hatchet__event_id"] == event["metadata"]["id"]
        assert metadata["hatchet__event_key"] == event["key"] == f"{name}:invoice.paid"
        assert event["triggeringWebhookName"] == name
        wire.complete(started)
        for refused, status in (
            (stripe(url, {"type": "invoice.paid"}, secret="other"), 403),
            (stripe(url, {"type": "invoice.paid"}, at=int(time.time()) - 601), 400),
            (stripe(url, {"amount": 5}), 400),
        ):
            assert refused.status_code == status, refused.text
        assert worker.stream.silent_for(0.2)
        stages = [item.stage for item in client.webhooks.list_refusals(name)]
        assert stages == ["EVENT_KEY", "VALIDATION", "VALIDATION"]
    finally:
        worker.close()


def test_a_slash_command_of_slack_starts_a_run(client: Broadaxe, wire: Wire) -> None:
    name = unique("slack")
    client.webhooks.create(
        V1WebhookSourceName.SLACK, name, f"'{name}:' + input.command", auth("X-Slack-Signature")
    )
    url = client.webhooks.url(name)
    challenge = httpx.post(url, json={"type": "url_verification", "challenge": "c"}, timeout=20)
    assert (challenge.status_code, challenge.json()) == (200, {"challenge": "c"})
    worker = BareWorker(wire, put(wire, name, f"{name}:/deploy"))
    try:
        body, at = b"command=%2Fdeploy&text=production", int(time.time())
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Slack-Request-Timestamp": str(at),
            "X-Slack-Signature": "v0=" + sign(f"v0:{at}:".encode() + body),
        }
        assert httpx.post(url, content=body, headers=headers, timeout=20).status_code == 200
        started = worker.next()
        assert json.loads(started.action_payload)["input"] == {"command": "/deploy", "text": "production"}
        wire.complete(started)
    finally:
        worker.close()


def test_an_expression_that_takes_too_long_is_refused(client: Broadaxe) -> None:
    name = unique("slow")
    items = "input.items.all(a, input.items.all(b, input.items.all(c, a + b + c >= 0.0)))"
    client.webhooks.create(
        V1WebhookSourceName.GENERIC, name, f"{items} ? 'all' : 'some'", auth("X-Signature")
    )
    body = json.dumps({"items": list(range(200))}).encode()
    answer = httpx.post(
        client.webhooks.url(name), content=body, headers={"X-Signature": sign(body)}, timeout=20
    )
    assert answer.status_code == 400
    assert "it took longer than 50 ms" in answer.json()["errors"][0]["description"]


def test_webhooks_outlive_the_engine_and_a_lost_key_is_told(tmp_path: Path) -> None:
    with server_directory() as directory, closing(server := Server(directory)):
        server.start()
        with client_of(server) as client:
            client.webhooks.create(V1WebhookSourceName.STRIPE, "hook", "input.type", auth("Stripe-Signature"))
            url = client.webhooks.url("hook")
        server.kill9()
        server.restart()
        assert stripe(url, {"type": "a"}).status_code == 200
        keyset = server.data_dir / "master_keyset.json"
        old = keyset.read_text()
        server.process.stop()
        keyset.unlink()
        server.start()
        answer = stripe(url, {"type": "a"})
        assert answer.status_code == 500
        assert "secret cannot be opened" in answer.json()["message"]
        server.process.wait_for_line("webhook 'hook' of tenant .* SERVER_ENCRYPTION_MASTER_KEYSET")
        assert SECRET not in server.process.output()
        # The new key in front, the old one behind: what the old one sealed is sealed anew, and the old one can go.
        server.process.stop()
        new = keyset.read_text()
        keys = [*json.loads(new)["keys"], *json.loads(old)["keys"]]
        keyset.write_text(json.dumps({"keys": keys}))
        server.start()
        assert stripe(url, {"type": "a"}).status_code == 200
        server.process.stop()
        keyset.write_text(new)
        server.start()
        assert stripe(url, {"type": "a"}).status_code == 200


def test_the_webhooks_client_of_hatchet_sdk_manages_them(server: Server, tmp_path: Path) -> None:
    process = Process(
        [PYTHON, str(ROLES / "hatchet_features.py")],
        name="features",
        directory=tmp_path,
        env=server.client_environment(),
    )
    with process:
        assert process.receive(timeout=60)["ready"]

        def call(method: str, **given: Any) -> Any:
            return process.call(do=f"webhooks.{method}", timeout=60, **{"with": given})

        name = unique("theirs")
        made = call(
            "create",
            source_name="GITHUB",
            name=name,
            event_key_expression="'github:' + headers['x-github-event']",
            auth={
                "hmac": {
                    "algorithm": "SHA256",
                    "encoding": "HEX",
                    "signatureHeaderName": "X-Hub-Signature-256",
                    "signingSecret": SECRET,
                }
            },
            static_payload={"from": "github"},
        )["value"]
        assert (made["name"], made["sourceName"], made["authType"]) == (name, "GITHUB", "HMAC")
        assert call("get", webhook_name=name)["value"] == made
        changed = call("update", webhook_name=name, scope_expression="input.action")["value"]
        assert (changed["scopeExpression"], changed["staticPayload"]) == ("input.action", {"from": "github"})
        (listed,) = call("list", webhook_names=[name], source_names=["GITHUB"])["value"]["rows"]
        assert listed == changed
        content = b'{"action":"opened"}'
        answer = httpx.post(
            f"{server.http_url}/api/v1/stable/tenants/{made['tenantId']}/webhooks/{name}",
            content=content,
            headers={"X-Hub-Signature-256": f"sha256={sign(content)}", "X-GitHub-Event": "pull_request"},
            timeout=20,
        )
        event = answer.json()["event"]
        assert (event["key"], event["scope"]) == ("github:pull_request", "opened")
        assert event["payload"] == {"action": "opened", "from": "github"}
        assert call("delete", webhook_name=name)["value"] == changed
        assert call("delete", webhook_name=name)["raised"] == "NotFoundException"
        again = {
            "source_name": "GENERIC",
            "name": unique("basic"),
            "event_key_expression": "'k'",
            "auth": {"basic": {"username": "u", "password": "p"}},
        }
        assert call("create", **again)["value"]["authType"] == "BASIC"
        assert "exists already" in call("create", **again)["text"]


def test_a_delivery_to_nobody_and_a_bad_definition_are_refused(client: Broadaxe) -> None:
    answer = httpx.post(client.webhooks.url("nobody"), json={}, timeout=20)
    assert (answer.status_code, answer.json()) == (404, {"message": "not found"})
    with pytest.raises(RequestRefusedError, match="eventKeyExpression: CEL expression"):
        client.webhooks.create(V1WebhookSourceName.GENERIC, "bad", "input +", auth("X-Signature"))
