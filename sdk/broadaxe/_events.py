"""Events: pushing what starts workflows and ends waits, and reading what was pushed. Every method has a form with `aio_` before its name."""

from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from broadaxe._context import current_context
from broadaxe._definition import with_namespace
from broadaxe._errors import InvalidInputError
from broadaxe._rest import in_thread, metadata_items, time_text
from broadaxe._validation import dump
from broadaxe.models import V1Event, V1EventList, V1TaskStatus
from broadaxe.wire import events_pb2

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe


class PushEventOptions(BaseModel):
    """Options of one event; each may be given to `push` as a keyword instead, which wins.

    scope: which filters and scoped waits see it. priority: of the runs that it starts, 1 to 3.
    """

    additional_metadata: Mapping[str, Any] = Field(default_factory=dict)
    namespace: str | None = None
    priority: int | None = None
    scope: str | None = None


class BulkPushEventWithMetadata(BaseModel):
    """One event of a bulk push."""

    key: str
    payload: Mapping[str, Any] = Field(default_factory=dict)
    additional_metadata: Mapping[str, Any] = Field(default_factory=dict)
    priority: int | None = None
    scope: str | None = None


class Event(BaseModel):
    """An event that the engine has stored."""

    event_id: str
    tenant_id: str
    key: str
    payload: str
    """JSON text."""
    timestamp: datetime


Events = list[Event]
Requests = list[events_pb2.PushEventRequest]
"""Under names of their own: the client below has a method `list`."""


