-- Lost: that workflows are deleted. They come back, under other names where another one has theirs.
DROP FUNCTION commit_workflow_deletions(deleted_workflow[]);
DROP TYPE deleted_workflow;
DROP INDEX workflow_name;
UPDATE workflow SET name = name || ' (deleted ' || id || ')' WHERE deleted_at IS NOT NULL;
ALTER TABLE workflow DROP COLUMN deleted_at, ADD CONSTRAINT workflow_tenant_id_name_key UNIQUE (tenant_id, name);
DROP INDEX task_run_history_list_failed;
CREATE INDEX task_run_history_list_failed ON task_run_history (tenant_id, created_at, id) WHERE state <> 6;
DROP INDEX task_run_history_metadata;
DROP INDEX task_run_history_list_workflow;
