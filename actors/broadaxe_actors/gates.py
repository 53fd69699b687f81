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

from collections.abc import Iterable, Mapping
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
    parent_set: frozenset[int]
    rules: Mapping[int, tuple[ParentRule, ...]]
    """By parent."""
    expressions: Mapping[int, tuple[cel.Expression, ...]]
    """By parent: those of its rules."""
    waits: tuple[WaitRule, ...]
    all_groups: tuple[int, int, int]
    """By action: one bit for each group. A group's number is the number of its bit."""
    wait_groups: int
    """Groups of QUEUE that a sleep or an event may fulfil, as bits."""
    parent_groups: int
    """Groups of QUEUE that a parent may fulfil."""
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

    def bits(self) -> tuple[int, int, int]:
        queue, skip, cancel = ((1 << len(numbers)) - 1 for numbers in self._numbers)
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
    parent_groups = _bits(
        rule.group for found in rules.values() for rule in found if rule.action == Action.QUEUE
    )
    wait_groups = _bits(rule.group for rule in waits if rule.action == Action.QUEUE)
    return Plan(
        parents=parents,
        parent_set=frozenset(parents),
        rules={parent: tuple(found) for parent, found in rules.items()},
        expressions={
            parent: tuple(rule.expression for rule in found if rule.expression is not None)
            for parent, found in rules.items()
        },
        waits=waits,
        all_groups=groups.bits(),
        wait_groups=wait_groups,
        parent_groups=parent_groups,
        group_names=tuple(groups.names),
        skips_with_parents=bool(parents)
        and not any(item["kind"] == "parent" and item["action"] == "SKIP" for item in task.conditions),
        is_on_failure=task is definition.on_failure_task,
    )


def _bits(numbers: Iterable[int]) -> int:
    bits = 0
    for number in numbers:
        bits |= 1 << number
    return bits


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
    """What the parents of one task of one run have decided so far. Groups that hold are bits, by action."""

    __slots__ = ("_ended", "_has_failed_parent", "_held", "_open", "_skipped", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._ended = 0
        """One bit for each step that has ended."""
        self._open = len(plan.parents)
        self._held = [0, 0, 0]
        self._has_failed_parent = False
        self._skipped = 0

    def parent_ended(
        self, parent: int, state: TaskRunState, *, is_skipped: bool, results: Mapping[cel.Expression, bool]
    ) -> None:
        """A parent's end, with what the expressions on its output came to. `is_skipped`: by the engine, or by its own output."""
        bit = 1 << parent
        if self._ended & bit:
            return
        self._ended |= bit
        self._open -= 1
        if state in _LOST:
            self._has_failed_parent = True
            return
        self._skipped += is_skipped
        for rule in self.plan.rules[parent]:
            if rule.expression is None or results[rule.expression]:
                self._held[rule.action] |= 1 << rule.group

    def first_verdict(self) -> Verdict:
        """What the parents say."""
        plan = self.plan
        queue, skip, cancel = self._held
        if skip and skip == plan.all_groups[Action.SKIP]:
            return Verdict.SKIP
        if self._skipped and plan.skips_with_parents and self._skipped == len(plan.parents):
            return Verdict.SKIP
        if self._has_failed_parent or (cancel and cancel == plan.all_groups[Action.CANCEL]):
            return Verdict.CANCEL
        missing = plan.all_groups[Action.QUEUE] & ~queue
        if not missing:
            return Verdict.WAIT if plan.waits else Verdict.QUEUE
        if not missing & plan.parent_groups:
            return Verdict.WAIT
        if self._open:
            return Verdict.OPEN
        return Verdict.DEAD if missing & ~plan.wait_groups else Verdict.WAIT

    def second_verdict(self, met: set[int]) -> Verdict:
        """What parents and waits say together; `met` are the numbers of the waits that are over."""
        held = list(self._held)
        for number in met:
            rule = self.plan.waits[number]
            held[rule.action] |= 1 << rule.group
        queue, skip, cancel = self.plan.all_groups
        if skip and held[Action.SKIP] == skip:
            return Verdict.SKIP
        if self._has_failed_parent or (cancel and held[Action.CANCEL] == cancel):
            return Verdict.CANCEL
        return Verdict.QUEUE if held[Action.QUEUE] == queue else Verdict.OPEN

    def is_needed(self, rule: WaitRule) -> bool:
        """Whether a wait can still change anything: its group does not hold already."""
        return not self._held[rule.action] & (1 << rule.group)

    def dead_reason(self) -> str:
        """Why the task can never start."""
        unmet = self._missing() & ~self.plan.wait_groups
        names = [name for group, name in enumerate(self.plan.group_names) if unmet & (1 << group)]
        return f"it can never start: what it waits for did not come true ({'; '.join(names)})"

    def _missing(self) -> int:
        return self.plan.all_groups[Action.QUEUE] & ~self._held[Action.QUEUE]


_LOST = (TaskRunState.FAILED, TaskRunState.CANCELLED)
