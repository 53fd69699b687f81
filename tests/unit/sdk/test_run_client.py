"""Runs by id and by filter: cancelling, replaying, results; against a fake engine and a fake REST server."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from broadaxe import (
    Broadaxe,
    BulkCancelReplayOpts,
    FailedRunError,
    RequestRefusedError,
    RunCancelledError,
    RunFilter,
    V1TaskStatus,
)
from broadaxe.wire.stream_pb2 import TaskResult
from broadaxe.wire.v1 import workflows_pb2 as wire
from tests.unit.sdk.clients import make_client
from tests.unit.sdk.fake_engine import COMPLETED, FAILED, TENANT, FakeEngine
from tests.unit.sdk.fake_rest import Call, FakeRest, details


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def server() -> Iterator[FakeRest]:
    with FakeRest(lambda call: (200, details())) as server:
        yield server


@pytest.fixture
def client(engine, server) -> Iterator[Broadaxe]:
    with make_client(engine, server_url=server.url, namespace="dev") as client:
        yield client


def test_a_run_is_cancelled_by_its_id(engine, client):
    ref = client.stubs.task(name="job").run_no_wait()
    client.runs.cancel(ref.workflow_run_id)
    with pytest.raises(RunCancelledError):
        ref.result()
    assert list(engine.bulk_requests[0].external_ids) == [ref.workflow_run_id]


async def test_ids_are_cancelled_and_replayed_in_one_call(engine, client):
    given = BulkCancelReplayOpts(ids=["a", "b"])
    assert client.runs.bulk_cancel(given) == ["a", "b"]
    assert await client.runs.aio_bulk_cancel(given) == ["a", "b"]
    assert client.runs.bulk_replay(given) == ["a", "b"]
    assert await client.runs.aio_bulk_replay(given) == ["a", "b"]
    client.runs.replay("c")
    await client.runs.aio_replay("c")
    await client.runs.aio_cancel("c")
    assert [(type(request).__name__, list(request.external_ids)) for request in engine.bulk_requests] == [
        ("CancelTasksRequest", ["a", "b"]),
        ("CancelTasksRequest", ["a", "b"]),
        ("ReplayTasksRequest", ["a", "b"]),
        ("ReplayTasksRequest", ["a", "b"]),
        ("ReplayTasksRequest", ["c"]),
        ("ReplayTasksRequest", ["c"]),
        ("CancelTasksRequest", ["c"]),
    ]


def test_a_filter_reaches_the_wire_with_all_that_it_says(engine, client):
    since = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    whole = RunFilter(
        since=since,
        until=since + timedelta(hours=1),
        statuses=[V1TaskStatus.RUNNING],
        workflow_ids=["w"],
        additional_metadata={"key": "value"},
    )
    client.runs.bulk_cancel(BulkCancelReplayOpts(filters=whole))
    client.runs.bulk_replay(BulkCancelReplayOpts(filters=RunFilter(since=since)))
    cancel, replay = engine.bulk_requests
    assert cancel.filter.since.ToDatetime(UTC) == datetime(2025, 12, 31, 22, tzinfo=UTC)
    assert cancel.filter.until.ToDatetime(UTC) == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert list(cancel.filter.statuses) == ["RUNNING"]
    assert list(cancel.filter.workflow_ids) == ["w"]
    assert list(cancel.filter.additional_metadata) == ["key:value"]
    assert not cancel.external_ids
    assert replay.filter == wire.TasksFilter(since=cancel.filter.since)
    assert not replay.filter.HasField("until")


def test_a_time_without_a_zone_is_local():
    moment = datetime(2026, 1, 1, 12)  # noqa: DTZ001 - that is the point
    assert RunFilter(since=moment).to_wire().since.ToDatetime(UTC) == moment.astimezone(UTC)


@pytest.mark.parametrize(
    "given", [{}, {"ids": ["a"], "filters": RunFilter(since=datetime(2026, 1, 1, tzinfo=UTC))}]
)
def test_a_bulk_operation_needs_ids_or_filters(given):
    with pytest.raises(ValidationError, match="either ids or filters"):
        BulkCancelReplayOpts(**given)


@pytest.mark.parametrize("kind", ["cancel", "replay"])
async def test_any_number_of_runs_is_handled_by_filter_in_chunks(engine, server, client, kind):
    ids = [f"run-{n}" for n in range(7)]
    server.answer = lambda call: (200, ids)
    blocking = getattr(client.runs, f"bulk_{kind}_by_filters_with_pagination")
    awaiting = getattr(client.runs, f"aio_bulk_{kind}_by_filters_with_pagination")
    since = datetime(2026, 1, 1, tzinfo=UTC)
    blocking(0, 3, since=since, statuses=[V1TaskStatus.FAILED], additional_metadata={"a": "b"})
    await awaiting(sleep_time=0, chunk_size=5)
    sent = [list(request.external_ids) for request in engine.bulk_requests]
    assert sent == [ids[:3], ids[3:6], ids[6:], ids[:5], ids[5:]]
    first: Call = server.calls[0]
    assert first.path == f"/api/v1/stable/tenants/{TENANT}/workflow-runs/external-ids"
    assert first.query == {
        "since": ["2026-01-01T00:00:00.000000Z"],
        "statuses": ["FAILED"],
        "additional_metadata": ["a:b"],
    }
    with pytest.raises(ValueError, match="chunk_size is 0"):
        blocking(0, 0)


def test_an_engine_that_does_not_replay_says_so(engine, client):
    engine.missing.add("replay_tasks")
    with pytest.raises(RequestRefusedError, match="replay runs"):
        client.runs.replay("a")


async def test_a_result_is_waited_for_by_id(engine, client):
    engine.answer = lambda run: (COMPLETED, b'{"n":1}')
    one = client.stubs.task(name="job").run_no_wait().workflow_run_id
    assert client.runs.get_result(one) == {"n": 1}
    engine.answer = lambda run: (
        COMPLETED,
        [TaskResult(task_run_id=name, task_name=name, state=COMPLETED, output=b'{"n":2}') for name in "ab"],
    )
    several = client.stubs.workflow(name="flow").run_no_wait().workflow_run_id
    expected: dict[str, Any] = {"a": {"n": 2}, "b": {"n": 2}}
    assert await client.runs.aio_get_result(several) == expected
    assert client.runs.get_run_ref(several).result() == expected
    engine.answer = lambda run: (FAILED, b"ValueError: no")
    with pytest.raises(FailedRunError):
        client.runs.get_result(client.stubs.task(name="job").run_no_wait().workflow_run_id)


async def test_the_status_is_one_of_five(engine, client):
    ref = client.stubs.task(name="job").run_no_wait()
    assert client.runs.get_status(ref.workflow_run_id) is V1TaskStatus.QUEUED
    engine.finish(ref.workflow_run_id, COMPLETED)
    assert await client.runs.aio_get_status(ref.workflow_run_id) is V1TaskStatus.COMPLETED


async def test_a_run_is_created_by_the_workflows_name(engine, server, client):
    created = client.runs.create("flow", {"n": 1}, {"team": "a"}, priority=3)
    assert created.run.display_name == "job-1"
    await client.runs.aio_create("dev_flow", {})
    first, second = engine.runs.values()
    assert (first.workflow, first.input, first.metadata) == ("dev_flow", b'{"n":1}', b'{"team":"a"}')
    assert (first.request.priority, second.workflow) == (3, "dev_flow")
    assert [call.path for call in server.calls] == [
        f"/api/v1/stable/workflow-runs/{run.run_id}" for run in engine.runs.values()
    ]
