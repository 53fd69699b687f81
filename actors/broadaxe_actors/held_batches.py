"""Which of the attempts that a worker holds it runs together, as a batch. Pure; held by `ConnectedWorker`.

Members of a batch are never sent as single starts: what has to be sent again goes as what is left of its batch, under the same id.
"""

from collections.abc import Iterable

from broadaxe_actors.messages import Assignment, BatchStart


class HeldBatches:
    """See the module."""

    def __init__(self) -> None:
        self._starts: dict[str, BatchStart] = {}
        """By batch: its start, without the members."""
        self._members: dict[str, set[str]] = {}
        self._batch_of: dict[str, str] = {}

    def put(self, start: BatchStart) -> None:
        """The worker holds a batch; its members are among those of the worker."""
        self._starts[start.batch_id] = start._replace(members=())
        members = self._members.setdefault(start.batch_id, set())
        for member in start.members:
            members.add(member.task_run_id)
            self._batch_of[member.task_run_id] = start.batch_id

    def drop(self, task_run_id: str) -> None:
        """An attempt is held no more; one that is in no batch is fine."""
        batch_id = self._batch_of.pop(task_run_id, None)
        if batch_id is not None:
            members = self._members[batch_id]
            members.discard(task_run_id)
            if not members:
                del self._members[batch_id], self._starts[batch_id]

    def members(self, batch_id: str) -> Iterable[str]:
        """Those that the worker holds still."""
        return self._members[batch_id]

    def split(
        self, assignments: Iterable[Assignment]
    ) -> tuple[tuple[Assignment, ...], tuple[BatchStart, ...]]:
        """The starts that say these attempts: single ones, and batches of the others."""
        single: list[Assignment] = []
        by_batch: dict[str, list[Assignment]] = {}
        for item in assignments:
            batch_id = self._batch_of.get(item.task_run_id)
            if batch_id is None:
                single.append(item)
            else:
                by_batch.setdefault(batch_id, []).append(item)
        batches = tuple(
            self._starts[batch_id]._replace(members=tuple(members)) for batch_id, members in by_batch.items()
        )
        return tuple(single), batches

    @property
    def are_any(self) -> bool:
        return bool(self._starts)

    @property
    def spared_units(self) -> int:
        """Slots that the members do not take: a batch has one."""
        return len(self._batch_of) - len(self._starts)
