-- Tenants, users, members and API tokens. Columns are in the order of their records.

-- name: load_tenants
-- All of them, oldest first.
SELECT id::text, name, slug, created_at FROM tenant ORDER BY created_at, id;

-- name: fetch_tenant
-- $1 tenant.
SELECT id::text, name, slug, created_at FROM tenant WHERE id = $1;

-- name: fetch_tenant_by_slug
-- $1 slug.
SELECT id::text, name, slug, created_at FROM tenant WHERE slug = $1;

-- name: insert_tenant
-- $1 id, $2 name, $3 slug, $4 created at.
INSERT INTO tenant (id, name, slug, created_at) VALUES ($1, $2, $3, $4);

-- name: ensure_tenant
-- Insert unless the id or slug exists. $1 id, $2 name, $3 slug, $4 created at.
INSERT INTO tenant (id, name, slug, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING;

-- name: fetch_user
-- $1 user.
SELECT id::text, email, name, password_hash, created_at FROM app_user WHERE id = $1;

-- name: fetch_user_by_email
-- $1 e-mail address, in any case.
SELECT id::text, email, name, password_hash, created_at FROM app_user WHERE lower(email) = lower($1);

-- name: insert_user
-- $1 id, $2 e-mail, $3 name, $4 password hash or null, $5 created at.
INSERT INTO app_user (id, email, name, password_hash, created_at) VALUES ($1, $2, $3, $4, $5);

-- name: ensure_user
-- Insert unless the id or e-mail exists. $1 id, $2 e-mail, $3 name, $4 password hash or null, $5 created at.
INSERT INTO app_user (id, email, name, password_hash, created_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING;

-- name: put_member
-- Make a user a member of a tenant, or change the role. $1 tenant, $2 user, $3 role, $4 created at.
INSERT INTO tenant_member (tenant_id, user_id, role, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, user_id) DO UPDATE SET role = excluded.role;

-- name: ensure_member
-- Make a user a member unless they are. $1 tenant, $2 user, $3 role, $4 created at.
INSERT INTO tenant_member (tenant_id, user_id, role, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING;

-- name: list_members
-- $1 tenant.
SELECT tenant_id::text, user_id::text, role, created_at FROM tenant_member WHERE tenant_id = $1 ORDER BY created_at, user_id;

-- name: list_memberships
-- $1 user.
SELECT tenant_id::text, user_id::text, role, created_at FROM tenant_member WHERE user_id = $1 ORDER BY created_at, tenant_id;

-- name: insert_token
-- $1 id, $2 tenant, $3 name, $4 created at, $5 expires at, $6 revoked at or null.
INSERT INTO api_token (id, tenant_id, name, created_at, expires_at, revoked_at) VALUES ($1, $2, $3, $4, $5, $6);

-- name: fetch_token
-- $1 token.
SELECT id::text, tenant_id::text, name, created_at, expires_at, revoked_at FROM api_token WHERE id = $1;

-- name: list_tokens
-- $1 tenant.
SELECT id::text, tenant_id::text, name, created_at, expires_at, revoked_at FROM api_token WHERE tenant_id = $1
ORDER BY created_at, id;

-- name: revoke_token
-- Revoke once; a revoked token keeps its first time. $1 tenant, $2 token, $3 at.
UPDATE api_token SET revoked_at = coalesce(revoked_at, $3) WHERE id = $2 AND tenant_id = $1 RETURNING id::text;
