"""The tracker with batch tasks: who waits in which group, what becomes of a batch and its members, what a restart finds."""

from dataclasses import replace

import pytest

from broadaxe_actors.batches import BATCH_SLOTS, MEMBER_OVERHEAD_BYTES, TICKET, BatchKey, Draw, Member
from broadaxe_actors.cel import EvaluationFailed
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
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
)
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.run_tracker.batching import SLICE
from broadaxe_actors.run_tracker.lines import Page
from broadaxe_actors.runtime import Directory
from broadaxe_actors.runtime.testing import Probe, Sent, peer
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.telemetry import Telemetry
from broadaxe_storage.memory import MemoryStore
from broadaxe_storage.records import (
    FinishedTaskRun,
    TaskEventKind,
    TaskEventRow,
    TaskRunFinish,
    TaskRunRow,
    TaskRunState,
    TaskRunUpdate,
)
from tests.factories import TENANT, new_id

S = TaskRunState
BATCH = {"max_size": 2, "max_interval_ms": 1_000, "group_key": "input.g", "group_max_runs": 3}
SECOND = 1_000_000


class Bench:
    """A tracker with one workflow `w` of one batch task `t`; its buffers only listen."""

    def __init__(self, settings=None, batch=None, **task):
        self.telemetry = Telemetry()
        self.probe = Probe(
            RunTracker, TENANT, MemoryStore(), settings or ShardSettings(), self.telemetry, lane=TENANT
        )
        self.queue, self.gateway, self.worker = peer("queue"), peer("gateway"), peer("worker")
        self.buffers = Directory(self.probe.runtime, lambda key: peer(f"buffer {key.group}"))
        self.call("connect", self.queue, peer("claims"), peer("router"), peer("supervisor"))
        self.call("connect_timetable", peer("timetable"))
        self.call("connect_buffers", self.buffers)
        self.definition = WorkflowDefinition(
            "w", (TaskDefinition("t", "w:t", batch=BATCH | (batch or {}), **task),)
        )
        (self.version,) = self.call("put_workflow", self.gateway, self.put()).records
        self.requests = 1
        self.steps = self.probe.actor._catalog.latest("w").steps

    def put(self):
        return PutWorkflow(1, TENANT, self.definition)

    def restart(self):
        """A tracker that knows what the record does, to be given the rows."""
        after = Bench.__new__(Bench)
        after.__dict__.update(self.__dict__)
        after.probe = Probe(
            RunTracker,
            TENANT,
            MemoryStore(),
            ShardSettings(),
            self.telemetry,
            lane=TENANT,
            clock=self.probe.clock,
        )
        after.buffers = Directory(after.probe.runtime, lambda key: peer(f"buffer {key.group}"))
        after.call("connect", after.queue, peer("claims"), peer("router"), peer("supervisor"))
        after.call("connect_timetable", peer("timetable"))
        after.call("connect_buffers", after.buffers)
        after.call("restore_versions", (self.version,))
        return after

    def call(self, method, *args):
        return self.probe.call(method, *args)

    def join(self):
        self.call("worker_joined", "worker", self.worker)

    def commit(self, said):
        """Deliver to the tracker itself what leaves after the commit; what it says then."""
        return [self.call(sent.method, *sent.args) for sent in said.effects if sent.to is self.probe.handle]

    def key(self, group):
        return BatchKey(self.steps[0].ref.step_id, group)

    def buffer(self, group):
        return self.buffers.get(self.key(group))

    def trigger(self, *groups, priority=None, metadata="{}"):
        """Runs, committed; their ids, and what the tracker said once they were."""
        self.requests += 1
        runs = tuple(
            NewRun("w", b'{"g":"%s"}' % group.encode(), metadata, new_id(), priority) for group in groups
        )
        said = self.commit(self.call("trigger", self.gateway, TriggerRuns(self.requests, TENANT, runs)))
        return [run.run_id for run in runs], said

    def run_ids(self, *groups, **fields):
        return self.trigger(*groups, **fields)[0]

    def start(self, run_ids, batch_id="batch", group="a", attempt=0, worker_id="worker"):
        members = tuple(Member(run_id, attempt, 1, 0, 0) for run_id in run_ids)
        return self.call("start_batch", Draw(self.key(group), batch_id, worker_id, "because", members))

    def started(self, *groups, batch_id="batch"):
        """Ids of runs that a worker holds in a batch."""
        self.join()
        run_ids = self.run_ids(*groups)
        self.start(run_ids, batch_id)
        return run_ids

    def report(self, *reports):
        self.requests += 1
        return self.call("report", self.gateway, ReportTasks(self.requests, TENANT, "worker", reports))

    def complete(self, run_id, attempt=0, **fields):
        return self.report(TaskReport(run_id, attempt, ReportKind.COMPLETED, b"{}", **fields))

    def cancel(self, *run_ids):
        self.requests += 1
        (said,) = self.commit(
            self.call("cancel_runs", self.gateway, CancelRuns(self.requests, TENANT, run_ids))
        )
        return said


