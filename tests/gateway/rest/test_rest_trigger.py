"""Runs triggered over REST: what the engine is asked, what is answered, what is refused."""

import json

import pytest

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import IdempotencyCollision, TriggerRuns
from tests.factories import new_id
from tests.gateway.rest.fakes import TENANT, T
from tests.gateway.rest.official import V1WorkflowRunDetails

TRIGGER = f"{T}/workflow-runs/trigger"


async def test_triggered_run_is_answered_with_its_details(rest):
    answer = await rest.post(
        TRIGGER,
        {
            "workflowName": "lone",
            "input": {"n": 2, "text": "\u00e4"},
            "additionalMetadata": {"k": [1]},
            "priority": 3,
        },
    )
    assert answer.status_code == 200
    V1WorkflowRunDetails.from_json(answer.text)
    body = answer.json()
    ((message, tenant, (run,)),) = rest.engine.asked
    assert (message, tenant) == (TriggerRuns, TENANT)
    assert (run.workflow_name, run.priority) == ("lone", 3)
    assert json.loads(run.input) == {"n": 2, "text": "\u00e4"}
    assert body["run"]["metadata"]["id"] == run.run_id
    assert body["run"]["status"] == "QUEUED"
    assert body["run"]["input"]["input"] == {"n": 2, "text": "\u00e4"}
    assert body["run"]["additionalMetadata"]["k"] == [1]
    assert "traceparent" in body["run"]["additionalMetadata"]


async def test_id_alone_is_answered_when_no_more_is_asked_for(rest):
    answer = await rest.post(TRIGGER, {"workflowName": "lone", "input": {}, "return_only_id": True})
    details = V1WorkflowRunDetails.from_json(answer.text)
    assert details.run.metadata.id == rest.record.rows[-1].id
    assert answer.json()["tasks"] == []


async def test_large_input_is_taken(rest):
    text = "x" * 400_000
    answer = await rest.post(TRIGGER, {"workflowName": "lone", "input": {"text": text}})
    assert answer.json()["run"]["input"]["input"]["text"] == text


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"[]",
        {"workflowName": "lone"},
        {"input": {}},
        {"workflowName": "lone", "input": [1]},
        {"workflowName": "lone", "input": {}, "priority": "high"},
        {"workflowName": "lone", "input": {}, "additionalMetadata": "x"},
        b'{"workflowName": "lone", "input": {"a": "\\ud800"}}',
    ],
)
async def test_trigger_that_does_not_fit_is_400_with_a_message(rest, body):
    answer = await rest.post(TRIGGER, body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"message"}
    assert rest.engine.asked == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"priority": 4}, "priority is 4, expected 1"),
        ({"workflowName": "lnoe"}, "'lnoe' is not registered"),
        ({"workflowName": ""}, "names no workflow"),
        ({"input": {"a": "\0"}}, "null character"),
    ],
)
async def test_trigger_that_means_nothing_is_400_with_errors(rest, fields, reason):
    answer = await rest.post(TRIGGER, {"workflowName": "lone", "input": {}} | fields)
    assert answer.status_code == 400
    assert reason in answer.json()["errors"][0]["description"]


async def test_collision_of_idempotency_keys_is_400(rest):
    detail = IdempotencyCollision(new_id(), new_id())
    rest.engine.refusal = Refused(Code.ALREADY_EXISTS, "key 'k' is held by another run", detail)
    answer = await rest.post(TRIGGER, {"workflowName": "lone", "input": {}})
    assert answer.status_code == 400
    assert "key 'k'" in answer.json()["errors"][0]["description"]
