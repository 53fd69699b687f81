"""Connections: opening them with our codecs, pooling them, and turning asyncpg's errors into ours.

May touch asyncpg, `config`, `errors` and `queries`. Facts to know:

- Times travel as integers: the codec adds the distance between 1970 and Postgres' own epoch. Identifiers go out as text (asyncpg's
  own codec takes it) and come back through `::text` in the queries. jsonb travels as text.
- Under pgbouncer in transaction mode two statements may meet two servers: every use of a connection is then one explicit transaction,
  statements are not named, and nothing is left on the session. Without it, statements are prepared once a connection.
- A pooled connection is not reset when it is given back: no query here leaves anything behind, and the reset would cost a round trip.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from broadaxe_storage.config import DatabaseConfig, without_password
from broadaxe_storage.errors import (
    CannotConnect,
    CannotMigrate,
    DatabaseTooOld,
    Fenced,
    RefusedRecords,
    StorageBug,
    StorageError,
    Unavailable,
)
from broadaxe_storage.queries import query

_logger = logging.getLogger("broadaxe.storage")

OLDEST_POSTGRES = 15
_POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 00:00 UTC, from which Postgres counts, in microseconds since 1970."""

_KEY_ID = re.compile(r"\(id[^)]*\)=\(([0-9a-f-]{36})")

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # generic in its stubs alone


def _encode_time(at: int) -> tuple[int]:
    return (at - _POSTGRES_EPOCH_US,)


def _decode_time(value: tuple[int]) -> int:
    return value[0] + _POSTGRES_EPOCH_US


async def connect(
    url: str,
    config: DatabaseConfig,
    *,
    name: str,
    keepalive: bool = False,
    session_settings: Mapping[str, str] | None = None,
) -> Connection:
    """Open a connection that encodes our types. `name` is what Postgres shows for it; `session_settings` count past pgbouncer only.

    Raises `CannotConnect`, and `DatabaseTooOld` for a server below `OLDEST_POSTGRES`, before it is asked anything.

    With `keepalive` the server notices within half a minute that this machine has vanished (pgbouncer has settings of its own for that).
    """
    is_pgbouncer = config.is_pgbouncer and url == config.url
    settings = {"application_name": name}
    if not is_pgbouncer:
        settings |= {"jit": "off", "timezone": "UTC"} | dict(session_settings or {})
    if keepalive and not is_pgbouncer:
        settings |= {
            "tcp_keepalives_idle": "10",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
        }
    try:
        connection: Connection = await asyncpg.connect(
            url,
            timeout=config.connect_timeout_seconds,
            statement_cache_size=0 if is_pgbouncer else 200,
            max_cached_statement_lifetime=0,
            server_settings=settings,
        )
    except Exception as error:
        if not (is_connection_loss(error) or isinstance(error, asyncpg.PostgresError | ValueError)):
            raise
        reason = str(error) or (
            f"no answer within {config.connect_timeout_seconds:g} s"
            if isinstance(error, TimeoutError)
            else type(error).__name__
        )
        raise CannotConnect(without_password(url), reason) from error
    version = connection.get_server_version()
    if version.major < OLDEST_POSTGRES:
        connection.terminate()
        # Since version 10 the second number of 14.9 counts fixes, and asyncpg puts it third.
        second = version.micro if version.major >= 10 else version.minor
        raise DatabaseTooOld(f"{version.major}.{second}", OLDEST_POSTGRES)
    try:
        # One transaction, for pgbouncer: the look-up of the type is several statements.
        async with asyncio.timeout(config.connect_timeout_seconds), connection.transaction():
            await connection.set_type_codec(
                "timestamptz",
                schema="pg_catalog",
                encoder=_encode_time,
                decoder=_decode_time,
                format="tuple",
            )
    except Exception as error:
        connection.terminate()
        if not (is_connection_loss(error) or isinstance(error, asyncpg.PostgresError)):
            raise
        reason = str(error) or f"no answer within {config.connect_timeout_seconds:g} s"
        raise CannotConnect(without_password(url), reason) from error
    if config.log_queries:
        connection.add_query_logger(_log_query)
    return connection


def _log_query(record: Any) -> None:
    _logger.info("query took %.3f ms: %s", record.elapsed * 1000, " ".join(record.query.split()))


async def close(connection: Connection | None) -> None:
    """Close a connection in order, or cut it when that takes more than a moment."""
    if connection is None or connection.is_closed():
        return
    try:
        await connection.close(timeout=2)
    except Exception as error:
        connection.terminate()
        if not (is_connection_loss(error) or isinstance(error, asyncpg.PostgresError)):
            raise


