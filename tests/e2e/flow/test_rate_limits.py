"""Rate limits: what may start in a window, what waits, what never can."""

import math

import pytest

from tests.compat.wire import unique
from tests.e2e.flow.looks import Note, all_started, cancel_all, in_order, reason, starts
from tests.e2e.runs.harness import FlowsUnderTest, Run, of_the_engine
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(120)
DELAY = 0.25
"""Seconds between the grant of a credit and the note of the start that it paid, at most."""


def put(flows: FlowsUnderTest, name: str, limit: int, duration: str = "HOUR") -> str:
    """Declares a static limit through the SDK; returns its key."""
    key = f"{name}-{flows.namespace}"
    flows.call(do="put_limit", key=key, limit=limit, duration=duration)
    return key


def assert_paced(notes: list[Note], limit: int, window: float) -> None:
    """No window had more starts than the limit, wherever the windows began.

    A time between two starts touches one window more than it holds whole ones.
    """
    times = [note["at"] for note in notes]
    for first, since in enumerate(times):
        for last in range(first, len(times)):
            windows = math.floor((times[last] - since + DELAY) / window) + 2
            assert last - first + 1 <= limit * windows, f"{last - first + 1} starts in {windows} windows"


def settled(flows: FlowsUnderTest, flow: str, **fields: object) -> None:
    """Another run of the same task, under a key of its own, has come and gone: what could start before it has."""
    assert flows.end(flow, group=unique("probe"), **fields).status == "COMPLETED"  # type: ignore[arg-type]


# ---- dynamic limits


def test_no_more_start_than_the_window_has_and_the_rest_wait(flows: FlowsUnderTest) -> None:
    tag, group = unique("tag"), unique("group")
    runs = [flows.start("metered", tag=tag, group=group) for _ in range(5)]
    assert [run.end().status for run in runs[:3]] == ["COMPLETED"] * 3
    settled(flows, "metered")  # and what waits holds nobody up
    assert sorted(in_order(starts(flows, tag), runs)) == [0, 1, 2]
    assert [run.details().status for run in runs[3:]] == ["QUEUED"] * 2
    cancel_all(flows, runs[3:])


def test_windows_follow_each_other_and_none_has_more_than_its_limit(flows: FlowsUnderTest) -> None:
    tag, group = unique("tag"), unique("group")
    runs = flows.start_many("by-the-second", [flows.plan(tag=tag, group=group) for _ in range(14)])
    notes = all_started(flows, tag, 14)
    assert_paced(notes, 4, 1.0)
    assert notes[-1]["at"] - notes[0]["at"] >= 2.0  # 14 of 4 a window: the fourth window has begun
    assert notes[-1]["at"] - notes[0]["at"] < 6.0  # and no window was left unused
    assert [run.end().status for run in runs] == ["COMPLETED"] * 14


def test_units_and_limit_come_from_the_input(flows: FlowsUnderTest) -> None:
    """JSON numbers are doubles, and are taken as whole numbers."""
    tag, group = unique("tag"), unique("group")
    spent = flows.start("by-input", tag=tag, group=group, count=6, depth=10)
    assert spent.end().status == "COMPLETED"
    too_many = flows.start("by-input", tag=tag, group=group, count=5, depth=10)
    fits = flows.start("by-input", tag=tag, group=group, count=4, depth=10)
    assert fits.end().status == "COMPLETED"
    settled(flows, "by-input", count=1, depth=1)
    assert in_order(starts(flows, tag), [spent, too_many, fits]) == [0, 2]
    cancel_all(flows, [too_many])


def test_key_and_limit_are_expressions_over_metadata_and_input(flows: FlowsUnderTest) -> None:
    tag = unique("tag")

    def start(user: str, count: int) -> Run:
        options = {"additional_metadata": {"user": f"{user}-{tag}"}}
        return flows.start("by-metadata", tag=tag, count=count, options=options)

    ann = [start("ann", 2) for _ in range(3)]
    bob = [start("bob", 1) for _ in range(2)]
    for run in (*ann[:2], bob[0]):
        assert run.end().status == "COMPLETED"
    assert flows.run("free")["output"]["task"] == "free"
    assert sorted(in_order(starts(flows, tag), [*ann, *bob])) == [0, 1, 3]
    cancel_all(flows, [ann[2], bob[1]])


def test_lower_limit_of_a_later_task_is_in_force_for_all(flows: FlowsUnderTest) -> None:
    tag, group = unique("tag"), unique("group")
    assert flows.end("by-input", tag=tag, group=group, count=2, depth=10).status == "COMPLETED"
    lowered = flows.start("by-input", tag=tag, group=group, count=3, depth=3)  # 8 left, and now 3 at most
    assert lowered.end().status == "COMPLETED"
    waits = flows.start("by-input", tag=tag, group=group, count=1, depth=3)
    settled(flows, "by-input", count=1, depth=1)
    assert waits.id not in {note["run"] for note in starts(flows, tag)}
    cancel_all(flows, [waits])


def test_retry_spends_again(flows: FlowsUnderTest) -> None:
    run = flows.start("metered", {"metered": {"error": "again"}}, group=unique("group"))
    run.note("metered", count=3)
    settled(flows, "metered")
    assert run.ran("metered") == 3  # of six attempts
    cancel_all(flows, [run])


def test_what_was_cancelled_before_it_started_has_spent_nothing(flows: FlowsUnderTest) -> None:
    tag, group = unique("tag"), unique("group")
    with flows.paused():
        gone = [flows.start("metered", tag=tag, group=group) for _ in range(3)]
        cancel_all(flows, gone)
        runs = [flows.start("metered", tag=tag, group=group) for _ in range(3)]
    assert [run.end().status for run in runs] == ["COMPLETED"] * 3


