"""What people read of events and filters, on both ends of the range of Postgres."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.records import EventKeyRow, EventRow, TaskRunState
from broadaxe_storage.summaries import EventQuery
from tests.conformance.store_suite import Writer
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
    make_version,
    new_id,
    now_us,
)
from tests.postgres import TestServer

S = TaskRunState
HOUR_US = 3_600_000_000


@pytest.fixture
async def store(server: TestServer) -> AsyncIterator[PostgresStore]:
    url = await server.create_database()
    store = await PostgresStore.open(DatabaseConfig(url=url, lock_wait_seconds=0.1))
    yield store
    await store.close()
    await server.drop_database(url)


@pytest.fixture
async def writer(store: PostgresStore) -> Writer:
    return Writer(store, await store.open_shards())


async def test_events_are_listed_by_all_that_may_be_asked_for(store: PostgresStore, writer: Writer) -> None:
    start = now_us() - HOUR_US
    other_workflow = new_id()
    shapes: dict[str, dict[str, Any]] = {
        "plain": {},
        "scoped": {"key": "k", "scope": "s", "metadata": '{"a": "x", "n": 1}'},
        "twice": {"key": "k", "scope": "s", "metadata": '{"a": "x"}'},
        "other": {"key": "other:key", "scope": "", "metadata": '{"a": {"b": 1}}'},
    }
    events = {
        name: make_event(created_at=start + number, **fields)
        for number, (name, fields) in enumerate(shapes.items())
    }
    foreign = make_event(tenant_id=new_id(), created_at=start, key="k", scope="s")
    await writer.commit(events=[*events.values(), foreign])
    by_event = {"triggering_event_id": events["scoped"].id, "triggering_event_key": "k"}
    done, failed = make_task_run(**by_event), make_task_run(**by_event | {"workflow_id": other_workflow})
    run = make_run(triggering_event_id=events["twice"].id)
    await writer.commit(created=[done, failed, run, make_member(run)])
    await writer.commit(finished=[make_finish(done), make_finish(failed, state=S.FAILED)])

    async def found(**wanted: Any) -> list[str]:
        query = EventQuery(**{"since": start} | wanted)
        rows = await store.history.list_events(TENANT, query, limit=10)
        assert await store.history.count_events(TENANT, query) == len(rows)
        names = {row.id: name for name, row in events.items()}
        assert [row for row in rows if row != events[names[row.id]]] == []
        return [names[row.id] for row in rows]

    assert await found() == ["other", "twice", "scoped", "plain"]
    assert await found(since=start + 1, until=start + 2) == ["twice", "scoped"]
    assert await found(keys=("k", "other:key", "k")) == ["other", "twice", "scoped"]
    assert await found(keys=("k",), since=start + 2) == ["twice"]
    assert await found(keys=("unknown",)) == []
    assert await found(scopes=("",)) == ["other"]
    assert await found(scopes=("s", "no")) == ["twice", "scoped"]
    assert await found(ids=(events["plain"].id, foreign.id, new_id())) == ["plain"]
    assert await found(metadata=(("a", "x"),)) == ["twice", "scoped"]
    assert await found(metadata=(("a", "x"), ("n", "1"))) == ["scoped"]
    assert await found(metadata=(("missing", "x"),)) == []
    assert await found(workflow_ids=(WORKFLOW,)) == ["twice", "scoped"]
    assert await found(workflow_ids=(other_workflow,)) == ["scoped"]
    assert await found(states=(S.FAILED,)) == ["scoped"]
    assert await found(states=(S.QUEUED,)) == ["twice"]
    assert await found(workflow_ids=(WORKFLOW,), states=(S.FAILED,)) == []
    assert await found(workflow_ids=(new_id(),)) == []
    page = await store.history.list_events(TENANT, EventQuery(start), limit=2, offset=1)
    assert page == [events["twice"], events["scoped"]]
    page = await store.history.list_events(TENANT, EventQuery(start, keys=("k",)), limit=1, offset=1)
    assert page == [events["scoped"]]
    assert await store.history.count_events(TENANT, EventQuery(start), cap=3) == 3
    assert await store.history.count_events(TENANT, EventQuery(start, keys=("k", "other:key")), cap=2) == 2
    assert await store.history.fetch_event(TENANT, events["other"].id) == events["other"]
    assert await store.history.fetch_event(TENANT, foreign.id) is None


async def test_what_an_event_started_is_told_with_its_filters(store: PostgresStore, writer: Writer) -> None:
    event, other = make_event(), make_event()
    filter_id = new_id()
    lone = make_task_run(
        triggering_event_id=event.id,
        filter=f'{{"id":"{filter_id}","payload":{{}}}}',
        created_at=event.created_at,
    )
    run = make_run(triggering_event_id=event.id, created_at=event.created_at + 1)
    member = make_member(run, assigned_at=now_us())
    foreign = make_task_run(triggering_event_id=event.id, tenant_id=new_id())
    await writer.commit(events=[event, other], created=[lone, run, member, foreign])
    expected = [(event.id, lone.id, S.QUEUED, filter_id), (event.id, run.id, S.RUNNING, None)]
    assert await store.history.list_runs_of_events(TENANT, [event, other]) == expected
    await writer.commit(
        finished=[make_finish(lone)], settled=[make_settle(member)], ended=[make_run_finish(run, 1)]
    )
    expected = [(event.id, lone.id, S.COMPLETED, filter_id), (event.id, run.id, S.COMPLETED, None)]
    assert await store.history.list_runs_of_events(TENANT, [event, other]) == expected
    assert await store.history.list_runs_of_events(TENANT, []) == []


async def test_keys_are_listed_once_and_of_one_tenant(store: PostgresStore, writer: Writer) -> None:
    other = new_id()
    await writer.commit(
        event_keys=[EventKeyRow(TENANT, key) for key in ("b", "B", "a", "b")] + [EventKeyRow(other, "c")]
    )
    await writer.commit(event_keys=[EventKeyRow(TENANT, "a")])
    assert await store.history.list_event_keys(TENANT) == ["B", "a", "b"]
    assert await store.history.list_event_keys(TENANT, cap=2) == ["B", "a"]
    assert await store.history.list_event_keys(other) == ["c"]


async def test_filters_are_listed_by_workflow_and_scope(store: PostgresStore, writer: Writer) -> None:
    other = make_version(workflow_id=new_id())
    await writer.commit(workflow_versions=[make_version(workflow_id=WORKFLOW), other])
    now = now_us()
    rows = [
        make_filter(created_at=now),
        make_filter(created_at=now + 1, scope="s"),
        make_filter(created_at=now + 2, workflow_id=other.workflow_id, is_declarative=True),
    ]
    await writer.commit(filters=rows)
    history = store.history
    assert await history.list_filters(TENANT, limit=10) == rows
    assert await history.list_filters(TENANT, limit=1, offset=1) == rows[1:2]
    assert await history.list_filters(TENANT, [WORKFLOW], limit=10) == rows[:2]
    assert await history.list_filters(TENANT, [WORKFLOW], ["s", "no"], limit=10) == rows[1:2]
    assert await history.list_filters(new_id(), limit=10) == []
    assert await history.count_filters(TENANT) == 3
    assert await history.count_filters(TENANT, [], ["scope"]) == 2
    assert await history.count_filters(TENANT, cap=1) == 1
    assert await history.fetch_filter(TENANT, rows[2].id) == rows[2]
    assert await history.fetch_filter(new_id(), rows[2].id) is None


async def test_an_event_with_everything_reads_as_it_was_written(store: PostgresStore, writer: Writer) -> None:
    row: EventRow = make_event(
        key="ключ", scope="", priority=3, payload=b'{"a":1}', webhook="github", filter_errors="[]"
    )
    await writer.commit(events=[row])
    assert await store.history.fetch_event(TENANT, row.id) == row
