-- The write path, and who may write.

-- name: commit_batch
-- Write one flush; see the function. $1 epoch, $2 flush, $3 logical shards, then one array of rows a kind:
-- $4 created, $5 updated, $6 finished, $7 task events, $8 workers, $9 workflow versions, $10 events, $11 log lines, $12 settled,
-- $13 ended, $14 revived, $15 claimed keys, $16 released keys.
SELECT commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);

-- name: commit_batch_with_flow
-- The same, for a flush with events or with records that have functions of their own. $1 to $16 as above, $17 rate limits,
-- $18 dropped rate limits, $19 workflow pauses, $20 event keys, $21 workflows whose declared filters go, $22 dropped filters, $23 filters,
-- $24 crons, $25 their changes, $26 scheduled runs, $27 their changes, $28 dropped timers, $29 deleted
-- workflows.
SELECT commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, '{}', $11, $12, $13, $14, $15, $16), commit_rate_limits($17, $18),
    commit_workflow_pauses($19), commit_events($10, $20), commit_filters($21, $22, $23),
    commit_timers($24, $25, $26, $27, $28), commit_workflow_deletions($29);

-- name: raise_epochs
-- Take all logical shards over: one epoch above the highest, on each. Flushes are counted anew, or an old number could pass for ours.
UPDATE shard SET epoch = (SELECT max(epoch) + 1 FROM shard), flush = 0 RETURNING epoch;

-- name: read_flush
-- Epoch and last flush of a logical shard, once no flush of it is in progress. $1 logical shard.
SELECT epoch, flush FROM shard WHERE id = $1 FOR UPDATE;

-- name: end_backend
-- End what a lost connection may still be executing, and wait up to 5 s for it. $1 application name of that connection.
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid();

-- name: take_lock
-- Wait for the lock of the shards' owner, held by this session. $1 lock class, $2 lock number.
SELECT pg_advisory_lock($1::integer, $2::integer);

-- name: bound_lock_wait
-- How long this session waits for a lock. $1 milliseconds, as text.
SELECT set_config('lock_timeout', $1, false);

-- name: describe_lock_holder
-- Who holds the lock. $1 lock class, $2 lock number.
SELECT coalesce(a.application_name, '') AS name, coalesce(a.client_addr::text, 'this machine') AS address, l.pid AS pid
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.classid = $1::integer::oid AND l.objid = $2::integer::oid AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- name: ensure_day_partition
-- Make a day's partition if missing. $1 table, $2 its time column, $3 the day.
SELECT ensure_day_partition($1, $2, $3);
