"""Flow control: pauses, rate limits, and how much waits and runs. See the package."""

from typing import NamedTuple


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


class DeleteWorkflow(NamedTuple):
    """Take a workflow from the tenant: nothing starts a run of it any more, and what is live goes on to its end. Reply, after the commit: None."""

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
