"""Paused workflows, through the tracker alone: what is held, until when, and in which order it goes on."""

import pytest

from broadaxe_actors.batches import Draw
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.errors import Code
from broadaxe_actors.matching import Proposal
from broadaxe_actors.messages import (
    CancelRuns,
    HeldAttempt,
    NewRun,
    PauseWorkflow,
    PutWorkflow,
    Refusal,
    Reply,
    ReportKind,
    UnpauseWorkflow,
)
from broadaxe_actors.pauses import Phase
from broadaxe_actors.run_tracker import attempts, pausing
from broadaxe_actors.run_tracker.lines import Page
from broadaxe_actors.runtime import Directory
from broadaxe_actors.runtime.testing import peer
from broadaxe_actors.settings import ShardSettings
from broadaxe_storage.records import (
    SpilledQueue,
    TaskRunFinish,
    TaskRunRow,
    TaskRunState,
    WorkflowPause,
    WorkflowVersionRow,
)
from tests.factories import TENANT, make_pause, make_task_run, new_id
from tests.unit.actors.test_run_tracker import LINE, ONE
from tests.unit.actors.test_run_tracker import Bench as TrackerBench

S = TaskRunState
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


class Bench(TrackerBench):
    """A tracker whose workflow `w` is paused and unpaused; its task times out after a minute in the queue."""

    def __init__(self, settings=None, **task):
        super().__init__(settings, **({"schedule_timeout": "1m"} | task))
        self.workflow_id = self.version.workflow_id
        buffers = Directory(self.probe.runtime, lambda key: peer(f"buffer {key.group}"))
        self.call("connect_buffers", buffers)

    def pause(self, ttl=HOUR, **behaviors):
        self.requests += 1
        message = PauseWorkflow(self.requests, TENANT, self.workflow_id, ttl, **behaviors)
        return self.call("pause_workflow", self.gateway, message)

    def unpause(self):
        """Before its commit."""
        self.requests += 1
        message = UnpauseWorkflow(self.requests, TENANT, self.workflow_id)
        return self.call("unpause_workflow", self.gateway, message)

    def lift(self, said=None):
        """The end of a pause is committed; task runs for the queue, all slices taken."""
        said = [self.unpause()] if said is None else [said]
        heard = self.commit(said[0])
        for one in heard:
            heard += [
                self.call(sent.method, *sent.args) for sent in one.sends if sent.to is self.probe.handle
            ]
        return [item.task_run_id for one in heard for (items,) in self.sent(one, "enqueue") for item in items]

    def enqueued(self, heard):
        return [item.task_run_id for one in heard for (items,) in self.sent(one, "enqueue") for item in items]

    def due(self):
        """Deadlines pass; the ends that are recorded, all slices taken."""
        ends, todo = [], [self.call("due")]
        while todo:
            said = todo.pop()
            ends += [record for record in said.records if isinstance(record, TaskRunFinish)]
            todo += [self.call("due") for sent in said.sends if sent.method == "due"]
            self.last = said
        return ends

    def wait(self, microseconds):
        self.probe.clock.advance(microseconds)
        return self.due()

    def state(self, run_id):
        return self.probe.actor._live[run_id].state

    @property
    def now(self):
        return self.probe.clock.now()


# ---------------------------------------------------------------- what is held


def test_a_pause_is_recorded_answered_after_its_commit_and_counts_at_once():
    bench = Bench()
    queued = bench.new_run()
    said = bench.pause(cron_behavior="DROP")
    row = WorkflowPause(bench.workflow_id, TENANT, bench.now, None, HOUR, "DROP", "QUEUE")
    assert said.records == [row]
    assert bench.answer(said) == [Reply(bench.requests, row)]
    assert bench.sent(said, "set_paused") == [(("w:t",), True)]
    run = NewRun("w", b"{}", run_id=new_id())
    assert bench.enqueued(bench.commit(bench.trigger(run))) == []
    assert {bench.state(queued), bench.state(run.run_id)} == {S.QUEUED}


