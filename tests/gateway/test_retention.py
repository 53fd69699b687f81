"""When old records are deleted: soon after the start, when a day passes a period, and again after a failure."""

import asyncio
from collections.abc import Callable

import pytest

from broadaxe_gateway import retention as service
from broadaxe_gateway.retention import RetentionPeriods, RetentionService
from broadaxe_gateway.tenant_settings import RetentionConfig, duration_text
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.partitions import DAY_US
from broadaxe_storage.retention import Expired, Periods

HOUR = 3_600_000_000
NOON = 20_000 * DAY_US + 12 * HOUR


class Clock:
    """A wall clock that goes on by sleeping, and stops at its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, end: int) -> None:
        self.now = NOON
        self.slept: list[float] = []
        self._end = end
        monkeypatch.setattr(service.asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += round(seconds * 1e6)
        if self.now >= self._end:
            await asyncio.Event().wait()


class Recorder:
    """Notes each pass, and answers as it is told."""

    def __init__(self, clock: Clock, answer: Callable[[int], Expired]) -> None:
        self._clock = clock
        self._answer = answer
        self.passes: list[int] = []
        self.periods = Periods(720 * HOUR, {"a": None, "b": HOUR})

    async def load_periods(self, default: int) -> Periods:
        assert default == 720 * HOUR
        return self.periods

    async def expire(self, now: int, periods: Periods, *, has_workers: bool) -> Expired:
        assert now == self._clock.now
        assert periods is self.periods
        assert not has_workers
        self.passes.append(now)
        return self._answer(len(self.passes))


async def passes_of(
    monkeypatch: pytest.MonkeyPatch, end: int, answer: Callable[[int], Expired], **config: bool
) -> list[int]:
    clock = Clock(monkeypatch, end)
    recorder = Recorder(clock, answer)
    running = RetentionService(recorder, RetentionConfig(**config), now=lambda: clock.now, first_seconds=1.0)
    running.start()
    running.start()
    loop = asyncio.get_running_loop()
    for _ in range(10_000):
        ready: asyncio.Future[None] = loop.create_future()
        loop.call_soon(ready.set_result, None)
        await ready
        if clock.now >= end or not config.get("is_enabled", True):
            break
    await running.stop()
    await running.stop()
    assert all(seconds <= 3_600 for seconds in clock.slept)
    return recorder.passes


async def test_a_pass_follows_the_start_and_each_day_that_passes_a_period(monkeypatch) -> None:
    passes = await passes_of(monkeypatch, NOON + 2 * DAY_US, lambda _: Expired())
    midnight = 20_001 * DAY_US
    assert passes == [
        NOON + 1_000_000,
        midnight,
        midnight + HOUR,
        midnight + DAY_US,
        midnight + DAY_US + HOUR,
    ]


async def test_a_failure_or_a_busy_day_is_tried_again_after_a_while(monkeypatch, caplog) -> None:
    def answer(number: int) -> Expired:
        if number == 1:
            raise Unavailable("away")
        if number == 2:
            raise ZeroDivisionError
        return Expired(left=["task_event_20240101"] if number == 3 else [])

    passes = await passes_of(monkeypatch, NOON + 2 * HOUR, answer)
    first, wait = NOON + 1_000_000, 600_000_000
    assert passes == [first, first + wait, first + 2 * wait, first + 3 * wait]
    assert "old records could not be deleted, and will be later: away" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "in use, and deleted later: task_event_20240101" in caplog.text


async def test_nothing_happens_when_it_is_off(monkeypatch) -> None:
    assert await passes_of(monkeypatch, NOON + DAY_US, lambda _: Expired(), is_enabled=False) == []


async def test_periods_are_told_as_they_are_set() -> None:
    async def own(tenant_id: str) -> int | None:
        return {"week": 7 * DAY_US}.get(tenant_id)

    periods = RetentionPeriods(own, RetentionConfig())
    assert await periods.text_of("week") == "168h"
    assert await periods.text_of("other") == "720h"
    assert await RetentionPeriods(own, RetentionConfig(is_enabled=False)).text_of("week") is None
    assert [duration_text(us) for us in (HOUR, 90 * 60_000_000, 1_500_000, 0)] == [
        "1h",
        "1h30m",
        "1.5s",
        "0s",
    ]
