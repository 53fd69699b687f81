"""Workflows and their versions, their pauses and deletion (rest 6). Reads the record; the engine pauses and deletes.

Whether a workflow is paused is read where it was written, also for a listing: it is there once the pause has been answered.
"""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response

from broadaxe_actors.definitions import duration_us
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import DeleteWorkflow, PauseWorkflow, UnpauseWorkflow
from broadaxe_gateway.http.auth import Caller
from broadaxe_gateway.http.rest.dependencies import (
    Engine,
    KnownVersions,
    Offset,
    Read,
    Tenant,
    unknown,
)
from broadaxe_gateway.http.rest.models.common import Raw, answer, list_pages, made, meta
from broadaxe_gateway.http.rest.models.workflows import (
    ConcurrencySetting,
    CronRef,
    EventRef,
    PauseRequest,
    Workflow,
    WorkflowList,
    WorkflowTriggers,
    WorkflowUpdateRequest,
    WorkflowVersion,
    WorkflowVersionMeta,
)
from broadaxe_gateway.http.rest.present_runs import config_of
from broadaxe_gateway.http.rest.reads import Reads
from broadaxe_gateway.http.rest.versions import Version
from broadaxe_gateway.rpc.convert.checks import check_text
from broadaxe_storage.records import WorkflowPause

DEFAULT_LIMIT = 50
MAX_LIMIT = 10_000
_OLDER_NAMES: Mapping[str, str] = {
    "CANCEL_NEWEST": "DROP_NEWEST",
    "CANCEL_QUEUED_EXCEPT_NEWEST": "QUEUE_NEWEST",
    "CANCEL_QUEUED_EXCEPT_OLDEST": "DROP_NEWEST",
}
"""Strategies that the official Python client has no names for, and would fail on, by the nearest that it has. The registration beside
them has their own."""
BEHAVIORS = ("DROP", "QUEUE")
MAX_TTL_DAYS = 36_500
"""A century: what is longer is taken for a slip."""
_DAYS = re.compile(r"^(\d+)d")
_STICKY: Mapping[str, Literal["soft", "hard"]] = {"SOFT": "soft", "HARD": "hard"}

router = APIRouter(prefix="/api/v1")


@router.get("/tenants/{tenant}/workflows", response_model=WorkflowList)
async def list_workflows(
    tenant: Tenant,
    reads: Read,
    versions: KnownVersions,
    offset: Offset = 0,
    limit: Annotated[int, Query(le=MAX_LIMIT)] = DEFAULT_LIMIT,
    name: str = "",
) -> Response:
    limit = limit if limit > 0 else DEFAULT_LIMIT
    check_text(name, "name")
    rows = await reads.list_workflows(tenant, name, limit=limit, offset=offset)
    total = await reads.count_workflows(tenant, name)
    pages = list_pages(offset, limit, total)
    found = [versions.keep(row) for row in rows]
    pauses = await _pauses(tenant, [row.workflow_id for row in rows], reads)
    return await made(
        lambda: WorkflowList(
            rows=[_workflow(version, "", pauses.get(version.row.workflow_id)) for version in found],
            pagination=pages,
        ),
        len(rows),
    )


@router.get("/workflows/{workflow}", response_model=Workflow)
async def get_workflow(workflow: UUID, caller: Caller, reads: Read, versions: KnownVersions) -> Response:
    row = await reads.fetch_workflow(caller.tenant_id, str(workflow))
    if row is None:
        raise unknown("workflow", workflow)
    pauses = await _pauses(caller.tenant_id, [row.workflow_id], reads)
    found = _workflow(versions.keep(row), caller.tenant_id, pauses.get(row.workflow_id))
    found.versions = [
        WorkflowVersionMeta(
            metadata=meta(row.id, row.created_at),
            version="",
            order=row.number,
            workflow_id=row.workflow_id,
        )
    ]
    return await answer(found)


