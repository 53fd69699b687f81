"""What one handler of `RunTracker` has to say to its neighbours, collected so that a batch makes one message to each. Pure."""

from typing import Any

from broadaxe_actors.admission import GroupKey, Strategy
from broadaxe_actors.batches import BatchKey, BatchRules, Member, RunningBatch
from broadaxe_actors.concurrency import Ask
from broadaxe_actors.matching import Ready
from broadaxe_actors.messages import Assignment, BatchStart, CancelOrder
from broadaxe_actors.runtime import Handle
from broadaxe_actors.task_run import TaskRun
from broadaxe_actors.wait_index import Wait


class GroupNews:
    """What groups of batch tasks are told."""

    __slots__ = ("adopted", "joined", "left", "over", "running")

    def __init__(self) -> None:
        self.joined: dict[BatchKey, tuple[BatchRules, list[Member]]] = {}
        """Task runs that wait for a batch from now on."""
        self.left: dict[BatchKey, list[tuple[str, int]]] = {}
        """Task runs (id, attempt) that do so no more, and are in none either."""
        self.running: dict[BatchKey, list[str]] = {}
        """Batches that turn out to run."""
        self.over: dict[BatchKey, list[str]] = {}
        """Batches that have no member any more."""
        self.adopted: dict[tuple[str, BatchKey], RunningBatch] = {}
        """By worker as well: what it turns out to hold by batches that nobody knows."""


class Turn:
    """See the module."""

    __slots__ = (
        "asks",
        "batches",
        "batches_to_start",
        "cancels",
        "deliveries_after",
        "done",
        "ended",
        "ended_parents",
        "first",
        "freed",
        "groups",
        "held",
        "limits",
        "places_held",
        "places_left",
        "queued",
        "ready",
        "started",
        "starts",
        "to_start",
        "unspent",
        "waits",
        "waits_over",
    )

    def __init__(self) -> None:
        self.ready: list[Ready] = []
        """Task runs for the queue."""
        self.first: list[Ready] = []
        """Task runs that the queue proposed, and that go back to the front of their lanes."""
        self.queued: list[tuple[str, int]] = []
        """Task runs (id, attempt) that join their lines after the commit."""
        self.waits: list[Wait] = []
        """Events that task runs wait for."""
        self.waits_over: list[str] = []
        """Task runs that wait for no event any more."""
        self.freed: list[tuple[str, str, int]] = []
        """Attempts (worker, task run, attempt) whose slots are free again."""
        self.unspent: list[tuple[str, str, int]] = []
        """Likewise, of proposals that were refused: what they spent of rate limits is there for others."""
        self.held: list[TaskRun] = []
        """Task runs that a worker turns out to hold."""
        self.starts: dict[str, list[Assignment]] = {}
        """By worker: what it is told to start."""
        self.to_start: list[tuple[str, int]] = []
        """Attempts (task run, attempt) that start once their assignment is committed: they hold what others wait for."""
        self.limits: dict[str, tuple[int, int]] = {}
        """By bucket: a limit that a task run says, and its window in seconds."""
        self.batches_to_start: list[str] = []
        """Likewise, of batches."""
        self.asks: dict[tuple[GroupKey, Strategy], list[Ask]] = {}
        """Requests for places in concurrency groups."""
        self.places_held: dict[tuple[GroupKey, Strategy], list[Ask]] = {}
        """Places that are held already: what recovery or a report finds."""
        self.places_left: dict[GroupKey, list[str]] = {}
        """By group: who holds a place, or waits for one, no more once this is committed."""
        self.started: dict[str, list[str]] = {}
        """By worker: attempts that gave a sign of life."""
        self.done: dict[str, list[str]] = {}
        """By worker: task runs that it holds no more."""
        self.batches: dict[str, list[BatchStart]] = {}
        """By worker: batches that it is told to start."""
        self.groups: GroupNews | None = None
        """What groups of batch tasks are told, if anything."""
        self.cancels: dict[str, list[CancelOrder]] = {}
        self.deliveries_after: dict[Handle[Any], list[Any]] = {}
        """By gateway: messages that leave after the commit."""
        self.ended: list[str] = []
        """Runs that ended."""
        self.ended_parents: list[str] = []
        """Task runs that ended and had spawned children."""

    def of_groups(self) -> "GroupNews":
        """To say something to groups of batch tasks."""
        if self.groups is None:
            self.groups = GroupNews()
        return self.groups

    def hold(self, task: TaskRun) -> None:
        self.held.append(task)

    def cancel(self, worker_id: str, order: CancelOrder) -> None:
        self.cancels.setdefault(worker_id, []).append(order)

    def deliver_after(self, gateway: "Handle[Any]", message: object) -> None:
        self.deliveries_after.setdefault(gateway, []).append(message)
