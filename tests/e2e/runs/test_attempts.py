"""Retries, timeouts and cancellation of one task."""

import itertools
import time

import pytest

from tests.e2e.runs.harness import FlowsUnderTest, of_the_engine

pytestmark = pytest.mark.timeout(120)


# ---- retries


def test_task_is_retried_as_often_as_it_says(flows: FlowsUnderTest) -> None:
    run = flows.start("retried", {"retried": {"fail_attempts": 3}})
    output = run.end().output("retried")
    assert (output["retry_count"], output["attempt_number"]) == (3, 4)
    assert [note["retry_count"] for note in run.notes("retried", "starts")] == [0, 1, 2, 3]
    assert len({note["task_run"] for note in run.notes()}) == 1


def test_spent_retries_end_with_the_last_error(flows: FlowsUnderTest) -> None:
    run = flows.start("retried", {"retried": {"fail_attempts": 99}})
    end = run.end()
    assert end.status == "FAILED"
    assert "attempt 4 of retried fails" in end.error("retried")
    assert run.ran("retried") == 4
    answer = run.result()
    assert "attempt 4 of retried fails" in answer["raised"]["text"]


def test_backoff_grows_by_its_factor_up_to_its_maximum(flows: FlowsUnderTest) -> None:
    run = flows.start("backed-off", {"backed-off": {"fail_attempts": 2}})
    assert run.end().status == "COMPLETED"
    starts = [note["at"] for note in run.notes("backed-off", "starts")]
    waits = [after - before for before, after in itertools.pairwise(starts)]
    for waited, due in zip(waits, (1.5, 2.0), strict=True):  # 1.5, then 2.25 cut to 2
        assert due <= waited < due + 1.5, waits


def test_task_backing_off_is_neither_ended_nor_at_a_worker(flows: FlowsUnderTest) -> None:
    run = flows.start("slow-retry", {"slow-retry": {"error": "in a minute again"}})
    run.note("slow-retry")
    time.sleep(0.5)
    assert not run.is_done()
    assert run.ran("slow-retry") == 1
    flows.call(do="cancel", run_id=run.id)
    assert run.end().status == "CANCELLED"
    assert run.ran("slow-retry") == 1


def test_error_that_is_not_retryable_ends_the_task(flows: FlowsUnderTest) -> None:
    run = flows.start("final")
    end = run.end()
    assert end.status == "FAILED"
    assert "this is final" in end.error("final")
    assert run.ran("final") == 1


# ---- execution timeout


