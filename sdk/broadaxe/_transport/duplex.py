"""One bidirectional stream kept alive: connect, write what is ready, read, and begin anew when it breaks.

What is said on the stream is the peer's affair; here live only reconnecting and its limits.
"""

import asyncio
import logging
import math
import time
from typing import Any, Protocol

import grpc.aio

from broadaxe._transport.channel import Backoff
from broadaxe._transport.status import final_error

log = logging.getLogger("broadaxe")

CONNECT_SECONDS = 10.0
"""A stream on which nothing could be written for so long is given up and opened anew."""
STABLE_SECONDS = 10.0
"""A connected stream that lived so long counts as a success, even if the server had nothing to say."""
SETTLE_SECONDS = 1.0


class Peer(Protocol):
    """What a `Duplex` asks of its owner, all on the loop."""

    def open_call(self) -> Any:
        """A fresh stream call. What it must say first comes out of `next_message` again."""
        ...

    def next_message(self) -> Any | None:
        """What to write now, or None when there is nothing; called again after it was written."""
        ...

    def message_written(self) -> None:
        """The last `next_message` has left."""
        ...

    def received(self, message: Any) -> None: ...

    def has_work(self) -> bool:
        """Whether a broken stream is needed again at once."""
        ...

    def broken(self, error: grpc.aio.AioRpcError | None, away_seconds: float, *, was_connected: bool) -> bool:
        """The stream ended; None is a regular end. `away_seconds`: since the server last answered.

        True: connect again. False: the owner has given up this stream for good.
        """
        ...


class Duplex:
    """Runs a peer's stream from its first `wake` on.

    patience_s: a server that has been away for so long is tried then, whatever the back-off, so that the peer can give up in time.
    """

    def __init__(self, name: str, peer: Peer, patience_s: float) -> None:
        self._name = name
        self._peer = peer
        self._patience_s = patience_s
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._was_connected = False
        self._has_answered = False
        self._has_written = False
        """Something has left on this stream: it is connected."""
        self._away_since: float | None = None

    def wake(self) -> None:
        """There may be something to write."""
        self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=self._name)

    async def close(self) -> None:
        """End the stream; nothing is written or read after it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            if not self._peer.has_work():
                self._wake.clear()
                await self._wake.wait()
            started = time.monotonic()
            self._has_answered = self._has_written = False
            error = await self._serve()
            lived = time.monotonic() - started
            if self._has_answered or (self._has_written and lived > STABLE_SECONDS):
                self._was_connected = True
                self._away_since = None
                backoff.reset()
            elif self._away_since is None:
                self._away_since = started
            away = time.monotonic() - self._away_since if self._away_since is not None else 0.0
            if not self._peer.broken(error, away, was_connected=self._was_connected):
                return
            if self._peer.has_work():
                log.info(
                    "%s ended (%s); connecting again",
                    self._name,
                    error.details() if error else "by the server",
                )
            left = self._patience_s - away
            await backoff.wait(left if left > 0 else math.inf)

    def _connect_seconds(self) -> float:
        """How long this attempt to connect may take: not past the patience, unless that has run out already."""
        away = time.monotonic() - self._away_since if self._away_since is not None else 0.0
        left = self._patience_s - away
        return min(CONNECT_SECONDS, left) if left > 0 else CONNECT_SECONDS

    async def _serve(self) -> grpc.aio.AioRpcError | None:
        """One stream from start to end; returns how it ended, None for OK."""
        limit = self._connect_seconds()
        call = self._peer.open_call()
        reader = asyncio.ensure_future(self._read(call))
        writer = asyncio.ensure_future(self._write(call))
        both = {reader, writer}
        try:
            await asyncio.wait(both, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if self._has_written:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() or writer.done():
                # After a failed write the reader learns the status; it has it by now, or never will.
                await asyncio.wait({reader}, timeout=SETTLE_SECONDS)
            if reader.done() and isinstance(reader.exception(), grpc.aio.AioRpcError):
                return await final_error(call)
        finally:
            call.cancel()
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        return _outcome(reader, writer, limit)

    async def _read(self, call: Any) -> None:
        received = self._peer.received
        async for message in call:
            self._has_answered = True
            received(message)

    async def _write(self, call: Any) -> None:
        peer, wake = self._peer, self._wake
        while True:
            message = peer.next_message()
            if message is None:
                wake.clear()
                await wake.wait()
                continue
            await call.write(message)
            self._has_written = True
            peer.message_written()


def _outcome(
    reader: "asyncio.Task[None]", writer: "asyncio.Task[None]", limit: float
) -> grpc.aio.AioRpcError | None:
    """How a stream ended. What is no status of the server's is told as UNAVAILABLE, so that the stream is opened again."""
    for task in (reader, writer):
        if not task.cancelled() and isinstance(task.exception(), grpc.aio.AioRpcError):
            error = task.exception()
            assert isinstance(error, grpc.aio.AioRpcError)
            return error
    if not reader.cancelled() and reader.exception() is None:
        return None
    causes = [
        repr(task.exception()) for task in (reader, writer) if not task.cancelled() and task.exception()
    ]
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(),
        details="; ".join(causes) or f"no connection within {limit:.1f} s",
    )
