-- Crons and scheduled runs. The engine holds those that are due soon, and reads the next ones by the indexes named `..._due`.
--
-- Workflows are named, not referenced: a timer whose workflow is gone stays, so that it can say why it made no run.

CREATE TABLE cron (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    workflow_name text NOT NULL,
    -- Bounded, as an index has them.
    name text NOT NULL CHECK (char_length(name) <= 255),
    expression text NOT NULL CHECK (char_length(expression) <= 255),
    is_declared boolean NOT NULL,
    is_enabled boolean NOT NULL,
    priority smallint CHECK (priority BETWEEN 1 AND 3),
    next_at timestamptz,
    last_tick_at timestamptz,
    error text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    metadata jsonb NOT NULL,
    input bytea NOT NULL,
    CHECK (is_enabled OR next_at IS NULL)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX cron_due ON cron (tenant_id, next_at, id) WHERE next_at IS NOT NULL;
CREATE UNIQUE INDEX cron_name ON cron (workflow_id, name, expression);
-- Who looks a row up by id compares the tenant as no index serves it, or these would do as well while the table is empty, and be read
-- through ever after.
CREATE INDEX cron_list ON cron (tenant_id, created_at, id);
CREATE INDEX cron_list_by_workflow ON cron (tenant_id, workflow_name, id);
CREATE INDEX cron_metadata ON cron USING gin (metadata jsonb_path_ops);

CREATE TABLE scheduled_run (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    workflow_name text NOT NULL,
    is_declared boolean NOT NULL,
    priority smallint CHECK (priority BETWEEN 1 AND 3),
    trigger_at timestamptz NOT NULL,
    fired_at timestamptz,
    run_id uuid,
    error text,
    parent_run_id uuid,
    parent_task_run_id uuid,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    metadata jsonb NOT NULL,
    input bytea NOT NULL,
    -- What has fired made a run, or says why it made none.
    CHECK (CASE WHEN fired_at IS NULL THEN run_id IS NULL AND error IS NULL ELSE (run_id IS NULL) <> (error IS NULL) END)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX scheduled_run_due ON scheduled_run (tenant_id, trigger_at, id) WHERE fired_at IS NULL;
-- For retention.
CREATE INDEX scheduled_run_fired ON scheduled_run (tenant_id, fired_at) WHERE fired_at IS NOT NULL;
CREATE INDEX scheduled_run_list ON scheduled_run (tenant_id, trigger_at, id);
CREATE INDEX scheduled_run_list_created ON scheduled_run (tenant_id, created_at, id);
CREATE INDEX scheduled_run_workflow ON scheduled_run (workflow_id, trigger_at, id);
CREATE INDEX scheduled_run_parent ON scheduled_run (parent_run_id) WHERE parent_run_id IS NOT NULL;
CREATE INDEX scheduled_run_parent_task ON scheduled_run (parent_task_run_id) WHERE parent_task_run_id IS NOT NULL;
CREATE INDEX scheduled_run_metadata ON scheduled_run USING gin (metadata jsonb_path_ops);

CREATE TYPE put_cron AS (
    id uuid, tenant_id uuid, workflow_id uuid, workflow_name text, name text, expression text, is_declared boolean,
    is_enabled boolean, priority smallint, next_at timestamptz, last_tick_at timestamptz, error text, created_at timestamptz,
    updated_at timestamptz, metadata jsonb, input bytea
);
CREATE TYPE changed_cron AS (
    id uuid, tenant_id uuid, tick_at timestamptz, is_enabled boolean, next_at timestamptz, error text, updated_at timestamptz
);
CREATE TYPE new_scheduled_run AS (
    id uuid, tenant_id uuid, workflow_id uuid, workflow_name text, is_declared boolean, priority smallint,
    trigger_at timestamptz, fired_at timestamptz, run_id uuid, error text, parent_run_id uuid, parent_task_run_id uuid,
    created_at timestamptz, updated_at timestamptz, metadata jsonb, input bytea
);
CREATE TYPE changed_scheduled_run AS (
    id uuid, tenant_id uuid, trigger_at timestamptz, fired_at timestamptz, run_id uuid, error text, updated_at timestamptz
);
CREATE TYPE dropped_timer AS (id uuid, tenant_id uuid);

-- Part of a flush, beside commit_batch and after it. A timer comes in it once.
--   BX002  a tick has fired already or its cron is gone, a scheduled run has fired already or is gone; DETAIL has the ids
-- The planner settings are those of `commit_batch`, for its reasons.
CREATE FUNCTION commit_timers(
    p_crons put_cron[],
    p_cron_changes changed_cron[],
    p_scheduled_runs new_scheduled_run[],
    p_scheduled_changes changed_scheduled_run[],
    p_dropped dropped_timer[]
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
    IF cardinality(p_dropped) > 0 THEN
        DELETE FROM cron AS c USING unnest(p_dropped) AS d
        WHERE c.id = ANY (ARRAY[d.id]) AND c.tenant_id IS NOT DISTINCT FROM d.tenant_id;
        DELETE FROM scheduled_run AS s USING unnest(p_dropped) AS d
        WHERE s.id = ANY (ARRAY[d.id]) AND s.tenant_id IS NOT DISTINCT FROM d.tenant_id;
    END IF;

    IF cardinality(p_crons) > 0 THEN
        INSERT INTO cron AS c (
            id, tenant_id, workflow_id, workflow_name, name, expression, is_declared, is_enabled, priority, next_at,
            last_tick_at, error, created_at, updated_at, metadata, input
        )
        SELECT
            p.id, p.tenant_id, p.workflow_id, p.workflow_name, p.name, p.expression, p.is_declared, p.is_enabled, p.priority,
            p.next_at, p.last_tick_at, p.error, p.created_at, p.updated_at, p.metadata, p.input
        FROM unnest(p_crons) AS p
        -- A declared cron that stays keeps its state, and what it has fired.
        ON CONFLICT (id) DO UPDATE SET
            workflow_name = excluded.workflow_name, input = excluded.input, updated_at = excluded.updated_at
        WHERE c.is_declared AND excluded.is_declared AND c.tenant_id IS NOT DISTINCT FROM excluded.tenant_id;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        IF v_count <> cardinality(p_crons) THEN
            SELECT string_agg(p.id::text, ',') INTO v_ids FROM unnest(p_crons) AS p
            WHERE NOT EXISTS (SELECT FROM cron AS c WHERE c.id = p.id AND c.xmin = pg_current_xact_id()::xid);
            RAISE EXCEPTION 'a cron exists already, and is none that a definition may replace'
                USING ERRCODE = 'BX003', DETAIL = coalesce(v_ids, '');
        END IF;
    END IF;

    IF cardinality(p_cron_changes) > 0 THEN
        UPDATE cron AS c SET
            is_enabled = p.is_enabled, next_at = p.next_at, last_tick_at = coalesce(p.tick_at, c.last_tick_at),
            error = p.error, updated_at = p.updated_at
        FROM unnest(p_cron_changes) AS p
        WHERE c.id = ANY (ARRAY[p.id]) AND c.tenant_id IS NOT DISTINCT FROM p.tenant_id
            AND (p.tick_at IS NULL OR c.last_tick_at IS NULL OR c.last_tick_at < p.tick_at);
        GET DIAGNOSTICS v_count = ROW_COUNT;
        IF v_count <> cardinality(p_cron_changes) THEN
            SELECT string_agg(p.id::text, ',') INTO v_ids FROM unnest(p_cron_changes) AS p
            WHERE NOT EXISTS (SELECT FROM cron AS c WHERE c.id = p.id AND c.xmin = pg_current_xact_id()::xid);
            RAISE EXCEPTION 'a tick has fired already, or its cron is gone' USING ERRCODE = 'BX002', DETAIL = coalesce(v_ids, '');
        END IF;
    END IF;

    IF cardinality(p_scheduled_runs) > 0 THEN
        INSERT INTO scheduled_run (
            id, tenant_id, workflow_id, workflow_name, is_declared, priority, trigger_at, fired_at, run_id, error, parent_run_id,
            parent_task_run_id, created_at, updated_at, metadata, input
        )
        SELECT
            p.id, p.tenant_id, p.workflow_id, p.workflow_name, p.is_declared, p.priority, p.trigger_at, p.fired_at, p.run_id,
            p.error, p.parent_run_id, p.parent_task_run_id, p.created_at, p.updated_at, p.metadata, p.input
        FROM unnest(p_scheduled_runs) AS p;
    END IF;

    IF cardinality(p_scheduled_changes) > 0 THEN
        UPDATE scheduled_run AS s SET
            trigger_at = p.trigger_at, fired_at = p.fired_at, run_id = p.run_id, error = p.error, updated_at = p.updated_at
        FROM unnest(p_scheduled_changes) AS p
        WHERE s.id = ANY (ARRAY[p.id]) AND s.tenant_id IS NOT DISTINCT FROM p.tenant_id
            AND CASE WHEN s.fired_at IS NULL THEN true ELSE false END;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        IF v_count <> cardinality(p_scheduled_changes) THEN
            SELECT string_agg(p.id::text, ',') INTO v_ids FROM unnest(p_scheduled_changes) AS p
            WHERE NOT EXISTS (SELECT FROM scheduled_run AS s WHERE s.id = p.id AND s.xmin = pg_current_xact_id()::xid);
            RAISE EXCEPTION 'a scheduled run has fired already, or is gone' USING ERRCODE = 'BX002', DETAIL = coalesce(v_ids, '');
        END IF;
    END IF;
END
$$;
