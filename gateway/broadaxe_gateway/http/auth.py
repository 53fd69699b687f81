"""Who is asking, and what they may: an API token in `Authorization: Bearer`, else a person by their session cookie.

Uses the token service, the sessions and the store of people. In order: the credentials (403), what they show besides (403 for a forged
request, 401 for an address that is not verified), the tenant of the path or of the resource in it (403 or 404), the role (401). Nothing of a
tenant is read before the first, so that ids tell nobody anything.

`authenticate` is behind every route that is not public: `openapi` and the tests of authorisation tell public routes by that.
"""

from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus
from typing import Annotated, NamedTuple, cast
from uuid import UUID

from fastapi import Depends, Request

from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.auth_config import AuthConfig
from broadaxe_gateway.http.errors import RequestRefused
from broadaxe_gateway.http.forgery import check_not_forged
from broadaxe_gateway.http.rest.models.common import payloads_hidden
from broadaxe_gateway.passwords import PasswordWork
from broadaxe_gateway.sessions import Person, Sessions
from broadaxe_gateway.tokens import Identity, TokenService, Unauthenticated
from broadaxe_storage.account_store import AccountStore
from broadaxe_storage.records_accounts import TenantMemberRow

FORBIDDEN_TEXT = "no valid credentials: the API token is missing, malformed, expired, revoked or not of this server, and nobody is signed in"
TENANT_TEXT = "these credentials are not of this tenant"
PERSON_TEXT = "an API token cannot do this: sign in as a person"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Role(IntEnum):
    """Of a person in a tenant; each may do what those below it may."""

    VIEWER = 1
    MEMBER = 2
    ADMIN = 3
    OWNER = 4


class Access(NamedTuple):
    """Somebody within a tenant."""

    tenant_id: str
    role: Role
    """An API token may do all that its tenant's owner may, unless a route is for people."""
    member: TenantMemberRow | None = None
    """None for an API token."""
    person: Person | None = None
    """None for an API token."""


@dataclass(frozen=True, slots=True)
class People:
    """What the routes of people work with."""

    store: AccountStore
    sessions: Sessions
    passwords: PasswordWork
    config: AuthConfig
    server_url: str


def people_of(request: Request) -> People:
    return cast(People, request.app.state.people)


async def authenticate(request: Request) -> Identity | Person:
    """The token's identity, or the person who is signed in. A header decides alone, so that nobody takes a wrong token for a right cookie."""
    if "authorization" in request.headers:
        return await _by_token(request, request.headers["authorization"])
    people = people_of(request)
    cookie = request.cookies.get(people.config.cookie_name, "")
    person = await people.sessions.find(cookie) if cookie else None
    if person is None:
        raise RequestRefused(HTTPStatus.FORBIDDEN, FORBIDDEN_TEXT)
    if request.method not in SAFE_METHODS:
        check_not_forged(request, person, people.server_url)
    return person


async def _by_token(request: Request, header: str) -> Identity:
    tokens = cast(TokenService, request.app.state.tokens)
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise RequestRefused(HTTPStatus.FORBIDDEN, FORBIDDEN_TEXT)
    try:
        return await tokens.verify(token.strip())
    except Unauthenticated:
        raise RequestRefused(HTTPStatus.FORBIDDEN, FORBIDDEN_TEXT) from None


Credentials = Annotated[Identity | Person, Depends(authenticate)]


# ---------------------------------------------------------------- people


async def _signed_in(credentials: Credentials) -> Person:
    if isinstance(credentials, Identity):
        raise RequestRefused(HTTPStatus.UNAUTHORIZED, PERSON_TEXT)
    return credentials


SignedIn = Annotated[Person, Depends(_signed_in)]
"""A person, verified or not."""


async def verified(person: SignedIn) -> Person:
    if not person.user.is_email_verified:
        raise RequestRefused(
            HTTPStatus.UNAUTHORIZED,
            "your e-mail address is not verified: ask who runs this server (SERVER_AUTH_SET_EMAIL_VERIFIED)",
        )
    return person


