"""Run ids that a client chooses: a repeat is answered, an id that was used before is refused, also long after its run ended."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from broadaxe_actors.creation.creation import FRESH_ID_MS
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    NewRun,
    OpenSession,
    PutWorkflow,
    RegisterWorker,
    ReportKind,
    ReportTasks,
    TaskReport,
    TriggerRuns,
)
from broadaxe_actors.runtime import SystemClock, SystemRng
from broadaxe_actors.shard import Shard
from broadaxe_gateway.hub import Hub
from broadaxe_storage.memory import MemoryStore

TENANT = "0190a000-0000-7000-8000-000000000001"


class Sink:
    """A worker that completes what it is told to start, and a client that waits for one run."""

    def __init__(self, hub, worker_id):
        self._hub, self._worker_id = hub, worker_id
        self.finished = asyncio.get_running_loop().create_future()

    def start(self, assignments) -> None:
        reports = tuple(
            TaskReport(item.task_run_id, item.attempt, ReportKind.COMPLETED, b"{}") for item in assignments
        )
        self._hub.request(ReportTasks, TENANT, self._worker_id, reports)

    def run_finished(self, finished) -> None:
        self.finished.set_result(finished)


@asynccontextmanager
async def running_engine():
    """A hub on a shard that knows the workflow `flow`."""
    shard = await Shard.start(MemoryStore())
    hub = Hub(shard.connect_gateway("gateway", is_pickling=True))
    await hub.ask(PutWorkflow, TENANT, WorkflowDefinition("flow", (TaskDefinition("step", "flow:step"),)))
    try:
        yield shard, hub
    finally:
        hub.close()
        await shard.stop()


def old_id() -> str:
    """An id that a client made a minute ago."""
    return SystemRng().uuid7(SystemClock().now() - (FRESH_ID_MS + 60_000) * 1000)


async def test_repeated_trigger_is_answered_with_its_run():
    async with running_engine() as (_, hub):
        run = NewRun("flow", b"{}", run_id=hub.new_id())
        assert await hub.ask(TriggerRuns, TENANT, (run,)) == (run.run_id,)
        assert await hub.ask(TriggerRuns, TENANT, (run,), True) == (run.run_id,)
        with pytest.raises(Refused, match=f"workflow run {run.run_id} exists already") as refused:
            await hub.ask(TriggerRuns, TENANT, (run,))
        assert refused.value.code is Code.ALREADY_EXISTS


async def test_old_id_of_an_ended_run_is_refused_and_a_repeat_of_it_answered():
    async with running_engine() as (_, hub):
        run = NewRun("flow", b"{}", run_id=old_id())
        await hub.ask(TriggerRuns, TENANT, (run,))
        worker_id = await hub.ask(
            RegisterWorker, TENANT, "w", ("flow:step",), (("default", 1),), (), "{}", True
        )
        sink = Sink(hub, worker_id)
        session_id = hub.new_id()
        hub._sessions[session_id] = sink
        await hub.ask(OpenSession, TENANT, worker_id, session_id, True, True, ())
        hub.watch(TENANT, (run.run_id,), sink)
        async with asyncio.timeout(10):
            assert (await sink.finished).run_id == run.run_id
        assert await hub.ask(TriggerRuns, TENANT, (run,), True) == (run.run_id,)
        with pytest.raises(Refused, match="exists already"):
            await hub.ask(TriggerRuns, TENANT, (run,))
