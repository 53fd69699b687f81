-- Incoming webhooks, and how long ended runs and events are kept.

-- The secret is sealed by the gateway: a nonce, then what AES-256-GCM made of it under the key of that id.
CREATE TABLE webhook (
    tenant_id uuid NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    name text NOT NULL,
    id uuid NOT NULL,
    source text NOT NULL CHECK (source IN ('GENERIC', 'GITHUB', 'STRIPE', 'SLACK', 'LINEAR', 'SVIX')),
    auth_type text NOT NULL CHECK (auth_type IN ('BASIC', 'API_KEY', 'HMAC')),
    event_key_expression text NOT NULL,
    scope_expression text,
    static_payload text,
    returns_event boolean NOT NULL,
    key_id text NOT NULL,
    secret bytea NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

-- Microseconds that ended runs and events of the tenant are kept; null for the server's default.
ALTER TABLE tenant ADD COLUMN retention_us bigint CHECK (retention_us >= 3600000000);

-- Delete a page of a tenant's ended runs that left the live table before a day, with their task runs, what happened to those and what
-- they logged. A run whose parent is live stays: the parent may ask for it again. Pages go by creation; says how many runs were deleted and
-- where the page ended, null at the end. The planner settings are those of `commit_batch`, for its reasons.
CREATE FUNCTION expire_runs(
    p_tenant_id uuid, p_until timestamptz, p_after timestamptz, p_after_id uuid, p_limit integer,
    OUT deleted integer, OUT last_at timestamptz, OUT last_id uuid
)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_page uuid[];
    v_runs uuid[];
    v_since timestamptz;
    v_gone uuid[];
BEGIN
    deleted := 0;
    SELECT array_agg(p.id ORDER BY p.created_at, p.id), min(p.created_at) INTO v_page, v_since
    FROM (
        SELECT h.id, h.created_at FROM task_run_history AS h
        WHERE h.tenant_id = p_tenant_id AND h.finished_at < p_until
            AND CASE WHEN h.id = h.run_id THEN true ELSE false END
            AND (h.created_at, h.id) > (p_after, p_after_id)
        ORDER BY h.created_at, h.id LIMIT p_limit
    ) AS p;
    IF v_page IS NULL THEN
        RETURN;
    END IF;
    IF cardinality(v_page) = p_limit THEN
        last_id := v_page[p_limit];
        SELECT h.created_at INTO last_at FROM task_run_history AS h
        WHERE h.id = last_id AND h.finished_at < p_until;
    END IF;
    SELECT coalesce(array_agg(h.id), '{}') INTO v_runs FROM task_run_history AS h
    WHERE h.id = ANY (v_page) AND h.finished_at < p_until
        AND NOT EXISTS (SELECT FROM task_run AS parent WHERE parent.id = h.parent_task_run_id);
    WITH tasks AS (
        DELETE FROM task_run_history AS h
        WHERE h.run_id = ANY (v_runs) AND h.id <> h.run_id AND h.finished_at < p_until RETURNING h.id
    ), runs AS (
        DELETE FROM task_run_history AS h WHERE h.id = ANY (v_runs) AND h.finished_at < p_until RETURNING h.id
    )
    SELECT array_agg(g.id), count(*) FILTER (WHERE g.is_run) INTO v_gone, deleted
    FROM (SELECT tasks.id, false AS is_run FROM tasks UNION ALL SELECT runs.id, true FROM runs) AS g;
    DELETE FROM task_event AS e WHERE e.task_run_id = ANY (v_gone) AND e.at >= v_since;
    DELETE FROM log_line AS l WHERE l.task_run_id = ANY (v_gone) AND l.stored_at >= v_since;
END
$$;

-- Delete a page of a tenant's events of before a day, and count them.
CREATE FUNCTION expire_events(p_tenant_id uuid, p_until timestamptz, p_limit integer) RETURNS bigint
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_ids uuid[];
    v_until timestamptz;
    v_since timestamptz;
    v_count bigint;
BEGIN
    SELECT array_agg(p.id), min(p.created_at), max(p.created_at) INTO v_ids, v_since, v_until
    FROM (
        SELECT e.id, e.created_at FROM event AS e
        WHERE e.tenant_id = p_tenant_id AND e.created_at < p_until
        ORDER BY e.created_at, e.id LIMIT p_limit
    ) AS p;
    DELETE FROM event AS e WHERE e.id = ANY (v_ids) AND e.created_at BETWEEN v_since AND v_until;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;

-- Rows of a day's partition that must outlive it, copied into a table of their own: what belongs to runs that began by the end of that day
-- and are still there. Of task_run_history, those are children of live parents. Nothing waits for this: it only reads what is shared.
CREATE FUNCTION keep_of_day(p_table text, p_day date) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    v_name text := p_table || to_char(p_day, '_YYYYMMDD');
    v_end timestamptz := (p_day + 1)::timestamp AT TIME ZONE 'UTC';
    v_count bigint;
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS %I', v_name || '_kept');
    EXECUTE format('CREATE TABLE %I (LIKE %I)', v_name || '_kept', v_name);
    IF p_table = 'task_run_history' THEN
        EXECUTE format(
            'INSERT INTO %1$I SELECT k.* FROM %2$I AS k JOIN ('
            '    SELECT DISTINCT h.run_id FROM %2$I AS h'
            '    JOIN task_run AS parent ON parent.id = h.parent_task_run_id WHERE parent.created_at < $1'
            ') AS child ON child.run_id = k.run_id',
            v_name || '_kept', v_name
        ) USING v_end;
    ELSIF p_table IN ('task_event', 'log_line') THEN
        EXECUTE format(
            'INSERT INTO %1$I SELECT k.* FROM %2$I AS k JOIN ('
            '    SELECT t.id FROM task_run AS t WHERE t.created_at < $1'
            '    UNION ALL'
            '    SELECT r.id FROM tenant AS o CROSS JOIN LATERAL ('
            '        SELECT h.id FROM task_run_history AS h WHERE h.tenant_id = o.id AND h.created_at < $1'
            '            AND CASE WHEN h.id = h.run_id THEN true ELSE false END'
            '        UNION ALL'
            '        SELECT h.id FROM task_run_history AS h WHERE h.tenant_id = o.id AND h.created_at < $1 AND h.id <> h.run_id'
            '    ) AS r'
            ') AS there ON there.id = k.task_run_id',
            v_name || '_kept', v_name
        ) USING v_end;
    END IF;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;

-- Take a day's partition off, and put what `keep_of_day` kept of it into the default partition. Whoever writes waits for that: so it gives
-- up when it does not get its lock at once, and does nothing else.
CREATE FUNCTION detach_day(p_table text, p_day date) RETURNS void
LANGUAGE plpgsql
SET lock_timeout = '50ms'
AS $$
DECLARE
    v_name text := p_table || to_char(p_day, '_YYYYMMDD');
    v_columns text;
BEGIN
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', p_table, v_name);
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO v_columns
    FROM pg_attribute AS a
    WHERE a.attrelid = to_regclass(v_name || '_kept') AND a.attnum > 0 AND NOT a.attisdropped;
    EXECUTE format(
        'INSERT INTO %1$I (%2$s) OVERRIDING SYSTEM VALUE SELECT %2$s FROM %3$I AS k', p_table, v_columns, v_name || '_kept'
    ) || CASE
        -- A run that was replayed since then is live again, and its rows are no history.
        WHEN p_table = 'task_run_history' THEN format(' WHERE EXISTS (SELECT FROM %I AS h WHERE h.id = k.id)', v_name)
        ELSE ''
    END;
    EXECUTE format('DROP TABLE %I', v_name || '_kept');
END
$$;

-- Drop the table of a day that is no partition any more.
CREATE FUNCTION drop_day(p_table text, p_day date) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS %I', p_table || to_char(p_day, '_YYYYMMDD'));
END
$$;
