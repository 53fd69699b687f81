"""The gateway's side of the one port to the engine: asks, tells, and routes what the engine says to who waits for it.

May touch the engine's messages and nothing of the wire. Lives on one asyncio loop; none of it is thread-safe. Everything
submitted within one turn of the loop travels as one batch, in order. Worker sessions, result watches and event
subscriptions live here; the engine knows them by id alone.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.link import Batch, ShardLink
from broadaxe_actors.messages import (
    Assignment,
    BatchStart,
    CancelOrder,
    CancelTasks,
    CloseSession,
    CloseSubscription,
    EndSession,
    OpenSession,
    OpenSubscription,
    Refusal,
    Reply,
    RunEvents,
    RunFinished,
    StartBatches,
    StartTasks,
    UnwatchRuns,
    WatchRuns,
)
from broadaxe_actors.runtime.clock import Clock, Rng, SystemClock, SystemRng

logger = logging.getLogger("broadaxe.hub")


class SessionSink(Protocol):
    """One open stream of a worker. None of these may block or raise."""

    def start(self, assignments: tuple[Assignment, ...]) -> None: ...

    def start_batches(self, batches: tuple[BatchStart, ...]) -> None: ...

    def cancel(self, cancels: tuple[CancelOrder, ...]) -> None: ...

    def end(self) -> None:
        """The engine gave the session up."""
        ...


class RunWatcher(Protocol):
    """Who waits for the end of runs. Must be hashable; may neither block nor raise."""

    def run_finished(self, finished: RunFinished) -> None: ...


EventSink = Callable[[RunEvents], None]


class Hub:
    """Carries requests to the engine and its news to the streams of this gateway.

    `ask` raises `Refused` as the engine answered it, or with UNAVAILABLE once the hub is closed.
    """

    def __init__(self, link: ShardLink, *, clock: Clock | None = None, rng: Rng | None = None) -> None:
        self._link = link
        self._clock = clock or SystemClock()
        self._rng = rng or SystemRng()
        self._loop = asyncio.get_running_loop()
        self._last_request = 0
        self._outbox: list[Any] = []
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._sessions: dict[str, SessionSink] = {}
        self._watchers: dict[tuple[str, str], tuple[RunWatcher, ...]] = {}
        self._subscriptions: dict[str, EventSink] = {}
        self._is_closed = False
        self._is_flushing = False
        self._routes: dict[type, Callable[[Any], None]] = {
            Reply: self._on_reply,
            Refusal: self._on_refusal,
            StartTasks: self._on_start,
            StartBatches: self._on_start_batches,
            CancelTasks: self._on_cancel,
            EndSession: self._on_end_session,
            RunFinished: self._on_run_finished,
            RunEvents: self._on_run_events,
        }
        link.on_batch(self._on_batch)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def sessions_open(self) -> int:
        """Worker streams open at this gateway."""
        return len(self._sessions)

    @property
    def requests_pending(self) -> int:
        """Requests that the engine has not answered."""
        return len(self._pending)

    def new_id(self) -> str:
        """A fresh UUIDv7."""
        return self._rng.uuid7(self._clock.now())

    # ------------------------------------------------------------ requests

    def request(self, message: type, tenant_id: str, *fields: object) -> "asyncio.Future[Any]":
        """Submit a request now; the future has the answer's value or `Refused`. Cancelling it forgets the answer."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._is_closed:
            future.set_exception(_closed())
            return future
        self._last_request = request_id = self._last_request + 1
        self._pending[request_id] = future
        self.tell(message(request_id, tenant_id, *fields))
        return future

    async def ask(self, message: type, tenant_id: str, *fields: object) -> Any:
        """Send a request and return the value of its reply. Raises `Refused`."""
        return await self.request(message, tenant_id, *fields)

    def tell(self, message: Any) -> None:
        """Send without waiting for anything. Dropped once the hub is closed."""
        if self._is_closed:
            return
        self._outbox.append(message)
        if not self._is_flushing:
            # The first of a turn leaves at once, what follows in the same turn as one batch: under load a turn of the
            # loop is milliseconds, and a lone trigger should not wait for it.
            self._is_flushing = True
            self._loop.call_soon(self._end_turn)
            self._flush()

    def _end_turn(self) -> None:
        self._is_flushing = False
        self._flush()

    def _flush(self) -> None:
        if self._outbox:
            batch, self._outbox = self._outbox, []
            self._link.submit(batch)

    # ------------------------------------------------------------ worker sessions

    async def open_session(
        self,
        sink: SessionSink,
        tenant_id: str,
        worker_id: str,
        *,
        is_batched: bool,
        sends_heartbeats: bool = True,
        in_flight: Iterable[Any] | None = None,
    ) -> str:
        """Open a session of a worker and return its id; assignments may reach `sink` before this returns.

        Raises `Refused` with NOT_FOUND for a worker that this tenant does not have.
        """
        session_id = self.new_id()
        self._sessions[session_id] = sink
        try:
            await self.ask(
                OpenSession,
                tenant_id,
                worker_id,
                session_id,
                is_batched,
                sends_heartbeats,
                None if in_flight is None else tuple(in_flight),
            )
        except Refused:
            self._sessions.pop(session_id, None)
            raise
        except BaseException:
            # The caller has gone while the engine was opening: the engine is told.
            self.close_session(tenant_id, worker_id, session_id)
            raise
        return session_id

    def close_session(self, tenant_id: str, worker_id: str, session_id: str) -> None:
        """The stream of a session has ended."""
        if self._sessions.pop(session_id, None) is not None:
            self.tell(CloseSession(tenant_id, worker_id, session_id))

    # ------------------------------------------------------------ results

    def watch(self, tenant_id: str, run_ids: Sequence[str], watcher: RunWatcher) -> None:
        """Tell `watcher` once when each of these runs has ended, at once for those that have. Unknown ids wait."""
        if not run_ids:
            return
        watchers = self._watchers
        for run_id in run_ids:
            key = (tenant_id, run_id)
            present = watchers.get(key)
            if present is None:
                watchers[key] = (watcher,)
            elif watcher not in present:
                watchers[key] = (*present, watcher)
        # Told even if another stream watches the same run: an ended run answers only who asks.
        self.tell(WatchRuns(tenant_id, tuple(run_ids)))

    def unwatch(self, tenant_id: str, run_ids: Iterable[str], watcher: RunWatcher) -> None:
        """`watcher` no longer waits for these runs. Ids that it does not watch are ignored."""
        left: list[str] = []
        for run_id in run_ids:
            key = (tenant_id, run_id)
            present = self._watchers.get(key)
            if present is None or watcher not in present:
                continue
            rest = tuple(other for other in present if other is not watcher)
            if rest:
                self._watchers[key] = rest
            else:
                del self._watchers[key]
                left.append(run_id)
        if left:
            self.tell(UnwatchRuns(tenant_id, tuple(left)))

    # ------------------------------------------------------------ events of runs

    async def open_subscription(
        self,
        sink: EventSink,
        tenant_id: str,
        run_id: str | None,
        metadata_key: str | None = None,
        metadata_value: str | None = None,
    ) -> str | None:
        """Follow a run, or all runs with a metadata value; returns the subscription's id, None if the run has ended.

        Raises `Refused` with NOT_FOUND for an unknown run.
        """
        subscription_id = self.new_id()
        self._subscriptions[subscription_id] = sink
        is_open = False
        try:
            is_open = await self.ask(
                OpenSubscription, tenant_id, subscription_id, run_id, metadata_key, metadata_value
            )
        finally:
            if not is_open:
                self.close_subscription(tenant_id, subscription_id)
        return subscription_id if is_open else None

    def close_subscription(self, tenant_id: str, subscription_id: str) -> None:
        if self._subscriptions.pop(subscription_id, None) is not None:
            self.tell(CloseSubscription(tenant_id, subscription_id))

    # ------------------------------------------------------------ from the engine

    def _on_batch(self, batch: Batch) -> None:
        routes = self._routes
        for message in batch:
            route = routes.get(type(message))
            if route is None:
                logger.error("the engine sent a message that the gateway does not know: %r", message)
                continue
            route(message)

    def _on_reply(self, reply: Reply) -> None:
        future = self._pending.pop(reply.request_id, None)
        if future is not None and not future.done():
            future.set_result(reply.value)

    def _on_refusal(self, refusal: Refusal) -> None:
        future = self._pending.pop(refusal.request_id, None)
        if future is not None and not future.done():
            future.set_exception(Refused(refusal.code, refusal.message, refusal.detail))

    def _on_start(self, start: StartTasks) -> None:
        sink = self._sessions.get(start.session_id)
        # A session that closed meanwhile: the engine learns it by CloseSession and assigns anew.
        if sink is not None:
            sink.start(start.assignments)

    def _on_start_batches(self, start: StartBatches) -> None:
        sink = self._sessions.get(start.session_id)
        if sink is not None:
            sink.start_batches(start.batches)

    def _on_cancel(self, cancel: CancelTasks) -> None:
        sink = self._sessions.get(cancel.session_id)
        if sink is not None:
            sink.cancel(cancel.cancels)

    def _on_end_session(self, end: EndSession) -> None:
        sink = self._sessions.pop(end.session_id, None)
        if sink is not None:
            sink.end()

    def _on_run_finished(self, finished: RunFinished) -> None:
        for watcher in self._watchers.pop((finished.tenant_id, finished.run_id), ()):
            watcher.run_finished(finished)

    def _on_run_events(self, events: RunEvents) -> None:
        sink = self._subscriptions.get(events.subscription_id)
        if sink is None:
            return
        if events.is_last:
            del self._subscriptions[events.subscription_id]
        sink(events)

    # ------------------------------------------------------------ end

    def close(self) -> None:
        """Submit what is still to be sent, then answer every waiting request with UNAVAILABLE. May be called twice."""
        self._flush()
        self._is_closed = True
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(_closed())
                # Whoever asked may be gone already.
                future.exception()


def _closed() -> Refused:
    return Refused(Code.UNAVAILABLE, "the server is shutting down: try again")
