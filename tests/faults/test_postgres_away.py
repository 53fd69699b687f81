"""Postgres killed or unreachable under a fan-out: no report is lost, nothing is acknowledged that is not stored.

The engine brings a Postgres that ended back by itself; the tests only wait for it.
"""

import asyncio
import contextlib
import fcntl
import itertools
import signal

import psutil
import pytest

from tests.faults.conftest import Field
from tests.faults.load import Fanout
from tests.processes import WaitTimeout, wait_until


def wait_for_another_postgres(ground: Field, former: int) -> None:
    """Returns once the engine has started Postgres again."""

    def is_back() -> bool:
        lines: list[str] = []
        with contextlib.suppress(FileNotFoundError):  # removed before a start
            pid_file = ground.server.postgres_pid_file()
            lines = pid_file.read_text().splitlines() if pid_file is not None else []
        return len(lines) > 7 and lines[7].strip() == "ready" and int(lines[0]) != former

    try:
        wait_until(is_back, what="the engine to start Postgres again", timeout=60)
    except WaitTimeout as error:
        raise WaitTimeout(f"{error}; the engine's log:\n{ground.server.process.tail()}") from None


def postmaster(ground: Field) -> int:
    pid = ground.server.postgres_pid()
    assert pid is not None
    return pid


async def survives_kills(ground: Field, sdk: str, count: int, kills: int) -> None:
    engine = ground.server.process.pid
    ground.worker(sdk)
    fanout = Fanout(ground, sdk, count, seconds=0.01)
    is_whole = itertools.cycle((True, False))

    def strike() -> None:
        former = postmaster(ground)
        if next(is_whole):
            ground.server.postgres_kill9()
        else:  # the others see it and end by themselves, in the middle of what they do
            psutil.Process(former).kill()
        wait_for_another_postgres(ground, former)

    fanout.hit(kills, strike)
    await fanout.check()
    assert ground.server.process.pid == engine
    assert ground.server.process.is_running, ground.server.process.tail()


@pytest.mark.timeout(300)
async def test_postgres_killed_six_times_loses_nothing(ground: Field) -> None:
    await survives_kills(ground, "broadaxe", 5_000, 6)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_postgres_killed_twenty_times_loses_nothing(ground: Field) -> None:
    await survives_kills(ground, "broadaxe", 5_000, 20)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_postgres_killed_twenty_times_loses_nothing_of_an_unmodified_client(ground: Field) -> None:
    await survives_kills(ground, "hatchet_sdk", 1_000, 20)


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
    former = postmaster(ground)
    # The engine would start it again at once: whoever holds this lock keeps it from that.
    with (ground.server.data_dir / "postgres.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        psutil.Process(former).send_signal(signal.SIGINT)
        psutil.Process(former).wait(timeout=30)
        await asyncio.sleep(seconds)  # how long Postgres is away is the fault
    wait_for_another_postgres(ground, former)
    await fanout.check()


@pytest.mark.timeout(240)
async def test_postgres_shut_down_for_5_s_loses_no_report(ground: Field) -> None:
    await survives_shutdown(ground, 5_000, 5)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_postgres_shut_down_for_20_s_loses_no_report(ground: Field) -> None:
    await survives_shutdown(ground, 5_000, 20)
