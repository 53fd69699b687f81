"""`EventsService`: events pushed, log lines kept, stream chunks passed on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import PushEvents, PutLogs, PutStream
from broadaxe_gateway.hub import Hub
from broadaxe_gateway.rpc.convert import events
from broadaxe_gateway.rpc.convert.checks import OFF_LOOP_BYTES, check_uuid
from broadaxe_gateway.rpc.slices import convert_all
from broadaxe_storage.records import EventRow

if TYPE_CHECKING:
    from broadaxe.wire import events_pb2 as wire

FetchEvent = Callable[[str, str], Awaitable[EventRow | None]]


class EventsService:
    """Method names are the wire's; what is missing here is answered UNIMPLEMENTED."""

    def __init__(self, hub: Hub, fetch_event: FetchEvent) -> None:
        self._hub = hub
        self._fetch_event = fetch_event

    async def Push(self, tenant_id: str, request: "wire.PushEventRequest") -> "wire.Event":  # noqa: N802 - wire name
        if len(request.payload) > OFF_LOOP_BYTES:
            event = await asyncio.to_thread(events.new_event, request)
        else:
            event = events.new_event(request)
        pushed = await self._hub.ask(PushEvents, tenant_id, (event,))
        return events.pushed_events(tenant_id, (request,), pushed)[0]

    async def BulkPush(self, tenant_id: str, request: "wire.BulkPushEventRequest") -> "wire.Events":  # noqa: N802 - wire name
        events.check_bulk(len(request.events))
        new = await convert_all(events.new_events, request.ByteSize(), request.events)
        pushed = await self._hub.ask(PushEvents, tenant_id, new)
        return events.events(events.pushed_events(tenant_id, request.events, pushed))

    async def ReplaySingleEvent(self, tenant_id: str, request: "wire.ReplayEventRequest") -> "wire.Event":  # noqa: N802 - wire name
        """Push what an event said once more, as a new event: what listens to it now is started."""
        event_id = check_uuid(request.event_id, "event_id")
        row = await self._fetch_event(tenant_id, event_id)
        if row is None:
            raise Refused(Code.NOT_FOUND, f"event {event_id} is not known")
        again = events.event_again(row)
        pushed = await self._hub.ask(PushEvents, tenant_id, (events.new_event_of(row),))
        return events.pushed_events(tenant_id, (again,), pushed)[0]

    async def PutLog(self, tenant_id: str, request: "wire.PutLogRequest") -> "wire.PutLogResponse":  # noqa: N802 - wire name
        await self._hub.ask(PutLogs, tenant_id, (events.put_log(request),))
        return events.log_put()

    async def PutStreamEvent(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.PutStreamEventRequest"
    ) -> "wire.PutStreamEventResponse":
        await self._hub.ask(PutStream, tenant_id, (events.put_chunk(request),))
        return events.chunk_put()
