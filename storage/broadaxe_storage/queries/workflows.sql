-- Workflow versions and workers. Columns are in the order of `WorkflowVersionRow`, `WorkflowPause` and
-- `WorkerRow`.

-- name: load_latest_versions
-- The newest version of each workflow that is not deleted, and others that a live task run names. $1 tenant or null for all.
SELECT v.id::text, v.workflow_id::text, v.tenant_id::text, w.name, v.number, v.checksum, v.definition, v.created_at
FROM workflow_version AS v JOIN workflow AS w ON w.id = v.workflow_id
WHERE ($1::uuid IS NULL OR v.tenant_id = $1)
    AND (
        (
            w.deleted_at IS NULL
            AND v.number = (SELECT max(n.number) FROM workflow_version AS n WHERE n.workflow_id = v.workflow_id)
        )
        OR v.id IN (SELECT workflow_version_id FROM task_run)
    )
ORDER BY v.tenant_id, w.name, v.number;

-- name: fetch_version
-- One version. $1 tenant, $2 version.
SELECT v.id::text, v.workflow_id::text, v.tenant_id::text, w.name, v.number, v.checksum, v.definition, v.created_at
FROM workflow_version AS v JOIN workflow AS w ON w.id = v.workflow_id
WHERE v.id = $2 AND v.tenant_id = $1;

-- name: load_deleted_workflows
-- Deleted workflows of which a live task run is. $1 tenant or null for all.
SELECT w.id::text
FROM workflow AS w
WHERE ($1::uuid IS NULL OR w.tenant_id = $1) AND w.deleted_at IS NOT NULL
    AND w.id IN (SELECT t.workflow_id FROM task_run AS t)
ORDER BY w.id;

-- name: load_workflow_pauses
-- Workflows that are paused, or were once. $1 tenant or null for all.
SELECT id::text, tenant_id::text, paused_at, unpaused_at, pause_queue_ttl, pause_cron_behavior, pause_scheduled_behavior
FROM workflow
WHERE ($1::uuid IS NULL OR tenant_id = $1) AND pause_queue_ttl IS NOT NULL
ORDER BY id;

-- name: fetch_workflow_pauses
-- Likewise, of these. $1 tenant, $2 workflows.
SELECT id::text, tenant_id::text, paused_at, unpaused_at, pause_queue_ttl, pause_cron_behavior, pause_scheduled_behavior
FROM workflow
WHERE id = ANY ($2::uuid[]) AND tenant_id = $1 AND pause_queue_ttl IS NOT NULL;

-- name: load_workers
-- Workers that may come back: not stopped, and changed since $2 or holding a task run. $1 tenant or null for all.
SELECT id::text, tenant_id::text, name, actions, slot_config, labels, runtime_info, is_batched, is_paused, status,
    created_at, updated_at
FROM worker
WHERE ($1::uuid IS NULL OR tenant_id = $1)
    AND (
        (status <> 2 AND updated_at >= $2)
        OR id IN (SELECT worker_id FROM task_run WHERE worker_id IS NOT NULL AND state < 6)
    )
ORDER BY created_at, id;

-- name: list_workflows
-- A page of workflows by name, each as its newest version. $1 tenant, $2 text in the name in any case of letters or null for all,
-- $3 rows, $4 rows before them.
SELECT v.id::text, v.workflow_id::text, v.tenant_id::text, w.name, v.number, v.checksum, v.definition, v.created_at
FROM workflow AS w
CROSS JOIN LATERAL (
    SELECT * FROM workflow_version AS n WHERE n.workflow_id = w.id ORDER BY n.number DESC LIMIT 1
) AS v
WHERE w.tenant_id = $1 AND w.deleted_at IS NULL AND ($2::text IS NULL OR strpos(lower(w.name), lower($2)) > 0)
ORDER BY w.name
LIMIT $3 OFFSET $4;

-- name: count_workflows
-- $1 tenant, $2 text in the name in any case of letters or null for all.
SELECT count(*) FROM workflow
WHERE tenant_id = $1 AND deleted_at IS NULL AND ($2::text IS NULL OR strpos(lower(name), lower($2)) > 0);

-- name: fetch_workflow
-- A workflow that is not deleted, as its newest version. $1 tenant, $2 workflow.
SELECT v.id::text, v.workflow_id::text, v.tenant_id::text, w.name, v.number, v.checksum, v.definition, v.created_at
FROM workflow AS w JOIN workflow_version AS v ON v.workflow_id = w.id
WHERE w.id = $2 AND w.tenant_id = $1 AND w.deleted_at IS NULL
ORDER BY v.number DESC
LIMIT 1;

-- name: list_workers
-- Workers that are active, or have changed since; newest first. $1 tenant, $2 since.
SELECT id::text, tenant_id::text, name, actions, slot_config, labels, runtime_info, is_batched, is_paused, status,
    created_at, updated_at
FROM worker
WHERE tenant_id = $1 AND (status = 0 OR updated_at >= $2)
ORDER BY created_at DESC, id DESC;

-- name: fetch_worker
-- $1 tenant, $2 worker.
SELECT id::text, tenant_id::text, name, actions, slot_config, labels, runtime_info, is_batched, is_paused, status,
    created_at, updated_at
FROM worker
WHERE id = $2 AND tenant_id = $1;
