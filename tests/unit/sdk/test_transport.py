"""What the transport does when connections break, servers refuse, and messages grow."""

# ruff: noqa: A002 - `input` is the documented name of a task's first parameter

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from broadaxe import (
    ClientClosedError,
    Context,
    EmptyModel,
    NotAuthenticatedError,
    PayloadTooLargeError,
    RequestRefusedError,
    ServerUnavailableError,
)
from broadaxe._ids import new_run_id, new_run_ids
from broadaxe._transport.base import MAX_RUNS_PER_TRIGGER, encode_runs
from broadaxe.wire import stream_pb2
from tests.unit.sdk.clients import TOKEN, make_client, make_token
from tests.unit.sdk.fake_engine import COMPLETED, FakeEngine


def declare(client, name="job"):
    @client.task(name=name)
    def job(input: EmptyModel, ctx: Context) -> dict[str, int]: ...

    return job


@pytest.fixture
def engine():
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def client(engine):
    with make_client(engine) as client:
        yield client


def in_thread(function, *args):
    """Run a blocking call aside; returns a function that waits for its result."""
    box: list = []

    def run():
        try:
            box.append((function(*args), None))
        except BaseException as error:
            box.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result():
        thread.join(20)
        assert box, "the call did not return"
        value, error = box[0]
        if error is not None:
            raise error
        return value

    return result


def test_trigger_without_an_answer_is_repeated_under_the_same_id(engine, client):
    job = declare(client)
    engine.hold_replies = True
    result = in_thread(job.run)
    engine.wait_until(lambda: len(engine.runs) == 1, "a run")
    engine.hold_replies = False
    engine.drop_streams()
    engine.wait_until(lambda: engine.repeats == [1], "a repeated trigger")
    (run_id,) = engine.runs
    engine.finish(run_id, COMPLETED, b'{"a": 1}')
    assert result() == {"a": 1}


def test_results_are_watched_again_after_a_reconnect(engine, client):
    job = declare(client)
    items = [job.create_bulk_run_item() for _ in range(3)]
    result = in_thread(job.run_many, items)
    engine.wait_until(lambda: len(engine.runs) == 3, "three runs")
    engine.drop_streams()
    engine.wait_until(lambda: engine.calls["client_stream"] == 2, "a second stream")
    for index, run_id in enumerate(list(engine.runs)):
        engine.finish(run_id, COMPLETED, b'{"a": %d}' % index)
    assert result() == [{"a": 0}, {"a": 1}, {"a": 2}]
    assert not engine.repeats


def test_engine_that_restarts_on_its_port_is_found_again(engine, client):
    job = declare(client)
    result = in_thread(job.run)
    engine.wait_until(lambda: len(engine.runs) == 1, "a run")
    engine.stop()
    engine.start()
    (run_id,) = engine.runs
    engine.finish(run_id, COMPLETED, b'{"a": 1}')
    assert result() == {"a": 1}
    second = in_thread(job.run)
    engine.wait_until(lambda: len(engine.runs) == 2, "another run")
    engine.finish(list(engine.runs)[1], COMPLETED, b'{"a": 2}')
    assert second() == {"a": 2}


def test_refusal_raises_the_servers_reason_and_names_created_runs(engine, client):
    job = declare(client)
    engine.refuse = lambda trigger: (
        (3, "unknown workflow 'job'") if len(trigger.runs) < MAX_RUNS_PER_TRIGGER else None
    )
    with pytest.raises(RequestRefusedError) as caught:
        job.run()
    assert (caught.value.code, caught.value.message) == ("INVALID_ARGUMENT", "unknown workflow 'job'")
    with pytest.raises(RequestRefusedError) as caught:
        job.run_many_no_wait([job.create_bulk_run_item() for _ in range(1_001)])
    assert set(caught.value.created_run_ids) == set(engine.runs)
    assert len(engine.runs) == 1_000


@pytest.mark.parametrize("batched", [True, False])
def test_server_that_is_away_is_told_within_the_connect_timeout(batched):
    with FakeEngine(batched=batched) as engine:
        address = engine.address
    with make_client(address, connect_timeout_seconds=0.5) as client:
        started = time.monotonic()
        with pytest.raises(ServerUnavailableError, match=address):
            declare(client).run()
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("patience", [0.3, 3.0])
def test_broken_stream_gives_up_when_the_patience_ends_not_a_backoff_later(patience):
    with FakeEngine() as engine:
        address = engine.address
    with make_client(address, connect_timeout_seconds=patience) as client:
        started = time.monotonic()
        with pytest.raises(ServerUnavailableError):
            declare(client).run_no_wait()
        assert patience <= time.monotonic() - started < patience + 1


def test_server_that_accepts_and_says_nothing_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with make_client(address, connect_timeout_seconds=1.0) as client:
            started = time.monotonic()
            with pytest.raises(ServerUnavailableError):
                declare(client).run_no_wait()
            assert time.monotonic() - started < 3


def test_token_of_another_server_is_told():
    other = make_token(sub="someone else")
    with (
        FakeEngine(token=other) as engine,
        make_client(engine) as client,
        pytest.raises(NotAuthenticatedError, match="does not accept this API token"),
    ):
        declare(client).run()


def test_right_token_is_sent_as_bearer():
    with (
        FakeEngine(token=TOKEN, answer=lambda run: (COMPLETED, b'{"a": 1}')) as engine,
        make_client(engine) as client,
    ):
        assert declare(client).run() == {"a": 1}


