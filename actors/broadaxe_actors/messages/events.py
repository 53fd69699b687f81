"""Events from outside. See the package."""

from typing import NamedTuple


class NewEvent(NamedTuple):
    key: str
    payload: bytes
    metadata: str = "{}"
    scope: str | None = None
    priority: int | None = None


class PushEvents(NamedTuple):
    """Store events and start the runs of workflows that name their keys. Reply: `EventsPushed`."""

    request_id: int
    tenant_id: str
    events: tuple[NewEvent, ...]


class EventsPushed(NamedTuple):
    event_ids: tuple[str, ...]
    created_at: int
