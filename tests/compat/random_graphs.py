"""Random graphs whose every end follows from the documents, and a bare worker that plays them.

A graph is made so that its end does not depend on the order of things: conditions stand only where a task has one parent, a task of several parents
has the default rules. `Graph.ends` says by those rules how each task must end: it is the reading of the documents that the engine is compared with.
"""

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import grpc

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.calls import CANCEL, QUEUE, SKIP, START, Step, by_parent, definition
from tests.compat.wire import Stream, Wire, unique

SKIPPED = {"skipped": True}


@dataclass(frozen=True)
class Node:
    """A task: its place, and what a worker answers for it."""

    name: str
    parents: tuple[str, ...]
    value: int
    failures: int
    """Attempts that fail before one completes."""
    retries: int
    says_skipped: bool
    """Whether its output says that it was skipped, although it ran."""
    condition: tuple[int, int] | None
    """An action (wait, skip or cancel) that applies when the parent's value is above a number."""

    @property
    def fails(self) -> bool:
        return self.failures > self.retries

    @property
    def output(self) -> dict[str, Any]:
        return {"v": self.value, **(SKIPPED if self.says_skipped else {})}

    def step(self) -> Step:
        conditions = None
        if self.condition is not None:
            action, bound = self.condition
            conditions = by_parent(action, self.parents[0], f"has(output.v) && output.v > {bound}")
        fields = {"retries": self.retries, "schedule_timeout": "10m", "timeout": "10m"}
        return Step(self.name, self.parents, conditions, fields)


@dataclass
class Graph:
    """A workflow made of chance, with one run."""

    seed: int
    is_steady: bool = False
    """A task of a steady one fails always or never: for a test in which attempts may be repeated."""
    name: str = field(default_factory=lambda: unique("random"))
    run_id: str = ""

    @cached_property
    def nodes(self) -> list[Node]:
        chance = random.Random(self.seed)
        nodes: list[Node] = []
        for index in range(chance.randint(2, 14)):
            count = min(len(nodes), chance.choice((0, 1, 1, 1, 2, 2, 3)))
            parents = tuple(sorted(node.name for node in chance.sample(nodes, count)))
            condition = None
            if len(parents) == 1 and chance.random() < 0.4:
                condition = (chance.choice((QUEUE, SKIP, CANCEL)), chance.randint(0, 100))
            nodes.append(
                Node(
                    name=f"t{index}",
                    parents=parents,
                    value=chance.randint(0, 100),
                    failures=chance.choice((0, 0, 0, 0, 0, 99) if self.is_steady else (0, 0, 0, 0, 1, 2)),
                    retries=chance.choice((0, 1, 2)),
                    says_skipped=chance.random() < 0.1,
                    condition=condition,
                )
            )
        return nodes

    @cached_property
    def has_on_failure(self) -> bool:
        return self.seed % 3 != 0

    @property
    def actions(self) -> list[str]:
        names = [node.name for node in self.nodes] + (["oops"] if self.has_on_failure else [])
        return [f"{self.name}:{name}" for name in names]

    def definition(self) -> v1.CreateWorkflowVersionRequest:
        on_failure = Step("oops") if self.has_on_failure else None
        return definition(self.name, *(node.step() for node in self.nodes), on_failure=on_failure)

    @cached_property
    def ends(self) -> dict[str, tuple[str, Any]]:
        """Status and output of each task, as the documents have it."""
        ends: dict[str, tuple[str, Any]] = {}
        for node in self.nodes:
            ends[node.name] = self._end(node, [ends[parent] for parent in node.parents])
        if self.has_on_failure:
            failed = any(status == "FAILED" for status, _ in ends.values())
            ends["oops"] = ("COMPLETED", {"cleaned": True} if failed else SKIPPED)
        return ends

    def _end(self, node: Node, parents: list[tuple[str, Any]]) -> tuple[str, Any]:
        if any(status in {"FAILED", "CANCELLED"} for status, _ in parents):
            return "CANCELLED", None
        action, bound = node.condition or (None, 0)
        applies = node.condition is not None and parents[0][1].get("v", -1) > bound
        declares_skip = action == SKIP
        if declares_skip and applies:
            return "COMPLETED", SKIPPED
        if parents and not declares_skip and all(output.get("skipped") is True for _, output in parents):
            return "COMPLETED", SKIPPED
        if (action == CANCEL and applies) or (action == QUEUE and not applies):
            return "CANCELLED", None
        return ("FAILED", None) if node.fails else ("COMPLETED", node.output)

    @property
    def status(self) -> str:
        statuses = {status for status, _ in self.ends.values()}
        return next((one for one in ("FAILED", "CANCELLED") if one in statuses), "COMPLETED")

    def attempts(self, node: Node) -> int:
        """How often a worker gets it."""
        status, output = self.ends[node.name]
        if status == "CANCELLED" or (status == "COMPLETED" and output is SKIPPED):
            return 0
        return min(node.failures, node.retries) + 1


