"""Metrics in Prometheus' text format, under the documented `hatchet_*` names. Reads the engine's telemetry; keeps nothing.

The engine counts by short name and tenant. Here each count becomes a series with `tenant_id`, and their sum the series of the whole engine. Some
documented counters lack the suffix `_total`, which the client library always puts on a counter; those are declared untyped, and `rate()` works
on them all the same.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from fastapi import APIRouter, FastAPI, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from broadaxe_gateway.http.errors import add_error_handlers


class HistogramCounts(Protocol):
    """Observations by bucket; `counts` has one more than `bounds`, for what lies above all of them."""

    @property
    def bounds(self) -> tuple[float, ...]: ...

    @property
    def counts(self) -> list[int]: ...

    @property
    def total(self) -> float: ...


class Telemetry(Protocol):
    """What the engine counts; see `broadaxe_actors.telemetry`."""

    @property
    def counters(self) -> Mapping[str, Mapping[str, int]]: ...

    @property
    def queue_seconds(self) -> Mapping[str, HistogramCounts]: ...

    @property
    def durations_ms(self) -> Mapping[tuple[str, str, str], HistogramCounts]: ...

    @property
    def slots(self) -> Mapping[str, tuple[int, int]]: ...


TelemetrySource = Callable[[], Awaitable[Telemetry]]
"""Called once an exposition, so that the engine may refresh what it does not count as it goes."""


GatewayFigures = Mapping[tuple[Any, ...], float]
"""The gateway's own: (name, tenant or None, (label, value)...) to value; names that end in `_total` are counters."""
GatewaySource = Callable[[], GatewayFigures]


class Counted(NamedTuple):
    """A documented counter: the engine's short name, the suffix of the tenant series, and what it counts."""

    name: str
    tenant_suffix: str
    help: str


COUNTERS: tuple[Counted, ...] = (
    Counted("queue_invocations", "_total", "Times that a queue looked for work to hand out"),
    Counted("created_tasks", "_total", "Tasks created"),
    Counted("retried_tasks", "_total", "Tasks retried"),
    Counted("succeeded_tasks", "_total", "Tasks that succeeded"),
    Counted("failed_tasks", "_total", "Tasks that failed for good, retries not counted"),
    Counted("skipped_tasks", "_total", "Tasks skipped"),
    Counted("cancelled_tasks", "_total", "Tasks cancelled"),
    Counted("assigned_tasks", "", "Tasks assigned to a worker"),
    Counted("scheduling_timed_out", "", "Tasks that no worker took in time"),
    Counted("rate_limited", "", "Tasks held by a rate limit"),
    Counted("queued_to_assigned", "", "Unique tasks that were queued and later assigned"),
    Counted("reassigned_tasks", "", "Tasks taken from a lost worker and queued again"),
)

ENGINE_QUEUE_TIME = "hatchet_queued_to_assigned_seconds"
TENANT_QUEUE_TIME = "hatchet_tenant_queued_to_assigned_time_seconds"
TENANT_DURATION = "hatchet_tenant_workflow_duration_milliseconds"
QUEUE_TIME_HELP = "Seconds spent in the queue before being assigned"


class EngineCollector(Collector):
    """The engine's telemetry as metrics."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterable[Metric]:
        telemetry = self._telemetry
        for counted in COUNTERS:
            by_tenant = telemetry.counters.get(counted.name, {})
            engine = Metric(f"hatchet_{counted.name}", counted.help, "counter")
            engine.add_sample(f"hatchet_{counted.name}_total", {}, sum(by_tenant.values()))
            yield engine
            base = f"hatchet_tenant_{counted.name}"
            tenant = Metric(base, counted.help, "counter" if counted.tenant_suffix else "unknown")
            for tenant_id, count in by_tenant.items():
                tenant.add_sample(base + counted.tenant_suffix, {"tenant_id": tenant_id}, count)
            yield tenant
        yield from _histograms(telemetry)
        yield from _slots(telemetry.slots)


def _histograms(telemetry: Telemetry) -> Iterable[Metric]:
    engine = Metric(ENGINE_QUEUE_TIME, QUEUE_TIME_HELP, "histogram")
    queue_times = list(telemetry.queue_seconds.values())
    if queue_times:
        _add_histogram(
            engine,
            {},
            queue_times[0].bounds,
            [sum(column) for column in zip(*(times.counts for times in queue_times), strict=True)],
            sum(times.total for times in queue_times),
        )
    yield engine
    tenant = Metric(TENANT_QUEUE_TIME, QUEUE_TIME_HELP, "histogram")
    for tenant_id, times in telemetry.queue_seconds.items():
        _add_histogram(tenant, {"tenant_id": tenant_id}, times.bounds, times.counts, times.total)
    yield tenant
    duration = Metric(TENANT_DURATION, "Milliseconds from the creation of a run to its end", "histogram")
    for (tenant_id, workflow, status), times in telemetry.durations_ms.items():
        labels = {"tenant_id": tenant_id, "workflow_name": workflow, "status": status}
        _add_histogram(duration, labels, times.bounds, times.counts, times.total)
    yield duration


def _add_histogram(
    metric: Metric, labels: dict[str, str], bounds: Sequence[float], counts: Sequence[int], total: float
) -> None:
    uppers = [*(repr(float(bound)) for bound in bounds), "+Inf"]
    cumulated = list(accumulate(counts))
    for upper, count in zip(uppers, cumulated, strict=True):
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": upper}, count)
    metric.add_sample(f"{metric.name}_count", labels, cumulated[-1])
    metric.add_sample(f"{metric.name}_sum", labels, total)


def _slots(slots: Mapping[str, tuple[int, int]]) -> Iterable[Metric]:
    total = Metric("hatchet_tenant_worker_slots", "Slots of connected workers", "gauge")
    used = Metric("hatchet_tenant_used_worker_slots", "Slots in use", "gauge")
    free = Metric("hatchet_tenant_available_worker_slots", "Slots free", "gauge")
    for tenant_id, (in_all, in_use) in slots.items():
        for metric, value in ((total, in_all), (used, in_use), (free, max(0, in_all - in_use))):
            metric.add_sample(metric.name, {"tenant_id": tenant_id}, value)
    yield from (total, used, free)


class GatewayCollector(Collector):
    """The gateway's own figures, under names that begin with `broadaxe_`."""

    def __init__(self, figures: GatewayFigures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        metrics: dict[str, Metric] = {}
        for (name, tenant_id, *pairs), value in self._figures.items():
            metric = metrics.get(name)
            if metric is None:
                kind = "counter" if name.endswith("_total") else "gauge"
                metric = metrics[name] = Metric(name.removesuffix("_total"), "Of the gateway", kind)
            labels = dict(pairs) if tenant_id is None else {"tenant_id": tenant_id, **dict(pairs)}
            metric.add_sample(name, labels, value)
        return metrics.values()


def metrics_router(telemetry: TelemetrySource, gateway: GatewaySource, path: str) -> APIRouter:
    """The exposition at `path`."""
    router = APIRouter()

    @router.get(path)
    async def metrics() -> Response:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(EngineCollector(await telemetry()))
        registry.register(GatewayCollector(gateway()))
        # Read on the loop, to which these figures belong; it takes microseconds a tenant.
        return Response(generate_latest(registry), HTTPStatus.OK, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router


def create_metrics_app(telemetry: TelemetrySource, gateway: GatewaySource, path: str) -> FastAPI:
    """The application of the Prometheus port."""
    app = FastAPI(openapi_url=None)
    add_error_handlers(app)
    app.include_router(metrics_router(telemetry, gateway, path))
    return app
