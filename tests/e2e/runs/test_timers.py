"""Crons and scheduled runs through a real server, by our SDK: what fires when, with what, and how it is managed."""

# ruff: noqa: A002 - `input` is the documented name

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from pydantic import BaseModel

from broadaxe import (
    Broadaxe,
    ClientConfig,
    ClientTLSConfig,
    Context,
    EmptyModel,
    InvalidInputError,
    NotFoundError,
    RequestRefusedError,
    ScheduledRunStatus,
    ScheduledWorkflowsBulkUpdateItem,
    ScheduledWorkflowsOrderByField,
    ScheduleTriggerWorkflowOptions,
    Standalone,
    WorkflowRunOrderByDirection,
    WorkflowRunStatus,
)
from broadaxe.models_timers import CronWorkflowsMethod, CronWorkflowsOrderByField
from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire import workflows_pb2 as v0
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.wire import BareWorker, unique
from tests.e2e.runs.stage import Stage
from tests.processes import Server, wait_until

pytestmark = pytest.mark.timeout(120)
FAR = timedelta(days=30)
YEARLY = "0 0 1 1 *"


class Order(BaseModel):
    number: int = 0


@pytest.fixture
def client(server: Server) -> Iterator[Broadaxe]:
    config = ClientConfig(server_url=server.http_url, tls_config=ClientTLSConfig(strategy="none"))
    with Broadaxe(token=server.token, host_port=server.grpc_address, config=config) as one:
        yield one


@pytest.fixture
def spaced(server: Server) -> Iterator[Broadaxe]:
    """With a namespace."""
    config = ClientConfig(
        server_url=server.http_url, namespace="timed", tls_config=ClientTLSConfig(strategy="none")
    )
    with Broadaxe(token=server.token, host_port=server.grpc_address, config=config) as one:
        yield one


def declared(client: Broadaxe, **settings: object) -> Standalone[Order, dict[str, int]]:
    """A standalone task of ours; a bare worker serves it."""

    @client.task(name=unique("timed"), **settings)  # type: ignore[arg-type]
    def task(input: Order, ctx: Context) -> dict[str, int]:
        return {"number": input.number}

    return task


def served(stage: Stage, task: Standalone[Order, dict[str, int]]) -> BareWorker:
    request = task.to_wire()
    stage.wire.put(request)
    return stage.worker(request.tasks[0].action.lower(), slots=100)


def metadata_of(action: dispatcher.AssignedAction) -> dict[str, object]:
    found: dict[str, object] = json.loads(action.additional_metadata)
    return found


def now() -> datetime:
    return datetime.now(UTC)


# ---------------------------------------------------------------- scheduled runs


def test_a_task_is_scheduled_with_options_and_keywords_and_runs_on_time(
    stage: Stage, client: Broadaxe
) -> None:
    task = declared(client, default_additional_metadata={"from": "default", "who": "default"})
    worker = served(stage, task)
    at = now() + timedelta(seconds=1)
    options = ScheduleTriggerWorkflowOptions(additional_metadata={"who": "options"}, priority=2)
    made = task.schedule(at, Order(number=7), options, priority=3)
    assert made.scheduled_workflows[0].trigger_at == at
    before = client.scheduled.get(made.id)
    assert (before.workflow_run_id, before.workflow_run_status) == (None, None)
    assert (before.input, before.priority, before.trigger_at) == ({"number": 7}, 3, at)
    started = worker.next()
    late = now() - at
    assert timedelta(0) <= late < timedelta(seconds=1)
    assert (started.priority, json.loads(started.action_payload)["input"]) == (3, {"number": 7})
    assert {"from": "default", "who": "options"}.items() <= metadata_of(started).items()
    stage.wire.complete(started)
    stage.wait_for_status(started.workflow_run_id, "COMPLETED")
    after = client.scheduled.get(made.id)
    assert after.workflow_run_id == started.workflow_run_id
    assert after.workflow_run_status is WorkflowRunStatus.SUCCEEDED
    assert after.workflow_run_name
    assert after.workflow_run_created_at is not None
    assert timedelta(0) <= after.workflow_run_created_at - at < timedelta(milliseconds=500)


