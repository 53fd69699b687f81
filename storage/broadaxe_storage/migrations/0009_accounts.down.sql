-- Lost: sessions, invites, settings of tenants, and the membership of viewers, whom the older schema would have to let do more.
DROP INDEX api_token_live;
DROP TABLE alert_email_group;
DROP TABLE tenant_invite;
DROP TABLE user_session;
DROP INDEX tenant_member_id;
DELETE FROM tenant_member WHERE role = 'VIEWER';
ALTER TABLE tenant_member
    DROP CONSTRAINT tenant_member_role_check,
    ADD CONSTRAINT tenant_member_role_check CHECK (role IN ('OWNER', 'ADMIN', 'MEMBER')),
    DROP COLUMN updated_at,
    DROP COLUMN can_view_payloads,
    DROP COLUMN id;
ALTER TABLE app_user DROP COLUMN is_email_verified;
ALTER TABLE tenant
    DROP COLUMN max_alert_frequency,
    DROP COLUMN alert_resource_limits,
    DROP COLUMN alert_expiring_tokens,
    DROP COLUMN alert_run_failures,
    DROP COLUMN alert_member_emails,
    DROP COLUMN is_analytics_opt_out,
    DROP COLUMN environment,
    DROP COLUMN updated_at;
