"""Workers that pause, drain and come back; slot pools; and several rules at once."""

import pytest

from tests.compat.calls import Step, put
from tests.compat.wire import unique
from tests.e2e.flow.looks import all_started, count_by_worker, in_order, most_at_once
from tests.e2e.runs.harness import FlowsUnderTest, of_the_engine
from tests.e2e.runs.stage import Stage
from tests.processes import role, wait_until

pytestmark = pytest.mark.timeout(120)


# ---- pause and resume


def test_paused_worker_finishes_what_it_has_and_gets_nothing_new(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    running = flows.start("free", {"free": {"gate": gate}})
    running.note("free")
    with flows.paused():
        waiting = flows.start("free")
        flows.open(gate)
        assert running.end().status == "COMPLETED"
        assert waiting.ran("free") == 0
        assert waiting.details().status == "QUEUED"
        assert [row["status"] for row in flows.workers("flows")] == ["PAUSED"]
    assert waiting.end().status == "COMPLETED"


def test_paused_worker_still_hears_of_cancels(flows: FlowsUnderTest) -> None:
    run = flows.start("free", {"free": {"gate": flows.new_gate()}})
    run.note("free")
    with flows.paused():
        flows.call(do="cancel", run_id=run.id)
        run.note("free", "is told to stop")
    assert run.end().status == "CANCELLED"


def test_resumed_worker_takes_what_waited_in_order(flows: FlowsUnderTest) -> None:
    tag = unique("tag")
    with flows.paused():
        runs = [flows.start("line", tag=tag) for _ in range(6)]
    assert in_order(all_started(flows, tag, 6), runs) == list(range(6))


# ---- draining


@of_the_engine
def test_draining_worker_gets_nothing_new_and_loses_nothing(routed: FlowsUnderTest) -> None:
    """A third worker is told to stop while it runs a task that still needs a while."""
    leaver = role(
        routed.server.client_environment(),
        "flow_worker",
        routed.sdk,
        "routing",
        "10",
        "leaver",
        '{"region": "leaver"}',
        directory=routed.directory,
        env={
            "ROLE_RECORDS": str(routed.directory / "records"),
            "HATCHET_CLIENT_NAMESPACE": routed.namespace,
            "BROADAXE_CLIENT_NAMESPACE": routed.namespace,
        },
    )
    try:
        gate = routed.new_gate()
        label = {"key": "region", "value": "leaver"}
        only = {"labels": [{**label, "required": True}]}
        running = routed.start("anywhere", {"anywhere": {"gate": gate}}, options=only)
        assert running.note("anywhere")["worker"] == "leaver"
        leaver.send_signal(15)

        def is_leaving() -> bool:
            return all(row["status"] != "ACTIVE" for row in routed.workers("leaver"))

        wait_until(is_leaving, what="the worker to drain", timeout=20)
        tag = unique("tag")
        preferring = {"labels": [{**label, "weight": 1000}]}
        others = [routed.start("anywhere", tag=tag, options=preferring) for _ in range(4)]
        assert [run.end().status for run in others] == ["COMPLETED"] * 4
        assert "leaver" not in count_by_worker(all_started(routed, tag, 4))
        routed.open(gate)
        assert running.end().status == "COMPLETED"
        assert running.ran("anywhere") == 1
        wait_until(lambda: not leaver.is_running, what="the worker to stop", timeout=30)
    finally:
        leaver.kill9()


# ---- pools


def test_durable_and_default_slots_are_counted_apart(stage: Stage) -> None:
    name = unique("pools")
    steps = (
        Step("short", fields={"slot_requests": {"default": 1}}),
        Step("long", fields={"slot_requests": {"durable": 1}}),
        Step("both", fields={"slot_requests": {"default": 1, "durable": 1}}),
    )
    actions = [action for step in steps for action in put(stage.wire, f"{name}-{step.name}", step)]
    worker = stage.worker(*actions, pools={"default": 1, "durable": 2})
    for kind in ("short", "short", "long", "long", "long", "both"):
        stage.wire.trigger(f"{name}-{kind}")
    first = [worker.next() for _ in range(3)]
    assert sorted(action.task_name for action in first) == ["long", "long", "short"]
    assert worker.stream.silent_for(0.3)
    by_name = {action.task_name: action for action in first}
    stage.wire.complete(by_name["short"])
    second = worker.next()
    assert second.task_name == "short"  # a default slot is no use to one that needs a durable one too
    stage.wire.complete(by_name["long"])
    third = worker.next()
    assert third.task_name == "long"
    stage.wire.complete(second)
    assert worker.stream.silent_for(0.3)  # `both` has a default slot and no durable one
    stage.wire.complete(third)
    assert worker.next().task_name == "both"


def test_worker_without_the_pool_never_gets_the_task(stage: Stage) -> None:
    name = unique("pools")
    actions = put(stage.wire, name, Step("long", fields={"slot_requests": {"durable": 1}}))
    without = stage.worker(*actions, slots=10)
    run_id = stage.wire.trigger(name)
    assert without.stream.silent_for(0.3)
    with_pool = stage.worker(*actions, pools={"durable": 1})
    assert with_pool.next().task_run_external_id == run_id
    assert without.stream.silent_for(0.1)


# ---- everything at once


def test_group_limit_labels_and_priority_together(routed: FlowsUnderTest) -> None:
    """Of each group one at a time, three an hour, on the worker with the memory, by priority."""
    tag = unique("tag")
    priorities = (1, 3, 2, 1)
    gate = routed.new_gate()
    do = {"everything": {"gate": gate}}
    first = [routed.start("everything", do, tag=tag, group=group) for group in ("a", "b")]
    all_started(routed, tag, 2)
    runs = {
        group: [
            routed.start("everything", tag=tag, group=group, options={"priority": priority})
            for priority in priorities
        ]
        for group in ("a", "b")
    }
    routed.open(gate)
    notes = all_started(routed, tag, 6)
    assert [run.end().status for run in first] == ["COMPLETED"] * 2
    for group, of_group in runs.items():
        started = [note for note in notes if note["group"] == group]
        assert [note["priority"] for note in started] == [1, 3, 2]
        assert in_order(started[1:], of_group) == [1, 2]
        assert most_at_once(note for note in routed.notes(tag) if note["group"] == group) == 1
        assert of_group[1].end().status == of_group[2].end().status == "COMPLETED"
        assert [of_group[place].details().status for place in (0, 3)] == ["QUEUED", "QUEUED"]
    assert count_by_worker(notes) == {"east": 6}
    for of_group in runs.values():
        for place in (3, 0):
            routed.call(do="cancel", run_id=of_group[place].id)
            assert of_group[place].end().status == "CANCELLED"
    assert len(all_started(routed, tag, 6)) == 6


def test_sticky_children_in_a_group_take_turns_on_their_parents_worker(stage: Stage) -> None:
    """By the bare wire: a child of a full group waits for its place first, and then for its worker."""
    name = unique("combined")
    group = [{"expression": "input.k", "max_runs": 1, "limit_strategy": 3}]
    parents = put(stage.wire, f"{name}-parent", Step("parent"))
    children = put(stage.wire, name, Step("child", fields={"concurrency": group}), sticky=1)
    home = stage.worker(*parents, *children, slots=3)
    parent = stage.wire.trigger(f"{name}-parent")
    assert home.next().task_run_external_id == parent
    away = stage.worker(*children, slots=3)
    ids = [
        stage.wire.trigger(
            name,
            '{"k": "one"}',
            parent_task_run_external_id=parent,
            child_index=index,
            desired_worker_id=home.id,
        )
        for index in range(3)
    ]
    for run_id in ids:
        action = home.next()
        assert action.task_run_external_id == run_id
        assert home.stream.silent_for(0.2)
        stage.wire.complete(action)
    assert away.stream.silent_for(0.1)
