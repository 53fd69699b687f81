"""The REST API of runs, tasks, workers and workflows, with bare workers behind it: what it lists, tells, cancels, replays and pauses."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.compat.calls import QUEUE, STOP, Step, by_parent, put, put_log, refresh, release, take
from tests.compat.wire import BareWorker, Wire, unique
from tests.processes import Server, wait_until
from tests.rest import Rest

pytestmark = pytest.mark.timeout(120)

REQUIRED = {
    "createdAt",
    "displayName",
    "input",
    "metadata",
    "numSpawnedChildren",
    "output",
    "status",
    "taskExternalId",
    "taskId",
    "taskInsertedAt",
    "tenantId",
    "type",
    "workflowId",
    "workflowRunExternalId",
}
"""Fields of a task summary without which, or with null in which, official clients reject the answer."""
ZERO_TIME = "0001-01-01T00:00:00Z"


class Stage:
    """Workers that end with the test, and the calls of a test."""

    def __init__(self, wire: Wire, rest: Rest) -> None:
        self.wire = wire
        self.rest = rest
        self.workers: list[BareWorker] = []

    def worker(self, *actions: str, **fields: Any) -> BareWorker:
        worker = BareWorker(self.wire, *actions, **fields)
        self.workers.append(worker)
        return worker

    def single(self, **fields: Any) -> tuple[BareWorker, str]:
        """A worker and the name of the one-task workflow that it serves."""
        name = unique("rest")
        return self.worker(*put(self.wire, name, Step("only", fields=fields))), name

    def graph(self) -> tuple[BareWorker, str, str]:
        """A worker, the name of a workflow of two tasks and one for failures, and a run of it."""
        name = unique("rest")
        actions = put(
            self.wire,
            name,
            Step("one"),
            Step("two", ["one"]),
            on_failure=Step("oops"),
            description="two tasks",
        )
        worker = self.worker(*actions)
        return worker, name, self.wire.trigger(name, '{"n": 1}', additional_metadata='{"team": "a"}')

    def wait_for_status(self, run_id: str, status: str) -> None:
        """An assignment is recorded in the background, and HTTP reads the record."""
        path = f"S/workflow-runs/{run_id}/status"
        wait_until(lambda: self.rest.get(path) == status, what=f"{run_id} to be {status}", timeout=10)

    def listed(self, **params: Any) -> list[dict[str, Any]]:
        given = {"since": ago(60), "only_tasks": False, **params}
        rows: list[dict[str, Any]] = self.rest.get("T/workflow-runs", **given)["rows"]
        return rows


@pytest.fixture
def stage(wire: Wire, rest: Rest) -> Iterator[Stage]:
    one = Stage(wire, rest)
    yield one
    for worker in one.workers:
        worker.close()


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def finish(stage: Stage, worker: BareWorker, run_id: str, *, broken: bool = False) -> None:
    """Completes `one` of a graph, and `two`, or fails it and completes `oops`."""
    stage.wire.complete(take(worker, "one")["one"], '{"v": 1}')
    two = take(worker, "two")["two"]
    if broken:
        stage.wire.fail(two, "ValueError: broken")
        stage.wire.complete(take(worker, "oops")["oops"], '{"cleaned": true}')
    else:
        stage.wire.complete(two, '{"v": 2}')
    stream = stage.wire.runs(run_id)
    stream.next()
    stream.cancel()


# ---- runs


def test_details_of_a_run_tell_everything_of_it(stage: Stage) -> None:
    worker, name, run_id = stage.graph()
    finish(stage, worker, run_id, broken=True)
    found = stage.rest.get(f"S/workflow-runs/{run_id}")
    run = found["run"]
    assert run["metadata"]["id"] == run_id
    assert (run["status"], run["tenantId"]) == ("FAILED", stage.rest.tenant)
    assert run["input"] == {"n": 1}
    assert run["additionalMetadata"]["team"] == "a"
    assert run["displayName"].startswith(f"{name}-")
    assert run["startedAt"] > ZERO_TIME
    assert run["finishedAt"] >= run["startedAt"]
    tasks = {task["displayName"].rsplit("-", 1)[0]: task for task in found["tasks"]}
    assert sorted(tasks) == ["one", "oops", "two"]
    for task in tasks.values():
        assert set(task) >= REQUIRED
        assert all(task[field] is not None for field in REQUIRED)
        assert (task["type"], task["workflowRunExternalId"]) == ("TASK", run_id)
    assert (tasks["one"]["status"], tasks["one"]["output"]) == ("COMPLETED", {"v": 1})
    assert (tasks["two"]["status"], tasks["two"]["errorMessage"]) == ("FAILED", "ValueError: broken")
    assert (tasks["two"]["attempt"], tasks["two"]["retryCount"]) == (1, 0)
    shape = {item["taskName"]: item for item in found["shape"]}
    assert shape["one"]["childrenStepIds"] == [shape["two"]["stepId"]]
    assert shape["one"]["taskExternalId"] == tasks["one"]["metadata"]["id"]
    assert {event["taskId"] for event in found["taskEvents"]} == {
        task["metadata"]["id"] for task in tasks.values()
    }


def test_run_is_told_as_soon_as_it_was_triggered(stage: Stage) -> None:
    _, name = stage.single()
    run_id = stage.wire.trigger(name)
    found = stage.rest.get(f"S/workflow-runs/{run_id}")
    assert found["run"]["metadata"]["id"] == run_id
    assert found["run"]["finishedAt"] == ZERO_TIME
    assert [task["metadata"]["id"] for task in found["tasks"]] == [run_id]


def test_status_is_a_bare_string_that_follows_the_run(stage: Stage) -> None:
    name = unique("rest")
    actions = put(stage.wire, name, Step("only"))
    run_id = stage.wire.trigger(name)
    assert stage.rest.get(f"S/workflow-runs/{run_id}/status") == "QUEUED"
    worker = stage.worker(*actions)
    action = worker.next()
    stage.wire.report(action, 1, worker_id=worker.id)
    stage.wait_for_status(run_id, "RUNNING")
    stage.wire.complete(action)
    stage.wire.result(run_id)
    assert stage.rest.get(f"S/workflow-runs/{run_id}/status") == "COMPLETED"


def test_unknown_and_malformed_ids(stage: Stage) -> None:
    unknown = uuid.uuid4()
    for path in (
        "S/workflow-runs/{}",
        "S/workflow-runs/{}/status",
        "S/tasks/{}",
        "S/tasks/{}/logs",
        "workers/{}",
    ):
        assert stage.rest.raw("GET", path.format(unknown)).status_code == 404, path
        assert stage.rest.raw("GET", path.format("nonsense")).status_code == 400, path


def test_run_of_a_single_task_is_found_as_run_and_as_task(stage: Stage) -> None:
    worker, name = stage.single()
    run_id = stage.wire.trigger(name, '{"n": 5}')
    stage.wire.complete(worker.next(), '{"v": 5}')
    stage.wire.result(run_id)
    details = stage.rest.get(f"S/workflow-runs/{run_id}")
    assert details["run"]["output"] == {"v": 5}
    assert details["run"]["input"]["input"] == {"n": 5}  # the wrapper, as in the original
    task = stage.rest.get(f"S/tasks/{run_id}")
    assert (task["input"], task["output"], task["status"]) == ({"n": 5}, {"v": 5}, "COMPLETED")
    assert task["actionId"] == f"{name}:only"


def test_task_of_a_graph_is_no_run(stage: Stage) -> None:
    worker, _, run_id = stage.graph()
    finish(stage, worker, run_id)
    task_id = stage.rest.get(f"S/workflow-runs/{run_id}")["tasks"][0]["metadata"]["id"]
    assert stage.rest.get(f"S/tasks/{task_id}")["workflowRunExternalId"] == run_id
    assert stage.rest.raw("GET", f"S/workflow-runs/{task_id}").status_code == 404
    assert stage.rest.raw("GET", f"S/tasks/{run_id}").status_code == 404


# ---- lists


def test_list_of_runs_has_a_row_a_run_newest_first(stage: Stage) -> None:
    worker, name, first = stage.graph()
    finish(stage, worker, first)
    second = stage.wire.trigger(name, additional_metadata='{"team": "b"}')
    workflow_id = stage.rest.get(f"S/workflow-runs/{first}")["run"]["workflowId"]
    rows = stage.listed(workflow_ids=workflow_id, include_payloads=True)
    assert [row["metadata"]["id"] for row in rows] == [second, first]
    assert [row["status"] for row in rows] == ["RUNNING", "COMPLETED"]
    for row in rows:
        assert all(row.get(field) is not None for field in REQUIRED), row
        assert (row["type"], row["taskId"], row["workflowName"]) == ("DAG", 0, name)
    assert {child["type"] for child in rows[1]["children"]} == {"TASK"}
    assert sorted(child["status"] for child in rows[1]["children"]) == ["COMPLETED"] * 3
    tasks = stage.listed(workflow_ids=workflow_id, only_tasks=True)
    assert {row["type"] for row in tasks} == {"TASK"}
    assert {row["workflowRunExternalId"] for row in tasks} == {first, second}


def test_list_is_filtered_and_paged(stage: Stage) -> None:
    worker, name = stage.single()
    ids = [stage.wire.trigger(name, additional_metadata=json.dumps({"k": str(n % 2)})) for n in range(5)]
    for index, run_id in enumerate(ids):
        action = worker.next()
        if index == 0:
            stage.wire.fail(action, "no")
            stage.wire.result(run_id)
    workflow_id = stage.rest.get(f"S/workflow-runs/{ids[0]}")["run"]["workflowId"]

    def found(**params: Any) -> list[str]:
        return [row["metadata"]["id"] for row in stage.listed(workflow_ids=workflow_id, **params)]

    assert found() == ids[::-1]
    assert found(statuses="FAILED") == [ids[0]]
    assert sorted(found(statuses=["RUNNING", "QUEUED"])) == sorted(ids[1:])
    assert found(additional_metadata="k:1") == [ids[3], ids[1]]
    assert found(limit=2) == ids[:-3:-1]
    assert found(limit=2, offset=2) == [ids[2], ids[1]]
    assert found(until=ago(3600), since=ago(7200)) == []
    page = stage.rest.get(
        "T/workflow-runs", since=ago(60), only_tasks=False, workflow_ids=workflow_id, limit=2, offset=2
    )["pagination"]
    assert (page["current_page"], page["num_pages"]) == (2, 3)


@pytest.mark.parametrize(
    "params",
    [{}, {"since": "yesterday", "only_tasks": False}, {"only_tasks": False}],
    ids=["none", "bad", "half"],
)
def test_list_without_its_required_parameters_is_refused(stage: Stage, params: dict[str, Any]) -> None:
    answer = stage.rest.raw("GET", "T/workflow-runs", params=params)
    assert answer.status_code == 400
    assert "message" in answer.json() or "errors" in answer.json()


def test_external_ids_are_a_bare_list(stage: Stage) -> None:
    worker, name = stage.single()
    run_id = stage.wire.trigger(name)
    workflow_id = worker.next().workflow_id
    assert stage.rest.get("T/workflow-runs/external-ids", since=ago(60), workflow_ids=workflow_id) == [run_id]


def test_children_are_found_by_their_parent(stage: Stage) -> None:
    worker, name = stage.single()
    parent = stage.wire.trigger(name)
    worker.next()
    child = stage.wire.trigger(name, parent_task_run_external_id=parent, child_index=0)
    rows = stage.listed(parent_task_external_id=parent)
    assert [row["metadata"]["id"] for row in rows] == [child]
    assert stage.rest.get(f"S/tasks/{parent}")["numSpawnedChildren"] == 1


# ---- triggering


def test_trigger_answers_the_new_run(stage: Stage) -> None:
    worker, name = stage.single()
    body = {"workflowName": name, "input": {"n": 9}, "additionalMetadata": {"by": "rest"}, "priority": 3}
    found = stage.rest.post("T/workflow-runs/trigger", body)
    action = worker.next()
    assert action.task_run_external_id == found["run"]["metadata"]["id"]
    assert action.priority == 3
    assert json.loads(action.action_payload)["input"] == {"n": 9}


def test_bad_triggers_are_refused(stage: Stage) -> None:
    _, name = stage.single()
    for body in (
        {"workflowName": unique("nobody"), "input": {}},
        {"workflowName": name, "input": {}, "priority": 7},
        {"workflowName": name},
        {"input": {}},
    ):
        assert stage.rest.raw("POST", "T/workflow-runs/trigger", json=body).status_code == 400, body


# ---- cancel and replay


def test_cancel_and_replay_by_ids(stage: Stage) -> None:
    worker, _, run_id = stage.graph()
    one = take(worker, "one")["one"]
    answer = stage.rest.post("T/tasks/cancel", {"externalIds": [run_id]})
    assert answer["ids"] == [run_id]
    stop = worker.next()
    assert (stop.action_type, stop.task_run_external_id) == (STOP, one.task_run_external_id)
    assert stage.rest.get(f"S/workflow-runs/{run_id}/status") == "CANCELLED"
    answer = stage.rest.post("T/tasks/replay", {"externalIds": [run_id]})
    assert one.task_run_external_id in answer["ids"] or answer["ids"] == [run_id]
    assert stage.rest.get(f"S/workflow-runs/{run_id}/status") != "CANCELLED"
    finish(stage, worker, run_id)
    task = stage.rest.get(f"S/tasks/{one.task_run_external_id}")
    assert (task["retryCount"], task["attempt"], task["output"]) == (1, 2, {"v": 1})


def test_cancel_and_replay_by_filter(stage: Stage) -> None:
    worker, name = stage.single()
    mark = unique("mark")
    marked = [stage.wire.trigger(name, additional_metadata=json.dumps({"mark": mark})) for _ in range(3)]
    other = stage.wire.trigger(name)
    for _ in range(4):
        worker.next()
    for run_id in (*marked, other):
        stage.wait_for_status(run_id, "RUNNING")
    selection = {"since": ago(60), "additionalMetadata": [f"mark:{mark}"]}
    stage.rest.post("T/tasks/cancel", {"filter": {**selection, "statuses": ["RUNNING"]}})
    assert [stage.rest.get(f"S/workflow-runs/{one}/status") for one in marked] == ["CANCELLED"] * 3
    assert stage.rest.get(f"S/workflow-runs/{other}/status") == "RUNNING"
    answer = stage.rest.post("T/tasks/replay", {"filter": {**selection, "statuses": ["CANCELLED"]}})
    assert sorted(answer["ids"]) == sorted(marked)
    assert "CANCELLED" not in {stage.rest.get(f"S/workflow-runs/{one}/status") for one in marked}


def test_ids_and_filter_together_change_nothing(stage: Stage) -> None:
    worker, name = stage.single()
    run_id = stage.wire.trigger(name)
    worker.next()
    stage.wait_for_status(run_id, "RUNNING")
    body = {"externalIds": [run_id], "filter": {"since": ago(60)}}
    for action in ("cancel", "replay"):
        assert stage.rest.raw("POST", f"T/tasks/{action}", json=body).status_code >= 400
    assert stage.rest.get(f"S/workflow-runs/{run_id}/status") == "RUNNING"


def test_token_of_another_tenant_sees_and_changes_nothing(server: Server, stage: Stage) -> None:
    worker, name = stage.single()
    run_id = stage.wire.trigger(name)
    worker.next()
    stage.wait_for_status(run_id, "RUNNING")
    foreign = Rest(server.http_url, server.new_tenant(unique("foreign")))
    try:
        for path in (f"S/workflow-runs/{run_id}", f"S/tasks/{run_id}", f"workers/{worker.id}"):
            assert foreign.raw("GET", path).status_code in {403, 404}, path
        foreign.raw("POST", "T/tasks/cancel", json={"externalIds": [run_id]})
        assert foreign.raw("PATCH", f"workers/{worker.id}", json={"isPaused": True}).status_code in {403, 404}
        answer = foreign.raw(
            "GET", f"stable/tenants/{stage.rest.tenant}/workflow-runs?only_tasks=false&since={ago(60)}"
        )
        assert answer.status_code == 403
    finally:
        foreign.close()
    assert stage.rest.get(f"S/workflow-runs/{run_id}/status") == "RUNNING"


# ---- task events and logs


def test_events_of_a_task_tell_its_story(stage: Stage) -> None:
    worker, name = stage.single(retries=1)
    run_id = stage.wire.trigger(name)
    first = worker.next()
    stage.wire.report(first, 1, worker_id=worker.id)
    stage.wire.fail(first, "the first try", worker_id=worker.id)
    second = worker.next()
    stage.wire.report(second, 1, worker_id=worker.id)
    refresh(stage.wire, run_id, "5s")
    release(stage.wire, run_id)
    stage.wire.complete(second, '{"v": 1}', worker_id=worker.id)
    stage.wire.result(run_id)
    rows = stage.rest.get(f"S/tasks/{run_id}/task-events", limit=100)["rows"]
    kinds = [(row["eventType"], row.get("attempt")) for row in rows]
    assert kinds.index(("FINISHED", 2)) < kinds.index(("FAILED", 1))  # newest first
    assert {kind for kind, _ in kinds} >= {
        "FAILED",
        "STARTED",
        "FINISHED",
        "RETRYING",
        "TIMEOUT_REFRESHED",
        "SLOT_RELEASED",
    }
    failed = next(row for row in rows if row["eventType"] == "FAILED")
    assert failed["errorMessage"] == "the first try"
    assert {row["taskId"] for row in rows} == {run_id}
    assert stage.rest.get(f"S/workflow-runs/{run_id}/task-events")["rows"]


def test_events_of_a_cancelled_and_of_a_skipped_task(stage: Stage) -> None:
    worker, _, run_id = stage.graph()
    finish(stage, worker, run_id)
    tasks = stage.rest.get(f"S/workflow-runs/{run_id}")["tasks"]
    skipped = next(task["metadata"]["id"] for task in tasks if task["displayName"].startswith("oops-"))
    events = stage.rest.get(f"S/tasks/{skipped}/task-events", limit=100)["rows"]
    assert "SKIPPED" in {event["eventType"] for event in events}
    worker, name = stage.single()
    cancelled = stage.wire.trigger(name)
    worker.next()
    stage.rest.post("T/tasks/cancel", {"externalIds": [cancelled]})
    events = stage.rest.get(f"S/tasks/{cancelled}/task-events", limit=100)["rows"]
    assert "CANCELLED" in {event["eventType"] for event in events}


def test_attempt_chooses_what_a_task_tells(stage: Stage) -> None:
    worker, name = stage.single(retries=1)
    run_id = stage.wire.trigger(name)
    stage.wire.fail(worker.next(), "no")
    stage.wire.complete(worker.next(), '{"v": 1}')
    stage.wire.result(run_id)
    assert stage.rest.get(f"S/tasks/{run_id}")["status"] == "COMPLETED"
    first = stage.rest.get(f"S/tasks/{run_id}", attempt=1)
    assert (first["status"], first["errorMessage"]) == ("FAILED", "no")


def test_logs_are_listed_in_order_and_filtered(stage: Stage) -> None:
    worker, name = stage.single()
    run_id = stage.wire.trigger(name)
    worker.next()
    levels = ("INFO", "WARN", "ERROR", "DEBUG")
    for index in range(8):
        put_log(
            stage.wire,
            run_id,
            f"Line {index}",
            level=levels[index % 4],
            metadata='{"n": 1}',
            task_retry_count=0,
        )

    def lines(**params: Any) -> list[str]:
        found = stage.rest.get(f"S/tasks/{run_id}/logs", limit=1000, **params)["rows"]
        return [row["message"] for row in found]

    wait_until(lambda: len(lines()) == 8, what="eight log lines to be stored", timeout=10)
    assert lines() == [f"Line {index}" for index in range(8)]
    assert lines(order_by_direction="DESC")[0] == "Line 7"
    assert lines(levels=["WARN", "ERROR"]) == ["Line 1", "Line 2", "Line 5", "Line 6"]
    assert lines(search="line 3") == ["Line 3"]
    row = stage.rest.get(f"S/tasks/{run_id}/logs", limit=1)["rows"][0]
    assert (row["metadata"], row["level"], row["attempt"]) == ({"n": 1}, "INFO", 1)


# ---- workers and workflows


def test_workers_are_listed_and_told(stage: Stage) -> None:
    worker, name = stage.single()
    rows = stage.rest.get(f"tenants/{stage.rest.tenant}/worker")["rows"]
    row = next(row for row in rows if row["metadata"]["id"] == worker.id)
    assert (row["status"], row["name"], row["type"]) == ("ACTIVE", "bare", "SELFHOSTED")
    assert row["actions"] == [f"{name}:only"]
    assert row["slotConfig"]["default"] == {"available": 10, "limit": 10}
    run_id = stage.wire.trigger(name)
    worker.next()
    found = stage.rest.get(f"workers/{worker.id}")
    assert [slot["stepRunId"] for slot in found["slots"]] == [run_id]
    assert found["slotConfig"]["default"]["available"] == 9


def test_paused_worker_gets_nothing_new_and_keeps_what_it_has(stage: Stage) -> None:
    worker, name = stage.single()
    running = stage.wire.trigger(name)
    action = worker.next()
    assert stage.rest.patch(f"workers/{worker.id}", {"isPaused": True})["status"] == "PAUSED"
    waiting = stage.wire.trigger(name)
    assert worker.stream.silent_for(0.7)
    stage.rest.post("T/tasks/cancel", {"externalIds": [running]})
    assert worker.next().action_type == STOP  # cancels are delivered all the same
    assert action.task_run_external_id == running
    assert stage.rest.patch(f"workers/{worker.id}", {"isPaused": False})["status"] == "ACTIVE"
    assert worker.next().task_run_external_id == waiting


def test_workflows_are_listed_and_told(stage: Stage) -> None:
    _, name, _ = stage.graph()
    rows = stage.rest.get(f"tenants/{stage.rest.tenant}/workflows", name=name.upper())["rows"]
    assert [row["name"] for row in rows] == [name]
    found = stage.rest.get(f"workflows/{rows[0]['metadata']['id']}")
    assert (found["name"], found["description"], found["tenantId"]) == (name, "two tasks", stage.rest.tenant)
    assert len(found["versions"]) == 1
    version = stage.rest.get(f"workflows/{rows[0]['metadata']['id']}/versions")
    assert version["metadata"]["id"] == found["versions"][0]["metadata"]["id"]
    assert stage.rest.raw("GET", f"workflows/{uuid.uuid4()}").status_code == 404


def test_reason_of_a_cancelled_task_is_told(stage: Stage) -> None:
    """A wait that nothing can satisfy any more cancels, and says why."""
    name = unique("rest")
    never = by_parent(QUEUE, "one", "output.v > 100")
    worker = stage.worker(*put(stage.wire, name, Step("one"), Step("two", ["one"], never)))
    run_id = stage.wire.trigger(name)
    stage.wire.complete(worker.next(), '{"v": 1}')
    stream = stage.wire.runs(run_id)
    stream.next()
    stream.cancel()
    tasks = stage.rest.get(f"S/workflow-runs/{run_id}")["tasks"]
    two = next(task for task in tasks if task["displayName"].startswith("two-"))
    assert two["status"] == "CANCELLED"
    events = stage.rest.get(f"S/tasks/{two['metadata']['id']}/task-events", limit=100)["rows"]
    told = two["errorMessage"] + " ".join(
        event["message"] + event.get("errorMessage", "") for event in events
    )
    assert "one" in told
    assert "wait" in told.lower()
