"""Writes one batch in one transaction, over a connection of its own. The actor decides when; this knows how.

May touch asyncpg through `pool`. Facts to know, measured by `benchmarks/storage_bench.py`:

- A batch is one statement and one round trip: `commit_batch` gets one array of rows a kind. Arrays of rows cost a third of one array a
  column, on both sides. What few batches hold goes to functions of its own, which the same statement calls if there is any.
- From `COPY_FROM` created task runs on, or with the filter of an event among them, those travel by COPY within an explicit transaction: three more round trips, half the CPU, and less
  log, because COPY fills a page at a time.
- Only Postgres' refusal proves that nothing was written. A connection that breaks after a statement was sent leaves the outcome open.
"""

import asyncio
import itertools
import os
from collections.abc import Sequence

import asyncpg

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.errors import CommitUnknown, RefusedRecords, StorageError
from broadaxe_storage.pool import Connection, Pool, close, connect, is_connection_loss, translate
from broadaxe_storage.queries import query
from broadaxe_storage.records import Batch, TaskRunRow

COPY_FROM = 256
"""Created task runs in one batch from which COPY is the cheaper way."""
_CREATED_COLUMNS = TaskRunRow._fields
_ROW_WITHOUT_FILTER = len(_CREATED_COLUMNS) - 1
"""Columns of a created row as an argument of `commit_batch`, which knows no filter: rows with one are copied."""
_COMMIT = query("commit_batch")
_COMMIT_ALL = query("commit_batch_with_flow")
_FLOW_FROM = Batch._fields.index("rate_limits")
"""The first kind that is not an argument of `commit_batch`."""
_ENDING_CODES = ("08", "57P")
"""The session ends, says Postgres, or pgbouncer in its place: whether a commit that was under way took place is not said."""
_ENDING_SEVERITIES = ("FATAL", "PANIC")


class JournalWriter:
    """One connection that commits batches, one at a time; reconnects when it must."""

    _numbers = itertools.count(1)

    def __init__(self, config: DatabaseConfig) -> None:
        self._config = config
        self._connection: Connection | None = None
        self._name = ""
        self._one_at_a_time = asyncio.Lock()
        self._lost: list[str] = []
        """Names of connections that broke while committing: Postgres may still be at work for them."""

    async def commit(self, epoch: int, flush: int, shards: Sequence[int], batch: Batch) -> None:
        """See `ShardStore.commit`."""
        async with self._one_at_a_time:
            connection = await self._connected()
            try:
                async with asyncio.timeout(self._config.commit_timeout_seconds):
                    await self._write(connection, epoch, flush, shards, batch)
            except asyncio.CancelledError:
                self._give_up(connection)
                raise
            except Exception as error:
                raise self._judge(error, connection, epoch, flush) from error

    async def read_flush(self, pool: Pool, shard: int) -> tuple[int, int]:
        """See `ShardStore.read_flush`. Ends what lost connections may still be executing first, so that the answer is final."""
        while self._lost:
            await pool.fetch("end_backend", self._lost[-1])
            self._lost.pop()
        rows = await pool.fetch("read_flush", shard)
        return rows[0]["epoch"], rows[0]["flush"]

    async def close(self) -> None:
        """May be called twice."""
        connection, self._connection = self._connection, None
        await close(connection)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._name = f"broadaxe-journal-{os.getpid()}-{next(self._numbers)}"
            self._connection = await connect(self._config.url, self._config, name=self._name, keepalive=True)
        return self._connection

    async def _write(
        self, connection: Connection, epoch: int, flush: int, shards: Sequence[int], batch: Batch
    ) -> None:
        is_copied = len(batch.created) >= COPY_FROM or any(row.filter is not None for row in batch.created)
        copied = batch.created if is_copied else ()
        if not copied and not self._config.is_pgbouncer:
            await self._call(connection, epoch, flush, shards, batch)
            return
        transaction = connection.transaction()
        await transaction.start()
        try:
            if copied:
                await self._copy_created(connection, copied)
                batch = batch._replace(created=())
            await self._call(connection, epoch, flush, shards, batch)
        except Exception:
            # Not when cancelled: the time is up, and a rollback would wait for the same silent Postgres.
            await transaction.rollback()
            raise
        await transaction.commit()

    async def _call(
        self, connection: Connection, epoch: int, flush: int, shards: Sequence[int], batch: Batch
    ) -> None:
        created = [row[:_ROW_WITHOUT_FILTER] for row in batch.created]
        if batch.events or any(batch[_FLOW_FROM:]):
            await connection.fetchval(_COMMIT_ALL, epoch, flush, shards, created, *batch[1:])
        else:
            await connection.fetchval(_COMMIT, epoch, flush, shards, created, *batch[1:_FLOW_FROM])

    async def _copy_created(self, connection: Connection, rows: Sequence[TaskRunRow]) -> None:
        try:
            # Plain tuples: asyncpg indexes a subclass of tuple at twice the cost.
            await connection.copy_records_to_table(
                "task_run", records=map(tuple, rows), columns=_CREATED_COLUMNS
            )
        except (TypeError, ValueError, OverflowError) as error:
            # COPY lets the encoder's own errors through; Postgres has seen the COPY fail.
            raise RefusedRecords(str(error)) from error

    def _judge(self, error: Exception, connection: Connection, epoch: int, flush: int) -> Exception:
        """Which of our errors this is, given when it happened."""
        if (
            isinstance(error, asyncpg.PostgresError)
            and not connection.is_closed()
            and not _ends_session(error)
        ):
            return translate(error, epoch=epoch) or error
        if isinstance(error, StorageError) and not connection.is_closed():
            return error
        # Whatever else it is, the connection has served: one that broke within a transaction would refuse the next one too.
        self._give_up(connection)
        if isinstance(error, TimeoutError):
            return CommitUnknown(flush, f"no answer within {self._config.commit_timeout_seconds:g} s")
        if isinstance(error, asyncpg.PostgresError) or is_connection_loss(error):
            return CommitUnknown(flush, str(error) or type(error).__name__)
        return error

    def _give_up(self, connection: Connection) -> None:
        self._lost.append(self._name)
        connection.terminate()
        self._connection = None


def _ends_session(error: asyncpg.PostgresError) -> bool:
    code: str = getattr(error, "sqlstate", None) or ""
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    return code.startswith(_ENDING_CODES) or severity in _ENDING_SEVERITIES
