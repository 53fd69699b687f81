"""Random lives of rate limits: real buckets, journal and timekeeper on virtual time, over a store that takes its time.

A queue of the test's own keeps to what `TenantQueue` and buckets have agreed on: it asks for all that its task runs need beside what it
holds, starts those for which it has everything at once, gives back what none of them needs, and drops what it has when a window is over.
Some task runs need units of two limits, in either order.

What must hold, whatever happens (limits changed, paused, deleted; commits that hang; the engine killed between grant and commit; machines
started anew; the wall clock set forward or back): no window gives more than its limit, and who waits gets units that are there.
"""

import asyncio
import itertools
from collections import Counter, defaultdict
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broadaxe_actors.journal import Journal
from broadaxe_actors.messages import DeleteRateLimit, PauseRateLimit, PutRateLimit
from broadaxe_actors.rate_limit_bucket import RateLimitBucket, RateLimitReader
from broadaxe_actors.rate_limits import MINUTE_US, SECOND_US
from broadaxe_actors.runtime import Actor, Directory, Runtime, SeededRng, VirtualClock
from broadaxe_actors.runtime.virtual import VirtualLoop
from broadaxe_actors.telemetry import Telemetry
from broadaxe_actors.timekeeper import Timekeeper
from broadaxe_storage.memory import CommitFault, MemoryDisk, MemoryStore, NoFaults
from broadaxe_storage.records import Batch, RateLimitRow
from tests.factories import TENANT

KEYS = ("a", "b")
WINDOWS = (SECOND_US, 5 * SECOND_US, MINUTE_US)


class Use(NamedTuple):
    """A task run started, and what that spent of one limit."""

    at: int
    key: str
    units: int
    row: RateLimitRow
    """The bucket as it was stored then."""
    life: int
    """How often the limit had been deleted; who puts it again begins anew."""


class Book:
    """What outlives an engine: task runs that wait, and all that was ever spent."""

    def __init__(self, clock: VirtualClock, disk: MemoryDisk) -> None:
        self.clock = clock
        self.disk = disk
        self.waiting: dict[int, tuple[tuple[str, int], ...]] = {}
        """By number: the limits that a task run needs units of."""
        self.uses: list[Use] = []
        self.failed: set[int] = set()
        self.rows: dict[str, RateLimitRow] = {}
        self.lives: Counter[str] = Counter()

    def start(self, number: int) -> None:
        for key, units in self.waiting.pop(number):
            row = self.disk.rate_limits.get((TENANT, key))
            if row is not None:
                self.rows[key] = row
            self.uses.append(Use(self.clock.monotonic(), key, units, self.rows[key], self.lives[key]))


class Queue(Actor):
    """The part of `TenantQueue` that has to do with limits. Every slot is free."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.units: Counter[str] = Counter()
        self.limits: dict[str, int | None] = {}
        self.asked: Counter[str] = Counter()
        self.buckets: Directory[str]

    def connect(self, buckets: "Directory[str]") -> None:
        self.buckets = buckets
        self.match()

    def match(self) -> None:
        waiting = self.book.waiting
        for number, needs in list(waiting.items()):
            limits = [self.limits.get(key) for key, _ in needs]
            if any(
                limit is not None and units > limit for limit, (_, units) in zip(limits, needs, strict=True)
            ):
                del waiting[number]
                self.book.failed.add(number)
            elif all(self.units[key] >= units for key, units in needs):
                self.units.subtract(dict(needs))
                self.book.start(number)
        wanted: Counter[str] = Counter()
        for needs in waiting.values():
            wanted.update(dict(needs))
        for key in KEYS:
            missing = max(wanted[key] - self.units[key], 0)
            if missing != self.asked[key]:
                self.asked[key] = missing
                self.buckets.send(key, "ask", missing)
            if self.units[key] > wanted[key]:
                self.buckets.send(key, "give_back", self.units[key] - wanted[key])
                self.units[key] = wanted[key]

    def credits(self, key: str, units: int) -> None:
        self.units[key] += units
        self.asked[key] = max(self.asked[key] - units, 0)
        self.match()

    def credits_over(self, key: str) -> int:
        dropped, self.units[key] = self.units[key], 0
        self.match()
        return dropped

    def limit_is(self, key: str, limit: int | None) -> None:
        self.limits[key] = limit
        self.match()


class Gateway(Actor):
    def deliver(self, messages: object) -> None:
        """Nobody listens."""


class Gate(NoFaults):
    """Lets commits through, or lets them hang."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def on_commit(self, epoch: int, flush: int, batch: Batch) -> CommitFault:
        await self.is_open.wait()
        return CommitFault.NONE


