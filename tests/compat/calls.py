"""Calls of the bare wire around runs of several tasks: definitions with parents and conditions, events, cancel, replay, refresh, release."""

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire import events_pb2 as events
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import condition_pb2 as shared
from tests.compat.wire import BareWorker, Wire

QUEUE, CANCEL, SKIP = shared.QUEUE, shared.CANCEL, shared.SKIP
START, STOP, BATCH = dispatcher.START_STEP_RUN, dispatcher.CANCEL_STEP_RUN, dispatcher.START_BATCH


# ---- conditions


def base(
    action: Any, expression: str = "", *, key: str = "data", group: str = ""
) -> shared.BaseMatchCondition:
    """What every condition has; without a group it is one of its own."""
    return shared.BaseMatchCondition(
        readable_data_key=key,
        action=action,
        or_group_id=group or str(uuid.uuid4()),
        expression=expression,
    )


def by_parent(action: Any, parent: str, expression: str = "", **fields: Any) -> shared.TaskConditions:
    condition = shared.ParentOverrideMatchCondition(
        base=base(action, expression, **fields), parent_readable_id=parent
    )
    return shared.TaskConditions(parent_override_conditions=[condition])


def by_event(
    action: Any,
    key: str,
    expression: str = "",
    *,
    name: str = "",
    scope: str | None = None,
    **fields: Any,
) -> shared.TaskConditions:
    """An event with that key; a task that waited for it gets its payload under `name`, or else under the key."""
    condition = shared.UserEventMatchCondition(
        base=base(action, expression, key=name or key, **fields), user_event_key=key, event_scope=scope
    )
    return shared.TaskConditions(user_event_conditions=[condition])


def by_sleep(action: Any, duration: str, **fields: Any) -> shared.TaskConditions:
    condition = shared.SleepMatchCondition(
        base=base(action, **{"key": f"sleep:{duration}", **fields}), sleep_for=duration
    )
    return shared.TaskConditions(sleep_conditions=[condition])


def all_of(*parts: shared.TaskConditions) -> shared.TaskConditions:
    whole = shared.TaskConditions()
    for part in parts:
        whole.MergeFrom(part)
    return whole


# ---- definitions


@dataclass
class Step:
    """A task of a definition. `fields` are further fields of `CreateTaskOpts`."""

    name: str
    parents: Sequence[str] = ()
    conditions: shared.TaskConditions | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def opts(self, workflow: str) -> v1.CreateTaskOpts:
        given = {"timeout": "60s", "schedule_timeout": "5m", **self.fields}
        return v1.CreateTaskOpts(
            readable_id=self.name,
            action=f"{workflow}:{self.name}",
            parents=self.parents,
            conditions=self.conditions,
            **given,
        )


def definition(
    name: str, *steps: Step, on_failure: Step | None = None, **fields: Any
) -> v1.CreateWorkflowVersionRequest:
    request = v1.CreateWorkflowVersionRequest(name=name, tasks=[step.opts(name) for step in steps], **fields)
    if on_failure is not None:
        request.on_failure_task.CopyFrom(on_failure.opts(name))
    return request


def put(wire: Wire, name: str, *steps: Step, on_failure: Step | None = None, **fields: Any) -> list[str]:
    """Registers a workflow; returns the action ids of its tasks."""
    wire.put(definition(name, *steps, on_failure=on_failure, **fields))
    return [f"{name}:{step.name}".lower() for step in (*steps, *([on_failure] if on_failure else ()))]


# ---- calls


def push(wire: Wire, key: str, payload: Any = None, **fields: Any) -> events.Event:
    request = events.PushEventRequest(key=key, payload=json.dumps(payload or {}), **fields)
    request.event_timestamp.GetCurrentTime()
    answer = wire.unary("/EventsService/Push", request, events.Event)
    assert isinstance(answer, events.Event)
    return answer


def tasks_filter(*, minutes: float = 10, **fields: Any) -> v1.TasksFilter:
    since = Timestamp()
    since.FromDatetime(datetime.now(UTC) - timedelta(minutes=minutes))
    return v1.TasksFilter(since=since, **fields)


def cancel(wire: Wire, *ids: str, **fields: Any) -> list[str]:
    request = v1.CancelTasksRequest(external_ids=ids, **fields)
    answer = wire.unary("/v1.AdminService/CancelTasks", request, v1.CancelTasksResponse)
    return list(answer.cancelled_tasks)


def replay(wire: Wire, *ids: str, **fields: Any) -> list[str]:
    request = v1.ReplayTasksRequest(external_ids=ids, **fields)
    answer = wire.unary("/v1.AdminService/ReplayTasks", request, v1.ReplayTasksResponse)
    return list(answer.replayed_tasks)


def refresh(wire: Wire, task_run_id: str, increment: str) -> dispatcher.RefreshTimeoutResponse:
    request = dispatcher.RefreshTimeoutRequest(
        task_run_external_id=task_run_id, increment_timeout_by=increment
    )
    answer = wire.unary("/Dispatcher/RefreshTimeout", request, dispatcher.RefreshTimeoutResponse)
    assert isinstance(answer, dispatcher.RefreshTimeoutResponse)
    return answer


def release(wire: Wire, task_run_id: str) -> None:
    request = dispatcher.ReleaseSlotRequest(task_run_external_id=task_run_id)
    wire.unary("/Dispatcher/ReleaseSlot", request, dispatcher.ReleaseSlotResponse)


def put_log(wire: Wire, task_run_id: str, message: str, **fields: Any) -> None:
    request = events.PutLogRequest(task_run_external_id=task_run_id, message=message, **fields)
    request.created_at.GetCurrentTime()
    wire.unary("/EventsService/PutLog", request, events.PutLogResponse)


def send_batch(
    wire: Wire,
    action: dispatcher.AssignedAction,
    kind: Any,
    items: Iterable[dispatcher.BatchActionEventItem],
    worker_id: str = "",
) -> None:
    event = dispatcher.BatchActionEvent(
        worker_id=worker_id,
        action_id=action.action_id,
        batch_id=action.batchId,
        event_type=kind,
        items=items,
    )
    wire.unary("/Dispatcher/SendBatchActionEvent", event, dispatcher.ActionEventResponse)


# ---- reading


def payload_of(action: dispatcher.AssignedAction) -> dict[str, Any]:
    found = json.loads(action.action_payload)
    assert isinstance(found, dict)
    return found


def take(worker: BareWorker, *names: str, timeout: float = 15.0) -> dict[str, dispatcher.AssignedAction]:
    """The next actions of a worker, by task name: exactly those, in any order."""
    got: dict[str, dispatcher.AssignedAction] = {}
    for _ in names:
        action = worker.next(timeout=timeout)
        got[action.task_name] = action
    assert sorted(got) == sorted(names), sorted(got)
    return got


def results_of(wire: Wire, run_id: str, *, timeout: float = 15.0) -> dict[str, dispatcher.StepRunResult]:
    """The results of a final run, by task name."""
    stream = wire.runs(run_id)
    try:
        event = stream.next(timeout=timeout)
    finally:
        stream.cancel()
    assert event.workflow_run_id == run_id
    return {result.task_name: result for result in event.results}
