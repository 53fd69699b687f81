"""What people list and look up, on both ends of the range of Postgres: live and ended runs alike."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from broadaxe_storage.config import DatabaseConfig
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.records import (
    FINAL_STATES,
    RateLimitRow,
    TaskEventKind,
    TaskRunRow,
    TaskRunState,
    WorkerStatus,
)
from broadaxe_storage.summaries import LogQuery, RateLimitQuery, RunQuery, RunSummary
from tests.conformance.store_suite import Writer
from tests.factories import (
    TENANT,
    VERSION,
    WORKER,
    make_finish,
    make_log,
    make_member,
    make_pause,
    make_rate_limit,
    make_run,
    make_run_finish,
    make_settle,
    make_task_event,
    make_task_run,
    make_version,
    make_worker,
    new_id,
    now_us,
)
from tests.postgres import TestServer

HOUR_US = 3_600_000_000
S = TaskRunState


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


class World:
    """Runs of every kind, live and ended, an hour old and a microsecond apart."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.start = now_us() - HOUR_US
        self.workflow, self.parent, self.event, self.worker = new_id(), new_id(), new_id(), new_id()
        both = {"metadata": '{"a": "x", "n": 1}', "idempotency_key": "key \u00e4"}
        self.rows: dict[str, TaskRunRow] = {
            "queued": self._make(0, make_task_run, spill_queue="q"),
            "running": self._make(1, make_task_run, state=S.RUNNING, worker_id=self.worker, **both),
            "done": self._make(2, make_task_run, workflow_id=self.workflow, parent_task_run_id=self.parent),
            "failed": self._make(3, make_task_run, triggering_event_id=self.event, metadata='{"a": "x"}'),
            "run": self._make(
                4,
                make_run,
                input=b"[4]",
                parent_task_run_id=self.parent,
                triggering_event_id=self.event,
                **both,
            ),
            "waiting run": self._make(5, make_run, workflow_id=self.workflow),
            "ended run": self._make(
                6, make_run, input=b"[6]", workflow_id=self.workflow, metadata='{"a": "y", "b": "z"}'
            ),
        }
        for name, number in (("run", 10), ("waiting run", 12), ("ended run", 14)):
            for n in range(2):
                run = self.rows[name]
                self.rows[f"{name} {n}"] = self._make(
                    number + n, make_member, run, step_index=n, workflow_id=run.workflow_id
                )
        self.ends = {
            name: self.start + 100 + n for n, name in enumerate(("done", "failed", "run 0", "ended run 0"))
        }

    def _make(self, number: int, make: Any, *of: TaskRunRow, **fields: Any) -> TaskRunRow:
        at = self.start + number
        row: TaskRunRow = make(*of, created_at=at, queued_at=at, **fields)
        return row

    def _end(self, name: str) -> dict[str, Any]:
        return {"finished_at": self.ends.get(name, self.start + 200), "worker_id": self.worker}

    async def build(self) -> None:
        rows = self.rows
        await self.writer.commit(created=rows.values())
        await self.writer.commit(
            finished=[
                make_finish(rows["done"], output=b"[2]", **self._end("done")),
                make_finish(rows["failed"], state=S.FAILED, **self._end("failed")),
            ],
            settled=[
                make_settle(rows["run 0"], output=b"[10]", **self._end("run 0")),
                make_settle(rows["ended run 0"], output=b"[14]", **self._end("ended run 0")),
                make_settle(rows["ended run 1"], state=S.CANCELLED, **self._end("ended run 1")),
            ],
            ended=[
                make_run_finish(rows["ended run"], 2, state=S.CANCELLED, finished_at=self.start + 300),
            ],
        )
        foreign = [
            self._make(n, make_task_run, tenant_id=new_id(), workflow_id=self.workflow) for n in range(2)
        ]
        await self.writer.commit(created=foreign)
        await self.writer.commit(finished=[make_finish(foreign[1])])

    def names(self, rows: Sequence[RunSummary | str]) -> list[str]:
        by_id = {row.id: name for name, row in self.rows.items()}
        return [by_id[row if isinstance(row, str) else row.id] for row in rows]


@pytest.fixture
async def world(writer: Writer) -> World:
    world = World(writer)
    await world.build()
    return world


# ---------------------------------------------------------------- listings of runs


