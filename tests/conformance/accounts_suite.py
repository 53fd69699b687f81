"""What every store must do with people: the tests of the port `AccountStore`, run by each implementation as those of `store_suite` are."""

import asyncio
import itertools

import pytest

from broadaxe_storage.account_store import MAX_SESSIONS, AccountStore
from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.records_accounts import (
    ApiTokenRow,
    EmailGroupRow,
    InviteRow,
    InviteView,
    SessionRow,
    TenantChange,
    TenantMemberRow,
    TenantRow,
    UserRow,
)
from tests.conformance.store_suite import Writer
from tests.factories import (
    TENANT,
    make_event,
    make_finish,
    make_task_run,
    make_tenant,
    make_version,
    make_worker,
    new_id,
    now_us,
)

DAY_US = 86_400_000_000


def make_user(email: str = "", **fields: object) -> UserRow:
    user_id = new_id()
    row = UserRow(user_id, email or f"{user_id}@example.com", "Somebody", "$argon2id$1", now_us())
    return row._replace(**fields)  # type: ignore[arg-type]


def make_session(user: UserRow, number: int = 0, **fields: object) -> SessionRow:
    row = SessionRow(number.to_bytes(32), user.id, now_us() + number, now_us() + DAY_US)
    return row._replace(**fields)  # type: ignore[arg-type]


def make_invite(tenant: TenantRow, email: str, **fields: object) -> InviteRow:
    now = now_us()
    row = InviteRow(new_id(), tenant.id, email, "MEMBER", True, now, now, now + DAY_US)
    return row._replace(**fields)  # type: ignore[arg-type]


async def make_members(
    store: AccountStore, *roles: str
) -> tuple[TenantRow, list[UserRow], list[TenantMemberRow]]:
    """A tenant with a member of each role."""
    tenant = make_tenant()
    users = [make_user() for _ in roles]
    await store.insert_tenant(tenant)
    members = []
    for number, (user, role) in enumerate(zip(users, roles, strict=True)):
        await store.insert_user(user)
        member = TenantMemberRow(new_id(), tenant.id, user.id, role, now_us() + number)
        await store.put_member(member)
        members.append(member)
    return tenant, users, members


# ---------------------------------------------------------------- tenants


async def test_a_tenant_comes_with_its_owner_or_not_at_all(store: AccountStore) -> None:
    user = make_user()
    await store.insert_user(user)
    tenant = make_tenant(slug="acme", environment="production")
    owner = TenantMemberRow(new_id(), tenant.id, user.id, "OWNER", now_us())
    await store.create_tenant(tenant, owner)
    assert await store.fetch_tenant(tenant.id) == tenant
    assert await store.list_memberships(user.id) == [owner]
    second = make_tenant(slug="acme")
    with pytest.raises(RefusedRecords):
        await store.create_tenant(second, owner._replace(id=new_id(), tenant_id=second.id))
    stranger = make_tenant()
    with pytest.raises(RefusedRecords):
        await store.create_tenant(
            stranger, owner._replace(id=new_id(), tenant_id=stranger.id, user_id=new_id())
        )
    assert await store.load_tenants() == [tenant]
    assert await store.list_memberships(user.id) == [owner]
    assert await store.fetch_tenants([tenant.id, new_id()]) == [tenant]


async def test_only_what_is_given_changes_about_a_tenant(store: AccountStore) -> None:
    tenant, other = make_tenant(), make_tenant()
    await store.insert_tenant(tenant)
    await store.insert_tenant(other)
    changed = await store.update_tenant(tenant.id, TenantChange(name="New", alert_member_emails=False), 7)
    assert changed == tenant._replace(name="New", alert_member_emails=False, updated_at=7)
    change = TenantChange(None, True, None, True, False, False, "2h")
    assert await store.update_tenant(tenant.id, change, 9) == TenantRow(
        tenant.id, "New", tenant.slug, tenant.created_at, 9, None, True, False, True, False, False, "2h"
    )
    assert await store.update_tenant(new_id(), change, 9) is None
    assert await store.fetch_tenant(other.id) == other


