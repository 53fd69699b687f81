"""Runs over REST: listings, details, triggers, in the documented shapes; each answer is read by the official client's own models."""

import pytest

from broadaxe_storage.records import TaskEventKind, TaskEventRow, TaskRunState
from tests.factories import new_id
from tests.gateway.rest.fakes import LONE, NOW, NOW_TEXT, TENANT, T, version_of
from tests.gateway.rest.official import (
    V1TaskEventList,
    V1TaskSummaryList,
    V1TaskTimingList,
    V1WorkflowRunDetails,
    V1WorkflowRunDisplayNameList,
)

SINCE = "2026-01-01T00:00:00.000000Z"
RUNS = f"{T}/workflow-runs"
SECOND = 1_000_000
ZERO_TIME = "0001-01-01T00:00:00Z"
NIL = "00000000-0000-0000-0000-000000000000"


def wrapper(given):
    return {
        "input": given,
        "triggered_by": "manual",
        "parents": {},
        "triggers": {"filter_payload": None},
        "user_data": None,
        "overrides": None,
    }


def event(task, kind, at, message=b"", attempt=0, worker_id=None):
    return TaskEventRow(TENANT, task.id, attempt, kind, at, worker_id, message)


@pytest.fixture
def done(rest):
    """A run of one task that has completed."""
    return rest.record.add(
        rest.record.lone,
        state=TaskRunState.COMPLETED,
        attempt=2,
        assigned_at=NOW + SECOND,
        started_at=NOW + 2 * SECOND,
        finished_at=NOW + 5 * SECOND,
        output=b'{"sum": 1.50, "none": null}',
        idempotency_key="order-1",
    )


@pytest.fixture
def diamond(rest):
    """A run of several tasks under way: its first task has completed, its second runs, the others do not exist yet."""
    run = rest.record.add_run_of_several(parent_task_run_id=new_id(), state=TaskRunState.RUNNING)
    top = rest.record.add_task(
        run,
        0,
        state=TaskRunState.COMPLETED,
        assigned_at=NOW + SECOND,
        started_at=NOW + SECOND,
        finished_at=NOW + 3 * SECOND,
        output=b'{"v": 1}',
    )
    left = rest.record.add_task(
        run,
        1,
        state=TaskRunState.RUNNING,
        attempt=1,
        assigned_at=NOW + 4 * SECOND,
        started_at=NOW + 4 * SECOND,
    )
    return run, top, left


# ---------------------------------------------------------------- listing


async def test_listed_run_of_one_task_has_the_documented_shape(rest, done):
    body = await rest.get_json(RUNS, since=SINCE, only_tasks=False)
    V1TaskSummaryList.from_dict(body)
    (row,) = body["rows"]
    assert row == {
        "metadata": {"id": done.id, "createdAt": NOW_TEXT, "updatedAt": NOW_TEXT},
        "actionId": "lone:only",
        "retryCount": 2,
        "attempt": 3,
        "additionalMetadata": {"who": "me"},
        "createdAt": NOW_TEXT,
        "displayName": f"only-{NOW // 1000}",
        "duration": 3000,
        "errorMessage": "",
        "finishedAt": "2026-01-02T03:04:10.123456Z",
        "input": {},
        "numSpawnedChildren": 0,
        "output": {},
        "status": "COMPLETED",
        "startedAt": "2026-01-02T03:04:07.123456Z",
        "stepId": row["stepId"],
        "taskExternalId": done.id,
        "taskId": row["taskId"],
        "taskInsertedAt": NOW_TEXT,
        "tenantId": TENANT,
        "type": "DAG",
        "workflowId": done.workflow_id,
        "workflowName": "lone",
        "workflowRunExternalId": done.id,
        "workflowVersionId": done.workflow_version_id,
        "idempotencyKey": "order-1",
    }
    assert 0 < row["taskId"] < 2**53
    assert body["pagination"] == {"current_page": 1, "next_page": 2, "num_pages": 1}


