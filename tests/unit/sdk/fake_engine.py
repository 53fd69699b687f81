"""A small engine in this process, for tests of the SDK: real gRPC on a loopback port, state in memory, no durability.

It queues runs of one-task workflows, dispatches them to worker streams (batched or unary) by free slots, and returns results.
It runs on a loop and thread of its own, so that synchronous tests may block. Methods of `FakeEngine` are safe to call from
any thread. What a test may look at: `workflows`, `runs`, `reports`, `logs`, `chunks`, `hellos`, `calls`.
"""

import asyncio
import json
import threading
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import grpc
import grpc.aio
from google.rpc import status_pb2

from broadaxe.wire import dispatcher_pb2, events_pb2, stream_pb2, workflows_pb2
from broadaxe.wire.v1 import workflows_pb2 as v1_workflows_pb2
from broadaxe.wire.v1.shared import trigger_pb2

COMPLETED = stream_pb2.FINAL_STATE_COMPLETED
FAILED = stream_pb2.FINAL_STATE_FAILED
CANCELLED = stream_pb2.FINAL_STATE_CANCELLED
TENANT = "707d0855-80ab-4e1f-a156-f1c4546cbf52"


@dataclass
class FakeRun:
    run_id: str
    workflow: str
    input: bytes
    metadata: bytes
    request: Any
    """The NewRun or TriggerWorkflowRequest that asked for it."""
    step: str = ""
    """The task of the workflow that is run; the first if empty."""
    attempt: int = 0
    state: int | None = None
    results: list[Any] = field(default_factory=list)
    worker_id: str = ""
    is_assigned: bool = False


@dataclass(eq=False)
class Session:
    """One stream of a worker."""

    worker_id: str
    actions: list[str]
    free: int
    outbox: "asyncio.Queue[Any]"
    is_batched: bool
    refs: dict[str, int] = field(default_factory=dict)
    batch: int = 0


