"""Rows of runs and tasks to the shapes of REST (rest 1.3, 1.4). Pure.

Three kinds of row: a run of one task is run and task in one; a run of several has a row of its own, whose status and times derive from
those of its tasks; and those tasks.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from broadaxe_gateway.http.rest.models.common import (
    EMPTY,
    NIL_ID,
    ZERO_TIME,
    Raw,
    meta,
    optional_time,
    raw_object,
    time_or_zero,
    time_text,
)
from broadaxe_gateway.http.rest.models.runs import (
    DisplayName,
    ShapeItem,
    TaskEvent,
    TaskStatus,
    TaskSummary,
    WorkflowRun,
    WorkflowRunDetails,
)
from broadaxe_gateway.http.rest.versions import Version
from broadaxe_gateway.rpc.convert.starts import lone_payload
from broadaxe_gateway.selection import STATES_OF_STATUS
from broadaxe_storage.records import TaskRunState
from broadaxe_storage.summaries import RunSummary

MAX_REPEATED_BYTES = 8 * 1024 * 1024
"""Of the input of a run, repeated with each of its tasks; past it the tasks are shown without."""

_STATUS_OF_STATE = {
    state: TaskStatus(status)
    for status, states in STATES_OF_STATUS.items()
    if status != "EVICTED"
    for state in states
}
_MAX_SAFE_INTEGER = 2**53 - 1


class Group(NamedTuple):
    """A run with its tasks; a run of one task is its own task."""

    run: RunSummary
    tasks: tuple[RunSummary, ...]
    version: Version | None
    """None if it was deleted."""

    @property
    def is_several(self) -> bool:
        return self.run.is_run_of_several

    def find(self, task_run_id: str) -> RunSummary | None:
        return next((task for task in self.tasks if task.id == task_run_id), None)


def group(run_id: str, rows: Iterable[RunSummary], versions: Mapping[str, Version]) -> Group | None:
    """The run of this id among rows, with its tasks in the order of its workflow; None if it is not there."""
    own = [row for row in rows if row.run_id == run_id]
    run = next((row for row in own if row.id == run_id), None)
    if run is None:
        return None
    tasks = sorted((row for row in own if not row.is_run_of_several), key=lambda row: row.step_index)
    return Group(run, tuple(tasks), versions.get(run.workflow_version_id))


# ---------------------------------------------------------------- single facts


def status_of(state: int) -> TaskStatus:
    return _STATUS_OF_STATE[TaskRunState(state)]


def is_evicted(found: Group) -> bool:
    """Whether everything of a run that has not ended was evicted."""
    open_tasks = [task for task in found.tasks if not task.is_final]
    return bool(open_tasks) and all(task.state == TaskRunState.EVICTED for task in open_tasks)


def display_name(row: RunSummary, version: Version | None) -> str:
    if version is None:
        name = "deleted"
    elif row.is_run_of_several:
        name = version.row.name
    else:
        name = version.tasks[row.step_index].name
    return f"{name}-{row.created_at // 1000}"


def started_at(row: RunSummary) -> int | None:
    """An attempt of which only the end was told has begun when it was assigned."""
    return row.assigned_at if row.started_at is None and row.is_final else row.started_at


def first_start(found: Group) -> int | None:
    return min((at for task in found.tasks if (at := started_at(task)) is not None), default=None)


def task_number(task_run_id: str) -> int:
    """An integer for clients that want one; the id is what names the task."""
    return int(task_run_id.replace("-", ""), 16) & _MAX_SAFE_INTEGER


def error_text(row: RunSummary) -> str:
    return (row.error or b"").decode(errors="replace")


def run_error(found: Group) -> str:
    """Of a run of several tasks, that of the task which failed first."""
    failed = [task for task in found.tasks if task.state == TaskRunState.FAILED]
    return error_text(min(failed, key=lambda task: task.finished_at or 0)) if failed else ""


def run_output(found: Group) -> Raw:
    """That of the task that completed last."""
    done = [task for task in found.tasks if task.state == TaskRunState.COMPLETED]
    return raw_object(max(done, key=lambda task: task.finished_at or 0).output) if done else EMPTY


def _duration_ms(start: int | None, end: int | None) -> int | None:
    return None if start is None or end is None else max(0, end - start) // 1000


def _metadata(row: RunSummary) -> Raw:
    return raw_object(row.metadata.encode())


def wrapped(run_input: bytes) -> Raw:
    """An input as it stands within the start of a task."""
    return Raw(lone_payload(run_input).encode())


def payload_bytes(rows: Iterable[RunSummary]) -> int:
    """Bytes that rows bring into an answer."""
    return sum(
        len(row.input) + len(row.output or b"") + len(row.error or b"") + len(row.metadata) for row in rows
    )


# ---------------------------------------------------------------- summaries


def task_summary(row: RunSummary, version: Version | None, tenant_id: str) -> TaskSummary:
    """A task as listings have it, without payloads."""
    start = started_at(row)
    return TaskSummary(
        metadata=meta(row.id, row.created_at),
        action_id=version.tasks[row.step_index].action if version else "",
        retry_count=row.attempt,
        attempt=row.attempt + 1,
        additional_metadata=_metadata(row),
        created_at=time_text(row.created_at),
        display_name=display_name(row, version),
        duration=_duration_ms(start, row.finished_at),
        error_message=error_text(row),
        finished_at=optional_time(row.finished_at),
        input=EMPTY,
        output=EMPTY,
        status=status_of(row.state),
        is_evicted=True if row.state == TaskRunState.EVICTED else None,
        started_at=optional_time(start),
        step_id=version.step_id(row.step_index) if version else None,
        task_external_id=row.id,
        task_id=task_number(row.id),
        task_inserted_at=time_text(row.created_at),
        tenant_id=tenant_id,
        type="TASK",
        workflow_id=row.workflow_id,
        workflow_name=version.row.name if version else None,
        workflow_run_external_id=row.run_id,
        workflow_version_id=row.workflow_version_id,
        parent_task_external_id=row.parent_task_run_id,
        idempotency_key=row.idempotency_key,
    )


def run_summary(found: Group, tenant_id: str, *, has_payloads: bool) -> TaskSummary:
    """A run as the listing of runs has it: `DAG`, whatever it is, and its tasks as children if it has several."""
    if not found.is_several:
        summary = task_summary(found.run, found.version, tenant_id)
        summary.type = "DAG"
        if has_payloads:
            add_payloads(summary, found.run)
        return summary
    run = found.run
    start = first_start(found)
    children = []
    for task in found.tasks:
        child = task_summary(with_run(task, run), found.version, tenant_id)
        if has_payloads:
            add_payloads(child, with_run(task, run))
        children.append(child)
    retries = max((task.attempt for task in found.tasks), default=0)
    return TaskSummary(
        metadata=meta(run.id, run.created_at),
        retry_count=retries,
        attempt=retries + 1,
        additional_metadata=_metadata(run),
        children=children,
        created_at=time_text(run.created_at),
        display_name=display_name(run, found.version),
        duration=_duration_ms(start, run.finished_at),
        error_message=run_error(found),
        finished_at=optional_time(run.finished_at),
        input=raw_object(run.input) if has_payloads else EMPTY,
        output=run_output(found) if has_payloads else EMPTY,
        status=status_of(found.run.state),
        is_evicted=True if is_evicted(found) else None,
        started_at=optional_time(start),
        step_id=NIL_ID,
        task_external_id=run.id,
        task_id=0,
        task_inserted_at=time_text(run.created_at),
        tenant_id=tenant_id,
        type="DAG",
        workflow_id=run.workflow_id,
        workflow_name=found.version.row.name if found.version else None,
        workflow_run_external_id=run.id,
        workflow_version_id=run.workflow_version_id,
        parent_task_external_id=run.parent_task_run_id,
        idempotency_key=run.idempotency_key,
    )


def with_run(task: RunSummary, run: RunSummary) -> RunSummary:
    """The row of a task with what only the row of its run has."""
    return task._replace(metadata=run.metadata, input=run.input)


def add_payloads(summary: TaskSummary, row: RunSummary) -> None:
    """Input, as it stands within the start of a task, and output."""
    summary.input = wrapped(row.input)
    summary.output = raw_object(row.output)


def detailed_task(found: Group, task: RunSummary, tenant_id: str) -> TaskSummary:
    """A task as the details of its run and the task itself have it; its input is not set."""
    summary = task_summary(with_run(task, found.run), found.version, tenant_id)
    summary.created_at = ZERO_TIME
    summary.workflow_name = summary.idempotency_key = None
    summary.is_durable = found.version.tasks[task.step_index].is_durable if found.version else False
    summary.is_evicted = task.state == TaskRunState.EVICTED
    summary.output = raw_object(task.output)
    return summary


# ---------------------------------------------------------------- details


def run_details(found: Group, events: Sequence[TaskEvent], tenant_id: str) -> WorkflowRunDetails:
    run, version = found.run, found.version
    start = first_start(found)
    tasks = [detailed_task(found, task, tenant_id) for task in found.tasks]
    if len(run.input) * len(tasks) <= MAX_REPEATED_BYTES or not found.is_several:
        for task in tasks:
            task.input = wrapped(run.input)
    return WorkflowRunDetails(
        run=WorkflowRun(
            metadata=meta(run.id, run.created_at),
            status=status_of(found.run.state),
            started_at=time_or_zero(start),
            finished_at=time_or_zero(run.finished_at),
            duration=_duration_ms(start, run.finished_at) or 0,
            tenant_id=tenant_id,
            additional_metadata=_metadata(run),
            display_name=display_name(run, version),
            workflow_id=run.workflow_id,
            output=run_output(found),
            error_message=run_error(found),
            workflow_version_id=run.workflow_version_id,
            input=raw_object(run.input) if found.is_several else wrapped(run.input),
            created_at=time_text(run.created_at),
            parent_task_external_id=run.parent_task_run_id,
        ),
        task_events=list(events),
        shape=_shape(found),
        tasks=tasks,
        workflow_config=config_of(version),
    )


def config_of(version: Version | None) -> Raw:
    """The registration of a workflow, as an object."""
    return Raw(version.row.definition.encode()) if version else EMPTY


def _shape(found: Group) -> list[ShapeItem]:
    version = found.version
    if version is None:
        return []
    ids = {task.step_index: task.id for task in found.tasks}
    return [
        ShapeItem(
            task_external_id=ids.get(index, NIL_ID),
            step_id=version.step_id(index),
            children_step_ids=version.children_of(index),
            task_name=task.name,
        )
        for index, task in enumerate(version.tasks)
    ]


def only_id(run_id: str, tenant_id: str) -> WorkflowRunDetails:
    """What the trigger of a run answers to who wants no more than its id."""
    return WorkflowRunDetails(
        run=WorkflowRun(
            metadata=meta(run_id, 0),
            status=TaskStatus.QUEUED,
            started_at=ZERO_TIME,
            finished_at=ZERO_TIME,
            duration=0,
            tenant_id=tenant_id,
            additional_metadata=EMPTY,
            display_name="",
            workflow_id=NIL_ID,
            output=EMPTY,
            input=EMPTY,
            created_at=ZERO_TIME,
        ),
        task_events=[],
        shape=[],
        tasks=[],
        workflow_config=EMPTY,
    )


def run_display_name(row: RunSummary, version: Version | None) -> DisplayName:
    return DisplayName(metadata=meta(row.id, row.created_at), display_name=display_name(row, version))
