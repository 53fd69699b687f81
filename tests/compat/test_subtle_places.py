"""The subtle places of the wire contract (`behaviour-core.md` 7.7) that are reachable so far, one test each, by its rank there.

Each speaks the bare wire: what it sends and what it must see are the contract, whatever an SDK makes of it.
"""

import json
import time
import uuid
from functools import partial
from typing import Any

import grpc
import pytest

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2 as triggers
from tests.compat.conftest import Workers
from tests.compat.wire import BareWorker, Stream, Wire, code_of, unique
from tests.processes import Server, closing, server_directory, wait_until

pytestmark = pytest.mark.timeout(120)
BareWorkers = type[Workers]


def started(wire: Wire, workers: BareWorkers, **fields: Any) -> tuple[BareWorker, str, str]:
    """A worker, the name of a workflow it serves, and the id of a run just triggered."""
    name = unique("subtle")
    worker = workers.of(wire.put_workflow(name, **fields))
    return worker, name, wire.trigger(name, '{"n": 1}')


# ---- 1: results of cancelled and completed tasks


def test_01_cancelled_task_has_an_error_present_and_empty(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker)
    wire.report(worker.next(), dispatcher.STEP_EVENT_TYPE_CANCELLED, worker_id=worker.id)
    result = wire.result(run_id)
    assert result.HasField("error")
    assert result.error == ""


def test_01_completed_task_has_no_error(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker)
    wire.complete(worker.next(), '{"done": true}')
    result = wire.result(run_id)
    assert not result.HasField("error")
    assert json.loads(result.output) == {"done": True}


def test_01_cancel_by_the_worker_comes_back_as_a_cancel_action(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker)
    action = worker.next()
    wire.report(action, dispatcher.STEP_EVENT_TYPE_CANCELLED, worker_id=worker.id)
    cancel = worker.next()
    assert cancel.action_type == dispatcher.CANCEL_STEP_RUN
    assert (cancel.task_run_external_id, cancel.retry_count) == (run_id, 0)


def test_01_report_after_a_cancel_changes_nothing(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker, retries=3)
    action = worker.next()
    wire.report(action, dispatcher.STEP_EVENT_TYPE_CANCELLED, worker_id=worker.id)
    wire.fail(action, "too late")
    result = wire.result(run_id)
    assert result.HasField("error")
    assert result.error == ""
    assert wire.details(run_id).status == v1.CANCELLED


# ---- 3: the worker's name where its id belongs


def test_03_step_event_may_carry_the_workers_name(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker)
    answer = wire.report(
        worker.next(),
        dispatcher.STEP_EVENT_TYPE_COMPLETED,
        '{"by": "name"}',
        worker_id="my-typescript-worker",
    )
    assert answer.worker_id == "my-typescript-worker"
    assert json.loads(wire.result(run_id).output) == {"by": "name"}


# ---- 4: heartbeats and sessions


def test_04_heartbeat_before_the_first_stream_is_accepted(wire: Wire) -> None:
    wire.heartbeat(wire.register("some:thing"))


def test_04_heartbeat_without_a_stream_is_refused(wire: Wire) -> None:
    worker_id = wire.register("some:thing")
    stream = wire.listen(worker_id)
    wire.heartbeat(worker_id)
    stream.cancel()

    def refusal() -> grpc.RpcError | None:
        try:
            wire.heartbeat(worker_id)
        except grpc.RpcError as error:
            return error
        return None

    error = wait_until(refusal, what="the heartbeat of a worker without a stream to be refused", timeout=10)
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert worker_id in error.details()


def test_04_newer_stream_keeps_the_worker_active_when_the_older_closes(wire: Wire) -> None:
    name = unique("sessions")
    action = wire.put_workflow(name)
    worker_id = wire.register(action)
    older = wire.listen(worker_id)
    newer = wire.listen(worker_id)
    wire.heartbeat(worker_id)
    older.cancel()
    for _ in range(5):
        wire.heartbeat(worker_id)
    run_id = wire.trigger(name)
    assert newer.next().task_run_external_id == run_id
    newer.cancel()


def test_04_heartbeat_of_a_bad_or_unknown_worker_says_so(wire: Wire) -> None:
    assert code_of(lambda: wire.heartbeat("nobody"))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert code_of(lambda: wire.heartbeat(str(uuid.uuid4())))[0] == grpc.StatusCode.NOT_FOUND


