"""The record in Postgres: `ShardStore` and `AccountStore` over asyncpg.

Composes the parts: `ownership` (who may write), `journal` (writing), `partitions`, `directory` and `accounts`, `history`, and the reads that stand here.
Those go through a pool, people's through two of their own, the journal through a connection of its own, the owner's lock through
another; an idle store sends nothing.
"""

import time
from collections.abc import Sequence

from broadaxe_storage.accounts import PostgresAccounts
from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.history import LISTING_SETTINGS, LOOK_UP_SETTINGS, History
from broadaxe_storage.journal import JournalWriter
from broadaxe_storage.migrate import migrate
from broadaxe_storage.ownership import Ownership
from broadaxe_storage.partitions import DAY_US, Partitions
from broadaxe_storage.pool import Pool
from broadaxe_storage.records import (
    Batch,
    EventRow,
    FilterRow,
    FinishedTaskRun,
    IdempotencyKeyRow,
    RateLimitRow,
    RunFilter,
    SpilledQueue,
    TaskRunRow,
    WorkerRow,
    WorkflowPause,
    WorkflowVersionRow,
)
from broadaxe_storage.records_timers import CronRow, ScheduledRunRow, Timer
from broadaxe_storage.retention import Retention
from broadaxe_storage.webhooks import PostgresWebhooks

WORKER_MEMORY_US = 7 * DAY_US
"""How long a worker that was last heard of may still come back."""
_NO_ID = "00000000-0000-0000-0000-000000000000"
_FIRST_TIME = -62_135_596_800_000_000
"""The beginning of the year 1: no time is before it."""