def sent(said, method):
    """Receiver and arguments of each such message."""
    return [(item.to, item.args) for item in (*said.sends, *said.effects) if item.method == method]


def of_kind(records, kind):
    return [record for record in records if isinstance(record, kind)]


def events(said):
    return [(row.task_run_id, row.kind) for row in of_kind(said.records, TaskEventRow)]


# ---------------------------------------------------------------- groups


def test_ready_task_runs_wait_in_the_buffer_of_their_group():
    bench = Bench()
    ids, (said,) = bench.trigger("a", "b", "a", priority=2)
    assert sent(said, "enqueue") == []
    added = dict(sent(said, "add"))
    assert set(added) == {bench.buffer("a"), bench.buffer("b")}
    rules, members = added[bench.buffer("a")]
    assert (rules.max_size, rules.interval_us, rules.group_max_runs) == (2, SECOND, 3)
    assert (rules.action, rules.demand.key) == ("w:t", "w:t|default=1|")
    assert [(item.task_run_id, item.attempt, item.priority, item.seq) for item in members] == [
        (ids[0], 0, 2, 1),
        (ids[2], 0, 2, 3),
    ]
    assert 300 < members[0].size < 400
    assert events(said) == [(run_id, TaskEventKind.WAITING_FOR_BATCH) for run_id in ids]
    assert {bench.probe.actor._live[run_id].state for run_id in ids} == {S.QUEUED}


def test_a_batch_takes_one_default_slot_whatever_the_task_asks_for():
    bench = Bench(slot_requests={"gpu": 3})
    assert bench.steps[0].slots == BATCH_SLOTS


@pytest.mark.parametrize(
    ("group_key", "cause"),
    [
        ("input.missing", "no such key: 'missing'"),
        ("parents.x", "parents"),
        ("input.n", "expected string output, got double"),
    ],
)
def test_without_a_group_key_a_task_run_fails_at_once_and_is_not_retried(group_key, cause):
    bench = Bench(batch={"group_key": group_key}, retries=3)
    bench.requests += 1
    run = NewRun("w", b'{"n":1}', run_id=new_id())
    (said,) = bench.commit(bench.call("trigger", bench.gateway, TriggerRuns(2, TENANT, (run,))))
    (finish,) = of_kind(said.records, TaskRunFinish)
    assert (finish.id, finish.state) == (run.run_id, S.FAILED)
    assert finish.error.startswith(b"task 't' has no batch group key: CEL expression `" + group_key.encode())
    assert cause in finish.error.decode()
    assert sent(said, "add") == []
    assert bench.probe.actor._ledger.lines() == []
    assert not bench.probe.actor._live


def test_keys_of_many_task_runs_are_evaluated_in_slices():
    bench = Bench()
    ids, (said,) = bench.trigger(*("a" * (SLICE + 1)))
    ((_, (_, members)),) = sent(said, "add")
    assert [item.task_run_id for item in members] == ids[:SLICE]
    assert len(sent(said, "group_more")) == 1
    ((_, (_, members)),) = sent(bench.call("group_more"), "add")
    assert [item.task_run_id for item in members] == ids[SLICE:]


def test_a_long_expression_is_evaluated_apart_and_who_left_meanwhile_joins_no_group():
    bench = Bench(batch={"group_key": "['x', 'y'].filter(i, i != input.g)[0]"})
    (first, second, third), (said,) = bench.trigger("x", "y", "x")
    (fetch,) = said.fetches
    assert sent(said, "add") == []
    (run_id,), (said,) = bench.trigger("y")
    assert said.fetches == []
    bench.cancel(third)
    found = list(zip(fetch.args[0], ("y", "x", "y"), strict=True))
    said = bench.call(fetch.then, fetch.context, found, None)
    assert {to: [item.task_run_id for item in args[1]] for to, args in sent(said, "add")} == {
        bench.buffer("y"): [first],
        bench.buffer("x"): [second],
    }
    (fetch,) = said.fetches
    failed = EvaluationFailed("the expression", "it took longer than 50 ms")
    said = bench.call(fetch.then, fetch.context, [(fetch.args[0][0], failed)], None)
    (finish,) = of_kind(said.records, TaskRunFinish)
    assert (finish.id, finish.state) == (run_id, S.FAILED)


