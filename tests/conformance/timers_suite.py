"""What every store must do with crons and scheduled runs. Taken by test modules beside `store_suite`."""

from typing import Any

import pytest

from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.records_timers import CronChange, ScheduledRunChange, Timer, TimerDrop, TimerKind
from tests.conformance.store_suite import Writer
from tests.factories import (
    TENANT,
    make_cron,
    make_cron_change,
    make_scheduled_run,
    make_scheduled_run_change,
    make_task_run,
    new_id,
    now_us,
)

MUCH = 1 << 40
SECOND = 1_000_000


async def test_timers_are_read_back_as_they_were_written(writer: Writer) -> None:
    plain, full = (
        make_cron(),
        make_cron(
            is_declared=True, name="", priority=3, last_tick_at=now_us(), error="why", metadata='{"a": 1}'
        ),
    )
    scheduled = make_scheduled_run(parent_run_id=new_id(), parent_task_run_id=new_id(), priority=2)
    fired = make_scheduled_run(fired_at=now_us(), run_id=new_id())
    await writer.commit(crons=[plain, full], scheduled_runs=[scheduled, fired])
    store = writer.store
    assert await store.fetch_crons(TENANT, [full.id, new_id(), plain.id], MUCH) == [full, plain]
    assert await store.fetch_scheduled_runs(TENANT, [fired.id, scheduled.id], MUCH) == [fired, scheduled]
    assert await store.fetch_crons(new_id(), [plain.id], MUCH) == []
    assert await store.fetch_scheduled_runs(new_id(), [fired.id], MUCH) == []


async def test_inputs_that_would_take_too_much_room_stay_away(writer: Writer) -> None:
    crons = [make_cron(input=b"x" * 100) for _ in range(4)]
    scheduled = [make_scheduled_run(input=b"x" * 100) for _ in range(4)]
    await writer.commit(crons=crons, scheduled_runs=scheduled)
    for rows, read in (
        (crons, writer.store.fetch_crons),
        (scheduled, writer.store.fetch_scheduled_runs),
    ):
        ids = [row.id for row in rows]
        assert [row.input is None for row in await read(TENANT, ids, 250)] == [False, False, True, True]
        # One of any size comes, or it would never fire.
        assert [row.input is None for row in await read(TENANT, ids, 1)] == [False, True, True, True]


async def test_pages_bring_what_is_due_next_of_both_kinds(writer: Writer) -> None:
    now = now_us()
    crons = [make_cron(next_at=now + n * SECOND) for n in (5, 1, 3)]
    scheduled = [make_scheduled_run(trigger_at=now + n * SECOND) for n in (2, 3, -9)]
    silent = [
        make_cron(is_enabled=False, next_at=None),
        make_cron(next_at=None),
        make_cron(tenant_id=new_id()),
    ]
    over = [
        make_scheduled_run(fired_at=now, error="no"),
        make_scheduled_run(tenant_id=new_id()),
    ]
    await writer.commit(crons=[*crons, *silent], scheduled_runs=[*scheduled, *over])
    wanted = sorted(
        [Timer(row.next_at or 0, row.id, TimerKind.CRON) for row in crons]
        + [Timer(row.trigger_at, row.id, TimerKind.SCHEDULED) for row in scheduled]
    )
    page = writer.store.page_timers
    assert await page(TENANT, None, 10) == wanted
    assert await page(TENANT, None, 4) == wanted[:4]
    assert await page(TENANT, wanted[3][:2], 10) == wanted[4:]
    assert await page(TENANT, wanted[-1][:2], 10) == []


async def test_a_declared_cron_that_stays_keeps_its_state(writer: Writer) -> None:
    cron = make_cron(is_declared=True, name="")
    await writer.commit(crons=[cron])
    off = make_cron_change(cron, is_enabled=False, next_at=None)
    await writer.commit(cron_changes=[off])
    again = cron._replace(input=b'{"n": 2}', next_at=now_us(), created_at=now_us(), updated_at=now_us())
    await writer.commit(crons=[again])
    (found,) = await writer.store.fetch_crons(TENANT, [cron.id], MUCH)
    assert found == cron._replace(
        input=again.input, updated_at=again.updated_at, is_enabled=False, next_at=None
    )


@pytest.mark.parametrize("fields", [{"is_declared": False}, {"tenant_id": new_id()}])
async def test_a_cron_of_the_api_or_of_another_tenant_is_not_replaced(
    writer: Writer, fields: dict[str, Any]
) -> None:
    cron = make_cron(is_declared=True, name="")
    await writer.commit(crons=[cron])
    with pytest.raises(RefusedRecords):
        await writer.commit(crons=[cron._replace(**fields, input=b"other")])
    assert await writer.store.fetch_crons(TENANT, [cron.id], MUCH) == [cron]


async def test_a_workflow_has_a_cron_of_one_name_and_expression_once(writer: Writer) -> None:
    cron = make_cron()
    await writer.commit(crons=[cron])
    row = make_task_run()
    with pytest.raises(RefusedRecords):
        await writer.commit(crons=[cron._replace(id=new_id())], created=[row])
    assert await writer.store.fetch_live(TENANT, [row.id]) == []
    await writer.commit(
        crons=[
            cron._replace(id=new_id(), name="other"),
            cron._replace(id=new_id(), expression="1 1 1 1 1"),
            cron._replace(id=new_id(), workflow_id=new_id()),
        ]
    )
    find = writer.store.fetch_cron_by_name
    assert await find(TENANT, cron.workflow_id, cron.name, cron.expression) == cron.id
    assert await find(TENANT, cron.workflow_id, "none", cron.expression) is None
    assert await find(new_id(), cron.workflow_id, cron.name, cron.expression) is None


