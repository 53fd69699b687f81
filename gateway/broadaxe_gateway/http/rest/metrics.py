"""How much waits and runs, by task, and a tenant's metrics (rest 3). What is so now, the engine's counters answer, and nothing is read;
counts of what was so are read from the record, all of it: they take the longer the more there is in the range of time.
"""

import time
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import PlainTextResponse

from broadaxe_actors.messages import ActionStats, GetStats, StateStats, TenantStats
from broadaxe_gateway.http.metrics import EngineCollector, exposition
from broadaxe_gateway.http.rest.dependencies import Engine, Read, Telemetry, Tenant
from broadaxe_gateway.http.rest.listing import run_query
from broadaxe_gateway.http.rest.models.common import answer, made, optional_time, time_text
from broadaxe_gateway.http.rest.models.metrics import (
    ConcurrencyStat,
    QueueMetrics,
    RunningDetailCount,
    TaskPointMetric,
    TaskPointMetrics,
    TaskRunMetric,
    TaskRunMetrics,
    TaskStat,
    TaskStats,
    TaskStatusStat,
)
from broadaxe_gateway.http.rest.models.runs import RunningFilter, TaskStatus
from broadaxe_gateway.http.rest.stretches import Stretches
from broadaxe_gateway.http.throttle import limited
from broadaxe_gateway.selection import STATES_OF_STATUS
from broadaxe_storage.records import TaskRunState

_STATUSES = (
    TaskStatus.CANCELLED,
    TaskStatus.COMPLETED,
    TaskStatus.FAILED,
    TaskStatus.QUEUED,
    TaskStatus.RUNNING,
)
"""In the order of the answer."""

router = APIRouter(prefix="/api/v1")


