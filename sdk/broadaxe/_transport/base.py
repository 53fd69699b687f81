"""The seam under the client and the worker: what they ask of a server, whatever carries it.

Two implementations: `stream.StreamTransport` (batched, with the unary contract as its fallback), and whatever a test puts in its place.
Methods named `post_` may be called from any thread and do not wait: they answer through a `concurrent.futures.Future`. Coroutines run on
the transport's loop: `await` them there, or hand them to `submit`.
"""

from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import grpc.aio

from broadaxe._errors import IdempotencyCollisionError, PayloadTooLargeError
from broadaxe.wire import dispatcher_pb2, events_pb2, stream_pb2
from broadaxe.wire import workflows_pb2 as v0_pb2
from broadaxe.wire.v1 import workflows_pb2

T = TypeVar("T")

MAX_RUNS_PER_TRIGGER = 100
"""Runs in one trigger; the wire contract allows 1,000 in a call. A trigger commits as a whole: small ones let others commit in between."""
MESSAGE_MARGIN_BYTES = 64 << 10
"""Kept free in a message for what stands beside the runs."""


@dataclass(slots=True)
class RunChunk:
    """Runs to create together, all or none, already encoded.

    body: the serialized field `runs` of a `TriggerRuns`. Encoding happens on the caller's thread, once; what is
    sent, and sent again after a reconnect, is these bytes.
    """

    run_ids: list[str]
    body: bytes


class Gather:
    """Collects the results of some runs; `future` gives them in the order of the indexes, all at once.

    Lives on the transport's loop but for `future`. Waiting for 20,000 runs costs one future.
    """

    __slots__ = ("future", "keeps_collisions", "missing", "results")

    def __init__(self, count: int, keeps_collisions: bool = False) -> None:
        self.results: list[Any] = [None] * count
        self.missing = count
        self.keeps_collisions = keeps_collisions
        """A run that an idempotency key kept from being created has its error among the results; else that fails them all."""
        self.future: Future[list[Any]] = Future()
        if not count:
            self.future.set_result([])

    def deliver(self, index: int, finished: stream_pb2.RunFinished | IdempotencyCollisionError) -> None:
        if self.results[index] is None:
            self.results[index] = finished
            self.missing -= 1
            if not self.missing and not self.future.done():
                self.future.set_result(self.results)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(slots=True)
class TriggerTicket:
    """A chunk on its way. `ids` gives the run ids in order once the engine has committed them.

    With a `gather`, results of these runs are delivered into it, from `offset` on; a refusal then fails the gather as well.
    """

    chunk: RunChunk
    gather: Gather | None = None
    offset: int = 0
    ids: "Future[list[str]]" = field(default_factory=Future)

    def fail(self, error: BaseException) -> None:
        if not self.ids.done():
            self.ids.set_exception(error)
        if self.gather is not None:
            self.gather.fail(error)


