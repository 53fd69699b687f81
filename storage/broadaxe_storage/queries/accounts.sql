-- Sessions, invites, alert e-mail groups, and whose a resource is. Columns are in the order of their records.

-- part: invite_columns
    i.id::text, i.tenant_id::text, i.email, i.role, i.can_view_payloads, i.created_at, i.updated_at, i.expires_at

-- name: insert_session
-- Unless the password has changed meanwhile; expired sessions, and the oldest of this user past 50, make room.
-- $1 hash of the token, $2 user, $3 created at, $4 expires at, $5 hash of the password or null.
WITH expired AS (
    DELETE FROM user_session
    WHERE token_hash IN (SELECT token_hash FROM user_session WHERE expires_at <= $3 ORDER BY expires_at LIMIT 100)
), too_many AS (
    DELETE FROM user_session
    WHERE token_hash IN (SELECT token_hash FROM user_session WHERE user_id = $2 ORDER BY created_at DESC OFFSET 49)
), owner AS (
    SELECT id FROM app_user WHERE id = $2 AND password_hash IS NOT DISTINCT FROM $5 FOR SHARE
)
INSERT INTO user_session (token_hash, user_id, created_at, expires_at)
SELECT $1, owner.id, $3, $4 FROM owner
RETURNING user_id::text;

-- name: fetch_session_user
-- Who is signed in. $1 hash of the token, $2 now.
SELECT u.id::text, u.email, u.name, u.password_hash, u.created_at, u.is_email_verified
FROM user_session AS s JOIN app_user AS u ON u.id = s.user_id
WHERE s.token_hash = $1 AND s.expires_at > $2;

-- name: delete_session
-- $1 hash of the token.
DELETE FROM user_session WHERE token_hash = $1;

-- name: delete_sessions
-- $1 user.
DELETE FROM user_session WHERE user_id = $1;

-- name: delete_expired_invites
-- $1 tenant, $2 now.
DELETE FROM tenant_invite WHERE tenant_id = $1 AND expires_at <= $2;

-- name: insert_invite
-- Unless the tenant has as many as it may. Values in the order of the record, then $9 the most.
INSERT INTO tenant_invite (id, tenant_id, email, role, can_view_payloads, created_at, updated_at, expires_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8
WHERE (SELECT count(*) FROM tenant_invite WHERE tenant_id = $2) < $9
RETURNING id::text;

-- name: list_invites
-- Those that have not expired. $1 tenant, $2 now.
SELECT
    -- include: invite_columns
FROM tenant_invite AS i WHERE i.tenant_id = $1 AND i.expires_at > $2 ORDER BY i.created_at, i.id;

-- name: list_invites_of
-- Those that have not expired, with the tenant's name. $1 e-mail address in lower case, $2 now, $3 how many at most.
SELECT i.id::text, i.tenant_id::text, i.email, i.role, i.can_view_payloads, i.created_at, i.updated_at, i.expires_at, t.name
FROM tenant_invite AS i JOIN tenant AS t ON t.id = i.tenant_id
WHERE i.email = $1 AND i.expires_at > $2 ORDER BY i.created_at, i.id LIMIT $3;

-- name: fetch_invite
-- $1 tenant, $2 invite, $3 now.
SELECT
    -- include: invite_columns
FROM tenant_invite AS i WHERE i.tenant_id = $1 AND i.id = $2 AND i.expires_at > $3;

-- name: update_invite
-- As long as its role is what the caller believes. $1 tenant, $2 invite, $3 role before, $4 role from now on, $5 whether payloads may be
-- viewed or null to leave that, $6 at.
UPDATE tenant_invite AS i SET role = $4, can_view_payloads = coalesce($5, can_view_payloads), updated_at = $6
WHERE i.tenant_id = $1 AND i.id = $2 AND i.role = $3 AND i.expires_at > $6
RETURNING
    -- include: invite_columns

-- name: delete_invite
-- As long as its role is what the caller believes. $1 tenant, $2 invite, $3 role.
DELETE FROM tenant_invite AS i WHERE i.tenant_id = $1 AND i.id = $2 AND i.role = $3
RETURNING
    -- include: invite_columns

-- name: take_invite
-- The invite, which is gone then. $1 invite, $2 e-mail address in lower case, $3 now.
DELETE FROM tenant_invite AS i WHERE i.id = $1 AND i.email = $2 AND i.expires_at > $3
RETURNING
    -- include: invite_columns

-- name: insert_email_group
-- Unless the tenant has as many as it may. Values in the order of the record, then $6 the most.
INSERT INTO alert_email_group (id, tenant_id, emails, created_at, updated_at)
SELECT $1, $2, $3, $4, $5
WHERE (SELECT count(*) FROM alert_email_group WHERE tenant_id = $2) < $6
RETURNING id::text;

-- name: list_email_groups
-- $1 tenant.
SELECT id::text, tenant_id::text, emails, created_at, updated_at FROM alert_email_group
WHERE tenant_id = $1 ORDER BY created_at, id;

-- name: update_email_group
-- $1 tenant, $2 group, $3 e-mail addresses, $4 at.
UPDATE alert_email_group SET emails = $3, updated_at = $4 WHERE tenant_id = $1 AND id = $2
RETURNING id::text, tenant_id::text, emails, created_at, updated_at;

-- name: delete_email_group
-- $1 tenant, $2 group.
DELETE FROM alert_email_group WHERE tenant_id = $1 AND id = $2 RETURNING id::text;

-- name: find_owner
-- Which of some tenants has a resource of this id: a run or task, a worker, a workflow, an event, an API token, an e-mail group.
-- $1 id, $2 tenants.
SELECT found.tenant_id::text FROM (
    SELECT tenant_id FROM task_run WHERE id = $1
    UNION ALL SELECT tenant_id FROM task_run_history WHERE id = $1
    UNION ALL SELECT tenant_id FROM worker WHERE id = $1
    UNION ALL SELECT tenant_id FROM workflow WHERE id = $1
    UNION ALL SELECT tenant_id FROM event WHERE id = $1
    UNION ALL SELECT tenant_id FROM api_token WHERE id = $1
    UNION ALL SELECT tenant_id FROM alert_email_group WHERE id = $1
) AS found
WHERE found.tenant_id = ANY ($2) LIMIT 1;
