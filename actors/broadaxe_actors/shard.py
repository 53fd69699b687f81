"""`Shard`: builds and connects the actors of a shard in one place, and takes them down in reverse.

    shard = await Shard.start(store)
    link = shard.connect_gateway("gateway-1")
    ...
    await shard.stop()

May touch everything in this package and the store's port.
"""

import asyncio
import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from broadaxe_actors.cel import Evaluator, InlineEvaluator
from broadaxe_actors.gateway_link import GatewayLink, TenantActors
from broadaxe_actors.journal import Journal
from broadaxe_actors.link import LocalLink, ShardLink
from broadaxe_actors.runtime import ActorStopped, Clock, Crash, Handle, Rng, Runtime, SystemClock, SystemRng
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.supervisor import Supervisor, TenantRecord, load_tenant
from broadaxe_actors.telemetry import Gauges, Telemetry, WorkerSlots
from broadaxe_actors.timekeeper import Timekeeper
from broadaxe_storage.store import ShardStore

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0


@dataclass(slots=True)
class _Recovered:
    """What recovery read, by tenant."""

    versions: list[Any] = field(default_factory=list)
    workers: list[Any] = field(default_factory=list)
    task_runs: list[Any] = field(default_factory=list)
    spilled: list[Any] = field(default_factory=list)
    pauses: list[Any] = field(default_factory=list)
    filters: list[Any] = field(default_factory=list)


