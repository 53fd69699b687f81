"""Runs as users make them, against a fake engine: over the batched stream and over the unary contract alike."""

# ruff: noqa: A002 - `input` is the documented name of a task's first parameter

import asyncio
import json
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from pydantic import BaseModel

from broadaxe import (
    BulkPushEventWithMetadata,
    Context,
    DesiredWorkerLabel,
    EmptyModel,
    FailedRunError,
    InvalidInputError,
    InvalidOutputError,
    Priority,
    PushEventOptions,
    RunCancelledError,
    RunNotFoundError,
    RunStatus,
    TaskRunError,
    TriggerWorkflowOptions,
)
from broadaxe._context import current_context
from broadaxe._transport.base import MAX_RUNS_PER_TRIGGER
from tests.unit.sdk.clients import make_client
from tests.unit.sdk.fake_engine import CANCELLED, COMPLETED, FAILED, FakeEngine


class Number(BaseModel):
    n: int


class Doubled(BaseModel):
    twice: int


def double(run: Any) -> tuple[int, bytes] | None:
    """The engine's answer: twice the number; 13 fails, 14 is cancelled, 15 waits for the test."""
    n = json.loads(run.input or b"{}").get("n", 0)
    if n == 13:
        return FAILED, TaskRunError("bad luck", "ValueError", "Traceback: line 1").to_wire().encode()
    if n == 14:
        return CANCELLED, b""
    if n == 15:
        return None
    return COMPLETED, json.dumps({"twice": 2 * n}).encode()


@pytest.fixture(params=["batched", "unary"])
def engine(request):
    with FakeEngine(answer=double, batched=request.param == "batched") as engine:
        yield engine


@pytest.fixture
def client(engine):
    with make_client(engine) as client:
        yield client


@pytest.fixture
def task(client):
    @client.task(default_additional_metadata={"team": "a", "source": "default"})
    def twice(input: Number, ctx: Context) -> Doubled:
        return Doubled(twice=2 * input.n)

    return twice


def test_run_returns_the_declared_output(task):
    assert task.run(Number(n=4)) == Doubled(twice=8)


async def test_aio_run_returns_the_declared_output(task):
    assert await task.aio_run(Number(n=4)) == Doubled(twice=8)


async def test_references_give_results_late_and_twice(engine, client, task):
    ref = task.run(Number(n=15), wait_for_result=False)
    same = await task.aio_run_no_wait(Number(n=3))
    waiting = asyncio.ensure_future(ref.aio_result())
    engine.finish(ref.workflow_run_id, COMPLETED, b'{"twice": 30}')
    assert await waiting == Doubled(twice=30)
    assert await asyncio.to_thread(ref.result) == Doubled(twice=30)
    assert await same.aio_result() == await task.aio_get_result(same.workflow_run_id) == Doubled(twice=6)


def test_run_many_keeps_order_over_several_chunks(engine, task):
    numbers = [n for n in range(10 * MAX_RUNS_PER_TRIGGER + 10) if n not in (13, 14, 15)]
    results = task.run_many([task.create_bulk_run_item(Number(n=n)) for n in numbers])
    assert [result.twice for result in results] == [2 * n for n in numbers]
    assert sorted(engine.trigger_sizes) == [7, *[MAX_RUNS_PER_TRIGGER] * 10]


async def test_aio_run_many_returns_exceptions_in_their_places(task):
    items = [task.create_bulk_run_item(Number(n=n)) for n in (1, 13, 14, 2)]
    first, failed, cancelled, last = await task.aio_run_many(items, return_exceptions=True)
    assert (first, last) == (Doubled(twice=2), Doubled(twice=4))
    assert isinstance(failed, FailedRunError)
    assert isinstance(cancelled, RunCancelledError)
    with pytest.raises(FailedRunError):
        await task.aio_run_many(items)


def test_run_many_of_nothing_is_nothing(task):
    assert task.run_many([]) == []
    assert task.run_many_no_wait([]) == []


def test_run_many_no_wait_gives_references_in_order(engine, task):
    items = [task.create_bulk_run_item(Number(n=n)) for n in (5, 6)]
    refs = task.run_many_no_wait(items)
    assert [ref.result().twice for ref in task.run_many(items, wait_for_result=False)] == [10, 12]
    assert [ref.result().twice for ref in refs] == [10, 12]
    assert [json.loads(engine.runs[ref.workflow_run_id].input)["n"] for ref in refs] == [5, 6]


