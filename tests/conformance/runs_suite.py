"""What every store must do with runs of several tasks. Taken by test modules beside `store_suite`."""

from collections.abc import Sequence
from typing import Any

import pytest

from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.records import (
    FinishedTaskRun,
    RunRevival,
    SpilledQueue,
    TaskRunRow,
    TaskRunSettle,
    TaskRunState,
    WorkerStatus,
)
from tests.conformance.store_suite import Writer
from tests.factories import (
    TENANT,
    make_finish,
    make_member,
    make_run,
    make_run_finish,
    make_settle,
    make_task_run,
    make_update,
    make_worker,
    new_id,
    now_us,
)

DAY_US = 86_400_000_000
BAD_MEMBERS: tuple[dict[str, Any], ...] = (
    {"state": TaskRunState.COMPLETED},
    {"finished_at": 1},
    {"state": TaskRunState.COMPLETED, "finished_at": 1, "error": b"x"},
    {"state": TaskRunState.FAILED, "finished_at": 1, "output": b"x"},
    {"output": b"x"},
    {"error": b"x"},
    {"state": TaskRunState.COMPLETED, "finished_at": 1, "spill_queue": "q"},
    {"state": 10, "finished_at": 1},
    {"spill_queue": ""},
    {"step_index": -1, "state": TaskRunState.WAITING},
    {"step_index": -2},
    {"waits": "a\x00b"},
    {"idempotency_key": "\ud800"},
    {"is_slot_released": None},
    {"batch_id": "b"},
)
BAD_RUNS: tuple[dict[str, Any], ...] = (
    {"state": TaskRunState.QUEUED},
    {"state": TaskRunState.COMPLETED, "finished_at": 1},
    {"spill_queue": "q"},
)


async def live_rows(writer: Writer, *ids: str) -> list[TaskRunRow]:
    return sorted(await writer.store.fetch_live(TENANT, ids))


async def finished_rows(writer: Writer, *ids: str) -> dict[str, FinishedTaskRun]:
    return {row.id: row for row in await writer.store.fetch_finished(TENANT, ids)}


async def end_run(
    writer: Writer, run: TaskRunRow, members: Sequence[TaskRunRow], **fields: Any
) -> tuple[TaskRunSettle, ...]:
    """Create, settle and end a run; what its tasks were settled with."""
    settled = tuple(make_settle(row) for row in members)
    await writer.commit(created=[run, *members])
    await writer.commit(settled=settled, ended=[make_run_finish(run, len(members), **fields)])
    return settled


# ---------------------------------------------------------------- rows of a live run


@pytest.mark.parametrize("count", [1, 150])
async def test_rows_of_a_run_are_read_back_as_written(writer: Writer, count: int) -> None:
    rows: list[TaskRunRow] = []
    for number in range(count):
        run = make_run(idempotency_key=f"key {number}", input=b"in", metadata='{"a": 1}')
        waiting = make_member(run, state=TaskRunState.WAITING, waits='{"for":["\u00fc"]}', step_index=1)
        released = make_member(run, state=TaskRunState.RUNNING, is_slot_released=True)
        ended = make_member(run, state=TaskRunState.COMPLETED, finished_at=now_us(), output=b"\x00")
        failed = make_member(run, state=TaskRunState.FAILED, finished_at=now_us(), error=b"\x00")
        batched = make_member(run, state=TaskRunState.ASSIGNED, batch_id=new_id())
        rows += [run, waiting, released, ended, failed, batched]
    await writer.commit(created=rows)
    assert await live_rows(writer, *(row.id for row in rows)) == sorted(rows)


@pytest.mark.parametrize("others", [0, 300])
async def test_impossible_rows_of_a_run_are_refused(writer: Writer, others: int) -> None:
    plain = [make_task_run() for _ in range(others)]
    run = make_run()
    wrong = [make_member(run)._replace(**fields) for fields in BAD_MEMBERS]
    wrong += [make_run()._replace(**fields) for fields in BAD_RUNS]
    for row in wrong:
        with pytest.raises(RefusedRecords):
            await writer.commit(created=[*plain, run, row])
        assert await writer.store.load_live_task_runs(None, None, 10) == [], row
    await writer.commit(created=[run, make_member(run)])


