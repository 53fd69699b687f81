"""Lives of the queue actor with a tracker and buckets around it: messages cross, windows end, proposals are refused, and nothing is lost."""

from collections import Counter, deque
from random import Random

import pytest

from broadaxe_actors.runtime import Directory
from broadaxe_actors.runtime.testing import Probe, peer
from broadaxe_actors.tenant_queue import TenantQueue
from tests.unit.actors.matching_model import demand, ready

LIMITS = {"k0": 3, "k1": 4, "k2": 1}
DEMANDS = (
    demand("a:a"),
    demand("b:b"),
    demand("a:a", limits=(("k0", 1), ("k1", 1))),
    demand("b:b", limits=(("k1", 1), ("k0", 1))),
    demand("a:a", limits=(("k1", 3),)),
    demand("b:b", limits=(("k2", 1),)),
    demand("b:b", limits=(("k2", 1), ("k0", 2)), worker_id="w1"),
)
TOO_MUCH = demand("a:a", limits=(("k0", 1), ("k2", 2)))


class Bucket:
    """A rate limit as the queue sees one: units are handed over some time after they were asked for."""

    def __init__(self, limit):
        self.limit = self.left = limit
        self.wanted = self.in_flight = self.handed = 0
        self.is_closing = self.has_told = False

    def ask(self, units):
        self.wanted = units
        said = [] if self.has_told else [("limit_is", self.limit)]
        self.has_told = True
        return said

    def give_back(self, units):
        assert units <= self.handed, "it gives back what it has"
        self.handed -= units
        self.left += units
        return []

    def spend(self):
        """Take what is wanted; it is handed over by `commit`."""
        if not self.is_closing:
            units = min(self.left, max(0, self.wanted - self.in_flight))
            self.left -= units
            self.in_flight += units

    def end(self):
        """Have the queue drop what it holds of the window; the next begins when it has."""
        if self.is_closing:
            return []
        self.is_closing = True
        return [("credits_over",)]

    def begin(self):
        self.is_closing, self.handed, self.in_flight, self.left = False, 0, 0, self.limit

    def commit(self):
        units, self.in_flight = self.in_flight, 0
        useful = 0 if self.is_closing else min(units, self.wanted)
        self.left += units - useful
        self.wanted -= useful
        self.handed += useful
        return [("credits", useful)] if useful else []