class PostgresStore(PostgresAccounts):
    """See `store.ShardStore` and `account_store.AccountStore` for what each method promises."""

    def __init__(self, config: DatabaseConfig) -> None:
        """Connects nothing: use `open`."""
        super().__init__(
            Pool(config.url, config, name="broadaxe", least=config.min_conns, most=config.max_conns)
        )
        self.config = config
        self.ownership = Ownership(config)
        self.history = History(
            Pool(
                config.replica_url or config.url,
                config,
                name="broadaxe-history",
                least=config.replica_min_conns,
                most=config.replica_max_conns,
                session_settings=LISTING_SETTINGS,
            ),
            Pool(
                config.url,
                config,
                name="broadaxe-look-ups",
                least=0,
                most=config.max_conns,
                session_settings=LOOK_UP_SETTINGS,
            ),
        )
        self.webhooks = PostgresWebhooks(self._pool)
        self._journal = JournalWriter(config)
        self._partitions = Partitions(config)
        self.retention = Retention(config, self._pool, self.ownership, self._partitions)

    @classmethod
    async def open(cls, config: DatabaseConfig) -> "PostgresStore":
        """Migrate the database, connect, and return the store; the shards are taken by `open_shards`.

        Raises `CannotConnect`, `DatabaseTooOld`, `SchemaTooNew`.
        """
        await migrate(config)
        store = cls(config)
        try:
            await store._pool.open()
            await store.history.open()
            today = _now() // DAY_US
            await store._partitions.make((today, today + 1))
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        await self._partitions.stop()
        await self._journal.close()
        await self._pool.close()
        await self.history.close()
        await self.ownership.release()

    # ---------------------------------------------------------------- ownership and writing

    async def open_shards(self) -> int:
        await self.ownership.take()
        epoch: int = await self._pool.fetchval("raise_epochs")
        return epoch

    async def commit(self, epoch: int, flush: int, shards: Sequence[int], batch: Batch) -> None:
        await self._partitions.cover(batch, _now())
        await self._journal.commit(epoch, flush, shards, batch)

    async def read_flush(self, shard: int) -> tuple[int, int]:
        return await self._journal.read_flush(self._pool, shard)

    # ---------------------------------------------------------------- recovery

    async def load_max_seq(self) -> int:
        highest: int = await self._pool.fetchval("load_max_seq")
        return highest

    async def load_workers(self, tenant_id: str | None = None) -> list[WorkerRow]:
        rows = await self._pool.fetch("load_workers", tenant_id, _now() - WORKER_MEMORY_US)
        return [WorkerRow._make(row)._replace(actions=tuple(row["actions"])) for row in rows]

    async def load_latest_versions(self, tenant_id: str | None = None) -> list[WorkflowVersionRow]:
        return [
            WorkflowVersionRow._make(row) for row in await self._pool.fetch("load_latest_versions", tenant_id)
        ]

    async def load_deleted_workflows(self, tenant_id: str | None = None) -> list[str]:
        return [row[0] for row in await self._pool.fetch("load_deleted_workflows", tenant_id)]

    async def load_workflow_pauses(self, tenant_id: str | None = None) -> list[WorkflowPause]:
        return [WorkflowPause._make(row) for row in await self._pool.fetch("load_workflow_pauses", tenant_id)]

    async def load_filters(self, tenant_id: str | None = None) -> list[FilterRow]:
        return [FilterRow._make(row) for row in await self._pool.fetch("load_filters", tenant_id)]

    async def load_live_task_runs(
        self, tenant_id: str | None, after: str | None, limit: int
    ) -> list[TaskRunRow]:
        rows = await self._pool.fetch("load_live_task_runs", tenant_id, after or _NO_ID, limit)
        return [TaskRunRow._make(row) for row in rows]

    # ---------------------------------------------------------------- paging

    async def load_spilled_queues(self, tenant_id: str | None = None) -> list[SpilledQueue]:
        return [SpilledQueue._make(row) for row in await self._pool.fetch("load_spilled_queues", tenant_id)]

    async def page_spilled(
        self, tenant_id: str, spill_queue: str, queue_priority: int, after_seq: int, limit: int
    ) -> list[TaskRunRow]:
        rows = await self._pool.fetch(
            "page_spilled", tenant_id, spill_queue, queue_priority, after_seq, limit
        )
        return [TaskRunRow._make(row) for row in rows]

    async def load_expired_spilled(
        self, tenant_id: str, now: int, limit: int, except_workflows: Sequence[str] = ()
    ) -> list[TaskRunRow]:
        rows = await self._pool.fetch("load_expired_spilled", tenant_id, now, limit, except_workflows)
        return [TaskRunRow._make(row) for row in rows]

    # ---------------------------------------------------------------- by id

    async def fetch_live(self, tenant_id: str, ids: Sequence[str]) -> list[TaskRunRow]:
        return [TaskRunRow._make(row) for row in await self._pool.fetch("fetch_live", tenant_id, ids)]

    async def fetch_finished(self, tenant_id: str, ids: Sequence[str]) -> list[FinishedTaskRun]:
        return [
            FinishedTaskRun._make(row) for row in await self._pool.fetch("fetch_finished", tenant_id, ids)
        ]

    async def fetch_children(
        self, tenant_id: str, parent_task_run_id: str
    ) -> list[tuple[int | None, str | None, str]]:
        rows = await self._pool.fetch("fetch_children", tenant_id, parent_task_run_id)
        return [(row[0], row[1], row[2]) for row in rows]

    async def fetch_version(self, tenant_id: str, version_id: str) -> WorkflowVersionRow | None:
        rows = await self._pool.fetch("fetch_version", tenant_id, version_id)
        return WorkflowVersionRow._make(rows[0]) if rows else None

    # ---------------------------------------------------------------- by what they are

    async def select_live_runs(self, tenant_id: str, wanted: RunFilter, limit: int) -> list[str]:
        rows = await self._pool.fetch("select_live_runs", tenant_id, *_arguments(wanted), limit)
        return [row[0] for row in rows]

    async def select_finished_runs(self, tenant_id: str, wanted: RunFilter, limit: int) -> list[str]:
        rows = await self._pool.fetch("select_finished_runs", tenant_id, *_arguments(wanted), limit)
        return [row[0] for row in rows]

    async def fetch_events(
        self, tenant_id: str, keys: Sequence[str], since: int, after: tuple[int, str] | None, limit: int
    ) -> list[EventRow]:
        past, past_id = after or (since, _NO_ID)
        rows = await self._pool.fetch(
            "fetch_events", tenant_id, list(dict.fromkeys(keys)), max(since, past), past, past_id, limit
        )
        return [EventRow._make(row) for row in rows]

    async def fetch_idempotency_keys(
        self, tenant_id: str, keys: Sequence[str], now: int
    ) -> list[IdempotencyKeyRow]:
        rows = await self._pool.fetch("fetch_idempotency_keys", tenant_id, keys, now)
        return [IdempotencyKeyRow._make(row) for row in rows]

    async def purge_idempotency_keys(self, now: int, limit: int) -> int:
        count: int = await self._pool.fetchval("purge_idempotency_keys", now, limit)
        return count

    async def count_timers(self, tenant_id: str) -> tuple[int, int]:
        (row,) = await self._pool.fetch("count_timers", tenant_id)
        return row[0], row[1]

    async def count_usage(
        self, tenant_id: str, events_since: int, task_runs_since: int, until: int, most: int
    ) -> tuple[int, int]:
        (row,) = await self._pool.fetch(
            "count_usage", tenant_id, events_since, task_runs_since, until, most, task_runs_since - DAY_US
        )
        return row[0], min(row[1] + row[2], most)

    async def fetch_rate_limits(self, tenant_id: str, keys: Sequence[str]) -> list[RateLimitRow]:
        return [
            RateLimitRow._make(row) for row in await self._pool.fetch("fetch_rate_limits", tenant_id, keys)
        ]

    # ---------------------------------------------------------------- timers

    async def page_timers(self, tenant_id: str, after: tuple[int, str] | None, limit: int) -> list[Timer]:
        past, past_id = after or (_FIRST_TIME, _NO_ID)
        return [
            Timer._make(row) for row in await self._pool.fetch("page_timers", tenant_id, past, past_id, limit)
        ]

    async def fetch_crons(self, tenant_id: str, ids: Sequence[str], input_bytes: int) -> list[CronRow]:
        rows = await self._pool.fetch("fetch_crons", tenant_id, ids, input_bytes)
        return [CronRow._make(row) for row in rows]

    async def fetch_cron_by_name(
        self, tenant_id: str, workflow_id: str, name: str, expression: str
    ) -> str | None:
        rows = await self._pool.fetch("fetch_cron_by_name", tenant_id, workflow_id, name, expression)
        return str(rows[0][0]) if rows else None

    async def fetch_scheduled_runs(
        self, tenant_id: str, ids: Sequence[str], input_bytes: int
    ) -> list[ScheduledRunRow]:
        rows = await self._pool.fetch("fetch_scheduled_runs", tenant_id, ids, input_bytes)
        return [ScheduledRunRow._make(row) for row in rows]


def _arguments(wanted: RunFilter) -> tuple[object, ...]:
    """$2 to $7 of the queries that select runs: None where the filter does not narrow."""
    return (
        wanted.since,
        wanted.until,
        wanted.states or None,
        wanted.workflow_ids or None,
        [key for key, _ in wanted.metadata] or None,
        [value for _, value in wanted.metadata] or None,
    )


def _now() -> int:
    """Microseconds since the Unix epoch. Only for partitions and a week's memory: what is recorded carries its own times."""
    return time.time_ns() // 1000
