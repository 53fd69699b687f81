"""What the start of a task carries to its worker: how large it is, what is left out of one that is too large, what becomes of the rest.

Pure. Outputs may be megabytes: they are spliced as bytes, and their first byte alone tells an object from other JSON.

A start that no message can carry first loses the outputs of tasks that are no parents of the started one, and long error texts are cut.
If that does not help, the attempt fails, saying what is large: a worker would miss a parent's output in silence.
"""

import json
import logging
from collections.abc import Iterable

from broadaxe_actors.messages import Assignment, BatchStart, CancelOrder, ParentOutput, ReportKind, TaskReport

logger = logging.getLogger("broadaxe.grpc")

Order = Assignment | CancelOrder | BatchStart
"""What waits for a worker's stream, in order."""

ORDER_OVERHEAD_BYTES = 256
"""Ids, names and numbers of one start."""
CUT_ERRORS_SHARE = 8
"""Error texts that had to be cut have together the message limit divided by this."""
MIN_ERROR_BYTES = 256
MAX_PARENTS_NAMED = 20
MAX_ESCAPE_BYTES = 6
"""What one byte of text may become within a JSON text."""

_BLANKS = b" \t\r\n"
_REST_ALONE = '"parents":{},"triggers":{"filter_payload":null},"user_data":null,"overrides":null}'  # of nearly all starts


# ---------------------------------------------------------------- content


def start_payload(start: Assignment) -> str:
    """The action payload of a start for a unary worker (behaviour-core 2.7.2), spliced around what is not parsed again."""
    is_alone = not (start.parents or start.triggers or start.errors or start.filter_payload)
    rest = _REST_ALONE if is_alone else _rest(start)
    return lone_payload(start.input, rest)


def lone_payload(run_input: bytes, rest: str = _REST_ALONE) -> str:
    """The same for a task that has neither parents nor conditions."""
    text = run_input.decode() if run_input else "{}"
    if not text.startswith("{") and not text.lstrip().startswith("{"):
        # Only an object can be represented here.
        text = "null"
    return f'{{"input":{text},"triggered_by":"manual",{rest}'


def _rest(start: Assignment) -> str:
    errors = ""
    if start.errors:
        errors = f',"step_run_errors":{json.dumps(dict(start.errors), ensure_ascii=False)}'
    return (
        f'"parents":{_objects(start)},"triggers":{_triggers(start, "null")},'
        f'"user_data":null,"overrides":null{errors}}}'
    )


def _triggers(start: Assignment, without_filter: str) -> str:
    """The object of satisfied conditions with the payload of the filter first; a condition's own value of that name comes later and wins."""
    conditions = start.triggers.strip()[1:-1].strip()
    payload = start.filter_payload or without_filter
    first = f'"filter_payload":{payload}' if payload else ""
    return f"{{{','.join(part for part in (first, conditions) if part)}}}"


def trigger_data(start: Assignment) -> bytes:
    """The same for our own workers, who need no null; empty without anything."""
    return _triggers(start, "").encode() if start.triggers or start.filter_payload else b""


def _objects(start: Assignment) -> str:
    """Outputs as official workers can read them: objects alone, with an empty one for nothing and for null."""
    found = []
    for parent in start.parents:
        kind = _first_byte(parent.output)
        if kind == b"{":
            found.append(f'"{parent.task_name}":{parent.output.decode()}')
        elif kind in (b"", b"n"):
            found.append(f'"{parent.task_name}":{{}}')
        else:
            logger.debug(
                "run %s: the output of task %s is no JSON object; task %s starts without it",
                start.run_id,
                parent.task_name,
                start.step.task_name,
            )
    # Task names need no escapes: they are made of letters, digits, '.', '-' and '_'.
    return f"{{{','.join(found)}}}"


def _first_byte(output: bytes) -> bytes:
    first = output[:1]
    return output.lstrip(_BLANKS)[:1] if first and first in _BLANKS else first


def parents_by_name(parents: Iterable[ParentOutput]) -> bytes:
    """Outputs as our own workers read them: whatever JSON the tasks returned, null for nothing. Empty without any."""
    found = [b'"%b":%b' % (parent.task_name.encode(), parent.output or b"null") for parent in parents]
    return b"{%b}" % b",".join(found) if found else b""


