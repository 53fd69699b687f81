-- Claimed idempotency keys; claims and releases are part of `commit_batch`. Columns are in the order of `IdempotencyKeyRow`.

-- name: fetch_idempotency_keys
-- Claims that hold. $1 tenant, $2 keys, $3 now.
SELECT tenant_id::text, key, run_id::text, expires_at
FROM idempotency_key
WHERE tenant_id = $1 AND digest = ANY (ARRAY(SELECT sha256(convert_to(k, 'UTF8')) FROM unnest($2::text[]) AS k))
    AND expires_at > $3;

-- name: purge_idempotency_keys
-- Delete expired claims, oldest first, and count them. One that is renewed meanwhile stays: the time is looked at again. $1 now, $2 rows.
WITH gone AS (
    DELETE FROM idempotency_key
    WHERE expires_at <= $1 AND (tenant_id, digest) IN (
        SELECT tenant_id, digest FROM idempotency_key WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2
    )
    RETURNING 1
)
SELECT count(*) FROM gone;
