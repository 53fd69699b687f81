-- Back to runs of one task. Lost: claims of idempotency keys, the keys in rows, and the own end of task runs whose run ended later.
-- What the schema before cannot carry on is not thrown away: then nothing happens but an error that says what to do.
DO $$
DECLARE
    v_count bigint;
    v_ids text;
BEGIN
    SELECT count(*), string_agg(r.run_id::text, ', ') FILTER (WHERE r.number <= 5) INTO v_count, v_ids
    FROM (
        SELECT run_id, row_number() OVER (ORDER BY run_id) AS number FROM task_run
        WHERE step_index < 0 OR id <> run_id OR waits IS NOT NULL GROUP BY run_id
    ) AS r;
    IF v_count > 0 THEN
        RAISE EXCEPTION '% runs of several tasks, or with conditions, have not ended (%); cancel them or let them end, then migrate down',
            v_count, v_ids || CASE WHEN v_count > 5 THEN ', ...' ELSE '' END USING ERRCODE = 'BX004';
    END IF;
END
$$;

DROP FUNCTION commit_batch(
    bigint, bigint, smallint[], new_task_run[], changed_task_run[], finished_task_run[], new_task_event[], put_worker[],
    new_workflow_version[], new_event[], new_log_line[], finished_task_run[], ended_run[], revived_run[], claimed_key[],
    released_key[]
);
DROP TYPE new_task_run, changed_task_run, ended_run, revived_run, claimed_key, released_key;

CREATE OR REPLACE VIEW task_run_timeline AS
SELECT r.tenant_id, r.id AS task_run_id, e.attempt, e.kind, e.at, e.worker_id, e.message, 0::bigint AS number
FROM (
    SELECT id, tenant_id, created_at, queued_at, assigned_at, started_at, worker_id, attempt,
        NULL::timestamptz AS finished_at, state, NULL::bytea AS error
    FROM task_run
    UNION ALL
    SELECT id, tenant_id, created_at, queued_at, assigned_at, started_at, worker_id, attempt, finished_at, state, error
    FROM task_run_history
) AS r
CROSS JOIN LATERAL (
    VALUES
    (0, 0::smallint, r.created_at, NULL::uuid, ''::bytea),
    (r.attempt, 1::smallint, r.queued_at, NULL::uuid, ''::bytea),
    (r.attempt, 2::smallint, r.assigned_at, r.worker_id, ''::bytea),
    (r.attempt, 4::smallint, r.started_at, r.worker_id, ''::bytea),
    (
        r.attempt,
        (CASE r.state WHEN 6 THEN 5 WHEN 7 THEN 6 WHEN 8 THEN 11 ELSE 12 END)::smallint,
        r.finished_at, r.worker_id, coalesce(r.error, ''::bytea)
    )
) AS e (attempt, kind, at, worker_id, message)
WHERE e.at IS NOT NULL
UNION ALL
SELECT tenant_id, task_run_id, attempt, kind, at, worker_id, message, number FROM task_event;

DROP TABLE idempotency_key;
DROP INDEX task_run_history_list_runs, task_run_history_list_tasks, task_run_history_list_failed, task_run_history_of_run,
    task_run_history_event, task_run_history_idempotency;
CREATE INDEX task_run_history_list ON task_run_history (tenant_id, created_at, id);
ALTER TABLE task_run_history DROP COLUMN idempotency_key, DROP COLUMN ended_at;
DROP INDEX task_run_of_run, task_run_list_runs, task_run_list_tasks, task_run_event, task_run_idempotency;
ALTER TABLE task_run
    DROP CONSTRAINT task_run_final,
    DROP CONSTRAINT task_run_result,
    DROP CONSTRAINT task_run_run,
    DROP CONSTRAINT task_run_state_check,
    ADD CONSTRAINT task_run_state_check CHECK (state BETWEEN 0 AND 5),
    DROP COLUMN idempotency_key,
    DROP COLUMN waits,
    DROP COLUMN is_slot_released,
    DROP COLUMN finished_at,
    DROP COLUMN output,
    DROP COLUMN error,
    DROP COLUMN batch_id;
