"""What workers say (registration, labels, reports) to engine messages, and what they are told back."""

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from broadaxe.wire import dispatcher_pb2 as wire
from broadaxe_actors.messages import Assignment, BatchStart, CancelOrder, ReportKind, TaskReport
from broadaxe_gateway.rpc.convert.checks import (
    LONGEST_DURATION_US,
    check_action,
    check_name,
    check_text,
    check_uuid,
    find_time,
    json_problem,
    refuse,
)
from broadaxe_gateway.rpc.convert.starts import is_surely_within, lightened, oversized, start_payload

Labels = tuple[tuple[str, str | int], ...]

DEFAULT_SLOTS = (("default", 100),)
_KINDS = {
    wire.STEP_EVENT_TYPE_STARTED: ReportKind.STARTED,
    wire.STEP_EVENT_TYPE_COMPLETED: ReportKind.COMPLETED,
    wire.STEP_EVENT_TYPE_FAILED: ReportKind.FAILED,
    wire.STEP_EVENT_TYPE_CANCELLED: ReportKind.CANCELLED,
}


# ---------------------------------------------------------------- registration


class Registration(NamedTuple):
    """The fields of `RegisterWorker`, in its order."""

    name: str
    actions: tuple[str, ...]
    slot_config: tuple[tuple[str, int], ...]
    labels: Labels
    runtime_info: str
    is_batched: bool


def registration(request: wire.WorkerRegisterRequest) -> Registration:
    """Raises `Refused` (INVALID_ARGUMENT) by the rules of behaviour-core 2.2."""
    for service in request.services:
        check_name(service, "service")
    if request.HasField("slots") and request.slot_config:
        raise refuse("slots and slot_config are both given: give slot_config alone")
    slots = slot_config(request.slot_config)
    if request.HasField("slots"):
        if request.slots < 1:
            raise refuse(f"slots is {request.slots}, expected 1 or more")
        slots = (("default", request.slots),)
    return Registration(
        name=check_name(request.worker_name, "worker_name"),
        actions=action_ids(request.actions),
        slot_config=slots or DEFAULT_SLOTS,
        labels=labels(request.labels),
        runtime_info=runtime_info(request.runtime_info if request.HasField("runtime_info") else None),
        is_batched=False,
    )


def action_ids(actions: Iterable[str]) -> tuple[str, ...]:
    # A worker may name an action twice, also in another case: it is advertised once.
    return tuple(dict.fromkeys(check_action(action, "action") for action in actions))


