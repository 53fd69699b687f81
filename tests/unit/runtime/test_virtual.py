"""The loop in virtual time."""

import asyncio
import time

import pytest

from broadaxe_actors.runtime.virtual import StandStillError, run_virtual


def test_time_jumps_to_the_next_timer():
    async def main(world):
        started = world.clock.now()
        await asyncio.sleep(86_400)
        return world.clock.now() - started

    before = time.monotonic()
    assert run_virtual(main) == 86_400_000_000
    assert time.monotonic() - before < 5


def test_a_coroutine_finds_its_clock_at_the_loop():
    async def main():
        await asyncio.sleep(1.5)
        return asyncio.get_running_loop().clock.monotonic()

    assert run_virtual(main()) == 1_500_000


def test_timers_are_never_early():
    async def main(world):
        at = []
        for us in (1, 3, 7, 333_333, 1_000_001):
            begun = world.clock.monotonic()
            await asyncio.sleep(us / 1_000_000)
            at.append(world.clock.monotonic() - begun - us)
        return at

    assert all(0 <= late <= 2 for late in run_virtual(main))


def test_a_deadlock_is_reported():
    async def main(_world):
        await asyncio.Event().wait()

    with pytest.raises(StandStillError, match="every task waits"):
        run_virtual(main)


def test_threads_are_refused():
    async def main(_world):
        await asyncio.to_thread(time.sleep, 0)

    with pytest.raises(RuntimeError, match="virtual time"):
        run_virtual(main)


def test_the_same_seed_gives_the_same_run():
    async def main(world):
        order = []

        async def walk(name):
            for _ in range(20):
                await asyncio.sleep(world.rng.random())
                order.append((name, world.clock.monotonic()))

        await asyncio.gather(*(walk(name) for name in "abc"))
        return order

    assert run_virtual(main, seed=3) == run_virtual(main, seed=3)
    assert run_virtual(main, seed=3) != run_virtual(main, seed=4)
