"""Where the pages of listings ended, so that the next one goes on from there instead of passing over all that is before it. Pure.

A page is asked for by an offset. Whoever reads page after page asks for each where the last one ended: that place is kept for a while, by what
was listed and how far it was. Only the beginning of a listing's range is no part of that, as offsets count from its end.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from broadaxe_storage.summaries import RunQuery

MAX_POSITIONS = 1_000
KEPT_SECONDS = 60.0
LEAST_OFFSET = 1_000
"""Fewer rows are passed over as fast."""


class Position(NamedTuple):
    """The last row before a page."""

    created_at: int
    id: str


class Positions:
    """The positions told last, of any tenant."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[str, RunQuery, int], tuple[float, Position]] = OrderedDict()

    def find(self, tenant_id: str, query: RunQuery, offset: int) -> Position | None:
        """The row before this offset, if a page that ended there was read a moment ago."""
        known = self._known.get(_key(tenant_id, query, offset))
        return known[1] if known is not None and self._clock() - known[0] < KEPT_SECONDS else None

    def keep(self, tenant_id: str, query: RunQuery, offset: int, position: Position) -> None:
        """A page ended with this row, before this offset."""
        if offset < LEAST_OFFSET:
            return
        key = _key(tenant_id, query, offset)
        self._known[key] = self._clock(), position
        self._known.move_to_end(key)
        if len(self._known) > MAX_POSITIONS:
            self._known.popitem(last=False)


def _key(tenant_id: str, query: RunQuery, offset: int) -> tuple[str, RunQuery, int]:
    return tenant_id, query._replace(since=0), offset
