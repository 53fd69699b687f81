"""Crons and scheduled runs through a whole shard on virtual time: on time, once, over kills, moves, pauses and faults."""

import asyncio
import json
import random

import pytest

from broadaxe_actors import timers, timetable
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import DeleteWorkflow, PauseWorkflow, UnpauseWorkflow
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.memory import CommitFault, NoFaults
from broadaxe_storage.records import Batch
from broadaxe_storage.records_timers import TimerKind
from tests.factories import TENANT, make_cron, make_scheduled_run, new_id
from tests.unit.actors.timer_lives import MINUTE, SECOND, CountingStore, Life, flow, live, sleep_until

HOUR = 60 * MINUTE
ON_TIME_US = 20_000


# ---------------------------------------------------------------- scheduled runs


def test_scheduled_runs_fire_on_time_with_all_that_they_were_given() -> None:
    async def story(life: Life) -> None:
        await life.put(flow())
        times = [life.now + n * SECOND for n in (5, 1, 3)]
        ids = await life.schedule(*times, input=b'{"n":1}', metadata='{"team":"a"}', priority=3)
        assert [life.scheduled(item).trigger_at for item in ids] == times
        await asyncio.sleep(6)
        by_id = {row.id: row for row in life.runs()}
        for scheduled_id, at in zip(ids, times, strict=True):
            row = life.scheduled(scheduled_id)
            run = by_id[row.run_id or ""]
            assert at <= run.created_at <= at + ON_TIME_US
            assert (run.priority, run.input) == (3, b'{"n":1}')
            assert json.loads(run.metadata)["team"] == "a"
        assert len(by_id) == 3
        await life.stop()

    live(story)


def test_a_time_that_has_passed_fires_at_once() -> None:
    async def story(life: Life) -> None:
        await life.put(flow())
        (scheduled_id,) = await life.schedule(life.now - HOUR)
        await asyncio.sleep(0.02)
        assert life.scheduled(scheduled_id).run_id == life.runs()[0].id
        await life.stop()

    live(story)


def test_an_unknown_workflow_is_refused_and_the_nearest_named() -> None:
    async def story(life: Life) -> None:
        await life.put(flow("orders"))
        for asking in (life.schedule(life.now, workflow="order"), life.cron("* * * * *", workflow="order")):
            with pytest.raises(
                Refused, match=r"workflow not found: 'order' .* did you mean 'orders'"
            ) as refused:
                await asking
            assert refused.value.code == Code.NOT_FOUND
        assert life.disk.scheduled_runs == life.disk.crons == {}
        await life.stop()

    live(story)


def test_the_latest_version_runs() -> None:
    async def story(life: Life) -> None:
        await life.put(flow())
        await life.schedule(life.now + SECOND)
        newer = await life.put(flow(description="newer"))
        await asyncio.sleep(2)
        (run,) = life.runs()
        assert run.workflow_version_id == newer.version_id
        await life.stop()

    live(story)


def test_a_moved_run_fires_at_its_new_time_alone() -> None:
    async def story(life: Life) -> None:
        await life.put(flow())
        begun = life.now
        later, sooner, twice, gone = await life.schedule(*(begun + 5 * SECOND for _ in range(4)))
        moves = (
            (later, begun + 9 * SECOND),
            (sooner, begun + 2 * SECOND),
            (twice, begun),
            (twice, begun + SECOND),
        )
        assert await life.move(*moves) == (None,) * 4
        assert await life.delete(TimerKind.SCHEDULED, gone) == (None,)
        await asyncio.sleep(10)
        assert [round((run.created_at - begun) / SECOND, 1) for run in life.runs()] == [1, 2, 9]
        (fired,) = await life.move((later, begun + HOUR))
        assert (fired.code, "triggered already" in fired.text) == (Code.FAILED_PRECONDITION, True)
        (unknown,) = await life.move((gone, begun))
        assert (unknown.code, gone in unknown.text) == (Code.NOT_FOUND, True)
        assert [item and item.code for item in await life.delete(TimerKind.SCHEDULED, gone, later)] == [
            Code.NOT_FOUND,
            None,
        ]
        assert later not in life.disk.scheduled_runs
        await life.stop()

    live(story)


