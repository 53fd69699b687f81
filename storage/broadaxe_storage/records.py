"""Rows of the record, as plain tuples: what the journal writes and what recovery reads.

May touch nothing: no SQL, no asyncpg, no actor. Facts to know:

- Every record is picklable and holds only text, bytes, integers and tuples.
- Ids are canonical lower-case UUID text. Times are integers, microseconds since the Unix epoch, UTC; columns are
  `timestamptz`. Payloads and error texts are bytes, because Postgres text refuses U+0000.
- A record says the whole mutable state after a transition, not a difference: the last record of a task run
  within one flush makes the earlier ones superfluous. `expected_attempt` is the guard: the write must meet
  a row that is at this attempt, or the flush fails.
"""

from enum import IntEnum
from typing import NamedTuple

from broadaxe_storage.records_timers import (
    CronChange,
    CronRow,
    ScheduledRunChange,
    ScheduledRunRow,
    TimerDrop,
)
from broadaxe_storage.records_triggers import EventKeyRow as EventKeyRow
from broadaxe_storage.records_triggers import EventRow as EventRow
from broadaxe_storage.records_triggers import FilterClear as FilterClear
from broadaxe_storage.records_triggers import FilterDrop as FilterDrop
from broadaxe_storage.records_triggers import FilterRow as FilterRow


class TaskRunState(IntEnum):
    """State of a task run as stored. The transitions between them are tabled in `broadaxe_actors.states`."""

    QUEUED = 0
    ASSIGNED = 1
    RUNNING = 2
    BACKING_OFF = 3
    WAITING = 4
    EVICTED = 5
    COMPLETED = 6
    FAILED = 7
    CANCELLED = 8
    SKIPPED = 9


FINAL_STATES = frozenset(
    {TaskRunState.COMPLETED, TaskRunState.FAILED, TaskRunState.CANCELLED, TaskRunState.SKIPPED}
)


class TaskEventKind(IntEnum):
    """What happened to a task run, for its history. Names follow the wire's task events."""

    CREATED = 0
    QUEUED = 1
    ASSIGNED = 2
    SENT_TO_WORKER = 3
    STARTED = 4
    FINISHED = 5
    FAILED = 6
    RETRYING = 7
    REASSIGNED = 8
    TIMED_OUT = 9
    SCHEDULING_TIMED_OUT = 10
    CANCELLED = 11
    SKIPPED = 12
    TIMEOUT_REFRESHED = 13
    SLOT_RELEASED = 14
    RETRIED_BY_USER = 15
    QUARANTINED = 16
    WAITING_FOR_BATCH = 17
    BATCH_FLUSHED = 18
    CONDITION_FAILED = 19
    """An expression of a condition could not be evaluated on an event."""


class WorkerStatus(IntEnum):
    """Whether a worker may come back: LOST and ACTIVE may, STOPPED said goodbye."""

    ACTIVE = 0
    LOST = 1
    STOPPED = 2


RUN_STEP = -1
"""`step_index` of the row that stands for a run of several tasks; its id is the run id, its state WAITING until the run ends."""


class TaskRunRow(NamedTuple):
    """A row of a live run.

    A workflow of one task has one row, for run and task run alike. A run of several tasks has a row of its own (`RUN_STEP`), which holds
    input and metadata, and one a task run that exists already, with neither; those stay here after their end, until the run ends.
    """

    id: str
    tenant_id: str
    run_id: str
    workflow_id: str
    workflow_version_id: str
    step_index: int
    state: int
    attempt: int
    app_retries: int
    internal_retries: int
    priority: int
    queue_priority: int
    """4 for retries and reassignments, else `priority`."""
    seq: int
    """Place in line; the shard gives a new one at each enqueue."""
    spill_queue: str | None
    """Sub-queue key when the task run waits in Postgres instead of memory, else None.

    The row of a run of several tasks has the empty text while nothing of that run is in memory.
    """
    created_at: int
    queued_at: int
    schedule_deadline: int | None
    execution_deadline: int | None
    assigned_at: int | None
    started_at: int | None
    worker_id: str | None
    parent_task_run_id: str | None
    child_index: int | None
    child_key: str | None
    triggering_event_id: str | None
    triggering_event_key: str | None
    desired_worker_id: str | None
    desired_labels: str | None
    """JSON text of the labels asked for at trigger, or None."""
    metadata: str
    """JSON object text, stored as jsonb."""
    input: bytes
    idempotency_key: str | None = None
    """The key that this run claims, for a workflow with `idempotency`."""
    waits: str | None = None
    """JSON text of `broadaxe_actors.waits.Waits`: which conditions the task run waits for, and what satisfied them."""
    is_slot_released: bool = False
    """The attempt gave its slot back and runs on."""
    finished_at: int | None = None
    """When a task run of a run that goes on ended."""
    output: bytes | None = None
    error: bytes | None = None
    batch_id: str | None = None
    """The batch by which a worker holds the attempt; None for an attempt of its own."""
    filter: str | None = None
    """Of a run that an event started by a filter: JSON text `{"id": ..., "payload": {...}}` of that filter."""


