# ruff: noqa: A002 - tasks call their input `input`
"""The worker against the fake engine, over both links: what runs, what is reported, and what survives a broken stream."""

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest

from broadaxe import (
    Broadaxe,
    ConfigurationError,
    Context,
    EmptyModel,
    NonRetryableException,
    RequestRefusedError,
    TaskRunError,
)
from broadaxe.wire import stream_pb2
from tests.unit.sdk.clients import make_client
from tests.unit.sdk.fake_engine import CANCELLED, COMPLETED, FAILED, FakeEngine
from tests.unit.sdk.worker_tools import running, wait_for

STARTED = stream_pb2.REPORT_KIND_STARTED


@pytest.fixture(params=["batched", "unary"])
def engine(request) -> Iterator[FakeEngine]:
    with FakeEngine(batched=request.param == "batched") as engine:
        yield engine


@pytest.fixture
def batched() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def connect() -> Iterator[Callable[..., Broadaxe]]:
    """Makes clients, and closes them after the test."""
    clients: list[Broadaxe] = []

    def connect(engine: FakeEngine, **config) -> Broadaxe:
        clients.append(make_client(engine, **config))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def outcome(engine: FakeEngine, run_id: str, timeout: float = 10):
    engine.wait_until(lambda: engine.runs[run_id].state is not None, f"the end of {run_id}", timeout)
    return engine.runs[run_id].state, engine.runs[run_id].results[0]


# ---- what runs


def test_async_task_runs_as_an_asyncio_task_in_the_thread_that_started_the_worker(engine, connect):
    client = connect(engine)
    seen = {}

    @client.task(name="where")
    async def where(input: EmptyModel, ctx: Context) -> dict[str, str]:
        await asyncio.sleep(0)
        seen["task"], seen["thread"] = asyncio.current_task(), threading.current_thread().name
        return {"worker": ctx.worker_id, "value": input.value}

    with running(client.worker("w", workflows=[where])) as worker:
        state, result = outcome(engine, engine.trigger("where", {"value": "x"}))
        assert state == COMPLETED
        assert result.output == b'{"worker":"%s","value":"x"}' % worker.id.encode()
    assert seen["task"] is not None
    assert seen["thread"] == "worker-under-test"


def test_sync_tasks_run_at_once_in_threads(engine, connect):
    client = connect(engine)
    together = threading.Barrier(3, timeout=10)

    @client.task(name="meet")
    def meet(input: EmptyModel, ctx: Context) -> dict[str, int]:
        together.wait()
        return {"n": 1}

    with running(client.worker("w", slots=3, workflows=[meet])):
        ids = [engine.trigger("meet") for _ in range(3)]
        assert [outcome(engine, run_id)[0] for run_id in ids] == [COMPLETED] * 3


def test_a_task_that_returns_nothing_has_an_empty_output(engine, connect):
    client = connect(engine)

    @client.task(name="nothing")
    async def nothing(input: EmptyModel, ctx: Context) -> None:
        return None

    with running(client.worker("w", workflows=[nothing])):
        assert outcome(engine, engine.trigger("nothing"))[1].output == b""


def test_lifespan_surrounds_the_tasks_and_is_seen_by_them(batched, connect):
    client = connect(batched)
    steps: list[str] = []
    colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour")

    async def lifespan() -> AsyncGenerator[dict[str, str], None]:
        steps.append("up")
        colour.set("red")
        yield {"pool": "p"}
        steps.append("down")

    @client.task(name="use")
    def use(input: EmptyModel, ctx: Context) -> dict[str, str]:
        steps.append("task")
        return {"pool": ctx.lifespan["pool"], "colour": colour.get()}

    with running(client.worker("w", workflows=[use], lifespan=lifespan)):
        assert outcome(batched, batched.trigger("use"))[1].output == b'{"pool":"p","colour":"red"}'
    assert steps == ["up", "task", "down"]


def test_a_lifespan_that_raises_keeps_the_worker_from_starting(batched, connect):
    client = connect(batched)

    async def lifespan() -> AsyncGenerator[None, None]:
        raise LookupError("no database")
        yield

    @client.task(name="never")
    async def never(input: EmptyModel, ctx: Context) -> None: ...

    with pytest.raises(LookupError, match="no database"):
        client.worker("w", workflows=[never], lifespan=lifespan).start()
    assert batched.hellos == []


