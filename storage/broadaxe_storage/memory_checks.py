"""What the schema checks on each record, repeated for the memory store: types and ranges of columns, and the state machine.

Pure. A record that passes here is one that Postgres would store; one that fails raises `RefusedRecords` with its id, as Postgres would.
"""

import json
import re
import types
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cache
from typing import NamedTuple, Union, get_args, get_origin, get_type_hints

from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.records import (
    FINAL_STATES,
    RUN_STEP,
    Batch,
    RateLimitRow,
    RunFinish,
    TaskRunFinish,
    TaskRunRow,
    TaskRunSettle,
    TaskRunState,
    TaskRunUpdate,
    WorkflowPause,
)
from broadaxe_storage.records_timers import CronChange, CronRow, ScheduledRunChange, ScheduledRunRow

MAX_CRON_TEXT = 255
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_JSON_FIELDS = frozenset({"metadata", "slot_config", "labels", "runtime_info"})
_SMALL = frozenset({"state", "priority", "queue_priority", "step_index", "kind", "status"})
_MEDIUM = frozenset(
    {
        "attempt",
        "expected_attempt",
        "app_retries",
        "internal_retries",
        "child_index",
        "number",
        "task_count",
        "row_count",
    }
)
_WITH_WORKER = (TaskRunState.ASSIGNED, TaskRunState.RUNNING)

_Check = Callable[[object], str | None]


def check_batch(batch: Batch) -> None:
    """Raises `RefusedRecords` for the first kind of record that has faulty ones, naming them all."""
    for rows in batch:
        faults = [(fault, row) for row in rows if (fault := _fault(row)) is not None]
        if faults:
            raise RefusedRecords(
                f"{type(faults[0][1]).__name__}: {faults[0][0]}",
                [row_id for _, row in faults if (row_id := _id_of(row))],
            )


def check_record(row: tuple[object, ...]) -> None:
    """Raises `RefusedRecords` when a column would refuse its value."""
    fault = _fault(row)
    if fault is not None:
        row_id = _id_of(row)
        raise RefusedRecords(f"{type(row).__name__}: {fault}", [row_id] if row_id else [])


def _id_of(row: object) -> str:
    names = ("id", "task_run_id", "run_id", "workflow_id")
    return next((str(found) for name in names if (found := getattr(row, name, ""))), "")


def _fault(row: tuple[object, ...]) -> str | None:
    for (name, check), value in zip(_checks(type(row)), row, strict=True):
        fault = check(value)
        if fault is not None:
            return f"{name} {fault}"
    return state_fault(row)


def state_fault(row: object) -> str | None:
    """What the CHECK constraints of task_run, task_run_history and rate_limit say against a record or row, or None."""
    if isinstance(row, TaskRunFinish | TaskRunSettle):
        if row.state not in FINAL_STATES:
            return f"state {row.state} is not final"
        return _result_fault(row)
    if isinstance(row, RunFinish) and row.state not in FINAL_STATES:
        return f"state {row.state} is not final"
    if isinstance(row, WorkflowPause):
        return _pause_fault(row)
    if isinstance(row, TaskRunRow):
        return _live_fault(row) or _worker_fault(row) or _result_fault(row)
    if isinstance(row, TaskRunUpdate):
        if not 0 <= row.state <= TaskRunState.EVICTED:
            return f"state {row.state} is not one of a task run that goes on"
        return _worker_fault(row)
    if isinstance(row, RateLimitRow):
        return _limit_fault(row)
    if isinstance(row, CronRow | CronChange | ScheduledRunRow | ScheduledRunChange):
        return timer_fault(row)
    return None


def _pause_fault(row: WorkflowPause) -> str | None:
    settings = (row.queue_ttl, row.cron_behavior, row.scheduled_behavior)
    if row.paused_at is not None and None in settings:
        return "a paused workflow has all settings of a pause"
    if row.queue_ttl is not None and row.queue_ttl <= 0:
        return f"queue_ttl {row.queue_ttl} is not positive"
    if not {row.cron_behavior, row.scheduled_behavior} <= {None, "DROP", "QUEUE"}:
        return "a behavior is DROP or QUEUE"
    return None


def timer_fault(row: CronRow | CronChange | ScheduledRunRow | ScheduledRunChange) -> str | None:
    """What the CHECK constraints of cron and scheduled_run say."""
    if isinstance(row, CronRow | CronChange):
        if not row.is_enabled and row.next_at is not None:
            return "a disabled cron has no next tick"
        if isinstance(row, CronRow) and max(len(row.name), len(row.expression)) > MAX_CRON_TEXT:
            return f"name and expression have at most {MAX_CRON_TEXT} characters"
    elif row.fired_at is None:
        if row.run_id is not None or row.error is not None:
            return "what waits for its time has neither run nor error"
    elif (row.run_id is None) == (row.error is None):
        return "what has fired has either a run or an error"
    if isinstance(row, CronRow | ScheduledRunRow):
        if row.priority is not None and not 1 <= row.priority <= 3:
            return f"priority {row.priority} is not 1 to 3"
        if row.input is None:
            return "input is None, not bytes"
    return None


