"""Slots saved up for task runs that take several at once. Pure; a part of `Matcher`.

Where narrow task runs never cease, a worker never has several slots free at a time, and a wide task run would wait for ever. So once
`PATIENCE` others have started since it found no slot, one worker that could run it takes nothing else, until there is room for it. At
most the units that it asks for, less one, stay unused that way.

What is saved is for these units, not for one task run: who is next of those that ask for them has it. Saving ends when that happens, or
when nobody wants it any more.
"""

from itertools import islice

from broadaxe_actors.lanes import WaitingNeed
from broadaxe_actors.worker_labels import weight_of
from broadaxe_actors.worker_pools import Fleet, Worker

PATIENCE = 32
"""Task runs of the tenant that start before slots are saved up for one that waits for several."""
AT_ONCE = 8
"""Workers that save up at a time."""
CANDIDATES = 64
"""How many of many workers are looked at to find the one with the most room."""


class Savings:
    """See the module."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._started = 0
        self._waiting: dict[WaitingNeed, int] = {}
        """Needs of several units that found no slot, and how many had started by then; the longest waiting first."""
        self._savers: dict[Worker, WaitingNeed] = {}

    def blocked(self, need: WaitingNeed) -> None:
        """A need found no slot."""
        if need.is_wide:
            self._waiting.setdefault(need, self._started)

    def served(self, need: WaitingNeed) -> None:
        """A need found one."""
        if self._waiting:
            self._waiting.pop(need, None)

    @property
    def is_idle(self) -> bool:
        """Whether a worker saves up, or has, what nobody takes: a match is due."""
        return bool(self._savers) and any(self._is_over(*item) for item in self._savers.items())

    def matched(self, started: int, *, is_full: bool) -> None:
        """A match is over. `is_full`: it ended before all that could start had."""
        self._started += started
        if self._savers and not is_full:
            for worker, need in tuple(self._savers.items()):
                if self._is_over(worker, need):
                    del self._savers[worker]
                    self._fleet.save_for(worker, None)
        if self._waiting:
            need, since = next(iter(self._waiting.items()))
            if self._started - since >= PATIENCE:
                del self._waiting[need]
                self._save(need)

    def by_worker(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """Which workers save up, and for what units."""
        return {worker.id: worker.saves_for for worker in self._savers if worker.saves_for is not None}

    def _is_over(self, worker: Worker, need: WaitingNeed) -> bool:
        if worker.saves_for is None or not _is_wanting(need):
            return True
        return all(worker.free.get(pool, 0) >= units for pool, units in worker.saves_for)

    def _save(self, need: WaitingNeed) -> None:
        if not need.is_blocked or need not in need.action.needs:
            return  # it has been told of slots since, or nothing waits for it any more
        worker = None
        if _is_wanting(need) and len(self._savers) < AT_ONCE:
            worker = self._roomiest(need)
        if worker is not None:
            self._savers[worker] = need
            self._fleet.save_for(worker, need.slots)
        self._waiting[need] = self._started

    def _roomiest(self, need: WaitingNeed) -> Worker | None:
        """The worker that has room soonest, as far as one can tell; None if none could ever have."""
        best: Worker | None = None
        most = (0, 0)
        for worker in islice(self._fleet.eligible(need), CANDIDATES):
            if not worker.is_open or worker.saves_for is not None:
                continue
            if any(worker.total.get(pool, 0) < units for pool, units in need.slots):
                continue
            weight = weight_of(need.labels, worker.labels) or 0
            lacking = sum(max(0, units - worker.free.get(pool, 0)) for pool, units in need.slots)
            if best is None or (weight, -lacking) > most:
                best, most = worker, (weight, -lacking)
        return best


def _is_wanting(need: WaitingNeed) -> bool:
    """Whether something waits for it that may start. A lane that is kept for more to come counts as busy while it is empty."""
    return need.busy > 0 and need.action.size > 0 and not need.action.is_paused
