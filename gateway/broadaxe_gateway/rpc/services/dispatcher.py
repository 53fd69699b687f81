"""`Dispatcher`: workers that register, listen and report by single calls, and clients that wait for runs.

Worker streams end by OK or UNAVAILABLE alone once they are open: any other status stops some workers for good (behaviour-core 2.3).
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    Assignment,
    BatchStart,
    CancelOrder,
    Heartbeat,
    RefreshTimeout,
    RegisterWorker,
    ReleaseSlot,
    ReportTasks,
    RunEvent,
    RunEvents,
    RunFinished,
    SessionFull,
    StopWorker,
    UpsertLabels,
)
from broadaxe_gateway.hub import Hub
from broadaxe_gateway.rpc.convert import batched, events, runs, workers
from broadaxe_gateway.rpc.convert.checks import (
    OFF_LOOP_BYTES,
    check_duration,
    check_uuid,
    find_uuid,
    refuse,
)
from broadaxe_gateway.rpc.convert.starts import Order, order_bytes
from broadaxe_gateway.rpc.limits import GrpcLimits
from broadaxe_gateway.rpc.outlet import OpenStreams, Outlet
from broadaxe_gateway.rpc.reorder import ReorderBuffer
from broadaxe_gateway.rpc.reports import ReportDesk

if TYPE_CHECKING:
    from broadaxe.wire import dispatcher_pb2 as wire

logger = logging.getLogger("broadaxe.grpc")

UNKNOWN_RUN_TRIES = 10
UNKNOWN_RUN_PAUSE_SECONDS = 1.0


class DispatcherService:
    """Method names are the wire's; what is missing here is answered UNIMPLEMENTED."""

    def __init__(
        self, hub: Hub, desk: ReportDesk, streams: OpenStreams, limits: GrpcLimits, version: str
    ) -> None:
        self._hub = hub
        self._desk = desk
        self._streams = streams
        self._limits = limits
        self._version = version

    # ------------------------------------------------------------ single calls

    async def GetVersion(self, tenant_id: str, request: object) -> "wire.GetVersionResponse":  # noqa: N802 - wire name
        return workers.version(self._version)

    async def Register(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.WorkerRegisterRequest"
    ) -> "wire.WorkerRegisterResponse":
        worker_id = await self._hub.ask(RegisterWorker, tenant_id, *workers.registration(request))
        return workers.registered(tenant_id, worker_id, request.worker_name)

    async def Heartbeat(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.HeartbeatRequest"
    ) -> "wire.HeartbeatResponse":
        await self._hub.ask(Heartbeat, tenant_id, check_uuid(request.worker_id, "worker_id"))
        return workers.heartbeat_taken()

    async def Unsubscribe(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.WorkerUnsubscribeRequest"
    ) -> "wire.WorkerUnsubscribeResponse":
        worker_id = check_uuid(request.worker_id, "worker_id")
        await self._hub.ask(StopWorker, tenant_id, worker_id)
        return workers.unsubscribed(tenant_id, worker_id)

    async def UpsertWorkerLabels(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.UpsertWorkerLabelsRequest"
    ) -> "wire.UpsertWorkerLabelsResponse":
        worker_id = check_uuid(request.worker_id, "worker_id")
        await self._hub.ask(UpsertLabels, tenant_id, worker_id, workers.labels(request.labels))
        return workers.labels_upserted(tenant_id, worker_id)

    async def SendStepActionEvent(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.StepActionEvent"
    ) -> "wire.ActionEventResponse":
        if len(request.event_payload) > OFF_LOOP_BYTES:
            report = await asyncio.to_thread(workers.step_report, request)
        else:
            report = workers.step_report(request)
        if report is not None:
            taken = await self._desk.take(tenant_id, find_uuid(request.worker_id) or "", (report,))
            if not taken.is_known[0]:
                raise refuse(f"task run {report.task_run_id} is not known")
        return workers.report_taken(tenant_id, request.worker_id)

    async def SendBatchActionEvent(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.BatchActionEvent"
    ) -> "wire.ActionEventResponse":
        if request.ByteSize() > OFF_LOOP_BYTES:
            reports = await asyncio.to_thread(workers.batch_reports, request)
        else:
            reports = workers.batch_reports(request)
        if reports:
            # Items that name no known task run are passed over.
            await self._desk.take(tenant_id, find_uuid(request.worker_id) or "", reports)
        return workers.report_taken(tenant_id, request.worker_id)

    async def RefreshTimeout(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.RefreshTimeoutRequest"
    ) -> "wire.RefreshTimeoutResponse":
        task_run_id = check_uuid(request.task_run_external_id, "task_run_external_id")
        increment = check_duration(request.increment_timeout_by, "increment_timeout_by")
        deadline = await self._hub.ask(RefreshTimeout, tenant_id, task_run_id, increment)
        return workers.timeout_refreshed(deadline)

    async def ReleaseSlot(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.ReleaseSlotRequest"
    ) -> "wire.ReleaseSlotResponse":
        await self._hub.ask(
            ReleaseSlot, tenant_id, check_uuid(request.task_run_external_id, "task_run_external_id")
        )
        return workers.slot_released()

    async def PutOverridesData(  # noqa: N802 - wire name
        self, tenant_id: str, request: object
    ) -> "wire.OverridesDataResponse":
        # Old clients may send them; nothing keeps or reads them (behaviour-core 2.10).
        return workers.no_overrides()

    # ------------------------------------------------------------ workers that listen

    async def Listen(self, tenant_id: str, request: "wire.WorkerListenRequest", context: Any) -> None:  # noqa: N802 - wire name
        await self._listen(tenant_id, request, context, sends_heartbeats=False)

    async def ListenV2(self, tenant_id: str, request: "wire.WorkerListenRequest", context: Any) -> None:  # noqa: N802 - wire name
        await self._listen(tenant_id, request, context, sends_heartbeats=True)

    async def _listen(
        self, tenant_id: str, request: "wire.WorkerListenRequest", context: Any, *, sends_heartbeats: bool
    ) -> None:
        worker_id = check_uuid(request.worker_id, "worker_id")
        listener = _Listener(self._hub, self._limits, tenant_id, worker_id)
        self._streams.add(listener.outlet)
        try:
            await listener.run(context, sends_heartbeats=sends_heartbeats)
        finally:
            self._streams.discard(listener.outlet)

    # ------------------------------------------------------------ clients that wait

    async def SubscribeToWorkflowRuns(  # noqa: N802 - wire name
        self, tenant_id: str, requests: AsyncIterator["wire.SubscribeToWorkflowRunsRequest"], context: Any
    ) -> None:
        follower = _ResultFollower(self._hub, self._limits, tenant_id)
        self._streams.add(follower.outlet)
        try:
            await follower.run(requests, context)
        finally:
            self._streams.discard(follower.outlet)

    async def SubscribeToWorkflowEvents(  # noqa: N802 - wire name
        self, tenant_id: str, request: "wire.SubscribeToWorkflowEventsRequest", context: Any
    ) -> None:
        run_id = key = value = None
        if request.workflow_run_id:
            run_id = check_uuid(request.workflow_run_id, "workflow_run_id")
        elif request.additional_meta_key and request.HasField("additional_meta_value"):
            key, value = request.additional_meta_key, request.additional_meta_value
        else:
            raise refuse("give workflow_run_id, or additional_meta_key with additional_meta_value")
        follower = _EventFollower(self._limits, has_one_run=run_id is not None)
        self._streams.add(follower.outlet)
        subscription_id: str | None = None
        try:
            subscription_id = await self._subscribe(follower, tenant_id, run_id, key, value)
            if subscription_id is not None:
                await follower.run(context)
        finally:
            if subscription_id is not None:
                self._hub.close_subscription(tenant_id, subscription_id)
            self._streams.discard(follower.outlet)

    async def _subscribe(
        self,
        follower: "_EventFollower",
        tenant_id: str,
        run_id: str | None,
        key: str | None,
        value: str | None,
    ) -> str | None:
        """Open a subscription; a run that is not known yet gets about ten seconds to appear."""
        tries = 0
        while True:
            tries += 1
            try:
                return await self._hub.open_subscription(follower.take, tenant_id, run_id, key, value)
            except Refused as refusal:
                if refusal.code is not Code.NOT_FOUND or tries >= UNKNOWN_RUN_TRIES:
                    raise
            follower.outlet.raise_error()
            # Nothing tells of a run's birth before it is followed.
            await asyncio.sleep(UNKNOWN_RUN_PAUSE_SECONDS)


