"""The port to people and what they may do: sessions, members, invites, settings of tenants. `store.DirectoryStore` is the part of it that
servers without people need.

Two implementations pass one suite (`tests/conformance/accounts_suite.py`): `accounts.PostgresAccounts` and `memory_accounts.MemoryAccounts`.
Every method raises `Unavailable` without Postgres. What guards a change is compared in the statement that makes it: who loses a race is
told so and has changed nothing.
"""

from collections.abc import Sequence
from typing import Protocol

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
from broadaxe_storage.store import DirectoryStore

MAX_SESSIONS = 50
"""Of one user; the oldest ends when another is begun."""


class AccountStore(DirectoryStore, Protocol):
    """What people do with a server."""

    # ---- tenants

    async def create_tenant(self, tenant: TenantRow, owner: TenantMemberRow) -> None:
        """Both or neither. Raises `RefusedRecords` for an id or slug that exists."""
        ...

    async def fetch_tenants(self, tenant_ids: Sequence[str]) -> list[TenantRow]:
        """In any order; unknown ones are left out."""
        ...

    async def update_tenant(self, tenant_id: str, change: TenantChange, at: int) -> TenantRow | None: ...

    # ---- users and sessions

    async def change_password(self, user_id: str, old_hash: str, new_hash: str) -> bool:
        """Change it and end every session of the user. False if the hash has changed meanwhile."""
        ...

    async def insert_session(self, session: SessionRow, password_hash: str | None) -> bool:
        """Begin a session. False if the user's password is not that any more. Expired sessions make room."""
        ...

    async def fetch_session_user(self, token_hash: bytes, now: int) -> UserRow | None:
        """Who is signed in by a session that has not expired."""
        ...

    async def delete_session(self, token_hash: bytes) -> None: ...

    # ---- members

    async def fetch_member(self, tenant_id: str, user_id: str) -> TenantMemberRow | None: ...

    async def fetch_member_by_id(self, tenant_id: str, member_id: str) -> MemberView | None: ...

    async def is_member_email(self, tenant_id: str, email: str) -> bool:
        """Whether somebody with this address, in any case of letters, is a member."""
        ...

    async def change_member(
        self,
        member: TenantMemberRow,
        actor: TenantMemberRow,
        role: str,
        can_view_payloads: bool | None,
        at: int,
    ) -> bool:
        """Give a member another role. False if either row is not any more what it was."""
        ...

    async def delete_member(self, member: TenantMemberRow, actor: TenantMemberRow) -> bool:
        """False if either row is not any more what it was."""
        ...

    # ---- invites

    async def insert_invite(self, invite: InviteRow, most: int) -> bool:
        """False if the tenant has `most` already. Raises `RefusedRecords` if the address is invited already."""
        ...

    async def list_invites(self, tenant_id: str, now: int) -> list[InviteRow]: ...

    async def list_invites_of(self, email: str, now: int, limit: int) -> list[InviteView]:
        """Invites to an address, which is in lower case."""
        ...

    async def fetch_invite(self, tenant_id: str, invite_id: str, now: int) -> InviteRow | None: ...

    async def update_invite(
        self, invite: InviteRow, role: str, can_view_payloads: bool | None, at: int
    ) -> InviteRow | None:
        """None if it is gone or has another role meanwhile."""
        ...

    async def delete_invite(self, invite: InviteRow) -> bool:
        """False if it is gone or has another role meanwhile."""
        ...

    async def accept_invite(
        self, invite_id: str, email: str, member_id: str, user_id: str, now: int
    ) -> InviteRow | None:
        """Make the user a member as the invite says, and use it up; who is a member already stays as they are. None without such an invite."""
        ...

    async def reject_invite(self, invite_id: str, email: str, now: int) -> InviteRow | None: ...

    # ---- alert e-mail groups

    async def insert_email_group(self, group: EmailGroupRow, most: int) -> bool:
        """False if the tenant has `most` already."""
        ...

    async def list_email_groups(self, tenant_id: str) -> list[EmailGroupRow]: ...

    async def update_email_group(
        self, tenant_id: str, group_id: str, emails: Sequence[str], at: int
    ) -> EmailGroupRow | None: ...

    async def delete_email_group(self, tenant_id: str, group_id: str) -> bool: ...

    # ---- whose a resource is

    async def find_owner(self, resource_id: str, tenant_ids: Sequence[str]) -> str | None:
        """Which of these tenants has a resource of this id: a run or task, a worker, a workflow, an event, an API token, an e-mail group."""
        ...