class EventClient:
    """Pushes events, and reads those that were pushed, with what they started."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def push(
        self,
        event_key: str,
        payload: Mapping[str, Any] | BaseModel,
        options: PushEventOptions | None = None,
        *,
        additional_metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
        scope: str | None = None,
    ) -> Event:
        """Store an event, and start what it starts. Returns once it is durable."""
        request = self._single(event_key, payload, options, additional_metadata, priority, scope)
        return _event(
            self._client.transport.submit(self._client.transport.push_events([request])).result()[0]
        )

    async def aio_push(
        self,
        event_key: str,
        payload: Mapping[str, Any] | BaseModel,
        options: PushEventOptions | None = None,
        *,
        additional_metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
        scope: str | None = None,
    ) -> Event:
        """As `push`."""
        request = self._single(event_key, payload, options, additional_metadata, priority, scope)
        return _event((await self._client.on_io(self._client.transport.push_events([request])))[0])

    def bulk_push(
        self, events: Sequence[BulkPushEventWithMetadata], options: PushEventOptions | None = None
    ) -> Events:
        """Store many events, in parts of up to 1,000; each part is stored whole or not at all."""
        requests = self._bulk(events, options)
        if not requests:
            return []
        stored = self._client.transport.submit(self._client.transport.push_events(requests)).result()
        return [_event(event) for event in stored]

    async def aio_bulk_push(
        self, events: Sequence[BulkPushEventWithMetadata], options: PushEventOptions | None = None
    ) -> Events:
        """As `bulk_push`."""
        requests = self._bulk(events, options)
        if not requests:
            return []
        return [
            _event(event) for event in await self._client.on_io(self._client.transport.push_events(requests))
        ]

    def replay(self, event_id: str) -> Event:
        """Push what an event said once more, as a new event: what listens to it now is started. Raises `NotFoundError`."""
        return _event(self._client.transport.submit(self._replay(event_id)).result())

    async def aio_replay(self, event_id: str) -> Event:
        """As `replay`."""
        return _event(await self._client.on_io(self._replay(event_id)))

    def _replay(self, event_id: str) -> Coroutine[Any, Any, events_pb2.Event]:
        return self._client.transport.replay_event(events_pb2.ReplayEventRequest(event_id=event_id))

    def get(self, event_id: str) -> V1Event:
        """An event by its id, with what it started. Raises `NotFoundError`."""
        return self._client.rest.get(V1Event, f"{self._path}/{event_id}")

    aio_get = in_thread(get)

    def keys(self) -> Sequence[str]:
        """Keys that events have had, with their namespaces, by name; at most 10,000."""
        return [str(key) for key in self._client.rest.call("GET", f"{self._path}/keys")["rows"]]

    aio_keys = in_thread(keys)

    def list(
        self,
        offset: int | None = None,
        limit: int | None = None,
        keys: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        workflow_ids: Sequence[str] | None = None,
        workflow_run_statuses: Sequence[V1TaskStatus] | None = None,
        event_ids: Sequence[str] | None = None,
        additional_metadata: Mapping[str, str] | None = None,
        scopes: Sequence[str] | None = None,
    ) -> V1EventList:
        """Events, newest first, a page of 50 if `limit` is not given; of the last 24 hours if `since` is not.

        keys: any of these, with the client's namespace before them. workflow_ids, workflow_run_statuses: those that started such
        runs. additional_metadata: all of it.
        """
        return self._client.rest.get(
            V1EventList,
            self._path,
            {
                "offset": offset,
                "limit": limit,
                "keys": None if keys is None else [self._client.namespaced(key) for key in keys],
                "since": time_text(since),
                "until": time_text(until),
                "workflowIds": None if workflow_ids is None else [*workflow_ids],
                "workflowRunStatuses": None if workflow_run_statuses is None else [*workflow_run_statuses],
                "eventIds": None if event_ids is None else [*event_ids],
                "additionalMetadata": metadata_items(additional_metadata),
                "scopes": None if scopes is None else [*scopes],
            },
        )

    aio_list = in_thread(list)  # noqa: A003 - the method above

    @property
    def _path(self) -> str:
        return f"/api/v1/stable/tenants/{self._client.tenant_id}/events"

    def _single(
        self,
        key: str,
        payload: Mapping[str, Any] | BaseModel,
        options: PushEventOptions | None,
        additional_metadata: Mapping[str, Any] | None,
        priority: int | None,
        scope: str | None,
    ) -> events_pb2.PushEventRequest:
        options = options or PushEventOptions()
        return self._request(
            key,
            payload,
            additional_metadata if additional_metadata is not None else options.additional_metadata,
            priority if priority is not None else options.priority,
            scope if scope is not None else options.scope,
            options.namespace,
        )

    def _bulk(
        self, events: Sequence[BulkPushEventWithMetadata], options: PushEventOptions | None
    ) -> Requests:
        namespace = options.namespace if options is not None else None
        return [
            self._request(
                event.key, event.payload, event.additional_metadata, event.priority, event.scope, namespace
            )
            for event in events
        ]

    def _request(
        self,
        key: str,
        payload: Mapping[str, Any] | BaseModel,
        metadata: Mapping[str, Any],
        priority: int | None,
        scope: str | None,
        namespace: str | None,
    ) -> events_pb2.PushEventRequest:
        if priority is not None and not 1 <= priority <= 3:
            raise InvalidInputError(f"event {key!r}: priority is {priority}, expected 1 to 3")
        context = current_context.get()
        if context is not None:
            metadata = {
                **metadata,
                "hatchet__source_workflow_run_id": context.workflow_run_id,
                "hatchet__source_step_run_id": context.task_run_id,
            }
        request = events_pb2.PushEventRequest(
            key=with_namespace(key, self._client.namespace if namespace is None else namespace),
            payload=dump(payload, f"the payload of event {key!r}", InvalidInputError).decode(),
            additional_metadata=dump(metadata, f"the metadata of event {key!r}", InvalidInputError).decode(),
            priority=priority,
            scope=scope,
        )
        request.event_timestamp.GetCurrentTime()
        return request


def _event(stored: events_pb2.Event) -> Event:
    return Event(
        event_id=stored.event_id,
        tenant_id=stored.tenant_id,
        key=stored.key,
        payload=stored.payload,
        timestamp=stored.event_timestamp.ToDatetime(tzinfo=UTC),
    )
