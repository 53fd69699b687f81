"""What clients ask of crons and scheduled runs, done in the rounds of `Timetable`. A part of it.

May touch the runtime, `timers` and the messages.
"""

import difflib
from typing import Any, NamedTuple

from broadaxe_actors import cron_expression, timers
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    CreateCron,
    DeleteTimers,
    EnableCron,
    MoveScheduledRuns,
    Refusal,
    Reply,
    RunTimer,
    ScheduleRuns,
    TimerProblem,
)
from broadaxe_actors.runtime import Actor, Handle
from broadaxe_actors.timers import TimedStart
from broadaxe_storage.records_timers import (
    CronChange,
    CronRow,
    ScheduledRunChange,
    ScheduledRunRow,
    Timer,
    TimerDrop,
    TimerKind,
)


class WorkflowFacts(NamedTuple):
    """The latest version of a workflow."""

    workflow_id: str
    version_id: str
    version_number: int
    version_created_at: int


class Start(NamedTuple):
    """A run that the tracker was asked to make."""

    row: CronRow | ScheduledRunRow
    start: TimedStart
    asked: tuple[Handle[Any], RunTimer] | None
    """Who wanted it; None for one that was due."""
    tick: timers.Tick | None = None


class Round:
    """See the module."""

    __slots__ = ("asked", "crons", "due", "names", "open", "scheduled", "touched")

    def __init__(self, due: list[Timer], asked: list[tuple[Handle[Any], Any]]) -> None:
        self.due = due
        self.asked = asked
        self.crons: dict[str, CronRow] = {}
        self.scheduled: dict[str, ScheduledRunRow] = {}
        self.names: dict[int, str | None] = {}
        """By place of a `CreateCron` among those asked: the cron of that name, if there is one."""
        self.touched: set[str] = set()
        """Timers of which something is recorded: one record a timer and round."""
        self.open: dict[int, Start] = {}
        """By number: what the tracker has not answered."""


