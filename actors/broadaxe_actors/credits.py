"""Credits: units of rate-limit buckets that the buckets have granted for their windows under way. Pure.

A task run takes all units that its demand names, or none, at the moment in which it has its slot. So nobody holds credits while it waits
for others, and two demands that name the same buckets in opposite orders cannot wait for each other.

A sub-queue that has found a slot and is short of credits waits for one bucket that is short (`Key.line`), until that has some; if then
another is short it moves over there. It is asked for at all its buckets, but for no more task runs than could have a slot, counted with those
of the same need that were asked for and had no answer yet: units are spent for task runs that start. A bucket without units does not
answer until its next window, so the owner of this calls `no_answer` after a while: what was asked stays asked, and others have a go.

Credits die with their window: a receipt tells of which one its units are, so that those that come back late are not taken for new ones.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple, TypeVar

from broadaxe_actors.lanes import LEVELS, ActionQueue, SubQueue, WaitingNeed
from broadaxe_actors.worker_pools import LOOKS

P = TypeVar("P")

MAX_ROOM = 256
"""Task runs of one need that are asked for at a time, however many slots there are."""
MAX_IDLE_KEYS = 10_000
"""Buckets whose limits are remembered while no task run names them."""


class Place(NamedTuple):
    """Where sub-queues wait that are alike but for other buckets."""

    need: WaitingNeed
    units: int
    level: int
    """Of the highest priority that waits in each."""


class Receipt(NamedTuple):
    """What a task run has spent."""

    key: "Key"
    window: int
    units: int


class OverLimit(NamedTuple):
    """A task run whose units exceed what its bucket ever has."""

    task_run_id: str
    attempt: int
    key: str
    units: int
    limit: int


class Key:
    """One bucket, as the queue knows it."""

    __slots__ = ("asked", "have", "limit", "line", "name", "told", "unanswered", "users", "window")

    def __init__(self, name: str) -> None:
        self.name = name
        self.have = 0
        """Units that may be spent."""
        self.window = 0
        """Counts the windows."""
        self.limit: int | None = None
        self.users: dict[SubQueue, None] = {}
        """Sub-queues with task runs that name it."""
        self.line: dict[Place, dict[SubQueue, None]] = {}
        """Who waits for it; the place whose turn it is first."""
        self.asked = 0
        """Units for all that wait, here or elsewhere, and were asked for."""
        self.told = 0
        """Units that the bucket knows to be wanted."""
        self.unanswered: dict[SubQueue, None] = {}
        """Those for which nothing has come since they were asked for."""


class Credits:
    """See the module."""

    def __init__(self, numbers: "count[int]") -> None:
        self._numbers = numbers
        self._keys: dict[str, Key] = {}
        self._idle: dict[Key, None] = {}
        self.offers: dict[Key, None] = {}
        """Buckets with credits that somebody may wait for."""
        self._needs: dict[WaitingNeed, None] = {}
        """Needs with sub-queues to ask for."""
        self._changed: dict[Key, None] = {}
        """Buckets that may have to be asked, or given units back."""
        self._unanswered: dict[Key, None] = {}
        self._over_limit: list[OverLimit] = []
        self._is_used = False
        """There has been a limit at all."""

    # ------------------------------------------------------------ sub-queues

    def resolve(self, limits: Sequence[tuple[str, int]]) -> tuple[tuple[Key, int], ...]:
        """The buckets of a demand."""
        found: dict[Key, int] = {}
        for name, units in limits:
            self._is_used = True
            key = self._keys.get(name)
            if key is None:
                key = self._keys[name] = Key(name)
            self._idle.pop(key, None)
            found[key] = found.get(key, 0) + units
        return tuple(found.items())

    def add(self, queue: SubQueue) -> None:
        """A sub-queue has task runs."""
        for key, _ in queue.keys:
            key.users[queue] = None

    def remove(self, queue: SubQueue) -> None:
        """A sub-queue is empty."""
        self._stop_waiting(queue)
        for key, _ in queue.keys:
            key.users.pop(queue, None)
            if not key.users:
                self._changed[key] = None
                self._idle[key] = None
        while len(self._idle) > MAX_IDLE_KEYS:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            del self._keys[oldest.name]

    def drain_if_over(self, queue: SubQueue) -> bool:
        """Empty a sub-queue that asks a bucket for more than that ever has. Whether it did."""
        for key, units in queue.keys:
            limit = key.limit
            if limit is not None and units > limit:
                self._over_limit.extend(OverLimit(*item, key.name, units, limit) for item in queue.drain())
                return True
        return False

    def take_over_limit(self) -> tuple[OverLimit, ...]:
        """Task runs that were taken out of the queue, for their owner to fail. Each is told once."""
        found = tuple(self._over_limit)
        self._over_limit.clear()
        return found

    # ------------------------------------------------------------ spending

    def can_spend(self, queue: SubQueue) -> bool:
        """Whether one task run of it has what it needs; if not, the sub-queue waits."""
        for key, units in queue.keys:
            if key.have < units:
                self._wait(queue, key)
                return False
        return True

    def spend(self, queue: SubQueue) -> tuple[Receipt, ...]:
        """Take what one task run needs; it must be there."""
        for key, units in queue.keys:
            key.have -= units
        return tuple(Receipt(key, key.window, units) for key, units in queue.keys)

    def refund(self, receipts: Iterable[Receipt]) -> None:
        """Units that were not used after all, for others of the same window."""
        for key, window, units in receipts:
            if key.window == window and self._keys.setdefault(key.name, key) is key:
                key.have += units
                self._offer(key)

    def _wait(self, queue: SubQueue, key: Key) -> None:
        need = queue.need
        queue.watched = key
        queue.top = next(level for level in LEVELS if queue.levels[level])
        key.line.setdefault(Place(need, queue.units_of(key), queue.top), {})[queue] = None
        queue.hide()
        need.unasked[queue] = None
        self._needs[need] = None

    def _stop_waiting(self, queue: SubQueue) -> None:
        key = queue.watched
        if key is None:
            return
        queue.watched = None
        need = queue.need
        self._leave_line(queue, key)
        need.unasked.pop(queue, None)
        for each, units in queue.keys:
            each.asked -= units * queue.asked
            self._changed[each] = None
            self._answered(each, queue)
        queue.asked = 0

    @staticmethod
    def _leave_line(queue: SubQueue, key: Key) -> None:
        need = queue.need
        place = Place(need, queue.units_of(key), queue.top)
        _take_out(queue, key.line, place) or _take_out(queue, need.parked, (key, place))

    def raised(self, queue: SubQueue, level: int) -> None:
        """A sub-queue that waits has got a task run of a higher priority."""
        key = queue.watched
        if key is not None and level < queue.top:
            self._leave_line(queue, key)
            queue.top = level
            place = Place(queue.need, queue.units_of(key), level)
            if queue.need.is_blocked:
                queue.need.parked.setdefault((key, place), {})[queue] = None
            else:
                key.line.setdefault(place, {})[queue] = None

    def _answered(self, key: Key, queue: SubQueue) -> None:
        if queue in key.unanswered:
            del key.unanswered[queue]
            need = queue.need
            need.asked -= queue.asked
            if need.unasked:
                self._needs[need] = None

    # ------------------------------------------------------------ what buckets tell

    def grant(self, name: str, units: int) -> None:
        """Units that may be spent in the window under way."""
        self._is_used = True
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = Key(name)
            self._idle[key] = None
        key.have += units
        key.told = max(0, key.told - units)
        for queue in tuple(key.unanswered):
            self._answered(key, queue)
        self._offer(key)

    def expire(self, name: str) -> None:
        """The window has ended: what is left of it must not be spent."""
        key = self._keys.get(name)
        if key is not None:
            key.have = 0
            key.window += 1
            key.told = 0
            self._changed[key] = None

    def set_limit(self, name: str, limit: int | None) -> list[SubQueue]:
        """What a bucket has at most, None if that is not known. Returns the sub-queues that ask for more."""
        key = self._keys.get(name)
        if key is None:
            return []
        key.limit = limit
        return [] if limit is None else [queue for queue in key.users if queue.units_of(key) > limit]

    def no_answer(self) -> None:
        """Whoever has not been answered by now is not waited for."""
        for key in self._unanswered:
            for queue in tuple(key.unanswered):
                self._answered(key, queue)
        self._unanswered.clear()

    @property
    def has_unanswered(self) -> bool:
        """Whether somebody was asked for, and nothing has come of it yet."""
        return bool(self._unanswered)

    # ------------------------------------------------------------ what buckets are told

    @property
    def has_news(self) -> bool:
        """Whether there may be something to tell."""
        return self._is_used and bool(self._changed or self._needs or self._over_limit)

    def wanted(self) -> list[tuple[str, int]]:
        """Buckets that are to be asked, with the units in all that waiting task runs could use beside what is here."""
        for need in self._needs:
            self._ask(need)
        self._needs.clear()
        found = []
        for key in self._changed:
            units = max(0, key.asked - key.have)
            if units != key.told:
                key.told = units
                found.append((key.name, units))
        return found

    def unneeded(self) -> list[tuple[str, int]]:
        """Buckets that get units back, as nobody waits for them any more. After `wanted`."""
        found = []
        for key in self._changed:
            if key.have and not key.users:
                found.append((key.name, key.have))
                key.have = 0
        self._changed.clear()
        return found

    def _ask(self, need: WaitingNeed) -> None:
        """Ask for as many task runs of a need as could have a slot."""
        while need.unasked:
            queue = next(iter(need.unasked))
            room = need.room(min(need.asked + queue.size, MAX_ROOM)) - need.asked
            if room <= 0:
                if not need.is_blocked and need.find(self._numbers) is None:
                    # Others took the slots: when there is one again, `unblocked` goes on from here.
                    need.block()
                return
            del need.unasked[queue]
            queue.asked = min(queue.size, room)
            need.asked += queue.asked
            assert queue.watched is not None
            queue.watched.unanswered[queue] = None
            self._unanswered[queue.watched] = None
            for key, units in queue.keys:
                key.asked += units * queue.asked
                self._changed[key] = None

    # ------------------------------------------------------------ waking

    def _offer(self, key: Key) -> None:
        self._changed[key] = None
        if key.line:
            self.offers[key] = None

    def unblocked(self, need: WaitingNeed) -> None:
        """A need has a slot again: what it waits for may be there, or may be asked for."""
        for (key, place), queues in need.parked.items():
            key.line.setdefault(place, {}).update(queues)
            self._offer(key)
        need.parked.clear()
        if need.unasked:
            self._needs[need] = None

    def wake(self) -> list[SubQueue]:
        """Sub-queues that wait no longer: at most as many as the credits allow. To be called again until there are no offers."""
        woken: list[SubQueue] = []
        turns: Counter[ActionQueue] = Counter()
        for key in tuple(self.offers):
            budget = key.have
            while budget > 0 and (place := self._best(key, budget, turns)) is not None:
                queue = next(iter(key.line[place]))
                budget -= place.units
                turns[queue.action] += 1
                self._stop_waiting(queue)
                woken.append(queue)
            if budget == key.have or not key.line:
                # Otherwise those woken may not need it after all.
                del self.offers[key]
        return woken

    def _best(self, key: Key, budget: int, turns: Counter[ActionQueue]) -> Place | None:
        """Whose turn it is of those who wait for a bucket and have all that they need: by action, then priority."""
        found = []
        for place in tuple(key.line):
            if place.units > budget:
                continue
            if place.need.is_blocked:
                place.need.parked[key, place] = key.line.pop(place)
            elif self._is_ready(key, place):
                found.append(place)
                if len(found) == LOOKS:
                    break
        if not found:
            return None
        best = min(found, key=lambda place: (turns[place.need.action], place.need.action.turn, place.level))
        key.line[best] = key.line.pop(best)
        return best

    @staticmethod
    def _is_ready(key: Key, place: Place) -> bool:
        """Whether the first at a place of the line has all that it needs. Those short of something else go to wait for that."""
        queues = key.line[place]
        while queues:
            queue = next(iter(queues))
            short = next((each for each, units in queue.keys if each.have < units), None)
            if short is None:
                return True
            del queues[queue]
            queue.watched = short
            there = place._replace(units=queue.units_of(short))
            short.line.setdefault(there, {})[queue] = None
        del key.line[place]
        return False


def _take_out(queue: SubQueue, index: dict[P, dict[SubQueue, None]], place: P) -> bool:
    queues = index.get(place)
    if queues is None or queue not in queues:
        return False
    del queues[queue]
    if not queues:
        del index[place]
    return True