class Pool:
    """Connections to one address, made when needed, at most `most` of them.

    asyncpg's own pool resets each connection by a query when it is given back and knows no lifetime; this one does neither more nor
    less than `DatabaseConfig` says.
    """

    def __init__(
        self,
        url: str,
        config: DatabaseConfig,
        *,
        name: str,
        least: int,
        most: int,
        session_settings: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url
        self._session_settings = session_settings
        self._config = config
        self._name = name
        self._least = least
        self._is_pgbouncer = config.is_pgbouncer and url == config.url
        self._idle: list[tuple[Connection, float]] = []
        """Free connections, the one used last at the end, and the time since which each is free."""
        self._opened_at: dict[Connection, float] = {}
        self._places = asyncio.Semaphore(most)
        self._reaper: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def open(self) -> None:
        """Connect the connections that are always kept. Raises `CannotConnect`."""
        for _ in range(self._least):
            self._idle.append((await self._connect(), time.monotonic()))

    async def close(self) -> None:
        """Close every free connection now, and those in use as they are given back. May be called twice."""
        self._is_closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        while self._idle:
            await self._discard(self._idle.pop()[0])
        if self._closing:
            await asyncio.wait(self._closing)

    async def fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        """All rows of query `name`. Raises `Unavailable`, `RefusedRecords` or `StorageBug`."""
        async with self.connection() as connection:
            return await connection.fetch(query(name), *arguments)

    async def fetchval(self, name: str, *arguments: object) -> Any:
        """The first value of query `name`, or None without a row. Raises as `fetch`."""
        async with self.connection() as connection:
            return await connection.fetchval(query(name), *arguments)

    @asynccontextmanager
    async def connection(self, *, in_transaction: bool = False) -> AsyncIterator[Connection]:
        """A connection for a while; in a transaction when asked for, or when pgbouncer demands it. Errors come out as ours."""
        if self._is_closed:
            raise Unavailable(f"the connections to {without_password(self._url)} are closed")
        async with self._places:
            connection = await self._take()
            try:
                with translated_errors():
                    if in_transaction or self._is_pgbouncer:
                        async with connection.transaction():
                            yield connection
                    else:
                        yield connection
            except (asyncio.CancelledError, Unavailable):
                # The statement may still be running, or the driver be stuck: such a connection is of no use to the next caller.
                connection.terminate()
                raise
            finally:
                await self._give_back(connection)

    async def _take(self) -> Connection:
        while self._idle:
            connection, _ = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._opened_at.pop(connection, None)
        return await self._connect()

    async def _connect(self) -> Connection:
        connection = await connect(
            self._url, self._config, name=self._name, session_settings=self._session_settings
        )
        self._opened_at[connection] = time.monotonic()
        return connection

    async def _give_back(self, connection: Connection) -> None:
        now = time.monotonic()
        age = now - self._opened_at[connection]
        if connection.is_closed() or self._is_closed or age > self._config.max_conn_lifetime_seconds:
            await self._discard(connection)
        else:
            self._idle.append((connection, now))
            if self._reaper is None and len(self._idle) > self._least:
                self._plan_reaping()

    async def _discard(self, connection: Connection) -> None:
        self._opened_at.pop(connection, None)
        await close(connection)

    def _plan_reaping(self) -> None:
        self._reaper = asyncio.get_running_loop().call_later(self._config.max_conn_idle_seconds, self._reap)

    def _reap(self) -> None:
        """Close connections that were idle for too long, oldest first, down to the ones that are kept."""
        self._reaper = None
        limit = time.monotonic() - self._config.max_conn_idle_seconds
        while len(self._idle) > self._least and self._idle[0][1] <= limit:
            task = asyncio.get_running_loop().create_task(self._discard(self._idle.pop(0)[0]))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if len(self._idle) > self._least:
            self._plan_reaping()


def is_connection_loss(error: BaseException) -> bool:
    """Whether an error of the driver means that the connection broke, or that its state is not known any more.

    That is more than the errors of sockets: a server that is killed may have its last words read while the driver is idle or about to
    send the next part of a statement, which asyncpg takes for a fault of its own (`InternalClientError`); uvloop refuses to write to a
    socket that it has closed, before it tells the driver of it.
    """
    return isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError | EOFError) or (
        type(error) is RuntimeError and "handler is closed" in str(error)
    )


# What cannot be the data's fault and may pass: refused connections, shut-downs, no resources, deadlocks, time-outs.
_PASSING_CLASSES = ("08", "53", "57", "58", "40", "55")
# What the data can cause: cardinality, values, integrity, limits.
_DATA_CLASSES = ("21", "22", "23", "54")


def translate(error: BaseException, *, epoch: int = 0) -> StorageError | None:
    """Our error for one of asyncpg's, or None for what is not asyncpg's."""
    if isinstance(error, asyncpg.PostgresError):
        code = getattr(error, "sqlstate", None) or ""
        if code == "BX001":
            return Fenced(epoch)
        if code in ("BX002", "BX003"):
            ids = tuple(filter(None, (getattr(error, "detail", None) or "").split(",")))
            return RefusedRecords(str(error.args[0]), ids)
        if code == "BX004":
            return CannotMigrate(str(error.args[0]))
        if code.startswith(_DATA_CLASSES):
            detail = getattr(error, "detail", None)
            return RefusedRecords(f"{error.args[0]}{f'; {detail}' if detail else ''}", _ids_in(detail))
        if code.startswith(_PASSING_CLASSES):
            return Unavailable(f"Postgres could not serve ({code}): {error.args[0]}")
        return StorageBug(code, str(error.args[0]))
    if is_connection_loss(error):
        return Unavailable(f"the connection to Postgres was lost: {error or type(error).__name__}")
    return None


def _ids_in(detail: str | None) -> tuple[str, ...]:
    """The id that a duplicate-key detail names: `Key (id)=(...) already exists.`."""
    found = _KEY_ID.search(detail or "")
    return (found[1],) if found else ()


@contextmanager
def translated_errors(*, epoch: int = 0) -> Iterator[None]:
    """Turn asyncpg's errors within into ours."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        ours = translate(error, epoch=epoch)
        if ours is None:
            raise
        raise ours from error
