"""`PutWorkflow` of the wire to a `WorkflowDefinition`, with the checks and defaults of behaviour-core 4.1.

Expressions are kept as text: what compiles them belongs to the engine. Mappings within a definition:

    condition    kind parent|sleep|event, action QUEUE|CANCEL|SKIP, or_group_id, expression, readable_data_key, and
                 parent | sleep_for | event_key, and event_scope, consider_events_since (microseconds) if given
    concurrency  expression, max_runs, limit_strategy (name), and name, is_tenant_scoped, max_runs_expression if given
    rate limit   key, duration (name), and units, key_expr, units_expr, limit_values_expr if given
    worker label by key: value (text or int), comparator (name), weight (int), required (bool). The labels of a trigger
                 (`NewRun.desired_labels`, then `TaskRunRow.desired_labels`) are that mapping as JSON text, None without any:
                 {"memory":{"value":512,"comparator":"GREATER_THAN","weight":100,"required":true}}; see `desired_labels`
    batch        max_size, max_interval_ms, group_key, group_max_runs, broadcast_output
    idempotency  expression, ttl_ms, method TTL|STATUS
    filter       expression, scope, payload (JSON text or None)

Limits that the contract leaves open are set here, far above what any workflow needs: what is beyond them is a slip (a negative number, a
wrong unit) that would show much later, as a run that hangs. Durations may have ten years; zero ones are taken, as official clients
send them for what is shorter than a second.
"""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from broadaxe.wire.v1 import workflows_pb2 as wire
from broadaxe.wire.v1.shared import condition_pb2, trigger_pb2
from broadaxe_actors.definitions import (
    DEFAULT_TIMEOUT,
    TaskDefinition,
    WorkflowDefinition,
    to_json,
    validate,
)
from broadaxe_actors.messages import WorkflowRegistered
from broadaxe_gateway.rpc.convert.checks import (
    LONGEST_DURATION_US,
    check_action,
    check_duration,
    check_json_bytes,
    check_name,
    check_object,
    check_time,
    has_escaped_null,
    json_problem,
    refuse,
    shown,
    utf8,
)
from broadaxe_gateway.rpc.convert.timers import check_cron

DEFAULT_BACKOFF_MAX_SECONDS = 86_400
MAX_TASKS = 10_000
MAX_CRONS = 100
MAX_RETRIES = 10_000
MAX_UNITS = 1_000_000
"""Slots or rate limit units of one task, and runs of one concurrency group."""
_DEPRECATED_STRATEGIES = frozenset({"DROP_NEWEST", "QUEUE_NEWEST"})
"""To take one of them for another strategy would cancel the wrong runs."""
_STRATEGIES = tuple(
    name for name, _ in wire.ConcurrencyLimitStrategy.items() if name not in _DEPRECATED_STRATEGIES
)
_FOR_TEXT = frozenset({"EQUAL", "NOT_EQUAL"})
_CONDITION_ACTIONS = {
    condition_pb2.QUEUE: "QUEUE",
    condition_pb2.CANCEL: "CANCEL",
    condition_pb2.SKIP: "SKIP",
}


