"""What tasks say while they run: log lines and stream chunks on their way to the engine, and the bridge from `logging`.

Records of the `logging` package emitted inside a task go to that task's logs: a handler on the client's logger (the root logger
unless the client was given another) looks whose task is running. The SDK's own records never do.
"""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from broadaxe._context import current_context
from broadaxe.wire.stream_pb2 import LogLine, StreamChunk

logger = logging.getLogger("broadaxe.output")

WAITING_LIMIT = 100_000
"""Log lines and chunks kept while the engine is away; what comes after them is dropped, with a warning."""
BATCH = 1_000

T = TypeVar("T")


class OutputTransport(Protocol):
    """What sends lines and chunks; on the io loop."""

    def put_logs(self, lines: list[LogLine]) -> Awaitable[None]: ...
    def put_stream(self, chunks: list[StreamChunk]) -> Awaitable[None]: ...


class OutputSender:
    """Sends lines and chunks in the order given, many at a time. All methods but `_send` are for any thread."""

    def __init__(self, transport: OutputTransport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._lines: deque[LogLine] = deque()
        self._chunks: deque[StreamChunk] = deque()
        self._waiters: deque[Future[None]] = deque()
        self._is_scheduled = False
        self._sender: asyncio.Task[None] | None = None
        self._dropped = 0
        self._empty_context = contextvars.Context()

    def put_log(self, line: LogLine) -> None:
        self._put(self._lines, line)

    def put_chunk(self, chunk: StreamChunk) -> None:
        self._put(self._chunks, chunk)

    def drained(self) -> "Future[None]":
        """Ends when all that was put before has been sent; raises what sending it raised."""
        waiter: Future[None] = Future()
        self._waiters.append(waiter)
        self._schedule()
        return waiter

    def _put(self, queue: "deque[LogLine] | deque[StreamChunk]", item: LogLine | StreamChunk) -> None:
        if len(queue) >= WAITING_LIMIT:
            if self._dropped == 0:
                logger.warning(
                    "log lines or stream chunks are dropped: %d wait for the engine", WAITING_LIMIT
                )
            self._dropped += 1
            return
        queue.append(item)  # type: ignore[arg-type] # each caller gives the queue of its own kind
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon_threadsafe(self._start, context=self._empty_context)

    def _start(self) -> None:
        self._is_scheduled = False
        if self._sender is None or self._sender.done():
            self._sender = self._loop.create_task(self._send())

    async def _send(self) -> None:
        while self._lines or self._chunks or self._waiters:
            # Waiters first: all that a waiter waits for was put before it.
            waiters = _take(self._waiters, len(self._waiters))
            lines = _take(self._lines, len(self._lines))
            chunks = _take(self._chunks, len(self._chunks))
            error: Exception | None = None
            try:
                for start in range(0, len(chunks), BATCH):
                    await self._transport.put_stream(chunks[start : start + BATCH])
                for start in range(0, len(lines), BATCH):
                    await self._transport.put_logs(lines[start : start + BATCH])
            except Exception as caught:  # noqa: BLE001 - told to the log and to whoever waits; the sender goes on
                error = caught
                logger.warning(
                    "%d log lines and %d stream chunks were not sent: %s", len(lines), len(chunks), error
                )
            self._dropped = 0
            for waiter in waiters:
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(error)


def _take(queue: "deque[T]", count: int) -> "list[T]":
    return [queue.popleft() for _ in range(count)]


def show_logs(level: str | None) -> None:
    """Set the level of the SDK's own records, if one is given; and where nobody has set up `logging`, show them on standard error.

    Without that a worker would be mute: our handler on the root logger ends Python's own way of showing warnings that nobody handles.
    """
    own = logging.getLogger("broadaxe")
    if level is not None:
        own.setLevel(level)
    if not logging.getLogger().hasHandlers():
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        if level is None:
            own.setLevel(logging.INFO)


class TaskLogHandler(logging.Handler):
    """Sends the records that a task emits to the logs of its attempt."""

    def emit(self, record: logging.LogRecord) -> None:
        context = current_context.get()
        if context is None or record.name.partition(".")[0] == "broadaxe":
            return
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - the logging package's own way to tell of a record that cannot be formatted
            self.handleError(record)
            return
        context.put_log_line(text, _level(record.levelno), int(record.created * 1_000_000))


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "ERROR"
    if number >= logging.WARNING:
        return "WARN"
    return "INFO" if number >= logging.INFO else "DEBUG"
