"""Places in concurrency groups: the part of `RunTracker` that asks for them before a task run may have a slot, and gives them up.

The chain of a task run: the entries of its workflow, then its own; it asks for one place after the other and keeps those it has. In a workflow
of several tasks the workflow's entries are the run's: it asks when its first task is ready, and holds them until it ends.
Places are kept over retries at once and over reassignments, and given up for a back-off. Keys are evaluated when they are first needed: they
depend on nothing that changes. What was running before a restart holds its places before anybody asks for one.

Source: behaviour-core 6.8.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from broadaxe_actors import cel
from broadaxe_actors.admission import Admission, GroupKey, Place, Rules, Strategy
from broadaxe_actors.concurrency import Ask
from broadaxe_actors.run import Run
from broadaxe_actors.run_tracker.pausing import Pausing
from broadaxe_actors.runtime import Directory
from broadaxe_actors.task_run import TaskRun
from broadaxe_actors.turn import Turn
from broadaxe_storage.records import TaskRunState

S = TaskRunState
NEW_STAGE_US = 1_000_000
"""Who waited at least this long for a place has its schedule timeout anew for what comes next; for less no record is worth it."""
SHOWN_KEY_CHARACTERS = 200
Member = TaskRun | Run


class Work(NamedTuple):
    """Expressions to be evaluated outside of this process."""

    member_id: str
    expressions: tuple[tuple[str, cel.Expression], ...]
    values: Mapping[str, bytes | str]


class Places(Pausing):
    """See the module."""

    def connect_groups(self, groups: "Directory[GroupKey]") -> None:
        """Where places are asked for, by group."""
        self._groups = groups

    # ------------------------------------------------------------ on the way

    def _is_admitted(self, task: TaskRun, turn: Turn) -> bool:
        """Whether a ready task run of a gated step has all its places; if not, it is lined up again when it has."""
        run = task.run
        is_free = task.step.plan.is_on_failure  # of its run's places; it has its own (behaviour-core 6.8)
        if run is not None and run.admission is not None and not is_free and not run.admission.is_complete:
            run.seekers.append((task.id, task.attempt))
            return self._go_on_seeking(run, run.admission, turn)
        return task.admission is None or self._go_on_seeking(task, task.admission, turn)

    def _go_on_seeking(self, member: Member, admission: Admission, turn: Turn) -> bool:
        """Ask for the next place, unless all are held. False while something is still to come."""
        if admission.rendered is None and not self._is_rendered(member, admission, turn):
            return False
        if admission.is_complete:
            return True
        if self._is_restoring or self._seeking.unheld:
            self._seeking.later.append(member.id)  # until all who run hold their places
        elif not admission.ticket:
            place = admission.ask(self._seeking.next_ticket(), self.clock.monotonic())
            self._flows.wait(*_counted(member, place))
            turn.asks.setdefault((place.group, place.strategy), []).append(_ask(member, admission.ticket))
        return False

    def admitted(self, key: GroupKey, items: tuple[tuple[str, int], ...]) -> None:
        """A group has places for these members, by the number of their requests."""
        turn = Turn()
        for member_id, ticket in items:
            member = self._member(member_id)
            admission = member.admission if member is not None else None
            if member is None or admission is None or admission.ticket != ticket:
                continue  # it is over; the group hears of that
            place = _counted(member, admission.admit())
            self._flows.unwait(*place)
            self._flows.hold(*place)
            waited = self.clock.monotonic() - admission.waits_since
            if not self._go_on_seeking(member, admission, turn):
                if waited >= NEW_STAGE_US:
                    self._begin_stage(member)
                continue
            self._let_in(member, turn, is_late=waited >= NEW_STAGE_US)
        self._close(turn)

    def _let_in(self, member: Member, turn: Turn, *, is_late: bool = False) -> None:
        """A member holds all its places: what waited for that goes on."""
        if is_late:
            self._begin_stage(member)
        if isinstance(member, TaskRun):
            if member.state == S.QUEUED:
                self._line_up(member, turn)
            return
        seekers, member.seekers = member.seekers, []
        for task_run_id, attempt in seekers:
            task = self._live.get(task_run_id)
            if task is not None and task.state == S.QUEUED and task.attempt == attempt:
                self._line_up(task, turn)

    def _begin_stage(self, member: Member) -> None:
        """Each stage has the schedule timeout to itself (behaviour-core 6.6)."""
        tasks = [member] if isinstance(member, TaskRun) else member.task_runs()
        for task in tasks:
            if task.state == S.QUEUED:
                task.schedule_deadline = self.clock.now() + task.step.schedule_timeout
                self._set_deadline(task, self._waits_until(task))
                self._save_soon(task)

    def displaced(self, key: GroupKey, strategy: Strategy, items: tuple[tuple[str, int], ...]) -> None:
        """A group has no room for these members: they are cancelled; their places are passed on once that is committed."""
        turn = Turn()
        for member_id, ticket in items:
            member = self._member(member_id)
            admission = member.admission if member is not None else None
            place = admission.place_of(key, ticket) if admission is not None else None
            if member is not None and place is not None:
                self._cancel_member(member, displaced_text(place, strategy).encode(), turn)
        self._close(turn)

    def _member(self, member_id: str) -> Member | None:
        # A run of several tasks and its task runs have different ids.
        return self._live.get(member_id) or self._runs.get(member_id)

    def _give_up_places(self, member: Member, turn: Turn) -> None:
        """A member holds nothing any more, once what it records now is committed."""
        if member.admission is not None:
            held, asked = member.admission.give_up()
            for place in held:
                self._flows.unhold(*_counted(member, place))
            for place in asked:
                self._flows.unwait(*_counted(member, place))
            for place in (*held, *asked):
                turn.places_left.setdefault(place.group, []).append(member.id)

    def _tell_groups(self, turn: Turn) -> None:
        for key, member_ids in turn.places_left.items():
            self.send_after_commit(self._groups.method(key, "leave"), tuple(member_ids))
        for (key, strategy), held in turn.places_held.items():
            self._groups.send(key, "hold", strategy, tuple(held))
        for (key, strategy), asks in turn.asks.items():
            self._groups.send(key, "ask", strategy, tuple(asks))
        for bucket, limit in turn.limits.items():
            self._buckets.send(bucket, "define", *limit)

    # ------------------------------------------------------------ what runs already

    def _hold_places(self, member: Member, turn: Turn) -> None:
        """A member runs, as the record or its worker says: it has its places, whatever the limits say."""
        admission = member.admission
        if admission is None or admission.is_complete:
            return
        if admission.rendered is None and not self._is_rendered(member, admission, turn):
            if admission.is_evaluating:
                self._seeking.unheld.add(member.id)
            return
        if admission.ticket:
            self._flows.unwait(*_counted(member, admission.next_place))
        ticket = self._seeking.next_ticket()
        for place in admission.hold_all(ticket):
            self._flows.hold(*_counted(member, place))
            held = turn.places_held.setdefault((place.group, place.strategy), [])
            held.append(_ask(member, ticket))

    def _hold_places_of(self, task: TaskRun, turn: Turn) -> None:
        """A task run is with a worker without having been admitted by us: it and its run have their places."""
        if task.step.is_gated:
            if task.run is not None and not task.step.plan.is_on_failure:
                self._hold_places(task.run, turn)
            self._hold_places(task, turn)

    def _hold_places_of_runs(self, turn: Turn) -> None:
        """Runs of several tasks from the record: those that had begun hold their places."""
        for run in self._runs.values():
            if run.begun_at is not None and not run.is_but_on_failure:
                self._hold_places(run, turn)

    def _record_start(self, task: TaskRun) -> None:
        """Record an assignment that is to be committed before it is told to the worker, and that its run has begun."""
        self._save(task)
        run = task.run
        if run is not None and run.admission is not None and run.begun_at is None:
            run.begun_at = task.assigned_at
            self.record(run.update_record(self._tenant_id))

    def _seek_now(self, turn: Turn) -> None:
        """Who runs holds its places: let the others ask for theirs, in the order in which they came."""
        if self._is_restoring or self._seeking.unheld:
            return
        waiting, self._seeking.later = self._seeking.later, []
        for member_id in waiting:
            member = self._member(member_id)
            if member is None or member.admission is None:
                continue
            if self._go_on_seeking(member, member.admission, turn):
                self._let_in(member, turn)

    # ------------------------------------------------------------ expressions

    def _render_if_quick(self, member: Member) -> None:
        """Evaluate what a member's definition says, if that is quick and nothing is wrong; otherwise `_is_rendered` will."""
        admission = member.admission
        if admission is None or admission.rendered is not None:
            return
        rules = self._rules_of(member)
        try:
            found = _evaluate_if_quick(rules, values_of(member))
            if isinstance(found, list):
                admission.rendered = rules.assemble(found)
        except (cel.CelError, ValueError):
            return

    def _is_rendered(self, member: Member, admission: Admission, turn: Turn) -> bool:
        """Evaluate what a member's definition says, here if that is quick. False when it is not there yet, or cannot be."""
        if admission.is_evaluating:
            return False
        rules = self._rules_of(member)
        values = values_of(member)
        found: list[Any] | str | None
        try:
            found = _evaluate_if_quick(rules, values)
        except cel.CelError as error:
            found = str(error)
        if found is None:
            admission.is_evaluating = True
            work = Work(member.id, tuple(rules.expressions()), values)
            self.fetch(self._evaluate_rules, work, then=self.me.rules_evaluated, context=member.id)
            return False
        return self._take_rendered(member, admission, rules, found, turn)

    async def _evaluate_rules(self, work: Work) -> list[Any] | str:
        """Each value, or what is wrong."""
        found: list[Any] = []
        for what, expression in work.expressions:
            try:
                found.append(await self._evaluator.evaluate_apart(expression, work.values))
            except cel.EvaluationFailed as error:
                return f"{what}: {error}"
        return found

    def rules_evaluated(
        self, member_id: str, found: list[Any] | str | None, error: BaseException | None
    ) -> None:
        """Expressions that were evaluated outside of this process."""
        if error is not None:
            raise error
        assert found is not None
        is_held = member_id in self._seeking.unheld
        self._seeking.unheld.discard(member_id)
        turn = Turn()
        member = self._member(member_id)
        admission = member.admission if member is not None else None
        if member is not None and admission is not None and admission.is_evaluating:
            admission.is_evaluating = False
            rules = self._rules_of(member)
            if self._take_rendered(member, admission, rules, found, turn):
                # A task run may have failed meanwhile, and be waiting for its next attempt.
                if is_held and not (isinstance(member, TaskRun) and member.state == S.QUEUED):
                    self._hold_places(member, turn)
                if self._go_on_seeking(member, admission, turn):
                    self._let_in(member, turn)
        if is_held:
            self._seek_now(turn)
        self._close(turn)

    def _take_rendered(
        self, member: Member, admission: Admission, rules: Rules, found: list[Any] | str, turn: Turn
    ) -> bool:
        cause = found if isinstance(found, str) else ""
        if not isinstance(found, str):
            try:
                admission.rendered = rules.assemble(found)
            except ValueError as error:
                cause = str(error)
        if cause:
            self._fail_to_render(member, cause, turn)
        return not cause

    def _fail_to_render(self, member: Member, cause: str, turn: Turn) -> None:
        """Without its keys nothing can run: it fails at once, and is not retried (behaviour-core 6.8)."""
        tasks = [member] if isinstance(member, TaskRun) else member.task_runs()
        for task in tasks:
            if isinstance(member, Run) and task.state != S.QUEUED:
                continue
            name = task.step.ref.task_name
            self._fail_for_good(task, f"task {name!r} cannot be admitted: {cause}".encode(), turn)

    def _rules_of(self, member: Member) -> Rules:
        rules = member.step.rules if isinstance(member, TaskRun) else member.version.run_rules
        assert rules is not None
        return rules

    # ------------------------------------------------------------ what other parts do

    def _line_up(self, task: TaskRun, turn: Turn) -> None:
        """`lines`: a task run is ready for the next stage."""
        raise NotImplementedError

    def _cancel_member(self, member: Member, reason: bytes, turn: Turn) -> None:
        """`endings`: end a task run, or all of a run."""
        raise NotImplementedError

    def _fail_for_good(self, task: TaskRun, error: bytes, turn: Turn) -> None:
        """`endings`: a task run that no worker has fails, whatever retries it has."""
        raise NotImplementedError


