"""Every operation of the OpenAPI document with every kind of wrong credentials: it shows nothing and changes nothing.

The operations come from the document, so that none can be forgotten. Tokens, sessions and roles are real, the store is in memory, the engine
keeps what it is asked. Requests are whole: what turns them away is not their form.
"""

import asyncio
import copy
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from broadaxe_gateway.http import openapi
from broadaxe_gateway.http.app import ROUTERS
from broadaxe_gateway.keysets import generate_jwt_keyset, parse_jwt_keyset
from broadaxe_gateway.tokens import Audience, TokenService
from broadaxe_storage.records import TaskEventKind, TaskRunState
from broadaxe_storage.records_accounts import EmailGroupRow, InviteRow
from tests.conformance.webhooks_suite import make_webhook
from tests.factories import (
    make_event,
    make_filter,
    make_task_event,
    make_task_run,
    make_worker,
    new_id,
    now_us,
)
from tests.gateway.people import headers_of, join, sign_in
from tests.gateway.rest.fakes import NOW, OTHER_TENANT, TENANT, Rest

PUBLIC = {
    "GET /api/v1/version",
    "GET /api/v1/meta",
    "GET /api/v1/cloud/metadata",
    "POST /api/v1/users/register",
    "POST /api/v1/users/login",
    # A delivery proves by its signature who sends it.
    "POST /api/v1/stable/tenants/{tenant}/webhooks/{webhook}",
}
"""What needs no credentials. A route gets here by decision, never by oversight."""
PERSONAL = {
    "GET /api/v1/meta/integrations",
    "GET /api/v1/users/current",
    "GET /api/v1/users/memberships",
    "GET /api/v1/users/invites",
    "POST /api/v1/users/logout",
    "POST /api/v1/users/password",
    "POST /api/v1/users/invites/accept",
    "POST /api/v1/users/invites/reject",
    "POST /api/v1/tenants",
}
"""What is about the person alone, whatever their role in a tenant."""
BEFORE_VERIFIED = {"GET /api/v1/users/current", "POST /api/v1/users/logout"}
SAMPLES = {
    "email": "a@example.com",
    "slug": "acme",
    "expression": "true",
    "cron": "0 0 * * *",
    "cronExpression": "0 0 * * *",
}
"""Values of fields whose form the schema cannot tell."""
BODIES = {
    "PATCH /api/v1/workflows/{workflow}": {"pause": {"action": "unpause"}},
    "PATCH /api/v1/stable/tenants/{tenant}/webhooks/{webhook}": {"eventKeyExpression": "'changed'"},
}
"""Of operations whose schema requires nothing."""
SECRET = "swordfish"
"""Stands in whatever users have put into runs and events."""
KEYSET = parse_jwt_keyset(generate_jwt_keyset())
AUDIENCE = Audience("http://test", "test:7070")


def document() -> dict[str, Any]:
    app = FastAPI(title="Broadaxe", version="0")
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app, ROUTERS, "hatchet")
    return app.openapi()


DOCUMENT = document()
OPERATIONS = [
    pytest.param(method.upper(), path, id=f"{method.upper()} {path}")
    for path, operations in DOCUMENT["paths"].items()
    for method in operations
]
GUARDED = [parameter for parameter in OPERATIONS if parameter.id not in PUBLIC]
CHANGING = [parameter for parameter in GUARDED if parameter.values[0] != "GET"]


def sample(schema: dict[str, Any], name: str = "") -> Any:
    """A small value that fits a schema."""
    if "$ref" in schema:
        found = DOCUMENT
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return sample(found, name)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return sample(next(way for way in schema[key] if way.get("type") != "null"), name)
    if "const" in schema or "enum" in schema:
        return schema.get("const", (schema.get("enum") or [None])[0])
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties", {})
        return {part: sample(properties[part], part) for part in schema.get("required", ())}
    if kind == "array":
        return [sample(schema["items"], "email" if name == "emails" else name)] * schema.get("minItems", 0)
    if kind == "string":
        formats = {"uuid": new_id(), "date-time": "2026-01-02T03:04:05Z"}
        return SAMPLES.get(name) or formats.get(schema.get("format", ""), "sample")
    return {"integer": max(1, schema.get("minimum", 1)), "number": 1.0, "boolean": True}[kind]


