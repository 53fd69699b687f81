"""Cron expressions: which there are, and when they tick. Pure; `croniter` does the arithmetic.

Five fields (minute, hour, day, month, weekday), or six with the seconds first; an alias such as `@daily`; before either `TZ=Europe/Berlin`,
else UTC. A tick is a time in microseconds since the epoch, always at a whole second.
"""

import re
from datetime import datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, croniter

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MAX_LENGTH = 255
SECOND_US = 1_000_000
_ZONE = re.compile(r"(?:CRON_)?TZ=(\S+)\s+(.*)", re.DOTALL)
_FIELDS = re.compile(r"[0-9A-Za-z*/,#?-]+( [0-9A-Za-z*/,#?-]+){4,5}")
_HASHED = re.compile(r"(^|[\s,])[hr]($|[\s(/,])", re.IGNORECASE)
"""`H` and `R` of croniter stand for a time that it picks itself."""
_LAST_US = 253_370_764_800_000_000
"""The year 9999: no tick is looked for from there on."""


class InvalidCron(ValueError):
    """A text that is no cron expression; the message says why, and what one looks like."""


class CronExpression:
    """One expression. Raises `InvalidCron` for a text that is none, or that never ticks."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._zone: tzinfo | None = None
        if len(text) > MAX_LENGTH:
            raise InvalidCron(f"it has {len(text):,} characters, expected at most {MAX_LENGTH}")
        rest = text.strip()
        zoned = _ZONE.fullmatch(rest)
        if zoned is not None:
            self._zone = _zone(zoned[1])
            rest = zoned[2].strip()
        elif rest.startswith(("TZ=", "CRON_TZ=")):
            raise InvalidCron(_expected())
        fields = " ".join(ALIASES.get(rest.lower(), rest).split())
        if not _FIELDS.fullmatch(fields) or _HASHED.search(fields):
            raise InvalidCron(_expected())
        self._fields = fields
        try:
            croniter.expand(fields, second_at_beginning=True)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise InvalidCron(f"{_expected()} ({error})") from error

    def next_after(self, at: int) -> int | None:
        """The first tick after a time; None when there is none in fifty years."""
        # croniter looks at whole seconds; a tick at this very second is not after it, any within it were before.
        return self._find(at // SECOND_US, is_prev=False) if at < _LAST_US else None

    def last_until(self, at: int) -> int | None:
        """The last tick at a time or before it; None when there was none in fifty years."""
        return self._find(at // SECOND_US + 1, is_prev=True) if at < _LAST_US else None

    def _find(self, second: int, *, is_prev: bool) -> int | None:
        try:
            start = second if self._zone is None else datetime.fromtimestamp(second, self._zone)
            found = croniter(self._fields, start, float, second_at_beginning=True)
            tick = found.get_prev() if is_prev else found.get_next()
        except (CroniterBadDateError, OverflowError, OSError):
            return None
        return round(tick) * SECOND_US


@lru_cache(maxsize=4_096)
def parse(text: str) -> CronExpression:
    """The expression of a text, kept for the next time. Raises `InvalidCron`."""
    return CronExpression(text)


def check(text: str, now: int) -> int:
    """The next tick of a text that somebody gave. Raises `InvalidCron`, also for one that never ticks, such as the 30th of February."""
    tick = parse(text).next_after(now)
    if tick is None:
        raise InvalidCron("it has no time in the next fifty years")
    return tick


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise InvalidCron(f"time zone {name!r} is not known") from error


def _expected() -> str:
    return (
        "expected 5 fields (minute, hour, day, month, weekday), 6 with the seconds first, "
        f"or one of {', '.join(ALIASES)}"
    )
