"""Idempotency of triggers: by time and by status, singly and in bulk."""

import time

import pytest

from tests.e2e.runs.harness import FlowsUnderTest, of_the_engine
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(120)


def test_second_run_with_the_same_key_is_refused_and_names_the_first(flows: FlowsUnderTest) -> None:
    key = flows.new_gate()
    first = flows.start("once-for-a-time", group=key)
    refused = flows.refused("once-for-a-time", group=key)
    assert refused["raised"] == "IdempotencyCollisionError"
    assert refused["existing"] == first.id
    assert flows.start("once-for-a-time", group=flows.new_gate()).end().status == "COMPLETED"


def test_claim_by_time_outlives_its_run_and_then_expires(flows: FlowsUnderTest) -> None:
    key = flows.new_gate()
    began = time.monotonic()
    first = flows.start("once-for-a-time", group=key)
    assert first.end().status == "COMPLETED"
    assert flows.refused("once-for-a-time", group=key)["existing"] == first.id

    def again() -> str | None:
        answer = flows.call(do="start", flow="once-for-a-time", plan=flows.plan(group=key))
        return answer.get("run_id")

    second = wait_until(again, what="the claim of three seconds to expire", timeout=15, interval=0.1)
    assert second != first.id
    assert 2.9 <= time.monotonic() - began < 6.0


@pytest.mark.parametrize("outcome", ["COMPLETED", "FAILED", "CANCELLED"])
def test_claim_by_status_ends_with_its_run(flows: FlowsUnderTest, outcome: str) -> None:
    key, gate = flows.new_gate(), flows.new_gate()
    step = {"gate": gate, **({"error": "no"} if outcome == "FAILED" else {})}
    first = flows.start("once-while-it-runs", {"once-while-it-runs": step}, group=key)
    first.note("once-while-it-runs")
    assert flows.refused("once-while-it-runs", group=key)["existing"] == first.id
    if outcome == "CANCELLED":
        flows.call(do="cancel", run_id=first.id)
    else:
        flows.open(gate)
    assert first.end().status == outcome
    second = flows.start("once-while-it-runs", group=key)
    assert second.id != first.id
    assert second.end().status == "COMPLETED"


def test_claim_by_status_is_held_over_a_retry(flows: FlowsUnderTest) -> None:
    key, gate = flows.new_gate(), flows.new_gate()
    first = flows.start(
        "once-while-it-runs", {"once-while-it-runs": {"fail_attempts": 1, "gate": gate}}, group=key
    )
    flows.open(gate)
    first.note("once-while-it-runs", count=2)
    if not first.is_done():  # else it was over before we could ask
        answer = flows.call(do="start", flow="once-while-it-runs", plan=flows.plan(group=key))
        assert "raised" in answer or first.is_done()
    assert first.end().status == "COMPLETED"


@of_the_engine
def test_claim_by_status_ends_with_its_time_at_the_latest(flows: FlowsUnderTest) -> None:
    key, gate = flows.new_gate(), flows.new_gate()
    first = flows.start("once-briefly", {"once-briefly": {"gate": gate}}, group=key)
    assert flows.refused("once-briefly", group=key)["existing"] == first.id

    def again() -> str | None:
        answer = flows.call(do="start", flow="once-briefly", plan=flows.plan(group=key))
        return answer.get("run_id")

    assert wait_until(again, what="the claim of two seconds to expire", timeout=15, interval=0.1) != first.id
    flows.open(gate)


def test_claims_hold_across_workflows(flows: FlowsUnderTest) -> None:
    key, gate = flows.new_gate(), flows.new_gate()
    first = flows.start("once-while-it-runs", {"once-while-it-runs": {"gate": gate}}, group=key)
    assert flows.refused("also-once-while-it-runs", group=key)["existing"] == first.id
    flows.open(gate)


def test_claim_of_a_graph_ends_with_the_run(flows: FlowsUnderTest) -> None:
    key, gate = flows.new_gate(), flows.new_gate()
    first = flows.start("once-as-graph", {"first": {"gate": gate}}, group=key)
    assert flows.refused("once-as-graph", group=key)["existing"] == first.id
    flows.open(gate)
    assert first.end().status == "COMPLETED"
    assert flows.start("once-as-graph", group=key).end().status == "COMPLETED"


def test_key_may_come_from_the_metadata(flows: FlowsUnderTest) -> None:
    request = {"additional_metadata": {"request": flows.new_gate()}}
    first = flows.start("once-by-metadata", options=request)
    answer = flows.call(do="start", flow="once-by-metadata", plan=flows.plan(), **request)
    assert answer["raised"]["existing"] == first.id


def test_bulk_creates_the_others_and_names_the_collisions(flows: FlowsUnderTest) -> None:
    taken, free, twice = (flows.new_gate() for _ in range(3))
    first = flows.start("once-for-a-time", group=taken)
    plans = [flows.plan(group=key) for key in (taken, free, twice, twice)]
    answer = flows.call(do="start_many", flow="once-for-a-time", plans=plans)["raised"]
    assert answer["raised"] == "BulkTriggerIdempotencyCollisionError"
    assert len(answer["created"]) == 2  # the free one and one of the two
    assert len(answer["collisions"]) == 2
    existing = {collision["existing"] for collision in answer["collisions"]}
    assert first.id in existing
    assert existing - {first.id} < set(answer["created"])
    for run_id in answer["created"]:
        assert flows.call(do="result", flow="once-for-a-time", run_id=run_id)["output"]["value"] == 1


def test_collision_leaves_no_run(flows: FlowsUnderTest) -> None:
    key = flows.new_gate()
    plan = flows.plan(group=key)
    flows.call(do="start", flow="once-for-a-time", plan=plan)
    wait_until(lambda: flows.notes(plan["tag"]), what="the first run to start", timeout=10)
    other = flows.plan(group=key)
    assert "raised" in flows.call(do="start", flow="once-for-a-time", plan=other)
    time.sleep(0.3)  # a run that should not exist would start in this time
    assert flows.notes(other["tag"]) == []