async def test_runs_are_listed_newest_first_live_and_ended_alike(store: PostgresStore, world: World) -> None:
    history, query = store.history, RunQuery(world.start)
    names = ["ended run", "waiting run", "run", "failed", "done", "running", "queued"]
    found = await history.list_runs(TENANT, query, limit=50)
    assert world.names(found) == names
    assert [row.state for row in found] == [
        S.CANCELLED,
        S.QUEUED,
        S.RUNNING,
        S.FAILED,
        S.COMPLETED,
        S.RUNNING,
        S.QUEUED,
    ]
    assert [row.is_run_of_several for row in found] == [True, True, True, False, False, False, False]
    assert [row.is_final for row in found] == [row.state in FINAL_STATES for row in found]
    for offset in range(9):
        page = await history.list_runs(TENANT, query, limit=3, offset=offset)
        assert world.names(page) == names[offset : offset + 3]
    assert sorted(world.names(await history.list_run_ids(TENANT, query))) == sorted(names)
    assert await history.list_runs(new_id(), query, limit=50) == []


async def test_task_runs_are_listed_without_the_rows_of_their_runs(
    store: PostgresStore, world: World
) -> None:
    history, query = store.history, RunQuery(world.start, only_tasks=True)
    names = ["ended run 1", "ended run 0", "waiting run 1", "waiting run 0", "run 1", "run 0"]
    names += ["failed", "done", "running", "queued"]
    found = await history.list_runs(TENANT, query, limit=50)
    assert world.names(found) == names
    assert [row.finished_at for row in found[:2]] == [world.start + 200, world.ends["ended run 0"]]
    assert not any(row.is_run_of_several for row in found)
    for offset in range(12):
        page = await history.list_runs(TENANT, query, limit=4, offset=offset)
        assert world.names(page) == names[offset : offset + 4]


CASES: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"states": (S.QUEUED,)}, "waiting run, queued", "waiting run 1, waiting run 0, run 1, queued"),
    ({"states": (S.RUNNING, S.ASSIGNED)}, "run, running", "running"),
    ({"states": (S.COMPLETED,)}, "done", "ended run 0, run 0, done"),
    ({"states": (S.FAILED, S.CANCELLED)}, "ended run, failed", "ended run 1, failed"),
    (
        {"states": (S.FAILED, S.QUEUED)},
        "waiting run, failed, queued",
        "waiting run 1, waiting run 0, run 1, failed, queued",
    ),
    ({"states": (S.BACKING_OFF,)}, "", ""),
    ({"metadata": (("a", "x"),)}, "run, failed, running", "run 1, run 0, failed, running"),
    (
        {"metadata": (("a", "y"), ("n", "1"))},
        "ended run, run, running",
        "ended run 1, ended run 0, run 1, run 0, running",
    ),
    (
        {"metadata": (("a", "x"), ("n", "1")), "needs_all_metadata": True},
        "run, running",
        "run 1, run 0, running",
    ),
    ({"metadata": (("a", "y"), ("n", "1")), "needs_all_metadata": True}, "", ""),
    ({"metadata": (("c", "y"),)}, "", ""),
    ({"idempotency_keys": ("key \u00e4", "other")}, "run, running", "run 1, run 0, running"),
    ({"idempotency_keys": ("key",)}, "", ""),
    (
        {"workflow_ids": ("{workflow}",)},
        "ended run, waiting run, done",
        "ended run 1, ended run 0, waiting run 1, waiting run 0, done",
    ),
    ({"parent_task_run_id": "{parent}"}, "run, done", "run 1, run 0, done"),
    ({"triggering_event_id": "{event}"}, "run, failed", "run 1, run 0, failed"),
    ({"triggering_event_id": "{event}", "states": (S.FAILED,)}, "failed", "failed"),
    ({"until": 3}, "failed, done, running, queued", "failed, done, running, queued"),
    (
        {"since": 5},
        "ended run, waiting run",
        "ended run 1, ended run 0, waiting run 1, waiting run 0, run 1, run 0",
    ),
    ({"since": 100_000_000}, "", ""),
)


def query_of(world: World, fields: dict[str, Any]) -> RunQuery:
    """A query from a case: times count from the world's start, `{name}` stands for one of its ids."""
    ids = {"{workflow}": world.workflow, "{parent}": world.parent, "{event}": world.event}
    query = RunQuery(0)
    for name, value in fields.items():
        if name in ("since", "until"):
            given: Any = world.start + value
        elif name == "workflow_ids":
            given = tuple(ids[item] for item in value)
        else:
            given = ids[value] if isinstance(value, str) else value
        query = query._replace(**{name: given})
    return query


