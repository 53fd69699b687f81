"""Conditions on which a task of a workflow starts, is skipped or is cancelled, and how they are written on the wire."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from broadaxe._durations import duration_to_wire
from broadaxe._errors import DefinitionError
from broadaxe._types import Duration
from broadaxe.wire.v1.shared import condition_pb2 as wire

if TYPE_CHECKING:
    from broadaxe._task import Task


@dataclass(frozen=True)
class Condition:
    """Base of the three kinds."""


@dataclass(frozen=True)
class SleepCondition(Condition):
    """True once `duration` has passed."""

    duration: Duration
    readable_data_key: str | None = None


@dataclass(frozen=True)
class UserEventCondition(Condition):
    """True once an event with this key was pushed whose payload satisfies `expression` (CEL over `input`)."""

    event_key: str
    expression: str | None = None
    readable_data_key: str | None = None
    scope: str | None = None
    consider_events_since: datetime | None = None


@dataclass(frozen=True)
class ParentCondition(Condition):
    """True once a parent task has completed with an output that satisfies `expression` (CEL over `output`)."""

    parent: "Task[Any, Any]"
    expression: str | None = None
    readable_data_key: str | None = None


@dataclass(frozen=True)
class OrGroup:
    """Satisfied when any of its conditions is."""

    conditions: tuple[Condition, ...]


def or_(*conditions: Condition) -> OrGroup:
    """A group of conditions of which one suffices."""
    if not conditions:
        raise DefinitionError("or_() needs at least one condition")
    for condition in conditions:
        if not isinstance(condition, Condition):
            raise DefinitionError(f"or_() holds {condition!r}: expected conditions, one beside the other")
    return OrGroup(conditions)


Entries = Sequence[Condition | OrGroup]


def check_conditions(entries: object, what: str, where: str, parents: "Sequence[Task[Any, Any]]") -> None:
    """Refuse what the engine would refuse, or could never satisfy. Raises `DefinitionError`.

    what: the setting, such as `wait_for`. where: the task, as errors call it. parents: those that the task declares.
    """
    if isinstance(entries, Condition | OrGroup) or not isinstance(entries, Sequence):
        raise DefinitionError(f"{where}: {what} is {entries!r}: expected a list of conditions")
    for entry in entries:
        group = entry.conditions if isinstance(entry, OrGroup) else (entry,)
        for condition in group:
            _check(condition, f"{where}: {what}", parents)


def _check(condition: object, where: str, parents: "Sequence[Task[Any, Any]]") -> None:
    if isinstance(condition, SleepCondition):
        duration_to_wire(condition.duration, f"{where}: the duration of a SleepCondition")
    elif isinstance(condition, UserEventCondition):
        if not condition.event_key:
            raise DefinitionError(f"{where}: a UserEventCondition needs an event_key")
        _check_expression(condition.expression, f"{where}: the condition on event {condition.event_key!r}")
    elif isinstance(condition, ParentCondition):
        parent = condition.parent
        if parent not in parents:
            declared = ", ".join(repr(known.name) for known in parents) or "none"
            raise DefinitionError(
                f"{where}: a ParentCondition is on {getattr(parent, 'name', parent)!r}, which is not a parent of this task "
                f"(those are: {declared}): add it to parents=[...]"
            )
        _check_expression(condition.expression, f"{where}: the condition on parent {parent.name!r}")
    else:
        raise DefinitionError(
            f"{where} holds {condition!r}, which is no condition: use SleepCondition, UserEventCondition, ParentCondition or "
            "or_(...) of these"
        )


def _check_expression(expression: object, where: str) -> None:
    if expression is None:
        return
    if not isinstance(expression, str) or not expression.strip():
        raise DefinitionError(f"{where} has the expression {expression!r}: write one in CEL, or leave it out")


def conditions_to_wire(
    wait_for: Entries,
    skip_if: Entries,
    cancel_if: Entries,
    namespaced: Callable[[str], str],
) -> wire.TaskConditions | None:
    """All conditions of a task, checked before; each outside an `or_` is a group of its own. None without any."""
    out = wire.TaskConditions()
    for action, entries in ((wire.QUEUE, wait_for), (wire.SKIP, skip_if), (wire.CANCEL, cancel_if)):
        for entry in entries or ():
            group = str(uuid.uuid4())
            for condition in entry.conditions if isinstance(entry, OrGroup) else (entry,):
                _add(out, condition, action, group, namespaced)
    return out if wait_for or skip_if or cancel_if else None


def _add(
    out: wire.TaskConditions,
    condition: Condition,
    action: "wire.Action.ValueType",
    group: str,
    namespaced: Callable[[str], str],
) -> None:
    base = wire.BaseMatchCondition(action=action, or_group_id=group)
    if isinstance(condition, SleepCondition):
        duration = duration_to_wire(condition.duration, "the duration of a SleepCondition")
        base.readable_data_key = condition.readable_data_key or f"sleep:{duration}"
        out.sleep_conditions.add(base=base, sleep_for=duration)
    elif isinstance(condition, UserEventCondition):
        base.readable_data_key = condition.readable_data_key or condition.event_key
        base.expression = condition.expression or ""
        event = out.user_event_conditions.add(
            base=base, user_event_key=namespaced(condition.event_key), event_scope=condition.scope
        )
        if condition.consider_events_since is not None:
            event.consider_events_since.FromDatetime(condition.consider_events_since)
    elif isinstance(condition, ParentCondition):
        base.readable_data_key = condition.readable_data_key or condition.parent.name
        base.expression = condition.expression or ""
        out.parent_override_conditions.add(base=base, parent_readable_id=condition.parent.name)
