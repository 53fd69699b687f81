"""A server of its own for each fault test, and a record of every execution that survives a SIGKILL."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.processes import Process, Server, closing, role, server_directory


@dataclass
class Execution:
    """One start of a task's body, as the worker wrote it down."""

    index: int
    attempt: int
    at_ns: int
    process: int
    run_id: str


@dataclass
class Field:
    """A server, its workers and clients, and what the workers wrote down."""

    server: Server
    directory: Path
    _processes: list[Process] = field(default_factory=list)

    @property
    def records(self) -> Path:
        path = self.directory / "records"
        path.mkdir(exist_ok=True)
        return path

    def worker(self, sdk: str = "broadaxe", *, slots: int = 50, name: str = "faults") -> Process:
        worker = role(
            self.server.client_environment(),
            "worker",
            sdk,
            name,
            str(slots),
            directory=self.directory,
            env={
                "ROLE_RECORDS": str(self.records),
                # An unmodified worker drops reports that were under way when the engine went away, and then heartbeats on:
                # such an attempt ends only by its execution timeout (ours repeats its reports, and needs none).
                "ROLE_EXECUTION_TIMEOUT": "600" if sdk == "broadaxe" else "20",
            },
        )
        self._processes.append(worker)
        return worker

    def client(self, sdk: str = "broadaxe") -> Process:
        client = role(self.server.client_environment(), "client", sdk, directory=self.directory)
        self._processes.append(client)
        return client

    def executions(self) -> list[Execution]:
        found = []
        for file in self.records.glob("executions-*.txt"):
            for line in file.read_text().splitlines():
                index, attempt, at_ns, process, run_id = line.split()
                found.append(Execution(int(index), int(attempt), int(at_ns), int(process), run_id))
        return sorted(found, key=lambda execution: execution.at_ns)

    def executed(self) -> int:
        """How many starts were written down so far; a count of lines, cheap enough to poll."""
        return sum(file.read_bytes().count(b"\n") for file in self.records.glob("executions-*.txt"))

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Rows straight from the server's Postgres."""
        connection = await self.server.connect_postgres()
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def live(self, workflow: str = "recorded") -> int:
        """Task runs of a workflow that have not ended, by the record."""
        rows = await self.fetch(
            "SELECT count(*) FROM task_run r JOIN workflow w ON w.id = r.workflow_id WHERE w.name = $1",
            workflow,
        )
        return int(rows[0][0])

    async def ended(self, workflow: str = "recorded") -> Counter[int]:
        """Ended task runs of a workflow by state number, by the record."""
        rows = await self.fetch(
            "SELECT r.state, count(*) FROM task_run_history r JOIN workflow w ON w.id = r.workflow_id "
            "WHERE w.name = $1 GROUP BY 1",
            workflow,
        )
        return Counter({int(row[0]): int(row[1]) for row in rows})

    def close(self) -> None:
        for process in reversed(self._processes):
            process.close()


@pytest.fixture
def ground() -> Iterator[Field]:
    """A started server with nothing connected to it."""
    with server_directory() as directory, closing(server := Server(directory)):
        server.start()
        one = Field(server, directory)
        try:
            yield one
        finally:
            one.close()
