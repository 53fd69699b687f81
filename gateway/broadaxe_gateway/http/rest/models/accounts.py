"""Shapes of users, tenants, members, invites and API tokens (rest 10, 11). What comes from outside is bounded here."""

import re
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field, StrictBool, StringConstraints

from broadaxe_gateway.http.rest.models.common import ResourceMeta, SnakeWire, Wire

MAX_EMAILS = 50
"""Of one group."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_EMAIL = r"^[^@\s]+@[^@\s.]+(\.[^@\s.]+)*$"


def _printable(text: str) -> str:
    if _CONTROLS.search(text):
        raise ValueError("control characters are not allowed")
    return text


Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255), AfterValidator(_printable)
]
Email = Annotated[
    str, StringConstraints(min_length=3, max_length=254, pattern=_EMAIL), AfterValidator(_printable)
]
Slug = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Password = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""As typed; the rule for new ones is that of `passwords`."""


class MemberRole(StrEnum):
    """`TenantMemberRole`."""

    OWNER = "OWNER"
    ADMIN = "ADMIN"
    MEMBER = "MEMBER"
    VIEWER = "VIEWER"


class TenantVersion(StrEnum):
    """`TenantVersion`: the engine's generation; there is one."""

    V0 = "V0"
    V1 = "V1"


class TenantEnvironment(StrEnum):
    """`TenantEnvironment`."""

    LOCAL = "local"
    DEVELOPMENT = "development"
    PRODUCTION = "production"


# ---------------------------------------------------------------- users


class User(Wire):
    """`User`."""

    metadata: ResourceMeta
    name: str
    email: str
    email_verified: bool
    has_password: bool


class RegisterRequest(Wire):
    """`UserRegisterRequest`."""

    name: Name
    email: Email
    password: Password


class LoginRequest(Wire):
    """`UserLoginRequest`."""

    email: Annotated[str, StringConstraints(max_length=254), AfterValidator(_printable)]
    password: Password


class ChangePasswordRequest(Wire):
    """`UserChangePasswordRequest`."""

    password: Password
    new_password: Password


class InviteRequest(Wire):
    """`AcceptInviteRequest`, `RejectInviteRequest`."""

    invite: UUID


# ---------------------------------------------------------------- tenants


class Tenant(Wire):
    """`Tenant`."""

    metadata: ResourceMeta
    name: str
    slug: str
    analytics_opt_out: bool
    alert_member_emails: bool
    version: TenantVersion = TenantVersion.V1
    environment: TenantEnvironment | None = None
    server_url: str | None = None
    data_retention_period: str | None = None


class CreateTenantRequest(Wire):
    """`CreateTenantRequest`."""

    name: Name
    slug: Slug
    engine_version: TenantVersion | None = None
    environment: TenantEnvironment | None = None
    onboarding_data: dict[str, Any] | None = None
    """Taken and not kept."""


class UpdateTenantRequest(Wire):
    """`UpdateTenantRequest`: what is not given stays as it is."""

    name: Name | None = None
    analytics_opt_out: StrictBool | None = None
    alert_member_emails: StrictBool | None = None
    enable_workflow_run_failure_alerts: StrictBool | None = None
    enable_expiring_token_alerts: StrictBool | None = None
    enable_tenant_resource_limit_alerts: StrictBool | None = None
    max_alerting_frequency: Annotated[str, StringConstraints(max_length=100)] | None = None
    version: TenantVersion | None = None


class AlertingSettings(Wire):
    """`TenantAlertingSettings`."""

    metadata: ResourceMeta
    alert_member_emails: bool
    enable_workflow_run_failure_alerts: bool
    enable_expiring_token_alerts: bool
    enable_tenant_resource_limit_alerts: bool
    max_alerting_frequency: str


class EmailGroup(Wire):
    """`TenantAlertEmailGroup`."""

    metadata: ResourceMeta
    emails: list[str]


class EmailGroupList(Wire):
    """`TenantAlertEmailGroupList`."""

    rows: list[EmailGroup]


class EmailGroupRequest(Wire):
    """`CreateTenantAlertEmailGroupRequest`, `UpdateTenantAlertEmailGroupRequest`."""

    emails: Annotated[list[Email], Field(min_length=1, max_length=MAX_EMAILS)]


class FeatureFlagId(StrEnum):
    """`FeatureFlagId`."""

    TENANT_LOG_WORKFLOW_FILTER = "tenant-log-workflow-filter-enabled"
    TRACE_MINIMAP = "trace-minimap-enabled"
    ORGANIZATION_SSO = "organization-sso-enabled"
    OPERATOR_DETAILS = "operator-details-enabled"


class FeatureFlag(Wire):
    """`FeatureFlagEvaluationResult`."""

    is_enabled: bool


# ---------------------------------------------------------------- members and invites


class PublicUser(Wire):
    """`UserTenantPublic`."""

    email: str
    name: str


class Member(Wire):
    """`TenantMember`."""

    metadata: ResourceMeta
    user: PublicUser
    role: MemberRole
    can_view_payloads: bool
    tenant: Tenant | None = None


class MemberList(Wire):
    """`TenantMemberList`, `UserTenantMembershipsList`."""

    rows: list[Member]


class UpdateMemberRequest(Wire):
    """`UpdateTenantMemberRequest`, `UpdateTenantInviteRequest`."""

    role: MemberRole
    can_view_payloads: StrictBool | None = None


class Invite(Wire):
    """`TenantInvite`."""

    metadata: ResourceMeta
    email: str
    role: MemberRole
    can_view_payloads: bool
    tenant_id: str
    tenant_name: str | None = None
    expires: str


class InviteList(Wire):
    """`TenantInviteList`."""

    rows: list[Invite]


class CreateInviteRequest(UpdateMemberRequest):
    """`CreateTenantInviteRequest`."""

    email: Email


# ---------------------------------------------------------------- API tokens


class ApiToken(Wire):
    """`APIToken`."""

    metadata: ResourceMeta
    name: str
    expires_at: str


class ApiTokenList(Wire):
    """`ListAPITokensResponse`."""

    rows: list[ApiToken]


class CreateApiTokenRequest(Wire):
    """`CreateAPITokenRequest`."""

    name: Name
    expires_in: Annotated[str, StringConstraints(max_length=100)] | None = None


class CreateApiTokenResponse(Wire):
    """`CreateAPITokenResponse`."""

    token: str


# ---------------------------------------------------------------- meta


class MetaAuth(Wire):
    """`APIMetaAuth`."""

    schemes: list[str]


class Meta(Wire):
    """`APIMeta`."""

    auth: MetaAuth
    pylon_app_id: str = ""
    allow_signup: bool
    allow_invites: bool
    allow_create_tenant: bool
    allow_change_password: bool
    observability_enabled: bool = False
    prometheus_server_enabled: bool = False
    auth_disabled: bool = False


class Integration(Wire):
    """`APIMetaIntegration`."""

    name: str
    enabled: bool


class ServerVersion(SnakeWire):
    """`InfoGetVersion200Response`."""

    version: str


class ErrorDescription(SnakeWire):
    """`APIError`."""

    description: str


class Errors(SnakeWire):
    """`APIErrors`."""

    errors: list[ErrorDescription]


class Message(SnakeWire):
    """What ended before a handler ran."""

    message: str
