"""One concurrency group: who holds a place, who waits, who has to go. Pure; `ConcurrencyGroup` is the actor around it.

A member is a task run, or a run of several tasks. Its `rank` says which of two is newer, whatever happened to them since: a retry does not
make a run new. What has to go keeps its place until it has left: a place is passed on after the end of who had it, never before.

Source: behaviour-core 6.8, 7.5.
"""

import heapq
from collections import deque
from typing import NamedTuple

from broadaxe_actors.admission import Strategy

GROUP_ROUND_ROBIN = "GROUP_ROUND_ROBIN"
CANCEL_IN_PROGRESS = "CANCEL_IN_PROGRESS"
CANCEL_NEWEST = "CANCEL_NEWEST"
CANCEL_QUEUED_EXCEPT_NEWEST = "CANCEL_QUEUED_EXCEPT_NEWEST"
CANCEL_QUEUED_EXCEPT_OLDEST = "CANCEL_QUEUED_EXCEPT_OLDEST"
STRATEGIES = frozenset(
    {
        GROUP_ROUND_ROBIN,
        CANCEL_IN_PROGRESS,
        CANCEL_NEWEST,
        CANCEL_QUEUED_EXCEPT_NEWEST,
        CANCEL_QUEUED_EXCEPT_OLDEST,
    }
)


class Ask(NamedTuple):
    """A request for a place."""

    member_id: str
    ticket: int
    """Number of the request, to tell a late answer from a current one."""
    priority: int
    """4 to 1: who waits with more of it is admitted first."""
    rank: tuple[int, str]
    """Creation and id: the newer, the greater."""
    is_again: bool
    """A retry, which gave its place up while it backed off: it waits where a new one would be cancelled."""


class Group:
    """See the module."""

    __slots__ = ("_by_age", "_held", "_leaving", "_lines", "_waiting", "strategy")

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self._held: dict[str, Ask] = {}
        self._waiting: dict[str, Ask] = {}
        self._lines: tuple[deque[Ask], ...] = (deque(), deque(), deque(), deque())
        """Those who wait by priority, and those who waited: who is not in `_waiting` any more is passed over."""
        self._leaving: set[str] = set()
        """Holders that have been told to go."""
        self._by_age: list[tuple[tuple[int, str], str]] = []
        """A heap, for CANCEL_IN_PROGRESS alone: members and former ones, the oldest first."""

    def __bool__(self) -> bool:
        return bool(self._held or self._waiting)

    @property
    def held_count(self) -> int:
        """Places taken."""
        return len(self._held)

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    def hold(self, ask: Ask) -> None:
        """A member that runs already, whatever the limit says: what recovery or a worker tells."""
        self._waiting.pop(ask.member_id, None)
        self._held[ask.member_id] = ask
        self._note_age(ask)

    def ask(self, ask: Ask) -> list[Ask]:
        """A member asks for a place; returns who has to go for it, itself perhaps."""
        name = self.strategy.name
        if name == CANCEL_NEWEST and not ask.is_again and self._staying() >= self.strategy.max_runs:
            return [ask]
        is_full = len(self._held) - len(self._leaving) >= self.strategy.max_runs
        displaced: list[Ask] = []
        if is_full and self._waiting and not ask.is_again:
            if name == CANCEL_QUEUED_EXCEPT_OLDEST:
                return [ask]
            if name == CANCEL_QUEUED_EXCEPT_NEWEST:
                displaced = list(self._waiting.values())
                self._waiting.clear()
        self._waiting[ask.member_id] = ask
        self._lines[4 - ask.priority].append(ask)
        self._note_age(ask)
        if name == CANCEL_IN_PROGRESS:
            displaced += self._displace_oldest()
        return displaced

    def leave(self, member_id: str) -> None:
        """A member holds its place, or waits, no more; unknown is fine."""
        self._held.pop(member_id, None)
        self._waiting.pop(member_id, None)
        self._leaving.discard(member_id)
        if len(self._by_age) > 2 * (len(self._held) + len(self._waiting)) + 16:
            members = (*self._held.values(), *self._waiting.values())
            self._by_age = [(ask.rank, ask.member_id) for ask in members]
            heapq.heapify(self._by_age)

    def admit(self) -> list[Ask]:
        """Who gets a place now."""
        admitted: list[Ask] = []
        if not self._waiting:
            for line in self._lines:
                line.clear()
            return admitted
        for line in self._lines:
            while line and len(self._held) < self.strategy.max_runs:
                ask = line.popleft()
                if self._waiting.get(ask.member_id) is ask:
                    del self._waiting[ask.member_id]
                    self._held[ask.member_id] = ask
                    admitted.append(ask)
        return admitted

    def _staying(self) -> int:
        return len(self._held) - len(self._leaving) + len(self._waiting)

    def _note_age(self, ask: Ask) -> None:
        if self.strategy.name == CANCEL_IN_PROGRESS:
            heapq.heappush(self._by_age, (ask.rank, ask.member_id))

    def _displace_oldest(self) -> list[Ask]:
        displaced: list[Ask] = []
        while self._by_age and self._staying() > self.strategy.max_runs:
            rank, member_id = heapq.heappop(self._by_age)
            waiting = self._waiting.get(member_id)
            held = self._held.get(member_id)
            if waiting is not None and waiting.rank == rank:
                displaced.append(self._waiting.pop(member_id))
            elif held is not None and held.rank == rank and member_id not in self._leaving:
                self._leaving.add(member_id)
                displaced.append(held)
        return displaced
