"""A whole shard on virtual time: its store, its gateways, workers and clients, and the faults between them.

One seed decides everything. `simulate(seed)` returns an `Outcome`; a violated invariant raises `Violation` naming the seed.
"""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.runtime.virtual import World, run_virtual
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.shard import Shard
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.memory import MemoryDisk
from broadaxe_storage.records import TaskRunRow
from tests.simulation.chaos import Before, Chaos, SimEvaluator, SimStore, Violation
from tests.simulation.check import Check
from tests.simulation.clients import Client
from tests.simulation.final import Final
from tests.simulation.gateway import SimGateway
from tests.simulation.watched import BOMBS, Watched
from tests.simulation.worker import SimWorker
from tests.simulation.workflows import kind_of, make_dag, make_workflows

BUSY_SECONDS = 40.0
"""How long clients trigger and faults happen."""
PATIENCE_SECONDS = 90.0
"""How long nothing may be committed afterwards before what has not ended counts as stuck: more than any loss, pause or time-out."""
REST_SECONDS = 8
"""How long nothing is committed before what waits is looked at, and given the events that end it."""


class Outcome(NamedTuple):
    seed: int
    steps: int
    hits: Counter[str]
    bombs: Counter[str]
    """Crashes of handlers."""
    trace: str
    runs: int


