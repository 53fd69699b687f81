"""The record in memory, for simulation and for tests of actors: same port, same guards, no Postgres.

Touches nothing outside the process. A `MemoryDisk` is what survives; a `MemoryStore` is one engine's connection to it. So a crash is: drop the
store (`crash`), open another on the same disk. `Faults` decide what goes wrong and when; awaiting inside a fault is how a slow
or stuck Postgres is played, and under a virtual-time loop it costs nothing.

Guards are those of the schema and of `commit_batch`: unique ids, expected attempts, the state checks, column ranges, no U+0000 in text. Records
are tuples of immutable values; one that carries anything else is refused, so no caller can change what is stored.
"""

import heapq
from collections.abc import Sequence

from broadaxe_storage.errors import CommitUnknown, DatabaseInUse, Fenced, RefusedRecords, Unavailable
from broadaxe_storage.memory_checks import check_batch, repeated
from broadaxe_storage.memory_directory import (
    CommitFault,
    Faults,
    MemoryDirectory,
    MemoryDisk,
    NoFaults,
    of_tenant,
)
from broadaxe_storage.records import (
    Batch,
    FinishedTaskRun,
    SpilledQueue,
    TaskRunFinish,
    TaskRunRow,
    TaskRunUpdate,
    WorkerRow,
    WorkerStatus,
    WorkflowVersionRow,
)
from broadaxe_storage.store import LOGICAL_SHARDS

__all__ = ["CommitFault", "Faults", "MemoryDisk", "MemoryStore", "NoFaults"]

_WORKER_MEMORY_US = 7 * 86_400_000_000


