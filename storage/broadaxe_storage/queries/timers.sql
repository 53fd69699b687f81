-- Crons and scheduled runs. Columns are in the order of `CronRow` and `ScheduledRunRow`.

-- name: page_timers
-- The timers that are due next. $1 tenant, $2 and $3 those past this time and id, $4 rows.
SELECT t.due_at, t.id::text, t.kind FROM (
    (
        SELECT c.next_at AS due_at, c.id, 0 AS kind FROM cron AS c
        WHERE c.tenant_id = $1 AND c.next_at IS NOT NULL AND (c.next_at, c.id) > ($2::timestamptz, $3::uuid)
        ORDER BY c.next_at, c.id
        LIMIT $4
    )
    UNION ALL
    (
        SELECT s.trigger_at, s.id, 1 FROM scheduled_run AS s
        WHERE s.tenant_id = $1 AND s.fired_at IS NULL AND (s.trigger_at, s.id) > ($2::timestamptz, $3::uuid)
        ORDER BY s.trigger_at, s.id
        LIMIT $4
    )
) AS t
ORDER BY t.due_at, t.id
LIMIT $4;

-- name: fetch_crons
-- $1 tenant, $2 ids, $3 bytes of inputs that are wanted: those past it, in the order of the ids, come as null.
SELECT
    c.id::text, c.tenant_id::text, c.workflow_id::text, c.workflow_name, c.name, c.expression, c.is_declared, c.is_enabled, c.priority,
    c.next_at, c.last_tick_at, c.error, c.created_at, c.updated_at, c.metadata,
    CASE WHEN sum(octet_length(c.input)) OVER (ORDER BY w.number) <= $3::bigint OR w.number = 1 THEN c.input END
FROM unnest($2::uuid[]) WITH ORDINALITY AS w (id, number) JOIN cron AS c ON c.id = w.id
WHERE c.tenant_id IS NOT DISTINCT FROM $1
ORDER BY w.number;

-- name: fetch_cron_by_name
-- $1 tenant, $2 workflow, $3 name, $4 expression.
SELECT id::text FROM cron WHERE workflow_id = $2 AND name = $3 AND expression = $4 AND tenant_id IS NOT DISTINCT FROM $1;

-- name: fetch_scheduled_runs
-- As `fetch_crons`.
SELECT
    s.id::text, s.tenant_id::text, s.workflow_id::text, s.workflow_name, s.is_declared, s.priority, s.trigger_at, s.fired_at,
    s.run_id::text, s.error, s.parent_run_id::text, s.parent_task_run_id::text, s.created_at, s.updated_at, s.metadata,
    CASE WHEN sum(octet_length(s.input)) OVER (ORDER BY w.number) <= $3::bigint OR w.number = 1 THEN s.input END
FROM unnest($2::uuid[]) WITH ORDINALITY AS w (id, number) JOIN scheduled_run AS s ON s.id = w.id
WHERE s.tenant_id IS NOT DISTINCT FROM $1
ORDER BY w.number;

-- part: wanted_crons
-- Crons that a listing means. $1 tenant, then each null for all: $2 workflow, $3 its name, $4 name of the cron, $5 metadata, of which
-- any must be contained.
c.tenant_id = $1
    AND ($2::uuid IS NULL OR c.workflow_id = $2)
    AND ($3::text IS NULL OR c.workflow_name = $3)
    AND ($4::text IS NULL OR c.name = $4)
    AND ($5::jsonb[] IS NULL OR c.metadata @> ANY ($5));

-- part: cron_summary
-- Columns in the order of `CronSummary`.
c.id::text, c.workflow_id::text,
    coalesce((SELECT v.id FROM workflow_version AS v WHERE v.workflow_id = c.workflow_id ORDER BY v.number DESC LIMIT 1), c.workflow_id)::text,
    c.workflow_name, c.name, c.expression, c.is_declared, c.is_enabled, c.priority, c.next_at, c.last_tick_at, c.error, c.created_at,
    c.updated_at, c.metadata, c.input
FROM cron AS c;

-- name: list_crons
-- A page of crons, the newest first. $6 rows, $7 rows before them.
SELECT -- include: cron_summary
WHERE -- include: wanted_crons
ORDER BY c.created_at DESC, c.id DESC
LIMIT $6 OFFSET $7;

-- name: list_crons_ascending
-- The oldest first.
SELECT -- include: cron_summary
WHERE -- include: wanted_crons
ORDER BY c.created_at, c.id
LIMIT $6 OFFSET $7;

-- name: list_crons_by_workflow
-- By the name of the workflow.
SELECT -- include: cron_summary
WHERE -- include: wanted_crons
ORDER BY c.workflow_name, c.id
LIMIT $6 OFFSET $7;