def workflow_definition(request: wire.CreateWorkflowVersionRequest) -> WorkflowDefinition:
    """The definition that a request declares, checked as a whole. Raises `Refused` (INVALID_ARGUMENT)."""
    check_name(request.name, "workflow name")
    where = f"workflow {request.name!r}"
    if len(request.tasks) > MAX_TASKS:
        raise refuse(f"{where} has {len(request.tasks):,} tasks, expected at most {MAX_TASKS:,}")
    concurrency = [*request.concurrency_arr]
    if request.HasField("concurrency"):
        concurrency.insert(0, request.concurrency)
    definition = WorkflowDefinition(
        name=request.name,
        tasks=tuple(_task(where, task) for task in request.tasks),
        description=request.description,
        on_failure_task=_task(where, request.on_failure_task)
        if request.HasField("on_failure_task")
        else None,
        event_triggers=tuple(request.event_triggers),
        cron_triggers=_crons(where, request),
        cron_input=_cron_input(where, request),
        concurrency=tuple(_concurrency(where, entry) for entry in concurrency),
        sticky=_enum_name(where, "sticky", wire.StickyStrategy, request.sticky)
        if request.HasField("sticky")
        else None,
        default_priority=request.default_priority if request.HasField("default_priority") else None,
        default_filters=tuple(_filter(where, entry) for entry in request.default_filters),
        input_json_schema=_json_text(where, "input_json_schema", request.input_json_schema),
        idempotency=_idempotency(where, request.idempotency) if request.HasField("idempotency") else None,
    )
    validate(definition)
    if has_escaped_null(to_json(definition)):
        raise refuse(f"{where}: a text of the definition holds a null character, which text may not")
    return definition


def workflow_registered(value: WorkflowRegistered) -> wire.CreateWorkflowVersionResponse:
    return wire.CreateWorkflowVersionResponse(id=value.version_id, workflow_id=value.workflow_id)


def _task(workflow: str, task: wire.CreateTaskOpts) -> TaskDefinition:
    check_name(task.readable_id, f"{workflow}: task name")
    where = f"{workflow}, task {task.readable_id!r}"
    factor = _backoff_factor(task.backoff_factor) if task.HasField("backoff_factor") else None
    if task.HasField("backoff_max_seconds"):
        most: int | None = task.backoff_max_seconds
    else:
        most = None if factor is None else DEFAULT_BACKOFF_MAX_SECONDS
    for parent in task.parents:
        check_name(parent, f"{where}: parent")
    for pool, units in task.slot_requests.items():
        if not pool:
            raise refuse(f"{where}: slot request of {units} names no pool: expected one such as 'default'")
        _check_count(f"{where}: slot request {pool!r}", units, 1, MAX_UNITS)
    return TaskDefinition(
        name=task.readable_id,
        action=check_action(task.action, f"{where}: action"),
        execution_timeout=_duration(f"{where}: execution_timeout", task.timeout),
        schedule_timeout=_duration(f"{where}: schedule_timeout", task.schedule_timeout),
        parents=tuple(dict.fromkeys(task.parents)),
        retries=_check_count(f"{where}: retries", task.retries, 0, MAX_RETRIES),
        backoff_factor=factor,
        backoff_max_seconds=most,
        is_durable=task.is_durable,
        slot_requests=dict(task.slot_requests) or {"durable" if task.is_durable else "default": 1},
        rate_limits=tuple(_rate_limit(where, limit) for limit in task.rate_limits),
        worker_labels=desired_labels(where, task.worker_labels),
        concurrency=tuple(_concurrency(where, entry) for entry in task.concurrency),
        conditions=tuple(_conditions(where, task.conditions)) if task.HasField("conditions") else (),
        batch=_batch(where, task.batch) if task.HasField("batch") else None,
    )


