"""`wait_for`, `skip_if` and `cancel_if` with sleeps, events and parents, alone and in groups."""

import time

import pytest

from tests.e2e.runs.harness import SKIPPED, FlowsUnderTest, Run, of_the_engine
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(120)

SETTLED = 0.7
"""Seconds after which something that must not happen would have happened: a few times what a dispatch takes."""


def assert_still_waiting(run: Run, task: str) -> None:
    """The task does not start, and the run does not end, for a while."""
    deadline = time.monotonic() + SETTLED
    while time.monotonic() < deadline:
        assert run.ran(task) == 0
        assert not run.is_done()
        time.sleep(0.05)  # between two looks: nothing may happen


# ---- sleeps


def test_sleep_begins_when_the_parents_have_ended(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("sleeps", {"start": {"gate": gate}})
    run.note("start")
    time.sleep(1.0)  # the parent's own time must not count
    flows.open(gate)
    end = run.end()
    assert end.status == "COMPLETED"
    waited = run.note("slept")["at"] - run.note("start", "ends")["at"]
    assert 2.0 <= waited < 4.0, waited
    assert run.note("slept", "sees triggers")["triggers"]["sleep:2s"] == {"sleep_duration": "2s"}
    assert end.output("after")["parents"] == {"slept": 1}


def test_single_task_sleeps_before_it_starts(flows: FlowsUnderTest) -> None:
    began = time.time()
    run = flows.start("lone-sleep")
    assert run.end().status == "COMPLETED"
    waited = run.note("only")["at"] - began
    assert 2.0 <= waited < 4.0, waited


# ---- events


def test_event_starts_the_task_and_reaches_it(flows: FlowsUnderTest) -> None:
    run = flows.start("event")
    run.note("start", "ends")
    assert_still_waiting(run, "waiting")
    flows.push("event", {"amount": 3})
    assert run.end().status == "COMPLETED"
    assert run.note("waiting", "sees triggers")["triggers"]["event"] == {"amount": 3}


def test_event_during_the_parents_counts(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("event-early", {"start": {"gate": gate}})
    run.note("start")
    flows.push("event-early", {"early": True})
    assert run.ran("waiting") == 0
    flows.open(gate)
    assert run.end().status == "COMPLETED"
    assert run.note("waiting", "sees triggers")["triggers"]["event-early"] == {"early": True}


@of_the_engine
def test_event_before_the_run_does_not_count(flows: FlowsUnderTest) -> None:
    flows.push("event-old", {"number": 1})
    run = flows.start("event-old")
    run.note("start", "ends")
    assert_still_waiting(run, "waiting")
    flows.push("event-old", {"number": 2})
    assert run.end().status == "COMPLETED"
    assert run.note("waiting", "sees triggers")["triggers"]["event-old"] == {"number": 2}


def test_one_event_wakes_every_run_that_waits_for_it_once(flows: FlowsUnderTest) -> None:
    runs = flows.start_many("event-twice", [flows.plan() for _ in range(5)])
    for run in runs:
        run.note("start", "ends")
    flows.push("event-twice")
    flows.push("event-twice")
    assert [run.end().status for run in runs] == ["COMPLETED"] * 5
    assert [run.ran("waiting") for run in runs] == [1] * 5


def test_only_an_event_that_satisfies_the_expression_counts(flows: FlowsUnderTest) -> None:
    run = flows.start("event-filtered")
    run.note("start", "ends")
    flows.push("event-filtered", {"amount": 1, "kind": "order"})
    flows.push("event-filtered", {"amount": 9, "kind": "refund"})
    flows.push("event-filtered-not", {"amount": 9, "kind": "order"})
    assert_still_waiting(run, "waiting")
    flows.push("event-filtered", {"amount": 6, "kind": "order"})
    assert run.end().status == "COMPLETED"
    assert run.note("waiting", "sees triggers")["triggers"]["event-filtered"]["amount"] == 6


def test_only_an_event_of_the_scope_counts(flows: FlowsUnderTest) -> None:
    run = flows.start("event-scoped")
    run.note("start", "ends")
    flows.push("event-scoped", {"whose": "another"}, scope="another")
    flows.push("event-scoped", {"whose": "nobody's"})
    assert_still_waiting(run, "waiting")
    flows.push("event-scoped", {"whose": "mine"}, scope="mine")
    assert run.end().status == "COMPLETED"
    assert run.note("waiting", "sees triggers")["triggers"]["event-scoped"] == {"whose": "mine"}


@of_the_engine
def test_task_without_parents_waits_too(flows: FlowsUnderTest) -> None:
    run = flows.start("event-at-root")
    assert_still_waiting(run, "root")
    flows.push("event-at-root")
    end = run.end()
    assert end.status == "COMPLETED"
    assert end.output("after")["parents"] == {"root": 1}


def test_single_task_waits_for_its_event(flows: FlowsUnderTest) -> None:
    run = flows.start("lone-event")
    assert_still_waiting(run, "only")
    flows.push("lone-event")
    assert run.end().status == "COMPLETED"


def test_expression_that_fails_on_an_event_does_not_match_it(flows: FlowsUnderTest) -> None:
    run = flows.start("event-expression-fails")
    run.note("start", "ends")
    flows.push("event-expression-fails", {"shallow": 1})
    assert_still_waiting(run, "waiting")
    flows.push("event-expression-fails", {"deep": {"er": 1}})
    assert run.end().status == "COMPLETED"


# ---- skipping and cancelling by events


def test_event_skips_a_task_that_waits(flows: FlowsUnderTest) -> None:
    run = flows.start("skips-on-event")
    run.note("aside", "ends")
    flows.push("skips-on-event")
    end = run.end()
    assert end.status == "COMPLETED"
    assert end.output("chosen") == SKIPPED
    assert end.output("below") == SKIPPED  # all its parents were skipped
    assert end.output("join")["parents"] == {"start": 1, "chosen": "skipped"}
    assert run.ran("chosen") == run.ran("below") == 0


def test_event_cancels_a_task_that_waits(flows: FlowsUnderTest) -> None:
    run = flows.start("cancels-on-event")
    run.note("aside", "ends")
    flows.push("cancels-on-event")
    end = run.end()
    assert end.status == "CANCELLED"
    assert end.statuses == {
        "start": "COMPLETED",
        "aside": "COMPLETED",
        "chosen": "CANCELLED",
        "below": "CANCELLED",
        "join": "CANCELLED",
    }
    assert run.ran("chosen") == run.ran("below") == run.ran("join") == 0


@pytest.mark.parametrize(("kind", "status"), [("skip", "COMPLETED"), ("cancel", "CANCELLED")])
def test_event_skips_or_cancels_a_single_task(flows: FlowsUnderTest, kind: str, status: str) -> None:
    run = flows.start(f"lone-{kind}")
    assert_still_waiting(run, "only")
    flows.push(f"lone-{kind}")
    end = run.end()
    assert end.statuses == {"only": status}
    assert end.output("only") == (SKIPPED if kind == "skip" else None)
    assert run.ran("only") == 0


@pytest.mark.parametrize("kind", ["skip", "cancel"])
def test_task_that_waits_for_nothing_starts_at_once(flows: FlowsUnderTest, kind: str) -> None:
    run = flows.start(f"{kind}-only")
    end = run.end()
    assert end.statuses == {"start": "COMPLETED", "chosen": "COMPLETED"}
    assert run.ran("chosen") == 1


@pytest.mark.parametrize(("kind", "status"), [("skip", "COMPLETED"), ("cancel", "CANCELLED")])
def test_task_that_waits_for_nothing_heeds_what_came_already(
    flows: FlowsUnderTest, kind: str, status: str
) -> None:
    gate = flows.new_gate()
    run = flows.start(f"{kind}-only", {"start": {"gate": gate}})
    run.note("start")
    flows.push(f"{kind}-only")
    flows.open(gate)
    end = run.end()
    assert end.statuses["chosen"] == status
    assert run.ran("chosen") == 0


# ---- parents


@pytest.mark.parametrize(("value", "taken", "other"), [(80, "right", "left"), (50, "left", "right")])
def test_one_of_two_branches_runs(flows: FlowsUnderTest, value: int, taken: str, other: str) -> None:
    run = flows.start("branches", {"start": {"value": value}})
    end = run.end()
    assert end.status == "COMPLETED"
    assert (run.ran(taken), run.ran(f"{taken}-leaf")) == (1, 1)
    assert (run.ran(other), run.ran(f"{other}-leaf")) == (0, 0)
    assert end.output(other) == end.output(f"{other}-leaf") == SKIPPED
    assert end.output("join")["parents"] == {
        taken: 1,
        f"{taken}-leaf": 1,
        other: "skipped",
        f"{other}-leaf": "skipped",
    }


def test_result_of_a_run_with_skipped_tasks(flows: FlowsUnderTest) -> None:
    answer = flows.run("branches", {"start": {"value": 80}})
    assert answer["output"]["join"]["parents"]["left"] == "skipped"
    assert answer["output"]["right"]["value"] == 1


def test_output_of_a_skipped_parent_cannot_be_had(flows: FlowsUnderTest) -> None:
    end = flows.end("branches", {"start": {"value": 80}, "join": {"asks_for": "left"}})
    assert end.output("join")["asked"].startswith("ValueError")
    assert "left" in end.output("join")["asked"]


def test_parent_that_says_it_was_skipped_counts_as_skipped(flows: FlowsUnderTest) -> None:
    run = flows.start("branches", {"start": {"value": 80}, "right": {"output": SKIPPED}})
    end = run.end()
    assert run.ran("right") == 1
    assert end.output("right-leaf") == SKIPPED
    assert end.output("join") == SKIPPED  # then every parent of it was


@pytest.mark.parametrize(("value", "status"), [(80, "CANCELLED"), (50, "COMPLETED")])
def test_parents_output_cancels(flows: FlowsUnderTest, value: int, status: str) -> None:
    run = flows.start("cancels-by-parent", {"start": {"value": value}})
    end = run.end()
    assert end.status == status
    assert (end.statuses["chosen"], end.statuses["below"], end.statuses["aside"]) == (
        status,
        status,
        "COMPLETED",
    )
    assert run.ran("chosen") == (status == "COMPLETED")


def test_failed_parent_cancels_whatever_the_condition(flows: FlowsUnderTest) -> None:
    for flow in ("cancels-by-parent", "waits-for-parent", "branches"):
        run = flows.start(flow, {"start": {"error": "no output"}})
        end = run.end()
        assert end.status == "FAILED"
        assert {status for name, status in end.statuses.items() if name != "start"} == {"CANCELLED"}, flow


def test_wait_for_a_parents_output(flows: FlowsUnderTest) -> None:
    end = flows.end("waits-for-parent", {"start": {"value": 80}})
    assert end.status == "COMPLETED"
    assert end.output("below")["parents"] == {"chosen": 1}


def test_wait_that_nothing_can_satisfy_any_more_cancels(flows: FlowsUnderTest) -> None:
    run = flows.start("waits-for-parent", {"start": {"value": 3}})
    end = run.end(timeout=15)
    assert end.status == "CANCELLED"
    assert end.statuses == {"start": "COMPLETED", "chosen": "CANCELLED", "below": "CANCELLED"}
    assert run.ran("chosen") == 0


def test_skip_beats_cancel_beats_start(flows: FlowsUnderTest) -> None:
    end = flows.end("all-three", {"start": {"value": 80}})
    assert end.statuses["chosen"] == "COMPLETED"
    assert end.output("chosen") == SKIPPED
    end = flows.end("cancel-and-wait", {"start": {"value": 80}})
    assert end.statuses["chosen"] == "CANCELLED"


def test_declared_skip_on_one_parent_removes_the_default_of_the_other(flows: FlowsUnderTest) -> None:
    run = flows.start("one-skip-declared", {"one": {"output": SKIPPED}, "two": {"output": SKIPPED}})
    assert run.end().status == "COMPLETED"
    assert run.ran("chosen") == 1


def test_skip_does_not_wait_for_other_parents(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("one-skip-declared", {"one": {"value": 80}, "two": {"gate": gate}})
    run.note("sees", "ends")  # which waits for the skipped task, while the other parent still runs
    assert run.notes("two", "ends") == []
    flows.open(gate)
    end = run.end()
    assert end.output("chosen") == SKIPPED
    assert end.output("sees")["parents"] == {"one": 80, "chosen": "skipped"}


# ---- groups


def test_either_an_event_or_a_sleep_the_event_first(flows: FlowsUnderTest) -> None:
    run = flows.start("either-by-event")
    run.note("start", "ends")
    assert_still_waiting(run, "chosen")
    flows.push("either-by-event", {"first": True})
    assert run.end().status == "COMPLETED"
    triggers = run.note("chosen", "sees triggers")["triggers"]
    assert triggers["either-by-event"] == {"first": True}
    assert not any(key.startswith("sleep") for key in triggers)


def test_either_an_event_or_a_sleep_the_sleep_first(flows: FlowsUnderTest) -> None:
    run = flows.start("either-by-sleep")
    assert run.end().status == "COMPLETED"
    waited = run.note("chosen")["at"] - run.note("start", "ends")["at"]
    assert 1.0 <= waited < 3.0, waited
    assert "either-by-sleep" not in run.note("chosen", "sees triggers")["triggers"]


def test_parents_output_satisfies_both_groups_at_once(flows: FlowsUnderTest) -> None:
    run = flows.start("both-groups-long", {"start": {"value": 80}})
    assert run.end(timeout=15).status == "COMPLETED"
    assert run.note("chosen")["at"] - run.note("start", "ends")["at"] < 2.0


@of_the_engine
def test_without_it_both_the_sleep_and_the_event_are_needed(flows: FlowsUnderTest) -> None:
    by_event_last = flows.start("both-groups", {"start": {"value": 3}})
    by_sleep_last = flows.start("both-groups-long", {"start": {"value": 3}})
    slept_from = by_event_last.note("start", "ends")["at"]
    by_sleep_last.note("start", "ends")
    flows.push("both-groups-long")
    wait_until(lambda: time.time() > slept_from + 2.5, what="the sleep of two seconds to be over", timeout=5)
    assert_still_waiting(by_event_last, "chosen")
    assert_still_waiting(by_sleep_last, "chosen")
    flows.push("both-groups")
    assert by_event_last.end().status == "COMPLETED"
    flows.call(do="cancel", run_id=by_sleep_last.id)
    assert by_sleep_last.end().status == "CANCELLED"


def test_event_first_and_the_sleep_second(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("both-groups", {"start": {"value": 3, "gate": gate}})
    run.note("start")
    flows.push("both-groups")
    flows.open(gate)
    assert run.end().status == "COMPLETED"
    waited = run.note("chosen")["at"] - run.note("start", "ends")["at"]
    assert 2.0 <= waited < 4.0, waited


# ---- mistakes that only show when the data comes


@pytest.mark.parametrize("field", ["wait-for", "skip-if", "cancel-if"])
def test_expression_that_fails_fails_the_task_and_says_which(flows: FlowsUnderTest, field: str) -> None:
    run = flows.start(f"fails-in-{field}")
    end = run.end(timeout=15)
    assert end.status == "FAILED"
    assert end.statuses["chosen"] == "FAILED"
    error = end.error("chosen")
    assert "output.missing.deeper > 1" in error
    assert "chosen" in error
    assert "start" in error
    assert run.ran("chosen") == 0
    answer = run.result()
    assert "output.missing.deeper > 1" in answer["raised"]["text"]


# ---- cancel and replay while waiting


def test_waiting_run_can_be_cancelled(flows: FlowsUnderTest) -> None:
    run = flows.start("event")
    run.reported("start")
    flows.call(do="cancel", run_id=run.id)
    end = run.end()
    assert end.status == "CANCELLED"
    assert end.statuses == {"start": "COMPLETED", "waiting": "CANCELLED"}
    flows.push("event")
    assert run.details() == end
    assert run.ran("waiting") == 0


@of_the_engine
def test_replayed_run_waits_again(flows: FlowsUnderTest) -> None:
    run = flows.start("event")
    run.note("start", "ends")
    flows.push("event", {"number": 1})
    assert run.end().status == "COMPLETED"
    flows.call(do="replay", run_id=run.id)
    run.note("start", "ends", count=2)
    flows.push("event", {"number": 2})
    assert run.end().status == "COMPLETED"
    assert run.ran("waiting") == 2