# ---- several limits


@pytest.mark.parametrize("flow", ["plenty-and-scarce", "scarce-then-plenty"])
def test_several_limits_are_spent_all_or_none(flows: FlowsUnderTest, flow: str) -> None:
    tag, group = unique("tag"), unique("group")
    first = flows.start(flow, tag=tag, group=group)  # takes one of ten, and the one there is
    assert first.end().status == "COMPLETED"
    second = flows.start(flow, tag=tag, group=group)
    settled(flows, flow)
    assert (
        flows.end("plenty", group=group, count=9).status == "COMPLETED"
    )  # the second has taken none of them
    assert in_order(starts(flows, tag), [first, second]) == [0]
    cancel_all(flows, [second])


def test_opposite_orders_of_two_limits_do_not_block_each_other(flows: FlowsUnderTest) -> None:
    tag = unique("tag")
    groups = [unique("group") for _ in range(20)]
    for flow in ("plenty-and-scarce", "scarce-then-plenty"):
        flows.start_many(flow, [flows.plan(tag=tag, group=group) for group in groups])
    notes = all_started(flows, tag, 20)
    assert sorted(note["group"] for note in notes) == sorted(groups)  # one of the two, for each group


# ---- static limits


def test_static_limit_is_shared_by_the_workflows_that_use_its_key(flows: FlowsUnderTest) -> None:
    tag = unique("tag")
    put(flows, "api", 3)
    runs = [flows.start(flow, tag=tag) for flow in ("calls-api", "calls-api-too", "calls-api")]
    assert [run.end().status for run in runs] == ["COMPLETED"] * 3
    more = [flows.start(flow, tag=tag) for flow in ("calls-api", "calls-api-too")]
    settled(flows, "metered")
    assert len(starts(flows, tag)) == 3
    cancel_all(flows, more)


def test_static_limit_that_is_missing_is_waited_for(flows: FlowsUnderTest) -> None:
    """Through hatchet-sdk it arrives with a limit expression of -1: use the limit, do not define it."""
    run = flows.start("waits-for-limit")
    settled(flows, "metered")
    assert (run.ran("waits-for-limit"), run.details().status) == (0, "QUEUED")
    put(flows, "absent", 5)
    assert run.end().status == "COMPLETED"


@of_the_engine
def test_wait_for_a_limit_ends_with_the_schedule_timeout_and_names_the_key(flows: FlowsUnderTest) -> None:
    run = flows.start("impatient-caller")
    assert run.end().statuses == {"impatient-caller": "CANCELLED"}
    assert f"never-put-{flows.namespace}" in reason(flows, run.id)


@of_the_engine
def test_static_limit_by_the_second_is_never_exceeded(flows: FlowsUnderTest) -> None:
    tag = unique("tag")
    put(flows, "paced", 5, "SECOND")
    runs = flows.start_many("paced", [flows.plan(tag=tag) for _ in range(15)])
    notes = all_started(flows, tag, 15)
    assert_paced(notes, 5, 1.0)
    assert notes[-1]["at"] - notes[0]["at"] < 5.0
    assert runs[-1].end().status == "COMPLETED"


def test_lowering_a_limit_fails_waiters_that_it_makes_impossible(flows: FlowsUnderTest) -> None:
    key = put(flows, "lowered", 6)
    assert flows.end("lowered", count=5).status == "COMPLETED"
    waits, small = flows.start("lowered", count=4), flows.start("lowered", count=2)
    settled(flows, "metered")
    assert (waits.ran("lowered"), small.ran("lowered")) == (0, 0)
    put(flows, "lowered", 3)
    text = waits.end().error("lowered")
    for word in (key, "4", "3"):
        assert word in text
    settled(flows, "metered")
    assert small.details().status == "QUEUED"  # it fits, and waits for the next window
    cancel_all(flows, [small])


# ---- what can never start


def test_units_above_the_limit_fail_at_once(flows: FlowsUnderTest) -> None:
    group = unique("group")
    run = flows.start("by-input", group=group, count=11, depth=10)
    text = run.end().error("by-input")
    for word in (group, "11", "10"):
        assert word in text
    assert run.ran("by-input") == 0
    assert flows.end("by-input", group=group, count=10, depth=10).status == "COMPLETED"  # it spent nothing


@pytest.mark.parametrize(
    ("flow", "words"),
    [
        ("no-such-user", ("input.do.user", "user")),
        ("units-of-text", ("input.group", "int", "string")),
        ("limit-of-text", ("input.group", "int", "string")),
    ],
)
def test_expression_without_a_usable_value_fails_the_task(
    flows: FlowsUnderTest, flow: str, words: tuple[str, ...]
) -> None:
    run = flows.start(flow, group=unique("group"))
    text = run.end().error(flow)
    for word in words:
        assert word in text
    assert run.ran(flow) == 0


def test_negative_units_fail_the_task(flows: FlowsUnderTest) -> None:
    run = flows.start("by-input", group=unique("group"), count=-2, depth=10)
    text = run.end().error("by-input")
    assert "-2" in text
    assert "input.count" in text


# ---- runs of several tasks


@of_the_engine
def test_workflow_run_id_in_a_key_is_the_run_and_not_the_task(flows: FlowsUnderTest) -> None:
    """Two of the three tasks of a run may start: they share one key."""
    run = flows.start("metered-run")
    end = run.end()
    assert end.statuses == {"top": "COMPLETED", "low": "COMPLETED", "last": "CANCELLED"}
    assert run.ran("last") == 0
    other = flows.start("metered-run")
    other.note("low", "ends")  # another run is another key
    wait_until(other.is_done, what="the other run")
