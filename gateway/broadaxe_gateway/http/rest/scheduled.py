"""Scheduled runs: create, list, get, move, delete, run now, and many at once (rest 7.2). Reads the record; the engine does what changes it."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    DeleteTimers,
    MoveScheduledRuns,
    RunTimer,
    ScheduleRuns,
    TimerProblem,
)
from broadaxe_gateway.http.errors import refusal
from broadaxe_gateway.http.rest.dependencies import (
    Engine,
    EngineLink,
    Offset,
    Read,
    Tenant,
    unknown,
)
from broadaxe_gateway.http.rest.models.common import (
    answer,
    list_pages,
    made,
    meta,
    microseconds,
    raw_object,
    time_or_zero,
    time_text,
)
from broadaxe_gateway.http.rest.models.timers import (
    MAX_BULK,
    BulkDeleteRequest,
    BulkDeleteResponse,
    BulkError,
    BulkUpdateRequest,
    BulkUpdateResponse,
    Direction,
    Method,
    RunCreated,
    ScheduledRun,
    ScheduledRunFilter,
    ScheduledRunList,
    ScheduledRunOrder,
    ScheduledRunStatus,
    ScheduleRunRequest,
    UpdateScheduledRunRequest,
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
from broadaxe_gateway.rpc.convert.checks import check_priority, check_text, refuse
from broadaxe_gateway.selection import STATES_OF_STATUS
from broadaxe_storage.records_timers import TimerKind
from broadaxe_storage.timer_lists import ScheduledRunQuery, ScheduledRunSummary

MAX_DELETED_BY_FILTER = 20_000
"""Scheduled runs that one request deletes by filter."""
STATES: Mapping[ScheduledRunStatus, tuple[int, ...]] = {
    ScheduledRunStatus.QUEUED: STATES_OF_STATUS["QUEUED"],
    ScheduledRunStatus.RUNNING: STATES_OF_STATUS["RUNNING"],
    ScheduledRunStatus.SUCCEEDED: STATES_OF_STATUS["COMPLETED"],
    ScheduledRunStatus.FAILED: STATES_OF_STATUS["FAILED"],
    ScheduledRunStatus.CANCELLED: STATES_OF_STATUS["CANCELLED"],
}
_STATUS_OF_STATE = {state: status for status, states in STATES.items() for state in states}

router = APIRouter(prefix="/api/v1/tenants/{tenant}/workflows")


@router.get("/scheduled", response_model=ScheduledRunList)
async def list_scheduled_runs(
    tenant: Tenant,
    reads: Read,
    offset: Offset = 0,
    limit: Annotated[int, Query(le=MAX_LIMIT)] = DEFAULT_LIMIT,
    workflow_id: Annotated[UUID | None, Query(alias="workflowId")] = None,
    parent_workflow_run_id: Annotated[UUID | None, Query(alias="parentWorkflowRunId")] = None,
    parent_step_run_id: Annotated[UUID | None, Query(alias="parentStepRunId")] = None,
    additional_metadata: Annotated[list[str] | None, Query(alias="additionalMetadata")] = None,
    statuses: Annotated[list[ScheduledRunStatus] | None, Query()] = None,
    order_by_field: Annotated[ScheduledRunOrder, Query(alias="orderByField")] = ScheduledRunOrder.TRIGGER_AT,
    order_by_direction: Annotated[Direction, Query(alias="orderByDirection")] = Direction.DESC,
) -> Response:
    limit = limit if limit > 0 else DEFAULT_LIMIT
    wanted = _query(
        ScheduledRunFilter(
            workflow_id=workflow_id,
            parent_workflow_run_id=parent_workflow_run_id,
            parent_step_run_id=parent_step_run_id,
            additional_metadata=additional_metadata,
        )
    )
    query = wanted._replace(
        has_states=bool(statuses),
        run_states=tuple(state for status in statuses or () for state in STATES.get(status, ())),
        with_waiting=ScheduledRunStatus.SCHEDULED in (statuses or ()),
        with_failed=ScheduledRunStatus.FAILED in (statuses or ()),
        is_by_creation=order_by_field is ScheduledRunOrder.CREATED_AT,
        is_descending=order_by_direction is Direction.DESC,
    )
    rows = await reads.list_scheduled_runs(tenant, query, limit=limit, offset=offset)
    pages = list_pages(offset, limit, await reads.count_scheduled_runs(tenant, query))
    return await made(
        lambda: ScheduledRunList(rows=[_scheduled(row, tenant) for row in rows], pagination=pages),
        len(rows),
        sum(len(row.input) for row in rows),
    )


@router.post("/scheduled/bulk-delete", response_model=BulkDeleteResponse)
async def bulk_delete(tenant: Tenant, body: BulkDeleteRequest, engine: Engine, reads: Read) -> Response:
    """Delete by ids, or by a filter at most 20,000: ask again until nothing is deleted any more."""
    ids = tuple(dict.fromkeys(map(str, body.scheduled_workflow_run_ids or ())))
    if bool(ids) == (body.filter is not None):
        raise refuse("give either scheduledWorkflowRunIds or filter, and not both")
    if ids:
        return await answer(await _delete(engine, tenant, ids))
    assert body.filter is not None
    query = _query(body.filter)
    found = BulkDeleteResponse(deleted_ids=[], errors=[])
    after: str | None = None
    while len(found.deleted_ids) < MAX_DELETED_BY_FILTER:
        page = await reads.list_scheduled_run_ids(tenant, query, after, MAX_BULK)
        if page:
            after = page[-1][0]
            done = await _delete(engine, tenant, tuple(item[0] for item in page))
            found.deleted_ids += done.deleted_ids
            found.errors += done.errors
        if len(page) < MAX_BULK:
            break
    return await answer(found)


async def _delete(engine: EngineLink, tenant: str, ids: tuple[str, ...]) -> BulkDeleteResponse:
    problems = await engine.ask(DeleteTimers, tenant, int(TimerKind.SCHEDULED), ids)
    found = BulkDeleteResponse(deleted_ids=[], errors=[])
    for scheduled_id, problem in zip(ids, problems, strict=True):
        if problem is None:
            found.deleted_ids.append(scheduled_id)
        else:
            found.errors.append(BulkError(id=scheduled_id, error=problem.text))
    return found


@router.post("/scheduled/bulk-update", response_model=BulkUpdateResponse)
async def bulk_update(tenant: Tenant, body: BulkUpdateRequest, engine: Engine) -> Response:
    """Give many other times; of one that comes twice the last counts."""
    found = BulkUpdateResponse(updated_ids=[], errors=[])
    moves = tuple({str(item.id): microseconds(item.trigger_at) for item in body.updates}.items())
    if moves:
        problems = await engine.ask(MoveScheduledRuns, tenant, moves)
        for (scheduled_id, _), problem in zip(moves, problems, strict=True):
            if problem is None:
                found.updated_ids.append(scheduled_id)
            else:
                found.errors.append(BulkError(id=scheduled_id, error=problem.text))
    return await answer(found)


@router.post("/{workflow}/scheduled", response_model=ScheduledRun, openapi_extra=body_of(ScheduleRunRequest))
async def schedule_run(
    tenant: Tenant, workflow: str, request: Request, engine: Engine, reads: Read
) -> Response:
    """A run of the workflow with this name, at a time; one that has passed is due at once."""
    body = await read_body(request, ScheduleRunRequest)
    scheduled = await ask_for_workflow(
        engine,
        ScheduleRuns,
        tenant,
        check_text(workflow, "the name of the workflow"),
        (microseconds(body.trigger_at),),
        input_bytes(body.input),
        metadata_text(body.additional_metadata),
        check_priority(body.priority) if body.priority is not None else None,
    )
    return await _one(tenant, scheduled.ids[0], reads)


@router.get("/scheduled/{scheduled}", response_model=ScheduledRun)
async def get_scheduled_run(tenant: Tenant, scheduled: UUID, reads: Read) -> Response:
    return await _one(tenant, str(scheduled), reads)


@router.patch("/scheduled/{scheduled}", response_model=ScheduledRun)
async def update_scheduled_run(
    tenant: Tenant, scheduled: UUID, body: UpdateScheduledRunRequest, engine: Engine, reads: Read
) -> Response:
    """Give it another time."""
    move = (str(scheduled), microseconds(body.trigger_at))
    (problem,) = await engine.ask(MoveScheduledRuns, tenant, (move,))
    if _is_declared(problem):
        return refusal(HTTPStatus.FORBIDDEN, problem.text)
    if problem is not None:
        raise Refused(Code(problem.code), problem.text)
    return await _one(tenant, str(scheduled), reads)


@router.delete("/scheduled/{scheduled}", status_code=HTTPStatus.NO_CONTENT)
async def delete_scheduled_run(tenant: Tenant, scheduled: UUID, engine: Engine) -> Response:
    """The run that it has made goes on."""
    (problem,) = await engine.ask(DeleteTimers, tenant, int(TimerKind.SCHEDULED), (str(scheduled),))
    if _is_declared(problem):
        # A single APIError here, as the wire document has it.
        return JSONResponse({"description": problem.text}, HTTPStatus.FORBIDDEN)
    if problem is not None:
        raise Refused(Code(problem.code), problem.text)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.post("/scheduled/{scheduled}", response_model=RunCreated)
async def run_scheduled_run(tenant: Tenant, scheduled: UUID, engine: Engine) -> Response:
    """Its run now, in place of its time."""
    run_id = await engine.ask(RunTimer, tenant, int(TimerKind.SCHEDULED), str(scheduled))
    return await answer(RunCreated(external_id=run_id))


def _is_declared(problem: TimerProblem | None) -> bool:
    return problem is not None and problem.code == Code.INVALID_ARGUMENT


def _query(given: ScheduledRunFilter) -> ScheduledRunQuery:
    return ScheduledRunQuery(
        _text(given.workflow_id),
        _text(given.parent_workflow_run_id),
        _text(given.parent_step_run_id),
        metadata_items(given.additional_metadata),
    )


def _text(found: UUID | None) -> str | None:
    return None if found is None else str(found)


async def _one(tenant: str, scheduled_id: str, reads: Reads) -> Response:
    row = await reads.fetch_scheduled_run(tenant, scheduled_id)
    if row is None:
        raise unknown("scheduled run", scheduled_id)
    return await made(lambda: _scheduled(row, tenant), 1, len(row.input))


def _scheduled(row: ScheduledRunSummary, tenant_id: str) -> ScheduledRun:
    status = ScheduledRunStatus.FAILED if row.error is not None else None
    if row.run_state is not None:
        status = _STATUS_OF_STATE[row.run_state]
    is_made = row.run_id is not None and row.run_created_at is not None
    return ScheduledRun(
        metadata=meta(row.id, row.created_at, row.updated_at),
        tenant_id=tenant_id,
        workflow_version_id=row.workflow_version_id,
        workflow_id=row.workflow_id,
        workflow_name=row.workflow_name,
        trigger_at=time_text(row.trigger_at),
        input=raw_object(row.input),
        additional_metadata=raw_object(row.metadata.encode()),
        workflow_run_created_at=time_or_zero(row.run_created_at),
        workflow_run_name=f"{row.workflow_name}-{(row.run_created_at or 0) // 1000}" if is_made else "",
        workflow_run_status=status,
        workflow_run_id=row.run_id,
        method=Method.DEFAULT if row.is_declared else Method.API,
        priority=row.priority,
        error_message=row.error,
    )
