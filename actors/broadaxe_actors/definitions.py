"""Definitions of workflows, as users register them: plain values, their JSON form and their checksum.

Pure. The checks are those of the wire document (behaviour-core 4.1); a definition that fails them raises
`InvalidDefinition` naming the workflow, the task and the field.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from broadaxe_actors import cel
from broadaxe_actors.errors import InvalidDefinition

NAME = re.compile(r"^[A-Za-z0-9._-]+$")
ACTION = re.compile(r"^[^:\s]+:[^:\s]+(:[^:\s]+)?$")
DURATION = re.compile(r"^(\d+(\.\d+)?(ms|s|m|h))+$")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_US = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}

DEFAULT_TIMEOUT = "5m"


def duration_us(text: str) -> int:
    """Microseconds of a duration such as `1h30m` or `500ms`. Raises `ValueError` for any other form."""
    if not DURATION.match(text):
        raise ValueError(
            f"duration {text!r} is not valid: expected one or more of <number><ms|s|m|h>, such as 90s or 1h30m"
        )
    return round(sum(float(n) * _UNIT_US[unit] for n, unit in _DURATION_PART.findall(text)))


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """One task (step) of a workflow."""

    name: str
    action: str
    """Action id, `workflow:task`, lower case: the key by which workers advertise and queues are kept."""
    execution_timeout: str = DEFAULT_TIMEOUT
    schedule_timeout: str = DEFAULT_TIMEOUT
    parents: tuple[str, ...] = ()
    retries: int = 0
    backoff_factor: float | None = None
    backoff_max_seconds: int | None = None
    is_durable: bool = False
    slot_requests: Mapping[str, int] = field(default_factory=lambda: {"default": 1})
    rate_limits: tuple[Mapping[str, Any], ...] = ()
    worker_labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    concurrency: tuple[Mapping[str, Any], ...] = ()
    conditions: tuple[Mapping[str, Any], ...] = ()
    batch: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class WorkflowDefinition:
    """A workflow as registered. Fields that later issues act on are kept from now on."""

    name: str
    tasks: tuple[TaskDefinition, ...]
    description: str = ""
    on_failure_task: TaskDefinition | None = None
    event_triggers: tuple[str, ...] = ()
    cron_triggers: tuple[str, ...] = ()
    cron_input: str | None = None
    concurrency: tuple[Mapping[str, Any], ...] = ()
    sticky: str | None = None
    """`SOFT`, `HARD` or None."""
    default_priority: int | None = None
    default_filters: tuple[Mapping[str, Any], ...] = ()
    input_json_schema: str | None = None
    idempotency: Mapping[str, Any] | None = None

    @property
    def is_single_task(self) -> bool:
        """Whether a run of this is one task run, with one id for both."""
        return len(self.tasks) == 1 and self.on_failure_task is None

    @property
    def all_tasks(self) -> tuple[TaskDefinition, ...]:
        """Every task, the on-failure task last; a task's place here is its step index."""
        return (*self.tasks, self.on_failure_task) if self.on_failure_task else self.tasks


def validate(definition: WorkflowDefinition) -> None:
    """Check a definition as a whole. Raises `InvalidDefinition`; a definition that passes can be run."""
    name = definition.name
    if not NAME.match(name):
        raise InvalidDefinition(
            f"workflow name {name!r} is not valid: use letters, digits, '.', '-' and '_' only"
        )
    if not definition.tasks:
        raise InvalidDefinition(f"workflow {name!r} has no tasks: declare at least one")
    if definition.default_priority is not None and not 1 <= definition.default_priority <= 3:
        raise InvalidDefinition(
            f"workflow {name!r}: default_priority is {definition.default_priority}, expected 1 to 3"
        )
    seen: set[str] = set()
    for task in definition.all_tasks:
        _validate_task(name, task)
        if task.name in seen:
            raise InvalidDefinition(
                f"workflow {name!r} has two tasks named {task.name!r}: task names must differ"
            )
        seen.add(task.name)
    names = {task.name for task in definition.tasks}
    for task in definition.tasks:
        for parent in task.parents:
            if parent not in names:
                raise InvalidDefinition(
                    f"workflow {name!r}, task {task.name!r}: parent {parent!r} is not a task of this workflow; "
                    f"its tasks are {', '.join(sorted(names))}"
                )
    topological_order(definition)
    _validate_expressions(definition, names)