def test_04_listening_as_a_bad_or_unknown_worker_says_so(wire: Wire) -> None:
    assert wire.listen("nobody").ended() == grpc.StatusCode.INVALID_ARGUMENT
    assert wire.listen(str(uuid.uuid4())).ended() == grpc.StatusCode.NOT_FOUND


# ---- 5: worker ids outlive the engine


def test_05_worker_id_and_its_task_outlive_an_engine_restart() -> None:
    with server_directory() as directory, closing(server := Server(directory)):
        server.start()
        wire = Wire(server.grpc_address, server.token)
        name = unique("outlives")
        worker = BareWorker(wire, wire.put_workflow(name))
        run_id = wire.trigger(name, '{"n": 5}')
        action = worker.next()
        worker.stop_beating()
        server.stop()
        assert worker.stream.ended() in {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        wire.close()

        server.restart()
        wire = Wire(server.grpc_address, server.token)
        stream = wire.listen(worker.id)
        wire.heartbeat(worker.id)
        wire.report(action, dispatcher.STEP_EVENT_TYPE_STARTED, worker_id=worker.id)
        wire.complete(action, '{"after": "restart"}', worker_id=worker.id)
        assert json.loads(wire.result(run_id).output) == {"after": "restart"}
        again = wire.trigger(name)
        assert stream.next().task_run_external_id == again
        wire.close()


# ---- 6: one retry count


def test_06_retries_count_up_and_stale_reports_are_dropped(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker, retries=2)
    first = worker.next()
    wire.fail(first, "once")
    second = worker.next()
    assert (first.retry_count, second.retry_count) == (0, 1)
    assert second.task_run_external_id == first.task_run_external_id == run_id
    wire.complete(first, '{"from": "the first attempt, late"}')
    wire.fail(first, "the first attempt, late again")
    wire.complete(second, '{"from": "second"}')
    assert json.loads(wire.result(run_id).output) == {"from": "second"}


def test_06_report_without_a_retry_count_means_the_current_attempt(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, _, run_id = started(wire, bare_worker, retries=1)
    wire.fail(worker.next(), "once")
    wire.complete(worker.next(), '{"ok": 1}', retry_count=None)
    assert json.loads(wire.result(run_id).output) == {"ok": 1}


def test_06_first_terminal_report_of_an_attempt_wins(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker, retries=3)
    action = worker.next()
    wire.complete(action, '{"first": true}')
    wire.complete(action, '{"first": false}')
    wire.fail(action, "and failed as well")
    assert json.loads(wire.result(run_id).output) == {"first": True}
    assert worker.stream.silent_for(0.5)


def test_06_should_not_retry_ends_the_task_whatever_its_budget(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker, retries=5)
    wire.fail(worker.next(), "for good", should_not_retry=True)
    assert wire.result(run_id).error == "for good"


def test_06_unknown_task_in_a_step_event_is_an_invalid_argument(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, _ = started(wire, bare_worker)
    action = worker.next()
    for task_run_id in (str(uuid.uuid4()), "not-an-id", ""):
        code, text = code_of(partial(wire.complete, action, task_run_external_id=task_run_id))
        assert code == grpc.StatusCode.INVALID_ARGUMENT, text


# ---- 7: batch events


def test_07_batch_event_skips_unknown_items_and_takes_the_others(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, _, run_id = started(wire, bare_worker)
    action = worker.next()
    item = dispatcher.BatchActionEventItem
    wire.unary(
        "/Dispatcher/SendBatchActionEvent",
        dispatcher.BatchActionEvent(
            worker_id=worker.id,
            action_id=action.action_id,
            event_type=dispatcher.STEP_EVENT_TYPE_COMPLETED,
            items=[
                item(task_run_external_id=str(uuid.uuid4()), event_payload="{}"),
                item(task_run_external_id=run_id, event_payload='{"batch": 1}'),
            ],
        ),
        dispatcher.ActionEventResponse,
    )
    assert json.loads(wire.result(run_id).output) == {"batch": 1}


def test_07_batch_event_without_items_is_fine_and_with_a_malformed_id_refused(wire: Wire) -> None:
    def send(*items: dispatcher.BatchActionEventItem) -> object:
        event = dispatcher.BatchActionEvent(event_type=dispatcher.STEP_EVENT_TYPE_COMPLETED, items=items)
        return wire.unary("/Dispatcher/SendBatchActionEvent", event, dispatcher.ActionEventResponse)

    send()
    malformed = dispatcher.BatchActionEventItem(task_run_external_id="nonsense")
    assert code_of(lambda: send(malformed))[0] == grpc.StatusCode.INVALID_ARGUMENT


# ---- 8 and 9: the payload of a start


def test_08_09_payload_has_parents_and_triggers_as_objects(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker)
    action = worker.next()
    payload = json.loads(action.action_payload)
    assert payload["input"] == {"n": 1}
    assert payload["parents"] == {}
    assert payload["triggers"] == {"filter_payload": None}
    assert payload["triggered_by"] == "manual"
    assert isinstance(json.loads(action.additional_metadata), dict)
    assert action.workflow_run_id == action.task_run_external_id == action.job_run_id == run_id
    assert action.job_id == action.task_id


def test_08_input_that_is_no_object_arrives_as_null(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name, _ = started(wire, bare_worker)
    worker.next()
    wire.trigger(name, "[1, 2]")
    assert json.loads(worker.next().action_payload)["input"] is None


# ---- 11: subscriptions


def test_11_run_subscription_answers_late_and_repeated_subscribers(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, name, over = started(wire, bare_worker)
    wire.complete(worker.next())
    wire.result(over)
    run_id = wire.trigger(name)
    early = wire.runs(run_id, run_id, over)
    assert early.next().workflow_run_id == over  # the server takes requests in order: it has all three
    wire.complete(worker.next(), '{"v": 1}')
    assert json.loads(early.next().results[0].output) == {"v": 1}
    assert early.silent_for(1.5)  # asked twice before the end: answered once
    early.ask(run_id)
    assert json.loads(early.next().results[0].output) == {"v": 1}
    assert json.loads(wire.result(run_id).output) == {"v": 1}
    assert json.loads(wire.result(run_id).output) == {"v": 1}


def test_11_unknown_and_malformed_runs_are_never_answered_and_harm_nothing(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, _, run_id = started(wire, bare_worker)
    stream = wire.runs(str(uuid.uuid4()), "no uuid", "", run_id)
    wire.complete(worker.next())
    assert stream.next().workflow_run_id == run_id
    assert stream.silent_for(1.5)


def test_11_run_stream_ends_when_the_client_closes_its_side(wire: Wire) -> None:
    stream = wire.runs()
    stream.half_close()
    assert stream.ended() == grpc.StatusCode.OK


def test_11_event_subscription_does_not_replay(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker, retries=1)
    wire.fail(worker.next(), "before anyone looked")
    second = worker.next()
    stream = subscribed(wire, run_id)
    wire.complete(second, '{"v": 2}')
    kinds = [(event.resource_type, event.event_type, event.hangup) for event in stream.rest()]
    step, run = dispatcher.RESOURCE_TYPE_STEP_RUN, dispatcher.RESOURCE_TYPE_WORKFLOW_RUN
    completed = dispatcher.RESOURCE_EVENT_TYPE_COMPLETED
    assert kinds[-2:] == [(step, completed, False), (run, completed, True)]
    assert all(kind[1] == dispatcher.RESOURCE_EVENT_TYPE_STREAM for kind in kinds[:-2])


def test_11_event_subscription_of_a_final_run_ends_at_once_without_events(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, _, run_id = started(wire, bare_worker)
    wire.complete(worker.next())
    wire.result(run_id)
    assert wire.run_events(run_id).rest() == []


def test_11_event_subscription_of_an_unknown_run_waits_and_is_not_found(wire: Wire) -> None:
    begun = time.monotonic()
    assert wire.run_events(str(uuid.uuid4())).ended(timeout=30) == grpc.StatusCode.NOT_FOUND
    assert time.monotonic() - begun > 5  # a run just triggered may still come


def subscribed(wire: Wire, run_id: str) -> Stream[dispatcher.WorkflowEvent]:
    """An events subscription that stands: it shows a probe sent to it. Streams are not replayed, so the probe repeats."""
    stream = wire.run_events(run_id)
    for _ in range(100):
        wire.put_stream(run_id, b"probe")
        try:
            stream.next(timeout=0.1)
        except AssertionError as nothing:
            if "ended" in str(nothing):
                raise
            continue
        return stream
    raise AssertionError(f"the subscription to {run_id} showed no event")


# ---- 12: STARTED marks creation


def test_12_started_marks_creation_not_the_workers_start(wire: Wire) -> None:
    """A child's events by metadata: subscribed before the run exists, with no worker there at all."""
    name = unique("created")
    wire.put_workflow(name)
    value = unique("meta")
    stream = wire.down(
        "/Dispatcher/SubscribeToWorkflowEvents",
        dispatcher.SubscribeToWorkflowEventsRequest(additional_meta_key="probe", additional_meta_value=value),
        dispatcher.WorkflowEvent,
    )
    seen: list[dispatcher.WorkflowEvent] = []
    runs: list[str] = []
    for _ in range(20):  # until the subscription stands, nobody hears of a run
        runs.append(wire.trigger(name, additional_metadata=json.dumps({"probe": value})))
        try:
            seen.append(stream.next(timeout=0.5))
        except AssertionError as nothing:
            if "ended" in str(nothing):
                raise
            continue
        break
    assert seen, "no event of a run that was created and never started"
    assert seen[0].event_type == dispatcher.RESOURCE_EVENT_TYPE_STARTED
    assert seen[0].resource_type == dispatcher.RESOURCE_TYPE_STEP_RUN
    assert seen[0].resource_id in runs
    assert wire.details(seen[0].resource_id).status == v1.QUEUED


# ---- 14: spawn memory


def test_14_same_child_index_of_one_parent_is_one_run(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name, parent = started(wire, bare_worker, retries=1)
    worker.next()
    first = wire.trigger(name, parent_task_run_external_id=parent, parent_id=parent, child_index=0)
    again = wire.trigger(
        name, '{"other": 1}', parent_task_run_external_id=parent, parent_id=parent, child_index=0
    )
    other = wire.trigger(name, parent_task_run_external_id=parent, parent_id=parent, child_index=1)
    assert first == again
    assert other != first


def test_14_spawn_memory_outlives_the_attempt_and_the_child(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name, parent = started(wire, bare_worker, retries=2)
    attempt = worker.next()
    child = wire.trigger(name, parent_task_run_external_id=parent, child_index=0)
    wire.complete(worker.next(), '{"child": 1}')
    wire.result(child)
    wire.fail(attempt, "the parent tries again")
    assert worker.next().retry_count == 1
    assert wire.trigger(name, parent_task_run_external_id=parent, child_index=0) == child


def test_14_child_key_replaces_the_index(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name, parent = started(wire, bare_worker)
    worker.next()
    fields = {"parent_task_run_external_id": parent, "child_key": "k"}
    assert wire.trigger(name, child_index=0, **fields) == wire.trigger(name, child_index=7, **fields)


def test_14_child_key_without_an_index_is_no_memory(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name, parent = started(wire, bare_worker)
    worker.next()
    fields = {"parent_task_run_external_id": parent, "child_key": "k"}
    assert wire.trigger(name, **fields) != wire.trigger(name, **fields)


def test_14_bulk_answers_existing_children_in_order(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name, parent = started(wire, bare_worker)
    worker.next()

    def child(index: int) -> triggers.TriggerWorkflowRequest:
        return triggers.TriggerWorkflowRequest(
            name=name, input="{}", parent_task_run_external_id=parent, child_index=index
        )

    first = wire.bulk_trigger(child(0), child(1))
    again = wire.bulk_trigger(child(1), child(2), child(0))
    assert (again[0], again[2]) == (first[1], first[0])
    assert again[1] not in first


def test_14_unknown_parent_is_not_found_and_an_empty_one_invalid(wire: Wire) -> None:
    name = unique("orphan")
    wire.put_workflow(name)
    unknown = str(uuid.uuid4())
    code, _ = code_of(lambda: wire.trigger(name, parent_task_run_external_id=unknown, child_index=0))
    assert code == grpc.StatusCode.NOT_FOUND
    code, _ = code_of(lambda: wire.trigger(name, parent_task_run_external_id="", child_index=0))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


def test_14_child_inherits_metadata_but_not_the_engines_own_keys(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, name, _ = started(wire, bare_worker)
    worker.next()
    parent = wire.trigger(name, additional_metadata='{"team": "a", "kept": "p", "hatchet__x": "y"}')
    worker.next()
    wire.trigger(name, parent_task_run_external_id=parent, child_index=0, additional_metadata='{"team": "b"}')
    metadata = json.loads(worker.next().additional_metadata)
    assert (metadata["team"], metadata["kept"]) == ("b", "p")
    assert "hatchet__x" not in metadata
    assert metadata["hatchet__parent_workflow_run_id"] == metadata["hatchet__parent_step_run_id"] == parent


# ---- 19 and 20: time-outs


def test_19_schedule_timeout_cancels_and_is_never_retried(wire: Wire) -> None:
    name = unique("waits")
    wire.put_workflow(name, schedule_timeout="1s", retries=5)
    run_id = wire.trigger(name)
    result = wire.result(run_id, timeout=20)
    assert result.HasField("error")
    assert result.error == ""
    assert wire.details(run_id).status == v1.CANCELLED


def test_20_execution_timeout_is_a_failure_with_a_cancel_to_the_worker(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, _, run_id = started(wire, bare_worker, timeout="1s")
    action = worker.next()
    cancel = worker.next(timeout=20)
    assert cancel.action_type == dispatcher.CANCEL_STEP_RUN
    assert (cancel.task_run_external_id, cancel.retry_count) == (run_id, action.retry_count)
    assert wire.result(run_id).error == "Task exceeded timeout of 1s"


def test_20_execution_timeout_is_retried(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker, timeout="1s", retries=1)
    worker.next()
    kinds = sorted([worker.next(timeout=20), worker.next(timeout=20)], key=lambda action: action.action_type)
    start, cancel = kinds
    assert (start.action_type, start.retry_count) == (dispatcher.START_STEP_RUN, 1)
    assert (cancel.action_type, cancel.retry_count) == (dispatcher.CANCEL_STEP_RUN, 0)
    wire.complete(start, '{"second": 1}')
    assert json.loads(wire.result(run_id).output) == {"second": 1}


# ---- 21 and 22: payloads


@pytest.mark.parametrize(
    "text",
    [
        '"a Go error, quoted"',
        '{"message": "TypeScript", "stack": "at x"}',
        "ValueError: Python\nTraceback",
        "",
        "ünï\n{",
        "a" * 50_000,
    ],
    ids=["go", "typescript", "python", "empty", "free", "long"],
)
def test_21_error_payload_comes_back_verbatim(wire: Wire, bare_worker: BareWorkers, text: str) -> None:
    worker, _, run_id = started(wire, bare_worker)
    wire.fail(worker.next(), text)
    result = wire.result(run_id)
    assert result.HasField("error")
    assert result.error == text
    detail = wire.details(run_id)
    assert detail.status == v1.FAILED
    assert detail.task_runs["only"].error == text


@pytest.mark.parametrize("output", ["", "null", "{}", "[1, 2]", "3", '"text"', '{ "b":1,  "a":2 }'])
def test_22_outputs_of_every_kind_are_kept_verbatim(
    wire: Wire, bare_worker: BareWorkers, output: str
) -> None:
    worker, _, run_id = started(wire, bare_worker)
    wire.complete(worker.next(), output)
    result = wire.result(run_id)
    assert not result.HasField("error")
    assert result.output == output


@pytest.mark.parametrize("output", ["{not json", '{"a": "\\u0000"}'])
def test_22_output_that_cannot_be_stored_as_json_fails_the_attempt(
    wire: Wire, bare_worker: BareWorkers, output: str
) -> None:
    worker, _, run_id = started(wire, bare_worker, retries=1)
    wire.complete(worker.next(), output)
    second = worker.next()
    assert second.retry_count == 1
    wire.complete(second, output)
    assert "taskOutput" in wire.result(run_id).error


# ---- 23: names


def test_23_workflow_names_are_case_sensitive(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("CamelCase")
    worker = bare_worker.of(wire.put_workflow(name))
    code, text = code_of(lambda: wire.trigger(name.lower()))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert name.lower() in text
    run_id = wire.trigger(name)
    action = worker.next()
    assert action.task_run_external_id == run_id
    assert action.action_id == f"{name}:only".lower()


# ---- 24 and 25: not in this issue, and saying so


@pytest.mark.parametrize(
    ("method", "request_message", "response"),
    [
        (
            "/Dispatcher/RestoreEvictedTask",
            dispatcher.RestoreEvictedTaskRequest(),
            dispatcher.RestoreEvictedTaskResponse,
        ),
        ("/v1.AdminService/BranchDurableTask", v1.BranchDurableTaskRequest(), v1.BranchDurableTaskResponse),
    ],
    ids=["restore", "branch"],
)
def test_methods_still_missing_say_which(
    wire: Wire, method: str, request_message: object, response: object
) -> None:
    code, text = code_of(lambda: wire.unary(method, request_message, response))
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert method.rsplit("/", 1)[-1] in text


# ---- around the list


def test_version_stays_below_what_durable_execution_needs(wire: Wire) -> None:
    version = wire.unary(
        "/Dispatcher/GetVersion", dispatcher.GetVersionRequest(), dispatcher.GetVersionResponse
    )
    assert version.version.startswith("v0.79.")


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
def test_bad_token_is_unauthenticated_on_every_kind_of_call(server: Server, token: str) -> None:
    wire = Wire(server.grpc_address, token)
    try:
        assert code_of(lambda: wire.trigger("any"))[0] == grpc.StatusCode.UNAUTHENTICATED
        assert wire.listen(str(uuid.uuid4())).ended() == grpc.StatusCode.UNAUTHENTICATED
        assert wire.runs(str(uuid.uuid4())).ended() == grpc.StatusCode.UNAUTHENTICATED
        method, request = "/Dispatcher/GetVersion", dispatcher.GetVersionRequest()
        failed = code_of(lambda: wire.unary(method, request, dispatcher.GetVersionResponse))
        assert failed[0] == grpc.StatusCode.UNAUTHENTICATED
    finally:
        wire.close()


def test_details_follow_the_run_from_queued_to_its_end(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("followed")
    action_id = wire.put_workflow(name)
    run_id = wire.trigger(name, '{"n": 2}', additional_metadata='{"k": "v"}')
    queued = wire.details(run_id)
    assert (queued.status, queued.done) == (v1.QUEUED, False)
    assert json.loads(queued.input) == {"n": 2}
    assert json.loads(queued.additional_metadata)["k"] == "v"
    worker = bare_worker.of(action_id)
    action = worker.next()
    wire.report(action, dispatcher.STEP_EVENT_TYPE_STARTED, worker_id=worker.id)
    assert wire.details(run_id).status == v1.RUNNING
    wire.complete(action, '{"v": 1}')
    wire.result(run_id)
    done = wire.details(run_id)
    assert (done.status, done.done) == (v1.COMPLETED, True)
    assert json.loads(done.task_runs["only"].output) == {"v": 1}
    assert done.task_runs["only"].external_id == run_id


def test_stream_events_are_put_in_order_by_their_index(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = started(wire, bare_worker)
    action = worker.next()
    stream = subscribed(wire, run_id)
    for index in (1, 0, 2):
        wire.put_stream(run_id, str(index).encode(), index)
    wire.complete(action)
    chunks = [
        event.event_payload
        for event in stream.rest()
        if event.event_type == dispatcher.RESOURCE_EVENT_TYPE_STREAM and event.event_payload != "probe"
    ]
    assert chunks == ["0", "1", "2"]


def test_unsubscribed_worker_gets_nothing_more(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("leaves")
    worker = bare_worker.of(wire.put_workflow(name))
    wire.unary(
        "/Dispatcher/Unsubscribe",
        dispatcher.WorkerUnsubscribeRequest(worker_id=worker.id),
        dispatcher.WorkerUnsubscribeResponse,
    )
    worker.stop_beating()
    wire.trigger(name)
    with pytest.raises(AssertionError, match=r"nothing arrived|ended"):
        worker.next(timeout=1)


def test_higher_priority_goes_first_and_equal_ones_keep_their_order(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    name = unique("order")
    action_id = wire.put_workflow(name)
    runs = [(priority, wire.trigger(name, priority=priority)) for priority in (1, 3, 2, 1, 3, 2)]
    worker = bare_worker.of(action_id, slots=1)
    order = []
    for _ in runs:
        action = worker.next()
        order.append(action.task_run_external_id)
        wire.complete(action)
    assert order == [run_id for _, run_id in sorted(runs, key=lambda run: -run[0])]
