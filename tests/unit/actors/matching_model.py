"""What a matcher must do, said plainly: every task run, worker and bucket in lists that are searched from end to end."""

from collections import defaultdict

from broadaxe_actors.matching import Demand, DesiredLabel, Ready
from broadaxe_actors.savings import AT_ONCE

ONE = (("default", 1),)


def demand(action="a:a", slots=ONE, labels=(), worker_id=None, limits=()):
    key = repr((action, slots, labels, worker_id, limits))
    return Demand(key, action, slots, labels, worker_id, limits)


def ready(task, need=None, group="", priority=1, attempt=0, seq=0, prefers=None):
    return Ready(task, attempt, need or demand(), group, priority, seq, prefers)


def label(key, value, comparator="EQUAL", weight=100, *, required=False):
    return DesiredLabel(key, value, comparator, weight, required)


class ModelWorker:
    def __init__(self, actions, total, labels):
        self.actions = actions
        self.total = total
        self.labels = dict(labels)
        self.is_open = False
        self.held = {}
        self.saves_for = None

    def free(self):
        free = defaultdict(int, self.total)
        for slots in self.held.values():
            for pool, units in slots:
                free[pool] -= units
        return free

    def fits(self, need):
        free = self.free()
        return (
            self.is_open
            and self.saves_for in (None, need.slots)
            and need.action in self.actions
            and all(free[pool] >= units for pool, units in need.slots)
        )


class Model:
    """Everything that waits, runs and is granted."""

    def __init__(self):
        self.waiting = []
        """Items in the order in which they were pushed."""
        self.workers = {}
        self.paused = set()
        self.have = defaultdict(int)
        """Credits by bucket that may be spent."""
        self.spent = {}
        """Limits by (task run, attempt), of the window under way."""

    def weight(self, need, worker_id):
        """What a worker is worth to a demand; None if it may not have it."""
        worker = self.workers[worker_id]
        if need.worker_id is not None:
            return 0 if worker_id == need.worker_id else None
        weight = 0
        for wish in need.labels:
            if wish.is_met(worker.labels):
                weight += wish.weight
            elif wish.required:
                return None
        return weight

    def follow_savings(self, savings):
        """Whom the matcher has saving up: at times wasteful, never for what would fit anyway or could not at all."""
        assert len(savings) <= AT_ONCE
        for worker_id, worker in self.workers.items():
            worker.saves_for = savings.get(worker_id)
            assert worker.saves_for is None or worker.is_open

    def candidates(self, need):
        """Workers that could take a task run of a demand now, with their weights."""
        found = {}
        for worker_id, worker in self.workers.items():
            if worker.fits(need):
                weight = self.weight(need, worker_id)
                if weight is not None:
                    found[worker_id] = weight
        return found

    def has_credits(self, need):
        return all(self.have[key] >= units for key, units in need.limits)

    def could_run(self):
        """Items that have a slot and credits and are not paused."""
        known = {}
        found = []
        for item in self.waiting:
            need = item.demand
            if need.key not in known:
                known[need.key] = (
                    need.action not in self.paused and self.has_credits(need) and bool(self.candidates(need))
                )
            if known[need.key]:
                found.append(item)
        return found

    def take(self, proposal):
        """Check one proposal against all rules that hold whatever the order of actions, and follow it. Returns its item."""
        item = next(
            item
            for item in self.waiting
            if (item.task_run_id, item.attempt) == (proposal.task_run_id, proposal.attempt)
        )
        need = item.demand
        assert need.action not in self.paused
        assert proposal.slots == need.slots
        candidates = self.candidates(need)
        assert proposal.worker_id in candidates, "the worker is open, serves the action, fits and may have it"
        if item.prefers in candidates:
            assert proposal.worker_id == item.prefers
        else:
            assert candidates[proposal.worker_id] == max(candidates.values()), (
                "the best of those that are free"
            )
        assert self.has_credits(need)
        for other in self.waiting:
            if other is item:
                break
            if other.demand is not need and other.demand.key != need.key:
                continue
            assert (other.group_key, other.queue_priority) != (item.group_key, item.queue_priority), (
                "first in, first out"
            )
        self.waiting.remove(item)
        if self.workers[proposal.worker_id].saves_for == need.slots:
            self.workers[proposal.worker_id].saves_for = None
        self.workers[proposal.worker_id].held[item.task_run_id, item.attempt] = need.slots
        for key, units in need.limits:
            self.have[key] -= units
        if need.limits:
            self.spent[item.task_run_id, item.attempt] = dict(need.limits)
        return item
