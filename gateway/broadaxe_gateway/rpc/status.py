"""Errors to gRPC status codes: one table, used by every call and stream.

May touch the engine's errors and grpc's codes only.
"""

import logging

import grpc

from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.tokens import Unauthenticated

logger = logging.getLogger("broadaxe.grpc")

UNAUTHENTICATED_TEXT = "the API token is missing, malformed, expired, revoked or not of this server"
INTERNAL_TEXT = "internal error: the server's log tells more"

STATUS_OF_CODE: dict[Code, grpc.StatusCode] = {
    Code.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Code.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Code.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


def status_of(error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
    """The code and text by which a caller of `method` learns of an error.

    An error that is nobody's refusal is ours: it is logged with its traceback, and the caller gets a fixed text.
    """
    if isinstance(error, Refused):
        return STATUS_OF_CODE[error.code], error.message
    if isinstance(error, Unauthenticated):
        # One text for every reason: it must not help who guesses.
        return grpc.StatusCode.UNAUTHENTICATED, UNAUTHENTICATED_TEXT
    logger.error("%s failed", method, exc_info=error)
    return grpc.StatusCode.INTERNAL, INTERNAL_TEXT


def refusal_of(error: BaseException, method: str) -> tuple[Code, str]:
    """The same for what is answered within a stream, as the engine's code."""
    if isinstance(error, Refused):
        return error.code, error.message
    logger.error("%s failed", method, exc_info=error)
    return Code.INTERNAL, INTERNAL_TEXT
