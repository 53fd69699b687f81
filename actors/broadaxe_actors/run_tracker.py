"""`RunTracker`: the live runs of a tenant. Every transition of a task run is decided here, and nowhere else.

One per tenant. It records each transition, and lets out what follows from it (queueing, answers, results) after the commit.
`creation` makes runs from triggers; `followers` knows who waits for what; `spill` says what waits in Postgres.

A handler collects what it has to say in a `Turn`, so that a batch of reports makes one message to each neighbour.
May touch the runtime, the store's port, the pure modules and the messages.
"""

import json
from collections.abc import Sequence
from typing import Any

from broadaxe_actors import retry
from broadaxe_actors.catalog import Catalog
from broadaxe_actors.creation import Creation
from broadaxe_actors.deadlines import Deadlines
from broadaxe_actors.errors import Code, EngineBug, Refused
from broadaxe_actors.followers import RecentResults, Subscription, Subscriptions, Watchers
from broadaxe_actors.journal import Lazy
from broadaxe_actors.matching import Proposal, Ready
from broadaxe_actors.messages import (
    CloseSubscription,
    GetRun,
    GetStats,
    HeldAttempt,
    NewChunk,
    OpenSubscription,
    PushEvents,
    PutLogs,
    PutStream,
    PutWorkflow,
    Refusal,
    Reply,
    ReportKind,
    ReportsTaken,
    ReportTasks,
    RunDetails,
    RunEvent,
    RunEventKind,
    RunEvents,
    RunFinished,
    TaskDetails,
    TaskReport,
    TaskResult,
    TenantStats,
    TriggerRuns,
    UnwatchRuns,
    WatchRuns,
    WorkflowRegistered,
)
from broadaxe_actors.runtime import Actor, Handle
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.spill import SpillLedger
from broadaxe_actors.states import HELD_STATES, Transition, after, after_or_none
from broadaxe_actors.task_run import RETRY_PRIORITY, TaskRun
from broadaxe_actors.telemetry import Telemetry
from broadaxe_actors.turn import Turn
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import (
    FinishedTaskRun,
    LogRow,
    SpilledQueue,
    TaskEventKind,
    TaskEventRow,
    TaskRunRow,
    TaskRunState,
    WorkflowVersionRow,
)
from broadaxe_storage.store import ShardStore

S = TaskRunState
_COUNTER = {S.COMPLETED: "succeeded_tasks", S.FAILED: "failed_tasks", S.CANCELLED: "cancelled_tasks"}
_EVENT = {
    S.COMPLETED: RunEventKind.COMPLETED,
    S.FAILED: RunEventKind.FAILED,
    S.CANCELLED: RunEventKind.CANCELLED,
}


