"""Deleted workflows, through the tracker alone: what is not found any more, what goes on, and what a restart knows."""

from broadaxe_actors.batch_builder import Append, BatchBuilder
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.errors import Code
from broadaxe_actors.messages import DeleteWorkflow, NewRun, PutWorkflow, Refusal, Reply
from broadaxe_storage.records import TaskRunRow, WorkflowDeletion, WorkflowPause, WorkflowVersionRow
from tests.factories import TENANT, make_task_run, make_version, new_id
from tests.unit.actors.test_pausing import Bench
from tests.unit.actors.test_run_tracker import of_kind

DEFINITION = WorkflowDefinition("w", (TaskDefinition("t", "w:t"),), event_triggers=("key",))


def delete(bench: Bench, workflow_id: str | None = None):
    bench.requests += 1
    message = DeleteWorkflow(bench.requests, TENANT, workflow_id or bench.workflow_id)
    return bench.call("delete_workflow", bench.gateway, message)


def put(bench: Bench):
    bench.requests += 1
    return bench.call("put_workflow", bench.gateway, PutWorkflow(bench.requests, TENANT, DEFINITION))


def test_a_deletion_is_recorded_and_answered_after_its_commit():
    bench = Bench()
    said = delete(bench)
    assert said.records == [WorkflowDeletion(bench.workflow_id, TENANT, bench.now)]
    assert bench.answer(said) == [Reply(bench.requests, None)]
    assert bench.sent(said, "forget_workflow") == [(bench.workflow_id,)]
    assert bench.sent(said, "unset_workflow") == [("w",)]


def test_a_workflow_that_is_unknown_or_deleted_already_is_not_found():
    bench = Bench()
    delete(bench)
    for workflow_id in (bench.workflow_id, new_id()):
        said = delete(bench, workflow_id)
        (refusal,) = bench.answer(said)
        assert isinstance(refusal, Refusal)
        assert (refusal.code, workflow_id in refusal.message) == (Code.NOT_FOUND, True)
        assert said.records == []


def test_nothing_starts_a_run_of_a_deleted_workflow_and_what_is_live_goes_on():
    bench = Bench()
    run_id = bench.new_run()
    delete(bench)
    said = bench.trigger(NewRun("w", b"{}"))
    (refusal,) = bench.answer(said)
    assert isinstance(refusal, Refusal)
    assert "'w' is not registered" in refusal.message
    assert of_kind(said.records, TaskRunRow) == []
    assert bench.sent(bench.assign(run_id), "start_tasks")


def test_a_pause_ends_with_its_workflow():
    bench = Bench()
    bench.pause()
    run_id = bench.new_run()
    said = delete(bench)
    (pause,) = of_kind(said.records, WorkflowPause)
    assert pause.paused_at is None
    assert bench.lift(said) == [run_id]
    (refusal,) = bench.answer(bench.pause())
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.NOT_FOUND


def test_a_registration_of_the_name_makes_another_workflow():
    bench = Bench()
    delete(bench)
    (version,) = of_kind(put(bench).records, WorkflowVersionRow)
    assert version.workflow_id != bench.workflow_id
    assert version.number == 1
    (row,) = of_kind(bench.trigger(NewRun("w", b"{}")).records, TaskRunRow)
    assert row.workflow_id == version.workflow_id


def test_after_a_restart_a_deleted_workflow_serves_its_live_runs_alone():
    bench = Bench()
    # A version of the deleted one has a higher number than that of the workflow which has its name now.
    old = bench.version._replace(number=7)
    now = bench.version._replace(id=new_id(), workflow_id=new_id(), number=1)
    row = make_task_run(workflow_id=old.workflow_id, workflow_version_id=old.id, queue_priority=1)
    after = Bench()
    after.probe.actor._catalog._by_name.clear()
    after.call("restore_versions", (old, now), (old.workflow_id,))
    heard = [after.call("restore_task_runs", (row,)), after.call("restored")]
    assert after.enqueued(heard) == [row.id]
    (made,) = of_kind(after.trigger(NewRun("w", b"{}")).records, TaskRunRow)
    assert made.workflow_id == now.workflow_id
    (refusal,) = after.answer(delete(after, old.workflow_id))
    assert isinstance(refusal, Refusal)


def test_a_name_is_free_before_another_workflow_has_it():
    batch = BatchBuilder()
    deletion = WorkflowDeletion(new_id(), TENANT, 1)
    registration = Append(TENANT, (make_version(),), ())
    assert batch.fits(registration)
    batch.add(Append(TENANT, (deletion,), ()))
    assert not batch.fits(registration)
    assert batch.fits(Append(TENANT, (make_task_run(),), ()))
    assert batch.batch().deleted_workflows == (deletion,)
