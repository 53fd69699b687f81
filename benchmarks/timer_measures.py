"""Measures of crons and scheduled runs: how late they are, and what a million far ones cost. As `measures`."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.meters import CpuMeter, rss_mb
from benchmarks.stack import Bench, percentile
from broadaxe.wire import workflows_pb2 as v0
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.wire import BareWorker, Wire
from tests.processes import Server

Figures = dict[str, float | int | None]
OVER_SECONDS = 10.0
LOAD_PER_SECOND = 20


def timers(bench: Bench) -> Figures:
    """Lateness of 1,000 scheduled runs over 10 s beside 20 triggers/s; a million crons that are due in a year."""
    return {**_lateness(bench), **_far(bench)}


def _register(wire: Wire, name: str) -> None:
    task = v1.CreateTaskOpts(readable_id="only", action=f"{name}:only", timeout="60s", schedule_timeout="5m")
    wire.put(v1.CreateWorkflowVersionRequest(name=name, tasks=[task]))


def _lateness(bench: Bench) -> Figures:
    """From the time of each to its run in the record, and to its start at a worker."""
    count = bench.scaled(1_000, 100)
    server = bench.server("timers")
    wire = Wire(server.grpc_address, server.token)
    for name in ("timed", "load"):
        _register(wire, name)
    worker = BareWorker(wire, "timed:only", "load:only", slots=10_000)
    begin = datetime.now(UTC) + timedelta(seconds=2)
    request = v0.ScheduleWorkflowRequest(name="timed", input="{}")
    for number in range(count):
        request.schedules.add().FromDatetime(begin + timedelta(seconds=OVER_SECONDS * number / count))
    wire.unary("/WorkflowService/ScheduleWorkflow", request, v0.WorkflowVersion)
    over = threading.Event()
    load = threading.Thread(target=_trigger, args=(server, over), daemon=True)
    load.start()
    arrived: dict[str, float] = {}
    timed = 0
    while timed < count:
        action = worker.next(timeout=OVER_SECONDS + 20)
        arrived[action.workflow_run_id] = time.time()
        timed += action.action_id == "timed:only"
    over.set()
    load.join()
    rows = _fetch(
        server,
        "SELECT s.run_id::text, extract(epoch FROM s.trigger_at)::float8 AS at,"
        " extract(epoch FROM r.created_at)::float8 AS made"
        " FROM scheduled_run AS s JOIN run_summary AS r ON r.id = s.run_id",
    )
    if len(rows) != count:
        raise RuntimeError(f"{count} runs were scheduled, {len(rows)} have fired")
    queued = [(row["made"] - row["at"]) * 1000 for row in rows]
    started = [(arrived[row["run_id"]] - row["at"]) * 1000 for row in rows]
    worker.close()
    wire.close()
    server.close()
    for what, found in (("queued", queued), ("started", started)):
        bench.note(
            f"{count} scheduled runs over {OVER_SECONDS:g} s, {what} late by p50 {percentile(found, 0.5):.1f}, "
            f"p99 {percentile(found, 0.99):.1f}, max {max(found):.1f} ms (min {min(found):.1f})"
        )
    return {
        "scheduled_late_p50_ms": round(percentile(queued, 0.5), 1),
        "scheduled_late_p99_ms": round(percentile(queued, 0.99), 1),
        "scheduled_late_max_ms": round(max(queued), 1),
    }


def _trigger(server: Server, over: threading.Event) -> None:
    wire = Wire(server.grpc_address, server.token)
    while not over.wait(1 / LOAD_PER_SECOND):
        wire.trigger("load")
    wire.close()


def _far(bench: Bench) -> Figures:
    """Crons inserted by SQL, as an engine that had made them would have left them; then a restart."""
    count = bench.scaled(1_000_000, 20_000)
    server = bench.server("crons")
    wire = Wire(server.grpc_address, server.token)
    _register(wire, "far")
    wire.close()
    plain_seconds = _restart(server)
    before = rss_mb(server.engine_tree())
    _fetch(
        server,
        "INSERT INTO cron (id, tenant_id, workflow_id, workflow_name, name, expression, is_declared, is_enabled, next_at,"
        " created_at, updated_at, metadata, input)"
        " SELECT gen_random_uuid(), w.tenant_id, w.id, w.name, 'cron-' || n, n % 60 || ' 0 1 1 *', false, true,"
        f" now() + interval '1 year' + n * interval '1 second', now(), now(), '{{}}', '{{}}'"
        f" FROM workflow AS w, generate_series(1, {count}) AS n WHERE w.name = 'far'",
    )
    seconds = _restart(server)
    time.sleep(3)  # what the start set in motion is not idleness; nothing observable marks its end
    growth = rss_mb(server.engine_tree()) - before
    idle = bench.scaled(20, 5)
    meter = CpuMeter({"engine": server.engine_tree, "postgres": server.postgres_tree})
    time.sleep(idle)  # idleness is the measure
    spent = meter.seconds()
    server.close()
    bench.note(
        f"{count} far crons: engine +{growth:.1f} MB, idle {100 * spent['engine'] / idle:.2f}% and Postgres "
        f"{100 * spent['postgres'] / idle:.2f}% of a core, ready {seconds:.2f} s after a restart ({plain_seconds:.2f} s without them)"
    )
    return {
        "far_crons_rss_growth_mb": round(growth, 1),
        "far_crons_idle_cpu_percent": round(100 * spent["engine"] / idle, 2),
        "far_crons_restart_s": round(seconds, 2),
    }


def _restart(server: Server) -> float:
    """Seconds from the start of the engine to its word that it is ready."""
    server.stop()
    begun = time.monotonic()
    server.start()
    return time.monotonic() - begun


def _fetch(server: Server, query: str) -> list[Any]:
    async def fetch() -> list[Any]:
        connection = await server.connect_postgres()
        try:
            return list(await connection.fetch(query, timeout=200))
        finally:
            await connection.close()

    return asyncio.run(fetch())
