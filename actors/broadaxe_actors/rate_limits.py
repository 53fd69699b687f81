"""Rate limits: the window of a bucket, what is left of it, and which of several definitions is in force. Pure.

A bucket gives at most its limit in each of its windows. A window begins with all units, those taken stay taken to its end, then all are
there again; there is no gradual refill. Facts to know:

- Windows are measured by the monotonic clock, so that a step of the wall clock neither lengthens nor repeats one. The wall clock's time of
  a window's start is stored as well: for people, and for an engine that cannot compare its monotonic clock with that of the one before.
- A window that has ended stays as it is until units are asked for: the next one begins then.
- A new limit, or a new length, acts on the window under way. What is left of that is only ever lowered.
- Dynamic definitions of one key may differ. Of those in use the lowest limit and the longest window count. A definition is in use while
  task runs with it line up, and while any waited for units ever since one did.
"""

from collections.abc import Mapping

from broadaxe_storage.records import RateLimitRow

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 24 * 60 * MINUTE_US
WINDOWS_US: Mapping[str, int] = {
    "SECOND": SECOND_US,
    "MINUTE": MINUTE_US,
    "HOUR": 60 * MINUTE_US,
    "DAY": DAY_US,
    "WEEK": 7 * DAY_US,
    "MONTH": 30 * DAY_US,
    "YEAR": 365 * DAY_US,
}
"""Length of a window by the wire's name of its duration."""
MAX_KEY_LENGTH = 10_000
MAX_LIMIT = 2**53 - 1
"""The largest integer that every reader of JSON keeps; a dynamic limit above counts as this."""
IN_USE_US = MINUTE_US
"""For how long a definition counts at most once nobody lines up with it any more; two windows if those are shorter."""
WAITED_FOR_US = 5 * MINUTE_US
"""The same while units are waited for: how long a task run waits at most unless its definition says otherwise."""
MAX_DEFINITIONS = 64
"""Different definitions of one key that are remembered; past it the one seen last longest ago is forgotten."""
STEP_US = 100_000
"""By how much the wall clock must have gone its own way before a stored start follows it: less is the time between two readings."""


def key_problem(key: str) -> str | None:
    """Why a text cannot be the key of a rate limit, or None if it can."""
    if not key:
        return "is empty"
    if len(key) > MAX_KEY_LENGTH:
        return f"has {len(key):,} characters, expected at most {MAX_KEY_LENGTH:,}"
    if "\0" in key:
        return "holds a null character"
    try:
        key.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character"
    return None


def window_text(window_us: int) -> str:
    """The length of a window for people: `1 minute`."""
    for name, length in WINDOWS_US.items():
        if length == window_us:
            return f"1 {name.lower()}"
    return f"{window_us / SECOND_US:g} seconds"


def units_of(row: RateLimitRow, now: int) -> int:
    """The units of a stored bucket that are there at a time by the wall clock."""
    return (row.limit_value or 0) if row.window_start + row.window_us <= now else row.units_left


class Bucket:
    """One bucket. `now` is the monotonic clock's time, `wall` the wall clock's."""

    __slots__ = (
        "_definitions",
        "_wall_start",
        "left",
        "limit",
        "paused_until",
        "started_at",
        "unwaited_at",
        "window_us",
    )

    def __init__(self) -> None:
        self.limit: int | None = None
        """None: not put yet, and no units at all."""
        self.window_us = MINUTE_US
        self.left = 0
        self.started_at = 0
        self.paused_until: int | None = None
        """By the wall clock, as who asked for it meant."""
        self.unwaited_at = 0
        """When last nobody waited for units."""
        self._wall_start = 0
        self._definitions: dict[tuple[int, int], int] = {}
        """Dynamic definitions (limit, window) with the time when last a task run lined up with each, in that order."""

    # ------------------------------------------------------------ the window

    @property
    def ends_at(self) -> int:
        """The end of the window under way, or of the last one."""
        return self.started_at + self.window_us

    def is_over(self, now: int) -> bool:
        """Whether no window is under way."""
        return self.limit is None or now >= self.ends_at

    def is_paused(self, wall: int) -> bool:
        return self.paused_until is not None and wall < self.paused_until

    def begin(self, now: int, wall: int) -> None:
        """Begin a window, with all units there."""
        self.started_at, self._wall_start = now, wall
        self.left = self.limit or 0

    def take(self, units: int) -> int:
        """Take of these units what is left of the window under way; returns how many."""
        taken = min(units, self.left)
        self.left -= taken
        return taken

    def give_back(self, units: int) -> None:
        """Units that were taken of this window and not used."""
        self.left = min(self.left + units, self.limit or 0)

    # ------------------------------------------------------------ definitions

    def put(self, limit: int, window_us: int, now: int, wall: int) -> bool:
        """Set limit and window, whatever was defined before. Returns whether that changes anything."""
        self._definitions.clear()
        return self._set(limit, window_us, now, wall)

    def define(self, limit: int, window_us: int, now: int, wall: int) -> bool:
        """A task run lines up with this definition; a negative limit leaves the bucket alone. Returns whether that changes anything."""
        if limit < 0:
            return False
        definition = (min(limit, MAX_LIMIT), window_us)
        seen = self._definitions
        seen.pop(definition, None)
        seen[definition] = now
        if len(seen) == 1:
            return self._set(*definition, now, wall)
        for other, at in tuple(seen.items()):
            if not self._is_in_use(at, now) or len(seen) > MAX_DEFINITIONS:
                del seen[other]
        return self._set(min(item[0] for item in seen), max(item[1] for item in seen), now, wall)

    def _is_in_use(self, seen_at: int, now: int) -> bool:
        unseen = now - seen_at
        return unseen <= min(IN_USE_US, 2 * self.window_us) or (
            self.unwaited_at <= seen_at and unseen <= WAITED_FOR_US
        )

    def _set(self, limit: int, window_us: int, now: int, wall: int) -> bool:
        if (limit, window_us) == (self.limit, self.window_us):
            return False
        if self.limit is None:
            self.limit, self.window_us = limit, window_us
            self.begin(now, wall)
            return True
        if self.is_over(now):
            # A longer window must not bring back what was spent of one that has ended.
            self.started_at = min(self.started_at, now - window_us)
        self.limit, self.window_us = limit, window_us
        self.left = min(self.left, limit)
        return True

    # ------------------------------------------------------------ the record

    @classmethod
    def restored(cls, row: RateLimitRow, now: int, wall: int, timeline: int) -> "Bucket":
        """A bucket from the record."""
        bucket = cls()
        bucket.limit, bucket.window_us = row.limit_value, row.window_us
        bucket.left, bucket.paused_until = row.units_left, row.paused_until
        is_ours = row.timeline == timeline
        elapsed = now - row.monotonic_start if is_ours else wall - row.window_start
        # Neither a clock that was set back, nor one that stood still, makes a window longer than it is.
        bucket.started_at = now - max(elapsed, 0)
        bucket._wall_start = min(row.window_start, wall)
        return bucket

    def to_row(self, tenant_id: str, key: str, now: int, wall: int, timeline: int) -> RateLimitRow:
        """The bucket as it is stored."""
        wall_start = wall - (now - self.started_at)
        if abs(wall_start - self._wall_start) > STEP_US:
            self._wall_start = wall_start
        return RateLimitRow(
            tenant_id=tenant_id,
            key=key,
            limit_value=self.limit,
            window_us=self.window_us,
            window_start=self._wall_start,
            units_left=self.left,
            paused_until=self.paused_until,
            timeline=timeline,
            monotonic_start=self.started_at,
            updated_at=wall,
        )
