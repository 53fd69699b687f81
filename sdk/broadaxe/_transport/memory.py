"""A transport without a server: runs standalone tasks in this process. For tests of user code; nothing is durable.

Inputs and outputs pass through JSON and validation as they do over the wire, children are run, retries happen at once. Not here: workflows of
several tasks, schedules, limits, timeouts.
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, NoReturn, TypeVar

import grpc.aio

from broadaxe._batch_context import given_alone, taken_alone
from broadaxe._context import Context, current_context
from broadaxe._definition import BaseWorkflow
from broadaxe._depends import resolve_dependencies
from broadaxe._errors import (
    ClientClosedError,
    ConfigurationError,
    NonRetryableException,
    RequestRefusedError,
    TaskRunError,
)
from broadaxe._services import NoServices
from broadaxe._task import Task
from broadaxe._transport.base import Gather, TriggerTicket
from broadaxe._transport.waiting import Waiting
from broadaxe._validation import dump_output, parse_input
from broadaxe.wire import dispatcher_pb2, events_pb2, stream_pb2
from broadaxe.wire import workflows_pb2 as v0_pb2
from broadaxe.wire.v1 import workflows_pb2

T = TypeVar("T")
THREADS = 64
"""Synchronous tasks at once; parents that wait for children hold one each."""


class MemoryTransport:
    """Runs the given standalone tasks on a loop and threads of its own."""

    metadata: tuple[tuple[str, str], ...] = ()

    def __init__(self, workflows: Sequence[BaseWorkflow[Any]], lifespan: Any = None) -> None:
        self._tasks: dict[str, Task[Any, Any]] = {}
        for workflow in workflows:
            if len(workflow.tasks) != 1:
                raise ConfigurationError(
                    f"workflow {workflow.base_name!r} has {len(workflow.tasks)} tasks: only workflows of one task run "
                    "without a server; use mock_run for each task"
                )
            self._tasks[workflow.name] = workflow.tasks[0]
        self.lifespan = lifespan
        self.logs: list[stream_pb2.LogLine] = []
        self.chunks: list[stream_pb2.StreamChunk] = []
        self._loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(THREADS, "broadaxe-memory")
        self._waiting = Waiting()
        self._finished: dict[str, stream_pb2.RunFinished] = {}
        self._children: dict[tuple[str, str], str] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._serve, name="broadaxe-memory", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    @property
    def channel(self) -> grpc.aio.Channel:
        self._unsupported("a worker")

    def _unsupported(self, what: str) -> NoReturn:
        raise RequestRefusedError("UNIMPLEMENTED", f"{what} needs a server; this client runs in memory")

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def post_trigger(self, ticket: TriggerTicket) -> None:
        self._loop.call_soon_threadsafe(self._take_trigger, ticket)

    def post_watch(self, run_ids: Sequence[str], gather: Gather) -> None:
        self._loop.call_soon_threadsafe(self._take_watch, run_ids, gather, 0)

    def post_unwatch(self, run_ids: Sequence[str], gather: Gather) -> None:
        self._loop.call_soon_threadsafe(self._waiting.remove, run_ids, gather)

    def _take_watch(self, run_ids: Sequence[str], gather: Gather, offset: int) -> None:
        self._waiting.add(run_ids, gather, offset)
        for run_id in run_ids:
            if run_id in self._finished:
                self._waiting.deliver(run_id, self._finished[run_id])

    def _take_trigger(self, ticket: TriggerTicket) -> None:
        try:
            ids = self._start(stream_pb2.TriggerRuns.FromString(ticket.chunk.body).runs)
        except RequestRefusedError as error:
            ticket.fail(error)
            return
        if ticket.gather is not None:
            self._take_watch(ids, ticket.gather, ticket.offset)
        if not ticket.ids.done():
            ticket.ids.set_result(ids)

    def _start(self, runs: Sequence[stream_pb2.NewRun]) -> list[str]:
        for run in runs:
            if run.workflow_name not in self._tasks:
                known = ", ".join(sorted(self._tasks)) or "none"
                raise RequestRefusedError(
                    "INVALID_ARGUMENT",
                    f"no task {run.workflow_name!r} is registered (known: {known})",
                    "trigger",
                )
        return [self._start_one(run) for run in runs]

    def _start_one(self, run: stream_pb2.NewRun) -> str:
        if run.parent_task_run_id and run.HasField("child_index"):
            child = run.child_key if run.HasField("child_key") else str(run.child_index)
            known = self._children.setdefault((run.parent_task_run_id, child), run.run_id)
            if known != run.run_id:
                return known
        task = self._loop.create_task(self._run(run))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return run.run_id

    async def _run(self, run: stream_pb2.NewRun) -> None:
        task = self._tasks[run.workflow_name]
        result = stream_pb2.TaskResult(task_run_id=run.run_id, task_name=task.name)
        for attempt in itertools.count():
            try:
                result.output = await self._attempt(task, run, attempt)
                result.state = stream_pb2.FINAL_STATE_COMPLETED
                break
            except Exception as error:  # noqa: BLE001 - all that a task raises is its own failure
                if attempt < task.retries and not isinstance(error, NonRetryableException):
                    continue
                told = TaskRunError.from_exception(error, run.run_id, task.name)
                result.error = told.to_wire().encode("utf-8", "backslashreplace")
                result.state = stream_pb2.FINAL_STATE_FAILED
                break
        finished = stream_pb2.RunFinished(run_id=run.run_id, state=result.state, results=[result])
        self._finished[run.run_id] = finished
        self._waiting.deliver(run.run_id, finished)

    async def _attempt(self, task: Task[Any, Any], run: stream_pb2.NewRun, attempt: int) -> bytes:
        assignment = stream_pb2.Assignment(
            task_run_id=run.run_id,
            attempt=attempt,
            priority=run.priority or 1,
            input=run.input,
            metadata=run.metadata,
            parent_task_run_id=run.parent_task_run_id,
        )
        step = stream_pb2.StepInfo(action_id=task.action_id, task_name=task.name)
        context = Context(assignment, step, _Services(self), task)
        value, context = given_alone(task, parse_input(task, run.input), context)
        current_context.set(context)
        async with resolve_dependencies(task.dependencies, value, context) as found:
            if task.is_async:
                output = await task.fn(value, context, **found)
            else:
                here = copy_context()
                output = await self._loop.run_in_executor(
                    self._pool, lambda: here.run(task.fn, value, context, **found)
                )
        return dump_output(task, taken_alone(task, context, output))

    # ---- the rest of the seam

    async def trigger(self, runs: Sequence[stream_pb2.NewRun]) -> list[str]:
        return self._start(runs)

    async def result(self, run_id: str) -> stream_pb2.RunFinished:
        gather = Gather(1)
        self._take_watch((run_id,), gather, 0)
        (finished,) = await asyncio.wrap_future(gather.future)
        assert isinstance(finished, stream_pb2.RunFinished)
        return finished

    async def put_workflow(
        self, request: workflows_pb2.CreateWorkflowVersionRequest, *, patience_s: float | None = None
    ) -> tuple[str, ...]:
        self._unsupported(f"registering {request.name!r}")

    async def get_run_details(self, run_id: str) -> workflows_pb2.GetRunDetailsResponse:
        self._unsupported(f"details of run {run_id}")

    async def cancel_tasks(self, request: workflows_pb2.CancelTasksRequest) -> list[str]:
        self._unsupported("cancelling runs")

    async def replay_tasks(self, request: workflows_pb2.ReplayTasksRequest) -> list[str]:
        self._unsupported("replaying runs")

    async def schedule_workflow(self, request: v0_pb2.ScheduleWorkflowRequest) -> v0_pb2.WorkflowVersion:
        self._unsupported(f"scheduling workflow {request.name!r}")

    async def put_rate_limit(self, request: v0_pb2.PutRateLimitRequest) -> None:
        self._unsupported(f"rate limit {request.key!r}")

    async def pause_rate_limit(self, request: v0_pb2.PauseRateLimitRequest) -> v0_pb2.PauseRateLimitResponse:
        self._unsupported(f"pausing rate limit {request.key!r}")

    async def push_events(self, events: Sequence[events_pb2.PushEventRequest]) -> list[events_pb2.Event]:
        self._unsupported(f"pushing {len(events)} events")

    async def replay_event(self, request: events_pb2.ReplayEventRequest) -> events_pb2.Event:
        self._unsupported(f"replaying event {request.event_id}")

    async def put_logs(self, lines: Sequence[stream_pb2.LogLine]) -> None:
        self.logs.extend(lines)

    async def put_stream(self, chunks: Sequence[stream_pb2.StreamChunk]) -> None:
        self.chunks.extend(chunks)

    async def confirm_lines(self) -> None:
        pass  # they are there

    def subscribe_events(self, run_id: str) -> AsyncIterator[dispatcher_pb2.WorkflowEvent]:
        self._unsupported(f"the stream of run {run_id}")

    def use_unary(self) -> None:
        pass  # there is no other way here

    def close(self) -> None:
        if not self._loop.is_closed() and self._thread.is_alive():
            self.submit(self._end()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._pool.shutdown(wait=False)

    async def _end(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._waiting.fail_all(ClientClosedError("the test has ended while this run was waited for"))


class _Services(NoServices):
    """What contexts ask of a worker, without one."""

    worker_id = "memory"

    def __init__(self, transport: MemoryTransport) -> None:
        super().__init__(transport.lifespan)
        self._transport = transport

    def put_log(self, line: stream_pb2.LogLine) -> None:
        self._transport.logs.append(line)

    def put_chunk(self, chunk: stream_pb2.StreamChunk) -> None:
        self._transport.chunks.append(chunk)
