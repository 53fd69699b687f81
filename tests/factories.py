"""Records with valid defaults, so that a test names the two facts it is about."""

import itertools
import random
import time
import uuid
from typing import Any

from broadaxe_storage.records import (
    RUN_STEP,
    EventRow,
    FilterRow,
    IdempotencyKeyRow,
    LogRow,
    RateLimitRow,
    RunFinish,
    TaskEventKind,
    TaskEventRow,
    TaskRunFinish,
    TaskRunRow,
    TaskRunSettle,
    TaskRunState,
    TaskRunUpdate,
    WorkerRow,
    WorkerStatus,
    WorkflowPause,
    WorkflowVersionRow,
)
from broadaxe_storage.records_accounts import TenantRow
from broadaxe_storage.records_timers import CronChange, CronRow, ScheduledRunChange, ScheduledRunRow

_seqs = itertools.count(1)
_random = random.Random(7)


def new_id() -> str:
    """A UUIDv7 of now."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | 7 << 76 | _random.getrandbits(12) << 64 | 2 << 62 | _random.getrandbits(62)
    return str(uuid.UUID(int=value))


def now_us() -> int:
    return time.time_ns() // 1000


TENANT = new_id()
WORKFLOW = new_id()
VERSION = new_id()
WORKER = new_id()


def make_tenant(**fields: Any) -> TenantRow:
    tenant_id = fields.pop("id", None) or new_id()
    row = TenantRow(id=tenant_id, name="Acme", slug=f"acme-{tenant_id}", created_at=now_us())
    return row._replace(**fields)


def make_task_run(**fields: Any) -> TaskRunRow:
    task_run_id = fields.pop("id", None) or new_id()
    now = now_us()
    state = fields.get("state", TaskRunState.QUEUED)
    is_with_worker = state in (TaskRunState.ASSIGNED, TaskRunState.RUNNING)
    row = TaskRunRow(
        id=task_run_id,
        tenant_id=TENANT,
        run_id=task_run_id,
        workflow_id=WORKFLOW,
        workflow_version_id=VERSION,
        step_index=0,
        state=state,
        attempt=0,
        app_retries=0,
        internal_retries=0,
        priority=1,
        queue_priority=1,
        seq=next(_seqs),
        spill_queue=None,
        created_at=now,
        queued_at=now,
        schedule_deadline=now + 300_000_000,
        execution_deadline=None,
        assigned_at=now if is_with_worker else None,
        started_at=None,
        worker_id=WORKER if is_with_worker else None,
        parent_task_run_id=None,
        child_index=None,
        child_key=None,
        triggering_event_id=None,
        triggering_event_key=None,
        desired_worker_id=None,
        desired_labels=None,
        metadata="{}",
        input=b"{}",
    )
    return row._replace(**fields)


def make_run(**fields: Any) -> TaskRunRow:
    """The row of a run of several tasks."""
    values: dict[str, Any] = {
        "step_index": RUN_STEP,
        "state": TaskRunState.WAITING,
        "schedule_deadline": None,
    }
    return make_task_run(**values | fields)


def make_member(run: TaskRunRow, **fields: Any) -> TaskRunRow:
    """A task run of a run of several tasks."""
    return make_task_run(**{"run_id": run.id, "tenant_id": run.tenant_id, "input": b""} | fields)


def make_settle(row: TaskRunRow, **fields: Any) -> TaskRunSettle:
    """The successful end of `row`, of a run of several tasks, unless `fields` say otherwise."""
    return TaskRunSettle._make(make_finish(row, **fields))


def make_run_finish(run: TaskRunRow, task_count: int, **fields: Any) -> RunFinish:
    finish = RunFinish(run.id, run.tenant_id, TaskRunState.COMPLETED, now_us(), task_count)
    return finish._replace(**fields)


def make_claim(key: str = "k", **fields: Any) -> IdempotencyKeyRow:
    return IdempotencyKeyRow(TENANT, key, new_id(), now_us() + 60_000_000)._replace(**fields)


def make_rate_limit(key: str = "k", **fields: Any) -> RateLimitRow:
    """A limit of 10 a minute, with 4 left of the window that has just begun."""
    now = now_us()
    return RateLimitRow(TENANT, key, 10, 60_000_000, now, 4, None, 1, 1_000_000, now)._replace(**fields)


def make_update(row: TaskRunRow, **fields: Any) -> TaskRunUpdate:
    """An assignment of `row`, unless `fields` say otherwise."""
    update = TaskRunUpdate(
        id=row.id,
        tenant_id=row.tenant_id,
        expected_attempt=row.attempt,
        state=TaskRunState.ASSIGNED,
        attempt=row.attempt,
        app_retries=row.app_retries,
        internal_retries=row.internal_retries,
        queue_priority=row.queue_priority,
        seq=row.seq,
        queued_at=row.queued_at,
        schedule_deadline=None,
        execution_deadline=now_us() + 300_000_000,
        assigned_at=now_us(),
        started_at=None,
        worker_id=WORKER,
    )
    return update._replace(**fields)


def make_finish(row: TaskRunRow, **fields: Any) -> TaskRunFinish:
    """The successful end of `row`, unless `fields` say otherwise."""
    now = now_us()
    finish = TaskRunFinish(
        id=row.id,
        tenant_id=row.tenant_id,
        expected_attempt=row.attempt,
        state=TaskRunState.COMPLETED,
        attempt=row.attempt,
        app_retries=row.app_retries,
        internal_retries=row.internal_retries,
        queued_at=row.queued_at,
        assigned_at=now,
        started_at=now,
        finished_at=now,
        worker_id=WORKER,
        output=b'{"ok":true}',
        error=None,
    )
    if fields.get("state", TaskRunState.COMPLETED) != TaskRunState.COMPLETED:
        finish = finish._replace(output=None, error=b"boom")
    return finish._replace(**fields)


def make_worker(**fields: Any) -> WorkerRow:
    now = now_us()
    row = WorkerRow(
        id=new_id(),
        tenant_id=TENANT,
        name="worker",
        actions=("count:words",),
        slot_config='{"default": 100}',
        labels='{"size": "big"}',
        runtime_info="{}",
        is_batched=True,
        is_paused=False,
        status=WorkerStatus.ACTIVE,
        created_at=now,
        updated_at=now,
    )
    return row._replace(**fields)


def make_version(**fields: Any) -> WorkflowVersionRow:
    row = WorkflowVersionRow(
        id=new_id(),
        workflow_id=new_id(),
        tenant_id=TENANT,
        name=f"workflow-{next(_seqs)}",
        number=1,
        checksum="c0ffee",
        definition='{"name":"x"}',
        created_at=now_us(),
    )
    return row._replace(**fields)


def make_pause(workflow_id: str, **fields: Any) -> WorkflowPause:
    """A workflow that is paused now."""
    row = WorkflowPause(
        workflow_id=workflow_id,
        tenant_id=TENANT,
        paused_at=now_us(),
        unpaused_at=None,
        queue_ttl=3_600_000_000,
        cron_behavior="QUEUE",
        scheduled_behavior="QUEUE",
    )
    return row._replace(**fields)


def make_event(**fields: Any) -> EventRow:
    row = EventRow(
        id=new_id(),
        tenant_id=TENANT,
        key="user:created",
        scope=None,
        priority=None,
        created_at=now_us(),
        metadata="{}",
        payload=b"{}",
    )
    return row._replace(**fields)


def make_filter(**fields: Any) -> FilterRow:
    now = now_us()
    row = FilterRow(new_id(), TENANT, WORKFLOW, "scope", "input.n > 1", '{"who":"me"}', False, now, now)
    return row._replace(**fields)


def make_task_event(task_run_id: str, **fields: Any) -> TaskEventRow:
    row = TaskEventRow(
        tenant_id=TENANT,
        task_run_id=task_run_id,
        attempt=0,
        kind=TaskEventKind.RETRYING,
        at=now_us(),
        worker_id=None,
        message=b"",
    )
    return row._replace(**fields)


def make_log(task_run_id: str, **fields: Any) -> LogRow:
    row = LogRow(
        tenant_id=TENANT,
        task_run_id=task_run_id,
        attempt=0,
        created_at=now_us(),
        level="INFO",
        metadata=None,
        message=b"hello",
    )
    return row._replace(**fields)


def make_cron(**fields: Any) -> CronRow:
    """A cron of the API that is due in an hour."""
    now = now_us()
    row = CronRow(
        id=new_id(),
        tenant_id=TENANT,
        workflow_id=WORKFLOW,
        workflow_name="workflow",
        name=f"cron-{next(_seqs)}",
        expression="0 * * * *",
        is_declared=False,
        is_enabled=True,
        priority=None,
        next_at=now + 3_600_000_000,
        last_tick_at=None,
        error=None,
        created_at=now,
        updated_at=now,
        metadata="{}",
        input=b"{}",
    )
    return row._replace(**fields)


def make_cron_change(row: CronRow, **fields: Any) -> CronChange:
    """The state of `row` as it is, unless `fields` say otherwise."""
    change = CronChange(row.id, row.tenant_id, None, row.is_enabled, row.next_at, row.error, row.updated_at)
    return change._replace(**fields)


def make_scheduled_run(**fields: Any) -> ScheduledRunRow:
    """A scheduled run that is due in an hour."""
    now = now_us()
    row = ScheduledRunRow(
        id=new_id(),
        tenant_id=TENANT,
        workflow_id=WORKFLOW,
        workflow_name="workflow",
        is_declared=False,
        priority=None,
        trigger_at=now + 3_600_000_000,
        fired_at=None,
        run_id=None,
        error=None,
        parent_run_id=None,
        parent_task_run_id=None,
        created_at=now,
        updated_at=now,
        metadata="{}",
        input=b"{}",
    )
    return row._replace(**fields)


def make_scheduled_run_change(row: ScheduledRunRow, **fields: Any) -> ScheduledRunChange:
    """The state of `row` as it is, unless `fields` say otherwise."""
    change = ScheduledRunChange(
        row.id, row.tenant_id, row.trigger_at, row.fired_at, row.run_id, row.error, row.updated_at
    )
    return change._replace(**fields)