async def test_payloads_are_shown_when_asked_for_and_as_they_are(rest, done):
    answer = await rest.get(RUNS, since=SINCE, only_tasks=False, include_payloads=True)
    V1TaskSummaryList.from_json(answer.text)
    (row,) = answer.json()["rows"]
    assert row["input"] == wrapper({"n": 1})
    assert row["output"] == {"sum": 1.5, "none": None}
    # Spliced, not written anew.
    assert '"output":{"sum": 1.50, "none": null}' in answer.text


async def test_listed_run_of_several_tasks_has_its_tasks_as_children(rest, diamond):
    run, top, left = diamond
    body = await rest.get_json(RUNS, since=SINCE, only_tasks=False, include_payloads=True)
    V1TaskSummaryList.from_dict(body)
    (row,) = body["rows"]
    assert (row["type"], row["status"], row["actionId"], row["taskId"]) == ("DAG", "RUNNING", "", 0)
    assert row["displayName"] == f"diamond-{NOW // 1000}"
    assert row["stepId"] == NIL
    assert (row["retryCount"], row["attempt"]) == (1, 2)
    assert row["startedAt"] == "2026-01-02T03:04:06.123456Z"
    assert "finishedAt" not in row
    assert "duration" not in row
    assert row["input"] == {"n": 1}
    assert row["output"] == {"v": 1}
    assert row["parentTaskExternalId"] == run.parent_task_run_id
    first, second = row["children"]
    assert [child["taskExternalId"] for child in row["children"]] == [top.id, left.id]
    assert {child["type"] for child in row["children"]} == {"TASK"}
    assert {child["workflowRunExternalId"] for child in row["children"]} == {run.id}
    assert (first["status"], second["status"]) == ("COMPLETED", "RUNNING")
    assert first["input"] == wrapper({"n": 1})
    assert first["additionalMetadata"] == {"who": "me"}
    assert second["output"] == {}


async def test_listing_of_tasks_has_tasks_alone(rest, diamond, done):
    body = await rest.get_json(RUNS, since=SINCE, only_tasks=True)
    V1TaskSummaryList.from_dict(body)
    assert {row["taskExternalId"] for row in body["rows"]} == {done.id, diamond[1].id, diamond[2].id}
    assert {row["type"] for row in body["rows"]} == {"TASK"}


async def test_evicted_reads_as_running_and_says_so(rest):
    rest.record.add(rest.record.lone, state=TaskRunState.EVICTED)
    run = rest.record.add_run_of_several(created_at=NOW - SECOND, state=TaskRunState.RUNNING)
    rest.record.add_task(run, 1, state=TaskRunState.EVICTED)
    rest.record.add_task(run, 0, state=TaskRunState.COMPLETED, finished_at=NOW, assigned_at=NOW)
    lone, several = (await rest.get_json(RUNS, since=SINCE, only_tasks=False))["rows"]
    assert (lone["status"], lone["isEvicted"]) == ("RUNNING", True)
    assert (several["status"], several["isEvicted"]) == ("RUNNING", True)
    assert ["isEvicted" in child for child in several["children"]] == [False, True]


@pytest.mark.parametrize("only_tasks", [False, True])
async def test_long_page_is_whole(rest, only_tasks):
    for number in range(300):
        rest.record.add(rest.record.lone, created_at=NOW + number)
    body = await rest.get_json(RUNS, since=SINCE, only_tasks=only_tasks, limit=1000, include_payloads=True)
    assert len(V1TaskSummaryList.from_dict(body).rows) == 300
    assert all(row["input"] == wrapper({"n": 1}) for row in body["rows"])


async def test_pages_are_numbered_by_offset(rest):
    for number in range(5):
        rest.record.add(rest.record.lone, created_at=NOW + number)
    body = await rest.get_json(RUNS, since=SINCE, only_tasks=False, limit=2, offset=4)
    assert body["pagination"] == {"current_page": 3, "next_page": 4, "num_pages": 3}
    assert [row["metadata"]["createdAt"] for row in body["rows"]] == [NOW_TEXT]