class Requests(Actor):
    """See the module."""

    _tenant_id: str
    _workflows: dict[str, WorkflowFacts]

    def _facts(self, gateway: "Handle[Any]", message: ScheduleRuns | CreateCron) -> WorkflowFacts | None:
        facts = self._workflows.get(message.workflow_name)
        if facts is None:
            close = difflib.get_close_matches(message.workflow_name, self._workflows, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            text = f"workflow not found: {message.workflow_name!r} is not registered{hint} (a worker registers its workflows when it starts)"
            self._refuse(gateway, message.request_id, Refused(Code.NOT_FOUND, text))
        return facts

    def _reply(self, gateway: "Handle[Any]", request_id: int, value: object) -> None:
        self.send_after_commit(gateway.deliver, (Reply(request_id, value),))

    def _refuse(self, gateway: "Handle[Any]", request_id: int, refused: Refused) -> None:
        self.send_after_commit(gateway.deliver, (Refusal(request_id, refused.code, refused.message),))

    # ------------------------------------------------------------ what was asked

    def _do(self, current: Round, place: int, gateway: "Handle[Any]", message: Any) -> bool:
        """Do what somebody asked. False: not in this round."""
        if not current.touched.isdisjoint(ids_of(message)):
            return False
        kind = type(message)
        if kind is CreateCron:
            if current.touched and (message.workflow_name, message.name) in {
                (row.workflow_name, row.name) for row in current.crons.values()
            }:
                return False
            self._create_cron(current, gateway, message, current.names.get(place))
        elif kind is EnableCron:
            self._enable(current, gateway, message)
        elif kind is MoveScheduledRuns:
            self._move(current, gateway, message)
        elif kind is DeleteTimers:
            self._delete(current, gateway, message)
        else:
            return self._run_now(current, gateway, message)
        return True

    def _create_cron(
        self, current: Round, gateway: "Handle[Any]", message: CreateCron, existing: str | None
    ) -> None:
        facts = self._facts(gateway, message)
        if facts is None:
            return
        now = self.clock.now()
        where = f"cron {message.name!r} of workflow {message.workflow_name!r}"
        if existing is not None:
            text = f"{where} exists already with the expression {message.expression!r} ({existing})"
            self._refuse(gateway, message.request_id, Refused(Code.ALREADY_EXISTS, text))
            return
        try:
            next_at = cron_expression.check(message.expression, now)
        except cron_expression.InvalidCron as error:
            text = f"{where}: cron expression {message.expression!r} is not valid: {error}"
            self._refuse(gateway, message.request_id, Refused(Code.INVALID_ARGUMENT, text))
            return
        row = CronRow(
            id=self.rng.uuid7(now),
            tenant_id=self._tenant_id,
            workflow_id=facts.workflow_id,
            workflow_name=message.workflow_name,
            name=message.name,
            expression=message.expression,
            is_declared=False,
            is_enabled=True,
            priority=message.priority,
            next_at=next_at,
            last_tick_at=None,
            error=None,
            created_at=now,
            updated_at=now,
            metadata=message.metadata,
            input=message.input,
        )
        self._touch(current, row)
        self.record(row)
        self._hint_cron(row.id, next_at)
        self._reply(gateway, message.request_id, row.id)

    def _touch(self, current: Round, row: CronRow | ScheduledRunRow) -> None:
        current.touched.add(row.id)
        if isinstance(row, CronRow):
            current.crons[row.id] = row
        else:
            current.scheduled[row.id] = row

    def _enable(self, current: Round, gateway: "Handle[Any]", message: EnableCron) -> None:
        row = current.crons.get(message.cron_id)
        if row is None:
            text = f"cron {message.cron_id} is not known"
            self._refuse(gateway, message.request_id, Refused(Code.NOT_FOUND, text))
            return
        if row.is_enabled != message.is_enabled:
            now = self.clock.now()
            next_at = timers.next_tick(row, now) if message.is_enabled else None
            self.record(CronChange(row.id, row.tenant_id, None, message.is_enabled, next_at, row.error, now))
            self._touch(current, row._replace(is_enabled=message.is_enabled, next_at=next_at))
            self._hint_cron(row.id, next_at)
        self._reply(gateway, message.request_id, None)

    def _move(self, current: Round, gateway: "Handle[Any]", message: MoveScheduledRuns) -> None:
        now = self.clock.now()
        problems: list[TimerProblem | None] = []
        moved: dict[str, ScheduledRunChange] = {}
        for scheduled_id, at in message.moves:
            row = current.scheduled.get(scheduled_id)
            problem = self._fixed(scheduled_id, row)
            problems.append(problem)
            if problem is None:
                assert row is not None
                moved[row.id] = ScheduledRunChange(row.id, row.tenant_id, at, None, None, None, now)
        for change in moved.values():
            self.record(change)
            row = current.scheduled[change.id]
            self._touch(current, row._replace(trigger_at=change.trigger_at))
            self._hint(Timer(change.trigger_at, change.id, TimerKind.SCHEDULED))
        self._reply(gateway, message.request_id, tuple(problems))

    def _fixed(self, scheduled_id: str, row: ScheduledRunRow | None) -> TimerProblem | None:
        """Why a scheduled run cannot be moved."""
        if row is None:
            return TimerProblem(Code.NOT_FOUND, f"scheduled run {scheduled_id} is not known")
        if row.fired_at is not None:
            text = f"scheduled run {row.id} has been triggered already: it cannot be moved any more"
            return TimerProblem(Code.FAILED_PRECONDITION, text)
        if row.is_declared:
            text = f"scheduled run {row.id} was declared in code: it can only be changed there"
            return TimerProblem(Code.INVALID_ARGUMENT, text)
        return None

    def _delete(self, current: Round, gateway: "Handle[Any]", message: DeleteTimers) -> None:
        is_cron = message.kind == TimerKind.CRON
        rows: dict[str, Any] = dict(current.crons) if is_cron else dict(current.scheduled)
        problems: list[TimerProblem | None] = []
        for timer_id in message.ids:
            row = rows.get(timer_id)
            if row is None:
                what = "cron" if is_cron else "scheduled run"
                problems.append(TimerProblem(Code.NOT_FOUND, f"{what} {timer_id} is not known"))
            elif row.is_declared and not is_cron:
                text = f"scheduled run {row.id} was declared in code: it can only be deleted there"
                problems.append(TimerProblem(Code.INVALID_ARGUMENT, text))
            else:
                problems.append(None)
                if timer_id not in current.touched:
                    current.touched.add(timer_id)
                    self.record(TimerDrop(row.id, row.tenant_id))
        for timer_id in current.touched:
            if timer_id in message.ids:
                (current.crons if is_cron else current.scheduled).pop(timer_id, None)
        self._reply(gateway, message.request_id, tuple(problems))

    def _run_now(self, current: Round, gateway: "Handle[Any]", message: RunTimer) -> bool:
        now = self.clock.now()
        is_cron = message.kind == TimerKind.CRON
        row = (current.crons if is_cron else current.scheduled).get(message.timer_id)
        if row is None:
            what = "cron" if is_cron else "scheduled run"
            text = f"{what} {message.timer_id} is not known"
            self._refuse(gateway, message.request_id, Refused(Code.NOT_FOUND, text))
        elif row.input is None:
            return False
        elif isinstance(row, CronRow):
            start = timers.start_of_cron(row, now, self.rng.uuid7(now), None)
            self._send(current, Start(row, start, (gateway, message)))
        elif row.fired_at is not None:
            text = f"scheduled run {row.id} has been triggered already"
            self._refuse(gateway, message.request_id, Refused(Code.FAILED_PRECONDITION, text))
        else:
            # What somebody wants now waits out a pause, like any trigger.
            start = timers.start_of_scheduled(row, self.rng.uuid7(now), now)._replace(dropped=None)
            self._send(current, Start(row, start, (gateway, message)))
        return True

    # ------------------------------------------------------------ what `Timetable` does

    def _hint(self, timer: Timer) -> None:
        """A timer may be due then."""
        raise NotImplementedError

    def _hint_cron(self, cron_id: str, next_at: int | None) -> None:
        """Likewise a cron, if it has a next tick."""
        raise NotImplementedError

    def _send(self, current: Round, start: Start) -> None:
        """Have a run made."""
        raise NotImplementedError


def ids_of(message: Any) -> tuple[str, ...]:
    """The timers that a request is about."""
    kind = type(message)
    if kind is EnableCron:
        return (message.cron_id,)
    if kind is MoveScheduledRuns:
        return tuple(item[0] for item in message.moves)
    if kind is DeleteTimers:
        return tuple(message.ids)
    return (message.timer_id,) if kind is RunTimer else ()


def kind_of(message: Any) -> int:
    """The kind of those timers."""
    if type(message) is EnableCron:
        return TimerKind.CRON
    return int(message.kind) if type(message) in (DeleteTimers, RunTimer) else TimerKind.SCHEDULED
