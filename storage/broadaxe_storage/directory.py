"""Tenants, people and tokens in Postgres: `store.DirectoryStore` over one pool.

May touch asyncpg through `pool`. Rows are few and cached by who reads them; each method is one statement, but for the defaults.
"""

from collections.abc import Iterable
from typing import Any

from broadaxe_storage.errors import StorageBug
from broadaxe_storage.pool import Pool
from broadaxe_storage.queries import query
from broadaxe_storage.records_accounts import (
    ApiTokenRow,
    Defaults,
    MemberView,
    TenantMemberRow,
    TenantRow,
    UserRow,
)


class PostgresDirectory:
    """The directory half of `PostgresStore`; see `store.DirectoryStore` for what each method promises."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ensure_default_tenant_and_admin(self, defaults: Defaults) -> TenantRow:
        async with self._pool.connection(in_transaction=True) as connection:
            await connection.execute(
                query("ensure_tenant"),
                defaults.tenant_id,
                defaults.tenant_name,
                defaults.tenant_slug,
                defaults.now,
            )
            found = await connection.fetchrow(query("fetch_tenant"), defaults.tenant_id)
            found = found or await connection.fetchrow(query("fetch_tenant_by_slug"), defaults.tenant_slug)
            if found is None:
                raise StorageBug("", "the default tenant is missing right after it was inserted")
            tenant = TenantRow._make(found)
            await connection.execute(
                query("ensure_user"),
                defaults.admin_id,
                defaults.admin_email,
                defaults.admin_name,
                defaults.admin_password_hash,
                defaults.now,
            )
            admin = await connection.fetchrow(query("fetch_user_by_email"), defaults.admin_email)
            if admin is None:
                raise StorageBug("", "the administrator is missing right after being inserted")
            await connection.execute(query("ensure_member"), tenant.id, admin["id"], "OWNER", defaults.now)
        return tenant

    async def insert_tenant(self, tenant: TenantRow) -> None:
        await self._pool.fetch("insert_tenant", *tenant)

    async def load_tenants(self) -> list[TenantRow]:
        return [TenantRow._make(row) for row in await self._pool.fetch("load_tenants")]

    async def fetch_tenant(self, tenant_id: str) -> TenantRow | None:
        rows = await self._pool.fetch("fetch_tenant", tenant_id)
        return TenantRow._make(rows[0]) if rows else None

    async def fetch_tenant_by_slug(self, slug: str) -> TenantRow | None:
        rows = await self._pool.fetch("fetch_tenant_by_slug", slug)
        return TenantRow._make(rows[0]) if rows else None

    async def insert_user(self, user: UserRow) -> None:
        await self._pool.fetch("insert_user", *user)

    async def fetch_user(self, user_id: str) -> UserRow | None:
        rows = await self._pool.fetch("fetch_user", user_id)
        return UserRow._make(rows[0]) if rows else None

    async def fetch_user_by_email(self, email: str) -> UserRow | None:
        rows = await self._pool.fetch("fetch_user_by_email", email)
        return UserRow._make(rows[0]) if rows else None

    async def put_member(self, member: TenantMemberRow) -> None:
        await self._pool.fetch("put_member", *member)

    async def list_members(self, tenant_id: str, limit: int) -> list[MemberView]:
        return [member_view(row) for row in await self._pool.fetch("list_members", tenant_id, limit)]

    async def list_memberships(self, user_id: str) -> list[TenantMemberRow]:
        return [TenantMemberRow._make(row) for row in await self._pool.fetch("list_memberships", user_id)]

    async def insert_token(self, token: ApiTokenRow) -> None:
        await self._pool.fetch("insert_token", *token)

    async def fetch_token(self, token_id: str) -> ApiTokenRow | None:
        rows = await self._pool.fetch("fetch_token", token_id)
        return ApiTokenRow._make(rows[0]) if rows else None

    async def list_tokens(self, tenant_id: str, limit: int) -> list[ApiTokenRow]:
        return [ApiTokenRow._make(row) for row in await self._pool.fetch("list_tokens", tenant_id, limit)]

    async def revoke_token(self, tenant_id: str, token_id: str, at: int) -> bool:
        return bool(await self._pool.fetch("revoke_token", tenant_id, token_id, at))


def member_view(row: Iterable[Any]) -> MemberView:
    """A row of a membership, followed by the person's address and name."""
    *member, email, name = row
    return MemberView(TenantMemberRow._make(member), email, name)