async def test_a_run_id_brings_all_rows_of_the_run(writer: Writer) -> None:
    run, other, single = make_run(), make_run(), make_task_run()
    members = [make_member(run), make_member(run, spill_queue="q")]
    await writer.commit(created=[run, *members, other, make_member(other), single])
    assert await live_rows(writer, run.id, members[0].id, single.id) == sorted([run, *members, single])
    assert await live_rows(writer, members[1].id) == [members[1]]
    assert await writer.store.fetch_live(new_id(), [run.id]) == []


async def test_an_update_sets_waits_and_the_released_slot(writer: Writer) -> None:
    run = make_run()
    row = make_member(run, waits="[1]", state=TaskRunState.WAITING)
    await writer.commit(created=[run, row])
    running = make_update(row, state=TaskRunState.RUNNING, is_slot_released=True)
    await writer.commit(updated=[running._replace(waits="[2]")])
    (found,) = await live_rows(writer, row.id)
    assert (found.waits, found.is_slot_released) == ("[2]", True)
    await writer.commit(updated=[running._replace(is_slot_released=False)])
    (found,) = await live_rows(writer, row.id)
    assert (found.waits, found.is_slot_released) == (None, False)


async def test_an_update_says_which_batch_a_task_run_is_in(writer: Writer) -> None:
    run = make_run()
    alone, member = make_task_run(), make_member(run)
    await writer.commit(created=[run, alone, member])
    batch_id = new_id()
    held = [make_update(row, batch_id=batch_id) for row in (alone, member)]
    await writer.commit(updated=held)
    assert {row.batch_id for row in await live_rows(writer, alone.id, member.id)} == {batch_id}
    await writer.commit(updated=[held[0]._replace(batch_id=None)], settled=[make_settle(member)])
    assert {row.batch_id for row in await live_rows(writer, alone.id, member.id)} == {None}


async def test_a_waiting_run_row_comes_back_from_postgres_by_an_update(writer: Writer) -> None:
    run = make_run(spill_queue="")
    await writer.commit(created=[run])
    await writer.commit(
        updated=[make_update(run, state=TaskRunState.WAITING, assigned_at=None, worker_id=None)]
    )
    (found,) = await writer.store.load_live_task_runs(None, None, 10)
    assert (found.id, found.spill_queue) == (run.id, None)
    for fields in ({"state": TaskRunState.QUEUED}, {"state": TaskRunState.RUNNING}):
        with pytest.raises(RefusedRecords):
            await writer.commit(updated=[make_update(run, **fields)])


# ---------------------------------------------------------------- ends of task runs


async def test_a_settled_task_run_stays_until_its_run_ends(writer: Writer) -> None:
    run = make_run()
    row = make_member(run, spill_queue="q", is_slot_released=True, waits="[]", execution_deadline=5)
    await writer.commit(created=[run, row])
    settle = make_settle(row, attempt=3, app_retries=2, internal_retries=1, output=b"\x00")
    await writer.commit(settled=[settle])
    (found,) = await live_rows(writer, row.id)
    same = set(settle._fields) & set(row._fields)
    assert {name: getattr(found, name) for name in same} == {name: getattr(settle, name) for name in same}
    assert (found.spill_queue, found.schedule_deadline, found.execution_deadline) == (None, None, None)
    assert (found.waits, found.is_slot_released, found.created_at) == ("[]", False, row.created_at)
    assert await finished_rows(writer, row.id, run.id) == {}
    assert {found.id for found in await writer.store.load_live_task_runs(None, None, 10)} == {run.id, row.id}


async def test_a_task_run_may_be_created_and_settled_at_once(writer: Writer) -> None:
    run = make_run()
    rows = [make_member(run) for _ in range(3)]
    skipped = [make_settle(row, state=TaskRunState.SKIPPED, error=None, worker_id=None) for row in rows]
    await writer.commit(created=[run, *rows], settled=skipped)
    found = await live_rows(writer, *(row.id for row in rows))
    assert {row.state for row in found} == {TaskRunState.SKIPPED}


