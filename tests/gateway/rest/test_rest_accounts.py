"""Users, tenants, members and invites through the application; the store is the one in memory."""

import asyncio
import time

import httpx
import pytest

from broadaxe_gateway.http.rest.users import INVITE_TEXT, LOGIN_TEXT, MAX_MEMBERSHIPS, REGISTER_TEXT
from broadaxe_gateway.passwords import hash_password
from tests.factories import make_tenant, new_id
from tests.gateway.people import headers_of, join, sign_in
from tests.gateway.rest.fakes import OTHER_TENANT, TENANT, Rest

USERS = "/api/v1/users"
MEMBERS = f"/api/v1/tenants/{TENANT}/members"
INVITES = f"/api/v1/tenants/{TENANT}/invites"
PASSWORD = "Secret123"
HASH = hash_password(PASSWORD)
ANNA = {"name": "Anna", "email": "Anna@Example.com", "password": PASSWORD}
VERIFIED = {"SERVER_AUTH_SET_EMAIL_VERIFIED": "true", "SERVER_AUTH_COOKIE_INSECURE": "true"}


class Browser:
    """Keeps cookies, and shows the proof that belongs to them, as a page of the server does."""

    def __init__(self, rest: Rest) -> None:
        self.rest = rest
        transport = httpx.ASGITransport(rest.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def __call__(self, method: str, path: str, body=None, **headers) -> httpx.Response:
        proof = self.client.cookies.get("hatchet_csrf")
        given = {"X-CSRF-Token": proof} if proof else {}
        return await self.client.request(method, path, json=body, headers=given | headers)

    async def become(self, user) -> None:
        person = await sign_in(self.rest.people, user)
        cookies = dict(
            part.split("=", 1) for part in headers_of(self.rest.people, person)["Cookie"].split("; ")
        )
        self.client.cookies.clear()
        self.client.cookies.update(cookies)


@pytest.fixture
async def browser_of():
    browsers = []

    def make(**settings: str) -> Browser:
        browsers.append(Browser(Rest(**(VERIFIED | settings))))
        return browsers[-1]

    yield make
    for browser in browsers:
        await browser.client.aclose()
        await browser.rest.client.aclose()
        browser.rest.people.passwords.close()


@pytest.fixture
def browser(browser_of):
    return browser_of()


def description(answer: httpx.Response) -> str:
    (error,) = answer.json()["errors"]
    return error["description"]


# ---------------------------------------------------------------- users


async def test_a_person_registers_signs_out_and_in(browser):
    made = await browser("POST", f"{USERS}/register", ANNA)
    assert made.status_code == 200, made.text
    user = made.json()
    assert (user["name"], user["email"], user["emailVerified"], user["hasPassword"]) == (
        "Anna",
        "Anna@Example.com",
        True,
        True,
    )
    session, proof = made.headers.get_list("set-cookie")
    assert session.startswith("hatchet=")
    for attribute in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=2592000"):
        assert attribute in session
    assert "Secure" not in session
    assert "HttpOnly" not in proof
    assert (await browser("GET", f"{USERS}/current")).json() == user
    out = await browser("POST", f"{USERS}/logout")
    assert out.status_code == 200
    assert not browser.client.cookies
    assert (await browser("GET", f"{USERS}/current")).status_code == 403
    again = await browser("POST", f"{USERS}/login", {"email": "anna@example.COM", "password": PASSWORD})
    assert again.json() == user
    assert (await browser("GET", f"{USERS}/memberships")).json() == {"rows": []}
    assert (await browser("GET", f"{USERS}/invites")).json() == {"rows": []}


async def test_the_cookie_is_for_https_unless_said_otherwise(browser_of):
    browser = browser_of(
        SERVER_AUTH_COOKIE_INSECURE="false",
        SERVER_AUTH_COOKIE_NAME="axe",
        SERVER_AUTH_COOKIE_DOMAIN="broadaxe.example:8080",
    )
    cookies = (await browser("POST", f"{USERS}/register", ANNA)).headers.get_list("set-cookie")
    assert [cookie.partition("=")[0] for cookie in cookies] == ["axe", "axe_csrf"]
    assert all("Secure" in cookie and "Domain=broadaxe.example;" in cookie for cookie in cookies)


async def test_nobody_learns_which_addresses_have_an_account(browser):
    user = await join(browser.rest.people, TENANT, "MEMBER")
    users = browser.rest.people.store.disk.users
    users[user.id] = user._replace(password_hash=HASH)
    no_password = await join(browser.rest.people, TENANT, "MEMBER")
    answers = []
    for email in (user.email, no_password.email, "nobody@example.com"):
        started = time.perf_counter()
        answer = await browser("POST", f"{USERS}/login", {"email": email, "password": "Wrong1234"})
        answers.append((answer.status_code, description(answer)))
        seconds = time.perf_counter() - started
        assert seconds > 0.01, "no password was hashed"
        assert "set-cookie" not in answer.headers
    assert answers == [(400, LOGIN_TEXT)] * 3
    taken = await browser("POST", f"{USERS}/register", ANNA | {"email": user.email.upper()})
    assert (taken.status_code, description(taken)) == (400, REGISTER_TEXT)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"password": "short1A"}, "8 to 64"),
        ({"password": "A1" + "x" * 63}, "8 to 64"),
        ({"password": "lowercase1"}, "upper"),
        ({"password": ""}, "password"),
        ({"email": "no-address"}, "email"),
        ({"email": "a@b@example.com"}, "email"),
        ({"email": "a b@example.com"}, "email"),
        ({"email": "a\x00@example.com"}, "email"),
        ({"email": "a" * 250 + "@example.com"}, "email"),
        ({"name": " "}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": None}, "name"),
    ],
)
async def test_what_cannot_be_an_account_is_refused(browser, changed, part):
    answer = await browser("POST", f"{USERS}/register", ANNA | changed)
    assert answer.status_code == 400
    assert part in answer.text
    assert not browser.rest.people.store.disk.users


