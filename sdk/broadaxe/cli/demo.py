"""`broadaxe demo`: count the words of a folder's files, one durable task a file.

Starts a server (unless one of this machine runs already) and workers as processes, runs the tasks of `demo_tasks.py`, shows how it
goes, and stops what it started. A worker that is killed meanwhile is replaced, and nothing is lost.
"""

import asyncio
import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from broadaxe._config import profile_path

if TYPE_CHECKING:
    from broadaxe.cli.demo_tasks import FolderCount

READY = "broadaxe is ready:"
START_S = 90.0
"""For the server: the first start makes a database."""
STOP_S = 30.0
CONNECT_S = 1.0
QUICK_DEATH_S = 3.0
QUICK_DEATHS = 3
"""A worker that dies this often, this soon after its start, will not do better the next time."""
LOG_TAIL_LINES = 15


class DemoError(click.ClickException):
    """The demo cannot go on; the message says why."""


class Server:
    """The server that the demo talks to: one that runs already, or one of its own."""

    def __init__(self, data_dir: str | None, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._profile_before = _read_bytes(profile_path())
        self.place = _configured_server() if data_dir is None else None
        if self.place is None:
            self._start(data_dir)

    def _start(self, data_dir: str | None) -> None:
        broadaxe = [sys.executable, "-c", "from broadaxe.cli import main; main()"]
        command = [*broadaxe, "server", "start", "--grpc-port", "0", "--http-port", "0"]
        if data_dir is not None:
            command += ["--data-dir", data_dir]
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        line = _first_line(self._process, START_S)
        if not line.startswith(READY):
            self.stop()
            raise DemoError(f"the server did not start: {line.strip() or _tail(self._log)}")
        self.place = f"{data_directory(line)} (kept; `broadaxe server start` serves it again)"

    def stop(self) -> None:
        """Stop the server if it is ours, and leave no profile behind that names its ports: nobody will serve on them again."""
        if self._process is None:
            return
        _stop(self._process)
        path = profile_path()
        if _profile_pid(path) == self._process.pid:
            if self._profile_before is None:
                path.unlink()
            else:
                path.write_bytes(self._profile_before)


class Workers:
    """Worker processes, each replaced when it dies. `stop` ends them."""

    def __init__(self, count: int, log: Path, say: Callable[[str], None]) -> None:
        self._log = log
        self._say = say
        self._stopping = threading.Event()
        self.failed: asyncio.Event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._threads = [
            threading.Thread(target=self._keep, args=(number,), daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in list(self._processes.values())]

    def stop(self) -> None:
        self._stopping.set()
        for process in list(self._processes.values()):
            _stop(process)
        for thread in self._threads:
            thread.join(STOP_S)

    def _keep(self, number: int) -> None:
        quick_deaths = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            with self._log.open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 - our own module
                    [sys.executable, "-m", "broadaxe.cli.demo_tasks", f"demo-worker-{number + 1}"],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._processes[number] = process
            code = process.wait()
            if self._stopping.is_set():
                return
            quick_deaths = quick_deaths + 1 if time.monotonic() - started < QUICK_DEATH_S else 0
            if quick_deaths >= QUICK_DEATHS:
                self._loop.call_soon_threadsafe(self.failed.set)
                return
            self._say(
                f"worker {process.pid} {_how_it_ended(code)}; starting another. What it held is run again once the engine "
                "has missed its heartbeats for 30 s"
            )


@click.command()
@click.argument(
    "folder", default=".", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path)
)
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1, 1000), help="Words to show.")
@click.option("--data-dir", help="Start a server of the demo's own with this data directory.")
def demo(folder: Path, workers: int, top: int, data_dir: str | None) -> None:
    """Count the words in the files of FOLDER, one durable task a file.

    Uses the server that runs on this machine, or the one of BROADAXE_CLIENT_TOKEN, or starts one.
    """
    console = Console()
    with tempfile.TemporaryDirectory(prefix="broadaxe-demo-") as scratch, _ended_by_signals():
        logs = Path(scratch)
        with console.status("starting the server"):
            server = Server(data_dir, logs / "server.log")
        try:
            asyncio.run(
                _run(console, server, log=logs / "workers.log", folder=folder, count=workers, top=top)
            )
        finally:
            server.stop()


