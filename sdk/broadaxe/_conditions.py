"""Conditions on which a task of a workflow starts, is skipped or is cancelled, and how they are written on the wire."""

import time
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
    return OrGroup(conditions)


def conditions_to_wire(
    wait_for: Sequence[Condition | OrGroup],
    skip_if: Sequence[Condition | OrGroup],
    cancel_if: Sequence[Condition | OrGroup],
    namespaced: Callable[[str], str],
) -> wire.TaskConditions | None:
    """All conditions of a task; each outside an `or_` is a group of its own. None without any."""
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
        base.readable_data_key = condition.readable_data_key or f"{condition.parent.name}:{time.time_ns()}"
        base.expression = condition.expression or ""
        out.parent_override_conditions.add(base=base, parent_readable_id=condition.parent.name)
    else:
        raise DefinitionError(
            f"{condition!r} is not a condition: use SleepCondition, UserEventCondition, ParentCondition or or_(...)"
        )