@pytest.mark.parametrize(
    ("settings", "path", "status"),
    [
        ({"SERVER_AUTH_BASIC_AUTH_ENABLED": "false"}, "register", 405),
        ({"SERVER_AUTH_BASIC_AUTH_ENABLED": "false"}, "login", 405),
        ({"SERVER_ALLOW_SIGNUP": "false"}, "register", 400),
        ({"SERVER_AUTH_RESTRICTED_EMAIL_DOMAINS": "corp.example, other.example"}, "register", 400),
    ],
)
async def test_what_the_settings_forbid_is_refused(browser_of, settings, path, status):
    browser = browser_of(**settings)
    answer = await browser("POST", f"{USERS}/{path}", ANNA)
    assert answer.status_code == status
    assert description(answer)
    assert not browser.rest.people.store.disk.users


async def test_restricted_domains_may_register(browser_of):
    browser = browser_of(SERVER_AUTH_RESTRICTED_EMAIL_DOMAINS="corp.example,Example.com")
    assert (await browser("POST", f"{USERS}/register", ANNA)).status_code == 200
    inside = ANNA | {"email": "a@evil.example@corp.example"}
    assert (await browser("POST", f"{USERS}/register", inside)).status_code == 400


async def test_who_is_not_verified_is_told_so(browser_of):
    browser = browser_of(SERVER_AUTH_SET_EMAIL_VERIFIED="false")
    made = await browser("POST", f"{USERS}/register", ANNA)
    assert made.json()["emailVerified"] is False
    assert (await browser("GET", f"{USERS}/current")).status_code == 200
    for path in ("memberships", "invites"):
        assert (await browser("GET", f"{USERS}/{path}")).status_code == 401
    refused = await browser("POST", "/api/v1/tenants", {"name": "A", "slug": "a"})
    assert refused.status_code == 401
    assert (await browser("POST", f"{USERS}/logout")).status_code == 200


async def test_another_sites_page_signs_nobody_in(browser):
    for path in ("register", "login"):
        answer = await browser("POST", f"{USERS}/{path}", ANNA, Origin="https://evil.example")
        assert answer.status_code == 403
        form = await browser.client.post(
            f"{USERS}/{path}", content=b'{"email": "a"}', headers={"Content-Type": "text/plain"}
        )
        assert form.status_code == 400
    assert not browser.rest.people.store.disk.users


async def test_a_new_password_ends_the_other_sessions(browser):
    await browser("POST", f"{USERS}/register", ANNA)
    other = Browser(browser.rest)
    await other("POST", f"{USERS}/login", {"email": ANNA["email"], "password": PASSWORD})
    change = {"password": "Wrong1234", "newPassword": "Another123"}
    wrong = await browser("POST", f"{USERS}/password", change)
    assert (wrong.status_code, description(wrong)) == (400, "the present password is wrong")
    weak = await browser("POST", f"{USERS}/password", {"password": PASSWORD, "newPassword": "weakweak"})
    assert weak.status_code == 400
    assert (await other("GET", f"{USERS}/current")).status_code == 200
    done = await browser("POST", f"{USERS}/password", change | {"password": PASSWORD})
    assert done.status_code == 200, done.text
    assert (await browser("GET", f"{USERS}/current")).status_code == 200
    assert (await other("GET", f"{USERS}/current")).status_code == 403
    login = {"email": ANNA["email"], "password": PASSWORD}
    assert (await other("POST", f"{USERS}/login", login)).status_code == 400
    assert (await other("POST", f"{USERS}/login", login | {"password": "Another123"})).status_code == 200
    await other.client.aclose()


