-- Lists that are narrowed: by workflow, by metadata, and by more than one thing among the runs that did not complete.

-- In the order of lists; a workflow has one tenant.
CREATE INDEX task_run_history_list_workflow ON task_run_history (workflow_id, created_at)
WHERE CASE WHEN id = run_id THEN true ELSE false END;

-- What few runs have is found by it. Runs without metadata cost nothing; task runs of a run of several have none of their own.
CREATE INDEX task_run_history_metadata ON task_run_history USING gin (metadata jsonb_path_ops) WHERE metadata <> '{}';

-- With what lists ask of runs that failed or were stopped, so that those which are not meant are passed over in the index.
DROP INDEX task_run_history_list_failed;
CREATE INDEX task_run_history_list_failed ON task_run_history (tenant_id, created_at, id)
INCLUDE (state, workflow_id, run_id, finished_at) WHERE state <> 6;
