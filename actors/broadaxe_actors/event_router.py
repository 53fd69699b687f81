"""`EventRouter`: which workflows an event starts, and which waits it ends. One per tenant.

It knows what the latest version of each workflow listens to, its filters (`event_starts`), and every event that a task run waits for. Event and
runs are recorded together by `RunTracker`, so that a crash leaves both or neither.

A wait sees every event pushed since its run was created. Events of before the wait are looked up: in memory those that are not
committed yet, in Postgres the others; both are spared when no event of that key has come since. May touch the runtime and the store's port.
"""

import logging
from collections.abc import Iterable
from typing import Any

from broadaxe_actors.cel import EvaluationFailed, Evaluator, InlineEvaluator
from broadaxe_actors.creation import EventStart
from broadaxe_actors.event_starts import EventStarts, Push
from broadaxe_actors.runtime import Handle
from broadaxe_actors.wait_index import Wait, WaitIndex
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import EventRow
from broadaxe_storage.store import ShardStore

logger = logging.getLogger(__name__)

LOOKBACK_PAGE = 500
"""Stored events read at a time for waits that may have missed them."""
KEYS_REMEMBERED = 50_000
"""Event keys of which the time of the last event is known; past it all are forgotten, and every wait looks into Postgres."""
EVALUATIONS = 200
"""Expressions evaluated in one turn."""

Match = tuple[str, int, int, str]
"""Task run, attempt, number of the wait, payload as JSON text."""


class _Look:
    """Waits that may have missed events, while those are read and looked at."""

    __slots__ = ("open", "waits")

    def __init__(self, waits: tuple[Wait, ...]) -> None:
        self.waits = waits
        self.open = 1
        """Parts not done yet: the reading, and what is being evaluated."""


