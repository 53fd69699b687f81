-- People: sessions, what a member may see, invites; and the settings of tenants.

ALTER TABLE tenant
    ADD COLUMN updated_at timestamptz,
    ADD COLUMN environment text CHECK (environment IN ('local', 'development', 'production')),
    ADD COLUMN is_analytics_opt_out boolean NOT NULL DEFAULT false,
    ADD COLUMN alert_member_emails boolean NOT NULL DEFAULT true,
    ADD COLUMN alert_run_failures boolean NOT NULL DEFAULT false,
    ADD COLUMN alert_expiring_tokens boolean NOT NULL DEFAULT true,
    ADD COLUMN alert_resource_limits boolean NOT NULL DEFAULT true,
    ADD COLUMN max_alert_frequency text NOT NULL DEFAULT '1h';

-- Whoever is there was put there by the configuration.
ALTER TABLE app_user ADD COLUMN is_email_verified boolean NOT NULL DEFAULT true;

ALTER TABLE tenant_member
    ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN can_view_payloads boolean NOT NULL DEFAULT true,
    ADD COLUMN updated_at timestamptz,
    DROP CONSTRAINT tenant_member_role_check,
    ADD CONSTRAINT tenant_member_role_check CHECK (role IN ('OWNER', 'ADMIN', 'MEMBER', 'VIEWER'));
CREATE UNIQUE INDEX tenant_member_id ON tenant_member (id);

-- Who is signed in. The token itself is in the browser alone.
CREATE TABLE user_session (
    token_hash bytea PRIMARY KEY CHECK (octet_length(token_hash) = 32),
    user_id uuid NOT NULL REFERENCES app_user (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX user_session_user ON user_session (user_id, created_at);
CREATE INDEX user_session_expires ON user_session (expires_at);

-- An invite is a row until it is accepted, rejected or deleted, or has expired and another needs its place.
CREATE TABLE tenant_invite (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    email text NOT NULL CHECK (email = lower(email)),
    role text NOT NULL CHECK (role IN ('OWNER', 'ADMIN', 'MEMBER', 'VIEWER')),
    can_view_payloads boolean NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    UNIQUE (tenant_id, email)
);
CREATE INDEX tenant_invite_email ON tenant_invite (email);

CREATE TABLE alert_email_group (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    emails text[] NOT NULL CHECK (cardinality(emails) > 0),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX alert_email_group_tenant ON alert_email_group (tenant_id, created_at);

-- The list that is shown leaves out what was revoked.
CREATE INDEX api_token_live ON api_token (tenant_id, created_at) WHERE revoked_at IS NULL;
