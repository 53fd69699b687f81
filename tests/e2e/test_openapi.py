"""The OpenAPI document against a real server: requests made of it by chance, and answers held against it.

Every operation of every router gets requests that fit the document and ones that do not; none may make the server fail, and each answer
has a status, a type and a form that the document names. The same seed each time: a failure comes back until it is mended.
"""

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import httpx
import jwt
import pytest
import requests
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from broadaxe import Broadaxe
from broadaxe_gateway.http import openapi
from broadaxe_gateway.http.app import ROUTERS
from tests.gateway.rest.test_rest_server import Server as RestClient
from tests.processes import Server

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
GOOD, BAD = 10, 6
"""Requests of an operation that fit the document, and that do not."""
ADMIN = {"email": "admin@example.com", "password": "Admin123!!"}


def document() -> dict[str, Any]:
    app = FastAPI(title="Broadaxe", version="0")
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app, ROUTERS, "hatchet")
    return app.openapi()


DOCUMENT = document()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]


class Target(NamedTuple):
    """A server, and what there is on it to ask for."""

    url: str
    token: str
    ids: dict[str, str]
    """By name of the path parameter."""
    session: requests.Session

    def sign_in(self) -> None:
        """As the administrator, unless somebody is signed in."""
        if self.session.get(f"{self.url}/api/v1/users/current", timeout=30).status_code == 200:
            return
        self.session.cookies.clear()
        answer = self.session.post(f"{self.url}/api/v1/users/login", json=ADMIN, timeout=30)
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("openapi")
    env = {"BROADAXE_HTTP_RATE_LIMIT": "0", "SERVER_AUTH_COOKIE_INSECURE": "true"}
    with Server(directory, env=env) as server:
        server.start()
        with requests.Session() as session:
            yield asyncio.run(_furnish(server, session))


async def _furnish(server: Server, session: requests.Session) -> Target:
    """A workflow, a run that has ended and one that waits, a worker."""
    claims = jwt.decode(server.token, options={"verify_signature": False})
    tenant = str(claims["sub"])
    async with (
        grpc.aio.insecure_channel(server.grpc_address) as channel,
        httpx.AsyncClient(
            base_url=server.http_url, headers={"Authorization": f"Bearer {server.token}"}, timeout=30
        ) as client,
    ):
        rest = RestClient(server, server.token, channel, client, tenant)
        workflow = await rest.put("fuzz", ("a", ()))
        run = await rest.trigger("fuzz", additionalMetadata={"k": "v"})
        async with rest.worker("fuzz:a") as worker:
            start = await worker.next()
            await worker.complete(start, {"v": 1})
        await rest.trigger("fuzz")
    ids = {"tenant": tenant, "workflow": workflow, "run": run, "task": run, "worker": worker.id}
    return Target(server.http_url, server.token, ids, session)


def cases() -> Iterator[Any]:
    for operation in OPERATIONS:
        yield pytest.param(operation, GenerationMode.POSITIVE, id=f"{operation.label} good")
        raw = operation.definition.raw
        if raw.get("parameters") or raw.get("requestBody"):
            yield pytest.param(operation, GenerationMode.NEGATIVE, id=f"{operation.label} bad")


@pytest.mark.parametrize(("operation", "mode"), list(cases()))
def test_answers_are_as_the_document_says(operation: Any, mode: GenerationMode, target: Target) -> None:
    is_good = mode is GenerationMode.POSITIVE
    ways = operation.definition.raw["security"]
    is_for_people = bool(ways) and not any(openapi.BEARER in way for way in ways)
    known = {name: value for name, value in target.ids.items() if f"{{{name}}}" in operation.path}

    @settings(
        max_examples=GOOD if is_good else BAD,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode, path_parameters=known if is_good and known else None))
    def ask(case: Case) -> None:
        if is_for_people:
            target.sign_in()
            headers = {"X-CSRF-Token": target.session.cookies["hatchet_csrf"]}
            cookies = target.session.cookies.get_dict()
        else:
            headers, cookies = {"Authorization": f"Bearer {target.token}"}, {"hatchet": ""}
        answer = case.call(
            base_url=target.url, session=target.session, headers=headers, cookies=cookies, timeout=30
        )
        case.validate_response(answer, checks=CHECKS)

    ask()


async def test_the_document_that_is_served_is_the_one_that_is_tested(target: Target) -> None:
    async with httpx.AsyncClient(base_url=target.url) as client:
        served = (await client.get("/api/v1/openapi.json")).json()
    assert served["paths"] == DOCUMENT["paths"]
    assert served["components"] == DOCUMENT["components"]


async def test_the_sdk_reads_the_tenant_of_its_token(target: Target) -> None:
    client = Broadaxe(token=target.token)
    for tenant in (await client.tenant.aio_get(), await asyncio.to_thread(client.tenant.get)):
        assert tenant.metadata.id == target.ids["tenant"]
        assert (tenant.slug, tenant.version) == ("default", "V1")
        assert tenant.server_url == target.url
