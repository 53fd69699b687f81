"""Probes: is the process alive, may it be given work. Touches `Readiness` only.

`/live` and `/api/live` answer while the process does. `/ready` answers 503, and `/api/ready` 500 as the wire document has it, until the engine has
recovered, and again once it is stopping. `/health` says both in words.
"""

from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import JSONResponse

from broadaxe_gateway.http.errors import add_error_handlers


class Readiness:
    """Why the server may not be given work yet, or any more; None when it may."""

    def __init__(self) -> None:
        self.problem: str | None = "starting"


def health_router(readiness: Readiness) -> APIRouter:
    """The probes as routes, for the port of their own and for the HTTP port."""
    router = APIRouter()

    @router.get("/live")
    @router.get("/api/live")
    async def live() -> Response:
        return Response()

    @router.get("/ready")
    async def ready() -> Response:
        if readiness.problem is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": readiness.problem}, HTTPStatus.SERVICE_UNAVAILABLE)

    @router.get("/api/ready")
    async def api_ready() -> Response:
        status = HTTPStatus.OK if readiness.problem is None else HTTPStatus.INTERNAL_SERVER_ERROR
        return Response(status_code=status)

    @router.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok", "ready": readiness.problem is None, "detail": readiness.problem})

    return router


def create_health_app(readiness: Readiness) -> FastAPI:
    """The application of the health port."""
    app = FastAPI(openapi_url=None)
    add_error_handlers(app)
    app.include_router(health_router(readiness))
    return app


def create_starting_app(readiness: Readiness) -> FastAPI:
    """What the HTTP port serves until the engine has recovered: probes, and 503 for all else."""
    app = create_health_app(readiness)

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
    async def starting() -> JSONResponse:
        return JSONResponse(
            {"message": f"the server is not ready: {readiness.problem}"}, HTTPStatus.SERVICE_UNAVAILABLE
        )

    return app