class Engine:
    """Buckets and what they stand on, from a start to its kill."""

    def __init__(self, book: Book, clock: VirtualClock, loop: VirtualLoop, seed: int) -> None:
        self.crashes: list[BaseException] = []
        self.gate = Gate()
        self.store = MemoryStore(book.disk, self.gate, now=clock.now)
        self.runtime = Runtime(
            clock, SeededRng(seed), loop, on_crash=lambda crash: self.crashes.append(crash.error)
        )
        epoch = loop.run_until_complete(self.store.open_shards())
        self.runtime.connect(timekeeper=self.runtime.spawn(Timekeeper, loop))
        journal = self.runtime.spawn(Journal, self.store, epoch, lambda: None)
        self.runtime.connect(journal=journal)
        self.gateway = self.runtime.spawn(Gateway)
        self.queue = self.runtime.spawn(Queue, book, lane=TENANT)
        reader = RateLimitReader(self.store, TENANT)
        self.buckets: Directory[str] = Directory(
            self.runtime,
            lambda key: self.runtime.spawn(
                RateLimitBucket, TENANT, key, reader, self.queue, Telemetry(), lane=TENANT
            ),
        )
        self.queue.connect.send(self.buckets)

    def bucket(self, key: str) -> RateLimitBucket | None:
        handle = self.buckets.get(key)
        return None if handle is None else handle._inbox.actor


