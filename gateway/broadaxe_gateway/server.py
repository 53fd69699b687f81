"""One server process: builds and connects everything in order, and closes it in reverse. The only place that knows all the parts.

Order: data directory, keys, ports (bound at once, so that a port in use is known before anything slow), HTTP answering probes, database, migrations,
default tenant, engine (recovered), gRPC, HTTP in full, local profile. Signals and exit codes are `run`'s.
"""

import asyncio
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc

from broadaxe_actors.cel import Evaluator
from broadaxe_actors.resource_limits import Resource
from broadaxe_actors.runtime.clock import SystemClock, SystemRng
from broadaxe_actors.settings import DEFAULT_BATCH_BYTES, ShardSettings
from broadaxe_actors.shard import Shard
from broadaxe_actors.telemetry import Telemetry
from broadaxe_gateway.addresses import audience, join, local_address
from broadaxe_gateway.config import DEFAULT_HEALTH_PORT, ServerConfig
from broadaxe_gateway.database import ensure_seed, open_store
from broadaxe_gateway.datadir import DataDirError, DataDirLock
from broadaxe_gateway.garbage import settle, tidy
from broadaxe_gateway.http.app import create_app
from broadaxe_gateway.http.auth import People
from broadaxe_gateway.http.health import Readiness, create_health_app, create_starting_app
from broadaxe_gateway.http.listeners import HttpListeners, ListenError, listen
from broadaxe_gateway.http.metrics import create_metrics_app
from broadaxe_gateway.hub import Hub
from broadaxe_gateway.keysets import KeysetError, Keysets, MasterKeyset, open_keysets
from broadaxe_gateway.logs import configure_logging
from broadaxe_gateway.passwords import PasswordWork
from broadaxe_gateway.profile import Profile, choose_token, write_profile
from broadaxe_gateway.retention import RetentionService
from broadaxe_gateway.rpc.limits import GrpcLimits, server_options
from broadaxe_gateway.rpc.server import add_services
from broadaxe_gateway.sealing import Sealer
from broadaxe_gateway.sessions import Sessions, cookie_secrets
from broadaxe_gateway.tls import server_credentials
from broadaxe_gateway.tokens import TokenService
from broadaxe_gateway.webhooks.deliveries import Deliveries
from broadaxe_gateway.webhooks.directory import WebhookDirectory
from broadaxe_storage.errors import StorageError
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.retention import Retention
from broadaxe_storage.webhooks import WebhookStore

logger = logging.getLogger("broadaxe.server")

ENGINE_VERSION = "v0.79.0"
"""What `GetVersion` and /api/v1/version answer: SDKs choose by it what to ask of an engine. Below v0.88.1, they do without durable execution."""
EXPECTED_ERRORS = (DataDirError, KeysetError, ListenError, StorageError)
"""What the world does to a starting server: told in a line, without a traceback."""
GRPC_GRACE_SECONDS = 5.0
"""How long calls in progress may take to end when the server stops; streams are ended at once."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that is ready. `stop` closes everything in reverse; it may be called twice."""

    config: ServerConfig
    grpc_address: str
    """For clients on this machine, `host:port`."""
    http_address: str
    health_address: str
    """Empty when there is no health port."""
    prometheus_address: str
    """Empty when there is no metrics port."""
    default_tenant_id: str
    ended: "asyncio.Future[str]"
    """Resolves with the reason when the engine cannot go on: another has taken over its database, or the embedded one cannot be started again."""
    stop: Callable[[], Coroutine[Any, Any, None]]

    @property
    def ready_line(self) -> str:
        return f"broadaxe is ready: grpc={self.grpc_address} http={self.http_address} data={self.config.data_dir}"


async def serve(config: ServerConfig) -> RunningServer:
    """Start everything and return once it is ready.

    Whatever had been started is closed again when it cannot: then raises one of `EXPECTED_ERRORS`.
    """
    stack = AsyncExitStack()
    try:
        return await _compose(config, stack)
    except BaseException:
        await stack.aclose()
        raise


