"""Runs of the flows of `tests/roles/flows`, through either SDK, as a test sees them.

Facts to know: what a run is told comes from its plan, what it did comes from notes that its tasks wrote, how it ended comes from the bare
wire (`GetRunDetails`, `SubscribeToWorkflowRuns`), and what users are told comes from the SDK's own client. Nothing here sleeps for an
outcome.
"""

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.wire import Wire, unique
from tests.processes import Process, Server, wait_until
from tests.rest import Rest

T = TypeVar("T")
SKIPPED = {"skipped": True}


def of_the_engine(test: T) -> T:
    """Marks a test whose outcome is the engine's alone and which takes its time: the official client repeats it in the slow suite only."""
    test.is_of_the_engine = True  # type: ignore[attr-defined]
    return test


Plan = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class TaskEnd:
    """How one task of a run ended."""

    status: str
    output: Any
    error: str | None
    id: str


@dataclass(frozen=True)
class RunEnd:
    """How a run ended, task by task."""

    status: str
    tasks: dict[str, TaskEnd]

    @property
    def statuses(self) -> dict[str, str]:
        return {name: task.status for name, task in self.tasks.items()}

    def output(self, task: str) -> Any:
        return self.tasks[task].output

    def error(self, task: str) -> str:
        error = self.tasks[task].error
        assert error is not None, f"{task} has no error: {self}"
        return error


def plain(task: str) -> str:
    """The name that a flow gave its task: the official client hangs a suffix on those that run at the end."""
    return task.removesuffix("-on-failure").removesuffix("-on-success")


@dataclass
class Run:
    """A run that was triggered, by its id and the tag that its notes carry."""

    flows: "FlowsUnderTest"
    id: str
    tag: str
    flow: str

    def notes(self, task: str | None = None, what: str | None = None) -> list[dict[str, Any]]:
        """What its tasks noted, in order of time."""
        return [
            note
            for note in self.flows.notes(self.tag)
            if task in (None, note["task"]) and what in (None, note["what"])
        ]

    def ran(self, task: str) -> int:
        """How many times a task's body began."""
        return len(self.notes(task, "starts"))

    def note(
        self, task: str, what: str = "starts", *, count: int = 1, timeout: float = 20.0
    ) -> dict[str, Any]:
        """Waits until a task has noted that for the `count`th time, and returns that note."""

        def found() -> list[dict[str, Any]] | None:
            notes = self.notes(task, what)
            return notes if len(notes) >= count else None

        return wait_until(found, what=f"{task} {what} ({self.flow} {self.id})", timeout=timeout)[count - 1]

    def reported(self, task: str) -> None:
        """Waits until the engine knows that a task has ended: its note comes before its report."""
        self.note(task, "ends")
        what = f"the report of {task} ({self.flow} {self.id})"
        wait_until(lambda: self.details().statuses[task] != "RUNNING", what=what, timeout=20)

    def end(self, *, timeout: float = 30.0) -> RunEnd:
        """Waits for the end of the run."""
        stream = self.flows.wire.runs(self.id)
        try:
            stream.next(timeout=timeout)
        finally:
            stream.cancel()
        return self.details()

    def details(self) -> RunEnd:
        """The run as `GetRunDetails` tells it now."""
        found = self.flows.wire.details(self.id)
        return RunEnd(
            v1.RunStatus.Name(found.status),
            {
                plain(name): TaskEnd(
                    v1.RunStatus.Name(task.status),
                    json.loads(task.output) if task.output else None,
                    task.error if task.HasField("error") else None,
                    task.external_id,
                )
                for name, task in found.task_runs.items()
            },
        )

    def is_done(self) -> bool:
        return self.flows.wire.details(self.id).done

    def result(self, **options: Any) -> dict[str, Any]:
        """What the SDK says of its result."""
        return self.flows.call(do="result", flow=self.flow, run_id=self.id, **options)


