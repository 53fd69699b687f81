"""One worker: when it may get work, when it is lost, what it is told."""

import pytest

from broadaxe_actors.connected_worker import ConnectedWorker
from broadaxe_actors.errors import Code
from broadaxe_actors.messages import (
    Assignment,
    BatchStart,
    CancelOrder,
    CancelTasks,
    CloseSession,
    Heartbeat,
    HeldAttempt,
    OpenSession,
    PauseWorker,
    Refusal,
    Reply,
    SessionFull,
    StartBatches,
    StartTasks,
    StepRef,
    StopWorker,
    UpsertLabels,
)
from broadaxe_actors.runtime.testing import Probe, Sent, peer
from broadaxe_actors.settings import ShardSettings
from broadaxe_storage.records import WorkerStatus
from tests.factories import make_worker

STEP = StepRef("step", "w:t", "t", "workflow", "version")
SECOND = 1_000_000


def assignment(task="task", attempt=0):
    return Assignment(STEP, task, task, attempt, 1, b"", "{}", 0, None, None, None, None, None)


def batch(*tasks, batch_id="batch"):
    return BatchStart(batch_id, "key", "because", 0, tuple(assignment(task) for task in tasks))


def order(task="task", attempt=0):
    return CancelOrder(STEP, task, task, attempt, "{}", 1)


class Bench:
    """A worker between peers."""

    def __init__(self, **fields):
        self.row = make_worker(**fields)
        self.queue, self.tracker, self.registry = peer("queue"), peer("tracker"), peer("registry")
        self.gateway = peer("gateway")
        self.probe = Probe(
            ConnectedWorker, self.row, ShardSettings(), self.queue, self.tracker, self.registry
        )
        self.timers = {}
        self._keep(self.probe._run(self.probe.actor.on_start))

    def _keep(self, said):
        for key in said.cancelled:
            self.timers.pop(key, None)
        for timer in said.timers:
            self.timers[timer.key] = (self.probe.clock.monotonic() + timer.delay_us, timer)
        return said

    def call(self, method, *args):
        return self._keep(self.probe.call(method, *args))

    def pass_time(self, seconds):
        """Let time pass, firing timers at theirs; what they said, one after the other."""
        end = self.probe.clock.monotonic() + round(seconds * SECOND)
        said = []
        while due := [item for item in self.timers.values() if item[0] <= end]:
            at, timer = min(due, key=lambda item: item[0])
            del self.timers[timer.key]
            self.probe.clock.advance(max(0, at - self.probe.clock.monotonic()))
            said.append(self.call(timer.method, *timer.args))
        self.probe.clock.advance(end - self.probe.clock.monotonic())
        return [sent for each in said for sent in each.sends]

    def open(self, session="s1", request_id=1, in_flight=None, *, sends_heartbeats=True):
        message = OpenSession(
            request_id,
            self.row.tenant_id,
            self.row.id,
            session,
            self.row.is_batched,
            sends_heartbeats,
            in_flight,
        )
        return self.call("open_session", self.gateway, message)

    def close(self, session="s1"):
        return self.call("close_session", CloseSession(self.row.tenant_id, self.row.id, session))

    def beat(self, request_id=0):
        return self.call("heartbeat", self.gateway, Heartbeat(request_id, self.row.tenant_id, self.row.id))

    def sent_open(self, is_open):
        return Sent(self.queue, "set_open", (self.row.id, is_open))

    def delivered(self, *messages):
        return Sent(self.gateway, "deliver", (messages,))

    def lost(self, sends):
        return [sent.args[1] for sent in sends if sent.method == "worker_lost"]


def test_a_session_opens_a_worker_and_its_reply_follows_the_commit():
    bench = Bench()
    said = bench.open(request_id=7)
    assert bench.sent_open(True) in said.sends
    assert said.effects == [bench.delivered(Reply(7, None))]
    assert bench.close().sends == [bench.sent_open(False)]


def test_a_worker_whose_streams_are_full_is_closed_until_one_takes_more():
    bench = Bench()
    bench.open()
    full = SessionFull(bench.row.tenant_id, bench.row.id, "s1", True)
    assert bench.call("session_full", full).sends == [bench.sent_open(False)]
    assert bench.call("session_full", full._replace(is_full=False)).sends == [bench.sent_open(True)]