def _validate_expressions(definition: WorkflowDefinition, names: set[str]) -> None:
    for task in definition.all_tasks:
        _validate_conditions(definition.name, task, names, is_on_failure=task is definition.on_failure_task)
    if definition.idempotency is not None:
        where = f"workflow {definition.name!r}: idempotency"
        _compile(where, definition.idempotency["expression"], cel.Environment.IDEMPOTENCY_KEY)
    _compile_concurrency(f"workflow {definition.name!r}", definition.concurrency)
    for entry in definition.default_filters:
        if entry["expression"].strip():  # an empty one is never true
            where = f"workflow {definition.name!r}: default filter of scope {entry['scope']!r}"
            _compile(where, entry["expression"], cel.Environment.EVENT_FILTER)
    for task in definition.all_tasks:
        where = f"workflow {definition.name!r}, task {task.name!r}"
        _compile_concurrency(where, task.concurrency)
        for limit in task.rate_limits:
            for field_name, environment in (
                ("key_expr", cel.Environment.RATE_LIMIT_KEY),
                ("units_expr", cel.Environment.RATE_LIMIT_UNITS),
                ("limit_values_expr", cel.Environment.RATE_LIMIT_VALUE),
            ):
                if limit.get(field_name):
                    _compile(f"{where}: rate limit {field_name}", limit[field_name], environment)


def _compile_concurrency(where: str, entries: tuple[Mapping[str, Any], ...]) -> None:
    for entry in entries:
        _compile(f"{where}: concurrency", entry["expression"], cel.Environment.CONCURRENCY_KEY)
        if entry.get("max_runs_expression"):
            what = f"{where}: concurrency max_runs_expression"
            _compile(what, entry["max_runs_expression"], cel.Environment.RATE_LIMIT_UNITS)


def _validate_conditions(
    workflow: str, task: TaskDefinition, names: set[str], *, is_on_failure: bool
) -> None:
    where = f"workflow {workflow!r}, task {task.name!r}"
    if is_on_failure and (task.parents or task.conditions):
        raise InvalidDefinition(f"{where}: an on-failure task has neither parents nor conditions")
    for condition in task.conditions:
        if condition["kind"] == "parent":
            parent = condition["parent"]
            if parent not in names:
                raise InvalidDefinition(
                    f"{where}: a condition names parent {parent!r}, which is not a task of this workflow; "
                    f"its tasks are {', '.join(sorted(names))}"
                )
            if parent not in task.parents:
                raise InvalidDefinition(
                    f"{where}: a condition names task {parent!r}, which is not among its parents "
                    f"({', '.join(task.parents) or 'it has none'}): add it to them"
                )
        if condition["kind"] == "sleep":
            try:
                duration_us(condition["sleep_for"])
            except ValueError as error:
                raise InvalidDefinition(f"{where}: a sleep condition: {error}") from error
        elif condition["expression"]:
            environment = (
                cel.Environment.PARENT_CONDITION
                if condition["kind"] == "parent"
                else cel.Environment.EVENT_CONDITION
            )
            what = condition["parent"] if condition["kind"] == "parent" else condition["event_key"]
            _compile(f"{where}: the condition on {what!r}", condition["expression"], environment)
    if task.batch is not None:
        _compile(f"{where}: batch group_key", task.batch["group_key"], cel.Environment.BATCH_GROUP_KEY)


def _compile(where: str, text: str, environment: cel.Environment) -> None:
    try:
        cel.compile(text, environment)
    except cel.InvalidExpression as error:
        raise InvalidDefinition(f"{where}: {error}") from error


