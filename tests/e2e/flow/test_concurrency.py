"""Concurrency groups: how many at once, who waits, who is cancelled, and what a place outlives."""

import pytest

from tests.compat.wire import unique
from tests.e2e.flow.looks import (
    all_ended,
    all_started,
    in_order,
    most_at_once,
    most_at_once_by_group,
    reason,
)
from tests.e2e.runs.harness import FlowsUnderTest, Run, of_the_engine

pytestmark = pytest.mark.timeout(120)


def gated(flows: FlowsUnderTest, flow: str, gate: str, task: str | None = None, **fields: object) -> Run:
    """A run whose task waits for the gate."""
    return flows.start(flow, {task or flow: {"gate": gate}}, **fields)  # type: ignore[arg-type]


# ---- places of single tasks


def test_group_of_one_runs_one_after_the_other_in_order(flows: FlowsUnderTest) -> None:
    tag, gate = unique("tag"), flows.new_gate()
    first = gated(flows, "in-turn", gate, tag=tag, group="a")
    first.note("in-turn")
    others = [flows.start("in-turn", tag=tag, group="a") for _ in range(4)]
    beside = flows.start("in-turn", tag=tag, group="b")
    assert beside.end().status == "COMPLETED"  # another group is not held up
    assert [run["run"] for run in first.notes(what="starts") if run["group"] == "a"] == [first.id]
    flows.open(gate)
    assert [run.end().status for run in others] == ["COMPLETED"] * 4
    notes = [note for note in flows.notes(tag) if note["group"] == "a"]
    assert most_at_once(notes) == 1
    ordered = in_order([note for note in notes if note["what"] == "starts"], [first, *others])
    assert ordered == [0, 1, 2, 3, 4]


def test_many_groups_keep_their_limits_under_load(flows: FlowsUnderTest) -> None:
    tag, gate = unique("tag"), flows.new_gate()
    do = {"in-turn": {"gate": gate}}
    plans = [flows.plan(do, tag=tag, group=f"g{index % 7}") for index in range(70)]
    flows.start_many("in-turn", plans)
    all_started(flows, tag, 7)  # three slots are left
    flows.open(gate)
    all_ended(flows, tag, 70)
    notes = flows.notes(tag)
    assert most_at_once_by_group(notes) == {f"g{index}": 1 for index in range(7)}
    assert most_at_once(notes) == 7


def test_number_is_a_limit_over_all_runs(flows: FlowsUnderTest) -> None:
    tag, gate = unique("tag"), flows.new_gate()
    runs = [gated(flows, "two-at-a-time", gate, tag=tag, group=f"group {index}") for index in range(4)]
    started = all_started(flows, tag, 2)
    assert in_order(started, runs) in ([0, 1], [1, 0])
    assert flows.run("free")["output"]["task"] == "free"  # the worker has slots left
    assert len(all_started(flows, tag, 2)) == 2
    flows.open(gate)
    assert [run.end().status for run in runs] == ["COMPLETED"] * 4
    assert most_at_once(flows.notes(tag)) == 2


def test_all_of_several_keys_must_have_a_place(flows: FlowsUnderTest) -> None:
    """Two runs of a team, one of an account."""
    tag, gate = unique("tag"), flows.new_gate()

    def start(team: str, account: str) -> Run:
        metadata = {"additional_metadata": {"account": f"{account}-{tag}"}}
        plan = {"tag": tag, "group": f"{team}-{tag}"}
        return gated(flows, "team-and-account", gate, options=metadata, **plan)

    held = [start("red", "a"), start("red", "b")]
    all_started(flows, tag, 2)
    same_team = start("red", "c")  # the team has two
    same_account = start("blue", "a")  # the account has one
    free = start("blue", "d")
    free.note("team-and-account")
    running = {note["run"] for note in all_started(flows, tag, 3)}
    assert running == {held[0].id, held[1].id, free.id}
    flows.open(gate)
    assert {run.end().status for run in (*held, same_team, same_account, free)} == {"COMPLETED"}
    notes = flows.notes(tag)
    most = most_at_once_by_group(notes)
    assert most[f"red-{tag}"] == 2
    assert most[f"blue-{tag}"] in (1, 2)


def test_key_of_the_runs_id_is_a_group_for_each_run(flows: FlowsUnderTest) -> None:
    tag, gate = unique("tag"), flows.new_gate()
    runs = [gated(flows, "by-run", gate, tag=tag) for _ in range(3)]
    assert len({note["run"] for note in all_started(flows, tag, 3)}) == 3
    flows.open(gate)
    assert [run.end().status for run in runs] == ["COMPLETED"] * 3


