"""Runs in every state, a kill -9 of the engine, and each goes on as if nothing had happened, deadlines kept to within a second.

One kill serves all tests here: the fixture brings a run into each state, notes when what it waits for is due, kills, restarts, and listens to
the workers. A test then looks at its run.
"""

import time
from collections.abc import Iterator

import grpc
import pytest

from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.calls import (
    BATCH,
    STOP,
    cancel,
    payload_of,
    push,
    results_of,
    send_batch,
)
from tests.compat.wire import code_of
from tests.faults.scenes import COMPLETED, Item, Stage
from tests.processes import Server, closing, server_directory

pytestmark = pytest.mark.timeout(180)


# ---- the kill


def kill_engine(server: Server) -> None:
    server.kill9()


def kill_both(server: Server) -> None:
    """Postgres goes down with the engine, as at a power cut; the engine's start brings it back."""
    server.kill9()
    server.postgres_kill9()


@pytest.fixture(
    scope="module",
    params=[kill_engine, pytest.param(kill_both, marks=pytest.mark.slow)],
    ids=["engine", "both"],
)
def survived(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with server_directory() as directory, closing(server := Server(directory)):
        stage = Stage(server.start())
        try:
            stage.prepare()
            cancel(stage.wire, stage["cancelling"].run_id)
            stage.kill_and_restart(request.param)
            yield stage
        finally:
            stage.close()


# ---- what has become of each; those whose deadlines are near come first


def test_what_was_due_in_the_downtime_happens_at_once(survived: Stage) -> None:
    one = survived["due_while_down"]
    for task, count in (("slept", 1), ("again", 2)):
        at, action = one.hand.wait(task, count=count)
        one.assert_on_time(at)
        one.complete(action)
    results = results_of(survived.wire, one.run_id, timeout=30)
    assert time.monotonic() - survived.back_at < 30
    assert results["slow"].error == "Task exceeded timeout of 1s"
    assert results["starved"].HasField("error")
    assert results["starved"].error == ""
    starts = {
        task: sorted({action.retry_count for _, action in one.hand.actions(task)})
        for task in ("slept", "again", "slow", "starved")
    }
    # What ran out of time while nobody could report may be tried again: its report may have been lost.
    assert starts.pop("slow") in ([0], [0, 1])
    assert starts == {"slept": [0], "again": [0, 1], "starved": []}


def test_waiting_on_a_parent(survived: Stage) -> None:
    one = survived["waiting_on_parent"]
    one.complete(one.hand.wait("top")[1], '{"v": "after the kill"}')
    low = one.hand.wait("low")[1]
    assert payload_of(low)["parents"] == {"top": {"v": "after the kill"}}
    one.complete(low)
    assert results_of(survived.wire, one.run_id)["low"].output == '{"v": 1}'
    assert len(one.hand.actions("top")) == 1


def test_waiting_on_the_second_of_two_parents(survived: Stage) -> None:
    one = survived["waiting_on_second_parent"]
    one.complete(one.hand.wait("right")[1], '{"v": "right"}')
    low = one.hand.wait("low")[1]
    assert payload_of(low)["parents"] == {"left": {"v": "left"}, "right": {"v": "right"}}
    assert len(one.hand.actions("left")) == 1
    one.complete(low)


def test_running(survived: Stage) -> None:
    one = survived["running"]
    assert survived.wire.details(one.run_id).status == v1.RUNNING
    one.complete(one.hand.wait("only")[1], '{"v": "kept on"}')
    assert survived.wire.result(one.run_id).output == '{"v": "kept on"}'
    assert len(one.hand.actions("only")) == 1


def test_cancelled_just_before(survived: Stage) -> None:
    one = survived["cancelling"]
    assert survived.wire.details(one.run_id).status == v1.CANCELLED
    stop = one.hand.wait("top", STOP, timeout=15)[1]  # before the kill or after it
    assert stop.retry_count == 0
    one.complete(one.hand.wait("top")[1])
    results = results_of(survived.wire, one.run_id)
    assert (results["top"].error, results["low"].error) == ("", "")
    assert survived.wire.details(one.run_id).status == v1.CANCELLED
    assert one.hand.actions("low") == []


def test_waiting_for_an_event(survived: Stage) -> None:
    one, key = survived["waiting_for_event"], survived.kept["waiting_for_event"]
    push(survived.wire, key, {"right": False})
    push(survived.wire, key, {"right": True})
    low = one.hand.wait("low")[1]
    assert payload_of(low)["triggers"]["told"] == {"right": True}
    one.complete(low)


def test_event_that_came_before_the_kill_counts(survived: Stage) -> None:
    one = survived["event_came_before_parents_ended"]
    one.complete(one.hand.wait("top")[1])
    low = one.hand.wait("low")[1]
    assert payload_of(low)["triggers"]["told"] == {"early": True}
    one.complete(low)


def test_skipped_by_an_event(survived: Stage) -> None:
    one = survived["skipped_by_event_later"]
    push(survived.wire, survived.kept["skipped_by_event_later"])
    last = one.hand.wait("last")[1]
    assert payload_of(last)["parents"] == {"top": {"v": 1}, "low": {"skipped": True}}
    one.complete(last)
    results_of(survived.wire, one.run_id)
    assert one.hand.actions("low") == []


def test_skipped_before_the_kill(survived: Stage) -> None:
    one = survived["already_skipped"]
    one.complete(one.hand.wait("aside")[1])
    last = one.hand.wait("last")[1]
    assert payload_of(last)["parents"]["low"] == {"skipped": True}
    one.complete(last)
    results_of(survived.wire, one.run_id)


def test_released_slot_is_still_released(survived: Stage) -> None:
    one = survived["slot_released"]
    first = one.hand.wait("only")[1]
    other = survived.wire.trigger(one.name)
    second = one.hand.wait("only", count=2, timeout=15)[1]
    assert second.task_run_external_id == other
    one.complete(first, '{"v": "first"}')
    assert survived.wire.result(one.run_id).output == '{"v": "first"}'
    one.complete(second)


def test_failing_fires_the_on_failure_task(survived: Stage) -> None:
    one = survived["failing_later"]
    survived.wire.fail(one.hand.wait("bad")[1], "after the kill", worker_id=one.hand.id)
    oops = one.hand.wait("oops")[1]
    assert payload_of(oops)["step_run_errors"] == {"bad": "after the kill"}
    one.complete(oops)
    assert results_of(survived.wire, one.run_id)["bad"].error == "after the kill"


def test_replayed_branch(survived: Stage) -> None:
    one = survived["replayed"]
    left = one.hand.wait("left", count=2)[1]
    assert left.retry_count == 1
    one.complete(left, '{"v": "replayed"}')
    low = one.hand.wait("low")[1]
    assert payload_of(low)["parents"] == {"left": {"v": "replayed"}, "right": {"v": "kept"}}
    one.complete(low)
    assert len(one.hand.actions("right")) == 1


def test_spawn_memory(survived: Stage) -> None:
    one, child = survived["spawning"], survived.kept["spawning"]
    fields = {"parent_task_run_external_id": one.run_id}
    assert survived.wire.trigger(one.name, child_index=0, **fields) == child
    assert survived.wire.trigger(one.name, child_index=1, **fields) != child


def test_claimed_key(survived: Stage) -> None:
    one, value = survived["claimed"], survived.kept["claimed"]
    code, text = code_of(lambda: survived.wire.trigger(one.name, value))
    assert (code, text) == (grpc.StatusCode.ALREADY_EXISTS, "idempotency key collision")
    one.complete(one.hand.wait("only")[1])
    survived.wire.result(one.run_id)
    assert survived.wire.trigger(one.name, value) != one.run_id


def test_batch_that_gathers(survived: Stage) -> None:
    one = survived["gathering_a_batch"]
    second = survived.wire.trigger(one.name)
    batch = one.hand.wait(kind=BATCH)[1]
    assert sorted(payload_of(batch)) == sorted((one.run_id, second))


def test_batch_that_runs(survived: Stage) -> None:
    one, members = survived["running_a_batch"], survived.kept["running_a_batch"]
    batch = one.hand.wait(kind=BATCH)[1]
    items = [Item(task_run_external_id=member, event_payload='{"v": 1}') for member in members]
    send_batch(survived.wire, batch, COMPLETED, items, one.hand.id)
    assert [survived.wire.result(member).output for member in members] == ['{"v": 1}'] * 2
    assert len(one.hand.actions(kind=BATCH)) == 1


def test_sleeping(survived: Stage) -> None:
    one = survived["sleeping"]
    at, low = one.hand.wait("low")
    one.assert_on_time(at)
    one.complete(low)
    results_of(survived.wire, one.run_id)
    assert len(one.hand.actions("low")) == 1


def test_one_of_two_groups_satisfied(survived: Stage) -> None:
    one = survived["half_of_two_groups"]
    at, low = one.hand.wait("low")
    one.assert_on_time(at)
    assert payload_of(low)["triggers"]["told"] == {"kept": True}
    one.complete(low)


def test_backing_off(survived: Stage) -> None:
    one = survived["backing_off"]
    at, again = one.hand.wait("only", count=2)
    one.assert_on_time(at)
    assert again.retry_count == 1
    one.complete(again)
    survived.wire.result(one.run_id)


def test_timing_out(survived: Stage) -> None:
    one = survived["timing_out"]
    at, stop = one.hand.wait("only", STOP)
    one.assert_on_time(at)
    assert stop.retry_count == 0
    again = one.hand.wait("only", count=2)[1]
    assert again.retry_count == 1
    one.complete(again)
    survived.wire.result(one.run_id)


def test_timing_out_after_a_refresh(survived: Stage) -> None:
    one = survived["timing_out_refreshed"]
    at, _ = one.hand.wait("only", STOP)
    one.assert_on_time(at)
    assert survived.wire.result(one.run_id).error == "Task exceeded timeout of 5s"


def test_waiting_for_a_worker(survived: Stage) -> None:
    one = survived["waiting_for_a_worker"]
    one.assert_on_time(survived.end_of(one.run_id))
    result = survived.wire.result(one.run_id)
    assert result.HasField("error")
    assert result.error == ""
    assert survived.wire.details(one.run_id).status == v1.CANCELLED
