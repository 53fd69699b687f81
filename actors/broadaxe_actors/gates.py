"""When a task of a run starts, is skipped or is cancelled: its conditions, in conjunctive normal form. Pure.

Each condition has an action (QUEUE, SKIP, CANCEL) and a group. A group holds as soon as one of its conditions does; an action fires when
all of its groups hold. When several fire at once SKIP goes before CANCEL, CANCEL before QUEUE (behaviour-core 6.10).

A task passes two stages. The first is decided by its parents; these conditions stand there by themselves, for each parent P:

    QUEUE   P completed or was skipped      a group a parent; a `wait_for` on P takes its place
    SKIP    all parents were skipped        any `skip_if` on a parent takes its place
    CANCEL  P failed or was cancelled       always, whatever else is declared

In the second stage sleeps run, from its beginning, and events count. A group may mix conditions of both stages: what its parents did
not decide, a sleep or an event may. A task without parents is in the second stage from its creation.

A `wait_for` that no parent and no wait can fulfil any more would wait for ever: the task is cancelled, and says why (`Verdict.DEAD`).
"""

from collections.abc import Mapping
from enum import Enum, IntEnum, auto
from typing import Any, NamedTuple

from broadaxe_actors import cel
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition, duration_us
from broadaxe_storage.records import TaskRunState


class Action(IntEnum):
    """What a condition is for."""

    QUEUE = 0
    SKIP = 1
    CANCEL = 2


class Verdict(Enum):
    """What the conditions say of a task."""

    OPEN = auto()
    """Nothing is decided yet."""
    WAIT = auto()
    """The parents are done with; sleeps and events decide."""
    QUEUE = auto()
    SKIP = auto()
    CANCEL = auto()
    DEAD = auto()
    """A condition to start can never be fulfilled."""


class ParentRule(NamedTuple):
    """A condition on how a parent ended."""

    action: Action
    group: int
    expression: cel.Expression | None = None
    """On its output. Without one the condition holds for a parent that completed or was skipped."""


class WaitRule(NamedTuple):
    """A sleep or a user event."""

    number: int
    """Place among the waits of its task; the key in `waits.Waits`."""
    action: Action
    group: int
    data_key: str
    sleep_for: str | None
    sleep_us: int
    event_key: str | None
    event_scope: str | None
    expression: cel.Expression | None


class Plan(NamedTuple):
    """The conditions of a task of a workflow version, prepared."""

    parents: tuple[int, ...]
    """Step indexes."""
    rules: Mapping[int, tuple[ParentRule, ...]]
    """By parent."""
    waits: tuple[WaitRule, ...]
    group_counts: tuple[int, int, int]
    """By action."""
    wait_groups: frozenset[int]
    """Groups of QUEUE that a sleep or an event may fulfil."""
    group_names: tuple[str, ...]
    """Of QUEUE, for people."""
    skips_with_parents: bool
    """The task is skipped when all of its parents were: no `skip_if` on a parent says otherwise."""
    is_on_failure: bool

    @property
    def has_event_waits(self) -> bool:
        return any(rule.event_key is not None for rule in self.waits)


class _Groups:
    """Gives groups their numbers, by action."""

    def __init__(self) -> None:
        self._numbers: tuple[dict[str, int], ...] = ({}, {}, {})
        self.names: list[str] = []

    def number(self, action: Action, name: str, text: str) -> int:
        numbers = self._numbers[action]
        if name not in numbers:
            numbers[name] = len(numbers)
            if action == Action.QUEUE:
                self.names.append(text)
        elif action == Action.QUEUE:
            self.names[numbers[name]] += f" or {text}"
        return numbers[name]

    def counts(self) -> tuple[int, int, int]:
        queue, skip, cancel = (len(numbers) for numbers in self._numbers)
        return queue, skip, cancel


def make_plan(definition: WorkflowDefinition, index: int) -> Plan:
    """Prepare the conditions of one task. The definition has passed `definitions.validate`."""
    task = definition.all_tasks[index]
    places = {other.name: place for place, other in enumerate(definition.tasks)}
    parents = tuple(places[name] for name in dict.fromkeys(task.parents))
    groups = _Groups()
    rules = _parent_rules(task, parents, places, groups)
    waits = tuple(
        _wait_rule(number, condition, groups)
        for number, condition in enumerate(item for item in task.conditions if item["kind"] != "parent")
    )
    return Plan(
        parents=parents,
        rules={parent: tuple(found) for parent, found in rules.items()},
        waits=waits,
        group_counts=groups.counts(),
        wait_groups=frozenset(rule.group for rule in waits if rule.action == Action.QUEUE),
        group_names=tuple(groups.names),
        skips_with_parents=bool(parents)
        and not any(item["kind"] == "parent" and item["action"] == "SKIP" for item in task.conditions),
        is_on_failure=task is definition.on_failure_task,
    )