def shown(key: str) -> str:
    """A key as texts have it."""
    return repr(key if len(key) <= SHOWN_KEY_CHARACTERS else f"{key[: SHOWN_KEY_CHARACTERS - 3]}...")


def displaced_text(place: Place, strategy: Strategy) -> str:
    """Why a member was cancelled."""
    return (
        f"cancelled by concurrency strategy {strategy.name}: only {strategy.max_runs} may be in group {shown(place.group.key)} "
        f"of {place.expression!r}"
    )


def place_waited_for(task: TaskRun) -> Place | None:
    """The place for want of which a task run waits, if that is why."""
    return next((admission.next_place for admission in admissions_of(task) if admission.ticket), None)


def admissions_of(task: TaskRun) -> list[Admission]:
    """What a task run's run, and it itself, need beside a slot."""
    run = task.run
    both = (run.admission if run is not None else None, task.admission)
    return [admission for admission in both if admission is not None]


def waiting_text(place: Place) -> str:
    """What who waits for a place waits for."""
    return (
        f"no place in concurrency group {shown(place.group.key)} of {place.expression!r} "
        f"(max_runs {place.strategy.max_runs}) came free"
    )


def _evaluate_if_quick(rules: Rules, values: Mapping[str, bytes | str]) -> list[Any] | str | None:
    """Each value, or what is wrong; None if that may take long. Raises `CelError` for what does not compile."""
    expressions = rules.expressions()
    if not all(expression.is_cheap(values) for _, expression in expressions):
        return None
    found: list[Any] = []
    for what, expression in expressions:
        try:
            found.append(expression.evaluate(values))
        except cel.EvaluationFailed as error:
            return f"{what}: {error}"
    return found


def values_of(member: Member) -> Mapping[str, bytes | str]:
    """What expressions see of a member."""
    return {
        "input": member.input or b"{}",
        "additional_metadata": member.metadata,
        "workflow_run_id": member.run_id if isinstance(member, TaskRun) else member.id,
    }


def _counted(member: Member, place: Place) -> tuple[str, str, str, str]:
    """How task stats count a place: a run's as those of its first task."""
    step = member.step if isinstance(member, TaskRun) else member.version.steps[0]
    return step.definition.action, place.expression, place.strategy.name, place.group.key


def _ask(member: Member, ticket: int) -> Ask:
    rank = (member.created_at, member.id)
    if isinstance(member, TaskRun):
        return Ask(member.id, ticket, member.queue_priority, rank, is_again=member.attempt > 0)
    return Ask(member.id, ticket, member.priority, rank, is_again=False)
