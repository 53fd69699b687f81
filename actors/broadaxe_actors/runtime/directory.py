"""Actors that exist one per key: activated by the first message, gone when they have nothing to hold.

Touches the runtime only. None of them is in Pykka's registry, whose un-registering is a linear scan.
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

from broadaxe_actors.runtime.handle import Handle
from broadaxe_actors.runtime.local import Runtime

K = TypeVar("K", bound=Hashable)


class Directory(Generic[K]):
    """Finds the actor of a key, or spawns it. May be held by actors: it holds handles only.

    An actor of a directory ends with `Actor.retire` (or `Directory.retire`), which only works on an empty inbox, so that
    no message is ever lost to a retirement; or by a stop or crash. The next send activates a fresh one.
    """

    def __init__(self, runtime: Runtime, factory: Callable[[K], Handle[Any]]) -> None:
        """`factory(key)` spawns the actor of that key and returns its handle."""
        self._runtime = runtime
        self._factory = factory
        self._handles: dict[K, Handle[Any]] = {}

    def send(self, key: K, method_name: str, /, *args: Any) -> None:
        """Send one way to the actor of that key, activating it if need be. As `RemoteMethod.send` otherwise."""
        getattr(self.activate(key), method_name).send(*args)

    def method(self, key: K, name: str) -> "KeyedMethod[K]":
        """A method to keep, in an effect or a timer: which actor gets the message is decided when it is sent."""
        return KeyedMethod(self, key, name)

    def activate(self, key: K) -> Handle[Any]:
        """The handle of the live actor of that key, spawned if there is none. Not to be kept: the actor may retire."""
        handle = self._handles.get(key)
        if handle is None:
            handle = self._factory(key)
            self._handles[key] = handle
            inbox = handle._inbox  # noqa: SLF001 - one package
            inbox.directory = self
            inbox.key = key
        return handle

    def get(self, key: K) -> Handle[Any] | None:
        """The live actor of that key, or None. Activates nothing."""
        return self._handles.get(key)

    def retire(self, key: K) -> bool:
        """Stop the actor of that key unless a message or a fetch waits for it. Returns whether it is gone.

        Outside of handlers only; an actor retires itself with `Actor.retire`.
        """
        handle = self._handles.get(key)
        if handle is None:
            return True
        return self._runtime.retire(handle)

    def forget(self, key: K) -> None:
        """Called by the runtime when the actor of that key has stopped."""
        self._handles.pop(key, None)

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[K]:
        return iter(tuple(self._handles))

    def __contains__(self, key: object) -> bool:
        return key in self._handles


class KeyedMethod(Generic[K]):
    """One handler of the actor of a key, whichever actor that is when a message is sent."""

    __slots__ = ("_directory", "key", "name")

    def __init__(self, directory: Directory[K], key: K, name: str) -> None:
        self._directory = directory
        self.key = key
        self.name = name

    def send(self, *args: Any) -> None:
        """Send one way, activating the actor if need be."""
        self._directory.send(self.key, self.name, *args)

    def __repr__(self) -> str:
        return f"<{self.name} of key {self.key!r}>"
