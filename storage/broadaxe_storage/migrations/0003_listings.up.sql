-- What people list: runs and task runs, live or ended, as one kind of row; log lines of a tenant by their time.

-- Live and ended rows alike. `state` of a live run of several tasks is RUNNING (2) once one of them has been assigned, else QUEUED (0).
-- `finished_at` is a row's own end; `left_at` is the day of its partition, or infinity while it is live: who names a bound for it spares
-- the partitions before. `is_run` is the condition of the indexes that list runs, word for word. Flat, without conditions of its own, so
-- that a reader's order and limit reach those indexes.
CREATE VIEW run_summary AS
SELECT
    t.tenant_id, t.id, t.run_id, CASE WHEN t.id = t.run_id THEN true ELSE false END AS is_run, t.workflow_id, t.workflow_version_id, t.step_index,
    CASE
        WHEN t.step_index >= 0 THEN t.state
        ELSE coalesce((
            SELECT 2::smallint FROM task_run AS o
            WHERE o.run_id = t.id AND o.id <> o.run_id AND (o.assigned_at IS NOT NULL OR o.attempt > 0) LIMIT 1
        ), 0::smallint)
    END AS state,
    t.attempt, t.created_at, t.queued_at, t.assigned_at, t.started_at, t.finished_at, t.worker_id, t.parent_task_run_id,
    t.metadata, t.input, t.output, t.error, t.triggering_event_id, t.idempotency_key, 'infinity'::timestamptz AS left_at
FROM task_run AS t
UNION ALL
SELECT
    h.tenant_id, h.id, h.run_id, CASE WHEN h.id = h.run_id THEN true ELSE false END, h.workflow_id, h.workflow_version_id, h.step_index, h.state, h.attempt, h.created_at,
    h.queued_at, h.assigned_at, h.started_at, coalesce(h.ended_at, h.finished_at), h.worker_id, h.parent_task_run_id,
    h.metadata, h.input, h.output, h.error, h.triggering_event_id, h.idempotency_key, h.finished_at
FROM task_run_history AS h;

-- Ids of the runs of a tenant, live or ended, that have one of these idempotency keys.
CREATE FUNCTION runs_with_keys(p_tenant_id uuid, p_keys text[]) RETURNS SETOF uuid
LANGUAGE sql STABLE
SET enable_seqscan = off
AS $$
SELECT s.id FROM unnest(p_keys) AS wanted (key)
JOIN run_summary AS s
    ON s.tenant_id = p_tenant_id AND s.idempotency_key = wanted.key
    AND hashtextextended(s.idempotency_key, 0) = hashtextextended(wanted.key, 0)
$$;

CREATE INDEX log_line_list ON log_line (tenant_id, created_at, number);
