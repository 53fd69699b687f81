"""Real Postgres servers for tests: one a session and version, and a database cloned from a migrated template for each test.

`TestServer` is built by the fixtures of `tests/conftest.py`. fsync is off here and nowhere else: no test of these cuts the power.
"""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.embedded import EmbeddedPostgres
from broadaxe_storage.postgres import PostgresStore

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
_TEMPLATE = "broadaxe_template"


class TestServer:
    """A running Postgres that makes databases for tests."""

    __test__ = False

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        self._numbers = itertools.count(1)
        self._has_template = False

    def url(self, database: str) -> str:
        parts = urlsplit(self.server.url)
        # Not geturl(): it drops the empty authority before a path of its own.
        return urlunsplit(parts._replace(path=f"/{database}"))

    async def create_database(self, *, is_migrated: bool = True) -> str:
        """The URL of a new database: with the newest schema, or empty."""
        name = f"test_{next(self._numbers)}"
        if is_migrated and not self._has_template:
            await self._execute(f"CREATE DATABASE {_TEMPLATE}")
            # Opening also makes today's partitions, so that no test waits for them.
            store = await PostgresStore.open(DatabaseConfig(url=self.url(_TEMPLATE)))
            await store.close()
            self._has_template = True
        template = _TEMPLATE if is_migrated else "template0"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    async def drop_database(self, url: str) -> None:
        await self._execute(f"DROP DATABASE IF EXISTS {urlsplit(url).path[1:]} WITH (FORCE)")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextmanager
def running_server(bin_dir: Path | None = None, *, is_safe: bool = False) -> Iterator[TestServer]:
    """A server in a directory of its own, gone at the end; `is_safe` leaves fsync on."""
    directory = Path(tempfile.mkdtemp(prefix="bx-pg-"))
    settings = {} if is_safe else {"fsync": "off", "full_page_writes": "off"}
    server = EmbeddedPostgres.start(directory, settings=settings, bin_dir=bin_dir)
    try:
        yield TestServer(server)
    finally:
        server.stop()
        shutil.rmtree(directory)
