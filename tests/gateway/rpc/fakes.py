"""A scripted engine behind a `ShardLink`, a token service that knows two tokens, and a real gRPC server on loopback."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from broadaxe_actors import messages as m
from broadaxe_actors.errors import Code
from broadaxe_gateway.hub import Hub
from broadaxe_gateway.rpc.limits import GrpcLimits, server_options
from broadaxe_gateway.rpc.server import RpcServices, add_services
from broadaxe_gateway.tokens import Identity, Unauthenticated

TENANT = "11111111-1111-7111-8111-111111111111"
OTHER_TENANT = "22222222-2222-7222-8222-222222222222"
TOKENS = {"good": TENANT, "other": OTHER_TENANT}


def new_id() -> str:
    return str(uuid.uuid4())


class FakeTokens:
    async def verify(self, token: str, *, is_activity: bool = True) -> Identity:
        tenant = TOKENS.get(token)
        if tenant is None:
            raise Unauthenticated(f"unknown token {token!r}")
        return Identity(tenant, f"token-of-{tenant}", 2**62)


class FakeLink:
    """Keeps every message it gets; answers requests by `answers[type](message)`, which may return an `Exception`-like `Refusal`."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.messages: list[Any] = []
        self.answers: dict[type, Callable[[Any], Any]] = {}
        self._callback: Callable[[list[Any]], None] = lambda batch: None
        self._waiters: list[tuple[Callable[[Any], bool], asyncio.Future[Any]]] = []

    def on_batch(self, callback):
        self._callback = callback

    def submit(self, batch):
        self.batches.append(list(batch))
        out = []
        for message in batch:
            self.messages.append(message)
            for waiter in list(self._waiters):
                if waiter[0](message) and not waiter[1].done():
                    waiter[1].set_result(message)
                    self._waiters.remove(waiter)
            answer = self.answers.get(type(message))
            if answer is not None:
                value = answer(message)
                if isinstance(value, m.Refusal):
                    out.append(value._replace(request_id=message.request_id))
                elif getattr(message, "request_id", 0) and value is not NO_ANSWER:
                    out.append(m.Reply(message.request_id, value))
        if out:
            asyncio.get_running_loop().call_soon(self._callback, out)

    def push(self, *messages: Any) -> None:
        self._callback(list(messages))

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.messages if type(message) is kind]

    async def seen(self, kind: type, count: int = 1) -> list[Any]:
        """The first `count` messages of a kind, waiting for them."""
        async with asyncio.timeout(5):
            while len(found := self.of(kind)) < count:
                future = asyncio.get_running_loop().create_future()
                self._waiters.append((lambda message: type(message) is kind, future))
                await future
        return found[:count]


NO_ANSWER = object()


def refusal(code: Code, text: str) -> m.Refusal:
    return m.Refusal(0, code, text)


class FakeEngine(FakeLink):
    """A link whose answers are those of an engine where everything exists and nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self.worker_id = new_id()
        self.sessions: list[m.OpenSession] = []
        self.answers = {
            m.PutWorkflow: lambda q: m.WorkflowRegistered(new_id(), new_id()),
            m.TriggerRuns: lambda q: tuple(run.run_id for run in q.runs),
            m.PushEvents: lambda q: m.EventsPushed(tuple(new_id() for _ in q.events), time.time_ns() // 1000),
            m.RegisterWorker: lambda q: self.worker_id,
            m.OpenSession: self._open,
            m.Heartbeat: lambda q: None,
            m.StopWorker: lambda q: None,
            m.UpsertLabels: lambda q: None,
            m.PauseWorker: lambda q: None,
            m.ReportTasks: lambda q: m.ReportsTaken((True,) * len(q.reports)),
            m.OpenSubscription: lambda q: True,
            m.PutLogs: lambda q: None,
            m.PutStream: lambda q: None,
            m.CancelRuns: lambda q: q.ids,
            m.ReplayRuns: lambda q: q.ids,
            m.RefreshTimeout: lambda q: 1_750_000_000_000_000 + q.increment_us,
            m.ReleaseSlot: lambda q: None,
        }

    def _open(self, message: m.OpenSession) -> None:
        self.sessions.append(message)

    @property
    def session_id(self) -> str:
        return self.sessions[-1].session_id


STEP = m.StepRef(new_id(), "flow:step", "step", new_id(), new_id())


def make_assignment(**changes: Any) -> m.Assignment:
    run_id = new_id()
    fields: dict[str, Any] = {
        "step": STEP,
        "run_id": run_id,
        "task_run_id": run_id,
        "attempt": 0,
        "priority": 1,
        "input": b'{"n":1}',
        "metadata": "{}",
        "created_at": 1_750_000_000_000_000,
        "parent_task_run_id": None,
        "child_index": None,
        "child_key": None,
        "triggering_event_id": None,
        "triggering_event_key": None,
    }
    return m.Assignment(**(fields | changes))


class Gateway:
    """A running server, its fake engine and a channel to it."""

    def __init__(self, engine, hub: Hub, services: RpcServices, channel, port: int) -> None:
        self.engine = engine
        self.hub = hub
        self.services = services
        self.channel = channel
        self.port = port

    def unary(self, path: str, response: Any, token: str | None = "good"):
        call = self.channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return lambda request: call(request, metadata=_metadata(token), timeout=10)

    def server_stream(self, path: str, request: Any, response: Any, token: str = "good"):
        return self.channel.unary_stream(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )(request, metadata=_metadata(token))

    def both_stream(self, path: str, response: Any, token: str = "good"):
        return self.channel.stream_stream(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )(metadata=_metadata(token))


def _metadata(token: str | None):
    return (("authorization", f"bearer {token}"),) if token is not None else ()


async def no_event(tenant_id: str, event_id: str) -> None:
    """There are no events."""


@asynccontextmanager
async def running_gateway(
    engine: Any = None,
    limits: GrpcLimits | None = None,
    channel_options: Any = (),
    *,
    is_replay_enabled: bool = True,
    fetch_event: Any = None,
) -> AsyncIterator[Gateway]:
    engine = engine or FakeEngine()
    limits = limits or GrpcLimits()
    hub = Hub(engine)
    server = grpc.aio.server(options=server_options(limits))
    services = add_services(
        server,
        hub=hub,
        tokens=FakeTokens(),
        config=limits,
        version="v0.79.0",
        fetch_event=fetch_event or no_event,
        is_replay_enabled=is_replay_enabled,
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options)
    try:
        yield Gateway(engine, hub, services, channel, port)
    finally:
        async with asyncio.timeout(10):
            await services.close()
            await channel.close()
            hub.close()
            await server.stop(None)
