"""Task stats, queue metrics and a tenant's metrics over REST."""

import pytest

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import ActionStats, GetStats, GroupStats, StateStats, TenantStats
from broadaxe_actors.telemetry import Gauges, WorkerSlots
from tests.gateway.rest.fakes import NOW, NOW_TEXT, OTHER_TENANT, TENANT
from tests.gateway.test_http import series_of

STATS = f"/api/v1/tenants/{TENANT}/task-stats"
QUEUES = f"/api/v1/tenants/{TENANT}/step-run-queue-metrics"
METRICS = f"/api/v1/tenants/{TENANT}/prometheus-metrics"
NOTHING = StateStats(0, None, None)
USERS = GroupStats("input.user", "GROUP_ROUND_ROBIN", (("ann", 2), ("bob", 1)))
BUSY = ActionStats(
    "orders:ship",
    "orders",
    "ship",
    StateStats(5, NOW, NOW + 1_000_000, (USERS,)),
    StateStats(2, NOW, None, (GroupStats("input.user", "GROUP_ROUND_ROBIN", (("ann", 1), ("", 1))),)),
)


async def test_task_stats_tell_what_waits_and_runs_by_task(rest):
    rest.engine.stats = TenantStats((BUSY,))
    assert await rest.get_json(STATS) == {
        "ship": {
            "queued": {
                "total": 5,
                "queues": {"orders:ship": 2},
                "concurrency": [
                    {"expression": "input.user", "type": "GROUP_ROUND_ROBIN", "keys": {"ann": 2, "bob": 1}}
                ],
                "oldest": NOW_TEXT,
                "oldestExcludingRetries": "2026-01-02T03:04:06.123456Z",
            },
            "running": {
                "total": 2,
                "concurrency": [
                    {"expression": "input.user", "type": "GROUP_ROUND_ROBIN", "keys": {"ann": 1}}
                ],
                "oldest": NOW_TEXT,
            },
        }
    }
    assert rest.engine.asked == [(GetStats, TENANT)]


async def test_tasks_of_one_name_add_up(rest):
    other = ActionStats("b:ship", "b", "ship", StateStats(1, NOW - 1_000_000, None), NOTHING)
    rest.engine.stats = TenantStats((BUSY, other))
    found = (await rest.get_json(STATS))["ship"]
    assert found["queued"]["total"] == 6
    assert found["queued"]["queues"] == {"orders:ship": 2, "b:ship": 1}
    assert found["queued"]["oldest"] == "2026-01-02T03:04:04.123456Z"
    assert found["running"]["total"] == 2


@pytest.mark.parametrize("asked", [["pack,send"], ["pack", "send"], ["pack,,send", "ship"]])
async def test_tasks_that_are_asked_for_are_there_even_if_idle(rest, asked):
    rest.engine.stats = TenantStats((BUSY,))
    found = await rest.get_json(STATS, taskNames=asked)
    assert set(found) == {"ship", "pack", "send"}
    assert found["pack"] == {"queued": {"total": 0}, "running": {"total": 0}}
    assert found["ship"]["queued"]["total"] == 5


async def test_an_idle_tenant_has_no_stats(rest):
    assert await rest.get_json(STATS) == {}
    assert await rest.get_json(QUEUES) == {"queues": {}}


async def test_strategy_none_and_the_empty_key_are_left_out(rest):
    groups = (GroupStats("'a'", "NONE", (("a", 1),)),)
    item = ActionStats("a:b", "a", "b", StateStats(1, NOW, NOW, groups), NOTHING)
    rest.engine.stats = TenantStats((item,))
    assert "concurrency" not in (await rest.get_json(STATS))["b"]["queued"]


async def test_queue_metrics_tell_queues_and_who_waits_for_a_place(rest):
    other = ActionStats("orders:pack", "orders", "pack", StateStats(1, NOW, NOW, (USERS,)), NOTHING)
    rest.engine.stats = TenantStats((BUSY, other))
    assert await rest.get_json(QUEUES) == {
        "queues": {"orders:ship": 2, "orders/GROUP_ROUND_ROBIN": {"ann": 4, "bob": 2}}
    }


async def test_the_metrics_of_a_tenant_are_its_own_alone(rest):
    telemetry = rest.telemetry
    for tenant in (TENANT, OTHER_TENANT):
        telemetry.count("created_tasks", tenant)
        telemetry.observe_queue(tenant, "w", 0.1)
        telemetry.observe_duration(tenant, "w", "COMPLETED", 7.0)
        telemetry.gauges[tenant] = Gauges(workers=(WorkerSlots("1", "one", 2, 1),))
    answer = await rest.get(METRICS)
    assert answer.headers["content-type"].startswith("text/plain")
    assert OTHER_TENANT not in answer.text
    series = series_of(answer.text)
    assert all("tenant_id=" in name and name.startswith("hatchet_tenant_") for name in series)
    assert series[f'hatchet_tenant_created_tasks_total{{tenant_id="{TENANT}"}}'] == 1
    worker = f'tenant_id="{TENANT}",worker_id="1",worker_name="one"'
    assert series[f"hatchet_tenant_available_worker_slots{{{worker}}}"] == 1
    assert rest.refreshed == [TENANT]


@pytest.mark.parametrize("path", [STATS, QUEUES, METRICS])
async def test_stats_of_another_tenant_are_forbidden(rest, path):
    answer = await rest.client.get(path, headers={"Authorization": "Bearer foreign"})
    assert answer.status_code == 403


async def test_stats_wait_for_a_tenant_that_is_being_restored(rest):
    rest.engine.refusal = Refused(Code.UNAVAILABLE, "restoring: try again")
    assert (await rest.get(STATS)).status_code == 503
