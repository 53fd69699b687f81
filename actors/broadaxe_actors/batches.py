"""Batches: task runs that one call of a function is to run together (behaviour-core 6.15). Pure.

A task run of a batch task waits in the group of its step and group key. `WaitingGroup` says how many batches are due and who is drawn;
`BatchBuffer` is the actor around it. `RunningBatch` is a batch that a worker holds, as `RunTracker` knows it.
"""

import heapq
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from broadaxe_actors.cel import Expression
from broadaxe_actors.lanes import Demand
from broadaxe_actors.messages import BatchStart

if TYPE_CHECKING:
    from broadaxe_actors.task_run import TaskRun

BATCH_SLOTS = (("default", 1),)
"""What a batch takes on its worker, however many members it has."""
TICKET = -1
"""In place of an attempt, where a batch asks for its slot and holds it. No attempt has this number."""
MEMBER_OVERHEAD_BYTES = 300
"""Ids and names of one member in the message that starts a batch."""


class BatchKey(NamedTuple):
    """A group: those who may be in one batch."""

    step_id: str
    group: str


class BatchRules(NamedTuple):
    """What a task says of its batches."""

    action: str
    demand: Demand
    """What its batches need."""
    max_size: int
    interval_us: int
    group_max_runs: int
    """Batches of one group that may run at a time."""
    group_key: str
    """CEL expression."""


def rules_of(batch: Mapping[str, Any], demand: Demand) -> BatchRules:
    """From `TaskDefinition.batch`."""
    return BatchRules(
        demand.action,
        demand,
        batch["max_size"],
        batch["max_interval_ms"] * 1000,
        batch["group_max_runs"],
        batch["group_key"],
    )


class Member(NamedTuple):
    """An attempt that waits for its batch."""

    task_run_id: str
    attempt: int
    priority: int
    """That of its place in line: 4 for retries, else its own."""
    seq: int
    size: int
    """Bytes in the message that starts it."""


class Draw(NamedTuple):
    """A batch that has its slot, and who is to be in it; members may have left meanwhile."""

    key: BatchKey
    batch_id: str
    worker_id: str
    reason: str
    """For people: why it starts now."""
    members: tuple[Member, ...]


class KeyWork(NamedTuple):
    """A group key to be evaluated outside of this process."""

    task_run_id: str
    attempt: int
    batch_id: str | None
    """A batch that a worker holds and whose group is to be known; None for a task run that is to join its group."""
    expression: Expression
    values: dict[str, bytes | str]


class WaitingGroup:
    """The members that wait in one group."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._members: dict[str, Member] = {}
        self._order: list[tuple[int, int, str, int]] = []
        """Heap of (-priority, seq, task run, attempt); those who left are passed over."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Member) -> None:
        """A member joins; one that is here already stays as it is."""
        if member.task_run_id in self._members:
            return
        self._members[member.task_run_id] = member
        self._bytes += member.size
        heapq.heappush(self._order, (-member.priority, member.seq, member.task_run_id, member.attempt))

    def remove(self, task_run_id: str, attempt: int) -> None:
        """A member leaves; unknown is fine."""
        member = self._members.get(task_run_id)
        if member is None or member.attempt != attempt:
            return
        del self._members[task_run_id]
        self._bytes -= member.size
        if len(self._order) > 2 * len(self._members) + 64:
            self._order = [item for item in self._order if self._is_here(item)]
            heapq.heapify(self._order)

    def full_batches(self, max_size: int) -> tuple[int, str]:
        """How many batches are due without waiting any longer, and why."""
        by_size = len(self._members) // max_size
        by_bytes = self._bytes // self._max_bytes
        if by_bytes > by_size:
            return by_bytes, f"the payloads have reached {self._bytes:,} bytes"
        return by_size, f"the batch has reached its size of {max_size:,}"

    @property
    def top_priority(self) -> int:
        """Of the member that is drawn first; 0 without any."""
        while self._order and not self._is_here(self._order[0]):
            heapq.heappop(self._order)
        return -self._order[0][0] if self._order else 0

    def draw(self, max_size: int) -> tuple[Member, ...]:
        """Take out the next batch: by priority, then age, as many as its size and a message allow; one at least."""
        drawn: list[Member] = []
        size = 0
        while self._order and len(drawn) < max_size:
            if self._is_here(self._order[0]):
                member = self._members[self._order[0][2]]
                if drawn and size + member.size > self._max_bytes:
                    break
                del self._members[member.task_run_id]
                self._bytes -= member.size
                size += member.size
                drawn.append(member)
            heapq.heappop(self._order)
        return tuple(drawn)

    def _is_here(self, item: tuple[int, int, str, int]) -> bool:
        member = self._members.get(item[2])
        return member is not None and member.attempt == item[3]