class EventRouter(EventStarts):
    """See the module."""

    def __init__(
        self,
        tenant_id: str,
        store: ShardStore,
        evaluator: Evaluator | InlineEvaluator | None = None,
    ) -> None:
        super().__init__()
        self._tenant_id = tenant_id
        self._store = store
        self._evaluator = evaluator or InlineEvaluator()
        self._tracker: Handle[Any]
        self._waits = WaitIndex()
        self._last_at: dict[str, int] = {}
        """By event key: when the last event of it came."""
        self._knows_since = self.clock.now()
        """Of events since then `_last_at` knows all keys."""
        self._uncommitted: dict[str, EventRow] = {}
        self._to_look_up: list[Wait] = []
        self._is_looking_up = False

    def connect(self, tracker: "Handle[Any]") -> None:
        """Who creates the runs."""
        self._tracker = tracker

    # ------------------------------------------------------------ events

    def _decided(self, push: Push) -> None:
        now = self.clock.now()
        rows = tuple(
            EventRow(
                event_id,
                self._tenant_id,
                event.key,
                event.scope,
                event.priority,
                now,
                event.metadata,
                event.payload,
                event.webhook,
                push.filter_errors(index) if push.errors else None,
            )
            for index, (event_id, event) in enumerate(zip(push.ids, push.message.events, strict=True))
        )
        new_keys = self._note_keys(rows, now)
        offers = [(row, wait) for row in rows for wait in self._candidates(row)]
        met = self._evaluate(offers[:EVALUATIONS], None)
        starts = tuple(sorted(push.starts, key=lambda start: start.event))
        self._tracker.start_from_events.send(
            push.gateway, push.message, EventStart(rows, starts, tuple(met), new_keys)
        )
        if len(offers) > EVALUATIONS:
            self.me.offer_more.send(offers[EVALUATIONS:], None)

    def _note_keys(self, rows: tuple[EventRow, ...], now: int) -> tuple[str, ...]:
        """Remember when events of these keys came. Returns the keys that were not known."""
        if len(self._last_at) > KEYS_REMEMBERED:
            self._last_at.clear()
            self._knows_since = now
        new_keys = tuple(dict.fromkeys(row.key for row in rows if row.key not in self._last_at))
        for row in rows:
            self._last_at[row.key] = now
            self._uncommitted[row.id] = row
        return new_keys

    def committed(self, ids: tuple[str, ...]) -> None:
        """These events are in Postgres, or were refused."""
        for event_id in ids:
            self._uncommitted.pop(event_id, None)

    def _candidates(self, row: EventRow) -> Iterable[Wait]:
        return self._waits.candidates(row.key, row.scope, row.payload)

    # ------------------------------------------------------------ waits

    def add_waits(self, waits: tuple[Wait, ...]) -> None:
        """Task runs begin to wait; answered with `waits_checked` once the events of before have been looked at."""
        checked: list[tuple[str, int]] = []
        offers: list[tuple[EventRow, Wait]] = []
        to_look_up: list[Wait] = []
        for wait in waits:
            self._waits.add(wait)
            checked.append((wait.task_run_id, wait.attempt))
            if wait.since < self._knows_since or self._last_at.get(wait.event_key, 0) >= wait.since:
                offers += [(row, wait) for row in self._uncommitted.values() if _fits(row, wait)]
                to_look_up.append(wait)
        self._offer(offers, None)
        behind = {wait.task_run_id for wait in to_look_up}
        done = tuple(dict.fromkeys(item for item in checked if item[0] not in behind))
        if done:
            self._tracker.waits_checked.send(done)
        if to_look_up:
            self._to_look_up += to_look_up
            self._look_up()

    def drop_waits(self, task_run_ids: tuple[str, ...]) -> None:
        """These task runs wait for nothing any more."""
        for task_run_id in task_run_ids:
            self._waits.drop(task_run_id)

    def _look_up(self) -> None:
        if self._is_looking_up or not self._to_look_up:
            return
        self._is_looking_up = True
        waits, self._to_look_up = tuple(self._to_look_up), []
        self._fetch_page(_Look(waits), None)

    def _fetch_page(self, look: "_Look", after: tuple[int, str] | None) -> None:
        waits = look.waits
        self.fetch(
            self._store.fetch_events,
            self._tenant_id,
            sorted({wait.event_key for wait in waits}),
            min(wait.since for wait in waits),
            after,
            LOOKBACK_PAGE,
            then=self.me.looked_up,
            context=(look, after),
        )

    def looked_up(
        self,
        context: tuple["_Look", tuple[int, str] | None],
        rows: list[EventRow] | None,
        error: BaseException | None,
    ) -> None:
        """Stored events that waits may have missed."""
        look, after = context
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self.set_timer("look_up", 250_000, self.me.look_up_again, look, after)
            return
        assert rows is not None
        by_key: dict[str, list[Wait]] = {}
        for wait in look.waits:
            by_key.setdefault(wait.event_key, []).append(wait)
        look.open += 1
        self._offer([(row, wait) for row in rows for wait in by_key[row.key] if _fits(row, wait)], look)
        if len(rows) == LOOKBACK_PAGE:
            self._fetch_page(look, (rows[-1].created_at, rows[-1].id))
            return
        self._settle(look)
        self._is_looking_up = False
        self._look_up()

    def look_up_again(self, look: "_Look", after: tuple[int, str] | None) -> None:
        """Postgres may be back."""
        self._fetch_page(look, after)

    def _settle(self, look: "_Look") -> None:
        """One part of a look-up is done; when all are, the task runs that began to wait may be judged."""
        look.open -= 1
        if not look.open:
            self._tracker.waits_checked.send(
                tuple(dict.fromkeys((wait.task_run_id, wait.attempt) for wait in look.waits))
            )

    # ------------------------------------------------------------ expressions

    def _offer(self, offers: list[tuple[EventRow, Wait]], look: "_Look | None") -> None:
        """See whether events end waits; what is past one turn's share goes on in the next. `look` is settled when all is done."""
        matches = self._evaluate(offers[:EVALUATIONS], look)
        if matches:
            self._tracker.waits_met.send(tuple(matches))
        if len(offers) > EVALUATIONS:
            self.me.offer_more.send(offers[EVALUATIONS:], look)
        elif look is not None:
            self._settle(look)

    def _evaluate(self, offers: list[tuple[EventRow, Wait]], look: "_Look | None") -> list[Match]:
        """What can be told on the spot; the rest is evaluated elsewhere, and comes back by `evaluated`."""
        matches: list[Match] = []
        for row, wait in offers:
            expression = wait.expression
            if expression is None:
                matches.append(_match(row, wait))
                continue
            values = {"input": row.payload or b"{}", "output": b"{}"}
            if not expression.is_cheap(values):
                if look is not None:
                    look.open += 1
                self.fetch(
                    self._evaluator.evaluate_apart,
                    expression,
                    values,
                    then=self.me.evaluated,
                    context=(row, wait, look),
                )
                continue
            try:
                if expression.evaluate(values):
                    matches.append(_match(row, wait))
            except EvaluationFailed as error:
                self._fail(row, wait, error)
        return matches

    def offer_more(self, offers: list[tuple[EventRow, Wait]], look: "_Look | None") -> None:
        """Go on with a long list."""
        self._offer([item for item in offers if item[1] in self._waits.of(item[1].task_run_id)], look)

    def evaluated(
        self,
        context: tuple[EventRow, Wait, "_Look | None"],
        value: object,
        error: BaseException | None,
    ) -> None:
        """An expression that was evaluated outside of this process has its value."""
        row, wait, look = context
        if error is not None:
            if not isinstance(error, EvaluationFailed):
                raise error
            self._fail(row, wait, error)
        elif value:
            self._tracker.waits_met.send((_match(row, wait),))
        if look is not None:
            self._settle(look)

    def _fail(self, row: EventRow, wait: Wait, error: EvaluationFailed) -> None:
        """An event of another shape than the expression expects ends no wait; the task run's history says so."""
        text = f"event {row.key!r} ({row.id}) was not counted: {error}"
        self._tracker.wait_failed.send(wait.task_run_id, wait.attempt, text)


def _fits(row: EventRow, wait: Wait) -> bool:
    return (
        row.key == wait.event_key
        and row.created_at >= wait.since
        and (wait.scope is None or wait.scope == row.scope)
    )


def _match(row: EventRow, wait: Wait) -> Match:
    return wait.task_run_id, wait.attempt, wait.number, (row.payload or b"{}").decode()
