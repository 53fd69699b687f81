"""The gateway of a simulation: requests and answers, sessions and watches, over a link that may break.

A link that loses a batch is a broken link, as a socket is: everything that was open on it is opened again on the next one.
"""

import asyncio
from typing import Any

from broadaxe_actors.errors import Refused
from broadaxe_actors.messages import (
    CancelTasks,
    CloseSession,
    EndSession,
    OpenSession,
    Refusal,
    Reply,
    RunFinished,
    StartTasks,
    WatchRuns,
)
from tests.simulation.chaos import Chaos


class LinkLost(Exception):
    """The engine or the way to it is gone; what became of the request is not known."""


class SimGateway:
    """Carries messages for workers and clients."""

    def __init__(self, name: str, chaos: Chaos, check: Any) -> None:
        self.name = name
        self._chaos = chaos
        self._check = check
        self._link: Any = None
        self._generation = 0
        self._last_request = 0
        self._out: list[Any] = []
        self.pending: dict[int, tuple[Any, asyncio.Future[Any]]] = {}
        self.sessions: dict[str, Any] = {}
        self.watches: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self._watched_at: dict[tuple[str, str], int] = {}
        """After how many commits."""
        self.up = asyncio.Event()
        self.on_break: Any = None

    # ------------------------------------------------------------ the link

    def connect(self, link: Any) -> None:
        self._generation += 1
        generation = self._generation
        self._link = link
        link.on_batch(lambda batch: self._receive(batch, generation))
        by_tenant: dict[str, list[str]] = {}
        for tenant_id, run_id in self.watches:
            by_tenant.setdefault(tenant_id, []).append(run_id)
        for tenant_id, run_ids in by_tenant.items():
            self.tell(WatchRuns(tenant_id, tuple(run_ids)))
        self.up.set()

    def break_link(self) -> None:
        """What was under way is lost, and everyone knows."""
        self._generation += 1
        self._link = None
        self.up.clear()
        self._out.clear()
        pending, self.pending = self.pending, {}
        for _, future in pending.values():
            if not future.done():
                future.set_exception(LinkLost())
                future.exception()
        sessions, self.sessions = self.sessions, {}
        for worker in sessions.values():
            worker.session_ended()

    def tell(self, message: Any) -> None:
        if self._link is None:
            return
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush, self._generation)
        self._out.append(message)

    def _flush(self, generation: int) -> None:
        if generation != self._generation or not self._out:
            return
        batch, self._out = self._out, []
        if self._chaos.happens(0.0015):
            self._chaos.hit("batch lost with its link")
            self.on_break(self)
            return
        self._link.submit(batch)
        if self._chaos.happens(0.01):
            self._chaos.hit("batch duplicated")
            self._link.submit(list(batch))

    # ------------------------------------------------------------ out

    async def ask(self, message_class: type, tenant_id: str, *fields: Any) -> Any:
        """Raises `Refused`, and `LinkLost` when nobody will answer any more."""
        if self._link is None:
            raise LinkLost
        self._last_request += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        message = message_class(self._last_request, tenant_id, *fields)
        self.pending[self._last_request] = (message, future)
        self.tell(message)
        return await future

    async def open_session(self, worker: Any, session_id: str, *fields: Any) -> None:
        self.sessions[session_id] = worker
        try:
            await self.ask(OpenSession, worker.tenant_id, worker.id, session_id, *fields)
        except BaseException:
            self.sessions.pop(session_id, None)
            raise

    async def close_session(self, worker: Any, session_id: str) -> None:
        """A worker's stream broke; the engine hears of it when this side notices, maybe after the worker came back."""
        generation = self._generation
        if self.sessions.pop(session_id, None) is not None:
            await asyncio.sleep(self._chaos.rng.choice((0.0, 0.3, 4.0)))
            if generation == self._generation:
                self.tell(CloseSession(worker.tenant_id, worker.id, session_id))

    def watch(self, tenant_id: str, run_id: str) -> "asyncio.Future[Any]":
        future = self.watches.get((tenant_id, run_id))
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self.watches[tenant_id, run_id] = future
            self._watched_at[tenant_id, run_id] = self._check.commits
        self.tell(WatchRuns(tenant_id, (run_id,)))
        return future

    # ------------------------------------------------------------ in

    def _receive(self, batch: Any, generation: int) -> None:
        if generation != self._generation:
            return
        if self._chaos.happens(0.004):
            self._chaos.hit("answer lost with its link")
            self.on_break(self)
            return
        for message in batch:
            self._take(message)
        if self._chaos.happens(0.01):
            self._chaos.hit("batch duplicated")
            for message in batch:
                self._take(message)

    def _take(self, message: Any) -> None:  # noqa: C901 - one case a message
        kind = type(message)
        if kind is Reply or kind is Refusal:
            asked, future = self.pending.pop(message.request_id, (None, None))
            if future is None or future.done():
                return
            if kind is Reply:
                self._check.replied(asked, message.value)
                future.set_result(message.value)
            else:
                self._check.refused(asked, message)
                future.set_exception(Refused(message.code, message.message, message.detail))
        elif kind is StartTasks:
            worker = self.sessions.get(message.session_id)
            if worker is not None:
                self._check.assigned(worker, message.assignments)
                worker.start(message.assignments)
        elif kind is CancelTasks:
            worker = self.sessions.get(message.session_id)
            if worker is not None:
                worker.cancel(message.cancels)
        elif kind is EndSession:
            worker = self.sessions.pop(message.session_id, None)
            if worker is not None:
                worker.session_ended()
        elif kind is RunFinished:
            key = (message.tenant_id, message.run_id)
            future = self.watches.pop(key, None)
            self._check.run_finished(message, self._watched_at.pop(key, 0))
            if future is not None and not future.done():
                future.set_result(message)
