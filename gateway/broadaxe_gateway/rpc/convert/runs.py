"""Triggers and selections of the wire to engine messages, and what becomes of runs back: results and details."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from broadaxe.wire import dispatcher_pb2, workflows_pb2
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2
from broadaxe_actors import traceparent
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import NewRun, RunDetails, RunFinished, TaskDetails, TaskResult
from broadaxe_gateway import selection
from broadaxe_gateway.rpc.convert.checks import (
    check_json,
    check_json_bytes,
    check_object,
    check_priority,
    check_text,
    check_time,
    check_uuid,
    refuse,
    utf8,
)
from broadaxe_gateway.rpc.convert.definitions import desired_labels
from broadaxe_gateway.rpc.limits import MAX_RUNS_PER_BULK, MEBIBYTE
from broadaxe_storage.records import RunFilter, TaskRunState

RESULTS_LIMIT_BYTES = 3 * MEBIBYTE
"""What the texts of one result may have together (behaviour-core 3.1)."""
MIN_ERROR_SHARE_BYTES = 256

_SUCCEEDED = frozenset({TaskRunState.COMPLETED, TaskRunState.SKIPPED})
_WITH_WORKER = frozenset({TaskRunState.ASSIGNED, TaskRunState.RUNNING})


# ---------------------------------------------------------------- triggers


def with_traceparent(metadata: str, field: str, run_id: str, source_id: str | None) -> str:
    """Metadata as a JSON object text that surely has a valid `traceparent`: the client's own, else one made of ids.

    The trace is that of the source (the parent of a child run), so that a tree of runs shares one.
    """
    if metadata and metadata != "{}":
        found = check_object(metadata, field)
        if traceparent.is_valid(found.get("traceparent")):
            return metadata
        if "traceparent" in found:
            del found["traceparent"]
            metadata = json.dumps(found, separators=(",", ":"))
    else:
        found = {}
    made = f'"traceparent":"{traceparent.make(run_id, source_id)}"'
    return f"{metadata.rstrip()[:-1]},{made}}}" if found else f"{{{made}}}"


def labels_text(where: str, labels: Mapping[str, trigger_pb2.DesiredWorkerLabels]) -> str | None:
    """Labels asked for at a trigger as JSON text, None without any."""
    found = desired_labels(where, labels)
    return json.dumps(found, separators=(",", ":")) if found else None


def new_run(request: trigger_pb2.TriggerWorkflowRequest, run_id: str) -> NewRun:
    """The run that a trigger asks for, under an id of ours. Raises `Refused` (INVALID_ARGUMENT)."""
    name = request.name
    if not name:
        raise refuse("the trigger names no workflow")
    parent = (
        check_uuid(request.parent_task_run_external_id, "parent_task_run_external_id")
        if request.HasField("parent_task_run_external_id")
        else None
    )
    source = check_uuid(request.parent_id, "parent_id") if request.parent_id else parent
    return NewRun(
        workflow_name=name,
        input=check_json(request.input, f"input of workflow {name!r}"),
        metadata=with_traceparent(
            request.additional_metadata, f"additional_metadata of workflow {name!r}", run_id, source
        ),
        run_id=run_id,
        priority=check_priority(request.priority) if request.HasField("priority") else None,
        parent_task_run_id=parent,
        child_index=request.child_index if request.HasField("child_index") else None,
        child_key=check_text(request.child_key, "child_key") if request.HasField("child_key") else None,
        desired_worker_id=check_uuid(request.desired_worker_id, "desired_worker_id")
        if request.desired_worker_id
        else None,
        desired_labels=labels_text(f"workflow {name!r}", request.desired_worker_labels)
        if request.desired_worker_labels
        else None,
    )


def new_runs(requests: Sequence[trigger_pb2.TriggerWorkflowRequest], run_ids: Sequence[str]) -> list[NewRun]:
    """The runs of a bulk trigger."""
    return [new_run(request, run_id) for request, run_id in zip(requests, run_ids, strict=True)]


def check_bulk(count: int) -> None:
    if count > MAX_RUNS_PER_BULK:
        raise refuse(
            f"the call triggers {count:,} runs; one call may trigger at most {MAX_RUNS_PER_BULK:,}: split the list"
        )


def new_admin_run(request: v1.TriggerWorkflowRunRequest, run_id: str) -> NewRun:
    name = request.workflow_name
    if not name:
        raise refuse("the trigger names no workflow")
    field = f"additional_metadata of workflow {name!r}"
    return NewRun(
        workflow_name=name,
        input=check_json_bytes(request.input, f"input of workflow {name!r}"),
        metadata=with_traceparent(utf8(request.additional_metadata, field), field, run_id, None),
        run_id=run_id,
        priority=check_priority(request.priority) if request.HasField("priority") else None,
        desired_labels=labels_text(f"workflow {name!r}", request.desired_worker_labels)
        if request.desired_worker_labels
        else None,
    )


def triggered(run_id: str) -> workflows_pb2.TriggerWorkflowResponse:
    return workflows_pb2.TriggerWorkflowResponse(workflow_run_id=run_id)


def bulk_triggered(run_ids: Sequence[str]) -> workflows_pb2.BulkTriggerWorkflowResponse:
    return workflows_pb2.BulkTriggerWorkflowResponse(workflow_run_ids=run_ids)


def admin_triggered(run_id: str) -> v1.TriggerWorkflowRunResponse:
    return v1.TriggerWorkflowRunResponse(external_id=run_id)


# ---------------------------------------------------------------- runs meant by ids or a filter


def selected(
    request: v1.CancelTasksRequest | v1.ReplayTasksRequest,
) -> tuple[tuple[str, ...], RunFilter | None]:
    """What `CancelRuns` and `ReplayRuns` ask for: ids, or else a filter. Raises `Refused` (INVALID_ARGUMENT)."""
    has_filter = request.HasField("filter")
    selection.check_choice(has_ids=bool(request.external_ids), has_filter=has_filter)
    if has_filter:
        return (), _run_filter(request.filter)
    return selection.ids(request.external_ids, "external_ids"), None


def _run_filter(given: v1.TasksFilter) -> RunFilter:
    if not given.HasField("since"):
        raise refuse("filter.since is missing: give the time from which runs are meant")
    return RunFilter(
        since=check_time(given.since, "filter.since"),
        until=check_time(given.until, "filter.until") if given.HasField("until") else None,
        states=selection.states(given.statuses),
        workflow_ids=selection.ids(given.workflow_ids, "filter.workflow_ids"),
        metadata=selection.metadata(given.additional_metadata),
    )


def cancelled(ids: Sequence[str]) -> v1.CancelTasksResponse:
    return v1.CancelTasksResponse(cancelled_tasks=ids)


def replayed(ids: Sequence[str]) -> v1.ReplayTasksResponse:
    return v1.ReplayTasksResponse(replayed_tasks=ids)


# ---------------------------------------------------------------- results


class FittedResult(NamedTuple):
    """One task's end as it is told: `error` is None unless the task failed or was cancelled."""

    result: TaskResult
    output: bytes | None
    error: bytes | None


