"""Random graphs, and a kill -9 of the engine again and again while they run: every task ends as it must."""

import random

import pytest

from tests.compat.random_graphs import Graph, Player, answers, compare
from tests.compat.wire import Wire
from tests.faults.conftest import Field
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_random_graphs_outlive_kills(ground: Field, kills: int) -> None:
    wire = Wire(ground.server.grpc_address, ground.server.token)
    graphs = [Graph(seed, is_steady=True) for seed in range(5_000, 5_000 + 25 * kills)]
    chance = random.Random(kills)
    player = Player(wire, graphs, pause=lambda: chance.random() / 50)
    try:
        for graph in graphs:
            wire.put(graph.definition())
        for graph in graphs:
            graph.run_id = wire.trigger(graph.name)
        for _ in range(kills):
            seen = len(player.starts)
            wait_until(
                lambda seen=seen: len(player.starts) > seen + 15, what="fifteen more starts", timeout=60
            )  # type: ignore[misc]
            ground.server.kill9()
            ground.server.restart()
        wait_until(lambda: answers(wire, graphs[0].run_id), what="the channel to connect again", timeout=60)
        for graph in graphs:
            compare(wire, graph, timeout=120)
        assert player.wrong == []
        expected = sum(graph.attempts(node) > 0 for graph in graphs for node in graph.nodes)
        cleaned = sum(graph.ends.get("oops", ("", None))[1] == {"cleaned": True} for graph in graphs)
        assert len({task_run for task_run, _ in player.starts}) == expected + cleaned
    finally:
        player.close()
        wire.close()
