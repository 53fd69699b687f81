"""Rows of crons and scheduled runs: what the journal writes of them, and what is read. Re-exported by `records`, whose facts hold here too.

May touch nothing.
"""

from enum import IntEnum
from typing import NamedTuple


class TimerKind(IntEnum):
    """What a timer is of."""

    CRON = 0
    SCHEDULED = 1


class Timer(NamedTuple):
    """When a cron or a scheduled run is due next; all that is kept of it in memory."""

    due_at: int
    id: str
    kind: int


class CronRow(NamedTuple):
    """A cron. As a record: a new one; of a declared one that is there already, only input and workflow name are replaced."""

    id: str
    tenant_id: str
    workflow_id: str
    workflow_name: str
    name: str
    """Empty for a declared one."""
    expression: str
    is_declared: bool
    """It comes from the workflow's definition, and goes with it."""
    is_enabled: bool
    priority: int | None
    next_at: int | None
    """The tick that is due next; None for a disabled cron, and for one that has no more ticks."""
    last_tick_at: int | None
    """The last tick that fired. No tick fires that is not after it."""
    error: str | None
    """Why the last tick made no run; None if it did, or was to make none."""
    created_at: int
    updated_at: int
    metadata: str
    """JSON object text, stored as jsonb."""
    input: bytes | None
    """None in a read that had no room left for it."""


class CronChange(NamedTuple):
    """A cron's state from now on. With a tick: it has fired, and the record of its run stands beside this one."""

    id: str
    tenant_id: str
    tick_at: int | None
    """The guard: the stored row must not have fired this tick, nor a later one."""
    is_enabled: bool
    next_at: int | None
    error: str | None
    updated_at: int


class ScheduledRunRow(NamedTuple):
    """A run that is to begin at a time. As a record: a new one."""

    id: str
    tenant_id: str
    workflow_id: str
    workflow_name: str
    is_declared: bool
    """It comes from the workflow's definition: it can be neither moved nor deleted."""
    priority: int | None
    trigger_at: int
    fired_at: int | None
    """When it was fired, or given up; None while it waits for its time."""
    run_id: str | None
    """The run that it made."""
    error: str | None
    """Why it made none."""
    parent_run_id: str | None
    parent_task_run_id: str | None
    """Who scheduled it, for lists; the run is no child of theirs."""
    created_at: int
    updated_at: int
    metadata: str
    """JSON object text, stored as jsonb."""
    input: bytes | None
    """None in a read that had no room left for it."""


class ScheduledRunChange(NamedTuple):
    """A scheduled run is moved, has fired, or is given up. The guard: the stored row has not fired."""

    id: str
    tenant_id: str
    trigger_at: int
    fired_at: int | None
    run_id: str | None
    error: str | None
    updated_at: int


class TimerDrop(NamedTuple):
    """A cron or a scheduled run is deleted; nothing happens if there is none."""

    id: str
    tenant_id: str
