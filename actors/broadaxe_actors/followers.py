"""Who waits for a run's end, who follows its events, and the results of runs that ended lately. Held by `RunTracker`; pure.

`SubscribeToWorkflowRuns` is answered late and repeatedly, `SubscribeToWorkflowEvents` never replays (behaviour-core 3.1, 3.2).
"""

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from broadaxe_actors.messages import RunEvent, RunFinished
from broadaxe_actors.runtime import Handle

RECENT_RESULTS = 10_000
RECENT_BYTES = 8_000_000
ENDED_KEPT = 20_000
"""Ids of ended runs whose results have been forgotten, so many at least: what was read of them before they ended may come after that."""
MAX_PENDING_WATCHES = 2_000_000


class Subscription(NamedTuple):
    gateway: "Handle[Any]"
    subscription_id: str
    run_id: str | None
    metadata_key: str | None
    metadata_value: str | None


class Watchers:
    """Gateways that wait for the end of runs."""

    def __init__(self) -> None:
        self._by_run: dict[str, tuple[Handle[Any], ...]] = {}

    def add(self, run_id: str, gateway: "Handle[Any]") -> bool:
        """False when too many runs are waited for already."""
        waiting = self._by_run.get(run_id)
        if waiting is None:
            if len(self._by_run) >= MAX_PENDING_WATCHES:
                return False
            self._by_run[run_id] = (gateway,)
        elif gateway not in waiting:
            self._by_run[run_id] = (*waiting, gateway)
        return True

    def remove(self, run_id: str, gateway: "Handle[Any]") -> None:
        waiting = tuple(item for item in self._by_run.get(run_id, ()) if item is not gateway)
        if waiting:
            self._by_run[run_id] = waiting
        else:
            self._by_run.pop(run_id, None)

    def pop(self, run_id: str) -> tuple["Handle[Any]", ...]:
        """Who waits; they are forgotten."""
        return self._by_run.pop(run_id, ())

    def is_watched(self, run_id: str) -> bool:
        return run_id in self._by_run


class RecentResults:
    """Results of runs that ended lately, bounded by number and bytes; those not yet committed are never dropped."""

    def __init__(self) -> None:
        self._results: dict[str, RunFinished] = {}
        self._in_order: deque[tuple[RunFinished, int]] = deque()
        """Results in the order of their ends, with their bytes; those forgotten for a replay keep their place until its turn."""
        self._run_of: dict[str, str] = {}
        """By task run of a run of several tasks: its run."""
        self._uncommitted: set[str] = set()
        self._ended: set[str] = set()
        """Runs that ended, and whose results are forgotten."""
        self._ended_before: set[str] = set()
        """Likewise: once there are enough of the former, these go and those take their place."""
        self._bytes = 0

    def put(self, finished: RunFinished) -> None:
        size = _size(finished)
        self._results[finished.run_id] = finished
        self._in_order.append((finished, size))
        self._uncommitted.add(finished.run_id)
        self._bytes += size
        if not _is_alone(finished):
            for result in finished.results:
                self._run_of[result.task_run_id] = finished.run_id

    def forget(self, run_id: str) -> None:
        """The run is replayed."""
        finished = self._results.get(run_id)
        if finished is not None:
            self._drop(finished)
        self._ended.discard(run_id)
        self._ended_before.discard(run_id)
        self._uncommitted.discard(run_id)

    def _drop(self, finished: RunFinished) -> None:
        del self._results[finished.run_id]
        if self._run_of and not _is_alone(finished):
            for result in finished.results:
                self._run_of.pop(result.task_run_id, None)

    def committed(self, run_ids: tuple[str, ...]) -> None:
        self._uncommitted.difference_update(run_ids)
        in_order = self._in_order
        while len(in_order) > RECENT_RESULTS or self._bytes > RECENT_BYTES:
            oldest, size = in_order[0]
            is_known = self._results.get(oldest.run_id) is oldest
            if is_known and oldest.run_id in self._uncommitted:
                break
            in_order.popleft()
            self._bytes -= size
            if is_known:
                self._drop(oldest)
                self._note_ended(oldest.run_id)

    def _note_ended(self, run_id: str) -> None:
        self._ended.add(run_id)
        if len(self._ended) >= ENDED_KEPT:
            self._ended, self._ended_before = set(), self._ended

    def get(self, run_id: str) -> RunFinished | None:
        return self._results.get(run_id)

    def has_ended(self, run_id: str) -> bool:
        """Whether a run is known to have ended, its result kept or not."""
        return run_id in self._results or run_id in self._ended or run_id in self._ended_before

    def of_task_run(self, task_run_id: str) -> RunFinished | None:
        """The result of the run that a task run belonged to."""
        return self.get(self._run_of.get(task_run_id, task_run_id))

    def uncommitted(self) -> set[str]:
        """Runs whose end is not committed yet."""
        return set(self._uncommitted)

    def is_uncommitted(self, run_id: str) -> bool:
        return run_id in self._uncommitted


class Subscriptions:
    """Who follows the events of runs, by run id or by metadata."""

    def __init__(self) -> None:
        self._by_id: dict[tuple[int, str], Subscription] = {}
        self._by_run: dict[str, list[Subscription]] = {}
        self._by_metadata: list[Subscription] = []
        self._seen: dict[tuple[int, str], set[str]] = {}
        """Of a subscription by metadata: its runs that have not ended."""
        self.are_any = False
        """Whether anybody follows anything: asked several times a task run, so a plain field."""

    def add(self, subscription: Subscription) -> None:
        key = (id(subscription.gateway), subscription.subscription_id)
        if key in self._by_id:
            return
        self._by_id[key] = subscription
        self.are_any = True
        if subscription.run_id is not None:
            self._by_run.setdefault(subscription.run_id, []).append(subscription)
        else:
            self._by_metadata.append(subscription)
            self._seen[key] = set()

    def remove(self, gateway: "Handle[Any]", subscription_id: str) -> None:
        key = (id(gateway), subscription_id)
        subscription = self._by_id.pop(key, None)
        if subscription is None:
            return
        self.are_any = bool(self._by_id)
        if subscription.run_id is not None:
            followers = self._by_run[subscription.run_id]
            followers.remove(subscription)
            if not followers:
                del self._by_run[subscription.run_id]
        else:
            self._by_metadata.remove(subscription)
            del self._seen[key]

    def follows_metadata(self) -> bool:
        return bool(self._by_metadata)

    def of(self, run_id: str, metadata: dict[str, Any] | None) -> Iterator[Subscription]:
        """Who follows this run. `metadata` is needed only when somebody follows by metadata."""
        yield from self._by_run.get(run_id, ())
        if metadata is not None:
            for subscription in self._by_metadata:
                if metadata.get(subscription.metadata_key or "") == subscription.metadata_value:
                    yield subscription

    def saw(self, subscription: Subscription, event: RunEvent) -> bool:
        """Note an event that goes to a subscription; True when it is its last."""
        if subscription.run_id is not None:
            return event.is_run
        seen = self._seen[id(subscription.gateway), subscription.subscription_id]
        if event.is_run:
            seen.discard(event.run_id)
            return not seen
        seen.add(event.run_id)
        return False


def _size(finished: RunFinished) -> int:
    size = 300
    for item in finished.results:
        size += len(item.output or b"") + len(item.error or b"")
    return size


def _is_alone(finished: RunFinished) -> bool:
    """Whether it is the result of a run of one task, whose id is the run's."""
    return len(finished.results) == 1 and finished.results[0].task_run_id == finished.run_id