async def test_filters_narrow_a_listing_and_its_count(store: PostgresStore, world: World) -> None:
    history = store.history
    for fields, runs, tasks in CASES:
        query = query_of(world, fields)
        for only_tasks, expected in ((False, runs), (True, tasks)):
            wanted = query._replace(only_tasks=only_tasks)
            names = expected.split(", ") if expected else []
            assert world.names(await history.list_runs(TENANT, wanted, limit=50)) == names, fields
            assert await history.count_runs(TENANT, wanted) == len(names), fields
            assert await history.count_runs(TENANT, wanted, cap=2) == min(2, len(names)), fields
        found = world.names(await history.list_run_ids(TENANT, query))
        assert sorted(found) == sorted(runs.split(", ") if runs else []), fields


async def test_tasks_are_found_by_their_last_worker(store: PostgresStore, world: World) -> None:
    query = RunQuery(0, only_tasks=True, worker_id=world.worker)
    found = await store.history.list_runs(TENANT, query, limit=50)
    assert world.names(found) == ["ended run 1", "ended run 0", "run 0", "failed", "done", "running"]
    assert await store.history.count_runs(TENANT, query) == 6
    assert await store.history.count_runs(TENANT, query._replace(worker_id=WORKER)) == 0


async def test_payloads_come_when_asked_for(store: PostgresStore, world: World) -> None:
    history, query = store.history, RunQuery(0)
    bare = await history.list_runs(TENANT, query, limit=50)
    bare += await history.list_runs(TENANT, query._replace(only_tasks=True), limit=50)
    bare += await history.list_tasks_of(TENANT, [world.rows["ended run"].id])
    assert {(row.input, row.output) for row in bare} == {(b"", None)}
    runs = await history.list_runs(TENANT, query, limit=50, has_payloads=True)
    by_name = dict(zip(world.names(runs), runs, strict=True))
    assert (by_name["done"].input, by_name["done"].output) == (b"{}", b"[2]")
    assert (by_name["failed"].output, by_name["failed"].error) == (None, b"boom")
    assert (by_name["ended run"].input, by_name["ended run"].output) == (b"[6]", None)
    tasks = await history.list_runs(TENANT, query._replace(only_tasks=True), limit=50, has_payloads=True)
    by_name = dict(zip(world.names(tasks), tasks, strict=True))
    assert (by_name["ended run 0"].input, by_name["ended run 0"].output) == (b"[6]", b"[14]")
    assert (by_name["run 0"].input, by_name["run 0"].output) == (b"[4]", b"[10]")


async def test_a_task_run_of_several_shows_what_its_run_has(store: PostgresStore, world: World) -> None:
    found = await store.history.list_runs(TENANT, RunQuery(0, only_tasks=True), limit=50)
    by_name = dict(zip(world.names(found), found, strict=True))
    task, run = by_name["run 0"], world.rows["run"]
    assert (task.parent_task_run_id, task.triggering_event_id) == (
        run.parent_task_run_id,
        run.triggering_event_id,
    )
    assert (task.metadata, task.idempotency_key) == (run.metadata, run.idempotency_key)
    assert by_name["ended run 1"].metadata == world.rows["ended run"].metadata


async def test_a_listing_reaches_over_days(store: PostgresStore, writer: Writer) -> None:
    day = 24 * HOUR_US
    now = now_us()
    rows = [make_task_run(created_at=now - n * day) for n in range(5)]
    await writer.commit(created=rows)
    await writer.commit(finished=[make_finish(row, finished_at=row.created_at + 5) for row in rows[1:]])
    for n in range(5):
        found = await store.history.list_runs(TENANT, RunQuery(now - n * day), limit=10)
        assert [row.id for row in found] == [row.id for row in rows[: n + 1]]
    # A clock that was set back between creation and end.
    early = make_task_run(created_at=now + HOUR_US)
    await writer.commit(created=[early])
    await writer.commit(finished=[make_finish(early, finished_at=now)])
    assert [row.id for row in await store.history.list_runs(TENANT, RunQuery(now + 1), limit=10)] == [
        early.id
    ]


