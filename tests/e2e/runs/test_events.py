"""Runs that events start: by keys and patterns, by filters of code and of the API; what is told of it afterwards."""

import uuid
from typing import Any

import grpc
import pytest

from broadaxe.wire import events_pb2 as events
from tests.compat.wire import code_of, unique
from tests.e2e.runs.harness import FlowsUnderTest, of_the_engine
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(120)


def push(
    flows: FlowsUnderTest, key: str, plan: dict[str, Any], scope: str | None = None, **options: Any
) -> str:
    return str(flows.call(do="push", key=key, payload=plan, scope=scope, **options)["event_id"])


def feature(flows: FlowsUnderTest, name: str, **given: Any) -> Any:
    answer = flows.call(do="feature", name=name, given=given)
    if "raised" in answer:
        raise RuntimeError(answer["raised"])
    return answer["value"]


def seen(flows: FlowsUnderTest, tag: str, count: int) -> list[dict[str, Any]]:
    """What so many tasks of a tag saw at their start."""

    def found() -> list[dict[str, Any]] | None:
        notes = [note for note in flows.notes(tag) if note["what"] == "sees"]
        return notes if len(notes) >= count else None

    return wait_until(found, what=f"{count} tasks to start by an event", timeout=20)


def ended(flows: FlowsUnderTest, event_id: str, count: int) -> dict[str, Any]:
    """The event, once so many runs that it started have completed."""

    def found() -> dict[str, Any] | None:
        event = feature(flows, "event.get", event_id=event_id)
        return event if event["workflowRunSummary"]["succeeded"] == count else None

    return wait_until(found, what=f"{count} runs of event {event_id}", timeout=20)


def test_events_start_what_listens_to_their_key_once(flows: FlowsUnderTest) -> None:
    exact, pattern, nobody = flows.plan(), flows.plan(), flows.plan()
    first = push(flows, "told:exactly", exact)
    push(flows, "told:a:b:by-pattern", pattern)
    none = push(flows, "Told:exactly!", nobody)
    notes = seen(flows, exact["tag"], 2)
    assert sorted(note["task"] for note in notes) == ["listens", "listens-too"]
    assert all(note["by_event"] and note["filter"] == {} for note in notes)
    assert notes[0]["metadata"]["hatchet__event_id"] == first
    assert notes[0]["metadata"]["hatchet__event_key"].endswith("told:exactly")
    assert [note["task"] for note in seen(flows, pattern["tag"], 1)] == ["listens"]
    event = ended(flows, first, 2)
    assert len(event["triggeredRuns"]) == 2
    assert {run["workflowRunId"] for run in event["triggeredRuns"]} == {note["run"] for note in notes}
    assert feature(flows, "event.get", event_id=none)["triggeredRuns"] == []
    assert flows.notes(nobody["tag"]) == []


def test_each_filter_that_is_true_starts_a_run_with_its_payload(flows: FlowsUnderTest) -> None:
    both, one, none = (flows.plan(count=count) for count in (9, 3, 0))
    event_id = push(flows, "filtered", both, "shop")
    push(flows, "filtered", one, "shop")
    for scope in ("shop", "other", None):
        push(flows, "filtered", none, scope)
    found = [note["filter"] for note in seen(flows, both["tag"], 2)]
    assert sorted(found, key=lambda payload: payload["who"]) == [{"who": "Anna", "n": 1}, {"who": "Stiva"}]
    assert [note["filter"] for note in seen(flows, one["tag"], 1)] == [{"who": "Anna", "n": 1}]
    event = ended(flows, event_id, 2)
    filters = feature(flows, "filters.list", scopes=["shop"])["rows"]
    by_id = {row["metadata"]["id"]: row["payload"] for row in filters}
    assert sorted(by_id[run["filterId"]]["who"] for run in event["triggeredRuns"]) == ["Anna", "Stiva"]
    assert (event["scope"], event["payload"]["count"]) == ("shop", 9)
    assert all(row["isDeclarative"] for row in filters)
    assert flows.notes(none["tag"]) == []


