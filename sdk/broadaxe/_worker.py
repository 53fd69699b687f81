"""A worker: registers what it can run, runs it, and stops without losing any of it.

`start` blocks its thread, which becomes the thread of the user's loop. The connection lives on the client's io loop, so a task
that blocks the user's loop does not stop reports; heartbeats come from a process of their own. In the main thread SIGTERM and
SIGINT drain the worker, and a second signal ends the process at once.
"""

import asyncio
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from types import FrameType
from typing import TYPE_CHECKING, Any

import grpc

from broadaxe._config import Settings
from broadaxe._errors import BroadaxeError, ConfigurationError, RequestRefusedError, ServerUnavailableError
from broadaxe._heartbeat_process import HeartbeatProcess
from broadaxe._logging import OutputSender, TaskLogHandler
from broadaxe._runner import Runner
from broadaxe._transport.base import Transport
from broadaxe._unary_worker import UnaryWorker
from broadaxe._worker_link import Delivery, Registration, WorkerLink, wire_labels
from broadaxe._worker_stream import WorkerStream
from broadaxe.wire import dispatcher_pb2
from broadaxe.wire.stream_pb2 import LogLine, StreamChunk

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe
    from broadaxe._health import HealthServer
    from broadaxe._task import Task
    from broadaxe._workflow import BaseWorkflow

logger = logging.getLogger("broadaxe.worker")

DEFAULT_SLOTS = 100
DEFAULT_DURABLE_SLOTS = 1000
NAME_LETTERS = re.compile(r"[A-Za-z0-9._-]+")
SETTLE_NOTICE_S = 5.0
"""After how long a stopping worker says that it still waits for the engine."""
SECOND_SIGNAL_EXIT_CODE = 1

LifespanFn = Callable[[], AsyncGenerator[Any, None]]


