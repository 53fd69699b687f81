"""The tracker alone: given these runs, on this message, these records and messages go out."""

import json
from dataclasses import replace

import pytest

from broadaxe_actors.claims import ClaimRequest
from broadaxe_actors.creation import SLICE, EventStart, Start
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.errors import Code, EngineBug
from broadaxe_actors.matching import Proposal
from broadaxe_actors.messages import (
    GetRun,
    HeldAttempt,
    NewEvent,
    NewLog,
    NewRun,
    PushEvents,
    PutLogs,
    PutWorkflow,
    Refusal,
    Reply,
    ReportKind,
    ReportsTaken,
    ReportTasks,
    RunFinished,
    TaskReport,
    TriggerRuns,
    WatchRuns,
)
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.run_tracker.lines import Page
from broadaxe_actors.runtime.testing import Probe, Sent, peer
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.telemetry import Telemetry
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.memory import MemoryStore
from broadaxe_storage.records import (
    EventKeyRow,
    FilterClear,
    LogRow,
    SpilledQueue,
    TaskEventKind,
    TaskEventRow,
    TaskRunFinish,
    TaskRunRow,
    TaskRunState,
    TaskRunUpdate,
    WorkflowVersionRow,
)
from tests.factories import TENANT, make_event, make_task_run, new_id

ONE = (("default", 1),)
LINE = "w:t|default=1|"


class Bench:
    """A tracker between peers, with one workflow `w` of one task `t`."""

    def __init__(self, settings=None, **task):
        self.settings = settings or ShardSettings()
        self.probe = Probe(RunTracker, TENANT, MemoryStore(), self.settings, Telemetry(), lane=TENANT)
        self.queue, self.claims, self.router = peer("queue"), peer("claims"), peer("router")
        self.supervisor, self.gateway = peer("supervisor"), peer("gateway")
        self.call("connect", self.queue, self.claims, self.router, self.supervisor)
        self.call("connect_timetable", peer("timetable"))
        definition = WorkflowDefinition("w", (TaskDefinition("t", "w:t", **task),), event_triggers=("k",))
        said = self.call("put_workflow", self.gateway, PutWorkflow(1, TENANT, definition))
        (self.version,) = said.records
        self.workers = {}
        self.requests = 100

    def call(self, method, *args):
        return self.probe.call(method, *args)

    def join(self, worker_id="worker"):
        self.workers[worker_id] = peer(worker_id)
        self.call("worker_joined", worker_id, self.workers[worker_id])
        return self.workers[worker_id]

    def trigger(self, *runs, is_repeat=False):
        self.requests += 1
        message = TriggerRuns(self.requests, TENANT, runs or (NewRun("w", b"{}"),), is_repeat)
        return self.call("trigger", self.gateway, message)

    def commit(self, said):
        """Deliver to the tracker itself what leaves after the commit."""
        return [self.call(sent.method, *sent.args) for sent in said.effects if sent.to is self.probe.handle]

    def new_run(self, **fields):
        run = NewRun("w", b"{}", run_id=new_id(), **fields)
        self.commit(self.trigger(run))
        return run.run_id

    def assign(self, run_id, worker_id="worker", attempt=0):
        if worker_id not in self.workers:
            self.join(worker_id)
        return self.call("propose", (Proposal(run_id, attempt, worker_id, ONE),))

    def report(self, kind, run_id, payload=b"", attempt=0, worker_id="worker", **fields):
        self.requests += 1
        report = TaskReport(run_id, attempt, kind, payload, **fields)
        return self.call("report", self.gateway, ReportTasks(self.requests, TENANT, worker_id, (report,)))

    def answer(self, said):
        """What the gateway is told after the commit."""
        return [message for sent in said.effects if sent.to is self.gateway for message in sent.args[0]]

    def sent(self, said, method):
        return [sent.args for sent in (*said.sends, *said.effects) if sent.method == method]


def of_kind(records, kind):
    return [record for record in records if isinstance(record, kind)]


# ---------------------------------------------------------------- definitions


def test_a_new_version_with_features_that_are_only_stored_is_warned_of_once(caplog):
    bench = Bench()
    assert caplog.messages == []
    definition = WorkflowDefinition("timed", (TaskDefinition("t", "w:t", is_durable=True),))
    for _ in range(2):
        bench.call("put_workflow", bench.gateway, PutWorkflow(1, TENANT, definition))
    (told,) = caplog.messages
    assert "'timed', version 1," in told
    assert told.endswith("uses durable_tasks: stored, not enforced yet")


