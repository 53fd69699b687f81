"""What a task sees of its run."""

import asyncio
import threading
from concurrent.futures import Future

import pytest

from broadaxe import Broadaxe, Context, EmptyModel
from broadaxe.wire.stream_pb2 import Assignment, StepInfo

broadaxe = Broadaxe(namespace="")
flow = broadaxe.workflow(name="flow")


@flow.task()
def first(input: EmptyModel, ctx: Context) -> dict[str, int]:  # noqa: A002
    return {"n": 1}


@flow.task(parents=[first])
def second(input: EmptyModel, ctx: Context) -> None:  # noqa: A002
    return None


def make_context(**fields) -> Context:
    """A context of an assignment as the engine sends it; its services are those of a test."""
    assignment = Assignment(task_run_id="task-run", **fields)
    step = StepInfo(
        ref=1, step_id="step", action_id="flow:second", task_name="second", workflow_id="workflow"
    )
    return Context(assignment, step, Context.for_test()._services)


def test_ids_of_a_workflow_of_one_task_are_the_task_runs():
    context = make_context()
    assert context.workflow_run_id == context.task_run_id == context.step_run_id == "task-run"
    assert make_context(run_id="run").workflow_run_id == "run"


def test_what_is_absent_is_none():
    context = make_context()
    assert context.parent_workflow_run_id is None
    assert context.parent_task_run_id is None
    assert context.child_index is None
    assert context.child_key is None
    assert context.priority is None
    assert context.workflow_version_id is None
    assert not context.was_triggered_by_event


def test_child_index_zero_is_not_absent():
    assert make_context(child_index=0).child_index == 0


def test_attempts_count_from_one_and_retries_from_zero():
    context = make_context(attempt=2, priority=3)
    assert (context.retry_count, context.attempt_number, context.priority) == (2, 3, 3)


def test_children_are_numbered_from_zero_in_each_context():
    context = make_context()
    assert [context.next_child_index() for _ in range(3)] == [0, 1, 2]
    assert make_context().next_child_index() == 0


def test_json_parts_are_objects_and_empty_when_there_are_none():
    context = make_context(input=b'{"a":1}', metadata=b'{"k":"v"}', triggers=b'{"filter_payload":{"x":2}}')
    assert context.workflow_input == {"a": 1}
    assert context.additional_metadata == {"k": "v"}
    assert context.filter_payload == {"x": 2}
    assert make_context(input=b"null").workflow_input == {}
    assert make_context(triggers=b'{"filter_payload":null}').filter_payload == {}


def test_task_output_is_the_parents_output():
    context = make_context(parents=b'{"first":{"n":1}}')
    assert context.task_output(first) == {"n": 1}
    assert not context.was_skipped(first)


def test_output_of_a_skipped_task_is_an_error():
    context = make_context(parents=b'{"first":{"skipped":true}}')
    assert context.was_skipped(first)
    with pytest.raises(ValueError, match="'first' was skipped"):
        context.task_output(first)


def test_output_of_a_task_that_has_none_names_those_that_have():
    with pytest.raises(ValueError, match=r"'first' has no output .*finished tasks: other"):
        make_context(parents=b'{"other":{}}').task_output(first)


@pytest.mark.parametrize(
    ("output", "declared", "expected"),
    [("{}", None, None), ("null", None, None), ("{}", dict, {}), ("null", dict, {}), ("[1]", list[int], [1])],
)
def test_outputs_without_content_fit_what_was_declared(output, declared, expected):
    def step(input, ctx): ...  # noqa: A002 - the documented name

    step.__annotations__ = {"return": declared}
    task = Broadaxe(namespace="").workflow(name="f").task(name="first")(step)
    assert make_context(parents=b'{"first":%s}' % output.encode()).task_output(task) == expected


async def test_outputs_can_be_awaited_as_well():
    assert await make_context(parents=b'{"first":{"n":1}}').aio_task_output(first) == {"n": 1}


def test_a_wait_ends_with_its_result_or_with_the_cancel():
    context = make_context()
    done: Future[int] = Future()
    done.set_result(3)
    assert context.wait(done) == 3
    waiting: Future[int] = Future()
    thread = threading.Timer(0.01, context.interrupt)
    thread.start()
    with pytest.raises(asyncio.CancelledError, match="task 'second' waited"):
        context.wait(waiting)
    thread.join()
    assert context.is_cancelled
    with pytest.raises(asyncio.CancelledError):
        context.wait(waiting)
    assert context.wait(done) == 3


def test_cancelling_sets_the_exit_flag():
    context = Context.for_test()
    assert not context.done()
    context.cancel()
    assert context.exit_flag
    assert context.done()


def test_labels_of_a_test_context_can_be_changed():
    context = Context.for_test()
    context.worker.upsert_labels({"model": "m"})
    assert context.worker_labels == context.worker.labels() == {"model": "m"}


def test_log_lines_are_cut_and_made_encodable():
    lines = []

    class Services:
        def put_log(self, line):
            lines.append(line)

        def drained(self):
            future: Future[None] = Future()
            future.set_exception(OSError("not sent"))
            return future

    context = Context(Assignment(task_run_id="t", attempt=1), StepInfo(), Services())  # type: ignore[arg-type]
    context.log("x" * 20_000)
    context.log("lone \ud800")
    context.log("")
    assert [len(line.message) for line in lines] == [10_000, len("lone \\ud800")]
    assert lines[0].attempt == 1
    with pytest.raises(OSError, match="not sent"):
        context.log("y", raise_on_error=True)