def test_what_is_declared_in_code_can_be_neither_moved_nor_deleted() -> None:
    async def story(life: Life) -> None:
        row = make_scheduled_run(is_declared=True, trigger_at=life.now + HOUR)
        life.disk.scheduled_runs[row.id] = row
        for (problem,) in (
            await life.move((row.id, life.now)),
            await life.delete(TimerKind.SCHEDULED, row.id),
        ):
            assert (problem.code, "declared in code" in problem.text) == (Code.INVALID_ARGUMENT, True)
        await life.stop()

    live(story)


@pytest.mark.parametrize("seed", range(8))
def test_moves_and_deletes_that_race_with_the_time_leave_one_run_or_none(seed: int) -> None:
    async def story(life: Life) -> None:
        rng = random.Random(seed)
        await life.put(flow())
        at = life.now + SECOND
        ids = await life.schedule(*(at for _ in range(60)))
        told: dict[str, object] = {}

        async def meddle(scheduled_id: str, kind: int) -> None:
            await asyncio.sleep((at - life.now) / SECOND + rng.uniform(-0.02, 0.03))
            if kind == 0:
                (told[scheduled_id],) = await life.move((scheduled_id, at + 2 * SECOND))
            elif kind == 1:
                (told[scheduled_id],) = await life.delete(TimerKind.SCHEDULED, scheduled_id)
            else:
                try:
                    told[scheduled_id] = await life.run_now(TimerKind.SCHEDULED, scheduled_id)
                except Refused as refused:
                    told[scheduled_id] = refused

        await asyncio.gather(*(meddle(item, number % 3) for number, item in enumerate(ids)))
        await asyncio.sleep(4)
        runs = {row.id for row in life.runs()}
        for number, scheduled_id in enumerate(ids):
            row = life.disk.scheduled_runs.get(scheduled_id)
            if number % 3 == 1:
                assert told[scheduled_id] is None
                assert row is None
            else:
                assert row is not None
                assert row.run_id in runs
                if number % 3 == 2 and isinstance(told[scheduled_id], str):
                    assert told[scheduled_id] == row.run_id
        assert len(runs) <= 60
        named = {row.run_id for row in life.disk.scheduled_runs.values()}
        assert named <= runs  # those left over are of what was deleted after it had fired
        assert len(named) == 40
        await life.stop()

    live(story, seed=seed)


def test_what_is_run_now_does_not_run_again_at_its_time() -> None:
    async def story(life: Life) -> None:
        await life.put(flow())
        (scheduled_id,) = await life.schedule(life.now + 5 * SECOND)
        run_id = await life.run_now(TimerKind.SCHEDULED, scheduled_id)
        assert life.scheduled(scheduled_id).run_id == run_id
        await asyncio.sleep(10)
        assert [row.id for row in life.runs()] == [run_id]
        with pytest.raises(Refused, match="triggered already"):
            await life.run_now(TimerKind.SCHEDULED, scheduled_id)
        with pytest.raises(Refused, match="is not known"):
            await life.run_now(TimerKind.SCHEDULED, new_id())
        await life.stop()

    live(story)


# ---------------------------------------------------------------- crons


