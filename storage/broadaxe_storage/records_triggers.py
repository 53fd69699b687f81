"""Rows of what starts runs by itself: events, and the filters that decide which runs an event starts. A part of `records`, which re-exports them."""

from typing import NamedTuple


class EventRow(NamedTuple):
    """A pushed event."""

    id: str
    tenant_id: str
    key: str
    scope: str | None
    priority: int | None
    created_at: int
    metadata: str
    payload: bytes
    webhook: str | None = None
    """Name of the incoming webhook that made it."""
    filter_errors: str | None = None
    """JSON text, a list of `{"filterId", "workflowId", "error"}`: filters that could not be evaluated on it, and counted as false."""


class EventKeyRow(NamedTuple):
    """A key that events of a tenant have; nothing happens if it is known."""

    tenant_id: str
    key: str


class FilterRow(NamedTuple):
    """An event filter; replaces the row of the same id, of which tenant, workflow, origin and creation stay as they are."""

    id: str
    tenant_id: str
    workflow_id: str
    scope: str
    expression: str
    payload: str
    """JSON object text: what the runs that it starts are given."""
    is_declarative: bool
    """It came with the workflow's definition."""
    created_at: int
    updated_at: int


class FilterDrop(NamedTuple):
    """A filter goes; nothing happens if there is none of that id."""

    tenant_id: str
    id: str


class FilterClear(NamedTuple):
    """All declarative filters of a workflow go. Others that come in the same flush stay."""

    tenant_id: str
    workflow_id: str
