-- The record: live task runs, history, definitions, workers, tenants, and the one function that the journal calls.
-- Times are timestamptz; payloads and error texts are bytea, because text refuses U+0000.
-- State numbers are those of broadaxe_storage.records.TaskRunState: 0 QUEUED, 1 ASSIGNED, 2 RUNNING, 3 BACKING_OFF, 4 WAITING,
-- 5 EVICTED, 6 COMPLETED, 7 FAILED, 8 CANCELLED, 9 SKIPPED.

-- One row a logical shard. A flush updates the rows of its shards: the row lock fences a stale owner.
CREATE TABLE shard (
    id smallint PRIMARY KEY CHECK (id BETWEEN 0 AND 255),
    epoch bigint NOT NULL DEFAULT 0,
    flush bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

INSERT INTO shard (id) SELECT generate_series(0, 255);

CREATE TABLE tenant (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    slug text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL
);

CREATE TABLE app_user (
    id uuid PRIMARY KEY,
    email text NOT NULL,
    name text NOT NULL,
    password_hash text,
    created_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX app_user_email ON app_user (lower(email));

CREATE TABLE tenant_member (
    tenant_id uuid NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES app_user (id) ON DELETE CASCADE,
    role text NOT NULL CHECK (role IN ('OWNER', 'ADMIN', 'MEMBER')),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id)
);
CREATE INDEX tenant_member_user ON tenant_member (user_id);

CREATE TABLE api_token (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX api_token_tenant ON api_token (tenant_id, created_at);

CREATE TABLE workflow (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (tenant_id, name)
);

CREATE TABLE workflow_version (
    id uuid PRIMARY KEY,
    workflow_id uuid NOT NULL REFERENCES workflow (id) ON DELETE CASCADE,
    tenant_id uuid NOT NULL,
    number integer NOT NULL CHECK (number > 0),
    checksum text NOT NULL,
    definition text NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (workflow_id, number)
);

CREATE TABLE worker (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    actions text[] NOT NULL,
    slot_config jsonb NOT NULL,
    labels jsonb NOT NULL,
    runtime_info jsonb NOT NULL,
    is_batched boolean NOT NULL,
    is_paused boolean NOT NULL,
    status smallint NOT NULL CHECK (status BETWEEN 0 AND 2),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX worker_tenant ON worker (tenant_id, updated_at);

-- Live task runs. What changes stands together, between what does not: the log of an update then holds only the middle of the row.
-- Neither an assignment nor a start touches an indexed column, so they are heap-only updates; spill_deadline repeats
-- schedule_deadline for spilled rows alone, for that reason.
CREATE TABLE task_run (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    run_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    workflow_version_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    priority smallint NOT NULL,
    step_index smallint NOT NULL,
    parent_task_run_id uuid,
    child_index integer,
    child_key text,
    triggering_event_id uuid,
    triggering_event_key text,
    desired_worker_id uuid,
    desired_labels text,
    state smallint NOT NULL CHECK (state BETWEEN 0 AND 5),
    queue_priority smallint NOT NULL,
    seq bigint NOT NULL,
    queued_at timestamptz NOT NULL,
    attempt integer NOT NULL CHECK (attempt >= 0),
    app_retries integer NOT NULL,
    internal_retries integer NOT NULL,
    schedule_deadline timestamptz,
    execution_deadline timestamptz,
    assigned_at timestamptz,
    started_at timestamptz,
    worker_id uuid,
    spill_queue text,
    spill_deadline timestamptz GENERATED ALWAYS AS (CASE WHEN spill_queue IS NOT NULL THEN schedule_deadline END) STORED,
    metadata jsonb NOT NULL,
    input bytea NOT NULL,
    -- A task run that is with a worker says which and since when; one that is spilled is with none.
    CHECK (state NOT IN (1, 2) OR (worker_id IS NOT NULL AND assigned_at IS NOT NULL)),
    CHECK (spill_queue IS NULL OR state NOT IN (1, 2))
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    autovacuum_analyze_scale_factor = 0.1,
    autovacuum_analyze_threshold = 10000,
    autovacuum_vacuum_cost_delay = 1
);
CREATE INDEX task_run_spilled ON task_run (tenant_id, spill_queue, queue_priority DESC, seq) INCLUDE (spill_deadline)
WHERE spill_queue IS NOT NULL;
CREATE INDEX task_run_spill_deadline ON task_run (tenant_id, spill_deadline) WHERE spill_deadline IS NOT NULL;
CREATE INDEX task_run_parent ON task_run (parent_task_run_id) WHERE parent_task_run_id IS NOT NULL;

-- Ended task runs, one partition a UTC day of their end; rows are never changed again.
CREATE TABLE task_run_history (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    run_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    workflow_version_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    queued_at timestamptz NOT NULL,
    attempt integer NOT NULL,
    app_retries integer NOT NULL,
    internal_retries integer NOT NULL,
    state smallint NOT NULL CHECK (state BETWEEN 6 AND 9),
    priority smallint NOT NULL,
    step_index smallint NOT NULL,
    assigned_at timestamptz,
    started_at timestamptz,
    worker_id uuid,
    parent_task_run_id uuid,
    child_index integer,
    child_key text,
    triggering_event_id uuid,
    triggering_event_key text,
    desired_worker_id uuid,
    desired_labels text,
    metadata jsonb NOT NULL,
    input bytea NOT NULL,
    output bytea,
    error bytea,
    -- Only what failed or was stopped has an error; only what completed has an output.
    CHECK (state <> 6 OR error IS NULL),
    CHECK (output IS NULL OR state = 6)
) PARTITION BY RANGE (finished_at);
CREATE INDEX task_run_history_id ON task_run_history (id);
-- Read backwards. Ascending, so that new rows go to the right edge: a descending index splits its pages in half all the time.
CREATE INDEX task_run_history_list ON task_run_history (tenant_id, created_at, id);
CREATE INDEX task_run_history_parent ON task_run_history (parent_task_run_id) WHERE parent_task_run_id IS NOT NULL;
CREATE TABLE task_run_history_other PARTITION OF task_run_history DEFAULT;

-- What happened to task runs beyond what their rows tell. `number` keeps the order of entries of one microsecond.
CREATE TABLE task_event (
    task_run_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    at timestamptz NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    attempt integer NOT NULL,
    kind smallint NOT NULL,
    worker_id uuid,
    message bytea NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX task_event_task_run ON task_event (task_run_id);
CREATE TABLE task_event_other PARTITION OF task_event DEFAULT;

-- Lines that tasks logged, by the day they were stored: `created_at` is the worker's clock and may be anything.
CREATE TABLE log_line (
    task_run_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    number bigint GENERATED ALWAYS AS IDENTITY,
    attempt integer NOT NULL,
    created_at timestamptz NOT NULL,
    level text,
    metadata jsonb,
    message bytea NOT NULL
) PARTITION BY RANGE (stored_at);
CREATE INDEX log_line_task_run ON log_line (task_run_id, number);
CREATE TABLE log_line_other PARTITION OF log_line DEFAULT;

-- Pushed events, one partition a UTC day.
CREATE TABLE event (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    key text NOT NULL,
    scope text,
    priority smallint,
    metadata jsonb NOT NULL,
    payload bytea NOT NULL
) PARTITION BY RANGE (created_at);
CREATE INDEX event_id ON event (id);
CREATE INDEX event_list ON event (tenant_id, created_at, id);
CREATE INDEX event_key ON event (tenant_id, key, created_at);
CREATE TABLE event_other PARTITION OF event DEFAULT;

-- The history of a task run, one row an entry: what its own row tells and what task_event adds.
-- Kinds are those of broadaxe_storage.records.TaskEventKind.
CREATE VIEW task_run_timeline AS
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

-- Rows as the journal sends them: one array a kind is far cheaper to send and to take apart than one array a column.
CREATE TYPE created_task_run AS (
    id uuid, tenant_id uuid, run_id uuid, workflow_id uuid, workflow_version_id uuid, step_index smallint, state smallint,
    attempt integer, app_retries integer, internal_retries integer, priority smallint, queue_priority smallint, seq bigint,
    spill_queue text, created_at timestamptz, queued_at timestamptz, schedule_deadline timestamptz,
    execution_deadline timestamptz, assigned_at timestamptz, started_at timestamptz, worker_id uuid, parent_task_run_id uuid,
    child_index integer, child_key text, triggering_event_id uuid, triggering_event_key text, desired_worker_id uuid,
    desired_labels text, metadata jsonb, input bytea
);
CREATE TYPE updated_task_run AS (
    id uuid, tenant_id uuid, expected_attempt integer, state smallint, attempt integer, app_retries integer,
    internal_retries integer, queue_priority smallint, seq bigint, queued_at timestamptz, schedule_deadline timestamptz,
    execution_deadline timestamptz, assigned_at timestamptz, started_at timestamptz, worker_id uuid
);
CREATE TYPE finished_task_run AS (
    id uuid, tenant_id uuid, expected_attempt integer, state smallint, attempt integer, app_retries integer,
    internal_retries integer, queued_at timestamptz, assigned_at timestamptz, started_at timestamptz, finished_at timestamptz,
    worker_id uuid, output bytea, error bytea
);
CREATE TYPE new_task_event AS (
    tenant_id uuid, task_run_id uuid, attempt integer, kind smallint, at timestamptz, worker_id uuid, message bytea
);
CREATE TYPE put_worker AS (
    id uuid, tenant_id uuid, name text, actions text[], slot_config jsonb, labels jsonb, runtime_info jsonb,
    is_batched boolean, is_paused boolean, status smallint, created_at timestamptz, updated_at timestamptz
);
CREATE TYPE new_workflow_version AS (
    id uuid, workflow_id uuid, tenant_id uuid, name text, number integer, checksum text, definition text,
    created_at timestamptz
);
CREATE TYPE new_event AS (
    id uuid, tenant_id uuid, key text, scope text, priority smallint, created_at timestamptz, metadata jsonb, payload bytea
);
CREATE TYPE new_log_line AS (
    tenant_id uuid, task_run_id uuid, attempt integer, created_at timestamptz, level text, metadata jsonb, message bytea
);

-- Write one flush. Everything happens or nothing: any mismatch raises.
--   BX001  the epoch of a touched shard is not p_epoch
--   BX002  a task run to update or finish is not live at its expected attempt; DETAIL has the ids, comma-separated
--   BX003  a workflow or worker id belongs to another tenant or name; DETAIL has the ids
-- The planner settings pin the plan that is right at every table size (a walk over the batch, one index probe a row): estimates
-- made while the table was empty would otherwise choose to scan it.
CREATE FUNCTION commit_batch(
    p_epoch bigint,
    p_flush bigint,
    p_shards smallint[],
    p_created created_task_run[],
    p_updated updated_task_run[],
    p_finished finished_task_run[],
    p_task_events new_task_event[],
    p_workers put_worker[],
    p_workflow_versions new_workflow_version[],
    p_events new_event[],
    p_logs new_log_line[]
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

    IF cardinality(p_created) > 0 THEN
        INSERT INTO task_run (
            id, tenant_id, run_id, workflow_id, workflow_version_id, created_at, priority, step_index, parent_task_run_id,
            child_index, child_key, triggering_event_id, triggering_event_key, desired_worker_id, desired_labels, state,
            queue_priority, seq, queued_at, attempt, app_retries, internal_retries, schedule_deadline, execution_deadline,
            assigned_at, started_at, worker_id, spill_queue, metadata, input
        )
        SELECT
            c.id, c.tenant_id, c.run_id, c.workflow_id, c.workflow_version_id, c.created_at, c.priority, c.step_index,
            c.parent_task_run_id, c.child_index, c.child_key, c.triggering_event_id, c.triggering_event_key,
            c.desired_worker_id, c.desired_labels, c.state, c.queue_priority, c.seq, c.queued_at, c.attempt, c.app_retries,
            c.internal_retries, c.schedule_deadline, c.execution_deadline, c.assigned_at, c.started_at, c.worker_id,
            c.spill_queue, c.metadata, c.input
        FROM unnest(p_created) AS c;
    END IF;

    IF cardinality(p_updated) > 0 THEN
        UPDATE task_run AS t SET
            state = u.state, attempt = u.attempt, app_retries = u.app_retries, internal_retries = u.internal_retries,
            queue_priority = u.queue_priority, seq = u.seq, queued_at = u.queued_at,
            schedule_deadline = u.schedule_deadline, execution_deadline = u.execution_deadline,
            assigned_at = u.assigned_at, started_at = u.started_at, worker_id = u.worker_id,
            spill_queue = NULL
        FROM unnest(p_updated) AS u
        WHERE t.id = u.id AND t.tenant_id = u.tenant_id AND t.attempt = u.expected_attempt;
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
            WHERE t.id = f.id AND t.tenant_id = f.tenant_id AND t.attempt = f.expected_attempt
            RETURNING
                t.id, t.tenant_id, t.run_id, t.workflow_id, t.workflow_version_id, t.created_at, f.finished_at, f.queued_at,
                f.attempt, f.app_retries, f.internal_retries, f.state, t.priority, t.step_index, f.assigned_at, f.started_at,
                f.worker_id, t.parent_task_run_id, t.child_index, t.child_key, t.triggering_event_id,
                t.triggering_event_key, t.desired_worker_id, t.desired_labels, t.metadata, t.input, f.output, f.error
        )
        INSERT INTO task_run_history (
            id, tenant_id, run_id, workflow_id, workflow_version_id, created_at, finished_at, queued_at, attempt,
            app_retries, internal_retries, state, priority, step_index, assigned_at, started_at, worker_id,
            parent_task_run_id, child_index, child_key, triggering_event_id, triggering_event_key, desired_worker_id,
            desired_labels, metadata, input, output, error
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
END
$$;

-- Make the partition of one UTC day if it is missing; true when it was made. Rows of that day that fell into the default
-- partition meanwhile move over.
CREATE FUNCTION ensure_day_partition(p_table text, p_column text, p_day date) RETURNS boolean
LANGUAGE plpgsql
AS $$
DECLARE
    v_name text := p_table || to_char(p_day, '_YYYYMMDD');
    v_from timestamptz := p_day::timestamp AT TIME ZONE 'UTC';
    v_to timestamptz := (p_day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    IF to_regclass(v_name) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)', v_name, p_table);
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', p_table || '_other');
    EXECUTE format(
        'WITH moved AS (DELETE FROM %I WHERE %I >= $1 AND %I < $2 RETURNING *) INSERT INTO %I SELECT * FROM moved',
        p_table || '_other', p_column, p_column, v_name
    ) USING v_from, v_to;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', p_table, v_name, v_from, v_to);
    RETURN true;
END
$$;
