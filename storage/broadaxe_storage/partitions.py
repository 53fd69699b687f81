"""Partitions of a day: made before their day begins, by the writer that needs them.

May touch asyncpg through `pool`. Tables that only grow are partitioned by UTC day, so that retention drops a day at once. Nothing
runs on a timer: opening makes today's and tomorrow's; a flush that finds tomorrow missing has it made beside itself; a flush with
a time of another day waits until that day exists. What still slips through lands in the default partition and moves when its day is made.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import date, timedelta

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.errors import StorageError
from broadaxe_storage.pool import close, connect, translated_errors
from broadaxe_storage.queries import query
from broadaxe_storage.records import Batch

_logger = logging.getLogger("broadaxe.storage")

DAY_US = 86_400_000_000
TABLES = (
    ("task_run_history", "finished_at"),
    ("task_event", "at"),
    ("event", "created_at"),
    ("log_line", "stored_at"),
)
_EPOCH = date(1970, 1, 1)
_MOST_DAYS_AT_ONCE = 8
"""A flush with more unknown days than this (an import of old data) uses the default partition for the others."""


class Partitions:
    """Knows which days have their partitions, and makes the others."""

    def __init__(self, config: DatabaseConfig) -> None:
        self._config = config
        self._known: set[int] = set()
        self._making = asyncio.Lock()
        self._ahead: asyncio.Task[None] | None = None

    async def make(self, days: Iterable[int]) -> None:
        """Make what is missing of `days` (counted from 1970-01-01). Raises `Unavailable`."""
        async with self._making:
            missing = sorted(set(days) - self._known)
            if not missing:
                return
            # DDL needs a session of its own, past pgbouncer.
            connection = await connect(self._config.session_url, self._config, name="broadaxe-partitions")
            try:
                with translated_errors():
                    for day in missing:
                        for table, column in TABLES:
                            await connection.execute(
                                query("ensure_day_partition"), table, column, _EPOCH + timedelta(days=day)
                            )
                        self._known.add(day)
            finally:
                await close(connection)

    async def cover(self, batch: Batch, now: int) -> None:
        """Wait until every day that `batch` names has its partitions; have tomorrow's made meanwhile. Raises `Unavailable`."""
        days = {finish.finished_at // DAY_US for finish in batch.finished}
        if batch.ended:
            days |= {run.finished_at // DAY_US for run in batch.ended}
        if batch.task_events:
            days |= {event.at // DAY_US for event in batch.task_events}
        if batch.events:
            days |= {event.created_at // DAY_US for event in batch.events}
        if not days <= self._known:
            await self.make(sorted(days - self._known, reverse=True)[:_MOST_DAYS_AT_ONCE])
        today = now // DAY_US
        if self._ahead is None and not {today, today + 1} <= self._known:
            self._ahead = asyncio.get_running_loop().create_task(self._make_ahead(today))

    @asynccontextmanager
    async def unchanged(self) -> AsyncIterator[None]:
        """While no partition is made: for who takes one off."""
        async with self._making:
            yield

    async def stop(self) -> None:
        """Stop making partitions. May be called twice."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.wait([self._ahead])

    async def _make_ahead(self, today: int) -> None:
        try:
            await self.make((today, today + 1))
        except StorageError as error:
            # The next flush tries again, and one that needs the day waits for it.
            _logger.warning("tomorrow's partitions could not be made yet: %s", error)
        finally:
            self._ahead = None
