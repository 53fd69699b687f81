"""Task stats: what the tracker counts as task runs come and go, and what it answers."""

import random

import pytest

from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.flow_counts import FlowCounts, GroupCounts
from broadaxe_actors.messages import (
    ActionStats,
    CancelRuns,
    GetStats,
    GroupStats,
    HeldAttempt,
    NewRun,
    PutWorkflow,
    ReportKind,
    StateStats,
    TenantStats,
)
from broadaxe_actors.run_tracker import stats as run_stats
from broadaxe_actors.settings import ShardSettings
from broadaxe_storage.records import SpilledQueue, TaskRunState
from tests.factories import TENANT, make_task_run, new_id
from tests.unit.actors.test_run_tracker import LINE, Bench

NOTHING = StateStats(0, None, None)


def stats_of(bench):
    (found,) = bench.probe.actor.stats().actions
    return found


def test_a_task_run_is_counted_where_it_is_from_trigger_to_end():
    bench = Bench(retries=1)
    assert bench.probe.actor.stats() == TenantStats(())
    began = bench.probe.clock.now()
    first = bench.new_run()
    bench.probe.clock.advance(10)
    second = bench.new_run()
    assert stats_of(bench) == ActionStats("w:t", "w", "t", StateStats(2, began, began), NOTHING)
    bench.probe.clock.advance(10)
    bench.assign(first)
    later = StateStats(1, began + 10, began + 10)
    assert stats_of(bench) == ActionStats("w:t", "w", "t", later, StateStats(1, began + 20, began + 20))
    bench.probe.clock.advance(10)
    bench.commit(bench.report(ReportKind.FAILED, first))
    # The retry came last, and is told apart.
    assert stats_of(bench) == ActionStats("w:t", "w", "t", later._replace(total=2), NOTHING)
    bench.commit(bench.call("cancel_runs", bench.gateway, CancelRuns(7, TENANT, (second,))))
    assert stats_of(bench).queued == StateStats(1, began + 30, None)
    bench.probe.clock.advance(10)
    bench.assign(first, attempt=1)
    assert stats_of(bench) == ActionStats("w:t", "w", "t", NOTHING, StateStats(1, began + 40, None))
    bench.report(ReportKind.COMPLETED, first, b"1", attempt=1)
    assert bench.probe.actor.stats() == TenantStats(())


def test_stats_are_answered_with_the_groups_of_each_task():
    bench = Bench()
    bench.new_run()
    flows = bench.probe.actor._flows
    flows.wait("w:t", "input.user", "GROUP_ROUND_ROBIN", "a")
    flows.hold("w:t", "input.user", "GROUP_ROUND_ROBIN", "b")
    said = bench.call("get_stats", bench.gateway, GetStats(9, TENANT))
    (reply,) = bench.answer(said)
    (found,) = reply.value.actions
    assert found.queued.groups == (GroupStats("input.user", "GROUP_ROUND_ROBIN", (("a", 1),)),)
    assert found.running.groups == (GroupStats("input.user", "GROUP_ROUND_ROBIN", (("b", 1),)),)


def test_what_waits_in_postgres_counts():
    bench = Bench(ShardSettings(queue_window_high=2, queue_window_low=0))
    for _ in range(5):
        bench.new_run()
    began = bench.probe.clock.now()
    assert stats_of(bench).queued == StateStats(5, began, began)


def test_after_a_restart_everything_is_counted_again():
    bench = Bench()
    bench.join()
    ids = {"workflow_id": bench.version.workflow_id, "workflow_version_id": bench.version.id}
    rows = [
        make_task_run(queued_at=7, **ids),
        make_task_run(queued_at=5, attempt=1, queue_priority=4, **ids),
        make_task_run(state=TaskRunState.RUNNING, assigned_at=9, worker_id="worker", **ids),
    ]
    bench.call("restore_spilled", (SpilledQueue(TENANT, LINE, 1, 10, None),))
    assert stats_of(bench) == ActionStats("w:t", "w", "t", StateStats(10, None, None), NOTHING)
    bench.call("restore_task_runs", rows)
    assert stats_of(bench) == ActionStats("w:t", "w", "t", StateStats(12, 5, 7), StateStats(1, 9, 9))


