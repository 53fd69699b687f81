"""A random graph whose values can be computed without running it. Imports nothing of the roles: tests compute with it too."""

import random

NODES = 1_000
MODULUS = 1_000_003
SEED = 20_240_607


def edges(nodes: int = NODES, seed: int = SEED) -> list[list[int]]:
    """The parents of each node: up to three of the forty before it, so that the graph is wide and deep."""
    chance = random.Random(seed)
    parents: list[list[int]] = []
    for node in range(nodes):
        near = range(max(0, node - 40), node)
        count = min(len(near), chance.choice((0, 1, 1, 2, 2, 3)))
        parents.append(sorted(chance.sample(near, count)))
    return parents


def value(node: int, above: list[int]) -> int:
    """What a node returns, by its number and the values of its parents."""
    return (node * 7_919 + 31 * sum(above) + 1) % MODULUS


def expected(nodes: int = NODES, seed: int = SEED) -> dict[str, int]:
    values: list[int] = []
    for node, parents in enumerate(edges(nodes, seed)):
        values.append(value(node, [values[parent] for parent in parents]))
    return {f"node-{node}": result for node, result in enumerate(values)}
