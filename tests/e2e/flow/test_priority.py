"""Priority: within a workflow the higher goes first, equals in order; and what tasks of many slots take."""

import pytest

from tests.compat.wire import unique
from tests.e2e.flow.looks import all_started, in_order, most_at_once, reason
from tests.e2e.runs.harness import FlowsUnderTest, Run, of_the_engine
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(120)

MIXED = (1, 3, 2, 1, 3, 2, None)
BY_PRIORITY = [1, 4, 2, 5, 0, 3, 6]
"""Places in `MIXED`, as they are to start when the default is 1."""
URGENT_BY_DEFAULT = [1, 4, 6, 2, 5, 0, 3]
"""The same when the default is 3."""


def has(flows: FlowsUnderTest, flow: str) -> str:
    if flows.namespace.endswith("1375"):
        pytest.skip("slot_cost is a setting of newer clients")
    return flow


def start_all(flows: FlowsUnderTest, flow: str, tag: str) -> list[Run]:
    return [flows.start(flow, tag=tag, options={"priority": priority}) for priority in MIXED]


@pytest.mark.parametrize(
    ("flow", "expected"),
    [("whole", BY_PRIORITY), ("whole-urgent", URGENT_BY_DEFAULT)],
    ids=["default-1", "default-3"],
)
def test_queue_is_served_by_priority_and_equals_in_order(
    flows: FlowsUnderTest, flow: str, expected: list[int]
) -> None:
    tag = unique("tag")
    with flows.paused():
        runs = start_all(flows, has(flows, flow), tag)
    notes = all_started(flows, tag, len(runs))
    assert in_order(notes, runs) == expected
    default = 3 if flow == "whole-urgent" else 1
    assert [note["priority"] for note in notes] == [MIXED[place] or default for place in expected]
    assert [run.end().status for run in runs] == ["COMPLETED"] * len(runs)


@pytest.mark.parametrize(
    ("flow", "expected"),
    [("line", BY_PRIORITY), ("urgent-line", URGENT_BY_DEFAULT)],
    ids=["default-1", "default-3"],
)
def test_line_of_a_group_is_served_by_priority_and_equals_in_order(
    flows: FlowsUnderTest, flow: str, expected: list[int]
) -> None:
    tag, gate = unique("tag"), flows.new_gate()
    first = flows.start(flow, {flow: {"gate": gate}})
    first.note(flow)
    runs = start_all(flows, flow, tag)
    flows.open(gate)
    assert in_order(all_started(flows, tag, len(runs)), runs) == expected
    assert [run.end().status for run in (first, *runs)] == ["COMPLETED"] * (len(runs) + 1)


def test_what_runs_is_not_pushed_aside(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    low = flows.start(has(flows, "whole"), {"whole": {"gate": gate}}, options={"priority": 1})
    low.note("whole")
    high = flows.start("whole", options={"priority": 3})
    flows.open(gate)
    assert (low.end().status, high.end().status) == ("COMPLETED", "COMPLETED")
    assert (low.ran("whole"), high.ran("whole")) == (1, 1)
    assert high.note("whole")["at"] >= low.note("whole", "ends")["at"]


def test_retry_goes_before_everything_new_and_keeps_its_own_priority(flows: FlowsUnderTest) -> None:
    tag, gate = unique("tag"), flows.new_gate()
    do = {"whole": {"gate": gate, "fail_attempts": 1}}
    low = flows.start(has(flows, "whole"), do, tag=tag, options={"priority": 1})
    low.note("whole")
    full = flows.new_gate()
    do = {"whole": {"gate": full}}
    high = [flows.start("whole", do, tag=tag, options={"priority": 3}) for _ in range(3)]
    flows.open(gate)
    all_started(flows, tag, 2)
    path = f"S/tasks/{low.id}"
    wait_until(lambda: flows.rest.get(path)["retryCount"] == 1, what="the retry to be queued", timeout=10)
    flows.open(full)
    notes = all_started(flows, tag, 5)
    # The slots are free before the failure is committed: one may be faster than the retry, and no more.
    assert in_order(notes, [low, *high]) in ([0, 0, 1, 2, 3], [0, 1, 0, 2, 3])
    assert [note["priority"] for note in notes if note["run"] == low.id] == [1, 1]
    assert {run.end().status for run in (low, *high)} == {"COMPLETED"}


@pytest.mark.parametrize("priority", [0, 4, -1])
def test_priority_out_of_range_is_refused(flows: FlowsUnderTest, priority: int) -> None:
    answer = flows.call(do="start", flow="free", plan=flows.plan(), priority=priority)
    assert "priority" in answer["raised"]["text"]
    assert str(priority) in answer["raised"]["text"]


# ---- slots


def test_task_of_several_slots_takes_them_all_from_one_worker(flows: FlowsUnderTest) -> None:
    tag, gate = unique("tag"), flows.new_gate()
    flow = has(flows, "six-slots")
    heavy = [flows.start(flow, {flow: {"gate": gate}}, tag=tag) for _ in range(2)]
    all_started(flows, tag, 1)
    small = [flows.start("free", {"free": {"gate": gate}}, tag=tag) for _ in range(5)]
    all_started(flows, tag, 4, "free")
    # Six and four are ten: the second of six waits, and so does the fifth small one.
    assert len(all_started(flows, tag, 1, flow)) == 1
    assert len(all_started(flows, tag, 4, "free")) == 4
    flows.open(gate)
    assert {run.end().status for run in (*heavy, *small)} == {"COMPLETED"}
    assert most_at_once(note for note in flows.notes(tag) if note["task"] == flow) == 1


@of_the_engine
def test_task_of_more_slots_than_any_worker_has_waits_until_its_schedule_timeout(
    flows: FlowsUnderTest,
) -> None:
    run = flows.start(has(flows, "too-many-slots"))
    assert run.end().statuses == {"too-many-slots": "CANCELLED"}
    assert run.ran("too-many-slots") == 0
    text = reason(flows, run.id)
    assert "11" in text
    assert "slot" in text
