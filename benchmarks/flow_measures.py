"""Measures of flow control and routing: what keys, labels and many workers cost beside plain tasks. As `measures`."""

from benchmarks import dispatch_bench
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


def fairness(bench: Bench) -> Figures:
    """Fifty groups of ten, alone and behind a group of 10,000: from the resume of the worker to the last result of the small groups.

    With one place a group, and with more than the worker has slots: there the lanes of the queue take turns. At the same time the large
    group takes one turn of 51, or one place of 100 slots.
    """
    large, groups, each = bench.scaled(10_000, 1_000), 50, 10
    stack = bench.stack()
    figures: Figures = {}
    for task, key in (("keyed", "fair_ratio"), ("keyed_wide", "fair_wide_ratio")):
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for is_beside in (False, True) * 3:
            _set_paused(stack, is_paused=True)
            if is_beside:
                stack.client.call(do="queue", count=large, task=task, name="large", timeout=100)
            stack.client.call(do="queue", count=groups * each, task=task, keys=groups, timeout=100)
            _set_paused(stack, is_paused=False)
            answer = stack.client.call(do="drain", last=groups * each, timeout=200)
            seconds[is_beside].append(float(answer["seconds"]))
            stack.client.call(do="drain", timeout=200)
        figures[key] = round(median(seconds[True]) / median(seconds[False]), 2)
        bench.note(
            f"{task}: {groups} groups of {each} in {spread(seconds[False], 3)} s alone, {spread(seconds[True], 3)} s behind a group of {large}"
        )
    return figures


def dispatch(bench: Bench) -> Figures:
    """Processor time of the queue actor a task, with 500,000 queued to with 1,000: see `dispatch_bench`."""
    long, tasks = bench.scaled(500_000, 20_000), bench.scaled(10_240, 640)
    shape = dispatch_bench.Shape(dispatch_bench.plain())
    short_us, long_us = (
        dispatch_bench.microseconds(dispatch_bench.by_actor, shape, queued, tasks, bench.scaled(5, 1))
        for queued in (1_000, long)
    )
    bench.note(f"the queue actor takes {short_us:.2f} us a task with 1,000 queued, {long_us:.2f} with {long}")
    return {"dispatch_ratio": round(long_us / short_us, 3)}


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
