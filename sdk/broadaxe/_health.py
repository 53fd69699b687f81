"""The worker's own HTTP server: `/health` for whoever restarts workers, `/metrics` for Prometheus.

Plain `http.server` in a daemon thread. Two loops are watched, the user's and the one that talks to the engine: a worker
whose loop has been blocked for longer than the threshold is not healthy.
"""

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Gauge, generate_latest

logger = logging.getLogger("broadaxe.worker")

TICK_S = 0.25


class LoopLag:
    """How late an event loop is, readable from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last = time.monotonic()
        self._is_stopped = False
        loop.call_soon_threadsafe(self._tick)

    def seconds(self) -> float:
        """Seconds for which the loop has not come round, beyond what it need not."""
        return max(0.0, time.monotonic() - self._last - TICK_S)

    def stop(self) -> None:
        self._is_stopped = True

    def _tick(self) -> None:
        self._last = time.monotonic()
        if not self._is_stopped:
            self._loop.call_later(TICK_S, self._tick)


class HealthServer:
    """Serves health and metrics until `stop`.

    is_healthy: asked on each request, from a thread of the server.
    """

    def __init__(
        self,
        worker_name: str,
        *,
        address: str,
        port: int,
        block_threshold_s: float,
        is_healthy: Callable[[], bool],
        lags: list[LoopLag],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._is_listener_healthy = is_healthy
        self._lags = lags
        self._block_threshold_s = block_threshold_s
        self._registry = registry
        self._gauges = _gauges(worker_name, self, registry)
        try:
            self._server = ThreadingHTTPServer((address, port), _handler(self))
        except OSError as error:
            self._unregister()
            raise OSError(
                error.errno,
                f"the worker's health server cannot listen on {address}:{port} ({error.strerror}); "
                "set BROADAXE_CLIENT_WORKER_HEALTHCHECK_PORT to a free port",
            ) from error
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="broadaxe-health", daemon=True
        )
        self._thread.start()
        logger.info("health server of worker %s listens on %s:%d", worker_name, address, self.port)

    def is_healthy(self) -> bool:
        """Connected, heard, and no loop blocked for longer than the threshold."""
        return self._is_listener_healthy() and self.lag_s() <= self._block_threshold_s

    def lag_s(self) -> float:
        """The lag of the later of the watched loops, in seconds."""
        return max((lag.seconds() for lag in self._lags), default=0.0)

    def metrics(self) -> bytes:
        return generate_latest(self._registry)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._unregister()
        for lag in self._lags:
            lag.stop()

    def _unregister(self) -> None:
        for gauge in self._gauges:
            self._registry.unregister(gauge)


def _gauges(worker_name: str, server: HealthServer, registry: CollectorRegistry) -> list[Gauge]:
    suffix = re.sub(r"[^a-zA-Z0-9_]", "_", worker_name)
    health = Gauge(
        f"hatchet_worker_listener_health_{suffix}",
        "Listener health (1 healthy, 0 unhealthy)",
        registry=registry,
    )
    health.set_function(lambda: float(server.is_healthy()))
    lag = Gauge(
        f"hatchet_worker_event_loop_lag_seconds_{suffix}",
        "Event loop lag in seconds",
        registry=registry,
    )
    lag.set_function(server.lag_s)
    return [health, lag]


def _handler(server: HealthServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/health":
                is_healthy = server.is_healthy()
                body = {"status": "HEALTHY" if is_healthy else "UNHEALTHY"}
                self._answer(
                    200 if is_healthy else 503,
                    "application/json",
                    json.dumps(body, separators=(",", ":")).encode(),
                )
            elif path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, server.metrics())
            else:
                self._answer(404, "text/plain", b"a worker serves /health and /metrics\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of http.server
            logger.debug(format, *args)

    return Handler
