"""Groups are served in turn: small ones finish as if a large one were not there."""

import pytest

from tests.compat.wire import unique
from tests.e2e.flow.conftest import SLOTS
from tests.e2e.flow.looks import all_ended, all_started, most_at_once_by_group
from tests.e2e.runs.harness import FlowsUnderTest
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(180)


def sizes(flows: FlowsUnderTest) -> tuple[int, int, int]:
    """Runs of the large group, small groups, runs of each: an official worker takes 6 ms of CPU a task."""
    return (1_000, 50, 10) if flows.is_ours else (200, 20, 5)


@pytest.mark.parametrize("flow", ["in-turn", "in-turn-wide"], ids=["one-a-group", "more-than-slots"])
def test_small_groups_finish_as_if_the_large_one_were_not_there(flows: FlowsUnderTest, flow: str) -> None:
    large, groups, each = sizes(flows)
    tag = unique("tag")
    with flows.paused():
        plans = [flows.plan(tag=tag, group="large") for _ in range(large)]
        plans += [flows.plan(tag=tag, group=f"small-{index}") for _ in range(each) for index in range(groups)]
        runs = flows.start_many(flow, plans)

    def small_ends() -> int:
        return sum(note["what"] == "ends" and note["group"] != "large" for note in flows.notes(tag))

    wait_until(lambda: small_ends() == groups * each, what="the small groups", timeout=60, interval=0.1)
    flows.rest.post("T/tasks/cancel", {"externalIds": [run.id for run in runs[:large]]})
    notes = flows.notes(tag)
    order = [note["group"] for note in notes if note["what"] == "starts"]
    assert "large" in order
    last_small = max(place for place, group in enumerate(order) if group != "large")
    # In turn, the large group has one start for each start of a small one, and those under way at the moment.
    assert order[:last_small].count("large") <= each + SLOTS
    # And no small group waits for another: after half of all small starts, each has had about half of its own.
    small = [group for group in order if group != "large"]
    halfway = small[: len(small) // 2]
    counts = [halfway.count(f"small-{index}") for index in range(groups)]
    assert min(counts) >= each // 2 - 2
    assert max(counts) <= each // 2 + 2
    if flow == "in-turn":
        assert set(most_at_once_by_group(notes).values()) == {1}


def test_runs_of_one_group_keep_their_order_among_others(flows: FlowsUnderTest) -> None:
    tag = unique("tag")
    with flows.paused():
        plans = [flows.plan(tag=tag, group=f"g{index % 5}") for index in range(100)]
        runs = flows.start_many("in-turn", plans)
    all_ended(flows, tag, 100)
    places = {run.id: place for place, run in enumerate(runs)}
    for group in range(5):
        started = [
            places[note["run"]] for note in all_started(flows, tag, 100) if note["group"] == f"g{group}"
        ]
        assert started == list(range(group, 100, 5))


def test_many_keys_of_one_task_each_run_like_tasks_without_a_key(flows: FlowsUnderTest) -> None:
    count = 1_000 if flows.is_ours else 100
    seconds = {}
    for flow in ("free", "in-turn"):
        tag = unique("tag")
        plans = [flows.plan(tag=tag, group=f"{tag}-{index}") for index in range(count)]
        runs = flows.start_many(flow, plans)
        all_ended(flows, tag, count)
        assert runs[-1].end().status == "COMPLETED"
        notes = all_started(flows, tag, count)
        assert sorted(note["group"] for note in notes) == sorted(f"{tag}-{index}" for index in range(count))
        seconds[flow] = notes[-1]["at"] - notes[0]["at"]
    # A machine under test is noisy; a scan over all keys at each step would cost far more.
    assert seconds["in-turn"] <= 4 * seconds["free"] + 2


def test_group_that_comes_late_does_not_wait_for_the_line_before_it(flows: FlowsUnderTest) -> None:
    large = sizes(flows)[0] // 2
    tag = unique("tag")
    runs = flows.start_many("in-turn-wide", [flows.plan(tag=tag, group="large") for _ in range(large)])
    all_started(flows, tag, 5)
    late = flows.start("in-turn-wide", tag=tag, group="late")
    late.note("in-turn-wide")
    waiting_then = large - sum(note["group"] == "large" for note in all_started(flows, tag, 5))
    all_ended(flows, tag, large + 1, timeout=60)
    assert runs[-1].end().status == "COMPLETED"
    order = [note["group"] for note in all_started(flows, tag, large + 1)]
    assert order.index("late") < large - waiting_then + SLOTS + 2
    assert late.end().status == "COMPLETED"
