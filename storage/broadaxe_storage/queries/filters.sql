-- Event filters; writing them is part of a flush (`commit_filters`). Columns are in the order of `FilterRow`.

-- name: load_filters
-- $1 tenant or null for all.
SELECT id::text, tenant_id::text, workflow_id::text, scope, expression, payload, is_declarative, created_at, updated_at
FROM filter
WHERE $1::uuid IS NULL OR tenant_id = $1
ORDER BY created_at, id;
