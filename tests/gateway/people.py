"""People for an application under test, over a store in memory. Passwords are hashed as always; tests sign in as few times as they can."""

from broadaxe_gateway.auth_config import AuthConfig
from broadaxe_gateway.http.auth import People
from broadaxe_gateway.passwords import PasswordWork
from broadaxe_gateway.sessions import Person, Sessions, csrf_token
from broadaxe_storage.memory import MemoryStore
from broadaxe_storage.records_accounts import TenantMemberRow, TenantRow, UserRow
from tests.factories import new_id, now_us

SECRETS = (b"secret of these tests",)
URL = "http://test"


def make_people(config: AuthConfig | None = None, store: MemoryStore | None = None) -> People:
    store = store or MemoryStore()
    return People(store, Sessions(store, SECRETS), PasswordWork(), config or AuthConfig(), URL)


async def join(people: People, tenant_id: str, role: str, **fields: object) -> UserRow:
    """A new user with a role in a tenant, which is made if it is new."""
    if await people.store.fetch_tenant(tenant_id) is None:
        await people.store.insert_tenant(TenantRow(tenant_id, "Acme", f"acme-{tenant_id}", now_us()))
    user = UserRow(new_id(), f"{new_id()}@example.com", role.title(), None, now_us())
    await people.store.insert_user(user)
    member = TenantMemberRow(new_id(), tenant_id, user.id, role, now_us())
    await people.store.put_member(member._replace(**fields))  # type: ignore[arg-type]
    return user


async def sign_in(people: People, user: UserRow) -> Person:
    person = await people.sessions.begin(user)
    assert person is not None
    return person


def headers_of(people: People, person: Person) -> dict[str, str]:
    """What a browser sends for somebody who is signed in, from the server's own page."""
    name = people.config.cookie_name
    return {
        "Cookie": f"{name}={people.sessions.cookie(person)}; {name}_csrf={csrf_token(person)}",
        "X-CSRF-Token": csrf_token(person),
        "Origin": URL,
        "Sec-Fetch-Site": "same-origin",
    }
