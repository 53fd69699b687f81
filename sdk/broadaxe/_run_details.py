"""A run as the engine's own call tells it: state, input, and each task's output or error."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from broadaxe._errors import TaskRunError
from broadaxe.wire.v1 import workflows_pb2 as wire


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


def details_of(run_id: str, response: wire.GetRunDetailsResponse) -> RunDetails:
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
