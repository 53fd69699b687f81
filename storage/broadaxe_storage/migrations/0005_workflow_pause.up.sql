-- Paused workflows, and the way to what has expired while some of it may not.

-- While `paused_at` is set the workflow is paused; the settings and the end of the last pause stay. A pause ends what waits longer than its
-- ttl (microseconds); from `unpaused_at` on what waited has its schedule timeout anew.
ALTER TABLE workflow
    ADD COLUMN paused_at timestamptz,
    ADD COLUMN unpaused_at timestamptz,
    ADD COLUMN pause_queue_ttl bigint,
    ADD COLUMN pause_cron_behavior text,
    ADD COLUMN pause_scheduled_behavior text,
    ADD CONSTRAINT workflow_pause CHECK (
        paused_at IS NULL
        OR (pause_queue_ttl IS NOT NULL AND pause_cron_behavior IS NOT NULL AND pause_scheduled_behavior IS NOT NULL)
    ),
    ADD CONSTRAINT workflow_pause_settings CHECK (
        pause_queue_ttl > 0 AND pause_cron_behavior IN ('DROP', 'QUEUE') AND pause_scheduled_behavior IN ('DROP', 'QUEUE')
    );

-- By workflow, so that those that are paused can be left out without being read.
DROP INDEX task_run_spill_deadline;
CREATE INDEX task_run_spill_deadline ON task_run (tenant_id, workflow_id, spill_deadline) WHERE spill_deadline IS NOT NULL;

CREATE TYPE put_workflow_pause AS (
    workflow_id uuid, tenant_id uuid, paused_at timestamptz, unpaused_at timestamptz, queue_ttl bigint, cron_behavior text,
    scheduled_behavior text
);

-- Part of a flush, beside commit_batch and after it: how workflows are paused from now on.
--   BX003  a tenant does not have such a workflow; DETAIL has the ids
CREATE FUNCTION commit_workflow_pauses(p_pauses put_workflow_pause[]) RETURNS void
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_ids text;
BEGIN
    IF cardinality(p_pauses) = 0 THEN
        RETURN;
    END IF;
    WITH put AS (
        UPDATE workflow AS w SET
            paused_at = p.paused_at, unpaused_at = p.unpaused_at, pause_queue_ttl = p.queue_ttl,
            pause_cron_behavior = p.cron_behavior, pause_scheduled_behavior = p.scheduled_behavior
        FROM unnest(p_pauses) AS p
        WHERE w.id = p.workflow_id AND w.tenant_id IS NOT DISTINCT FROM p.tenant_id
        RETURNING w.id
    )
    SELECT string_agg(p.workflow_id::text, ',') INTO v_ids
    FROM unnest(p_pauses) AS p WHERE p.workflow_id NOT IN (SELECT put.id FROM put);
    IF v_ids IS NOT NULL THEN
        RAISE EXCEPTION 'a workflow to pause is not one of the tenant' USING ERRCODE = 'BX003', DETAIL = v_ids;
    END IF;
END
$$;
