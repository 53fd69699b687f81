"""What waits to be written on one stream, and the set of streams that a server has open.

Knows nothing of gRPC. One task writes a stream; anything on the loop may put. Everything put while a write is under way
goes out with the next one, so batches grow with the load by themselves.
"""

import asyncio
import logging
from collections import deque
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from broadaxe_actors.errors import Code, EngineError, Refused
from broadaxe_gateway.tokens import Unauthenticated

logger = logging.getLogger("broadaxe.grpc")

T = TypeVar("T")

CLOSE_SECONDS = 2.0

token_of_call: ContextVar[str] = ContextVar("token_of_call", default="")
"""The id of the API token of the call that is being served; set by the guard."""


class Outlet(Generic[T]):
    """A queue with one reader. Bounds are the owner's: it compares `items` and `size` with them."""

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.size = 0
        """Bytes of what waits, as given to `put`."""
        self._is_ended = False
        self._error: EngineError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: T, size: int = 0) -> None:
        """Append. Dropped once the outlet has ended."""
        if self._is_ended:
            return
        self.items.append(item)
        self.size += size
        if self._waiter is not None:
            self.wake()

    def took(self, size: int) -> None:
        """The reader has taken `size` bytes off `items`."""
        self.size -= size

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def end(self, error: EngineError | None = None) -> None:
        """Nothing more comes. Without an error what waits is still read; with one, reading raises it at once."""
        if not self._is_ended or (error is not None and self._error is None):
            self._is_ended = True
            self._error = error
            if error is not None:
                # Never read: a writer stuck on a client that does not read must not hold it all.
                self.items.clear()
                self.size = 0
            self.wake()

    @property
    def is_ended(self) -> bool:
        return self._is_ended

    def raise_error(self) -> None:
        """Raise the error that the outlet ended with, if it did."""
        if self._error is not None:
            raise self._error

    async def wait(self) -> bool:
        """True when there is something to read, False at the end. Raises the error that the outlet ended with."""
        while True:
            self.raise_error()
            if self.items:
                return True
            if self._is_ended:
                return False
            await self.wait_change()

    async def wait_change(self) -> None:
        """Until the next `put`, `wake` or `end`."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class OpenStreams:
    """The streams that a server has open, so that it can end them before it stops."""

    def __init__(self) -> None:
        self._outlets: dict[Outlet[Any], str] = {}
        """With the id of the API token that each was opened with."""
        self._is_closed = False
        self._emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self._outlets)

    def add(self, outlet: "Outlet[Any]") -> None:
        """Raises `Refused` (UNAVAILABLE) when the server is stopping."""
        if self._is_closed:
            raise stopping()
        self._outlets[outlet] = token_of_call.get()

    def discard(self, outlet: "Outlet[Any]") -> None:
        self._outlets.pop(outlet, None)
        if not self._outlets:
            self._emptied.set()

    def end_revoked(self, token_id: str) -> None:
        """End the streams of an API token that counts no more."""
        for outlet, opened_with in list(self._outlets.items()):
            if opened_with == token_id:
                outlet.end(Unauthenticated(f"token {token_id} was revoked while its stream was open"))

    async def close(self) -> None:
        """End every stream with UNAVAILABLE, upon which clients come back, and wait until they have ended.

        A stream whose client does not read cannot be told; after `CLOSE_SECONDS` it is left to the server's stop.
        """
        self._is_closed = True
        for outlet in list(self._outlets):
            outlet.end(stopping())
        if self._outlets:
            self._emptied.clear()
            try:
                await asyncio.wait_for(self._emptied.wait(), CLOSE_SECONDS)
            except TimeoutError:
                logger.warning(
                    "%d streams did not end within %g s: their clients do not read",
                    len(self._outlets),
                    CLOSE_SECONDS,
                )


def stopping() -> Refused:
    return Refused(Code.UNAVAILABLE, "the server is stopping: connect again")
