"""Messages of the batched streams to engine messages and back.

The hot path: each message is built once for everything that is ready, and what assignments of one step share is sent once a stream.
"""

from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from broadaxe.wire import stream_pb2 as wire
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    Assignment,
    BatchStart,
    CancelOrder,
    HeldAttempt,
    IdempotencyCollisions,
    NewChunk,
    NewLog,
    NewRun,
    ReportKind,
    RunFinished,
    StepRef,
    TaskReport,
)
from broadaxe_gateway.rpc.convert.checks import (
    OFF_LOOP_BYTES,
    check_json_bytes,
    check_name,
    check_priority,
    check_text,
    check_uuid,
    refuse,
    utf8,
)
from broadaxe_gateway.rpc.convert.events import log_line
from broadaxe_gateway.rpc.convert.runs import fit_results, labels_text, with_traceparent
from broadaxe_gateway.rpc.convert.starts import (
    ORDER_OVERHEAD_BYTES,
    Order,
    lightened,
    order_bytes,
    parents_by_name,
    trigger_data,
)
from broadaxe_gateway.rpc.convert.workers import (
    DEFAULT_SLOTS,
    Labels,
    Registration,
    action_ids,
    completion,
    labels,
    metadata_of,
    retry_delay,
    runtime_info,
    slot_config,
)
from broadaxe_storage.records import TaskRunState

TARGET_BYTES = OFF_LOOP_BYTES
"""A message is closed once it has this many bytes; one item larger than that travels alone."""
MAX_ITEMS = 250
"""Items a message, so that building one does not keep the loop."""
_MAX_KNOWN_OBJECTS = 10_000
_KNOWN_NAMES = 1_000

_FINAL_STATES: dict[int, wire.FinalState.ValueType] = {
    TaskRunState.COMPLETED: wire.FINAL_STATE_COMPLETED,
    TaskRunState.SKIPPED: wire.FINAL_STATE_COMPLETED,
    TaskRunState.FAILED: wire.FINAL_STATE_FAILED,
    TaskRunState.CANCELLED: wire.FINAL_STATE_CANCELLED,
}

_KINDS: dict[int, ReportKind] = {int(kind): kind for kind in ReportKind}

# ---------------------------------------------------------------- worker up


def batched_registration(hello: wire.Hello) -> Registration:
    return Registration(
        name=check_name(hello.worker_name, "worker_name"),
        actions=action_ids(hello.actions),
        slot_config=slot_config(hello.slot_config) or DEFAULT_SLOTS,
        labels=labels(hello.labels),
        runtime_info=runtime_info(hello.runtime_info if hello.HasField("runtime_info") else None),
        is_batched=True,
    )


def returning_worker(hello: wire.Hello) -> tuple[str, tuple[HeldAttempt, ...]]:
    """Id of a worker that comes back, and what it holds."""
    return check_uuid(hello.worker_id, "worker_id"), tuple(
        HeldAttempt(check_uuid(held.task_run_id, "in_flight.task_run_id"), held.attempt)
        for held in hello.in_flight
    )


def upserted_labels(up: wire.WorkerUp) -> Labels:
    return labels(up.upsert_labels)


def task_reports(up: wire.WorkerUp) -> tuple[TaskReport, ...]:
    """Raises `Refused` (INVALID_ARGUMENT) for a report that names no task run or kind."""
    found = []
    for report in up.reports:
        kind = _KINDS.get(report.kind)
        if kind is None:
            raise refuse(f"report kind {report.kind} is not valid: expected STARTED (1) to CANCELLED (4)")
        payload = report.payload
        if kind is ReportKind.COMPLETED and payload:
            try:
                kind, payload = completion(payload.decode())
            except UnicodeDecodeError as error:
                kind, payload = ReportKind.FAILED, f"task output is not UTF-8: {error}".encode()
        found.append(
            TaskReport(
                check_uuid(report.task_run_id, "task_run_id"),
                report.attempt,
                kind,
                payload,
                report.should_not_retry,
                report.started_at_us,
                retry_delay(report.retry_after_ms) if report.retry_after_ms else 0,
            )
        )
    return tuple(found)


# ---------------------------------------------------------------- worker down


def welcome(worker_id: str, tenant_id: str, heartbeat_interval_ms: int) -> wire.WorkerDown:
    return wire.WorkerDown(
        welcome=wire.Welcome(
            worker_id=worker_id, tenant_id=tenant_id, heartbeat_interval_ms=heartbeat_interval_ms
        )
    )


