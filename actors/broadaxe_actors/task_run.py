"""A live task run in memory, and its records. Pure.

`RunTracker` alone holds these objects. A record says the whole mutable state, with the attempt that the stored row must be at.
"""

from typing import TYPE_CHECKING, NamedTuple

from broadaxe_actors.admission import (
    OVERHEAD_BYTES,
    WORKFLOW_LEVEL,
    Admission,
    Rules,
    limit_rules,
    make_rules,
    place_rules,
)
from broadaxe_actors.batches import (
    BATCH_SLOTS,
    MEMBER_OVERHEAD_BYTES,
    Batching,
    BatchRules,
    Member,
    RunningBatch,
    rules_of,
)
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition, duration_us
from broadaxe_actors.event_filters import payload_of
from broadaxe_actors.gates import Plan, make_plan
from broadaxe_actors.lanes import Demand
from broadaxe_actors.messages import Assignment, CancelOrder, StepRef
from broadaxe_actors.waits import Waits
from broadaxe_actors.worker_labels import desired_labels
from broadaxe_storage.records import (
    TaskRunFinish,
    TaskRunRow,
    TaskRunSettle,
    TaskRunState,
    TaskRunUpdate,
)

if TYPE_CHECKING:
    from broadaxe_actors.run import Run

_STATES = {int(state): state for state in TaskRunState}
"""A look-up takes a tenth of the call of an enumeration."""
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
    demand: Demand
    """What its task runs need."""
    schedule_timeout: int
    execution_timeout: int
    plan: Plan
    """Its conditions."""
    batch: BatchRules | None
    """For a batch task: when its task runs start, and together with which others."""
    rules: Rules | None
    """What its task runs need beside a slot; in a workflow of several tasks without what the run needs as a whole."""
    is_gated: bool
    """Whether they, or their run, need anything beside a slot."""
    is_routed: bool
    """Whether it is told by each task run which workers and whose turn it is for; else `demand` says all."""


def make_step(ref: StepRef, index: int, workflow: WorkflowDefinition) -> Step:
    """Prepare a step of a version."""
    task = workflow.all_tasks[index]
    slots = tuple(sorted(task.slot_requests.items())) or (("durable" if task.is_durable else "default", 1),)
    if task.batch is not None:
        slots = BATCH_SLOTS
    cost = ",".join(f"{pool}={units}" for pool, units in slots)
    queue_key = f"{task.action}|{cost}|"
    is_single = workflow.is_single_task
    rules = make_rules(
        [
            *(
                place_rules(ref.workflow_version_id, workflow.concurrency, WORKFLOW_LEVEL)
                if is_single
                else ()
            ),
            *place_rules(ref.step_id, task.concurrency),
        ],
        limit_rules(task.rate_limits),
    )
    is_gated = rules is not None or (not is_single and bool(workflow.concurrency))
    demand = Demand(queue_key, task.action, slots, desired_labels(task.worker_labels))
    return Step(
        ref=ref,
        index=index,
        definition=task,
        workflow=workflow,
        slots=slots,
        queue_key=queue_key,
        demand=demand,
        schedule_timeout=duration_us(task.schedule_timeout),
        execution_timeout=duration_us(task.execution_timeout),
        plan=make_plan(workflow, index),
        batch=rules_of(task.batch, demand) if task.batch is not None else None,
        rules=rules,
        is_gated=is_gated,
        is_routed=is_gated or workflow.sticky is not None,
    )