async def test_run_of_a_deleted_version_is_listed_all_the_same(rest, done):
    rest.record.versions.clear()
    body = await rest.get_json(RUNS, since=SINCE, only_tasks=False)
    V1TaskSummaryList.from_dict(body)
    assert "workflowName" not in body["rows"][0]


async def test_all_filters_reach_the_record(rest):
    ids = [new_id() for _ in range(4)]
    await rest.get_json(
        RUNS,
        since="2026-01-02T04:04:05.5+01:00",
        until="2026-01-02T03:04:06",
        only_tasks=False,
        statuses=["RUNNING", "FAILED"],
        running_filter="ON_WORKER",
        workflow_ids=[ids[0], ids[1].upper()],
        worker_id=ids[3],
        additional_metadata=["a:b:c", "malformed", "x:"],
        additional_metadata_operator="AND",
        parent_task_external_id=ids[2],
        triggering_event_external_id=ids[3],
        idempotency_keys=["k1", "k2"],
    )
    listed, query = rest.record.queries
    assert listed == query
    assert query.since == NOW - 123_456 + 500_000
    assert query.until == NOW - 123_456 + SECOND
    assert set(query.states) == {TaskRunState.ASSIGNED, TaskRunState.RUNNING, TaskRunState.FAILED}
    assert query.workflow_ids == (ids[0], ids[1])
    assert query.metadata == (("a", "b:c"), ("x", ""))
    assert query.needs_all_metadata
    assert query.parent_task_run_id == ids[2]
    assert query.triggering_event_id == ids[3]
    assert query.idempotency_keys == ("k1", "k2")
    # A worker has tasks, not runs; a parent has runs, not tasks.
    assert query.worker_id is None
    await rest.get_json(RUNS, since=SINCE, only_tasks=True, worker_id=ids[3], parent_task_external_id=ids[2])
    query = rest.record.queries[-1]
    assert (query.worker_id, query.parent_task_run_id, query.only_tasks) == (ids[3], None, True)


async def test_evicted_ones_alone_are_those_of_the_running(rest):
    await rest.get_json(RUNS, since=SINCE, only_tasks=False, running_filter="EVICTED", statuses=["RUNNING"])
    assert rest.record.queries[-1].states == (TaskRunState.EVICTED,)
    await rest.get_json(RUNS, since=SINCE, only_tasks=False, running_filter="EVICTED")
    states = set(rest.record.queries[-1].states)
    assert states == set(TaskRunState) - {TaskRunState.ASSIGNED, TaskRunState.RUNNING}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"since": SINCE},
        {"only_tasks": False},
        {"since": "yesterday", "only_tasks": False},
        {"since": SINCE, "only_tasks": False, "statuses": "EVICTED"},
        {"since": SINCE, "only_tasks": False, "limit": 0},
        {"since": SINCE, "only_tasks": False, "limit": 1001, "include_payloads": True},
        {"since": SINCE, "only_tasks": False, "limit": 10_001},
        {"since": SINCE, "only_tasks": False, "offset": -1},
        {"since": SINCE, "only_tasks": False, "workflow_ids": "flow"},
        {"since": SINCE, "only_tasks": False, "additional_metadata_operator": "NOT"},
    ],
)
async def test_parameters_that_do_not_fit_are_400_with_a_message(rest, params):
    answer = await rest.get(RUNS, **params)
    assert answer.status_code == 400
    assert set(answer.json()) == {"message"}
    assert rest.record.queries == []


async def test_tenant_of_the_path_must_be_that_of_the_token(rest):
    foreign = await rest.client.get(
        RUNS, params={"since": SINCE, "only_tasks": False}, headers={"Authorization": "Bearer foreign"}
    )
    assert foreign.status_code == 403
    assert set(foreign.json()) == {"message"}
    nobody = await rest.client.get(
        RUNS, params={"since": SINCE, "only_tasks": False}, headers={"Authorization": ""}
    )
    assert nobody.status_code == 403


