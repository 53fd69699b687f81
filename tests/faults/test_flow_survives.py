"""Groups full and waiting, limits half spent, sticky runs, a kill -9 of the engine: limits hold across it, order is kept, nothing is lost.

One kill serves all tests here, as in `test_runs_survive.py`: the fixture brings everything into its state, kills, restarts, and listens to
the workers. A test then looks at its own part.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from broadaxe.wire import workflows_pb2 as workflows
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2 as triggers
from tests.compat.calls import START, STOP, Step
from tests.compat.wire import unique
from tests.faults.scenes import Hand, Scene, Stage
from tests.processes import Server, closing, server_directory, wait_until

pytestmark = pytest.mark.timeout(180)
QUIET = 0.5
"""Seconds in which nothing may arrive."""
WAITING = 40
"""Runs that wait in the long line."""


class Line(Scene):
    """A workflow, its worker, and the runs of it by their ids, in the order of their triggers."""

    def __init__(self, stage: Stage, *steps: Step, slots: int = 100, **fields: Any) -> None:
        super().__init__(stage, *steps, slots=slots, **fields)
        self.runs: list[str] = []

    def add(self, key: str = "a", **fields: Any) -> str:
        self.runs.append(self.trigger(json.dumps({"k": key}), **fields))
        return self.runs[-1]

    def started_runs(self, task: str = "only", hand: Hand | None = None) -> list[str]:
        """Runs whose task was started, in order; a repeated start of the same attempt counts once."""
        seen = {
            (action.workflow_run_id, action.retry_count): None
            for _, action in (hand or self.hand).actions(task)
        }
        return [run_id for run_id, _ in seen]

    def wait_for(self, count: int, task: str = "only", timeout: float = 20) -> list[str]:
        """Waits until so many runs have started, and returns them."""
        what = f"{count} starts of {self.name}"
        wait_until(lambda: len(self.started_runs(task)) >= count, what=what, timeout=timeout)
        return self.started_runs(task)

    def is_quiet_at(self, count: int, task: str = "only") -> bool:
        """Whether no more than so many runs start within a moment."""
        until = time.monotonic() + QUIET
        while time.monotonic() < until:
            if len(self.started_runs(task)) != count:
                return False
            time.sleep(0.02)  # between two looks
        return True

    def finish(self, run_id: str, task: str = "only", output: str = '{"v": 1}') -> None:
        """Completes the latest start of a run's task."""
        actions = [action for _, action in self.hand.actions(task) if action.workflow_run_id == run_id]
        self.complete(actions[-1], output)


def group(most: int = 1, expression: str = "input.k", strategy: Any = v1.GROUP_ROUND_ROBIN) -> v1.Concurrency:
    return v1.Concurrency(expression=expression, max_runs=most, limit_strategy=strategy)


def limited(stage: Stage, most: int, *, is_static: bool) -> Line:
    """A workflow whose task spends one unit of an hourly limit of its own."""
    key = unique("limit")
    if is_static:
        request = workflows.PutRateLimitRequest(key=key, limit=most, duration=v1.HOUR)
        stage.wire.unary("/WorkflowService/PutRateLimit", request, workflows.PutRateLimitResponse)
        limit = v1.CreateTaskRateLimit(key=key, units=1, limit_values_expr="-1")
    else:
        limit = v1.CreateTaskRateLimit(
            key=key, key_expr=f"'{key}'", units=1, limit_values_expr=str(most), duration=v1.HOUR
        )
    return Line(stage, Step("only", fields={"rate_limits": [limit], "timeout": "10m"}))


# ---- a state each

STATES: dict[str, Callable[[Stage], Scene]] = {}


def state(bring: Callable[[Stage], Line]) -> Callable[[Stage], Line]:
    STATES[bring.__name__] = bring
    return bring


@state
def full_group(stage: Stage) -> Line:
    """Two of a group run, five wait, by priority; and one of another group runs."""
    one = Line(stage, Step("only", fields={"concurrency": [group(2)], "timeout": "10m"}))
    for priority in (1, 1, 1, 3, 2, 1, 3):
        one.add(priority=priority)
        if len(one.runs) == 2:
            one.wait_for(2)
    one.add("b")
    one.wait_for(3)
    return one


