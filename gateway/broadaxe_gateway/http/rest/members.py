"""Members of a tenant and invites to it (rest 10). The store of people alone is touched.

Owners alone touch owners, and nobody touches themselves: so a tenant always has one. What was checked here is compared once more in the
statement that makes the change.
"""

from http import HTTPStatus
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from broadaxe_actors.runtime.clock import SystemRng
from broadaxe_gateway.http.auth import Access, Admin, AdminPerson, Role, people_of
from broadaxe_gateway.http.errors import RouteRefused
from broadaxe_gateway.http.rest.dependencies import Tenant, unknown
from broadaxe_gateway.http.rest.models.accounts import (
    CreateInviteRequest,
    Invite,
    InviteList,
    Member,
    MemberList,
    MemberRole,
    UpdateMemberRequest,
)
from broadaxe_gateway.http.rest.models.common import answer, made
from broadaxe_gateway.http.rest.present_accounts import invite_of, member_of
from broadaxe_gateway.http.rest.users import now_us
from broadaxe_gateway.http.throttle import limited
from broadaxe_storage.account_store import AccountStore
from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.records_accounts import InviteRow, MemberView, TenantMemberRow

MAX_MEMBERS = 10_000
"""Shown at once."""
INVITE_LIFETIME_US = 7 * 86_400_000_000

router = APIRouter(prefix="/api/v1/tenants/{tenant}")
rng = SystemRng()


def _actor(access: Access) -> TenantMemberRow:
    assert access.member is not None, "the route is for people"
    return access.member


def _meanwhile() -> RouteRefused:
    return RouteRefused(HTTPStatus.BAD_REQUEST, "somebody else has changed this meanwhile: look again")


# ---------------------------------------------------------------- members


@router.get("/members", response_model=MemberList)
async def list_members(tenant: Tenant, request: Request) -> Response:
    views = await people_of(request).store.list_members(tenant, MAX_MEMBERS)
    return await made(lambda: MemberList(rows=[member_of(view) for view in views]), len(views))


@router.patch("/members/{member}", response_model=Member)
async def update_member(
    member: UUID, body: UpdateMemberRequest, access: AdminPerson, request: Request
) -> Response:
    store, actor = people_of(request).store, _actor(access)
    view = await _fetch_member(store, access.tenant_id, member)
    if view.member.id == actor.id:
        raise RouteRefused(HTTPStatus.BAD_REQUEST, "nobody can change their own role")
    if access.role < Role.OWNER and MemberRole.OWNER in (body.role, view.member.role):
        raise RouteRefused(HTTPStatus.BAD_REQUEST, "owners alone can make or change an owner")
    if not await store.change_member(view.member, actor, body.role, body.can_view_payloads, now_us()):
        raise _meanwhile()
    return await answer(member_of(await _fetch_member(store, access.tenant_id, member)))


@router.delete("/members/{member}", status_code=HTTPStatus.NO_CONTENT)
async def delete_member(member: UUID, access: AdminPerson, request: Request) -> Response:
    store, actor = people_of(request).store, _actor(access)
    if access.role < Role.OWNER:
        raise RouteRefused(HTTPStatus.FORBIDDEN, "owners alone can remove members")
    view = await _fetch_member(store, access.tenant_id, member)
    if view.member.id == actor.id:
        raise RouteRefused(HTTPStatus.FORBIDDEN, "nobody can remove themselves")
    if not await store.delete_member(view.member, actor):
        raise _meanwhile()
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _fetch_member(store: AccountStore, tenant_id: str, member_id: UUID) -> MemberView:
    found = await store.fetch_member_by_id(tenant_id, str(member_id))
    if found is None:
        raise unknown("member", member_id)
    return found


# ---------------------------------------------------------------- invites


@router.get("/invites", response_model=InviteList)
async def list_invites(access: Admin, request: Request) -> Response:
    rows = await people_of(request).store.list_invites(access.tenant_id, now_us())
    return await made(lambda: InviteList(rows=[invite_of(row) for row in rows]), len(rows))


@router.post(
    "/invites",
    response_model=Invite,
    status_code=HTTPStatus.CREATED,
    dependencies=[Depends(limited("invite"))],
)
async def create_invite(body: CreateInviteRequest, access: AdminPerson, request: Request) -> Response:
    people = people_of(request)
    if not people.config.allows_invites:
        raise RouteRefused(
            HTTPStatus.BAD_REQUEST, "nobody can be invited on this server (SERVER_ALLOW_INVITES)"
        )
    _check_owner(access, body.role)
    email, now = body.email.lower(), now_us()
    if await people.store.is_member_email(access.tenant_id, email):
        raise RouteRefused(HTTPStatus.BAD_REQUEST, f"{email} is a member already")
    invite = InviteRow(
        rng.uuid7(now),
        access.tenant_id,
        email,
        body.role,
        body.can_view_payloads is not False,
        now,
        now,
        now + INVITE_LIFETIME_US,
    )
    try:
        is_inserted = await people.store.insert_invite(invite, people.config.max_pending_invites)
    except RefusedRecords:
        raise RouteRefused(HTTPStatus.BAD_REQUEST, f"{email} is invited already") from None
    if not is_inserted:
        raise RouteRefused(
            HTTPStatus.BAD_REQUEST,
            f"{people.config.max_pending_invites} invites wait already, the most that may (SERVER_MAX_PENDING_INVITES)",
        )
    response = await answer(invite_of(invite))
    response.status_code = HTTPStatus.CREATED
    return response


@router.patch("/invites/{invite}", response_model=Invite)
async def update_invite(
    invite: UUID, body: UpdateMemberRequest, access: AdminPerson, request: Request
) -> Response:
    store = people_of(request).store
    row = await _fetch_invite(store, access.tenant_id, invite)
    _check_owner(access, body.role, row.role)
    changed = await store.update_invite(row, body.role, body.can_view_payloads, now_us())
    if changed is None:
        raise _meanwhile()
    return await answer(invite_of(changed))


@router.delete("/invites/{invite}", response_model=Invite)
async def delete_invite(invite: UUID, access: AdminPerson, request: Request) -> Response:
    store = people_of(request).store
    row = await _fetch_invite(store, access.tenant_id, invite)
    _check_owner(access, row.role)
    if not await store.delete_invite(row):
        raise _meanwhile()
    return await answer(invite_of(row))


async def _fetch_invite(store: AccountStore, tenant_id: str, invite_id: UUID) -> InviteRow:
    found = await store.fetch_invite(tenant_id, str(invite_id), now_us())
    if found is None:
        raise unknown("invite", invite_id)
    return found


def _check_owner(access: Access, *roles: str) -> None:
    if access.role < Role.OWNER and MemberRole.OWNER in roles:
        raise RouteRefused(HTTPStatus.BAD_REQUEST, "owners alone can invite owners")