# ---------------------------------------------------------------- creation


def test_a_trigger_is_recorded_answered_after_its_commit_and_only_then_queued():
    bench = Bench()
    run = NewRun("w", b"1", run_id=new_id(), priority=3)
    said = bench.trigger(run)
    (row,) = of_kind(said.records, TaskRunRow)
    assert (row.id, row.priority, row.state, row.seq) == (run.run_id, 3, TaskRunState.QUEUED, 1)
    assert bench.sent(said, "enqueue") == []
    assert bench.answer(said) == [Reply(bench.requests, (run.run_id,))]
    (then,) = bench.commit(said)
    ((ready,),) = bench.sent(then, "enqueue")[0]
    assert (ready.task_run_id, ready.queue_priority) == (run.run_id, 3)


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (NewRun("unknown", b""), Code.INVALID_ARGUMENT),
        (NewRun("w", b"", priority=4), Code.INVALID_ARGUMENT),
    ],
)
def test_one_bad_run_refuses_the_trigger_and_changes_nothing(run, code):
    bench = Bench()
    said = bench.trigger(NewRun("w", b""), run)
    assert said.records == []
    (refusal,) = bench.answer(said)
    assert refusal.code == code
    assert not bench.probe.actor._live


def test_a_run_id_twice_is_refused_and_a_repeat_is_answered_with_the_same():
    bench = Bench()
    run = NewRun("w", b"", run_id=new_id())
    bench.commit(bench.trigger(run))
    (refusal,) = bench.answer(bench.trigger(NewRun("w", b""), run))
    assert refusal.code == Code.ALREADY_EXISTS
    assert list(bench.probe.actor._live) == [run.run_id]
    said = bench.trigger(run, is_repeat=True)
    (then,) = bench.commit(said)
    assert bench.answer(then) == [Reply(bench.requests, (run.run_id,))]


def test_two_children_of_one_key_in_one_trigger_are_one_child():
    bench = Bench()
    parent = bench.new_run()
    children = tuple(
        NewRun("w", b"", run_id=new_id(), parent_task_run_id=parent, child_index=index, child_key="same")
        for index in (0, 1)
    )
    said = bench.trigger(*children)
    ((job, requests),) = bench.sent(said, "claim")
    assert requests == tuple(ClaimRequest(parent, "k:same", run.run_id, False) for run in children)
    first = children[0].run_id
    said = bench.call("claimed", job, (first, first))
    assert [row.id for row in of_kind(said.records, TaskRunRow)] == [first]
    answers = [bench.answer(each) for each in (said, *bench.commit(said))]
    assert [Reply(bench.requests, (first, first))] in answers


def test_a_child_inherits_its_parents_metadata():
    bench = Bench()
    parent = bench.new_run(metadata='{"a":1,"b":2,"hatchet__x":3,"traceparent":"y"}')
    said = bench.trigger(
        NewRun("w", b"", run_id=new_id(), metadata='{"b":4}', parent_task_run_id=parent, child_index=0)
    )
    ((job, requests),) = bench.sent(said, "claim")
    (row,) = bench.call("claimed", job, (requests[0].run_id,)).records
    assert json.loads(row.metadata) == {
        "a": 1,
        "b": 4,
        "hatchet__parent_workflow_run_id": parent,
        "hatchet__parent_step_run_id": parent,
    }


def test_an_unknown_parent_is_not_found():
    bench = Bench()
    (fetch,) = bench.trigger(NewRun("w", b"", parent_task_run_id=new_id(), child_index=0)).fetches
    said = bench.call(fetch.then, fetch.context, ([], []), None)
    assert bench.answer(said)[0].code == Code.NOT_FOUND


def test_a_large_trigger_is_made_in_slices_recorded_as_a_whole_and_not_overtaken():
    bench = Bench()
    said = bench.trigger(*(NewRun("w", b"") for _ in range(SLICE + 1)))
    assert said.records == []
    ((job,),) = bench.sent(said, "create_slice")
    small = bench.trigger()
    assert small.is_silent
    said = bench.call("create_slice", job)
    rows = of_kind(said.records, TaskRunRow)
    assert [row.seq for row in rows] == list(range(1, SLICE + 2))
    ((waiting,),) = bench.sent(said, "create_slice")
    (row,) = bench.call("create_slice", waiting).records
    assert row.seq == SLICE + 2


