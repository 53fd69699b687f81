"""Real servers, workers and clients as processes of their own, for tests and benchmarks.

May touch nothing of Broadaxe's packages: everything goes through commands, environment variables and files, as a user would do it.
Facts to know:

- Nothing here sleeps for an outcome: every wait is a condition with a deadline and says what it waited for.
- Ports lie below the range that the kernel hands to outgoing connections: a client that retries a closed port of that range
  may connect to itself, and a restarted server could find its port taken by a client.
- Only process ids that were started here (or that the server's own data directory names) are ever signalled.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import asyncpg
import psutil

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parent.parent
ROLES = REPOSITORY / "tests" / "roles"
PYTHON = sys.executable
BROADAXE = str(Path(PYTHON).parent / "broadaxe")
PORTS = range(15_000, 30_000)
ANSWER = "@@ "
"""Opens a line by which a role of `tests/roles` answers a command; anything else it prints is its log."""


class WaitTimeout(AssertionError):
    """A condition did not become true in time; the text says which, how long, and what was seen last."""


def wait_until(
    condition: Callable[[], T | None], *, what: str, timeout: float = 30.0, interval: float = 0.02
) -> T:
    """Returns the first true value of `condition`, asked every `interval` seconds; raises `WaitTimeout` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise WaitTimeout(f"waited {timeout:.0f} s for {what}; last seen: {value!r}")
        time.sleep(interval)  # between two looks at a condition


