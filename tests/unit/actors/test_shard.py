"""The shard's own life: it stops in order, whatever became of its parts."""

import asyncio

import pytest

from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.messages import PutWorkflow
from broadaxe_actors.shard import Shard
from broadaxe_gateway.hub import Hub
from broadaxe_storage.errors import StorageBug
from broadaxe_storage.memory import MemoryStore

TENANT = "0190a000-0000-7000-8000-000000000001"


class BrokenStore(MemoryStore):
    """Refuses every commit for a reason that data cannot cause."""

    async def commit(self, *_: object) -> None:
        raise StorageBug("42P01", "relation does not exist")


async def test_a_shard_whose_journal_has_crashed_stops_in_order(caplog: pytest.LogCaptureFixture) -> None:
    fatal = asyncio.get_running_loop().create_future()
    shard = await Shard.start(BrokenStore(), on_fatal=fatal.set_result)
    hub = Hub(shard.connect_gateway("gateway"))
    hub.request(PutWorkflow, TENANT, WorkflowDefinition("flow", (TaskDefinition("step", "flow:step"),)))
    assert "42P01" in await asyncio.wait_for(fatal, 10)
    hub.close()
    await asyncio.wait_for(shard.stop(), 10)
    assert shard.runtime.count() == 0
    assert "the journal has crashed: the last records are not written" in caplog.messages