async def test_passwords_stay_where_they_may_not_be_changed(browser_of):
    browser = browser_of(SERVER_ALLOW_CHANGE_PASSWORD="false")
    await browser("POST", f"{USERS}/register", ANNA)
    change = {"password": PASSWORD, "newPassword": "Another123"}
    assert (await browser("POST", f"{USERS}/password", change)).status_code == 405


async def test_a_token_is_nobodys_session(rest):
    for method, path in (
        ("GET", f"{USERS}/current"),
        ("POST", f"{USERS}/logout"),
        ("GET", f"{USERS}/memberships"),
        ("POST", f"{USERS}/invites/accept"),
        ("POST", "/api/v1/tenants"),
        ("POST", INVITES),
        ("PATCH", f"{MEMBERS}/{new_id()}"),
        ("DELETE", f"{MEMBERS}/{new_id()}"),
        ("GET", f"/api/v1/tenants/{TENANT}/api-tokens"),
        ("POST", f"/api/v1/tenants/{TENANT}/api-tokens"),
        ("POST", f"/api/v1/api-tokens/{new_id()}"),
    ):
        body = {"invite": new_id(), "name": "a", "slug": "a", "email": "a@b.c", "role": "MEMBER"}
        answer = await rest.client.request(method, path, json=body)
        assert answer.status_code == 401, (method, path, answer.text)


async def test_a_flood_of_sign_ins_is_turned_away(browser_of):
    browser = browser_of(BROADAXE_HTTP_RATE_LIMIT="3")
    logins = [browser("POST", f"{USERS}/login", {"email": "a@b.c", "password": "x"}) for _ in range(8)]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*logins))
    assert statuses == [400] * 3 + [429] * 5
    # Another operation has a limit of its own.
    assert (await browser("POST", f"{USERS}/register", {})).status_code == 400


async def test_meta_says_how_people_sign_in(browser_of, browser):
    meta = (await browser("GET", "/api/v1/meta")).json()
    assert meta == {
        "auth": {"schemes": ["basic"]},
        "pylonAppId": "",
        "allowSignup": True,
        "allowInvites": True,
        "allowCreateTenant": True,
        "allowChangePassword": True,
        "observabilityEnabled": False,
        "prometheusServerEnabled": False,
        "authDisabled": False,
    }
    closed = browser_of(
        SERVER_AUTH_BASIC_AUTH_ENABLED="false",
        SERVER_ALLOW_SIGNUP="f",
        SERVER_ALLOW_INVITES="f",
        SERVER_ALLOW_CREATE_TENANT="f",
        SERVER_ALLOW_CHANGE_PASSWORD="f",
    )
    meta = (await closed("GET", "/api/v1/meta")).json()
    assert meta["auth"] == {"schemes": []}
    assert not any(meta[name] for name in meta if name.startswith("allow"))
    assert (await closed("GET", "/api/v1/meta/integrations")).status_code == 403
    await browser.become(await join(browser.rest.people, TENANT, "VIEWER"))
    assert (await browser("GET", "/api/v1/meta/integrations")).json() == [
        {"name": "slack", "enabled": False},
        {"name": "email", "enabled": False},
    ]
    missing = await browser("GET", f"{USERS}/google/start")
    assert missing.status_code == 404
    assert "google" in description(missing)


# ---------------------------------------------------------------- tenants


