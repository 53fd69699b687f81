"""What a tenant is entitled to, as newer clients ask for it (rest 15): all that this server has."""

from fastapi import APIRouter, Response

from broadaxe_gateway.http.rest.dependencies import Tenant
from broadaxe_gateway.http.rest.models.common import Wire, answer

router = APIRouter(prefix="/api/v1")


class TenantEntitlements(Wire):
    """`TenantEntitlements`."""

    audit_logs: bool
    prometheus_metrics: bool
    strict_additional_metadata_filters: bool
    """Malformed filters are passed over, as documented."""
    dag_operator: bool
    durable_streams: bool
    serverless_operator: bool


@router.get("/tenants/{tenant}/entitlements", response_model=TenantEntitlements)
async def get_entitlements(tenant: Tenant) -> Response:  # noqa: ARG001 - who asks must be of the tenant
    return await answer(
        TenantEntitlements(
            audit_logs=False,
            prometheus_metrics=True,
            strict_additional_metadata_filters=False,
            dag_operator=False,
            durable_streams=False,
            serverless_operator=False,
        )
    )
