"""The embedded Postgres is started again when it has ended, and only then. The last tests do it to a real one under a server."""

import asyncio
import logging

import psutil
import pytest

from broadaxe_gateway import postgres_keeper
from broadaxe_gateway.postgres_keeper import MOST_ENDS, PostgresKeeper
from broadaxe_storage.embedded import EmbeddedPostgres
from broadaxe_storage.errors import EmbeddedEnded, EmbeddedFailed
from tests.gateway.running import environment_of, running


class FakePostgres:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended = asyncio.Event()

    async def wait_until_ended(self) -> None:
        await self.ended.wait()


class Bench:
    """A keeper of fakes; each of `starts` is how one start ends: well, or with that error."""

    def __init__(self, *starts: EmbeddedFailed | None) -> None:
        self.servers = [FakePostgres(1)]
        self.attempts = 0
        self.now = 0.0
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.started = asyncio.Event()
        self._starts = iter(starts)
        self._loop = asyncio.get_running_loop()
        self.keeper = PostgresKeeper(
            self.servers[0], self.start, self.lost.set_result, pauses=(0.01, 0.01), monotonic=lambda: self.now
        )

    def start(self) -> FakePostgres:
        """Runs in a thread, as the real one does."""
        self.attempts += 1
        error = next(self._starts, None)
        if error is not None:
            raise error
        server = FakePostgres(self.attempts + 1)
        self.servers.append(server)
        self._loop.call_soon_threadsafe(self.started.set)
        return server

    async def end_one(self) -> None:
        """The server that runs now ends, and another is started."""
        self.started.clear()
        self.servers[-1].ended.set()
        await asyncio.wait_for(self.started.wait(), 10)


async def test_a_postgres_that_ended_is_started_again_each_time(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    with caplog.at_level(logging.INFO, logger="broadaxe.database"):
        await bench.end_one()
        await bench.end_one()
        await bench.keeper.stop()
    assert bench.attempts == 2
    assert "the embedded Postgres (pid 1) has ended: starting it again" in caplog.messages
    assert "the embedded Postgres (pid 2) has ended: starting it again" in caplog.messages
    assert not bench.lost.done()


async def test_a_start_that_fails_for_a_moment_is_repeated() -> None:
    bench = Bench(EmbeddedFailed("still in use"), EmbeddedFailed("still in use"))
    await bench.end_one()
    assert bench.attempts == 3
    await bench.keeper.stop()
    assert not bench.lost.done()


async def test_starts_that_go_on_failing_are_given_up_with_the_reason() -> None:
    bench = Bench(*(EmbeddedFailed("no space left") for _ in range(9)))
    bench.servers[0].ended.set()
    reason = await asyncio.wait_for(bench.lost, 10)
    assert bench.attempts == 3
    assert reason == "the embedded Postgres ended and did not start again in 3 attempts: no space left"
    await bench.keeper.stop()


async def test_an_end_right_after_a_start_is_no_failed_start() -> None:
    bench = Bench(*(EmbeddedEnded("stopped right after its start") for _ in range(9)))
    await bench.end_one()
    assert bench.attempts == 10
    await bench.keeper.stop()
    assert not bench.lost.done()


async def test_a_postgres_that_ends_after_every_start_is_given_up() -> None:
    bench = Bench()
    for _ in range(MOST_ENDS):
        bench.now += 1
        await bench.end_one()
    bench.servers[-1].ended.set()
    assert "ended 31 times within 60 s" in await asyncio.wait_for(bench.lost, 10)
    assert bench.attempts == MOST_ENDS
    await bench.keeper.stop()


async def test_ends_that_are_far_apart_are_never_too_many() -> None:
    bench = Bench()
    for _ in range(2 * MOST_ENDS):
        bench.now += 3
        await bench.end_one()
    assert not bench.lost.done()
    await bench.keeper.stop()


async def test_nothing_is_started_after_stop() -> None:
    bench = Bench()
    await bench.keeper.stop()
    await bench.keeper.stop()
    bench.servers[0].ended.set()
    await asyncio.sleep(0)  # a turn of the loop, for whoever still waits
    assert bench.attempts == 0


async def test_server_starts_its_killed_postgres_again(data_dir) -> None:
    async with running(environment_of(data_dir)) as server:
        before = EmbeddedPostgres.start(data_dir)
        assert before.was_running
        psutil.Process(before.pid).kill()
        await asyncio.wait_for(before.wait_until_ended(), 10)
        async with asyncio.timeout(20):
            while (pid := postmaster_of(data_dir)) in (None, before.pid):  # noqa: ASYNC110 - a file does not call
                await asyncio.sleep(0.02)  # until the server has it started
        assert not server.ended.done()
    # An orderly stop leaves Postgres alone here (BROADAXE_KEEP_POSTGRES).
    assert postmaster_of(data_dir) == pid


async def test_server_that_stops_its_postgres_does_not_start_it_again(data_dir, caplog) -> None:
    async with running(environment_of(data_dir, BROADAXE_KEEP_POSTGRES="false")):
        assert postmaster_of(data_dir) is not None
    assert postmaster_of(data_dir) is None
    assert "starting it again" not in caplog.text


async def test_server_whose_postgres_cannot_be_started_again_says_so_and_stops(data_dir, monkeypatch) -> None:
    monkeypatch.setattr(postgres_keeper, "PAUSES_SECONDS", (0.05,))
    version = data_dir / "postgres" / "PG_VERSION"
    async with running(environment_of(data_dir)) as server:
        good = version.read_text()
        version.write_text("14\n")
        try:
            psutil.Process(postmaster_of(data_dir)).kill()
            reason = await asyncio.wait_for(server.ended, 30)
        finally:
            version.write_text(good)
    assert "did not start again in 2 attempts" in reason
    assert "made by PostgreSQL 14" in reason


def postmaster_of(data_dir) -> int | None:
    """The process that the data directory's pid file names, once it takes connections."""
    try:
        lines = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    return int(lines[0]) if len(lines) > 7 and lines[7].strip() == "ready" else None
