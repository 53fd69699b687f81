"""Cancels, replays and released slots, through the tracker alone."""

import pytest

from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.errors import EngineBug
from broadaxe_actors.matching import Proposal
from broadaxe_actors.messages import (
    CancelRuns,
    HeldAttempt,
    NewRun,
    PutWorkflow,
    ReleaseSlot,
    ReplayRuns,
    ReportKind,
    ReportTasks,
    TaskReport,
    TriggerRuns,
    WatchRuns,
)
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.runtime.testing import Probe, Sent, peer
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.telemetry import Telemetry
from broadaxe_storage.memory import MemoryDisk, MemoryStore
from broadaxe_storage.records import (
    Batch,
    RunFinish,
    RunRevival,
    TaskRunFinish,
    TaskRunRow,
    TaskRunSettle,
    TaskRunState,
    TaskRunUpdate,
    WorkflowVersionRow,
)
from tests.factories import TENANT, new_id

S = TaskRunState
WORKER = new_id()
ONE = (("default", 1),)
SLEEP = {
    "kind": "sleep",
    "sleep_for": "1h",
    "action": "SKIP",
    "expression": "",
    "readable_data_key": "sleep",
    "or_group_id": "g",
}


class Bench:
    """A tracker whose records are written as they come, and whose fetches are answered at once."""

    def __init__(self, *tasks, on_failure=None):
        self.disk = MemoryDisk()
        self.store = MemoryStore(self.disk)
        self.probe = Probe(RunTracker, TENANT, self.store, ShardSettings(), Telemetry(), lane=TENANT)
        self.queue, self.gateway, self.worker = peer("queue"), peer("gateway"), peer("worker")
        self.said = []
        self.call("connect", self.queue, peer("claims"), peer("router"), peer("supervisor"))
        self.call("connect_timetable", peer("timetable"))
        self.call("worker_joined", WORKER, self.worker)
        definition = WorkflowDefinition("w", tasks, on_failure_task=on_failure)
        self.call("put_workflow", self.gateway, PutWorkflow(1, TENANT, definition))
        self.run_id = new_id()
        self.call("trigger", self.gateway, TriggerRuns(2, TENANT, (NewRun("w", b"{}", run_id=self.run_id),)))
        self.call("watch", self.gateway, WatchRuns(TENANT, (self.run_id,)))

    def call(self, method, *args, hold=False):
        """Call a handler, commit, and go on with what the tracker tells itself; all that was said.

        Fetches are answered at once, unless they are to be held.
        """
        todo, heard = [(method, args)], []
        while todo:
            name, given = todo.pop(0)
            said = self.probe.call(name, *given)
            heard.append(said)
            self.commit(said.records)
            todo += [
                (sent.method, sent.args)
                for sent in (*said.sends, *said.effects)
                if sent.to is self.probe.handle
            ]
            for fetch in () if hold else said.fetches:
                todo.append((fetch.then, (fetch.context, self.run_now(fetch), None)))
        self.said += heard
        return heard

    @staticmethod
    def run_now(fetch):
        """The result of a fetch from a store in memory, which never waits."""
        coroutine = fetch.function(*fetch.args)
        with pytest.raises(StopIteration) as done:
            coroutine.send(None)
        return done.value.value

    def commit(self, records):
        if not records:
            return
        kinds = {
            "created": TaskRunRow,
            "updated": TaskRunUpdate,
            "finished": TaskRunFinish,
            "settled": TaskRunSettle,
            "ended": RunFinish,
            "revived": RunRevival,
            "workflow_versions": WorkflowVersionRow,
        }
        fields = {
            name: tuple(record for record in records if type(record) is kind) for name, kind in kinds.items()
        }
        last = {record.id: record for record in fields["updated"]}
        settled = {record.id for record in fields["settled"]}
        fields["updated"] = tuple(record for row_id, record in last.items() if row_id not in settled)
        self.store._write(0, 1, [0], Batch(**fields))

    def told(self, kind):
        return [
            message
            for said in self.said
            for sent in (*said.sends, *said.effects)
            if sent.to is self.gateway
            for message in sent.args[0]
            if type(message).__name__ == kind
        ]

    def row(self, name):
        """The stored row of a task, by the name of its action."""
        rows = (*self.disk.live.values(), *self.disk.finished.values())
        version = next(iter(self.probe.actor._catalog._by_id.values()))
        (row,) = [
            row for row in rows if row.step_index >= 0 and version.steps[row.step_index].ref.task_name == name
        ]
        return row

    def assign(self, row):
        self.call("propose", (Proposal(row.id, row.attempt, WORKER, ONE),))

    def complete(self, name, payload=b"{}"):
        row = self.row(name)
        self.assign(row)
        report = TaskReport(row.id, row.attempt, ReportKind.COMPLETED, payload)
        self.call("report", self.gateway, ReportTasks(3, TENANT, WORKER, (report,)))


