"""Idempotency collisions as clients learn of them: an exact text, and details within the call's trailing metadata (behaviour-core 4.6).

Details are a `google.rpc.Status`, of which three fields are written here by hand: its Python class is a package that nothing else needs.
"""

import logging

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from broadaxe.wire.v1 import workflows_pb2 as wire
from broadaxe_actors.errors import Refused
from broadaxe_actors.messages import IdempotencyCollision, IdempotencyCollisions

logger = logging.getLogger("broadaxe.grpc")

COLLISION_TEXT = "idempotency key collision"
"""Official clients compare it literally; any other ALREADY_EXISTS they take for something else."""
DETAILS_KEY = "grpc-status-details-bin"
MAX_DETAILS_BYTES = 7 * 1024
"""Clients need not take more than 8 KiB of metadata, and drop all of it, details included, beyond what they take."""
# Our classes carry a package of our own; on the wire the messages go by the contract's names.
_TYPE_URL = "type.googleapis.com/v1."


def for_one(refusal: Refused) -> Refused:
    """The refusal of a trigger of one run, its collision in the form for one."""
    detail = collisions_of(refusal.detail)
    return refusal if detail is None else Refused(refusal.code, COLLISION_TEXT, detail.collisions[0])


def for_bulk(refusal: Refused) -> Refused:
    """The refusal of a bulk trigger, its collisions in the form for many."""
    detail = collisions_of(refusal.detail)
    return refusal if detail is None else Refused(refusal.code, COLLISION_TEXT, detail)


def collisions_of(detail: object) -> IdempotencyCollisions | None:
    """The detail of a refusal as many collisions, None for any other."""
    if isinstance(detail, IdempotencyCollision):
        return IdempotencyCollisions((), (detail,))
    return detail if isinstance(detail, IdempotencyCollisions) else None


def trailer_of(detail: object, code: int, text: str) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata that tells `detail`; empty for a detail that clients do not know. `code` and `text` are the call's own."""
    if isinstance(detail, IdempotencyCollision):
        return ((DETAILS_KEY, _status(code, text, _collision(detail))),)
    if isinstance(detail, IdempotencyCollisions):
        return ((DETAILS_KEY, _many(code, text, detail)),)
    return ()


def _many(code: int, text: str, detail: IdempotencyCollisions) -> bytes:
    """As much of the details as clients take; what is over is cut from both lists alike, and logged."""
    created, collisions = detail.created_run_ids, detail.collisions
    while True:
        status = _status(
            code,
            text,
            wire.BulkTriggerIdempotencyCollisionError(
                successful_workflow_run_external_ids=created,
                collisions=[_collision(collision) for collision in collisions],
            ),
        )
        if len(status) <= MAX_DETAILS_BYTES:
            break
        share = MAX_DETAILS_BYTES / len(status)
        created = created[: int(len(created) * share)]
        collisions = collisions[: int(len(collisions) * share)]
    if len(created) < len(detail.created_run_ids) or len(collisions) < len(detail.collisions):
        logger.warning(
            "a bulk trigger is told of %d of %d runs created and of %d of %d collisions of idempotency keys: "
            "a call's status has no room for more; trigger fewer runs at once",
            len(created),
            len(detail.created_run_ids),
            len(collisions),
            len(detail.collisions),
        )
    return status


def _collision(collision: IdempotencyCollision) -> wire.IdempotencyCollisionError:
    return wire.IdempotencyCollisionError(
        existing_run_external_id=collision.existing_run_id,
        colliding_run_external_id=collision.colliding_run_id,
    )


def _status(code: int, text: str, detail: Message) -> bytes:
    packed = Any(type_url=_TYPE_URL + detail.DESCRIPTOR.name, value=detail.SerializeToString())
    return b"\x08" + _varint(code) + _field(2, text.encode()) + _field(3, packed.SerializeToString())


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes or text, as protobuf writes it."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