@router.get("/stable/tenants/{tenant}/task-metrics", response_model=TaskRunMetrics)
async def get_task_metrics(
    tenant: Tenant,
    reads: Read,
    since: Annotated[datetime, Query()],
    until: datetime | None = None,
    workflow_ids: Annotated[list[UUID] | None, Query()] = None,
    parent_task_external_id: UUID | None = None,
    triggering_event_external_id: UUID | None = None,
    additional_metadata: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """How many task runs, created in a range of time, have each status."""
    query = run_query(since, until, None, RunningFilter.ALL, workflow_ids, additional_metadata)._replace(
        only_tasks=True,
        parent_task_run_id=str(parent_task_external_id) if parent_task_external_id else None,
        triggering_event_id=str(triggering_event_external_id) if triggering_event_external_id else None,
    )
    counts = await reads.count_states(tenant, query)
    found = {
        status: sum(counts.get(state, 0) for state in STATES_OF_STATUS[status.value]) for status in _STATUSES
    }
    evicted = counts.get(TaskRunState.EVICTED, 0)
    rows = [TaskRunMetric(status=status, count=found[status]) for status in _STATUSES]
    rows[-1].running_detail_count = RunningDetailCount(
        evicted=evicted, on_worker=found[TaskStatus.RUNNING] - evicted
    )
    return await answer(TaskRunMetrics(rows))


@router.get("/stable/tenants/{tenant}/task-point-metrics", response_model=TaskPointMetrics)
async def get_task_point_metrics(
    tenant: Tenant,
    reads: Read,
    created_after: Annotated[datetime | None, Query(alias="createdAfter")] = None,
    finished_before: Annotated[datetime | None, Query(alias="finishedBefore")] = None,
) -> Response:
    """How many task runs completed and failed, by stretches of time."""
    stretches = Stretches(created_after, finished_before, time.time_ns() // 1000)
    counts: dict[tuple[int, int], int] = {}
    for begun, state, count in await reads.count_ends(
        tenant, stretches.since, stretches.until, stretches.seconds
    ):
        counts[begun, state] = count
    points = stretches.beginnings
    return await made(
        lambda: TaskPointMetrics(
            results=[
                TaskPointMetric(
                    time=time_text(at),
                    SUCCEEDED=counts.get((at, TaskRunState.COMPLETED), 0)
                    + counts.get((at, TaskRunState.SKIPPED), 0),
                    FAILED=counts.get((at, TaskRunState.FAILED), 0),
                )
                for at in points
            ]
        ),
        len(points),
    )


@router.get(
    "/tenants/{tenant}/task-stats", response_model=TaskStats, dependencies=[Depends(limited("task-stats"))]
)
async def get_task_stats(
    tenant: Tenant,
    engine: Engine,
    task_names: Annotated[list[str] | None, Query(alias="taskNames")] = None,
) -> Response:
    """Tasks with anything queued or running, and those that are asked for; tasks of one name add up."""
    stats: TenantStats = await engine.ask(GetStats, tenant)
    asked = [name for text in task_names or () for name in text.split(",") if name]
    return await made(lambda: _task_stats(stats, asked), _size(stats))


@router.get("/tenants/{tenant}/step-run-queue-metrics", response_model=QueueMetrics)
async def get_queue_metrics(tenant: Tenant, engine: Engine) -> Response:
    """What waits, by queue, and for places of concurrency groups."""
    stats: TenantStats = await engine.ask(GetStats, tenant)
    return await made(lambda: _queue_metrics(stats), _size(stats))


@router.get("/tenants/{tenant}/prometheus-metrics", response_class=PlainTextResponse)
async def get_prometheus_metrics(tenant: Tenant, telemetry: Telemetry) -> Response:
    """The series of this tenant in Prometheus' text format."""
    return exposition(EngineCollector(await telemetry(tenant), tenant))


def _size(stats: TenantStats) -> int:
    return sum(
        1 + sum(len(group.keys) for group in (*item.queued.groups, *item.running.groups)) // 10
        for item in stats.actions
    )


def _task_stats(stats: TenantStats, asked: Iterable[str]) -> TaskStats:
    by_name: dict[str, list[ActionStats]] = {}
    for item in stats.actions:
        by_name.setdefault(item.task_name, []).append(item)
    found = {
        name: TaskStat(
            queued=_half([(item.queued, _queue(item)) for item in items]),
            running=_half([(item.running, {}) for item in items]),
        )
        for name, items in by_name.items()
    }
    for name in asked:
        found.setdefault(name, TaskStat(queued=TaskStatusStat(), running=TaskStatusStat()))
    return TaskStats(found)


def _half(parts: list[tuple[StateStats, dict[str, int]]]) -> TaskStatusStat:
    queues: dict[str, int] = {}
    for _, queue in parts:
        queues |= queue
    states = [state for state, _ in parts]
    return TaskStatusStat(
        total=sum(state.total for state in states),
        queues=queues or None,
        concurrency=[
            ConcurrencyStat(
                expression=group.expression,
                type=group.strategy,
                keys={key: count for key, count in group.keys if key},
            )
            for state in states
            for group in state.groups
            if group.strategy != "NONE"
        ]
        or None,
        oldest=optional_time(_oldest(state.oldest_at for state in states)),
        oldest_excluding_retries=optional_time(_oldest(state.oldest_first_at for state in states)),
    )


def _oldest(times: Iterable[int | None]) -> int | None:
    return min((at for at in times if at is not None), default=None)


def _queue(item: ActionStats) -> dict[str, int]:
    """What waits in the queue of an action, which is that of its name: not what waits for a place first."""
    waiting = sum(count for group in item.queued.groups for _, count in group.keys)
    left = item.queued.total - waiting
    return {item.action: left} if left > 0 else {}


def _queue_metrics(stats: TenantStats) -> QueueMetrics:
    queues: dict[str, int | dict[str, int]] = {}
    for item in stats.actions:
        queues |= _queue(item)
    by_strategy: dict[str, dict[str, int]] = {}
    for item in stats.actions:
        for group in item.queued.groups:
            keys = by_strategy.setdefault(f"{item.workflow_name}/{group.strategy}", {})
            for key, count in group.keys:
                keys[key] = keys.get(key, 0) + count
    return QueueMetrics(queues={**queues, **by_strategy})
