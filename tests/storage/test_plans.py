"""`commit_batch` reads by the right index, whatever the tables looked like when its plans were made."""

import asyncio
import itertools

import asyncpg

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.queries import load
from broadaxe_storage.records import Batch, IdempotencyRelease, RunRevival
from tests.conformance.store_suite import SHARDS
from tests.factories import (
    TENANT,
    make_claim,
    make_event,
    make_finish,
    make_member,
    make_run,
    make_run_finish,
    make_settle,
    make_task_run,
    make_update,
    new_id,
)

LIVES = 20
CROWD = 4_000


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
        releases = tuple(IdempotencyRelease(TENANT, claim.key, claim.run_id) for claim in claims)
        for batch in (
            Batch(created=(*runs, *members, *singles), claimed_keys=claims),
            Batch(updated=tuple(map(make_update, (*members, *singles))), claimed_keys=claims),
            Batch(
                finished=tuple(map(make_finish, singles)),
                settled=tuple(map(make_settle, members)),
                ended=ends,
                released_keys=releases,
            ),
            Batch(revived=tuple(RunRevival(run.id, TENANT, 3) for run in runs), created=(*runs, *again)),
            Batch(settled=tuple(map(make_settle, again)), ended=ends),
        ):
            await self.commit(batch)


async def test_plans_made_while_the_tables_were_empty_stay_right(database_config: DatabaseConfig) -> None:
    other = await asyncpg.connect(database_config.url)
    try:
        # An analysis would have the plans made anew.
        for (table,) in await other.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^(task_run|idempotency_key)'"
        ):
            await other.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        store = await PostgresStore.open(database_config)
        try:
            lives = Lives(store, await store.open_shards())
            await lives.live(1)
            crowd = [make_task_run() for _ in range(CROWD)]
            claims = tuple(make_claim(new_id()) for _ in range(CROWD))
            await lives.commit(Batch(created=tuple(crowd), claimed_keys=claims))
            await lives.commit(Batch(finished=tuple(map(make_finish, crowd[: CROWD // 2]))))
            await lives.live(LIVES)
        finally:
            await store.close()
        async with asyncio.timeout(10):
            # A session tells what it has read when it ends, and nobody of its end.
            while await other.fetchval(  # noqa: ASYNC110
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'broadaxe%'"
                " AND datname = current_database()"
            ):
                await asyncio.sleep(0.01)
        scans, read = await other.fetchrow(
            "SELECT sum(seq_scan), sum(idx_tup_fetch) FROM pg_stat_user_tables"
            " WHERE relname ~ '^(task_run|idempotency_key)'"
        )
        entries = await other.fetchval(
            "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname ~ '^(task_run|idempotency_key)'"
        )
        # A run's life is some 20 probes; one wrong plan would read the crowd at each.
        most = CROWD // 2 + 40 * (LIVES + 1)
        assert scans == 0
        assert CROWD // 2 < read < most
        assert CROWD // 2 < entries < most
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