def test_what_was_proposed_as_the_pause_came_is_refused_and_held():
    bench = Bench()
    run_id = bench.new_run()
    bench.join()
    bench.pause()
    said = bench.call("propose", (Proposal(run_id, 0, "worker", ONE),))
    assert bench.sent(said, "unspent") == [((("worker", run_id, 0),),)]
    assert bench.sent(said, "start_tasks") == []
    ((ready,),) = (items for (items,) in bench.sent(said, "put_back"))
    assert (ready.task_run_id, bench.sent(said, "enqueue")) == (run_id, [])
    assert bench.state(run_id) == S.QUEUED
    assert bench.wait(59 * MINUTE) == []  # it is in line as before, and its deadline is the pause's
    assert bench.lift() == []
    assert bench.wait(59 * SECOND) == []
    assert [end.id for end in bench.wait(2 * SECOND)] == [run_id]


def test_what_runs_goes_on_and_its_retry_is_held():
    bench = Bench(retries=1)
    first, second = bench.new_run(), bench.new_run()
    bench.assign(first)
    bench.assign(second)
    bench.pause()
    (finish,) = bench.report(ReportKind.COMPLETED, first, b"1").records
    assert finish.state == S.COMPLETED
    assert bench.enqueued(bench.commit(bench.report(ReportKind.FAILED, second))) == []
    assert bench.lift() == [second]
    assert bench.probe.actor._live[second].attempt == 1


def test_what_is_held_can_be_cancelled_and_is_let_go_of():
    bench = Bench()
    bench.pause()
    run_id = bench.new_run()
    (pause,) = bench.probe.actor._pauses.values()
    assert list(pause.held) == [run_id]
    (done,) = bench.commit(bench.call("cancel_runs", bench.gateway, CancelRuns(7, TENANT, (run_id,))))
    (finish,) = done.records
    assert finish.state == S.CANCELLED
    assert not pause.held
    assert bench.lift() == []


def test_a_worker_that_has_a_held_attempt_already_keeps_it():
    bench = Bench()
    bench.join()
    bench.pause()
    run_id = bench.new_run()
    bench.call("adopt", "worker", (HeldAttempt(run_id, 0),))
    assert bench.state(run_id) == S.ASSIGNED
    assert bench.lift() == []


def test_a_batch_whose_slot_came_with_the_pause_is_given_up():
    bench = Bench(batch={"max_size": 2, "max_interval_ms": 1000, "group_key": "'a'", "group_max_runs": 1})
    run_id = bench.new_run()
    bench.join()
    bench.pause()
    member = bench.probe.actor._live[run_id].member()
    key = bench.probe.actor._live[run_id].batching.key
    said = bench.call("start_batch", Draw(key, "batch", "worker", "full", (member,)))
    assert bench.sent(said, "release") == [((("worker", "batch", -1),),)]
    assert bench.sent(said, "ended") == [(("batch",),)]
    assert bench.sent(said, "add") == []
    assert bench.state(run_id) == S.QUEUED


def test_another_workflow_with_the_same_action_does_not_wait():
    bench = Bench()
    other = WorkflowDefinition("other", (TaskDefinition("t", "w:t"), TaskDefinition("u", "w:u")))
    bench.call("put_workflow", bench.gateway, PutWorkflow(1, TENANT, other))
    raced = bench.new_run()
    assert bench.sent(bench.pause(), "set_paused") == []
    held, goes = bench.new_run(), NewRun("other", b"{}", run_id=new_id())
    assert len(bench.enqueued(bench.commit(bench.trigger(goes)))) == 2
    bench.join()
    said = bench.call("propose", (Proposal(raced, 0, "worker", ONE),))
    assert bench.sent(said, "put_back") == []
    assert bench.lift() == [raced, held]


def test_an_action_that_another_workflow_comes_to_share_is_held_by_refusals_only():
    bench = Bench()
    bench.pause()
    other = WorkflowDefinition("other", (TaskDefinition("t", "w:t"),))
    said = bench.call("put_workflow", bench.gateway, PutWorkflow(1, TENANT, other))
    assert bench.sent(said, "set_paused") == [(("w:t",), False)]


