"""Which workflows listen to an event key. Pure; `EventRouter` asks it.

A trigger is a key, or a pattern: `*` stands for any sequence of characters, also an empty one; everything else for itself, in this case of
letters. Source: behaviour-core 5.2.

Not every pattern is looked at for every key: patterns are found by what stands before their first `*` and after their last, one look-up for
each length that these have. Only the parts between several `*` are searched for.
"""

from collections.abc import Iterable
from typing import NamedTuple

ANY = "*"


class _Pattern(NamedTuple):
    """A pattern whose begin and end fit; `middle` stands between its outer `*`."""

    middle: tuple[str, ...]
    owners: dict[str, None]

    def fits(self, key: str, begin: int, end: int) -> bool:
        for part in self.middle:
            found = key.find(part, begin, end)
            if found < 0:
                return False
            begin = found + len(part)
        return True


class _BySize:
    """Things by a text, and how many texts there are of each length."""

    __slots__ = ("by_text", "sizes")

    def __init__(self) -> None:
        self.by_text: dict[str, dict[str, _Pattern]] = {}
        self.sizes: dict[int, int] = {}


class EventPatterns:
    """See the module. An owner is whoever listens, by name."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[str, ...]] = {}
        self._exact: dict[str, dict[str, None]] = {}
        self._by_begin: dict[str, _BySize] = {}
        self._begin_sizes: dict[int, int] = {}

    def set(self, owner: str, triggers: Iterable[str]) -> None:
        """What an owner listens to, in place of what it did before."""
        for trigger in self._of.pop(owner, ()):
            self._remove(owner, trigger)
        found = tuple(dict.fromkeys(triggers))
        if found:
            self._of[owner] = found
        for trigger in found:
            self._owners(trigger)[owner] = None

    def listeners(self, key: str) -> list[str]:
        """Who listens to events of this key, each once."""
        found = dict(self._exact.get(key, {}))
        length = len(key)
        for begin in self._begin_sizes:
            if begin > length:
                continue
            group = self._by_begin.get(key[:begin])
            if group is None:
                continue
            for size in group.sizes:
                end = length - size
                if begin <= end:
                    for pattern in group.by_text.get(key[end:], {}).values():
                        if not pattern.middle or pattern.fits(key, begin, end):
                            found.update(pattern.owners)
        return list(found)

    def _owners(self, trigger: str) -> dict[str, None]:
        """Who listens by this trigger; an empty dictionary that is kept for a new one."""
        if ANY not in trigger:
            return self._exact.setdefault(trigger, {})
        begin, middle, end = _parts(trigger)
        group = self._by_begin.get(begin)
        if group is None:
            group = self._by_begin[begin] = _BySize()
            _count(self._begin_sizes, len(begin), 1)
        patterns = group.by_text.get(end)
        if patterns is None:
            patterns = group.by_text[end] = {}
            _count(group.sizes, len(end), 1)
        if trigger not in patterns:
            patterns[trigger] = _Pattern(middle, {})
        return patterns[trigger].owners

    def _remove(self, owner: str, trigger: str) -> None:
        owners = self._owners(trigger)
        del owners[owner]
        if owners:
            return
        if ANY not in trigger:
            del self._exact[trigger]
            return
        begin, _, end = _parts(trigger)
        group = self._by_begin[begin]
        patterns = group.by_text[end]
        del patterns[trigger]
        if not patterns:
            del group.by_text[end]
            _count(group.sizes, len(end), -1)
        if not group.by_text:
            del self._by_begin[begin]
            _count(self._begin_sizes, len(begin), -1)


def _parts(trigger: str) -> tuple[str, tuple[str, ...], str]:
    begin, *middle, end = trigger.split(ANY)
    return begin, tuple(part for part in middle if part), end


def _count(sizes: dict[int, int], size: int, change: int) -> None:
    sizes[size] = sizes.get(size, 0) + change
    if not sizes[size]:
        del sizes[size]
