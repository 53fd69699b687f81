"""Batch tasks: when a batch starts, who is in it, and how its members end."""

import time

import pytest

from tests.e2e.runs.harness import FlowsUnderTest, of_the_engine
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(120)


def test_batch_starts_when_it_is_full(flows: FlowsUnderTest) -> None:
    runs = flows.start_many("by-size", [flows.plan(group=f"member {index}") for index in range(3)])
    outputs = [run.end(timeout=20).output("by-size") for run in runs]
    assert [output["group"] for output in outputs] == ["member 0", "member 1", "member 2"]
    assert [output["member"] for output in outputs] == [run.id for run in runs]
    assert outputs[0]["companions"] == sorted(run.id for run in runs)


def test_full_batches_leave_the_rest_waiting(flows: FlowsUnderTest) -> None:
    runs = flows.start_many("by-size", [flows.plan(group=str(index)) for index in range(7)])
    ends = [run.end(timeout=20).output("by-size") for run in runs[:6]]
    assert {len(end["companions"]) for end in ends} == {3}
    assert not runs[6].is_done()
    rest = flows.start_many("by-size", [flows.plan(group="more") for _ in range(2)])
    assert len(runs[6].end(timeout=20).output("by-size")["companions"]) == 3
    assert [run.end().status for run in rest] == ["COMPLETED"] * 2


def test_batch_starts_when_its_interval_is_over(flows: FlowsUnderTest) -> None:
    runs = flows.start_many("by-interval", [flows.plan(group=str(index)) for index in range(4)])
    began = time.monotonic()
    outputs = [run.end(timeout=20).output("by-interval") for run in runs]
    assert time.monotonic() - began < 6.0
    assert {len(output["companions"]) for output in outputs} == {4}


def test_batches_are_made_within_a_group(flows: FlowsUnderTest) -> None:
    one, other = flows.new_gate(), flows.new_gate()
    runs = flows.start_many("by-group", [flows.plan(group=group) for group in (one, other, one, other)])
    outputs = [run.end(timeout=20).output("by-group") for run in runs]
    assert outputs[0]["companions"] == outputs[2]["companions"] == sorted((runs[0].id, runs[2].id))
    assert outputs[1]["companions"] == outputs[3]["companions"] == sorted((runs[1].id, runs[3].id))


@of_the_engine
def test_group_runs_no_more_batches_than_it_may(flows: FlowsUnderTest) -> None:
    group, gate = flows.new_gate(), flows.new_gate()
    do = {"one-at-a-time": {"gate": gate}}
    runs = flows.start_many("one-at-a-time", [flows.plan(do, group=group) for _ in range(4)])

    def started() -> list[dict[str, object]]:
        return [note for run in runs for note in run.notes("one-at-a-time", "starts")]

    wait_until(started, what="the first batch to start", timeout=20)
    time.sleep(1.5)  # longer than the interval: a second batch would start in this time
    assert len(started()) == 1
    flows.open(gate)
    assert [run.end(timeout=20).status for run in runs] == ["COMPLETED"] * 4
    assert len(started()) == 2


def test_members_spend_from_rate_limits_before_they_join_their_batch(flows: FlowsUnderTest) -> None:
    """Each run goes through its limits on its own, and only then to its batch (behaviour-core 6.15)."""
    group = flows.new_gate()
    runs = flows.start_many("metered-batch", [flows.plan(group=group) for _ in range(7)])
    wait_until(lambda: sum(run.is_done() for run in runs) >= 4, what="four members with units", timeout=20)
    other = flows.start_many("metered-batch", [flows.plan(group=flows.new_gate()) for _ in range(1)])
    assert other[0].end(timeout=20).status == "COMPLETED"  # those who wait hold nobody up
    ended = [run for run in runs if run.is_done()]
    assert len(ended) == 4
    assert {run.end().status for run in ended} == {"COMPLETED"}
    assert {len(run.end().output("metered-batch")["companions"]) for run in ended} == {2}


def test_broadcast_output_reaches_every_member(flows: FlowsUnderTest) -> None:
    answer = flows.call(
        do="run_many",
        flow="broadcast",
        plans=[flows.plan(group=group) for group in "abc"],
        return_exceptions=False,
    )
    assert answer["results"] == [{"members": 3, "groups": ["a", "b", "c"]}] * 3


def test_failing_batch_fails_every_member_with_its_error(flows: FlowsUnderTest) -> None:
    runs = flows.start_many("fails-as-one", [flows.plan() for _ in range(2)])
    for run in runs:
        assert "the batch of 2 fails" in run.end(timeout=20).error("fails-as-one")


def test_batch_that_takes_too_long_fails_and_says_so(flows: FlowsUnderTest) -> None:
    runs = flows.start_many("batch-times-out", [flows.plan() for _ in range(2)])
    for run in runs:
        assert "batch timeout" in run.end(timeout=20).error("batch-times-out")


def test_member_that_waits_for_its_batch_can_be_cancelled(flows: FlowsUnderTest) -> None:
    group = flows.new_gate()
    first = flows.start("by-group", group=group)
    flows.call(do="cancel", run_id=first.id)
    assert first.end().status == "CANCELLED"
    pair = flows.start_many("by-group", [flows.plan(group=group) for _ in range(2)])
    outputs = [run.end(timeout=20).output("by-group") for run in pair]
    assert outputs[0]["companions"] == sorted(run.id for run in pair)


def test_finished_member_can_be_replayed(flows: FlowsUnderTest) -> None:
    group = flows.new_gate()
    runs = flows.start_many("by-group", [flows.plan(group=group) for _ in range(2)])
    for run in runs:
        run.end(timeout=20)
    flows.call(do="bulk", action="replay", ids=[run.id for run in runs])
    assert [run.end(timeout=20).status for run in runs] == ["COMPLETED"] * 2
