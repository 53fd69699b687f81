"""What a handler has said and not yet sent."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from broadaxe_actors.runtime.handle import Inbox, Message


class TimerChange(NamedTuple):
    """One timer to set, or to cancel when `deadline_us` is None."""

    key: Any
    deadline_us: int | None
    """On the monotonic clock."""
    method: Any
    args: tuple[Any, ...]


Effect = tuple[Any, tuple[Any, ...]]
"""A method and its arguments: a send that waits for a commit."""

Fetch = tuple[Callable[..., Awaitable[Any]], tuple[Any, ...], Any, Any]
"""Coroutine function, its arguments, the method to send the outcome to, the context to send with it."""


class Outbox:
    """Everything that leaves when the handler returns, and nothing of which leaves when it raises."""

    __slots__ = (
        "effects",
        "fetches",
        "has_more",
        "is_retiring",
        "nested",
        "records",
        "sends",
        "spawned",
        "stops",
        "timers",
    )

    def __init__(self) -> None:
        self.sends: list[Message] = []
        self.records: list[Any] = []
        self.effects: list[Effect] = []
        self.timers: list[TimerChange] = []
        self.fetches: list[Fetch] = []
        self.stops: list[Inbox] = []
        self.spawned: list[Inbox] = []
        """Actors that came into being in this handler; they go again if it raises."""
        self.nested: list[tuple[Inbox, Outbox]] = []
        """What the constructors of `spawned` have said."""
        self.is_retiring = False
        self.has_more = False
        """Whether there is anything but sends: one test on the hot path instead of eight."""

    def clear(self) -> None:
        """Forget everything."""
        self.sends.clear()
        if self.has_more:
            self.records.clear()
            self.effects.clear()
            self.timers.clear()
            self.fetches.clear()
            self.stops.clear()
            self.spawned.clear()
            self.nested.clear()
            self.is_retiring = False
            self.has_more = False