METADATA = (
    ("text", '{"v": "5"}'),
    ("number", '{"v": 5}'),
    ("fraction", '{"v": 5.0}'),
    ("list", '{"v": ["5", 5, true, "x"]}'),
    ("boolean", '{"v": true}'),
    ("true text", '{"v": "true"}'),
    ("word", '{"v": "x"}'),
    ("object", '{"v": {"x": 1}}'),
    ("null", '{"v": null}'),
    ("deeper", '{"w": {"v": "x"}}'),
    ("quotes", json.dumps({'a"b$.\\': "'\u00e4"})),
    ("none", "{}"),
)


@pytest.mark.parametrize("is_ended", [False, True])
@pytest.mark.parametrize(
    ("items", "needs_all", "found"),
    [
        ((("v", "5"),), False, {"text", "number"}),
        ((("v", "5.0"),), False, {"fraction"}),
        ((("v", "true"),), False, {"boolean", "true text"}),
        ((("v", "x"),), False, {"word"}),
        ((("v", '{"x": 1}'),), False, {"object"}),
        ((("v", "null"),), False, set()),
        ((("v", "x"), ("v", "5")), False, {"text", "number", "word"}),
        ((("v", "x"), ("v", "5")), True, set()),
        ((("v", "x"), ("n", "0")), True, {"word"}),
        ((("v", "x"), ("n", "1")), False, {"word", "deeper"}),
        ((('a"b$.\\', "'\u00e4"),), False, {"quotes"}),
        ((("v", "y"),), False, set()),
    ],
)
async def test_metadata_are_compared_as_text(
    store: PostgresStore,
    writer: Writer,
    items: tuple[tuple[str, str], ...],
    needs_all: bool,
    found: set[str],
    is_ended: bool,
) -> None:
    def made(name: str, text: str) -> str:
        return json.dumps(json.loads(text) | {"n": int(name == "deeper")}) if text != "{}" else text

    lone = {name: make_task_run(metadata=made(name, text)) for name, text in METADATA}
    runs = {name: make_run(metadata=made(name, text)) for name, text in METADATA}
    tasks = {name: make_member(run) for name, run in runs.items()}
    await writer.commit(created=[*lone.values(), *runs.values(), *tasks.values()])
    if is_ended:
        await writer.commit(
            finished=[make_finish(row) for row in lone.values()],
            settled=[make_settle(row) for row in tasks.values()],
            ended=[make_run_finish(run, 1) for run in runs.values()],
        )
    query = RunQuery(0, metadata=items, needs_all_metadata=needs_all)
    history = store.history
    for only_tasks, kinds in ((False, (lone, runs)), (True, (lone, tasks))):
        wanted = query._replace(only_tasks=only_tasks)
        expected = {rows[name].id for rows in kinds for name in found}
        assert {row.id for row in await history.list_runs(TENANT, wanted, limit=50)} == expected
        assert await history.count_runs(TENANT, wanted) == len(expected)
    assert set(await history.list_run_ids(TENANT, query)) == {
        rows[name].id for rows in (lone, runs) for name in found
    }


@pytest.mark.parametrize("kind", ["all", "one workflow", "two workflows", "metadata"])
async def test_pages_follow_each_other_whatever_comes_meanwhile(
    store: PostgresStore, writer: Writer, kind: str
) -> None:
    often, other, third = new_id(), new_id(), new_id()
    start = now_us() - HOUR_US
    rows = [
        # Three rows of each moment: of those the id decides.
        make_task_run(
            created_at=start + n // 3,
            workflow_id=often if n % 10 < 7 else (other, third)[n % 2],
            metadata='{"a": "x"}',
        )
        for n in range(1_800)
    ]
    await writer.commit(created=rows)
    await writer.commit(finished=[make_finish(row, state=S.FAILED) for row in rows[::2]])
    query = {
        "all": RunQuery(start),
        "one workflow": RunQuery(start, workflow_ids=(often,)),
        "two workflows": RunQuery(start, workflow_ids=(other, often)),
        "metadata": RunQuery(start, metadata=(("a", "x"),)),
    }[kind]
    wanted = sorted(
        (row for row in rows if row.workflow_id in (query.workflow_ids or (often, other, third))),
        key=lambda row: (row.created_at, row.id),
        reverse=True,
    )
    history = store.history
    found: list[str] = []
    for offset in range(0, len(wanted), 250):
        found += [row.id for row in await history.list_runs(TENANT, query, limit=250, offset=offset)]
        if offset == 1_000:
            late = make_task_run(workflow_id=often, metadata='{"a": "x"}')
            await writer.commit(created=[late])
    assert found == [row.id for row in wanted]
    # A page up to which nobody has read is counted from the newest.
    at = len(wanted) - 30
    page = await history.list_runs(TENANT, query, limit=3, offset=at + 1)
    assert [row.id for row in page] == [row.id for row in wanted[at : at + 3]]
    assert (await history.list_runs(TENANT, query, limit=1))[0].id == late.id