async def test_a_settlement_that_does_not_meet_its_row_is_refused_whole(writer: Writer) -> None:
    run, single = make_run(), make_task_run()
    good, later, ended = make_member(run), make_member(run, attempt=1), make_member(run)
    await writer.commit(created=[run, single, good, later, ended], settled=[make_settle(ended)])
    before = await live_rows(writer, run.id)
    for wrong, its_id in (
        (make_settle(later, expected_attempt=0), later.id),
        (make_settle(ended, state=TaskRunState.FAILED), ended.id),
        (make_settle(good, id=single.id), single.id),
        (make_settle(good, id=run.id), run.id),
        (make_settle(later, tenant_id=new_id()), later.id),
    ):
        with pytest.raises(RefusedRecords) as refused:
            await writer.commit(settled=[make_settle(good), wrong])
        assert refused.value.ids == (its_id,)
        assert await live_rows(writer, run.id) == before
    with pytest.raises(RefusedRecords):
        await writer.commit(settled=[make_settle(good), make_settle(good)])
    for fields in (
        {"state": TaskRunState.RUNNING},
        {"state": TaskRunState.COMPLETED, "error": b"x"},
        {"state": TaskRunState.FAILED, "output": b"x"},
    ):
        with pytest.raises(RefusedRecords):
            await writer.commit(settled=[make_settle(good)._replace(**fields)])
    assert await live_rows(writer, run.id) == before


async def test_an_ended_task_run_goes_on_only_as_another_attempt(writer: Writer) -> None:
    run = make_run()
    row = make_member(run)
    await writer.commit(created=[run, row], settled=[make_settle(row)])
    with pytest.raises(RefusedRecords) as refused:
        await writer.commit(updated=[make_update(row)])
    assert refused.value.ids == (row.id,)
    again = make_update(row, state=TaskRunState.QUEUED, attempt=1, assigned_at=None, worker_id=None)
    await writer.commit(updated=[again])
    (found,) = await live_rows(writer, row.id)
    assert (found.state, found.attempt, found.finished_at, found.output) == (
        TaskRunState.QUEUED,
        1,
        None,
        None,
    )
    # A new attempt that ends in the flush of its beginning has one record.
    await writer.commit(settled=[make_settle(row, expected_attempt=1, attempt=1)])
    await writer.commit(settled=[make_settle(row, expected_attempt=1, attempt=2)])
    (found,) = await live_rows(writer, row.id)
    assert (found.state, found.attempt) == (TaskRunState.COMPLETED, 2)


async def test_rows_of_runs_of_several_tasks_are_not_finished_alone(writer: Writer) -> None:
    run = make_run()
    row = make_member(run)
    await writer.commit(created=[run, row])
    for wrong in (run, row):
        with pytest.raises(RefusedRecords) as refused:
            await writer.commit(finished=[make_finish(wrong)])
        assert refused.value.ids == (wrong.id,)
    assert await live_rows(writer, run.id) == sorted([run, row])


# ---------------------------------------------------------------- ends of runs


async def test_the_end_of_a_run_moves_all_its_rows_to_the_history(writer: Writer) -> None:
    run = make_run(
        parent_task_run_id=new_id(),
        child_index=2,
        triggering_event_id=new_id(),
        triggering_event_key="user:created",
        desired_worker_id=new_id(),
        desired_labels='{"a":1}',
        idempotency_key="k",
        metadata='{"a": 1}',
        input=b"in",
    )
    members = [make_member(run, step_index=n) for n in range(3)]
    now = now_us()
    settled = [make_settle(row, finished_at=now - 3 * DAY_US + n) for n, row in enumerate(members)]
    settled[2] = settled[2]._replace(state=TaskRunState.FAILED, output=None, error=b"boom", finished_at=now)
    await writer.commit(created=[run, *members])
    await writer.commit(settled=settled)
    await writer.commit(ended=[make_run_finish(run, 3, state=TaskRunState.FAILED, finished_at=now)])
    assert await live_rows(writer, run.id) == []
    found = await finished_rows(writer, run.id)
    assert set(found) == {run.id, *(row.id for row in members)}
    ended = found[run.id]
    same = set(ended._fields) & set(run._fields) - {"state", "finished_at"}
    assert {name: getattr(ended, name) for name in same} == {name: getattr(run, name) for name in same}
    assert (ended.state, ended.finished_at) == (TaskRunState.FAILED, now)
    for settle in settled:
        row = found[settle.id]
        same = set(settle._fields) & set(row._fields)
        assert {name: getattr(row, name) for name in same} == {name: getattr(settle, name) for name in same}
    assert await finished_rows(writer, members[0].id) == {members[0].id: found[members[0].id]}
    assert await writer.store.fetch_finished(new_id(), [run.id]) == []


