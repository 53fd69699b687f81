"""Shapes of a tenant's limits (rest 10)."""

from broadaxe_actors.resource_limits import Resource
from broadaxe_gateway.http.rest.models.common import ResourceMeta, Wire


class TenantResourceLimit(Wire):
    """`TenantResourceLimit`."""

    metadata: ResourceMeta
    resource: Resource
    limit_value: int
    alarm_value: int | None = None
    value: int
    window: str | None = None
    last_refill: str | None = None


class TenantResourcePolicy(Wire):
    """`TenantResourcePolicy`; what is not limited is left out."""

    limits: list[TenantResourceLimit]
