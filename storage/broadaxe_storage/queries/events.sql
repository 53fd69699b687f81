-- Pushed events. Columns are in the order of `EventRow`.

-- name: fetch_events
-- The next events of some keys, oldest first; each key is read by its own index. $1 tenant, $2 keys without repeats, $3 created not
-- before, $4 and $5 creation time and id of the last row of the page before, $6 rows.
SELECT e.id::text, e.tenant_id::text, e.key, e.scope, e.priority, e.created_at, e.metadata, e.payload, e.webhook_name, e.filter_errors
FROM unnest($2::text[]) AS wanted (key)
CROSS JOIN LATERAL (
    SELECT * FROM event AS o
    WHERE o.tenant_id = $1 AND o.key = wanted.key AND o.created_at >= $3 AND (o.created_at, o.id) > ($4, $5::uuid)
    ORDER BY o.created_at, o.id
    LIMIT $6
) AS e
ORDER BY e.created_at, e.id
LIMIT $6;
