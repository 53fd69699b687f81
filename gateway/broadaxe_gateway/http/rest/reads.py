"""What REST reads of the record: runs and tasks, their events and logs, workflows and workers; the port, and the rows that it gives.

Live and ended runs are one kind of row here. Touches the store's records and nothing of HTTP.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from broadaxe_storage.records import (
    FINAL_STATES,
    RUN_STEP,
    FinishedTaskRun,
    LogRow,
    TaskEventRow,
    TaskRunRow,
    WorkerRow,
    WorkflowVersionRow,
)


class Row(NamedTuple):
    """A run or a task run, live or ended. A run of one task is one row, one of several has a row of its own and one a task run."""

    id: str
    run_id: str
    workflow_id: str
    workflow_version_id: str
    step_index: int
    """`RUN_STEP` for the row of a run of several tasks."""
    state: int
    attempt: int
    created_at: int
    queued_at: int
    assigned_at: int | None
    started_at: int | None
    finished_at: int | None
    worker_id: str | None
    parent_task_run_id: str | None
    metadata: str
    input: bytes
    """Empty for a task run of a run of several tasks: the run's row has it."""
    output: bytes | None
    error: bytes | None
    triggering_event_id: str | None
    idempotency_key: str | None

    @property
    def is_run_of_several(self) -> bool:
        return self.step_index == RUN_STEP

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES


def live_row(row: TaskRunRow) -> Row:
    return Row(
        id=row.id,
        run_id=row.run_id,
        workflow_id=row.workflow_id,
        workflow_version_id=row.workflow_version_id,
        step_index=row.step_index,
        state=row.state,
        attempt=row.attempt,
        created_at=row.created_at,
        queued_at=row.queued_at,
        assigned_at=row.assigned_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        worker_id=row.worker_id,
        parent_task_run_id=row.parent_task_run_id,
        metadata=row.metadata,
        input=row.input,
        output=row.output,
        error=row.error,
        triggering_event_id=row.triggering_event_id,
        idempotency_key=row.idempotency_key,
    )


def ended_row(row: FinishedTaskRun) -> Row:
    return Row(
        id=row.id,
        run_id=row.run_id,
        workflow_id=row.workflow_id,
        workflow_version_id=row.workflow_version_id,
        step_index=row.step_index,
        state=row.state,
        attempt=row.attempt,
        created_at=row.created_at,
        queued_at=row.queued_at,
        assigned_at=row.assigned_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        worker_id=row.worker_id,
        parent_task_run_id=row.parent_task_run_id,
        metadata=row.metadata,
        input=row.input,
        output=row.output,
        error=row.error,
        triggering_event_id=row.triggering_event_id,
        idempotency_key=row.idempotency_key,
    )


class RunQuery(NamedTuple):
    """Which runs or task runs a listing has. Empty tuples stand for all."""

    since: int
    """Created at this time or later, in microseconds."""
    until: int | None = None
    """Created at this time or before."""
    only_tasks: bool = False
    """Task runs, and not the runs of several tasks that they belong to; else runs, each once."""
    states: tuple[int, ...] = ()
    """As in `RunFilter`: a live run of several tasks counts as RUNNING once a task of it has been assigned, else as QUEUED."""
    workflow_ids: tuple[str, ...] = ()
    worker_id: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    needs_all_metadata: bool = False
    """All of `metadata`, not just any of it."""
    parent_task_run_id: str | None = None
    triggering_event_id: str | None = None
    idempotency_keys: tuple[str, ...] = ()


class LogQuery(NamedTuple):
    """Which log lines of a tenant. Empty tuples stand for all."""

    task_run_ids: tuple[str, ...] = ()
    """A run of several tasks stands for all of them."""
    since: int | None = None
    """Created after this time."""
    until: int | None = None
    """Created before this time."""
    search: str = ""
    """Within the message, in any case of letters."""
    levels: tuple[str, ...] = ()
    attempt: int | None = None
    workflow_ids: tuple[str, ...] = ()
    steps: tuple[tuple[str, int], ...] | None = None
    """Any of these, each by version id and step index; None for all."""
    is_descending: bool = False
    limit: int = 50


class Reads(Protocol):
    """Reads of one tenant each. Every method raises `Unavailable` without Postgres.

    What is fetched by id was there if its trigger has been answered; listings may lag behind where they are read from a replica.
    """

    async def list_rows(
        self, tenant_id: str, query: RunQuery, *, limit: int, offset: int, has_payloads: bool
    ) -> tuple[list[Row], int]:
        """A page of rows, newest first, and how many there are in all. Without payloads, input and output are empty."""
        ...

    async def list_run_ids(self, tenant_id: str, query: RunQuery) -> list[str]:
        """Ids of all runs that a query means, in any order."""
        ...

    async def list_tasks_of(self, tenant_id: str, run_ids: Sequence[str], *, has_payloads: bool) -> list[Row]:
        """Task runs of these runs of several tasks, in any order."""
        ...

    async def fetch_rows(self, tenant_id: str, ids: Sequence[str]) -> list[Row]:
        """Rows whose own id or run id is one of these, in any order. Unknown ids are left out."""
        ...

    async def list_children(
        self, tenant_id: str, parent_task_run_ids: Sequence[str], limit: int
    ) -> list[Row]:
        """Runs that these task runs spawned, oldest first, without payloads."""
        ...

    async def count_children(self, tenant_id: str, parent_task_run_id: str) -> int: ...

    async def fetch_events(self, tenant_id: str, task_run_ids: Sequence[str]) -> list[TaskEventRow]:
        """What happened to these task runs, oldest first."""
        ...

    async def list_log_lines(self, tenant_id: str, query: LogQuery) -> list[LogRow]:
        """Lines in the order of their creation, or the other way round."""
        ...

    async def fetch_version(self, tenant_id: str, version_id: str) -> WorkflowVersionRow | None: ...

    async def list_workflows(
        self, tenant_id: str, name: str, *, limit: int, offset: int
    ) -> tuple[list[WorkflowVersionRow], int]:
        """A page of the newest versions of the workflows whose name has `name` in it, by name, and how many there are in all."""
        ...

    async def fetch_latest_version(self, tenant_id: str, workflow_id: str) -> WorkflowVersionRow | None: ...

    async def list_workers(self, tenant_id: str, since: int) -> list[WorkerRow]:
        """Workers that are active, or have changed at `since` or later; the newest first."""
        ...

    async def fetch_worker(self, tenant_id: str, worker_id: str) -> WorkerRow | None: ...