def test_labels_and_slots_are_registered_and_can_be_changed_by_a_task(batched, connect):
    client = connect(batched, worker_preset_labels={"zone": "a"})

    @client.task(name="relabel")
    async def relabel(input: EmptyModel, ctx: Context) -> dict[str, object]:
        await ctx.worker.aio_upsert_labels({"model": "m2"})
        return dict(ctx.worker_labels)

    with running(client.worker("w", slots=7, labels={"gpus": 2}, workflows=[relabel])):
        (hello,) = batched.hellos
        assert dict(hello.slot_config) == {"default": 7}
        assert hello.labels["gpus"].int_value == 2
        assert outcome(batched, batched.trigger("relabel"))[1].output == b'{"zone":"a","gpus":2,"model":"m2"}'


# ---- failures


def test_an_exception_fails_the_attempt_with_type_message_and_the_users_traceback_alone(engine, connect):
    client = connect(engine)

    @client.task(name="broken")
    async def broken(input: EmptyModel, ctx: Context) -> None:
        raise KeyError("a: b\nc")

    with running(client.worker("w", workflows=[broken])):
        state, result = outcome(engine, engine.trigger("broken"))
    assert state == FAILED
    told = TaskRunError.from_wire(result.error.decode())
    assert (told.exc_type, told.exc) == ("KeyError", "'a: b\\nc'")
    assert "test_worker.py" in told.trace
    assert "_runner.py" not in told.trace
    assert told.task_run_id == result.task_run_id


def test_a_failed_attempt_is_retried_unless_the_error_says_not_to(engine, connect):
    client = connect(engine)
    attempts: list[tuple[str, int]] = []

    @client.task(name="twice", retries=1)
    def twice(input: EmptyModel, ctx: Context) -> dict[str, int]:
        attempts.append(("twice", ctx.retry_count))
        if ctx.attempt_number == 1:
            raise OSError("again")
        return {"n": 2}

    @client.task(name="once", retries=5)
    def once(input: EmptyModel, ctx: Context) -> None:
        attempts.append(("once", ctx.retry_count))
        raise NonRetryableException("never again")

    with running(client.worker("w", workflows=[twice, once])):
        assert outcome(engine, engine.trigger("twice"))[0] == COMPLETED
        assert outcome(engine, engine.trigger("once"))[0] == FAILED
    assert attempts == [("twice", 0), ("twice", 1), ("once", 0)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"x": object()}, "'odd'.*cannot be written as JSON"),
        ({"x": float("nan")}, "'odd'.*NaN"),
        ({"x": "\0"}, "'odd'.*NUL"),
        ({"x": "y" * 5_000_000}, "'odd'.*5000008 bytes"),
    ],
)
def test_output_that_cannot_travel_fails_the_attempt_and_names_the_task(batched, value, words, connect):
    client = connect(batched)

    @client.task(name="odd")
    async def odd(input: EmptyModel, ctx: Context):
        return value

    with running(client.worker("w", workflows=[odd])):
        state, result = outcome(batched, batched.trigger("odd"))
    assert state == FAILED
    with pytest.raises(TaskRunError, match=words):
        raise TaskRunError.from_wire(result.error.decode())


def test_a_task_that_calls_exit_fails_and_the_worker_goes_on(engine, connect):
    client = connect(engine)

    @client.task(name="quit")
    async def quit_(input: EmptyModel, ctx: Context) -> None:
        raise SystemExit(3)

    @client.task(name="fine")
    async def fine(input: EmptyModel, ctx: Context) -> None: ...

    with running(client.worker("w", workflows=[quit_, fine])):
        assert outcome(engine, engine.trigger("quit"))[0] == FAILED
        assert outcome(engine, engine.trigger("fine"))[0] == COMPLETED


def test_a_cancelled_error_of_the_tasks_own_is_a_failure(batched, connect):
    client = connect(batched)

    @client.task(name="own")
    async def own(input: EmptyModel, ctx: Context) -> None:
        raise asyncio.CancelledError

    with running(client.worker("w", workflows=[own])):
        state, result = outcome(batched, batched.trigger("own"))
    assert state == FAILED
    assert result.error.startswith(b"CancelledError: ")


# ---- cancelling