# ---------------------------------------------------------------- sessions


async def test_a_session_is_good_until_it_expires_or_is_ended(store: AccountStore) -> None:
    user = make_user(is_email_verified=False)
    await store.insert_user(user)
    session = make_session(user)
    assert await store.insert_session(session, user.password_hash)
    assert await store.fetch_session_user(session.token_hash, session.expires_at - 1) == user
    assert await store.fetch_session_user(session.token_hash, session.expires_at) is None
    assert await store.fetch_session_user(bytes(31) + b"x", 0) is None
    await store.delete_session(session.token_hash)
    assert await store.fetch_session_user(session.token_hash, 0) is None
    await store.delete_session(session.token_hash)


async def test_sessions_do_not_pile_up(store: AccountStore) -> None:
    user, other = make_user(), make_user()
    await store.insert_user(user)
    await store.insert_user(other)
    foreign = make_session(other, 1_000)
    assert await store.insert_session(foreign, other.password_hash)
    expired = make_session(other, 1_001, expires_at=5)
    assert await store.insert_session(expired._replace(created_at=1), other.password_hash)
    for number in range(MAX_SESSIONS + 2):
        assert await store.insert_session(make_session(user, number), user.password_hash)
    alive = [
        await store.fetch_session_user(number.to_bytes(32), 0) is not None
        for number in range(MAX_SESSIONS + 2)
    ]
    assert alive == [False, False] + [True] * MAX_SESSIONS
    assert await store.fetch_session_user(foreign.token_hash, 0) == other
    assert await store.fetch_session_user(expired.token_hash, 0) is None


async def test_a_new_password_ends_every_session(store: AccountStore) -> None:
    user, other = make_user(), make_user()
    await store.insert_user(user)
    await store.insert_user(other)
    for number, owner in enumerate((user, user, other)):
        assert await store.insert_session(make_session(owner, number), owner.password_hash)
    assert not await store.change_password(user.id, "wrong", "new")
    assert not await store.change_password(new_id(), "$argon2id$1", "new")
    assert await store.fetch_session_user(bytes(32), 0) == user
    assert await store.change_password(user.id, "$argon2id$1", "new")
    found = [await store.fetch_session_user(number.to_bytes(32), 0) for number in range(3)]
    assert found == [None, None, other]
    # Whose password was checked before it changed comes too late.
    assert not await store.insert_session(make_session(user, 4), "$argon2id$1")
    assert await store.insert_session(make_session(user, 5), "new")


async def test_no_session_outlives_a_change_of_the_password_beside_it(store: AccountStore) -> None:
    user = make_user()
    await store.insert_user(user)
    hashes = ["$argon2id$1"] + [f"h{number}" for number in range(10)]
    for before, after in itertools.pairwise(hashes):
        sessions = [make_session(user, number + 1_000 * len(after)) for number in range(4)]
        await asyncio.gather(
            *(store.insert_session(session, before) for session in sessions),
            store.change_password(user.id, before, after),
        )
        for session in sessions:
            assert await store.fetch_session_user(session.token_hash, 0) is None


# ---------------------------------------------------------------- members


async def test_members_are_shown_with_name_and_address(store: AccountStore) -> None:
    tenant, users, members = await make_members(store, "OWNER", "VIEWER")
    views = await store.list_members(tenant.id, 10)
    assert views == [(member, user.email, user.name) for member, user in zip(members, users, strict=True)]
    assert await store.list_members(tenant.id, 1) == views[:1]
    assert await store.fetch_member_by_id(tenant.id, members[1].id) == views[1]
    assert await store.fetch_member(tenant.id, users[1].id) == members[1]
    assert await store.is_member_email(tenant.id, users[1].email.upper())
    other, _, (foreign,) = await make_members(store, "OWNER")
    assert await store.fetch_member_by_id(tenant.id, foreign.id) is None
    assert await store.fetch_member(other.id, users[1].id) is None
    assert not await store.is_member_email(other.id, users[1].email)


