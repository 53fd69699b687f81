"""What one handler of `RunTracker` has to say to its neighbours, collected so that a batch makes one message to each. Pure."""

from typing import Any

from broadaxe_actors.matching import Ready
from broadaxe_actors.messages import Assignment, CancelOrder
from broadaxe_actors.runtime import Handle
from broadaxe_actors.task_run import TaskRun
from broadaxe_actors.wait_index import Wait


class Turn:
    """See the module."""

    __slots__ = (
        "cancels",
        "deliveries_after",
        "done",
        "ended",
        "ended_parents",
        "freed",
        "held",
        "queued",
        "ready",
        "started",
        "starts",
        "waits",
        "waits_over",
    )

    def __init__(self) -> None:
        self.ready: list[Ready] = []
        """Task runs for the queue."""
        self.queued: list[tuple[str, int]] = []
        """Task runs (id, attempt) that join their lines after the commit."""
        self.waits: list[Wait] = []
        """Events that task runs wait for."""
        self.waits_over: list[str] = []
        """Task runs that wait for no event any more."""
        self.freed: list[tuple[str, str, int]] = []
        """Attempts (worker, task run, attempt) whose slots are free again."""
        self.held: list[TaskRun] = []
        """Task runs that a worker turns out to hold."""
        self.starts: dict[str, list[Assignment]] = {}
        """By worker: what it is told to start."""
        self.started: dict[str, list[str]] = {}
        """By worker: attempts that gave a sign of life."""
        self.done: dict[str, list[str]] = {}
        """By worker: task runs that it holds no more."""
        self.cancels: dict[str, list[CancelOrder]] = {}
        self.deliveries_after: dict[Handle[Any], list[Any]] = {}
        """By gateway: messages that leave after the commit."""
        self.ended: list[str] = []
        """Runs that ended."""
        self.ended_parents: list[str] = []
        """Task runs that ended and had spawned children."""

    def hold(self, task: TaskRun) -> None:
        self.held.append(task)

    def cancel(self, worker_id: str, order: CancelOrder) -> None:
        self.cancels.setdefault(worker_id, []).append(order)

    def deliver_after(self, gateway: "Handle[Any]", message: object) -> None:
        self.deliveries_after.setdefault(gateway, []).append(message)
