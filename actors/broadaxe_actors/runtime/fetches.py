"""What actors have asked to be awaited for them: one task each, ended with its actor."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from broadaxe_actors.runtime.handle import STOPPED, Inbox

if TYPE_CHECKING:
    from broadaxe_actors.runtime.outbox import Fetch


class Fetches:
    """The running fetches of all actors. Their outcomes are sent from outside of any handler, at once."""

    def __init__(self, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._loop = loop
        self._tasks: dict[Inbox, set[asyncio.Task[None]]] = {}

    def start(self, inbox: Inbox, fetch: "Fetch") -> None:
        """Await the fetch's function in a task, and send the outcome where the actor said."""
        task = self._loop().create_task(_run(inbox, fetch))
        self._tasks.setdefault(inbox, set()).add(task)

        def forget(done: "asyncio.Task[None]") -> None:
            tasks = self._tasks.get(inbox)
            if tasks is not None:
                tasks.discard(done)
                if not tasks:
                    del self._tasks[inbox]

        task.add_done_callback(forget)

    def cancel(self, inbox: Inbox) -> None:
        """End the fetches of an actor that has stopped."""
        for task in self._tasks.pop(inbox, ()):
            task.cancel()

    def is_busy(self, inbox: Inbox) -> bool:
        """Whether an actor waits for a fetch."""
        return inbox in self._tasks

    def running(self) -> list["asyncio.Task[None]"]:
        """The tasks of all actors."""
        return [task for tasks in self._tasks.values() for task in tasks]


async def _run(inbox: Inbox, fetch: "Fetch") -> None:
    function, args, then, context = fetch
    try:
        result = await function(*args)
    except asyncio.CancelledError as error:
        if inbox.items is STOPPED:  # by `cancel`
            raise
        then.send(context, None, error)
    except Exception as error:  # noqa: BLE001 - it travels to the actor that asked
        then.send(context, None, error)
    else:
        if inbox.items is not STOPPED:
            then.send(context, result, None)
            inbox.runtime.drain_now()
