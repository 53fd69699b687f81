"""Counts of runs, task runs and log lines over REST: by status, and over time."""

import pytest

from broadaxe_storage.records import TaskRunState as S
from broadaxe_storage.summaries import RunQuery
from tests.factories import make_log, new_id
from tests.gateway.rest import official
from tests.gateway.rest.fakes import NOW, NOW_TEXT, TENANT, T

MINUTE = 60_000_000
HOUR = 60 * MINUTE
METRICS = f"{T}/task-metrics"
POINTS = f"{T}/task-point-metrics"
LOGS = f"{T}/log-point-metrics"
SINCE = "2026-01-01T00:00:00Z"


async def test_task_metrics_count_every_status_in_the_order_that_clients_expect(rest):
    for state in (
        S.QUEUED,
        S.BACKING_OFF,
        S.RUNNING,
        S.EVICTED,
        S.COMPLETED,
        S.SKIPPED,
        S.FAILED,
        S.CANCELLED,
    ):
        rest.record.add(rest.record.lone, state=state)
    run = rest.record.add_run_of_several()
    rest.record.add_task(run, 0, state=S.ASSIGNED)
    found = await rest.get_json(METRICS, since=SINCE)
    assert found == [
        {"status": "CANCELLED", "count": 1},
        {"status": "COMPLETED", "count": 2},
        {"status": "FAILED", "count": 1},
        {"status": "QUEUED", "count": 2},
        {"status": "RUNNING", "count": 3, "runningDetailCount": {"evicted": 1, "onWorker": 2}},
    ]
    for row in found:
        official.V1TaskRunMetric.from_dict(row)


async def test_task_metrics_are_those_of_what_is_asked_for(rest):
    workflow, parent, event = new_id(), new_id(), new_id()
    await rest.get_json(
        METRICS,
        since=SINCE,
        until=NOW_TEXT,
        workflow_ids=[workflow],
        parent_task_external_id=parent,
        triggering_event_external_id=event,
        additional_metadata=["team:a", "malformed"],
    )
    (query,) = rest.record.queries
    assert query == RunQuery(
        since=1_767_225_600_000_000,
        until=NOW,
        only_tasks=True,
        workflow_ids=(workflow,),
        metadata=(("team", "a"),),
        parent_task_run_id=parent,
        triggering_event_id=event,
    )


async def test_a_listing_is_counted_as_it_is_listed(rest):
    for state in (S.QUEUED, S.FAILED, S.FAILED):
        rest.record.add(rest.record.lone, state=state)
    asked = {"since": SINCE, "only_tasks": False, "statuses": ["FAILED"], "additional_metadata": ["a:b"]}
    assert await rest.get_json(f"{T}/workflow-runs/count", **asked) == {"count": 2}
    await rest.get_json(f"{T}/workflow-runs", **asked)
    assert len(set(rest.record.queries)) == 1


# ---------------------------------------------------------------- over time


async def test_ends_are_told_by_stretches_of_time_those_without_any_too(rest):
    for minutes, state in (
        (0, S.COMPLETED),
        (0, S.SKIPPED),
        (1, S.FAILED),
        (3, S.CANCELLED),
        (9, S.COMPLETED),
    ):
        rest.record.add(rest.record.lone, state=state, finished_at=NOW + minutes * MINUTE)
    found = await rest.get_json(
        POINTS, createdAfter="2026-01-02T03:04:00Z", finishedBefore="2026-01-02T03:08:00Z"
    )
    official.V1TaskPointMetrics.from_dict(found)
    assert found["results"] == [
        {"time": "2026-01-02T03:04:00.000000Z", "SUCCEEDED": 2, "FAILED": 0},
        {"time": "2026-01-02T03:05:00.000000Z", "SUCCEEDED": 0, "FAILED": 1},
        {"time": "2026-01-02T03:06:00.000000Z", "SUCCEEDED": 0, "FAILED": 0},
        {"time": "2026-01-02T03:07:00.000000Z", "SUCCEEDED": 0, "FAILED": 0},
    ]


