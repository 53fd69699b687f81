"""The end of what is old: days dropped whole at the longest period, pages of rows deleted for tenants with shorter ones.

May touch asyncpg through `pool`. Facts to know:

- Whole UTC days are kept or not: a run that ended, or an event that came, on a day goes once all of that day is older than the period. So
  there is something to do only when a day passes a period, `next_due`, and an idle system asks nothing in between.
- Scheduled runs that have fired go by the day on which they did, unless their run is live.
- Runs go by the day of their end, with their task runs, what happened to those and their log lines; live runs keep all of theirs, and so do
  ended children of live parents, which name them. What must outlive its day is copied to the default partition as the day is taken off.
- Taking a day off needs a lock that whoever writes waits for: it is tried for 50 ms, and again after a pause that grows. Everything else
  locks only what nobody writes any more.
- Whoever loses the owner's lock stops: two engines at it would do no harm, but double work.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.ownership import Ownership
from broadaxe_storage.partitions import DAY_US, Partitions
from broadaxe_storage.pool import Connection, Pool, close, connect, translated_errors
from broadaxe_storage.queries import query

_logger = logging.getLogger("broadaxe.storage")

PAGE = 1_000
SHORTEST_US = 3_600_000_000
DETACH_WAITS_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses between the tries of one day's end; after the last one it is left for the next time."""
MAX_PAUSE_SECONDS = 1.0
_EPOCH = date(1970, 1, 1)
_NO_ID = "00000000-0000-0000-0000-000000000000"
_FIRST_TIME = -62_135_596_800_000_000
"""The year 1."""


@dataclass(slots=True)
class Expired:
    """What one pass took away."""

    runs: int = 0
    """By pages; runs that went with their day are not counted."""
    events: int = 0
    workers: int = 0
    scheduled_runs: int = 0
    days: list[str] = field(default_factory=list)
    """Tables of days that were dropped."""
    left: list[str] = field(default_factory=list)
    """Tables of days that somebody kept busy: they go the next time."""


@dataclass(frozen=True, slots=True)
class Periods:
    """How long what is kept, in microseconds."""

    default: int
    of_tenants: Mapping[str, int | None]
    """Every tenant; None for the default."""

    def of(self, tenant_id: str) -> int:
        own = self.of_tenants.get(tenant_id)
        return self.default if own is None else own

    @property
    def longest(self) -> int:
        return max([self.default, *filter(None, self.of_tenants.values())])

    def all(self) -> set[int]:
        return {self.default, *filter(None, self.of_tenants.values())}


def first_kept_day(now: int, period: int) -> int:
    """The first day, counted from 1970-01-01, of which any moment is within the period."""
    return (now - period) // DAY_US


def next_due(now: int, periods: Iterable[int]) -> int:
    """When next a whole day becomes older than one of the periods."""
    return min((first_kept_day(now, period) + 1) * DAY_US + period for period in periods)


