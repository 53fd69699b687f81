"""The task runs that wait for a slot, in the order in which they go (design, "Order at a free slot"). Pure.

Actions take turns. An action hands out by effective priority, 4 to 1; within a priority its lanes (group keys) take turns; a lane is first in,
first out. What waits is kept by demand, because a demand that cannot run now must not hold up those behind it: a `SubQueue` a
demand, in it a `Cell` a priority and lane. Sub-queues whose demands ask the same of a worker belong to one `WaitingNeed`, and go out of
the way together when it finds no slot.

So the next of an action is the best among the first of each sub-queue that could run. Up to `LOOKS` needs, sub-queues of a need and lanes
of a sub-queue are compared exactly. Of more of them `LOOKS` are, and who was served goes behind the others: the work a task run stays
the same, and the turns are kept nearly. One demand alone keeps the turns of its lanes exactly, however many they are.

Bounded ageing (off by default): once so many task runs of higher priorities were taken from an action while one of a lower waited that could
have run, the next is of the lower. Retries, at priority 4, are no new work: they neither count for this, nor are they overtaken.
"""

from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count, islice
from typing import TYPE_CHECKING, NamedTuple

from broadaxe_actors.worker_labels import DesiredLabel
from broadaxe_actors.worker_pools import LOOKS, Need, Shelf, Slots

if TYPE_CHECKING:
    from broadaxe_actors.credits import Key, Place

LEVELS = range(4)
"""Places of the priorities, 4 to 1."""
RETRIES = 0
"""The place of priority 4."""


class Demand:
    """What a task run needs to run. Made once a step, and once for each labels, worker or limits that differ."""

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
        self.key = key
        """Says all the rest: demands with the same key are the same."""
        self.action = action
        self.slots = slots
        self.labels = labels
        """Without a `worker_id` only."""
        self.worker_id = worker_id
        """The only worker that will do (HARD sticky)."""
        self.limits = limits
        """Rate-limit bucket and units, all or nothing."""

    def __repr__(self) -> str:
        return f"Demand({self.key!r})"


class Ready(NamedTuple):
    """A task run that waits for a slot."""

    task_run_id: str
    attempt: int
    demand: Demand
    group_key: str
    """Its lane: the rendered concurrency keys, or "" without any."""
    queue_priority: int
    seq: int
    prefers: str | None = None
    """The worker to take if that can take it now (SOFT sticky)."""


class Lane:
    """A group key of an action at a priority."""

    __slots__ = ("turn", "uses")

    def __init__(self, turn: int) -> None:
        self.turn = turn
        """When it was last served, or came to be."""
        self.uses = 0


class Cell:
    """The task runs of one demand in one lane."""

    __slots__ = ("items", "key", "lane", "seen")

    def __init__(self, key: str, lane: Lane) -> None:
        self.items: deque[tuple[int, str, int, str | None]] = deque()
        """Arrival, task run, attempt, and the worker that it prefers."""
        self.key = key
        self.lane = lane
        self.seen = lane.turn
        """The lane's turn when the cell was put at its place; other demands may have used the lane since."""


class SubQueue:
    """The task runs of one demand."""

    __slots__ = ("action", "asked", "demand", "keys", "levels", "need", "size", "spare", "top", "watched")

    def __init__(self, demand: Demand, need: "WaitingNeed", keys: "tuple[tuple[Key, int], ...]") -> None:
        self.demand = demand
        self.need = need
        self.action = need.action
        self.keys = keys
        """Its limits: buckets and units."""
        self.levels: tuple[dict[str, Cell], ...] = ({}, {}, {}, {})
        """By priority: the cells by group key, the one whose turn it is first."""
        self.size = 0
        self.spare: Cell | None = None
        """The last that became empty, to be used again."""
        self.watched: Key | None = None
        """The bucket that was short of credits when it had its turn: it waits for it."""
        self.top = 0
        """While it waits: the place of its highest priority."""
        self.asked = 0
        """While it waits: task runs that credits were asked for."""

    def show(self) -> None:
        """Let it be found by its need."""
        for level in LEVELS:
            if self.levels[level]:
                self.need.show_level(self, level)

    def hide(self) -> None:
        """Keep it from being found."""
        for level in LEVELS:
            self.need.hide_level(self, level)

    def first(self, level: int) -> Cell:
        """The cell whose turn it is."""
        cells = self.levels[level]
        cell = next(iter(cells.values()))
        if len(cells) == 1 or not self.action.shares_lanes:
            return cell
        if len(cells) <= LOOKS:
            return min(cells.values(), key=_turn_of_cell)
        for _ in range(LOOKS):
            if cell.seen == cell.lane.turn:
                break
            del cells[cell.key]
            cells[cell.key] = cell
            cell.seen = cell.lane.turn
            cell = next(iter(cells.values()))
        return cell

    def units_of(self, key: "Key") -> int:
        """What a task run of it takes from a bucket."""
        return sum(units for each, units in self.keys if each is key)

    def drain(self) -> list[tuple[str, int]]:
        """Take everything out: task runs and attempts, in order of priority and lanes."""
        drained: list[tuple[str, int]] = []
        for level in LEVELS:
            for cell in self.levels[level].values():
                drained.extend((item[1], item[2]) for item in cell.items)
                self.need.action.leave_lane(level, cell)
            self.levels[level].clear()
        self.need.action.size -= self.size
        self.size = 0
        return drained