class TaskRunUpdate(NamedTuple):
    """The mutable part of a live task run after a transition that does not end it."""

    id: str
    tenant_id: str
    expected_attempt: int
    """The attempt that the stored row must be at."""
    state: int
    attempt: int
    app_retries: int
    internal_retries: int
    queue_priority: int
    seq: int
    queued_at: int
    schedule_deadline: int | None
    execution_deadline: int | None
    assigned_at: int | None
    started_at: int | None
    worker_id: str | None
    waits: str | None = None
    is_slot_released: bool = False
    batch_id: str | None = None


class TaskRunFinish(NamedTuple):
    """The end of a run of one task: its row leaves the live table and joins the history partition of this day."""

    id: str
    tenant_id: str
    expected_attempt: int
    state: int
    attempt: int
    app_retries: int
    internal_retries: int
    queued_at: int
    assigned_at: int | None
    started_at: int | None
    finished_at: int
    worker_id: str | None
    output: bytes | None
    error: bytes | None


class TaskRunSettle(NamedTuple):
    """The end of one task run of a run of several: its row stays live, in a final state, until `RunFinish`."""

    id: str
    tenant_id: str
    expected_attempt: int
    state: int
    attempt: int
    app_retries: int
    internal_retries: int
    queued_at: int
    assigned_at: int | None
    started_at: int | None
    finished_at: int
    worker_id: str | None
    output: bytes | None
    error: bytes | None


class RunFinish(NamedTuple):
    """The end of a run of several tasks: its row and those of its task runs move to the history partition of this day."""

    run_id: str
    tenant_id: str
    state: int
    finished_at: int
    task_count: int
    """Task runs that the run has, all of them final: the guard."""


class RunRevival(NamedTuple):
    """A replay: the run's rows leave the history. What becomes of them is recorded as new rows in the same append."""

    run_id: str
    tenant_id: str
    row_count: int
    """Rows that the history has of this run: the guard."""


class IdempotencyKeyRow(NamedTuple):
    """A claimed idempotency key; a claim that has expired is replaced."""

    tenant_id: str
    key: str
    run_id: str
    expires_at: int


class IdempotencyRelease(NamedTuple):
    """A claim ends before it expires; nothing happens if another run has the key by now."""

    tenant_id: str
    key: str
    run_id: str


class RateLimitRow(NamedTuple):
    """A rate-limit bucket: its limit, and what is left of the window that it is in. Replaces the row of the same key.

    Written before what was taken may be used, so that a crash loses units rather than giving them twice.
    """

    tenant_id: str
    key: str
    limit_value: int | None
    """None for a key that was paused before any limit was put."""
    window_us: int
    window_start: int
    """By the wall clock, for people and for who cannot read `monotonic_start`."""
    units_left: int
    """Of a window that has not ended; from its end on, all are there again."""
    paused_until: int | None
    timeline: int
    """Whose monotonic clock `monotonic_start` is of: see `runtime.clock`."""
    monotonic_start: int
    updated_at: int


class RateLimitDrop(NamedTuple):
    """A rate-limit bucket is forgotten; nothing happens if there is none."""

    tenant_id: str
    key: str


class FinishedTaskRun(NamedTuple):
    """What is read back of a task run, or of the row of a run of several tasks (`RUN_STEP`), that ended."""

    id: str
    tenant_id: str
    run_id: str
    workflow_id: str
    workflow_version_id: str
    step_index: int
    state: int
    attempt: int
    priority: int
    created_at: int
    queued_at: int
    assigned_at: int | None
    started_at: int | None
    finished_at: int
    """Its own end; the run of several tasks that it belongs to may have ended later."""
    worker_id: str | None
    parent_task_run_id: str | None
    child_index: int | None
    child_key: str | None
    metadata: str
    input: bytes
    output: bytes | None
    error: bytes | None
    triggering_event_id: str | None = None
    triggering_event_key: str | None = None
    desired_worker_id: str | None = None
    desired_labels: str | None = None
    idempotency_key: str | None = None
    filter: str | None = None


class TaskEventRow(NamedTuple):
    """One entry of a task run's history beyond what its own row tells.

    The last attempt's times stand in the task run's row; entries are written for what came before it and
    for anything out of the ordinary (retry, reassignment, time-out, refresh, cancel). The view `task_run_timeline` joins both.
    """

    tenant_id: str
    task_run_id: str
    attempt: int
    kind: int
    at: int
    worker_id: str | None
    message: bytes


class WorkerRow(NamedTuple):
    """A worker; written when it registers and whenever its status, pause or labels change, never for a heartbeat."""

    id: str
    tenant_id: str
    name: str
    actions: tuple[str, ...]
    slot_config: str
    """JSON object: slot pool to units."""
    labels: str
    """JSON object: label to text or integer."""
    runtime_info: str
    """JSON object, for display."""
    is_batched: bool
    """True for a worker of the batched stream, False for one of the unary contract."""
    is_paused: bool
    status: int
    created_at: int
    updated_at: int


