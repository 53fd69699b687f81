"""The record in memory, for simulation and for tests of actors: same port, same guards, no Postgres.

Touches nothing outside the process. A `MemoryDisk` is what survives; a `MemoryStore` is one engine's connection to it. So a crash is: drop the
store (`crash`), open another on the same disk. `Faults` decide what goes wrong and when; awaiting inside a fault is how a slow
or stuck Postgres is played, and under a virtual-time loop it costs nothing.

Guards are those of the schema and of `commit_batch` (`memory_writes`, `memory_checks`): unique ids, expected attempts and row counts, the state
checks, column ranges, no U+0000 in text. Records
are tuples of immutable values; one that carries anything else is refused, so no caller can change what is stored.
"""

import heapq
from collections.abc import Iterable, Sequence
from typing import TypeVar

from broadaxe_storage.errors import CommitUnknown, DatabaseInUse, Fenced, Unavailable
from broadaxe_storage.memory_accounts import MemoryAccounts
from broadaxe_storage.memory_checks import metadata_text
from broadaxe_storage.memory_directory import (
    CommitFault,
    Faults,
    MemoryDisk,
    NoFaults,
    of_tenant,
)
from broadaxe_storage.memory_timers import MemoryTimers
from broadaxe_storage.memory_writes import write
from broadaxe_storage.records import (
    FINAL_STATES,
    RUN_STEP,
    Batch,
    EventRow,
    FilterRow,
    FinishedTaskRun,
    IdempotencyKeyRow,
    RateLimitRow,
    RunFilter,
    SpilledQueue,
    TaskRunRow,
    TaskRunState,
    WorkerRow,
    WorkerStatus,
    WorkflowPause,
    WorkflowVersionRow,
)
from broadaxe_storage.store import LOGICAL_SHARDS

__all__ = ["CommitFault", "Faults", "MemoryDisk", "MemoryStore", "NoFaults"]

_WORKER_MEMORY_US = 7 * 86_400_000_000
_Row = TypeVar("_Row", TaskRunRow, FinishedTaskRun)


