"""The database of a server or command: the configured one, or the embedded Postgres of the data directory; migrated and seeded.

May start and stop processes through `broadaxe_storage.embedded`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from broadaxe_actors.runtime.clock import SystemRng
from broadaxe_gateway.config import SeedConfig, ServerConfig
from broadaxe_gateway.passwords import hash_password
from broadaxe_gateway.postgres_keeper import PostgresKeeper
from broadaxe_storage.embedded import EmbeddedPostgres
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.records import Batch
from broadaxe_storage.records_accounts import Defaults, TenantRow
from broadaxe_storage.store import DirectoryStore

logger = logging.getLogger("broadaxe.database")


class SlowCommitStore(PostgresStore):
    """Answers every commit late by `delay_seconds`: for benchmarks, in place of a disk that really flushes."""

    delay_seconds = 0.0

    async def commit(self, epoch: int, flush: int, shards: Sequence[int], batch: Batch) -> None:
        await super().commit(epoch, flush, shards, batch)
        await asyncio.sleep(self.delay_seconds)


async def open_store(
    config: ServerConfig,
    stack: AsyncExitStack,
    *,
    keeps_running: bool,
    on_lost: Callable[[str], None] | None = None,
) -> PostgresStore:
    """A migrated store. `stack` closes it, and stops the embedded Postgres unless it is to keep running.

    With `on_lost` an embedded Postgres that ends is started again until then, and `on_lost` is told why when that fails for good.
    Raises `StorageError` when the database cannot be reached, is too old, or its schema too new.
    """
    database = config.database
    if config.is_embedded:
        postgres = await _start_embedded(config)
        logger.info(
            "embedded Postgres %s (pid %d)",
            "found running" if postgres.was_running else "started",
            postgres.pid,
        )
        if not keeps_running:
            stack.push_async_callback(asyncio.to_thread, postgres.stop)
        if on_lost is not None:
            keeper = PostgresKeeper(postgres, partial(EmbeddedPostgres.start, config.data_dir), on_lost)
            stack.push_async_callback(keeper.stop)
        database = replace(database, url=postgres.url)
    store = await (SlowCommitStore if config.commit_delay_seconds else PostgresStore).open(database)
    stack.push_async_callback(store.close)
    if isinstance(store, SlowCommitStore):
        store.delay_seconds = config.commit_delay_seconds
        logger.warning(
            "every commit is delayed by %g ms (BROADAXE_COMMIT_DELAY_MS), as benchmarks ask for",
            config.commit_delay_seconds * 1000,
        )
    return store


async def _start_embedded(config: ServerConfig) -> EmbeddedPostgres:
    starting = asyncio.create_task(asyncio.to_thread(EmbeddedPostgres.start, config.data_dir))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread cannot be interrupted: what it started is stopped again, or it would be nobody's.
        postgres = await starting
        await asyncio.to_thread(postgres.stop)
        raise


async def ensure_seed(store: DirectoryStore, seed: SeedConfig) -> TenantRow:
    """The default tenant, made with its administrator if this is the first start; what exists is left as it is."""
    now = time.time_ns() // 1000
    rng = SystemRng()
    tenant_id = seed.tenant_id
    if tenant_id is None:
        present = await store.fetch_tenant_by_slug(seed.tenant_slug)
        tenant_id = present.id if present else rng.uuid7(now)
    password_hash = None
    if await store.fetch_user_by_email(seed.admin_email) is None:
        password_hash = await asyncio.to_thread(hash_password, seed.admin_password)
    return await store.ensure_default_tenant_and_admin(
        Defaults(
            tenant_id=tenant_id,
            tenant_name=seed.tenant_name,
            tenant_slug=seed.tenant_slug,
            admin_id=rng.uuid7(now),
            admin_email=seed.admin_email,
            admin_name=seed.admin_name,
            admin_password_hash=password_hash,
            now=now,
        )
    )
