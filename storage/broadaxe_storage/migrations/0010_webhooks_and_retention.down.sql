-- Lost: webhooks with their secrets, and the tenants' own retention periods.
DROP FUNCTION drop_day(text, date);
DROP FUNCTION detach_day(text, date);
DROP FUNCTION keep_of_day(text, date);
DROP FUNCTION expire_events(uuid, timestamptz, integer);
DROP FUNCTION expire_runs(uuid, timestamptz, timestamptz, uuid, integer);
ALTER TABLE tenant DROP COLUMN retention_us;
DROP TABLE webhook;
