"""The disk, the faults and the directory half of the memory store: tenants, people and tokens.

Touches nothing outside the process. `memory.MemoryStore` adds the shard half.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Protocol, TypeVar

from broadaxe_storage.errors import RefusedRecords, Unavailable
from broadaxe_storage.memory_checks import check_record
from broadaxe_storage.records import (
    Batch,
    EventRow,
    FilterRow,
    FinishedTaskRun,
    IdempotencyKeyRow,
    LogRow,
    RateLimitRow,
    TaskEventRow,
    TaskRunRow,
    WorkerRow,
    WorkflowDeletion,
    WorkflowPause,
    WorkflowVersionRow,
)
from broadaxe_storage.records_accounts import (
    ROLES,
    ApiTokenRow,
    Defaults,
    EmailGroupRow,
    InviteRow,
    MemberView,
    SessionRow,
    TenantMemberRow,
    TenantRow,
    UserRow,
)
from broadaxe_storage.records_timers import CronRow, ScheduledRunRow
from broadaxe_storage.store import LOGICAL_SHARDS


class CommitFault(Enum):
    """What happens to one commit."""

    NONE = "none"
    UNAVAILABLE = "unavailable"
    """Nothing is written, and the caller knows."""
    LOST_BEFORE = "lost before"
    """Nothing is written, and the caller does not know."""
    LOST_AFTER = "lost after"
    """Everything is written, and the caller does not know."""


class Faults(Protocol):
    """Decides what goes wrong. Both may await, to play a slow Postgres."""

    async def on_commit(self, epoch: int, flush: int, batch: Batch) -> CommitFault:
        """Called before each commit; the answer is played."""
        ...

    async def on_read(self, method: str) -> None:
        """Called before each read, with the method's name; may raise `Unavailable`."""
        ...


class NoFaults:
    """Everything works, at once."""

    async def on_commit(self, epoch: int, flush: int, batch: Batch) -> CommitFault:
        return CommitFault.NONE

    async def on_read(self, method: str) -> None:
        return None


class MemoryDisk:
    """What survives a crash. Tests may read every attribute; only stores write them."""

    def __init__(self) -> None:
        self.owner: MemoryDirectory | None = None
        self.epochs = [0] * LOGICAL_SHARDS
        self.flushes = [0] * LOGICAL_SHARDS
        self.live: dict[str, TaskRunRow] = {}
        self.finished: dict[str, FinishedTaskRun] = {}
        self.task_events: list[TaskEventRow] = []
        self.workers: dict[str, WorkerRow] = {}
        self.versions: dict[str, WorkflowVersionRow] = {}
        self.pauses: dict[str, WorkflowPause] = {}
        """By workflow id."""
        self.deleted_workflows: dict[str, WorkflowDeletion] = {}
        """By workflow id."""
        self.events: list[EventRow] = []
        self.event_keys: set[tuple[str, str]] = set()
        """Tenant and key."""
        self.filters: dict[str, FilterRow] = {}
        self.logs: list[LogRow] = []
        self.idempotency_keys: dict[tuple[str, str], IdempotencyKeyRow] = {}
        """By tenant and key."""
        self.rate_limits: dict[tuple[str, str], RateLimitRow] = {}
        """By tenant and key."""
        self.crons: dict[str, CronRow] = {}
        self.scheduled_runs: dict[str, ScheduledRunRow] = {}
        self.tenants: dict[str, TenantRow] = {}
        self.users: dict[str, UserRow] = {}
        self.members: dict[tuple[str, str], TenantMemberRow] = {}
        self.tokens: dict[str, ApiTokenRow] = {}
        self.sessions: dict[bytes, SessionRow] = {}
        self.invites: dict[str, InviteRow] = {}
        self.email_groups: dict[str, EmailGroupRow] = {}
        self.commits = 0
        """Batches written."""