async def test_a_member_is_changed_only_as_believed(store: AccountStore) -> None:
    _, _, (owner, member) = await make_members(store, "OWNER", "MEMBER")
    assert not await store.change_member(member._replace(role="ADMIN"), owner, "VIEWER", None, 5)
    assert not await store.change_member(member, owner._replace(role="ADMIN"), "VIEWER", None, 5)
    assert not await store.change_member(member._replace(tenant_id=new_id()), owner, "VIEWER", None, 5)
    assert await store.change_member(member, owner, "VIEWER", False, 5)
    changed = member._replace(role="VIEWER", can_view_payloads=False, updated_at=5)
    assert await store.fetch_member(member.tenant_id, member.user_id) == changed
    assert await store.change_member(changed, owner, "ADMIN", None, 6)
    assert await store.fetch_member(member.tenant_id, member.user_id) == changed._replace(
        role="ADMIN", updated_at=6
    )
    assert not await store.delete_member(member, owner)
    assert await store.delete_member(changed._replace(role="ADMIN"), owner)
    assert await store.fetch_member(member.tenant_id, member.user_id) is None


async def test_two_owners_cannot_unseat_each_other(store: AccountStore) -> None:
    for _ in range(5):
        tenant, _, (one, two) = await make_members(store, "OWNER", "OWNER")
        done = await asyncio.gather(
            store.change_member(one, two, "MEMBER", None, 5), store.delete_member(two, one)
        )
        assert sorted(done) == [False, True]
        roles = [view.member.role for view in await store.list_members(tenant.id, 10)]
        assert "OWNER" in roles


# ---------------------------------------------------------------- invites


async def test_an_invite_makes_one_member(store: AccountStore) -> None:
    tenant, (owner,), _ = await make_members(store, "OWNER")
    user = make_user("guest@example.com")
    await store.insert_user(user)
    invite = make_invite(tenant, user.email, role="VIEWER", can_view_payloads=False)
    assert await store.insert_invite(invite, 10)
    assert await store.list_invites(tenant.id, 0) == [invite]
    assert await store.list_invites_of(user.email, 0, 10) == [InviteView(invite, tenant.name)]
    assert await store.fetch_invite(tenant.id, invite.id, 0) == invite
    assert await store.fetch_invite(new_id(), invite.id, 0) is None
    assert await store.accept_invite(invite.id, owner.email, new_id(), owner.id, 5) is None
    assert await store.accept_invite(invite.id, user.email, new_id(), user.id, invite.expires_at) is None
    member_id = new_id()
    done = await asyncio.gather(
        *(store.accept_invite(invite.id, user.email, member_id, user.id, 5) for _ in range(3))
    )
    assert sorted(done, key=str) == [None, None, invite] or sorted(done, key=str) == [invite, None, None]
    assert await store.fetch_member(tenant.id, user.id) == TenantMemberRow(
        member_id, tenant.id, user.id, "VIEWER", 5, False
    )
    assert await store.list_invites(tenant.id, 0) == []


async def test_who_is_a_member_already_keeps_their_role(store: AccountStore) -> None:
    tenant, (owner,), (member,) = await make_members(store, "OWNER")
    invite = make_invite(tenant, owner.email.lower(), role="VIEWER")
    assert await store.insert_invite(invite, 10)
    assert await store.accept_invite(invite.id, invite.email, new_id(), owner.id, 5) == invite
    assert await store.fetch_member(tenant.id, owner.id) == member


async def test_invites_are_limited_and_once_an_address(store: AccountStore) -> None:
    tenant, other = make_tenant(), make_tenant()
    await store.insert_tenant(tenant)
    await store.insert_tenant(other)
    old = make_invite(tenant, "old@example.com", expires_at=now_us() - 1)
    assert await store.insert_invite(old._replace(created_at=1), 2)
    assert await store.list_invites(tenant.id, now_us()) == []
    one, two = make_invite(tenant, "one@example.com"), make_invite(tenant, "two@example.com")
    assert await store.insert_invite(one, 2)
    with pytest.raises(RefusedRecords):
        await store.insert_invite(make_invite(tenant, "one@example.com"), 2)
    # The expired one has made room.
    assert await store.insert_invite(two, 2)
    assert not await store.insert_invite(make_invite(tenant, "three@example.com"), 2)
    assert await store.insert_invite(make_invite(other, "one@example.com"), 2)
    with pytest.raises(RefusedRecords):
        await store.insert_invite(make_invite(tenant, "Upper@example.com"), 10)
    with pytest.raises(RefusedRecords):
        await store.insert_invite(make_invite(make_tenant(), "four@example.com"), 10)


