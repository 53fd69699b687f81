"""Measures of events: what a push costs that starts ten runs, and how soon an event reaches one of very many that wait. As `measures`."""

import time

from benchmarks import event_roles as roles
from benchmarks.meters import rss_mb
from benchmarks.stack import Bench, percentile
from tests.processes import PYTHON, REPOSITORY, Process, wait_until

Figures = dict[str, float | int | None]


def events(bench: Bench) -> Figures:
    """100 pushes/s for 20 s, each to ten workflows; then 100,000 runs that wait for one key, and events that each end the wait of one of them."""
    server = bench.server("events")
    environment = {**server.client_environment(), "PYTHONPATH": str(REPOSITORY)}
    worker = _role("worker", environment)
    client = _role("client", environment)
    try:
        figures = _pushes(bench, worker, client)
        before = rss_mb(server.engine_tree())
        runs = bench.scaled(100_000, 2_000)
        began = time.monotonic()
        for number in range(roles.CROWDS):
            client.call(do="wait_for", name=f"crowd-{number}", count=runs // roles.CROWDS, timeout=120)
        for number in range(roles.TARGETS):
            client.call(do="wait_for", name=f"target-{number}", count=1, timeout=60)
        bench.note(
            f"{runs} waiting runs in {time.monotonic() - began:.0f} s, {rss_mb(server.engine_tree()) - before:.0f} MB of engine memory"
        )
        worker.call(do="take", timeout=30)
        calls = []
        told: list[float] = []
        for number in range(roles.TARGETS):
            calls.append(float(client.call(do="answer", name=f"target-{number}", timeout=30)["call_ms"]))
            told += _noted(worker, 1)
        bench.note(
            f"an event to one of {runs} waiting runs: body after p50 {percentile(told, 0.5):.1f}, max {max(told):.1f} ms; "
            f"push p50 {percentile(calls, 0.5):.1f} ms"
        )
        figures["one_of_100k_waiting_p99_ms"] = round(percentile(told, 0.99), 2)
    finally:
        client.close()
        worker.close()
    return figures


def _pushes(bench: Bench, worker: Process, client: Process) -> Figures:
    def serves() -> bool:
        client.call(do="push", rate=1, seconds=1, timeout=60)
        return bool(worker.call(do="take", timeout=30)["body_ms"])

    wait_until(serves, what="the worker to serve", timeout=60, interval=0.5)
    wait_until(
        lambda: not worker.call(do="take", timeout=30)["body_ms"],
        what="it to be idle",
        timeout=60,
        interval=1.0,
    )
    seconds = bench.scaled(20, 4)
    answer = client.call(do="push", rate=100, seconds=seconds, timeout=120)
    bodies = _noted(worker, 100 * seconds * roles.LISTENERS)
    bench.note(
        f"100 pushes/s to {roles.LISTENERS} workflows: push p50 {percentile(answer['call_ms'], 0.5):.1f} ms, "
        f"body after p50 {percentile(bodies, 0.5):.1f} ms, pushes left {percentile(answer['late_ms'], 0.99):.1f} ms late (p99)"
    )
    return {
        "push_p99_ms": round(percentile(answer["call_ms"], 0.99), 2),
        "push_to_body_p99_ms": round(percentile(bodies, 0.99), 2),
    }


def _noted(worker: Process, count: int) -> list[float]:
    """Times from the push to the bodies of so many tasks."""
    found: list[float] = []

    def are_all() -> bool:
        found.extend(worker.call(do="take", timeout=30)["body_ms"])
        return len(found) >= count

    wait_until(are_all, what=f"{count} tasks that events start", timeout=60)
    return found


def _role(name: str, environment: dict[str, str | None]) -> Process:
    return Process(
        [PYTHON, "-m", "benchmarks.event_roles", name],
        name=f"events {name}",
        directory=REPOSITORY,
        env=environment,
    )
