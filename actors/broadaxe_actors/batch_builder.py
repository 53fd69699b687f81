"""What goes into one flush: appends of tenants to one `Batch`, one record a row. Pure; a part of `Journal`."""

from typing import Any, NamedTuple

from broadaxe_storage.records import (
    Batch,
    EventKeyRow,
    EventRow,
    FilterClear,
    FilterDrop,
    FilterRow,
    IdempotencyKeyRow,
    IdempotencyRelease,
    LogRow,
    RateLimitDrop,
    RateLimitRow,
    RunFinish,
    RunRevival,
    TaskEventRow,
    TaskRunFinish,
    TaskRunRow,
    TaskRunSettle,
    TaskRunUpdate,
    WorkerRow,
    WorkflowDeletion,
    WorkflowPause,
    WorkflowVersionRow,
)
from broadaxe_storage.records_timers import (
    CronChange,
    CronRow,
    ScheduledRunChange,
    ScheduledRunRow,
    TimerDrop,
)

MAX_FLUSH_BYTES = 8_000_000
ROW_OVERHEAD_BYTES = 300
TIMER_KINDS = (CronRow, CronChange, ScheduledRunRow, ScheduledRunChange, TimerDrop)
"""In the order of `Batch`."""


class Append(NamedTuple):
    """What one handler recorded, and what may leave when it is durable."""

    lane: str
    records: tuple[Any, ...]
    effects: tuple[tuple[Any, tuple[Any, ...]], ...]
    size: int = 0
    """Payload bytes of the records, roughly; told once, as it is asked again and again until they are written."""


