"""Event filters: list, create, read, change, delete; and the trial of an expression (rest 5). Lists read the record, the rest is the engine's."""

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response

from broadaxe_actors.event_filters import payload_text
from broadaxe_actors.messages import CreateFilter, DeleteFilter, EvaluateFilter, UpdateFilter
from broadaxe_gateway.http.rest import present_pushed as present
from broadaxe_gateway.http.rest.dependencies import Engine, Offset, Read, Tenant, texts, unknown
from broadaxe_gateway.http.rest.models.common import answer, made
from broadaxe_gateway.http.rest.models.events import (
    CreateFilterRequest,
    ExpressionAnswer,
    ExpressionRequest,
    ExpressionStatus,
    Filter,
    FilterList,
    UpdateFilterRequest,
)
from broadaxe_gateway.rpc.convert.checks import check_object, check_text, check_uuid

MAX_LIMIT = 20_000

router = APIRouter(prefix="/api/v1/stable/tenants/{tenant}")


@router.get("/filters", response_model=FilterList)
async def list_filters(
    tenant: Tenant,
    reads: Read,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = MAX_LIMIT,
    workflow_ids: Annotated[list[UUID] | None, Query(alias="workflowIds")] = None,
    scopes: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """Oldest first; pages are counted from 0."""
    wanted = texts(workflow_ids), tuple(check_text(text, "scopes") for text in scopes or ())
    rows = await reads.list_filters(tenant, *wanted, limit=limit, offset=offset)
    pages = present.filter_pages(offset, limit, await reads.count_filters(tenant, *wanted))
    return await made(
        lambda: FilterList(pagination=pages, rows=[present.filter_(row) for row in rows]), len(rows)
    )


@router.post("/filters", response_model=Filter)
async def create_filter(tenant: Tenant, engine: Engine, body: CreateFilterRequest) -> Response:
    """Add a filter to a workflow. The expression must compile; one that is alike in all is refused."""
    row = await engine.ask(
        CreateFilter,
        tenant,
        check_uuid(body.workflow_id, "workflowId"),
        check_text(body.scope, "scope"),
        check_text(body.expression, "expression"),
        _payload(body.payload or {}),
    )
    return await answer(present.filter_(row))


@router.get("/filters/{filter}", response_model=Filter)
async def get_filter(tenant: Tenant, reads: Read, filter: UUID) -> Response:  # noqa: A002 - the wire's name
    row = await reads.fetch_filter(tenant, str(filter))
    if row is None:
        raise unknown("filter", filter)
    return await answer(present.filter_(row))


@router.patch("/filters/{filter}", response_model=Filter)
async def update_filter(
    tenant: Tenant,
    engine: Engine,
    filter: UUID,  # noqa: A002 - the wire's name
    body: UpdateFilterRequest,
) -> Response:
    """Change what is given."""
    row = await engine.ask(
        UpdateFilter,
        tenant,
        str(filter),
        None if body.scope is None else check_text(body.scope, "scope"),
        None if body.expression is None else check_text(body.expression, "expression"),
        None if body.payload is None else _payload(body.payload),
    )
    return await answer(present.filter_(row))


@router.delete("/filters/{filter}", response_model=Filter)
async def delete_filter(tenant: Tenant, engine: Engine, filter: UUID) -> Response:  # noqa: A002 - the wire's name
    """Runs that it started stay as they are."""
    return await answer(present.filter_(await engine.ask(DeleteFilter, tenant, str(filter))))


@router.post("/cel/debug", response_model=ExpressionAnswer)
async def try_expression(tenant: Tenant, engine: Engine, body: ExpressionRequest) -> Response:
    """What the expression of a filter gives, without an event; what is wrong with it is an answer too."""
    found = await engine.ask(
        EvaluateFilter,
        tenant,
        body.expression,
        json.dumps(body.input),
        json.dumps(body.filter_payload or {}),
        json.dumps(body.additional_metadata or {}),
    )
    if found.error is not None:
        return await answer(ExpressionAnswer(status=ExpressionStatus.ERROR, error=found.error))
    return await answer(ExpressionAnswer(status=ExpressionStatus.SUCCESS, output=found.value))


def _payload(given: dict[str, Any]) -> str:
    return payload_text(check_object(json.dumps(given), "payload"))