class MemoryStore(MemoryDirectory):
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
        """All of a batch, or an error and nothing: changes are collected aside and applied when all have passed."""
        disk = self.disk
        if len(set(shards)) != len(shards) or any(disk.epochs[shard] != epoch for shard in shards):
            raise Fenced(epoch)
        check_batch(batch)
        changed = self._changed_task_runs(batch)
        self._check_workers(batch.workers)
        self._check_versions(batch.workflow_versions)

        for shard in shards:
            disk.flushes[shard] = flush
        for row in changed.values():
            disk.live[row.id] = row
        for finish in batch.finished:
            disk.finished[finish.id] = _finished(disk.live.pop(finish.id), finish)
        disk.task_events.extend(batch.task_events)
        for worker in batch.workers:
            known = disk.workers.get(worker.id, worker)
            disk.workers[worker.id] = worker._replace(created_at=known.created_at)
        disk.versions.update((version.id, version) for version in batch.workflow_versions)
        disk.events.extend(batch.events)
        disk.logs.extend(batch.logs)
        disk.commits += 1

    def _changed_task_runs(self, batch: Batch) -> dict[str, TaskRunRow]:
        """Task runs after the batch's inserts and updates, those to finish included. Raises `RefusedRecords`."""
        known = repeated(row.id for row in batch.created)
        known += [row.id for row in batch.created if row.id in self.disk.live]
        if known:
            raise RefusedRecords("duplicate key: a live task run has this id already", known)
        changed = {row.id: row for row in batch.created}
        for verb, rows in (("update", batch.updated), ("finish", batch.finished)):
            unmet = repeated(row.id for row in rows)
            for row in rows:
                found = changed.get(row.id) or self.disk.live.get(row.id)
                if found is None or found.tenant_id != row.tenant_id or found.attempt != row.expected_attempt:
                    unmet.append(row.id)
                else:
                    changed[row.id] = _updated(found, row) if isinstance(row, TaskRunUpdate) else found
            if unmet:
                raise RefusedRecords(f"task runs to {verb} are not live at the expected attempt", unmet)
        return changed

    def _check_workers(self, workers: Sequence[WorkerRow]) -> None:
        if repeated(worker.id for worker in workers):
            raise RefusedRecords("a worker comes twice", repeated(worker.id for worker in workers))
        foreign = [
            worker.id
            for worker in workers
            if (found := self.disk.workers.get(worker.id)) and found.tenant_id != worker.tenant_id
        ]
        if foreign:
            raise RefusedRecords("a worker id belongs to another tenant", foreign)

    def _check_versions(self, versions: Sequence[WorkflowVersionRow]) -> None:
        stored = list(self.disk.versions.values())
        for version in versions:
            for other in stored:
                is_same_workflow = other.workflow_id == version.workflow_id
                is_same_name = (other.tenant_id, other.name) == (version.tenant_id, version.name)
                if is_same_workflow != is_same_name:
                    raise RefusedRecords("a workflow id belongs to another tenant or name", [version.id])
                if other.id == version.id or (is_same_workflow and other.number == version.number):
                    raise RefusedRecords("duplicate key: this workflow version exists already", [version.id])
            stored.append(version)

    # ---------------------------------------------------------------- recovery

    async def load_max_seq(self) -> int:
        await self._reading("load_max_seq")
        return max((row.seq for row in self.disk.live.values()), default=0)

    async def load_workers(self, tenant_id: str | None = None) -> list[WorkerRow]:
        await self._reading("load_workers")
        holding = {row.worker_id for row in self.disk.live.values()}
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
            if row.id in named or row.number == newest[row.workflow_id]
        ]
        return sorted(found, key=lambda row: (row.tenant_id, row.name, row.number))

    async def load_live_task_runs(
        self, tenant_id: str | None, after: str | None, limit: int
    ) -> list[TaskRunRow]:
        await self._reading("load_live_task_runs")
        found = [
            row
            for row in of_tenant(self.disk.live.values(), tenant_id)
            if row.spill_queue is None and row.id > (after or "")
        ]
        return heapq.nsmallest(limit, found, key=lambda row: row.id)

    # ---------------------------------------------------------------- paging

    async def load_spilled_queues(self, tenant_id: str | None = None) -> list[SpilledQueue]:
        await self._reading("load_spilled_queues")
        queues: dict[tuple[str, str, int], list[int | None]] = {}
        for row in of_tenant(self.disk.live.values(), tenant_id):
            if row.spill_queue is not None:
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

    async def load_expired_spilled(self, tenant_id: str, now: int, limit: int) -> list[TaskRunRow]:
        await self._reading("load_expired_spilled")
        found = [
            (row.schedule_deadline, row.id, row)
            for row in of_tenant(self.disk.live.values(), tenant_id)
            if row.spill_queue is not None
            and row.schedule_deadline is not None
            and row.schedule_deadline <= now
        ]
        return [row for _, _, row in heapq.nsmallest(limit, found)]

    # ---------------------------------------------------------------- by id

    async def fetch_live(self, tenant_id: str, ids: Sequence[str]) -> list[TaskRunRow]:
        await self._reading("fetch_live")
        found = [self.disk.live[row_id] for row_id in dict.fromkeys(ids) if row_id in self.disk.live]
        return list(of_tenant(found, tenant_id))

    async def fetch_finished(self, tenant_id: str, ids: Sequence[str]) -> list[FinishedTaskRun]:
        await self._reading("fetch_finished")
        found = [self.disk.finished[row_id] for row_id in dict.fromkeys(ids) if row_id in self.disk.finished]
        return list(of_tenant(found, tenant_id))

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


def _updated(row: TaskRunRow, update: TaskRunUpdate) -> TaskRunRow:
    return row._replace(
        state=update.state,
        attempt=update.attempt,
        app_retries=update.app_retries,
        internal_retries=update.internal_retries,
        queue_priority=update.queue_priority,
        seq=update.seq,
        spill_queue=None,
        queued_at=update.queued_at,
        schedule_deadline=update.schedule_deadline,
        execution_deadline=update.execution_deadline,
        assigned_at=update.assigned_at,
        started_at=update.started_at,
        worker_id=update.worker_id,
    )


def _finished(row: TaskRunRow, finish: TaskRunFinish) -> FinishedTaskRun:
    return FinishedTaskRun(
        id=row.id,
        tenant_id=row.tenant_id,
        run_id=row.run_id,
        workflow_id=row.workflow_id,
        workflow_version_id=row.workflow_version_id,
        step_index=row.step_index,
        state=finish.state,
        attempt=finish.attempt,
        priority=row.priority,
        created_at=row.created_at,
        queued_at=finish.queued_at,
        assigned_at=finish.assigned_at,
        started_at=finish.started_at,
        finished_at=finish.finished_at,
        worker_id=finish.worker_id,
        parent_task_run_id=row.parent_task_run_id,
        child_index=row.child_index,
        child_key=row.child_key,
        metadata=row.metadata,
        input=row.input,
        output=finish.output,
        error=finish.error,
    )
