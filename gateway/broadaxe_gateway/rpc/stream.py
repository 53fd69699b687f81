"""`broadaxe.v1.Engine`: the batched streams of our own SDK, one a worker and one a client.

Nothing here waits for one item: a message up is converted as a whole and handed on; a message down carries whatever is ready when the
one before it has been written. When a stream is full: a worker's stops assignment to that worker, a client's ends with UNAVAILABLE,
upon which the client comes back and asks again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    Assignment,
    BatchStart,
    CancelOrder,
    Heartbeat,
    PauseWorker,
    PutLogs,
    PutStream,
    RegisterWorker,
    RunFinished,
    SessionFull,
    StopWorker,
    TaskReport,
    TriggerRuns,
    UpsertLabels,
)
from broadaxe_gateway.hub import Hub
from broadaxe_gateway.rpc.convert import batched
from broadaxe_gateway.rpc.convert.checks import OFF_LOOP_BYTES, refuse
from broadaxe_gateway.rpc.convert.collisions import collisions_of
from broadaxe_gateway.rpc.convert.starts import Order, order_bytes, oversized
from broadaxe_gateway.rpc.limits import GrpcLimits
from broadaxe_gateway.rpc.outlet import OpenStreams, Outlet
from broadaxe_gateway.rpc.reports import ReportDesk
from broadaxe_gateway.rpc.slices import convert_all
from broadaxe_gateway.rpc.status import refusal_of

if TYPE_CHECKING:
    from broadaxe.wire import stream_pb2 as wire

logger = logging.getLogger("broadaxe.grpc")

HEARTBEAT_INTERVAL_MS = 4_000
WATCH_SLICE = 1_000
"""Runs watched before the loop gets a turn: about 1 ms."""


class EngineService:
    """Both streams. Method names are the wire's."""

    def __init__(self, hub: Hub, desk: ReportDesk, streams: OpenStreams, limits: GrpcLimits) -> None:
        self._hub = hub
        self._desk = desk
        self._streams = streams
        self._limits = limits

    async def WorkerStream(  # noqa: N802 - wire name
        self, tenant_id: str, requests: AsyncIterator["wire.WorkerUp"], context: Any
    ) -> None:
        stream = WorkerStream(self._hub, self._desk, self._limits, tenant_id)
        self._streams.add(stream.outlet)
        try:
            await stream.run(requests, context)
        finally:
            self._streams.discard(stream.outlet)

    async def ClientStream(  # noqa: N802 - wire name
        self, tenant_id: str, requests: AsyncIterator["wire.ClientUp"], context: Any
    ) -> None:
        stream = ClientStream(self._hub, self._limits, tenant_id)
        self._streams.add(stream.outlet)
        try:
            await stream.run(requests, context)
        finally:
            self._streams.discard(stream.outlet)