class Life:
    """See the module."""

    def __init__(self, seed):
        self.rng = Random(seed)
        self.queue = Probe(TenantQueue)
        self.buckets = {key: Bucket(limit) for key, limit in LIMITS.items()}
        self.peers = {key: peer(key) for key in LIMITS}
        self.channels = {
            name: deque() for name in ("queue", "tracker", *LIMITS, *(f"of {key}" for key in LIMITS))
        }
        """Messages on their way, by receiver, or by sender to the queue: those keep their order."""
        self.timers = []
        self.waiting, self.running, self.refused = {}, {}, {}
        self.window = Counter()
        self.spent = Counter()
        """By bucket: units of the window under way, as far as the queue knows."""
        self.spends = {}
        """By task run: the windows in which it was proposed."""
        self.count = 0
        self.say("connect", peer("tracker"))
        self.say("connect_buckets", Directory(self.queue.runtime, self.peers.__getitem__))
        for worker_id in ("w0", "w1"):
            self.say("put_worker", worker_id, frozenset({"a:a", "b:b"}), (("default", 2),), ())
            self.say("set_open", worker_id, True)

    # ------------------------------------------------------------ the queue

    def say(self, method, *args):
        said = self.queue.call(method, *args)
        self.timers += said.timers
        for sent in said.sends:
            if sent.method in {"ask", "give_back"}:
                (key,) = [key for key, handle in self.peers.items() if handle is sent.to]
                self.channels[key].append((sent.method, *sent.args))
            elif sent.method == "match":
                self.channels["queue"].append(("match",))
            else:
                if sent.method == "propose":
                    self.note(sent.args[0])
                self.channels["tracker"].append((sent.method, *sent.args))
        self.check()

    def note(self, proposals):
        for proposal in proposals:
            self.spends[proposal.task_run_id] = dict(self.window)
            for key, units in self.waiting[proposal.task_run_id].demand.limits:
                self.spent[key] += units
                assert self.spent[key] <= LIMITS[key], "no window exceeds its limit"

    def unspend(self, item):
        windows = self.spends[item.task_run_id]
        for key, units in item.demand.limits:
            if windows.get(key, 0) == self.window[key]:
                self.spent[key] -= units

    def check(self):
        matcher = self.queue.actor._matcher
        for worker in matcher._workers.values():
            assert min(worker.free.values()) >= 0
        known = matcher._credits._keys
        for key, bucket in self.buckets.items():
            if key in known:
                assert 0 <= known[key].have <= bucket.handed

    # ------------------------------------------------------------ the others

    def deliver(self, name):
        method, *args = self.channels[name].popleft()
        if name == "tracker":
            getattr(self, method)(*args)
        elif name in LIMITS:
            self.channels[f"of {name}"].extend(getattr(self.buckets[name], method)(*args))
        elif name == "queue":
            if method == "unspent":
                self.unspend(self.refused.pop(args[0][0][1]))
            self.say(method, *args)
        else:
            key = name.removeprefix("of ")
            self.say(method, key, *args)
            if method == "credits_over":
                self.window[key] += 1
                self.spent[key] = 0
                self.buckets[key].begin()

    def propose(self, proposals):
        for proposal in proposals:
            item = self.waiting.pop(proposal.task_run_id)
            held = (proposal.worker_id, item.task_run_id, item.attempt)
            if self.rng.random() < 0.2:
                self.refused[item.task_run_id] = item
                self.channels["queue"].append(("unspent", (held,)))
            else:
                self.running[item.task_run_id] = held

    def over_limit(self, items):
        for task_run_id, attempt, key, units, limit in items:
            item = self.waiting.pop(task_run_id)
            assert (attempt, limit) == (item.attempt, LIMITS[key])
            assert dict(item.demand.limits)[key] == units > limit

    def push(self, need=None):
        self.count += 1
        need = need or (TOO_MUCH if self.rng.random() < 0.02 else self.rng.choice(DEMANDS))
        item = ready(f"t{self.count}", need, self.rng.choice(("", "g")), self.rng.randint(1, 3))
        self.waiting[item.task_run_id] = item
        self.channels["queue"].append(("enqueue", (item,)))

    # ------------------------------------------------------------ time

    def step(self):
        rng = self.rng
        choice = rng.random()
        key = rng.choice(tuple(LIMITS))
        if choice < 0.12:
            self.push()
        elif choice < 0.18:
            self.buckets[key].spend()
        elif choice < 0.26:
            self.channels[f"of {key}"].extend(self.buckets[key].commit())
        elif choice < 0.29:
            self.channels[f"of {key}"].extend(self.buckets[key].end())
        elif choice < 0.4:
            self.end_one()
        elif choice < 0.43 and self.timers:
            timer = self.timers.pop()
            self.say(timer.method, *timer.args)
        elif choice < 0.46:
            self.channels["queue"].append(("set_open", rng.choice(("w0", "w1")), rng.random() < 0.8))
        else:
            busy = [name for name, channel in self.channels.items() if channel]
            if busy:
                self.deliver(rng.choice(busy))

    def end_one(self):
        if self.running:
            held = self.running.pop(self.rng.choice(tuple(self.running)))
            self.channels["queue"].append(("release", (held,)))

    def settle(self):
        """Until nothing happens by itself any more."""
        while any(self.channels.values()) or self.timers:
            for name, channel in self.channels.items():
                while channel:
                    self.deliver(name)
            for key, bucket in self.buckets.items():
                bucket.spend()
                self.channels[f"of {key}"].extend(bucket.commit())
            if not any(self.channels.values()) and self.timers:
                timer = self.timers.pop()
                self.say(timer.method, *timer.args)

    def finish(self):
        for worker_id in ("w0", "w1"):
            self.channels["queue"].append(("set_open", worker_id, True))
        for _ in range(1_000):
            self.settle()
            if not self.waiting and not self.running:
                break
            while self.running:
                self.end_one()
            for key, bucket in self.buckets.items():
                self.channels[f"of {key}"].extend(bucket.end())
        assert not self.waiting, "whatever waits has its turn, in some window"
        for worker_id in ("w0", "w1"):
            assert self.queue.actor.slots_of(worker_id) == ({"default": 2}, {"default": 2})
        self.settle()
        assert self.queue.actor.ready_counts() == {}
        for bucket in self.buckets.values():
            assert bucket.wanted == 0
        matcher = self.queue.actor._matcher
        assert all(key.have == 0 for key in matcher._credits._keys.values()), (
            "what nobody waits for went back"
        )


@pytest.mark.parametrize("block", range(8))
def test_no_window_is_exceeded_and_everything_runs_in_the_end(block):
    for seed in range(block * 25, block * 25 + 25):
        try:
            life = Life(seed)
            for _ in range(300):
                life.step()
            life.finish()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