async def test_keys_evaluated_apart_come_one_by_one_with_their_errors():
    bench = Bench(batch={"group_key": "['x', 'y'].filter(i, i != input.g)[int(input.n)]"})
    _, (said,) = bench.trigger("x")
    (fetch,) = said.fetches
    (work,) = fetch.args[0]
    given = work._replace(values={**work.values, "input": b'{"g":"x","n":0}'})
    (one, two) = await fetch.function([given, work])
    assert one == (given, "y")
    assert isinstance(two[1], EvaluationFailed)


def test_task_runs_that_waited_in_postgres_join_their_group_when_they_are_paged_in():
    bench = Bench(ShardSettings(queue_window_high=1, queue_window_low=0, queue_page=10))
    rows = rows_of(bench, "a", "a")
    assert [row.spill_queue for row in rows] == [None, "w:t|default=1|"]
    bench.join()
    (fetch,) = bench.start([rows[0].id]).fetches
    said = bench.call(fetch.then, fetch.context, Page([rows[1]], []), None)
    ((to, (_, (member,))),) = sent(said, "add")
    assert (to, member.task_run_id) == (bench.buffer("a"), rows[1].id)
    assert events(said) == [(rows[1].id, TaskEventKind.WAITING_FOR_BATCH)]


def test_a_batch_task_within_a_run_joins_by_the_input_of_the_run_and_starts_with_its_parents_outputs():
    bench = Bench()
    bench.join()
    first, second = (TaskDefinition(name, f"d:{name}") for name in ("first", "second"))
    second = replace(second, parents=("first",), batch=BATCH)
    definition = WorkflowDefinition("d", (first, second))
    bench.call("put_workflow", bench.gateway, PutWorkflow(2, TENANT, definition))
    run = NewRun("d", b'{"g":"x"}', run_id=new_id())
    (said,) = bench.commit(bench.call("trigger", bench.gateway, TriggerRuns(3, TENANT, (run,))))
    ((_, ((ready,),)),) = sent(said, "enqueue")
    bench.call("propose", (Proposal(ready.task_run_id, 0, "worker", ready.demand.slots),))
    said = bench.report(TaskReport(ready.task_run_id, 0, ReportKind.COMPLETED, b'{"n":1}'))
    (said,) = [each for each in bench.commit(said) if sent(each, "add")]
    ((_, (_, (member,))),) = sent(said, "add")
    assert member.size == len(b'{"g":"x"}') + len("{}") + len(b'{"n":1}') + MEMBER_OVERHEAD_BYTES
    ((_, ((start,),)),) = sent(bench.start([member.task_run_id], group="x"), "start_batches")
    (item,) = start.members
    assert (item.run_id, item.input) == (run.run_id, b'{"g":"x"}')
    assert [(parent.task_name, parent.output) for parent in item.parents] == [("first", b'{"n":1}')]


# ---------------------------------------------------------------- start


def test_a_batch_is_assigned_as_a_whole_in_one_turn():
    bench = Bench(execution_timeout="9s")
    bench.join()
    ids = bench.run_ids("a", "a")
    said = bench.start(ids)
    (((to, ((start,),))),) = sent(said, "start_batches")
    assert to is bench.worker
    assert (start.batch_id, start.key, start.reason, start.at) == (
        "batch",
        "a",
        "because",
        bench.probe.clock.now(),
    )
    assert [(item.task_run_id, item.attempt) for item in start.members] == [(run_id, 0) for run_id in ids]
    assert sent(said, "start_tasks") == []
    assert events(said) == [(run_id, TaskEventKind.BATCH_FLUSHED) for run_id in ids]
    tasks = [bench.probe.actor._live[run_id] for run_id in ids]
    assert {(task.state, task.worker_id) for task in tasks} == {(S.ASSIGNED, "worker")}
    assert {task.execution_deadline for task in tasks} == {bench.probe.clock.now() + 9 * SECOND}
    assert bench.telemetry.counters["assigned_tasks"][TENANT] == 2
    assert bench.telemetry.counters["queued_to_assigned"][TENANT] == 2
    (stats,) = bench.probe.actor.stats().actions
    assert (stats.action, stats.queued.total, stats.running.total) == ("w:t", 0, 2)
    assert bench.probe.actor._ledger.lines() == []
    bench.call("save_all")
    assert {task.update_record(TENANT).batch_id for task in tasks} == {"batch"}


