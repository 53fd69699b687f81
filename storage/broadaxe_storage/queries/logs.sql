-- Log lines, by the time that the worker gave them. Columns are in the order of `LogRow`.

-- part: wanted_lines
-- $1 tenant; each null for all: $2 task runs (a run of several stands for its tasks), $3 after and $4 before these times, $5 text in the
-- message in any case of letters, $6 levels, $7 attempt, $8 workflows, $9 and $10 versions and step indexes of tasks.
-- Messages are UTF-8; one with U+0000, which no text holds, is searched with its other bytes escaped. convert_from would hand on the
-- collation of the encoding's name, by which only ASCII letters have cases. The look-up of a task is no EXISTS, which the planner
-- might answer by reading all of them.
l.tenant_id = $1
    AND (
        $2::uuid[] IS NULL
        OR l.task_run_id = ANY (ARRAY(
            SELECT unnest($2::uuid[])
            UNION ALL
            SELECT s.id FROM run_summary AS s WHERE s.run_id = ANY ($2::uuid[]) AND s.id <> s.run_id
        ))
    )
    AND ($3::timestamptz IS NULL OR l.created_at > $3)
    AND ($4::timestamptz IS NULL OR l.created_at < $4)
    AND (
        $5::text IS NULL
        OR strpos(
            lower(
                CASE
                    WHEN position('\x00'::bytea IN l.message) > 0 THEN encode(l.message, 'escape')
                    ELSE convert_from(l.message, 'UTF8') COLLATE "default"
                END
            ),
            lower($5)
        ) > 0
    )
    AND ($6::text[] IS NULL OR l.level = ANY ($6))
    AND ($7::integer IS NULL OR l.attempt = $7)
    AND (
        ($8::uuid[] IS NULL AND $9::uuid[] IS NULL)
        OR (
            SELECT ($8::uuid[] IS NULL OR s.workflow_id = ANY ($8)) AND (
                $9::uuid[] IS NULL
                OR (s.workflow_version_id, s.step_index) IN (
                    SELECT w.version_id, w.step_index FROM unnest($9::uuid[], $10::smallint[]) AS w (version_id, step_index)
                )
            )
            FROM run_summary AS s WHERE s.id = l.task_run_id LIMIT 1
        )
    );

-- name: list_logs
-- Lines of a tenant in the order of their times. Planned for each call, as the listings of runs. $11 backwards, $12 rows.
SELECT l.tenant_id::text, l.task_run_id::text, l.attempt, l.created_at, l.level, l.metadata, l.message
FROM log_line AS l
WHERE -- include: wanted_lines
ORDER BY
    CASE WHEN $11 THEN l.created_at END DESC, CASE WHEN $11 THEN l.number END DESC, l.created_at, l.number
LIMIT $12;

-- name: count_logs
-- How many there are of each level, by stretches of time. $11 seconds of a stretch.
SELECT date_bin(make_interval(secs => $11), l.created_at, 'epoch'), l.level, count(*)
FROM log_line AS l
WHERE -- include: wanted_lines
    AND l.level IS NOT NULL
GROUP BY 1, 2;
