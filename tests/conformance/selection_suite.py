"""What every store must do to find runs, events and idempotency keys by what they are. Taken by test modules beside `store_suite`."""

import pytest

from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.records import IdempotencyRelease, RunFilter, TaskRunState
from tests.conformance.runs_suite import end_run
from tests.conformance.store_suite import Writer
from tests.factories import (
    TENANT,
    make_claim,
    make_event,
    make_finish,
    make_member,
    make_run,
    make_task_run,
    new_id,
    now_us,
)

LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


async def test_runs_are_selected_by_what_they_are(writer: Writer) -> None:
    workflow = new_id()
    single = make_task_run(
        created_at=10, metadata='{"a": "x", "n": 1, "t": true, "o": {"bb": 1.50, "a": [null, "u"]}}'
    )
    running = make_task_run(created_at=20, state=TaskRunState.RUNNING, workflow_id=workflow)
    queued_run, running_run = (
        make_run(created_at=30),
        make_run(created_at=40, metadata='{"a": "x", "b": null}'),
    )
    retried_run = make_run(created_at=60)
    members = [
        make_member(retried_run, created_at=61, attempt=1),
        make_member(queued_run, created_at=5, metadata='{"a": "x"}'),
        make_member(running_run, created_at=45),
        make_member(running_run, state=TaskRunState.RUNNING, created_at=50),
    ]
    rows = [single, running, queued_run, running_run, retried_run]
    await writer.commit(created=[*rows, *members, make_task_run(tenant_id=new_id(), created_at=10)])
    wanted = RunFilter(since=0)
    states = TaskRunState

    async def select(wanted: RunFilter, limit: int = 10) -> list[int]:
        found = await writer.store.select_live_runs(TENANT, wanted, limit)
        assert await writer.store.select_finished_runs(TENANT, wanted, limit) == []
        return [[row.id for row in rows].index(run_id) for run_id in found]

    assert await select(wanted) == [0, 1, 2, 3, 4]
    assert await select(wanted, 2) == [0, 1]
    assert await select(wanted._replace(since=20)) == [1, 2, 3, 4]
    assert await select(wanted._replace(until=20)) == [0, 1]
    assert await select(wanted._replace(states=(states.QUEUED,))) == [0, 2]
    assert await select(wanted._replace(states=(states.RUNNING, states.FAILED))) == [1, 3, 4]
    assert await select(wanted._replace(states=(states.WAITING,))) == []
    assert await select(wanted._replace(workflow_ids=(workflow, new_id()))) == [1]
    assert await select(wanted._replace(workflow_ids=(new_id(),))) == []
    for pairs, expected in (
        ((("a", "x"),), [0, 3]),
        ((("a", "y"), ("n", "1")), [0]),
        ((("t", "true"),), [0]),
        ((("o", '{"a": [null, "u"], "bb": 1.50}'),), [0]),
        ((("b", "null"),), []),
        ((("a", ""),), []),
    ):
        assert await select(wanted._replace(metadata=pairs)) == expected, pairs
    both = wanted._replace(states=(states.RUNNING,), metadata=(("a", "x"),), since=30, until=50)
    assert await select(both) == [3]


async def test_ended_runs_are_selected_by_what_they_are(writer: Writer) -> None:
    run, single = make_run(created_at=10, metadata='{"a": "x"}'), make_task_run(created_at=20)
    await end_run(writer, run, [make_member(run, created_at=11)], state=TaskRunState.CANCELLED)
    await writer.commit(created=[single])
    await writer.commit(finished=[make_finish(single)])
    select = writer.store.select_finished_runs
    assert await select(TENANT, RunFilter(0), 10) == [run.id, single.id]
    assert await select(TENANT, RunFilter(0), 1) == [run.id]
    assert await select(TENANT, RunFilter(11, until=20), 10) == [single.id]
    assert await select(TENANT, RunFilter(0, states=(TaskRunState.CANCELLED,)), 10) == [run.id]
    assert await select(TENANT, RunFilter(0, metadata=(("a", "x"), ("b", "y"))), 10) == [run.id]
    assert await select(TENANT, RunFilter(0, workflow_ids=(new_id(),)), 10) == []
    assert await select(new_id(), RunFilter(0), 10) == []
    assert await writer.store.select_live_runs(TENANT, RunFilter(0), 10) == []


