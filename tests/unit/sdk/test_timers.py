"""Crons and scheduled runs of the SDK: what goes over gRPC and REST, and what is refused before anything is sent."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel

from broadaxe import (
    Broadaxe,
    ClientConfig,
    CronWorkflowsOrderByField,
    DefinitionError,
    InvalidInputError,
    Priority,
    RequestRefusedError,
    ScheduledRunStatus,
    ScheduledWorkflowsBulkUpdateItem,
    ScheduledWorkflowsOrderByField,
    ScheduleTriggerWorkflowOptions,
    TriggerWorkflowOptions,
    WorkflowRunOrderByDirection,
    WorkflowRunStatus,
)
from broadaxe.testing import in_memory
from tests.unit.sdk.clients import TOKEN, make_client
from tests.unit.sdk.fake_engine import FakeEngine
from tests.unit.sdk.fake_rest import META, TENANT, FakeRest

W = f"/api/v1/tenants/{TENANT}/workflows"
AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=timezone(timedelta(hours=1)))
AT_TEXT = "2026-01-02T02:04:05.678901Z"
CRON = {
    "metadata": META,
    "tenantId": TENANT,
    "workflowVersionId": "v",
    "workflowId": "w",
    "workflowName": "order",
    "cron": "@daily",
    "name": "nightly",
    "input": {"number": 1},
    "enabled": True,
    "method": "API",
}
SCHEDULED = {
    "metadata": META,
    "tenantId": TENANT,
    "workflowVersionId": "v",
    "workflowId": "w",
    "workflowName": "order",
    "triggerAt": AT_TEXT,
    "workflowRunCreatedAt": "0001-01-01T00:00:00Z",
    "workflowRunStatus": "FAILED",
    "method": "API",
    "errorMessage": "why",
}


class Order(BaseModel):
    number: int


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def server() -> Iterator[FakeRest]:
    with FakeRest(lambda call: (404, {})) as server:
        yield server


def answering(server: FakeRest, value: Any, status: int = 200, namespace: str = "") -> Broadaxe:
    server.answer = lambda call: (status, value)
    return Broadaxe(token=TOKEN, namespace=namespace, config=ClientConfig(server_url=server.url))


def order_task(client: Broadaxe, **settings: Any) -> Any:
    @client.task(name="order", **settings)
    def order(input: Order, ctx: Any) -> dict[str, int]:  # noqa: A002 - the documented name
        return {"number": input.number}

    return order


# ---------------------------------------------------------------- schedule


def test_schedule_sends_what_options_and_keywords_say_with_the_default_metadata(engine):
    with make_client(engine) as client:
        task = order_task(client, default_additional_metadata={"a": 1, "b": 1})
        options = ScheduleTriggerWorkflowOptions(additional_metadata={"b": 2}, priority=2, namespace="other")
        made = task.schedule(AT, Order(number=7), options, priority=Priority.HIGH)
    (request,) = engine.scheduled
    assert (request.name, request.input, request.priority) == ("other_order", '{"number":7}', 3)
    assert json.loads(request.additional_metadata) == {"a": 1, "b": 2}
    assert request.schedules[0].ToDatetime(tzinfo=UTC) == AT
    assert not request.HasField("parent_id")
    assert (made.id, made.workflow_id, made.workflow_version_id) == ("scheduled-0", "workflow", "version")
    assert made.scheduled_workflows[0].trigger_at == AT


async def test_the_asynchronous_form_and_options_of_a_run_do_the_same(engine):
    with make_client(engine) as client:
        task = order_task(client)
        await task.aio_schedule(AT, Order(number=7), TriggerWorkflowOptions(parent_id="p", child_index=3))
    (request,) = engine.scheduled
    assert (request.parent_id, request.child_index, request.additional_metadata) == ("p", 3, "{}")


def test_a_time_without_a_zone_is_local(engine):
    with make_client(engine) as client:
        order_task(client).schedule(AT.astimezone().replace(tzinfo=None), Order(number=7))
    assert engine.scheduled[0].schedules[0].ToDatetime(tzinfo=UTC) == AT


def test_what_cannot_be_sent_is_refused_before(engine):
    with make_client(engine) as client:
        task = order_task(client)
        for arguments, text in (
            ({"input": {"number": "many"}}, "number"),
            ({"input": Order(number=1), "priority": 4}, "priority is 4"),
            ({"input": Order(number=1), "additional_metadata": {"a": object()}}, "metadata"),
        ):
            with pytest.raises(InvalidInputError, match=text):
                task.schedule(AT, **arguments)
    assert engine.scheduled == []


def test_without_a_server_nothing_can_be_scheduled():
    client = Broadaxe(token=TOKEN)
    task = order_task(client)
    with in_memory(client, [task]), pytest.raises(RequestRefusedError, match="scheduling workflow"):
        task.schedule(AT, Order(number=1))


# ---------------------------------------------------------------- scheduled runs


def test_scheduled_runs_are_made_read_moved_and_deleted(server):
    client = answering(server, SCHEDULED, namespace="ns")
    made = client.scheduled.create("order", AT, {"n": 1}, {"a": "b"}, priority=2)
    assert (made.trigger_at, made.workflow_run_status, made.error_message) == (
        AT,
        WorkflowRunStatus.FAILED,
        "why",
    )
    client.scheduled.get("i")
    client.scheduled.update("i", AT)
    client.scheduled.delete("i")
    assert [(call.method, call.path) for call in server.calls] == [
        ("POST", f"{W}/ns_order/scheduled"),
        ("GET", f"{W}/scheduled/i"),
        ("PATCH", f"{W}/scheduled/i"),
        ("DELETE", f"{W}/scheduled/i"),
    ]
    assert server.calls[0].body == {
        "triggerAt": AT_TEXT,
        "input": {"n": 1},
        "additionalMetadata": {"a": "b"},
        "priority": 2,
    }
    assert server.calls[2].body == {"triggerAt": AT_TEXT}


def test_a_list_asks_with_every_filter(server):
    client = answering(server, {"rows": [SCHEDULED], "pagination": {"num_pages": 1}})
    page = client.scheduled.list(
        offset=1,
        limit=2,
        workflow_id="w",
        parent_workflow_run_id="p",
        statuses=[ScheduledRunStatus.SCHEDULED, ScheduledRunStatus.FAILED],
        additional_metadata={"a": "b", "n": 1, "t": True},
        order_by_field=ScheduledWorkflowsOrderByField.TRIGGERAT,
        order_by_direction=WorkflowRunOrderByDirection.ASC,
    )
    assert [row.workflow_name for row in page.rows] == ["order"]
    assert server.calls[0].query == {
        "offset": ["1"],
        "limit": ["2"],
        "workflowId": ["w"],
        "parentWorkflowRunId": ["p"],
        "statuses": ["SCHEDULED", "FAILED"],
        "additionalMetadata": ["a:b", "n:1", "t:true"],
        "orderByField": ["triggerAt"],
        "orderByDirection": ["ASC"],
    }


def test_bulk_calls_go_in_chunks_and_their_answers_are_joined(server):
    ids = [f"i{number}" for number in range(501)]
    client = answering(server, {"deletedIds": ["d"], "errors": [{"id": "x", "error": "why"}]})
    found = client.scheduled.bulk_delete(scheduled_ids=ids)
    assert [len(call.body["scheduledWorkflowRunIds"]) for call in server.calls] == [500, 1]
    assert (found.deleted_ids, [item.error for item in found.errors]) == (["d", "d"], ["why", "why"])
    server.calls.clear()
    client = answering(server, {"updatedIds": ["u"], "errors": []})
    items = [ScheduledWorkflowsBulkUpdateItem(id="a", trigger_at=AT), *((item, AT) for item in ids)]
    assert client.scheduled.bulk_update(items).updated_ids == ["u", "u"]
    assert server.calls[0].body["updates"][0] == {"id": "a", "triggerAt": AT_TEXT}


def test_a_filter_is_asked_until_nothing_is_left_and_statuses_are_looked_up(server):
    answers = iter([{"deletedIds": ["a"], "errors": []}, {"deletedIds": [], "errors": []}])
    client = answering(server, None)
    server.answer = lambda call: (200, next(answers))
    found = client.scheduled.bulk_delete(workflow_id="w", additional_metadata={"a": "b"})
    assert found.deleted_ids == ["a"]
    assert [call.body for call in server.calls] == [
        {"filter": {"workflowId": "w", "additionalMetadata": ["a:b"]}}
    ] * 2
    server.calls.clear()
    server.answer = lambda call: (
        200,
        {"rows": [SCHEDULED]} if call.method == "GET" else {"deletedIds": ["s"], "errors": []},
    )
    client.scheduled.bulk_delete(statuses=[ScheduledRunStatus.SCHEDULED])
    assert server.calls[0].query["statuses"] == ["SCHEDULED"]
    assert server.calls[1].body == {"scheduledWorkflowRunIds": [META["id"]]}
    with pytest.raises(ValueError, match="at least one filter"):
        client.scheduled.bulk_delete()


# ---------------------------------------------------------------- crons


def test_crons_are_made_listed_read_and_deleted(server):
    client = answering(server, CRON, namespace="ns")
    task = order_task(client, default_additional_metadata={"d": 1})
    made = asyncio.run(task.aio_create_cron("nightly", " @daily ", Order(number=1), {"a": "b"}, priority=3))
    assert (made.metadata.id, made.cron, made.enabled) == (META["id"], "@daily", True)
    assert (server.calls[0].method, server.calls[0].path) == ("POST", f"{W}/ns_order/crons")
    assert server.calls[0].body == {
        "cronName": "nightly",
        "cronExpression": "@daily",
        "input": {"number": 1},
        "additionalMetadata": {"d": 1, "a": "b"},
        "priority": 3,
    }
    client.cron.get("i")
    client.cron.delete("i")
    assert [(call.method, call.path) for call in server.calls[1:]] == [
        ("GET", f"{W}/crons/i"),
        ("DELETE", f"{W}/crons/i"),
    ]
    server.answer = lambda call: (200, {"rows": [CRON]})
    client.cron.list(
        offset=1,
        limit=2,
        workflow_id="w",
        additional_metadata={"a": "b"},
        order_by_field=CronWorkflowsOrderByField.NAME,
        order_by_direction=WorkflowRunOrderByDirection.DESC,
        workflow_name="order",
        cron_name="nightly",
    )
    assert server.calls[-1].query == {
        "offset": ["1"],
        "limit": ["2"],
        "workflowId": ["w"],
        "additionalMetadata": ["a:b"],
        "orderByField": ["name"],
        "orderByDirection": ["DESC"],
        "workflowName": ["ns_order"],
        "cronName": ["nightly"],
    }


@pytest.mark.parametrize(
    "text", ["", "* * * *", "* * * * * * *", "@reboot", "* * * * !", "at noon on every day"]
)
def test_what_is_no_expression_is_refused_before_it_is_sent_or_declared(server, text):
    client = answering(server, CRON)
    with pytest.raises(InvalidInputError, match=r"cron 'c': cron expression .* is not valid"):
        client.cron.create("order", "c", text, {}, {})
    with pytest.raises(DefinitionError, match="workflow 'order': on_crons"):
        order_task(client, on_crons=[text])
    assert server.calls == []


@pytest.mark.parametrize(
    "text", ["*/5 * * * *", "0 9 * * MON-FRI", "30 * * * * *", "TZ=Europe/Berlin 0 9 * * *"]
)
def test_every_form_of_an_expression_may_be_declared(server, text):
    task = order_task(answering(server, CRON), on_crons=[text])
    assert list(task.to_wire().cron_triggers) == [text]
