"""What people ask of runs, log lines, events and rate limits, and the rows that they get: live and ended runs are one kind here.

May touch only `records`. Times are microseconds since 1970, ids canonical UUID text, as there; empty tuples in a query stand for all.
"""

from typing import Literal, NamedTuple

from broadaxe_storage.records import FINAL_STATES, RUN_STEP


class RunSummary(NamedTuple):
    """A run or a task run, live or ended. A run of one task is one row, one of several has a row of its own and one a task run.

    Names of workflow and task, action and the like are facts of the version that the row names.
    """

    id: str
    run_id: str
    workflow_id: str
    workflow_version_id: str
    step_index: int
    """`RUN_STEP` for the row of a run of several tasks."""
    state: int
    """A `TaskRunState`; of a live run of several tasks as in `RunFilter`."""
    attempt: int
    created_at: int
    queued_at: int
    assigned_at: int | None
    started_at: int | None
    finished_at: int | None
    """Its own end; the run that it belongs to may go on."""
    worker_id: str | None
    parent_task_run_id: str | None
    metadata: str
    input: bytes
    """Empty for a task run of a run of several tasks, whose run has it."""
    output: bytes | None
    error: bytes | None
    triggering_event_id: str | None
    idempotency_key: str | None

    @property
    def is_run_of_several(self) -> bool:
        return self.step_index == RUN_STEP

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES


class RunQuery(NamedTuple):
    """Which runs, or task runs, a listing has."""

    since: int
    """Created at this time or later."""
    until: int | None = None
    """Created at this time or before."""
    only_tasks: bool = False
    """Task runs, and not the runs of several tasks that they belong to; else runs, each once."""
    states: tuple[int, ...] = ()
    """Any of these `TaskRunState`s, as `RunSummary` shows them."""
    workflow_ids: tuple[str, ...] = ()
    worker_id: str | None = None
    """The last worker of a task run; only with `only_tasks`."""
    metadata: tuple[tuple[str, str], ...] = ()
    """Top-level keys with these values as text: any of them, or all with `needs_all_metadata`."""
    needs_all_metadata: bool = False
    parent_task_run_id: str | None = None
    triggering_event_id: str | None = None
    idempotency_keys: tuple[str, ...] = ()


class LogQuery(NamedTuple):
    """Which log lines of a tenant, and how many."""

    task_run_ids: tuple[str, ...] = ()
    """A run of several tasks stands for all of them."""
    since: int | None = None
    """Created after this time."""
    until: int | None = None
    """Created before this time."""
    search: str = ""
    """Within the message, in any case of letters (beyond ASCII: of those that the database's locale knows)."""
    levels: tuple[str, ...] = ()
    attempt: int | None = None
    workflow_ids: tuple[str, ...] = ()
    steps: tuple[tuple[str, int], ...] | None = None
    """Any of these tasks, each by version id and step index; None for all."""
    is_descending: bool = False
    """Newest first, else oldest first."""
    limit: int = 50


class EventQuery(NamedTuple):
    """Which events of a tenant."""

    since: int
    """Created at this time or later."""
    until: int | None = None
    """Created at this time or before."""
    keys: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    """Top-level keys with these values as text: all of them."""
    workflow_ids: tuple[str, ...] = ()
    """Of a run that the event started."""
    states: tuple[int, ...] = ()
    """Of that run: any of these `TaskRunState`s, as `RunSummary` shows them."""


class StartedRun(NamedTuple):
    """A run that an event started."""

    event_id: str
    run_id: str
    state: int
    """As `RunSummary` shows it."""
    filter_id: str | None
    """The filter by which it did."""


class RateLimitQuery(NamedTuple):
    """Which rate limits of a tenant, and in which order."""

    search: str = ""
    """Within the key, in any case of letters."""
    order_by: Literal["key", "value", "limit"] = "key"
    """`value`: the units that are there now."""
    is_descending: bool = False