@pytest.mark.parametrize("behavior", ["DROP", "QUEUE"])
def test_crons_and_schedules_are_dropped_while_paused_if_it_says_so(behavior):
    bench = Bench()
    tracker = bench.probe.actor
    answers = lambda: (tracker._drops_cron(bench.workflow_id), tracker._drops_scheduled(bench.workflow_id))  # noqa: E731
    assert answers() == (False, False)
    bench.pause(cron_behavior=behavior)
    assert answers() == (behavior == "DROP", False)
    bench.pause(scheduled_behavior=behavior)
    assert answers() == (False, behavior == "DROP")
    bench.unpause()
    assert answers() == (False, False)


def test_an_unknown_workflow_cannot_be_paused():
    bench = Bench()
    bench.workflow_id = new_id()
    for said in (bench.pause(), bench.unpause()):
        (refusal,) = bench.answer(said)
        assert isinstance(refusal, Refusal)
        assert refusal.code == Code.NOT_FOUND
        assert said.records == []


# ---------------------------------------------------------------- the end of a pause


def test_what_was_held_goes_on_in_its_order_once_the_end_is_committed():
    bench = Bench()
    bench.pause()
    runs = [bench.new_run() for _ in range(5)]
    said = bench.unpause()
    (row,) = said.records
    assert (row.paused_at, row.unpaused_at) == (None, bench.now)
    late = bench.new_run()
    assert bench.sent(said, "set_paused") == []
    lifted = bench.commit(said)
    assert bench.sent(lifted[0], "set_paused") == [(("w:t",), False)]
    assert bench.enqueued(lifted) == [*runs, late]
    assert bench.probe.actor._pauses[bench.workflow_id].phase is Phase.OVER


def test_newcomers_line_up_behind_what_goes_on_slice_by_slice(monkeypatch):
    monkeypatch.setattr(pausing, "SLICE", 2)
    bench = Bench()
    bench.pause()
    runs = [bench.new_run() for _ in range(3)]
    (said,) = bench.commit(bench.unpause())
    late = NewRun("w", b"{}", run_id=new_id())
    assert bench.enqueued(bench.commit(bench.trigger(late))) == []
    assert bench.enqueued([said]) == runs[:2]
    (more,) = [sent for sent in said.sends if sent.method == "lift_more"]
    assert bench.enqueued([bench.call(more.method, *more.args)]) == [runs[2], late.run_id]


def test_a_pause_that_comes_before_the_end_of_the_last_is_committed_wins():
    bench = Bench()
    bench.pause()
    run_id = bench.new_run()
    ending = bench.unpause()
    bench.pause()
    assert bench.lift(ending) == []
    assert bench.lift() == [run_id]


def test_a_pause_that_comes_while_the_last_is_lifted_keeps_what_is_left(monkeypatch):
    monkeypatch.setattr(pausing, "SLICE", 2)
    bench = Bench()
    bench.pause()
    runs = [bench.new_run() for _ in range(3)]
    (said,) = bench.commit(bench.unpause())
    again = bench.pause()
    assert bench.sent(again, "set_paused") == [(("w:t",), True)]
    (more,) = [sent for sent in said.sends if sent.method == "lift_more"]
    assert bench.enqueued([bench.call(more.method, *more.args)]) == []
    assert bench.lift() == [runs[2]]


def test_to_unpause_what_is_not_paused_changes_nothing():
    bench = Bench()
    said = bench.unpause()
    assert said.records == []
    (reply,) = bench.answer(said)
    assert reply.value.paused_at is None
    bench.pause()
    bench.lift()
    assert bench.unpause().records == []


# ---------------------------------------------------------------- until when


def test_what_is_held_does_not_run_into_its_schedule_timeout_and_has_it_anew_afterwards():
    bench = Bench()
    before = bench.new_run()
    bench.pause()
    after = bench.new_run()
    assert bench.wait(10 * MINUTE) == []
    bench.lift()
    assert bench.wait(59 * SECOND) == []
    ends = bench.wait(2 * SECOND)
    assert {end.id for end in ends} == {before, after}
    assert all(b"no worker had a free slot" in end.error for end in ends)


