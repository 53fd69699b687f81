"""Log lines of a task or of a tenant, and how many there were when (rest 2). Reads the record."""

import time
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response

from broadaxe_gateway.http.auth import Caller
from broadaxe_gateway.http.rest.dependencies import (
    Attempt,
    KnownVersions,
    Read,
    Tenant,
    optional_us,
    texts,
)
from broadaxe_gateway.http.rest.models.common import EMPTY, Pagination, made, raw_object, time_text
from broadaxe_gateway.http.rest.models.logs import Direction, LogLevel, LogLine, LogLineList
from broadaxe_gateway.http.rest.models.metrics import LogsPointMetric, LogsPointMetrics
from broadaxe_gateway.http.rest.present_runs import display_name
from broadaxe_gateway.http.rest.reads import Reads
from broadaxe_gateway.http.rest.stretches import Stretches
from broadaxe_gateway.http.rest.tasks import fetch_task
from broadaxe_gateway.http.rest.versions import Versions
from broadaxe_gateway.rpc.convert.checks import check_text
from broadaxe_storage.records import LogRow
from broadaxe_storage.summaries import LogQuery

MAX_LINES = 10_000
MAX_WORKFLOWS = 10_000
"""Searched for steps."""

router = APIRouter(prefix="/api/v1/stable")

Ids = Annotated[list[UUID] | None, Query()]


async def _asked(
    limit: Annotated[int, Query(ge=1, le=MAX_LINES)] = 50,
    since: datetime | None = None,
    until: datetime | None = None,
    search: str = "",
    levels: Annotated[list[LogLevel] | None, Query()] = None,
    order_by_direction: Direction = Direction.ASC,
    attempt: Attempt = None,
) -> LogQuery:
    """What both listings take."""
    return LogQuery(
        since=optional_us(since),
        until=optional_us(until),
        search=check_text(search, "search"),
        levels=tuple(levels or ()),
        attempt=None if attempt is None else attempt - 1,
        is_descending=order_by_direction is Direction.DESC,
        limit=limit,
    )


Asked = Annotated[LogQuery, Depends(_asked)]


@router.get("/tasks/{task}/logs", response_model=LogLineList)
async def list_task_logs(
    task: UUID,
    caller: Caller,
    reads: Read,
    versions: KnownVersions,
    asked: Asked,
) -> Response:
    row = await fetch_task(caller.tenant_id, str(task), reads)
    return await _lines(caller.tenant_id, asked._replace(task_run_ids=(row.id,)), reads, versions)


@router.get("/tenants/{tenant}/logs", response_model=LogLineList)
async def list_tenant_logs(
    tenant: Tenant,
    reads: Read,
    versions: KnownVersions,
    asked: Asked,
    task_external_ids: Annotated[list[UUID] | None, Query(alias="taskExternalIds")] = None,
    workflow_ids: Ids = None,
    step_ids: Ids = None,
) -> Response:
    query = asked._replace(
        task_run_ids=texts(task_external_ids),
        workflow_ids=texts(workflow_ids),
        steps=await _steps(tenant, texts(step_ids), reads, versions) if step_ids else None,
    )
    return await _lines(tenant, query, reads, versions)


@router.get("/tenants/{tenant}/log-point-metrics", response_model=LogsPointMetrics)
async def get_log_point_metrics(
    tenant: Tenant,
    reads: Read,
    versions: KnownVersions,
    since: datetime | None = None,
    until: datetime | None = None,
    search: str = "",
    levels: Annotated[list[LogLevel] | None, Query()] = None,
    task_external_ids: Annotated[list[UUID] | None, Query(alias="taskExternalIds")] = None,
    workflow_ids: Ids = None,
    step_ids: Ids = None,
) -> Response:
    """How many lines of each level were logged, by stretches of time; both ends of the range belong to it."""
    stretches = Stretches(since, until, time.time_ns() // 1000)
    query = LogQuery(
        task_run_ids=texts(task_external_ids),
        since=stretches.since - 1,
        until=stretches.until + 1,
        search=check_text(search, "search"),
        levels=tuple(levels or ()),
        workflow_ids=texts(workflow_ids),
        steps=await _steps(tenant, texts(step_ids), reads, versions) if step_ids else None,
    )
    counts: dict[tuple[int, str], int] = {}
    for begun, level, count in await reads.count_logs(tenant, query, stretches.seconds):
        counts[begun, level] = count
    points = stretches.beginnings
    return await made(
        lambda: LogsPointMetrics(
            results=[
                LogsPointMetric(
                    time=time_text(at),
                    **{level.value: counts.get((at, level.value), 0) for level in LogLevel},
                )
                for at in points
            ]
        ),
        len(points),
    )


async def _steps(
    tenant_id: str, step_ids: tuple[str, ...], reads: Reads, versions: Versions
) -> tuple[tuple[str, int], ...]:
    """Where steps stand. An id says nothing of its version, so only steps of the newest versions are found."""
    rows = await reads.list_workflows(tenant_id, limit=MAX_WORKFLOWS)
    wanted = set(step_ids)
    return tuple(
        (row.id, index)
        for row in rows
        for index in range(len(versions.keep(row).tasks))
        if versions.keep(row).step_id(index) in wanted
    )


async def _lines(tenant_id: str, query: LogQuery, reads: Reads, versions: Versions) -> Response:
    lines = await reads.list_logs(tenant_id, query)
    names = await _display_names(tenant_id, {line.task_run_id for line in lines}, reads, versions)
    pages = Pagination(current_page=0, next_page=0, num_pages=0)
    return await made(
        lambda: LogLineList(
            pagination=pages, rows=[_log_line(line, names.get(line.task_run_id)) for line in lines]
        ),
        len(lines),
        sum(len(line.message) for line in lines),
    )


async def _display_names(
    tenant_id: str, task_ids: set[str], reads: Reads, versions: Versions
) -> dict[str, str]:
    if not task_ids:
        return {}
    rows = await reads.fetch_rows(tenant_id, tuple(task_ids))
    known = await versions.find_all(tenant_id, (row.workflow_version_id for row in rows))
    return {row.id: display_name(row, known.get(row.workflow_version_id)) for row in rows}


def _log_line(line: LogRow, name: str | None) -> LogLine:
    return LogLine(
        created_at=time_text(line.created_at),
        message=line.message.decode(errors="replace"),
        metadata=raw_object(line.metadata.encode()) if line.metadata else EMPTY,
        task_external_id=line.task_run_id,
        task_display_name=name,
        retry_count=line.attempt,
        attempt=line.attempt + 1,
        level=LogLevel(line.level) if line.level else None,
    )
