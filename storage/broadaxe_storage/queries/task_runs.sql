-- Task runs: live ones for recovery and paging, ended ones for results. Columns are in the order of `TaskRunRow` and
-- `FinishedTaskRun`.

-- name: load_max_seq
-- The highest place in line.
SELECT coalesce(max(seq), 0) FROM task_run;

-- name: load_live_task_runs
-- A page of what is kept in memory: what is not spilled, and spilled task runs whose run's own row is not. The look-up of that row is
-- no EXISTS, which the planner might answer by reading the whole table. $1 tenant or null for all, $2 the id before the page, $3 rows.
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    app_retries, internal_retries, priority, queue_priority, seq, spill_queue, created_at, queued_at, schedule_deadline,
    execution_deadline, assigned_at, started_at, worker_id::text, parent_task_run_id::text, child_index, child_key,
    triggering_event_id::text, triggering_event_key, desired_worker_id::text, desired_labels, metadata, input,
    idempotency_key, waits, is_slot_released, finished_at, output, error, batch_id::text, filter
FROM task_run AS t
WHERE id > $2 AND ($1::uuid IS NULL OR tenant_id = $1)
    AND (
        spill_queue IS NULL
        OR (id <> run_id AND (SELECT r.spill_queue FROM task_run AS r WHERE r.id = t.run_id) IS NULL)
    )
ORDER BY id
LIMIT $3;

-- name: load_spilled_queues
-- How much of each sub-queue waits here; the one without a name is that of the rows of runs of several tasks. $1 tenant or null for
-- all.
SELECT tenant_id::text, spill_queue, queue_priority, count(*) AS count, min(spill_deadline) AS first_schedule_deadline
FROM task_run
WHERE spill_queue IS NOT NULL AND spill_queue <> '' AND ($1::uuid IS NULL OR tenant_id = $1)
GROUP BY tenant_id, spill_queue, queue_priority
ORDER BY tenant_id, spill_queue, queue_priority DESC;

-- name: page_spilled
-- The next of one sub-queue. $1 tenant, $2 sub-queue, $3 queue priority, $4 the seq before the page, $5 rows.
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    app_retries, internal_retries, priority, queue_priority, seq, spill_queue, created_at, queued_at, schedule_deadline,
    execution_deadline, assigned_at, started_at, worker_id::text, parent_task_run_id::text, child_index, child_key,
    triggering_event_id::text, triggering_event_key, desired_worker_id::text, desired_labels, metadata, input,
    idempotency_key, waits, is_slot_released, finished_at, output, error, batch_id::text, filter
FROM task_run
WHERE tenant_id = $1 AND spill_queue = $2 AND queue_priority = $3 AND seq > $4
ORDER BY seq
LIMIT $5;

-- name: load_expired_spilled
-- Spilled and past their schedule deadline. The workflows are found one after the other along the index, so that what is left out is not
-- read. $1 tenant, $2 now, $3 rows, $4 workflows to leave out.
WITH RECURSIVE workflows AS (
    (
        SELECT workflow_id AS id FROM task_run WHERE tenant_id = $1 AND spill_deadline IS NOT NULL
        ORDER BY workflow_id LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT t.workflow_id FROM task_run AS t
        WHERE t.tenant_id = $1 AND t.spill_deadline IS NOT NULL AND t.workflow_id > w.id
        ORDER BY t.workflow_id LIMIT 1
    )
    FROM workflows AS w WHERE w.id IS NOT NULL
)
SELECT r.id::text, r.tenant_id::text, r.run_id::text, r.workflow_id::text, r.workflow_version_id::text, r.step_index, r.state, r.attempt,
    r.app_retries, r.internal_retries, r.priority, r.queue_priority, r.seq, r.spill_queue, r.created_at, r.queued_at,
    r.schedule_deadline, r.execution_deadline, r.assigned_at, r.started_at, r.worker_id::text, r.parent_task_run_id::text,
    r.child_index, r.child_key, r.triggering_event_id::text, r.triggering_event_key, r.desired_worker_id::text,
    r.desired_labels, r.metadata, r.input, r.idempotency_key, r.waits, r.is_slot_released, r.finished_at, r.output, r.error,
    r.batch_id::text, r.filter
FROM workflows AS w
CROSS JOIN LATERAL (
    SELECT * FROM task_run AS t
    WHERE t.tenant_id = $1 AND t.workflow_id = w.id AND t.spill_deadline <= $2
    ORDER BY t.spill_deadline LIMIT $3
) AS r
WHERE w.id <> ALL ($4::uuid[])
ORDER BY r.spill_deadline
LIMIT $3;

-- name: fetch_live
-- Live task runs by id, and all of a run by the run's id. $1 tenant, $2 ids.
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    app_retries, internal_retries, priority, queue_priority, seq, spill_queue, created_at, queued_at, schedule_deadline,
    execution_deadline, assigned_at, started_at, worker_id::text, parent_task_run_id::text, child_index, child_key,
    triggering_event_id::text, triggering_event_key, desired_worker_id::text, desired_labels, metadata, input,
    idempotency_key, waits, is_slot_released, finished_at, output, error, batch_id::text, filter
