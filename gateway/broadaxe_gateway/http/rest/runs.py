"""Runs: list, read, trigger (rest 1). Reads the record; triggers through the engine."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError

from broadaxe.wire.v1.shared import trigger_pb2
from broadaxe_actors.messages import NewRun, TriggerRuns
from broadaxe_gateway.http.auth import Caller, InTenant
from broadaxe_gateway.http.errors import RequestRefused, problems_text
from broadaxe_gateway.http.rest.dependencies import (
    Engine,
    KnownVersions,
    Offset,
    Read,
    Tenant,
    texts,
    unknown,
)
from broadaxe_gateway.http.rest.listing import run_query
from broadaxe_gateway.http.rest.models.common import (
    Pagination,
    answer,
    json_response,
    made,
    microseconds,
    run_pages,
)
from broadaxe_gateway.http.rest.models.runs import (
    DagChildren,
    DagChildrenList,
    DisplayNameList,
    MetadataOperator,
    RunCount,
    RunningFilter,
    TaskEventList,
    TaskStatus,
    TaskSummary,
    TaskSummaryList,
    TaskTiming,
    TaskTimingList,
    TriggerRequest,
    WorkflowRunDetails,
)
from broadaxe_gateway.http.rest.present_events import task_events, timing
from broadaxe_gateway.http.rest.present_runs import (
    Group,
    add_payloads,
    group,
    only_id,
    payload_bytes,
    run_details,
    run_display_name,
    run_summary,
    status_of,
    task_summary,
    with_run,
)
from broadaxe_gateway.http.rest.reads import Reads
from broadaxe_gateway.http.rest.versions import Version, Versions
from broadaxe_gateway.rpc.convert.checks import OFF_LOOP_BYTES, check_text
from broadaxe_gateway.rpc.convert.runs import new_run
from broadaxe_storage.summaries import RunQuery, RunSummary

MAX_ROWS = 10_000
MAX_ROWS_WITH_PAYLOADS = 1_000
MAX_TIMINGS = 10_000
"""Task runs that one answer of timings holds, the nearest first."""

router = APIRouter(prefix="/api/v1/stable")

Times = Annotated[datetime, Query()]
Statuses = Annotated[list[TaskStatus] | None, Query()]
Ids = Annotated[list[UUID] | None, Query()]
Texts = Annotated[list[str] | None, Query()]


# ---------------------------------------------------------------- lists


async def _asked(
    since: Times,
    only_tasks: Annotated[bool, Query()],
    until: datetime | None = None,
    statuses: Statuses = None,
    running_filter: RunningFilter = RunningFilter.ALL,
    workflow_ids: Ids = None,
    worker_id: UUID | None = None,
    additional_metadata: Texts = None,
    additional_metadata_operator: MetadataOperator = MetadataOperator.OR,
    parent_task_external_id: UUID | None = None,
    triggering_event_external_id: UUID | None = None,
    idempotency_keys: Texts = None,
) -> RunQuery:
    """What the listing and its count take."""
    return run_query(since, until, statuses, running_filter, workflow_ids, additional_metadata)._replace(
        only_tasks=only_tasks,
        worker_id=str(worker_id) if worker_id and only_tasks else None,
        needs_all_metadata=additional_metadata_operator is MetadataOperator.AND,
        parent_task_run_id=str(parent_task_external_id)
        if parent_task_external_id and not only_tasks
        else None,
        triggering_event_id=str(triggering_event_external_id) if triggering_event_external_id else None,
        idempotency_keys=tuple(check_text(key, "idempotency_keys") for key in idempotency_keys or ()),
    )


Asked = Annotated[RunQuery, Depends(_asked)]


@router.get("/tenants/{tenant}/workflow-runs", response_model=TaskSummaryList)
async def list_runs(
    tenant: Tenant,
    reads: Read,
    versions: KnownVersions,
    query: Asked,
    include_payloads: bool = False,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS)] = 50,
    offset: Offset = 0,
) -> Response:
    if include_payloads and limit > MAX_ROWS_WITH_PAYLOADS:
        raise RequestRefused(
            HTTPStatus.BAD_REQUEST,
            f"limit is {limit}, expected at most {MAX_ROWS_WITH_PAYLOADS} with include_payloads",
        )
    rows, total = await asyncio.gather(
        reads.list_runs(tenant, query, limit=limit, offset=offset, has_payloads=include_payloads),
        reads.count_runs(tenant, query),
    )
    pages = run_pages(offset, limit, total)
    if query.only_tasks:
        known = await versions.find_all(tenant, (row.workflow_version_id for row in rows))
        return await made(
            lambda: TaskSummaryList(
                pagination=pages, rows=_task_summaries(rows, known, tenant, has_payloads=include_payloads)
            ),
            len(rows),
            payload_bytes(rows),
        )
    groups = await _groups(tenant, rows, reads, versions, has_payloads=include_payloads)
    shown = [row for found in groups for row in (found.run, *found.tasks)]
    return await made(
        lambda: TaskSummaryList(
            pagination=pages,
            rows=[run_summary(found, tenant, has_payloads=include_payloads) for found in groups],
        ),
        len(shown),
        payload_bytes(shown),
    )


def _task_summaries(
    rows: Sequence[RunSummary], known: Mapping[str, Version], tenant_id: str, *, has_payloads: bool
) -> list[TaskSummary]:
    summaries = [task_summary(row, known.get(row.workflow_version_id), tenant_id) for row in rows]
    if has_payloads:
        for row, summary in zip(rows, summaries, strict=True):
            add_payloads(summary, row)
    return summaries


@router.get("/tenants/{tenant}/workflow-runs/count", response_model=RunCount)
async def count_runs(tenant: Tenant, reads: Read, query: Asked) -> Response:
    """How many rows such a listing has; many are not counted to the end, as in its pages."""
    return await answer(RunCount(count=await reads.count_runs(tenant, query)))


@router.get("/tenants/{tenant}/workflow-runs/external-ids", response_model=list[str])
async def list_run_ids(
    tenant: Tenant,
    reads: Read,
    since: Times,
    until: datetime | None = None,
    statuses: Statuses = None,
    additional_metadata: Texts = None,
    workflow_ids: Ids = None,
    running_filter: RunningFilter = RunningFilter.ALL,
) -> Response:
    query = run_query(since, until, statuses, running_filter, workflow_ids, additional_metadata)
    # Of this listing alone the beginning does not belong to it.
    ids = await reads.list_run_ids(tenant, query._replace(since=microseconds(since) + 1))
    return json_response(json.dumps(ids, separators=(",", ":")).encode())


@router.get("/tenants/{tenant}/workflow-runs/display-names", response_model=DisplayNameList)
async def list_display_names(
    tenant: Tenant, reads: Read, versions: KnownVersions, external_ids: Annotated[list[UUID], Query()]
) -> Response:
    ids = texts(external_ids)
    by_id = {row.id: row for row in await reads.fetch_rows(tenant, ids)}
    rows = [by_id[run_id] for run_id in ids if run_id in by_id]
    known = await versions.find_all(tenant, (row.workflow_version_id for row in rows))
    names = [run_display_name(row, known.get(row.workflow_version_id)) for row in rows]
    return await answer(DisplayNameList(pagination=Pagination(current_page=1, num_pages=1), rows=names))


@router.get("/dags/tasks", response_model=DagChildrenList)
async def list_dag_tasks(
    caller: InTenant,
    reads: Read,
    versions: KnownVersions,
    dag_ids: Annotated[list[UUID], Query()],
) -> Response:
    """The tasks of runs of several tasks; what is no such run is left out."""
    if len(dag_ids) > MAX_ROWS_WITH_PAYLOADS:
        raise RequestRefused(
            HTTPStatus.BAD_REQUEST,
            f"dag_ids names {len(dag_ids):,} runs, expected at most {MAX_ROWS_WITH_PAYLOADS:,}",
        )
    rows = await reads.fetch_rows(caller.tenant_id, texts(dag_ids))
    known = await versions.find_all(caller.tenant_id, (row.workflow_version_id for row in rows))
    by_run: dict[str, list[RunSummary]] = {}
    for row in rows:
        by_run.setdefault(row.run_id, []).append(row)
    groups = [group(run_id, by_run.get(run_id, ()), known) for run_id in texts(dag_ids)]
    found = [one for one in groups if one is not None and one.is_several]
    return await made(
        lambda: DagChildrenList(
            [
                DagChildren(
                    dag_id=one.run.id,
                    children=[
                        task_summary(with_run(task, one.run), one.version, caller.tenant_id)
                        for task in one.tasks
                    ],
                )
                for one in found
            ]
        ),
        sum(len(one.tasks) for one in found),
    )


# ---------------------------------------------------------------- trigger


@router.post(
    "/tenants/{tenant}/workflow-runs/trigger",
    response_model=WorkflowRunDetails,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": TriggerRequest.model_json_schema()}},
        }
    },
)
async def trigger_run(
    tenant: Tenant, request: Request, engine: Engine, reads: Read, versions: KnownVersions
) -> Response:
    body = await request.body()
    run_id = engine.new_id()
    if len(body) > OFF_LOOP_BYTES:
        run, is_brief = await asyncio.to_thread(_new_run, body, run_id)
    else:
        run, is_brief = _new_run(body, run_id)
    (created,) = await engine.ask(TriggerRuns, tenant, (run,))
    if is_brief:
        return await answer(only_id(created, tenant))
    return await _details(tenant, created, reads, versions)


def _new_run(body: bytes, run_id: str) -> tuple[NewRun, bool]:
    """The run that a body asks for, and whether its id alone is wanted. Raises `RequestRefused` or `Refused`."""
    try:
        given = TriggerRequest.model_validate_json(body)
    except ValidationError as error:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, problems_text(error.errors())) from None
    return new_run(
        trigger_pb2.TriggerWorkflowRequest(
            name=given.workflow_name,
            input=json.dumps(given.input, ensure_ascii=False),
            additional_metadata=None
            if given.additional_metadata is None
            else json.dumps(given.additional_metadata, ensure_ascii=False),
            priority=given.priority,
        ),
        run_id,
    ), given.return_only_id


# ---------------------------------------------------------------- one run


@router.get("/workflow-runs/{run}", response_model=WorkflowRunDetails)
async def get_run(run: UUID, caller: Caller, reads: Read, versions: KnownVersions) -> Response:
    return await _details(caller.tenant_id, str(run), reads, versions)


@router.get("/workflow-runs/{run}/status", response_model=TaskStatus)
async def get_run_status(run: UUID, caller: Caller, reads: Read, versions: KnownVersions) -> Response:
    found = await fetch_group(caller.tenant_id, str(run), reads, versions)
    return json_response(f'"{status_of(found.run.state)}"'.encode())


@router.get("/workflow-runs/{run}/task-events", response_model=TaskEventList)
async def list_run_events(run: UUID, caller: Caller, reads: Read, versions: KnownVersions) -> Response:
    found = await fetch_group(caller.tenant_id, str(run), reads, versions)
    rows = await reads.fetch_timeline(caller.tenant_id, [task.id for task in found.tasks])
    return await made(
        lambda: TaskEventList(
            pagination=Pagination(), rows=task_events(rows, found.tasks, found.version, has_output=True)
        ),
        len(rows),
        payload_bytes(found.tasks),
    )


@router.get("/workflow-runs/{run}/task-timings", response_model=TaskTimingList)
async def list_run_timings(
    run: UUID,
    caller: Caller,
    reads: Read,
    versions: KnownVersions,
    depth: Annotated[int, Query(ge=0, le=10)] = 0,
) -> Response:
    """Tasks of the run, and those of the runs that they spawned down to `depth`, each below its parent."""
    tenant = caller.tenant_id
    root = await fetch_group(tenant, str(run), reads, versions)
    spawned: dict[str, list[Group]] = {}
    level, left = [root], MAX_TIMINGS - len(root.tasks)
    for _ in range(depth):
        parents = [task.id for found in level for task in found.tasks]
        if not parents or left <= 0:
            break
        runs = await reads.list_children(tenant, parents, left)
        level = await _groups(tenant, runs, reads, versions, has_payloads=False)
        left -= sum(len(found.tasks) for found in level)
        for found in level:
            spawned.setdefault(found.run.parent_task_run_id or "", []).append(found)
    return await made(
        lambda: TaskTimingList(pagination=Pagination(), rows=_depth_first(root, spawned, tenant)),
        MAX_TIMINGS - left,
    )


def _depth_first(root: Group, spawned: Mapping[str, Sequence[Group]], tenant_id: str) -> list[TaskTiming]:
    """The tasks of a run, each followed by those of the runs that it spawned."""
    rows = []
    waiting = [(root, task, 0) for task in reversed(root.tasks)]
    while waiting:
        found, task, depth = waiting.pop()
        rows.append(timing(found, task, depth, tenant_id))
        waiting += [
            (child, below, depth + 1)
            for child in reversed(spawned.get(task.id, ()))
            for below in reversed(child.tasks)
        ]
    return rows


async def _groups(
    tenant_id: str, runs: Sequence[RunSummary], reads: Reads, versions: Versions, *, has_payloads: bool
) -> list[Group]:
    """Runs with their tasks, in order."""
    several = [row.id for row in runs if row.is_run_of_several]
    tasks: dict[str, list[RunSummary]] = {}
    if several:
        for task in await reads.list_tasks_of(tenant_id, several, has_payloads=has_payloads):
            tasks.setdefault(task.run_id, []).append(task)
    known = await versions.find_all(tenant_id, (row.workflow_version_id for row in runs))
    found = (group(row.id, (row, *tasks.get(row.id, ())), known) for row in runs)
    return [one for one in found if one is not None]


async def _details(tenant_id: str, run_id: str, reads: Reads, versions: Versions) -> Response:
    found = await fetch_group(tenant_id, run_id, reads, versions)
    rows = await reads.fetch_timeline(tenant_id, [task.id for task in found.tasks])
    return await made(
        lambda: run_details(found, task_events(rows, found.tasks, found.version, has_output=True), tenant_id),
        len(rows) + len(found.tasks),
        payload_bytes([found.run, *found.tasks]),
    )


async def fetch_group(tenant_id: str, run_id: str, reads: Reads, versions: Versions) -> Group:
    """A run with its tasks. Raises `Refused` (NOT_FOUND) for what is no run's id."""
    rows = await reads.fetch_rows(tenant_id, (run_id,))
    known = await versions.find_all(tenant_id, (row.workflow_version_id for row in rows))
    found = group(run_id, rows, known)
    if found is None:
        raise unknown("run", run_id)
    return found
