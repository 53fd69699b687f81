"""What every store does with events, their keys, filters, and the filter that a run keeps."""

from typing import Any

import pytest

from broadaxe_storage.errors import Fenced, RefusedRecords
from broadaxe_storage.records import EventKeyRow, FilterClear, FilterDrop, RunRevival
from tests.conformance.store_suite import Store, Writer
from tests.factories import (
    TENANT,
    WORKFLOW,
    make_event,
    make_filter,
    make_finish,
    make_member,
    make_run,
    make_run_finish,
    make_settle,
    make_task_run,
    make_update,
    make_version,
    new_id,
    now_us,
)

FILTER = '{"id":"0199aaaa-0000-7000-8000-000000000000","payload":{"who":"Anna"}}'
BAD_FILTERS: tuple[dict[str, Any], ...] = (
    {"scope": "a\x00b"},
    {"expression": "\ud800"},
    {"id": "no-id"},
    {"workflow_id": "no-id"},
    {"payload": None},
    {"is_declarative": None},
)


async def test_event_keeps_its_webhook_and_what_went_wrong_with_filters(writer: Writer) -> None:
    plain = make_event(key="k")
    told = make_event(
        key="k", webhook="stripe", filter_errors='[{"error":"é"}]', created_at=plain.created_at + 1
    )
    await writer.commit(events=[plain, told], event_keys=[EventKeyRow(TENANT, "k"), EventKeyRow(TENANT, "k")])
    await writer.commit(event_keys=[EventKeyRow(TENANT, "k"), EventKeyRow(TENANT, "x" * 9_000)])
    assert await writer.store.fetch_events(TENANT, ["k"], 0, None, 10) == [plain, told]


async def test_run_of_one_task_keeps_its_filter_to_its_end_and_back(writer: Writer, store: Store) -> None:
    row, other = make_task_run(filter=FILTER), make_task_run()
    await writer.commit(created=[row, other])
    assert {found.id: found.filter for found in await store.fetch_live(TENANT, [row.id, other.id])} == {
        row.id: FILTER,
        other.id: None,
    }
    assert [
        found.filter for found in await store.load_live_task_runs(None, None, 10) if found.id == row.id
    ] == [FILTER]
    await writer.commit(updated=[make_update(row)])
    (live,) = await store.fetch_live(TENANT, [row.id])
    assert live.filter == FILTER
    await writer.commit(finished=[make_finish(row)])
    (ended,) = await store.fetch_finished(TENANT, [row.id])
    assert ended.filter == FILTER
    await writer.commit(revived=[RunRevival(row.id, TENANT, 1)], created=[row._replace(attempt=1)])
    (live,) = await store.fetch_live(TENANT, [row.id])
    assert (live.filter, live.attempt) == (FILTER, 1)


async def test_run_of_several_tasks_keeps_its_filter(writer: Writer, store: Store) -> None:
    run = make_run(filter=FILTER)
    member = make_member(run)
    await writer.commit(created=[run, member])
    await writer.commit(settled=[make_settle(member)], ended=[make_run_finish(run, 1)])
    found = {row.id: row.filter for row in await store.fetch_finished(TENANT, [run.id])}
    assert found == {run.id: FILTER, member.id: None}


async def test_spilled_runs_have_their_filter_when_they_are_paged_in(writer: Writer, store: Store) -> None:
    row = make_task_run(filter=FILTER, spill_queue="q", schedule_deadline=now_us() - 1)
    await writer.commit(created=[row])
    assert await store.page_spilled(TENANT, "q", 1, 0, 10) == [row]
    assert await store.load_expired_spilled(TENANT, now_us(), 10) == [row]


async def test_filters_come_change_and_go(writer: Writer, store: Store) -> None:
    await writer.commit(workflow_versions=[make_version(workflow_id=WORKFLOW)])
    first, second = make_filter(), make_filter(scope="other", created_at=now_us() + 1)
    await writer.commit(filters=[first, second])
    assert await store.load_filters(TENANT) == [first, second]
    assert await store.load_filters() == [first, second]
    assert await store.load_filters(new_id()) == []
    changed = first._replace(scope="s", expression="true", payload="{}", updated_at=first.updated_at + 5)
    await writer.commit(filters=[changed._replace(is_declarative=True, created_at=1)])
    assert await store.load_filters(TENANT) == [changed, second]
    await writer.commit(dropped_filters=[FilterDrop(TENANT, second.id), FilterDrop(TENANT, new_id())])
    await writer.commit(dropped_filters=[FilterDrop(new_id(), first.id)])
    assert await store.load_filters(TENANT) == [changed]


async def test_declared_filters_are_replaced_with_the_version_that_declares_them(
    writer: Writer, store: Store
) -> None:
    version = make_version(workflow_id=WORKFLOW)
    old, own = make_filter(is_declarative=True), make_filter(created_at=now_us() + 1)
    await writer.commit(workflow_versions=[version], filters=[old, own])
    new = make_filter(is_declarative=True, created_at=now_us() + 2)
    other = make_version(name="other", workflow_id=new_id())
    foreign = make_filter(is_declarative=True, workflow_id=other.workflow_id, created_at=now_us() + 3)
    await writer.commit(workflow_versions=[other], filters=[foreign])
    later = make_version(workflow_id=WORKFLOW, name=version.name, number=version.number + 1)
    await writer.commit(
        workflow_versions=[later], cleared_filters=[FilterClear(TENANT, WORKFLOW)], filters=[new]
    )
    assert await store.load_filters(TENANT) == [own, new, foreign]
    with pytest.raises(RefusedRecords):
        await writer.commit(
            workflow_versions=[later],
            cleared_filters=[FilterClear(TENANT, WORKFLOW)],
            filters=[make_filter()],
        )
    assert await store.load_filters(TENANT) == [own, new, foreign]


async def test_filter_of_an_unknown_workflow_or_of_another_tenants_is_refused(
    writer: Writer, store: Store
) -> None:
    await writer.commit(workflow_versions=[make_version(workflow_id=WORKFLOW)])
    mine = make_filter()
    await writer.commit(filters=[mine])
    for wrong in (
        make_filter(workflow_id=new_id()),
        make_filter(tenant_id=new_id()),
        mine._replace(tenant_id=new_id()),
    ):
        with pytest.raises(RefusedRecords) as refused:
            await writer.commit(filters=[wrong])
        assert list(refused.value.ids) == [wrong.id]
    assert await store.load_filters() == [mine]


@pytest.mark.parametrize("fields", BAD_FILTERS, ids=lambda fields: next(iter(fields)))
async def test_a_filter_that_a_column_would_not_take_is_refused(
    writer: Writer, fields: dict[str, Any]
) -> None:
    await writer.commit(workflow_versions=[make_version(workflow_id=WORKFLOW)])
    with pytest.raises(RefusedRecords):
        await writer.commit(filters=[make_filter(**fields)])
    assert await writer.store.load_filters() == []


async def test_filters_and_events_of_a_stale_engine_are_fenced(writer: Writer, store: Store) -> None:
    await writer.commit(workflow_versions=[make_version(workflow_id=WORKFLOW)])
    stale = Writer(store, writer.epoch)
    await store.open_shards()
    for batch in ({"filters": [make_filter()]}, {"events": [make_event(key="k")]}):
        with pytest.raises(Fenced):
            await stale.commit(**batch)
    assert await store.load_filters() == []
    assert await store.fetch_events(TENANT, ["k"], 0, None, 10) == []
