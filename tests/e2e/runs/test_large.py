"""Large runs: a graph of a thousand tasks, and parents whose outputs are too much for one message."""

import pytest

from tests.e2e.runs.harness import FlowsUnderTest
from tests.roles.flows.large import NODES, expected

TOPIC = "large"
pytestmark = pytest.mark.timeout(180)


def test_random_graph_of_a_thousand_tasks_computes_what_it_should(flows: FlowsUnderTest) -> None:
    run = flows.start("random-graph")
    end = run.end(timeout=120)
    assert end.status == "COMPLETED"
    assert len(end.tasks) == NODES
    assert {name: task.output["value"] for name, task in end.tasks.items()} == expected()


def test_outputs_of_parents_beyond_the_message_limit_fail_saying_which(flows: FlowsUnderTest) -> None:
    sizes = {"brick": 2_500_000, "stone": 1_900_000, "feather": 20}
    run = flows.start("heavy", {name: {"bytes": size} for name, size in sizes.items()})
    end = run.end(timeout=60)
    assert end.status == "FAILED"
    assert end.statuses["carrier"] == "FAILED"
    assert run.ran("carrier") == 0
    error = run.result()["raised"]["text"]
    assert "brick" in error
    assert "stone" in error
    digits = "".join(character for character in error if character.isdigit() or character == " ")
    assert any(int(number) >= 2_500_000 for number in digits.split()), error
    assert "4194304" in digits or "4 MiB" in error, error


def test_outputs_of_parents_below_the_limit_arrive_whole(flows: FlowsUnderTest) -> None:
    sizes = {"brick": 1_300_000, "stone": 1_200_000, "feather": 300_000}
    run = flows.start("heavy", {name: {"bytes": size} for name, size in sizes.items()})
    run.note("carrier", timeout=60)
    run.end(timeout=60)
    task = run.details().tasks["carrier"]
    assert (task.status, task.output) == ("COMPLETED", sizes)
