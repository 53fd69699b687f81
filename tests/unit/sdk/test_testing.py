"""Running tasks in memory, as tests of user code do."""

# ruff: noqa: A002 - `input` is the documented name of a task's first parameter

from typing import Annotated

import pytest
from pydantic import BaseModel

from broadaxe import (
    Broadaxe,
    ConfigurationError,
    Context,
    Depends,
    EmptyModel,
    FailedRunError,
    RequestRefusedError,
)
from broadaxe.testing import in_memory

client = Broadaxe()


class Number(BaseModel):
    n: int


def factor(input: Number, ctx: Context) -> int:
    return 2


@client.task()
def child(input: Number, ctx: Context, factor: Annotated[int, Depends(factor)]) -> Number:
    if input.n == 13:
        raise ValueError("bad luck")
    return Number(n=factor * input.n)


@client.task()
async def parent(input: Number, ctx: Context) -> int:
    items = [child.create_bulk_run_item(Number(n=n)) for n in range(input.n)]
    children = await child.aio_run_many(items)
    ctx.log("spawned")
    return sum(number.n for number in children)


@client.task(retries=2)
def third_time(input: EmptyModel, ctx: Context) -> int:
    child.run(Number(n=1))
    if ctx.retry_count < 2:
        raise RuntimeError("again")
    return ctx.attempt_number


def test_parents_children_and_logs():
    with in_memory(client, [parent, child]) as engine:
        assert parent.run(Number(n=4)) == 12
        assert engine.logs == ["spawned"]


async def test_from_async_code():
    with in_memory(client, [parent, child]):
        assert await parent.aio_run(Number(n=2)) == 2


def test_failures_and_retries():
    with in_memory(client, [child, third_time]):
        assert third_time.run() == 3
        with pytest.raises(FailedRunError) as caught:
            child.run(Number(n=13))
        assert caught.value.exc_type == "ValueError"
        assert "bad luck" in caught.value.trace


def test_unregistered_task_and_dag_are_refused():
    workflow = client.workflow(name="dag")

    @workflow.task
    def one(input: EmptyModel, ctx: Context) -> None: ...

    @workflow.task
    def two(input: EmptyModel, ctx: Context) -> None: ...

    with in_memory(client, [child]), pytest.raises(RequestRefusedError, match="'parent' is registered"):
        parent.run(Number(n=1))
    with pytest.raises(ConfigurationError, match="'dag' has 2 tasks"), in_memory(client, [workflow]):
        pass