async def test_the_asynchronous_forms_do_the_same(stage: Stage, client: Broadaxe) -> None:
    task = declared(client)
    await asyncio.to_thread(served, stage, task)
    made = await task.aio_schedule(now() + FAR, Order(number=1), additional_metadata={"a": "b"})
    assert (await client.scheduled.aio_get(made.id)).additional_metadata == {"a": "b"}
    later = now() + 2 * FAR
    assert (await client.scheduled.aio_update(made.id, later)).trigger_at == later
    cron = await task.aio_create_cron("nightly", "@daily", Order(number=2))
    assert (await client.cron.aio_get(cron.metadata.id)).input == {"number": 2}
    listed = await client.cron.aio_list(workflow_name=task.name)
    assert [row.name for row in listed.rows or []] == ["nightly"]
    await client.cron.aio_delete(cron.metadata.id)
    await client.scheduled.aio_delete(made.id)
    with pytest.raises(NotFoundError, match="is not known"):
        await client.scheduled.aio_update(made.id, later)


def test_a_time_that_has_passed_runs_at_once(stage: Stage, client: Broadaxe) -> None:
    task = declared(client)
    worker = served(stage, task)
    made = client.scheduled.create(task.base_name, now() - timedelta(hours=1), {"number": 1}, {"k": "v"})
    started = worker.next()
    assert client.scheduled.get(made.metadata.id).workflow_run_id == started.workflow_run_id
    with pytest.raises(RequestRefusedError, match="triggered already"):
        client.scheduled.update(made.metadata.id, now() + FAR)
    client.scheduled.delete(made.metadata.id)
    stage.wire.complete(started)


def test_a_moved_and_a_deleted_run(stage: Stage, client: Broadaxe) -> None:
    task = declared(client)
    worker = served(stage, task)
    moved, gone = (task.schedule(now() + FAR) for _ in range(2))
    client.scheduled.delete(gone.id)
    with pytest.raises(NotFoundError):
        client.scheduled.delete(gone.id)
    client.scheduled.update(moved.id, now() + timedelta(milliseconds=300))
    started = worker.next()
    assert client.scheduled.get(moved.id).workflow_run_id == started.workflow_run_id
    assert worker.stream.silent_for(0.5)


def test_many_are_moved_and_deleted_at_once(stage: Stage, client: Broadaxe) -> None:
    task = declared(client)
    worker = served(stage, task)
    done = task.schedule(now() - timedelta(seconds=1), additional_metadata={"batch": "x"})
    worker.next()
    ids = [task.schedule(now() + FAR, additional_metadata={"batch": "x", "n": n}).id for n in range(6)]
    later = now() + 2 * FAR
    answer = client.scheduled.bulk_update(
        [(ids[0], later), ScheduledWorkflowsBulkUpdateItem(id=ids[1], trigger_at=later), (done.id, later)]  # type: ignore[list-item]
    )
    assert answer.updated_ids == ids[:2]
    (error,) = answer.errors
    assert (error.id, "triggered already" in error.error) == (done.id, True)
    assert client.scheduled.get(ids[1]).trigger_at == later
    unknown = "0196a1b2-0000-7000-8000-000000000001"
    deleted = client.scheduled.bulk_delete(scheduled_ids=[ids[0], unknown])
    assert (deleted.deleted_ids, [item.id for item in deleted.errors]) == ([ids[0]], [unknown])
    assert client.scheduled.bulk_delete(additional_metadata={"batch": "x", "n": 1}).deleted_ids == [ids[1]]
    workflow_id = client.scheduled.get(ids[2]).workflow_id
    waiting = client.scheduled.bulk_delete(workflow_id=workflow_id, statuses=[ScheduledRunStatus.SCHEDULED])
    assert sorted(waiting.deleted_ids) == sorted(ids[2:])
    rest = client.scheduled.bulk_delete(workflow_id=workflow_id)
    assert (rest.deleted_ids, rest.errors) == ([done.id], [])
    assert client.scheduled.bulk_delete(workflow_id=workflow_id).deleted_ids == []
    for arguments in ({}, {"scheduled_ids": ids, "workflow_id": workflow_id}):
        with pytest.raises(ValueError, match="bulk_delete"):
            client.scheduled.bulk_delete(**arguments)  # type: ignore[arg-type]