def test_a_cron_ticks_on_time_and_each_tick_once() -> None:
    async def story(life: Life) -> None:
        await life.put(flow())
        begun = life.now
        cron_id = await life.cron("*/2 * * * * *", metadata='{"a":1}', priority=2, input=b'{"i":1}')
        await asyncio.sleep(7)
        runs = life.runs()
        assert [(row.created_at - begun) // SECOND for row in runs] == [2, 4, 6]
        assert all((row.created_at - begun) % SECOND <= ON_TIME_US for row in runs)
        assert {(row.priority, row.input) for row in runs} == {(2, b'{"i":1}')}
        assert len(set(life.ticks("c"))) == 3
        row = life.cron_row(cron_id)
        assert (row.last_tick_at, row.next_at) == (begun + 6 * SECOND, begun + 8 * SECOND)
        await life.stop()

    live(story)


def test_a_cron_of_one_name_and_expression_is_made_once() -> None:
    async def story(life: Life) -> None:
        await life.put(flow())
        await life.put(flow("other"))
        results = await asyncio.gather(
            *(life.cron("* * * * *", "same") for _ in range(3)), return_exceptions=True
        )
        assert sum(isinstance(found, str) for found in results) == 1
        refusals = [found for found in results if isinstance(found, Refused)]
        assert {refused.code for refused in refusals} == {Code.ALREADY_EXISTS}
        assert "cron 'same' of workflow 'w' exists already" in refusals[0].message
        await life.cron("1 * * * *", "same")
        await life.cron("* * * * *", "same", workflow="other")
        with pytest.raises(Refused, match="no time in the next fifty years"):
            await life.cron("0 0 30 2 *", "never")
        assert len(life.disk.crons) == 3
        await life.stop()

    live(story)


def test_a_disabled_cron_is_silent_and_goes_on_when_it_is_enabled() -> None:
    async def story(life: Life) -> None:
        await life.put(flow())
        cron_id = await life.cron("* * * * * *")
        await life.enable(cron_id, is_enabled=False)
        await asyncio.sleep(5)
        assert life.runs() == []
        await life.enable(cron_id, is_enabled=True)
        await life.enable(cron_id, is_enabled=True)
        await asyncio.sleep(2.5)
        assert len(life.ticks()) == 2
        with pytest.raises(Refused, match="is not known"):
            await life.enable(new_id(), is_enabled=True)
        assert await life.delete(TimerKind.CRON, cron_id) == (None,)
        await asyncio.sleep(5)
        assert len(life.ticks()) == 2
        await life.stop()

    live(story)


def test_a_cron_that_is_run_now_ticks_on() -> None:
    async def story(life: Life) -> None:
        await life.put(flow())
        cron_id = await life.cron("* * * * *")
        await asyncio.sleep(10)
        run_id = await life.run_now(TimerKind.CRON, cron_id)
        assert [row.id for row in life.runs()] == [run_id]
        await asyncio.sleep(55)
        assert len(life.ticks("c")) == 2
        await life.stop()

    live(story)


def test_a_registration_replaces_declared_crons_in_its_commit_and_leaves_those_of_the_api() -> None:
    async def story(life: Life) -> None:
        await life.put(flow("w", "*/2 * * * * *", "*/5 * * * * *", cron_input='{"v":1}'))
        await life.cron("*/7 * * * * *", "mine")
        kept = next(row for row in life.disk.crons.values() if row.expression == "*/5 * * * * *")
        await life.enable(kept.id, is_enabled=False)
        await asyncio.sleep(2.5)
        assert len(life.runs()) == 1
        await life.put(flow("w", "*/5 * * * * *", "*/3 * * * * *", cron_input='{"v":2}'))
        rows = {row.expression: row for row in life.disk.crons.values()}
        assert rows.keys() == {"*/5 * * * * *", "*/3 * * * * *", "*/7 * * * * *"}
        assert not rows["*/5 * * * * *"].is_enabled
        assert rows["*/5 * * * * *"].input == b'{"v":2}'
        await asyncio.sleep(5)
        assert [row.input for row in life.runs()] == [b'{"v":1}', b'{"v":2}', b'{"v":2}', b"{}"]
        await life.put(flow("w", description="no crons any more"))
        assert {row.expression for row in life.disk.crons.values()} == {"*/7 * * * * *"}
        await life.stop()

    live(story)


@pytest.mark.parametrize("seed", range(6))
def test_registrations_that_race_with_ticks_make_each_tick_at_most_once(seed: int) -> None:
    async def story(life: Life) -> None:
        rng = random.Random(seed)
        sets = [("* * * * * *",), ("* * * * * *", "*/2 * * * * *"), ("*/2 * * * * *",), ()]
        for number in range(20):
            await life.put(flow("w", *sets[rng.randrange(4)], description=str(number)))
            await sleep_until(life, life.now - life.now % SECOND + SECOND + rng.randrange(-3_000, 15_000))
        await asyncio.sleep(3)
        ticks = [
            (
                json.loads(row.metadata)["hatchet__cron_expression"],
                json.loads(row.metadata)["hatchet__cron_scheduled_at"],
            )
            for row in life.runs()
        ]
        assert len(ticks) == len(set(ticks))
        await life.stop()

    live(story, seed=seed)


# ---------------------------------------------------------------- restarts


def test_after_a_kill_what_was_due_meanwhile_fires_once_and_missed_ticks_but_the_last_are_skipped() -> None:
    async def story(life: Life) -> None:
        await life.put(flow("w", "*/10 * * * * *"))
        await life.cron("0 * * * *", "hourly")
        await asyncio.sleep(15)
        ids = await life.schedule(life.now + 20 * SECOND, life.now + HOUR)
        assert len(life.ticks()) == 1
        begun = life.now
        await life.kill()
        await asyncio.sleep(60)
        await life.start()
        await asyncio.sleep(0.1)
        # Of the six ticks that were missed the last has fired, no later than a minute after its time.
        assert len(life.ticks()) == 2
        assert life.scheduled(ids[0]).run_id is not None
        assert life.scheduled(ids[1]).run_id is None
        await life.kill()
        await asyncio.sleep(2 * 3600)
        await life.start()
        await asyncio.sleep(0.1)
        # The hourly one was due long ago.
        assert life.ticks("hourly") == []
        assert life.scheduled(ids[1]).run_id is not None
        row = next(row for row in life.disk.crons.values() if row.name == "hourly")
        assert row.next_at is not None
        assert row.next_at > life.now
        assert sum("hatchet__cron_name" not in run.metadata for run in life.runs()) == 2
        assert begun < life.now
        await life.stop()

    live(story)


class KillsAtCommits(NoFaults):
    """Kills the engine at chosen commits: before they are written, or right after."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.life: Life | None = None
        self.kills = 0

    async def on_commit(self, epoch: int, flush: int, batch: Batch) -> CommitFault:
        is_timed = batch.cron_changes or batch.scheduled_changes
        if self.life is not None and is_timed and self.rng.random() < 0.3:
            self.kills += 1
            if self.rng.random() < 0.5:
                self.life.store._write(epoch, flush, (), batch)
            self.life.store.crash()
        return CommitFault.NONE


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_any_commit_leaves_each_due_run_once(seed: int) -> None:
    faults = KillsAtCommits(seed)

    async def story(life: Life) -> None:
        await life.put(flow("w", "*/3 * * * * *"))
        begun = life.now
        ids = await life.schedule(*(begun + n * SECOND // 2 for n in range(60)))
        faults.life = life
        for _ in range(200):
            await asyncio.sleep(0.2)
            if life.store._is_closed:
                await life.shard.runtime.stop_all()
                life.hub.close()
                await life.start()
        faults.life = None
        await asyncio.sleep(2)
        runs = {row.id: row for row in life.runs()}
        fired = [life.scheduled(item) for item in ids]
        assert all(row.run_id in runs for row in fired)
        assert len({row.run_id for row in fired}) == 60
        assert all(runs[row.run_id or ""].created_at >= row.trigger_at for row in fired)
        ticks = life.ticks()
        assert len(ticks) == len(set(ticks))
        assert len(runs) == 60 + len(ticks)
        assert faults.kills > 3

    live(story, faults, seed)


class Away(NoFaults):
    def __init__(self) -> None:
        self.is_away = False

    async def on_commit(self, epoch: int, flush: int, batch: Batch) -> CommitFault:
        return CommitFault.UNAVAILABLE if self.is_away else CommitFault.NONE

    async def on_read(self, method: str) -> None:
        if self.is_away:
            raise Unavailable("away")


def test_while_postgres_is_away_nothing_is_lost_and_nothing_runs_twice() -> None:
    faults = Away()

    async def story(life: Life) -> None:
        await life.put(flow())
        ids = await life.schedule(*(life.now + n * SECOND for n in range(1, 9)))
        await asyncio.sleep(2.5)
        faults.is_away = True
        await asyncio.sleep(4)
        faults.is_away = False
        await asyncio.sleep(4)
        assert len({life.scheduled(item).run_id for item in ids}) == len(life.runs()) == 8
        await life.stop()

    live(story, faults)


def test_a_tick_that_somebody_else_has_fired_makes_no_run() -> None:
    async def story(life: Life) -> None:
        await life.put(flow())
        (scheduled_id,) = await life.schedule(life.now + SECOND)
        cron_id = await life.cron("*/2 * * * * *")
        other = new_id()
        real = life.store.fetch_scheduled_runs
        cron = life.store.fetch_crons

        async def stale_runs(*args: object) -> object:
            rows = await real(*args)  # type: ignore[arg-type]
            life.disk.scheduled_runs[scheduled_id] = life.scheduled(scheduled_id)._replace(
                fired_at=life.now, run_id=other
            )
            return rows

        async def stale_crons(*args: object) -> object:
            rows = await cron(*args)  # type: ignore[arg-type]
            row = life.cron_row(cron_id)
            life.disk.crons[cron_id] = row._replace(last_tick_at=row.next_at)
            return rows

        life.store.fetch_scheduled_runs = stale_runs  # type: ignore[method-assign,assignment]
        life.store.fetch_crons = stale_crons  # type: ignore[method-assign,assignment]
        await asyncio.sleep(3)
        assert life.runs() == []
        assert life.scheduled(scheduled_id).run_id == other
        life.store.fetch_crons = cron  # type: ignore[method-assign]
        await asyncio.sleep(3)
        assert len(life.ticks()) >= 1
        await life.stop()

    live(story)


# ---------------------------------------------------------------- pauses and other reasons not to run


@pytest.mark.parametrize("behavior", ["DROP", "QUEUE"])
def test_a_pause_drops_or_holds_what_timers_make(behavior: str) -> None:
    async def story(life: Life) -> None:
        workflow_id = (await life.put(flow("w", "*/2 * * * * *"))).workflow_id
        ids = await life.schedule(life.now + 3 * SECOND, life.now + 60 * SECOND)
        await life.hub.ask(PauseWorkflow, TENANT, workflow_id, HOUR, behavior, behavior)
        await asyncio.sleep(3.5)
        await life.kill()
        await life.start()
        await asyncio.sleep(1)
        runs = life.runs()
        row = life.scheduled(ids[0])
        if behavior == "DROP":
            assert runs == []
            assert row.error is not None
            assert "paused" in row.error
            (cron,) = life.disk.crons.values()
            assert cron.last_tick_at is not None
        else:
            assert len(runs) == 3
            assert row.run_id in {run.id for run in runs}
            assert {run.state for run in runs} == {0}
        run_id = await life.run_now(TimerKind.SCHEDULED, ids[1])
        assert life.scheduled(ids[1]).run_id == run_id
        await life.hub.ask(UnpauseWorkflow, TENANT, workflow_id)
        before = len(life.ticks())
        await asyncio.sleep(4)
        assert len(life.ticks()) == before + 2
        await life.stop()

    live(story)


def test_what_cannot_run_says_why_and_is_not_tried_for_ever() -> None:
    async def story(life: Life) -> None:
        once = {"expression": "input.key", "ttl_ms": 600_000, "method": "TTL"}
        await life.put(flow("w", idempotency=once))
        gone = make_scheduled_run(
            workflow_id=new_id(), workflow_name="gone", trigger_at=life.now + SECOND, tenant_id=TENANT
        )
        orphan = make_cron(
            workflow_id=new_id(), workflow_name="gone", next_at=life.now + SECOND, expression="* * * * * *"
        )
        await life.kill()
        life.disk.scheduled_runs[gone.id] = gone
        life.disk.crons[orphan.id] = orphan
        await life.start()
        first, second, bad = await life.schedule(
            *(life.now + n * SECOND for n in (1, 2)), input=b'{"key":"k"}'
        ) + await life.schedule(life.now + SECOND, input=b"{}")
        await asyncio.sleep(4)
        assert "workflow 'gone'" in (life.scheduled(gone.id).error or "")
        assert "not registered any more" in (life.cron_row(orphan.id).error or "")
        assert (life.cron_row(orphan.id).is_enabled, life.cron_row(orphan.id).next_at) == (False, None)
        holder = life.scheduled(first).run_id
        assert holder in (life.scheduled(second).error or "")
        assert "idempotency key collision" in (life.scheduled(second).error or "")
        assert "idempotency key could not be told" in (life.scheduled(bad).error or "")
        assert [row.id for row in life.runs()] == [holder]
        await life.stop()

    live(story)


def test_with_a_workflow_go_its_declared_crons_and_what_else_it_has_says_so_in_its_time() -> None:
    async def story(life: Life) -> None:
        workflow_id = (await life.put(flow("w", "* * * * * *"))).workflow_id
        mine = await life.cron("* * * * * *", "mine")
        (scheduled_id,) = await life.schedule(life.now + 3 * SECOND)
        await asyncio.sleep(1.5)
        assert len(life.runs()) == 2
        await life.hub.ask(DeleteWorkflow, TENANT, workflow_id)
        assert life.disk.crons.keys() == {mine}
        with pytest.raises(Refused, match="not found"):
            await life.schedule(life.now)
        await asyncio.sleep(4)
        assert len(life.runs()) == 2
        assert not life.cron_row(mine).is_enabled
        for error in (life.cron_row(mine).error, life.scheduled(scheduled_id).error):
            assert "'w'" in (error or "")
        # Another workflow of that name is another workflow.
        await life.put(flow("w", "*/2 * * * * *"))
        await asyncio.sleep(2.5)
        assert len(life.disk.crons) == 2
        assert len(life.runs()) >= 3
        await life.stop()

    live(story)


# ---------------------------------------------------------------- far timers, and none


def test_far_timers_are_paged_in_when_they_come_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "PAGE", 5)
    monkeypatch.setattr(timers, "HINTS_HIGH", 12)
    monkeypatch.setattr(timers, "HINTS_LOW", 2)
    monkeypatch.setattr(timetable, "DUE_AT_ONCE", 3)

    async def story(life: Life) -> None:
        await life.put(flow("w", "*/9 * * * * *"))
        begun = life.now
        ids = await life.schedule(*(begun + n * SECOND // 3 for n in range(1, 91)))
        await life.kill()
        await life.start()
        later = await life.schedule(*(begun + n * SECOND for n in (3, 29, 31)))
        (actor,) = (
            actor for actor in life.shard.runtime.live_actors() if isinstance(actor, timetable.Timetable)
        )
        most = 0
        while life.now < begun + 32 * SECOND:
            await asyncio.sleep(0.25)
            most = max(most, len(actor._hints))
        assert most <= 20
        runs = {row.id: row for row in life.runs()}
        for scheduled_id in (*ids, *later):
            row = life.scheduled(scheduled_id)
            assert 0 <= runs[row.run_id or ""].created_at - row.trigger_at <= 60_000
        assert len(life.ticks()) == 3
        await life.stop()

    live(story)


def test_an_idle_timetable_asks_nothing_whatever_lies_far_ahead() -> None:
    async def story(life: Life) -> None:
        await life.put(flow("w", "0 0 1 1 *"))
        await life.schedule(*(life.now + (100 + n) * 24 * HOUR for n in range(50)))
        await asyncio.sleep(1)
        reads, commits = CountingStore.reads, life.disk.commits
        await asyncio.sleep(24 * 3600)
        assert (CountingStore.reads, life.disk.commits) == (reads, commits)
        await life.stop()

    live(story)


def test_a_clock_that_is_set_forward_is_noticed_within_a_minute() -> None:
    async def story(life: Life) -> None:
        await life.put(flow())
        (scheduled_id,) = await life.schedule(life.now + 10 * HOUR)
        await asyncio.sleep(1)
        life.clock.shift_wall(11 * HOUR)
        await asyncio.sleep(61)
        assert life.scheduled(scheduled_id).run_id is not None
        await life.stop()

    live(story)