class _Listener:
    """One open stream of a unary worker; the session sink of the hub."""

    def __init__(self, hub: Hub, limits: GrpcLimits, tenant_id: str, worker_id: str) -> None:
        self.outlet: Outlet[Order] = Outlet()
        self._hub = hub
        self._limits = limits
        self._tenant_id = tenant_id
        self._worker_id = worker_id
        self._session_id = ""
        self._is_full = False

    def start(self, assignments: tuple[Assignment, ...]) -> None:
        for assignment in assignments:
            self.outlet.put(assignment, order_bytes(assignment))
        self._compare_backlog()

    def start_batches(self, batches: tuple[BatchStart, ...]) -> None:
        for batch in batches:
            self.outlet.put(batch, order_bytes(batch))
        self._compare_backlog()

    def cancel(self, cancels: tuple[CancelOrder, ...]) -> None:
        for order in cancels:
            self.outlet.put(order, order_bytes(order))

    def end(self) -> None:
        self.outlet.end(Refused(Code.UNAVAILABLE, "the engine closed this session: listen again"))

    def _compare_backlog(self) -> None:
        divisor = 2 if self._is_full else 1
        is_full = (
            len(self.outlet.items) > self._limits.worker_backlog // divisor
            or self.outlet.size > self._limits.stream_backlog_bytes // divisor
        )
        if is_full is not self._is_full:
            self._is_full = is_full
            self._hub.tell(SessionFull(self._tenant_id, self._worker_id, self._session_id, is_full))

    async def run(self, context: Any, *, sends_heartbeats: bool) -> None:
        outlet = self.outlet
        self._session_id = await self._hub.open_session(
            self, self._tenant_id, self._worker_id, is_batched=False, sends_heartbeats=sends_heartbeats
        )
        try:
            # A worker learns at once that the stream stands, not only with its first task.
            await context.send_initial_metadata(())
            while await outlet.wait():
                order = outlet.items.popleft()
                outlet.took(order_bytes(order))
                await self._send(order, context)
                if self._is_full:
                    self._compare_backlog()
        finally:
            outlet.end()
            self._hub.close_session(self._tenant_id, self._worker_id, self._session_id)

    async def _send(self, order: Order, context: Any) -> None:
        if isinstance(order, CancelOrder):
            await context.write(workers.cancel_action(self._tenant_id, order))
            return
        action, failures = workers.fitting_action(self._tenant_id, order, self._limits.max_message_bytes)
        if action is None:
            await self._hub.ask(ReportTasks, self._tenant_id, self._worker_id, failures)
        else:
            await context.write(action)