async def test_an_invite_is_changed_rejected_and_deleted(store: AccountStore) -> None:
    tenant = make_tenant()
    await store.insert_tenant(tenant)
    one, two = make_invite(tenant, "one@example.com"), make_invite(tenant, "two@example.com")
    assert await store.insert_invite(one, 5)
    assert await store.insert_invite(two, 5)
    assert await store.update_invite(one._replace(tenant_id=new_id()), "ADMIN", None, 5) is None
    assert await store.update_invite(one._replace(role="OWNER"), "ADMIN", None, 5) is None
    assert await store.update_invite(one, "ADMIN", None, one.expires_at) is None
    changed = one._replace(role="ADMIN", can_view_payloads=False, updated_at=5)
    assert await store.update_invite(one, "ADMIN", False, 5) == changed
    assert not await store.delete_invite(one)
    assert not await store.delete_invite(changed._replace(tenant_id=new_id()))
    assert await store.delete_invite(changed)
    assert await store.reject_invite(two.id, one.email, 5) is None
    assert await store.reject_invite(two.id, two.email, 5) == two
    assert await store.list_invites(tenant.id, 0) == []


# ---------------------------------------------------------------- e-mail groups, owners


async def test_email_groups_belong_to_a_tenant(store: AccountStore) -> None:
    tenant = make_tenant()
    await store.insert_tenant(tenant)
    group = EmailGroupRow(new_id(), tenant.id, ("a@example.com", "b@example.com"), 1, 1)
    assert await store.insert_email_group(group, 1)
    assert not await store.insert_email_group(group._replace(id=new_id()), 1)
    with pytest.raises(RefusedRecords):
        await store.insert_email_group(group._replace(id=new_id(), emails=()), 5)
    assert await store.list_email_groups(tenant.id) == [group]
    assert await store.update_email_group(new_id(), group.id, ["c@example.com"], 5) is None
    changed = group._replace(emails=("c@example.com",), updated_at=5)
    assert await store.update_email_group(tenant.id, group.id, ["c@example.com"], 5) == changed
    assert not await store.delete_email_group(new_id(), group.id)
    assert await store.delete_email_group(tenant.id, group.id)
    assert await store.list_email_groups(tenant.id) == []


async def test_an_owner_is_found_among_the_tenants_asked_for(store: AccountStore) -> None:
    tenant = make_tenant()
    await store.insert_tenant(tenant)
    token = ApiTokenRow(new_id(), tenant.id, "ci", now_us(), now_us() + DAY_US, None)
    await store.insert_token(token)
    group = EmailGroupRow(new_id(), tenant.id, ("a@example.com",), 1, 1)
    assert await store.insert_email_group(group, 1)
    for resource_id in (token.id, group.id):
        assert await store.find_owner(resource_id, [new_id(), tenant.id]) == tenant.id
        assert await store.find_owner(resource_id, [new_id()]) is None
        assert await store.find_owner(resource_id, []) is None
    assert await store.find_owner(new_id(), [tenant.id]) is None


async def test_owners_of_runs_workers_workflows_and_events_are_found(writer: Writer) -> None:
    run, ended, worker, version, event = (
        make_task_run(),
        make_task_run(),
        make_worker(),
        make_version(),
        make_event(),
    )
    await writer.commit(created=[run, ended], workers=[worker], workflow_versions=[version], events=[event])
    await writer.commit(finished=[make_finish(ended)])
    for resource_id in (run.id, ended.id, worker.id, version.workflow_id, event.id):
        assert await writer.store.find_owner(resource_id, [new_id(), TENANT]) == TENANT
        assert await writer.store.find_owner(resource_id, [new_id()]) is None
