-- Lists that are narrowed: by workflow, by metadata, and by more than one thing among the runs that did not complete.

-- In the order of lists; a workflow has one tenant.
CREATE INDEX task_run_history_list_workflow ON task_run_history (workflow_id, created_at)
WHERE CASE WHEN id = run_id THEN true ELSE false END;

-- What few runs have is found by it. Runs without metadata of their own cost nothing (all have a `traceparent`, each another, which nobody
-- looks for); task runs of a run of several have none. New entries are collected, and put in their places together, within a commit: of as
-- few as these that takes some milliseconds, of the default 4 MB a quarter of a second, in which no other tenant's run can start.
CREATE INDEX task_run_history_metadata ON task_run_history USING gin ((metadata - 'traceparent') jsonb_path_ops)
WITH (gin_pending_list_limit = 64) WHERE metadata - 'traceparent' <> '{}';

-- With what lists ask of runs that failed or were stopped, so that those which are not meant are passed over in the index.
DROP INDEX task_run_history_list_failed;
CREATE INDEX task_run_history_list_failed ON task_run_history (tenant_id, created_at, id)
INCLUDE (state, workflow_id, run_id, finished_at) WHERE state <> 6;

-- A deleted workflow keeps its name and versions, for the runs that name them; another one may have the name.
ALTER TABLE workflow ADD COLUMN deleted_at timestamptz, DROP CONSTRAINT workflow_tenant_id_name_key;
CREATE UNIQUE INDEX workflow_name ON workflow (tenant_id, name) WHERE deleted_at IS NULL;

CREATE TYPE deleted_workflow AS (workflow_id uuid, tenant_id uuid, deleted_at timestamptz);

-- Part of a flush, beside commit_batch and after it.
--   BX003  a tenant does not have such a workflow; DETAIL has the ids
CREATE FUNCTION commit_workflow_deletions(p_deleted deleted_workflow[]) RETURNS void
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
    IF cardinality(p_deleted) = 0 THEN
        RETURN;
    END IF;
    WITH gone AS (
        UPDATE workflow AS w SET deleted_at = coalesce(w.deleted_at, d.deleted_at)
        FROM unnest(p_deleted) AS d
        WHERE w.id = ANY (ARRAY[d.workflow_id]) AND w.tenant_id IS NOT DISTINCT FROM d.tenant_id
        RETURNING w.id
    )
    SELECT string_agg(d.workflow_id::text, ',') INTO v_ids
    FROM unnest(p_deleted) AS d WHERE d.workflow_id NOT IN (SELECT gone.id FROM gone);
    IF v_ids IS NOT NULL THEN
        RAISE EXCEPTION 'a workflow to delete is not one of the tenant' USING ERRCODE = 'BX003', DETAIL = v_ids;
    END IF;
    DELETE FROM filter AS f USING unnest(p_deleted) AS d WHERE f.workflow_id = ANY (ARRAY[d.workflow_id]);
END
$$;