def test_a_cancel_stops_an_async_task_which_then_reports_nothing(engine, connect):
    client = connect(engine)
    running_now, stopped = threading.Event(), threading.Event()

    @client.task(name="long")
    async def long(input: EmptyModel, ctx: Context) -> None:
        running_now.set()
        try:
            await asyncio.sleep(60)
        finally:
            assert ctx.exit_flag
            stopped.set()

    with running(client.worker("w", workflows=[long])):
        run_id = engine.trigger("long")
        assert running_now.wait(10)
        engine.cancel(run_id)
        assert stopped.wait(10)
    assert engine.runs[run_id].state == CANCELLED
    assert terminal_reports(engine) == []


def test_a_cancel_sets_the_exit_flag_of_a_sync_task_whose_result_is_dropped(engine, connect):
    client = connect(engine)
    running_now, stopped = threading.Event(), threading.Event()

    @client.task(name="spin")
    def spin(input: EmptyModel, ctx: Context) -> dict[str, bool]:
        running_now.set()
        wait_for(ctx.done, "the exit flag")
        stopped.set()
        return {"late": True}

    with running(client.worker("w", workflows=[spin])):
        run_id = engine.trigger("spin")
        assert running_now.wait(10)
        engine.cancel(run_id)
        assert stopped.wait(10)
    assert terminal_reports(engine) == []


def test_a_task_can_cancel_itself(engine, connect):
    client = connect(engine)

    @client.task(name="self-cancel")
    async def self_cancel(input: EmptyModel, ctx: Context) -> dict[str, str]:
        await ctx.aio_cancel()
        return {"error": "dropped"}

    with running(client.worker("w", workflows=[self_cancel])):
        assert outcome(engine, engine.trigger("self-cancel"))[0] == CANCELLED


def terminal_reports(engine: FakeEngine) -> list[object]:
    return [
        r
        for r in engine.reports
        if getattr(r, "kind", None) != STARTED and getattr(r, "event_type", None) != 1
    ]


# ---- the batched stream


def test_a_short_task_tells_its_start_with_its_end(batched, connect):
    client = connect(batched)

    @client.task(name="short")
    async def short(input: EmptyModel, ctx: Context) -> None: ...

    with running(client.worker("w", workflows=[short])):
        outcome(batched, batched.trigger("short"))
    (report,) = batched.reports
    assert report.started_at_us > 0


def test_a_long_task_tells_its_start_while_it_runs(batched, connect):
    client = connect(batched)
    end = threading.Event()

    @client.task(name="long")
    def long(input: EmptyModel, ctx: Context) -> None:
        assert end.wait(10)

    with running(client.worker("w", workflows=[long])):
        run_id = batched.trigger("long")
        batched.wait_until(lambda: [r.kind for r in batched.reports] == [STARTED], "the start")
        end.set()
        assert outcome(batched, run_id)[0] == COMPLETED


def test_a_worker_comes_back_with_its_id_and_what_it_holds_and_runs_nothing_twice(batched, connect):
    client = connect(batched)
    began: list[str] = []
    go_on = threading.Event()

    @client.task(name="hold")
    async def hold(input: EmptyModel, ctx: Context) -> dict[str, int]:
        began.append(ctx.task_run_id)
        await asyncio.to_thread(go_on.wait, 10)
        return {"n": 1}

    with running(client.worker("w", slots=4, workflows=[hold])) as worker:
        ids = [batched.trigger("hold") for _ in range(4)]
        wait_for(lambda: len(began) == 4, "all to begin")
        batched.drop_streams()
        batched.wait_until(lambda: len(batched.hellos) == 2, "the worker to come back")
        again = batched.hellos[1]
        assert again.worker_id == worker.id
        assert {held.task_run_id for held in again.in_flight} == set(ids)
        go_on.set()
        assert [outcome(batched, run_id)[0] for run_id in ids] == [COMPLETED] * 4
    assert sorted(began) == sorted(ids)


def test_results_computed_while_the_engine_is_away_are_reported_when_it_is_back(engine, connect):
    client = connect(engine)
    began, go_on = threading.Event(), threading.Event()
    ended = threading.Event()

    @client.task(name="away")
    def away(input: EmptyModel, ctx: Context) -> dict[str, str]:
        began.set()
        assert go_on.wait(10)
        ended.set()
        return {"kept": "yes"}

    with running(client.worker("w", workflows=[away])):
        run_id = engine.trigger("away")
        assert began.wait(10)
        engine.stop()
        go_on.set()
        assert ended.wait(10)
        engine.start()
        state, result = outcome(engine, run_id, timeout=20)
    assert (state, result.output) == (COMPLETED, b'{"kept":"yes"}')