def test_events_and_the_runs_that_they_start_are_recorded_together():
    bench = Bench()
    event = make_event(key="k", metadata='{"a":1,"hatchet__source_step_run_id":"s"}')
    message = PushEvents(5, TENANT, (NewEvent("k", b"{}"),))
    said = bench.call("start_from_events", bench.gateway, message, EventStart((event,), (Start(0, "w"),)))
    assert [type(record).__name__ for record in said.records] == ["EventRow", "TaskRunRow"]
    row = said.records[1]
    assert (row.triggering_event_id, row.triggering_event_key) == (event.id, "k")
    assert json.loads(row.metadata)["hatchet__event_id"] == event.id
    assert bench.answer(said)[0].value.event_ids == (event.id,)


def test_a_run_that_a_filter_started_keeps_it_and_gives_its_payload():
    bench = Bench()
    event = make_event(key="k", payload=b'{"n":1}')
    message = PushEvents(5, TENANT, (NewEvent("k", b"{}"),))
    text = f'{{"id":"{new_id()}","payload":{{"a":1}}}}'
    starts = (Start(0, "w", text), Start(0, "gone", text), Start(0, "w"))
    said = bench.call("start_from_events", bench.gateway, message, EventStart((event,), starts, (), ("k",)))
    assert said.records[:2] == [event, EventKeyRow(TENANT, "k")]
    filtered, plain = of_kind(said.records, TaskRunRow)
    assert (filtered.filter, filtered.input, plain.filter) == (text, b'{"n":1}', None)
    bench.commit(said)
    for row, payload in ((filtered, '{"a":1}'), (plain, "")):
        ((tasks,),) = bench.sent(bench.assign(row.id), "start_tasks")
        assert [start.filter_payload for start in tasks] == [payload]


def test_declared_filters_are_recorded_with_the_version_that_declares_them():
    bench = Bench()
    definition = bench.probe.actor._catalog.latest("w").definition
    entry = {"scope": "s", "expression": "input.n > 1", "payload": '{"b": 1, "a": 2}'}
    with_filters = replace(definition, default_filters=(entry, dict(entry), {**entry, "payload": None}))

    def put(declared):
        said = bench.call("put_workflow", bench.gateway, PutWorkflow(2, TENANT, declared))
        return said, [record for record in said.records if not isinstance(record, WorkflowVersionRow)]

    said, records = put(with_filters)
    workflow_id = bench.version.workflow_id
    clear, *rows = records
    assert clear == FilterClear(TENANT, workflow_id)
    assert [(row.workflow_id, row.scope, row.payload, row.is_declarative) for row in rows] == [
        (workflow_id, "s", '{"a":2,"b":1}', True),
        (workflow_id, "s", "{}", True),
    ]
    assert bench.sent(said, "set_workflow")[0] == (workflow_id, "w", ("k",), tuple(rows))
    said, records = put(with_filters)
    assert records == []
    assert bench.sent(said, "set_workflow") == []
    said, records = put(definition)
    assert records == []
    assert bench.sent(said, "set_workflow")[0] == (workflow_id, "w", ("k",), ())
    said, records = put(replace(with_filters, default_filters=({**entry, "expression": "input.("},)))
    assert said.records == []
    assert "default filter of scope 's'" in bench.answer(said)[0].message


def test_refused_rows_are_taken_back_and_their_caller_is_told():
    bench = Bench()
    said = bench.trigger(NewRun("w", b"", run_id=new_id()))
    effects = tuple((getattr(sent.to, sent.method), sent.args) for sent in said.effects)
    refused = bench.call("records_refused", tuple(said.records), effects, "duplicate key: exists already")
    assert not bench.probe.actor._live
    assert bench.probe.actor._ledger.lines() == []
    ((messages,),) = bench.sent(refused, "deliver")
    assert (messages[0].request_id, messages[0].code) == (bench.requests, Code.ALREADY_EXISTS)


def test_nobody_is_told_of_a_run_that_was_refused_meanwhile():
    bench = Bench()
    run = NewRun("w", b"", run_id=new_id())
    first = bench.trigger(run)
    repeat = bench.trigger(run, is_repeat=True)
    effects = tuple((getattr(sent.to, sent.method), sent.args) for sent in first.effects)
    bench.call("records_refused", tuple(first.records), effects, "bad")
    (then,) = bench.commit(repeat)
    assert [type(message) for message in bench.answer(then)] == [Refusal]


