"""Crons and scheduled runs by an unmodified hatchet-sdk: its feature clients, `schedule`, `create_cron` and `on_crons`, against a real server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.compat.conftest import Workers
from tests.compat.test_rest import Features, features
from tests.compat.wire import Wire, unique
from tests.processes import PYTHON, ROLES, Process, Server, closing, wait_until
from tests.rest import Rest

__all__ = ["features"]

pytestmark = pytest.mark.timeout(180)
YEARLY = "0 0 1 1 *"


def at(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


def ids_of(found: dict[str, Any]) -> list[str]:
    return [row["metadata"]["id"] for row in found["rows"]]


def test_crons_are_made_listed_read_and_deleted(
    features: Features, wire: Wire, bare_worker: type[Workers]
) -> None:
    name, marker = unique("cron"), unique("m")
    worker = bare_worker.of(wire.put_workflow(name), slots=100)
    given = {"workflow_name": name, "input": {"n": 1}, "additional_metadata": {"m": marker}}
    made = features("cron.create", cron_name="yearly", expression=YEARLY, priority=2, **given)
    assert (made["cron"], made["name"], made["method"], made["enabled"], made["priority"]) == (
        YEARLY,
        "yearly",
        "API",
        True,
        2,
    )
    alias = features("cron.create", cron_name="alias", expression="@daily", **given)
    fast = features("cron.create", cron_name="fast", expression="* * * * * *", **given)
    started = worker.next()
    assert started.additional_metadata.count("hatchet__cron_scheduled_at") == 1
    for row in (made, alias):
        assert features("cron.get", cron_id=row["metadata"]["id"])["input"] == {"n": 1}
    listed = features("cron.list", workflow_name=name, additional_metadata={"m": marker})
    assert ids_of(listed) == [row["metadata"]["id"] for row in (fast, alias, made)]
    listed = features(
        "cron.list",
        workflow_id=made["workflowId"],
        order_by_field="createdAt",
        order_by_direction="ASC",
        limit=1,
        offset=1,
    )
    assert ids_of(listed) == [alias["metadata"]["id"]]
    assert listed["pagination"]["num_pages"] == 3
    features("cron.delete", cron_id=fast["metadata"]["id"])
    with pytest.raises(RuntimeError, match="NotFoundException"):
        features("cron.delete", cron_id=fast["metadata"]["id"])
    with pytest.raises(RuntimeError, match="exists already"):
        features("cron.create", cron_name="yearly", expression=YEARLY, **given)
    with pytest.raises(RuntimeError, match="is not registered"):
        features("cron.create", cron_name="c", expression=YEARLY, **{**given, "workflow_name": "nobody"})


def test_scheduled_runs_are_made_moved_listed_and_deleted(
    features: Features, wire: Wire, bare_worker: type[Workers]
) -> None:
    name, marker = unique("scheduled"), unique("m")
    worker = bare_worker.of(wire.put_workflow(name), slots=100)
    given = {"workflow_name": name, "input": {"n": 1}, "additional_metadata": {"m": marker}}
    far, soon = (features("scheduled.create", trigger_at=at(days=days), **given) for days in (9, 8))
    far_id, soon_id = far["metadata"]["id"], soon["metadata"]["id"]
    assert (far["method"], far.get("workflowRunId"), far["input"]) == ("API", None, {"n": 1})
    listed = features("scheduled.list", additional_metadata={"m": marker}, statuses=["SCHEDULED"])
    assert ids_of(listed) == [far_id, soon_id]
    listed = features(
        "scheduled.list",
        workflow_id=far["workflowId"],
        order_by_field="triggerAt",
        order_by_direction="ASC",
    )
    assert ids_of(listed) == [soon_id, far_id]
    features("scheduled.update", scheduled_id=soon_id, trigger_at=at(milliseconds=200))
    started = worker.next()
    row = features("scheduled.get", scheduled_id=soon_id)
    assert row["workflowRunId"] == started.workflow_run_id
    assert row["workflowRunStatus"] in {"QUEUED", "RUNNING"}  # an assignment is recorded in the background
    with pytest.raises(RuntimeError, match=r"(?s)BadRequestException.*triggered already"):
        features("scheduled.update", scheduled_id=soon_id, trigger_at=at(days=1))
    wire.complete(started)
    wait_until(
        lambda: features("scheduled.get", scheduled_id=soon_id)["workflowRunStatus"] == "SUCCEEDED",
        what="the end of the run",
    )
    features("scheduled.delete", scheduled_id=soon_id)
    with pytest.raises(RuntimeError, match="NotFoundException"):
        features("scheduled.delete", scheduled_id=soon_id)


def test_scheduled_runs_are_moved_and_deleted_in_bulk(features: Features, wire: Wire) -> None:
    name = unique("bulk")
    wire.put_workflow(name)
    marker = unique("m")
    given = {"workflow_name": name, "input": {}, "additional_metadata": {"m": marker}}
    made = [features("scheduled.create", trigger_at=at(days=9), **given) for _ in range(4)]
    ids = [row["metadata"]["id"] for row in made]
    unknown = "0196a1b2-0000-7000-8000-000000000001"
    answer = features("scheduled.bulk_update", updates=[(ids[0], at(days=3)), (unknown, at(days=3))])
    assert (answer["updatedIds"], [item["id"] for item in answer["errors"]]) == ([ids[0]], [unknown])
    answer = features("scheduled.bulk_delete", scheduled_ids=ids[:2])
    assert (answer["deletedIds"], answer["errors"]) == (ids[:2], [])
    answer = features(
        "scheduled.bulk_delete", workflow_id=made[0]["workflowId"], additional_metadata={"m": marker}
    )
    assert sorted(answer["deletedIds"]) == sorted(ids[2:])
    answer = features("scheduled.bulk_delete", additional_metadata={"m": marker})
    assert (answer["deletedIds"], answer["errors"]) == ([], [])


def test_a_workflow_is_scheduled_and_given_a_cron_by_its_own_methods(
    features: Features, wire: Wire, bare_worker: type[Workers]
) -> None:
    name = unique("own")
    worker = bare_worker.of(wire.put_workflow(name), slots=100)
    version = features(
        "workflow.schedule",
        workflow=name,
        run_at=at(milliseconds=200),
        additional_metadata={"a": "b"},
        priority=3,
    )
    started = worker.next()
    assert (started.priority, '"a":"b"' in started.additional_metadata) == (3, True)
    (scheduled,) = version["scheduled_workflows"]
    assert features("scheduled.get", scheduled_id=scheduled["id"])["workflowRunId"] == started.workflow_run_id
    made = features("workflow.create_cron", workflow=name, cron_name="c", expression=YEARLY)
    assert features("cron.get", cron_id=made["metadata"]["id"])["name"] == "c"


def test_a_declared_cron_to_the_second_and_a_task_that_schedules_another(
    server: Server, features: Features, tmp_path: Path
) -> None:
    name = unique("declared")
    rest = Rest(server.http_url, server.token)
    worker = Process(
        [PYTHON, str(ROLES / "hatchet_timed.py"), name],
        name="timed",
        directory=tmp_path,
        env=server.client_environment(),
    )
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    with closing(worker):
        ticks: dict[str, str] = {}

        def completed() -> bool:
            rows = rest.get("T/workflow-runs", since=since, only_tasks=False, statuses=["COMPLETED"])["rows"]
            for row in rows:
                if row["workflowName"] == name:
                    ticks[row["metadata"]["id"]] = row["additionalMetadata"]["hatchet__cron_scheduled_at"]
            return len(ticks) >= 2

        wait_until(completed, what="two ticks", timeout=60)
        assert len(set(ticks.values())) == len(ticks)
        (row,) = features("cron.list", workflow_name=name)["rows"]
        assert (row["cron"], row["method"]) == ("*/2 * * * * *", "DEFAULT")
        features("runs.create", workflow_name=f"{name}-now", input={})
        wait_until(
            lambda: any(
                row["workflowName"] == f"{name}-later" and row.get("workflowRunStatus") == "SUCCEEDED"
                for row in features("scheduled.list")["rows"]
            ),
            what="the scheduled run",
            timeout=30,
        )
    rest.close()
