"""A live run of several tasks: what is known of each of them, and what each start is given. Pure.

`RunTracker` alone holds these objects. A run of one task has none: its `TaskRun` is all there is.
"""

import json
from typing import NamedTuple

from broadaxe_actors.admission import Admission
from broadaxe_actors.catalog import Version
from broadaxe_actors.gates import Gate
from broadaxe_actors.messages import ParentOutput, TaskDetails, TaskResult
from broadaxe_actors.states import is_final
from broadaxe_actors.task_run import Step, TaskRun
from broadaxe_storage.records import RUN_STEP, FinishedTaskRun, TaskRunRow, TaskRunState, TaskRunUpdate

SKIPPED_OUTPUT = b'{"skipped":true}'
"""What children and callers see of a task that was skipped (behaviour-core 6.10)."""


_HAVE_OUTPUT = (TaskRunState.COMPLETED, TaskRunState.SKIPPED)


class Ended(NamedTuple):
    """A task run of a live run that has ended."""

    id: str
    state: TaskRunState
    attempt: int
    output: bytes | None
    error: bytes | None
    worker_id: str | None
    """Who had its last attempt, if anybody."""
    is_skipped: bool
    """Its children take it for skipped: by its state, or because its own output says so (behaviour-core 6.10)."""


class Spilled(NamedTuple):
    """A task run that waits for a slot in Postgres; it is read when its turn comes."""

    id: str
    line_key: str


Entry = TaskRun | Ended | Spilled | None
"""What there is of a task in a run; None before its parents have decided."""


class Run:
    """See the module."""

    __slots__ = (
        "admission",
        "begun_at",
        "child_index",
        "child_key",
        "created_at",
        "desired_labels",
        "desired_worker_id",
        "entries",
        "filter",
        "gates",
        "id",
        "idempotency_key",
        "input",
        "metadata",
        "open_count",
        "output_bytes",
        "outputs",
        "parent_task_run_id",
        "priority",
        "scout",
        "seekers",
        "triggering_event_id",
        "triggering_event_key",
        "version",
    )

    def __init__(self, row: TaskRunRow, version: Version) -> None:
        self.id = row.run_id
        self.version = version
        self.created_at = row.created_at
        self.priority = row.priority
        self.parent_task_run_id = row.parent_task_run_id
        self.child_index = row.child_index
        self.child_key = row.child_key
        self.triggering_event_id = row.triggering_event_id
        self.triggering_event_key = row.triggering_event_key
        self.desired_worker_id = row.desired_worker_id
        self.desired_labels = row.desired_labels
        self.idempotency_key = row.idempotency_key
        self.filter = row.filter
        """By which an event started it."""
        self.metadata = row.metadata
        self.input = row.input
        self.admission = Admission() if version.run_rules is not None else None
        """For a workflow with concurrency: its places are the run's."""
        self.begun_at = row.assigned_at
        """When the first of its tasks went to a worker, for a run with places to hold; by the record, from then on it holds them."""
        self.seekers: list[tuple[str, int]] = []
        """Task runs (id, attempt) that wait for the run's places, or for it to be known which worker the run sticks to."""
        self.scout: str | None = None
        """The task run by whose assignment the run finds the worker that it sticks to."""
        self.entries: list[Entry] = [None] * len(version.steps)
        self.gates: dict[int, Gate] = {}
        self.open_count = len(version.steps)
        """Tasks that have not ended, those not yet decided included."""
        self.output_bytes = 0
        self.outputs: dict[int, tuple[ParentOutput, ParentOutput]] = {}
        """Of tasks that completed or were skipped: as others see their output, and as their children do."""

    @property
    def size(self) -> int:
        """Bytes of input and metadata in memory; outputs are counted as they come."""
        return len(self.input) + len(self.metadata)

    @property
    def is_but_on_failure(self) -> bool:
        """Whether all that is left of it is its on-failure task."""
        index = self.version.on_failure_index
        return index is not None and self.open_count == 1 and type(self.entries[index]) is not Ended

    def gate(self, index: int) -> Gate:
        """The gate of a task."""
        gate = self.gates.get(index)
        if gate is None:
            gate = self.gates[index] = Gate(self.version.steps[index].plan)
        return gate

    # ------------------------------------------------------------ entries

    def put(self, task: TaskRun) -> None:
        """A task run of this run is live in memory."""
        self.entries[task.step.index] = task

    def settle(self, index: int, ended: Ended) -> int:
        """A task run has ended. Returns the bytes of output that are kept for its children."""
        self.open_count -= 1
        self.entries[index] = ended
        size = len(ended.output or b"") + len(ended.error or b"")
        self.output_bytes += size
        if ended.state in _HAVE_OUTPUT:
            name = self.version.steps[index].ref.task_name
            output = SKIPPED_OUTPUT if ended.state == TaskRunState.SKIPPED else ended.output or b""
            self.outputs[index] = (ParentOutput(name, output, False), ParentOutput(name, output, True))
        return size

    def spill(self, index: int, task_run_id: str, line_key: str) -> None:
        """A task run of this run waits in Postgres."""
        self.entries[index] = Spilled(task_run_id, line_key)

    def task_runs(self) -> list[TaskRun]:
        """Those that are live in memory."""
        return [entry for entry in self.entries if type(entry) is TaskRun]

    def ended(self) -> list[tuple[int, Ended]]:
        """Step index and end of those that have ended."""
        return [(index, entry) for index, entry in enumerate(self.entries) if type(entry) is Ended]

    def undecided(self) -> list[int]:
        """Step indexes of tasks that wait for their parents: without a task run, or with one that begins anew."""
        return [
            index
            for index, entry in enumerate(self.entries)
            if entry is None
            or (type(entry) is TaskRun and entry.state == TaskRunState.WAITING and entry.waits is None)
        ]

    def failures(self) -> list[tuple[str, bytes]]:
        """Name and error of each task that failed for good."""
        return [
            (self.version.steps[index].ref.task_name, entry.error or b"")
            for index, entry in self.ended()
            if entry.state == TaskRunState.FAILED
        ]

    # ------------------------------------------------------------ what others are told

    def outputs_for(self, step: Step) -> tuple[ParentOutput, ...]:
        """Outputs of the tasks that have completed or were skipped."""
        direct = step.plan.parent_set
        return tuple([pair[index in direct] for index, pair in self.outputs.items()])

    def errors_for(self, step: Step) -> tuple[tuple[str, str], ...]:
        """For the on-failure task: the errors known by now."""
        if not step.plan.is_on_failure:
            return ()
        return tuple((name, error.decode(errors="replace")) for name, error in self.failures())

    def filter_for(self, step: Step) -> str | None:
        """The filter by which an event started the run: only tasks that it began with know of it (behaviour-core 2.7.2)."""
        return None if step.plan.parents or step.plan.is_on_failure else self.filter

    def results(self) -> tuple[TaskResult, ...]:
        """One a task that has ended."""
        return tuple(
            TaskResult(
                entry.id,
                self.version.steps[index].ref.task_name,
                entry.state,
                SKIPPED_OUTPUT if entry.state == TaskRunState.SKIPPED else entry.output,
                entry.error,
            )
            for index, entry in self.ended()
        )

    def details(self) -> tuple[TaskDetails, ...]:
        """One a task that has a task run; without outputs, as the run has not ended."""
        found: list[TaskDetails] = []
        for step, entry in zip(self.version.steps, self.entries, strict=True):
            name = step.ref.task_name
            if type(entry) is TaskRun or type(entry) is Ended:
                found.append(TaskDetails(entry.id, name, entry.state, entry.attempt, None, None))
            elif type(entry) is Spilled:
                found.append(TaskDetails(entry.id, name, TaskRunState.QUEUED, 0, None, None))
        return tuple(found)

    def update_record(self, tenant_id: str) -> TaskRunUpdate:
        """What its row says: that it is in memory, not in Postgres alone, and when it began."""
        return TaskRunUpdate(
            self.id,
            tenant_id,
            0,
            TaskRunState.WAITING,
            0,
            0,
            0,
            self.priority,
            0,
            self.created_at,
            None,
            None,
            self.begun_at,
            None,
            None,
        )


