"""The store through pgbouncer in transaction mode, with more clients than server connections."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.postgres import PostgresStore
from tests.conformance.runs_suite import (  # noqa: F401 - as below
    test_a_run_may_be_revived_and_ended_in_one_batch,
    test_a_run_that_is_not_as_its_end_says_does_not_end,
    test_rows_of_a_run_are_read_back_as_written,
)
from tests.conformance.selection_suite import (  # noqa: F401 - as below
    test_keys_are_claimed_replaced_released_and_expire,
    test_runs_are_selected_by_what_they_are,
)
from tests.conformance.store_suite import (  # noqa: F401 - what takes another path here, and a sample of the rest
    OpenStore,
    Writer,
    make_task_run,
    store,
    test_a_duplicate_id_is_refused_and_nothing_is_written,
    test_a_second_engine_is_refused_while_the_first_lives,
    test_a_write_at_another_attempt_is_refused_whole,
    test_an_old_epoch_is_fenced_and_writes_nothing,
    test_created_task_runs_are_read_back_as_written,
    test_defaults_are_made_once_and_then_left_alone,
    test_finish_times_of_other_days_are_kept,
    test_many_created_task_runs_are_read_back_as_written,
    test_workers_that_may_come_back_are_loaded,
    writer,
)
from tests.postgres import TestServer
from tests.storage.test_history import (  # noqa: F401 - as above
    test_filters_narrow_a_listing_and_its_count,
    test_rows_are_fetched_by_id_and_by_run,
    world,
)

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="pgbouncer is not installed (apt-get install pgbouncer)"
)


@pytest.fixture(scope="module")
def bouncer(postgres_server: TestServer) -> Iterator[Path]:
    """The socket directory of a pgbouncer before the embedded server."""
    directory = Path(tempfile.mkdtemp(prefix="bx-pb-"))
    host = parse_qs(urlsplit(postgres_server.url("postgres")).query)["host"][0]
    (directory / "users").write_text('"postgres" ""\n')
    (directory / "ini").write_text(
        f"[databases]\n* = host={host} port=5432 user=postgres\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\n"
        f"unix_socket_dir = {directory}\nauth_type = any\nauth_file = {directory}/users\npool_mode = transaction\n"
        f"default_pool_size = 2\nmax_client_conn = 100\nlogfile = {directory}/log\n"
    )
    account = {}
    if os.geteuid() == 0:
        entry = pwd.getpwnam("pgserver")
        account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": ()}
        for path in (directory, *directory.iterdir()):
            os.chown(path, entry.pw_uid, entry.pw_gid)
    assert PGBOUNCER is not None
    process = subprocess.Popen(
        [PGBOUNCER, str(directory / "ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account
    )
    yield directory
    process.terminate()
    process.wait(10)
    shutil.rmtree(directory)


@pytest.fixture
async def pgbouncer_config(bouncer: Path, database_url: str) -> DatabaseConfig:
    async with asyncio.timeout(10):
        while not (bouncer / ".s.PGSQL.6432").exists():  # noqa: ASYNC110 - pgbouncer does not call
            await asyncio.sleep(0.02)  # pgbouncer tells that it is ready by its socket alone
    name = urlsplit(database_url).path
    return DatabaseConfig(
        url=f"postgresql://postgres@{name}?host={bouncer}&port=6432",
        direct_url=database_url,
        is_pgbouncer=True,
        lock_wait_seconds=0.1,
    )


@pytest.fixture
async def open_store(pgbouncer_config: DatabaseConfig) -> AsyncIterator[OpenStore]:
    stores: list[PostgresStore] = []

    async def open_one() -> PostgresStore:
        stores.append(await PostgresStore.open(pgbouncer_config))
        return stores[-1]

    yield open_one
    for opened in stores:
        await opened.close()


async def test_many_reads_at_once_share_two_server_connections(pgbouncer_config: DatabaseConfig) -> None:
    opened = await PostgresStore.open(pgbouncer_config)
    try:
        owner = Writer(opened, await opened.open_shards())

        async def read() -> int:
            return len(await opened.load_tenants()) + await opened.load_max_seq()

        reads = [asyncio.create_task(read()) for _ in range(100)]
        for _ in range(20):
            await owner.commit(created=[make_task_run()])
        await asyncio.gather(*reads)
        assert len(await opened.load_live_task_runs(None, None, 100)) == 20
    finally:
        await opened.close()
