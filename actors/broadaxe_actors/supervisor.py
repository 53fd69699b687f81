"""`Supervisor`: the tenants of a shard. It brings up a tenant's actors from the record, and rebuilds them when one of them raises.

Let it crash: an actor that raises takes down its tenant's actors, and only those. The old generation is dropped with its messages, timers
and acknowledgements; its records still commit, nothing that it had to say leaves; Postgres is read once the journal holds none of them;
then a new generation goes on. A task run that three times in a row was being worked on when its tenant crashed is quarantined as FAILED.
May touch the runtime, the store's port and every actor of a tenant.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from broadaxe_actors.admission import GroupKey
from broadaxe_actors.batch_buffer import BatchBuffer
from broadaxe_actors.batches import BatchKey
from broadaxe_actors.cel import Evaluator, InlineEvaluator
from broadaxe_actors.claims import Claims
from broadaxe_actors.concurrency_group import ConcurrencyGroup
from broadaxe_actors.event_router import EventRouter
from broadaxe_actors.gateway_link import TenantActors
from broadaxe_actors.rate_limit_bucket import RateLimitBucket, RateLimitReader
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.runtime import Actor, Directory, Handle, Runtime
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.telemetry import Telemetry
from broadaxe_actors.tenant_queue import TenantQueue
from broadaxe_actors.timetable import Timetable
from broadaxe_actors.worker_registry import WorkerRegistry
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import (
    RUN_STEP,
    FilterRow,
    SpilledQueue,
    TaskRunRow,
    WorkerRow,
    WorkflowPause,
    WorkflowVersionRow,
)
from broadaxe_storage.store import ShardStore

logger = logging.getLogger(__name__)

RESTORE_SLICE = 200
LOAD_PAGE = 2_000
CRASHES_TO_QUARANTINE = 3


class TenantRecord(NamedTuple):
    """What the record knows of a tenant that has to be in memory."""

    versions: tuple[WorkflowVersionRow, ...] = ()
    workers: tuple[WorkerRow, ...] = ()
    task_runs: tuple[TaskRunRow, ...] = ()
    spilled: tuple[SpilledQueue, ...] = ()
    max_seq: int = 0
    pauses: tuple[WorkflowPause, ...] = ()
    filters: tuple[FilterRow, ...] = ()
    deleted_workflows: tuple[str, ...] = ()
    """Those of which something lives on."""


async def load_tenant(store: ShardStore, tenant_id: str | None) -> TenantRecord:
    """Read one tenant, or with None all of them together."""
    versions = await store.load_latest_versions(tenant_id)
    workers = await store.load_workers(tenant_id)
    rows: list[TaskRunRow] = []
    after: str | None = None
    while True:
        page = await store.load_live_task_runs(tenant_id, after, LOAD_PAGE)
        rows.extend(page)
        if len(page) < LOAD_PAGE:
            break
        after = page[-1].id
        await asyncio.sleep(0)
    spilled = await store.load_spilled_queues(tenant_id)
    return TenantRecord(
        tuple(versions),
        tuple(workers),
        tuple(rows),
        tuple(spilled),
        await store.load_max_seq(),
        tuple(await store.load_workflow_pauses(tenant_id)),
        tuple(await store.load_filters(tenant_id)),
        tuple(await store.load_deleted_workflows(tenant_id)),
    )


class Supervisor(Actor):
    """See the module."""

    def __init__(
        self,
        runtime: Runtime,
        store: ShardStore,
        settings: ShardSettings,
        telemetry: Telemetry,
        journal: "Handle[Any]",
        on_tenant_ready: Callable[[str, TenantActors], None],
        evaluator: Evaluator | InlineEvaluator | None = None,
    ) -> None:
        super().__init__()
        self._evaluator = evaluator
        self._runtime = runtime
        self._store = store
        self._settings = settings
        self._telemetry = telemetry
        self._journal = journal
        self._on_tenant_ready = on_tenant_ready
        self._tenants: dict[str, TenantActors] = {}
        self._coming: dict[str, tuple[TenantActors, TenantRecord]] = {}
        self._loading: set[str] = set()
        self._asked: dict[str, list[Handle[Any]]] = {}
        self._gateways: list[Handle[Any]] = []
        self._crashes: dict[str, dict[str, int]] = {}
        """By tenant: how often each task run was being worked on at a crash."""
        self._errors: dict[str, str] = {}

    def gateway_joined(self, gateway: "Handle[Any]") -> None:
        """A gateway that wants to know when a tenant goes down."""
        self._gateways.append(gateway)

    def gateway_left(self, gateway: "Handle[Any]") -> None:
        """It is gone, and has closed what it had open."""
        self._gateways = [item for item in self._gateways if item is not gateway]
        self._runtime.stop(gateway)

    def journal_fullness(self, fullness: int) -> None:
        """How much waits for Postgres has passed a mark: gateways refuse accordingly."""
        for gateway in self._gateways:
            gateway.set_fullness.send(fullness)

    # ------------------------------------------------------------ up

    def activate(self, tenant_id: str, gateway: "Handle[Any]") -> None:
        """A gateway needs this tenant; answered with `tenant_ready` when it is up."""
        actors = self._tenants.get(tenant_id)
        if actors is not None:
            gateway.tenant_ready.send(tenant_id, actors)
            return
        self._asked.setdefault(tenant_id, []).append(gateway)
        if tenant_id not in self._coming and tenant_id not in self._loading:
            self._load(tenant_id)

    def _load(self, tenant_id: str) -> None:
        self._loading.add(tenant_id)
        self.fetch(load_tenant, self._store, tenant_id, then=self.me.loaded, context=tenant_id)

    def loaded(self, tenant_id: str, record: TenantRecord | None, error: BaseException | None) -> None:
        """A tenant's record has been read."""
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self.set_timer(("load", tenant_id), 250_000, self.me.load_again, tenant_id)
            return
        assert record is not None
        self._loading.discard(tenant_id)
        self.bring_up(tenant_id, record)

    def load_again(self, tenant_id: str) -> None:
        """Postgres may be back."""
        self._load(tenant_id)

    def bring_up(self, tenant_id: str, record: TenantRecord) -> None:
        """Make a tenant's actors and have its workers restored; `workers_restored` goes on."""
        spawn = self._runtime.spawn
        tracker = spawn(
            RunTracker,
            tenant_id,
            self._store,
            self._settings,
            self._telemetry,
            self._evaluator,
            lane=tenant_id,
        )
        queue = spawn(TenantQueue, self._settings.priority_ageing, lane=tenant_id)
        claims = spawn(Claims, tenant_id, self._store, lane=tenant_id)
        router = spawn(EventRouter, tenant_id, self._store, self._evaluator, lane=tenant_id)
        timetable = spawn(Timetable, tenant_id, self._store, self._settings.limits, lane=tenant_id)
        registry = spawn(
            WorkerRegistry, tenant_id, self._runtime, self._settings, queue, tracker, lane=tenant_id
        )
        buffers: Directory[BatchKey] = Directory(
            self._runtime,
            lambda key: spawn(BatchBuffer, key, queue, tracker, self._settings.batch_bytes, lane=tenant_id),
        )
        groups: Directory[GroupKey] = Directory(
            self._runtime, lambda key: spawn(ConcurrencyGroup, key, tracker, lane=tenant_id)
        )
        reader = RateLimitReader(self._store, tenant_id)
        limits: Directory[str] = Directory(
            self._runtime,
            lambda key: spawn(
                RateLimitBucket, tenant_id, key, reader, queue, self._telemetry, lane=tenant_id
            ),
        )
        actors = TenantActors(tracker, queue, claims, router, registry, limits, timetable)
        self._journal.set_owner.send(tenant_id, tracker)
        tracker.connect.send(queue, claims, router, self.me)
        tracker.connect_timetable.send(timetable)
        timetable.connect.send(tracker)
        tracker.connect_buffers.send(buffers)
        tracker.connect_groups.send(groups)
        tracker.connect_buckets.send(limits)
        queue.connect_buckets.send(limits)
        queue.connect.send(tracker)
        queue.connect_buffers.send(buffers)
        claims.connect.send(tracker)
        router.connect.send(tracker)
        tracker.count_usage.send()
        for offset in range(0, len(record.filters), RESTORE_SLICE):
            router.restore_filters.send(record.filters[offset : offset + RESTORE_SLICE])
        tracker.restore_seq.send(record.max_seq)
        tracker.restore_versions.send(record.versions, record.deleted_workflows)
        tracker.restore_pauses.send(record.pauses)
        self._coming[tenant_id] = (actors, record)
        registry.restore.send(record.workers, self.me)

    def workers_restored(self, tenant_id: str) -> None:
        """The workers have joined: restore what they hold and what waits, then let messages in."""
        coming = self._coming.pop(tenant_id, None)
        if coming is None:
            return
        actors, record = coming
        actors.tracker.restore_spilled.send(record.spilled)
        # A run of several tasks before its task runs: its row has no place in line.
        in_line = sorted(record.task_runs, key=lambda row: (row.step_index != RUN_STEP, row.seq))
        for offset in range(0, len(in_line), RESTORE_SLICE):
            actors.tracker.restore_task_runs.send(tuple(in_line[offset : offset + RESTORE_SLICE]))
        actors.tracker.restored.send()
        actors.timetable.begin.send()
        counts = self._crashes.get(tenant_id, {})
        for task_run_id, count in list(counts.items()):
            if count >= CRASHES_TO_QUARANTINE:
                del counts[task_run_id]
                actors.tracker.quarantine.send(task_run_id, self._errors.get(tenant_id, ""))
        self._tenants[tenant_id] = actors
        self._on_tenant_ready(tenant_id, actors)
        for gateway in self._asked.pop(tenant_id, []):
            gateway.tenant_ready.send(tenant_id, actors)

    # ------------------------------------------------------------ down

    def crashed_at(self, tenant_id: str, task_run_id: str | None) -> None:
        """The tracker was working on this task run when it raised."""
        if task_run_id is not None:
            counts = self._crashes.setdefault(tenant_id, {})
            counts[task_run_id] = counts.get(task_run_id, 0) + 1

    def crashed(self, tenant_id: str, error: str) -> None:
        """An actor of a tenant raised: take all of them down and rebuild them."""
        self._errors[tenant_id] = error
        self._tenants.pop(tenant_id, None)
        self._coming.pop(tenant_id, None)
        self._runtime.stop_lane(tenant_id)
        for gateway in self._gateways:
            gateway.tenant_down.send(tenant_id)
        if tenant_id not in self._loading:
            # Once a generation: a second actor's crash must not drop what tells us that the journal is drained.
            self._loading.add(tenant_id)
            self._journal.drop_effects.send(tenant_id)
            self._journal.drain.send(tenant_id, self.me.drained, tenant_id)

    def drained(self, tenant_id: str) -> None:
        """The journal holds nothing more of the old generation."""
        self._load(tenant_id)
