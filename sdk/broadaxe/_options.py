"""The values with which users configure tasks and runs, and how each is written on the wire. No I/O.

Which of them the engine acts on yet is the engine's affair: all reach it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum, StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from broadaxe._durations import duration_to_wire
from broadaxe._errors import DefinitionError
from broadaxe._types import Duration
from broadaxe.wire.v1 import workflows_pb2 as wire
from broadaxe.wire.v1.shared.trigger_pb2 import DesiredWorkerLabels as WireLabel

MOST_UNITS = 1_000_000
"""Runs of a concurrency group, and units of a rate limit, that the engine takes."""


def check_number(
    where: str, setting: str, value: object, least: float, most: float, *, is_whole: bool = True
) -> None:
    """Refuse a setting that is no number, or out of its range. Raises `DefinitionError` naming both."""
    expected = f"{'a whole' if is_whole else 'a'} number from {least:,} to {most:,}"
    kinds = (int,) if is_whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        raise DefinitionError(f"{where}: {setting} is {value!r}, expected {expected}")


class Priority(IntEnum):
    """Order of dispatch among queued tasks: higher first."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


class StickyStrategy(StrEnum):
    """Whether tasks of one run, and children run with `sticky=True`, go to the same worker: if possible, or only there."""

    SOFT = "SOFT"
    HARD = "HARD"


class ConcurrencyLimitStrategy(StrEnum):
    """What happens to a run whose group is full."""

    CANCEL_IN_PROGRESS = "CANCEL_IN_PROGRESS"
    GROUP_ROUND_ROBIN = "GROUP_ROUND_ROBIN"
    CANCEL_NEWEST = "CANCEL_NEWEST"
    CANCEL_QUEUED_EXCEPT_NEWEST = "CANCEL_QUEUED_EXCEPT_NEWEST"
    CANCEL_QUEUED_EXCEPT_OLDEST = "CANCEL_QUEUED_EXCEPT_OLDEST"


class RateLimitDuration(StrEnum):
    """The window of a rate limit."""

    SECOND = "SECOND"
    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    YEAR = "YEAR"


class WorkerLabelComparator(IntEnum):
    """How a desired label is compared with a worker's; the ordering ones work on integers only."""

    EQUAL = 0
    NOT_EQUAL = 1
    GREATER_THAN = 2
    GREATER_THAN_OR_EQUAL = 3
    LESS_THAN = 4
    LESS_THAN_OR_EQUAL = 5


class ConcurrencyExpression(BaseModel):
    """At most `max_runs` at once for each value of `expression` (CEL over `input` and `additional_metadata`).

    `max_runs` as text is a CEL expression giving the limit. `is_tenant_scoped` shares the group by `name` over workflows.
    """

    model_config = ConfigDict(frozen=True)

    expression: str
    max_runs: int | str
    limit_strategy: ConcurrencyLimitStrategy
    name: str | None = None
    is_tenant_scoped: bool = False

    def to_wire(self, where: str) -> wire.Concurrency:
        """where: the workflow or task, as errors call it. Raises `DefinitionError`."""
        if not self.expression.strip():
            raise DefinitionError(
                f"{where}: a concurrency expression is empty: write it in CEL, such as input.user_id"
            )
        where = f"{where}: concurrency {self.expression!r}"
        if isinstance(self.max_runs, str):
            if not self.max_runs.strip():
                raise DefinitionError(f"{where}: max_runs is empty: give a number, or write it in CEL")
        else:
            check_number(where, "max_runs", self.max_runs, 1, MOST_UNITS)
        if self.is_tenant_scoped and not self.name:
            raise DefinitionError(f"{where} is tenant-scoped: give it the name by which workflows share it")
        return wire.Concurrency(
            expression=self.expression,
            max_runs=self.max_runs if isinstance(self.max_runs, int) else 1,
            limit_strategy=wire.ConcurrencyLimitStrategy.Value(self.limit_strategy.value),
            name=self.name,
            is_tenant_scoped=self.is_tenant_scoped or None,
            max_runs_expression=self.max_runs if isinstance(self.max_runs, str) else None,
        )


Concurrency = int | ConcurrencyExpression | Sequence[ConcurrencyExpression]


def concurrency_to_wire(value: Concurrency | None, where: str) -> list[wire.Concurrency]:
    """A number is a limit over all runs, admitted in turn. Raises `DefinitionError` naming `where`."""
    if value is None:
        return []
    if isinstance(value, int):
        check_number(where, "concurrency", value, 1, MOST_UNITS)
        value = ConcurrencyExpression(
            expression="'constant'",
            max_runs=value,
            limit_strategy=ConcurrencyLimitStrategy.GROUP_ROUND_ROBIN,
        )
    items: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    for item in items:
        if not isinstance(item, ConcurrencyExpression):
            raise DefinitionError(
                f"{where}: concurrency is {item!r}, expected a number, or one ConcurrencyExpression or more"
            )
    return [item.to_wire(where) for item in items]


