"""Rate limits put and paused over real gRPC, on a real shard over an in-memory store."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from broadaxe.wire import workflows_pb2 as w
from broadaxe_actors.messages import DeleteRateLimit
from broadaxe_actors.shard import Shard
from broadaxe_storage.memory import MemoryStore
from tests.gateway.rpc.fakes import OTHER_TENANT, TENANT, running_gateway


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
async def gateway(store):
    shard = await Shard.start(store)
    try:
        async with running_gateway(shard.connect_gateway("gateway", is_pickling=True)) as running:
            yield running
    finally:
        await shard.stop()


async def put(gateway, key, limit, duration=w.SECOND, token="good"):
    call = gateway.unary("/WorkflowService/PutRateLimit", w.PutRateLimitResponse, token)
    return await call(w.PutRateLimitRequest(key=key, limit=limit, duration=duration))


async def pause(gateway, key, seconds):
    call = gateway.unary("/WorkflowService/PauseRateLimit", w.PauseRateLimitResponse)
    answer = await call(w.PauseRateLimitRequest(key=key, paused_until=Timestamp(seconds=seconds)))
    return answer.paused_until.seconds


async def test_a_limit_is_stored_when_the_call_is_answered(gateway, store):
    assert await put(gateway, "api", 10, w.MINUTE) == w.PutRateLimitResponse()
    row = store.disk.rate_limits[TENANT, "api"]
    assert (row.limit_value, row.window_us, row.units_left) == (10, 60_000_000, 10)
    await put(gateway, "api", 3, w.HOUR)
    row = store.disk.rate_limits[TENANT, "api"]
    assert (row.limit_value, row.window_us, row.units_left) == (3, 3_600_000_000, 3)


async def test_limits_of_tenants_are_apart(gateway, store):
    await put(gateway, "api", 10)
    await put(gateway, "api", 7, token="other")
    limits = {tenant: row.limit_value for (tenant, _), row in store.disk.rate_limits.items()}
    assert limits == {TENANT: 10, OTHER_TENANT: 7}


@pytest.mark.parametrize("duration", w.RateLimitDuration.values())
async def test_every_duration_and_the_largest_limit_are_taken(gateway, store, duration):
    await put(gateway, "k" * 10_000, 2**31 - 1, duration)
    (row,) = store.disk.rate_limits.values()
    assert row.limit_value == 2**31 - 1


async def test_a_pause_is_answered_with_the_time_in_force(gateway, store):
    assert await pause(gateway, "api", 4_000_000_000) == 4_000_000_000
    assert await pause(gateway, "api", 3_000_000_000) == 4_000_000_000
    assert store.disk.rate_limits[TENANT, "api"].paused_until == 4_000_000_000_000_000
    await put(gateway, "api", 10)
    assert store.disk.rate_limits[TENANT, "api"].paused_until == 4_000_000_000_000_000


async def test_a_deleted_limit_is_gone_when_the_call_is_answered(gateway, store):
    await put(gateway, "api", 10)
    await gateway.hub.ask(DeleteRateLimit, TENANT, "api")
    assert not store.disk.rate_limits
    await put(gateway, "api", 5)
    assert store.disk.rate_limits[TENANT, "api"].units_left == 5
