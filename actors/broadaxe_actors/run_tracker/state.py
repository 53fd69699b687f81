"""What `RunTracker` holds, and what each of its parts does with it: lines, deadlines, ends, answers.

A handler collects what it has to say in a `Turn`, so that a batch of reports makes one message to each neighbour; `_close` lets it out.
"""

import json
from typing import Any

from broadaxe_actors.catalog import Catalog
from broadaxe_actors.creation import Creation
from broadaxe_actors.deadlines import Deadlines
from broadaxe_actors.errors import Code, EngineBug, Refused
from broadaxe_actors.followers import RecentResults, Subscriptions, Watchers
from broadaxe_actors.matching import Ready
from broadaxe_actors.messages import (
    Assignment,
    Refusal,
    Reply,
    RunEvent,
    RunEventKind,
    RunEvents,
    RunFinished,
    TaskResult,
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
    TaskEventKind,
    TaskEventRow,
    TaskRunRow,
    TaskRunState,
)
from broadaxe_storage.store import ShardStore

S = TaskRunState
_COUNTER = {S.COMPLETED: "succeeded_tasks", S.FAILED: "failed_tasks", S.CANCELLED: "cancelled_tasks"}
_EVENT = {
    S.COMPLETED: RunEventKind.COMPLETED,
    S.FAILED: RunEventKind.FAILED,
    S.CANCELLED: RunEventKind.CANCELLED,
}


SAVE_HOLD_US = 25_000