def test_lists_are_narrowed_and_ordered(stage: Stage, client: Broadaxe) -> None:
    task = declared(client)
    worker = served(stage, task)
    marker = unique("list")
    waits = [task.schedule(now() + FAR * n, additional_metadata={"m": marker}).id for n in (2, 1)]
    ran = task.schedule(now(), additional_metadata={"m": marker}).id
    started = worker.next()
    workflow_id = client.scheduled.get(ran).workflow_id
    stage.wait_for_status(started.workflow_run_id, "RUNNING")

    def ids(**arguments: object) -> list[str]:
        found = client.scheduled.list(workflow_id=workflow_id, **arguments)  # type: ignore[arg-type]
        return [row.metadata.id for row in found.rows or []]

    by_time = [waits[0], waits[1], ran]
    assert ids() == by_time
    assert ids(order_by_direction=WorkflowRunOrderByDirection.ASC) == by_time[::-1]
    created = ScheduledWorkflowsOrderByField.CREATEDAT
    assert ids(order_by_field=created) == [ran, waits[1], waits[0]]
    assert ids(order_by_field=created, order_by_direction=WorkflowRunOrderByDirection.ASC) == [*waits, ran]
    assert ids(statuses=[ScheduledRunStatus.SCHEDULED]) == waits
    assert ids(statuses=[ScheduledRunStatus.RUNNING]) == [ran]
    assert ids(statuses=[ScheduledRunStatus.RUNNING, ScheduledRunStatus.SCHEDULED]) == by_time
    assert ids(statuses=[ScheduledRunStatus.FAILED]) == ids(statuses=[ScheduledRunStatus.PENDING]) == []
    assert ids(limit=1, offset=1) == [waits[1]]
    found = client.scheduled.list(additional_metadata={"m": marker}, limit=2)
    assert [row.metadata.id for row in found.rows or []] == waits
    assert found.pagination is not None
    assert (found.pagination.num_pages, found.pagination.next_page) == (2, 2)
    assert (
        stage.rest.raw(
            "GET", f"tenants/{stage.rest.tenant}/workflows/scheduled", params={"additionalMetadata": "a:b:c"}
        ).status_code
        == 400
    )
    stage.wire.fail(started, "no")
    stage.wait_for_status(started.workflow_run_id, "FAILED")
    assert ids(statuses=[ScheduledRunStatus.FAILED]) == [ran]


def test_a_scheduled_run_is_run_now_over_rest(stage: Stage, client: Broadaxe) -> None:
    task = declared(client)
    worker = served(stage, task)
    made = task.schedule(now() + FAR)
    path = f"tenants/{stage.rest.tenant}/workflows/scheduled/{made.id}"
    run_id = stage.rest.post(path, {})["externalId"]
    assert worker.next().workflow_run_id == run_id
    assert client.scheduled.get(made.id).workflow_run_id == run_id
    again = stage.rest.raw("POST", path, json={})
    assert (again.status_code, "triggered already" in again.text) == (400, True)


