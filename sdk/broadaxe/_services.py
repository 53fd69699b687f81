"""What the context of a task asks of the worker that runs it, and a stand-in for contexts that have no worker. No I/O of its own."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from broadaxe._options import StickyStrategy
from broadaxe.wire.stream_pb2 import LogLine, StreamChunk


class TaskServices(Protocol):
    """What a context asks of the worker that runs it. Futures are those of threads: safe to wait for anywhere."""

    @property
    def worker_id(self) -> str: ...
    @property
    def worker_labels(self) -> Mapping[str, str | int]: ...
    @property
    def lifespan(self) -> Any: ...
    @property
    def sticky_strategies(self) -> Mapping[str, StickyStrategy | None] | None:
        """Of each workflow that the worker serves, by its name with the namespace; None without a worker."""
        ...

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
        await awaitable(self._services.upsert_labels(labels))


class NoServices:
    """The services of a context that has no worker."""

    worker_id = "test-worker"
    sticky_strategies = None

    def __init__(self, lifespan: Any) -> None:
        self.lifespan = lifespan
        self.worker_labels: dict[str, str | int] = {}

    def put_log(self, line: LogLine) -> None:
        pass

    def put_chunk(self, chunk: StreamChunk) -> None:
        pass

    def drained(self) -> "Future[None]":
        return done()

    def delivered(self) -> "Future[None]":
        return done()

    def cancel(self, task_run_id: str, attempt: int) -> "Future[None]":
        return done()

    def upsert_labels(self, labels: Mapping[str, str | int]) -> "Future[None]":
        self.worker_labels.update(labels)
        return done()

    def refresh_timeout(self, task_run_id: str, increment: str) -> "Future[None]":
        return done()

    def release_slot(self, task_run_id: str) -> "Future[None]":
        return done()


def done() -> "Future[None]":
    future: Future[None] = Future()
    future.set_result(None)
    return future


async def awaitable(future: "Future[None]") -> None:
    await asyncio.wrap_future(future)
