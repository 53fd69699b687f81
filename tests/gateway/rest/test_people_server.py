"""People on a real server with its own Postgres: the administrator signs in, makes a token, and ends it everywhere at once."""

from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import httpx
import pytest

from broadaxe_storage.embedded import EmbeddedPostgres
from tests.gateway.rest.test_rest_server import client_of
from tests.gateway.running import environment_of, get_version, running

ADMIN = {"email": "admin@example.com", "password": "Admin123!!"}
SETTINGS = {"SERVER_AUTH_COOKIE_INSECURE": "true"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    yield path
    EmbeddedPostgres.start(path).stop()


class Page:
    """A page of the server, as the administrator."""

    def __init__(self, server, client: httpx.AsyncClient) -> None:
        self.server = server
        self.client = client
        self.tenant = f"/api/v1/tenants/{server.default_tenant_id}"

    async def __call__(self, method, path, body=None):
        headers = {"X-CSRF-Token": self.client.cookies.get("hatchet_csrf") or ""}
        return await self.client.request(method, path, json=body, headers=headers)


@asynccontextmanager
async def signed_in(data_dir, **settings):
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(environment_of(data_dir, **SETTINGS, **settings)))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{server.http_address}", timeout=30)
        )
        page = Page(server, client)
        answer = await page("POST", "/api/v1/users/login", ADMIN)
        assert answer.status_code == 200, answer.text
        yield page


async def read_to_the_end(stream) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_a_token_is_made_listed_used_and_revoked_everywhere_at_once(data_dir):
    async with signed_in(data_dir) as page:
        made = await page("POST", f"{page.tenant}/api-tokens", {"name": "ci", "expiresIn": "1h"})
        assert made.status_code == 200, made.text
        token = made.json()["token"]
        rows = (await page("GET", f"{page.tenant}/api-tokens")).json()["rows"]
        (row,) = [row for row in rows if row["name"] == "ci"]
        assert token not in str(rows)
        async with client_of(page.server, token, page.server.default_tenant_id) as program:
            assert (await program.client.get(page.tenant)).json()["slug"] == "default"
            assert await get_version(program.channel, token)
            async with program.worker("nothing:nothing") as worker:
                revoked = await page("POST", f"/api/v1/api-tokens/{row['metadata']['id']}")
                assert revoked.status_code == 204, revoked.text
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    await read_to_the_end(worker.stream)
                assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert (await program.client.get(page.tenant)).status_code == 403
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await get_version(program.channel, token)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        rows = (await page("GET", f"{page.tenant}/api-tokens")).json()["rows"]
        assert "ci" not in [row["name"] for row in rows]


async def test_a_lifetime_that_is_none_makes_no_token(data_dir):
    async with signed_in(data_dir) as page:
        before = (await page("GET", f"{page.tenant}/api-tokens")).json()
        for lifetime in ("", "soon", "-1h", "0s", "900000000h", "1e9999h"):
            body = {"name": "ci", "expiresIn": lifetime}
            answer = await page("POST", f"{page.tenant}/api-tokens", body)
            assert answer.status_code == 400
            assert "expiresIn" in answer.text
        assert (await page("GET", f"{page.tenant}/api-tokens")).json() == before


async def test_a_session_outlives_a_restart_but_not_new_secrets(data_dir):
    async with signed_in(data_dir) as page:
        cookies = dict(page.client.cookies)
    for secrets, status in (
        ({}, 200),
        ({"SERVER_AUTH_COOKIE_SECRETS": "another-secret-16 more-of-the-same"}, 403),
    ):
        async with (
            running(environment_of(data_dir, **SETTINGS, **secrets)) as server,
            httpx.AsyncClient(base_url=f"http://{server.http_address}", cookies=cookies) as client,
        ):
            assert (await client.get("/api/v1/users/current")).status_code == status


async def test_a_tenant_that_a_person_makes_runs_what_its_token_asks_for(data_dir):
    async with signed_in(data_dir) as page:
        made = await page("POST", "/api/v1/tenants", {"name": "Second", "slug": "second"})
        tenant_id = made.json()["metadata"]["id"]
        token = (await page("POST", f"/api/v1/tenants/{tenant_id}/api-tokens", {"name": "t"})).json()["token"]
        async with client_of(page.server, token, tenant_id) as program:
            await program.put("in-second", ("a", ()))
            run_id = await program.trigger("in-second")
            async with program.worker("in-second:a") as worker:
                start = await worker.next()
                assert start.task_run_id == run_id
                await worker.complete(start, {"v": 1})
            # The person sees it by the cookie: the tenant is told from the run.
            shown = await page("GET", f"/api/v1/stable/workflow-runs/{run_id}/status")
            assert (shown.status_code, shown.json()) == (200, "COMPLETED")
            default = await program.client.get(page.tenant)
            assert default.status_code == 403
