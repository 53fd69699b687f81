"""The backlog: task runs that wait for a slot, by demand. Pure. The part of `Matcher` that keeps them.

A sub-queue, its need and its action come to be with the first task run that has the demand. They stay for more of the same, with the workers
that were found for them, until there are too many; sub-queues with limits go when they are empty. May touch `lanes`, `worker_pools`, `credits`.
"""

from collections.abc import Iterable

from broadaxe_actors.credits import Credits
from broadaxe_actors.lanes import LEVELS, ActionQueue, Cell, Demand, Ready, SubQueue, Turns, WaitingNeed
from broadaxe_actors.worker_pools import LOOKS, Fleet

MAX_NEEDS = 1_000
MAX_MEMBERS = 300_000
"""Needs that nothing waits for are kept with their workers, as finding these costs something; while there are as few, with as few shelves."""


class Backlog:
    """See the module."""

    def __init__(self) -> None:
        self._fleet = Fleet()
        self._numbers = self._fleet.numbers
        self._credits = Credits(self._numbers)
        self._actions: dict[str, ActionQueue] = {}
        self._queues: dict[str, SubQueue] = {}
        """By the key of their demand."""
        self._needs: dict[tuple[object, ...], WaitingNeed] = {}
        self._members = 0
        """Shelves of all needs, as many as there were when each was made."""
        self._paused: set[str] = set()
        self._turns = Turns()
        """Actions with something that may find a slot."""

    def push(self, item: Ready, *, is_first: bool = False) -> None:
        """Put a task run at the end of its lane, or at its front: one that was proposed and comes back."""
        demand = item.demand
        queue = self._queues.get(demand.key)
        if queue is None:
            queue = self._make_queue(demand)
        action = queue.action
        level = 4 - item.queue_priority
        cell = queue.levels[level].get(item.group_key)
        if cell is None:
            cell = self._open_lane(queue, level, item.group_key)
        elif not action.size:
            # Its only lane was kept.
            action.turn = next(self._numbers)
            if not queue.need.is_blocked and not action.is_paused:
                self._turns.enter(action)
        if is_first and cell.items:
            cell.items.appendleft((cell.items[0][0], item.task_run_id, item.attempt, item.prefers))
        else:
            cell.items.append((next(self._numbers), item.task_run_id, item.attempt, item.prefers))
        queue.size += 1
        action.size += 1
        if queue.keys:
            self._credits.raised(queue, level)
            self._check_limits(queue)

    def ready_count(self) -> int:
        """How many task runs wait here."""
        return sum(action.size for action in self._actions.values())

    def ready_counts(self) -> dict[str, int]:
        """How many task runs wait here, by action."""
        return {name: action.size for name, action in self._actions.items() if action.size}

    def set_paused(self, actions: Iterable[str], *, is_paused: bool) -> None:
        """Nothing of these actions is proposed, or it is again, in its order; known or not."""
        for name in actions:
            (self._paused.add if is_paused else self._paused.discard)(name)
            action = self._actions.get(name)
            if action is None:
                continue
            action.is_paused = is_paused
            if is_paused:
                self._turns.leave(action)
            elif action.size and any(action.levels):
                self._turns.enter(action)

    def _make_queue(self, demand: Demand) -> SubQueue:
        identity = (demand.action, demand.slots, demand.labels, demand.worker_id)
        need = self._needs.get(identity)
        if need is None:
            self._tidy()
            action = self._actions.get(demand.action)
            if action is None:
                action = self._actions[demand.action] = ActionQueue(
                    demand.action, next(self._numbers), is_paused=demand.action in self._paused
                )
            need = self._needs[identity] = WaitingNeed(action, demand)
            action.needs[need] = None
            self._fleet.join(need)
            self._members += len(need.homes)
            need.cost = len(need.homes)
        queue = SubQueue(demand, need, self._credits.resolve(demand.limits))
        self._queues[demand.key] = need.queues[demand.key] = queue
        return queue

    def _open_lane(self, queue: SubQueue, level: int, group_key: str) -> Cell:
        need = queue.need
        action = queue.action
        if not action.size and action.solo is not None:
            self._close_lane(*action.solo)
        cells = queue.levels[level]
        cell = cells[group_key] = action.enter_lane(level, group_key, self._numbers, queue.spare)
        queue.spare = None
        if action.cells == 1:
            action.solo = level, need, queue, cell
        if not queue.size:
            if not action.queues:
                action.turn = next(self._numbers)
            need.busy += 1
            action.queues[queue] = None
            if queue.keys:
                self._credits.add(queue)
        if len(cells) == 1 and queue.watched is None:
            need.levels[level][queue] = None
            if not need.is_blocked:
                action.levels[level][need] = None
                if not action.is_paused:
                    self._turns.enter(action)
        return cell

    def _activate(self, need: WaitingNeed) -> None:
        if not need.is_blocked and not need.action.is_paused:
            self._turns.enter(need.action)

    def _close_lane(self, level: int, need: WaitingNeed, queue: SubQueue, cell: Cell) -> None:
        """The last task run of a lane has gone."""
        cells = queue.levels[level]
        del cells[cell.key]
        need.action.leave_lane(level, cell)
        queue.spare = cell
        if not cells:
            need.hide_level(queue, level)
            if not queue.size:
                self._emptied(queue)

    def _emptied(self, queue: SubQueue) -> None:
        need = queue.need
        del need.action.queues[queue]
        need.busy -= 1
        if queue.keys:
            self._credits.remove(queue)
            self._forget(queue)

    def _forget(self, queue: SubQueue) -> None:
        del self._queues[queue.demand.key]
        del queue.need.queues[queue.demand.key]

    def _tidy(self) -> None:
        """Drop needs that nothing waits for, the oldest first, if there are too many; a few at a time."""
        for _ in range(LOOKS):
            if len(self._needs) <= MAX_NEEDS and self._members <= MAX_MEMBERS:
                return
            identity, need = next(iter(self._needs.items()))
            if need.busy and not need.action.size and need.action.solo is not None:
                self._close_lane(*need.action.solo)
            if need.busy or len(self._needs) == 1:
                self._needs[identity] = self._needs.pop(identity)
            else:
                self._drop(need)

    def _drop(self, need: WaitingNeed) -> None:
        self._members -= need.cost
        for queue in tuple(need.queues.values()):
            self._forget(queue)
        del self._needs[need.identity]
        self._fleet.leave(need)
        action = need.action
        del action.needs[need]
        if not action.needs:
            del self._actions[action.name]

    def _check_limits(self, queue: SubQueue) -> None:
        if not self._credits.drain_if_over(queue):
            return
        for level in LEVELS:
            queue.need.hide_level(queue, level)
        self._emptied(queue)
        if not any(queue.action.levels):
            self._turns.leave(queue.action)
