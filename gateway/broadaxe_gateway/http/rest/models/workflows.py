"""Shapes of workflows and their versions (rest 6)."""

from typing import Any, Literal

from pydantic import Field

from broadaxe_gateway.http.rest.models.common import Pagination, Raw, ResourceMeta, SnakeWire, Wire


class WorkflowVersionMeta(Wire):
    """`WorkflowVersionMeta`."""

    metadata: ResourceMeta
    version: str
    order: int
    workflow_id: str


class Workflow(Wire):
    """`Workflow`."""

    metadata: ResourceMeta
    name: str
    description: str = ""
    is_paused: bool = False
    paused_workflow_cron_run_queue_behavior: str | None = None
    paused_workflow_scheduled_run_queue_behavior: str | None = None
    versions: list[WorkflowVersionMeta] | None = None
    tenant_id: str


class WorkflowList(Wire):
    """`WorkflowList`."""

    rows: list[Workflow]
    pagination: Pagination


class PauseRequest(Wire):
    """`PauseWorkflowRequestPause` or `PauseWorkflowRequestUnpause`, which is the action alone. Checked by hand, for clear refusals."""

    action: Any = None
    paused_workflow_cron_run_queue_behavior: Any = "QUEUE"
    paused_workflow_scheduled_run_queue_behavior: Any = "QUEUE"
    paused_workflow_queue_ttl: Any = Field(default=None, alias="pausedWorkflowQueueTTL")


class WorkflowUpdateRequest(Wire):
    """`WorkflowUpdateRequest`."""

    pause: PauseRequest | None = None


class CronRef(SnakeWire):
    """`WorkflowTriggerCronRef`."""

    parent_id: str
    cron: str


class EventRef(SnakeWire):
    """`WorkflowTriggerEventRef`."""

    parent_id: str
    event_key: str


class WorkflowTriggers(SnakeWire):
    """`WorkflowTriggers`."""

    metadata: ResourceMeta
    workflow_version_id: str
    tenant_id: str
    events: list[EventRef]
    crons: list[CronRef]


class ConcurrencySetting(Wire):
    """`ConcurrencySetting`."""

    max_runs: int
    limit_strategy: str
    expression: str
    step_readable_id: str | None = None
    scope: Literal["WORKFLOW", "TASK"]


class WorkflowVersion(Wire):
    """`WorkflowVersion`."""

    metadata: ResourceMeta
    version: str
    order: int
    workflow_id: str
    sticky: Literal["soft", "hard"] | None = None
    default_priority: int
    workflow: Workflow
    triggers: WorkflowTriggers
    schedule_timeout: str | None = None
    workflow_config: Raw
    v1_concurrency: list[ConcurrencySetting]
    input_json_schema: Raw | None = None
