"""`broadaxe demo` as users run it: it counts right, loses nothing when its worker is killed, and leaves no process behind."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from broadaxe.cli.demo import data_directory
from tests.processes import BROADAXE, wait_until


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the demo with a home and a data directory of its own."""
    started: list[subprocess.Popen[str]] = []
    env = {name: value for name, value in os.environ.items() if "_CLIENT_" not in name}
    env |= {"BROADAXE_HOME": str(tmp_path / "home"), "COLUMNS": "200"}

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        command = [BROADAXE, "demo", "--data-dir", str(tmp_path / "data"), *map(str, arguments)]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def finish(process: subprocess.Popen[str], timeout: float = 60) -> str:
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children()
        if any("demo_tasks" in part for part in child.cmdline())
    ]


def test_words_are_counted_and_nothing_is_left_running(start, tmp_path):
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "a.txt").write_text("apple Apple pear")
    (folder / "below" / "b.md").write_text("apple plum 42")
    (folder / "empty").write_text("")
    (folder / "picture.png").write_bytes(b"\x89PNG\0\0apple")
    (folder / ".hidden" / "c.txt").write_text("apple")
    process = start(folder)
    wait_until(lambda: workers_of(process), what="workers")
    family = psutil.Process(process.pid).children(recursive=True)
    output = finish(process)
    assert [line.split()[1:4:2] for line in output.splitlines() if "apple" in line] == [["apple", "3"]]
    assert "5 words in 3 files; 1 binary, huge or unreadable ones skipped" in output
    assert f"all of it is durable: {tmp_path / 'data'}" in output
    assert [child for child in family if child.is_running()] == []
    assert not (tmp_path / "home/profiles/local.json").exists()  # it named ports that nobody serves any more


def test_the_data_directory_is_told_whole():
    line = "broadaxe is ready: grpc=127.0.0.1:1 http=127.0.0.1:2 data=/home/a b/data=1\n"
    assert data_directory(line) == "/home/a b/data=1"


def test_an_empty_folder_is_said_to_have_no_files(start, tmp_path):
    folder = tmp_path / "nothing"
    folder.mkdir()
    profile = tmp_path / "home/profiles/local.json"
    profile.parent.mkdir(parents=True)
    profile.write_text('{"pid": 0, "token": "of the server that served before"}')
    assert "the folder has no files" in finish(start(folder))
    assert json.loads(profile.read_text())["token"] == "of the server that served before"


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_nothing_is_lost(start, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number:04}.txt").write_text("apple " * 200)
    process = start("--workers", "1", folder)
    (worker,) = wait_until(lambda: workers_of(process), what="the worker")
    # Half a second of it is the start of the interpreter; counting all takes several.
    wait_until(lambda: worker.cpu_times().user > 1.5, what="the worker to be at work")
    worker.send_signal(signal.SIGKILL)
    output = finish(process, 120)
    assert "was killed by SIGKILL; starting another" in output
    assert "600,000 words in 3,000 files" in output
