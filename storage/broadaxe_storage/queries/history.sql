-- What people list and look up, live and ended alike. Columns of runs and task runs are in the order of `RunSummary`. The queries whose
-- arguments may be null are planned for each call (see `History`), so that what is not asked for is not there.

-- part: wanted_runs
-- Runs that a listing means. $1 tenant, $2 created not before, $3 nor after, $4 left the live table not before (spares partitions); then
-- each null for all: $5 states, $6 workflows, $7 the only workflow, $8 an object that the metadata contain, $9 a path that they meet, $10
-- and $11 metadata keys and their values ($12: how many must be met), $13 parent task run, $14 triggering event, $15 idempotency keys; $16
-- live ones too: not worth looking for if all states are final. $8 and $9 are served by an index, which has only rows with metadata.
s.tenant_id = $1 AND s.is_run
    AND s.created_at >= $2 AND s.created_at <= $3 AND s.left_at >= $4
    AND ($5::smallint[] IS NULL OR s.state = ANY ($5))
    AND ($6::uuid[] IS NULL OR s.workflow_id = ANY ($6))
    AND ($7::uuid IS NULL OR s.workflow_id = $7)
    AND ($8::jsonb IS NULL OR (s.metadata - 'traceparent' <> '{}' AND s.metadata - 'traceparent' @> $8))
    AND ($9::text IS NULL OR (s.metadata - 'traceparent' <> '{}' AND s.metadata - 'traceparent' @@ $9::jsonpath))
    AND (
        $10::text[] IS NULL
        OR (
            SELECT count(*) FROM unnest($10::text[], $11::text[]) AS w (key, value) WHERE s.metadata ->> w.key = w.value
        ) >= $12
    )
    AND ($13::uuid IS NULL OR s.parent_task_run_id = $13)
    AND ($14::uuid IS NULL OR s.triggering_event_id = $14)
    AND ($15::text[] IS NULL OR s.id = ANY (ARRAY(SELECT runs_with_keys($1, $15))))
    AND ($16 OR s.left_at < 'infinity');

-- part: wanted_members
-- Task runs of runs of several tasks, found by what their runs have. $1 to $15 as above, $17 worker or null for all.
s.tenant_id = $1 AND s.id <> s.run_id
    AND s.created_at >= $2 AND s.created_at <= $3 AND s.left_at >= $4
    AND ($5::smallint[] IS NULL OR s.state = ANY ($5))
    AND ($6::uuid[] IS NULL OR s.workflow_id = ANY ($6))
    AND ($7::uuid IS NULL OR s.workflow_id = $7)
    AND (
        ($8::jsonb IS NULL AND $9::text IS NULL AND $10::text[] IS NULL)
        OR (
            SELECT
                ($8::jsonb IS NULL OR o.metadata @> $8) AND ($9::text IS NULL OR o.metadata @@ $9::jsonpath)
                AND (
                    $10::text[] IS NULL
                    OR (
                        SELECT count(*) FROM unnest($10::text[], $11::text[]) AS w (key, value)
                        WHERE o.metadata ->> w.key = w.value
                    ) >= $12
                )
            FROM run_summary AS o WHERE o.id = s.run_id AND o.left_at = s.left_at LIMIT 1
        )
    )
    AND ($13::uuid IS NULL OR s.run_id = ANY (ARRAY(SELECT o.id FROM run_summary AS o WHERE o.parent_task_run_id = $13)))
    AND ($14::uuid IS NULL OR s.run_id = ANY (ARRAY(SELECT o.id FROM run_summary AS o WHERE o.triggering_event_id = $14)))
    AND ($15::text[] IS NULL OR s.run_id = ANY (ARRAY(SELECT runs_with_keys($1, $15))))
    AND ($17::uuid IS NULL OR s.worker_id = $17);

-- part: shown_run
-- The columns of the runs of a page, by where they stand: what lies before the page is passed over by its index alone. $17 with payloads.
SELECT
    s.id::text, s.run_id::text, s.workflow_id::text, s.workflow_version_id::text, s.step_index, s.state, s.attempt, s.created_at,
    s.queued_at, s.assigned_at, s.started_at, s.finished_at, s.worker_id::text, s.parent_task_run_id::text, s.metadata,
    CASE WHEN $17 THEN s.input ELSE '' END, CASE WHEN $17 THEN s.output END, s.error,
    s.triggering_event_id::text, s.idempotency_key
