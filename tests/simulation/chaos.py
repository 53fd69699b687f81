"""What goes wrong in a simulation and what is asked of it, and how often: faults of the store, of the engine and of the way to it.

One generator, seeded once, decides everything. `Chaos` is the store's `Faults`; `SimStore` adds what a `MemoryStore` cannot know: a crash right
after a commit was applied, and what stood there before each write.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from broadaxe_actors.cel import Expression, InlineEvaluator
from broadaxe_storage.errors import RefusedRecords, Unavailable
from broadaxe_storage.memory import CommitFault, MemoryDisk, MemoryStore
from broadaxe_storage.records import (
    Batch,
    FinishedTaskRun,
    IdempotencyKeyRow,
    TaskRunRow,
)

FAULTS = (
    "crash before a commit",
    "crash after a commit",
    "crash between commits",
    "commit lost before",
    "commit lost after",
    "commit slow",
    "guard refused",
    "bad record",
    "Postgres away",
    "batch duplicated",
    "batch lost with its link",
    "answer lost with its link",
    "tenant crash before a handler",
    "tenant crash after a handler",
    "worker died",
    "worker disconnected",
    "worker lost heartbeats",
    "worker said goodbye",
    "worker ran on after a cancel",
    "report twice",
    "report late",
    "hang until the time-out",
    "trigger repeated",
)
"""Every kind of fault; a set of runs in which one never happened proves less than it says."""

WORK = (
    "concurrency group was full",
    "displaced by a concurrency strategy",
    "rate limit was used up",
    "more units than a limit has",
    "run of several tasks ended",
    "run of several tasks waited in Postgres",
    "run of an older version ended",
    "task skipped by its parents",
    "task cancelled by its parents",
    "task that could never start",
    "expression on an output failed",
    "expression evaluated apart",
    "task queued after waits",
    "task skipped after waits",
    "task cancelled after waits",
    "sleep ended a wait",
    "event ended a wait",
    "event of before the wait counted",
    "run started by a filter",
    "on-failure task ran",
    "on-failure task skipped",
    "workflow paused",
    "cancel of a run",
    "cancel of a task",
    "cancel by filter",
    "replay of a run",
    "replay of a task",
    "replay by filter",
    "result kept in a replay",
    "key taken by TTL",
    "key taken by STATUS",
    "key taken within a bulk",
    "key of an ended run free again",
    "time-out extended",
    "slot released",
    "children of a task of several",
    "run read",
    "tick made a run",
    "scheduled run made its run",
)
"""Every kind of work, likewise."""


class Violation(AssertionError):
    """An invariant does not hold."""


class Chaos:
    """Decides what goes wrong and counts it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.hits: Counter[str] = Counter()
        self.bombs: Counter[str] = Counter()
        """Crashes of handlers, by handler."""
        self.is_on = True
        self.is_away = False
        self.cursed: str | None = None
        """A task run whose records the store refuses."""
        self.bomb: tuple[str, str, bool] | None = None
        """Class and handler that raises next, and whether it has done its work before."""
        self.kill: Callable[[], None] = lambda: None
        self.crash_rate = rng.choice((0.0, 0.004, 0.02))
        self.commit_fault_rate = rng.choice((0.0, 0.02, 0.08))
        self.slow_rate = rng.choice((0.0, 0.05, 0.3, 0.8))

    def happens(self, probability: float) -> bool:
        return self.is_on and self.rng.random() < probability

    def hit(self, fault: str) -> None:
        assert fault in FAULTS, fault
        self.hits[fault] += 1

    def did(self, work: str) -> None:
        assert work in WORK, work
        self.hits[work] += 1

    async def on_commit(self, epoch: int, flush: int, batch: Batch) -> CommitFault:
        await asyncio.sleep(self.rng.uniform(0.0002, 0.004))
        if self.happens(self.slow_rate):
            self.hit("commit slow")
            await asyncio.sleep(self.rng.uniform(0.02, 0.6))
        if self.is_away:
            return CommitFault.UNAVAILABLE
        if self.happens(self.crash_rate):
            self.hit("crash before a commit")
            self.kill()
            return CommitFault.NONE  # the store is closed by now: it refuses
        self._refuse(batch)
        if self.happens(self.commit_fault_rate):
            fault = self.rng.choice(
                (CommitFault.LOST_BEFORE, CommitFault.LOST_AFTER, CommitFault.UNAVAILABLE)
            )
            if fault is not CommitFault.UNAVAILABLE:
                self.hit(f"commit {fault.value}")
            return fault
        return CommitFault.NONE

    async def on_read(self, method: str) -> None:
        await asyncio.sleep(self.rng.uniform(0.0002, 0.006))
        if self.is_away:
            raise Unavailable("the simulation plays a database that is away")

    def _refuse(self, batch: Batch) -> None:
        rows = [*batch.created, *batch.updated, *batch.finished, *batch.settled]
        if self.cursed is None and rows and self.happens(0.003):
            self.cursed = self.rng.choice(rows).id
            self.hit("guard refused")
        if self.cursed is not None and any(row.id == self.cursed for row in rows):
            refused = self.cursed
            if len(rows) == 1:
                self.cursed = None
            raise RefusedRecords("the simulation plays a guard that is not met", [refused])

    def after_commit(self) -> None:
        if self.happens(self.crash_rate):
            self.hit("crash after a commit")
            self.kill()


class SimEvaluator(InlineEvaluator):
    """Evaluates here, but some time later, as a process of its own would."""

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos

    async def evaluate_apart(self, expression: Expression, values: Any) -> bool | str | int:
        self._chaos.did("expression evaluated apart")
        await asyncio.sleep(self._chaos.rng.uniform(0.0, 0.05))
        return await super().evaluate_apart(expression, values)


class Before(NamedTuple):
    """What the store had of what a batch writes, right before."""

    live: dict[str, TaskRunRow | None]
    finished: dict[str, FinishedTaskRun | None]
    revived: dict[str, list[FinishedTaskRun]]
    """By run id."""
    keys: dict[tuple[str, str], IdempotencyKeyRow | None]
    """By tenant and idempotency key."""


class SimStore(MemoryStore):
    """A memory store under watch."""

    def __init__(self, disk: MemoryDisk, chaos: Chaos, now: Callable[[], int], on_write: Any) -> None:
        super().__init__(disk, chaos, now)
        self._chaos = chaos
        self._on_write = on_write

    async def commit(self, *args: Any) -> None:
        await super().commit(*args)
        self._chaos.after_commit()

    def _write(self, epoch: int, flush: int, shards: Any, batch: Batch) -> None:
        disk = self.disk
        before = Before(
            {
                row.id: disk.live.get(row.id)
                for row in (*batch.created, *batch.updated, *batch.finished, *batch.settled)
            },
            {row.id: disk.finished.get(row.id) for row in (*batch.created, *batch.finished)},
            {
                item.run_id: [row for row in disk.finished.values() if row.run_id == item.run_id]
                for item in batch.revived
            },
            {
                (item.tenant_id, item.key): disk.idempotency_keys.get((item.tenant_id, item.key))
                for item in batch.claimed_keys
            },
        )
        super()._write(epoch, flush, shards, batch)
        self._on_write(batch, before)