def test_what_cannot_be_scheduled_is_refused_with_the_reason(stage: Stage, client: Broadaxe) -> None:
    task = declared(client)
    with pytest.raises(NotFoundError, match=r"workflow not found: .*is not registered"):
        task.schedule(now())
    served(stage, task)
    for made, text in (
        (lambda: task.schedule(now(), priority=4), "priority is 4"),
        (lambda: client.scheduled.create(task.name, now(), {}, {}, priority=0), "priority is 0"),
        (lambda: client.scheduled.create("nobody", now(), {}, {}), "'nobody' is not registered"),
        (lambda: client.scheduled.create(task.name, now(), {"a": object()}, {}), "written as JSON"),
        (lambda: task.schedule(now(), {"number": "many"}), "number"),  # type: ignore[arg-type]
    ):
        with pytest.raises((InvalidInputError, RequestRefusedError), match=text):
            made()
    request = v0.ScheduleWorkflowRequest(
        name=task.name, input="{}", parent_id="0196a1b2-0000-7000-8000-000000000001"
    )
    request.schedules.add().GetCurrentTime()
    with pytest.raises(grpc.RpcError) as refused:
        stage.wire.unary("/WorkflowService/ScheduleWorkflow", request, v0.WorkflowVersion)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "parent_id is given without" in refused.value.details()


def test_one_call_schedules_several_times_in_their_order(stage: Stage, client: Broadaxe) -> None:
    task = declared(client)
    served(stage, task)
    request = v0.ScheduleWorkflowRequest(name=task.name, input="{}", additional_metadata='{"a":"b"}')
    times = [now() + FAR * n for n in (3, 1, 2)]
    for time in times:
        request.schedules.add().FromDatetime(time)
    answer = stage.wire.unary("/WorkflowService/ScheduleWorkflow", request, v0.WorkflowVersion)
    assert [item.trigger_at.ToDatetime(tzinfo=UTC) for item in answer.scheduled_workflows] == times
    rows = [client.scheduled.get(item.id) for item in answer.scheduled_workflows]
    assert [row.trigger_at for row in rows] == times
    assert {(row.workflow_id, row.workflow_version_id) for row in rows} == {(answer.workflow_id, answer.id)}


def test_a_run_whose_key_is_taken_is_not_made_and_says_so(stage: Stage, client: Broadaxe) -> None:
    task = declared(client)
    request = task.to_wire()
    request.idempotency.CopyFrom(v1.IdempotencyConfig(expression="string(input.number)", ttl_ms=600_000))
    stage.wire.put(request)
    worker = stage.worker(request.tasks[0].action.lower())
    first = task.schedule(now())
    holder = worker.next().workflow_run_id
    second = task.schedule(now())
    wait_until(lambda: client.scheduled.get(second.id).error_message, what="the reason", timeout=10)
    row = client.scheduled.get(second.id)
    assert (row.workflow_run_id, row.workflow_run_status) == (None, WorkflowRunStatus.FAILED)
    assert holder in (row.error_message or "")
    workflow_id = client.scheduled.get(first.id).workflow_id
    listed = client.scheduled.list(workflow_id=workflow_id, statuses=[ScheduledRunStatus.FAILED])
    assert [item.metadata.id for item in listed.rows or []] == [second.id]


# ---------------------------------------------------------------- crons


def test_a_declared_cron_with_seconds_runs_its_task_with_its_input(stage: Stage, client: Broadaxe) -> None:
    task = declared(client, on_crons=["*/2 * * * * *"], cron_input=Order(number=3))
    worker = served(stage, task)
    first, second = worker.next(), worker.next()
    ticks = [
        datetime.fromisoformat(str(metadata_of(action)["hatchet__cron_scheduled_at"]))
        for action in (first, second)
    ]
    assert ticks[1] - ticks[0] == timedelta(seconds=2)
    assert {tick.second % 2 for tick in ticks} == {0}
    assert timedelta(0) <= now() - ticks[1] < timedelta(seconds=1)
    assert metadata_of(first)["hatchet__cron_expression"] == "*/2 * * * * *"
    assert json.loads(first.action_payload)["input"] == {"number": 3}
    (row,) = client.cron.list(workflow_name=task.name).rows or []
    assert (row.cron, row.name, row.method, row.enabled) == (
        "*/2 * * * * *",
        "",
        CronWorkflowsMethod.DEFAULT,
        True,
    )
    assert row.input == {"number": 3}
    # The next registration replaces it.
    request = task.to_wire()
    request.cron_triggers[:] = [YEARLY]
    stage.wire.put(request)
    (row,) = client.cron.list(workflow_name=task.name).rows or []
    assert row.cron == YEARLY


