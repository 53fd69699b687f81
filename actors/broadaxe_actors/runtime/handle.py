"""What the outside holds of an actor: its `Handle`, the methods on it, and the inbox behind both.

Knows nothing of tasks and touches no loop; `local.Runtime` drains the inboxes. The hot path of the whole engine is
`RemoteMethod.send`, so this module prefers few attribute reads over tidiness in two places, both marked.
"""

import asyncio
import difflib
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import pykka

from broadaxe_actors.runtime.errors import ActorStopped

if TYPE_CHECKING:
    from pykka._envelope import Envelope

    from broadaxe_actors.runtime.actor import Actor
    from broadaxe_actors.runtime.local import Lane, Runtime

A = TypeVar("A", bound="Actor")
A_co = TypeVar("A_co", bound="Actor", covariant=True)
T = TypeVar("T")

Message = tuple["RemoteMethod", tuple[Any, ...], "asyncio.Future[Any] | None"]

STOPPED: deque[Message] = deque(maxlen=0)
"""The queue of every stopped actor: what is put there is gone, and that costs a sender nothing."""


class Inbox:
    """Messages for one actor, in order of arrival. Pykka's inbox protocol, without a thread behind it.

    `items` is None while the actor is idle, so that an idle actor does not pay for a queue (an empty deque is 624
    bytes), and `STOPPED` once it has stopped.
    """

    __slots__ = ("actor", "directory", "handle", "has_timers", "items", "key", "lane", "runtime")

    actor: "Actor | None"
    handle: "Handle[Any]"
    items: deque[Message] | None
    lane: "Lane"
    runtime: "Runtime"

    def __init__(self) -> None:
        self.actor = None
        self.items = None
        self.directory: Any = None
        self.key: Any = None
        self.has_timers = False

    def __len__(self) -> int:
        return len(self.items) if self.items else 0

    def put(self, envelope: "Envelope[Any]", /) -> None:
        """Take a message of Pykka's `tell`, `ask` or `stop`; inside a handler it waits in the outbox like any send."""
        future = envelope.reply_to
        reply = future.future if isinstance(future, LoopFuture) else None
        method = RemoteMethod(self, receive)
        if self.items is STOPPED and reply is not None:
            reply.set_exception(ActorStopped(f"{method} has stopped"))
        elif self.runtime.sends is None:
            self.runtime.deliver((method, (envelope.message,), reply))
        else:
            self.runtime.sends.append((method, (envelope.message,), reply))

    def get(self) -> NoReturn:
        """Refuse: only the runtime takes messages out, in order and within its time slice."""
        raise RuntimeError("an actor's inbox is drained by its Runtime; nothing else may take messages out")

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self.items


def receive(actor: "Actor", message: Any) -> Any:
    """Handle a message that came through Pykka's own reference: a proxy call, a stop, or `on_receive`."""
    return actor._handle_receive(message)  # noqa: SLF001 - Pykka's own dispatch, meant for actor types


