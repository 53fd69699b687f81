"""Postgres killed or unreachable under a fan-out: no report is lost, nothing is acknowledged that is not stored."""

import asyncio
import contextlib
import signal
import subprocess
import sys

import psutil
import pytest

from tests.faults.conftest import Field
from tests.faults.load import Fanout
from tests.processes import wait_until

START = (
    "import sys; from broadaxe_storage.embedded import EmbeddedPostgres; EmbeddedPostgres.start(sys.argv[1])"
)


def bring_back(ground: Field) -> None:
    """Starts the embedded Postgres again, whoever is first: the engine may have done it already."""
    subprocess.run([sys.executable, "-c", START, str(ground.server.data_dir)], check=True, timeout=90)
    wait_until(lambda: ground.server.postgres_pid() is not None, what="Postgres to run", timeout=30)


async def survives_kills(ground: Field, count: int, kills: int) -> None:
    engine = ground.server.process.pid
    ground.worker()
    fanout = Fanout(ground, "broadaxe", count, seconds=0.01)

    def strike() -> None:
        ground.server.postgres_kill9()
        bring_back(ground)

    fanout.hit(kills, strike)
    await fanout.check()
    assert ground.server.process.pid == engine
    assert ground.server.process.is_running, ground.server.process.tail()


@pytest.mark.timeout(300)
async def test_postgres_killed_three_times_loses_nothing(ground: Field) -> None:
    await survives_kills(ground, 5_000, 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_postgres_killed_twenty_times_loses_nothing(ground: Field) -> None:
    await survives_kills(ground, 5_000, 20)


async def survives_silence(ground: Field, sdk: str, count: int, seconds: float) -> None:
    """Postgres does not answer for a while, its connections stay open."""
    ground.worker(sdk)
    fanout = Fanout(ground, sdk, count, seconds=0.01)
    wait_until(lambda: ground.executed() >= count // 5, what="a fifth of the executions", timeout=60)
    tree = ground.server.postgres_tree()
    assert tree
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)  # how long Postgres is away is the fault
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
    await fanout.check()


@pytest.mark.timeout(240)
async def test_postgres_silent_for_5_s_loses_no_report(ground: Field) -> None:
    await survives_silence(ground, "broadaxe", 5_000, 5)


@pytest.mark.timeout(240)
async def test_postgres_silent_for_5_s_loses_no_report_of_an_unmodified_worker(ground: Field) -> None:
    await survives_silence(ground, "hatchet_sdk", 300, 5)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_postgres_silent_for_20_s_loses_no_report(ground: Field) -> None:
    await survives_silence(ground, "broadaxe", 5_000, 20)


async def survives_shutdown(ground: Field, count: int, seconds: float) -> None:
    """Postgres is shut down in order and refuses connections for a while."""
    ground.worker()
    fanout = Fanout(ground, "broadaxe", count, seconds=0.01)
    wait_until(lambda: ground.executed() >= count // 5, what="a fifth of the executions", timeout=60)
    pid = ground.server.postgres_pid()
    assert pid is not None
    postmaster = psutil.Process(pid)
    postmaster.send_signal(signal.SIGINT)
    postmaster.wait(timeout=30)
    await asyncio.sleep(seconds)  # how long Postgres is away is the fault
    bring_back(ground)
    await fanout.check()


@pytest.mark.timeout(240)
async def test_postgres_shut_down_for_5_s_loses_no_report(ground: Field) -> None:
    await survives_shutdown(ground, 5_000, 5)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_postgres_shut_down_for_20_s_loses_no_report(ground: Field) -> None:
    await survives_shutdown(ground, 5_000, 20)
