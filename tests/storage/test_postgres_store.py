"""`PostgresStore` passes the suite of stores on PostgreSQL 18 and 15."""

from collections.abc import AsyncIterator

import pytest

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.postgres import PostgresStore
from tests.conformance.accounts_suite import *  # noqa: F403 - the suite
from tests.conformance.deletions_suite import *  # noqa: F403 - the suite
from tests.conformance.events_suite import *  # noqa: F403 - the suite
from tests.conformance.pauses_suite import *  # noqa: F403 - the suite
from tests.conformance.rate_limits_suite import *  # noqa: F403 - the suite
from tests.conformance.runs_suite import *  # noqa: F403 - the suite
from tests.conformance.selection_suite import *  # noqa: F403 - the suite
from tests.conformance.store_suite import *  # noqa: F403 - the suite
from tests.conformance.timers_suite import *  # noqa: F403 - the suite
from tests.conformance.usage_suite import *  # noqa: F403 - the suite
from tests.postgres import TestServer


@pytest.fixture
async def open_store(server: TestServer) -> AsyncIterator[OpenStore]:  # noqa: F405
    url = await server.create_database()
    stores: list[PostgresStore] = []

    async def open_one() -> PostgresStore:
        store = await PostgresStore.open(DatabaseConfig(url=url, lock_wait_seconds=0.1))
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        await store.close()
    await server.drop_database(url)