def test_a_refused_trigger_that_counts_on_another_is_answered():
    bench = Bench()
    run = NewRun("w", b"", run_id=new_id())
    bench.trigger(run)
    said = bench.trigger(run, NewRun("w", b"", run_id=new_id()), is_repeat=True)
    if said.fetches:
        (fetch,) = said.fetches
        said = bench.call(fetch.then, fetch.context, ([], []), None)
    effects = tuple((getattr(sent.to, sent.method), sent.args) for sent in said.effects)
    refused = bench.call("records_refused", tuple(said.records), effects, "bad")
    assert [message.request_id for message in bench.answer(refused)] == [bench.requests]


def test_a_refused_transition_is_our_bug_and_a_refused_log_line_is_not():
    bench = Bench()
    row = make_task_run()
    with pytest.raises(EngineBug):
        bench.call("records_refused", (bench.version, row), (), "no")
    log = LogRow(TENANT, row.id, 0, 0, None, None, b"")
    assert bench.call("records_refused", (log,), (), "no").is_silent


# ---------------------------------------------------------------- attempts


def test_an_accepted_proposal_starts_and_a_stale_one_gives_its_slot_back():
    bench = Bench()
    run_id = bench.new_run()
    said = bench.assign(run_id)
    ((assignments,),) = bench.sent(said, "start_tasks")
    assert [(item.task_run_id, item.attempt) for item in assignments] == [(run_id, 0)]
    bench.join("other")
    said = bench.call("propose", (Proposal(run_id, 0, "other", ONE), Proposal("gone", 0, "worker", ONE)))
    assert bench.sent(said, "unspent") == [((("other", run_id, 0), ("worker", "gone", 0)),)]
    assert bench.sent(said, "start_tasks") == []


def test_a_result_frees_the_slot_at_once_and_is_told_after_the_commit():
    bench = Bench()
    run_id = bench.new_run()
    bench.call("watch", bench.gateway, WatchRuns(TENANT, (run_id,)))
    bench.assign(run_id)
    said = bench.report(ReportKind.COMPLETED, run_id, b"out")
    (finish,) = of_kind(said.records, TaskRunFinish)
    assert (finish.state, finish.output) == (TaskRunState.COMPLETED, b"out")
    assert Sent(bench.queue, "release", ((("worker", run_id, 0),),)) in said.sends
    told = bench.answer(said)
    assert [type(message) for message in told] == [RunFinished, Reply]
    assert told[1].value == ReportsTaken((True,))


def test_the_first_terminal_report_wins_and_a_stale_one_is_known_and_dropped():
    bench = Bench(retries=1)
    run_id = bench.new_run()
    bench.assign(run_id)
    bench.report(ReportKind.FAILED, run_id, b"boom")
    late = bench.report(ReportKind.COMPLETED, run_id, b"late")
    assert late.records == []
    assert bench.answer(late)[0].value == ReportsTaken((True,))
    bench.report(ReportKind.COMPLETED, run_id, b"first", attempt=1)
    second = bench.report(ReportKind.COMPLETED, run_id, b"second", attempt=1)
    assert second.records == []


def test_a_failure_is_retried_before_all_new_work_once_that_is_committed():
    bench = Bench(retries=1)
    run_id = bench.new_run()
    bench.assign(run_id)
    said = bench.report(ReportKind.FAILED, run_id, b"boom")
    (update,) = of_kind(said.records, TaskRunUpdate)
    assert (update.expected_attempt, update.attempt, update.app_retries) == (0, 1, 1)
    kinds = [row.kind for row in of_kind(said.records, TaskEventRow)]
    assert kinds[-2:] == [TaskEventKind.FAILED, TaskEventKind.RETRYING]
    assert bench.sent(said, "enqueue") == []
    (then,) = bench.commit(said)
    ((ready,),) = bench.sent(then, "enqueue")[0]
    assert (ready.attempt, ready.queue_priority) == (1, 4)
    bench.assign(run_id, attempt=1)
    (finish,) = of_kind(bench.report(ReportKind.FAILED, run_id, b"again", attempt=1).records, TaskRunFinish)
    assert (finish.state, finish.error) == (TaskRunState.FAILED, b"again")


def test_a_failure_that_says_so_is_not_retried():
    bench = Bench(retries=5)
    run_id = bench.new_run()
    bench.assign(run_id)
    said = bench.report(ReportKind.FAILED, run_id, b"no", should_not_retry=True)
    assert len(of_kind(said.records, TaskRunFinish)) == 1


