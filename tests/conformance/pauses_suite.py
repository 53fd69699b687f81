"""What every store must do with paused workflows. Taken by test modules beside `store_suite`."""

import pytest

from broadaxe_storage.errors import RefusedRecords
from tests.conformance.store_suite import Writer
from tests.factories import TENANT, make_pause, make_task_run, make_version, new_id, now_us


async def test_pauses_are_read_back_as_they_were_put_last(writer: Writer) -> None:
    version, other = make_version(), make_version(tenant_id=new_id())
    await writer.commit(workflow_versions=[version, other])
    assert await writer.store.load_workflow_pauses() == []
    foreign = make_pause(other.workflow_id, tenant_id=other.tenant_id)
    await writer.commit(pauses=[make_pause(version.workflow_id), foreign])
    again = make_pause(version.workflow_id, queue_ttl=7, cron_behavior="DROP", scheduled_behavior="DROP")
    await writer.commit(pauses=[again])
    assert await writer.store.load_workflow_pauses(TENANT) == [again]
    assert await writer.store.load_workflow_pauses() == sorted([again, foreign])
    over = again._replace(paused_at=None, unpaused_at=now_us())
    await writer.commit(pauses=[over])
    assert await writer.store.load_workflow_pauses(TENANT) == [over]


@pytest.mark.parametrize("created", [0, 300])
async def test_a_workflow_may_be_paused_in_the_flush_that_registers_it(writer: Writer, created: int) -> None:
    version = make_version()
    pause = make_pause(version.workflow_id)
    await writer.commit(
        workflow_versions=[version], pauses=[pause], created=[make_task_run() for _ in range(created)]
    )
    assert await writer.store.load_workflow_pauses(TENANT) == [pause]


async def test_a_pause_of_an_unknown_or_foreign_workflow_is_refused_whole(writer: Writer) -> None:
    version = make_version()
    await writer.commit(workflow_versions=[version])
    row = make_task_run()
    for wrong in (make_pause(new_id()), make_pause(version.workflow_id, tenant_id=new_id())):
        with pytest.raises(RefusedRecords) as refused:
            await writer.commit(created=[row], pauses=[wrong])
        assert refused.value.ids == (wrong.workflow_id,)
    assert await writer.store.load_live_task_runs(None, None, 10) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"queue_ttl": None},
        {"queue_ttl": 0},
        {"cron_behavior": None},
        {"cron_behavior": "WAIT"},
        {"scheduled_behavior": "drop"},
        {"paused_at": "now"},
    ],
)
async def test_an_impossible_pause_is_refused(writer: Writer, fields: dict[str, object]) -> None:
    version = make_version()
    await writer.commit(workflow_versions=[version])
    with pytest.raises(RefusedRecords):
        await writer.commit(pauses=[make_pause(version.workflow_id, **fields)])
    assert await writer.store.load_workflow_pauses() == []


async def test_what_has_expired_is_read_without_some_workflows(writer: Writer) -> None:
    now = now_us()
    workflows = [new_id() for _ in range(3)]
    rows = [
        make_task_run(spill_queue="q", schedule_deadline=now - n, workflow_id=workflows[n % 3])
        for n in range(9)
    ]
    later = make_task_run(spill_queue="q", schedule_deadline=now + 5, workflow_id=workflows[0])
    await writer.commit(created=[*rows, later])
    read = writer.store.load_expired_spilled
    assert await read(TENANT, now, 10) == rows[::-1]
    assert await read(TENANT, now, 10, [workflows[1]]) == [row for row in rows[::-1] if row not in rows[1::3]]
    assert await read(TENANT, now, 2, workflows[:2]) == rows[8:4:-3]
    assert await read(TENANT, now, 10, workflows) == []
    assert await read(new_id(), now, 10) == []
