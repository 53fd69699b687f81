"""`Timetable`: the crons and scheduled runs of a tenant. It alone decides when each of them makes a run.

Memory holds hints: when the timers that are due next may be due (`timers.Hints`). What is due, and what somebody asks to be done to a timer,
goes through rounds, one at a time: the rows are read once all that was recorded before is committed, each is judged by its row, and what
follows is recorded. So a delete or a move never crosses the timer's own run. A run is made by `RunTracker`, which records it together with
what the timer says of it: both are there, or neither is, and the store refuses a second time. The next round begins when all runs of
this one are committed.

An idle timetable asks nobody anything: it has one timer, for the first hint. May touch the runtime, `timers` and the store's port.
"""

import logging
from collections import deque
from types import MappingProxyType
from typing import Any, NamedTuple

from broadaxe_actors import timers
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    CreateCron,
    IdempotencyCollisions,
    Refusal,
    Reply,
    RunsScheduled,
    RunTimer,
    ScheduleRuns,
)
from broadaxe_actors.resource_limits import Limits
from broadaxe_actors.runtime import Handle
from broadaxe_actors.timer_limits import TimerLimits
from broadaxe_actors.timers import Hints
from broadaxe_actors.timetable_requests import Requests, Round, Start, WorkflowFacts, ids_of, kind_of
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records_timers import (
    CronChange,
    CronRow,
    ScheduledRunChange,
    ScheduledRunRow,
    Timer,
    TimerKind,
)
from broadaxe_storage.store import ShardStore

logger = logging.getLogger(__name__)

DUE_AT_ONCE = 200
CRONS_AT_ONCE = 25
"""Crons of one round: the next tick of each takes some 0.15 ms to tell."""
ASKED_AT_ONCE = 1_000
"""Timers of one round that somebody asked for; one request may have more, and is then alone."""
INPUT_BYTES = 8_000_000
"""Inputs read in one round."""
READ_AGAIN_US = 250_000
TRY_AGAIN_US = 1_000_000
LOOK_AGAIN_US = 60_000_000
"""How long is slept at most: the wall clock, by which timers are due, may have been set forward meanwhile."""
MAX_ERROR = 2_000


class _Found(NamedTuple):
    crons: list[CronRow]
    scheduled: list[ScheduledRunRow]
    names: dict[int, str | None]


