"""Servers, workers and clients of one benchmark run, each a process of its own; all are ended when the run ends."""

import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from benchmarks.meters import CpuMeter, Postgres
from tests.processes import PYTHON, REPOSITORY, Process, Server, closing, free_port, role

SLOTS = 100


@dataclass
class Stack:
    """One engine with one worker and one client, warmed up by one task."""

    server: Server
    worker: Process
    client: Process

    @property
    def postgres(self) -> Postgres:
        return Postgres(self.server)

    def cpu_meter(self) -> CpuMeter:
        return CpuMeter(
            {
                "engine": self.server.engine_tree,
                "postgres": self.server.postgres_tree,
                "worker": self.worker.tree,
                "client": self.client.tree,
            }
        )

    def fanout(self, count: int) -> float:
        """Tasks/s of one fan-out of `count` tasks."""
        answer = self.client.call(do="fanout", count=count, timeout=300)
        if answer["results"] != count:
            raise RuntimeError(f"{count} tasks triggered, {answer['results']} results")
        return count / float(answer["seconds"])


@dataclass
class Bench:
    """What every measure gets: where to work, how much to do, and how long there is."""

    is_quick: bool
    deadline: float
    """By `time.monotonic()`: a measure that cannot end before it leaves its figure out and says so."""
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="broadaxe-bench-")))
    notes: list[str] = field(default_factory=list)
    facts: dict[str, str | int | float] = field(default_factory=dict)
    _exits: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _stacks: dict[str, Stack] = field(default_factory=dict)
    _names: int = 0

    def scaled(self, full: int, quick: int) -> int:
        return quick if self.is_quick else full

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def note(self, text: str) -> None:
        """Keeps a remark for the report, and shows it now."""
        self.notes.append(text)
        print(f"  {text}", flush=True)

    def server(self, name: str, env: dict[str, str | None] | None = None) -> Server:
        self._names += 1
        server = Server(self.directory / f"{name}-{self._names}", env=env, name=f"server {name}")
        self._exits.enter_context(closing(server))
        server.start()
        if "postgres" not in self.facts:
            postgres = Postgres(server)
            settings = ", ".join(f"{name} {value}" for name, value in postgres.durability().items())
            self.facts["postgres"] = f"{postgres.version()} embedded, {settings}"
        return server

    def worker(
        self,
        server_environment: dict[str, str | None],
        sdk: str = "broadaxe",
        slots: int = SLOTS,
        env: dict[str, str | None] | None = None,
    ) -> Process:
        self._names += 1
        worker = role(
            server_environment,
            "worker",
            sdk,
            f"bench-{self._names}",
            str(slots),
            directory=self.directory / "workers",
            env=env,
        )
        self._exits.enter_context(closing(worker))
        return worker

    def client(self, server_environment: dict[str, str | None], sdk: str = "broadaxe") -> Process:
        client = role(server_environment, "client", sdk, directory=self.directory / "clients")
        self._exits.enter_context(closing(client))
        return client

    def stack(self, name: str = "plain", env: dict[str, str | None] | None = None) -> Stack:
        """The stack of that name, started at its first use and shared by the measures after it."""
        if name not in self._stacks:
            server = self.server(name, env)
            environment = server.client_environment()
            stack = Stack(server, self.worker(environment), self.client(environment))
            stack.client.call(do="warm", timeout=90)
            stack.fanout(1000)
            self._stacks[name] = stack
        return self._stacks[name]

    def release(self, name: str) -> None:
        """Ends a stack, so that it does not weigh on the measures after it."""
        stack = self._stacks.pop(name, None)
        if stack is not None:
            for part in (stack.client, stack.worker, stack.server):
                part.close()

    def stub(self, slots: int = SLOTS) -> dict[str, str | None]:
        """Starts the stub server; returns the environment by which hatchet-sdk finds it."""
        grpc_port, http_port = free_port(), free_port()
        process = Process(
            [PYTHON, "-m", "benchmarks.stub_server", str(grpc_port), str(http_port), str(slots)],
            name="stub",
            directory=REPOSITORY,
        )
        self._exits.enter_context(closing(process))
        token = process.wait_for_line(r"token=(\S+)").group(1)
        return {
            "HATCHET_CLIENT_TOKEN": token,
            "HATCHET_CLIENT_HOST_PORT": f"127.0.0.1:{grpc_port}",
            "HATCHET_CLIENT_SERVER_URL": f"http://127.0.0.1:{http_port}",
            "HATCHET_CLIENT_TLS_STRATEGY": "none",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median with minimum and maximum, for the notes."""
    return f"{median(values):.{digits}f} (of {len(values)}: {min(values):.{digits}f} to {max(values):.{digits}f})"
