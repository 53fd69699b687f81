-- What people read about the past, through the pool of history reads.

-- name: list_finished
-- A page of ended runs, newest first. $1 tenant, $2 and $3 creation time and id of the last row of the page before, $4 created
-- not before, $5 states or null for all, $6 rows.
SELECT id::text, tenant_id::text, run_id::text, workflow_id::text, workflow_version_id::text, step_index, state, attempt,
    priority, created_at, queued_at, assigned_at, started_at, coalesce(ended_at, finished_at) AS finished_at, worker_id::text,
    parent_task_run_id::text, child_index, child_key, metadata, input, output, error, triggering_event_id::text,
    triggering_event_key, desired_worker_id::text, desired_labels, idempotency_key
FROM task_run_history
WHERE tenant_id = $1 AND id = run_id AND (created_at, id) < ($2, $3::uuid) AND created_at >= $4
    AND ($5::smallint[] IS NULL OR state = ANY ($5))
ORDER BY created_at DESC, id DESC
LIMIT $6;

-- name: fetch_timeline
-- What happened to one task run, in order. $1 tenant, $2 task run.
SELECT tenant_id::text, task_run_id::text, attempt, kind, at, worker_id::text, message
FROM task_run_timeline
WHERE task_run_id = $2 AND tenant_id = $1
ORDER BY at, kind, number;

-- name: fetch_log_lines
-- Lines of one task run as they were stored. $1 tenant, $2 task run, $3 the number before the page, $4 rows.
SELECT number, tenant_id::text, task_run_id::text, attempt, created_at, level, metadata, message
FROM log_line
WHERE task_run_id = $2 AND tenant_id = $1 AND number > $3
ORDER BY number
LIMIT $4;
