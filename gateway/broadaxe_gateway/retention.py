"""When old records are deleted: at start, and whenever a whole day becomes older than the period of a tenant.

May touch the store's `Retention`. With the default period that is once a day, at midnight UTC; in between nothing is asked of Postgres.
A pass that fails, or that finds days busy, is repeated after `RETRY_SECONDS`. Periods are read at each pass, so one that was changed
counts a day later at most.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from broadaxe_gateway.tenant_settings import RetentionConfig, duration_text
from broadaxe_storage.errors import StorageError
from broadaxe_storage.retention import Expired, Periods, next_due

logger = logging.getLogger("broadaxe.retention")

START_SECONDS = 5.0
"""After the start, so that recovery and returning workers come first."""
RETRY_SECONDS = 600.0
LONGEST_SLEEP_SECONDS = 3_600.0
"""Of one sleep, so that a wall clock that is set is noticed. Waking asks nothing."""


class Expiring(Protocol):
    """The part of `broadaxe_storage.retention.Retention` that the service uses."""

    async def load_periods(self, default: int) -> Periods: ...

    async def expire(self, now: int, periods: Periods, *, has_workers: bool) -> Expired: ...


class RetentionPeriods:
    """For how long what a tenant has is kept, as people are told."""

    def __init__(self, fetch_period: Callable[[str], Awaitable[int | None]], config: RetentionConfig) -> None:
        """`fetch_period` gives a tenant's own period, None for the default."""
        self._fetch_period = fetch_period
        self._config = config

    async def text_of(self, tenant_id: str) -> str | None:
        """Such as `720h`; None when nothing is deleted. Raises `Unavailable`."""
        if not self._config.is_enabled:
            return None
        own = await self._fetch_period(tenant_id)
        return duration_text(self._config.period_us if own is None else own)


class RetentionService:
    """Runs from `start` to `stop`, both of which may be called twice."""

    def __init__(
        self,
        retention: Expiring,
        config: RetentionConfig,
        *,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
        first_seconds: float = START_SECONDS,
    ) -> None:
        self._retention = retention
        self._config = config
        self._now = now
        self._first_seconds = first_seconds
        self._running: asyncio.Task[None] | None = None
        self.passed = asyncio.Event()
        """Set after each pass, for who waits for one."""

    def start(self) -> None:
        if self._config.is_enabled and self._running is None:
            self._running = asyncio.create_task(self._run(), name="retention")

    async def stop(self) -> None:
        """A pass that is under way is broken off; the next one goes on where it was."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def _run(self) -> None:
        await asyncio.sleep(self._first_seconds)
        while True:
            due = await self._pass()
            while (left := (due - self._now()) / 1e6) > 0:  # noqa: ASYNC110 - for the clock there is no event
                await asyncio.sleep(min(left, LONGEST_SLEEP_SECONDS))

    async def _pass(self) -> int:
        """One pass; returns when the next one is due."""
        now = self._now()
        retry = now + round(RETRY_SECONDS * 1e6)
        try:
            periods = await self._retention.load_periods(self._config.period_us)
            done = await self._retention.expire(now, periods, has_workers=self._config.has_workers)
        except StorageError as error:
            logger.warning("old records could not be deleted, and will be later: %s", error)
            return retry
        except Exception:
            # Whatever it is, the engine goes on, and the next pass may find it gone.
            logger.exception("old records could not be deleted")
            return retry
        finally:
            self.passed.set()
        if done != Expired():
            logger.info(
                "deleted what is past its retention period: %d runs and %d events by pages, %d scheduled runs, %d workers, days %s",
                done.runs,
                done.events,
                done.scheduled_runs,
                done.workers,
                ", ".join(done.days) or "none",
            )
        if done.left:
            logger.warning("in use, and deleted later: %s", ", ".join(done.left))
            return retry
        return next_due(now, periods.all())