def test_who_has_left_is_not_in_the_batch():
    bench = Bench()
    bench.join()
    ids = bench.run_ids("a", "a")
    said = bench.cancel(ids[0])
    assert sent(said, "leave") == [(bench.buffer("a"), (((ids[0], 0),),))]
    ((_, ((start,),)),) = sent(bench.start(ids), "start_batches")
    assert [item.task_run_id for item in start.members] == [ids[1]]


def test_a_batch_without_members_gives_its_slot_back():
    bench = Bench()
    bench.join()
    (run_id,) = bench.run_ids("a")
    bench.cancel(run_id)
    said = bench.start([run_id])
    assert sent(said, "start_batches") == []
    assert sent(said, "release") == [(bench.queue, ((("worker", "batch", TICKET),),))]
    assert sent(said, "ended") == [(bench.buffer("a"), (("batch",),))]


def test_members_whose_worker_is_gone_wait_again():
    bench = Bench()
    ids = bench.run_ids("a", "a")
    said = bench.start(ids)
    assert sent(said, "ended") == [(bench.buffer("a"), (("batch",),))]
    ((to, (_, members)),) = sent(said, "add")
    assert to is bench.buffer("a")
    assert [item.task_run_id for item in members] == ids
    assert events(said) == []


# ---------------------------------------------------------------- end


def test_the_slot_is_free_when_the_last_member_has_ended():
    bench = Bench()
    first, second, third = bench.started("a", "a", "a")
    said = bench.complete(first)
    assert (sent(said, "release"), sent(said, "ended")) == ([], [])
    assert sent(said, "done") == [(bench.worker, ((first,),))]
    said = bench.report(TaskReport(second, 0, ReportKind.FAILED, b"boom"))
    assert (sent(said, "release"), sent(said, "ended")) == ([], [])
    said = bench.cancel(third)
    assert sent(said, "release") == [(bench.queue, ((("worker", "batch", TICKET),),))]
    assert sent(said, "ended") == [(bench.buffer("a"), (("batch",),))]
    ((to, ((order,),)),) = sent(said, "cancel")
    assert (to, order.task_run_id, order.attempt) == (bench.worker, third, 0)
    assert bench.probe.actor._batches.running == {}
    assert bench.probe.actor._counts.all() == []


def test_a_failed_member_is_retried_in_a_later_batch_before_all_others():
    bench = Bench(retries=1)
    first, _ = bench.started("a", "a")
    said = bench.report(TaskReport(first, 0, ReportKind.FAILED, b"boom"))
    (update,) = of_kind(said.records, TaskRunUpdate)
    assert (update.state, update.attempt, update.batch_id) == (S.QUEUED, 1, None)
    (said,) = bench.commit(said)
    ((to, (_, (member,))),) = sent(said, "add")
    assert to is bench.buffer("a")
    assert (member.task_run_id, member.attempt, member.priority) == (first, 1, 4)
    said = bench.start([first], "later", attempt=1)
    ((_, ((start,),)),) = sent(said, "start_batches")
    assert [(item.task_run_id, item.attempt) for item in start.members] == [(first, 1)]


def test_a_lost_worker_gives_each_member_back_to_its_group():
    bench = Bench()
    ids = bench.started("a", "a")
    said = bench.call("worker_lost", "worker", tuple(HeldAttempt(run_id, 0) for run_id in ids), "gone")
    assert [row.kind for row in of_kind(said.records, TaskEventRow) if row.message == b"gone"] == [
        TaskEventKind.REASSIGNED
    ] * 2
    assert sent(said, "release") == [(bench.queue, ((("worker", "batch", TICKET),),))]
    (said,) = bench.commit(said)[-1:]
    ((_, (_, members)),) = sent(said, "add")
    assert [(item.task_run_id, item.attempt) for item in members] == [(run_id, 1) for run_id in ids]


