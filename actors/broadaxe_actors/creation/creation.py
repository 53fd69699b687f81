"""The way of a trigger, from what a client asked for to rows in the record.

A trigger goes through up to five stages: check everything (a bad entry changes nothing), look up what memory does not hold (parents,
ids that a repeated trigger names), have spawn keys claimed, have idempotency keys claimed (`keys`), create (`births`). A large trigger is
created in slices, and recorded as a whole. Not an actor: it lives inside the tracker, and records and sends through it.
"""

import json
import logging
from typing import TYPE_CHECKING, Any

from broadaxe_actors.catalog import Version
from broadaxe_actors.claims import ClaimRequest, spawn_key
from broadaxe_actors.creation.job import INTERNAL_PREFIX, EventStart, Job, Parent
from broadaxe_actors.creation.keys import KeyClaims, collided
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    EventsPushed,
    IdempotencyCollisions,
    NewRun,
    PushEvents,
    Refusal,
    Reply,
    TriggerRuns,
)
from broadaxe_actors.runtime import Handle
from broadaxe_actors.timers import TimedStart
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import EventKeyRow, EventRow, IdempotencyKeyRow, TaskRunRow

if TYPE_CHECKING:
    from broadaxe_actors.run_tracker import RunTracker

logger = logging.getLogger(__name__)

SLICE = 100
"""Runs created in one turn."""
REFUSED_KEPT = 10_000
"""Ids of refused runs that are remembered, for triggers that count on them."""
FRESH_ID_MS = 30_000
"""Age by its own clock up to which a client's run id is taken for new."""


class Creation(KeyClaims):
    """See the module."""

    def __init__(self, tracker: "RunTracker") -> None:
        super().__init__(tracker)
        self._refused_ids: dict[str, None] = {}
        """Runs that Postgres refused lately."""
        self._slicing: int | None = None
        """The large trigger that is between two of its slices."""
        self._waiting: list[int] = []
        """Triggers that wait for it."""
        self._repeats_later: list[tuple[Handle[Any], TriggerRuns]] = []
        """Repeated triggers that have not begun, and wait for it."""

    # ------------------------------------------------------------ stages

    def begin(self, gateway: "Handle[Any]", message: TriggerRuns, *, is_settled: bool = False) -> None:
        """Check a trigger and set it on its way. `is_settled`: all that was recorded before it came is committed."""
        job = Job(gateway, message.request_id, message.runs)
        job.is_repeat = message.is_repeat
        job.trigger_events = [None] * len(message.runs)
        try:
            self._check(job)
        except Refused as refused:
            self._refuse(job, refused)
            return
        if job.is_repeat and self._slicing is not None:
            # What it repeats may be that one, of which a part is to wait in Postgres and is not recorded yet.
            self._repeats_later.append((gateway, message))
            return
        if job.is_repeat and not is_settled and self._t._uncommitted_spills:
            # What it repeats may be among them, where neither memory nor Postgres shows it yet.
            self._t.send_after_commit(self._t.me.trigger_settled, gateway, message)
            return
        try:
            self._take(job)
        except Refused as refused:
            self._refuse(job, refused)
            return
        number = self._add(job)
        to_load = self._to_load(job)
        if to_load:
            self._t.fetch(
                self._t._load_any,
                to_load,
                then=self._t.me.parents_loaded,
                context=number,
            )
        else:
            self._claim(number, job)

    def begin_from_events(self, gateway: "Handle[Any]", message: PushEvents, start: object) -> None:
        """Store events with the runs that they start."""
        assert isinstance(start, EventStart)
        runs: list[NewRun] = []
        events: list[EventRow | None] = []
        versions: list[Version] = []
        filters: dict[int, str] = {}
        metadata: dict[int, str] = {}
        for index, workflow, filter_text in start.starts:
            event = start.events[index]
            version = self._t._catalog.find(workflow)
            if version is None:
                continue  # deleted since it was found
            if index not in metadata:
                metadata[index] = _event_metadata(event)
            if filter_text is not None:
                filters[len(runs)] = filter_text
            runs.append(NewRun(workflow, event.payload, metadata[index], priority=event.priority))
            events.append(event)
            versions.append(version)
        job = Job(gateway, message.request_id, tuple(runs))
        job.versions = versions
        job.run_ids = [self._new_id() for _ in runs]
        job.event_rows = start.events
        job.new_event_keys = tuple(EventKeyRow(self._t._tenant_id, key) for key in start.new_keys)
        job.met = start.met
        job.filters = filters
        job.trigger_events = events
        now = start.events[0].created_at if start.events else self._t.clock.now()
        job.reply = EventsPushed(tuple(row.id for row in start.events), now)
        try:
            self._take(job)
        except Refused as refused:
            self._refuse(job, refused)
            return
        self._claim_keys(self._add(job), job)

    def begin_timed(self, timetable: "Handle[Any]", number: int, start: TimedStart) -> None:
        """Make the run of a cron or a scheduled run; the timetable is answered like a client."""
        run = NewRun(
            start.workflow_name,
            start.input,
            start.metadata,
            run_id=start.run_id,
            priority=start.priority,
        )
        job = Job(timetable, number, (run,))
        job.timed = start
        job.trigger_events = [None]
        try:
            self._check(job)
            self._take(job)
        except Refused as refused:
            self._refuse(job, refused)
            return
        self._claim_keys(self._add(job), job)

    def looked_up(self, number: int, result: Any, error: BaseException | None) -> None:
        """Parents, and runs that a repeated trigger names, have been read."""
        job = self._jobs[number]
        if error is not None:
            self._drop(number)
            if not isinstance(error, Unavailable):
                raise error
            self._refuse(job, Refused(Code.UNAVAILABLE, str(error)))
            return
        live, finished = result
        rows = (*live, *finished)
        metadata = {row.id: row.metadata for row in rows}
        for row in rows:
            if row.id == row.run_id:
                job.existing.add(row.id)
            # What belongs to a run of several tasks has its metadata there; it was read along.
            inherited = metadata.get(row.run_id, row.metadata)
            job.parents.setdefault(row.id, Parent(row.run_id, inherited, True))
        for run in job.runs:
            parent = run.parent_task_run_id
            if parent is not None and parent not in job.parents:
                self._drop(number)
                self._refuse(job, Refused(Code.NOT_FOUND, f"parent task run {parent} not found"))
                return
        self._claim(number, job)

    def _claim(self, number: int, job: Job) -> None:
        for index, run in enumerate(job.runs):
            parent = run.parent_task_run_id
            if parent is not None and run.child_index is not None and job.run_ids[index] not in job.existing:
                job.claims.append(
                    (
                        index,
                        ClaimRequest(
                            parent,
                            spawn_key(run.child_index, run.child_key),
                            job.run_ids[index],
                            job.parents[parent].may_have_history,
                        ),
                    )
                )
                if parent in self._t._live:
                    self._t._parents_with_children.add(parent)
        if job.claims:
            self._t._claims.claim.send(number, tuple(request for _, request in job.claims))
        else:
            self._claim_keys(number, job)

    def claimed(self, number: int, owners: tuple[str, ...]) -> None:
        """A key that is taken names the existing child; its request creates nothing."""
        job = self._jobs[number]
        for (index, request), owner in zip(job.claims, owners, strict=True):
            if owner != request.run_id:
                job.run_ids[index] = owner
                job.taken.add(index)
        self._claim_keys(number, job)

    def claim_failed(self, number: int, error: str) -> None:
        """What the parent spawned before could not be read."""
        self._refuse(self._drop(number), Refused(Code.UNAVAILABLE, error))

    def create_slice(self, number: int) -> None:
        """Make the next task runs; record all of them once the last is made."""
        job = self._jobs[number]
        if not self._has_turn(number, job):
            return
        tracker = self._t
        now = tracker.clock.now()
        end = min(job.offset + SLICE, len(job.runs))
        for index in range(job.offset, end):
            run_id = job.run_ids[index]
            if run_id in job.existing:
                if not job.is_repeat:
                    self._refuse_existing(number, run_id)
                    return
            elif index in job.left_out:
                continue
            elif index in job.taken:
                job.borrowed.append(run_id)
            elif not self._is_made(run_id):
                self._refused_ids.pop(run_id, None)
                self._create(job, index, now)
            elif job.is_repeat:
                job.borrowed.append(run_id)
                job.keys.pop(index, None)  # it has its key since it was made
            else:
                self._refuse_existing(number, run_id)
                return
        job.offset = end
        if end < len(job.runs):
            tracker.me.create_slice.send(number)
            return
        self._drop(number)
        self._end_turn()
        self._record(job)

    def _record(self, job: Job) -> None:
        """All of a trigger in one append: it commits as a whole, and only then its task runs may run."""
        tracker = self._t
        self._settle_taken(job)
        for record in (*job.event_rows, *job.new_event_keys):
            tracker.record(record)
        if job.event_rows:
            tracker.send_after_commit(tracker._router.committed, tuple(row.id for row in job.event_rows))
            # In the append that stores the events: a wait is never ended by an event that nobody can find.
            tracker.waits_met(job.met)
        for row in job.rows:
            tracker.record(row)
        timed = job.timed
        if job.rows and timed is not None and timed.change is not None and tracker._may_record(timed):
            tracker.record(timed.change)
        for request in job.keys.values():
            tracker.record(
                IdempotencyKeyRow(tracker._tenant_id, request.key, request.run_id, request.expires_at)
            )
        if job.keys:
            keys = tuple((request.key, request.run_id) for request in job.keys.values())
            tracker.send_after_commit(tracker._claims.keys_committed, keys)
        if job.rows:
            tracker._telemetry.count("created_tasks", tracker._tenant_id, len(job.rows))
            tracker._uncommitted_spills += job.spilled
            for offset in range(0, max(1, len(job.created)), SLICE):
                tracker.send_after_commit(
                    tracker.me.created,
                    tuple(job.created[offset : offset + SLICE]),
                    job.spilled if offset == 0 else 0,
                    tuple(job.spilled_lines) if offset == 0 else (),
                )
        is_collided = bool(job.collisions) and job.reply is None
        if job.borrowed or is_collided:
            tracker.send_after_commit(
                tracker.me.borrowed_settled,
                job.gateway,
                job.request_id,
                self._collisions(job) if is_collided else tuple(job.run_ids),
                (*job.borrowed, *(item.existing_run_id for item in job.collisions)),
            )
        else:
            self._reply(job, job.reply if job.reply is not None else tuple(job.run_ids))

    def answer_borrowed(
        self,
        gateway: "Handle[Any]",
        request_id: int,
        answer: tuple[str, ...] | IdempotencyCollisions,
        borrowed: tuple[str, ...],
    ) -> None:
        """Answer a trigger that counts on runs of an earlier one, now that those are committed, or refused."""
        lost = next((run_id for run_id in borrowed if run_id in self._refused_ids), None)
        if lost is not None:
            text = f"workflow run {lost} could not be created: the trigger that came first was refused"
            self._t._refuse(gateway, request_id, Refused(Code.UNAVAILABLE, text))
        elif isinstance(answer, IdempotencyCollisions):
            self._t._refuse(gateway, request_id, collided(answer))
        else:
            self._t._reply(gateway, request_id, answer)

    def _refuse_existing(self, number: int, run_id: str) -> None:
        job = self._drop(number)
        self._end_turn()
        self._forget(job)
        self._refused_ids.update((row.id, None) for row in job.rows)
        text = f"workflow run {run_id} exists already: choose another id, or mark the trigger as a repeat"
        self._refuse(job, Refused(Code.ALREADY_EXISTS, text))

    def _has_turn(self, number: int, job: Job) -> bool:
        """Whether a trigger may make its task runs now; if not, it is called when the one before it is done.

        Places in line are given in the order of commits: paging goes by them, and would pass over what is committed late.
        """
        if self._slicing not in (None, number):
            self._waiting.append(number)
            return False
        self._slicing = number if job.offset + SLICE < len(job.runs) else None
        return True

    def _end_turn(self) -> None:
        self._slicing = None
        waiting, self._waiting = self._waiting, []
        for number in waiting:
            self._t.me.create_slice.send(number)
        repeats, self._repeats_later = self._repeats_later, []
        for gateway, message in repeats:
            self._t.me.trigger.send(gateway, message)

    # ------------------------------------------------------------ steps

    def _check(self, job: Job) -> None:
        """Everything that can be wrong, before anything is done. Raises `Refused`."""
        tracker = self._t
        for run in job.runs:
            version = tracker._catalog.latest(run.workflow_name)
            if run.priority is not None and not 1 <= run.priority <= 3:
                raise Refused(
                    Code.INVALID_ARGUMENT,
                    f"workflow {run.workflow_name!r}: priority is {run.priority}, expected 1 to 3",
                )
            job.versions.append(version)
            job.run_ids.append(run.run_id or self._new_id())

    def _to_load(self, job: Job) -> list[str]:
        """Ids to read: parents that are not in memory, and runs that may exist already.

        Those are what a repeated trigger names, and ids that a client made a while ago: a fresh UUIDv7 cannot have ended
        and been forgotten, so it costs no look-up.
        """
        tracker = self._t
        oldest = _first_id_of(tracker.clock.now() // 1000 - FRESH_ID_MS)
        missing: dict[str, None] = {}
        for index, run in enumerate(job.runs):
            parent = run.parent_task_run_id
            if parent is not None and parent not in job.parents:
                task = tracker._live.get(parent)
                if task is None:
                    missing[parent] = None
                else:
                    job.parents[parent] = Parent(
                        task.run_id, task.metadata, task.is_recovered or task.attempt > 0
                    )
            run_id = job.run_ids[index]
            is_fresh = run_id[14] == "7" and run_id >= oldest
            if (job.is_repeat or (run.run_id and not is_fresh)) and not tracker._is_live(run_id):
                missing[run_id] = None
        return list(missing)

    def refused(self, records: tuple[Any, ...], effects: tuple[Any, ...], error: str) -> None:
        """Postgres refused the rows of a trigger (a run id that exists, say): take them back and tell the caller."""
        tracker = self._t
        unclaimed: list[tuple[str, str, str]] = []
        rows = [record for record in records if isinstance(record, TaskRunRow)]
        self._refused_ids.update(dict.fromkeys(row.id for row in rows))
        for run_id in list(self._refused_ids)[:-REFUSED_KEPT]:
            del self._refused_ids[run_id]
        keys = tuple(
            (record.key, record.run_id) for record in records if isinstance(record, IdempotencyKeyRow)
        )
        if keys:
            tracker._claims.unclaim_keys.send(keys)
        tracker._uncommitted_spills -= sum(1 for row in rows if row.spill_queue)
        for row in rows:
            self._take_back(row)
            if row.parent_task_run_id is not None and row.child_index is not None:
                unclaimed.append((row.parent_task_run_id, spawn_key(row.child_index, row.child_key), row.id))
        if unclaimed:
            tracker._claims.unclaim.send(tuple(unclaimed))
        code = Code.ALREADY_EXISTS if "exist" in error or "already" in error else Code.INVALID_ARGUMENT
        for bound, args in effects:
            if bound.name == "borrowed_settled":
                gateway, request_id = args[:2]
                tracker._refuse(gateway, request_id, Refused(code, error))
                continue
            if bound.name == "committed":
                bound.send(*args)  # the events are refused: waits need not look for them any more
                continue
            messages = args[0] if args else ()
            if isinstance(messages, tuple) and messages and isinstance(messages[0], Reply | Refusal):
                bound.send((Refusal(messages[0].request_id, code, error),))


def _first_id_of(milliseconds: int) -> str:
    """The begin of every UUIDv7 that is made at this time since the epoch; later ones come after it in the order of text."""
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _event_metadata(event: EventRow) -> str:
    """The event's keys without the engine's, then which event it was."""
    raw = json.loads(event.metadata)
    merged = {key: value for key, value in raw.items() if not key.startswith(INTERNAL_PREFIX)}
    merged["hatchet__event_id"] = event.id
    merged["hatchet__event_key"] = event.key
    for name in ("workflow_run_id", "step_run_id"):
        source = raw.get(f"hatchet__source_{name}")
        if source is not None:
            merged[f"hatchet__source_{name}"] = source
    return json.dumps(merged, separators=(",", ":"))
