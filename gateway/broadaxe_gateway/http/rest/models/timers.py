"""Shapes of crons and scheduled runs (rest 7.1, 7.2)."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StrictBool, StrictInt, StrictStr

from broadaxe_gateway.http.rest.models.common import (
    Pagination,
    Payload,
    Raw,
    ResourceMeta,
    Wire,
    WithPayloads,
)

MAX_BULK = 500
"""Scheduled runs that one bulk request may name."""


class Direction(StrEnum):
    """`WorkflowRunOrderByDirection`."""

    ASC = "ASC"
    DESC = "DESC"


class Method(StrEnum):
    """`CronWorkflowsMethod`, `ScheduledWorkflowsMethod`: declared in code, or made by API."""

    DEFAULT = "DEFAULT"
    API = "API"


class CronOrder(StrEnum):
    """`CronWorkflowsOrderByField`."""

    NAME = "name"
    CREATED_AT = "createdAt"


class ScheduledRunOrder(StrEnum):
    """`ScheduledWorkflowsOrderByField`."""

    TRIGGER_AT = "triggerAt"
    CREATED_AT = "createdAt"


class ScheduledRunStatus(StrEnum):
    """`ScheduledRunStatus`: that of the run; `SCHEDULED` before there is one."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    QUEUED = "QUEUED"
    SCHEDULED = "SCHEDULED"


class Cron(WithPayloads):
    """`CronWorkflows`."""

    metadata: ResourceMeta
    tenant_id: str
    workflow_version_id: str
    workflow_id: str
    workflow_name: str
    cron: str
    name: str
    input: Payload
    additional_metadata: Raw
    enabled: bool
    method: Method
    priority: int | None = None
    error_message: str | None = None
    """Ours: why the last tick made no run."""


class CronList(Wire):
    """`CronWorkflowsList`."""

    rows: list[Cron]
    pagination: Pagination


class CreateCronRequest(Wire):
    """`CreateCronWorkflowTriggerRequest`."""

    input: dict[str, Any]
    additional_metadata: dict[str, Any]
    cron_name: StrictStr
    cron_expression: StrictStr
    priority: StrictInt | None = None


class UpdateCronRequest(Wire):
    """`UpdateCronWorkflowTriggerRequest`."""

    enabled: StrictBool | None = None


class RunCreated(Wire):
    """`TriggerRunResult`."""

    external_id: str


class ScheduledRun(WithPayloads):
    """`ScheduledWorkflows`."""

    metadata: ResourceMeta
    tenant_id: str
    workflow_version_id: str
    workflow_id: str
    workflow_name: str
    trigger_at: str
    input: Payload
    additional_metadata: Raw
    workflow_run_created_at: str
    workflow_run_name: str
    workflow_run_status: str | None = None
    workflow_run_id: str | None = None
    method: Method
    priority: int | None = None
    error_message: str | None = None
    """Ours: why it made no run."""


class ScheduledRunList(Wire):
    """`ScheduledWorkflowsList`."""

    rows: list[ScheduledRun]
    pagination: Pagination


class ScheduleRunRequest(Wire):
    """`ScheduleWorkflowRunRequest`."""

    input: dict[str, Any]
    additional_metadata: dict[str, Any]
    trigger_at: datetime
    priority: StrictInt | None = None


class UpdateScheduledRunRequest(Wire):
    """`UpdateScheduledWorkflowRunRequest`."""

    trigger_at: datetime


class ScheduledRunFilter(Wire):
    """`ScheduledWorkflowsBulkDeleteFilter`."""

    workflow_id: UUID | None = None
    parent_workflow_run_id: UUID | None = None
    parent_step_run_id: UUID | None = None
    additional_metadata: list[str] | None = None


class BulkDeleteRequest(Wire):
    """`ScheduledWorkflowsBulkDeleteRequest`: ids or a filter."""

    scheduled_workflow_run_ids: Annotated[list[UUID], Field(max_length=MAX_BULK)] | None = None
    filter: ScheduledRunFilter | None = None


class BulkUpdateItem(Wire):
    """`ScheduledWorkflowsBulkUpdateItem`."""

    id: UUID
    trigger_at: datetime


class BulkUpdateRequest(Wire):
    """`ScheduledWorkflowsBulkUpdateRequest`."""

    updates: Annotated[list[BulkUpdateItem], Field(max_length=MAX_BULK)]


class BulkError(Wire):
    """`ScheduledWorkflowsBulkError`."""

    id: str
    error: str


class BulkDeleteResponse(Wire):
    """`ScheduledWorkflowsBulkDeleteResponse`."""

    deleted_ids: list[str]
    errors: list[BulkError]


class BulkUpdateResponse(Wire):
    """`ScheduledWorkflowsBulkUpdateResponse`."""

    updated_ids: list[str]
    errors: list[BulkError]
