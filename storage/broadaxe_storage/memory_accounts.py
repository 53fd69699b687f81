"""People in memory: `account_store.AccountStore` for tests and simulation. Touches nothing outside the process."""

from collections.abc import Sequence

from broadaxe_storage.account_store import MAX_SESSIONS
from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.memory_checks import check_record
from broadaxe_storage.memory_directory import MemoryDirectory, insert, of_tenant
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


class MemoryAccounts(MemoryDirectory):
    """See `account_store.AccountStore` for what each method promises."""

    # ---- tenants

    async def create_tenant(self, tenant: TenantRow, owner: TenantMemberRow) -> None:
        check_record(owner)
        if owner.user_id not in self.disk.users:
            raise RefusedRecords("no such user", [owner.user_id])
        await self.insert_tenant(tenant)
        self.disk.members.setdefault((owner.tenant_id, owner.user_id), owner)

    async def fetch_tenants(self, tenant_ids: Sequence[str]) -> list[TenantRow]:
        await self._reading("fetch_tenants")
        return [row for row in self.disk.tenants.values() if row.id in tenant_ids]

    async def update_tenant(self, tenant_id: str, change: TenantChange, at: int) -> TenantRow | None:
        await self._reading("update_tenant")
        tenant = self.disk.tenants.get(tenant_id)
        if tenant is None:
            return None
        given = {name: value for name, value in change._asdict().items() if value is not None}
        changed = tenant._replace(updated_at=at, **given)
        check_record(changed)
        self.disk.tenants[tenant_id] = changed
        return changed

    # ---- users and sessions

    async def change_password(self, user_id: str, old_hash: str, new_hash: str) -> bool:
        await self._reading("change_password")
        user = self.disk.users.get(user_id)
        if user is None or user.password_hash != old_hash:
            return False
        self.disk.users[user_id] = user._replace(password_hash=new_hash)
        for session in self._sessions_of(user_id):
            del self.disk.sessions[session.token_hash]
        return True

    async def insert_session(self, session: SessionRow, password_hash: str | None) -> bool:
        await self._reading("insert_session")
        user = self.disk.users.get(session.user_id)
        if user is None or user.password_hash != password_hash:
            return False
        if len(session.token_hash) != 32:
            raise RefusedRecords("a token's hash has 32 bytes")
        own = sorted(self._sessions_of(session.user_id), key=lambda row: row.created_at, reverse=True)
        expired = [row for row in self.disk.sessions.values() if row.expires_at <= session.created_at]
        for gone in {*own[MAX_SESSIONS - 1 :], *expired}:
            del self.disk.sessions[gone.token_hash]
        if session.token_hash in self.disk.sessions:
            raise RefusedRecords("duplicate key: this session exists already")
        self.disk.sessions[session.token_hash] = session
        return True

    def _sessions_of(self, user_id: str) -> list[SessionRow]:
        return [row for row in self.disk.sessions.values() if row.user_id == user_id]

    async def fetch_session_user(self, token_hash: bytes, now: int) -> UserRow | None:
        await self._reading("fetch_session_user")
        session = self.disk.sessions.get(token_hash)
        return self.disk.users[session.user_id] if session and session.expires_at > now else None

    async def delete_session(self, token_hash: bytes) -> None:
        await self._reading("delete_session")
        self.disk.sessions.pop(token_hash, None)

    # ---- members

    async def fetch_member(self, tenant_id: str, user_id: str) -> TenantMemberRow | None:
        await self._reading("fetch_member")
        return self.disk.members.get((tenant_id, user_id))

    async def fetch_member_by_id(self, tenant_id: str, member_id: str) -> MemberView | None:
        await self._reading("fetch_member_by_id")
        found = of_tenant(self.disk.members.values(), tenant_id)
        member = next((row for row in found if row.id == member_id), None)
        return self._member_view(member) if member else None

    async def is_member_email(self, tenant_id: str, email: str) -> bool:
        await self._reading("is_member_email")
        user = self._user_by_email(email)
        return user is not None and (tenant_id, user.id) in self.disk.members

    async def change_member(
        self,
        member: TenantMemberRow,
        actor: TenantMemberRow,
        role: str,
        can_view_payloads: bool | None,
        at: int,
    ) -> bool:
        await self._reading("change_member")
        if not (self._is_as_believed(member) and self._is_as_believed(actor)):
            return False
        key = (member.tenant_id, member.user_id)
        changed = self.disk.members[key]._replace(role=role, updated_at=at)
        if can_view_payloads is not None:
            changed = changed._replace(can_view_payloads=can_view_payloads)
        check_record(changed)
        self.disk.members[key] = changed
        return True

    async def delete_member(self, member: TenantMemberRow, actor: TenantMemberRow) -> bool:
        await self._reading("delete_member")
        if not (self._is_as_believed(member) and self._is_as_believed(actor)):
            return False
        del self.disk.members[member.tenant_id, member.user_id]
        return True

    def _is_as_believed(self, member: TenantMemberRow) -> bool:
        found = self.disk.members.get((member.tenant_id, member.user_id))
        return found is not None and (found.id, found.role) == (member.id, member.role)

    # ---- invites

    async def insert_invite(self, invite: InviteRow, most: int) -> bool:
        await self._reading("insert_invite")
        if invite.tenant_id not in self.disk.tenants:
            raise RefusedRecords("no such tenant", [invite.tenant_id])
        own = list(of_tenant(self.disk.invites.values(), invite.tenant_id))
        for old in own:
            if old.expires_at <= invite.created_at:
                del self.disk.invites[old.id]
        own = list(of_tenant(self.disk.invites.values(), invite.tenant_id))
        if len(own) >= most:
            return False
        if any(row.email == invite.email for row in own):
            raise RefusedRecords("duplicate key: this address is invited already", [invite.id])
        if invite.email != invite.email.lower():
            raise RefusedRecords("the address of an invite is in lower case", [invite.id])
        insert(self.disk.invites, invite.id, invite)
        return True

    def _invite(self, invite_id: str, now: int) -> InviteRow | None:
        found = self.disk.invites.get(invite_id)
        return found if found and found.expires_at > now else None

    async def list_invites(self, tenant_id: str, now: int) -> list[InviteRow]:
        await self._reading("list_invites")
        found = [row for row in of_tenant(self.disk.invites.values(), tenant_id) if row.expires_at > now]
        return sorted(found, key=lambda row: (row.created_at, row.id))

    async def list_invites_of(self, email: str, now: int, limit: int) -> list[InviteView]:
        await self._reading("list_invites_of")
        found = [row for row in self.disk.invites.values() if row.email == email and row.expires_at > now]
        found.sort(key=lambda row: (row.created_at, row.id))
        return [InviteView(row, self.disk.tenants[row.tenant_id].name) for row in found[:limit]]

    async def fetch_invite(self, tenant_id: str, invite_id: str, now: int) -> InviteRow | None:
        await self._reading("fetch_invite")
        found = self._invite(invite_id, now)
        return found if found and found.tenant_id == tenant_id else None

    async def update_invite(
        self, invite: InviteRow, role: str, can_view_payloads: bool | None, at: int
    ) -> InviteRow | None:
        found = await self.fetch_invite(invite.tenant_id, invite.id, at)
        if found is None or found.role != invite.role:
            return None
        changed = found._replace(role=role, updated_at=at)
        if can_view_payloads is not None:
            changed = changed._replace(can_view_payloads=can_view_payloads)
        check_record(changed)
        self.disk.invites[invite.id] = changed
        return changed

    async def delete_invite(self, invite: InviteRow) -> bool:
        await self._reading("delete_invite")
        found = self.disk.invites.get(invite.id)
        if found is None or (found.tenant_id, found.role) != (invite.tenant_id, invite.role):
            return False
        del self.disk.invites[invite.id]
        return True

    async def accept_invite(
        self, invite_id: str, email: str, member_id: str, user_id: str, now: int
    ) -> InviteRow | None:
        invite = await self.reject_invite(invite_id, email, now)
        if invite is not None:
            member = TenantMemberRow(
                member_id, invite.tenant_id, user_id, invite.role, now, invite.can_view_payloads
            )
            check_record(member)
            self.disk.members.setdefault((invite.tenant_id, user_id), member)
        return invite

    async def reject_invite(self, invite_id: str, email: str, now: int) -> InviteRow | None:
        await self._reading("reject_invite")
        found = self._invite(invite_id, now)
        if found is None or found.email != email:
            return None
        del self.disk.invites[invite_id]
        return found

    # ---- alert e-mail groups

    async def insert_email_group(self, group: EmailGroupRow, most: int) -> bool:
        await self._reading("insert_email_group")
        if len(list(of_tenant(self.disk.email_groups.values(), group.tenant_id))) >= most:
            return False
        if not group.emails:
            raise RefusedRecords("a group has an address", [group.id])
        insert(self.disk.email_groups, group.id, group)
        return True

    async def list_email_groups(self, tenant_id: str) -> list[EmailGroupRow]:
        await self._reading("list_email_groups")
        found = of_tenant(self.disk.email_groups.values(), tenant_id)
        return sorted(found, key=lambda row: (row.created_at, row.id))

    async def update_email_group(
        self, tenant_id: str, group_id: str, emails: Sequence[str], at: int
    ) -> EmailGroupRow | None:
        await self._reading("update_email_group")
        group = self.disk.email_groups.get(group_id)
        if group is None or group.tenant_id != tenant_id:
            return None
        changed = group._replace(emails=tuple(emails), updated_at=at)
        check_record(changed)
        self.disk.email_groups[group_id] = changed
        return changed

    async def delete_email_group(self, tenant_id: str, group_id: str) -> bool:
        await self._reading("delete_email_group")
        group = self.disk.email_groups.get(group_id)
        if group is None or group.tenant_id != tenant_id:
            return False
        del self.disk.email_groups[group_id]
        return True

    # ---- whose a resource is

    async def find_owner(self, resource_id: str, tenant_ids: Sequence[str]) -> str | None:
        await self._reading("find_owner")
        disk = self.disk
        found = [
            row.tenant_id
            for table in (disk.live, disk.finished, disk.workers, disk.tokens, disk.email_groups)
            if (row := table.get(resource_id)) is not None
        ]
        found += [row.tenant_id for row in disk.versions.values() if row.workflow_id == resource_id]
        found += [row.tenant_id for row in disk.events if row.id == resource_id]
        return next((tenant_id for tenant_id in found if tenant_id in tenant_ids), None)
