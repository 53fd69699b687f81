"""How a run of several tasks goes on when one of them has ended: the part of `RunTracker` that asks `gates`.

A task comes into being when its parents have decided: queued, waiting for a sleep or an event, or ended at once. What follows from an end
is recorded in the same handler as the end, or, for a task with very many children, in the next ones; a crash in between is made good at
recovery, where every undecided task is judged again.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from broadaxe_actors.cel import EvaluationFailed, Expression
from broadaxe_actors.gates import Gate, Verdict
from broadaxe_actors.messages import RunEventKind
from broadaxe_actors.run import SKIPPED_OUTPUT, Ended, Run, make_ended
from broadaxe_actors.run_tracker.endings import AFTERWARDS, END_EVENTS, REWATCH, Endings
from broadaxe_actors.states import Transition, after
from broadaxe_actors.task_run import RETRY_PRIORITY, TaskRun
from broadaxe_actors.turn import Turn
from broadaxe_actors.wait_index import Wait
from broadaxe_actors.waits import Waits
from broadaxe_storage.records import TaskEventKind, TaskRunState

S = TaskRunState
_NO_RESULTS: Mapping[Expression, bool] = MappingProxyType({})
_WITH_OUTPUT = (S.COMPLETED, S.SKIPPED)
SLICE = 200
"""Tasks that hear of an end in one turn."""
_ENDS = {Verdict.SKIP: S.SKIPPED, Verdict.CANCEL: S.CANCELLED, Verdict.DEAD: S.CANCELLED}


class Progress(Endings):
    """See the module."""

    # ------------------------------------------------------------ consequences of an end

    def _progress(self, turn: Turn) -> None:
        left = SLICE
        while self._to_progress:
            if not left:
                self.me.progress_more.send()
                return
            left -= 1
            run, index, child = self._to_progress.popleft()
            if self._runs.get(run.id) is not run:
                continue  # it has ended, or was replayed since
            if child == AFTERWARDS:
                self._judge_on_failure(run, turn)
                if run.admission is not None and run.is_but_on_failure:
                    self._give_up_places(run, turn)  # the on-failure task needs none (behaviour-core 6.8)
                if not run.open_count:
                    self._end_run(run, turn)
            elif child == REWATCH:
                for task in run.task_runs():
                    if task.state == S.WAITING and task.waits is not None:
                        self._watch(task, run.gate(task.step.index), turn)
            else:
                more = self._to_progress[0] if self._to_progress else None
                has_more = more is not None and more[0] is run and more[2] == child
                self._hear(run, index, child, turn, is_judged=not has_more)

    def progress_more(self) -> None:
        """More tasks have yet to hear of an end."""
        self._close(Turn())

    def _hear(self, run: Run, parent: int, child: int, turn: Turn, *, is_judged: bool) -> None:
        """A task hears how one of its parents ended. It is not judged yet if it hears of another right after."""
        ended = run.entries[parent]
        if type(ended) is not Ended:
            return
        results = _NO_RESULTS
        expressions = run.version.steps[child].plan.expressions[parent]
        if expressions and ended.state in _WITH_OUTPUT:
            values = {"output": _output_of(ended), "input": b"{}"}
            if not all(expression.is_cheap(values) for expression in expressions):
                self.fetch(
                    self._evaluate,
                    expressions,
                    values,
                    then=self.me.evaluated,
                    context=(run.id, parent, child, ended.attempt),
                )
                return
            try:
                results = {expression: bool(expression.evaluate(values)) for expression in expressions}
            except EvaluationFailed as error:
                self._fail_to_judge(run, parent, child, str(error), turn)
                return
        self._apply(run, parent, ended, child, results, turn, is_judged=is_judged)

    async def _evaluate(
        self, expressions: Sequence[Expression], values: Mapping[str, bytes]
    ) -> dict[Expression, bool]:
        return {
            expression: bool(await self._evaluator.evaluate_apart(expression, values))
            for expression in expressions
        }

    def evaluated(
        self,
        context: tuple[str, int, int, int],
        results: Mapping[Expression, bool] | None,
        error: BaseException | None,
    ) -> None:
        """Expressions on the output of a parent, evaluated outside of this process."""
        run_id, parent, child, attempt = context
        run = self._runs.get(run_id)
        ended = run.entries[parent] if run is not None else None
        if run is None or type(ended) is not Ended or ended.attempt != attempt:
            return
        turn = Turn()
        if error is not None:
            if not isinstance(error, EvaluationFailed):
                raise error
            self._fail_to_judge(run, parent, child, str(error), turn)
        else:
            assert results is not None
            self._apply(run, parent, ended, child, results, turn)
        self._close(turn)

    def _apply(
        self,
        run: Run,
        parent: int,
        ended: Ended,
        child: int,
        results: Mapping[Expression, bool],
        turn: Turn,
        *,
        is_judged: bool = True,
    ) -> None:
        gate = run.gates.get(child) or run.gate(child)
        gate.parent_ended(parent, ended.state, is_skipped=ended.is_skipped, results=results)
        if not is_judged:
            return
        entry = run.entries[child]
        if entry is None:
            self._judge(run, child, gate, turn)
        elif type(entry) is TaskRun and entry.state == S.WAITING:
            if entry.waits is None:
                self._judge(run, child, gate, turn)
            else:
                self._judge_waiting(entry, gate, turn)

    def _fail_to_judge(self, run: Run, parent: int, child: int, cause: str, turn: Turn) -> None:
        if self._is_decided(run, child):
            return
        names = [run.version.steps[index].ref.task_name for index in (child, parent)]
        error = f"a condition of task {names[0]!r} on the output of its parent {names[1]!r} could not be evaluated: {cause}"
        self._bear_ended(run, child, S.FAILED, error.encode(), turn)

    def _is_decided(self, run: Run, index: int) -> bool:
        entry = run.entries[index]
        return not (
            entry is None or (type(entry) is TaskRun and entry.state == S.WAITING and entry.waits is None)
        )

    # ------------------------------------------------------------ verdicts

    def _judge(self, run: Run, index: int, gate: Gate, turn: Turn) -> None:
        """Act on what the parents of an undecided task say."""
        verdict = gate.first_verdict()
        if verdict is Verdict.OPEN:
            return
        if verdict is Verdict.QUEUE:
            self._admit(run, index, turn)
        elif verdict is Verdict.WAIT:
            self._begin_waiting(run, index, gate, turn)
        else:
            reason = gate.dead_reason().encode() if verdict is Verdict.DEAD else None
            self._bear_ended(run, index, _ENDS[verdict], reason, turn)

    def _judge_all(self, run: Run, turn: Turn) -> None:
        """Judge every undecided task of a run that has just come into being, was read from the record, or begins anew."""
        ended = {index for index, _ in run.ended()}
        for step in run.version.steps:
            # What ended before this moment counts at one moment: child by child, so that all of it is heard before the verdict.
            for parent in step.plan.parents:
                if parent in ended:
                    self._to_progress.append((run, parent, step.index))
        for index in run.undecided():
            plan = run.version.steps[index].plan
            if not plan.parents and not plan.is_on_failure:
                self._judge(run, index, run.gate(index), turn)
        self._to_progress.append((run, 0, REWATCH))
        self._to_progress.append((run, 0, AFTERWARDS))

    def _judge_on_failure(self, run: Run, turn: Turn) -> None:
        """The on-failure task runs once a task has failed for good, and is skipped if none can any more (behaviour-core 6.10)."""
        index = run.version.on_failure_index
        if index is None or self._is_decided(run, index):
            return
        if run.failures():
            self._admit(run, index, turn)
        elif run.open_count == 1:
            self._bear_ended(run, index, S.SKIPPED, None, turn)

    # ------------------------------------------------------------ births

    def _task_of(self, run: Run, index: int) -> tuple[TaskRun, bool]:
        """The task run of an undecided task, and whether it comes into being just now."""
        entry = run.entries[index]
        if type(entry) is TaskRun:
            return entry, False
        now = self.clock.now()
        return TaskRun.born(run, run.version.steps[index], self.rng.uuid7(now), now), True

    def _enter(self, task: TaskRun, turn: Turn, *, is_new: bool) -> None:
        """Record a task run that is live from now on, and tell who follows its run that it exists."""
        assert task.run is not None
        if is_new:
            self._live[task.id] = task
            task.run.put(task)
            self.record(task.row(self._tenant_id))
            self._telemetry.count("created_tasks", self._tenant_id)
        else:
            self._save(task)
        if self._subscriptions.are_any:
            self._tell(task, RunEventKind.STARTED, b"", turn)

    def _wake(self, task: TaskRun, turn: Turn) -> None:
        """Nothing keeps a task run from a slot any more. The caller records it."""
        task.state = after(task.state, Transition.WAKE)
        task.queue_priority = RETRY_PRIORITY if task.attempt else task.priority
        self._queue_up(task, turn)

    def _admit(self, run: Run, index: int, turn: Turn) -> None:
        """A task may run."""
        task, is_new = self._task_of(run, index)
        self._at = task.id
        self._wake(task, turn)
        self._enter(task, turn, is_new=is_new)

    def _bear_ended(self, run: Run, index: int, state: TaskRunState, error: bytes | None, turn: Turn) -> None:
        """A task ends without having run."""
        task, is_new = self._task_of(run, index)
        self._at = task.id
        task.state = state
        if not is_new:
            self._finish(task, turn, None, error)
            return
        self.record(task.row(self._tenant_id)._replace(finished_at=self.clock.now(), error=error))
        self._telemetry.count("created_tasks", self._tenant_id)
        if self._subscriptions.are_any:
            self._tell(task, RunEventKind.STARTED, b"", turn)
            self._tell(task, END_EVENTS[state], error or b"", turn)
        self._note_end(run, index, make_ended(task.id, state, task.attempt, None, error, None))

    # ------------------------------------------------------------ sleeps and events

    def _begin_waiting(self, run: Run, index: int, gate: Gate, turn: Turn) -> None:
        """The second stage of a task's conditions begins."""
        plan = run.version.steps[index].plan
        task, is_new = self._task_of(run, index)
        self._at = task.id
        task.waits = Waits(self.clock.now(), is_checked=not plan.has_event_waits)
        self._enter(task, turn, is_new=is_new)
        self._watch(task, gate, turn)

    def _judge_lone(self, task: TaskRun, turn: Turn) -> None:
        """A run of one task begins anew: it waits for what it has to, or for a slot."""
        plan = task.step.plan
        if plan.waits:
            task.waits = Waits(self.clock.now(), is_checked=not plan.has_event_waits)
            self._save(task)
            self._watch(task, Gate(plan), turn)
        else:
            self._wake(task, turn)
            self._save(task)

    def _watch(self, task: TaskRun, gate: Gate, turn: Turn) -> None:
        """Have a waiting task run told of its events, and see whether something is decided already."""
        assert task.waits is not None
        plan = task.step.plan
        if not task.waits.is_checked:
            # A replay waits for what comes after it.
            began = task.run.created_at if task.run is not None else task.created_at
            since = task.queued_at if task.attempt else began
            wanted = [plan.waits[number] for number in task.waits.open_events(plan)]
            turn.waits.extend(
                Wait(
                    task.id,
                    task.attempt,
                    rule.number,
                    rule.event_key or "",
                    rule.event_scope,
                    rule.expression,
                    since,
                )
                for rule in wanted
                if gate.is_needed(rule)
            )
            if not any(gate.is_needed(rule) for rule in wanted):
                task.waits.is_checked = True
        self._judge_waiting(task, gate, turn)

    def _gate_of(self, task: TaskRun) -> Gate:
        return task.run.gate(task.step.index) if task.run is not None else Gate(task.step.plan)

    def _judge_waiting(self, task: TaskRun, gate: Gate, turn: Turn) -> None:
        """Act on what the waits of a task run say by now."""
        waits = task.waits
        assert waits is not None
        plan = task.step.plan
        now = self.clock.now()
        self._set_deadline(task, waits.next_deadline(plan, now))
        if not waits.is_checked:
            return
        verdict = gate.second_verdict(waits.met(plan, now))
        if verdict is Verdict.OPEN:
            return
        self._at = task.id
        self._release(task, turn)
        waits.until = now
        if verdict is Verdict.QUEUE:
            self._wake(task, turn)
            self._save(task)
        else:
            task.state = _ENDS[verdict]
            self._finish(task, turn, None, None)

    def waits_met(self, matches: tuple[tuple[str, int, int, str], ...]) -> None:
        """`EventRouter` found events that end waits: (task run, attempt, number of the wait, payload as JSON text)."""
        turn = Turn()
        for task_run_id, attempt, number, payload in matches:
            self._meet(task_run_id, attempt, number, payload, turn)
        self._close(turn)

    def _waits_of(self, task_run_id: str, attempt: int) -> tuple[TaskRun, Waits] | None:
        """A task run, and what it waits for, unless it does so no more."""
        task = self._live.get(task_run_id)
        if task is None or task.state != S.WAITING or task.waits is None or task.attempt != attempt:
            return None
        return task, task.waits

    def _meet(self, task_run_id: str, attempt: int, number: int, payload: str, turn: Turn) -> None:
        found = self._waits_of(task_run_id, attempt)
        if found is None:
            return
        task, waits = found
        if waits.meet(number, payload):
            self._judge_waiting(task, self._gate_of(task), turn)
            if task.state == S.WAITING:
                self._save(task)

    def waits_checked(self, items: tuple[tuple[str, int], ...]) -> None:
        """`EventRouter` has looked at the events that came before these task runs (id, attempt) began to wait."""
        turn = Turn()
        for task_run_id, attempt in items:
            found = self._waits_of(task_run_id, attempt)
            if found is not None:
                task, waits = found
                waits.is_checked = True
                self._judge_waiting(task, self._gate_of(task), turn)
        self._close(turn)

    def wait_failed(self, task_run_id: str, attempt: int, text: str) -> None:
        """An expression could not be evaluated on an event, which thus ends no wait; the task run's history tells."""
        task = self._live.get(task_run_id)
        if task is not None and task.attempt == attempt:
            self._note(task, TaskEventKind.CONDITION_FAILED, text.encode())


def _output_of(ended: Ended) -> bytes:
    """The output as expressions see it: an object."""
    if ended.state == S.SKIPPED:
        return SKIPPED_OUTPUT
    output = (ended.output or b"").strip()
    return output if output.startswith(b"{") else b"{}"
