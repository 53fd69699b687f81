"""New runs in memory and as rows, and how they are taken back when the record does not take them. A part of `Creation`."""

from broadaxe_actors.catalog import Version
from broadaxe_actors.creation.job import Job, Stage
from broadaxe_actors.run import Run, run_row
from broadaxe_actors.task_run import Step, TaskRun
from broadaxe_actors.waits import Waits
from broadaxe_storage.records import RUN_STEP, TaskRunRow, TaskRunState


class Births(Stage):
    """See the module."""

    def _create(self, job: Job, index: int, now: int) -> None:
        tracker = self._t
        run = job.runs[index]
        version = job.versions[index]
        step = version.steps[0]
        event = job.trigger_events[index]
        priority = run.priority or version.definition.default_priority or 1
        key = job.keys.get(index) if job.keys else None
        # In the order of the fields: by name it takes twice as long, and every run passes here.
        row = TaskRunRow(
            job.run_ids[index],
            tracker._tenant_id,
            job.run_ids[index],
            version.workflow_id,
            version.id,
            0,  # step_index
            TaskRunState.QUEUED,
            0,  # attempt
            0,  # app_retries
            0,  # internal_retries
            priority,
            priority,  # queue_priority
            tracker.next_seq(),
            None,  # spill_queue
            now,  # created_at
            now,  # queued_at
            now + step.schedule_timeout,
            None,  # execution_deadline
            None,  # assigned_at
            None,  # started_at
            None,  # worker_id
            run.parent_task_run_id,
            run.child_index,
            run.child_key,
            event.id if event else None,
            event.key if event else None,
            run.desired_worker_id,
            run.desired_labels,
            job.metadata_of(index),
            run.input,
            key.key if key is not None else None,
        )
        if job.filters and index in job.filters:
            row = row._replace(filter=job.filters[index])
        if not version.is_single_task:
            self._create_run(job, run_row(row), version)
        elif step.plan.waits:
            self._put(job, _waiting(row, now), step, None)
        elif step.is_routed or row.desired_labels is not None:
            self._create_routed(job, row, step)
        elif tracker._ledger.enter((step.queue_key, priority)):
            self._spill(job, row._replace(spill_queue=step.queue_key))
        else:
            self._put(job, row, step, None).is_in_line = True

    def _create_routed(self, job: Job, row: TaskRunRow, step: Step) -> None:
        """A run of one task that may have to wait for more than a slot of any worker: its line is its own affair."""
        tracker = self._t
        task = TaskRun(row, step, is_recovered=False)
        tracker._find_line(task)
        if tracker._ledger.enter(task.line):
            self._spill(job, row._replace(spill_queue=task.line_key))
        else:
            self._keep(job, row, task).is_in_line = True

    def _create_run(self, job: Job, head: TaskRunRow, version: Version) -> None:
        """A run of several tasks, with those of its tasks that have no parents."""
        tracker = self._t
        ledger = tracker._ledger
        roots = [step for step in version.steps if not step.plan.parents and not step.plan.is_on_failure]
        run = Run(head, version)
        tasks: list[TaskRun] = []
        rows: list[TaskRunRow] = []
        for step in roots:
            row = _root_row(head, step, self._new_id(), tracker.next_seq())
            rows.append(_waiting(row, head.created_at) if step.plan.waits else row)
            tasks.append(TaskRun(rows[-1], step, is_recovered=False, run=run))
            tracker._find_line(tasks[-1])
        # As a whole, or not at all: a run that waits in Postgres has no timer there for its sleeps.
        must_spill = any(ledger.must_spill(task.line) for task in tasks)
        if must_spill and not any(step.plan.waits for step in roots):
            job.rows.append(head._replace(spill_queue=""))
            for row, task in zip(rows, tasks, strict=True):
                ledger.enter_postgres(task.line)
                self._spill(job, row._replace(spill_queue=task.line_key))
            return
        job.rows.append(head)
        tracker._runs[head.run_id] = run
        ledger.hold_bytes(run.size)
        for row, task in zip(rows, tasks, strict=True):
            self._keep(job, row, task)
            if task.waits is None:
                task.is_in_line = True
                ledger.enter_memory(task.line)

    def _put(self, job: Job, row: TaskRunRow, step: Step, run: Run | None) -> TaskRun:
        """A new task run in memory."""
        return self._keep(job, row, TaskRun(row, step, is_recovered=False, run=run))

    def _keep(self, job: Job, row: TaskRunRow, task: TaskRun) -> TaskRun:
        if task.waits is not None:
            task.waits.is_checked = not task.step.plan.has_event_waits
        run = task.run
        self._t._live[row.id] = task
        if task.waits is None:
            self._t._counts.queue(task)
        self._t._ledger.hold_bytes(task.size)
        if run is not None:
            run.put(task)
        job.rows.append(row)
        job.created.append(row.id)
        return task

    def _spill(self, job: Job, row: TaskRunRow) -> None:
        """A new task run that waits in Postgres; the ledger counts it already."""
        job.rows.append(row)
        job.spilled += 1
        for repeat in self._repeats.values():
            # It asked Postgres before this was there, and memory will not know of it.
            if repeat is not job and row.run_id in repeat.run_ids and row.run_id not in repeat.existing:
                repeat.existing.add(row.run_id)
                repeat.borrowed.append(row.run_id)
        job.spilled_lines.add((row.spill_queue or "", row.queue_priority))
        self._t.note_spilled_deadline(row.schedule_deadline)

    def _take_back(self, row: TaskRunRow) -> None:
        """What a row that will not be had put into memory."""
        tracker = self._t
        if row.step_index == RUN_STEP:
            run = tracker._runs.pop(row.run_id, None)
            if run is not None:
                tracker._ledger.hold_bytes(-run.size)
            return
        task = tracker._live.pop(row.id, None)
        if task is not None:
            tracker._ledger.hold_bytes(-task.size)
            tracker._counts.unqueue(task)
            if task.is_in_line:
                tracker._ledger.leave(task.line)
        elif row.spill_queue:
            tracker._ledger.left_postgres((row.spill_queue, row.queue_priority))


def _waiting(row: TaskRunRow, now: int) -> TaskRunRow:
    """A new task run that has to wait for sleeps or events first."""
    waits = Waits(now)
    return row._replace(state=TaskRunState.WAITING, schedule_deadline=None, waits=waits.to_json())


def _root_row(head: TaskRunRow, step: Step, task_run_id: str, seq: int) -> TaskRunRow:
    """The row of a task without parents, from that of its run."""
    return head._replace(
        id=task_run_id,
        step_index=step.index,
        state=TaskRunState.QUEUED,
        seq=seq,
        schedule_deadline=head.created_at + step.schedule_timeout,
        parent_task_run_id=None,
        child_index=None,
        child_key=None,
        triggering_event_id=None,
        triggering_event_key=None,
        desired_labels=None,
        metadata="{}",
        input=b"",
        idempotency_key=None,
        spill_queue=None,
        filter=None,
    )