class Lives(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.loop = VirtualLoop(self.clock)
        self.book = Book(self.clock, MemoryDisk())
        self.engine = Engine(self.book, self.clock, self.loop, 1)
        self.numbers = 0
        self.requests = 0
        self.is_noticed_at = 0
        self.last_change: dict[str, int] = defaultdict(int)
        """By key: after which use what its windows are compared with is no more: a limit changed, or time cannot be compared."""

    def teardown(self) -> None:
        try:
            self.engine.gate.is_open.set()
            self.serve_all()
        finally:
            self.loop.run_until_complete(self.engine.runtime.stop_all())
            self.loop.close()

    def serve_all(self) -> None:
        """No pause any more, every limit large enough: nobody waits after as many windows as it takes."""
        for key in KEYS:
            self.delete(key)
            self.put(key, 4, SECOND_US)
        most = sum(units for needs in self.book.waiting.values() for _, units in needs)
        self.pass_time(2 * most + 10)
        assert not self.book.waiting

    # ------------------------------------------------------------ what happens

    def run(self) -> None:
        """Until everything has been said that needs no time."""

        async def turn() -> None:
            for _ in range(40):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    def pass_time(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.run()

    def changed(self, key: str) -> None:
        self.last_change[key] = len(self.book.uses)

    @initialize(limit=st.integers(1, 5), window=st.sampled_from(WINDOWS))
    def begin(self, limit: int, window: int) -> None:
        self.put("a", limit, window)

    @rule(key=st.sampled_from(KEYS), units=st.integers(1, 3), count=st.integers(1, 4))
    def want(self, key: str, units: int, count: int) -> None:
        for _ in range(count):
            self.numbers += 1
            self.book.waiting[self.numbers] = ((key, units),)
        self.engine.queue.match.send()
        self.run()

    @rule(units=st.tuples(st.integers(1, 2), st.integers(1, 2)), is_turned=st.booleans())
    def want_both(self, units: tuple[int, int], is_turned: bool) -> None:
        needs = tuple(zip(KEYS, units, strict=True))
        self.numbers += 1
        self.book.waiting[self.numbers] = needs[::-1] if is_turned else needs
        self.engine.queue.match.send()
        self.run()

    @precondition(lambda self: self.book.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        del self.book.waiting[data.draw(st.sampled_from(sorted(self.book.waiting)))]
        self.engine.queue.match.send()
        self.run()

    @rule(key=st.sampled_from(KEYS), limit=st.integers(0, 5), window=st.sampled_from(WINDOWS))
    def put(self, key: str, limit: int, window: int) -> None:
        self.requests += 1
        self.changed(key)
        self.engine.buckets.send(
            key, "put", self.engine.gateway, PutRateLimit(self.requests, TENANT, key, limit, window)
        )
        self.run()

    @rule(key=st.sampled_from(KEYS), limit=st.integers(-1, 5), seconds=st.sampled_from((1, 5, 60)))
    def define(self, key: str, limit: int, seconds: int) -> None:
        self.changed(key)
        self.engine.buckets.send(key, "define", limit, seconds)
        self.run()

    @rule(key=st.sampled_from(KEYS), seconds=st.integers(-10, 100))
    def pause(self, key: str, seconds: int) -> None:
        self.requests += 1
        until = self.clock.now() + seconds * SECOND_US
        self.engine.buckets.send(
            key, "pause", self.engine.gateway, PauseRateLimit(self.requests, TENANT, key, until)
        )
        self.run()

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: str) -> None:
        self.requests += 1
        self.changed(key)
        self.book.lives[key] += 1
        message = DeleteRateLimit(self.requests, TENANT, key)
        self.engine.buckets.send(key, "delete", self.engine.gateway, message)
        self.run()

    @rule()
    def let_commits_hang(self) -> None:
        self.engine.gate.is_open.clear()

    @rule()
    def let_commits_through(self) -> None:
        self.engine.gate.is_open.set()
        self.run()

    @rule(milliseconds=st.sampled_from((1, 100, 499, 500, 999, 1_000, 1_001, 5_000)))
    def let_pass(self, milliseconds: int) -> None:
        self.pass_time(milliseconds / 1_000)

    @rule()
    def let_retire(self) -> None:
        self.pass_time(150)

    @rule(seconds=st.sampled_from((-3_600, -1, 1, 3_600)))
    def set_wall_clock(self, seconds: int) -> None:
        self.clock.shift_wall(seconds * SECOND_US)
        # A pause that ends by it is noticed a minute later.
        self.is_noticed_at = self.clock.monotonic() + MINUTE_US

    @rule()
    def kill(self) -> None:
        """kill -9 and a start: what was not committed never was."""
        engine = self.engine
        engine.store.crash()
        self.loop.run_until_complete(engine.runtime.stop_all())
        # What was on its way to a commit that never came.
        engine.gate.is_open.set()
        self.run()
        self.engine = Engine(self.book, self.clock, self.loop, self.requests)
        self.run()

    @rule(wall_seconds=st.sampled_from((0, 0, 0, -3_600, 3_600)))
    def start_machine_anew(self, wall_seconds: int) -> None:
        """The monotonic clock is another now; the wall clock is all that there is to go by."""
        self.clock.timeline += 1
        self.clock.shift_wall(wall_seconds * SECOND_US)
        for key in KEYS:
            self.changed(key)
        self.kill()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def nothing_crashed(self) -> None:
        assert not self.engine.crashes

    @invariant()
    def no_window_gives_more_than_its_limit(self) -> None:
        spent: Counter[tuple[str, int, int, int]] = Counter()
        limits: dict[tuple[str, int, int, int], int] = {}
        for use in self.book.uses:
            window = (use.key, use.life, use.row.timeline, use.row.monotonic_start)
            spent[window] += use.units
            limits[window] = max(limits.get(window, 0), use.row.limit_value or 0)
            assert use.at <= use.row.monotonic_start + use.row.window_us, f"{use}: after its window's end"
        for window, units in spent.items():
            assert units <= limits[window], f"{window}: {units} of {limits[window]}"

    @invariant()
    def windows_do_not_overlap(self) -> None:
        for key in KEYS:
            recent = [use for use in self.book.uses[self.last_change[key] :] if use.key == key]
            for before, after in itertools.pairwise(recent):
                started, next_started = before.row.monotonic_start, after.row.monotonic_start
                assert next_started == started or next_started >= started + before.row.window_us

    @invariant()
    def nobody_waits_for_units_that_are_there(self) -> None:
        if not self.engine.gate.is_open.is_set():
            return
        queue = self.engine.queue._inbox.actor
        for needs in self.book.waiting.values():
            if len(needs) > 1:
                continue
            ((key, units),) = needs
            bucket = self.engine.bucket(key)
            assert bucket is not None, "somebody waits, and the bucket has retired"
            state = bucket._bucket
            is_paused = state.is_paused(self.clock.now()) or (
                state.paused_until is not None and self.clock.monotonic() < self.is_noticed_at
            )
            if state.limit and not is_paused:
                # A timer may be 10 ms late, and one of this very moment not have fired yet.
                there = state.limit if state.is_over(self.clock.monotonic() - 20_000) else state.left
                assert queue.units[key] + there < units, f"{units} of {key} are there, and waited for"

    @invariant()
    def what_is_stored_never_says_more_than_there_is(self) -> None:
        """What a crash would bring back is not more than what is left now."""
        for key in KEYS:
            bucket, row = self.engine.bucket(key), self.book.disk.rate_limits.get((TENANT, key))
            if bucket is None or bucket._early is not None or row is None:
                continue
            state = bucket._bucket
            if bucket._committed == bucket._recorded and row.monotonic_start == state.started_at:
                assert row.units_left <= state.left


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