def _check_count(what: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise refuse(f"{what} is {value:,}, expected {low:,} to {high:,}")
    return value


def _duration(what: str, text: str) -> str:
    """A timeout as it is written, or the default."""
    if text:
        check_duration(text, what)
    return text or DEFAULT_TIMEOUT


def _backoff_factor(value: float) -> float:
    # The wire's single precision would turn 1.1 into 1.10000002384186.
    return float(f"{value:.7g}")


def desired_labels(
    where: str, labels: Mapping[str, trigger_pb2.DesiredWorkerLabels]
) -> dict[str, dict[str, Any]]:
    """Worker labels asked for, by key, with their defaults filled in; of a task's definition and of a trigger alike.

    Raises `Refused` for what no worker can satisfy: a label that would never be met shows much later, as a run that hangs.
    """
    return {key: _desired_label(f"{where}: worker label {key!r}", labels[key]) for key in sorted(labels)}


def _desired_label(where: str, label: trigger_pb2.DesiredWorkerLabels) -> dict[str, Any]:
    has_text, has_number = label.HasField("str_value"), label.HasField("int_value")
    if has_text and has_number:
        raise refuse(f"{where} has both a text and a number: give one")
    if not has_text and not has_number:
        raise refuse(f"{where} has no value: give a text or a number")
    comparator = _enum_name(where, "comparator", trigger_pb2.WorkerLabelComparator, label.comparator)
    if has_text and comparator not in _FOR_TEXT:
        raise refuse(
            f"{where}: comparator {comparator} needs a number, and the value is the text {shown(label.str_value)}"
        )
    return {
        "value": label.int_value if has_number else label.str_value,
        "comparator": comparator,
        "weight": label.weight if label.HasField("weight") else 100,
        "required": label.required,
    }


def _enum_name(where: str, field: str, enum: Any, value: int) -> str:
    try:
        name: str = enum.Name(value)
    except ValueError as error:
        known = ", ".join(f"{name} ({number})" for name, number in enum.items())
        raise refuse(f"{where}: {field} {value} is not known: expected one of {known}") from error
    return name


def _crons(where: str, request: wire.CreateWorkflowVersionRequest) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(request.cron_triggers))
    if len(found) > MAX_CRONS:
        raise refuse(f"{where} has {len(found):,} crons, expected at most {MAX_CRONS:,}")
    return tuple(check_cron(text, where) for text in found)


def _cron_input(where: str, request: wire.CreateWorkflowVersionRequest) -> str | None:
    if not request.cron_input:
        return None
    problem = json_problem(request.cron_input)
    if problem is not None:
        raise refuse(f"{where}: cron_input is not valid JSON: {problem}")
    return request.cron_input


def _json_text(where: str, field: str, data: bytes) -> str | None:
    return utf8(check_json_bytes(data, f"{where}: {field}"), field) if data else None


def _concurrency(where: str, entry: wire.Concurrency) -> dict[str, Any]:
    if not entry.expression.strip():
        raise refuse(f"{where}: a concurrency entry has no expression: give one, such as input.user_id")
    strategy = _enum_name(
        where, "concurrency limit_strategy", wire.ConcurrencyLimitStrategy, entry.limit_strategy
    )
    if strategy not in _STRATEGIES:
        raise refuse(
            f"{where}: concurrency limit_strategy {strategy} is not supported: use one of {', '.join(_STRATEGIES)}"
        )
    found: dict[str, Any] = {
        "expression": entry.expression,
        "max_runs": _check_count(f"{where}: concurrency max_runs", entry.max_runs, 1, MAX_UNITS)
        if entry.HasField("max_runs")
        else 1,
        "limit_strategy": strategy,
    }
    if entry.is_tenant_scoped and not entry.name:
        raise refuse(
            f"{where}: concurrency {shown(entry.expression)} is tenant-scoped and has no name: give the one by which workflows share it"
        )
    for field in ("name", "is_tenant_scoped", "max_runs_expression"):
        if entry.HasField(field):
            found[field] = getattr(entry, field)
    return found


def _rate_limit(where: str, limit: wire.CreateTaskRateLimit) -> dict[str, Any]:
    if not limit.key:
        raise refuse(f"{where}: a rate limit has no key: give one")
    if not limit.HasField("units") and not limit.units_expr:
        raise refuse(f"{where}: rate limit {limit.key!r} has neither units nor units_expr: give one")
    if limit.HasField("units"):
        _check_count(f"{where}: units of rate limit {limit.key!r}", limit.units, 0, MAX_UNITS)
    found: dict[str, Any] = {
        "key": limit.key,
        "duration": _enum_name(
            where,
            f"rate limit {limit.key!r}: duration",
            wire.RateLimitDuration,
            limit.duration if limit.HasField("duration") else wire.MINUTE,
        ),
    }
    if limit.HasField("units"):
        found["units"] = limit.units
    for field in ("key_expr", "units_expr", "limit_values_expr"):
        if getattr(limit, field):  # an empty one is none
            found[field] = getattr(limit, field)
    return found


