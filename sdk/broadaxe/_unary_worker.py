"""The link of a worker to any server of the wire contract: Register, ListenV2, and one call for each report.

Used when the server has no batched stream. Runs on the io loop. A report is repeated until the server takes it, or
says that it never will.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import grpc

from broadaxe._errors import BroadaxeError
from broadaxe._rest import RestClient
from broadaxe._worker_link import (
    CANCELLED,
    COMPLETED,
    FAILED,
    STARTED,
    Delivery,
    Key,
    Report,
    WorkerLink,
    now_us,
    runtime_info,
    wire_labels,
)
from broadaxe.wire import dispatcher_pb2
from broadaxe.wire.stream_pb2 import Assignment, StepInfo

logger = logging.getLogger("broadaxe.worker")

CALLS_AT_ONCE = 32
CALL_TIMEOUT_S = 30.0
PAUSE_TIMEOUT_S = 5.0
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 5.0
REFUSALS = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}
)
"""Answers to a report that repeating it does not change."""

EVENT_TYPES = {
    STARTED: dispatcher_pb2.STEP_EVENT_TYPE_STARTED,
    COMPLETED: dispatcher_pb2.STEP_EVENT_TYPE_COMPLETED,
    FAILED: dispatcher_pb2.STEP_EVENT_TYPE_FAILED,
    CANCELLED: dispatcher_pb2.STEP_EVENT_TYPE_CANCELLED,
}


class UnaryWorker(WorkerLink):
    """A worker's link over the `Dispatcher` service.

    rest: for the call that pauses a worker; there is no gRPC call for it.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: Any, *, rest: RestClient, **link: Any) -> None:
        super().__init__(**link)
        self._channel = channel
        self._metadata = metadata
        self._rest = rest
        self._calls: set[asyncio.Task[None]] = set()
        self._free_calls = asyncio.Semaphore(CALLS_AT_ONCE)
        self._sender: asyncio.Task[None] | None = None
        self._listening: grpc.aio.UnaryStreamCall[Any, dispatcher_pb2.AssignedAction] | None = None

    async def pause(self) -> None:
        """Pause by REST. A server without it gives us work until we unsubscribe, which we then finish."""
        if not self.worker_id:
            return
        path = f"/api/v1/workers/{self.worker_id}"
        try:
            await asyncio.to_thread(
                self._rest.call, "PATCH", path, body={"isPaused": True}, attempts=1, timeout_s=PAUSE_TIMEOUT_S
            )
        except BroadaxeError as error:
            logger.warning("worker %s could not be paused before it stops: %s", self.registration.name, error)

    async def upsert_labels(self, labels: Mapping[str, str | int]) -> None:
        request = dispatcher_pb2.UpsertWorkerLabelsRequest(
            worker_id=self.worker_id, labels=wire_labels(labels)
        )
        await self._call("UpsertWorkerLabels", request, dispatcher_pb2.UpsertWorkerLabelsResponse.FromString)
        self.registration.labels.update(labels)

    async def close(self) -> None:
        self._is_closing = True
        if self.is_connected:
            request = dispatcher_pb2.WorkerUnsubscribeRequest(worker_id=self.worker_id)
            try:
                await self._call("Unsubscribe", request, dispatcher_pb2.WorkerUnsubscribeResponse.FromString)
            except grpc.aio.AioRpcError as error:
                logger.warning("worker %s could not unsubscribe: %s", self.registration.name, error.details())
        if self._listening is not None:
            self._listening.cancel()
        if self._sender is not None:
            self._sender.cancel()

    # ---- down

    async def _session(self) -> None:
        if not self.worker_id:
            await self._register()
        if self._sender is None:
            self._sender = self._loop.create_task(self._send())
        listen = self._channel.unary_stream(
            "/Dispatcher/ListenV2",
            request_serializer=dispatcher_pb2.WorkerListenRequest.SerializeToString,
            response_deserializer=dispatcher_pb2.AssignedAction.FromString,
        )
        call = listen(dispatcher_pb2.WorkerListenRequest(worker_id=self.worker_id), metadata=self._metadata)
        self._listening = call
        self._welcome(self.worker_id)
        try:
            await self._receive(call)
        except asyncio.CancelledError:
            if not self._is_closing:
                raise
        finally:
            self._listening = None
            call.cancel()

    async def _register(self) -> None:
        info = self.registration
        request = dispatcher_pb2.WorkerRegisterRequest(
            worker_name=info.name,
            actions=list(info.tasks),
            services=["default"],
            slot_config=info.slot_config,
            labels=info.wire_labels(),
            runtime_info=runtime_info(),
        )
        answer = await self._call("Register", request, dispatcher_pb2.WorkerRegisterResponse.FromString)
        self.worker_id = answer.worker_id

    async def _receive(self, call: AsyncIterator[dispatcher_pb2.AssignedAction]) -> None:
        async for action in call:
            if action.action_type == dispatcher_pb2.CANCEL_STEP_RUN:
                key = self._cancelled_key(action)
                self._take_cancel(key)
                self._deliver(Delivery([], [key]))
            elif action.action_type == dispatcher_pb2.START_STEP_RUN:
                step, assignment = from_action(action)
                attempt = self._take(step, assignment, call_details=action)
                if attempt is not None:
                    self._deliver(Delivery([attempt], []))
            elif action.action_type == dispatcher_pb2.START_BATCH:
                members = [self._take(step, member, action) for step, member in from_batch_action(action)]
                reason = action.batchStartPayload.triggerReason
                batches = self._take_batch(action.batchId, action.batchKey, reason, members)
                if batches:
                    self._deliver(Delivery([], [], batches))
            else:
                logger.error(
                    "worker %s was sent an action of kind %s, which it does not know; it is not run",
                    self.registration.name,
                    dispatcher_pb2.ActionType.Name(action.action_type),
                )

    def _cancelled_key(self, action: dispatcher_pb2.AssignedAction) -> Key:
        """Members of a batch are held as attempt 0, whatever their attempt is: the contract does not tell it with a batch."""
        key = (action.task_run_external_id, action.retry_count)
        of_batch = (action.task_run_external_id, 0)
        held = self._held.get(of_batch)
        return of_batch if key not in self._held and held is not None and held.batch is not None else key

    # ---- up

    async def _send(self) -> None:
        """Give each report of the outbox to a call of its own, some at once."""
        while True:
            await self._something_to_send.wait()
            self._something_to_send.clear()
            while self._outbox:
                await self._free_calls.acquire()
                if not self._outbox:
                    self._free_calls.release()
                    break
                report = self._outbox.popleft()
                task = self._loop.create_task(self._send_one(report))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)

    async def _send_one(self, report: Report) -> None:
        try:
            if not self._is_wanted(report) or (report.kind == STARTED and report.attempt.is_ended):
                self._progress.set()
                return
            await self._deliver_report(report)
            self._committed(report)
        finally:
            self._free_calls.release()

    async def _deliver_report(self, report: Report) -> None:
        """Returns when the server has taken the report, or refused it for good."""
        method, event = self._event(report)
        delay = RETRY_FIRST_S
        while self._is_wanted(report):
            try:
                await self._call(method, event, dispatcher_pb2.ActionEventResponse.FromString)
            except grpc.aio.AioRpcError as error:
                if error.code() in REFUSALS:
                    logger.error(  # noqa: TRY400 - a refusal in words; a traceback of ours says nothing
                        "the engine refused the end of task run %s, attempt %d: %s (%s)",
                        *report.attempt.key,
                        error.details(),
                        error.code().name,
                    )
                    return
                if report.kind == STARTED:
                    return  # for display only; the end tells the engine what it needs
                logger.info("a report waits %.1f s: %s (%s)", delay, error.details(), error.code().name)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_MOST_S)
            else:
                return

    def _event(
        self, report: Report
    ) -> tuple[str, dispatcher_pb2.StepActionEvent | dispatcher_pb2.BatchActionEvent]:
        """A report as the contract has it, and the call that takes it."""
        if report.attempt.call_details.action_type == dispatcher_pb2.START_BATCH:
            return "SendBatchActionEvent", self._batch_event(report)
        return "SendStepActionEvent", self._step_event(report)

    def _step_event(self, report: Report) -> dispatcher_pb2.StepActionEvent:
        attempt = report.attempt
        action: dispatcher_pb2.AssignedAction = attempt.call_details
        event = dispatcher_pb2.StepActionEvent(
            worker_id=self.worker_id,
            job_id=action.job_id,
            job_run_id=action.job_run_id,
            task_id=action.task_id,
            task_run_external_id=action.task_run_external_id,
            action_id=action.action_id,
            event_type=EVENT_TYPES[report.kind],
            event_payload=report.payload.decode("utf-8", "replace"),
            retry_count=action.retry_count,
            should_not_retry=report.should_not_retry,
        )
        if report.retry_after_ms:
            event.retry_after_ms = report.retry_after_ms
        event.event_timestamp.FromMicroseconds(_at_us(report))
        return event

    def _batch_event(self, report: Report) -> dispatcher_pb2.BatchActionEvent:
        """One member's report. It names no attempt: the engine knows by the batch which it put into it."""
        action: dispatcher_pb2.AssignedAction = report.attempt.call_details
        event = dispatcher_pb2.BatchActionEvent(
            worker_id=self.worker_id,
            job_id=action.job_id,
            action_id=action.action_id,
            batch_id=action.batchId,
            event_type=EVENT_TYPES[report.kind],
        )
        event.event_timestamp.FromMicroseconds(_at_us(report))
        item = event.items.add(
            task_run_external_id=report.attempt.assignment.task_run_id,
            event_payload=report.payload.decode("utf-8", "replace"),
            should_not_retry=report.should_not_retry,
        )
        if report.retry_after_ms:
            item.retry_after_ms = report.retry_after_ms
        return event

    async def _call(self, method: str, request: Any, response: Callable[[bytes], Any]) -> Any:
        call = self._channel.unary_unary(
            f"/Dispatcher/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response,
        )
        return await call(request, metadata=self._metadata, timeout=CALL_TIMEOUT_S)