def test_failed_run_raises_the_tasks_own_error(task):
    with pytest.raises(FailedRunError) as caught:
        task.run(Number(n=13))
    error = caught.value
    assert (error.exc_type, error.exc, error.trace) == ("ValueError", "bad luck", "Traceback: line 1")
    assert error.errors[0].task_run_id == error.run_id


def test_cancelled_run_raises(task):
    with pytest.raises(RunCancelledError, match="was cancelled"):
        task.run(Number(n=14))


def test_options_and_keywords_reach_the_wire_alike(engine, task):
    label = {"gpu": DesiredWorkerLabel(value="a100", required=True)}
    worker = "0196a1b2-0000-7000-8000-000000000001"
    task.run(
        Number(n=1),
        priority=Priority.HIGH,
        additional_metadata={"source": "keyword"},
        key="k",
        desired_worker_id=worker,
        desired_worker_label=label,
    )
    task.run(
        Number(n=1),
        TriggerWorkflowOptions(
            priority=3,
            additional_metadata={"source": "keyword"},
            child_key="k",
            desired_worker_id=worker,
            desired_worker_label=[DesiredWorkerLabel(key="gpu", value="a100", required=True)],
        ),
    )
    first, second = (run.request for run in engine.runs.values())
    for request in (first, second):
        assert (request.priority, request.child_key, request.desired_worker_id) == (3, "k", worker)
        assert request.desired_worker_labels["gpu"].str_value == "a100"
    for run in engine.runs.values():
        assert json.loads(run.metadata) == {"team": "a", "source": "keyword"}


def test_default_metadata_is_of_every_run(engine, task):
    task.run(Number(n=1))
    task.run_many([task.create_bulk_run_item(Number(n=2))])
    assert [json.loads(run.metadata)["team"] for run in engine.runs.values()] == ["a", "a"]


def test_keyword_beats_option(engine, task):
    task.run(Number(n=1), TriggerWorkflowOptions(priority=1, child_key="k"), priority=2)
    (run,) = engine.runs.values()
    assert (run.request.priority, run.request.child_key) == (2, "k")


@pytest.mark.parametrize(
    ("given", "options", "told"),
    [
        ({"n": "many"}, {}, "n: Input should be a valid integer"),
        (None, {}, "n: Field required"),
        ({"n": 1}, {"priority": 4}, "priority is 4, expected 1 to 3"),
        ({"n": 1}, {"sticky": True}, "no parent outside of a task"),
        ({"n": 1}, {"additional_metadata": {"x": object()}}, "metadata of a run"),
    ],
)
def test_wrong_input_is_told_and_changes_nothing(engine, task, given, options, told):
    with pytest.raises(InvalidInputError, match="twice") as caught:
        task.run(given, **options)
    assert told in str(caught.value)
    assert not engine.runs


def test_unknown_option_is_refused_by_name(task):
    with pytest.raises(TypeError, match="prioritty"):
        task.run(Number(n=1), prioritty=3)


def test_output_that_does_not_fit_names_the_task(engine, client):
    @client.task(name="twice")
    def other(input: Number, ctx: Context) -> dict[str, str]:
        return {}

    with pytest.raises(InvalidOutputError, match=r"task 'twice'.*twice: Input should be a valid string"):
        other.run(Number(n=1))


def test_children_carry_parent_and_ascending_index(engine, task):
    context = Context.for_test()
    token = current_context.set(context)
    try:
        task.run_many([task.create_bulk_run_item(Number(n=n), key=f"c{n}") for n in (1, 2)])
        task.run(Number(n=3))
    finally:
        current_context.reset(token)
    requests = [run.request for run in engine.runs.values()]
    assert [request.child_index for request in requests] == [0, 1, 2]
    assert [request.child_key for request in requests] == ["c1", "c2", ""]
    parents = {
        getattr(request, "parent_task_run_id", "") or getattr(request, "parent_task_run_external_id", "")
        for request in requests
    }
    assert parents == {context.task_run_id}


def test_child_that_exists_already_gives_its_result(engine, task):
    """A retried parent spawns again: the engine answers with the first attempt's children."""
    results = []
    for _ in range(2):
        token = current_context.set(Context.for_test())
        try:
            results.append(task.run_many([task.create_bulk_run_item(Number(n=n)) for n in (1, 2)]))
        finally:
            current_context.reset(token)
    assert results[0] == results[1] == [Doubled(twice=2), Doubled(twice=4)]
    assert len(engine.runs) == 2