class LoopFuture(pykka.Future[T]):
    """Pykka's future on an asyncio loop: to be awaited. `get` answers only once the result is there.

    Pykka's own future blocks the whole event loop when awaited or asked too early; this one refuses instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def get(self, *, timeout: float | None = None) -> T:
        if self._get_hook is not None:
            return super().get(timeout=timeout)
        if not self.future.done():
            raise RuntimeError(
                "the reply has not come yet, and waiting here would block the event loop: "
                "await the future, and call ActorRef.ask and ActorRef.stop with block=False"
            )
        return self.future.result()

    def set(self, value: T | None = None) -> None:
        self.future.set_result(value)  # type: ignore[arg-type]  # Pykka's signature: no value is None

    def set_exception(self, exc_info: Any = None) -> None:
        error = (exc_info or sys.exc_info())[1]
        self.future.set_exception(error if error is not None else RuntimeError("no exception given"))

    def __await__(self) -> Generator[Any, None, T]:
        if self._get_hook is not None:  # such as what ActorRef.stop returns: computed from another future
            return self.get()
        return (yield from self.future)


class RemoteMethod:
    """One handler of one actor, as others see it. Get it from a handle, keep it as long as you like."""

    __slots__ = ("_runtime", "function", "inbox")

    def __init__(self, inbox: Inbox, function: Callable[..., Any]) -> None:
        self.inbox = inbox
        self.function = function
        # A copy of inbox.runtime: one attribute read less in every send.
        self._runtime = inbox.runtime

    @property
    def handle(self) -> "Handle[Any]":
        """The handle of the actor."""
        return self.inbox.handle

    @property
    def name(self) -> str:
        """The handler's name."""
        return self.function.__name__

    def send(self, *args: Any) -> None:
        """Send one way. Inside a handler the message waits in the outbox until the handler returns.

        Messages of one sender to one receiver arrive in the order sent. A message to a stopped actor is dropped.
        Only from the loop's thread.
        """
        sends = self._runtime.sends
        if sends is not None:
            sends.append((self, args, None))
            return
        # Runtime.deliver, written out.
        items = self.inbox.items
        if items is not None:
            items.append((self, args, None))
        else:
            self._runtime.wake(self.inbox, (self, args, None))

    def remote(self, *args: Any) -> "asyncio.Future[Any]":
        """Ask, and await the future for the handler's return value.

        Raises, when awaited: what the handler raised (`errors.Refused` as a mere answer; anything else has also
        crashed the actor); `ActorStopped` when the actor stopped first. Raises `RuntimeError` inside a handler, where
        nothing can be awaited: use `send` and have the answer sent back.
        """
        runtime = self._runtime
        if runtime.sends is not None:
            raise RuntimeError(
                f"{self}.remote() was called inside a handler, which cannot await: "
                "use send(), and let the other actor send its answer back"
            )
        reply = runtime.loop.create_future()
        if self.inbox.items is STOPPED:
            reply.set_exception(ActorStopped(f"{self} was asked after its actor had stopped"))
        else:
            runtime.deliver((self, args, reply))
        return reply

    def __repr__(self) -> str:
        return f"<{self.function.__qualname__} of lane {self.inbox.lane.name!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} names a live actor and cannot be pickled: send plain values between processes"
        )


class Handle(Generic[A_co]):
    """A reference to an actor, safe to hold and pass on within the process: `handle.method.send(...)`.

    Handlers appear as attributes (`RemoteMethod`, made at first use and kept). A name that is no handler raises
    `AttributeError`. A handle outlives its actor: sends to a stopped actor are dropped. Pickles never.

    Every actor class has a handle class of its own, with a slot for each handler: 100,000 handles need no dictionaries.
    """

    __slots__ = ("__weakref__", "_inbox", "actor_class", "actor_name")

    def __init__(self, inbox: Inbox, actor_class: type[A_co], actor_name: str | None) -> None:
        self._inbox = inbox
        self.actor_class = actor_class
        self.actor_name = actor_name
        inbox.handle = self

    @property
    def is_alive(self) -> bool:
        """Whether the actor takes messages."""
        return self._inbox.items is not STOPPED

    @property
    def is_idle(self) -> bool:
        """Whether no message waits for the actor."""
        return not self._inbox.items

    def __getattr__(self, name: str) -> RemoteMethod:
        method = RemoteMethod(self._inbox, handler_of(self.actor_class, name))
        setattr(self, name, method)  # found without this method from now on
        return method

    def __repr__(self) -> str:
        name = f" {self.actor_name!r}" if self.actor_name else ""
        return f"<Handle of {self.actor_class.__name__}{name} in lane {self._inbox.lane.name!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} refers to a live actor and cannot be pickled: send plain values between processes"
        )


def handle_class_of(handlers: Iterable[str]) -> type[Handle[Any]]:
    """The handle class of an actor class with these handlers."""
    return type("Handle", (Handle,), {"__slots__": tuple(sorted(handlers)), "__module__": __name__})


def handler_of(actor_class: "type[Actor]", name: str) -> Callable[..., Any]:
    """The handler of that name. Raises `AttributeError`, with the nearest name, for anything that is none."""
    handlers = actor_class.handlers
    try:
        return handlers[name]
    except KeyError:
        near = difflib.get_close_matches(name, handlers, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"{actor_class.__name__} has no handler {name!r}{hint}") from None


def is_handler(name: str, value: object) -> bool:
    """Whether a class attribute is a handler: a plain public function."""
    return not name.startswith("_") and isinstance(value, FunctionType)