def test_a_cancel_of_a_replayed_run_skips_its_on_failure_task_as_nothing_failed():
    bench = Bench(TaskDefinition("a", "w:a"), on_failure=TaskDefinition("cleanup", "w:cleanup"))
    bench.complete("a")
    assert bench.row("cleanup").state == S.SKIPPED
    bench.call("replay_runs", bench.gateway, ReplayRuns(4, TENANT, (bench.run_id,)))
    assert bench.row("cleanup").state == S.WAITING
    bench.call("cancel_runs", bench.gateway, CancelRuns(5, TENANT, (bench.run_id,)))
    assert (bench.row("a").state, bench.row("cleanup").state) == (S.CANCELLED, S.SKIPPED)
    assert bench.disk.finished[bench.run_id].state == S.CANCELLED


def test_a_lone_task_that_is_skipped_is_told_with_the_output_that_the_record_gives():
    bench = Bench(TaskDefinition("a", "w:a", conditions=({**SLEEP, "sleep_for": "0s"}, SLEEP)))
    (finished,) = bench.told("RunFinished")
    assert (finished.state, finished.results[0].output) == (S.SKIPPED, b'{"skipped":true}')


def test_a_late_proposal_of_a_slot_that_was_given_back_does_not_take_it_again():
    bench = Bench(TaskDefinition("a", "w:a"))
    row = bench.row("a")
    bench.call("adopt", WORKER, (HeldAttempt(row.id, 0),))
    bench.call("release_slot", bench.gateway, ReleaseSlot(4, TENANT, row.id))
    # The queue had found the same worker for it before it heard.
    heard = bench.call("propose", (Proposal(row.id, 0, WORKER, ONE),))
    assert Sent(bench.queue, "unspent", (((WORKER, row.id, 0),),)) in heard[0].sends


def test_a_replay_does_not_begin_from_rows_of_before_a_replay_that_came_first():
    bench = Bench(TaskDefinition("a", "w:a"))
    bench.complete("a", b'{"life":0}')
    replay = ReplayRuns(4, TENANT, (bench.run_id,))
    (fetch,) = bench.call("replay_runs", bench.gateway, replay, hold=True)[-1].fetches
    rows = bench.run_now(fetch)
    bench.call("replay_runs", bench.gateway, replay)
    bench.complete("a", b'{"life":1}')
    assert (bench.row("a").attempt, bench.row("a").output) == (1, b'{"life":1}')
    bench.call(fetch.then, fetch.context, rows, None)
    assert (bench.row("a").attempt, bench.row("a").state) == (2, S.QUEUED)


def test_a_replay_does_not_begin_from_rows_read_before_the_end_was_committed():
    bench = Bench(TaskDefinition("a", "w:a"))
    bench.complete("a", b'{"life":0}')
    bench.probe.actor._recent._uncommitted.add(bench.run_id)  # as if its commit were under way
    replay = ReplayRuns(4, TENANT, (bench.run_id,))
    (fetch,) = bench.call("replay_runs", bench.gateway, replay, hold=True)[-1].fetches
    rows = bench.run_now(fetch)
    bench.call("ended_committed", (bench.run_id,))
    said = bench.call(fetch.then, fetch.context, rows, None, hold=True)
    assert [record for item in said for record in item.records] == []
    (again,) = said[-1].fetches
    bench.call(again.then, again.context, bench.run_now(again), None)
    assert bench.row("a").attempt == 1


def test_a_refused_birth_within_a_run_is_our_bug_and_no_refused_trigger():
    bench = Bench(TaskDefinition("a", "w:a"), TaskDefinition("b", "w:b", parents=("a",)))
    bench.complete("a")
    birth = next(row for row in bench.disk.live.values() if row.step_index == 1)
    with pytest.raises(EngineBug, match="refused a transition"):
        bench.probe.call("records_refused", (birth,), (), "the row is refused")


def test_a_replayed_task_is_judged_by_all_that_its_parents_left_at_once():
    cancel = {**SLEEP, "kind": "parent", "parent": "a", "action": "CANCEL", "readable_data_key": "a"}
    skip = {**cancel, "parent": "b", "action": "SKIP", "expression": "has(output.x)"}
    bench = Bench(
        TaskDefinition("a", "w:a"),
        TaskDefinition("b", "w:b"),
        TaskDefinition("c", "w:c", parents=("a", "b"), conditions=(cancel, skip)),
    )
    bench.complete("b", b'{"x":1}')
    bench.complete("a")
    assert bench.row("c").state == S.SKIPPED
    bench.call("replay_runs", bench.gateway, ReplayRuns(4, TENANT, (bench.row("c").id,)))
    assert (bench.row("c").attempt, bench.row("c").state) == (1, S.SKIPPED)
