"""For tests: one actor alone (`Probe`), and the check that no actor holds another's object.

A probe needs no loop, no journal and no timekeeper:

    probe = Probe(TenantQueue, tracker := peer("tracker"), lane="tenant")
    said = probe.call("slot_freed", "worker-1", 2)
    assert said.sends == [Sent(tracker, "propose", ("task-1", 0, "worker-1"))]
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from broadaxe_actors.runtime.actor import Actor
from broadaxe_actors.runtime.clock import Rng, SeededRng, VirtualClock
from broadaxe_actors.runtime.directory import Directory, KeyedMethod
from broadaxe_actors.runtime.handle import Handle, Inbox, RemoteMethod, handler_of
from broadaxe_actors.runtime.local import Lane, Runtime
from broadaxe_actors.runtime.outbox import Outbox

A = TypeVar("A", bound=Actor)

HELD_DEPTH = 6
"""How many containers and plain objects deep `assert_no_actor_objects` looks."""


class Sent(NamedTuple):
    """A message that left, or an effect that leaves after the commit."""

    to: Any
    """The handle of the receiver, or the key of a directory's actor."""
    method: str
    args: tuple[Any, ...]


class SetTimer(NamedTuple):
    """A timer that was set."""

    key: Any
    delay_us: int
    method: str
    args: tuple[Any, ...]


class Fetched(NamedTuple):
    """A fetch that was asked for."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    then: str
    context: Any


class Said(NamedTuple):
    """What one handler returned and said, each kind in order."""

    result: Any
    sends: list[Sent]
    records: list[Any]
    effects: list[Sent]
    """Sends that leave after the commit."""
    timers: list[SetTimer]
    cancelled: list[Any]
    """Keys of timers that were cancelled."""
    fetches: list[Fetched]
    stopped: list[Handle[Any]]
    spawned: list[Handle[Any]]
    """Actors spawned; what their constructors said is among the above."""
    is_retiring: bool

    @property
    def is_silent(self) -> bool:
        """Whether nothing was said at all."""
        return not self.is_retiring and not any(self[1:-1])


class _Silent(Runtime):
    """A runtime that delivers nothing, so that it needs no loop."""

    def _schedule(self) -> None:
        pass


class _AnyActor(Actor):
    """Stands for any actor: it has every handler that it is asked for."""


class _AnyHandlers(Mapping[str, Callable[..., Any]]):
    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise KeyError(name)

        def handler(*_args: Any) -> None:
            """Never run: a peer only stands for a receiver."""

        handler.__name__ = name
        return handler

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


class _AnyHandle(Handle[_AnyActor]):
    """Has a dictionary, to keep whatever method it is asked for."""


_AnyActor.handlers = _AnyHandlers()
_AnyActor.handle_class = _AnyHandle

_peers = _Silent(VirtualClock(), SeededRng())


class Probe(Generic[A]):
    """One actor, run a handler at a time; what it says is returned instead of sent.

    `clock` stands still until advanced, `actor` is the object itself, for looking at its state. A handler that raises raises
    here, and has said nothing.
    """

    def __init__(
        self,
        actor_class: type[A],
        *args: Any,
        lane: str = "",
        clock: VirtualClock | None = None,
        rng: Rng | None = None,
        **kwargs: Any,
    ) -> None:
        """`args` and `kwargs` are the constructor's; what that says is `self.born`."""
        self.clock = clock or VirtualClock()
        self.runtime: Runtime = _Silent(self.clock, rng or SeededRng())
        self.runtime.connect(journal=peer("journal"), timekeeper=peer("timekeeper"))

        def spawn() -> Handle[A]:
            return self.runtime.spawn(actor_class, *args, lane=lane, **kwargs)

        self.born = self._run(spawn)
        self.handle: Handle[A] = self.born.result

    @property
    def actor(self) -> A:
        """The actor's object. Raises `LookupError` once the actor has stopped."""
        actor = self.handle._inbox.actor  # noqa: SLF001 - the one place that may
        if actor is None:
            raise LookupError(f"{self.handle} has stopped")
        return actor  # type: ignore[return-value]

    def call(self, method: str, *args: Any) -> Said:
        """Run one handler, as if this message had come."""
        function = handler_of(self.handle.actor_class, method)
        actor = self.actor
        return self._run(lambda: function(actor, *args))

    def fire(self, timer: SetTimer) -> Said:
        """Run what a timer of this actor sends, when it is due: time advances by its delay."""
        self.clock.advance(timer.delay_us)
        return self.call(timer.method, *timer.args)

    def _run(self, function: Callable[[], Any]) -> Said:
        runtime = self.runtime
        outbox = Outbox()
        # Peers have no runtime of their own to speak of: what is sent to them belongs to the handler that runs.
        for each in (runtime, _peers):
            each.outbox, each.sends = outbox, outbox.sends
        try:
            result = function()
        finally:
            for each in (runtime, _peers):
                each.outbox = each.sends = None
        return _said(result, outbox, self.clock)


