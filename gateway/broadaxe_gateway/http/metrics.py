"""Metrics in Prometheus' text format, under the documented `hatchet_*` names. Reads the engine's telemetry; keeps nothing.

The engine counts by short name and tenant. Here each count becomes a series with `tenant_id`, and their sum the series of the whole engine. Some
documented counters lack the suffix `_total`, which the client library always puts on a counter; those are declared untyped, and `rate()` works
on them all the same. Where two documents have two names for a series of the engine, it has both.
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


class Gauges(Protocol):
    """What a tenant has just now; see `broadaxe_actors.telemetry`."""

    @property
    def workers(self) -> Sequence[tuple[str, str, int, int]]: ...

    @property
    def label_slots(self) -> Sequence[tuple[str, str, str, int, int]]: ...

    @property
    def queues(self) -> Sequence[tuple[str, str, int]]: ...

    @property
    def queued_metadata(self) -> Sequence[tuple[str, str, str, int]]: ...


class Telemetry(Protocol):
    """What the engine counts; see `broadaxe_actors.telemetry`."""

    @property
    def counters(self) -> Mapping[str, Mapping[str, int]]: ...

    @property
    def queue_seconds(self) -> Mapping[tuple[str, str], HistogramCounts]: ...

    @property
    def durations_ms(self) -> Mapping[tuple[str, str, str], HistogramCounts]: ...

    @property
    def gauges(self) -> Mapping[str, Gauges]: ...


TelemetrySource = Callable[[str | None], Awaitable[Telemetry]]
"""Called once an exposition, with the tenant or None for all, so that the engine may refresh what it does not count as it goes."""


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

ENGINE_QUEUE_TIMES = ("hatchet_queued_to_assigned_seconds", "hatchet_queued_to_assigned_time_seconds")
TENANT_QUEUE_TIME = "hatchet_tenant_queued_to_assigned_time_seconds"
TENANT_DURATION = "hatchet_tenant_workflow_duration_milliseconds"
QUEUE_TIME_HELP = "Seconds spent in the queue before being assigned"
QUEUED_HELP = "Unique tasks that were queued and later assigned"


class EngineCollector(Collector):
    """The engine's telemetry as metrics: of one tenant, or of all and of the engine as a whole."""

    def __init__(self, telemetry: Telemetry, tenant_id: str | None = None) -> None:
        self._telemetry = telemetry
        self._tenant_id = tenant_id

    def collect(self) -> Iterable[Metric]:
        for counted in COUNTERS:
            by_tenant = self._telemetry.counters.get(counted.name, {})
            if self._tenant_id is None:
                yield from _engine_counter(counted, sum(by_tenant.values()))
            base = f"hatchet_tenant_{counted.name}"
            tenant = Metric(base, counted.help, "counter" if counted.tenant_suffix else "unknown")
            for tenant_id, count in by_tenant.items():
                if self._shows(tenant_id):
                    tenant.add_sample(base + counted.tenant_suffix, {"tenant_id": tenant_id}, count)
            yield tenant
        yield from self._queue_times()
        yield self._durations()
        yield from _gauges(
            {
                tenant_id: gauges
                for tenant_id, gauges in self._telemetry.gauges.items()
                if self._shows(tenant_id)
            }
        )

    def _shows(self, tenant_id: str) -> bool:
        return self._tenant_id is None or tenant_id == self._tenant_id

    def _queue_times(self) -> Iterable[Metric]:
        by_workflow = Metric(f"{TENANT_QUEUE_TIME}_by_workflow", QUEUE_TIME_HELP, "histogram")
        counts = Metric("hatchet_tenant_queued_to_assigned_by_workflow", QUEUED_HELP, "unknown")
        by_tenant: dict[str, _Sum] = {}
        total = _Sum()
        for (tenant_id, workflow), times in self._telemetry.queue_seconds.items():
            total.add(times)
            if self._shows(tenant_id):
                by_tenant.setdefault(tenant_id, _Sum()).add(times)
                labels = {"tenant_id": tenant_id, "workflow_name": workflow}
                _add_histogram(by_workflow, labels, times)
                counts.add_sample(counts.name, labels, sum(times.counts))
        if self._tenant_id is None:
            for name in ENGINE_QUEUE_TIMES:
                engine = Metric(name, QUEUE_TIME_HELP, "histogram")
                if total.counts:
                    _add_histogram(engine, {}, total)
                yield engine
        tenant = Metric(TENANT_QUEUE_TIME, QUEUE_TIME_HELP, "histogram")
        for tenant_id, summed in by_tenant.items():
            _add_histogram(tenant, {"tenant_id": tenant_id}, summed)
        yield from (tenant, by_workflow, counts)

    def _durations(self) -> Metric:
        duration = Metric(TENANT_DURATION, "Milliseconds from the creation of a run to its end", "histogram")
        for (tenant_id, workflow, status), times in self._telemetry.durations_ms.items():
            if self._shows(tenant_id):
                labels = {"tenant_id": tenant_id, "workflow_name": workflow, "status": status}
                _add_histogram(duration, labels, times)
        return duration


