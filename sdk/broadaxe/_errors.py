"""What the SDK raises, one shallow tree, and the text form in which a task's error travels.

    BroadaxeError
    |-- DefinitionError          your task, workflow or dependency cannot be registered as written
    |-- ConfigurationError       a setting is missing or wrong
    |-- InvalidInputError        the input given to `run` does not fit the task
    |-- InvalidOutputError       a result does not fit the declared return type, or is not JSON
    |-- PayloadTooLargeError     a message would exceed the size limit
    |-- RequestRefusedError      the server understood and said no; `.code` and `.message` say why
    |   |-- NotAuthenticatedError
    |   |-- NotFoundError        the tenant has nothing with that id
    |   |   `-- RunNotFoundError
    |   |-- IdempotencyCollisionError             another run holds the idempotency key
    |   `-- BulkTriggerIdempotencyCollisionError  the same for some runs of a bulk trigger; the others exist
    |-- ServerUnavailableError   the server cannot be reached; safe to try again
    |-- ClientClosedError        the client was closed, or the process forked after it had connected
    |-- RunCancelledError        the run was cancelled, so there is no result
    |-- FailedRunError           the run failed (an `ExceptionGroup` of `TaskRunError`)
    |-- TaskRunError             one task's own error: type, message, traceback text
    |-- NonRetryableException    raised by a task: do not retry
    `-- RetryAfterException      raised by a task: retry after a time that it says

Error text on the wire (the same that other clients of the contract write and read): first line `Type: message`, then the traceback, then a JSON
object naming the task run. A newline in the message is written as backslash, newline; a `": "` inside the type as `:::`.
"""

import json
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Self

_METADATA_KEY = "__hatchet_error_metadata__"


class BroadaxeError(Exception):
    """Base of everything that the SDK raises."""


class DefinitionError(BroadaxeError, ValueError):
    """A task, workflow or dependency is declared in a way that cannot work. Raised where it is declared."""


class ConfigurationError(BroadaxeError, ValueError):
    """A setting is missing or has a value that cannot be used; the text names the setting and where it came from."""


class InvalidInputError(BroadaxeError, ValueError):
    """An input does not fit what the task or workflow declares, or cannot be written as JSON."""


class InvalidOutputError(BroadaxeError, ValueError):
    """A result does not fit the declared return type of its task, or cannot be written as JSON."""


class PayloadTooLargeError(BroadaxeError, ValueError):
    """A message would exceed `grpc_max_send_message_length`. Nothing was sent."""