def test_a_worker_is_stale_after_5_s_of_silence_and_open_again_with_its_heartbeat():
    bench = Bench()
    bench.open()
    assert bench.pass_time(4.9) == []
    assert bench.pass_time(0.2) == [bench.sent_open(False)]
    assert bench.sent_open(True) in bench.beat().sends
    assert bench.sent_open(False) in bench.pass_time(5.1), "the next silence is seen from its beginning too"


def test_a_worker_is_lost_after_30_s_and_its_attempts_are_taken_back():
    bench = Bench()
    bench.open()
    bench.call("start_tasks", (assignment("a"), assignment("b", 2)))
    assert bench.lost(bench.pass_time(29.9)) == []
    sends = bench.pass_time(0.2)
    assert bench.lost(sends) == [(HeldAttempt("a", 0), HeldAttempt("b", 2))]
    assert Sent(bench.queue, "remove_worker", (bench.row.id,)) in sends
    assert bench.probe.actor._row.status == WorkerStatus.LOST


def test_heartbeats_keep_a_worker():
    bench = Bench()
    bench.open()
    bench.call("start_tasks", (assignment(),))
    for _ in range(20):
        assert bench.pass_time(4) == []
        bench.beat()


def test_a_stream_without_heartbeats_stands_for_them():
    bench = Bench(is_batched=False)
    bench.open(sends_heartbeats=False)
    bench.call("started", ())
    assert bench.lost(bench.pass_time(120)) == []


def test_a_lost_worker_revives_with_its_slots_and_is_told_what_was_taken():
    bench = Bench()
    bench.open()
    bench.call("start_tasks", (assignment(),))
    bench.pass_time(31)
    assert bench.call("cancel", (order(),)).is_silent, "nobody listens for certain"
    bench.close()
    said = bench.open("s2")
    assert any(sent.method == "put_worker" for sent in said.sends)
    assert bench.delivered(CancelTasks("s2", (order(),))) in said.sends
    assert bench.sent_open(True) in said.sends
    assert said.records[0].status == WorkerStatus.ACTIVE


def test_a_heartbeat_on_an_open_stream_revives_a_lost_worker():
    bench = Bench()
    bench.open()
    bench.pass_time(31)
    bench.call("cancel", (order(),))
    said = bench.beat()
    assert any(sent.method == "put_worker" for sent in said.sends)
    assert bench.delivered(CancelTasks("s1", (order(),))) in said.sends


def test_a_stall_of_the_loop_is_not_held_against_a_worker():
    bench = Bench()
    bench.open()
    bench.call("start_tasks", (assignment(),))
    bench.pass_time(5.1)
    _, timer = bench.timers["heartbeat"]
    bench.probe.clock.advance(60 * SECOND)
    said = bench.call(timer.method, *timer.args)
    assert bench.lost(said.sends) == []
    assert "heartbeat" in bench.timers


def test_attempts_that_cross_with_a_loss_or_a_goodbye_are_taken_back_at_once():
    bench = Bench()
    bench.open()
    bench.pass_time(31)
    assert bench.lost(bench.call("start_tasks", (assignment(),)).sends) == [(HeldAttempt("task", 0),)]


def test_an_attempt_without_a_sign_of_life_is_taken_back_10_s_after_a_unary_stream_broke():
    bench = Bench(is_batched=False)
    bench.open()
    bench.call("start_tasks", (assignment("quiet"), assignment("heard")))
    bench.call("started", ("heard",))
    bench.close()
    assert bench.lost(bench.pass_time(9.9)) == []
    assert bench.lost(bench.pass_time(0.2)) == [(HeldAttempt("quiet", 0),)]


@pytest.mark.parametrize("is_back_first", [False, True])
def test_listening_again_does_not_save_what_went_down_with_the_old_stream(is_back_first):
    bench = Bench(is_batched=False)
    bench.open()
    bench.call("start_tasks", (assignment("quiet"),))
    if is_back_first:
        bench.open("s2")
        bench.close("s1")
    else:
        bench.close("s1")
        bench.open("s2")
    bench.call("start_tasks", (assignment("new"),))
    assert bench.lost(bench.pass_time(10.1)) == [(HeldAttempt("quiet", 0),)]


