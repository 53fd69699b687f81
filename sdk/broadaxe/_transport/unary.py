"""The unary wire contract, as any server of it speaks: plain calls, and runs where there is no batched stream.

Here the server chooses run ids; a repeated trigger may therefore create a run twice, as with every client of this contract.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from broadaxe._config import Settings
from broadaxe._errors import BroadaxeError, BulkTriggerIdempotencyCollisionError
from broadaxe._transport.base import Gather, TriggerTicket
from broadaxe._transport.channel import Backoff, call_unary, sdk_error
from broadaxe._transport.collisions import by_content
from broadaxe._transport.duplex import Duplex
from broadaxe._transport.waiting import Waiting
from broadaxe.wire import dispatcher_pb2, events_pb2, stream_pb2, workflows_pb2
from broadaxe.wire.v1 import workflows_pb2 as v1_pb2
from broadaxe.wire.v1.shared.trigger_pb2 import TriggerWorkflowRequest

EVENTS_PER_CALL = 1000
SUBSCRIBE_ATTEMPTS = 5
NOT_ENFORCED = "broadaxe-not-enforced"
"""Trailing metadata of `PutWorkflow`; other servers send none."""

_STATES = {
    v1_pb2.RunStatus.COMPLETED: stream_pb2.FINAL_STATE_COMPLETED,
    v1_pb2.RunStatus.FAILED: stream_pb2.FINAL_STATE_FAILED,
    v1_pb2.RunStatus.CANCELLED: stream_pb2.FINAL_STATE_CANCELLED,
}


class UnaryCalls:
    """Calls of the contract, each with its retries and its errors mapped. For the loop of `channel`."""

    def __init__(
        self, channel: grpc.aio.Channel, settings: Settings, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        self.channel = channel
        self.settings = settings
        self.metadata = metadata

    async def call(self, path: str, request: Any, response: Any, what: str) -> Any:
        """One unary call of the contract by its path, such as `/Dispatcher/GetVersion`."""
        method = self._method(path, request, response)
        answered, _ = await call_unary(
            method, request, what=what, settings=self.settings, metadata=self.metadata
        )
        return answered

    def _method(self, path: str, request: Any, response: Any) -> Any:
        return self.channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )

    async def put_workflow(
        self, request: v1_pb2.CreateWorkflowVersionRequest, *, patience_s: float | None = None
    ) -> tuple[str, ...]:
        """See `Transport.put_workflow`."""
        _, trailer = await call_unary(
            self._method("/v1.AdminService/PutWorkflow", request, v1_pb2.CreateWorkflowVersionResponse),
            request,
            what=f"register workflow {request.name!r}",
            settings=self.settings,
            metadata=self.metadata,
            patience_s=patience_s,
        )
        features = trailer.get(NOT_ENFORCED, "")
        return tuple(features.split(",")) if features else ()

    async def get_run_details(self, run_id: str) -> v1_pb2.GetRunDetailsResponse:
        response: v1_pb2.GetRunDetailsResponse = await self.call(
            "/v1.AdminService/GetRunDetails",
            v1_pb2.GetRunDetailsRequest(external_id=run_id),
            v1_pb2.GetRunDetailsResponse,
            f"details of run {run_id}",
        )
        return response

    async def cancel_tasks(self, request: v1_pb2.CancelTasksRequest) -> list[str]:
        answer = await self.call(
            "/v1.AdminService/CancelTasks", request, v1_pb2.CancelTasksResponse, "cancel runs"
        )
        return list(answer.cancelled_tasks)

    async def replay_tasks(self, request: v1_pb2.ReplayTasksRequest) -> list[str]:
        answer = await self.call(
            "/v1.AdminService/ReplayTasks", request, v1_pb2.ReplayTasksResponse, "replay runs"
        )
        return list(answer.replayed_tasks)

    async def schedule_workflow(
        self, request: workflows_pb2.ScheduleWorkflowRequest
    ) -> workflows_pb2.WorkflowVersion:
        response: workflows_pb2.WorkflowVersion = await self.call(
            "/WorkflowService/ScheduleWorkflow",
            request,
            workflows_pb2.WorkflowVersion,
            f"schedule workflow {request.name!r}",
        )
        return response

    async def put_rate_limit(self, request: workflows_pb2.PutRateLimitRequest) -> None:
        await self.call(
            "/WorkflowService/PutRateLimit",
            request,
            workflows_pb2.PutRateLimitResponse,
            f"put rate limit {request.key!r}",
        )

    async def pause_rate_limit(
        self, request: workflows_pb2.PauseRateLimitRequest
    ) -> workflows_pb2.PauseRateLimitResponse:
        response: workflows_pb2.PauseRateLimitResponse = await self.call(
            "/WorkflowService/PauseRateLimit",
            request,
            workflows_pb2.PauseRateLimitResponse,
            f"pause rate limit {request.key!r}",
        )
        return response

    async def push_events(self, events: Sequence[events_pb2.PushEventRequest]) -> list[events_pb2.Event]:
        if len(events) == 1:
            return [
                await self.call("/EventsService/Push", events[0], events_pb2.Event, f"push {events[0].key!r}")
            ]
        stored: list[events_pb2.Event] = []
        for start in range(0, len(events), EVENTS_PER_CALL):
            part = events[start : start + EVENTS_PER_CALL]
            response = await self.call(
                "/EventsService/BulkPush",
                events_pb2.BulkPushEventRequest(events=part),
                events_pb2.Events,
                f"push {len(part)} events",
            )
            stored.extend(response.events)
        return stored

    async def replay_event(self, request: events_pb2.ReplayEventRequest) -> events_pb2.Event:
        stored: events_pb2.Event = await self.call(
            "/EventsService/ReplaySingleEvent", request, events_pb2.Event, f"replay event {request.event_id}"
        )
        return stored

    async def put_logs(self, lines: Iterable[stream_pb2.LogLine]) -> None:
        for line in lines:
            request = events_pb2.PutLogRequest(
                task_run_external_id=line.task_run_id,
                created_at=_timestamp(line.created_at_us),
                message=line.message,
                level=line.level or None,
                metadata=line.metadata,
                task_retry_count=line.attempt,
            )
            await self.call(
                "/EventsService/PutLog",
                request,
                events_pb2.PutLogResponse,
                f"log of task run {line.task_run_id}",
            )

    async def put_stream(self, chunks: Iterable[stream_pb2.StreamChunk]) -> None:
        for chunk in chunks:
            request = events_pb2.PutStreamEventRequest(
                task_run_external_id=chunk.task_run_id, message=chunk.message, event_index=chunk.index
            )
            request.created_at.GetCurrentTime()
            await self.call(
                "/EventsService/PutStreamEvent",
                request,
                events_pb2.PutStreamEventResponse,
                f"stream of task run {chunk.task_run_id}",
            )

    async def trigger(self, runs: Sequence[stream_pb2.NewRun]) -> list[str]:
        if len(runs) == 1:
            one = await self.call(
                "/WorkflowService/TriggerWorkflow",
                _trigger_request(runs[0]),
                workflows_pb2.TriggerWorkflowResponse,
                f"trigger {runs[0].workflow_name!r}",
            )
            return [one.workflow_run_id]
        many = await self.call(
            "/WorkflowService/BulkTriggerWorkflow",
            workflows_pb2.BulkTriggerWorkflowRequest(workflows=[_trigger_request(run) for run in runs]),
            workflows_pb2.BulkTriggerWorkflowResponse,
            f"trigger {len(runs)} runs",
        )
        return list(many.workflow_run_ids)

    async def subscribe_events(self, run_id: str) -> AsyncIterator[dispatcher_pb2.WorkflowEvent]:
        """Events from now on, until the run's end. A broken subscription is taken up again; what passed meanwhile is lost."""
        method = self.channel.unary_stream(
            "/Dispatcher/SubscribeToWorkflowEvents",
            request_serializer=dispatcher_pb2.SubscribeToWorkflowEventsRequest.SerializeToString,
            response_deserializer=dispatcher_pb2.WorkflowEvent.FromString,
        )
        backoff, failures = Backoff(), 0
        while True:
            call = method(
                dispatcher_pb2.SubscribeToWorkflowEventsRequest(workflow_run_id=run_id),
                metadata=self.metadata,
            )
            try:
                async for event in call:
                    failures = 0
                    yield event
                    if event.hangup:
                        return
                return
            except grpc.aio.AioRpcError as error:
                failures += 1
                if error.code() is not grpc.StatusCode.UNAVAILABLE or failures >= SUBSCRIBE_ATTEMPTS:
                    raise sdk_error(error, f"stream of run {run_id}", self.settings) from error
            finally:
                call.cancel()
            await backoff.wait()


