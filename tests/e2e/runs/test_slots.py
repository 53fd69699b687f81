"""One slot: what holds it, what gives it back, and what an error says when those above hold it for ever."""

from collections.abc import Iterator

import pytest

from tests.e2e.runs.conftest import SDKS, serving
from tests.e2e.runs.harness import FlowsUnderTest, Run, of_the_engine
from tests.processes import Server

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", params=SDKS)
def flows(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlowsUnderTest]:
    with serving(request.param, "narrow", server, tmp_path_factory.mktemp("narrow"), 1) as one:
        yield one


def test_waiting_parent_holds_its_slot_and_the_child_says_so(flows: FlowsUnderTest) -> None:
    run = flows.start("greedy")
    spawned = run.note("greedy", "has spawned")["ids"][0]
    end = Run(flows, spawned, run.tag, "starving").end()
    assert end.statuses == {"starving": "CANCELLED"}
    text = flows.rest.get(f"S/tasks/{spawned}")["errorMessage"].lower()
    assert "ancestor" in text
    assert "slot" in text
    parent = run.end().output("greedy")
    if flows.is_ours:
        assert parent["raised"] == "RunCancelledError"
        assert "ancestor" in parent["text"].lower()
    assert run.ran("starving") == 0


def test_parent_that_releases_its_slot_while_it_waits_is_not_stuck(flows: FlowsUnderTest) -> None:
    if not flows.is_ours:
        pytest.skip("a setting of our SDK")
    answer = flows.run("generous", count=3)
    assert answer["output"] == {"children": 3, "again": "small"}


@of_the_engine
def test_waiting_is_released_only_on_request(flows: FlowsUnderTest) -> None:
    """The slot stays with the parent: nothing else runs while it waits."""
    run = flows.start("greedy")
    run.note("greedy", "has spawned")
    other = flows.start("small")
    run.end()
    assert other.end().status == "COMPLETED"
    finished = run.note("greedy", "has spawned")["at"]
    assert other.note("small")["at"] - finished >= 1.5  # after the child's schedule timeout of two seconds


@pytest.mark.parametrize("flow", ["releases", "releases-in-thread"])
def test_released_slot_takes_another_task_and_the_first_goes_on(flows: FlowsUnderTest, flow: str) -> None:
    gate = flows.new_gate()
    run = flows.start(flow, group=gate)
    run.note(flow, "has released")
    other = flows.start("small")
    assert other.end().status == "COMPLETED"
    assert not run.is_done()
    flows.open(gate)
    assert run.end().output(flow) == {"released": True}


@of_the_engine
def test_released_task_still_times_out(flows: FlowsUnderTest) -> None:
    run = flows.start("releases-and-times-out", group=flows.new_gate())
    end = run.end()
    assert end.error("releases-and-times-out") == "Task exceeded timeout of 2s"


def test_released_task_can_be_cancelled_and_hears_of_it(flows: FlowsUnderTest) -> None:
    run = flows.start("releases", group=flows.new_gate())
    run.note("releases", "has released")
    flows.call(do="cancel", run_id=run.id)
    run.note("releases", "is told to stop")
    assert run.end().status == "CANCELLED"


def test_slot_is_whole_after_a_released_task_has_ended(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("releases", group=gate)
    run.note("releases", "has released")
    flows.open(gate)
    run.end()
    held = flows.new_gate()
    first = flows.start("small", {"small": {"gate": held}})
    first.note("small")
    second = flows.start("small")
    assert not second.is_done()
    assert second.ran("small") == 0  # one slot, not two
    flows.open(held)
    assert second.end().status == "COMPLETED"
    assert second.note("small")["at"] >= first.note("small", "ends")["at"]


def test_sleeping_and_waiting_tasks_hold_no_slot(flows: FlowsUnderTest) -> None:
    run = flows.start("sleeper")
    run.note("start", "ends")
    for _ in range(3):
        assert flows.run("small")["output"]["task"] == "small"
    assert run.ran("slept") == run.ran("waiting") == 0
    flows.push("sleeper:go")
    assert run.end().status == "COMPLETED"
