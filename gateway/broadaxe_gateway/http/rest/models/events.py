"""Shapes of events, of filters, and of the trial of an expression (rest 4, 5)."""

from enum import StrEnum
from typing import Any

from broadaxe_gateway.http.rest.models.common import (
    Pagination,
    Payload,
    Raw,
    ResourceMeta,
    Wire,
    WithPayloads,
)


class EventRunSummary(Wire):
    """`V1EventWorkflowRunSummary`."""

    running: int = 0
    queued: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class EventTriggeredRun(Wire):
    """`V1EventTriggeredRun`."""

    workflow_run_id: str
    filter_id: str | None = None


class FilterError(Wire):
    """A filter that could not be evaluated on an event, and counted as false. Ours alone."""

    filter_id: str
    workflow_id: str
    error: str


class Event(WithPayloads):
    """`V1Event`."""

    metadata: ResourceMeta
    key: str
    tenant_id: str
    workflow_run_summary: EventRunSummary
    additional_metadata: Raw
    payload: Payload
    scope: str | None = None
    seen_at: str
    triggered_runs: list[EventTriggeredRun]
    triggering_webhook_name: str | None = None
    filter_errors: list[FilterError] | None = None


class EventList(Wire):
    """`V1EventList`."""

    pagination: Pagination
    rows: list[Event]


class EventKeyList(Wire):
    """`EventKeyList`."""

    rows: list[str]


class OlderEvent(Wire):
    """`Event`, as routes of the generation before have it."""

    metadata: ResourceMeta
    key: str
    tenant_id: str
    workflow_run_summary: EventRunSummary
    additional_metadata: Raw


class EventData(Wire):
    """`EventData`."""

    data: str


class Filter(Wire):
    """`V1Filter`."""

    metadata: ResourceMeta
    tenant_id: str
    workflow_id: str
    scope: str
    expression: str
    payload: Raw
    is_declarative: bool


class FilterList(Wire):
    """`V1FilterList`."""

    pagination: Pagination
    rows: list[Filter]


class CreateFilterRequest(Wire):
    """`V1CreateFilterRequest`."""

    workflow_id: str
    expression: str
    scope: str
    payload: dict[str, Any] | None = None


class UpdateFilterRequest(Wire):
    """`V1UpdateFilterRequest`: what is not given stays."""

    expression: str | None = None
    scope: str | None = None
    payload: dict[str, Any] | None = None


class ExpressionRequest(Wire):
    """`V1CELDebugRequest`."""

    expression: str
    input: dict[str, Any]
    filter_payload: dict[str, Any] | None = None
    additional_metadata: dict[str, Any] | None = None


class ExpressionStatus(StrEnum):
    """`V1CELDebugResponseStatus`."""

    SUCCESS = "SUCCESS"
    ERROR = "ERROR"


class ExpressionAnswer(Wire):
    """`V1CELDebugResponse`."""

    status: ExpressionStatus
    output: bool | None = None
    error: str | None = None
