"""What an actor may do, and the rules for its handlers.

An actor is a Pykka actor whose inbox is drained on the asyncio loop. Every public method that a subclass defines is a
handler: a plain synchronous function, run to its end before the actor's next message. What a handler says (sends, records,
timers, fetches, stops) waits in the outbox and leaves when it returns; a handler that raises has said nothing.

An actor holds handles, never another actor's object: actors come into being through `Runtime.spawn` only.
"""

import functools
import inspect
import uuid
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, Protocol, Self

import pykka

from broadaxe_actors.runtime.clock import Clock, Rng
from broadaxe_actors.runtime.handle import STOPPED, Handle, Inbox, LoopFuture, handle_class_of, is_handler
from broadaxe_actors.runtime.outbox import Outbox, TimerChange

HOOKS = frozenset({"on_start", "on_stop", "on_failure", "on_receive"})


class Sendable(Protocol):
    """Where a message can be sent: `RemoteMethod`, or `KeyedMethod` of a directory."""

    def send(self, *args: Any) -> None: ...


class Actor(pykka.Actor):
    """Base of every actor.

    The constructor gets what `Runtime.spawn` was given; `me`, `clock`, `rng`, `lane` and the outbox are there already, and
    calling `super().__init__()` is allowed but not needed. What it says leaves when the constructor has returned (and, when
    it was spawned inside a handler, when that handler has returned). A constructor that raises raises at `spawn`.

    Hooks, all optional: `on_start` runs as the first message. `on_stop` runs when the actor is stopped, `on_failure` when
    it crashed; both run with an outbox, and an error in one is reported as a crash of that hook and stops nothing else.
    """

    handlers: ClassVar[Mapping[str, Callable[..., Any]]] = MappingProxyType({})
    """Every handler by name."""

    handle_class: ClassVar[type[Handle[Any]]] = Handle

    me: Handle[Self]
    clock: Clock
    rng: Rng
    lane: str
    """Whose turn the actor's messages take: the tenant id, or empty for the actors of the shard."""

    actor_inbox: Inbox

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        handlers: dict[str, Callable[..., Any]] = {}
        for base in reversed(cls.__mro__[1:]):  # an actor may be composed of several classes
            handlers.update(vars(base).get("handlers", {}))
        for name, value in vars(cls).items():
            if name in HOOKS or not is_handler(name, value):
                continue
            if name in RESERVED:
                raise TypeError(
                    f"{cls.__name__}.{name} hides a name that the runtime uses: give the handler another name"
                )
            if inspect.iscoroutinefunction(value) or inspect.isgeneratorfunction(value):
                raise TypeError(
                    f"{cls.__name__}.{name} is not a plain function: handlers run to their end without waiting; "
                    "use fetch() for what must be awaited"
                )
            handlers[name] = value
        cls.handlers = MappingProxyType(handlers)
        cls.handle_class = handle_class_of(handlers)

    def __new__(cls, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{cls.__name__} cannot be created directly, so that nobody holds an actor's object: "
            "use Runtime.spawn, which returns a handle"
        )

    def __init__(self) -> None:
        """Nothing: `Runtime.spawn` has already prepared the actor, without Pykka's 2 KB of locks and names."""

    # ------------------------------------------------------------ what a handler may say

    def record(self, record: Any) -> None:
        """Have the journal commit a record, after those recorded before in this lane."""
        runtime = self.actor_inbox.runtime
        outbox = runtime.outbox or self._outbox("record")
        if runtime.journal_append is None:
            raise RuntimeError("record() needs a journal: call Runtime.connect(journal=...) first")
        outbox.records.append(record)
        outbox.has_more = True

    def send_after_commit(self, method: Sendable, *args: Any) -> None:
        """Send once everything recorded in this handler, and everything earlier of this lane, is committed."""
        outbox = self._outbox("send_after_commit")
        if self.actor_inbox.runtime.journal_append is None:
            raise RuntimeError("send_after_commit() needs a journal: call Runtime.connect(journal=...) first")
        outbox.effects.append((method, args))
        outbox.has_more = True

    def set_timer(self, key: Any, delay_us: int, method: Sendable, *args: Any) -> None:
        """Send after `delay_us` microseconds, never earlier. Replaces this actor's timer of the same (hashable) key.

        A timer ends with its actor.
        """
        self._change_timer(TimerChange(key, self.clock.monotonic() + max(delay_us, 0), method, args))

    def cancel_timer(self, key: Any) -> None:
        """End this actor's timer of that key, if there is one.

        One that was due may be in the inbox already and is then still handled: a timer's handler checks its facts.
        """
        self._change_timer(TimerChange(key, None, None, ()))

    def fetch(
        self, function: Callable[..., Awaitable[Any]], *args: Any, then: Sendable, context: Any = None
    ) -> None:
        """After this handler, await `function(*args)` in a task, and send `then(context, result, None)`.

        When it raises, `then(context, None, error)` is sent instead. When the actor stops first, the task is
        cancelled and nothing is sent.
        """
        outbox = self._outbox("fetch")
        outbox.fetches.append((function, args, then, context))
        outbox.has_more = True

    def retire(self) -> None:
        """Stop after this handler, unless a message or a fetch of this actor waits: then nothing happens.

        Whoever sends through a `Directory` afterwards finds a fresh actor of the same key.
        """
        outbox = self._outbox("retire")
        outbox.is_retiring = True
        outbox.has_more = True

    def _change_timer(self, change: TimerChange) -> None:
        outbox = self._outbox("set_timer")
        if self.actor_inbox.runtime.timekeeper_apply is None:
            raise RuntimeError("timers need a timekeeper: call Runtime.connect(timekeeper=...) first")
        outbox.timers.append(change)
        outbox.has_more = True

    def _outbox(self, what: str) -> Outbox:
        outbox = self.actor_inbox.runtime.outbox
        if outbox is None:
            raise RuntimeError(f"{type(self).__name__}: {what}() works inside a handler only")
        return outbox

    # ------------------------------------------------------------ what Pykka asks of an actor type

    @staticmethod
    def _create_actor_inbox() -> Inbox:
        return Inbox()

    @staticmethod
    def _create_future() -> LoopFuture[Any]:
        return LoopFuture()

    def _start_actor_loop(self) -> None:
        """Join the runtime's loop: there is one for all actors, see `Runtime`."""
        self.actor_inbox.runtime.adopt(self.actor_inbox)

    def _stop(self) -> None:
        self.actor_inbox.runtime.stop(self.me)

    # Pykka makes these three for every actor; here they cost only those who ask for them.

    @functools.cached_property
    def _actor_ref(self) -> pykka.ActorRef[Self]:  # type: ignore[override]
        return pykka.ActorRef(self)

    @functools.cached_property
    def actor_urn(self) -> str:  # type: ignore[override]
        return uuid.uuid4().urn

    @functools.cached_property
    def actor_stopped(self) -> "StopFlag":  # type: ignore[override]
        return StopFlag(self.actor_inbox)


class StopFlag:
    """Pykka's stop event, read from the inbox: the runtime alone stops an actor."""

    __slots__ = ("_inbox",)

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def is_set(self) -> bool:
        """Whether the actor has stopped."""
        return self._inbox.items is STOPPED


RESERVED = frozenset(
    name
    for name in (*dir(Actor), *Actor.__annotations__, *dir(Handle), *Handle.__slots__)
    if not name.startswith("__")
)
"""Names that no handler may take."""
