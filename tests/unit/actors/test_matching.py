"""Who runs next, and where: the matcher alone, against a model, and the queue actor around it."""

from collections import defaultdict
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broadaxe_actors.batches import TICKET, BatchKey
from broadaxe_actors.matching import Demand, Matcher, Proposal, Ready
from broadaxe_actors.runtime import Directory
from broadaxe_actors.runtime.testing import Probe, Sent, peer
from broadaxe_actors.tenant_queue import MATCH_SLICE, TenantQueue

ONE = (("default", 1),)
ACTIONS = ("a:a", "b:b", "c:c")
COSTS = (ONE, (("default", 2),), (("default", 1), ("gpu", 1)))


def ready(task, action="a:a", slots=ONE, priority=1, attempt=0, seq=0):
    return Ready(task, attempt, Demand(f"{action}|{slots}|", action, slots), "", priority, seq)


def open_worker(matcher, worker_id, *actions, **total):
    matcher.put_worker(worker_id, frozenset(actions or ACTIONS), total or {"default": 1})
    matcher.set_open(worker_id, is_open=True)


class MatcherMachine(RuleBasedStateMachine):
    """Any order of events: no unit is given twice, lines are first in, first out, and nothing waits beside free capacity."""

    def __init__(self):
        super().__init__()
        self.matcher = Matcher()
        self.count = 0
        self.lines = defaultdict(list)
        """Model: (queue key, priority) to task ids in order."""
        self.workers = {}
        """Model: worker id to actions, total, is open, held."""

    @rule(
        action=st.sampled_from(ACTIONS),
        slots=st.sampled_from(COSTS),
        priority=st.integers(1, 4),
    )
    def push(self, action, slots, priority):
        self.count += 1
        item = ready(f"task-{self.count}", action, slots, priority)
        self.matcher.push(item)
        self.lines[item.demand.key, priority].append(item)

    @rule(
        actions=st.frozensets(st.sampled_from(ACTIONS), min_size=1),
        default=st.integers(0, 3),
        gpu=st.integers(0, 2),
    )
    def join(self, actions, default, gpu):
        self.count += 1
        total = {"default": default, "gpu": gpu}
        self.matcher.put_worker(f"worker-{self.count}", actions, total)
        self.workers[f"worker-{self.count}"] = [actions, total, False, {}]

    @rule(data=st.data(), is_open=st.booleans())
    def set_open(self, data, is_open):
        if self.workers:
            worker_id = data.draw(st.sampled_from(sorted(self.workers)))
            self.matcher.set_open(worker_id, is_open=is_open)
            self.workers[worker_id][2] = is_open

    @rule(data=st.data())
    def leave(self, data):
        if self.workers:
            worker_id = data.draw(st.sampled_from(sorted(self.workers)))
            self.matcher.remove_worker(worker_id)
            del self.workers[worker_id]

    @rule(data=st.data(), twice=st.booleans())
    def release(self, data, twice):
        held = [(worker_id, key) for worker_id, worker in self.workers.items() for key in worker[3]]
        if held:
            worker_id, key = data.draw(st.sampled_from(held))
            for _ in range(1 + twice):
                self.matcher.release(worker_id, *key)
            del self.workers[worker_id][3][key]

    @rule(limit=st.integers(1, 10))
    def match(self, limit):
        for proposal in self.matcher.match(limit):
            self._check(proposal)

    def _check(self, proposal):
        line = next(
            line for line in self.lines.values() if line and line[0].task_run_id == proposal.task_run_id
        )
        item = line.pop(0)
        higher = [
            other
            for (key, priority), others in self.lines.items()
            for other in others
            if key == item.demand.key and priority > item.queue_priority
        ]
        assert not higher, "a higher priority of the same sub-queue goes first"
        actions, total, is_open, held = self.workers[proposal.worker_id]
        assert is_open
        assert item.demand.action in actions
        held[item.task_run_id, item.attempt] = proposal.slots
        used = defaultdict(int)
        for slots in held.values():
            for pool, units in slots:
                used[pool] += units
        assert all(units <= total[pool] for pool, units in used.items())

    @invariant()
    def nothing_waits_beside_free_capacity(self):
        if self.matcher.can_match():
            return  # it has still to be tried
        for line in self.lines.values():
            for item in line[:1]:
                for actions, total, is_open, held in self.workers.values():
                    free = dict(total)
                    for slots in held.values():
                        for pool, units in slots:
                            free[pool] -= units
                    fits = all(free[pool] >= units for pool, units in item.demand.slots)
                    assert not (is_open and item.demand.action in actions and fits)

    @invariant()
    def counts_agree(self):
        assert self.matcher.ready_count() == sum(len(line) for line in self.lines.values())


MatcherMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMatcher = MatcherMachine.TestCase


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