class DownWriter:
    """Builds the messages of one worker stream: knows which steps it has named."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._ref_of_object: dict[int, tuple[StepRef, int]] = {}
        self._ref_of_step: dict[StepRef, int] = {}
        self._batch = 0

    @property
    def last_batch(self) -> int:
        """Number of the newest batch of assignments."""
        return self._batch

    def build(self, orders: deque[Order]) -> tuple[wire.WorkerDown, int, int, list[Assignment | BatchStart]]:
        """Take orders off the left up to the target size.

        Returns the message, the bytes taken (as `order_bytes`), the number of attempts in it, and what is left of starts that no
        message can carry.
        """
        down = wire.WorkerDown()
        taken = held = 0
        oversized: list[Assignment | BatchStart] = []
        while orders and taken < TARGET_BYTES and held < MAX_ITEMS:
            order = orders[0]
            size = order_bytes(order)
            if taken and taken + size > self._max_bytes:
                break
            orders.popleft()
            taken += size
            if isinstance(order, CancelOrder):
                down.cancels.add(task_run_id=order.task_run_id, attempt=order.attempt)
            elif size + ORDER_OVERHEAD_BYTES <= self._max_bytes:
                held += self._add(down, order)
            else:
                # Alone in its message, then: nothing else was taken, nor will be.
                left = lightened(order, self._max_bytes)
                count = self._add(down, left)
                if down.ByteSize() + ORDER_OVERHEAD_BYTES > self._max_bytes:
                    down = self._emptied(down)
                    oversized.append(left)
                else:
                    held += count
        if held:
            self._batch += 1
            down.batch = self._batch
        return down, taken, held, oversized

    def _add(self, down: wire.WorkerDown, order: Assignment | BatchStart) -> int:
        """Write a start or a batch into a message; returns the number of attempts."""
        if isinstance(order, Assignment):
            self._fill(down.assignments, order, down)
            return 1
        batch = down.batches.add(batch_id=order.batch_id, batch_key=order.key, reason=order.reason)
        for member in order.members:
            self._fill(batch.members, member, down)
        return len(order.members)

    def _fill(self, assignments: Any, order: Assignment, down: wire.WorkerDown) -> None:
        step = order.step
        known = self._ref_of_object.get(id(step))
        # Field by field, and those that are there alone: with all of them as arguments of `add` it takes twice as long.
        entry = assignments.add()
        entry.step = known[1] if known is not None else self._ref(step, down)
        entry.task_run_id = order.task_run_id
        if order.run_id != order.task_run_id:
            entry.run_id = order.run_id
        entry.attempt = order.attempt
        entry.priority = order.priority
        entry.input = order.input
        entry.metadata = metadata_of(order.metadata, order.run_id).encode()
        if order.parent_task_run_id is not None:
            entry.parent_task_run_id = order.parent_task_run_id
        if order.child_index is not None:
            entry.child_index = order.child_index
        if order.child_key is not None:
            entry.child_key = order.child_key
        if order.triggering_event_id is not None:
            entry.triggering_event_id = order.triggering_event_id
        if order.triggering_event_key is not None:
            entry.triggering_event_key = order.triggering_event_key
        if order.parents or order.triggers or order.errors or order.filter_payload:
            entry.parents = parents_by_name(order.parents)
            entry.triggers = trigger_data(order)
            entry.task_run_errors.update(order.errors)

    @staticmethod
    def _emptied(down: wire.WorkerDown) -> wire.WorkerDown:
        """The message without its starts. Steps that it names stay: later messages refer to them."""
        return wire.WorkerDown(steps=down.steps)

    def _ref(self, step: StepRef, down: wire.WorkerDown) -> int:
        ref = self._ref_of_step.get(step)
        if ref is None:
            ref = self._ref_of_step[step] = len(self._ref_of_step) + 1
            down.steps.add(
                ref=ref,
                step_id=step.step_id,
                action_id=step.action,
                task_name=step.task_name,
                workflow_id=step.workflow_id,
                workflow_version_id=step.workflow_version_id,
            )
        # An object is kept with its id, or another could come to live at its address. Where batches are pickled every
        # batch brings new objects, so the table is emptied before it grows large.
        if len(self._ref_of_object) >= _MAX_KNOWN_OBJECTS:
            self._ref_of_object.clear()
        self._ref_of_object[id(step)] = (step, ref)
        return ref


# ---------------------------------------------------------------- client up


def stream_runs(runs: Sequence[wire.NewRun], run_ids: Sequence[str]) -> list[NewRun]:
    """The runs of a trigger; `run_ids` stand in where the client chose none. Raises `Refused` (INVALID_ARGUMENT)."""
    return [_stream_run(run, run_id) for run, run_id in zip(runs, run_ids, strict=True)]


@lru_cache(maxsize=_KNOWN_NAMES)
def _field_names(workflow: str) -> tuple[str, str]:
    """What errors call the input and the metadata of a run: kept, because next to none are told."""
    return f"input of workflow {workflow!r}", f"metadata of workflow {workflow!r}"


def _stream_run(run: wire.NewRun, run_id: str) -> NewRun:
    name = run.workflow_name
    if not name:
        raise refuse("the trigger names no workflow")
    if run.run_id:
        run_id = check_uuid(run.run_id, "run_id")
    parent = check_uuid(run.parent_task_run_id, "parent_task_run_id") if run.parent_task_run_id else None
    input_name, metadata_name = _field_names(name)
    metadata = run.metadata
    return NewRun(
        name,
        check_json_bytes(run.input, input_name),
        with_traceparent(
            utf8(metadata, "metadata") if metadata else "",
            metadata_name,
            run_id,
            parent,
        ),
        run_id,
        check_priority(run.priority) if run.HasField("priority") else None,
        parent,
        run.child_index if run.HasField("child_index") else None,
        check_text(run.child_key, "child_key") if run.HasField("child_key") else None,
        check_uuid(run.desired_worker_id, "desired_worker_id") if run.desired_worker_id else None,
        labels_text(f"workflow {name!r}", run.desired_worker_labels) if run.desired_worker_labels else None,
    )


def watched_ids(run_ids: Sequence[str]) -> list[str]:
    return [check_uuid(run_id, "run id") for run_id in run_ids]


def stream_logs(up: wire.ClientUp) -> tuple[list[NewLog], list[Refused]]:
    """Lines to keep, and why others are not: nobody waits for an answer about a line."""
    lines: list[NewLog] = []
    refusals: list[Refused] = []
    for line in up.logs:
        try:
            lines.append(
                log_line(
                    line.task_run_id,
                    line.attempt,
                    created_at=line.created_at_us,
                    level=line.level or None,
                    metadata=line.metadata,
                    message=line.message,
                )
            )
        except Refused as refusal:
            refusals.append(refusal)
    return lines, refusals


def stream_chunks(up: wire.ClientUp) -> tuple[NewChunk, ...]:
    return tuple(
        NewChunk(check_uuid(chunk.task_run_id, "task_run_id"), chunk.attempt, chunk.index, chunk.message)
        for chunk in up.chunks
    )


# ---------------------------------------------------------------- client down


def refusal(
    request: int, code: Code, message: str, collisions: IdempotencyCollisions | None = None
) -> wire.TriggerReply:
    """The answer to a trigger that created nothing, or, after collisions of idempotency keys, not all."""
    reply = wire.TriggerReply(request=request, refusal=wire.Refusal(code=int(code), message=message))
    if collisions is not None:
        reply.refusal.created_run_ids.extend(collisions.created_run_ids)
        for existing_run_id, colliding_run_id in collisions.collisions:
            reply.refusal.collisions.add(existing_run_id=existing_run_id, colliding_run_id=colliding_run_id)
    return reply


def trigger_reply(request: int, run_ids: Sequence[str]) -> wire.TriggerReply:
    return wire.TriggerReply(request=request, run_ids=run_ids)


class Mark(NamedTuple):
    """Everything that a client sent before is with the engine."""

    number: int


def finished_bytes(finished: RunFinished) -> int:
    """About how many bytes a result takes in a message."""
    size = 128
    for result in finished.results:
        size += 128 + len(result.output or b"") + len(result.error or b"")
    return size


def client_down(
    items: "deque[wire.TriggerReply | RunFinished | Mark]", max_bytes: int
) -> tuple[wire.ClientDown, int]:
    """Take items off the left up to the target size. Returns the message and the bytes taken (as `finished_bytes`)."""
    down = wire.ClientDown()
    taken = weight = 0
    while items and weight < TARGET_BYTES and len(down.finished) < MAX_ITEMS:
        item = items[0]
        if isinstance(item, RunFinished):
            size = bulk = finished_bytes(item)
        elif isinstance(item, wire.TriggerReply):
            size = 0
            bulk = item.ByteSize() if len(item.run_ids) > 1 or item.HasField("refusal") else 64
        else:
            items.popleft()
            down.mark = item.number
            continue
        if weight and weight + bulk > max_bytes:
            break
        items.popleft()
        weight += bulk
        taken += size
        if isinstance(item, RunFinished):
            _add_finished(down, item, max_bytes)
        else:
            down.replies.append(item)
    return down, taken


def _add_finished(down: wire.ClientDown, finished: RunFinished, max_bytes: int) -> None:
    entry = down.finished.add()
    entry.run_id = finished.run_id
    entry.state = _FINAL_STATES[finished.state]
    for result, output, error in fit_results(finished.results, max_bytes - 64 * 1024):
        told = entry.results.add()
        told.task_run_id = result.task_run_id
        told.task_name = result.task_name
        told.state = _FINAL_STATES[result.state]
        if output is not None:
            told.output = output
        if result.state == TaskRunState.CANCELLED:
            # Why it was cancelled is short, and the engine's own words; other clients must not see it (behaviour-core 3.1).
            error = result.error  # noqa: PLW2901 - in place of the empty one
        if error is not None:
            told.error = error
