# ruff: noqa: A002 - tasks call their input `input`
"""Cancelled attempts: what is stopped, what is only told, what is waited for no longer; and slots that are given back."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from broadaxe import Broadaxe, Context, DefinitionError, EmptyModel, RetryAfterException
from broadaxe import _runner as runner_module
from tests.unit.sdk.clients import make_client
from tests.unit.sdk.fake_engine import CANCELLED, COMPLETED, FAILED, FakeEngine
from tests.unit.sdk.worker_tools import running, wait_for


@pytest.fixture(params=["batched", "unary"])
def engine(request) -> Iterator[FakeEngine]:
    with FakeEngine(batched=request.param == "batched") as engine:
        yield engine


@pytest.fixture
def client(engine) -> Iterator[Broadaxe]:
    with make_client(engine) as client:
        yield client


def outcome(engine: FakeEngine, run_id: str):
    engine.wait_until(lambda: engine.runs[run_id].state is not None, f"the end of {run_id}")
    return engine.runs[run_id].state


def children(engine: FakeEngine, name: str) -> list[str]:
    return [run.run_id for run in list(engine.runs.values()) if run.workflow == name]


def test_a_cancelled_async_parent_waits_no_longer_for_its_child(engine, client):
    child = client.stubs.task(name="child")
    ends: list[str] = []

    @client.task(name="parent")
    async def parent(input: EmptyModel, ctx: Context) -> None:
        try:
            await child.aio_run()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    with running(client.worker("w", workflows=[parent])):
        run_id = engine.trigger("parent")
        engine.wait_until(lambda: len(children(engine, "child")) == 1, "the child")
        engine.cancel(run_id)
        wait_for(lambda: bool(ends), "the wait to end")
    assert outcome(engine, run_id) == CANCELLED
    assert engine.runs[children(engine, "child")[0]].state is None  # a child lives its own life


def test_a_cancelled_sync_parent_waits_no_longer_and_begins_no_wait(engine, client):
    child = client.stubs.task(name="child")
    ends: list[str] = []

    @client.task(name="parent")
    def parent(input: EmptyModel, ctx: Context) -> None:
        for _ in range(2):
            try:
                child.run()
            except Exception:
                ends.append("swallowed")
            except asyncio.CancelledError as error:
                ends.append(str(error))

    with running(client.worker("w", workflows=[parent])):
        run_id = engine.trigger("parent")
        engine.wait_until(lambda: len(children(engine, "child")) == 1, "the child")
        engine.cancel(run_id)
        wait_for(lambda: len(ends) == 2, "both waits to end")
    assert all(f"run {run_id} was cancelled while task 'parent' waited" in text for text in ends)


def test_what_goes_on_after_its_cancel_is_told_of_once(engine, client, caplog, monkeypatch):
    monkeypatch.setattr(runner_module, "STILL_RUNS_S", 0.05)
    began, go_on = threading.Event(), threading.Event()

    @client.task(name="stubborn")
    def stubborn(input: EmptyModel, ctx: Context) -> None:
        began.set()
        assert go_on.wait(10)

    @client.task(name="obedient")
    async def obedient(input: EmptyModel, ctx: Context) -> None:
        await asyncio.sleep(60)

    with (
        caplog.at_level(logging.WARNING, "broadaxe.worker"),
        running(client.worker("w", workflows=[stubborn, obedient])),
    ):
        first, second = engine.trigger("stubborn"), engine.trigger("obedient")
        assert began.wait(10)
        engine.cancel(second)
        engine.cancel(first)
        wait_for(lambda: "still runs" in caplog.text, "a warning")
        go_on.set()
    (told,) = [text for text in caplog.messages if "still runs" in text]
    assert f"task stubborn (run {first})" in told
    assert "ctx.exit_flag" in told


def test_a_cancelled_thread_does_not_keep_the_next_task_from_running(engine, client):
    began, go_on = threading.Event(), threading.Event()

    @client.task(name="stubborn")
    def stubborn(input: EmptyModel, ctx: Context) -> None:
        began.set()
        assert go_on.wait(10)

    @client.task(name="next")
    def next_(input: EmptyModel, ctx: Context) -> None: ...

    with running(client.worker("w", slots=1, workflows=[stubborn, next_])):
        run_id = engine.trigger("stubborn")
        assert began.wait(10)
        engine.cancel(run_id)
        assert outcome(engine, engine.trigger("next")) == COMPLETED
        go_on.set()


# ---- slots and timeouts


def test_a_released_slot_is_another_tasks_while_the_first_runs_on(engine, client):
    go_on = threading.Event()

    @client.task(name="first")
    def first(input: EmptyModel, ctx: Context) -> dict[str, str]:
        ctx.release_slot()
        assert go_on.wait(10)
        return {"end": "late"}

    @client.task(name="second")
    def second(input: EmptyModel, ctx: Context) -> None:
        go_on.set()

    with running(client.worker("w", slots=1, workflows=[first, second])):
        run_id = engine.trigger("first")
        assert outcome(engine, engine.trigger("second")) == COMPLETED
        assert outcome(engine, run_id) == COMPLETED
    assert engine.released == [run_id]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_parent_that_says_so_gives_its_slot_back_once_when_it_waits(engine, client, kind):
    @client.task(name="child")
    def child(input: EmptyModel, ctx: Context) -> dict[str, int]:
        return {"n": 1}

    @client.task(name="sync", release_slot_while_waiting=True)
    def waits(input: EmptyModel, ctx: Context) -> dict[str, int]:
        return {"n": child.run()["n"] + child.run_no_wait().result()["n"]}

    @client.task(name="async", release_slot_while_waiting=True)
    async def awaits(input: EmptyModel, ctx: Context) -> dict[str, int]:
        first = await child.aio_run()
        (second,) = await child.aio_run_many([child.create_bulk_run_item()])
        return {"n": first["n"] + second["n"]}

    with running(client.worker("w", slots=1, workflows=[child, waits, awaits])):
        run_id = engine.trigger(kind)
        assert outcome(engine, run_id) == COMPLETED
    assert engine.runs[run_id].results[0].output == b'{"n":2}'
    assert engine.released == [run_id]


def test_a_parent_keeps_its_slot_unless_it_says_so(engine, client):
    @client.task(name="child")
    async def child(input: EmptyModel, ctx: Context) -> None: ...

    @client.task(name="parent")
    async def parent(input: EmptyModel, ctx: Context) -> None:
        await child.aio_run()

    with running(client.worker("w", slots=2, workflows=[child, parent])):
        assert outcome(engine, engine.trigger("parent")) == COMPLETED
    assert engine.released == []


def test_an_engine_that_cannot_release_is_told_of_and_the_wait_goes_on(engine, client, caplog):
    engine.missing.add("release_slot")

    @client.task(name="child")
    async def child(input: EmptyModel, ctx: Context) -> None: ...

    @client.task(name="parent", release_slot_while_waiting=True)
    async def parent(input: EmptyModel, ctx: Context) -> None:
        await child.aio_run()

    with (
        caplog.at_level(logging.WARNING, "broadaxe"),
        running(client.worker("w", slots=2, workflows=[child, parent])),
    ):
        assert outcome(engine, engine.trigger("parent")) == COMPLETED
    assert "task parent" in caplog.text
    assert "keeps its slot while it waits" in caplog.text


def test_a_timeout_is_refreshed_by_text_and_by_timedelta(engine, client):
    @client.task(name="long")
    async def long(input: EmptyModel, ctx: Context) -> None:
        await ctx.aio_refresh_timeout(timedelta(minutes=2))
        await asyncio.to_thread(ctx.refresh_timeout, "15s")
        with pytest.raises(DefinitionError, match="increment_by"):
            await ctx.aio_refresh_timeout(timedelta(seconds=-1))

    with running(client.worker("w", workflows=[long])):
        run_id = engine.trigger("long")
        assert outcome(engine, run_id) == COMPLETED
    assert engine.refreshed == [(run_id, "2m"), (run_id, "15s")]


def test_a_task_says_after_what_time_it_wants_to_be_retried(engine, client):
    @client.task(name="later")
    async def later(input: EmptyModel, ctx: Context) -> None:
        raise RetryAfterException("busy", after=timedelta(seconds=1.5))

    with running(client.worker("w", workflows=[later])):
        run_id = engine.trigger("later")
        assert outcome(engine, run_id) == FAILED
    (report,) = [report for report in engine.reports if report.retry_after_ms]
    assert report.retry_after_ms == 1500
    assert engine.runs[run_id].results[0].error.startswith(b"RetryAfterException: busy")