def _validate_task(workflow: str, task: TaskDefinition) -> None:
    where = f"workflow {workflow!r}, task {task.name!r}"
    if not NAME.match(task.name):
        raise InvalidDefinition(
            f"{where}: the task name is not valid: use letters, digits, '.', '-' and '_' only"
        )
    if not ACTION.match(task.action):
        raise InvalidDefinition(f"{where}: action {task.action!r} is not valid: expected 'workflow:task'")
    for label, text in (
        ("execution_timeout", task.execution_timeout),
        ("schedule_timeout", task.schedule_timeout),
    ):
        try:
            duration_us(text)
        except ValueError as error:
            raise InvalidDefinition(f"{where}: {label}: {error}") from error
    if task.retries < 0:
        raise InvalidDefinition(f"{where}: retries is {task.retries}, expected 0 or more")
    if task.backoff_factor is not None and not 1 <= task.backoff_factor <= 1000:
        raise InvalidDefinition(f"{where}: backoff_factor is {task.backoff_factor}, expected 1 to 1000")
    if task.backoff_max_seconds is not None and not 1 <= task.backoff_max_seconds <= 86400:
        raise InvalidDefinition(
            f"{where}: backoff_max_seconds is {task.backoff_max_seconds}, expected 1 to 86400"
        )
    for pool, units in task.slot_requests.items():
        if units <= 0:
            raise InvalidDefinition(f"{where}: slot request {pool!r} is {units}, expected 1 or more")


def step_id(version_id: str, task_name: str) -> str:
    """The id of a task within a version: told from both, so that nobody has to store it."""
    return str(uuid.uuid5(uuid.UUID(version_id), task_name))


def topological_order(definition: WorkflowDefinition) -> list[TaskDefinition]:
    """Tasks with parents before children, equals by name. Raises `InvalidDefinition` for a cycle."""
    waiting = {task.name: set(task.parents) for task in definition.tasks}
    by_name = {task.name: task for task in definition.tasks}
    ordered: list[TaskDefinition] = []
    while waiting:
        ready = sorted(name for name, parents in waiting.items() if not parents)
        if not ready:
            raise InvalidDefinition(
                f"workflow {definition.name!r}: tasks {', '.join(sorted(waiting))} depend on each other in a cycle"
            )
        for name in ready:
            ordered.append(by_name[name])
            del waiting[name]
        for parents in waiting.values():
            parents.difference_update(ready)
    return ordered


def to_json(definition: WorkflowDefinition) -> str:
    """Canonical JSON: keys sorted, tasks in declared order."""
    return json.dumps(asdict(definition), sort_keys=True, separators=(",", ":"))


def from_json(text: str) -> WorkflowDefinition:
    """The definition that `to_json` wrote."""
    raw = json.loads(text)
    return WorkflowDefinition(
        **{
            **raw,
            "tasks": tuple(_task_from(task) for task in raw["tasks"]),
            "on_failure_task": _task_from(raw["on_failure_task"]) if raw["on_failure_task"] else None,
            "event_triggers": tuple(raw["event_triggers"]),
            "cron_triggers": tuple(raw["cron_triggers"]),
            "concurrency": tuple(raw["concurrency"]),
            "default_filters": tuple(raw["default_filters"]),
        }
    )


def _task_from(raw: dict[str, Any]) -> TaskDefinition:
    return TaskDefinition(
        **{
            **raw,
            "parents": tuple(raw["parents"]),
            "rate_limits": tuple(raw["rate_limits"]),
            "concurrency": tuple(raw["concurrency"]),
            "conditions": tuple(raw["conditions"]),
        }
    )


def checksum(definition: WorkflowDefinition) -> str:
    """Equal for definitions that mean the same: task order, or-group ids and data keys of parent conditions do not count.

    Source: behaviour-core 4.1.2.
    """
    raw = json.loads(to_json(definition))
    order = {task.name: index for index, task in enumerate(topological_order(definition))}
    raw["tasks"].sort(key=lambda task: order[task["name"]])
    for task in (*raw["tasks"], *([raw["on_failure_task"]] if raw["on_failure_task"] else ())):
        groups: dict[str, int] = {}
        for condition in task["conditions"]:
            group = condition.get("or_group_id", "")
            condition["or_group_id"] = groups.setdefault(group, len(groups)) if group else None
            if condition.get("kind") == "parent":
                condition["readable_data_key"] = condition.get("parent")
            # A client that says "from now on" says another time at each of its starts.
            condition.pop("consider_events_since", None)
    return hashlib.sha256(json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
