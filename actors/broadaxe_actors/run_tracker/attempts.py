"""Attempts, from assignment to end: the part of `RunTracker` that moves task runs through `states.TRANSITIONS`."""

from collections.abc import Sequence
from typing import Any

from broadaxe_actors import retry
from broadaxe_actors.batches import RunningBatch
from broadaxe_actors.matching import Proposal
from broadaxe_actors.messages import (
    HeldAttempt,
    ReportKind,
    ReportsTaken,
    ReportTasks,
    RunEventKind,
    TaskReport,
)
from broadaxe_actors.run_tracker.batching import Batches
from broadaxe_actors.run_tracker.lines import Page
from broadaxe_actors.run_tracker.places import place_waited_for, waiting_text
from broadaxe_actors.runtime import Handle
from broadaxe_actors.states import HELD_STATES, Transition, after, after_or_none
from broadaxe_actors.task_run import TaskRun
from broadaxe_actors.turn import Turn
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import (
    FinishedTaskRun,
    TaskEventKind,
    TaskRunRow,
    TaskRunState,
)

S = TaskRunState
DUE_SLICE = 200
"""Task runs whose deadlines have passed that are looked at in one turn."""
MAX_ANCESTORS = 10
"""Ancestors that an error text names."""


CUT_OFF = "its worker was cut off while it ran, and never reported"


