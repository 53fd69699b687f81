"""Bare workers behind the REST API, and the calls of a test."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.compat.calls import Step, put, take
from tests.compat.wire import BareWorker, Wire, unique
from tests.processes import wait_until
from tests.rest import Rest


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Stage:
    """Workers that end with the test, and the calls of a test."""

    def __init__(self, wire: Wire, rest: Rest) -> None:
        self.wire = wire
        self.rest = rest
        self.workers: list[BareWorker] = []

    def worker(self, *actions: str, **fields: Any) -> BareWorker:
        worker = BareWorker(self.wire, *actions, **fields)
        self.workers.append(worker)
        return worker

    def single(self, **fields: Any) -> tuple[BareWorker, str]:
        """A worker and the name of the one-task workflow that it serves."""
        name = unique("rest")
        return self.worker(*put(self.wire, name, Step("only", fields=fields))), name

    def graph(self) -> tuple[BareWorker, str, str]:
        """A worker, the name of a workflow of two tasks and one for failures, and a run of it."""
        name = unique("rest")
        actions = put(
            self.wire,
            name,
            Step("one"),
            Step("two", ["one"]),
            on_failure=Step("oops"),
            description="two tasks",
        )
        worker = self.worker(*actions)
        return worker, name, self.wire.trigger(name, '{"n": 1}', additional_metadata='{"team": "a"}')

    def wait_for_status(self, run_id: str, status: str) -> None:
        """An assignment is recorded in the background, and HTTP reads the record."""
        path = f"S/workflow-runs/{run_id}/status"
        wait_until(lambda: self.rest.get(path) == status, what=f"{run_id} to be {status}", timeout=10)

    def listed(self, **params: Any) -> list[dict[str, Any]]:
        given = {"since": ago(60), "only_tasks": False, **params}
        rows: list[dict[str, Any]] = self.rest.get("T/workflow-runs", **given)["rows"]
        return rows


def finish(stage: Stage, worker: BareWorker, run_id: str, *, broken: bool = False) -> None:
    """Completes `one` of a graph, and `two`, or fails it and completes `oops`."""
    stage.wire.complete(take(worker, "one")["one"], '{"v": 1}')
    two = take(worker, "two")["two"]
    if broken:
        stage.wire.fail(two, "ValueError: broken")
        stage.wire.complete(take(worker, "oops")["oops"], '{"cleaned": true}')
    else:
        stage.wire.complete(two, '{"v": 2}')
    stream = stage.wire.runs(run_id)
    stream.next()
    stream.cancel()
