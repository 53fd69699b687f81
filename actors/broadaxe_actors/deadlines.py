"""Many deadlines, one timer: ids in coarse buckets of time. Pure.

A deadline is set or dropped in O(1) and is told due at most `BUCKET_US` late, never early. A task run has one deadline at a
time (to be scheduled, to end, or to wake), so its id is the key.
"""

import heapq

BUCKET_US = 100_000


class Deadlines:
    """Ids by deadline."""

    __slots__ = ("_buckets", "_order", "_where")

    def __init__(self) -> None:
        self._buckets: dict[int, set[str]] = {}
        self._order: list[int] = []
        self._where: dict[str, set[str]] = {}
        """By id: the bucket it is in."""

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: object) -> bool:
        return key in self._where

    def set(self, key: str, deadline: int) -> None:
        """Give an id its deadline (microseconds), in place of any earlier one."""
        number = -(-deadline // BUCKET_US)
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
            heapq.heappush(self._order, number)
        old = self._where.get(key)
        if old is not bucket:
            if old is not None:
                old.discard(key)
            self._where[key] = bucket
            bucket.add(key)

    def drop(self, key: str) -> None:
        """Forget an id's deadline; an id without one is fine."""
        bucket = self._where.pop(key, None)
        if bucket is not None:
            bucket.discard(key)

    def next_due(self) -> int | None:
        """When to ask again, or None without deadlines. Emptied buckets are dropped on the way."""
        while self._order and not self._buckets[self._order[0]]:
            del self._buckets[heapq.heappop(self._order)]
        return self._order[0] * BUCKET_US if self._order else None

    def pop_due(self, now: int) -> list[str]:
        """The ids whose deadline has passed, in order of their buckets; they are forgotten."""
        due: list[str] = []
        while self._order and self._order[0] * BUCKET_US <= now:
            members = self._buckets.pop(heapq.heappop(self._order))
            due.extend(sorted(members))
        for key in due:
            del self._where[key]
        return due
