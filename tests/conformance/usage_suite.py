"""What every store tells of what a tenant has made: events and task runs of a time, live and ended, up to a limit."""

from broadaxe_storage.records import TaskRunState
from tests.conformance.store_suite import Store, Writer
from tests.factories import (
    TENANT,
    make_cron,
    make_event,
    make_finish,
    make_member,
    make_run,
    make_run_finish,
    make_scheduled_run,
    make_settle,
    make_task_run,
    new_id,
    now_us,
)

__all__ = ["test_timers_of_a_tenant_are_counted", "test_what_a_tenant_has_made_is_counted"]


async def test_timers_of_a_tenant_are_counted(writer: Writer, store: Store) -> None:
    other = new_id()
    await writer.commit(
        crons=[make_cron(), make_cron(is_enabled=False, next_at=None), make_cron(tenant_id=other)],
        scheduled_runs=[
            make_scheduled_run(),
            make_scheduled_run(fired_at=now_us(), run_id=new_id()),
            make_scheduled_run(tenant_id=other),
            make_scheduled_run(tenant_id=other),
        ],
    )
    assert await store.count_timers(TENANT) == (2, 1)
    assert await store.count_timers(other) == (1, 2)
    assert await store.count_timers(new_id()) == (0, 0)


async def test_what_a_tenant_has_made_is_counted(writer: Writer, store: Store) -> None:
    now = now_us()
    times = [now - 10_000_000 * number for number in range(6)]
    singles = [make_task_run(created_at=at) for at in times]
    runs = [make_run(created_at=at) for at in times[:2]]
    members = [make_member(run, created_at=run.created_at) for run in runs for _ in range(2)]
    foreign = make_task_run(created_at=now, tenant_id=new_id())
    await writer.commit(created=[*singles, *runs, *members, foreign])
    await writer.commit(events=[make_event(created_at=at) for at in times[:3]])
    await writer.commit(events=[make_event(created_at=now, tenant_id=foreign.tenant_id)])
    await writer.commit(finished=[make_finish(singles[1])], settled=[make_settle(row) for row in members[2:]])
    await writer.commit(ended=[make_run_finish(runs[1], 2, state=TaskRunState.COMPLETED)])
    until = now + 1

    async def count(events_since: int, runs_since: int, most: int = 100) -> tuple[int, int]:
        return await store.count_usage(TENANT, events_since, runs_since, until, most)

    assert await count(0, 0) == (3, 10)
    assert await count(times[1], times[3]) == (2, 8)
    assert await count(until, until) == (0, 0)
    assert await count(0, 0, most=2) == (2, 2)
    assert await store.count_usage(TENANT, 0, 0, times[2], 100) == (0, 3)
