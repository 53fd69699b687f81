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


class WorkerStatus(IntEnum):
    """Whether a worker may come back: LOST and ACTIVE may, STOPPED said goodbye."""

    ACTIVE = 0
    LOST = 1
    STOPPED = 2


class TaskRunRow(NamedTuple):
    """One task run that has not ended; for a workflow of one task it is also the run."""

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
    """Sub-queue key when the task run waits in Postgres instead of memory, else None."""
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


class TaskRunFinish(NamedTuple):
    """The end of a task run: its row leaves the live table and joins the history partition of this day."""

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


class FinishedTaskRun(NamedTuple):
    """What is read back of a task run that ended."""

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
    worker_id: str | None
    parent_task_run_id: str | None
    child_index: int | None
    child_key: str | None
    metadata: str
    input: bytes
    output: bytes | None
    error: bytes | None


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


class EventRow(NamedTuple):
    """A pushed event."""

    id: str
    tenant_id: str
    key: str
    scope: str | None
    priority: int | None
    created_at: int
    metadata: str
    payload: bytes


class LogRow(NamedTuple):
    """A line that a task logged."""

    tenant_id: str
    task_run_id: str
    attempt: int
    created_at: int
    level: str | None
    metadata: str | None
    message: bytes


class TenantRow(NamedTuple):
    id: str
    name: str
    slug: str
    created_at: int


class UserRow(NamedTuple):
    """A person who may sign in. E-mail addresses are unique in any case of letters."""

    id: str
    email: str
    name: str
    password_hash: str | None
    """As the gateway made it; None for a person who cannot sign in by password."""
    created_at: int


class TenantMemberRow(NamedTuple):
    tenant_id: str
    user_id: str
    role: str
    """`OWNER`, `ADMIN` or `MEMBER`."""
    created_at: int


class ApiTokenRow(NamedTuple):
    """A token that was issued. The token itself is never stored: its signature proves it, this row says whether it still counts."""

    id: str
    tenant_id: str
    name: str
    created_at: int
    expires_at: int
    revoked_at: int | None


class Defaults(NamedTuple):
    """The tenant and administrator that every installation begins with."""

    tenant_id: str
    """DEFAULT_TENANT_ID."""
    tenant_name: str
    """DEFAULT_TENANT_NAME."""
    tenant_slug: str
    """DEFAULT_TENANT_SLUG."""
    admin_id: str
    """Used if the administrator is new."""
    admin_email: str
    """ADMIN_EMAIL."""
    admin_name: str
    """ADMIN_NAME."""
    admin_password_hash: str | None
    now: int


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
    | TaskEventRow
    | WorkerRow
    | WorkflowVersionRow
    | EventRow
    | LogRow
)


class Batch(NamedTuple):
    """One flush: everything here commits together or not at all. Holds at most one task-run record a task run."""

    created: tuple[TaskRunRow, ...] = ()
    updated: tuple[TaskRunUpdate, ...] = ()
    finished: tuple[TaskRunFinish, ...] = ()
    task_events: tuple[TaskEventRow, ...] = ()
    workers: tuple[WorkerRow, ...] = ()
    workflow_versions: tuple[WorkflowVersionRow, ...] = ()
    events: tuple[EventRow, ...] = ()
    logs: tuple[LogRow, ...] = ()
