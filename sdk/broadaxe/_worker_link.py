"""What both ways of working share: the attempts that a worker holds, and the reports that wait to be sent.

A link lives on the io loop of its client. Two other places touch it, by the methods marked "any thread": the runner on the
user's loop, and the threads of synchronous tasks. `_worker_stream.py` is the batched link, `_unary_worker.py` the link
to any server of the wire contract.
"""

import asyncio
import contextvars
import logging
import platform
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from broadaxe._errors import ServerUnavailableError
from broadaxe.wire import dispatcher_pb2, stream_pb2
from broadaxe.wire.stream_pb2 import Assignment, StepInfo

if TYPE_CHECKING:
    from broadaxe._batch_context import BatchContext
    from broadaxe._context import Context
    from broadaxe._task import Task

logger = logging.getLogger("broadaxe.worker")

STARTED = stream_pb2.REPORT_KIND_STARTED
COMPLETED = stream_pb2.REPORT_KIND_COMPLETED
FAILED = stream_pb2.REPORT_KIND_FAILED
CANCELLED = stream_pb2.REPORT_KIND_CANCELLED

STARTED_AFTER_US = 25_000
"""An attempt that ends sooner tells its start with its end: one report instead of two."""
SWEEP_S = 0.025
BACKOFF_FIRST_S = 0.05
BACKOFF_MOST_S = 3.0
"""Short, because a worker that is away longer than the engine needs to start again is idle for nothing."""

NOTICE_S = 30.0

FATAL_AT_START = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
)
"""Answers that waiting does not mend. Later ones do not stop a worker: what it holds may still be delivered."""

Key = tuple[str, int]
"""Task run id and attempt."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt that this worker was given. Plain fields, each written by one thread only."""

    task: "Task[Any, Any]"
    step: StepInfo
    assignment: Assignment
    started_at_us: int = 0
    """When the body began; 0 before."""
    is_ended: bool = False
    """Its terminal report waits or was sent."""
    is_cancelled: bool = False
    """Nothing more is reported of it."""
    context: "Context | None" = None
    handle: "asyncio.Task[None] | None" = None
    is_in_thread: bool = False
    """Its function has begun in a thread, which cannot be stopped."""
    call_details: Any = None
    """What the link needs to report it: the AssignedAction of a unary worker."""
    batch: "Batch | None" = None
    """The batch that it is a member of."""

    @property
    def key(self) -> Key:
        return (self.assignment.task_run_id, self.assignment.attempt)


@dataclass(slots=True, eq=False)
class Batch:
    """Attempts of a batch task that are run by one call of its function. Each is reported by itself."""

    task: "Task[Any, Any]"
    members: list[Attempt]
    batch_id: str = ""
    key: str = ""
    reason: str = ""
    """The engine's words for why it was sent now."""
    context: "BatchContext | None" = None
    handle: "asyncio.Task[None] | None" = None
    is_in_thread: bool = False

    @property
    def is_cancelled(self) -> bool:
        """No member is left that anybody waits for."""
        return all(member.is_cancelled for member in self.members)


class Report(NamedTuple):
    """What is to be told of one attempt."""

    attempt: Attempt
    kind: "stream_pb2.ReportKind.ValueType"
    payload: bytes = b""
    should_not_retry: bool = False
    retry_after_ms: int = 0
    acknowledged: "Future[None] | None" = None
    """Ends when the engine has committed the report."""


class Delivery(NamedTuple):
    """What arrived in one message: handed to the runner at once."""

    starts: list[Attempt]
    cancels: list[Key]
    batches: Sequence[Batch] = ()


@dataclass(frozen=True)
class Registration:
    """How a worker presents itself."""

    name: str
    slot_config: Mapping[str, int]
    tasks: Mapping[str, "Task[Any, Any]"]
    """By action id, in lower case as the engine names them."""
    labels: dict[str, str | int] = field(default_factory=dict)

    def wire_labels(self) -> dict[str, dispatcher_pb2.WorkerLabels]:
        return wire_labels(self.labels)