async def test_ids_are_a_bare_list_that_begins_after_since(rest, done):
    ids = f"{RUNS}/external-ids"
    assert await rest.get_json(ids, since=SINCE) == [done.id]
    assert await rest.get_json(ids, since=NOW_TEXT, additional_metadata="a:b", statuses="COMPLETED") == []
    query = rest.record.queries[-1]
    assert (query.since, query.metadata) == (NOW + 1, (("a", "b"),))
    assert set(query.states) == {TaskRunState.COMPLETED, TaskRunState.SKIPPED}


async def test_display_names_come_in_the_order_asked_for(rest, done, diamond):
    run = diamond[0]
    body = await rest.get_json(f"{RUNS}/display-names", external_ids=[run.id, new_id(), done.id])
    V1WorkflowRunDisplayNameList.from_dict(body)
    assert [(row["metadata"]["id"], row["displayName"]) for row in body["rows"]] == [
        (run.id, f"diamond-{NOW // 1000}"),
        (done.id, f"only-{NOW // 1000}"),
    ]
    assert body["pagination"] == {"current_page": 1, "num_pages": 1}
    assert (await rest.get(f"{RUNS}/display-names")).status_code == 400


# ---------------------------------------------------------------- details


async def test_details_of_a_run_of_one_task(rest, done):
    rest.record.events = [
        event(done, TaskEventKind.CREATED, NOW),
        event(done, TaskEventKind.STARTED, NOW + 2 * SECOND, attempt=2),
        event(done, TaskEventKind.FINISHED, NOW + 5 * SECOND, attempt=2),
    ]
    body = await rest.get_json(f"/api/v1/stable/workflow-runs/{done.id}")
    V1WorkflowRunDetails.from_dict(body)
    run = body["run"]
    assert run["metadata"]["id"] == done.id
    assert (run["status"], run["duration"], run["errorMessage"]) == ("COMPLETED", 3000, "")
    assert run["startedAt"] == "2026-01-02T03:04:07.123456Z"
    assert run["finishedAt"] == "2026-01-02T03:04:10.123456Z"
    assert run["createdAt"] == NOW_TEXT
    assert run["displayName"] == f"only-{NOW // 1000}"
    assert run["input"] == wrapper({"n": 1})
    assert run["output"] == {"sum": 1.5, "none": None}
    assert run["additionalMetadata"] == {"who": "me"}
    (task,) = body["tasks"]
    assert task["createdAt"] == ZERO_TIME
    assert (task["type"], task["isDurable"], task["isEvicted"]) == ("TASK", False, False)
    assert "workflowName" not in task
    assert body["shape"] == [
        {"taskExternalId": done.id, "stepId": task["stepId"], "childrenStepIds": [], "taskName": "only"}
    ]
    assert body["workflowConfig"]["name"] == "lone"
    assert [(entry["eventType"], entry["attempt"]) for entry in body["taskEvents"]] == [
        ("FINISHED", 3),
        ("STARTED", 3),
        ("CREATED", 1),
    ]
    assert body["taskEvents"][0]["output"] == '{"sum": 1.50, "none": null}'
    assert "output" not in body["taskEvents"][1]


async def test_details_of_a_run_of_several_tasks_show_its_shape(rest, diamond):
    run, top, left = diamond
    body = await rest.get_json(f"/api/v1/stable/workflow-runs/{run.id}")
    V1WorkflowRunDetails.from_dict(body)
    assert body["run"]["input"] == {"n": 1}
    assert body["run"]["output"] == {"v": 1}
    assert body["run"]["finishedAt"] == ZERO_TIME
    assert body["run"]["status"] == "RUNNING"
    assert [task["taskExternalId"] for task in body["tasks"]] == [top.id, left.id]
    assert body["tasks"][1]["input"] == wrapper({"n": 1})
    shape = {item["taskName"]: item for item in body["shape"]}
    assert list(shape) == ["top", "left", "right", "mend"]
    assert shape["top"]["childrenStepIds"] == [shape["left"]["stepId"], shape["right"]["stepId"]]
    assert shape["left"]["taskExternalId"] == left.id
    assert shape["right"]["taskExternalId"] == NIL
    assert shape["mend"]["childrenStepIds"] == []
    assert body["tasks"][0]["stepId"] == shape["top"]["stepId"]


