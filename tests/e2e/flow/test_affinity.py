"""Worker labels: which worker a task must have, and which it would rather have. `east` has much memory, `west` has little."""

from typing import Any

import pytest

from tests.compat.wire import unique
from tests.e2e.flow.conftest import EAST
from tests.e2e.flow.looks import all_started, cancel_all, count_by_worker, reason, workers_of
from tests.e2e.runs.harness import FlowsUnderTest, Run, of_the_engine

pytestmark = pytest.mark.timeout(120)
Label = dict[str, Any]


def label(key: str, value: str | int, comparator: str = "EQUAL", **more: Any) -> Label:
    return {"key": key, "value": value, "comparator": comparator, **more}


def must(key: str, value: str | int, comparator: str = "EQUAL") -> Label:
    return label(key, value, comparator, required=True)


def where(routed: FlowsUnderTest, flow: str, **options: Any) -> str:
    """The worker that runs one run of a flow."""
    run = routed.start(flow, options=options)
    assert run.end().status == "COMPLETED"
    return str(run.note(flow)["worker"])


def always(routed: FlowsUnderTest, flow: str, count: int = 6, **options: Any) -> set[str]:
    """The workers that run several at once: the choice is no accident of turns."""
    tag = unique("tag")
    runs = [routed.start(flow, tag=tag, options=options) for _ in range(count)]
    assert [run.end().status for run in runs] == ["COMPLETED"] * count
    return {note["worker"] for note in all_started(routed, tag, count)}


# ---- required


@pytest.mark.parametrize(
    ("comparator", "worker"),
    [
        ("EQUAL", "east"),
        ("NOT_EQUAL", "west"),
        ("GREATER_THAN", "east"),
        ("GREATER_THAN_OR_EQUAL", "east"),
        ("LESS_THAN", "west"),
        ("LESS_THAN_OR_EQUAL", "west"),
    ],
)
def test_required_number_is_compared(routed: FlowsUnderTest, comparator: str, worker: str) -> None:
    assert always(routed, f"memory-{comparator}", 4) == {worker}


@pytest.mark.parametrize(("comparator", "worker"), [("EQUAL", "west"), ("NOT_EQUAL", "east")])
def test_required_text_is_compared(routed: FlowsUnderTest, comparator: str, worker: str) -> None:
    """Declared as a mapping."""
    assert always(routed, f"model-{comparator}", 4) == {worker}


def test_without_labels_equal_workers_share_in_turn(routed: FlowsUnderTest) -> None:
    tag, gate = unique("tag"), routed.new_gate()
    do = {"anywhere": {"gate": gate}}
    runs = routed.start_many("anywhere", [routed.plan(do, tag=tag) for _ in range(12)])
    counts = count_by_worker(all_started(routed, tag, 12))
    assert counts == {"east": 6, "west": 6}
    routed.open(gate)
    assert [run.end().status for run in runs] == ["COMPLETED"] * 12


@of_the_engine
@pytest.mark.parametrize(
    ("flow", "words"),
    [
        ("nowhere", ("region", "moon")),
        ("without-the-label", ("colour",)),  # absent is not satisfied, whatever the comparator
        ("text-is-no-number", ("region",)),  # ordering is for numbers
    ],
)
def test_unmet_requirement_waits_until_the_schedule_timeout_and_is_named(
    routed: FlowsUnderTest, flow: str, words: tuple[str, ...]
) -> None:
    run = routed.start(flow)
    assert run.end().statuses == {flow: "CANCELLED"}
    assert run.ran(flow) == 0
    text = reason(routed, run.id)
    for word in words:
        assert word in text


def test_required_worker_that_is_paused_is_waited_for(routed: FlowsUnderTest) -> None:
    with routed.paused("east"):
        run = routed.start("wants-east")
        assert where(routed, "anywhere") == "west"
        assert run.ran("wants-east") == 0
    assert run.end().status == "COMPLETED"
    assert run.note("wants-east")["worker"] == "east"


def test_required_worker_without_a_free_slot_is_waited_for(routed: FlowsUnderTest) -> None:
    tag, gate = unique("tag"), routed.new_gate()
    filling = [
        routed.start("wants-east", {"wants-east": {"gate": gate}}, tag=tag) for _ in range(10)
    ]  # all its slots
    all_started(routed, tag, 10)
    run = routed.start("wants-east")
    assert where(routed, "anywhere") == "west"  # and nobody behind it is held up
    assert run.ran("wants-east") == 0
    routed.open(gate)
    assert {one.end().status for one in (*filling, run)} == {"COMPLETED"}
    assert run.note("wants-east")["worker"] == "east"


