"""Crons and scheduled runs: what is due when, which tick fires, and what a run is given. Pure; a part of `Timetable`.

`Hints` are what memory holds of the timers: when each may be due. A hint may be out of date, as what is due is read before it fires; but for
every timer that is due up to the horizon there is one, and none of them is later than the timer.
"""

import heapq
import json
import uuid
from datetime import UTC, datetime
from typing import NamedTuple

from broadaxe_actors import cron_expression
from broadaxe_actors.definitions import WorkflowDefinition
from broadaxe_actors.traceparent import with_traceparent
from broadaxe_storage.records_timers import (
    CronChange,
    CronRow,
    ScheduledRunChange,
    ScheduledRunRow,
    Timer,
    TimerDrop,
    TimerKind,
)

HINTS_HIGH = 4_000
"""Hints past which the latest are forgotten, and read again when they come nearer."""
HINTS_LOW = 200
"""Hints below which the next page is read, if there is one."""
PAGE = 2_000
CATCH_UP_US = 60_000_000
"""How late the last tick of before a recovery may be to fire still."""

Key = tuple[int, str]
"""When a timer is due, and its id: the order of all timers."""

NOWHERE: Key = (-(1 << 62), "")
"""Before any timer."""


class Hints:
    """See the module."""

    def __init__(self) -> None:
        self.horizon: Key | None = NOWHERE
        """Up to it all timers have a hint; None: there is nothing further in Postgres. Before the first page: nothing has one."""
        self._due: dict[str, Timer] = {}
        self._line: list[Timer] = []

    def __len__(self) -> int:
        return len(self._due)

    def add(self, timer: Timer, *, is_beyond: bool = False) -> None:
        """A timer may be due then. `is_beyond`: keep it also past the horizon."""
        if not is_beyond and self.horizon is not None and timer[:2] > self.horizon:
            return
        known = self._due.get(timer.id)
        if known is None or timer < known:
            self._due[timer.id] = timer
            heapq.heappush(self._line, timer)
            if len(self._due) > HINTS_HIGH and not is_beyond:
                self._trim()
            elif len(self._line) > 2 * len(self._due) + 64:
                self._rebuild()

    @property
    def is_short(self) -> bool:
        """Whether the next page is to be read: there are few hints, or none up to the horizon."""
        if self.horizon is None:
            return False
        return len(self._due) < HINTS_LOW or self.first() is None or self._line[0][:2] > self.horizon

    def first(self) -> int | None:
        """When the next of them may be due."""
        while self._line and self._due.get(self._line[0].id) != self._line[0]:
            heapq.heappop(self._line)
        return self._line[0].due_at if self._line else None

    def take_due(self, now: int, most: int, most_crons: int) -> list[Timer]:
        """Take out those that may be due, in order; no more than so many, and so many crons."""
        found: list[Timer] = []
        crons = 0
        while len(found) < most and crons < most_crons:
            first = self.first()
            if first is None or first > now:
                break
            timer = heapq.heappop(self._line)
            del self._due[timer.id]
            found.append(timer)
            crons += timer.kind == TimerKind.CRON
        return found

    def page_read(self, page: list[Timer], *, is_last: bool) -> None:
        """The next timers have been read: from now on these have hints."""
        for timer in page:
            self.add(timer, is_beyond=True)
        self.horizon = None if is_last else page[-1][:2]
        if len(self._due) > HINTS_HIGH:
            self._trim()

    def _trim(self) -> None:
        kept = heapq.nsmallest(PAGE, self._due.values())
        # Some of them may be past the horizon, where others have no hint.
        self.horizon = kept[-1][:2] if self.horizon is None else min(self.horizon, kept[-1][:2])
        self._due = {timer.id: timer for timer in kept}
        self._line = kept

    def _rebuild(self) -> None:
        self._line = list(self._due.values())
        heapq.heapify(self._line)


# ---------------------------------------------------------------- crons


class Tick(NamedTuple):
    """What a cron does now."""

    tick_at: int | None
    """The tick that fires; None: those of before are skipped."""
    next_at: int | None


def tick_of(row: CronRow, now: int, up_since: int) -> Tick | None:
    """What a cron does now; None: it is not due.

    Each tick fires while the engine is up. Of those that it has missed (a restart, a clock set forward, Postgres away for long) the last one
    fires if it is no later than `CATCH_UP_US`, the others are skipped.
    """
    due = row.next_at
    if due is None or not row.is_enabled or due > now:
        return None
    expression = cron_expression.parse(row.expression)
    last_tick = row.last_tick_at
    if last_tick is not None and due <= last_tick:
        # The clock was set back: what has fired does not fire again.
        return Tick(None, expression.next_after(max(last_tick, now)))
    if due >= up_since and now - due <= CATCH_UP_US:
        return Tick(due, expression.next_after(due))
    next_at = expression.next_after(now)
    last = expression.last_until(now)
    # An expression with a time zone may tick otherwise than the stored tick says, if the zone's rules have changed.
    is_fresh = last is not None and last >= due and now - last <= CATCH_UP_US
    return Tick(last if is_fresh else None, next_at)


