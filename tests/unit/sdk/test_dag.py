# ruff: noqa: A002 - tasks call their input `input`
"""Workflows of several tasks: what a task is told of the others, and what a run returns, over both links."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from broadaxe import (
    Broadaxe,
    Context,
    EmptyModel,
    FailedRunError,
    InvalidOutputError,
    RunCancelledError,
    TaskRunError,
    Workflow,
)
from broadaxe.wire.stream_pb2 import TaskResult
from tests.unit.sdk.clients import make_client
from tests.unit.sdk.fake_engine import CANCELLED, COMPLETED, FAILED, FakeEngine
from tests.unit.sdk.worker_tools import running

SKIPPED = {"skipped": True}


class Number(BaseModel):
    n: int


@dataclass
class Point:
    x: int


@pytest.fixture(params=["batched", "unary"])
def engine(request) -> Iterator[FakeEngine]:
    with FakeEngine(batched=request.param == "batched") as engine:
        yield engine


@pytest.fixture
def client(engine) -> Iterator[Broadaxe]:
    with make_client(engine) as client:
        yield client


def output_of(engine: FakeEngine, run_id: str) -> dict[str, object]:
    """What the one task that was run returned."""
    engine.wait_until(lambda: engine.runs[run_id].state is not None, f"the end of {run_id}")
    (result,) = engine.runs[run_id].results
    assert result.state == COMPLETED, result.error
    return json.loads(result.output)


def result(name: str, state: int, payload: bytes = b"") -> TaskResult:
    field = {"output": payload} if state == COMPLETED else {"error": payload}
    return TaskResult(task_run_id=f"id-of-{name}", task_name=name, state=state, **field)


def diamond(client: Broadaxe, join: Callable[..., object]) -> Workflow[EmptyModel]:
    """A workflow whose last task is `join(model, point, plain, nothing, absent, ctx)`."""
    flow = client.workflow(name="diamond")

    @flow.task()
    def model(input: EmptyModel, ctx: Context) -> Number: ...

    @flow.task()
    def point(input: EmptyModel, ctx: Context) -> Point: ...

    @flow.task()
    def plain(input: EmptyModel, ctx: Context) -> dict[str, int]: ...

    @flow.task()
    def nothing(input: EmptyModel, ctx: Context) -> None: ...

    @flow.task()
    def absent(input: EmptyModel, ctx: Context) -> Number: ...

    @flow.task(name="join", parents=[model, point, plain, nothing, absent])
    async def join_(input: EmptyModel, ctx: Context) -> object:
        return join(model, point, plain, nothing, absent, ctx)

    return flow


def test_parents_outputs_arrive_as_they_were_declared(engine, client):
    engine.parents = {
        "model": {"n": 1},
        "point": {"x": 2},
        "plain": {"a": 3},
        "nothing": {},
        "absent": SKIPPED,
    }

    def join(model, point, plain, nothing, absent, ctx):
        assert ctx.task_output(model) == Number(n=1)
        assert ctx.task_output(point) == Point(2)
        assert ctx.task_output(plain) == {"a": 3}
        assert ctx.task_output(nothing) is None
        with pytest.raises(ValueError, match="'absent' was skipped"):
            ctx.task_output(absent)
        return {"skipped": [ctx.was_skipped(task) for task in (model, absent)]}

    with running(client.worker("w", workflows=[diamond(client, join)])):
        assert output_of(engine, engine.trigger("diamond", step="join")) == {"skipped": [False, True]}


def test_a_parent_output_that_does_not_fit_its_declaration_says_which_and_why(engine, client):
    engine.parents = {"model": {"n": "many"}}

    def join(model, point, plain, nothing, absent, ctx):
        with pytest.raises(InvalidOutputError, match=r"output of task 'model'.*n: Input should be"):
            ctx.task_output(model)
        return {}

    with running(client.worker("w", workflows=[diamond(client, join)])):
        assert output_of(engine, engine.trigger("diamond", step="join")) == {}


def test_triggers_and_the_filter_payload_arrive(engine, client):
    engine.triggers = {"order:paid": {"amount": 7}, "filter_payload": {"kind": "big"}}

    @client.task(name="look")
    def look(input: EmptyModel, ctx: Context) -> dict[str, object]:
        return {"paid": ctx.triggers["order:paid"], "filter": ctx.filter_payload, "same": ctx.trigger_data}

    with running(client.worker("w", workflows=[look])):
        seen = output_of(engine, engine.trigger("look"))
    assert seen["paid"] == {"amount": 7}
    assert seen["filter"] == {"kind": "big"}
    assert seen["same"] == engine.triggers


def test_an_on_failure_task_is_told_the_errors(engine, client):
    engine.task_run_errors = {
        "step": TaskRunError("no: money\nleft", "PaymentError", "Traceback: line 1", "id").to_wire(),
        "slow": "Task exceeded timeout of 3s",
    }
    flow = client.workflow(name="flow")
    told: dict[str, object] = {}

    @flow.task()
    def step(input: EmptyModel, ctx: Context) -> None: ...

    @flow.task()
    def slow(input: EmptyModel, ctx: Context) -> None: ...

    @flow.task()
    def fine(input: EmptyModel, ctx: Context) -> None: ...

    @flow.on_failure_task()
    def rescue(input: EmptyModel, ctx: Context) -> dict[str, str]:
        told["texts"] = ctx.task_run_errors
        told["errors"] = [ctx.get_task_run_error(task) for task in (step, slow, fine)]
        told["text"] = ctx.fetch_task_run_error(step)
        return ctx.task_run_errors

    with running(client.worker("w", workflows=[flow])):
        output_of(engine, engine.trigger("flow", step="rescue"))
    raised, timed_out, none = told["errors"]  # type: ignore[misc]
    assert (raised.exc_type, raised.exc, raised.trace) == (
        "PaymentError",
        "no: money\nleft",
        "Traceback: line 1",
    )
    assert (raised.task_name, raised.task_run_external_id) == ("step", "id")
    assert (timed_out.exc_type, timed_out.exc) == ("", "Task exceeded timeout of 3s")
    assert none is None
    assert told["text"] == "PaymentError: no: money\nleft\nTraceback: line 1"
    assert told["texts"] == {"step": told["text"], "slow": "Task exceeded timeout of 3s"}


def test_a_task_knows_its_workflow_and_how_often_it_may_be_tried(engine, client):
    @client.task(name="Known", retries=4)
    def known(input: EmptyModel, ctx: Context) -> dict[str, object]:
        return {"workflow": ctx.workflow_name, "most": ctx.max_attempts, "now": ctx.attempt_number}

    with running(client.worker("w", workflows=[known])):
        assert output_of(engine, engine.trigger("Known")) == {"workflow": "Known", "most": 5, "now": 1}


# ---- what a run returns


def test_a_run_returns_the_outputs_by_task_name(engine, client):
    engine.answer = lambda run: (
        COMPLETED,
        [
            result("model", COMPLETED, b'{"n":1}'),
            result("absent", COMPLETED, b'{"skipped":true}'),
            result("nothing", COMPLETED),
        ],
    )
    expected = {"model": {"n": 1}, "absent": SKIPPED, "nothing": None}
    assert diamond(client, lambda *_: None).run() == expected
    assert client.stubs.workflow(name="elsewhere").run() == expected


async def test_a_failed_run_raises_every_tasks_error(engine, client):
    engine.answer = lambda run: (
        FAILED,
        [
            result("model", COMPLETED, b"{}"),
            result("point", FAILED, TaskRunError("one", "ValueError").to_wire().encode()),
            result("plain", FAILED, b"Task exceeded timeout of 3s"),
            result("join", CANCELLED),
        ],
    )
    with pytest.raises(FailedRunError) as caught:
        await diamond(client, lambda *_: None).aio_run()
    assert [(error.task_name, error.summary) for error in caught.value.errors] == [
        ("point", "ValueError: one"),
        ("plain", "Task exceeded timeout of 3s"),
    ]
    assert caught.value.errors[0].task_run_id == "id-of-point"


def test_a_cancelled_run_raises_with_the_engines_reason_where_it_gives_one():
    answer = [result("model", COMPLETED, b"{}"), result("join", CANCELLED, b"no worker took it within 5m")]
    with FakeEngine(answer=lambda run: (CANCELLED, answer)) as engine, make_client(engine) as client:
        with pytest.raises(RunCancelledError, match="was cancelled: no worker took it within 5m") as caught:
            client.stubs.workflow(name="flow").run()
        assert caught.value.reason == "no worker took it within 5m"
        (run_id,) = engine.runs
        assert caught.value.run_id == run_id


def test_a_cancelled_run_without_a_reason_raises(engine, client):
    engine.answer = lambda run: (CANCELLED, [result("model", COMPLETED, b"{}"), result("join", CANCELLED)])
    with pytest.raises(RunCancelledError) as caught:
        client.stubs.workflow(name="flow").run()
    assert caught.value.reason == ""


async def test_run_many_keeps_results_and_errors_in_order(engine, client):
    def answer(run):
        n = json.loads(run.input)["n"]
        if n == 1:
            return FAILED, [result("a", FAILED, b"ValueError: x"), result("b", CANCELLED)]
        if n == 2:
            return CANCELLED, [result("a", CANCELLED)]
        return COMPLETED, [result("a", COMPLETED, b'{"n":%d}' % n), result("b", COMPLETED, b"[1]")]

    engine.answer = answer
    flow = client.stubs.workflow(name="flow", input_validator=Number)
    items = [flow.create_bulk_run_item(Number(n=n)) for n in range(4)]
    first, failed, cancelled, last = await flow.aio_run_many(items, return_exceptions=True)
    assert (first, last) == ({"a": {"n": 0}, "b": [1]}, {"a": {"n": 3}, "b": [1]})
    assert isinstance(failed, FailedRunError)
    assert isinstance(cancelled, RunCancelledError)
    with pytest.raises(FailedRunError):
        await flow.aio_run_many(items)


def test_a_standalone_task_takes_its_own_output_of_several(engine, client):
    engine.answer = lambda run: (
        COMPLETED,
        [result("rescue", COMPLETED, b'{"skipped":true}'), result("Job", COMPLETED, b'{"n":1}')],
    )
    stub = client.stubs.task(name="job", output_validator=Number)
    assert stub.run() == Number(n=1)
