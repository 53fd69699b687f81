"""The right index serves: a commit, whatever the tables looked like when its plans were made; and each way to ask for a listing."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.history import LISTING_SETTINGS
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.queries import load
from broadaxe_storage.records import Batch, IdempotencyRelease, RateLimitDrop, RunRevival
from broadaxe_storage.records import TaskRunState as S
from tests.conformance.store_suite import SHARDS
from tests.factories import (
    TENANT,
    make_claim,
    make_event,
    make_finish,
    make_log,
    make_member,
    make_rate_limit,
    make_run,
    make_run_finish,
    make_settle,
    make_task_run,
    make_update,
    new_id,
)
from tests.postgres import TestServer

LIVES = 20
CROWD = 4_000
WORKFLOW = new_id()
TABLES = "^(task_run|idempotency_key|rate_limit)"
"""What is watched."""


class Lives:
    """Runs that go through everything that a flush can do to them."""

    def __init__(self, store: PostgresStore, epoch: int) -> None:
        self.store = store
        self.epoch = epoch
        self.flushes = itertools.count(1)

    async def commit(self, batch: Batch) -> None:
        await self.store.commit(self.epoch, next(self.flushes), SHARDS, batch)

    async def live(self, count: int) -> None:
        runs = [make_run() for _ in range(count)]
        members = [make_member(run) for run in runs for _ in range(2)]
        again = [row._replace(attempt=1) for row in members]
        singles = [make_task_run() for _ in range(count)]
        claims = tuple(make_claim(new_id()) for _ in range(count))
        ends = tuple(make_run_finish(run, 2) for run in runs)
        limits = tuple(make_rate_limit(claim.key) for claim in claims)
        drops = tuple(RateLimitDrop(TENANT, limit.key) for limit in limits)
        releases = tuple(IdempotencyRelease(TENANT, claim.key, claim.run_id) for claim in claims)
        for batch in (
            Batch(created=(*runs, *members, *singles), claimed_keys=claims, rate_limits=limits),
            Batch(
                updated=tuple(map(make_update, (*members, *singles))), claimed_keys=claims, rate_limits=limits
            ),
            Batch(
                finished=tuple(map(make_finish, singles)),
                settled=tuple(map(make_settle, members)),
                ended=ends,
                released_keys=releases,
                dropped_rate_limits=drops,
            ),
            Batch(revived=tuple(RunRevival(run.id, TENANT, 3) for run in runs), created=(*runs, *again)),
            Batch(settled=tuple(map(make_settle, again)), ended=ends),
        ):
            await self.commit(batch)

    async def live_beside_a_crowd(self) -> None:
        crowd = [make_task_run() for _ in range(CROWD)]
        claims = tuple(make_claim(new_id()) for _ in range(CROWD))
        limits = tuple(make_rate_limit(claim.key) for claim in claims)
        await self.commit(Batch(created=tuple(crowd), claimed_keys=claims, rate_limits=limits))
        await self.commit(Batch(finished=tuple(map(make_finish, crowd[: CROWD // 2]))))
        await self.live(LIVES)


async def check_reads(other: "asyncpg.Connection[asyncpg.Record]") -> None:
    """That a life beside the crowd was led by probes: nothing scanned, and not more read than the crowd's own half and the probes."""
    async with asyncio.timeout(10):
        # A session tells what it has read when it ends, and nobody of its end.
        while await other.fetchval(  # noqa: ASYNC110
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'broadaxe%'"
            " AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)
    scans, read = await other.fetchrow(
        f"SELECT sum(seq_scan), sum(idx_tup_fetch) FROM pg_stat_user_tables WHERE relname ~ '{TABLES}'"
    )
    entries = await other.fetchval(
        f"SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname ~ '{TABLES}'"
    )
    # A run's life is some 20 probes; one wrong plan would read the crowd at each.
    most = CROWD // 2 + 40 * (LIVES + 1)
    assert scans == 0
    assert CROWD // 2 < read < most
    assert CROWD // 2 < entries < most


async def test_plans_stay_right_after_a_vacuum_of_empty_tables(database_config: DatabaseConfig) -> None:
    other = await asyncpg.connect(database_config.url)
    try:
        # An analysis would have the plans made anew.
        for (table,) in await other.fetch(
            f"SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '{TABLES}'"
        ):
            await other.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        store = await PostgresStore.open(database_config)
        try:
            lives = Lives(store, await store.open_shards())
            await lives.live(1)
            # What autovacuum leaves behind a burst: pages, and no row in them.
            gone = tuple(make_task_run() for _ in range(CROWD))
            keys = tuple(make_claim(new_id()) for _ in range(CROWD))
            limits = tuple(make_rate_limit(claim.key) for claim in keys)
            await lives.commit(Batch(created=gone, claimed_keys=keys, rate_limits=limits))
            for table in ("task_run", "task_run_history", "idempotency_key", "rate_limit"):
                await other.execute(f"DELETE FROM {table}")
            for (table,) in await other.fetch(
                f"SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '{TABLES}'"
            ):
                await other.execute(f"VACUUM (ANALYZE, TRUNCATE off) {table}")
            await other.execute("SELECT pg_stat_force_next_flush()")
            await other.execute("SELECT pg_stat_reset()")
            await lives.live_beside_a_crowd()
        finally:
            await store.close()
        await check_reads(other)
    finally:
        await other.close()


async def test_plans_made_while_the_tables_were_empty_stay_right(database_config: DatabaseConfig) -> None:
    other = await asyncpg.connect(database_config.url)
    try:
        # An analysis would have the plans made anew.
        for (table,) in await other.fetch(
            f"SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '{TABLES}'"
        ):
            await other.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        store = await PostgresStore.open(database_config)
        try:
            lives = Lives(store, await store.open_shards())
            await lives.live(1)
            await lives.live_beside_a_crowd()
        finally:
            await store.close()
        await check_reads(other)
    finally:
        await other.close()


async def test_events_are_read_by_their_keys(database_config: DatabaseConfig) -> None:
    store = await PostgresStore.open(database_config)
    other = await asyncpg.connect(database_config.url)
    try:
        lives = Lives(store, await store.open_shards())
        await lives.commit(Batch(events=tuple(make_event(key=f"k{n % 50}") for n in range(CROWD))))
        await other.execute("ANALYZE event")
        assert len(await store.fetch_events(TENANT, ["k1", "k2"], 0, None, 30)) == 30
        await other.execute("SET plan_cache_mode = force_generic_plan")
        await other.execute(f"PREPARE fetch_events AS {load()['fetch_events']}")
        plan = await other.fetch(
            f"EXPLAIN EXECUTE fetch_events ('{TENANT}', '{{k1,k2}}', now(), now(), '{TENANT}', 30)"
        )
        assert "tenant_id_key_created_at_idx" in "\n".join(row[0] for row in plan)
    finally:
        await other.close()
        await store.close()


@pytest.fixture
async def crowded(postgres_server: TestServer) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a database with some thousand runs of every kind, live and ended, analysed."""
    url = await postgres_server.create_database()
    store = await PostgresStore.open(DatabaseConfig(url=url))
    lives = Lives(store, await store.open_shards())
    rows = [
        make_task_run(
            idempotency_key=f"key {n}" if n % 10 < 9 else None,
            parent_task_run_id=new_id() if n % 2 else None,
            triggering_event_id=new_id() if n % 3 else None,
            workflow_id=WORKFLOW if n % 20 == 0 else new_id(),
            metadata=json.dumps({"tier": str(n % 400), "env": "prod"}) if n % 2 else "{}",
        )
        for n in range(CROWD)
    ]
    runs = [make_run() for _ in range(CROWD // 4)]
    members = [make_member(run) for run in runs]
    await lives.commit(Batch(created=(*rows, *runs, *members), logs=tuple(make_log(row.id) for row in rows)))
    states = (S.COMPLETED,) * 99 + (S.FAILED,)
    ends = tuple(make_finish(row, state=states[n % 100]) for n, row in enumerate(rows[: CROWD // 2]))
    half = len(runs) // 2
    await lives.commit(
        Batch(
            finished=ends,
            settled=tuple(map(make_settle, members)),
            ended=tuple(make_run_finish(run, 1) for run in runs[:half]),
        )
    )
    await store.close()
    connection = await asyncpg.connect(url)
    for table in ("task_run", "task_run_history", "log_line"):
        await connection.execute(f"VACUUM (ANALYZE) {table}")
    yield connection
    await connection.close()
    await postgres_server.drop_database(url)


LISTED = "'{0}', now() - interval '1 day', 'infinity', now() - interval '2 days'"
ORDERED = "task_run_list_runs tenant_id_created_at_id_idx"
PARENT = "task_run_parent parent_task_run_id_idx"
FAILED = "tenant_id_created_at_id_state_wor_idx"
BY_WORKFLOW = "workflow_id_created_at_idx"
METADATA = "expr_idx"
NARROWED = {
    "states": "NULL",
    "workflows": "NULL",
    "workflow": "NULL",
    "contains": "NULL",
    "path": "NULL",
    "keys": "NULL",
    "values": "NULL",
    "least": "1",
    "parent": "NULL",
    "event": "NULL",
    "idempotency_keys": "NULL",
    "live": "true",
}


def asked(*more: str, **given: str) -> str:
    """Arguments of a listing that is narrowed by these."""
    assert set(given) <= set(NARROWED)
    return ", ".join((LISTED, *(NARROWED | given).values(), *more))


FIRST_PAGE = ("false", "50", "0", "NULL", "NULL")
LAST_PAGE = ("false", "50", "9950", "NULL", "NULL")
RARE = """'{{"tier": "7"}}'"""
FINAL = {"live": "false"}
LISTINGS = (
    # query, arguments, what its plan has, what it has not
    ("list_runs", asked(*FIRST_PAGE), ORDERED, "Sort"),
    ("list_runs", asked(*LAST_PAGE), ORDERED, "Sort"),
    (
        "list_runs",
        asked("false", "50", "0", "now()", "'{0}'"),
        f"{ORDERED} ROW(created_at,",
        "Sort",
    ),
    ("list_runs", asked(*FIRST_PAGE, states="'{{6,7}}'", **FINAL), "id_idx", "task_run_list"),
    (
        "list_runs",
        asked(*LAST_PAGE, states="'{{8}}'", **FINAL),
        f"Index_Only_Scan {FAILED}",
        "task_run_list",
    ),
    ("count_runs", asked("50", states="'{{8}}'", **FINAL), f"Index_Only_Scan {FAILED}", "task_run_list"),
    (
        "count_runs",
        asked("10000", states="'{{7}}'", workflow="'{1}'", **FINAL),
        f"Index_Only_Scan {FAILED}",
        "task_run_list",
    ),
    ("list_runs", asked(*LAST_PAGE, workflow="'{1}'", **FINAL), BY_WORKFLOW, "tenant_id_created_at_id_idx"),
    (
        "list_runs_of_workflows",
        asked(*FIRST_PAGE, "'{{{1}}}'", **FINAL),
        BY_WORKFLOW,
        "tenant_id_created_at_id_idx",
    ),
    ("list_runs", asked(*FIRST_PAGE, contains=RARE, **FINAL), METADATA, "tenant_id_created_at_id_idx"),
    ("count_runs", asked("10000", contains=RARE, **FINAL), METADATA, "tenant_id_created_at_id_idx"),
    (
        "list_runs",
        asked(*FIRST_PAGE, path="""'$."tier" == "7" || $."n" == 3'""", **FINAL),
        METADATA,
        "tenant_id_created_at_id_idx",
    ),
    ("list_runs", asked(*FIRST_PAGE, parent="'{0}'"), PARENT, ORDERED),
    ("list_runs", asked(*FIRST_PAGE, event="'{0}'"), "task_run_event triggering_event_id_idx", ORDERED),
    ("list_runs", asked(*FIRST_PAGE, idempotency_keys="'{{k}}'"), "task_run_pkey _id_idx", ORDERED),
    ("count_runs", asked("50", parent="'{0}'"), PARENT, ORDERED),
    (
        "list_task_runs",
        asked("NULL", "false", "50", "0"),
        f"{ORDERED} task_run_list_tasks tenant_id_created_at_id_idx1",
        "",
    ),
    (
        "list_logs",
        "'{0}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, 50",
        "tenant_id_created_at_number_idx",
        "Sort",
    ),
    (
        "list_logs",
        "'{0}', '{{{0}}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, 50",
        "task_run_id_number_idx",
        "created_at_number_idx",
    ),
)


async def test_a_listing_reads_by_what_it_is_asked_for(
    crowded: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    for name, value in LISTING_SETTINGS.items():
        await crowded.execute("SELECT set_config($1, $2, false)", name, value)
    for number, (name, arguments, used, unused) in enumerate(LISTINGS):
        await crowded.execute(f"PREPARE asked_{number} AS {load()[name]}")
        rows = await crowded.fetch(f"EXPLAIN EXECUTE asked_{number} ({arguments.format(TENANT, WORKFLOW)})")
        plan = (
            "\n".join(row[0] for row in rows)
            .replace("Sort Key", "Order")
            .replace("Index Only Scan", "Index_Only_Scan")
        )
        # A page is found first, and then its rows are looked up, by their ids.
        plan = plan.split("CTE page")[-1].split("->  CTE Scan")[0]
        assert all(part in plan for part in used.split()), f"{name} ({arguments}):\n{plan}"
        assert not any(part in plan for part in unused.split()), f"{name} ({arguments}):\n{plan}"
        # Of tomorrow's partition, which is empty, anything will do.
        assert set(re.findall(r"Seq Scan on \w+ .*?rows=(\d+)", plan)) <= {"1"}, plan


async def test_idempotency_keys_are_found_by_their_index(
    crowded: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await crowded.execute("SELECT pg_stat_reset()")
    assert (
        await crowded.fetchval(
            "SELECT count(*) FROM runs_with_keys($1, ARRAY['key 7', 'key 8', 'no'])", TENANT
        )
        == 2
    )
    await crowded.execute("SELECT pg_stat_force_next_flush()")
    scans, read = await crowded.fetchrow(
        "SELECT sum(seq_scan), sum(idx_tup_fetch) FROM pg_stat_user_tables WHERE relname LIKE 'task_run%'"
    )
    assert (scans, read) == (0, 2)


EVENTS = "'{0}', now() - interval '1 day', 'infinity'"
ALL_EVENTS = "NULL, NULL, NULL, NULL, NULL, NULL, 86400000000"
EVENT_LISTINGS = (
    # query, arguments, what its plan has, what it has not
    ("list_events", f"{EVENTS}, {ALL_EVENTS}, 50, 0", "Backward tenant_id_created_at_id_idx", "Sort Bitmap"),
    ("list_events", f"{EVENTS}, '{{{{s1}}}}', NULL, NULL, NULL, NULL, NULL, 1, 50, 0", "Backward", "Seq"),
    (
        "list_events",
        f"{EVENTS}, NULL, '{{{{{{0}}}}}}', NULL, NULL, NULL, NULL, 1, 50, 0",
        r"Index.Cond:.\(id.=.ANY",
        "Backward",
    ),
    (
        "list_events",
        f"{EVENTS}, NULL, NULL, NULL, NULL, '{{{{{{0}}}}}}', NULL, 1, 50, 0",
        "triggering_event_id",
        "Seq",
    ),
    (
        "list_events_of_keys",
        f"{EVENTS}, {ALL_EVENTS}, 50, 0, '{{{{k1,k2}}}}'",
        "tenant_id_key_created_at_idx",
        "created_at_id_idx Seq",
    ),
    (
        "count_events_of_keys",
        f"{EVENTS}, {ALL_EVENTS}, 1000, '{{{{k1}}}}'",
        "tenant_id_key_created_at_idx",
        "created_at_id_idx Seq",
    ),
)


async def test_events_are_listed_along_their_indexes(database_config: DatabaseConfig) -> None:
    store = await PostgresStore.open(database_config)
    other = await asyncpg.connect(database_config.url)
    try:
        lives = Lives(store, await store.open_shards())
        events = [make_event(key=f"k{n % 50}", scope=f"s{n % 7}") for n in range(2 * CROWD)]
        started = [make_task_run(triggering_event_id=event.id) for event in events[::3]]
        await lives.commit(Batch(events=tuple(events), created=tuple(started)))
        await lives.commit(Batch(finished=tuple(map(make_finish, started[::2]))))
        await other.execute("ANALYZE event; ANALYZE task_run; ANALYZE task_run_history")
        for name, value in LISTING_SETTINGS.items():
            await other.execute(f"SET {name} = '{value}'")
        for number, (name, arguments, used, unused) in enumerate(EVENT_LISTINGS):
            await other.execute(f"PREPARE asked_{number} AS {load()[name]}")
            values = arguments.format(TENANT)
            rows = await other.fetch(f"EXPLAIN EXECUTE asked_{number} ({values})")
            # Of partitions without rows anything will do.
            lines = [row[0] for row in rows if "rows=1 " not in row[0] or "Index Cond" in row[0]]
            plan = "\n".join(lines).replace("Sort Key", "Order")
            assert all(re.search(part, plan) for part in used.split()), plan
            assert not any(part in plan for part in unused.split()), plan
    finally:
        await other.close()
        await store.close()
