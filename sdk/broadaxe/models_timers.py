"""Crons and scheduled runs as the server answers them over REST. As `models`, of which this is a part."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from broadaxe.models import APIResourceMeta, PaginationResponse
from broadaxe.models import _Answer as Answer

__all__ = [
    "CronWorkflows",
    "CronWorkflowsList",
    "CronWorkflowsMethod",
    "CronWorkflowsOrderByField",
    "ScheduledRunStatus",
    "ScheduledWorkflows",
    "ScheduledWorkflowsBulkDeleteResponse",
    "ScheduledWorkflowsBulkError",
    "ScheduledWorkflowsBulkUpdateItem",
    "ScheduledWorkflowsBulkUpdateResponse",
    "ScheduledWorkflowsList",
    "ScheduledWorkflowsMethod",
    "ScheduledWorkflowsOrderByField",
    "WorkflowRunOrderByDirection",
    "WorkflowRunStatus",
]


class WorkflowRunOrderByDirection(StrEnum):
    ASC = "ASC"
    DESC = "DESC"


class WorkflowRunStatus(StrEnum):
    """Where the run that a scheduled run has made stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    QUEUED = "QUEUED"
    BACKOFF = "BACKOFF"


class CronWorkflowsMethod(StrEnum):
    """Whether a cron was declared in code (`on_crons`), or made by API."""

    DEFAULT = "DEFAULT"
    API = "API"


class CronWorkflowsOrderByField(StrEnum):
    NAME = "name"
    CREATEDAT = "createdAt"


class CronWorkflows(Answer):
    """A cron. `metadata.id` is its id; `error_message` says why its last tick made no run."""

    metadata: APIResourceMeta
    tenant_id: str
    workflow_version_id: str
    workflow_id: str
    workflow_name: str
    cron: str
    enabled: bool
    method: CronWorkflowsMethod
    name: str | None = None
    input: dict[str, Any] | None = None
    additional_metadata: dict[str, Any] | None = None
    priority: int | None = None
    error_message: str | None = None


class CronWorkflowsList(Answer):
    rows: list[CronWorkflows] | None = None
    pagination: PaginationResponse | None = None


class ScheduledWorkflowsMethod(StrEnum):
    """Whether a scheduled run was declared in code, or made by API."""

    DEFAULT = "DEFAULT"
    API = "API"


class ScheduledWorkflowsOrderByField(StrEnum):
    TRIGGERAT = "triggerAt"
    CREATEDAT = "createdAt"


class ScheduledRunStatus(StrEnum):
    """Where a scheduled run stands: `SCHEDULED` before its time, then as its run does. `FAILED` also if it made none."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    QUEUED = "QUEUED"
    SCHEDULED = "SCHEDULED"


class ScheduledWorkflows(Answer):
    """A scheduled run. `metadata.id` is its id; `error_message` says why it made no run."""

    metadata: APIResourceMeta
    tenant_id: str
    workflow_version_id: str
    workflow_id: str
    workflow_name: str
    trigger_at: datetime
    method: ScheduledWorkflowsMethod
    input: dict[str, Any] | None = None
    additional_metadata: dict[str, Any] | None = None
    workflow_run_created_at: datetime | None = None
    workflow_run_name: str | None = None
    workflow_run_status: WorkflowRunStatus | None = None
    workflow_run_id: str | None = None
    priority: int | None = None
    error_message: str | None = None


class ScheduledWorkflowsList(Answer):
    rows: list[ScheduledWorkflows] | None = None
    pagination: PaginationResponse | None = None


class ScheduledWorkflowsBulkError(Answer):
    """Why nothing was done to one of many."""

    error: str
    id: str | None = None


class ScheduledWorkflowsBulkDeleteResponse(Answer):
    deleted_ids: list[str]
    errors: list[ScheduledWorkflowsBulkError]


class ScheduledWorkflowsBulkUpdateItem(Answer):
    """A scheduled run, and the time that it is to have."""

    id: str
    trigger_at: datetime


class ScheduledWorkflowsBulkUpdateResponse(Answer):
    updated_ids: list[str]
    errors: list[ScheduledWorkflowsBulkError]
