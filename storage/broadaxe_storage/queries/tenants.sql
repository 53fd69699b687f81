-- Tenants, users, members and API tokens. Columns are in the order of their records.

-- part: tenant_columns
    id::text, name, slug, created_at, updated_at, environment, is_analytics_opt_out, alert_member_emails, alert_run_failures,
    alert_expiring_tokens, alert_resource_limits, max_alert_frequency

-- part: user_columns
    id::text, email, name, password_hash, created_at, is_email_verified

-- part: member_columns
    id::text, tenant_id::text, user_id::text, role, created_at, can_view_payloads, updated_at

-- name: load_tenants
-- All of them, oldest first.
SELECT
    -- include: tenant_columns
FROM tenant ORDER BY created_at, id;

-- name: fetch_tenant
-- $1 tenant.
SELECT
    -- include: tenant_columns
FROM tenant WHERE id = $1;

-- name: fetch_tenants
-- $1 tenants.
SELECT
    -- include: tenant_columns
FROM tenant WHERE id = ANY ($1);

-- name: fetch_tenant_by_slug
-- $1 slug.
SELECT
    -- include: tenant_columns
FROM tenant WHERE slug = $1;

-- name: insert_tenant
-- Values in the order of the record.
INSERT INTO tenant (
    id, name, slug, created_at, updated_at, environment, is_analytics_opt_out, alert_member_emails, alert_run_failures,
    alert_expiring_tokens, alert_resource_limits, max_alert_frequency
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: ensure_tenant
-- Insert unless the id or slug exists. $1 id, $2 name, $3 slug, $4 created at.
INSERT INTO tenant (id, name, slug, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING;

-- name: lock_tenant
-- Keep others from changing who belongs to a tenant until the transaction ends. $1 tenant.
SELECT id::text FROM tenant WHERE id = $1 FOR NO KEY UPDATE;

-- name: update_tenant
-- What is null stays as it is. $1 tenant, $2 at, $3 name, $4 analytics opt-out, $5 alert member e-mails, $6 alert of run failures,
-- $7 alert of expiring tokens, $8 alert of resource limits, $9 most frequent alert.
UPDATE tenant SET
    updated_at = $2, name = coalesce($3, name), is_analytics_opt_out = coalesce($4, is_analytics_opt_out),
    alert_member_emails = coalesce($5, alert_member_emails), alert_run_failures = coalesce($6, alert_run_failures),
    alert_expiring_tokens = coalesce($7, alert_expiring_tokens), alert_resource_limits = coalesce($8, alert_resource_limits),
    max_alert_frequency = coalesce($9, max_alert_frequency)
WHERE id = $1
RETURNING
    -- include: tenant_columns

-- name: fetch_user
-- $1 user.
SELECT
    -- include: user_columns
FROM app_user WHERE id = $1;

-- name: fetch_user_by_email
-- $1 e-mail address, in any case.
SELECT
    -- include: user_columns
FROM app_user WHERE lower(email) = lower($1);

-- name: insert_user
-- $1 id, $2 e-mail, $3 name, $4 password hash or null, $5 created at, $6 whether the e-mail address is verified.
INSERT INTO app_user (id, email, name, password_hash, created_at, is_email_verified) VALUES ($1, $2, $3, $4, $5, $6);

-- name: ensure_user
-- Insert unless the id or e-mail exists. $1 id, $2 e-mail, $3 name, $4 password hash or null, $5 created at.
INSERT INTO app_user (id, email, name, password_hash, created_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING;

-- name: change_password
-- Unless another change came first. $1 user, $2 hash before, $3 hash from now on.
UPDATE app_user SET password_hash = $3 WHERE id = $1 AND password_hash = $2 RETURNING id::text;

-- name: put_member
-- Make a user a member of a tenant, or change the role. Values in the order of the record.
INSERT INTO tenant_member (id, tenant_id, user_id, role, created_at, can_view_payloads, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (tenant_id, user_id) DO UPDATE SET
    role = excluded.role, can_view_payloads = excluded.can_view_payloads, updated_at = excluded.updated_at;

-- name: insert_member
-- Make a user a member unless they are. Values in the order of the record.
INSERT INTO tenant_member (id, tenant_id, user_id, role, created_at, can_view_payloads, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (tenant_id, user_id) DO NOTHING;

-- name: ensure_member
-- Make a user a member unless they are. $1 tenant, $2 user, $3 role, $4 created at.
INSERT INTO tenant_member (tenant_id, user_id, role, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING;

-- name: fetch_member
-- $1 tenant, $2 user.
SELECT
    -- include: member_columns
FROM tenant_member WHERE tenant_id = $1 AND user_id = $2;

-- name: list_members
-- With name and e-mail address. $1 tenant, $2 how many at most.
SELECT m.id::text, m.tenant_id::text, m.user_id::text, m.role, m.created_at, m.can_view_payloads, m.updated_at, u.email, u.name
FROM tenant_member AS m JOIN app_user AS u ON u.id = m.user_id
WHERE m.tenant_id = $1 ORDER BY m.created_at, m.user_id LIMIT $2;

-- name: fetch_member_by_id
-- With name and e-mail address. $1 tenant, $2 membership.
SELECT m.id::text, m.tenant_id::text, m.user_id::text, m.role, m.created_at, m.can_view_payloads, m.updated_at, u.email, u.name
FROM tenant_member AS m JOIN app_user AS u ON u.id = m.user_id
WHERE m.tenant_id = $1 AND m.id = $2;

-- name: is_member_email
-- $1 tenant, $2 e-mail address, in any case.
SELECT EXISTS (
    SELECT FROM tenant_member AS m JOIN app_user AS u ON u.id = m.user_id
    WHERE m.tenant_id = $1 AND lower(u.email) = lower($2)
);

-- name: change_member
-- As long as both are what the caller believes. $1 tenant, $2 membership, $3 its role before, $4 who changes it, $5 their role,
-- $6 role from now on, $7 whether payloads may be viewed or null to leave that, $8 at.
UPDATE tenant_member AS m SET role = $6, can_view_payloads = coalesce($7, can_view_payloads), updated_at = $8
WHERE m.tenant_id = $1 AND m.id = $2 AND m.role = $3
    AND EXISTS (SELECT FROM tenant_member AS a WHERE a.tenant_id = $1 AND a.user_id = $4 AND a.role = $5)
RETURNING m.id::text;

-- name: delete_member
-- As long as both are what the caller believes. $1 tenant, $2 membership, $3 its role, $4 who deletes it, $5 their role.
DELETE FROM tenant_member AS m
WHERE m.tenant_id = $1 AND m.id = $2 AND m.role = $3
    AND EXISTS (SELECT FROM tenant_member AS a WHERE a.tenant_id = $1 AND a.user_id = $4 AND a.role = $5)
RETURNING m.id::text;

-- name: list_memberships
-- $1 user.
SELECT
    -- include: member_columns
FROM tenant_member WHERE user_id = $1 ORDER BY created_at, tenant_id;

-- name: insert_token
-- $1 id, $2 tenant, $3 name, $4 created at, $5 expires at, $6 revoked at or null.
INSERT INTO api_token (id, tenant_id, name, created_at, expires_at, revoked_at) VALUES ($1, $2, $3, $4, $5, $6);

-- name: fetch_token
-- $1 token.
SELECT id::text, tenant_id::text, name, created_at, expires_at, revoked_at FROM api_token WHERE id = $1;

-- name: list_tokens
-- Those not revoked, newest first. $1 tenant, $2 how many at most.
SELECT id::text, tenant_id::text, name, created_at, expires_at, revoked_at FROM api_token
WHERE tenant_id = $1 AND revoked_at IS NULL
ORDER BY created_at DESC, id LIMIT $2;

-- name: revoke_token
-- Revoke once; a revoked token keeps its first time. $1 tenant, $2 token, $3 at.
UPDATE api_token SET revoked_at = coalesce(revoked_at, $3) WHERE id = $2 AND tenant_id = $1 RETURNING id::text;