def next_tick(row: CronRow, now: int) -> int | None:
    """The next tick of a cron that is enabled now: after all that it has fired, whatever the clock says."""
    return cron_expression.parse(row.expression).next_after(max(now, row.last_tick_at or now))


def cron_id(workflow_id: str, expression: str) -> str:
    """The id of a declared cron: told from both, so that a registration finds it without a look."""
    return str(uuid.uuid5(uuid.UUID(workflow_id), f"cron {expression}"))


class Declaration(NamedTuple):
    """What a registration makes of the crons of a workflow."""

    rows: tuple[CronRow, ...]
    drops: tuple[TimerDrop, ...]
    timers: tuple[Timer, ...]
    """When those of `rows` may be due."""


def declare(
    tenant_id: str,
    workflow_id: str,
    before: WorkflowDefinition | None,
    definition: WorkflowDefinition,
    now: int,
) -> Declaration:
    """In place of the crons of the definition before."""
    rows = []
    for text in dict.fromkeys(definition.cron_triggers):
        next_at = cron_expression.parse(text).next_after(now)
        rows.append(
            CronRow(
                id=cron_id(workflow_id, text),
                tenant_id=tenant_id,
                workflow_id=workflow_id,
                workflow_name=definition.name,
                name="",
                expression=text,
                is_declared=True,
                is_enabled=True,
                priority=None,
                next_at=next_at,
                last_tick_at=None,
                error=None,
                created_at=now,
                updated_at=now,
                metadata="{}",
                input=(definition.cron_input or "{}").encode(),
            )
        )
    gone = dict.fromkeys(before.cron_triggers if before is not None else ())
    drops = tuple(
        TimerDrop(cron_id(workflow_id, text), tenant_id)
        for text in gone
        if text not in definition.cron_triggers
    )
    timers = tuple(Timer(row.next_at, row.id, TimerKind.CRON) for row in rows if row.next_at is not None)
    return Declaration(tuple(rows), drops, timers)


def ticked(row: CronRow, tick: Tick, error: str | None, now: int) -> CronChange:
    """The record of what a cron does."""
    return CronChange(row.id, row.tenant_id, tick.tick_at, True, tick.next_at, error, now)


def fired(row: ScheduledRunRow, run_id: str, now: int) -> ScheduledRunChange:
    """The record of a scheduled run that has made its run."""
    return ScheduledRunChange(row.id, row.tenant_id, row.trigger_at, now, run_id, None, now)


def given_up(row: ScheduledRunRow, error: str, now: int) -> ScheduledRunChange:
    """The record of a scheduled run that makes none."""
    return ScheduledRunChange(row.id, row.tenant_id, row.trigger_at, now, None, error, now)


# ---------------------------------------------------------------- runs


class TimedStart(NamedTuple):
    """A run that a timer makes, and what is recorded with it."""

    kind: int
    timer_id: str
    workflow_id: str
    workflow_name: str
    run_id: str
    input: bytes
    metadata: str
    priority: int | None
    change: CronChange | ScheduledRunChange | None
    """Recorded in one commit with the run; None for a run that is made by hand."""
    dropped: CronChange | ScheduledRunChange | None
    """Recorded instead of the run where a pause drops it."""
    declared_expression: str | None = None
    """Of a declared cron."""


def start_of_cron(row: CronRow, tick_at: int, run_id: str, change: CronChange | None) -> TimedStart:
    """The run of one tick (behaviour-core 4.4.3)."""
    metadata = json.loads(row.metadata)
    metadata["hatchet__cron_expression"] = row.expression
    metadata["hatchet__cron_name"] = row.name
    metadata["hatchet__cron_scheduled_at"] = _time_text(tick_at)
    return TimedStart(
        TimerKind.CRON,
        row.id,
        row.workflow_id,
        row.workflow_name,
        run_id,
        row.input or b"",
        with_traceparent(metadata, run_id, None),
        row.priority,
        change,
        change,
        row.expression if row.is_declared else None,
    )


def start_of_scheduled(row: ScheduledRunRow, run_id: str, now: int) -> TimedStart:
    """The run of a scheduled run."""
    dropped = "the workflow was paused when this was due, and its pause drops scheduled runs"
    source = row.parent_run_id or row.parent_task_run_id
    return TimedStart(
        TimerKind.SCHEDULED,
        row.id,
        row.workflow_id,
        row.workflow_name,
        run_id,
        row.input or b"",
        with_traceparent(json.loads(row.metadata), run_id, source),
        row.priority,
        fired(row, run_id, now),
        given_up(row, dropped, now),
    )


def _time_text(at: int) -> str:
    """RFC 3339, of a tick."""
    return datetime.fromtimestamp(at // 1_000_000, UTC).isoformat().replace("+00:00", "Z")
