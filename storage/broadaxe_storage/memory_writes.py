"""How the memory store writes a batch: the guards and effects of `commit_batch` and `commit_rate_limits`, on a `MemoryDisk`.

Touches nothing outside the process. Changes are collected aside, in the order of `records.Batch`, and applied when all have passed.
"""

from collections.abc import Sequence

from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.memory_checks import check_batch, repeated, state_fault
from broadaxe_storage.memory_directory import MemoryDisk
from broadaxe_storage.memory_timers import changed_timers
from broadaxe_storage.records import (
    FINAL_STATES,
    RUN_STEP,
    Batch,
    FilterRow,
    FinishedTaskRun,
    RunFinish,
    RunRevival,
    TaskRunFinish,
    TaskRunRow,
    TaskRunSettle,
    TaskRunUpdate,
    WorkerRow,
    WorkflowDeletion,
    WorkflowPause,
    WorkflowVersionRow,
)


def write(disk: MemoryDisk, batch: Batch) -> None:
    """All of a batch, or `RefusedRecords` and nothing."""
    check_batch(batch)
    revived = _revived(disk, batch.revived)
    changed = _changed_task_runs(disk, batch)
    moved = _moved(disk, changed, batch.ended)
    _check_workers(disk, batch.workers)
    _check_versions(disk, batch.workflow_versions)
    _check_known(disk, batch.workflow_versions, batch.pauses, "pause")
    _check_known(disk, batch.workflow_versions, batch.deleted_workflows, "delete")
    filters = _changed_filters(disk, batch)
    timers = changed_timers(disk, batch)

    for row_id in revived:
        del disk.finished[row_id]
    disk.live.update(changed)
    for finish in batch.finished:
        disk.finished[finish.id] = _finished(disk.live.pop(finish.id), finish)
    for row in moved:
        del disk.live[row.id]
        disk.finished[row.id] = row
    disk.task_events.extend(batch.task_events)
    for worker in batch.workers:
        known = disk.workers.get(worker.id, worker)
        disk.workers[worker.id] = worker._replace(created_at=known.created_at)
    disk.versions.update((version.id, version) for version in batch.workflow_versions)
    disk.pauses.update((pause.workflow_id, pause) for pause in batch.pauses)
    disk.events.extend(batch.events)
    disk.logs.extend(batch.logs)
    for claim in batch.claimed_keys:
        disk.idempotency_keys[claim.tenant_id, claim.key] = claim
    for release in batch.released_keys:
        held = disk.idempotency_keys.get((release.tenant_id, release.key))
        if held is not None and held.run_id == release.run_id:
            del disk.idempotency_keys[release.tenant_id, release.key]
    for limit in batch.rate_limits:
        disk.rate_limits[limit.tenant_id, limit.key] = limit
    for dropped in batch.dropped_rate_limits:
        disk.rate_limits.pop((dropped.tenant_id, dropped.key), None)
    disk.event_keys.update((row.tenant_id, row.key) for row in batch.event_keys)
    disk.filters = filters
    _delete_workflows(disk, batch.deleted_workflows)
    disk.crons, disk.scheduled_runs = timers
    disk.commits += 1


def _revived(disk: MemoryDisk, revivals: Sequence[RunRevival]) -> list[str]:
    """Ids of the rows that leave the history."""
    rows: dict[tuple[str, str], list[str]] = {(item.run_id, item.tenant_id): [] for item in revivals}
    if rows:
        for row in disk.finished.values():
            rows.get((row.run_id, row.tenant_id), []).append(row.id)
    unmet = repeated(item.run_id for item in revivals)
    unmet += [item.run_id for item in revivals if len(rows[item.run_id, item.tenant_id]) != item.row_count]
    if unmet:
        raise RefusedRecords("runs to revive do not have the expected rows in the history", unmet)
    return [row_id for ids in rows.values() for row_id in ids]


