"""Runs cancelled and replayed in bulk, and the small calls that a running task makes."""

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from broadaxe.wire import dispatcher_pb2 as d
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe_actors import messages as m
from broadaxe_actors.errors import Code
from broadaxe_gateway.selection import MAX_IDS
from broadaxe_storage.records import RunFilter, TaskRunState
from tests.gateway.rpc.fakes import TENANT, new_id, refusal, running_gateway

CANCEL = ("/v1.AdminService/CancelTasks", v1.CancelTasksResponse, v1.CancelTasksRequest)
REPLAY = ("/v1.AdminService/ReplayTasks", v1.ReplayTasksResponse, v1.ReplayTasksRequest)
REFRESH = "/Dispatcher/RefreshTimeout"
RELEASE = "/Dispatcher/ReleaseSlot"


@pytest.fixture
async def gateway():
    async with running_gateway() as running:
        yield running


def since(**fields):
    return v1.TasksFilter(since=Timestamp(seconds=1_750_000_000), **fields)


async def refused(call, request):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(request)
    return error.value.code(), error.value.details()


async def test_ids_are_cancelled_each_once_and_told_back(gateway):
    path, response, request = CANCEL
    one, two = new_id(), new_id()
    gateway.engine.answers[m.CancelRuns] = lambda q: (one,)
    answer = await gateway.unary(path, response)(request(external_ids=[one, two.upper(), one]))
    assert list(answer.cancelled_tasks) == [one, two]
    (asked,) = gateway.engine.of(m.CancelRuns)
    assert asked[1:] == (TENANT, (one, two), None)


async def test_replay_tells_the_task_runs_that_run_again(gateway):
    path, response, request = REPLAY
    run, task = new_id(), new_id()
    gateway.engine.answers[m.ReplayRuns] = lambda q: (task,)
    answer = await gateway.unary(path, response)(request(external_ids=[run]))
    assert list(answer.replayed_tasks) == [task]
    assert gateway.engine.of(m.ReplayRuns)[0][1:] == (TENANT, (run,), None)


@pytest.mark.parametrize(("method", "kind"), [(CANCEL, m.CancelRuns), (REPLAY, m.ReplayRuns)])
async def test_filter_reaches_the_engine_whole(gateway, method, kind):
    path, response, request = method
    workflow, found = new_id(), new_id()
    gateway.engine.answers[kind] = lambda q: (found,)
    given = since(
        until=Timestamp(seconds=1_750_000_100, nanos=1_500),
        statuses=["QUEUED", "RUNNING", "COMPLETED"],
        workflow_ids=[workflow],
        additional_metadata=["customer:a:b", "empty:"],
    )
    answer = await gateway.unary(path, response)(request(filter=given))
    assert list(answer.cancelled_tasks if kind is m.CancelRuns else answer.replayed_tasks) == [found]
    (asked,) = gateway.engine.of(kind)
    states = {
        TaskRunState.QUEUED,
        TaskRunState.BACKING_OFF,
        TaskRunState.WAITING,
        TaskRunState.ASSIGNED,
        TaskRunState.RUNNING,
        TaskRunState.EVICTED,
        TaskRunState.COMPLETED,
        TaskRunState.SKIPPED,
    }
    assert set(asked.filter.states) == states
    assert asked.ids == ()
    assert asked.filter._replace(states=()) == RunFilter(
        1_750_000_000_000_000,
        1_750_000_100_000_001,
        (),
        (workflow,),
        (("customer", "a:b"), ("empty", "")),
    )


