"""Rate limits as the record tells them: no window starts more than its limit. Calls none of the engine's code.

A window is what a bucket's rows say: from when, for how long, and how much. What is started in it is what task runs that are with a worker
spend, each attempt once, by the time of its assignment.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from broadaxe_storage.records import Batch, RateLimitRow, TaskRunRow, TaskRunState

S = TaskRunState


class Window(NamedTuple):
    """One window of a bucket."""

    start: int
    end: int
    limit: int
    """The highest that was in force in it."""


class Rates:
    """See the module."""

    def __init__(
        self, record: Any, disk: Any, did: Callable[[str], None], fail: Callable[[str], None]
    ) -> None:
        self._record = record
        self._disk = disk
        self._did = did
        self._fail = fail
        self._windows: dict[tuple[str, str], list[Window]] = defaultdict(list)
        self._spent: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        """By bucket: when, and how many units."""
        self._counted: set[tuple[str, int]] = set()

    def written(self, batch: Batch) -> None:
        """Take note of windows and of what is spent in them."""
        for row in batch.rate_limits:
            self._note_window(row)
        for update in batch.updated:
            row = self._disk.live.get(update.id)
            if row is not None and row.state == S.ASSIGNED and (row.id, row.attempt) not in self._counted:
                self._counted.add((row.id, row.attempt))
                self._spend(row)

    def _note_window(self, row: RateLimitRow) -> None:
        limit = row.limit_value
        if limit is None:
            return
        if not 0 <= row.units_left <= limit:
            self._fail(f"a bucket has more or less than it may: {row}")
        windows = self._windows[row.tenant_id, row.key]
        if windows and windows[-1].start == row.window_start:
            last = windows.pop()
            limit = max(limit, last.limit)
        windows.append(Window(row.window_start, row.window_start + row.window_us, limit))

    def _spend(self, row: TaskRunRow) -> None:
        definition = self._record.definition_of(row)
        for entry in definition.all_tasks[row.step_index].rate_limits:
            key = json.loads(row.input)["key"] if entry.get("key_expr") else entry["key"]
            bucket = (row.tenant_id, key)
            assert row.assigned_at is not None
            self._spent[bucket].append((row.assigned_at, entry["units"]))
            self._look(bucket, row.assigned_at, row)

    def _look(self, bucket: tuple[str, str], at: int, row: TaskRunRow) -> None:
        window = next((item for item in reversed(self._windows[bucket]) if item.start <= at), None)
        if window is None or at >= window.end:
            self._fail(f"{row} started, and rate limit {bucket[1]!r} has no window then: {window}")
            return
        spent = sum(units for when, units in self._spent[bucket] if window.start <= when < window.end)
        if spent > window.limit:
            self._fail(f"{spent} units of rate limit {bucket[1]!r} were spent in {window}")
        if spent == window.limit:
            self._did("rate limit was used up")
