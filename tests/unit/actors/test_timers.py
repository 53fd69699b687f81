"""Cron expressions, hints and ticks: what is pure of crons and scheduled runs."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_actors import timers, traceparent
from broadaxe_actors.cron_expression import CronExpression, InvalidCron, check, parse
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.timers import CATCH_UP_US, Hints, Tick, tick_of
from broadaxe_storage.records_timers import Timer, TimerKind
from tests.factories import TENANT, make_cron, make_scheduled_run, new_id

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


# ---------------------------------------------------------------- expressions


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("*/15 * * * *", "2026-01-02T03:04:05", "2026-01-02T03:15:00"),
        ("30 * * * *", "2026-01-02T03:30:00", "2026-01-02T04:30:00"),
        ("30 * * * * *", "2026-01-02T03:04:05", "2026-01-02T03:04:30"),
        ("*/5 * * * * *", "2026-01-02T03:04:05", "2026-01-02T03:04:10"),
        ("0 9 * * 1", "2026-01-02T03:04:05", "2026-01-05T09:00:00"),
        ("0 9 * * MON-FRI", "2026-01-02T09:00:00", "2026-01-05T09:00:00"),
        ("0 0 29 2 *", "2026-01-02T03:04:05", "2028-02-29T00:00:00"),
        ("@hourly", "2026-01-02T03:04:05", "2026-01-02T04:00:00"),
        ("@daily", "2026-01-02T03:04:05", "2026-01-03T00:00:00"),
        ("@weekly", "2026-01-02T03:04:05", "2026-01-04T00:00:00"),
        ("@monthly", "2026-01-02T03:04:05", "2026-02-01T00:00:00"),
        ("@yearly", "2026-01-02T03:04:05", "2027-01-01T00:00:00"),
        (" @Annually ", "2026-01-02T03:04:05", "2027-01-01T00:00:00"),
        # Without a zone a day has 24 hours, whatever becomes of clocks elsewhere.
        ("30 2 * * *", "2026-03-28T12:00:00", "2026-03-29T02:30:00"),
        ("30 1 * * *", "2026-10-25T01:30:00", "2026-10-26T01:30:00"),
        ("TZ=Europe/Berlin 0 9 * * *", "2026-07-02T03:04:05", "2026-07-02T07:00:00"),
        ("CRON_TZ=Europe/Berlin 0 9 * * *", "2026-01-02T03:04:05", "2026-01-02T08:00:00"),
    ],
)
def test_an_expression_ticks_when_it_says(text: str, after: str, expected: str) -> None:
    assert CronExpression(text).next_after(us(after)) == us(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected 5 fields"),
        ("* * * *", "expected 5 fields"),
        ("* * * * * * *", "expected 5 fields"),
        ("61 * * * *", "expected 5 fields"),
        ("* * * * 9", "expected 5 fields"),
        ("*/0 * * * *", "expected 5 fields"),
        ("@reboot", "expected 5 fields"),
        ("every minute please, thank you", "expected 5 fields"),
        ("H * * * *", "expected 5 fields"),
        ("r(0-5) * * * *", "expected 5 fields"),
        ("* * * * \u0663", "expected 5 fields"),
        ("TZ=Europe/Berlin", "expected 5 fields"),
        ("TZ=No/Where * * * * *", "time zone 'No/Where' is not known"),
        ("TZ=../../etc/passwd * * * * *", "is not known"),
        ("*" * 300, "it has 300 characters"),
        ("0 0 30 2 *", "no time in the next fifty years"),
    ],
)
def test_what_is_no_expression_is_refused_with_what_was_expected(text: str, reason: str) -> None:
    with pytest.raises(InvalidCron, match=reason.replace("(", r"\(")):
        check(text, us("2026-01-02T03:04:05"))


FIELDS = st.sampled_from(
    ["* * * * *", "*/7 * * * *", "*/13 * * * * *", "0 3 * * 1", "5,35 */2 1-10 * *", "@daily", "0 0 L * *"]
)


@given(FIELDS, st.integers(0, 10**9), st.integers(0, SECOND - 1))
def test_ticks_are_in_order_and_none_is_passed_over(text: str, seconds: int, fraction: int) -> None:
    """The next tick is after; the last until a time is not; nothing ticks between them."""
    expression = parse(text)
    at = us("2020-01-01T00:00:00") + seconds * SECOND + fraction
    following, last = expression.next_after(at), expression.last_until(at)
    assert following is not None
    assert last is not None
    assert last <= at < following
    assert expression.next_after(last) == following
    assert expression.last_until(following) == following
    assert expression.next_after(following - 1) == following


def test_an_expression_that_ticks_no_more_has_no_next_tick() -> None:
    assert CronExpression("* * * * *").next_after(us("9999-12-31T23:59:00")) is None


# ---------------------------------------------------------------- ticks

NOON = us("2026-01-02T12:00:00")


def test_each_tick_fires_while_the_engine_is_up() -> None:
    row = make_cron(expression="*/5 * * * * *", next_at=NOON)
    up_since = NOON - HOUR
    assert tick_of(row, NOON - 1, up_since) is None
    assert tick_of(row, NOON, up_since) == Tick(NOON, NOON + 5 * SECOND)
    # The loop was held up: none is lost.
    assert tick_of(row, NOON + 12 * SECOND, up_since) == Tick(NOON, NOON + 5 * SECOND)


def test_of_the_ticks_missed_in_an_outage_the_last_fires_if_it_is_recent() -> None:
    row = make_cron(expression="*/5 * * * * *", next_at=NOON)
    now = NOON + 12 * SECOND
    assert tick_of(row, now, up_since=now - 1) == Tick(NOON + 10 * SECOND, NOON + 15 * SECOND)
    hourly = make_cron(expression="0 * * * *", next_at=NOON)
    for late, tick in ((CATCH_UP_US, NOON), (CATCH_UP_US + 1, None)):
        now = NOON + late
        assert tick_of(hourly, now, up_since=now - 1) == Tick(tick, NOON + HOUR)
    now = NOON + 3 * HOUR + MINUTE // 2
    assert tick_of(hourly, now, up_since=now - 1) == Tick(NOON + 3 * HOUR, NOON + 4 * HOUR)


def test_a_clock_that_jumps_forward_fires_one_tick_and_not_all_between() -> None:
    row = make_cron(expression="* * * * *", next_at=NOON)
    now = NOON + 24 * HOUR + 30 * SECOND
    assert tick_of(row, now, up_since=NOON - HOUR) == Tick(NOON + 24 * HOUR, NOON + 24 * HOUR + MINUTE)


def test_a_clock_that_is_set_back_makes_no_tick_fire_again() -> None:
    row = make_cron(expression="* * * * *", next_at=NOON, last_tick_at=NOON + HOUR)
    assert tick_of(row, NOON, up_since=0) == Tick(None, NOON + HOUR + MINUTE)
    assert timers.next_tick(row, NOON) == NOON + HOUR + MINUTE
    assert timers.next_tick(row._replace(last_tick_at=None), NOON) == NOON + MINUTE


def test_a_disabled_cron_and_one_without_a_next_tick_do_nothing() -> None:
    for fields in ({"is_enabled": False, "next_at": None}, {"next_at": None}):
        assert tick_of(make_cron(**fields), NOON, 0) is None


@given(st.integers(0, 3 * 3600), st.integers(0, 3 * 3600), FIELDS)
def test_a_tick_fires_once_and_never_early_whatever_the_clock_and_outages_do(
    first_late: int, second_late: int, text: str
) -> None:
    """Ticks that fire are in order, each once, none before its time."""
    expression = parse(text)
    due = expression.next_after(NOON)
    assert due is not None
    row = make_cron(expression=text, next_at=due)
    fired: list[int] = []
    now = due
    for late in (first_late, second_late, 0, 0):
        now = max(now, row.next_at or 0) + late * SECOND
        tick = tick_of(row, now, up_since=now - 1)
        assert tick is not None
        if tick.tick_at is not None:
            assert tick.tick_at <= now
            fired.append(tick.tick_at)
        assert tick.next_at is not None
        assert tick.next_at > (tick.tick_at or due)
        row = row._replace(next_at=tick.next_at)
    assert fired == sorted(set(fired))


# ---------------------------------------------------------------- hints


def timer(due: int, kind: int = TimerKind.SCHEDULED, timer_id: str | None = None) -> Timer:
    return Timer(due, timer_id or new_id(), kind)


def test_before_the_first_page_nothing_is_held_and_after_it_what_is_near() -> None:
    hints = Hints()
    hints.add(timer(5))
    assert len(hints) == 0
    near, far = timer(5), timer(50)
    hints.page_read([near], is_last=False)
    hints.add(far)
    assert (len(hints), hints.first()) == (1, 5)
    hints.add(far, is_beyond=True)
    assert len(hints) == 2
    assert hints.take_due(50, 10, 10) == [near, far]
    hints.page_read([], is_last=True)
    hints.add(timer(10**15))
    assert len(hints) == 1


def test_an_earlier_hint_stands_and_a_later_one_changes_nothing() -> None:
    hints = Hints()
    hints.page_read([], is_last=True)
    one = timer(10)
    hints.add(one)
    hints.add(one._replace(due_at=20))
    assert hints.first() == 10
    hints.add(one._replace(due_at=5))
    assert hints.first() == 5
    assert hints.take_due(100, 10, 10) == [one._replace(due_at=5)]
    assert hints.first() is None


def test_a_round_takes_no_more_than_its_share() -> None:
    hints = Hints()
    hints.page_read([], is_last=True)
    crons = [timer(n, TimerKind.CRON) for n in range(4)]
    runs = [timer(n + 10) for n in range(4)]
    for one in (*crons, *runs):
        hints.add(one)
    assert hints.take_due(100, 10, 2) == crons[:2]
    assert hints.take_due(100, 3, 9) == [*crons[2:], runs[0]]
    assert hints.take_due(10, 3, 9) == []
    assert hints.take_due(11, 3, 9) == [runs[1]]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=60), st.integers(1, 20))
def test_no_timer_is_missed_by_pages_and_trims(changes: list[tuple[int, int]], page_size: int) -> None:
    """A model: Postgres knows all, hints know what is near; reading pages as needed, everything is found in its order."""
    stored: dict[str, Timer] = {}
    hints = Hints()
    high, timers.HINTS_HIGH = timers.HINTS_HIGH, 8
    size, timers.PAGE = timers.PAGE, 4
    low, timers.HINTS_LOW = timers.HINTS_LOW, 2
    try:
        for due, which in changes:
            known = stored.get(str(which))
            # A timer moves to a later time only when it has been taken; here it may only come nearer.
            if known is None or due < known.due_at:
                stored[str(which)] = Timer(due, str(which), TimerKind.SCHEDULED)
                hints.add(stored[str(which)])
        found: list[Timer] = []
        for now in range(62):
            while True:
                while hints.is_short and hints.horizon is not None:
                    rest = sorted(item for item in stored.values() if item[:2] > hints.horizon)[:page_size]
                    hints.page_read(rest, is_last=len(rest) < page_size)
                due_now = hints.take_due(now, 3, 3)
                if not due_now:
                    break
                # Other hints are out of date.
                found += [stored.pop(item.id) for item in due_now if stored.get(item.id) == item]
        assert not stored
        assert found == sorted(found, key=lambda item: item.due_at)
    finally:
        timers.HINTS_HIGH, timers.PAGE, timers.HINTS_LOW = high, size, low


def test_a_million_timers_keep_a_bounded_number_of_hints() -> None:
    hints = Hints()
    hints.page_read([], is_last=True)
    for n in range(20_000):
        hints.add(timer(20_000 - n, timer_id=str(n)))
    assert len(hints) <= timers.HINTS_HIGH
    assert hints.horizon is not None
    assert hints.take_due(3, 10, 10) == [Timer(n, str(20_000 - n), TimerKind.SCHEDULED) for n in (1, 2, 3)]


# ---------------------------------------------------------------- declarations and runs


def definition(*crons: str, **fields: object) -> WorkflowDefinition:
    return WorkflowDefinition("w", (TaskDefinition("t", "w:t"),), cron_triggers=crons, **fields)  # type: ignore[arg-type]


def test_a_registration_keeps_what_it_still_says_and_drops_the_rest() -> None:
    workflow_id = new_id()
    before = definition("0 * * * *", "1 * * * *", "0 * * * *")
    first = timers.declare(TENANT, workflow_id, None, before, NOON)
    assert [(row.expression, row.next_at, row.name, row.is_declared) for row in first.rows] == [
        ("0 * * * *", NOON + HOUR, "", True),
        ("1 * * * *", NOON + MINUTE, "", True),
    ]
    assert first.drops == ()
    second = timers.declare(TENANT, workflow_id, before, definition("1 * * * *", cron_input='{"n":1}'), NOON)
    assert [row.id for row in second.rows] == [first.rows[1].id]
    assert second.rows[0].input == b'{"n":1}'
    assert [drop.id for drop in second.drops] == [first.rows[0].id]
    assert [item.id for item in second.timers] == [first.rows[1].id]
    assert timers.declare(TENANT, new_id(), None, before, NOON).rows[0].id != first.rows[0].id


def test_a_run_of_a_cron_says_which_cron_and_tick() -> None:
    row = make_cron(metadata='{"team": "a", "hatchet__cron_name": "forged"}', priority=2)
    start = timers.start_of_cron(row, NOON, run_id := new_id(), None)
    metadata = json.loads(start.metadata)
    assert traceparent.is_valid(metadata.pop("traceparent"))
    assert metadata == {
        "team": "a",
        "hatchet__cron_expression": row.expression,
        "hatchet__cron_name": row.name,
        "hatchet__cron_scheduled_at": "2026-01-02T12:00:00Z",
    }
    assert (start.run_id, start.priority, start.input) == (run_id, 2, b"{}")


def test_a_scheduled_run_has_its_own_metadata_and_the_trace_of_who_scheduled_it() -> None:
    own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for given_text, parent, expected in (
        (json.dumps({"traceparent": own}), None, own),
        ("{}", new_id(), None),
    ):
        row = make_scheduled_run(metadata=given_text, parent_run_id=parent)
        metadata = json.loads(timers.start_of_scheduled(row, new_id(), NOON).metadata)
        assert metadata.keys() == {"traceparent"}
        if expected is not None:
            assert metadata["traceparent"] == expected
        else:
            assert (parent or "").replace("-", "") in metadata["traceparent"]
