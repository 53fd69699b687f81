"""What the server answers over REST, as objects: runs, tasks, logs, workers, workflows, rate limits, events, filters, task stats.

Fields are named as in the answers, in snake case; what a server adds beside them is ignored. Times are in UTC; those of a run that a
server writes as the year 1 are not known yet. Import what is not exported by the package itself from here.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

__all__ = [
    "APIResourceMeta",
    "CELEvaluationResult",
    "CELFailure",
    "CELSuccess",
    "ConcurrencySetting",
    "ConcurrencyStat",
    "PaginationResponse",
    "RateLimit",
    "RateLimitList",
    "RateLimitOrderByDirection",
    "RateLimitOrderByField",
    "RegisteredWorkflow",
    "SemaphoreSlots",
    "TaskMetrics",
    "TaskStat",
    "TaskStatusStat",
    "Tenant",
    "UpdateWorkerRequest",
    "V1BranchDurableTaskResponse",
    "V1Event",
    "V1EventList",
    "V1EventTriggeredRun",
    "V1EventWorkflowRunSummary",
    "V1Filter",
    "V1FilterError",
    "V1FilterList",
    "V1LogLine",
    "V1LogLineLevel",
    "V1LogLineList",
    "V1TaskEvent",
    "V1TaskEventType",
    "V1TaskStatus",
    "V1TaskSummary",
    "V1TaskSummaryList",
    "V1UpdateFilterRequest",
    "V1WorkflowRun",
    "V1WorkflowRunDetails",
    "V1WorkflowType",
    "Worker",
    "WorkerLabel",
    "WorkerList",
    "WorkerRuntimeInfo",
    "WorkerSlotConfig",
    "WorkerStatus",
    "Workflow",
    "WorkflowList",
    "WorkflowRunShapeItemForWorkflowRunDetails",
    "WorkflowTriggerCronRef",
    "WorkflowTriggerEventRef",
    "WorkflowTriggers",
    "WorkflowVersion",
    "WorkflowVersionMeta",
]


class _Answer(BaseModel):
    """Takes both spellings of a name: most answers are in camel case, a few of them not. Built at first use."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)


