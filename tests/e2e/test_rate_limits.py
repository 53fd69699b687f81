"""Rate limits put by our SDK on a real server: what is answered is kept, over kill -9."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from broadaxe import Broadaxe, ClientConfig, ClientTLSConfig, RateLimitDuration
from tests.processes import Server, closing, server_directory

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def server() -> Iterator[Server]:
    with server_directory() as directory, closing(one := Server(directory)):
        yield one.start()


def client_of(server: Server) -> Broadaxe:
    return Broadaxe(
        token=server.token,
        host_port=server.grpc_address,
        config=ClientConfig(server_url=server.http_url, tls_config=ClientTLSConfig(strategy="none")),
    )


def test_limits_pauses_and_deletions_survive_the_engine(server: Server) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    with client_of(server) as client:
        client.rate_limits.put("kept", 5, RateLimitDuration.DAY)
        client.rate_limits.put("gone", 5, RateLimitDuration.DAY)
        client.rate_limits.put("back", 5, RateLimitDuration.DAY)
        assert client.rate_limits.pause("kept", until) == until
        for key in ("gone", "back", "never there"):
            client.rate_limits.delete(key)
        client.rate_limits.put("back", 7, RateLimitDuration.HOUR)
    server.kill9()
    server.restart()
    with client_of(server) as client:
        rows = client.rate_limits.list().rows or []
        assert [(row.key, row.limit_value, row.value, row.window, row.paused_until) for row in rows] == [
            ("back", 7, 7, "1 hour", None),
            ("kept", 5, 5, "1 day", until),
        ]
        # The engine has it, too.
        assert client.rate_limits.pause("kept", until - timedelta(minutes=1)) == until
        client.rate_limits.put("kept", 3, RateLimitDuration.DAY)
        (row,) = client.rate_limits.list(search="KEPT").rows or []
        assert (row.limit_value, row.value, row.paused_until) == (3, 3, until)
