"""A bare client of the wire contract: one method a call, messages as they travel, nothing retried, nothing hidden.

For what no SDK lets a test do: late, stale, repeated and malformed messages. May touch only grpc and the wire messages. It compresses and
pings as the official SDKs do (gzip, a ping every 10 s).
"""

import itertools
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

import grpc

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire import events_pb2 as events
from broadaxe.wire import workflows_pb2 as workflows
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2 as triggers

M = TypeVar("M")

TIMEOUT_SECONDS = 15.0
OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def wire_labels(labels: Mapping[str, str | int]) -> dict[str, dispatcher.WorkerLabels]:
    """Labels of a worker as they travel."""
    return {
        key: dispatcher.WorkerLabels(int_value=value)
        if isinstance(value, int)
        else dispatcher.WorkerLabels(str_value=value)
        for key, value in labels.items()
    }


class Stream(Generic[M]):
    """A stream of messages read in a thread of its own, so that a test can wait for the next one, or for none."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._arrived: queue.Queue[M | grpc.RpcError | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for message in self.call:
                self._arrived.put(message)
        except grpc.RpcError as error:
            self._arrived.put(error)
        else:
            self._arrived.put(None)

    def next(self, *, timeout: float = TIMEOUT_SECONDS) -> M:
        """The next message; fails when the stream ends instead, or nothing comes."""
        try:
            arrived = self._arrived.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"nothing arrived within {timeout:.0f} s") from None
        if arrived is None or isinstance(arrived, grpc.RpcError):
            raise AssertionError(f"the stream ended instead: {arrived!r}")
        return arrived

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing arrives, and the stream does not end either, for so long."""
        try:
            arrived = self._arrived.get(timeout=seconds)
        except queue.Empty:
            return True
        raise AssertionError(f"expected nothing for {seconds} s, got {arrived!r}")

    def ended(self, *, timeout: float = TIMEOUT_SECONDS) -> grpc.StatusCode:
        """The status with which the stream ends; messages before the end are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                arrived = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"the stream did not end within {timeout:.0f} s") from None
            if arrived is None:
                return grpc.StatusCode.OK
            if isinstance(arrived, grpc.RpcError):
                return arrived.code()

    def rest(self, *, timeout: float = TIMEOUT_SECONDS) -> list[M]:
        """All messages up to an orderly end of the stream."""
        messages: list[M] = []
        deadline = time.monotonic() + timeout
        while True:
            arrived = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            if arrived is None:
                return messages
            if isinstance(arrived, grpc.RpcError):
                raise arrived
            messages.append(arrived)

    def cancel(self) -> None:
        self.call.cancel()
        self._thread.join(timeout=5)


class RunStream(Stream[dispatcher.WorkflowRunEvent]):
    """`SubscribeToWorkflowRuns`: ask for runs at any time, get one event for each final one."""

    def __init__(self, open_call: Callable[[Iterator[Any]], Any]) -> None:
        self._asked: queue.Queue[dispatcher.SubscribeToWorkflowRunsRequest | None] = queue.Queue()
        super().__init__(open_call(iter(self._asked.get, None)))

    def ask(self, *run_ids: str) -> Self:
        for run_id in run_ids:
            self._asked.put(dispatcher.SubscribeToWorkflowRunsRequest(workflow_run_id=run_id))
        return self

    def half_close(self) -> None:
        self._asked.put(None)

    def cancel(self) -> None:
        self.half_close()
        super().cancel()


class Wire:
    """One authenticated channel. Methods raise `grpc.RpcError` as it came."""

    def __init__(self, address: str, token: str) -> None:
        self._channel = grpc.insecure_channel(address, options=OPTIONS, compression=grpc.Compression.Gzip)
        self._metadata = (("authorization", f"bearer {token}"),)
        self._streams: list[Stream[Any]] = []

    def close(self) -> None:
        for stream in self._streams:
            stream.cancel()
        self._channel.close()

    def unary(self, method: str, request: Any, response: Any) -> Any:
        call = self._channel.unary_unary(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return call(request, metadata=self._metadata, timeout=TIMEOUT_SECONDS)

    def down(self, method: str, request: Any, response: Any) -> Stream[Any]:
        call = self._channel.unary_stream(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        stream: Stream[Any] = Stream(call(request, metadata=self._metadata))
        self._streams.append(stream)
        return stream

    # ---- definitions and runs

    def put_workflow(self, name: str, task: str = "only", **fields: Any) -> str:
        """Registers a workflow of one task with those fields of `CreateTaskOpts`; returns its action id."""
        action = f"{name}:{task}"
        opts = v1.CreateTaskOpts(
            readable_id=task, action=action, **{"timeout": "60s", "schedule_timeout": "5m", **fields}
        )
        self.put(v1.CreateWorkflowVersionRequest(name=name, tasks=[opts]))
        return action.lower()

    def put(self, request: v1.CreateWorkflowVersionRequest) -> v1.CreateWorkflowVersionResponse:
        answer = self.unary("/v1.AdminService/PutWorkflow", request, v1.CreateWorkflowVersionResponse)
        assert isinstance(answer, v1.CreateWorkflowVersionResponse)
        return answer

    def trigger(self, name: str, value: str = "{}", **fields: Any) -> str:
        request = triggers.TriggerWorkflowRequest(name=name, input=value, **fields)
        answer = self.unary("/WorkflowService/TriggerWorkflow", request, workflows.TriggerWorkflowResponse)
        return str(answer.workflow_run_id)

    def bulk_trigger(self, *requests: triggers.TriggerWorkflowRequest) -> list[str]:
        request = workflows.BulkTriggerWorkflowRequest(workflows=requests)
        answer = self.unary(
            "/WorkflowService/BulkTriggerWorkflow", request, workflows.BulkTriggerWorkflowResponse
        )
        return list(answer.workflow_run_ids)

    def details(self, run_id: str) -> v1.GetRunDetailsResponse:
        answer = self.unary(
            "/v1.AdminService/GetRunDetails",
            v1.GetRunDetailsRequest(external_id=run_id),
            v1.GetRunDetailsResponse,
        )
        assert isinstance(answer, v1.GetRunDetailsResponse)
        return answer

    # ---- being a worker

    def register(
        self,
        *actions: str,
        name: str = "bare",
        slots: int = 10,
        pools: Mapping[str, int] | None = None,
        labels: Mapping[str, str | int] | None = None,
    ) -> str:
        """pools: slots by pool, instead of `slots` of the default one."""
        request = dispatcher.WorkerRegisterRequest(
            worker_name=name,
            actions=actions,
            services=["default"],
            slot_config=pools or {"default": slots},
            labels=wire_labels(labels or {}),
        )
        return str(self.unary("/Dispatcher/Register", request, dispatcher.WorkerRegisterResponse).worker_id)

    def listen(self, worker_id: str) -> Stream[dispatcher.AssignedAction]:
        """A worker's stream, once the engine has taken it (or refused it): heartbeats before that are rejected."""
        stream: Stream[dispatcher.AssignedAction] = self.down(
            "/Dispatcher/ListenV2",
            dispatcher.WorkerListenRequest(worker_id=worker_id),
            dispatcher.AssignedAction,
        )
        stream.call.initial_metadata()
        return stream

    def heartbeat(self, worker_id: str) -> None:
        self.unary(
            "/Dispatcher/Heartbeat",
            dispatcher.HeartbeatRequest(worker_id=worker_id),
            dispatcher.HeartbeatResponse,
        )

    def report(
        self,
        action: dispatcher.AssignedAction,
        kind: dispatcher.StepActionEventType.ValueType,
        payload: str = "",
        *,
        worker_id: str = "",
        **fields: Any,
    ) -> dispatcher.ActionEventResponse:
        """A step event about an assigned action; fields given win over those of the action."""
        values: dict[str, Any] = {
            "worker_id": worker_id,
            "job_id": action.job_id,
            "job_run_id": action.job_run_id,
            "task_id": action.task_id,
            "task_run_external_id": action.task_run_external_id,
            "action_id": action.action_id,
            "event_type": kind,
            "event_payload": payload,
            "retry_count": action.retry_count,
        }
        values.update(fields)
        event = dispatcher.StepActionEvent(
            **{key: value for key, value in values.items() if value is not None}
        )
        answer = self.unary("/Dispatcher/SendStepActionEvent", event, dispatcher.ActionEventResponse)
        assert isinstance(answer, dispatcher.ActionEventResponse)
        return answer

    def complete(self, action: dispatcher.AssignedAction, payload: str = "{}", **fields: Any) -> None:
        self.report(action, dispatcher.STEP_EVENT_TYPE_COMPLETED, payload, **fields)

    def fail(self, action: dispatcher.AssignedAction, text: str, **fields: Any) -> None:
        self.report(action, dispatcher.STEP_EVENT_TYPE_FAILED, text, **fields)

    # ---- watching

    def runs(self, *run_ids: str) -> RunStream:
        call = self._channel.stream_stream(
            "/Dispatcher/SubscribeToWorkflowRuns",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=dispatcher.WorkflowRunEvent.FromString,
        )
        stream = RunStream(lambda requests: call(requests, metadata=self._metadata))
        self._streams.append(stream)
        return stream.ask(*run_ids)

    def result(self, run_id: str, *, timeout: float = TIMEOUT_SECONDS) -> dispatcher.StepRunResult:
        """The one task result of a final run, by a subscription of its own."""
        stream = self.runs(run_id)
        try:
            event = stream.next(timeout=timeout)
        finally:
            stream.cancel()
        assert event.workflow_run_id == run_id
        assert len(event.results) == 1, event
        return event.results[0]

    def run_events(self, run_id: str) -> Stream[dispatcher.WorkflowEvent]:
        return self.down(
            "/Dispatcher/SubscribeToWorkflowEvents",
            dispatcher.SubscribeToWorkflowEventsRequest(workflow_run_id=run_id),
            dispatcher.WorkflowEvent,
        )

    def put_stream(self, task_run_id: str, message: bytes, index: int | None = None) -> None:
        request = events.PutStreamEventRequest(task_run_external_id=task_run_id, message=message)
        if index is not None:
            request.event_index = index
        self.unary("/EventsService/PutStreamEvent", request, events.PutStreamEventResponse)


class BareWorker:
    """A registered worker with an open stream and heartbeats every 2 s."""

    def __init__(self, wire: Wire, *actions: str, **fields: Any) -> None:
        self.wire = wire
        self.id = wire.register(*actions, **fields)
        self.stream = wire.listen(self.id)
        self._over = threading.Event()
        self.heartbeat_errors: list[grpc.RpcError] = []
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        for _ in itertools.count():
            try:
                self.wire.heartbeat(self.id)
            except grpc.RpcError as error:
                self.heartbeat_errors.append(error)
            if self._over.wait(2.0):
                return

    def next(self, *, timeout: float = TIMEOUT_SECONDS) -> dispatcher.AssignedAction:
        return self.stream.next(timeout=timeout)

    def stop_beating(self) -> None:
        self._over.set()
        self._thread.join(timeout=20)

    def close(self) -> None:
        self.stop_beating()
        self.stream.cancel()


def code_of(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Status code and text with which a call fails; fails itself when the call succeeds."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError(f"the call should have failed and answered {answer!r}")
