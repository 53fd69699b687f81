"""Workflows and their versions (rest 6). Reads the record."""

from collections.abc import Mapping
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response

from broadaxe_gateway.http.auth import Caller
from broadaxe_gateway.http.rest.dependencies import KnownVersions, Read, Tenant, unknown
from broadaxe_gateway.http.rest.models.common import Raw, answer, list_pages, made, meta
from broadaxe_gateway.http.rest.models.workflows import (
    ConcurrencySetting,
    CronRef,
    EventRef,
    Workflow,
    WorkflowList,
    WorkflowTriggers,
    WorkflowVersion,
    WorkflowVersionMeta,
)
from broadaxe_gateway.http.rest.present_runs import config_of
from broadaxe_gateway.http.rest.versions import Version
from broadaxe_gateway.rpc.convert.checks import check_text

DEFAULT_LIMIT = 50
MAX_LIMIT = 10_000
_OLDER_NAMES: Mapping[str, str] = {
    "CANCEL_NEWEST": "DROP_NEWEST",
    "CANCEL_QUEUED_EXCEPT_NEWEST": "QUEUE_NEWEST",
    "CANCEL_QUEUED_EXCEPT_OLDEST": "DROP_NEWEST",
}
"""Strategies that the official Python client has no names for, and would fail on, by the nearest that it has. The registration beside
them has their own."""
_STICKY: Mapping[str, Literal["soft", "hard"]] = {"SOFT": "soft", "HARD": "hard"}

router = APIRouter(prefix="/api/v1")


@router.get("/tenants/{tenant}/workflows", response_model=WorkflowList)
async def list_workflows(
    tenant: Tenant,
    reads: Read,
    versions: KnownVersions,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(le=MAX_LIMIT)] = DEFAULT_LIMIT,
    name: str = "",
) -> Response:
    limit = limit if limit > 0 else DEFAULT_LIMIT
    check_text(name, "name")
    rows = await reads.list_workflows(tenant, name, limit=limit, offset=offset)
    total = await reads.count_workflows(tenant, name)
    pages = list_pages(offset, limit, total)
    found = [versions.keep(row) for row in rows]
    return await made(
        lambda: WorkflowList(rows=[_workflow(version, "") for version in found], pagination=pages), len(rows)
    )


@router.get("/workflows/{workflow}", response_model=Workflow)
async def get_workflow(workflow: UUID, caller: Caller, reads: Read, versions: KnownVersions) -> Response:
    row = await reads.fetch_workflow(caller.tenant_id, str(workflow))
    if row is None:
        raise unknown("workflow", workflow)
    found = _workflow(versions.keep(row), caller.tenant_id)
    found.versions = [
        WorkflowVersionMeta(
            metadata=meta(row.id, row.created_at),
            version="",
            order=row.number,
            workflow_id=row.workflow_id,
        )
    ]
    return await answer(found)


@router.get("/workflows/{workflow}/versions", response_model=WorkflowVersion)
async def get_workflow_version(
    workflow: UUID, caller: Caller, reads: Read, versions: KnownVersions, version: UUID | None = None
) -> Response:
    """One version, the latest if none is named."""
    tenant = caller.tenant_id
    if version is None:
        row = await reads.fetch_workflow(tenant, str(workflow))
        found = None if row is None else versions.keep(row)
    else:
        found = await versions.find(tenant, str(version))
    if found is None or found.row.workflow_id != str(workflow):
        raise unknown("version" if version else "workflow", version or workflow)
    return await answer(_version(found, tenant))


def _workflow(version: Version, tenant_id: str) -> Workflow:
    row = version.row
    return Workflow(
        metadata=meta(row.workflow_id, version.workflow_created_at, row.created_at),
        name=row.name,
        description=version.definition.description,
        tenant_id=tenant_id,
    )


def _version(version: Version, tenant_id: str) -> WorkflowVersion:
    row, definition = version.row, version.definition
    schema = definition.input_json_schema
    return WorkflowVersion(
        metadata=meta(row.id, row.created_at),
        version="",
        order=row.number,
        workflow_id=row.workflow_id,
        sticky=_STICKY.get(definition.sticky or ""),
        default_priority=definition.default_priority or 0,
        workflow=_workflow(version, tenant_id),
        triggers=WorkflowTriggers(
            metadata=meta(row.id, row.created_at),
            workflow_version_id=row.id,
            tenant_id=tenant_id,
            events=[EventRef(parent_id=row.id, event_key=key) for key in definition.event_triggers],
            crons=[CronRef(parent_id=row.id, cron=cron) for cron in definition.cron_triggers],
        ),
        schedule_timeout=definition.tasks[0].schedule_timeout,
        workflow_config=config_of(version),
        v1_concurrency=_concurrency(version),
        input_json_schema=Raw(schema.encode()) if schema else None,
    )


def _strategy(name: str) -> str:
    return _OLDER_NAMES.get(name, name)


def _concurrency(version: Version) -> list[ConcurrencySetting]:
    """Those of tasks, then those of the workflow."""
    definition = version.definition
    return [
        ConcurrencySetting(
            max_runs=entry["max_runs"],
            limit_strategy=_strategy(entry["limit_strategy"]),
            expression=entry["expression"],
            step_readable_id=task.name,
            scope="TASK",
        )
        for task in definition.all_tasks
        for entry in task.concurrency
    ] + [
        ConcurrencySetting(
            max_runs=entry["max_runs"],
            limit_strategy=_strategy(entry["limit_strategy"]),
            expression=entry["expression"],
            scope="WORKFLOW",
        )
        for entry in definition.concurrency
    ]
