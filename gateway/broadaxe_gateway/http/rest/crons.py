"""Crons: create, list, get, enable and disable, delete, run now (rest 7.1). Reads the record; the engine does what changes it."""

from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import CreateCron, DeleteTimers, EnableCron, RunTimer
from broadaxe_gateway.http.rest.dependencies import (
    Engine,
    Offset,
    Read,
    Tenant,
    unknown,
)
from broadaxe_gateway.http.rest.models.common import answer, list_pages, made, meta, raw_object
from broadaxe_gateway.http.rest.models.timers import (
    CreateCronRequest,
    Cron,
    CronList,
    CronOrder,
    Direction,
    Method,
    RunCreated,
    UpdateCronRequest,
)
from broadaxe_gateway.http.rest.reads import Reads
from broadaxe_gateway.http.rest.timer_parts import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    ask_for_workflow,
    body_of,
    input_bytes,
    metadata_items,
    metadata_text,
    read_body,
)
from broadaxe_gateway.rpc.convert.checks import check_priority, check_text
from broadaxe_gateway.rpc.convert.timers import check_cron, check_cron_name
from broadaxe_storage.records_timers import TimerKind
from broadaxe_storage.timer_lists import CronQuery, CronSummary

router = APIRouter(prefix="/api/v1/tenants/{tenant}/workflows")


@router.get("/crons", response_model=CronList)
async def list_crons(
    tenant: Tenant,
    reads: Read,
    offset: Offset = 0,
    limit: Annotated[int, Query(le=MAX_LIMIT)] = DEFAULT_LIMIT,
    workflow_id: Annotated[UUID | None, Query(alias="workflowId")] = None,
    workflow_name: Annotated[str | None, Query(alias="workflowName")] = None,
    cron_name: Annotated[str | None, Query(alias="cronName")] = None,
    additional_metadata: Annotated[list[str] | None, Query(alias="additionalMetadata")] = None,
    order_by_field: Annotated[CronOrder, Query(alias="orderByField")] = CronOrder.CREATED_AT,
    order_by_direction: Annotated[Direction, Query(alias="orderByDirection")] = Direction.DESC,
) -> Response:
    limit = limit if limit > 0 else DEFAULT_LIMIT
    query = CronQuery(
        str(workflow_id) if workflow_id is not None else None,
        check_text(workflow_name, "workflowName") if workflow_name is not None else None,
        check_text(cron_name, "cronName") if cron_name is not None else None,
        metadata_items(additional_metadata),
        order_by_field is CronOrder.NAME,
        order_by_direction is Direction.DESC,
    )
    rows = await reads.list_crons(tenant, query, limit=limit, offset=offset)
    pages = list_pages(offset, limit, await reads.count_crons(tenant, query))
    return await made(
        lambda: CronList(rows=[_cron(row, tenant) for row in rows], pagination=pages),
        len(rows),
        sum(len(row.input) for row in rows),
    )


@router.post("/{workflow}/crons", response_model=Cron, openapi_extra=body_of(CreateCronRequest))
async def create_cron(
    tenant: Tenant, workflow: str, request: Request, engine: Engine, reads: Read
) -> Response:
    """A new cron of the workflow with this name."""
    body = await read_body(request, CreateCronRequest)
    name = check_cron_name(body.cron_name)
    where = f"cron {name!r} of workflow {check_text(workflow, 'the name of the workflow')!r}"
    cron_id = await ask_for_workflow(
        engine,
        CreateCron,
        tenant,
        workflow,
        name,
        check_cron(body.cron_expression, where),
        input_bytes(body.input),
        metadata_text(body.additional_metadata),
        check_priority(body.priority) if body.priority is not None else None,
    )
    return await _one(tenant, cron_id, reads)


@router.get("/crons/{cron}", response_model=Cron)
async def get_cron(tenant: Tenant, cron: UUID, reads: Read) -> Response:
    return await _one(tenant, str(cron), reads)


@router.patch("/crons/{cron}", status_code=HTTPStatus.NO_CONTENT)
async def update_cron(tenant: Tenant, cron: UUID, body: UpdateCronRequest, engine: Engine) -> Response:
    """Enable or disable a cron; there is nothing else to change."""
    if body.enabled is None:
        raise Refused(Code.INVALID_ARGUMENT, "enabled is missing: true or false, whether the cron ticks")
    await engine.ask(EnableCron, tenant, str(cron), body.enabled)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.delete("/crons/{cron}", status_code=HTTPStatus.NO_CONTENT)
async def delete_cron(tenant: Tenant, cron: UUID, engine: Engine) -> Response:
    """The runs that it has made go on. One that is declared in code comes back with the next version of its workflow that has it."""
    (problem,) = await engine.ask(DeleteTimers, tenant, int(TimerKind.CRON), (str(cron),))
    if problem is not None:
        raise Refused(Code(problem.code), problem.text)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.post("/crons/{cron}", response_model=RunCreated)
async def run_cron(tenant: Tenant, cron: UUID, engine: Engine) -> Response:
    """A run of it now, beside its ticks."""
    run_id = await engine.ask(RunTimer, tenant, int(TimerKind.CRON), str(cron))
    return await answer(RunCreated(external_id=run_id))


async def _one(tenant: str, cron_id: str, reads: Reads) -> Response:
    row = await reads.fetch_cron(tenant, cron_id)
    if row is None:
        raise unknown("cron", cron_id)
    return await made(lambda: _cron(row, tenant), 1, len(row.input))


def _cron(row: CronSummary, tenant_id: str) -> Cron:
    return Cron(
        metadata=meta(row.id, row.created_at, row.updated_at),
        tenant_id=tenant_id,
        workflow_version_id=row.workflow_version_id,
        workflow_id=row.workflow_id,
        workflow_name=row.workflow_name,
        cron=row.expression,
        name=row.name,
        input=raw_object(row.input),
        additional_metadata=raw_object(row.metadata.encode()),
        enabled=row.is_enabled,
        method=Method.DEFAULT if row.is_declared else Method.API,
        priority=row.priority,
        error_message=row.error,
    )