def test_a_cron_made_by_the_client_outlives_registrations_and_restores_its_state(
    stage: Stage, client: Broadaxe
) -> None:
    task = declared(client, on_crons=[YEARLY], default_additional_metadata={"d": 1})
    worker = served(stage, task)
    made = task.create_cron("fast", "* * * * * *", Order(number=5), {"a": "b"}, priority=3)
    assert (made.method, made.priority, made.enabled) == (CronWorkflowsMethod.API, 3, True)
    started = worker.next()
    assert (started.priority, json.loads(started.action_payload)["input"]) == (3, {"number": 5})
    assert {"a": "b", "d": 1, "hatchet__cron_name": "fast"}.items() <= metadata_of(started).items()
    path = f"tenants/{stage.rest.tenant}/workflows/crons/{made.metadata.id}"
    assert stage.rest.raw("PATCH", path, json={"enabled": False}).status_code == 204
    assert stage.rest.raw("PATCH", path, json={}).status_code == 400
    declared_id = next(
        row.metadata.id for row in client.cron.list(workflow_name=task.name).rows or [] if not row.name
    )
    off = f"tenants/{stage.rest.tenant}/workflows/crons/{declared_id}"
    assert stage.rest.raw("PATCH", off, json={"enabled": False}).status_code == 204
    request = task.to_wire()
    request.description = "newer"
    stage.wire.put(request)
    assert not client.cron.get(declared_id).enabled
    row = client.cron.get(made.metadata.id)
    assert (row.enabled, row.additional_metadata) == (False, {"a": "b", "d": 1})
    while not worker.stream.silent_for(1.5):  # what had started before the patch
        pass
    run_id = stage.rest.post(path, {})["externalId"]
    assert worker.next().workflow_run_id == run_id
    client.cron.delete(made.metadata.id)
    with pytest.raises(NotFoundError):
        client.cron.get(made.metadata.id)


def test_crons_are_listed_by_what_they_are(stage: Stage, client: Broadaxe) -> None:
    marker = unique("m")
    tasks = sorted((declared(client) for _ in range(2)), key=lambda task: task.name)
    for task in tasks:
        served(stage, task)
    made = [
        task.create_cron(name, YEARLY, additional_metadata={"m": marker, "n": number}).metadata.id
        for number, (task, name) in enumerate(((tasks[1], "one"), (tasks[0], "one"), (tasks[0], "two")))
    ]

    def ids(**arguments: object) -> list[str]:
        arguments.setdefault("additional_metadata", {"m": marker})
        found = client.cron.list(**arguments)  # type: ignore[arg-type]
        return [row.metadata.id for row in found.rows or []]

    asc, by_name = WorkflowRunOrderByDirection.ASC, CronWorkflowsOrderByField.NAME
    assert ids() == made[::-1]
    assert ids(order_by_direction=asc) == made
    assert ids(order_by_field=by_name, order_by_direction=asc) == [made[1], made[2], made[0]]
    assert ids(order_by_field=by_name) == [made[0], made[2], made[1]]
    assert ids(cron_name="one") == [made[1], made[0]]
    assert ids(workflow_name=tasks[0].name) == [made[2], made[1]]
    assert ids(workflow_id=client.cron.get(made[0]).workflow_id) == [made[0]]
    assert ids(additional_metadata={"m": marker, "n": 1}) == [made[1]]
    assert ids(limit=1, offset=1) == [made[1]]
    with pytest.raises(RequestRefusedError, match="exists already"):
        tasks[0].create_cron("one", YEARLY)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("* * * *", "expected 5 fields"),
        ("@reboot", "expected 5 fields"),
        ("61 * * * *", r"cron expression '61 \* \* \* \*' is not valid"),
        ("0 0 30 2 *", "no time in the next fifty years"),
    ],
)
def test_a_wrong_expression_is_refused(stage: Stage, client: Broadaxe, expression: str, text: str) -> None:
    task = declared(client)
    served(stage, task)
    with pytest.raises((InvalidInputError, RequestRefusedError), match=text):
        task.create_cron("wrong", expression)
    assert client.cron.list(workflow_name=task.name).rows == []


