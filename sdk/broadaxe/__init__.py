"""Broadaxe: durable tasks and workflows in Python.

    from broadaxe import Broadaxe, Context, EmptyModel

    broadaxe = Broadaxe()

    @broadaxe.task()
    def hello(input: EmptyModel, ctx: Context) -> dict[str, str]:
        return {"greeting": "Hello!"}

    broadaxe.worker("my-worker", workflows=[hello]).start()     # in one process
    hello.run()                                                 # in another

What is listed here is the public surface; everything else may change. Importing it starts no thread and opens no connection.
"""

from broadaxe._batch_context import BatchContext, BatchMemberId
from broadaxe._client import Broadaxe
from broadaxe._conditions import Condition, OrGroup, ParentCondition, SleepCondition, UserEventCondition, or_
from broadaxe._config import ClientConfig, ClientTLSConfig, HealthcheckConfig, TenacityConfig
from broadaxe._context import Context
from broadaxe._crons import CronClient
from broadaxe._depends import Depends
from broadaxe._errors import (
    BroadaxeError,
    BulkTriggerIdempotencyCollisionError,
    ClientClosedError,
    ConfigurationError,
    DefinitionError,
    FailedRunError,
    IdempotencyCollisionError,
    InvalidInputError,
    InvalidOutputError,
    NonRetryableException,
    NotAuthenticatedError,
    NotFoundError,
    PayloadTooLargeError,
    RequestRefusedError,
    RetryAfterException,
    RunCancelledError,
    RunNotFoundError,
    ServerUnavailableError,
    TaskRunError,
)
from broadaxe._events import BulkPushEventWithMetadata, Event, EventClient, PushEventOptions
from broadaxe._options import (
    ConcurrencyExpression,
    ConcurrencyLimitStrategy,
    DefaultFilter,
    DesiredWorkerLabel,
    Priority,
    RateLimit,
    RateLimitDuration,
    ScheduleTriggerWorkflowOptions,
    StatusBasedIdempotencyConfig,
    StickyStrategy,
    TaskDefaults,
    TriggerWorkflowOptions,
    TTLBasedIdempotencyConfig,
    WorkerLabelComparator,
    WorkflowRunTriggerConfig,
)
from broadaxe._rate_limits import RateLimitsClient
from broadaxe._refs import RunStream, TaskRunRef, WorkflowRunRef
from broadaxe._resource_clients import LogsClient, WorkersClient, WorkflowsClient
from broadaxe._run_client import BulkCancelReplayOpts, RunFilter, RunsClient
from broadaxe._run_details import RunDetails, RunStatus, TaskRunDetails
from broadaxe._scheduled import ScheduledClient, ScheduledWorkflow, WorkflowSchedule
from broadaxe._services import WorkerContext
from broadaxe._standalone import Standalone
from broadaxe._task import Task
from broadaxe._types import EmptyModel
from broadaxe._worker import Worker
from broadaxe._workflow import Workflow
from broadaxe.models import (
    RateLimitList,
    RateLimitOrderByDirection,
    RateLimitOrderByField,
    UpdateWorkerRequest,
    V1LogLine,
    V1LogLineLevel,
    V1LogLineList,
    V1TaskEvent,
    V1TaskEventType,
    V1TaskStatus,
    V1TaskSummary,
    V1TaskSummaryList,
    V1WorkflowRun,
    V1WorkflowRunDetails,
    V1WorkflowType,
    WorkerList,
    WorkerStatus,
    WorkflowList,
    WorkflowVersion,
)
from broadaxe.models_timers import (
    CronWorkflows,
    CronWorkflowsList,
    CronWorkflowsMethod,
    CronWorkflowsOrderByField,
    ScheduledRunStatus,
    ScheduledWorkflows,
    ScheduledWorkflowsBulkDeleteResponse,
    ScheduledWorkflowsBulkError,
    ScheduledWorkflowsBulkUpdateItem,
    ScheduledWorkflowsBulkUpdateResponse,
    ScheduledWorkflowsList,
    ScheduledWorkflowsMethod,
    ScheduledWorkflowsOrderByField,
    WorkflowRunOrderByDirection,
    WorkflowRunStatus,
)

__all__ = [
    "BatchContext",
    "BatchMemberId",
    "Broadaxe",
    "BroadaxeError",
    "BulkCancelReplayOpts",
    "BulkPushEventWithMetadata",
    "BulkTriggerIdempotencyCollisionError",
    "ClientClosedError",
    "ClientConfig",
    "ClientTLSConfig",
    "ConcurrencyExpression",
    "ConcurrencyLimitStrategy",
    "Condition",
    "ConfigurationError",
    "Context",
    "CronClient",
    "CronWorkflows",
    "CronWorkflowsList",
    "CronWorkflowsMethod",
    "CronWorkflowsOrderByField",
    "DefaultFilter",
    "DefinitionError",
    "Depends",
    "DesiredWorkerLabel",
    "EmptyModel",
    "Event",
    "EventClient",
    "FailedRunError",
    "HealthcheckConfig",
    "IdempotencyCollisionError",
    "InvalidInputError",
    "InvalidOutputError",
    "LogsClient",
    "NonRetryableException",
    "NotAuthenticatedError",
    "NotFoundError",
    "OrGroup",
    "ParentCondition",
    "PayloadTooLargeError",
    "Priority",
    "PushEventOptions",
    "RateLimit",
    "RateLimitDuration",
    "RateLimitList",
    "RateLimitOrderByDirection",
    "RateLimitOrderByField",
    "RateLimitsClient",
    "RequestRefusedError",
    "RetryAfterException",
    "RunCancelledError",
    "RunDetails",
    "RunFilter",
    "RunNotFoundError",
    "RunStatus",
    "RunStream",
    "RunsClient",
    "ScheduleTriggerWorkflowOptions",
    "ScheduledClient",
    "ScheduledRunStatus",
    "ScheduledWorkflow",
    "ScheduledWorkflows",
    "ScheduledWorkflowsBulkDeleteResponse",
    "ScheduledWorkflowsBulkError",
    "ScheduledWorkflowsBulkUpdateItem",
    "ScheduledWorkflowsBulkUpdateResponse",
    "ScheduledWorkflowsList",
    "ScheduledWorkflowsMethod",
    "ScheduledWorkflowsOrderByField",
    "ServerUnavailableError",
    "SleepCondition",
    "Standalone",
    "StatusBasedIdempotencyConfig",
    "StickyStrategy",
    "TTLBasedIdempotencyConfig",
    "Task",
    "TaskDefaults",
    "TaskRunDetails",
    "TaskRunError",
    "TaskRunRef",
    "TenacityConfig",
    "TriggerWorkflowOptions",
    "UpdateWorkerRequest",
    "UserEventCondition",
    "V1LogLine",
    "V1LogLineLevel",
    "V1LogLineList",
    "V1TaskEvent",
    "V1TaskEventType",
    "V1TaskStatus",
    "V1TaskSummary",
    "V1TaskSummaryList",
    "V1WorkflowRun",
    "V1WorkflowRunDetails",
    "V1WorkflowType",
    "Worker",
    "WorkerContext",
    "WorkerLabelComparator",
    "WorkerList",
    "WorkerStatus",
    "WorkersClient",
    "Workflow",
    "WorkflowList",
    "WorkflowRunOrderByDirection",
    "WorkflowRunRef",
    "WorkflowRunStatus",
    "WorkflowRunTriggerConfig",
    "WorkflowSchedule",
    "WorkflowVersion",
    "WorkflowsClient",
    "or_",
]