class WorkerLink(ABC):
    """The connection of one worker, kept for ever: it comes back after every failure with what it holds."""

    def __init__(
        self,
        registration: Registration,
        *,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Delivery], None],
        register_workflows: Callable[[], Awaitable[None]],
        on_worker_id: Callable[[str], None],
    ) -> None:
        self.registration = registration
        self.worker_id = ""
        self.is_connected = False
        self.welcomed = asyncio.Event()
        self._loop = loop
        self._deliver = deliver
        self._register_workflows = register_workflows
        self._on_worker_id = on_worker_id
        self._held: dict[Key, Attempt] = {}
        self._fresh: list[Attempt] = []
        self._outbox: deque[Report] = deque()
        self._something_to_send = asyncio.Event()
        self._is_wake_scheduled = False
        self._progress = asyncio.Event()
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._next_notice_at = 0.0
        self._empty_context = (
            contextvars.Context()
        )  # else callbacks of a task would run as that task, its logs included

    # ---- any thread

    def report(self, report: Report) -> None:
        """Put a report into the outbox. It leaves with the next `wake`, or within 25 ms."""
        if report.kind != STARTED:
            report.attempt.is_ended = True
        self._outbox.append(report)

    def wake(self) -> None:
        """Send what is in the outbox, on the next turn of the io loop."""
        if self._is_wake_scheduled:
            return
        self._is_wake_scheduled = True
        self._loop.call_soon_threadsafe(self._on_wake, context=self._empty_context)

    def cancel(self, key: Key) -> "Future[None]":
        """Tell the engine to cancel this attempt. Ends when the engine has committed it."""
        acknowledged: Future[None] = Future()
        attempt = self._held.get(key)
        if attempt is None or attempt.is_cancelled or attempt.is_ended:
            acknowledged.set_result(None)
            return acknowledged
        attempt.is_cancelled = True
        self.report(Report(attempt, CANCELLED, acknowledged=acknowledged))
        self.wake()
        return acknowledged

    @property
    def held_count(self) -> int:
        """Attempts that run, or whose end is not yet committed."""
        return len(self._held)

    # ---- the io loop

    async def run(self) -> None:
        """Register, and stay connected until `close`. Raises only what waiting does not mend, and only at the start."""
        delay = BACKOFF_FIRST_S
        is_registered = False
        while not self._is_closing:
            connected_at = time.monotonic()
            try:
                if not is_registered:
                    await self._register_workflows()
                    is_registered = True
                await self._session()
                reason = "the engine ended the stream"
            except ServerUnavailableError as error:
                reason = str(error)
            except grpc.aio.AioRpcError as error:
                if not self.welcomed.is_set() and error.code() in (
                    *FATAL_AT_START,
                    grpc.StatusCode.UNIMPLEMENTED,
                ):
                    raise
                reason = f"{error.code().name}: {error.details()}"
                if error.code() is grpc.StatusCode.NOT_FOUND and self.worker_id:
                    logger.warning(
                        "the engine does not know worker %s (%s): registering anew",
                        self.registration.name,
                        self.worker_id,
                    )
                    self.worker_id = ""
                    is_registered = False
            finally:
                self.is_connected = False
            if self._is_closing:
                return
            if time.monotonic() - connected_at > BACKOFF_MOST_S:
                delay = BACKOFF_FIRST_S
            self._tell_of_failure(reason)
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - spreads reconnects, guards nothing
            delay = min(delay * 2, BACKOFF_MOST_S)

    @abstractmethod
    async def _session(self) -> None:
        """Connect, present the worker, and exchange messages until the stream ends."""

    @abstractmethod
    async def pause(self) -> None:
        """Ask for no further assignments."""

    @abstractmethod
    async def close(self) -> None:
        """Say goodbye if connected, and end `run`."""

    @abstractmethod
    async def upsert_labels(self, labels: Mapping[str, str | int]) -> None:
        """Add or replace labels of this worker."""

    async def settle(self) -> None:
        """Wait until nothing is held: all has ended, and the engine has committed every end."""
        while self._held or self._outbox:
            self._progress.clear()
            await self._progress.wait()

    def _welcome(self, worker_id: str) -> None:
        if self.worker_id and worker_id != self.worker_id:
            logger.warning(
                "worker %s was %s and is %s now", self.registration.name, self.worker_id, worker_id
            )
        self.is_connected = True
        self.worker_id = worker_id
        self._next_notice_at = 0.0
        logger.info("worker %s is connected as %s", self.registration.name, worker_id)
        self.welcomed.set()
        self._on_worker_id(worker_id)

    def _tell_of_failure(self, reason: str) -> None:
        """Once at the start of an outage, then every 30 s."""
        now = time.monotonic()
        if now >= self._next_notice_at:
            self._next_notice_at = now + NOTICE_S
            logger.warning("worker %s is not connected (%s); it keeps trying", self.registration.name, reason)

    def _take(
        self,
        step: StepInfo,
        assignment: Assignment,
        call_details: Any = None,
    ) -> Attempt | None:
        """Hold a new attempt. None when it is held already, or when no task of this worker does it."""
        key = (assignment.task_run_id, assignment.attempt)
        if key in self._held:
            return None
        task = self.registration.tasks.get(step.action_id)
        attempt = Attempt(
            task,  # type: ignore[arg-type] # None is refused below, and needs an attempt to say so
            step,
            assignment,
            call_details=call_details,
        )
        self._held[key] = attempt
        if task is None:
            known = ", ".join(sorted(self.registration.tasks))
            text = f"UnknownAction: worker {self.registration.name} has no task for {step.action_id} (it has: {known})"
            self.report(Report(attempt, FAILED, text.encode()))
            self._something_to_send.set()
            return None
        self._fresh.append(attempt)
        self._arm_sweep()
        return attempt

    def _take_batch(
        self, batch_id: str, key: str, reason: str, members: Iterable[Attempt | None]
    ) -> list[Batch]:
        """A batch of the members that are to be run; none when there are none."""
        attempts = [attempt for attempt in members if attempt is not None]
        if not attempts:
            return []
        batch = Batch(attempts[0].task, attempts, batch_id, key, reason)
        for attempt in attempts:
            attempt.batch = batch
        return [batch]

    def _take_cancel(self, key: Key) -> None:
        attempt = self._held.pop(key, None)
        if attempt is not None:
            attempt.is_cancelled = True
            self._progress.set()

    def _committed(self, report: Report) -> None:
        """The engine has this report for good."""
        if report.kind != STARTED:
            self._held.pop(report.attempt.key, None)
            self._progress.set()
        if report.acknowledged is not None and not report.acknowledged.done():
            report.acknowledged.set_result(None)

    def _is_wanted(self, report: Report) -> bool:
        return not report.attempt.is_cancelled or report.kind == CANCELLED

    def _on_wake(self) -> None:
        self._is_wake_scheduled = False
        self._something_to_send.set()

    def _arm_sweep(self) -> None:
        if self._sweep_handle is None:
            self._sweep_handle = self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Report the start of what has been running for a while, and send what nobody woke us for.

        The latter is what ended before another task blocked the user's loop.
        """
        self._sweep_handle = None
        due_us = now_us() - STARTED_AFTER_US
        waiting = []
        for attempt in self._fresh:
            if attempt.is_ended or attempt.is_cancelled:
                continue
            if attempt.started_at_us == 0 or attempt.started_at_us > due_us:
                waiting.append(attempt)
            else:
                self._outbox.append(Report(attempt, STARTED))
        self._fresh = waiting
        if self._outbox or self._has_to_acknowledge():
            self._something_to_send.set()
        if self._held:
            self._arm_sweep()

    def _has_to_acknowledge(self) -> bool:
        return False


def now_us() -> int:
    return time.time_ns() // 1000


def runtime_info() -> dispatcher_pb2.RuntimeInfo:
    return dispatcher_pb2.RuntimeInfo(
        sdk_version=version("broadaxe"),
        language=dispatcher_pb2.PYTHON,
        language_version=platform.python_version(),
        os=platform.system().lower(),
    )


def wire_labels(labels: Mapping[str, str | int]) -> dict[str, dispatcher_pb2.WorkerLabels]:
    """Labels as the wire carries them. Raises TypeError or ValueError naming a label that it cannot carry."""
    wire = {}
    for key, value in labels.items():
        if isinstance(value, str):
            wire[key] = dispatcher_pb2.WorkerLabels(str_value=value)
        elif isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(
                f"worker label {key!r} is a {type(value).__name__}; labels are text or whole numbers"
            )
        elif not -(2**31) <= value < 2**31:
            raise ValueError(f"worker label {key!r} is {value}; whole numbers of labels have 32 bits")
        else:
            wire[key] = dispatcher_pb2.WorkerLabels(int_value=value)
    return wire