def test_a_namespace_applies_to_what_is_scheduled(stage: Stage, spaced: Broadaxe) -> None:
    task = declared(spaced)
    worker = served(stage, task)
    assert task.name.startswith("timed_")
    spaced.scheduled.create(task.base_name, now(), {}, {})
    assert worker.next().workflow_run_id
    made = spaced.cron.create(task.base_name, "c", YEARLY, {}, {})
    assert made.workflow_name == task.name
    listed = spaced.cron.list(workflow_name=task.base_name).rows or []
    assert [row.metadata.id for row in listed] == [made.metadata.id]


def test_a_task_schedules_another_and_is_named_as_its_parent(server: Server, client: Broadaxe) -> None:
    name = unique("inside")

    @client.task(name=f"{name}-later")
    def later(input: EmptyModel, ctx: Context) -> dict[str, str]:
        return {"who": str(ctx.additional_metadata.get("who"))}

    @client.task(name=name)
    def now_and_later(input: EmptyModel, ctx: Context) -> dict[str, str]:
        made = later.schedule(now() + timedelta(milliseconds=200), additional_metadata={"who": "parent"})
        return {"scheduled": made.id, "run": ctx.workflow_run_id}

    worker = client.worker(unique("worker"), workflows=[later, now_and_later])
    thread = threading.Thread(target=worker.start, daemon=True)
    thread.start()
    try:
        wait_until(lambda: client.workflows.list(name).rows, what="the workflows", timeout=20)
        told = now_and_later.run()
        listed = client.scheduled.list(parent_workflow_run_id=told["run"]).rows or []
        assert [row.metadata.id for row in listed] == [told["scheduled"]]
        wait_until(
            lambda: client.scheduled.get(told["scheduled"]).workflow_run_id, what="the run", timeout=15
        )
        run_id = client.scheduled.get(told["scheduled"]).workflow_run_id
        assert later.get_result(str(run_id)) == {"who": "parent"}
    finally:
        worker.stop()
        thread.join(30)


@pytest.mark.parametrize("behavior", ["DROP", "QUEUE"])
def test_a_pause_drops_or_holds_runs_of_crons_and_schedules(
    stage: Stage, client: Broadaxe, behavior: str
) -> None:
    task = declared(client)
    worker = served(stage, task)
    client.workflows.pause(task.id, timedelta(hours=1), behavior, behavior)  # type: ignore[arg-type]
    scheduled = task.schedule(now())
    cron = task.create_cron("each", "* * * * * *")
    assert worker.stream.silent_for(2.0)
    row = client.scheduled.get(scheduled.id)
    if behavior == "DROP":
        assert (row.workflow_run_id, row.workflow_run_status) == (None, WorkflowRunStatus.FAILED)
        assert "paused" in (row.error_message or "")
    else:
        assert row.workflow_run_status is WorkflowRunStatus.QUEUED
    client.cron.delete(cron.metadata.id)
    client.workflows.unpause(task.id)
    if behavior == "DROP":
        assert worker.stream.silent_for(0.5)
    else:
        assert worker.next().workflow_run_id == row.workflow_run_id
        assert "hatchet__cron_name" in metadata_of(worker.next())
