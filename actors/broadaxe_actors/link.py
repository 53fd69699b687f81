"""`ShardLink`: the one port through which a gateway knows the engine.

Plain picklable tuples of `messages` travel in batches both ways, so that a gateway in another process is a matter of carrying
batches. May touch the runtime and the messages.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, Protocol

Batch = Sequence[Any]
"""Messages of `broadaxe_actors.messages`, in order."""


class ShardLink(Protocol):
    """A gateway's side of the port."""

    def submit(self, batch: Batch) -> None:
        """Send messages to the shard, in order. Does not wait."""
        ...

    def on_batch(self, callback: Callable[[Batch], None]) -> None:
        """Set who takes the shard's messages. Called on the shard's loop, never inside a handler."""
        ...


class LocalLink:
    """A link within one process. With `is_pickling` every batch goes through pickle, as tests demand."""

    def __init__(self, deliver: Callable[[Batch], None], *, is_pickling: bool = False) -> None:
        self._deliver = deliver
        self._is_pickling = is_pickling
        self._callback: Callable[[Batch], None] | None = None
        self._early: list[Any] = []

    def submit(self, batch: Batch) -> None:
        self._deliver(pickle.loads(pickle.dumps(batch)) if self._is_pickling else batch)  # noqa: S301 - our own bytes

    def on_batch(self, callback: Callable[[Batch], None]) -> None:
        self._callback = callback
        if self._early:
            early, self._early = self._early, []
            callback(early)

    def receive(self, batch: Batch) -> None:
        """What the shard sends. Kept until somebody listens."""
        if self._is_pickling:
            batch = pickle.loads(pickle.dumps(batch))  # noqa: S301 - our own bytes
        if self._callback is None:
            self._early.extend(batch)
        else:
            self._callback(batch)