@dataclass
class FlowsUnderTest:
    """One worker and one client of an SDK, serving the flows of one topic."""

    sdk: str
    server: Server
    worker: Process
    client: Process
    directory: Path
    wire: Wire
    rest: Rest
    namespace: str = ""
    """Before the names of its workflows and workers, `_` between."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _gates: list[str] = field(default_factory=list)

    @property
    def is_ours(self) -> bool:
        return self.sdk == "broadaxe"

    def call(self, *, timeout: float = 60.0, **command: Any) -> dict[str, Any]:
        with self._lock:
            return self.client.call(timeout=timeout, **command)

    def plan(self, do: Plan | None = None, **fields: Any) -> dict[str, Any]:
        return {"tag": unique("tag"), "do": do or {}, **fields}

    def start(
        self, flow: str, do: Plan | None = None, *, options: dict[str, Any] | None = None, **fields: Any
    ) -> Run:
        """Triggers a run; `fields` are further fields of its plan."""
        plan = self.plan(do, **fields)
        answer = self.call(do="start", flow=flow, plan=plan, **(options or {}))
        assert "run_id" in answer, answer
        return Run(self, answer["run_id"], plan["tag"], flow)

    def refused(self, flow: str, do: Plan | None = None, **fields: Any) -> dict[str, Any]:
        """What a trigger raises."""
        answer = self.call(do="start", flow=flow, plan=self.plan(do, **fields))
        assert "raised" in answer, answer
        return dict(answer["raised"])

    def start_many(self, flow: str, plans: Sequence[dict[str, Any]], **options: Any) -> list[Run]:
        answer = self.call(do="start_many", flow=flow, plans=list(plans), **options)
        assert "run_ids" in answer, answer
        return [
            Run(self, run_id, plan["tag"], flow)
            for run_id, plan in zip(answer["run_ids"], plans, strict=True)
        ]

    def run(self, flow: str, do: Plan | None = None, **fields: Any) -> dict[str, Any]:
        """Runs a flow to its end through the SDK."""
        return self.call(do="run", flow=flow, plan=self.plan(do, **fields))

    def end(self, flow: str, do: Plan | None = None, **fields: Any) -> RunEnd:
        """Runs a flow and returns how it ended."""
        return self.start(flow, do, **fields).end()

    def notes(self, tag: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for path in (self.directory / "records").glob("notes-*.jsonl"):
            whole, _, _ = path.read_text().rpartition("\n")  # a line may be under way
            found += [json.loads(line) for line in whole.split("\n") if f'"{tag}"' in line]
        return sorted(found, key=lambda note: float(note["at"]))

    def new_gate(self) -> str:
        gate = unique("gate")
        self._gates.append(gate)
        return gate

    def open_all(self) -> None:
        """Opens every gate made so far: what a failed test left waiting goes on."""
        while self._gates:
            self.open(self._gates.pop())

    def open(self, gate: str) -> None:
        (self.directory / "records" / f"gate-{gate}").touch()

    # ---- workers

    def workers(self, name: str) -> list[dict[str, Any]]:
        """The workers of that name that are not gone, as REST lists them."""
        rows = self.rest.get(f"tenants/{self.rest.tenant}/worker")["rows"]
        full = f"{self.namespace}_{name}"
        return [row for row in rows if row["name"] == full and row["status"] != "INACTIVE"]

    def worker_id(self, name: str) -> str:
        (row,) = self.workers(name)
        return str(row["metadata"]["id"])

    def pause(self, *names: str, is_paused: bool = True) -> None:
        for name in names:
            self.rest.patch(f"workers/{self.worker_id(name)}", {"isPaused": is_paused})

    @contextlib.contextmanager
    def paused(self, *names: str) -> Iterator[None]:
        """Nothing starts on those workers (`flows`, if none is named) until the block is left."""
        names = names or ("flows",)
        self.pause(*names)
        try:
            yield
        finally:
            self.pause(*names, is_paused=False)

    def push(self, key: str, payload: dict[str, Any] | None = None, **options: Any) -> None:
        self.call(do="push", key=key, payload=payload or {}, **options)