class V1TaskStatus(StrEnum):
    """Where a run or a task run stands. An evicted one reads RUNNING."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


class V1WorkflowType(StrEnum):
    """What a row of a list stands for: a run, or one task of a run."""

    DAG = "DAG"
    TASK = "TASK"


class V1LogLineLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class V1TaskEventType(StrEnum):
    """What happened to a task run."""

    REQUEUED_NO_WORKER = "REQUEUED_NO_WORKER"
    REQUEUED_RATE_LIMIT = "REQUEUED_RATE_LIMIT"
    SCHEDULING_TIMED_OUT = "SCHEDULING_TIMED_OUT"
    ASSIGNED = "ASSIGNED"
    STARTED = "STARTED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    RETRYING = "RETRYING"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"
    REASSIGNED = "REASSIGNED"
    SLOT_RELEASED = "SLOT_RELEASED"
    TIMEOUT_REFRESHED = "TIMEOUT_REFRESHED"
    RETRIED_BY_USER = "RETRIED_BY_USER"
    SENT_TO_WORKER = "SENT_TO_WORKER"
    RATE_LIMIT_ERROR = "RATE_LIMIT_ERROR"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    CREATED = "CREATED"
    QUEUED = "QUEUED"
    SKIPPED = "SKIPPED"
    WAITING_FOR_BATCH = "WAITING_FOR_BATCH"
    BATCH_FLUSHED = "BATCH_FLUSHED"
    COULD_NOT_SEND_TO_WORKER = "COULD_NOT_SEND_TO_WORKER"
    DURABLE_EVICTED = "DURABLE_EVICTED"
    DURABLE_RESTORING = "DURABLE_RESTORING"


class WorkerStatus(StrEnum):
    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    PAUSED = "PAUSED"


class APIResourceMeta(_Answer):
    """Id and times of a resource."""

    id: str
    created_at: datetime
    updated_at: datetime


class PaginationResponse(_Answer):
    current_page: int | None = None
    next_page: int | None = None
    num_pages: int | None = None


# ---- runs and tasks


class V1TaskSummary(_Answer):
    """A run, or one task of a run. `metadata.id` is its id; `children` of a run of several tasks are its tasks."""

    metadata: APIResourceMeta
    action_id: str | None = None
    retry_count: int | None = None
    attempt: int | None = None
    additional_metadata: dict[str, Any] | None = None
    children: list["V1TaskSummary"] | None = None
    created_at: datetime
    display_name: str
    duration: int | None = None
    """Milliseconds; None until it has ended."""
    is_durable: bool | None = None
    error_message: str | None = None
    finished_at: datetime | None = None
    input: dict[str, Any]
    num_spawned_children: int
    output: dict[str, Any]
    status: V1TaskStatus
    is_evicted: bool | None = None
    started_at: datetime | None = None
    step_id: str | None = None
    task_external_id: str
    task_id: int
    task_inserted_at: datetime
    tenant_id: str
    type: V1WorkflowType
    workflow_id: str
    workflow_name: str | None = None
    workflow_run_external_id: str
    workflow_version_id: str | None = None
    workflow_config: dict[str, Any] | None = None
    parent_task_external_id: str | None = None
    idempotency_key: str | None = None
    payloads_restricted: bool | None = None


class V1TaskSummaryList(_Answer):
    pagination: PaginationResponse
    rows: list[V1TaskSummary]


class V1WorkflowRun(_Answer):
    """A run as a whole."""

    metadata: APIResourceMeta
    status: V1TaskStatus
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration: int | None = None
    """Milliseconds."""
    tenant_id: str
    additional_metadata: dict[str, Any] | None = None
    display_name: str
    workflow_id: str
    output: dict[str, Any]
    error_message: str | None = None
    workflow_version_id: str | None = None
    input: dict[str, Any]
    created_at: datetime | None = None
    parent_task_external_id: str | None = None
    payloads_restricted: bool | None = None


class V1TaskEvent(_Answer):
    id: int
    task_id: str
    """The id of the task run."""
    timestamp: datetime
    event_type: V1TaskEventType | str
    message: str
    error_message: str | None = None
    output: str | None = None
    """JSON text."""
    worker_id: str | None = None
    task_display_name: str | None = None
    retry_count: int | None = None
    attempt: int | None = None


class WorkflowRunShapeItemForWorkflowRunDetails(_Answer):
    """One task of the workflow, and which tasks come after it."""

    task_external_id: str
    step_id: str
    children_step_ids: list[str]
    task_name: str


class V1WorkflowRunDetails(_Answer):
    """A run, its tasks, what happened to them (newest first), and how they hang together."""

    run: V1WorkflowRun
    task_events: list[V1TaskEvent]
    shape: list[WorkflowRunShapeItemForWorkflowRunDetails]
    tasks: list[V1TaskSummary]
    workflow_config: dict[str, Any] | None = None


class V1BranchDurableTaskResponse(_Answer):
    """Where a durable task begins anew."""

    task_external_id: str
    node_id: int
    branch_id: int


# ---- logs


class V1LogLine(_Answer):
    created_at: datetime
    message: str
    metadata: dict[str, Any]
    task_external_id: str | None = None
    task_display_name: str | None = None
    retry_count: int | None = None
    attempt: int | None = None
    level: V1LogLineLevel | None = None


class V1LogLineList(_Answer):
    pagination: PaginationResponse | None = None
    rows: list[V1LogLine] | None = None


# ---- workers


class SemaphoreSlots(_Answer):
    """A task that occupies a worker."""

    step_run_id: str
    """The id of the task run."""
    action_id: str
    started_at: datetime | None = None
    timeout_at: datetime | None = None
    workflow_run_id: str
    status: str | None = None


class WorkerSlotConfig(_Answer):
    available: int | None = None
    limit: int


class WorkerLabel(_Answer):
    metadata: APIResourceMeta
    key: str
    value: str | None = None
    """Whole numbers as text, too."""


class WorkerRuntimeInfo(_Answer):
    sdk_version: str | None = None
    language: str | None = None
    language_version: str | None = None
    os: str | None = None
    runtime_extra: str | None = None


class RegisteredWorkflow(_Answer):
    id: str
    name: str


class Tenant(_Answer):
    """What a tenant is called, and its settings."""

    metadata: APIResourceMeta
    name: str
    slug: str
    version: str
    analytics_opt_out: bool | None = None
    alert_member_emails: bool | None = None
    environment: str | None = None
    server_url: str | None = None
    region: str | None = None
    data_retention_period: str | None = None


class Worker(_Answer):
    """A worker as the server sees it. `slots` and `registered_workflows` come when one is asked for by its id."""

    metadata: APIResourceMeta
    name: str
    type: str
    last_heartbeat_at: datetime | None = None
    last_listener_established: datetime | None = None
    actions: list[str] | None = None
    registered_workflows: list[RegisteredWorkflow] | None = None
    slots: list[SemaphoreSlots] | None = None
    status: WorkerStatus | None = None
    slot_config: dict[str, WorkerSlotConfig] | None = None
    dispatcher_id: str | None = None
    labels: list[WorkerLabel] | None = None
    webhook_url: str | None = None
    webhook_id: str | None = None
    runtime_info: WorkerRuntimeInfo | None = None


class WorkerList(_Answer):
    pagination: PaginationResponse | None = None
    rows: list[Worker] | None = None


class UpdateWorkerRequest(_Answer):
    """What is to be changed of a worker."""

    is_paused: bool | None = None


# ---- rate limits


class RateLimitOrderByField(StrEnum):
    KEY = "key"
    VALUE = "value"
    LIMITVALUE = "limitValue"


class RateLimitOrderByDirection(StrEnum):
    ASC = "asc"
    DESC = "desc"


class RateLimit(_Answer):
    """A rate limit as the server has it. What a task spends of one is declared by `broadaxe.RateLimit`."""

    key: str
    tenant_id: str
    limit_value: int
    value: int
    """The units that are there now."""
    window: str
    """Its length: `1 minute`."""
    last_refill: datetime
    paused_until: datetime | None = None


class RateLimitList(_Answer):
    pagination: PaginationResponse | None = None
    rows: list[RateLimit] | None = None


# ---- events and filters


class V1EventWorkflowRunSummary(_Answer):
    """How many runs an event started, by what became of them."""

    running: int
    queued: int
    succeeded: int
    failed: int
    cancelled: int


class V1EventTriggeredRun(_Answer):
    """A run that an event started, and the filter by which it did."""

    workflow_run_id: str
    filter_id: str | None = None


class V1FilterError(_Answer):
    """A filter that could not be evaluated on an event, and counted as false."""

    filter_id: str
    workflow_id: str
    error: str


class V1Event(_Answer):
    """An event as the server has it, with what it started."""

    metadata: APIResourceMeta
    key: str
    tenant_id: str
    workflow_run_summary: V1EventWorkflowRunSummary
    additional_metadata: dict[str, Any] | None = None
    payload: dict[str, Any] | None = None
    scope: str | None = None
    seen_at: datetime | None = None
    triggered_runs: list[V1EventTriggeredRun] | None = None
    triggering_webhook_name: str | None = None
    """Of the incoming webhook that made it."""
    filter_errors: list[V1FilterError] | None = None


class V1EventList(_Answer):
    pagination: PaginationResponse | None = None
    rows: list[V1Event] | None = None


class V1Filter(_Answer):
    """An event filter."""

    metadata: APIResourceMeta
    tenant_id: str
    workflow_id: str
    scope: str
    expression: str
    payload: dict[str, Any]
    is_declarative: bool | None = None
    """It came with the workflow's declaration, and goes with the next one that has filters."""


