"""Which task runs in memory wait for a slot or are with a worker, by action, the oldest first. Pure; read by task stats.

A task run is in one dictionary at a time, so that each step costs one look-up of its action and one entry; nothing is counted or compared.
"""

from collections.abc import Iterator
from itertools import chain, islice

from broadaxe_actors.task_run import TaskRun

_Tasks = dict[TaskRun, None]
"""In the order in which they came."""


class ActionCounts:
    """The task runs of one action; first attempts apart from later ones."""

    __slots__ = ("action", "queued", "queued_again", "running", "running_again", "task_name", "workflow_name")

    def __init__(self, task: TaskRun) -> None:
        self.action = task.step.definition.action
        self.task_name = task.step.definition.name
        self.workflow_name = task.step.workflow.name
        self.queued: _Tasks = {}
        self.queued_again: _Tasks = {}
        self.running: _Tasks = {}
        self.running_again: _Tasks = {}

    @property
    def is_empty(self) -> bool:
        return not (self.queued or self.queued_again or self.running or self.running_again)

    def oldest_queued(self) -> tuple[int | None, int | None]:
        """Since when the oldest waits, and the oldest first attempt."""
        first, again = next(iter(self.queued), None), next(iter(self.queued_again), None)
        return _oldest(first.queued_at if first else None, again.queued_at if again else None)

    def oldest_running(self) -> tuple[int | None, int | None]:
        """Since when the oldest is with its worker, and the oldest first attempt."""
        first, again = next(iter(self.running), None), next(iter(self.running_again), None)
        return _oldest(first.assigned_at if first else None, again.assigned_at if again else None)


def _oldest(first: int | None, again: int | None) -> tuple[int | None, int | None]:
    return min((at for at in (first, again) if at is not None), default=None), first


class TaskCounts:
    """See the module."""

    def __init__(self) -> None:
        self._by_action: dict[str, ActionCounts] = {}

    def queue(self, task: TaskRun) -> None:
        """A task run waits from now on."""
        counts = self._by_action.get(task.step.definition.action)
        if counts is None:
            counts = self._add(task)
        (counts.queued_again if task.attempt else counts.queued)[task] = None

    def unqueue(self, task: TaskRun) -> None:
        """It waits no more; its attempt is still the same."""
        counts = self._by_action.get(task.step.definition.action)
        if counts is not None:
            (counts.queued_again if task.attempt else counts.queued).pop(task, None)

    def run(self, task: TaskRun) -> None:
        """A worker has it from now on."""
        counts = self._by_action.get(task.step.definition.action)
        if counts is None:
            counts = self._add(task)
        (counts.running_again if task.attempt else counts.running)[task] = None

    def unrun(self, task: TaskRun) -> None:
        """No worker has it any more; its attempt is still the same."""
        counts = self._by_action.get(task.step.definition.action)
        if counts is not None:
            (counts.running_again if task.attempt else counts.running).pop(task, None)

    def _add(self, task: TaskRun) -> ActionCounts:
        counts = self._by_action[task.step.definition.action] = ActionCounts(task)
        return counts

    # ------------------------------------------------------------ what is told

    def of_action(self, action: str) -> ActionCounts | None:
        return self._by_action.get(action)

    def all(self) -> list[ActionCounts]:
        """Every action with any task run; the others are forgotten."""
        for counts in [counts for counts in self._by_action.values() if counts.is_empty]:
            del self._by_action[counts.action]
        return list(self._by_action.values())

    def queued_of(self, action: str) -> list[TaskRun]:
        """Those of an action that wait, in memory."""
        counts = self._by_action.get(action)
        return [] if counts is None else [*counts.queued, *counts.queued_again]

    def some_queued(self, most: int) -> Iterator[tuple[str, TaskRun]]:
        """Action and task run of those that wait, at most so many."""
        pairs = (
            (counts.action, task)
            for counts in self._by_action.values()
            for task in chain(counts.queued, counts.queued_again)
        )
        return islice(pairs, most)
