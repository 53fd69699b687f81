"""The OpenAPI document: what FastAPI tells of the routes, and what it cannot know: who may ask, and how errors look (rest 0.2, 0.3).

Pure. A route is public if nothing before it authenticates; the tests of authorisation compare those with a list.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from broadaxe_gateway.http.auth import authenticate, is_for_people
from broadaxe_gateway.http.forgery import HEADER

DESCRIPTION = """The REST API of a Broadaxe server.

Programs send an API token, people a session cookie. What changes something for a person needs the header `X-CSRF-Token` besides, with the
value of the cookie whose name ends in `_csrf`. Errors have one of three shapes, by where they arise: `{"message": ...}` before a route,
`{"errors": [{"description": ...}]}` or, rarely, `{"description": ...}` in it.
"""
PATH = "/api/v1/openapi.json"
BEARER, COOKIE, PROOF = "bearerAuth", "cookieAuth", "csrfToken"
_ERROR = "Error"
_TEXTS = {
    "400": "a parameter or the body is not what it must be, or the route refuses it",
    "401": "the credentials are good, and their role or kind may not do this",
    "403": "no valid credentials, those of another tenant, or a forged request",
    "404": "no such resource, as far as the caller may know",
    "405": "the settings of the server do not allow this",
    "413": "the body is too large",
    "429": "too many requests, or no room",
    "500": "an error of the server, whose log tells more",
    "501": "the engine has no such feature",
    "503": "the server is starting or stopping, or its database is away",
}
_ERROR_SCHEMA = {
    "title": _ERROR,
    "anyOf": [
        {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]},
        {
            "type": "object",
            "properties": {
                "errors": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"description": {"type": "string"}},
                        "required": ["description"],
                    },
                }
            },
            "required": ["errors"],
        },
        {"type": "object", "properties": {"description": {"type": "string"}}, "required": ["description"]},
    ],
}


def is_public(route: APIRoute) -> bool:
    return authenticate not in _calls(route.dependant)


def _calls(dependant: Dependant) -> Iterator[Any]:
    """Everything that runs before a route."""
    for inner in dependant.dependencies:
        yield inner.call
        yield from _calls(inner)


def routes_of(routers: Sequence[APIRouter]) -> list[APIRoute]:
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


def install(app: FastAPI, routers: Sequence[APIRouter], cookie_name: str) -> None:
    """Serve the completed document of all that `routers` have. It is made at the first look, in a thread: it takes half a second."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(app, routes_of(routers), cookie_name)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    making = asyncio.Lock()
    made: list[bytes] = []

    async def serve() -> Response:
        async with making:
            if not made:
                made.append(await asyncio.to_thread(lambda: json.dumps(document()).encode()))
        return Response(made[0], media_type="application/json")

    app.add_api_route(PATH, serve, include_in_schema=False)


def _complete(app: FastAPI, routes: Sequence[APIRoute], cookie_name: str) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas[_ERROR] = _ERROR_SCHEMA
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components["securitySchemes"] = {
        BEARER: {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "an API token: does all that its tenant's owner may, but for what people alone may",
        },
        COOKIE: {"type": "apiKey", "in": "cookie", "name": cookie_name, "description": "who is signed in"},
        PROOF: {
            "type": "apiKey",
            "in": "header",
            "name": HEADER,
            "description": "the proof against forged requests, beside the cookie",
        },
    }
    for route in (route for route in routes if route.include_in_schema):
        for method in route.methods or ():
            _complete_operation(found["paths"][route.path_format][method.lower()], route, method)
    return found


def _complete_operation(operation: dict[str, Any], route: APIRoute, method: str) -> None:
    calls = list(_calls(route.dependant))
    by_cookie: dict[str, list[str]] = {COOKIE: []} if method in ("GET", "HEAD") else {COOKIE: [], PROOF: []}
    if is_public(route):
        operation["security"] = []
    elif any(map(is_for_people, calls)):
        operation["security"] = [by_cookie]
    else:
        operation["security"] = [{BEARER: []}, by_cookie]
    responses = operation["responses"]
    responses.pop("422", None)
    statuses = {"500", "503"}
    if operation.get("parameters") or operation.get("requestBody"):
        statuses.add("400")
    if operation.get("requestBody"):
        statuses |= {"413"}
    if not is_public(route):
        statuses |= {"400", "401", "403", "404", "429", "501"}
    if is_public(route) and method != "GET":
        statuses |= {"400", "403", "405", "413", "429"}
    if is_public(route) and route.param_convertors:
        statuses.add("404")
    if route.path_format.startswith("/api/v1/users/"):
        statuses |= {"405", "429"}
    for status in sorted(statuses):
        responses.setdefault(
            status,
            {
                "description": _TEXTS[status],
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_ERROR}"}}},
            },
        )
