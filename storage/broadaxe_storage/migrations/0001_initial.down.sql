-- Back to an empty database. Everything recorded is lost.
DROP FUNCTION ensure_day_partition(text, text, date);
DROP FUNCTION commit_batch(
    bigint, bigint, smallint[], created_task_run[], updated_task_run[], finished_task_run[], new_task_event[], put_worker[],
    new_workflow_version[], new_event[], new_log_line[]
);
DROP TYPE
    created_task_run, updated_task_run, finished_task_run, new_task_event, put_worker, new_workflow_version, new_event,
    new_log_line;
DROP VIEW task_run_timeline;
DROP TABLE event, log_line, task_event, task_run_history, task_run, worker, workflow_version, workflow, api_token,
    tenant_member, app_user, tenant, shard;
