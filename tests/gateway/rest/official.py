"""The models by which the official Python client reads REST answers; importing it warns, which is its own affair."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from hatchet_sdk.clients.rest.models.otel_span_list import OtelSpanList
    from hatchet_sdk.clients.rest.models.rate_limit_list import RateLimitList
    from hatchet_sdk.clients.rest.models.tenant_entitlements import TenantEntitlements
    from hatchet_sdk.clients.rest.models.v1_cancelled_tasks import V1CancelledTasks
    from hatchet_sdk.clients.rest.models.v1_cel_debug_response import V1CELDebugResponse
    from hatchet_sdk.clients.rest.models.v1_dag_children import V1DagChildren
    from hatchet_sdk.clients.rest.models.v1_event import V1Event
    from hatchet_sdk.clients.rest.models.v1_event_list import V1EventList
    from hatchet_sdk.clients.rest.models.v1_filter import V1Filter
    from hatchet_sdk.clients.rest.models.v1_filter_list import V1FilterList
    from hatchet_sdk.clients.rest.models.v1_log_line_list import V1LogLineList
    from hatchet_sdk.clients.rest.models.v1_logs_point_metrics import V1LogsPointMetrics
    from hatchet_sdk.clients.rest.models.v1_replayed_tasks import V1ReplayedTasks
    from hatchet_sdk.clients.rest.models.v1_restore_task_response import V1RestoreTaskResponse
    from hatchet_sdk.clients.rest.models.v1_task_event_list import V1TaskEventList
    from hatchet_sdk.clients.rest.models.v1_task_point_metrics import V1TaskPointMetrics
    from hatchet_sdk.clients.rest.models.v1_task_run_metric import V1TaskRunMetric
    from hatchet_sdk.clients.rest.models.v1_task_summary import V1TaskSummary
    from hatchet_sdk.clients.rest.models.v1_task_summary_list import V1TaskSummaryList
    from hatchet_sdk.clients.rest.models.v1_task_timing_list import V1TaskTimingList
    from hatchet_sdk.clients.rest.models.v1_workflow_run_details import V1WorkflowRunDetails
    from hatchet_sdk.clients.rest.models.v1_workflow_run_display_name_list import V1WorkflowRunDisplayNameList
    from hatchet_sdk.clients.rest.models.worker import Worker
    from hatchet_sdk.clients.rest.models.worker_list import WorkerList
    from hatchet_sdk.clients.rest.models.workflow import Workflow
    from hatchet_sdk.clients.rest.models.workflow_list import WorkflowList
    from hatchet_sdk.clients.rest.models.workflow_version import WorkflowVersion

__all__ = [
    "OtelSpanList",
    "RateLimitList",
    "TenantEntitlements",
    "V1CELDebugResponse",
    "V1CancelledTasks",
    "V1DagChildren",
    "V1Event",
    "V1EventList",
    "V1Filter",
    "V1FilterList",
    "V1LogLineList",
    "V1LogsPointMetrics",
    "V1ReplayedTasks",
    "V1RestoreTaskResponse",
    "V1TaskEventList",
    "V1TaskPointMetrics",
    "V1TaskRunMetric",
    "V1TaskSummary",
    "V1TaskSummaryList",
    "V1TaskTimingList",
    "V1WorkflowRunDetails",
    "V1WorkflowRunDisplayNameList",
    "Worker",
    "WorkerList",
    "Workflow",
    "WorkflowList",
    "WorkflowVersion",
]