def test_a_batched_worker_is_sent_again_what_it_does_not_have():
    bench = Bench()
    bench.open(in_flight=())
    bench.call("start_tasks", (assignment("a"), assignment("b")))
    bench.close()
    said = bench.open("s2", in_flight=(HeldAttempt("a", 0),))
    assert bench.delivered(StartTasks("s2", (assignment("b"),))) in said.sends


def test_a_batched_worker_gets_nothing_new_until_what_it_brings_is_sorted_out():
    bench = Bench()
    said = bench.open(in_flight=(HeldAttempt("x", 1),))
    assert Sent(bench.tracker, "adopt", (bench.row.id, (HeldAttempt("x", 1),))) in said.sends
    assert bench.sent_open(True) not in said.sends
    assert bench.call("adopted").sends == [bench.sent_open(True)]


def test_a_stream_that_outlived_a_rebuild_gets_again_what_gave_no_sign_of_life():
    bench = Bench()
    bench.call("mark_recovered")
    bench.call("holds", ((assignment("a"), False), (assignment("b"), True)))
    said = bench.open(request_id=0)
    assert bench.delivered(StartTasks("s1", (assignment("a"),))) in said.sends


def test_a_cancel_goes_to_every_stream_and_waits_without_one():
    bench = Bench()
    bench.open("s1")
    bench.open("s2")
    assert bench.call("cancel", (order(),)).sends == [
        bench.delivered(CancelTasks("s1", (order(),))),
        bench.delivered(CancelTasks("s2", (order(),))),
    ]
    bench.close("s1")
    bench.close("s2")
    assert bench.call("cancel", (order("late"),)).is_silent
    assert bench.delivered(CancelTasks("s3", (order("late"),))) in bench.open("s3").sends


def test_a_heartbeat_without_a_stream_is_refused_once_there_was_one():
    bench = Bench(is_batched=False)
    assert bench.beat(5).sends == [bench.delivered(Reply(5, None))]
    bench.open()
    bench.close()
    (sent,) = bench.beat(6).sends
    (refusal,) = sent.args[0]
    assert isinstance(refusal, Refusal)
    assert refusal.code == Code.FAILED_PRECONDITION


def test_a_goodbye_takes_back_what_a_batched_worker_holds_and_ends_with_the_tracker():
    bench = Bench()
    bench.open()
    bench.call("start_tasks", (assignment(),))
    said = bench.call("stop_worker", bench.gateway, StopWorker(3, bench.row.tenant_id, bench.row.id))
    assert bench.lost(said.sends) == [(HeldAttempt("task", 0),)]
    assert Sent(bench.registry, "forget_worker", (bench.row.id,)) in said.sends
    assert said.effects == [bench.delivered(Reply(3, None))]
    assert bench.lost(bench.call("start_tasks", (assignment("late"),)).sends) == [(HeldAttempt("late", 0),)]
    assert bench.call("dismiss").sends == [Sent(bench.registry, "dismissed", (bench.row.id,))]


def test_a_unary_worker_that_said_goodbye_may_finish():
    bench = Bench(is_batched=False)
    bench.open()
    bench.call("start_tasks", (assignment(),))
    said = bench.call("stop_worker", bench.gateway, StopWorker(3, bench.row.tenant_id, bench.row.id))
    assert bench.lost(said.sends) == []
    assert bench.call("done", ("task",)).sends == [Sent(bench.registry, "forget_worker", (bench.row.id,))]


def test_a_paused_worker_is_closed_and_a_change_is_recorded_before_it_is_answered():
    bench = Bench()
    bench.open()
    said = bench.call("pause", bench.gateway, PauseWorker(4, bench.row.tenant_id, bench.row.id, True))
    assert said.sends == [bench.sent_open(False)]
    assert said.records[0].is_paused
    assert said.effects[0].args[0][0].value.is_paused
    said = bench.call(
        "upsert_labels", bench.gateway, UpsertLabels(5, bench.row.tenant_id, bench.row.id, (("zone", 2),))
    )
    assert said.records[0].labels == '{"size":"big","zone":2}'
    labels = (("size", "big"), ("zone", 2))
    assert said.sends == [Sent(bench.queue, "set_labels", (bench.row.id, labels))]


