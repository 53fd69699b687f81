"""Events: list them with what they started, read one, and the keys that there are (rest 4). Reads the record; events come over gRPC and webhooks."""

import time
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from broadaxe_gateway import selection
from broadaxe_gateway.http.auth import Caller
from broadaxe_gateway.http.rest import present_pushed as present
from broadaxe_gateway.http.rest.dependencies import Offset, Read, Tenant, optional_us, texts, unknown
from broadaxe_gateway.http.rest.models.common import answer, made, microseconds
from broadaxe_gateway.http.rest.models.events import Event, EventData, EventKeyList, EventList, OlderEvent
from broadaxe_gateway.http.rest.models.runs import TaskStatus
from broadaxe_gateway.http.rest.reads import Reads
from broadaxe_gateway.rpc.convert.checks import check_text
from broadaxe_storage.records import EventRow
from broadaxe_storage.summaries import EventQuery

MAX_LIMIT = 1_000
DEFAULT_SPAN_US = 24 * 3_600_000_000

router = APIRouter(prefix="/api/v1")

Texts = Annotated[list[str] | None, Query()]


@router.get("/stable/tenants/{tenant}/events", response_model=EventList)
async def list_events(
    tenant: Tenant,
    reads: Read,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
    keys: Texts = None,
    since: datetime | None = None,
    until: datetime | None = None,
    workflow_ids: Annotated[list[UUID] | None, Query(alias="workflowIds")] = None,
    workflow_run_statuses: Annotated[list[TaskStatus] | None, Query(alias="workflowRunStatuses")] = None,
    event_ids: Annotated[list[UUID] | None, Query(alias="eventIds")] = None,
    additional_metadata: Annotated[list[str] | None, Query(alias="additionalMetadata")] = None,
    scopes: Texts = None,
) -> Response:
    """Newest first; of the last 24 hours if `since` is not given. `additionalMetadata` are `key:value` texts, all of which must be met."""
    query = EventQuery(
        since=time.time_ns() // 1000 - DEFAULT_SPAN_US if since is None else microseconds(since),
        until=optional_us(until),
        keys=_checked(keys, "keys"),
        scopes=_checked(scopes, "scopes"),
        ids=texts(event_ids),
        metadata=selection.metadata(additional_metadata or (), "additionalMetadata"),
        workflow_ids=texts(workflow_ids),
        states=selection.states(workflow_run_statuses or ()),
    )
    rows = await reads.list_events(tenant, query, limit=limit, offset=offset)
    pages = present.event_pages(offset, limit, await reads.count_events(tenant, query))
    started = present.by_event(await reads.list_runs_of_events(tenant, rows))
    return await made(
        lambda: EventList(
            pagination=pages, rows=[present.event(row, started.get(row.id, ())) for row in rows]
        ),
        len(rows),
        sum(len(row.payload) for row in rows),
    )


@router.get("/stable/tenants/{tenant}/events/keys", response_model=EventKeyList)
async def list_event_keys(tenant: Tenant, reads: Read) -> Response:
    """By name, each once; at most 10,000."""
    keys = await reads.list_event_keys(tenant)
    return await made(lambda: EventKeyList(rows=keys), len(keys) // 100)


@router.get("/stable/tenants/{tenant}/events/{event}", response_model=Event)
async def get_event(tenant: Tenant, reads: Read, event: UUID) -> Response:
    """With its payload, and what it started."""
    row = await _event(reads, tenant, event)
    return await answer(present.event(row, await reads.list_runs_of_events(tenant, [row])))


@router.get("/events/{event}", response_model=OlderEvent)
async def get_older_event(caller: Caller, reads: Read, event: UUID) -> Response:
    """Without its payload."""
    row = await _event(reads, caller.tenant_id, event)
    return await answer(present.older_event(row, await reads.list_runs_of_events(caller.tenant_id, [row])))


@router.get("/events/{event}/data", response_model=EventData)
async def get_event_data(caller: Caller, reads: Read, event: UUID) -> Response:
    """The payload as text."""
    row = await _event(reads, caller.tenant_id, event)
    return await answer(present.event_data(row))


@router.get("/tenants/{tenant}/events/{event}/data", response_model=EventData)
async def get_event_data_of_tenant(tenant: Tenant, reads: Read, event: UUID) -> Response:
    """The payload as text."""
    row = await _event(reads, tenant, event)
    return await answer(present.event_data(row))


async def _event(reads: Reads, tenant: str, event_id: UUID) -> EventRow:
    row = await reads.fetch_event(tenant, str(event_id))
    if row is None:
        raise unknown("event", event_id)
    return row


def _checked(given: list[str] | None, field: str) -> tuple[str, ...]:
    return tuple(check_text(text, field) for text in given or ())
