"""A whole shard on virtual time: its store, its gateways, workers and clients, and the faults between them.

One seed decides everything. `simulate(seed)` returns an `Outcome`; a violated invariant raises `Violation` naming the seed.
"""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, NamedTuple

from broadaxe_actors.connected_worker import ConnectedWorker
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import NewEvent, NewRun, PushEvents, PutWorkflow, TriggerRuns
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.runtime.virtual import World, run_virtual
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.shard import Shard
from broadaxe_actors.supervisor import Supervisor
from broadaxe_actors.tenant_queue import TenantQueue
from broadaxe_actors.worker_registry import WorkerRegistry
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.memory import MemoryDisk
from broadaxe_storage.records import TaskRunRow, TaskRunState
from tests.simulation.chaos import Chaos, SimStore, Violation
from tests.simulation.check import Check
from tests.simulation.gateway import LinkLost, SimGateway
from tests.simulation.worker import SimWorker

BUSY_SECONDS = 40.0
"""How long clients trigger and faults happen."""
PATIENCE_SECONDS = 90.0
"""How long nothing may be committed afterwards before what has not ended counts as stuck: more than any loss, pause or time-out."""

BOMBS = (
    (RunTracker, ("report", "propose", "created", "requeued", "worker_lost", "due", "trigger", "watch")),
    (TenantQueue, ("match", "release", "enqueue")),
    (ConnectedWorker, ("open_session", "start_tasks", "heartbeat", "done")),
    (WorkerRegistry, ("register", "route")),
)

WORKFLOWS = {
    "fast": {},
    "slow": {},
    "flaky": {"retries": 3},
    "backoff": {"retries": 2, "backoff_factor": 1.7, "backoff_max_seconds": 4},
    "parent": {"retries": 1},
    "hang": {"execution_timeout": "3s", "retries": 1},
    "evented": {},
    "unserved": {"schedule_timeout": "2s"},
}


class InjectedError(Exception):
    """What an injected handler raises."""