class RateLimit(BaseModel):
    """What a task spends of a rate limit when it starts.

    static_key: name of a limit declared apart. dynamic_key: CEL giving the name; then `limit` (number or CEL) is needed, a whole
    number of units for each window of `duration`. units: how much one attempt spends, a number or CEL.
    """

    model_config = ConfigDict(frozen=True)

    static_key: str | None = None
    dynamic_key: str | None = None
    units: int | str = 1
    limit: int | str | None = None
    duration: RateLimitDuration = RateLimitDuration.MINUTE

    def to_wire(self, where: str) -> wire.CreateTaskRateLimit:
        """where: the task, as errors call it. Raises `DefinitionError`."""
        if bool(self.static_key) == bool(self.dynamic_key):
            raise DefinitionError(f"{where}: a rate limit needs exactly one of static_key and dynamic_key")
        where = f"{where}: rate limit {self.static_key or self.dynamic_key!r}"
        if self.dynamic_key and self.limit is None:
            raise DefinitionError(f"{where} has a dynamic_key and needs a limit")
        for name, value in (("units", self.units), ("limit", self.limit)):
            if isinstance(value, str):
                if not value.strip():
                    raise DefinitionError(f"{where}: {name} is empty: give a number, or write it in CEL")
            elif value is not None:
                check_number(where, name, value, 0, MOST_UNITS)
        # A limit of -1 is the wire's way to say: spend from the bucket, do not change its limit.
        return wire.CreateTaskRateLimit(
            key=self.static_key or self.dynamic_key or "",
            key_expr=self.dynamic_key,
            units=self.units if isinstance(self.units, int) else None,
            units_expr=self.units if isinstance(self.units, str) else None,
            limit_values_expr=str(self.limit) if self.limit is not None else "-1",
            duration=wire.RateLimitDuration.Value(self.duration.value),
        )


class DesiredWorkerLabel(BaseModel):
    """A label that a worker should, or with `required` must, have. `key` is for lists; in a mapping the key stands outside.

    comparator: how the worker's value is compared with this one, EQUAL if not given; the ordering ones are for numbers.
    weight: of a label that is not required, 100 if not given. Of the workers that have all required labels and a free slot, the one
    with the largest sum of weights is chosen.
    """

    model_config = ConfigDict(frozen=True)

    value: str | int
    key: str | None = None
    required: bool = False
    weight: int | None = None
    comparator: WorkerLabelComparator | None = None

    def to_wire(self, where: str) -> WireLabel:
        """where: the task or run and the label, as errors call it. Raises `DefinitionError`."""
        if isinstance(self.value, str):
            if self.comparator is not None and self.comparator >= WorkerLabelComparator.GREATER_THAN:
                raise DefinitionError(
                    f"{where}: comparator {self.comparator.name} needs a number, and the value is {self.value!r}"
                )
        else:
            check_number(where, "value", self.value, -(2**31), 2**31 - 1)
        if self.weight is not None:
            check_number(where, "weight", self.weight, -(2**31), 2**31 - 1)
        return WireLabel(
            str_value=self.value if isinstance(self.value, str) else None,
            int_value=self.value if isinstance(self.value, int) else None,
            required=self.required,
            weight=self.weight,
            comparator=int(self.comparator) if self.comparator is not None else None,  # type: ignore[arg-type]
        )


DesiredLabels = Mapping[str, DesiredWorkerLabel] | Sequence[DesiredWorkerLabel]


def labels_to_wire(labels: DesiredLabels | None, where: str) -> dict[str, WireLabel]:
    """Desired labels by key. Raises `DefinitionError` naming `where`, also for a label in a list that has no key."""
    named: dict[str, DesiredWorkerLabel] = {}
    if isinstance(labels, Mapping):
        named.update(labels)
    else:
        for label in labels or ():
            if not label.key:
                raise DefinitionError(
                    f"{where}: desired worker label {label.value!r} stands in a list: give it a key"
                )
            if label.key in named:
                raise DefinitionError(
                    f"{where}: desired worker label {label.key!r} stands in the list twice: one label has one value"
                )
            named[label.key] = label
    return {key: label.to_wire(f"{where}: desired worker label {key!r}") for key, label in named.items()}


class DefaultFilter(BaseModel):
    """An event filter registered with its workflow: events of `scope` start a run when `expression` (CEL) is true."""

    model_config = ConfigDict(frozen=True)

    expression: str
    scope: str
    payload: Mapping[str, Any] = Field(default_factory=dict)


class IdempotencyConfig(BaseModel):
    """Base of the two ways to keep runs apart: no two runs with the same key at a time, over all workflows of the tenant.

    key_expression: CEL over `input` and `additional_metadata` that gives a string.
    """

    model_config = ConfigDict(frozen=True)

    key_expression: str

    def to_wire(self, where: str) -> wire.IdempotencyConfig:
        """where: the workflow, as errors call it. Raises `DefinitionError`."""
        method, time_to_live, name = self._method()
        if not self.key_expression.strip():
            raise DefinitionError(
                f"{where}: the key_expression of its idempotency is empty: write one in CEL"
            )
        duration_to_wire(time_to_live, f"{where}: the {name} of its idempotency", is_zero_allowed=False)
        return wire.IdempotencyConfig(
            expression=self.key_expression, ttl_ms=time_to_live // timedelta(milliseconds=1), method=method
        )

    def _method(self) -> tuple[wire.IdempotencyMethod.ValueType, timedelta, str]:
        """The wire's method, how long a key is held at most, and the name of the field that says so."""
        raise NotImplementedError


