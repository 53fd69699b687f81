"""What a task sees of its run: ids, metadata, parents' outputs, logs, streams, cancellation.

A context is made for one attempt and parses nothing until it is asked. What it needs of the worker it asks through
`TaskServices`, so that a test can make one without a worker (`Context.for_test`).
"""

import asyncio
import itertools
import json
from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, cast

from broadaxe._durations import duration_to_wire
from broadaxe.wire.stream_pb2 import Assignment, LogLine, StepInfo, StreamChunk

if TYPE_CHECKING:
    from broadaxe._task import Task

LOG_LINE_LIMIT = 10_000
"""Characters of one log line that the engine takes; what is longer is cut."""

current_context: ContextVar["Context | None"] = ContextVar("broadaxe_current_context", default=None)
"""The context of the attempt that runs here; None outside of tasks."""


class TaskServices(Protocol):
    """What a context asks of the worker that runs it. Futures are those of threads: safe to wait for anywhere."""

    @property
    def worker_id(self) -> str: ...
    @property
    def worker_labels(self) -> Mapping[str, str | int]: ...
    @property
    def lifespan(self) -> Any: ...

    def put_log(self, line: LogLine) -> None: ...
    def put_chunk(self, chunk: StreamChunk) -> None: ...
    def drained(self) -> "Future[None]":
        """Ends when every line and chunk given before has been sent; raises what sending them raised."""
        ...

    def delivered(self) -> "Future[None]":
        """Ends when the engine has got every chunk given before, or will not get it. Raises nothing."""
        ...

    def cancel(self, task_run_id: str, attempt: int) -> "Future[None]": ...
    def upsert_labels(self, labels: Mapping[str, str | int]) -> "Future[None]": ...
    def refresh_timeout(self, task_run_id: str, increment: str) -> "Future[None]": ...
    def release_slot(self, task_run_id: str) -> "Future[None]": ...


class WorkerContext:
    """The worker that runs a task, as the task sees it."""

    __slots__ = ("_services",)

    def __init__(self, services: TaskServices) -> None:
        self._services = services

    def id(self) -> str:
        """The worker's id, the same over reconnects and engine restarts."""
        return self._services.worker_id

    def labels(self) -> dict[str, str | int]:
        """The labels that the worker has now."""
        return dict(self._services.worker_labels)

    def upsert_labels(self, labels: Mapping[str, str | int]) -> None:
        """Add or replace labels of this worker; returns when the next message to the engine carries them.

        Blocks: inside an async task prefer `aio_upsert_labels`.
        """
        self._services.upsert_labels(labels).result()

    async def aio_upsert_labels(self, labels: Mapping[str, str | int]) -> None:
        """Add or replace labels of this worker."""
        await _awaitable(self._services.upsert_labels(labels))