class Site:
    """The application with something in it that belongs to `TENANT`."""

    def __init__(self) -> None:
        self.rest = Rest()
        self.people = self.rest.people
        self.store = self.people.store
        self.now = now_us() / 1_000_000
        self.tokens = TokenService(self.store, KEYSET, AUDIENCE, now=lambda: self.now)
        self.rest.app.state.tokens = self.tokens
        self.ids: dict[str, str] = {}
        self._signed_in: dict[tuple[str, ...], dict[str, str]] = {}
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.rest.app, raise_app_exceptions=False), base_url="http://test"
        )

    async def furnish(self) -> None:
        await join(self.people, TENANT, "OWNER")
        await join(self.people, OTHER_TENANT, "OWNER")
        guest = await join(self.people, TENANT, "MEMBER")
        member = await self.store.fetch_member(TENANT, guest.id)
        secret = f'{{"password": "{SECRET}"}}'.encode()
        ended = {"state": TaskRunState.COMPLETED, "finished_at": NOW, "input": secret, "output": secret}
        run = self.rest.record.add(self.rest.record.lone, created_at=NOW, **ended)
        self.rest.record.events.append(make_task_event(run.id, kind=TaskEventKind.FINISHED))
        disk = self.store.disk
        disk.live[run.id] = make_task_run(id=run.id, tenant_id=TENANT)
        worker = make_worker(tenant_id=TENANT)
        disk.workers[worker.id] = worker
        disk.versions[self.rest.record.lone.id] = self.rest.record.lone
        event, filter_row = make_event(tenant_id=TENANT, payload=secret), make_filter(tenant_id=TENANT)
        disk.events.append(event)
        self.rest.record.pushed.append(event)
        self.rest.record.filters.append(filter_row)
        now = now_us()
        group = EmailGroupRow(new_id(), TENANT, ("a@example.com",), now, now)
        await self.store.insert_email_group(group, 10)
        invite = InviteRow(new_id(), TENANT, "b@example.com", "MEMBER", True, now, now, now + 10**12)
        await self.store.insert_invite(invite, 10)
        await self.tokens.issue(TENANT, "kept")
        (token,) = await self.store.list_tokens(TENANT, 10)
        webhook = make_webhook(tenant_id=TENANT)
        await self.rest.webhooks.insert_webhook(webhook)
        self.ids = {
            "tenant": TENANT,
            "run": run.id,
            "task": run.id,
            "dag_ids": run.id,
            "worker": worker.id,
            "workflow": self.rest.record.lone.workflow_id,
            "event": event.id,
            "filter": filter_row.id,
            "group": group.id,
            "invite": invite.id,
            "member": member.id,
            "token": token.id,
            "webhook": webhook.name,
        }

    async def ask(self, method: str, path: str, headers: dict[str, str], **given: str) -> httpx.Response:
        """A whole request for an operation, of what `TENANT` has where the path names it; `given` are parameters, where it has them."""
        label, operation = f"{method} {path}", DOCUMENT["paths"][path][method.lower()]
        query = {}
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                value = self.ids.get(parameter["name"]) or sample(parameter["schema"], parameter["name"])
                path = path.replace(f"{{{parameter['name']}}}", str(value))
            elif parameter.get("required"):
                name = parameter["name"]
                query[name] = given.get(name) or self.ids.get(name) or sample(parameter["schema"], name)
            elif parameter["name"] in given:
                query[parameter["name"]] = given[parameter["name"]]
        body = operation.get("requestBody")
        content = sample(next(iter(body["content"].values()))["schema"]) if body else None
        content = BODIES.get(label, content)
        return await self.client.request(method, path, params=query, headers=headers, json=content)

    def state(self) -> Any:
        """All that a request could have changed."""
        # Rows are tuples: it is enough to copy what holds them.
        held = [value for value in vars(self.store.disk).values() if isinstance(value, dict | list)]
        held += [self.rest.record.rows, self.rest.record.pauses, self.rest.webhooks.rows]
        return [
            [asked for asked in self.rest.engine.asked if asked[1] == TENANT],
            *(copy.copy(value) for value in held),
        ]

    async def headers_as(self, tenant_id: str, role: str, **fields: Any) -> dict[str, str]:
        """Of somebody with that role who is signed in; the same person each time."""
        key = (tenant_id, role, *fields)
        if key not in self._signed_in:
            user = await join(self.people, tenant_id, role, **fields)
            self._signed_in[key] = headers_of(self.people, await sign_in(self.people, user))
        return dict(self._signed_in[key])