class TTLBasedIdempotencyConfig(IdempotencyConfig):
    """A run holds its key for `ttl` from its creation, also when it ends before."""

    ttl: timedelta

    def _method(self) -> tuple[wire.IdempotencyMethod.ValueType, timedelta, str]:
        return wire.TTL, self.ttl, "ttl"


class StatusBasedIdempotencyConfig(IdempotencyConfig):
    """A run holds its key until it has ended, and no longer than `fallback_ttl` from its creation."""

    fallback_ttl: timedelta

    def _method(self) -> tuple[wire.IdempotencyMethod.ValueType, timedelta, str]:
        return wire.STATUS, self.fallback_ttl, "fallback_ttl"


class BatchTaskConfig(BaseModel):
    """How runs of a batch task are brought together, as `batch_task` says it.

    batch_max_size: runs in a batch, 1 to 100,000. batch_max_interval: longest wait for more of them, 1 second if not given.
    batch_group_key: CEL over the input that gives a string; runs with different keys are never in one batch.
    batch_group_max_runs: batches of a key at once, 100 if not given. broadcast_output: what the function returns is the
    output of every member.
    """

    model_config = ConfigDict(frozen=True)

    batch_max_size: int
    batch_max_interval: timedelta | None = None
    batch_group_key: str | None = None
    batch_group_max_runs: int | None = None
    broadcast_output: bool = False

    def to_wire(self, where: str) -> wire.TaskBatchConfig:
        """where: the task, as errors call it. Raises `DefinitionError`."""
        check_number(where, "batch_max_size", self.batch_max_size, 1, 100_000)
        interval = None
        if self.batch_max_interval is not None:
            interval = round(self.batch_max_interval / timedelta(milliseconds=1))
            if not 1 <= interval <= 86_400_000:
                raise DefinitionError(
                    f"{where}: batch_max_interval is {self.batch_max_interval!r}, expected 1 ms to 1 day"
                )
        if self.batch_group_key is not None and not self.batch_group_key.strip():
            raise DefinitionError(f"{where}: batch_group_key is empty: write it in CEL, or leave it out")
        if self.batch_group_max_runs is not None:
            check_number(where, "batch_group_max_runs", self.batch_group_max_runs, 1, 10_000)
        return wire.TaskBatchConfig(
            batch_max_size=self.batch_max_size,
            batch_max_interval_ms=interval,
            batch_group_key=self.batch_group_key,
            batch_group_max_runs=self.batch_group_max_runs,
            broadcast_output=self.broadcast_output,
        )


class TaskDefaults(BaseModel):
    """Settings for the tasks of a workflow that do not say otherwise."""

    model_config = ConfigDict(frozen=True)

    schedule_timeout: Duration | None = None
    execution_timeout: Duration | None = None
    priority: int | None = None
    retries: int | None = None
    backoff_factor: float | None = None
    backoff_max_seconds: int | None = None


class ScheduleTriggerWorkflowOptions(BaseModel):
    """Options of one run for later; some may be given to `schedule` as keywords instead, which win.

    additional_metadata: JSON object kept with the run, over the workflow's default metadata. priority: 1 to 3.
    namespace: of the workflow, when not the client's own.
    parent_id, parent_step_run_id: the run and task that schedule it, when it is not the task in which the call is made; lists find it
    by them. child_index, child_key: accepted, and without effect.
    """

    parent_id: str | None = None
    parent_step_run_id: str | None = None
    child_index: int | None = None
    child_key: str | None = None
    namespace: str | None = None
    additional_metadata: Mapping[str, Any] = Field(default_factory=dict)
    priority: int | None = None


class TriggerWorkflowOptions(ScheduleTriggerWorkflowOptions):
    """Options of one run; each may be given to `run` as a keyword instead, which wins.

    additional_metadata: JSON object kept with the run, over the workflow's default metadata.
    priority: 1 to 3. namespace: of the workflow, when not the client's own.
    child_key, child_index: identity of a child among its parent's: the same key gives back the same run. `key` is `child_key`, too.
    sticky: run the child on the parent's worker. desired_worker_id: run it on that one.
    desired_worker_label: labels that replace the task's own for this run.
    parent_id, parent_step_run_id: the spawning run and task, when it is not the task in which the call is made.
    """

    desired_worker_id: str | None = None
    sticky: bool = False
    key: str | None = None
    desired_worker_label: Mapping[str, DesiredWorkerLabel] | list[DesiredWorkerLabel] | None = None


@dataclass(slots=True)
class WorkflowRunTriggerConfig:
    """One run of a bulk call, made by `create_bulk_run_item`."""

    workflow_name: str
    """With its namespace."""
    input: bytes
    """JSON text."""
    options: TriggerWorkflowOptions | None = None
    key: str | None = None
    metadata: bytes = field(default=b"{}", repr=False)
    """Default metadata of the workflow as JSON text, used when the options bring none."""
    default_metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