@pytest.mark.parametrize(
    ("until", "stretches", "second"),
    [
        ("2026-01-01T01:00:59Z", 61, "2026-01-01T00:01:00"),
        ("2026-01-01T01:01:00Z", 13, "2026-01-01T00:05:00"),
        ("2026-01-01T11:59:00Z", 144, "2026-01-01T00:05:00"),
        ("2026-01-01T12:00:00Z", 24, "2026-01-01T00:30:00"),
        ("2026-01-03T00:00:00Z", 6, "2026-01-01T08:00:00"),
        ("2026-01-09T00:00:00Z", 8, "2026-01-02T00:00:00"),
    ],
)
@pytest.mark.parametrize(
    ("path", "names"), [(POINTS, ("createdAfter", "finishedBefore")), (LOGS, ("since", "until"))]
)
async def test_the_longer_the_range_the_longer_its_stretches(rest, path, names, until, stretches, second):
    found = (await rest.get_json(path, **dict(zip(names, (SINCE, until), strict=True))))["results"]
    assert len(found) == stretches
    assert found[1]["time"].startswith(second)


async def test_the_last_day_is_told_unless_another_range_is_asked_for(rest):
    for path in (POINTS, LOGS):
        assert len((await rest.get_json(path))["results"]) in (48, 49)


@pytest.mark.parametrize(
    ("path", "names"), [(POINTS, ("createdAfter", "finishedBefore")), (LOGS, ("since", "until"))]
)
async def test_a_range_without_end_is_refused_and_one_backwards_is_empty(rest, path, names):
    answer = await rest.get(path, **dict(zip(names, ("0001-01-01T00:00:00Z", SINCE), strict=True)))
    assert answer.status_code == 400
    assert "739,616 days; at most 10,000" in answer.text
    assert await rest.get_json(path, **dict(zip(names, (NOW_TEXT, SINCE), strict=True))) == {"results": []}


async def test_lines_are_counted_by_level_both_ends_of_the_range_included(rest):
    for minutes, level in ((0, "INFO"), (0, "INFO"), (1, "ERROR"), (2, "WARN"), (1, None), (3, "DEBUG")):
        rest.record.logs.append(
            make_log(new_id(), tenant_id=TENANT, created_at=NOW + minutes * MINUTE, level=level)
        )
    found = await rest.get_json(
        LOGS, since=NOW_TEXT, until="2026-01-02T03:06:05.123456Z", levels=["INFO", "WARN"]
    )
    official.V1LogsPointMetrics.from_dict(found)
    assert [(row["INFO"], row["ERROR"], row["WARN"], row["DEBUG"]) for row in found["results"]] == [
        (2, 0, 0, 0),
        (0, 1, 0, 0),
        (0, 0, 1, 0),
    ]
    (query,) = rest.record.queries
    assert (query.since, query.until, query.levels) == (NOW - 1, NOW + 2 * MINUTE + 1, ("INFO", "WARN"))


async def test_lines_are_counted_of_what_is_asked_for(rest):
    task, workflow = new_id(), rest.record.diamond.workflow_id
    versions = await rest.get_json(f"/api/v1/workflows/{workflow}/versions")
    assert versions["workflowId"] == workflow
    await rest.get_json(
        LOGS, taskExternalIds=[task], workflow_ids=[workflow], search="Oops", step_ids=[new_id()]
    )
    query = rest.record.queries[-1]
    assert (query.task_run_ids, query.workflow_ids, query.search, query.steps) == (
        (task,),
        (workflow,),
        "Oops",
        (),
    )


@pytest.mark.parametrize("path", [METRICS, POINTS, LOGS, f"{T}/workflow-runs/count"])
async def test_counts_of_another_tenant_are_forbidden(rest, path):
    params = {"since": SINCE, "only_tasks": "true"}
    answer = await rest.client.get(path, params=params, headers={"Authorization": "Bearer foreign"})
    assert answer.status_code == 403
