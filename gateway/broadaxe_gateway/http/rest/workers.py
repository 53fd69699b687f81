"""Workers: read one, pause or resume one (rest 8). Asks the engine; converts `WorkerInfo` to the documented JSON.

A worker of another tenant is answered as one that does not exist, so that ids tell nothing.
"""

import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, StrictBool

from broadaxe_actors.messages import PauseWorker, WorkerInfo
from broadaxe_gateway.http.auth import Caller

INACTIVE_AFTER_US = 5_000_000
"""Since the last heartbeat; SDKs send one every 4 s."""
NIL_ID = "00000000-0000-0000-0000-000000000000"
SDKS = {"GO": "GOLANG", "PYTHON": "PYTHON", "TYPESCRIPT": "TYPESCRIPT", "RUBY": "RUBY"}
"""REST's name of a language by the name that gRPC has for it."""

router = APIRouter(prefix="/api/v1/workers")


class EngineLink(Protocol):
    """The part of the hub that REST uses."""

    async def ask(self, message: type, tenant_id: str, *fields: object) -> Any: ...


def engine_of(request: Request) -> EngineLink:
    return cast(EngineLink, request.app.state.hub)


Engine = Annotated[EngineLink, Depends(engine_of)]


class UpdateWorkerRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    isPaused: StrictBool | None = None  # noqa: N815 - the wire's name


@router.get("/{worker}")
async def get_worker(worker: UUID, caller: Caller, engine: Engine) -> dict[str, Any]:
    info: WorkerInfo = await engine.ask(PauseWorker, caller.tenant_id, str(worker), None)
    return worker_json(info, _now_us())


@router.patch("/{worker}")
async def update_worker(
    worker: UUID, body: UpdateWorkerRequest, caller: Caller, engine: Engine
) -> dict[str, Any]:
    info: WorkerInfo = await engine.ask(PauseWorker, caller.tenant_id, str(worker), body.isPaused)
    return worker_json(info, _now_us())


def _now_us() -> int:
    return time.time_ns() // 1000


def worker_json(info: WorkerInfo, now: int) -> dict[str, Any]:
    """The Worker of the wire document; what is unknown is left out."""
    used = dict(info.used_slots)
    body: dict[str, Any] = {
        "metadata": _meta(info.worker_id, info.created_at, info.updated_at),
        "name": info.name,
        "type": "SELFHOSTED",
        "actions": list(info.actions),
        "recentStepRuns": [],
        "status": worker_status(info, now),
        "slotConfig": {
            pool: {"limit": limit, "available": max(0, limit - used.get(pool, 0))}
            for pool, limit in info.slot_config
        },
        "labels": [
            {
                "metadata": _meta(NIL_ID, info.created_at, info.updated_at),
                "key": key,
                "value": str(value),
            }
            for key, value in info.labels
        ],
        "runtimeInfo": _runtime_json(info.runtime_info),
    }
    if info.last_heartbeat_at is not None:
        body["lastHeartbeatAt"] = time_text(info.last_heartbeat_at)
    if info.last_session_at is not None:
        body["lastListenerEstablished"] = time_text(info.last_session_at)
    return body


def worker_status(info: WorkerInfo, now: int) -> str:
    """INACTIVE wins over PAUSED, which wins over ACTIVE."""
    if info.last_heartbeat_at is None or now - info.last_heartbeat_at > INACTIVE_AFTER_US:
        return "INACTIVE"
    return "PAUSED" if info.is_paused else "ACTIVE"


def time_text(at: int) -> str:
    """RFC 3339 in UTC of microseconds since the epoch."""
    return (
        datetime.fromtimestamp(at // 1_000_000, UTC)
        .replace(microsecond=at % 1_000_000)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


def _meta(resource_id: str, created_at: int, updated_at: int) -> dict[str, str]:
    return {"id": resource_id, "createdAt": time_text(created_at), "updatedAt": time_text(updated_at)}


def _runtime_json(text: str) -> dict[str, str]:
    raw = json.loads(text or "{}")
    body = {
        wire: str(raw.get(ours, ""))
        for wire, ours in (
            ("sdkVersion", "sdk_version"),
            ("languageVersion", "language_version"),
            ("os", "os"),
            ("runtimeExtra", "extra"),
        )
    }
    if language := SDKS.get(raw.get("language", "")):
        body["language"] = language
    return body
