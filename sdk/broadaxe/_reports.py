"""The end of an attempt as its report: what it returned, or what it raised. Pure."""

from collections.abc import Mapping
from typing import Any

from broadaxe._batch_context import outputs_by_member
from broadaxe._errors import NonRetryableException, PayloadTooLargeError, RetryAfterException, TaskRunError
from broadaxe._validation import dump_output
from broadaxe._worker_link import COMPLETED, FAILED, Attempt, Batch, Report

ERROR_CHARACTERS = 100_000
"""Of an error's message and of its traceback, each: what is longer loses its middle."""


def success(attempt: Attempt, output: Any, max_bytes: int) -> Report:
    """Raises `InvalidOutputError`, or `PayloadTooLargeError` for more than `max_bytes` of JSON."""
    payload = dump_output(attempt.task, output)
    if len(payload) > max_bytes:
        raise PayloadTooLargeError(
            f"the output of task {attempt.task.name!r} has {len(payload)} bytes of JSON; a message to the engine may "
            f"have {max_bytes} (grpc_max_send_message_length)"
        )
    return Report(attempt, COMPLETED, payload)


def failure(attempt: Attempt, error: BaseException, runner_file: str) -> Report:
    """The report of a failed attempt, with the traceback of the user's own frames: those below `runner_file`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == runner_file:
        trace = trace.tb_next
    told = TaskRunError.from_exception(
        error.with_traceback(trace), attempt.assignment.task_run_id, attempt.task.name
    )
    told.exc, told.trace = _shortened(told.exc), _shortened(told.trace)
    return Report(
        attempt,
        FAILED,
        told.to_wire().encode("utf-8", "backslashreplace"),
        should_not_retry=isinstance(error, NonRetryableException | PayloadTooLargeError),
        retry_after_ms=error.after_ms if isinstance(error, RetryAfterException) else 0,
    )


def successes(
    batch: Batch, called: list[Attempt], output: Any, max_bytes: int, runner_file: str
) -> list[Report]:
    """A report for each member that the function was called with; an output that cannot travel fails its member alone.

    Raises `InvalidOutputError` for the wrong member ids.
    """
    cancelled = {member.assignment.task_run_id for member in called if member.is_cancelled}
    ids = [member.assignment.task_run_id for member in called]
    outputs: Mapping[str, Any] = outputs_by_member(batch.task, output, ids, cancelled)
    reports = []
    for member in called:
        if member.is_cancelled:
            continue
        try:
            reports.append(success(member, outputs[member.assignment.task_run_id], max_bytes))
        except Exception as error:  # noqa: BLE001 - it is told in the member's report
            reports.append(failure(member, error, runner_file))
    return reports


def _shortened(text: str) -> str:
    if len(text) <= ERROR_CHARACTERS:
        return text
    half = ERROR_CHARACTERS // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
