"""How fast runs are listed among 2,000,000 that have ended, while others run; and what the index on metadata costs. As `measures`.

The runs are written by one statement into the record of a running engine: four tenants, of which the one that is asked has half of all, five
workflows of its own from three in five down to one in a thousand, 5 % that failed or were cancelled, and three metadata entries each, of
which one value is on 90 % of the runs and another on one in 10,000. Lists are asked for over REST, as people do, so a figure holds the rows of
the page, their total, and writing the answer. Every kind is asked for in turns with the others, while 1,000 tasks/s run.
"""

import asyncio
import json
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from benchmarks.stack import Bench, Stack, percentile
from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.embedded import EmbeddedPostgres
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.records import Batch
from broadaxe_storage.store import shard_of
from tests.factories import TENANT, make_finish, make_task_run
from tests.rest import Rest

Figures = dict[str, Any]
BURSTS_A_SECOND = 25
TASKS_A_SECOND = 1_000
PAGE = 50
METADATA_INDEX = "task_run_history_metadata"

WORKFLOWS = """
INSERT INTO workflow (id, tenant_id, name, created_at)
SELECT md5($1::uuid::text || 'w' || n)::uuid, $1::uuid, 'listed-' || n, now() FROM generate_series(0, 4) AS n
"""
VERSIONS = """
INSERT INTO workflow_version (id, workflow_id, tenant_id, number, checksum, definition, created_at)
SELECT md5($1::uuid::text || 'v' || n)::uuid, md5($1::uuid::text || 'w' || n)::uuid, $1::uuid, 1, 'listed', v.definition, now()
FROM generate_series(0, 4) AS n,
    (SELECT definition FROM workflow_version WHERE tenant_id = $1::uuid ORDER BY created_at LIMIT 1) AS v
"""
RUNS = """
INSERT INTO task_run_history (
    id, tenant_id, run_id, workflow_id, workflow_version_id, created_at, finished_at, queued_at, attempt, app_retries,
    internal_retries, state, priority, step_index, assigned_at, started_at, worker_id, metadata, input, output, error
)
SELECT
    r.id, r.tenant, r.id, md5(r.tenant::text || 'w' || r.workflow)::uuid, md5(r.tenant::text || 'v' || r.workflow)::uuid,
    r.at, r.at + interval '1 s', r.at, 0, 0, 0, r.state, 1, 0, r.at, r.at, md5('worker' || r.n % 10)::uuid,
    jsonb_build_object('env', r.env, 'customer', 'c' || r.n * 7919 % 10000, 'tier', 't' || r.n * 31 % 100),
    convert_to('{"n": 1, "text": "' || repeat('x', 80) || '"}', 'UTF8'),
    CASE WHEN r.state = 6 THEN '{"ok": true}'::bytea END, CASE WHEN r.state > 6 THEN 'ValueError: no'::bytea END
FROM (
    SELECT
        g.n, g.at, overlay(md5(g.n::text) PLACING lpad(to_hex((extract(epoch FROM g.at) * 1000)::bigint), 12, '0') FROM 1)::uuid AS id,
        CASE WHEN g.a < 0.5 THEN $1::uuid ELSE md5('tenant' || (g.a * 8)::integer)::uuid END AS tenant,
        (CASE WHEN g.b < 0.95 THEN 6 WHEN g.b < 0.99 THEN 7 ELSE 8 END)::smallint AS state,
        CASE WHEN g.c < 0.6 THEN 0 WHEN g.c < 0.9 THEN 1 WHEN g.c < 0.99 THEN 2 WHEN g.c < 0.999 THEN 3 ELSE 4 END AS workflow,
        CASE WHEN g.d < 0.9 THEN 'prod' WHEN g.d < 0.999 THEN 'staging' ELSE 'dev' END AS env
    FROM (
        SELECT n, now() - interval '20 hours' + n * 72000.0 / $2 * interval '1 s' AS at,
            random() AS a, random() AS b, random() AS c, random() AS d
        FROM generate_series(1::bigint, $2) AS n
        OFFSET 0
    ) AS g
) AS r
"""


def listings(bench: Bench) -> Figures:
    """p50, p95 and the longest of each kind of list, the first page and the last."""
    count, rounds = bench.scaled(2_000_000, 50_000), bench.scaled(20, 2)
    stack = bench.stack("listings")
    rest = Rest(stack.server.http_url, stack.server.token)
    workflows = asyncio.run(_fill(stack, rest.tenant, count, bench))
    times: dict[str, list[float]] = {}
    try:
        with _load(stack) as rates:
            for number in range(rounds):
                for kind, query in _kinds(workflows).items():
                    _ask(rest, kind, query, times if number else {})
    finally:
        rest.close()
    highest = {kind: percentile(found, 0.95) for kind, found in times.items()}
    for kind, found in times.items():
        bench.note(
            f"{kind}: p50 {percentile(found, 0.5):.1f} ms, p95 {highest[kind]:.1f}, longest {max(found):.1f}"
        )
    bench.note(f"lists among {count:,} ended runs, beside {sum(rates) / max(1, len(rates)):.0f} tasks/s")
    with_index, without = asyncio.run(_wal(bench.scaled(100_000, 2_000)))
    bench.note(
        f"WAL of the end of a task with three metadata entries: {with_index:.0f} bytes, {without:.0f} without their index"
    )
    return {
        "listing_p95_ms": round(max(highest.values()), 1),
        "metadata_index_wal_bytes": round(with_index - without),
    }


# ---------------------------------------------------------------- lists