def _changed_task_runs(disk: MemoryDisk, batch: Batch) -> dict[str, TaskRunRow]:
    """Rows after the batch's inserts, updates and settlements, those to finish included."""
    known = repeated(row.id for row in batch.created)
    known += [row.id for row in batch.created if row.id in disk.live]
    if known:
        raise RefusedRecords("duplicate key: a live task run has this id already", known)
    changed = {row.id: row for row in batch.created}
    for verb, records in (("update", batch.updated), ("finish", batch.finished), ("settle", batch.settled)):
        unmet = repeated(record.id for record in records)
        for record in records:
            found = changed.get(record.id) or disk.live.get(record.id)
            if found is None or not _may(found, record):
                unmet.append(record.id)
            else:
                changed[record.id] = _after(found, record)
        if unmet:
            raise RefusedRecords(f"task runs to {verb} are not live at the expected attempt", unmet)
    return changed


def _may(row: TaskRunRow, record: TaskRunUpdate | TaskRunFinish | TaskRunSettle) -> bool:
    if (row.tenant_id, row.attempt) != (record.tenant_id, record.expected_attempt):
        return False
    if isinstance(record, TaskRunFinish):
        return row.run_id == row.id and row.step_index != RUN_STEP
    if isinstance(record, TaskRunSettle) and row.run_id == row.id:
        return False
    # One that has ended goes on only as another attempt.
    return row.state not in FINAL_STATES or record.attempt > row.attempt


def _after(row: TaskRunRow, record: TaskRunUpdate | TaskRunFinish | TaskRunSettle) -> TaskRunRow:
    if isinstance(record, TaskRunFinish):
        return row
    row = _updated(row, record) if isinstance(record, TaskRunUpdate) else _settled(row, record)
    fault = state_fault(row)
    if fault is not None:
        raise RefusedRecords(f"{type(record).__name__}: {fault}", [row.id])
    return row


def _moved(
    disk: MemoryDisk, changed: dict[str, TaskRunRow], ends: Sequence[RunFinish]
) -> list[FinishedTaskRun]:
    """Rows, as they join the history, of the runs that end."""
    if not ends:
        return []
    rows: dict[tuple[str, str], list[TaskRunRow]] = {(end.run_id, end.tenant_id): [] for end in ends}
    for row in (disk.live | changed).values():
        rows.get((row.run_id, row.tenant_id), []).append(row)
    moved: list[FinishedTaskRun] = []
    unmet = repeated(end.run_id for end in ends)
    for end in ends:
        found = rows[end.run_id, end.tenant_id]
        tasks = [row for row in found if row.id != end.run_id]
        runs = [row for row in found if row.step_index == RUN_STEP]
        if (
            len(runs) != 1
            or len(tasks) != end.task_count
            or any(row.state not in FINAL_STATES for row in tasks)
        ):
            unmet.append(end.run_id)
            continue
        ended = runs[0]._replace(state=end.state, finished_at=end.finished_at)
        moved += [_finished(row, row) for row in (ended, *tasks)]
    if unmet:
        raise RefusedRecords(
            "runs to end are not live with the expected number of task runs, all of them ended", unmet
        )
    return moved


def _check_workers(disk: MemoryDisk, workers: Sequence[WorkerRow]) -> None:
    if repeated(worker.id for worker in workers):
        raise RefusedRecords("a worker comes twice", repeated(worker.id for worker in workers))
    foreign = [
        worker.id
        for worker in workers
        if (found := disk.workers.get(worker.id)) and found.tenant_id != worker.tenant_id
    ]
    if foreign:
        raise RefusedRecords("a worker id belongs to another tenant", foreign)


def _check_versions(disk: MemoryDisk, versions: Sequence[WorkflowVersionRow]) -> None:
    stored = list(disk.versions.values())
    for version in versions:
        for other in stored:
            is_same_workflow = other.workflow_id == version.workflow_id
            is_same_name = (other.tenant_id, other.name) == (version.tenant_id, version.name) and (
                is_same_workflow or other.workflow_id not in disk.deleted_workflows
            )
            if is_same_workflow != is_same_name:
                raise RefusedRecords("a workflow id belongs to another tenant or name", [version.id])
            if other.id == version.id or (is_same_workflow and other.number == version.number):
                raise RefusedRecords("duplicate key: this workflow version exists already", [version.id])
        stored.append(version)