class Retention:
    """Deletes what is older than its tenant's period."""

    def __init__(
        self, config: DatabaseConfig, pool: Pool, ownership: Ownership, partitions: Partitions
    ) -> None:
        self._config = config
        self._pool = pool
        self._ownership = ownership
        self._partitions = partitions

    async def load_periods(self, default: int) -> Periods:
        """Of all tenants. Raises `Unavailable`."""
        rows = await self._pool.fetch("load_retention_periods")
        return Periods(default, {row[0]: row[1] for row in rows})

    async def fetch_period(self, tenant_id: str) -> int | None:
        """A tenant's own period; None for the default, and for an unknown tenant. Raises `Unavailable`."""
        period: int | None = await self._pool.fetchval("fetch_retention_period", tenant_id)
        return period

    async def set_period(self, tenant_id: str, period: int | None) -> bool:
        """Give a tenant a period of its own, or the default by None; it counts from the next pass on. False for an unknown tenant."""
        return bool(await self._pool.fetch("set_retention_period", tenant_id, period))

    async def expire(self, now: int, periods: Periods, *, has_workers: bool) -> Expired:
        """One pass. Safe to repeat, and to break off at any point. Raises `Unavailable`, and when the owner's lock is lost meanwhile.

        has_workers: workers that are gone for longer than the tenant's period go, too.
        """
        done = Expired()
        longest = first_kept_day(now, periods.longest)
        connection = await connect(self._config.session_url, self._config, name="broadaxe-retention")
        try:
            # Runs first: what they leave behind of younger days is told by which of them are there.
            for table in ("task_run_history", "event"):
                await self._drop_days(connection, table, longest, done)
            busy = min((_day_of(name) for name in done.left), default=longest)
            for tenant_id in periods.of_tenants:
                first_kept = first_kept_day(now, periods.of(tenant_id))
                # A day that is busy now goes as a whole the next time: nobody need delete it row by row.
                until = busy if first_kept == longest else first_kept
                await self._expire_tenant(tenant_id, until * DAY_US, has_workers, done)
            for table in ("task_event", "log_line"):
                await self._drop_days(connection, table, longest, done)
        finally:
            await close(connection)
        until = longest * DAY_US
        await self._all_pages(lambda: self._pool.fetchval("expire_kept_events", until, PAGE))
        await self._all_pages(lambda: self._pool.fetchval("expire_kept_lines", until, PAGE))
        return done

    # ---------------------------------------------------------------- pages

    async def _expire_tenant(self, tenant_id: str, until: int, has_workers: bool, done: Expired) -> None:
        after, after_id = _FIRST_TIME, _NO_ID
        while True:
            started = time.monotonic()
            self._check_owner()
            (row,) = await self._pool.fetch("expire_runs", tenant_id, until, after, after_id, PAGE)
            done.runs += row["deleted"]
            if row["last_id"] is None:
                break
            after, after_id = row["last_at"], row["last_id"]
            await _pause(started)
        done.events += await self._all_pages(
            lambda: self._pool.fetchval("expire_events", tenant_id, until, PAGE)
        )
        done.scheduled_runs += await self._all_pages(
            lambda: self._pool.fetchval("expire_scheduled_runs", tenant_id, until, PAGE)
        )
        if has_workers:
            done.workers += await self._all_pages(
                lambda: self._pool.fetchval("expire_workers", tenant_id, until, PAGE)
            )

    async def _all_pages(self, delete: Callable[[], Awaitable[int]]) -> int:
        total = 0
        while True:
            started = time.monotonic()
            self._check_owner()
            count = await delete()
            total += count
            if count < PAGE:
                return total
            await _pause(started)

    def _check_owner(self) -> None:
        if not self._ownership.is_held:
            raise Unavailable("the engine's lock is not held: old records are left for later")

    # ---------------------------------------------------------------- days

    async def _drop_days(self, connection: Connection, table: str, first_kept: int, done: Expired) -> None:
        with translated_errors():
            rows = await connection.fetch(query("list_days"), table, _EPOCH + timedelta(days=first_kept))
        for row in rows:
            day: date = row["day"]
            self._check_owner()
            name = f"{table}_{day:%Y%m%d}"
            if row["is_partition"] and not await self._detach(connection, table, day):
                done.left.append(name)
                continue
            # Nobody sees it any more, so nobody waits.
            with translated_errors():
                await connection.execute(query("drop_day"), table, day)
            done.days.append(name)

    async def _detach(self, connection: Connection, table: str, day: date) -> bool:
        """Take a day off; False when somebody kept it busy all the time."""
        with translated_errors():
            await connection.execute(query("keep_of_day"), table, day)
        for wait in (0.0, *DETACH_WAITS_SECONDS):
            await asyncio.sleep(wait)
            self._check_owner()
            try:
                # Making a day takes the same locks the other way round.
                async with self._partitions.unchanged():
                    with translated_errors():
                        await connection.execute(query("detach_day"), table, day)
            except Unavailable as error:
                if connection.is_closed():
                    raise
                _logger.info("%s of %s is busy, and is taken off later: %s", table, day, error)
            else:
                return True
        return False


def _day_of(table: str) -> int:
    return (date.fromisoformat(table[-8:]) - _EPOCH).days


async def _pause(started: float) -> None:
    """Leave the disk to others for as long as the page took."""
    await asyncio.sleep(min(time.monotonic() - started, MAX_PAUSE_SECONDS))
