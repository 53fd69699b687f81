"""`TenantQueue`: the ready task runs of a tenant and the free slots of its workers. It proposes; `RunTracker` accepts or refuses.

One per tenant. Nothing here is journalled: recovery derives it from task rows and workers. A task run that ended while it
waited here is refused when it is proposed, and its slot comes back at once. A batch stands in line with a ticket instead of its members;
the slot is granted to its buffer. May touch the runtime, `matching`, `batches`.
"""

from collections.abc import Sequence
from typing import Any

from broadaxe_actors.batches import TICKET, BatchKey
from broadaxe_actors.matching import Matcher, Proposal, Ready, Slots
from broadaxe_actors.runtime import Actor, Directory, Handle

MATCH_SLICE = 64
"""Proposals made in one turn; more wait for the next, so that no turn is long."""


class TenantQueue(Actor):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._matcher = Matcher()
        self._tracker: Handle[Any] | None = None
        self._buffers: Directory[BatchKey] | None = None
        self._tickets: dict[str, BatchKey] = {}
        """By batch that waits for its slot: which buffer asked for it."""
        self._tickets_in_line = 0
        """Those withdrawn included."""
        self._is_matching = False
        self.invocations = 0

    def connect(self, tracker: "Handle[Any]") -> None:
        """Whom to propose to."""
        self._tracker = tracker

    def connect_buffers(self, buffers: "Directory[BatchKey]") -> None:
        """Whom to grant slots for batches."""
        self._buffers = buffers

    # ------------------------------------------------------------ task runs

    def enqueue(self, items: Sequence[Ready]) -> None:
        """Task runs that are ready, in order."""
        push = self._matcher.push
        for item in items:
            push(item)
        self._match_soon()

    def set_paused(self, actions: Sequence[str], is_paused: bool) -> None:
        """Whether task runs of these actions stay where they stand. `RunTracker` refuses what is proposed all the same."""

    def release(self, freed: Sequence[tuple[str, str, int]]) -> None:
        """Attempts (worker id, task run id, attempt) that hold their slots no more."""
        for worker_id, task_run_id, attempt in freed:
            self._matcher.release(worker_id, task_run_id, attempt)
        self._match_soon()

    # ------------------------------------------------------------ batches

    def ask(self, key: BatchKey, tickets: Sequence[Ready]) -> None:
        """A buffer asks for a slot a ticket; each is answered with `granted`."""
        for ticket in tickets:
            self._tickets[ticket.task_run_id] = key
            self._matcher.push(ticket)
        self._tickets_in_line += len(tickets)
        self._match_soon()

    def withdraw(self, batch_ids: Sequence[str]) -> None:
        """Batches that need no slot after all; what is granted already crosses with this, and comes back."""
        for batch_id in batch_ids:
            self._tickets.pop(batch_id, None)

    def _grant(self, ticket: Proposal) -> None:
        self._tickets_in_line -= 1
        key = self._tickets.pop(ticket.task_run_id, None)
        if key is None:
            self._matcher.release(ticket.worker_id, ticket.task_run_id, TICKET)
            return
        assert self._buffers is not None
        self._buffers.send(key, "granted", ticket.task_run_id, ticket.worker_id)

    # ------------------------------------------------------------ workers

    def put_worker(
        self, worker_id: str, actions: frozenset[str], slot_config: tuple[tuple[str, int], ...]
    ) -> None:
        """A worker that has just registered, revived or been recovered. It takes nothing until opened."""
        self._matcher.put_worker(worker_id, actions, dict(slot_config))

    def remove_worker(self, worker_id: str) -> None:
        """A worker is lost or has stopped: its slots are gone with it."""
        self._matcher.remove_worker(worker_id)

    def set_open(self, worker_id: str, is_open: bool) -> None:
        """Whether a worker takes new task runs now."""
        self._matcher.set_open(worker_id, is_open=is_open)
        if is_open:
            self._match_soon()

    def hold(self, held: Sequence[tuple[str, str, int, Slots]]) -> None:
        """Attempts (worker id, task run id, attempt, units) that a worker has already: what recovery or a report finds."""
        for item in held:
            self._matcher.take(*item)

    # ------------------------------------------------------------ matching

    def match(self) -> None:
        """Propose what fits now."""
        self._is_matching = False
        self.invocations += 1
        proposals = found = self._matcher.match(MATCH_SLICE)
        if self._tickets_in_line:
            proposals = [item for item in found if item.attempt != TICKET]
            for item in found:
                if item.attempt == TICKET:
                    self._grant(item)
        if proposals:
            assert self._tracker is not None
            self._tracker.propose.send(tuple(proposals))
        if found:
            # Unless all was matched, or a slot that was not needed came back.
            self._match_soon()

    def worker_slots(self) -> dict[str, tuple[int, int]]:
        """By worker: units of all pools, in all and in use."""
        return self._matcher.units_by_worker()

    def label_slots(self) -> dict[tuple[str, str | int, str], tuple[int, int]]:
        """By label key, label value and pool: units of the workers with that label, in all and in use."""
        return {}

    def stats(self) -> tuple[int, int, int]:
        """Units in all and in use, and how often a match was tried."""
        total, used = self._matcher.totals()
        return total, used, self.invocations

    def slots_of(self, worker_id: str) -> tuple[dict[str, int], dict[str, int]]:
        """Total and free units of a worker."""
        return self._matcher.slots_of(worker_id)

    def _match_soon(self) -> None:
        # One match for everything that is in the inbox already: a bulk of releases makes one batch of proposals.
        if not self._is_matching and self._matcher.can_match():
            self._is_matching = True
            self.me.match.send()