def test_a_pause_is_kept_and_ends_in_the_queue():
    bench = Bench(retries=1, backoff_factor=2.0)
    run_id = bench.new_run()
    bench.assign(run_id)
    said = bench.report(ReportKind.FAILED, run_id, b"boom")
    (update,) = of_kind(said.records, TaskRunUpdate)
    assert update.state == TaskRunState.BACKING_OFF
    assert update.schedule_deadline == bench.probe.clock.now() + 2_000_000
    bench.probe.clock.advance(1_000_000)
    assert of_kind(bench.call("due").records, TaskRunUpdate) == []
    bench.probe.clock.advance(1_100_000)
    (update,) = of_kind(bench.call("due").records, TaskRunUpdate)
    assert (update.state, update.attempt) == (TaskRunState.QUEUED, 1)


def test_what_no_worker_takes_in_time_is_cancelled():
    bench = Bench(schedule_timeout="2s")
    run_id = bench.new_run()
    bench.probe.clock.advance(2_100_000)
    said = bench.call("due")
    (finish,) = of_kind(said.records, TaskRunFinish)
    assert (finish.id, finish.state) == (run_id, TaskRunState.CANCELLED)
    assert of_kind(said.records, TaskEventRow)[-1].kind == TaskEventKind.SCHEDULING_TIMED_OUT


def test_what_runs_too_long_is_stopped_after_the_commit_and_fails():
    bench = Bench(execution_timeout="3s")
    run_id = bench.new_run()
    bench.assign(run_id)
    bench.probe.clock.advance(3_100_000)
    said = bench.call("due")
    (finish,) = of_kind(said.records, TaskRunFinish)
    assert finish.error == b"Task exceeded timeout of 3s"
    assert [sent.to for sent in said.effects if sent.method == "cancel"] == [bench.workers["worker"]]
    assert not any(sent.method == "cancel" for sent in said.sends)


@pytest.mark.parametrize("is_alive", [True, False])
def test_what_was_cut_off_and_runs_too_long_is_run_again_unless_it_gave_a_sign_of_life(is_alive):
    bench = Bench(execution_timeout="3s")
    run_id = bench.new_run()
    bench.assign(run_id)
    bench.call("doubt", "worker", (run_id,))
    if is_alive:
        bench.report(ReportKind.STARTED, run_id)
    bench.probe.clock.advance(3_100_000)
    said = bench.call("due")
    assert len(of_kind(said.records, TaskRunFinish)) == is_alive
    assert [update.attempt for update in of_kind(said.records, TaskRunUpdate)] == [1] * (not is_alive)


def test_a_lost_worker_costs_an_attempt_of_the_engines_budget_only():
    bench = Bench(ShardSettings(max_internal_retries=1))
    run_id = bench.new_run()
    bench.assign(run_id)
    said = bench.call("worker_lost", "worker", (HeldAttempt(run_id, 0),), "it died")
    (update,) = of_kind(said.records, TaskRunUpdate)
    assert (update.attempt, update.app_retries, update.internal_retries) == (1, 0, 1)
    assert bench.call("worker_lost", "worker", (HeldAttempt(run_id, 0),), "again").records == []
    bench.assign(run_id, attempt=1)
    said = bench.call("worker_lost", "worker", (HeldAttempt(run_id, 1),), "it died too")
    (finish,) = of_kind(said.records, TaskRunFinish)
    assert finish.state == TaskRunState.FAILED
    assert b"was reassigned 1 times" in finish.error
    assert b"it died too" in finish.error


def test_a_report_of_an_attempt_whose_assignment_was_lost_counts():
    bench = Bench()
    bench.join()
    run_id = bench.new_run()
    said = bench.report(ReportKind.STARTED, run_id)
    assert bench.sent(said, "hold") == [((("worker", run_id, 0, ONE),),)]
    assert bench.probe.actor._live[run_id].state == TaskRunState.RUNNING
    other = bench.new_run()
    assert len(of_kind(bench.report(ReportKind.COMPLETED, other, b"out").records, TaskRunFinish)) == 1