async def test_task_runs_are_counted_by_state_and_end(store: PostgresStore, world: World) -> None:
    history = store.history
    counts = await history.count_states(TENANT, RunQuery(0, only_tasks=True))
    assert counts == {
        S.QUEUED: 1,
        S.RUNNING: 1,
        S.COMPLETED: 3,
        S.FAILED: 1,
        S.CANCELLED: 1,
        S.WAITING: 3,
    } or sum(counts.values()) == len([name for name, row in world.rows.items() if row.step_index >= 0])
    assert await history.count_states(TENANT, RunQuery(0, only_tasks=True, metadata=(("b", "z"),))) == {
        S.COMPLETED: 1,
        S.CANCELLED: 1,
    }
    assert await history.count_states(new_id(), RunQuery(0)) == {}
    stretch = 60
    ends = await history.count_ends(TENANT, world.start, world.start + HOUR_US, stretch)
    begun = {at for at, _, _ in ends}
    assert all(at % (stretch * 1_000_000) == 0 for at in begun)
    by_state: dict[int, int] = {}
    for _, state, count in ends:
        by_state[state] = by_state.get(state, 0) + count
    assert by_state == {S.COMPLETED: 3, S.FAILED: 1, S.CANCELLED: 1}
    assert await history.count_ends(TENANT, world.start + 1_000, world.start + HOUR_US, stretch) == []
    assert await history.count_ends(new_id(), world.start, world.start + HOUR_US, stretch) == []


# ---------------------------------------------------------------- by id


async def test_rows_are_fetched_by_id_and_by_run(store: PostgresStore, world: World) -> None:
    history, rows = store.history, world.rows

    async def fetch(*names: str) -> list[str]:
        found = await history.fetch_rows(TENANT, [rows[name].id for name in names])
        return sorted(world.names(found))

    assert await fetch("run", "run 0", "done", "queued") == ["done", "queued", "run", "run 0", "run 1"]
    assert await fetch("ended run", "ended run 1") == ["ended run", "ended run 0", "ended run 1"]
    assert await fetch("ended run 1") == ["ended run 1"]
    assert await history.fetch_rows(new_id(), [rows["run"].id, rows["ended run"].id]) == []
    (done,) = await history.fetch_rows(TENANT, [rows["done"].id])
    assert (done.input, done.output, done.finished_at) == (b"{}", b"[2]", world.ends["done"])
    assert done.workflow_version_id == VERSION


async def test_a_run_is_no_task_and_a_task_of_several_no_run(store: PostgresStore, world: World) -> None:
    history, rows = store.history, world.rows
    for name, tasks in (("run", 2), ("ended run", 2), ("done", 0), ("queued", 0)):
        assert len(await history.fetch_run_rows(TENANT, rows[name].id)) == 1 + tasks
    for name in ("run 0", "ended run 0"):
        assert await history.fetch_run_rows(TENANT, rows[name].id) == []
        task = await history.fetch_task(TENANT, rows[name].id)
        assert task is not None
        assert (task.id, task.state) == (rows[name].id, S.COMPLETED)
    for name in ("run", "ended run"):
        assert await history.fetch_task(TENANT, rows[name].id) is None
    assert await history.fetch_task(TENANT, rows["queued"].id) is not None
    assert await history.fetch_task(new_id(), rows["queued"].id) is None
    assert await history.fetch_task(TENANT, new_id()) is None


async def test_task_runs_of_several_runs_are_listed(store: PostgresStore, world: World) -> None:
    rows = world.rows
    wanted = [rows[name].id for name in ("run", "ended run", "done")]
    found = await store.history.list_tasks_of(TENANT, wanted, has_payloads=True)
    assert sorted(world.names(found)) == ["ended run 0", "ended run 1", "run 0", "run 1"]
    assert {row.output for row in found} == {None, b"[10]", b"[14]"}
    assert await store.history.list_tasks_of(new_id(), wanted) == []


async def test_children_are_listed_and_counted(store: PostgresStore, world: World) -> None:
    history = store.history
    found = await history.list_children(TENANT, [world.parent, new_id()], 10)
    assert world.names(found) == ["done", "run"]
    assert {row.input for row in found} == {b""}
    assert world.names(await history.list_children(TENANT, [world.parent], 1)) == ["done"]
    assert await history.count_children(TENANT, world.parent) == 2
    assert await history.count_children(new_id(), world.parent) == 0


