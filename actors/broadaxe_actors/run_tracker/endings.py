"""How attempts, task runs and runs end: the part of `RunTracker` that frees what they hold, and tells who waits.

The end of one task of a run of several is noted in `_to_progress`; `progress` draws the consequences when the handler closes.
"""

from broadaxe_actors.batches import TICKET, RunningBatch
from broadaxe_actors.messages import RunEventKind, RunFinished, TaskResult
from broadaxe_actors.run import SKIPPED_OUTPUT, Ended, Run, make_ended
from broadaxe_actors.run_tracker.lines import Lines
from broadaxe_actors.states import HELD_STATES, Transition, after, after_or_none, run_state
from broadaxe_actors.task_run import TaskRun
from broadaxe_actors.turn import Turn
from broadaxe_storage.records import IdempotencyRelease, RunFinish, TaskEventKind, TaskRunState

S = TaskRunState
AFTERWARDS = -1
"""In `_to_progress`, in place of a child: all children have heard of the end of a task, and it may matter to the run as a whole."""
REWATCH = -2
"""Likewise: the run was read from the record, and its gates have heard of all ends: go on with what waits for sleeps and events."""
_STATUS = {state: state.name for state in S}
"""A look-up takes a quarter of the time of `name`."""
_COUNTER = {S.COMPLETED: "succeeded_tasks", S.FAILED: "failed_tasks", S.CANCELLED: "cancelled_tasks"}
END_EVENTS = {
    S.COMPLETED: RunEventKind.COMPLETED,
    S.SKIPPED: RunEventKind.COMPLETED,
    S.FAILED: RunEventKind.FAILED,
    S.CANCELLED: RunEventKind.CANCELLED,
}