def test_a_member_that_gave_the_slot_back_holds_none_and_the_batch_goes_on():
    bench = Bench()
    first, second = bench.started("a", "a")
    assert sent(bench.call("release_slot", bench.gateway, ReleaseSlot(50, TENANT, first)), "release") == []
    said = bench.call("release_slot", bench.gateway, ReleaseSlot(51, TENANT, second))
    assert sent(said, "release") == [(bench.queue, ((("worker", "batch", TICKET),),))]
    assert sent(bench.complete(first), "ended") == []
    said = bench.complete(second)
    assert sent(said, "release") == []
    assert sent(said, "ended") == [(bench.buffer("a"), (("batch",),))]


# ---------------------------------------------------------------- time-outs


def test_the_execution_timeout_of_one_member_fails_the_whole_batch():
    bench = Bench(execution_timeout="3s")
    first, second, done = bench.started("a", "a", "a")
    bench.complete(done)
    bench.probe.actor._live[second].execution_deadline += SECOND
    bench.probe.clock.advance(3 * SECOND + 100_000)
    said = bench.call("due")
    errors = {row.id: row.error.decode() for row in of_kind(said.records, TaskRunFinish)}
    assert errors == {
        first: "Task failed due to batch timeout of 3s",
        second: "Task failed because another member of its batch ran into the batch timeout",
    }
    assert {order.task_run_id for _, (orders,) in sent(said, "cancel") for order in orders} == {first, second}
    assert sent(said, "release") == [(bench.queue, ((("worker", "batch", TICKET),),))]


def test_each_member_of_a_batch_that_timed_out_is_retried_by_its_budget_and_waits_its_time():
    bench = Bench(execution_timeout="3s", retries=1, backoff_factor=10.0)
    ids = bench.started("a", "a")
    bench.probe.actor._live[ids[1]].app_retries = 1
    bench.probe.clock.advance(3 * SECOND + 100_000)
    said = bench.call("due")
    (finish,) = of_kind(said.records, TaskRunFinish)
    assert finish.id == ids[1]
    task = bench.probe.actor._live[ids[0]]
    assert (task.state, task.attempt) == (S.BACKING_OFF, 1)
    assert task.schedule_deadline == bench.probe.clock.now() + 10 * SECOND


def test_a_batch_that_was_cut_off_is_run_again_when_its_time_is_over():
    bench = Bench(execution_timeout="3s")
    ids = bench.started("a", "a")
    bench.call("doubt", "worker", tuple(ids))
    bench.probe.clock.advance(3 * SECOND + 100_000)
    bench.call("due")
    assert {bench.probe.actor._live[run_id].state for run_id in ids} == {S.QUEUED}


def test_the_schedule_timeout_counts_in_the_buffer():
    bench = Bench(schedule_timeout="2s")
    (run_id,) = bench.run_ids("a")
    bench.probe.clock.advance(2 * SECOND + 100_000)
    said = bench.call("due")
    (finish,) = of_kind(said.records, TaskRunFinish)
    assert (finish.id, finish.state) == (run_id, S.CANCELLED)
    assert finish.error.startswith(b"task 't' was not started in a batch within 2s")
    assert sent(said, "leave") == [(bench.buffer("a"), (((run_id, 0),),))]


# ---------------------------------------------------------------- reports that name the batch


def test_a_report_that_names_its_batch_means_the_attempt_in_it():
    bench = Bench()
    (run_id,) = bench.started("a")
    bench.call("worker_lost", "worker", (HeldAttempt(run_id, 0),), "gone")
    task = bench.probe.actor._live[run_id]
    bench.start([run_id], "later", attempt=1)
    bench.complete(run_id, None, batch_id="batch")
    assert task.state == S.ASSIGNED
    bench.report(TaskReport(run_id, None, ReportKind.STARTED, batch_id="later"))
    assert task.state == S.RUNNING
    (finish,) = of_kind(bench.complete(run_id, None, batch_id="later").records, TaskRunFinish)
    assert (finish.state, finish.attempt) == (S.COMPLETED, 1)


def test_a_report_of_a_batch_that_is_over_changes_nothing_while_its_member_waits_again():
    bench = Bench()
    (run_id,) = bench.started("a")
    bench.call("worker_lost", "worker", (HeldAttempt(run_id, 0),), "gone")
    assert of_kind(bench.complete(run_id, None, batch_id="batch").records, TaskRunFinish) == []
    assert bench.probe.actor._live[run_id].state == S.QUEUED


