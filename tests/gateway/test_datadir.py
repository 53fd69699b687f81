"""The data directory's lock: one holder at a time, whatever becomes of it; and what it tells others."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from broadaxe_gateway.datadir import (
    DataDirError,
    DataDirInUse,
    DataDirLock,
    Holder,
    default_data_dir,
    read_holder,
    write_private,
)

HOLD = """
import sys, time
from pathlib import Path
from broadaxe_gateway.datadir import DataDirLock
lock = DataDirLock.acquire(Path(sys.argv[1]), is_server=True)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_server(tmp_path):
    """Another process that holds the data directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.communicate()


def test_second_holder_is_told_who_has_it(tmp_path, other_server):
    with pytest.raises(
        DataDirInUse, match=f"data directory in use by another server \\(pid {other_server.pid}\\)"
    ):
        DataDirLock.acquire(tmp_path, is_server=True)


def test_kill_9_of_the_holder_frees_the_directory(tmp_path, other_server):
    other_server.send_signal(signal.SIGKILL)
    other_server.wait()
    with DataDirLock.acquire(tmp_path, is_server=True) as lock:
        assert lock.holder.pid == os.getpid()


def test_release_frees_the_directory_and_may_be_repeated(tmp_path):
    lock = DataDirLock.acquire(tmp_path, is_server=True)
    lock.release()
    lock.release()
    DataDirLock.acquire(tmp_path, is_server=True).release()


def test_addresses_outlive_the_server_but_not_as_ready(tmp_path):
    assert read_holder(tmp_path) == Holder()
    lock = DataDirLock.acquire(tmp_path, is_server=True)
    lock.announce(
        grpc_broadcast_address="127.0.0.1:7070", server_url="http://127.0.0.1:8080", health_address=""
    )
    assert read_holder(tmp_path).is_ready
    lock.withdraw()
    lock.release()
    with DataDirLock.acquire(tmp_path, is_server=False):
        holder = read_holder(tmp_path)
    assert (holder.is_ready, holder.is_server) == (False, False)
    assert holder.grpc_broadcast_address == "127.0.0.1:7070"


def test_directory_is_made_private(tmp_path):
    DataDirLock.acquire(tmp_path / "a" / "b", is_server=True).release()
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match="file"):
        DataDirLock.acquire(tmp_path / "file" / "data", is_server=True)


def test_private_file_is_whole_and_private(tmp_path):
    path = tmp_path / "keys" / "key.json"
    write_private(path, b"old")
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "darwin", reason="the platform has a place of its own")
def test_default_is_the_users_data_directory(tmp_path):
    assert default_data_dir({"XDG_DATA_HOME": str(tmp_path)}) == tmp_path / "broadaxe"
    assert default_data_dir({}).parts[-3:] == (".local", "share", "broadaxe")
