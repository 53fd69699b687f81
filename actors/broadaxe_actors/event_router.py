"""`EventRouter`: which workflows an event starts. One per tenant.

It knows the event keys that the latest version of each workflow names. Event and runs are recorded together by `RunTracker`, so that a
crash leaves both or neither. Exact keys for now; wildcards, filters and waits come with the events issue. May touch the runtime.
"""

from typing import Any

from broadaxe_actors.creation import EventStart
from broadaxe_actors.messages import PushEvents
from broadaxe_actors.runtime import Actor, Handle
from broadaxe_storage.records import EventRow


class EventRouter(Actor):
    """See the module."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__()
        self._tenant_id = tenant_id
        self._tracker: Handle[Any] | None = None
        self._by_key: dict[str, dict[str, None]] = {}
        self._by_workflow: dict[str, tuple[str, ...]] = {}

    def connect(self, tracker: "Handle[Any]") -> None:
        """Who creates the runs."""
        self._tracker = tracker

    def set_triggers(self, workflow: str, keys: tuple[str, ...]) -> None:
        """The event keys of a workflow's latest version, in place of those before."""
        for key in self._by_workflow.pop(workflow, ()):
            workflows = self._by_key[key]
            workflows.pop(workflow, None)
            if not workflows:
                del self._by_key[key]
        if keys:
            self._by_workflow[workflow] = tuple(dict.fromkeys(keys))
            for key in self._by_workflow[workflow]:
                self._by_key.setdefault(key, {})[workflow] = None

    def push(self, gateway: "Handle[Any]", message: PushEvents) -> None:
        """Events from outside: to be stored, with the runs that they start."""
        now = self.clock.now()
        rows = tuple(
            EventRow(
                self.rng.uuid7(now),
                self._tenant_id,
                event.key,
                event.scope,
                event.priority,
                now,
                event.metadata,
                event.payload,
            )
            for event in message.events
        )
        starts = tuple(
            (index, workflow) for index, row in enumerate(rows) for workflow in self._by_key.get(row.key, ())
        )
        assert self._tracker is not None
        self._tracker.start_from_events.send(gateway, message, EventStart(rows, starts))
