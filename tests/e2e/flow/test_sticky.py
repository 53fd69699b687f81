"""Sticky runs: tasks of a run, and children, on the worker where the run began."""

import pytest

from tests.compat.wire import unique
from tests.e2e.flow.looks import all_started, reason, workers_of
from tests.e2e.runs.harness import FlowsUnderTest, Run, of_the_engine

pytestmark = pytest.mark.timeout(120)


def other(worker: str) -> str:
    return {"east": "west", "west": "east"}[worker]


# ---- graphs


@pytest.mark.parametrize("flow", ["soft", "hard"])
def test_tasks_of_a_run_stay_on_one_worker(routed: FlowsUnderTest, flow: str) -> None:
    gate = routed.new_gate()
    do = {"one": {"gate": gate}}
    runs = routed.start_many(flow, [routed.plan(do) for _ in range(8)])
    for run in runs:
        run.note("one")
    routed.open(gate)
    assert [run.end().status for run in runs] == ["COMPLETED"] * 8
    places = [workers_of(run) for run in runs]
    assert all(len(set(place.values())) == 1 and len(place) == 3 for place in places), places
    assert {place["one"] for place in places} == {"east", "west"}  # and runs are spread


def test_soft_goes_elsewhere_when_the_worker_cannot(routed: FlowsUnderTest) -> None:
    gate = routed.new_gate()
    run = routed.start("soft", {"one": {"gate": gate}})
    home = str(run.note("one")["worker"])
    with routed.paused(home):
        routed.open(gate)
        assert run.end().status == "COMPLETED"
    assert workers_of(run) == {"one": home, "two": other(home), "three": other(home)}


def test_hard_waits_for_its_worker(routed: FlowsUnderTest) -> None:
    gate = routed.new_gate()
    run = routed.start("hard", {"one": {"gate": gate}})
    home = str(run.note("one")["worker"])
    with routed.paused(home):
        routed.open(gate)
        run.reported("one")
        beside = routed.start("anywhere")
        assert beside.end().status == "COMPLETED"
        assert beside.note("anywhere")["worker"] == other(home)
        assert run.ran("two") == 0
    assert run.end().status == "COMPLETED"
    assert set(workers_of(run).values()) == {home}


def test_hard_waits_for_a_slot_of_its_worker(routed: FlowsUnderTest) -> None:
    gate, full, tag = routed.new_gate(), routed.new_gate(), unique("tag")
    run = routed.start("hard", {"one": {"gate": gate}})
    home = str(run.note("one")["worker"])
    wanted = {"labels": [{"key": "region", "value": home, "required": True}]}
    filling = [
        routed.start("anywhere", {"anywhere": {"gate": full}}, tag=tag, options=wanted) for _ in range(10)
    ]
    all_started(routed, tag, 9)
    routed.open(gate)  # its slot goes to the tenth, which came first
    all_started(routed, tag, 10)
    run.reported("one")
    assert routed.start("anywhere").end().status == "COMPLETED"
    assert run.ran("two") == 0
    routed.open(full)
    assert run.end().status == "COMPLETED"
    assert set(workers_of(run).values()) == {home}
    assert {one.end().status for one in filling} == {"COMPLETED"}


@of_the_engine
def test_hard_ends_with_the_schedule_timeout_and_names_the_worker(routed: FlowsUnderTest) -> None:
    gate = routed.new_gate()
    run = routed.start("hard-short", {"one": {"gate": gate}})
    home = str(run.note("one")["worker"])
    with routed.paused(home):
        routed.open(gate)
        end = run.end()
    assert end.statuses == {"one": "COMPLETED", "two": "CANCELLED"}
    assert routed.worker_id(home) in reason(routed, end.tasks["two"].id)


def test_retry_stays_on_the_worker(routed: FlowsUnderTest) -> None:
    runs = [routed.start("hard", {"two": {"fail_attempts": 1}}) for _ in range(4)]
    assert [run.end().status for run in runs] == ["COMPLETED"] * 4
    for run in runs:
        assert run.ran("two") == 2
        assert len({note["worker"] for note in run.notes(what="starts")}) == 1


def test_all_tasks_of_a_run_share_the_worker_also_its_first_ones(routed: FlowsUnderTest) -> None:
    """The documents promise it for every task of the run, and show a run that begins with two."""
    gate = routed.new_gate()
    do = {"left": {"gate": gate}, "right": {"gate": gate}}
    runs = routed.start_many("hard-roots", [routed.plan(do) for _ in range(6)])
    for run in runs:
        run.note("left")
        run.note("right")
    routed.open(gate)
    assert [run.end().status for run in runs] == ["COMPLETED"] * 6
    places = [workers_of(run) for run in runs]
    assert all(len(set(place.values())) == 1 and len(place) == 3 for place in places), places


