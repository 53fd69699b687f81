"""What it costs to dispatch a task run: `python benchmarks/dispatch_bench.py [--quick]`.

Prints a table, and as its last line one JSON object with microseconds a task run: to line up, to be matched with a slot, and to give the slot
back, while a backlog of constant length waits. It is processor time of the thread, the best of several rounds, so that other processes do
not count. `matcher` is the pure part; `actor` is `TenantQueue` with its outbox, without the runtime around it.

The shapes: one action and one demand at several backlogs; many lanes of one demand; many actions of one worker; workers that all have labels
of their own, wanted by task runs that must have a certain one, or would like to; a demand for each worker (HARD sticky); a rate limit
for each of many keys, which always has units.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle
from typing import NamedTuple

from broadaxe_actors.matching import Demand, DesiredLabel, Matcher, Proposal, Ready
from broadaxe_actors.runtime.testing import Probe, peer
from broadaxe_actors.tenant_queue import TenantQueue

ONE = (("default", 1),)
SLICE = 64
FLAT = 1.2
"""What a long backlog may cost to a short one."""


class Shape(NamedTuple):
    """What waits for whom."""

    demands: Sequence[Demand]
    lanes: int = 1
    workers: int = 1
    slots: int = 200
    has_labels: bool = False


def plain(actions: int = 1) -> list[Demand]:
    return [Demand(f"w{number}:t|default=1|", f"w{number}:t", ONE) for number in range(actions)]


def labelled(workers: int, *, required: bool) -> list[Demand]:
    """A demand for each worker's own label, and for any of a zone beside."""
    return [
        Demand(
            f"w0:t|label {number}",
            "w0:t",
            ONE,
            (DesiredLabel("name", number, required=required), DesiredLabel("zone", number % 3, weight=10)),
        )
        for number in range(workers)
    ]


def bound(workers: int) -> list[Demand]:
    return [Demand(f"w0:t|worker {number}", "w0:t", ONE, (), f"worker-{number}") for number in range(workers)]


def limited(keys: int) -> list[Demand]:
    return [
        Demand(f"w0:t|limit {number}", "w0:t", ONE, limits=((f"user-{number}", 1), ("all", 1)))
        for number in range(keys)
    ]


def items_of(shape: Shape) -> Iterator[Ready]:
    """Task runs without end: lanes and demands in turn."""
    lanes = cycle([str(number) if shape.lanes > 1 else "" for number in range(shape.lanes)])
    demands = cycle(shape.demands)
    for number in count():
        yield Ready(str(number), 0, next(demands), next(lanes), 1, number, None)


def matcher_of(shape: Shape) -> Matcher:
    matcher = Matcher()
    actions = frozenset(demand.action for demand in shape.demands)
    for number in range(shape.workers):
        labels = (("name", number), ("zone", number % 3)) if shape.has_labels else ()
        matcher.put_worker(f"worker-{number}", actions, {"default": shape.slots}, labels)
        matcher.set_open(f"worker-{number}", is_open=True)
    return matcher


def grant(matcher: Matcher) -> None:
    """Buckets that always have units."""
    if matcher.has_news:
        for key, units in matcher.wanted():
            matcher.grant(key, units)
        matcher.unneeded()


def by_matcher(shape: Shape, queued: int, tasks: int) -> float:
    """Seconds a task run of the matcher, over so many that come."""
    matcher = matcher_of(shape)
    items = items_of(shape)
    for _ in range(queued):
        matcher.push(next(items))
    coming = [next(items) for _ in range(tasks)]
    held: list[Proposal] = []
    served = 0
    more = SLICE
    started = time.thread_time()
    while served + more <= tasks:
        for item in coming[served : served + more]:
            matcher.push(item)
        while len(held) < SLICE:
            held += matcher.match(SLICE - len(held))
            grant(matcher)
            if not matcher.can_match():
                break
        for proposal in held:
            matcher.release(proposal.worker_id, proposal.task_run_id, proposal.attempt)
        more = len(held)
        served += more
        held.clear()
    return (time.thread_time() - started) / served


def by_actor(shape: Shape, queued: int, tasks: int) -> float:
    """Seconds a task run of the actor, over so many that come."""
    probe = Probe(TenantQueue)
    probe.call("connect", peer("tracker"))
    matcher = probe.actor._matcher = matcher_of(shape)  # noqa: SLF001 - to fill it without messages
    items = items_of(shape)
    for _ in range(queued):
        matcher.push(next(items))
    coming = [next(items) for _ in range(tasks)]
    served = 0
    started = time.thread_time()
    for place in range(0, tasks, SLICE):
        probe.call("enqueue", coming[place : place + SLICE])
        for sent in probe.call("match").sends:
            if sent.method == "propose":
                freed = [(item.worker_id, item.task_run_id, item.attempt) for item in sent.args[0]]
                served += len(freed)
                probe.call("release", freed)
    return (time.thread_time() - started) / served


def microseconds(
    run: Callable[[Shape, int, int], float], shape: Shape, queued: int, tasks: int, rounds: int
) -> float:
    """The time of one task run: the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        gc.collect()
        gc.disable()
        best = min(best, run(shape, queued, tasks))
        gc.enable()
    return best * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less of everything: to see that it works")
    quick = parser.parse_args().quick
    many = 100 if quick else 1_000
    long = 20_000 if quick else 500_000
    tasks = SLICE * (10 if quick else 160)
    rounds = 1 if quick else 5
    one = Shape(plain())
    shapes = {
        "plain": (one, 1_000),
        f"plain, {long:,} queued": (one, long),
        f"{10 * many:,} lanes": (one._replace(lanes=10 * many), 20 * many),
        f"{many:,} actions of a worker": (Shape(plain(many)), 10 * many),
        f"{many:,} actions, 1 slot": (Shape(plain(many), slots=1), 10 * many),
        f"{many:,} workers": (one._replace(workers=many, slots=2), 1_000),
        f"{many:,} labelled workers, plain": (one._replace(workers=many, slots=2, has_labels=True), 1_000),
        f"{many:,} labels, required": (
            Shape(labelled(many, required=True), workers=many, slots=2, has_labels=True),
            2 * many,
        ),
        f"{many:,} labels, preferred": (
            Shape(labelled(many, required=False), workers=many, slots=2, has_labels=True),
            2 * many,
        ),
        f"{many:,} HARD demands": (Shape(bound(many), workers=many, slots=2), 2 * many),
        f"{many:,} rate limits": (Shape(limited(many)), 2 * many),
    }
    figures = {}
    for name, (shape, queued) in shapes.items():
        figures[f"matcher: {name}"] = microseconds(by_matcher, shape, queued, tasks, rounds)
    for name in list(shapes)[:3]:
        shape, queued = shapes[name]
        figures[f"actor: {name}"] = microseconds(by_actor, shape, queued, tasks, rounds)
    for name, figure in figures.items():
        print(f"{name:<42}{figure:>10,.2f} us")
    for kind in ("matcher", "actor"):
        ratio = figures[f"{kind}: plain, {long:,} queued"] / figures[f"{kind}: plain"]
        verdict = "flat" if ratio <= FLAT else "NOT FLAT"
        print(f"{kind}: {long:,} queued cost {ratio:.2f} times what 1,000 do ({verdict})")
    print(json.dumps({name: round(figure, 3) for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