def free_port() -> int:
    """A port that nobody listens on now, outside the range of outgoing connections."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port among 200 tried in {PORTS}")


class Process:
    """One child process: its output is kept, its lines can be awaited, commands can be put to it.

    Stopping is safe to repeat, and in any state.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        name: str,
        directory: Path,
        env: Mapping[str, str | None] | None = None,
    ) -> None:
        """Starts it at once. A value of None in `env` removes the variable; `HATCHET_*`, `BROADAXE_*`, `SERVER_*` and
        `DATABASE_*` of the caller's environment are not inherited."""
        self.name = name
        directory.mkdir(parents=True, exist_ok=True)
        self._lines: list[str] = []
        self._answers: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HATCHET_", "BROADAXE_", "SERVER_", "DATABASE_"))
        }
        for key, value in (env or {}).items():
            if value is None:
                environment.pop(key, None)
            else:
                environment[key] = value
        environment["PYTHONUNBUFFERED"] = "1"
        self._popen = subprocess.Popen(
            list(argv),
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"read-{name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout:
            for line in self._popen.stdout:
                with self._changed:
                    if line.startswith(ANSWER):
                        self._answers.append(line.removeprefix(ANSWER))
                    else:
                        self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def output(self) -> str:
        """Everything printed so far, answers apart."""
        with self._changed:
            return "\n".join(self._lines)

    def tail(self, lines: int = 40) -> str:
        with self._changed:
            return "\n".join(self._lines[-lines:])

    def wait_for_line(self, pattern: str, *, timeout: float = 30.0) -> re.Match[str]:
        """The first match of `pattern` in a line printed so far or later; fails at once when the process ends without one."""
        deadline = time.monotonic() + timeout
        seen = 0
        compiled = re.compile(pattern)
        with self._changed:
            while True:
                for line in self._lines[seen:]:
                    if match := compiled.search(line):
                        return match
                seen = len(self._lines)
                if self._ended:
                    raise WaitTimeout(
                        f"{self.name} ended ({self._popen.wait()}) without a line {pattern!r}:\n{self._tail_locked()}"
                    )
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise WaitTimeout(
                        f"{self.name}: waited {timeout:.0f} s for a line {pattern!r}:\n{self._tail_locked()}"
                    )

    def _tail_locked(self) -> str:
        return "\n".join(self._lines[-60:])

    def send(self, **command: Any) -> None:
        """Puts one command to a role; `receive` gets its answer. Commands are answered in order."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(command) + "\n")
        self._popen.stdin.flush()

    def receive(self, *, timeout: float = 60.0) -> dict[str, Any]:
        """The next answer. An answer with an `error` is raised as `RuntimeError` with the role's traceback."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._answers:
                if self._ended:
                    raise WaitTimeout(f"{self.name} ended without an answer:\n{self._tail_locked()}")
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise WaitTimeout(
                        f"{self.name}: waited {timeout:.0f} s for an answer:\n{self._tail_locked()}"
                    )
            answer = json.loads(self._answers.pop(0))
        if not isinstance(answer, dict):
            raise TypeError(f"{self.name} answered {answer!r}, not an object")
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def call(self, *, timeout: float = 60.0, **command: Any) -> dict[str, Any]:
        """Puts a command and returns its answer."""
        self.send(**command)
        return self.receive(timeout=timeout)

    def tree(self) -> list[psutil.Process]:
        """This process and all below it that run now."""
        return process_tree(self.pid)

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def kill9(self, *, whole_tree: bool = True) -> None:
        """SIGKILL, by default to everything below it too, and waits until it is gone."""
        victims = self.tree() if whole_tree else []
        self.send_signal(signal.SIGKILL)
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        self._popen.wait(timeout=30)
        self._close_pipes()

    def _close_pipes(self) -> None:
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what was never flushed has no reader any more
            self._popen.stdin.close()
        # Ends with the process' output; a child that outlives it may hold the pipe longer.
        self._reader.join(timeout=5)

    def stop(self, *, timeout: float = 30.0, number: int = signal.SIGTERM) -> int:
        """Asks it to stop, waits, and returns its exit code; kills what is left after `timeout` seconds and says so."""
        if self.is_running:
            family = self.tree()
            self.send_signal(number)
            try:
                self._popen.wait(timeout=timeout)
            except subprocess.TimeoutExpired:
                self.kill9()
                raise WaitTimeout(
                    f"{self.name} did not stop within {timeout:.0f} s of signal {number}:\n{self.tail()}"
                ) from None
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.wait(timeout=5)
        code = self._popen.wait()
        self._close_pipes()
        return code

    def close(self) -> None:
        """Ends it whatever its state; for clean-up."""
        if self.is_running:
            try:
                self.stop(timeout=10)
            except (WaitTimeout, psutil.TimeoutExpired):
                self.kill9()
        self._close_pipes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def process_tree(pid: int) -> list[psutil.Process]:
    """The process and all below it; empty when it is gone."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def server_directory() -> Iterator[Path]:
    """A directory for a server's data, removed at the end.

    Not below pytest's own: every pytest session that starts on the machine closes that tree to other accounts, and the embedded
    Postgres of a server that root started runs under one.
    """
    path = Path(tempfile.mkdtemp(prefix="broadaxe-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Server:
    """A Broadaxe server with an embedded Postgres in a directory of its own; it keeps its ports over restarts."""

    def __init__(
        self,
        directory: Path,
        *,
        env: Mapping[str, str | None] | None = None,
        arguments: Sequence[str] = (),
        name: str = "server",
    ) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.home = directory / "home"
        self.name = name
        self._env = dict(env or {})
        self._arguments = list(arguments)
        self._grpc_port = free_port()
        self._http_port = free_port()
        self._process: Process | None = None
        self._token: str | None = None

    @property
    def process(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self._grpc_port}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self._http_port}"

    def environment(self) -> dict[str, str | None]:
        """Variables of the server's own process and of `broadaxe` commands beside it."""
        return {"BROADAXE_HOME": str(self.home), **self._env}

    def launch(self) -> Process:
        """Starts the process without waiting until it is ready."""
        self._process = Process(
            [
                BROADAXE,
                "server",
                "start",
                "--grpc-port",
                str(self._grpc_port),
                "--http-port",
                str(self._http_port),
                "--data-dir",
                str(self.data_dir),
                *self._arguments,
            ],
            name=self.name,
            directory=self.directory,
            env=self.environment(),
        )
        return self._process

    def start(self, *, timeout: float = 60.0) -> Self:
        self.launch().wait_for_line(r"broadaxe is ready", timeout=timeout)
        return self

    def command(self, *arguments: str, timeout: float = 60.0) -> str:
        """Runs a `broadaxe` command to its end and returns what it printed; raises on a non-zero exit."""
        environment = {key: value for key, value in self.environment().items() if value is not None}
        done = subprocess.run(
            [BROADAXE, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
            cwd=self.directory,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(
                f"broadaxe {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
            )
        return done.stdout

    @property
    def token(self) -> str:
        """A token of the default tenant, made on first use."""
        if self._token is None:
            self._token = self.command("token", "create", "--data-dir", str(self.data_dir)).strip()
        return self._token

    def new_tenant(self, slug: str) -> str:
        """Makes a tenant and returns a token of it. There is no command for tenants yet, so its row is written directly."""
        tenant_id = str(uuid.uuid4())

        async def insert() -> None:
            connection = await self.connect_postgres()
            try:
                await connection.execute(
                    "INSERT INTO tenant (id, name, slug, created_at) VALUES ($1, $2, $2, now())",
                    tenant_id,
                    slug,
                )
            finally:
                await connection.close()

        asyncio.run(insert())
        return self.command(
            "token", "create", "--data-dir", str(self.data_dir), "--tenant-id", tenant_id
        ).strip()

    async def connect_postgres(self) -> asyncpg.Connection:
        """A connection to the embedded Postgres as its owner, to the database that the server uses."""
        host, port = self.postgres_address()
        return await asyncpg.connect(
            host=host, port=port, user="postgres", database="postgres", statement_cache_size=0
        )

    def client_environment(self, *, token: str | None = None) -> dict[str, str | None]:
        """Variables by which workers and clients of both SDKs find this server."""
        settings = {
            "TOKEN": token or self.token,
            "HOST_PORT": self.grpc_address,
            "SERVER_URL": self.http_url,
            "TLS_STRATEGY": "none",
        }
        return {
            "BROADAXE_HOME": str(self.home / "nobody"),
            **{f"BROADAXE_CLIENT_{key}": value for key, value in settings.items()},
            **{f"HATCHET_CLIENT_{key}": value for key, value in settings.items()},
        }

    def kill9(self) -> None:
        """SIGKILL to the engine, with what runs below it, but not to its Postgres."""
        postgres = {process.pid for process in self.postgres_tree()}
        victims = [process for process in self.process.tree() if process.pid not in postgres]
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        self.process.kill9(whole_tree=False)

    def restart(self, *, timeout: float = 60.0) -> Self:
        return self.start(timeout=timeout)

    def stop(self, *, timeout: float = 30.0) -> int:
        return self.process.stop(timeout=timeout)

    def postgres_pid_file(self) -> Path | None:
        return next(iter(self.data_dir.rglob("postmaster.pid")), None)

    def postgres_pid(self) -> int | None:
        """Process id of the embedded Postgres, or None when none runs."""
        pid_file = self.postgres_pid_file()
        if pid_file is None:
            return None
        try:
            pid = int(pid_file.read_text().splitlines()[0])
            return pid if "postgres" in psutil.Process(pid).name() else None
        except (OSError, IndexError, ValueError, psutil.NoSuchProcess):
            return None

    def postgres_tree(self) -> list[psutil.Process]:
        pid = self.postgres_pid()
        return process_tree(pid) if pid is not None else []

    def engine_tree(self) -> list[psutil.Process]:
        postgres = {process.pid for process in self.postgres_tree()}
        return [process for process in self.process.tree() if process.pid not in postgres]

    def postgres_address(self) -> tuple[str, int]:
        """Host (or socket directory) and port of the embedded Postgres."""
        pid_file = self.postgres_pid_file()
        if pid_file is None:
            raise RuntimeError(f"no Postgres runs below {self.data_dir}")
        lines = pid_file.read_text().splitlines()
        port, socket_directory, listen = int(lines[3]), lines[4].strip(), lines[5].strip()
        return (socket_directory or listen), port

    def postgres_kill9(self) -> None:
        """SIGKILL to the embedded Postgres: its first process, then whatever it leaves."""
        tree = self.postgres_tree()
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(tree, timeout=10)

    def close(self) -> None:
        """Ends the server and its Postgres, whatever their state."""
        if self._process is not None:
            self._process.close()
        pid = self.postgres_pid()
        if pid is not None:
            postmaster = psutil.Process(pid)
            for process in process_tree(pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
            postmaster.send_signal(signal.SIGINT)  # a fast shutdown
            try:
                postmaster.wait(timeout=20)
            except psutil.TimeoutExpired:
                self.postgres_kill9()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def role(
    server_environment: Mapping[str, str | None],
    script: str,
    *arguments: str,
    directory: Path,
    python: str = PYTHON,
    name: str | None = None,
    env: Mapping[str, str | None] | None = None,
) -> Process:
    """Starts `tests/roles/<script>.py` against a server, under the given Python."""
    return Process(
        [python, "-W", "ignore", str(ROLES / f"{script}.py"), *arguments],
        name=name or f"{script} {' '.join(arguments)}",
        directory=directory,
        env={**server_environment, **(env or {})},
    )


@contextlib.contextmanager
def closing(*processes: Process | Server) -> Iterator[None]:
    """Closes all of them at the end, the last first, whatever happens."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.callback(process.close)
        yield
