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

-- part: wanted_events
-- What a listing means. $1 tenant, $2 created not before, $3 nor after; then each null for all: $4 scopes, $5 ids, $6 and $7 metadata keys
-- and their values, all of which must be met, $8 workflows and $9 states of runs that the event started, one run of which must be met by
-- both, $10 microseconds: how much earlier than an event a run that it started may have left the live table by its clock.
e.tenant_id = $1 AND e.created_at >= $2 AND e.created_at <= $3
    AND ($4::text[] IS NULL OR e.scope = ANY ($4))
    AND ($5::uuid[] IS NULL OR e.id = ANY ($5))
    AND (
        $6::text[] IS NULL
        OR NOT EXISTS (
            SELECT FROM unnest($6::text[], $7::text[]) AS w (key, value) WHERE e.metadata ->> w.key IS DISTINCT FROM w.value
        )
    )
    AND (
        ($8::uuid[] IS NULL AND $9::smallint[] IS NULL)
        OR EXISTS (
            SELECT FROM run_summary AS s
            WHERE s.triggering_event_id = e.id AND s.is_run AND s.tenant_id IS NOT DISTINCT FROM e.tenant_id
                AND s.left_at >= e.created_at - $10::bigint * interval '1 microsecond'
                AND ($8::uuid[] IS NULL OR s.workflow_id = ANY ($8))
                AND ($9::smallint[] IS NULL OR s.state = ANY ($9))
        )
    )

-- name: list_events
-- A page, newest first. $1 to $10 as above, $11 rows, $12 rows before them.
SELECT e.id::text, e.tenant_id::text, e.key, e.scope, e.priority, e.created_at, e.metadata, e.payload, e.webhook_name, e.filter_errors
FROM event AS e
WHERE -- include: wanted_events
ORDER BY e.created_at DESC, e.id DESC
LIMIT $11 OFFSET $12;

-- name: list_events_of_keys
-- The same of some keys, each read by its own index. $13 keys without repeats.
SELECT e.id::text, e.tenant_id::text, e.key, e.scope, e.priority, e.created_at, e.metadata, e.payload, e.webhook_name, e.filter_errors
FROM unnest($13::text[]) AS wanted (key)
CROSS JOIN LATERAL (
    SELECT * FROM event AS e
    WHERE e.key = wanted.key AND -- include: wanted_events
    ORDER BY e.created_at DESC, e.id DESC
    LIMIT $11::bigint + $12::bigint
) AS e
ORDER BY e.created_at DESC, e.id DESC
LIMIT $11 OFFSET $12;

-- name: count_events
-- How many, at most $11. $1 to $10 as above.
SELECT count(*) FROM (
    SELECT FROM event AS e
    WHERE -- include: wanted_events
    LIMIT $11
) AS c;

-- name: count_events_of_keys
-- The same of some keys. $12 keys without repeats.
SELECT least(sum(c.count), $11::bigint)::bigint
FROM unnest($12::text[]) AS wanted (key)
CROSS JOIN LATERAL (
    SELECT count(*) FROM (
        SELECT FROM event AS e
        WHERE e.key = wanted.key AND -- include: wanted_events
        LIMIT $11
    ) AS o
) AS c;

-- name: fetch_event
-- $1 tenant, $2 event.
SELECT e.id::text, e.tenant_id::text, e.key, e.scope, e.priority, e.created_at, e.metadata, e.payload, e.webhook_name, e.filter_errors
FROM event AS e
WHERE e.id = $2 AND e.tenant_id IS NOT DISTINCT FROM $1;

-- name: list_runs_of_events
-- Runs that events started, oldest first. $1 tenant, $2 events, $3 left the live table not before: spares partitions.
SELECT s.triggering_event_id::text, s.id::text, s.state, s.filter::json ->> 'id'
FROM run_summary AS s
WHERE s.triggering_event_id = ANY ($2::uuid[]) AND s.is_run AND s.tenant_id IS NOT DISTINCT FROM $1 AND s.left_at >= $3
ORDER BY s.created_at, s.id;

-- name: list_event_keys
-- Keys that events of a tenant have had, by name. $1 tenant, $2 rows.
SELECT key FROM known_event_key WHERE tenant_id = $1 ORDER BY key COLLATE "C" LIMIT $2;
