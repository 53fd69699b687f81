"""Counters of the engine: what `/metrics` and task stats read, in constant time. Touches nothing.

Names are the documented ones without the `hatchet_` and `hatchet_tenant_` prefixes; a counter is kept by tenant, and its sum is the
global one.

    counter                     counts
    created_tasks               task runs created
    assigned_tasks              attempts given to a worker
    queued_to_assigned          task runs that went from the queue to a worker
    succeeded_tasks             task runs completed
    failed_tasks                task runs failed for good
    cancelled_tasks             task runs cancelled, schedule time-outs included
    skipped_tasks               task runs skipped
    retried_tasks               retries by the user's budget
    reassigned_tasks            retries by the engine's budget
    scheduling_timed_out        task runs that no worker took in time
    rate_limited                task runs held by a rate limit
    queue_invocations           times a queue looked for work to hand out

    histogram                               measures
    queued_to_assigned_time_seconds         time in the queue, by workflow
    workflow_duration_milliseconds          creation of a run to its end, by workflow and status

Gauges are read from the actors when somebody asks (`Shard.refresh_gauges`); nothing keeps them up to date in between.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import NamedTuple

QUEUE_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0)
"""The documented ones, and two more: what waits for long waits for minutes."""
DURATION_MS = (
    *(0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0),
    *(1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 1.8e6, 3.6e6, 1.08e7, 2.16e7, 4.32e7, 8.64e7),
)


class Histogram:
    """Counts by bucket, with sum. Buckets are upper bounds, as Prometheus has them."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class WorkerSlots(NamedTuple):
    """Slots of a connected worker, of all pools."""

    worker_id: str
    worker_name: str
    total: int
    used: int


class Gauges(NamedTuple):
    """What one tenant has just now."""

    workers: tuple[WorkerSlots, ...] = ()
    label_slots: tuple[tuple[str, str, str, int, int], ...] = ()
    """Label key, its value as text, slot pool, units of the workers with that label in all, and in use."""
    queues: tuple[tuple[str, str, int], ...] = ()
    """Queue, which is the action, workflow name, and task runs queued."""
    queued_metadata: tuple[tuple[str, str, str, int], ...] = ()
    """Queue, metadata key, value as text, and task runs queued."""


class Telemetry:
    """The counters of one shard, shared by its actors: written on the shard's loop alone."""

    def __init__(self) -> None:
        self.counters: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Counter name to tenant id to count."""
        self.queue_seconds: dict[tuple[str, str], Histogram] = {}
        """By tenant and workflow name."""
        self.durations_ms: dict[tuple[str, str, str], Histogram] = {}
        """By tenant, workflow name and final status."""
        self.gauges: dict[str, Gauges] = {}
        """By tenant."""

    def count(self, name: str, tenant_id: str, amount: int = 1) -> None:
        self.counters[name][tenant_id] += amount

    def observe_queue(self, tenant_id: str, workflow: str, seconds: float) -> None:
        key = (tenant_id, workflow)
        histogram = self.queue_seconds.get(key)
        if histogram is None:
            histogram = self.queue_seconds[key] = Histogram(QUEUE_SECONDS)
        histogram.observe(seconds)

    def observe_duration(self, tenant_id: str, workflow: str, status: str, ms: float) -> None:
        key = (tenant_id, workflow, status)
        histogram = self.durations_ms.get(key)
        if histogram is None:
            histogram = self.durations_ms[key] = Histogram(DURATION_MS)
        histogram.observe(ms)
