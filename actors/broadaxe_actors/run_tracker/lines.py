"""Lines: which task runs wait for a slot, in memory and in Postgres. The part of `RunTracker` that feeds `TenantQueue`.

A line is a sub-queue at one priority. What came after others that wait in Postgres is held back in memory until those have been read.
A run of several tasks may wait in Postgres as a whole; it is hydrated when the first of its task runs is taken.
"""

from typing import NamedTuple

from broadaxe_actors.matching import Ready
from broadaxe_actors.run import Run, Spilled, ended_of
from broadaxe_actors.run_tracker.routing import Routing
from broadaxe_actors.states import Transition, after
from broadaxe_actors.task_run import RETRY_PRIORITY, TaskRun
from broadaxe_actors.turn import Turn
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import RUN_STEP, TaskRunRow, TaskRunState

S = TaskRunState
Line = tuple[str, int]


class Page(NamedTuple):
    """Rows that waited in Postgres, with all rows of the runs of several tasks that they belong to."""

    rows: list[TaskRunRow]
    companions: list[TaskRunRow]


class Lines(Routing):
    """See the module."""

    # ------------------------------------------------------------ in memory

    def _line_up(self, task: TaskRun, turn: Turn) -> None:
        if self._pauses and self._hold_aside(task):
            return
        self._set_deadline(task, task.schedule_deadline)
        step = task.step
        if step.is_gated and not self._is_admitted(task, turn):
            return
        if task.batching is not None:
            ready = self._units_first(task, turn)
            if ready is None:
                self._batches.to_group.append((task.id, task.attempt))
            else:
                turn.ready.append(ready)
        elif step.is_routed or task.desired_labels is not None:
            ready = self._route(task, turn)
            if ready is not None:
                turn.ready.append(ready)
        else:
            turn.ready.append(Ready(task.id, task.attempt, step.demand, "", task.queue_priority, task.seq))

    def _enter_line(self, task: TaskRun) -> None:
        """Count a task run among those that wait in memory."""
        task.is_in_line = True
        self._ledger.enter_memory(task.line)

    def _leave_line(self, task: TaskRun) -> None:
        self._counts.unqueue(task)
        if self._pauses:
            self._unhold(task)
        line = task.line
        if self._held_back and self._held_back.get(line, {}).pop(task.id, None) is not None:
            return
        if task.is_in_line:
            task.is_in_line = False
            if self._ledger.leave(line):
                self._page_in(line)

    def _leave_buffer(self, task: TaskRun, turn: Turn) -> None:
        """A task run waits for no batch any more, if it did."""
        batching = task.batching
        if batching is not None and batching.is_buffered:
            assert batching.key is not None
            batching.is_buffered = False
            turn.of_groups().left.setdefault(batching.key, []).append((task.id, task.attempt))

    def _assign(self, task: TaskRun, worker_id: str, now: int, turn: Turn) -> None:
        """A waiting task run goes to a worker. The caller frees or takes slots, records it and tells the worker."""
        task.state = after(task.state, Transition.ASSIGN)
        self._leave_line(task)
        task.worker_id = worker_id
        task.assigned_at = now
        task.started_at = None
        task.execution_deadline = now + task.step.execution_timeout
        self._deadlines.set(task.id, task.execution_deadline)
        self._counts.run(task)
        if task.run is not None:
            self._found_worker(task.run, worker_id, turn)

    def _queue_up(self, task: TaskRun, turn: Turn) -> None:
        """To the end of its line, once that is committed. `task.state` is QUEUED already; the caller records it."""
        now = self.clock.now()
        task.seq = self.next_seq()
        task.queued_at = now
        task.schedule_deadline = now + task.step.schedule_timeout
        task.is_slot_released = False
        task.worker_id = task.assigned_at = task.started_at = task.execution_deadline = None
        self._deadlines.drop(task.id)
        self._counts.queue(task)
        turn.queued.append((task.id, task.attempt))

    def queued(self, items: tuple[tuple[str, int], ...]) -> None:
        """The commit of what put task runs into line: they may run."""
        turn = Turn()
        for task_run_id, attempt in items:
            task = self._live.get(task_run_id)
            if task is None or task.state != S.QUEUED or task.attempt != attempt or task.is_in_line:
                continue
            self._find_line(task)
            line = task.line
            if self._ledger.waits_in_postgres(line):
                self._held_back.setdefault(line, {})[task.id] = task
                self._set_deadline(task, self._waits_until(task))
            else:
                self._enter_line(task)
                self._line_up(task, turn)
        self._close(turn)

    def _requeue(self, task: TaskRun, turn: Turn) -> None:
        """Back to the queue, before all new work, once that is committed. `task.state` is QUEUED already."""
        task.is_doubtful = False
        task.queue_priority = RETRY_PRIORITY
        self._queue_up(task, turn)
        self._save(task)

    def _let_go(self, line: Line, before_seq: int | None, turn: Turn) -> None:
        """Line up what was held back, up to a place in line, or all of it."""
        held = self._held_back.get(line)
        if held is None:
            return
        for task in list(held.values()):
            if before_seq is not None and task.seq >= before_seq:
                return
            del held[task.id]
            self._enter_line(task)
            self._line_up(task, turn)
        del self._held_back[line]

    # ------------------------------------------------------------ from Postgres

    def _page_in(self, line: Line) -> None:
        request = self._ledger.next_page(line)
        if request is not None:
            self.fetch(self._load_page, *request, then=self.me.paged_in, context=(line, self._spill_commits))

    async def _load_page(self, queue_key: str, queue_priority: int, after_seq: int, limit: int) -> Page:
        rows = await self._store.page_spilled(self._tenant_id, queue_key, queue_priority, after_seq, limit)
        return await self._with_companions(rows)

    async def _load_expired(self, now: int, except_workflows: tuple[str, ...]) -> Page:
        limit = self._settings.queue_page
        rows = await self._store.load_expired_spilled(self._tenant_id, now, limit, except_workflows)
        return await self._with_companions(rows)

    async def _with_companions(self, rows: list[TaskRunRow]) -> Page:
        run_ids = sorted(
            {row.run_id for row in rows if row.run_id != row.id and row.run_id not in self._runs}
        )
        if not run_ids:
            return Page(rows, [])
        return Page(rows, await self._store.fetch_live(self._tenant_id, run_ids))

    def paged_in(self, context: tuple[Line, int], page: Page | None, error: BaseException | None) -> None:
        """A page of a line that waited in Postgres."""
        line, spill_commits = context
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self.set_timer(("page", line), 250_000, self.me.page_again, line)
            return
        assert page is not None
        turn = Turn()
        rows = page.rows
        self._hydrate(page.companions)
        # What was taken out of turn while the page was read is live, or has ended again.
        fresh = [row for row in rows if not self._is_known(row.id) and self._may_take(row)]
        size = sum(len(row.input) + len(row.metadata) for row in fresh)
        self._ledger.paged(line, len(fresh), rows[-1].seq if rows else 0, size)
        for row in fresh:
            self._let_go(line, row.seq, turn)
            task = self._put_live(row)
            task.is_in_line = True
            self._line_up(task, turn)
        if not rows and spill_commits == self._spill_commits and not self._uncommitted_spills:
            self._ledger.forget_spilled(line)
        if not self._ledger.waits_in_postgres(line):
            self._let_go(line, None, turn)
        elif rows or not self._uncommitted_spills:
            self._page_in(line)
        self._close(turn)

    def page_again(self, line: Line) -> None:
        """Postgres may be back."""
        self._ledger.page_failed(line)
        self._page_in(line)

    def _may_take(self, row: TaskRunRow) -> bool:
        """Whether a row that was read is still what the run knows of it: the run may have been cancelled meanwhile."""
        if row.id == row.run_id:
            return True
        run = self._runs.get(row.run_id)
        return run is not None and type(run.entries[row.step_index]) is Spilled

    def _take_from_postgres(self, row: TaskRunRow, turn: Turn) -> TaskRun | None:
        """A spilled task run, out of turn. Its run has been hydrated."""
        if row.id in self._live:
            return self._live[row.id]
        if self._has_ended(row.id) or row.step_index == RUN_STEP or not self._may_take(row):
            return None
        line = (row.spill_queue or "", row.queue_priority)
        self._ledger.left_postgres(line)
        if not self._ledger.waits_in_postgres(line):
            self._let_go(line, None, turn)
        task = self._put_live(row)
        self._enter_line(task)
        self._line_up(task, turn)
        return task

    def _take_all(self, rows: list[TaskRunRow], turn: Turn) -> None:
        """Everything that a look-up of live rows found and memory does not hold."""
        self._hydrate(rows)
        for row in rows:
            if row.spill_queue is not None and row.step_index != RUN_STEP:
                self._take_from_postgres(row, turn)

    def _put_live(self, row: TaskRunRow) -> TaskRun:
        version = self._version_of(row)
        run = self._runs[row.run_id] if row.id != row.run_id else None
        task = TaskRun(row, version.steps[row.step_index], is_recovered=True, run=run)
        if row.spill_queue is not None:
            task.line_key = row.spill_queue
        else:
            self._find_line(task)
        self._live[task.id] = task
        if task.state == S.QUEUED:
            self._counts.queue(task)
        self._ledger.hold_bytes(task.size)
        if run is not None:
            run.put(task)
        return task

    def _hydrate(self, rows: list[TaskRunRow]) -> None:
        """Runs that waited in Postgres as a whole come into memory; their task runs stay there until they are taken."""
        for row in rows:
            if row.step_index != RUN_STEP or row.run_id in self._runs or self._recent.has_ended(row.run_id):
                continue
            run = self._put_run(row)
            self.record(run.update_record(self._tenant_id))
            for other in rows:
                if other.run_id == run.id and other.step_index != RUN_STEP:
                    self._attach(run, other)

    def _put_run(self, row: TaskRunRow) -> Run:
        run = self._runs[row.run_id] = Run(row, self._version_of(row))
        self._ledger.hold_bytes(run.size)
        return run

    def _attach(self, run: Run, row: TaskRunRow) -> None:
        """What a run must know of a task run of its that memory does not hold."""
        ended = ended_of(row)
        if ended is not None:
            self._ledger.hold_bytes(run.settle(row.step_index, ended))
            self._settled[row.id] = run
        elif row.spill_queue is not None:
            run.spill(row.step_index, row.id, row.spill_queue)
