"""For tests of code that uses Broadaxe: run tasks in this process, without a server, in milliseconds.

    from broadaxe.testing import in_memory

    def test_parent():
        with in_memory(broadaxe, [parent, child]) as engine:
            assert parent.run(ParentInput(n=3)) == {"sum": 6}
            assert "spawned" in engine.logs[0]

A single function without its surroundings is tested with `mock_run` instead.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from broadaxe._client import Broadaxe
from broadaxe._definition import BaseWorkflow
from broadaxe._transport.memory import MemoryTransport

__all__ = ["InMemoryEngine", "in_memory"]


class InMemoryEngine:
    """What tasks have sent so far."""

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport

    @property
    def logs(self) -> list[str]:
        """Lines that tasks logged with `ctx.log`, in order."""
        return [line.message for line in self._transport.logs]

    @property
    def stream(self) -> list[bytes]:
        """Chunks that tasks put into streams, in order."""
        return [chunk.message for chunk in self._transport.chunks]


@contextmanager
def in_memory(
    client: Broadaxe, workflows: Sequence[BaseWorkflow[Any]], *, lifespan: Any = None
) -> Iterator[InMemoryEngine]:
    """Within the block, runs of `client` are run here, by the standalone tasks given; no setting is needed.

    Inputs and outputs are validated and pass through JSON, dependencies are resolved, children are run, failed attempts are retried at
    once. lifespan: what `ctx.lifespan` gives. Raises `ConfigurationError` for a workflow of several tasks.
    """
    transport = MemoryTransport(workflows, lifespan)
    with client.using(transport):
        try:
            yield InMemoryEngine(transport)
        finally:
            transport.close()
