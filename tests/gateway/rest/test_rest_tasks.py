"""Tasks over REST: one task, what happened to it, cancel and replay, its log lines."""

import pytest

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import CancelRuns, ReplayRuns
from broadaxe_gateway.selection import MAX_IDS
from broadaxe_storage.records import RunFilter, TaskEventKind, TaskEventRow, TaskRunState
from tests.factories import make_log, new_id
from tests.gateway.rest.fakes import NOW, NOW_TEXT, TENANT, Rest, T
from tests.gateway.rest.official import (
    V1CancelledTasks,
    V1LogLineList,
    V1ReplayedTasks,
    V1TaskEventList,
    V1TaskSummary,
)

SECOND = 1_000_000
TASKS = "/api/v1/stable/tasks"
CANCEL, REPLAY = f"{T}/tasks/cancel", f"{T}/tasks/replay"


@pytest.fixture
def task(rest):
    """The third task of a run of several, at its second attempt."""
    run = rest.record.add_run_of_several()
    return rest.record.add_task(
        run,
        2,
        state=TaskRunState.COMPLETED,
        attempt=1,
        assigned_at=NOW + SECOND,
        started_at=NOW + SECOND,
        finished_at=NOW + 2 * SECOND,
        output=b'{"v": 1}',
    )


def event(task, kind, at, message=b"", attempt=0):
    return TaskEventRow(TENANT, task.id, attempt, kind, at, None, message)


# ---------------------------------------------------------------- one task


async def test_task_has_the_plain_input_of_its_run(rest, task):
    rest.record.add(rest.record.lone, parent_task_run_id=task.id)
    rest.record.add(rest.record.lone, parent_task_run_id=task.id)
    body = await rest.get_json(f"{TASKS}/{task.id}")
    V1TaskSummary.from_dict(body)
    assert body["input"] == {"n": 1}
    assert body["output"] == {"v": 1}
    assert body["additionalMetadata"] == {"who": "me"}
    assert body["numSpawnedChildren"] == 2
    assert (body["type"], body["isDurable"], body["isEvicted"]) == ("TASK", True, False)
    assert body["createdAt"] == "0001-01-01T00:00:00Z"
    assert body["taskInsertedAt"] == NOW_TEXT
    assert (body["taskExternalId"], body["workflowRunExternalId"]) == (task.id, task.run_id)
    assert body["workflowConfig"]["name"] == "diamond"
    assert (body["retryCount"], body["attempt"], body["status"]) == (1, 2, "COMPLETED")
    assert body["displayName"] == f"right-{NOW // 1000}"


async def test_run_of_one_task_is_a_task_too(rest):
    row = rest.record.add(rest.record.lone)
    body = await rest.get_json(f"{TASKS}/{row.id}")
    V1TaskSummary.from_dict(body)
    assert (body["status"], body["type"], body["input"]) == ("QUEUED", "TASK", {"n": 1})


async def test_earlier_attempt_is_told_by_its_events(rest, task):
    rest.record.events = [
        event(task, TaskEventKind.STARTED, NOW),
        event(task, TaskEventKind.FAILED, NOW + SECOND, b"ValueError: once"),
        event(task, TaskEventKind.RETRYING, NOW + SECOND, b"retry 1 of 1"),
        event(task, TaskEventKind.STARTED, NOW + 2 * SECOND, attempt=1),
    ]
    body = await rest.get_json(f"{TASKS}/{task.id}", attempt=1)
    V1TaskSummary.from_dict(body)
    assert (body["retryCount"], body["attempt"], body["status"]) == (0, 1, "FAILED")
    assert body["errorMessage"] == "ValueError: once"
    assert (body["startedAt"], body["duration"]) == (NOW_TEXT, 1000)
    assert body["output"] == {}
    current = await rest.get_json(f"{TASKS}/{task.id}", attempt=2)
    assert (current["attempt"], current["status"], current["output"]) == (2, "COMPLETED", {"v": 1})
    assert (await rest.get(f"{TASKS}/{task.id}", attempt=3)).status_code == 404
    assert (await rest.get(f"{TASKS}/{task.id}", attempt=0)).status_code == 400


