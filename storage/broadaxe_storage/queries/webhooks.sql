-- Incoming webhooks. Columns are in the order of `WebhookRow`.

-- name: fetch_webhook
-- $1 tenant, $2 name.
SELECT tenant_id::text, name, id::text, source, auth_type, event_key_expression, scope_expression, static_payload, returns_event,
    key_id, secret, created_at, updated_at
FROM webhook WHERE tenant_id = $1 AND name = $2;

-- name: list_webhooks
-- Those of a tenant, newest first. $1 tenant, $2 names and $3 sources or null for all, $4 rows, $5 rows before them.
SELECT tenant_id::text, name, id::text, source, auth_type, event_key_expression, scope_expression, static_payload, returns_event,
    key_id, secret, created_at, updated_at
FROM webhook
WHERE tenant_id = $1 AND ($2::text[] IS NULL OR name = ANY ($2)) AND ($3::text[] IS NULL OR source = ANY ($3))
ORDER BY created_at DESC, id DESC
LIMIT $4 OFFSET $5;

-- name: count_webhooks
-- $1 tenant.
SELECT count(*) FROM webhook WHERE tenant_id = $1;

-- name: insert_webhook
-- Insert unless the tenant has one of that name; a row says that it was inserted. The arguments are the columns.
INSERT INTO webhook (
    tenant_id, name, id, source, auth_type, event_key_expression, scope_expression, static_payload, returns_event, key_id, secret,
    created_at, updated_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (tenant_id, name) DO NOTHING
RETURNING 1;

-- name: update_webhook
-- Change what may change, if it is still the webhook of that id; a row says that it is. $1 tenant, $2 name, $3 id, $4 event key
-- expression, $5 scope expression, $6 static payload, $7 returns event, $8 key id, $9 secret, $10 now.
UPDATE webhook SET
    event_key_expression = $4, scope_expression = $5, static_payload = $6, returns_event = $7, key_id = $8, secret = $9, updated_at = $10
WHERE tenant_id = $1 AND name = $2 AND id = $3
RETURNING 1;

-- name: delete_webhook
-- $1 tenant, $2 name.
DELETE FROM webhook WHERE tenant_id = $1 AND name = $2
RETURNING tenant_id::text, name, id::text, source, auth_type, event_key_expression, scope_expression, static_payload, returns_event,
    key_id, secret, created_at, updated_at;

-- name: load_webhooks_of_other_keys
-- Those of any tenant whose secrets are sealed with another key. $1 key id.
SELECT tenant_id::text, name, id::text, source, auth_type, event_key_expression, scope_expression, static_payload, returns_event,
    key_id, secret, created_at, updated_at
FROM webhook WHERE key_id <> $1 ORDER BY tenant_id, name;

-- name: reseal_webhook
-- Replace a secret by the same one sealed anew, unless it has changed meanwhile. $1 tenant, $2 name, $3 the secret as it was, $4 key id,
-- $5 the secret.
UPDATE webhook SET key_id = $4, secret = $5 WHERE tenant_id = $1 AND name = $2 AND secret = $3;
