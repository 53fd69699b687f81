"""`RateLimitBucket`: one rate limit of a tenant, by key. It grants units of its window to `TenantQueue`, and no more than the limit.

Activated by the first message; then it reads its row, and keeps what comes meanwhile. A spend is recorded, and only once that is committed
does the queue get the units: in a crash units are lost, never given twice. When a window ends, the queue is told to drop what it has left of
it, and the next window opens when it has: so whatever it gives back before then is of the old window, whatever comes after of the new one. The same when a limit is paused or lowered; what the queue says that it has dropped
is there again then. A bucket retires when nobody has asked for long enough and its row says all that it knows. May touch the runtime, `rate_limits`, the store's port.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from broadaxe_actors.messages import DeleteRateLimit, PauseRateLimit, PutRateLimit, Reply
from broadaxe_actors.rate_limits import IN_USE_US, SECOND_US, Bucket
from broadaxe_actors.runtime import Actor, ActorStopped, Handle
from broadaxe_actors.telemetry import Telemetry
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import RateLimitDrop, RateLimitRow
from broadaxe_storage.store import ShardStore

READ_AT_ONCE = 1_000
"""Rows read by one query."""
READ_AGAIN_US = 250_000
LOOK_AGAIN_US = 60_000_000
"""How long a pause is slept through at most: the wall clock, by which it ends, may have been set forward meanwhile."""

Limit = int | None
_UNTOLD = -1


class RateLimitReader:
    """Reads the rows of a tenant's buckets; those that come up together are read together. They share it, and nothing else."""

    def __init__(self, store: ShardStore, tenant_id: str) -> None:
        self._store = store
        self._tenant_id = tenant_id
        self._keys: list[str] = []
        self._reading: asyncio.Task[Mapping[str, RateLimitRow]] | None = None
        """The next query, as long as keys may still join it."""

    async def fetch(self, key: str) -> RateLimitRow | None:
        """The stored bucket of that key. Raises `Unavailable`."""
        if self._reading is None or len(self._keys) >= READ_AT_ONCE:
            self._keys = []
            self._reading = asyncio.get_running_loop().create_task(self._read(self._keys))
            # Looked at, so that nobody complains of an error whose askers have all gone.
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._keys.append(key)
        return (await asyncio.shield(self._reading)).get(key)

    async def _read(self, keys: list[str]) -> Mapping[str, RateLimitRow]:
        if self._keys is keys:
            self._reading = None
        return {row.key: row for row in await self._store.fetch_rate_limits(self._tenant_id, keys)}


