"""Events, filters and the trial of expressions over REST."""

import json

import pytest

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    CreateFilter,
    DeleteFilter,
    EvaluateFilter,
    FilterEvaluated,
    UpdateFilter,
)
from broadaxe_storage.records import TaskRunState as S
from broadaxe_storage.summaries import StartedRun
from tests.factories import WORKFLOW, make_event, make_filter, new_id
from tests.gateway.rest import official
from tests.gateway.rest.fakes import NOW, NOW_TEXT, OTHER_TENANT, TENANT, T, now_us

EVENTS, FILTERS = f"{T}/events", f"{T}/filters"


def pushed(rest, **fields):
    row = make_event(**{"tenant_id": TENANT, "created_at": NOW} | fields)
    rest.record.pushed.append(row)
    return row


async def test_an_event_shows_what_it_started_and_what_went_wrong(rest):
    filter_id = new_id()
    row = pushed(
        rest,
        key="order:created",
        scope="shop",
        metadata='{"a": "x"}',
        payload=b'{"n": 1}',
        webhook="stripe",
        filter_errors=json.dumps([{"filterId": filter_id, "workflowId": WORKFLOW, "error": "no such key"}]),
    )
    states = (S.QUEUED, S.BACKING_OFF, S.RUNNING, S.ASSIGNED, S.EVICTED, S.COMPLETED, S.FAILED, S.CANCELLED)
    rest.record.started += [
        StartedRun(row.id, new_id(), state, filter_id if state == S.QUEUED else None) for state in states
    ]
    body = await rest.get_json(f"{EVENTS}/{row.id}")
    official.V1Event.from_dict(body)
    assert body["metadata"] == {"id": row.id, "createdAt": NOW_TEXT, "updatedAt": NOW_TEXT}
    assert body["workflowRunSummary"] == {
        "running": 3,
        "queued": 2,
        "succeeded": 1,
        "failed": 1,
        "cancelled": 1,
    }
    assert [run.get("filterId") for run in body["triggeredRuns"]] == [filter_id, *[None] * 7]
    assert (body["key"], body["scope"], body["seenAt"]) == ("order:created", "shop", NOW_TEXT)
    assert (body["payload"], body["additionalMetadata"]) == ({"n": 1}, {"a": "x"})
    assert body["triggeringWebhookName"] == "stripe"
    assert body["filterErrors"] == [{"filterId": filter_id, "workflowId": WORKFLOW, "error": "no such key"}]
    older = await rest.get_json(f"/api/v1/events/{row.id}")
    assert (older["key"], older["workflowRunSummary"]["failed"]) == ("order:created", 1)
    for path in (f"/api/v1/events/{row.id}/data", f"/api/v1/tenants/{TENANT}/events/{row.id}/data"):
        assert (await rest.get_json(path))["data"] == '{"n": 1}'


async def test_events_are_listed_by_what_is_asked_for_and_of_the_last_day(rest):
    rows = [pushed(rest, key=f"k{number}") for number in range(3)]
    pushed(rest, tenant_id=OTHER_TENANT)
    begun = now_us()
    body = await rest.get_json(EVENTS)
    official.V1EventList.from_dict(body)
    assert [row["metadata"]["id"] for row in body["rows"]] == [row.id for row in rows]
    assert body["rows"][0]["triggeredRuns"] == []
    assert "scope" not in body["rows"][0]
    assert body["pagination"] == {"current_page": 1, "next_page": 1, "num_pages": 1}
    day = 24 * 3_600_000_000
    assert 0 <= rest.record.queries[-1].since - (begun - day) < 60_000_000
    body = await rest.get_json(
        EVENTS,
        offset=1,
        limit=1,
        keys=["k1", "k2"],
        since=NOW_TEXT,
        until=NOW_TEXT,
        workflowIds=WORKFLOW,
        workflowRunStatuses=["FAILED", "RUNNING"],
        eventIds=[rows[0].id],
        additionalMetadata=["a:x:y", "b:"],
        scopes=["s", ""],
    )
    assert body["pagination"] == {"current_page": 2, "next_page": 3, "num_pages": 3}
    query = rest.record.queries[-1]
    assert (query.since, query.until) == (NOW, NOW)
    assert (query.keys, query.scopes, query.ids) == (("k1", "k2"), ("s", ""), (rows[0].id,))
    assert query.metadata == (("a", "x:y"), ("b", ""))
    assert (query.workflow_ids, set(query.states)) == (
        (WORKFLOW,),
        {S.FAILED, S.ASSIGNED, S.RUNNING, S.EVICTED},
    )
    assert (await rest.get_json(f"{EVENTS}/keys"))["rows"] == ["k0", "k1", "k2"]


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"offset": -1},
        {"additionalMetadata": "nonsense"},
        {"workflowRunStatuses": "GONE"},
        {"since": "yesterday"},
        {"eventIds": "nonsense"},
        {"keys": "a\0"},
    ],
    ids=str,
)
async def test_what_is_wrong_with_a_listing_of_events_is_said(rest, params):
    answer = await rest.get(EVENTS, **params)
    assert answer.status_code == 400, answer.text


