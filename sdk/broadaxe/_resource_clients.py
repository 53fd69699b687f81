"""Logs, workers, workflows and metrics as the server has them, over REST. Every method has an asynchronous form, with `aio_` before its name."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from broadaxe._durations import duration_to_wire
from broadaxe._rest import DEFAULT_AGE, as_model, in_thread, time_text
from broadaxe.models import (
    TaskMetrics,
    TaskStat,
    UpdateWorkerRequest,
    V1LogLineList,
    Worker,
    WorkerList,
    Workflow,
    WorkflowList,
    WorkflowVersion,
)

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe


class LogsClient:
    """Reads what tasks have logged."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def list(
        self,
        task_run_id: str,
        limit: int = 1000,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> V1LogLineList:
        """Log lines of a task run, over all its attempts, oldest first; between `since` and `until`, if given."""
        return self._client.rest.get(
            V1LogLineList,
            f"/api/v1/stable/tasks/{task_run_id}/logs",
            {"limit": limit, "since": time_text(since), "until": time_text(until)},
        )

    aio_list = in_thread(list)  # noqa: A003 - the method above


class WorkersClient:
    """Reads and pauses workers."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def list(self) -> WorkerList:
        """Workers that were heard of in the last 24 hours."""
        return self._client.rest.get(WorkerList, f"/api/v1/tenants/{self._client.tenant_id}/worker")

    aio_list = in_thread(list)  # noqa: A003 - the method above

    def get(self, worker_id: str) -> Worker:
        """A worker by its id, with what it runs now. Raises `NotFoundError`."""
        return self._client.rest.get(Worker, f"/api/v1/workers/{worker_id}")

    aio_get = in_thread(get)

    def update(self, worker_id: str, opts: UpdateWorkerRequest) -> Worker:
        """Change a worker. Raises `NotFoundError`."""
        path = f"/api/v1/workers/{worker_id}"
        body = opts.model_dump(by_alias=True, exclude_none=True)
        return as_model(Worker, self._client.rest.call("PATCH", path, body=body), path)

    aio_update = in_thread(update)

    def pause(self, worker_id: str) -> Worker:
        """Give a worker nothing new; what it runs goes on. Raises `NotFoundError`."""
        return self.update(worker_id, UpdateWorkerRequest(is_paused=True))

    aio_pause = in_thread(pause)

    def unpause(self, worker_id: str) -> Worker:
        """Let a paused worker have tasks again. Raises `NotFoundError`."""
        return self.update(worker_id, UpdateWorkerRequest(is_paused=False))

    aio_unpause = in_thread(unpause)


class WorkflowsClient:
    """Reads registered workflows, pauses and deletes them."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def list(
        self, workflow_name: str | None = None, limit: int | None = None, offset: int | None = None
    ) -> WorkflowList:
        """Workflows, a page of 50 if `limit` is not given; those whose names hold `workflow_name`, in any case of letters."""
        name = None if workflow_name is None else self._client.namespaced(workflow_name)
        return self._client.rest.get(
            WorkflowList,
            f"/api/v1/tenants/{self._client.tenant_id}/workflows",
            {"name": name, "limit": limit, "offset": offset},
        )

    aio_list = in_thread(list)  # noqa: A003 - the method above

    def get(self, workflow_id: str) -> Workflow:
        """A workflow by its id. Raises `NotFoundError`."""
        return self._client.rest.get(Workflow, f"/api/v1/workflows/{workflow_id}")

    aio_get = in_thread(get)

    def get_version(self, workflow_id: str, version: str | None = None) -> WorkflowVersion:
        """One version of a workflow, by the version's id; the latest if not given. Raises `NotFoundError`."""
        return self._client.rest.get(
            WorkflowVersion, f"/api/v1/workflows/{workflow_id}/versions", {"version": version}
        )

    aio_get_version = in_thread(get_version)

    def pause(
        self,
        workflow_id: str,
        queue_ttl: timedelta,
        paused_workflow_cron_run_queue_behavior: Literal["DROP", "QUEUE"] = "QUEUE",
        paused_workflow_scheduled_run_queue_behavior: Literal["DROP", "QUEUE"] = "QUEUE",
    ) -> Workflow:
        """Hold the runs of a workflow: nothing of it is started until `unpause`, what runs goes on, and new runs are taken and wait.

        What has waited for `queue_ttl` since then is cancelled. The runs of crons, and scheduled runs, wait like the others, or
        with `DROP` do not come into being. On a paused workflow this changes how it is paused. Raises `NotFoundError`.
        """
        return self._update(
            workflow_id,
            {
                "action": "pause",
                "pausedWorkflowQueueTTL": duration_to_wire(queue_ttl, "queue_ttl", is_zero_allowed=False),
                "pausedWorkflowCronRunQueueBehavior": paused_workflow_cron_run_queue_behavior,
                "pausedWorkflowScheduledRunQueueBehavior": paused_workflow_scheduled_run_queue_behavior,
            },
        )

    aio_pause = in_thread(pause)

    def unpause(self, workflow_id: str) -> Workflow:
        """Let a paused workflow go on: what waits is started in its order, with its schedule timeout anew. Raises `NotFoundError`."""
        return self._update(workflow_id, {"action": "unpause"})

    aio_unpause = in_thread(unpause)

    def delete(self, workflow_id: str) -> None:
        """Delete a workflow: it is listed no more, and no trigger, event or cron starts a run of it. Raises `NotFoundError`.

        What runs or is queued goes on to its end, and runs stay readable. A worker that registers the name again makes another workflow.
        """
        self._client.rest.call("DELETE", f"/api/v1/workflows/{workflow_id}")

    aio_delete = in_thread(delete)

    def _update(self, workflow_id: str, pause: dict[str, str]) -> Workflow:
        path = f"/api/v1/workflows/{workflow_id}"
        return as_model(Workflow, self._client.rest.call("PATCH", path, body={"pause": pause}), path)