class RateLimitBucket(Actor):
    """See the module."""

    def __init__(
        self,
        tenant_id: str,
        key: str,
        reader: RateLimitReader,
        queue: "Handle[Any]",
        telemetry: Telemetry,
    ) -> None:
        super().__init__()
        self._tenant_id = tenant_id
        self._key = key
        self._reader = reader
        self._queue = queue
        self._telemetry = telemetry
        self._bucket = Bucket()
        self._early: list[tuple[str, tuple[Any, ...]]] | None = []
        """Messages that came before the row was read; None once it has been."""
        self._wanted = 0
        """Units that waiting task runs could use, of which the queue has none yet."""
        self._in_flight = 0
        """Units of this window whose spend is recorded and not yet committed."""
        self._handed = 0
        """Units of this window that the queue has been given, and has not given back."""
        self._window = 0
        """Counts the windows, so that a spend that is committed after its window's end is known as one."""
        self._is_closing = False
        """The queue has been told to drop what it has, and has not done so yet: nothing is granted."""
        self._is_lowered = False
        """The limit was higher when the queue was given what it has."""
        self._recorded = 0
        self._committed = 0
        self._is_unsaved = False
        """Units came back since the last record. Not worth one at once: a crash just loses them."""
        self._told: Limit = _UNTOLD
        """The limit that the queue knows, once it has asked."""
        self._held = 0
        """Units that could not be granted, as counted already."""
        self._used_at = self.clock.monotonic()
        self._wake_at: int | None = None
        self._load()

    # ------------------------------------------------------------ the row

    def _load(self) -> None:
        self.fetch(self._reader.fetch, self._key, then=self.me.loaded)

    def loaded(self, _context: object, row: RateLimitRow | None, error: BaseException | None) -> None:
        """The row has been read; None for a key that has none."""
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self.set_timer("load", READ_AGAIN_US, self.me.load_again)
            return
        if row is not None:
            self._bucket = Bucket.restored(row, self.clock.monotonic(), self.clock.now(), self.clock.timeline)
        early, self._early = self._early or [], None
        for name, args in early:
            getattr(self, name)(*args)
        self._settle()

    def load_again(self) -> None:
        """Postgres may be back."""
        self._load()

    def _is_early(self, name: str, *args: Any) -> bool:
        """Keep a message until the row is there."""
        if self._early is None:
            self._used_at = self.clock.monotonic()
            return False
        self._early.append((name, args))
        return True

    # ------------------------------------------------------------ what the queue tells

    def ask(self, units: int) -> None:
        """Waiting task runs could use these units in all, beside what the queue has; they come by `credits`, now or in windows to come."""
        if self._is_early("ask", units):
            return
        self._wanted = units
        if self._told == _UNTOLD:
            self._tell()
        self._settle()

    def give_back(self, units: int) -> None:
        """The queue has no use for units that it was given in this window."""
        if self._is_early("give_back", units):
            return
        units = min(units, self._handed)
        self._handed -= units
        self._bucket.give_back(units)
        self._is_unsaved = self._is_unsaved or units > 0
        self._settle()

    # ------------------------------------------------------------ definitions

    def define(self, limit: int, duration_s: int) -> None:
        """A task run lines up whose definition says this; a negative limit says nothing."""
        if self._is_early("define", limit, duration_s):
            return
        before = self._bucket.limit or 0
        if self._bucket.define(limit, duration_s * SECOND_US, self.clock.monotonic(), self.clock.now()):
            self._changed(before)
        self._settle()

    def put(self, gateway: "Handle[Any]", message: PutRateLimit) -> None:
        """Set the limit from outside."""
        if self._is_early("put", gateway, message):
            return
        before = self._bucket.limit or 0
        if self._bucket.put(message.limit, message.window_us, self.clock.monotonic(), self.clock.now()):
            self._changed(before)
        self._reply(gateway, message.request_id, None)
        self._settle()

    def pause(self, gateway: "Handle[Any]", message: PauseRateLimit) -> None:
        """Grant nothing until then; an earlier time than one that was asked for before changes nothing."""
        if self._is_early("pause", gateway, message):
            return
        bucket = self._bucket
        until = max(message.until, bucket.paused_until or message.until)
        if until != bucket.paused_until:
            bucket.paused_until = until
            self._save()
        self._reply(gateway, message.request_id, until)
        self._settle()

    def delete(self, gateway: "Handle[Any]", message: DeleteRateLimit) -> None:
        """Forget the bucket: who waits for it waits until it is put or defined again."""
        if self._is_early("delete", gateway, message):
            return
        self._bucket = Bucket()
        self._new_window()
        self._is_unsaved = False
        self._commit(RateLimitDrop(self._tenant_id, self._key), 0)
        if self._told != _UNTOLD:
            self._tell()
        self._reply(gateway, message.request_id, None)
        self._settle()

    def _changed(self, limit_before: int) -> None:
        """Limit or window are others than before."""
        now = self.clock.monotonic()
        if self._bucket.is_over(now) and not self._handed:
            self._begin(now)
        self._save()
        self._is_lowered = self._is_lowered or (self._bucket.limit or 0) < limit_before
        if self._told != _UNTOLD:
            self._tell()

    def _tell(self) -> None:
        limit = self._bucket.limit
        if limit != self._told:
            self._told = limit
            self._queue.limit_is.send(self._key, limit)

    def _reply(self, gateway: "Handle[Any]", request_id: int, value: object) -> None:
        self.send_after_commit(gateway.deliver, (Reply(request_id, value),))

    # ------------------------------------------------------------ granting

    def _settle(self) -> None:
        """Grant what may be granted now, and see what there is to wait for. Every handler ends with it."""
        if self._early is not None or self._is_closing:
            return
        now, wall = self.clock.monotonic(), self.clock.now()
        bucket = self._bucket
        is_paused = bucket.is_paused(wall)
        units = 0
        if self._handed and (is_paused or self._is_lowered or bucket.is_over(now)):
            self._take_back()
            return
        self._is_lowered = False
        if self._wanted > self._in_flight and bucket.limit and not is_paused:
            if bucket.is_over(now):
                self._begin(now)
            units = bucket.take(self._wanted - self._in_flight)
            if units:
                self._in_flight += units
                self._save(units)
        missing = self._wanted - self._in_flight
        if missing > self._held:
            self._telemetry.count("rate_limited", self._tenant_id, missing - self._held)
        if missing <= 0 and (units or self._held):
            bucket.unwaited_at = now
        self._held = max(missing, 0)
        self._wait(now, wall)

    def committed(self, number: int, window: int, units: int) -> None:
        """A record is durable: the units that it spent may be used, if their window goes on."""
        self._committed = number
        if units and window == self._window:
            self._in_flight -= units
            self._hand_over(units)
        self._settle()

    def _hand_over(self, units: int) -> None:
        bucket = self._bucket
        if bucket.is_over(self.clock.monotonic()):
            return
        useful = min(units, self._wanted)
        if self._is_closing or bucket.is_paused(self.clock.now()):
            useful = 0
        if useful:
            self._handed += useful
            self._wanted -= useful
            self._queue.credits.send(self._key, useful)
        if useful < units:
            bucket.give_back(units - useful)
            self._is_unsaved = True

    def _save(self, units: int = 0) -> None:
        clock = self.clock
        self._is_unsaved = False
        self._commit(
            self._bucket.to_row(self._tenant_id, self._key, clock.monotonic(), clock.now(), clock.timeline),
            units,
        )

    def _commit(self, record: RateLimitRow | RateLimitDrop, units: int) -> None:
        self._recorded += 1
        self.record(record)
        self.send_after_commit(self.me.committed, self._recorded, self._window, units)

    # ------------------------------------------------------------ from window to window

    def _begin(self, now: int) -> None:
        self._bucket.begin(now, self.clock.now())
        self._new_window()

    def _new_window(self) -> None:
        self._window += 1
        self._in_flight = 0

    def _take_back(self) -> None:
        """Have the queue drop what it holds. Asked, not told: what it gave back before must not be taken for the next window's."""
        self._is_closing = True
        self.fetch(self._queue.credits_over.remote, self._key, then=self.me.dropped)

    def dropped(self, _context: object, units: int | None, error: BaseException | None) -> None:
        """The queue holds nothing of this bucket any more; it had these units, if it says so."""
        if error is not None:
            if isinstance(error, ActorStopped):
                return  # the tenant's actors are going down
            raise error
        if units:
            self._bucket.give_back(min(units, self._handed))
            self._is_unsaved = True
        self._is_closing = self._is_lowered = False
        self._handed = 0
        self._settle()

    # ------------------------------------------------------------ time

    def wake(self) -> None:
        """A window or a pause may be over, or the bucket idle for long enough."""
        self._wake_at = None
        self._settle()

    def _wait(self, now: int, wall: int) -> None:
        bucket = self._bucket
        if self._held:
            if not bucket.limit:
                return  # until there is a limit, whose coming wakes us
            at = bucket.ends_at
            if bucket.paused_until is not None and bucket.paused_until > wall:
                at = now + min(bucket.paused_until - wall, LOOK_AGAIN_US)
        else:
            idle_at = self._used_at + min(IN_USE_US, 2 * bucket.window_us)
            if now >= idle_at:
                self._rest()
                return
            at = min(idle_at, bucket.ends_at) if self._handed else idle_at
        if self._wake_at is None or self._wake_at > at:
            self._wake_at = at
            self.set_timer("wake", at - now, self.me.wake)

    def _rest(self) -> None:
        """Retire as soon as that loses nothing."""
        if self._handed:
            self._take_back()
        elif self._is_unsaved and self._bucket.limit is not None:
            self._save()
        elif not self._in_flight and self._committed == self._recorded:
            self.retire()
