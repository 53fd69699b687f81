"""Crons and scheduled runs over REST: what reaches the engine, and the shapes of answers and refusals."""

from typing import Any

import pytest

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    CreateCron,
    DeleteTimers,
    MoveScheduledRuns,
    RunsScheduled,
    ScheduleRuns,
    TimerProblem,
)
from broadaxe_storage.records import TaskRunState
from broadaxe_storage.records_timers import TimerKind
from broadaxe_storage.timer_lists import CronQuery, CronSummary, ScheduledRunQuery, ScheduledRunSummary
from tests.factories import new_id
from tests.gateway.rest.fakes import NOW, NOW_TEXT, TENANT, Rest

W = f"/api/v1/tenants/{TENANT}/workflows"
CRON = CronSummary(
    new_id(),
    new_id(),
    new_id(),
    "lone",
    "c",
    "@daily",
    False,
    True,
    None,
    NOW,
    None,
    None,
    NOW,
    NOW,
    '{"a":1}',
    b"[1]",
)
RUN = ScheduledRunSummary(
    new_id(),
    new_id(),
    new_id(),
    "lone",
    False,
    2,
    NOW,
    None,
    None,
    None,
    None,
    None,
    NOW,
    NOW,
    "{}",
    b'{"n":1}',
)
BODY = {"input": {"n": 1}, "additionalMetadata": {"a": "b"}}


class Timers:
    """Stands in for the engine and the record; keeps what is asked."""

    def __init__(self, rest: Rest) -> None:
        self.rest = rest
        self.asked: list[tuple[Any, ...]] = []
        self.queries: list[Any] = []
        self.answer: Any = None
        self.cron: CronSummary | None = CRON
        self.run: ScheduledRunSummary | None = RUN
        self.pages: list[list[tuple[str, bool]]] = []
        rest.engine.ask = self.ask  # type: ignore[method-assign]
        for name in (
            "list_crons",
            "count_crons",
            "fetch_cron",
            "list_scheduled_runs",
            "count_scheduled_runs",
            "fetch_scheduled_run",
            "list_scheduled_run_ids",
        ):
            setattr(rest.record, name, getattr(self, name))

    async def ask(self, message: type, tenant_id: str, *fields: Any) -> Any:
        self.asked.append((message, *fields))
        if isinstance(self.answer, Refused):
            raise self.answer
        return self.answer(*fields) if callable(self.answer) else self.answer

    async def list_crons(self, tenant_id: str, query: CronQuery, *, limit: int, offset: int = 0) -> Any:
        self.queries.append((query, limit, offset))
        return [self.cron]

    async def count_crons(self, tenant_id: str, query: CronQuery) -> int:
        return 51

    async def fetch_cron(self, tenant_id: str, cron_id: str) -> Any:
        return self.cron

    async def list_scheduled_runs(
        self, tenant_id: str, query: ScheduledRunQuery, *, limit: int, offset: int = 0
    ) -> Any:
        self.queries.append((query, limit, offset))
        return [self.run]

    async def count_scheduled_runs(self, tenant_id: str, query: ScheduledRunQuery) -> int:
        return 1

    async def fetch_scheduled_run(self, tenant_id: str, scheduled_id: str) -> Any:
        return self.run

    async def list_scheduled_run_ids(self, tenant_id: str, query: Any, after: Any, limit: int) -> Any:
        self.queries.append((query, after, limit))
        return self.pages.pop(0) if self.pages else []


@pytest.fixture
def timers(rest: Rest) -> Timers:
    return Timers(rest)


def description(answer: Any) -> str:
    (error,) = answer.json()["errors"]
    return str(error["description"])