def test_what_is_held_for_longer_than_the_ttl_is_cancelled_and_says_why():
    bench = Bench(schedule_timeout="10h")
    before = bench.new_run()
    bench.probe.clock.advance(5 * MINUTE)
    bench.pause(30 * MINUTE)
    bench.probe.clock.advance(10 * MINUTE)
    during = bench.new_run()
    assert bench.wait(19 * MINUTE) == []
    (end,) = bench.wait(2 * MINUTE)  # 31 minutes after the pause began, which came later than the run
    assert (end.id, end.state) == (before, S.CANCELLED)
    assert end.error == (
        b"workflow 'w' is paused, and task 't' has waited for longer than the 1800 s for which its pause keeps what is queued"
    )
    assert bench.wait(8 * MINUTE) == []
    assert [end.id for end in bench.wait(2 * MINUTE)] == [during]
    assert bench.probe.actor._telemetry.counters["cancelled_tasks"][TENANT] == 2
    assert bench.probe.actor._telemetry.counters["scheduling_timed_out"][TENANT] == 0


def test_a_second_pause_changes_the_settings_and_not_the_beginning():
    bench = Bench()
    began = bench.now
    bench.pause(HOUR)
    run_id = bench.new_run()
    bench.probe.clock.advance(5 * MINUTE)
    said = bench.pause(10 * MINUTE, cron_behavior="DROP")
    assert said.records == [
        WorkflowPause(bench.workflow_id, TENANT, began, None, 10 * MINUTE, "DROP", "QUEUE")
    ]
    assert bench.sent(said, "set_paused") == []
    assert [end.id for end in bench.wait(6 * MINUTE)] == [run_id]


def test_many_deadlines_are_set_and_passed_in_slices(monkeypatch):
    monkeypatch.setattr(pausing, "DEADLINES_SLICE", 3)
    monkeypatch.setattr(attempts, "DUE_SLICE", 3)
    bench = Bench(schedule_timeout="10h")
    runs = [bench.new_run() for _ in range(7)]
    said = bench.pause(MINUTE)
    slices = 1
    while more := [sent for sent in said.sends if sent.method == "set_deadlines"]:
        said = bench.call(*more[0][1:2], *more[0].args)
        slices += 1
    assert slices == 3
    bench.probe.clock.advance(2 * MINUTE)
    said = bench.call("due")
    assert len(said.records) == 3
    # One is taken by a worker that had it all along: what was due is so no more.
    taken = next(run_id for run_id in runs if run_id in bench.probe.actor._live)
    bench.join()
    bench.call("adopt", "worker", (HeldAttempt(taken, 0),))
    left = {end.id for end in bench.due()}
    assert len(left) == 3
    assert taken not in left
    assert bench.state(taken) == S.ASSIGNED


def test_a_pause_that_has_been_over_for_as_long_as_anything_waits_is_forgotten():
    bench = Bench()
    bench.pause()
    run_id = bench.new_run()
    (said,) = bench.commit(bench.unpause())
    (timer,) = [timer for timer in said.timers if timer.key == ("pause", bench.workflow_id)]
    assert timer.delay_us == MINUTE
    bench.probe.clock.advance(30 * SECOND)
    bench.call("forget_pause", bench.workflow_id)
    assert bench.probe.actor._pauses
    bench.probe.clock.advance(30 * SECOND)
    bench.call("forget_pause", bench.workflow_id)
    assert not bench.probe.actor._pauses
    assert [end.id for end in bench.wait(SECOND)] == [run_id]


# ---------------------------------------------------------------- what waits in Postgres


def spilled(bench, **fields):
    values = {
        "workflow_id": bench.workflow_id,
        "workflow_version_id": bench.version.id,
        "spill_queue": LINE,
        "queued_at": bench.now,
        "created_at": bench.now,
        "schedule_deadline": bench.now + MINUTE,
    }
    return make_task_run(**(values | fields))


