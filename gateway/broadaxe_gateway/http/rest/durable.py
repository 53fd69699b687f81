"""Durable tasks and traces (rest 1.8, 13): what the contract asks of tasks that the engine does not run durably yet.

No task is ever evicted, so a restore has nothing to do; none has a log of durable operations, so it is empty; and there is nothing to branch
off from, which is refused. Spans are not stored.
"""

# ruff: noqa: ARG001 - parameters of the contract are checked, though there is nothing that they could narrow

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.http.auth import Caller
from broadaxe_gateway.http.rest.dependencies import Offset, Read, Tenant
from broadaxe_gateway.http.rest.models.common import Pagination, answer, json_response
from broadaxe_gateway.http.rest.models.runs import BranchedTask, BranchRequest, RestoredTask, SpanList
from broadaxe_gateway.http.rest.tasks import fetch_task

router = APIRouter(prefix="/api/v1/stable")


@router.post("/tasks/{task}/restore", response_model=RestoredTask)
async def restore_task(task: UUID, caller: Caller, reads: Read) -> Response:
    """Restoring a task that is not evicted does nothing, and is answered as one that is."""
    await fetch_task(caller.tenant_id, str(task), reads)
    return await answer(RestoredTask(requeued=True))


@router.get("/tenants/{tenant}/durable-tasks/{task}", response_model=list[object])
async def list_durable_log(
    tenant: Tenant,
    task: UUID,
    reads: Read,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
) -> Response:
    await fetch_task(tenant, str(task), reads)
    return json_response(b"[]")


@router.post("/tenants/{tenant}/durable-tasks/branch", response_model=BranchedTask)
async def branch_durable_task(tenant: Tenant, body: BranchRequest, reads: Read) -> Response:
    row = await fetch_task(tenant, str(body.task_external_id), reads)
    raise Refused(
        Code.UNIMPLEMENTED,
        f"task {row.id} cannot be branched off at node {body.node_id}: durable tasks are not supported yet",
    )


@router.get("/tenants/{tenant}/traces", response_model=SpanList)
async def list_spans(
    tenant: Tenant,
    run_external_id: Annotated[UUID, Query()],
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
) -> Response:
    return await answer(SpanList(pagination=Pagination(), retry_counts=[], rows=[]))