@of_the_engine
def test_wait_for_a_place_ends_with_the_schedule_timeout(flows: FlowsUnderTest) -> None:
    group, gate = unique("group"), flows.new_gate()
    first = gated(flows, "impatient", gate, group=group)
    first.note("impatient")
    second = flows.start("impatient", group=group)
    assert second.end().statuses == {"impatient": "CANCELLED"}
    assert second.ran("impatient") == 0
    assert group in reason(flows, second.id)  # the group that was full
    flows.open(gate)
    assert first.end().status == "COMPLETED"


def test_cancelled_waiter_leaves_the_line(flows: FlowsUnderTest) -> None:
    group, gate = unique("group"), flows.new_gate()
    first = gated(flows, "in-turn", gate, group=group)
    first.note("in-turn")
    gone, last = flows.start("in-turn", group=group), flows.start("in-turn", group=group)
    flows.call(do="cancel", run_id=gone.id)
    assert gone.end().status == "CANCELLED"
    flows.open(gate)
    assert last.end().status == "COMPLETED"
    assert gone.ran("in-turn") == 0


def test_cancelled_holder_gives_its_place_up(flows: FlowsUnderTest) -> None:
    group = unique("group")
    first = gated(flows, "in-turn", flows.new_gate(), group=group)
    first.note("in-turn")
    second = flows.start("in-turn", group=group)
    flows.call(do="cancel", run_id=first.id)
    assert second.end().status == "COMPLETED"
    assert first.end().status == "CANCELLED"


def test_failed_holder_gives_its_place_up(flows: FlowsUnderTest) -> None:
    group = unique("group")
    first = flows.start("in-turn", {"in-turn": {"error": "no"}}, group=group)
    second = flows.start("in-turn", group=group)
    assert second.end().status == "COMPLETED"
    assert first.end().status == "FAILED"


# ---- strategies that cancel


def test_newest_goes_on_and_what_is_in_progress_is_cancelled(flows: FlowsUnderTest) -> None:
    group, gate = unique("group"), flows.new_gate()
    first = gated(flows, "latest", gate, group=group)
    first.note("latest")
    beside = gated(flows, "latest", gate, group=unique("group"))
    beside.note("latest")
    second = gated(flows, "latest", gate, group=group)
    first.note("latest", "is told to stop")
    assert first.end().statuses == {"latest": "CANCELLED"}
    for word in (group, "input.group"):
        assert word in reason(flows, first.id)
    second.note("latest")
    assert not second.is_done()
    flows.open(gate)
    assert (second.end().status, beside.end().status) == ("COMPLETED", "COMPLETED")


def test_oldest_beyond_the_limit_are_cancelled(flows: FlowsUnderTest) -> None:
    group, gate = unique("group"), flows.new_gate()
    runs = []
    for _ in range(4):
        runs.append(gated(flows, "latest-two", gate, group=group))
        runs[-1].note("latest-two")
    assert [run.end().status for run in runs[:2]] == ["CANCELLED"] * 2
    assert [run.is_done() for run in runs[2:]] == [False, False]
    flows.open(gate)
    assert [run.end().status for run in runs[2:]] == ["COMPLETED"] * 2


def test_waiting_runs_are_cancelled_too_when_newer_come(flows: FlowsUnderTest) -> None:
    tag, group = unique("tag"), unique("group")
    with flows.paused():  # all of them wait for the worker
        runs = [flows.start("latest", tag=tag, group=group) for _ in range(3)]
        assert [run.end().status for run in runs[:2]] == ["CANCELLED"] * 2
    assert runs[2].end().status == "COMPLETED"
    assert in_order(all_started(flows, tag, 1), runs) == [2]


def test_newest_is_cancelled_and_what_is_in_progress_goes_on(flows: FlowsUnderTest) -> None:
    group, gate = unique("group"), flows.new_gate()
    first = gated(flows, "first", gate, group=group)
    first.note("first")
    second = flows.start("first", group=group)
    assert second.end().statuses == {"first": "CANCELLED"}
    assert second.ran("first") == 0
    for word in (group, "input.group"):
        assert word in reason(flows, second.id)
    beside = flows.start("first", group=unique("group"))
    assert beside.end().status == "COMPLETED"
    flows.open(gate)
    assert first.end().status == "COMPLETED"
    assert flows.end("first", group=group).status == "COMPLETED"  # the place is free again


