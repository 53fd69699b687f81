"""The batched client stream, `broadaxe.v1.Engine/ClientStream`, and the fall back from it to the unary contract.

What is ready when a message can be written travels together; nothing waits to be joined by more. Triggers are not waited for one by
one: chunks follow each other up to `WINDOW_BYTES` unanswered. After a reconnect, triggers without an answer are repeated (the run ids
are ours, so the engine knows them again) and every awaited run is watched again. Log lines and stream chunks are not acknowledged.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import grpc
import grpc.aio

from broadaxe._config import Settings
from broadaxe._errors import (
    BroadaxeError,
    BulkTriggerIdempotencyCollisionError,
    ClientClosedError,
    RequestRefusedError,
    ServerUnavailableError,
)
from broadaxe._transport.base import (
    MESSAGE_MARGIN_BYTES,
    Gather,
    TriggerTicket,
    encode_runs,
    metadata_of,
    varint,
)
from broadaxe._transport.channel import open_channel, sdk_error, unavailable_text
from broadaxe._transport.collisions import by_place, collisions_of
from broadaxe._transport.duplex import Duplex
from broadaxe._transport.io import IoThread, io_thread
from broadaxe._transport.unary import UnaryCalls, UnaryRuns
from broadaxe._transport.waiting import Waiting
from broadaxe.wire import dispatcher_pb2, events_pb2, stream_pb2
from broadaxe.wire import workflows_pb2 as v0_pb2
from broadaxe.wire.v1 import workflows_pb2

log = logging.getLogger("broadaxe")

T = TypeVar("T")

CLIENT_STREAM = "/broadaxe.v1.Engine/ClientStream"
WINDOW_BYTES = 16 << 20
"""Triggers that may be unanswered at once; the rest waits here, not in the engine."""
WATCH_IDS_PER_MESSAGE = 20_000
UNCONFIRMED_LINES = 10_000
CLOSE_SECONDS = 5.0
"""How long `close` waits for what is queued to leave."""


class StreamTransport:
    """The transport of a client: batched where the server knows it, unary where not."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pid = os.getpid()
        self._io: IoThread = io_thread()
        self._metadata = metadata_of(settings.token)
        self._channel: grpc.aio.Channel | None = None
        self._unary: UnaryCalls | None = None
        self._runs: UnaryRuns | None = None
        """Set once the server has answered that it knows no batched stream."""
        self._duplex: Duplex | None = None
        self._is_closed = False
        self._next_request = 0
        self._unsent: deque[int] = deque()
        self._tickets: dict[int, TriggerTicket] = {}
        """Every trigger without an answer, by request number, in order."""
        self._sent: set[int] = set()
        """Requests that were on a stream before; there they are repeats."""
        self._window = 0
        self._waiting = Waiting()
        self._to_watch: list[str] = []
        self._to_unwatch: list[str] = []
        self._lines: deque[tuple[bytes, Future[None] | None]] = deque()
        """Encoded log lines and stream chunks, as fields of ClientUp; a future stands after the last of a call."""
        self._unconfirmed: deque[tuple[bytes, Future[None] | None]] | None = deque(maxlen=UNCONFIRMED_LINES)
        """Lines written before it is known that the server has the stream: a write ends before the server says UNIMPLEMENTED.
        None once it is known."""
        self._writing = 0
        """How many of `_lines` are in the message being written."""
        self._last_mark = 0
        self._marks: deque[tuple[int, Future[None]]] = deque()
        """Marks that the server has not answered, in order."""

    # ---- any thread

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            self._check_usable()
        except ClientClosedError:
            work.close()
            raise
        return self._io.submit(work)

    def post_trigger(self, ticket: TriggerTicket) -> None:
        self._check_usable()
        self._io.post(self._take_trigger, ticket)

    def post_watch(self, run_ids: Sequence[str], gather: Gather) -> None:
        self._check_usable()
        self._io.post(self._take_watch, run_ids, gather)

    def post_unwatch(self, run_ids: Sequence[str], gather: Gather) -> None:
        if not self._is_closed and self._pid == os.getpid():
            self._io.post(self._take_unwatch, run_ids, gather)

    def _check_usable(self) -> None:
        if self._is_closed:
            raise ClientClosedError("this client is closed: make a new Broadaxe()")
        if self._pid != os.getpid():
            raise ClientClosedError(
                f"this client connected in process {self._pid}, before process {os.getpid()} was forked from it; gRPC does not "
                "survive a fork: make the client in the child, or use it for the first time only there"
            )
        if self._io.is_current:
            raise RuntimeError("a blocking call of the client on its own io thread would never end")

    # ---- the loop: channel and plain calls

    @property
    def channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = open_channel(self._settings)
        return self._channel

    @property
    def unary(self) -> UnaryCalls:
        if self._unary is None:
            self._unary = UnaryCalls(self.channel, self._settings, self._metadata)
        return self._unary

    async def put_workflow(
        self, request: workflows_pb2.CreateWorkflowVersionRequest, *, patience_s: float | None = None
    ) -> tuple[str, ...]:
        return await self.unary.put_workflow(request, patience_s=patience_s)

    async def get_run_details(self, run_id: str) -> workflows_pb2.GetRunDetailsResponse:
        return await self.unary.get_run_details(run_id)

    async def cancel_tasks(self, request: workflows_pb2.CancelTasksRequest) -> list[str]:
        return await self.unary.cancel_tasks(request)

    async def replay_tasks(self, request: workflows_pb2.ReplayTasksRequest) -> list[str]:
        return await self.unary.replay_tasks(request)

    async def schedule_workflow(self, request: v0_pb2.ScheduleWorkflowRequest) -> v0_pb2.WorkflowVersion:
        return await self.unary.schedule_workflow(request)

    async def put_rate_limit(self, request: v0_pb2.PutRateLimitRequest) -> None:
        await self.unary.put_rate_limit(request)

    async def pause_rate_limit(self, request: v0_pb2.PauseRateLimitRequest) -> v0_pb2.PauseRateLimitResponse:
        return await self.unary.pause_rate_limit(request)

    async def push_events(self, events: Sequence[events_pb2.PushEventRequest]) -> list[events_pb2.Event]:
        return await self.unary.push_events(events)

    async def replay_event(self, request: events_pb2.ReplayEventRequest) -> events_pb2.Event:
        return await self.unary.replay_event(request)

    def subscribe_events(self, run_id: str) -> AsyncIterator[dispatcher_pb2.WorkflowEvent]:
        return self.unary.subscribe_events(run_id)

    async def trigger(self, runs: Sequence[stream_pb2.NewRun]) -> list[str]:
        tickets = [TriggerTicket(chunk) for chunk in encode_runs(runs, self._settings.max_send_bytes)]
        for ticket in tickets:
            self._take_trigger(ticket)
        return [run_id for ticket in tickets for run_id in await asyncio.wrap_future(ticket.ids)]

    async def result(self, run_id: str) -> stream_pb2.RunFinished:
        gather = Gather(1)
        self._take_watch((run_id,), gather)
        try:
            (finished,) = await asyncio.wrap_future(gather.future)
        finally:
            self._take_unwatch((run_id,), gather)
        assert isinstance(finished, stream_pb2.RunFinished)
        return finished

    async def put_logs(self, lines: Sequence[stream_pb2.LogLine]) -> None:
        if self._runs is not None:
            await self._runs.lines_sent()
            await self.unary.put_logs(lines)
        else:
            await self._send_lines([b"\x22" + _sized(line) for line in lines])

    async def put_stream(self, chunks: Sequence[stream_pb2.StreamChunk]) -> None:
        if self._runs is not None:
            await self._runs.lines_sent()
            await self.unary.put_stream(chunks)
        else:
            await self._send_lines([b"\x2a" + _sized(chunk) for chunk in chunks])

    async def confirm_lines(self) -> None:
        if self._runs is not None:
            return  # each was answered by itself
        reached: Future[None] = Future()
        self._last_mark += 1
        self._marks.append((self._last_mark, reached))
        self._lines.append((b"\x30" + varint(self._last_mark), None))
        self._wake()
        await asyncio.wrap_future(reached)

    def _reach(self, mark: int) -> None:
        while self._marks and self._marks[0][0] <= mark:
            _, reached = self._marks.popleft()
            if not reached.done():
                reached.set_result(None)

    async def _send_lines(self, encoded: list[bytes]) -> None:
        if not encoded:
            return
        sent: Future[None] = Future()
        self._lines.extend((raw, None) for raw in encoded[:-1])
        self._lines.append((encoded[-1], sent))
        self._wake()
        await asyncio.wrap_future(sent)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._pid == os.getpid():  # in a forked child there is nothing to close
            self._io.submit(self._close()).result()

    async def _close(self) -> None:
        pending = [ticket.ids for ticket in self._tickets.values()]
        pending += [sent for _, sent in self._lines if sent is not None]  # type: ignore[misc]
        if pending:
            await asyncio.wait([asyncio.wrap_future(future) for future in pending], timeout=CLOSE_SECONDS)
        if self._duplex is not None:
            await self._duplex.close()
        if self._runs is not None:
            await self._runs.close()
        self._fail_all(ClientClosedError("the client was closed while this was waiting for the server"))
        if self._channel is not None:
            await self._channel.close()

    # ---- the loop: triggers and watches

    def _take_trigger(self, ticket: TriggerTicket) -> None:
        if self._runs is not None:
            self._runs.trigger(ticket)
            return
        self._next_request += 1
        self._tickets[self._next_request] = ticket
        self._unsent.append(self._next_request)
        if ticket.gather is not None:
            self._waiting.add(ticket.chunk.run_ids, ticket.gather, ticket.offset)
        self._wake()

    def _take_watch(self, run_ids: Sequence[str], gather: Gather) -> None:
        if self._runs is not None:
            self._runs.watch(run_ids, gather)
            return
        self._waiting.add(run_ids, gather)
        self._to_watch.extend(run_ids)
        self._wake()

    def _take_unwatch(self, run_ids: Sequence[str], gather: Gather) -> None:
        if self._runs is not None:
            self._runs.unwatch(run_ids, gather)
            return
        idle = self._waiting.remove(run_ids, gather)
        if idle and self._duplex is not None:
            self._to_unwatch.extend(idle)
            self._duplex.wake()

    def _wake(self) -> None:
        if self._duplex is None:
            self._duplex = Duplex("the client stream", self, self._settings.connect_timeout_seconds)
        self._duplex.wake()

    # ---- Peer

    def open_call(self) -> Any:
        # What was on the stream before this one may be lost with it: nobody will say more of it.
        written = self._last_mark - sum(raw[0] == 0x30 for raw, _ in self._lines)
        self._reach(written)
        self._unsent = deque(self._tickets)
        self._window = 0
        self._writing = 0
        self._to_unwatch.clear()
        triggered = {
            run_id
            for ticket in self._tickets.values()
            if ticket.gather is not None
            for run_id in ticket.chunk.run_ids
        }
        self._to_watch = [run_id for run_id in self._waiting.ids() if run_id not in triggered]
        method = self.channel.stream_stream(
            CLIENT_STREAM, response_deserializer=stream_pb2.ClientDown.FromString
        )
        return method(metadata=self._metadata)

    def has_work(self) -> bool:
        return bool(self._tickets or self._waiting or self._lines or self._marks)

    def next_message(self) -> bytes | None:
        parts: list[bytes] = []
        room = self._settings.max_send_bytes - MESSAGE_MARGIN_BYTES
        while self._unsent and self._window < WINDOW_BYTES:
            number = self._unsent[0]
            ticket = self._tickets[number]
            size = len(ticket.chunk.body)
            if parts and size + 32 > room:
                return b"".join(parts)
            self._unsent.popleft()
            parts.extend(self._trigger_parts(number, ticket))
            self._sent.add(number)
            self._window += size
            room -= size + 32
        if self._to_watch or self._to_unwatch:
            parts.append(self._watch_part())
        self._writing = 0
        for raw, _ in self._lines:
            if parts and len(raw) > room:
                break
            parts.append(raw)
            room -= len(raw)
            self._writing += 1
        return b"".join(parts) if parts else None

    def _trigger_parts(self, number: int, ticket: TriggerTicket) -> tuple[bytes, bytes]:
        """One entry of ClientUp.triggers, joined by hand so that the runs are not encoded twice."""
        head = b"\x08" + varint(number)  # request
        if number in self._sent:
            head += b"\x18\x01"  # is_repeat
        if ticket.gather is not None:
            head += b"\x20\x01"  # watch
        return b"\x0a" + varint(len(head) + len(ticket.chunk.body)) + head, ticket.chunk.body

    def _watch_part(self) -> bytes:
        now, self._to_watch = (
            self._to_watch[:WATCH_IDS_PER_MESSAGE],
            self._to_watch[WATCH_IDS_PER_MESSAGE:],
        )
        gone, self._to_unwatch = (
            self._to_unwatch[:WATCH_IDS_PER_MESSAGE],
            self._to_unwatch[WATCH_IDS_PER_MESSAGE:],
        )
        return stream_pb2.ClientUp(watch_run_ids=now, unwatch_run_ids=gone).SerializeToString()

    def message_written(self) -> None:
        for _ in range(self._writing):
            raw, sent = self._lines.popleft()
            if self._unconfirmed is not None:
                self._unconfirmed.append((raw, None))
            if sent is not None and not sent.done():
                sent.set_result(None)
        self._writing = 0

    def received(self, message: stream_pb2.ClientDown) -> None:
        self._unconfirmed = None
        self._reach(message.mark)
        for reply in message.replies:
            self._on_reply(reply)
        deliver = self._waiting.deliver
        for finished in message.finished:
            deliver(finished.run_id, finished)

    def _on_reply(self, reply: stream_pb2.TriggerReply) -> None:
        ticket = self._tickets.pop(reply.request, None)
        if ticket is None:
            return  # answered on an earlier stream already
        self._sent.discard(reply.request)
        chunk, gather = ticket.chunk, ticket.gather
        was_full = self._window >= WINDOW_BYTES
        self._window -= len(chunk.body)
        if reply.refusal.collisions:
            self._on_collisions(ticket, collisions_of(reply.refusal))
        elif reply.HasField("refusal"):
            if gather is not None:
                self._waiting.remove(chunk.run_ids, gather)
            code = _code_name(reply.refusal.code)
            ticket.fail(RequestRefusedError(code, reply.refusal.message, "trigger"))
        else:
            run_ids = list(reply.run_ids)
            if gather is not None and run_ids != chunk.run_ids:
                self._follow_existing(ticket, gather, run_ids)
            if not ticket.ids.done():
                ticket.ids.set_result(run_ids)
        if was_full and self._unsent:
            self._wake()

    def _on_collisions(self, ticket: TriggerTicket, error: BulkTriggerIdempotencyCollisionError) -> None:
        """Some of these were not created. Who keeps collisions waits for the others."""
        chunk, gather = ticket.chunk, ticket.gather
        if gather is None or not gather.keeps_collisions:
            if gather is not None:
                self._waiting.remove(chunk.run_ids, gather)
            ticket.fail(error)
            return
        outcome = by_place(chunk.run_ids, error)
        self._waiting.remove(chunk.run_ids, gather)
        for index, run_id in outcome.created.items():
            self._waiting.add((run_id,), gather, ticket.offset + index)
            self._to_watch.append(run_id)
        for index, collision in outcome.collisions.items():
            gather.deliver(ticket.offset + index, collision)
        ticket.ids.set_exception(error)
        self._wake()

    def _follow_existing(self, ticket: TriggerTicket, gather: Gather, run_ids: list[str]) -> None:
        """Some of these were children that exist already, under other ids: wait for those instead."""
        for index, (chosen, existing) in enumerate(zip(ticket.chunk.run_ids, run_ids, strict=True)):
            if chosen != existing:
                self._waiting.remove((chosen,), gather)
                self._waiting.add((existing,), gather, ticket.offset + index)
                self._to_watch.append(existing)
        self._wake()

    def broken(self, error: grpc.aio.AioRpcError | None, away_seconds: float, *, was_connected: bool) -> bool:
        code = error.code() if error is not None else None
        if code is grpc.StatusCode.UNIMPLEMENTED:
            self.use_unary()
            return False
        if error is None or code in {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.UNKNOWN,
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        }:
            if away_seconds >= self._settings.connect_timeout_seconds:
                details = (error.details() if error else "") or "it ends our streams"
                self._give_up_triggers(details, away_seconds)
                if not was_connected:
                    self._fail_all(
                        ServerUnavailableError(unavailable_text("results", details, self._settings))
                    )
            return True
        self._fail_all(sdk_error(error, "client stream", self._settings))
        return True

    def _give_up_triggers(self, details: str, away_seconds: float) -> None:
        """Callers of triggers learn that the server is away; who waits for the result of a known run goes on waiting."""
        for number, ticket in list(self._tickets.items()):
            run_ids = ticket.chunk.run_ids if number in self._sent else []
            text = unavailable_text("trigger", details, self._settings)
            if run_ids:
                text += (
                    f" It has not answered for {away_seconds:.0f} s; whether it created the runs is not known"
                )
            if ticket.gather is not None:
                self._waiting.remove(ticket.chunk.run_ids, ticket.gather)
            ticket.fail(ServerUnavailableError(text, run_ids))
        self._tickets.clear()
        self._unsent.clear()
        self._sent.clear()

    def _fail_all(self, error: BroadaxeError) -> None:
        for ticket in self._tickets.values():
            ticket.fail(error)
        self._tickets.clear()
        self._unsent.clear()
        self._sent.clear()
        self._waiting.fail_all(error)
        for _, sent in self._lines:
            if sent is not None and not sent.done():
                sent.set_exception(error)
        self._lines.clear()
        self._reach(self._last_mark)

    # ---- the unary contract

    def use_unary(self) -> None:
        """The server is known to have no batched stream. On the loop."""
        if self._runs is None:
            self._fall_back()

    def _fall_back(self) -> None:
        log.info("the server at %s has no batched stream: using unary calls", self._settings.host_port)
        self._runs = UnaryRuns(self.unary, self._waiting)
        tickets, self._tickets = self._tickets, {}
        self._unsent.clear()
        for ticket in tickets.values():
            if ticket.gather is not None:
                self._waiting.remove(ticket.chunk.run_ids, ticket.gather)
            self._runs.trigger(ticket)
        self._runs.resume()
        self._reach(self._last_mark)
        lines = (*(self._unconfirmed or ()), *self._lines)
        self._lines.clear()
        if lines:
            self._runs.send_lines(lines)


def _sized(message: Any) -> bytes:
    raw: bytes = message.SerializeToString()
    return varint(len(raw)) + raw


def _code_name(number: int) -> str:
    for code in grpc.StatusCode:
        if code.value[0] == number:
            return str(code.name)
    return f"CODE_{number}"