@state
def long_line(stage: Stage) -> Line:
    one = Line(stage, Step("only", fields={"concurrency": [group(1)], "timeout": "10m"}))
    requests = [
        triggers.TriggerWorkflowRequest(name=one.name, input='{"k": "a"}') for _ in range(WAITING + 1)
    ]
    one.runs = stage.wire.bulk_trigger(*requests)
    one.run_id = one.runs[0]
    one.wait_for(1)
    return one


@state
def chained_places(stage: Stage) -> Line:
    """The second run holds its workflow's place and waits for the task's; the third waits for the workflow's."""
    fields = {"concurrency": [group(1, "input.k")], "timeout": "10m"}
    one = Line(stage, Step("only", fields=fields), concurrency_arr=[group(2, "'all'")])
    for _ in range(3):
        one.add()
    one.wait_for(1)
    return one


@state
def place_of_a_run(stage: Stage) -> Line:
    """The first run is at its second task; the second waits for the place of the run."""
    steps = Step("top"), Step("low", ["top"], fields={"timeout": "10m"})
    one = Line(stage, *steps, concurrency_arr=[group(1)])
    one.add()
    one.complete(one.started("top"))
    one.started("low")
    one.add()
    return one


@state
def place_of_a_sleeper(stage: Stage) -> Line:
    """No task of the first run is with a worker: it backs off, and keeps its place."""
    one = Line(
        stage,
        Step("top"),
        Step("low", ["top"], fields={"retries": 1, "backoff_factor": 6.0}),
        concurrency_arr=[group(1)],
    )
    one.add()
    one.complete(one.started("top"))
    stage.wire.fail(one.started("low"), "once", worker_id=one.hand.id)
    one.add()
    return one


@state
def latest_runs(stage: Stage) -> Line:
    fields = {"concurrency": [group(1, strategy=v1.CANCEL_IN_PROGRESS)], "timeout": "10m"}
    one = Line(stage, Step("only", fields=fields))
    one.add()
    one.wait_for(1)
    return one


@state
def dynamic_half_spent(stage: Stage) -> Line:
    one = limited(stage, 4, is_static=False)
    for _ in range(2):
        run_id = one.add()
        one.wait_for(len(one.runs))
        one.finish(run_id)
        stage.wire.result(run_id)
    return one


@state
def static_spent_and_waited_for(stage: Stage) -> Line:
    one = limited(stage, 2, is_static=True)
    for _ in range(4):
        one.add()
    one.wait_for(2)
    return one


@state
def hard_waits_for_its_worker(stage: Stage) -> Line:
    """The first task ran at home, whose only slot another run has now; a worker beside it is free."""
    one = Line(stage, Step("one"), Step("two", ["one"], fields={"timeout": "10m"}), sticky=v1.HARD, slots=1)
    one.add()
    first = one.started("one")
    stage.kept["away"] = Hand(stage.wire, f"{one.name}:one".lower(), f"{one.name}:two".lower())
    stage.hands.append(stage.kept["away"])
    one.add(desired_worker_id=one.hand.id)  # takes the slot as soon as it is free
    one.complete(first)
    one.started("one", count=2)
    return one


# ---- the kill


class FlowStage(Stage):
    def prepare(self) -> None:
        for name, bring in STATES.items():
            try:
                self.scenes[name] = bring(self)
            except Exception as error:
                self._failed[name] = error

    def line(self, name: str) -> Line:
        found = self[name]
        assert isinstance(found, Line)
        return found


@pytest.fixture(scope="module")
def survived() -> Iterator[FlowStage]:
    with server_directory() as directory, closing(server := Server(directory)):
        stage = FlowStage(server.start())
        try:
            stage.prepare()
            stage.kill_and_restart(Server.kill9)
            yield stage
        finally:
            stage.close()


# ---- what has become of each


