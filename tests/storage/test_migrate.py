"""Migrations: up, down, once, and never on a database that does not fit."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from broadaxe_storage import pool
from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.errors import CannotConnect, CannotMigrate, DatabaseTooOld, SchemaTooNew
from broadaxe_storage.migrate import known_migrations, migrate
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.records import Batch
from broadaxe_storage.summaries import RunQuery
from tests.conformance.store_suite import SHARDS
from tests.factories import (
    TENANT,
    make_finish,
    make_member,
    make_run,
    make_run_finish,
    make_settle,
    make_task_run,
)
from tests.postgres import TestServer

OBJECTS = """
SELECT array_agg(x ORDER BY x) FROM (
    SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable AS x
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'schema_migration'
    UNION ALL SELECT 'index ' || indexdef FROM pg_indexes
        WHERE schemaname = 'public' AND tablename <> 'schema_migration'
    UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid <> 0
            AND conrelid <> coalesce(to_regclass('schema_migration'), 0::regclass)
    UNION ALL SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'c'
        AND typname <> 'schema_migration'
) AS all_of_it
"""

# A task run created and finished as migration 0001 has it.
COMMIT_OF_0001 = f"""
DO $$
DECLARE
    v_at timestamptz := now();
BEGIN
    PERFORM commit_batch(0, 1, ARRAY[7]::smallint[], ARRAY[ROW(
        '{TENANT}', '{TENANT}', '{TENANT}', '{TENANT}', '{TENANT}', 0, 0, 0, 0, 0, 1, 1, 1, NULL, v_at, v_at, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{{}}', ''
    )::created_task_run], ARRAY[ROW(
        '{TENANT}', '{TENANT}', 0, 2, 0, 0, 0, 1, 2, v_at, NULL, v_at, v_at, v_at, '{TENANT}'
    )::updated_task_run], ARRAY[ROW(
        '{TENANT}', '{TENANT}', 0, 6, 0, 0, 0, v_at, v_at, v_at, v_at, '{TENANT}', 'out', NULL
    )::finished_task_run], '{{}}', '{{}}', '{{}}', '{{}}', '{{}}');
END
$$
"""


@pytest.fixture
async def empty_config(postgres_server: TestServer) -> AsyncIterator[DatabaseConfig]:
    url = await postgres_server.create_database(is_migrated=False)
    yield DatabaseConfig(url=url)
    await postgres_server.drop_database(url)


async def ask(config: DatabaseConfig, statement: str) -> object:
    connection = await asyncpg.connect(config.url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_down_leaves_nothing_and_up_again_gives_the_same(empty_config: DatabaseConfig) -> None:
    count = len(known_migrations())
    assert await migrate(empty_config) == count
    assert await migrate(empty_config) == 0
    first = await ask(empty_config, OBJECTS)
    assert first
    assert await migrate(empty_config, target=0) == count
    assert await ask(empty_config, OBJECTS) is None
    assert await migrate(empty_config) == count
    assert await ask(empty_config, OBJECTS) == first


async def test_each_migration_is_taken_back_exactly(empty_config: DatabaseConfig) -> None:
    shapes = [await ask(empty_config, OBJECTS)]
    for version in range(1, len(known_migrations()) + 1):
        assert await migrate(empty_config, target=version) == 1
        shapes.append(await ask(empty_config, OBJECTS))
    for version in reversed(range(len(known_migrations()))):
        assert await migrate(empty_config, target=version) == 1
        assert await ask(empty_config, OBJECTS) == shapes[version], version


async def test_the_release_before_goes_on_while_it_is_replaced(empty_config: DatabaseConfig) -> None:
    await migrate(empty_config)
    await ask(empty_config, COMMIT_OF_0001)
    assert await ask(empty_config, "SELECT count(*) FROM task_run_history") == 1
    store = await PostgresStore.open(empty_config)
    try:
        (row,) = await store.history.list_runs(TENANT, RunQuery(0), limit=10, has_payloads=True)
        assert (row.idempotency_key, row.output) == (None, b"out")
    finally:
        await store.close()


@pytest.mark.parametrize("kind", ["run", "waits"])
async def test_what_an_older_schema_could_not_carry_on_keeps_it_from_coming_back(
    empty_config: DatabaseConfig, kind: str
) -> None:
    store = await PostgresStore.open(empty_config)
    run, single, waiting = make_run(), make_task_run(idempotency_key="k"), make_task_run(waits="{}")
    member, later = make_member(run), make_member(run)
    try:
        epoch = await store.open_shards()
        rows = (run, member, later) if kind == "run" else (waiting,)
        await store.commit(epoch, 1, SHARDS, Batch(created=(*rows, single)))
        with pytest.raises(CannotMigrate, match=rf"1 runs .* have not ended \({rows[0].id}\); cancel them"):
            await migrate(empty_config, target=1)
        await migrate(empty_config)  # what came after it was taken back
        assert len(await store.fetch_live(TENANT, [row.id for row in rows])) == len(rows)
        if kind == "run":
            end = Batch(
                settled=(make_settle(member, finished_at=5), make_settle(later)),
                ended=(make_run_finish(run, 2),),
            )
        else:
            end = Batch(finished=(make_finish(waiting),))
        await store.commit(epoch, 2, SHARDS, end)
    finally:
        await store.close()
    assert await migrate(empty_config, target=1) > 0
    assert await migrate(empty_config) > 1
    store = await PostgresStore.open(empty_config)
    try:
        found = await store.fetch_finished(TENANT, [row.id for row in rows])
        assert {row.id for row in found} == {row.id for row in rows}
        assert [row.id for row in await store.fetch_live(TENANT, [single.id])] == [single.id]
    finally:
        await store.close()


async def test_servers_starting_at_once_apply_each_once(empty_config: DatabaseConfig) -> None:
    steps = await asyncio.gather(*(migrate(empty_config) for _ in range(4)))
    assert sum(steps) == len(known_migrations())
    assert await ask(empty_config, "SELECT count(*) FROM schema_migration") == len(known_migrations())


async def test_a_newer_schema_is_refused(empty_config: DatabaseConfig) -> None:
    await migrate(empty_config)
    await ask(empty_config, "INSERT INTO schema_migration (version, name) VALUES (9999, 'later')")
    with pytest.raises(SchemaTooNew, match="at migration 9999"):
        await PostgresStore.open(empty_config)


async def test_an_old_postgres_is_refused(
    empty_config: DatabaseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "OLDEST_POSTGRES", 99)
    with pytest.raises(DatabaseTooOld, match=r"runs PostgreSQL 18\.\d+, and PostgreSQL 99 or later"):
        await PostgresStore.open(empty_config)
    assert await ask(empty_config, "SELECT to_regclass('schema_migration') IS NULL")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://u:s3cret@127.0.0.1:1/app", "onnect"),
        ("postgresql://u:s3cret@host.invalid/app", "."),
    ],
)
async def test_an_unreachable_database_is_told_in_words(url: str, reason: str) -> None:
    with pytest.raises(
        CannotConnect, match=r"cannot connect to the database postgresql://u:\*\*\*@"
    ) as error:
        await PostgresStore.open(DatabaseConfig(url=url, connect_timeout_seconds=2))
    assert "DATABASE_URL" in str(error.value)
    assert "s3cret" not in str(error.value)


async def test_a_database_that_does_not_exist_is_told_in_words(postgres_server: TestServer) -> None:
    with pytest.raises(CannotConnect, match='database "nowhere" does not exist'):
        await migrate(DatabaseConfig(url=postgres_server.url("nowhere")))