def peer(name: str, actor_class: type[Actor] | None = None, lane: str = "") -> Handle[Any]:
    """A handle of an actor that does not exist: messages to it are only recorded.

    With `actor_class` it has the handlers of that class, and no others; without, any.
    """
    inbox = Inbox()
    inbox.runtime = _peers
    inbox.lane = Lane(lane)
    actor_class = actor_class or _AnyActor
    return actor_class.handle_class(inbox, actor_class, name)


def _said(result: Any, outbox: Outbox, clock: VirtualClock) -> Said:
    parts = list(_flatten(outbox))
    changes = [change for part in parts for change in part.timers]
    return Said(
        result=result,
        sends=[_sent(method, args) for part in parts for method, args, _ in part.sends],
        records=[record for part in parts for record in part.records],
        effects=[_sent(method, args) for part in parts for method, args in part.effects],
        timers=[
            SetTimer(change.key, change.deadline_us - clock.monotonic(), change.method.name, change.args)
            for change in changes
            if change.deadline_us is not None
        ],
        cancelled=[change.key for change in changes if change.deadline_us is None],
        fetches=[
            Fetched(function, args, then.name, context)
            for part in parts
            for function, args, then, context in part.fetches
        ],
        stopped=[inbox.handle for part in parts for inbox in part.stops],
        spawned=[inbox.handle for part in parts for inbox in part.spawned],
        is_retiring=outbox.is_retiring,
    )


def _flatten(outbox: Outbox) -> Iterable[Outbox]:
    for _, nested in outbox.nested:
        yield from _flatten(nested)
    yield outbox


def _sent(method: RemoteMethod | KeyedMethod[Any], args: tuple[Any, ...]) -> Sent:
    return Sent(method.handle if isinstance(method, RemoteMethod) else method.key, method.name, args)


def assert_no_actor_objects(runtime: Runtime) -> None:
    """Raise `AssertionError` if any live actor holds the object of another actor, naming the path to it.

    Looks through attributes, slots, containers and bound methods, `HELD_DEPTH` deep; handles, directories and the runtime
    are where the search ends, because holding them is what actors are meant to do.
    """
    for actor in list(runtime.live_actors()):
        path = _path_to_actor(actor)
        if path is not None:
            raise AssertionError(
                f"{type(actor).__name__}{path[0]} is a {type(path[1]).__name__} object: "
                "an actor may hold another actor's handle, never its object"
            )


def _path_to_actor(owner: Actor) -> tuple[str, Actor] | None:
    seen: set[int] = {id(owner)}
    todo: deque[tuple[str, object, int]] = deque(
        (f".{name}", value, 1) for name, value in vars(owner).items()
    )
    while todo:
        path, value, depth = todo.popleft()
        if isinstance(value, Actor) and value is not owner:
            return path, value
        if id(value) in seen or isinstance(value, _ENDS) or depth > HELD_DEPTH:
            continue
        seen.add(id(value))
        todo.extend((path + step, part, depth + 1) for step, part in _parts(value))
    return None


_ENDS = (str, bytes, int, float, type, Handle, RemoteMethod, Directory, Inbox, Runtime)


def _parts(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield ".keys()", key
            yield f"[{key!r}]", part
    elif isinstance(value, list | tuple | deque):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif isinstance(value, set | frozenset):
        for part in value:
            yield "{...}", part
    elif callable(value):
        yield from _parts_of_function(value)
    yield from _attributes(value)


def _attributes(value: object) -> Iterable[tuple[str, object]]:
    for name, part in getattr(value, "__dict__", {}).items():
        yield f".{name}", part
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            yield f".{name}", getattr(value, name, None)


def _parts_of_function(value: object) -> Iterable[tuple[str, object]]:
    for cell in getattr(value, "__closure__", None) or ():
        yield ".__closure__", cell.cell_contents
    for name in (
        "__self__",
        "__defaults__",
        "func",
        "args",
        "keywords",
    ):  # the last three of functools.partial
        yield f".{name}", getattr(value, name, None)