def _at_us(report: Report) -> int:
    started = report.attempt.started_at_us
    return started if report.kind == STARTED and started else now_us()


def from_action(action: dispatcher_pb2.AssignedAction) -> tuple[StepInfo, Assignment]:
    """A START of the wire contract as our own messages."""
    payload = _payload(action)
    assignment = Assignment(
        task_run_id=action.task_run_external_id,
        run_id=action.workflow_run_id,
        attempt=action.retry_count,
        priority=action.priority,
        metadata=action.additional_metadata.encode(),
        parent_task_run_id=action.parent_workflow_run_id,
        triggering_event_id=action.triggering_event_external_id,
        triggering_event_key=action.triggering_event_key,
    )
    fill_from_payload(assignment, payload)
    if action.HasField("child_workflow_index"):
        assignment.child_index = action.child_workflow_index
    if action.HasField("child_workflow_key"):
        assignment.child_key = action.child_workflow_key
    return _step(action), assignment


def from_batch_action(action: dispatcher_pb2.AssignedAction) -> Iterator[tuple[StepInfo, Assignment]]:
    """The members of a START_BATCH of the wire contract as our own messages."""
    for task_run_id, member in _payload(action).items():
        if not isinstance(member, dict):
            continue
        assignment = Assignment(
            task_run_id=task_run_id,
            run_id=str(member.get("workflow_run_id") or ""),
            attempt=action.retry_count,
        )
        fill_from_payload(assignment, _object(member, "payload"))
        yield _step(action), assignment


