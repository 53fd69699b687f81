"""Everything that travels between gateway and shard: plain picklable tuples, no reference to a live object.

The gateway knows the engine through one port, `ShardLink` (see `shard.py`): `submit(batch)` takes a list of the first group
below, `on_batch(callback)` delivers lists of the second. Requests that are answered carry `request_id`, growing within
their gateway; the answer is a `Reply` or a `Refusal` with the same number, and leaves after the commit of what it tells.
Every message is safe to receive twice. Times are microseconds since the Unix epoch, ids canonical UUID text.
"""

from enum import IntEnum
from typing import NamedTuple

from broadaxe_actors.definitions import WorkflowDefinition
from broadaxe_actors.errors import Code
from broadaxe_storage.records import RunFilter

MAX_CANCELLED_BY_FILTER = 20_000
MAX_REPLAYED_BY_FILTER = 1_000

# ---------------------------------------------------------------- gateway to shard


class PutWorkflow(NamedTuple):
    """Register a definition. Reply: `WorkflowRegistered`. A new version only when the checksum differs from the latest."""

    request_id: int
    tenant_id: str
    definition: WorkflowDefinition


class NewRun(NamedTuple):
    """One run to create."""

    workflow_name: str
    input: bytes
    """JSON text, checked by the gateway; may be empty."""
    metadata: str = "{}"
    """JSON object text, checked by the gateway."""
    run_id: str = ""
    """Chosen by the client, or empty: the engine then gives one."""
    priority: int | None = None
    parent_task_run_id: str | None = None
    child_index: int | None = None
    child_key: str | None = None
    desired_worker_id: str | None = None
    desired_labels: str | None = None


class TriggerRuns(NamedTuple):
    """Create runs, all or none. Reply: tuple of run ids in request order, after the commit."""

    request_id: int
    tenant_id: str
    runs: tuple[NewRun, ...]
    is_repeat: bool = False
    """The client asked before and saw no answer: an existing run id is answered, not refused."""


class CancelRuns(NamedTuple):
    """Cancel runs and task runs by id, or runs by filter. Reply, after the commit: the ids that were acted on.

    A run id stands for all its task runs. What is unknown or has ended is left as it is.
    """

    request_id: int
    tenant_id: str
    ids: tuple[str, ...]
    filter: RunFilter | None = None
    """Then `ids` is empty, and at most `MAX_CANCELLED_BY_FILTER` runs are cancelled."""


class ReplayRuns(NamedTuple):
    """Run ended runs, or task runs and what depends on them, again. Reply, after the commit: ids of the task runs replayed.

    What is unknown or has not ended is left as it is. Refused with FAILED_PRECONDITION where replays are switched off.
    """

    request_id: int
    tenant_id: str
    ids: tuple[str, ...]
    filter: RunFilter | None = None
    """Then `ids` is empty, and at most `MAX_REPLAYED_BY_FILTER` runs are replayed."""


class RefreshTimeout(NamedTuple):
    """Add to the execution timeout of a running attempt. Reply, after the commit: the new deadline; NOT_FOUND without one."""

    request_id: int
    tenant_id: str
    task_run_id: str
    increment_us: int


class ReleaseSlot(NamedTuple):
    """Give an attempt's slot back while it runs on. Reply, after the commit: None; NOT_FOUND without a running attempt."""

    request_id: int
    tenant_id: str
    task_run_id: str


class NewEvent(NamedTuple):
    key: str
    payload: bytes
    metadata: str = "{}"
    scope: str | None = None
    priority: int | None = None


class PushEvents(NamedTuple):
    """Store events and start the runs of workflows that name their keys. Reply: `EventsPushed`."""

    request_id: int
    tenant_id: str
    events: tuple[NewEvent, ...]


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


class WatchRuns(NamedTuple):
    """Ask for `RunFinished` of these runs: now if they have ended, else when they do. Unknown ids stay pending. One-way."""

    tenant_id: str
    run_ids: tuple[str, ...]


class UnwatchRuns(NamedTuple):
    """Nobody at this gateway waits for these runs any more. One-way."""

    tenant_id: str
    run_ids: tuple[str, ...]


class OpenSubscription(NamedTuple):
    """Follow the events of one run, or of all runs with a metadata key and value, as `RunEvents`.

    Reply: `True` when open, `False` when the run has ended already; NOT_FOUND for an unknown run.
    """

    request_id: int
    tenant_id: str
    subscription_id: str
    run_id: str | None
    metadata_key: str | None = None
    metadata_value: str | None = None


class CloseSubscription(NamedTuple):
    """One-way."""

    tenant_id: str
    subscription_id: str


class GetRun(NamedTuple):
    """Reply: `RunDetails`, or NOT_FOUND."""

    request_id: int
    tenant_id: str
    run_id: str


class NewLog(NamedTuple):
    task_run_id: str
    attempt: int | None
    created_at: int
    level: str | None
    metadata: str | None
    message: bytes


class PutLogs(NamedTuple):
    """Keep log lines. Reply: None, or NOT_FOUND if any names an unknown task run (`request_id` 0: no answer).

    Buffered: a crash may lose the last second.
    """

    request_id: int
    tenant_id: str
    lines: tuple[NewLog, ...]


