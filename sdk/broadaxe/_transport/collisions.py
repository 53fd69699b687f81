"""Idempotency collisions as servers tell them, and which runs of a bulk trigger they are about. Knows no connection.

The batched stream names them in its refusal, by the run ids that the client chose. The unary contract puts them into the details of the
gRPC status, by ids that the server chose: which entries they stand for is found by content.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

from broadaxe._errors import BulkTriggerIdempotencyCollisionError, IdempotencyCollisionError
from broadaxe.wire import stream_pb2
from broadaxe.wire.v1 import workflows_pb2

STATUS_DETAILS = "grpc-status-details-bin"
DETAILS_AT_ONCE = 32


class Outcome(NamedTuple):
    """What became of the runs of a trigger, by their places in it."""

    created: dict[int, str]
    collisions: dict[int, IdempotencyCollisionError]


def collisions_of(refusal: stream_pb2.Refusal) -> BulkTriggerIdempotencyCollisionError:
    """Those that a refusal of the batched stream names."""
    return BulkTriggerIdempotencyCollisionError(
        list(refusal.created_run_ids),
        [
            IdempotencyCollisionError(collision.existing_run_id, collision.colliding_run_id)
            for collision in refusal.collisions
        ],
    )


def collisions_in(
    trailing_metadata: Iterable[tuple[str, str | bytes]] | None,
) -> BulkTriggerIdempotencyCollisionError | None:
    """Those in the status of a failed unary call; None if it is about something else."""
    raw = dict(trailing_metadata or ()).get(STATUS_DETAILS)
    if not isinstance(raw, bytes):
        return None
    for detail in _Status.FromString(raw).details:
        name = detail.TypeName()
        if name == "v1.IdempotencyCollisionError":
            one = workflows_pb2.IdempotencyCollisionError.FromString(detail.value)
            return BulkTriggerIdempotencyCollisionError([], [_from_wire(one)])
        if name == "v1.BulkTriggerIdempotencyCollisionError":
            many = workflows_pb2.BulkTriggerIdempotencyCollisionError.FromString(detail.value)
            return BulkTriggerIdempotencyCollisionError(
                list(many.successful_workflow_run_external_ids), [_from_wire(one) for one in many.collisions]
            )
    return None


def _from_wire(wire: workflows_pb2.IdempotencyCollisionError) -> IdempotencyCollisionError:
    return IdempotencyCollisionError(wire.existing_run_external_id, wire.colliding_run_external_id)


def by_place(run_ids: Sequence[str], error: BulkTriggerIdempotencyCollisionError) -> Outcome:
    """For a server that uses the client's ids. A child that existed already has another id, in its place."""
    colliding = {collision.colliding_run_external_id: collision for collision in error.collisions}
    collisions = {index: colliding[run_id] for index, run_id in enumerate(run_ids) if run_id in colliding}
    rest = [index for index in range(len(run_ids)) if index not in collisions]
    return Outcome(dict(zip(rest, error.successful_workflow_run_external_ids, strict=False)), collisions)


async def by_content(
    runs: Sequence[stream_pb2.NewRun],
    error: BulkTriggerIdempotencyCollisionError,
    get_details: Callable[[str], Awaitable[workflows_pb2.GetRunDetailsResponse]],
) -> Outcome:
    """For a server that chose the ids: each created run stands for the first entry that has its input and metadata.

    Entries that are alike have the same key, so that it does not matter which of them is taken for the one that exists.
    """
    if len(runs) == len(error.collisions):
        return Outcome({}, dict(enumerate(error.collisions)))
    wanted = [(_json(run.input), _json(run.metadata)) for run in runs]
    open_places = list(range(len(runs)))
    free_calls = asyncio.Semaphore(DETAILS_AT_ONCE)

    async def details_of(run_id: str) -> workflows_pb2.GetRunDetailsResponse:
        async with free_calls:
            return await get_details(run_id)

    ids = error.successful_workflow_run_external_ids
    created: dict[int, str] = {}
    for run_id, details in zip(ids, await asyncio.gather(*map(details_of, ids)), strict=True):
        given, metadata = _json(details.input), _json(details.additional_metadata)
        place = next(
            (
                index
                for index in open_places
                if wanted[index][0] == given and _is_within(wanted[index][1], metadata)
            ),
            open_places[0],
        )
        open_places.remove(place)
        created[place] = run_id
    return Outcome(created, dict(zip(open_places, error.collisions, strict=False)))


def _json(raw: bytes) -> Any:
    return (json.loads(raw) if raw else None) or {}


def _is_within(part: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    """The server adds keys of its own to the metadata of a run."""
    return all(whole.get(key) == value for key, value in part.items())


def _make_status() -> Any:
    """`google.rpc.Status`, of which we need no more than the details: an import of its package for that would be one more."""
    file = descriptor_pb2.FileDescriptorProto(
        name="broadaxe/status_of_unary_calls.proto",
        package="broadaxe.status",
        syntax="proto3",
        dependency=[any_pb2.DESCRIPTOR.name],
    )
    field = descriptor_pb2.FieldDescriptorProto
    message = file.message_type.add(name="Status")
    message.field.add(name="code", number=1, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    message.field.add(name="message", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    message.field.add(
        name="details",
        number=3,
        type=field.TYPE_MESSAGE,
        type_name=".google.protobuf.Any",
        label=field.LABEL_REPEATED,
    )
    descriptor_pool.Default().Add(file)
    return message_factory.GetMessageClass(
        descriptor_pool.Default().FindMessageTypeByName("broadaxe.status.Status")
    )


_Status = _make_status()
