"""When: the deadlines of all actors of a shard, and one loop timer for all of them.

Touches the runtime and, through the injected scheduler, the loop's `call_at`. Knows nothing of what a timer is for. Facts to know:

- Setting and cancelling cost O(1): timers stand in buckets, hashed by their deadline. Near buckets are 10 ms wide, and each level above
  is 64 times wider, so that a million far timers share a few buckets. A far bucket is opened at its beginning
  and its timers move one level nearer: each at most five times, one cancelled before that never.
- A timer is never early: near deadlines are rounded up, so a timer is at most 10 ms late plus what the loop is behind.
- One loop timer is armed at a time, for the earliest bucket, and none when no timer is set. It may find its bucket emptied by cancels.
- Due timers leave in the order of their 10 ms buckets, at most `FIRE_LIMIT` in one handler, so that the loop is never held for long.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Any, Protocol

from broadaxe_actors.runtime import Actor, Handle, TimerChange

TICK_US = 10_000
"""Width of the nearest buckets, and how late a timer may be."""
SPAN = 64
"""How many buckets of one level make one of the next."""
TOP_LEVEL = 5
"""Buckets of this level are 124 days wide; everything further is in them too."""
WIDTHS = tuple(TICK_US * SPAN**level for level in range(TOP_LEVEL + 1))
FIRE_LIMIT = 1_000
"""How many timers one handler fires, moves or looks at before others have their turn."""


class Alarm(Protocol):
    """What `Scheduler.call_at` returns."""

    def cancel(self) -> object: ...


class Scheduler(Protocol):
    """The two methods of an asyncio loop that the timekeeper uses."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Alarm: ...


class _Timer:
    """One deadline of one actor."""

    __slots__ = ("args", "bucket", "deadline_us", "method")

    def __init__(self, deadline_us: int, method: Any, args: tuple[Any, ...]) -> None:
        self.deadline_us = deadline_us
        self.method = method
        self.args = args
        self.bucket: _Bucket | None = None


class _Bucket:
    """Timers that are looked at together, at `at_us`, each with who set it and under which key."""

    __slots__ = ("at_us", "level", "timers")

    def __init__(self, at_us: int, level: int) -> None:
        self.at_us = at_us
        self.level = level
        self.timers: dict[_Timer, tuple[Handle[Any], Any]] = {}

    def __lt__(self, other: "_Bucket") -> bool:
        return (self.at_us, -self.level) < (other.at_us, -other.level)


class Timekeeper(Actor):
    """Keeps timers for other actors; spawned once a shard and named with `Runtime.connect(timekeeper=...)`.

    Stopping it ends every timer.
    """

    def __init__(self, scheduler: Scheduler | None = None) -> None:
        """Without `scheduler`, the running loop."""
        self._scheduler: Scheduler = scheduler if scheduler is not None else asyncio.get_running_loop()
        self._owners: dict[Handle[Any], dict[Any, _Timer]] = {}
        self._buckets: dict[tuple[int, int], _Bucket] = {}
        """By level and number."""
        self._line: list[_Bucket] = []
        """A heap of all buckets."""
        self._alarm: Alarm | None = None
        self._alarm_us = 0
        self._is_waking = False
        """Whether a `wake` is on its way already."""

    # ------------------------------------------------------------ messages

    def apply(self, owner: Handle[Any], changes: tuple[TimerChange, ...]) -> None:
        """Set and cancel timers of one actor, in order."""
        if not owner.is_alive:
            return
        timers = self._owners.get(owner)
        if timers is None:
            timers = self._owners[owner] = {}
        for key, deadline_us, method, args in changes:
            old = timers.pop(key, None)
            if old is not None and old.bucket is not None:
                del old.bucket.timers[old]
            if deadline_us is not None:
                timer = timers[key] = _Timer(deadline_us, method, args)
                self._place(timer, owner, key)
        if not timers:
            del self._owners[owner]
        self._arm()

    def forget(self, owner: Handle[Any]) -> None:
        """End every timer of an actor that has stopped."""
        for timer in self._owners.pop(owner, {}).values():
            if timer.bucket is not None:
                del timer.bucket.timers[timer]
        self._arm()

    def wake(self) -> None:
        """Send what is due, move what comes nearer, and arm the loop timer for the rest."""
        self._is_waking = False
        now = self.clock.monotonic()
        budget = FIRE_LIMIT
        while self._line and self._line[0].at_us <= now and budget > 0:
            bucket = self._line[0]
            budget -= 1 + (self._fire(bucket, budget) if bucket.level == 0 else self._descend(bucket, budget))
            if not bucket.timers:
                self._drop_first()
        self._arm()

    def count(self) -> int:
        """How many timers are set."""
        return sum(len(timers) for timers in self._owners.values())

    # ------------------------------------------------------------ hooks

    def on_stop(self) -> None:
        self._disarm()

    def on_failure(self, *_error: Any) -> None:
        self._disarm()

    # ------------------------------------------------------------ buckets

    def _place(self, timer: _Timer, owner: Handle[Any], key: Any) -> None:
        delay_us = timer.deadline_us - self.clock.monotonic()
        level = 0
        while level < TOP_LEVEL and delay_us >= WIDTHS[level] * SPAN:
            level += 1
        width = WIDTHS[level]
        # The nearest level waits for the end of its bucket, so as never to be early; the others open at the beginning.
        number = -(-timer.deadline_us // width) if level == 0 else timer.deadline_us // width
        bucket = self._buckets.get((level, number))
        if bucket is None:
            bucket = self._buckets[level, number] = _Bucket(number * width, level)
            heapq.heappush(self._line, bucket)
        bucket.timers[timer] = (owner, key)
        timer.bucket = bucket

    def _fire(self, bucket: _Bucket, limit: int) -> int:
        due = list(itertools.islice(bucket.timers.items(), limit))
        for timer, (owner, key) in due:
            del bucket.timers[timer]
            timers = self._owners[owner]
            del timers[key]
            if not timers:
                del self._owners[owner]
            timer.method.send(*timer.args)
        return len(due)

    def _descend(self, bucket: _Bucket, limit: int) -> int:
        moved = list(itertools.islice(bucket.timers.items(), limit))
        for timer, (owner, key) in moved:
            del bucket.timers[timer]
            self._place(timer, owner, key)
        return len(moved)

    def _drop_first(self) -> None:
        bucket = heapq.heappop(self._line)
        del self._buckets[bucket.level, bucket.at_us // WIDTHS[bucket.level]]

    # ------------------------------------------------------------ the loop timer

    def _arm(self) -> None:
        while self._line and not self._line[0].timers:
            self._drop_first()
        if not self._line:
            self._disarm()
            return
        at_us = self._line[0].at_us
        if self._is_waking or (self._alarm is not None and self._alarm_us <= at_us):
            return
        self._disarm()
        delay_us = at_us - self.clock.monotonic()
        if delay_us <= 0:
            self._is_waking = True
            self.me.wake.send()
            return
        self._alarm_us = at_us
        self._alarm = self._scheduler.call_at(self._scheduler.time() + delay_us / 1_000_000, self._ring)

    def _ring(self) -> None:
        """Called by the loop, outside of any handler."""
        self._alarm = None
        self._is_waking = True
        self.me.wake.send()

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
