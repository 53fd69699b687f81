"""One life of a worker, from its start to its stop: what connects, runs tasks, beats, and serves the contexts of tasks."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import grpc

from broadaxe._config import Settings
from broadaxe._errors import RequestRefusedError
from broadaxe._heartbeat_process import HeartbeatProcess
from broadaxe._logging import OutputSender, TaskLogHandler, show_logs
from broadaxe._options import StickyStrategy
from broadaxe._rest import RestClient
from broadaxe._runner import Runner
from broadaxe._transport.base import Transport
from broadaxe._unary_worker import UnaryWorker
from broadaxe._worker_link import Delivery, Registration, WorkerLink
from broadaxe._worker_stream import WorkerStream
from broadaxe.wire import dispatcher_pb2
from broadaxe.wire.stream_pb2 import LogLine, StreamChunk

if TYPE_CHECKING:
    from broadaxe._definition import BaseWorkflow
    from broadaxe._health import HealthServer

logger = logging.getLogger("broadaxe.worker")

CONFIRM_SECONDS = 5.0
"""How long the end of a task that put chunks waits until the engine has them."""
SETTLE_NOTICE_S = 5.0
"""After how long a stopping worker says that it still waits for the engine."""


class WorkerRun:
    """One life of a worker, from start to stop: its link, runner, heartbeat, health server, and services for contexts."""

    def __init__(
        self,
        registration: Registration,
        workflows: "Sequence[BaseWorkflow[Any]]",
        settings: Settings,
        transport: Transport,
        io_loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._registration = registration
        self._workflows = workflows
        self._sticky_strategies = {workflow.name: workflow.settings.sticky for workflow in workflows}
        self._settings = settings
        self._transport = transport
        self._io_loop = io_loop
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] | None = None
        self.lifespan: Any = None
        self._heartbeat = HeartbeatProcess(_connection(self._settings))
        self._output = OutputSender(self._transport, io_loop)
        self._log_handler = TaskLogHandler()
        self._logger = self._settings.logger
        self._health: HealthServer | None = None
        self._told_not_enforced: list[str] = []
        self.link: WorkerLink
        self.runner: Runner

    @classmethod
    async def prepare(
        cls,
        registration: Registration,
        workflows: "Sequence[BaseWorkflow[Any]]",
        settings: Settings,
        transport: Transport,
    ) -> "WorkerRun":
        """Everything made, nothing started."""
        io_loop = await asyncio.wrap_future(transport.submit(_running_loop()))
        run = cls(registration, workflows, settings, transport, io_loop)
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
            max_output_bytes=self._settings.max_send_bytes,
        )
        show_logs(self._settings.log_level)
        self._logger.addHandler(self._log_handler)
        self._start_health()
        self._connected = asyncio.wrap_future(self._transport.submit(self._connect()))
        logger.info(
            "worker %s starts with %s and slots %s",
            self._registration.name,
            _tasks(len(self._registration.tasks)),
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
        logger.info(
            "worker %s stops; still running: %s", self._registration.name, _tasks(self.runner.running_count)
        )
        await self._on_io(self.link.pause())
        await self.runner.idle()
        await asyncio.wait([asyncio.wrap_future(self._output.drained())])
        settled = asyncio.ensure_future(self._on_io(self.link.settle()))
        while not (await asyncio.wait({settled}, timeout=SETTLE_NOTICE_S))[0]:
            logger.warning(
                "worker %s waits for the engine to commit what became of %s; a second signal gives it up",
                self._registration.name,
                _tasks(self.link.held_count),
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
        logger.info("worker %s has stopped", self._registration.name)

    @property
    def is_healthy(self) -> bool:
        return self.link.is_connected and self._heartbeat.is_alive and self._heartbeat.error is None

    def _start_health(self) -> None:
        health = self._settings.healthcheck
        if health.enabled:
            from broadaxe._health import HealthServer, LoopLag  # noqa: PLC0415 - most workers serve none

            self._health = HealthServer(
                self._registration.name,
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
                    error.code().name, error.details() or "", f"worker {self._registration.name} was refused"
                ) from error
        else:
            return
        logger.info(
            "the server has no batched stream: worker %s uses one call a report", self._registration.name
        )
        self._transport.use_unary()
        self.link = await self._make_link(UnaryWorker, rest=RestClient(self._settings))
        self.runner.use(self.link)
        await self.link.run()

    def _deliver(self, delivery: Delivery) -> None:
        self._loop.call_soon_threadsafe(self.runner.take, delivery, context=self.runner.context)

    async def _register_workflows(self) -> None:
        """Register every workflow. Raises `ServerUnavailableError` at once: the link tells of it and tries again."""
        told = []
        for workflow in self._workflows:
            request = workflow.to_wire()
            features = await self._transport.put_workflow(request, patience_s=0)
            if features:
                told.append(f"{request.name} ({', '.join(features)})")
        if told and told != self._told_not_enforced:
            self._told_not_enforced = told
            logger.warning(
                "worker %s: the server stores these features of workflows and does not enforce them yet: %s",
                self._registration.name,
                "; ".join(told),
            )

    # ---- TaskServices, any thread

    @property
    def worker_id(self) -> str:
        return self.link.worker_id

    @property
    def worker_labels(self) -> Mapping[str, str | int]:
        return self._registration.labels

    @property
    def sticky_strategies(self) -> Mapping[str, StickyStrategy | None]:
        return self._sticky_strategies

    def put_log(self, line: LogLine) -> None:
        self._output.put_log(line)

    def put_chunk(self, chunk: StreamChunk) -> None:
        self._output.put_chunk(chunk)

    def drained(self) -> "Future[None]":
        return self._output.drained()

    def delivered(self) -> "Future[None]":
        return self._transport.submit(self._deliver_output())

    async def _deliver_output(self) -> None:
        """Chunks travel on another stream than reports, where the end of a task could overtake them: the engine says when it has
        them. One that does not know the question is not waited for longer than a moment.
        """
        await asyncio.wait([asyncio.wrap_future(self._output.drained())])  # its errors are told by the sender
        try:
            await asyncio.wait_for(self._transport.confirm_lines(), CONFIRM_SECONDS)
        except TimeoutError:
            logger.info(
                "the end of a streaming task may overtake its last chunks: the engine did not confirm them"
            )

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


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"


async def _running_loop() -> asyncio.AbstractEventLoop:
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
