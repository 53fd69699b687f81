# ruff: noqa: A002 - tasks call their input `input`
"""Idempotency keys: how they are declared, and what a trigger raises whose key another run holds, over both ways to a server."""

import json
import pickle
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from broadaxe import (
    Broadaxe,
    BulkTriggerIdempotencyCollisionError,
    Context,
    DefinitionError,
    EmptyModel,
    IdempotencyCollisionError,
    RequestRefusedError,
    StatusBasedIdempotencyConfig,
    TTLBasedIdempotencyConfig,
)
from broadaxe._transport import base
from broadaxe.wire.v1 import workflows_pb2 as wire
from tests.unit.sdk.clients import make_client
from tests.unit.sdk.fake_engine import COMPLETED, FakeEngine, FakeRun


class Order(BaseModel):
    key: str | None = None
    n: int = 0


def echo(run: FakeRun) -> tuple[int, bytes]:
    return COMPLETED, run.input


@pytest.fixture(params=["batched", "unary"])
def engine(request) -> Iterator[FakeEngine]:
    with FakeEngine(answer=echo, batched=request.param == "batched") as engine:
        engine.key_of = lambda value: value.get("key")
        yield engine


@pytest.fixture
def client(engine) -> Iterator[Broadaxe]:
    with make_client(engine) as client:
        yield client


@pytest.fixture
def task(client):
    return client.stubs.task(name="once", input_validator=Order, output_validator=Order)


def run_ids(engine: FakeEngine) -> dict[int, str]:
    """Run ids by the `n` of their input."""
    return {json.loads(run.input)["n"]: run.run_id for run in engine.runs.values()}


def items(task: Any, *keys: str | None) -> list[Any]:
    return [task.create_bulk_run_item(Order(key=key, n=n)) for n, key in enumerate(keys)]


def test_a_run_whose_key_is_held_raises_and_names_the_holder(engine, task):
    task.run(Order(key="a", n=1))
    for run in (task.run, task.run_no_wait):
        with pytest.raises(IdempotencyCollisionError) as caught:
            run(Order(key="a", n=2))
        assert caught.value.existing_run_external_id == run_ids(engine)[1]
        assert caught.value.code == "ALREADY_EXISTS"
        assert run_ids(engine)[1] in str(caught.value)
    assert task.run(Order(key="b", n=3)) == Order(key="b", n=3)


async def test_an_awaited_run_raises_alike(engine, task):
    ref = await task.aio_run_no_wait(Order(key="a", n=1))
    for run in (task.aio_run, task.aio_run_no_wait):
        with pytest.raises(IdempotencyCollisionError) as caught:
            await run(Order(key="a", n=2))
        assert caught.value.existing_run_external_id == ref.workflow_run_id


def test_run_many_creates_the_others_and_tells_them(engine, task):
    for run in (task.run_many, task.run_many_no_wait):
        engine._holders.clear()
        engine.runs.clear()
        with pytest.raises(BulkTriggerIdempotencyCollisionError) as caught:
            run(items(task, "a", "a", None, "b", "b"))
        error = caught.value
        ids = run_ids(engine)
        assert error.successful_workflow_run_external_ids == [ids[0], ids[2], ids[3]]
        assert [one.existing_run_external_id for one in error.collisions] == [ids[0], ids[3]]
        assert sorted(ids) == [0, 2, 3]
        assert "2 of 5 runs were not created" in str(error)


async def test_with_return_exceptions_each_entry_holds_its_own(engine, task):
    given = items(task, "a", "a", None, "b", "a")
    results = await task.aio_run_many(given, return_exceptions=True)
    assert [type(item) for item in results] == [
        Order,
        IdempotencyCollisionError,
        Order,
        Order,
        IdempotencyCollisionError,
    ]
    assert [item.n for item in results if isinstance(item, Order)] == [0, 2, 3]
    assert {item.existing_run_external_id for item in results if not isinstance(item, Order)} == {
        run_ids(engine)[0]
    }