async def test_a_cron_is_made_by_the_name_of_its_workflow(rest, timers):
    timers.answer = CRON.id
    answer = await rest.post(
        f"{W}/my.flow/crons", {**BODY, "cronName": "c", "cronExpression": "@daily", "priority": 3}
    )
    assert answer.status_code == 200, answer.text
    assert timers.asked == [(CreateCron, "my.flow", "c", "@daily", b'{"n": 1}', '{"a": "b"}', 3)]
    assert answer.json() == {
        "metadata": {"id": CRON.id, "createdAt": NOW_TEXT, "updatedAt": NOW_TEXT},
        "tenantId": TENANT,
        "workflowVersionId": CRON.workflow_version_id,
        "workflowId": CRON.workflow_id,
        "workflowName": "lone",
        "cron": "@daily",
        "name": "c",
        "input": {},
        "additionalMetadata": {"a": 1},
        "enabled": True,
        "method": "API",
    }


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"cronName": " "}, "cronName is empty"),
        ({"cronName": "x" * 256}, "cronName has 256 characters"),
        ({"cronName": "a\0"}, "null character"),
        ({"cronExpression": "soon"}, "cron expression 'soon' is not valid"),
        ({"priority": 4}, "priority is 4"),
        ({"additionalMetadata": {"a": "\0"}}, "null character"),
    ],
)
async def test_a_bad_cron_is_refused_before_the_engine(rest, timers, fields, text):
    answer = await rest.post(f"{W}/w/crons", {**BODY, "cronName": "c", "cronExpression": "@daily", **fields})
    assert (answer.status_code, timers.asked) == (400, [])
    assert text in description(answer)
    for body in ({}, {**BODY, "cronName": 5, "cronExpression": "@daily"}, b"{"):
        assert (await rest.post(f"{W}/w/crons", body)).status_code == 400


async def test_what_the_engine_refuses_about_a_workflow_is_400_and_about_a_timer_404(rest, timers):
    timers.answer = Refused(Code.NOT_FOUND, "not known")
    for path, body in (
        ("w/crons", {**BODY, "cronName": "c", "cronExpression": "@daily"}),
        ("w/scheduled", {**BODY, "triggerAt": NOW_TEXT}),
    ):
        assert (await rest.post(f"{W}/{path}", body)).status_code == 400
    for path in (f"crons/{CRON.id}", f"scheduled/{RUN.id}"):
        assert (await rest.post(f"{W}/{path}", {})).status_code == 404
    assert (await rest.client.patch(f"{W}/crons/{CRON.id}", json={"enabled": True})).status_code == 404


async def test_crons_are_listed_as_asked(rest, timers):
    timers.cron = CRON._replace(is_declared=True, error="why")
    found = await rest.get_json(
        f"{W}/crons",
        workflowId=CRON.workflow_id,
        workflowName="n",
        cronName="c",
        additionalMetadata=["a:b", "c:d"],
        orderByField="name",
        orderByDirection="ASC",
        limit=50,
        offset=50,
    )
    query = CronQuery(CRON.workflow_id, "n", "c", (("a", "b"), ("c", "d")), True, False)
    assert timers.queries == [(query, 50, 50)]
    assert found["pagination"] == {"current_page": 2, "next_page": 2, "num_pages": 2}
    assert (found["rows"][0]["method"], found["rows"][0]["errorMessage"]) == ("DEFAULT", "why")
    for bad in ("a", "a:b:c", ":b"):
        assert (await rest.get(f"{W}/crons", additionalMetadata=bad)).status_code == 400


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"workflowRunName": ""}),
        ({"fired_at": NOW, "error": "why"}, {"workflowRunStatus": "FAILED", "errorMessage": "why"}),
        (
            {"fired_at": NOW, "run_id": TENANT, "run_state": TaskRunState.SKIPPED, "run_created_at": NOW},
            {
                "workflowRunStatus": "SUCCEEDED",
                "workflowRunId": TENANT,
                "workflowRunCreatedAt": NOW_TEXT,
                "workflowRunName": f"lone-{NOW // 1000}",
            },
        ),
        ({"fired_at": NOW, "run_id": TENANT}, {"workflowRunId": TENANT, "workflowRunName": ""}),
    ],
)
async def test_a_scheduled_run_shows_what_became_of_it(rest, timers, fields, expected):
    timers.run = RUN._replace(**fields)
    found = await rest.get_json(f"{W}/scheduled/{RUN.id}")
    plain = {
        "metadata": {"id": RUN.id, "createdAt": NOW_TEXT, "updatedAt": NOW_TEXT},
        "tenantId": TENANT,
        "workflowVersionId": RUN.workflow_version_id,
        "workflowId": RUN.workflow_id,
        "workflowName": "lone",
        "triggerAt": NOW_TEXT,
        "input": {"n": 1},
        "additionalMetadata": {},
        "workflowRunCreatedAt": "0001-01-01T00:00:00Z",
        "workflowRunName": "",
        "method": "API",
        "priority": 2,
    }
    assert found == {**plain, **expected}
    timers.run = None
    assert (await rest.get(f"{W}/scheduled/{RUN.id}")).status_code == 404


