"""A worker killed -9 mid-way, another started: its tasks are taken over once it counts as lost (30 s without a heartbeat)."""

import pytest

from tests.faults.conftest import Field
from tests.faults.load import Fanout
from tests.processes import wait_until


@pytest.mark.timeout(300)
async def test_killed_worker_loses_nothing(ground: Field) -> None:
    victim = ground.worker(slots=40, name="victim")
    fanout = Fanout(ground, "broadaxe", 1_000, seconds=0.05)
    wait_until(lambda: ground.executed() >= 200, what="200 executions", timeout=60)
    victim.kill9()
    ground.worker(slots=40, name="heir")
    await fanout.check()
    later = [execution for execution in ground.executions() if execution.attempt > 0]
    assert later, "nothing was reassigned, so the victim held no task: the kill came too late"
    assert len(later) <= 40, "more tasks were reassigned than the victim had slots"


@pytest.mark.timeout(300)
async def test_killed_hatchet_worker_loses_nothing(ground: Field) -> None:
    victim = ground.worker("hatchet_sdk", slots=20, name="victim")
    fanout = Fanout(ground, "hatchet_sdk", 200, seconds=0.2)
    wait_until(lambda: ground.executed() >= 50, what="50 executions", timeout=60)
    victim.kill9()
    ground.worker("hatchet_sdk", slots=20, name="heir")
    await fanout.check()


@pytest.mark.timeout(120)
async def test_worker_stopped_in_order_finishes_what_it_has(ground: Field) -> None:
    """SIGTERM drains: nothing is run twice, the next worker takes the rest."""
    leaver = ground.worker(slots=20, name="leaver")
    fanout = Fanout(ground, "broadaxe", 400, seconds=0.1)
    wait_until(lambda: ground.executed() >= 60, what="60 executions", timeout=60)
    assert leaver.stop(timeout=30) == 0, leaver.tail()
    ground.worker(slots=20, name="heir")
    await fanout.check()
    assert len(ground.executions()) == 400
