"""`WorkerRegistry`: which workers a tenant has. It makes ids, brings up a `ConnectedWorker` for each, and knows who is unknown.

One per tenant. Every registration is a new worker, even under the same name (behaviour-core 2.2). May touch the runtime and the messages.
"""

import json
from collections.abc import Sequence
from typing import Any

from broadaxe_actors.connected_worker import ConnectedWorker
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    CloseSession,
    GetWorkerUsage,
    Heartbeat,
    OpenSession,
    PauseWorker,
    Refusal,
    RegisterWorker,
    Reply,
    SessionFull,
    StopWorker,
    UpsertLabels,
)
from broadaxe_actors.resource_limits import Resource, ResourceUsage, check_room
from broadaxe_actors.runtime import Actor, Handle, Runtime
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.worker_labels import labels_from
from broadaxe_storage.records import WorkerRow, WorkerStatus

ToWorker = OpenSession | CloseSession | SessionFull | Heartbeat | StopWorker | UpsertLabels | PauseWorker


class WorkerRegistry(Actor):
    """See the module."""

    def __init__(
        self,
        tenant_id: str,
        runtime: Runtime,
        settings: ShardSettings,
        queue: "Handle[Any]",
        tracker: "Handle[Any]",
    ) -> None:
        super().__init__()
        self._tenant_id = tenant_id
        self._runtime = runtime
        self._settings = settings
        self._queue, self._tracker = queue, tracker
        self._workers: dict[str, Handle[ConnectedWorker]] = {}
        self._leaving: dict[str, Handle[ConnectedWorker]] = {}
        self._names: dict[str, str] = {}
        self._active: dict[str, int] = {}
        """Slots of the workers that are not lost, for the tenant's limits; empty without those."""

    def restore(self, rows: Sequence[WorkerRow], supervisor: "Handle[Any]") -> None:
        """Workers from the record; the supervisor restores task runs once these have joined."""
        for row in rows:
            worker = self._spawn(row)
            worker.mark_recovered.send()
        supervisor.workers_restored.send(self._tenant_id)

    def register(self, gateway: "Handle[Any]", message: RegisterWorker) -> None:
        """A new worker; answered with its id after the commit."""
        now = self.clock.now()
        slots = sum(units for _, units in message.slot_config)
        try:
            self._check_room(slots)
        except Refused as refused:
            gateway.deliver.send((Refusal(message.request_id, refused.code, refused.message),))
            return
        row = WorkerRow(
            id=self.rng.uuid7(now),
            tenant_id=self._tenant_id,
            name=message.name,
            actions=tuple(sorted({action.lower() for action in message.actions})),
            slot_config=json.dumps(dict(message.slot_config), separators=(",", ":")),
            labels=json.dumps(dict(message.labels), separators=(",", ":")),
            runtime_info=message.runtime_info,
            is_batched=message.is_batched,
            is_paused=False,
            status=WorkerStatus.ACTIVE,
            created_at=now,
            updated_at=now,
        )
        self.record(row)
        self._spawn(row)
        self.send_after_commit(gateway.deliver, (Reply(message.request_id, row.id),))

    def route(self, gateway: "Handle[Any]", message: ToWorker) -> None:
        """Pass a message to its worker, or say that there is none."""
        worker = self._workers.get(message.worker_id)
        if worker is None:
            request_id = getattr(message, "request_id", 0)
            if request_id:
                text = f"worker {message.worker_id} not found"
                gateway.deliver.send((Refusal(request_id, Code.NOT_FOUND, text),))
        elif isinstance(message, Heartbeat):
            worker.heartbeat.send(gateway, message)
        elif isinstance(message, OpenSession):
            worker.open_session.send(gateway, message)
        elif isinstance(message, CloseSession):
            worker.close_session.send(message)
        elif isinstance(message, SessionFull):
            worker.session_full.send(message)
        elif isinstance(message, StopWorker):
            worker.stop_worker.send(gateway, message)
        elif isinstance(message, UpsertLabels):
            worker.upsert_labels.send(gateway, message)
        else:
            worker.pause.send(gateway, message)

    def _check_room(self, slots: int) -> None:
        """Raises `Refused` if one more worker, with so many slots, is more than the tenant may have."""
        limits, active = self._settings.limits, self._active
        check_room(limits, Resource.WORKER, self._tenant_id, len(active))
        check_room(limits, Resource.WORKER_SLOT, self._tenant_id, sum(active.values()), slots)

    def set_active(self, worker_id: str, slots: int | None) -> None:
        """A worker counts, with its slots, or with None it is lost or has stopped and counts no more."""
        if slots is None:
            self._active.pop(worker_id, None)
        elif self._settings.limits:
            self._active[worker_id] = slots

    def get_usage(self, gateway: "Handle[Any]", message: GetWorkerUsage) -> None:
        """What of its limits the tenant has used, for a gateway."""
        values = {Resource.WORKER: len(self._active), Resource.WORKER_SLOT: sum(self._active.values())}
        limits = self._settings.limits
        usages = tuple(
            ResourceUsage(limits[resource], value, None)
            for resource, value in values.items()
            if resource in limits
        )
        gateway.deliver.send((Reply(message.request_id, usages),))

    def forget_worker(self, worker_id: str) -> None:
        """A worker that stopped holds nothing any more.

        Its actor lives on until what the tracker may have assigned to it meanwhile has come back.
        """
        worker = self._workers.pop(worker_id, None)
        self._names.pop(worker_id, None)
        self._active.pop(worker_id, None)
        if worker is not None:
            self._leaving[worker_id] = worker
            self._tracker.worker_left.send(worker_id)

    def dismissed(self, worker_id: str) -> None:
        """Nothing more comes for this worker."""
        worker = self._leaving.pop(worker_id, None)
        if worker is not None:
            self._runtime.stop(worker)

    def names(self) -> dict[str, str]:
        """The name of each worker, by its id."""
        return dict(self._names)

    def _spawn(self, row: WorkerRow) -> "Handle[ConnectedWorker]":
        worker = self._runtime.spawn(
            ConnectedWorker,
            row,
            self._settings,
            self._queue,
            self._tracker,
            self.me,
            lane=self._tenant_id,
        )
        self._workers[row.id] = worker
        self._names[row.id] = row.name
        if row.status == WorkerStatus.ACTIVE:
            # Here, not by the worker itself: what recovery holds for it must find its slots.
            slots = tuple(sorted(json.loads(row.slot_config).items()))
            labels = labels_from(row.labels)
            self._queue.put_worker.send(row.id, frozenset(row.actions), slots, labels)
            self.set_active(row.id, sum(units for _, units in slots))
        self._tracker.worker_joined.send(row.id, worker)
        return worker
