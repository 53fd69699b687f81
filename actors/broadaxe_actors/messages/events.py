"""Events from outside. See the package."""

from typing import NamedTuple


class NewEvent(NamedTuple):
    key: str
    payload: bytes
    metadata: str = "{}"
    scope: str | None = None
    priority: int | None = None
    webhook: str | None = None
    """Name of the incoming webhook that made it."""


class PushEvents(NamedTuple):
    """Store events and start the runs of workflows that listen to their keys. Reply: `EventsPushed`."""

    request_id: int
    tenant_id: str
    events: tuple[NewEvent, ...]


class EventsPushed(NamedTuple):
    event_ids: tuple[str, ...]
    created_at: int


class CreateFilter(NamedTuple):
    """Add an event filter to a workflow. Reply, after the commit: its `FilterRow`.

    INVALID_ARGUMENT for an unknown workflow or an expression that does not compile, ALREADY_EXISTS for a filter that is alike in all.
    """

    request_id: int
    tenant_id: str
    workflow_id: str
    scope: str
    expression: str
    payload: str
    """JSON object text, as `event_filters.payload_text` makes it."""


class UpdateFilter(NamedTuple):
    """Change an event filter; None leaves a field as it is. Reply, after the commit: its `FilterRow`, or NOT_FOUND."""

    request_id: int
    tenant_id: str
    filter_id: str
    scope: str | None
    expression: str | None
    payload: str | None


class DeleteFilter(NamedTuple):
    """Reply, after the commit: the `FilterRow` that it was, or NOT_FOUND."""

    request_id: int
    tenant_id: str
    filter_id: str


class EvaluateFilter(NamedTuple):
    """Try the expression of an event filter without an event. Reply: `FilterEvaluated`."""

    request_id: int
    tenant_id: str
    expression: str
    input: str
    payload: str
    metadata: str
    """JSON object texts, these three."""


class FilterEvaluated(NamedTuple):
    value: bool | None
    error: str | None
    """Why there is no value."""
