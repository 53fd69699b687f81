"""Tasks: read one and what happened to it, cancel and replay by ids or filter (rest 1.6, 1.7). Mutations go to the engine."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from broadaxe_actors.messages import CancelRuns, ReplayRuns
from broadaxe_gateway import selection
from broadaxe_gateway.http.auth import Caller
from broadaxe_gateway.http.rest.dependencies import (
    Attempt,
    Engine,
    KnownVersions,
    Offset,
    Read,
    ReplayEnabled,
    Tenant,
    unknown,
)
from broadaxe_gateway.http.rest.listing import run_filter
from broadaxe_gateway.http.rest.models.common import Pagination, answer, made, raw_object
from broadaxe_gateway.http.rest.models.runs import (
    SelectedTasks,
    SelectionRequest,
    TaskEventList,
    TaskSummary,
)
from broadaxe_gateway.http.rest.present_events import at_attempt, task_events
from broadaxe_gateway.http.rest.present_runs import (
    Group,
    config_of,
    detailed_task,
    payload_bytes,
)
from broadaxe_gateway.http.rest.reads import Reads
from broadaxe_gateway.http.rest.versions import Versions
from broadaxe_storage.records import RunFilter
from broadaxe_storage.summaries import RunSummary

router = APIRouter(prefix="/api/v1/stable")

MAX_EVENTS = 10_000


@router.get("/tasks/{task}", response_model=TaskSummary)
async def get_task(
    task: UUID,
    caller: Caller,
    reads: Read,
    versions: KnownVersions,
    attempt: Attempt = None,
) -> Response:
    """A task with its plain input, as it is or as an earlier attempt left it."""
    tenant = caller.tenant_id
    found, row = await _with_run(tenant, str(task), reads, versions)
    summary = detailed_task(found, row, tenant)
    summary.input = raw_object(found.run.input)
    summary.num_spawned_children = await reads.count_children(tenant, row.id)
    summary.workflow_config = config_of(found.version)
    if attempt is not None and attempt > row.attempt + 1:
        raise unknown(f"attempt {attempt} of task", row.id)
    if attempt is not None and attempt <= row.attempt:
        at_attempt(summary, attempt - 1, await reads.fetch_timeline(tenant, (row.id,)))
    return await made(lambda: summary, 1, payload_bytes((found.run, row)))


@router.get("/tasks/{task}/task-events", response_model=TaskEventList)
async def list_task_events(
    task: UUID,
    caller: Caller,
    reads: Read,
    versions: KnownVersions,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 50,
) -> Response:
    row = await fetch_task(caller.tenant_id, str(task), reads)
    version = await versions.find(caller.tenant_id, row.workflow_version_id)
    rows = await reads.fetch_timeline(caller.tenant_id, (row.id,))
    events = task_events(rows, (row,), version, has_output=False)
    return await answer(TaskEventList(pagination=Pagination(), rows=events[offset : offset + limit]))


@router.post("/tenants/{tenant}/tasks/cancel", response_model=SelectedTasks)
async def cancel_tasks(tenant: Tenant, body: SelectionRequest, engine: Engine) -> Response:
    ids, wanted = _selected(body)
    acted_on = await engine.ask(CancelRuns, tenant, ids, wanted) if ids or wanted else ()
    return await answer(SelectedTasks(ids=list(ids or acted_on)))


@router.post("/tenants/{tenant}/tasks/replay", response_model=SelectedTasks)
async def replay_tasks(
    tenant: Tenant, body: SelectionRequest, engine: Engine, is_enabled: ReplayEnabled
) -> Response:
    selection.check_replay_enabled(is_enabled=is_enabled)
    ids, wanted = _selected(body)
    replayed = await engine.ask(ReplayRuns, tenant, ids, wanted) if ids or wanted else ()
    return await answer(SelectedTasks(ids=list(replayed)))


def _selected(body: SelectionRequest) -> tuple[tuple[str, ...], RunFilter | None]:
    """Ids or a filter; an empty list of ids means nothing at all. Raises `Refused` for both and for neither."""
    selection.check_choice(
        has_ids=body.external_ids is not None and (bool(body.external_ids) or body.filter is None),
        has_filter=body.filter is not None,
    )
    if body.filter is not None:
        return (), run_filter(body.filter)
    return selection.ids([str(run_id) for run_id in body.external_ids or ()], "externalIds"), None


async def fetch_task(tenant_id: str, task_id: str, reads: Reads) -> RunSummary:
    """A task, of a run of several without what its run has. Raises `Refused` (NOT_FOUND) for what is no task's id."""
    row = next((row for row in await reads.fetch_rows(tenant_id, (task_id,)) if row.id == task_id), None)
    if row is None or row.is_run_of_several:
        raise unknown("task", task_id)
    return row


async def _with_run(
    tenant_id: str, task_id: str, reads: Reads, versions: Versions
) -> tuple[Group, RunSummary]:
    """A task with its run. Raises `Refused` (NOT_FOUND) for what is no task's id."""
    row = run = await fetch_task(tenant_id, task_id, reads)
    if row.run_id != row.id:
        rows = await reads.fetch_rows(tenant_id, (row.run_id,))
        # The run may have ended or begun anew in between.
        run = next((other for other in rows if other.id == row.run_id), row)
        row = next((other for other in rows if other.id == task_id), row)
    version = await versions.find(tenant_id, row.workflow_version_id)
    return Group(run, (row,), version), row
