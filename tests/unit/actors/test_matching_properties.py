"""Any order of events at the matcher, with all that a demand can ask for, against a model that searches everything."""

from collections import defaultdict
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broadaxe_actors import backlog, savings
from broadaxe_actors.matching import Matcher
from tests.unit.actors.matching_model import Model, ModelWorker, demand, label, ready

ACTIONS = ("a:a", "b:b", "c:c")
WORKERS = tuple(f"w{number}" for number in range(5))
KEYS = ("k0", "k1")
POOLS = (("default", 1), ("gpu", 1))
GROUPS = ("", "g1", "g2")
LABELS = (
    (),
    (("zone", "eu"),),
    (("zone", "us"), ("memory", 8)),
    (("memory", 16),),
    (("zone", "eu"), ("memory", 32)),
)
REQUIRED = (label("memory", 8, "GREATER_THAN_OR_EQUAL", required=True), label("zone", "eu", weight=50))
PREFERRED = (label("zone", "eu", weight=30), label("zone", "us", "NOT_EQUAL", weight=-10))


def demands_of(action):
    """Fewer than are compared at a time, so that the order is exact."""
    return (
        demand(action),
        demand(action, (("default", 2),)),
        demand(action, POOLS),
        demand(action, labels=REQUIRED),
        demand(action, labels=PREFERRED),
        demand(action, worker_id="w0"),
        demand(action, limits=(("k0", 1),)),
        demand(action, limits=(("k0", 1), ("k1", 2))),
        demand(action, limits=(("k1", 1), ("k0", 2))),
    )


DEMANDS = tuple(each for action in ACTIONS for each in demands_of(action))
WORKER = st.sampled_from(WORKERS)
JOINED = st.frozensets(st.sampled_from(ACTIONS), min_size=1)


class MatcherMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self):
        super().__init__()
        self.matcher = Matcher()
        self.model = Model()
        self.count = 0
        self.turns = {}
        """Model: when each action, and each lane of one at a priority, was last served or came to be."""
        self.asked = defaultdict(int)
        """By bucket: units that the matcher said it could use."""
        self.limits = {}

    @initialize(
        workers=st.lists(
            st.tuples(WORKER, JOINED, st.integers(1, 3), st.integers(0, 2), st.sampled_from(LABELS))
        ),
        waiting=st.lists(st.tuples(st.sampled_from(DEMANDS), st.sampled_from(GROUPS), st.integers(1, 4))),
    )
    def begin(self, workers, waiting):
        for worker in workers:
            self.join(*worker, True)
        for need, group, priority in waiting:
            self.push(need, group, priority, 2, None)
        for key in KEYS:
            self.settle()
            self.grant(key, 2)

    # ------------------------------------------------------------ task runs

    @rule(
        need=st.sampled_from(DEMANDS),
        group=st.sampled_from(GROUPS),
        priority=st.integers(1, 4),
        times=st.integers(1, 4),
        prefers=st.none() | WORKER,
    )
    def push(self, need, group, priority, times, prefers):
        for _ in range(times):
            self.count += 1
            is_plain = not need.labels and need.worker_id is None
            item = ready(f"t{self.count}", need, group, priority, prefers=prefers if is_plain else None)
            self.matcher.push(item)
            for name in ((need.action,), (need.action, priority, group)):
                if not any(self.names(other)[: len(name)] == name for other in self.model.waiting):
                    self.count += 1
                    self.turns[name] = self.count
            self.model.waiting.append(item)
        self.check_over_limit()

    @staticmethod
    def names(item):
        return item.demand.action, item.queue_priority, item.group_key

    @rule(actions=st.sets(st.sampled_from(ACTIONS), min_size=1), is_paused=st.booleans())
    def pause(self, actions, is_paused):
        self.matcher.set_paused(sorted(actions), is_paused=is_paused)
        self.model.paused = self.model.paused | actions if is_paused else self.model.paused - actions

    # ------------------------------------------------------------ workers

    @rule(
        worker_id=WORKER,
        actions=JOINED,
        default=st.integers(0, 3),
        gpu=st.integers(0, 2),
        labels=st.sampled_from(LABELS),
        is_open=st.booleans(),
    )
    def join(self, worker_id, actions, default, gpu, labels, is_open):
        total = {"default": default, "gpu": gpu}
        self.matcher.put_worker(worker_id, actions, total, labels)
        if worker_id not in self.model.workers:
            self.model.workers[worker_id] = ModelWorker(actions, total, labels)
        if is_open:
            self.set_open(worker_id, True)

    @rule(worker_id=WORKER, is_open=st.booleans())
    def set_open(self, worker_id, is_open):
        self.matcher.set_open(worker_id, is_open=is_open)
        if worker_id in self.model.workers:
            self.model.workers[worker_id].is_open = is_open

    @rule(worker_id=WORKER, labels=st.sampled_from(LABELS))
    def set_labels(self, worker_id, labels):
        self.matcher.set_labels(worker_id, labels)
        if worker_id in self.model.workers:
            self.model.workers[worker_id].labels = dict(labels)

    @rule(worker_id=WORKER)
    def leave(self, worker_id):
        self.matcher.remove_worker(worker_id)
        self.model.workers.pop(worker_id, None)

    @rule(data=st.data(), is_refused=st.booleans(), twice=st.booleans())
    def release(self, data, is_refused, twice):
        held = self.held()
        if held:
            self.give_back(*data.draw(st.sampled_from(held)), is_refused=is_refused, twice=twice)

    def held(self):
        return [(worker_id, key) for worker_id, worker in self.model.workers.items() for key in worker.held]

    def give_back(self, worker_id, key, *, is_refused, twice):
        for _ in range(1 + twice):
            (self.matcher.undo if is_refused else self.matcher.release)(worker_id, *key)
        del self.model.workers[worker_id].held[key]
        spent = self.model.spent.pop(key, {})
        if is_refused:
            for name, units in spent.items():
                self.model.have[name] += units

    # ------------------------------------------------------------ buckets

    @rule()
    def settle(self):
        if not self.matcher.can_match():
            for key, units in self.matcher.wanted():
                waiting = [item for item in self.model.waiting if key in dict(item.demand.limits)]
                most = sum(dict(item.demand.limits)[key] for item in waiting)
                assert not units or units + self.model.have[key] <= most, "no more than can be used"
                self.asked[key] = units
            for key, units in self.matcher.unneeded():
                assert not any(key in dict(item.demand.limits) for item in self.model.waiting)
                assert units == self.model.have.pop(key)

    @rule(key=st.sampled_from(KEYS), units=st.integers(1, 5))
    def grant(self, key, units):
        units = min(units, self.asked[key])
        if units:
            self.asked[key] -= units
            self.matcher.grant(key, units)
            self.model.have[key] += units

    @rule(key=st.sampled_from(KEYS))
    def expire(self, key):
        self.matcher.expire(key)
        self.model.have[key] = 0
        for spent in self.model.spent.values():
            spent.pop(key, None)

    @rule()
    def no_answer(self):
        self.matcher.no_answer()

    @rule(key=st.sampled_from(KEYS), limit=st.none() | st.integers(0, 3))
    def limit_is(self, key, limit):
        if self.asked[key] or self.model.have[key]:
            self.matcher.limit_is(key, limit)
            self.limits[key] = limit
            self.check_over_limit()

    def check_over_limit(self):
        for task_run_id, _, key, units, limit in self.matcher.over_limit():
            (item,) = [item for item in self.model.waiting if item.task_run_id == task_run_id]
            assert dict(item.demand.limits)[key] == units > limit == self.limits[key]
            self.model.waiting.remove(item)

    # ------------------------------------------------------------ matching

    @rule(limit=st.integers(1, 10))
    def match(self, limit):
        self.model.follow_savings(self.matcher.savings())
        for proposal in self.matcher.match(limit):
            possible = self.model.could_run()
            item = self.model.take(proposal)
            self.check_order(item, possible)

    def check_order(self, item, possible):
        action, priority, group = self.names(item)
        # Who of several demands gets the credits of a bucket is decided by who waits for it, a few at a time.
        possible = [
            other for other in possible if not other.demand.limits or other.demand.key == item.demand.key
        ]
        turn = self.turns[(action,)]
        assert turn == min(self.turns[(other.demand.action,)] for other in possible), "actions in turn"
        same = [other for other in possible if other.demand.action == action]
        assert priority == max(other.queue_priority for other in same), "priority"
        lanes = [other for other in same if other.queue_priority == priority]
        first = min(self.turns[self.names(other)] for other in lanes)
        assert self.turns[action, priority, group] == first, "lanes in turn"
        assert item is next(other for other in lanes if other.group_key == group), "first in, first out"
        self.count += 1
        self.turns[(action,)] = self.turns[action, priority, group] = self.count

    @rule()
    def run_dry(self):
        for _ in range(200):
            self.match(10)
            self.settle()
            if not self.matcher.can_match():
                return
        raise AssertionError("it never comes to an end")

    @invariant()
    def nothing_that_could_run_is_forgotten(self):
        self.model.follow_savings(self.matcher.savings())
        if not self.matcher.can_match():
            assert not self.model.could_run()
            wanted = {
                item.demand.slots
                for item in self.model.waiting
                if item.demand.action not in self.model.paused
            }
            assert wanted >= set(self.matcher.savings().values()), "nothing is saved up for nobody"

    @invariant()
    def slots_and_counts_agree(self):
        for worker_id, worker in self.model.workers.items():
            free = worker.free()
            assert min(free.values(), default=0) >= 0
            assert self.matcher.slots_of(worker_id) == (worker.total, dict(free))
        waiting = defaultdict(int)
        for item in self.model.waiting:
            waiting[item.demand.action] += 1
        assert self.matcher.ready_counts() == waiting

    @invariant()
    def credits_agree(self):
        for key in KEYS:
            known = self.matcher._credits._keys.get(key)
            assert self.model.have[key] == (known.have if known else 0)


MatcherMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestMatcher = MatcherMachine.TestCase


def live(seed, steps=250):
    """A long life with much to do; hypothesis finds short ones."""
    rng = Random(seed)
    machine = MatcherMachine()
    pick = rng.choice
    demands = rng.sample(DEMANDS, rng.randint(1, len(DEMANDS)))
    for _ in range(rng.randint(1, 4)):
        machine.join(
            pick(WORKERS), frozenset(ACTIONS), rng.randint(1, 3), rng.randint(0, 2), pick(LABELS), True
        )

    def push():
        machine.push(
            pick(demands), pick(GROUPS), rng.randint(1, 4), rng.randint(1, 4), pick((None, *WORKERS))
        )

    def join():
        actions = frozenset(rng.sample(ACTIONS, rng.randint(1, 3)))
        machine.join(
            pick(WORKERS), actions, rng.randint(0, 3), rng.randint(0, 2), pick(LABELS), rng.random() < 0.8
        )

    def release():
        for each in machine.held():
            if rng.random() < 0.3:
                machine.give_back(*each, is_refused=rng.random() < 0.3, twice=rng.random() < 0.1)

    often = [
        push,
        release,
        release,
        machine.run_dry,
        lambda: machine.match(rng.randint(1, 3)),
        machine.settle,
        lambda: machine.grant(pick(KEYS), rng.randint(1, 5)),
        lambda: machine.grant(pick(KEYS), rng.randint(1, 5)),
    ]
    seldom = [
        join,
        lambda: machine.leave(pick(WORKERS)),
        lambda: machine.set_open(pick(WORKERS), rng.random() < 0.7),
        lambda: machine.set_labels(pick(WORKERS), pick(LABELS)),
        lambda: machine.pause({pick(ACTIONS)}, rng.random() < 0.3),
        lambda: machine.expire(pick(KEYS)),
        machine.no_answer,
        lambda: machine.limit_is(pick(KEYS), pick((None, 1, 2, 3, 3, 3))),
    ]
    for _ in range(steps):
        pick(seldom if rng.random() < 0.2 else often)()
        machine.nothing_that_could_run_is_forgotten()
        machine.slots_and_counts_agree()
        machine.credits_agree()


@pytest.mark.parametrize("block", range(8))
def test_long_lives_keep_every_rule(block, monkeypatch):
    # So that saving up is not rare.
    monkeypatch.setattr(savings, "PATIENCE", 1 + block)
    if block % 2:
        # What nothing waits for is forgotten at once.
        monkeypatch.setattr(backlog, "MAX_NEEDS", 2)
    for seed in range(block * 10, block * 10 + 10):
        try:
            live(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
