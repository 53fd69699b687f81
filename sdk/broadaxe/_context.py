"""What a task sees of its run: ids, metadata, parents' outputs, logs, streams, cancellation.

A context is made for one attempt and parses nothing until it is asked. What it needs of the worker it asks through
`TaskServices`, so that a test can make one without a worker (`Context.for_test`).
"""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextvars import ContextVar
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, cast

from broadaxe._durations import duration_to_wire
from broadaxe._errors import TaskRunError
from broadaxe._options import StickyStrategy
from broadaxe._services import NoServices, TaskServices, WorkerContext, awaitable
from broadaxe._types import Duration, R
from broadaxe.wire.stream_pb2 import Assignment, LogLine, StepInfo, StreamChunk

if TYPE_CHECKING:
    from broadaxe._task import Task

T = TypeVar("T")

_wait_lock = Lock()

LOG_LINE_LIMIT = 10_000
"""Characters of one log line that the engine takes; what is longer is cut."""

current_context: ContextVar["Context | None"] = ContextVar("broadaxe_current_context", default=None)
"""The context of the attempt that runs here; None outside of tasks."""


class Context:
    """The context of one attempt, the second argument of every task."""

    __slots__ = (
        "_assignment",
        "_cancelled",
        "_children",
        "_chunk_indexes",
        "_is_slot_released",
        "_metadata",
        "_parents",
        "_services",
        "_step",
        "_task",
        "_triggers",
        "exit_flag",
        "has_chunks",
    )

    def __init__(
        self,
        assignment: Assignment,
        step: StepInfo,
        services: TaskServices,
        task: "Task[Any, Any] | None" = None,
    ) -> None:
        self._assignment = assignment
        self._step = step
        self._services = services
        self._task = task
        self._cancelled: Future[None] | None = None
        self._is_slot_released = False
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
        task: "Task[Any, Any] | None" = None,
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
        return cls(assignment, step, NoServices(lifespan), task)

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
    def workflow_name(self) -> str:
        """The name of the workflow, with its namespace; in lower case where only the action is known."""
        return self._task.workflow.name if self._task is not None else self._step.action_id.partition(":")[0]

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
    def max_attempts(self) -> int:
        """How many attempts the task's retries allow. `attempt_number` may pass it: lost workers and replays count there."""
        return self._task.retries + 1 if self._task is not None else 1

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
    def sticky_strategies(self) -> Mapping[str, StickyStrategy | None] | None:
        """Whether the workflows that the worker serves are sticky, by their names with the namespace; None without a worker."""
        return self._services.sticky_strategies

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
    def trigger_data(self) -> dict[str, Any]:
        """As `triggers`."""
        return self.triggers

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
        """Outputs of the finished tasks of this run, by task name, unvalidated; `{"skipped": True}` of a skipped one."""
        if self._parents is None:
            self._parents = _object(self._assignment.parents, "parents", self._assignment.task_run_id)
        return self._parents

    def was_skipped(self, task: "Task[Any, Any]") -> bool:
        """Whether `task` of this run was skipped."""
        output = self.parents.get(task.name)
        return isinstance(output, dict) and output.get("skipped") is True

    def task_output(self, task: "Task[Any, R]") -> R:
        """The output of a parent task, as its declared return type.

        Raises ValueError when it was skipped, or has no output in this run; `InvalidOutputError` when what it returned does
        not fit its declaration.
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

        return cast("R", parse_output(task, json.dumps(self.parents[task.name]).encode()))

    async def aio_task_output(self, task: "Task[Any, R]") -> R:
        """As `task_output`; nothing is waited for, as the outputs came with the task."""
        return self.task_output(task)

    @property
    def task_run_errors(self) -> dict[str, str]:
        """In an on-failure task: what the failed tasks raised (`Type: message`, then the traceback), by task name."""
        return {
            name: _joined(TaskRunError.from_wire(text))
            for name, text in self._assignment.task_run_errors.items()
        }

    def get_task_run_error(self, task: "Task[Any, Any]") -> TaskRunError | None:
        """In an on-failure task: the error of one task, or None if it did not fail.

        Its `exc_type`, `exc` and `trace` are those of the exception; `exc_type` is empty for the engine's own errors, such as
        a timeout.
        """
        text = self._assignment.task_run_errors.get(task.name)
        return None if text is None else TaskRunError.from_wire(text, task_name=task.name)

    def fetch_task_run_error(self, task: "Task[Any, Any]") -> str | None:
        """Deprecated: the text of `get_task_run_error`."""
        return self.task_run_errors.get(task.name)

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

    async def aio_log(self, line: str | Mapping[str, Any], raise_on_error: bool = False) -> None:
        """As `log`; with `raise_on_error` it awaits the sending."""
        self.log(line)
        if raise_on_error:
            await awaitable(self._services.drained())

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
                # Now, and not when it arrives: lines of `log` and of the logging package are shown in the order of their times.
                created_at_us=created_at_us or time.time_ns() // 1000,
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
        await awaitable(self._services.drained())

    # ---- what a task asks

    def done(self) -> bool:
        """Whether this run was cancelled."""
        return self.exit_flag

    @property
    def is_cancelled(self) -> bool:
        """Whether this run was cancelled."""
        return self.exit_flag

    def cancel(self) -> None:
        """Cancel this task run: it ends as CANCELLED, is not retried, and its output is dropped. Sets `exit_flag`.

        Returns when the engine has it. The function goes on until it returns.
        """
        self.exit_flag = True
        self._services.cancel(self._assignment.task_run_id, self._assignment.attempt).result()

    async def aio_cancel(self) -> None:
        """Cancel this task run, as `cancel`; the engine then stops it at its next await."""
        self.exit_flag = True
        await awaitable(self._services.cancel(self._assignment.task_run_id, self._assignment.attempt))

    def interrupt(self) -> None:
        """Set `exit_flag`, and end the waits of synchronous code. The worker calls it when the engine has cancelled the run."""
        self.exit_flag = True
        cancelled = self._cancelled
        if cancelled is not None and not cancelled.done():
            cancelled.set_result(None)

    def wait(self, future: "Future[T]") -> T:
        """Block until `future` has a result, or this run is cancelled.

        Then it raises `asyncio.CancelledError`, as an await in an async task does: `except Exception` does not hold it up.
        """
        with _wait_lock:
            if self._cancelled is None:
                self._cancelled = Future()
        if not self.exit_flag:
            waited: tuple[Future[Any], ...] = (future, self._cancelled)
            wait(waited, return_when=FIRST_COMPLETED)
        if future.done():
            return future.result()
        raise asyncio.CancelledError(
            f"run {self.workflow_run_id} was cancelled while task {self.task_name!r} waited for a result"
        )

    def refresh_timeout(self, increment_by: Duration) -> None:
        """Add to the execution timeout of this attempt: the new deadline is the old one and `increment_by` ("15s", timedelta).

        Raises the engine's refusal: an engine that does not know the call says so.
        """
        increment = duration_to_wire(increment_by, "increment_by", is_zero_allowed=False)
        self._services.refresh_timeout(self._assignment.task_run_id, increment).result()

    async def aio_refresh_timeout(self, increment_by: Duration) -> None:
        """Add to the execution timeout of this attempt. As `refresh_timeout`."""
        increment = duration_to_wire(increment_by, "increment_by", is_zero_allowed=False)
        await awaitable(self._services.refresh_timeout(self._assignment.task_run_id, increment))

    def release_slot(self) -> None:
        """Give the slot of this attempt to another task and go on running. Raises the engine's refusal.

        Nothing takes the slot again; and if the worker dies, the attempt is not given to another.
        """
        self._services.release_slot(self._assignment.task_run_id).result()
        self._is_slot_released = True

    async def aio_release_slot(self) -> None:
        """Give the slot of this attempt to another task and go on running. As `release_slot`."""
        await awaitable(self._services.release_slot(self._assignment.task_run_id))
        self._is_slot_released = True

    def takes_leave_of_slot(self) -> bool:
        """Whether a wait for other runs has to begin by releasing the slot. True at most once an attempt."""
        if self._is_slot_released or self._task is None or not self._task.releases_slot:
            return False
        self._is_slot_released = True
        return True

    def upsert_worker_labels(self, labels: Mapping[str, str | int]) -> None:
        """Add or replace labels of the worker. As `worker.upsert_labels`."""
        self.worker.upsert_labels(labels)

    async def aio_upsert_worker_labels(self, labels: Mapping[str, str | int]) -> None:
        """Add or replace labels of the worker. As `worker.aio_upsert_labels`."""
        await self.worker.aio_upsert_labels(labels)


def _joined(error: TaskRunError) -> str:
    return f"{error.summary}\n{error.trace}" if error.trace else error.summary


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
