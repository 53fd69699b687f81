"""Ready task runs and free slots: who runs next, and where. Pure.

`Matcher` puts together what stands in modules of its own: what waits (`backlog`) and its order (`lanes`), workers and their slots
(`worker_pools`), rate-limit credits (`credits`), and slots saved up for who needs several (`savings`). A task run has its slot and its credits in one step, or neither.

What cannot run is not looked at: a need without a slot waits to be told of one, a sub-queue without credits is woken by its bucket, an action
that is paused takes no turns. So a task run costs the same whatever waits.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

from broadaxe_actors.backlog import Backlog
from broadaxe_actors.credits import OverLimit, Receipt
from broadaxe_actors.lanes import ActionQueue, Cell, Choice, Demand, Ready, SubQueue, WaitingNeed
from broadaxe_actors.savings import Savings
from broadaxe_actors.worker_labels import DesiredLabel, Labels, desired_labels
from broadaxe_actors.worker_pools import LOOKS, Shelf, Slots, Worker

__all__ = [
    "Demand",
    "DesiredLabel",
    "LabelSlots",
    "Labels",
    "Matcher",
    "OverLimit",
    "Proposal",
    "Ready",
    "Slots",
    "desired_labels",
]

TRIES = 8
"""For each task run that a match may propose: how often it may find that something cannot run."""


class Proposal(NamedTuple):
    """A task run for a worker, with the units taken for it."""

    task_run_id: str
    attempt: int
    worker_id: str
    slots: Slots


_new: Callable[[type[Proposal], tuple[object, ...]], Proposal] = tuple.__new__
"""Half the time of the constructor."""


class LabelSlots(NamedTuple):
    """Slots of one pool of the workers that have a label."""

    key: str
    value: str
    pool: str
    total: int
    used: int


class Matcher(Backlog):
    """See the module."""

    def __init__(self, priority_ageing: int = 0) -> None:
        super().__init__()
        self._ageing = priority_ageing
        """See `lanes`; 0 is off."""
        self._workers = self._fleet.workers
        self._savings = Savings(self._fleet)

    # ------------------------------------------------------------ workers

    def put_worker(
        self, worker_id: str, actions: frozenset[str], total: dict[str, int], labels: Labels = ()
    ) -> None:
        """A worker and its slots; it takes nothing until it is opened."""
        self._fleet.put_worker(worker_id, actions, total, labels)

    def remove_worker(self, worker_id: str) -> None:
        """Forget a worker and every slot it had; unknown is fine."""
        self._fleet.remove_worker(worker_id)

    def has_worker(self, worker_id: str) -> bool:
        return worker_id in self._workers

    def set_open(self, worker_id: str, *, is_open: bool) -> None:
        """Whether a worker takes new task runs; unknown is fine."""
        self._fleet.set_open(worker_id, is_open=is_open)

    def set_labels(self, worker_id: str, labels: Labels) -> None:
        """What a worker is like from now on; unknown is fine."""
        self._fleet.set_labels(worker_id, labels)

    def take(self, worker_id: str, task_run_id: str, attempt: int, slots: Slots) -> None:
        """An attempt that a worker has already (recovery); may leave it with fewer than none free."""
        worker = self._workers.get(worker_id)
        if worker is not None and (task_run_id, attempt) not in worker.held:
            self._fleet.take(worker, (task_run_id, attempt), slots)

    def release(self, worker_id: str, task_run_id: str, attempt: int) -> None:
        """An attempt gives its units back; unknown ones, and those of a worker that is gone, have none."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            task = (task_run_id, attempt)
            if worker.spent:
                worker.spent.pop(task, None)
            self._fleet.release(worker, task)

    def undo(self, worker_id: str, task_run_id: str, attempt: int) -> None:
        """A proposal that was refused: slots come back as by `release`, and so do the credits, if their window goes on."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            self._credits.refund(worker.spent.pop((task_run_id, attempt), ()))
            self._fleet.release(worker, (task_run_id, attempt))

    def slots_of(self, worker_id: str) -> tuple[dict[str, int], dict[str, int]]:
        """Total and free units of a worker; empty for an unknown one."""
        worker = self._workers.get(worker_id)
        return (dict(worker.total), dict(worker.free)) if worker else ({}, {})

    def units_by_worker(self) -> dict[str, tuple[int, int]]:
        """By worker: units of all pools, in all and in use."""
        found: dict[str, tuple[int, int]] = {}
        for worker_id, worker in self._workers.items():
            total = sum(worker.total.values())
            found[worker_id] = (total, total - sum(worker.free.values()))
        return found

    def totals(self) -> tuple[int, int]:
        """Units of all workers: total, used."""
        total = sum(sum(worker.total.values()) for worker in self._workers.values())
        free = sum(sum(worker.free.values()) for worker in self._workers.values())
        return total, total - free

    def label_slots(self) -> list[LabelSlots]:
        """Units of the workers that have a label, for each label, value and pool."""
        found: dict[tuple[str, str, str], tuple[int, int]] = {}
        for worker in self._workers.values():
            for key, value in worker.labels.items():
                for pool, units in worker.total.items():
                    total, used = found.get((key, str(value), pool), (0, 0))
                    found[key, str(value), pool] = total + units, used + units - worker.free[pool]
        return [LabelSlots(*names, *units) for names, units in found.items()]

    def savings(self) -> dict[str, Slots]:
        """Workers that take nothing but what asks for these units."""
        return self._savings.by_worker()

    # ------------------------------------------------------------ credits

    def grant(self, key: str, units: int) -> None:
        """A bucket has granted units of its window."""
        self._credits.grant(key, units)

    def expire(self, key: str) -> None:
        """The window of a bucket has ended."""
        self._credits.expire(key)

    def limit_is(self, key: str, limit: int | None) -> None:
        """What a bucket has at most; None if that is not known. Task runs that need more leave for `over_limit`."""
        for queue in self._credits.set_limit(key, limit):
            self._check_limits(queue)

    def over_limit(self) -> tuple[OverLimit, ...]:
        """Task runs that left, as they can never run. Each is told once."""
        return self._credits.take_over_limit()

    def wanted(self) -> list[tuple[str, int]]:
        """What buckets are to be asked for now: key and units in all. Each change is told once."""
        return self._credits.wanted()

    def unneeded(self) -> list[tuple[str, int]]:
        """What goes back to the buckets; after `wanted`."""
        return self._credits.unneeded()

    @property
    def has_news(self) -> bool:
        """Whether `wanted`, `unneeded` or `over_limit` may have something to tell."""
        return self._credits.has_news

    @property
    def has_unanswered(self) -> bool:
        """Whether a bucket was asked for something, and has not said a word since."""
        return self._credits.has_unanswered

    def no_answer(self) -> None:
        """Buckets that have not answered by now have no units: others may be asked."""
        self._credits.no_answer()

    # ------------------------------------------------------------ matching

    def match(self, limit: int) -> list[Proposal]:
        """Up to `limit` task runs with the workers to run them; their slots and credits are taken."""
        proposals: list[Proposal] = []
        offers = self._fleet.offers
        if offers or self._credits.offers:
            self._wake()
        for _ in range(limit * TRIES):
            action = self._turns.first()
            if action is not None:
                self._serve(action, proposals, limit)
                if len(proposals) >= limit:
                    break
            elif not ((offers or self._credits.offers) and self._wake()):
                break
        self._savings.matched(len(proposals), is_full=len(proposals) >= limit)
        return proposals

    def can_match(self) -> bool:
        """Whether something waits that is not known to be unable to run."""
        return (
            bool(self._fleet.offers)
            or self._turns.first() is not None
            or bool(self._credits.offers)
            or self._savings.is_idle
        )

    def _serve(self, action: ActionQueue, proposals: list[Proposal], limit: int) -> None:  # noqa: C901 - see `_hand_out`
        """The turn of an action: a task run, or as many as may be if nothing else has a turn."""
        solo = action.solo
        if solo is None:
            solo = action.best(self._ageing)
            if solo is None:
                self._turns.leave(action)
                return
        level, need, queue, cell = solo
        shelf = need.only
        if shelf is None or not shelf.available:
            shelf = need.find(self._numbers)
            if shelf is None:
                need.block()
                self._savings.blocked(need)
                self._rest(action)
                return
        spent: tuple[Receipt, ...] = ()
        most = 1
        if queue.keys:
            if not self._credits.can_spend(queue):
                self._rest(action)
                return
            spent = self._credits.spend(queue)
        elif action.solo is not None and need.only is not None and self._turns.is_alone and not shelf.untold:
            most = min(limit - len(proposals), len(cell.items))
        self._hand_out(need, queue, cell, shelf, most, spent, proposals)
        self._savings.served(need)
        if self._ageing:
            action.age(level)
        action.turn = need.turn = cell.lane.turn = next(self._numbers)
        if action.solo is None:
            self._go_behind(solo)
        if need.only is not None and not shelf.available:
            need.find(self._numbers)
            need.block()
            self._savings.blocked(need)
        if action.told:
            self._tell_next(action)
        if action.size:
            if not cell.items:
                self._close_lane(level, need, queue, cell)
            if any(action.levels):
                self._turns.served(action)
                return
        elif queue.keys:
            self._close_lane(level, need, queue, cell)
        else:
            # The last of its action: kept, as more of the same is likely to come.
            action.solo = solo
        self._turns.leave(action)

    @staticmethod
    def _go_behind(served: Choice) -> None:
        """Who was served goes behind the others."""
        level, need, queue, cell = served
        needs = need.action.levels[level]
        if len(needs) > 1:
            del needs[need]
            needs[need] = None
        queues = need.levels[level]
        if len(queues) > 1:
            del queues[queue]
            queues[queue] = None
        cells = queue.levels[level]
        if len(cells) > 1:
            del cells[cell.key]
            cells[cell.key] = cell
            cell.seen = cell.lane.turn

    def _hand_out(
        self,
        need: WaitingNeed,
        queue: SubQueue,
        cell: Cell,
        shelf: Shelf,
        most: int,
        spent: tuple[Receipt, ...],
        proposals: list[Proposal],
    ) -> None:
        """Up to so many task runs of a lane take slots of a shelf. All in one place: this is what a task run costs."""
        slots = need.slots
        available = shelf.available
        items = cell.items
        take = self._fleet.take
        before = len(items)
        while most:
            most -= 1
            _, task_run_id, attempt, prefers = items.popleft()
            if prefers is None or (worker := self._preferred(prefers, need)) is None:
                worker = next(iter(available))
            task = (task_run_id, attempt)
            if task in worker.held:
                # It told so itself, while the task run stood in line: nothing to propose.
                self._credits.refund(spent)
                continue
            take(worker, task, slots)
            if spent:
                worker.spent[task] = spent
            proposals.append(_new(Proposal, (task_run_id, attempt, worker.id, slots)))
            if not available:
                break
        given = before - len(items)
        queue.size -= given
        queue.action.size -= given

    def _preferred(self, worker_id: str, need: WaitingNeed) -> Worker | None:
        """A worker, if it can take a task run now."""
        worker = self._workers.get(worker_id)
        if worker is None or not worker.is_open or need.action_name not in worker.worker_class.actions:
            return None
        if worker.saves_for not in (None, need.slots):
            return None
        free = worker.free
        return worker if all(free.get(pool, 0) >= units for pool, units in need.slots) else None

    def _rest(self, action: ActionQueue) -> None:
        """An action could not use its turn; with nothing else to serve it takes no more."""
        if action.told:
            self._tell_next(action)
        for needs in action.levels:
            if needs:
                return
        self._turns.leave(action)

    # ------------------------------------------------------------ waking

    def _tell_of(self, shelf: Shelf) -> bool:
        """Tell as many as may be told at a time; others are when these have been served."""
        told = 0
        untold, available = shelf.untold, shelf.available
        while available and told < shelf.at_once:
            need = cast("WaitingNeed | None", self._fleet.next_told(shelf))
            if need is None:
                break
            if need.is_blocked and self._unblock(need):
                told += 1
                if untold:
                    need.action.told[shelf] = None
                if 1 < len(need.action.needs) <= LOOKS:
                    self._tell_others(need.action, next(iter(available)))
        if not untold or not available:
            self._fleet.offers.pop(shelf, None)
        return told > 0

    def _tell_next(self, action: ActionQueue) -> None:
        """An action that was told of slots has had its turn: what is left of them is for who comes next."""
        shelves = tuple(action.told)
        action.told.clear()
        for shelf in shelves:
            if shelf.untold and shelf.available:
                self._tell_of(shelf)

    def _tell_others(self, action: ActionQueue, worker: Worker) -> None:
        """What else an action has for a worker: the order among that is by priority and lane, not by who was told first."""
        for shelf in worker.shelves:
            for need in action.needs if shelf.available else ():
                if need.is_blocked and need.learn(shelf):
                    self._unblock(need)

    def _unblock(self, need: WaitingNeed) -> bool:
        """A need that was blocked may have a slot. Whether that is of use now."""
        action = need.action
        is_waiting = need.unblock() and action.size > 0 and not action.is_paused
        if need.parked or need.unasked:
            self._credits.unblocked(need)
        if is_waiting:
            self._turns.enter(action)
        return is_waiting

    def _wake(self) -> bool:
        """See whether slots or credits are of use to who waits for some. Whether there is something to try."""
        found = False
        for shelf in tuple(self._fleet.offers):
            found = self._tell_of(shelf) or found
        for queue in self._credits.wake() if self._credits.offers else ():
            queue.show()
            self._activate(queue.need)
            found = True
        return found
