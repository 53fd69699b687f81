"""What REST reads of the record, as a port: `broadaxe_storage.history.History` is behind it, and a record in memory in tests.

What is fetched by id is there once its trigger has been answered; listings may lag behind where they are read from a replica.
"""

from collections.abc import Sequence
from typing import Protocol

from broadaxe_gateway.http.rest.timer_reads import TimerReads
from broadaxe_storage.records import (
    EventRow,
    FilterRow,
    LogRow,
    RateLimitRow,
    TaskEventRow,
    WorkerRow,
    WorkflowPause,
    WorkflowVersionRow,
)
from broadaxe_storage.summaries import (
    EventQuery,
    LogQuery,
    RateLimitQuery,
    RunQuery,
    RunSummary,
    StartedRun,
)


class Reads(TimerReads, Protocol):
    """Reads of one tenant each. Every method raises `Unavailable` without Postgres."""

    async def list_runs(
        self, tenant_id: str, query: RunQuery, *, limit: int, offset: int = 0, has_payloads: bool = False
    ) -> list[RunSummary]:
        """A page of runs or task runs, newest first. Without payloads, input and output are empty.

        A task run of a run of several tasks shows what its run has: metadata, parent, event, key, and input among the payloads.
        """
        ...

    async def count_runs(self, tenant_id: str, query: RunQuery) -> int:
        """How many such a listing has in all; many are not counted to the end."""
        ...

    async def count_states(self, tenant_id: str, query: RunQuery) -> dict[int, int]:
        """How many task runs that a query means are in each state."""
        ...

    async def count_ends(
        self, tenant_id: str, since: int, until: int, stretch_seconds: int
    ) -> list[tuple[int, int, int]]:
        """Of task runs created since, and ended before: beginning of a stretch of time, state, how many ended so in it."""
        ...

    async def list_run_ids(self, tenant_id: str, query: RunQuery) -> list[str]:
        """Ids of all runs that a query means, in any order."""
        ...

    async def list_tasks_of(
        self, tenant_id: str, run_ids: Sequence[str], *, has_payloads: bool = False
    ) -> list[RunSummary]:
        """Task runs of these runs of several tasks, in any order."""
        ...

    async def fetch_rows(self, tenant_id: str, ids: Sequence[str]) -> list[RunSummary]:
        """Rows whose own id or run id is one of these, with payloads, in any order. Unknown ids are left out."""
        ...

    async def list_children(
        self, tenant_id: str, parent_task_run_ids: Sequence[str], limit: int
    ) -> list[RunSummary]:
        """Runs that these task runs spawned, oldest first, without payloads."""
        ...

    async def count_children(self, tenant_id: str, parent_task_run_id: str) -> int: ...

    async def fetch_timeline(self, tenant_id: str, task_run_ids: Sequence[str]) -> list[TaskEventRow]:
        """What happened to these task runs, oldest first."""
        ...

    async def list_logs(self, tenant_id: str, query: LogQuery) -> list[LogRow]: ...

    async def count_logs(
        self, tenant_id: str, query: LogQuery, stretch_seconds: int
    ) -> list[tuple[int, str, int]]:
        """Beginning of a stretch of time, level, how many lines of it there are in it."""
        ...

    async def list_workflows(
        self, tenant_id: str, name: str = "", *, limit: int, offset: int = 0
    ) -> list[WorkflowVersionRow]:
        """A page of the workflows whose name has `name` in it, by name; each as its newest version."""
        ...

    async def count_workflows(self, tenant_id: str, name: str = "") -> int: ...

    async def fetch_workflow(self, tenant_id: str, workflow_id: str) -> WorkflowVersionRow | None:
        """The newest version of a workflow."""
        ...

    async def fetch_workflow_pauses(self, tenant_id: str, workflow_ids: Sequence[str]) -> list[WorkflowPause]:
        """Of these workflows those that are paused, or were once; in any order."""
        ...

    async def list_workers(self, tenant_id: str, since: int) -> list[WorkerRow]:
        """Workers that are active, or have changed at `since` or later; the newest first."""
        ...

    async def fetch_worker(self, tenant_id: str, worker_id: str) -> WorkerRow | None: ...

    async def list_events(
        self, tenant_id: str, query: EventQuery, *, limit: int, offset: int = 0
    ) -> list[EventRow]:
        """A page of events, newest first."""
        ...

    async def count_events(self, tenant_id: str, query: EventQuery) -> int:
        """How many such a listing has in all; many are not counted to the end."""
        ...

    async def fetch_event(self, tenant_id: str, event_id: str) -> EventRow | None: ...

    async def list_runs_of_events(self, tenant_id: str, events: Sequence[EventRow]) -> list[StartedRun]:
        """What events started, oldest first."""
        ...

    async def list_event_keys(self, tenant_id: str) -> list[str]:
        """Keys that events have had, by name."""
        ...

    async def list_filters(
        self,
        tenant_id: str,
        workflow_ids: Sequence[str] = (),
        scopes: Sequence[str] = (),
        *,
        limit: int,
        offset: int = 0,
    ) -> list[FilterRow]:
        """A page of event filters, oldest first: of any of these workflows and scopes, empty for all."""
        ...

    async def count_filters(
        self, tenant_id: str, workflow_ids: Sequence[str] = (), scopes: Sequence[str] = ()
    ) -> int: ...

    async def fetch_filter(self, tenant_id: str, filter_id: str) -> FilterRow | None: ...

    async def list_rate_limits(
        self, tenant_id: str, query: RateLimitQuery, now: int, *, limit: int, offset: int = 0
    ) -> list[RateLimitRow]: ...

    async def count_rate_limits(self, tenant_id: str, query: RateLimitQuery) -> int:
        """How many such a listing has in all; many are not counted to the end."""
        ...