class _ResultFollower:
    """One `SubscribeToWorkflowRuns` stream; a run watcher of the hub."""

    def __init__(self, hub: Hub, limits: GrpcLimits, tenant_id: str) -> None:
        self.outlet: Outlet[RunFinished] = Outlet()
        self._hub = hub
        self._limits = limits
        self._tenant_id = tenant_id
        self._watched: set[str] = set()

    def run_finished(self, finished: RunFinished) -> None:
        self._watched.discard(finished.run_id)
        outlet = self.outlet
        outlet.put(finished, batched.finished_bytes(finished))
        if len(outlet.items) > self._limits.stream_backlog or outlet.size > self._limits.stream_backlog_bytes:
            outlet.end(
                Refused(
                    Code.UNAVAILABLE,
                    f"{len(outlet.items):,} results wait to be read on this stream: subscribe again",
                )
            )

    async def run(self, requests: AsyncIterator["wire.SubscribeToWorkflowRunsRequest"], context: Any) -> None:
        outlet = self.outlet
        reader = asyncio.get_running_loop().create_task(self._read(requests))
        try:
            await context.send_initial_metadata(())
            while await outlet.wait():
                finished = outlet.items.popleft()
                outlet.took(batched.finished_bytes(finished))
                await context.write(runs.run_finished(finished))
        finally:
            outlet.end()
            reader.cancel()
            await asyncio.wait((reader,))
            self._hub.unwatch(self._tenant_id, self._watched, self)

    async def _read(self, requests: AsyncIterator["wire.SubscribeToWorkflowRunsRequest"]) -> None:
        error: Refused | None = None
        try:
            async for request in requests:
                run_id = find_uuid(request.workflow_run_id)
                # What is no id is passed over, as the contract has it.
                if run_id is not None:
                    self._watched.add(run_id)
                    self._hub.watch(self._tenant_id, (run_id,), self)
        except Exception:
            logger.exception("a result subscription could not be read")
            error = Refused(Code.UNAVAILABLE, "the stream failed in the server: subscribe again")
        self.outlet.end(error)


class _EventFollower:
    """One `SubscribeToWorkflowEvents` stream: events into order, then out."""

    def __init__(self, limits: GrpcLimits, *, has_one_run: bool) -> None:
        self.outlet: Outlet[tuple[RunEvent, bool]] = Outlet()
        self._limits = limits
        self._has_one_run = has_one_run
        self._buffer = ReorderBuffer()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, batch: RunEvents) -> None:
        now = self._loop.time()
        for event in batch.events:
            self._pass(self._buffer.add(event, now), is_last=batch.is_last and event is batch.events[-1])
        if batch.is_last:
            self.outlet.end()
        else:
            self._arm()

    def _pass(self, passed: list[RunEvent], *, is_last: bool = False) -> None:
        outlet = self.outlet
        for event in passed:
            is_hangup = event.is_run and (self._has_one_run or is_last)
            outlet.put((event, is_hangup), len(event.payload))
            if is_hangup:
                outlet.end()
                return
        if len(outlet.items) > self._limits.stream_backlog or outlet.size > self._limits.stream_backlog_bytes:
            outlet.end(
                Refused(
                    Code.UNAVAILABLE, f"{len(outlet.items):,} events wait to be read on this stream: it ends"
                )
            )

    def _arm(self) -> None:
        deadline = self._buffer.deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._pass(self._buffer.expire(self._loop.time()))
        self._arm()

    async def run(self, context: Any) -> None:
        outlet = self.outlet
        try:
            await context.send_initial_metadata(())
            while await outlet.wait():
                event, is_hangup = outlet.items.popleft()
                outlet.took(len(event.payload))
                await context.write(events.run_event(event, is_hangup=is_hangup))
        finally:
            if self._timer is not None:
                self._timer.cancel()
