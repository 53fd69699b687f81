"""Crons and scheduled runs of the memory store: reads, and the guards and effects of `commit_timers`. Touches nothing outside the process."""

import heapq
from collections.abc import Sequence

from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.memory_checks import repeated
from broadaxe_storage.memory_directory import MemoryDirectory, MemoryDisk, of_tenant
from broadaxe_storage.records import Batch
from broadaxe_storage.records_timers import CronRow, ScheduledRunRow, Timer, TimerKind


class MemoryTimers(MemoryDirectory):
    """See `store.ShardStore` for what each method promises."""

    async def count_timers(self, tenant_id: str) -> tuple[int, int]:
        await self._reading("count_timers")
        scheduled = of_tenant(self.disk.scheduled_runs.values(), tenant_id)
        return (
            sum(1 for _ in of_tenant(self.disk.crons.values(), tenant_id)),
            sum(row.fired_at is None for row in scheduled),
        )

    async def page_timers(self, tenant_id: str, after: tuple[int, str] | None, limit: int) -> list[Timer]:
        await self._reading("page_timers")
        crons = [
            Timer(row.next_at, row.id, TimerKind.CRON)
            for row in of_tenant(self.disk.crons.values(), tenant_id)
            if row.next_at is not None
        ]
        scheduled = [
            Timer(row.trigger_at, row.id, TimerKind.SCHEDULED)
            for row in of_tenant(self.disk.scheduled_runs.values(), tenant_id)
            if row.fired_at is None
        ]
        return heapq.nsmallest(
            limit, [timer for timer in (*crons, *scheduled) if after is None or timer[:2] > after]
        )

    async def fetch_crons(self, tenant_id: str, ids: Sequence[str], input_bytes: int) -> list[CronRow]:
        await self._reading("fetch_crons")
        found = (self.disk.crons.get(cron_id) for cron_id in ids)
        rows = [row for row in found if row is not None and row.tenant_id == tenant_id]
        sizes = _sums(rows)
        return [
            row if number == 0 or size <= input_bytes else row._replace(input=None)
            for number, (row, size) in enumerate(zip(rows, sizes, strict=True))
        ]

    async def fetch_cron_by_name(
        self, tenant_id: str, workflow_id: str, name: str, expression: str
    ) -> str | None:
        await self._reading("fetch_cron_by_name")
        wanted = (workflow_id, name, expression)
        rows = of_tenant(self.disk.crons.values(), tenant_id)
        return next((row.id for row in rows if (row.workflow_id, row.name, row.expression) == wanted), None)

    async def fetch_scheduled_runs(
        self, tenant_id: str, ids: Sequence[str], input_bytes: int
    ) -> list[ScheduledRunRow]:
        await self._reading("fetch_scheduled_runs")
        found = (self.disk.scheduled_runs.get(scheduled_id) for scheduled_id in ids)
        rows = [row for row in found if row is not None and row.tenant_id == tenant_id]
        sizes = _sums(rows)
        return [
            row if number == 0 or size <= input_bytes else row._replace(input=None)
            for number, (row, size) in enumerate(zip(rows, sizes, strict=True))
        ]


def _sums(rows: Sequence[CronRow | ScheduledRunRow]) -> list[int]:
    """Bytes of the inputs up to each row."""
    sums = []
    total = 0
    for row in rows:
        total += len(row.input or b"")
        sums.append(total)
    return sums


def changed_timers(disk: MemoryDisk, batch: Batch) -> tuple[dict[str, CronRow], dict[str, ScheduledRunRow]]:
    """All crons and scheduled runs after a batch, or `RefusedRecords`."""
    if not any((batch.crons, batch.cron_changes, batch.scheduled_runs, batch.scheduled_changes)) and not (
        batch.dropped_timers
    ):
        return disk.crons, disk.scheduled_runs
    dropped = {(drop.id, drop.tenant_id) for drop in batch.dropped_timers}
    crons = {key: row for key, row in disk.crons.items() if (row.id, row.tenant_id) not in dropped}
    scheduled = {
        key: row for key, row in disk.scheduled_runs.items() if (row.id, row.tenant_id) not in dropped
    }
    _put_crons(crons, batch)
    _change_crons(crons, batch)
    _put_scheduled(scheduled, batch)
    return crons, scheduled


def _put_crons(crons: dict[str, CronRow], batch: Batch) -> None:
    for row in batch.crons:
        known = crons.get(row.id)
        if known is None:
            taken = {(other.workflow_id, other.name, other.expression) for other in crons.values()}
            if (row.workflow_id, row.name, row.expression) in taken:
                raise RefusedRecords("duplicate key: this workflow has such a cron already", [row.id])
            crons[row.id] = row
        elif known.is_declared and row.is_declared and known.tenant_id == row.tenant_id:
            crons[row.id] = known._replace(
                workflow_name=row.workflow_name, input=row.input, updated_at=row.updated_at
            )
        else:
            raise RefusedRecords("a cron exists already, and is none that a definition may replace", [row.id])


def _change_crons(crons: dict[str, CronRow], batch: Batch) -> None:
    unmet = repeated(change.id for change in batch.cron_changes)
    for change in batch.cron_changes:
        row = crons.get(change.id)
        last = None if row is None else row.last_tick_at
        has_fired = change.tick_at is not None and last is not None and last >= change.tick_at
        if row is None or row.tenant_id != change.tenant_id or has_fired:
            unmet.append(change.id)
            continue
        crons[change.id] = row._replace(
            is_enabled=change.is_enabled,
            next_at=change.next_at,
            last_tick_at=last if change.tick_at is None else change.tick_at,
            error=change.error,
            updated_at=change.updated_at,
        )
    if unmet:
        raise RefusedRecords("a tick has fired already, or its cron is gone", unmet)


def _put_scheduled(scheduled: dict[str, ScheduledRunRow], batch: Batch) -> None:
    for row in batch.scheduled_runs:
        if row.id in scheduled:
            raise RefusedRecords("duplicate key: a scheduled run has this id already", [row.id])
        scheduled[row.id] = row
    unmet = repeated(change.id for change in batch.scheduled_changes)
    for change in batch.scheduled_changes:
        found = scheduled.get(change.id)
        if found is None or found.tenant_id != change.tenant_id or found.fired_at is not None:
            unmet.append(change.id)
            continue
        scheduled[change.id] = found._replace(
            trigger_at=change.trigger_at,
            fired_at=change.fired_at,
            run_id=change.run_id,
            error=change.error,
            updated_at=change.updated_at,
        )
    if unmet:
        raise RefusedRecords("a scheduled run has fired already, or is gone", unmet)
