"""kill -9 of the engine under a fan-out, at random moments: every task completes, none is lost."""

import pytest

from tests.faults.conftest import Field
from tests.faults.load import Fanout


async def survives(ground: Field, sdk: str, count: int, kills: int) -> None:
    worker = ground.worker(sdk)
    fanout = Fanout(ground, sdk, count, seconds=0.01)

    def strike() -> None:
        ground.server.kill9()
        ground.server.restart()

    fanout.hit(kills, strike)
    await fanout.check()
    assert worker.is_running, worker.tail()


@pytest.mark.timeout(300)
async def test_engine_killed_three_times_loses_nothing(ground: Field) -> None:
    await survives(ground, "broadaxe", 5_000, 3)


@pytest.mark.timeout(300)
async def test_engine_killed_twice_loses_nothing_of_an_unmodified_client(ground: Field) -> None:
    await survives(ground, "hatchet_sdk", 400, 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_engine_killed_twenty_times_loses_nothing(ground: Field) -> None:
    await survives(ground, "broadaxe", 5_000, 20)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_engine_killed_twenty_times_loses_nothing_of_an_unmodified_client(ground: Field) -> None:
    await survives(ground, "hatchet_sdk", 1_000, 20)