async def test_a_single_run_keeps_its_key_and_trigger_in_the_history(writer: Writer) -> None:
    row = make_task_run(
        idempotency_key="k",
        triggering_event_id=new_id(),
        triggering_event_key="e",
        desired_worker_id=new_id(),
        desired_labels="{}",
    )
    await writer.commit(created=[row])
    await writer.commit(finished=[make_finish(row)])
    found = (await finished_rows(writer, row.id))[row.id]
    same = set(FinishedTaskRun._fields[-5:])
    assert {name: getattr(found, name) for name in same} == {name: getattr(row, name) for name in same}


async def test_a_run_may_be_created_settled_and_ended_in_one_batch(writer: Writer) -> None:
    run = make_run()
    rows = [make_member(run) for _ in range(2)]
    await writer.commit(
        created=[run, *rows], settled=[make_settle(row) for row in rows], ended=[make_run_finish(run, 2)]
    )
    assert len(await finished_rows(writer, run.id)) == 3
    empty = make_run()
    await writer.commit(created=[empty], ended=[make_run_finish(empty, 0)])
    assert len(await finished_rows(writer, empty.id)) == 1


async def test_a_run_that_is_not_as_its_end_says_does_not_end(writer: Writer) -> None:
    good, run, single = make_run(), make_run(), make_task_run()
    ended, live = make_member(run), make_member(run)
    await writer.commit(created=[good, run, ended, live, single], settled=[make_settle(ended)])
    before = await live_rows(writer, run.id, good.id)
    unknown = make_run()
    for wrong, its_id in (
        (make_run_finish(run, 2), run.id),
        (make_run_finish(run, 1), run.id),
        (make_run_finish(run, 3), run.id),
        (make_run_finish(unknown, 0), unknown.id),
        (make_run_finish(single, 0), single.id),
        (make_run_finish(run, 2, tenant_id=new_id()), run.id),
    ):
        with pytest.raises(RefusedRecords) as refused:
            await writer.commit(ended=[make_run_finish(good, 0), wrong])
        assert refused.value.ids == (its_id,)
        assert await live_rows(writer, run.id, good.id) == before
    with pytest.raises(RefusedRecords):
        await writer.commit(ended=[make_run_finish(good, 0), make_run_finish(good, 0)])
    with pytest.raises(RefusedRecords):
        await writer.commit(ended=[make_run_finish(good, 0, state=TaskRunState.WAITING)])
    assert await live_rows(writer, run.id, good.id) == before
    await writer.commit(settled=[make_settle(live)], ended=[make_run_finish(run, 2)])
    assert await live_rows(writer, run.id) == []


async def test_runs_that_end_on_other_days_are_kept(writer: Writer) -> None:
    runs = [make_run() for _ in range(5)]
    for number, run in enumerate(runs):
        await end_run(writer, run, [make_member(run)], finished_at=now_us() + (number - 2) * DAY_US)
    assert len(await finished_rows(writer, *(run.id for run in runs))) == 10


# ---------------------------------------------------------------- replays


async def test_a_revived_run_is_live_again_as_recorded(writer: Writer) -> None:
    run, single = make_run(), make_task_run()
    kept, replayed = make_member(run), make_member(run)
    settled = await end_run(writer, run, [kept, replayed])
    await writer.commit(created=[single])
    await writer.commit(finished=[make_finish(single)])
    done = kept._replace(state=TaskRunState.COMPLETED, finished_at=settled[0].finished_at, output=b"{}")
    again = replayed._replace(attempt=1)
    await writer.commit(
        revived=[RunRevival(run.id, TENANT, 3), RunRevival(single.id, TENANT, 1)],
        created=[run, done, again, single._replace(attempt=1)],
    )
    assert await finished_rows(writer, run.id, single.id) == {}
    assert await live_rows(writer, run.id) == sorted([run, done, again])
    await writer.commit(
        settled=[make_settle(again)],
        ended=[make_run_finish(run, 2)],
        finished=[make_finish(single, expected_attempt=1, attempt=1)],
    )
    assert {row.attempt for row in (await finished_rows(writer, run.id, single.id)).values()} == {0, 1}


