"""Large runs: a graph of a thousand tasks, and parents whose outputs are too much for one message."""

import re

import pytest

from tests.e2e.runs.harness import FlowsUnderTest, of_the_engine
from tests.roles.flows.random_graph import NODES, expected

pytestmark = pytest.mark.timeout(180)


def test_random_graph_of_a_thousand_tasks_computes_what_it_should(flows: FlowsUnderTest) -> None:
    run = flows.start("random-graph")
    end = run.end(timeout=120)
    assert end.status == "COMPLETED"
    assert len(end.tasks) == NODES
    assert {name: task.output["value"] for name, task in end.tasks.items()} == expected()


def test_outputs_of_parents_beyond_the_message_limit_fail_saying_which(flows: FlowsUnderTest) -> None:
    """Read over HTTP: the outputs of this run are too much for one gRPC message as well."""
    sizes = {"brick": 2_500_000, "stone": 1_900_000, "feather": 20}
    run = flows.start("heavy", {name: {"bytes": size} for name, size in sizes.items()})
    stream = flows.wire.runs(run.id)
    stream.next(timeout=60)
    stream.cancel()
    found = flows.rest.get(f"S/workflow-runs/{run.id}")
    assert found["run"]["status"] == "FAILED"
    carrier = next(task for task in found["tasks"] if task["displayName"].startswith("carrier-"))
    assert carrier["status"] == "FAILED"
    assert run.ran("carrier") == 0
    error = carrier["errorMessage"]
    assert "carrier" in error
    assert "brick" in error
    assert "stone" in error
    numbers = [int(number) for number in re.findall(r"\d+", error.replace(",", "").replace("_", ""))]
    assert any(2_500_000 <= number < 2_600_000 for number in numbers), error
    assert any(4_000_000 <= number <= 4_500_000 for number in numbers), error  # the sum, or the limit


@of_the_engine
def test_outputs_of_parents_below_the_limit_arrive_whole(flows: FlowsUnderTest) -> None:
    sizes = {"brick": 1_300_000, "stone": 1_200_000, "feather": 300_000}
    run = flows.start("heavy", {name: {"bytes": size} for name, size in sizes.items()})
    run.note("carrier", timeout=60)
    run.end(timeout=60)
    task = run.details().tasks["carrier"]
    assert (task.status, task.output) == ("COMPLETED", sizes)