@router.patch("/workflows/{workflow}", response_model=Workflow)
async def update_workflow(
    workflow: UUID,
    body: WorkflowUpdateRequest,
    caller: Caller,
    engine: Engine,
    reads: Read,
    versions: KnownVersions,
) -> Response:
    """Pause or unpause a workflow; there is nothing else to change."""
    tenant, workflow_id = caller.tenant_id, str(workflow)
    if body.pause is None:
        raise _invalid(
            "pause is missing: it says what is to be changed, as in {'pause': {'action': 'unpause'}}"
        )
    if body.pause.action == "unpause":
        await engine.ask(UnpauseWorkflow, tenant, workflow_id)
    elif body.pause.action == "pause":
        await engine.ask(PauseWorkflow, tenant, workflow_id, *_settings(body.pause))
    else:
        raise _invalid(f"pause.action is {body.pause.action!r}: expected 'pause' or 'unpause'")
    row = await reads.fetch_workflow(tenant, workflow_id)
    if row is None:
        raise unknown("workflow", workflow)
    pauses = await _pauses(tenant, [workflow_id], reads)
    return await answer(_workflow(versions.keep(row), "", pauses.get(workflow_id)))


@router.delete("/workflows/{workflow}", status_code=HTTPStatus.NO_CONTENT)
async def delete_workflow(workflow: UUID, caller: Caller, engine: Engine) -> Response:
    """Nothing starts a run of it any more. What is live goes on to its end, and runs stay readable."""
    await engine.ask(DeleteWorkflow, caller.tenant_id, str(workflow))
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _settings(pause: PauseRequest) -> tuple[int, str, str]:
    """TTL in microseconds, and what becomes of the runs of crons and of scheduled runs."""
    text = pause.paused_workflow_queue_ttl
    what = "pause.pausedWorkflowQueueTTL"
    if text is None:
        raise _invalid(f"{what} is missing: how long queued runs are kept, such as '1h'")
    behaviors = (
        pause.paused_workflow_cron_run_queue_behavior,
        pause.paused_workflow_scheduled_run_queue_behavior,
    )
    for name, behavior in zip(("Cron", "Scheduled"), behaviors, strict=True):
        if behavior not in BEHAVIORS:
            raise _invalid(
                f"pause.pausedWorkflow{name}RunQueueBehavior is {behavior!r}: expected 'DROP' or 'QUEUE'"
            )
    try:
        ttl = _ttl_us(str(text))
    except OverflowError:
        ttl = 0
    except ValueError as error:
        raise _invalid(f"{what}: {error}") from error
    if not 0 < ttl <= MAX_TTL_DAYS * 86_400_000_000:
        raise _invalid(f"{what} is {text!r}: expected more than 0 and at most {MAX_TTL_DAYS:,} days")
    return ttl, *behaviors


def _ttl_us(text: str) -> int:
    """Microseconds of a duration, which may begin with days here."""
    days = _DAYS.match(text)
    if days is None:
        return duration_us(text)
    rest = text[days.end() :]
    return int(days[1][:7]) * 86_400_000_000 + (duration_us(rest) if rest else 0)


def _invalid(text: str) -> Refused:
    return Refused(Code.INVALID_ARGUMENT, text)


async def _pauses(tenant_id: str, workflow_ids: Sequence[str], reads: Reads) -> dict[str, WorkflowPause]:
    """By id of the workflow: of those that are paused, or were once."""
    rows = await reads.fetch_workflow_pauses(tenant_id, workflow_ids) if workflow_ids else []
    return {row.workflow_id: row for row in rows}


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
    pauses = await _pauses(tenant, [found.row.workflow_id], reads)
    return await answer(_version(found, tenant, pauses.get(found.row.workflow_id)))


def _workflow(version: Version, tenant_id: str, pause: WorkflowPause | None = None) -> Workflow:
    row = version.row
    return Workflow(
        metadata=meta(row.workflow_id, version.workflow_created_at, row.created_at),
        name=row.name,
        description=version.definition.description,
        is_paused=pause is not None and pause.paused_at is not None,
        paused_workflow_cron_run_queue_behavior=None if pause is None else pause.cron_behavior,
        paused_workflow_scheduled_run_queue_behavior=None if pause is None else pause.scheduled_behavior,
        tenant_id=tenant_id,
    )


def _version(version: Version, tenant_id: str, pause: WorkflowPause | None) -> WorkflowVersion:
    row, definition = version.row, version.definition
    schema = definition.input_json_schema
    return WorkflowVersion(
        metadata=meta(row.id, row.created_at),
        version="",
        order=row.number,
        workflow_id=row.workflow_id,
        sticky=_STICKY.get(definition.sticky or ""),
        default_priority=definition.default_priority or 0,
        workflow=_workflow(version, tenant_id, pause),
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
