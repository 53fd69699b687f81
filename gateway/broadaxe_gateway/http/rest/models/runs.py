"""Shapes of runs and tasks (rest 1)."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import Field, RootModel, StrictBool, StrictInt, StrictStr

from broadaxe_gateway.http.rest.models.common import (
    Pagination,
    Payload,
    Raw,
    ResourceMeta,
    SnakeWire,
    Wire,
    WithPayloads,
)


class TaskStatus(StrEnum):
    """`V1TaskStatus`. A task that was evicted reads as running."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


class RunningFilter(StrEnum):
    """`V1RunningFilter`: which of the running ones."""

    ALL = "ALL"
    EVICTED = "EVICTED"
    ON_WORKER = "ON_WORKER"


class MetadataOperator(StrEnum):
    """`V1AdditionalMetadataOperator`."""

    OR = "OR"
    AND = "AND"


class TaskSummary(WithPayloads):
    """`V1TaskSummary`: a run or a task."""

    metadata: ResourceMeta
    action_id: str = ""
    retry_count: int = 0
    attempt: int = 1
    additional_metadata: Raw
    children: "list[TaskSummary] | None" = None
    created_at: str
    display_name: str
    duration: int | None = None
    is_durable: bool | None = None
    error_message: str = ""
    finished_at: str | None = None
    input: Payload
    num_spawned_children: int = 0
    output: Payload
    status: TaskStatus
    is_evicted: bool | None = None
    started_at: str | None = None
    step_id: str | None = None
    task_external_id: str
    task_id: int
    task_inserted_at: str
    tenant_id: str
    type: Literal["DAG", "TASK"]
    workflow_id: str
    workflow_name: str | None = None
    workflow_run_external_id: str
    workflow_version_id: str | None = None
    workflow_config: Raw | None = None
    parent_task_external_id: str | None = None
    idempotency_key: str | None = None


class TaskSummaryList(Wire):
    """`V1TaskSummaryList`."""

    pagination: Pagination
    rows: list[TaskSummary]


class RunCount(Wire):
    """`V1WorkflowRunCount`."""

    count: int


class DagChildren(Wire):
    """`V1DagChildren`: the tasks of a run of several."""

    dag_id: str
    children: list[TaskSummary]


class DagChildrenList(RootModel[list[DagChildren]]):
    """One a run that was asked for and has several tasks."""


class WorkflowRun(WithPayloads):
    """`V1WorkflowRun`."""

    metadata: ResourceMeta
    status: TaskStatus
    started_at: str
    finished_at: str
    duration: int
    tenant_id: str
    additional_metadata: Raw
    display_name: str
    workflow_id: str
    output: Payload
    error_message: str = ""
    workflow_version_id: str | None = None
    input: Payload
    created_at: str
    parent_task_external_id: str | None = None


class TaskEvent(Wire):
    """`V1TaskEvent`."""

    id: int
    task_id: str
    timestamp: str
    event_type: str
    message: str
    error_message: str = ""
    output: str | None = None
    worker_id: str | None = None
    task_display_name: str | None = None
    retry_count: int
    attempt: int


class TaskEventList(Wire):
    """`V1TaskEventList`."""

    pagination: Pagination
    rows: list[TaskEvent]


class ShapeItem(Wire):
    """`WorkflowRunShapeItemForWorkflowRunDetails`: one task of the version."""

    task_external_id: str
    step_id: str
    children_step_ids: list[str]
    task_name: str


class WorkflowRunDetails(Wire):
    """`V1WorkflowRunDetails`."""

    run: WorkflowRun
    task_events: list[TaskEvent]
    shape: list[ShapeItem]
    tasks: list[TaskSummary]
    workflow_config: Raw


class TaskTiming(Wire):
    """`V1TaskTiming`."""

    metadata: ResourceMeta
    depth: int
    status: TaskStatus
    is_evicted: bool | None = None
    task_display_name: str
    task_external_id: str
    task_id: int
    task_inserted_at: str
    tenant_id: str
    parent_task_external_id: str | None = None
    queued_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    workflow_run_id: str
    retry_count: int
    attempt: int


class TaskTimingList(Wire):
    """`V1TaskTimingList`."""

    pagination: Pagination
    rows: list[TaskTiming]


class DisplayName(Wire):
    """`V1WorkflowRunDisplayName`."""

    metadata: ResourceMeta
    display_name: str


class DisplayNameList(Wire):
    """`V1WorkflowRunDisplayNameList`."""

    pagination: Pagination
    rows: list[DisplayName]


# ---------------------------------------------------------------- requests


class TriggerRequest(SnakeWire):
    """`V1TriggerWorkflowRunRequest`, whose names are of both kinds."""

    workflow_name: StrictStr = Field(alias="workflowName")
    input: dict[str, Any]
    additional_metadata: dict[str, Any] | None = Field(default=None, alias="additionalMetadata")
    priority: StrictInt | None = None
    return_only_id: StrictBool = False


class TaskFilter(Wire):
    """`V1TaskFilter`."""

    since: datetime
    until: datetime | None = None
    statuses: list[TaskStatus] | None = None
    workflow_ids: list[UUID] | None = None
    additional_metadata: list[str] | None = None


class SelectionRequest(Wire):
    """`V1CancelTaskRequest` and `V1ReplayTaskRequest`: ids or a filter."""

    external_ids: list[UUID] | None = None
    filter: TaskFilter | None = None


class SelectedTasks(Wire):
    """`V1CancelledTasks` and `V1ReplayedTasks`."""

    ids: list[str]


# ---------------------------------------------------------------- durable tasks and traces


class RestoredTask(Wire):
    """`V1RestoreTaskResponse`."""

    requeued: bool


class BranchRequest(Wire):
    """`V1BranchDurableTaskRequest`."""

    task_external_id: UUID
    node_id: StrictInt
    branch_id: StrictInt


class BranchedTask(Wire):
    """`V1BranchDurableTaskResponse`."""

    task_external_id: str
    node_id: int
    branch_id: int


class SpanList(Wire):
    """`OtelSpanList`."""

    pagination: Pagination
    retry_counts: list[int]
    rows: list[Raw]