class MemoryDirectory:
    """See `store.DirectoryStore` for what each method promises."""

    def __init__(
        self,
        disk: MemoryDisk | None = None,
        faults: Faults | None = None,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.disk = disk or MemoryDisk()
        self.faults: Faults = faults or NoFaults()
        self._now = now
        self._is_closed = False

    async def ensure_default_tenant_and_admin(self, defaults: Defaults) -> TenantRow:
        await self._reading("ensure_default_tenant_and_admin")
        tenant = self.disk.tenants.get(defaults.tenant_id) or self._tenant_by_slug(defaults.tenant_slug)
        if tenant is None:
            tenant = TenantRow(defaults.tenant_id, defaults.tenant_name, defaults.tenant_slug, defaults.now)
            insert(self.disk.tenants, tenant.id, tenant)
        admin = self._user_by_email(defaults.admin_email)
        if admin is None:
            admin = UserRow(
                defaults.admin_id,
                defaults.admin_email,
                defaults.admin_name,
                defaults.admin_password_hash,
                defaults.now,
            )
            insert(self.disk.users, admin.id, admin)
        member = TenantMemberRow(str(uuid.uuid4()), tenant.id, admin.id, "OWNER", defaults.now)
        self.disk.members.setdefault((tenant.id, admin.id), member)
        return tenant

    async def insert_tenant(self, tenant: TenantRow) -> None:
        await self._reading("insert_tenant")
        if self._tenant_by_slug(tenant.slug):
            raise RefusedRecords(f"duplicate key: a tenant has the slug {tenant.slug!r} already", [tenant.id])
        insert(self.disk.tenants, tenant.id, tenant)

    async def load_tenants(self) -> list[TenantRow]:
        await self._reading("load_tenants")
        return sorted(self.disk.tenants.values(), key=lambda row: (row.created_at, row.id))

    async def fetch_tenant(self, tenant_id: str) -> TenantRow | None:
        await self._reading("fetch_tenant")
        return self.disk.tenants.get(tenant_id)

    async def fetch_tenant_by_slug(self, slug: str) -> TenantRow | None:
        await self._reading("fetch_tenant_by_slug")
        return self._tenant_by_slug(slug)

    async def insert_user(self, user: UserRow) -> None:
        await self._reading("insert_user")
        if self._user_by_email(user.email):
            raise RefusedRecords(f"duplicate key: {user.email!r} is a user already", [user.id])
        insert(self.disk.users, user.id, user)

    async def fetch_user(self, user_id: str) -> UserRow | None:
        await self._reading("fetch_user")
        return self.disk.users.get(user_id)

    async def fetch_user_by_email(self, email: str) -> UserRow | None:
        await self._reading("fetch_user_by_email")
        return self._user_by_email(email)

    async def put_member(self, member: TenantMemberRow) -> None:
        await self._reading("put_member")
        check_record(member)
        if member.role not in ROLES:
            raise RefusedRecords(f"role {member.role!r} is not one of {', '.join(ROLES)}")
        if member.tenant_id not in self.disk.tenants or member.user_id not in self.disk.users:
            raise RefusedRecords("no such tenant or user", [member.tenant_id, member.user_id])
        key = (member.tenant_id, member.user_id)
        known = self.disk.members.get(key, member)
        self.disk.members[key] = known._replace(
            role=member.role, can_view_payloads=member.can_view_payloads, updated_at=member.updated_at
        )

    async def list_members(self, tenant_id: str, limit: int) -> list[MemberView]:
        await self._reading("list_members")
        found = of_tenant(self.disk.members.values(), tenant_id)
        members = sorted(found, key=lambda row: (row.created_at, row.user_id))
        return [self._member_view(member) for member in members[:limit]]

    async def list_memberships(self, user_id: str) -> list[TenantMemberRow]:
        await self._reading("list_memberships")
        found = [row for row in self.disk.members.values() if row.user_id == user_id]
        return sorted(found, key=lambda row: (row.created_at, row.tenant_id))

    async def insert_token(self, token: ApiTokenRow) -> None:
        await self._reading("insert_token")
        if token.tenant_id not in self.disk.tenants:
            raise RefusedRecords("no such tenant", [token.tenant_id])
        insert(self.disk.tokens, token.id, token)

    async def fetch_token(self, token_id: str) -> ApiTokenRow | None:
        await self._reading("fetch_token")
        return self.disk.tokens.get(token_id)

    async def list_tokens(self, tenant_id: str, limit: int) -> list[ApiTokenRow]:
        await self._reading("list_tokens")
        found = [row for row in of_tenant(self.disk.tokens.values(), tenant_id) if row.revoked_at is None]
        return sorted(found, key=lambda row: (-row.created_at, row.id))[:limit]

    async def revoke_token(self, tenant_id: str, token_id: str, at: int) -> bool:
        await self._reading("revoke_token")
        token = self.disk.tokens.get(token_id)
        if token is None or token.tenant_id != tenant_id:
            return False
        if token.revoked_at is None:
            self.disk.tokens[token_id] = token._replace(revoked_at=at)
        return True

    async def _reading(self, method: str) -> None:
        self._require_open()
        await self.faults.on_read(method)
        self._require_open()

    def _require_open(self) -> None:
        if self._is_closed:
            raise Unavailable("this memory store is closed")

    def _member_view(self, member: TenantMemberRow) -> MemberView:
        user = self.disk.users[member.user_id]
        return MemberView(member, user.email, user.name)

    def _tenant_by_slug(self, slug: str) -> TenantRow | None:
        return next((row for row in self.disk.tenants.values() if row.slug == slug), None)

    def _user_by_email(self, email: str) -> UserRow | None:
        return next((row for row in self.disk.users.values() if row.email.lower() == email.lower()), None)


class _HasTenant(Protocol):
    @property
    def tenant_id(self) -> str: ...


_Owned = TypeVar("_Owned", bound=_HasTenant)
_Row = TypeVar("_Row", bound=tuple[object, ...])


def of_tenant(rows: Iterable[_Owned], tenant_id: str | None) -> Iterator[_Owned]:
    return (row for row in rows if tenant_id is None or row.tenant_id == tenant_id)


def insert(table: dict[str, _Row], key: str, row: _Row) -> None:
    check_record(row)
    if key in table:
        raise RefusedRecords("duplicate key: this id exists already", [key])
    table[key] = row
