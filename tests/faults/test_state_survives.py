"""Order, slots, timers and retry counts before a kill -9 and after it agree."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.wire import BareWorker, Wire, unique
from tests.faults.conftest import Field
from tests.processes import Server

pytestmark = pytest.mark.timeout(180)

STATE = """
SELECT r.id::text, state, attempt, app_retries, internal_retries, priority, queue_priority, seq, worker_id::text,
    schedule_deadline, execution_deadline
FROM task_run r JOIN workflow w ON w.id = r.workflow_id WHERE w.name = $1 ORDER BY r.id
"""


def kill_engine(server: Server) -> None:
    server.kill9()
    server.restart()


def kill_both(server: Server) -> None:
    """Postgres goes down with the engine, as at a power cut; the engine's start brings it back."""
    server.kill9()
    server.postgres_kill9()
    server.restart()


@pytest.fixture(params=[kill_engine, kill_both], ids=["engine", "engine-and-postgres"])
def kill(request: pytest.FixtureRequest) -> Callable[[Server], None]:
    chosen: Callable[[Server], None] = request.param
    return chosen


async def state(ground: Field, workflow: str) -> dict[str, dict[str, Any]]:
    """What the record holds of a workflow's live task runs, by id."""
    return {row["id"]: dict(row) for row in await ground.fetch(STATE, workflow)}


async def test_order_slots_and_retry_counts_agree(ground: Field, kill: Callable[[Server], None]) -> None:
    wire = Wire(ground.server.grpc_address, ground.server.token)
    name = unique("agree")
    action_id = wire.put_workflow(name, retries=3, timeout="10m", schedule_timeout="24h")
    worker = BareWorker(wire, action_id, slots=3)

    # Three are with the worker: one at its first attempt, two that failed once and came again.
    held = [wire.trigger(name) for _ in range(3)]
    actions = [worker.next() for _ in held]
    for action in actions[1:]:
        wire.fail(action, "once")
    actions = [actions[0], worker.next(), worker.next()]
    assert [action.retry_count for action in actions] == [0, 1, 1]
    # Thirty wait, of three priorities.
    waiting = [
        (priority, wire.trigger(name, priority=priority))
        for priority in itertools.islice(itertools.cycle((1, 3, 2)), 30)
    ]
    before = await state(ground, name)
    assert len(before) == 33
    worker.stop_beating()
    wire.close()

    kill(ground.server)

    after = await state(ground, name)
    assert after == before
    wire = Wire(ground.server.grpc_address, ground.server.token)
    stream = wire.listen(worker.id)
    wire.heartbeat(worker.id)
    for action in actions:
        wire.report(action, dispatcher.STEP_EVENT_TYPE_STARTED, worker_id=worker.id)
    assert stream.silent_for(1.0)  # its three slots are taken
    for action in actions:
        wire.complete(action, '{"held": true}', worker_id=worker.id)
    order = []
    for _ in waiting:
        wire.heartbeat(worker.id)
        action = stream.next()
        assert action.retry_count == 0
        order.append(action.task_run_external_id)
        wire.complete(action, worker_id=worker.id)
    # Three slots hand out in order of the line: priority first, then the order of the triggers.
    assert order == [run_id for _, run_id in sorted(waiting, key=lambda run: -run[0])]
    for run_id in held:
        assert json.loads(wire.result(run_id).output) == {"held": True}
    assert await ground.live(name) == 0
    wire.close()


async def test_schedule_deadline_agrees(ground: Field, kill: Callable[[Server], None]) -> None:
    wire = Wire(ground.server.grpc_address, ground.server.token)
    name = unique("deadline")
    wire.put_workflow(name, schedule_timeout="12s")
    begun = time.monotonic()
    run_id = wire.trigger(name)
    before = await state(ground, name)
    await asyncio.sleep(2)  # so that a clock started anew at recovery would show
    wire.close()
    kill(ground.server)
    assert await state(ground, name) == before
    wire = Wire(ground.server.grpc_address, ground.server.token)
    result = wire.result(run_id, timeout=30)
    took = time.monotonic() - begun
    assert result.HasField("error")
    assert result.error == ""
    assert 11.5 < took < 14.0, f"cancelled after {took:.1f} s, due after 12"
    wire.close()


async def test_execution_deadline_agrees(ground: Field, kill: Callable[[Server], None]) -> None:
    wire = Wire(ground.server.grpc_address, ground.server.token)
    name = unique("running")
    worker = BareWorker(wire, wire.put_workflow(name, timeout="12s"))
    run_id = wire.trigger(name)
    action = worker.next()
    begun = time.monotonic()
    wire.report(action, dispatcher.STEP_EVENT_TYPE_STARTED, worker_id=worker.id)
    worker.stop_beating()
    await asyncio.sleep(2)  # so that a clock started anew at recovery would show
    wire.close()
    kill(ground.server)
    wire = Wire(ground.server.grpc_address, ground.server.token)
    stream = wire.listen(worker.id)
    wire.heartbeat(worker.id)
    wire.report(action, dispatcher.STEP_EVENT_TYPE_STARTED, worker_id=worker.id)
    assert wire.details(run_id).status == v1.RUNNING
    cancel = stream.next(timeout=30)
    took = time.monotonic() - begun
    assert cancel.action_type == dispatcher.CANCEL_STEP_RUN
    assert 11.0 < took < 14.0, f"timed out after {took:.1f} s, due after 12"
    assert wire.result(run_id).error == "Task exceeded timeout of 12s"
    wire.close()
