"""The subtle places of the wire contract (`behaviour-core.md` 7.7) around single calls: spawn memory, refresh, release, cancel, replay.

Each speaks the bare wire: what it sends and what it must see are the contract, whatever an SDK makes of it.
"""

import json
import time
import uuid
from datetime import UTC
from typing import Any

import grpc
import pytest

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2 as triggers
from tests.compat.calls import (
    START,
    STOP,
    Step,
    cancel,
    payload_of,
    put,
    refresh,
    release,
    replay,
    results_of,
    take,
    tasks_filter,
)
from tests.compat.conftest import Workers
from tests.compat.wire import BareWorker, Wire, code_of, unique
from tests.processes import Server, wait_until
from tests.rest import Rest

pytestmark = pytest.mark.timeout(120)
BareWorkers = type[Workers]

ALREADY = grpc.StatusCode.ALREADY_EXISTS
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
Item = dispatcher.BatchActionEventItem


def started(wire: Wire, workers: BareWorkers, **fields: Any) -> tuple[BareWorker, str, str]:
    """A worker, the name of a workflow it serves, and the id of a run just triggered."""
    name = unique("subtle")
    worker = workers.of(wire.put_workflow(name, **fields))
    return worker, name, wire.trigger(name, '{"n": 1}')


# ---- 14: spawn memory over replays


