"""Errors to HTTP answers, in the shapes of the wire document (rest 0.3). Touches nothing but responses.

What a handler refuses is `{"errors": [{"description": ...}]}`; what happens before a handler runs (credentials, parsing, size) and
what nobody expected is `{"message": ...}`.
"""

import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from broadaxe_actors.errors import Code, Refused
from broadaxe_storage.errors import RefusedRecords, Unavailable

logger = logging.getLogger("broadaxe.http")

STATUS_OF_CODE: dict[Code, HTTPStatus] = {
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.ALREADY_EXISTS: HTTPStatus.BAD_REQUEST,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    Code.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}


class RequestRefused(Exception):
    """Ends a request before its handler runs, with a status and a message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class RouteRefused(Exception):
    """Ends a request in its handler, with a status and a description; `is_single` where the wire document has it without a list around it."""

    def __init__(self, status: HTTPStatus, description: str, *, is_single: bool = False) -> None:
        super().__init__(description)
        self.status = status
        self.description = description
        self.is_single = is_single


def refusal(status: HTTPStatus, description: str) -> JSONResponse:
    """APIErrors, as handlers answer."""
    return JSONResponse({"errors": [{"description": description}]}, status)


def message(status: HTTPStatus, text: str) -> JSONResponse:
    """The shape for what ended before a handler."""
    return JSONResponse({"message": text}, status)


def problems_text(problems: Iterable[Any]) -> str:
    """What a schema found wrong, each with its place."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in problems
    )


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of `app` in its shape."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return refusal(STATUS_OF_CODE[error.code], error.message)

    @app.exception_handler(Unavailable)
    async def unavailable(_: Request, error: Unavailable) -> JSONResponse:
        logger.warning("the record cannot be read: %s", error)
        return message(
            HTTPStatus.SERVICE_UNAVAILABLE, "the database cannot be reached at the moment: try again"
        )

    @app.exception_handler(RefusedRecords)
    async def not_storable(request: Request, error: RefusedRecords) -> JSONResponse:
        # Checks of the routes should have said which; what they have missed is the caller's mistake all the same.
        logger.warning("%s %r: %s", request.method, request.url.path, error)
        return message(HTTPStatus.BAD_REQUEST, "a value in this request is not one that can be stored")

    @app.exception_handler(RouteRefused)
    async def ended_in_route(_: Request, error: RouteRefused) -> JSONResponse:
        if error.is_single:
            return JSONResponse({"description": error.description}, error.status)
        return refusal(error.status, error.description)

    @app.exception_handler(RequestRefused)
    async def ended(_: Request, error: RequestRefused) -> JSONResponse:
        return message(error.status, error.message)

    _add_handlers_of_the_framework(app)


def _add_handlers_of_the_framework(app: FastAPI) -> None:
    """For what the framework raises, and for what nobody expected."""

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        return message(HTTPStatus.BAD_REQUEST, problems_text(error.errors()))

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == HTTPStatus.NOT_FOUND:
            return refusal(
                HTTPStatus.NOT_FOUND, f"{request.method} {request.url.path} is not available on this server"
            )
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "")
            answer = refusal(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{request.method} is not available for {request.url.path}, only {allowed}",
            )
            answer.headers["Allow"] = allowed
            return answer
        return message(HTTPStatus(error.status_code), str(error.detail))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %r failed", request.method, request.url.path, exc_info=error)
        return message(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error")