class WorkflowVersionRow(NamedTuple):
    """A version of a workflow's definition; the newest of a workflow is used for new runs."""

    id: str
    workflow_id: str
    tenant_id: str
    name: str
    number: int
    checksum: str
    definition: str
    """JSON text of `broadaxe_actors.definitions.WorkflowDefinition`."""
    created_at: int


class WorkflowPause(NamedTuple):
    """Whether a workflow is paused, and how. The settings and the end of the last pause stay when it is over."""

    workflow_id: str
    tenant_id: str
    paused_at: int | None
    """None while it is not paused."""
    unpaused_at: int | None
    queue_ttl: int | None
    """Microseconds that a task run may wait while the workflow is paused."""
    cron_behavior: str | None
    """`DROP` or `QUEUE`: what becomes of the runs of crons while it is paused."""
    scheduled_behavior: str | None
    """Likewise of scheduled runs."""


class WorkflowDeletion(NamedTuple):
    """A workflow is no more: its name is free for another one. Its versions stay for the runs that name them."""

    workflow_id: str
    tenant_id: str
    deleted_at: int


class LogRow(NamedTuple):
    """A line that a task logged."""

    tenant_id: str
    task_run_id: str
    attempt: int
    created_at: int
    level: str | None
    metadata: str | None
    message: bytes


class RunFilter(NamedTuple):
    """Which runs are meant; a run of several tasks is one."""

    since: int
    """Created at this time or later."""
    until: int | None = None
    """Created at this time or before."""
    states: tuple[int, ...] = ()
    """Any of these `TaskRunState`s; empty for all. A live run of several tasks counts as RUNNING once a task of it has been
    assigned, else as QUEUED."""
    workflow_ids: tuple[str, ...] = ()
    """Any of these; empty for all."""
    metadata: tuple[tuple[str, str], ...] = ()
    """Any of these top-level keys with this value as text; empty for all."""


class SpilledQueue(NamedTuple):
    """How much of one sub-queue waits in Postgres."""

    tenant_id: str
    spill_queue: str
    queue_priority: int
    count: int  # type: ignore[assignment]  # nobody needs tuple.count of a row
    first_schedule_deadline: int | None


Record = (
    TaskRunRow
    | TaskRunUpdate
    | TaskRunFinish
    | TaskRunSettle
    | RunFinish
    | RunRevival
    | IdempotencyKeyRow
    | IdempotencyRelease
    | RateLimitRow
    | RateLimitDrop
    | TaskEventRow
    | WorkerRow
    | WorkflowVersionRow
    | WorkflowPause
    | WorkflowDeletion
    | EventRow
    | EventKeyRow
    | FilterRow
    | FilterDrop
    | FilterClear
    | LogRow
    | CronRow
    | CronChange
    | ScheduledRunRow
    | ScheduledRunChange
    | TimerDrop
)


class Batch(NamedTuple):
    """One flush: everything here commits together or not at all.

    Written in this order: revived, created, updated, finished, settled, ended, then the rest. Holds at most one of created, updated,
    finished and settled a task run, except that a task run may be created and settled at once.
    """

    created: tuple[TaskRunRow, ...] = ()
    updated: tuple[TaskRunUpdate, ...] = ()
    finished: tuple[TaskRunFinish, ...] = ()
    task_events: tuple[TaskEventRow, ...] = ()
    workers: tuple[WorkerRow, ...] = ()
    workflow_versions: tuple[WorkflowVersionRow, ...] = ()
    events: tuple[EventRow, ...] = ()
    logs: tuple[LogRow, ...] = ()
    settled: tuple[TaskRunSettle, ...] = ()
    ended: tuple[RunFinish, ...] = ()
    revived: tuple[RunRevival, ...] = ()
    claimed_keys: tuple[IdempotencyKeyRow, ...] = ()
    released_keys: tuple[IdempotencyRelease, ...] = ()
    rate_limits: tuple[RateLimitRow, ...] = ()
    dropped_rate_limits: tuple[RateLimitDrop, ...] = ()
    """Of other keys than `rate_limits`."""
    pauses: tuple[WorkflowPause, ...] = ()
    event_keys: tuple[EventKeyRow, ...] = ()
    cleared_filters: tuple[FilterClear, ...] = ()
    dropped_filters: tuple[FilterDrop, ...] = ()
    filters: tuple[FilterRow, ...] = ()
    """Of other ids than `dropped_filters`."""
    crons: tuple[CronRow, ...] = ()
    cron_changes: tuple[CronChange, ...] = ()
    scheduled_runs: tuple[ScheduledRunRow, ...] = ()
    scheduled_changes: tuple[ScheduledRunChange, ...] = ()
    dropped_timers: tuple[TimerDrop, ...] = ()
    """Of other ids than the four before."""
    deleted_workflows: tuple[WorkflowDeletion, ...] = ()