async def test_scheduled_runs_are_made_and_listed_as_asked(rest, timers):
    timers.answer = RunsScheduled(RUN.workflow_id, new_id(), 1, NOW, (RUN.id,))
    answer = await rest.post(f"{W}/w/scheduled", {**BODY, "triggerAt": NOW_TEXT})
    assert answer.status_code == 200, answer.text
    assert timers.asked == [(ScheduleRuns, "w", (NOW,), b'{"n": 1}', '{"a": "b"}', None)]
    await rest.get_json(
        f"{W}/scheduled",
        workflowId=RUN.workflow_id,
        parentWorkflowRunId=TENANT,
        parentStepRunId=TENANT,
        statuses=["SCHEDULED", "FAILED", "CANCELLED"],
        orderByField="createdAt",
        orderByDirection="ASC",
    )
    states = (int(TaskRunState.FAILED), int(TaskRunState.CANCELLED))
    query = ScheduledRunQuery(RUN.workflow_id, TENANT, TENANT, (), True, states, True, True, True, False)
    assert timers.queries == [(query, 50, 0)]


async def test_one_that_is_declared_in_code_is_forbidden_to_move_and_to_delete(rest, timers):
    timers.answer = (TimerProblem(Code.INVALID_ARGUMENT, "declared in code"),)
    moved = await rest.client.patch(f"{W}/scheduled/{RUN.id}", json={"triggerAt": NOW_TEXT})
    assert (moved.status_code, moved.json()) == (403, {"errors": [{"description": "declared in code"}]})
    deleted = await rest.client.delete(f"{W}/scheduled/{RUN.id}")
    assert (deleted.status_code, deleted.json()) == (403, {"description": "declared in code"})
    timers.answer = (TimerProblem(Code.FAILED_PRECONDITION, "triggered already"),)
    assert (
        await rest.client.patch(f"{W}/scheduled/{RUN.id}", json={"triggerAt": NOW_TEXT})
    ).status_code == 400
    timers.answer = (TimerProblem(Code.NOT_FOUND, "not known"),)
    for path in ("scheduled", "crons"):
        assert (await rest.client.delete(f"{W}/{path}/{RUN.id}")).status_code == 404


async def test_bulk_requests_need_ids_or_a_filter_and_report_each_problem(rest, timers):
    ids = [new_id() for _ in range(3)]
    timers.answer = (None, TimerProblem(Code.NOT_FOUND, "not known"), None)
    deleted = await rest.post(f"{W}/scheduled/bulk-delete", {"scheduledWorkflowRunIds": ids})
    assert deleted.json() == {
        "deletedIds": [ids[0], ids[2]],
        "errors": [{"id": ids[1], "error": "not known"}],
    }
    assert timers.asked.pop() == (DeleteTimers, int(TimerKind.SCHEDULED), tuple(ids))
    timers.answer = (None,)
    updates = [{"id": ids[0], "triggerAt": "2026-01-01T00:00:00Z"}, {"id": ids[0], "triggerAt": NOW_TEXT}]
    updated = await rest.post(f"{W}/scheduled/bulk-update", {"updates": updates})
    assert updated.json() == {"updatedIds": [ids[0]], "errors": []}
    assert timers.asked.pop() == (MoveScheduledRuns, ((ids[0], NOW),))
    for body in (
        {},
        {"scheduledWorkflowRunIds": ids, "filter": {}},
        {"scheduledWorkflowRunIds": [new_id() for _ in range(501)]},
        {"scheduledWorkflowRunIds": ["no-id"]},
    ):
        assert (await rest.post(f"{W}/scheduled/bulk-delete", body)).status_code == 400
    assert timers.asked == []
    assert (await rest.post(f"{W}/scheduled/bulk-update", {"updates": []})).json() == {
        "updatedIds": [],
        "errors": [],
    }


async def test_a_filter_is_deleted_page_by_page(rest, timers):
    pages = [[(new_id(), False) for _ in range(500)], [(new_id(), False)]]
    timers.pages = [*pages]
    timers.answer = lambda _kind, ids: (None,) * len(ids)
    body = {"filter": {"workflowId": RUN.workflow_id, "additionalMetadata": ["a:b"]}}
    found = (await rest.post(f"{W}/scheduled/bulk-delete", body)).json()
    assert found == {"deletedIds": [item[0] for page in pages for item in page], "errors": []}
    query = ScheduledRunQuery(RUN.workflow_id, metadata=(("a", "b"),))
    assert timers.queries == [(query, None, 500), (query, pages[0][-1][0], 500)]
    assert (await rest.post(f"{W}/scheduled/bulk-delete", {"filter": {}})).json()["deletedIds"] == []
