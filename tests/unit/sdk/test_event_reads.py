"""Event history, filters and the trial of expressions of the SDK, as they travel over REST."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from broadaxe import (
    Broadaxe,
    CELFailure,
    CELSuccess,
    ClientConfig,
    InvalidInputError,
    RequestRefusedError,
    V1TaskStatus,
    V1UpdateFilterRequest,
)
from tests.unit.sdk.clients import TOKEN
from tests.unit.sdk.fake_rest import META, TENANT, FakeRest

T = f"/api/v1/stable/tenants/{TENANT}"
EVENT = {
    "metadata": META,
    "key": "dev_order:created",
    "tenantId": TENANT,
    "workflowRunSummary": {"running": 0, "queued": 1, "succeeded": 2, "failed": 0, "cancelled": 0},
    "additionalMetadata": {"a": "b"},
    "payload": {"n": 1},
    "scope": "s",
    "seenAt": META["createdAt"],
    "triggeredRuns": [{"workflowRunId": META["id"], "filterId": META["id"]}, {"workflowRunId": META["id"]}],
    "triggeringWebhookName": "stripe",
    "filterErrors": [{"filterId": META["id"], "workflowId": META["id"], "error": "no such key"}],
}
FILTER = {
    "metadata": META,
    "tenantId": TENANT,
    "workflowId": META["id"],
    "scope": "s",
    "expression": "true",
    "payload": {"a": 1},
    "isDeclarative": True,
}


@pytest.fixture
def server() -> Iterator[FakeRest]:
    with FakeRest(lambda call: (404, {})) as server:
        yield server


def answering(server: FakeRest, value: Any, status: int = 200) -> Broadaxe:
    server.answer = lambda call: (status, value)
    return Broadaxe(token=TOKEN, namespace="dev", config=ClientConfig(server_url=server.url))


def test_events_are_listed_by_every_filter(server):
    client = answering(server, {"rows": [EVENT], "pagination": {"current_page": 1}})
    page = client.event.list(
        offset=1,
        limit=2,
        keys=["order:created", "dev_k"],
        since=datetime(2026, 1, 2, tzinfo=UTC),
        until=datetime(2026, 1, 3, tzinfo=UTC),
        workflow_ids=["w"],
        workflow_run_statuses=[V1TaskStatus.FAILED],
        event_ids=["e"],
        additional_metadata={"a": "b:c"},
        scopes=["s", "t"],
    )
    (call,) = server.calls
    assert (call.method, call.path) == ("GET", f"{T}/events")
    assert call.query == {
        "offset": ["1"],
        "limit": ["2"],
        "keys": ["dev_order:created", "dev_k"],
        "since": ["2026-01-02T00:00:00.000000Z"],
        "until": ["2026-01-03T00:00:00.000000Z"],
        "workflowIds": ["w"],
        "workflowRunStatuses": ["FAILED"],
        "eventIds": ["e"],
        "additionalMetadata": ["a:b:c"],
        "scopes": ["s", "t"],
    }
    (event,) = page.rows
    assert (event.key, event.payload, event.triggering_webhook_name) == (
        "dev_order:created",
        {"n": 1},
        "stripe",
    )
    assert [run.filter_id for run in event.triggered_runs] == [META["id"], None]
    assert event.workflow_run_summary.succeeded == 2
    assert event.filter_errors[0].error == "no such key"


def test_an_event_and_the_keys_are_read(server):
    client = answering(server, EVENT)
    assert asyncio.run(client.event.aio_get("e")).scope == "s"
    assert server.calls[-1].path == f"{T}/events/e"
    client = answering(server, {"rows": ["a", "b"]})
    assert client.event.keys() == ["a", "b"]
    assert server.calls[-1].path == f"{T}/events/keys"


def test_filters_are_created_listed_read_changed_and_deleted(server):
    client = answering(server, FILTER)
    made = client.filters.create("w", "input.n > 1", "s", {"a": 1})
    assert (made.payload, made.is_declarative) == ({"a": 1}, True)
    assert (server.calls[-1].method, server.calls[-1].path) == ("POST", f"{T}/filters")
    assert server.calls[-1].body == {
        "workflowId": "w",
        "expression": "input.n > 1",
        "scope": "s",
        "payload": {"a": 1},
    }
    client.filters.update("f", V1UpdateFilterRequest(scope="t"))
    assert (server.calls[-1].method, server.calls[-1].path) == ("PATCH", f"{T}/filters/f")
    assert server.calls[-1].body == {"scope": "t"}
    assert client.filters.get("f").expression == "true"
    assert asyncio.run(client.filters.aio_delete("f")).scope == "s"
    assert (server.calls[-1].method, server.calls[-1].path) == ("DELETE", f"{T}/filters/f")
    client = answering(server, {"rows": [FILTER]})
    assert len(client.filters.list(limit=1, offset=2, workflow_ids=["w"], scopes=["s"]).rows) == 1
    assert server.calls[-1].query == {"limit": ["1"], "offset": ["2"], "workflowIds": ["w"], "scopes": ["s"]}


def test_what_is_wrong_with_a_filter_is_told_where_it_is_made(server):
    client = answering(server, {"errors": [{"description": "does not compile"}]}, 400)
    with pytest.raises(RequestRefusedError, match="does not compile"):
        client.filters.create("w", "input.(", "s")
    count = len(server.calls)
    with pytest.raises(InvalidInputError, match="payload of a filter"):
        client.filters.create("w", "true", "s", {"a": object()})
    assert len(server.calls) == count


def test_a_tried_expression_gives_a_value_or_a_reason(server):
    client = answering(server, {"status": "SUCCESS", "output": True})
    found = client.cel.debug("input.a", {"a": 1}, {"b": "c"}, {"d": 2})
    assert found.result == CELSuccess(output=True)
    assert server.calls[-1].path == f"{T}/cel/debug"
    assert server.calls[-1].body == {
        "expression": "input.a",
        "input": {"a": 1},
        "additionalMetadata": {"b": "c"},
        "filterPayload": {"d": 2},
    }
    client = answering(server, {"status": "ERROR", "error": "no such key"})
    assert asyncio.run(client.cel.aio_debug("input.b", {})).result == CELFailure(error="no such key")
