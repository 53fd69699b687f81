"""Paused workflows: what a pause holds, and until when what waits may wait. Pure.

A pause begins at once, ends with its commit, and is over when all that it held aside has gone on. `RunTracker` holds these objects.
Source: behaviour-core 6.14.
"""

from collections import OrderedDict
from enum import Enum, auto

from broadaxe_actors.task_run import TaskRun
from broadaxe_storage.records import WorkflowPause


class Phase(Enum):
    """How far a pause is."""

    PAUSED = auto()
    ENDING = auto()
    """The end is recorded and not yet committed: what is held stays so."""
    LIFTING = auto()
    """What was held aside goes on, a slice at a time; newcomers line up behind it."""
    OVER = auto()
    """Nothing is held. What was queued before the end of the pause has its schedule timeout from then on."""


class Pause:
    """The pause of one workflow, or its last one."""

    __slots__ = (
        "fresh_until",
        "held",
        "is_mixed",
        "is_passing",
        "muted",
        "phase",
        "queue_ttl",
        "row",
        "unpaused_at",
        "waits_since",
    )

    def __init__(self, row: WorkflowPause, longest_timeout: int) -> None:
        """From the record."""
        self.held: OrderedDict[str, TaskRun] = OrderedDict()
        """Task runs held aside, by id, in the order in which they came."""
        self.is_mixed = False
        """Some of them came after others that are behind them in line."""
        self.is_passing = False
        """What is ready passes just now."""
        self.muted: tuple[str, ...] = ()
        """Actions that `TenantQueue` was told to hold."""
        self.fresh_until = 0
        """From then on no task run is left that was queued before the end of the pause."""
        self._take(row)
        self.phase = Phase.PAUSED if row.paused_at is not None else Phase.OVER
        if row.paused_at is None:
            self._end(longest_timeout)

    def _take(self, row: WorkflowPause) -> None:
        self.row = row
        self.waits_since = row.paused_at or 0
        self.queue_ttl = row.queue_ttl or 0
        self.unpaused_at = row.unpaused_at or 0

    def _end(self, longest_timeout: int) -> None:
        self.fresh_until = self.unpaused_at + longest_timeout

    @property
    def is_paused(self) -> bool:
        """Whether the workflow counts as paused: as soon as an end is recorded it does not."""
        return self.phase is Phase.PAUSED

    @property
    def is_holding(self) -> bool:
        """Whether nothing of the workflow may go to a worker."""
        return self.phase is Phase.PAUSED or self.phase is Phase.ENDING

    @property
    def holds_newcomers(self) -> bool:
        """Whether what becomes ready is held aside."""
        return self.phase is not Phase.OVER and not self.is_passing

    def begin(self, row: WorkflowPause) -> None:
        """The workflow is paused, or a pause gets other settings."""
        self._take(row)
        self.phase = Phase.PAUSED

    def sort(self) -> None:
        """Put what is held aside into the order of its places in line."""
        if self.is_mixed:
            self.is_mixed = False
            in_order = sorted(self.held.values(), key=lambda task: task.seq)
            self.held = OrderedDict((task.id, task) for task in in_order)

    def end(self, row: WorkflowPause, longest_timeout: int) -> None:
        """The end of the pause is about to be committed."""
        self._take(row)
        self._end(longest_timeout)
        self.phase = Phase.ENDING

    def deadline(self, queued_at: int, schedule_deadline: int | None, schedule_timeout: int) -> int | None:
        """Until when a task run may wait that was queued then, and has this deadline from its own schedule timeout."""
        if self.phase is Phase.PAUSED:
            return max(queued_at, self.waits_since) + self.queue_ttl
        if schedule_deadline is None:
            return None
        return max(schedule_deadline, self.unpaused_at + schedule_timeout)
