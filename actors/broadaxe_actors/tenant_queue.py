"""`TenantQueue`: the ready task runs of a tenant and the free slots of its workers. It proposes; `RunTracker` accepts or refuses.

One per tenant. Nothing here is journalled: recovery derives it from task rows and workers. A task run that ended while it
waited here is refused when it is proposed, and its slot comes back at once: by `unspent`, so that credits spent on it may be used by another.
A batch stands in line with a ticket instead of its members; the slot is granted to its buffer.

Rate limits: the queue asks a bucket for units when task runs have slots and lack these (`ask`: units in all, beside what the queue has), and
gives back what nobody waits for any more. A bucket answers with `credits`, and ends its window by `credits_over`. What it cannot grant
it does not answer; so after `ANSWER_US` others are asked as well. May touch the runtime, `matching`, `batches`.
"""

from collections.abc import Sequence
from typing import Any

from broadaxe_actors.batches import TICKET, BatchKey
from broadaxe_actors.matching import Labels, LabelSlots, Matcher, Proposal, Ready, Slots
from broadaxe_actors.runtime import Actor, Directory, Handle

MATCH_SLICE = 64
"""Proposals made in one turn; more wait for the next, so that no turn is long."""
ANSWER_US = 100_000
"""How long buckets are waited for before others are asked beside them."""


class TenantQueue(Actor):
    """See the module."""

    def __init__(self, priority_ageing: int = 0) -> None:
        super().__init__()
        self._matcher = Matcher(priority_ageing)
        self._tracker: Handle[Any] | None = None
        self._buffers: Directory[BatchKey] | None = None
        self._buckets: Directory[str] | None = None
        self._tickets: dict[str, BatchKey] = {}
        """By batch that waits for its slot: which buffer asked for it."""
        self._tickets_in_line = 0
        """Those withdrawn included."""
        self._is_matching = False
        self._is_awaiting = False
        """A timer is set for answers of buckets."""
        self.invocations = 0

    def connect(self, tracker: "Handle[Any]") -> None:
        """Whom to propose to."""
        self._tracker = tracker

    def connect_buffers(self, buffers: "Directory[BatchKey]") -> None:
        """Whom to grant slots for batches."""
        self._buffers = buffers

    def connect_buckets(self, buckets: "Directory[str]") -> None:
        """Whom to ask for credits."""
        self._buckets = buckets

    # ------------------------------------------------------------ task runs

    def enqueue(self, items: Sequence[Ready]) -> None:
        """Task runs that are ready, in order."""
        push = self._matcher.push
        for item in items:
            push(item)
        self._match_soon()

    def put_back(self, items: Sequence[Ready]) -> None:
        """Task runs that were proposed, in order, and cannot go yet: to the front of their lanes."""
        for item in reversed(items):
            self._matcher.push(item, is_first=True)
        self._match_soon()

    def release(self, freed: Sequence[tuple[str, str, int]]) -> None:
        """Attempts (worker id, task run id, attempt) that hold their slots no more."""
        for worker_id, task_run_id, attempt in freed:
            self._matcher.release(worker_id, task_run_id, attempt)
        self._match_soon()

    def unspent(self, refused: Sequence[tuple[str, str, int]]) -> None:
        """Proposals (worker id, task run id, attempt) that were refused: as `release`, and what they spent is there for others.

        Instead of `release`, or before it: once an attempt has given back its slots, what it spent counts as used.
        """
        for worker_id, task_run_id, attempt in refused:
            self._matcher.undo(worker_id, task_run_id, attempt)
        self._match_soon()

    def set_paused(self, actions: Sequence[str], is_paused: bool) -> None:
        """Nothing of these actions is proposed, or it is again."""
        self._matcher.set_paused(actions, is_paused=is_paused)
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
            self._matcher.undo(ticket.worker_id, ticket.task_run_id, TICKET)
            return
        assert self._buffers is not None
        self._buffers.send(key, "granted", ticket.task_run_id, ticket.worker_id)

    # ------------------------------------------------------------ workers

    def put_worker(
        self,
        worker_id: str,
        actions: frozenset[str],
        slot_config: tuple[tuple[str, int], ...],
        labels: Labels = (),
    ) -> None:
        """A worker that has just registered, revived or been recovered. It takes nothing until opened."""
        self._matcher.put_worker(worker_id, actions, dict(slot_config), labels)

    def set_labels(self, worker_id: str, labels: Labels) -> None:
        """What a worker is like from the next match on."""
        self._matcher.set_labels(worker_id, labels)
        self._match_soon()

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

    # ------------------------------------------------------------ rate limits

    def credits(self, key: str, units: int) -> None:
        """A bucket has granted units of its window."""
        self._matcher.grant(key, units)
        self._match_soon()

    def credits_over(self, key: str) -> None:
        """The window of a bucket has ended: what is left of its units is not spent."""
        self._matcher.expire(key)
        self._match_soon()

    def limit_is(self, key: str, limit: int | None) -> None:
        """What a bucket has at most, or that there is no limit yet."""
        self._matcher.limit_is(key, limit)
        self._match_soon()

    def answers_due(self) -> None:
        """Buckets were asked a while ago."""
        self._is_awaiting = False
        self._matcher.no_answer()
        self._match_soon()

    def _tell_buckets(self) -> None:
        matcher = self._matcher
        over_limit = matcher.over_limit()
        if over_limit:
            assert self._tracker is not None
            self._tracker.over_limit.send(over_limit)
        for key, units in matcher.wanted():
            self._send_to_bucket(key, "ask", units)
        for key, units in matcher.unneeded():
            self._send_to_bucket(key, "give_back", units)
        if matcher.has_unanswered and not self._is_awaiting:
            self._is_awaiting = True
            self.set_timer("answers", ANSWER_US, self.me.answers_due)

    def _send_to_bucket(self, key: str, method: str, units: int) -> None:
        assert self._buckets is not None, f"asked for rate limit {key!r} without being connected to buckets"
        self._buckets.send(key, method, units)

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
        # Unless all was matched, or a slot that was not needed came back.
        self._match_soon()

    def worker_slots(self) -> dict[str, tuple[int, int]]:
        """By worker: units of all pools, in all and in use."""
        return self._matcher.units_by_worker()

    def stats(self) -> tuple[int, int, int]:
        """Units in all and in use, and how often a match was tried."""
        total, used = self._matcher.totals()
        return total, used, self.invocations

    def slots_of(self, worker_id: str) -> tuple[dict[str, int], dict[str, int]]:
        """Total and free units of a worker."""
        return self._matcher.slots_of(worker_id)

    def ready_counts(self) -> dict[str, int]:
        """How many task runs wait here, by action; tickets of batches count as one each."""
        return self._matcher.ready_counts()

    def label_slots(self) -> list[LabelSlots]:
        """Units in all and in use of the workers that have a label, by label, value and pool."""
        return self._matcher.label_slots()

    def _match_soon(self) -> None:
        # One match for everything that is in the inbox already: a bulk of releases makes one batch of proposals.
        if self._is_matching:
            return
        matcher = self._matcher
        if matcher.can_match():
            self._is_matching = True
            self.me.match.send()
        elif matcher.has_news:
            self._tell_buckets()