def test_full_group_stays_full_and_its_line_keeps_its_order(survived: FlowStage) -> None:
    one = survived.line("full_group")
    *runs, other = one.runs
    assert set(one.started_runs()) == {*runs[:2], other}
    assert one.is_quiet_at(3)
    holders = runs[:2]
    for place in (3, 6, 4, 2, 5):  # by priority, then by age
        count = len(one.started_runs())
        one.finish(holders.pop(0))
        holders.append(one.wait_for(count + 1)[-1])
        assert holders[-1] == runs[place]
        assert len(holders) == 2
    assert one.is_quiet_at(8)


def test_long_line_loses_nobody_and_keeps_its_order(survived: FlowStage) -> None:
    one = survived.line("long_line")
    for count in range(1, WAITING + 1):
        one.finish(one.wait_for(count)[-1])
    assert one.wait_for(WAITING + 1) == one.runs
    one.finish(one.runs[-1])
    assert survived.wire.result(one.runs[-1]).output == '{"v": 1}'


def test_chain_of_places_is_held_as_before(survived: FlowStage) -> None:
    one = survived.line("chained_places")
    assert one.started_runs() == one.runs[:1]
    assert one.is_quiet_at(1)
    one.finish(one.runs[0])
    assert one.wait_for(2) == one.runs[:2]
    assert one.is_quiet_at(2)
    one.finish(one.runs[1])
    assert one.wait_for(3) == one.runs


def test_place_of_a_run_is_held_to_its_end(survived: FlowStage) -> None:
    one = survived.line("place_of_a_run")
    assert one.started_runs("top") == one.runs[:1]
    assert one.is_quiet_at(1, "top")
    one.finish(one.runs[0], "low")
    assert one.wait_for(2, "top") == one.runs


def test_place_of_a_run_is_held_while_its_task_backs_off(survived: FlowStage) -> None:
    one = survived.line("place_of_a_sleeper")
    assert one.is_quiet_at(1, "top")
    again = one.hand.wait("low", count=2)[1]
    assert (again.workflow_run_id, again.retry_count) == (one.runs[0], 1)
    assert one.started_runs("top") == one.runs[:1]
    one.complete(again)
    assert one.wait_for(2, "top") == one.runs


def test_what_runs_is_still_what_a_newer_run_cancels(survived: FlowStage) -> None:
    one = survived.line("latest_runs")
    newer = one.add()
    stop = one.hand.wait("only", STOP, timeout=15)[1]
    assert (stop.workflow_run_id, stop.retry_count) == (one.runs[0], 0)
    assert survived.wire.result(one.runs[0]).error == ""
    assert one.wait_for(2) == [one.runs[0], newer]


def test_what_was_spent_before_the_kill_is_spent(survived: FlowStage) -> None:
    one = survived.line("dynamic_half_spent")
    for _ in range(4):
        one.add()
    assert one.wait_for(4) == one.runs[:4]  # of six: four an hour
    assert one.is_quiet_at(4)
    assert survived.wire.details(one.runs[4]).status == v1.QUEUED


def test_limit_that_was_spent_is_still_waited_for(survived: FlowStage) -> None:
    one = survived.line("static_spent_and_waited_for")
    assert one.started_runs() == one.runs[:2]
    for run_id in one.runs[:2]:
        one.finish(run_id)
        survived.wire.result(run_id)
    assert one.is_quiet_at(2)
    assert [survived.wire.details(run_id).status for run_id in one.runs[2:]] == [v1.QUEUED] * 2


def test_sticky_task_still_waits_for_its_worker(survived: FlowStage) -> None:
    one, away = survived.line("hard_waits_for_its_worker"), survived.kept["away"]
    assert one.is_quiet_at(0, "two")
    one.finish(one.runs[1], "one")
    first = one.hand.wait("two", timeout=15)[1]
    one.complete(first)
    one.complete(one.hand.wait("two", count=2, timeout=15)[1])
    assert sorted(one.started_runs("two")) == sorted(one.runs)
    assert away.actions("two", START) == []