async def test_who_creates_a_tenant_owns_it(browser):
    await browser.become(await join(browser.rest.people, OTHER_TENANT, "VIEWER"))
    body = {"name": " Acme ", "slug": "acme", "environment": "production", "onboardingData": {"a": 1}}
    made = await browser("POST", "/api/v1/tenants", body)
    assert made.status_code == 200, made.text
    tenant = made.json()
    assert {name: tenant[name] for name in tenant if name != "metadata"} == {
        "name": "Acme",
        "slug": "acme",
        "analyticsOptOut": False,
        "alertMemberEmails": True,
        "version": "V1",
        "environment": "production",
        "serverUrl": "http://test",
    }
    taken = await browser("POST", "/api/v1/tenants", body)
    assert (taken.status_code, description(taken)) == (400, "the slug 'acme' is taken: choose another")
    rows = (await browser("GET", f"{USERS}/memberships")).json()["rows"]
    assert [(row["role"], row["tenant"]["slug"]) for row in rows][1:] == [("OWNER", "acme")]
    path = f"/api/v1/tenants/{tenant['metadata']['id']}"
    assert (await browser("GET", path)).json() == tenant | {"dataRetentionPeriod": "720h"}
    changed = await browser("PATCH", path, {"name": "New", "maxAlertingFrequency": "2h"})
    assert changed.json()["name"] == "New"
    settings = (await browser("GET", f"{path}/alerting/settings")).json()
    assert {name: settings[name] for name in settings if name != "metadata"} == {
        "alertMemberEmails": True,
        "enableWorkflowRunFailureAlerts": False,
        "enableExpiringTokenAlerts": True,
        "enableTenantResourceLimitAlerts": True,
        "maxAlertingFrequency": "2h",
    }


@pytest.mark.parametrize(
    "body",
    [
        {"name": "A", "slug": "Upper"},
        {"name": "A", "slug": "a b"},
        {"name": "A", "slug": ""},
        {"name": "A", "slug": "x" * 101},
        {"name": "", "slug": "a"},
        {"name": "A", "slug": "a", "engineVersion": "V0"},
        {"name": "A", "slug": "a", "environment": "moon"},
    ],
)
async def test_what_cannot_be_a_tenant_is_refused(browser, body):
    await browser.become(await join(browser.rest.people, TENANT, "OWNER"))
    assert (await browser("POST", "/api/v1/tenants", body)).status_code == 400
    assert len(browser.rest.people.store.disk.tenants) == 1


async def test_tenants_are_created_where_it_is_allowed_and_not_without_end(browser_of, browser):
    closed = browser_of(SERVER_ALLOW_CREATE_TENANT="false")
    await closed.become(await join(closed.rest.people, TENANT, "OWNER"))
    refused = await closed("POST", "/api/v1/tenants", {"name": "A", "slug": "a"})
    assert refused.status_code == 400
    user = await join(browser.rest.people, TENANT, "OWNER")
    store = browser.rest.people.store
    member = await store.fetch_member(TENANT, user.id)
    for _ in range(MAX_MEMBERSHIPS - 1):
        tenant = make_tenant()
        await store.create_tenant(tenant, member._replace(id=new_id(), tenant_id=tenant.id))
    await browser.become(user)
    full = await browser("POST", "/api/v1/tenants", {"name": "A", "slug": "a"})
    assert full.status_code == 400
    assert str(MAX_MEMBERSHIPS) in description(full)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"version": "V0"}, 403),
        ({"maxAlertingFrequency": "soon"}, 400),
        ({"maxAlertingFrequency": "-1h"}, 400),
        ({"maxAlertingFrequency": "9999999999999999h"}, 400),
        ({"name": ""}, 400),
        ({"analyticsOptOut": "yes"}, 400),
    ],
)
async def test_bad_settings_of_a_tenant_change_nothing(browser, body, status):
    await browser.become(await join(browser.rest.people, TENANT, "OWNER"))
    before = await browser.rest.people.store.fetch_tenant(TENANT)
    answer = await browser("PATCH", f"/api/v1/tenants/{TENANT}", body | {"alertMemberEmails": False})
    assert answer.status_code == status
    if status == 403:
        assert set(answer.json()) == {"description"}
    assert await browser.rest.people.store.fetch_tenant(TENANT) == before


@pytest.mark.parametrize("role", ["VIEWER", "MEMBER"])
async def test_settings_members_and_tokens_are_for_administrators(browser, role):
    await browser.become(await join(browser.rest.people, TENANT, role))
    tenant = f"/api/v1/tenants/{TENANT}"
    for method, path, body in (
        ("PATCH", tenant, {"name": "New"}),
        ("POST", f"{tenant}/alerting-email-groups", {"emails": ["a@example.com"]}),
        ("GET", INVITES, None),
        ("POST", INVITES, {"email": "a@example.com", "role": "MEMBER"}),
        ("PATCH", f"{MEMBERS}/{new_id()}", {"role": "MEMBER"}),
        ("DELETE", f"{MEMBERS}/{new_id()}", None),
        ("GET", f"{tenant}/api-tokens", None),
        ("POST", f"{tenant}/api-tokens", {"name": "a"}),
    ):
        answer = await browser(method, path, body)
        assert answer.status_code == 401, (method, path)
        assert f"you are {role}" in answer.json()["message"]
    for path in (tenant, MEMBERS, f"{tenant}/alerting/settings", f"{tenant}/alerting-email-groups"):
        assert (await browser("GET", path)).status_code == 200