class _Tasks:
    """Tasks that belong to one stream and end with it. One that fails is a bug of ours: it is logged and told."""

    def __init__(self, on_failure: Callable[[], None]) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_failure = on_failure

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a worker stream failed", exc_info=error)
            self._on_failure()

    async def wait(self) -> None:
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def cancel(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await self.wait()


def _failed() -> Refused:
    return Refused(Code.UNAVAILABLE, "the stream failed in the server: connect again")


class WorkerStream:
    """One open batched stream of a worker; the session sink of the hub."""

    def __init__(self, hub: Hub, desk: ReportDesk, limits: GrpcLimits, tenant_id: str) -> None:
        self.outlet: Outlet[Order] = Outlet()
        self._hub = hub
        self._desk = desk
        self._tenant_id = tenant_id
        self._worker_id = ""
        self._session_id = ""
        self._backlog = limits.worker_backlog
        self._backlog_bytes = limits.stream_backlog_bytes
        self._is_full = False
        self._writer = batched.DownWriter(limits.max_message_bytes)
        self._max_bytes = limits.max_message_bytes
        self._tasks = _Tasks(self._fail)
        # Report batches in the order of their arrival, with whether each is committed; and the number told last.
        self._batches: deque[list[int]] = deque()
        self._committed = 0
        self._told = 0
        # Assignment batches that the worker has not taken over: number and assignments.
        self._untaken: deque[tuple[int, int]] = deque()
        self._untaken_count = 0

    # ------------------------------------------------------------ session sink

    def start(self, assignments: tuple[Assignment, ...]) -> None:
        for assignment in assignments:
            self.outlet.put(assignment, order_bytes(assignment))
        self._compare_backlog()

    def start_batches(self, batches: tuple[BatchStart, ...]) -> None:
        for batch in batches:
            self.outlet.put(batch, order_bytes(batch))
        self._compare_backlog()

    def cancel(self, cancels: tuple[CancelOrder, ...]) -> None:
        for order in cancels:
            self.outlet.put(order, order_bytes(order))

    def end(self) -> None:
        self.outlet.end(Refused(Code.UNAVAILABLE, "the engine closed this session: connect again"))

    def _fail(self) -> None:
        self.outlet.end(_failed())

    def _compare_backlog(self) -> None:
        waiting = len(self.outlet.items) + self._untaken_count
        size = self.outlet.size
        if self._is_full:
            is_full = waiting > self._backlog // 2 or size > self._backlog_bytes // 2
        else:
            is_full = waiting > self._backlog or size > self._backlog_bytes
        if is_full is not self._is_full:
            self._is_full = is_full
            self._hub.tell(SessionFull(self._tenant_id, self._worker_id, self._session_id, is_full))

    # ------------------------------------------------------------ life

    async def run(self, requests: AsyncIterator["wire.WorkerUp"], context: Any) -> None:
        requests = aiter(requests)
        first = await anext(requests, None)
        if first is None:
            return
        if not first.HasField("hello"):
            raise refuse("the first message of a worker stream must carry hello")
        await self._open(first.hello)
        reader = asyncio.get_running_loop().create_task(self._read(first, requests))
        try:
            await context.write(batched.welcome(self._worker_id, self._tenant_id, HEARTBEAT_INTERVAL_MS))
            await self._write(context)
        finally:
            self.outlet.end()
            self._hub.close_session(self._tenant_id, self._worker_id, self._session_id)
            reader.cancel()
            await asyncio.wait((reader,))
            await self._tasks.cancel()

    async def _open(self, hello: "wire.Hello") -> None:
        if hello.worker_id:
            self._worker_id, in_flight = batched.returning_worker(hello)
        else:
            fields = batched.batched_registration(hello)
            self._worker_id = await self._hub.ask(RegisterWorker, self._tenant_id, *fields)
            in_flight = ()
        self._session_id = await self._hub.open_session(
            self, self._tenant_id, self._worker_id, is_batched=True, in_flight=in_flight
        )

    async def _read(self, first: "wire.WorkerUp", requests: AsyncIterator["wire.WorkerUp"]) -> None:
        error: Refused | None = None
        try:
            is_leaving = await self._on_up(first, is_first=True)
            while not is_leaving:
                up = await anext(requests, None)
                if up is None:
                    break
                is_leaving = await self._on_up(up, is_first=False)
            # Reports that came before the end are committed and told before the stream ends.
            await self._tasks.wait()
        except Refused as refusal:
            error = refusal
        except Exception:
            logger.exception("worker stream of worker %s failed", self._worker_id)
            error = _failed()
        self.outlet.end(error)

    async def _on_up(self, up: "wire.WorkerUp", *, is_first: bool) -> bool:
        """Take one message; True when the worker says goodbye."""
        if not is_first and up.HasField("hello"):
            raise refuse("hello came again: only the first message of a worker stream carries it")
        if up.reports:
            await self._desk.wait_room()
            if up.ByteSize() > OFF_LOOP_BYTES:
                reports = await asyncio.to_thread(batched.task_reports, up)
            else:
                reports = batched.task_reports(up)
            entry = [up.report_batch, 0]
            self._batches.append(entry)
            self._tasks.start(self._commit(entry, reports))
        if up.received_batch:
            self._on_received(up.received_batch)
        if up.heartbeat:
            self._hub.tell(Heartbeat(0, self._tenant_id, self._worker_id))
        if up.upsert_labels:
            self._tasks.start(self._tell(UpsertLabels, batched.upserted_labels(up)))
        if up.HasField("paused"):
            self._tasks.start(self._tell(PauseWorker, up.paused))
        if up.goodbye:
            await self._tasks.wait()
            self._hub.tell(StopWorker(0, self._tenant_id, self._worker_id))
        return up.goodbye

    async def _tell(self, message: type, *fields: object) -> None:
        try:
            await self._hub.ask(message, self._tenant_id, self._worker_id, *fields)
        except Refused as refusal:
            logger.warning("%s of worker %s refused: %s", message.__name__, self._worker_id, refusal.message)

    def _on_received(self, batch: int) -> None:
        untaken = self._untaken
        while untaken and untaken[0][0] <= batch:
            self._untaken_count -= untaken.popleft()[1]
        self._compare_backlog()

    async def _commit(self, entry: list[int], reports: tuple[TaskReport, ...]) -> None:
        try:
            await self._report(reports)
        except Refused as refusal:
            # Not acknowledged: the worker comes back with it on its next stream.
            self.outlet.end(Refused(Code.UNAVAILABLE, refusal.message))
            return
        entry[1] = 1
        batches = self._batches
        while batches and batches[0][1]:
            self._committed = max(self._committed, batches.popleft()[0])
        self.outlet.wake()

    async def _report(self, reports: tuple[TaskReport, ...]) -> None:
        """Commit reports. One that the engine refuses for good is logged: repeating it would change nothing."""
        try:
            await self._desk.hold(self._tenant_id, self._worker_id, reports)
        except Refused as refusal:
            if refusal.code in {Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE}:
                raise
            if len(reports) > 1:
                for report in reports:
                    await self._report((report,))
                return
            logger.error(  # noqa: TRY400 - a refusal, not a failure of ours
                "report of task run %s, attempt %s, was refused: %s",
                reports[0].task_run_id,
                reports[0].attempt,
                refusal.message,
            )

    # ------------------------------------------------------------ writing

    async def _write(self, context: Any) -> None:
        outlet = self.outlet
        while True:
            outlet.raise_error()
            if not outlet.items and self._committed == self._told:
                if outlet.is_ended:
                    return
                await outlet.wait_change()
                continue
            down, taken, held, too_large = self._writer.build(outlet.items)
            outlet.took(taken)
            if held:
                self._untaken.append((self._writer.last_batch, held))
                self._untaken_count += held
            if self._committed != self._told:
                self._told = down.committed_report_batch = self._committed
            for order in too_large:
                self._tasks.start(self._report(oversized(order, order_bytes(order), self._max_bytes)))
            await context.write(down)
            if self._is_full:
                self._compare_backlog()


MAX_UNANSWERED_RUNS = 1_500
"""Runs of one client stream that wait for their commit, past which it is not read."""


class ClientStream:
    """One open batched stream of a client; a run watcher of the hub."""

    def __init__(self, hub: Hub, limits: GrpcLimits, tenant_id: str) -> None:
        self.outlet: Outlet[Any] = Outlet()
        self._hub = hub
        self._tenant_id = tenant_id
        self._limits = limits
        self._watched: set[str] = set()
        self._unanswered = 0
        self._unanswered_runs = 0
        self._has_room = asyncio.Event()
        self._is_half_closed = False

    def run_finished(self, finished: RunFinished) -> None:
        self._watched.discard(finished.run_id)
        self._put(finished, batched.finished_bytes(finished))

    def _put(self, item: object, size: int) -> None:
        self.outlet.put(item, size)
        if (
            len(self.outlet.items) > self._limits.stream_backlog
            or self.outlet.size > self._limits.stream_backlog_bytes
        ):
            self.outlet.end(
                Refused(
                    Code.UNAVAILABLE,
                    f"{len(self.outlet.items):,} answers wait to be read on this stream: connect again and ask for them anew",
                )
            )

    async def run(self, requests: AsyncIterator["wire.ClientUp"], context: Any) -> None:
        reader = asyncio.get_running_loop().create_task(self._read(requests))
        try:
            # Told at once, so that a client knows that the stream is open before it has anything to say.
            await context.send_initial_metadata(())
            outlet = self.outlet
            while await outlet.wait():
                down, taken = batched.client_down(outlet.items, self._limits.max_message_bytes)
                outlet.took(taken)
                await context.write(down)
        finally:
            self.outlet.end()
            reader.cancel()
            await asyncio.wait((reader,))
            self._hub.unwatch(self._tenant_id, self._watched, self)

    async def _read(self, requests: AsyncIterator["wire.ClientUp"]) -> None:
        error: Refused | None = None
        try:
            async for up in requests:
                await self._on_up(up)
        except Refused as refusal:
            error = refusal
        except Exception:
            logger.exception("client stream failed")
            error = _failed()
        if error is None and self._unanswered:
            # The client has no more to ask: it gets the answers that it still waits for.
            self._is_half_closed = True
        else:
            self.outlet.end(error)

    # ------------------------------------------------------------ up

    async def _on_up(self, up: "wire.ClientUp") -> None:
        for trigger in up.triggers:
            await self._on_trigger(trigger)
        if up.watch_run_ids:
            # A client that comes back may watch very many.
            for start in range(0, len(up.watch_run_ids), WATCH_SLICE):
                self._watch(batched.watched_ids(up.watch_run_ids[start : start + WATCH_SLICE]))
                await asyncio.sleep(0)
        if up.unwatch_run_ids:
            self._unwatch(batched.watched_ids(up.unwatch_run_ids))
        self._on_lines(up)

    def _on_lines(self, up: "wire.ClientUp") -> None:
        if up.logs:
            lines, refusals = batched.stream_logs(up)
            if lines:
                self._hub.tell(PutLogs(0, self._tenant_id, tuple(lines)))
            for refusal in refusals:
                logger.warning("a log line was dropped: %s", refusal.message)
        if up.chunks:
            self._hub.tell(PutStream(0, self._tenant_id, batched.stream_chunks(up)))
        if up.mark:
            # What is told to the engine is told in order: a report of the task that comes later does not overtake these chunks.
            self._put(batched.Mark(up.mark), 0)

    async def _on_trigger(self, trigger: "wire.TriggerRuns") -> None:
        new_id = self._hub.new_id
        run_ids = [run.run_id or new_id() for run in trigger.runs]
        try:
            runs = await convert_all(batched.stream_runs, trigger.ByteSize(), trigger.runs, run_ids)
        except Refused as refusal:
            self._put(batched.refusal(trigger.request, refusal.code, refusal.message), 0)
            return
        asked = [run.run_id for run in runs]
        while self._unanswered_runs >= MAX_UNANSWERED_RUNS:
            # A bulk waits for its own commits here, so that the loop stays free for the others.
            self._has_room.clear()
            await self._has_room.wait()
        self._unanswered_runs += len(runs)
        future = self._hub.request(TriggerRuns, self._tenant_id, runs, trigger.is_repeat)
        self._unanswered += 1
        if trigger.watch:
            # Submitted behind the trigger: by then the engine knows the runs.
            self._watch(asked)
        future.add_done_callback(partial(self._on_triggered, trigger.request, asked, trigger.watch))

    def _on_triggered(
        self, request: int, asked: list[str], is_watched: bool, future: "asyncio.Future[tuple[str, ...]]"
    ) -> None:
        self._unanswered -= 1
        self._unanswered_runs -= len(asked)
        self._has_room.set()
        error = future.exception()
        if error is None:
            run_ids = future.result()
            self._put(batched.trigger_reply(request, run_ids), 0)
        else:
            code, text = refusal_of(error, "broadaxe.v1.Engine/ClientStream trigger")
            collisions = collisions_of(error.detail) if isinstance(error, Refused) else None
            run_ids = () if collisions is None else collisions.created_run_ids
            self._put(batched.refusal(request, code, text, collisions), 0)
        if is_watched and list(run_ids) != asked:
            # Children that existed already go by the ids they had, and what collided is not there.
            self._unwatch(set(asked).difference(run_ids))
            self._watch(list(set(run_ids).difference(asked)))
        if self._is_half_closed and not self._unanswered:
            self.outlet.end()

    def _watch(self, run_ids: list[str]) -> None:
        if not self.outlet.is_ended:
            self._watched.update(run_ids)
            self._hub.watch(self._tenant_id, run_ids, self)

    def _unwatch(self, run_ids: Iterable[str]) -> None:
        run_ids = self._watched.intersection(run_ids)
        self._watched.difference_update(run_ids)
        self._hub.unwatch(self._tenant_id, run_ids, self)
