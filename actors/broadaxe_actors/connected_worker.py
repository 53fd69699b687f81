"""`ConnectedWorker`: one worker, its sessions, what it holds, and when it is lost.

One per worker. It decides whether the worker may get work (a session is open, the last heartbeat is fresh, it is not paused
and its stream takes more), when it is lost, and what it is told. A lost worker is not a dead id: it revives on Listen,
and is sent cancels for the attempts that were taken from it. A heartbeat touches memory only.

Deadlines use the monotonic clock and start afresh at recovery; a timer that comes late, because the loop stalled, extends them by the stall.
May touch the runtime and the messages.
"""

import json
from typing import Any, NamedTuple

from broadaxe_actors.errors import Code
from broadaxe_actors.held_batches import HeldBatches
from broadaxe_actors.messages import (
    Assignment,
    BatchStart,
    CancelOrder,
    CancelTasks,
    CloseSession,
    Heartbeat,
    HeldAttempt,
    OpenSession,
    PauseWorker,
    Refusal,
    Reply,
    SessionFull,
    StartBatches,
    StartTasks,
    StopWorker,
    UpsertLabels,
    WorkerInfo,
)
from broadaxe_actors.runtime import Actor, Handle
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.worker_labels import labels_from
from broadaxe_storage.records import WorkerRow, WorkerStatus

MAX_TAKEN = 10_000
"""Cancels kept for a worker that may come back."""
STALL_US = 500_000
"""A timer later than this shows that the loop stood still, and so did the heartbeats in its inbox."""


class _Session(NamedTuple):
    gateway: "Handle[Any]"
    is_batched: bool
    sends_heartbeats: bool


class ConnectedWorker(Actor):
    """See the module."""

    def __init__(
        self,
        row: WorkerRow,
        settings: ShardSettings,
        queue: "Handle[Any]",
        tracker: "Handle[Any]",
        registry: "Handle[Any]",
    ) -> None:
        super().__init__()
        self._row = row
        self._settings = settings
        self._queue, self._tracker, self._registry = queue, tracker, registry
        self._slots = tuple(sorted(json.loads(row.slot_config).items()))
        self._sessions: dict[str, _Session] = {}
        self._full: set[str] = set()
        self._in_flight: dict[str, Assignment] = {}
        self._batches = HeldBatches()
        """Which of them are in batches."""
        self._started: set[str] = set()
        self._taken: dict[tuple[str, int], CancelOrder] = {}
        self._suspects: dict[HeldAttempt, int] = {}
        """Attempts that may have gone down with a stream, and when it broke."""
        self._adopting = 0
        """Questions to the tracker about attempts that the worker has and we did not know of."""
        self._is_leaving = False
        self._is_open = False
        self._last_seen = self.clock.monotonic()
        self._last_heartbeat_at: int | None = None
        self._last_session_at: int | None = None
        self._had_session = False

    def on_start(self) -> None:
        """Start the clock of loss. The registry has put the worker into the queue already, closed."""
        self._watch_heartbeat()

    def mark_recovered(self) -> None:
        """The worker is from the record: it had a session once, and has none now."""
        self._had_session = True
        self._arm_undelivered()

    # ------------------------------------------------------------ sessions

    def open_session(self, gateway: "Handle[Any]", message: OpenSession) -> None:
        """A stream of this worker opened; a lost worker revives."""
        if self._is_leaving:
            if message.request_id:
                text = f"worker {self._row.id} not found: it has stopped; register again"
                gateway.deliver.send((Refusal(message.request_id, Code.NOT_FOUND, text),))
            return
        self._sessions[message.session_id] = _Session(gateway, message.is_batched, message.sends_heartbeats)
        self._had_session = True
        self._last_session_at = self.clock.now()
        self._seen()
        if self._row.status != WorkerStatus.ACTIVE:
            self._revive()
        if message.request_id:
            self.send_after_commit(gateway.deliver, (Reply(message.request_id, None),))
        if message.in_flight is not None:
            self._reconcile(gateway, message)
        elif self._row.is_batched:
            # The stream outlived a rebuild of its tenant, in which what was to be sent may be lost.
            self._send_again(tuple(self._in_flight.values()))
        taken = tuple(self._taken.values())
        if taken:
            self._taken.clear()
            gateway.deliver.send((CancelTasks(message.session_id, taken),))
        self._update_open()

    def _reconcile(self, gateway: "Handle[Any]", message: OpenSession) -> None:
        """A batched worker says what it holds: send what it never got, and sort out what we did not know of."""
        assert message.in_flight is not None
        held = set(message.in_flight)
        unknown = [
            item
            for item in message.in_flight
            if (known := self._in_flight.get(item.task_run_id)) is None or known.attempt != item.attempt
        ]
        lost = tuple(
            assignment
            for assignment in self._in_flight.values()
            if HeldAttempt(assignment.task_run_id, assignment.attempt) not in held
        )
        if lost:
            self._deliver(gateway, message.session_id, *self._batches.split(lost))
        if unknown:
            self._adopting += 1
            self._tracker.adopt.send(self._row.id, tuple(unknown))

    def adopted(self) -> None:
        """The tracker has sorted out what the worker said that it holds."""
        self._adopting -= 1
        self._update_open()

    def _send_again(self, assignments: tuple[Assignment, ...]) -> None:
        """Attempts without a sign of life; a batched worker ignores those that it has.

        A batch of which any member has started has come to the worker as a whole.
        """
        unstarted = tuple(item for item in assignments if item.task_run_id not in self._started)
        if unstarted and self._sessions:
            session_id, session = next(reversed(self._sessions.items()))
            single, batches = self._batches.split(unstarted)
            unstarted_batches = tuple(
                batch for batch in batches if self._started.isdisjoint(self._batches.members(batch.batch_id))
            )
            self._deliver(session.gateway, session_id, single, unstarted_batches)

    @staticmethod
    def _deliver(
        gateway: "Handle[Any]",
        session_id: str,
        assignments: tuple[Assignment, ...],
        batches: tuple[BatchStart, ...],
    ) -> None:
        if assignments:
            gateway.deliver.send((StartTasks(session_id, assignments),))
        if batches:
            gateway.deliver.send((StartBatches(session_id, batches),))

    def close_session(self, message: CloseSession) -> None:
        """A stream of this worker ended; what runs goes on."""
        self._full.discard(message.session_id)
        if self._sessions.pop(message.session_id, None) is not None:
            # Even if the worker listens again already: what went down with this stream did not come up with that one.
            self._arm_undelivered()
            self._update_open()

    def session_full(self, message: SessionFull) -> None:
        """A stream takes no more for now, or again."""
        if message.is_full:
            self._full.add(message.session_id)
        else:
            self._full.discard(message.session_id)
        self._update_open()

    def _arm_undelivered(self) -> None:
        """What a unary worker gave no sign of may never have reached it; a batched one tells when it returns."""
        if self._row.is_batched or not self._in_flight:
            return
        self._tracker.doubt.send(self._row.id, tuple(self._in_flight))
        now = self.clock.monotonic()
        is_armed = bool(self._suspects)
        for item in self._in_flight.values():
            if item.task_run_id not in self._started:
                self._suspects.setdefault(HeldAttempt(item.task_run_id, item.attempt), now)
        if self._suspects and not is_armed:
            self.set_timer(
                "undelivered", round(self._settings.undelivered_seconds * 1e6), self.me.undelivered
            )

    def undelivered(self) -> None:
        """A stream broke a while ago: attempts without a sign of life since are taken back, even if the worker listens again."""
        now = self.clock.monotonic()
        wait = round(self._settings.undelivered_seconds * 1e6)
        self._suspects = {item: at for item, at in self._suspects.items() if self._is_suspect(item)}
        held = tuple(item for item, at in self._suspects.items() if now - at >= wait)
        for item in held:
            del self._suspects[item]
        if self._suspects:
            self.set_timer("undelivered", min(self._suspects.values()) + wait - now, self.me.undelivered)
        if held:
            self._take(held)
            self._tracker.worker_lost.send(
                self._row.id, held, f"worker {self._row.name!r} did not confirm the start"
            )

    def _is_suspect(self, item: HeldAttempt) -> bool:
        known = self._in_flight.get(item.task_run_id)
        return known is not None and known.attempt == item.attempt and item.task_run_id not in self._started

    # ------------------------------------------------------------ signs of life

    def heartbeat(self, gateway: "Handle[Any]", message: Heartbeat) -> None:
        """The worker lives."""
        self._last_heartbeat_at = self.clock.now()
        self._seen()
        if self._sessions and self._row.status != WorkerStatus.ACTIVE:
            self._revive()
            self._send_taken()
        self._update_open()
        if not message.request_id:
            return
        if self._had_session and not self._sessions:
            text = f"heartbeat rejected: the stream of worker {self._row.id} is not active; listen again"
            gateway.deliver.send((Refusal(message.request_id, Code.FAILED_PRECONDITION, text),))
        else:
            gateway.deliver.send((Reply(message.request_id, None),))

    def _seen(self) -> None:
        now = self.clock.monotonic()
        was_stale = now - self._last_seen >= self._settings.worker_stale_seconds * 1e6
        self._last_seen = now
        if was_stale and self._row.status == WorkerStatus.ACTIVE:
            # The timer stands at the time of loss: it must see the next silence from its beginning.
            self._watch_heartbeat()

    def _watch_heartbeat(self) -> None:
        """One timer: until the worker is stale, then until it is lost."""
        age = self.clock.monotonic() - self._last_seen
        stale = round(self._settings.worker_stale_seconds * 1e6)
        lost = round(self._settings.worker_lost_seconds * 1e6)
        wait = (stale if age < stale else lost) - age
        self.set_timer("heartbeat", max(wait, 1000), self.me.check_heartbeat, self.clock.monotonic() + wait)

    def check_heartbeat(self, expected_at: int) -> None:
        """See whether the last sign of life is too old."""
        if any(not session.sends_heartbeats for session in self._sessions.values()):
            self._seen()
        now = self.clock.monotonic()
        late = now - expected_at
        lost = round(self._settings.worker_lost_seconds * 1e6)
        if late > STALL_US:
            # When it began is not known: a heartbeat may have waited since long before this timer was due.
            grace = round(self._settings.worker_stale_seconds * 1e6)
            self._last_seen = max(self._last_seen + late, now - lost + grace)
        age = now - self._last_seen
        if age >= lost:
            self._lose()
        else:
            self._update_open()
            self._watch_heartbeat()

    def _lose(self) -> None:
        held = tuple(HeldAttempt(item.task_run_id, item.attempt) for item in self._in_flight.values())
        if self._row.status == WorkerStatus.ACTIVE:
            self._put_row(status=WorkerStatus.LOST)
        self._leave_queue()
        if held:
            self._take(held)
            seconds = self._settings.worker_lost_seconds
            self._tracker.worker_lost.send(
                self._row.id,
                held,
                f"worker {self._row.name!r} sent no heartbeat for {seconds:g} s",
            )
        if self._row.status == WorkerStatus.STOPPED:
            self._leave()

    def _leave(self) -> None:
        self._is_leaving = True
        self._registry.forget_worker.send(self._row.id)

    def dismiss(self) -> None:
        """The tracker assigns nothing to this worker any more."""
        self._registry.dismissed.send(self._row.id)

    def _take(self, held: tuple[HeldAttempt, ...]) -> None:
        """Let go of attempts; the tracker has the worker told to stop them, once that is committed."""
        for item in held:
            del self._in_flight[item.task_run_id]
            self._batches.drop(item.task_run_id)
            self._started.discard(item.task_run_id)

    def _send_taken(self) -> None:
        taken = tuple(self._taken.values())
        if taken:
            self._taken.clear()
            self.cancel(taken)

    def _revive(self) -> None:
        if self._in_flight:
            # Held by a worker that was lost before a restart: it was never told, so it must not count twice.
            held = tuple(HeldAttempt(item.task_run_id, item.attempt) for item in self._in_flight.values())
            self._take(held)
            self._tracker.worker_lost.send(self._row.id, held, f"worker {self._row.name!r} was lost")
        self._put_row(status=WorkerStatus.ACTIVE)
        self._join_queue()
        self._watch_heartbeat()

    def _join_queue(self) -> None:
        self._is_open = False
        row = self._row
        self._queue.put_worker.send(row.id, frozenset(row.actions), self._slots, labels_from(row.labels))
        self._tell_active(sum(units for _, units in self._slots))

    def _tell_active(self, slots: int | None) -> None:
        """Whether the worker counts for the limits of its tenant, if there are any."""
        if self._settings.limits:
            self._registry.set_active.send(self._row.id, slots)

    def _leave_queue(self) -> None:
        self._is_open = False
        self._tell_active(None)
        self._queue.remove_worker.send(self._row.id)

    def _update_open(self) -> None:
        is_fresh = self.clock.monotonic() - self._last_seen < self._settings.worker_stale_seconds * 1e6
        is_open = (
            self._row.status == WorkerStatus.ACTIVE
            and not self._row.is_paused
            and is_fresh
            and not self._adopting
            and any(session_id not in self._full for session_id in self._sessions)
        )
        if is_open != self._is_open:
            self._is_open = is_open
            self._queue.set_open.send(self._row.id, is_open)

    # ------------------------------------------------------------ what it is told

    def start_tasks(self, assignments: tuple[Assignment, ...]) -> None:
        """Attempts for the worker: to its newest session that takes more."""
        self._start(assignments, ())

    def start_batches(self, batches: tuple[BatchStart, ...]) -> None:
        """Attempts for the worker to run together."""
        self._start((), batches)

    def _start(self, assignments: tuple[Assignment, ...], batches: tuple[BatchStart, ...]) -> None:
        new = [*assignments, *(member for batch in batches for member in batch.members)]
        if self._row.status != WorkerStatus.ACTIVE:
            # They crossed with the loss of the worker, or its goodbye.
            held = tuple(HeldAttempt(item.task_run_id, item.attempt) for item in new)
            self._tracker.worker_lost.send(self._row.id, held, f"worker {self._row.name!r} had gone")
            return
        for assignment in new:
            self._in_flight[assignment.task_run_id] = assignment
        for batch in batches:
            self._batches.put(batch)
        session_id = next(
            (key for key in reversed(self._sessions) if key not in self._full),
            next(reversed(self._sessions), None),
        )
        if session_id is None:
            self._arm_undelivered()
            return
        self._deliver(self._sessions[session_id].gateway, session_id, assignments, batches)

    def cancel(self, orders: tuple[CancelOrder, ...]) -> None:
        """Attempts to stop: told on every session, or when the worker comes back."""
        if not self._sessions or self._row.status != WorkerStatus.ACTIVE:
            for order in orders[: max(0, MAX_TAKEN - len(self._taken))]:
                self._taken[order.task_run_id, order.attempt] = order
            return
        for session_id, session in self._sessions.items():
            session.gateway.deliver.send((CancelTasks(session_id, orders),))

    def done(self, task_run_ids: tuple[str, ...]) -> None:
        """The worker holds these no more."""
        for task_run_id in task_run_ids:
            self._in_flight.pop(task_run_id, None)
            self._started.discard(task_run_id)
        if self._batches.are_any:
            for task_run_id in task_run_ids:
                self._batches.drop(task_run_id)
        if not self._in_flight and self._row.status == WorkerStatus.STOPPED and not self._is_leaving:
            self._leave()

    def started(self, task_run_ids: tuple[str, ...]) -> None:
        """The worker gave a sign that it runs these."""
        self._started.update(item for item in task_run_ids if item in self._in_flight)

    def holds(self, items: tuple[tuple[Assignment, bool], ...]) -> None:
        """Attempts that the worker holds, found at recovery or told by itself; True for those that have started."""
        self._hold(items)

    def holds_batches(self, items: tuple[tuple[BatchStart, bool], ...]) -> None:
        """Likewise, of batches; True for those of which any member has started."""
        for batch, _ in items:
            self._batches.put(batch)
        self._hold(tuple((member, is_started) for batch, is_started in items for member in batch.members))

    def _hold(self, items: tuple[tuple[Assignment, bool], ...]) -> None:
        for assignment, is_started in items:
            self._in_flight[assignment.task_run_id] = assignment
            if is_started:
                self._started.add(assignment.task_run_id)
        if not self._sessions:
            self._arm_undelivered()
        elif self._row.is_batched:
            self._send_again(tuple(assignment for assignment, _ in items))
        if self._row.status != WorkerStatus.ACTIVE:
            # Nobody watches it any more: see at once whether it is still away.
            self._watch_heartbeat()

    # ------------------------------------------------------------ changes

    def upsert_labels(self, gateway: "Handle[Any]", message: UpsertLabels) -> None:
        """Add or replace labels."""
        labels = json.loads(self._row.labels) | dict(message.labels)
        self._put_row(labels=json.dumps(labels, separators=(",", ":")))
        self._queue.set_labels.send(self._row.id, labels_from(self._row.labels))
        if message.request_id:
            self.send_after_commit(gateway.deliver, (Reply(message.request_id, None),))

    def pause(self, gateway: "Handle[Any]", message: PauseWorker) -> None:
        """Set or clear the pause, or only read; answered with what the worker is now."""
        if message.is_paused is not None and message.is_paused != self._row.is_paused:
            self._put_row(is_paused=message.is_paused)
            self._update_open()
        if message.request_id:
            self.send_after_commit(gateway.deliver, (Reply(message.request_id, self._info()),))

    def stop_worker(self, gateway: "Handle[Any]", message: StopWorker) -> None:
        """The worker says goodbye. What it still holds is taken back at once if its stream tells all, else when it is lost."""
        self._sessions.clear()
        self._put_row(status=WorkerStatus.STOPPED)
        self._leave_queue()
        if self._in_flight and self._row.is_batched:
            held = tuple(HeldAttempt(item.task_run_id, item.attempt) for item in self._in_flight.values())
            self._take(held)
            self._tracker.worker_lost.send(
                self._row.id, held, f"worker {self._row.name!r} stopped before it was done"
            )
        if not self._in_flight and not self._is_leaving:
            self._leave()
        if message.request_id:
            self.send_after_commit(gateway.deliver, (Reply(message.request_id, None),))

    def _put_row(self, **changes: Any) -> None:
        self._row = self._row._replace(updated_at=self.clock.now(), **changes)
        self.record(self._row)

    def _info(self) -> WorkerInfo:
        row = self._row
        return WorkerInfo(
            worker_id=row.id,
            name=row.name,
            actions=row.actions,
            slot_config=self._slots,
            used_slots=(("default", len(self._in_flight) - self._batches.spared_units),),
            labels=labels_from(row.labels),
            runtime_info=row.runtime_info,
            is_paused=row.is_paused,
            is_connected=bool(self._sessions),
            last_heartbeat_at=self._last_heartbeat_at,
            last_session_at=self._last_session_at,
            created_at=row.created_at,
            updated_at=row.updated_at,
            in_flight=tuple(HeldAttempt(item.task_run_id, item.attempt) for item in self._in_flight.values()),
        )
