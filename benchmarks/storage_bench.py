"""How fast the record is written: created, updated and finished task runs by batch size, with log bytes and CPU.

    PYTHONPATH=. python benchmarks/storage_bench.py [--quick] [--sizes 1,100]

`fan-out` is the shape of a fan-out: each flush creates some task runs and finishes those of the flush before, so that a row is a whole
task. Everything runs on the embedded server with fsync and synchronous_commit on; inputs have 100 bytes.

Measured on 2 shared cores (AMD EPYC, PostgreSQL 18.4, other work going on beside it):

| rows a batch | created/s | updated/s | finished/s | tasks/s | p50 of a created batch |
|---|---|---|---|---|---|
| 1 | 950 | 770 | 640 | 560 | 0.6 ms |
| 10 | 11,100 | 9,200 | 4,600 | 4,300 | 0.8 ms |
| 100 | 43,400 | 34,900 | 39,100 | 25,200 | 2.2 ms |
| 500 | 102,900 | 56,300 | 38,600 | 30,600 | 4.4 ms |
| 2,000 | 81,400 | 55,900 | 44,100 | 32,000 | 24 ms |

Log bytes a row in batches of 500: created 448, updated 440, finished 591; 1,028 a task. CPU a task in such batches: Postgres 17 us, Python 9 us.

What was tried, and decided what stands in the journal and the schema:

- Rows to Postgres, 2,000 a batch: one array of rows (composite type) 66,000/s and 8 us of Postgres a row; one array a column 32,000/s and 13 us
  (the server keeps a tuple store a column); COPY 93,000/s, 6 us, and 50 bytes of log less a row. At 100 a batch the array of rows takes
  1.7 ms and COPY, with its three more round trips, 2.5 ms. Hence: one function call with arrays of rows, and COPY from 256 created rows on.
- COPY of plain tuples instead of named ones: 3.3 instead of 5.2 us of Python a row. Arrays of rows do not care.
- One statement without anything to write costs 0.18 ms without fsync, a ping 0.08 ms: the rest of a small commit is the disk. The function's
  planner settings cost nothing that could be measured.
- The list index of history descending, as it is read: 4 us and 45 bytes of log more a row than ascending and read backwards.
- Without that index at all a finish takes 482 instead of 585 bytes. It stays: lists need it.
- The list index of live runs: 0.7 us of Postgres and 100 bytes of log more a created row, as much an update that finds no room on its page
  (none of those that do); 0.7 us and 95 bytes a task. Without the id as its last column: 18 bytes less. It stays: lists need it before
  a million that wait. The other columns, indexes and steps that runs of several tasks brought cost a run of one nothing that shows.
- fillfactor of task_run 90 or 100 instead of 70: finishing gains 10 %, updates take 25 to 35 % more log, a task in a fan-out gains nothing.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import psutil

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.embedded import EmbeddedPostgres
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.records import Batch, TaskRunRow
from broadaxe_storage.store import shard_of
from tests.factories import TENANT, make_finish, make_task_run, make_update

SHARDS = (shard_of(TENANT),)


@dataclass
class Figures:
    """What one run of one kind and batch size took."""

    rows: int
    seconds: float
    latencies: list[float]
    wal_bytes: int
    postgres_cpu: float
    python_cpu: float

    def line(self, what: str, size: int) -> str:
        ordered = sorted(self.latencies)
        return (
            f"{what:<10} {size:>6} {self.rows / self.seconds:>9.0f} rows/s  "
            f"p50 {statistics.median(ordered) * 1e3:>7.2f} ms  p99 {ordered[int(len(ordered) * 0.99)] * 1e3:>7.2f} ms  "
            f"WAL {self.wal_bytes / self.rows:>6.0f} B/row  "
            f"CPU Postgres {self.postgres_cpu / self.rows * 1e6:>6.1f} us/row  Python {self.python_cpu / self.rows * 1e6:>6.1f} us/row"
        )


class Bench:
    def __init__(self, store: PostgresStore, epoch: int, probe: "asyncpg.Connection[Any]", pid: int) -> None:
        self.store = store
        self.epoch = epoch
        self.probe = probe
        self.postmaster = psutil.Process(pid)
        self.flush = 0

    async def commit(self, batch: Batch) -> None:
        self.flush += 1
        await self.store.commit(self.epoch, self.flush, SHARDS, batch)

    async def measure(self, batches: Sequence[Batch], rows: int) -> Figures:
        before = await self.probe.fetchval("SELECT pg_current_wal_lsn()")
        postgres, python = self._postgres_cpu(), time.process_time()
        started = time.perf_counter()
        latencies = []
        for batch in batches:
            at = time.perf_counter()
            await self.commit(batch)
            latencies.append(time.perf_counter() - at)
        seconds = time.perf_counter() - started
        python = time.process_time() - python
        wal = await self.probe.fetchval("SELECT pg_current_wal_lsn() - $1::pg_lsn", before)
        return Figures(rows, seconds, latencies, int(wal), self._postgres_cpu() - postgres, python)

    def _postgres_cpu(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in [self.postmaster, *self.postmaster.children()])


def chunks(rows: Sequence[TaskRunRow], size: int) -> Iterator[Sequence[TaskRunRow]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


async def run(bench: Bench, size: int, total: int) -> None:
    warm = [make_task_run(input=b"x" * 100) for _ in range(size)]
    await bench.commit(Batch(created=tuple(warm)))
    await bench.commit(Batch(updated=tuple(make_update(row) for row in warm)))
    await bench.commit(Batch(finished=tuple(make_finish(row) for row in warm)))
    rows = [make_task_run(input=b"x" * 100) for _ in range(total)]
    kinds: list[tuple[str, list[Batch]]] = [
        ("created", [Batch(created=tuple(part)) for part in chunks(rows, size)]),
        ("updated", [Batch(updated=tuple(map(make_update, part))) for part in chunks(rows, size)]),
        ("finished", [Batch(finished=tuple(map(make_finish, part))) for part in chunks(rows, size)]),
    ]
    for name, batches in kinds:
        print((await bench.measure(batches, total)).line(name, size), flush=True)
    # The shape of a fan-out: each flush creates some and finishes what the one before created; assignments are superfluous.
    parts = list(chunks([make_task_run(input=b"x" * 100) for _ in range(total)], size))
    before: Sequence[TaskRunRow] = ()
    mixed = []
    for part in [*parts, ()]:
        mixed.append(Batch(created=tuple(part), finished=tuple(map(make_finish, before))))
        before = part
    print((await bench.measure(mixed, total)).line("fan-out", size), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows: only to see that it works")
    parser.add_argument("--sizes", default="1,10,100,500,2000")
    arguments = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="bx-bench-")
    server = EmbeddedPostgres.start(directory)
    try:
        store = await PostgresStore.open(DatabaseConfig(url=server.url))
        probe = await asyncpg.connect(server.url)
        try:
            bench = Bench(store, await store.open_shards(), probe, server.pid)
            print(await probe.fetchval("SELECT version()"), f"{os.cpu_count()} cores", sep="\n")
            for size in map(int, arguments.sizes.split(",")):
                total = {1: 1_000, 10: 5_000, 100: 20_000}.get(size, 40_000)
                await run(bench, size, total // 10 if arguments.quick else total)
        finally:
            await probe.close()
            await store.close()
    finally:
        server.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    asyncio.run(main())