def slot_config(config: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    for pool, units in config.items():
        check_text(pool, "slot type")
        if units < 0:
            raise refuse(f"slot_config: {pool!r} has {units} slots, expected 0 or more")
    return tuple(sorted(config.items()))


def labels(given: Mapping[str, wire.WorkerLabels]) -> Labels:
    return tuple(
        (
            check_text(key, "label"),
            label.int_value if label.HasField("int_value") else check_text(label.str_value, f"label {key!r}"),
        )
        for key, label in sorted(given.items())
    )


def runtime_info(info: wire.RuntimeInfo | None) -> str:
    """JSON object text of what a worker says it runs on."""
    found: dict[str, str] = {}
    if info is not None:
        for field in ("sdk_version", "language_version", "os", "extra"):
            if info.HasField(field):
                found[field] = check_text(getattr(info, field), f"runtime_info.{field}")
        if info.HasField("language"):
            known = wire.SDKS.values()
            found["language"] = wire.SDKS.Name(info.language) if info.language in known else "UNKNOWN"
    return json.dumps(found, separators=(",", ":"), sort_keys=True)


def registered(tenant_id: str, worker_id: str, name: str) -> wire.WorkerRegisterResponse:
    return wire.WorkerRegisterResponse(tenant_id=tenant_id, worker_id=worker_id, worker_name=name)


def unsubscribed(tenant_id: str, worker_id: str) -> wire.WorkerUnsubscribeResponse:
    return wire.WorkerUnsubscribeResponse(tenant_id=tenant_id, worker_id=worker_id)


def labels_upserted(tenant_id: str, worker_id: str) -> wire.UpsertWorkerLabelsResponse:
    return wire.UpsertWorkerLabelsResponse(tenant_id=tenant_id, worker_id=worker_id)


def heartbeat_taken() -> wire.HeartbeatResponse:
    return wire.HeartbeatResponse()


def version(text: str) -> wire.GetVersionResponse:
    return wire.GetVersionResponse(version=text)


def no_overrides() -> wire.OverridesDataResponse:
    return wire.OverridesDataResponse()


def timeout_refreshed(deadline: int) -> wire.RefreshTimeoutResponse:
    """`deadline` in microseconds since the epoch."""
    response = wire.RefreshTimeoutResponse()
    response.timeout_at.FromMicroseconds(deadline)
    return response


def slot_released() -> wire.ReleaseSlotResponse:
    return wire.ReleaseSlotResponse()


# ---------------------------------------------------------------- reports


def completion(output: str) -> tuple[ReportKind, bytes]:
    """What a completed attempt becomes: output that cannot be kept as JSON fails it (behaviour-core 2.8)."""
    if output:
        problem = json_problem(output)
        if problem is not None:
            return ReportKind.FAILED, f"invalid json in field taskOutput: {problem}".encode()
    return ReportKind.COMPLETED, output.encode()


def step_report(event: wire.StepActionEvent) -> TaskReport | None:
    """The report that a step event makes, None for one without effect. Raises `Refused` (INVALID_ARGUMENT)."""
    task_run_id = check_uuid(event.task_run_external_id, "task_run_external_id")
    if event.event_type == wire.STEP_EVENT_TYPE_ACKNOWLEDGED:
        return None
    kind = _kind(event.event_type)
    payload = b""
    if kind is ReportKind.COMPLETED:
        kind, payload = completion(event.event_payload)
    elif kind is ReportKind.FAILED:
        payload = event.event_payload.encode()
    return TaskReport(
        task_run_id=task_run_id,
        attempt=event.retry_count if event.HasField("retry_count") else None,
        kind=kind,
        payload=payload,
        should_not_retry=event.should_not_retry,
        started_at=find_time(event.event_timestamp) if kind is ReportKind.STARTED else 0,
        retry_after_ms=retry_delay(event.retry_after_ms),
    )


def batch_reports(event: wire.BatchActionEvent) -> tuple[TaskReport, ...]:
    """One report for each item. Raises `Refused` (INVALID_ARGUMENT) for the whole.

    Items of a named batch mean the attempts that it was made of: some workers give another number (behaviour-core 2.9).
    """
    batch_id = check_text(event.batch_id, "batch_id")
    event_kind = _kind(event.event_type)
    started_at = find_time(event.event_timestamp) if event_kind is ReportKind.STARTED else 0
    found = []
    for item in event.items:
        kind, payload = event_kind, b""
        if kind is ReportKind.COMPLETED:
            kind, payload = completion(item.event_payload)
        elif kind is ReportKind.FAILED:
            payload = item.event_payload.encode()
        # A cancelled item means the task, whatever attempt of it runs (behaviour-core 2.9).
        has_attempt = item.HasField("retry_count") and kind is not ReportKind.CANCELLED and not batch_id
        found.append(
            TaskReport(
                task_run_id=check_uuid(item.task_run_external_id, "task_run_external_id"),
                attempt=item.retry_count if has_attempt else None,
                kind=kind,
                payload=payload,
                should_not_retry=item.should_not_retry,
                started_at=started_at,
                retry_after_ms=retry_delay(item.retry_after_ms),
                batch_id=batch_id,
            )
        )
    return tuple(found)


def retry_delay(milliseconds: int) -> int:
    """What a worker asks for, brought within 0 and ten years: the report as a whole is no less true for it."""
    return min(max(milliseconds, 0), LONGEST_DURATION_US // 1000)


def _kind(event_type: int) -> ReportKind:
    kind = _KINDS.get(event_type)  # type: ignore[call-overload]  # enum values are ints
    if kind is None:
        raise refuse(
            f"event_type {event_type} is not valid: expected STARTED (1), COMPLETED (2), FAILED (3), ACKNOWLEDGED (4) or CANCELLED (5)"
        )
    found: ReportKind = kind
    return found


def report_taken(tenant_id: str, worker_id: str) -> wire.ActionEventResponse:
    return wire.ActionEventResponse(tenant_id=tenant_id, worker_id=worker_id)


# ---------------------------------------------------------------- assignments


def metadata_of(metadata: str, run_id: str) -> str:
    """Metadata as workers need it: an object with a `traceparent`, which runs that no client triggered lack."""
    if '"traceparent"' in metadata:
        return metadata
    trace = f'"traceparent":"00-{run_id.replace("-", "")}-{run_id[-17:].replace("-", "")}-01"'
    head = metadata.rstrip()[:-1].rstrip()
    return f"{{{trace}}}" if len(head) <= 1 else f"{head},{trace}}}"


def start_action(tenant_id: str, start: Assignment) -> wire.AssignedAction:
    step = start.step
    action = wire.AssignedAction(
        tenant_id=tenant_id,
        workflow_run_id=start.run_id,
        job_id=step.step_id,
        job_name=step.task_name,
        job_run_id=start.task_run_id,
        task_id=step.step_id,
        task_run_external_id=start.task_run_id,
        action_id=step.action,
        action_type=wire.START_STEP_RUN,
        action_payload=start_payload(start),
        task_name=step.task_name,
        retry_count=start.attempt,
        additional_metadata=metadata_of(start.metadata, start.run_id),
        child_workflow_index=start.child_index,
        child_workflow_key=start.child_key,
        parent_workflow_run_id=start.parent_task_run_id,
        priority=start.priority,
        workflow_id=step.workflow_id,
        workflow_version_id=step.workflow_version_id,
        triggering_event_external_id=start.triggering_event_id,
        triggering_event_key=start.triggering_event_key,
    )
    action.task_inserted_at.FromMicroseconds(start.created_at)
    return action


def cancel_action(tenant_id: str, order: CancelOrder) -> wire.AssignedAction:
    step = order.step
    return wire.AssignedAction(
        batchId=order.batch_id or None,
        batchKey=order.batch_key if order.batch_id else None,
        tenant_id=tenant_id,
        workflow_run_id=order.run_id,
        job_id=step.step_id,
        job_name=step.task_name,
        job_run_id=order.task_run_id,
        task_id=step.step_id,
        task_run_external_id=order.task_run_id,
        action_id=step.action,
        action_type=wire.CANCEL_STEP_RUN,
        task_name=step.task_name,
        retry_count=order.attempt,
        additional_metadata=metadata_of(order.metadata, order.run_id),
        priority=order.priority,
        workflow_id=step.workflow_id,
        workflow_version_id=step.workflow_version_id,
    )


def batch_action(tenant_id: str, batch: BatchStart) -> wire.AssignedAction:
    """The start of a batch: what a start says of its task run stands in the payload, by task run id (behaviour-core 2.7.4)."""
    members = ",".join(
        f'"{member.task_run_id}":{{"workflow_run_id":"{member.run_id}","payload":{start_payload(member)}}}'
        for member in batch.members
    )
    action = wire.AssignedAction(
        tenant_id=tenant_id,
        action_id=batch.members[0].step.action,
        action_type=wire.START_BATCH,
        action_payload=f"{{{members}}}",
        batchId=batch.batch_id,
        batchKey=batch.key,
        batchStartPayload=wire.BatchStartPayload(triggerReason=batch.reason, expectedSize=len(batch.members)),
    )
    action.batchStartPayload.triggerTime.FromMicroseconds(batch.at)
    return action


def fitting_action(
    tenant_id: str, order: Assignment | BatchStart, limit: int
) -> tuple[wire.AssignedAction | None, tuple[TaskReport, ...]]:
    """The action by which a task or batch starts; or none, and the failures of what no message of `limit` bytes can carry."""
    action = _action(tenant_id, order)
    # Far from the limit nothing is measured.
    if is_surely_within(order, limit) or action.ByteSize() <= limit:
        return action, ()
    left = lightened(order, limit)
    action = _action(tenant_id, left)
    size = action.ByteSize()
    return (action, ()) if size <= limit else (None, oversized(left, size, limit))


def _action(tenant_id: str, order: Assignment | BatchStart) -> wire.AssignedAction:
    return batch_action(tenant_id, order) if isinstance(order, BatchStart) else start_action(tenant_id, order)
