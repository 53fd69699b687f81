"""The named queries: each fits the schema, and each has one caller."""

import re
from pathlib import Path

import asyncpg
import pytest

import broadaxe_storage
from broadaxe_storage.queries import load

SOURCES = Path(broadaxe_storage.__file__).parent
CALL = re.compile(r"""(?:query|fetch|fetchval)\(\s*["']([a-z_]+)["']""")
# Read by both halves of a conversation about the same rows.
SHARED = {
    "fetch_tenant",
    "insert_tenant",
    "fetch_tenant_by_slug",
    "fetch_user_by_email",
    "load_migration_version",
}


async def test_every_query_fits_the_schema(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(load()["create_migration_table"])
        for name, text in load().items():
            try:
                await connection.prepare(text)
            except asyncpg.PostgresError as error:
                pytest.fail(f"{name}: {error}")
    finally:
        await connection.close()


def test_every_query_has_one_caller() -> None:
    calls = [name for file in SOURCES.glob("*.py") for name in CALL.findall(file.read_text("utf-8"))]
    assert set(calls) == set(load())
    assert {name for name in calls if calls.count(name) > 1} == SHARED


async def test_paging_uses_its_indexes(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        # The planner must not choose by the size of an empty table.
        await connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
        for name, arguments, index in (
            ("page_spilled", "'{0}', 'q', 1, 0, 10", "task_run_spilled"),
            ("load_expired_spilled", "'{0}', now(), 10, '{{}}'", "task_run_spill_deadline"),
            ("load_live_task_runs", "NULL, '{0}', 10", "task_run_pkey"),
            ("fetch_live", "'{0}', '{{{0}}}'", "task_run_pkey task_run_of_run"),
            ("fetch_finished", "'{0}', '{{{0}}}'", "_id_idx run_id_idx"),
            (
                "select_live_runs",
                "'{0}', now(), NULL, NULL, NULL, NULL, NULL, 10",
                "task_run_list_runs task_run_of_run",
            ),
            (
                "select_finished_runs",
                "'{0}', now(), NULL, NULL, NULL, NULL, NULL, 10",
                "tenant_id_created_at_id_idx",
            ),
            ("fetch_webhook", "'{0}', 'x'", "webhook_pkey"),
            ("count_timers", "'{0}'", "cron_list scheduled_run_due"),
            (
                "count_usage",
                "'{0}', now(), now(), now(), 10, now()",
                "tenant_id_created_at_id_idx task_run_list_runs task_run_list_tasks",
            ),
            ("fetch_idempotency_keys", "'{0}', '{{k}}', now()", "idempotency_key_pkey"),
            ("page_timers", "'{0}', now(), '{0}', 10", "cron_due scheduled_run_due"),
            ("fetch_crons", "'{0}', '{{{0}}}', 10", "cron_pkey"),
            ("fetch_cron_by_name", "'{0}', '{0}', 'n', 'e'", "cron_name"),
            ("fetch_scheduled_runs", "'{0}', '{{{0}}}', 10", "scheduled_run_pkey"),
            ("list_crons", "'{0}', NULL, NULL, NULL, NULL, 10, 0", "cron_list"),
            ("list_crons_by_workflow", "'{0}', NULL, NULL, NULL, NULL, 10, 0", "cron_list_by_workflow"),
            (
                "list_scheduled_runs",
                "'{0}', NULL, NULL, NULL, NULL, NULL, false, false, 10, 0",
                "scheduled_run_list",
            ),
            (
                "list_scheduled_runs_by_creation",
                "'{0}', NULL, NULL, NULL, NULL, NULL, false, false, 10, 0",
                "scheduled_run_list_created",
            ),
            ("fetch_cron", "'{0}', '{0}'", "cron_pkey"),
            ("fetch_scheduled_run", "'{0}', '{0}'", "scheduled_run_pkey"),
            ("expire_scheduled_runs", "'{0}', now(), 10", "scheduled_run_fired"),
            ("fetch_rate_limits", "'{0}', '{{k}}'", "rate_limit_pkey"),
            ("list_limits_by_key", "'{0}', NULL, 10, 0", "rate_limit_list"),
            ("list_limits_by_key_descending", "'{0}', NULL, 10, 0", "rate_limit_list"),
            ("fetch_event", "'{0}', '{0}'", "_id_idx"),
            (
                "list_runs_of_events",
                "'{0}', '{{{0}}}', now()",
                "task_run_event triggering_event_id_idx task_run_of_run",
            ),
            ("list_event_keys", "'{0}', 10", "known_event_key_pkey"),
            ("fetch_filter", "'{0}', '{0}'", "filter_pkey"),
            ("list_filters", "'{0}', NULL, NULL, 10, 0", "filter_list"),
            ("purge_idempotency_keys", "now(), 10", "idempotency_key_expires"),
            (
                "find_owner",
                "'{0}', '{{{0}}}'",
                "task_run_pkey _id_idx worker_pkey workflow_pkey api_token_pkey",
            ),
            ("list_tokens", "'{0}', 10", "api_token_live"),
            ("fetch_session_user", "'\\x00', now()", "user_session_pkey app_user_pkey"),
            ("list_invites_of", "'a', now(), 10", "tenant_invite_email tenant_pkey"),
            ("list_members", "'{0}', 10", "tenant_member_pkey app_user_pkey"),
            ("fetch_children", "'{0}', '{0}'", "task_run_parent"),
            ("list_tasks_of", "'{0}', '{{{0}}}', false", "task_run_of_run run_id_idx"),
            ("fetch_rows", "'{0}', '{{{0}}}'", "task_run_pkey task_run_of_run _id_idx run_id_idx"),
            ("list_children", "'{0}', '{{{0}}}', 10", "task_run_parent parent_task_run_id_idx"),
            ("count_children", "'{0}', '{0}'", "task_run_parent parent_task_run_id_idx"),
            ("fetch_timeline", "'{0}', '{{{0}}}'", "task_run_pkey _id_idx task_run_id_idx"),
        ):
            await connection.execute(f"PREPARE {name} AS {load()[name]}")
            values = arguments.format("00000000-0000-7000-8000-000000000000")
            plan = await connection.fetch(f"EXPLAIN EXECUTE {name} ({values})")
            text = "\n".join(row[0] for row in plan)
            assert all(part in text for part in index.split()), f"{name}:\n{text}"
    finally:
        await connection.close()