def test_labels_of_the_first_task_place_a_hard_run(routed: FlowsUnderTest) -> None:
    """As the documents recommend: the rest follows it."""
    runs = [routed.start("hard-placed") for _ in range(4)]
    assert [run.end().status for run in runs] == ["COMPLETED"] * 4
    assert [workers_of(run) for run in runs] == [{"one": "west", "two": "west"}] * 4


# ---- children


def children_of(routed: FlowsUnderTest, parent: Run) -> list[Run]:
    ids = parent.note("sticky-parent", "has spawned")["ids"]
    return [Run(routed, run_id, parent.tag, "child") for run_id in ids]


@pytest.mark.parametrize("child", ["soft-child", "hard-child"])
def test_sticky_children_run_where_their_parent_runs(routed: FlowsUnderTest, child: str) -> None:
    parents = [routed.start("sticky-parent", group=child, count=4) for _ in range(4)]
    for parent in parents:
        assert parent.end().output("sticky-parent") == {"children": 4}
        assert [one.end().status for one in children_of(routed, parent)] == ["COMPLETED"] * 4
        home = parent.note("sticky-parent")["worker"]
        assert [note["worker"] for note in parent.notes(child, "starts")] == [home] * 4


def test_soft_child_goes_elsewhere_and_hard_child_waits(routed: FlowsUnderTest) -> None:
    """The parent's worker has no slot left but for those that are there already."""
    full, gate, tag = routed.new_gate(), routed.new_gate(), unique("tag")
    east = {"labels": [{"key": "region", "value": "east", "required": True}]}
    filling = [
        routed.start("anywhere", {"anywhere": {"gate": full}}, tag=tag, options=east) for _ in range(9)
    ]
    all_started(routed, tag, 9)
    do = {"sticky-parent": {"gate": gate}}
    soft = routed.start("sticky-parent", do, group="soft-child", count=1, options=east)
    (child,) = children_of(routed, soft)
    assert child.end().status == "COMPLETED"
    assert [note["worker"] for note in soft.notes("soft-child", "starts")] == ["west"]
    routed.open(gate)
    soft.end()

    gate = routed.new_gate()
    hard = routed.start(
        "sticky-parent", {"sticky-parent": {"gate": gate}}, group="hard-child", count=1, options=east
    )
    (child,) = children_of(routed, hard)
    assert routed.start("anywhere").end().status == "COMPLETED"
    assert hard.ran("hard-child") == 0
    routed.open(gate)
    assert child.end().status == "COMPLETED"
    assert [note["worker"] for note in hard.notes("hard-child", "starts")] == ["east"]
    routed.open(full)
    assert {run.end().status for run in filling} == {"COMPLETED"}


def test_sticky_child_without_a_strategy(routed: FlowsUnderTest) -> None:
    """The documents promise an error at the spawn; ours raises it, an official client asks and is served by any worker."""
    parent = routed.start("sticky-parent", group="loose-child", count=2)
    output = parent.end().output("sticky-parent")
    if not routed.is_ours:
        assert output == {"children": 2}
        assert [one.end().status for one in children_of(routed, parent)] == ["COMPLETED"] * 2
        return
    assert output["raised"] == "InvalidInputError"
    for word in ("loose-child", "sticky", "StickyStrategy"):
        assert word in output["text"]
    assert parent.ran("loose-child") == 0


def test_sticky_child_that_the_workers_do_not_serve(routed: FlowsUnderTest) -> None:
    parent = routed.start("sticky-parent", group="stranger", count=1)
    if not routed.is_ours:
        text = str(parent.end().output("sticky-parent")["text"])
        assert "stranger" in text  # the engine does not know it
        return
    output = parent.end().output("sticky-parent")
    assert output["raised"] == "InvalidInputError"
    for word in ("stranger", "sticky", "worker"):
        assert word in output["text"]


def test_sticky_outside_of_a_task(routed: FlowsUnderTest) -> None:
    answer = routed.call(do="start", flow="soft-child", plan=routed.plan(), sticky=True)
    if routed.is_ours:
        assert "sticky" in answer["raised"]["text"]
        assert "parent" in answer["raised"]["text"]
    else:
        assert "run_id" in answer  # nobody to stick to: any worker


# ---- the worker of a trigger


def test_worker_asked_for_at_the_trigger(routed: FlowsUnderTest) -> None:
    """Sticky tasks obey it, others do not."""
    for name in ("east", "west"):
        options = {"desired_worker_id": routed.worker_id(name)}
        if not routed.is_ours:
            options["sticky"] = True  # an official client sends the id only then
        runs = [routed.start("hard-child", options=options) for _ in range(3)]
        assert [run.end().status for run in runs] == ["COMPLETED"] * 3
        assert [run.note("hard-child")["worker"] for run in runs] == [name] * 3