class BatchBuilder:
    """Collects appends into one batch, one record a task run.

    The batch is written in a fixed order, whatever the order of the appends: what would be wrong in it must wait (`fits`).
    """

    def __init__(self) -> None:
        self.created: dict[str, TaskRunRow] = {}
        self.updated: dict[str, TaskRunUpdate] = {}
        self.finished: dict[str, TaskRunFinish] = {}
        self.settled: dict[str, TaskRunSettle] = {}
        self.ended: dict[str, RunFinish] = {}
        self.revived: dict[str, RunRevival] = {}
        self.claimed_keys: dict[tuple[str, str], IdempotencyKeyRow] = {}
        self.released_keys: dict[tuple[str, str, str], IdempotencyRelease] = {}
        self.pauses: dict[str, WorkflowPause] = {}
        self.rate_limits: dict[tuple[str, str], RateLimitRow | RateLimitDrop] = {}
        """By tenant and key: what became of it in the end."""
        self.event_keys: dict[tuple[str, str], EventKeyRow] = {}
        self.filters: dict[str, FilterRow | FilterDrop] = {}
        """By id: what became of it in the end."""
        self.cleared_filters: dict[str, FilterClear] = {}
        """By workflow."""
        self.timers: dict[type, dict[str, Any]] = {kind: {} for kind in TIMER_KINDS}
        self.timer_ids: set[str] = set()
        self.other: dict[type, list[Any]] = {
            kind: []
            for kind in (TaskEventRow, WorkerRow, WorkflowVersionRow, EventRow, LogRow, WorkflowDeletion)
        }
        self.lanes: set[str] = set()
        self.rows = 0
        self.bytes = 0

    def fits(self, append: Append) -> bool:
        """False when a record of this append must not share a flush with an earlier one of the same row or run."""
        if self.other[WorkflowDeletion] and _registers(append):
            return False  # deletions are written last: a name must be free before another workflow has it
        for record in append.records:
            kind = type(record)
            if kind is TaskRunUpdate or kind is TaskRunFinish or kind is TaskRunSettle:
                if record.id in self.created or record.id in self.finished or record.id in self.settled:
                    return False
            elif kind is TaskRunRow:
                if record.id in self.created or record.id in self.finished or record.run_id in self.ended:
                    return False
            elif kind is RunFinish:
                if record.run_id in self.ended:
                    return False
            elif (
                kind is RunRevival
                and (
                    record.run_id in self.ended
                    or record.run_id in self.finished
                    or record.run_id in self.revived
                )
            ) or (kind in TIMER_KINDS and record.id in self.timer_ids):
                return False
        return True

    def has_room(self, append: Append, limit: int) -> bool:
        """Whether an append brings the flush to `limit` rows at most. One that is larger than that goes alone."""
        return not self.rows or (self.rows + len(append.records) <= limit and self.bytes < MAX_FLUSH_BYTES)

    def add(self, append: Append) -> None:
        self.lanes.add(append.lane)
        self.rows += len(append.records)
        self.bytes += ROW_OVERHEAD_BYTES * len(append.records) + append.size
        for record in append.records:
            kind = type(record)
            if kind is TaskRunRow:
                self.created[record.id] = record
            elif kind is TaskRunUpdate:
                self.updated[record.id] = _guarded(record, self.updated.get(record.id))
            elif kind is TaskRunFinish:
                self.finished[record.id] = _guarded(record, self.updated.pop(record.id, None))
            elif kind is TaskRunSettle:
                self.settled[record.id] = _guarded(record, self.updated.pop(record.id, None))
            else:
                self._add_other(kind, record)

    def _add_other(self, kind: type, record: Any) -> None:
        if kind is RunFinish:
            self.ended[record.run_id] = record
        elif kind is RunRevival:
            self.revived[record.run_id] = record
        elif kind is IdempotencyKeyRow:
            # Releases are written after claims: one of before would undo the same run's new claim.
            self.released_keys.pop((record.tenant_id, record.key, record.run_id), None)
            self.claimed_keys[record.tenant_id, record.key] = record
        elif kind is IdempotencyRelease:
            self.released_keys[record.tenant_id, record.key, record.run_id] = record
        elif kind is WorkflowPause:
            self.pauses[record.workflow_id] = record
        elif kind is RateLimitRow or kind is RateLimitDrop:
            self.rate_limits[record.tenant_id, record.key] = record
        elif kind in TIMER_KINDS:
            self.timers[kind][record.id] = record
            self.timer_ids.add(record.id)
        elif kind in self.other:
            if kind is WorkerRow:
                workers = self.other[kind]
                workers[:] = [row for row in workers if row.id != record.id]
            self.other[kind].append(record)
        else:
            self._add_trigger(kind, record)

    def _add_trigger(self, kind: type, record: Any) -> None:
        """What belongs to that which starts runs."""
        if kind is EventKeyRow:
            self.event_keys[record.tenant_id, record.key] = record
        elif kind is FilterRow or kind is FilterDrop:
            self.filters[record.id] = record
        elif kind is FilterClear:
            self._clear_filters(record)
        else:
            raise TypeError(f"the journal has no place for a {kind.__name__}")

    def _clear_filters(self, clear: FilterClear) -> None:
        """Filters are written after those that go: what came before in this flush must not be written."""
        self.cleared_filters[clear.workflow_id] = clear
        for filter_id, record in list(self.filters.items()):
            if (
                type(record) is FilterRow
                and record.is_declarative
                and record.workflow_id == clear.workflow_id
            ):
                del self.filters[filter_id]

    def batch(self) -> Batch:
        return Batch(
            tuple(self.created.values()),
            tuple(self.updated.values()),
            tuple(self.finished.values()),
            tuple(self.other[TaskEventRow]),
            tuple(self.other[WorkerRow]),
            tuple(self.other[WorkflowVersionRow]),
            tuple(self.other[EventRow]),
            tuple(self.other[LogRow]),
            tuple(self.settled.values()),
            tuple(self.ended.values()),
            tuple(self.revived.values()),
            tuple(self.claimed_keys.values()),
            tuple(self.released_keys.values()),
            tuple(row for row in self.rate_limits.values() if type(row) is RateLimitRow),
            tuple(row for row in self.rate_limits.values() if type(row) is RateLimitDrop),
            tuple(self.pauses.values()),
            tuple(self.event_keys.values()),
            tuple(self.cleared_filters.values()),
            tuple(row for row in self.filters.values() if type(row) is FilterDrop),
            tuple(row for row in self.filters.values() if type(row) is FilterRow),
            *(tuple(self.timers[kind].values()) for kind in TIMER_KINDS),
        )._replace(deleted_workflows=tuple(self.other[WorkflowDeletion]))


def _registers(append: Append) -> bool:
    return any(type(record) is WorkflowVersionRow for record in append.records)


def _guarded(record: Any, earlier: TaskRunUpdate | None) -> Any:
    """A record in whose place an earlier one of the same flush falls away: the stored row is at the attempt that the first expected."""
    return record if earlier is None else record._replace(expected_attempt=earlier.expected_attempt)


def size_of(record: Any) -> int:
    """Payload bytes of a record, roughly: what makes one heavier than another."""
    kind = type(record)
    if kind is TaskRunUpdate:
        return len(record.waits or "")
    if kind is TaskRunFinish or kind is TaskRunSettle:
        return len(record.output or b"") + len(record.error or b"")
    if kind is TaskRunRow:
        size = len(record.input) + len(record.metadata) + len(record.waits or "")
        return size + len(record.output or b"") + len(record.error or b"")
    if kind is RateLimitRow:
        return len(record.key)
    if kind is CronRow or kind is ScheduledRunRow:
        return len(record.input or b"") + len(record.metadata)
    return len(record.payload) if kind is EventRow else 0