FROM page AS p JOIN LATERAL (
    SELECT o.* FROM run_summary AS o WHERE o.id = p.id AND o.left_at = p.left_at AND o.tenant_id IS NOT DISTINCT FROM $1 LIMIT 1
) AS s ON true
ORDER BY p.created_at DESC, p.id DESC;

-- name: list_runs
-- A page of runs, newest first. $17 with payloads, $18 rows, $19 rows before them; $20 and $21 before this time and id, or null.
WITH page AS MATERIALIZED (
    SELECT s.id, s.created_at, s.left_at
    FROM run_summary AS s
    WHERE -- include: wanted_runs
        AND ($20::timestamptz IS NULL OR (s.created_at, s.id) < ($20, $21::uuid))
    ORDER BY s.created_at DESC, s.id DESC
    LIMIT $18 OFFSET $19
) -- include: shown_run

-- name: list_runs_of_workflows
-- Likewise of several workflows: a page of each, so that each is read in its order. $22 the workflows.
WITH page AS MATERIALIZED (
    SELECT f.id, f.created_at, f.left_at
    FROM unnest($22::uuid[]) AS w (id) CROSS JOIN LATERAL (
        SELECT s.id, s.created_at, s.left_at
        FROM run_summary AS s
        WHERE s.workflow_id = w.id AND -- include: wanted_runs
            AND ($20::timestamptz IS NULL OR (s.created_at, s.id) < ($20, $21::uuid))
        ORDER BY s.created_at DESC, s.id DESC
        LIMIT $18::bigint + $19::bigint
    ) AS f
    ORDER BY f.created_at DESC, f.id DESC
    LIMIT $18 OFFSET $19
) -- include: shown_run

-- name: count_runs
-- How many, at most $17.
SELECT count(*) FROM (
    SELECT
    FROM run_summary AS s
    WHERE -- include: wanted_runs
    LIMIT $17
) AS c;

-- name: list_run_ids
-- Ids of all of them.
SELECT s.id::text
FROM run_summary AS s
WHERE -- include: wanted_runs;

-- name: list_task_runs
-- A page of task runs, newest first; one of a run of several tasks shows, and is found by, what its run has: metadata, input, parent,
-- event, key. $17 worker or null for all, $18 with payloads, $19 rows, $20 rows before them.
SELECT
    t.id::text, t.run_id::text, t.workflow_id::text, t.workflow_version_id::text, t.step_index, t.state, t.attempt, t.created_at,
    t.queued_at, t.assigned_at, t.started_at, t.finished_at, t.worker_id::text,
    coalesce(t.parent_task_run_id, r.parent_task_run_id)::text, coalesce(r.metadata, t.metadata),
    CASE WHEN $18 THEN coalesce(r.input, t.input) ELSE '' END, CASE WHEN $18 THEN t.output END, t.error,
    coalesce(t.triggering_event_id, r.triggering_event_id)::text, coalesce(t.idempotency_key, r.idempotency_key)
FROM (
    (
        SELECT s.*
        FROM run_summary AS s
        WHERE s.step_index >= 0 AND -- include: wanted_runs
            AND ($17::uuid IS NULL OR s.worker_id = $17)
        ORDER BY s.created_at DESC, s.id DESC
        LIMIT $19::bigint + $20::bigint
    )
    UNION ALL
    (
        SELECT s.*
        FROM run_summary AS s
        WHERE -- include: wanted_members
        ORDER BY s.created_at DESC, s.id DESC
        LIMIT $19::bigint + $20::bigint
    )
    ORDER BY created_at DESC, id DESC
    LIMIT $19 OFFSET $20
) AS t
LEFT JOIN LATERAL (
    SELECT o.metadata, o.input, o.parent_task_run_id, o.triggering_event_id, o.idempotency_key
    FROM run_summary AS o WHERE t.id <> t.run_id AND o.id = t.run_id AND o.left_at = t.left_at LIMIT 1
) AS r ON true
ORDER BY t.created_at DESC, t.id DESC;

-- name: count_task_runs
-- How many, at most $18.
SELECT least(count(*), $18::bigint) FROM (
    (
        SELECT
        FROM run_summary AS s
        WHERE s.step_index >= 0 AND -- include: wanted_runs
            AND ($17::uuid IS NULL OR s.worker_id = $17)
        LIMIT $18
    )
    UNION ALL
    (
        SELECT
        FROM run_summary AS s
        WHERE -- include: wanted_members
        LIMIT $18
    )
) AS c;