@pytest.mark.parametrize("suffix", ["", "/task-events", "/logs"])
async def test_what_is_no_task_of_the_tenant_is_404(rest, task, suffix):
    for task_id in (new_id(), task.run_id):
        answer = await rest.get(f"{TASKS}/{task_id}{suffix}")
        assert answer.status_code == 404
        assert task_id in answer.json()["errors"][0]["description"]
    foreign = await rest.client.get(f"{TASKS}/{task.id}{suffix}", headers={"Authorization": "Bearer foreign"})
    assert foreign.status_code == 404


async def test_events_of_a_task_come_in_pages_and_without_output(rest, task):
    rest.record.events = [
        event(task, TaskEventKind.CREATED, NOW),
        event(task, TaskEventKind.STARTED, NOW + 1),
        event(task, TaskEventKind.FINISHED, NOW + 2),
    ]
    body = await rest.get_json(f"{TASKS}/{task.id}/task-events")
    V1TaskEventList.from_dict(body)
    assert [row["eventType"] for row in body["rows"]] == ["FINISHED", "STARTED", "CREATED"]
    assert "output" not in body["rows"][0]
    page = await rest.get_json(f"{TASKS}/{task.id}/task-events", offset=1, limit=1)
    assert [row["eventType"] for row in page["rows"]] == ["STARTED"]


# ---------------------------------------------------------------- cancel and replay


async def test_ids_are_cancelled_and_told_back_whole(rest):
    one, two = new_id(), new_id()
    rest.engine.acted_on = (one,)
    answer = await rest.post(CANCEL, {"externalIds": [one, two.upper(), one]})
    assert V1CancelledTasks.from_json(answer.text).ids is not None
    assert answer.json() == {"ids": [one, two]}
    assert rest.engine.asked == [(CancelRuns, TENANT, (one, two), None)]


async def test_replay_tells_the_task_runs_that_run_again(rest):
    run, task = new_id(), new_id()
    rest.engine.acted_on = (task,)
    answer = await rest.post(REPLAY, {"externalIds": [run]})
    assert V1ReplayedTasks.from_json(answer.text).ids is not None
    assert answer.json() == {"ids": [task]}
    assert rest.engine.asked == [(ReplayRuns, TENANT, (run,), None)]


@pytest.mark.parametrize(("path", "message"), [(CANCEL, CancelRuns), (REPLAY, ReplayRuns)])
async def test_filter_reaches_the_engine_whole(rest, path, message):
    workflow, found = new_id(), new_id()
    rest.engine.acted_on = (found,)
    wanted = {
        "since": NOW_TEXT,
        "until": "2026-01-02T03:04:06Z",
        "statuses": ["FAILED", "CANCELLED"],
        "workflowIds": [workflow],
        "additionalMetadata": ["customer:a:b"],
    }
    answer = await rest.post(path, {"filter": wanted})
    assert answer.json() == {"ids": [found]}
    ((asked, tenant, ids, run_filter),) = rest.engine.asked
    assert (asked, tenant, ids) == (message, TENANT, ())
    assert run_filter == RunFilter(
        NOW,
        NOW - 123_456 + SECOND,
        (TaskRunState.FAILED, TaskRunState.CANCELLED),
        (workflow,),
        (("customer", "a:b"),),
    )


@pytest.mark.parametrize("path", [CANCEL, REPLAY])
async def test_empty_list_of_ids_means_nothing(rest, path):
    answer = await rest.post(path, {"externalIds": []})
    assert answer.json() == {"ids": []}
    assert rest.engine.asked == []


@pytest.mark.parametrize("path", [CANCEL, REPLAY])
@pytest.mark.parametrize(
    ("body", "shape", "reason"),
    [
        ({}, "errors", "neither ids nor a filter"),
        ({"externalIds": [new_id()], "filter": {"since": NOW_TEXT}}, "errors", "both given"),
        ({"externalIds": [new_id() for _ in range(MAX_IDS + 1)]}, "errors", "10,001 runs or tasks"),
        ({"filter": {"since": NOW_TEXT, "additionalMetadata": ["a"]}}, "errors", "expected key:value"),
        ({"filter": {}}, "message", "since"),
        ({"filter": {"since": "soon"}}, "message", "since"),
        ({"filter": {"since": NOW_TEXT, "statuses": ["DONE"]}}, "message", "statuses"),
        ({"externalIds": ["run-1"]}, "message", "externalIds"),
        ([], "message", "body"),
    ],
)
async def test_selection_that_does_not_fit_is_400(rest, path, body, shape, reason):
    answer = await rest.post(path, body)
    assert answer.status_code == 400
    assert set(answer.json()) == {shape}
    assert reason in answer.text
    assert rest.engine.asked == []