class Simulation:
    """See the module."""

    def __init__(self, world: World, log: Callable[[str], None] | None, busy_seconds: float) -> None:
        self.world = world
        self._busy_seconds = busy_seconds
        self.clock = world.clock
        self.log = log
        rng = random.Random(world.seed)
        self.rng = rng
        self.chaos = Chaos(rng)
        self.chaos.kill = self.kill
        self.disk = MemoryDisk()
        high = rng.choice((2, 6, 20, 20_000))
        self.settings = ShardSettings(
            queue_window_high=high,
            queue_window_low=min(3, high - 1),
            queue_page=rng.choice((2, 5)),
        )
        self.workflows = make_workflows(rng)
        self.newer = {
            "dag0": make_dag(rng, "dag0"),
            # Without filters of its own: those of before stay.
            "filtered": replace(self.workflows["filtered"], default_filters=(), description="newer"),
        }
        """What is registered in place of an earlier version, some time on."""
        self.actions = tuple(
            sorted(
                {
                    task.action
                    for definition in (*self.workflows.values(), *self.newer.values())
                    for task in definition.all_tasks
                    if kind_of(task.name) != "unserved"
                }
            )
        )
        self.tenants = tuple(self.new_id() for _ in range(rng.choice((1, 1, 2))))
        self.latest_versions: dict[tuple[str, str], str] = {}
        self.workflow_ids: dict[tuple[str, str], str] = {}
        self.metadata: dict[str, str] = {}
        """By run: the value of the metadata key by which filters choose."""
        self.acknowledged_at: dict[str, int] = {}
        self.asking = 0
        """Clients, and triggers of theirs, that are not done."""
        self.created: dict[str, TaskRunRow] = {}
        self.check = Check(self)
        self.final = Final(self)
        self.gateways = [
            SimGateway(f"gateway-{index}", self.chaos, self.check) for index in range(rng.choice((1, 1, 2)))
        ]
        self.shard: Shard | None = None
        self._store: SimStore | None = None
        self._starting: asyncio.Task[Shard] | None = None
        self._down = asyncio.Event()
        self._failed: asyncio.Future[Any] | None = None
        self._workers: list[SimWorker] = []
        self._lives: set[asyncio.Task[Any]] = set()
        self._is_over = False

    def new_id(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def fail(self, error: BaseException | None) -> None:
        if self._failed is not None and not self._failed.done() and error is not None:
            self._failed.set_exception(error)

    # ------------------------------------------------------------ looking inside

    def actors(self, actor_class: type) -> Iterator[Any]:
        if self.shard is not None:
            for actor in self.shard.runtime.live_actors():
                if isinstance(actor, actor_class):
                    yield actor

    def describe(self, row: TaskRunRow) -> str:
        """What memory holds of a stored task run."""
        for tracker in self.actors(RunTracker):
            task = tracker._live.get(row.id)
            if task is not None:
                return f"in memory {task.state.name} attempt {task.attempt} with {task.worker_id}"
        return "not in memory"

    # ------------------------------------------------------------ the engine

    def kill(self) -> None:
        """kill -9."""
        self.check.crashed()
        self.check.trouble_begins("engine")
        self.check.see("kill")
        if self._store is not None:
            self._store.crash()
        shard, self.shard = self.shard, None
        if self._starting is not None:
            self._starting.cancel()
        for gateway in self.gateways:
            gateway.break_link()
        if shard is not None:
            self.keep(shard.runtime.stop_all())
        self._down.set()

    async def _engine(self) -> None:
        """Starts the engine, and again after each crash."""
        while not self._is_over:
            self._down.clear()
            self._store = SimStore(self.disk, self.chaos, self.clock.now, self._written)
            self._starting = asyncio.get_running_loop().create_task(
                Shard.start(
                    self._store,
                    clock=self.clock,
                    rng=self.world.rng,
                    settings=self.settings,
                    evaluator=SimEvaluator(self.chaos),
                    on_fatal=lambda text: self.fail(Violation(f"the shard cannot go on: {text}")),
                )
            )
            try:
                self.shard = await self._starting
            except Unavailable:
                self._store.crash()
                await asyncio.sleep(0.1)
                continue
            except asyncio.CancelledError:
                if not self._down.is_set():
                    raise
                await asyncio.sleep(0.1)
                continue
            finally:
                self._starting = None
            self.check.see("up")
            self.keep(self.note_return("engine"))
            for gateway in self.gateways:
                gateway.connect(self.shard.connect_gateway(gateway.name, is_pickling=True))
            await self._down.wait()
            await asyncio.sleep(self.rng.choice((0.05, 0.5, 3.0, 15.0)))

    def break_link(self, gateway: SimGateway) -> None:
        """A gateway loses its link, and makes another."""
        self.check.see("link broken", gateway.name)
        gateway.break_link()
        if self.shard is not None:
            self.shard.disconnect_gateway(gateway.name)
            self.keep(self._reconnect(gateway))

    async def _reconnect(self, gateway: SimGateway) -> None:
        await asyncio.sleep(self.rng.choice((0.01, 0.4)))
        if self.shard is not None and not gateway.up.is_set():
            gateway.connect(self.shard.connect_gateway(gateway.name, is_pickling=True))

    def _written(self, batch: Any, before: Before) -> None:
        for row in batch.created:
            self.created[row.id] = row
        self.check.written(batch, before)

    async def note_return(self, what: str) -> None:
        """The engine or a tenant is back; what it had missed may take a moment."""
        generation = self.check.generation
        await asyncio.sleep(1)
        if self.check.generation == generation:
            self.check.trouble_ends(what)

    def keep(self, coroutine: Any) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(coroutine)
        self._lives.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._lives.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.fail(task.exception())

    # ------------------------------------------------------------ faults on a clock

    async def _troubles(self) -> None:
        while self.chaos.is_on:
            await asyncio.sleep(self.rng.uniform(0.3, 5))
            if not self.chaos.is_on:
                return
            kind = self.rng.randrange(8)
            if kind == 0:
                self.chaos.hit("Postgres away")
                self.check.trouble_begins("Postgres")
                self.chaos.is_away = True
                await asyncio.sleep(self.rng.choice((0.2, 2.0, 8.0)))
                self.chaos.is_away = False
                self.keep(self._note_postgres())
            elif kind == 1 and self.shard is not None:
                self.chaos.hit("crash between commits")
                self.kill()
            elif kind in (2, 3, 4):
                actor_class, handlers = self.rng.choice(BOMBS)
                self.chaos.bomb = (actor_class.__name__, self.rng.choice(handlers), self.rng.random() < 0.5)

    async def _note_postgres(self) -> None:
        await asyncio.sleep(2)
        if not self.chaos.is_away:
            self.check.trouble_ends("Postgres")

    # ------------------------------------------------------------ workers

    def _hire(self, tenant_id: str) -> None:
        gateway = self.rng.choice(self.gateways)
        worker = SimWorker(self, tenant_id, gateway, f"worker-{len(self._workers)}")
        self._workers.append(worker)
        self.keep(worker.run())

    def worker_died(self, worker: SimWorker) -> None:
        """Another is started in its place."""
        self.keep(self._replace(worker))

    async def _replace(self, worker: SimWorker) -> None:
        await asyncio.sleep(self.rng.uniform(0.1, 5))
        self._hire(worker.tenant_id)

    # ------------------------------------------------------------ the run

    async def run(self) -> Outcome:
        self._failed = asyncio.get_running_loop().create_future()
        for gateway in self.gateways:
            gateway.on_break = self.break_link
        main = self.keep(self._main())
        await asyncio.wait({main, self._failed}, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            self._failed.result()
        main.result()
        self._failed.cancel()
        return Outcome(
            self.world.seed,
            self.check.steps,
            self.chaos.hits,
            self.chaos.bombs,
            self.check.trace,
            len(self.check.acknowledged),
        )

    async def _main(self) -> None:
        self.keep(self._engine())
        self.keep(self._troubles())
        for tenant_id in self.tenants:
            for _ in range(self.rng.choice((1, 2, 3))):
                self._hire(tenant_id)
            for gateway in self.gateways:
                self.keep(Client(self, tenant_id, gateway).run(self._busy_seconds))
        await asyncio.sleep(self._busy_seconds)
        self.chaos.is_on = False
        self.chaos.is_away = False
        self.chaos.bomb = self.chaos.cursed = None
        for worker in self._workers:
            worker.recover()
        self.check.see("settling")
        for tenant_id in self.tenants:
            self._hire(tenant_id)
        self.check.record.moved_at = self.clock.now()
        while not self._is_quiet() and self._still_for() < PATIENCE_SECONDS:
            await asyncio.sleep(1)
            for tenant_id in self.tenants:
                await Client(self, tenant_id, self.gateways[0]).stop_crons()
            if self._still_for() % REST_SECONDS == REST_SECONDS - 1:
                self.final.check_waiting()
                for tenant_id in self.tenants:
                    await Client(self, tenant_id, self.gateways[0]).push_all()
        # What is told last, and records that wait for company, need a moment.
        await asyncio.sleep(3)
        self.final.check()

    def _still_for(self) -> int:
        """Seconds since a task run moved last."""
        return (self.clock.now() - self.check.record.moved_at) // 1_000_000

    def _is_quiet(self) -> bool:
        return (
            self.shard is not None
            and not self.asking
            and not self.disk.live
            and not self.disk.crons
            and all(row.fired_at is not None for row in self.disk.scheduled_runs.values())
            and not self.check.unfinished()
            and not any(gateway.pending or gateway.watches for gateway in self.gateways)
        )


def simulate(
    seed: int, log: Callable[[str], None] | None = None, busy_seconds: float = BUSY_SECONDS
) -> Outcome:
    """Run one simulation; faults happen for `busy_seconds` of it. Raises `Violation`, or what the engine raised, with a note naming the seed."""

    async def main(world: World) -> Outcome:
        simulation = Simulation(world, log, busy_seconds)
        with Watched(simulation):
            return await simulation.run()

    try:
        return run_virtual(main, seed)
    except BaseException as error:
        often = "" if busy_seconds == BUSY_SECONDS else f" SIMULATION_SECONDS={busy_seconds:g}"
        error.add_note(f"replay with: SIMULATION_SEED={seed}{often} make simulate")
        raise
