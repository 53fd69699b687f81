"""Concurrency groups as the record and the definitions tell them: no group ever holds more than its limit. Calls none of the engine's code.

What has a place: a task run of one task that is with a worker; likewise one of several, of the entries of its task; and a run of several
tasks that has begun and not ended, of those of its workflow.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from broadaxe_storage.records import FINAL_STATES, RUN_STEP, Batch, TaskRunRow, TaskRunState

S = TaskRunState
KEYS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "input.key": lambda value: str(value["key"]),
    "'all'": lambda _value: "all",
    "input.l.exists(x, x > 5.0) ? input.key : 'other'": lambda value: (
        str(value["key"]) if any(item > 5 for item in value["l"]) else "other"
    ),
}
Group = tuple[str, str, int, str]
"""Version, level, number of the entry, key."""


class Places:
    """See the module."""

    def __init__(
        self, record: Any, disk: Any, did: Callable[[str], None], fail: Callable[[str], None]
    ) -> None:
        self._record = record
        self._disk = disk
        self._did = did
        self._fail = fail
        self._holders: dict[Group, set[str]] = defaultdict(set)
        self._held: dict[str, dict[Group, int]] = {}
        """By row: groups in which it holds a place, with their limits."""

    def written(self, batch: Batch) -> None:
        """Count again what this write touched, and then look at the limits: places are passed on within one write, if the old one goes."""
        touched = {row.id for row in (*batch.created, *batch.updated, *batch.finished, *batch.settled)} | {
            item.run_id for item in batch.ended
        }
        touched |= {self._disk.live[row.id].run_id for row in batch.settled if row.id in self._disk.live}
        grown: dict[Group, int] = {}
        for row_id in touched:
            row = self._disk.live.get(row_id)
            new = dict(self._places(row)) if row is not None else {}
            old = self._held.pop(row_id, {})
            for group in old:
                self._holders[group].discard(row_id)
            for group, limit in new.items():
                self._holders[group].add(row_id)
                grown[group] = limit
            if new:
                self._held[row_id] = new
        for group, limit in grown.items():
            holders = self._holders[group]
            if len(holders) > limit:
                self._fail(f"group {group} has {len(holders)} places taken, and may have {limit}: {holders}")
            if len(holders) == limit:
                self._did("concurrency group was full")

    def _places(self, row: TaskRunRow) -> Iterator[tuple[Group, int]]:
        definition = self._record.definition_of(row)
        version = row.workflow_version_id
        is_run = row.step_index == RUN_STEP
        is_single = row.id == row.run_id and not is_run
        if is_run or is_single:
            is_held = row.state in (S.ASSIGNED, S.RUNNING)
            has_places = row.assigned_at is not None and self._has_open_tasks(row) if is_run else is_held
            if has_places:
                yield from _of(version, "workflow", definition.concurrency, row.input)
        if not is_run and row.state in (S.ASSIGNED, S.RUNNING):
            task = definition.all_tasks[row.step_index]
            head = row if is_single else self._disk.live[row.run_id]
            yield from _of(version, task.name, task.concurrency, head.input)
            is_last = task is definition.on_failure_task
            if not is_single and definition.concurrency and not is_last and head.assigned_at is None:
                self._fail(f"a task of run {row.run_id} is with a worker, and the run has no places: {row}")

    def _has_open_tasks(self, head: TaskRunRow) -> bool:
        """Whether a run has tasks left beside the one for failures, which needs no place of its."""
        definition = self._record.definition_of(head)
        rows = [self._disk.live.get(row_id) for row_id in self._record.members[head.id].values()]
        ended = [row for row in rows if row is not None and row.state in FINAL_STATES]
        return sum(row.step_index < len(definition.tasks) for row in ended) < len(definition.tasks)


def _of(version: str, level: str, entries: Any, text: bytes) -> Iterator[tuple[Group, int]]:
    value = json.loads(text) if entries else {}
    for number, entry in enumerate(entries):
        yield (version, level, number, KEYS[entry["expression"]](value)), entry["max_runs"]