def furnished() -> Iterator[Site]:
    made = Site()
    asyncio.run(made.furnish())
    yield made
    asyncio.run(made.client.aclose())
    asyncio.run(made.rest.client.aclose())
    made.people.passwords.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    yield from furnished()


@pytest.fixture
def site(shared: Site) -> Site:
    """One for all tests, for those are about requests that change nothing."""
    shared.now = now_us() / 1_000_000
    return shared


@pytest.fixture
def own_site() -> Iterator[Site]:
    """For a test that changes something."""
    yield from furnished()


def check_nothing(answer: httpx.Response, *statuses: int) -> None:
    """That an answer is a refusal and nothing else."""
    assert answer.status_code in statuses, f"{answer.status_code} {answer.text}"
    body = answer.json()
    assert set(body) <= {"message", "errors"}, body
    assert "sample" not in answer.text
    assert SECRET not in answer.text
    assert "set-cookie" not in answer.headers


def test_public_routes_are_those_on_the_list() -> None:
    found = {
        f"{method} {route.path_format}"
        for route in openapi.routes_of(ROUTERS)
        for method in route.methods or ()
        if openapi.is_public(route)
    }
    assert found == PUBLIC
    told = {
        f"{method.upper()} {path}"
        for path, operations in DOCUMENT["paths"].items()
        for method, operation in operations.items()
        if operation["security"] == []
    }
    assert told == PUBLIC


def routes_of_the_application(rest: Rest) -> Iterator[str]:
    for path, operations in rest.app.openapi()["paths"].items():
        yield from (f"{method.upper()} {path}" for method in operations)