class NewChunk(NamedTuple):
    task_run_id: str
    attempt: int | None
    index: int | None  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    message: bytes


class PutStream(NamedTuple):
    """Pass stream chunks to who follows the run; never stored. Reply: None, or NOT_FOUND (`request_id` 0: no answer)."""

    request_id: int
    tenant_id: str
    chunks: tuple[NewChunk, ...]


class PauseWorkflow(NamedTuple):
    """Hold the task runs of a workflow that are not with a worker, or change how. Reply: `WorkflowPause`, after the commit."""

    request_id: int
    tenant_id: str
    workflow_id: str
    queue_ttl: int
    """Microseconds that a task run may wait meanwhile; then it is cancelled."""
    cron_behavior: str = "QUEUE"
    """`DROP` or `QUEUE`: what becomes of the runs of crons meanwhile."""
    scheduled_behavior: str = "QUEUE"
    """Likewise of scheduled runs."""


class UnpauseWorkflow(NamedTuple):
    """Let a paused workflow go on. Reply: `WorkflowPause`, after the commit."""

    request_id: int
    tenant_id: str
    workflow_id: str


class PutRateLimit(NamedTuple):
    """Set a rate limit; the window under way goes on. Reply, after the commit: None."""

    request_id: int
    tenant_id: str
    key: str
    limit: int
    window_us: int


class PauseRateLimit(NamedTuple):
    """Start nothing that needs this rate limit until then. Reply, after the commit: until when it is paused, which may be later."""

    request_id: int
    tenant_id: str
    key: str
    until: int


class DeleteRateLimit(NamedTuple):
    """Forget a rate limit, its pause included; unknown is fine. Reply, after the commit: None."""

    request_id: int
    tenant_id: str
    key: str


class GetStats(NamedTuple):
    """Reply: `TenantStats`, read from counters."""

    request_id: int
    tenant_id: str


# ---------------------------------------------------------------- shard to gateway


class Reply(NamedTuple):
    request_id: int
    value: object


class IdempotencyCollision(NamedTuple):
    """Detail of an ALREADY_EXISTS: a run whose idempotency key another run holds was not created."""

    existing_run_id: str
    colliding_run_id: str


class IdempotencyCollisions(NamedTuple):
    """Detail of an ALREADY_EXISTS of a bulk trigger: the others were created."""

    created_run_ids: tuple[str, ...]
    collisions: tuple[IdempotencyCollision, ...]


class Refusal(NamedTuple):
    request_id: int
    code: Code
    message: str
    detail: IdempotencyCollision | IdempotencyCollisions | None = None


class WorkflowRegistered(NamedTuple):
    workflow_id: str
    version_id: str


class EventsPushed(NamedTuple):
    event_ids: tuple[str, ...]
    created_at: int


class ReportsTaken(NamedTuple):
    """Per report: True when it named a known task run (stale ones too), False when unknown."""

    is_known: tuple[bool, ...]


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


class TaskResult(NamedTuple):
    task_run_id: str
    task_name: str
    state: int
    """A final `TaskRunState`."""
    output: bytes | None
    error: bytes | None


class RunFinished(NamedTuple):
    """A watched run has ended."""

    tenant_id: str
    run_id: str
    state: int
    results: tuple[TaskResult, ...]


class RunEventKind(IntEnum):
    """Numbers are the wire's ResourceEventType."""

    STARTED = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4
    STREAM = 6


class RunEvent(NamedTuple):
    """One event of a followed run."""

    run_id: str
    is_run: bool
    """True: of the run itself, after which nothing follows for this run; False: of a task run."""
    resource_id: str
    kind: RunEventKind
    at: int
    payload: bytes = b""
    attempt: int | None = None
    index: int | None = None  # type: ignore[assignment]  # see NewChunk


class RunEvents(NamedTuple):
    """Events for a subscription, in order. `is_last` ends it."""

    subscription_id: str
    events: tuple[RunEvent, ...]
    is_last: bool


class TaskDetails(NamedTuple):
    task_run_id: str
    task_name: str
    state: int
    """A `TaskRunState`."""
    attempt: int
    output: bytes | None
    error: bytes | None


class RunDetails(NamedTuple):
    run_id: str
    state: int
    """A `TaskRunState`: of the run as a whole."""
    is_done: bool
    input: bytes
    metadata: str
    tasks: tuple[TaskDetails, ...]


class GroupStats(NamedTuple):
    """Task runs of one task at a concurrency expression: by key, how many."""

    expression: str
    strategy: str
    keys: tuple[tuple[str, int], ...]


class StateStats(NamedTuple):
    """Task runs of one task in one state."""

    total: int
    oldest_at: int | None
    """Since when the oldest of those in memory is in it; what waits in Postgres came later than what is before it in its line."""
    oldest_first_at: int | None
    """Likewise of those that are not retried."""
    groups: tuple[GroupStats, ...] = ()
    """Queued: who waits for a place. Running: who holds one."""


class ActionStats(NamedTuple):
    """One task of a workflow. `queued.total` counts those that are held by a pause or wait for a place or a batch, too."""

    action: str
    workflow_name: str
    task_name: str
    queued: StateStats
    running: StateStats


class TenantStats(NamedTuple):
    actions: tuple[ActionStats, ...]
    """Those with any task run that is queued or running."""