class TaskRun:
    """The live state of one task run."""

    __slots__ = (
        "admission",
        "app_retries",
        "assigned_at",
        "attempt",
        "batching",
        "child_index",
        "child_key",
        "created_at",
        "desired_labels",
        "desired_worker_id",
        "execution_deadline",
        "filter",
        "id",
        "idempotency_key",
        "input",
        "internal_retries",
        "is_doubtful",
        "is_in_line",
        "is_recovered",
        "is_slot_released",
        "line_key",
        "metadata",
        "parent_task_run_id",
        "priority",
        "queue_priority",
        "queued_at",
        "run",
        "run_id",
        "schedule_deadline",
        "seq",
        "started_at",
        "state",
        "step",
        "stored_attempt",
        "triggering_event_id",
        "triggering_event_key",
        "waits",
        "worker_id",
    )

    def __init__(self, row: TaskRunRow, step: Step, *, is_recovered: bool, run: "Run | None" = None) -> None:
        self.step = step
        self.run = run
        """The run of several tasks that it belongs to; None for a workflow of one task."""
        self.is_in_line = False
        """The ledger counts it among those that wait in memory for a slot."""
        self.batching = Batching() if step.batch is not None else None
        """For a batch task."""
        self.admission = Admission() if step.rules is not None else None
        """For a task that needs more than a slot."""
        self.line_key = step.queue_key
        """Where it waits, see `routing`."""
        self.is_recovered = is_recovered
        self.is_doubtful = False
        """The way to its worker broke while it ran: a report may have been lost with it."""
        self.id = row.id
        self.run_id = row.run_id
        self.state = _STATES[row.state]
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
        self.idempotency_key = row.idempotency_key
        self.filter = row.filter
        self.is_slot_released = row.is_slot_released
        self.waits = Waits.from_json(row.waits) if row.waits is not None else None
        if run is None:
            self.metadata = row.metadata
            self.input = row.input
        else:
            self.share(run)

    @classmethod
    def born(cls, run: "Run", step: Step, task_run_id: str, now: int) -> "TaskRun":
        """A task run that comes into being within a run that is there: it waits, until the caller says otherwise."""
        task = cls.__new__(cls)
        task.step = step
        task.run = run
        task.is_in_line = task.is_recovered = task.is_doubtful = task.is_slot_released = False
        task.batching = Batching() if step.batch is not None else None
        task.admission = Admission() if step.rules is not None else None
        task.line_key = step.queue_key
        task.seq = 0
        task.id = task_run_id
        task.run_id = run.id
        task.state = TaskRunState.WAITING
        task.attempt = task.stored_attempt = task.app_retries = task.internal_retries = 0
        task.priority = task.queue_priority = run.priority
        task.created_at = task.queued_at = now
        task.schedule_deadline = task.execution_deadline = task.assigned_at = task.started_at = None
        task.worker_id = task.idempotency_key = task.desired_labels = task.filter = None
        task.desired_worker_id = None
        task.waits = None
        task.share(run)
        return task

    def share(self, run: "Run") -> None:
        """What a task run has of its run."""
        self.metadata = run.metadata
        self.input = run.input
        self.desired_labels = run.desired_labels
        self.parent_task_run_id = run.parent_task_run_id
        self.child_index = run.child_index
        self.child_key = run.child_key
        self.triggering_event_id = run.triggering_event_id
        self.triggering_event_key = run.triggering_event_key

    @property
    def line(self) -> tuple[str, int]:
        """Where it waits for a slot: line key and priority."""
        return self.line_key, self.queue_priority

    @property
    def size(self) -> int:
        """Bytes of its payload in memory; what it shares with its run is counted there."""
        if self.run is not None:
            return 0
        size = len(self.input) + len(self.metadata)
        return size + OVERHEAD_BYTES if self.step.is_routed else size

    @property
    def batch(self) -> RunningBatch | None:
        """The batch by which a worker holds the attempt."""
        return self.batching.batch if self.batching is not None else None

    def member(self) -> Member:
        """What the buffer of its group knows of it."""
        size = len(self.input) + len(self.metadata) + MEMBER_OVERHEAD_BYTES
        if self.run is not None:
            size += self.run.output_bytes
        return Member(self.id, self.attempt, self.queue_priority, self.seq, size)

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
            self.waits.to_json() if self.waits is not None else None,
            self.is_slot_released,
            self.batch.id if self.batch is not None else None,
        )

    def row(self, tenant_id: str) -> TaskRunRow:
        """The row of a task run that comes into being, or begins anew, within a run of several tasks."""
        ref = self.step.ref
        is_part = self.run is not None
        return TaskRunRow(
            self.id,
            tenant_id,
            self.run_id,
            ref.workflow_id,
            ref.workflow_version_id,
            self.step.index,
            self.state,
            self.attempt,
            self.app_retries,
            self.internal_retries,
            self.priority,
            self.queue_priority,
            self.seq,
            None,
            self.created_at,
            self.queued_at,
            self.schedule_deadline,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            self.desired_worker_id,
            None,
            "{}" if is_part else self.metadata,
            b"" if is_part else self.input,
            None if is_part else self.idempotency_key,
            self.waits.to_json() if self.waits is not None else None,
        )

    def settle_record(
        self, tenant_id: str, finished_at: int, output: bytes | None, error: bytes | None
    ) -> TaskRunSettle:
        """The record of its end within a run that may go on."""
        return TaskRunSettle._make(self.finish_record(tenant_id, finished_at, output, error))

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
        run = self.run
        filter_text = self.filter if run is None else run.filter_for(self.step)
        if run is None and self.waits is None and filter_text is None:
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
            parents=() if run is None else run.outputs_for(self.step),
            triggers="" if self.waits is None else self.waits.triggers(self.step.plan),
            errors=run.errors_for(self.step) if run is not None else (),
            filter_payload="" if filter_text is None else payload_of(filter_text),
        )

    def cancel_order(self, attempt: int) -> CancelOrder:
        """What its worker is told to stop."""
        order = CancelOrder(self.step.ref, self.run_id, self.id, attempt, self.metadata, self.priority)
        batch = self.batch
        if batch is None:
            return order
        return order._replace(batch_id=batch.id, batch_key=batch.key.group if batch.key else "")