class Timetable(Requests, TimerLimits):
    """See the module."""

    _tracker: Handle[Any]

    def __init__(self, tenant_id: str, store: ShardStore, limits: Limits = MappingProxyType({})) -> None:
        super().__init__()
        self._limit(limits)
        self._tenant_id = tenant_id
        self._store = store
        self._up_since = self.clock.now()
        self._workflows: dict[str, WorkflowFacts] = {}
        self._hints = Hints()
        self._asked: deque[tuple[Handle[Any], Any]] = deque()
        self._round: Round | None = None
        self._is_paging = False
        self._is_started = False
        self._last_number = 0
        self._wake_at: int | None = None

    def connect(self, tracker: "Handle[Any]") -> None:
        """Who makes the runs."""
        self._tracker = tracker

    def begin(self) -> None:
        """All that the record knows of the tenant is in memory: begin."""
        self._is_started = True
        self._go_on()

    def set_workflow(self, name: str, facts: WorkflowFacts) -> None:
        """The latest version of a workflow."""
        self._workflows[name] = facts

    def unset_workflow(self, name: str) -> None:
        """A workflow is deleted: nothing new may be made of it."""
        self._workflows.pop(name, None)

    def declared(self, found: tuple[Timer, ...]) -> None:
        """Crons of a definition are committed."""
        for timer in found:
            self._hint(timer)
        self._go_on()

    # ------------------------------------------------------------ what clients ask

    def ask(self, gateway: "Handle[Any]", message: Any) -> None:
        """What is to be done to timers, or a cron to be made: in the next round."""
        if self._must_be_counted(message):
            self._count(gateway, message)
            return
        self._asked.append((gateway, message))
        self._go_on()

    def schedule(self, gateway: "Handle[Any]", message: ScheduleRuns) -> None:
        """Runs for later."""
        if self._must_be_counted(message):
            self._count(gateway, message)
        else:
            self._schedule(gateway, message)

    def _do_counted(self, gateway: "Handle[Any]", message: CreateCron | ScheduleRuns) -> None:
        if isinstance(message, ScheduleRuns):
            self._schedule(gateway, message)
        else:
            self._asked.append((gateway, message))
            self._go_on()

    def _schedule(self, gateway: "Handle[Any]", message: ScheduleRuns) -> None:
        facts = self._facts(gateway, message)
        if facts is None:
            return
        now = self.clock.now()
        ids = []
        for at in message.times:
            row = ScheduledRunRow(
                id=self.rng.uuid7(now),
                tenant_id=self._tenant_id,
                workflow_id=facts.workflow_id,
                workflow_name=message.workflow_name,
                is_declared=False,
                priority=message.priority,
                trigger_at=at,
                fired_at=None,
                run_id=None,
                error=None,
                parent_run_id=message.parent_run_id,
                parent_task_run_id=message.parent_task_run_id,
                created_at=now,
                updated_at=now,
                metadata=message.metadata,
                input=message.input,
            )
            ids.append(row.id)
            self.record(row)
            self._hint(Timer(at, row.id, TimerKind.SCHEDULED))
        scheduled = RunsScheduled(
            facts.workflow_id, facts.version_id, facts.version_number, facts.version_created_at, tuple(ids)
        )
        self._reply(gateway, message.request_id, scheduled)
        self._go_on()

    # ------------------------------------------------------------ rounds

    def wake(self) -> None:
        """Something may be due."""
        self._wake_at = None
        self._go_on()

    def _hint(self, timer: Timer) -> None:
        # A page that is being read may not know of it.
        self._hints.add(timer, is_beyond=self._is_paging)

    def _go_on(self) -> None:
        """Begin what can begin now, and see what there is to wait for. Every handler ends with it."""
        if not self._is_started:
            return
        hints = self._hints
        if hints.is_short and not self._is_paging:
            self._is_paging = True
            self.send_after_commit(self.me.read_page)
        if self._round is not None:
            return
        now = self.clock.now()
        due = hints.take_due(now, DUE_AT_ONCE, CRONS_AT_ONCE)
        asked: list[tuple[Handle[Any], Any]] = []
        count = 0
        while self._asked and (not asked or count < ASKED_AT_ONCE):
            asked.append(self._asked.popleft())
            count += len(ids_of(asked[-1][1])) + 1
        if due or asked:
            self._round = Round(due, asked)
            self.send_after_commit(self.me.read_rows)
            return
        first = hints.first()
        if first is not None:
            delay = min(first - now, LOOK_AGAIN_US)
            at = self.clock.monotonic() + delay
            if self._wake_at is None or at < self._wake_at:
                self._wake_at = at
                self.set_timer("wake", delay, self.me.wake)

    def read_rows(self) -> None:
        """All that was recorded before is committed: read the rows of this round."""
        assert self._round is not None
        self.fetch(self._read, self._round, then=self.me.rows_read)

    async def _read(self, current: Round) -> _Found:
        wanted: tuple[dict[str, None], dict[str, None]] = ({}, {})
        for _, message in current.asked:
            if type(message) is RunTimer:  # before the others, as inputs count
                wanted[message.kind][message.timer_id] = None
        for timer in current.due:
            wanted[timer.kind][timer.id] = None
        for _, message in current.asked:
            wanted[kind_of(message)].update(dict.fromkeys(ids_of(message)))
        store, tenant = self._store, self._tenant_id
        crons = await store.fetch_crons(tenant, list(wanted[0]), INPUT_BYTES) if wanted[0] else []
        scheduled = (
            await store.fetch_scheduled_runs(tenant, list(wanted[1]), INPUT_BYTES) if wanted[1] else []
        )
        names: dict[int, str | None] = {}
        for place, (_, message) in enumerate(current.asked):
            if type(message) is CreateCron and message.workflow_name in self._workflows:
                workflow_id = self._workflows[message.workflow_name].workflow_id
                names[place] = await store.fetch_cron_by_name(
                    tenant, workflow_id, message.name, message.expression
                )
        return _Found(crons, scheduled, names)

    def rows_read(self, _context: object, found: _Found | None, error: BaseException | None) -> None:
        """The rows of this round are there: do what was asked, then fire what is due."""
        current = self._round
        assert current is not None
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self.set_timer("read", READ_AGAIN_US, self.me.read_rows)
            return
        assert found is not None
        current.crons = {row.id: row for row in found.crons}
        current.scheduled = {row.id: row for row in found.scheduled}
        current.names = found.names
        for place, (gateway, message) in enumerate(current.asked):
            if not self._do(current, place, gateway, message):
                # It, and what came after it, is about what this round has changed already.
                self._asked.extendleft(reversed(current.asked[place:]))
                break
        for timer in current.due:
            self._judge(current, timer)
        self._end_round()

    def _end_round(self) -> None:
        if self._round is not None and not self._round.open:
            self._round = None
            self._go_on()

    # ------------------------------------------------------------ what is due

    def _judge(self, current: Round, timer: Timer) -> None:
        """A timer that may be due, by its row."""
        now = self.clock.now()
        row = (current.crons if timer.kind == TimerKind.CRON else current.scheduled).get(timer.id)
        if row is None:
            return
        if timer.id in current.touched or row.input is None:
            # It is another by now, or its input had no room: in the next round.
            self._hint(timer)
        elif isinstance(row, CronRow):
            self._judge_cron(current, row, now)
        elif row.fired_at is None:
            if row.trigger_at > now:
                self._hint(Timer(row.trigger_at, row.id, TimerKind.SCHEDULED))
            else:
                self._send(
                    current, Start(row, timers.start_of_scheduled(row, self.rng.uuid7(now), now), None)
                )

    def _judge_cron(self, current: Round, row: CronRow, now: int) -> None:
        tick = timers.tick_of(row, now, self._up_since)
        if tick is None:
            self._hint_cron(row.id, row.next_at)
        elif tick.tick_at is None:
            logger.info(
                "tenant %s: %s has missed its ticks since %d", self._tenant_id, _named(row), row.next_at
            )
            self.record(timers.ticked(row, tick, row.error, now))
            self._hint_cron(row.id, tick.next_at)
        else:
            change = timers.ticked(row, tick, None, now)
            start = timers.start_of_cron(row, tick.tick_at, self.rng.uuid7(now), change)
            self._send(current, Start(row, start, None, tick))

    def _hint_cron(self, cron_id: str, next_at: int | None) -> None:
        if next_at is not None:
            self._hint(Timer(next_at, cron_id, TimerKind.CRON))

    def _send(self, current: Round, start: Start) -> None:
        self._last_number += 1
        current.open[self._last_number] = start
        current.touched.add(start.row.id)
        self._tracker.start_timed.send(self.me, self._last_number, start.start)

    def deliver(self, messages: tuple[Reply | Refusal, ...]) -> None:
        """The tracker answers: a run is committed, or was refused. None for one that a pause has dropped."""
        for message in messages:
            current = self._round
            start = None if current is None else current.open.pop(message.request_id, None)
            if start is not None:
                if isinstance(message, Refusal):
                    self._refused(start, message)
                else:
                    self._made(start)
                    self._answer(start, message.value)
        self._end_round()

    def _made(self, start: Start) -> None:
        if start.tick is not None:
            self._hint_cron(start.row.id, start.tick.next_at)

    def _answer(self, start: Start, value: object) -> None:
        if start.asked is None:
            return
        gateway, message = start.asked
        assert isinstance(value, tuple)
        self._reply(gateway, message.request_id, value[0])

    def _refused(self, start: Start, refusal: Refusal) -> None:
        """No run was made. What can be tried again is, the rest says so where people look."""
        row, now = start.row, self.clock.now()
        if start.asked is not None:
            gateway, message = start.asked
            self._refuse(gateway, message.request_id, Refused(refusal.code, refusal.message))
            if isinstance(row, ScheduledRunRow):
                self._hint(Timer(max(row.trigger_at, now), row.id, TimerKind.SCHEDULED))
            return
        kind = TimerKind.CRON if isinstance(row, CronRow) else TimerKind.SCHEDULED
        if refusal.code == Code.UNAVAILABLE:
            self._hint(Timer(now + READ_AGAIN_US, row.id, kind))
            return
        error = _shown(refusal)
        logger.warning("tenant %s: %s made no run: %s", self._tenant_id, _named(row), error)
        if isinstance(row, CronRow):
            assert start.tick is not None
            change = timers.ticked(row, start.tick, error, now)
            if refusal.code == Code.NOT_FOUND:
                # Its workflow is gone for good.
                change = change._replace(is_enabled=False, next_at=None)
            self.record(change)
            if change.next_at is not None:
                self._hint_cron(row.id, max(change.next_at, now + TRY_AGAIN_US))
        else:
            self.record(timers.given_up(row, error, now))

    # ------------------------------------------------------------ pages

    def read_page(self) -> None:
        """All that was recorded before is committed: read which timers come next."""
        horizon = self._hints.horizon
        after = None if horizon == timers.NOWHERE else horizon
        self.fetch(self._store.page_timers, self._tenant_id, after, timers.PAGE, then=self.me.page_read)

    def page_read(self, _context: object, page: list[Timer] | None, error: BaseException | None) -> None:
        """The next timers."""
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self.set_timer("page", READ_AGAIN_US, self.me.read_page)
            return
        assert page is not None
        self._is_paging = False
        self._hints.page_read(page, is_last=len(page) < timers.PAGE)
        self._go_on()

    # ------------------------------------------------------------ answers

    def records_refused(self, records: tuple[Any, ...], effects: tuple[Any, ...], error: str) -> None:
        """Postgres refused what a handler recorded: somebody else was first. The timers are looked at again, who asked may ask again."""
        for record in records:
            if isinstance(record, CronChange | ScheduledRunChange):
                kind = TimerKind.CRON if isinstance(record, CronChange) else TimerKind.SCHEDULED
                self._hint(Timer(self.clock.now() + TRY_AGAIN_US, record.id, kind))
        for bound, args in effects:
            messages = args[0] if args else ()
            if isinstance(messages, tuple) and messages and isinstance(messages[0], Reply | Refusal):
                text = f"the timers were changed at the same time by something else: try again ({error})"
                bound.send((Refusal(messages[0].request_id, Code.UNAVAILABLE, text),))
            else:
                bound.send(*args)
        self._go_on()


def _named(row: CronRow | ScheduledRunRow) -> str:
    """For people."""
    if isinstance(row, ScheduledRunRow):
        return f"scheduled run {row.id} of workflow {row.workflow_name!r}"
    name = f"{row.name!r} ({row.expression})" if row.name else repr(row.expression)
    return f"cron {name} of workflow {row.workflow_name!r}"


def _shown(refusal: Refusal) -> str:
    """Why a run was not made, as the record can keep it."""
    text = refusal.message
    if isinstance(refusal.detail, IdempotencyCollisions):
        text = f"{text}: run {refusal.detail.collisions[0].existing_run_id} holds the key"
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()[:MAX_ERROR]