def _limit_fault(row: RateLimitRow) -> str | None:
    limit = row.limit_value or 0
    if limit < 0 or row.window_us <= 0:
        return f"limit {limit} of {row.window_us} us is not one"
    return None if 0 <= row.units_left <= limit else f"{row.units_left} units are left of {limit}"


def _result_fault(row: TaskRunRow | TaskRunFinish | TaskRunSettle) -> str | None:
    if row.error is not None and row.state <= TaskRunState.COMPLETED:
        return "only what failed or was stopped has an error"
    if row.output is not None and row.state != TaskRunState.COMPLETED:
        return "only a completed task run has an output"
    return None


def _worker_fault(row: TaskRunRow | TaskRunUpdate) -> str | None:
    if row.attempt < 0:
        return f"attempt {row.attempt} is negative"
    if row.state in _WITH_WORKER and (row.worker_id is None or row.assigned_at is None):
        return f"state {row.state} needs worker_id and assigned_at"
    return None


def _live_fault(row: TaskRunRow) -> str | None:
    is_final = row.state in FINAL_STATES
    if not is_final and not 0 <= row.state <= TaskRunState.EVICTED:
        return f"state {row.state} is unknown"
    if is_final != (row.finished_at is not None):
        return "finished_at is given for final states, and only for those"
    if is_final and (row.id == row.run_id or row.spill_queue is not None):
        return "only a task run of a run of several stays after its end, and not spilled"
    if row.spill_queue is not None and row.state in _WITH_WORKER:
        return "a spilled task run is with no worker"
    if row.step_index == RUN_STEP:
        if row.id != row.run_id or row.state != TaskRunState.WAITING or row.spill_queue not in (None, ""):
            return "the row of a run of several tasks has the run's id, waits, and is in no sub-queue with a name"
    elif row.step_index < 0 or row.spill_queue == "":
        return "a task run has a step, and a sub-queue with a name if any"
    return None


@cache
def _checks(kind: type[NamedTuple]) -> tuple[tuple[str, _Check], ...]:
    return tuple((name, _check_for(name, hint)) for name, hint in get_type_hints(kind).items())


def _check_for(name: str, hint: object) -> _Check:
    is_optional = get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)
    base = next(arg for arg in get_args(hint) if arg is not type(None)) if is_optional else hint
    check: _Check
    if base is int:
        bits = 16 if name in _SMALL else 32 if name in _MEDIUM else 64
        check = _integer(1 << (bits - 1))
    elif base is str:
        is_id = name == "id" or name.endswith("_id")
        check = _is_id if is_id else _is_json if name in _JSON_FIELDS else _is_text
    elif base is bytes:
        check = _is_bytes
    elif base is bool:
        check = _is_bool
    else:
        check = _are_texts
    if not is_optional:
        return check
    return lambda value: None if value is None else check(value)


def _integer(limit: int) -> _Check:
    def check(value: object) -> str | None:
        if not isinstance(value, int):
            return f"is {value!r}, not an integer"
        return None if -limit <= value < limit else f"is {value}, out of range"

    return check


def _is_id(value: object) -> str | None:
    return None if isinstance(value, str) and _ID.fullmatch(value) else f"is {value!r}, not an id"


def _is_text(value: object) -> str | None:
    if not isinstance(value, str):
        return f"is {value!r}, not text"
    if "\x00" in value:
        return "has U+0000, which Postgres text refuses"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"is not Unicode text: {error}"
    return None


def _is_json(value: object) -> str | None:
    fault = _is_text(value)
    if fault is not None or not isinstance(value, str):
        return fault
    try:
        json.loads(value)
    except ValueError as error:
        return f"is not JSON: {error}"
    return "has \\u0000, which jsonb refuses" if "\\u0000" in value else None


def _is_bytes(value: object) -> str | None:
    return None if isinstance(value, bytes) else f"is {type(value).__name__}, not bytes"


def _is_bool(value: object) -> str | None:
    return None if isinstance(value, bool) else f"is {value!r}, not a boolean"


def _are_texts(value: object) -> str | None:
    if not isinstance(value, tuple):
        return f"is {type(value).__name__}, not a tuple"
    return next((fault for item in value if (fault := _is_text(item))), None)


def repeated(ids: Iterable[str]) -> list[str]:
    """The ids that come more than once."""
    seen: set[str] = set()
    twice = []
    for row_id in ids:
        if row_id in seen:
            twice.append(row_id)
        seen.add(row_id)
    return twice


def metadata_text(metadata: str, key: str) -> str | None:
    """What `metadata ->> key` is in Postgres: a text as it is, anything else as JSON text, None for null or a missing key."""
    found = json.loads(metadata, parse_float=Decimal)
    value = found.get(key) if isinstance(found, dict) else None
    return value if value is None or isinstance(value, str) else _jsonb_text(value)


def _jsonb_text(value: object) -> str:
    """As Postgres writes jsonb: members by length of their keys, numbers without exponent."""
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda item: (len(item[0].encode()), item[0].encode()))
        inner = ", ".join(f"{_jsonb_text(key)}: {_jsonb_text(item)}" for key, item in members)
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_jsonb_text, value))}]"
    return f"{value:f}" if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)