def _delete_workflows(disk: MemoryDisk, deletions: Sequence[WorkflowDeletion]) -> None:
    if not deletions:
        return
    for deletion in deletions:
        disk.deleted_workflows.setdefault(deletion.workflow_id, deletion)
    gone = {deletion.workflow_id for deletion in deletions}
    disk.filters = {row.id: row for row in disk.filters.values() if row.workflow_id not in gone}


def _check_known(
    disk: MemoryDisk,
    new: Sequence[WorkflowVersionRow],
    records: Sequence[WorkflowPause | WorkflowDeletion],
    verb: str,
) -> None:
    if not records:
        return
    known = {(version.workflow_id, version.tenant_id) for version in (*disk.versions.values(), *new)}
    unmet = [row.workflow_id for row in records if (row.workflow_id, row.tenant_id) not in known]
    if unmet:
        raise RefusedRecords(f"a workflow to {verb} is not one of the tenant", unmet)


def _changed_filters(disk: MemoryDisk, batch: Batch) -> dict[str, FilterRow]:
    """Filters after the batch."""
    if not (batch.cleared_filters or batch.dropped_filters or batch.filters):
        return disk.filters
    cleared = {(clear.tenant_id, clear.workflow_id) for clear in batch.cleared_filters}
    dropped = {(drop.tenant_id, drop.id) for drop in batch.dropped_filters}
    found = {
        row.id: row
        for row in disk.filters.values()
        if (row.tenant_id, row.id) not in dropped
        and not (row.is_declarative and (row.tenant_id, row.workflow_id) in cleared)
    }
    versions = (*disk.versions.values(), *batch.workflow_versions)
    known = {(version.workflow_id, version.tenant_id) for version in versions}
    unmet = repeated(row.id for row in batch.filters)
    for row in batch.filters:
        old = found.get(row.id, row)
        if (row.workflow_id, row.tenant_id) not in known or (old.tenant_id, old.workflow_id) != (
            row.tenant_id,
            row.workflow_id,
        ):
            unmet.append(row.id)
        found[row.id] = row._replace(is_declarative=old.is_declarative, created_at=old.created_at)
    if unmet:
        raise RefusedRecords("a filter, or its workflow, is not one of the tenant", unmet)
    return found


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
        waits=update.waits,
        is_slot_released=update.is_slot_released,
        finished_at=None,
        output=None,
        error=None,
        batch_id=update.batch_id,
    )


def _settled(row: TaskRunRow, settle: TaskRunSettle) -> TaskRunRow:
    return row._replace(
        state=settle.state,
        attempt=settle.attempt,
        app_retries=settle.app_retries,
        internal_retries=settle.internal_retries,
        spill_queue=None,
        queued_at=settle.queued_at,
        schedule_deadline=None,
        execution_deadline=None,
        assigned_at=settle.assigned_at,
        started_at=settle.started_at,
        worker_id=settle.worker_id,
        is_slot_released=False,
        finished_at=settle.finished_at,
        output=settle.output,
        error=settle.error,
        batch_id=None,
    )


def _finished(row: TaskRunRow, end: TaskRunFinish | TaskRunRow) -> FinishedTaskRun:
    """A row in the history: what never changes of `row`, the rest of `end`."""
    assert end.finished_at is not None
    return FinishedTaskRun(
        id=row.id,
        tenant_id=row.tenant_id,
        run_id=row.run_id,
        workflow_id=row.workflow_id,
        workflow_version_id=row.workflow_version_id,
        step_index=row.step_index,
        state=end.state,
        attempt=end.attempt,
        priority=row.priority,
        created_at=row.created_at,
        queued_at=end.queued_at,
        assigned_at=end.assigned_at,
        started_at=end.started_at,
        finished_at=end.finished_at,
        worker_id=end.worker_id,
        parent_task_run_id=row.parent_task_run_id,
        child_index=row.child_index,
        child_key=row.child_key,
        metadata=row.metadata,
        input=row.input,
        output=end.output,
        error=end.error,
        triggering_event_id=row.triggering_event_id,
        triggering_event_key=row.triggering_event_key,
        desired_worker_id=row.desired_worker_id,
        desired_labels=row.desired_labels,
        idempotency_key=row.idempotency_key,
        filter=row.filter,
    )