def test_only_the_holder_of_an_attempt_starts_or_cancels_it():
    bench = Bench()
    run_id = bench.new_run()
    bench.assign(run_id)
    bench.join("other")
    bench.report(ReportKind.STARTED, run_id, worker_id="other")
    assert bench.probe.actor._live[run_id].state == TaskRunState.ASSIGNED
    assert bench.report(ReportKind.CANCELLED, run_id, worker_id="other").records == []
    (finish,) = bench.report(ReportKind.CANCELLED, run_id).records
    assert finish.state == TaskRunState.CANCELLED


def test_what_a_returning_worker_brings_is_taken_over_or_stopped_before_it_gets_more():
    bench = Bench(retries=1)
    worker = bench.join()
    queued, retried = bench.new_run(), bench.new_run()
    bench.assign(retried, "other")
    bench.report(ReportKind.FAILED, retried, worker_id="other")
    said = bench.call("adopt", "worker", (HeldAttempt(queued, 0), HeldAttempt(retried, 0)))
    assert bench.sent(said, "hold") == [((("worker", queued, 0, ONE),),)]
    ((orders,),) = bench.sent(said, "cancel")
    assert [(item.task_run_id, item.attempt) for item in orders] == [(retried, 0)]
    assert said.sends[-1] == Sent(worker, "adopted", ())


def test_reports_of_what_memory_does_not_hold_are_looked_up_and_held_while_postgres_is_away():
    bench = Bench()
    (fetch,) = bench.report(ReportKind.COMPLETED, new_id()).fetches
    (timer,) = bench.call(fetch.then, fetch.context, None, Unavailable("away")).timers
    (fetch,) = bench.probe.fire(timer).fetches
    said = bench.call(fetch.then, fetch.context, ([], []), None)
    assert bench.answer(said)[0].value == ReportsTaken((False,))


def test_a_start_and_an_end_that_come_at_once_are_one_record():
    bench = Bench()
    run_id = bench.new_run()
    assert bench.assign(run_id).records == []
    assert bench.report(ReportKind.STARTED, run_id).records == []
    said = bench.report(ReportKind.COMPLETED, run_id)
    assert [type(record) for record in said.records] == [TaskRunFinish]
    assert bench.call("save").records == []


def test_an_assignment_that_lasts_is_recorded():
    bench = Bench()
    run_id = bench.new_run()
    (timer,) = [timer for timer in bench.assign(run_id).timers if timer.method == "save"]
    (update,) = bench.probe.fire(timer).records
    assert (update.id, update.state) == (run_id, TaskRunState.ASSIGNED)


# ---------------------------------------------------------------- recovery and paging


def recovered(bench, **fields):
    return make_task_run(
        workflow_id=bench.version.workflow_id, workflow_version_id=bench.version.id, **fields
    )


def test_what_a_worker_held_stays_with_it_and_the_rest_is_queued():
    bench = Bench()
    worker = bench.join()
    held = recovered(bench, state=TaskRunState.RUNNING, worker_id="worker", seq=1)
    queued = recovered(bench, seq=2)
    orphan = recovered(bench, state=TaskRunState.ASSIGNED, worker_id="gone", seq=3)
    said = bench.call("restore_task_runs", (held, queued, orphan))
    ((items,),) = [sent.args for sent in said.sends if sent.to is worker]
    assert [(item.task_run_id, is_started) for item, is_started in items] == [(held.id, True)]
    assert [item.task_run_id for item in bench.sent(said, "enqueue")[0][0]] == [queued.id]
    (update,) = of_kind(said.records, TaskRunUpdate)
    assert (update.id, update.attempt, update.internal_retries) == (orphan.id, 1, 1)


def test_recovery_keeps_a_line_in_order_although_part_of_it_waits_in_postgres():
    bench = Bench(ShardSettings(queue_window_high=10, queue_window_low=5, queue_page=10))
    spilled = recovered(bench, seq=5, spill_queue=LINE)
    early, late = recovered(bench, seq=1), recovered(bench, seq=9)
    bench.call("restore_spilled", (SpilledQueue(TENANT, LINE, 1, 1, None),))
    assert bench.sent(bench.call("restore_task_runs", (early, late)), "enqueue") == []
    (fetch,) = bench.call("restored").fetches
    said = bench.call(fetch.then, fetch.context, Page([spilled], []), None)
    order = [item.task_run_id for (items,) in bench.sent(said, "enqueue") for item in items]
    assert order == [early.id, spilled.id, late.id]


def make_spilling(rows=0):
    """A bench whose window is one task run, with so many beyond it."""
    bench = Bench(ShardSettings(queue_window_high=1, queue_window_low=5, queue_page=10))
    first = bench.new_run()
    said = bench.trigger(*(NewRun("w", b"", run_id=new_id()) for _ in range(rows)))
    return bench, first, said


