"""Ready task runs and free slots: who runs next, and where. Pure.

Order at a free slot (design): actions in turn; within an action, effective priority, 4 to 1; within a priority first in, first
out. Equal workers share in turn. Matching costs O(1) a task: a full worker, and an action without a worker, are not looked at.

Workers that advertise the same actions form a class; a class knows which of its members have free units of a pool. A sub-queue asks
the classes that serve its action.
"""

from collections import deque
from typing import NamedTuple

Slots = tuple[tuple[str, int], ...]
"""Units asked for, by pool."""


class Proposal(NamedTuple):
    """A task run for a worker, with the units taken for it."""

    task_run_id: str
    attempt: int
    worker_id: str
    slots: Slots


class DesiredLabel(NamedTuple):
    key: str
    value: str | int
    comparator: str = "EQUAL"
    weight: int = 100
    is_required: bool = False


class Demand:
    __slots__ = ("action", "key", "labels", "limits", "slots", "worker_id")

    def __init__(
        self,
        key: str,
        action: str,
        slots: Slots,
        labels: tuple[DesiredLabel, ...] = (),
        worker_id: str | None = None,
        limits: tuple[tuple[str, int], ...] = (),
    ) -> None:
        self.key, self.action, self.slots = key, action, slots
        self.labels, self.worker_id, self.limits = labels, worker_id, limits


class Ready(NamedTuple):
    """A task run that waits for a slot."""

    task_run_id: str
    attempt: int
    demand: Demand
    group_key: str
    queue_priority: int
    seq: int
    prefers: str | None

    @property
    def queue_key(self) -> str:
        return self.demand.key + "#" + self.group_key

    @property
    def action(self) -> str:
        return self.demand.action

    @property
    def slots(self) -> Slots:
        return self.demand.slots


class _WorkerClass:
    """Workers with the same set of actions."""

    __slots__ = ("actions", "available", "members")

    def __init__(self, actions: frozenset[str]) -> None:
        self.actions = actions
        self.members: set[str] = set()
        self.available: dict[str, dict[str, None]] = {}
        """By pool: open workers with at least one free unit, the one whose turn it is first."""


class _Worker:
    __slots__ = ("free", "held", "is_open", "total", "worker_class")

    def __init__(self, total: dict[str, int], worker_class: _WorkerClass) -> None:
        self.total = total
        self.free = dict(total)
        self.held: dict[tuple[str, int], Slots] = {}
        """Units by (task run, attempt): what is given back twice, or to a worker that came back anew, frees nothing."""
        self.is_open = False
        self.worker_class = worker_class


class _SubQueue:
    __slots__ = ("action", "lines", "size", "slots")

    def __init__(self, action: str, slots: Slots) -> None:
        self.action = action
        self.slots = slots
        self.lines: tuple[deque[tuple[str, int]], ...] = (deque(), deque(), deque(), deque())
        self.size = 0

    def push(self, item: Ready) -> None:
        self.lines[4 - item.queue_priority].append((item.task_run_id, item.attempt))
        self.size += 1

    def pop(self) -> tuple[str, int]:
        for line in self.lines:
            if line:
                self.size -= 1
                return line.popleft()
        raise LookupError("the sub-queue is empty")


