"""What ought to become of a task of a run: told from ends, events and the clock alone.

Written from behaviour-core 6.10 and from what `gates` promises in words; it calls none of the engine's code, expressions included: what each
text of `PARENT_EXPRESSIONS` and `EVENT_EXPRESSIONS` means is said here in Python.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations, groupby, permutations
from typing import Any, NamedTuple

from broadaxe_actors.definitions import TaskDefinition, duration_us
from broadaxe_storage.records import TaskRunState

PARENT_EXPRESSIONS: dict[str, Callable[[Any], bool]] = {
    "": lambda _output: True,
    "output.n > 5.0": lambda output: output["n"] > 5,
    "has(output.n) && output.n < 5.0": lambda output: "n" in output and output["n"] < 5,
    "has(output.l) && output.l.exists(x, x > 5.0)": lambda output: any(x > 5 for x in output.get("l", ())),
}
EVENT_EXPRESSIONS: dict[str, Callable[[Any], bool]] = {
    "": lambda _input: True,
    "input.n > 5.0": lambda payload: payload["n"] > 5,
    "input.who == 'a'": lambda payload: payload["who"] == "a",
    "input.who == 'b' && input.n > 5.0": lambda payload: payload["who"] == "b" and payload["n"] > 5,
    "has(input.l) && input.l.exists(x, x > 5.0)": lambda payload: any(x > 5 for x in payload.get("l", ())),
}
BROKEN = (TaskRunState.FAILED, TaskRunState.CANCELLED)


class Unclear(Exception):
    """An expression cannot be evaluated on an output."""


class End(NamedTuple):
    """How a parent ended, and when."""

    name: str
    state: int
    output: bytes | None
    at: int


class Pushed(NamedTuple):
    """An event that somebody pushed."""

    tenant_id: str
    key: str
    scope: str | None
    payload: Mapping[str, Any]


def may_be_slow(expression: str) -> bool:
    """Whether it has a macro: such are evaluated apart, so that their result comes a moment later."""
    return ".exists(" in expression


# ---------------------------------------------------------------- the parents' stage


def parents_say(task: TaskDefinition, ended: Mapping[str, End]) -> str:
    """OPEN, WAIT, QUEUE, SKIP, CANCEL or DEAD. Raises `Unclear`."""
    held = held_by_parents(task, ended)
    declares_skip = any(item["kind"] == "parent" and item["action"] == "SKIP" for item in task.conditions)
    if task.parents and not declares_skip and all(_was_skipped(ended.get(name)) for name in task.parents):
        return "SKIP"
    if _fires(task, "SKIP", held):
        return "SKIP"
    if any(end.state in BROKEN for end in ended.values()) or _fires(task, "CANCEL", held):
        return "CANCEL"
    waits = [item for item in task.conditions if item["kind"] != "parent"]
    missing = _groups(task, "QUEUE") - held["QUEUE"]
    if not missing:
        return "WAIT" if waits else "QUEUE"
    awaited = {item["or_group_id"] for item in task.conditions if item["kind"] == "parent"}
    awaited |= {f"parent {name}" for name in task.parents}
    if not missing & awaited:
        return "WAIT"
    if len(ended) < len(set(task.parents)):
        return "OPEN"
    hopeful = {item["or_group_id"] for item in waits if item["action"] == "QUEUE"}
    return "DEAD" if missing - hopeful else "WAIT"


def held_by_parents(task: TaskDefinition, ended: Mapping[str, End]) -> dict[str, set[str]]:
    """By action: groups that hold because of how parents ended. Raises `Unclear`."""
    held: dict[str, set[str]] = {"QUEUE": set(), "SKIP": set(), "CANCEL": set()}
    for name, end in ended.items():
        if end.state in BROKEN:
            continue
        conditions = [item for item in task.conditions if item["kind"] == "parent" and item["parent"] == name]
        for item in conditions:
            if _is_true(item["expression"], end):
                held[item["action"]].add(item["or_group_id"])
        if not any(item["action"] == "QUEUE" for item in conditions):
            held["QUEUE"].add(f"parent {name}")
    return held


def outcomes(
    task: TaskDefinition, ends: Sequence[End], kept: Iterable[str] = (), *, is_unordered: bool = False
) -> set[str]:
    """All that the parents may have decided, by the order in which they ended; FAIL where an expression could not be evaluated.

    `kept`: parents that had ended when this task began anew, in a replay: those count at one moment. `is_unordered`: some of their
    expressions are evaluated apart, and come when they come.
    """
    found: set[str] = set()
    kept = set() if is_unordered else set(kept)
    first = [end for end in ends if end.name in kept]
    later = sorted((end for end in ends if end.name not in kept), key=lambda end: (end.at, end.name))
    for order in _orders(later, is_unordered=is_unordered):
        moments = [*([first] if first else []), *order] or [[]]
        found |= _walk(task, moments)
    return found


def _walk(task: TaskDefinition, moments: Sequence[Sequence[End]]) -> set[str]:
    heard: dict[str, End] = {}
    for moment in moments:
        heard.update((end.name, end) for end in moment)
        try:
            verdict = parents_say(task, heard)
        except Unclear:
            # At one moment with others that decide, either may come first.
            return {"FAIL"} | (_without_unclear(task, heard) if len(moment) > 1 else set())
        if verdict != "OPEN":
            return {verdict}
    return {"OPEN"}


def _without_unclear(task: TaskDefinition, heard: Mapping[str, End]) -> set[str]:
    return {parents_say(task, _clear(task, heard))} - {"OPEN"}


def _clear(task: TaskDefinition, ended: Mapping[str, End]) -> dict[str, End]:
    """Without those on whose output an expression cannot be evaluated."""
    found = {}
    for name, end in ended.items():
        try:
            held_by_parents(task, {name: end})
        except Unclear:
            continue
        found[name] = end
    return found


def _orders(ends: Sequence[End], *, is_unordered: bool) -> Iterator[list[list[End]]]:
    """Ways in which these ends may have been heard: by time, those of one time in any order, or at once."""
    if is_unordered:
        for order in permutations(ends[:5]):
            yield [[end] for end in (*order, *ends[5:])]
        return
    ties = [list(group) for _, group in groupby(ends, key=lambda end: end.at)]
    yield ties
    if all(len(tie) == 1 for tie in ties):
        return
    choices: list[list[list[End]]] = [[]]
    for tie in ties:
        variants = [list(order) for order in permutations(tie)] if len(tie) <= 4 else [tie]
        choices = [[*prefix, *([end] for end in variant)] for prefix in choices for variant in variants][:500]
    yield from choices


def _groups(task: TaskDefinition, action: str) -> set[str]:
    groups = {item["or_group_id"] for item in task.conditions if item["action"] == action}
    if action == "QUEUE":
        awaited = {
            item["parent"]
            for item in task.conditions
            if item["kind"] == "parent" and item["action"] == "QUEUE"
        }
        groups |= {f"parent {name}" for name in task.parents if name not in awaited}
    return groups


def _fires(task: TaskDefinition, action: str, held: Mapping[str, set[str]]) -> bool:
    groups = _groups(task, action)
    return bool(groups) and groups <= held[action]


def _is_true(expression: str, end: End) -> bool:
    try:
        return PARENT_EXPRESSIONS[expression](_output_of(end))
    except KeyError as error:
        raise Unclear from error


def _output_of(end: End) -> Any:
    if end.state == TaskRunState.SKIPPED:
        return {"skipped": True}
    value = json.loads(end.output or b"{}")
    return value if isinstance(value, dict) else {}


def _was_skipped(end: End | None) -> bool:
    if end is None or end.state in BROKEN:
        return False
    return _output_of(end).get("skipped") is True


# ---------------------------------------------------------------- sleeps and events


def waits_of(task: TaskDefinition) -> list[Mapping[str, Any]]:
    """The sleeps and events of a task; the number of a wait is its place here."""
    return [item for item in task.conditions if item["kind"] != "parent"]


def waits_say(task: TaskDefinition, ended: Mapping[str, End], met: Iterable[int]) -> str:
    """OPEN, QUEUE, SKIP or CANCEL of a task in the second stage. An end that cannot be judged any more changes nothing."""
    ended = _clear(task, ended)
    held = held_by_parents(task, ended)
    waits = waits_of(task)
    for number in met:
        held[waits[number]["action"]].add(waits[number]["or_group_id"])
    if _fires(task, "SKIP", held):
        return "SKIP"
    if any(end.state in BROKEN for end in ended.values()) or _fires(task, "CANCEL", held):
        return "CANCEL"
    return "QUEUE" if _groups(task, "QUEUE") <= held["QUEUE"] else "OPEN"


def sleeps_over(task: TaskDefinition, since: int, now: int) -> set[int]:
    """Numbers of the sleeps that are over."""
    return {
        number
        for number, item in enumerate(waits_of(task))
        if item["kind"] == "sleep" and since + duration_us(item["sleep_for"]) <= now
    }


def events_met(task: TaskDefinition, events: Iterable[Pushed]) -> set[int]:
    """Numbers of the event waits that these events end."""
    events = list(events)
    return {
        number
        for number, item in enumerate(waits_of(task))
        if item["kind"] == "event" and any(fits(item, event) for event in events)
    }


def fits(condition: Mapping[str, Any], event: Pushed) -> bool:
    """Whether an event ends a wait."""
    if condition["event_key"] != event.key or condition["event_scope"] not in (None, event.scope):
        return False
    return _lets_through(condition["expression"], event.payload)  # an event of another shape ends nothing


def runs_of(
    event: Pushed,
    listeners: Mapping[str, Sequence[str]],
    filters: Mapping[str, Sequence[tuple[str, str]]],
) -> "Counter[tuple[str, int] | None]":
    """What an event starts: how many runs by each filter (workflow and number), and by none."""
    found: Counter[tuple[str, int] | None] = Counter()
    for name, triggers in listeners.items():
        if not any(fnmatchcase(event.key, trigger) for trigger in triggers):
            continue
        if name not in filters:
            found[None] += 1
        for number, (scope, expression) in enumerate(filters.get(name, ())):
            if scope == event.scope and _lets_through(expression, event.payload):
                found[name, number] += 1
    return found


def _lets_through(expression: str, payload: Mapping[str, Any]) -> bool:
    try:
        return EVENT_EXPRESSIONS[expression](payload)
    except KeyError:
        return False


def subsets(sure: set[int], possible: set[int]) -> Iterator[set[int]]:
    """Every set between these two."""
    open_ones = sorted(possible - sure)
    for count in range(len(open_ones) + 1):
        for chosen in combinations(open_ones, count):
            yield sure | set(chosen)
