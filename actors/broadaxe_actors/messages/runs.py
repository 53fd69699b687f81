"""Workflows and runs: register, trigger, cancel, replay, read. See the package."""

from typing import NamedTuple

from broadaxe_actors.definitions import WorkflowDefinition
from broadaxe_storage.records import RunFilter

MAX_CANCELLED_BY_FILTER = 20_000
MAX_REPLAYED_BY_FILTER = 1_000


class PutWorkflow(NamedTuple):
    """Register a definition. Reply: `WorkflowRegistered`. A new version only when the checksum differs from the latest."""

    request_id: int
    tenant_id: str
    definition: WorkflowDefinition


class WorkflowRegistered(NamedTuple):
    workflow_id: str
    version_id: str


class NewRun(NamedTuple):
    """One run to create."""

    workflow_name: str
    input: bytes
    """JSON text, checked by the gateway; may be empty."""
    metadata: str = "{}"
    """JSON object text, checked by the gateway."""
    run_id: str = ""
    """Chosen by the client, or empty: the engine then gives one."""
    priority: int | None = None
    parent_task_run_id: str | None = None
    child_index: int | None = None
    child_key: str | None = None
    desired_worker_id: str | None = None
    desired_labels: str | None = None


class TriggerRuns(NamedTuple):
    """Create runs, all or none. Reply: tuple of run ids in request order, after the commit."""

    request_id: int
    tenant_id: str
    runs: tuple[NewRun, ...]
    is_repeat: bool = False
    """The client asked before and saw no answer: an existing run id is answered, not refused."""


class CancelRuns(NamedTuple):
    """Cancel runs and task runs by id, or runs by filter. Reply, after the commit: the ids that were acted on.

    A run id stands for all its task runs. What is unknown or has ended is left as it is.
    """

    request_id: int
    tenant_id: str
    ids: tuple[str, ...]
    filter: RunFilter | None = None
    """Then `ids` is empty, and at most `MAX_CANCELLED_BY_FILTER` runs are cancelled."""


class ReplayRuns(NamedTuple):
    """Run ended runs, or task runs and what depends on them, again. Reply, after the commit: ids of the task runs replayed.

    What is unknown or has not ended is left as it is. Refused with FAILED_PRECONDITION where replays are switched off.
    """

    request_id: int
    tenant_id: str
    ids: tuple[str, ...]
    filter: RunFilter | None = None
    """Then `ids` is empty, and at most `MAX_REPLAYED_BY_FILTER` runs are replayed."""


class RefreshTimeout(NamedTuple):
    """Add to the execution timeout of a running attempt. Reply, after the commit: the new deadline; NOT_FOUND without one."""

    request_id: int
    tenant_id: str
    task_run_id: str
    increment_us: int


class ReleaseSlot(NamedTuple):
    """Give an attempt's slot back while it runs on. Reply, after the commit: None; NOT_FOUND without a running attempt."""

    request_id: int
    tenant_id: str
    task_run_id: str


class GetRun(NamedTuple):
    """Reply: `RunDetails`, or NOT_FOUND."""

    request_id: int
    tenant_id: str
    run_id: str


class TaskDetails(NamedTuple):
    task_run_id: str
    task_name: str
    state: int
    """A `TaskRunState`."""
    attempt: int
    output: bytes | None
    error: bytes | None


class RunDetails(NamedTuple):
    run_id: str
    state: int
    """A `TaskRunState`: of the run as a whole."""
    is_done: bool
    input: bytes
    metadata: str
    tasks: tuple[TaskDetails, ...]