def test_14_spawn_memory_outlives_a_replay(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name, parent = started(wire, bare_worker)
    attempt = worker.next()
    child = wire.trigger(name, parent_task_run_external_id=parent, child_index=0)
    wire.complete(worker.next())
    wire.result(child)
    wire.complete(attempt)
    wire.result(parent)
    replay(wire, parent)
    assert worker.next().retry_count == 1
    assert wire.trigger(name, parent_task_run_external_id=parent, child_index=0) == child
    assert wire.trigger(name, parent_task_run_external_id=parent, child_index=1) != child


def test_14_memory_belongs_to_the_task_not_to_the_run(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("spawners")
    worker = bare_worker.of(*put(wire, name, Step("one"), Step("two")))
    wire.trigger(name)
    tasks = take(worker, "one", "two")
    other = unique("child")
    wire.put_workflow(other)
    children = [
        wire.trigger(
            other,
            parent_id=action.workflow_run_id,
            parent_task_run_external_id=action.task_run_external_id,
            child_index=0,
        )
        for action in tasks.values()
    ]
    assert children[0] != children[1]


def test_14_child_of_a_task_in_a_graph_carries_that_tasks_id(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("spawner")
    worker = bare_worker.of(*put(wire, name, Step("one"), Step("two", ["one"])))
    run_id = wire.trigger(name)
    one = take(worker, "one")["one"]
    child_worker, child_name, _ = started(wire, bare_worker)
    child_worker.next()
    wire.trigger(
        child_name,
        parent_id=run_id,
        parent_task_run_external_id=one.task_run_external_id,
        child_index=3,
        child_key="k",
    )
    action = child_worker.next()
    assert action.parent_workflow_run_id == one.task_run_external_id
    assert (action.child_workflow_index, action.child_workflow_key) == (3, "k")
    metadata = json.loads(action.additional_metadata)
    assert metadata["hatchet__parent_workflow_run_id"] == run_id
    assert metadata["hatchet__parent_step_run_id"] == one.task_run_external_id


# ---- 24: refreshing


def test_24_refresh_adds_to_the_deadline_that_stands(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker, timeout="2s")
    before = time.time()
    worker.next()
    first = refresh(wire, run_id, "1s").timeout_at.ToDatetime(tzinfo=UTC).timestamp()
    second = refresh(wire, run_id, "500ms").timeout_at.ToDatetime(tzinfo=UTC).timestamp()
    assert second - first == pytest.approx(0.5, abs=0.01)
    assert first - before == pytest.approx(3.0, abs=1.0)
    stop = worker.next(timeout=20)
    assert stop.action_type == STOP
    assert time.time() - second < 1.5
    assert time.time() >= second - 0.1


@pytest.mark.parametrize("increment", ["", "5", "-5s", "1d", "5 s", "five"])
def test_24_increment_that_is_no_duration_is_refused(
    wire: Wire, bare_worker: BareWorkers, increment: str
) -> None:
    worker, _, run_id = started(wire, bare_worker)
    worker.next()
    code, text = code_of(lambda: refresh(wire, run_id, increment))
    assert code == INVALID, text


@pytest.mark.parametrize("increment", ["1h", "1h30m", "1.5s", "0h", "250ms"])
def test_24_durations_of_every_form_are_taken(wire: Wire, bare_worker: BareWorkers, increment: str) -> None:
    worker, _, run_id = started(wire, bare_worker)
    worker.next()
    assert refresh(wire, run_id, increment).HasField("timeout_at")


def test_24_refresh_without_a_running_attempt_is_not_found(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("queued")
    wire.put_workflow(name)
    queued = wire.trigger(name)
    for run_id in (queued, str(uuid.uuid4())):
        code, text = code_of(lambda run_id=run_id: refresh(wire, run_id, "1s"))  # type: ignore[misc]
        assert code == NOT_FOUND, text
        assert run_id in text
    worker, _, run_id = started(wire, bare_worker)
    wire.complete(worker.next())
    wire.result(run_id)
    assert code_of(lambda: refresh(wire, run_id, "1s"))[0] == NOT_FOUND


# ---- 25: releasing


def test_25_released_slot_takes_the_next_task_and_the_first_ends_as_ever(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    name = unique("releases")
    worker = bare_worker.of(wire.put_workflow(name), slots=1)
    one, two = wire.trigger(name), wire.trigger(name)
    first = worker.next()
    assert worker.stream.silent_for(0.4)
    release(wire, one)
    second = worker.next()
    assert (second.action_type, second.task_run_external_id) == (START, two)
    release(wire, one)  # harmless, and frees nothing more
    three = wire.trigger(name)
    assert worker.stream.silent_for(0.4)
    wire.complete(first, '{"v": 1}')
    assert json.loads(wire.result(one).output) == {"v": 1}
    assert worker.stream.silent_for(0.4)  # its slot was given back before
    wire.complete(second)
    assert worker.next().task_run_external_id == three


def test_25_released_attempt_may_fail_and_is_retried(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker, retries=1)
    first = worker.next()
    release(wire, run_id)
    wire.fail(first, "no")
    second = worker.next()
    assert second.retry_count == 1
    wire.complete(second, '{"v": 1}')
    assert json.loads(wire.result(run_id).output) == {"v": 1}


def test_25_released_attempt_still_times_out(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker, timeout="1s")
    worker.next()
    release(wire, run_id)
    assert wire.result(run_id, timeout=20).error == "Task exceeded timeout of 1s"


def test_25_release_without_a_running_attempt_is_not_found(wire: Wire) -> None:
    name = unique("queued")
    wire.put_workflow(name)
    for run_id in (wire.trigger(name), str(uuid.uuid4())):
        code, text = code_of(lambda run_id=run_id: release(wire, run_id))  # type: ignore[misc]
        assert code == NOT_FOUND, text


# ---- cancel and replay by filter


def test_ids_and_a_filter_together_are_refused(wire: Wire) -> None:
    both = {"filter": tasks_filter()}
    some = str(uuid.uuid4())
    assert code_of(lambda: cancel(wire, some, **both))[0] == INVALID
    assert code_of(lambda: replay(wire, some, **both))[0] == INVALID


def test_filter_needs_since_and_well_formed_metadata(wire: Wire) -> None:
    assert code_of(lambda: cancel(wire, filter=v1.TasksFilter()))[0] == INVALID
    assert code_of(lambda: replay(wire, filter=v1.TasksFilter()))[0] == INVALID
    malformed = tasks_filter(additional_metadata=["no-colon"])
    assert code_of(lambda: cancel(wire, filter=malformed))[0] == INVALID


def test_filter_selects_by_workflow_metadata_and_status(
    server: Server, wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, name, running = started(wire, bare_worker)
    workflow_id = worker.next().workflow_id
    mark = unique("mark")
    marked = wire.trigger(name, additional_metadata=json.dumps({"mark": mark}))
    worker.next()
    rest = Rest(
        server.http_url, server.token
    )  # a filter reads the record, which an assignment reaches in the background
    path = f"S/workflow-runs/{marked}/status"
    wait_until(lambda: rest.get(path) == "RUNNING", what="the assignment to be recorded", timeout=10)
    rest.close()
    chosen = {"workflow_ids": [workflow_id], "additional_metadata": [f"mark:{mark}"]}
    cancel(wire, filter=tasks_filter(statuses=["QUEUED"], **chosen))
    assert not wire.details(marked).done  # it runs
    cancel(wire, filter=tasks_filter(statuses=["RUNNING"], **chosen))
    assert wire.details(marked).status == v1.CANCELLED
    assert not wire.details(running).done
    assert replay(wire, filter=tasks_filter(statuses=["CANCELLED"], **chosen)) == [marked]
    assert not wire.details(marked).done


def test_malformed_ids_are_refused_and_unknown_ones_ignored(wire: Wire) -> None:
    assert code_of(lambda: cancel(wire, "not an id"))[0] == INVALID
    unknown = str(uuid.uuid4())
    assert cancel(wire, unknown) in ([], [unknown])
    assert replay(wire, unknown) == []


def test_answers_name_what_is_replayed(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("named")
    worker = bare_worker.of(*put(wire, name, Step("one"), Step("two", ["one"]), Step("aside")))
    run_id = wire.trigger(name)
    first = take(worker, "one", "aside")
    for action in first.values():
        wire.complete(action)
    second = take(worker, "two")
    assert replay(wire, run_id) == []  # it still runs
    wire.complete(second["two"])
    ids = {task: result.task_run_external_id for task, result in results_of(wire, run_id).items()}
    assert sorted(replay(wire, ids["one"])) == sorted((ids["one"], ids["two"]))
    action = worker.next()
    assert action.task_run_external_id == ids["one"]
    wire.complete(action)
    again = worker.next()
    assert again.task_run_external_id == ids["two"]
    assert payload_of(again)["parents"] == {"one": {}, "aside": {}}
    wire.complete(again)
    results_of(wire, run_id)
    assert sorted(replay(wire, run_id)) == sorted(ids.values())


# ---- the calls that do little


def test_overrides_are_accepted_and_forgotten(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker)
    action = worker.next()
    request = dispatcher.OverridesData(task_run_external_id=run_id, path="input.n", value="2")
    wire.unary("/Dispatcher/PutOverridesData", request, dispatcher.OverridesDataResponse)
    wire.complete(action)
    assert json.loads(wire.details(run_id).input) == {"n": 1}


def test_v1_trigger_takes_bytes_and_answers_an_id(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name, _ = started(wire, bare_worker)
    worker.next()
    request = v1.TriggerWorkflowRunRequest(
        workflow_name=name, input=b'{"n": 2}', additional_metadata=b'{"by": "v1"}', priority=2
    )
    answer = wire.unary("/v1.AdminService/TriggerWorkflowRun", request, v1.TriggerWorkflowRunResponse)
    action = worker.next()
    assert (action.task_run_external_id, action.priority) == (answer.external_id, 2)
    assert json.loads(action.additional_metadata)["by"] == "v1"
    assert payload_of(action)["input"] == {"n": 2}


def test_filter_cancels_many_runs_and_nothing_of_them_runs_any_more(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    name, mark = unique("storm"), unique("mark")
    worker = bare_worker.of(*put(wire, name, Step("one"), Step("two", ["one"])), slots=50)
    request = triggers.TriggerWorkflowRequest(
        name=name, input="{}", additional_metadata=json.dumps({"mark": mark})
    )
    run_ids = wire.bulk_trigger(*[request] * 400)
    held = [worker.next() for _ in range(50)]  # the others wait
    assert {action.action_type for action in held} == {START}
    cancel(wire, filter=tasks_filter(additional_metadata=[f"mark:{mark}"]))
    assert {wire.details(run_id).status for run_id in run_ids} == {v1.CANCELLED}
    stopped = [worker.next() for _ in range(50)]
    assert {action.action_type for action in stopped} == {STOP}
    for action in held:
        wire.complete(action)  # too late
    assert worker.stream.silent_for(0.7)


# ---- streams of a retried task


def test_chunks_of_a_second_attempt_begin_at_zero_again(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker, retries=1)
    first = worker.next()
    stream = wire.run_events(run_id)
    for _ in range(100):  # until the subscription stands: streams are not replayed
        wire.put_stream(run_id, b"probe")
        try:
            stream.next(timeout=0.1)
        except AssertionError:
            continue
        break
    for index in range(3):
        wire.put_stream(run_id, f"first {index}".encode(), index)
    wire.fail(first, "once")
    second = worker.next()
    for index in range(3):
        wire.put_stream(run_id, f"second {index}".encode(), index)
    wire.complete(second)
    began = time.monotonic()
    chunks = [
        event.event_payload
        for event in stream.rest()
        if event.event_type == dispatcher.RESOURCE_EVENT_TYPE_STREAM and event.event_payload != "probe"
    ]
    assert chunks == [f"{attempt} {index}" for attempt in ("first", "second") for index in range(3)]
    assert time.monotonic() - began < 3.0  # nothing was held back for an index that never came


# ---- a lost worker


@pytest.mark.slow
def test_tasks_of_a_graph_move_when_their_worker_is_lost(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("lost")
    actions = put(
        wire, name, Step("one"), Step("two", ["one"]), Step("released", ["one"], fields={"timeout": "50s"})
    )
    gone = bare_worker.of(*actions)
    run_id = wire.trigger(name)
    wire.complete(take(gone, "one")["one"], '{"v": 1}')
    held = take(gone, "two", "released")
    for action in held.values():
        wire.report(action, dispatcher.STEP_EVENT_TYPE_STARTED, worker_id=gone.id)
    release(wire, held["released"].task_run_external_id)
    gone.stop_beating()
    gone.stream.cancel()
    other = bare_worker.of(*actions)
    moved = other.next(timeout=60)
    assert (moved.task_name, moved.retry_count) == ("two", 1)
    assert payload_of(moved)["parents"] == {"one": {"v": 1}}
    wire.complete(moved, '{"v": 2}')
    assert other.stream.silent_for(25)  # the released one is not moved: its timeout ends it
    results = results_of(wire, run_id, timeout=30)
    assert results["released"].error == "Task exceeded timeout of 50s"
    assert json.loads(results["two"].output) == {"v": 2}
