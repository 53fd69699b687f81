"""What people list and look up: runs and task runs, live and ended alike, what happened to them, their log lines, workflows, workers,
events, filters, rate limits.

May touch asyncpg through `pool`. Facts to know:

- Listings go to the read replica if there is one, which may lag behind; what is looked up by id comes from the database that was written
  to, so it is there once its trigger has been answered.
- Listings are planned for each call: most of what may be asked for is not, and the right index follows from what is. Look-ups are planned
  once a session. Behind pgbouncer no session keeps its settings, and every statement is planned anew in any case.
- A listing reads along an index in the wanted order and stops when its page is full; only then the rows of the page are looked up. What is
  filtered out on the way is read too, some 1,000,000 rows a second: a filter that few rows of a long time meet is slow unless an index
  serves it. One does for parents, events, idempotency keys, and of ended runs for workflows, metadata, and those that failed or were
  cancelled; none for workers, nor for workflows, metadata or the few that run before a long queue of live ones.
- Counts by state or over time read all that they count.
"""

from collections.abc import Sequence

from broadaxe_storage.metadata_filter import metadata_filter
from broadaxe_storage.pool import Pool
from broadaxe_storage.positions import Position, Positions
from broadaxe_storage.records import (
    FINAL_STATES,
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
from broadaxe_storage.timer_lists import TimerLists

LISTING_SETTINGS = {
    "plan_cache_mode": "force_custom_plan",
    "random_page_cost": "0.2",
    "seq_page_cost": "0.2",
    "work_mem": "16MB",
}
"""Of the sessions that listings use. What people list is mostly in memory: with the usual costs of pages the planner would read
whole indexes to spare a few."""
LOOK_UP_SETTINGS = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
"""Of the sessions that look up by id: with a partition a day, planning takes ten times as long as reading."""
COUNT_CAP = 10_000
_LAST_TIME = 253_402_300_799_000_000
_CLOCK_SLACK_US = 86_400_000_000
"""A run ends after its creation, by a clock that may have been set back meanwhile."""


class History(TimerLists):
    """Reads for people, each of one tenant. Every method raises `Unavailable` without Postgres."""

    def __init__(self, listings: Pool, look_ups: Pool) -> None:
        """Connects nothing: use `open`. The sessions of the pools have the settings above."""
        self._listings = listings
        self._look_ups = look_ups
        self._positions = Positions()

    async def open(self) -> None:
        """Connect what is always kept. Raises `CannotConnect`."""
        await self._listings.open()
        await self._look_ups.open()

    async def close(self) -> None:
        """May be called twice."""
        await self._listings.close()
        await self._look_ups.close()

    # ---------------------------------------------------------------- listings of runs

    async def list_runs(
        self, tenant_id: str, query: RunQuery, *, limit: int, offset: int = 0, has_payloads: bool = False
    ) -> list[RunSummary]:
        """A page of runs or task runs, newest first. Without payloads, input and output are empty.

        A task run of a run of several tasks shows what its run has: metadata, parent, event, key, and input among the payloads.
        """
        if query.only_tasks:
            rows = await self._listings.fetch(
                "list_task_runs", tenant_id, *_arguments(query), query.worker_id, has_payloads, limit, offset
            )
            return [RunSummary._make(row) for row in rows]
        before = self._positions.find(tenant_id, query, offset)
        paging = (limit, offset, None, None) if before is None else (limit, 0, *before)
        if len(query.workflow_ids) > 1:
            each = query._replace(workflow_ids=())
            rows = await self._listings.fetch(
                "list_runs_of_workflows",
                tenant_id,
                *_arguments(each),
                has_payloads,
                *paging,
                query.workflow_ids,
            )
        else:
            rows = await self._listings.fetch(
                "list_runs", tenant_id, *_arguments(query), has_payloads, *paging
            )
        page = [RunSummary._make(row) for row in rows]
        if len(page) == limit:
            last = Position(page[-1].created_at, page[-1].id)
            self._positions.keep(tenant_id, query, offset + limit, last)
        return page

    async def count_runs(self, tenant_id: str, query: RunQuery, *, cap: int = COUNT_CAP) -> int:
        """How many runs or task runs a listing has in all, but at most `cap`."""
        count: int
        if query.only_tasks:
            count = await self._listings.fetchval(
                "count_task_runs", tenant_id, *_arguments(query), query.worker_id, cap
            )
        else:
            count = await self._listings.fetchval("count_runs", tenant_id, *_arguments(query), cap)
        return count

    async def count_states(self, tenant_id: str, query: RunQuery) -> dict[int, int]:
        """How many task runs that a query means are in each state. All of them are read."""
        rows = await self._listings.fetch("count_task_states", tenant_id, *_arguments(query), query.worker_id)
        return {row[0]: row[1] for row in rows}

    async def count_ends(
        self, tenant_id: str, since: int, until: int, stretch_seconds: int
    ) -> list[tuple[int, int, int]]:
        """Of task runs created since, and ended before: beginning of a stretch of time, state, how many ended so in it."""
        rows = await self._listings.fetch("count_task_ends", tenant_id, since, until, float(stretch_seconds))
        return [(row[0], row[1], row[2]) for row in rows]

    async def list_run_ids(self, tenant_id: str, query: RunQuery) -> list[str]:
        """Ids of all runs that a query means, in any order."""
        rows = await self._listings.fetch("list_run_ids", tenant_id, *_arguments(query))
        return [row[0] for row in rows]

    async def list_tasks_of(
        self, tenant_id: str, run_ids: Sequence[str], *, has_payloads: bool = False
    ) -> list[RunSummary]:
        """Task runs of these runs of several tasks, in any order."""
        rows = await self._listings.fetch("list_tasks_of", tenant_id, run_ids, has_payloads)
        return [RunSummary._make(row) for row in rows]

    # ---------------------------------------------------------------- by id

    async def fetch_rows(self, tenant_id: str, ids: Sequence[str]) -> list[RunSummary]:
        """Rows whose own id or run id is one of these, with payloads, in any order. Unknown ids are left out."""
        rows = await self._look_ups.fetch("fetch_rows", tenant_id, ids)
        return [RunSummary._make(row) for row in rows]

    async def fetch_run_rows(self, tenant_id: str, run_id: str) -> list[RunSummary]:
        """A run's row and those of its task runs, in any order; empty for what is no run."""
        rows = await self.fetch_rows(tenant_id, [run_id])
        return rows if any(row.id == row.run_id for row in rows) else []

    async def fetch_task(self, tenant_id: str, task_run_id: str) -> RunSummary | None:
        """One task run; None for what is none."""
        rows = await self.fetch_rows(tenant_id, [task_run_id])
        return next((row for row in rows if row.id == task_run_id and not row.is_run_of_several), None)

    async def list_children(
        self, tenant_id: str, parent_task_run_ids: Sequence[str], limit: int
    ) -> list[RunSummary]:
        """Runs that these task runs spawned, oldest first, without payloads."""
        rows = await self._look_ups.fetch("list_children", tenant_id, parent_task_run_ids, limit)
        return [RunSummary._make(row) for row in rows]

    async def count_children(self, tenant_id: str, parent_task_run_id: str) -> int:
        """How many runs a task run has spawned."""
        count: int = await self._look_ups.fetchval("count_children", tenant_id, parent_task_run_id)
        return count

    async def fetch_timeline(self, tenant_id: str, task_run_ids: Sequence[str]) -> list[TaskEventRow]:
        """What happened to task runs, live or ended, oldest first; nothing for unknown ones."""
        rows = await self._look_ups.fetch("fetch_timeline", tenant_id, task_run_ids)
        return [TaskEventRow._make(row) for row in rows]

    # ---------------------------------------------------------------- log lines

    async def list_logs(self, tenant_id: str, query: LogQuery) -> list[LogRow]:
        """Log lines by the time that they carry, those of one time as they were stored."""
        rows = await self._listings.fetch(
            "list_logs", tenant_id, *_line_arguments(query), query.is_descending, query.limit
        )
        return [LogRow._make(row) for row in rows]

    async def count_logs(
        self, tenant_id: str, query: LogQuery, stretch_seconds: int
    ) -> list[tuple[int, str, int]]:
        """Beginning of a stretch of time, level, how many lines of it there are in it. Lines without a level are left out."""
        rows = await self._listings.fetch(
            "count_logs", tenant_id, *_line_arguments(query), float(stretch_seconds)
        )
        return [(row[0], row[1], row[2]) for row in rows]

    # ---------------------------------------------------------------- workflows and workers

    async def list_workflows(
        self, tenant_id: str, name: str = "", *, limit: int, offset: int = 0
    ) -> list[WorkflowVersionRow]:
        """A page of the workflows whose name has `name` in it, in any case of letters, by name; each as its newest version."""
        rows = await self._listings.fetch("list_workflows", tenant_id, name or None, limit, offset)
        return [WorkflowVersionRow._make(row) for row in rows]

    async def count_workflows(self, tenant_id: str, name: str = "") -> int:
        """How many workflows such a listing has in all."""
        count: int = await self._listings.fetchval("count_workflows", tenant_id, name or None)
        return count

    async def fetch_workflow(self, tenant_id: str, workflow_id: str) -> WorkflowVersionRow | None:
        """The newest version of a workflow. `ShardStore.fetch_version` has the others."""
        rows = await self._look_ups.fetch("fetch_workflow", tenant_id, workflow_id)
        return WorkflowVersionRow._make(rows[0]) if rows else None

    async def fetch_workflow_pauses(self, tenant_id: str, workflow_ids: Sequence[str]) -> list[WorkflowPause]:
        """Of these workflows those that are paused, or were once; in any order."""
        rows = await self._look_ups.fetch("fetch_workflow_pauses", tenant_id, workflow_ids)
        return [WorkflowPause._make(row) for row in rows]

    async def list_workers(self, tenant_id: str, since: int) -> list[WorkerRow]:
        """Workers that are active, or have changed at `since` or later; the newest first."""
        rows = await self._listings.fetch("list_workers", tenant_id, since)
        return [WorkerRow._make(row)._replace(actions=tuple(row["actions"])) for row in rows]

    async def fetch_worker(self, tenant_id: str, worker_id: str) -> WorkerRow | None:
        rows = await self._look_ups.fetch("fetch_worker", tenant_id, worker_id)
        return WorkerRow._make(rows[0])._replace(actions=tuple(rows[0]["actions"])) if rows else None

    # ---------------------------------------------------------------- events and filters

    async def list_events(
        self, tenant_id: str, query: EventQuery, *, limit: int, offset: int = 0
    ) -> list[EventRow]:
        """A page of events, newest first."""
        arguments = (tenant_id, *_event_arguments(query), limit, offset)
        if query.keys:
            rows = await self._listings.fetch("list_events_of_keys", *arguments, _each_once(query.keys))
        else:
            rows = await self._listings.fetch("list_events", *arguments)
        return [EventRow._make(row) for row in rows]

    async def count_events(self, tenant_id: str, query: EventQuery, *, cap: int = COUNT_CAP) -> int:
        """How many events such a listing has in all, but at most `cap`."""
        arguments = (tenant_id, *_event_arguments(query), cap)
        count: int
        if query.keys:
            count = await self._listings.fetchval("count_events_of_keys", *arguments, _each_once(query.keys))
        else:
            count = await self._listings.fetchval("count_events", *arguments)
        return count

    async def fetch_event(self, tenant_id: str, event_id: str) -> EventRow | None:
        rows = await self._look_ups.fetch("fetch_event", tenant_id, event_id)
        return EventRow._make(rows[0]) if rows else None

    async def list_runs_of_events(self, tenant_id: str, events: Sequence[EventRow]) -> list[StartedRun]:
        """What events started, oldest first."""
        if not events:
            return []
        since = min(event.created_at for event in events) - _CLOCK_SLACK_US
        ids = [event.id for event in events]
        rows = await self._look_ups.fetch("list_runs_of_events", tenant_id, ids, since)
        return [StartedRun._make(row) for row in rows]

    async def list_event_keys(self, tenant_id: str, *, cap: int = COUNT_CAP) -> list[str]:
        """Keys that events have had, by name, at most `cap`."""
        return [row[0] for row in await self._listings.fetch("list_event_keys", tenant_id, cap)]

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
        rows = await self._listings.fetch(
            "list_filters", tenant_id, workflow_ids or None, scopes or None, limit, offset
        )
        return [FilterRow._make(row) for row in rows]

    async def count_filters(
        self,
        tenant_id: str,
        workflow_ids: Sequence[str] = (),
        scopes: Sequence[str] = (),
        *,
        cap: int = COUNT_CAP,
    ) -> int:
        """How many filters such a listing has in all, but at most `cap`."""
        count: int = await self._listings.fetchval(
            "count_filters", tenant_id, workflow_ids or None, scopes or None, cap
        )
        return count

    async def fetch_filter(self, tenant_id: str, filter_id: str) -> FilterRow | None:
        rows = await self._look_ups.fetch("fetch_filter", tenant_id, filter_id)
        return FilterRow._make(rows[0]) if rows else None

    # ---------------------------------------------------------------- rate limits

    async def list_rate_limits(
        self, tenant_id: str, query: RateLimitQuery, now: int, *, limit: int, offset: int = 0
    ) -> list[RateLimitRow]:
        """A page of rate-limit buckets. Read along an index in the order of keys; in any other order all of the tenant's are read."""
        arguments = (tenant_id, query.search or None, limit, offset)
        if query.order_by != "key":
            rows = await self._listings.fetch(
                "list_limits_by_number", *arguments, query.order_by == "limit", query.is_descending, now
            )
        elif query.is_descending:
            rows = await self._listings.fetch("list_limits_by_key_descending", *arguments)
        else:
            rows = await self._listings.fetch("list_limits_by_key", *arguments)
        return [RateLimitRow._make(row) for row in rows]

    async def count_rate_limits(self, tenant_id: str, query: RateLimitQuery, *, cap: int = COUNT_CAP) -> int:
        """How many buckets such a listing has in all, but at most `cap`."""
        count: int = await self._listings.fetchval("count_limits", tenant_id, query.search or None, cap)
        return count


def _arguments(query: RunQuery) -> tuple[object, ...]:
    """$2 to $16 of the listings: None where the query does not narrow."""
    workflows = query.workflow_ids
    return (
        query.since,
        _LAST_TIME if query.until is None else query.until,
        query.since - _CLOCK_SLACK_US,
        query.states or None,
        workflows if len(workflows) > 1 else None,
        workflows[0] if len(workflows) == 1 else None,
        *metadata_filter(query),
        query.parent_task_run_id,
        query.triggering_event_id,
        query.idempotency_keys or None,
        not query.states or not FINAL_STATES.issuperset(query.states),
    )


def _event_arguments(query: EventQuery) -> tuple[object, ...]:
    """$2 to $10 of the listings of events: None where the query does not narrow."""
    return (
        query.since,
        _LAST_TIME if query.until is None else query.until,
        query.scopes or None,
        query.ids or None,
        [key for key, _ in query.metadata] or None,
        [value for _, value in query.metadata] or None,
        query.workflow_ids or None,
        query.states or None,
        _CLOCK_SLACK_US,
    )


def _each_once(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _line_arguments(query: LogQuery) -> tuple[object, ...]:
    """$2 to $10 of what is asked of log lines: None where the query does not narrow."""
    steps = query.steps
    return (
        query.task_run_ids or None,
        query.since,
        query.until,
        query.search or None,
        query.levels or None,
        query.attempt,
        query.workflow_ids or None,
        None if steps is None else [version_id for version_id, _ in steps],
        None if steps is None else [step_index for _, step_index in steps],
    )
