"""The data directory: where keys, the embedded Postgres and the lock of one installation live.

May touch the file system only. Facts to know:

- A server holds `server.lock` with flock for as long as it lives; the kernel lets go of it however the server dies, so a lock
  is never stale. The lock file's text tells others who holds it and, once it serves, at which addresses.
- The text outlives the server on purpose: `broadaxe token create` on a stopped installation writes tokens for the addresses
  that its server last had.
"""

import fcntl
import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

LOCK_FILE = "server.lock"


class DataDirError(Exception):
    """The data directory cannot be used."""


class DataDirInUse(DataDirError):
    """Another process holds the data directory; `pid` is 0 when it did not say."""

    def __init__(self, path: Path, pid: int) -> None:
        super().__init__(
            f"data directory in use by another server (pid {pid or 'unknown'}): {path}; "
            "stop that server or give another --data-dir"
        )
        self.path = path
        self.pid = pid


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds, or last held, the data directory."""

    pid: int = 0
    is_server: bool = False
    """False for a command that works on the directory of a stopped server."""
    is_ready: bool = False
    """Whether the server serves at the addresses below; if not, they are those it last had."""
    grpc_broadcast_address: str = ""
    server_url: str = ""
    health_address: str = ""
    """`host:port` of the health port, empty if there is none."""


def default_data_dir(environment: dict[str, str] | None = None) -> Path:
    """Where data lives when nothing else is said: the user's data directory of the platform."""
    values = os.environ if environment is None else environment
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "broadaxe"
    base = values.get("XDG_DATA_HOME", "")
    return (Path(base) if base else Path.home() / ".local" / "share") / "broadaxe"


def read_holder(path: Path) -> Holder:
    """What the lock file says; an empty `Holder` if no server was ever here or it has not written yet."""
    try:
        raw = json.loads((path / LOCK_FILE).read_text() or "{}")
    except FileNotFoundError:
        return Holder()
    except ValueError:
        return Holder()  # being rewritten at this moment: who asks again will see it
    known = {name: raw[name] for name in Holder.__dataclass_fields__ if name in raw}
    return Holder(**known)


class DataDirLock:
    """Exclusive use of a data directory, from `acquire` until `release` or the end of the process."""

    def __init__(self, path: Path, descriptor: int, holder: Holder) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self.holder = holder
        self._write()

    @classmethod
    def acquire(cls, path: Path, *, is_server: bool) -> Self:
        """Create the directory (mode 0700) if need be and take its lock.

        Raises `DataDirInUse` when another process has it, `DataDirError` when the directory cannot be made or written.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirError(f"data directory {path} cannot be used: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise DataDirInUse(path, read_holder(path).pid) from error
        last = read_holder(path)
        return cls(path, descriptor, replace(last, pid=os.getpid(), is_server=is_server, is_ready=False))

    def announce(self, *, grpc_broadcast_address: str, server_url: str, health_address: str) -> None:
        """Tell others that the server is ready, and where."""
        self.holder = replace(
            self.holder,
            is_ready=True,
            grpc_broadcast_address=grpc_broadcast_address,
            server_url=server_url,
            health_address=health_address,
        )
        self._write()

    def withdraw(self) -> None:
        """Tell others that the server is ready no longer."""
        self.holder = replace(self.holder, is_ready=False)
        self._write()

    def _write(self) -> None:
        assert self._descriptor is not None, "the lock was released"
        text = json.dumps(asdict(self.holder)).encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))

    def release(self) -> None:
        """Let go. Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def write_private(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
