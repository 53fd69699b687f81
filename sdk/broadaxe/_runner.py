"""Runs attempts: async tasks on the user's loop, synchronous ones in threads, each ending in exactly one report or none.

A runner lives on the user's loop, in the thread that started the worker. An attempt that was cancelled reports nothing: the
engine has ended it. What a task raises, `SystemExit` included, fails its attempt and never the worker.
"""

import asyncio
import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from broadaxe._batch_context import BatchContext, BatchMemberId
from broadaxe._context import Context, current_context
from broadaxe._depends import resolve_dependencies
from broadaxe._reports import failure, success, successes
from broadaxe._services import TaskServices
from broadaxe._validation import parse_input
from broadaxe._worker_link import Attempt, Batch, Delivery, Key, Report, WorkerLink, now_us

logger = logging.getLogger("broadaxe.worker")

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
            if attempt.task.batch is not None:  # by itself, as an engine may send the only one of a group
                attempt.batch = Batch(attempt.task, [attempt])
                self._start_batch(attempt.batch)
            elif attempt.task.is_async or attempt.task.dependencies:
                attempt.handle = self._loop.create_task(self._run(attempt))
            else:
                self._pool.submit(self.context.copy().run, self._run_in_thread, attempt)
        for batch in delivery.batches:
            self._take_batch(batch)
        for key in delivery.cancels:
            self._cancel(key)

    def _take_batch(self, batch: Batch) -> None:
        if batch.task.batch is None:  # it was a batch task when these were registered, and is none any more
            for attempt in batch.members:
                attempt.batch = None
            self.take(Delivery(batch.members, []))
            return
        for attempt in batch.members:
            self._running[attempt.key] = attempt
        self._start_batch(batch)

    def _start_batch(self, batch: Batch) -> None:
        if batch.task.is_async or batch.task.dependencies:
            batch.handle = self._loop.create_task(self._run_batch(batch))
        else:
            self._pool.submit(self.context.copy().run, self._run_batch_in_thread, batch)

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
        if attempt.batch is not None and not attempt.batch.is_cancelled:
            return  # the others go on
        job = attempt.batch or attempt
        if attempt.batch is not None and attempt.batch.context is not None:
            attempt.batch.context.interrupt()
        if job.handle is not None and not job.is_in_thread:
            # A task that has not begun ends without a single step of `_run`.
            job.handle.add_done_callback(lambda _: self._forget_all(job))
            job.handle.cancel()
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
            report = success(attempt, output, self._max_output_bytes)
            if context.has_chunks:
                await asyncio.wrap_future(self._services.delivered())
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - all that a task raises is its own failure
            report = failure(attempt, error, __file__)
        self._forget(attempt)
        if not attempt.is_cancelled:
            self._link.report(report)
            if not self._is_wake_due:
                self._is_wake_due = True
                self._loop.call_soon(self._wake_link)

    async def _call_with_dependencies(self, job: Attempt | Batch, value: Any, context: Context) -> Any:
        task = job.task
        async with resolve_dependencies(task.dependencies, value, context) as found:
            if task.is_async:
                return await task.fn(value, context, **found)
            if job.is_cancelled:
                raise asyncio.CancelledError
            job.is_in_thread = True
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
            report = success(attempt, output, self._max_output_bytes)
            if context.has_chunks:
                self._services.delivered().result()
        except BaseException as error:  # noqa: BLE001 - all that a task raises is its own failure
            report = failure(attempt, error, __file__)
        self._forget(attempt)
        if not attempt.is_cancelled:
            self._link.report(report)
            self._link.wake()

    # ---- a batch, either way

    async def _run_batch(self, batch: Batch) -> None:
        context, called, values = self._begin_batch(batch)
        reports: list[Report] = []
        try:
            if called:
                if batch.task.dependencies:
                    output = await self._call_with_dependencies(batch, values, context)
                else:
                    output = await batch.task.fn(values, context)
                reports = successes(batch, called, output, self._max_output_bytes, __file__)
                if context.has_chunks:
                    await asyncio.wrap_future(self._services.delivered())
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - all that a task raises is its own failure
            reports = [failure(member, error, __file__) for member in called]
        self._end_batch(batch, reports)

    def _run_batch_in_thread(self, batch: Batch) -> None:
        context, called, values = self._begin_batch(batch)
        reports: list[Report] = []
        if called:
            try:
                output = batch.task.fn(values, context)
                reports = successes(batch, called, output, self._max_output_bytes, __file__)
                if context.has_chunks:
                    self._services.delivered().result()
            except BaseException as error:  # noqa: BLE001 - all that a task raises is its own failure
                reports = [failure(member, error, __file__) for member in called]
        self._end_batch(batch, reports)

    def _begin_batch(self, batch: Batch) -> tuple[BatchContext, list[Attempt], dict[BatchMemberId, Any]]:
        """The context, and the members to call the function with: not those whose input does not fit, which fail alone."""
        contexts, called, values = [], [], {}
        failed = []
        for member in batch.members:
            contexts.append(self._begin(member))
            if member.is_cancelled:
                continue
            try:
                values[BatchMemberId(member.assignment.task_run_id)] = parse_input(
                    batch.task, member.assignment.input
                )
            except Exception as error:  # noqa: BLE001 - it is told in the member's report
                failed.append(failure(member, error, __file__))
            else:
                called.append(member)
        self._report_all(failed)
        batch.context = BatchContext(contexts)
        current_context.set(batch.context)
        return batch.context, called, values

    def _end_batch(self, batch: Batch, reports: list[Report]) -> None:
        self._forget_all(batch)
        self._report_all(reports)

    def _report_all(self, reports: list[Report]) -> None:
        for report in reports:
            if not report.attempt.is_cancelled:
                self._link.report(report)
        if reports:
            self._link.wake()

    # ---- all

    def _begin(self, attempt: Attempt) -> Context:
        context = Context(attempt.assignment, attempt.step, self._services, attempt.task)
        attempt.context = context
        # Looked at after the context can be found: a cancel in between sets the flag itself.
        if attempt.is_cancelled:
            context.exit_flag = True
        attempt.started_at_us = now_us()
        current_context.set(context)
        return context

    def _forget_all(self, job: Attempt | Batch) -> None:
        for attempt in job.members if isinstance(job, Batch) else (job,):
            self._forget(attempt)

    def _forget(self, attempt: Attempt) -> None:
        self._running.pop(attempt.key, None)
        if self._is_draining and not self._running:
            self._loop.call_soon_threadsafe(self._ended.set)