class Player:
    """A bare worker that answers every start as the graphs say. Reports are repeated while the engine is away."""

    def __init__(self, wire: Wire, graphs: list[Graph], *, pause: Callable[[], float] = lambda: 0.0) -> None:
        self.graphs = {graph.name: graph for graph in graphs}
        self.starts: list[tuple[str, int]] = []
        """Task run and retry count of each start, in order of arrival."""
        self.wrong: list[str] = []
        self._pause = pause
        self._over = threading.Event()
        self.id = wire.register(*(action for graph in graphs for action in graph.actions), slots=50)
        self.wire = wire
        self.held: dict[str, dispatcher.AssignedAction] = {}
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(timeout=30)

    def _play(self) -> None:
        stream: Stream[dispatcher.AssignedAction] | None = None
        beaten = 0.0
        while not self._over.is_set():
            try:
                if stream is None:
                    stream = self.wire.listen(self.id)
                    for action in list(self.held.values()):
                        self.wire.report(action, dispatcher.STEP_EVENT_TYPE_STARTED, worker_id=self.id)
                if time.monotonic() - beaten > 1.0:
                    self.wire.heartbeat(self.id)
                    beaten = time.monotonic()
                action = stream.next(timeout=0.1)
            except grpc.RpcError:
                stream = None
                self._over.wait(0.1)
                continue
            except AssertionError as nothing:
                if "ended" in str(nothing):
                    stream = None
                continue
            if action.action_type == START:
                self.starts.append((action.task_run_external_id, action.retry_count))
                self.held[action.task_run_external_id] = action
                self._over.wait(self._pause())
                self._answer(action)
            elif action.task_run_external_id in self.held:
                self.wrong.append(f"{action.task_name} of {action.workflow_run_id} was cancelled")

    def _answer(self, action: dispatcher.AssignedAction) -> None:
        graph = self.graphs[action.action_id.split(":")[0]]
        payload = json.loads(action.action_payload)
        if action.task_name == "oops":
            failed = {name for name, (status, _) in graph.ends.items() if status == "FAILED"}
            if not payload.get("step_run_errors") or not set(payload["step_run_errors"]) <= failed:
                self.wrong.append(f"oops of {graph.seed} was told {payload.get('step_run_errors')}")
            self._report(action, dispatcher.STEP_EVENT_TYPE_COMPLETED, '{"cleaned": true}')
            return
        node = next(node for node in graph.nodes if node.name == action.task_name)
        for parent in node.parents:
            if payload["parents"].get(parent) != graph.ends[parent][1]:
                self.wrong.append(f"{node.name} of {graph.seed} got {payload['parents']}")
        if action.retry_count < node.failures:
            self._report(action, dispatcher.STEP_EVENT_TYPE_FAILED, f"{node.name} fails")
        else:
            self._report(action, dispatcher.STEP_EVENT_TYPE_COMPLETED, json.dumps(node.output))

    def _report(self, action: dispatcher.AssignedAction, kind: Any, payload: str) -> None:
        while not self._over.is_set():
            try:
                self.wire.report(action, kind, payload, worker_id=self.id)
            except grpc.RpcError:
                self._over.wait(0.1)  # the engine is away: a worker repeats its reports
            else:
                self.held.pop(action.task_run_external_id, None)
                return


def answers(wire: Wire, run_id: str) -> bool:
    """Whether the engine can be reached again: a channel waits longer and longer before it connects."""
    try:
        wire.details(run_id)
    except grpc.RpcError:
        return False
    return True


def compare(wire: Wire, graph: Graph, *, timeout: float = 60.0) -> None:
    """Waits for the end of the graph's run and fails unless every task ended as it must."""
    stream = wire.runs(graph.run_id)
    try:
        stream.next(timeout=timeout)
    finally:
        stream.cancel()
    details = wire.details(graph.run_id)
    found = {
        name: (v1.RunStatus.Name(task.status), json.loads(task.output) if task.output else None)
        for name, task in details.task_runs.items()
    }
    wrong = {name: (end, found.get(name)) for name, end in graph.ends.items() if found.get(name) != end}
    assert not wrong, f"seed {graph.seed}: expected and found {wrong}"
    assert v1.RunStatus.Name(details.status) == graph.status, f"seed {graph.seed}"
