"""What the actor runtime costs: `python benchmarks/runtime_bench.py [--quick]`.

Prints a table, and as its last line one JSON object. Sends are counted from the first to the last one handled. Three shapes
are measured, the slowest of which is the figure reported:

- ring: actors in lanes of their own pass messages on, one message a turn, through the outbox;
- fan: one actor sends to many in bursts of 100, through the outbox;
- outside: code that is no actor (the gateway) sends in bursts of 1,000.

Memory is growth of the process's resident size, handles included, after each actor has handled a message. It is told twice: when
a hundred messages waited at a time, and when one waited for every actor at once (what queues leave behind is in it).
"""

import argparse
import asyncio
import gc
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import psutil
import uvloop

from broadaxe_actors.runtime import Actor, Crash, Handle, Runtime

BARS = {
    "one_way_sends_per_second": 250_000,
    "bytes_per_actor_at_100k": 1_500,
    "stop_100k_seconds": 2.0,
}


class Link(Actor):
    """Passes a message on until its count is used up."""

    def __init__(self, done: Callable[[], None]) -> None:
        self.done = done
        self.next: Handle[Any] | None = None

    def connect(self, following: Handle[Any]) -> None:
        self.next = following

    def take(self, left: int) -> None:
        if left:
            assert self.next is not None
            self.next.take.send(left - 1)
        else:
            self.done()


class Fan(Actor):
    """Sends a burst to its sinks, then asks itself for the next one."""

    def __init__(self, sinks: list[Handle[Any]], done: Callable[[], None]) -> None:
        self.sinks = sinks
        self.done = done

    def burst(self, left: int) -> None:
        for sink in self.sinks:
            sink.take.send(left)
        if left:
            self.me.burst.send(left - 1)
        else:
            self.me.finish.send()

    def finish(self) -> None:
        self.done()


class Sink(Actor):
    """Counts what it gets."""

    def __init__(self) -> None:
        self.taken = 0

    def take(self, _value: int) -> None:
        self.taken += 1

    def total(self) -> int:
        return self.taken


def fail(crash: Crash) -> None:
    raise crash.error


async def ring(sends: int) -> float:
    runtime = Runtime(on_crash=fail)
    lanes, size = 10, 10
    left = lanes
    finished = asyncio.Event()

    def done() -> None:
        nonlocal left
        left -= 1
        if not left:
            finished.set()

    rings = [[runtime.spawn(Link, done, lane=f"tenant-{lane}") for _ in range(size)] for lane in range(lanes)]
    for links in rings:
        for link, following in zip(links, [*links[1:], links[0]], strict=True):
            await link.connect.remote(following)
    started = time.perf_counter()
    for links in rings:
        links[0].take.send(sends // lanes - 1)
    await finished.wait()
    seconds = time.perf_counter() - started
    await runtime.stop_all()
    return sends / seconds


async def fan(sends: int) -> float:
    runtime = Runtime(on_crash=fail)
    finished = asyncio.Event()
    sinks = [runtime.spawn(Sink, lane="tenant") for _ in range(100)]
    source = runtime.spawn(Fan, sinks, finished.set, lane="tenant")
    started = time.perf_counter()
    source.burst.send(sends // 100 - 1)
    await finished.wait()
    taken = sum([await sink.total.remote() for sink in sinks])
    seconds = time.perf_counter() - started
    assert taken == sends
    await runtime.stop_all()
    return sends / seconds


async def outside(sends: int) -> float:
    runtime = Runtime(on_crash=fail)
    sinks = [runtime.spawn(Sink, lane=f"tenant-{number % 10}") for number in range(100)]
    started = time.perf_counter()
    for _ in range(sends // 1_000):
        for sink in sinks:
            take = sink.take
            for value in range(10):
                take.send(value)
        await asyncio.sleep(0)
    taken = sum([await sink.total.remote() for sink in sinks])
    seconds = time.perf_counter() - started
    assert taken == sends
    await runtime.stop_all()
    return sends / seconds


class Population(NamedTuple):
    bytes_each: float
    bytes_each_after_burst: float
    spawn_seconds: float
    stop_seconds: float


async def population(actors: int) -> Population:
    runtime = Runtime(on_crash=fail)
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    started = time.perf_counter()
    handles = [runtime.spawn(Sink, lane=f"tenant-{number % 100}") for number in range(actors)]
    spawn_seconds = time.perf_counter() - started
    for index, handle in enumerate(handles):
        handle.take.send(1)
        if index % 100 == 0:
            await handle.total.remote()
    assert await handles[-1].total.remote() == 1
    gc.collect()
    each = (process.memory_info().rss - before) / actors
    for handle in handles:
        handle.take.send(1)
    assert sum([await handle.total.remote() for handle in handles]) == 2 * actors
    gc.collect()
    after_burst = (process.memory_info().rss - before) / actors
    assert runtime.count() == actors
    started = time.perf_counter()
    await runtime.stop_all()
    stop_seconds = time.perf_counter() - started
    assert runtime.count() == 0
    assert not any(handle.is_alive for handle in handles)
    return Population(each, after_burst, spawn_seconds, stop_seconds)


def measure(sends: int, actors: int, rounds: int) -> dict[str, float]:
    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return uvloop.run(coroutine)

    # Memory first: what other measurements free would be used again and hide growth.
    crowd = run(population(actors))
    shapes = {shape.__name__: max(run(shape(sends)) for _ in range(rounds)) for shape in (ring, fan, outside)}
    print(f"{'measure':<38}{'value':>14}")
    for name, value in shapes.items():
        print(f"{f'one-way sends/s, {name}':<38}{value:>14,.0f}")
    print(f"{f'bytes an actor at {actors:,} live':<38}{crowd.bytes_each:>14,.0f}")
    print(f"{'the same after a message to all':<38}{crowd.bytes_each_after_burst:>14,.0f}")
    print(f"{f'seconds to spawn {actors:,}':<38}{crowd.spawn_seconds:>14.3f}")
    print(f"{f'seconds to stop {actors:,}':<38}{crowd.stop_seconds:>14.3f}")
    return {
        "one_way_sends_per_second": round(min(shapes.values())),
        "bytes_per_actor_at_100k": round(crowd.bytes_each),
        "stop_100k_seconds": round(crowd.stop_seconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the sends, one round: to see that it works"
    )
    quick = parser.parse_args().quick
    figures = measure(sends=100_000 if quick else 1_000_000, actors=100_000, rounds=1 if quick else 3)
    for name, bar in BARS.items():
        met = figures[name] >= bar if name.endswith("per_second") else figures[name] <= bar
        print(f"{name}: {figures[name]:,} ({'meets' if met else 'MISSES'} the bar of {bar:,})")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
