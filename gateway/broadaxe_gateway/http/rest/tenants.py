"""Tenants: create, read and change one, its alerts, its feature flags (rest 10). The store of people alone is touched.

Alerts are settings for now: nothing sends any.
"""

from http import HTTPStatus
from typing import Annotated, Protocol, cast
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from broadaxe_actors.definitions import duration_us
from broadaxe_actors.runtime.clock import SystemRng
from broadaxe_gateway.http.auth import Admin, CallerAdmin, People, Verified, people_of
from broadaxe_gateway.http.errors import RouteRefused
from broadaxe_gateway.http.rest.dependencies import Tenant as TenantId
from broadaxe_gateway.http.rest.dependencies import unknown
from broadaxe_gateway.http.rest.models.accounts import (
    AlertingSettings,
    CreateTenantRequest,
    EmailGroup,
    EmailGroupList,
    EmailGroupRequest,
    FeatureFlag,
    FeatureFlagId,
    Tenant,
    TenantVersion,
    UpdateTenantRequest,
)
from broadaxe_gateway.http.rest.models.common import answer
from broadaxe_gateway.http.rest.present_accounts import alerting_of, email_group_of, tenant_of
from broadaxe_gateway.http.rest.users import check_room_for_tenant, now_us
from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.records_accounts import EmailGroupRow, TenantChange, TenantMemberRow, TenantRow

MAX_EMAIL_GROUPS = 100
"""Of one tenant."""
MAX_FREQUENCY_DAYS = 366


class Periods(Protocol):
    """For how long what a tenant has is kept: `broadaxe_gateway.retention.RetentionPeriods`."""

    async def text_of(self, tenant_id: str) -> str | None: ...


router = APIRouter(prefix="/api/v1")
rng = SystemRng()


@router.post("/tenants", response_model=Tenant)
async def create_tenant(body: CreateTenantRequest, person: Verified, request: Request) -> Response:
    """Who creates it owns it."""
    people = people_of(request)
    if not people.config.allows_create_tenant:
        raise _invalid("nobody can create tenants on this server (SERVER_ALLOW_CREATE_TENANT)")
    if body.engine_version is TenantVersion.V0:
        raise _invalid("engineVersion is V0: this engine has V1 alone")
    await check_room_for_tenant(people, person)
    now = now_us()
    tenant = TenantRow(rng.uuid7(now), body.name, body.slug, now, environment=body.environment)
    owner = TenantMemberRow(rng.uuid7(now), tenant.id, person.user.id, "OWNER", now)
    try:
        await people.store.create_tenant(tenant, owner)
    except RefusedRecords:
        raise _invalid(f"the slug {body.slug!r} is taken: choose another") from None
    return await answer(tenant_of(tenant, people.server_url))


@router.get("/tenants/{tenant}", response_model=Tenant)
async def get_tenant(tenant: TenantId, request: Request) -> Response:
    people = people_of(request)
    shown = tenant_of(await _fetch(people, tenant), people.server_url)
    shown.data_retention_period = await cast(Periods, request.app.state.retention_periods).text_of(tenant)
    return await answer(shown)


@router.patch("/tenants/{tenant}", response_model=Tenant)
async def update_tenant(body: UpdateTenantRequest, access: Admin, request: Request) -> Response:
    people = people_of(request)
    if body.version is TenantVersion.V0:
        raise RouteRefused(HTTPStatus.FORBIDDEN, "version is V0: this engine has V1 alone", is_single=True)
    if body.max_alerting_frequency is not None:
        _check_frequency(body.max_alerting_frequency)
    change = TenantChange(
        body.name,
        body.analytics_opt_out,
        body.alert_member_emails,
        body.enable_workflow_run_failure_alerts,
        body.enable_expiring_token_alerts,
        body.enable_tenant_resource_limit_alerts,
        body.max_alerting_frequency,
    )
    changed = await people.store.update_tenant(access.tenant_id, change, now_us())
    if changed is None:
        raise unknown("tenant", access.tenant_id)
    return await answer(tenant_of(changed, people.server_url))


def _check_frequency(text: str) -> None:
    try:
        found = duration_us(text)
    except (ValueError, OverflowError) as error:
        raise _invalid(f"maxAlertingFrequency: {error}") from error
    if not 0 < found <= MAX_FREQUENCY_DAYS * 86_400_000_000:
        raise _invalid(
            f"maxAlertingFrequency is {text!r}: expected more than 0 and at most {MAX_FREQUENCY_DAYS} days, such as '1h'"
        )


async def _fetch(people: People, tenant_id: str) -> TenantRow:
    found = await people.store.fetch_tenant(tenant_id)
    if found is None:
        raise unknown("tenant", tenant_id)
    return found


def _invalid(text: str) -> RouteRefused:
    return RouteRefused(HTTPStatus.BAD_REQUEST, text)


# ---------------------------------------------------------------- alerts


@router.get("/tenants/{tenant}/alerting/settings", response_model=AlertingSettings)
async def get_alerting_settings(tenant: TenantId, request: Request) -> Response:
    return await answer(alerting_of(await _fetch(people_of(request), tenant)))


@router.get("/tenants/{tenant}/alerting-email-groups", response_model=EmailGroupList)
async def list_email_groups(tenant: TenantId, request: Request) -> Response:
    groups = await people_of(request).store.list_email_groups(tenant)
    return await answer(EmailGroupList(rows=[email_group_of(group) for group in groups]))


@router.post(
    "/tenants/{tenant}/alerting-email-groups", response_model=EmailGroup, status_code=HTTPStatus.CREATED
)
async def create_email_group(body: EmailGroupRequest, access: Admin, request: Request) -> Response:
    now = now_us()
    group = EmailGroupRow(rng.uuid7(now), access.tenant_id, tuple(body.emails), now, now)
    if not await people_of(request).store.insert_email_group(group, MAX_EMAIL_GROUPS):
        raise _invalid(f"this tenant has {MAX_EMAIL_GROUPS} groups already, the most that one may have")
    response = await answer(email_group_of(group))
    response.status_code = HTTPStatus.CREATED
    return response


@router.patch("/alerting-email-groups/{group}", response_model=EmailGroup)
async def update_email_group(
    group: UUID, body: EmailGroupRequest, access: CallerAdmin, request: Request
) -> Response:
    changed = await people_of(request).store.update_email_group(
        access.tenant_id, str(group), body.emails, now_us()
    )
    if changed is None:
        raise unknown("group", group)
    return await answer(email_group_of(changed))


@router.delete("/alerting-email-groups/{group}", status_code=HTTPStatus.NO_CONTENT)
async def delete_email_group(group: UUID, access: CallerAdmin, request: Request) -> Response:
    if not await people_of(request).store.delete_email_group(access.tenant_id, str(group)):
        raise unknown("group", group)
    return Response(status_code=HTTPStatus.NO_CONTENT)


# ---------------------------------------------------------------- feature flags


@router.get("/tenants/{tenant}/feature-flags", response_model=FeatureFlag)
async def get_feature_flag(
    tenant: TenantId,  # noqa: ARG001 - who may ask
    flag: Annotated[FeatureFlagId, Query(alias="featureFlagId")],  # noqa: ARG001 - all are answered alike
    is_enabled: Annotated[bool, Query(alias="isEnabledIfNoPosthog")],
) -> Response:
    """The default that is given: no service of flags is asked."""
    return await answer(FeatureFlag(is_enabled=is_enabled))
