"""Filters, what events started by them, and the history of events before a kill -9 and after it agree."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire import events_pb2 as events
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.wire import BareWorker, Wire, unique
from tests.faults.conftest import Field
from tests.faults.test_state_survives import kill_both, kill_engine
from tests.processes import Server
from tests.rest import Rest

pytestmark = pytest.mark.timeout(180)


def put(wire: Wire, name: str, **fields: Any) -> str:
    """A workflow of two tasks that events of `name:...` start; returns its id."""
    tasks = [
        v1.CreateTaskOpts(readable_id="first", action=f"{name}:first", retries=1),
        v1.CreateTaskOpts(readable_id="second", action=f"{name}:second", parents=["first"]),
    ]
    request = v1.CreateWorkflowVersionRequest(name=name, tasks=tasks, event_triggers=[f"{name}:*"], **fields)
    return wire.put(request).workflow_id


def push(wire: Wire, key: str, scope: str) -> str:
    request = events.PushEventRequest(key=key, payload='{"n": 7}', scope=scope)
    return str(wire.unary("/EventsService/Push", request, events.Event).event_id)


def payload_of(action: dispatcher.AssignedAction) -> Any:
    return json.loads(action.action_payload)["triggers"]["filter_payload"]


@pytest.mark.parametrize("kill", [kill_engine, kill_both], ids=["engine", "engine-and-postgres"])
def test_filters_and_what_they_started_survive(ground: Field, kill: Callable[[Server], None]) -> None:
    wire = Wire(ground.server.grpc_address, ground.server.token)
    rest = Rest(ground.server.http_url, ground.server.token)
    name = unique("filtered")
    workflow_id = put(
        wire,
        name,
        default_filters=[
            v1.DefaultFilter(expression="input.n > 5.0", scope="declared", payload=b'{"by": "code"}')
        ],
    )
    by_api = {
        "workflowId": workflow_id,
        "expression": "input.n > 6.0",
        "scope": "api",
        "payload": {"by": "api"},
    }
    made = rest.post("T/filters", by_api)
    gone = rest.post("T/filters", {**by_api, "expression": "true"})
    assert rest.raw("DELETE", f"T/filters/{gone['metadata']['id']}").status_code == 200
    pushed = [push(wire, f"{name}:before", scope) for scope in ("declared", "api", "none")]
    worker = BareWorker(wire, f"{name}:first", f"{name}:second", slots=1)
    action = worker.next()
    held = payload_of(action)
    filters, told = rest.get("T/filters"), [rest.get(f"T/events/{event_id}") for event_id in pushed]
    assert [len(event["triggeredRuns"]) for event in told] == [1, 1, 0]
    worker.stop_beating()
    wire.close()
    rest.close()

    kill(ground.server)

    wire = Wire(ground.server.grpc_address, ground.server.token)
    rest = Rest(ground.server.http_url, ground.server.token)
    assert rest.get("T/filters") == filters
    assert [rest.get(f"T/events/{event_id}") for event_id in pushed] == told
    assert f"{name}:before" in rest.get("T/events/keys")["rows"]
    stream = wire.listen(worker.id)
    wire.heartbeat(worker.id)
    # The retry of what was held, and the run that waited: each with its own filter; below the first task of a run there is none.
    wire.fail(action, "once", worker_id=worker.id)
    told_again: dict[str, list[Any]] = {"first": [], "second": []}
    for _ in range(4):
        start = stream.next()
        told_again[start.action_id.rsplit(":", 1)[1]].append((start.retry_count, payload_of(start)))
        wire.complete(start, "{}", worker_id=worker.id)
    other = {"by": "api" if held["by"] == "code" else "code"}
    assert sorted(told_again["first"], key=str) == [(0, other), (1, held)]
    assert told_again["second"] == [(0, None), (0, None)]
    # New events meet the same filters, and a version without any leaves them.
    assert put(wire, name, description="newer") == workflow_id
    for scope, by in (("api", "api"), ("declared", "code")):
        event_id = push(wire, f"{name}:after", scope)
        first = stream.next()
        assert payload_of(first) == {"by": by}
        (run,) = rest.get(f"T/events/{event_id}")["triggeredRuns"]
        assert (run["filterId"] == made["metadata"]["id"]) == (by == "api")
        wire.complete(first, "{}", worker_id=worker.id)
        wire.complete(stream.next(), "{}", worker_id=worker.id)
    stream.cancel()
    wire.close()
    rest.close()