def test_workflow_returns_outputs_by_task_name(engine, client):
    workflow = client.workflow(name="wf", input_validator=Number)

    @workflow.task()
    def step(input: Number, ctx: Context) -> Doubled: ...

    engine._call(engine.workflows.__setitem__, "wf", workflow.to_wire())
    assert workflow.run(Number(n=2)) == {"step": {"twice": 4}}


@dataclass
class Point:
    x: int


class Named(TypedDict):
    name: str


@pytest.mark.parametrize(
    ("kind", "value", "answer"),
    [
        (Point, Point(3), b'{"x": 3}'),
        (Named, {"name": "b"}, b'{"name": "b"}'),
        (dict[str, Any], {"any": [1]}, b'{"any": [1]}'),
        (None, None, b""),
        (dict, {}, b""),
        (EmptyModel, EmptyModel(), b""),
        (int, 5, b"5"),
    ],
)
def test_outputs_of_every_kind_come_back_as_declared(engine, client, kind, value, answer):
    engine.answer = lambda run: (COMPLETED, answer)

    def job(input, ctx): ...

    job.__annotations__ = {"return": kind}
    assert client.task(job).run() == value


def test_stub_runs_what_lives_elsewhere(client):
    stub = client.stubs.task(name="twice", input_validator=Number, output_validator=Doubled)
    assert stub.run(Number(n=21)) == Doubled(twice=42)


def test_stubs_give_their_default_metadata_to_every_run(engine, client):
    given = {"from": "stub"}
    client.stubs.task(name="twice", default_additional_metadata=given).run_no_wait()
    client.stubs.workflow(name="twice", default_additional_metadata=given).run_no_wait()
    assert [json.loads(run.metadata) for run in engine.runs.values()] == [given, given]


def test_details_and_status_by_id(client, task):
    ref = task.run_no_wait(Number(n=2))
    ref.result()
    details = client.runs.get_details(ref.workflow_run_id)
    assert (details.status, details.is_done, details.input) == (RunStatus.COMPLETED, True, {"n": 2})
    assert client.runs.get_status(task.run_no_wait(Number(n=15)).workflow_run_id) == RunStatus.QUEUED
    with pytest.raises(RunNotFoundError):
        client.runs.get_details("0196a1b2-0000-7000-8000-000000000001")


async def test_stream_is_followed_until_the_run_ends(engine, client, task):
    ref = await task.aio_run_no_wait(Number(n=15))
    chunks: list[str] = []

    async def follow() -> None:
        chunks.extend([chunk async for chunk in client.runs.subscribe_to_stream(ref.workflow_run_id)])

    following = asyncio.ensure_future(follow())
    await asyncio.to_thread(
        engine.wait_until, lambda: engine.has_event_subscriber(ref.workflow_run_id), "a subscription"
    )
    for index, text in enumerate(["a", "b"]):
        engine._call(engine._stream_event, ref.workflow_run_id, text.encode(), index)
    engine.finish(ref.workflow_run_id, COMPLETED, b'{"twice": 1}')
    await following
    assert chunks == ["a", "b"]


def test_events_are_pushed_with_namespace_and_metadata(engine):
    with make_client(engine, namespace="dev") as client:
        event = client.event.push(
            "user:new", {"id": 1}, additional_metadata={"a": "b"}, scope="s", priority=2
        )
        client.event.bulk_push([BulkPushEventWithMetadata(key="k", payload={"i": i}) for i in range(1_500)])
    first = engine.events[0]
    assert (first.key, first.payload, first.scope, first.priority) == ("dev_user:new", '{"id":1}', "s", 2)
    assert json.loads(first.additional_metadata) == {"a": "b"}
    assert event.event_id
    assert len(engine.events) == 1_501


def test_the_namespace_of_an_event_may_be_another_or_none(engine):
    with make_client(engine, namespace="dev") as client:
        client.event.push("user:new", {}, PushEventOptions(namespace=""))
        client.event.push("user:new", {}, PushEventOptions(namespace="Prod"))
        client.event.bulk_push([BulkPushEventWithMetadata(key="k")] * 2, PushEventOptions(namespace="prod_"))
    assert [event.key for event in engine.events] == ["user:new", "prod_user:new", "prod_k", "prod_k"]
