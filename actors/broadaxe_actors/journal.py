"""`Journal`: records that are not yet committed. It decides when to commit, and nothing else.

Group commit: while one transaction is in flight the next one fills. An append is a tenant's records with the effects
that may leave once they are durable; appends of a tenant commit, and release their effects, in the order they came.

- Log lines wait for nobody: they ride along, or leave after `LOG_HOLD_US`. A crash loses at most those.
- Several records of one task run in a flush become one, guarded by the attempt that the first of them expected; of a rate limit the last
  one is written. A run that is revived waits for the flush after the one that ends it.
- While several tenants are active a flush is short, they take turns within it, and those with little to write go before a bulk: in every
  other flush alone, in the one between along with it.
- Postgres away: the same flush is tried again for ever; nothing is dropped and no effect leaves.
- A commit of unknown outcome is settled by the flush number that the shard row tells.
- A refusal of the data is bisected down to one append; its tenant is told by `records_refused`, the others commit.
- Fenced: another engine owns the shards. Nothing more is written; `on_fenced` is called once.

May touch the store's port, the records, the runtime.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from broadaxe_actors.batch_builder import Append, BatchBuilder, size_of
from broadaxe_actors.runtime import Actor, Handle
from broadaxe_storage.errors import CommitUnknown, Fenced, RefusedRecords, Unavailable
from broadaxe_storage.records import Batch, LogRow
from broadaxe_storage.store import ShardStore, shard_of

logger = logging.getLogger(__name__)

MAX_ROWS_ALONE = 2_000
"""Rows in a flush while one tenant is active."""
MAX_ROWS_SHARED = 100
"""Rows in a flush while several are: some 3 ms, so that a lone record waits that long and takes that long itself."""
RIDER_ROWS = 8
"""Rows of a tenant that find room in a flush behind another's bulk: they cost it little, and would wait for a whole flush."""
SHARED_WINDOW_US = 1_000_000
LOG_HOLD_US = 200_000
FULL_ROWS = 200_000
FULL_BYTES = 128_000_000
"""Records waiting for Postgres past which new triggers and events are refused; reports are held up to four times as much."""
FIRST_PAUSE_US = 50_000
LONGEST_PAUSE_US = 1_000_000


class _Flush(NamedTuple):
    """One transaction's worth of appends."""

    appends: list[Append]
    batch: Batch
    lanes: frozenset[str]


