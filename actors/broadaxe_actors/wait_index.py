"""Which event waits an event may end. Pure; `EventRouter` asks it.

A million waits for one key must not cost a million evaluations an event: waits whose expression demands that a path of the payload
equals a text are found by that text; only the others are looked at one by one.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from broadaxe_actors.cel import Expression


class Wait(NamedTuple):
    """One event that a task run waits for."""

    task_run_id: str
    attempt: int
    number: int
    """Of the wait among those of its task."""
    event_key: str
    scope: str | None
    """Only events of this scope count; None for any."""
    expression: Expression | None
    since: int
    """Events created at this time (microseconds since the epoch) or later count."""


class _Key:
    """The waits for one event key."""

    __slots__ = ("by_text", "others")

    def __init__(self) -> None:
        self.others: dict[tuple[str, int], Wait] = {}
        self.by_text: dict[tuple[str, ...], dict[str, dict[tuple[str, int], Wait]]] = {}
        """By path and text that its value must equal."""


class WaitIndex:
    """See the module."""

    def __init__(self) -> None:
        self._by_key: dict[str, _Key] = {}
        self._by_task_run: dict[str, list[Wait]] = {}

    def __len__(self) -> int:
        return sum(len(waits) for waits in self._by_task_run.values())

    def add(self, wait: Wait) -> None:
        """Add a wait; one of the same task run and number is replaced."""
        present = self._by_task_run.setdefault(wait.task_run_id, [])
        for old in [item for item in present if item.number == wait.number]:
            present.remove(old)
            self._discard(old)
        present.append(wait)
        self._place(wait)[wait.task_run_id, wait.number] = wait

    def drop(self, task_run_id: str) -> None:
        """A task run waits for nothing any more; unknown is fine."""
        for wait in self._by_task_run.pop(task_run_id, ()):
            self._discard(wait)

    def of(self, task_run_id: str) -> tuple[Wait, ...]:
        """The waits of a task run."""
        return tuple(self._by_task_run.get(task_run_id, ()))

    def candidates(self, event_key: str, scope: str | None, payload: bytes) -> Iterator[Wait]:
        """Waits that this event may end; the expression of each has yet to be evaluated."""
        key = self._by_key.get(event_key)
        if key is None:
            return
        for wait in list(key.others.values()):
            if wait.scope is None or wait.scope == scope:
                yield wait
        if not key.by_text:
            return
        value = json.loads(payload or b"{}")
        for path, by_text in list(key.by_text.items()):
            found = _at(value, path)
            if isinstance(found, str):
                for wait in list(by_text.get(found, {}).values()):
                    if wait.scope is None or wait.scope == scope:
                        yield wait

    def _place(self, wait: Wait) -> dict[tuple[str, int], Wait]:
        key = self._by_key.setdefault(wait.event_key, _Key())
        demand = _demand(wait)
        if demand is None:
            return key.others
        path, text = demand
        return key.by_text.setdefault(path, {}).setdefault(text, {})

    def _discard(self, wait: Wait) -> None:
        key = self._by_key[wait.event_key]
        place = (wait.task_run_id, wait.number)
        demand = _demand(wait)
        if demand is None:
            del key.others[place]
        else:
            path, text = demand
            by_text = key.by_text[path]
            del by_text[text][place]
            if not by_text[text]:
                del by_text[text]
            if not by_text:
                del key.by_text[path]
        if not key.others and not key.by_text:
            del self._by_key[wait.event_key]


def _demand(wait: Wait) -> tuple[tuple[str, ...], str] | None:
    """The first path of the payload that must equal a text, with that text."""
    if wait.expression is not None:
        for path, literal in wait.expression.equality_conjuncts():
            names = tuple(name for name in path[1:] if isinstance(name, str))
            if path[0] == "input" and isinstance(literal, str) and len(names) == len(path) - 1:
                return names, literal
    return None


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value