async def test_events_are_read_by_key_in_order(writer: Writer) -> None:
    events = sorted(
        (make_event(key=f"k{n % 3}", created_at=100 + n // 4) for n in range(24)),
        key=lambda row: (row.created_at, row.id),
    )
    await writer.commit(events=[*events[::-1], make_event(key="k1", tenant_id=new_id(), created_at=101)])
    wanted = [row for row in events if row.key in ("k1", "k2") and row.created_at >= 101]
    found = []
    after: tuple[int, str] | None = None
    while page := await writer.store.fetch_events(TENANT, ["k1", "k2", "k1", "none"], 101, after, 3):
        assert len(page) <= 3
        found += page
        after = (page[-1].created_at, page[-1].id)
    assert found == wanted
    last = wanted[-1]
    assert await writer.store.fetch_events(TENANT, [last.key], 0, (last.created_at - 1, LAST_ID), 9) == [
        row for row in events if row.key == last.key and row.created_at == last.created_at
    ]


# ---------------------------------------------------------------- idempotency keys


async def test_keys_are_claimed_replaced_released_and_expire(writer: Writer) -> None:
    now = now_us()
    long = "\u00e4" * 10_000
    first, other = make_claim("k", expires_at=now + 5), make_claim(long, expires_at=now + 9)
    foreign = make_claim("k", tenant_id=new_id(), expires_at=now + 5)
    await writer.commit(claimed_keys=[first, other, foreign])
    fetch = writer.store.fetch_idempotency_keys
    assert sorted(await fetch(TENANT, ["k", long, "free", "k"], now)) == sorted([first, other])
    assert await fetch(TENANT, ["k", long], now + 5) == [other]
    assert await fetch(foreign.tenant_id, ["k", long], now) == [foreign]
    second, third = make_claim("k"), make_claim("k")
    await writer.commit(claimed_keys=[second, third])
    assert await fetch(TENANT, ["k"], now) == [third]
    await writer.commit(released_keys=[IdempotencyRelease(TENANT, "k", second.run_id)])
    assert await fetch(TENANT, ["k"], now) == [third]
    await writer.commit(
        released_keys=[
            IdempotencyRelease(TENANT, "k", third.run_id),
            IdempotencyRelease(TENANT, "none", new_id()),
        ]
    )
    assert await fetch(TENANT, ["k"], now) == []
    fourth = make_claim("k")
    await writer.commit(claimed_keys=[fourth], released_keys=[IdempotencyRelease(TENANT, "k", fourth.run_id)])
    assert await fetch(TENANT, ["k"], now) == []
    assert await fetch(TENANT, [long], now) == [other]
    with pytest.raises(RefusedRecords):
        await writer.commit(claimed_keys=[make_claim("a\x00")])


async def test_expired_keys_are_purged_oldest_first(writer: Writer) -> None:
    claims = [make_claim(f"k{n}", expires_at=100 - n) for n in range(6)]
    kept = make_claim("kept", expires_at=101)
    await writer.commit(claimed_keys=[*claims, kept])
    assert await writer.store.purge_idempotency_keys(100, 4) == 4
    everything = [claim.key for claim in (*claims, kept)]
    assert sorted(await writer.store.fetch_idempotency_keys(TENANT, everything, 0)) == sorted(
        [*claims[:2], kept]
    )
    assert await writer.store.purge_idempotency_keys(100, 4) == 2
    assert await writer.store.purge_idempotency_keys(100, 4) == 0
    assert await writer.store.fetch_idempotency_keys(TENANT, everything, 0) == [kept]
