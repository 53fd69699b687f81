-- Lost: filters, which of them started a run, keys of events, webhooks' names, and what went wrong with filters.
CREATE OR REPLACE FUNCTION commit_batch(
    p_epoch bigint,
    p_flush bigint,
    p_shards smallint[],
    p_created new_task_run[],
    p_updated changed_task_run[],
    p_finished finished_task_run[],
    p_task_events new_task_event[],
    p_workers put_worker[],
    p_workflow_versions new_workflow_version[],
    p_events new_event[],
    p_logs new_log_line[],
    p_settled finished_task_run[],
    p_ended ended_run[],
    p_revived revived_run[],
    p_claimed_keys claimed_key[],
    p_released_keys released_key[]
) RETURNS void
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_count bigint;
    v_ids text;
BEGIN
    UPDATE shard SET flush = p_flush WHERE id = ANY (p_shards) AND epoch = p_epoch;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    IF v_count <> cardinality(p_shards) THEN
        RAISE EXCEPTION 'epoch % does not own every one of the shards %', p_epoch, p_shards USING ERRCODE = 'BX001';
    END IF;

    IF cardinality(p_revived) > 0 THEN
        -- Runs and tasks apart: each has its index.
        WITH runs AS (
            DELETE FROM task_run_history AS h USING unnest(p_revived) AS r
            WHERE h.id = ANY (ARRAY[r.run_id]) AND h.run_id IS NOT DISTINCT FROM r.run_id
                AND h.tenant_id IS NOT DISTINCT FROM r.tenant_id
            RETURNING h.run_id
        ), tasks AS (
            DELETE FROM task_run_history AS h USING unnest(p_revived) AS r
            WHERE h.run_id = ANY (ARRAY[r.run_id]) AND h.id <> h.run_id AND h.tenant_id IS NOT DISTINCT FROM r.tenant_id
            RETURNING h.run_id
        ), unmet AS (
            SELECT c.run_id FROM (
                SELECT r.run_id, 1 AS n FROM runs AS r
                UNION ALL SELECT t.run_id, 1 FROM tasks AS t
                UNION ALL SELECT r.run_id, -r.row_count FROM unnest(p_revived) AS r
            ) AS c
            GROUP BY c.run_id HAVING sum(c.n) <> 0
        )
        SELECT count(*), string_agg(u.run_id::text, ',') INTO v_count, v_ids FROM unmet AS u;
        IF v_count > 0 THEN
            RAISE EXCEPTION '% of % runs to revive do not have the expected rows in the history',
                v_count, cardinality(p_revived) USING ERRCODE = 'BX002', DETAIL = v_ids;
        END IF;
    END IF;

    IF cardinality(p_created) > 0 THEN
        INSERT INTO task_run (
            id, tenant_id, run_id, workflow_id, workflow_version_id, created_at, priority, step_index, parent_task_run_id,
            child_index, child_key, triggering_event_id, triggering_event_key, desired_worker_id, desired_labels, state,
            queue_priority, seq, queued_at, attempt, app_retries, internal_retries, schedule_deadline, execution_deadline,
            assigned_at, started_at, worker_id, spill_queue, metadata, input, idempotency_key, waits, is_slot_released,
            finished_at, output, error, batch_id
        )
        SELECT
            c.id, c.tenant_id, c.run_id, c.workflow_id, c.workflow_version_id, c.created_at, c.priority, c.step_index,
            c.parent_task_run_id, c.child_index, c.child_key, c.triggering_event_id, c.triggering_event_key,
            c.desired_worker_id, c.desired_labels, c.state, c.queue_priority, c.seq, c.queued_at, c.attempt, c.app_retries,
            c.internal_retries, c.schedule_deadline, c.execution_deadline, c.assigned_at, c.started_at, c.worker_id,
            c.spill_queue, c.metadata, c.input, c.idempotency_key, c.waits, c.is_slot_released, c.finished_at, c.output,
            c.error, c.batch_id
        FROM unnest(p_created) AS c;
    END IF;

    IF cardinality(p_updated) > 0 THEN
        -- One that has ended goes on only as another attempt.
        UPDATE task_run AS t SET
            state = u.state, attempt = u.attempt, app_retries = u.app_retries, internal_retries = u.internal_retries,
            queue_priority = u.queue_priority, seq = u.seq, queued_at = u.queued_at,
            schedule_deadline = u.schedule_deadline, execution_deadline = u.execution_deadline,
            assigned_at = u.assigned_at, started_at = u.started_at, worker_id = u.worker_id,
            spill_queue = NULL, waits = u.waits, is_slot_released = u.is_slot_released,
            finished_at = NULL, output = NULL, error = NULL, batch_id = u.batch_id
        FROM unnest(p_updated) AS u
        WHERE t.id = ANY (ARRAY[u.id]) AND t.tenant_id IS NOT DISTINCT FROM u.tenant_id
            AND t.attempt IS NOT DISTINCT FROM u.expected_attempt
            AND (t.state < 6 OR u.attempt > t.attempt);
        GET DIAGNOSTICS v_count = ROW_COUNT;
        IF v_count <> cardinality(p_updated) THEN
            SELECT string_agg(u.id::text, ',') INTO v_ids FROM unnest(p_updated) AS u
            WHERE NOT EXISTS (
                SELECT FROM task_run AS t WHERE t.id = u.id AND t.xmin = pg_current_xact_id()::xid
            );
            RAISE EXCEPTION '% of % task runs to update are not live at the expected attempt',
                cardinality(p_updated) - v_count, cardinality(p_updated)
                USING ERRCODE = 'BX002', DETAIL = coalesce(v_ids, '');
        END IF;
    END IF;

    IF cardinality(p_finished) > 0 THEN
        WITH gone AS (
            DELETE FROM task_run AS t USING unnest(p_finished) AS f
            WHERE t.id = ANY (ARRAY[f.id]) AND t.tenant_id IS NOT DISTINCT FROM f.tenant_id
                AND t.attempt IS NOT DISTINCT FROM f.expected_attempt
                AND t.run_id IS NOT DISTINCT FROM f.id AND t.step_index >= 0
            RETURNING
                t.id, t.tenant_id, t.run_id, t.workflow_id, t.workflow_version_id, t.created_at, f.finished_at, f.queued_at,
                f.attempt, f.app_retries, f.internal_retries, f.state, t.priority, t.step_index, f.assigned_at, f.started_at,
                f.worker_id, t.parent_task_run_id, t.child_index, t.child_key, t.triggering_event_id,
                t.triggering_event_key, t.desired_worker_id, t.desired_labels, t.metadata, t.input, f.output, f.error,
                t.idempotency_key
        )
        INSERT INTO task_run_history (
            id, tenant_id, run_id, workflow_id, workflow_version_id, created_at, finished_at, queued_at, attempt,
            app_retries, internal_retries, state, priority, step_index, assigned_at, started_at, worker_id,
            parent_task_run_id, child_index, child_key, triggering_event_id, triggering_event_key, desired_worker_id,
            desired_labels, metadata, input, output, error, idempotency_key
        )
        SELECT * FROM gone;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        IF v_count <> cardinality(p_finished) THEN
            SELECT string_agg(f.id::text, ',') INTO v_ids FROM unnest(p_finished) AS f
            WHERE NOT EXISTS (
                SELECT FROM task_run_history AS h WHERE h.id = f.id AND h.xmin = pg_current_xact_id()::xid
            );
            RAISE EXCEPTION '% of % task runs to finish are not live at the expected attempt',
                cardinality(p_finished) - v_count, cardinality(p_finished)
                USING ERRCODE = 'BX002', DETAIL = coalesce(v_ids, '');
        END IF;
    END IF;

    IF cardinality(p_settled) > 0 THEN
        UPDATE task_run AS t SET
            state = s.state, attempt = s.attempt, app_retries = s.app_retries, internal_retries = s.internal_retries,
            queued_at = s.queued_at, schedule_deadline = NULL, execution_deadline = NULL, assigned_at = s.assigned_at,
            started_at = s.started_at, worker_id = s.worker_id, spill_queue = NULL, is_slot_released = false,
            finished_at = s.finished_at, output = s.output, error = s.error, batch_id = NULL
        FROM unnest(p_settled) AS s
        WHERE t.id = ANY (ARRAY[s.id]) AND t.tenant_id IS NOT DISTINCT FROM s.tenant_id
            AND t.attempt IS NOT DISTINCT FROM s.expected_attempt
            AND (t.state < 6 OR s.attempt > t.attempt) AND t.run_id IS DISTINCT FROM s.id;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        IF v_count <> cardinality(p_settled) THEN
            SELECT string_agg(s.id::text, ',') INTO v_ids FROM unnest(p_settled) AS s
            WHERE NOT EXISTS (
                SELECT FROM task_run AS t
                WHERE t.id = s.id AND t.state = s.state AND t.xmin = pg_current_xact_id()::xid
            );
            RAISE EXCEPTION '% of % task runs to settle are not live at the expected attempt',
                cardinality(p_settled) - v_count, cardinality(p_settled)
                USING ERRCODE = 'BX002', DETAIL = coalesce(v_ids, '');
        END IF;
    END IF;

    IF cardinality(p_ended) > 0 THEN
        WITH runs AS (
            DELETE FROM task_run AS t USING unnest(p_ended) AS e
            WHERE t.id = ANY (ARRAY[e.run_id]) AND t.tenant_id IS NOT DISTINCT FROM e.tenant_id AND t.step_index = -1
            RETURNING t.*, e.state AS run_state, e.finished_at AS run_finished_at
        ), tasks AS (
            DELETE FROM task_run AS t USING unnest(p_ended) AS e
            WHERE t.run_id = ANY (ARRAY[e.run_id]) AND t.id <> t.run_id AND t.tenant_id IS NOT DISTINCT FROM e.tenant_id
            RETURNING t.*, e.finished_at AS run_finished_at
        ), moved AS (
            INSERT INTO task_run_history (
                id, tenant_id, run_id, workflow_id, workflow_version_id, created_at, finished_at, ended_at, queued_at, attempt,
                app_retries, internal_retries, state, priority, step_index, assigned_at, started_at, worker_id,
                parent_task_run_id, child_index, child_key, triggering_event_id, triggering_event_key, desired_worker_id,
                desired_labels, metadata, input, output, error, idempotency_key
            )
            SELECT
                r.id, r.tenant_id, r.run_id, r.workflow_id, r.workflow_version_id, r.created_at, r.run_finished_at, NULL,
                r.queued_at, r.attempt, r.app_retries, r.internal_retries, r.run_state, r.priority, r.step_index,
                r.assigned_at, r.started_at, r.worker_id, r.parent_task_run_id, r.child_index, r.child_key,
                r.triggering_event_id, r.triggering_event_key, r.desired_worker_id, r.desired_labels, r.metadata, r.input,
                NULL, NULL, r.idempotency_key
            FROM runs AS r
            UNION ALL
            SELECT
                t.id, t.tenant_id, t.run_id, t.workflow_id, t.workflow_version_id, t.created_at, t.run_finished_at,
                nullif(t.finished_at, t.run_finished_at), t.queued_at, t.attempt, t.app_retries, t.internal_retries, t.state,
                t.priority, t.step_index, t.assigned_at, t.started_at, t.worker_id, t.parent_task_run_id, t.child_index,
                t.child_key, t.triggering_event_id, t.triggering_event_key, t.desired_worker_id, t.desired_labels,
                t.metadata, t.input, t.output, t.error, t.idempotency_key
            FROM tasks AS t WHERE t.state >= 6
        ), unmet AS (
            SELECT c.run_id FROM (
                SELECT r.run_id, 1 AS runs, 0 AS tasks, false AS is_live FROM runs AS r
                UNION ALL SELECT t.run_id, 0, 1, t.state < 6 FROM tasks AS t
                UNION ALL SELECT e.run_id, -1, -e.task_count, false FROM unnest(p_ended) AS e
            ) AS c
            GROUP BY c.run_id HAVING sum(c.runs) <> 0 OR sum(c.tasks) <> 0 OR bool_or(c.is_live)
        )
        SELECT count(*), string_agg(u.run_id::text, ',') INTO v_count, v_ids FROM unmet AS u;
        IF v_count > 0 THEN
            RAISE EXCEPTION '% of % runs to end are not live with the expected number of task runs, all of them ended',
                v_count, cardinality(p_ended) USING ERRCODE = 'BX002', DETAIL = v_ids;
        END IF;
    END IF;

    IF cardinality(p_task_events) > 0 THEN
        INSERT INTO task_event (task_run_id, tenant_id, at, attempt, kind, worker_id, message)
        SELECT e.task_run_id, e.tenant_id, e.at, e.attempt, e.kind, e.worker_id, e.message
        FROM unnest(p_task_events) AS e;
    END IF;

    IF cardinality(p_workers) > 0 THEN
        INSERT INTO worker AS w (
            id, tenant_id, name, actions, slot_config, labels, runtime_info, is_batched, is_paused, status, created_at,
            updated_at
        )
        SELECT p.id, p.tenant_id, p.name, p.actions, p.slot_config, p.labels, p.runtime_info, p.is_batched, p.is_paused,
            p.status, p.created_at, p.updated_at
        FROM unnest(p_workers) AS p
        ON CONFLICT (id) DO UPDATE SET
            name = excluded.name, actions = excluded.actions, slot_config = excluded.slot_config, labels = excluded.labels,
            runtime_info = excluded.runtime_info, is_batched = excluded.is_batched, is_paused = excluded.is_paused,
            status = excluded.status, updated_at = excluded.updated_at
        WHERE w.tenant_id = excluded.tenant_id;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        IF v_count <> cardinality(p_workers) THEN
            SELECT string_agg(p.id::text, ',') INTO v_ids FROM unnest(p_workers) AS p
            JOIN worker AS w ON w.id = p.id WHERE w.tenant_id <> p.tenant_id;
            RAISE EXCEPTION 'a worker id belongs to another tenant'
                USING ERRCODE = 'BX003', DETAIL = coalesce(v_ids, '');
        END IF;
    END IF;

    IF cardinality(p_workflow_versions) > 0 THEN
        INSERT INTO workflow (id, tenant_id, name, created_at)
        SELECT DISTINCT ON (v.workflow_id) v.workflow_id, v.tenant_id, v.name, v.created_at
        FROM unnest(p_workflow_versions) AS v
        ORDER BY v.workflow_id, v.number
        ON CONFLICT (id) DO NOTHING;
        SELECT string_agg(v.id::text, ',') INTO v_ids FROM unnest(p_workflow_versions) AS v
        WHERE NOT EXISTS (
            SELECT FROM workflow AS w
            WHERE w.id = v.workflow_id AND w.tenant_id = v.tenant_id AND w.name = v.name
        );
        IF v_ids IS NOT NULL THEN
            RAISE EXCEPTION 'a workflow id belongs to another tenant or name' USING ERRCODE = 'BX003', DETAIL = v_ids;
        END IF;
        INSERT INTO workflow_version (id, workflow_id, tenant_id, number, checksum, definition, created_at)
        SELECT v.id, v.workflow_id, v.tenant_id, v.number, v.checksum, v.definition, v.created_at
        FROM unnest(p_workflow_versions) AS v;
    END IF;

    IF cardinality(p_events) > 0 THEN
        INSERT INTO event (id, tenant_id, created_at, key, scope, priority, metadata, payload)
        SELECT e.id, e.tenant_id, e.created_at, e.key, e.scope, e.priority, e.metadata, e.payload
        FROM unnest(p_events) AS e;
    END IF;

    IF cardinality(p_logs) > 0 THEN
        INSERT INTO log_line (task_run_id, tenant_id, attempt, created_at, level, metadata, message)
        SELECT l.task_run_id, l.tenant_id, l.attempt, l.created_at, l.level, l.metadata, l.message
        FROM unnest(p_logs) AS l;
    END IF;

    IF cardinality(p_claimed_keys) > 0 THEN
        -- The engine has decided who gets a key; of several claims the last one counts.
        INSERT INTO idempotency_key (tenant_id, digest, key, run_id, expires_at)
        SELECT DISTINCT ON (c.tenant_id, c.key)
            c.tenant_id, sha256(convert_to(c.key, 'UTF8')), c.key, c.run_id, c.expires_at
        FROM unnest(p_claimed_keys) WITH ORDINALITY AS c (tenant_id, key, run_id, expires_at, number)
        ORDER BY c.tenant_id, c.key, c.number DESC
        ON CONFLICT (tenant_id, digest) DO UPDATE SET run_id = excluded.run_id, expires_at = excluded.expires_at;
    END IF;

    IF cardinality(p_released_keys) > 0 THEN
        DELETE FROM idempotency_key AS k USING unnest(p_released_keys) AS r
        WHERE k.tenant_id = ANY (ARRAY[r.tenant_id]) AND k.digest = ANY (ARRAY[sha256(convert_to(r.key, 'UTF8'))])
            AND k.run_id IS NOT DISTINCT FROM r.run_id;
    END IF;
END
$$;

DROP FUNCTION commit_filters(cleared_filters[], dropped_filter[], put_filter[]);
DROP FUNCTION commit_events(pushed_event[], seen_event_key[]);
DROP TYPE pushed_event, seen_event_key, put_filter, dropped_filter, cleared_filters;
DROP TABLE filter, known_event_key;
ALTER TABLE event DROP COLUMN webhook_name, DROP COLUMN filter_errors;
DROP VIEW run_summary;
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
ALTER TABLE task_run_history DROP COLUMN filter;
ALTER TABLE task_run DROP COLUMN filter;