class UnaryRuns:
    """Triggers by call and results by `SubscribeToWorkflowRuns`, for a server without the batched stream."""

    def __init__(self, calls: UnaryCalls, waiting: Waiting) -> None:
        self._calls = calls
        self._waiting = waiting
        self._to_watch: deque[str] = deque()
        self._duplex: Duplex | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lines_task: asyncio.Task[None] | None = None

    def trigger(self, ticket: TriggerTicket) -> None:
        self._start(self._trigger(ticket))

    async def _trigger(self, ticket: TriggerTicket) -> None:
        runs = stream_pb2.TriggerRuns.FromString(ticket.chunk.body).runs
        try:
            run_ids = await self._calls.trigger(runs)
        except BulkTriggerIdempotencyCollisionError as error:
            await self._on_collisions(ticket, runs, error)
            return
        except BroadaxeError as error:
            ticket.fail(error)
            return
        if ticket.gather is not None:
            self._waiting.add(run_ids, ticket.gather, ticket.offset)
            self._subscribe(run_ids)
        if not ticket.ids.done():
            ticket.ids.set_result(run_ids)

    async def _on_collisions(
        self,
        ticket: TriggerTicket,
        runs: Sequence[stream_pb2.NewRun],
        error: BulkTriggerIdempotencyCollisionError,
    ) -> None:
        """Some of these were not created. Who keeps collisions waits for the others."""
        gather = ticket.gather
        if gather is None or not gather.keeps_collisions:
            ticket.fail(error)
            return
        try:
            outcome = await by_content(runs, error, self._calls.get_run_details)
        except BroadaxeError as failure:
            ticket.fail(failure)
            return
        for index, run_id in outcome.created.items():
            self._waiting.add((run_id,), gather, ticket.offset + index)
        for index, collision in outcome.collisions.items():
            gather.deliver(ticket.offset + index, collision)
        self._subscribe(outcome.created.values())
        ticket.ids.set_exception(error)

    def watch(self, run_ids: Sequence[str], gather: Gather) -> None:
        self._waiting.add(run_ids, gather)
        self._subscribe(run_ids)

    def unwatch(self, run_ids: Sequence[str], gather: Gather) -> None:
        self._waiting.remove(run_ids, gather)  # the contract has no way to unsubscribe

    def resume(self) -> None:
        """Subscribe to what was waited for before."""
        self._subscribe(self._waiting.ids())

    def send_lines(self, lines: Iterable[tuple[bytes, "Future[None] | None"]]) -> None:
        """Send log lines and chunks that were encoded for the batched stream."""
        self._lines_task = self._start(self._send_lines(list(lines)))

    async def lines_sent(self) -> None:
        """Those of `send_lines` have left: what is sent from now on comes after them."""
        if self._lines_task is not None:
            await asyncio.wait({self._lines_task})

    async def _send_lines(self, lines: list[tuple[bytes, "Future[None] | None"]]) -> None:
        for raw, sent in lines:
            up = stream_pb2.ClientUp.FromString(raw)
            try:
                await self._calls.put_logs(up.logs)
                await self._calls.put_stream(up.chunks)
            except BroadaxeError as error:
                if sent is not None and not sent.done():
                    sent.set_exception(error)
            else:
                if sent is not None and not sent.done():
                    sent.set_result(None)

    async def close(self) -> None:
        if self._duplex is not None:
            await self._duplex.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _subscribe(self, run_ids: Iterable[str]) -> None:
        self._to_watch.extend(run_ids)
        if self._to_watch:
            if self._duplex is None:
                self._duplex = Duplex(
                    "the subscription to runs", self, self._calls.settings.connect_timeout_seconds
                )
            self._duplex.wake()

    # ---- Peer

    def open_call(self) -> Any:
        self._to_watch = deque(self._waiting.ids())
        method = self._calls.channel.stream_stream(
            "/Dispatcher/SubscribeToWorkflowRuns",
            request_serializer=dispatcher_pb2.SubscribeToWorkflowRunsRequest.SerializeToString,
            response_deserializer=dispatcher_pb2.WorkflowRunEvent.FromString,
        )
        return method(metadata=self._calls.metadata)

    def has_work(self) -> bool:
        return bool(self._waiting)

    def next_message(self) -> Any | None:
        while self._to_watch:
            run_id = self._to_watch.popleft()
            if run_id in self._waiting:
                return dispatcher_pb2.SubscribeToWorkflowRunsRequest(workflow_run_id=run_id)
        return None

    def message_written(self) -> None:
        pass

    def received(self, message: dispatcher_pb2.WorkflowRunEvent) -> None:
        if message.results:
            self._waiting.deliver(message.workflow_run_id, _finished(message))
        else:  # cancelled before any task, or too large for one message
            self._start(self._deliver_details(message.workflow_run_id))

    async def _deliver_details(self, run_id: str) -> None:
        try:
            details = await self._calls.get_run_details(run_id)
        except BroadaxeError as error:
            self._waiting.fail(run_id, error)
            return
        finished = stream_pb2.RunFinished(
            run_id=run_id, state=_STATES.get(details.status, stream_pb2.FINAL_STATE_CANCELLED)
        )
        for detail in details.task_runs.values():
            finished.results.add(
                task_run_id=detail.external_id,
                task_name=detail.readable_id,
                state=_STATES.get(detail.status, stream_pb2.FINAL_STATE_CANCELLED),
                output=detail.output,
                error=detail.error.encode(),
            )
        self._waiting.deliver(run_id, finished)

    def broken(self, error: grpc.aio.AioRpcError | None, away_seconds: float, *, was_connected: bool) -> bool:
        retryable = {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.UNKNOWN,
        }
        if error is not None and error.code() not in retryable:
            self._waiting.fail_all(sdk_error(error, "results", self._calls.settings))
        return True