async def test_replay_that_is_switched_off_is_400_and_cancel_is_not():
    rest = Rest(SERVER_REPLAY_ENABLED="false")
    async with rest.client:
        answer = await rest.post(REPLAY, {"externalIds": [new_id()]})
        assert answer.status_code == 400
        assert "SERVER_REPLAY_ENABLED" in answer.json()["errors"][0]["description"]
        assert (await rest.post(CANCEL, {"externalIds": [new_id()]})).status_code == 200


async def test_refusal_of_the_engine_keeps_its_words(rest):
    rest.engine.refusal = Refused(Code.UNAVAILABLE, "the tenant is being rebuilt")
    answer = await rest.post(CANCEL, {"externalIds": [new_id()]})
    assert answer.status_code == 503
    assert "being rebuilt" in answer.text


async def test_other_tenant_may_neither_cancel_nor_replay(rest):
    for path in (CANCEL, REPLAY):
        answer = await rest.client.post(
            path, json={"externalIds": [new_id()]}, headers={"Authorization": "Bearer foreign"}
        )
        assert answer.status_code == 403
    assert rest.engine.asked == []


# ---------------------------------------------------------------- logs


async def test_log_lines_have_the_documented_shape(rest, task):
    rest.record.logs = [
        make_log(
            task.id,
            tenant_id=TENANT,
            attempt=1,
            created_at=NOW,
            level="WARN",
            metadata='{"k": [1]}',
            message=b"hello \xc3\xa4",
        ),
        make_log(task.id, tenant_id=TENANT, created_at=NOW, level=None, metadata=None, message=b"\xff"),
    ]
    body = await rest.get_json(f"{TASKS}/{task.id}/logs")
    V1LogLineList.from_dict(body)
    first, second = body["rows"]
    assert first == {
        "createdAt": NOW_TEXT,
        "message": "hello \u00e4",
        "metadata": {"k": [1]},
        "taskExternalId": task.id,
        "taskDisplayName": f"right-{NOW // 1000}",
        "retryCount": 1,
        "attempt": 2,
        "level": "WARN",
    }
    assert "level" not in second
    assert (second["metadata"], second["message"]) == ({}, "\ufffd")
    assert body["pagination"] == {"current_page": 0, "next_page": 0, "num_pages": 0}


async def test_log_filters_reach_the_record(rest, task):
    common = {
        "limit": 7,
        "since": NOW_TEXT,
        "until": "2026-01-02T03:04:06Z",
        "search": "Boom",
        "levels": ["ERROR", "WARN"],
        "order_by_direction": "DESC",
        "attempt": 3,
    }
    await rest.get_json(f"{TASKS}/{task.id}/logs", **common)
    one = rest.record.queries[-1]
    assert one.task_run_ids == (task.id,)
    assert (one.limit, one.since, one.until) == (7, NOW, NOW - 123_456 + SECOND)
    assert (one.search, one.levels, one.attempt) == ("Boom", ("ERROR", "WARN"), 2)
    assert one.is_descending
    body = await rest.get_json(f"{TASKS}/{task.id}")
    await rest.get_json(
        f"{T}/logs",
        taskExternalIds=[task.id],
        workflow_ids=[task.workflow_id],
        step_ids=[body["stepId"], new_id()],
        **common,
    )
    many = rest.record.queries[-1]
    assert many == one._replace(workflow_ids=(task.workflow_id,), steps=((task.workflow_version_id, 2),))
    await rest.get_json(f"{T}/logs", step_ids=[new_id()])
    assert rest.record.queries[-1].steps == ()


@pytest.mark.parametrize(
    "params", [{"limit": 0}, {"limit": 10_001}, {"levels": "TRACE"}, {"attempt": 0}, {"since": "x"}]
)
async def test_log_filters_that_do_not_fit_are_400(rest, task, params):
    assert (await rest.get(f"{TASKS}/{task.id}/logs", **params)).status_code == 400
    assert (await rest.get(f"{T}/logs", **params)).status_code == 400