async def test_the_document_has_every_route_below_the_api(site: Site) -> None:
    assert {parameter.id for parameter in OPERATIONS} == set(routes_of_the_application(site.rest))
    for path in ("/openapi.json", "/docs", "/redoc"):
        assert (await site.client.get(path)).status_code == 404


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "kind", ["none", "garbage", "expired", "revoked", "basic", "expired session", "ended session"]
)
async def test_without_valid_credentials(site: Site, method: str, path: str, kind: str) -> None:
    headers: dict[str, str] = {}
    if kind in ("expired", "revoked"):
        token = await site.tokens.issue(TENANT, kind, 60)
        identity = await site.tokens.verify(token)
        if kind == "revoked":
            await site.tokens.revoke(TENANT, identity.token_id)
        else:
            site.now += 61
        headers = {"Authorization": f"Bearer {token}"}
    elif kind.endswith("session"):
        person = await sign_in(site.people, await join(site.people, TENANT, "OWNER"))
        headers = headers_of(site.people, person)
        if kind == "ended session":
            await site.people.sessions.end(person)
        else:
            sessions = site.store.disk.sessions
            (digest,) = [key for key, row in sessions.items() if row.user_id == person.user.id]
            sessions[digest] = sessions[digest]._replace(expires_at=now_us())
    elif kind != "none":
        headers = {"Authorization": {"garbage": "Bearer x.y.z", "basic": "Basic YTpi"}[kind]}
    before = site.state()
    check_nothing(await site.ask(method, path, headers), 403)
    assert site.state() == before


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_with_the_token_of_another_tenant(site: Site, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {await site.tokens.issue(OTHER_TENANT, 'foreign')}"}
    before = site.state()
    check_nothing(await site.ask(method, path, headers), 401, 403, 404)
    assert site.state() == before


@pytest.mark.parametrize(
    ("method", "path"), [parameter for parameter in GUARDED if parameter.id not in PERSONAL]
)
async def test_as_the_owner_of_another_tenant(site: Site, method: str, path: str) -> None:
    headers = await site.headers_as(OTHER_TENANT, "OWNER")
    before = site.state()
    check_nothing(await site.ask(method, path, headers), 403, 404)
    assert site.state() == before


@pytest.mark.parametrize(
    ("method", "path"), [parameter for parameter in CHANGING if parameter.id not in PERSONAL]
)
async def test_a_viewer_changes_nothing(site: Site, method: str, path: str) -> None:
    headers = await site.headers_as(TENANT, "VIEWER")
    before = site.state()
    check_nothing(await site.ask(method, path, headers), 401)
    assert site.state() == before


@pytest.mark.parametrize(("method", "path"), CHANGING)
@pytest.mark.parametrize("kind", ["no proof", "wrong proof", "another site", "another sites frame"])
async def test_a_cookie_alone_changes_nothing(site: Site, method: str, path: str, kind: str) -> None:
    headers = await site.headers_as(TENANT, "OWNER")
    if kind == "no proof":
        del headers["X-CSRF-Token"]
    else:
        name, value = {
            "wrong proof": ("X-CSRF-Token", "x" * 43),
            "another site": ("Origin", "https://evil.example"),
            "another sites frame": ("Sec-Fetch-Site", "cross-site"),
        }[kind]
        headers[name] = value
    before = site.state()
    check_nothing(await site.ask(method, path, headers), 403)
    assert site.state() == before


@pytest.mark.parametrize(
    ("method", "path"), [parameter for parameter in GUARDED if parameter.id not in BEFORE_VERIFIED]
)
async def test_with_an_address_that_is_not_verified(site: Site, method: str, path: str) -> None:
    user = await join(site.people, TENANT, "OWNER")
    site.store.disk.users[user.id] = user._replace(is_email_verified=False)
    person = await sign_in(site.people, user)
    before = site.state()
    check_nothing(await site.ask(method, path, headers_of(site.people, person)), 401)
    assert site.state() == before


READING = [parameter for parameter in GUARDED if parameter.values[0] == "GET"]
WITH_PAYLOADS = {
    "GET /api/v1/stable/workflow-runs/{run}",
    "GET /api/v1/stable/workflow-runs/{run}/task-events",
    "GET /api/v1/stable/tasks/{task}",
    "GET /api/v1/stable/tenants/{tenant}/workflow-runs",
    "GET /api/v1/stable/tenants/{tenant}/events",
    "GET /api/v1/stable/tenants/{tenant}/events/{event}",
}


@pytest.mark.parametrize(("method", "path"), READING)
async def test_who_may_not_view_payloads_sees_none(site: Site, method: str, path: str) -> None:
    given = {"include_payloads": "true", "since": "2020-01-01T00:00:00Z"}
    viewer = await site.headers_as(TENANT, "VIEWER", can_view_payloads=False)
    hidden = await site.ask(method, path, viewer, **given)
    assert SECRET not in hidden.text
    owner = await site.headers_as(TENANT, "OWNER")
    shown = await site.ask(method, path, owner, **given)
    assert SECRET in shown.text or f"{method} {path}" not in WITH_PAYLOADS, shown.text


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_the_owner_gets_past_all_of_this(own_site: Site, method: str, path: str) -> None:
    """Or the refusals above would prove nothing."""
    site = own_site
    person = await sign_in(site.people, await join(site.people, TENANT, "OWNER"))
    answer = await site.ask(method, path, headers_of(site.people, person))
    assert answer.status_code not in (401, 403), answer.text