class Journal(Actor):
    """See the module."""

    def __init__(self, store: ShardStore, epoch: int, on_fenced: Callable[[], None]) -> None:
        super().__init__()
        self._store = store
        self._epoch = epoch
        self._on_fenced = on_fenced
        self._flush_number = 0
        self._pending: dict[str, deque[Append]] = {}
        self._logs: list[tuple[str, LogRow]] = []
        self._owners: dict[str, Handle[Any]] = {}
        self._last_append: dict[str, int] = {}
        self._in_flight: _Flush | None = None
        self._queue: deque[_Flush] = deque()
        """Halves of a refused flush, before anything newer."""
        self._pause_us = FIRST_PAUSE_US
        self._is_fenced = False
        self._is_woken = False
        self._was_short = False
        """Whether the last flush left a bulk out, for tenants with little to write."""
        self._is_log_timed = False
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._fullness = 0
        self._on_fullness: Handle[Any] | None = None
        self.flushes = 0
        self.flushed_rows = 0

    # ------------------------------------------------------------ from actors

    def set_owner(self, lane: str, owner: "Handle[Any]") -> None:
        """Who is told when a record of this lane is refused (`records_refused`)."""
        self._owners[lane] = owner

    def tell_fullness(self, listener: "Handle[Any]") -> None:
        """Who is told when so much waits for Postgres that new work must be refused (`journal_fullness`)."""
        self._on_fullness = listener

    def append(
        self,
        lane: str,
        records: tuple[Any, ...],
        effects: tuple[tuple[Any, tuple[Any, ...]], ...],
    ) -> None:
        """Take what a handler recorded; its effects leave once it, and all before it of this lane, is durable."""
        firm = self._hold_logs(lane, records)
        if firm or self._is_behind(lane):
            if firm or effects:
                self._enqueue(Append(lane, firm, effects, sum(map(size_of, firm))))
                self._last_append[lane] = self.clock.monotonic()
        else:
            for bound, args in effects:
                bound.send(*args)

    def _hold_logs(self, lane: str, records: tuple[Any, ...]) -> tuple[Any, ...]:
        """Put log lines aside, and return the rest."""
        if LogRow not in map(type, records):
            return records
        self._logs.extend((lane, record) for record in records if type(record) is LogRow)
        if not self._is_log_timed:
            self._is_log_timed = True
            self.set_timer("logs", LOG_HOLD_US, self.me.flush_logs)
        return tuple(record for record in records if type(record) is not LogRow)

    def _enqueue(self, append: Append) -> None:
        self._pending.setdefault(append.lane, deque()).append(append)
        self._waiting_rows += len(append.records)
        self._waiting_bytes += append.size
        if self._in_flight is not None:
            self._note_fullness()
        self._wake()

    def flush_logs(self) -> None:
        """Log lines have waited long enough."""
        self._is_log_timed = False
        self._wake()

    def drain(self, lane: str, then: Any, *args: Any) -> None:
        """Send `then(*args)` once nothing of this lane is pending, log lines included."""
        logs = tuple(row for row_lane, row in self._logs if row_lane == lane)
        if logs:
            self._logs = [item for item in self._logs if item[0] != lane]
        if not logs and not self._is_behind(lane):
            then.send(*args)
            return
        self._enqueue(Append(lane, logs, ((then, args),)))

    def drop_effects(self, lane: str) -> None:
        """The lane's actors are gone: what they recorded still commits, what they had to say does not leave."""
        waiting = self._pending.get(lane)
        if waiting:
            self._pending[lane] = deque(item._replace(effects=()) for item in waiting)
        if self._in_flight is not None:
            self._in_flight = self._in_flight._replace(
                appends=_without_effects(self._in_flight.appends, lane)
            )
        self._queue = deque(
            flush._replace(appends=_without_effects(flush.appends, lane)) for flush in self._queue
        )

    def drain_all(self) -> None:
        """Write everything held back, now: the server is about to stop."""
        for lane, row in self._logs:
            self._enqueue(Append(lane, (row,), ()))
        self._logs = []
        self._wake()

    def is_drained(self) -> bool:
        """Whether nothing is pending or in flight that may still be written; a fenced journal writes nothing more."""
        return self._is_fenced or not (self._pending or self._in_flight or self._queue or self._logs)

    def _note_fullness(self) -> None:
        """0: all is taken; 1: new work is refused; 2: reports are refused too."""
        share = max(self._waiting_rows / FULL_ROWS, self._waiting_bytes / FULL_BYTES)
        fullness = 2 if share >= 4 else 1 if share >= 1 else 0
        if fullness < self._fullness and share > 0.5 * self._fullness:
            return
        if fullness != self._fullness:
            self._fullness = fullness
            if self._on_fullness is not None:
                self._on_fullness.journal_fullness.send(fullness)

    # ------------------------------------------------------------ flushing

    def _is_behind(self, lane: str) -> bool:
        if self._pending.get(lane):
            return True
        if self._in_flight is not None and lane in self._in_flight.lanes:
            return True
        return any(lane in flush.lanes for flush in self._queue)

    def _wake(self) -> None:
        if not self._is_woken and self._in_flight is None:
            self._is_woken = True
            self.me.flush.send()

    def flush(self) -> None:
        """Start the next transaction, unless one is in flight."""
        self._is_woken = False
        if self._in_flight is not None or self._is_fenced:
            return
        flush = self._queue.popleft() if self._queue else self._next_flush()
        if flush is None:
            return
        self._in_flight = flush
        self._flush_number += 1
        self._commit()

    def _commit(self) -> None:
        assert self._in_flight is not None
        shards = sorted({shard_of(lane) for lane in self._in_flight.lanes})
        self.fetch(
            self._store.commit,
            self._epoch,
            self._flush_number,
            shards,
            self._in_flight.batch,
            then=self.me.flushed,
            context=self._flush_number,
        )

    def _next_flush(self) -> _Flush | None:
        now = self.clock.monotonic()
        builder = BatchBuilder()
        appends: list[Append] = []
        limit = self._row_limit(now)
        taken: dict[str, int] = {}
        waiting = self._lanes_in_turn(limit)
        while waiting:
            still: list[tuple[str, deque[Append]]] = []
            for lane, queue in waiting:
                append = queue[0]
                rows = taken.get(lane, 0) + len(append.records)
                room = 2 * limit if rows <= RIDER_ROWS else limit
                if not builder.has_room(append, room) or not builder.fits(append):
                    continue
                taken[lane] = rows
                queue.popleft()
                self._waiting_rows -= len(append.records)
                self._waiting_bytes -= append.size
                builder.add(append)
                appends.append(append)
                if queue:
                    still.append((lane, queue))
            waiting = still
        # Lanes that had their turn go to the back, those with nothing left are forgotten.
        self._pending = {
            lane: queue
            for lane, queue in sorted(self._pending.items(), key=lambda item: item[0] in builder.lanes)
            if queue
        }
        self._add_logs(builder, appends)
        if not appends:
            return None
        return _Flush(appends, builder.batch(), frozenset(builder.lanes))

    def _lanes_in_turn(self, limit: int) -> list[tuple[str, deque[Append]]]:
        """Who writes in the next flush, in order. Short lanes go before a bulk, but it waits for one such flush at most."""
        lanes = list(self._pending.items())
        if self._was_short or limit != MAX_ROWS_SHARED:
            self._was_short = False
            return lanes
        short = [
            (lane, queue)
            for lane, queue in lanes
            if len(queue) <= RIDER_ROWS and sum(len(append.records) for append in queue) <= RIDER_ROWS
        ]
        self._was_short = 0 < len(short) < len(lanes)
        return short if self._was_short else lanes

    def _row_limit(self, now: int) -> int:
        recent = sum(1 for at in self._last_append.values() if now - at < SHARED_WINDOW_US)
        if len(self._last_append) > 64:
            self._last_append = {
                lane: at for lane, at in self._last_append.items() if now - at < SHARED_WINDOW_US
            }
        return MAX_ROWS_SHARED if recent > 1 else MAX_ROWS_ALONE

    def _add_logs(self, builder: BatchBuilder, appends: list[Append]) -> None:
        """Log lines ride along with whatever is written."""
        for lane, row in self._logs:
            append = Append(lane, (row,), ())
            builder.add(append)
            appends.append(append)
        self._logs = []

    # ------------------------------------------------------------ outcomes

    def flushed(self, number: int, _result: object, error: BaseException | None) -> None:
        """A transaction has an outcome."""
        flush = self._in_flight
        assert flush is not None
        assert number == self._flush_number
        if error is None:
            self._succeed(flush)
        elif isinstance(error, Fenced):
            self._is_fenced = True
            logger.error("another engine has taken over the shards: nothing more is written here")
            self._on_fenced()
        elif isinstance(error, CommitUnknown):
            logger.warning("the connection was lost during a commit; asking for its outcome")
            self._ask_outcome(flush)
        elif isinstance(error, Unavailable):
            logger.warning("Postgres is away, trying again: %s", error)
            self._pause(self.me.retry)
        elif isinstance(error, RefusedRecords):
            self._bisect(flush, error)
        else:
            raise error

    def _succeed(self, flush: _Flush) -> None:
        self._pause_us = FIRST_PAUSE_US
        self._in_flight = None
        self._note_fullness()
        self.flushes += 1
        for append in flush.appends:
            self.flushed_rows += len(append.records)
            for bound, args in append.effects:
                bound.send(*args)
        if self._queue or self._pending:
            self._wake()

    def _pause(self, then: Any) -> None:
        self.set_timer("pause", self._pause_us, then)
        self._pause_us = min(LONGEST_PAUSE_US, self._pause_us * 2)

    def retry(self) -> None:
        """Postgres may be back: the same flush again."""
        self._commit()

    def _ask_outcome(self, flush: _Flush) -> None:
        self.fetch(self._store.read_flush, shard_of(next(iter(flush.lanes))), then=self.me.outcome)

    def outcome(self, _context: object, result: tuple[int, int] | None, error: BaseException | None) -> None:
        """What the shard row tells of a commit whose answer was lost."""
        flush = self._in_flight
        assert flush is not None
        if error is not None:
            if not isinstance(error, Unavailable | CommitUnknown):
                raise error
            self._pause(self.me.ask_outcome_again)
            return
        assert result is not None
        epoch, number = result
        if epoch != self._epoch:
            self.flushed(self._flush_number, None, Fenced(self._epoch))
        elif number == self._flush_number:
            self._succeed(flush)
        else:
            self._commit()

    def ask_outcome_again(self) -> None:
        """Postgres may be back: ask for the outcome again."""
        assert self._in_flight is not None
        self._ask_outcome(self._in_flight)

    def _bisect(self, flush: _Flush, error: RefusedRecords) -> None:
        self._in_flight = None
        if len(flush.appends) > 1:
            middle = len(flush.appends) // 2
            self._queue.extendleft(
                reversed([_reflush(flush.appends[:middle]), _reflush(flush.appends[middle:])])
            )
        else:
            append = flush.appends[0]
            logger.warning("Postgres refused a record of tenant %s: %s", append.lane, error)
            owner = self._owners.get(append.lane)
            if owner is not None:
                owner.records_refused.send(append.records, append.effects, str(error))
        self._wake()


def _reflush(appends: list[Append]) -> _Flush:
    builder = BatchBuilder()
    for append in appends:
        builder.add(append)
    return _Flush(appends, builder.batch(), frozenset(builder.lanes))


def _without_effects(appends: list[Append], lane: str) -> list[Append]:
    return [item._replace(effects=()) if item.lane == lane else item for item in appends]