def fit_results(results: Sequence[TaskResult], limit: int = RESULTS_LIMIT_BYTES) -> tuple[FittedResult, ...]:
    """Outputs and errors that fit into one message (behaviour-core 3.1).

    Completed and skipped tasks have an output and no error, failed ones their error, cancelled ones an error that is present
    and empty. Errors too long for their share of the room give way to a notice; outputs too long empty the whole.
    """
    fitted = [_ended(result) for result in results]
    if sum([len(entry.output or entry.error or b"") for entry in fitted]) <= limit:
        return tuple(fitted)
    outputs = sum(len(entry.output) for entry in fitted if entry.output)
    if outputs > limit:
        return ()
    errors = [entry for entry in fitted if entry.error]
    share = max((limit - outputs) // len(errors), MIN_ERROR_SHARE_BYTES)
    return tuple(
        entry._replace(error=_notice(entry)) if entry.error and len(entry.error) > share else entry
        for entry in fitted
    )


def _ended(result: TaskResult) -> FittedResult:
    if result.state in _SUCCEEDED:
        return FittedResult(result, result.output or b"", None)
    if result.state == TaskRunState.FAILED:
        return FittedResult(result, None, result.error or b"")
    return FittedResult(result, None, b"")


def _notice(entry: FittedResult) -> bytes:
    size = len(entry.error or b"")
    return (
        f"the error of task {entry.result.task_name} is too large to be sent here ({size:,} bytes)".encode()
    )


def run_finished(finished: RunFinished) -> dispatcher_pb2.WorkflowRunEvent:
    event = dispatcher_pb2.WorkflowRunEvent(
        workflow_run_id=finished.run_id,
        event_type=dispatcher_pb2.WORKFLOW_RUN_EVENT_TYPE_FINISHED,
    )
    event.event_timestamp.FromNanoseconds(time.time_ns())
    for result, output, error in fit_results(finished.results):
        event.results.add(
            task_run_external_id=result.task_run_id,
            job_run_id=result.task_run_id,
            task_name=result.task_name,
            output=None if output is None else output.decode(errors="replace"),
            error=None if error is None else error.decode(errors="replace"),
        )
    return event


# ---------------------------------------------------------------- details

Status: TypeAlias = "v1.RunStatus.ValueType"

_FINAL_STATUS: dict[int, Status] = {
    TaskRunState.COMPLETED: v1.COMPLETED,
    TaskRunState.SKIPPED: v1.COMPLETED,
    TaskRunState.FAILED: v1.FAILED,
    TaskRunState.CANCELLED: v1.CANCELLED,
}


def run_details(details: RunDetails, max_bytes: int) -> v1.GetRunDetailsResponse:
    """The state of a run (behaviour-core 3.3). Raises `Refused` when it is too large for a message."""
    response = v1.GetRunDetailsResponse(
        input=details.input,
        additional_metadata=details.metadata.encode(),
        done=details.is_done,
    )
    statuses: list[Status] = []
    for task in details.tasks:
        entry = response.task_runs[task.task_name]
        entry.external_id = task.task_run_id
        entry.readable_id = task.task_name
        entry.status = _status(task, is_done=details.is_done)
        entry.is_evicted = task.state == TaskRunState.EVICTED
        response.is_evicted |= entry.is_evicted
        statuses.append(entry.status)
        if details.is_done:
            _add_end(entry, task)
    response.status = _run_status(statuses or [_run_alone(details)])
    size = response.ByteSize()
    if size > max_bytes:
        raise Refused(
            Code.RESOURCE_EXHAUSTED,
            f"the details of run {details.run_id} have {size:,} bytes; a message may have {max_bytes:,}",
        )
    return response


def _run_alone(details: RunDetails) -> Status:
    """The status of a run of which no task exists: not yet, or not any more as it was cancelled before."""
    return _FINAL_STATUS[details.state] if details.is_done else v1.QUEUED


def _status(task: TaskDetails, *, is_done: bool) -> Status:
    state = TaskRunState(task.state)
    if is_done:
        return _FINAL_STATUS[state]
    if state in _WITH_WORKER or state == TaskRunState.EVICTED:
        return v1.RUNNING
    return v1.QUEUED


def _add_end(entry: v1.TaskRunDetail, task: TaskDetails) -> None:
    if task.state in _SUCCEEDED:
        if task.output:
            entry.output = task.output
    elif task.state == TaskRunState.FAILED:
        entry.error = (task.error or b"").decode(errors="replace")
    else:
        entry.error = ""


def _run_status(statuses: Sequence[Status]) -> Status:
    distinct = set(statuses)
    if len(distinct) == 1:
        return statuses[0]
    if v1.FAILED in distinct:
        return v1.FAILED
    if v1.RUNNING in distinct or v1.QUEUED in distinct:
        return v1.RUNNING
    if v1.CANCELLED in distinct:
        return v1.CANCELLED
    return v1.COMPLETED
