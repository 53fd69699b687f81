"""Workers: their sessions and reports, and what they are told to start and to stop. See the package."""

from enum import IntEnum
from typing import NamedTuple


class RegisterWorker(NamedTuple):
    """A new worker, always with a fresh id. Reply: the worker id."""

    request_id: int
    tenant_id: str
    name: str
    actions: tuple[str, ...]
    slot_config: tuple[tuple[str, int], ...]
    labels: tuple[tuple[str, str | int], ...]
    runtime_info: str
    """JSON object text, for display."""
    is_batched: bool


class HeldAttempt(NamedTuple):
    task_run_id: str
    attempt: int


class OpenSession(NamedTuple):
    """A worker's stream opened. Reply: None, or NOT_FOUND for a worker that this tenant does not have.

    Assignments for the worker go to its sessions from the moment of the reply.
    """

    request_id: int
    tenant_id: str
    worker_id: str
    session_id: str
    is_batched: bool
    sends_heartbeats: bool = True
    """False for the legacy `Listen`: the open stream stands for the heartbeat."""
    in_flight: tuple[HeldAttempt, ...] | None = None
    """What a returning batched worker holds; None from workers that do not tell."""


class CloseSession(NamedTuple):
    """A worker's stream ended. One-way."""

    tenant_id: str
    worker_id: str
    session_id: str


class SessionFull(NamedTuple):
    """A worker's stream cannot take more now (or can again): assignment to that worker stops (or resumes). One-way."""

    tenant_id: str
    worker_id: str
    session_id: str
    is_full: bool


class Heartbeat(NamedTuple):
    """Reply: None; NOT_FOUND; FAILED_PRECONDITION when the worker had a session and has none now.

    `request_id` 0 asks for no answer (the batched stream).
    """

    request_id: int
    tenant_id: str
    worker_id: str


class StopWorker(NamedTuple):
    """Unsubscribe, or the goodbye of a batched worker. Reply: None or NOT_FOUND. `request_id` 0: no answer."""

    request_id: int
    tenant_id: str
    worker_id: str


class UpsertLabels(NamedTuple):
    """Reply: None or NOT_FOUND. Keys are added or replaced, never removed."""

    request_id: int
    tenant_id: str
    worker_id: str
    labels: tuple[tuple[str, str | int], ...]


class PauseWorker(NamedTuple):
    """Reply: `WorkerInfo`, or NOT_FOUND."""

    request_id: int
    tenant_id: str
    worker_id: str
    is_paused: bool | None
    """None only reads."""


class WorkerInfo(NamedTuple):
    worker_id: str
    name: str
    actions: tuple[str, ...]
    slot_config: tuple[tuple[str, int], ...]
    used_slots: tuple[tuple[str, int], ...]
    labels: tuple[tuple[str, str | int], ...]
    runtime_info: str
    is_paused: bool
    is_connected: bool
    last_heartbeat_at: int | None
    last_session_at: int | None
    created_at: int
    updated_at: int
    in_flight: tuple[HeldAttempt, ...]


class ReportKind(IntEnum):
    STARTED = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4


class TaskReport(NamedTuple):
    """What a worker says of one attempt."""

    task_run_id: str
    attempt: int | None
    """None means the current attempt."""
    kind: ReportKind
    payload: bytes = b""
    should_not_retry: bool = False
    started_at: int = 0
    """0 is unknown."""
    retry_after_ms: int = 0
    batch_id: str = ""
    """The batch by which the worker got it, if it says so: then `attempt` is not to be trusted (behaviour-core 2.9)."""


class ReportTasks(NamedTuple):
    """Reports of a worker, answered after their commit with `ReportsTaken`; STARTED alone is answered at once."""

    request_id: int
    tenant_id: str
    worker_id: str
    reports: tuple[TaskReport, ...]


class ReportsTaken(NamedTuple):
    """Per report: True when it named a known task run (stale ones too), False when unknown."""

    is_known: tuple[bool, ...]


class StepRef(NamedTuple):
    """What assignments of one step share. One object per step and process, so identity may be used as cache key."""

    step_id: str
    action: str
    task_name: str
    workflow_id: str
    workflow_version_id: str


class ParentOutput(NamedTuple):
    """What a finished task of the same run left."""

    task_name: str
    output: bytes
    """JSON text; may be empty, or no object."""
    is_direct: bool
    """The started task names it as a parent: it must reach the worker. What the others left is sent if there is room."""


class Assignment(NamedTuple):
    """One attempt for a worker to start."""

    step: StepRef
    run_id: str
    task_run_id: str
    attempt: int
    priority: int
    input: bytes
    metadata: str
    created_at: int
    parent_task_run_id: str | None
    child_index: int | None
    child_key: str | None
    triggering_event_id: str | None
    triggering_event_key: str | None
    parents: tuple[ParentOutput, ...] = ()
    """Outputs of the completed and skipped tasks of this run."""
    triggers: str = ""
    """JSON object text: what satisfied the conditions, by readable data key; empty without any."""
    errors: tuple[tuple[str, str], ...] = ()
    """For an on-failure task: name and error text of the tasks that failed."""
    filter_payload: str = ""
    """JSON object text: of the filter by which an event started the run; empty without one."""


class CancelOrder(NamedTuple):
    """Stop an attempt."""

    step: StepRef
    run_id: str
    task_run_id: str
    attempt: int
    metadata: str
    priority: int
    batch_id: str = ""
    """The batch by which the worker got the attempt; empty for one that came alone."""
    batch_key: str = ""


class StartTasks(NamedTuple):
    session_id: str
    assignments: tuple[Assignment, ...]


class BatchStart(NamedTuple):
    """Members of a batch task, to be run by one call of its function (behaviour-core 6.15)."""

    batch_id: str
    key: str
    reason: str
    """For people: why it was flushed now."""
    at: int
    members: tuple[Assignment, ...]


class StartBatches(NamedTuple):
    session_id: str
    batches: tuple[BatchStart, ...]


class CancelTasks(NamedTuple):
    session_id: str
    cancels: tuple[CancelOrder, ...]


class EndSession(NamedTuple):
    """The engine gives a session up; the gateway ends its stream with UNAVAILABLE."""

    session_id: str
