"""Reads of the past, keyset-paginated, over a pool of their own: a read replica is a setting, and may lag behind.

May touch asyncpg through `pool`. Whoever must read what was just committed asks the store itself.
"""

from collections.abc import Sequence

from broadaxe_storage.pool import Pool
from broadaxe_storage.records import FinishedTaskRun, LogRow, TaskEventRow

_LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_END_OF_TIME = 253_402_300_799_000_000


class History:
    """History reads of one installation. Every method raises `Unavailable` without Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def open(self) -> None:
        """Connect what is always kept. Raises `CannotConnect`."""
        await self._pool.open()

    async def close(self) -> None:
        """May be called twice."""
        await self._pool.close()

    async def list_finished(
        self,
        tenant_id: str,
        *,
        limit: int,
        before: tuple[int, str] | None = None,
        since: int = 0,
        states: Sequence[int] | None = None,
    ) -> list[FinishedTaskRun]:
        """Ended task runs created at `since` or later, newest first; `before` is (created_at, id) of the last row seen."""
        created_at, row_id = before or (_END_OF_TIME, _LAST_ID)
        rows = await self._pool.fetch("list_finished", tenant_id, created_at, row_id, since, states, limit)
        return [FinishedTaskRun._make(row) for row in rows]

    async def fetch_timeline(self, tenant_id: str, task_run_id: str) -> list[TaskEventRow]:
        """What happened to a task run, live or ended, oldest first; empty for an unknown one."""
        return [
            TaskEventRow._make(row)
            for row in await self._pool.fetch("fetch_timeline", tenant_id, task_run_id)
        ]

    async def fetch_log_lines(
        self, tenant_id: str, task_run_id: str, *, after: int, limit: int
    ) -> list[tuple[int, LogRow]]:
        """Lines of a task run past number `after` (0 for the first), each with its number, in the order they were stored."""
        rows = await self._pool.fetch("fetch_log_lines", tenant_id, task_run_id, after, limit)
        return [(row[0], LogRow._make(tuple(row)[1:])) for row in rows]
