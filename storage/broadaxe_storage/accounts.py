"""People in Postgres: `account_store.AccountStore` over one pool.

May touch asyncpg through `pool`. What must not happen beside another change of the same tenant's people locks the tenant's row first: the
statement after it then sees what the other has done.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from broadaxe_storage.directory import PostgresDirectory, member_view
from broadaxe_storage.pool import Connection
from broadaxe_storage.queries import query
from broadaxe_storage.records_accounts import (
    EmailGroupRow,
    InviteRow,
    InviteView,
    MemberView,
    SessionRow,
    TenantChange,
    TenantMemberRow,
    TenantRow,
    UserRow,
)


class PostgresAccounts(PostgresDirectory):
    """See `account_store.AccountStore` for what each method promises."""

    @asynccontextmanager
    async def _locked(self, tenant_id: str) -> AsyncIterator[Connection]:
        """A transaction within which nobody else changes who belongs to a tenant."""
        async with self._pool.connection(in_transaction=True) as connection:
            await connection.execute(query("lock_tenant"), tenant_id)
            yield connection

    # ---- tenants

    async def create_tenant(self, tenant: TenantRow, owner: TenantMemberRow) -> None:
        async with self._pool.connection(in_transaction=True) as connection:
            await connection.execute(query("insert_tenant"), *tenant)
            await _insert_member(connection, owner)

    async def fetch_tenants(self, tenant_ids: Sequence[str]) -> list[TenantRow]:
        return [TenantRow._make(row) for row in await self._pool.fetch("fetch_tenants", list(tenant_ids))]

    async def update_tenant(self, tenant_id: str, change: TenantChange, at: int) -> TenantRow | None:
        rows = await self._pool.fetch("update_tenant", tenant_id, at, *change)
        return TenantRow._make(rows[0]) if rows else None

    # ---- users and sessions

    async def change_password(self, user_id: str, old_hash: str, new_hash: str) -> bool:
        # Two statements: only the second sees the sessions that were begun while the first waited for the user's row.
        async with self._pool.connection(in_transaction=True) as connection:
            if await connection.fetchval(query("change_password"), user_id, old_hash, new_hash) is None:
                return False
            await connection.execute(query("delete_sessions"), user_id)
        return True

    async def insert_session(self, session: SessionRow, password_hash: str | None) -> bool:
        return bool(await self._pool.fetch("insert_session", *session, password_hash))

    async def fetch_session_user(self, token_hash: bytes, now: int) -> UserRow | None:
        rows = await self._pool.fetch("fetch_session_user", token_hash, now)
        return UserRow._make(rows[0]) if rows else None

    async def delete_session(self, token_hash: bytes) -> None:
        await self._pool.fetch("delete_session", token_hash)

    # ---- members

    async def fetch_member(self, tenant_id: str, user_id: str) -> TenantMemberRow | None:
        rows = await self._pool.fetch("fetch_member", tenant_id, user_id)
        return TenantMemberRow._make(rows[0]) if rows else None

    async def fetch_member_by_id(self, tenant_id: str, member_id: str) -> MemberView | None:
        rows = await self._pool.fetch("fetch_member_by_id", tenant_id, member_id)
        return member_view(rows[0]) if rows else None

    async def is_member_email(self, tenant_id: str, email: str) -> bool:
        return bool(await self._pool.fetchval("is_member_email", tenant_id, email))

    async def change_member(
        self,
        member: TenantMemberRow,
        actor: TenantMemberRow,
        role: str,
        can_view_payloads: bool | None,
        at: int,
    ) -> bool:
        async with self._locked(member.tenant_id) as connection:
            changed = await connection.fetchval(
                query("change_member"),
                member.tenant_id,
                member.id,
                member.role,
                actor.user_id,
                actor.role,
                role,
                can_view_payloads,
                at,
            )
        return changed is not None

    async def delete_member(self, member: TenantMemberRow, actor: TenantMemberRow) -> bool:
        async with self._locked(member.tenant_id) as connection:
            deleted = await connection.fetchval(
                query("delete_member"), member.tenant_id, member.id, member.role, actor.user_id, actor.role
            )
        return deleted is not None

    # ---- invites

    async def insert_invite(self, invite: InviteRow, most: int) -> bool:
        async with self._locked(invite.tenant_id) as connection:
            await connection.execute(query("delete_expired_invites"), invite.tenant_id, invite.created_at)
            inserted = await connection.fetchval(query("insert_invite"), *invite, most)
        return inserted is not None

    async def list_invites(self, tenant_id: str, now: int) -> list[InviteRow]:
        return [InviteRow._make(row) for row in await self._pool.fetch("list_invites", tenant_id, now)]

    async def list_invites_of(self, email: str, now: int, limit: int) -> list[InviteView]:
        rows = await self._pool.fetch("list_invites_of", email, now, limit)
        return [InviteView(InviteRow._make(row[:8]), row[8]) for row in rows]

    async def fetch_invite(self, tenant_id: str, invite_id: str, now: int) -> InviteRow | None:
        rows = await self._pool.fetch("fetch_invite", tenant_id, invite_id, now)
        return InviteRow._make(rows[0]) if rows else None

    async def update_invite(
        self, invite: InviteRow, role: str, can_view_payloads: bool | None, at: int
    ) -> InviteRow | None:
        rows = await self._pool.fetch(
            "update_invite", invite.tenant_id, invite.id, invite.role, role, can_view_payloads, at
        )
        return InviteRow._make(rows[0]) if rows else None

    async def delete_invite(self, invite: InviteRow) -> bool:
        return bool(await self._pool.fetch("delete_invite", invite.tenant_id, invite.id, invite.role))

    async def accept_invite(
        self, invite_id: str, email: str, member_id: str, user_id: str, now: int
    ) -> InviteRow | None:
        async with self._pool.connection(in_transaction=True) as connection:
            invite = await _take_invite(connection, invite_id, email, now)
            if invite is None:
                return None
            member = TenantMemberRow(
                member_id, invite.tenant_id, user_id, invite.role, now, invite.can_view_payloads
            )
            await _insert_member(connection, member)
        return invite

    async def reject_invite(self, invite_id: str, email: str, now: int) -> InviteRow | None:
        async with self._pool.connection() as connection:
            return await _take_invite(connection, invite_id, email, now)

    # ---- alert e-mail groups

    async def insert_email_group(self, group: EmailGroupRow, most: int) -> bool:
        async with self._locked(group.tenant_id) as connection:
            inserted = await connection.fetchval(query("insert_email_group"), *group, most)
        return inserted is not None

    async def list_email_groups(self, tenant_id: str) -> list[EmailGroupRow]:
        return [_email_group(row) for row in await self._pool.fetch("list_email_groups", tenant_id)]

    async def update_email_group(
        self, tenant_id: str, group_id: str, emails: Sequence[str], at: int
    ) -> EmailGroupRow | None:
        rows = await self._pool.fetch("update_email_group", tenant_id, group_id, list(emails), at)
        return _email_group(rows[0]) if rows else None

    async def delete_email_group(self, tenant_id: str, group_id: str) -> bool:
        return bool(await self._pool.fetch("delete_email_group", tenant_id, group_id))

    # ---- whose a resource is

    async def find_owner(self, resource_id: str, tenant_ids: Sequence[str]) -> str | None:
        found: str | None = await self._pool.fetchval("find_owner", resource_id, list(tenant_ids))
        return found


def _email_group(row: Iterable[Any]) -> EmailGroupRow:
    group = EmailGroupRow._make(row)
    return group._replace(emails=tuple(group.emails))


async def _insert_member(connection: Connection, member: TenantMemberRow) -> None:
    await connection.execute(query("insert_member"), *member)


async def _take_invite(connection: Connection, invite_id: str, email: str, now: int) -> InviteRow | None:
    row = await connection.fetchrow(query("take_invite"), invite_id, email, now)
    return InviteRow._make(row) if row else None
