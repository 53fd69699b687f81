"""Workers to their shape (rest 8), from what the engine knows of a live one or from the record alone. Pure."""

import json
from collections.abc import Mapping

from broadaxe_actors.messages import WorkerInfo
from broadaxe_gateway.http.rest.models.common import NIL_ID, meta, optional_time
from broadaxe_gateway.http.rest.models.workers import (
    RuntimeInfo,
    SlotConfig,
    Worker,
    WorkerLabel,
    WorkerStatus,
)
from broadaxe_storage.records import WorkerRow

INACTIVE_AFTER_US = 5_000_000
"""Since the last heartbeat; SDKs send one every 4 s."""
SDKS = {"GO": "GOLANG", "PYTHON": "PYTHON", "TYPESCRIPT": "TYPESCRIPT", "RUBY": "RUBY"}
"""REST's name of a language by the name that gRPC has for it."""


def live_worker(info: WorkerInfo, now: int) -> Worker:
    """A worker that the engine knows."""
    used = dict(info.used_slots)
    return Worker(
        metadata=meta(info.worker_id, info.created_at, info.updated_at),
        name=info.name,
        last_heartbeat_at=optional_time(info.last_heartbeat_at),
        last_listener_established=optional_time(info.last_session_at),
        actions=list(info.actions),
        status=worker_status(info, now),
        slot_config={
            pool: SlotConfig(limit=limit, available=max(0, limit - used.get(pool, 0)))
            for pool, limit in info.slot_config
        },
        labels=_labels(dict(info.labels), info.created_at, info.updated_at),
        runtime_info=_runtime(info.runtime_info),
    )


def recorded_worker(row: WorkerRow) -> Worker:
    """A worker that has gone: the record has neither its heartbeats nor its slots in use."""
    return Worker(
        metadata=meta(row.id, row.created_at, row.updated_at),
        name=row.name,
        actions=list(row.actions),
        status=WorkerStatus.INACTIVE,
        slot_config={
            pool: SlotConfig(limit=limit, available=limit)
            for pool, limit in json.loads(row.slot_config).items()
        },
        labels=_labels(json.loads(row.labels), row.created_at, row.updated_at),
        runtime_info=_runtime(row.runtime_info),
    )


def worker_status(info: WorkerInfo, now: int) -> WorkerStatus:
    """INACTIVE wins over PAUSED, which wins over ACTIVE."""
    if info.last_heartbeat_at is None or now - info.last_heartbeat_at > INACTIVE_AFTER_US:
        return WorkerStatus.INACTIVE
    return WorkerStatus.PAUSED if info.is_paused else WorkerStatus.ACTIVE


def _labels(labels: Mapping[str, str | int], created_at: int, updated_at: int) -> list[WorkerLabel]:
    return [
        WorkerLabel(metadata=meta(NIL_ID, created_at, updated_at), key=key, value=str(value))
        for key, value in labels.items()
    ]


def _runtime(text: str) -> RuntimeInfo:
    raw = json.loads(text or "{}")
    return RuntimeInfo.model_validate(
        {
            "sdk_version": str(raw.get("sdk_version", "")),
            "language_version": str(raw.get("language_version", "")),
            "os": str(raw.get("os", "")),
            "runtime_extra": str(raw.get("extra", "")),
            "language": SDKS.get(raw.get("language", "")),
        }
    )
