"""A worker: registers what it can run, runs it, and stops without losing any of it.

`start` blocks its thread, which becomes the thread of the user's loop. The connection lives on the client's io loop, so a task
that blocks the user's loop does not stop reports; heartbeats come from a process of their own. In the main thread SIGTERM and
SIGINT drain the worker, and a second signal ends the process at once.
"""

import asyncio
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from broadaxe._errors import BroadaxeError, ConfigurationError
from broadaxe._worker_link import Registration, wire_labels
from broadaxe._worker_run import WorkerRun

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe
    from broadaxe._definition import BaseWorkflow
    from broadaxe._task import Task

logger = logging.getLogger("broadaxe.worker")

DEFAULT_SLOTS = 100
DEFAULT_DURABLE_SLOTS = 1000
NAME_LETTERS = re.compile(r"[A-Za-z0-9._-]+")
SECOND_SIGNAL_EXIT_CODE = 1

LifespanFn = Callable[[], AsyncGenerator[Any, None]]


class Worker:
    """Runs the tasks of its workflows, at most `slots` at once. Made by `Broadaxe.worker`.

    slots: ordinary tasks at once; 100 when not given and any are registered.
    durable_slots: durable tasks at once, counted apart; 1,000 when not given and any are registered.
    labels: what tasks with desired worker labels look for.
    lifespan: an async generator function; what it yields is `ctx.lifespan` of every task, what follows the yield runs after the
    last task. If it raises before the yield, the worker does not start.
    """

    def __init__(
        self,
        client: "Broadaxe",
        name: str,
        *,
        slots: int | None = None,
        durable_slots: int | None = None,
        labels: Mapping[str, str | int] | None = None,
        workflows: "Sequence[BaseWorkflow[Any]]" = (),
        lifespan: LifespanFn | None = None,
    ) -> None:
        self._client = client
        self.name = client.namespace + name
        if not NAME_LETTERS.fullmatch(self.name):
            raise ConfigurationError(f"worker name {self.name!r}: only letters, digits and . _ - are allowed")
        for what, given in (("slots", slots), ("durable_slots", durable_slots)):
            if given is not None and given < 1:
                raise ConfigurationError(f"worker {self.name}: {what} is {given}, expected 1 or more")
        self._slots = slots
        self._durable_slots = durable_slots
        self._labels = dict(labels or {})
        wire_labels(self._labels)
        self._lifespan_fn = lifespan
        self._workflows: list[BaseWorkflow[Any]] = []
        self._tasks: dict[str, Task[Any, Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._stopped = threading.Event()
        self._stopped.set()
        self._run: WorkerRun | None = None
        self.register_workflows(list(workflows))

    # ---- before the start

    def register_workflow(self, workflow: "BaseWorkflow[Any]") -> None:
        """Add a workflow or standalone task. Raises when the worker has started, or the name is taken by another."""
        if not self._stopped.is_set():
            raise RuntimeError(f"worker {self.name} has started: register workflows before")
        if workflow in self._workflows:
            return
        for task in workflow.tasks:
            action = task.action_id.lower()
            if action in self._tasks:
                raise ConfigurationError(
                    f"worker {self.name} has a task {action!r} already: workflow and task names must differ"
                )
            self._tasks[action] = task
        self._workflows.append(workflow)

    def register_workflows(self, workflows: "Sequence[BaseWorkflow[Any]]") -> None:
        """Add workflows or standalone tasks."""
        for workflow in workflows:
            self.register_workflow(workflow)

    @property
    def slot_config(self) -> dict[str, int]:
        """Slots by pool, as registered."""
        has_durable = any(task.is_durable for task in self._tasks.values())
        has_ordinary = any(not task.is_durable for task in self._tasks.values())
        config: dict[str, int] = {}
        if has_ordinary or self._slots is not None:
            config["default"] = self._slots or DEFAULT_SLOTS
        if has_durable or self._durable_slots is not None:
            config["durable"] = self._durable_slots or DEFAULT_DURABLE_SLOTS
        return config

    # ---- life

    @property
    def id(self) -> str | None:
        """The id that the engine gave; None before the first connection."""
        return (self._run.link.worker_id or None) if self._run is not None else None

    @property
    def is_healthy(self) -> bool:
        """Connected to the engine, with heartbeats arriving."""
        run = self._run
        return run is not None and run.is_healthy

    def start(self) -> None:
        """Run until a signal, `stop`, or an error that waiting does not mend. Blocks; makes an event loop of its own.

        Raises what the engine refused (a definition, the token), or what the lifespan raised. While the server is away
        the worker waits for it.
        """
        asyncio.run(self.aio_start())

    async def aio_start(self) -> None:
        """As `start`, on the running loop, which tasks then share."""
        if not self._stopped.is_set():
            raise RuntimeError(f"worker {self.name} runs already")
        if not self._tasks:
            raise ConfigurationError(
                f"worker {self.name} has no workflows: pass workflows=[...] or register them"
            )
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._stopped.clear()
        signals = _Signals(self)
        try:
            signals.install()
            await self._live()
        finally:
            signals.remove()
            self._stopped.set()
            self._run = None

    def stop(self, timeout: float | None = None) -> None:
        """Drain, from another thread, and wait (seconds, or for ever) until the worker has stopped."""
        self._ask_to_stop()
        if not self._stopped.wait(timeout):
            raise TimeoutError(f"worker {self.name} did not stop within {timeout} s: tasks still run")

    async def aio_stop(self) -> None:
        """Drain, and wait until the worker has stopped."""
        self._ask_to_stop()
        await asyncio.to_thread(self._stopped.wait)

    def _ask_to_stop(self) -> None:
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and not self._stopped.is_set():
            loop.call_soon_threadsafe(stopping.set)

    async def _live(self) -> None:
        assert self._stopping is not None
        settings = self._client.settings
        registration = Registration(
            name=self.name,
            slot_config=self.slot_config,
            tasks=self._tasks,
            labels={**settings.worker_preset_labels, **self._labels},
        )
        run = await WorkerRun.prepare(registration, self._workflows, settings, self._client.transport)
        self._run = run
        try:
            async with _Lifespan(self._lifespan_fn) as lifespan:
                run.begin(lifespan)
                try:
                    await run.until(self._stopping)
                    await run.drain()
                finally:
                    await run.end()
        finally:
            run.stop_threads()


class _Lifespan:
    """The user's async generator around the life of a worker."""

    def __init__(self, function: LifespanFn | None) -> None:
        self._generator = function() if function is not None else None

    async def __aenter__(self) -> Any:
        if self._generator is None:
            return None
        try:
            return await anext(self._generator)
        except StopAsyncIteration:
            raise BroadaxeError(
                "the lifespan ended without a yield: yield once, between set-up and teardown"
            ) from None

    async def __aexit__(self, *_: object) -> None:
        if self._generator is None:
            return
        try:
            await anext(self._generator)
        except StopAsyncIteration:
            return
        await self._generator.aclose()
        raise BroadaxeError("the lifespan yielded twice: yield once, between set-up and teardown")


class _Signals:
    """SIGTERM and SIGINT of the process, while a worker runs in its main thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._before: dict[int, Any] = {}
        self._count = 0

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not the loop's own handlers: those wait for a loop that a task may be blocking.
            self._before[number] = signal.signal(number, self._take)

    def remove(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            sys.stderr.write(
                f"worker {self._worker.name}: second signal, exiting at once; running tasks are given up\n"
            )
            sys.stderr.flush()
            os._exit(SECOND_SIGNAL_EXIT_CODE)
        self._worker._ask_to_stop()  # noqa: SLF001 - one class in two parts