class WaitingNeed(Need):
    """A need, and the sub-queues whose demands have it."""

    __slots__ = ("asked", "busy", "cost", "levels", "parked", "queues", "unasked")

    def __init__(self, action: "ActionQueue", demand: Demand) -> None:
        super().__init__(action, demand.slots, demand.labels, demand.worker_id)
        self.queues: dict[str, SubQueue] = {}
        """By the key of their demand: those that have task runs, and those that are kept for more to come."""
        self.levels: tuple[dict[SubQueue, None], ...] = ({}, {}, {}, {})
        """By priority: sub-queues that have task runs and are not short of credits."""
        self.cost = 0
        """How many workers or classes had to be looked at for it."""
        self.busy = 0
        """How many of the sub-queues are not empty."""
        self.parked: dict[tuple[Key, Place], dict[SubQueue, None]] = {}
        """By bucket and place in its line: sub-queues that waited for credits, which came while there was no slot."""
        self.unasked: dict[SubQueue, None] = {}
        """Sub-queues that are short of credits, and for which these have yet to be asked."""
        self.asked = 0
        """Task runs for which credits are asked, without an answer yet."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes it this need."""
        return self.action_name, self.slots, self.labels, self.worker_id

    def show_level(self, queue: SubQueue, level: int) -> None:
        """A sub-queue may be served at a priority."""
        self.levels[level][queue] = None
        if not self.is_blocked:
            self.action.levels[level][self] = None

    def hide_level(self, queue: SubQueue, level: int) -> None:
        queues = self.levels[level]
        queues.pop(queue, None)
        if not queues:
            self.action.levels[level].pop(self, None)

    def block(self) -> None:
        """No slot: out of the way, until told of one."""
        self.is_blocked = True
        solo = self.action.solo
        if solo is not None:
            self.action.levels[solo[0]].pop(self, None)
            return
        for needs in self.action.levels:
            needs.pop(self, None)

    def unblock(self) -> bool:
        """There may be a slot. Whether something waits for it."""
        self.is_blocked = False
        is_waiting = False
        solo = self.action.solo
        if solo is not None and solo[1] is self and solo[2].watched is None:
            self.action.levels[solo[0]][self] = None
            return True
        for queues, needs in zip(self.levels, self.action.levels, strict=True):
            if queues:
                needs[self] = None
                is_waiting = True
        return is_waiting