# ---------------------------------------------------------------- timelines


async def test_the_timeline_joins_a_row_with_its_entries(store: PostgresStore, writer: Writer) -> None:
    row = make_task_run(created_at=1_000, queued_at=1_000)
    retrying = make_task_event(row.id, at=1_500, kind=TaskEventKind.RETRYING, message=b"boom")
    await writer.commit(created=[row], task_events=[retrying])
    times = {"queued_at": 2_000, "assigned_at": 3_000, "started_at": 4_000, "finished_at": 5_000}
    await writer.commit(finished=[make_finish(row, attempt=1, state=S.FAILED, error=b"bad", **times)])
    found = await store.history.fetch_timeline(TENANT, [row.id])
    assert [(e.kind, e.attempt, e.at, e.worker_id, e.message) for e in found] == [
        (TaskEventKind.CREATED, 0, 1_000, None, b""),
        (TaskEventKind.RETRYING, 0, 1_500, None, b"boom"),
        (TaskEventKind.QUEUED, 1, 2_000, None, b""),
        (TaskEventKind.ASSIGNED, 1, 3_000, WORKER, b""),
        (TaskEventKind.STARTED, 1, 4_000, WORKER, b""),
        (TaskEventKind.FAILED, 1, 5_000, WORKER, b"bad"),
    ]


async def test_the_timeline_of_a_live_task_run_tells_only_what_has_come(
    store: PostgresStore, writer: Writer
) -> None:
    kinds = TaskEventKind
    run = make_run()
    later = {"created_at": 1_000, "queued_at": 9_000}
    waiting = make_member(run, state=S.WAITING, **later)
    backing_off = make_task_run(state=S.BACKING_OFF, attempt=1, assigned_at=2_000, **later)
    skipped, done = make_member(run, created_at=1_000, queued_at=1_000), make_member(run, created_at=1_000)
    rows = (run, waiting, backing_off, skipped, done)
    settled = (
        make_settle(
            skipped,
            state=S.SKIPPED,
            error=None,
            assigned_at=None,
            started_at=None,
            finished_at=3_000,
        ),
        make_settle(done, queued_at=2_000, assigned_at=3_000, started_at=4_000, finished_at=5_000),
    )
    await writer.commit(created=rows, settled=settled)

    async def timeline(task_run_id: str) -> list[tuple[int, int]]:
        return [(e.kind, e.at) for e in await store.history.fetch_timeline(TENANT, [task_run_id])]

    whole = [
        (kinds.CREATED, 1_000),
        (kinds.QUEUED, 2_000),
        (kinds.ASSIGNED, 3_000),
        (kinds.STARTED, 4_000),
        (kinds.FINISHED, 5_000),
    ]
    assert await timeline(run.id) == []
    assert await timeline(waiting.id) == [(kinds.CREATED, 1_000)]
    assert await timeline(backing_off.id) == [(kinds.CREATED, 1_000)]
    assert await timeline(skipped.id) == [(kinds.CREATED, 1_000), (kinds.SKIPPED, 3_000)]
    assert await timeline(done.id) == whole
    end = make_settle(waiting, state=S.CANCELLED)
    await writer.commit(settled=[end], ended=[make_run_finish(run, 3)])
    assert await timeline(run.id) == []
    assert await timeline(done.id) == whole


async def test_timelines_of_several_task_runs_come_together(store: PostgresStore, writer: Writer) -> None:
    rows = [make_task_run(created_at=1_000 + n, queued_at=1_010 + n) for n in range(3)]
    await writer.commit(created=rows, task_events=[make_task_event(rows[0].id, at=1_005)])
    found = await store.history.fetch_timeline(TENANT, [row.id for row in rows[:2]])
    assert [(e.task_run_id, e.at) for e in found] == [
        (rows[0].id, 1_000),
        (rows[1].id, 1_001),
        (rows[0].id, 1_005),
        (rows[0].id, 1_010),
        (rows[1].id, 1_011),
    ]
    assert await store.history.fetch_timeline(new_id(), [row.id for row in rows]) == []


# ---------------------------------------------------------------- log lines


