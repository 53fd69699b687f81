"""`RunTracker`: the live runs of a tenant. Every transition of a task run is decided here, and nowhere else.

One per tenant. It records each transition, and lets out what follows from it (queueing, answers, results) after the commit.
`creation` makes runs from triggers; `gates` and `waits` say when a task may start; `followers` knows who waits for what; `spill` says what
waits in Postgres.

A handler collects what it has to say in a `Turn`, so that a batch of reports makes one message to each neighbour.
May touch the runtime, the store's port, the pure modules and the messages.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

from broadaxe_actors.batches import BatchKey
from broadaxe_actors.definitions import WorkflowDefinition
from broadaxe_actors.errors import Code, EngineBug, Refused
from broadaxe_actors.event_filters import payload_text
from broadaxe_actors.gates import Gate
from broadaxe_actors.messages import (
    DeleteWorkflow,
    IdempotencyCollisions,
    PushEvents,
    PutWorkflow,
    RunEventKind,
    TriggerRuns,
    WorkflowRegistered,
)
from broadaxe_actors.not_enforced import not_enforced
from broadaxe_actors.run import ended_of
from broadaxe_actors.run_tracker.attempts import Attempts
from broadaxe_actors.run_tracker.control import Control
from broadaxe_actors.run_tracker.following import Following
from broadaxe_actors.run_tracker.reading import Reading
from broadaxe_actors.run_tracker.stats import Stats
from broadaxe_actors.run_tracker.timed import Timed, facts_of
from broadaxe_actors.runtime import Directory, Handle
from broadaxe_actors.states import HELD_STATES
from broadaxe_actors.task_run import TaskRun
from broadaxe_actors.turn import Turn
from broadaxe_storage.records import (
    RUN_STEP,
    EventKeyRow,
    EventRow,
    FilterClear,
    FilterDrop,
    FilterRow,
    IdempotencyKeyRow,
    LogRow,
    SpilledQueue,
    TaskEventKind,
    TaskRunRow,
    TaskRunState,
    WorkflowDeletion,
    WorkflowVersionRow,
)
from broadaxe_storage.records_timers import (
    CronChange,
    CronRow,
    ScheduledRunChange,
    ScheduledRunRow,
    TimerDrop,
)

logger = logging.getLogger(__name__)

S = TaskRunState
TIMER_RECORDS = (CronRow, CronChange, ScheduledRunRow, ScheduledRunChange, TimerDrop)
GO_ON_SLICE = 50
"""Runs whose conditions are judged again in one turn after a restart."""


class RunTracker(Attempts, Control, Following, Reading, Stats, Timed):
    """See the module."""

    def connect(
        self,
        queue: "Handle[Any]",
        claims: "Handle[Any]",
        router: "Handle[Any]",
        supervisor: "Handle[Any] | None",
    ) -> None:
        """The neighbours of this tenant."""
        self._queue, self._claims, self._router = queue, claims, router
        self._supervisor = supervisor

    def connect_buckets(self, buckets: "Directory[str]") -> None:
        """Where limits that task runs say are put in force, by bucket."""
        self._buckets = buckets

    def connect_buffers(self, buffers: "Directory[BatchKey]") -> None:
        """Where task runs of batch tasks wait, by group."""
        self._buffers = buffers

    def worker_joined(self, worker_id: str, worker: "Handle[Any]") -> None:
        """Where to send what concerns a worker."""
        self._workers[worker_id] = worker

    def worker_left(self, worker_id: str) -> None:
        """The worker is forgotten for good: nothing is assigned to it any more, and it hears so after all that was."""
        worker = self._workers.pop(worker_id, None)
        if worker is not None:
            worker.dismiss.send()

    def restore_versions(self, rows: Sequence[WorkflowVersionRow], deleted: Sequence[str] = ()) -> None:
        """Workflows from the record; those that are deleted have runs that live on."""
        self._catalog.restore_deleted(deleted)
        for row in rows:
            self._catalog.restore(row)
        for version in self._catalog.all_latest():
            definition = version.definition
            self._router.set_workflow.send(version.workflow_id, definition.name, definition.event_triggers)
            self._timetable.set_workflow.send(version.definition.name, facts_of(version))

    def restore_seq(self, seq: int) -> None:
        """The highest place in line that the record knows."""
        self._seq = max(self._seq, seq)

    def restore_task_runs(self, rows: Sequence[TaskRunRow]) -> None:
        """Live task runs from the record, a slice at a time. What a worker held stays with it."""
        self._is_restoring = True
        turn = Turn()
        for row in rows:
            self._restore(row, turn)
        self._close(turn)

    def restore_spilled(self, rows: Sequence[SpilledQueue]) -> None:
        """How much waits in Postgres; called before any task run is restored."""
        for row in rows:
            self._ledger.restore_spilled((row.spill_queue, row.queue_priority), row.count)
            self.note_spilled_deadline(row.first_schedule_deadline)

    def restored(self) -> None:
        """All task runs have been restored: begin to page in those that wait in Postgres, and let the runs go on."""
        self._is_restoring = False
        for line in self._ledger.lines():
            self._page_in(line)
        self.go_on(tuple(self._runs))
        turn = Turn()
        self._hold_places_of_runs(turn)
        for run in self._runs.values():
            if run.version.definition.sticky is not None:
                self._let_in(run, turn)
        self._seek_now(turn)
        self._close(turn)
        held, self._batches.restored = self._batches.restored, {}
        self._tell_held_batches([batch for batch in held.values() if batch.members])

    def go_on(self, run_ids: tuple[str, ...]) -> None:
        """Judge again what the tasks of runs from the record wait for, a slice at a time."""
        turn = Turn()
        for run_id in run_ids[:GO_ON_SLICE]:
            run = self._runs.get(run_id)
            if run is not None:
                self._judge_all(run, turn)
        self._close(turn)
        if len(run_ids) > GO_ON_SLICE:
            self.me.go_on.send(run_ids[GO_ON_SLICE:])

    def quarantine(self, task_run_id: str, error: str) -> None:
        """A task run that crashed its tenant again and again ends as FAILED, so that the others go on."""
        task = self._live.get(task_run_id)
        if task is None:
            return
        turn = Turn()
        self._event(task, TaskEventKind.QUARANTINED, error.encode())
        self._release(task, turn)
        task.state = S.FAILED
        self._finish(task, turn, None, error.encode())
        self._close(turn)

    def _restore(self, row: TaskRunRow, turn: Turn) -> None:
        if row.step_index == RUN_STEP:
            if row.run_id not in self._runs:
                self._put_run(row)
            return
        if row.id in self._live or row.id in self._settled:
            return
        if row.id != row.run_id and (ended_of(row) is not None or row.spill_queue is not None):
            self._attach(self._runs[row.run_id], row)
            return
        task = self._put_live(row)
        self._seq = max(self._seq, task.seq)
        if task.batching is not None:
            task.batching.noted_attempt = task.attempt
        if task.state in HELD_STATES:
            if row.batch_id is not None:
                self._rejoin_batch(task, row.batch_id)
            elif task.batching is not None:
                self._join_unknown_batch(task, task.worker_id or "", turn)
            self._restore_held(task, turn)
        else:
            self._restore_waiting(task, turn)

    def _restore_waiting(self, task: TaskRun, turn: Turn) -> None:
        if task.state == S.QUEUED:
            line = task.line
            if self._ledger.waits_in_postgres(line):
                # It came after what waits there, and was in memory because there was room just then.
                self._held_back.setdefault(line, {})[task.id] = task
            else:
                self._enter_line(task)
                self._line_up(task, turn)
        elif task.state == S.BACKING_OFF:
            self._set_deadline(task, task.schedule_deadline)
        elif task.state == S.WAITING and task.run is None:
            self._watch(task, Gate(task.step.plan), turn)

    def put_workflow(self, gateway: "Handle[Any]", message: PutWorkflow) -> None:
        """Register a definition."""
        latest = self._catalog.find(message.definition.name)
        try:
            version, row = self._catalog.put(
                self._tenant_id, message.definition, self.rng.uuid7, self.clock.now()
            )
        except Refused as refused:
            self._refuse(gateway, message.request_id, refused)
            return
        if row is not None:
            features = not_enforced(message.definition)
            if features:
                logger.warning(
                    "workflow %r, version %d, of tenant %s uses %s: stored, not enforced yet",
                    row.name,
                    row.number,
                    self._tenant_id,
                    ", ".join(features),
                )
            if self._pauses:
                self._unmute_shared(version)
            self.record(row)
            self.send_after_commit(
                self._router.set_workflow,
                row.workflow_id,
                row.name,
                message.definition.event_triggers,
                self._declare_filters(row, message.definition),
            )
            self._declare_crons(latest.definition if latest is not None else None, version, row.created_at)
        self._reply(gateway, message.request_id, WorkflowRegistered(version.workflow_id, version.id))

    def delete_workflow(self, gateway: "Handle[Any]", message: DeleteWorkflow) -> None:
        """Take a workflow away: by its name nothing is found from now on. What it has that is live goes on, past a pause too."""
        versions = self._catalog.of_workflow(message.workflow_id)
        name = self._catalog.delete(message.workflow_id)
        if name is None:
            text = f"workflow {message.workflow_id} is not known"
            self._refuse(gateway, message.request_id, Refused(Code.NOT_FOUND, text))
            return
        self._end_pause(message.workflow_id, versions)
        self.record(WorkflowDeletion(message.workflow_id, self._tenant_id, self.clock.now()))
        self._drop_declared_crons(versions)
        self.send_after_commit(self._router.forget_workflow, message.workflow_id)
        self.send_after_commit(self._timetable.unset_workflow, name)
        self._reply(gateway, message.request_id, None)

    def _declare_filters(
        self, version: WorkflowVersionRow, definition: WorkflowDefinition
    ) -> tuple[FilterRow, ...]:
        """The filters that come with a new version, in place of those of before; without any those stay (behaviour-core 4.1.3)."""
        now = self.clock.now()
        rows: dict[tuple[str, str, str], FilterRow] = {}
        for entry in definition.default_filters:
            payload = payload_text(json.loads(entry["payload"] or "{}"))
            row = FilterRow(
                self.rng.uuid7(now),
                self._tenant_id,
                version.workflow_id,
                entry["scope"],
                entry["expression"],
                payload,
                True,  # is_declarative
                now,
                now,
            )
            rows.setdefault((row.scope, row.expression, payload), row)
        if rows:
            self.record(FilterClear(self._tenant_id, version.workflow_id))
            for row in rows.values():
                self.record(row)
        return tuple(rows.values())

    def trigger(self, gateway: "Handle[Any]", message: TriggerRuns) -> None:
        """Create runs."""
        self._creation.begin(gateway, message)

    def trigger_settled(self, gateway: "Handle[Any]", message: TriggerRuns) -> None:
        """A repeated trigger, once everything recorded before it is committed."""
        self._creation.begin(gateway, message, is_settled=True)

    def borrowed_settled(
        self,
        gateway: "Handle[Any]",
        request_id: int,
        answer: tuple[str, ...] | IdempotencyCollisions,
        borrowed: tuple[str, ...],
    ) -> None:
        """The runs of an earlier trigger that this one counts on are committed, or were refused."""
        self._creation.answer_borrowed(gateway, request_id, answer, borrowed)

    def start_from_events(self, gateway: "Handle[Any]", message: PushEvents, job: object) -> None:
        """Store events and create the runs that they start, in one commit. `job` is made by `EventRouter`.

        The waits that the events end are over in that commit, too.
        """
        self._creation.begin_from_events(gateway, message, job)

    def parents_loaded(self, job: int, result: object | None, error: BaseException | None) -> None:
        """What a trigger had to look up has come."""
        self._creation.looked_up(job, result, error)

    def claimed(self, job: int, run_ids: tuple[str, ...]) -> None:
        """`Claims` says whose run each spawn key names."""
        self._creation.claimed(job, run_ids)

    def keys_claimed(self, job: int, run_ids: tuple[str, ...]) -> None:
        """`Claims` says whose run each idempotency key names."""
        self._creation.keys_claimed(job, run_ids)

    def keys_evaluated(
        self, job: int, values: list[tuple[int, object]] | None, error: BaseException | None
    ) -> None:
        """Idempotency keys whose expressions were evaluated outside of this process."""
        if error is not None:
            raise error
        assert values is not None
        self._creation.keys_evaluated(job, values)

    def claim_failed(self, job: int, error: str) -> None:
        """`Claims` could not read what was spawned before."""
        self._creation.claim_failed(job, error)

    def create_slice(self, job: int) -> None:
        """Go on creating the runs of a large trigger."""
        self._creation.create_slice(job)

    def created(self, ids: tuple[str, ...], spilled: int, spilled_lines: tuple[tuple[str, int], ...]) -> None:
        """The commit of new task runs: they may run."""
        turn = Turn()
        self._uncommitted_spills -= spilled
        for task_run_id in ids:
            task = self._live.get(task_run_id)
            if task is None or task.attempt:
                continue
            if task.state == S.QUEUED:
                self._line_up(task, turn)
            elif task.state == S.WAITING and task.waits is not None:
                self._watch(task, self._gate_of(task), turn)
            if self._subscriptions.are_any:
                self._tell(task, RunEventKind.STARTED, b"", turn)
        if spilled:
            self._spill_commits += 1
            for line in spilled_lines:
                self._page_in(line)
        self._close(turn)

    def records_refused(self, records: tuple[Any, ...], effects: tuple[Any, ...], error: str) -> None:
        """Postgres refused what a handler recorded; only new runs may be refused so, anything else is our bug."""
        if all(isinstance(record, LogRow) for record in records) and not effects:
            return  # the journal has said so in the log; a line that cannot be kept stops nobody
        if records and all(isinstance(record, TIMER_RECORDS) for record in records):
            self._timetable.records_refused.send(records, effects, error)
            return
        if records and all(isinstance(record, FilterRow | FilterDrop) for record in records):
            self._router.records_refused.send(records, effects, error)
            return
        new = TaskRunRow | IdempotencyKeyRow | EventRow | EventKeyRow | CronChange | ScheduledRunChange
        rows = [record for record in records if isinstance(record, TaskRunRow)]
        runs = {row.run_id for row in rows if row.id == row.run_id}
        # A task run that came into being within a run that was there is no new run.
        is_trigger = all(isinstance(record, new) for record in records) and runs >= {
            row.run_id for row in rows
        }
        if not is_trigger:
            raise EngineBug(f"Postgres refused a transition of tenant {self._tenant_id}: {error}")
        self._creation.refused(records, effects, error)

    def ended_committed(self, run_ids: tuple[str, ...]) -> None:
        """The ends of these runs are durable: their results may be forgotten when room is needed."""
        self._recent.committed(run_ids)