class MemoryStore(MemoryTimers, MemoryAccounts):
    """One engine's view of a disk; see `store.ShardStore` and `store.DirectoryStore` for what each method promises."""

    def crash(self) -> None:
        """As kill -9: the lock is free at once, and nothing more is written through this store."""
        self._is_closed = True
        if self.disk.owner is self:
            self.disk.owner = None

    async def close(self) -> None:
        self.crash()

    # ---------------------------------------------------------------- ownership and writing

    async def open_shards(self) -> int:
        await self._reading("open_shards")
        if self.disk.owner not in (None, self):
            raise DatabaseInUse("in memory", 0, "another store on the same disk")
        self.disk.owner = self
        epoch = max(self.disk.epochs) + 1
        self.disk.epochs = [epoch] * LOGICAL_SHARDS
        # Or an old number could pass for one of this epoch.
        self.disk.flushes = [0] * LOGICAL_SHARDS
        return epoch

    async def commit(self, epoch: int, flush: int, shards: Sequence[int], batch: Batch) -> None:
        self._require_open()
        fault = await self.faults.on_commit(epoch, flush, batch)
        # A crash during the wait is one before the commit: what is sent later never arrives.
        self._require_open()
        if fault is CommitFault.UNAVAILABLE:
            raise Unavailable("the memory store plays a database that cannot be reached")
        if fault is CommitFault.LOST_BEFORE:
            raise CommitUnknown(flush, "the memory store plays a lost connection")
        self._write(epoch, flush, shards, batch)
        if fault is CommitFault.LOST_AFTER:
            raise CommitUnknown(flush, "the memory store plays a lost connection")

    async def read_flush(self, shard: int) -> tuple[int, int]:
        await self._reading("read_flush")
        return self.disk.epochs[shard], self.disk.flushes[shard]

    def _write(self, epoch: int, flush: int, shards: Sequence[int], batch: Batch) -> None:
        """All of a batch, or an error and nothing."""
        disk = self.disk
        if len(set(shards)) != len(shards) or any(disk.epochs[shard] != epoch for shard in shards):
            raise Fenced(epoch)
        write(disk, batch)
        for shard in shards:
            disk.flushes[shard] = flush

    # ---------------------------------------------------------------- recovery

    async def load_max_seq(self) -> int:
        await self._reading("load_max_seq")
        return max((row.seq for row in self.disk.live.values()), default=0)

    async def load_workers(self, tenant_id: str | None = None) -> list[WorkerRow]:
        await self._reading("load_workers")
        holding = {row.worker_id for row in self.disk.live.values() if row.state not in FINAL_STATES}
        since = self._now() - _WORKER_MEMORY_US
        found = [
            row
            for row in of_tenant(self.disk.workers.values(), tenant_id)
            if row.id in holding or (row.status != WorkerStatus.STOPPED and row.updated_at >= since)
        ]
        return sorted(found, key=lambda row: (row.created_at, row.id))

    async def load_latest_versions(self, tenant_id: str | None = None) -> list[WorkflowVersionRow]:
        await self._reading("load_latest_versions")
        named = {row.workflow_version_id for row in self.disk.live.values()}
        newest: dict[str, int] = {}
        for row in self.disk.versions.values():
            newest[row.workflow_id] = max(row.number, newest.get(row.workflow_id, 0))
        found = [
            row
            for row in of_tenant(self.disk.versions.values(), tenant_id)
            if row.id in named
            or (row.number == newest[row.workflow_id] and row.workflow_id not in self.disk.deleted_workflows)
        ]
        return sorted(found, key=lambda row: (row.tenant_id, row.name, row.number))

    async def load_deleted_workflows(self, tenant_id: str | None = None) -> list[str]:
        await self._reading("load_deleted_workflows")
        named = {row.workflow_id for row in of_tenant(self.disk.live.values(), tenant_id)}
        return sorted(named & self.disk.deleted_workflows.keys())

    async def load_workflow_pauses(self, tenant_id: str | None = None) -> list[WorkflowPause]:
        await self._reading("load_workflow_pauses")
        return sorted(of_tenant(self.disk.pauses.values(), tenant_id))

    async def load_filters(self, tenant_id: str | None = None) -> list[FilterRow]:
        await self._reading("load_filters")
        return sorted(
            of_tenant(self.disk.filters.values(), tenant_id), key=lambda row: (row.created_at, row.id)
        )

    async def load_live_task_runs(
        self, tenant_id: str | None, after: str | None, limit: int
    ) -> list[TaskRunRow]:
        await self._reading("load_live_task_runs")
        found = [
            row
            for row in of_tenant(self.disk.live.values(), tenant_id)
            if row.id > (after or "") and (row.spill_queue is None or self._is_of_resident_run(row))
        ]
        return heapq.nsmallest(limit, found, key=lambda row: row.id)

    def _is_of_resident_run(self, row: TaskRunRow) -> bool:
        run = self.disk.live.get(row.run_id)
        return row.id != row.run_id and (run is None or run.spill_queue is None)

    # ---------------------------------------------------------------- paging

    async def load_spilled_queues(self, tenant_id: str | None = None) -> list[SpilledQueue]:
        await self._reading("load_spilled_queues")
        queues: dict[tuple[str, str, int], list[int | None]] = {}
        for row in of_tenant(self.disk.live.values(), tenant_id):
            if row.spill_queue is not None and row.step_index != RUN_STEP:
                key = (row.tenant_id, row.spill_queue, row.queue_priority)
                queues.setdefault(key, []).append(row.schedule_deadline)
        return [
            SpilledQueue(*key, len(deadlines), min((at for at in deadlines if at is not None), default=None))
            for key, deadlines in sorted(queues.items(), key=lambda item: (*item[0][:2], -item[0][2]))
        ]

    async def page_spilled(
        self, tenant_id: str, spill_queue: str, queue_priority: int, after_seq: int, limit: int
    ) -> list[TaskRunRow]:
        await self._reading("page_spilled")
        wanted = (tenant_id, spill_queue, queue_priority)
        found = [
            row
            for row in self.disk.live.values()
            if (row.tenant_id, row.spill_queue, row.queue_priority) == wanted and row.seq > after_seq
        ]
        return heapq.nsmallest(limit, found, key=lambda row: row.seq)

    async def load_expired_spilled(
        self, tenant_id: str, now: int, limit: int, except_workflows: Sequence[str] = ()
    ) -> list[TaskRunRow]:
        await self._reading("load_expired_spilled")
        found = [
            (row.schedule_deadline, row.id, row)
            for row in of_tenant(self.disk.live.values(), tenant_id)
            if row.spill_queue is not None
            and row.schedule_deadline is not None
            and row.schedule_deadline <= now
            and row.workflow_id not in except_workflows
        ]
        return [row for _, _, row in heapq.nsmallest(limit, found)]

    # ---------------------------------------------------------------- by id

    async def fetch_live(self, tenant_id: str, ids: Sequence[str]) -> list[TaskRunRow]:
        await self._reading("fetch_live")
        return _of_ids(of_tenant(self.disk.live.values(), tenant_id), ids)

    async def fetch_finished(self, tenant_id: str, ids: Sequence[str]) -> list[FinishedTaskRun]:
        await self._reading("fetch_finished")
        return _of_ids(of_tenant(self.disk.finished.values(), tenant_id), ids)

    async def fetch_children(
        self, tenant_id: str, parent_task_run_id: str
    ) -> list[tuple[int | None, str | None, str]]:
        await self._reading("fetch_children")
        everyone: list[TaskRunRow | FinishedTaskRun] = [
            *self.disk.live.values(),
            *self.disk.finished.values(),
        ]
        found = {
            (row.child_index, row.child_key, row.run_id)
            for row in everyone
            if row.parent_task_run_id == parent_task_run_id and row.tenant_id == tenant_id
        }
        # As Postgres orders: nulls last.
        return sorted(
            found, key=lambda row: (row[0] is None, row[0] or 0, row[1] is None, row[1] or "", row[2])
        )

    async def fetch_version(self, tenant_id: str, version_id: str) -> WorkflowVersionRow | None:
        await self._reading("fetch_version")
        row = self.disk.versions.get(version_id)
        return row if row is not None and row.tenant_id == tenant_id else None

    # ---------------------------------------------------------------- by what they are

    async def select_live_runs(self, tenant_id: str, wanted: RunFilter, limit: int) -> list[str]:
        await self._reading("select_live_runs")
        assigned = {
            row.run_id
            for row in self.disk.live.values()
            if row.id != row.run_id and (row.assigned_at is not None or row.attempt)
        }
        shown = [
            row._replace(state=TaskRunState.RUNNING if row.id in assigned else TaskRunState.QUEUED)
            if row.step_index == RUN_STEP
            else row
            for row in of_tenant(self.disk.live.values(), tenant_id)
        ]
        return _select(shown, wanted, limit)

    async def select_finished_runs(self, tenant_id: str, wanted: RunFilter, limit: int) -> list[str]:
        await self._reading("select_finished_runs")
        return _select(of_tenant(self.disk.finished.values(), tenant_id), wanted, limit)

    async def fetch_events(
        self, tenant_id: str, keys: Sequence[str], since: int, after: tuple[int, str] | None, limit: int
    ) -> list[EventRow]:
        await self._reading("fetch_events")
        found = [
            row
            for row in of_tenant(self.disk.events, tenant_id)
            if row.key in keys
            and row.created_at >= since
            and (after is None or (row.created_at, row.id) > after)
        ]
        return heapq.nsmallest(limit, found, key=lambda row: (row.created_at, row.id))

    async def fetch_idempotency_keys(
        self, tenant_id: str, keys: Sequence[str], now: int
    ) -> list[IdempotencyKeyRow]:
        await self._reading("fetch_idempotency_keys")
        found = (self.disk.idempotency_keys.get((tenant_id, key)) for key in dict.fromkeys(keys))
        return [row for row in found if row is not None and row.expires_at > now]

    async def purge_idempotency_keys(self, now: int, limit: int) -> int:
        await self._reading("purge_idempotency_keys")
        expired = [row for row in self.disk.idempotency_keys.values() if row.expires_at <= now]
        oldest = heapq.nsmallest(limit, expired, key=lambda row: row.expires_at)
        for row in oldest:
            del self.disk.idempotency_keys[row.tenant_id, row.key]
        return len(oldest)

    async def count_usage(
        self, tenant_id: str, events_since: int, task_runs_since: int, until: int, most: int
    ) -> tuple[int, int]:
        await self._reading("count_usage")
        disk = self.disk
        events = sum(events_since <= row.created_at < until for row in of_tenant(disk.events, tenant_id))
        rows: list[TaskRunRow | FinishedTaskRun] = [
            *of_tenant(disk.live.values(), tenant_id),
            *of_tenant(disk.finished.values(), tenant_id),
        ]
        runs = sum(task_runs_since <= row.created_at < until for row in rows if row.step_index != RUN_STEP)
        return min(events, most), min(runs, most)

    async def fetch_rate_limits(self, tenant_id: str, keys: Sequence[str]) -> list[RateLimitRow]:
        await self._reading("fetch_rate_limits")
        found = (self.disk.rate_limits.get((tenant_id, key)) for key in dict.fromkeys(keys))
        return [row for row in found if row is not None]


def _of_ids(rows: Iterable[_Row], ids: Sequence[str]) -> list[_Row]:
    wanted = set(ids)
    return [row for row in rows if row.id in wanted or row.run_id in wanted]


def _select(rows: Iterable[_Row], wanted: RunFilter, limit: int) -> list[str]:
    found = [row for row in rows if row.id == row.run_id and _is_meant(row, wanted)]
    return [row.id for row in heapq.nsmallest(limit, found, key=lambda row: (row.created_at, row.id))]


def _is_meant(row: TaskRunRow | FinishedTaskRun, wanted: RunFilter) -> bool:
    return (
        row.created_at >= wanted.since
        and (wanted.until is None or row.created_at <= wanted.until)
        and (not wanted.states or row.state in wanted.states)
        and (not wanted.workflow_ids or row.workflow_id in wanted.workflow_ids)
        and (
            not wanted.metadata
            or any(metadata_text(row.metadata, key) == value for key, value in wanted.metadata)
        )
    )