def test_messages_stay_under_the_limit_by_size(engine):
    engine.answer = lambda run: (COMPLETED, b"")

    with make_client(engine) as client:

        @client.task()
        def job(input: dict, ctx: Context) -> None: ...

        items = [job.create_bulk_run_item({"text": "x" * 500_000}) for _ in range(20)]
        assert job.run_many(items) == [None] * 20
    assert len(engine.trigger_sizes) >= 3
    assert sum(engine.trigger_sizes) == 20


def test_run_larger_than_a_message_is_refused_with_sizes(engine, client):
    @client.task()
    def job(input: dict, ctx: Context) -> None: ...

    with pytest.raises(PayloadTooLargeError, match=r"5,000,0.*grpc_max_send_message_length"):
        job.run({"text": "x" * 5_000_000})
    assert not engine.runs


async def test_cancelled_wait_takes_its_watch_back(engine, client):
    job = declare(client)
    ref = await job.aio_run_no_wait()
    waiting = asyncio.ensure_future(ref.aio_result())
    engine_sees = lambda: any(ref.workflow_run_id in m.watch_run_ids for m in engine.client_messages)  # noqa: E731
    await asyncio.to_thread(engine.wait_until, engine_sees, "a watch")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gone = lambda: any(ref.workflow_run_id in m.unwatch_run_ids for m in engine.client_messages)  # noqa: E731
    await asyncio.to_thread(engine.wait_until, gone, "an unwatch")


def test_two_waiters_of_one_run_both_get_it(engine, client):
    job = declare(client)
    ref = job.run_no_wait()
    results = [in_thread(ref.result) for _ in range(2)]
    engine.wait_until(
        lambda: sum(list(m.watch_run_ids).count(ref.workflow_run_id) for m in engine.client_messages) == 2,
        "two watches",
    )
    engine.finish(ref.workflow_run_id, COMPLETED, b'{"a": 1}')
    assert [result() for result in results] == [{"a": 1}, {"a": 1}]


@pytest.mark.parametrize("batched", [True, False])
def test_logs_and_chunks_arrive_in_order(batched):
    with FakeEngine(batched=batched) as engine, make_client(engine) as client:
        lines = [stream_pb2.LogLine(task_run_id="t", message=f"line {n}", level="INFO") for n in range(50)]
        chunks = [stream_pb2.StreamChunk(task_run_id="t", message=b"c", index=n) for n in range(50)]
        client.transport.submit(client.transport.put_logs(lines)).result(10)
        client.transport.submit(client.transport.put_stream(chunks)).result(10)
        engine.wait_until(lambda: len(engine.logs) == len(engine.chunks) == 50, "logs and chunks")
        assert [line.message for line in engine.logs] == [f"line {n}" for n in range(50)]
        assert [getattr(c, "index", None) or getattr(c, "event_index", 0) for c in engine.chunks] == list(
            range(50)
        )


def test_closed_client_says_so_and_fails_who_waits(engine):
    client = make_client(engine)
    job = declare(client)
    result = in_thread(job.run)
    engine.wait_until(lambda: len(engine.runs) == 1, "a run")
    client.close()
    client.close()
    with pytest.raises(ClientClosedError):
        result()
    with pytest.raises(ClientClosedError):
        job.run()


FORKS_AFTER_CONNECTING = """
import os, sys
from broadaxe import ClientClosedError, Context, EmptyModel
from tests.unit.sdk.clients import make_client

with make_client(sys.argv[1]) as client:
    @client.task(name="job")
    def job(input: EmptyModel, ctx: Context) -> dict[str, int]: ...

    print("before", job.run(), flush=True)
    if not (pid := os.fork()):
        try:
            job.run()
        except ClientClosedError as error:
            print("child", error, flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print("after", job.run(), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_client_that_connected_before_a_fork_refuses_in_the_child(engine):
    # In an interpreter of its own: gRPC reads its settings for forks when it is first imported, here by whichever test ran first.
    engine.answer = lambda run: (COMPLETED, b'{"a": 1}')
    script = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        FORKS_AFTER_CONNECTING,
        engine.address,
    ]
    done = subprocess.run(script, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    before, child, after = done.stdout.splitlines()
    assert (before, after) == ("before {'a': 1}", "after {'a': 1}")
    assert "does not survive a fork" in child


def test_lines_are_confirmed_once_the_engine_has_them():
    with FakeEngine(batched=True) as engine, make_client(engine) as client:
        for number in range(3):
            chunk = stream_pb2.StreamChunk(task_run_id="t", message=b"c", index=number)
            client.transport.submit(client.transport.put_stream([chunk])).result(10)
            client.transport.submit(client.transport.confirm_lines()).result(10)
            assert len(engine.chunks) == number + 1


def test_encoded_chunks_are_the_message_of_the_proto():
    runs = [
        stream_pb2.NewRun(run_id=run_id, workflow_name="w", input=b"x" * size)
        for run_id, size in zip(new_run_ids(4), (0, 100, 20_000, 300), strict=True)
    ]
    (chunk,) = encode_runs(runs, 4 << 20)
    decoded = stream_pb2.TriggerRuns.FromString(chunk.body)
    assert list(decoded.runs) == runs
    assert chunk.run_ids == [run.run_id for run in runs]


def test_run_ids_are_version_7_and_ascending():
    import uuid

    ids = new_run_ids(10_000)
    assert ids == sorted(set(ids))
    for text in (*ids[:5], new_run_id()):
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 7, uuid.RFC_4122)
    assert abs(uuid.UUID(ids[0]).int >> 80) - time.time() * 1000 < 1000