class Endings(Lines):
    """See the module."""

    def _cancel(self, task: TaskRun, turn: Turn, reason: bytes | None = None) -> None:
        """End a task run as cancelled, at once; a worker that holds it is told to stop."""
        following = after_or_none(task.state, Transition.CANCEL)
        if following is None:
            return
        if task.state in HELD_STATES and task.worker_id is not None:
            turn.cancel(task.worker_id, task.cancel_order(task.attempt))
        self._release(task, turn)
        task.state = following
        self._finish(task, turn, None, reason)

    def _fail_for_good(self, task: TaskRun, error: bytes, turn: Turn) -> None:
        """A task run that no worker has fails, whatever retries it has."""
        self._release(task, turn)
        task.state = after(task.state, Transition.FAIL)
        self._finish(task, turn, None, error)

    def _release(self, task: TaskRun, turn: Turn) -> None:
        """Free what an attempt holds: its slot on a worker, its place in line, or its waits."""
        if task.state in HELD_STATES:
            assert task.worker_id is not None
            if task.batch is not None:
                self._leave_batch(task, task.batch, turn)
            else:
                turn.freed.append((task.worker_id, task.id, task.attempt))
            turn.done.setdefault(task.worker_id, []).append(task.id)
            self._counts.unrun(task)
        elif task.state == S.QUEUED:
            self._leave_line(task)
            self._leave_buffer(task, turn)
        elif task.state == S.WAITING and task.waits is not None and task.step.plan.has_event_waits:
            turn.waits_over.append(task.id)

    def _leave_batch(self, task: TaskRun, batch: RunningBatch, turn: Turn) -> None:
        """An attempt is in its batch no more; the last one ends the batch."""
        self._give_up_batch_slot(task, batch, turn)
        batch.leave(task)
        if not batch.members:
            del self._batches.running[batch.id]
            self._batches.uncounted.discard(batch.id)
            if batch.key is not None:
                turn.of_groups().over.setdefault(batch.key, []).append(batch.id)

    def _give_up_batch_slot(self, task: TaskRun, batch: RunningBatch, turn: Turn) -> None:
        if batch.gives_up_slot(task.id):
            turn.freed.append((batch.worker_id, batch.id, TICKET))

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
        state = task.state
        self._unsaved.pop(task.id, None)
        del self._live[task.id]
        self._deadlines.drop(task.id)
        if task.id in self._parents_with_children:
            self._parents_with_children.discard(task.id)
            turn.ended_parents.append(task.id)
        if task.admission is not None:
            self._give_up_places(task, turn)
        self._telemetry.count(_COUNTER.get(state, "skipped_tasks"), self._tenant_id)
        if self._subscriptions.are_any and not is_told:
            self._tell(task, END_EVENTS[state], output or error or b"", turn)
        run = task.run
        if run is not None:
            if run.scout == task.id and run.desired_worker_id is None:
                self._scout_ended(run, turn)
            self.record(task.settle_record(self._tenant_id, now, output, error))
            self._note_end(
                run, task.step.index, make_ended(task.id, state, task.attempt, output, error, task.worker_id)
            )
            return
        self.record(task.finish_record(self._tenant_id, now, output, error))
        self._ledger.hold_bytes(-task.size)
        if task.idempotency_key is not None:
            self._end_claim(task.idempotency_key, task.run_id, task.step.workflow.idempotency)
        self._telemetry.observe_duration(
            self._tenant_id, task.step.workflow.name, _STATUS[state], (now - task.created_at) / 1000
        )
        shown = SKIPPED_OUTPUT if state == S.SKIPPED else output
        result = TaskResult(task.id, task.step.ref.task_name, state, shown, error)
        self._tell_finished(RunFinished(self._tenant_id, task.run_id, state, (result,)), task.metadata, turn)

    def _tell_finished(self, finished: RunFinished, metadata: str, turn: Turn) -> None:
        self._recent.put(finished)
        for ended in self._reads.values():
            ended.add(finished.run_id)
        turn.ended.append(finished.run_id)
        for gateway in self._watchers.pop(finished.run_id):
            turn.deliver_after(gateway, finished)
        if self._subscriptions.are_any:
            self._tell_run(finished.run_id, metadata, END_EVENTS[TaskRunState(finished.state)], turn)

    def _end_claim(self, key: str, run_id: str, settings: object) -> None:
        """A claim by STATUS lasts no longer than its run (behaviour-core 4.6)."""
        if isinstance(settings, dict) and settings.get("method") == "STATUS":
            self.record(IdempotencyRelease(self._tenant_id, key, run_id))
            self._claims.release_key.send(key, run_id)

    # ------------------------------------------------------------ runs of several tasks

    def _note_end(self, run: Run, index: int, ended: Ended) -> None:
        """A task of a run has ended: its children, the on-failure task and the run have yet to hear of it."""
        self._ledger.hold_bytes(run.settle(index, ended))
        self._settled[ended.id] = run
        if not self._is_restoring:
            for child in run.version.children[index]:
                self._to_progress.append((run, index, child))
            if not run.open_count or run.version.on_failure_index is not None:
                self._to_progress.append((run, index, AFTERWARDS))

    def _end_run(self, run: Run, turn: Turn) -> None:
        """All tasks of a run have ended."""
        now = self.clock.now()
        ended = [entry for _, entry in run.ended()]
        state = run_state(entry.state for entry in ended)
        self.record(RunFinish(run.id, self._tenant_id, state, now, len(ended)))
        del self._runs[run.id]
        for entry in ended:
            del self._settled[entry.id]
        self._ledger.hold_bytes(-run.size - run.output_bytes)
        self._give_up_places(run, turn)
        definition = run.version.definition
        if run.idempotency_key is not None:
            self._end_claim(run.idempotency_key, run.id, definition.idempotency)
        self._telemetry.observe_duration(
            self._tenant_id, definition.name, _STATUS[state], (now - run.created_at) / 1000
        )
        self._tell_finished(RunFinished(self._tenant_id, run.id, state, run.results()), run.metadata, turn)

    # ------------------------------------------------------------ reassignment

    def _reassign(self, task: TaskRun, turn: Turn, reason: str) -> None:
        budget = self._settings.max_internal_retries
        self._event(task, TaskEventKind.REASSIGNED, reason.encode())
        self._release(task, turn)
        if task.internal_retries >= budget:
            error = (
                f"task {task.step.ref.task_name!r} was reassigned {budget} times and its worker was lost each time "
                f"(last: {reason}); it is not tried again"
            )
            if self._subscriptions.are_any:
                self._tell(task, RunEventKind.FAILED, error.encode(), turn)
            task.state = after(task.state, Transition.FAIL)
            self._finish(task, turn, None, error.encode(), is_told=True)
            return
        task.internal_retries += 1
        task.attempt += 1
        task.state = after(task.state, Transition.REASSIGN)
        self._telemetry.count("reassigned_tasks", self._tenant_id)
        self._requeue(task, turn)
