"""Task stats: who waits and who runs, by task. The part of `RunTracker` that reads its counters.

An answer takes time by what it tells: one entry a task with anything queued or running, one a key of a concurrency group. Metadata is not
counted as task runs come and go; who scrapes the metrics has those that wait looked at, up to a limit.
"""

import json
from collections import Counter
from typing import Any

from broadaxe_actors.flow_counts import GroupCounts
from broadaxe_actors.messages import ActionStats, GetStats, GroupStats, StateStats, TenantStats
from broadaxe_actors.run_tracker.state import TrackerState
from broadaxe_actors.runtime import Handle
from broadaxe_actors.task_counts import ActionCounts

MAX_LOOKED_AT = 10_000
"""Waiting task runs whose metadata is looked at in one turn."""
MAX_METADATA = 500
"""Different metadata, and numbers told, in one turn."""
INTERNAL_PREFIX = "hatchet__"


class Stats(TrackerState):
    """See the module."""

    def get_stats(self, gateway: "Handle[Any]", message: GetStats) -> None:
        """Counters of this tenant, for a gateway."""
        self._reply(gateway, message.request_id, self.stats())

    def stats(self) -> TenantStats:
        """Counters of this tenant."""
        spilled: dict[str, int] = {}
        for (queue_key, _), count in self._ledger.spilled():
            action = queue_key.split("|", 1)[0]
            spilled[action] = spilled.get(action, 0) + count
        found = [self._stats_of(counts, spilled.pop(counts.action, 0)) for counts in self._counts.all()]
        # What waits in Postgres alone: only until its first page is read.
        for action, count in spilled.items():
            step = self._catalog.step_of(action)
            if step is not None:
                found.append(
                    ActionStats(
                        action,
                        step.workflow.name,
                        step.ref.task_name,
                        StateStats(count, None, None),
                        StateStats(0, None, None),
                    )
                )
        return TenantStats(tuple(found))

    def _stats_of(self, counts: ActionCounts, spilled: int) -> ActionStats:
        action = counts.action
        queued = len(counts.queued) + len(counts.queued_again) + spilled
        running = len(counts.running) + len(counts.running_again)
        return ActionStats(
            action,
            counts.workflow_name,
            counts.task_name,
            StateStats(queued, *counts.oldest_queued(), _groups(self._flows.waiting(action))),
            StateStats(running, *counts.oldest_running(), _groups(self._flows.held(action))),
        )

    def queued_metadata(self) -> tuple[tuple[str, str, str, int], ...]:
        """Of those that wait in memory: action, metadata key, value as text, and how many."""
        texts: Counter[tuple[str, str]] = Counter()
        for action, task in self._counts.some_queued(MAX_LOOKED_AT):
            if task.metadata != "{}" and (len(texts) < MAX_METADATA or (action, task.metadata) in texts):
                texts[action, task.metadata] += 1
        found: Counter[tuple[str, str, str]] = Counter()
        for (action, text), count in texts.items():
            for key, value in json.loads(text).items():
                if not key.startswith(INTERNAL_PREFIX):
                    shown = value if isinstance(value, str) else json.dumps(value)
                    found[action, key, shown] += count
        return tuple((*labels, count) for labels, count in found.most_common(MAX_METADATA))


def _groups(counts: list[GroupCounts]) -> tuple[GroupStats, ...]:
    return tuple(GroupStats(item.expression, item.strategy, tuple(item.keys.items())) for item in counts)