async def _compose(config: ServerConfig, stack: AsyncExitStack) -> RunningServer:
    lock = DataDirLock.acquire(config.data_dir, is_server=True)
    stack.callback(lock.release)
    keysets = open_keysets(config.data_dir, config.jwt_keyset, config.master_keyset)

    readiness = Readiness()
    limits = GrpcLimits(
        max_message_bytes=config.grpc.max_message_bytes, requests_per_second=config.grpc.rate_limit
    )
    grpc_server = grpc.aio.server(options=server_options(limits))
    stack.push_async_callback(grpc_server.stop, None)
    grpc_port = _bind_grpc(grpc_server, config)
    listeners = HttpListeners()
    stack.push_async_callback(listeners.stop)
    http_port = listeners.bind(
        config.http.bind_address, config.http.port, create_starting_app(readiness), setting="SERVER_PORT"
    )
    health_address = _bind_health(listeners, config, readiness)
    prometheus_port = _bind_prometheus(listeners, config, readiness)
    await listeners.start()

    readiness.problem = "starting: opening the database"
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_fatal(reason: str) -> None:
        if not ended.done():
            ended.set_result(reason)

    store = await open_store(config, stack, keeps_running=config.keeps_postgres, on_lost=on_fatal)
    tenant = await ensure_seed(store, config.seed)
    readiness.problem = "starting: recovering the engine's state"
    shard = await Shard.start(
        store,
        clock=SystemClock(),
        rng=SystemRng(),
        settings=ShardSettings(
            max_internal_retries=config.max_internal_retries,
            priority_ageing=config.priority_ageing,
            is_log_ingestion_enabled=config.is_log_ingestion_enabled,
            limits=config.limits,
            batch_bytes=min(DEFAULT_BATCH_BYTES, limits.max_message_bytes * 19 // 20),
        ),
        on_fatal=on_fatal,
    )
    stack.push_async_callback(shard.stop)
    hub = Hub(shard.connect_gateway(str(uuid.uuid4())))
    stack.callback(hub.close)
    # An engine that cannot go on answers nothing more: who waits for it is told now, not after the grace.
    ended.add_done_callback(lambda _: hub.close())
    grpc_address = local_address(config.grpc.bind_address, grpc_port)
    http_address = local_address(config.http.bind_address, http_port)
    addresses = audience(config, grpc_broadcast_address=grpc_address, server_url=f"http://{http_address}")
    tokens = TokenService(store, keysets.jwt, addresses)
    people = _people(config, store, keysets, addresses.server_url, stack)
    services = add_services(
        grpc_server,
        hub=hub,
        tokens=tokens,
        config=limits,
        version=ENGINE_VERSION,
        fetch_event=store.history.fetch_event,
        is_replay_enabled=config.is_replay_enabled,
    )
    tokens.on_revoked = services.streams.end_revoked
    await grpc_server.start()
    stack.push_async_callback(grpc_server.stop, GRPC_GRACE_SECONDS)
    stack.push_async_callback(services.close)

    webhooks, deliveries = await _open_webhooks(store.webhooks, keysets.master, config, hub, stack)
    _start_retention(store.retention, config, stack)

    async def telemetry(tenant_id: str | None) -> Telemetry:
        await shard.refresh_gauges(tenant_id)
        return shard.telemetry

    listeners.replace(
        http_port,
        create_app(
            hub=hub,
            reads=store.history,
            fetch_version=store.fetch_version,
            webhooks=webhooks,
            deliveries=deliveries,
            fetch_retention_period=store.retention.fetch_period,
            count_timers=store.count_timers,
            tokens=tokens,
            people=people,
            telemetry=telemetry,
            gateway_figures=services.counters,
            readiness=readiness,
            config=config,
            version=ENGINE_VERSION,
        ),
    )
    if prometheus_port is not None:
        listeners.replace(
            prometheus_port,
            create_metrics_app(telemetry, services.counters, config.prometheus.path),
        )
    write_profile(
        config.profile_path,
        Profile(
            token=await choose_token(config.profile_path, tokens, tenant.id, time.time()),
            grpc_address=grpc_address,
            server_url=f"http://{http_address}",
            tls_strategy=config.grpc.tls.strategy,
            pid=os.getpid(),
            tls_server_name=config.grpc.tls.server_name,
        ),
        config.grpc.tls.root_ca,
    )
    lock.announce(
        grpc_broadcast_address=addresses.grpc_broadcast_address,
        server_url=addresses.server_url,
        health_address=health_address,
    )
    stack.callback(lock.withdraw)
    stack.callback(setattr, readiness, "problem", "stopping")
    readiness.problem = None
    return RunningServer(
        config=config,
        grpc_address=grpc_address,
        http_address=http_address,
        health_address=health_address,
        prometheus_address=""
        if prometheus_port is None
        else local_address(config.prometheus.host, prometheus_port),
        default_tenant_id=tenant.id,
        ended=ended,
        stop=stack.aclose,
    )


async def _open_webhooks(
    store: WebhookStore, master: MasterKeyset, config: ServerConfig, hub: Hub, stack: AsyncExitStack
) -> tuple[WebhookDirectory, Deliveries]:
    """Incoming webhooks, their secrets sealed with the first key of the keyset."""
    limit = config.limits.get(Resource.INCOMING_WEBHOOK)
    directory = WebhookDirectory(store, Sealer(master), most=None if limit is None else limit.limit)
    await directory.seal_anew()
    # A process of their own: what senders send must not stand before the engine's expressions.
    evaluator = Evaluator()
    stack.push_async_callback(evaluator.close)
    return directory, Deliveries(directory, hub, evaluator)


def _start_retention(retention: Retention, config: ServerConfig, stack: AsyncExitStack) -> None:
    service = RetentionService(retention, config.retention)
    service.start()
    stack.push_async_callback(service.stop)


def _people(
    config: ServerConfig, store: PostgresStore, keysets: Keysets, server_url: str, stack: AsyncExitStack
) -> People:
    """What those who sign in are known by; `stack` ends the hashing of passwords."""
    passwords = PasswordWork()
    stack.callback(passwords.close)
    return People(
        store=store,
        sessions=Sessions(store, cookie_secrets(config.auth.cookie_secrets, keysets.master)),
        passwords=passwords,
        config=config.auth,
        server_url=server_url,
    )


def _bind_grpc(server: grpc.aio.Server, config: ServerConfig) -> int:
    """The port. gRPC reports a port in use in words of its own, on stderr too; so the port is tried first."""
    bind_address, port = config.grpc.bind_address, config.grpc.port
    if port:
        listen(bind_address, port, "SERVER_GRPC_PORT").close()
    credentials = server_credentials(config.grpc.tls)
    address = join(bind_address, port)
    try:
        bound: int = (
            server.add_insecure_port(address)
            if credentials is None
            else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise ListenError("SERVER_GRPC_PORT", bind_address, port, str(error)) from error
    return bound


def _bind_prometheus(listeners: HttpListeners, config: ServerConfig, readiness: Readiness) -> int | None:
    """The metrics port, None if there is to be none."""
    if not config.prometheus.is_enabled:
        return None
    return listeners.bind(
        config.prometheus.host,
        config.prometheus.port,
        create_starting_app(readiness),
        setting="SERVER_PROMETHEUS_ADDRESS",
    )


def _bind_health(listeners: HttpListeners, config: ServerConfig, readiness: Readiness) -> str:
    """The health port's address, empty if there is to be none. The default port gives way to another server on this machine."""
    if not config.health.is_enabled:
        return ""
    host, app = config.http.bind_address, create_health_app(readiness)
    setting = "SERVER_HEALTHCHECK_PORT"
    if config.health.port is not None:
        port = listeners.bind(host, config.health.port, app, setting=setting)
    else:
        try:
            port = listeners.bind(host, DEFAULT_HEALTH_PORT, app, setting=setting)
        except ListenError as error:
            port = listeners.bind(host, 0, app, setting=setting)
            logger.info("health is served on port %d: %s", port, error)
    return local_address(host, port)


def run(config: ServerConfig) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code: 0 after an orderly stop, 1 when the server could not start or go on.

    A second signal ends the process at once; nothing acknowledged is lost by that.
    """
    configure_logging(config.log)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run(config))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        logger.info("uvloop is not installed: the slower loop of asyncio is used")
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _run(config: ServerConfig) -> int:
    stopping = _stop_on_signals()
    starting = asyncio.create_task(serve(config), name="start")
    await _first_of(starting, stopping)
    if not starting.done():
        starting.cancel()
    try:
        server = await starting
    except asyncio.CancelledError:
        return 0
    except EXPECTED_ERRORS as error:
        print(f"broadaxe: {error}", file=sys.stderr)  # noqa: T201 - the command's answer, not a log
        return 1
    settle()
    tidying = asyncio.create_task(tidy(), name="tidy")
    print(server.ready_line, flush=True)  # noqa: T201 - the command's answer, not a log
    for notice in config.notices:
        logger.info("%s", notice)
    await _first_of(stopping, server.ended)
    if not stopping.done():
        print(f"broadaxe: {server.ended.result()}", file=sys.stderr)  # noqa: T201 - as above
    logger.info("stopping")
    tidying.cancel()
    await server.stop()
    return 0 if stopping.done() else 1


async def _first_of(*futures: "asyncio.Future[Any]") -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _stop_on_signals() -> "asyncio.Future[None]":
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if stopping.done():
            logger.warning("second signal: ending at once")
            os._exit(1)
        stopping.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopping
