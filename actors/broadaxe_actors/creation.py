"""How runs come into being: the part of `RunTracker` that turns triggers into task runs.

A trigger goes through up to four stages: check everything (a bad entry changes nothing), look up what memory does not hold (parents,
ids that a repeated trigger names), have spawn keys claimed, create. A large trigger is created in slices, and recorded as a whole.
Not an actor: it lives inside the tracker, and records and sends through it.
"""

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from broadaxe_actors.catalog import Version
from broadaxe_actors.claims import ClaimRequest, spawn_key
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    EventsPushed,
    NewRun,
    PushEvents,
    Refusal,
    Reply,
    TriggerRuns,
)
from broadaxe_actors.runtime import Handle
from broadaxe_actors.task_run import TaskRun
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import EventRow, TaskRunRow, TaskRunState

if TYPE_CHECKING:
    from broadaxe_actors.run_tracker.state import TrackerState

SLICE = 100
"""Runs created in one turn."""
REFUSED_KEPT = 10_000
"""Ids of refused runs that are remembered, for triggers that count on them."""
FRESH_ID_MS = 30_000
"""Age by its own clock up to which a client's run id is taken for new."""
INTERNAL_PREFIX = "hatchet__"
"""Keys of the metadata that the engine writes; they are not inherited (behaviour-core 4.4.3)."""


class EventStart(NamedTuple):
    """What `EventRouter` found: events to store, and which workflows each of them starts."""

    events: tuple[EventRow, ...]
    starts: tuple[tuple[int, str], ...]
    """(index of the event, workflow name)."""


class Parent(NamedTuple):
    """What a child needs of its parent."""

    run_id: str
    metadata: str
    may_have_history: bool


class _Job:
    """One trigger on its way."""

    def __init__(self, gateway: "Handle[Any]", request_id: int, runs: tuple[NewRun, ...]) -> None:
        self.gateway = gateway
        self.request_id = request_id
        self.runs = runs
        self.is_repeat = False
        self.versions: list[Version] = []
        self.run_ids: list[str] = []
        self.parents: dict[str, Parent] = {}
        self.existing: set[str] = set()
        """Runs that the record has already."""
        self.taken: set[int] = set()
        """Indexes whose spawn key names another run."""
        self.borrowed: list[str] = []
        """Runs that another trigger made, maybe not committed yet."""
        self.claims: list[tuple[int, ClaimRequest]] = []
        self.event_rows: tuple[EventRow, ...] = ()
        self.trigger_events: list[EventRow | None] = []
        self.reply: object = None
        self.offset = 0
        self.rows: list[TaskRunRow] = []
        self.created: list[str] = []
        self.spilled = 0


class Creation:
    """See the module."""

    def __init__(self, tracker: "TrackerState") -> None:
        self._t = tracker
        self._jobs: dict[int, _Job] = {}
        self._refused_ids: dict[str, None] = {}
        """Runs that Postgres refused lately."""
        self._slicing: int | None = None
        """The large trigger that is between two of its slices."""
        self._waiting: list[int] = []
        """Triggers that wait for it."""
        self._next_job = 0

    # ------------------------------------------------------------ stages

    def begin(self, gateway: "Handle[Any]", message: TriggerRuns, *, is_settled: bool = False) -> None:
        """Check a trigger and set it on its way. `is_settled`: all that was recorded before it came is committed."""
        job = _Job(gateway, message.request_id, message.runs)
        job.is_repeat = message.is_repeat
        job.trigger_events = [None] * len(message.runs)
        try:
            self._check(job)
        except Refused as refused:
            self._refuse(job, refused)
            return
        if job.is_repeat and not is_settled and self._t._uncommitted_spills:
            # What it repeats may be among them, where neither memory nor Postgres shows it yet.
            self._t.send_after_commit(self._t.me.trigger_settled, gateway, message)
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
        for index, workflow in start.starts:
            event = start.events[index]
            version = self._t._catalog.latest(workflow)
            if not version.definition.is_single_task:
                continue
            runs.append(
                NewRun(
                    workflow,
                    message.events[index].payload,
                    _event_metadata(event),
                    priority=event.priority,
                )
            )
            events.append(event)
            versions.append(version)
        job = _Job(gateway, message.request_id, tuple(runs))
        job.versions = versions
        job.run_ids = [self._new_id() for _ in runs]
        job.event_rows = start.events
        job.trigger_events = events
        now = start.events[0].created_at if start.events else self._t.clock.now()
        job.reply = EventsPushed(tuple(row.id for row in start.events), now)
        self.create_slice(self._add(job))

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
        for row in (*live, *finished):
            job.existing.add(row.id)
            job.parents.setdefault(row.id, Parent(row.run_id, row.metadata, True))
        for run in job.runs:
            parent = run.parent_task_run_id
            if parent is not None and parent not in job.parents:
                self._drop(number)
                self._refuse(job, Refused(Code.NOT_FOUND, f"parent task run {parent} not found"))
                return
        self._claim(number, job)

    def _claim(self, number: int, job: _Job) -> None:
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
            self.create_slice(number)

    def claimed(self, number: int, owners: tuple[str, ...]) -> None:
        """A key that is taken names the existing child; its request creates nothing."""
        job = self._jobs[number]
        for (index, request), owner in zip(job.claims, owners, strict=True):
            if owner != request.run_id:
                job.run_ids[index] = owner
                job.taken.add(index)
        self.create_slice(number)

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
            elif index in job.taken:
                job.borrowed.append(run_id)
            elif run_id not in tracker._live and tracker._recent.get(run_id) is None:
                self._create(job, index, now)
            elif job.is_repeat:
                job.borrowed.append(run_id)
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

    def _record(self, job: _Job) -> None:
        """All of a trigger in one append: it commits as a whole, and only then its task runs may run."""
        tracker = self._t
        for event in job.event_rows:
            tracker.record(event)
        for row in job.rows:
            tracker.record(row)
        if job.rows:
            tracker._telemetry.count("created_tasks", tracker._tenant_id, len(job.rows))
            tracker._uncommitted_spills += job.spilled
            for offset in range(0, max(1, len(job.created)), SLICE):
                tracker.send_after_commit(
                    tracker.me.created,
                    tuple(job.created[offset : offset + SLICE]),
                    job.spilled if offset == 0 else 0,
                )
        if job.borrowed:
            tracker.send_after_commit(
                tracker.me.borrowed_settled,
                job.gateway,
                job.request_id,
                tuple(job.run_ids),
                tuple(job.borrowed),
            )
        else:
            self._reply(job, job.reply if job.reply is not None else tuple(job.run_ids))

    def answer_borrowed(
        self, gateway: "Handle[Any]", request_id: int, run_ids: tuple[str, ...], borrowed: tuple[str, ...]
    ) -> None:
        """Answer a trigger that counts on runs of an earlier one, now that those are committed, or refused."""
        lost = next((run_id for run_id in borrowed if run_id in self._refused_ids), None)
        if lost is None:
            self._t._reply(gateway, request_id, run_ids)
        else:
            text = f"workflow run {lost} could not be created: the trigger that came first was refused"
            self._t._refuse(gateway, request_id, Refused(Code.UNAVAILABLE, text))

    def _refuse_existing(self, number: int, run_id: str) -> None:
        job = self._drop(number)
        self._end_turn()
        self._forget(job)
        text = f"workflow run {run_id} exists already: choose another id, or mark the trigger as a repeat"
        self._refuse(job, Refused(Code.ALREADY_EXISTS, text))

    def _has_turn(self, number: int, job: _Job) -> bool:
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

    # ------------------------------------------------------------ steps

    def _check(self, job: _Job) -> None:
        """Everything that can be wrong, before anything is done. Raises `Refused`."""
        tracker = self._t
        for run in job.runs:
            version = tracker._catalog.latest(run.workflow_name)
            if not version.definition.is_single_task:
                raise Refused(
                    Code.UNIMPLEMENTED,
                    f"workflow {run.workflow_name!r} has {len(version.definition.all_tasks)} tasks: "
                    "this engine does not run workflows of several tasks yet",
                )
            if run.priority is not None and not 1 <= run.priority <= 3:
                raise Refused(
                    Code.INVALID_ARGUMENT,
                    f"workflow {run.workflow_name!r}: priority is {run.priority}, expected 1 to 3",
                )
            job.versions.append(version)
            job.run_ids.append(run.run_id or self._new_id())

    def _to_load(self, job: _Job) -> list[str]:
        """Ids to read: parents that are not in memory, and runs that may exist already.

        Those are what a repeated trigger names, and ids that a client made a while ago: a fresh UUIDv7 cannot have ended
        and been forgotten, so it costs no look-up.
        """
        tracker = self._t
        old = tracker.clock.now() // 1000 - FRESH_ID_MS
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
            if (job.is_repeat or (run.run_id and _made_at_ms(run_id) < old)) and run_id not in tracker._live:
                missing[run_id] = None
        return list(missing)

    def _create(self, job: _Job, index: int, now: int) -> None:
        tracker = self._t
        run = job.runs[index]
        version = job.versions[index]
        step = version.steps[0]
        event = job.trigger_events[index]
        priority = run.priority or version.definition.default_priority or 1
        line = (step.queue_key, priority)
        is_spilled = tracker._ledger.enter(line)
        metadata = run.metadata
        if run.parent_task_run_id is not None:
            metadata = _child_metadata(metadata, job.parents[run.parent_task_run_id], run.parent_task_run_id)
        row = TaskRunRow(
            id=job.run_ids[index],
            tenant_id=tracker._tenant_id,
            run_id=job.run_ids[index],
            workflow_id=version.workflow_id,
            workflow_version_id=version.id,
            step_index=0,
            state=TaskRunState.QUEUED,
            attempt=0,
            app_retries=0,
            internal_retries=0,
            priority=priority,
            queue_priority=priority,
            seq=tracker.next_seq(),
            spill_queue=step.queue_key if is_spilled else None,
            created_at=now,
            queued_at=now,
            schedule_deadline=now + step.schedule_timeout,
            execution_deadline=None,
            assigned_at=None,
            started_at=None,
            worker_id=None,
            parent_task_run_id=run.parent_task_run_id,
            child_index=run.child_index,
            child_key=run.child_key,
            triggering_event_id=event.id if event else None,
            triggering_event_key=event.key if event else None,
            desired_worker_id=run.desired_worker_id,
            desired_labels=run.desired_labels,
            metadata=metadata,
            input=run.input,
        )
        job.rows.append(row)
        if is_spilled:
            job.spilled += 1
            tracker.note_spilled_deadline(row.schedule_deadline)
        else:
            task = TaskRun(row, step, is_recovered=False)
            tracker._live[row.id] = task
            tracker._ledger.hold_bytes(task.size)
            job.created.append(row.id)

    def refused(self, records: tuple[Any, ...], effects: tuple[Any, ...], error: str) -> None:
        """Postgres refused the rows of a trigger (a run id that exists, say): take them back and tell the caller."""
        tracker = self._t
        unclaimed: list[tuple[str, str, str]] = []
        self._refused_ids.update(dict.fromkeys(row.id for row in records))
        for run_id in list(self._refused_ids)[:-REFUSED_KEPT]:
            del self._refused_ids[run_id]
        tracker._uncommitted_spills -= sum(1 for row in records if row.spill_queue is not None)
        for row in records:
            line = (
                tracker._catalog.version(row.workflow_version_id).steps[row.step_index].queue_key,  # type: ignore[union-attr]
                row.queue_priority,
            )
            if row.spill_queue is None:
                task = tracker._live.pop(row.id, None)
                if task is not None:
                    tracker._ledger.hold_bytes(-task.size)
                    tracker._ledger.leave(line)
            else:
                tracker._ledger.left_postgres(line)
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
            messages = args[0] if args else ()
            if isinstance(messages, tuple) and messages and isinstance(messages[0], Reply):
                bound.send((Refusal(messages[0].request_id, code, error),))

    def _forget(self, job: _Job) -> None:
        """Take back what earlier stages of a refused trigger put in memory; nothing was recorded."""
        tracker = self._t
        unclaimed = tuple(
            (request.parent_task_run_id, request.key, request.run_id)
            for index, request in job.claims
            if index not in job.taken
        )
        if unclaimed:
            tracker._claims.unclaim.send(unclaimed)
        for row in job.rows:
            line = (
                tracker._catalog.version(row.workflow_version_id).steps[row.step_index].queue_key,  # type: ignore[union-attr]
                row.queue_priority,
            )
            task = tracker._live.pop(row.id, None)
            if task is not None:
                tracker._ledger.hold_bytes(-task.size)
                tracker._ledger.leave(line)
            else:
                tracker._ledger.left_postgres(line)

    def _add(self, job: _Job) -> int:
        self._next_job += 1
        self._jobs[self._next_job] = job
        return self._next_job

    def _drop(self, number: int) -> _Job:
        return self._jobs.pop(number)

    def _new_id(self) -> str:
        return self._t.rng.uuid7(self._t.clock.now())

    def _reply(self, job: _Job, value: object) -> None:
        self._t._reply(job.gateway, job.request_id, value)

    def _refuse(self, job: _Job, refused: Refused) -> None:
        self._t._refuse(job.gateway, job.request_id, refused)


def _made_at_ms(run_id: str) -> int:
    """Milliseconds since the epoch at which a UUIDv7 was made; 0 for any other id, which is thus never fresh."""
    return int(run_id[:8] + run_id[9:13], 16) if run_id[14] == "7" else 0


def _child_metadata(own: str, parent: Parent, parent_task_run_id: str) -> str:
    """The parent's keys, then the child's own, then who spawned it (behaviour-core 4.4.3)."""
    merged = {
        key: value
        for key, value in json.loads(parent.metadata).items()
        if not key.startswith(INTERNAL_PREFIX) and key != "traceparent"
    }
    merged.update(json.loads(own))
    merged["hatchet__parent_workflow_run_id"] = parent.run_id
    merged["hatchet__parent_step_run_id"] = parent_task_run_id
    return json.dumps(merged, separators=(",", ":"))


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