class RunTracker(Actor):
    """See the module."""

    def __init__(
        self, tenant_id: str, store: ShardStore, settings: ShardSettings, telemetry: Telemetry
    ) -> None:
        super().__init__()
        self._tenant_id = tenant_id
        self._store = store
        self._settings = settings
        self._telemetry = telemetry
        self._queue: Handle[Any]
        self._claims: Handle[Any]
        self._router: Handle[Any]
        self._supervisor: Handle[Any] | None = None
        self._workers: dict[str, Handle[Any]] = {}
        self._catalog = Catalog()
        self._live: dict[str, TaskRun] = {}
        self._deadlines = Deadlines()
        self._armed: int | None = None
        self._ledger = SpillLedger(settings.queue_window_high, settings.queue_window_low, settings.queue_page)
        self._uncommitted_spills = 0
        self._spilled_due: int | None = None
        self._parents_with_children: set[str] = set()
        self._seq = 0
        self._watchers = Watchers()
        self._recent = RecentResults()
        self._subscriptions = Subscriptions()
        self._running: dict[str, int] = {}
        self._look_ups: dict[str, None] = {}
        self._is_looking_up = False
        self._creation = Creation(self)
        self._at: str | None = None
        """The task run being worked on, for the supervisor if this handler raises."""

    # ------------------------------------------------------------ wiring and recovery

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

    def on_failure(self, *_args: object) -> None:
        """Tell the supervisor which task run was being worked on when a handler raised."""
        if self._supervisor is not None:
            self._supervisor.crashed_at.send(self._tenant_id, self._at)

    def worker_joined(self, worker_id: str, worker: "Handle[Any]") -> None:
        """Where to send what concerns a worker."""
        self._workers[worker_id] = worker

    def worker_left(self, worker_id: str) -> None:
        """The worker is forgotten for good."""
        self._workers.pop(worker_id, None)

    def restore_versions(self, rows: Sequence[WorkflowVersionRow]) -> None:
        """Workflows from the record."""
        for row in rows:
            self._catalog.restore(row)
        for version in self._catalog.all_latest():
            self._router.set_triggers.send(version.definition.name, version.definition.event_triggers)

    def restore_seq(self, seq: int) -> None:
        """The highest place in line that the record knows."""
        self._seq = max(self._seq, seq)

    def restore_task_runs(self, rows: Sequence[TaskRunRow]) -> None:
        """Live task runs from the record, a slice at a time. What a worker held stays with it."""
        turn = Turn()
        for row in sorted(rows, key=lambda item: item.seq):
            self._restore(row, turn)
        self._close(turn)

    def restore_spilled(self, rows: Sequence[SpilledQueue]) -> None:
        """What waits in Postgres; called last."""
        for row in rows:
            self._ledger.restore_spilled((row.spill_queue, row.queue_priority), row.count)
            self._note_spilled_deadline(row.first_schedule_deadline)
        for line in self._ledger.lines():
            self._page_in(line)

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

    def _restore(self, row: TaskRunRow, turn: Turn) -> TaskRun | None:
        version = self._catalog.version(row.workflow_version_id)
        if version is None:
            raise EngineBug(
                f"task run {row.id} names workflow version {row.workflow_version_id}, which the record does not have"
            )
        if row.id in self._live:
            return None
        task = TaskRun(row, version.steps[row.step_index], is_recovered=True)
        self._live[task.id] = task
        self._seq = max(self._seq, task.seq)
        if task.state == S.QUEUED:
            self._ledger.enter_memory((task.step.queue_key, task.queue_priority))
            self._line_up(task, turn)
        elif task.state in HELD_STATES:
            self._count_running(task, 1)
            self._set_deadline(task, task.execution_deadline)
            if task.worker_id in self._workers:
                turn.hold(task)
            else:
                self._reassign(task, turn, f"worker {task.worker_id} is not known any more")
        elif task.state == S.BACKING_OFF:
            self._set_deadline(task, task.schedule_deadline)
        return task

    # ------------------------------------------------------------ workflows and triggers

    def put_workflow(self, gateway: "Handle[Any]", message: PutWorkflow) -> None:
        """Register a definition."""
        try:
            version, row = self._catalog.put(
                self._tenant_id, message.definition, self.rng.uuid7, self.clock.now()
            )
        except Refused as refused:
            self._refuse(gateway, message.request_id, refused)
            return
        if row is not None:
            self.record(row)
            self.send_after_commit(self._router.set_triggers, row.name, message.definition.event_triggers)
        self._reply(gateway, message.request_id, WorkflowRegistered(version.workflow_id, version.id))

    def trigger(self, gateway: "Handle[Any]", message: TriggerRuns) -> None:
        """Create runs."""
        self._creation.begin(gateway, message)

    def start_from_events(self, gateway: "Handle[Any]", message: PushEvents, job: object) -> None:
        """Store events and create the runs that they start, in one commit. `job` is made by `EventRouter`."""
        self._creation.begin_from_events(gateway, message, job)

    def parents_loaded(self, job: int, result: object | None, error: BaseException | None) -> None:
        """What a trigger had to look up has come."""
        self._creation.looked_up(job, result, error)

    def claimed(self, job: int, run_ids: tuple[str, ...]) -> None:
        """`Claims` says whose run each spawn key names."""
        self._creation.claimed(job, run_ids)

    def claim_failed(self, job: int, error: str) -> None:
        """`Claims` could not read what was spawned before."""
        self._creation.claim_failed(job, error)

    def create_slice(self, job: int) -> None:
        """Go on creating the runs of a large trigger."""
        self._creation.create_slice(job)

    def created(self, ids: tuple[str, ...], spilled: int) -> None:
        """The commit of new task runs: they may run."""
        turn = Turn()
        self._uncommitted_spills -= spilled
        for task_run_id in ids:
            task = self._live.get(task_run_id)
            if task is not None and task.state == S.QUEUED:
                self._line_up(task, turn)
                if self._subscriptions:
                    self._tell(task, RunEventKind.STARTED, b"", turn)
        if spilled:
            for line in self._ledger.lines():
                self._page_in(line)
        self._close(turn)

    def records_refused(self, records: tuple[Any, ...], effects: tuple[Any, ...], error: str) -> None:
        """Postgres refused what a handler recorded; only new runs may be refused so, anything else is our bug."""
        if not all(isinstance(record, TaskRunRow) for record in records):
            raise EngineBug(f"Postgres refused a transition of tenant {self._tenant_id}: {error}")
        self._creation.refused(records, effects, error)

    # ------------------------------------------------------------ assignment

    def propose(self, proposals: tuple[Proposal, ...]) -> None:
        """`TenantQueue` found workers: accept what still waits, give back the slots of the rest."""
        turn = Turn()
        now = self.clock.now()
        assigned = 0
        for proposal in proposals:
            task = self._live.get(proposal.task_run_id)
            if task is None or task.state != S.QUEUED or task.attempt != proposal.attempt:
                turn.freed.append((proposal.worker_id, proposal.slots))
                continue
            self._at = task.id
            if proposal.worker_id not in self._workers:
                self._line_up(task, turn)
                continue
            task.state = after(task.state, Transition.ASSIGN)
            self._leave_line(task)
            task.worker_id = proposal.worker_id
            task.assigned_at = now
            task.started_at = None
            task.execution_deadline = now + task.step.execution_timeout
            self._set_deadline(task, task.execution_deadline)
            self._count_running(task, 1)
            self.record(Lazy(task.update_record(self._tenant_id)))
            turn.starts.setdefault(proposal.worker_id, []).append(task.assignment())
            self._telemetry.observe_queue(self._tenant_id, (now - task.queued_at) / 1e6)
            assigned += 1
        if assigned:
            self._telemetry.count("assigned_tasks", self._tenant_id, assigned)
            self._telemetry.count("queued_to_assigned", self._tenant_id, assigned)
        self._telemetry.count("queue_invocations", self._tenant_id)
        self._close(turn)

    def adopt(self, worker_id: str, held: tuple[HeldAttempt, ...]) -> None:
        """A returning worker holds attempts that we did not know to be with it: take them as assigned, or have them stopped."""
        turn = Turn()
        unknown: list[HeldAttempt] = []
        for item in held:
            task = self._live.get(item.task_run_id)
            if task is None:
                if self._recent.get(item.task_run_id) is None:
                    unknown.append(item)
                continue
            self._adopt(task, worker_id, item, turn)
        if unknown:
            self.fetch(
                self._store.fetch_live,
                self._tenant_id,
                [item.task_run_id for item in unknown],
                then=self.me.adopt_loaded,
                context=(worker_id, tuple(unknown)),
            )
        self._close(turn)

    def adopt_loaded(
        self,
        context: tuple[str, tuple[HeldAttempt, ...]],
        rows: list[TaskRunRow] | None,
        error: BaseException | None,
    ) -> None:
        """Held attempts that waited in Postgres, as the record knows them. Those without a row have ended: nothing to do."""
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            return
        assert rows is not None
        worker_id, held = context
        turn = Turn()
        attempts = {item.task_run_id: item for item in held}
        for row in rows:
            task = self._take_from_postgres(row, turn)
            if task is not None:
                self._adopt(task, worker_id, attempts[row.id], turn)
        self._close(turn)

    def _adopt(self, task: TaskRun, worker_id: str, item: HeldAttempt, turn: Turn) -> None:
        if task.state in HELD_STATES and task.worker_id == worker_id and task.attempt == item.attempt:
            return
        if task.state != S.QUEUED or task.attempt != item.attempt or worker_id not in self._workers:
            turn.cancel(worker_id, task.cancel_order(item.attempt))
            return
        task.state = after(task.state, Transition.ASSIGN)
        self._leave_line(task)
        now = self.clock.now()
        task.worker_id = worker_id
        task.assigned_at = now
        task.execution_deadline = now + task.step.execution_timeout
        self._set_deadline(task, task.execution_deadline)
        self._count_running(task, 1)
        self.record(Lazy(task.update_record(self._tenant_id)))
        turn.hold(task)

    # ------------------------------------------------------------ reports

    def report(self, gateway: "Handle[Any]", message: ReportTasks) -> None:
        """What a worker says of its attempts; answered after the commit."""
        unknown = [
            item.task_run_id
            for item in message.reports
            if item.task_run_id not in self._live and self._recent.get(item.task_run_id) is None
        ]
        if unknown:
            self.fetch(self._load_any, unknown, then=self.me.report_loaded, context=(gateway, message))
            return
        self._take_reports(gateway, message, frozenset())

    def report_loaded(
        self,
        context: tuple["Handle[Any]", ReportTasks],
        result: tuple[list[TaskRunRow], list[FinishedTaskRun]] | None,
        error: BaseException | None,
    ) -> None:
        """Task runs that a report named and memory did not hold."""
        gateway, message = context
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            # Reports are held, never refused, while Postgres is away.
            self.set_timer(("report", message.request_id), 250_000, self.me.report, gateway, message)
            return
        assert result is not None
        live, finished = result
        turn = Turn()
        for row in live:
            self._take_from_postgres(row, turn)
        self._close(turn)
        self._take_reports(gateway, message, frozenset(row.id for row in finished))

    async def _load_any(self, ids: list[str]) -> tuple[list[TaskRunRow], list[FinishedTaskRun]]:
        live = await self._store.fetch_live(self._tenant_id, ids)
        return live, await self._load_finished(ids)

    async def _load_finished(self, ids: list[str]) -> list[FinishedTaskRun]:
        rows = await self._store.fetch_finished(self._tenant_id, ids)
        for version_id in {row.workflow_version_id for row in rows}:
            # Runs of a version that is neither the latest nor live: its task names are needed for their results.
            if self._catalog.version(version_id) is None:
                version = await self._store.fetch_version(self._tenant_id, version_id)
                if version is not None:
                    self._catalog.restore(version)
        return rows

    def _take_reports(self, gateway: "Handle[Any]", message: ReportTasks, finished: frozenset[str]) -> None:
        turn = Turn()
        known: list[bool] = []
        for item in message.reports:
            task = self._live.get(item.task_run_id)
            if task is None:
                known.append(item.task_run_id in finished or self._recent.get(item.task_run_id) is not None)
                continue
            known.append(True)
            self._at = task.id
            if item.attempt is None or item.attempt == task.attempt:
                self._take_report(task, item, message.worker_id, turn)
        self._close(turn)
        self._reply(gateway, message.request_id, ReportsTaken(tuple(known)))

    def _take_report(self, task: TaskRun, item: TaskReport, worker_id: str, turn: Turn) -> None:
        now = self.clock.now()
        if item.kind == ReportKind.STARTED:
            following = after_or_none(task.state, Transition.START)
            if following is None:
                return
            if task.state == S.QUEUED:
                # Its assignment was lost in a crash; the worker proves that it holds the attempt.
                self._adopt(task, worker_id, HeldAttempt(task.id, task.attempt), turn)
                if task.state == S.QUEUED or worker_id not in self._workers:
                    return
            task.state = S.RUNNING
            task.started_at = item.started_at or now
            if task.worker_id is not None:
                turn.started.setdefault(task.worker_id, []).append(task.id)
            self.record(Lazy(task.update_record(self._tenant_id)))
            return
        if item.started_at and task.started_at is None:
            task.started_at = item.started_at
        if item.kind == ReportKind.CANCELLED:
            self._cancel(task, turn)
        elif item.kind == ReportKind.COMPLETED:
            following = after_or_none(task.state, Transition.COMPLETE)
            if following is None:
                return
            self._release(task, turn)
            task.state = following
            self._finish(task, turn, item.payload, None)
        else:
            self._fail(
                task,
                turn,
                item.payload,
                should_not_retry=item.should_not_retry,
                pause_us=item.retry_after_ms * 1000,
            )

    # ------------------------------------------------------------ ends of attempts

    def _fail(
        self,
        task: TaskRun,
        turn: Turn,
        error: bytes,
        *,
        should_not_retry: bool = False,
        pause_us: int = 0,
        kind: TaskEventKind = TaskEventKind.FAILED,
    ) -> None:
        """An attempt failed: retry it if the budget allows, else the task run has failed."""
        if after_or_none(task.state, Transition.RETRY) is None:
            return
        if self._subscriptions:
            self._tell(task, RunEventKind.FAILED, error, turn)
        if not retry.has_retry_left(
            task.step.definition, task.app_retries, should_not_retry=should_not_retry
        ):
            self._release(task, turn)
            task.state = S.FAILED
            self._finish(task, turn, None, error, is_told=True)
            return
        self._event(task, kind, error)
        self._release(task, turn)
        task.app_retries += 1
        pause = pause_us or retry.backoff_us(task.step.definition, task.app_retries)
        task.attempt += 1
        self._telemetry.count("retried_tasks", self._tenant_id)
        if pause:
            task.state = after(task.state, Transition.BACK_OFF)
            # While it backs off, the schedule deadline holds the time to wake.
            task.schedule_deadline = self.clock.now() + pause
            task.worker_id = task.assigned_at = task.started_at = task.execution_deadline = None
            self._set_deadline(task, task.schedule_deadline)
            self.record(task.update_record(self._tenant_id))
        else:
            task.state = after(task.state, Transition.RETRY)
            self._requeue(task)

    def _requeue(self, task: TaskRun) -> None:
        """Back to the queue, before all new work, once that is committed. `task.state` is QUEUED already."""
        now = self.clock.now()
        task.queue_priority = RETRY_PRIORITY
        task.seq = self.next_seq()
        task.queued_at = now
        task.schedule_deadline = now + task.step.schedule_timeout
        task.worker_id = task.assigned_at = task.started_at = task.execution_deadline = None
        self._ledger.enter_memory((task.step.queue_key, task.queue_priority))
        self._deadlines.drop(task.id)
        self.record(task.update_record(self._tenant_id))
        self.send_after_commit(self.me.requeued, task.id, task.attempt)

    def requeued(self, task_run_id: str, attempt: int) -> None:
        """The commit of a retry or a reassignment: it may run."""
        task = self._live.get(task_run_id)
        if task is not None and task.state == S.QUEUED and task.attempt == attempt:
            turn = Turn()
            self._line_up(task, turn)
            self._close(turn)

    def worker_lost(self, worker_id: str, held: tuple[HeldAttempt, ...], reason: str) -> None:
        """A worker is lost, or never got these attempts: take them back."""
        turn = Turn()
        for item in held:
            task = self._live.get(item.task_run_id)
            if (
                task is None
                or task.state not in HELD_STATES
                or task.worker_id != worker_id
                or task.attempt != item.attempt
            ):
                continue
            self._at = task.id
            self._reassign(task, turn, reason)
        self._close(turn)

    def _reassign(self, task: TaskRun, turn: Turn, reason: str) -> None:
        budget = self._settings.max_internal_retries
        self._event(task, TaskEventKind.REASSIGNED, reason.encode())
        self._release(task, turn)
        if task.internal_retries >= budget:
            error = (
                f"task {task.step.ref.task_name!r} was reassigned {budget} times and its worker was lost each time "
                f"(last: {reason}); it is not tried again"
            )
            if self._subscriptions:
                self._tell(task, RunEventKind.FAILED, error.encode(), turn)
            task.state = after(task.state, Transition.FAIL)
            self._finish(task, turn, None, error.encode(), is_told=True)
            return
        task.internal_retries += 1
        task.attempt += 1
        task.state = after(task.state, Transition.REASSIGN)
        self._telemetry.count("reassigned_tasks", self._tenant_id)
        self._requeue(task)

    def _cancel(self, task: TaskRun, turn: Turn) -> None:
        """End a task run as cancelled, at once; a worker that holds it is told to stop."""
        following = after_or_none(task.state, Transition.CANCEL)
        if following is None:
            return
        if task.state in HELD_STATES and task.worker_id is not None:
            turn.cancel(task.worker_id, task.cancel_order(task.attempt))
        self._release(task, turn)
        task.state = following
        self._finish(task, turn, None, None)

    def _finish(
        self,
        task: TaskRun,
        turn: Turn,
        output: bytes | None,
        error: bytes | None,
        *,
        is_told: bool = False,
    ) -> None:
        """Record the end of a task run and tell who waits, after the commit. Its slot is free already."""
        now = self.clock.now()
        self.record(task.finish_record(self._tenant_id, now, output, error))
        del self._live[task.id]
        self._deadlines.drop(task.id)
        if task.id in self._parents_with_children:
            self._parents_with_children.discard(task.id)
            turn.ended_parents.append(task.id)
        state = task.state
        finished = RunFinished(
            self._tenant_id,
            task.run_id,
            state,
            (TaskResult(task.id, task.step.ref.task_name, state, output, error),),
        )
        self._recent.put(finished)
        turn.ended.append(task.run_id)
        for gateway in self._watchers.pop(task.run_id):
            turn.deliver_after(gateway, finished)
        self._telemetry.count(_COUNTER[state], self._tenant_id)
        self._telemetry.observe_duration(
            self._tenant_id, task.step.workflow.name, state.name, (now - task.created_at) / 1000
        )
        if self._subscriptions:
            if not is_told:
                self._tell(task, _EVENT[state], output or error or b"", turn)
            self._tell_run(task, _EVENT[state], turn)

    def _release(self, task: TaskRun, turn: Turn) -> None:
        """Free what an attempt holds: its slot on a worker, or its place in line."""
        if task.state in HELD_STATES:
            assert task.worker_id is not None
            turn.freed.append((task.worker_id, task.step.slots))
            turn.done.setdefault(task.worker_id, []).append(task.id)
            self._count_running(task, -1)
        elif task.state == S.QUEUED:
            self._leave_line(task)

    # ------------------------------------------------------------ deadlines

    def due(self) -> None:
        """Deadlines have passed: to be scheduled, to end, or to wake."""
        self._armed = None
        turn = Turn()
        now = self.clock.now()
        for task_run_id in self._deadlines.pop_due(now):
            task = self._live[task_run_id]
            self._at = task.id
            if task.state == S.QUEUED:
                self._time_out_waiting(task, turn)
            elif task.state in HELD_STATES:
                turn.cancel(task.worker_id or "", task.cancel_order(task.attempt))
                text = f"Task exceeded timeout of {task.step.definition.execution_timeout}"
                self._fail(task, turn, text.encode(), kind=TaskEventKind.TIMED_OUT)
            elif task.state == S.BACKING_OFF:
                task.state = after(task.state, Transition.WAKE)
                self._requeue(task)
        if self._spilled_due is not None and self._spilled_due <= now:
            self._spilled_due = None
            self.fetch(
                self._store.load_expired_spilled,
                self._tenant_id,
                now,
                self._settings.queue_page,
                then=self.me.expired_loaded,
            )
        self._close(turn)

    def expired_loaded(
        self, _context: object, rows: list[TaskRunRow] | None, error: BaseException | None
    ) -> None:
        """Task runs that waited in Postgres for longer than they may."""
        now = self.clock.now()
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self._note_spilled_deadline(now + 1_000_000)
            return
        assert rows is not None
        turn = Turn()
        for row in rows:
            task = self._take_from_postgres(row, turn)
            if task is not None and task.state == S.QUEUED:
                self._time_out_waiting(task, turn)
        if self._ledger.has_spilled():
            # More may be due at once; without any, the next look is for those that were not yet due.
            self._note_spilled_deadline(now if rows else now + 60_000_000)
        self._close(turn)

    def _time_out_waiting(self, task: TaskRun, turn: Turn) -> None:
        self._event(
            task,
            TaskEventKind.SCHEDULING_TIMED_OUT,
            f"no worker took it within {task.step.definition.schedule_timeout}".encode(),
        )
        self._telemetry.count("scheduling_timed_out", self._tenant_id)
        self._release(task, turn)
        task.state = after(task.state, Transition.SCHEDULE_TIMEOUT)
        self._finish(task, turn, None, None)

    def note_spilled_deadline(self, deadline: int | None) -> None:
        """For `creation`: a task run that waits in Postgres has this schedule deadline."""
        self._note_spilled_deadline(deadline)

    def _note_spilled_deadline(self, deadline: int | None) -> None:
        if deadline is not None and (self._spilled_due is None or deadline < self._spilled_due):
            self._spilled_due = deadline
            self._arm()

    def _set_deadline(self, task: TaskRun, deadline: int | None) -> None:
        if deadline is None:
            self._deadlines.drop(task.id)
        else:
            self._deadlines.set(task.id, deadline)

    def _arm(self) -> None:
        due = self._deadlines.next_due()
        if self._spilled_due is not None and (due is None or self._spilled_due < due):
            due = self._spilled_due
        if due is not None and (self._armed is None or due < self._armed):
            self._armed = due
            self.set_timer("due", max(0, due - self.clock.now()), self.me.due)

    # ------------------------------------------------------------ lines, in memory and in Postgres

    def next_seq(self) -> int:
        """A place at the end of every line."""
        self._seq += 1
        return self._seq

    def _line_up(self, task: TaskRun, turn: Turn) -> None:
        self._set_deadline(task, task.schedule_deadline)
        step = task.step
        turn.ready.append(
            Ready(
                task.id,
                task.attempt,
                step.queue_key,
                step.definition.action,
                step.slots,
                task.queue_priority,
                task.seq,
            )
        )

    def _leave_line(self, task: TaskRun) -> None:
        line = (task.step.queue_key, task.queue_priority)
        self._ledger.leave(line)
        self._page_in(line)

    def _page_in(self, line: tuple[str, int]) -> None:
        request = self._ledger.next_page(line)
        if request is not None:
            self.fetch(
                self._store.page_spilled,
                self._tenant_id,
                *request,
                then=self.me.paged_in,
                context=line,
            )

    def paged_in(
        self,
        line: tuple[str, int],
        rows: list[TaskRunRow] | None,
        error: BaseException | None,
    ) -> None:
        """A page of a line that waited in Postgres."""
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self.set_timer(("page", line), 250_000, self.me.page_again, line)
            return
        assert rows is not None
        turn = Turn()
        fresh = [row for row in rows if row.id not in self._live]
        self._ledger.paged(line, len(fresh), rows[-1].seq if rows else 0)
        for row in fresh:
            task = self._put_live(row)
            self._line_up(task, turn)
        if rows:
            self._page_in(line)
        elif not self._uncommitted_spills:
            self._ledger.forget_spilled(line)
        self._close(turn)

    def page_again(self, line: tuple[str, int]) -> None:
        """Postgres may be back."""
        self._ledger.page_failed(line)
        self._page_in(line)

    def _take_from_postgres(self, row: TaskRunRow, turn: Turn) -> TaskRun | None:
        """A spilled task run, out of turn."""
        if row.id in self._live:
            return self._live[row.id]
        if self._recent.get(row.run_id) is not None:
            return None
        line = (row.spill_queue or "", row.queue_priority)
        self._ledger.left_postgres(line)
        self._ledger.enter_memory(line)
        task = self._put_live(row)
        self._line_up(task, turn)
        return task

    def _put_live(self, row: TaskRunRow) -> TaskRun:
        version = self._catalog.version(row.workflow_version_id)
        if version is None:
            raise EngineBug(
                f"task run {row.id} names workflow version {row.workflow_version_id}, which the record does not have"
            )
        task = TaskRun(row, version.steps[row.step_index], is_recovered=True)
        self._live[task.id] = task
        return task

    # ------------------------------------------------------------ who waits, who follows

    def watch(self, gateway: "Handle[Any]", message: WatchRuns) -> None:
        """Deliver the results of these runs, now or when they end."""
        turn = Turn()
        for run_id in message.run_ids:
            finished = self._recent.get(run_id)
            if finished is not None:
                turn.deliver_after(gateway, finished)
                continue
            if not self._watchers.add(run_id, gateway):
                continue
            if run_id not in self._live:
                self._look_ups[run_id] = None
        self._look_up()
        self._close(turn)

    def unwatch(self, gateway: "Handle[Any]", message: UnwatchRuns) -> None:
        """Nobody at that gateway waits any more."""
        for run_id in message.run_ids:
            self._watchers.remove(run_id, gateway)

    def _look_up(self) -> None:
        if self._look_ups and not self._is_looking_up:
            self._is_looking_up = True
            ids = list(self._look_ups)[:1000]
            for run_id in ids:
                del self._look_ups[run_id]
            self.fetch(self._load_finished, ids, then=self.me.looked_up, context=ids)

    def looked_up(
        self, ids: list[str], rows: list[FinishedTaskRun] | None, error: BaseException | None
    ) -> None:
        """Which watched runs had ended already. The others stay pending: they may appear, or wait in Postgres."""
        self._is_looking_up = False
        turn = Turn()
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self._look_ups.update(dict.fromkeys(ids))
            self.set_timer("look_up", 250_000, self.me.look_up_again)
        else:
            assert rows is not None
            for row in rows:
                for gateway in self._watchers.pop(row.run_id):
                    turn.deliver_after(gateway, self._finished_of(row))
            self._look_up()
        self._close(turn)

    def look_up_again(self) -> None:
        """Postgres may be back."""
        self._look_up()

    def _finished_of(self, row: FinishedTaskRun) -> RunFinished:
        return RunFinished(
            self._tenant_id,
            row.run_id,
            row.state,
            (TaskResult(row.id, self._task_name(row), row.state, row.output, row.error),),
        )

    def _task_name(self, row: FinishedTaskRun) -> str:
        version = self._catalog.version(row.workflow_version_id)
        return version.steps[row.step_index].ref.task_name if version else ""

    def open_subscription(self, gateway: "Handle[Any]", message: OpenSubscription) -> None:
        """Follow a run, or all runs with a metadata key and value."""
        run_id = message.run_id
        if run_id is not None and run_id not in self._live:
            if self._recent.get(run_id) is not None:
                self._reply(gateway, message.request_id, False)
                return
            self.fetch(
                self._load_any,
                [run_id],
                then=self.me.subscription_loaded,
                context=(gateway, message),
            )
            return
        self._subscribe(gateway, message)

    def subscription_loaded(
        self,
        context: tuple["Handle[Any]", OpenSubscription],
        result: tuple[list[TaskRunRow], list[FinishedTaskRun]] | None,
        error: BaseException | None,
    ) -> None:
        """Whether a run to be followed exists, when memory does not hold it."""
        gateway, message = context
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self._refuse(gateway, message.request_id, Refused(Code.UNAVAILABLE, str(error)))
            return
        assert result is not None
        live, finished = result
        if live or message.run_id in self._live:
            self._subscribe(gateway, message)
        elif finished:
            self._reply(gateway, message.request_id, False)
        else:
            self._refuse(
                gateway,
                message.request_id,
                Refused(Code.NOT_FOUND, f"workflow run {message.run_id} not found"),
            )

    def _subscribe(self, gateway: "Handle[Any]", message: OpenSubscription) -> None:
        self._subscriptions.add(
            Subscription(
                gateway,
                message.subscription_id,
                message.run_id,
                message.metadata_key,
                message.metadata_value,
            )
        )
        self._reply(gateway, message.request_id, True)

    def close_subscription(self, gateway: "Handle[Any]", message: CloseSubscription) -> None:
        """Nobody follows any more."""
        self._subscriptions.remove(gateway, message.subscription_id)

    def put_stream(self, gateway: "Handle[Any]", message: PutStream) -> None:
        """Pass chunks to who follows; they are never stored, and go out at once."""
        missing = None
        turn = Turn()
        for chunk in message.chunks:
            task = self._live.get(chunk.task_run_id)
            if task is None:
                missing = missing or chunk.task_run_id
            else:
                self._tell_chunk(task, chunk, turn)
        for gateway_handle, messages in turn.deliveries_after.items():
            gateway_handle.deliver.send(tuple(messages))
        if missing is not None and self._recent.get(missing) is None:
            self._refuse(
                gateway, message.request_id, Refused(Code.NOT_FOUND, f"task run {missing} not found")
            )
        else:
            self._reply(gateway, message.request_id, None)

    def _tell_chunk(self, task: TaskRun, chunk: NewChunk, turn: Turn) -> None:
        event = RunEvent(
            task.run_id,
            False,
            task.id,
            RunEventKind.STREAM,
            self.clock.now(),
            chunk.message,
            task.attempt if chunk.attempt is None else chunk.attempt,
            chunk.index,
        )
        self._send_event(task, event, turn)

    def _tell(self, task: TaskRun, kind: RunEventKind, payload: bytes, turn: Turn) -> None:
        event = RunEvent(task.run_id, False, task.id, kind, self.clock.now(), payload, task.attempt)
        self._send_event(task, event, turn)

    def _tell_run(self, task: TaskRun, kind: RunEventKind, turn: Turn) -> None:
        event = RunEvent(task.run_id, True, task.run_id, kind, self.clock.now())
        self._send_event(task, event, turn)

    def _send_event(self, task: TaskRun, event: RunEvent, turn: Turn) -> None:
        metadata = json.loads(task.metadata) if self._subscriptions.follows_metadata() else None
        for subscription in list(self._subscriptions.of(task.run_id, metadata)):
            is_last = self._subscriptions.saw(subscription, event)
            turn.deliver_after(
                subscription.gateway, RunEvents(subscription.subscription_id, (event,), is_last)
            )
            if is_last:
                self._subscriptions.remove(subscription.gateway, subscription.subscription_id)

    # ------------------------------------------------------------ reads and logs

    def get_run(self, gateway: "Handle[Any]", message: GetRun) -> None:
        """A run with its tasks."""
        task = self._live.get(message.run_id)
        if task is not None:
            self._reply(gateway, message.request_id, self._details(task))
        elif self._recent.is_uncommitted(message.run_id):
            self.send_after_commit(self.me.get_run, gateway, message)
        else:
            self.fetch(
                self._load_any,
                [message.run_id],
                then=self.me.run_loaded,
                context=(gateway, message),
            )

    def run_loaded(
        self,
        context: tuple["Handle[Any]", GetRun],
        result: tuple[list[TaskRunRow], list[FinishedTaskRun]] | None,
        error: BaseException | None,
    ) -> None:
        """A run that memory did not hold."""
        gateway, message = context
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self._refuse(gateway, message.request_id, Refused(Code.UNAVAILABLE, str(error)))
            return
        assert result is not None
        live, finished = result
        task = self._live.get(message.run_id)
        if task is not None:
            self._reply(gateway, message.request_id, self._details(task))
        elif finished:
            row = finished[0]
            details = TaskDetails(row.id, self._task_name(row), row.state, row.attempt, row.output, row.error)
            self._reply(
                gateway,
                message.request_id,
                RunDetails(row.run_id, row.state, True, row.input, row.metadata, (details,)),
            )
        elif live:
            waiting = live[0]
            version = self._catalog.version(waiting.workflow_version_id)
            name = version.steps[waiting.step_index].ref.task_name if version else ""
            details = TaskDetails(waiting.id, name, waiting.state, waiting.attempt, None, None)
            self._reply(
                gateway,
                message.request_id,
                RunDetails(waiting.run_id, waiting.state, False, waiting.input, waiting.metadata, (details,)),
            )
        else:
            self._refuse(
                gateway,
                message.request_id,
                Refused(Code.NOT_FOUND, f"workflow run {message.run_id} not found"),
            )

    def _details(self, task: TaskRun) -> RunDetails:
        details = TaskDetails(task.id, task.step.ref.task_name, task.state, task.attempt, None, None)
        return RunDetails(task.run_id, task.state, False, task.input, task.metadata, (details,))

    def put_logs(self, gateway: "Handle[Any]", message: PutLogs) -> None:
        """Keep log lines; they are buffered by the journal."""
        missing = None
        for line in message.lines:
            task = self._live.get(line.task_run_id)
            recent = self._recent.get(line.task_run_id) if task is None else None
            if task is None and recent is None:
                missing = missing or line.task_run_id
                continue
            if self._settings.is_log_ingestion_enabled:
                attempt = line.attempt if line.attempt is not None else (task.attempt if task else 0)
                self.record(
                    LogRow(
                        self._tenant_id,
                        line.task_run_id,
                        attempt,
                        line.created_at,
                        line.level,
                        line.metadata,
                        line.message,
                    )
                )
        if missing is not None:
            self._refuse(
                gateway, message.request_id, Refused(Code.NOT_FOUND, f"task run {missing} not found")
            )
        elif message.request_id:
            gateway.deliver.send((Reply(message.request_id, None),))

    def get_stats(self, gateway: "Handle[Any]", message: GetStats) -> None:
        """Counters of this tenant."""
        queued: dict[str, int] = {}
        for line in self._ledger.lines():
            action = line[0].split("|", 1)[0]
            queued[action] = queued.get(action, 0) + self._ledger.depth(line)
        total, used = self._telemetry.slots.get(self._tenant_id, (0, 0))
        self._reply(
            gateway,
            message.request_id,
            TenantStats(tuple(queued.items()), tuple(self._running.items()), total, used),
        )

    # ------------------------------------------------------------ small things

    def _count_running(self, task: TaskRun, amount: int) -> None:
        action = task.step.definition.action
        count = self._running.get(action, 0) + amount
        if count:
            self._running[action] = count
        else:
            self._running.pop(action, None)

    def _event(self, task: TaskRun, kind: TaskEventKind, message: bytes) -> None:
        """Write down an attempt that does not stay in the task run's row, with what ended it."""
        for event_kind, at in (
            (TaskEventKind.QUEUED, task.queued_at),
            (TaskEventKind.ASSIGNED, task.assigned_at),
            (TaskEventKind.STARTED, task.started_at),
        ):
            if at is not None:
                self.record(
                    TaskEventRow(self._tenant_id, task.id, task.attempt, event_kind, at, task.worker_id, b"")
                )
        self.record(
            TaskEventRow(
                self._tenant_id,
                task.id,
                task.attempt,
                kind,
                self.clock.now(),
                task.worker_id,
                message,
            )
        )

    def _reply(self, gateway: "Handle[Any]", request_id: int, value: object) -> None:
        if request_id:
            self.send_after_commit(gateway.deliver, (Reply(request_id, value),))

    def _refuse(self, gateway: "Handle[Any]", request_id: int, refused: Refused) -> None:
        if request_id:
            self.send_after_commit(gateway.deliver, (Refusal(request_id, refused.code, refused.message),))

    def ended_committed(self, run_ids: tuple[str, ...]) -> None:
        """The ends of these runs are durable: their results may be forgotten when room is needed."""
        self._recent.committed(run_ids)

    def _close(self, turn: Turn) -> None:
        """Let out what a handler has collected."""
        if turn.ready:
            self._queue.enqueue.send(tuple(turn.ready))
        if turn.freed:
            self._queue.release.send(tuple(turn.freed))
        if turn.held:
            self._queue.hold.send(tuple((task.worker_id, task.step.slots) for task in turn.held))
            by_worker: dict[str, list[Any]] = {}
            for task in turn.held:
                assert task.worker_id is not None
                by_worker.setdefault(task.worker_id, []).append((task.assignment(), task.state == S.RUNNING))
            for worker_id, assignments in by_worker.items():
                worker = self._workers.get(worker_id)
                if worker is not None:
                    worker.holds.send(tuple(assignments))
        for worker_id, started in turn.started.items():
            self._to_worker(worker_id, "started", tuple(started))
        for worker_id, done in turn.done.items():
            self._to_worker(worker_id, "done", tuple(done))
        for worker_id, cancels in turn.cancels.items():
            self._to_worker(worker_id, "cancel", tuple(cancels))
        for worker_id, assignments in turn.starts.items():
            self._workers[worker_id].start_tasks.send(tuple(assignments))
        for gateway, messages in turn.deliveries_after.items():
            self.send_after_commit(gateway.deliver, tuple(messages))
        if turn.ended:
            self.send_after_commit(self.me.ended_committed, tuple(turn.ended))
        if turn.ended_parents:
            self._claims.forget.send(tuple(turn.ended_parents))
        self._arm()

    def _to_worker(self, worker_id: str, method: str, items: tuple[Any, ...]) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None:
            getattr(worker, method).send(items)
