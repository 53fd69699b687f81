"""The thread on which every gRPC call of this process lives, with an event loop of its own.

Facts that shaped it:

- A task that blocks the user's loop, or has none, must not stop reports and results: so gRPC never runs on the user's loop.
- grpc.aio wakes all loops of a process through one socket. One loop for all clients keeps that quiet.
- gRPC does not survive a fork. Nothing starts at import; a thread is made at first use and again in a forked child, and a
  client that had connected before the fork refuses to be used after it.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

EXIT_SECONDS = 2.0

_lock = threading.Lock()
_current: "IoThread | None" = None


def io_thread() -> "IoThread":
    """The thread of this process, started if need be."""
    global _current  # noqa: PLW0603 - one a process is the point
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _current = IoThread()
        return _current


class IoThread:
    """A daemon thread running one event loop until the process ends."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(_on_loop_error)
        self._thread = threading.Thread(target=self._run, name="broadaxe-io", daemon=True)
        self._thread.start()
        atexit.register(self._stop_at_exit)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on this thread, where waiting for it would never end."""
        return threading.current_thread() is self._thread

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine here; the future may be waited for on any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Call a plain function here soon, in the order of posts."""
        self.loop.call_soon_threadsafe(function, *args)

    def _stop_at_exit(self) -> None:
        """End what still runs, so that the interpreter does not find it half done. Clients that were closed have nothing here."""
        if self.pid == os.getpid() and self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.create_task, self._cancel_all())
            self._thread.join(EXIT_SECONDS)

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self.loop.stop()


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Another loop of the process (the user's own grpc.aio server, say) read the byte that woke both: nothing is lost.
    if isinstance(context.get("exception"), BlockingIOError):
        return
    loop.default_exception_handler(context)
