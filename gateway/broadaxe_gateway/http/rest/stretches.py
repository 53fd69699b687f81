"""Time cut into stretches, for counts over time: how long each is, and where they begin (rest 3.2). Pure."""

from datetime import datetime

from broadaxe_gateway.http.rest.models.common import microseconds
from broadaxe_gateway.rpc.convert.checks import refuse

MAX_STRETCHES = 10_000
DEFAULT_RANGE_US = 24 * 3_600_000_000
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_LENGTHS = (
    (61 * _MINUTE, _MINUTE),
    (12 * _HOUR, 5 * _MINUTE),
    (48 * _HOUR, 30 * _MINUTE),
    (8 * _DAY, 8 * _HOUR),
)
"""A range that is shorter than the first, in seconds, is cut into stretches of the second."""


class Stretches:
    """The stretches of a range; they begin at whole multiples of their length, so that two answers fit together."""

    def __init__(self, since: datetime | None, until: datetime | None, now: int) -> None:
        """The last 24 hours where nothing is given. Raises `Refused` for more of them than an answer may hold."""
        self.until = now if until is None else microseconds(until)
        self.since = self.until - DEFAULT_RANGE_US if since is None else microseconds(since)
        seconds = (self.until - self.since) / 1_000_000
        self.seconds = next((length for below, length in _LENGTHS if seconds < below), _DAY)
        if seconds > MAX_STRETCHES * _DAY:
            raise refuse(
                f"the range of time has {seconds / _DAY:,.0f} days; at most {MAX_STRETCHES:,} can be told"
            )

    @property
    def beginnings(self) -> range:
        """In microseconds; none for a range that ends before it begins."""
        step = self.seconds * 1_000_000
        return range(self.since // step * step, self.until, step)
