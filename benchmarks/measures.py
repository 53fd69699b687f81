"""The measures of `make bench`, one function each: they take a `Bench` and return figures under the keys of the JSON line.

Where a ratio is asked for, both sides run in turns on the same machine within the same minutes. Medians are over several runs; the notes
carry minimum and maximum.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil

from benchmarks import event_measures, flow_measures, listing_measures, timer_measures
from benchmarks.meters import CpuMeter, Postgres, is_lease, rss_mb
from benchmarks.stack import Bench, median, percentile, spread
from tests.processes import Process, wait_until

Figures = dict[str, Any]


def fanout(bench: Bench) -> Figures:
    """20,000 no-op tasks with 100-byte inputs, in bulk, one worker of 100 slots: plain and with 5 ms added to each commit, in turns.

    CPU and WAL are taken over the plain runs, statements over one more run with Postgres' statement log on.
    """
    count = bench.scaled(20_000, 2_000)
    plain = bench.stack()
    slow = bench.stack("slow", {"BROADAXE_COMMIT_DELAY_MS": "5"})
    rates: list[float] = []
    slow_rates: list[float] = []
    cpu: dict[str, float] = {}
    wal = 0
    for _ in range(bench.scaled(5, 2)):
        before_wal = plain.postgres.wal_bytes()
        meter = plain.cpu_meter()
        rates.append(plain.fanout(count))
        for name, seconds in meter.seconds().items():
            cpu[name] = cpu.get(name, 0.0) + seconds
        wal += plain.postgres.wal_bytes() - before_wal
        slow_rates.append(slow.fanout(count))
    bench.release("slow")
    tasks = count * len(rates)
    with plain.postgres.counted() as statements:
        plain.fanout(count)
    bench.note(
        f"fan-out of {count}: {spread(rates)} tasks/s; with 5 ms a commit: {spread(slow_rates)} tasks/s"
    )
    bench.note(
        f"{len(statements)} statements for {count} tasks, {sum(s.startswith('COMMIT') for s in statements)} of them COMMIT"
    )
    return {
        "fanout_tasks_per_second": round(median(rates)),
        "slow_commit_ratio": round(median(slow_rates) / median(rates), 3),
        "sql_statements_per_task": round(len(statements) / count, 4),
        "wal_bytes_per_task": round(wal / tasks),
        "cpu_s_per_1000": {name: round(1000 * seconds / tasks, 3) for name, seconds in cpu.items()},
    }


def latency(bench: Bench) -> Figures:
    """100 single triggers/s for 20 s through our SDK: the call to the task's body, and the call to its result."""
    client = bench.stack().client
    runs = [
        client.call(do="singles", rate=100, seconds=bench.scaled(20, 5), timeout=120)
        for _ in range(bench.scaled(3, 1))
    ]
    bench.note(
        f"100 singles/s: triggers left at most {max(percentile(run['late_ms'], 0.99) for run in runs):.1f} ms late (p99)"
    )
    return {
        "start_p50_ms": round(median([percentile(run["start_ms"], 0.50) for run in runs]), 2),
        "start_p99_ms": round(median([percentile(run["start_ms"], 0.99) for run in runs]), 2),
        "result_p50_ms": round(median([percentile(run["result_ms"], 0.50) for run in runs]), 2),
    }


def singles_500(bench: Bench) -> Figures:
    """500 single triggers/s for 20 s."""
    run = bench.stack().client.call(do="singles", rate=500, seconds=bench.scaled(20, 4), timeout=180)
    rate = len(run["start_ms"]) / run["seconds"]
    bench.note(
        f"500 singles/s: {rate:.0f}/s done, start p50 {percentile(run['start_ms'], 0.5):.1f} ms, "
        f"triggers left {percentile(run['late_ms'], 0.99):.1f} ms late (p99)"
    )
    return {"singles_500_start_p99_ms": round(percentile(run["start_ms"], 0.99), 2)}


def spawn(bench: Bench) -> Figures:
    """The demo's shape: one parent spawns 5,000 children with run_many and gathers their results."""
    count = bench.scaled(5_000, 500)
    client = bench.stack().client
    rates = [
        count / client.call(do="spawn", count=count, timeout=300)["seconds"]
        for _ in range(bench.scaled(3, 1))
    ]
    bench.note(f"spawn of {count}: {spread(rates)} children/s")
    return {"spawn_tasks_per_second": round(median(rates))}


GRAPH_BULKS = {"ten": 1, "noop": 8}
"""Bulks of each kind that are measured as one: about as much CPU for either side."""


