# ruff: noqa: A002 - tasks call their input `input`
"""Batch tasks: how they are declared, and what becomes of the members of a batch, over both links."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from broadaxe import (
    BatchContext,
    BatchMemberId,
    Broadaxe,
    Context,
    DefinitionError,
    Depends,
    EmptyModel,
    TaskDefaults,
    TaskRunError,
)
from broadaxe.testing import in_memory
from tests.unit.sdk.clients import make_client
from tests.unit.sdk.fake_engine import CANCELLED, COMPLETED, FAILED, FakeEngine
from tests.unit.sdk.worker_tools import running, wait_for

Inputs = dict[BatchMemberId, Any]


class Number(BaseModel):
    n: int


@pytest.fixture(params=["batched", "unary"])
def engine(request) -> Iterator[FakeEngine]:
    with FakeEngine(batched=request.param == "batched") as engine:
        yield engine


@pytest.fixture
def client(engine) -> Iterator[Broadaxe]:
    with make_client(engine) as client:
        yield client


def outcomes(engine: FakeEngine, ids: list[str]) -> list[tuple[int, bytes]]:
    """State and output, or error, of each run once all have ended."""
    engine.wait_until(lambda: all(engine.runs[run_id].state is not None for run_id in ids), "the end of all")
    results = [engine.runs[run_id].results[0] for run_id in ids]
    return [(result.state, result.output or result.error) for result in results]


def number(n: int) -> dict[str, int]:
    return {"n": n}


# ---- what runs


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_one_call_of_the_function_serves_all_members_and_each_gets_its_output(engine, client, kind):
    calls: list[int] = []

    @client.batch_task(name="sync", batch_max_size=3)
    def blocking(inputs: dict[BatchMemberId, Number], ctx: Context) -> dict[BatchMemberId, Number]:
        calls.append(len(inputs))
        return {member: Number(n=2 * given.n) for member, given in inputs.items()}

    @client.batch_task(name="async", batch_max_size=3)
    async def awaiting(inputs: dict[BatchMemberId, Number], ctx: Context) -> dict[BatchMemberId, Number]:
        calls.append(len(inputs))
        await asyncio.sleep(0)
        return {member: Number(n=2 * given.n) for member, given in inputs.items()}

    with running(client.worker("w", workflows=[blocking, awaiting])):
        ids = engine.start_batch(kind, [number(n) for n in range(3)])
        assert outcomes(engine, ids) == [(COMPLETED, b'{"n":%d}' % (2 * n)) for n in range(3)]
    assert calls == [3]


def test_a_broadcast_output_is_every_members(engine, client):
    @client.batch_task(batch_max_size=3, broadcast_output=True)
    def together(inputs: dict[BatchMemberId, Number], ctx: BatchContext) -> Number:
        return Number(n=sum(given.n for given in inputs.values()))

    with running(client.worker("w", workflows=[together])):
        assert (
            outcomes(engine, engine.start_batch("together", [number(1), number(2)]))
            == [(COMPLETED, b'{"n":3}')] * 2
        )


def test_members_have_contexts_of_their_own(engine, client):
    @client.batch_task(batch_max_size=3)
    async def look(inputs: Inputs, ctx: BatchContext) -> dict[BatchMemberId, Any]:
        assert list(ctx.members) == list(inputs)
        assert ctx.task_name == "look"
        return {
            member: {"id": own.task_run_id, "run": own.workflow_run_id, "input": own.workflow_input}
            for member, own in ctx.members.items()
        }

    with running(client.worker("w", workflows=[look])):
        ids = engine.start_batch("look", [number(1), number(2)])
        seen = [json.loads(output) for _, output in outcomes(engine, ids)]
    assert seen == [{"id": run_id, "run": run_id, "input": number(n)} for n, run_id in enumerate(ids, 1)]


def test_dependencies_are_resolved_once_for_the_batch(engine, client):
    seen: list[int] = []

    def size(inputs: Inputs, ctx: Context) -> int:
        seen.append(len(inputs))
        return len(inputs)

    @client.batch_task(batch_max_size=3, broadcast_output=True)
    def count(inputs: Inputs, ctx: Context, found: Annotated[int, Depends(size)]) -> Number:
        return Number(n=found)

    with running(client.worker("w", workflows=[count])):
        assert outcomes(engine, engine.start_batch("count", [number(1)] * 3)) == [(COMPLETED, b'{"n":3}')] * 3
    assert seen == [3]


def test_a_batch_occupies_one_thread_and_tells_its_start_once_a_member(client):
    with FakeEngine() as engine, make_client(engine) as own:
        go_on = threading.Event()

        @own.batch_task(batch_max_size=3, broadcast_output=True)
        def slow(inputs: Inputs, ctx: Context) -> None:
            assert go_on.wait(10)

        with running(own.worker("w", workflows=[slow])):
            ids = engine.start_batch("slow", [number(1)] * 3)
            engine.wait_until(lambda: len(engine.reports) == 3, "three starts")
            threads = [thread for thread in threading.enumerate() if thread.name.startswith("broadaxe-task")]
            assert len(threads) == 1
            go_on.set()
            outcomes(engine, ids)
        assert {report.task_run_id for report in engine.reports[:3]} == set(ids)
        assert dict(engine.workflows["slow"].tasks[0].slot_requests) == {"default": 1}


# ---- failures


def test_what_the_function_raises_fails_every_member(engine, client):
    @client.batch_task(batch_max_size=3)
    async def broken(inputs: Inputs, ctx: Context) -> dict[BatchMemberId, Any]:
        raise OSError("disk full")

    with running(client.worker("w", workflows=[broken])):
        ids = engine.start_batch("broken", [number(1), number(2)])
        told = outcomes(engine, ids)
    for run_id, (state, text) in zip(ids, told, strict=True):
        error = TaskRunError.from_wire(text.decode())
        assert (state, error.summary, error.task_run_id) == (FAILED, "OSError: disk full", run_id)
        assert "test_batch.py" in error.trace
        assert "_runner.py" not in error.trace


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda outputs: dict(list(outputs.items())[:1]), "returned the wrong member ids: no output for: "),
        (lambda outputs: {**outputs, "stranger": 1}, "not in this batch: stranger"),
        (lambda outputs: [1, 2], "returned a list: expected a dictionary"),
        (lambda outputs: None, "returned a NoneType"),
    ],
)
def test_outputs_for_the_wrong_members_fail_them_all_and_say_which(engine, client, change, words):
    @client.batch_task(batch_max_size=3)
    def wrong(inputs, ctx):
        return change(dict.fromkeys(inputs, 1))

    with running(client.worker("w", workflows=[wrong])):
        ids = engine.start_batch("wrong", [number(1), number(2)])
        told = outcomes(engine, ids)
    assert [state for state, _ in told] == [FAILED, FAILED]
    for _, text in told:
        assert b"InvalidOutputError: batch task 'wrong'" in text
        assert words.encode() in text


def test_an_input_or_output_that_does_not_fit_fails_its_member_alone(engine, client):
    @client.batch_task(batch_max_size=3)
    def picky(inputs: dict[BatchMemberId, Number], ctx: Context) -> dict[BatchMemberId, Any]:
        return {member: {"n": given.n or float("nan")} for member, given in inputs.items()}

    with running(client.worker("w", workflows=[picky])):
        ids = engine.start_batch("picky", [number(1), {"n": "many"}, number(0)])
        told = outcomes(engine, ids)
    assert [state for state, _ in told] == [COMPLETED, FAILED, FAILED]
    assert b"InvalidInputError" in told[1][1]
    assert b"NaN" in told[2][1]


# ---- cancelling


def test_a_cancelled_member_is_left_out_and_the_others_go_on(engine, client):
    began, go_on = threading.Event(), threading.Event()
    flags: list[list[bool]] = []

    @client.batch_task(batch_max_size=3)
    def slow(inputs: Inputs, ctx: BatchContext) -> dict[BatchMemberId, Any]:
        began.set()
        assert go_on.wait(10)
        flags.append([own.exit_flag for own in (ctx, *ctx.members.values())])
        return {member: {} for member, own in ctx.members.items() if not own.exit_flag}

    with running(client.worker("w", workflows=[slow])) as worker:
        ids = engine.start_batch("slow", [number(1), number(2)], attempt=2)
        assert began.wait(10)
        engine.cancel(ids[0])
        held = list(worker._run.runner._running.values())
        wait_for(lambda: held[0].context.exit_flag, "the cancel to arrive")
        go_on.set()
        assert [state for state, _ in outcomes(engine, ids)] == [CANCELLED, COMPLETED]
    assert flags == [[False, True, False]]


def test_a_batch_of_which_all_are_cancelled_is_stopped(engine, client):
    began, stopped = threading.Event(), threading.Event()

    @client.batch_task(batch_max_size=3)
    async def slow(inputs: Inputs, ctx: BatchContext) -> dict[BatchMemberId, Any]:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            assert ctx.exit_flag
            stopped.set()
        return {}

    with running(client.worker("w", workflows=[slow])):
        ids = engine.start_batch("slow", [number(1), number(2)])
        assert began.wait(10)
        for run_id in ids:
            engine.cancel(run_id)
        assert stopped.wait(10)
    assert [state for state, _ in outcomes(engine, ids)] == [CANCELLED, CANCELLED]


def test_cancelling_the_batch_context_cancels_every_member(engine, client):
    @client.batch_task(batch_max_size=3)
    async def give_up(inputs: Inputs, ctx: Context) -> dict[BatchMemberId, Any]:
        await ctx.aio_cancel()
        return dict.fromkeys(inputs, 1)

    with running(client.worker("w", workflows=[give_up])):
        ids = engine.start_batch("give_up", [number(1), number(2)])
        assert [state for state, _ in outcomes(engine, ids)] == [CANCELLED, CANCELLED]


def test_logs_and_timeouts_of_the_batch_are_every_members(engine, client):
    @client.batch_task(batch_max_size=3, broadcast_output=True)
    def talk(inputs: Inputs, ctx: BatchContext) -> None:
        ctx.log("to all")
        next(iter(ctx.members.values())).log("to one")
        ctx.refresh_timeout("10s")

    with running(client.worker("w", workflows=[talk])):
        ids = engine.start_batch("talk", [number(1), number(2)])
        assert [state for state, _ in outcomes(engine, ids)] == [COMPLETED, COMPLETED]
    engine.wait_until(lambda: len(engine.logs) == 3, "three lines")
    lines = [
        (getattr(line, "task_run_id", "") or line.task_run_external_id, line.message) for line in engine.logs
    ]
    assert lines == [(ids[0], "to all"), (ids[1], "to all"), (ids[0], "to one")]
    assert engine.refreshed == [(run_id, "10s") for run_id in ids]


# ---- without a server


def test_a_batch_task_can_be_tried_with_one_input():
    client = Broadaxe(namespace="")

    @client.batch_task(batch_max_size=3)
    def double(inputs: dict[BatchMemberId, Number], ctx: BatchContext) -> dict[BatchMemberId, Number]:
        assert list(ctx.members) == list(inputs)
        return {member: Number(n=2 * given.n) for member, given in inputs.items()}

    assert double.mock_run(Number(n=2)) == Number(n=4)
    with in_memory(client, [double]):
        assert double.run(Number(n=3)) == Number(n=6)


# ---- how they are declared


def test_every_setting_reaches_the_wire():
    client = Broadaxe(namespace="")

    @client.batch_task(
        name="job",
        batch_max_size=50,
        batch_max_interval=timedelta(seconds=2.5),
        batch_group_key="input.customer",
        batch_group_max_runs=3,
        broadcast_output=True,
        execution_timeout="5m",
    )
    def job(inputs: dict[BatchMemberId, Number], ctx: Context) -> Number: ...

    workflow = client.workflow(name="w", input_validator=Number, task_defaults=TaskDefaults(retries=3))

    @workflow.task()
    def first(input: Number, ctx: Context) -> None: ...

    @workflow.batch_task(batch_max_size=2, parents=[first])
    def second(inputs: dict[BatchMemberId, Number], ctx: Context) -> dict[BatchMemberId, Number]: ...

    (task,) = job.to_wire().tasks
    assert (task.batch.batch_max_size, task.batch.batch_max_interval_ms) == (50, 2500)
    assert (task.batch.batch_group_key, task.batch.batch_group_max_runs) == ("input.customer", 3)
    assert (task.batch.broadcast_output, task.timeout, task.retries) == (True, "5m", 0)
    assert job.tasks[0].input_type is Number
    of_workflow = workflow.to_wire().tasks[1]
    assert (of_workflow.batch.batch_max_size, list(of_workflow.parents), of_workflow.retries) == (
        2,
        ["first"],
        0,
    )
    assert not of_workflow.batch.HasField("batch_group_key")
    assert second.output_shape.declared is Number
    assert not workflow.to_wire().tasks[0].HasField("batch")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"batch_max_size": 0}, "batch_max_size is 0"),
        ({"batch_max_size": 100_001}, "expected a whole number from 1 to 100,000"),
        ({"batch_max_interval": timedelta(0)}, "batch_max_interval is"),
        ({"batch_max_interval": timedelta(days=2)}, "expected 1 ms to 1 day"),
        ({"batch_group_key": " "}, "batch_group_key is empty"),
        ({"batch_group_max_runs": 0}, "batch_group_max_runs is 0"),
        ({"retries": 2}, "batch tasks are not retried"),
    ],
)
def test_settings_that_the_engine_would_refuse_are_refused_here(settings, told):
    def job(inputs: Inputs, ctx: Context) -> Any: ...

    with pytest.raises(DefinitionError, match="task 'job'") as caught:
        Broadaxe(namespace="").batch_task(**settings)(job)
    assert told in str(caught.value)


def test_a_function_of_one_run_is_refused_with_the_right_form():
    def job(input: EmptyModel, ctx: Context) -> None: ...

    with pytest.raises(DefinitionError, match="first parameter") as caught:
        Broadaxe(namespace="").batch_task(batch_max_size=2)(job)
    assert "inputs: dict[BatchMemberId, MyInput]" in str(caught.value)
