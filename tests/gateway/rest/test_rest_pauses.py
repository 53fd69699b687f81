"""Pausing and deleting workflows over REST."""

import json

import pytest

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import DeleteWorkflow, PauseWorkflow, UnpauseWorkflow
from tests.factories import new_id
from tests.gateway.rest import official
from tests.gateway.rest.fakes import TENANT, Rest

WORKFLOWS = f"/api/v1/tenants/{TENANT}/workflows"
HOUR = 3_600_000_000


def pause(**fields):
    values = {
        "action": "pause",
        "pausedWorkflowQueueTTL": "1h",
        "pausedWorkflowCronRunQueueBehavior": "DROP",
        "pausedWorkflowScheduledRunQueueBehavior": "QUEUE",
    }
    return {"pause": {name: value for name, value in (values | fields).items() if value is not ...}}


async def patch(rest: Rest, workflow_id: str, body, **headers):
    return await rest.client.patch(
        f"/api/v1/workflows/{workflow_id}",
        content=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **headers},
    )


async def test_a_pause_reaches_the_engine_and_shows_wherever_the_workflow_does(rest):
    workflow_id = rest.record.lone.workflow_id
    answer = await patch(rest, workflow_id, pause())
    assert answer.status_code == 200, answer.text
    assert rest.engine.asked[-1] == (PauseWorkflow, TENANT, workflow_id, HOUR, "DROP", "QUEUE")
    shown = answer.json()
    official.Workflow.from_dict(shown)
    rows = {row["name"]: row for row in (await rest.get_json(WORKFLOWS))["rows"]}
    read = await rest.get_json(f"/api/v1/workflows/{workflow_id}")
    version = await rest.get_json(f"/api/v1/workflows/{workflow_id}/versions")
    for body in (shown, rows["lone"], read, version["workflow"]):
        assert body["isPaused"] is True
        assert body["pausedWorkflowCronRunQueueBehavior"] == "DROP"
        assert body["pausedWorkflowScheduledRunQueueBehavior"] == "QUEUE"
    assert (shown["tenantId"], read["tenantId"]) == ("", TENANT)
    assert rows["diamond"]["isPaused"] is False
    assert "pausedWorkflowCronRunQueueBehavior" not in rows["diamond"]
    answer = await patch(rest, workflow_id, {"pause": {"action": "unpause"}})
    assert rest.engine.asked[-1] == (UnpauseWorkflow, TENANT, workflow_id)
    assert answer.json()["isPaused"] is False


@pytest.mark.parametrize(
    ("text", "ttl"),
    [("90s", 90_000_000), ("1h30m", HOUR * 3 // 2), ("1d7h30m", int(31.5 * HOUR)), ("2d", 48 * HOUR)],
)
async def test_a_ttl_may_be_any_duration(rest, text, ttl):
    workflow_id = rest.record.lone.workflow_id
    body = pause(pausedWorkflowQueueTTL=text, pausedWorkflowCronRunQueueBehavior=...)
    assert (await patch(rest, workflow_id, body)).status_code == 200
    assert rest.engine.asked[-1] == (PauseWorkflow, TENANT, workflow_id, ttl, "QUEUE", "QUEUE")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "pause is missing"),
        ({"pause": None}, "pause is missing"),
        ({"pause": {}}, "pause.action is None: expected 'pause' or 'unpause'"),
        ({"pause": {"action": "stop"}}, "pause.action is 'stop': expected 'pause' or 'unpause'"),
        (pause(pausedWorkflowQueueTTL=...), "pause.pausedWorkflowQueueTTL is missing"),
        (pause(pausedWorkflowQueueTTL="soon"), "duration 'soon' is not valid"),
        (pause(pausedWorkflowQueueTTL="1dx"), "duration 'x' is not valid"),
        (pause(pausedWorkflowQueueTTL=5), "duration '5' is not valid"),
        (pause(pausedWorkflowQueueTTL="0h"), "expected more than 0"),
        (pause(pausedWorkflowQueueTTL="999999999h"), "at most 36,500 days"),
        (pause(pausedWorkflowQueueTTL="9" * 400 + "h"), "at most 36,500 days"),
        (pause(pausedWorkflowQueueTTL="9" * 400 + "d"), "at most 36,500 days"),
        (pause(pausedWorkflowCronRunQueueBehavior="KEEP"), "CronRunQueueBehavior is 'KEEP'"),
        (pause(pausedWorkflowScheduledRunQueueBehavior=["DROP"]), "ScheduledRunQueueBehavior is ['DROP']"),
    ],
)
async def test_a_bad_pause_is_refused_with_what_is_wrong(rest, body, text):
    answer = await patch(rest, rest.record.lone.workflow_id, body)
    assert answer.status_code == 400
    ((error,),) = answer.json().values()
    assert text in error["description"]
    assert rest.engine.asked == []


async def test_what_is_no_object_is_refused(rest):
    for body in ([], {"pause": 1}, "text"):
        assert (await patch(rest, rest.record.lone.workflow_id, body)).status_code == 400


async def test_a_workflow_of_another_tenant_cannot_be_paused(rest):
    answer = await patch(rest, rest.record.lone.workflow_id, pause(), Authorization="Bearer foreign")
    assert answer.status_code == 404
    assert (await patch(rest, new_id(), pause())).status_code == 404
    assert rest.record.pauses == {}


async def test_the_engines_refusal_is_passed_on(rest):
    rest.engine.refusal = Refused(Code.UNAVAILABLE, "restoring: try again")
    answer = await patch(rest, rest.record.lone.workflow_id, pause())
    assert (answer.status_code, answer.json()["errors"][0]["description"]) == (503, "restoring: try again")


async def test_a_deleted_workflow_is_gone_but_not_from_its_runs(rest):
    workflow_id = rest.record.lone.workflow_id
    run = rest.record.add(rest.record.lone)
    answer = await rest.client.delete(f"/api/v1/workflows/{workflow_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert rest.engine.asked[-1] == (DeleteWorkflow, TENANT, workflow_id)
    assert [row["name"] for row in (await rest.get_json(WORKFLOWS))["rows"]] == ["diamond"]
    for path in (f"/api/v1/workflows/{workflow_id}", f"/api/v1/workflows/{workflow_id}/versions"):
        assert (await rest.get(path)).status_code == 404
    assert (await rest.client.delete(f"/api/v1/workflows/{workflow_id}")).status_code == 404
    shown = await rest.get_json(f"/api/v1/stable/workflow-runs/{run.id}")
    assert shown["run"]["displayName"].startswith("only-")


async def test_a_workflow_of_another_tenant_is_not_deleted(rest):
    path = f"/api/v1/workflows/{rest.record.lone.workflow_id}"
    assert (await rest.client.delete(path, headers={"Authorization": "Bearer foreign"})).status_code == 404
    assert (await rest.client.delete(path, headers={"Authorization": "Bearer bad"})).status_code == 403
    assert (await rest.get(path)).status_code == 200