def graph(bench: Bench) -> Figures:
    """A workflow of 10 tasks (one, then eight side by side, then one) against a workflow of one task, CPU of all processes.

    Both in bulks of the same number of runs, in turns; and both triggered one by one, which is dearer for a run of either kind.

    The system counts CPU in ticks of 10 ms a process. A bulk of one-task runs takes some 25 of them, spread over ten processes, so one
    bulk tells its cost to a tenth at best: several count as one. What else runs on the machine makes both sides dearer for a while, so
    each round gives a ratio of its own, either side goes first in turn, and the median counts.
    """
    stack = bench.stack()
    client = stack.client
    runs = bench.scaled(2_000, 200)
    spent: dict[str, list[float]] = {name: [] for name in GRAPH_BULKS}
    for name in spent:
        client.call(do="fanout", count=runs, task=name, timeout=300)
    for number in range(bench.scaled(9, 1)):
        for name in sorted(spent, reverse=bool(number % 2)):
            bulks = GRAPH_BULKS[name]
            meter = stack.cpu_meter()
            for _ in range(bulks):
                client.call(do="fanout", count=runs, task=name, timeout=300)
            spent[name].append(1e6 * sum(meter.seconds().values()) / (bulks * runs))
    alone: dict[str, float] = {}
    for name in spent:
        count = bench.scaled(300, 30)
        meter = stack.cpu_meter()
        client.call(do="one_by_one", count=count, task=name, timeout=300)
        alone[name] = 1e6 * sum(meter.seconds().values()) / count
    ratios = [ten / one for ten, one in zip(spent["ten"], spent["noop"], strict=True)]
    bench.note(
        f"CPU of a run: one task {spread(spent['noop'])} us, ten tasks {spread(spent['ten'])} us; ratio {spread(ratios, 2)}; "
        f"one by one {alone['noop']:.0f} and {alone['ten']:.0f} us, ratio {alone['ten'] / alone['noop']:.1f}"
    )
    return {"graph_cpu_ratio": round(median(ratios), 2)}


def tenants(bench: Bench) -> Figures:
    """Tenant B starts 50 tasks/s on a worker of its own while tenant A runs the fan-out without a pause."""
    stack = bench.stack()
    server = stack.server
    environment = server.client_environment(token=server.new_tenant("bench-b"))
    worker, client = bench.worker(environment, slots=10), bench.client(environment)
    client.call(do="warm", timeout=60)
    alone = client.call(do="singles", rate=50, seconds=bench.scaled(5, 2), timeout=60)
    over = threading.Event()
    rates: list[float] = []
    beside: list[list[float]] = []

    def load() -> None:
        while not over.is_set():
            rates.append(stack.fanout(bench.scaled(20_000, 2_000)))

    loader = threading.Thread(target=load, name="tenant-a")
    loader.start()
    try:
        # In rounds, of which the median counts: a host that takes the cores away for a moment spoils one.
        for _ in range(bench.scaled(5, 1)):
            answer = client.call(do="singles", rate=50, seconds=bench.scaled(6, 4), timeout=180)
            beside.append(answer["start_ms"])
    finally:
        over.set()
        loader.join()
        client.close()
        worker.close()
    highest = [percentile(times, 0.99) for times in beside]
    bench.note(
        f"tenant B start p99: alone {percentile(alone['start_ms'], 0.99):.1f} ms, beside A's fan-out {spread(highest, 1)} ms "
        f"(p50 {median([percentile(times, 0.5) for times in beside]):.1f}); A meanwhile {spread(rates)} tasks/s"
    )
    return {"tenant_b_start_p99_ms": round(median(highest), 2)}


def compat(bench: Bench) -> Figures:
    """The unmodified hatchet-sdk, worker and client: 3,000 tasks against the stub and against the engine, in turns."""
    count = bench.scaled(3_000, 300)
    server = bench.server("compat")
    sides: dict[str, tuple[Process, Process]] = {}
    rates: dict[str, list[float]] = {"stub": [], "engine": []}
    for name, environment in (("stub", bench.stub()), ("engine", server.client_environment())):
        worker, client = bench.worker(environment, "hatchet_sdk"), bench.client(environment, "hatchet_sdk")
        client.call(do="warm", timeout=90)
        client.call(do="fanout", count=100, timeout=90)
        sides[name] = (worker, client)
    meter = CpuMeter({"engine": server.engine_tree, "postgres": server.postgres_tree})
    for _ in range(bench.scaled(3, 1)):
        for name, (_, client) in sides.items():
            answer = client.call(do="fanout", count=count, timeout=300)
            if answer["results"] != count:
                raise RuntimeError(f"{name}: {count} triggered, {answer['results']} results")
            rates[name].append(count / answer["seconds"])
    spent = meter.seconds()
    for worker, client in sides.values():
        client.close()
        worker.close()
    server.close()
    tasks = count * len(rates["engine"])
    bench.note(
        f"hatchet-sdk, {count} tasks: stub {spread(rates['stub'])}, engine {spread(rates['engine'])} tasks/s; "
        f"engine {1000 * spent['engine'] / tasks:.2f} and Postgres {1000 * spent['postgres'] / tasks:.2f} CPU s per 1,000"
    )
    ratios = [real / stub for real, stub in zip(rates["engine"], rates["stub"], strict=True)]
    return {"compat_fanout_ratio_to_stub": round(median(ratios), 3)}


