"""The feature clients of an unmodified hatchet-sdk (runs, logs, workflows, workers, rate limits), which speak REST, against a real server."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire import events_pb2 as events
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.conftest import Workers
from tests.compat.wire import Wire, code_of, unique
from tests.processes import PYTHON, ROLES, Process, Server, wait_until

pytestmark = pytest.mark.timeout(180)

Features = Callable[..., Any]


@pytest.fixture(scope="module")
def features(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Features]:
    """Calls a method of a feature client by name; raises what it raised as `RuntimeError`."""
    process = Process(
        [PYTHON, str(ROLES / "hatchet_features.py")],
        name="features",
        directory=tmp_path_factory.mktemp("features"),
        env=server.client_environment(),
    )
    with process:
        assert process.receive(timeout=60)["ready"]

        def call(do: str, /, **given: Any) -> Any:
            answer = process.call(do=do, timeout=60, **{"with": given})
            if "raised" in answer:
                raise RuntimeError(f"{answer['raised']}: {answer['text']}")
            return answer["value"]

        yield call


def test_the_tenant_is_read(features: Features, server: Server) -> None:
    tenant = features("tenant.get")
    assert (tenant["slug"], tenant["version"]) == ("default", "V1")


def an_hour_ago() -> str:
    return (datetime.now(UTC) - timedelta(hours=1)).isoformat()


def listed(features: Features, **given: Any) -> list[str]:
    rows = features("runs.list", since=an_hour_ago(), **given)["rows"]
    return [row["metadata"]["id"] for row in rows]


def test_run_is_read_from_trigger_to_end(
    features: Features, wire: Wire, bare_worker: type[Workers], tmp_path: Path
) -> None:
    name = unique("rest")
    action = wire.put_workflow(name)
    run_id = wire.trigger(name, '{"n": 1}', additional_metadata='{"who": "me"}')
    queued = features("runs.get", workflow_run_id=run_id)
    assert (queued["run"]["status"], queued["tasks"][0]["status"]) == ("QUEUED", "QUEUED")
    worker = bare_worker.of(action, name=name)
    started = worker.next()
    wire.report(started, dispatcher.STEP_EVENT_TYPE_STARTED)
    wait_until(
        lambda: features("runs.get_status", workflow_run_id=run_id) == "RUNNING", what="the run to be running"
    )
    wire.complete(started, '{"sum": 2}')
    details = features("runs.get", workflow_run_id=run_id)
    assert details["run"]["status"] == "COMPLETED"
    assert details["run"]["output"] == {"sum": 2}
    assert details["run"]["input"]["input"] == {"n": 1}
    assert details["run"]["additionalMetadata"]["who"] == "me"
    kinds = [event["eventType"] for event in details["taskEvents"]]
    assert kinds[0] == "FINISHED"
    assert kinds[-1] == "CREATED"
    task = features("runs.get_task_run", task_run_id=run_id)
    assert (task["input"], task["output"], task["attempt"]) == ({"n": 1}, {"sum": 2}, 1)
    assert features("runs.get_result", run_id=run_id)


def test_runs_are_listed_by_what_they_are(features: Features, wire: Wire, bare_worker: type[Workers]) -> None:
    name = unique("listed")
    action = wire.put_workflow(name)
    runs = [wire.trigger(name, additional_metadata=f'{{"number": "{number}"}}') for number in range(4)]
    (workflow,) = features("workflows.list", workflow_name=name)["rows"]
    chosen = {"workflow_ids": [workflow["metadata"]["id"]]}
    # Newest first.
    assert listed(features, **chosen) == runs[::-1]
    assert listed(features, limit=2, offset=1, **chosen) == runs[::-1][1:3]
    assert listed(features, additional_metadata={"number": "2"}, **chosen) == [runs[2]]
    worker = bare_worker.of(action, slots=1)
    wire.complete(worker.next())
    second = worker.next()
    wire.fail(second, "no")
    worker.next()
    assert listed(features, statuses=["COMPLETED"], **chosen) == [runs[0]]
    assert listed(features, statuses=["FAILED"], **chosen) == [runs[1]]
    assert listed(features, statuses=["COMPLETED", "FAILED"], **chosen) == [runs[1], runs[0]]
    wait_until(
        lambda: listed(features, statuses=["RUNNING"], **chosen) == [runs[2]], what="the third run to run"
    )
    assert listed(features, statuses=["QUEUED"], **chosen) == [runs[3]]
    assert listed(features, only_tasks=True, worker_id=worker.id, **chosen) == runs[2::-1]
    (row,) = features("runs.list", since=an_hour_ago(), statuses=["FAILED"], **chosen)["rows"]
    assert (row["errorMessage"], row["workflowName"], row["type"]) == ("no", name, "DAG")
    everything = features("runs.list_with_pagination", since=an_hour_ago(), **chosen)
    assert {one["metadata"]["id"] for one in everything} == set(runs)


def test_run_is_created_over_rest(features: Features, wire: Wire, bare_worker: type[Workers]) -> None:
    name = unique("created")
    action = wire.put_workflow(name)
    created = features(
        "runs.create", workflow_name=name, input={"n": 5}, additional_metadata={"k": "v"}, priority=2
    )
    started = bare_worker.of(action).next()
    assert started.workflow_run_id == created["run"]["metadata"]["id"]
    assert started.priority == 2
    assert '"input":{"n": 5}' in started.action_payload
    assert '"k"' in started.additional_metadata
    with pytest.raises(RuntimeError, match="not registered"):
        features("runs.create", workflow_name=unique("unknown"), input={})


def test_children_are_found_by_their_parent(features: Features, wire: Wire) -> None:
    name = unique("family")
    wire.put_workflow(name)
    parent = wire.trigger(name)
    child = wire.trigger(name, parent_id=parent, parent_task_run_external_id=parent, child_index=0)
    assert listed(features, parent_task_external_id=parent) == [child]
    assert features("runs.get_task_run", task_run_id=parent)["numSpawnedChildren"] == 1


def test_log_lines_are_listed(features: Features, wire: Wire) -> None:
    name = unique("logs")
    wire.put_workflow(name)
    run_id = wire.trigger(name)
    for number in range(3):
        request = events.PutLogRequest(
            task_run_external_id=run_id, message=f"line {number}", level="WARN", metadata='{"n": 1}'
        )
        request.created_at.FromDatetime(datetime.now(UTC))
        wire.unary("/EventsService/PutLog", request, events.PutLogResponse)
    rows = wait_until(
        lambda: (found := features("logs.list", task_run_id=run_id)["rows"]) and len(found) == 3 and found,
        what="three log lines",
    )
    assert [row["message"] for row in rows] == ["line 0", "line 1", "line 2"]
    assert (rows[0]["level"], rows[0]["metadata"], rows[0]["attempt"]) == ("WARN", {"n": 1}, 1)
    assert len(features("logs.list", task_run_id=run_id, limit=2)["rows"]) == 2


def test_workflows_are_listed_and_read(features: Features, wire: Wire) -> None:
    name = unique("Read")
    wire.put_workflow(name)
    wire.put_workflow(name, retries=3)
    (workflow,) = features("workflows.list", workflow_name=name)["rows"]
    workflow_id = workflow["metadata"]["id"]
    read = features("workflows.get", workflow_id=workflow_id)
    assert read["name"] == name
    (version,) = read["versions"]
    assert version["order"] == 2
    latest = features("workflows.get_version", workflow_id=workflow_id)
    assert latest["metadata"]["id"] == version["metadata"]["id"]
    assert latest["workflowConfig"]["tasks"][0]["retries"] == 3
    with pytest.raises(RuntimeError, match="NotFound"):
        features("workflows.get", workflow_id="00000000-0000-4000-8000-000000000000")


def test_workers_are_listed_and_paused(features: Features, wire: Wire, bare_worker: type[Workers]) -> None:
    name = unique("paused")
    action = wire.put_workflow(name)
    worker = bare_worker.of(action, name=name)

    def status() -> str:
        (found,) = [row for row in features("workers.list")["rows"] if row["metadata"]["id"] == worker.id]
        assert found["name"] == name
        return str(found["status"])

    wait_until(lambda: status() == "ACTIVE", what="the worker to be active")
    assert features("workers.update", worker_id=worker.id, worker={"isPaused": True})["status"] == "PAUSED"
    assert status() == "PAUSED"
    run_id = wire.trigger(name)
    assert worker.stream.silent_for(0.5)
    features("workers.unpause", worker_id=worker.id)
    assert worker.next().workflow_run_id == run_id
    one = features("workers.get", worker_id=worker.id)
    assert one["slots"][0]["stepRunId"] == run_id
    assert [workflow["name"] for workflow in one["registeredWorkflows"]] == [name]


def test_run_of_nobody_is_not_found(features: Features) -> None:
    with pytest.raises(RuntimeError, match="NotFound"):
        features("runs.get_status", workflow_run_id="00000000-0000-4000-8000-000000000000")


# ---- what a run of several tasks looks like, and what can be done to runs


def put_chain(wire: Wire, name: str) -> list[str]:
    """Registers a workflow of two tasks in a row, the second of which may fail twice; returns their action ids."""
    first = v1.CreateTaskOpts(readable_id="first", action=f"{name}:first", timeout="60s")
    second = v1.CreateTaskOpts(
        readable_id="second", action=f"{name}:second", timeout="60s", parents=["first"], retries=1
    )
    wire.put(v1.CreateWorkflowVersionRequest(name=name, tasks=[first, second]))
    return [f"{name}:first".lower(), f"{name}:second".lower()]


def status_of(features: Features, run_id: str) -> str:
    return str(features("runs.get_status", workflow_run_id=run_id))


def test_run_of_several_tasks_shows_its_tasks(
    features: Features, wire: Wire, bare_worker: type[Workers]
) -> None:
    name = unique("chain")
    actions = put_chain(wire, name)
    run_id = wire.trigger(name, '{"n": 1}')
    assert status_of(features, run_id) == "QUEUED"
    worker = bare_worker.of(*actions)
    wire.complete(worker.next(), '{"v": 1}')
    second = worker.next()
    assert '"parents":{"first":{"v": 1}}' in second.action_payload
    wait_until(lambda: status_of(features, run_id) == "RUNNING", what="the run to run")
    wire.fail(second, "once")
    again = worker.next()
    assert again.retry_count == 1
    wire.complete(again, '{"w": 2}')
    details = features("runs.get", workflow_run_id=run_id)
    assert details["run"]["status"] == "COMPLETED"
    assert details["run"]["input"] == {"n": 1}
    assert details["run"]["output"] == {"w": 2}
    assert [task["output"] for task in details["tasks"]] == [{"v": 1}, {"w": 2}]
    assert [task["attempt"] for task in details["tasks"]] == [1, 2]
    shape = details["shape"]
    assert [item["taskName"] for item in shape] == ["first", "second"]
    assert shape[0]["childrenStepIds"] == [shape[1]["stepId"]]
    assert shape[1]["taskExternalId"] == again.task_run_external_id
    (row,) = [
        row for row in features("runs.list", since=an_hour_ago())["rows"] if row["metadata"]["id"] == run_id
    ]
    assert [child["taskExternalId"] for child in row["children"]] == [
        item["taskExternalId"] for item in shape
    ]
    task = features("runs.get_task_run", task_run_id=again.task_run_external_id)
    assert (task["workflowRunExternalId"], task["input"], task["retryCount"]) == (run_id, {"n": 1}, 1)
    kinds = {event["eventType"] for event in details["taskEvents"]}
    assert {"CREATED", "ASSIGNED", "FINISHED"} <= kinds


def test_run_is_cancelled_and_replayed(features: Features, wire: Wire, bare_worker: type[Workers]) -> None:
    name = unique("again")
    actions = put_chain(wire, name)
    worker = bare_worker.of(*actions)
    run_id = wire.trigger(name)
    first = worker.next()
    features("runs.cancel", run_id=run_id)
    assert status_of(features, run_id) == "CANCELLED"
    cancel = worker.next()
    assert cancel.action_type == dispatcher.CANCEL_STEP_RUN
    assert cancel.task_run_external_id == first.task_run_external_id
    features("runs.replay", run_id=run_id)
    assert status_of(features, run_id) in {"QUEUED", "RUNNING"}
    replayed = worker.next()
    assert (replayed.task_run_external_id, replayed.retry_count) == (first.task_run_external_id, 1)
    wire.complete(replayed, "{}")
    wire.complete(worker.next(), "{}")
    assert status_of(features, run_id) == "COMPLETED"


@pytest.mark.parametrize("by", ["ids", "filter"])
def test_runs_are_cancelled_and_replayed_in_bulk(
    features: Features, wire: Wire, bare_worker: type[Workers], by: str
) -> None:
    name = unique("bulk")
    action = wire.put_workflow(name)
    mark = unique("mark")
    runs = [wire.trigger(name, additional_metadata=f'{{"mark": "{mark}"}}') for _ in range(5)]
    other = wire.trigger(name)
    if by == "ids":
        bulk: dict[str, Any] = {"ids": runs}
    else:
        bulk = {"filters": {"since": an_hour_ago(), "additional_metadata": {"mark": mark}}}
    features("runs.bulk_cancel", bulk=bulk)
    assert {status_of(features, run_id) for run_id in runs} == {"CANCELLED"}
    assert status_of(features, other) == "QUEUED"
    features("runs.bulk_replay", bulk=bulk)
    assert {status_of(features, run_id) for run_id in runs} == {"QUEUED"}
    worker = bare_worker.of(action)
    started = [worker.next() for _ in range(6)]
    # Replays come before what was never run.
    assert {action.workflow_run_id for action in started[:5]} == set(runs)
    assert started[5].workflow_run_id == other
    assert [action.retry_count for action in started] == [1, 1, 1, 1, 1, 0]
    for action_started in started:
        wire.complete(action_started)


def test_runs_are_cancelled_by_pages_of_a_listing(features: Features, wire: Wire) -> None:
    name = unique("paged")
    wire.put_workflow(name)
    (workflow,) = features("workflows.list", workflow_name=name)["rows"]
    runs = [wire.trigger(name) for _ in range(3)]
    features(
        "runs.bulk_cancel_by_filters_with_pagination",
        sleep_time=0,
        chunk_size=2,
        since=an_hour_ago(),
        workflow_ids=[workflow["metadata"]["id"]],
    )
    assert {status_of(features, run_id) for run_id in runs} == {"CANCELLED"}


def test_running_task_refreshes_its_timeout_and_releases_its_slot(
    wire: Wire, bare_worker: type[Workers]
) -> None:
    name = unique("slot")
    action = wire.put_workflow(name, timeout="30s")
    worker = bare_worker.of(action, slots=1)
    first, second = wire.trigger(name), wire.trigger(name)
    started = worker.next()
    assert started.workflow_run_id == first

    def refresh(task_run_id: str) -> datetime:
        request = dispatcher.RefreshTimeoutRequest(
            task_run_external_id=task_run_id, increment_timeout_by="1h"
        )
        answer = wire.unary("/Dispatcher/RefreshTimeout", request, dispatcher.RefreshTimeoutResponse)
        return answer.timeout_at.ToDatetime(UTC)

    deadline = refresh(first)
    left = deadline - datetime.now(UTC)
    assert timedelta(hours=1) < left <= timedelta(hours=1, seconds=30)
    assert refresh(first) - deadline == timedelta(hours=1)
    release = dispatcher.ReleaseSlotRequest(task_run_external_id=first)
    wire.unary("/Dispatcher/ReleaseSlot", release, dispatcher.ReleaseSlotResponse)
    assert worker.next().workflow_run_id == second
    wire.complete(started, '{"late": 1}')
    assert wire.result(first).output == '{"late": 1}'
    code, text = code_of(lambda: refresh(first))
    assert code == grpc.StatusCode.NOT_FOUND
    assert first in text


def test_workflow_is_paused_and_unpaused(features: Features, wire: Wire, bare_worker: type[Workers]) -> None:
    name = unique("paused")
    worker = bare_worker.of(wire.put_workflow(name))
    (workflow,) = features("workflows.list", workflow_name=name)["rows"]
    workflow_id = workflow["metadata"]["id"]
    assert workflow["isPaused"] is False
    paused = features(
        "workflows.pause",
        workflow_id=workflow_id,
        queue_ttl=3600,
        paused_workflow_cron_run_queue_behavior="DROP",
    )
    assert (paused["isPaused"], paused["pausedWorkflowCronRunQueueBehavior"]) == (True, "DROP")
    assert features("workflows.get", workflow_id=workflow_id)["isPaused"] is True
    run_id = wire.trigger(name)
    assert worker.stream.silent_for(1.0)
    assert features("runs.get_status", workflow_run_id=run_id) == "QUEUED"
    assert features("workflows.unpause", workflow_id=workflow_id)["isPaused"] is False
    assert worker.next().workflow_run_id == run_id
    with pytest.raises(RuntimeError, match="expected more than 0"):
        features("workflows.pause", workflow_id=workflow_id, queue_ttl=0)


def test_task_stats_and_metrics_are_read(features: Features, wire: Wire, bare_worker: type[Workers]) -> None:
    name, task = unique("counted"), unique("task")
    action = wire.put_workflow(name, task)
    run_id = wire.trigger(name)
    stat = features("metrics.get_task_stats")[task]
    assert (stat["queued"]["total"], stat["running"]["total"]) == (1, 0)
    assert stat["queued"]["queues"] == {action: 1}
    assert stat["queued"]["oldest"] == stat["queued"]["oldestExcludingRetries"]
    assert features("metrics.get_queue_metrics")[action] == 1
    worker = bare_worker.of(action)
    started = worker.next()
    assert started.workflow_run_id == run_id
    wire.complete(started)
    wait_until(lambda: task not in features("metrics.get_task_stats"), what="the run to be over")
    text = features("metrics.scrape_tenant_prometheus_metrics")
    assert "# TYPE hatchet_tenant_created_tasks_total counter" in text
    assert f'worker_id="{worker.id}"' in text


def test_task_runs_are_counted_by_status(features: Features, wire: Wire, bare_worker: type[Workers]) -> None:
    name = unique("counts")
    action = wire.put_workflow(name)
    (workflow,) = features("workflows.list", workflow_name=name)["rows"]
    chosen = {"since": an_hour_ago(), "workflow_ids": [workflow["metadata"]["id"]]}
    runs = [wire.trigger(name) for _ in range(4)]
    assert features("metrics.get_task_metrics", **chosen)["queued"] == 4
    worker = bare_worker.of(action, slots=1)
    wire.complete(worker.next())
    wire.fail(worker.next(), "no")
    worker.next()
    features("runs.cancel", run_id=runs[3])
    wanted = {"cancelled": 1, "completed": 1, "failed": 1, "queued": 0, "running": 1}
    wait_until(
        lambda: features("metrics.get_task_metrics", **chosen) == wanted, what="one task run of each status"
    )
    assert features("metrics.get_task_metrics", **chosen, parent_task_external_id=runs[0])["completed"] == 0


def test_workflow_is_deleted(features: Features, wire: Wire, bare_worker: type[Workers]) -> None:
    name = unique("deleted")
    worker = bare_worker.of(wire.put_workflow(name))
    run_id = wire.trigger(name)
    (workflow,) = features("workflows.list", workflow_name=name)["rows"]
    workflow_id = workflow["metadata"]["id"]
    assert features("workflows.delete", workflow_id=workflow_id) is None
    assert features("workflows.list", workflow_name=name)["rows"] == []
    with pytest.raises(RuntimeError, match="NotFound"):
        features("workflows.delete", workflow_id=workflow_id)
    with pytest.raises(RuntimeError, match="not registered"):
        features("runs.create", workflow_name=name, input={})
    wire.complete(worker.next(), '{"done": 1}')
    assert features("runs.get_result", run_id=run_id) == {"done": 1}
    assert listed(features, workflow_ids=[workflow_id]) == [run_id]


def test_ended_runs_are_found_by_metadata_and_workflow_together(
    features: Features, wire: Wire, bare_worker: type[Workers]
) -> None:
    names = [unique("found"), unique("found")]
    worker = bare_worker.of(*(wire.put_workflow(name) for name in names))
    mark = unique("mark")
    runs = []
    for number in range(6):
        metadata = f'{{"mark": "{mark}", "number": {number // 2}}}'
        runs.append(wire.trigger(names[number % 2], additional_metadata=metadata))
        wire.complete(worker.next())
    ids = [features("workflows.list", workflow_name=name)["rows"][0]["metadata"]["id"] for name in names]
    marked = {"additional_metadata": {"mark": mark}}
    wait_until(
        lambda: listed(features, statuses=["COMPLETED"], **marked) == runs[::-1],
        what="all runs to have ended",
    )
    assert listed(features, workflow_ids=ids[:1], **marked) == runs[-2::-2]
    assert listed(features, workflow_ids=ids, limit=2, offset=3, **marked) == runs[2:0:-1]
    # Entries add up to more: any of them will do.
    other = {"additional_metadata": {"mark": "none", "number": "1"}}
    assert listed(features, workflow_ids=ids, **other) == runs[3:1:-1]
    assert listed(features, statuses=["FAILED"], **marked) == []


def test_branch_of_a_durable_task_is_refused_so_far(features: Features, wire: Wire) -> None:
    name = unique("branch")
    wire.put_workflow(name)
    run_id = wire.trigger(name)
    with pytest.raises(RuntimeError, match="not supported yet"):
        features("runs.reset_durable_task", task_external_id=run_id, node_id=1, branch_id=1)


# ---------------------------------------------------------------- rate limits


def test_rate_limits_are_put_paused_and_listed(features: Features) -> None:
    mine = unique("limit")
    keys = [f"{mine}-{letter}" for letter in "abc"]
    for number, (key, duration) in enumerate(zip(keys, ("SECOND", "MINUTE", "YEAR"), strict=True)):
        features("rate_limits.put", key=key, limit=30 - 10 * number, duration=duration)
    page = features("rate_limits.list", search=mine)
    assert [(row["key"], row["limitValue"], row["value"], row["window"]) for row in page["rows"]] == [
        (keys[0], 30, 30, "1 second"),
        (keys[1], 20, 20, "1 minute"),
        (keys[2], 10, 10, "1 year"),
    ]
    assert page["pagination"] == {"current_page": 1, "next_page": 1, "num_pages": 1}
    by_value = features("rate_limits.list", search=mine, order_by_field="value", order_by_direction="asc")
    assert [row["key"] for row in by_value["rows"]] == keys[::-1]
    second = features("rate_limits.list", search=mine, limit=1, offset=1)
    assert [row["key"] for row in second["rows"]] == keys[1:2]
    # Put without a duration it is one of seconds, as documented.
    features("rate_limits.put", key=keys[1], limit=7)
    (row,) = features("rate_limits.list", search=keys[1])["rows"]
    assert (row["limitValue"], row["value"], row["window"]) == (7, 7, "1 second")
    later, sooner = (datetime.now(UTC) + timedelta(hours=hours) for hours in (2, 1))
    for until in (later, sooner):
        paused = features("rate_limits.pause", key=keys[0], until=until.isoformat())
        assert datetime.fromisoformat(paused) == later
    (row,) = features("rate_limits.list", search=keys[0])["rows"]
    assert datetime.fromisoformat(row["pausedUntil"]) == later
    with pytest.raises(RuntimeError, match="limit is -1"):
        features("rate_limits.put", key=mine, limit=-1)
    with pytest.raises(RuntimeError, match="is empty"):
        features("rate_limits.put", key="", limit=1)
