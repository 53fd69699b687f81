"""Servers of both supported ends of the range: PostgreSQL 18 (embedded) and 15 (Debian's, where installed)."""

from collections.abc import Iterator

import pytest

from tests.postgres import DEBIAN_15, TestServer, running_server


@pytest.fixture(scope="session")
def postgres_15() -> Iterator[TestServer]:
    if not (DEBIAN_15 / "postgres").exists():
        pytest.skip(f"PostgreSQL 15 is not installed in {DEBIAN_15}")
    with running_server(DEBIAN_15) as server:
        yield server


@pytest.fixture(params=["18", "15"])
def server(request: pytest.FixtureRequest) -> TestServer:
    name = "postgres_server" if request.param == "18" else "postgres_15"
    found: TestServer = request.getfixturevalue(name)
    return found
