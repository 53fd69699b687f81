"""The worker's health server: what it answers, and when a worker is not healthy."""

# ruff: noqa: A002 - tasks call their input `input`
import json
import socket
import threading
import urllib.error
import urllib.request

import pytest

from broadaxe import Broadaxe, Context, EmptyModel, HealthcheckConfig
from tests.unit.sdk.clients import make_client
from tests.unit.sdk.fake_engine import FakeEngine
from tests.unit.sdk.worker_tools import running, wait_for


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def healthy_client(engine: FakeEngine, port: int, threshold: float = 5.0) -> Broadaxe:
    return make_client(
        engine,
        healthcheck=HealthcheckConfig(
            enabled=True, port=port, bind_address="127.0.0.1", event_loop_block_threshold_seconds=threshold
        ),
    )


def test_a_connected_worker_is_healthy_and_has_the_documented_metrics():
    port = free_port()
    with FakeEngine() as engine, healthy_client(engine, port) as client:

        @client.task(name="any")
        async def any_(input: EmptyModel, ctx: Context) -> None: ...

        with running(client.worker("my-worker", workflows=[any_])):
            assert get(port, "/health") == (200, '{"status":"HEALTHY"}')
            status, text = get(port, "/metrics")
            assert status == 200
            assert "hatchet_worker_listener_health_my_worker 1.0" in text
            assert "hatchet_worker_event_loop_lag_seconds_my_worker 0.0" in text
            assert "python_info" in text
            assert get(port, "/other")[0] == 404
            engine.stop()
            wait_for(lambda: get(port, "/health")[0] == 503, "the worker to be unhealthy")
            assert json.loads(get(port, "/health")[1]) == {"status": "UNHEALTHY"}
            engine.start()
            wait_for(lambda: get(port, "/health")[0] == 200, "the worker to be healthy again", 20)


def test_a_loop_blocked_for_longer_than_the_threshold_is_not_healthy():
    port = free_port()
    release = threading.Event()
    with FakeEngine() as engine, healthy_client(engine, port, threshold=0.3) as client:

        @client.task(name="block")
        async def block(input: EmptyModel, ctx: Context) -> None:
            assert release.wait(20)

        with running(client.worker("w", workflows=[block])):
            assert get(port, "/health")[0] == 200
            engine.trigger("block")
            wait_for(lambda: get(port, "/health")[0] == 503, "the worker to be unhealthy")
            release.set()
            wait_for(lambda: get(port, "/health")[0] == 200, "the worker to be healthy again")


def test_a_port_in_use_keeps_the_worker_from_starting_and_names_the_setting():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        FakeEngine() as engine,
        healthy_client(engine, taken.getsockname()[1]) as client,
    ):

        @client.task(name="any")
        async def any_(input: EmptyModel, ctx: Context) -> None: ...

        with pytest.raises(OSError, match="BROADAXE_CLIENT_WORKER_HEALTHCHECK_PORT"):
            client.worker("w", workflows=[any_]).start()