def test_a_worker_that_revives_brings_its_labels():
    bench = Bench()
    bench.open()
    bench.pass_time(31)
    (joined,) = [sent for sent in bench.beat().sends if sent.method == "put_worker"]
    assert joined.args[3] == (("size", "big"),)


# ---------------------------------------------------------------- batches


def test_a_batch_goes_to_the_newest_stream_as_a_whole_and_uses_one_slot():
    bench = Bench()
    bench.open("s1")
    bench.open("s2")
    assert bench.call("start_batches", (batch("a", "b"),)).sends == [
        bench.delivered(StartBatches("s2", (batch("a", "b"),)))
    ]
    bench.call("start_tasks", (assignment("c"),))
    message = PauseWorker(9, bench.row.tenant_id, bench.row.id, None)

    def used():
        ((reply,),) = [sent.args[0] for sent in bench.call("pause", bench.gateway, message).effects]
        return reply.value.used_slots

    assert used() == (("default", 2),)
    bench.call("done", ("a",))
    assert used() == (("default", 2),)
    bench.call("done", ("b",))
    assert used() == (("default", 1),)


def test_a_batch_for_a_worker_that_is_gone_comes_back_by_its_members():
    bench = Bench()
    bench.open()
    bench.pass_time(31)
    said = bench.call("start_batches", (batch("a", "b"),))
    assert bench.lost(said.sends) == [(HeldAttempt("a", 0), HeldAttempt("b", 0))]


def test_a_batched_worker_is_sent_again_as_a_batch_what_it_does_not_have_of_one():
    bench = Bench()
    bench.open(in_flight=())
    bench.call("start_tasks", (assignment("alone"),))
    bench.call("start_batches", (batch("a", "b"), batch("c", "d", "e", batch_id="other")))
    bench.call("done", ("e",))
    bench.close()
    said = bench.open("s2", in_flight=(HeldAttempt("a", 0), HeldAttempt("b", 0)))
    assert bench.delivered(StartTasks("s2", (assignment("alone"),))) in said.sends
    assert bench.delivered(StartBatches("s2", (batch("c", "d", batch_id="other"),))) in said.sends
    assert len([sent for sent in said.sends if sent.method == "deliver"]) == 2


def test_a_stream_that_outlived_a_rebuild_gets_batches_again_of_which_nothing_has_started():
    bench = Bench()
    bench.call("mark_recovered")
    bench.call("holds_batches", ((batch("a", "b"), False), (batch("c", "d", batch_id="started"), True)))
    said = bench.open(request_id=0)
    assert [sent.args[0] for sent in said.sends if sent.method == "deliver"] == [
        (StartBatches("s1", (batch("a", "b"),)),)
    ]
    bench.call("started", ("a",))
    assert [sent for sent in bench.open("s2", request_id=0).sends if sent.method == "deliver"] == []


def test_members_that_a_unary_worker_does_not_confirm_are_taken_back():
    bench = Bench(is_batched=False)
    bench.open()
    bench.call("start_batches", (batch("a", "b"),))
    bench.close()
    bench.open("s2")
    bench.call("started", ("b",))
    sends = []
    for _ in range(3):
        bench.beat()
        sends += bench.pass_time(4)
    assert bench.lost(sends) == [(HeldAttempt("a", 0),)]


def test_a_goodbye_takes_batches_back_too():
    bench = Bench()
    bench.open()
    bench.call("start_batches", (batch("a", "b"),))
    said = bench.call("stop_worker", bench.gateway, StopWorker(0, bench.row.tenant_id, bench.row.id))
    assert bench.lost(said.sends) == [(HeldAttempt("a", 0), HeldAttempt("b", 0))]
    assert bench.probe.actor._batches.spared_units == 0
