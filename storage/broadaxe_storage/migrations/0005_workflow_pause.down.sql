-- Lost: pauses. What they held goes on.
DROP FUNCTION commit_workflow_pauses(put_workflow_pause[]);
DROP TYPE put_workflow_pause;
DROP INDEX task_run_spill_deadline;
CREATE INDEX task_run_spill_deadline ON task_run (tenant_id, spill_deadline) WHERE spill_deadline IS NOT NULL;
ALTER TABLE workflow
    DROP CONSTRAINT workflow_pause,
    DROP CONSTRAINT workflow_pause_settings,
    DROP COLUMN paused_at,
    DROP COLUMN unpaused_at,
    DROP COLUMN pause_queue_ttl,
    DROP COLUMN pause_cron_behavior,
    DROP COLUMN pause_scheduled_behavior;
