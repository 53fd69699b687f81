"""Crons and scheduled runs in a simulation: what clients do with them, and the invariants.

Each scheduled run that was acknowledged makes one run, unless it was deleted, or says why it made none; each tick makes at most one; none
is early; and a run and what its timer says of it are written in one commit. Calls none of the engine's code.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

from broadaxe_actors.errors import Refused
from broadaxe_actors.messages import (
    CreateCron,
    DeleteTimers,
    EnableCron,
    MoveScheduledRuns,
    RunTimer,
    ScheduleRuns,
)
from broadaxe_storage.records import Batch
from broadaxe_storage.records_timers import TimerKind
from tests.simulation.gateway import LinkLost

WORKFLOWS = ("fast", "flaky", "dag0", "limited-rr", "once-ttl", "lone0")
EXPRESSIONS = ("* * * * * *", "*/3 * * * * *", "*/7 * * * * *")
REASONS = ("guard that is not met", "idempotency key collision", "was paused")
"""Why a scheduled run may make no run."""


class TimerCheck:
    """See the module."""

    def __init__(self, disk: Any, did: Callable[[str], None], fail: Callable[[str], None]) -> None:
        self._disk = disk
        self._did = did
        self._fail = fail
        self.acknowledged: dict[str, None] = {}
        self.delete_asked: set[str] = set()
        self.run_asked: set[str] = set()
        self._ticks: Counter[tuple[str, str, str]] = Counter()
        self._runs: dict[str, str] = {}
        """By run of a cron: its tick."""

    def written(self, batch: Batch) -> None:
        if not any((batch.created, batch.cron_changes, batch.scheduled_changes)):
            return
        created = {row.id: row for row in batch.created if row.id == row.run_id}
        ticks = {(change.id, change.tick_at) for change in batch.cron_changes}
        for row in created.values():
            metadata = json.loads(row.metadata)
            tick = metadata.get("hatchet__cron_scheduled_at")
            if tick is not None:
                self._tick(row, metadata, tick, ticks)
        for change in batch.scheduled_changes:
            if change.run_id is not None:
                self._fired(change, created.get(change.run_id))

    def _tick(self, row: Any, metadata: Any, tick: str, ticks: set[tuple[str, int | None]]) -> None:
        if row.id in self._runs:
            return  # a replay writes it again
        self._runs[row.id] = tick
        at = round(datetime.fromisoformat(tick).timestamp()) * 1_000_000
        key = (row.workflow_id, metadata["hatchet__cron_name"], tick)
        self._ticks[key] += 1
        if self._ticks[key] > 1:
            self._fail(f"tick {key} made two runs, the second {row.id}")
        if row.created_at < at:
            self._fail(f"tick {key} made its run early: {row}")
        if not any(found == at for _, found in ticks):
            self._fail(f"the run of tick {key} was written without the tick: {row.id}")
        self._did("tick made a run")

    def _fired(self, change: Any, run: Any) -> None:
        if run is None:
            self._fail(f"{change} was written without its run")
            return
        if run.created_at < change.trigger_at and change.id not in self.run_asked:
            self._fail(f"{change} made its run early: {run}")
        self._did("scheduled run made its run")

    def final(self, stored: Callable[[str], Any]) -> None:
        """When all has come to rest."""
        for scheduled_id in self.acknowledged:
            row = self._disk.scheduled_runs.get(scheduled_id)
            if row is None:
                if scheduled_id not in self.delete_asked:
                    self._fail(f"scheduled run {scheduled_id} is gone, and nobody deleted it")
            elif row.fired_at is None:
                self._fail(f"a scheduled run never fired: {row}")
        runs = [row.run_id for row in self._disk.scheduled_runs.values() if row.run_id is not None]
        for run_id, count in Counter(runs).items():
            if count > 1 or stored(run_id) is None:
                self._fail(f"run {run_id} is that of {count} scheduled runs: {stored(run_id)}")
        for row in self._disk.scheduled_runs.values():
            if row.error is not None and not any(reason in row.error for reason in REASONS):
                self._fail(f"a scheduled run was given up for no reason: {row}")


class Timed:
    """What a client does with timers; a part of `Client`."""

    sim: Any
    chaos: Any
    rng: Any
    tenant_id: str
    gateway: Any

    async def _ask_timer(self, message: type, *fields: Any) -> Any:
        """The answer; None where nobody knows, or it was refused."""
        await self.gateway.up.wait()
        try:
            return await self.gateway.ask(message, self.tenant_id, *fields)
        except (LinkLost, Refused):
            return None

    def _timer_input(self) -> bytes:
        return json.dumps({"key": f"k{self.rng.randrange(3)}", "l": self.rng.choice(([9], [1]))}).encode()

    async def _schedule(self) -> None:
        now = self.sim.clock.now()
        times = tuple(
            now + round(self.rng.uniform(-1, 12) * 1e6) for _ in range(self.rng.choice((1, 1, 3, 12)))
        )
        answer = await self._ask_timer(
            ScheduleRuns,
            self.rng.choice(WORKFLOWS),
            times,
            self._timer_input(),
            "{}",
            self.rng.choice((None, 1, 3)),
        )
        if answer is not None:
            for scheduled_id in answer.ids:
                if scheduled_id not in self.sim.disk.scheduled_runs and (
                    scheduled_id not in self.sim.check.timers.delete_asked
                ):
                    self.sim.check.fail(f"scheduled run {scheduled_id} was acknowledged before its commit")
                self.sim.check.timers.acknowledged[scheduled_id] = None

    async def _meddle(self) -> None:
        """Something is done to a timer, often right when it is due."""
        mine = [row for row in self.sim.disk.scheduled_runs.values() if row.tenant_id == self.tenant_id]
        if not mine:
            return
        row = self.rng.choice(mine[-20:])
        await asyncio.sleep(
            max(0.0, (row.trigger_at - self.sim.clock.now()) / 1e6 + self.rng.uniform(-0.05, 0.05))
        )
        check = self.sim.check.timers
        kind = self.rng.randrange(3)
        if kind == 0:
            later = self.sim.clock.now() + round(self.rng.uniform(-1, 5) * 1e6)
            await self._ask_timer(MoveScheduledRuns, ((row.id, later),))
        elif kind == 1:
            check.delete_asked.add(row.id)
            answer = await self._ask_timer(DeleteTimers, int(TimerKind.SCHEDULED), (row.id,))
            if answer is not None and row.id in self.sim.disk.scheduled_runs:
                self.sim.check.fail(f"scheduled run {row.id} is said to be deleted, and is not")
        else:
            check.run_asked.add(row.id)
            run_id = await self._ask_timer(RunTimer, int(TimerKind.SCHEDULED), row.id)
            if run_id is not None and self.sim.check.stored(run_id) is None:
                self.sim.check.fail(f"run {run_id} of scheduled run {row.id} was told before its commit")

    async def _cron(self) -> None:
        mine = [row for row in self.sim.disk.crons.values() if row.tenant_id == self.tenant_id]
        if len(mine) < 4 and self.chaos.is_on:
            name = f"c{self.rng.randrange(1_000_000)}"
            await self._ask_timer(
                CreateCron,
                self.rng.choice(WORKFLOWS),
                name,
                self.rng.choice(EXPRESSIONS),
                self._timer_input(),
                "{}",
                self.rng.choice((None, 2)),
            )
            return
        row = self.rng.choice(mine)
        if self.rng.random() < 0.5:
            await self._ask_timer(EnableCron, row.id, self.rng.random() < 0.6)
        else:
            await self._ask_timer(DeleteTimers, int(TimerKind.CRON), (row.id,))

    async def stop_crons(self) -> None:
        """Nothing ticks any more."""
        mine = [row.id for row in self.sim.disk.crons.values() if row.tenant_id == self.tenant_id]
        if mine:
            await self._ask_timer(DeleteTimers, int(TimerKind.CRON), tuple(mine))
