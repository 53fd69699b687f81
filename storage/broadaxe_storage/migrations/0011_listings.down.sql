DROP INDEX task_run_history_list_failed;
CREATE INDEX task_run_history_list_failed ON task_run_history (tenant_id, created_at, id) WHERE state <> 6;
DROP INDEX task_run_history_metadata;
DROP INDEX task_run_history_list_workflow;
