"""Dependencies, resolved as a worker resolves them, and the mock runs that go without."""

# ruff: noqa: A002 - `input` is the documented name of a task's first parameter

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

import pytest
from pydantic import BaseModel

from broadaxe import Broadaxe, Context, Depends, EmptyModel
from broadaxe._context import current_context
from broadaxe._depends import resolve_dependencies

seen: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    seen.clear()


async def async_dep(input: EmptyModel, ctx: Context) -> str:
    seen.append("async_dep")
    return "async"


def sync_dep(input: EmptyModel, ctx: Context) -> str:
    seen.append("sync_dep")
    return "sync"


@asynccontextmanager
async def async_cm(
    input: EmptyModel, ctx: Context, inner: Annotated[str, Depends(async_dep)]
) -> AsyncIterator[str]:
    seen.append("open async_cm")
    try:
        yield f"async_cm({inner})"
    finally:
        seen.append("close async_cm")


@contextmanager
def sync_cm(input: EmptyModel, ctx: Context, inner: Annotated[str, Depends(sync_dep)]) -> Iterator[str]:
    seen.append("open sync_cm")
    try:
        yield f"sync_cm({inner})"
    finally:
        seen.append("close sync_cm")


def bare_generator(input: EmptyModel, ctx: Context, inner: Annotated[str, Depends(sync_cm)]) -> Iterator[str]:
    yield f"bare({inner})"
    seen.append("close bare")


async def bare_async_generator(input: EmptyModel, ctx: Context) -> AsyncIterator[str]:
    yield "bare async"
    seen.append("close bare async")


@pytest.fixture
def task():
    @Broadaxe().task()
    async def job(
        input: EmptyModel,
        ctx: Context,
        a: Annotated[str, Depends(async_dep)],
        b: Annotated[str, Depends(async_cm)],
        c: Annotated[str, Depends(bare_generator)],
        d: Annotated[str, Depends(sync_dep)],
        e: Annotated[str, Depends(bare_async_generator)],
        plain: int = 5,
    ) -> list[str]:
        return [a, b, c, d, e]

    return job.task


async def test_all_kinds_are_resolved_once_and_closed_last_first(task):
    async with resolve_dependencies(task.dependencies, EmptyModel(), Context.for_test()) as values:
        assert values == {
            "a": "async",
            "b": "async_cm(async)",
            "c": "bare(sync_cm(sync))",
            "d": "sync",
            "e": "bare async",
        }
        assert seen == ["async_dep", "open async_cm", "sync_dep", "open sync_cm"]
        seen.clear()
    assert seen == ["close bare async", "close bare", "close sync_cm", "close async_cm"]


async def test_error_of_the_task_is_raised_inside_open_dependencies(task):
    with pytest.raises(RuntimeError, match="boom"):
        async with resolve_dependencies(task.dependencies, EmptyModel(), Context.for_test()):
            raise RuntimeError("boom")
    assert {"close sync_cm", "close async_cm"} <= set(seen)


async def test_returned_context_managers_are_handed_over_unopened():
    lock = threading.Lock()

    def dep(input: EmptyModel, ctx: Context) -> object:
        return lock

    @Broadaxe().task()
    def job(input: EmptyModel, ctx: Context, lock: Annotated[object, Depends(dep)]) -> None: ...

    async with resolve_dependencies(job.task.dependencies, EmptyModel(), Context.for_test()) as values:
        assert values == {"lock": lock}
        assert not lock.locked()


async def test_dependencies_see_input_and_context():
    class Named(BaseModel):
        name: str

    def dep(input: Named, ctx: Context) -> str:
        return f"{input.name} {ctx.retry_count}"

    @Broadaxe().task()
    def job(input: Named, ctx: Context, who: Annotated[str, Depends(dep)]) -> None: ...

    context = Context.for_test(retry_count=2)
    async with resolve_dependencies(job.task.dependencies, Named(name="x"), context) as values:
        assert values == {"who": "x 2"}


# ---- mock runs


class Number(BaseModel):
    n: int


def test_mock_run_calls_the_function_with_context_and_dependencies():
    client = Broadaxe()
    workflow = client.workflow(name="w", input_validator=Number)

    @workflow.task()
    def first(input: Number, ctx: Context) -> dict[str, int]:
        return {"n": input.n}

    @workflow.task(parents=[first])
    def second(
        input: Number, ctx: Context, config: Annotated[str, Depends(sync_dep)]
    ) -> tuple[int, str, int, str, str]:
        assert current_context.get() is ctx
        return (
            ctx.task_output(first)["n"],
            config,
            ctx.retry_count,
            ctx.additional_metadata["a"],
            ctx.lifespan,
        )

    given = second.mock_run(
        Number(n=1),
        additional_metadata={"a": "b"},
        parent_outputs={"first": {"n": 7}},
        retry_count=3,
        lifespan="pool",
        dependencies={"config": "value"},
    )
    assert given == (7, "value", 3, "b", "pool")
    assert current_context.get() is None
    assert not seen


async def test_mock_run_and_aio_mock_run_are_for_their_own_kind():
    client = Broadaxe()

    @client.task()
    async def job(input: EmptyModel, ctx: Context) -> int:
        return 4

    @client.task()
    def blocking(input: Number, ctx: Context) -> int:
        return input.n

    assert await job.aio_mock_run() == 4
    with pytest.raises(TypeError, match="use aio_mock_run"):
        job.mock_run()
    with pytest.raises(TypeError, match="use mock_run"):
        await blocking.aio_mock_run(Number(n=1))
    with pytest.raises(TypeError, match="needs an input"):
        blocking.mock_run()
    with pytest.raises(TypeError, match="no dependency 'x'"):
        blocking.mock_run(Number(n=1), dependencies={"x": 1})
