"""What happened to tasks, and when, in the shapes of REST (rest 1.7). Pure."""

from collections.abc import Iterable, Sequence

from broadaxe_gateway.http.rest.models.common import EMPTY, meta, optional_time, payloads_hidden, time_text
from broadaxe_gateway.http.rest.models.runs import TaskEvent, TaskStatus, TaskSummary, TaskTiming
from broadaxe_gateway.http.rest.present_runs import (
    Group,
    display_name,
    started_at,
    status_of,
    task_number,
)
from broadaxe_gateway.http.rest.versions import Version
from broadaxe_storage.records import TaskEventKind, TaskEventRow, TaskRunState
from broadaxe_storage.summaries import RunSummary

_FAILURES = frozenset(
    {
        TaskEventKind.FAILED,
        TaskEventKind.TIMED_OUT,
        TaskEventKind.SCHEDULING_TIMED_OUT,
        TaskEventKind.QUARANTINED,
    }
)
_OTHER_NAMES = {
    # The wire has no word for these; the message tells what they are.
    TaskEventKind.QUARANTINED: TaskEventKind.FAILED.name,
    TaskEventKind.CONDITION_FAILED: TaskEventKind.QUEUED.name,
}
_STARTS = frozenset({TaskEventKind.ASSIGNED, TaskEventKind.STARTED})
_ENDS_OF_ATTEMPT = _FAILURES | {TaskEventKind.RETRYING, TaskEventKind.REASSIGNED}


def event_type(kind: int) -> str:
    """`V1TaskEventType`."""
    known = TaskEventKind(kind)
    return _OTHER_NAMES.get(known, known.name)


def task_events(
    rows: Iterable[TaskEventRow], tasks: Sequence[RunSummary], version: Version | None, *, has_output: bool
) -> list[TaskEvent]:
    """Events of tasks of one run, newest first: the last of each kind within an attempt."""
    by_id = {task.id: task for task in tasks}
    last: dict[tuple[str, int, str], TaskEventRow] = {}
    for row in rows:
        last[row.task_run_id, row.attempt, event_type(row.kind)] = row
    ordered = sorted(last.values(), key=lambda row: (row.at, row.attempt, row.kind))
    found = [
        _task_event(number, row, by_id[row.task_run_id], version, has_output=has_output)
        for number, row in enumerate(ordered, 1)
    ]
    found.reverse()
    return found


def _task_event(
    number: int, row: TaskEventRow, task: RunSummary, version: Version | None, *, has_output: bool
) -> TaskEvent:
    text = row.message.decode(errors="replace")
    is_failure = row.kind in _FAILURES
    is_finish = row.kind == TaskEventKind.FINISHED
    return TaskEvent(
        id=number,
        task_id=row.task_run_id,
        timestamp=time_text(row.at),
        event_type=event_type(row.kind),
        message="" if is_failure else text,
        error_message=text if is_failure else "",
        output=(task.output or b"").decode(errors="replace")
        if has_output and is_finish and not payloads_hidden.get()
        else None,
        worker_id=row.worker_id,
        task_display_name=display_name(task, version),
        retry_count=row.attempt,
        attempt=row.attempt + 1,
    )


def at_attempt(summary: TaskSummary, attempt: int, events: Iterable[TaskEventRow]) -> TaskSummary:
    """A task as an attempt before the current one left it, as far as its events tell; only the last attempt's output is kept."""
    own = [event for event in events if event.attempt == attempt]
    begun = max((event.at for event in own if event.kind in _STARTS), default=None)
    ends = [event for event in own if event.kind in _ENDS_OF_ATTEMPT]
    ended = max((event.at for event in ends), default=None)
    # RETRYING tells what comes next, not what went wrong.
    texts = [event.message for event in ends if event.message and event.kind != TaskEventKind.RETRYING]
    summary.retry_count, summary.attempt = attempt, attempt + 1
    summary.status = TaskStatus.FAILED
    summary.is_evicted = False
    summary.output = EMPTY
    summary.error_message = texts[-1].decode(errors="replace") if texts else ""
    summary.started_at, summary.finished_at = optional_time(begun), optional_time(ended)
    summary.duration = None if begun is None or ended is None else max(0, ended - begun) // 1000
    return summary


def timing(found: Group, task: RunSummary, depth: int, tenant_id: str) -> TaskTiming:
    """When one task was what, `depth` levels below the run that was asked for."""
    return TaskTiming(
        metadata=meta(task.id, task.created_at),
        depth=depth,
        status=status_of(task.state),
        is_evicted=True if task.state == TaskRunState.EVICTED else None,
        task_display_name=display_name(task, found.version),
        task_external_id=task.id,
        task_id=task_number(task.id),
        task_inserted_at=time_text(task.created_at),
        tenant_id=tenant_id,
        parent_task_external_id=found.run.parent_task_run_id,
        queued_at=time_text(task.queued_at),
        started_at=optional_time(started_at(task)),
        finished_at=optional_time(task.finished_at),
        workflow_run_id=task.run_id,
        retry_count=task.attempt,
        attempt=task.attempt + 1,
    )