class RunningBatch:
    """A batch that a worker holds. Its slot is free once no member holds it any more; the batch is over when no member is left."""

    __slots__ = ("at", "holding", "id", "is_adopted", "key", "members", "reason", "worker_id")

    def __init__(
        self,
        batch_id: str,
        worker_id: str,
        key: BatchKey | None,
        at: int,
        reason: str,
        *,
        is_adopted: bool = False,
    ) -> None:
        self.id = batch_id
        self.worker_id = worker_id
        self.key = key
        """None after a restart, until it has been evaluated again."""
        self.at = at
        self.reason = reason
        self.is_adopted = is_adopted
        """Its worker told of it, after a crash in which its start was lost: it need not be sent again."""
        self.members: dict[str, TaskRun] = {}
        self.holding: set[str] = set()
        """Members that have not given the slot back."""

    def join(self, task: "TaskRun") -> None:
        """An attempt is run by this batch."""
        assert task.batching is not None
        task.batching.batch = self
        self.members[task.id] = task
        if not task.is_slot_released:
            self.holding.add(task.id)

    def leave(self, task: "TaskRun") -> None:
        """An attempt is in it no more."""
        assert task.batching is not None
        task.batching.batch = None
        del self.members[task.id]

    def gives_up_slot(self, task_run_id: str) -> bool:
        """A member holds the slot no more. True when it was the last that did."""
        if task_run_id not in self.holding:
            return False
        self.holding.discard(task_run_id)
        return not self.holding

    def start(self) -> BatchStart:
        """What its worker is told."""
        members = tuple(task.assignment() for task in self.members.values())
        return BatchStart(self.id, self.key.group if self.key else "", self.reason, self.at, members)


class Batching:
    """What a task run of a batch task has besides."""

    __slots__ = ("batch", "is_buffered", "key", "noted_attempt", "paid_attempt")

    def __init__(self) -> None:
        self.key: BatchKey | None = None
        """Its group, once the expression has been evaluated."""
        self.is_buffered = False
        """It waits in the buffer of its group."""
        self.batch: RunningBatch | None = None
        self.paid_attempt = -1
        """The attempt that has the units of its rate limits."""
        self.noted_attempt = -1
        """The attempt whose wait for a batch stands in its history."""


class BatchBook:
    """What `RunTracker` knows of batches, and what it has yet to find out."""

    def __init__(self) -> None:
        self.running: dict[str, RunningBatch] = {}
        """Batches that workers hold."""
        self.to_group: deque[tuple[str, int]] = deque()
        """Task runs (id, attempt) that are ready, and have yet to join their group."""
        self.to_count: deque[RunningBatch] = deque()
        """Batches that workers were found to hold, and whose group has yet to hear of them."""
        self.to_evaluate: deque[KeyWork] = deque()
        """Group keys that are to be evaluated outside of this process, a few at a time."""
        self.is_evaluating = False
        self.uncounted: set[str] = set()
        """Batches that were found, and whose group key is among those: until all are known, none joins a group."""
        self.restored: dict[str, RunningBatch] = {}
        """Batches from the record that their workers have yet to hear of."""

    @property
    def has_work(self) -> bool:
        """Whether something has yet to join or be counted."""
        return bool(self.to_group or self.to_count)
