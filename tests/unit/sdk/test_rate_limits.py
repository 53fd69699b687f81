"""Rate limits of the SDK: put and paused over gRPC, listed and deleted over REST."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from broadaxe import (
    Broadaxe,
    ClientConfig,
    InvalidInputError,
    RateLimitDuration,
    RateLimitOrderByDirection,
    RateLimitOrderByField,
    RequestRefusedError,
)
from broadaxe.testing import in_memory
from broadaxe.wire import workflows_pb2 as w
from tests.unit.sdk.clients import TOKEN, make_client
from tests.unit.sdk.fake_engine import FakeEngine
from tests.unit.sdk.fake_rest import TENANT, FakeRest

ROW = {
    "key": "api",
    "tenantId": TENANT,
    "limitValue": 10,
    "value": 4,
    "window": "1 minute",
    "lastRefill": "2026-01-02T03:04:05.123456Z",
    "pausedUntil": "2026-01-02T04:04:05Z",
}


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[Broadaxe]:
    # The key is what tasks name by it, and those names have no namespace either.
    with make_client(engine, namespace="space") as client:
        yield client


def test_a_limit_is_put_for_a_second_or_as_told(engine, client):
    client.rate_limits.put("api", 2)
    client.rate_limits.put("api", 0, RateLimitDuration.YEAR)
    asyncio.run(client.rate_limits.aio_put("other", 3, duration=RateLimitDuration.MINUTE))
    assert engine.limits == [
        w.PutRateLimitRequest(key="api", limit=2, duration=w.SECOND),
        w.PutRateLimitRequest(key="api", limit=0, duration=w.YEAR),
        w.PutRateLimitRequest(key="other", limit=3, duration=w.MINUTE),
    ]


def test_a_pause_answers_the_time_in_force(engine, client):
    until = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))
    assert client.rate_limits.pause("api", until) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert asyncio.run(client.rate_limits.aio_pause("api", until)) == until + timedelta(hours=1)
    assert [request.paused_until.ToDatetime(tzinfo=UTC) for request in engine.limits] == [until, until]


@pytest.mark.parametrize(
    ("key", "limit", "text"), [("", 1, "empty"), ("k", -1, "-1"), ("k", 2**31, "2147483648")]
)
def test_what_no_server_takes_is_refused_at_once(engine, client, key, limit, text):
    with pytest.raises(InvalidInputError, match=text):
        client.rate_limits.put(key, limit)
    with pytest.raises(InvalidInputError, match=text):
        asyncio.run(client.rate_limits.aio_put(key, limit))
    assert not engine.limits


def test_limits_are_listed_as_asked_and_deleted():
    with FakeRest(lambda call: (204, b"")) as server:
        client = Broadaxe(token=TOKEN, config=ClientConfig(server_url=server.url))
        server.answer = lambda call: (200, {"pagination": {"num_pages": 1}, "rows": [ROW]})
        (row,) = client.rate_limits.list().rows or ()
        assert (row.key, row.limit_value, row.value, row.window) == ("api", 10, 4, "1 minute")
        assert row.paused_until == datetime(2026, 1, 2, 4, 4, 5, tzinfo=UTC)
        asyncio.run(
            client.rate_limits.aio_list(
                offset=1,
                limit=2,
                search="a",
                order_by_field=RateLimitOrderByField.LIMITVALUE,
                order_by_direction=RateLimitOrderByDirection.DESC,
            )
        )
        server.answer = lambda call: (204, b"")
        client.rate_limits.delete("a b/\u00e4")
        asyncio.run(client.rate_limits.aio_delete("other"))
    path = f"/api/v1/tenants/{TENANT}/rate-limits"
    assert [(call.method, call.path, call.query) for call in server.calls] == [
        ("GET", path, {}),
        (
            "GET",
            path,
            {
                "offset": ["1"],
                "limit": ["2"],
                "search": ["a"],
                "orderByField": ["limitValue"],
                "orderByDirection": ["desc"],
            },
        ),
        ("DELETE", path, {"key": ["a b/\u00e4"]}),
        ("DELETE", path, {"key": ["other"]}),
    ]


def test_a_test_without_a_server_has_no_rate_limits(client):
    with in_memory(client, []), pytest.raises(RequestRefusedError, match="rate limit 'api'"):
        client.rate_limits.put("api", 1)
    with in_memory(client, []), pytest.raises(RequestRefusedError, match="pausing rate limit 'api'"):
        client.rate_limits.pause("api", datetime.now(UTC))
