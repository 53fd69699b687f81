"""Crons and scheduled runs of the wire to engine messages, and what becomes of them back. Pure; raises `Refused`."""

from broadaxe.wire import workflows_pb2 as wire
from broadaxe_actors import cron_expression
from broadaxe_actors.messages import RunsScheduled
from broadaxe_gateway.rpc.convert.checks import (
    check_json,
    check_object,
    check_priority,
    check_text,
    check_time,
    check_uuid,
    refuse,
    shown,
)

MAX_SCHEDULES = 1_000
"""Runs that one call may schedule."""
MAX_CRON_NAME = 255


def schedule_runs(request: wire.ScheduleWorkflowRequest) -> tuple[object, ...]:
    """The fields of `ScheduleRuns` after the tenant (behaviour-core 4.5)."""
    name = request.name
    if not name:
        raise refuse("the call names no workflow to schedule")
    if not request.schedules:
        raise refuse(f"workflow {name!r}: schedules is empty: give the times at which it is to run")
    if len(request.schedules) > MAX_SCHEDULES:
        raise refuse(
            f"workflow {name!r}: the call schedules {len(request.schedules):,} runs; one call may schedule at most "
            f"{MAX_SCHEDULES:,}: split the list"
        )
    has_parent_task = request.HasField("parent_task_run_external_id")
    if request.parent_id and not (has_parent_task and request.HasField("child_index")):
        raise refuse(
            f"workflow {name!r}: parent_id is given without parent_task_run_external_id and child_index: give all or none"
        )
    return (
        name,
        tuple(check_time(time, "schedules") for time in request.schedules),
        check_json(request.input, f"input of workflow {name!r}"),
        metadata_text(request.additional_metadata, f"additional_metadata of workflow {name!r}"),
        check_priority(request.priority) if request.HasField("priority") else None,
        check_uuid(request.parent_id, "parent_id") if request.parent_id else None,
        check_uuid(request.parent_task_run_external_id, "parent_task_run_external_id")
        if has_parent_task
        else None,
    )


def metadata_text(text: str, field: str) -> str:
    """Metadata as JSON object text."""
    if text:
        check_object(text, field)
    return text or "{}"


def runs_scheduled(value: RunsScheduled, request: wire.ScheduleWorkflowRequest) -> wire.WorkflowVersion:
    version = wire.WorkflowVersion(
        id=value.version_id, order=value.version_number, workflow_id=value.workflow_id
    )
    version.created_at.FromMicroseconds(value.version_created_at)
    version.updated_at.FromMicroseconds(value.version_created_at)
    for scheduled_id, time in zip(value.ids, request.schedules, strict=True):
        version.scheduled_workflows.add(id=scheduled_id, trigger_at=time)
    return version


def check_cron(text: str, where: str) -> str:
    """A cron expression, as it was given."""
    check_text(text, f"{where}: cron expression")
    try:
        cron_expression.parse(text)
    except cron_expression.InvalidCron as error:
        raise refuse(f"{where}: cron expression {shown(text)} is not valid: {error}") from error
    return text


def check_cron_name(name: str) -> str:
    if not name.strip():
        raise refuse("cronName is empty: a cron that is made by API needs a name")
    if len(name) > MAX_CRON_NAME:
        raise refuse(f"cronName has {len(name):,} characters, expected at most {MAX_CRON_NAME}")
    return check_text(name, "cronName")
