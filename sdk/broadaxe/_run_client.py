"""Runs by id: their state, their details, their streams."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from broadaxe._errors import TaskRunError
from broadaxe._refs import RunStream
from broadaxe.wire.v1 import workflows_pb2 as wire

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe


class RunStatus(StrEnum):
    """Where a run or a task run stands."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EVICTED = "EVICTED"


@dataclass(frozen=True)
class TaskRunDetails:
    """One task of a run. `output` is the JSON value; `error` is set for a failed task."""

    task_run_id: str
    task_name: str
    status: RunStatus
    output: Any
    error: TaskRunError | None


@dataclass(frozen=True)
class RunDetails:
    """A run as the engine sees it now. `input` is the JSON value."""

    run_id: str
    status: RunStatus
    is_done: bool
    input: Any
    additional_metadata: dict[str, Any]
    task_runs: dict[str, TaskRunDetails]
    """By task name."""


class RunsClient:
    """Reads runs by id, and follows their streams."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def subscribe_to_stream(self, workflow_run_id: str) -> AsyncIterator[str]:
        """The chunks that a run's tasks put into its stream, from the first iteration on. Iterate with `async for`."""
        return RunStream(self._client, workflow_run_id)

    def get_details(self, run_id: str) -> RunDetails:
        """Raises `RunNotFoundError`."""
        transport = self._client.transport
        return _details(run_id, transport.submit(transport.get_run_details(run_id)).result())

    async def aio_get_details(self, run_id: str) -> RunDetails:
        """As `get_details`."""
        return _details(run_id, await self._client.on_io(self._client.transport.get_run_details(run_id)))

    def get_status(self, run_id: str) -> RunStatus:
        """Raises `RunNotFoundError`."""
        return self.get_details(run_id).status

    async def aio_get_status(self, run_id: str) -> RunStatus:
        """As `get_status`."""
        return (await self.aio_get_details(run_id)).status


def _details(run_id: str, response: wire.GetRunDetailsResponse) -> RunDetails:
    return RunDetails(
        run_id=run_id,
        status=RunStatus(wire.RunStatus.Name(response.status)),
        is_done=response.done,
        input=_json(response.input),
        additional_metadata=_json(response.additional_metadata) or {},
        task_runs={
            name: TaskRunDetails(
                task_run_id=detail.external_id,
                task_name=detail.readable_id or name,
                status=RunStatus(wire.RunStatus.Name(detail.status)),
                output=_json(detail.output),
                error=TaskRunError.from_wire(detail.error, detail.external_id, name)
                if detail.error
                else None,
            )
            for name, detail in response.task_runs.items()
        },
    )


def _json(raw: bytes) -> Any:
    return json.loads(raw) if raw else None
