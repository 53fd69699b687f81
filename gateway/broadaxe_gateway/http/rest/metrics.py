"""How much waits and runs, by task, and a tenant's metrics (rest 3.3 to 3.5). The engine's counters answer; nothing is read from the record."""

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import PlainTextResponse

from broadaxe_actors.messages import ActionStats, GetStats, StateStats, TenantStats
from broadaxe_gateway.http.metrics import EngineCollector, exposition
from broadaxe_gateway.http.rest.dependencies import Engine, Telemetry, Tenant
from broadaxe_gateway.http.rest.models.common import made, optional_time
from broadaxe_gateway.http.rest.models.metrics import (
    ConcurrencyStat,
    QueueMetrics,
    TaskStat,
    TaskStats,
    TaskStatusStat,
)

router = APIRouter(prefix="/api/v1")


@router.get("/tenants/{tenant}/task-stats", response_model=TaskStats)
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
