-- Rate-limit buckets; writing them is part of a flush (`commit_rate_limits`). Columns are in the order of `RateLimitRow`.

-- name: fetch_rate_limits
-- $1 tenant, $2 keys.
SELECT tenant_id::text, key, limit_value, window_us, window_start, units_left, paused_until, timeline, monotonic_start, updated_at
FROM rate_limit
WHERE digest = ANY (ARRAY(SELECT sha256(convert_to(k, 'UTF8')) FROM unnest($2::text[]) AS k))
    AND tenant_id IS NOT DISTINCT FROM $1;

-- part: meant_limits
-- What a listing means. $1 tenant, $2 text in the key in any case of letters, or null for all.
tenant_id = $1 AND ($2::text IS NULL OR strpos(lower(key), lower($2)) > 0)

-- name: list_limits_by_key
-- Along the index; keys that begin alike are put in order as they come. $1 and $2 as above, $3 rows, $4 rows before them.
SELECT tenant_id::text, key, limit_value, window_us, window_start, units_left, paused_until, timeline, monotonic_start, updated_at
FROM rate_limit
WHERE -- include: meant_limits
ORDER BY left(key, 200) COLLATE "C", key COLLATE "C"
LIMIT $3 OFFSET $4;

-- name: list_limits_by_key_descending
-- As `list_limits_by_key`, from the other end.
SELECT tenant_id::text, key, limit_value, window_us, window_start, units_left, paused_until, timeline, monotonic_start, updated_at
FROM rate_limit
WHERE -- include: meant_limits
ORDER BY left(key, 200) COLLATE "C" DESC, key COLLATE "C" DESC
LIMIT $3 OFFSET $4;

-- name: list_limits_by_number
-- By the limit, or by the units that are there: those left, or all once the window is over; equal ones by key. Reads all that the
-- tenant has. $1 and $2 as above, $3 rows, $4 rows before them, $5 by the limit, else by units, $6 descending, $7 now.
SELECT tenant_id::text, key, limit_value, window_us, window_start, units_left, paused_until, timeline, monotonic_start, updated_at
FROM (
    SELECT *, CASE WHEN $6 THEN -1 ELSE 1 END * coalesce(
        CASE WHEN $5 OR window_start + window_us * interval '1 microsecond' <= $7 THEN limit_value ELSE units_left END, 0
    ) AS rank
    FROM rate_limit
    WHERE -- include: meant_limits
) AS r
ORDER BY rank, left(key, 200) COLLATE "C", key COLLATE "C"
LIMIT $3 OFFSET $4;

-- name: count_limits
-- At most $3. $1 and $2 as above.
SELECT count(*) FROM (
    SELECT FROM rate_limit
    WHERE -- include: meant_limits
    LIMIT $3
) AS r;
