"""Parameters that listings of runs share, to queries (rest 1.2, 1.10). Pure."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from broadaxe_gateway import selection
from broadaxe_gateway.http.rest.dependencies import optional_us, texts
from broadaxe_gateway.http.rest.models.common import microseconds
from broadaxe_gateway.http.rest.models.runs import RunningFilter, TaskFilter, TaskStatus
from broadaxe_storage.records import RunFilter, TaskRunState
from broadaxe_storage.summaries import RunQuery

_ALL_STATES = tuple(int(state) for state in TaskRunState)


def run_query(
    since: datetime,
    until: datetime | None,
    statuses: Sequence[TaskStatus] | None,
    running_filter: RunningFilter,
    workflow_ids: list[UUID] | None,
    additional_metadata: Sequence[str] | None,
) -> RunQuery:
    """The part of a query that the listing of runs and that of their ids have in common. Malformed metadata items are passed over."""
    items = (selection.metadata_item(text) for text in additional_metadata or ())
    return RunQuery(
        since=microseconds(since),
        until=optional_us(until),
        states=states_of(statuses or (), running_filter),
        workflow_ids=texts(workflow_ids),
        metadata=tuple(item for item in items if item is not None),
    )


def states_of(statuses: Sequence[TaskStatus], running_filter: RunningFilter) -> tuple[int, ...]:
    """The states that any of these statuses stands for, with only some of the running ones; empty for all."""
    found = selection.states(statuses)
    if running_filter is RunningFilter.ALL:
        return found
    hidden = (
        {TaskRunState.ASSIGNED, TaskRunState.RUNNING}
        if running_filter is RunningFilter.EVICTED
        else {TaskRunState.EVICTED}
    )
    return tuple(state for state in found or _ALL_STATES if state not in hidden)


def run_filter(given: TaskFilter) -> RunFilter:
    """What a filter of cancel and replay means. Raises `Refused` for a malformed metadata item."""
    return RunFilter(
        since=microseconds(given.since),
        until=optional_us(given.until),
        states=selection.states(given.statuses or ()),
        workflow_ids=texts(given.workflow_ids),
        metadata=selection.metadata(given.additional_metadata or ()),
    )
