"""Fixtures that several folders share: a real Postgres, and a database for one test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from broadaxe_storage.config import DatabaseConfig
from tests.postgres import TestServer, running_server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[TestServer]:
    """The embedded Postgres, one for the whole session, started when the first test asks for it."""
    with running_server() as server:
        yield server


@pytest.fixture
async def database_url(postgres_server: TestServer) -> AsyncIterator[str]:
    """A migrated database of this test's own."""
    url = await postgres_server.create_database()
    yield url
    await postgres_server.drop_database(url)


@pytest.fixture
def database_config(database_url: str) -> DatabaseConfig:
    """Settings for that database."""
    return DatabaseConfig(url=database_url, lock_wait_seconds=0.2)