def test_a_cancel_within_a_batch_means_the_task():
    bench = Bench()
    (run_id,) = bench.started("a")
    said = bench.report(TaskReport(run_id, None, ReportKind.CANCELLED, batch_id="batch"))
    (finish,) = of_kind(said.records, TaskRunFinish)
    assert finish.state == S.CANCELLED


# ---------------------------------------------------------------- after a restart


def stored(bench, said_rows, updates):
    """Rows of the record after these updates."""
    fields = (
        "state",
        "attempt",
        "queue_priority",
        "seq",
        "queued_at",
        "schedule_deadline",
        "execution_deadline",
    )
    fields += ("assigned_at", "started_at", "worker_id", "is_slot_released", "batch_id")
    by_id = {update.id: update for update in updates}
    return tuple(
        row._replace(**{name: getattr(by_id[row.id], name) for name in fields}) if row.id in by_id else row
        for row in said_rows
    )


def rows_of(bench, *groups):
    """Runs, and their rows as first recorded."""
    bench.requests += 1
    runs = tuple(NewRun("w", b'{"g":"%s"}' % group.encode(), "{}", new_id()) for group in groups)
    said = bench.call("trigger", bench.gateway, TriggerRuns(bench.requests, TENANT, runs))
    bench.commit(said)
    return of_kind(said.records, TaskRunRow)


def test_a_restart_finds_batches_with_their_workers_and_counts_each_once():
    bench = Bench()
    bench.join()
    rows = rows_of(bench, "a", "a", "a", "b")
    held = [row.id for row in rows[:2]]
    batch_id = new_id()
    bench.start(held, batch_id)
    bench.report(TaskReport(held[0], 0, ReportKind.STARTED))
    updates = of_kind(bench.call("save_all").records, TaskRunUpdate)
    bench = bench.restart()
    bench.join()
    restored = stored(bench, rows, updates)
    said = [bench.call("restore_task_runs", (row,)) for row in restored]
    assert [args for each in said for _, args in sent(each, "hold")] == [
        ((("worker", batch_id, TICKET, BATCH_SLOTS),),),
        ((("worker", batch_id, TICKET, BATCH_SLOTS),),),
    ]
    assert [args for each in said for _, args in sent(each, "holds_batches")] == []
    said = bench.call("restored")
    ((to, (((start, is_started),),)),) = sent(said, "holds_batches")
    assert (to, start.batch_id, start.key, is_started) == (bench.worker, batch_id, "a", True)
    assert [item.task_run_id for item in start.members] == held
    assert sent(said, "holds") == []
    assert Sent(bench.buffer("a"), "running", ((batch_id,),)) in said.sends
    methods = [item.method for item in said.sends]
    assert methods.index("running") < methods.index("add")
    assert {to: [item.task_run_id for item in args[1]] for to, args in sent(said, "add")} == {
        bench.buffer("a"): [rows[2].id],
        bench.buffer("b"): [rows[3].id],
    }
    assert events(said) == []
    bench.complete(held[0], None, batch_id=batch_id)
    said = bench.complete(held[1], None, batch_id=batch_id)
    assert sent(said, "release") == [(bench.queue, ((("worker", batch_id, TICKET),),))]
    assert sent(said, "ended") == [(bench.buffer("a"), ((batch_id,),))]


def test_none_joins_a_group_until_it_is_known_what_runs_there():
    bench = Bench(batch={"group_key": "['x', 'y'].filter(i, i != input.g)[0]"})
    bench.join()
    rows = rows_of(bench, "x", "x")
    batch_id = new_id()
    bench = bench.restart()
    bench.join()
    held = rows[0]._replace(
        state=S.ASSIGNED, worker_id="worker", assigned_at=1, execution_deadline=10**18, batch_id=batch_id
    )
    bench.call("restore_task_runs", (held, rows[1]))
    said = bench.call("restored")
    (fetch,) = said.fetches
    assert [work.batch_id for work in fetch.args[0]] == [batch_id]
    said = bench.call(fetch.then, fetch.context, [(fetch.args[0][0], "y")], None)
    assert sent(said, "running") == [(bench.buffer("y"), ((batch_id,),))]
    (fetch,) = said.fetches
    said = bench.call(fetch.then, fetch.context, [(fetch.args[0][0], "y")], None)
    ((to, (_, (member,))),) = sent(said, "add")
    assert (to, member.task_run_id) == (bench.buffer("y"), rows[1].id)


