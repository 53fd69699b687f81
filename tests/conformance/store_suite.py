"""What every store must do: the tests of the ports `ShardStore` and `DirectoryStore`, run by each implementation.

A test module takes them by `from tests.conformance.store_suite import *` and gives the fixture `open_store`, which returns a coroutine function:
each call opens one more store on the same record, as another engine would.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import pytest

from broadaxe_storage.account_store import AccountStore
from broadaxe_storage.errors import DatabaseInUse, Fenced, RefusedRecords
from broadaxe_storage.records import (
    Batch,
    SpilledQueue,
    TaskRunState,
    WorkerStatus,
)
from broadaxe_storage.records_accounts import ApiTokenRow, Defaults, TenantMemberRow, TenantRow, UserRow
from broadaxe_storage.store import ShardStore, shard_of
from tests.factories import (
    TENANT,
    make_event,
    make_finish,
    make_log,
    make_task_event,
    make_task_run,
    make_tenant,
    make_update,
    make_version,
    make_worker,
    new_id,
    now_us,
)


class Store(ShardStore, AccountStore, Protocol):
    """Both ports."""


OpenStore = Callable[[], Awaitable[Store]]
SHARDS = (shard_of(TENANT),)
BAD_FIELDS: tuple[dict[str, Any], ...] = (
    {"id": "no-id"},
    {"child_key": "a\x00b"},
    {"child_key": "\ud800"},
    {"metadata": "{"},
    {"metadata": '{"a": "\\u0000"}'},
    {"step_index": 40_000},
    {"child_index": 1 << 40},
    {"state": TaskRunState.COMPLETED},
    {"state": TaskRunState.ASSIGNED, "worker_id": None},
    {"state": TaskRunState.ASSIGNED, "spill_queue": "q"},
    {"input": "text"},
    {"input": None},
    {"attempt": -1},
)


class Writer:
    """An owner of the shards that numbers its flushes."""

    def __init__(self, store: Store, epoch: int) -> None:
        self.store = store
        self.epoch = epoch
        self.flush = 0

    async def commit(self, shards: Sequence[int] = SHARDS, **batch: Any) -> None:
        self.flush += 1
        await self.store.commit(
            self.epoch, self.flush, shards, Batch(**{kind: tuple(rows) for kind, rows in batch.items()})
        )


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()


@pytest.fixture
async def writer(store: Store) -> Writer:
    return Writer(store, await store.open_shards())


# ---------------------------------------------------------------- ownership


async def test_taking_over_raises_the_epoch(store: Store) -> None:
    first = await store.open_shards()
    second = await store.open_shards()
    assert second == first + 1
    assert await store.read_flush(0) == (second, 0)
    assert await store.read_flush(255) == (second, 0)


async def test_a_second_engine_is_refused_while_the_first_lives(open_store: OpenStore) -> None:
    first = await open_store()
    await first.open_shards()
    second = await open_store()
    with pytest.raises(DatabaseInUse, match="in use by another engine"):
        await second.open_shards()
    await first.close()
    assert await second.open_shards() > 0


async def test_flush_number_is_stored_with_the_flush(writer: Writer) -> None:
    await writer.commit(created=[make_task_run()])
    assert await writer.store.read_flush(SHARDS[0]) == (writer.epoch, 1)
    await writer.commit(shards=(SHARDS[0], (SHARDS[0] + 1) % 256))
    assert await writer.store.read_flush((SHARDS[0] + 1) % 256) == (writer.epoch, 2)


async def test_an_old_epoch_is_fenced_and_writes_nothing(writer: Writer) -> None:
    stale = Writer(writer.store, writer.epoch)
    await writer.store.open_shards()
    with pytest.raises(Fenced):
        await stale.commit(created=[make_task_run()])
    assert await writer.store.load_live_task_runs(None, None, 10) == []


async def test_close_may_be_called_twice(open_store: OpenStore) -> None:
    store = await open_store()
    await store.open_shards()
    await store.close()
    await store.close()


# ---------------------------------------------------------------- task runs


async def test_created_task_runs_are_read_back_as_written(writer: Writer) -> None:
    plain = make_task_run()
    full = make_task_run(
        state=TaskRunState.RUNNING,
        step_index=3,
        attempt=2,
        app_retries=1,
        internal_retries=1,
        priority=3,
        queue_priority=4,
        started_at=now_us(),
        execution_deadline=now_us(),
        parent_task_run_id=new_id(),
        child_index=7,
        child_key="k",
        triggering_event_id=new_id(),
        triggering_event_key="user:created",
        desired_worker_id=new_id(),
        desired_labels='{"a":1}',
        metadata='{"a": "\u00fc"}',
        input=b"\x00\xff",
    )
    await writer.commit(created=[plain, full])
    assert await writer.store.load_live_task_runs(None, None, 10) == sorted([plain, full])


async def test_many_created_task_runs_are_read_back_as_written(writer: Writer) -> None:
    rows = [
        make_task_run(
            child_index=index,
            metadata=f'{{"n": {index}}}',
            spill_queue="q" if index % 2 else None,
            input=bytes([index % 256]) * index,
        )
        for index in range(1000)
    ]
    await writer.commit(created=rows)
    by_id = {row.id: row for row in rows}
    found = await writer.store.fetch_live(TENANT, list(by_id))
    assert {row.id: row for row in found} == by_id
    assert await writer.store.load_spilled_queues() == [
        SpilledQueue(TENANT, "q", 1, 500, min(row.schedule_deadline or 0 for row in rows[1::2]))
    ]


async def test_an_empty_batch_still_counts_its_flush(writer: Writer) -> None:
    await writer.commit()
    assert await writer.store.read_flush(SHARDS[0]) == (writer.epoch, 1)


async def test_update_changes_the_live_row(writer: Writer) -> None:
    row = make_task_run()
    await writer.commit(created=[row])
    update = make_update(row, attempt=1, seq=99, state=TaskRunState.RUNNING, started_at=now_us())
    await writer.commit(updated=[update])
    (found,) = await writer.store.fetch_live(TENANT, [row.id])
    same = set(update._fields) & set(row._fields)
    assert {name: getattr(found, name) for name in same} == {name: getattr(update, name) for name in same}
    assert found.input == row.input


async def test_finish_moves_the_row_to_history(writer: Writer) -> None:
    row = make_task_run(parent_task_run_id=new_id(), child_index=1)
    await writer.commit(created=[row])
    finish = make_finish(row, attempt=0, output=b"\x00")
    await writer.commit(finished=[finish])
    assert await writer.store.fetch_live(TENANT, [row.id]) == []
    (found,) = await writer.store.fetch_finished(TENANT, [row.id])
    assert found.state == TaskRunState.COMPLETED
    assert (found.output, found.error, found.input) == (b"\x00", None, row.input)
    assert (found.created_at, found.finished_at) == (row.created_at, finish.finished_at)
    assert (found.parent_task_run_id, found.child_index) == (row.parent_task_run_id, 1)


async def test_a_task_run_may_be_created_changed_and_finished_in_one_batch(writer: Writer) -> None:
    row = make_task_run()
    await writer.commit(
        created=[row],
        updated=[make_update(row, attempt=1)],
        finished=[make_finish(row, expected_attempt=1, attempt=1)],
    )
    assert await writer.store.fetch_live(TENANT, [row.id]) == []
    assert len(await writer.store.fetch_finished(TENANT, [row.id])) == 1


async def test_finish_times_of_other_days_are_kept(writer: Writer) -> None:
    rows = [make_task_run() for _ in range(12)]
    await writer.commit(created=rows)
    day = 86_400_000_000
    finishes = [make_finish(row, finished_at=now_us() + (n - 6) * day) for n, row in enumerate(rows)]
    await writer.commit(finished=finishes)
    found = await writer.store.fetch_finished(TENANT, [row.id for row in rows])
    assert {row.id: row.finished_at for row in found} == {row.id: row.finished_at for row in finishes}


@pytest.mark.parametrize("kind", ["updated", "finished"])
async def test_a_write_at_another_attempt_is_refused_whole(writer: Writer, kind: str) -> None:
    make = make_update if kind == "updated" else make_finish
    first, second = make_task_run(), make_task_run(attempt=1)
    await writer.commit(created=[first, second])
    with pytest.raises(RefusedRecords) as refused:
        await writer.commit(**{kind: [make(first), make(second, expected_attempt=0)]})
    assert refused.value.ids == (second.id,)
    assert await writer.store.fetch_live(TENANT, [first.id]) == [first]
    assert await writer.store.read_flush(SHARDS[0]) == (writer.epoch, 1)


@pytest.mark.parametrize("kind", ["updated", "finished"])
async def test_a_write_to_an_unknown_or_foreign_task_run_is_refused(writer: Writer, kind: str) -> None:
    make = make_update if kind == "updated" else make_finish
    row = make_task_run()
    await writer.commit(created=[row])
    foreign, unknown = make(row, tenant_id=new_id()), make(row, id=new_id())
    with pytest.raises(RefusedRecords) as refused:
        await writer.commit(**{kind: [unknown]})
    assert refused.value.ids == (unknown.id,)
    with pytest.raises(RefusedRecords) as refused:
        await writer.commit(**{kind: [foreign]})
    assert refused.value.ids == (row.id,)


async def test_a_finished_task_run_cannot_be_finished_again(writer: Writer) -> None:
    row = make_task_run()
    await writer.commit(created=[row])
    await writer.commit(finished=[make_finish(row)])
    with pytest.raises(RefusedRecords):
        await writer.commit(finished=[make_finish(row, state=TaskRunState.FAILED)])
    (found,) = await writer.store.fetch_finished(TENANT, [row.id])
    assert found.state == TaskRunState.COMPLETED


@pytest.mark.parametrize("count", [2, 600])
async def test_a_duplicate_id_is_refused_and_nothing_is_written(writer: Writer, count: int) -> None:
    known = make_task_run()
    await writer.commit(created=[known])
    rows = [make_task_run() for _ in range(count)]
    with pytest.raises(RefusedRecords) as refused:
        await writer.commit(created=[*rows, known])
    assert refused.value.ids == (known.id,)
    assert await writer.store.load_live_task_runs(None, None, 10) == [known]
    with pytest.raises(RefusedRecords):
        await writer.commit(created=[*rows, rows[0]])
    assert await writer.store.load_live_task_runs(None, None, 10) == [known]


@pytest.mark.parametrize("others", [0, 300])
async def test_bad_data_is_refused_and_the_store_goes_on(writer: Writer, others: int) -> None:
    rows = [make_task_run() for _ in range(others)]
    for fields in BAD_FIELDS:
        with pytest.raises(RefusedRecords):
            await writer.commit(created=[*rows, make_task_run()._replace(**fields)])
        good = make_task_run()
        await writer.commit(created=[good])
        assert await writer.store.load_live_task_runs(None, None, 10) == [good], fields
        await writer.commit(finished=[make_finish(good)])


@pytest.mark.parametrize(
    "fields",
    [
        {"state": TaskRunState.RUNNING},
        {"state": TaskRunState.COMPLETED, "error": b"x"},
        {"state": TaskRunState.FAILED, "output": b"x"},
    ],
    ids=["not final", "completed with error", "failed with output"],
)
async def test_an_impossible_end_is_refused(writer: Writer, fields: dict[str, Any]) -> None:
    row = make_task_run()
    await writer.commit(created=[row])
    with pytest.raises(RefusedRecords):
        await writer.commit(finished=[make_finish(row, **fields)])
    assert await writer.store.fetch_live(TENANT, [row.id]) == [row]


async def test_live_task_runs_are_paged_by_id_without_spilled_ones(writer: Writer) -> None:
    other = new_id()
    rows = sorted(make_task_run(tenant_id=other if n % 3 == 0 else TENANT) for n in range(30))
    spilled = [make_task_run(spill_queue="q") for _ in range(5)]
    await writer.commit(created=[*rows, *spilled])
    found = []
    after: str | None = None
    while page := await writer.store.load_live_task_runs(None, after, 7):
        assert len(page) <= 7
        found += page
        after = page[-1].id
    assert found == rows
    mine = await writer.store.load_live_task_runs(other, None, 100)
    assert mine == [row for row in rows if row.tenant_id == other]


async def test_max_seq_is_of_live_task_runs(writer: Writer) -> None:
    assert await writer.store.load_max_seq() == 0
    row = make_task_run(seq=1 << 40)
    await writer.commit(created=[make_task_run(seq=5), row])
    assert await writer.store.load_max_seq() == 1 << 40
    await writer.commit(finished=[make_finish(row)])
    assert await writer.store.load_max_seq() == 5


# ---------------------------------------------------------------- spilled task runs


async def test_spilled_queues_are_counted_and_paged_by_place_in_line(writer: Writer) -> None:
    rows = [
        make_task_run(spill_queue=f"q{n % 2}", queue_priority=1 + n % 4 // 2, seq=1000 - n) for n in range(40)
    ]
    await writer.commit(created=rows)
    queues = await writer.store.load_spilled_queues(TENANT)
    assert [(q.spill_queue, q.queue_priority, q.count) for q in queues] == [
        ("q0", 2, 10),
        ("q0", 1, 10),
        ("q1", 2, 10),
        ("q1", 1, 10),
    ]
    assert await writer.store.load_spilled_queues(new_id()) == []
    first = await writer.store.page_spilled(TENANT, "q1", 2, 0, 4)
    rest = await writer.store.page_spilled(TENANT, "q1", 2, first[-1].seq, 100)
    wanted = sorted(
        (row for row in rows if row.spill_queue == "q1" and row.queue_priority == 2), key=lambda row: row.seq
    )
    assert [*first, *rest] == wanted
    assert await writer.store.fetch_live(TENANT, [wanted[0].id]) == [wanted[0]]


async def test_an_assignment_takes_a_task_run_out_of_its_spilled_queue(writer: Writer) -> None:
    row = make_task_run(spill_queue="q")
    await writer.commit(created=[row])
    await writer.commit(updated=[make_update(row)])
    assert await writer.store.load_spilled_queues() == []
    assert await writer.store.page_spilled(TENANT, "q", 1, 0, 10) == []
    (found,) = await writer.store.load_live_task_runs(None, None, 10)
    assert (found.id, found.spill_queue) == (row.id, None)


async def test_a_spilled_task_run_can_be_finished(writer: Writer) -> None:
    row = make_task_run(spill_queue="q")
    await writer.commit(created=[row])
    await writer.commit(finished=[make_finish(row, state=TaskRunState.CANCELLED, worker_id=None)])
    assert await writer.store.load_spilled_queues() == []


async def test_expired_spilled_task_runs_come_oldest_deadline_first(writer: Writer) -> None:
    now = now_us()
    rows = [make_task_run(spill_queue="q", schedule_deadline=now + 10 - n) for n in range(8)]
    others = [
        make_task_run(schedule_deadline=1),
        make_task_run(spill_queue="q", schedule_deadline=None),
        make_task_run(spill_queue="q", schedule_deadline=now + 1_000_000),
        make_task_run(spill_queue="q", schedule_deadline=1, tenant_id=new_id()),
    ]
    await writer.commit(created=[*rows, *others])
    found = await writer.store.load_expired_spilled(TENANT, now + 10, 5)
    assert found == rows[::-1][:5]


# ---------------------------------------------------------------- reads by id


async def test_reads_by_id_stay_within_the_tenant(writer: Writer) -> None:
    live, ended = make_task_run(), make_task_run()
    version = make_version()
    await writer.commit(created=[live, ended], workflow_versions=[version])
    await writer.commit(finished=[make_finish(ended)])
    other = new_id()
    both = [live.id, ended.id, new_id()]
    assert [row.id for row in await writer.store.fetch_live(TENANT, both)] == [live.id]
    assert [row.id for row in await writer.store.fetch_finished(TENANT, both)] == [ended.id]
    assert await writer.store.fetch_live(other, both) == []
    assert await writer.store.fetch_finished(other, both) == []
    assert await writer.store.fetch_version(other, version.id) is None
    assert await writer.store.fetch_version(TENANT, version.id) == version
    assert await writer.store.fetch_version(TENANT, new_id()) is None


async def test_children_are_found_live_and_ended(writer: Writer) -> None:
    parent = new_id()
    rows = [make_task_run(parent_task_run_id=parent, child_index=n) for n in range(3)]
    keyed = make_task_run(parent_task_run_id=parent, child_key="k")
    await writer.commit(created=[*rows, keyed, make_task_run()])
    await writer.commit(finished=[make_finish(rows[1])])
    wanted: list[tuple[int | None, str | None, str]] = [(n, None, row.run_id) for n, row in enumerate(rows)]
    assert await writer.store.fetch_children(TENANT, parent) == [*wanted, (None, "k", keyed.run_id)]
    assert await writer.store.fetch_children(new_id(), parent) == []


# ---------------------------------------------------------------- definitions and workers


async def test_the_latest_versions_and_those_in_use_are_loaded(writer: Writer) -> None:
    first = make_version(name="a")
    second = first._replace(id=new_id(), number=2)
    third = first._replace(id=new_id(), number=3)
    other = make_version(name="b", tenant_id=new_id())
    await writer.commit(workflow_versions=[first])
    await writer.commit(workflow_versions=[second, third, other])
    row = make_task_run(workflow_version_id=first.id)
    await writer.commit(created=[row])
    assert await writer.store.load_latest_versions(TENANT) == [first, third]
    assert sorted(await writer.store.load_latest_versions()) == sorted([first, third, other])
    await writer.commit(finished=[make_finish(row)])
    assert await writer.store.load_latest_versions(TENANT) == [third]


async def test_a_version_that_contradicts_the_record_is_refused(writer: Writer) -> None:
    known = make_version(name="a")
    await writer.commit(workflow_versions=[known])
    for wrong in (
        known._replace(id=new_id()),
        known._replace(number=2),
        known._replace(id=new_id(), number=2, name="b"),
        known._replace(id=new_id(), number=2, workflow_id=new_id()),
    ):
        with pytest.raises(RefusedRecords):
            await writer.commit(workflow_versions=[wrong])
    assert await writer.store.load_latest_versions() == [known]


async def test_workers_that_may_come_back_are_loaded(writer: Writer) -> None:
    week = 7 * 86_400_000_000
    active = make_worker(actions=("a:b", "c:d"), is_paused=True)
    lost = make_worker(status=WorkerStatus.LOST)
    stopped = make_worker(status=WorkerStatus.STOPPED)
    busy = make_worker(status=WorkerStatus.STOPPED, created_at=1, updated_at=1)
    old = make_worker(updated_at=now_us() - week - 60_000_000)
    foreign = make_worker(tenant_id=new_id())
    await writer.commit(workers=[active, lost, stopped, busy, old, foreign])
    await writer.commit(created=[make_task_run(state=TaskRunState.ASSIGNED, worker_id=busy.id)])
    found = await writer.store.load_workers(TENANT)
    assert {row.id for row in found} == {active.id, lost.id, busy.id}
    assert next(row for row in found if row.id == active.id) == active
    assert {row.id for row in await writer.store.load_workers()} == {active.id, lost.id, busy.id, foreign.id}


async def test_a_worker_is_replaced_but_for_its_birth(writer: Writer) -> None:
    worker = make_worker()
    await writer.commit(workers=[worker])
    changed = worker._replace(labels='{"a": 1}', status=WorkerStatus.LOST, updated_at=worker.updated_at + 5)
    await writer.commit(workers=[changed._replace(created_at=5)])
    (found,) = await writer.store.load_workers(TENANT)
    assert json.loads(found.labels) == {"a": 1}
    assert found == changed
    with pytest.raises(RefusedRecords) as refused:
        await writer.commit(workers=[worker._replace(tenant_id=new_id())])
    assert refused.value.ids == (worker.id,)


async def test_events_logs_and_task_events_are_taken(writer: Writer) -> None:
    row = make_task_run()
    await writer.commit(
        created=[row],
        events=[make_event(scope="s", priority=2), make_event()],
        logs=[make_log(row.id), make_log(row.id, level=None, metadata='{"a": 1}', created_at=0)],
        task_events=[make_task_event(row.id, message=b"\x00")],
    )
    with pytest.raises(RefusedRecords):
        await writer.commit(events=[make_event(key="a\x00")])
    with pytest.raises(RefusedRecords):
        await writer.commit(logs=[make_log("nobody")])


# ---------------------------------------------------------------- tenants, people, tokens


async def test_defaults_are_made_once_and_then_left_alone(store: Store) -> None:
    defaults = Defaults(
        tenant_id=new_id(),
        tenant_name="Default",
        tenant_slug="default",
        admin_id=new_id(),
        admin_email="Admin@example.com",
        admin_name="Admin",
        admin_password_hash="$argon2id$1",
        now=now_us(),
    )
    tenant = await store.ensure_default_tenant_and_admin(defaults)
    assert tenant == TenantRow(defaults.tenant_id, "Default", "default", defaults.now)
    again = defaults._replace(
        tenant_id=new_id(), tenant_name="Other", admin_id=new_id(), admin_password_hash="$argon2id$2", now=1
    )
    assert await store.ensure_default_tenant_and_admin(again) == tenant
    assert await store.load_tenants() == [tenant]
    assert await store.fetch_tenant(tenant.id) == tenant
    assert await store.fetch_tenant_by_slug("default") == tenant
    admin = await store.fetch_user_by_email("ADMIN@EXAMPLE.COM")
    assert admin == UserRow(defaults.admin_id, "Admin@example.com", "Admin", "$argon2id$1", defaults.now)
    assert await store.fetch_user(defaults.admin_id) == admin
    ((member, email, name),) = await store.list_members(tenant.id, 10)
    assert member == TenantMemberRow(member.id, tenant.id, defaults.admin_id, "OWNER", defaults.now)
    assert (email, name) == ("Admin@example.com", "Admin")


async def test_tenants_have_their_own_slugs(store: Store) -> None:
    tenant = make_tenant(slug="acme")
    await store.insert_tenant(tenant)
    with pytest.raises(RefusedRecords):
        await store.insert_tenant(make_tenant(slug="acme"))
    with pytest.raises(RefusedRecords):
        await store.insert_tenant(tenant._replace(slug="other"))
    assert await store.load_tenants() == [tenant]
    assert await store.fetch_tenant(new_id()) is None
    assert await store.fetch_tenant_by_slug("nobody") is None


async def test_members_have_one_role_in_a_tenant(store: Store) -> None:
    tenant = make_tenant()
    user = UserRow(new_id(), "a@example.com", "A", None, now_us())
    await store.insert_tenant(tenant)
    await store.insert_user(user)
    with pytest.raises(RefusedRecords):
        await store.insert_user(user._replace(id=new_id(), email="A@EXAMPLE.com"))
    member = TenantMemberRow(new_id(), tenant.id, user.id, "MEMBER", now_us())
    await store.put_member(member)
    await store.put_member(member._replace(role="ADMIN"))
    assert await store.list_memberships(user.id) == [member._replace(role="ADMIN")]
    for wrong in (member._replace(role="KING"), member._replace(user_id=new_id())):
        with pytest.raises(RefusedRecords):
            await store.put_member(wrong)


async def test_tokens_are_kept_and_revoked_once(store: Store) -> None:
    tenant = make_tenant()
    await store.insert_tenant(tenant)
    token = ApiTokenRow(new_id(), tenant.id, "ci", now_us(), now_us() + 1_000_000, None)
    await store.insert_token(token)
    assert await store.fetch_token(token.id) == token
    assert await store.fetch_token(new_id()) is None
    newer = token._replace(id=new_id(), created_at=token.created_at + 1)
    await store.insert_token(newer)
    assert await store.list_tokens(tenant.id, 10) == [newer, token]
    assert await store.list_tokens(tenant.id, 1) == [newer]
    assert await store.revoke_token(tenant.id, newer.id, 5) is True
    assert await store.revoke_token(new_id(), token.id, 5) is False
    assert await store.revoke_token(tenant.id, new_id(), 5) is False
    assert await store.revoke_token(tenant.id, token.id, 5) is True
    assert await store.revoke_token(tenant.id, token.id, 9) is True
    assert await store.list_tokens(tenant.id, 10) == []
    assert await store.fetch_token(token.id) == token._replace(revoked_at=5)
    with pytest.raises(RefusedRecords):
        await store.insert_token(token)
    with pytest.raises(RefusedRecords):
        await store.insert_token(token._replace(id=new_id(), tenant_id=new_id()))