async def test_log_lines_are_counted_by_level_and_time(store: PostgresStore, writer: Writer) -> None:
    minute = 60_000_000
    task = make_task_run()
    lines = [
        make_log(task.id, created_at=at, level=level, message=b"Oops" if at else b"fine")
        for at, level in (
            (0, "INFO"),
            (1, "INFO"),
            (minute, "ERROR"),
            (minute + 1, None),
            (2 * minute, "INFO"),
        )
    ]
    await writer.commit(created=[task], logs=[*lines, make_log(new_id(), tenant_id=new_id(), created_at=0)])
    history = store.history
    assert sorted(await history.count_logs(TENANT, LogQuery(), 60)) == [
        (0, "INFO", 2),
        (minute, "ERROR", 1),
        (2 * minute, "INFO", 1),
    ]
    query = LogQuery(since=0, until=2 * minute, search="oops", workflow_ids=(task.workflow_id,))
    assert sorted(await history.count_logs(TENANT, query, 60)) == [(0, "INFO", 1), (minute, "ERROR", 1)]


async def test_log_lines_are_found_by_what_they_are(
    store: PostgresStore, world: World, writer: Writer
) -> None:
    single, task, other = (world.rows[name].id for name in ("done", "run 0", "ended run 1"))
    lines = [
        make_log(single, created_at=10, message=b"Hello World", level="INFO"),
        make_log(single, created_at=20, message="\u00c4rger".encode(), level="ERROR", attempt=1),
        make_log(task, created_at=15, message=b"hello\x00again", level=None),
        make_log(task, created_at=15, message=b"second of its time", level="WARN", metadata='{"a": 1}'),
        make_log(other, created_at=30, message=b"bye", level="DEBUG"),
    ]
    await writer.commit(logs=[*lines, make_log(single, tenant_id=new_id(), created_at=12)])
    run, version = world.rows["run"].id, world.rows["done"].workflow_version_id
    for fields, expected in (
        ({}, [0, 2, 3, 1, 4]),
        ({"is_descending": True}, [4, 1, 3, 2, 0]),
        ({"limit": 2}, [0, 2]),
        ({"limit": 2, "is_descending": True}, [4, 1]),
        ({"task_run_ids": (single,)}, [0, 1]),
        ({"task_run_ids": (run,)}, [2, 3]),
        ({"task_run_ids": (single, task, run), "is_descending": True}, [1, 3, 2, 0]),
        ({"task_run_ids": (new_id(),)}, []),
        ({"since": 10, "until": 20}, [2, 3]),
        ({"since": 15}, [1, 4]),
        ({"search": "HELLO"}, [0, 2]),
        ({"search": "\u00e4RGER"}, [1]),
        ({"search": "%"}, []),
        ({"levels": ("ERROR", "WARN")}, [3, 1]),
        ({"attempt": 1}, [1]),
        ({"attempt": 0, "levels": ("INFO",)}, [0]),
        ({"workflow_ids": (world.workflow,)}, [0, 1, 4]),
        ({"steps": ((version, 1),)}, [4]),
        ({"steps": ((version, 0), (new_id(), 1))}, [0, 2, 3, 1]),
        ({"steps": ((version, 0),), "workflow_ids": (world.workflow,)}, [0, 1]),
        ({"steps": ()}, []),
    ):
        found = await store.history.list_logs(TENANT, LogQuery(**fields))
        assert [lines.index(line) for line in found] == expected, fields


# ---------------------------------------------------------------- workflows and workers


async def test_workflows_are_listed_by_name_as_their_newest_versions(
    store: PostgresStore, writer: Writer
) -> None:
    history = store.history
    older = make_version(name="Beta")
    newer = older._replace(id=new_id(), number=2)
    others = [make_version(name=name) for name in ("alpha", "gamma_beta", "delta")]
    foreign = make_version(name="beta", tenant_id=new_id())
    await writer.commit(workflow_versions=[older, newer, *others, foreign])
    names = sorted(["Beta", "alpha", "gamma_beta", "delta"])
    found = await history.list_workflows(TENANT, limit=10)
    assert sorted(row.name for row in found) == names
    assert newer in found
    pages = [await history.list_workflows(TENANT, limit=1, offset=n) for n in range(5)]
    assert [row for page in pages for row in page] == found
    assert await history.list_workflows(TENANT, "BET", limit=10) == [
        row for row in found if "eta" in row.name
    ]
    assert await history.list_workflows(TENANT, "a_b", limit=10) == [others[1]]
    assert [await history.count_workflows(TENANT, name) for name in ("", "bet", "nothing")] == [4, 2, 0]
    assert await history.fetch_workflow(TENANT, older.workflow_id) == newer
    assert await history.fetch_workflow(new_id(), older.workflow_id) is None
    pause = make_pause(older.workflow_id)
    await writer.commit(pauses=[pause])
    ids = [row.workflow_id for row in (older, *others)]
    assert await history.fetch_workflow_pauses(TENANT, ids) == [pause]
    assert await history.fetch_workflow_pauses(new_id(), ids) == []