def test_rows_of_a_paused_workflow_do_not_expire_by_their_own_deadline():
    bench = Bench(ShardSettings(queue_window_high=1, queue_window_low=0))
    first = bench.new_run()
    (row,) = (
        record
        for record in bench.trigger(NewRun("w", b"{}", run_id=new_id())).records
        if isinstance(record, TaskRunRow)
    )
    assert row.spill_queue == LINE
    bench.pause()
    bench.probe.clock.advance(2 * MINUTE)
    assert bench.due() == []
    (fetch,) = bench.last.fetches
    assert fetch.args[1] == (bench.workflow_id,)
    # Read before the pause was known, as it were: they stay where they are.
    said = bench.call("expired_loaded", None, Page([row], []), None)
    assert said.records == []
    assert row.id not in bench.probe.actor._live
    assert bench.lift() == []
    bench.probe.clock.advance(59 * SECOND)
    assert bench.call("expired_loaded", None, Page([row], []), None).records == []
    assert bench.probe.actor._waiting_workflows(bench.now) == (bench.workflow_id,)
    bench.probe.clock.advance(SECOND)
    assert bench.probe.actor._waiting_workflows(bench.now) == ()
    said = bench.call("expired_loaded", None, Page([row], []), None)
    assert [record.id for record in said.records if isinstance(record, TaskRunFinish)] == [row.id]
    assert bench.state(first) == S.QUEUED  # its own deadline has come, and is looked at next


def test_rows_that_are_read_while_their_workflow_is_paused_are_held_and_expire_by_the_ttl():
    bench = Bench()
    bench.call("restore_spilled", (SpilledQueue(TENANT, LINE, 1, 2, None),))
    bench.pause(10 * MINUTE)
    bench.probe.clock.advance(5 * MINUTE)
    rows = [spilled(bench, seq=1), spilled(bench, seq=2, queued_at=bench.now - 2 * HOUR)]
    said = bench.call("paged_in", ((LINE, 1), 0), Page(rows, []), None)
    assert bench.enqueued([said]) == []
    assert [end.id for end in bench.wait(6 * MINUTE)] == [rows[1].id]
    assert bench.lift() == [rows[0].id]


# ---------------------------------------------------------------- after a restart


def restored(bench, pause, *rows, **task):
    """A tracker that reads what another left."""
    after = Bench(**task)
    after.probe.clock.advance(bench.now - after.now)
    after.version, after.workflow_id = bench.version, bench.workflow_id
    assert isinstance(bench.version, WorkflowVersionRow)
    after.call("restore_versions", (bench.version,))
    after.call("restore_pauses", (pause,))
    heard = [after.call("restore_task_runs", rows), after.call("restored")]
    return after, after.enqueued(heard)


def test_a_pause_and_what_it_holds_survive_a_restart():
    bench = Bench()
    rows = [spilled(bench, spill_queue=None) for _ in range(3)]
    pause = make_pause(bench.workflow_id, paused_at=bench.now, queue_ttl=HOUR)
    after, enqueued = restored(bench, pause, *rows)
    assert enqueued == []
    assert after.wait(59 * MINUTE) == []
    assert after.lift() == [row.id for row in rows]
    assert after.wait(59 * SECOND) == []
    assert len(after.wait(2 * SECOND)) == 3


def test_the_fresh_timeout_after_a_pause_survives_a_restart():
    bench = Bench()
    long_ago = bench.now - 2 * HOUR
    row = spilled(bench, spill_queue=None, queued_at=long_ago, schedule_deadline=long_ago + MINUTE)
    pause = make_pause(bench.workflow_id, paused_at=None, unpaused_at=bench.now - 30 * SECOND)
    after, enqueued = restored(bench, pause, row)
    assert enqueued == [row.id]
    assert after.due() == []
    assert after.wait(29 * SECOND) == []
    assert [end.id for end in after.wait(2 * SECOND)] == [row.id]
