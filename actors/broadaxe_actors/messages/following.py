"""Who follows runs: results, events, stream chunks, log lines. See the package."""

from enum import IntEnum
from typing import NamedTuple


class WatchRuns(NamedTuple):
    """Ask for `RunFinished` of these runs: now if they have ended, else when they do. Unknown ids stay pending. One-way."""

    tenant_id: str
    run_ids: tuple[str, ...]


class UnwatchRuns(NamedTuple):
    """Nobody at this gateway waits for these runs any more. One-way."""

    tenant_id: str
    run_ids: tuple[str, ...]


class TaskResult(NamedTuple):
    task_run_id: str
    task_name: str
    state: int
    """A final `TaskRunState`."""
    output: bytes | None
    error: bytes | None


class RunFinished(NamedTuple):
    """A watched run has ended."""

    tenant_id: str
    run_id: str
    state: int
    results: tuple[TaskResult, ...]


class OpenSubscription(NamedTuple):
    """Follow the events of one run, or of all runs with a metadata key and value, as `RunEvents`.

    Reply: `True` when open, `False` when the run has ended already; NOT_FOUND for an unknown run.
    """

    request_id: int
    tenant_id: str
    subscription_id: str
    run_id: str | None
    metadata_key: str | None = None
    metadata_value: str | None = None


class CloseSubscription(NamedTuple):
    """One-way."""

    tenant_id: str
    subscription_id: str


class RunEventKind(IntEnum):
    """Numbers are the wire's ResourceEventType."""

    STARTED = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4
    STREAM = 6


class RunEvent(NamedTuple):
    """One event of a followed run."""

    run_id: str
    is_run: bool
    """True: of the run itself, after which nothing follows for this run; False: of a task run."""
    resource_id: str
    kind: RunEventKind
    at: int
    payload: bytes = b""
    attempt: int | None = None
    index: int | None = None  # type: ignore[assignment]  # see NewChunk


class RunEvents(NamedTuple):
    """Events for a subscription, in order. `is_last` ends it."""

    subscription_id: str
    events: tuple[RunEvent, ...]
    is_last: bool


class NewLog(NamedTuple):
    task_run_id: str
    attempt: int | None
    created_at: int
    level: str | None
    metadata: str | None
    message: bytes


class PutLogs(NamedTuple):
    """Keep log lines. Reply: None, or NOT_FOUND if any names an unknown task run (`request_id` 0: no answer).

    Buffered: a crash may lose the last second.
    """

    request_id: int
    tenant_id: str
    lines: tuple[NewLog, ...]


class NewChunk(NamedTuple):
    task_run_id: str
    attempt: int | None
    index: int | None  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    message: bytes


class PutStream(NamedTuple):
    """Pass stream chunks to who follows the run; never stored. Reply: None, or NOT_FOUND (`request_id` 0: no answer)."""

    request_id: int
    tenant_id: str
    chunks: tuple[NewChunk, ...]
