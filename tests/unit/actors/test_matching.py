"""Who runs next, and where: the matcher alone, a rule at a time, and the queue actor around it. See also `test_matching_properties`."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_actors.batches import TICKET, BatchKey
from broadaxe_actors.matching import LabelSlots, Matcher, Proposal
from broadaxe_actors.runtime import Directory
from broadaxe_actors.runtime.testing import Probe, Sent, peer
from broadaxe_actors.savings import PATIENCE
from broadaxe_actors.tenant_queue import ANSWER_US, MATCH_SLICE, TenantQueue
from tests.unit.actors import matching_model as model
from tests.unit.actors.matching_model import ONE, demand, label

ACTIONS = ("a:a", "b:b", "c:c")


def ready(task, action="a:a", slots=ONE, priority=1, attempt=0):
    return model.ready(task, demand(action, slots), priority=priority, attempt=attempt)


def open_worker(matcher, worker_id, *actions, **total):
    matcher.put_worker(worker_id, frozenset(actions or ACTIONS), total or {"default": 1})
    matcher.set_open(worker_id, is_open=True)


def push(matcher, *names, **about):
    for name in names:
        matcher.push(model.ready(name, **about))


def serve(matcher, times, limit=10):
    """Let whoever is proposed end at once. The names in order."""
    order = []
    for _ in range(times):
        for proposal in matcher.match(limit):
            order.append(proposal.task_run_id)
            matcher.release(proposal.worker_id, proposal.task_run_id, proposal.attempt)
    return order


def pairs(proposals):
    return [(proposal.task_run_id, proposal.worker_id) for proposal in proposals]


def test_actions_of_one_worker_take_turns():
    """With one slot and more work of two actions than ever fits, neither has every slot."""
    matcher = Matcher()
    open_worker(matcher, "w", "a:a", "b:b")
    for number in range(10):
        matcher.push(ready(f"a{number}", "a:a"))
        matcher.push(ready(f"b{number}", "b:b"))
    order = []
    for _ in range(8):
        (proposal,) = matcher.match(10)
        order.append(proposal.task_run_id[0])
        matcher.release("w", proposal.task_run_id, proposal.attempt)
    assert sorted(order) == ["a"] * 4 + ["b"] * 4
    assert all(first != second for first, second in pairwise(order))


def test_equal_workers_share_in_turn():
    matcher = Matcher()
    for name in ("u", "v", "w"):
        open_worker(matcher, name, default=2)
    for number in range(6):
        matcher.push(ready(f"t{number}"))
    assert [proposal.worker_id for proposal in matcher.match(10)] == ["u", "v", "w", "u", "v", "w"]


def test_a_release_that_comes_after_the_worker_came_back_frees_nothing():
    matcher = Matcher()
    open_worker(matcher, "w", default=1)
    matcher.push(ready("old"))
    matcher.match(1)
    matcher.remove_worker("w")
    open_worker(matcher, "w", default=1)
    matcher.push(ready("new"))
    assert len(matcher.match(1)) == 1
    matcher.release("w", "old", 0)
    matcher.push(ready("third"))
    assert matcher.match(1) == []


def test_an_attempt_that_its_worker_told_of_while_it_stood_in_line_takes_one_slot():
    matcher = Matcher()
    open_worker(matcher, "w", default=2)
    matcher.push(ready("t"))
    matcher.take("w", "t", 0, ONE)
    assert matcher.match(5) == []
    assert matcher.slots_of("w") == ({"default": 2}, {"default": 1})
    matcher.release("w", "t", 0)
    assert matcher.slots_of("w") == ({"default": 2}, {"default": 2})


@given(held=st.integers(0, 5), total=st.integers(0, 5))
def test_a_worker_with_more_than_its_slots_gets_nothing(held, total):
    matcher = Matcher()
    open_worker(matcher, "w", default=total)
    for number in range(held):
        matcher.take("w", f"h{number}", 0, ONE)
    for number in range(10):
        matcher.push(ready(f"t{number}"))
    assert len(matcher.match(20)) == max(0, total - held)


# ---------------------------------------------------------------- lanes and priorities


def test_a_large_group_does_not_hold_up_small_ones():
    matcher = Matcher()
    open_worker(matcher, "w")
    push(matcher, *(f"large{number}" for number in range(1_000)), group="large")
    for group in range(50):
        push(matcher, *(f"small{group}" for _ in range(10)), group=f"small{group}")
    order = serve(matcher, 51 * 10)
    assert Counter(order[-51:]).keys() == {"large9"} | {f"small{group}" for group in range(50)}
    assert sum(name.startswith("large") for name in order) == 10


def test_ten_thousand_lanes_take_turns():
    matcher = Matcher()
    open_worker(matcher, "w", default=10)
    for round_number in range(2):
        for lane in range(10_000):
            push(matcher, f"{round_number} {lane}", group=str(lane))
    order = serve(matcher, 2_000)
    assert order == [f"{round_number} {lane}" for round_number in range(2) for lane in range(10_000)]


def test_higher_priorities_go_first_whatever_the_demand_or_lane():
    matcher = Matcher()
    push(matcher, "low", need=demand(), priority=1)
    push(matcher, "middle", need=demand(labels=(label("zone", "eu"),)), priority=2, group="g")
    push(matcher, "high", need=demand(slots=(("default", 2),)), priority=3)
    push(matcher, "again", need=demand(worker_id="w"), priority=4)
    open_worker(matcher, "w", default=2)
    assert serve(matcher, 4, limit=1) == ["again", "high", "middle", "low"]


def test_without_ageing_the_lowest_priority_may_wait_for_ever():
    matcher = Matcher()
    open_worker(matcher, "w")
    push(matcher, "low", priority=1)
    push(matcher, *["high"] * 500, priority=3)
    assert "low" not in serve(matcher, 500)


def test_ageing_takes_one_of_a_lower_priority_after_so_many_of_higher_ones():
    matcher = Matcher(priority_ageing=3)
    open_worker(matcher, "w")
    push(matcher, *["1"] * 3, priority=1)
    push(matcher, *["2"] * 3, priority=2)
    push(matcher, *["3"] * 9, priority=3)
    assert "".join(serve(matcher, 15)) == "333123313231332"


def test_retries_are_not_overtaken_by_age_and_do_not_age_others():
    matcher = Matcher(priority_ageing=2)
    open_worker(matcher, "w")
    push(matcher, *["low"] * 2, priority=1)
    push(matcher, *["retry"] * 6, priority=4)
    push(matcher, *["high"] * 3, priority=3)
    assert serve(matcher, 9) == ["retry"] * 6 + ["high", "high", "low"]


# ---------------------------------------------------------------- slots


def test_many_units_neither_block_others_nor_wait_behind_them():
    matcher = Matcher()
    open_worker(matcher, "w", "a:a", "b:b", default=3)
    push(matcher, *["large"] * 5, need=demand("a:a", (("default", 3),)))
    matcher.take("w", "held", 0, ONE)
    push(matcher, *(f"small{number}" for number in range(5)), need=demand("b:b"))
    first = [proposal.task_run_id for proposal in matcher.match(10)]
    assert first == ["small0", "small1"], "two units are free, and not for the large one"
    for task in ("held", *first):
        matcher.release("w", task, 0)
    assert serve(matcher, 10)[:5] == ["large", "small2", "small3", "small4", "large"]


def test_units_of_several_pools_are_of_one_worker():
    matcher = Matcher()
    need = demand("a:a", (("default", 1), ("gpu", 1)))
    open_worker(matcher, "v", default=2)
    open_worker(matcher, "u", gpu=2)
    push(matcher, "t", need=need)
    assert matcher.match(10) == []
    open_worker(matcher, "w", default=1, gpu=1)
    assert pairs(matcher.match(10)) == [("t", "w")]


def test_a_slot_that_comes_free_is_told_to_few_of_many_that_wait():
    matcher = Matcher()
    actions = [f"{number}:t" for number in range(500)]
    open_worker(matcher, "w", *actions)
    matcher.take("w", "held", 0, ONE)
    for action in actions:
        push(matcher, action, action, need=demand(action))
    while matcher.can_match():
        assert matcher.match(10) == []
    matcher.release("w", "held", 0)
    for action in actions[:100]:
        (proposal,) = matcher.match(10)
        assert proposal.task_run_id == action
        matcher.release("w", action, 0)
        assert sum(not need.is_blocked for need in matcher._needs.values()) <= 2


# ---------------------------------------------------------------- labels


def labelled(matcher, **workers):
    for worker_id, (labels, units) in workers.items():
        matcher.put_worker(worker_id, frozenset(ACTIONS), {"default": units}, tuple(labels.items()))
        matcher.set_open(worker_id, is_open=True)


def test_the_highest_weight_that_is_free_wins_and_ties_are_shared_in_turn():
    matcher = Matcher()
    labelled(
        matcher,
        both=({"zone": "eu", "disk": "ssd"}, 1),
        u=({"zone": "eu"}, 2),
        v=({"zone": "eu"}, 2),
        no=({}, 1),
    )
    need = demand(labels=(label("zone", "eu", weight=10), label("disk", "ssd", weight=1)))
    push(matcher, *"abcdefg", need=need)
    assert [worker for _, worker in pairs(matcher.match(10))] == ["both", "u", "v", "u", "v", "no"]
    matcher.release("both", "a", 0)
    assert pairs(matcher.match(10)) == [("g", "both")]


def test_required_labels_wait_for_a_worker_that_has_them():
    matcher = Matcher()
    labelled(matcher, w=({"model": "small"}, 5))
    push(matcher, "t", need=demand(labels=(label("model", "large", required=True),)))
    assert matcher.match(10) == []
    labelled(matcher, x=({"model": "large"}, 1))
    assert pairs(matcher.match(10)) == [("t", "x")]


def test_changed_labels_count_from_the_next_match_on():
    matcher = Matcher()
    labelled(matcher, w=({"model": "small"}, 5))
    need = demand(labels=(label("model", "large", required=True),))
    push(matcher, "t1", "t2", need=need)
    assert matcher.match(10) == []
    matcher.set_labels("w", (("model", "large"),))
    assert pairs(matcher.match(1)) == [("t1", "w")]
    matcher.set_labels("w", ())
    assert matcher.match(10) == []


def test_many_that_want_the_same_worker_have_it_in_turn():
    """More label demands than are woken at a time; each gets its share."""
    matcher = Matcher()
    labelled(matcher, w=({f"l{number}": 1 for number in range(100)}, 1))
    for number in range(100):
        need = demand(labels=(label(f"l{number}", 1, required=True),))
        push(matcher, *[str(number)] * 3, need=need, group=str(number))
    order = serve(matcher, 300)
    assert Counter(order[:200]).keys() == {str(number) for number in range(100)}
    assert set(Counter(order).values()) == {3}


def test_label_slots_say_what_workers_with_a_label_have():
    matcher = Matcher()
    labelled(matcher, u=({"zone": "eu", "size": 1}, 3), v=({"zone": "eu"}, 2))
    push(matcher, "t", need=demand(worker_id="u"))
    matcher.match(1)
    assert sorted(matcher.label_slots()) == [
        LabelSlots("size", "1", "default", 3, 1),
        LabelSlots("zone", "eu", "default", 5, 1),
    ]


# ---------------------------------------------------------------- sticky


def test_soft_sticky_takes_the_preferred_worker_if_it_can_and_any_other_if_not():
    matcher = Matcher()
    for name in ("u", "v"):
        open_worker(matcher, name, default=2)
    push(matcher, "t1", "t2", "t3", prefers="v")
    assert pairs(matcher.match(10)) == [("t1", "v"), ("t2", "v"), ("t3", "u")]
    matcher.set_open("u", is_open=False)
    matcher.release("v", "t1", 0)
    push(matcher, "t4", prefers="u")
    push(matcher, "t5", prefers="gone")
    assert pairs(matcher.match(10)) == [("t4", "v")]


def test_hard_sticky_waits_for_its_worker_alone():
    matcher = Matcher()
    open_worker(matcher, "u", default=5)
    push(matcher, "t1", "t2", need=demand(worker_id="w"))
    push(matcher, "free")
    assert pairs(matcher.match(10)) == [("free", "u")]
    open_worker(matcher, "w", default=1)
    assert pairs(matcher.match(10)) == [("t1", "w")]
    matcher.remove_worker("w")
    assert matcher.match(10) == []
    open_worker(matcher, "w", default=1)
    assert pairs(matcher.match(10)) == [("t2", "w")]


def test_hard_sticky_to_a_worker_that_does_not_serve_the_action_waits():
    matcher = Matcher()
    open_worker(matcher, "w", "b:b")
    push(matcher, "t", need=demand("a:a", worker_id="w"))
    assert matcher.match(10) == []
    assert not matcher.can_match()


# ---------------------------------------------------------------- pause


def test_a_paused_action_stands_still_and_goes_on_in_its_order():
    matcher = Matcher()
    matcher.set_paused(("a:a",), is_paused=True)
    open_worker(matcher, "w", "a:a", "b:b")
    push(matcher, "a1", "a2", need=demand("a:a"))
    push(matcher, "b1", need=demand("b:b"))
    assert serve(matcher, 3) == ["b1"]
    push(matcher, "b2", need=demand("b:b"))
    matcher.set_paused(("a:a", "unknown"), is_paused=False)
    assert serve(matcher, 3) == ["a1", "b2", "a2"]


# ---------------------------------------------------------------- credits


def limited(*limits, action="a:a", **about):
    return demand(action, limits=limits, **about)


def test_credits_are_asked_for_when_there_is_a_slot_and_for_no_more_than_there_are_slots():
    matcher = Matcher()
    push(matcher, *"abcdef", need=limited(("k", 2)))
    matcher.match(10)
    assert matcher.wanted() == []
    open_worker(matcher, "w", default=3)
    assert matcher.match(10) == []
    assert matcher.wanted() == [("k", 6)]
    matcher.grant("k", 5)
    assert len(matcher.match(10)) == 2
    assert matcher.wanted() == [], "one more slot, and one unit of its two has been asked for and not come"
    matcher.grant("k", 1)
    assert len(matcher.match(10)) == 1
    assert matcher.wanted() == []


def test_several_buckets_are_taken_all_or_none():
    matcher = Matcher()
    open_worker(matcher, "w", default=9)
    push(matcher, "both", need=limited(("k", 1), ("l", 1)))
    push(matcher, "one", need=limited(("k", 1)))
    matcher.match(10)
    assert sorted(matcher.wanted()) == [("k", 2), ("l", 1)]
    matcher.grant("k", 1)
    assert pairs(matcher.match(10)) == [("one", "w")], "who lacks the other bucket does not sit on this one"
    matcher.grant("l", 1)
    assert matcher.match(10) == []
    matcher.grant("k", 1)
    assert pairs(matcher.match(10)) == [("both", "w")]


def test_a_bucket_that_does_not_answer_holds_up_no_other():
    matcher = Matcher()
    open_worker(matcher, "w", default=2)
    for number in range(6):
        push(matcher, str(number), need=limited((f"k{number}", 1)))
    matcher.match(10)
    assert len(matcher.wanted()) == 2, "as many as there are slots"
    assert matcher.has_unanswered
    matcher.no_answer()
    assert [key for key, _ in matcher.wanted()] == ["k2", "k3"]
    matcher.grant("k3", 1)
    assert pairs(matcher.match(10)) == [("3", "w")]


def test_units_of_a_window_that_has_ended_are_not_spent():
    matcher = Matcher()
    open_worker(matcher, "w", default=2)
    push(matcher, "t1", "t2", need=limited(("k", 1)))
    matcher.match(10)
    matcher.wanted()
    matcher.grant("k", 2)
    assert len(matcher.match(1)) == 1
    matcher.expire("k")
    assert matcher.match(10) == []
    assert matcher.wanted() == [("k", 1)]


@pytest.mark.parametrize("is_over", [False, True])
def test_what_a_refused_proposal_spent_is_for_others_of_the_same_window(is_over):
    matcher = Matcher()
    open_worker(matcher, "w", default=1)
    push(matcher, "t1", "t2", need=limited(("k", 1)))
    matcher.match(10)
    matcher.wanted()
    matcher.grant("k", 1)
    assert pairs(matcher.match(10)) == [("t1", "w")]
    if is_over:
        matcher.expire("k")
    matcher.undo("w", "t1", 0)
    matcher.release("w", "t1", 0)
    assert pairs(matcher.match(10)) == ([] if is_over else [("t2", "w")])
    assert matcher.slots_of("w")[1] == {"default": 1 if is_over else 0}


def test_what_nobody_waits_for_any_more_goes_back():
    matcher = Matcher()
    open_worker(matcher, "w", default=1)
    push(matcher, "t1", need=limited(("k", 1)))
    matcher.match(10)
    assert matcher.wanted() == [("k", 1)]
    matcher.grant("k", 3)
    assert len(matcher.match(10)) == 1
    assert (matcher.wanted(), matcher.unneeded()) == ([], [("k", 2)])
    assert (matcher.wanted(), matcher.unneeded()) == ([], [])


def test_more_units_than_the_limit_leave_at_once_and_wait_while_there_is_none():
    matcher = Matcher()
    open_worker(matcher, "w", default=5)
    push(matcher, "t1", "t2", need=limited(("k", 5)))
    matcher.match(10)
    matcher.wanted()
    matcher.limit_is("k", None)
    assert matcher.over_limit() == ()
    matcher.limit_is("k", 4)
    assert matcher.over_limit() == (("t1", 0, "k", 5, 4), ("t2", 0, "k", 5, 4))
    assert matcher.ready_counts() == {}
    push(matcher, "t3", need=limited(("k", 5)))
    assert matcher.over_limit() == (("t3", 0, "k", 5, 4),)
    push(matcher, "t4", need=limited(("k", 4)))
    assert matcher.over_limit() == ()


def test_credits_go_to_the_highest_priority_that_waits_for_them():
    matcher = Matcher()
    open_worker(matcher, "w", default=1)
    push(matcher, "low", need=limited(("k", 1), ("l", 1)))
    push(matcher, "late", need=limited(("k", 1)))
    push(matcher, "high", need=limited(("k", 1), ("m", 1)), priority=2)
    for _ in range(3):
        matcher.match(10)
        matcher.wanted()
        matcher.no_answer()
    push(matcher, "urgent", need=limited(("k", 1)), priority=3)
    for key in "lm":
        matcher.grant(key, 1)
    matcher.grant("k", 1)
    assert pairs(matcher.match(10)) == [("urgent", "w")]


# ---------------------------------------------------------------- the actor


def test_the_queue_proposes_once_for_everything_in_its_inbox():
    queue = Probe(TenantQueue)
    queue.call("connect", tracker := peer("tracker"))
    queue.call("put_worker", "w", frozenset({"a:a"}), (("default", 5),))
    assert queue.call("set_open", "w", True).is_silent
    assert [sent.method for sent in queue.call("enqueue", [ready("t1")]).sends] == ["match"]
    assert queue.call("enqueue", [ready("t2")]).is_silent
    assert queue.call("match").sends == [
        Sent(tracker, "propose", ((Proposal("t1", 0, "w", ONE), Proposal("t2", 0, "w", ONE)),))
    ]


def test_a_release_wakes_what_was_blocked():
    queue = Probe(TenantQueue)
    queue.call("connect", peer("tracker"))
    queue.call("put_worker", "w", frozenset({"a:a"}), (("default", 1),))
    queue.call("set_open", "w", True)
    queue.call("enqueue", [ready("t1"), ready("t2")])
    queue.call("match")
    said = queue.call("release", [("w", "t1", 0)])
    assert [sent.method for sent in said.sends] == ["match"]
    assert queue.call("match").sends[0].args == ((Proposal("t2", 0, "w", ONE),),)


def test_a_long_match_is_cut_into_slices():
    queue = Probe(TenantQueue)
    queue.call("connect", peer("tracker"))
    queue.call("put_worker", "w", frozenset({"a:a"}), (("default", 1_000),))
    queue.call("set_open", "w", True)
    queue.call("enqueue", [ready(f"t{number}") for number in range(MATCH_SLICE + 1)])
    said = queue.call("match")
    assert len(said.sends[0].args[0]) == MATCH_SLICE
    assert said.sends[1].method == "match"


# ---------------------------------------------------------------- tickets of batches


class TicketBench:
    """A queue with one worker of one slot, and buffers that only listen."""

    def __init__(self):
        self.queue = Probe(TenantQueue)
        self.buffer = peer("buffer")
        self.tracker = peer("tracker")
        self.key = BatchKey("step", "group")
        self.queue.call("connect", self.tracker)
        self.queue.call("connect_buffers", Directory(self.queue.runtime, lambda _: self.buffer))
        self.queue.call("put_worker", "w", frozenset({"a:a"}), (("default", 1),))
        self.queue.call("set_open", "w", True)

    def ask(self, *batch_ids):
        tickets = tuple(ready(batch_id, attempt=TICKET) for batch_id in batch_ids)
        return self.queue.call("ask", self.key, tickets)

    def release(self, task, attempt):
        return self.queue.call("release", [("w", task, attempt)])

    def match(self):
        return self.queue.call("match").sends


def test_a_ticket_stands_in_line_and_its_slot_is_granted_to_the_buffer():
    bench = TicketBench()
    bench.queue.call("enqueue", [ready("t1")])
    assert bench.ask("b1").is_silent
    assert bench.match() == [Sent(bench.tracker, "propose", ((Proposal("t1", 0, "w", ONE),),))]
    bench.queue.call("enqueue", [ready("t2")])
    bench.release("t1", 0)
    assert bench.match() == [Sent(bench.buffer, "granted", ("b1", "w"))]
    assert bench.queue.call("slots_of", "w").result == ({"default": 1}, {"default": 0})
    bench.release("b1", TICKET)
    assert bench.match() == [Sent(bench.tracker, "propose", ((Proposal("t2", 0, "w", ONE),),))]


def test_the_slot_of_a_ticket_that_was_withdrawn_goes_to_the_next():
    bench = TicketBench()
    bench.ask("b1", "b2")
    bench.queue.call("withdraw", ("b1", "unknown"))
    (again,) = bench.match()
    assert again.method == "match"
    assert bench.match() == [Sent(bench.buffer, "granted", ("b2", "w"))]


def test_a_batch_that_a_worker_holds_already_has_one_slot():
    bench = TicketBench()
    held = ("w", "b1", TICKET, ONE)
    bench.queue.call("hold", (held, held))
    assert bench.queue.call("slots_of", "w").result[1] == {"default": 0}
    bench.release("b1", TICKET)
    bench.release("b1", TICKET)
    assert bench.queue.call("slots_of", "w").result[1] == {"default": 1}


def test_what_was_proposed_and_comes_back_is_first_again_once_its_action_goes_on():
    queue = Probe(TenantQueue)
    tracker = peer("tracker")
    queue.call("connect", tracker)
    queue.call("put_worker", "w", frozenset(ACTIONS), (("default", 2),))
    items = [ready(f"task-{number}") for number in range(4)]
    queue.call("enqueue", items)
    queue.call("set_open", "w", True)
    (sent,) = [sent for sent in queue.call("match").sends if sent.method == "propose"]
    proposed = [item.task_run_id for item in sent.args[0]]
    assert proposed == ["task-0", "task-1"]
    queue.call("set_paused", ("a:a",), True)
    queue.call("unspent", tuple(("w", task, 0) for task in proposed))
    queue.call("put_back", items[:2])
    assert queue.call("match").sends == []
    queue.call("set_paused", ("a:a",), False)
    (sent,) = [sent for sent in queue.call("match").sends if sent.method == "propose"]
    assert [item.task_run_id for item in sent.args[0]] == proposed


def test_units_are_told_by_worker():
    matcher = Matcher()
    open_worker(matcher, "w", default=3, gpu=1)
    matcher.push(ready("task"))
    assert len(matcher.match(10)) == 1
    assert matcher.units_by_worker() == {"w": (4, 1)}


# ---------------------------------------------------------------- buckets


class BucketBench:
    """A queue with one worker, and a bucket that only listens."""

    def __init__(self, slots=2):
        self.queue = Probe(TenantQueue)
        self.tracker, self.bucket = peer("tracker"), peer("bucket")
        self.queue.call("connect", self.tracker)
        self.queue.call("connect_buckets", Directory(self.queue.runtime, lambda _: self.bucket))
        self.queue.call("put_worker", "w", frozenset({"a:a"}), (("default", slots),), ())
        self.queue.call("set_open", "w", True)

    def enqueue(self, *items):
        self.queue.call("enqueue", items)
        return self.queue.call("match")

    def bucket_is_told(self, method, units):
        return Sent(self.bucket, method, (units,))


def test_a_bucket_is_asked_once_a_match_and_its_credits_are_used():
    bench = BucketBench()
    need = limited(("k", 1))
    said = bench.enqueue(*(model.ready(name, need) for name in ("t1", "t2", "t3")))
    assert said.sends == [bench.bucket_is_told("ask", 2)]
    assert [(timer.method, timer.delay_us) for timer in said.timers] == [("answers_due", ANSWER_US)]
    assert [sent.method for sent in bench.queue.call("credits", "k", 2).sends] == ["match"]
    (proposed,) = bench.queue.call("match").sends
    assert proposed == Sent(
        bench.tracker, "propose", ((Proposal("t1", 0, "w", ONE), Proposal("t2", 0, "w", ONE)),)
    )


def test_credits_that_come_when_nobody_waits_go_back_at_once():
    bench = BucketBench()
    assert bench.queue.call("credits", "k", 2).sends == [bench.bucket_is_told("give_back", 2)]


def test_a_refused_proposal_gives_its_units_back_or_to_the_next():
    bench = BucketBench(slots=1)
    need = limited(("k", 1))
    bench.enqueue(model.ready("t1", need), model.ready("t2", need))
    bench.queue.call("credits", "k", 1)
    bench.queue.call("match")
    bench.queue.call("unspent", (("w", "t1", 0),))
    (proposed,) = bench.queue.call("match").sends
    assert proposed.args == ((Proposal("t2", 0, "w", ONE),),)
    bench.queue.call("unspent", (("w", "t2", 0),))
    assert bench.queue.call("match").sends == [bench.bucket_is_told("give_back", 1)]


def test_task_runs_beyond_the_limit_are_reported_to_the_tracker():
    bench = BucketBench()
    bench.enqueue(model.ready("t1", limited(("k", 3))))
    said = bench.queue.call("limit_is", "k", 2)
    assert said.sends == [
        Sent(bench.tracker, "over_limit", ((("t1", 0, "k", 3, 2),),)),
        bench.bucket_is_told("ask", 0),
    ]


def test_labels_and_pauses_reach_the_matcher():
    bench = BucketBench()
    need = demand(labels=(label("zone", "eu", required=True),))
    bench.enqueue(model.ready("t1", need))
    bench.queue.call("set_paused", ("a:a",), True)
    bench.queue.call("set_labels", "w", (("zone", "eu"),))
    assert bench.queue.call("match").is_silent
    assert [sent.method for sent in bench.queue.call("set_paused", ("a:a",), False).sends] == ["match"]
    assert bench.queue.call("match").sends[0].args == ((Proposal("t1", 0, "w", ONE),),)
    assert bench.queue.call("label_slots").result == [LabelSlots("zone", "eu", "default", 2, 1)]
    assert bench.queue.call("ready_counts").result == {}


def churn(matcher, worker_id, held, *, starts, push):
    """Narrow task runs come and go; returns what was proposed meanwhile that is not narrow, with how many had started by then."""
    found = []
    started = 0
    while started < starts:
        push()
        for proposal in matcher.match(10):
            held.append(proposal.task_run_id)
            if proposal.slots == ONE:
                started += 1
            else:
                found.append((proposal.task_run_id, started))
        if held:
            matcher.release(worker_id, held.pop(0), 0)
    return found


def narrow_and_wide(wide_slots, total):
    matcher = Matcher()
    matcher.put_worker("w", frozenset({"n:n", "w:w"}), {"default": total})
    matcher.set_open("w", is_open=True)
    numbers = iter(range(100_000))

    def push():
        while matcher.ready_counts().get("n:n", 0) < 5:
            matcher.push(ready(f"n{next(numbers)}", "n:n"))

    push()
    held = [proposal.task_run_id for proposal in matcher.match(total)]
    assert len(held) == total
    matcher.push(ready("wide", "w:w", (("default", wide_slots),)))
    return matcher, held, push


@pytest.mark.parametrize("wide_slots", [2, 4])
def test_task_of_several_slots_does_not_starve_behind_narrow_ones(wide_slots):
    matcher, held, push = narrow_and_wide(wide_slots, 4)
    ((task_run_id, started),) = churn(matcher, "w", held, starts=200, push=push)
    assert task_run_id == "wide"
    assert PATIENCE <= started <= PATIENCE + 10
    assert matcher.savings() == {}  # and the worker takes narrow ones again


def test_nothing_is_saved_for_what_no_worker_could_run():
    matcher, held, push = narrow_and_wide(5, 4)
    assert churn(matcher, "w", held, starts=200, push=push) == []
    assert matcher.savings() == {}


def test_saving_ends_when_the_action_is_paused():
    matcher, held, push = narrow_and_wide(4, 4)
    churn(matcher, "w", held, starts=PATIENCE, push=push)
    assert matcher.savings() == {"w": (("default", 4),)}
    matcher.set_paused(["w:w"], is_paused=True)
    assert matcher.can_match()
    matcher.match(10)
    assert matcher.savings() == {}
    assert churn(matcher, "w", held, starts=100, push=push) == []
    matcher.set_paused(["w:w"], is_paused=False)
    ((task_run_id, _),) = churn(matcher, "w", held, starts=100, push=push)
    assert task_run_id == "wide"


def test_slots_saved_on_a_worker_that_leaves_are_saved_on_another():
    matcher, held, push = narrow_and_wide(4, 4)
    churn(matcher, "w", held, starts=PATIENCE, push=push)
    matcher.put_worker("v", frozenset({"n:n", "w:w"}), {"default": 4})
    matcher.remove_worker("w")
    matcher.set_open("v", is_open=True)
    assert matcher.savings() == {}
    assert "wide" in {proposal.task_run_id for proposal in matcher.match(10)}
