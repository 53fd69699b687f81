"""The REST API of runs, with bare workers behind it: what it lists, tells, triggers, cancels and replays."""

import json
import uuid
from typing import Any

import pytest

from tests.compat.calls import STOP, Step, put, take
from tests.compat.wire import unique
from tests.e2e.runs.stage import Stage, ago, finish
from tests.processes import Server
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
    stage.wait_for_status(second, "RUNNING")
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