class V1FilterList(_Answer):
    pagination: PaginationResponse | None = None
    rows: list[V1Filter] | None = None


class V1UpdateFilterRequest(_Answer):
    """What to change about a filter; None leaves it."""

    expression: str | None = None
    scope: str | None = None
    payload: dict[str, Any] | None = None


class CELSuccess(BaseModel):
    """What an expression gave."""

    status: Literal["success"] = "success"
    output: bool


class CELFailure(BaseModel):
    """Why an expression gave nothing."""

    status: Literal["failure"] = "failure"
    error: str


class CELEvaluationResult(BaseModel):
    """What came of an expression that was tried."""

    result: CELSuccess | CELFailure = Field(discriminator="status")


# ---- workflows


class WorkflowTriggerEventRef(_Answer):
    parent_id: str | None = None
    event_key: str | None = None


class WorkflowTriggerCronRef(_Answer):
    parent_id: str | None = None
    cron: str | None = None


class WorkflowTriggers(_Answer):
    metadata: APIResourceMeta | None = None
    workflow_version_id: str | None = None
    tenant_id: str | None = None
    events: list[WorkflowTriggerEventRef] | None = None
    crons: list[WorkflowTriggerCronRef] | None = None


class WorkflowVersionMeta(_Answer):
    metadata: APIResourceMeta
    version: str
    order: int
    workflow_id: str
    workflow: "Workflow | None" = None


