"""Answers to requests that carry a `request_id`. See the package."""

from typing import NamedTuple

from broadaxe_actors.errors import Code


class Reply(NamedTuple):
    request_id: int
    value: object


class IdempotencyCollision(NamedTuple):
    """Detail of an ALREADY_EXISTS: a run whose idempotency key another run holds was not created."""

    existing_run_id: str
    colliding_run_id: str


class IdempotencyCollisions(NamedTuple):
    """Detail of an ALREADY_EXISTS of a bulk trigger: the others were created."""

    created_run_ids: tuple[str, ...]
    collisions: tuple[IdempotencyCollision, ...]


class Refusal(NamedTuple):
    request_id: int
    code: Code
    message: str
    detail: IdempotencyCollision | IdempotencyCollisions | None = None