async def test_a_tick_fires_once_and_with_its_run_or_not_at_all(writer: Writer) -> None:
    cron = make_cron()
    await writer.commit(crons=[cron])
    tick = cron.next_at or 0
    change = make_cron_change(cron, tick_at=tick, next_at=tick + 60 * SECOND)
    await writer.commit(created=[make_task_run()], cron_changes=[change])
    for wrong in (
        change,
        change._replace(tick_at=tick - 1),
        change._replace(tenant_id=new_id(), tick_at=None),
    ):
        row = make_task_run()
        with pytest.raises(RefusedRecords) as refused:
            await writer.commit(created=[row], cron_changes=[wrong])
        assert refused.value.ids == (cron.id,)
        assert await writer.store.fetch_live(TENANT, [row.id]) == []
    (found,) = await writer.store.fetch_crons(TENANT, [cron.id], MUCH)
    assert (found.last_tick_at, found.next_at) == (tick, tick + 60 * SECOND)
    await writer.commit(cron_changes=[change._replace(tick_at=None, next_at=None, is_enabled=False)])
    (found,) = await writer.store.fetch_crons(TENANT, [cron.id], MUCH)
    assert (found.last_tick_at, found.next_at, found.is_enabled) == (tick, None, False)


async def test_a_scheduled_run_fires_once_and_with_its_run_or_not_at_all(writer: Writer) -> None:
    scheduled = make_scheduled_run()
    await writer.commit(scheduled_runs=[scheduled])
    moved = make_scheduled_run_change(scheduled, trigger_at=scheduled.trigger_at + SECOND)
    await writer.commit(scheduled_changes=[moved])
    run = make_task_run()
    fired = moved._replace(fired_at=now_us(), run_id=run.id)
    await writer.commit(created=[run], scheduled_changes=[fired])
    for wrong in (fired, moved, fired._replace(id=new_id()), fired._replace(tenant_id=new_id())):
        row = make_task_run()
        with pytest.raises(RefusedRecords) as refused:
            await writer.commit(created=[row], scheduled_changes=[wrong])
        assert refused.value.ids == (wrong.id,)
        assert await writer.store.fetch_live(TENANT, [row.id]) == []
    (found,) = await writer.store.fetch_scheduled_runs(TENANT, [scheduled.id], MUCH)
    assert (found.run_id, found.fired_at, found.trigger_at) == (run.id, fired.fired_at, moved.trigger_at)
    assert await writer.store.page_timers(TENANT, None, 10) == []


async def test_dropped_timers_are_gone_and_unknown_ones_are_passed_over(writer: Writer) -> None:
    cron, scheduled = make_cron(), make_scheduled_run()
    await writer.commit(crons=[cron], scheduled_runs=[scheduled])
    foreign = [TimerDrop(row.id, new_id()) for row in (cron, scheduled)]
    await writer.commit(dropped_timers=[*foreign, TimerDrop(new_id(), TENANT)])
    assert len(await writer.store.page_timers(TENANT, None, 10)) == 2
    await writer.commit(dropped_timers=[TimerDrop(row.id, TENANT) for row in (cron, scheduled)])
    assert await writer.store.page_timers(TENANT, None, 10) == []
    assert await writer.store.fetch_crons(TENANT, [cron.id], MUCH) == []
    assert await writer.store.fetch_scheduled_runs(TENANT, [scheduled.id], MUCH) == []


@pytest.mark.parametrize("created", [0, 300])
async def test_timers_travel_with_any_flush(writer: Writer, created: int) -> None:
    cron = make_cron()
    await writer.commit(crons=[cron], created=[make_task_run() for _ in range(created)])
    assert await writer.store.fetch_crons(TENANT, [cron.id], MUCH) == [cron]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "x" * 256},
        {"expression": "x" * 256},
        {"priority": 4},
        {"priority": 0},
        {"is_enabled": False},
        {"input": None},
        {"metadata": "{"},
        {"name": "a\0b"},
    ],
)
async def test_an_impossible_cron_is_refused(writer: Writer, fields: dict[str, Any]) -> None:
    with pytest.raises(RefusedRecords):
        await writer.commit(crons=[make_cron(**fields)])
    assert await writer.store.page_timers(TENANT, None, 10) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": 4},
        {"run_id": new_id()},
        {"error": "no"},
        {"fired_at": 1},
        {"fired_at": 1, "run_id": new_id(), "error": "no"},
        {"input": None},
    ],
)
async def test_an_impossible_scheduled_run_is_refused(writer: Writer, fields: dict[str, Any]) -> None:
    with pytest.raises(RefusedRecords):
        await writer.commit(scheduled_runs=[make_scheduled_run(**fields)])
    assert await writer.store.page_timers(TENANT, None, 10) == []


async def test_an_impossible_change_is_refused(writer: Writer) -> None:
    cron, scheduled = make_cron(), make_scheduled_run()
    await writer.commit(crons=[cron], scheduled_runs=[scheduled])
    wrong_cron: CronChange = make_cron_change(cron, is_enabled=False)
    wrong_run: ScheduledRunChange = make_scheduled_run_change(scheduled, fired_at=1)
    for batch in ({"cron_changes": [wrong_cron]}, {"scheduled_changes": [wrong_run]}):
        with pytest.raises(RefusedRecords):
            await writer.commit(**batch)
    assert await writer.store.fetch_crons(TENANT, [cron.id], MUCH) == [cron]
    assert await writer.store.fetch_scheduled_runs(TENANT, [scheduled.id], MUCH) == [scheduled]
