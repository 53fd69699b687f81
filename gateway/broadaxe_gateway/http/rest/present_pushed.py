"""Events and filters in the shapes of REST (rest 4, 5). Pure."""

import json
from collections.abc import Iterable

from broadaxe_gateway.http.rest.models.common import (
    Pagination,
    Raw,
    meta,
    payloads_hidden,
    raw_object,
    time_text,
)
from broadaxe_gateway.http.rest.models.events import (
    Event,
    EventData,
    EventRunSummary,
    EventTriggeredRun,
    Filter,
    FilterError,
    OlderEvent,
)
from broadaxe_gateway.selection import STATES_OF_STATUS
from broadaxe_storage.records import EventRow, FilterRow
from broadaxe_storage.summaries import StartedRun

_FIELDS = {
    "RUNNING": "running",
    "QUEUED": "queued",
    "COMPLETED": "succeeded",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
}
_FIELD_OF_STATE = {
    int(state): field for status, field in _FIELDS.items() for state in STATES_OF_STATUS[status]
}


def by_event(runs: Iterable[StartedRun]) -> dict[str, list[StartedRun]]:
    """What each event started."""
    found: dict[str, list[StartedRun]] = {}
    for run in runs:
        found.setdefault(run.event_id, []).append(run)
    return found


def event(row: EventRow, runs: Iterable[StartedRun]) -> Event:
    """An event with what it started."""
    started = list(runs)
    errors = json.loads(row.filter_errors) if row.filter_errors else None
    return Event(
        metadata=meta(row.id, row.created_at),
        key=row.key,
        tenant_id=row.tenant_id,
        workflow_run_summary=_run_summary(started),
        additional_metadata=raw_object(row.metadata.encode()),
        payload=raw_object(row.payload),
        scope=row.scope,
        seen_at=time_text(row.created_at),
        triggered_runs=[
            EventTriggeredRun(workflow_run_id=run.run_id, filter_id=run.filter_id) for run in started
        ],
        triggering_webhook_name=row.webhook,
        filter_errors=[FilterError.model_validate(error) for error in errors] if errors else None,
    )


def older_event(row: EventRow, runs: Iterable[StartedRun]) -> OlderEvent:
    """The same in the shape of the generation before."""
    return OlderEvent(
        metadata=meta(row.id, row.created_at),
        key=row.key,
        tenant_id=row.tenant_id,
        workflow_run_summary=_run_summary(runs),
        additional_metadata=raw_object(row.metadata.encode()),
    )


def event_data(row: EventRow) -> EventData:
    """The payload as text, if the caller may see it."""
    return EventData(data="{}" if payloads_hidden.get() or not row.payload else row.payload.decode())


def _run_summary(runs: Iterable[StartedRun]) -> EventRunSummary:
    counts = dict.fromkeys(_FIELDS.values(), 0)
    for run in runs:
        counts[_FIELD_OF_STATE[run.state]] += 1
    return EventRunSummary(**counts)


def event_pages(offset: int, limit: int, total: int) -> Pagination:
    """Pages of events: of few rows the next one is the current one (rest 0.6)."""
    current = offset // limit + 1
    return Pagination(
        current_page=current,
        next_page=current if total < offset + limit else current + 1,
        num_pages=-(-total // limit),
    )


def filter_(row: FilterRow) -> Filter:
    return Filter(
        metadata=meta(row.id, row.created_at, row.updated_at),
        tenant_id=row.tenant_id,
        workflow_id=row.workflow_id,
        scope=row.scope,
        expression=row.expression,
        payload=Raw(row.payload.encode()),
        is_declarative=row.is_declarative,
    )


def filter_pages(offset: int, limit: int, total: int) -> Pagination:
    """Pages of filters are counted from 0."""
    current = offset // limit
    return Pagination(current_page=current, next_page=current + 1, num_pages=-(-total // limit))