def test_first_of_the_limit_keep_their_places(flows: FlowsUnderTest) -> None:
    group, gate = unique("group"), flows.new_gate()
    kept = [gated(flows, "first-two", gate, group=group) for _ in range(2)]
    dropped = [flows.start("first-two", group=group) for _ in range(2)]
    assert [run.end().status for run in dropped] == ["CANCELLED"] * 2
    flows.open(gate)
    assert [run.end().status for run in kept] == ["COMPLETED"] * 2


@pytest.mark.parametrize(("flow", "kept"), [("keeps-newest", 2), ("keeps-oldest", 0)])
def test_what_runs_goes_on_and_of_those_that_wait_one_is_kept(
    flows: FlowsUnderTest, flow: str, kept: int
) -> None:
    group, gate = unique("group"), flows.new_gate()
    first = gated(flows, of_newer(flows, flow), gate, group=group)
    first.note(flow)
    waiting = [flows.start(flow, group=group) for _ in range(3)]
    gone = [run for place, run in enumerate(waiting) if place != kept]
    assert [run.end().status for run in gone] == ["CANCELLED"] * 2
    assert [run.ran(flow) for run in gone] == [0, 0]
    assert not waiting[kept].is_done()
    flows.open(gate)
    assert (first.end().status, waiting[kept].end().status) == ("COMPLETED", "COMPLETED")


def of_newer(flows: FlowsUnderTest, flow: str) -> str:
    if flows.namespace.endswith("1375"):
        pytest.skip("a setting of newer clients")
    return flow


def test_limit_of_a_group_may_come_from_the_input(flows: FlowsUnderTest) -> None:
    tag, group, gate = unique("tag"), unique("group"), flows.new_gate()
    flow = of_newer(flows, "by-tier")
    runs = [gated(flows, flow, gate, tag=tag, group=group, count=2) for _ in range(4)]
    all_started(flows, tag, 3)
    assert flows.run("free")["output"]["task"] == "free"
    assert len(all_started(flows, tag, 3)) == 3
    flows.open(gate)
    assert [run.end().status for run in runs] == ["COMPLETED"] * 4
    assert most_at_once(flows.notes(tag)) == 3


def test_group_may_be_shared_by_workflows(flows: FlowsUnderTest) -> None:
    group, gate = unique("group"), flows.new_gate()
    first = gated(flows, of_newer(flows, "shares"), gate, group=group)
    first.note("shares")
    second = flows.start("shares-too", group=group)
    assert flows.end("shares-too", group=unique("group")).status == "COMPLETED"
    assert second.ran("shares-too") == 0
    flows.open(gate)
    assert (first.end().status, second.end().status) == ("COMPLETED", "COMPLETED")
    assert second.note("shares-too")["at"] >= first.note("shares", "ends")["at"]


# ---- places of runs, and of tasks within them


def test_place_of_a_run_is_shared_by_its_tasks_and_held_to_its_end(flows: FlowsUnderTest) -> None:
    group, gate = unique("group"), flows.new_gate()
    first = flows.start("graph", {"low": {"gate": gate}}, group=group)
    first.note("low")  # both of its later tasks run in one place
    first.note("aside", "ends")
    second = flows.start("graph", group=group)
    beside = flows.start("graph", group=unique("group"))
    assert beside.end().status == "COMPLETED"
    assert second.ran("top") == 0
    flows.open(gate)
    assert first.end().status == "COMPLETED"
    assert second.end().status == "COMPLETED"
    assert second.note("top")["at"] >= first.note("low", "ends")["at"]


@of_the_engine
def test_place_of_a_run_outlives_the_retries_of_its_tasks(flows: FlowsUnderTest) -> None:
    """`low` backs off for a second; the next run may not slip in."""
    group = unique("group")
    first = flows.start("graph", {"low": {"fail_attempts": 1}}, group=group)
    second = flows.start("graph", group=group)
    assert first.end().status == "COMPLETED"
    assert second.end().status == "COMPLETED"
    assert first.ran("low") == 2
    assert second.note("top")["at"] >= first.note("low", "ends")["at"]


def test_place_of_a_failed_run_is_passed_on_and_its_on_failure_task_needs_none(flows: FlowsUnderTest) -> None:
    group, gate = unique("group"), flows.new_gate()
    first = flows.start("graph", {"top": {"error": "no"}, "oops": {"gate": gate}}, group=group)
    first.note("oops")
    second = flows.start("graph", group=group)
    assert second.end().status == "COMPLETED"  # while `oops` of the first still runs
    assert not first.is_done()
    flows.open(gate)
    assert first.end().status == "FAILED"


