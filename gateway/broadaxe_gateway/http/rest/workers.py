"""Workers: list, read one, pause or resume one (rest 8). The engine knows the live ones, the record those that have gone.

A worker of another tenant is answered as one that does not exist, so that ids tell nothing.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import PauseWorker, WorkerInfo
from broadaxe_gateway import selection
from broadaxe_gateway.http.auth import Caller
from broadaxe_gateway.http.rest.dependencies import (
    Engine,
    EngineLink,
    KnownVersions,
    Offset,
    Read,
    Tenant,
)
from broadaxe_gateway.http.rest.models.common import answer, list_pages, made, optional_time
from broadaxe_gateway.http.rest.models.workers import (
    HeldSlot,
    RegisteredWorkflow,
    UpdateWorkerRequest,
    Worker,
    WorkerList,
    WorkerStatus,
)
from broadaxe_gateway.http.rest.present_runs import started_at
from broadaxe_gateway.http.rest.present_workers import live_worker, recorded_worker
from broadaxe_gateway.http.rest.reads import Reads
from broadaxe_gateway.http.rest.versions import Versions
from broadaxe_storage.records import WorkerRow
from broadaxe_storage.records import WorkerStatus as StoredStatus

LISTED_US = 24 * 3_600_000_000
"""How long a worker that has gone is listed."""
MAX_WORKERS = 10_000
MAX_WORKFLOWS = 1_000
"""Searched for those that a worker has registered."""
ASKED_AT_ONCE = 200
"""Workers that the engine is asked about in one turn of the loop."""

router = APIRouter(prefix="/api/v1")


@router.get("/tenants/{tenant}/worker", response_model=WorkerList)
async def list_workers(
    tenant: Tenant,
    reads: Read,
    engine: Engine,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_WORKERS)] = MAX_WORKERS,
    statuses: Annotated[list[WorkerStatus] | None, Query()] = None,
    labels: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """Workers that are connected or were within a day, the newest first."""
    wanted = selection.metadata(labels or (), "labels")
    rows = await reads.list_workers(tenant, _now_us() - LISTED_US)
    workers = [
        worker
        for worker in await _current(tenant, rows, engine)
        if (not statuses or worker.status in statuses) and _has_labels(worker, wanted)
    ]
    page = workers[offset : offset + limit]
    pages = list_pages(offset, limit, len(workers))
    return await made(lambda: WorkerList(pagination=pages, rows=page), len(page))


def _has_labels(worker: Worker, wanted: Sequence[tuple[str, str]]) -> bool:
    return set(wanted) <= {(label.key, label.value) for label in worker.labels}


async def _current(tenant_id: str, rows: Sequence[WorkerRow], engine: EngineLink) -> list[Worker]:
    """Each worker as it is now."""
    found: list[Worker] = []
    for start in range(0, len(rows), ASKED_AT_ONCE):
        part = rows[start : start + ASKED_AT_ONCE]
        infos = await asyncio.gather(*(_live(tenant_id, row, engine) for row in part))
        now = _now_us()
        found += [
            recorded_worker(row) if info is None else live_worker(info, now)
            for row, info in zip(part, infos, strict=True)
        ]
    return found


async def _live(tenant_id: str, row: WorkerRow, engine: EngineLink) -> WorkerInfo | None:
    """What the engine knows of a worker; None for one that has gone."""
    if row.status == StoredStatus.STOPPED:
        return None
    try:
        info: WorkerInfo = await engine.ask(PauseWorker, tenant_id, row.id, None)
    except Refused as refusal:
        if refusal.code is Code.NOT_FOUND:
            return None
        raise
    return info


# ---------------------------------------------------------------- one worker


@router.get("/workers/{worker}", response_model=Worker)
async def get_worker(
    worker: UUID, caller: Caller, engine: Engine, reads: Read, versions: KnownVersions
) -> Response:
    tenant = caller.tenant_id
    try:
        info: WorkerInfo = await engine.ask(PauseWorker, tenant, str(worker), None)
    except Refused as refusal:
        row = await reads.fetch_worker(tenant, str(worker)) if refusal.code is Code.NOT_FOUND else None
        if row is None:
            raise
        found = recorded_worker(row)
        found.slots = []
    else:
        found = live_worker(info, _now_us())
        found.slots = await _slots(tenant, info, reads, versions)
    found.recent_step_runs = []
    found.registered_workflows = await _registered(tenant, found.actions, reads, versions)
    return await answer(found)


@router.patch("/workers/{worker}", response_model=Worker)
async def update_worker(worker: UUID, body: UpdateWorkerRequest, caller: Caller, engine: Engine) -> Response:
    info: WorkerInfo = await engine.ask(PauseWorker, caller.tenant_id, str(worker), body.is_paused)
    return await answer(live_worker(info, _now_us()))


async def _slots(tenant_id: str, info: WorkerInfo, reads: Reads, versions: Versions) -> list[HeldSlot]:
    """The tasks that run on a worker; one that has just ended is not among them."""
    held = {attempt.task_run_id for attempt in info.in_flight}
    if not held:
        return []
    rows = [row for row in await reads.fetch_rows(tenant_id, tuple(held)) if row.id in held]
    known = await versions.find_all(tenant_id, (row.workflow_version_id for row in rows))
    return [
        HeldSlot(
            step_run_id=row.id,
            action_id=version.tasks[row.step_index].action,
            started_at=optional_time(started_at(row)),
            workflow_run_id=row.run_id,
        )
        for row in rows
        if (version := known.get(row.workflow_version_id)) is not None
    ]


async def _registered(
    tenant_id: str, actions: Sequence[str], reads: Reads, versions: Versions
) -> list[RegisteredWorkflow]:
    """The workflows of which a worker can run a task."""
    advertised = set(actions)
    rows = await reads.list_workflows(tenant_id, limit=MAX_WORKFLOWS)
    return [
        RegisteredWorkflow(id=row.workflow_id, name=row.name)
        for row in rows
        if any(task.action in advertised for task in versions.keep(row).tasks)
    ]


def _now_us() -> int:
    return time.time_ns() // 1000
