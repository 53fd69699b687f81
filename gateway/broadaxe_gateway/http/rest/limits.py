"""What a tenant may use, and what it has used (rest 10). The engine counts; what stands in the record is counted there."""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request, Response

from broadaxe_actors.messages import GetUsage, GetWorkerUsage
from broadaxe_actors.resource_limits import Limits, Resource, ResourceUsage, window_text
from broadaxe_gateway.http.rest.dependencies import Engine, Tenant
from broadaxe_gateway.http.rest.models.common import ZERO_TIME, ResourceMeta, answer, optional_time
from broadaxe_gateway.http.rest.models.limits import TenantResourceLimit, TenantResourcePolicy

Count = Callable[[str], Awaitable[int]]
"""How many of a resource a tenant has."""
Counts = Mapping[Resource, Count]


def resource_counts(webhooks: Count, timers: Callable[[str], Awaitable[tuple[int, int]]]) -> Counts:
    """Of what the record tells alone; `timers` gives crons, and scheduled runs to come."""

    async def crons(tenant_id: str) -> int:
        return (await timers(tenant_id))[0]

    async def scheduled(tenant_id: str) -> int:
        return (await timers(tenant_id))[1]

    return {
        Resource.CRON: crons,
        Resource.SCHEDULE: scheduled,
        Resource.INCOMING_WEBHOOK: webhooks,
    }


router = APIRouter(prefix="/api/v1")


async def _limits(request: Request) -> Limits:
    return cast(Limits, request.app.state.limits)


async def _counts(request: Request) -> Counts:
    return cast(Counts, request.app.state.resource_counts)


@router.get("/tenants/{tenant}/resource-policy", response_model=TenantResourcePolicy)
async def get_resource_policy(
    tenant: Tenant,
    engine: Engine,
    limits: Annotated[Limits, Depends(_limits)],
    counts: Annotated[Counts, Depends(_counts)],
) -> Response:
    """Empty when limits are not enforced."""
    if not limits:
        return await answer(TenantResourcePolicy(limits=[]))
    usages: dict[Resource, ResourceUsage] = {}
    for message in (GetWorkerUsage, GetUsage):
        for usage in await engine.ask(message, tenant):
            usages[usage.limit.resource] = usage
    for resource, count in counts.items():
        if resource in limits:
            usages[resource] = ResourceUsage(limits[resource], await count(tenant), None)
    found = [usages[resource] for resource in Resource if resource in usages]
    return await answer(TenantResourcePolicy(limits=[_limit(tenant, usage) for usage in found]))


def _limit(tenant_id: str, usage: ResourceUsage) -> TenantResourceLimit:
    limit = usage.limit
    return TenantResourceLimit(
        # A limit is no row of the record: its id is made of what identifies it, and it was never made or changed.
        metadata=ResourceMeta(
            id=str(uuid.uuid5(uuid.UUID(tenant_id), limit.resource)),
            created_at=ZERO_TIME,
            updated_at=ZERO_TIME,
        ),
        resource=limit.resource,
        limit_value=limit.limit,
        alarm_value=limit.alarm,
        value=usage.value,
        window=window_text(limit.window_us),
        last_refill=optional_time(usage.since),
    )