class Matcher:
    """Ready task runs by sub-queue, and the slots of workers."""

    def __init__(self) -> None:
        self._queues: dict[str, _SubQueue] = {}
        self._active: dict[str, _SubQueue] = {}
        """Sub-queues with ready task runs that may find a slot, the one whose turn it is first."""
        self._blocked: dict[str, dict[str, _SubQueue]] = {}
        """By action: sub-queues that found no slot; a slot of a worker that serves the action brings them back."""
        self._blocked_since: dict[str, int] = {}
        """By action: its turn among the blocked."""
        self._turn = 0
        self._workers: dict[str, _Worker] = {}
        self._classes: dict[frozenset[str], _WorkerClass] = {}
        self._serving: dict[str, list[_WorkerClass]] = {}

    # ------------------------------------------------------------ task runs

    def push(self, item: Ready) -> None:
        """Put a task run at the end of its line."""
        queue = self._queues.get(item.queue_key)
        if queue is None:
            queue = self._queues[item.queue_key] = _SubQueue(item.action, item.slots)
        queue.push(item)
        if queue.size == 1:
            self._active[item.queue_key] = queue

    def ready_count(self) -> int:
        """How many task runs wait here."""
        return sum(queue.size for queue in self._queues.values())

    # ------------------------------------------------------------ workers

    def put_worker(self, worker_id: str, actions: frozenset[str], total: dict[str, int]) -> None:
        """A worker and its slots; it takes nothing until it is opened."""
        if worker_id in self._workers:
            return
        worker_class = self._classes.get(actions)
        if worker_class is None:
            worker_class = self._classes[actions] = _WorkerClass(actions)
            for action in actions:
                self._serving.setdefault(action, []).append(worker_class)
        worker_class.members.add(worker_id)
        self._workers[worker_id] = _Worker(total, worker_class)

    def remove_worker(self, worker_id: str) -> None:
        """Forget a worker and every slot it had; unknown is fine."""
        worker = self._workers.pop(worker_id, None)
        if worker is None:
            return
        worker_class = worker.worker_class
        worker_class.members.discard(worker_id)
        for available in worker_class.available.values():
            available.pop(worker_id, None)
        if not worker_class.members:
            del self._classes[worker_class.actions]
            for action in worker_class.actions:
                self._serving[action].remove(worker_class)
                if not self._serving[action]:
                    del self._serving[action]

    def has_worker(self, worker_id: str) -> bool:
        return worker_id in self._workers

    def set_open(self, worker_id: str, *, is_open: bool) -> None:
        """Whether a worker takes new task runs; unknown is fine."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.is_open == is_open:
            return
        worker.is_open = is_open
        for pool, free in worker.free.items():
            available = worker.worker_class.available.setdefault(pool, {})
            if is_open and free > 0:
                available[worker_id] = None
            else:
                available.pop(worker_id, None)
        if is_open:
            self._unblock(worker.worker_class)

    def take(self, worker_id: str, task_run_id: str, attempt: int, slots: Slots) -> None:
        """An attempt that a worker has already (recovery); may leave it with fewer than none free."""
        worker = self._workers.get(worker_id)
        if worker is not None and (task_run_id, attempt) not in worker.held:
            worker.held[task_run_id, attempt] = slots
            self._take(worker_id, worker, slots)

    def release(self, worker_id: str, task_run_id: str, attempt: int) -> None:
        """An attempt gives its units back; unknown ones, and those of a worker that is gone, have none."""
        worker = self._workers.get(worker_id)
        slots = None if worker is None else worker.held.pop((task_run_id, attempt), None)
        if worker is None or slots is None:
            return
        self._give_back(worker_id, worker, slots)

    def _give_back(self, worker_id: str, worker: _Worker, slots: Slots) -> None:
        for pool, units in slots:
            free = worker.free.get(pool, 0) + units
            worker.free[pool] = free
            if worker.is_open and free > 0:
                worker.worker_class.available.setdefault(pool, {})[worker_id] = None
        if worker.is_open:
            self._unblock(worker.worker_class)

    def slots_of(self, worker_id: str) -> tuple[dict[str, int], dict[str, int]]:
        """Total and free units of a worker; empty for an unknown one."""
        worker = self._workers.get(worker_id)
        return (dict(worker.total), dict(worker.free)) if worker else ({}, {})

    def totals(self) -> tuple[int, int]:
        """Units of all workers: total, used."""
        total = sum(sum(worker.total.values()) for worker in self._workers.values())
        free = sum(sum(worker.free.values()) for worker in self._workers.values())
        return total, total - free

    def _take(self, worker_id: str, worker: _Worker, slots: Slots) -> None:
        for pool, units in slots:
            free = worker.free.get(pool, 0) - units
            worker.free[pool] = free
            if free <= 0:
                worker.worker_class.available.get(pool, {}).pop(worker_id, None)

    # ------------------------------------------------------------ matching

    def match(self, limit: int) -> list[Proposal]:
        """Up to `limit` task runs with the workers to run them; their slots are taken."""
        proposals: list[Proposal] = []
        while self._active and len(proposals) < limit:
            key = next(iter(self._active))
            queue = self._active.pop(key)
            worker_id = self._find_worker(queue)
            if worker_id is None:
                self._blocked.setdefault(queue.action, {})[key] = queue
                self._turn += 1
                self._blocked_since.setdefault(queue.action, self._turn)
                continue
            task_run_id, attempt = queue.pop()
            if queue.size:
                self._active[key] = queue
            else:
                del self._queues[key]
            worker = self._workers[worker_id]
            if (task_run_id, attempt) in worker.held:
                # It told so itself, while the task run stood in line: nothing to propose.
                self._give_back(worker_id, worker, queue.slots)
                continue
            worker.held[task_run_id, attempt] = queue.slots
            proposals.append(Proposal(task_run_id, attempt, worker_id, queue.slots))
        return proposals

    def can_match(self) -> bool:
        """Whether a sub-queue waits that is not known to be blocked."""
        return bool(self._active)

    def _unblock(self, worker_class: _WorkerClass) -> None:
        if not self._blocked:
            return
        few, many = sorted((worker_class.actions, self._blocked), key=len)
        found = [action for action in few if action in many]
        if len(found) > 1:
            # In the order in which they found no slot, or the same action would have every slot.
            found.sort(key=self._blocked_since.__getitem__)
        for action in found:
            del self._blocked_since[action]
            self._active.update(self._blocked.pop(action))

    def _find_worker(self, queue: _SubQueue) -> str | None:
        first_pool, first_units = queue.slots[0]
        classes = self._serving.get(queue.action)
        if not classes:
            return None
        for _ in range(len(classes)):
            worker_class = classes[0]
            if len(classes) > 1:
                classes.append(classes.pop(0))
            available = worker_class.available.get(first_pool)
            if not available:
                continue
            if len(queue.slots) == 1 and first_units == 1:
                worker_id = next(iter(available))
            else:
                found = next(
                    (
                        candidate
                        for candidate in available
                        if self._fits(self._workers[candidate], queue.slots)
                    ),
                    None,
                )
                if found is None:
                    continue
                worker_id = found
            worker = self._workers[worker_id]
            del available[worker_id]
            if worker.free[first_pool] > first_units:
                available[worker_id] = None
            worker.free[first_pool] -= first_units
            if len(queue.slots) > 1:
                self._take(worker_id, worker, queue.slots[1:])
            return worker_id
        return None

    @staticmethod
    def _fits(worker: _Worker, slots: Slots) -> bool:
        return all(worker.free.get(pool, 0) >= units for pool, units in slots)
