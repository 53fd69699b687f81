"""Runs that tasks spawn: found again by a retried parent, waited for, known to each other, and left alone by a cancel."""

import pytest

from tests.e2e.runs.harness import FlowsUnderTest, Run

pytestmark = pytest.mark.timeout(180)


def child(flows: FlowsUnderTest, run_id: str) -> Run:
    return Run(flows, run_id, "", "child")


# ---- spawning, and spawning again


def test_bulk_children_run_and_answer_in_order(flows: FlowsUnderTest) -> None:
    run = flows.start("by-index", count=25)
    output = run.end().output("by-index")
    assert output["tasks"] == ["child"] * 25
    assert len(set(output["ids"])) == 25


def test_retried_parent_finds_its_children_by_index(flows: FlowsUnderTest) -> None:
    run = flows.start("by-index", {"parent": {"fail_attempts": 2}}, count=4)
    assert run.end().status == "COMPLETED"
    first, second, third = (note["ids"] for note in run.notes("parent", "has spawned"))
    assert second[:4] == first
    assert third[:5] == second
    assert len({*first, *second, *third}) == 6  # each attempt asked for one more
    assert run.ran("child") == 6


def test_retried_parent_finds_its_children_by_key(flows: FlowsUnderTest) -> None:
    run = flows.start("by-key", {"parent": {"fail_attempts": 2}}, count=5)
    assert run.end().status == "COMPLETED"
    first, second, third = (note["ids"] for note in run.notes("parent", "has spawned"))
    assert first == second == third  # although the second attempt asked in another order
    for run_id in first.values():
        child(flows, run_id).end()
    assert run.ran("child") == 5


def test_single_spawns_are_found_again_too(flows: FlowsUnderTest) -> None:
    run = flows.start("one-by-one", {"parent": {"fail_attempts": 1}})
    output = run.end().output("one-by-one")
    assert (output["awaited"]["task"], output["not_awaited"]) == ("child", "child")
    first, second = (note["ids"] for note in run.notes("parent", "has spawned"))
    assert first == second
    assert run.ran("child") == 2


def test_replayed_parent_finds_its_children(flows: FlowsUnderTest) -> None:
    run = flows.start("by-key", count=3)
    assert run.end().status == "COMPLETED"
    for run_id in run.note("parent", "has spawned")["ids"].values():
        child(flows, run_id).end()
    flows.call(do="replay", run_id=run.id)
    assert run.end().status == "COMPLETED"
    first, second = (note["ids"] for note in run.notes("parent", "has spawned"))
    assert first == second
    assert run.ran("child") == 3


def test_children_of_two_parents_are_different(flows: FlowsUnderTest) -> None:
    runs = flows.start_many("by-key", [flows.plan(count=2) for _ in range(2)])
    ids = [set(run.end().output("by-key")["ids"].values()) for run in runs]
    assert not ids[0] & ids[1]


def test_blocking_calls_from_a_thread(flows: FlowsUnderTest) -> None:
    answer = flows.run("from-a-thread")
    assert answer["output"] == {"one": "child", "many": ["child"] * 3}


def test_children_may_be_graphs(flows: FlowsUnderTest) -> None:
    answer = flows.run("spawns-graphs", count=8)
    assert answer["output"] == {"seen": list(range(8))}


# ---- knowing each other


def test_child_knows_its_parent_and_inherits_its_metadata(flows: FlowsUnderTest) -> None:
    options = {"additional_metadata": {"from": "parent", "kept": "by the child"}}
    run = flows.start("has-child", options=options)
    output = run.end().output("has-child")
    told = output["child"]
    assert told["parent"] == output["task_run"]
    metadata = told["metadata"]
    assert (metadata["from"], metadata["kept"], metadata["own"]) == ("child", "by the child", "yes")
    assert metadata["hatchet__parent_workflow_run_id"] == output["run"]
    assert metadata["hatchet__parent_step_run_id"] == output["task_run"]


def test_child_of_a_task_in_a_graph_knows_that_task(flows: FlowsUnderTest) -> None:
    run = flows.start("has-child-in-graph")
    output = run.end().output("spawner")
    assert output["run"] == run.id
    assert output["task_run"] != run.id
    assert output["child"]["parent"] == output["task_run"]
    assert output["child"]["metadata"]["hatchet__parent_workflow_run_id"] == run.id


# ---- failing, and being cancelled


def test_failing_child_raises_in_its_parent_and_can_be_caught(flows: FlowsUnderTest) -> None:
    answer = flows.run("careful")
    assert "the child says no" in answer["output"]["caught"]
    assert answer["output"]["failed"] == [False, True, False]


def test_uncaught_failure_of_a_child_fails_the_parent(flows: FlowsUnderTest) -> None:
    answer = flows.run("waits-for-child", {"child": {"error": "the child is broken"}})
    assert "the child is broken" in answer["raised"]["text"]


def test_cancelled_parent_leaves_its_children_running(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("waits-for-child", {"child": {"gate": gate}})
    spawned = child(flows, run.note("parent", "has spawned")["ids"][0])
    run.note("child")
    flows.call(do="cancel", run_id=run.id)
    run.note("parent", "is told to stop")
    assert run.end().status == "CANCELLED"
    assert not spawned.is_done()
    flows.open(gate)
    assert spawned.end().status == "COMPLETED"
    assert run.notes("child", "is told to stop") == []


def test_replayed_child_runs_alone(flows: FlowsUnderTest) -> None:
    run = flows.start("by-key", count=2)
    ids = list(run.end().output("by-key")["ids"].values())
    for run_id in ids:
        child(flows, run_id).end()
    flows.call(do="replay", run_id=ids[0])
    assert child(flows, ids[0]).end().output("child")["retry_count"] == 1
    assert child(flows, ids[1]).end().output("child")["retry_count"] == 0
    assert len(run.notes("parent", "has spawned")) == 1


# ---- many


@pytest.mark.parametrize("width", [200, pytest.param(1_000, marks=pytest.mark.slow)])
def test_three_levels_of_many_tasks(flows: FlowsUnderTest, width: int) -> None:
    answer = flows.call(do="run", flow="levels", plan=flows.plan(count=width, depth=3), timeout=170)
    assert answer["output"] == {"sums": [index + 2 for index in range(width)]}


# ---- return_exceptions and partial failures from outside of a task


def test_run_many_keeps_failures_in_their_places(flows: FlowsUnderTest) -> None:
    plans = [flows.plan({"child": {"error": f"woe {index}"}} if index % 2 else {}) for index in range(6)]
    answer = flows.call(do="run_many", flow="child", plans=plans, return_exceptions=True)
    for index, result in enumerate(answer["results"]):
        if index % 2:
            assert f"woe {index}" in result["text"]
        else:
            assert result["task"] == "child"


def test_run_many_raises_a_failure_when_not_asked_to_return_it(flows: FlowsUnderTest) -> None:
    plans = [flows.plan(), flows.plan({"child": {"error": "the only woe"}}), flows.plan()]
    answer = flows.call(do="run_many", flow="child", plans=plans, return_exceptions=False)
    assert "the only woe" in answer["raised"]["text"]