class ActionQueue:
    """What waits for workers of one action."""

    __slots__ = (
        "back_at",
        "cells",
        "is_paused",
        "lanes",
        "levels",
        "name",
        "needs",
        "passed",
        "queues",
        "shares_lanes",
        "size",
        "solo",
        "told",
        "turn",
    )

    def __init__(self, name: str, turn: int, *, is_paused: bool) -> None:
        self.name = name
        self.turn = turn
        """When it was last served, or came to be."""
        self.is_paused = is_paused
        self.size = 0
        """Task runs that wait here."""
        self.needs: dict[WaitingNeed, None] = {}
        self.queues: dict[SubQueue, None] = {}
        """Sub-queues that have task runs."""
        self.levels: tuple[dict[WaitingNeed, None], ...] = ({}, {}, {}, {})
        """By priority: needs that are not blocked and have something to serve."""
        self.lanes: tuple[dict[str, Lane], ...] = ({}, {}, {}, {})
        self.cells = 0
        self.shares_lanes = False
        """A lane has been used by several sub-queues since there was none: no sub-queue knows all turns."""
        self.solo: Choice | None = None
        """Its only cell, if it has one only and that is known. It stays when the last task run has gone."""
        self.told: dict[Shelf, None] = {}
        """Shelves that have told it of their slots since it had its turn."""
        self.passed = [0, 0, 0, 0]
        """By priority: task runs of higher ones taken while it waited."""
        self.back_at = -1
        """Its turn when it came back among those that take turns; -1 if it is among them in order, or not at all."""

    def enter_lane(self, level: int, key: str, numbers: "count[int]", spare: Cell | None) -> Cell:
        """A cell in the lane of a group key; a spare one may be used."""
        lanes = self.lanes[level]
        lane = lanes.get(key)
        if lane is None:
            lane = lanes[key] = Lane(next(numbers))
        else:
            self.shares_lanes = True
        lane.uses += 1
        if not self.cells:
            self.shares_lanes = False
        self.cells += 1
        self.solo = None
        if spare is None:
            return Cell(key, lane)
        spare.key = key
        spare.lane = lane
        spare.seen = lane.turn
        return spare

    def leave_lane(self, level: int, cell: Cell) -> None:
        """A cell is not needed any more."""
        self.cells -= 1
        self.solo = None
        cell.lane.uses -= 1
        if not cell.lane.uses:
            del self.lanes[level][cell.key]

    def _level(self, ageing: int) -> int | None:
        """The place of the priority that is next; None if nothing can be served."""
        levels = self.levels
        level = 0
        for needs in levels:
            if needs:
                break
            level += 1
        else:
            return None
        if ageing and level != RETRIES:
            for lower in range(3, level, -1):
                if levels[lower] and self.passed[lower] >= ageing:
                    return lower
        return level

    def age(self, level: int) -> None:
        """A task run of that priority is taken."""
        self.passed[level] = 0
        for lower in range(level + 1, 4):
            self.passed[lower] = self.passed[lower] + (level != RETRIES) if self.levels[lower] else 0

    def best(self, ageing: int) -> "Choice | None":
        """Whose turn it is; None if nothing can be served."""
        level = self._level(ageing)
        if level is None:
            return None
        needs = self.levels[level]
        if len(needs) == 1:
            (need,) = needs
            queues = need.levels[level]
            if len(queues) == 1:
                (queue,) = queues
                choice = level, need, queue, queue.first(level)
                if self.cells == 1:
                    self.solo = choice
                return choice
        return min(self._first(level), key=_turn)

    def _first(self, level: int) -> "Iterable[Choice]":
        for need in islice(self.levels[level], LOOKS):
            for queue in islice(need.levels[level], LOOKS):
                yield level, need, queue, queue.first(level)


Choice = tuple[int, WaitingNeed, SubQueue, Cell]
"""What is to be served: place of the priority, need, sub-queue, cell."""


def _turn(choice: Choice) -> tuple[int, int]:
    cell = choice[3]
    return cell.lane.turn, cell.items[0][0]


def _turn_of_cell(cell: Cell) -> int:
    return cell.lane.turn


class Turns:
    """Actions that can be served, in turn; one that comes back keeps the turn that it had."""

    def __init__(self) -> None:
        self._line: dict[ActionQueue, None] = {}
        """In the order of their turns."""
        self._back: list[tuple[int, ActionQueue]] = []
        """Heap of those that came back, by the turn that they had. Some have gone again."""

    def first(self) -> ActionQueue | None:
        """Whose turn it is."""
        line, back = self._line, self._back
        while back:
            turn, action = back[0]
            if action.back_at != turn:
                heappop(back)
                continue
            for front in line:
                return front if front.turn < turn else action
            return action
        for front in line:
            return front
        return None

    def enter(self, action: ActionQueue) -> None:
        """An action can be served; if it could already, nothing changes."""
        line = self._line
        if action in line or action.back_at >= 0:
            return
        if not line or action.turn > next(reversed(line)).turn:
            line[action] = None
        else:
            action.back_at = action.turn
            heappush(self._back, (action.turn, action))

    def served(self, action: ActionQueue) -> None:
        """It had its turn, and has got its next."""
        if action.back_at >= 0:
            action.back_at = -1
        elif len(self._line) == 1:
            return
        else:
            del self._line[action]
        self._line[action] = None

    def leave(self, action: ActionQueue) -> None:
        """It cannot be served any more; if it could not, nothing changes."""
        self._line.pop(action, None)
        action.back_at = -1

    @property
    def is_alone(self) -> bool:
        """Whether there is one at most."""
        return len(self._line) + len(self._back) <= 1