def test_a_blocked_user_loop_holds_no_report_back(batched, connect):
    client = connect(batched)
    release = threading.Event()

    @client.task(name="quick")
    async def quick(input: EmptyModel, ctx: Context) -> None: ...

    @client.task(name="blocking")
    async def blocking(input: EmptyModel, ctx: Context) -> None:
        assert release.wait(10)  # blocks the loop, as users do

    # Queued before the worker comes, both arrive in one message and begin in one turn of the loop.
    first, second = batched.trigger("quick"), batched.trigger("blocking")
    with running(client.worker("w", workflows=[quick, blocking])):
        assert outcome(batched, first)[0] == COMPLETED
        release.set()
        assert outcome(batched, second)[0] == COMPLETED


def test_a_worker_that_the_engine_does_not_know_any_more_registers_anew(batched, caplog, connect):
    client = connect(batched)

    @client.task(name="any")
    async def any_(input: EmptyModel, ctx: Context) -> None: ...

    with running(client.worker("w", workflows=[any_])) as worker:
        first = worker.id
        batched.unknown_workers.add(first)
        batched.workflows.clear()
        with caplog.at_level(logging.WARNING, "broadaxe.worker"):
            batched.drop_streams()
            wait_for(lambda: worker.id not in (None, first), "a new id")
        assert "registering anew" in caplog.text
        assert outcome(batched, batched.trigger("any"))[0] == COMPLETED


# ---- starting and stopping


def test_stopping_finishes_what_runs_and_says_goodbye(engine, connect):
    client = connect(engine)
    began = threading.Event()

    @client.task(name="slow")
    async def slow(input: EmptyModel, ctx: Context) -> dict[str, int]:
        began.set()
        await asyncio.sleep(0.3)
        return {"n": 1}

    with running(client.worker("w", workflows=[slow])) as worker:
        worker_id = worker.id
        run_id = engine.trigger("slow")
        assert began.wait(10)
    assert engine.runs[run_id].state == COMPLETED
    assert engine.goodbyes == [worker_id]


def test_a_stopped_worker_can_start_again(batched, connect):
    client = connect(batched)

    @client.task(name="any")
    async def any_(input: EmptyModel, ctx: Context) -> None: ...

    worker = client.worker("w", workflows=[any_])
    for _ in range(2):
        with running(worker):
            assert outcome(batched, batched.trigger("any"))[0] == COMPLETED


def test_a_server_that_is_away_is_told_at_the_first_failed_attempt(caplog, connect):
    with FakeEngine() as engine:
        pass  # its port is free again
    client = connect(engine)

    @client.task(name="any")
    async def any_(input: EmptyModel, ctx: Context) -> None: ...

    worker = client.worker("w", workflows=[any_])
    thread = threading.Thread(target=worker.start)
    with caplog.at_level(logging.INFO, "broadaxe.worker"):
        thread.start()
        try:
            wait_for(lambda: "worker w is not connected" in caplog.text, "a warning", timeout=5)
        finally:
            worker.stop(20)
            thread.join(20)
    assert "worker w starts with 1 task and" in caplog.text
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert f"the server at {engine.address} cannot be reached" in told[0].getMessage()


def test_features_that_the_server_does_not_enforce_are_told_once_at_the_start(batched, caplog, connect):
    client = connect(batched)
    batched.not_enforced = "concurrency,crons"

    @client.task(name="any")
    async def any_(input: EmptyModel, ctx: Context) -> None: ...

    with (
        caplog.at_level(logging.WARNING, "broadaxe.worker"),
        running(client.worker("w", workflows=[any_])) as worker,
    ):
        first = worker.id
        batched.unknown_workers.add(first)
        batched.drop_streams()
        wait_for(lambda: worker.id not in (None, first), "a new id")
    (told,) = [text for text in caplog.messages if "does not enforce" in text]
    assert told.endswith("any (concurrency, crons)")


def test_a_refused_token_ends_the_start(connect):
    with FakeEngine(token="another") as engine:
        client = connect(engine)

        @client.task(name="any")
        async def any_(input: EmptyModel, ctx: Context) -> None: ...

        with pytest.raises(RequestRefusedError, match="token"):
            client.worker("w", workflows=[any_]).start()