def test_execution_timeout_stops_the_attempt_and_is_retried(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("times-out", {"times-out": {"gate": gate}})
    stopped = run.note("times-out", "is told to stop")
    assert stopped["retry_count"] == 0
    assert 0.9 <= stopped["at"] - run.note("times-out")["at"] < 3.0
    flows.open(gate)
    end = run.end()
    assert end.output("times-out")["retry_count"] == 1


@of_the_engine
def test_execution_timeout_fails_when_no_retry_is_left(flows: FlowsUnderTest) -> None:
    run = flows.start("times-out", {"times-out": {"gate": flows.new_gate()}})
    end = run.end()
    assert end.status == "FAILED"
    assert end.error("times-out") == "Task exceeded timeout of 1s"
    assert run.ran("times-out") == 2
    answer = run.result()
    assert "Task exceeded timeout of 1s" in answer["raised"]["text"]


def test_execution_timeout_signals_a_thread(flows: FlowsUnderTest) -> None:
    run = flows.start("thread-times-out", group=flows.new_gate())
    assert run.note("thread-times-out", "sees the flag")["retry_count"] == 0
    assert run.end().output("thread-times-out") == {"retry_count": 1}


# ---- schedule timeout


def test_schedule_timeout_cancels_without_retry_and_without_on_failure(flows: FlowsUnderTest) -> None:
    run = flows.start("starved")
    end = run.end()
    assert end.status == "CANCELLED"
    assert end.statuses == {
        "start": "COMPLETED",
        "aside": "COMPLETED",
        "starved": "CANCELLED",
        "below": "CANCELLED",
        "rescue": "COMPLETED",
    }
    assert end.output("rescue") == {"skipped": True}
    assert run.ran("rescue") == run.ran("starved") == 0


@of_the_engine
def test_schedule_timeout_counts_from_the_queue_not_from_the_trigger(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("starved", {"start": {"gate": gate}})
    run.note("start")
    time.sleep(1.5)  # longer than the schedule timeout of the task below
    assert not run.is_done()
    flows.open(gate)
    began = time.monotonic()
    assert run.end().statuses["starved"] == "CANCELLED"
    assert 0.8 <= time.monotonic() - began < 4.0


# ---- refreshing


def test_refreshed_timeout_lets_the_task_go_on(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("refreshed", group=gate, count=2)
    run.note("refreshed", "has refreshed")
    time.sleep(2.5)  # longer than the timeout it began with
    assert run.notes("refreshed", "is told to stop") == []
    flows.open(gate)
    assert run.end().status == "COMPLETED"


@of_the_engine
def test_refreshing_adds_to_the_deadline_each_time(flows: FlowsUnderTest) -> None:
    run = flows.start("refreshed", group=flows.new_gate(), count=2)
    began = run.note("refreshed")["at"]
    stopped = run.note("refreshed", "is told to stop")["at"]
    assert 3.7 <= stopped - began < 6.0, stopped - began  # two seconds, and twice one more
    end = run.end()
    assert end.status == "FAILED"
    assert "Task exceeded timeout of" in end.error("refreshed")


# ---- cancellation


def test_cancel_stops_a_coroutine_and_is_not_retried(flows: FlowsUnderTest) -> None:
    run = flows.start("cancellable", {"cancellable": {"gate": flows.new_gate()}})
    run.note("cancellable")
    flows.call(do="cancel", run_id=run.id)
    run.note("cancellable", "is told to stop")
    end = run.end()
    assert end.statuses == {"cancellable": "CANCELLED"}
    assert end.error("cancellable") == ""
    assert run.ran("cancellable") == 1


def test_cancel_signals_a_thread(flows: FlowsUnderTest) -> None:
    run = flows.start("thread", group=flows.new_gate())
    run.note("thread")
    flows.call(do="cancel", run_id=run.id)
    run.note("thread", "sees the flag")
    end = run.end()
    assert end.statuses == {"thread": "CANCELLED"}
    time.sleep(0.3)  # its late failure arrives in this time, and changes nothing
    assert run.details() == end
    assert run.ran("thread") == 1


def test_cancel_is_over_when_the_call_returns(flows: FlowsUnderTest) -> None:
    run = flows.start("thread", group=flows.new_gate())
    run.note("thread")
    flows.call(do="cancel", run_id=run.id)
    assert run.is_done()


def test_cancel_of_a_queued_task(flows: FlowsUnderTest) -> None:
    run = flows.start("queued")
    assert not run.is_done()
    flows.call(do="cancel", run_id=run.id)
    assert run.end().statuses == {"queued": "CANCELLED"}
    assert run.ran("queued") == 0


def test_task_can_cancel_itself(flows: FlowsUnderTest) -> None:
    run = flows.start("cancels-itself")
    end = run.end()
    assert end.statuses == {"cancels-itself": "CANCELLED"}
    run.note("cancels-itself", "is told to stop")
    assert run.ran("cancels-itself") == 1


def test_task_can_cancel_itself_from_a_thread(flows: FlowsUnderTest) -> None:
    run = flows.start("cancels-itself-in-thread")
    end = run.end()
    assert end.statuses == {"cancels-itself-in-thread": "CANCELLED"}
    assert run.note("cancels-itself-in-thread", "has cancelled")["flag"] is True
    assert run.ran("cancels-itself-in-thread") == 1


@of_the_engine
def test_worker_serves_on_after_cancels_and_timeouts(flows: FlowsUnderTest) -> None:
    for _ in range(3):
        run = flows.start("cancellable", {"cancellable": {"gate": flows.new_gate()}})
        run.note("cancellable")
        flows.call(do="cancel", run_id=run.id)
    assert flows.run("retried")["output"]["value"] == 1
