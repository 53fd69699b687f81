"""Crons and scheduled runs as people list them and look them up. A part of `History`; every method raises `Unavailable` without Postgres.

May touch asyncpg through `pool`.
"""

import json
from itertools import product
from typing import NamedTuple

from broadaxe_storage.pool import Pool

COUNT_CAP = 10_000
"""Up to which a listing is counted."""
_EXACT_ITEMS = 4
"""Metadata items of one query up to which a value counts as text and as the JSON scalar that it reads as; further ones count as text."""
_NO_ID = "00000000-0000-0000-0000-000000000000"


class CronSummary(NamedTuple):
    """A cron, with the newest version of its workflow."""

    id: str
    workflow_id: str
    workflow_version_id: str
    """The workflow's id where it has no version any more."""
    workflow_name: str
    name: str
    expression: str
    is_declared: bool
    is_enabled: bool
    priority: int | None
    next_at: int | None
    last_tick_at: int | None
    error: str | None
    created_at: int
    updated_at: int
    metadata: str
    input: bytes


class ScheduledRunSummary(NamedTuple):
    """A scheduled run, with the newest version of its workflow, and with the run that it made."""

    id: str
    workflow_id: str
    workflow_version_id: str
    """The workflow's id where it has no version any more."""
    workflow_name: str
    is_declared: bool
    priority: int | None
    trigger_at: int
    fired_at: int | None
    run_id: str | None
    error: str | None
    run_state: int | None
    """A `TaskRunState`, as `RunSummary` shows it; None without a run, and for one that has been deleted."""
    run_created_at: int | None
    created_at: int
    updated_at: int
    metadata: str
    input: bytes


class CronQuery(NamedTuple):
    """Which crons a listing has, and in which order."""

    workflow_id: str | None = None
    workflow_name: str | None = None
    name: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    """Top-level keys with these values as text: all of them."""
    is_by_workflow: bool = False
    """In the order of the workflows' names, else of their creation."""
    is_descending: bool = True


class ScheduledRunQuery(NamedTuple):
    """Which scheduled runs a listing has, and in which order."""

    workflow_id: str | None = None
    parent_run_id: str | None = None
    parent_task_run_id: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    """Top-level keys with these values as text: all of them."""
    has_states: bool = False
    """Only those of which one of the next three is true."""
    run_states: tuple[int, ...] = ()
    """Their run is in one of these states."""
    with_waiting: bool = False
    """They wait for their time."""
    with_failed: bool = False
    """They made no run."""
    is_by_creation: bool = False
    """In the order of their creation, else of their time."""
    is_descending: bool = True


class TimerLists:
    """See the module."""

    _listings: Pool
    _look_ups: Pool

    async def list_crons(
        self, tenant_id: str, query: CronQuery, *, limit: int, offset: int = 0
    ) -> list[CronSummary]:
        """A page of crons."""
        arguments = (tenant_id, *_cron_arguments(query), limit, offset)
        if query.is_by_workflow and query.is_descending:
            rows = await self._listings.fetch("list_crons_by_workflow_descending", *arguments)
        elif query.is_by_workflow:
            rows = await self._listings.fetch("list_crons_by_workflow", *arguments)
        elif query.is_descending:
            rows = await self._listings.fetch("list_crons", *arguments)
        else:
            rows = await self._listings.fetch("list_crons_ascending", *arguments)
        return [CronSummary._make(row) for row in rows]

    async def count_crons(self, tenant_id: str, query: CronQuery, *, cap: int = COUNT_CAP) -> int:
        """How many crons such a listing has in all, but at most `cap`."""
        count: int = await self._listings.fetchval("count_crons", tenant_id, *_cron_arguments(query), cap)
        return count

    async def fetch_cron(self, tenant_id: str, cron_id: str) -> CronSummary | None:
        """One cron; it is there once its creation has been answered."""
        rows = await self._look_ups.fetch("fetch_cron", tenant_id, cron_id)
        return CronSummary._make(rows[0]) if rows else None

    async def list_scheduled_runs(
        self, tenant_id: str, query: ScheduledRunQuery, *, limit: int, offset: int = 0
    ) -> list[ScheduledRunSummary]:
        """A page of scheduled runs."""
        arguments = (tenant_id, *_scheduled_arguments(query), limit, offset)
        if query.is_by_creation and query.is_descending:
            rows = await self._listings.fetch("list_scheduled_runs_by_creation_descending", *arguments)
        elif query.is_by_creation:
            rows = await self._listings.fetch("list_scheduled_runs_by_creation", *arguments)
        elif query.is_descending:
            rows = await self._listings.fetch("list_scheduled_runs", *arguments)
        else:
            rows = await self._listings.fetch("list_scheduled_runs_ascending", *arguments)
        return [ScheduledRunSummary._make(row) for row in rows]

    async def count_scheduled_runs(
        self, tenant_id: str, query: ScheduledRunQuery, *, cap: int = COUNT_CAP
    ) -> int:
        """How many scheduled runs such a listing has in all, but at most `cap`."""
        count: int = await self._listings.fetchval(
            "count_scheduled_runs", tenant_id, *_scheduled_arguments(query), cap
        )
        return count

    async def list_scheduled_run_ids(
        self, tenant_id: str, query: ScheduledRunQuery, after: str | None, limit: int
    ) -> list[tuple[str, bool]]:
        """Ids of the scheduled runs that a query means, those past `after`, in the order of ids; and whether each is declared."""
        rows = await self._look_ups.fetch(
            "list_scheduled_run_ids", tenant_id, *_scheduled_arguments(query), after or _NO_ID, limit
        )
        return [(row[0], row[1]) for row in rows]

    async def fetch_scheduled_run(self, tenant_id: str, scheduled_run_id: str) -> ScheduledRunSummary | None:
        """One scheduled run; it is there once its creation has been answered."""
        rows = await self._look_ups.fetch("fetch_scheduled_run", tenant_id, scheduled_run_id)
        return ScheduledRunSummary._make(rows[0]) if rows else None


def _cron_arguments(query: CronQuery) -> tuple[object, ...]:
    return (query.workflow_id, query.workflow_name, query.name, _contained(query.metadata))


def _scheduled_arguments(query: ScheduledRunQuery) -> tuple[object, ...]:
    return (
        query.workflow_id,
        query.parent_run_id,
        query.parent_task_run_id,
        _contained(query.metadata),
        query.run_states if query.has_states else None,
        query.with_waiting,
        query.with_failed,
    )


def _contained(items: tuple[tuple[str, str], ...]) -> list[str] | None:
    """JSON objects of which one must be contained in the metadata, so that an index finds it; None for any metadata."""
    if not items:
        return None
    ways = [
        [(key, value) for value in (_values(text) if number < _EXACT_ITEMS else (text,))]
        for number, (key, text) in enumerate(items)
    ]
    return [json.dumps(dict(way)) for way in product(*ways)]


def _values(text: str) -> tuple[object, ...]:
    """A value that reads as this text: the text itself, and the number or boolean that is written so."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except ValueError:
        return (text,)
    return (text, value) if isinstance(value, bool | int | float) else (text,)


def _no_number(name: str) -> object:
    raise ValueError(name)