def test_tasks_of_a_run_of_several_are_counted_each():
    bench = Bench()
    tasks = (TaskDefinition("a", "dag:a"), TaskDefinition("b", "dag:b", parents=("a",)))
    bench.call("put_workflow", bench.gateway, PutWorkflow(1, TENANT, WorkflowDefinition("dag", tasks)))
    bench.commit(bench.trigger(NewRun("dag", b"{}", run_id=new_id())))
    assert {item.action: item.queued.total for item in bench.probe.actor.stats().actions} == {"dag:a": 1}
    (task,) = bench.probe.actor._live.values()
    bench.assign(task.id)
    bench.commit(bench.report(ReportKind.COMPLETED, task.id, b"{}"))
    assert {item.action: item.queued.total for item in bench.probe.actor.stats().actions} == {"dag:b": 1}


@pytest.mark.parametrize("seed", range(5))
def test_counts_agree_with_what_lives_whatever_happens(seed):
    rng = random.Random(seed)
    bench = Bench(retries=1)
    bench.join()
    actor = bench.probe.actor
    for _ in range(300):
        bench.probe.clock.advance(1)
        live = list(actor._live.values())
        task = rng.choice(live) if live else None
        step = rng.choice(("new", "new", "assign", "complete", "fail", "cancel", "lose", "adopt"))
        if step == "new":
            bench.new_run()
        elif task is None:
            continue
        elif step == "assign":
            bench.assign(task.id, attempt=task.attempt)
        elif step in ("complete", "fail"):
            kind = ReportKind.COMPLETED if step == "complete" else ReportKind.FAILED
            bench.commit(bench.report(kind, task.id, b"", attempt=task.attempt))
        elif step == "cancel":
            bench.commit(bench.call("cancel_runs", bench.gateway, CancelRuns(7, TENANT, (task.id,))))
        elif step == "lose":
            bench.commit(bench.call("worker_lost", "worker", (HeldAttempt(task.id, task.attempt),), "gone"))
        else:
            bench.call("adopt", "worker", (HeldAttempt(task.id, task.attempt),))
        queued = [task for task in actor._live.values() if task.state == TaskRunState.QUEUED]
        running = [task for task in actor._live.values() if task.worker_id is not None]
        counts = actor._counts.of_action("w:t")
        assert {*counts.queued, *counts.queued_again} == set(queued)
        assert {*counts.running, *counts.running_again} == set(running)
        assert counts.oldest_queued()[0] == min((task.queued_at for task in queued), default=None)
        assert counts.oldest_running()[0] == min((task.assigned_at for task in running), default=None)


def test_metadata_of_what_waits_is_counted_by_key_and_value():
    bench = Bench()
    for metadata in ('{"team":"a","n":1,"hatchet__event_id":"x"}', '{"team":"a"}', "{}"):
        bench.new_run(metadata=metadata)
    assert set(bench.probe.actor.queued_metadata()) == {("w:t", "team", "a", 2), ("w:t", "n", "1", 1)}


def test_metadata_is_looked_at_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(run_stats, "MAX_LOOKED_AT", 5)
    monkeypatch.setattr(run_stats, "MAX_METADATA", 2)
    bench = Bench()
    for number in (1, 2, 3, 1, 1, 1):
        bench.new_run(metadata=f'{{"n":"{number}"}}')
    assert bench.probe.actor.queued_metadata() == (("w:t", "n", "1", 3), ("w:t", "n", "2", 1))


def test_flow_counts_forget_what_is_at_zero():
    flows = FlowCounts()
    for key in ("a", "a", "b"):
        flows.wait("w:t", "e", "CANCEL_NEWEST", key)
    flows.hold("w:t", "e", "CANCEL_NEWEST", "c")
    flows.unwait("w:t", "e", "CANCEL_NEWEST", "a")
    assert flows.waiting("w:t") == [GroupCounts("e", "CANCEL_NEWEST", {"a": 1, "b": 1})]
    assert flows.held("w:t") == [GroupCounts("e", "CANCEL_NEWEST", {"c": 1})]
    for key in ("a", "b", "b", "unknown"):
        flows.unwait("w:t", "e", "CANCEL_NEWEST", key)
    flows.unhold("w:t", "e", "CANCEL_NEWEST", "c")
    flows.unhold("unknown", "e", "CANCEL_NEWEST", "c")
    assert flows.waiting("w:t") == flows.held("w:t") == []
    assert flows.actions() == set()