def test_a_retry_sees_the_filter_too_and_only_the_first_tasks_of_a_graph_do(flows: FlowsUnderTest) -> None:
    plan = flows.plan({"filtered": {"fail_attempts": 1}}, count=2)
    push(flows, "filtered", plan, "shop")
    notes = seen(flows, plan["tag"], 2)
    assert [(note["retry_count"], note["filter"]) for note in notes] == [
        (0, {"who": "Anna", "n": 1}),
        (1, {"who": "Anna", "n": 1}),
    ]
    plan = flows.plan(count=2)
    push(flows, "filtered-graph", plan, "shop")
    told = {note["task"]: note for note in seen(flows, plan["tag"], 2)}
    assert (told["first"]["filter"], told["second"]["filter"]) == ({"who": "Anna", "n": 1}, {})
    assert told["second"]["by_event"]


def test_filters_are_made_changed_and_deleted_over_the_api(flows: FlowsUnderTest) -> None:
    workflow_id = flows.rest.get(f"tenants/{flows.rest.tenant}/workflows", name=f"{flows.namespace}_by-api")[
        "rows"
    ][0]["metadata"]["id"]
    scope = unique("scope")
    made = feature(
        flows,
        "by-api.create_filter",
        expression="input.count == 7",
        scope=scope,
        payload={"who": "Anna"},
    )
    filter_id = made["metadata"]["id"]
    assert (made["workflowId"], made["scope"], made["isDeclarative"]) == (workflow_id, scope, False)
    assert feature(flows, "filters.get", filter_id=filter_id) == made
    first = flows.plan(count=7)
    push(flows, "by-api", first, scope)
    push(flows, "by-api", flows.plan(count=8), scope)
    assert [note["filter"] for note in seen(flows, first["tag"], 1)] == [{"who": "Anna"}]
    with pytest.raises(RuntimeError, match="has this filter already"):
        feature(
            flows,
            "filters.create",
            workflow_id=workflow_id,
            expression="input.count == 7",
            scope=scope,
            payload={"who": "Anna"},
        )
    changed = feature(flows, "filters.update", filter_id=filter_id, updates={"payload": {"who": "Stiva"}})
    assert (changed["payload"], changed["expression"]) == ({"who": "Stiva"}, "input.count == 7")
    second = flows.plan(count=7)
    push(flows, "by-api", second, scope)
    assert [note["filter"] for note in seen(flows, second["tag"], 1)] == [{"who": "Stiva"}]
    with pytest.raises(RuntimeError, match="does not compile"):
        feature(flows, "filters.update", filter_id=filter_id, updates={"expression": "input.("})
    listed = feature(flows, "filters.list", workflow_ids=[workflow_id], scopes=[scope], limit=10, offset=0)
    assert [row["metadata"]["id"] for row in listed["rows"]] == [filter_id]
    pages = flows.rest.get("T/filters", scopes=scope, limit=1, offset=1)["pagination"]
    assert pages == {"current_page": 1, "next_page": 2, "num_pages": 1}
    assert feature(flows, "filters.delete", filter_id=filter_id)["metadata"]["id"] == filter_id
    third = flows.plan(count=1)
    push(flows, "by-api", third)
    assert [note["filter"] for note in seen(flows, third["tag"], 1)] == [{}]


