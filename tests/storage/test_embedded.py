"""The embedded Postgres outlives its engine, is found again, and keeps what was committed."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import psutil
import pytest

from broadaxe_storage.embedded import EmbeddedPostgres
from broadaxe_storage.errors import EmbeddedFailed
from tests.postgres import TestServer

ENGINE = """
import sys, time
from broadaxe_storage.embedded import EmbeddedPostgres
print(EmbeddedPostgres.start(sys.argv[1]).pid, flush=True)
time.sleep(60)  # killed long before
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="bx-em-"))
    yield directory
    if (directory / "postgres" / "PG_VERSION").exists():
        (directory / "postgres" / "PG_VERSION").write_text("18\n")
        EmbeddedPostgres.start(directory).stop()
    shutil.rmtree(directory)


async def ask(server: EmbeddedPostgres, statement: str) -> object:
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_it_outlives_a_killed_engine_and_is_found_again(data_dir: Path) -> None:
    engine = subprocess.Popen(  # noqa: ASYNC220 - to be killed
        [sys.executable, "-W", "ignore", "-c", ENGINE, str(data_dir)], stdout=subprocess.PIPE, text=True
    )
    assert engine.stdout is not None
    pid = int(engine.stdout.readline())
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    engine.stdout.close()
    server = EmbeddedPostgres.start(data_dir)
    assert (server.pid, server.was_running) == (pid, True)
    assert await ask(server, "SELECT 1") == 1


async def test_a_commit_survives_the_kill_of_postgres(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    assert await ask(server, "SHOW fsync") == "on"
    assert await ask(server, "SHOW synchronous_commit") == "on"
    assert str(await ask(server, "SHOW server_version")).startswith("18")
    await ask(server, "CREATE TABLE kept AS SELECT 7 AS n")
    postmaster = psutil.Process(server.pid)
    family = [postmaster, *postmaster.children()]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=10)
    again = EmbeddedPostgres.start(data_dir)
    assert not again.was_running
    assert again.pid != server.pid
    assert await ask(again, "SELECT n FROM kept") == 7


@pytest.mark.parametrize("is_told", [True, False], ids=["told-by-the-system", "looked-at"])
async def test_the_end_of_its_first_process_is_noticed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    if not is_told:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    server = EmbeddedPostgres.start(data_dir)
    ended = asyncio.create_task(server.wait_until_ended())
    assert await ask(server, "SELECT 1") == 1
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await ask(server, "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(60)")
    assert not ended.done()
    psutil.Process(server.pid).kill()
    await asyncio.wait_for(ended, 10)
    await asyncio.wait_for(server.wait_until_ended(), 10)


def test_starts_at_once_agree_on_one_server(data_dir: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        servers = list(pool.map(EmbeddedPostgres.start, [data_dir] * 3))
    assert len({server.pid for server in servers}) == 1
    servers[0].stop()
    servers[1].stop()
    assert not EmbeddedPostgres.start(data_dir).was_running


async def test_a_deep_directory_gets_its_socket_elsewhere(data_dir: Path) -> None:
    deep = data_dir / ("d" * 60) / ("e" * 60)
    server = EmbeddedPostgres.start(deep)
    try:
        assert await ask(server, "SELECT 1") == 1
    finally:
        server.stop()


def test_a_stale_pid_file_of_another_process_is_no_server(data_dir: Path) -> None:
    EmbeddedPostgres.start(data_dir).stop()
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{data_dir}/postgres\n1\n5432\n")
    assert not EmbeddedPostgres.start(data_dir).was_running


def test_the_socket_of_a_killed_server_is_no_obstacle_while_its_process_is_unburied(
    data_dir: Path, postgres_server: TestServer
) -> None:
    EmbeddedPostgres.start(data_dir).stop()
    # A process of the same account stands for the unburied one: Postgres takes either for a running server.
    lock = f"{postgres_server.server.pid}\n{data_dir}/postgres\n1\n5432\n"
    (data_dir / "postgres" / ".s.PGSQL.5432.lock").write_text(lock)
    assert not EmbeddedPostgres.start(data_dir).was_running


def test_data_of_another_version_is_refused(data_dir: Path) -> None:
    EmbeddedPostgres.start(data_dir).stop()
    (data_dir / "postgres" / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedFailed, match="made by PostgreSQL 14, and this release brings PostgreSQL 18"):
        EmbeddedPostgres.start(data_dir)


def test_a_directory_that_cannot_be_made_is_an_error_in_words() -> None:
    with pytest.raises(EmbeddedFailed, match="/proc/nowhere"):
        EmbeddedPostgres.start("/proc/nowhere")


def test_a_setting_that_postgres_refuses_is_told_with_its_log(data_dir: Path) -> None:
    with pytest.raises(EmbeddedFailed, match="shared_buffers"):
        EmbeddedPostgres.start(data_dir, settings={"shared_buffers": "'many'"})
