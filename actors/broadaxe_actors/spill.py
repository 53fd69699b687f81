"""How much of each sub-queue is in memory and how much waits in Postgres. Pure.

Past `HIGH` task runs of one sub-queue and priority, new ones stay in Postgres; below `LOW` they are paged in by `seq`. While any of a line
waits in Postgres, newcomers to that line go there too, or they would overtake. Retries (priority 4) enter memory at once.

Memory is bounded in bytes as well: while the payloads in memory weigh more than `MAX_BYTES`, newcomers go to Postgres whatever the line's
length, and nothing is paged in but for a line that would run dry. Pages begin small and grow while their payloads are light.
"""

from collections.abc import Iterator
from typing import NamedTuple

HIGH = 20_000
LOW = 10_000
PAGE = 500
FIRST_PAGE = 50
LIGHT_PAGE_BYTES = 1_000_000
HEAVY_PAGE_BYTES = 8_000_000
MAX_BYTES = 64_000_000
"""Payloads of one tenant in memory, running task runs included."""
Line = tuple[str, int]
"""Sub-queue key and queue priority."""


class PageRequest(NamedTuple):
    queue_key: str
    queue_priority: int
    after_seq: int
    limit: int


class _State:
    __slots__ = ("after_seq", "in_memory", "is_paging", "page", "spilled")

    def __init__(self) -> None:
        self.in_memory = 0
        self.spilled = 0
        self.after_seq = 0
        self.is_paging = False
        self.page = FIRST_PAGE


class SpillLedger:
    """Counts by line, and what to page in next."""

    def __init__(self, high: int = HIGH, low: int = LOW, page: int = PAGE) -> None:
        self._lines: dict[Line, _State] = {}
        self._high = high
        self._low = low
        self._page = page
        self._bytes = 0

    def hold_bytes(self, amount: int) -> None:
        """Payload bytes came into memory, or with a negative amount left it."""
        self._bytes += amount

    @property
    def is_heavy(self) -> bool:
        """Whether the payloads in memory weigh more than they may."""
        return self._bytes > MAX_BYTES

    def enter(self, line: Line) -> bool:
        """A new task run joins the line. True when it has to wait in Postgres."""
        state = self._lines.get(line)
        if state is None:
            state = self._lines[line] = _State()
        if state.spilled or state.in_memory >= self._high or self.is_heavy:
            state.spilled += 1
            return True
        state.in_memory += 1
        return False

    def must_spill(self, line: Line) -> bool:
        """Whether a new task run would have to wait in Postgres."""
        state = self._lines.get(line)
        return self.is_heavy or (state is not None and (state.spilled > 0 or state.in_memory >= self._high))

    def enter_postgres(self, line: Line) -> None:
        """A new task run joins the line in Postgres, whatever room there is."""
        self._lines.setdefault(line, _State()).spilled += 1

    def enter_memory(self, line: Line) -> None:
        """A task run joins in memory whatever the line's length: a retry, or one read at recovery."""
        self._lines.setdefault(line, _State()).in_memory += 1

    def leave(self, line: Line) -> bool:
        """A task run in memory left the line: assigned, or ended. True when others of the line wait in Postgres."""
        state = self._lines[line]
        state.in_memory -= 1
        if state.spilled:
            return True
        self._tidy(line, state)
        return False

    def restore_spilled(self, line: Line, count: int) -> None:
        """What recovery finds waiting in Postgres."""
        self._lines.setdefault(line, _State()).spilled += count

    def next_page(self, line: Line) -> PageRequest | None:
        """What to read now, if the line is short and more of it waits. Until `paged` no second page is asked for."""
        state = self._lines.get(line)
        if state is None or not state.spilled or state.is_paging or state.in_memory > self._low:
            return None
        if self.is_heavy and state.in_memory:
            return None
        state.is_paging = True
        return PageRequest(line[0], line[1], state.after_seq, min(state.page, self._page))

    def paged(self, line: Line, count: int, last_seq: int, size: int) -> None:
        """A page came: `count` task runs with `size` bytes of payload joined in memory, up to `last_seq`."""
        state = self._lines[line]
        state.is_paging = False
        if size < LIGHT_PAGE_BYTES:
            state.page = min(self._page, state.page * 2)
        elif size > HEAVY_PAGE_BYTES:
            state.page = max(1, state.page // 4)
        state.spilled = max(0, state.spilled - count)
        state.in_memory += count
        # Even if all of it was in memory already, or the same page would be read for ever.
        state.after_seq = max(state.after_seq, last_seq)
        self._tidy(line, state)

    def page_failed(self, line: Line) -> None:
        """The page could not be read; it may be asked for again."""
        state = self._lines.get(line)
        if state is not None:
            state.is_paging = False

    def forget_spilled(self, line: Line) -> None:
        """Postgres has no more of this line, whatever was counted."""
        state = self._lines.get(line)
        if state is not None:
            state.spilled = 0
            self._tidy(line, state)

    def left_postgres(self, line: Line) -> None:
        """A task run was taken from Postgres out of turn: it timed out, or its report came first."""
        state = self._lines.get(line)
        if state is not None:
            state.spilled = max(0, state.spilled - 1)
            self._tidy(line, state)

    def _tidy(self, line: Line, state: _State) -> None:
        if not state.in_memory and not state.spilled and not state.is_paging:
            del self._lines[line]

    def waits_in_postgres(self, line: Line) -> bool:
        """Whether any of a line does."""
        state = self._lines.get(line)
        return state is not None and state.spilled > 0

    def lines(self) -> list[Line]:
        return list(self._lines)

    def spilled(self) -> Iterator[tuple[Line, int]]:
        """Lines of which any wait in Postgres, and how many."""
        return ((line, state.spilled) for line, state in self._lines.items() if state.spilled)

    def depth(self, line: Line) -> int:
        """How many wait in this line, in memory and in Postgres."""
        state = self._lines.get(line)
        return state.in_memory + state.spilled if state else 0

    def has_spilled(self) -> bool:
        return any(state.spilled for state in self._lines.values())