def make_ended(
    task_run_id: str,
    state: TaskRunState,
    attempt: int,
    output: bytes | None,
    error: bytes | None,
    worker_id: str | None,
) -> Ended:
    """The end of a task run."""
    is_skipped = state == TaskRunState.SKIPPED
    if output and b'"skipped"' in output:
        value = json.loads(output)
        is_skipped = isinstance(value, dict) and value.get("skipped") is True
    return Ended(task_run_id, state, attempt, output, error, worker_id, is_skipped)


def run_row(task_row: TaskRunRow) -> TaskRunRow:
    """The row of a run of several tasks, from what the trigger would give a run of one."""
    return task_row._replace(
        step_index=RUN_STEP, state=TaskRunState.WAITING, seq=0, schedule_deadline=None, waits=None
    )


def results_of(rows: list[FinishedTaskRun], version: Version | None) -> tuple[TaskResult, ...]:
    """The results of an ended run from its rows in the record, in the order of its steps."""
    found: list[TaskResult] = []
    for row in sorted(rows, key=lambda row: row.step_index):
        if row.step_index == RUN_STEP:
            continue  # the run itself; a run of one task has no such row
        name = version.steps[row.step_index].ref.task_name if version else ""
        output = SKIPPED_OUTPUT if row.state == TaskRunState.SKIPPED else row.output
        found.append(TaskResult(row.id, name, row.state, output, row.error))
    return tuple(found)


def ended_of(row: TaskRunRow) -> Ended | None:
    """The end of a task run whose row is live still, or None for one that has not ended."""
    if not is_final(row.state):
        return None
    return make_ended(row.id, TaskRunState(row.state), row.attempt, row.output, row.error, row.worker_id)