def test_what_ended_while_its_page_was_read_does_not_come_back():
    bench, _, said = make_spilling(1)
    (row,) = of_kind(said.records, TaskRunRow)
    assert row.spill_queue == LINE
    (then,) = bench.commit(said)
    (page,) = then.fetches
    bench.join()
    (look,) = bench.report(ReportKind.COMPLETED, row.id).fetches
    bench.call(look.then, look.context, ([row], []), None)
    said = bench.call(page.then, page.context, Page([row], []), None)
    assert row.id not in bench.probe.actor._live
    assert bench.sent(said, "enqueue") == []


def test_an_empty_page_that_is_older_than_the_last_commit_forgets_nothing():
    bench, _, said = make_spilling(1)
    (then,) = bench.commit(said)
    (page,) = then.fetches
    bench.commit(bench.trigger())
    said = bench.call(page.then, page.context, Page([], []), None)
    assert len(said.fetches) == 1, "read again"
    (again,) = said.fetches
    bench.call(again.then, again.context, Page([], []), None)
    assert not bench.probe.actor._ledger.has_spilled()


def test_a_quarantined_run_has_failed_with_the_traceback():
    bench = Bench()
    run_id = bench.new_run()
    said = bench.call("quarantine", run_id, "Traceback ...")
    (finish,) = of_kind(said.records, TaskRunFinish)
    assert (finish.state, finish.error) == (TaskRunState.FAILED, b"Traceback ...")
    assert of_kind(said.records, TaskEventRow)[-1].kind == TaskEventKind.QUARANTINED
    assert bench.call("quarantine", run_id, "again").is_silent


# ---------------------------------------------------------------- results and reads


def test_a_watch_is_answered_early_late_and_again():
    bench = Bench()
    run_id = bench.new_run()
    bench.call("watch", bench.gateway, WatchRuns(TENANT, (run_id,)))
    bench.call("watch", bench.gateway, WatchRuns(TENANT, (run_id,)))
    bench.assign(run_id)
    told = bench.answer(bench.report(ReportKind.COMPLETED, run_id, b"out"))
    assert len([message for message in told if isinstance(message, RunFinished)]) == 1
    (late,) = bench.answer(bench.call("watch", bench.gateway, WatchRuns(TENANT, (run_id,))))
    assert late.results[0].output == b"out"


def test_a_watch_of_an_unknown_run_is_looked_up_and_stays_pending():
    bench = Bench()
    run_id = new_id()
    (fetch,) = bench.call("watch", bench.gateway, WatchRuns(TENANT, (run_id,))).fetches
    assert bench.answer(bench.call(fetch.then, fetch.context, [], None)) == []
    bench.commit(bench.trigger(NewRun("w", b"", run_id=run_id)))
    bench.assign(run_id)
    told = bench.answer(bench.report(ReportKind.COMPLETED, run_id))
    assert isinstance(told[0], RunFinished)


def test_a_read_leaves_after_what_it_observed_is_durable():
    bench = Bench()
    run_id = bench.new_run()
    said = bench.call("get_run", bench.gateway, GetRun(9, TENANT, run_id))
    assert said.sends == []
    (reply,) = bench.answer(said)
    assert (reply.value.run_id, reply.value.is_done) == (run_id, False)


def test_log_lines_of_an_unknown_task_run_are_not_found():
    bench = Bench()
    run_id = bench.new_run()
    line = NewLog(run_id, None, 5, "INFO", None, b"hello")
    (row,) = bench.call("put_logs", bench.gateway, PutLogs(3, TENANT, (line,))).records
    assert (row.task_run_id, row.attempt, row.message) == (run_id, 0, b"hello")
    said = bench.call("put_logs", bench.gateway, PutLogs(4, TENANT, (line._replace(task_run_id=new_id()),)))
    assert bench.answer(said)[0].code == Code.NOT_FOUND


def test_who_was_being_worked_on_is_told_when_a_handler_raises():
    bench = Bench()
    run_id = bench.new_run()
    bench.assign(run_id)
    assert bench.probe.actor._at is None, "nobody is blamed for what comes later"
    bench.probe.actor._at = run_id
    said = bench.probe._run(bench.probe.actor.on_failure)
    assert said.sends == [Sent(bench.supervisor, "crashed_at", (TENANT, run_id))]
