"""A live task run in memory, and its records. Pure.

`RunTracker` alone holds these objects. A record says the whole mutable state, with the attempt that the stored row must be at.
"""

from typing import NamedTuple

from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition, duration_us
from broadaxe_actors.messages import Assignment, CancelOrder, StepRef
from broadaxe_storage.records import TaskRunFinish, TaskRunRow, TaskRunState, TaskRunUpdate

RETRY_PRIORITY = 4
"""Place of retries, reassignments, restores and replays: before all new work (behaviour-core 6.1)."""


class Step(NamedTuple):
    """A task of a workflow version, with what each of its runs needs at hand."""

    ref: StepRef
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    definition: TaskDefinition
    workflow: WorkflowDefinition
    slots: tuple[tuple[str, int], ...]
    queue_key: str
    """Sub-queue of its task runs: action, slot cost, worker signature."""
    schedule_timeout: int
    execution_timeout: int


def make_step(ref: StepRef, index: int, workflow: WorkflowDefinition) -> Step:
    """Prepare a step of a version."""
    task = workflow.all_tasks[index]
    slots = tuple(sorted(task.slot_requests.items())) or (("durable" if task.is_durable else "default", 1),)
    cost = ",".join(f"{pool}={units}" for pool, units in slots)
    return Step(
        ref=ref,
        index=index,
        definition=task,
        workflow=workflow,
        slots=slots,
        queue_key=f"{task.action}|{cost}|",
        schedule_timeout=duration_us(task.schedule_timeout),
        execution_timeout=duration_us(task.execution_timeout),
    )


class TaskRun:
    """The live state of one task run."""

    __slots__ = (
        "app_retries",
        "assigned_at",
        "attempt",
        "child_index",
        "child_key",
        "created_at",
        "desired_labels",
        "desired_worker_id",
        "execution_deadline",
        "id",
        "input",
        "internal_retries",
        "is_doubtful",
        "is_recovered",
        "metadata",
        "parent_task_run_id",
        "priority",
        "queue_priority",
        "queued_at",
        "run_id",
        "schedule_deadline",
        "seq",
        "started_at",
        "state",
        "step",
        "stored_attempt",
        "triggering_event_id",
        "triggering_event_key",
        "worker_id",
    )

    def __init__(self, row: TaskRunRow, step: Step, *, is_recovered: bool) -> None:
        self.step = step
        self.is_recovered = is_recovered
        self.is_doubtful = False
        """The way to its worker broke while it ran: a report may have been lost with it."""
        self.id = row.id
        self.run_id = row.run_id
        self.state = TaskRunState(row.state)
        self.attempt = row.attempt
        self.stored_attempt = row.attempt
        self.app_retries = row.app_retries
        self.internal_retries = row.internal_retries
        self.priority = row.priority
        self.queue_priority = row.queue_priority
        self.seq = row.seq
        self.created_at = row.created_at
        self.queued_at = row.queued_at
        self.schedule_deadline = row.schedule_deadline
        self.execution_deadline = row.execution_deadline
        self.assigned_at = row.assigned_at
        self.started_at = row.started_at
        self.worker_id = row.worker_id
        self.parent_task_run_id = row.parent_task_run_id
        self.child_index = row.child_index
        self.child_key = row.child_key
        self.triggering_event_id = row.triggering_event_id
        self.triggering_event_key = row.triggering_event_key
        self.desired_worker_id = row.desired_worker_id
        self.desired_labels = row.desired_labels
        self.metadata = row.metadata
        self.input = row.input

    @property
    def size(self) -> int:
        """Bytes of its payload in memory."""
        return len(self.input) + len(self.metadata)

    def update_record(self, tenant_id: str) -> TaskRunUpdate:
        """The record of a transition that does not end it."""
        expected, self.stored_attempt = self.stored_attempt, self.attempt
        return TaskRunUpdate(
            self.id,
            tenant_id,
            expected,
            self.state,
            self.attempt,
            self.app_retries,
            self.internal_retries,
            self.queue_priority,
            self.seq,
            self.queued_at,
            self.schedule_deadline,
            self.execution_deadline,
            self.assigned_at,
            self.started_at,
            self.worker_id,
        )

    def finish_record(
        self, tenant_id: str, finished_at: int, output: bytes | None, error: bytes | None
    ) -> TaskRunFinish:
        """The record of its end."""
        return TaskRunFinish(
            self.id,
            tenant_id,
            self.stored_attempt,
            self.state,
            self.attempt,
            self.app_retries,
            self.internal_retries,
            self.queued_at,
            self.assigned_at,
            self.started_at,
            finished_at,
            self.worker_id,
            output,
            error,
        )

    def assignment(self) -> Assignment:
        """What its worker is told to start."""
        return Assignment(
            self.step.ref,
            self.run_id,
            self.id,
            self.attempt,
            self.priority,
            self.input,
            self.metadata,
            self.created_at,
            self.parent_task_run_id,
            self.child_index,
            self.child_key,
            self.triggering_event_id,
            self.triggering_event_key,
        )

    def cancel_order(self, attempt: int) -> CancelOrder:
        """What its worker is told to stop."""
        return CancelOrder(self.step.ref, self.run_id, self.id, attempt, self.metadata, self.priority)
