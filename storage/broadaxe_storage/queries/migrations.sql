-- Which migrations a database has had.

-- name: lock_migrations
-- One migrating server at a time, until the end of the transaction. $1 lock class, $2 lock number.
SELECT pg_advisory_xact_lock($1::integer, $2::integer);

-- name: create_migration_table
CREATE TABLE IF NOT EXISTS schema_migration (
    version integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: has_migration_table
SELECT to_regclass('schema_migration') IS NOT NULL;

-- name: load_migration_version
-- The newest applied migration, 0 for none.
SELECT coalesce(max(version), 0) FROM schema_migration;

-- name: insert_migration
-- $1 version, $2 name.
INSERT INTO schema_migration (version, name) VALUES ($1, $2);

-- name: delete_migration
-- $1 version.
DELETE FROM schema_migration WHERE version = $1;
