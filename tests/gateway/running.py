"""A server within the test's own process, on free ports, over an embedded Postgres that a module shares."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc

from broadaxe.wire import dispatcher_pb2
from broadaxe_gateway.config import load_config
from broadaxe_gateway.server import RunningServer, serve


def environment_of(data_dir: Path, **extra: str) -> dict[str, str]:
    """Settings for a server beside others: free ports, its own home, Postgres left running for the next."""
    return {
        "BROADAXE_DATA_DIR": str(data_dir),
        "BROADAXE_HOME": str(data_dir / "home"),
        "BROADAXE_KEEP_POSTGRES": "true",
        "SERVER_PORT": "0",
        "SERVER_GRPC_PORT": "0",
        "SERVER_HEALTHCHECK_PORT": "0",
        **extra,
    }


@contextlib.asynccontextmanager
async def running(environment: Mapping[str, str]) -> AsyncIterator[RunningServer]:
    """Serves until the block ends."""
    server = await serve(load_config(environment))
    try:
        yield server
    finally:
        await server.stop()


async def get_version(channel: grpc.aio.Channel, token: str) -> str:
    """The engine's version, over a real call."""
    call = channel.unary_unary(
        "/Dispatcher/GetVersion",
        request_serializer=dispatcher_pb2.GetVersionRequest.SerializeToString,
        response_deserializer=dispatcher_pb2.GetVersionResponse.FromString,
    )
    answer = await call(
        dispatcher_pb2.GetVersionRequest(), metadata=(("authorization", f"bearer {token}"),), timeout=10
    )
    version: str = answer.version
    return version