class Context:
    """The context of one attempt, the second argument of every task."""

    __slots__ = (
        "_assignment",
        "_children",
        "_chunk_indexes",
        "_metadata",
        "_parents",
        "_services",
        "_step",
        "_task_run_errors",
        "_triggers",
        "exit_flag",
        "has_chunks",
    )

    def __init__(
        self,
        assignment: Assignment,
        step: StepInfo,
        services: TaskServices,
        *,
        task_run_errors: Mapping[str, str] | None = None,
    ) -> None:
        self._assignment = assignment
        self._step = step
        self._services = services
        self._task_run_errors = task_run_errors
        self._children: itertools.count[int] | None = None
        self._chunk_indexes: itertools.count[int] | None = None
        self._metadata: dict[str, Any] | None = None
        self._parents: dict[str, Any] | None = None
        self._triggers: dict[str, Any] | None = None
        self.exit_flag = False
        """True once the run was cancelled. A synchronous task looks at it and returns: a thread cannot be stopped."""
        self.has_chunks = False
        """The task put stream chunks: those who follow the stream must get them before its end."""

    @classmethod
    def for_test(
        cls,
        *,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the name that users of mock_run give
        additional_metadata: Mapping[str, Any] | None = None,
        parent_outputs: Mapping[str, Any] | None = None,
        retry_count: int = 0,
        lifespan: Any = None,
        task_name: str = "task",
    ) -> "Context":
        """A context without a worker: nothing leaves the process; cancelling sets the flag alone."""
        assignment = Assignment(
            task_run_id="00000000-0000-7000-8000-000000000000",
            attempt=retry_count,
            priority=1,
            input=json.dumps(dict(input or {}), default=str).encode(),
            metadata=json.dumps(dict(additional_metadata or {})).encode(),
            parents=json.dumps(dict(parent_outputs or {}), default=str).encode(),
        )
        step = StepInfo(action_id=f"mock:{task_name}", task_name=task_name)
        return cls(assignment, step, _NoServices(lifespan))

    # ---- who and where

    @property
    def task_run_id(self) -> str:
        """The id of this task run, the same over all its attempts."""
        return self._assignment.task_run_id

    @property
    def step_run_id(self) -> str:
        """The id of this task run, by its older name."""
        return self._assignment.task_run_id

    @property
    def workflow_run_id(self) -> str:
        """The id of the workflow run; for a workflow of one task it is the task run id."""
        return self._assignment.run_id or self._assignment.task_run_id

    @property
    def task_name(self) -> str:
        return self._step.task_name

    @property
    def action_id(self) -> str:
        return self._step.action_id

    @property
    def step_id(self) -> str:
        """The id of the task's definition in its workflow version."""
        return self._step.step_id

    @property
    def workflow_id(self) -> str | None:
        """The id of the workflow, the same over its versions."""
        return self._step.workflow_id or None

    @property
    def workflow_version_id(self) -> str | None:
        """The id of the version that this run was made from."""
        return self._step.workflow_version_id or None

    @property
    def retry_count(self) -> int:
        """How often the task was tried before: 0 in the first attempt."""
        return self._assignment.attempt

    @property
    def attempt_number(self) -> int:
        """The number of this attempt, counted from 1."""
        return self._assignment.attempt + 1

    @property
    def priority(self) -> int | None:
        """1 (low) to 3 (high)."""
        return self._assignment.priority or None

    @property
    def parent_task_run_id(self) -> str | None:
        """The task run that spawned this run, or None."""
        return self._assignment.parent_task_run_id or None

    @property
    def parent_workflow_run_id(self) -> str | None:
        """The run that spawned this run, or None. The wire carries the spawning task's id, as the original does."""
        return self._assignment.parent_task_run_id or None

    @property
    def child_index(self) -> int | None:
        return self._assignment.child_index if self._assignment.HasField("child_index") else None

    @property
    def child_key(self) -> str | None:
        return self._assignment.child_key if self._assignment.HasField("child_key") else None

    def next_child_index(self) -> int:
        """The index of the next child that this attempt spawns. From 0 in each attempt: a retry finds its children."""
        if self._children is None:
            self._children = itertools.count()
        return next(self._children)

    @property
    def worker(self) -> WorkerContext:
        """The worker that runs this attempt."""
        return WorkerContext(self._services)

    @property
    def worker_id(self) -> str:
        return self._services.worker_id

    @property
    def worker_labels(self) -> dict[str, str | int]:
        return dict(self._services.worker_labels)

    @property
    def lifespan(self) -> Any:
        """What the worker's lifespan yielded; None without one."""
        return self._services.lifespan

    # ---- what came with the run

    @property
    def workflow_input(self) -> dict[str, Any]:
        """The input as a dictionary. The task's first argument is the validated one."""
        return _object(self._assignment.input, "input", self._assignment.task_run_id)

    @property
    def additional_metadata(self) -> dict[str, Any]:
        """The metadata given with the run, and what the engine added."""
        if self._metadata is None:
            self._metadata = _object(self._assignment.metadata, "metadata", self._assignment.task_run_id)
        return self._metadata

    @property
    def triggers(self) -> dict[str, Any]:
        """What satisfied the conditions of this task, by their readable keys."""
        if self._triggers is None:
            self._triggers = _object(self._assignment.triggers, "triggers", self._assignment.task_run_id)
        return self._triggers

    @property
    def filter_payload(self) -> dict[str, Any]:
        """The payload of the event filter that started this run; empty without one."""
        return cast("dict[str, Any]", self.triggers.get("filter_payload") or {})

    @property
    def was_triggered_by_event(self) -> bool:
        return bool(self._assignment.triggering_event_id)

    @property
    def triggering_event_id(self) -> str | None:
        return self._assignment.triggering_event_id or None

    @property
    def triggering_event_key(self) -> str | None:
        return self._assignment.triggering_event_key or None

    # ---- the other tasks of the run

    @property
    def parents(self) -> dict[str, Any]:
        """Outputs of the finished tasks of this run, by task name, unvalidated."""
        if self._parents is None:
            self._parents = _object(self._assignment.parents, "parents", self._assignment.task_run_id)
        return self._parents

    def was_skipped(self, task: "Task[Any, Any]") -> bool:
        """Whether `task` of this run was skipped."""
        output = self.parents.get(task.name)
        return isinstance(output, dict) and output.get("skipped") is True

    def task_output(self, task: "Task[Any, Any]") -> Any:
        """The output of a parent task, as its own validator makes it.

        Raises ValueError when it was skipped, or has no output in this run.
        """
        if self.was_skipped(task):
            raise ValueError(
                f"task {task.name!r} was skipped in run {self.workflow_run_id}: it has no output"
            )
        if task.name not in self.parents:
            known = ", ".join(sorted(self.parents)) or "none"
            raise ValueError(
                f"task {task.name!r} has no output in run {self.workflow_run_id} (finished tasks: {known}); "
                f"declare it as a parent of {self.task_name!r}"
            )
        from broadaxe._validation import parse_output  # noqa: PLC0415 - it imports workflows, which import contexts

        return parse_output(task, json.dumps(self.parents[task.name]).encode())

    @property
    def task_run_errors(self) -> dict[str, str]:
        """In an on-failure task: the errors of the failed tasks, by task name."""
        return dict(self._task_run_errors or {})

    def get_task_run_error(self, task: "Task[Any, Any]") -> str | None:
        """In an on-failure task: the error of one task, or None if it did not fail."""
        return (self._task_run_errors or {}).get(task.name)

    def fetch_task_run_error(self, task: "Task[Any, Any]") -> str | None:
        """Deprecated name of `get_task_run_error`."""
        return self.get_task_run_error(task)

    # ---- what a task sends

    def log(self, line: str | Mapping[str, Any], raise_on_error: bool = False) -> None:
        """Send a line to the logs of this attempt; returns at once.

        A mapping is written as JSON. Lines past 10,000 characters are cut, empty ones are not sent. With
        `raise_on_error` the call waits until the line has been sent and raises what sending it raised.
        """
        text = line if isinstance(line, str) else json.dumps(line, default=str)
        self.put_log_line(text, "INFO")
        if raise_on_error:
            self._services.drained().result()

    def put_log_line(self, text: str, level: str, created_at_us: int = 0) -> None:
        """Send one line at a level of DEBUG, INFO, WARN or ERROR; the time is now when not given."""
        if not text:
            return
        self._services.put_log(
            LogLine(
                task_run_id=self._assignment.task_run_id,
                attempt=self._assignment.attempt,
                message=_encodable(text[:LOG_LINE_LIMIT]),
                level=level,
                created_at_us=created_at_us,
            )
        )

    def put_stream(self, data: str | bytes) -> None:
        """Send a chunk to those who follow this run's stream; returns at once. Chunks arrive in order, or not at all."""
        if self._chunk_indexes is None:
            self._chunk_indexes = itertools.count()
        self.has_chunks = True
        self._services.put_chunk(
            StreamChunk(
                task_run_id=self._assignment.task_run_id,
                attempt=self._assignment.attempt,
                message=data.encode() if isinstance(data, str) else data,
                index=next(self._chunk_indexes),
            )
        )

    async def aio_put_stream(self, data: str | bytes) -> None:
        """Send a chunk to those who follow this run's stream, and wait until it has left this process."""
        self.put_stream(data)
        await _awaitable(self._services.drained())

    # ---- what a task asks

    def done(self) -> bool:
        """Whether this run was cancelled."""
        return self.exit_flag

    def cancel(self) -> None:
        """Cancel this task run: it ends as CANCELLED, is not retried, and its output is dropped. Sets `exit_flag`."""
        self.exit_flag = True
        self._services.cancel(self._assignment.task_run_id, self._assignment.attempt).result()

    async def aio_cancel(self) -> None:
        """Cancel this task run; the engine then stops it at its next await."""
        self.exit_flag = True
        await _awaitable(self._services.cancel(self._assignment.task_run_id, self._assignment.attempt))

    def refresh_timeout(self, increment_by: str | timedelta) -> None:
        """Add to the execution timeout of this attempt, as a duration ("15s") or a timedelta.

        Raises the engine's refusal: an engine that does not know the call says so.
        """
        increment = duration_to_wire(increment_by, "increment_by")
        self._services.refresh_timeout(self._assignment.task_run_id, increment).result()

    async def aio_refresh_timeout(self, increment_by: str | timedelta) -> None:
        """Add to the execution timeout of this attempt. As `refresh_timeout`."""
        increment = duration_to_wire(increment_by, "increment_by")
        await _awaitable(self._services.refresh_timeout(self._assignment.task_run_id, increment))

    def release_slot(self) -> None:
        """Give the slot of this attempt to another task and go on running. Raises the engine's refusal."""
        self._services.release_slot(self._assignment.task_run_id).result()

    async def aio_release_slot(self) -> None:
        """Give the slot of this attempt to another task and go on running. Raises the engine's refusal."""
        await _awaitable(self._services.release_slot(self._assignment.task_run_id))