class Worker:
    """Runs the tasks of its workflows, at most `slots` at once. Made by `Broadaxe.worker`.

    slots: ordinary tasks at once; 100 when not given and any are registered.
    durable_slots: durable tasks at once, counted apart; 1,000 when not given and any are registered.
    labels: what tasks with desired worker labels look for.
    lifespan: an async generator function; what it yields is `ctx.lifespan` of every task, what follows the yield runs after the
    last task. If it raises before the yield, the worker does not start.
    """

    def __init__(
        self,
        client: "Broadaxe",
        name: str,
        *,
        slots: int | None = None,
        durable_slots: int | None = None,
        labels: Mapping[str, str | int] | None = None,
        workflows: "Sequence[BaseWorkflow[Any]]" = (),
        lifespan: LifespanFn | None = None,
    ) -> None:
        self._client = client
        self.name = client.namespace + name
        if not NAME_LETTERS.fullmatch(self.name):
            raise ConfigurationError(f"worker name {self.name!r}: only letters, digits and . _ - are allowed")
        for what, given in (("slots", slots), ("durable_slots", durable_slots)):
            if given is not None and given < 1:
                raise ConfigurationError(f"worker {self.name}: {what} is {given}, expected 1 or more")
        self._slots = slots
        self._durable_slots = durable_slots
        self._labels = dict(labels or {})
        wire_labels(self._labels)
        self._lifespan_fn = lifespan
        self._workflows: list[BaseWorkflow[Any]] = []
        self._tasks: dict[str, Task[Any, Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._stopped = threading.Event()
        self._stopped.set()
        self._run: _Run | None = None
        self.register_workflows(list(workflows))

    # ---- before the start

    def register_workflow(self, workflow: "BaseWorkflow[Any]") -> None:
        """Add a workflow or standalone task. Raises when the worker has started, or the name is taken by another."""
        if not self._stopped.is_set():
            raise RuntimeError(f"worker {self.name} has started: register workflows before")
        if workflow in self._workflows:
            return
        for task in workflow.tasks:
            action = task.action_id.lower()
            if action in self._tasks:
                raise ConfigurationError(
                    f"worker {self.name} has a task {action!r} already: workflow and task names must differ"
                )
            self._tasks[action] = task
        self._workflows.append(workflow)

    def register_workflows(self, workflows: "Sequence[BaseWorkflow[Any]]") -> None:
        """Add workflows or standalone tasks."""
        for workflow in workflows:
            self.register_workflow(workflow)

    @property
    def slot_config(self) -> dict[str, int]:
        """Slots by pool, as registered."""
        has_durable = any(task.is_durable for task in self._tasks.values())
        has_ordinary = any(not task.is_durable for task in self._tasks.values())
        config: dict[str, int] = {}
        if has_ordinary or self._slots is not None:
            config["default"] = self._slots or DEFAULT_SLOTS
        if has_durable or self._durable_slots is not None:
            config["durable"] = self._durable_slots or DEFAULT_DURABLE_SLOTS
        return config

    # ---- life

    @property
    def id(self) -> str | None:
        """The id that the engine gave; None before the first connection."""
        return (self._run.link.worker_id or None) if self._run is not None else None

    @property
    def is_healthy(self) -> bool:
        """Connected to the engine, with heartbeats arriving."""
        run = self._run
        return run is not None and run.is_healthy

    def start(self) -> None:
        """Run until a signal, `stop`, or an error that waiting does not mend. Blocks; makes an event loop of its own.

        Raises what the engine refused (a definition, the token), or what the lifespan raised. While the server is away
        the worker waits for it.
        """
        asyncio.run(self.aio_start())

    async def aio_start(self) -> None:
        """As `start`, on the running loop, which tasks then share."""
        if not self._stopped.is_set():
            raise RuntimeError(f"worker {self.name} runs already")
        if not self._tasks:
            raise ConfigurationError(
                f"worker {self.name} has no workflows: pass workflows=[...] or register them"
            )
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._stopped.clear()
        signals = _Signals(self)
        try:
            signals.install()
            await self._live()
        finally:
            signals.remove()
            self._stopped.set()
            self._run = None

    def stop(self, timeout: float | None = None) -> None:
        """Drain, from another thread, and wait (seconds, or for ever) until the worker has stopped."""
        self._ask_to_stop()
        if not self._stopped.wait(timeout):
            raise TimeoutError(f"worker {self.name} did not stop within {timeout} s: tasks still run")

    async def aio_stop(self) -> None:
        """Drain, and wait until the worker has stopped."""
        self._ask_to_stop()
        await asyncio.to_thread(self._stopped.wait)

    def _ask_to_stop(self) -> None:
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and not self._stopped.is_set():
            loop.call_soon_threadsafe(stopping.set)

    async def _live(self) -> None:
        assert self._stopping is not None
        run = await _Run.prepare(self)
        self._run = run
        try:
            async with _Lifespan(self._lifespan_fn) as lifespan:
                run.begin(lifespan)
                try:
                    await run.until(self._stopping)
                    await run.drain()
                finally:
                    await run.end()
        finally:
            run.stop_threads()


class _Run:
    """One life of a worker, from start to stop: its link, runner, heartbeat, health server, and services for contexts."""

    def __init__(self, worker: Worker, io_loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._settings: Settings = worker._client.settings  # noqa: SLF001 - one class in two parts
        self._transport: Transport = worker._client.transport  # noqa: SLF001
        self._io_loop = io_loop
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] | None = None
        self.lifespan: Any = None
        self._registration = Registration(
            name=worker.name,
            slot_config=worker.slot_config,
            tasks=worker._tasks,  # noqa: SLF001
            labels={**self._settings.worker_preset_labels, **worker._labels},  # noqa: SLF001
        )
        self._heartbeat = HeartbeatProcess(_connection(self._settings))
        self._output = OutputSender(self._transport, io_loop)
        self._log_handler = TaskLogHandler()
        self._logger = self._settings.logger
        self._health: HealthServer | None = None
        self.link: WorkerLink
        self.runner: Runner

    @classmethod
    async def prepare(cls, worker: Worker) -> "_Run":
        io_loop = await asyncio.wrap_future(worker._client.transport.submit(_current_loop()))  # noqa: SLF001
        run = cls(worker, io_loop)
        run.link = await run._on_io(run._make_link(WorkerStream))
        return run

    # ---- life, on the user's loop

    def begin(self, lifespan: Any) -> None:
        """Start threads, and connect."""
        self.lifespan = lifespan
        slots = self._registration.slot_config
        self.runner = Runner(
            self.link,
            self,
            loop=self._loop,
            threads=sum(slots.values()),
            max_output_bytes=self._settings.max_send_bytes,
        )
        if self._settings.log_level is not None:
            logging.getLogger("broadaxe").setLevel(self._settings.log_level)
        self._logger.addHandler(self._log_handler)
        self._start_health()
        self._connected = asyncio.wrap_future(self._transport.submit(self._connect()))
        logger.info(
            "worker %s starts with %d tasks and slots %s",
            self._worker.name,
            len(self._registration.tasks),
            slots,
        )

    async def until(self, stopping: asyncio.Event) -> None:
        """Return when asked to stop; raise what ended the connection for good."""
        assert self._connected is not None
        stop = asyncio.ensure_future(stopping.wait())
        either: set[asyncio.Future[Any]] = {stop, self._connected}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        if self._connected.done():
            await self._connected

    async def drain(self) -> None:
        """Take nothing new, finish what runs, and see every report committed."""
        logger.info("worker %s stops: %d tasks still run", self._worker.name, self.runner.running_count)
        await self._on_io(self.link.pause())
        await self.runner.idle()
        await asyncio.wait([asyncio.wrap_future(self._output.drained())])
        settled = asyncio.ensure_future(self._on_io(self.link.settle()))
        while not (await asyncio.wait({settled}, timeout=SETTLE_NOTICE_S))[0]:
            logger.warning(
                "worker %s waits for the engine to commit the ends of %d tasks; a second signal gives them up",
                self._worker.name,
                self.link.held_count,
            )
        await settled
        # What was assigned while the pause travelled has run as well by now.
        await self.runner.idle()

    async def end(self) -> None:
        """Leave the engine, and free what was started."""
        assert self._connected is not None
        await self._on_io(self.link.close())
        self._connected.cancel()
        await asyncio.wait({self._connected})
        self.runner.close()

    def stop_threads(self) -> None:
        self._logger.removeHandler(self._log_handler)
        self._heartbeat.stop()
        if self._health is not None:
            self._health.stop()
        logger.info("worker %s has stopped", self._worker.name)

    @property
    def is_healthy(self) -> bool:
        return self.link.is_connected and self._heartbeat.is_alive and self._heartbeat.error is None

    def _start_health(self) -> None:
        health = self._settings.healthcheck
        if health.enabled:
            from broadaxe._health import HealthServer, LoopLag  # noqa: PLC0415 - most workers serve none

            self._health = HealthServer(
                self._worker.name,
                address=health.bind_address,
                port=health.port,
                block_threshold_s=health.event_loop_block_threshold_seconds,
                is_healthy=lambda: self.is_healthy,
                lags=[LoopLag(self._loop), LoopLag(self._io_loop)],
            )

    def _on_io(self, work: Any) -> "asyncio.Future[Any]":
        return asyncio.wrap_future(self._transport.submit(work))

    # ---- on the io loop

    async def _make_link(self, kind: type[WorkerLink], **more: Any) -> WorkerLink:
        make: Any = kind
        link: WorkerLink = make(
            self._transport.channel,
            self._transport.metadata,
            registration=self._registration,
            loop=self._io_loop,
            deliver=self._deliver,
            register_workflows=self._register_workflows,
            on_worker_id=self._heartbeat.beat_for,
            **more,
        )
        return link

    async def _connect(self) -> None:
        try:
            await self.link.run()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise RequestRefusedError(
                    error.code().name, error.details() or "", f"worker {self._worker.name} was refused"
                ) from error
        else:
            return
        logger.info("the server has no batched stream: worker %s uses one call a report", self._worker.name)
        self._transport.use_unary()
        self.link = await self._make_link(
            UnaryWorker, server_url=self._settings.server_url, token=self._settings.token
        )
        self.runner.use(self.link)
        await self.link.run()

    def _deliver(self, delivery: Delivery) -> None:
        self._loop.call_soon_threadsafe(self.runner.take, delivery, context=self.runner.context)

    async def _register_workflows(self) -> None:
        """Register every workflow, waiting for a server that is away."""
        for workflow in self._worker._workflows:  # noqa: SLF001
            while True:
                try:
                    await self._transport.put_workflow(workflow.to_wire())
                    break
                except ServerUnavailableError as error:
                    logger.warning("worker %s waits for the server: %s", self._worker.name, error)
                    await asyncio.sleep(1)

    # ---- TaskServices, any thread

    @property
    def worker_id(self) -> str:
        return self.link.worker_id

    @property
    def worker_labels(self) -> Mapping[str, str | int]:
        return self._registration.labels

    def put_log(self, line: LogLine) -> None:
        self._output.put_log(line)

    def put_chunk(self, chunk: StreamChunk) -> None:
        self._output.put_chunk(chunk)

    def drained(self) -> "Future[None]":
        return self._output.drained()

    def delivered(self) -> "Future[None]":
        return self._transport.submit(self._deliver_output())

    async def _deliver_output(self) -> None:
        """Chunks travel on another stream than reports. The first chunk opens it, and the end of a task could overtake it there:
        a call and its answer in between show that the server has got so far.
        """
        await asyncio.wait([asyncio.wrap_future(self._output.drained())])  # its errors are told by the sender
        version = self._transport.channel.unary_unary(
            "/Dispatcher/GetVersion",
            request_serializer=dispatcher_pb2.GetVersionRequest.SerializeToString,
            response_deserializer=None,
        )
        try:
            await version(dispatcher_pb2.GetVersionRequest(), metadata=self._transport.metadata, timeout=5.0)
        except grpc.aio.AioRpcError as error:
            logger.info("the end of a streaming task may overtake its last chunks: %s", error.details())

    def cancel(self, task_run_id: str, attempt: int) -> "Future[None]":
        return self.link.cancel((task_run_id, attempt))

    def upsert_labels(self, labels: Mapping[str, str | int]) -> "Future[None]":
        return self._transport.submit(self.link.upsert_labels(labels))

    def refresh_timeout(self, task_run_id: str, increment: str) -> "Future[None]":
        request = dispatcher_pb2.RefreshTimeoutRequest(
            task_run_external_id=task_run_id, increment_timeout_by=increment
        )
        return self._transport.submit(self._ask("RefreshTimeout", request))

    def release_slot(self, task_run_id: str) -> "Future[None]":
        request = dispatcher_pb2.ReleaseSlotRequest(task_run_external_id=task_run_id)
        return self._transport.submit(self._ask("ReleaseSlot", request))

    async def _ask(self, method: str, request: Any) -> None:
        call = self._transport.channel.unary_unary(
            f"/Dispatcher/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=None,
        )
        try:
            await call(request, metadata=self._transport.metadata, timeout=30.0)
        except grpc.aio.AioRpcError as error:
            raise RequestRefusedError(error.code().name, error.details() or "", method) from error


class _Lifespan:
    """The user's async generator around the life of a worker."""

    def __init__(self, function: LifespanFn | None) -> None:
        self._generator = function() if function is not None else None

    async def __aenter__(self) -> Any:
        if self._generator is None:
            return None
        try:
            return await anext(self._generator)
        except StopAsyncIteration:
            raise BroadaxeError(
                "the lifespan ended without a yield: yield once, between set-up and teardown"
            ) from None

    async def __aexit__(self, *_: object) -> None:
        if self._generator is None:
            return
        try:
            await anext(self._generator)
        except StopAsyncIteration:
            return
        await self._generator.aclose()
        raise BroadaxeError("the lifespan yielded twice: yield once, between set-up and teardown")


class _Signals:
    """SIGTERM and SIGINT of the process, while a worker runs in its main thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._before: dict[int, Any] = {}
        self._count = 0

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not the loop's own handlers: those wait for a loop that a task may be blocking.
            self._before[number] = signal.signal(number, self._take)

    def remove(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            sys.stderr.write(
                f"worker {self._worker.name}: second signal, exiting at once; running tasks are given up\n"
            )
            sys.stderr.flush()
            os._exit(SECOND_SIGNAL_EXIT_CODE)
        self._worker._ask_to_stop()  # noqa: SLF001 - one class in two parts


async def _current_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def _connection(settings: Settings) -> dict[str, Any]:
    """What the heartbeat process needs to connect, as JSON."""
    tls = settings.tls
    return {
        "host_port": settings.host_port,
        "token": settings.token,
        "strategy": tls.strategy,
        "server_name": tls.server_name,
        **{
            name: (pem.decode() if pem else None)
            for name, pem in (("root_ca", tls.root_ca), ("cert", tls.cert), ("key", tls.key))
        },
    }