def _parent_rules(
    task: TaskDefinition, parents: tuple[int, ...], places: Mapping[str, int], groups: _Groups
) -> dict[int, list[ParentRule]]:
    rules: dict[int, list[ParentRule]] = {parent: [] for parent in parents}
    names = {place: name for name, place in places.items()}
    awaited: set[int] = set()
    for condition in task.conditions:
        if condition["kind"] != "parent":
            continue
        parent = places[condition["parent"]]
        action = Action[condition["action"]]
        text = condition["expression"]
        name = f"parent {condition['parent']!r} with {text}" if text else f"parent {condition['parent']!r}"
        rules[parent].append(
            ParentRule(
                action,
                groups.number(action, condition["or_group_id"], name),
                expression=cel.compile(text, cel.Environment.PARENT_CONDITION) if text else None,
            )
        )
        if action == Action.QUEUE:
            awaited.add(parent)
    for parent in parents:
        if parent not in awaited:
            group = groups.number(Action.QUEUE, f"parent:{parent}", f"parent {names[parent]!r}")
            rules[parent].append(ParentRule(Action.QUEUE, group))
    return rules


def _wait_rule(number: int, condition: Mapping[str, Any], groups: _Groups) -> WaitRule:
    action = Action[condition["action"]]
    is_sleep = condition["kind"] == "sleep"
    text = condition["expression"]
    what = f"a sleep of {condition['sleep_for']}" if is_sleep else f"event {condition['event_key']!r}"
    return WaitRule(
        number=number,
        action=action,
        group=groups.number(action, condition["or_group_id"], what),
        data_key=condition["readable_data_key"],
        sleep_for=condition["sleep_for"] if is_sleep else None,
        sleep_us=duration_us(condition["sleep_for"]) if is_sleep else 0,
        event_key=None if is_sleep else condition["event_key"],
        event_scope=None if is_sleep else condition.get("event_scope"),
        expression=cel.compile(text, cel.Environment.EVENT_CONDITION) if text and not is_sleep else None,
    )


class Gate:
    """What the parents of one task of one run have decided so far."""

    __slots__ = ("_ended", "_has_failed_parent", "_held", "_skipped", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._ended: set[int] = set()
        self._held: tuple[set[int], set[int], set[int]] = (set(), set(), set())
        self._has_failed_parent = False
        self._skipped = 0

    def parent_ended(
        self, parent: int, state: TaskRunState, *, is_skipped: bool, results: Mapping[cel.Expression, bool]
    ) -> None:
        """A parent's end, with what the expressions on its output came to. `is_skipped`: by the engine, or by its own output."""
        if parent in self._ended:
            return
        self._ended.add(parent)
        if state in (TaskRunState.FAILED, TaskRunState.CANCELLED):
            self._has_failed_parent = True
            return
        self._skipped += is_skipped
        for rule in self.plan.rules[parent]:
            if rule.expression is None or results[rule.expression]:
                self._held[rule.action].add(rule.group)

    def first_verdict(self) -> Verdict:
        """What the parents say."""
        if self.plan.skips_with_parents and self._skipped == len(self.plan.parents):
            return Verdict.SKIP
        if self._fires(Action.SKIP, self._held[Action.SKIP]):
            return Verdict.SKIP
        if self._has_failed_parent or self._fires(Action.CANCEL, self._held[Action.CANCEL]):
            return Verdict.CANCEL
        plan = self.plan
        missing = plan.group_counts[Action.QUEUE] - len(self._held[Action.QUEUE])
        if not missing:
            return Verdict.WAIT if plan.waits else Verdict.QUEUE
        if len(self._ended) < len(plan.parents):
            return Verdict.OPEN
        return Verdict.DEAD if self._missing() - plan.wait_groups else Verdict.WAIT

    def second_verdict(self, met: set[int]) -> Verdict:
        """What parents and waits say together; `met` are the numbers of the waits that are over."""
        held = tuple(set(groups) for groups in self._held)
        for number in met:
            rule = self.plan.waits[number]
            held[rule.action].add(rule.group)
        if self._fires(Action.SKIP, held[Action.SKIP]):
            return Verdict.SKIP
        if self._fires(Action.CANCEL, held[Action.CANCEL]):
            return Verdict.CANCEL
        return (
            Verdict.QUEUE if len(held[Action.QUEUE]) == self.plan.group_counts[Action.QUEUE] else Verdict.OPEN
        )

    def is_needed(self, rule: WaitRule) -> bool:
        """Whether a wait can still change anything: its group does not hold already."""
        return rule.group not in self._held[rule.action]

    def dead_reason(self) -> str:
        """Why the task can never start."""
        names = self.plan.group_names
        unmet = "; ".join(names[group] for group in sorted(self._missing() - self.plan.wait_groups))
        return f"it can never start: what it waits for did not come true ({unmet})"

    def _missing(self) -> set[int]:
        return set(range(self.plan.group_counts[Action.QUEUE])) - self._held[Action.QUEUE]

    def _fires(self, action: Action, held: set[int]) -> bool:
        count = self.plan.group_counts[action]
        return count > 0 and len(held) == count