class Attempts(Batches):
    """Assignment, reports, failures, losses, time-outs."""

    def propose(self, proposals: tuple[Proposal, ...]) -> None:
        """`TenantQueue` found workers: accept what still waits, give back the slots of the rest."""
        turn = Turn()
        now = self.clock.now()
        assigned = 0
        for proposal in proposals:
            task = self._live.get(proposal.task_run_id)
            if task is None or task.state != S.QUEUED or task.attempt != proposal.attempt:
                # Unless this very worker told meanwhile that it has the attempt: then it keeps the slot, if it has not given it back.
                if (
                    task is None
                    or (task.worker_id, task.attempt) != (proposal.worker_id, proposal.attempt)
                    or task.is_slot_released
                ):
                    turn.unspent.append((proposal.worker_id, proposal.task_run_id, proposal.attempt))
                continue
            self._at = task.id
            if self._pauses and self._is_paused(task):
                turn.unspent.append((proposal.worker_id, proposal.task_run_id, proposal.attempt))
                self._put_back(task, turn)
                continue
            if proposal.worker_id not in self._workers:
                turn.unspent.append((proposal.worker_id, proposal.task_run_id, proposal.attempt))
                self._line_up(task, turn)
                continue
            if task.batching is not None:
                # It has the units of its rate limits, and holds no slot: on to its batch.
                task.batching.paid_attempt = task.attempt
                turn.freed.append((proposal.worker_id, proposal.task_run_id, proposal.attempt))
                self._batches.to_group.append((task.id, task.attempt))
                continue
            self._assign(task, proposal.worker_id, now, turn)
            if task.step.is_gated:
                self._record_start(task)
                turn.to_start.append((task.id, task.attempt))
            else:
                self._save_soon(task)
                turn.starts.setdefault(proposal.worker_id, []).append(task.assignment())
            self._telemetry.observe_queue(
                self._tenant_id, task.step.workflow.name, (now - task.queued_at) / 1e6
            )
            assigned += 1
        if assigned:
            self._telemetry.count("assigned_tasks", self._tenant_id, assigned)
            self._telemetry.count("queued_to_assigned", self._tenant_id, assigned)
        self._telemetry.count("queue_invocations", self._tenant_id)
        self._close(turn)

    def start_committed(self, items: tuple[tuple[str, int], ...]) -> None:
        """Assignments that had to be committed first: what others wait for is theirs, also if the engine ends now."""
        turn = Turn()
        for task_run_id, attempt in items:
            task = self._live.get(task_run_id)
            if task is None or task.state != S.ASSIGNED or task.attempt != attempt:
                continue  # it has ended meanwhile
            assert task.worker_id is not None
            if task.worker_id in self._workers:
                turn.starts.setdefault(task.worker_id, []).append(task.assignment())
            else:
                self._reassign(task, turn, f"worker {task.worker_id} has left")
        self._close(turn)

    def over_limit(self, items: tuple[tuple[str, int, str, int, int], ...]) -> None:
        """Attempts (task run, attempt) that want more units of a rate limit (key, units, limit) than a whole window has."""
        turn = Turn()
        for task_run_id, attempt, key, units, limit in items:
            task = self._live.get(task_run_id)
            if task is None or task.state != S.QUEUED or task.attempt != attempt:
                continue
            self._at = task.id
            error = (
                f"task {task.step.ref.task_name!r} needs {units} units of rate limit {key!r}, whose limit is {limit}: it could never "
                "start; lower its units or raise the limit"
            )
            self._fail_for_good(task, error.encode(), turn)
        self._close(turn)

    def adopt(self, worker_id: str, held: tuple[HeldAttempt, ...]) -> None:
        """A returning worker holds attempts that we did not know to be with it: take them as assigned, or have them stopped.

        Answered with `adopted`: until then it gets nothing new, or it would have more than its slots.
        """
        turn = Turn()
        unknown: list[HeldAttempt] = []
        for item in held:
            task = self._live.get(item.task_run_id)
            if task is None:
                if not self._has_ended(item.task_run_id):
                    unknown.append(item)
                continue
            self._adopt(task, worker_id, item, turn)
        if unknown:
            self.fetch(
                self._load_live,
                [item.task_run_id for item in unknown],
                then=self.me.adopt_loaded,
                context=(worker_id, tuple(unknown)),
            )
        self._close(turn)
        if not unknown:
            self._tell_adopted(worker_id)

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
            self.set_timer(("adopt", context), 250_000, self.me.adopt, *context)
            return
        assert rows is not None
        worker_id, held = context
        turn = Turn()
        attempts = {item.task_run_id: item for item in held}
        self._hydrate(rows)
        for row in rows:
            if row.id in attempts:
                task = self._take_from_postgres(row, turn)
                if task is not None:
                    self._adopt(task, worker_id, attempts[row.id], turn)
        self._close(turn)
        self._tell_adopted(worker_id)

    def _tell_adopted(self, worker_id: str) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.adopted.send()

    def _adopt(self, task: TaskRun, worker_id: str, item: HeldAttempt, turn: Turn) -> None:
        if task.state in HELD_STATES and task.worker_id == worker_id and task.attempt == item.attempt:
            return
        if task.state != S.QUEUED or task.attempt != item.attempt or worker_id not in self._workers:
            turn.cancel(worker_id, task.cancel_order(item.attempt))
            return
        self._leave_buffer(task, turn)
        self._assign(task, worker_id, self.clock.now(), turn)
        self._hold_places_of(task, turn)
        if task.batching is not None:
            self._join_unknown_batch(task, worker_id, turn)
        self._save_soon(task)
        turn.hold(task)

    def report(self, gateway: "Handle[Any]", message: ReportTasks) -> None:
        """What a worker says of its attempts; answered after the commit."""
        unknown = [item.task_run_id for item in message.reports if not self._is_known(item.task_run_id)]
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
            self.set_timer(("report", gateway, message.request_id), 250_000, self.me.report, gateway, message)
            return
        assert result is not None
        live, finished = result
        turn = Turn()
        self._hydrate(live)
        reported = {item.task_run_id for item in message.reports}
        for row in live:
            if row.id in reported:
                self._take_from_postgres(row, turn)
        self._close(turn)
        self._take_reports(gateway, message, frozenset(row.id for row in finished))

    def _take_reports(self, gateway: "Handle[Any]", message: ReportTasks, finished: frozenset[str]) -> None:
        turn = Turn()
        known: list[bool] = []
        for item in message.reports:
            task = self._live.get(item.task_run_id)
            if task is None:
                known.append(item.task_run_id in finished or self._has_ended(item.task_run_id))
                continue
            known.append(True)
            self._at = task.id
            if _is_meant(task, item):
                self._take_report(task, item, message.worker_id, turn)
        self._close(turn)
        self._reply(gateway, message.request_id, ReportsTaken(tuple(known)))

    def _take_report(self, task: TaskRun, item: TaskReport, worker_id: str, turn: Turn) -> None:
        if item.kind == ReportKind.STARTED:
            task.is_doubtful = False  # said after the break: it runs, and its own time-out counts again
            self._take_start(task, item, worker_id, turn)
            return
        if item.started_at and task.started_at is None:
            task.started_at = item.started_at
        if item.kind == ReportKind.CANCELLED:
            # After a crash two workers may have one attempt, and the one told to stop must not end the other's.
            if task.worker_id == worker_id:
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

    def _take_start(self, task: TaskRun, item: TaskReport, worker_id: str, turn: Turn) -> None:
        if after_or_none(task.state, Transition.START) is None:
            return
        if task.state == S.QUEUED:
            # Its assignment was lost in a crash; the worker proves that it holds the attempt.
            self._adopt(task, worker_id, HeldAttempt(task.id, task.attempt), turn)
        # After a crash two workers may have one attempt: a sign of life of the one tells nothing of the other.
        if task.worker_id != worker_id:
            return
        task.state = S.RUNNING
        task.started_at = item.started_at or self.clock.now()
        turn.started.setdefault(worker_id, []).append(task.id)
        self._save_soon(task)

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
        if self._subscriptions.are_any:
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
        if task.admission is not None and not task.admission.is_complete:
            self._give_up_places(task, turn)  # it never had them all; it asks again
        task.app_retries += 1
        pause = pause_us or retry.backoff_us(task.step.definition, task.app_retries)
        text = f"retry {task.app_retries} of {task.step.definition.retries}"
        self._note(
            task, TaskEventKind.RETRYING, f"{text}, in {pause / 1e6:g} s".encode() if pause else text.encode()
        )
        task.attempt += 1
        self._telemetry.count("retried_tasks", self._tenant_id)
        if pause:
            task.state = after(task.state, Transition.BACK_OFF)
            self._give_up_places(task, turn)
            # While it backs off, the schedule deadline holds the time to wake.
            task.schedule_deadline = self.clock.now() + pause
            task.is_slot_released = False
            task.worker_id = task.assigned_at = task.started_at = task.execution_deadline = None
            self._set_deadline(task, task.schedule_deadline)
            self._save(task)
        else:
            task.state = after(task.state, Transition.RETRY)
            self._requeue(task, turn)

    def doubt(self, worker_id: str, task_run_ids: tuple[str, ...]) -> None:
        """The stream of a unary worker broke.

        Official SDKs drop the reports that were under way then, so an attempt that now runs out of time is run again by the
        engine's budget: it may have ended well long ago.
        """
        for task_run_id in task_run_ids:
            task = self._live.get(task_run_id)
            if task is not None and task.state in HELD_STATES and task.worker_id == worker_id:
                task.is_doubtful = True

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
                or task.is_slot_released  # it is not reassigned: its execution timeout ends it (behaviour-core 6.7)
            ):
                continue
            self._at = task.id
            turn.cancel(worker_id, task.cancel_order(task.attempt))
            self._reassign(task, turn, reason)
        self._close(turn)

    def _restore_held(self, task: TaskRun, turn: Turn) -> None:
        """From the record: what a worker held stays with it, if it is known still."""
        self._counts.run(task)
        self._set_deadline(task, task.execution_deadline)
        self._hold_places_of(task, turn)
        if task.run is not None and task.worker_id is not None:
            self._found_worker(task.run, task.worker_id, turn)
        if task.worker_id in self._workers:
            turn.hold(task)
        else:
            self._reassign(task, turn, f"worker {task.worker_id} is not known any more")

    def due(self) -> None:
        """Deadlines have passed: to be scheduled, to end, or to wake."""
        self._armed = None
        turn = Turn()
        now = self.clock.now()
        timed_out: set[str] = set()
        self._overdue.extend(self._deadlines.pop_due(now))
        for _ in range(min(DUE_SLICE, len(self._overdue))):
            task_run_id = self._overdue.popleft()
            task = self._live.get(task_run_id)
            # It may have ended, have got another deadline, or have been ended with its batch since.
            if task is not None and task_run_id not in self._deadlines and task_run_id not in timed_out:
                self._at = task.id
                timed_out.update(self._pass_deadline(task, now, turn))
        if self._spilled_due is not None and self._spilled_due <= now:
            self._spilled_due = None
            waiting = self._waiting_workflows(now)
            self.fetch(self._load_expired, now, waiting, then=self.me.expired_loaded)
        if self._overdue:
            self.me.due.send()
        self._close(turn)

    def _pass_deadline(self, task: TaskRun, now: int, turn: Turn) -> Sequence[str]:
        """The deadline of a task run has come. Returns the ids of all that ran out of time with it."""
        if task.state == S.QUEUED:
            if self._has_outlasted(task, now):
                self._end_waiting(task, turn)
        elif task.batch is not None:
            return self._time_out_batch(task.batch, now, turn)
        elif task.state in HELD_STATES:
            turn.cancel(task.worker_id or "", task.cancel_order(task.attempt))
            if task.is_doubtful and not task.is_slot_released:
                self._reassign(task, turn, CUT_OFF)
            else:
                text = f"Task exceeded timeout of {task.step.definition.execution_timeout}"
                self._fail(task, turn, text.encode(), kind=TaskEventKind.TIMED_OUT)
        elif task.state == S.BACKING_OFF:
            task.state = after(task.state, Transition.WAKE)
            self._requeue(task, turn)
        elif task.state == S.WAITING:
            self._judge_waiting(task, self._gate_of(task), turn)
        return ()

    def _time_out_batch(self, batch: RunningBatch, now: int, turn: Turn) -> list[str]:
        """A member has run out of time, and with it the whole batch (behaviour-core 6.6). Returns who was in it."""
        tasks = list(batch.members.values())
        for task in tasks:
            self._at = task.id
            assert task.execution_deadline is not None
            turn.cancel(batch.worker_id, task.cancel_order(task.attempt))
            if task.is_doubtful and not task.is_slot_released:
                self._reassign(task, turn, CUT_OFF)
                continue
            if task.execution_deadline <= now:
                text = f"Task failed due to batch timeout of {task.step.definition.execution_timeout}"
            else:
                text = "Task failed because another member of its batch ran into the batch timeout"
            self._fail(task, turn, text.encode(), kind=TaskEventKind.TIMED_OUT)
        return [task.id for task in tasks]

    def expired_loaded(self, _context: object, page: Page | None, error: BaseException | None) -> None:
        """Task runs that waited in Postgres for longer than they may."""
        now = self.clock.now()
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self.note_spilled_deadline(now + 1_000_000)
            return
        assert page is not None
        turn = Turn()
        # Their workflow may have been paused, or its pause have ended, while they were read.
        expired = [row for row in page.rows if (self._row_waits_until(row) or 0) <= now]
        if expired:
            self._hydrate(page.companions)
        for row in expired:
            task = self._take_from_postgres(row, turn)
            if task is not None and task.state == S.QUEUED:
                self._end_waiting(task, turn)
        if self._ledger.has_spilled():
            # More may be due at once; without any, the next look is for those that were not yet due.
            self.note_spilled_deadline(now if page.rows else now + 60_000_000)
        self._close(turn)

    def _end_waiting(self, task: TaskRun, turn: Turn) -> None:
        """A queued task run may wait no longer."""
        text = self._expiry_text(task) if self._pauses else None
        if text is None:
            self._time_out_waiting(task, turn)
        else:
            self._cancel(task, turn, text.encode())

    def _time_out_waiting(self, task: TaskRun, turn: Turn) -> None:
        name, within = task.step.ref.task_name, task.step.definition.schedule_timeout
        place = place_waited_for(task)
        if place is not None:
            text = f"{waiting_text(place)} for task {name!r} within {within}"
        elif task.batching is not None and task.batching.is_buffered:
            text = (
                f"task {name!r} was not started in a batch within {within}: its batch was not due, no worker had a free slot, "
                "or as many batches of its group ran as may"
            )
        else:
            text = f"{self._unrouted(task)} for task {name!r} within {within}"
        text += self._held_by_ancestors(task)
        self._event(task, TaskEventKind.SCHEDULING_TIMED_OUT, text.encode())
        self._telemetry.count("scheduling_timed_out", self._tenant_id)
        self._release(task, turn)
        task.state = after(task.state, Transition.SCHEDULE_TIMEOUT)
        self._finish(task, turn, None, text.encode())

    def _held_by_ancestors(self, task: TaskRun) -> str:
        """That those who wait for this task hold the slots that it needs, if they do."""
        pools = {pool for pool, _ in task.step.slots}
        holders: list[str] = []
        parent_id = task.parent_task_run_id
        while parent_id is not None and len(holders) < MAX_ANCESTORS:
            parent = self._live.get(parent_id)
            if parent is None:
                break
            if (
                parent.state in HELD_STATES
                and not parent.is_slot_released
                and pools & dict(parent.step.slots).keys()
            ):
                holders.append(f"{parent.step.ref.task_name!r} ({parent.id})")
            parent_id = parent.parent_task_run_id
        if not holders:
            return ""
        return (
            f"; its ancestors hold slots of that pool while they wait for it: {', '.join(holders)}. "
            "Give the workers more slots, or have the parents release theirs while they wait"
        )


def _is_meant(task: TaskRun, item: TaskReport) -> bool:
    """Whether a report is about the attempt that a task run is at; one that names its batch means the attempt that was put into it."""
    if item.attempt is not None:
        return item.attempt == task.attempt
    if not item.batch_id or item.kind == ReportKind.CANCELLED:
        return True
    return task.batch is not None and task.batch.id == item.batch_id
