"""What people and tasks ask of runs that exist: cancel, replay, more time, a slot given back. A part of `RunTracker`.

Many ids are worked off in slices. What memory does not hold is read first; what is unknown, or in the wrong state, is left as it is.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    MAX_CANCELLED_BY_FILTER,
    MAX_REPLAYED_BY_FILTER,
    CancelRuns,
    RefreshTimeout,
    ReleaseSlot,
    ReplayRuns,
)
from broadaxe_actors.run import Run, Spilled, make_ended, run_row
from broadaxe_actors.run_tracker.places import Member
from broadaxe_actors.run_tracker.progress import Progress
from broadaxe_actors.runtime import Handle
from broadaxe_actors.states import HELD_STATES, Transition, after
from broadaxe_actors.task_run import RETRY_PRIORITY, TaskRun
from broadaxe_actors.turn import Turn
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import (
    RUN_STEP,
    FinishedTaskRun,
    RunRevival,
    TaskEventKind,
    TaskEventRow,
    TaskRunRow,
    TaskRunSettle,
    TaskRunState,
)

S = TaskRunState
SLICE = 100
"""Runs cancelled or replayed in one turn."""


class _Order:
    """One request on its way."""

    def __init__(self, gateway: "Handle[Any]", message: CancelRuns | ReplayRuns) -> None:
        self.gateway = gateway
        self.message = message
        self.ids: deque[str] = deque(dict.fromkeys(message.ids))
        self.done: list[str] = []


class Control(Progress):
    """See the module."""

    # ------------------------------------------------------------ cancel

    def cancel_runs(self, gateway: "Handle[Any]", message: CancelRuns) -> None:
        """Cancel runs and task runs."""
        self._begin(_Order(gateway, message))

    def replay_runs(self, gateway: "Handle[Any]", message: ReplayRuns) -> None:
        """Run ended runs, or task runs and what depends on them, again."""
        self._begin(_Order(gateway, message))

    def _begin(self, order: _Order) -> None:
        # Once everything recorded before is committed: what is meant may be neither in memory nor yet in Postgres.
        if order.message.filter is None:
            self.send_after_commit(self.me.order_known, order)
        else:
            # What the filter is asked of must not lie behind what is held back for its batch.
            self.save_all()
            self.send_after_commit(self.me.order_select, order)

    def order_select(self, order: _Order) -> None:
        """Find the runs that a filter means."""
        message = order.message
        if isinstance(message, CancelRuns):
            self.fetch(
                self._store.select_live_runs,
                self._tenant_id,
                message.filter,
                MAX_CANCELLED_BY_FILTER,
                then=self.me.order_selected,
                context=order,
            )
        else:
            self.fetch(
                self._store.select_finished_runs,
                self._tenant_id,
                message.filter,
                MAX_REPLAYED_BY_FILTER,
                then=self.me.order_selected,
                context=order,
            )

    def order_selected(self, order: _Order, ids: list[str] | None, error: BaseException | None) -> None:
        """The runs that a filter means are known."""
        if error is not None:
            self._refuse_while_away(order.gateway, order.message.request_id, error)
            return
        assert ids is not None
        order.ids = deque(ids)
        self.order_known(order)

    def order_known(self, order: _Order) -> None:
        """Begin with the first ids. What waits is cancelled before what runs, else slots freed by one slice are given to runs of the next."""
        if isinstance(order.message, CancelRuns) and len(order.ids) > SLICE:
            order.ids = deque(sorted(order.ids, key=self._holds_slots))
        self._next_slice(order)

    def _holds_slots(self, item: str) -> bool:
        run = self._runs.get(item)
        if run is not None:
            return any(type(entry) is TaskRun and entry.state in HELD_STATES for entry in run.entries)
        task = self._live.get(item)
        return task is not None and task.state in HELD_STATES

    def order_again(self, order: _Order) -> None:
        """Go on once everything recorded by now is committed: what ended, or was replayed, is then read as it is."""
        self.send_after_commit(self.me.order_settled, order)

    def order_settled(self, order: _Order) -> None:
        """Go on with the next ids."""
        self._next_slice(order)

    def _next_slice(self, order: _Order) -> None:
        if not order.ids:
            self._reply(order.gateway, order.message.request_id, tuple(order.done))
            return
        ids = [order.ids.popleft() for _ in range(min(SLICE, len(order.ids)))]
        wanted = [item for item in ids if not self._is_live(item)]
        if isinstance(order.message, ReplayRuns):
            wanted = [item for item in wanted if item not in self._settled]
            load: Any = self._load_finished
        else:
            wanted = [item for item in wanted if not self._has_ended(item)]
            load = self._load_live
        if wanted:
            ended = self._recent.uncommitted()
            self._reads[id(ended)] = ended
            self.fetch(load, wanted, then=self.me.order_loaded, context=(order, tuple(ids), ended))
        else:
            self._carry_out(order, ids, [])

    def order_loaded(
        self,
        context: tuple[_Order, tuple[str, ...], set[str]],
        rows: list[Any] | None,
        error: BaseException | None,
    ) -> None:
        """What memory did not hold has been read; of runs whose end was not committed, the rows are of before."""
        order, ids, ended = context
        del self._reads[id(ended)]
        if error is not None:
            if isinstance(error, Unavailable) and order.done:
                order.ids.extendleft(reversed(ids))
                self.set_timer(("order", id(order)), 250_000, self.me.order_again, order)
            else:
                self._refuse_while_away(order.gateway, order.message.request_id, error)
            return
        assert rows is not None
        stale = [row for row in rows if row.run_id in ended]
        if stale:
            again = {row.id for row in stale} | ended
            order.ids.extend(item for item in ids if item in again)
            ids = tuple(item for item in ids if item not in again)
            rows = [row for row in rows if row.run_id not in ended]
        self._carry_out(order, ids, rows)

    def _carry_out(self, order: _Order, ids: Sequence[str], rows: list[Any]) -> None:
        turn = Turn()
        if isinstance(order.message, ReplayRuns):
            order.done += self._replay(ids, rows, turn)
        else:
            order.done += self._cancel_these(ids, rows, turn)
        self._close(turn)
        if order.ids:
            self.order_again(order)
        else:
            self._reply(order.gateway, order.message.request_id, tuple(order.done))

    def _cancel_these(self, ids: Sequence[str], rows: list[TaskRunRow], turn: Turn) -> list[str]:
        self._hydrate(rows)
        wanted = set(ids)
        for row in rows:
            if row.id in wanted and row.step_index != RUN_STEP:
                self._take_from_postgres(row, turn)
        done: list[str] = []
        for item in ids:
            run = self._runs.get(item)
            task = self._live.get(item)
            if run is not None:
                self._cancel_run(run, turn)
            elif task is not None:
                self._at = task.id
                self._cancel(task, turn)
            else:
                continue
            done.append(item)
        return done

    def _cancel_member(self, member: Member, reason: bytes, turn: Turn) -> None:
        if isinstance(member, Run):
            self._cancel_run(member, turn, reason)
        else:
            self._cancel(member, turn, reason)

    def _cancel_run(self, run: Run, turn: Turn, reason: bytes | None = None) -> None:
        """End every task of a run. The on-failure task is left to `progress`, unless it is under way."""
        for index, entry in enumerate(run.entries):
            if index == run.version.on_failure_index and not self._is_decided(run, index):
                continue
            if type(entry) is TaskRun:
                self._cancel(entry, turn, reason)
            elif type(entry) is Spilled:
                self._cancel_spilled(run, index, entry)
            elif entry is None:
                self._bear_ended(run, index, S.CANCELLED, reason, turn)

    def _cancel_spilled(self, run: Run, index: int, entry: Spilled) -> None:
        """A task run that waits in Postgres ends there."""
        now = self.clock.now()
        self.record(
            TaskRunSettle(
                entry.id, self._tenant_id, 0, S.CANCELLED, 0, 0, 0, now, None, None, now, None, None, None
            )
        )
        self._ledger.left_postgres((entry.line_key, run.priority))
        self._telemetry.count("cancelled_tasks", self._tenant_id)
        self._note_end(run, index, make_ended(entry.id, S.CANCELLED, 0, None, None, None))

    # ------------------------------------------------------------ replay

    def _replay(self, ids: Sequence[str], rows: list[FinishedTaskRun], turn: Turn) -> list[str]:
        """Bring ended runs back to life, as far as they are meant."""
        by_run: dict[str, list[FinishedTaskRun]] = {}
        for row in rows:
            by_run.setdefault(row.run_id, []).append(row)
        wanted = set(ids)
        done: list[str] = []
        for run_id, members in by_run.items():
            if self._is_live(run_id) or not any(row.id == run_id for row in members):
                continue
            if len(members) == 1 and members[0].step_index != RUN_STEP:
                done += self._revive_task(members[0], turn)
            else:
                done += self._revive_run(run_id, members, wanted, turn)
        return done

    def _revive_task(self, row: FinishedTaskRun, turn: Turn) -> list[str]:
        """A run of one task begins anew."""
        version = self._catalog.version(row.workflow_version_id)
        if version is None:
            return []
        self.record(RunRevival(row.run_id, self._tenant_id, 1))
        task = TaskRun(self._anew(row), version.steps[row.step_index], is_recovered=True)
        self._note_replay(row)
        self._recent.forget(row.run_id)
        self._live[task.id] = task
        self._ledger.hold_bytes(task.size)
        self.record(task.row(self._tenant_id)._replace(**_origin(row)))
        self._judge_lone(task, turn)
        return [task.id]

    def _revive_run(
        self, run_id: str, rows: list[FinishedTaskRun], wanted: set[str], turn: Turn
    ) -> list[str]:
        """A run of several tasks goes on: what is meant, and everything below it, begins anew."""
        head = next(row for row in rows if row.id == run_id)
        version = self._catalog.version(head.workflow_version_id)
        tasks = {row.step_index: row for row in rows if row.step_index != RUN_STEP}
        if version is None or len(tasks) != len(version.steps):
            return []
        anew = {index for index, row in tasks.items() if run_id in wanted or row.id in wanted}
        queue = deque(anew)
        while queue:
            for child in version.children[queue.popleft()]:
                if child not in anew:
                    anew.add(child)
                    queue.append(child)
        if version.on_failure_index is not None:
            anew.add(version.on_failure_index)
        self.record(RunRevival(run_id, self._tenant_id, len(rows)))
        self._recent.forget(run_id)
        row_of_run = run_row(_live_row(head))
        run = self._put_run(row_of_run)
        self.record(row_of_run)
        for index, row in tasks.items():
            if index in anew:
                task = TaskRun(self._anew(row), version.steps[index], is_recovered=True, run=run)
                self._note_replay(row)
                self._live[task.id] = task
                run.put(task)
                self.record(task.row(self._tenant_id))
            else:
                kept = _live_row(row)._replace(
                    state=row.state, finished_at=row.finished_at, output=row.output, error=row.error
                )
                self.record(kept)
                ended = make_ended(
                    row.id, TaskRunState(row.state), row.attempt, row.output, row.error, row.worker_id
                )
                self._ledger.hold_bytes(run.settle(index, ended))
                self._settled[row.id] = run
        self._judge_all(run, turn)
        return [tasks[index].id for index in sorted(anew)]

    def _anew(self, row: FinishedTaskRun) -> TaskRunRow:
        """The row of a task run that begins anew: one attempt on, with fresh budgets (behaviour-core 6.13)."""
        return _live_row(row)._replace(
            state=after(TaskRunState(row.state), Transition.REPLAY),
            attempt=row.attempt + 1,
            queue_priority=RETRY_PRIORITY,
            queued_at=self.clock.now(),
            seq=self.next_seq(),
        )

    def _note_replay(self, row: FinishedTaskRun) -> None:
        """The attempt that had ended stays in the task run's history."""
        final = {
            S.COMPLETED: TaskEventKind.FINISHED,
            S.FAILED: TaskEventKind.FAILED,
            S.CANCELLED: TaskEventKind.CANCELLED,
        }.get(TaskRunState(row.state), TaskEventKind.SKIPPED)
        self._note_attempt(row, final, row.finished_at, row.error or b"")
        self.record(
            TaskEventRow(
                self._tenant_id,
                row.id,
                row.attempt + 1,
                TaskEventKind.RETRIED_BY_USER,
                self.clock.now(),
                None,
                b"",
            )
        )

    # ------------------------------------------------------------ running attempts

    def refresh_timeout(self, gateway: "Handle[Any]", message: RefreshTimeout) -> None:
        """Add to the deadline of a running attempt (behaviour-core 2.10)."""
        task = self._running_attempt(gateway, message)
        if task is None:
            return
        assert task.execution_deadline is not None
        task.execution_deadline += message.increment_us
        self._set_deadline(task, task.execution_deadline)
        self._save(task)
        text = f"execution timeout extended by {message.increment_us / 1e6:g} s"
        self._note(task, TaskEventKind.TIMEOUT_REFRESHED, text.encode())
        self._reply(gateway, message.request_id, task.execution_deadline)
        self._arm()

    def release_slot(self, gateway: "Handle[Any]", message: ReleaseSlot) -> None:
        """Give an attempt's slot back while it runs on; its place with the worker stays, so that a cancel reaches it."""
        task = self._running_attempt(gateway, message)
        if task is None:
            return
        turn = Turn()
        if not task.is_slot_released:
            assert task.worker_id is not None
            task.is_slot_released = True
            if task.batch is not None:
                self._give_up_batch_slot(task, task.batch, turn)
            else:
                turn.freed.append((task.worker_id, task.id, task.attempt))
            self._save(task)
            self._note(task, TaskEventKind.SLOT_RELEASED, b"")
        self._reply(gateway, message.request_id, None)
        self._close(turn)

    def _running_attempt(
        self, gateway: "Handle[Any]", message: RefreshTimeout | ReleaseSlot
    ) -> TaskRun | None:
        task = self._live.get(message.task_run_id)
        if task is None or task.state not in HELD_STATES:
            text = f"task run {message.task_run_id} not found, or no attempt of it is running"
            self._refuse(gateway, message.request_id, Refused(Code.NOT_FOUND, text))
            return None
        return task


def _live_row(row: FinishedTaskRun) -> TaskRunRow:
    """The live row of what had ended."""
    return TaskRunRow(
        id=row.id,
        tenant_id=row.tenant_id,
        run_id=row.run_id,
        workflow_id=row.workflow_id,
        workflow_version_id=row.workflow_version_id,
        step_index=row.step_index,
        state=S.WAITING,
        attempt=row.attempt,
        app_retries=0,
        internal_retries=0,
        priority=row.priority,
        queue_priority=row.priority,
        seq=0,
        spill_queue=None,
        created_at=row.created_at,
        queued_at=row.queued_at,
        schedule_deadline=None,
        execution_deadline=None,
        assigned_at=None,
        started_at=None,
        worker_id=None,
        **_origin(row),
        metadata=row.metadata,
        input=row.input,
        idempotency_key=row.idempotency_key,
    )


def _origin(row: FinishedTaskRun) -> dict[str, Any]:
    """Where a run came from."""
    return {
        name: getattr(row, name)
        for name in (
            "parent_task_run_id",
            "child_index",
            "child_key",
            "triggering_event_id",
            "triggering_event_key",
            "desired_worker_id",
            "desired_labels",
            "filter",
        )
    }
