"""Shapes of workers (rest 8)."""

from enum import StrEnum
from typing import Literal

from pydantic import StrictBool

from broadaxe_gateway.http.rest.models.common import Pagination, ResourceMeta, Wire


class WorkerStatus(StrEnum):
    """`WorkerStatus`."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    PAUSED = "PAUSED"


class SlotConfig(Wire):
    """`WorkerSlotConfig`."""

    available: int
    limit: int


class WorkerLabel(Wire):
    """`WorkerLabel`; its id is nil."""

    metadata: ResourceMeta
    key: str
    value: str


class RuntimeInfo(Wire):
    """`WorkerRuntimeInfo`; empty texts for what is unknown."""

    sdk_version: str = ""
    language: Literal["GOLANG", "PYTHON", "TYPESCRIPT", "RUBY"] | None = None
    language_version: str = ""
    os: str = ""
    runtime_extra: str = ""


class RegisteredWorkflow(Wire):
    """`RegisteredWorkflow`."""

    id: str
    name: str


class HeldSlot(Wire):
    """`SemaphoreSlots`: a task that runs on the worker."""

    step_run_id: str
    action_id: str
    started_at: str | None = None
    timeout_at: str | None = None
    workflow_run_id: str
    status: Literal["RUNNING"] = "RUNNING"


class RecentStepRun(Wire):
    """`RecentStepRuns`; no list has any."""

    metadata: ResourceMeta
    action_id: str
    status: str
    workflow_run_id: str


class Worker(Wire):
    """`Worker`; what is unknown is left out."""

    metadata: ResourceMeta
    name: str
    type: Literal["SELFHOSTED"] = "SELFHOSTED"
    last_heartbeat_at: str | None = None
    last_listener_established: str | None = None
    actions: list[str]
    registered_workflows: list[RegisteredWorkflow] | None = None
    slots: list[HeldSlot] | None = None
    recent_step_runs: list[RecentStepRun] | None = None
    status: WorkerStatus
    slot_config: dict[str, SlotConfig]
    labels: list[WorkerLabel]
    runtime_info: RuntimeInfo


class WorkerList(Wire):
    """`WorkerList`."""

    pagination: Pagination
    rows: list[Worker]


class UpdateWorkerRequest(Wire):
    """`UpdateWorkerRequest`."""

    is_paused: StrictBool | None = None