def _conditions(where: str, conditions: condition_pb2.TaskConditions) -> Iterable[dict[str, Any]]:
    for parent in conditions.parent_override_conditions:
        # A parent condition's data key is the parent's name, whatever the client sent.
        yield {
            **_base(where, parent.base, parent.parent_readable_id),
            "kind": "parent",
            "parent": check_name(parent.parent_readable_id, f"{where}: parent of a condition"),
        }
    for sleep in conditions.sleep_conditions:
        check_duration(sleep.sleep_for, f"{where}: sleep condition")
        yield {
            **_base(where, sleep.base, sleep.base.readable_data_key),
            "kind": "sleep",
            "sleep_for": sleep.sleep_for,
        }
    for event in conditions.user_event_conditions:
        if not event.user_event_key:
            raise refuse(f"{where}: an event condition has no user_event_key: give one")
        found = {
            **_base(where, event.base, event.base.readable_data_key),
            "kind": "event",
            "event_key": event.user_event_key,
        }
        if event.HasField("event_scope"):
            found["event_scope"] = event.event_scope
        if event.HasField("consider_events_since"):
            found["consider_events_since"] = check_time(
                event.consider_events_since, f"{where}: consider_events_since"
            )
        yield found


def _base(where: str, base: condition_pb2.BaseMatchCondition, data_key: str) -> dict[str, Any]:
    if not data_key:
        raise refuse(f"{where}: a condition has no readable_data_key: give one")
    action = _CONDITION_ACTIONS.get(base.action)
    if action is None:
        raise refuse(f"{where}: condition action {base.action} is not valid: expected QUEUE, CANCEL or SKIP")
    if base.or_group_id:
        try:
            group = str(uuid.UUID(base.or_group_id))
        except ValueError as error:
            raise refuse(f"{where}: or_group_id is not a UUID: {shown(base.or_group_id)}") from error
    else:
        group = str(uuid.uuid4())
    return {
        "action": action,
        "or_group_id": group,
        "expression": base.expression,
        "readable_data_key": data_key,
    }


def _batch(where: str, batch: wire.TaskBatchConfig) -> dict[str, Any]:
    found: dict[str, Any] = {
        "max_size": batch.batch_max_size,
        "max_interval_ms": batch.batch_max_interval_ms if batch.HasField("batch_max_interval_ms") else 1_000,
        "group_key": batch.batch_group_key or "'default'",
        "group_max_runs": batch.batch_group_max_runs if batch.HasField("batch_group_max_runs") else 100,
        "broadcast_output": batch.broadcast_output,
    }
    for field, most in (("max_size", 100_000), ("max_interval_ms", 86_400_000), ("group_max_runs", 10_000)):
        _check_count(f"{where}: batch {field}", found[field], 1, most)
    return found


def _idempotency(where: str, config: wire.IdempotencyConfig) -> dict[str, Any]:
    if not config.expression:
        raise refuse(f"{where}: idempotency has no expression: give one, such as input.order_id")
    _check_count(f"{where}: idempotency ttl_ms", config.ttl_ms, 1, LONGEST_DURATION_US // 1000)
    return {
        "expression": config.expression,
        "ttl_ms": config.ttl_ms,
        "method": _enum_name(where, "idempotency method", wire.IdempotencyMethod, config.method),
    }


def _filter(where: str, entry: wire.DefaultFilter) -> dict[str, Any]:
    if entry.payload:
        check_object(utf8(entry.payload, "filter payload"), f"{where}: filter payload")
    return {
        "expression": entry.expression,
        "scope": entry.scope,
        "payload": entry.payload.decode() if entry.payload else None,
    }