class FakeEngine:
    """Start it as a context manager; `address` is then `127.0.0.1:port`.

    batched: False leaves out `broadaxe.v1.Engine`, so that its calls answer UNIMPLEMENTED.
    token: when given, calls with any other bearer token answer UNAUTHENTICATED.
    answer: called with each new run; a `(state, payload)` it returns ends the run at once, without a worker. The payload may be
    a list of `TaskResult` for a run of several tasks.
    """

    def __init__(
        self,
        *,
        batched: bool = True,
        token: str | None = None,
        answer: Callable[[FakeRun], tuple[int, Any] | None] | None = None,
        port: int = 0,
        version: str = "v0.79.0",
    ) -> None:
        self.batched = batched
        self.token = token
        self.answer = answer
        self.version = version
        self.port = port
        self.workflows: dict[str, Any] = {}
        self.not_enforced = ""
        """What `PutWorkflow` names as stored only, as the trailing metadata has it."""
        self.runs: dict[str, FakeRun] = {}
        self.reports: list[Any] = []
        self.logs: list[Any] = []
        self.chunks: list[Any] = []
        self.hellos: list[Any] = []
        self.events: list[Any] = []
        self.heartbeats: Counter[str] = Counter()
        self.goodbyes: list[str] = []
        self.calls: Counter[str] = Counter()
        self.client_messages: list[Any] = []
        self.worker_messages: list[Any] = []
        self.trigger_sizes: list[int] = []
        self.repeats: list[int] = []
        self.unknown_workers: set[str] = set()
        """Worker ids that are answered NOT_FOUND, as by an engine whose database was wiped."""
        self.key_of: Callable[[dict[str, Any]], str | None] = lambda value: None
        """The idempotency key of a run by its input. A key is held for ever; of equal keys in a call the first wins."""
        self._holders: dict[str, str] = {}
        self.missing: set[str] = set()
        """Names of calls that are answered UNIMPLEMENTED."""
        self.parents: dict[str, Any] = {}
        """Outputs that every assignment brings, by task name."""
        self.triggers: dict[str, Any] = {}
        self.task_run_errors: dict[str, str] = {}
        self.refreshed: list[tuple[str, str]] = []
        self.released: list[str] = []
        self.bulk_requests: list[Any] = []
        """Every CancelTasks and ReplayTasks."""
        self.hold_replies = False
        """True: triggers are taken but not answered, as if the engine died before answering."""
        self.refuse: Callable[[Any], tuple[int, str] | None] = lambda trigger: None
        self._children: dict[tuple[str, str], str] = {}
        self._sessions: list[Session] = []
        self._slots: dict[str, int] = {}
        self._worker_actions: dict[str, list[str]] = {}
        self._queue: deque[str] = deque()
        self._client_outboxes: dict[Any, set[str]] = {}
        self._unary_watchers: dict[Any, set[str]] = {}
        self._event_subscribers: dict[str, list[asyncio.Queue[Any]]] = defaultdict(list)
        self._calls_open: set[asyncio.Task[Any]] = set()
        self._changed = threading.Condition()

    # ---- life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_quiet)

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._start())
            started.set()
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

        self._thread = threading.Thread(target=run, name="fake-engine", daemon=True)
        self._thread.start()
        assert started.wait(10), "the fake engine did not start"

    def stop(self) -> None:
        """End every stream with UNAVAILABLE and stop listening; `start` may follow, on the same port, with the same state."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _start(self) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", 4 << 20),
                ("grpc.max_send_message_length", 4 << 20),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
            ]
        )
        for handler in self._handlers():
            self._server.add_generic_rpc_handlers((handler,))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def _stop(self) -> None:
        await self._drop()
        await self._server.stop(0)

    def drop_streams(self) -> None:
        """End every open stream with UNAVAILABLE, as a restart of the engine would."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(10)

    async def _drop(self) -> None:
        for task in list(self._calls_open):
            task.cancel()
        await asyncio.gather(*self._calls_open, return_exceptions=True)

    # ---- for tests

    def wait_until(self, condition: Callable[[], bool], what: str = "condition", timeout: float = 10) -> None:
        """Block until `condition()` holds; it is checked after every change of the engine's state."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise AssertionError(f"the engine did not reach {what} within {timeout} s")

    def finish(self, run_id: str, state: int, payload: bytes = b"") -> None:
        """End a run from the outside."""
        self._call(self._finish_run, self.runs[run_id], state, payload)

    def cancel(self, run_id: str) -> None:
        """Cancel a run and tell the worker that holds it."""
        self._call(self._cancel, run_id)

    def trigger(self, workflow: str, input: object = None, *, step: str = "", **fields: Any) -> str:  # noqa: A002 - the wire's word
        """Queue a run as some other client would. step: the task of the workflow to run, when it is not the first."""
        new = stream_pb2.NewRun(
            run_id=str(uuid.uuid4()),
            workflow_name=workflow,
            input=b"" if input is None else json.dumps(input).encode(),
            metadata=b"{}",
            **fields,
        )
        return str(self._call(self._add_run, new, step))

    def start_batch(self, workflow: str, inputs: list[object], attempt: int = 0) -> list[str]:
        """Create runs of a batch task and send them to a worker together. Returns their ids."""
        self.wait_until(lambda: bool(self._sessions), "a worker's stream")
        return list(self._call(self._start_batch, workflow, inputs, attempt))

    def _start_batch(self, workflow: str, inputs: list[object], attempt: int) -> list[str]:
        runs = []
        for value in inputs:
            new = stream_pb2.NewRun(
                run_id=str(uuid.uuid4()),
                workflow_name=workflow,
                input=json.dumps(value).encode(),
                metadata=json.dumps({"of": value}).encode(),
            )
            run = FakeRun(new.run_id, workflow, new.input, new.metadata, new, attempt=attempt)
            self.runs[run.run_id] = run
            runs.append(run)
        step = self._step(runs[0])
        session = next(s for s in self._sessions if step.action.lower() in s.actions)
        for run in runs:
            run.worker_id, run.is_assigned = session.worker_id, True
        if session.is_batched:
            down = stream_pb2.WorkerDown()
            ref = self._ref(session, down, step, workflow)
            session.batch += 1
            down.batch = session.batch
            down.batches.add(
                batch_id="batch-1",
                batch_key="k",
                reason="full",
                members=[self._assignment(run, ref) for run in runs],
            )
            session.outbox.put_nowait(down)
        else:
            session.outbox.put_nowait(self._batch_action(runs, step))
        self._notify()
        return [run.run_id for run in runs]

    def _batch_action(self, runs: list[FakeRun], step: Any) -> Any:
        members = {run.run_id: {"workflow_run_id": run.run_id, "payload": self._payload(run)} for run in runs}
        action = dispatcher_pb2.AssignedAction(
            tenant_id=TENANT,
            action_id=step.action.lower(),
            action_type=dispatcher_pb2.START_BATCH,
            action_payload=json.dumps(members),
            batchId="batch-1",
            batchKey="k",
        )
        action.batchStartPayload.triggerReason = "full"
        action.batchStartPayload.expectedSize = len(runs)
        return action

    def lose_workers(self) -> None:
        """Forget all sessions and queue what they held, with the next attempt."""
        self._call(self._lose)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        async def run() -> Any:
            return function(*args)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    # ---- state

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _add_run(self, new: Any, step: str = "", run_id: str = "") -> str:
        unary = isinstance(new, trigger_pb2.TriggerWorkflowRequest)
        name = new.name if unary else new.workflow_name
        parent = new.parent_task_run_external_id if unary else new.parent_task_run_id
        if parent and new.HasField("child_index"):
            key = (
                parent,
                new.child_key if new.HasField("child_key") else str(new.child_index),
            )
            if key in self._children:
                return self._children[key]
        run_id = run_id or ("" if unary else new.run_id) or str(uuid.uuid4())
        if parent and new.HasField("child_index"):
            self._children[key] = run_id
        if run_id in self.runs:
            return run_id
        raw_metadata = (new.additional_metadata or "{}").encode() if unary else (new.metadata or b"{}")
        run = FakeRun(run_id, name, new.input.encode() if unary else new.input, raw_metadata, new, step)
        self.runs[run_id] = run
        answer = self.answer(run) if self.answer else None
        if answer is not None:
            self._finish_run(run, *answer)
        else:
            self._queue.append(run_id)
            self._dispatch()
        self._notify()
        return run_id

    def _step(self, run: FakeRun) -> Any:
        definition = self.workflows.get(run.workflow)
        if definition is None:
            return None
        if not run.step:
            return definition.tasks[0]
        return next(
            task for task in (*definition.tasks, definition.on_failure_task) if task.readable_id == run.step
        )

    def _dispatch(self) -> None:
        waiting: deque[str] = deque()
        touched: dict[Session, Any] = {}
        while self._queue:
            run = self.runs[self._queue.popleft()]
            if run.state is not None:
                continue
            step = self._step(run)
            action = step.action.lower() if step else ""
            session = next((s for s in self._sessions if s.free > 0 and action in s.actions), None)
            if session is None:
                waiting.append(run.run_id)
                continue
            session.free -= 1
            run.is_assigned, run.worker_id = True, session.worker_id
            if session.is_batched:
                down = touched.setdefault(session, stream_pb2.WorkerDown())
                ref = self._ref(session, down, step, run.workflow)
                down.assignments.append(self._assignment(run, ref))
            else:
                session.outbox.put_nowait(self._action(run, dispatcher_pb2.ActionType.START_STEP_RUN))
        for session, down in touched.items():
            session.batch += 1
            down.batch = session.batch
            session.outbox.put_nowait(down)
        self._queue = waiting

    def _ref(self, session: Session, down: Any, step: Any, workflow: str) -> int:
        """The number of a step on this stream; its first message says what it is."""
        action = step.action.lower()
        if action not in session.refs:
            session.refs[action] = len(session.refs) + 1
            down.steps.add(
                ref=session.refs[action],
                step_id=_uuid("step", action),
                action_id=action,
                task_name=step.readable_id,
                workflow_id=_uuid("workflow", workflow),
                workflow_version_id=_uuid("version", workflow),
            )
        return session.refs[action]

    def _assignment(self, run: FakeRun, ref: int) -> Any:
        new = run.request
        assignment = stream_pb2.Assignment(
            step=ref,
            task_run_id=run.run_id,
            attempt=run.attempt,
            priority=new.priority or 1,
            input=run.input,
            metadata=run.metadata,
            parent_task_run_id=new.parent_task_run_id,
            parents=json.dumps(self.parents).encode() if self.parents else b"",
            triggers=json.dumps(self.triggers).encode() if self.triggers else b"",
            task_run_errors=self.task_run_errors,
        )
        if new.HasField("child_index"):
            assignment.child_index = new.child_index
        if new.HasField("child_key"):
            assignment.child_key = new.child_key
        return assignment

    def _payload(self, run: FakeRun) -> dict[str, Any]:
        payload = {
            "input": json.loads(run.input or b"{}"),
            "triggered_by": "manual",
            "parents": self.parents,
            "triggers": {"filter_payload": None, **self.triggers},
            "user_data": None,
            "overrides": None,
        }
        if self.task_run_errors:
            payload["step_run_errors"] = self.task_run_errors
        return payload

    def _action(self, run: FakeRun, kind: Any) -> Any:
        step = self._step(run)
        is_start = kind == dispatcher_pb2.ActionType.START_STEP_RUN
        return dispatcher_pb2.AssignedAction(
            tenant_id=TENANT,
            workflow_run_id=run.run_id,
            job_id=_uuid("step", step.action),
            job_name=step.readable_id,
            job_run_id=run.run_id,
            task_id=_uuid("step", step.action),
            task_run_external_id=run.run_id,
            action_id=step.action.lower(),
            action_type=kind,
            action_payload=json.dumps(self._payload(run)) if is_start else "",
            task_name=step.readable_id,
            retry_count=run.attempt,
            additional_metadata=run.metadata.decode(),
            priority=run.request.priority or 1,
            workflow_id=_uuid("workflow", run.workflow),
            workflow_version_id=_uuid("version", run.workflow),
        )

    def _free(self, run: FakeRun) -> None:
        if run.is_assigned:
            run.is_assigned = False
            for session in self._sessions:
                if session.worker_id == run.worker_id:
                    session.free += 1
                    break

    def _report(self, run_id: str, attempt: int, kind: str, payload: bytes, no_retry: bool) -> None:
        run = self.runs.get(run_id)
        if run is None or run.state is not None or attempt != run.attempt:
            return
        if kind == "completed":
            self._free(run)
            self._finish_run(run, COMPLETED, payload)
        elif kind == "failed":
            self._free(run)
            step = self._step(run)
            if not no_retry and run.attempt < step.retries:
                run.attempt += 1
                self._queue.append(run.run_id)
            else:
                self._finish_run(run, FAILED, payload)
        elif kind == "cancelled":
            self._free(run)
            self._finish_run(run, CANCELLED, b"")
        self._dispatch()

    def _finish_run(self, run: FakeRun, state: int, payload: Any) -> None:
        if run.state is not None:
            return
        step = self._step(run)
        run.state = state
        if isinstance(payload, list):
            run.results = payload
        else:
            run.results = [
                stream_pb2.TaskResult(
                    task_run_id=run.run_id,
                    task_name=step.readable_id if step else run.workflow,
                    state=state,
                    output=payload if state == COMPLETED else b"",
                    error=payload if state != COMPLETED else b"",
                )
            ]
        for outbox, ids in self._client_outboxes.items():
            if run.run_id in ids:
                ids.discard(run.run_id)
                outbox.put_nowait(stream_pb2.ClientDown(finished=[self._finished(run)]))
        for outbox, ids in self._unary_watchers.items():
            if run.run_id in ids:
                ids.discard(run.run_id)
                outbox.put_nowait(self._run_event(run))
        kinds = {COMPLETED: 2, FAILED: 3, CANCELLED: 4}
        for queue in self._event_subscribers.pop(run.run_id, ()):
            queue.put_nowait(
                dispatcher_pb2.WorkflowEvent(
                    workflow_run_id=run.run_id,
                    resource_type=dispatcher_pb2.RESOURCE_TYPE_WORKFLOW_RUN,
                    event_type=kinds[state],
                    resource_id=run.run_id,
                    hangup=True,
                )
            )
            queue.put_nowait(None)
        self._notify()

    def _finished(self, run: FakeRun) -> Any:
        return stream_pb2.RunFinished(run_id=run.run_id, state=run.state, results=run.results)

    def _run_event(self, run: FakeRun) -> Any:
        event = dispatcher_pb2.WorkflowRunEvent(workflow_run_id=run.run_id)
        for result in run.results:
            item = event.results.add(
                task_run_external_id=result.task_run_id,
                task_name=result.task_name,
                job_run_id=result.task_run_id,
            )
            if result.state == COMPLETED:
                item.output = result.output.decode()
            else:  # of a cancelled task it is there and empty
                item.error = result.error.decode() if result.state == FAILED else ""
        return event

    def _cancel(self, run_id: str) -> None:
        run = self.runs[run_id]
        for session in self._sessions:
            if run.is_assigned and session.worker_id == run.worker_id:
                if session.is_batched:
                    session.outbox.put_nowait(
                        stream_pb2.WorkerDown(
                            cancels=[stream_pb2.CancelOrder(task_run_id=run_id, attempt=run.attempt)]
                        )
                    )
                else:
                    session.outbox.put_nowait(self._action(run, dispatcher_pb2.ActionType.CANCEL_STEP_RUN))
        self._free(run)
        self._finish_run(run, CANCELLED, b"")
        self._dispatch()

    def _lose(self) -> None:
        self._sessions.clear()
        for run in self.runs.values():
            if run.is_assigned and run.state is None:
                run.is_assigned = False
                run.attempt += 1
                self._queue.append(run.run_id)

    # ---- batched streams

    async def _worker_stream(self, requests: AsyncIterator[Any], context: Any) -> None:  # noqa: C901 - one stream, told in one place
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        session: Session | None = None

        async def read() -> None:  # noqa: C901 - see above
            nonlocal session
            async for up in requests:
                self.worker_messages.append(up)
                if up.HasField("hello"):
                    self.hellos.append(up.hello)
                    if up.hello.worker_id in self.unknown_workers:
                        await context.abort(grpc.StatusCode.NOT_FOUND, "worker not found")
                    worker_id = up.hello.worker_id or str(uuid.uuid4())
                    slots = sum(up.hello.slot_config.values()) or 100
                    held = {h.task_run_id for h in up.hello.in_flight}
                    for run in self.runs.values():  # what a returning worker no longer has
                        if run.worker_id == worker_id and run.is_assigned and run.state is None:
                            if run.run_id in held:
                                slots -= 1
                            else:
                                run.is_assigned = False
                                self._queue.append(run.run_id)
                    session = Session(worker_id, [a.lower() for a in up.hello.actions], slots, outbox, True)
                    self._sessions.append(session)
                    outbox.put_nowait(
                        stream_pb2.WorkerDown(
                            welcome=stream_pb2.Welcome(
                                worker_id=worker_id, tenant_id=TENANT, heartbeat_interval_ms=4000
                            )
                        )
                    )
                    self._dispatch()
                assert session is not None, "the first message must carry hello"
                if up.heartbeat:
                    self.heartbeats[session.worker_id] += 1
                if up.HasField("paused"):
                    session.free = -(1 << 30) if up.paused else session.free
                for report in up.reports:
                    self.reports.append(report)
                    kind = {2: "completed", 3: "failed", 4: "cancelled"}.get(report.kind, "started")
                    self._report(
                        report.task_run_id, report.attempt, kind, report.payload, report.should_not_retry
                    )
                if up.report_batch:
                    outbox.put_nowait(stream_pb2.WorkerDown(committed_report_batch=up.report_batch))
                if up.goodbye:
                    self.goodbyes.append(session.worker_id)
                self._notify()
            outbox.put_nowait(None)

        def end() -> None:
            if session in self._sessions:
                self._sessions.remove(session)

        await self._pump(context, read, outbox, end)

    async def _client_stream(self, requests: AsyncIterator[Any], context: Any) -> None:
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        watched: set[str] = set()
        self._client_outboxes[outbox] = watched

        async def read() -> None:
            async for up in requests:
                self.client_messages.append(up)
                for trigger in up.triggers:
                    self._client_trigger(trigger, outbox, watched)
                for run_id in up.watch_run_ids:
                    self._watch(run_id, outbox, watched)
                watched.difference_update(up.unwatch_run_ids)
                self.logs.extend(up.logs)
                for chunk in up.chunks:
                    self.chunks.append(chunk)
                    self._stream_event(chunk.task_run_id, chunk.message, chunk.index)
                if up.mark:
                    outbox.put_nowait(stream_pb2.ClientDown(mark=up.mark))
                self._notify()
            outbox.put_nowait(None)

        await self._pump(context, read, outbox, lambda: self._client_outboxes.pop(outbox, None))

    def _client_trigger(self, trigger: Any, outbox: Any, watched: set[str]) -> None:
        self.trigger_sizes.append(len(trigger.runs))
        if trigger.is_repeat:
            self.repeats.append(len(trigger.runs))
        refusal = self.refuse(trigger)
        if refusal is not None:
            reply = stream_pb2.TriggerReply(
                request=trigger.request,
                refusal=stream_pb2.Refusal(code=refusal[0], message=refusal[1]),
            )
            outbox.put_nowait(stream_pb2.ClientDown(replies=[reply]))
            return
        done: list[Any] = []
        ids: list[str] = []
        collisions: list[tuple[str, str]] = []
        for new in trigger.runs:
            holder = self._claim(new.input, new.run_id)
            if holder is not None:
                collisions.append((holder, new.run_id))
                continue
            run_id = self._add_run(new)
            ids.append(run_id)
            if trigger.watch and not self.hold_replies:
                run = self.runs[run_id]
                if run.state is None:
                    watched.add(run_id)
                else:
                    done.append(self._finished(run))
        if not self.hold_replies:
            reply = stream_pb2.TriggerReply(request=trigger.request, run_ids=ids)
            if collisions:
                reply = stream_pb2.TriggerReply(request=trigger.request)
                reply.refusal.code, reply.refusal.message = 6, "idempotency key collision"
                reply.refusal.created_run_ids.extend(ids)
                for holder, run_id in collisions:
                    reply.refusal.collisions.add(existing_run_id=holder, colliding_run_id=run_id)
            outbox.put_nowait(stream_pb2.ClientDown(replies=[reply], finished=done))

    def _claim(self, raw_input: bytes | str, run_id: str) -> str | None:
        """The run that holds the key; None if it is this one's now, or there is none."""
        key = self.key_of(json.loads(raw_input or b"{}"))
        if key is None or self._holders.setdefault(key, run_id) == run_id:
            return None
        return self._holders[key]

    def _watch(self, run_id: str, outbox: Any, watched: set[str]) -> None:
        run = self.runs.get(run_id)
        if run is not None and run.state is not None:
            outbox.put_nowait(stream_pb2.ClientDown(finished=[self._finished(run)]))
        else:
            watched.add(run_id)

    async def _pump(
        self,
        context: Any,
        read: Callable[[], Awaitable[None]],
        outbox: "asyncio.Queue[Any]",
        end: Callable[[], object],
    ) -> None:
        """Send what comes out until the reader ends (OK) or the engine drops the stream (UNAVAILABLE)."""
        task = asyncio.current_task()
        assert task is not None
        self._calls_open.add(task)
        await context.send_initial_metadata(())
        reader = asyncio.ensure_future(read())
        try:
            while (item := await outbox.get()) is not None:
                await context.write(item)
        except asyncio.CancelledError:
            if not context.done():
                context.set_code(grpc.StatusCode.UNAVAILABLE)
                context.set_details("the engine restarts")
        finally:
            reader.cancel()
            self._calls_open.discard(task)
            end()
            self._notify()

    # ---- unary wire

    async def _put_workflow(self, request: Any, context: Any) -> Any:
        self.workflows[request.name] = request
        self._dispatch()
        self._notify()
        if self.not_enforced:
            context.set_trailing_metadata((("broadaxe-not-enforced", self.not_enforced),))
        return v1_workflows_pb2.CreateWorkflowVersionResponse(
            id=_uuid("version", request.name), workflow_id=_uuid("workflow", request.name)
        )

    @cached_property
    def scheduled(self) -> list[Any]:
        """Scheduled runs, as they were asked for."""
        return []

    @cached_property
    def limits(self) -> list[Any]:
        """Rate limits put and paused, as they were asked for."""
        return []

    async def _schedule_workflow(self, request: Any, context: Any) -> Any:
        self.scheduled.append(request)
        response = workflows_pb2.WorkflowVersion(id="version", workflow_id="workflow")
        for number, at in enumerate(request.schedules):
            response.scheduled_workflows.add(id=f"scheduled-{number}", trigger_at=at)
        return response

    async def _put_rate_limit(self, request: Any, context: Any) -> Any:
        self.limits.append(request)
        return workflows_pb2.PutRateLimitResponse()

    async def _pause_rate_limit(self, request: Any, context: Any) -> Any:
        """Paused for an hour longer already."""
        self.limits.append(request)
        response = workflows_pb2.PauseRateLimitResponse()
        response.paused_until.FromSeconds(request.paused_until.seconds + 3600)
        return response

    async def _run_details(self, request: Any, context: Any) -> Any:
        run = self.runs.get(request.external_id)
        if run is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "workflow run not found")
        wire_state = {None: 0, COMPLETED: 2, FAILED: 3, CANCELLED: 4}
        response = v1_workflows_pb2.GetRunDetailsResponse(
            input=run.input,
            status=wire_state[run.state],
            done=run.state is not None,
            additional_metadata=run.metadata,
        )
        for result in run.results:
            detail = response.task_runs[result.task_name]
            detail.external_id = result.task_run_id
            detail.readable_id = result.task_name
            detail.status = wire_state[result.state]
            if result.state == COMPLETED:
                detail.output = result.output
            else:
                detail.error = result.error.decode()
        return response

    async def _cancel_tasks(self, request: Any, context: Any) -> Any:
        self.bulk_requests.append(request)
        for run_id in request.external_ids:
            if run_id in self.runs:
                self._cancel(run_id)
        return v1_workflows_pb2.CancelTasksResponse(cancelled_tasks=request.external_ids)

    async def _replay_tasks(self, request: Any, context: Any) -> Any:
        self.bulk_requests.append(request)
        return v1_workflows_pb2.ReplayTasksResponse(replayed_tasks=request.external_ids)

    async def _trigger_one(self, request: Any, context: Any) -> Any:
        run_id = str(uuid.uuid4())
        holder = self._claim(request.input, run_id)
        if holder is not None:
            await self._abort_with(
                context,
                v1_workflows_pb2.IdempotencyCollisionError(
                    existing_run_external_id=holder, colliding_run_external_id=run_id
                ),
            )
        return workflows_pb2.TriggerWorkflowResponse(workflow_run_id=self._add_run(request, run_id=run_id))

    async def _trigger_many(self, request: Any, context: Any) -> Any:
        if len(request.workflows) > 1000:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "at most 1000 runs a call")
        self.trigger_sizes.append(len(request.workflows))
        ids: list[str] = []
        refused = v1_workflows_pb2.BulkTriggerIdempotencyCollisionError()
        for new in request.workflows:
            run_id = str(uuid.uuid4())
            holder = self._claim(new.input, run_id)
            if holder is None:
                ids.append(self._add_run(new, run_id=run_id))
            else:
                refused.collisions.add(existing_run_external_id=holder, colliding_run_external_id=run_id)
        if refused.collisions:
            refused.successful_workflow_run_external_ids.extend(ids)
            await self._abort_with(context, refused)
        return workflows_pb2.BulkTriggerWorkflowResponse(workflow_run_ids=ids)

    async def _abort_with(self, context: Any, detail: Any) -> None:
        """Refuse as an idempotency collision, with `detail` under its name in the contract."""
        status = status_pb2.Status(code=6, message="idempotency key collision")
        name = detail.DESCRIPTOR.full_name.removeprefix("broadaxe.wire.")
        status.details.add(type_url=f"type.googleapis.com/{name}", value=detail.SerializeToString())
        await context.abort(
            grpc.StatusCode.ALREADY_EXISTS,
            status.message,
            (("grpc-status-details-bin", status.SerializeToString()),),
        )

    async def _register(self, request: Any, context: Any) -> Any:
        self.hellos.append(request)
        worker_id = str(uuid.uuid4())
        self._slots[worker_id] = sum(request.slot_config.values()) or request.slots or 100
        self._worker_actions[worker_id] = [a.lower() for a in request.actions]
        return dispatcher_pb2.WorkerRegisterResponse(
            tenant_id=TENANT, worker_id=worker_id, worker_name=request.worker_name
        )

    async def _listen(self, request: Any, context: Any) -> None:
        if request.worker_id not in self._slots:
            await context.abort(grpc.StatusCode.NOT_FOUND, "not found")
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        held = sum(
            run.is_assigned and run.worker_id == request.worker_id and run.state is None
            for run in self.runs.values()
        )
        session = Session(
            request.worker_id,
            self._worker_actions[request.worker_id],
            self._slots[request.worker_id] - held,
            outbox,
            False,
        )
        self._sessions.append(session)
        self._dispatch()
        self._notify()

        async def idle() -> None:
            await asyncio.Event().wait()

        def end() -> None:
            if session in self._sessions:
                self._sessions.remove(session)

        await self._pump(context, idle, outbox, end)

    async def _heartbeat(self, request: Any, context: Any) -> Any:
        self.heartbeats[request.worker_id] += 1
        self._notify()
        return dispatcher_pb2.HeartbeatResponse()

    async def _step_event(self, request: Any, context: Any) -> Any:
        self.reports.append(request)
        kind = {2: "completed", 3: "failed", 5: "cancelled"}.get(request.event_type, "started")
        self._report(
            request.task_run_external_id,
            request.retry_count,
            kind,
            request.event_payload.encode(),
            request.should_not_retry,
        )
        self._notify()
        return dispatcher_pb2.ActionEventResponse(tenant_id=TENANT, worker_id=request.worker_id)

    async def _batch_event(self, request: Any, context: Any) -> Any:
        self.reports.append(request)
        kind = {2: "completed", 3: "failed", 5: "cancelled"}.get(request.event_type, "started")
        assert request.batch_id == "batch-1"
        for item in request.items:
            assert not item.HasField("retry_count")
            run = self.runs[item.task_run_external_id]
            payload = item.event_payload.encode()
            self._report(run.run_id, run.attempt, kind, payload, item.should_not_retry)
        self._notify()
        return dispatcher_pb2.ActionEventResponse(tenant_id=TENANT, worker_id=request.worker_id)

    async def _unsubscribe(self, request: Any, context: Any) -> Any:
        self.goodbyes.append(request.worker_id)
        self._notify()
        return dispatcher_pb2.WorkerUnsubscribeResponse(tenant_id=TENANT, worker_id=request.worker_id)

    async def _labels(self, request: Any, context: Any) -> Any:
        return dispatcher_pb2.UpsertWorkerLabelsResponse(tenant_id=TENANT, worker_id=request.worker_id)

    async def _refresh_timeout(self, request: Any, context: Any) -> Any:
        self.refreshed.append((request.task_run_external_id, request.increment_timeout_by))
        return dispatcher_pb2.RefreshTimeoutResponse()

    async def _release_slot(self, request: Any, context: Any) -> Any:
        self.released.append(request.task_run_external_id)
        self._free(self.runs[request.task_run_external_id])
        self._dispatch()
        return dispatcher_pb2.ReleaseSlotResponse()

    async def _version(self, request: Any, context: Any) -> Any:
        return dispatcher_pb2.GetVersionResponse(version=self.version)

    async def _subscribe_runs(self, requests: AsyncIterator[Any], context: Any) -> None:
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        watched: set[str] = set()
        self._unary_watchers[outbox] = watched

        async def read() -> None:
            async for request in requests:
                run = self.runs.get(request.workflow_run_id)
                if run is not None and run.state is not None:
                    outbox.put_nowait(self._run_event(run))
                else:
                    watched.add(request.workflow_run_id)
                self._notify()
            outbox.put_nowait(None)

        await self._pump(context, read, outbox, lambda: self._unary_watchers.pop(outbox, None))

    async def _subscribe_events(self, request: Any, context: Any) -> None:
        run = self.runs.get(request.workflow_run_id)
        if run is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "workflow run not found")
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        if run.state is not None:
            outbox.put_nowait(None)
        else:
            self._event_subscribers[run.run_id].append(outbox)

        async def idle() -> None:
            await asyncio.Event().wait()

        self._notify()
        await self._pump(context, idle, outbox, lambda: None)

    def has_event_subscriber(self, run_id: str) -> bool:
        return bool(self._event_subscribers.get(run_id))

    def _stream_event(self, task_run_id: str, message: bytes, index: int) -> None:
        for queue in self._event_subscribers.get(task_run_id, ()):
            queue.put_nowait(
                dispatcher_pb2.WorkflowEvent(
                    workflow_run_id=task_run_id,
                    resource_type=dispatcher_pb2.RESOURCE_TYPE_STEP_RUN,
                    event_type=dispatcher_pb2.RESOURCE_EVENT_TYPE_STREAM,
                    resource_id=task_run_id,
                    event_payload=message.decode(),
                    event_index=index,
                )
            )

    async def _push(self, request: Any, context: Any) -> Any:
        self.events.append(request)
        return self._event(request)

    async def _bulk_push(self, request: Any, context: Any) -> Any:
        self.events.extend(request.events)
        return events_pb2.Events(events=[self._event(event) for event in request.events])

    def _event(self, request: Any) -> Any:
        return events_pb2.Event(
            tenant_id=TENANT,
            event_id=str(uuid.uuid4()),
            key=request.key,
            payload=request.payload,
            additional_metadata=request.additional_metadata,
        )

    async def _put_log(self, request: Any, context: Any) -> Any:
        self.logs.append(request)
        self._notify()
        return events_pb2.PutLogResponse()

    async def _put_stream(self, request: Any, context: Any) -> Any:
        self.chunks.append(request)
        self._stream_event(request.task_run_external_id, request.message, request.event_index)
        self._notify()
        return events_pb2.PutStreamEventResponse()

    # ---- wiring

    def _handlers(self) -> list[grpc.GenericRpcHandler]:
        d, e, w, v1 = dispatcher_pb2, events_pb2, workflows_pb2, v1_workflows_pb2
        services: dict[str, dict[str, Any]] = {
            "Dispatcher": {
                "Register": self._unary(self._register, d.WorkerRegisterRequest),
                "Listen": self._served(self._listen, d.WorkerListenRequest),
                "ListenV2": self._served(self._listen, d.WorkerListenRequest),
                "Heartbeat": self._unary(self._heartbeat, d.HeartbeatRequest),
                "SendStepActionEvent": self._unary(self._step_event, d.StepActionEvent),
                "SendBatchActionEvent": self._unary(self._batch_event, d.BatchActionEvent),
                "Unsubscribe": self._unary(self._unsubscribe, d.WorkerUnsubscribeRequest),
                "UpsertWorkerLabels": self._unary(self._labels, d.UpsertWorkerLabelsRequest),
                "RefreshTimeout": self._unary(self._refresh_timeout, d.RefreshTimeoutRequest),
                "ReleaseSlot": self._unary(self._release_slot, d.ReleaseSlotRequest),
                "GetVersion": self._unary(self._version, d.GetVersionRequest),
                "SubscribeToWorkflowRuns": self._both(self._subscribe_runs, d.SubscribeToWorkflowRunsRequest),
                "SubscribeToWorkflowEvents": self._served(
                    self._subscribe_events, d.SubscribeToWorkflowEventsRequest
                ),
            },
            "EventsService": {
                "Push": self._unary(self._push, e.PushEventRequest),
                "BulkPush": self._unary(self._bulk_push, e.BulkPushEventRequest),
                "PutLog": self._unary(self._put_log, e.PutLogRequest),
                "PutStreamEvent": self._unary(self._put_stream, e.PutStreamEventRequest),
            },
            "WorkflowService": {
                "TriggerWorkflow": self._unary(self._trigger_one, trigger_pb2.TriggerWorkflowRequest),
                "BulkTriggerWorkflow": self._unary(self._trigger_many, w.BulkTriggerWorkflowRequest),
                "ScheduleWorkflow": self._unary(self._schedule_workflow, w.ScheduleWorkflowRequest),
                "PutRateLimit": self._unary(self._put_rate_limit, w.PutRateLimitRequest),
                "PauseRateLimit": self._unary(self._pause_rate_limit, w.PauseRateLimitRequest),
            },
            "v1.AdminService": {
                "PutWorkflow": self._unary(self._put_workflow, v1.CreateWorkflowVersionRequest),
                "CancelTasks": self._unary(self._cancel_tasks, v1.CancelTasksRequest),
                "ReplayTasks": self._unary(self._replay_tasks, v1.ReplayTasksRequest),
                "GetRunDetails": self._unary(self._run_details, v1.GetRunDetailsRequest),
            },
        }
        if self.batched:
            services["broadaxe.v1.Engine"] = {
                "WorkerStream": self._both(self._worker_stream, stream_pb2.WorkerUp),
                "ClientStream": self._both(self._client_stream, stream_pb2.ClientUp),
            }
        return [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]

    def _checked(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            self.calls[method.__name__.lstrip("_")] += 1
            given = dict(context.invocation_metadata()).get("authorization", "")
            if self.token is not None and given != f"bearer {self.token}":
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "invalid auth token")
            if method.__name__.lstrip("_") in self.missing:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method")
            return await method(request, context)

        return call

    def _unary(self, method: Any, request: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._checked(method), request.FromString, _serialize)

    def _served(self, method: Any, request: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(self._checked(method), request.FromString, _serialize)

    def _both(self, method: Any, request: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._checked(method), request.FromString, _serialize)


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _uuid(kind: str, name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{kind}:{name.lower()}"))


def _quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # grpc.aio shares one wake-up socket between the loops of a process; the loop that loses the race reads nothing.
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
