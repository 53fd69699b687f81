"""The runtime of one process: it drains the inboxes of all actors on one asyncio loop.

Knows nothing of tasks. Facts to know:

- No task, lock or thread an actor, and no task a message: ready actors stand in their lane's line, lanes take turns, and
  one callback of the loop serves them for a time slice.
- The lane of the empty name belongs to the shard's own actors (journal, timekeeper), which all tenants wait for: it has
  every other turn.
- All of it belongs to the loop's thread. From elsewhere: `loop.call_soon_threadsafe(handle.method.send, ...)`.

Failure rules, each with a test of its name in tests/unit/runtime/test_failures.py:

- A handler that raises has said nothing: its outbox is dropped, actors that it spawned are stopped.
- Then its actor is stopped (its inbox dropped, waiting callers told `ActorStopped`, its timers and fetches ended, its
  `on_failure` called), the caller of this message, if any, gets the error, and `on_crash` is called. Other actors go on.
- `Refused` raised to a caller of `remote` is a mere answer: outbox dropped, no crash. On a one-way message, with nobody to
  tell, it is a crash.
- A `CancelledError`, or any other BaseException but the two below, is a crash like any other. (Pykka would stop every actor.)
- `KeyboardInterrupt` and `SystemExit` stop the actor, are no crash, and go on to whoever runs the loop. Other actors keep
  their messages.
- `on_crash` raising is reported to the loop's exception handler. Nothing else stops.
- A message to a stopped actor is dropped and counted nowhere: stopping says that nobody cares any more.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from broadaxe_actors.errors import Refused
from broadaxe_actors.runtime.actor import Actor
from broadaxe_actors.runtime.clock import Clock, Rng, SystemClock, SystemRng
from broadaxe_actors.runtime.errors import ActorStopped
from broadaxe_actors.runtime.fetches import Fetches
from broadaxe_actors.runtime.handle import STOPPED, Handle, Inbox, Message, RemoteMethod
from broadaxe_actors.runtime.outbox import Outbox

A = TypeVar("A", bound=Actor)

SLICE_SECONDS = 0.002
"""How long the actors keep the loop before others (sockets, gRPC) have their turn."""
TURN_SECONDS = 0.001
"""How long one actor keeps its lane's turn."""
TURN_MESSAGES = 64
"""The same in messages: what bounds a turn under virtual time, where handlers take no time."""
WINDOW_SECONDS = 0.010
SHARE_SECONDS = 0.0025
"""While several tenants are active, each gets at most this much of a window's handler time: a quarter.

Round robin alone is not enough: a bulk keeps the loop saturated, a turn of a saturated loop is milliseconds, and a lone message of another
tenant needs several turns, for its socket, its commit and its answer.
"""
ACTIVE_SECONDS = 1.0
"""How long after a change of tenants several count as active."""
SLICE_TURNS = 256
"""How many turns a slice has at most, for the same reason."""
SPARE_QUEUES = 1_000
"""How many empty queues are kept for the next actors that become ready."""
SLOW_SECONDS = 0.005
"""A handler that takes longer is counted in `Runtime.slow_handlers`."""

logger = logging.getLogger(__name__)


class Crash(NamedTuple):
    """A handler raised and its actor was stopped."""

    handle: Handle[Any]
    lane: str
    method: str
    args: tuple[Any, ...]
    error: BaseException


class Lane:
    """The actors that take turns together: those of one tenant."""

    __slots__ = ("in_line", "members", "name", "ready", "used", "window_end")

    def __init__(self, name: str) -> None:
        self.used = 0.0
        self.window_end = 0.0
        self.name = name
        self.members: dict[Inbox, None] = {}
        self.ready: deque[Inbox] = deque()
        self.in_line = False


