"""The server composed: what it serves, what it leaves for others, what becomes of a start that fails. Real Postgres, gRPC and HTTP."""

import asyncio
import json
import logging
import stat
import time

import grpc
import httpx
import jwt
import pytest

from broadaxe.wire import dispatcher_pb2
from broadaxe_gateway import server as server_module
from broadaxe_gateway.admin import create_token
from broadaxe_gateway.config import load_config
from broadaxe_gateway.datadir import DataDirInUse, DataDirLock, read_holder
from broadaxe_gateway.http.listeners import ListenError, listen
from broadaxe_gateway.server import ENGINE_VERSION, serve
from tests.gateway.running import environment_of, get_version, running


def profile_of(data_dir) -> dict:
    return json.loads((data_dir / "home" / "profiles" / "local.json").read_text())


async def get(address: str, path: str, token: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(headers=headers) as client:
        return await client.get(f"http://{address}{path}")


async def register_worker(server, token: str) -> str:
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary(
            "/Dispatcher/Register",
            request_serializer=dispatcher_pb2.WorkerRegisterRequest.SerializeToString,
            response_deserializer=dispatcher_pb2.WorkerRegisterResponse.FromString,
        )
        request = dispatcher_pb2.WorkerRegisterRequest(worker_name="counter", actions=["count:count"])
        answer = await call(request, metadata=(("authorization", f"Bearer {token}"),), timeout=10)
        return answer.worker_id


async def test_profile_is_all_that_a_local_client_needs(data_dir):
    async with running(environment_of(data_dir)) as server:
        profile = profile_of(data_dir)
        assert profile["grpc_address"] == server.grpc_address
        assert profile["server_url"] == f"http://{server.http_address}"
        assert profile["tls_strategy"] == "none"
        path = data_dir / "home" / "profiles" / "local.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with grpc.aio.insecure_channel(profile["grpc_address"]) as channel:
            assert await get_version(channel, profile["token"]) == ENGINE_VERSION
        assert server.ready_line == (
            f"broadaxe is ready: grpc={server.grpc_address} http={server.http_address} data={data_dir}"
        )


async def test_token_survives_restart_and_change_of_ports(data_dir):
    async with running(environment_of(data_dir)):
        token = profile_of(data_dir)["token"]
    async with running(environment_of(data_dir)) as server:
        assert profile_of(data_dir)["token"] == token
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            assert await get_version(channel, token) == ENGINE_VERSION


async def test_token_created_beside_a_running_server_works_at_once(data_dir):
    environment = environment_of(data_dir)
    async with running(environment) as server:
        token = await create_token(load_config(environment), name="ci", lifetime_seconds=60)
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["grpc_broadcast_address"] == server.grpc_address
        assert claims["server_url"] == f"http://{server.http_address}"
        assert claims["sub"] == server.default_tenant_id
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            assert await get_version(channel, token) == ENGINE_VERSION


async def test_token_created_without_a_server_is_for_its_last_addresses(data_dir):
    environment = environment_of(data_dir)
    async with running(environment) as server:
        address = server.grpc_address
    token = await create_token(load_config(environment))
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["grpc_broadcast_address"] == address


@pytest.mark.parametrize("token", ["", "x", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"])
async def test_bad_token_is_unauthenticated(data_dir, token):
    async with running(environment_of(data_dir)) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await get_version(channel, token)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert (await get(server.http_address, f"/api/v1/workers/{'0' * 32}", token)).status_code == 403


async def test_worker_is_read_and_paused_over_rest(data_dir):
    async with running(environment_of(data_dir)) as server:
        token = profile_of(data_dir)["token"]
        worker_id = await register_worker(server, token)
        path = f"/api/v1/workers/{worker_id}"
        body = (await get(server.http_address, path, token)).json()
        assert (body["metadata"]["id"], body["name"]) == (worker_id, "counter")
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
            answer = await client.patch(f"http://{server.http_address}{path}", json={"isPaused": True})
        assert answer.status_code == 200
        unknown = await get(
            server.http_address, "/api/v1/workers/00000000-0000-0000-0000-000000000000", token
        )
        assert unknown.status_code == 404


async def test_ports_answer_while_the_engine_recovers(data_dir, monkeypatch):
    may_go_on = asyncio.Event()
    begun = asyncio.Event()
    start = server_module.Shard.start

    async def slow_start(*args, **kwargs):
        begun.set()
        await may_go_on.wait()
        return await start(*args, **kwargs)

    monkeypatch.setattr(server_module.Shard, "start", slow_start)
    with listen("127.0.0.1", 0, "X") as probe, listen("127.0.0.1", 0, "X") as other:
        http_port, health_port = probe.getsockname()[1], other.getsockname()[1]
    environment = environment_of(
        data_dir, SERVER_PORT=str(http_port), SERVER_HEALTHCHECK_PORT=str(health_port)
    )
    starting = asyncio.create_task(serve(load_config(environment)))
    await asyncio.wait_for(begun.wait(), 20)
    for port in (http_port, health_port):
        assert (await get(f"127.0.0.1:{port}", "/ready")).status_code == 503
        assert (await get(f"127.0.0.1:{port}", "/live")).status_code == 200
    assert (await get(f"127.0.0.1:{http_port}", "/api/v1/version")).status_code == 503
    may_go_on.set()
    server = await starting
    try:
        for port in (http_port, health_port):
            assert (await get(f"127.0.0.1:{port}", "/ready")).status_code == 200
        assert (await get(f"127.0.0.1:{http_port}", "/api/v1/version")).json() == {"version": ENGINE_VERSION}
    finally:
        await server.stop()


async def test_metrics_are_served_on_both_ports(data_dir):
    environment = environment_of(
        data_dir,
        SERVER_PROMETHEUS_ENABLED="true",
        SERVER_PROMETHEUS_ADDRESS="127.0.0.1:0",
        SERVER_PROMETHEUS_PATH="/custom-metrics",
    )
    async with running(environment) as server:
        for address in (server.http_address, server.prometheus_address):
            answer = await get(address, "/custom-metrics")
            assert answer.status_code == 200
            assert "hatchet_created_tasks_total 0.0" in answer.text


async def test_directory_in_use_is_refused_and_the_running_server_unharmed(data_dir):
    async with running(environment_of(data_dir)) as server:
        with pytest.raises(DataDirInUse, match="data directory in use by another server"):
            await serve(load_config(environment_of(data_dir)))
        assert (await get(server.http_address, "/ready")).status_code == 200


@pytest.mark.parametrize("setting", ["SERVER_PORT", "SERVER_GRPC_PORT", "SERVER_HEALTHCHECK_PORT"])
async def test_port_in_use_is_told_and_everything_closed_again(data_dir, setting):
    with listen("127.0.0.1", 0, "X") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"{port}.*in use.*{setting}"):
            await serve(load_config(environment_of(data_dir, **{setting: str(port)})))
    DataDirLock.acquire(data_dir, is_server=True).release()


async def test_default_health_port_gives_way(data_dir, monkeypatch, caplog):
    environment = environment_of(data_dir, SERVER_HEALTHCHECK_PORT="")
    with listen("127.0.0.1", 0, "X") as taken:
        monkeypatch.setattr(server_module, "DEFAULT_HEALTH_PORT", taken.getsockname()[1])
        async with running(environment) as server:
            assert (await get(server.health_address, "/ready")).status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_stop_may_be_called_twice_and_leaves_nothing_open(data_dir):
    server = await serve(load_config(environment_of(data_dir)))
    assert read_holder(data_dir).is_ready
    await server.stop()
    await server.stop()
    assert not read_holder(data_dir).is_ready
    for address in (server.grpc_address, server.http_address, server.health_address):
        host, _, port = address.rpartition(":")
        listen(host, int(port), "X").close()
    DataDirLock.acquire(data_dir, is_server=True).release()


async def test_commit_delay_is_felt_by_what_waits_for_a_commit(data_dir):
    async with running(environment_of(data_dir, BROADAXE_COMMIT_DELAY_MS="300")) as server:
        token = profile_of(data_dir)["token"]
        started = time.monotonic()
        await register_worker(server, token)
        assert time.monotonic() - started >= 0.3


async def test_message_over_the_limit_is_resource_exhausted(data_dir):
    async with running(environment_of(data_dir, SERVER_GRPC_MAX_MSG_SIZE="16384")) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            call = channel.unary_unary("/Dispatcher/GetVersion")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\x0a" + b"x" * 20_000, timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