def _trigger_request(run: stream_pb2.NewRun) -> TriggerWorkflowRequest:
    return TriggerWorkflowRequest(
        name=run.workflow_name,
        input=run.input.decode(),
        additional_metadata=run.metadata.decode(),
        priority=run.priority if run.HasField("priority") else None,
        parent_id=run.parent_task_run_id or None,
        parent_task_run_external_id=run.parent_task_run_id or None,
        child_index=run.child_index if run.HasField("child_index") else None,
        child_key=run.child_key if run.HasField("child_key") else None,
        desired_worker_id=run.desired_worker_id or None,
        desired_worker_labels=run.desired_worker_labels,
    )


def _finished(event: dispatcher_pb2.WorkflowRunEvent) -> stream_pb2.RunFinished:
    """A task with an error has failed, one with an empty error was cancelled, one without has completed."""
    finished = stream_pb2.RunFinished(run_id=event.workflow_run_id)
    states = set()
    for result in event.results:
        state = stream_pb2.FINAL_STATE_COMPLETED
        if result.HasField("error"):
            state = stream_pb2.FINAL_STATE_FAILED if result.error else stream_pb2.FINAL_STATE_CANCELLED
        states.add(state)
        finished.results.add(
            task_run_id=result.task_run_external_id,
            task_name=result.task_name,
            state=state,
            output=result.output.encode(),
            error=result.error.encode(),
        )
    for state in (stream_pb2.FINAL_STATE_FAILED, stream_pb2.FINAL_STATE_CANCELLED):
        if state in states:
            finished.state = state
            return finished
    finished.state = stream_pb2.FINAL_STATE_COMPLETED
    return finished


def _timestamp(at_us: int) -> Timestamp:
    stamp = Timestamp()
    if at_us:
        stamp.FromMicroseconds(at_us)
    else:
        stamp.GetCurrentTime()
    return stamp