class Runtime:
    """Spawns actors, carries their messages, stops them. The failure rules stand at the head of this module."""

    def __init__(
        self,
        clock: Clock | None = None,
        rng: Rng | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        on_crash: Callable[[Crash], None] | None = None,
        stopwatch: Callable[[], float] | None = None,
    ) -> None:
        """Without `loop`, the loop that runs when the first message is sent. Without `on_crash`, crashes are logged.

        `stopwatch` (seconds) measures the time slices. It is real time, except under a clock that is not the
        system's: then that clock, so that the order of messages does not depend on the machine.
        """
        self.clock: Clock = clock or SystemClock()
        self.rng: Rng = rng or SystemRng()
        self.slow_handlers: dict[str, int] = {}
        """How often each handler took longer than `SLOW_SECONDS`."""
        self.sends: list[Message] | None = None
        """Sends of the running handler; None outside handlers."""
        self.outbox: Outbox | None = None
        self.journal_append: RemoteMethod | None = None
        self.timekeeper_apply: RemoteMethod | None = None
        self._timekeeper_forget: RemoteMethod | None = None
        if stopwatch is None:
            if isinstance(self.clock, SystemClock):
                stopwatch = time.perf_counter
            else:
                monotonic = self.clock.monotonic

                def stopwatch() -> float:
                    return monotonic() / 1_000_000

        self._stopwatch = stopwatch
        self._loop = loop
        self._on_crash = on_crash or _log_crash
        self._lanes: dict[str, Lane] = {}
        self._shared = self._lanes[""] = Lane("")
        self._shared.in_line = True  # never in `_line`: it has every other turn anyway
        self._line: deque[Lane] = deque()
        self._is_shared_turn = True
        self._is_draining = False
        self._is_scheduled = False
        """Whether `_drain` runs or is due."""
        self._afterwards: list[Callable[[], None]] = []
        self._last_lane: Lane | None = None
        self._changed_lane_at = float("-inf")
        """When the tenant served last was another than before: lately, if several are active."""
        self._is_stopped = False
        self._main = Outbox()
        self._queues: list[deque[Message]] = []
        self._fetches = Fetches(lambda: self.loop)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that drains the inboxes."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def connect(self, *, journal: Handle[Any] | None = None, timekeeper: Handle[Any] | None = None) -> None:
        """Name the actors that take records (`append`) and timers (`apply` and `forget`). None leaves what was named."""
        if journal is not None:
            self.journal_append = journal.append
        if timekeeper is not None:
            self.timekeeper_apply = timekeeper.apply
            self._timekeeper_forget = timekeeper.forget

    # ------------------------------------------------------------ life and death

    def spawn(
        self, actor_class: type[A], /, *args: Any, lane: str = "", name: str | None = None, **kwargs: Any
    ) -> Handle[A]:
        """Create an actor and return its handle; it takes messages at once.

        Inside a handler too: if that handler raises, the actor is stopped again. Raises what the constructor raises, and
        `RuntimeError` after `stop_all`.
        """
        if self._is_stopped:
            raise RuntimeError(f"cannot spawn {actor_class.__name__}: the runtime has been stopped")
        actor = object.__new__(actor_class)
        inbox = actor._create_actor_inbox()
        inbox.runtime = self
        inbox.lane = self._lanes.get(lane) or Lane(lane)
        inbox.actor = actor
        handle: Handle[A] = actor_class.handle_class(inbox, actor_class, name)
        actor.actor_inbox = inbox
        actor.me = handle
        actor.clock = self.clock
        actor.rng = self.rng
        actor.lane = lane
        outer, self.outbox = self.outbox, Outbox()
        inner, self.sends = self.outbox, self.outbox.sends
        try:
            actor.__init__(*args, **kwargs)  # type: ignore[misc]  # a subclass takes what spawn was given
        except BaseException:
            self._roll_back(inner)
            raise
        finally:
            self.outbox = outer
            self.sends = None if outer is None else outer.sends
        actor._start_actor_loop()
        if outer is None:
            self._leave(inbox, inner)
        else:
            outer.spawned.append(inbox)
            outer.nested.append((inbox, inner))
            outer.has_more = True
        return handle

    def adopt(self, inbox: Inbox) -> None:
        """Count an actor among the living; its `on_start`, if it has one, becomes its first message."""
        # The lane as it is now: it may have ended, or come back, while the constructor ran.
        inbox.lane = self._lanes.setdefault(inbox.lane.name, inbox.lane)
        inbox.lane.members[inbox] = None
        assert inbox.actor is not None
        hook = type(inbox.actor).on_start
        if hook is not Actor.on_start:
            self.wake(inbox, (RemoteMethod(inbox, hook), (), None))

    def stop(self, handle: Handle[Any]) -> None:
        """Stop an actor without handling what waits for it: callers get `ActorStopped`. Stopping twice is fine.

        Inside a handler this waits in the outbox; the rest of that handler's sends leave before it.
        """
        if self.outbox is not None:
            self.outbox.stops.append(handle._inbox)  # noqa: SLF001 - the runtime owns inboxes
            self.outbox.has_more = True
        else:
            self._end(handle._inbox)  # noqa: SLF001

    def retire(self, handle: Handle[Any]) -> bool:
        """Stop an actor for which neither message nor fetch waits. Returns whether it has stopped.

        Raises `RuntimeError` inside a handler, whose sends are not in any inbox yet: `Actor.retire` is for there.
        """
        if self.outbox is not None:
            raise RuntimeError(
                f"{handle} cannot be retired inside a handler: an actor retires itself with Actor.retire"
            )
        return self._retire(handle._inbox)  # noqa: SLF001

    def _retire(self, inbox: Inbox) -> bool:
        if not inbox.items and not self._fetches.is_busy(inbox):
            self._end(inbox)
        return inbox.items is STOPPED

    def stop_lane(self, lane: str) -> None:
        """Stop every actor of a lane, as `stop` does. The lane's name may be used again at once."""
        members = self._lanes[lane].members if lane in self._lanes else {}
        if self.outbox is not None:
            self.outbox.stops.extend(members)
            self.outbox.has_more = True
            return
        for inbox in list(members):
            self._end(inbox)

    async def stop_all(self) -> None:
        """Stop every actor, the shard's own last, and wait until their fetches have ended. May be called twice.

        Nothing can be spawned afterwards.
        """
        self._is_stopped = True
        tasks = self._fetches.running()
        for name in [*(name for name in self._lanes if name), ""]:
            self.stop_lane(name)
        if tasks:
            await asyncio.wait(tasks)

    def count(self, lane: str | None = None) -> int:
        """How many actors live, in one lane or in all."""
        if lane is not None:
            return len(self._lanes[lane].members) if lane in self._lanes else 0
        return sum(len(each.members) for each in self._lanes.values())

    def waiting(self, lane: str) -> int:
        """How many messages wait in a lane. Costs a step per ready actor."""
        return sum(len(inbox) for inbox in self._lanes[lane].ready) if lane in self._lanes else 0

    def live_actors(self) -> Iterator[Actor]:
        """The objects of all live actors. For checks in tests: nothing else may touch an actor's object."""
        for lane in self._lanes.values():
            for inbox in lane.members:
                if inbox.actor is not None:
                    yield inbox.actor

    # ------------------------------------------------------------ delivery

    def deliver(self, message: Message) -> None:
        """Put a message into its receiver's inbox now. For the runtime's own parts; others use `RemoteMethod`."""
        items = message[0].inbox.items
        if items is not None:
            items.append(message)
        else:
            self.wake(message[0].inbox, message)

    def wake(self, inbox: Inbox, message: Message) -> None:
        """Deliver to an idle actor: it joins its lane's line, its lane the line of lanes, and the drain is set off."""
        queues = self._queues
        items = queues.pop() if queues else deque()
        items.append(message)
        inbox.items = items
        lane = inbox.lane
        lane.ready.append(inbox)
        if not lane.in_line:
            lane.in_line = True
            self._line.append(lane)
        if not self._is_draining:
            self._is_draining = True
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._drain_scheduled)

    def _drain_scheduled(self) -> None:
        self._is_scheduled = False
        self._drain()

    def drain_now(self) -> None:
        """Serve what is ready for one time slice at once, instead of in the loop's next turn.

        Called from outside of any handler after a message was delivered: under load a turn of the loop is milliseconds.
        Inside a handler, or while a drain is under way, it does nothing.
        """
        if self._is_draining and self.outbox is None:
            self._drain()

    def call_after_drain(self, callback: Callable[[], None]) -> None:
        """Call back once this slice is over, outside of any handler: how a handler's result leaves the actors."""
        self._afterwards.append(callback)

    def _drain(self) -> None:
        """Serve ready actors for one time slice, and come back in the loop's next turn if more are ready."""
        stopwatch = self._stopwatch
        line = self._line
        shared = self._shared
        self.outbox = self._main
        self.sends = self._main.sends
        now = stopwatch()
        end = now + SLICE_SECONDS
        try:
            for _ in range(SLICE_TURNS):
                if shared.ready and (self._is_shared_turn or not line):
                    self._is_shared_turn = False
                    now = self._serve(shared.ready.popleft(), now)
                elif line:
                    self._is_shared_turn = True
                    now = self._serve_lane(line.popleft(), now)
                else:
                    break
                if now >= end:
                    break
        finally:
            self.outbox = self.sends = None
            self._is_draining = bool(line or shared.ready)
            if self._is_draining:
                self._schedule()
            if self._afterwards:
                afterwards, self._afterwards = self._afterwards, []
                for callback in afterwards:
                    callback()

    def _serve_lane(self, lane: Lane, now: float) -> float:
        """Serve one actor of a tenant, and see that the tenant keeps to its share."""
        began = now
        try:
            if lane.ready:
                now = self._serve(lane.ready.popleft(), now)
        finally:
            if lane is not self._last_lane:
                self._last_lane, self._changed_lane_at = lane, now
            if now >= lane.window_end:
                lane.window_end = now + WINDOW_SECONDS
                lane.used = 0.0
            lane.used += now - began
            if lane.used > SHARE_SECONDS and now - self._changed_lane_at < ACTIVE_SECONDS:
                # It stays marked as in line, so that messages do not put it back before its next window.
                self.loop.call_later(lane.window_end - now, self._unpark, lane)
            elif lane.ready:
                self._line.append(lane)
            else:
                lane.in_line = False
        return now

    def _unpark(self, lane: Lane) -> None:
        """A tenant's next window has begun."""
        if lane.ready:
            self._line.append(lane)
            if not self._is_draining:
                self._is_draining = True
                self._schedule()
        else:
            lane.in_line = False

    def _serve(self, inbox: Inbox, now: float) -> float:  # noqa: C901 - a call for each part would cost more than the part
        """Handle messages of one actor until its turn is over, and return the time. The hot path."""
        items = inbox.items
        actor = inbox.actor
        if not items or actor is None:  # stopped while it stood in line
            return now
        outbox = self._main
        sends = outbox.sends
        stopwatch = self._stopwatch
        end = now + TURN_SECONDS
        budget = TURN_MESSAGES
        try:
            while items:
                message = items.popleft()
                method, args, reply = message
                try:
                    result = method.function(actor, *args)
                except BaseException as error:  # noqa: BLE001 - every kind has its rule
                    self._fail(inbox, message, error)
                else:
                    if sends:
                        for sent in sends:
                            # Runtime.deliver, written out.
                            receiver = sent[0].inbox
                            queue = receiver.items
                            if queue is None:
                                self.wake(receiver, sent)
                            else:
                                queue.append(sent)
                        sends.clear()
                    if outbox.has_more:
                        self._leave(inbox, outbox)
                    if reply is not None and not reply.done():
                        reply.set_result(result)
                before, now = now, stopwatch()
                if now - before > SLOW_SECONDS:
                    name = method.function.__qualname__
                    self.slow_handlers[name] = self.slow_handlers.get(name, 0) + 1
                budget -= 1
                if now >= end or not budget:
                    break
        finally:
            if inbox.items is items:
                if items:
                    inbox.lane.ready.append(inbox)
                else:
                    inbox.items = None
                    if len(self._queues) < SPARE_QUEUES:
                        self._queues.append(items)
        return now

    # ------------------------------------------------------------ after a handler

    def _leave(self, inbox: Inbox, outbox: Outbox) -> None:  # noqa: C901 - one test for each kind of thing
        """Let everything in an outbox leave, in the order that the contract gives."""
        outbox.has_more = False
        if outbox.spawned:
            for nested_inbox, nested in outbox.nested:
                self._leave(nested_inbox, nested)
            outbox.spawned.clear()
            outbox.nested.clear()
        if outbox.sends:
            for message in outbox.sends:
                self.deliver(message)
            outbox.sends.clear()
        if outbox.records or outbox.effects:
            assert self.journal_append is not None  # `record` saw it
            said = (inbox.lane.name, tuple(outbox.records), tuple(outbox.effects))
            self.deliver((self.journal_append, said, None))
            outbox.records.clear()
            outbox.effects.clear()
        if outbox.timers:
            if inbox.items is not STOPPED:
                assert self.timekeeper_apply is not None  # `set_timer` saw it
                inbox.has_timers = True
                self.deliver((self.timekeeper_apply, (inbox.handle, tuple(outbox.timers)), None))
            outbox.timers.clear()
        if outbox.fetches:
            if inbox.items is not STOPPED:
                for fetch in outbox.fetches:
                    self._fetches.start(inbox, fetch)
            outbox.fetches.clear()
        if outbox.stops:
            stops = tuple(outbox.stops)
            outbox.stops.clear()
            for stopped in stops:
                self._end(stopped)
        if outbox.is_retiring:
            outbox.is_retiring = False
            self._retire(inbox)

    def _roll_back(self, outbox: Outbox) -> None:
        """Forget what was said, and stop what was spawned meanwhile, newest first."""
        spawned = tuple(outbox.spawned)
        outbox.clear()
        for inbox in reversed(spawned):
            self._end(inbox)

    def _fail(self, inbox: Inbox, message: Message, error: BaseException) -> None:
        """Apply the failure rules to a handler that raised."""
        method, args, reply = message
        self._roll_back(self._main)
        if isinstance(error, Refused) and reply is not None:
            if not reply.done():
                reply.set_exception(error)
            return
        if reply is not None and not reply.done():
            reply.set_exception(_for_reply(method, error))
        self._end(inbox, error)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error
        self._report(Crash(inbox.handle, inbox.lane.name, method.name, args, error))

    def _report(self, crash: Crash) -> None:
        """Tell the supervisor, outside of any handler: what it sends and stops takes effect at once."""
        outbox, sends = self.outbox, self.sends
        self.outbox = self.sends = None
        try:
            self._on_crash(crash)
        except Exception as error:  # noqa: BLE001 - the failure of one supervisor must not stop the others' actors
            self.loop.call_exception_handler(
                {"message": f"on_crash failed for {crash.handle}.{crash.method}", "exception": error}
            )
        finally:
            self.outbox, self.sends = outbox, sends

    def _end(self, inbox: Inbox, error: BaseException | None = None) -> None:
        """Stop an actor; `error` tells that it crashed."""
        items = inbox.items
        actor = inbox.actor
        if items is STOPPED or actor is None:
            return
        inbox.items = STOPPED
        if items:
            stopped = f"{inbox.handle} stopped before it handled the message"
            for _, _, reply in items:
                if reply is not None and not reply.done():
                    reply.set_exception(ActorStopped(stopped))
            items.clear()
        lane = inbox.lane
        del lane.members[inbox]
        if not lane.members and lane is not self._shared:
            lane.ready.clear()
            del self._lanes[lane.name]
        if inbox.directory is not None:
            inbox.directory.forget(inbox.key)
        self._fetches.cancel(inbox)
        if inbox.has_timers and self._timekeeper_forget is not None:
            self.deliver((self._timekeeper_forget, (inbox.handle,), None))
        self._call_hook(inbox, actor, error)
        inbox.actor = None

    def _call_hook(self, inbox: Inbox, actor: Actor, error: BaseException | None) -> None:
        args: tuple[Any, ...] = ()
        if error is None:
            hook: Callable[..., None] = actor.on_stop
            if type(actor).on_stop is Actor.on_stop:
                return
        else:
            hook = actor.on_failure
            if type(actor).on_failure is Actor.on_failure:
                return
            args = (type(error), error, error.__traceback__)
        outer, self.outbox = self.outbox, Outbox()
        inner, self.sends = self.outbox, self.outbox.sends
        try:
            hook(*args)
        except Exception as raised:  # noqa: BLE001 - reported as a crash, below
            self._roll_back(inner)
            self._report(Crash(inbox.handle, inbox.lane.name, hook.__name__, args, raised))
        else:
            self._leave(inbox, inner)
        finally:
            self.outbox = outer
            self.sends = None if outer is None else outer.sends


def _for_reply(method: RemoteMethod, error: BaseException) -> BaseException:
    """The error as a caller may see it: a CancelledError or StopIteration as such would be taken for the caller's own."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"{method} raised {error!r}")
    wrapped.__cause__ = error
    return wrapped


def _log_crash(crash: Crash) -> None:
    logger.error("%s crashed in %s", crash.handle, crash.method, exc_info=crash.error)
