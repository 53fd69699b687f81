"""Rate limits as the record tells them: no window starts more than its limit. Calls none of the engine's code.

A window is what a bucket's rows say: from when, for how long, and how much. What starts in it is what task runs that are with a worker
spend, each attempt once, by the time of its assignment.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from broadaxe_storage.records import Batch, RateLimitRow, TaskRunRow, TaskRunState

S = TaskRunState


SLIP_US = 20_000
"""How long after the end of its window something may start: it was matched before, and others came first."""


class Window:
    """One window of a bucket."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.limit = 0
        """The highest that was in force in it."""
        self.started = 0
        """Units."""


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
        """By bucket: the last two."""
        self._counted: set[tuple[str, int]] = set()

    def written(self, batch: Batch) -> None:
        """Take note of windows and of what starts in them."""
        for row in batch.rate_limits:
            self._note_window(row)
        for update in batch.updated:
            task = self._disk.live.get(update.id)
            if task is not None and task.state == S.ASSIGNED and (task.id, task.attempt) not in self._counted:
                self._counted.add((task.id, task.attempt))
                self._start(task)

    def _note_window(self, row: RateLimitRow) -> None:
        limit = row.limit_value
        if limit is None:
            return
        if not 0 <= row.units_left <= limit:
            self._fail(f"a bucket has more or less than it may: {row}")
        windows = self._windows[row.tenant_id, row.key]
        if not windows or windows[-1].start != row.window_start:
            windows.append(Window(row.window_start, row.window_start + row.window_us))
            del windows[:-2]
        windows[-1].limit = max(windows[-1].limit, limit)

    def _start(self, row: TaskRunRow) -> None:
        definition = self._record.definition_of(row)
        for entry in definition.all_tasks[row.step_index].rate_limits:
            key = json.loads(row.input)["key"] if entry.get("key_expr") else entry["key"]
            self._count(row, key, entry["units"])

    def _count(self, row: TaskRunRow, key: str, units: int) -> None:
        at = row.assigned_at
        assert at is not None
        windows = [
            window
            for window in self._windows[row.tenant_id, key]
            if window.start <= at < window.end + SLIP_US
        ]
        room = next((window for window in windows if window.started + units <= window.limit), None)
        if room is None:
            told = [(window.start, window.end, window.started, window.limit) for window in windows]
            self._fail(
                f"{row} started {units} units of rate limit {key!r} with no room in its windows: {told}"
            )
            return
        room.started += units
        if room.started == room.limit:
            self._did("rate limit was used up")