def test_members_of_a_worker_that_is_not_known_any_more_wait_again():
    bench = Bench()
    (row,) = rows_of(bench, "a")
    bench = bench.restart()
    held = row._replace(
        state=S.RUNNING, worker_id="gone", assigned_at=1, execution_deadline=10**18, batch_id=new_id()
    )
    bench.call("restore_task_runs", (held,))
    said = bench.call("restored")
    assert sent(said, "holds_batches") == []
    task = bench.probe.actor._live[row.id]
    assert (task.state, task.attempt, task.batch) == (S.QUEUED, 1, None)
    assert bench.probe.actor._batches.running == {}


def test_what_a_worker_holds_of_batches_that_were_not_recorded_is_one_batch_a_group():
    bench = Bench()
    ids = bench.run_ids("a", "a", "b")
    bench.join()
    said = bench.call("adopt", "worker", tuple(HeldAttempt(run_id, 0) for run_id in ids))
    ((_, (slots,)),) = sent(said, "hold")
    assert len(slots) == 2
    assert {(item[0], item[2], item[3]) for item in slots} == {("worker", TICKET, BATCH_SLOTS)}
    ((_, (batches,)),) = sent(said, "holds_batches")
    assert [([item.task_run_id for item in start.members], is_started) for start, is_started in batches] == [
        (ids[:2], True),
        (ids[2:], True),
    ]
    assert sent(said, "leave") == [
        (bench.buffer("a"), (tuple((run_id, 0) for run_id in ids[:2]),)),
        (bench.buffer("b"), (((ids[2], 0),),)),
    ]
    assert {to for to, _ in sent(said, "running")} == {bench.buffer("a"), bench.buffer("b")}
    bench.complete(ids[0])
    said = bench.complete(ids[1])
    assert sent(said, "release") == [(bench.queue, ((slots[0][:3],),))]
    assert [to for to, _ in sent(said, "ended")] == [bench.buffer("a")]


def test_members_that_gave_their_slot_back_hold_none_after_a_restart():
    bench = Bench()
    (row,) = rows_of(bench, "a")
    bench = bench.restart()
    bench.join()
    held = row._replace(
        state=S.RUNNING,
        worker_id="worker",
        assigned_at=1,
        execution_deadline=10**18,
        batch_id=new_id(),
        is_slot_released=True,
    )
    said = bench.call("restore_task_runs", (held,))
    assert sent(said, "hold") == [(bench.queue, ((),))]
    bench.call("restored")
    said = bench.complete(row.id)
    assert sent(said, "release") == []
    assert sent(said, "ended") == [(bench.buffer("a"), ((held.batch_id,),))]


# ---------------------------------------------------------------- a new life


def test_a_batch_that_starts_takes_no_later_attempt_than_it_was_made_of():
    bench = Bench(retries=1)
    bench.join()
    (run_id,) = bench.run_ids("a")
    # After a crash the worker has the attempt still, and fails it.
    bench.report(TaskReport(run_id, 0, ReportKind.FAILED, b"boom"))
    said = bench.start([run_id])
    assert sent(said, "start_batches") == []
    assert bench.probe.actor._live[run_id].attempt == 1


def test_a_replayed_member_joins_the_group_that_its_expression_gives_now():
    bench = Bench()
    bench.join()
    (row,) = rows_of(bench, "a")
    bench.start([row.id])
    said = bench.complete(row.id)
    bench.commit(said)
    (finish,) = of_kind(said.records, TaskRunFinish)
    bench.requests += 1
    (said,) = bench.commit(
        bench.call("replay_runs", bench.gateway, ReplayRuns(bench.requests, TENANT, (row.id,)))
    )
    (fetch,) = said.fetches
    shared = {name: getattr(row, name) for name in FinishedTaskRun._fields if name in row._fields}
    ended = FinishedTaskRun(
        **shared | {name: getattr(finish, name) for name in finish._fields if name in FinishedTaskRun._fields}
    )
    said = bench.call(fetch.then, fetch.context, [ended], None)
    (said,) = [each for each in bench.commit(said) if sent(each, "add")]
    ((to, (_, (member,))),) = sent(said, "add")
    assert (to, member.task_run_id, member.attempt, member.priority) == (bench.buffer("a"), row.id, 1, 4)
