"""Crons and scheduled runs. See the package."""

from typing import NamedTuple


class CreateCron(NamedTuple):
    """A new cron of a workflow. Reply, after the commit: its id. NOT_FOUND, or ALREADY_EXISTS for one of that name and expression."""

    request_id: int
    tenant_id: str
    workflow_name: str
    name: str
    expression: str
    """Checked by the gateway, but for the time zone's rules."""
    input: bytes
    metadata: str
    priority: int | None


class EnableCron(NamedTuple):
    """Let a cron tick, or not. Reply, after the commit: None; NOT_FOUND."""

    request_id: int
    tenant_id: str
    cron_id: str
    is_enabled: bool


class ScheduleRuns(NamedTuple):
    """Runs of a workflow, each to begin at a time. Reply, after the commit: `RunsScheduled`; NOT_FOUND."""

    request_id: int
    tenant_id: str
    workflow_name: str
    times: tuple[int, ...]
    """One that has passed is due at once."""
    input: bytes
    metadata: str
    priority: int | None
    parent_run_id: str | None = None
    parent_task_run_id: str | None = None


class RunsScheduled(NamedTuple):
    workflow_id: str
    version_id: str
    version_number: int
    version_created_at: int
    ids: tuple[str, ...]
    """In the order of the times."""


class MoveScheduledRuns(NamedTuple):
    """Give scheduled runs other times. Reply, after the commit: for each None, or a `TimerProblem`."""

    request_id: int
    tenant_id: str
    moves: tuple[tuple[str, int], ...]


class DeleteTimers(NamedTuple):
    """Delete crons, or scheduled runs. Reply, after the commit: for each None, or a `TimerProblem`. Runs that they made go on."""

    request_id: int
    tenant_id: str
    kind: int
    """A `TimerKind`."""
    ids: tuple[str, ...]


class RunTimer(NamedTuple):
    """Make the run of a cron or a scheduled run now. Reply, after the commit: its id. NOT_FOUND; FAILED_PRECONDITION for what has fired.

    A cron goes on as before; a scheduled run has fired then.
    """

    request_id: int
    tenant_id: str
    kind: int
    timer_id: str


class TimerProblem(NamedTuple):
    """Why nothing was done to one timer of several."""

    code: int
    """A `Code`."""
    text: str
