"""A whole shard on virtual time over a record in memory, for crons and scheduled runs: lives that end and begin again."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from broadaxe_actors.cel import InlineEvaluator
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.messages import (
    CreateCron,
    DeleteTimers,
    EnableCron,
    MoveScheduledRuns,
    PutWorkflow,
    RunTimer,
    ScheduleRuns,
)
from broadaxe_actors.runtime.virtual import World, run_virtual
from broadaxe_actors.shard import Shard
from broadaxe_gateway.hub import Hub
from broadaxe_storage.memory import Faults, MemoryDisk, MemoryStore, NoFaults
from broadaxe_storage.records import FinishedTaskRun, TaskRunRow
from broadaxe_storage.records_timers import CronRow, ScheduledRunRow, TimerKind
from tests.factories import TENANT

SECOND = 1_000_000
MINUTE = 60 * SECOND


def flow(name: str = "w", *crons: str, **fields: Any) -> WorkflowDefinition:
    return WorkflowDefinition(name, (TaskDefinition("t", f"{name}:t"),), cron_triggers=crons, **fields)


class CountingStore(MemoryStore):
    """Counts what is asked of it."""

    reads = 0

    async def _reading(self, method: str) -> None:
        type(self).reads += 1
        await super()._reading(method)


class Life:
    """An engine that is started and killed, over a record that stays."""

    def __init__(self, world: World, faults: Faults | None = None) -> None:
        self.world = world
        self.clock = world.clock
        self.disk = MemoryDisk()
        self.faults = faults or NoFaults()
        self.shard: Shard
        self.hub: Hub
        self.store: CountingStore
        self.fatal: list[str] = []

    @property
    def now(self) -> int:
        return self.clock.now()

    async def start(self) -> None:
        self.store = CountingStore(self.disk, self.faults, self.clock.now)
        self.shard = await Shard.start(
            self.store,
            clock=self.clock,
            rng=self.world.rng,
            evaluator=InlineEvaluator(),
            on_fatal=self.fatal.append,
        )
        self.hub = Hub(self.shard.connect_gateway("gateway"), clock=self.clock, rng=self.world.rng)

    async def kill(self) -> None:
        """kill -9."""
        self.store.crash()
        await self.shard.runtime.stop_all()
        self.hub.close()

    async def stop(self) -> None:
        self.hub.close()
        await self.shard.stop()
        assert self.fatal == []

    # ------------------------------------------------------------ asking

    async def put(self, definition: WorkflowDefinition) -> Any:
        return await self.hub.ask(PutWorkflow, TENANT, definition)

    async def cron(
        self, expression: str, name: str = "c", workflow: str = "w", metadata: str = "{}", **fields: Any
    ) -> str:
        values = {"input": b"{}", "priority": None} | fields
        found: str = await self.hub.ask(
            CreateCron, TENANT, workflow, name, expression, values["input"], metadata, values["priority"]
        )
        return found

    async def schedule(self, *times: int, workflow: str = "w", **fields: Any) -> tuple[str, ...]:
        values = {"input": b"{}", "metadata": "{}", "priority": None} | fields
        found = await self.hub.ask(
            ScheduleRuns, TENANT, workflow, times, values["input"], values["metadata"], values["priority"]
        )
        ids: tuple[str, ...] = found.ids
        return ids

    async def move(self, *moves: tuple[str, int]) -> Any:
        return await self.hub.ask(MoveScheduledRuns, TENANT, moves)

    async def delete(self, kind: TimerKind, *ids: str) -> Any:
        return await self.hub.ask(DeleteTimers, TENANT, int(kind), ids)

    async def enable(self, cron_id: str, *, is_enabled: bool) -> None:
        await self.hub.ask(EnableCron, TENANT, cron_id, is_enabled)

    async def run_now(self, kind: TimerKind, timer_id: str) -> str:
        found: str = await self.hub.ask(RunTimer, TENANT, int(kind), timer_id)
        return found

    # ------------------------------------------------------------ looking

    def runs(self) -> list[TaskRunRow | FinishedTaskRun]:
        """All runs, oldest first."""
        rows = [*self.disk.live.values(), *self.disk.finished.values()]
        return sorted((row for row in rows if row.id == row.run_id), key=lambda row: row.created_at)

    def ticks(self, name: str | None = None) -> list[str]:
        """The ticks that runs say they are of."""
        found = [json.loads(row.metadata) for row in self.runs()]
        return sorted(
            item["hatchet__cron_scheduled_at"]
            for item in found
            if "hatchet__cron_scheduled_at" in item and name in (None, item["hatchet__cron_name"])
        )

    def scheduled(self, scheduled_id: str) -> ScheduledRunRow:
        return self.disk.scheduled_runs[scheduled_id]

    def cron_row(self, cron_id: str) -> CronRow:
        return self.disk.crons[cron_id]


def live(main: Callable[[Life], Awaitable[None]], faults: Faults | None = None, seed: int = 0) -> None:
    """Run one story. The clock begins at a whole minute."""

    async def run(world: World) -> None:
        life = Life(world, faults)
        await asyncio.sleep((-life.now % MINUTE) / SECOND)
        await life.start()
        await main(life)

    run_virtual(run, seed)


async def sleep_until(life: Life, at: int) -> None:
    await asyncio.sleep((at - life.now) / SECOND)