async def _run(console: Console, server: Server, *, log: Path, folder: Path, count: int, top: int) -> None:
    # Imported now: its client connects by the profile that the server has just written.
    tasks = importlib.import_module("broadaxe.cli.demo_tasks")
    workers = Workers(count, log, console.print)
    console.print(f"server: {server.place}")
    console.print(f"workers: {count} process{'es' if count > 1 else ''}")
    try:
        for task in (tasks.count_folder, tasks.count_file):  # the workers do it too, but are not up yet
            await tasks.broadaxe.on_io(tasks.broadaxe.transport.put_workflow(task.to_wire()))
        ref = await tasks.count_folder.aio_run_no_wait(tasks.Folder(path=str(folder), top=top))
        counting = asyncio.ensure_future(ref.aio_result())
        failing = asyncio.ensure_future(workers.failed.wait())
        with Progress(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        ) as progress:
            began = _Began()
            watching = asyncio.ensure_future(
                _show_progress(tasks.broadaxe, ref.workflow_run_id, progress, began)
            )
            either: set[asyncio.Future[Any]] = {counting, failing}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            watching.cancel()
            await asyncio.wait({watching})
        if not counting.done():
            counting.cancel()
            raise DemoError(f"the workers cannot run:\n{_tail(log)}")
        failing.cancel()
        _show_result(console, await counting, time.monotonic() - began.at, server)
    finally:
        await asyncio.to_thread(workers.stop)
        await tasks.broadaxe.aio_close()


class _Began:
    """When the parent task began: the start of a worker process is not the engine's time."""

    def __init__(self) -> None:
        self.at = time.monotonic()
        self.is_known = False


async def _show_progress(client: Any, run_id: str, progress: Progress, began: _Began) -> None:
    """Follow the stream of the parent task until it ends."""
    bar = progress.add_task("counting words", total=None)
    async for chunk in client.runs.subscribe_to_stream(run_id):
        told = json.loads(chunk)
        if not began.is_known:
            began.is_known, began.at = True, time.monotonic()
        progress.update(bar, completed=told["done"], total=told["total"])


def _show_result(console: Console, found: "FolderCount", elapsed: float, server: Server) -> None:
    if not found.files:
        console.print("the folder has no files to count")
    else:
        table = Table("word", "times")
        for word, times in found.top:
            table.add_row(word, f"{times:,}")
        console.print(table)
    console.print(
        f"{found.words:,} words in {found.files - found.skipped:,} files; {found.skipped:,} binary, huge or unreadable ones skipped"
    )
    console.print(f"{found.files + 1:,} tasks in {elapsed:.2f} s: {(found.files + 1) / elapsed:,.0f} tasks/s")
    console.print(f"all of it is durable: {server.place}")


def _configured_server() -> str | None:
    """The server that clients here would use, if it answers; None when the demo is to start one."""
    if any(os.environ.get(f"{prefix}_CLIENT_TOKEN") for prefix in ("BROADAXE", "HATCHET")):
        return "the server of the token in the environment"
    try:
        profile = json.loads(profile_path().read_text())
        host, _, port = profile["grpc_address"].rpartition(":")
        os.kill(profile["pid"], 0)
        with socket.create_connection((host, int(port)), CONNECT_S):
            pass
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none was ever started here, or it has stopped
    return (
        f"{profile['server_url']} (process {profile['pid']}), which runs on this machine and keeps the data"
    )


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _profile_pid(path: Path) -> int | None:
    """Who wrote the profile; None when there is none to read."""
    try:
        pid = json.loads(path.read_text())["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if isinstance(pid, int) else None


def data_directory(ready_line: str) -> str:
    """What the line of a server that is ready names last: a path, which may have spaces."""
    return ready_line.rstrip("\n").partition(" data=")[2]


def _first_line(process: "subprocess.Popen[str]", timeout: float) -> str:
    """The first line that a process prints; empty when it ends, or is ended for printing none in time."""
    output: IO[str] | None = process.stdout
    assert output is not None
    timer = threading.Timer(timeout, process.kill)
    timer.start()
    try:
        return output.readline()
    finally:
        timer.cancel()


def _stop(process: "subprocess.Popen[Any]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-LOG_TAIL_LINES:])


def _how_it_ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, so that it stops what it started."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