class Shard:
    """A running shard. Made by `start`."""

    def __init__(
        self,
        store: ShardStore,
        settings: ShardSettings,
        clock: Clock,
        rng: Rng,
        on_fatal: Callable[[str], None],
        evaluator: Evaluator | InlineEvaluator,
    ) -> None:
        self._evaluator = evaluator
        self._store = store
        self._settings = settings
        self._on_fatal = on_fatal
        self.telemetry = Telemetry()
        self.runtime = Runtime(clock=clock, rng=rng, on_crash=self._on_crash)
        self._tenants: dict[str, TenantActors] = {}
        self._gateways: dict[str, Handle[GatewayLink]] = {}
        self._waiting_for: set[str] = set()
        self._recovered = asyncio.Event()
        self._journal: Handle[Any]
        self._supervisor: Handle[Any]
        self.ready = False

    @classmethod
    async def start(
        cls,
        store: ShardStore,
        *,
        clock: Clock | None = None,
        rng: Rng | None = None,
        settings: ShardSettings | None = None,
        on_fatal: Callable[[str], None] | None = None,
        evaluator: Evaluator | InlineEvaluator | None = None,
    ) -> "Shard":
        """Take over the shards, recover every tenant that has anything live, and go on.

        `evaluator`: where expressions that may take long are evaluated; a process of its own when not given.
        `on_fatal` is called when the shard cannot go on: it lost its shards to another engine, or an actor of the shard itself raised.
        Raises what the store raises (`DatabaseInUse`, `Unavailable`).
        """
        shard = cls(
            store,
            settings or ShardSettings(),
            clock or SystemClock(),
            rng or SystemRng(),
            on_fatal or (lambda text: logger.critical("the shard cannot go on: %s", text)),
            evaluator or Evaluator(),
        )
        await shard._start()
        return shard

    async def _start(self) -> None:
        epoch = await self._store.open_shards()
        timekeeper = self.runtime.spawn(Timekeeper)
        self.runtime.connect(timekeeper=timekeeper)
        self._journal = self.runtime.spawn(Journal, self._store, epoch, self._on_fenced)
        self.runtime.connect(journal=self._journal)
        self._supervisor = self.runtime.spawn(
            Supervisor,
            self.runtime,
            self._store,
            self._settings,
            self.telemetry,
            self._journal,
            self._on_tenant_ready,
            self._evaluator,
        )
        self._journal.tell_fullness.send(self._supervisor)
        record = await load_tenant(self._store, None)
        by_tenant: dict[str, _Recovered] = {}
        for kind in ("versions", "workers", "task_runs", "spilled", "pauses", "filters"):
            for row in getattr(record, kind):
                getattr(by_tenant.setdefault(row.tenant_id, _Recovered()), kind).append(row)
        self._waiting_for = set(by_tenant)
        for tenant_id, rows in by_tenant.items():
            self._supervisor.bring_up.send(
                tenant_id,
                TenantRecord(
                    tuple(rows.versions),
                    tuple(rows.workers),
                    tuple(rows.task_runs),
                    tuple(rows.spilled),
                    record.max_seq,
                    tuple(rows.pauses),
                    tuple(rows.filters),
                ),
            )
        if self._waiting_for:
            await self._recovered.wait()
        self.ready = True

    def connect_gateway(self, gateway_id: str, *, is_pickling: bool = False) -> ShardLink:
        """A link for a gateway of this process. With `is_pickling`, every batch goes through pickle."""
        runtime = self.runtime
        link: LocalLink

        def emit(batch: Sequence[Any]) -> None:
            # After the handler, so that the gateway's code never runs inside one.
            runtime.call_after_drain(partial(link.receive, batch))

        gateway = runtime.spawn(GatewayLink, gateway_id, emit, self._supervisor)
        submit = gateway.submit.send

        def deliver(batch: Sequence[Any]) -> None:
            submit(batch)
            runtime.drain_now()

        link = LocalLink(deliver, is_pickling=is_pickling)
        self._gateways[gateway_id] = gateway
        self._supervisor.gateway_joined.send(gateway)
        return link

    def disconnect_gateway(self, gateway_id: str) -> None:
        """Forget a gateway; its streams are gone."""
        gateway = self._gateways.pop(gateway_id, None)
        if gateway is not None:
            gateway.leave.send()

    async def stop(self) -> None:
        """Write what is pending, then stop every actor. Bounded: what Postgres does not take in 30 s, or what a journal that
        has crashed still held, stays unwritten, and unacknowledged.
        """
        self.ready = False
        for actors in list(self._tenants.values()):
            with suppress(ActorStopped):  # a tenant being rebuilt has nothing unsaved
                await actors.tracker.save_all.remote()
        try:
            await self._drain()
        except ActorStopped:
            logger.error("the journal has crashed: the last records are not written")  # noqa: TRY400 - its crash is logged
        await self.runtime.stop_all()
        await self._evaluator.close()

    async def _drain(self) -> None:
        """Wait until nothing is pending, within bounds. Raises `ActorStopped` when the journal has crashed, or does meanwhile."""
        self._journal.drain_all.send()
        deadline = self.runtime.loop.time() + DRAIN_SECONDS
        while not await self._journal.is_drained.remote():
            if self.runtime.loop.time() > deadline:
                logger.error("Postgres did not take the last records within %g s", DRAIN_SECONDS)
                return
            await asyncio.sleep(0.005)

    async def refresh_gauges(self, tenant_id: str | None = None) -> None:
        """Bring the gauges of the telemetry up to date, of one tenant or of all: a few messages a tenant."""
        chosen = self._tenants if tenant_id is None else {tenant_id: self._tenants.get(tenant_id)}
        for name, actors in list(chosen.items()):
            if actors is not None:
                with suppress(ActorStopped):  # a tenant being rebuilt keeps the gauges it had
                    self.telemetry.gauges[name] = await _gauges(actors)

    @property
    def counters(self) -> dict[tuple[str, str], int]:
        """Every counter by (name, tenant id); names are tabled in `telemetry`."""
        return {
            (name, tenant_id): count
            for name, by_tenant in self.telemetry.counters.items()
            for tenant_id, count in by_tenant.items()
        }

    # ------------------------------------------------------------ what actors tell

    def _on_tenant_ready(self, tenant_id: str, actors: TenantActors) -> None:
        self._tenants[tenant_id] = actors
        self._waiting_for.discard(tenant_id)
        if not self._waiting_for:
            self._recovered.set()

    def _on_crash(self, crash: Crash) -> None:
        text = "".join(traceback.format_exception(crash.error))
        if crash.lane:
            logger.error("an actor of tenant %s crashed, rebuilding the tenant:\n%s", crash.lane, text)
            self._supervisor.crashed.send(crash.lane, text)
        else:
            logger.critical("an actor of the shard crashed:\n%s", text)
            self._on_fatal(f"an actor of the shard crashed: {crash.error!r}")

    def _on_fenced(self) -> None:
        self._on_fatal("another engine has taken over this database")


async def _gauges(actors: TenantActors) -> Gauges:
    names = await actors.registry.names.remote()
    slots = await actors.queue.worker_slots.remote()
    labels = await actors.queue.label_slots.remote()
    stats = await actors.tracker.stats.remote()
    return Gauges(
        tuple(
            WorkerSlots(worker_id, names.get(worker_id, ""), total, used)
            for worker_id, (total, used) in slots.items()
        ),
        tuple(labels),
        tuple((item.action, item.workflow_name, item.queued.total) for item in stats.actions),
        await actors.tracker.queued_metadata.remote(),
    )
