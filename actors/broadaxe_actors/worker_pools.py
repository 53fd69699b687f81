"""Workers, their free slots, and which of them may run what. Pure.

A `Need` is what a task run asks of a worker: an action, slots, and labels or one certain worker. Its eligible workers are
kept as shelves, in groups by weight:

- Workers that advertise the same actions form a class. A plain need has a shelf of each class that serves its action: the workers
  of the class that its slots fit on now. So a slot costs a class nothing by the number of its actions.
- A need with labels, or for one worker, has a shelf of each worker: that worker, if the slots fit on it now.

A need drops a shelf that it finds empty, and asks to be told when it holds a worker again (`Shelf.untold`). So a need that found
no slot knows of no shelf at all, and a slot that comes free says so to those alone that missed it: a few at a time, as long as
there is a slot left: those first that have waited longest for their turn. (So if more than `LABELLED_AT_ONCE` needs wait for one worker by
labels, one of those not told may go to another that comes free at the same time, though it would like this one better.)
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import chain, count
from typing import TYPE_CHECKING, TypeVar

from broadaxe_actors.worker_labels import DesiredLabel, Label, Labels, weight_of

if TYPE_CHECKING:
    from broadaxe_actors.credits import Receipt
    from broadaxe_actors.lanes import ActionQueue

Slots = tuple[tuple[str, int], ...]
"""Units asked for, by pool."""

K = TypeVar("K")
V = TypeVar("V")

LABELLED_AT_ONCE = 16
"""Needs that one worker with a free slot is offered to at a time, if they wait for it by labels or by name."""
LOOKS = 8
"""How many of many are looked at to find the best."""


class Worker:
    """A worker and its slots."""

    __slots__ = (
        "free",
        "held",
        "id",
        "is_open",
        "labels",
        "own_shelves",
        "saves_for",
        "shelves",
        "spent",
        "total",
        "worker_class",
    )

    def __init__(
        self, worker_id: str, total: dict[str, int], labels: Labels, worker_class: "WorkerClass"
    ) -> None:
        self.id = worker_id
        self.total = total
        self.free = dict(total)
        self.held: dict[tuple[str, int], Slots] = {}
        """Units by (task run, attempt): what is given back twice, or to a worker that came back anew, frees nothing."""
        self.spent: dict[tuple[str, int], tuple[Receipt, ...]] = {}
        """Receipts for rate-limit credits, of those that spent any."""
        self.is_open = False
        self.saves_for: Slots | None = None
        """It takes nothing but what asks for these units: see `savings`."""
        self.labels: dict[str, Label] = dict(labels)
        self.worker_class = worker_class
        self.shelves: list[Shelf] = list(worker_class.shelves.values())
        """All that it may stand on: those of its class, and its own."""
        self.own_shelves: dict[Slots, Shelf] = {}

    def shelf(self, slots: Slots) -> "Shelf":
        """Of this worker alone."""
        shelf = self.own_shelves.get(slots)
        if shelf is None:
            shelf = self.own_shelves[slots] = Shelf(slots, is_own=True)
            self.shelves.append(shelf)
            shelf.put_if_fits(self)
        return shelf


class WorkerClass:
    """Workers with the same set of actions."""

    __slots__ = ("actions", "members", "shelves")

    def __init__(self, actions: frozenset[str]) -> None:
        self.actions = actions
        self.members: dict[str, Worker] = {}
        self.shelves: dict[Slots, Shelf] = {}

    def shelf(self, slots: Slots) -> "Shelf":
        """Of all members."""
        shelf = self.shelves.get(slots)
        if shelf is None:
            shelf = self.shelves[slots] = Shelf(slots, is_own=False)
            for worker in self.members.values():
                worker.shelves.append(shelf)
                shelf.put_if_fits(worker)
        return shelf


class Shelf:
    """Some workers, as far as certain slots fit on them now."""

    __slots__ = ("at_once", "available", "is_own", "needs", "pool", "slots", "units", "untold")

    def __init__(self, slots: Slots, *, is_own: bool) -> None:
        self.slots = slots
        self.pool, self.units = slots[0] if len(slots) == 1 else ("", 0)
        self.is_own = is_own
        """It is of one worker."""
        self.at_once = LABELLED_AT_ONCE if is_own else 1
        """Needs that are told at a time."""
        self.available: dict[Worker, None] = {}
        """Open workers with the units free, the one whose turn it is first."""
        self.needs: dict[Need, None] = {}
        """Whose workers these are."""
        self.untold: list[tuple[int, int, Need]] = []
        """Heap of needs that found it empty, those first whose turn it is."""

    def wait(self, need: "Need", number: int) -> None:
        """A need found it empty. Actions take turns at a class; at one worker, where an action may have many needs, these do."""
        heappush(self.untold, (need.turn if self.is_own else need.action.turn, number, need))

    def fits(self, worker: Worker) -> bool:
        """Whether the units are free on a worker."""
        free = worker.free
        if self.pool:
            return free.get(self.pool, 0) >= self.units
        return all(free.get(pool, 0) >= units for pool, units in self.slots)

    def put_if_fits(self, worker: Worker) -> None:
        """An open worker with the units free stands here."""
        if self.may_take(worker):
            self.available[worker] = None

    def may_take(self, worker: Worker) -> bool:
        """Whether a worker is open for these units, and has them free."""
        return worker.is_open and worker.saves_for in (None, self.slots) and self.fits(worker)


class Need:
    """See the module. `WaitingNeed` adds what waits for it."""

    __slots__ = (
        "action",
        "action_name",
        "groups",
        "homes",
        "is_blocked",
        "is_wide",
        "labels",
        "only",
        "slots",
        "turn",
        "weights",
        "worker_id",
    )

    def __init__(
        self, action: "ActionQueue", slots: Slots, labels: tuple[DesiredLabel, ...], worker_id: str | None
    ) -> None:
        self.action = action
        self.action_name = action.name
        self.slots = slots
        self.is_wide = sum(units for _, units in slots) > 1
        self.labels = labels
        self.worker_id = worker_id
        self.homes: dict[Shelf, int] = {}
        """Its shelves, with their weights."""
        self.only: Shelf | None = None
        """The shelf, if there is just one. It is not dropped, only waited for."""
        self.groups: dict[int, dict[Shelf, None]] = {}
        """By weight: shelves that may hold a worker, the one whose turn it is first."""
        self.weights: list[int] = []
        """Of groups that are not known to be empty, the highest last."""
        self.turn = action.turn
        """When it was last served, or came to be."""
        self.is_blocked = False
        """It found no slot, and has been told of none since."""

    def find(self, numbers: "count[int]") -> Shelf | None:
        """A shelf of the highest weight that holds a worker; those found empty are dropped."""
        only = self.only
        if only is not None:
            if only.available:
                return only
            only.wait(self, next(numbers))
            return None
        weights = self.weights
        while weights:
            group = self.groups[weights[-1]]
            while group:
                shelf = next(iter(group))
                if shelf.available:
                    if len(group) > 1:
                        del group[shelf]
                        group[shelf] = None
                    return shelf
                del group[shelf]
                shelf.wait(self, next(numbers))
            weights.pop()
        return None

    def learn(self, shelf: Shelf) -> bool:
        """A shelf that was dropped holds a worker again. False if that is no news."""
        weight = self.homes.get(shelf)
        if weight is None:
            return False
        group = self.groups.setdefault(weight, {})
        if shelf in group:
            return self.is_blocked
        if not group:
            place = bisect_left(self.weights, weight)
            if place == len(self.weights) or self.weights[place] != weight:
                self.weights.insert(place, weight)
        group[shelf] = None
        return True

    def forget(self, shelf: Shelf) -> None:
        """A shelf has no worker for it any more."""
        weight = self.homes.pop(shelf, None)
        if weight in self.groups:
            self.groups[weight].pop(shelf, None)
        self.only = next(iter(self.homes)) if len(self.homes) == 1 else None
        if self.only is not None:
            self.learn(self.only)

    def room(self, most: int) -> int:
        """How many task runs could have a slot now: `most` at most, and looking at as many workers."""
        found = looks = 0
        groups = (self.groups[weight] for weight in reversed(self.weights))
        for shelf in (self.only,) if self.only is not None else chain.from_iterable(groups):
            for worker in shelf.available:
                fit = (worker.free.get(pool, 0) // units for pool, units in self.slots if units > 0)
                found += min(fit, default=most)
                looks += 1
                if found >= most or looks >= most:
                    return min(found, most)
        return found


class Fleet:
    """The workers of a tenant."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.offers: dict[Shelf, None] = {}
        """Shelves that got a worker while needs waited to be told."""
        self.numbers = count()
        """For what comes first among equals."""
        self._classes: dict[frozenset[str], WorkerClass] = {}
        self._serving: defaultdict[str, dict[WorkerClass, None]] = defaultdict(dict)
        self._by_label: defaultdict[tuple[str, Label], dict[Worker, None]] = defaultdict(dict)
        self._plain: defaultdict[str, dict[Need, None]] = defaultdict(dict)
        self._labelled: defaultdict[str, dict[Need, None]] = defaultdict(dict)
        self._bound: defaultdict[str, dict[Need, None]] = defaultdict(dict)
        """Needs for one worker, by its id."""

    # ------------------------------------------------------------ needs

    def join(self, need: Need) -> None:
        """Find the workers of a new need, and keep them right from now on."""
        if need.worker_id is not None:
            self._bound[need.worker_id][need] = None
            worker = self.workers.get(need.worker_id)
            if worker is not None and need.action_name in worker.worker_class.actions:
                self._put(need, worker.shelf(need.slots), 0)
        elif need.labels:
            self._labelled[need.action_name][need] = None
            for worker in self._candidates(need):
                self._rate(need, worker)
        else:
            self._plain[need.action_name][need] = None
            for worker_class in self._serving.get(need.action_name, ()):
                self._put(need, worker_class.shelf(need.slots), 0)

    def leave(self, need: Need) -> None:
        """Nothing waits for a need any more, and its workers need not be known."""
        if need.worker_id is not None:
            _discard(self._bound, need.worker_id, need)
        else:
            _discard(self._labelled if need.labels else self._plain, need.action_name, need)
        for shelf in need.homes:
            del shelf.needs[need]
            if len(shelf.untold) > 2 * len(shelf.needs) + 64:
                shelf.untold = [item for item in shelf.untold if shelf in item[2].homes]
                heapify(shelf.untold)
        need.homes.clear()
        need.only = None
        need.groups.clear()
        need.weights.clear()

    def _put(self, need: Need, shelf: Shelf, weight: int) -> None:
        need.homes[shelf] = weight
        need.only = shelf if len(need.homes) == 1 else None
        shelf.needs[need] = None
        if shelf.available and not need.is_blocked:
            need.learn(shelf)
            return
        shelf.wait(need, next(self.numbers))
        if shelf.available:
            self.offers[shelf] = None

    def eligible(self, need: Need) -> Iterable[Worker]:
        """Workers that could run it if they had room."""
        if need.worker_id is not None:
            worker = self.workers.get(need.worker_id)
            return [worker] if worker is not None and need.action_name in worker.worker_class.actions else []
        if need.labels:
            found = self._candidates(need)
            return (worker for worker in found if weight_of(need.labels, worker.labels) is not None)
        classes = self._serving.get(need.action_name, ())
        return chain.from_iterable(worker_class.members.values() for worker_class in classes)

    def save_for(self, worker: Worker, slots: Slots | None) -> None:
        """A worker takes nothing but what asks for these units; None: everything again."""
        worker.saves_for = slots
        if worker.id in self.workers:
            self._restock(worker)

    def _candidates(self, need: Need) -> Iterable[Worker]:
        for label in need.labels:
            if label.required and label.comparator == "EQUAL":
                found = self._by_label.get((label.key, label.value), {})
                return [worker for worker in found if need.action_name in worker.worker_class.actions]
        serving = self._serving.get(need.action_name, ())
        return [worker for worker_class in serving for worker in worker_class.members.values()]

    def _rate(self, need: Need, worker: Worker) -> None:
        weight = weight_of(need.labels, worker.labels)
        if weight is not None:
            self._put(need, worker.shelf(need.slots), weight)

    # ------------------------------------------------------------ workers

    def put_worker(
        self, worker_id: str, actions: frozenset[str], total: dict[str, int], labels: Labels
    ) -> None:
        """A worker and its slots; it takes nothing until it is opened. One that is known stays as it is."""
        if worker_id in self.workers:
            return
        worker_class = self._classes.get(actions)
        if worker_class is None:
            worker_class = self._classes[actions] = WorkerClass(actions)
            for action in actions:
                self._serving[action][worker_class] = None
                for need in self._plain.get(action, ()):
                    self._put(need, worker_class.shelf(need.slots), 0)
        worker = self.workers[worker_id] = Worker(worker_id, total, labels, worker_class)
        worker_class.members[worker_id] = worker
        for item in worker.labels.items():
            self._by_label[item][worker] = None
        for need in self._bound.get(worker_id, ()):
            if need.action_name in actions:
                self._put(need, worker.shelf(need.slots), 0)
        self._rate_all(worker)

    def remove_worker(self, worker_id: str) -> None:
        """Forget a worker and every slot it had; unknown is fine."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return
        worker.saves_for = None
        worker_class = worker.worker_class
        del worker_class.members[worker_id]
        for shelf in worker.shelves:
            shelf.available.pop(worker, None)
        self._unlabel(worker)
        self._drop_shelves(worker.own_shelves)
        if not worker_class.members:
            del self._classes[worker_class.actions]
            for action in worker_class.actions:
                _discard(self._serving, action, worker_class)
            self._drop_shelves(worker_class.shelves)

    def _drop_shelves(self, shelves: dict[Slots, Shelf]) -> None:
        for shelf in shelves.values():
            for need in shelf.needs:
                need.forget(shelf)
            self.offers.pop(shelf, None)

    def set_open(self, worker_id: str, *, is_open: bool) -> None:
        """Whether a worker takes new task runs; unknown is fine."""
        worker = self.workers.get(worker_id)
        if worker is not None and worker.is_open != is_open:
            worker.is_open = is_open
            worker.saves_for = None
            self._restock(worker)

    def set_labels(self, worker_id: str, labels: Labels) -> None:
        """What a worker is like from now on; unknown is fine."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        self._unlabel(worker)
        if worker.saves_for is not None:
            self.save_for(worker, None)
        worker.labels = dict(labels)
        for item in worker.labels.items():
            self._by_label[item][worker] = None
        for shelf in worker.own_shelves.values():
            for need in [need for need in shelf.needs if need.labels]:
                need.forget(shelf)
                del shelf.needs[need]
        self._rate_all(worker)

    def _unlabel(self, worker: Worker) -> None:
        for item in worker.labels.items():
            _discard(self._by_label, item, worker)

    def _rate_all(self, worker: Worker) -> None:
        few, many = sorted((worker.worker_class.actions, self._labelled.keys()), key=len)
        for action in few:
            if action in many:
                for need in self._labelled[action]:
                    self._rate(need, worker)

    # ------------------------------------------------------------ slots

    def take(self, worker: Worker, task: tuple[str, int], slots: Slots) -> None:
        """An attempt takes its units, and stands behind the others of its worker; it may leave it with fewer than none free."""
        worker.held[task] = slots
        free = worker.free
        for pool, units in slots:
            free[pool] = free.get(pool, 0) - units
        for shelf in worker.shelves:
            available = shelf.available
            if worker in available:
                if free.get(shelf.pool, 0) < shelf.units if shelf.pool else not shelf.fits(worker):
                    del available[worker]
                elif len(available) > 1:
                    del available[worker]
                    available[worker] = None
        if worker.saves_for is not None and worker.saves_for == slots:
            self.save_for(worker, None)

    def release(self, worker: Worker, task: tuple[str, int]) -> None:
        """An attempt gives its units back; one that has none is fine."""
        slots = worker.held.pop(task, None)
        if slots is None:
            return
        free = worker.free
        for pool, units in slots:
            free[pool] += units
        if not worker.is_open:
            return
        if worker.saves_for is not None:
            self._restock(worker)
            return
        for shelf in worker.shelves:
            if worker not in shelf.available and (
                free.get(shelf.pool, 0) >= shelf.units if shelf.pool else shelf.fits(worker)
            ):
                shelf.available[worker] = None
                if shelf.untold:
                    self.offers[shelf] = None

    def _restock(self, worker: Worker) -> None:
        for shelf in worker.shelves:
            available = shelf.available
            if shelf.may_take(worker):
                if worker not in available:
                    available[worker] = None
                    if shelf.untold:
                        self.offers[shelf] = None
            else:
                available.pop(worker, None)

    def next_told(self, shelf: Shelf) -> Need | None:
        """The next need that a shelf with a worker is news for; None if there is none."""
        untold = shelf.untold
        looks = 0
        while untold:
            turn, _, need = untold[0]
            now = need.turn if shelf.is_own else need.action.turn
            if now != turn and looks < LOOKS:
                # It had its turn meanwhile, elsewhere.
                looks += 1
                heapreplace(untold, (now, next(self.numbers), need))
                continue
            heappop(untold)
            if need.learn(shelf):
                return need
        return None


def _discard(index: dict[K, dict[V, None]], key: K, value: V) -> None:
    found = index.get(key)
    if found is not None:
        found.pop(value, None)
        if not found:
            del index[key]
