"""People: register, sign in and out, password, memberships, invites to them (rest 11). The store of people alone is touched.

What goes wrong at signing in is told in one text, after the same work, so that nobody learns which addresses have an account.
"""

import logging
import time
from http import HTTPStatus

from fastapi import APIRouter, Depends, Request, Response

from broadaxe_actors.runtime.clock import SystemRng
from broadaxe_gateway.http.auth import People, SignedIn, Verified, people_of
from broadaxe_gateway.http.errors import RouteRefused
from broadaxe_gateway.http.forgery import check_same_site
from broadaxe_gateway.http.rest.models.accounts import (
    ChangePasswordRequest,
    InviteList,
    InviteRequest,
    LoginRequest,
    MemberList,
    RegisterRequest,
    User,
)
from broadaxe_gateway.http.rest.models.common import answer
from broadaxe_gateway.http.rest.present_accounts import invite_of, member_of, tenant_of, user_of
from broadaxe_gateway.http.throttle import limited
from broadaxe_gateway.passwords import password_problem
from broadaxe_gateway.sessions import LIFETIME_SECONDS, Person, csrf_token
from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.records_accounts import InviteRow, MemberView, UserRow

logger = logging.getLogger("broadaxe.people")

MAX_INVITES = 100
"""Shown at once to whom they are for."""
MAX_MEMBERSHIPS = 100
"""Of one person; then they can neither create tenants nor accept invites."""
LOGIN_TEXT = "the e-mail address or the password is wrong"
REGISTER_TEXT = "this account cannot be registered"
INVITE_TEXT = "this invite is not known, has expired, or is for another address"

router = APIRouter(prefix="/api/v1/users")
rng = SystemRng()


def now_us() -> int:
    return time.time_ns() // 1000


# ---------------------------------------------------------------- signing in and out


@router.post("/register", response_model=User, dependencies=[Depends(limited("register"))])
async def register(body: RegisterRequest, request: Request) -> Response:
    people = people_of(request)
    check_same_site(request, people.server_url)
    _check_local_login(people)
    if not people.config.allows_signup:
        raise RouteRefused(HTTPStatus.BAD_REQUEST, "nobody can register on this server (SERVER_ALLOW_SIGNUP)")
    _check_new_password(body.password)
    password_hash = await people.passwords.hash(body.password)
    domain = body.email.rpartition("@")[2].lower()
    if people.config.email_domains and domain not in people.config.email_domains:
        raise RouteRefused(HTTPStatus.BAD_REQUEST, REGISTER_TEXT)
    now = now_us()
    user = UserRow(
        rng.uuid7(now), body.email, body.name, password_hash, now, people.config.sets_email_verified
    )
    try:
        await people.store.insert_user(user)
    except RefusedRecords:
        raise RouteRefused(HTTPStatus.BAD_REQUEST, REGISTER_TEXT) from None
    return await _signed_in(people, user)


@router.post("/login", response_model=User, dependencies=[Depends(limited("login"))])
async def login(body: LoginRequest, request: Request) -> Response:
    people = people_of(request)
    check_same_site(request, people.server_url)
    _check_local_login(people)
    user = await people.store.fetch_user_by_email(body.email)
    is_right = await people.passwords.is_password(body.password, None if user is None else user.password_hash)
    if user is None or not is_right:
        logger.info("a sign-in was refused")
        raise RouteRefused(HTTPStatus.BAD_REQUEST, LOGIN_TEXT)
    return await _signed_in(people, user)


@router.post("/logout", response_model=User, dependencies=[Depends(limited("logout"))])
async def logout(person: SignedIn, request: Request) -> Response:
    people = people_of(request)
    await people.sessions.end(person)
    response = await answer(user_of(person.user))
    _set_cookies(response, people, None)
    return response


@router.get("/current", response_model=User)
async def get_current_user(person: SignedIn) -> Response:
    return await answer(user_of(person.user))


