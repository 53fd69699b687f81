"""Measures of flow control and routing: what keys, labels and many workers cost beside plain tasks. As `measures`."""

from benchmarks.stack import Bench, Stack, median, spread
from tests.processes import PYTHON, REPOSITORY, Process, closing
from tests.rest import Rest

Figures = dict[str, float | int | None]
FAST = {"ROLE_LABELS": '{"pool": "fast"}'}


def keys(bench: Bench) -> Figures:
    """100,000 tasks queued while the worker is paused, then done by it: plain ones, and ones over 10,000 concurrency keys of one place each."""
    count, groups = bench.scaled(100_000, 4_000), bench.scaled(10_000, 400)
    stack = bench.stack()
    rates: dict[str, list[float]] = {"noop": [], "keyed": []}
    cpu: dict[str, float] = {}
    for task in ("noop", "keyed", "keyed", "noop"):
        _set_paused(stack, is_paused=True)
        stack.client.call(do="queue", count=count, task=task, keys=groups, timeout=200)
        meter = stack.cpu_meter()
        _set_paused(stack, is_paused=False)
        answer = stack.client.call(do="drain", timeout=300)
        rates[task].append(count / float(answer["seconds"]))
        spent = meter.seconds()
        for name in ("engine", "postgres"):
            label = f"{task} {name}"
            cpu[label] = cpu.get(label, 0.0) + spent[name] * 1e6 / count / 2
    bench.note(
        f"{count} queued, then done: {spread(rates['noop'])} plain tasks/s, {spread(rates['keyed'])} tasks/s over {groups} keys; "
        + ", ".join(f"{label} {value:.0f} us" for label, value in cpu.items())
    )
    return {
        "keyed_tasks_per_second": round(median(rates["keyed"])),
        "keyed_ratio": round(median(rates["keyed"]) / median(rates["noop"]), 3),
    }


def labelled(bench: Bench) -> Figures:
    """A fan-out to the one worker that has a label, without others and beside 1,000 workers that serve the same task and have others."""
    count, others = bench.scaled(20_000, 2_000), bench.scaled(1_000, 50)
    server = bench.server("labels")
    environment = server.client_environment()
    stack = Stack(server, bench.worker(environment, env=dict(FAST)), bench.client(environment))
    stack.client.call(do="warm", timeout=90)
    rates: dict[bool, list[float]] = {False: [], True: []}
    for is_crowded in (False, True, False, True):
        if not is_crowded:
            rates[False].append(_labelled_rate(stack, count))
            continue
        token = str(environment["BROADAXE_CLIENT_TOKEN"])
        crowd = Process(
            [PYTHON, "-m", "benchmarks.bare_workers", server.grpc_address, str(others), "labelled:labelled"],
            name="bare workers",
            directory=REPOSITORY,
            env={"BROADAXE_CLIENT_TOKEN": token},
        )
        with closing(crowd):
            crowd.wait_for_line("connected", timeout=60)
            rates[True].append(_labelled_rate(stack, count))
    bench.note(
        f"fan-out of {count} to one labelled worker: {spread(rates[False])} tasks/s alone, {spread(rates[True])} beside {others} workers"
    )
    for part in (stack.client, stack.worker, stack.server):
        part.close()
    return {"thousand_workers_ratio": round(median(rates[True]) / median(rates[False]), 3)}


def _labelled_rate(stack: Stack, count: int) -> float:
    answer = stack.client.call(do="fanout", count=count, task="labelled", timeout=200)
    return count / float(answer["seconds"])


def _set_paused(stack: Stack, *, is_paused: bool) -> None:
    rest = Rest(stack.server.http_url, stack.server.token)
    try:
        for row in rest.get(f"tenants/{rest.tenant}/worker")["rows"]:
            if row["status"] != "INACTIVE":
                rest.patch(f"workers/{row['metadata']['id']}", {"isPaused": is_paused})
    finally:
        rest.close()