def test_with_return_exceptions_all_may_collide(engine, task):
    task.run(Order(key="a", n=9))
    results = task.run_many(items(task, "a", "a"), return_exceptions=True)
    assert [type(item) for item in results] == [IdempotencyCollisionError] * 2


def test_entries_with_equal_content_are_told_apart_by_their_number(engine, task):
    given = [task.create_bulk_run_item(Order(key="a")) for _ in range(3)]
    results = task.run_many(given, return_exceptions=True)
    assert [type(item) for item in results].count(IdempotencyCollisionError) == 2
    assert [item for item in results if isinstance(item, Order)] == [Order(key="a")]


def test_a_call_in_several_parts_raises_one_error_for_all(engine, task, monkeypatch):
    monkeypatch.setattr(base, "MAX_RUNS_PER_TRIGGER", 2)
    with pytest.raises(BulkTriggerIdempotencyCollisionError) as caught:
        task.run_many(items(task, "a", "a", "b", "c", "a"))
    ids = run_ids(engine)
    assert caught.value.successful_workflow_run_external_ids == [ids[0], ids[2], ids[3]]
    assert len(caught.value.collisions) == 2
    engine._holders.clear()
    results = task.run_many(items(task, "a", "a", "b", "c", "a"), return_exceptions=True)
    assert [isinstance(item, Order) for item in results] == [True, False, True, True, False]


def test_another_refusal_with_that_code_is_no_collision():
    with FakeEngine() as engine, make_client(engine) as client:
        engine.refuse = lambda trigger: (6, "some other thing exists")
        with pytest.raises(RequestRefusedError, match="some other thing") as caught:
            client.stubs.task(name="once").run()
        assert not isinstance(caught.value, IdempotencyCollisionError)


def test_collisions_survive_pickling():
    one = IdempotencyCollisionError("holder", "mine")
    many = pickle.loads(pickle.dumps(BulkTriggerIdempotencyCollisionError(["a"], [one])))
    assert many.created_run_ids == ("a",)
    assert many.collisions[0].existing_run_external_id == "holder"
    assert many.collisions[0].colliding_run_external_id == "mine"


# ---- how they are declared


@pytest.mark.parametrize(
    ("config", "method", "milliseconds"),
    [
        (TTLBasedIdempotencyConfig(key_expression="input.id", ttl=timedelta(minutes=1)), wire.TTL, 60_000),
        (
            StatusBasedIdempotencyConfig(key_expression="input.id", fallback_ttl=timedelta(seconds=2)),
            wire.STATUS,
            2_000,
        ),
    ],
)
def test_tasks_and_workflows_declare_how_keys_are_made_and_held(config, method, milliseconds):
    client = Broadaxe(namespace="")

    @client.task(idempotency=config)
    def job(input: EmptyModel, ctx: Context) -> None: ...

    workflow = client.workflow(name="w", idempotency=config)

    @workflow.task()
    def step(input: EmptyModel, ctx: Context) -> None: ...

    for request in (job.to_wire(), workflow.to_wire()):
        assert request.idempotency == wire.IdempotencyConfig(
            expression="input.id", ttl_ms=milliseconds, method=method
        )
        assert request.idempotency.HasField("method")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            TTLBasedIdempotencyConfig(key_expression=" ", ttl=timedelta(1)),
            "key_expression of its idempotency is empty",
        ),
        (TTLBasedIdempotencyConfig(key_expression="k", ttl=timedelta(0)), "the ttl of its idempotency"),
        (
            StatusBasedIdempotencyConfig(key_expression="k", fallback_ttl=timedelta(-1)),
            "the fallback_ttl of its idempotency",
        ),
        ("input.id", "idempotency is 'input.id'"),
    ],
)
def test_wrong_idempotency_is_refused_naming_the_workflow(config, told):
    with pytest.raises(DefinitionError, match="workflow 'w'") as caught:
        Broadaxe(namespace="").workflow(name="w", idempotency=config)
    assert told in str(caught.value)
