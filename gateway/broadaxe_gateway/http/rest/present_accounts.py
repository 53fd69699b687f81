"""Rows of tenants and people to the shapes of REST (rest 10, 11). Pure."""

from broadaxe_gateway.http.rest.models.accounts import (
    AlertingSettings,
    ApiToken,
    EmailGroup,
    Invite,
    Member,
    MemberRole,
    PublicUser,
    Tenant,
    TenantEnvironment,
    User,
)
from broadaxe_gateway.http.rest.models.common import meta, time_text
from broadaxe_storage.records_accounts import (
    ApiTokenRow,
    EmailGroupRow,
    InviteRow,
    MemberView,
    TenantRow,
    UserRow,
)

ALWAYS_VIEW = frozenset({MemberRole.OWNER, MemberRole.ADMIN})
"""Who views payloads whatever is stored."""


def user_of(row: UserRow) -> User:
    return User(
        metadata=meta(row.id, row.created_at),
        name=row.name,
        email=row.email,
        email_verified=row.is_email_verified,
        has_password=row.password_hash is not None,
    )


def tenant_of(row: TenantRow, server_url: str) -> Tenant:
    return Tenant(
        metadata=meta(row.id, row.created_at, row.updated_at),
        name=row.name,
        slug=row.slug,
        analytics_opt_out=row.is_analytics_opt_out,
        alert_member_emails=row.alert_member_emails,
        environment=None if row.environment is None else TenantEnvironment(row.environment),
        server_url=server_url,
    )


def alerting_of(row: TenantRow) -> AlertingSettings:
    return AlertingSettings(
        metadata=meta(row.id, row.created_at, row.updated_at),
        alert_member_emails=row.alert_member_emails,
        enable_workflow_run_failure_alerts=row.alert_run_failures,
        enable_expiring_token_alerts=row.alert_expiring_tokens,
        enable_tenant_resource_limit_alerts=row.alert_resource_limits,
        max_alerting_frequency=row.max_alert_frequency,
    )


def email_group_of(row: EmailGroupRow) -> EmailGroup:
    return EmailGroup(metadata=meta(row.id, row.created_at, row.updated_at), emails=list(row.emails))


def member_of(view: MemberView, tenant: Tenant | None = None) -> Member:
    row = view.member
    role = MemberRole(row.role)
    return Member(
        metadata=meta(row.id, row.created_at, row.updated_at),
        user=PublicUser(email=view.email, name=view.name),
        role=role,
        can_view_payloads=role in ALWAYS_VIEW or row.can_view_payloads,
        tenant=tenant,
    )


def invite_of(row: InviteRow, tenant_name: str | None = None) -> Invite:
    role = MemberRole(row.role)
    return Invite(
        metadata=meta(row.id, row.created_at, row.updated_at),
        email=row.email,
        role=role,
        can_view_payloads=role in ALWAYS_VIEW or row.can_view_payloads,
        tenant_id=row.tenant_id,
        tenant_name=tenant_name,
        expires=time_text(row.expires_at),
    )


def token_of(row: ApiTokenRow) -> ApiToken:
    return ApiToken(
        metadata=meta(row.id, row.created_at), name=row.name, expires_at=time_text(row.expires_at)
    )
