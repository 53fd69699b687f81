"""What a stretch of work cost: CPU and memory of process trees, statements and WAL counted at Postgres.

Method, so that a figure can be judged:

- CPU is user and system time of every process of a tree, plus what its ended children left with it. Postgres is its first process with
  all backends, checkpointer, WAL writer and the rest.
- Statements are the lines that Postgres itself logs under `log_statement = all` (BEGIN and COMMIT included), switched on for a run of
  its own by `ALTER SYSTEM` and a reload: the embedded Postgres has no `pg_stat_statements`. The throughput runs do not log.
- WAL is the difference of `pg_current_wal_insert_lsn()`; other writers of the same server are counted too, and there are none.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.processes import Server, wait_until

ENTRY = re.compile(r"^\d{4}-\d\d-\d\d .*?\[\d+\] ", re.MULTILINE)
STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)", re.DOTALL)
OWN = "/* bench */"
LEASE = re.compile(r"lease|\bshard\b", re.IGNORECASE)


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """CPU seconds that a tree has used, ended children included."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            spent = process.cpu_times()
            total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def rss_mb(processes: list[psutil.Process]) -> float:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 2**20


class CpuMeter:
    """CPU seconds of several groups of processes between two moments."""

    def __init__(self, groups: dict[str, Callable[[], list[psutil.Process]]]) -> None:
        self._groups = groups
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        return {name: cpu_seconds(tree()) for name, tree in self._groups.items()}

    def seconds(self) -> dict[str, float]:
        now = self._read()
        return {name: now[name] - self._before[name] for name in now}


class Postgres:
    """A server's embedded Postgres, asked on a connection of the benchmark's own."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def _ask(self, *statements: str) -> list[Any]:
        async def ask() -> list[Any]:
            connection = await self._server.connect_postgres()
            try:
                return [await connection.fetchval(f"{OWN} {one}") for one in statements]
            finally:
                await connection.close()

        return asyncio.run(ask())

    def version(self) -> str:
        return str(self._ask("SHOW server_version")[0])

    def durability(self) -> dict[str, str]:
        names = ("fsync", "synchronous_commit", "full_page_writes")
        return dict(zip(names, map(str, self._ask(*(f"SHOW {name}" for name in names))), strict=True))

    def wal_bytes(self) -> int:
        return int(self._ask("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0])

    @contextlib.contextmanager
    def counted(self) -> Iterator[list[str]]:
        """Collects every statement that arrives within the block into the list it gives; full only after the block."""
        statements: list[str] = []
        self._ask(
            "ALTER SYSTEM SET log_statement = 'all'",
            "ALTER SYSTEM SET log_parameter_max_length = 0",
            "SELECT pg_reload_conf()",
        )
        wait_until(
            lambda: self._ask("SHOW log_statement")[0] == "all", what="Postgres to log statements", timeout=10
        )
        log = self._log_file()
        begin = log.stat().st_size
        try:
            yield statements
            marker = f"SELECT 'end {time.time_ns()}'"
            self._ask(marker)
            wait_until(
                lambda: marker.encode() in self._read_from(log, begin),
                what="the end of Postgres' log",
                timeout=10,
            )
            statements += statements_of(self._read_from(log, begin).decode(errors="replace"))
        finally:
            self._ask(
                "ALTER SYSTEM RESET log_statement",
                "ALTER SYSTEM RESET log_parameter_max_length",
                "SELECT pg_reload_conf()",
            )

    def _log_file(self) -> Path:
        pid = self._server.postgres_pid()
        if pid is None:
            raise RuntimeError("Postgres does not run")
        path = Path(f"/proc/{pid}/fd/2").readlink()
        if not path.is_file():
            raise RuntimeError(f"Postgres logs to {path}, which cannot be read; statements cannot be counted")
        return path

    @staticmethod
    def _read_from(path: Path, offset: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()


def statements_of(log: str) -> list[str]:
    """The statements in a stretch of Postgres' log, in order, our own left out."""
    matches = (STATEMENT.match(entry) for entry in ENTRY.split(log))
    return [match.group(1).strip() for match in matches if match and OWN not in match.group(1)]


def is_lease(statement: str) -> bool:
    """Whether a logged statement only keeps the shard's lease."""
    return bool(LEASE.search(statement))