def test_limit_of_one_task_leaves_the_others_of_the_run_alone(flows: FlowsUnderTest) -> None:
    tag, group, gate = unique("tag"), unique("group"), flows.new_gate()
    do = {"limited": {"gate": gate}}
    runs = [flows.start("half-limited", do, tag=tag, group=group) for _ in range(3)]
    all_started(flows, tag, 3, "unlimited")
    assert len(all_started(flows, tag, 1, "limited")) == 1
    flows.open(gate)
    assert [run.end().status for run in runs] == ["COMPLETED"] * 3
    assert most_at_once(note for note in flows.notes(tag) if note["task"] == "limited") == 1


def test_places_of_both_levels_are_needed(flows: FlowsUnderTest) -> None:
    """Two runs of a group at once, and one `narrow` at once over all of them."""
    tag, group, gate = unique("tag"), unique("group"), flows.new_gate()
    options = {"additional_metadata": {"account": unique("account")}}
    do = {"narrow": {"gate": gate}}
    runs = [flows.start("both-levels", do, tag=tag, group=group, options=options) for _ in range(3)]
    all_started(flows, tag, 2, "first")
    all_started(flows, tag, 1, "narrow")
    assert flows.run("free")["output"]["task"] == "free"
    assert len(all_started(flows, tag, 2, "first")) == 2  # the third run has no place yet
    assert len(all_started(flows, tag, 1, "narrow")) == 1
    flows.open(gate)
    assert [run.end().status for run in runs] == ["COMPLETED"] * 3
    assert most_at_once(note for note in flows.notes(tag) if note["task"] == "narrow") == 1


# ---- retries


def test_immediate_retry_keeps_its_place(flows: FlowsUnderTest) -> None:
    tag, group, gate = unique("tag"), unique("group"), flows.new_gate()
    flow = "retries-at-once"
    first = flows.start(flow, {flow: {"gate": gate, "fail_attempts": 2}}, tag=tag, group=group)
    first.note(flow)
    second = flows.start(flow, tag=tag, group=group)
    flows.open(gate)
    assert (first.end().status, second.end().status) == ("COMPLETED", "COMPLETED")
    assert in_order(all_started(flows, tag, 4), [first, second]) == [0, 0, 0, 1]


@of_the_engine
def test_back_off_gives_the_place_up(flows: FlowsUnderTest) -> None:
    tag, group, gate = unique("tag"), unique("group"), flows.new_gate()
    first = flows.start("backs-off", {"backs-off": {"gate": gate, "fail_attempts": 1}}, tag=tag, group=group)
    first.note("backs-off")
    second = flows.start("backs-off", tag=tag, group=group)
    flows.open(gate)
    assert (first.end().status, second.end().status) == ("COMPLETED", "COMPLETED")
    assert in_order(all_started(flows, tag, 3), [first, second]) == [0, 1, 0]


# ---- expressions that give no key


def test_expression_that_cannot_be_evaluated_fails_the_task_at_once(flows: FlowsUnderTest) -> None:
    run = flows.start("no-such-key")
    text = run.end().error("no-such-key")
    assert "input.do.nobody" in text
    assert "nobody" in text.replace("input.do.nobody", "")  # the cause names the missing key
    assert run.ran("no-such-key") == 0


def test_key_that_is_no_text_fails_the_task_naming_both_types(flows: FlowsUnderTest) -> None:
    run = flows.start("number-key", count=3)
    text = run.end().error("number-key")
    assert "input.count" in text
    assert "string" in text
    assert "double" in text or "number" in text
    assert run.ran("number-key") == 0


def test_task_below_fails_by_its_key_when_it_is_created(flows: FlowsUnderTest) -> None:
    run = flows.start("no-such-key-in-graph")
    end = run.end()
    assert end.statuses == {"top": "COMPLETED", "low": "FAILED"}
    assert "additional_metadata.nobody" in end.error("low")
    assert run.ran("low") == 0


def test_failed_key_leaves_the_group_of_others_alone(flows: FlowsUnderTest) -> None:
    """A run that never had a place gives none back."""
    tag, gate = unique("tag"), flows.new_gate()
    runs = [gated(flows, "two-at-a-time", gate, tag=tag) for _ in range(2)]
    all_started(flows, tag, 2)
    flows.end("no-such-key")
    third = flows.start("two-at-a-time", tag=tag)
    assert flows.run("free")["output"]["task"] == "free"
    assert in_order(all_started(flows, tag, 2), [*runs, third]) in ([0, 1], [1, 0])
    flows.open(gate)
    assert [run.end().status for run in (*runs, third)] == ["COMPLETED"] * 3
