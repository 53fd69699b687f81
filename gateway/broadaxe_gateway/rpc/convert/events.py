"""Events, logs and stream chunks of the wire to engine messages, and followed runs' events back."""

from collections.abc import Sequence

from broadaxe.wire import dispatcher_pb2, events_pb2
from broadaxe_actors.messages import EventsPushed, NewChunk, NewEvent, NewLog, RunEvent
from broadaxe_gateway.rpc.convert.checks import (
    check_json,
    check_object,
    check_priority,
    check_text,
    check_time,
    check_time_us,
    check_uuid,
    refuse,
    shown,
)
from broadaxe_gateway.rpc.limits import MAX_EVENTS_PER_BULK
from broadaxe_storage.records import EventRow

MAX_LOG_CHARACTERS = 10_000
LOG_LEVELS = ("INFO", "ERROR", "WARN", "DEBUG")


# ---------------------------------------------------------------- events


def new_event(request: events_pb2.PushEventRequest) -> NewEvent:
    """Raises `Refused` (INVALID_ARGUMENT) by the rules of behaviour-core 5.1."""
    if not request.key:
        raise refuse("the event has no key")
    key = check_text(request.key, "event key")
    metadata = request.additional_metadata
    if metadata:
        check_object(metadata, f"additional_metadata of event {shown(key)}")
    return NewEvent(
        key=key,
        payload=check_json(request.payload, f"payload of event {shown(key)}"),
        metadata=metadata or "{}",
        scope=check_text(request.scope, "scope") if request.HasField("scope") else None,
        priority=check_priority(request.priority) if request.HasField("priority") else None,
    )


def new_events(requests: Sequence[events_pb2.PushEventRequest]) -> list[NewEvent]:
    """The events of a bulk push."""
    return [new_event(request) for request in requests]


def check_bulk(count: int) -> None:
    if not count:
        raise refuse("the call pushes no events: give at least one")
    if count > MAX_EVENTS_PER_BULK:
        raise refuse(
            f"the call pushes {count:,} events; one call may push at most {MAX_EVENTS_PER_BULK:,}: split the list"
        )


def pushed_events(
    tenant_id: str, requests: Sequence[events_pb2.PushEventRequest], pushed: EventsPushed
) -> list[events_pb2.Event]:
    """The stored events, in request order. The scope is not told back, as the contract has it."""
    found = []
    for request, event_id in zip(requests, pushed.event_ids, strict=True):
        event = events_pb2.Event(
            tenant_id=tenant_id,
            event_id=event_id,
            key=request.key,
            payload=request.payload,
            additional_metadata=request.additional_metadata
            if request.HasField("additional_metadata")
            else None,
        )
        event.event_timestamp.FromMicroseconds(pushed.created_at)
        found.append(event)
    return found


def new_event_of(row: EventRow) -> NewEvent:
    """An event that says the same as one of before. It is new: no webhook made it."""
    return NewEvent(row.key, row.payload, row.metadata, row.scope, row.priority)


def event_again(row: EventRow) -> events_pb2.PushEventRequest:
    """The push that such an event was, as `pushed_events` tells it."""
    return events_pb2.PushEventRequest(
        key=row.key, payload=row.payload.decode(), additional_metadata=row.metadata
    )


def events(pushed: Sequence[events_pb2.Event]) -> events_pb2.Events:
    return events_pb2.Events(events=pushed)


# ---------------------------------------------------------------- logs and chunks


def log_line(
    task_run_id: str,
    attempt: int | None,
    *,
    created_at: int,
    level: str | None,
    metadata: str,
    message: str,
) -> NewLog:
    """Raises `Refused` (INVALID_ARGUMENT) by the rules of behaviour-core 5.4."""
    check_uuid(task_run_id, "task_run_external_id")
    if not 1 <= len(message) <= MAX_LOG_CHARACTERS:
        raise refuse(
            f"the log message has {len(message):,} characters, expected 1 to {MAX_LOG_CHARACTERS:,}: shorten it"
        )
    if level is not None and level not in LOG_LEVELS:
        raise refuse(f"log level {shown(level)} is not known: expected one of {', '.join(LOG_LEVELS)}")
    if metadata:
        check_object(metadata, "log metadata")
    return NewLog(
        task_run_id=task_run_id.lower(),
        attempt=attempt,
        created_at=check_time_us(created_at, "created_at"),
        level=level,
        metadata=metadata or None,
        message=message.encode(),
    )


def put_log(request: events_pb2.PutLogRequest) -> NewLog:
    return log_line(
        request.task_run_external_id,
        request.task_retry_count if request.HasField("task_retry_count") else None,
        created_at=check_time(request.created_at, "created_at"),
        level=request.level or None,
        metadata=request.metadata,
        message=request.message,
    )


def log_put() -> events_pb2.PutLogResponse:
    return events_pb2.PutLogResponse()


def put_chunk(request: events_pb2.PutStreamEventRequest) -> NewChunk:
    return NewChunk(
        task_run_id=check_uuid(request.task_run_external_id, "task_run_external_id"),
        attempt=None,
        index=request.event_index if request.HasField("event_index") else None,
        message=request.message,
    )


def chunk_put() -> events_pb2.PutStreamEventResponse:
    return events_pb2.PutStreamEventResponse()


# ---------------------------------------------------------------- followed runs


def run_event(event: RunEvent, *, is_hangup: bool) -> dispatcher_pb2.WorkflowEvent:
    """One event of a followed run as the wire tells it (behaviour-core 3.2.3)."""
    wire = dispatcher_pb2.WorkflowEvent(
        workflow_run_id=event.run_id,
        resource_type=dispatcher_pb2.RESOURCE_TYPE_WORKFLOW_RUN
        if event.is_run
        else dispatcher_pb2.RESOURCE_TYPE_STEP_RUN,
        event_type=dispatcher_pb2.ResourceEventType.ValueType(event.kind),
        resource_id=event.resource_id,
        event_payload=event.payload.decode(errors="replace"),
        hangup=is_hangup,
        retry_count=event.attempt,
        event_index=event.index,
    )
    wire.event_timestamp.FromMicroseconds(event.at)
    return wire