@pytest.mark.parametrize("method", [CANCEL, REPLAY])
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "neither ids nor a filter"),
        ({"external_ids": [new_id()], "filter": since()}, "both given"),
        ({"external_ids": ["run-1"]}, "external_ids is not a UUID: 'run-1'"),
        ({"external_ids": [new_id()] * (MAX_IDS + 1)}, "10,001 runs or tasks"),
        ({"filter": v1.TasksFilter()}, "filter.since is missing"),
        ({"filter": v1.TasksFilter(since=Timestamp(seconds=2**60))}, "filter.since is no time between"),
        ({"filter": since(statuses=["DONE"])}, "status 'DONE' is not known"),
        ({"filter": since(workflow_ids=["flow"])}, "filter.workflow_ids is not a UUID"),
        ({"filter": since(additional_metadata=["customer"])}, "expected key:value"),
        ({"filter": since(additional_metadata=[":x"])}, "expected key:value"),
    ],
)
async def test_selection_that_means_nothing_is_refused(gateway, method, fields, reason):
    path, response, request = method
    code, details = await refused(gateway.unary(path, response), request(**fields))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert reason in details
    assert gateway.engine.messages == []


async def test_replay_that_is_switched_off_is_refused_and_cancel_is_not():
    async with running_gateway(is_replay_enabled=False) as gateway:
        code, details = await refused(
            gateway.unary(*REPLAY[:2]), v1.ReplayTasksRequest(external_ids=[new_id()])
        )
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "SERVER_REPLAY_ENABLED" in details
        await gateway.unary(*CANCEL[:2])(v1.CancelTasksRequest(external_ids=[new_id()]))


async def test_timeout_is_refreshed_by_a_duration(gateway):
    task = new_id()
    answer = await gateway.unary(REFRESH, d.RefreshTimeoutResponse)(
        d.RefreshTimeoutRequest(task_run_external_id=task, increment_timeout_by="1m30s")
    )
    assert answer.timeout_at.ToMicroseconds() == 1_750_000_090_000_000
    (asked,) = gateway.engine.of(m.RefreshTimeout)
    assert asked[1:] == (TENANT, task, 90_000_000)


@pytest.mark.parametrize("text", ["", "-5s", "5", "1d", "5 s", "9" * 400 + "h", "9" * 60 + "h", "87601h"])
async def test_increment_that_is_no_duration_is_refused(gateway, text):
    code, details = await refused(
        gateway.unary(REFRESH, d.RefreshTimeoutResponse),
        d.RefreshTimeoutRequest(task_run_external_id=new_id(), increment_timeout_by=text),
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "increment_timeout_by" in details
    assert gateway.engine.messages == []


async def test_slot_is_released_of_a_running_task_only(gateway):
    release = gateway.unary(RELEASE, d.ReleaseSlotResponse)
    task = new_id()
    await release(d.ReleaseSlotRequest(task_run_external_id=task))
    assert gateway.engine.of(m.ReleaseSlot)[0][1:] == (TENANT, task)
    gateway.engine.answers[m.ReleaseSlot] = lambda q: refusal(Code.NOT_FOUND, "no running attempt")
    code, _ = await refused(release, d.ReleaseSlotRequest(task_run_external_id=task))
    assert code is grpc.StatusCode.NOT_FOUND
    code, _ = await refused(release, d.ReleaseSlotRequest(task_run_external_id="step"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_overrides_are_taken_and_forgotten(gateway):
    put = gateway.unary("/Dispatcher/PutOverridesData", d.OverridesDataResponse)
    await put(d.OverridesData(task_run_external_id=new_id(), path="input.a", value="1"))
    assert gateway.engine.messages == []


async def test_report_with_a_time_that_is_none_counts_all_the_same(gateway):
    report = gateway.unary("/Dispatcher/SendStepActionEvent", d.ActionEventResponse)
    await report(
        d.StepActionEvent(
            task_run_external_id=new_id(),
            event_type=d.STEP_EVENT_TYPE_STARTED,
            event_timestamp=Timestamp(seconds=2**60),
            retry_after_ms=-(2**60),
        )
    )
    (asked,) = gateway.engine.of(m.ReportTasks)
    assert (asked.reports[0].started_at, asked.reports[0].retry_after_ms) == (0, 0)