def test_settings_that_cannot_work_are_refused_when_the_worker_is_made():
    client = make_client("127.0.0.1:1")

    @client.task(name="any")
    async def any_(input: EmptyModel, ctx: Context) -> None: ...

    with pytest.raises(ConfigurationError, match="slots is 0"):
        client.worker("w", slots=0, workflows=[any_])
    with pytest.raises(ConfigurationError, match="worker name 'a b'"):
        client.worker("a b", workflows=[any_])
    with pytest.raises(TypeError, match="label 'x'"):
        client.worker("w", labels={"x": 1.5}, workflows=[any_])  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match="no workflows"):
        client.worker("w").start()


# ---- logs and streams


def test_log_lines_and_logging_records_of_a_task_go_to_its_logs(engine, connect):
    client = connect(engine)
    log = logging.getLogger("users.own")

    @client.task(name="talk")
    def talk(input: EmptyModel, ctx: Context) -> None:
        ctx.log("plain")
        ctx.log({"a": 1})
        log.warning("record %d", 1)

    @client.task(name="silent")
    async def silent(input: EmptyModel, ctx: Context) -> None: ...

    with running(client.worker("w", workflows=[talk, silent])):
        run_id = engine.trigger("talk")
        outcome(engine, run_id)
        outcome(engine, engine.trigger("silent"))
        log.warning("of no task")
    engine.wait_until(lambda: len(engine.logs) >= 3, "the logs")
    lines = [(line.message, line.level) for line in engine.logs]
    assert lines == [("plain", "INFO"), ('{"a": 1}', "INFO"), ("record 1", "WARN")]


def test_lines_of_both_ways_have_the_times_of_their_order(engine, connect):
    client = connect(engine)
    log = logging.getLogger("users.own")

    @client.task(name="talk")
    def talk(input: EmptyModel, ctx: Context) -> None:
        for number in range(100):
            ctx.log(f"{2 * number}")
            log.warning("%d", 2 * number + 1)

    with running(client.worker("w", workflows=[talk])):
        outcome(engine, engine.trigger("talk"))
    engine.wait_until(lambda: len(engine.logs) == 200, "the logs")
    assert [line.message for line in engine.logs] == [str(number) for number in range(200)]
    times = [getattr(line, "created_at_us", 0) or line.created_at.ToMicroseconds() for line in engine.logs]
    assert times == sorted(times)


def test_a_logger_given_to_the_client_is_the_only_one_whose_records_go_to_the_logs(batched, connect):
    client = connect(batched, logger=logging.getLogger("users.chosen"))

    @client.task(name="talk")
    async def talk(input: EmptyModel, ctx: Context) -> None:
        logging.getLogger("users.other").error("not this")
        logging.getLogger("users.chosen.child").error("this")

    with running(client.worker("w", workflows=[talk])):
        outcome(batched, batched.trigger("talk"))
    assert [(line.message, line.level) for line in batched.logs] == [("this", "ERROR")]


def test_stream_chunks_arrive_in_order_and_before_the_end(batched, connect):
    client = connect(batched)

    @client.task(name="speak")
    async def speak(input: EmptyModel, ctx: Context) -> None:
        for number in range(50):
            ctx.put_stream(f"{number} ")
        await ctx.aio_put_stream(b"end")

    with running(client.worker("w", workflows=[speak])):
        outcome(batched, batched.trigger("speak"))
        assert (
            b"".join(chunk.message for chunk in batched.chunks).decode()
            == "".join(f"{number} " for number in range(50)) + "end"
        )
        assert [chunk.index for chunk in batched.chunks] == list(range(51))


def test_what_the_engine_does_not_offer_is_told_to_the_task(batched, connect):
    client = connect(batched)
    batched.missing.add("refresh_timeout")

    @client.task(name="refresh")
    async def refresh(input: EmptyModel, ctx: Context) -> dict[str, str]:
        with pytest.raises(RequestRefusedError) as caught:
            await ctx.aio_refresh_timeout("10s")
        return {"code": caught.value.code}

    with running(client.worker("w", workflows=[refresh])):
        assert outcome(batched, batched.trigger("refresh"))[1].output == b'{"code":"UNIMPLEMENTED"}'
