"""Errors of the engine, one shallow tree.

EngineError
|-- Refused            the caller's mistake; carries a gRPC-style code and changes nothing
|   `-- InvalidDefinition
`-- EngineBug          ours: takes down the tenant's actors, which are rebuilt from the record
"""

from enum import IntEnum


class Code(IntEnum):
    """Why a request is refused; the numbers are gRPC status codes, so that the gateway maps by value."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class EngineError(Exception):
    """Base of everything that the engine raises."""


class Refused(EngineError):
    """A request that cannot be done as asked. Nothing has changed."""

    def __init__(self, code: Code, message: str, detail: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail


class InvalidDefinition(Refused):
    """A workflow definition that cannot be registered."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INVALID_ARGUMENT, message)


class EngineBug(EngineError):
    """A state that cannot be: the tenant's actors stop and are rebuilt from the record."""