-- name: list_crons_by_workflow_descending
SELECT -- include: cron_summary
WHERE -- include: wanted_crons
ORDER BY c.workflow_name DESC, c.id DESC
LIMIT $6 OFFSET $7;

-- name: count_crons
-- How many, at most $6.
SELECT count(*) FROM (
    SELECT
    FROM cron AS c
    WHERE -- include: wanted_crons
    LIMIT $6
) AS n;

-- name: fetch_cron
-- $1 tenant, $2 cron.
SELECT -- include: cron_summary
WHERE c.id = $2 AND c.tenant_id IS NOT DISTINCT FROM $1;

-- part: wanted_scheduled_runs
-- Scheduled runs that a listing means. $1 tenant, then each null for all: $2 workflow, $3 parent run, $4 parent task run, $5 metadata, of
-- which any must be contained, $6 states of their runs ($7: those that wait for their time; $8: those that made no run).
s.tenant_id = $1
    AND ($2::uuid IS NULL OR s.workflow_id = $2)
    AND ($3::uuid IS NULL OR s.parent_run_id = $3)
    AND ($4::uuid IS NULL OR s.parent_task_run_id = $4)
    AND ($5::jsonb[] IS NULL OR s.metadata @> ANY ($5))
    AND (
        $6::smallint[] IS NULL
        OR ($7::boolean AND s.fired_at IS NULL)
        OR ($8::boolean AND s.error IS NOT NULL)
        OR (
            cardinality($6) > 0 AND s.run_id IS NOT NULL
            AND (SELECT o.state FROM run_summary AS o WHERE o.id = s.run_id LIMIT 1) = ANY ($6)
        )
    );

-- part: scheduled_run_summary
-- Columns in the order of `ScheduledRunSummary`.
s.id::text, s.workflow_id::text,
    coalesce((SELECT v.id FROM workflow_version AS v WHERE v.workflow_id = s.workflow_id ORDER BY v.number DESC LIMIT 1), s.workflow_id)::text,
    s.workflow_name, s.is_declared, s.priority, s.trigger_at, s.fired_at, s.run_id::text, s.error, r.state, r.created_at, s.created_at,
    s.updated_at, s.metadata, s.input
FROM scheduled_run AS s
LEFT JOIN LATERAL (SELECT o.state, o.created_at FROM run_summary AS o WHERE o.id = s.run_id LIMIT 1) AS r ON true;

-- name: list_scheduled_runs
-- A page of scheduled runs, the latest first. $9 rows, $10 rows before them.
SELECT -- include: scheduled_run_summary
WHERE -- include: wanted_scheduled_runs
ORDER BY s.trigger_at DESC, s.id DESC
LIMIT $9 OFFSET $10;

-- name: list_scheduled_runs_ascending
SELECT -- include: scheduled_run_summary
WHERE -- include: wanted_scheduled_runs
ORDER BY s.trigger_at, s.id
LIMIT $9 OFFSET $10;

-- name: list_scheduled_runs_by_creation
SELECT -- include: scheduled_run_summary
WHERE -- include: wanted_scheduled_runs
ORDER BY s.created_at, s.id
LIMIT $9 OFFSET $10;

-- name: list_scheduled_runs_by_creation_descending
SELECT -- include: scheduled_run_summary
WHERE -- include: wanted_scheduled_runs
ORDER BY s.created_at DESC, s.id DESC
LIMIT $9 OFFSET $10;

-- name: count_scheduled_runs
-- How many, at most $9.
SELECT count(*) FROM (
    SELECT
    FROM scheduled_run AS s
    WHERE -- include: wanted_scheduled_runs
    LIMIT $9
) AS n;

-- name: list_scheduled_run_ids
-- Ids of all of them past an id, in the order of ids, and whether each is declared. $9 past this id, $10 rows.
SELECT s.id::text, s.is_declared
FROM scheduled_run AS s
WHERE s.id > $9::uuid AND -- include: wanted_scheduled_runs
ORDER BY s.id
LIMIT $10;

-- name: fetch_scheduled_run
-- $1 tenant, $2 scheduled run.
SELECT -- include: scheduled_run_summary
WHERE s.id = $2 AND s.tenant_id IS NOT DISTINCT FROM $1;

-- name: count_timers
-- Crons of a tenant, and its scheduled runs that have not fired. Any comparison of the creation lets the partial index serve. $1 tenant.
SELECT
    (SELECT count(*) FROM cron WHERE tenant_id = $1 AND created_at >= '-infinity') AS crons,
    (SELECT count(*) FROM scheduled_run WHERE tenant_id = $1 AND fired_at IS NULL) AS scheduled;