def test_event_history_is_read_by_key_scope_and_metadata(flows: FlowsUnderTest) -> None:
    plan, scope, key = flows.plan(), unique("scope"), unique("history")
    event_id = push(flows, key, plan, scope, metadata={"customer": scope})
    other = push(flows, key, flows.plan(), scope)

    def ids(**wanted: Any) -> list[str]:
        rows = feature(flows, "event.list", **wanted)["rows"]
        return [row["metadata"]["id"] for row in rows]

    assert ids(scopes=[scope]) == [other, event_id]
    assert ids(scopes=[scope], limit=1) == [other]
    assert ids(scopes=[scope], limit=1, offset=1) == [event_id]
    assert ids(event_ids=[event_id]) == [event_id]
    assert ids(additional_metadata={"customer": scope}) == [event_id]
    assert key in "".join(flows.rest.get("T/events/keys")["rows"])
    full_key = feature(flows, "event.get", event_id=event_id)["key"]
    assert [row["metadata"]["id"] for row in flows.rest.get("T/events", keys=full_key)["rows"]] == [
        other,
        event_id,
    ]
    older = flows.rest.get(f"events/{event_id}")
    assert (older["key"], older["additionalMetadata"]["customer"]) == (full_key, scope)
    assert plan["tag"] in flows.rest.get(f"events/{event_id}/data")["data"]
    assert flows.rest.get(f"tenants/{flows.rest.tenant}/events/{event_id}/data")["data"]
    assert flows.rest.raw("GET", f"T/events/{uuid.uuid4()}").status_code == 404
    assert flows.rest.raw("GET", "T/events", params={"additionalMetadata": "nonsense"}).status_code == 400


def test_what_an_expression_gives_is_told_without_an_event(flows: FlowsUnderTest) -> None:
    def tried(expression: str, **more: Any) -> dict[str, Any]:
        return dict(feature(flows, "cel.debug", expression=expression, input={"n": 3}, **more)["result"])

    assert tried("input.n > 2 && payload.a == 'x'", filter_payload={"a": "x"})["output"] is True
    assert tried("additional_metadata.b == 'y'", additional_metadata={"b": "z"})["output"] is False
    assert "does not compile" in tried("input.(")["error"]
    assert "no such key" in tried("input.missing == 1")["error"]
    assert "must be a bool" in tried("'text'")["error"]
    assert "event_key" in tried("event_key == 'k'")["error"]
    assert tried("[1, 2].exists(x, x == 2)")["output"] is True


@of_the_engine
def test_filter_that_cannot_be_evaluated_counts_as_false_and_the_event_tells(flows: FlowsUnderTest) -> None:
    plan = flows.plan(count=9)
    event_id = push(flows, "filtered", plan, "broken")
    event = flows.rest.get(f"T/events/{event_id}")
    assert event["triggeredRuns"] == []
    (error,) = event["filterErrors"]
    assert "missing" in error["error"]
    assert error["filterId"] in {
        row["metadata"]["id"] for row in flows.rest.get("T/filters", scopes="broken")["rows"]
    }


@of_the_engine
def test_an_event_is_replayed_as_a_new_one(flows: FlowsUnderTest) -> None:
    plan = flows.plan(count=3)
    event_id = push(flows, "filtered", plan, "shop", metadata={"kept": "yes"})
    seen(flows, plan["tag"], 1)
    again = flows.wire.unary(
        "/EventsService/ReplaySingleEvent", events.ReplayEventRequest(event_id=event_id), events.Event
    )
    assert again.event_id != event_id
    assert len(seen(flows, plan["tag"], 2)) == 2
    if flows.is_ours:
        third = feature(flows, "event.replay", event_id=event_id)
        assert third["event_id"] not in (event_id, again.event_id)
        assert len(seen(flows, plan["tag"], 3)) == 3
    first, second = (flows.rest.get(f"T/events/{one}") for one in (event_id, again.event_id))
    for field in ("key", "payload", "scope"):
        assert first[field] == second[field]
    assert second["additionalMetadata"]["kept"] == "yes"
    for unknown, code in (
        (str(uuid.uuid4()), grpc.StatusCode.NOT_FOUND),
        ("nonsense", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        request = events.ReplayEventRequest(event_id=unknown)
        found, text = code_of(
            lambda request=request: flows.wire.unary(
                "/EventsService/ReplaySingleEvent", request, events.Event
            )
        )
        assert (found, unknown in text) == (code, True)