@router.post("/password", response_model=User, dependencies=[Depends(limited("password"))])
async def change_password(body: ChangePasswordRequest, person: Verified, request: Request) -> Response:
    """Every session of the person ends; this browser gets a new one."""
    people = people_of(request)
    _check_local_login(people)
    if not people.config.allows_change_password:
        raise RouteRefused(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "passwords cannot be changed on this server (SERVER_ALLOW_CHANGE_PASSWORD)",
        )
    _check_new_password(body.new_password)
    user = person.user
    if not await people.passwords.is_password(body.password, user.password_hash):
        raise RouteRefused(HTTPStatus.BAD_REQUEST, "the present password is wrong")
    new_hash = await people.passwords.hash(body.new_password)
    if not await people.store.change_password(user.id, user.password_hash or "", new_hash):
        raise RouteRefused(HTTPStatus.BAD_REQUEST, "the present password is wrong")
    return await _signed_in(people, user._replace(password_hash=new_hash))


def _check_local_login(people: People) -> None:
    if not people.config.is_basic_auth_enabled:
        raise RouteRefused(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "nobody signs in by password on this server (SERVER_AUTH_BASIC_AUTH_ENABLED)",
        )


def _check_new_password(password: str) -> None:
    problem = password_problem(password)
    if problem:
        raise RouteRefused(HTTPStatus.BAD_REQUEST, f"the password {problem}")


async def _signed_in(people: People, user: UserRow) -> Response:
    """The answer that begins a session."""
    person = await people.sessions.begin(user)
    if person is None:
        raise RouteRefused(HTTPStatus.BAD_REQUEST, LOGIN_TEXT)
    response = await answer(user_of(user))
    _set_cookies(response, people, person)
    return response


def _set_cookies(response: Response, people: People, person: Person | None) -> None:
    """Those of a session, or none any more. The second one may be read by our own pages, to show it in a header."""
    config = people.config
    values = ("", "") if person is None else (people.sessions.cookie(person), csrf_token(person))
    for name, value, is_readable in zip(
        (config.cookie_name, f"{config.cookie_name}_csrf"), values, (False, True), strict=True
    ):
        response.set_cookie(
            name,
            value,
            max_age=0 if person is None else LIFETIME_SECONDS,
            domain=config.cookie_domain or None,
            secure=not config.is_cookie_insecure,
            httponly=not is_readable,
            samesite="lax",
        )


# ---------------------------------------------------------------- tenants of a person


@router.get("/memberships", response_model=MemberList)
async def list_memberships(person: Verified, request: Request) -> Response:
    people = people_of(request)
    members = await people.store.list_memberships(person.user.id)
    tenants = {row.id: row for row in await people.store.fetch_tenants([row.tenant_id for row in members])}
    return await answer(
        MemberList(
            rows=[
                member_of(
                    MemberView(member, person.user.email, person.user.name),
                    tenant_of(tenants[member.tenant_id], people.server_url),
                )
                for member in members
                if member.tenant_id in tenants
            ]
        )
    )


@router.get("/invites", response_model=InviteList)
async def list_invites(person: Verified, request: Request) -> Response:
    found = await people_of(request).store.list_invites_of(person.user.email.lower(), now_us(), MAX_INVITES)
    return await answer(InviteList(rows=[invite_of(view.invite, view.tenant_name) for view in found]))


@router.post("/invites/accept")
async def accept_invite(body: InviteRequest, person: Verified, request: Request) -> Response:
    people = people_of(request)
    await check_room_for_tenant(people, person)
    now = now_us()
    invite = await people.store.accept_invite(
        str(body.invite), person.user.email.lower(), rng.uuid7(now), person.user.id, now
    )
    return _used(invite)


@router.post("/invites/reject")
async def reject_invite(body: InviteRequest, person: Verified, request: Request) -> Response:
    store = people_of(request).store
    return _used(await store.reject_invite(str(body.invite), person.user.email.lower(), now_us()))


def _used(invite: InviteRow | None) -> Response:
    if invite is None:
        raise RouteRefused(HTTPStatus.BAD_REQUEST, INVITE_TEXT)
    return Response()


async def check_room_for_tenant(people: People, person: Person) -> None:
    """Raises `RouteRefused` for who is in as many tenants as one may be in."""
    if len(await people.store.list_memberships(person.user.id)) >= MAX_MEMBERSHIPS:
        raise RouteRefused(
            HTTPStatus.BAD_REQUEST,
            f"you are a member of {MAX_MEMBERSHIPS} tenants already, the most that one may",
        )