def idle(bench: Bench) -> Figures:
    """An engine with 10 connected workers and nothing to do, for 60 s."""
    bench.release("plain")
    server = bench.server("idle")
    environment = server.client_environment()
    workers = [bench.worker(environment, slots=10) for _ in range(10)]
    client = bench.client(environment)
    client.call(do="warm", timeout=120)
    for worker in workers:
        wait_until(partial(is_connected, worker), what="ten connected workers", timeout=60)
    client.close()
    seconds = bench.scaled(60, 10)
    time.sleep(3)  # what the last start set in motion is not idleness; nothing observable marks its end
    with Postgres(server).counted() as statements:
        meter = CpuMeter(
            {
                "engine": server.engine_tree,
                "postgres": server.postgres_tree,
                "workers": lambda: [p for worker in workers for p in worker.tree()],
            }
        )
        time.sleep(seconds)  # idleness is the measure
        spent = meter.seconds()
    other = [statement for statement in statements if not is_lease(statement)]
    bench.note(
        f"idle {seconds} s: engine {100 * spent['engine'] / seconds:.2f}%, Postgres {100 * spent['postgres'] / seconds:.2f}%, "
        f"10 workers together {100 * spent['workers'] / seconds:.2f}% of a core; {len(statements)} statements, "
        f"{len(other)} of them not the lease" + (f": {other[:3]}" if other else "")
    )
    for worker in workers:
        worker.close()
    server.close()
    return {
        "idle_cpu_percent": round(100 * spent["engine"] / seconds, 2),
        "idle_sql_statements": len(other),
    }


def is_connected(worker: Process) -> bool:
    return any(
        connection.status == psutil.CONN_ESTABLISHED
        for process in worker.tree()
        for connection in process.net_connections()
    )


def queued(bench: Bench) -> Figures:
    """Memory of the engine with 200,000 and with 1,000,000 queued tasks and no worker; inputs of 100 bytes, schedule timeout 24 h."""
    bench.release("plain")
    server = bench.server("queued")
    environment = server.client_environment()
    worker, client = bench.worker(environment), bench.client(environment)
    client.call(do="warm", timeout=90)
    if worker.stop() != 0:
        raise RuntimeError(f"the worker did not stop in order:\n{worker.tail()}")
    before = rss_mb(server.engine_tree())
    figures: Figures = {}
    queued_so_far = 0
    for key, total in (
        ("queued_200k_rss_growth_mb", bench.scaled(200_000, 20_000)),
        ("queued_1m_rss_growth_mb", bench.scaled(1_000_000, 60_000)),
    ):
        wanted = total - queued_so_far
        speed = figures.get("_speed")
        if speed and wanted / speed > bench.seconds_left - 15:
            bench.note(f"{key}: left out, {wanted / speed:.0f} s more do not fit the time")
            figures[key] = None
            break
        peak = Peak(lambda: rss_mb(server.engine_tree()))
        answer = client.call(do="enqueue", count=wanted, chunk=10_000, timeout=600)
        highest = peak.stop()
        queued_so_far = total
        growth = rss_mb(server.engine_tree()) - before
        figures["_speed"] = wanted / answer["seconds"]
        figures[key] = round(growth, 1)
        bench.note(
            f"{total} queued ({figures['_speed']:.0f} triggers/s): engine {before:.0f} MB before, +{growth:.0f} MB, "
            f"+{highest - before:.0f} MB at the peak"
        )
    figures.pop("_speed", None)
    client.close()
    server.close()
    return figures


class Peak:
    """Samples a figure five times a second until stopped, and keeps the highest."""

    def __init__(self, sample: Callable[[], float]) -> None:
        self._sample = sample
        self._highest = sample()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            self._highest = max(self._highest, self._sample())

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return self._highest


CORE: dict[str, Callable[[Bench], Figures]] = {
    "fanout": fanout,
    "latency": latency,
    "singles_500": singles_500,
    "spawn": spawn,
    "tenants": tenants,
    "compat": compat,
    "idle": idle,
    "queued": queued,
    "graph": graph,
}
"""What `make bench` measures."""
FLOW: dict[str, Callable[[Bench], Figures]] = {
    "keys": flow_measures.keys,
    "labelled": flow_measures.labelled,
    "dispatch": flow_measures.dispatch,
    "fairness": flow_measures.fairness,
}
"""Flow control: `make bench-flow`."""
TRIGGERS: dict[str, Callable[[Bench], Figures]] = {
    "events": event_measures.events,
    "timers": timer_measures.timers,
}
"""What starts runs by itself."""
READS: dict[str, Callable[[Bench], Figures]] = {"listings": listing_measures.listings}
"""What people read: lists among 2,000,000 runs."""
GROUPS = {"core": CORE, "flow": FLOW, "triggers": TRIGGERS, "reads": READS}
MEASURES = {name: measure for group in GROUPS.values() for name, measure in group.items()}
