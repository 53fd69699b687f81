"""The text form of task errors, both ways, and the shape of the tree."""

import json
import pickle
from datetime import timedelta

import pytest
from pydantic import BaseModel

import broadaxe
from broadaxe import BroadaxeError, FailedRunError, RetryAfterException, RunCancelledError, TaskRunError


def raised() -> TaskRunError:
    try:
        raise ValueError("first: line\nsecond line")  # noqa: TRY301 - its own frame is looked for
    except ValueError as error:
        return TaskRunError.from_exception(error, "run-1", "step")


def test_what_is_written_is_read_back():
    error = raised()
    back = TaskRunError.from_wire(error.to_wire(), task_name="step")
    assert (back.exc_type, back.exc, back.task_run_id) == ("ValueError", "first: line\nsecond line", "run-1")
    assert back.trace == error.trace
    assert "in raised" in back.trace


def test_the_text_is_the_contracts():
    first, second, *_ = raised().to_wire().split("\n")
    assert (first, second) == ("ValueError: first: line\\", "second line")
    last = raised().to_wire().rsplit("\n", 1)[1]
    assert json.loads(last) == {"__hatchet_error_metadata__": {"task_run_external_id": "run-1"}}


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("Task exceeded timeout of 3s", "", "Task exceeded timeout of 3s"),
        ("the worker was lost: no heartbeat for 30 s", "", "the worker was lost: no heartbeat for 30 s"),
        ('{"message":"boom","stack":"at x"}', "", '{"message":"boom","stack":"at x"}'),
        ("", "", ""),
        ("my.mod.Odd:::Type: text", "my.mod.Odd: Type", "text"),
    ],
)
def test_texts_of_others_are_taken_as_they_are(text, kind, message):
    error = TaskRunError.from_wire(text)
    assert (error.exc_type, error.exc) == (kind, message)


def test_a_message_that_mentions_the_metadata_key_is_kept():
    text = "ValueError: x\n\n__hatchet_error_metadata__ is not json"
    assert "__hatchet_error_metadata__" in TaskRunError.from_wire(text).trace


def test_a_failed_run_shows_error_and_traceback():
    error = FailedRunError("run-1", [raised()])
    assert (error.exc_type, error.run_id) == ("ValueError", "run-1")
    assert "run run-1 failed: ValueError: first: line" in str(error)
    assert "in raised" in str(error.errors[0])
    assert "task 'step'" in str(error.errors[0])


def test_a_failed_run_survives_pickling_and_splitting():
    error = pickle.loads(pickle.dumps(FailedRunError("run-1", [raised()])))
    assert (error.run_id, error.exc_type) == ("run-1", "ValueError")
    match, rest = error.split(TaskRunError)
    assert isinstance(match, FailedRunError)
    assert rest is None


def test_a_retry_after_says_when_and_survives_pickling():
    error = pickle.loads(
        pickle.dumps(RetryAfterException("busy", after=timedelta(seconds=2, microseconds=1)))
    )
    assert (str(error), error.after_ms) == ("busy", 2001)
    assert RetryAfterException(after=timedelta(0)).after_ms == 0
    with pytest.raises(ValueError, match="expected a timedelta of 0 or more"):
        RetryAfterException("busy", after=timedelta(seconds=-1))


def test_a_cancelled_run_tells_the_reason():
    error = pickle.loads(pickle.dumps(RunCancelledError("run-1", "no worker")))
    assert (str(error), error.run_id, error.reason) == (
        "run run-1 was cancelled: no worker",
        "run-1",
        "no worker",
    )
    assert str(RunCancelledError("run-1")) == "run run-1 was cancelled"


def test_every_public_error_is_in_the_tree():
    named = [getattr(broadaxe, name) for name in broadaxe.__all__ if name.endswith(("Error", "Exception"))]
    # A model may be named after errors that an answer tells of.
    errors = [item for item in named if not issubclass(item, BaseModel)]
    assert len(errors) >= 14
    for error in errors:
        assert issubclass(error, BroadaxeError), error