class _NoServices:
    """The services of a context that has no worker."""

    worker_id = "test-worker"

    def __init__(self, lifespan: Any) -> None:
        self.lifespan = lifespan
        self.worker_labels: dict[str, str | int] = {}

    def put_log(self, line: LogLine) -> None:
        pass

    def put_chunk(self, chunk: StreamChunk) -> None:
        pass

    def drained(self) -> "Future[None]":
        return _done()

    def delivered(self) -> "Future[None]":
        return _done()

    def cancel(self, task_run_id: str, attempt: int) -> "Future[None]":
        return _done()

    def upsert_labels(self, labels: Mapping[str, str | int]) -> "Future[None]":
        self.worker_labels.update(labels)
        return _done()

    def refresh_timeout(self, task_run_id: str, increment: str) -> "Future[None]":
        return _done()

    def release_slot(self, task_run_id: str) -> "Future[None]":
        return _done()


def _done() -> "Future[None]":
    future: Future[None] = Future()
    future.set_result(None)
    return future


async def _awaitable(future: "Future[None]") -> None:
    await asyncio.wrap_future(future)


def _object(text: bytes, what: str, task_run_id: str) -> dict[str, Any]:
    """The JSON object in `text`; what is empty or null is an empty one."""
    if not text:
        return {}
    value = json.loads(text)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(
            f"the {what} of task run {task_run_id} is a JSON {type(value).__name__}, not an object"
        )
    return value


def _encodable(text: str) -> str:
    """`text` with what UTF-8 cannot carry (lone surrogates) written as escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text
