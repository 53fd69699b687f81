-- Rate-limit buckets: the limit, and what is left of the window that a bucket is in.

-- A bucket is written at each spend, so only columns that stay as they are have an index: updates are heap-only. A key has up to
-- 10,000 characters, and an index entry no room for them: rows are found by its SHA-256, and listed by how it begins.
CREATE TABLE rate_limit (
    tenant_id uuid NOT NULL,
    digest bytea NOT NULL,
    key text NOT NULL,
    -- NULL for a key that was paused before any limit was put.
    limit_value bigint CHECK (limit_value >= 0),
    window_us bigint NOT NULL CHECK (window_us > 0),
    window_start timestamptz NOT NULL,
    units_left bigint NOT NULL CHECK (units_left BETWEEN 0 AND coalesce(limit_value, 0)),
    paused_until timestamptz,
    timeline bigint NOT NULL,
    monotonic_start bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    -- The digest first: who looks for a key compares the tenant as no index serves it, or the list's index would do as well while the
    -- table is empty, and read all that the tenant has ever after.
    PRIMARY KEY (digest, tenant_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX rate_limit_list ON rate_limit (tenant_id, left(key, 200) COLLATE "C");

CREATE TYPE put_rate_limit AS (
    tenant_id uuid, key text, limit_value bigint, window_us bigint, window_start timestamptz, units_left bigint,
    paused_until timestamptz, timeline bigint, monotonic_start bigint, updated_at timestamptz
);
CREATE TYPE dropped_rate_limit AS (tenant_id uuid, key text);

-- Part of a flush: called beside `commit_batch`, which guards it. Of several rows of one key the last one counts. The planner settings
-- are those of `commit_batch`, for its reasons.
CREATE FUNCTION commit_rate_limits(p_put put_rate_limit[], p_dropped dropped_rate_limit[]) RETURNS void
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
BEGIN
    IF cardinality(p_put) > 0 THEN
        INSERT INTO rate_limit (
            tenant_id, digest, key, limit_value, window_us, window_start, units_left, paused_until, timeline, monotonic_start,
            updated_at
        )
        SELECT DISTINCT ON (p.tenant_id, p.key)
            p.tenant_id, sha256(convert_to(p.key, 'UTF8')), p.key, p.limit_value, p.window_us, p.window_start, p.units_left,
            p.paused_until, p.timeline, p.monotonic_start, p.updated_at
        FROM unnest(p_put) WITH ORDINALITY AS p (
            tenant_id, key, limit_value, window_us, window_start, units_left, paused_until, timeline, monotonic_start,
            updated_at, number
        )
        ORDER BY p.tenant_id, p.key, p.number DESC
        ON CONFLICT (digest, tenant_id) DO UPDATE SET
            limit_value = excluded.limit_value, window_us = excluded.window_us, window_start = excluded.window_start,
            units_left = excluded.units_left, paused_until = excluded.paused_until, timeline = excluded.timeline,
            monotonic_start = excluded.monotonic_start, updated_at = excluded.updated_at;
    END IF;

    IF cardinality(p_dropped) > 0 THEN
        DELETE FROM rate_limit AS r USING unnest(p_dropped) AS d
        WHERE r.digest = ANY (ARRAY[sha256(convert_to(d.key, 'UTF8'))]) AND r.tenant_id IS NOT DISTINCT FROM d.tenant_id;
    END IF;
END
$$;