class RequestRefusedError(BroadaxeError):
    """The server refused a request, and nothing of that request was done.

    code: name of the gRPC status, such as `INVALID_ARGUMENT`.
    message: the server's reason.
    """

    def __init__(self, code: str, message: str, what: str = "") -> None:
        super().__init__(f"{what + ': ' if what else ''}{message} ({code})")
        self._given = (code, message, what)
        self.code = code
        self.message = message
        self.created_run_ids: tuple[str, ...] = ()
        """Of a bulk call that was sent in several parts: runs created by the parts that were not refused."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._given, {"created_run_ids": self.created_run_ids}


class NotAuthenticatedError(RequestRefusedError):
    """The API token is not valid for this server: wrong, expired, revoked, or of another server."""


class NotFoundError(RequestRefusedError):
    """The tenant has no run, task, worker or workflow with that id."""


class RunNotFoundError(NotFoundError):
    """The tenant has no run with that id."""


class IdempotencyCollisionError(RequestRefusedError):
    """The run was not created: another run holds its idempotency key.

    existing_run_external_id: that run.
    colliding_run_external_id: the id under which this run would have been created; empty when not known.
    """

    def __init__(self, existing_run_external_id: str, colliding_run_external_id: str = "") -> None:
        super().__init__(
            "ALREADY_EXISTS",
            f"run {existing_run_external_id} holds the same idempotency key, so no run was created",
            "trigger",
        )
        self.existing_run_external_id = existing_run_external_id
        self.colliding_run_external_id = colliding_run_external_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.existing_run_external_id, self.colliding_run_external_id)


class BulkTriggerIdempotencyCollisionError(RequestRefusedError):
    """Some runs of a bulk trigger were not created, as others hold their idempotency keys. The rest of them exist and run.

    successful_workflow_run_external_ids: the runs that exist, in the order of the call.
    collisions: one `IdempotencyCollisionError` for each that does not.
    """

    def __init__(
        self,
        successful_workflow_run_external_ids: Sequence[str],
        collisions: Sequence[IdempotencyCollisionError],
    ) -> None:
        created = list(successful_workflow_run_external_ids)
        holders = ", ".join(error.existing_run_external_id for error in collisions[:5])
        more = f" and {len(collisions) - 5} more" if len(collisions) > 5 else ""
        super().__init__(
            "ALREADY_EXISTS",
            f"{len(collisions)} of {len(collisions) + len(created)} runs were not created: their idempotency keys are held by "
            f"run {holders}{more}; the others were",
            "trigger",
        )
        self.successful_workflow_run_external_ids = created
        self.collisions = list(collisions)
        self.created_run_ids = tuple(created)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.successful_workflow_run_external_ids, self.collisions)


class ServerUnavailableError(BroadaxeError, ConnectionError):
    """The server could not be reached for as long as the client waits for that. Trying again is safe.

    run_ids: for a trigger, the ids under which runs may have been created without our seeing the answer.
    """

    def __init__(self, message: str, run_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.run_ids = tuple(run_ids)


class ClientClosedError(BroadaxeError, RuntimeError):
    """The client can send nothing more: `close()` was called, or this process was forked after the client had connected."""


class RunCancelledError(BroadaxeError):
    """The run was cancelled before it had a result: by a user, a concurrency strategy, or for waiting too long to be scheduled.

    reason: the engine's words for it; empty when it gives none.
    """

    def __init__(self, run_id: str, reason: str = "") -> None:
        super().__init__(run_id, reason)
        self.run_id = run_id
        self.reason = reason

    def __str__(self) -> str:
        return f"run {self.run_id} was cancelled" + (f": {self.reason}" if self.reason else "")


class NonRetryableException(BroadaxeError):
    """Raise it in a task to fail the run without any further retry."""


class RetryAfterException(BroadaxeError):
    """Raise it in a task to fail the attempt and have it retried after `after`, instead of after its backoff.

    It counts against `retries` as any failure does.
    """

    def __init__(self, message: str = "", *, after: timedelta) -> None:
        super().__init__(message)
        if not isinstance(after, timedelta) or after < timedelta(0):
            raise ValueError(f"after is {after!r}: expected a timedelta of 0 or more")
        self.after = after

    @property
    def after_ms(self) -> int:
        """The wait in milliseconds, rounded up."""
        return -(-self.after // timedelta(milliseconds=1)) if self.after else 0

    def __reduce__(self) -> tuple[Callable[..., "RetryAfterException"], tuple[str, timedelta]]:
        return _retry_after, (str(self), self.after)


class TaskRunError(BroadaxeError):
    """The error that a task raised, as its worker saw it.

    exc_type: name of the exception's class; empty when the error came from the engine (a timeout, a lost worker).
    exc: the exception's message.
    trace: the worker's traceback as text; may be empty.
    task_run_id, task_name: where it happened, when known.
    """

    def __init__(
        self, exc: str, exc_type: str = "", trace: str = "", task_run_id: str = "", task_name: str = ""
    ) -> None:
        super().__init__(exc, exc_type, trace, task_run_id, task_name)
        self.exc = exc
        self.exc_type = exc_type
        self.trace = trace
        self.task_run_id = task_run_id
        self.task_name = task_name

    @property
    def task_run_external_id(self) -> str:
        """As `task_run_id`."""
        return self.task_run_id

    @property
    def summary(self) -> str:
        """`Type: message`, in one line or more."""
        return f"{self.exc_type}: {self.exc}" if self.exc_type else self.exc

    def __str__(self) -> str:
        where = f"task {self.task_name!r}" if self.task_name else "the task"
        if not self.trace:
            return self.summary
        return f"{self.summary}\n\nTraceback of {where} on its worker:\n{self.trace}"

    @classmethod
    def from_exception(cls, error: BaseException, task_run_id: str = "", task_name: str = "") -> Self:
        """What to report for an exception that a task raised."""
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return cls(str(error), type(error).__name__, trace.rstrip("\n"), task_run_id, task_name)

    def to_wire(self) -> str:
        """The text to report to the engine."""
        kind = self.exc_type.replace(": ", ":::")
        message = self.exc.replace("\n", "\\\n")
        metadata = json.dumps({_METADATA_KEY: {"task_run_external_id": self.task_run_id or None}})
        return f"{kind}: {message}\n{self.trace}\n\n{metadata}"

    @classmethod
    def from_wire(cls, text: str, task_run_id: str = "", task_name: str = "") -> Self:
        """Read any error text: ours, another SDK's, or the engine's own plain sentence."""
        text, wire_id = _without_metadata(text)
        first, rest = _first_line(text)
        kind, separator, message = first.partition(": ")
        if not separator or not _is_type_name(kind):
            kind, message = "", first
        return cls(message, kind.replace(":::", ": "), rest.strip("\n"), task_run_id or wire_id, task_name)


class FailedRunError(BroadaxeError, ExceptionGroup[TaskRunError]):
    """A run failed. Holds one `TaskRunError` for each task of it that failed, in `.exceptions`.

    run_id: the run. `exc_type`, `exc` and `trace` are those of the first failed task.
    """

    run_id: str

    def __new__(cls, run_id: str, errors: Sequence[TaskRunError]) -> Self:
        first = errors[0].summary.split("\n", 1)[0]
        self = super().__new__(cls, f"run {run_id} failed: {first}", list(errors))
        self.run_id = run_id
        return self

    def __init__(self, run_id: str, errors: Sequence[TaskRunError]) -> None:
        """`__new__` has done it all: an exception group is made whole."""

    def derive(self, excs: Sequence[Exception], /) -> "FailedRunError":  # type: ignore[override]
        return FailedRunError(self.run_id, [error for error in excs if isinstance(error, TaskRunError)])

    def __reduce__(self) -> tuple[type["FailedRunError"], tuple[str, list[TaskRunError]]]:
        return FailedRunError, (self.run_id, self.errors)

    @property
    def errors(self) -> list[TaskRunError]:
        """One for each failed task."""
        return [error for error in self.exceptions if isinstance(error, TaskRunError)]

    @property
    def error(self) -> TaskRunError:
        """The error of the first failed task."""
        return self.errors[0]

    @property
    def exc_type(self) -> str:
        return self.error.exc_type

    @property
    def exc(self) -> str:
        return self.error.exc

    @property
    def trace(self) -> str:
        return self.error.trace


def _retry_after(message: str, after: timedelta) -> RetryAfterException:
    return RetryAfterException(message, after=after)


def _without_metadata(text: str) -> tuple[str, str]:
    """The text without its last line if that is the metadata object, and the task run id it names."""
    head, _, last = text.rstrip().rpartition("\n")
    if _METADATA_KEY not in last:
        return text, ""
    try:
        metadata = json.loads(last)[_METADATA_KEY]
    except (ValueError, KeyError, TypeError):
        return text, ""  # a message that merely mentions the key
    return head.rstrip("\n"), (metadata or {}).get("task_run_external_id") or ""


def _first_line(text: str) -> tuple[str, str]:
    """The message's own lines, joined again where a backslash was written before a newline, and what follows them."""
    lines = text.split("\n")
    message = [lines[0]]
    index = 1
    while message[-1].endswith("\\") and index < len(lines):
        message[-1] = message[-1][:-1]
        message.append(lines[index])
        index += 1
    return "\n".join(message), "\n".join(lines[index:])


def _is_type_name(text: str) -> bool:
    """Whether the words before the first colon may be a class name; a sentence of the engine's is none."""
    return bool(text) and " " not in text.replace(":::", "")
