"""Runs attempts: async tasks on the user's loop, synchronous ones in threads, each ending in exactly one report or none.

A runner lives on the user's loop, in the thread that started the worker. An attempt that was cancelled reports nothing: the
engine has ended it. What a task raises, `SystemExit` included, fails its attempt and never the worker.
"""

import asyncio
import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from broadaxe._context import Context, current_context
from broadaxe._depends import resolve_dependencies
from broadaxe._errors import NonRetryableException, PayloadTooLargeError, RetryAfterException, TaskRunError
from broadaxe._services import TaskServices
from broadaxe._validation import dump_output, parse_input
from broadaxe._worker_link import COMPLETED, FAILED, Attempt, Delivery, Key, Report, WorkerLink, now_us

logger = logging.getLogger("broadaxe.worker")

ERROR_CHARACTERS = 100_000
"""Of an error's message and of its traceback, each: what is longer loses its middle."""
STILL_RUNS_S = 5.0
"""So long after its cancel a task that still runs is told of."""
THREADS = 100_000
"""No limit: the engine counts slots, and a task that gave its slot back, or was cancelled and goes on, keeps its thread beside the
one that came after it. A thread is made when no idle one is left."""
MESSAGE_OVERHEAD = 1_024
"""Bytes of a message around one output."""


class Runner:
    """Runs what a link delivers and gives it the reports. Everything without a mark is for the user's loop."""

    def __init__(
        self,
        link: WorkerLink,
        services: TaskServices,
        *,
        loop: asyncio.AbstractEventLoop,
        max_output_bytes: int,
    ) -> None:
        self._link = link
        self._services = services
        self._loop = loop
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="broadaxe-task")
        self._max_output_bytes = max_output_bytes - MESSAGE_OVERHEAD
        self._running: dict[Key, Attempt] = {}
        self._is_wake_due = False
        self._ended = asyncio.Event()
        self._is_draining = False
        self.context = contextvars.copy_context()
        """What tasks see of context variables: those of the lifespan."""

    @property
    def running_count(self) -> int:
        return len(self._running)

    def take(self, delivery: Delivery) -> None:
        """Start and cancel what arrived in one message."""
        for attempt in delivery.starts:
            self._running[attempt.key] = attempt
            if attempt.task.is_async or attempt.task.dependencies:
                attempt.handle = self._loop.create_task(self._run(attempt))
            else:
                self._pool.submit(self.context.copy().run, self._run_in_thread, attempt)
        for key in delivery.cancels:
            self._cancel(key)

    def use(self, link: WorkerLink) -> None:
        """Report to another link from now on. Any thread; for a runner that has not been given anything yet."""
        self._link = link

    async def idle(self) -> None:
        """Wait until nothing runs, cancelled attempts included."""
        self._is_draining = True
        while self._running:
            self._ended.clear()
            await self._ended.wait()

    def close(self) -> None:
        """Free the threads. For an idle runner."""
        self._pool.shutdown(wait=False)

    def _cancel(self, key: Key) -> None:
        attempt = self._running.get(key)
        if attempt is None:
            return
        if attempt.context is not None:
            attempt.context.interrupt()
        if attempt.handle is not None and not attempt.is_in_thread:
            # A task that has not begun ends without a single step of `_run`.
            attempt.handle.add_done_callback(lambda _: self._forget(attempt))
            attempt.handle.cancel()
        self._loop.call_later(STILL_RUNS_S, self._warn_if_it_runs, attempt)

    def _warn_if_it_runs(self, attempt: Attempt) -> None:
        if self._running.get(attempt.key) is not attempt:
            return
        logger.warning(
            "task %s (run %s) was cancelled %g s ago and still runs: %s",
            attempt.task.name,
            attempt.assignment.task_run_id,
            STILL_RUNS_S,
            "it holds back its CancelledError"
            if attempt.task.is_async
            else "a thread cannot be stopped, it has to look at ctx.exit_flag",
        )

    # ---- an async attempt, or one with dependencies

    async def _run(self, attempt: Attempt) -> None:
        context = self._begin(attempt)
        task = attempt.task
        try:
            value = parse_input(task, attempt.assignment.input)
            if task.dependencies:
                output = await self._call_with_dependencies(attempt, value, context)
            else:
                output = await task.fn(value, context)
            report = self._success(attempt, output)
            if context.has_chunks:
                await asyncio.wrap_future(self._services.delivered())
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - all that a task raises is its own failure
            report = _failure(attempt, error)
        self._forget(attempt)
        if not attempt.is_cancelled:
            self._link.report(report)
            if not self._is_wake_due:
                self._is_wake_due = True
                self._loop.call_soon(self._wake_link)

    async def _call_with_dependencies(self, attempt: Attempt, value: Any, context: Context) -> Any:
        task = attempt.task
        async with resolve_dependencies(task.dependencies, value, context) as found:
            if task.is_async:
                return await task.fn(value, context, **found)
            if attempt.is_cancelled:
                raise asyncio.CancelledError
            attempt.is_in_thread = True
            here = contextvars.copy_context()
            return await self._loop.run_in_executor(
                self._pool, lambda: here.run(task.fn, value, context, **found)
            )

    def _wake_link(self) -> None:
        """Once a turn of the loop, whatever the number of attempts that ended in it."""
        self._is_wake_due = False
        self._link.wake()

    # ---- a synchronous attempt, in a thread of the pool

    def _run_in_thread(self, attempt: Attempt) -> None:
        if attempt.is_cancelled:  # while it waited for a thread
            self._forget(attempt)
            return
        context = self._begin(attempt)
        try:
            output = attempt.task.fn(parse_input(attempt.task, attempt.assignment.input), context)
            report = self._success(attempt, output)
            if context.has_chunks:
                self._services.delivered().result()
        except BaseException as error:  # noqa: BLE001 - all that a task raises is its own failure
            report = _failure(attempt, error)
        self._forget(attempt)
        if not attempt.is_cancelled:
            self._link.report(report)
            self._link.wake()

    # ---- both

    def _begin(self, attempt: Attempt) -> Context:
        context = Context(attempt.assignment, attempt.step, self._services, attempt.task)
        context.exit_flag = attempt.is_cancelled
        attempt.context = context
        attempt.started_at_us = now_us()
        current_context.set(context)
        return context

    def _success(self, attempt: Attempt, output: Any) -> Report:
        payload = dump_output(attempt.task, output)
        if len(payload) > self._max_output_bytes:
            raise PayloadTooLargeError(
                f"the output of task {attempt.task.name!r} has {len(payload)} bytes of JSON; a message to the engine may "
                f"have {self._max_output_bytes} (grpc_max_send_message_length)"
            )
        return Report(attempt, COMPLETED, payload)

    def _forget(self, attempt: Attempt) -> None:
        self._running.pop(attempt.key, None)
        if self._is_draining and not self._running:
            self._loop.call_soon_threadsafe(self._ended.set)


def _failure(attempt: Attempt, error: BaseException) -> Report:
    """The report of a failed attempt, with the traceback of the user's own frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    told = TaskRunError.from_exception(
        error.with_traceback(trace), attempt.assignment.task_run_id, attempt.task.name
    )
    told.exc, told.trace = _shortened(told.exc), _shortened(told.trace)
    return Report(
        attempt,
        FAILED,
        told.to_wire().encode("utf-8", "backslashreplace"),
        should_not_retry=isinstance(error, NonRetryableException | PayloadTooLargeError),
        retry_after_ms=error.after_ms if isinstance(error, RetryAfterException) else 0,
    )


def _shortened(text: str) -> str:
    if len(text) <= ERROR_CHARACTERS:
        return text
    half = ERROR_CHARACTERS // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