class MetricsClient:
    """Reads how much waits and runs, and the tenant's metrics."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def get_task_stats(self) -> dict[str, TaskStat]:
        """By name of the task: how many of its runs are queued and running, and since when the oldest is. Idle tasks are left out."""
        path = self._path("task-stats")
        found = self._client.rest.call("GET", path)
        return {name: as_model(TaskStat, stat, path) for name, stat in dict(found).items()}

    aio_get_task_stats = in_thread(get_task_stats)

    def get_task_metrics(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        workflow_ids: Sequence[str] | None = None,
        parent_task_external_id: str | None = None,
        triggering_event_external_id: str | None = None,
    ) -> TaskMetrics:
        """How many task runs have each status, of those created since `since`, or within the last 24 hours, and until `until`, if given.

        parent_task_external_id: those of runs that this task run spawned. triggering_event_external_id: of runs that this event started.
        """
        path = f"/api/v1/stable/tenants/{self._client.tenant_id}/task-metrics"
        query = {
            "since": time_text(since or datetime.now(UTC) - DEFAULT_AGE),
            "until": time_text(until),
            "workflow_ids": [*(workflow_ids or ())],
            "parent_task_external_id": parent_task_external_id,
            "triggering_event_external_id": triggering_event_external_id,
        }
        rows = self._client.rest.call("GET", path, query=query)
        return as_model(TaskMetrics, {str(row["status"]).lower(): row["count"] for row in rows}, path)

    aio_get_task_metrics = in_thread(get_task_metrics)

    def get_queue_metrics(self) -> dict[str, Any]:
        """By queue: how many wait; by workflow and concurrency strategy, and key: how many wait for a place."""
        return dict(self._client.rest.call("GET", self._path("step-run-queue-metrics"))["queues"])

    aio_get_queue_metrics = in_thread(get_queue_metrics)

    def scrape_tenant_prometheus_metrics(self) -> str:
        """The metrics of this tenant in Prometheus' text format."""
        return self._client.rest.get_text(self._path("prometheus-metrics"))

    aio_scrape_tenant_prometheus_metrics = in_thread(scrape_tenant_prometheus_metrics)

    def _path(self, name: str) -> str:
        return f"/api/v1/tenants/{self._client.tenant_id}/{name}"