# ---------------------------------------------------------------- size


def order_bytes(order: Order) -> int:
    """About how many bytes an order takes in a message; never fewer, but for escapes in error texts."""
    if isinstance(order, Assignment):
        size = len(order.input) + _utf8_bytes(order.metadata) + ORDER_OVERHEAD_BYTES
        if order.parents or order.triggers or order.errors or order.filter_payload:
            size += _utf8_bytes(order.triggers) + _utf8_bytes(order.filter_payload)
            for name, output, _ in order.parents:
                size += len(name) + len(output) + 8
            for name, text in order.errors:
                size += len(name) + _utf8_bytes(text) + 8
        return size
    if isinstance(order, BatchStart):
        return ORDER_OVERHEAD_BYTES + sum(map(order_bytes, order.members))
    return ORDER_OVERHEAD_BYTES


def is_surely_within(order: Order, limit: int) -> bool:
    """Whether an order fits into a message of `limit` bytes even if every byte of it had to be escaped."""
    return order_bytes(order) * MAX_ESCAPE_BYTES <= limit


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


# ---------------------------------------------------------------- too large


def lightened(order: Assignment | BatchStart, limit: int) -> Assignment | BatchStart:
    """What is left when outputs of tasks that are no parents stay behind and long error texts are cut."""
    if isinstance(order, BatchStart):
        return order._replace(members=tuple(_lightened_start(member, limit) for member in order.members))
    return _lightened_start(order, limit)


def _lightened_start(start: Assignment, limit: int) -> Assignment:
    left = tuple(parent for parent in start.parents if parent.is_direct)
    if len(left) < len(start.parents):
        logger.debug(
            "run %s: task %s starts without the outputs of %d tasks that are not its parents: they do not fit into a message",
            start.run_id,
            start.step.task_name,
            len(start.parents) - len(left),
        )
    errors = start.errors
    if errors:
        share = max(limit // CUT_ERRORS_SHARE // len(errors), MIN_ERROR_BYTES)
        errors = tuple((name, _cut(text, share)) for name, text in errors)
    return start._replace(parents=left, errors=errors)


def _cut(text: str, share: int) -> str:
    raw = text.encode()
    if len(raw) <= share:
        return text
    return f"{raw[:share].decode(errors='ignore')}... (cut: the error has {len(raw):,} bytes)"


def oversized(order: Assignment | BatchStart, size: int, limit: int) -> tuple[TaskReport, ...]:
    """The failures of attempts whose start has `size` bytes, which no message can carry. `order` is what was left of it."""
    if isinstance(order, Assignment):
        return (_failure(order, f"its start has {size:,} bytes", _parts(order), limit),)
    count = len(order.members)
    what = f"the start of its batch of {count:,} has {size:,} bytes"
    return tuple(
        _failure(member, what, f"{_parts(member)}; a smaller batch_max_size makes smaller batches", limit)
        for member in order.members
    )


def _failure(start: Assignment, what: str, parts: str, limit: int) -> TaskReport:
    return TaskReport(
        task_run_id=start.task_run_id,
        attempt=start.attempt,
        kind=ReportKind.FAILED,
        payload=(
            f"Task {start.step.task_name} could not be sent to a worker: {what}, and a message may have {limit:,} ({parts})"
        ).encode(),
        should_not_retry=True,
    )


def _parts(start: Assignment) -> str:
    """What makes a start large, the largest parent first."""
    parts = [f"input {len(start.input):,}, metadata {len(start.metadata):,}"]
    parents = sorted(
        (parent for parent in start.parents if parent.is_direct),
        key=lambda parent: len(parent.output),
        reverse=True,
    )
    if parents:
        named = [f"{parent.task_name} {len(parent.output):,}" for parent in parents[:MAX_PARENTS_NAMED]]
        if len(parents) > MAX_PARENTS_NAMED:
            named.append(f"and {len(parents) - MAX_PARENTS_NAMED} more")
        parts.append(f"outputs of its parents: {', '.join(named)}")
    return "; ".join(parts)