async def test_workers_are_listed_newest_first(store: PostgresStore, writer: Writer) -> None:
    now = now_us()
    active = make_worker(created_at=1, updated_at=1, actions=("a:b", "c:d"))
    lost = make_worker(status=WorkerStatus.LOST, created_at=2, updated_at=now)
    stopped = make_worker(status=WorkerStatus.STOPPED, created_at=3, updated_at=now)
    old = make_worker(status=WorkerStatus.STOPPED, created_at=4, updated_at=now - 1)
    await writer.commit(workers=[active, lost, stopped, old, make_worker(tenant_id=new_id())])
    assert await store.history.list_workers(TENANT, now) == [stopped, lost, active]
    assert await store.history.fetch_worker(TENANT, old.id) == old
    assert await store.history.fetch_worker(new_id(), old.id) is None


# ---------------------------------------------------------------- rate limits


def limits_of(rows: Sequence[RateLimitRow]) -> list[str]:
    return [row.key for row in rows]


@pytest.fixture
async def limits(writer: Writer) -> dict[str, RateLimitRow]:
    """Keys that share a long beginning among them; one whose window is over; one that was only paused."""
    now = now_us()
    rows = [
        make_rate_limit("b", limit_value=30, units_left=1, window_start=now),
        make_rate_limit("B", limit_value=10, units_left=7, window_start=now),
        make_rate_limit("a" * 300 + "2", limit_value=20, units_left=0, window_start=now - HOUR_US),
        make_rate_limit("a" * 300 + "1", limit_value=20, units_left=2, window_start=now),
        make_rate_limit("\u00e4", limit_value=None, units_left=0, window_start=now, paused_until=now),
    ]
    await writer.commit(rate_limits=[*rows, make_rate_limit("b2", tenant_id=new_id())])
    return {row.key: row for row in rows}


async def test_rate_limits_are_listed_in_any_order(
    store: PostgresStore, limits: dict[str, RateLimitRow]
) -> None:
    one, two = "a" * 300 + "1", "a" * 300 + "2"
    for query, expected in {
        RateLimitQuery(): ["B", one, two, "b", "\u00e4"],
        RateLimitQuery(is_descending=True): ["\u00e4", "b", two, one, "B"],
        RateLimitQuery(order_by="limit"): ["\u00e4", "B", one, two, "b"],
        RateLimitQuery(order_by="limit", is_descending=True): ["b", one, two, "B", "\u00e4"],
        RateLimitQuery(order_by="value"): ["\u00e4", "b", one, "B", two],
        RateLimitQuery(order_by="value", is_descending=True): [two, "B", one, "b", "\u00e4"],
    }.items():
        found = await store.history.list_rate_limits(TENANT, query, now_us(), limit=10)
        assert limits_of(found) == expected, query
        assert found == [limits[key] for key in expected]
        pages = [
            await store.history.list_rate_limits(TENANT, query, now_us(), limit=2, offset=offset)
            for offset in (0, 2, 4)
        ]
        assert [row.key for page in pages for row in page] == expected, query
    assert await store.history.count_rate_limits(TENANT, RateLimitQuery()) == 5
    assert await store.history.count_rate_limits(TENANT, RateLimitQuery(), cap=3) == 3


async def test_rate_limits_are_found_by_a_part_of_their_key(
    store: PostgresStore, limits: dict[str, RateLimitRow]
) -> None:
    for search, expected in {"B": ["B", "b"], "a1": ["a" * 300 + "1"], "\u00e4": ["\u00e4"], "%": []}.items():
        for order in ("key", "limit", "value"):
            query = RateLimitQuery(search, order)
            found = await store.history.list_rate_limits(TENANT, query, now_us(), limit=10)
            assert sorted(limits_of(found)) == sorted(expected)
            assert await store.history.count_rate_limits(TENANT, query) == len(expected)
    assert not await store.history.list_rate_limits(new_id(), RateLimitQuery(), now_us(), limit=10)
