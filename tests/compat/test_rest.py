"""The feature clients of an unmodified hatchet-sdk (runs, logs, workflows, workers), which speak REST, against a real server."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire import events_pb2 as events
from tests.compat.conftest import Workers
from tests.compat.wire import Wire, unique
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
