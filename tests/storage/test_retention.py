"""Retention on real Postgres: what is old goes, what is live or young stays, and whoever writes hardly waits."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_storage import retention
from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.partitions import DAY_US
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.records import Batch, TaskRunRow, TaskRunState, WorkerStatus
from broadaxe_storage.retention import Expired, first_kept_day, next_due
from tests.conformance.store_suite import SHARDS
from tests.factories import (
    TENANT,
    make_event,
    make_finish,
    make_member,
    make_run,
    make_run_finish,
    make_scheduled_run,
    make_settle,
    make_task_event,
    make_task_run,
    make_tenant,
    make_update,
    make_worker,
    new_id,
    now_us,
)
from tests.postgres import TestServer

NOW = now_us() // DAY_US * DAY_US + DAY_US // 2
"""Noon: a day more or less is no matter of the hour."""
MONTH = 30 * DAY_US
OTHER = "22222222-2222-4222-8222-222222222222"


def ago(days: float) -> int:
    return NOW - round(days * DAY_US)


class Case:
    """A store with two tenants, and a life of runs told by their days."""

    def __init__(self, store: PostgresStore, epoch: int, url: str) -> None:
        self.store = store
        self.url = url
        self._epoch = epoch
        self._flushes = itertools.count(1)

    async def commit(self, **batch: Any) -> None:
        rows = {kind: tuple(found) for kind, found in batch.items()}
        await self.store.commit(self._epoch, next(self._flushes), SHARDS, Batch(**rows))

    async def ended(self, created: float, finished: float, **fields: Any) -> TaskRunRow:
        """A run of one task, with an entry of its history and a log line on the day of its creation."""
        row = make_task_run(created_at=ago(created), queued_at=ago(created), **fields)
        await self.live(row)
        await self.commit(finished=[make_finish(row, finished_at=ago(finished))])
        return row

    async def live(self, *rows: TaskRunRow) -> None:
        await self.commit(
            created=rows,
            task_events=[make_task_event(row.id, tenant_id=row.tenant_id, at=row.created_at) for row in rows],
        )
        for row in rows:
            await self.sql(
                "INSERT INTO log_line (task_run_id, tenant_id, stored_at, attempt, created_at, message)"
                " VALUES ($1, $2, to_timestamp($3::bigint / 1e6), 0, now(), 'hello')",
                row.id,
                row.tenant_id,
                row.created_at,
            )

    async def sql(self, statement: str, *arguments: object) -> Any:
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def expire(self, *, default: int = MONTH, now: int = NOW, has_workers: bool = False) -> Expired:
        periods = await self.store.retention.load_periods(default)
        return await self.store.retention.expire(now, periods, has_workers=has_workers)

    async def there(self, *rows: TaskRunRow) -> list[bool]:
        """Of each run: whether it is there, with its history and its log line, or none of that."""
        found = []
        for row in rows:
            parts = [
                bool(await self.store.history.fetch_rows(row.tenant_id, [row.id])),
                *[
                    bool(await self.sql(f"SELECT FROM {table} WHERE task_run_id = $1", row.id))
                    for table in ("task_event", "log_line")
                ],
            ]
            assert len(set(parts)) == 1, (row.id, parts)
            found.append(parts[0])
        return found


@pytest.fixture
async def case(server: TestServer) -> AsyncIterator[Case]:
    url = await server.create_database()
    store = await PostgresStore.open(DatabaseConfig(url=url, lock_wait_seconds=0.1))
    for tenant_id in (TENANT, OTHER):
        await store.insert_tenant(make_tenant(id=tenant_id, slug=tenant_id))
    yield Case(store, await store.open_shards(), url)
    await store.close()
    await server.drop_database(url)


# ---------------------------------------------------------------- days


async def test_days_past_the_longest_period_are_dropped_and_live_runs_keep_all(case: Case) -> None:
    old, edge, young = await case.ended(40, 40), await case.ended(31.4, 31.4), await case.ended(29, 29)
    live = make_task_run(created_at=ago(45), queued_at=ago(45))
    await case.live(live)
    events = [make_event(created_at=ago(days)) for days in (40, 29)]
    await case.commit(events=events)
    done = await case.expire()
    assert await case.there(old, edge, young, live) == [False, False, True, True]
    assert [row.id for row in await case.store.fetch_events(TENANT, [events[0].key], 0, None, 10)] == [
        events[1].id
    ]
    assert done.left == []
    assert (done.runs, done.events) == (0, 0)
    assert len([name for name in done.days if name.startswith("task_run_history_")]) == 3
    assert await case.expire() == Expired()
    await case.commit(finished=[make_finish(live, finished_at=NOW)])
    assert await case.there(live) == [True]


async def test_what_happened_to_a_run_stays_as_long_as_the_run(case: Case) -> None:
    # Its history begins on a day that goes, and it ended on one that stays.
    long = await case.ended(35, 10)
    run = make_run(created_at=ago(35), queued_at=ago(35))
    member = make_member(run, created_at=ago(35), queued_at=ago(35))
    await case.live(member._replace(id=member.id), run)
    await case.commit(settled=[make_settle(member, finished_at=ago(33))])
    await case.commit(ended=[make_run_finish(run, 1, finished_at=ago(9))])
    await case.expire()
    assert await case.there(long, member) == [True, True]
    later = NOW + 25 * DAY_US
    await case.expire(now=later)
    assert await case.there(long, member, run) == [False, False, False]
    assert await case.sql("SELECT FROM task_event") == []
    assert await case.sql("SELECT FROM log_line") == []


async def test_children_of_live_parents_stay_until_those_end(case: Case) -> None:
    parent = make_task_run(created_at=ago(50), queued_at=ago(50))
    await case.live(parent)
    child = await case.ended(45, 44, parent_task_run_id=parent.id, child_index=0)
    other = await case.ended(45, 44, parent_task_run_id=new_id(), child_index=0)
    run = make_run(
        created_at=ago(45), queued_at=ago(45), parent_task_run_id=parent.id, child_index=1, child_key="k"
    )
    member = make_member(run, created_at=ago(45), queued_at=ago(45))
    await case.live(run, member)
    await case.commit(settled=[make_settle(member, finished_at=ago(43))])
    await case.commit(ended=[make_run_finish(run, 1, finished_at=ago(43))])
    await case.expire()
    assert await case.there(child, other, run, member) == [True, False, True, True]
    assert await case.store.fetch_children(TENANT, parent.id) == [(0, None, child.id), (1, "k", run.id)]
    assert len(await case.store.fetch_finished(TENANT, [run.id])) == 2
    await case.commit(finished=[make_finish(parent, finished_at=NOW)])
    done = await case.expire()
    assert done.runs == 2
    assert await case.there(child, run, member, parent) == [False, False, False, True]


async def test_a_day_that_was_taken_off_and_not_dropped_goes_the_next_time(case: Case) -> None:
    row = await case.ended(40, 40)
    (day,) = await case.sql(
        "SELECT relname FROM pg_class WHERE relname LIKE 'task_run_history_20%' AND oid IN"
        " (SELECT tableoid FROM task_run_history WHERE id = $1)",
        row.id,
    )
    name = day["relname"]
    await case.sql(f"ALTER TABLE task_run_history DETACH PARTITION {name}")
    done = await case.expire()
    assert name in done.days
    (left,) = await case.sql("SELECT to_regclass($1) IS NULL AS gone", name)
    assert left["gone"]


# ---------------------------------------------------------------- pages


async def test_a_tenant_with_a_shorter_period_loses_its_own_by_pages(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PAGE", 3)
    assert await case.store.retention.set_period(OTHER, 7 * DAY_US)
    assert not await case.store.retention.set_period(new_id(), DAY_US)
    assert await case.store.retention.fetch_period(OTHER) == 7 * DAY_US
    assert await case.store.retention.fetch_period(TENANT) is None
    gone = [await case.ended(20 - n, 10 - n / 10, tenant_id=OTHER) for n in range(8)]
    parent = make_task_run(tenant_id=OTHER, created_at=ago(20), queued_at=ago(20))
    await case.live(parent)
    child = await case.ended(19.5, 9, tenant_id=OTHER, parent_task_run_id=parent.id)
    run = make_run(tenant_id=OTHER, created_at=ago(12), queued_at=ago(12))
    members = [make_member(run, created_at=ago(12), queued_at=ago(12)) for _ in range(2)]
    await case.live(run, *members)
    await case.commit(settled=[make_settle(member, finished_at=ago(9)) for member in members])
    await case.commit(ended=[make_run_finish(run, 2, finished_at=ago(9))])
    kept = [await case.ended(6, 6, tenant_id=OTHER), await case.ended(20, 10)]
    events = [make_event(tenant_id=OTHER, created_at=ago(9)) for _ in range(7)]
    await case.commit(
        events=[*events, make_event(created_at=ago(9)), make_event(tenant_id=OTHER, created_at=ago(5))]
    )
    done = await case.expire()
    assert await case.there(*gone, run, *members) == [False] * 11
    assert await case.there(*kept, parent, child) == [True] * 4
    assert (done.runs, done.events) == (9, 7)
    assert await case.sql("SELECT FROM event WHERE tenant_id = $1", TENANT)
    assert len(await case.sql("SELECT FROM event")) == 2
    assert (await case.expire()).runs == 0


async def test_a_longer_period_of_one_tenant_keeps_its_days(case: Case) -> None:
    await case.store.retention.set_period(OTHER, 90 * DAY_US)
    mine, theirs = await case.ended(60, 60), await case.ended(60, 60, tenant_id=OTHER)
    done = await case.expire()
    assert await case.there(mine, theirs) == [False, True]
    assert (done.runs, done.days) == (1, [])


async def test_workers_that_are_gone_go_when_that_is_asked(case: Case) -> None:
    holder = make_worker(updated_at=ago(40), status=WorkerStatus.LOST)
    rows = [
        make_worker(updated_at=ago(40), status=WorkerStatus.STOPPED),
        make_worker(updated_at=ago(40), status=WorkerStatus.LOST),
        make_worker(updated_at=ago(40), status=WorkerStatus.ACTIVE),
        make_worker(updated_at=ago(20), status=WorkerStatus.STOPPED),
        holder,
    ]
    held = make_task_run(
        state=TaskRunState.RUNNING, worker_id=holder.id, assigned_at=ago(40), started_at=ago(40)
    )
    await case.commit(workers=rows, created=[held])
    assert (await case.expire()).workers == 0
    assert (await case.expire(has_workers=True)).workers == 2
    left = {row.id for row in await case.store.history.list_workers(TENANT, 0)}
    assert left == {row.id for row in rows[2:]}


async def test_scheduled_runs_go_once_they_have_fired_and_their_runs_are_not_live(case: Case) -> None:
    live = make_task_run()
    gone = make_scheduled_run(fired_at=ago(40), run_id=new_id())
    kept = [
        make_scheduled_run(fired_at=ago(40), run_id=live.id),
        make_scheduled_run(fired_at=ago(20), error="why"),
        make_scheduled_run(trigger_at=ago(40)),
        make_scheduled_run(fired_at=ago(40), run_id=new_id(), tenant_id=new_id()),
    ]
    await case.commit(created=[live], scheduled_runs=[gone, *kept])
    assert (await case.expire()).scheduled_runs == 1
    left = {row["id"] for row in await case.sql("SELECT id::text FROM scheduled_run")}
    assert left == {row.id for row in kept}


# ---------------------------------------------------------------- beside others


async def test_a_busy_day_is_left_and_writers_hardly_wait(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "DETACH_WAITS_SECONDS", (0.05,) * 5)
    old = await case.ended(40, 40)
    reader = await asyncpg.connect(case.url)
    slowest = 0.0
    is_over = asyncio.Event()

    async def write() -> int:
        nonlocal slowest
        count = 0
        while not is_over.is_set():
            row = make_task_run()
            started = time.monotonic()
            await case.commit(created=[row], task_events=[make_task_event(row.id)])
            await case.commit(updated=[make_update(row)])
            await case.commit(finished=[make_finish(row, finished_at=now_us())])
            slowest = max(slowest, time.monotonic() - started)
            count += 1
        return count

    writing = asyncio.create_task(write())
    try:
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM task_run_history")
            done = await case.expire()
            assert [name[:16] for name in done.left] == ["task_run_history"]
            assert await case.there(old) == [True]
        done = await case.expire()
        assert done.left == []
    finally:
        is_over.set()
        count = await writing
        await reader.close()
    assert not await case.store.history.fetch_rows(TENANT, [old.id])
    assert count > 5
    assert slowest < 1.0, f"a life of three flushes took {slowest:.3f} s beside retention"


async def test_who_lost_the_owners_lock_stops(case: Case) -> None:
    await case.ended(40, 40)
    await case.store.ownership.release()
    with pytest.raises(Unavailable, match="lock is not held"):
        await case.expire()
    await case.store.ownership.take()
    assert (await case.expire()).days


# ---------------------------------------------------------------- when


@given(st.integers(0, 10**17), st.lists(st.integers(3_600_000_000, 10**15), min_size=1, max_size=4))
def test_between_two_passes_no_day_passes_a_period(now: int, periods: list[int]) -> None:
    due = next_due(now, periods)
    assert now < due <= now + DAY_US
    for period in periods:
        assert first_kept_day(due - 1, period) == first_kept_day(now, period)
    assert any(first_kept_day(due, period) > first_kept_day(now, period) for period in periods)


def test_a_period_of_whole_days_is_due_at_midnight() -> None:
    noon = 20_000 * DAY_US + DAY_US // 2
    assert next_due(noon, [MONTH]) == 20_001 * DAY_US
    assert next_due(noon, [MONTH, 3_600_000_000]) == 20_001 * DAY_US
    assert next_due(20_001 * DAY_US, [MONTH, 3_600_000_000]) == 20_001 * DAY_US + 3_600_000_000
