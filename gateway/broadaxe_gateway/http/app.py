"""The HTTP application: its layers and routes, composed here. Nothing is built at import."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI

from broadaxe_gateway.config import ServerConfig
from broadaxe_gateway.http import openapi
from broadaxe_gateway.http.auth import People
from broadaxe_gateway.http.errors import add_error_handlers
from broadaxe_gateway.http.headers import SafeHeaders
from broadaxe_gateway.http.health import Readiness, health_router
from broadaxe_gateway.http.limits import BodyLimit
from broadaxe_gateway.http.metrics import GatewaySource, TelemetrySource, metrics_router
from broadaxe_gateway.http.rest import (
    api_tokens,
    crons,
    durable,
    entitlements,
    events,
    filters,
    limits,
    logs,
    members,
    meta,
    metrics,
    rate_limits,
    retired,
    runs,
    scheduled,
    tasks,
    tenants,
    users,
    workers,
    workflows,
)
from broadaxe_gateway.http.rest import webhooks as webhook_routes
from broadaxe_gateway.http.rest.dependencies import EngineLink
from broadaxe_gateway.http.rest.limits import resource_counts
from broadaxe_gateway.http.rest.reads import Reads
from broadaxe_gateway.http.rest.versions import FetchVersion, Versions
from broadaxe_gateway.http.throttle import Throttle
from broadaxe_gateway.retention import RetentionPeriods
from broadaxe_gateway.tokens import TokenService
from broadaxe_gateway.webhooks.deliveries import Deliveries
from broadaxe_gateway.webhooks.directory import WebhookDirectory

ROUTERS = (
    meta.router,
    users.router,
    tenants.router,
    members.router,
    api_tokens.router,
    runs.router,
    tasks.router,
    durable.router,
    entitlements.router,
    logs.router,
    metrics.router,
    workflows.router,
    workers.router,
    rate_limits.router,
    events.router,
    filters.router,
    crons.router,
    scheduled.router,
    webhook_routes.router,
    limits.router,
    retired.router,
)
"""What the OpenAPI document tells of."""


def create_app(
    *,
    hub: EngineLink,
    reads: Reads,
    fetch_version: FetchVersion,
    webhooks: WebhookDirectory,
    deliveries: Deliveries,
    fetch_retention_period: Callable[[str], Awaitable[int | None]],
    count_timers: Callable[[str], Awaitable[tuple[int, int]]],
    tokens: TokenService,
    people: People,
    telemetry: TelemetrySource,
    gateway_figures: GatewaySource,
    readiness: Readiness,
    config: ServerConfig,
    version: str,
) -> FastAPI:
    """The application of the HTTP port. Layers, outermost first: errors to answers, headers, body size, then per route who asks."""
    app = FastAPI(title="Broadaxe", version=version, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.hub = hub
    app.state.reads = reads
    app.state.versions = Versions(fetch_version)
    app.state.webhooks = webhooks
    app.state.deliveries = deliveries
    app.state.limits = config.limits
    app.state.retention_periods = RetentionPeriods(fetch_retention_period, config.retention)
    app.state.resource_counts = resource_counts(webhooks.count, count_timers)
    app.state.is_replay_enabled = config.is_replay_enabled
    app.state.tokens = tokens
    app.state.people = people
    app.state.throttle = Throttle(config.auth)
    app.state.telemetry = telemetry
    app.state.version = version
    add_error_handlers(app)
    # As large as a gRPC message may be: both carry the same payloads.
    app.add_middleware(BodyLimit, max_bytes=config.grpc.max_message_bytes)
    app.add_middleware(SafeHeaders)
    app.include_router(health_router(readiness), include_in_schema=False)
    app.include_router(
        metrics_router(telemetry, gateway_figures, config.prometheus.path), include_in_schema=False
    )
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app, ROUTERS, config.auth.cookie_name)
    return app
