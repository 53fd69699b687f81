"""The REST API of tasks, workers and workflows, with bare workers behind it: events, logs, pauses."""

import uuid
from typing import Any

import pytest

from tests.compat.calls import QUEUE, STOP, Step, by_parent, put, put_log, refresh, release
from tests.compat.wire import unique
from tests.e2e.runs.stage import Stage, finish
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(120)


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
