"""How many task runs wait for a place of a concurrency group, and how many hold one: by task, expression and key. Pure; read by task stats.

O(1) each; what is at zero is forgotten, so that reading takes as long as what is told.
"""

from collections.abc import Iterator
from typing import NamedTuple

Places = dict[tuple[str, str], dict[str, int]]
"""By expression and strategy: by key, how many."""


class GroupCounts(NamedTuple):
    """What is told of one expression of a task."""

    expression: str
    strategy: str
    keys: dict[str, int]


class FlowCounts:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: dict[str, Places] = {}
        self._held: dict[str, Places] = {}

    def wait(self, action: str, expression: str, strategy: str, key: str) -> None:
        """A task run begins to wait for a place."""
        _add(self._waiting, action, (expression, strategy), key)

    def unwait(self, action: str, expression: str, strategy: str, key: str) -> None:
        """It waits no more, for whatever reason. What is not known is ignored."""
        _remove(self._waiting, action, (expression, strategy), key)

    def hold(self, action: str, expression: str, strategy: str, key: str) -> None:
        """A task run has a place."""
        _add(self._held, action, (expression, strategy), key)

    def unhold(self, action: str, expression: str, strategy: str, key: str) -> None:
        """It has given the place up. What is not known is ignored."""
        _remove(self._held, action, (expression, strategy), key)

    def waiting(self, action: str) -> list[GroupCounts]:
        """Who waits, of one task."""
        return list(_told(self._waiting, action))

    def held(self, action: str) -> list[GroupCounts]:
        """Who holds, of one task."""
        return list(_told(self._held, action))

    def actions(self) -> set[str]:
        """Tasks of which anything is told."""
        return self._waiting.keys() | self._held.keys()


def _add(counts: dict[str, Places], action: str, place: tuple[str, str], key: str) -> None:
    places = counts.get(action)
    if places is None:
        places = counts[action] = {}
    keys = places.get(place)
    if keys is None:
        keys = places[place] = {}
    keys[key] = keys.get(key, 0) + 1


def _remove(counts: dict[str, Places], action: str, place: tuple[str, str], key: str) -> None:
    places = counts.get(action)
    keys = None if places is None else places.get(place)
    count = 0 if keys is None else keys.get(key, 0)
    if places is None or keys is None or not count:
        return
    if count > 1:
        keys[key] = count - 1
        return
    del keys[key]
    if not keys:
        del places[place]
        if not places:
            del counts[action]


def _told(counts: dict[str, Places], action: str) -> Iterator[GroupCounts]:
    for (expression, strategy), keys in counts.get(action, {}).items():
        yield GroupCounts(expression, strategy, dict(keys))