Verified = Annotated[Person, Depends(verified)]


def is_for_people(dependency: object) -> bool:
    """Whether a dependency of a route turns API tokens away."""
    return (
        dependency is verified or dependency is _signed_in or getattr(dependency, "for_people", False) is True
    )


# ---------------------------------------------------------------- tenants


async def access_to(request: Request, tenant_id: str, credentials: Identity | Person, needed: Role) -> Access:
    """What the credentials may in a tenant. Raises `RequestRefused`: 403 in another's tenant, known or not, 401 for a lesser role."""
    payloads_hidden.set(False)
    if isinstance(credentials, Identity):
        if credentials.tenant_id != tenant_id:
            raise RequestRefused(HTTPStatus.FORBIDDEN, TENANT_TEXT)
        return Access(tenant_id, Role.OWNER)
    person = await verified(credentials)
    member = await people_of(request).store.fetch_member(tenant_id, person.user.id)
    if member is None:
        raise RequestRefused(HTTPStatus.FORBIDDEN, TENANT_TEXT)
    role = Role[member.role]
    if role < needed:
        raise RequestRefused(
            HTTPStatus.UNAUTHORIZED, f"you are {role.name} in this tenant, and this needs {needed.name}"
        )
    payloads_hidden.set(role < Role.ADMIN and not member.can_view_payloads)
    return Access(tenant_id, role, member, person)


def role_for(method: str) -> Role:
    """What a method needs where a route does not say more."""
    return Role.VIEWER if method in SAFE_METHODS else Role.MEMBER


async def _tenant_of_resource(request: Request, person: Person) -> str:
    (name, text) = next(iter(request.path_params.items()))
    try:
        resource_id = str(UUID(str(text)))
    except ValueError:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"path.{name}: expected a UUID") from None
    await verified(person)
    store = people_of(request).store
    tenants = [member.tenant_id for member in await store.list_memberships(person.user.id)]
    found = await store.find_owner(resource_id, tenants) if tenants else None
    if found is None:
        raise Refused(Code.NOT_FOUND, f"{name} {resource_id} is not known")
    return found


class Needs:
    """A dependency that lets in who may do something. A route has the tenant in its path, or a resource that tells it.

    role: at least this; None for what the method says. for_people: 401 for an API token.
    """

    def __init__(self, role: Role | None = None, *, for_people: bool = False) -> None:
        self.role = role
        self.for_people = for_people

    async def check(self, request: Request, tenant_id: str, credentials: Identity | Person) -> Access:
        role = role_for(request.method) if self.role is None else self.role
        return await access_to(request, tenant_id, credentials, role)

    def refuse_token(self, credentials: Identity | Person) -> None:
        if self.for_people and isinstance(credentials, Identity):
            raise RequestRefused(HTTPStatus.UNAUTHORIZED, PERSON_TEXT)


class OfTenant(Needs):
    """With the tenant in the path, or in the query where the path has none."""

    async def __call__(self, tenant: UUID, request: Request, credentials: Credentials) -> Access:
        self.refuse_token(credentials)
        return await self.check(request, str(tenant), credentials)


class OfResource(Needs):
    """With a resource in the path and no tenant. A person is asked for in the tenant of theirs that has the resource, a token in its own."""

    async def __call__(self, request: Request, credentials: Credentials) -> Access:
        self.refuse_token(credentials)
        tenant_id = (
            credentials.tenant_id
            if isinstance(credentials, Identity)
            else await _tenant_of_resource(request, credentials)
        )
        return await self.check(request, tenant_id, credentials)


Caller = Annotated[Access, Depends(OfResource())]
InTenant = Annotated[Access, Depends(OfTenant())]
CallerAdmin = Annotated[Access, Depends(OfResource(Role.ADMIN))]
CallerAdminPerson = Annotated[Access, Depends(OfResource(Role.ADMIN, for_people=True))]
Admin = Annotated[Access, Depends(OfTenant(Role.ADMIN))]
AdminPerson = Annotated[Access, Depends(OfTenant(Role.ADMIN, for_people=True))]