def _engine_counter(counted: Counted, value: int) -> Iterable[Metric]:
    name = f"hatchet_{counted.name}"
    engine = Metric(name, counted.help, "counter")
    engine.add_sample(f"{name}_total", {}, value)
    yield engine
    if not counted.tenant_suffix:
        other = Metric(name, counted.help, "unknown")
        other.add_sample(name, {}, value)
        yield other


class _Sum:
    """Histograms of the same bounds, added up."""

    def __init__(self) -> None:
        self.bounds: tuple[float, ...] = ()
        self.counts: list[int] = []
        self.total = 0.0

    def add(self, other: HistogramCounts) -> None:
        if not self.counts:
            self.bounds, self.counts = other.bounds, [0] * len(other.counts)
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


def _add_histogram(metric: Metric, labels: dict[str, str], times: HistogramCounts) -> None:
    uppers = [*(repr(float(bound)) for bound in times.bounds), "+Inf"]
    cumulated = list(accumulate(times.counts))
    for upper, count in zip(uppers, cumulated, strict=True):
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": upper}, count)
    metric.add_sample(f"{metric.name}_count", labels, cumulated[-1])
    metric.add_sample(f"{metric.name}_sum", labels, times.total)


def _gauges(by_tenant: Mapping[str, Gauges]) -> Iterable[Metric]:
    workers = _SlotMetrics("worker_slots", "Slots of a connected worker")
    labels = _SlotMetrics("worker_label_slots", "Slots of the connected workers with a label")
    queue = Metric("hatchet_tenant_queue_size", "Tasks queued", "gauge")
    metadata = Metric(
        "hatchet_tenant_additional_metadata_queue_size", "Tasks queued with a key and value", "gauge"
    )
    for tenant_id, gauges in by_tenant.items():
        tenant = {"tenant_id": tenant_id}
        for worker_id, name, total, used in gauges.workers:
            workers.add({**tenant, "worker_id": worker_id, "worker_name": name}, total, used)
        for key, value, pool, total, used in gauges.label_slots:
            labels.add({**tenant, "label_key": key, "label_value": value, "slot_type": pool}, total, used)
        for name, workflow, size in gauges.queues:
            queue.add_sample(queue.name, {**tenant, "queue": name, "workflow_name": workflow}, size)
        for name, key, value, size in gauges.queued_metadata:
            metadata.add_sample(metadata.name, {**tenant, "queue": name, "key": key, "value": value}, size)
    yield from (*workers.metrics, *labels.metrics, queue, metadata)


class _SlotMetrics:
    """Slots in all, in use and free, by the same labels."""

    def __init__(self, name: str, what: str) -> None:
        self.metrics = tuple(
            Metric(f"hatchet_tenant_{state}{name}", f"{what}{suffix}", "gauge")
            for state, suffix in (("", ""), ("used_", ": in use"), ("available_", ": free"))
        )

    def add(self, labels: dict[str, str], total: int, used: int) -> None:
        for metric, value in zip(self.metrics, (total, used, max(0, total - used)), strict=True):
            metric.add_sample(metric.name, labels, value)


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


def exposition(*collectors: Collector) -> Response:
    """What collectors have, as text. Read on the loop, to which their figures belong; it takes microseconds a series."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return Response(generate_latest(registry), HTTPStatus.OK, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def metrics_router(telemetry: TelemetrySource, gateway: GatewaySource, path: str) -> APIRouter:
    """The exposition at `path`."""
    router = APIRouter()

    @router.get(path)
    async def metrics() -> Response:
        return exposition(EngineCollector(await telemetry(None)), GatewayCollector(gateway()))

    return router


def create_metrics_app(telemetry: TelemetrySource, gateway: GatewaySource, path: str) -> FastAPI:
    """The application of the Prometheus port."""
    app = FastAPI(openapi_url=None)
    add_error_handlers(app)
    app.include_router(metrics_router(telemetry, gateway, path))
    return app
