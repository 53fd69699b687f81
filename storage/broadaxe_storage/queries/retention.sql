-- How long ended runs and events are kept, and the end of what is older.

-- name: load_retention_periods
-- Each tenant with its own period in microseconds, null for the default.
SELECT id::text, retention_us FROM tenant ORDER BY id;

-- name: fetch_retention_period
-- $1 tenant.
SELECT retention_us FROM tenant WHERE id = $1;

-- name: set_retention_period
-- A row says that there is such a tenant. $1 tenant, $2 microseconds or null for the default.
UPDATE tenant SET retention_us = $2 WHERE id = $1 RETURNING 1;

-- name: expire_runs
-- See the function. $1 tenant, $2 ended before, $3 and $4 creation time and id of the last run of the page before, $5 runs.
SELECT deleted, last_at, last_id::text FROM expire_runs($1, $2, $3, $4, $5);

-- name: expire_events
-- See the function. $1 tenant, $2 created before, $3 events.
SELECT expire_events($1, $2, $3);

-- name: expire_scheduled_runs
-- Delete scheduled runs of a tenant that have fired, and whose runs are not live. $1 tenant, $2 fired before, $3 rows.
WITH gone AS (
    DELETE FROM scheduled_run WHERE id = ANY (ARRAY(
        SELECT s.id FROM scheduled_run AS s
        WHERE s.tenant_id = $1 AND s.fired_at < $2 AND NOT EXISTS (SELECT FROM task_run AS t WHERE t.id = s.run_id)
        ORDER BY s.fired_at LIMIT $3
    ))
    RETURNING 1
)
SELECT count(*) FROM gone;

-- name: expire_workers
-- Delete workers of a tenant that are gone for good, and that no live task run names. $1 tenant, $2 changed before, $3 workers.
WITH gone AS (
    DELETE FROM worker WHERE id IN (
        SELECT w.id FROM worker AS w
        WHERE w.tenant_id = $1 AND w.updated_at < $2 AND w.status <> 0
            AND NOT EXISTS (SELECT FROM task_run AS t WHERE t.worker_id = w.id)
        ORDER BY w.updated_at LIMIT $3
    )
    RETURNING 1
)
SELECT count(*) FROM gone;

-- name: list_days
-- Tables of days before one, oldest first, with whether each is still a partition. $1 table, $2 the day.
SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day, c.relispartition AS is_partition
FROM pg_class AS c
WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass($1)) AND c.relkind = 'r'
    AND c.relname ~ ('^' || $1 || '_[0-9]{8}$') AND to_date(right(c.relname, 8), 'YYYYMMDD') < $2
ORDER BY 1;

-- name: keep_of_day
-- See the function. $1 table, $2 the day.
SELECT keep_of_day($1, $2);

-- name: detach_day
-- See the function. $1 table, $2 the day.
SELECT detach_day($1, $2);

-- name: drop_day
-- See the function. $1 table, $2 the day.
SELECT drop_day($1, $2);

-- name: expire_kept_events
-- Delete a page of what outlived its day and whose run is gone by now. $1 of before, $2 rows.
WITH gone AS (
    DELETE FROM task_event_other WHERE ctid = ANY (ARRAY(
        SELECT e.ctid FROM task_event_other AS e
        WHERE e.at < $1
            AND NOT EXISTS (SELECT FROM task_run AS t WHERE t.id = e.task_run_id)
            AND NOT EXISTS (SELECT FROM task_run_history AS h WHERE h.id = e.task_run_id)
        LIMIT $2
    ))
    RETURNING 1
)
SELECT count(*) FROM gone;

-- name: expire_kept_lines
-- Likewise of log lines. $1 of before, $2 rows.
WITH gone AS (
    DELETE FROM log_line_other WHERE ctid = ANY (ARRAY(
        SELECT l.ctid FROM log_line_other AS l
        WHERE l.stored_at < $1
            AND NOT EXISTS (SELECT FROM task_run AS t WHERE t.id = l.task_run_id)
            AND NOT EXISTS (SELECT FROM task_run_history AS h WHERE h.id = l.task_run_id)
        LIMIT $2
    ))
    RETURNING 1
)
SELECT count(*) FROM gone;
