"""Routes of earlier generations that clients still have, and no current feature of theirs calls (rest 14): each says what to use instead."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import APIRouter, Depends, Request, Response

from broadaxe_gateway.http.auth import authenticate
from broadaxe_gateway.http.errors import refusal

RUNS = "GET /api/v1/stable/tenants/{tenant}/workflow-runs and .../workflow-runs/{id}"
TASKS = "GET /api/v1/stable/tasks/{task}, .../task-events and .../logs"
MUTATIONS = "POST /api/v1/stable/tenants/{tenant}/tasks/cancel and .../tasks/replay"
EVENTS = "GET /api/v1/stable/tenants/{tenant}/events; events are pushed over gRPC"
WEBHOOKS = "/api/v1/stable/tenants/{tenant}/webhooks"
METRICS = "GET /api/v1/tenants/{tenant}/task-stats and GET /api/v1/stable/tenants/{tenant}/task-metrics"
T = "/tenants/{tenant}"

RETIRED: tuple[tuple[str, str, str], ...] = (
    ("GET", f"{T}/events", EVENTS),
    ("POST", f"{T}/events", EVENTS),
    ("POST", f"{T}/events/bulk", EVENTS),
    ("POST", f"{T}/events/replay", EVENTS),
    ("POST", f"{T}/events/cancel", EVENTS),
    ("GET", f"{T}/events/keys", EVENTS),
    ("GET", f"{T}/workflows/runs", RUNS),
    ("GET", f"{T}/workflows/runs/metrics", METRICS),
    ("POST", f"{T}/workflows/cancel", MUTATIONS),
    ("GET", f"{T}/workflow-runs/{{run}}", RUNS),
    ("GET", f"{T}/workflow-runs/{{run}}/shape", RUNS),
    ("GET", f"{T}/workflow-runs/{{run}}/input", RUNS),
    ("GET", f"{T}/workflow-runs/{{run}}/step-run-events", RUNS),
    ("POST", f"{T}/workflow-runs/replay", MUTATIONS),
    ("POST", "/workflows/{workflow}/trigger", "POST /api/v1/stable/tenants/{tenant}/workflow-runs/trigger"),
    ("GET", f"{T}/step-runs/{{step_run}}", TASKS),
    ("GET", f"{T}/step-runs/{{step_run}}/schema", TASKS),
    ("POST", f"{T}/step-runs/{{step_run}}/rerun", MUTATIONS),
    ("POST", f"{T}/step-runs/{{step_run}}/cancel", MUTATIONS),
    ("GET", "/step-runs/{step_run}/events", TASKS),
    ("GET", "/step-runs/{step_run}/archives", TASKS),
    ("GET", f"{T}/queue-metrics", METRICS),
    ("GET", f"{T}/webhook-workers", WEBHOOKS),
    ("POST", f"{T}/webhook-workers", WEBHOOKS),
    ("DELETE", "/webhook-workers/{webhook}", WEBHOOKS),
    ("GET", "/webhook-workers/{webhook}/requests", WEBHOOKS),
)
"""Method, path and what there is instead: answered with 400."""
BROKEN: tuple[tuple[str, str, str], ...] = (
    ("GET", "/workflows/{workflow}/metrics", METRICS),
    ("GET", f"{T}/workflows/{{workflow}}/worker-count", "GET /api/v1/tenants/{tenant}/worker"),
    ("GET", "/workflows/{workflow}/worker-count", "GET /api/v1/tenants/{tenant}/worker"),
)
"""Likewise, answered with 500."""

router = APIRouter(prefix="/api/v1", include_in_schema=False, dependencies=[Depends(authenticate)])


def _gone(status: HTTPStatus, instead: str) -> Callable[[Request], Awaitable[Response]]:
    async def tell(request: Request) -> Response:
        return refusal(
            status, f"{request.method} {request.url.path} is deprecated and does nothing; there is {instead}"
        )

    return tell


for routes, answered in ((RETIRED, HTTPStatus.BAD_REQUEST), (BROKEN, HTTPStatus.INTERNAL_SERVER_ERROR)):
    for method, path, alternative in routes:
        router.add_api_route(path, _gone(answered, alternative), methods=[method])