# ---- preferred


@pytest.mark.parametrize(
    ("flow", "worker"),
    [
        ("heavier", "west"),
        ("sum-of-weights", "east"),
        ("required-beats-weight", "east"),
        ("avoids", "west"),
        ("default-weight", "west"),  # 100, against 99
    ],
)
def test_largest_sum_of_weights_is_chosen(routed: FlowsUnderTest, flow: str, worker: str) -> None:
    assert always(routed, flow, 4) == {worker}


def test_preference_gives_way_when_that_worker_cannot(routed: FlowsUnderTest) -> None:
    with routed.paused("west"):
        assert where(routed, "heavier") == "east"
    assert where(routed, "heavier") == "west"


def test_preference_gives_way_when_that_worker_is_full(routed: FlowsUnderTest) -> None:
    tag, gate = unique("tag"), routed.new_gate()
    runs = [routed.start("heavier", {"heavier": {"gate": gate}}, tag=tag) for _ in range(12)]
    counts = count_by_worker(all_started(routed, tag, 12))
    assert counts == {"west": 10, "east": 2}
    routed.open(gate)
    assert {run.end().status for run in runs} == {"COMPLETED"}


# ---- at the trigger


def test_labels_of_a_trigger_choose_the_worker(routed: FlowsUnderTest) -> None:
    assert always(routed, "anywhere", 4, labels=[must("region", "west")]) == {"west"}
    assert always(routed, "anywhere", 4, labels=[must("memory", 300, "GREATER_THAN")]) == {"east"}


def test_labels_of_a_trigger_may_be_a_mapping(routed: FlowsUnderTest) -> None:
    by_key = {"region": {"value": "west", "required": True}}
    assert always(routed, "anywhere", 4, labels_by_key=by_key) == {"west"}


def test_labels_of_a_trigger_replace_those_of_the_task(routed: FlowsUnderTest) -> None:
    assert where(routed, "wants-east", labels=[must("memory", 256)]) == "west"
    assert where(routed, "memory-LESS_THAN", labels=[must("region", "east")]) == "east"
    assert where(routed, "wants-east") == "east"  # for that run alone


def test_weights_of_a_trigger_are_summed(routed: FlowsUnderTest) -> None:
    labels = [
        label("region", "east", weight=30),
        label("memory", 256, weight=20),
        label("model", "small", weight=20),
    ]
    assert always(routed, "anywhere", 4, labels=labels) == {"west"}


# ---- at run time


@pytest.mark.parametrize("loads", ["loads", "aio-loads"])
def test_label_set_by_a_task_counts_for_the_next_dispatch(routed: FlowsUnderTest, loads: str) -> None:
    name = unique("weights")
    waits = routed.start("anywhere", options={"labels": [must(name, 7)]})
    assert where(routed, "anywhere") in {"east", "west"}
    assert waits.ran("anywhere") == 0
    loader = routed.start(loads, options={"labels": [must("region", "west")]}, group=name, count=7)
    end = loader.end()
    assert end.status == "COMPLETED", end.error(loads)
    labels = end.output(loads)["labels"]
    assert labels[name] == 7
    assert labels["region"] == "west"  # nothing is removed
    assert waits.end().status == "COMPLETED"
    assert waits.note("anywhere")["worker"] == "west"
    routed.start(loads, options={"labels": [must("region", "west")]}, group=name, count=8).end()
    late = routed.start("anywhere", options={"labels": [must(name, 7)]})
    assert where(routed, "anywhere", labels=[must(name, 8)]) == "west"
    assert late.ran("anywhere") == 0  # the label has another value now
    cancel_all(routed, [late])


def test_labels_of_a_worker_are_shown(routed: FlowsUnderTest) -> None:
    (row,) = routed.workers("east")
    shown = {entry["key"]: entry["value"] for entry in row["labels"]}
    assert {key: shown[key] for key in EAST} in (EAST, {key: str(value) for key, value in EAST.items()})


def test_run_of_several_tasks_takes_the_labels_of_its_trigger_for_each(routed: FlowsUnderTest) -> None:
    """Without a sticky strategy; see `test_sticky.py` for those with one."""
    runs: list[Run] = [
        routed.start("plain-graph", options={"labels": [must("region", "west")]}) for _ in range(3)
    ]
    assert [run.end().status for run in runs] == ["COMPLETED"] * 3
    assert [workers_of(run) for run in runs] == [{"one": "west", "two": "west"}] * 3