async def test_failed_run_tells_the_first_error(rest):
    run = rest.record.add_run_of_several(state=TaskRunState.FAILED, finished_at=NOW + 9 * SECOND)
    rest.record.add_task(
        run, 0, state=TaskRunState.FAILED, finished_at=NOW + 2 * SECOND, error=b"ValueError: second"
    )
    rest.record.add_task(
        run, 1, state=TaskRunState.FAILED, finished_at=NOW + SECOND, error=b"ValueError: first"
    )
    rest.record.add_task(run, 2, state=TaskRunState.SKIPPED, finished_at=NOW, output=b'{"skipped": true}')
    body = await rest.get_json(f"/api/v1/stable/workflow-runs/{run.id}")
    V1WorkflowRunDetails.from_dict(body)
    assert (body["run"]["status"], body["run"]["errorMessage"]) == ("FAILED", "ValueError: first")
    assert [task["status"] for task in body["tasks"]] == ["FAILED", "FAILED", "COMPLETED"]
    assert body["run"]["output"] == {}


async def test_large_input_is_not_repeated_with_every_task(rest, monkeypatch):
    monkeypatch.setattr("broadaxe_gateway.http.rest.present_runs.MAX_REPEATED_BYTES", 1000)
    run = rest.record.add_run_of_several(input=b'{"x": "' + b"x" * 600 + b'"}')
    for step in range(2):
        rest.record.add_task(run, step)
    body = await rest.get_json(f"/api/v1/stable/workflow-runs/{run.id}")
    assert len(body["run"]["input"]["x"]) == 600
    assert [task["input"] for task in body["tasks"]] == [{}, {}]


@pytest.mark.parametrize("output", [None, b"", b"null", b"[1]", b'"text"', b"5"])
async def test_only_an_object_is_an_output(rest, output):
    row = rest.record.add(
        rest.record.lone, state=TaskRunState.COMPLETED, finished_at=NOW, output=output, input=b" [1]"
    )
    body = await rest.get_json(f"/api/v1/stable/workflow-runs/{row.id}")
    assert body["run"]["output"] == {}
    assert body["run"]["input"]["input"] is None


@pytest.mark.parametrize("suffix", ["", "/status", "/task-events", "/task-timings"])
async def test_what_is_no_run_of_the_tenant_is_404(rest, done, diamond, suffix):
    for run_id in (new_id(), diamond[1].id):
        answer = await rest.get(f"/api/v1/stable/workflow-runs/{run_id}{suffix}")
        assert answer.status_code == 404
        assert run_id in answer.json()["errors"][0]["description"]
    foreign = await rest.client.get(
        f"/api/v1/stable/workflow-runs/{done.id}{suffix}", headers={"Authorization": "Bearer foreign"}
    )
    assert foreign.status_code == 404
    assert (await rest.get(f"/api/v1/stable/workflow-runs/run-1{suffix}")).status_code == 400


# ---------------------------------------------------------------- events and timings