def _kinds(workflows: list[str]) -> dict[str, dict[str, Any]]:
    return {
        "all": {},
        "failed": {"statuses": "FAILED"},
        "cancelled": {"statuses": "CANCELLED"},
        "completed": {"statuses": "COMPLETED"},
        "a workflow of 3 in 5": {"workflow_ids": workflows[0]},
        "a workflow of 1 in 100": {"workflow_ids": workflows[3]},
        "a workflow of 1 in 1,000": {"workflow_ids": workflows[4]},
        "two workflows": {"workflow_ids": workflows[2:4]},
        "metadata of 90 %": {"additional_metadata": "env:prod"},
        "metadata of 10 %": {"additional_metadata": "env:staging"},
        "metadata of 1 %": {"additional_metadata": "tier:t7"},
        "metadata of 1 in 10,000": {"additional_metadata": "customer:c77"},
        "failed, metadata of 10 %": {"statuses": "FAILED", "additional_metadata": "env:staging"},
        "failed, a workflow": {"statuses": "FAILED", "workflow_ids": workflows[1]},
        "a workflow, metadata of 1 %": {"workflow_ids": workflows[2], "additional_metadata": "tier:t7"},
    }


def _ask(rest: Rest, kind: str, query: dict[str, Any], times: dict[str, list[float]]) -> None:
    """The first page, and the last that the first one tells of."""
    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    given = {"since": since, "only_tasks": False, "limit": PAGE, **query}
    offset = 0
    for page in ("first", "last"):
        begun = time.perf_counter()
        answer = rest.get("T/workflow-runs", **given, offset=offset)
        times.setdefault(f"{kind}, {page} page", []).append((time.perf_counter() - begun) * 1e3)
        if not answer["rows"]:
            raise RuntimeError(f"the {page} page of {kind} is empty")
        offset = max(0, answer["pagination"]["num_pages"] - 1) * PAGE


@contextmanager
def _load(stack: Stack) -> Iterator[list[float]]:
    """Runs tasks at a steady pace within the block; gives what it reached, second by second."""
    over = threading.Event()
    rates: list[float] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not over.is_set():
                begun = time.monotonic()
                for burst in range(BURSTS_A_SECOND):
                    stack.fanout(TASKS_A_SECOND // BURSTS_A_SECOND)
                    over.wait(max(0.0, begun + (burst + 1) / BURSTS_A_SECOND - time.monotonic()))
                if not over.is_set():
                    rates.append(TASKS_A_SECOND / (time.monotonic() - begun))
        except Exception as error:  # told to who measures
            failures.append(error)

    thread = threading.Thread(target=run, name="load")
    thread.start()
    try:
        yield rates
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


async def _fill(stack: Stack, tenant: str, count: int, bench: Bench) -> list[str]:
    """Writes the runs, and brings the statistics up to date as Postgres itself would within minutes. Gives the workflows' ids."""
    connection: asyncpg.Connection[Any] = await stack.server.connect_postgres()
    try:
        for days in (0, 1):
            await connection.execute(
                "SELECT ensure_day_partition('task_run_history', 'finished_at', (now() AT TIME ZONE 'UTC')::date - $1::integer)",
                days,
            )
        await connection.execute(WORKFLOWS, tenant)
        await connection.execute(VERSIONS, tenant)
        begun = time.monotonic()
        await connection.execute(RUNS, tenant, count, timeout=600)
        await connection.execute("VACUUM (ANALYZE) task_run_history", timeout=600)
        bench.note(f"{count:,} runs written in {time.monotonic() - begun:.0f} s")
        rows = await connection.fetch(
            "SELECT id::text FROM workflow WHERE tenant_id = $1 AND name LIKE 'listed-%' ORDER BY name",
            tenant,
        )
        return [row[0] for row in rows]
    finally:
        await connection.close()


# ---------------------------------------------------------------- what the index on metadata costs


async def _wal(count: int) -> tuple[float, float]:
    """Bytes of log of the end of a task whose run has metadata, with the index and without."""
    directory = tempfile.mkdtemp(prefix="broadaxe-bench-")
    server = EmbeddedPostgres.start(directory)
    try:
        store = await PostgresStore.open(DatabaseConfig(url=server.url))
        probe = await asyncpg.connect(server.url)
        try:
            writer = _Writer(store, await store.open_shards(), probe)
            with_index = await writer.bytes_of_an_end(count)
            await probe.execute(f"DROP INDEX {METADATA_INDEX}")
            await probe.execute("TRUNCATE task_run_history")
            return with_index, await writer.bytes_of_an_end(count)
        finally:
            await probe.close()
            await store.close()
    finally:
        server.stop()
        shutil.rmtree(directory)


class _Writer:
    def __init__(self, store: PostgresStore, epoch: int, probe: "asyncpg.Connection[Any]") -> None:
        self._store = store
        self._epoch = epoch
        self._probe = probe
        self._flush = 0
        self._rng = random.Random(1)

    async def bytes_of_an_end(self, count: int) -> float:
        spent = 0
        for _ in range(count // 200):
            rows = [make_task_run(input=b"x" * 100, metadata=self._metadata()) for _ in range(200)]
            await self._commit(Batch(created=tuple(rows)))
            before = await self._written()
            await self._commit(Batch(finished=tuple(map(make_finish, rows))))
            spent += await self._written() - before
        return spent / count

    def _metadata(self) -> str:
        return json.dumps(
            {
                "env": "prod",
                "customer": f"c{self._rng.randrange(10_000)}",
                "tier": f"t{self._rng.randrange(100)}",
            }
        )

    async def _commit(self, batch: Batch) -> None:
        self._flush += 1
        await self._store.commit(self._epoch, self._flush, (shard_of(TENANT),), batch)

    async def _written(self) -> int:
        return int(await self._probe.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