async def test_email_groups_are_kept(browser):
    await browser.become(await join(browser.rest.people, TENANT, "ADMIN"))
    path = f"/api/v1/tenants/{TENANT}/alerting-email-groups"
    made = await browser("POST", path, {"emails": ["a@example.com", "b@example.com"]})
    assert made.status_code == 201
    group = made.json()
    one = f"/api/v1/alerting-email-groups/{group['metadata']['id']}"
    assert (await browser("GET", path)).json()["rows"] == [group]
    changed = await browser("PATCH", one, {"emails": ["c@example.com"]})
    assert changed.json()["emails"] == ["c@example.com"]
    for emails in ([], ["none"], ["a@example.com"] * 51):
        assert (await browser("PATCH", one, {"emails": emails})).status_code == 400
    stranger = Browser(browser.rest)
    await stranger.become(await join(browser.rest.people, OTHER_TENANT, "OWNER"))
    assert (await stranger("PATCH", one, {"emails": ["d@example.com"]})).status_code == 404
    assert (await stranger("DELETE", one)).status_code == 404
    await stranger.client.aclose()
    viewer = Browser(browser.rest)
    await viewer.become(await join(browser.rest.people, TENANT, "VIEWER"))
    assert (await viewer("DELETE", one)).status_code == 401
    await viewer.client.aclose()
    assert (await browser("DELETE", one)).status_code == 204
    assert (await browser("GET", path)).json()["rows"] == []


async def test_feature_flags_are_as_the_asker_has_them(rest):
    path = f"/api/v1/tenants/{TENANT}/feature-flags"
    flag = "trace-minimap-enabled"
    for default in (True, False):
        asked = {"featureFlagId": flag, "isEnabledIfNoPosthog": str(default).lower()}
        assert await rest.get_json(path, **asked) == {"isEnabled": default}
    assert (await rest.get(path, featureFlagId="x", isEnabledIfNoPosthog="true")).status_code == 400
    assert (await rest.get(path, featureFlagId=flag)).status_code == 400


# ---------------------------------------------------------------- members


async def member_id_of(browser: Browser, user) -> str:
    return (await browser.rest.people.store.fetch_member(TENANT, user.id)).id


async def test_roles_are_given_within_bounds(browser):
    people = browser.rest.people
    owner, admin, member = [await join(people, TENANT, role) for role in ("OWNER", "ADMIN", "MEMBER")]
    paths = {user.id: f"{MEMBERS}/{await member_id_of(browser, user)}" for user in (owner, admin, member)}
    await browser.become(admin)
    changed = await browser("PATCH", paths[member.id], {"role": "VIEWER", "canViewPayloads": False})
    assert (changed.json()["role"], changed.json()["canViewPayloads"]) == ("VIEWER", False)
    for path, body, status in (
        (paths[admin.id], {"role": "MEMBER"}, 400),
        (paths[owner.id], {"role": "MEMBER"}, 400),
        (paths[member.id], {"role": "OWNER"}, 400),
        (paths[member.id], {"role": "KING"}, 400),
        (f"{MEMBERS}/{new_id()}", {"role": "MEMBER"}, 404),
    ):
        assert (await browser("PATCH", path, body)).status_code == status
    assert (await browser("DELETE", paths[member.id])).status_code == 403
    await browser.become(owner)
    assert (await browser("PATCH", paths[owner.id], {"role": "ADMIN"})).status_code == 400
    assert (await browser("DELETE", paths[owner.id])).status_code == 403
    promoted = await browser("PATCH", paths[admin.id], {"role": "OWNER", "canViewPayloads": False})
    assert (promoted.json()["role"], promoted.json()["canViewPayloads"]) == ("OWNER", True)
    assert (await browser("DELETE", paths[member.id])).status_code == 204
    assert (await browser("DELETE", paths[member.id])).status_code == 404
    rows = (await browser("GET", MEMBERS)).json()["rows"]
    assert [(row["user"]["email"], row["role"]) for row in rows] == [
        (owner.email, "OWNER"),
        (admin.email, "OWNER"),
    ]