async def test_events_of_a_run_are_the_last_of_each_kind_newest_first(rest, diamond):
    run, top, left = diamond
    worker = new_id()
    rest.record.events = [
        event(top, TaskEventKind.CREATED, NOW),
        event(left, TaskEventKind.STARTED, NOW + 10),
        event(left, TaskEventKind.TIMED_OUT, NOW + 20, b"Task exceeded timeout of 3s"),
        event(left, TaskEventKind.REASSIGNED, NOW + 25, b"worker w is lost", worker_id=worker),
        event(left, TaskEventKind.TIMEOUT_REFRESHED, NOW + 30, b"by 1s", attempt=1),
        event(left, TaskEventKind.TIMEOUT_REFRESHED, NOW + 40, b"by 2s", attempt=1),
        event(left, TaskEventKind.CONDITION_FAILED, NOW + 50, b"bad expression", attempt=1),
        event(left, TaskEventKind.QUARANTINED, NOW + 60, b"crashed", attempt=1),
        event(top, TaskEventKind.FINISHED, NOW + 15),
    ]
    body = await rest.get_json(f"/api/v1/stable/workflow-runs/{run.id}/task-events", limit=1)
    V1TaskEventList.from_dict(body)
    rows = body["rows"]
    assert [row["eventType"] for row in rows] == [
        "FAILED",
        "QUEUED",
        "TIMEOUT_REFRESHED",
        "REASSIGNED",
        "TIMED_OUT",
        "FINISHED",
        "STARTED",
        "CREATED",
    ]
    assert [row["id"] for row in rows] == list(range(8, 0, -1))
    assert (rows[0]["errorMessage"], rows[0]["message"]) == ("crashed", "")
    assert (rows[1]["errorMessage"], rows[1]["message"]) == ("", "bad expression")
    assert (rows[2]["message"], rows[2]["retryCount"], rows[2]["attempt"]) == ("by 2s", 1, 2)
    assert rows[3]["workerId"] == worker
    assert rows[4]["errorMessage"] == "Task exceeded timeout of 3s"
    assert rows[5]["output"] == '{"v": 1}'
    assert rows[5]["taskDisplayName"] == f"top-{NOW // 1000}"
    assert body["pagination"] == {}


async def test_every_kind_of_event_has_a_name_on_the_wire(rest, done):
    rest.record.events = [event(done, kind, NOW, attempt=number) for number, kind in enumerate(TaskEventKind)]
    body = await rest.get_json(f"/api/v1/stable/workflow-runs/{done.id}/task-events")
    assert len(V1TaskEventList.from_dict(body).rows) == len(TaskEventKind)


async def test_timings_follow_children_down_to_the_depth_asked_for(rest, diamond):
    run, top, left = diamond
    child = rest.record.add(rest.record.lone, parent_task_run_id=top.id, state=TaskRunState.RUNNING)
    other = rest.record.add_run_of_several(parent_task_run_id=left.id)
    below = rest.record.add_task(other, 0)
    deepest = rest.record.add(rest.record.lone, parent_task_run_id=below.id)
    path = f"/api/v1/stable/workflow-runs/{run.id}/task-timings"
    body = await rest.get_json(path, depth=10)
    V1TaskTimingList.from_dict(body)
    assert [(row["taskExternalId"], row["depth"]) for row in body["rows"]] == [
        (top.id, 0),
        (child.id, 1),
        (left.id, 0),
        (below.id, 1),
        (deepest.id, 2),
    ]
    assert body["rows"][1]["parentTaskExternalId"] == top.id
    assert body["rows"][3]["workflowRunId"] == other.id
    assert [row["depth"] for row in (await rest.get_json(path, depth=1))["rows"]] == [0, 1, 0, 1]
    assert [row["depth"] for row in (await rest.get_json(path))["rows"]] == [0, 0]
    for depth in (-1, 11):
        assert (await rest.get(path, depth=depth)).status_code == 400


async def test_latest_version_names_its_tasks(rest, done):
    # Versions never change, so the one that was read first still names the task of a run of it.
    await rest.get_json(f"/api/v1/stable/workflow-runs/{done.id}")
    rest.record.versions = [version_of(LONE, workflow_id=done.workflow_id, number=2)]
    body = await rest.get_json(f"/api/v1/stable/workflow-runs/{done.id}")
    assert body["run"]["displayName"] == f"only-{NOW // 1000}"
