-- Task runs: live ones for recovery and paging, ended ones for results. Columns are in the order of `TaskRunRow` and
-- `FinishedTaskRun`.

-- name: load_max_seq
-- The highest place in line.
SELECT coalesce(max(seq), 0) FROM task_run;

-- name: load_live_task_runs
-- A page of what is kept in memory. $1 tenant or null for all, $2 the id before the page, $3 rows.
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    app_retries, internal_retries, priority, queue_priority, seq, spill_queue, created_at, queued_at, schedule_deadline,
    execution_deadline, assigned_at, started_at, worker_id::text, parent_task_run_id::text, child_index, child_key,
    triggering_event_id::text, triggering_event_key, desired_worker_id::text, desired_labels, metadata, input
FROM task_run
WHERE id > $2 AND spill_queue IS NULL AND ($1::uuid IS NULL OR tenant_id = $1)
ORDER BY id
LIMIT $3;

-- name: load_spilled_queues
-- How much of each sub-queue waits here. $1 tenant or null for all.
SELECT tenant_id::text, spill_queue, queue_priority, count(*) AS count, min(spill_deadline) AS first_schedule_deadline
FROM task_run
WHERE spill_queue IS NOT NULL AND ($1::uuid IS NULL OR tenant_id = $1)
GROUP BY tenant_id, spill_queue, queue_priority
ORDER BY tenant_id, spill_queue, queue_priority DESC;

-- name: page_spilled
-- The next of one sub-queue. $1 tenant, $2 sub-queue, $3 queue priority, $4 the seq before the page, $5 rows.
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    app_retries, internal_retries, priority, queue_priority, seq, spill_queue, created_at, queued_at, schedule_deadline,
    execution_deadline, assigned_at, started_at, worker_id::text, parent_task_run_id::text, child_index, child_key,
    triggering_event_id::text, triggering_event_key, desired_worker_id::text, desired_labels, metadata, input
FROM task_run
WHERE tenant_id = $1 AND spill_queue = $2 AND queue_priority = $3 AND seq > $4
ORDER BY seq
LIMIT $5;

-- name: load_expired_spilled
-- Spilled and past their schedule deadline. $1 tenant, $2 now, $3 rows.
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    app_retries, internal_retries, priority, queue_priority, seq, spill_queue, created_at, queued_at, schedule_deadline,
    execution_deadline, assigned_at, started_at, worker_id::text, parent_task_run_id::text, child_index, child_key,
    triggering_event_id::text, triggering_event_key, desired_worker_id::text, desired_labels, metadata, input
FROM task_run
WHERE tenant_id = $1 AND spill_deadline <= $2
ORDER BY spill_deadline
LIMIT $3;

-- name: fetch_live
-- Live task runs by id. $1 tenant, $2 ids.
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    app_retries, internal_retries, priority, queue_priority, seq, spill_queue, created_at, queued_at, schedule_deadline,
    execution_deadline, assigned_at, started_at, worker_id::text, parent_task_run_id::text, child_index, child_key,
    triggering_event_id::text, triggering_event_key, desired_worker_id::text, desired_labels, metadata, input
FROM task_run
WHERE id = ANY ($2::uuid[]) AND tenant_id = $1;

-- name: fetch_finished
-- Ended task runs by id. $1 tenant, $2 ids.
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    priority, created_at, queued_at, assigned_at, started_at, finished_at, worker_id::text, parent_task_run_id::text,
    child_index, child_key, metadata, input, output, error
FROM task_run_history
WHERE id = ANY ($2::uuid[]) AND tenant_id = $1;

-- name: fetch_children
-- Runs that a task run spawned, ended ones included. $1 tenant, $2 parent task run.
SELECT child_index, child_key, run_id::text FROM task_run
WHERE parent_task_run_id = $2 AND tenant_id = $1
UNION
SELECT child_index, child_key, run_id::text FROM task_run_history
WHERE parent_task_run_id = $2 AND tenant_id = $1
ORDER BY 1, 2, 3;
