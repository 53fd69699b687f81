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
    """Store events and start the runs of workflows that name their keys. Reply: `EventsPushed`."""

    request_id: int
    tenant_id: str
    events: tuple[NewEvent, ...]


class EventsPushed(NamedTuple):
    event_ids: tuple[str, ...]
    created_at: int
