"""What the store does when connections break, engines die and days change."""

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg
import pytest

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.errors import CannotConnect, CommitUnknown, Fenced, Unavailable
from broadaxe_storage.partitions import DAY_US
from broadaxe_storage.pool import translate
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.records import Batch
from broadaxe_storage.store import shard_of
from tests.factories import (
    TENANT,
    make_finish,
    make_task_run,
    make_update,
    now_us,
)

SHARDS = (shard_of(TENANT),)

ENGINE = """
import asyncio, sys
from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.postgres import PostgresStore

async def main():
    store = await PostgresStore.open(DatabaseConfig(url=sys.argv[1]))
    print(await store.open_shards(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

LOSSES = (
    asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
    asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
    asyncpg.InterfaceError("connection is closed"),
    asyncpg.CrashShutdownError("terminating connection because of crash of another server process"),
    ConnectionResetError(104, "Connection reset by peer"),
    BrokenPipeError(32, "Broken pipe"),
    TimeoutError(),
    asyncio.IncompleteReadError(b"", 4),
    RuntimeError("unable to perform operation on <UnixTransport closed=True>; the handler is closed"),
)


def driver_errors() -> set[type[Exception]]:
    """Every error class that asyncpg exports."""
    return {
        kind
        for kind in vars(asyncpg.exceptions).values()
        if isinstance(kind, type)
        and issubclass(kind, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError)
    }


class LateClosing:
    """A relay before Postgres that passes everything on but the end of a session: that reaches the client with the relay's end."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        (host,) = parse_qs(parts.query)["host"]
        self._socket = f"{host}/.s.PGSQL.5432"
        self._parts = parts
        self._last_words = asyncio.Semaphore(0)
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = urlunsplit(
            self._parts._replace(netloc=f"postgres@127.0.0.1:{port}", query="sslmode=disable")
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def has_relayed_last_words(self, sessions: int) -> None:
        """Return once that many more sessions have been ended by Postgres and their clients have been told why."""
        for _ in range(sessions):
            await self._last_words.acquire()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_postgres, to_postgres = await asyncio.open_unix_connection(self._socket)
        self._writers += (writer, to_postgres)
        sending = asyncio.create_task(self._pass_on(reader, to_postgres))
        await self._pass_on(from_postgres, writer)
        for _ in range(2):
            await asyncio.sleep(
                0
            )  # what loopback has taken is read in the loop's next turn, before the test goes on
        self._last_words.release()
        await sending

    @staticmethod
    async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()


@pytest.fixture
async def store(database_config: DatabaseConfig) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open(database_config)
    yield store
    await store.close()


@pytest.fixture
async def other(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Someone else's connection to the same database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_a_killed_engine_frees_the_shards_at_once(database_config: DatabaseConfig) -> None:
    engine = subprocess.Popen(  # noqa: ASYNC220 - to be killed
        [sys.executable, "-W", "ignore", "-c", ENGINE, database_config.url], stdout=subprocess.PIPE, text=True
    )
    assert engine.stdout is not None
    epoch = int(engine.stdout.readline())
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    engine.stdout.close()
    store = await PostgresStore.open(database_config)
    try:
        assert await store.open_shards() == epoch + 1
    finally:
        await store.close()


async def test_a_lost_lock_is_taken_again(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    epoch = await store.open_shards()
    holder = "SELECT pid FROM pg_stat_activity WHERE application_name = 'broadaxe-owner' AND datname = current_database()"
    before = await other.fetchval(holder)
    await other.execute("SELECT pg_terminate_backend($1, 5000)", before)
    locked = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    async with asyncio.timeout(10):
        while (await other.fetchval(locked)) in (None, before):  # noqa: ASYNC110 - Postgres does not call
            await asyncio.sleep(0.01)  # the loss is seen when the socket closes
        await store.ownership.wait_until_held()
    await store.commit(epoch, 1, SHARDS, Batch(created=(make_task_run(),)))


async def test_who_took_over_while_the_lock_was_lost_fences_the_former_owner(
    store: PostgresStore, database_config: DatabaseConfig
) -> None:
    epoch = await store.open_shards()
    await store.ownership.release()
    second = await PostgresStore.open(database_config)
    try:
        await second.open_shards()
        with pytest.raises(Fenced):
            await store.commit(epoch, 1, SHARDS, Batch(created=(make_task_run(),)))
    finally:
        await second.close()


async def test_a_connection_lost_during_a_commit_leaves_an_outcome_that_can_be_read(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    epoch = await store.open_shards()
    row, again = make_task_run(), make_task_run()
    await store.commit(epoch, 1, SHARDS, Batch(created=(row,)))
    async with other.transaction():
        # The commit below waits for this row, so that it can be cut while it runs.
        await other.execute("SELECT FROM task_run WHERE id = $1 FOR UPDATE", row.id)
        commit = asyncio.create_task(
            store.commit(epoch, 2, SHARDS, Batch(created=(again,), updated=(make_update(row),)))
        )
        async with asyncio.timeout(10):
            while not await other.fetchval(  # noqa: ASYNC110 - Postgres does not call
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'broadaxe-journal%' "
                "AND datname = current_database() AND wait_event_type = 'Lock'"
            ):
                await asyncio.sleep(0.01)  # until the commit waits for the row
        with pytest.raises(CommitUnknown):
            await commit
    assert await store.read_flush(SHARDS[0]) == (epoch, 1)
    assert await store.fetch_live(TENANT, [again.id]) == []
    await store.commit(epoch, 2, SHARDS, Batch(created=(again,), updated=(make_update(row),)))
    assert await store.read_flush(SHARDS[0]) == (epoch, 2)


async def test_the_outcome_is_final_even_when_postgres_still_works_on_the_lost_commit(
    database_config: DatabaseConfig, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    store = await PostgresStore.open(
        DatabaseConfig(url=database_config.url, commit_timeout_seconds=0.2, lock_wait_seconds=0.2)
    )
    try:
        epoch = await store.open_shards()
        row, new = make_task_run(), make_task_run()
        await store.commit(epoch, 1, SHARDS, Batch(created=(row,)))
        async with other.transaction():
            await other.execute("SELECT FROM task_run WHERE id = $1 FOR UPDATE", row.id)
            with pytest.raises(CommitUnknown, match=r"no answer within 0\.2 s"):
                await store.commit(epoch, 2, SHARDS, Batch(created=(new,), updated=(make_update(row),)))
            # The backend still waits for the row; were it left alone, it would commit after this answer.
            assert await store.read_flush(SHARDS[0]) == (epoch, 1)
        assert await store.read_flush(SHARDS[0]) == (epoch, 1)
        assert await store.fetch_live(TENANT, [new.id]) == []
    finally:
        await store.close()


async def test_last_words_of_a_killed_postgres_leave_an_outcome_that_can_be_read(
    database_config: DatabaseConfig, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """The driver has read why its session ends, and the socket is still open when the next statement is due."""
    async with LateClosing(database_config.url) as relay:
        store = await PostgresStore.open(DatabaseConfig(url=relay.url))
        try:
            epoch = await store.open_shards()
            await store.commit(epoch, 1, SHARDS, Batch(created=(make_task_run(),)))
            assert await store.load_tenants() == []
            await other.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
                "AND (application_name = 'broadaxe' OR application_name LIKE 'broadaxe-journal%')"
            )
            await relay.has_relayed_last_words(2)
            row = make_task_run()
            with pytest.raises(CommitUnknown, match="another operation"):
                await store.commit(epoch, 2, SHARDS, Batch(created=(row,)))
            with pytest.raises(Unavailable, match="another operation"):
                await store.load_tenants()
            assert await store.read_flush(SHARDS[0]) == (epoch, 1)
            await store.commit(epoch, 2, SHARDS, Batch(created=(row,)))
            assert len(await store.fetch_live(TENANT, [row.id])) == 1
        finally:
            await store.close()


@pytest.mark.parametrize("error", LOSSES, ids=[type(error).__name__ for error in LOSSES])
async def test_whatever_the_driver_raises_of_a_lost_connection_is_no_bug_of_ours(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    epoch = await store.open_shards()
    await store.commit(epoch, 1, SHARDS, Batch(created=(make_task_run(),)))

    async def breaks(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        for method in ("fetch", "fetchval"):
            patched.setattr(asyncpg.Connection, method, breaks)
        with pytest.raises(CommitUnknown):
            await store.commit(epoch, 2, SHARDS, Batch())
        with pytest.raises(Unavailable):
            await store.load_tenants()
        patched.setattr(asyncpg, "connect", breaks)
        with pytest.raises(CannotConnect):
            await store.commit(epoch, 2, SHARDS, Batch())
        with pytest.raises(CannotConnect):
            await store.load_tenants()
    assert await store.read_flush(SHARDS[0]) == (epoch, 1)
    await store.commit(epoch, 2, SHARDS, Batch())


def test_every_error_of_the_driver_has_one_of_ours() -> None:
    unmapped = [kind.__name__ for kind in driver_errors() if translate(kind("it failed")) is None]
    assert not unmapped


async def test_without_postgres_everything_is_unavailable_and_nothing_hangs(
    store: PostgresStore, postgres_server: object
) -> None:
    epoch = await store.open_shards()
    await store._journal.close()
    broken = "postgresql://postgres@127.0.0.1:1/nowhere"
    store._journal._config = DatabaseConfig(url=broken, connect_timeout_seconds=1)
    with pytest.raises(Unavailable, match="cannot connect"):
        await store.commit(epoch, 1, SHARDS, Batch())
    await store.close()
    with pytest.raises(Unavailable):
        await store.load_tenants()


async def test_a_broken_pooled_connection_is_replaced(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    assert await store.load_tenants() == []
    await other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'broadaxe' "
        "AND datname = current_database()"
    )
    async with asyncio.timeout(10):
        while not store._pool._idle[0][0].is_closed():  # noqa: ASYNC110 - asyncpg tells only the owner
            await asyncio.sleep(0.01)  # the loss is seen when the socket closes
    assert await store.load_tenants() == []


async def test_a_batch_is_one_statement_and_an_idle_store_sends_none(
    database_config: DatabaseConfig, caplog: pytest.LogCaptureFixture
) -> None:
    store = await PostgresStore.open(DatabaseConfig(url=database_config.url, log_queries=True))
    try:
        epoch = await store.open_shards()
        row = make_task_run()
        await store.commit(epoch, 1, SHARDS, Batch(created=(row,)))
        await asyncio.sleep(0.05)  # statements are logged a little after they end
        with caplog.at_level(logging.INFO, logger="broadaxe.storage"):
            await store.commit(
                epoch, 2, SHARDS, Batch(created=(make_task_run(),), updated=(make_update(row),))
            )
            await asyncio.sleep(0.3)  # idle: there is nothing to wait for
        (logged,) = caplog.records
        assert "commit_batch" in logged.getMessage()
    finally:
        await store.close()


async def test_days_are_partitions_and_late_ones_take_their_rows_from_the_default(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    epoch = await store.open_shards()
    day = now_us() // DAY_US + 9
    row, late = make_task_run(), make_task_run()
    await store.commit(epoch, 1, SHARDS, Batch(created=(row, late)))
    store._partitions._known.add(day)  # as if another had made it, so that the row falls through
    await store.commit(epoch, 2, SHARDS, Batch(finished=(make_finish(row, finished_at=day * DAY_US),)))
    assert await other.fetchval("SELECT count(*) FROM task_run_history_other") == 1
    store._partitions._known.discard(day)
    await store.commit(epoch, 3, SHARDS, Batch(finished=(make_finish(late, finished_at=day * DAY_US + 5),)))
    assert await other.fetchval("SELECT count(*) FROM task_run_history_other") == 0
    places = await other.fetch("SELECT DISTINCT tableoid::regclass::text AS place FROM task_run_history")
    assert len(places) == 1
    assert len(await store.fetch_finished(TENANT, [row.id, late.id])) == 2


async def test_an_assignment_is_a_heap_only_update(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    epoch = await store.open_shards()
    rows = [make_task_run() for _ in range(20)]
    await store.commit(epoch, 1, SHARDS, Batch(created=tuple(rows)))
    before = await other.fetchval("SELECT pg_relation_size('task_run_pkey')")
    for flush, row in enumerate(rows, 2):
        await store.commit(epoch, flush, SHARDS, Batch(updated=(make_update(row),)))
    await other.execute("SELECT pg_stat_force_next_flush()")
    same_page = await other.fetchval("SELECT count(*) FROM task_run WHERE (ctid::text::point)[0] = 0")
    assert same_page == 20
    assert await other.fetchval("SELECT pg_relation_size('task_run_pkey')") == before
