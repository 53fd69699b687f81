"""Lanes take turns: one tenant's bulk does not starve another, and the loop gets its turn too."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadaxe_actors.runtime import Actor, Runtime
from broadaxe_actors.runtime.local import TURN_MESSAGES
from broadaxe_actors.runtime.virtual import run_virtual


class Worker(Actor):
    def __init__(self, log, cost=lambda: None):
        self.log = log
        self.cost = cost

    def work(self, tag):
        self.cost()
        self.log.append(tag)


@given(
    bulk_lanes=st.integers(1, 5),
    bulk_actors=st.integers(1, 8),
    each=st.integers(1, 300),
    lane=st.sampled_from(["b", ""]),
)
@settings(max_examples=30, deadline=None)
def test_a_small_lane_waits_for_one_turn_of_each_other_lane_at_most(bulk_lanes, bulk_actors, each, lane):
    """However much waits elsewhere, a lane's first message is handled after at most one turn of every lane before it."""

    async def main(world):
        runtime = Runtime(world.clock, world.rng)
        log = []
        for bulk in range(bulk_lanes):
            for _ in range(bulk_actors):
                worker = runtime.spawn(Worker, log, lane=f"bulk-{bulk}")
                for _ in range(each):
                    worker.work.send("bulk")
        runtime.spawn(Worker, log, lane=lane).work.send("small")
        while "small" not in log:  # noqa: ASYNC110 - a turn of the loop is what is waited for
            await asyncio.sleep(0)
        await runtime.stop_all()
        return log.index("small")

    assert run_virtual(main) <= bulk_lanes * TURN_MESSAGES


async def test_turns_end_by_time_when_handlers_are_slow():
    now = 0.0

    def cost():
        nonlocal now
        now += 0.0004

    runtime = Runtime(stopwatch=lambda: now)
    log = []
    slow = runtime.spawn(Worker, log, cost, lane="slow")
    for _ in range(50):
        slow.work.send("slow")
    runtime.spawn(Worker, log, lane="quick").work.send("quick")
    await asyncio.sleep(0)
    assert log.index("quick") == 3  # 1.2 ms: the first handler that ends past 1 ms ends the turn
    await runtime.stop_all()


async def test_slices_end_so_that_the_loop_goes_on():
    now = 0.0

    def cost():
        nonlocal now
        now += 0.001

    runtime = Runtime(stopwatch=lambda: now)
    log = []
    worker = runtime.spawn(Worker, log, cost, lane="a")
    for _ in range(50):
        worker.work.send("x")
    seen = []
    while len(log) < 50:
        await asyncio.sleep(0)
        seen.append(len(log))
    assert max(b - a for a, b in zip([0, *seen], seen, strict=False)) <= 6
    await runtime.stop_all()


@pytest.mark.parametrize("lanes", [1, 7])
def test_endless_chatter_leaves_virtual_time_its_turn(lanes):
    class Chatter(Actor):
        def talk(self):
            self.me.talk.send()

    async def main(world):
        runtime = Runtime(world.clock, world.rng)
        for lane in range(lanes):
            runtime.spawn(Chatter, lane=str(lane)).talk.send()
        for _ in range(100):
            await asyncio.sleep(0)
        await runtime.stop_all()
        return True

    assert run_virtual(main)
