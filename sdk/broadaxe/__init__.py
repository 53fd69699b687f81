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
from broadaxe._config import ClientConfig, ClientTLSConfig, HealthcheckConfig
from broadaxe._context import Context
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
    StatusBasedIdempotencyConfig,
    StickyStrategy,
    TaskDefaults,
    TriggerWorkflowOptions,
    TTLBasedIdempotencyConfig,
    WorkerLabelComparator,
    WorkflowRunTriggerConfig,
)
from broadaxe._refs import RunStream, TaskRunRef, WorkflowRunRef
from broadaxe._run_client import RunDetails, RunsClient, RunStatus, TaskRunDetails
from broadaxe._services import WorkerContext
from broadaxe._standalone import Standalone
from broadaxe._task import Task
from broadaxe._types import EmptyModel
from broadaxe._worker import Worker
from broadaxe._workflow import Workflow

__all__ = [
    "BatchContext",
    "BatchMemberId",
    "Broadaxe",
    "BroadaxeError",
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
    "NonRetryableException",
    "NotAuthenticatedError",
    "OrGroup",
    "ParentCondition",
    "PayloadTooLargeError",
    "Priority",
    "PushEventOptions",
    "RateLimit",
    "RateLimitDuration",
    "RequestRefusedError",
    "RetryAfterException",
    "RunCancelledError",
    "RunDetails",
    "RunNotFoundError",
    "RunStatus",
    "RunStream",
    "RunsClient",
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
    "TriggerWorkflowOptions",
    "UserEventCondition",
    "Worker",
    "WorkerContext",
    "WorkerLabelComparator",
    "Workflow",
    "WorkflowRunRef",
    "WorkflowRunTriggerConfig",
    "or_",
]