class Outcome(NamedTuple):
    seed: int
    steps: int
    hits: Counter[str]
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
        self.settings = ShardSettings(
            queue_window_high=rng.choice((6, 20, 20_000)),
            queue_window_low=3,
            queue_page=rng.choice((2, 5)),
        )
        self.actions = tuple(f"{name}:{name}" for name in WORKFLOWS if name != "unserved")
        self.tenants = tuple(self.new_id() for _ in range(rng.choice((1, 1, 2))))
        self.names: dict[str, str] = {}
        self.created: dict[str, TaskRunRow] = {}
        self.check = Check(self)
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
        self.check.see("kill")
        if self._store is not None:
            self._store.crash()
        shard, self.shard = self.shard, None
        if self._starting is not None:
            self._starting.cancel()
        for gateway in self.gateways:
            gateway.break_link()
        if shard is not None:
            self._keep(shard.runtime.stop_all())
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
            self._keep(self._reconnect(gateway))

    async def _reconnect(self, gateway: SimGateway) -> None:
        await asyncio.sleep(self.rng.choice((0.01, 0.4)))
        if self.shard is not None and not gateway.up.is_set():
            gateway.connect(self.shard.connect_gateway(gateway.name, is_pickling=True))

    def _written(self, batch: Any, before: dict[str, Any], ended: dict[str, Any]) -> None:
        for row in batch.created:
            self.created[row.id] = row
        for version in batch.workflow_versions:
            self.names[version.workflow_id] = version.name
        self.check.written(batch, before, ended)

    def _keep(self, coroutine: Any) -> "asyncio.Task[Any]":
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
                self.chaos.is_away = True
                await asyncio.sleep(self.rng.choice((0.2, 2.0, 8.0)))
                self.chaos.is_away = False
            elif kind == 1 and self.shard is not None:
                self.chaos.hit("crash between commits")
                self.kill()
            elif kind in (2, 3) and self.chaos.bomb is None:
                actor_class, handlers = self.rng.choice(BOMBS)
                self.chaos.bomb = (actor_class.__name__, self.rng.choice(handlers), self.rng.random() < 0.5)

    # ------------------------------------------------------------ clients

    async def _client(self, tenant_id: str, gateway: SimGateway) -> None:
        while not await self._put_workflows(tenant_id, gateway):  # noqa: ASYNC110 - the answer is what is awaited
            await asyncio.sleep(0.1)
        rate = self.rng.choice((2.0, 6.0))
        end = self.clock.monotonic() + round(self._busy_seconds * 1e6)
        while self.clock.monotonic() < end:
            await asyncio.sleep(self.rng.expovariate(rate))
            choice = self.rng.random()
            if choice < 0.12:
                self._keep(self._push(tenant_id, gateway))
            elif choice < 0.16:
                self._keep(self._bad_trigger(tenant_id, gateway))
            else:
                self._keep(self._trigger(tenant_id, gateway))

    async def _put_workflows(self, tenant_id: str, gateway: SimGateway) -> bool:
        for name, fields in WORKFLOWS.items():
            # A day, so that only what hangs on purpose is ended by a time-out.
            task = TaskDefinition(
                name,
                f"{name}:{name}",
                **{"execution_timeout": "24h", "schedule_timeout": "24h", **fields},  # type: ignore[arg-type]
            )
            definition = WorkflowDefinition(
                name, (task,), event_triggers=("order:created",) if name == "evented" else ()
            )
            await gateway.up.wait()
            try:
                await gateway.ask(PutWorkflow, tenant_id, definition)
            except (LinkLost, Refused):
                return False
        return True

    def _runs(self) -> tuple[NewRun, ...]:
        rng = self.rng
        size = rng.choice((1, 1, 1, 1, 3, 12)) if rng.random() < 0.99 else 300
        kinds = ["fast"] if size == 300 else [name for name in WORKFLOWS if name != "evented"]
        return tuple(
            NewRun(
                rng.choice(kinds),
                b"x" * rng.randrange(8),
                run_id=self.new_id(),
                priority=rng.choice((None, 1, 2, 3)),
            )
            for _ in range(size)
        )

    async def _trigger(self, tenant_id: str, gateway: SimGateway) -> None:  # noqa: C901 - a client's whole story
        runs = self._runs()
        ids = tuple(run.run_id for run in runs)
        watched = ids if self.rng.random() < 0.5 else ()
        if self.rng.random() < 0.3:
            for run_id in watched:
                gateway.watch(tenant_id, run_id)
        is_repeat = False
        while True:
            await gateway.up.wait()
            try:
                answer = await gateway.ask(TriggerRuns, tenant_id, runs, is_repeat)
            except LinkLost:
                is_repeat = True
            except Refused as refused:
                if "guard that is not met" in refused.message:
                    for run_id in watched:
                        gateway.watches.pop((tenant_id, run_id), None)
                    return
                if refused.code not in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
                    self.fail(Violation(f"a good trigger was refused: {refused!r}"))
                    return
                is_repeat = True
            else:
                if answer != ids:
                    self.fail(Violation(f"asked for runs {ids}, was answered {answer}"))
                break
            await asyncio.sleep(0.2)
        for run_id in watched:
            gateway.watch(tenant_id, run_id)
        if self.chaos.happens(0.1):
            self.chaos.hit("trigger repeated")
            await asyncio.sleep(self.rng.choice((0.0, 0.5, 20.0)))
            await gateway.up.wait()
            try:
                await gateway.ask(TriggerRuns, tenant_id, runs, True)
            except (LinkLost, Refused):
                return
        if self.rng.random() < 0.2:
            await asyncio.sleep(self.rng.uniform(0, 30))
            for run_id in watched:
                gateway.watch(tenant_id, run_id)

    async def _bad_trigger(self, tenant_id: str, gateway: SimGateway) -> None:
        """A record that Postgres refuses costs its caller only."""
        self.chaos.hit("bad record")
        await gateway.up.wait()
        run = NewRun("fast", b"{}", run_id=self.new_id(), child_index=1 << 40)
        try:
            await gateway.ask(TriggerRuns, tenant_id, (run,))
        except (LinkLost, Refused):
            return
        self.fail(Violation("a record out of range was acknowledged"))

    async def _push(self, tenant_id: str, gateway: SimGateway) -> None:
        await gateway.up.wait()
        events = tuple(
            NewEvent(self.rng.choice(("order:created", "nobody:cares")), b"{}")
            for _ in range(self.rng.choice((1, 3)))
        )
        try:
            await gateway.ask(PushEvents, tenant_id, events)
        except (LinkLost, Refused):
            return

    # ------------------------------------------------------------ workers

    def _hire(self, tenant_id: str) -> None:
        gateway = self.rng.choice(self.gateways)
        worker = SimWorker(self, tenant_id, gateway, f"worker-{len(self._workers)}")
        self._workers.append(worker)
        self._keep(worker.run())

    def worker_died(self, worker: SimWorker) -> None:
        """Another is started in its place."""
        self._keep(self._replace(worker))

    async def _replace(self, worker: SimWorker) -> None:
        await asyncio.sleep(self.rng.uniform(0.1, 5))
        self._hire(worker.tenant_id)

    # ------------------------------------------------------------ the run

    async def run(self) -> Outcome:
        self._failed = asyncio.get_running_loop().create_future()
        for gateway in self.gateways:
            gateway.on_break = self.break_link
        main = self._keep(self._main())
        await asyncio.wait({main, self._failed}, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            self._failed.result()
        main.result()
        self._failed.cancel()
        return Outcome(
            self.world.seed, self.check.steps, self.chaos.hits, self.check.trace, len(self.check.acknowledged)
        )

    async def _main(self) -> None:
        self._keep(self._engine())
        self._keep(self._troubles())
        for tenant_id in self.tenants:
            for _ in range(self.rng.choice((1, 2, 3))):
                self._hire(tenant_id)
            for gateway in self.gateways:
                self._keep(self._client(tenant_id, gateway))
        await asyncio.sleep(self._busy_seconds)
        self.chaos.is_on = False
        self.chaos.is_away = False
        self.chaos.bomb = self.chaos.cursed = None
        for worker in self._workers:
            worker.recover()
        self.check.see("settling")
        for tenant_id in self.tenants:
            self._hire(tenant_id)
        commits, waited = -1, 0
        while waited < PATIENCE_SECONDS and not self._is_quiet():
            await asyncio.sleep(1)
            waited = waited + 1 if self.disk.commits == commits else 0
            commits = self.disk.commits
        # What is told last, and records that wait for company, need a moment.
        await asyncio.sleep(3)
        self.check.final()

    def _is_quiet(self) -> bool:
        return (
            self.shard is not None
            and not self.disk.live
            and not self.check.unfinished()
            and not any(gateway.pending or gateway.watches for gateway in self.gateways)
        )


class _Watched:
    """Handlers that raise when told to, and that show what they decided. In place while a simulation runs."""

    def __init__(self, simulation: Simulation) -> None:
        self._sim = simulation
        self._saved: list[tuple[type, Any]] = []

    def __enter__(self) -> None:
        for actor_class, handlers in BOMBS:
            self._wrap(actor_class, {name: self._bomb(actor_class, name) for name in handlers})
        self._wrap(RunTracker, {"propose": self._observe_proposals})
        self._wrap(Supervisor, {"crashed": self._observe_crash})

    def __exit__(self, *_error: object) -> None:
        for actor_class, handlers in reversed(self._saved):
            actor_class.handlers = handlers  # type: ignore[attr-defined]

    def _wrap(self, actor_class: Any, wrappers: dict[str, Any]) -> None:
        handlers = actor_class.handlers
        self._saved.append((actor_class, handlers))
        wrapped = {name: wrap(handlers[name]) for name, wrap in wrappers.items()}
        for name, function in wrapped.items():
            function.__name__ = name
            function.__qualname__ = f"{actor_class.__name__}.{name}"
        actor_class.handlers = MappingProxyType({**handlers, **wrapped})

    def _bomb(self, actor_class: type, name: str) -> Any:
        chaos = self._sim.chaos
        key = (actor_class.__name__, name)

        def wrap(function: Any) -> Any:
            def handler(actor: Any, *args: Any) -> Any:
                if chaos.bomb is None or chaos.bomb[:2] != key or not chaos.is_on:
                    return function(actor, *args)
                is_after = chaos.bomb[2]
                chaos.bomb = None
                if is_after:
                    function(actor, *args)
                when = "after" if is_after else "before"
                chaos.hit(f"tenant crash {when} a handler")
                raise InjectedError(f"injected {when} {key}")

            return handler

        return wrap

    def _observe_proposals(self, function: Any) -> Any:
        check = self._sim.check

        def handler(tracker: Any, proposals: Any) -> Any:
            waiting = {
                item.task_run_id
                for item in proposals
                if (task := tracker._live.get(item.task_run_id)) is not None
                and task.state == TaskRunState.QUEUED
            }
            function(tracker, proposals)
            given: set[str] = set()
            for item in proposals:
                task = tracker._live.get(item.task_run_id)
                if task is not None and task.state == TaskRunState.ASSIGNED and task.id in waiting:
                    waiting.discard(task.id)
                    check.proposed(tracker, task)
                    given.add(task.worker_id)
            check.ledger(tracker, given)

        return handler

    def _observe_crash(self, function: Any) -> Any:
        sim = self._sim

        def handler(supervisor: Any, tenant_id: str, error: str) -> Any:
            sim.check.crashed()
            sim.check.see("tenant crashed", tenant_id)
            if "InjectedError" not in error and "EngineBug: Postgres refused a transition" not in error:
                sim.fail(Violation(f"an actor of the engine raised:\n{error}"))
            if sim.chaos.cursed is not None:
                sim.chaos.cursed = None
            return function(supervisor, tenant_id, error)

        return handler


def simulate(
    seed: int, log: Callable[[str], None] | None = None, busy_seconds: float = BUSY_SECONDS
) -> Outcome:
    """Run one simulation; faults happen for `busy_seconds` of it. Raises `Violation`, or what the engine raised, with a note naming the seed."""

    async def main(world: World) -> Outcome:
        simulation = Simulation(world, log, busy_seconds)
        with _Watched(simulation):
            return await simulation.run()

    try:
        return run_virtual(main, seed)
    except BaseException as error:
        often = "" if busy_seconds == BUSY_SECONDS else f" SIMULATION_SECONDS={busy_seconds:g}"
        error.add_note(f"replay with: SIMULATION_SEED={seed}{often} make simulate")
        raise