async def test_unknown_events_and_those_of_others_are_not_there(rest):
    foreign = pushed(rest, tenant_id=OTHER_TENANT)
    for event_id, status in ((new_id(), 404), (foreign.id, 404), ("nonsense", 400)):
        for path in (f"{EVENTS}/{event_id}", f"/api/v1/events/{event_id}", f"/api/v1/events/{event_id}/data"):
            assert (await rest.get(path)).status_code == status, path


# ---------------------------------------------------------------- filters


def made(**fields):
    return make_filter(**{"tenant_id": TENANT, "created_at": NOW, "updated_at": NOW} | fields)


async def test_filters_are_created_read_changed_and_deleted(rest):
    row = made(payload='{"a":1}')
    rest.engine.answers |= {CreateFilter: row, UpdateFilter: row, DeleteFilter: row}
    body = {
        "workflowId": WORKFLOW.upper(),
        "expression": "true",
        "scope": "s",
        "payload": {"b": [1], "a": "\u00e4"},
    }
    answer = await rest.post(FILTERS, body)
    assert answer.status_code == 200, answer.text
    official.V1Filter.from_dict(answer.json())
    assert answer.json() == {
        "metadata": {"id": row.id, "createdAt": NOW_TEXT, "updatedAt": NOW_TEXT},
        "tenantId": TENANT,
        "workflowId": WORKFLOW,
        "scope": "scope",
        "expression": "input.n > 1",
        "payload": {"a": 1},
        "isDeclarative": False,
    }
    assert rest.engine.asked[-1] == (CreateFilter, TENANT, WORKFLOW, "s", "true", '{"a":"\u00e4","b":[1]}')
    answer = await rest.client.patch(f"{FILTERS}/{row.id}", json={"scope": "t"})
    assert answer.status_code == 200
    assert rest.engine.asked[-1] == (UpdateFilter, TENANT, row.id, "t", None, None)
    answer = await rest.client.delete(f"{FILTERS}/{row.id}")
    assert answer.json()["metadata"]["id"] == row.id
    assert rest.engine.asked[-1] == (DeleteFilter, TENANT, row.id)
    rest.record.filters.append(row)
    assert (await rest.get_json(f"{FILTERS}/{row.id}"))["payload"] == {"a": 1}
    assert (await rest.get(f"{FILTERS}/{new_id()}")).status_code == 404


async def test_filters_are_listed_with_pages_from_0(rest):
    rest.record.filters += [made(scope=f"s{number % 2}") for number in range(5)]
    body = await rest.get_json(FILTERS, limit=2, offset=2, workflowIds=WORKFLOW)
    official.V1FilterList.from_dict(body)
    assert len(body["rows"]) == 2
    assert body["pagination"] == {"current_page": 1, "next_page": 2, "num_pages": 3}
    assert len((await rest.get_json(FILTERS, scopes=["s0", "none"]))["rows"]) == 3


@pytest.mark.parametrize(
    "body",
    [
        {"expression": "true", "scope": "s"},
        {"workflowId": "nonsense", "expression": "true", "scope": "s"},
        {"workflowId": WORKFLOW, "scope": "s"},
        {"workflowId": WORKFLOW, "expression": "true"},
        {"workflowId": WORKFLOW, "expression": "true", "scope": "a\0"},
        {"workflowId": WORKFLOW, "expression": "true", "scope": "s", "payload": [1]},
        {"workflowId": WORKFLOW, "expression": "true", "scope": "s", "payload": {"a": "\0"}},
        b"nonsense",
    ],
    # Not by their text: each process has a workflow id of its own, and all have to collect the same tests.
    ids=[
        "no workflow",
        "no id",
        "no expression",
        "no scope",
        "scope",
        "payload",
        "text in the payload",
        "no JSON",
    ],
)
async def test_what_is_wrong_with_a_filter_is_said_and_the_engine_not_asked(rest, body):
    answer = await rest.post(FILTERS, body)
    assert answer.status_code == 400, answer.text
    assert rest.engine.asked == []


async def test_what_the_engine_refuses_is_said(rest):
    rest.engine.refusal = Refused(Code.ALREADY_EXISTS, "workflow 'w' has this filter already")
    answer = await rest.post(FILTERS, {"workflowId": WORKFLOW, "expression": "true", "scope": "s"})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["description"] == "workflow 'w' has this filter already"
    rest.engine.refusal = Refused(Code.NOT_FOUND, "filter x is not known")
    assert (await rest.client.delete(f"{FILTERS}/{new_id()}")).status_code == 404


async def test_a_tried_expression_is_answered_whatever_it_gives(rest):
    for found, expected in (
        (FilterEvaluated(False, None), {"status": "SUCCESS", "output": False}),
        (FilterEvaluated(None, "no such key"), {"status": "ERROR", "error": "no such key"}),
    ):
        rest.engine.answers[EvaluateFilter] = found
        answer = await rest.post(f"{T}/cel/debug", {"expression": "input.a", "input": {"a": 1}})
        assert answer.status_code == 200
        official.V1CELDebugResponse.from_dict(answer.json())
        assert answer.json() == expected
    assert rest.engine.asked[-1] == (EvaluateFilter, TENANT, "input.a", '{"a": 1}', "{}", "{}")
