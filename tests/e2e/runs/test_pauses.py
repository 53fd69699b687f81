"""Paused workflows and task stats, through a real server: bare workers for what comes when, our SDK and real workers for the whole."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from broadaxe import Broadaxe, ClientConfig, NotFoundError
from broadaxe.wire import events_pb2 as events
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.wire import BareWorker, code_of, unique
from tests.e2e.runs.harness import FlowsUnderTest
from tests.e2e.runs.stage import Stage
from tests.processes import Server, wait_until

pytestmark = pytest.mark.timeout(120)
HOUR = timedelta(hours=1)
IN_TURN = v1.ConcurrencyLimitStrategy.GROUP_ROUND_ROBIN


@pytest.fixture
def client(server: Server) -> Iterator[Broadaxe]:
    config = ClientConfig(server_url=server.http_url)
    with Broadaxe(token=server.token, host_port=server.grpc_address, config=config) as one:
        yield one


def id_of(client: Broadaxe, name: str) -> str:
    rows = client.workflows.list(name).rows or []
    return next(row.metadata.id for row in rows if row.name == name)


def total(client: Broadaxe, task: str) -> tuple[int, int]:
    """Queued and running; two zeros for an idle task."""
    stat = client.metrics.get_task_stats().get(task)
    return (0, 0) if stat is None else (stat.queued.total, stat.running.total)


def single(stage: Stage, slots: int = 10, **fields: Any) -> tuple[BareWorker, str]:
    name = unique("paused")
    action = stage.wire.put_workflow(name, task=unique("task"), **fields)
    return stage.worker(action, slots=slots), name


def test_a_paused_workflow_holds_everything_but_what_runs_and_goes_on_in_order(
    stage: Stage, client: Broadaxe
) -> None:
    worker, name = single(stage, slots=1)
    runs = [stage.wire.trigger(name) for _ in range(3)]
    running = worker.next()
    assert running.workflow_run_id == runs[0]
    workflow_id = id_of(client, name)
    paused = client.workflows.pause(workflow_id, HOUR, paused_workflow_cron_run_queue_behavior="DROP")
    assert (paused.is_paused, paused.paused_workflow_cron_run_queue_behavior) == (True, "DROP")
    runs.append(stage.wire.trigger(name))
    stage.wire.complete(running)
    stage.wait_for_status(runs[0], "COMPLETED")
    assert worker.stream.silent_for(1.0)
    assert {stage.rest.get(f"S/workflow-runs/{run_id}/status") for run_id in runs[1:]} == {"QUEUED"}
    assert client.workflows.get(workflow_id).is_paused
    (row,) = client.workflows.list(name).rows
    assert row.is_paused
    assert not client.workflows.unpause(workflow_id).is_paused
    for run_id in runs[1:]:
        started = worker.next()
        assert started.workflow_run_id == run_id
        stage.wire.complete(started)


def test_another_workflow_of_the_same_worker_goes_on(stage: Stage, client: Broadaxe) -> None:
    names = [unique("one"), unique("other")]
    worker = stage.worker(*(stage.wire.put_workflow(name) for name in names))
    client.workflows.pause(id_of(client, names[0]), HOUR)
    held = stage.wire.trigger(names[0])
    goes = stage.wire.trigger(names[1])
    assert worker.next().workflow_run_id == goes
    client.workflows.unpause(id_of(client, names[0]))
    assert worker.next().workflow_run_id == held


def test_what_waits_longer_than_the_ttl_is_cancelled_and_says_why(stage: Stage, client: Broadaxe) -> None:
    worker, name = single(stage, slots=1)
    first = stage.wire.trigger(name)
    running = worker.next()
    queued = stage.wire.trigger(name)
    client.workflows.pause(id_of(client, name), timedelta(seconds=1))
    late = stage.wire.trigger(name)
    for run_id in (queued, late):
        stage.wait_for_status(run_id, "CANCELLED")
        assert "is paused" in stage.rest.get(f"S/tasks/{run_id}")["errorMessage"]
    stage.wire.complete(running)
    stage.wait_for_status(first, "COMPLETED")


def test_the_schedule_timeout_stands_still_during_a_pause(stage: Stage, client: Broadaxe) -> None:
    worker, name = single(stage, schedule_timeout="2s")
    workflow_id = id_of(client, name)
    client.workflows.pause(workflow_id, HOUR)
    run_id = stage.wire.trigger(name)
    assert worker.stream.silent_for(3.0)
    client.workflows.unpause(workflow_id)
    assert worker.next().workflow_run_id == run_id


def test_a_retry_is_held(stage: Stage, client: Broadaxe) -> None:
    worker, name = single(stage, retries=1)
    run_id = stage.wire.trigger(name)
    started = worker.next()
    workflow_id = id_of(client, name)
    client.workflows.pause(workflow_id, HOUR)
    stage.wire.fail(started, "again")
    assert worker.stream.silent_for(1.0)
    client.workflows.unpause(workflow_id)
    again = worker.next()
    assert (again.workflow_run_id, again.retry_count) == (run_id, 1)


def test_a_workflow_that_does_not_exist_cannot_be_paused(client: Broadaxe) -> None:
    with pytest.raises(NotFoundError, match="is not known"):
        client.workflows.pause("0196a1b2-0000-7000-8000-000000000001", HOUR)


def test_a_real_worker_is_held_and_goes_on(flows: FlowsUnderTest, client: Broadaxe) -> None:
    warm = flows.start("logs")
    warm.end()
    details = client.runs.get(warm.id)
    workflow_id = details.run.workflow_id
    client.workflows.pause(workflow_id, HOUR)
    try:
        run = flows.start("logs")
        assert not run.is_done()
        assert run.details().status == "QUEUED"
    finally:
        client.workflows.unpause(workflow_id)
    assert run.end().status == "COMPLETED"


# ---------------------------------------------------------------- task stats and metrics


def test_task_stats_follow_the_runs_of_a_task(stage: Stage, client: Broadaxe) -> None:
    name, task = unique("counted"), unique("task")
    action = stage.wire.put_workflow(name, task)
    worker = stage.worker(action, slots=1)
    assert total(client, task) == (0, 0)
    first = stage.wire.trigger(name)
    started = worker.next()
    assert started.workflow_run_id == first
    stage.wire.trigger(name)
    wait_until(lambda: total(client, task) == (1, 1), what="one to run and one to wait")
    stat = client.metrics.get_task_stats()[task]
    assert stat.queued.queues == {action: 1}
    assert stat.queued.oldest == stat.queued.oldest_excluding_retries
    assert stat.running.oldest <= stat.queued.oldest
    assert client.metrics.get_queue_metrics()[action] == 1
    stage.wire.complete(started)
    stage.wire.complete(worker.next())
    wait_until(lambda: total(client, task) == (0, 0), what="none to be left")
    asked = stage.rest.get(f"tenants/{stage.rest.tenant}/task-stats", taskNames=f"{task},never-seen")
    assert asked[task] == asked["never-seen"] == {"queued": {"total": 0}, "running": {"total": 0}}


def test_the_metrics_of_a_tenant_tell_its_workers_and_queues(stage: Stage, client: Broadaxe) -> None:
    worker, name = single(stage, slots=3)
    stage.wire.trigger(name)
    worker.next()
    text = client.metrics.scrape_tenant_prometheus_metrics()
    tenants = set(re.findall(r'tenant_id="([^"]+)"', text))
    assert tenants == {stage.rest.tenant}
    labels = f'tenant_id="{stage.rest.tenant}",worker_id="{worker.id}",worker_name="bare"'
    assert f"hatchet_tenant_worker_slots{{{labels}}} 3.0" in text
    assert f"hatchet_tenant_used_worker_slots{{{labels}}} 1.0" in text
    assert f'workflow_name="{name}"' in text


def test_task_stats_tell_who_waits_for_a_place_and_who_has_one(stage: Stage, client: Broadaxe) -> None:
    name, task = unique("placed"), unique("task")
    limit = v1.Concurrency(expression="input.user", max_runs=1, limit_strategy=IN_TURN)
    action = stage.wire.put_workflow(name, task, concurrency=[limit])
    worker = stage.worker(action)
    for user in ("ann", "ann", "ann", "bob"):
        stage.wire.trigger(name, f'{{"user": "{user}"}}')
    started = [worker.next() for _ in range(2)]
    wait_until(lambda: total(client, task) == (2, 2), what="two to run and two to wait")
    stat = client.metrics.get_task_stats()[task]
    (waiting,), (held,) = stat.queued.concurrency, stat.running.concurrency
    assert (waiting.expression, waiting.type, waiting.keys) == (
        "input.user",
        "GROUP_ROUND_ROBIN",
        {"ann": 2},
    )
    assert held.keys == {"ann": 1, "bob": 1}
    assert stat.queued.queues is None
    assert client.metrics.get_queue_metrics()[f"{name}/GROUP_ROUND_ROBIN"] == {"ann": 2}
    for _ in range(2):
        for one in started:
            stage.wire.complete(one)
        started = [worker.next()]
    stage.wire.complete(started[0])
    wait_until(lambda: total(client, task) == (0, 0), what="none to be left")


def test_what_waits_for_a_place_as_a_pause_comes_is_held_too(stage: Stage, client: Broadaxe) -> None:
    name = unique("placed")
    limit = v1.Concurrency(expression="'all'", max_runs=1, limit_strategy=IN_TURN)
    worker = stage.worker(stage.wire.put_workflow(name, concurrency=[limit]))
    runs = [stage.wire.trigger(name) for _ in range(3)]
    started = worker.next()
    client.workflows.pause(id_of(client, name), HOUR)
    late = stage.wire.trigger(name)
    stage.wire.complete(started)
    assert worker.stream.silent_for(1.0)
    client.workflows.unpause(id_of(client, name))
    for run_id in (*runs[1:], late):
        started = worker.next()
        assert started.workflow_run_id == run_id
        stage.wire.complete(started)


def test_a_deleted_workflow_starts_nothing_and_what_is_live_goes_on(stage: Stage, client: Broadaxe) -> None:
    name, key = unique("deleted"), unique("key")
    task = v1.CreateTaskOpts(readable_id="only", action=f"{name}:only", timeout="60s", schedule_timeout="5m")
    stage.wire.put(v1.CreateWorkflowVersionRequest(name=name, tasks=[task], event_triggers=[key]))
    worker = stage.worker(f"{name}:only".lower(), slots=1)
    first, second = stage.wire.trigger(name), stage.wire.trigger(name)
    running = worker.next()
    workflow_id = id_of(client, name)
    client.workflows.pause(workflow_id, HOUR)
    client.workflows.delete(workflow_id)
    assert client.workflows.list(name).rows == []
    for call in (client.workflows.get, client.workflows.unpause, client.workflows.delete):
        with pytest.raises(NotFoundError, match=workflow_id):
            call(workflow_id)
    code, text = code_of(lambda: stage.wire.trigger(name))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "is not registered" in text
    event = events.PushEventRequest(key=key, payload="{}")
    event.event_timestamp.FromDatetime(datetime.now(UTC))
    stage.wire.unary("/EventsService/Push", event, events.Event)
    stage.wire.complete(running)
    queued = worker.next()
    assert queued.workflow_run_id == second
    stage.wire.complete(queued)
    stage.wait_for_status(second, "COMPLETED")
    rows = client.runs.list(workflow_ids=[workflow_id]).rows
    assert [(row.metadata.id, row.workflow_name) for row in rows] == [(second, name), (first, name)]
    # Registered again it is another workflow, and the old runs are not its own.
    stage.wire.put_workflow(name)
    assert id_of(client, name) != workflow_id
    again = stage.wire.trigger(name)
    assert [row.metadata.id for row in client.runs.list(workflow_ids=[id_of(client, name)]).rows] == [again]
