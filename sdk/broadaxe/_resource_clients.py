"""Logs, workers and workflows as the server has them, over REST. Every method has an asynchronous form, with `aio_` before its name."""

from datetime import datetime
from typing import TYPE_CHECKING

from broadaxe._rest import as_model, in_thread, time_text
from broadaxe.models import (
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
    """Reads registered workflows."""

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