-- name: count_task_states
-- How many task runs are in each state. $17 worker or null for all.
SELECT c.state, count(*) FROM (
    SELECT s.state
    FROM run_summary AS s
    WHERE s.step_index >= 0 AND -- include: wanted_runs
    UNION ALL
    SELECT s.state
    FROM run_summary AS s
    WHERE -- include: wanted_members
) AS c
GROUP BY c.state;

-- name: count_task_ends
-- How many task runs ended in each state, by stretches of time. $1 tenant, $2 created not before, $3 ended before, $4 seconds of a stretch.
SELECT date_bin(make_interval(secs => $4), c.finished_at, 'epoch'), c.state, count(*) FROM (
    SELECT s.finished_at, s.state
    FROM run_summary AS s
    WHERE s.tenant_id = $1 AND s.is_run AND s.step_index >= 0 AND s.created_at >= $2 AND s.created_at < $3 AND s.left_at >= $2
        AND s.left_at < 'infinity'
    UNION ALL
    SELECT s.finished_at, s.state
    FROM run_summary AS s
    WHERE s.tenant_id = $1 AND s.id <> s.run_id AND s.created_at >= $2 AND s.created_at < $3 AND s.left_at >= $2
) AS c
WHERE c.finished_at >= $2 AND c.finished_at < $3
GROUP BY 1, 2;

-- name: list_tasks_of
-- Task runs of runs of several tasks. $1 tenant, $2 runs, $3 with payloads.
SELECT
    s.id::text, s.run_id::text, s.workflow_id::text, s.workflow_version_id::text, s.step_index, s.state, s.attempt, s.created_at,
    s.queued_at, s.assigned_at, s.started_at, s.finished_at, s.worker_id::text, s.parent_task_run_id::text, s.metadata,
    CASE WHEN $3 THEN s.input ELSE '' END, CASE WHEN $3 THEN s.output END, s.error,
    s.triggering_event_id::text, s.idempotency_key
FROM run_summary AS s
WHERE s.run_id = ANY ($2::uuid[]) AND s.id <> s.run_id AND s.tenant_id IS NOT DISTINCT FROM $1;

-- name: fetch_rows
-- Rows by id, and all of a run by the run's id. $1 tenant, $2 ids.
SELECT
    s.id::text, s.run_id::text, s.workflow_id::text, s.workflow_version_id::text, s.step_index, s.state, s.attempt, s.created_at,
    s.queued_at, s.assigned_at, s.started_at, s.finished_at, s.worker_id::text, s.parent_task_run_id::text, s.metadata,
    s.input, s.output, s.error, s.triggering_event_id::text, s.idempotency_key
FROM run_summary AS s
WHERE s.id = ANY ($2::uuid[]) AND s.tenant_id = $1
UNION ALL
SELECT
    s.id::text, s.run_id::text, s.workflow_id::text, s.workflow_version_id::text, s.step_index, s.state, s.attempt, s.created_at,
    s.queued_at, s.assigned_at, s.started_at, s.finished_at, s.worker_id::text, s.parent_task_run_id::text, s.metadata,
    s.input, s.output, s.error, s.triggering_event_id::text, s.idempotency_key
FROM run_summary AS s
WHERE s.run_id = ANY ($2::uuid[]) AND s.id <> s.run_id AND s.tenant_id IS NOT DISTINCT FROM $1 AND s.id <> ALL ($2::uuid[]);

-- name: list_children
-- Runs that task runs spawned, oldest first, without payloads. $1 tenant, $2 parents, $3 rows.
SELECT
    s.id::text, s.run_id::text, s.workflow_id::text, s.workflow_version_id::text, s.step_index, s.state, s.attempt, s.created_at,
    s.queued_at, s.assigned_at, s.started_at, s.finished_at, s.worker_id::text, s.parent_task_run_id::text, s.metadata,
    CASE WHEN false THEN s.input ELSE '' END, CASE WHEN false THEN s.output END, s.error,
    s.triggering_event_id::text, s.idempotency_key
FROM run_summary AS s
WHERE s.parent_task_run_id = ANY ($2::uuid[]) AND s.tenant_id = $1
ORDER BY s.created_at, s.id
LIMIT $3;

-- name: count_children
-- $1 tenant, $2 parent.
SELECT count(*) FROM run_summary AS s WHERE s.parent_task_run_id = $2 AND s.tenant_id = $1;

-- name: fetch_timeline
-- What happened to task runs, in order. $1 tenant, $2 task runs.
SELECT tenant_id::text, task_run_id::text, attempt, kind, at, worker_id::text, message
FROM task_run_timeline
WHERE task_run_id = ANY ($2::uuid[]) AND tenant_id = $1
ORDER BY at, kind, number;