async def test_a_run_may_be_revived_and_ended_in_one_batch(writer: Writer) -> None:
    run = make_run()
    row = make_member(run)
    await end_run(writer, run, [row])
    failed = make_settle(row, expected_attempt=1, attempt=1, state=TaskRunState.FAILED)
    await writer.commit(
        revived=[RunRevival(run.id, TENANT, 2)],
        created=[run, row._replace(attempt=1)],
        settled=[failed],
        ended=[make_run_finish(run, 1, state=TaskRunState.FAILED)],
    )
    found = await finished_rows(writer, run.id)
    assert {row.state for row in found.values()} == {TaskRunState.FAILED}


async def test_a_run_that_is_not_as_its_revival_says_stays_in_the_history(writer: Writer) -> None:
    run, good, live = make_run(), make_task_run(), make_task_run()
    row = make_member(run)
    await end_run(writer, run, [row])
    await writer.commit(created=[good, live])
    await writer.commit(finished=[make_finish(good)])
    before = await finished_rows(writer, run.id, good.id)
    for wrong in (
        RunRevival(run.id, TENANT, 1),
        RunRevival(run.id, TENANT, 3),
        RunRevival(run.id, new_id(), 2),
        RunRevival(row.id, TENANT, 1),
        RunRevival(live.id, TENANT, 1),
    ):
        with pytest.raises(RefusedRecords) as refused:
            await writer.commit(revived=[RunRevival(good.id, TENANT, 1), wrong])
        assert refused.value.ids == (wrong.run_id,)
        assert await finished_rows(writer, run.id, good.id) == before
    with pytest.raises(RefusedRecords):
        await writer.commit(revived=[RunRevival(good.id, TENANT, 1), RunRevival(good.id, TENANT, 1)])
    assert await finished_rows(writer, run.id, good.id) == before


# ---------------------------------------------------------------- recovery


async def test_spilled_task_runs_of_resident_runs_are_loaded(writer: Writer) -> None:
    here, there = make_run(), make_run(spill_queue="")
    rows = [here, make_member(here), make_member(here, spill_queue="q"), make_member(there)]
    away = [there, make_member(there, spill_queue="q"), make_task_run(spill_queue="q")]
    foreign = make_run(tenant_id=new_id())
    rows += [foreign, make_member(foreign, spill_queue="q")]
    await writer.commit(created=[*rows, *away])
    found: list[TaskRunRow] = []
    after: str | None = None
    while page := await writer.store.load_live_task_runs(None, after, 2):
        found += page
        after = page[-1].id
    assert found == sorted(rows)
    mine = await writer.store.load_live_task_runs(TENANT, None, 100)
    assert mine == sorted(row for row in rows if row.tenant_id == TENANT)


async def test_rows_of_waiting_runs_are_in_no_spilled_queue(writer: Writer) -> None:
    runs = sorted((make_run(spill_queue="", seq=n) for n in (5, 3, 4)), key=lambda row: row.seq)
    row = make_member(runs[0], spill_queue="q")
    await writer.commit(created=[*runs, row])
    assert await writer.store.load_spilled_queues() == [
        SpilledQueue(TENANT, "q", 1, 1, row.schedule_deadline)
    ]
    assert await writer.store.page_spilled(TENANT, "", 1, 3, 10) == runs[1:]


async def test_a_worker_holds_nothing_that_has_ended(writer: Writer) -> None:
    worker = make_worker(status=WorkerStatus.STOPPED)
    run = make_run()
    row = make_member(run, state=TaskRunState.RUNNING, worker_id=worker.id)
    await writer.commit(workers=[worker], created=[run, row])
    assert await writer.store.load_workers(TENANT) == [worker]
    await writer.commit(settled=[make_settle(row, worker_id=worker.id)])
    assert await writer.store.load_workers(TENANT) == []


async def test_children_of_runs_of_several_tasks_are_found(writer: Writer) -> None:
    parent = new_id()
    runs = [make_run(parent_task_run_id=parent, child_index=n) for n in range(2)]
    await writer.commit(created=[runs[0], make_member(runs[0])])
    await end_run(writer, runs[1], [make_member(runs[1])])
    assert await writer.store.fetch_children(TENANT, parent) == [(0, None, runs[0].id), (1, None, runs[1].id)]