class Transport(Protocol):
    """What the SDK asks of a server."""

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel, for the worker's own stream. Use it on the transport's loop only."""
        ...

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        ...

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine on the transport's loop."""
        ...

    def post_trigger(self, ticket: TriggerTicket) -> None:
        """Create runs. A ticket posted before leaves before."""
        ...

    def post_watch(self, run_ids: Sequence[str], gather: Gather) -> None:
        """Deliver the results of runs into `gather`, also of those that have ended long ago."""
        ...

    def post_unwatch(self, run_ids: Sequence[str], gather: Gather) -> None:
        """Nobody waits for these any more."""
        ...

    def use_unary(self) -> None:
        """The server is known to have no batched stream: do not try it. On the transport's loop.

        A worker learns it first; a log line written to a stream that turns out not to exist would be lost.
        """
        ...

    async def trigger(self, runs: Sequence[stream_pb2.NewRun]) -> list[str]:
        """Create runs, and return their ids in order after the commit."""
        ...

    async def result(self, run_id: str) -> stream_pb2.RunFinished:
        """Wait for the end of one run."""
        ...

    async def put_workflow(
        self, request: workflows_pb2.CreateWorkflowVersionRequest, *, patience_s: float | None = None
    ) -> tuple[str, ...]:
        """Register a workflow. Returns the features of it that the server stores and does not enforce yet.

        patience_s: for how long to ask a server that cannot be reached; `connect_timeout_seconds` if None.
        """
        ...

    async def get_run_details(self, run_id: str) -> workflows_pb2.GetRunDetailsResponse: ...

    async def cancel_tasks(self, request: workflows_pb2.CancelTasksRequest) -> list[str]:
        """Cancel runs and task runs. Returns the ids that the engine has acted on, after the commit."""
        ...

    async def replay_tasks(self, request: workflows_pb2.ReplayTasksRequest) -> list[str]:
        """Run ended runs and task runs again. Returns the ids that the engine has acted on, after the commit."""
        ...

    async def schedule_workflow(self, request: v0_pb2.ScheduleWorkflowRequest) -> v0_pb2.WorkflowVersion:
        """Have a workflow run later. Returns after the commit."""
        ...

    async def put_rate_limit(self, request: v0_pb2.PutRateLimitRequest) -> None:
        """Set a rate limit. Returns after the commit."""
        ...

    async def pause_rate_limit(
        self, request: v0_pb2.PauseRateLimitRequest
    ) -> v0_pb2.PauseRateLimitResponse: ...

    async def push_events(self, events: Sequence[events_pb2.PushEventRequest]) -> list[events_pb2.Event]: ...

    async def replay_event(self, request: events_pb2.ReplayEventRequest) -> events_pb2.Event:
        """Push an event of before once more."""
        ...

    async def put_logs(self, lines: Sequence[stream_pb2.LogLine]) -> None:
        """Returns when the lines have left; they are not acknowledged."""
        ...

    async def put_stream(self, chunks: Sequence[stream_pb2.StreamChunk]) -> None:
        """Returns when the chunks have left, in order; they are never stored."""
        ...

    async def confirm_lines(self) -> None:
        """Returns when the engine has got every line and chunk that left before, or will not get it."""
        ...

    def subscribe_events(self, run_id: str) -> AsyncIterator[dispatcher_pb2.WorkflowEvent]:
        """Events of a run from now on; ends with the run."""
        ...

    def close(self) -> None:
        """Send what is queued, close the channel, fail whoever still waits. From any other thread; may be called twice."""
        ...


def encode_runs(runs: Iterable[stream_pb2.NewRun], max_bytes: int) -> Iterator[RunChunk]:
    """Chunks of at most `MAX_RUNS_PER_TRIGGER` runs and `max_bytes`, each given as soon as it is full.

    Raises `PayloadTooLargeError` for a run that alone is larger.
    """
    limit = max_bytes - MESSAGE_MARGIN_BYTES
    ids: list[str] = []
    parts: list[bytes] = []
    size = 0
    for run in runs:
        raw = run.SerializeToString()
        length = len(raw)
        if length > limit:
            raise PayloadTooLargeError(
                f"a run of {run.workflow_name!r} takes {length:,} bytes on the wire (input {len(run.input):,}, metadata "
                f"{len(run.metadata):,}), more than the limit of {limit:,}: pass a reference to the data, or raise "
                "grpc_max_send_message_length here and SERVER_GRPC_MAX_MSG_SIZE at the server"
            )
        if ids and (len(ids) == MAX_RUNS_PER_TRIGGER or size + length + 6 > limit):
            yield RunChunk(ids, b"".join(parts))
            ids, parts, size = [], [], 0
        ids.append(run.run_id)
        # Field 2 of TriggerRuns, length-delimited: serialized messages may be joined, which saves a second copy of each run.
        if length < 128:
            parts.append(b"\x12" + _ONE_BYTE[length])
        else:
            parts.append(b"\x12" + varint(length))
        parts.append(raw)
        size += length + 6
    if ids:
        yield RunChunk(ids, b"".join(parts))


def varint(value: int) -> bytes:
    """A protobuf variable-length number."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_ONE_BYTE = [bytes((n,)) for n in range(128)]


def metadata_of(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"bearer {token}"),)
