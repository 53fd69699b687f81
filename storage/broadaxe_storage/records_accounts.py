"""Rows of tenants, people and tokens. Pure, like `records`; times are microseconds since the epoch."""

from typing import NamedTuple

ROLES = ("OWNER", "ADMIN", "MEMBER", "VIEWER")
"""Of members, the mightiest first."""
ENVIRONMENTS = ("local", "development", "production")


class TenantRow(NamedTuple):
    id: str
    name: str
    slug: str
    created_at: int
    updated_at: int | None = None
    """None until something about it is changed."""
    environment: str | None = None
    """One of `ENVIRONMENTS`."""
    is_analytics_opt_out: bool = False
    alert_member_emails: bool = True
    alert_run_failures: bool = False
    alert_expiring_tokens: bool = True
    alert_resource_limits: bool = True
    max_alert_frequency: str = "1h"
    """A duration: how far alerts are apart, at least."""


class TenantChange(NamedTuple):
    """What is to change about a tenant; None leaves a thing as it is."""

    name: str | None = None
    is_analytics_opt_out: bool | None = None
    alert_member_emails: bool | None = None
    alert_run_failures: bool | None = None
    alert_expiring_tokens: bool | None = None
    alert_resource_limits: bool | None = None
    max_alert_frequency: str | None = None


class UserRow(NamedTuple):
    """A person who may sign in. E-mail addresses are unique in any case of letters."""

    id: str
    email: str
    name: str
    password_hash: str | None
    """As the gateway made it; None for a person who cannot sign in by password."""
    created_at: int
    is_email_verified: bool = True
    """Who is not verified may sign in, and nothing else."""


class TenantMemberRow(NamedTuple):
    id: str
    tenant_id: str
    user_id: str
    role: str
    """One of `ROLES`."""
    created_at: int
    can_view_payloads: bool = True
    """Counts for members and viewers; owners and administrators see payloads in any case."""
    updated_at: int | None = None
    """None until role or view are changed."""


class MemberView(NamedTuple):
    """A member with what others may know of the person."""

    member: TenantMemberRow
    email: str
    name: str


class ApiTokenRow(NamedTuple):
    """A token that was issued. The token itself is never stored: its signature proves it, this row says whether it still counts."""

    id: str
    tenant_id: str
    name: str
    created_at: int
    expires_at: int
    revoked_at: int | None


class SessionRow(NamedTuple):
    """A person signed in with a browser. The token itself is never stored."""

    token_hash: bytes
    """SHA-256."""
    user_id: str
    created_at: int
    expires_at: int


class InviteRow(NamedTuple):
    """An invite that was neither accepted nor rejected."""

    id: str
    tenant_id: str
    email: str
    """In lower case."""
    role: str
    can_view_payloads: bool
    created_at: int
    updated_at: int
    expires_at: int


class InviteView(NamedTuple):
    """An invite with the name of its tenant."""

    invite: InviteRow
    tenant_name: str


class EmailGroupRow(NamedTuple):
    """Addresses that a tenant's alerts are for."""

    id: str
    tenant_id: str
    emails: tuple[str, ...]
    created_at: int
    updated_at: int


class Defaults(NamedTuple):
    """The tenant and administrator that every installation begins with."""

    tenant_id: str
    """DEFAULT_TENANT_ID."""
    tenant_name: str
    """DEFAULT_TENANT_NAME."""
    tenant_slug: str
    """DEFAULT_TENANT_SLUG."""
    admin_id: str
    """Used if the administrator is new."""
    admin_email: str
    """ADMIN_EMAIL."""
    admin_name: str
    """ADMIN_NAME."""
    admin_password_hash: str | None
    now: int
