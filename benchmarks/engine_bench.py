"""What the engine alone costs a run: `python -m benchmarks.engine_bench [--ten] [--runs N] [--rounds N]`.

Actors and the batched streams, with wire messages both ways, but no gRPC, no worker, and a store that takes everything. Prints the CPU
of a run, median and least over the rounds. Where others use the machine, CPU times of two versions cannot be told apart by less than
a tenth; instructions can, by a hundredth. The difference of two counts leaves the start out:

    BROADAXE_BENCH_COMMIT_MS=200 valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null \\
        .venv/bin/python -m benchmarks.engine_bench --rounds 1 --runs 1000    # and again with 3000: each run is made twice
"""

import argparse
import asyncio
import itertools
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from broadaxe._ids import new_run_ids
from broadaxe.wire import stream_pb2 as wire
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.messages import PutWorkflow
from broadaxe_actors.shard import Shard
from broadaxe_gateway import garbage
from broadaxe_gateway.hub import Hub
from broadaxe_gateway.rpc.limits import GrpcLimits
from broadaxe_gateway.rpc.reports import ReportDesk
from broadaxe_gateway.rpc.stream import ClientStream, WorkerStream
from broadaxe_storage.memory import MemoryStore
from broadaxe_storage.records_accounts import TenantRow

TENANT = "018f0000-0000-7000-8000-000000000001"
COMMIT_SECONDS = float(os.environ.get("BROADAXE_BENCH_COMMIT_MS", "4")) / 1000
"""How long a commit takes; under an emulator long enough to fill as it does otherwise."""
SLOTS = 100
RUNS_A_TRIGGER = 100
INPUT = b'{"index":1,"text":"%s"}' % (b"x" * 70)


class NoStore(MemoryStore):
    """Takes every batch and keeps nothing."""

    async def commit(self, *_: Any) -> None:
        await asyncio.sleep(COMMIT_SECONDS)

    async def fetch_tenant(self, tenant_id: str) -> TenantRow:
        return TenantRow(tenant_id, "bench", "bench", 0)


class Wire:
    """The far end of a stream: what is written to it is encoded and decoded once, as gRPC and a client would."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take
        self._up: asyncio.Queue[Any] = asyncio.Queue()

    def send(self, message: Any) -> None:
        self._up.put_nowait(type(message).FromString(message.SerializeToString()))

    async def sent(self) -> AsyncIterator[Any]:
        while True:
            yield await self._up.get()

    async def write(self, message: Any) -> None:
        self._take(type(message).FromString(message.SerializeToString()))
        await asyncio.sleep(0)

    async def send_initial_metadata(self, _: Any) -> None:
        pass


class Load:
    """A worker that completes what it is given at once, and a client that triggers and counts results."""

    def __init__(self, hub: Hub, definition: WorkflowDefinition) -> None:
        limits = GrpcLimits()
        self._definition = definition
        self._worker, self._client = Wire(self._run), Wire(self._count)
        self._batches = itertools.count(1)
        self._left = 0
        self._over = asyncio.Event()
        worker = WorkerStream(hub, ReportDesk(hub, limits.held_report_bytes), limits, TENANT)
        client = ClientStream(hub, limits, TENANT)
        hello = wire.WorkerUp()
        hello.hello.worker_name = "bench"
        hello.hello.actions.extend(task.action for task in definition.tasks)
        hello.hello.slot_config["default"] = SLOTS
        self._worker.send(hello)
        work: list[Coroutine[Any, Any, None]] = [
            worker.run(self._worker.sent(), self._worker),
            client.run(self._client.sent(), self._client),
            self._beat(),
        ]
        self._tasks = [asyncio.ensure_future(each) for each in work]

    async def _beat(self) -> None:
        while True:
            self._worker.send(wire.WorkerUp(heartbeat=True))
            await asyncio.sleep(1)

    def _run(self, down: wire.WorkerDown) -> None:
        if not down.assignments:
            return
        up = wire.WorkerUp(report_batch=next(self._batches), received_batch=down.batch)
        for assignment in down.assignments:
            up.reports.add(
                task_run_id=assignment.task_run_id,
                attempt=assignment.attempt,
                kind=wire.REPORT_KIND_COMPLETED,
                started_at_us=time.time_ns() // 1000,
            )
        self._worker.send(up)

    def _count(self, down: wire.ClientDown) -> None:
        self._left -= len(down.finished)
        if self._left <= 0:
            self._over.set()

    async def bulk(self, runs: int) -> float:
        """CPU of a run, in microseconds."""
        triggers = []
        for number, begin in enumerate(range(0, runs, RUNS_A_TRIGGER)):
            trigger = wire.ClientUp().triggers.add(request=number + 1, watch=True)
            for run_id in new_run_ids(min(RUNS_A_TRIGGER, runs - begin)):
                trigger.runs.add(
                    workflow_name=self._definition.name, run_id=run_id, input=INPUT, metadata=b"{}"
                )
            triggers.append(wire.ClientUp(triggers=[trigger]))
        self._left = runs
        self._over.clear()
        before = time.process_time()
        for message in triggers:
            self._client.send(message)
        await self._over.wait()
        return (time.process_time() - before) * 1e6 / runs

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)


def workflow(*, of_ten: bool) -> WorkflowDefinition:
    def task(name: str, *parents: str) -> TaskDefinition:
        return TaskDefinition(name, f"bench:{name}", schedule_timeout="24h", parents=parents)

    if not of_ten:
        return WorkflowDefinition("bench", (task("noop"),))
    middles = [f"middle{number}" for number in range(8)]
    return WorkflowDefinition(
        "bench", (task("first"), *(task(name, "first") for name in middles), task("last", *middles))
    )


async def measure(*, of_ten: bool, runs: int, rounds: int) -> list[float]:
    shard = await Shard.start(NoStore())
    hub = Hub(shard.connect_gateway("bench"))
    definition = workflow(of_ten=of_ten)
    await hub.ask(PutWorkflow, TENANT, definition)
    load = Load(hub, definition)
    await load.bulk(runs)
    garbage.settle()
    costs = [await load.bulk(runs) for _ in range(rounds)]
    await load.close()
    hub.close()
    await shard.stop()
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.engine_bench", description=__doc__.splitlines()[0])
    parser.add_argument("--ten", action="store_true", help="runs of ten tasks instead of one")
    parser.add_argument("--runs", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    costs = asyncio.run(measure(of_ten=arguments.ten, runs=arguments.runs, rounds=arguments.rounds))
    print(f"CPU of a run: median {statistics.median(costs):.1f} us, least {min(costs):.1f} us")


if __name__ == "__main__":
    main()