def _step(action: dispatcher_pb2.AssignedAction) -> StepInfo:
    return StepInfo(
        step_id=action.task_id,
        action_id=action.action_id.lower(),
        task_name=action.task_name or action.action_id.rpartition(":")[2],
        workflow_id=action.workflow_id,
        workflow_version_id=action.workflow_version_id,
    )


def _payload(action: dispatcher_pb2.AssignedAction) -> dict[str, Any]:
    """What an action carries as JSON; empty, as with other clients of the contract, if it is no object."""
    try:
        payload = json.loads(action.action_payload or "{}")
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        logger.error(
            "the payload of task run %s (%s) is no JSON object; it runs without input",
            action.task_run_external_id,
            action.action_id,
        )
        return {}
    return payload


def fill_from_payload(assignment: Assignment, payload: Mapping[str, Any]) -> None:
    """Put input, parents' outputs, triggers and errors of a payload of the wire contract into `assignment`."""
    assignment.input = json.dumps(_object(payload, "input")).encode()
    assignment.parents = json.dumps(
        {name: {} if output is None else output for name, output in _object(payload, "parents").items()}
    ).encode()
    assignment.triggers = json.dumps(_object(payload, "triggers")).encode()
    for name, text in _object(payload, "step_run_errors").items():
        assignment.task_run_errors[name] = text if isinstance(text, str) else json.dumps(text)


def _object(payload: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = payload.get(key)
    return value if isinstance(value, dict) else {}
