"""Both stores of webhooks pass their suite: Postgres 18 and 15, and memory."""

from collections.abc import AsyncIterator

import pytest

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.memory_webhooks import MemoryWebhooks
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.webhooks import WebhookStore
from tests.conformance.webhooks_suite import *  # noqa: F403 - the suite
from tests.conformance.webhooks_suite import OTHER
from tests.factories import TENANT, make_tenant
from tests.postgres import TestServer


@pytest.fixture(params=["18", "15", "memory"])
async def webhooks(request: pytest.FixtureRequest) -> AsyncIterator[WebhookStore]:
    if request.param == "memory":
        yield MemoryWebhooks([TENANT, OTHER])
        return
    name = "postgres_server" if request.param == "18" else "postgres_15"
    server: TestServer = request.getfixturevalue(name)
    url = await server.create_database()
    store = await PostgresStore.open(DatabaseConfig(url=url))
    for tenant_id in (TENANT, OTHER):
        await store.insert_tenant(make_tenant(id=tenant_id, slug=tenant_id))
    yield store.webhooks
    await store.close()
    await server.drop_database(url)
