"""Random graphs, with failures, retries, skips and cancels: every task ends as the documents have it, after as many attempts."""

from collections import Counter

import pytest

from tests.compat.random_graphs import Graph, Player, compare
from tests.compat.wire import Wire

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize(
    "seeds",
    [range(100), pytest.param(range(1_000, 1_500), marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def test_random_graphs_end_as_they_must(wire: Wire, seeds: range) -> None:
    graphs = [Graph(seed) for seed in seeds]
    for graph in graphs:
        wire.put(graph.definition())
    player = Player(wire, graphs)
    try:
        for graph in graphs:
            graph.run_id = wire.trigger(graph.name)
        for graph in graphs:
            compare(wire, graph, timeout=600)
        assert player.wrong == []
        assert all(times == 1 for times in Counter(player.starts).values())
        expected = sum(graph.attempts(node) for graph in graphs for node in graph.nodes)
        cleaned = sum(graph.ends.get("oops", ("", None))[1] == {"cleaned": True} for graph in graphs)
        assert len(player.starts) == expected + cleaned
        kinds = Counter(status for graph in graphs for status, _ in graph.ends.values())
        assert (
            min(kinds[kind] for kind in ("COMPLETED", "FAILED", "CANCELLED")) > 20
        )  # chance made some of each
    finally:
        player.close()