# ---------------------------------------------------------------- invites


async def test_an_invite_is_sent_seen_and_accepted(browser):
    people = browser.rest.people
    admin, guest = await join(people, TENANT, "ADMIN"), await join(people, OTHER_TENANT, "OWNER")
    await browser.become(admin)
    body = {"email": guest.email.upper(), "role": "VIEWER", "canViewPayloads": False}
    sent = await browser("POST", INVITES, body)
    assert sent.status_code == 201, sent.text
    invite = sent.json()
    assert (invite["email"], invite["role"], invite["canViewPayloads"]) == (guest.email, "VIEWER", False)
    assert (await browser("GET", INVITES)).json()["rows"] == [invite]
    one = f"{INVITES}/{invite['metadata']['id']}"
    assert (await browser("PATCH", one, {"role": "MEMBER"})).json()["role"] == "MEMBER"
    for wrong in (
        body,
        {"email": admin.email, "role": "MEMBER"},
        {"email": "x@example.com", "role": "OWNER"},
    ):
        assert (await browser("POST", INVITES, wrong)).status_code == 400
    assert (await browser("PATCH", one, {"role": "OWNER"})).status_code == 400
    choice = {"invite": invite["metadata"]["id"]}
    foreign = await browser("POST", f"{USERS}/invites/accept", choice)
    assert (foreign.status_code, description(foreign)) == (400, INVITE_TEXT)
    visitor = Browser(browser.rest)
    await visitor.become(guest)
    (shown,) = (await visitor("GET", f"{USERS}/invites")).json()["rows"]
    assert shown["tenantName"] == "Acme"
    accepted = await visitor("POST", f"{USERS}/invites/accept", choice)
    assert (accepted.status_code, accepted.content) == (200, b"")
    assert (await visitor("POST", f"{USERS}/invites/accept", choice)).status_code == 400
    assert (await visitor("GET", f"/api/v1/tenants/{TENANT}")).status_code == 200
    assert (await visitor("GET", f"{USERS}/invites")).json() == {"rows": []}
    await visitor.client.aclose()


async def test_invites_are_rejected_and_deleted(browser):
    people = browser.rest.people
    owner, guest = await join(people, TENANT, "OWNER"), await join(people, OTHER_TENANT, "OWNER")
    await browser.become(owner)
    for how in ("reject", "delete"):
        invite = (await browser("POST", INVITES, {"email": guest.email, "role": "OWNER"})).json()
        invite_id = invite["metadata"]["id"]
        if how == "delete":
            assert (await browser("DELETE", f"{INVITES}/{invite_id}")).json() == invite
            assert (await browser("DELETE", f"{INVITES}/{invite_id}")).status_code == 404
        else:
            visitor = Browser(browser.rest)
            await visitor.become(guest)
            assert (
                await visitor("POST", f"{USERS}/invites/reject", {"invite": invite_id})
            ).status_code == 200
            await visitor.client.aclose()
        assert (await browser("GET", INVITES)).json() == {"rows": []}
    assert await people.store.fetch_member(TENANT, guest.id) is None


async def test_invites_wait_within_bounds(browser_of):
    browser = browser_of(SERVER_MAX_PENDING_INVITES="1")
    await browser.become(await join(browser.rest.people, TENANT, "OWNER"))
    body = {"email": "a@example.com", "role": "MEMBER"}
    assert (await browser("POST", INVITES, body)).status_code == 201
    full = await browser("POST", INVITES, body | {"email": "b@example.com"})
    assert "SERVER_MAX_PENDING_INVITES" in description(full)
    closed = browser_of(SERVER_ALLOW_INVITES="false")
    await closed.become(await join(closed.rest.people, TENANT, "OWNER"))
    assert "SERVER_ALLOW_INVITES" in description(await closed("POST", INVITES, body))


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"email": "\\ud800@example.com", "password": "x"}',
        b'{"email": "a@example.com", "password": "\\ud800"}',
        b'{"email": "a@example.com", "password": "\\u0000"}',
        b'{"email": 1e999, "password": NaN}',
        b"\xff\xfe",
        b"null",
        b"",
    ],
)
@pytest.mark.parametrize("path", ["login", "register"])
async def test_a_malformed_body_is_the_senders_mistake(browser, path, content):
    headers = {"Content-Type": "application/json"}
    answer = await browser.client.post(f"{USERS}/{path}", content=content, headers=headers)
    assert answer.status_code == 400, answer.text
    assert not browser.rest.people.store.disk.sessions
