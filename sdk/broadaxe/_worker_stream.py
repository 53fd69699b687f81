"""The batched link of a worker: one stream on which every message carries as much as is ready.

Runs on the io loop. Assignments go to the runner a message at a time; reports leave one message per turn of the loop and are
kept until the engine says that they are committed. A worker that comes back tells what it holds and sends again what was
not acknowledged.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

import grpc

from broadaxe._transport.status import final_error
from broadaxe._worker_link import Attempt, Batch, Delivery, Key, Report, WorkerLink, runtime_info, wire_labels
from broadaxe.wire.stream_pb2 import HeldAttempt, Hello, StepInfo, TaskReport, WorkerDown, WorkerUp

PATH = "/broadaxe.v1.Engine/WorkerStream"
MESSAGE_BYTES = 1_000_000
"""A message is closed past this size; the limit of a server is 4 MB unless set otherwise."""
GOODBYE_S = 3.0
"""How long the engine may take to end the stream after a goodbye."""
REFUSAL_S = 0.05
"""How long a new stream waits for a server that does not know it to say so."""


class WorkerStream(WorkerLink):
    """A worker's link over `broadaxe.v1.Engine/WorkerStream`."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Any, **link: Any) -> None:
        super().__init__(**link)
        self._metadata = metadata
        self._open = channel.stream_stream(
            PATH, request_serializer=WorkerUp.SerializeToString, response_deserializer=WorkerDown.FromString
        )
        self._call: grpc.aio.StreamStreamCall[WorkerUp, WorkerDown] | None = None
        self._steps: dict[int, StepInfo] = {}
        self._report_batch = 0
        self._unacknowledged: deque[tuple[int, list[Report]]] = deque()
        self._received_batch = 0
        self._told_received_batch = 0
        self._was_welcomed = False
        self._is_paused = False
        self._is_pause_untold = False
        self._is_goodbye_due = False
        self._new_labels: dict[str, str | int] = {}
        self._labels_left: list[asyncio.Future[None]] = []

    async def pause(self) -> None:
        self._is_paused = True
        self._is_pause_untold = True
        self._something_to_send.set()

    async def upsert_labels(self, labels: Mapping[str, str | int]) -> None:
        """Returns when the message that carries them was written."""
        wire_labels(labels)
        self.registration.labels.update(labels)
        self._new_labels.update(labels)
        left = self._loop.create_future()
        self._labels_left.append(left)
        self._something_to_send.set()
        await left

    async def close(self) -> None:
        self._is_closing = True
        call = self._call
        if call is None:
            return
        self._is_goodbye_due = True
        self._something_to_send.set()
        try:
            async with asyncio.timeout(GOODBYE_S):
                await call.code()
        except TimeoutError:
            call.cancel()

    async def _session(self) -> None:
        call = self._open(metadata=self._metadata)
        ended = asyncio.ensure_future(call.code())
        try:
            if not self._was_welcomed:
                # A server that has no such stream ends it at once; a write into an ended stream would hide its answer.
                await asyncio.wait({ended}, timeout=REFUSAL_S)
            try:
                await call.write(WorkerUp(hello=self._hello(), paused=self._is_paused or None))
                first = await call.read()
            except (asyncio.InvalidStateError, grpc.aio.AioRpcError):  # it ended before it began
                first = grpc.aio.EOF
            if first is grpc.aio.EOF:
                await _raise_status(call)
                return
            if not first.HasField("welcome"):
                raise RuntimeError(
                    "the engine's first message on a worker stream has no welcome: versions do not match"
                )
            self._was_welcomed = True
            self._steps.clear()
            self._received_batch = self._told_received_batch = 0
            self._call = call
            self._welcome(first.welcome.worker_id)
            self._take_message(first)
            await self._exchange(call)
        finally:
            self._call = None
            call.cancel()
            await asyncio.wait({ended})

    async def _exchange(self, call: "grpc.aio.StreamStreamCall[WorkerUp, WorkerDown]") -> None:
        """Read and write until either ends; a status other than OK is raised."""
        reader = asyncio.create_task(self._read(call))
        writer = asyncio.create_task(self._write(call))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done() and self._is_closing:
                await asyncio.wait({reader}, timeout=GOODBYE_S)
        finally:
            reader.cancel()
            writer.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(
                result, grpc.aio.AioRpcError | asyncio.InvalidStateError
            ):
                raise result
        await _raise_status(call)

    def _hello(self) -> Hello:
        info = self.registration
        return Hello(
            worker_name=info.name,
            actions=list(info.tasks),
            slot_config=info.slot_config,
            labels=info.wire_labels(),
            runtime_info=runtime_info(),
            worker_id=self.worker_id,
            in_flight=[
                HeldAttempt(task_run_id=task_run_id, attempt=attempt) for task_run_id, attempt in self._held
            ],
        )

    # ---- down

    async def _read(self, call: "grpc.aio.StreamStreamCall[WorkerUp, WorkerDown]") -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            self._take_message(message)

    def _take_message(self, message: WorkerDown) -> None:
        for step in message.steps:
            step.action_id = step.action_id.lower()
            self._steps[step.ref] = step
        if message.committed_report_batch:
            self._take_commit(message.committed_report_batch)
        cancels: list[Key] = []
        for order in message.cancels:
            key = (order.task_run_id, order.attempt)
            self._take_cancel(key)
            cancels.append(key)
        starts: list[Attempt] = []
        for assignment in message.assignments:
            attempt = self._take(self._steps[assignment.step], assignment)
            if attempt is not None:
                starts.append(attempt)
        batches: list[Batch] = []
        for start in message.batches:
            members = [self._take(self._steps[member.step], member) for member in start.members]
            batches += self._take_batch(start.batch_id, start.batch_key, start.reason, members)
        if message.batch:
            self._received_batch = message.batch
            self._arm_sweep()
        if starts or cancels or batches:
            self._deliver(Delivery(starts, cancels, batches))

    def _take_commit(self, number: int) -> None:
        while self._unacknowledged and self._unacknowledged[0][0] <= number:
            for report in self._unacknowledged.popleft()[1]:
                self._committed(report)

    def _has_to_acknowledge(self) -> bool:
        return self._received_batch > self._told_received_batch

    # ---- up

    async def _write(self, call: "grpc.aio.StreamStreamCall[WorkerUp, WorkerDown]") -> None:
        for number, reports in list(self._unacknowledged):
            again = WorkerUp(report_batch=number)
            for report in reports:
                if self._is_wanted(report):
                    _add(again, report)
            await call.write(again)
        self._something_to_send.set()
        while True:
            await self._something_to_send.wait()
            self._something_to_send.clear()
            message = self._next_message()
            if message is None:
                continue
            labels_left, self._labels_left = self._labels_left, []
            await call.write(message)
            for left in labels_left:
                if not left.done():
                    left.set_result(None)
            if message.goodbye:
                await call.done_writing()
                return

    def _next_message(self) -> WorkerUp | None:
        """Everything that is ready, up to the size of a message; None when there is nothing."""
        message = WorkerUp()
        is_needed = False
        reports = self._fill(message)
        if reports:
            self._report_batch += 1
            message.report_batch = self._report_batch
            self._unacknowledged.append((self._report_batch, reports))
            is_needed = True
        if self._received_batch > self._told_received_batch:
            message.received_batch = self._told_received_batch = self._received_batch
            is_needed = True
        if self._new_labels:
            for key, label in wire_labels(self._new_labels).items():
                message.upsert_labels[key].CopyFrom(label)
            self._new_labels.clear()
            is_needed = True
        if self._is_pause_untold:
            message.paused = self._is_paused
            self._is_pause_untold = False
            is_needed = True
        if self._is_goodbye_due and not self._outbox:
            message.goodbye = True
            is_needed = True
        return message if is_needed else None

    def _fill(self, message: WorkerUp) -> list[Report]:
        """Move reports from the outbox into `message`; what does not fit goes with the next one."""
        reports = []
        size = 0
        while self._outbox:
            report = self._outbox.popleft()
            if not self._is_wanted(report):
                self._progress.set()
                continue
            if report.kind == 1 and report.attempt.is_ended:
                continue  # its end waits behind it and tells the start as well
            _add(message, report)
            reports.append(report)
            size += len(report.payload) + 64
            if size > MESSAGE_BYTES:
                self._something_to_send.set()
                break
        return reports


def _add(message: WorkerUp, report: Report) -> None:
    # Assigning to fields in place is twice as fast as building a TaskReport and copying it in.
    attempt = report.attempt
    wire: TaskReport = message.reports.add()
    wire.task_run_id = attempt.assignment.task_run_id
    wire.attempt = attempt.assignment.attempt
    wire.kind = report.kind
    wire.payload = report.payload
    wire.started_at_us = attempt.started_at_us
    if report.should_not_retry:
        wire.should_not_retry = True
    if report.retry_after_ms:
        wire.retry_after_ms = report.retry_after_ms


async def _raise_status(call: "grpc.aio.StreamStreamCall[WorkerUp, WorkerDown]") -> None:
    """Raise the status with which the engine ended the stream, unless it is OK."""
    error = await final_error(call)
    if error is not None:
        raise error
