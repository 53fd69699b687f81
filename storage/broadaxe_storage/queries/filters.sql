-- Event filters; writing them is part of a flush (`commit_filters`). Columns are in the order of `FilterRow`.

-- name: load_filters
-- $1 tenant or null for all.
SELECT id::text, tenant_id::text, workflow_id::text, scope, expression, payload, is_declarative, created_at, updated_at
FROM filter
WHERE $1::uuid IS NULL OR tenant_id = $1
ORDER BY created_at, id;

-- part: wanted_filters
-- What a listing means. $1 tenant, $2 workflows and $3 scopes, each null for all.
tenant_id = $1 AND ($2::uuid[] IS NULL OR workflow_id = ANY ($2)) AND ($3::text[] IS NULL OR scope = ANY ($3))

-- name: list_filters
-- A page, oldest first. $1 to $3 as above, $4 rows, $5 rows before them.
SELECT id::text, tenant_id::text, workflow_id::text, scope, expression, payload, is_declarative, created_at, updated_at
FROM filter
WHERE -- include: wanted_filters
ORDER BY created_at, id
LIMIT $4 OFFSET $5;

-- name: count_filters
-- At most $4. $1 to $3 as above.
SELECT count(*) FROM (
    SELECT FROM filter
    WHERE -- include: wanted_filters
    LIMIT $4
) AS f;

-- name: fetch_filter
-- $1 tenant, $2 filter.
SELECT id::text, tenant_id::text, workflow_id::text, scope, expression, payload, is_declarative, created_at, updated_at
FROM filter
WHERE id = $2 AND tenant_id IS NOT DISTINCT FROM $1;
