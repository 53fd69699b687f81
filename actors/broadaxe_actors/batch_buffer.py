"""`BatchBuffer`: the task runs of one group that wait for their batch. It decides when a batch starts, and who is in it.

One per step and group key, activated by its first member and retired when it holds nothing. A batch is due when its size is reached, when
the interval has passed, or when the payloads would not fit into one message any more. It then asks `TenantQueue` for one slot, with a
ticket that stands in line as a task run would; members are drawn only when the slot is there, so that the most urgent are in it.

The interval counts from when the group came into being, that is from the first member of an empty one, or from its last flush. A group that
has as many batches running as it may, or finds no slot, keeps its members; more may join them meanwhile.

Nothing here is journalled: recovery derives it from task rows. May touch the runtime, `batches`, `matching`.
"""

from collections.abc import Sequence
from typing import Any

from broadaxe_actors.batches import TICKET, BatchKey, BatchRules, Draw, Member, WaitingGroup
from broadaxe_actors.matching import Ready
from broadaxe_actors.runtime import Actor, Handle


class BatchBuffer(Actor):
    """See the module."""

    def __init__(
        self, key: BatchKey, queue: "Handle[Any]", tracker: "Handle[Any]", max_message_bytes: int
    ) -> None:
        super().__init__()
        self._key = key
        self._queue, self._tracker = queue, tracker
        self._rules: BatchRules
        self._waiting = WaitingGroup(max_message_bytes)
        self._due_at = 0
        """When the interval is over, by the monotonic clock; counts while members wait."""
        self._tickets: dict[str, None] = {}
        """Batches that wait for a slot."""
        self._ticket_priority = 0
        self._running: set[str] = set()

    # ------------------------------------------------------------ what the tracker tells

    def add(self, rules: BatchRules, members: Sequence[Member]) -> None:
        """Task runs that are ready but for their batch."""
        self._rules = rules
        if not self._waiting:
            self._begin_interval()
        for member in members:
            self._waiting.add(member)
        self._ask()

    def leave(self, members: Sequence[tuple[str, int]]) -> None:
        """Task runs (id, attempt) that wait no more: cancelled, timed out, or found with a worker."""
        for task_run_id, attempt in members:
            self._waiting.remove(task_run_id, attempt)
        self._tidy()

    def running(self, batch_ids: Sequence[str]) -> None:
        """Batches of this group that workers hold already: what recovery finds."""
        self._running.update(batch_ids)

    def ended(self, batch_ids: Sequence[str]) -> None:
        """Batches that have no members any more, or never came to run."""
        self._running.difference_update(batch_ids)
        if self._waiting:
            self._ask()
        self._tidy()

    # ------------------------------------------------------------ when a batch is due

    def interval_over(self) -> None:
        """Members have waited for as long as they have to."""
        if self._waiting:
            self._ask()

    def _begin_interval(self) -> None:
        self._due_at = self.clock.monotonic() + self._rules.interval_us
        self.set_timer("interval", self._rules.interval_us, self.me.interval_over)

    def _due(self) -> tuple[int, str]:
        """How many batches could start now if all slots were free, and why."""
        count, reason = self._waiting.full_batches(self._rules.max_size)
        if not count and self._waiting and self.clock.monotonic() >= self._due_at:
            return 1, f"the interval of {self._rules.interval_us // 1000:,} ms has passed"
        return count, reason

    def _ask(self) -> None:
        """Have as many tickets in line as batches are due and may run."""
        rules = self._rules
        priority = self._waiting.top_priority
        if self._tickets and priority > self._ticket_priority:
            # A more urgent member must not wait at the place of the others.
            self._withdraw()
        count, _ = self._due()
        missing = min(count, rules.group_max_runs - len(self._running)) - len(self._tickets)
        if missing <= 0:
            return
        if not self._tickets:
            self._ticket_priority = priority
        now = self.clock.now()
        asked = tuple(
            Ready(
                self.rng.uuid7(now),
                TICKET,
                rules.demand,
                "",
                self._ticket_priority,
                0,
                None,
            )
            for _ in range(missing)
        )
        self._tickets.update((ticket.task_run_id, None) for ticket in asked)
        self._queue.ask.send(self._key, asked)

    def _withdraw(self) -> None:
        self._queue.withdraw.send(tuple(self._tickets))
        self._tickets.clear()

    # ------------------------------------------------------------ a slot is there

    def granted(self, batch_id: str, worker_id: str) -> None:
        """`TenantQueue` has found a slot for a batch."""
        is_ours = batch_id in self._tickets
        self._tickets.pop(batch_id, None)
        count, reason = self._due() if self._waiting else (0, "")
        if not is_ours or not count or len(self._running) >= self._rules.group_max_runs:
            # Withdrawn while the grant was on its way, or nobody is left who would have to go now.
            self._queue.release.send(((worker_id, batch_id, TICKET),))
            self._tidy()
            return
        members = self._waiting.draw(self._rules.max_size)
        self._running.add(batch_id)
        self._tracker.start_batch.send(Draw(self._key, batch_id, worker_id, reason, members))
        if self._waiting:
            self._begin_interval()
            self._ask()
        else:
            self._tidy()

    def _tidy(self) -> None:
        if self._waiting:
            return
        self.cancel_timer("interval")
        if self._tickets:
            self._withdraw()
        if not self._running:
            self.retire()