class TrackerState(Actor):
    """The live runs of a tenant in memory; the base of the tracker's parts."""

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
        self._spill_commits = 0
        """How often task runs that wait in Postgres were committed: a page read before the last of these does not know all."""
        self._held_back: dict[tuple[str, int], dict[str, TaskRun]] = {}
        """By line: task runs that recovery found in memory behind others that wait in Postgres."""
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
        self._unsaved: dict[str, int] = {}
        """Task runs whose assignment or start is not recorded yet, and since when, oldest first."""
        self._at: str | None = None
        """The task run being worked on, for the supervisor if this handler raises."""

    # ------------------------------------------------------------ assignments and starts, recorded when they last

    def _save_soon(self, task: TaskRun) -> None:
        """Record this transition unless the attempt ends within `SAVE_HOLD_US`: its end then says all.

        Nobody waits for an assignment to be durable. A crash loses at most those not yet recorded: their task runs are
        queued again under the same attempt, and a worker that holds one says so, or its report is taken.
        """
        if not self._unsaved:
            self.set_timer("save", SAVE_HOLD_US, self.me.save)
        self._unsaved.setdefault(task.id, self.clock.monotonic())

    def _save(self, task: TaskRun) -> None:
        self._unsaved.pop(task.id, None)
        self.record(task.update_record(self._tenant_id))

    def save(self) -> None:
        """Record assignments and starts that have lasted."""
        now = self.clock.monotonic()
        for task_run_id, since in list(self._unsaved.items()):
            if now - since < SAVE_HOLD_US:
                self.set_timer("save", max(1_000, since + SAVE_HOLD_US - now), self.me.save)
                break
            self._save(self._live[task_run_id])

    def save_all(self) -> None:
        """The server is about to stop: record them all."""
        for task_run_id in list(self._unsaved):
            self._save(self._live[task_run_id])

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
        if self._held_back and self._held_back.get(line, {}).pop(task.id, None) is not None:
            return
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
                context=(line, self._spill_commits),
            )

    def _take_from_postgres(self, row: TaskRunRow, turn: Turn) -> TaskRun | None:
        """A spilled task run, out of turn."""
        if row.id in self._live:
            return self._live[row.id]
        if self._recent.get(row.run_id) is not None:
            return None
        line = (row.spill_queue or "", row.queue_priority)
        self._ledger.left_postgres(line)
        if not self._ledger.waits_in_postgres(line):
            self._let_go(line, None, turn)
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
        self._ledger.hold_bytes(task.size)
        return task

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

    def note_spilled_deadline(self, deadline: int | None) -> None:
        """For `creation`: a task run that waits in Postgres has this schedule deadline."""
        self._note_spilled_deadline(deadline)

    def _note_spilled_deadline(self, deadline: int | None) -> None:
        if deadline is not None and (self._spilled_due is None or deadline < self._spilled_due):
            self._spilled_due = deadline
            self._arm()

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
        self._unsaved.pop(task.id, None)
        del self._live[task.id]
        self._ledger.hold_bytes(-task.size)
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
            turn.freed.append((task.worker_id, task.id, task.attempt))
            turn.done.setdefault(task.worker_id, []).append(task.id)
            self._count_running(task, -1)
        elif task.state == S.QUEUED:
            self._leave_line(task)

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

    async def _load_any(self, ids: list[str]) -> tuple[list[TaskRunRow], list[FinishedTaskRun]]:
        live = await self._store.fetch_live(self._tenant_id, ids)
        return live, await self._load_finished(ids)

    async def _load_finished(self, ids: list[str]) -> list[FinishedTaskRun]:
        rows = await self._store.fetch_finished(self._tenant_id, ids)
        for version_id in dict.fromkeys(row.workflow_version_id for row in rows):
            # Runs of a version that is neither the latest nor live: its task names are needed for their results.
            if self._catalog.version(version_id) is None:
                version = await self._store.fetch_version(self._tenant_id, version_id)
                if version is not None:
                    self._catalog.restore(version)
        return rows

    def _task_name(self, row: FinishedTaskRun) -> str:
        version = self._catalog.version(row.workflow_version_id)
        return version.steps[row.step_index].ref.task_name if version else ""

    def _finished_of(self, row: FinishedTaskRun) -> RunFinished:
        return RunFinished(
            self._tenant_id,
            row.run_id,
            row.state,
            (TaskResult(row.id, self._task_name(row), row.state, row.output, row.error),),
        )

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

    def _refuse_while_away(self, gateway: "Handle[Any]", request_id: int, error: BaseException) -> None:
        """Answer a read that Postgres could not serve; an error of any other kind is ours, and raised."""
        if not isinstance(error, Unavailable):
            raise error
        self._refuse(gateway, request_id, Refused(Code.UNAVAILABLE, str(error)))

    def _refuse(self, gateway: "Handle[Any]", request_id: int, refused: Refused) -> None:
        if request_id:
            self.send_after_commit(gateway.deliver, (Refusal(request_id, refused.code, refused.message),))

    def _close(self, turn: Turn) -> None:
        """Let out what a handler has collected."""
        if turn.ready:
            self._queue.enqueue.send(tuple(turn.ready))
        if turn.freed:
            self._queue.release.send(tuple(turn.freed))
        if turn.held:
            self._tell_held(turn.held)
        self._tell_workers(turn)
        for gateway, messages in turn.deliveries_after.items():
            self.send_after_commit(gateway.deliver, tuple(messages))
        if turn.ended:
            self.send_after_commit(self.me.ended_committed, tuple(turn.ended))
        if turn.ended_parents:
            self._claims.forget.send(tuple(turn.ended_parents))
        self._arm()
        self._at = None

    def _tell_held(self, held: list[TaskRun]) -> None:
        self._queue.hold.send(
            tuple((task.worker_id, task.id, task.attempt, task.step.slots) for task in held)
        )
        by_worker: dict[str, list[tuple[Assignment, bool]]] = {}
        for task in held:
            assert task.worker_id is not None
            by_worker.setdefault(task.worker_id, []).append((task.assignment(), task.state == S.RUNNING))
        for worker_id, assignments in by_worker.items():
            self._to_worker(worker_id, "holds", tuple(assignments))

    def _tell_workers(self, turn: Turn) -> None:
        for method, by_worker in (
            ("started", turn.started),
            ("done", turn.done),
            ("start_tasks", turn.starts),
        ):
            for worker_id, items in by_worker.items():
                self._to_worker(worker_id, method, tuple(items))
        for worker_id, orders in turn.cancels.items():
            worker = self._workers.get(worker_id)
            if worker is not None:
                # After the commit: were the end of the attempt lost in a crash, nobody would run it.
                self.send_after_commit(worker.cancel, tuple(orders))

    def _to_worker(self, worker_id: str, method: str, items: tuple[Any, ...]) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None:
            getattr(worker, method).send(items)

    def paged_in(
        self,
        context: tuple[tuple[str, int], int],
        rows: list[TaskRunRow] | None,
        error: BaseException | None,
    ) -> None:
        """A page of a line that waited in Postgres."""
        line, spill_commits = context
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self.set_timer(("page", line), 250_000, self.me.page_again, line)
            return
        assert rows is not None
        turn = Turn()
        # What was taken out of turn while the page was read is live, or has ended again.
        fresh = [row for row in rows if row.id not in self._live and self._recent.get(row.run_id) is None]
        size = sum(len(row.input) + len(row.metadata) for row in fresh)
        self._ledger.paged(line, len(fresh), rows[-1].seq if rows else 0, size)
        for row in fresh:
            self._let_go(line, row.seq, turn)
            self._line_up(self._put_live(row), turn)
        if not rows and spill_commits == self._spill_commits and not self._uncommitted_spills:
            self._ledger.forget_spilled(line)
        if not self._ledger.waits_in_postgres(line):
            self._let_go(line, None, turn)
        elif rows or not self._uncommitted_spills:
            self._page_in(line)
        self._close(turn)

    def _let_go(self, line: tuple[str, int], before_seq: int | None, turn: Turn) -> None:
        """Line up what recovery held back, up to a place in line, or all of it."""
        held = self._held_back.get(line)
        if held is None:
            return
        for task in list(held.values()):
            if before_seq is not None and task.seq >= before_seq:
                return
            del held[task.id]
            self._ledger.enter_memory(line)
            self._line_up(task, turn)
        del self._held_back[line]

    def page_again(self, line: tuple[str, int]) -> None:
        """Postgres may be back."""
        self._ledger.page_failed(line)
        self._page_in(line)

    def on_failure(self, *_args: object) -> None:
        """Tell the supervisor which task run was being worked on when a handler raised."""
        if self._supervisor is not None:
            self._supervisor.crashed_at.send(self._tenant_id, self._at)

    def requeued(self, task_run_id: str, attempt: int) -> None:
        """The commit of a retry or a reassignment: it may run."""
        task = self._live.get(task_run_id)
        if task is not None and task.state == S.QUEUED and task.attempt == attempt:
            turn = Turn()
            self._line_up(task, turn)
            self._close(turn)

    def _requeue(self, task: TaskRun) -> None:
        """Back to the queue, before all new work, once that is committed. `task.state` is QUEUED already."""
        now = self.clock.now()
        task.is_doubtful = False
        task.queue_priority = RETRY_PRIORITY
        task.seq = self.next_seq()
        task.queued_at = now
        task.schedule_deadline = now + task.step.schedule_timeout
        task.worker_id = task.assigned_at = task.started_at = task.execution_deadline = None
        self._ledger.enter_memory((task.step.queue_key, task.queue_priority))
        self._deadlines.drop(task.id)
        self._save(task)
        self.send_after_commit(self.me.requeued, task.id, task.attempt)

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