class Workflow(_Answer):
    """A workflow as the server has it registered."""

    metadata: APIResourceMeta
    name: str
    description: str | None = None
    is_paused: bool | None = None
    paused_workflow_cron_run_queue_behavior: str | None = None
    paused_workflow_scheduled_run_queue_behavior: str | None = None
    versions: list[WorkflowVersionMeta] | None = None
    tenant_id: str
    triggers: WorkflowTriggers | None = None


class WorkflowList(_Answer):
    metadata: APIResourceMeta | None = None
    rows: list[Workflow] | None = None
    pagination: PaginationResponse | None = None


class ConcurrencySetting(_Answer):
    max_runs: int
    limit_strategy: str
    expression: str
    step_readable_id: str | None = None
    """The task; None for the workflow as a whole."""
    scope: str


class WorkflowVersion(_Answer):
    metadata: APIResourceMeta
    version: str
    order: int
    workflow_id: str
    sticky: str | None = None
    default_priority: int | None = None
    workflow: Workflow | None = None
    triggers: WorkflowTriggers | None = None
    schedule_timeout: str | None = None
    workflow_config: dict[str, Any] | None = None
    v1_concurrency: list[ConcurrencySetting] | None = Field(default=None, alias="v1Concurrency")
    input_json_schema: dict[str, Any] | None = None


# ---- counts and task stats


class TaskMetrics(_Answer):
    """How many task runs have each status."""

    cancelled: int
    completed: int
    failed: int
    queued: int
    running: int


class ConcurrencyStat(_Answer):
    """How many runs of a task wait for a place of a concurrency expression, or hold one, by key."""

    expression: str | None = None
    type: str | None = None
    keys: dict[str, int] | None = None


class TaskStatusStat(_Answer):
    """How many runs of a task are in a state, where, and since when the oldest is."""

    total: int = 0
    queues: dict[str, int] | None = None
    concurrency: list[ConcurrencyStat] | None = None
    oldest: datetime | None = None
    oldest_excluding_retries: datetime | None = None


class TaskStat(_Answer):
    """A half that the server leaves out is one of no runs."""

    queued: TaskStatusStat = Field(default_factory=TaskStatusStat)
    running: TaskStatusStat = Field(default_factory=TaskStatusStat)