FROM task_run
WHERE id = ANY ($2::uuid[]) AND tenant_id = $1
UNION ALL
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    app_retries, internal_retries, priority, queue_priority, seq, spill_queue, created_at, queued_at, schedule_deadline,
    execution_deadline, assigned_at, started_at, worker_id::text, parent_task_run_id::text, child_index, child_key,
    triggering_event_id::text, triggering_event_key, desired_worker_id::text, desired_labels, metadata, input,
    idempotency_key, waits, is_slot_released, finished_at, output, error, batch_id::text, filter
FROM task_run
WHERE run_id = ANY ($2::uuid[]) AND id <> run_id AND tenant_id IS NOT DISTINCT FROM $1 AND id <> ALL ($2::uuid[]);

-- name: fetch_finished
-- Ended task runs by id, and all of a run by the run's id. $1 tenant, $2 ids.
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    priority, created_at, queued_at, assigned_at, started_at, coalesce(ended_at, finished_at) AS finished_at, worker_id::text,
    parent_task_run_id::text, child_index, child_key, metadata, input, output, error, triggering_event_id::text,
    triggering_event_key, desired_worker_id::text, desired_labels, idempotency_key, filter
FROM task_run_history
WHERE id = ANY ($2::uuid[]) AND tenant_id = $1
UNION ALL
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    priority, created_at, queued_at, assigned_at, started_at, coalesce(ended_at, finished_at) AS finished_at, worker_id::text,
    parent_task_run_id::text, child_index, child_key, metadata, input, output, error, triggering_event_id::text,
    triggering_event_key, desired_worker_id::text, desired_labels, idempotency_key, filter
FROM task_run_history
WHERE run_id = ANY ($2::uuid[]) AND id <> run_id AND tenant_id IS NOT DISTINCT FROM $1 AND id <> ALL ($2::uuid[]);

-- name: fetch_children
-- Runs that a task run spawned, ended ones included. $1 tenant, $2 parent task run.
SELECT child_index, child_key, run_id::text FROM task_run
WHERE parent_task_run_id = $2 AND tenant_id = $1
UNION
SELECT child_index, child_key, run_id::text FROM task_run_history
WHERE parent_task_run_id = $2 AND tenant_id = $1
ORDER BY 1, 2, 3;

-- name: count_usage
-- What a tenant has made: events, runs of one task, task runs of others; each counted up to a limit. $1 tenant, $2 events and $3 task runs created not
-- before, $4 and before, $5 the limit, $6 left the live table not before (spares partitions).
SELECT
    (
        SELECT count(*) FROM (
            SELECT FROM event AS e WHERE e.tenant_id = $1 AND e.created_at >= $2 AND e.created_at < $4 LIMIT $5
        ) AS c
    ) AS events,
    (
        SELECT count(*) FROM (
            SELECT FROM run_summary AS s
            WHERE s.tenant_id = $1 AND s.is_run AND s.step_index >= 0 AND s.created_at >= $3 AND s.created_at < $4 AND s.left_at >= $6
            LIMIT $5
        ) AS c
    ) AS runs,
    (
        SELECT count(*) FROM (
            SELECT FROM run_summary AS s
            WHERE s.tenant_id = $1 AND s.id <> s.run_id AND s.created_at >= $3 AND s.created_at < $4 AND s.left_at >= $6
            LIMIT $5
        ) AS c
    ) AS tasks;

-- name: select_live_runs
-- Ids of live runs, oldest first. $1 tenant, $2 created not before, $3 created not after or null, $4 states or null for all, $5 workflows
-- or null for all, $6 and $7 metadata keys and their values, any of which is enough, or null for all, $8 rows.
SELECT id::text FROM run_summary AS s
WHERE tenant_id = $1 AND is_run AND left_at = 'infinity'
    AND created_at >= $2 AND created_at <= coalesce($3, 'infinity'::timestamptz)
    AND ($4::smallint[] IS NULL OR state = ANY ($4))
    AND ($5::uuid[] IS NULL OR workflow_id = ANY ($5))
    AND (
        $6::text[] IS NULL
        OR EXISTS (SELECT FROM unnest($6::text[], $7::text[]) AS w (key, value) WHERE s.metadata ->> w.key = w.value)
    )
ORDER BY created_at, id
LIMIT $8;

-- name: select_finished_runs
-- Ids of ended runs, oldest first. Arguments as above.
SELECT id::text FROM run_summary AS s
WHERE tenant_id = $1 AND is_run AND left_at < 'infinity'
    AND created_at >= $2 AND created_at <= coalesce($3, 'infinity'::timestamptz)
    AND ($4::smallint[] IS NULL OR state = ANY ($4))
    AND ($5::uuid[] IS NULL OR workflow_id = ANY ($5))
    AND (
        $6::text[] IS NULL
        OR EXISTS (SELECT FROM unnest($6::text[], $7::text[]) AS w (key, value) WHERE s.metadata ->> w.key = w.value)
    )
ORDER BY created_at, id
LIMIT $8;
