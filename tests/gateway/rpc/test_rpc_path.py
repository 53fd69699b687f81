"""The first whole path over real gRPC: register, listen, report, trigger, results, and both batched streams."""

import asyncio
import json

import grpc
import pytest

from broadaxe.wire import dispatcher_pb2 as d
from broadaxe.wire import stream_pb2 as s
from broadaxe.wire import workflows_pb2 as w
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import condition_pb2, trigger_pb2
from broadaxe_actors import messages as m
from broadaxe_actors.errors import Code
from broadaxe_actors.not_enforced import FEATURES
from broadaxe_storage.records import TaskRunState
from tests.gateway.rpc.fakes import (
    NO_ANSWER,
    STEP,
    TENANT,
    make_assignment,
    new_id,
    refusal,
    running_gateway,
)


@pytest.fixture
async def gateway():
    async with running_gateway() as running:
        yield running


async def test_version_is_answered_with_a_token_only(gateway):
    version = await gateway.unary("/Dispatcher/GetVersion", d.GetVersionResponse)(d.GetVersionRequest())
    assert version.version == "v0.79.0"
    for token in (None, "bad"):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await gateway.unary("/Dispatcher/GetVersion", d.GetVersionResponse, token)(d.GetVersionRequest())
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_features_that_are_only_stored_are_named_in_trailing_metadata(gateway):
    put = gateway.unary("/v1.AdminService/PutWorkflow", v1.CreateWorkflowVersionResponse)
    plain = v1.CreateWorkflowVersionRequest(
        name="flow", tasks=[v1.CreateTaskOpts(readable_id="a", action="flow:a")]
    )
    call = put(plain)
    await call
    assert "broadaxe-not-enforced" not in dict(await call.trailing_metadata())
    asking = v1.CreateWorkflowVersionRequest(
        name="flow",
        tasks=[
            v1.CreateTaskOpts(
                readable_id="a",
                action="flow:a",
                is_durable=True,
                rate_limits=[v1.CreateTaskRateLimit(key="k", units=1)],
                worker_labels={"gpu": trigger_pb2.DesiredWorkerLabels(str_value="a100")},
                concurrency=[v1.Concurrency(expression="input.user")],
                conditions=condition_pb2.TaskConditions(
                    sleep_conditions=[
                        condition_pb2.SleepMatchCondition(
                            base=condition_pb2.BaseMatchCondition(
                                readable_data_key="k", action=condition_pb2.QUEUE
                            ),
                            sleep_for="1s",
                        )
                    ]
                ),
                batch=v1.TaskBatchConfig(batch_max_size=2),
            )
        ],
        cron_triggers=["0 * * * *"],
        event_triggers=["user:*"],
        sticky=v1.SOFT,
        default_filters=[v1.DefaultFilter(expression="true", scope="s")],
        idempotency=v1.IdempotencyConfig(expression="input.id", ttl_ms=1),
    )
    call = put(asking)
    await call
    assert dict(await call.trailing_metadata())["broadaxe-not-enforced"] == ",".join(FEATURES)


async def test_worker_registers_listens_and_reports(gateway):
    registered = await gateway.unary("/Dispatcher/Register", d.WorkerRegisterResponse)(
        d.WorkerRegisterRequest(worker_name="w1", actions=["Flow:Step"], slot_config={"default": 5})
    )
    assert registered.worker_id == gateway.engine.worker_id
    assert registered.tenant_id == TENANT
    (asked,) = gateway.engine.of(m.RegisterWorker)
    assert asked.actions == ("flow:step",)
    assert asked.slot_config == (("default", 5),)
    assert not asked.is_batched

    stream = gateway.server_stream(
        "/Dispatcher/ListenV2", d.WorkerListenRequest(worker_id=registered.worker_id), d.AssignedAction
    )
    await stream.initial_metadata()
    start = make_assignment(child_index=0)
    gateway.engine.push(
        m.StartTasks(gateway.engine.session_id, (start,)),
        m.CancelTasks(
            gateway.engine.session_id,
            (m.CancelOrder(STEP, start.run_id, start.task_run_id, 0, "{}", 1),),
        ),
    )
    action = await stream.read()
    assert action.action_type == d.START_STEP_RUN
    assert action.HasField("child_workflow_index")
    assert not action.HasField("child_workflow_key")
    assert json.loads(action.action_payload) == {
        "input": {"n": 1},
        "triggered_by": "manual",
        "parents": {},
        "triggers": {"filter_payload": None},
        "user_data": None,
        "overrides": None,
    }
    assert "traceparent" in json.loads(action.additional_metadata)
    cancel = await stream.read()
    assert cancel.action_type == d.CANCEL_STEP_RUN
    assert cancel.action_payload == ""

    answer = await gateway.unary("/Dispatcher/SendStepActionEvent", d.ActionEventResponse)(
        d.StepActionEvent(
            worker_id="a-name",
            task_run_external_id=start.task_run_id,
            event_type=d.STEP_EVENT_TYPE_COMPLETED,
            event_payload='{"ok":1}',
            retry_count=0,
        )
    )
    assert (answer.tenant_id, answer.worker_id) == (TENANT, "a-name")
    (report,) = gateway.engine.of(m.ReportTasks)
    assert report.worker_id == ""
    assert report.reports == (m.TaskReport(start.task_run_id, 0, m.ReportKind.COMPLETED, b'{"ok":1}'),)
    stream.cancel()
    await gateway.engine.seen(m.CloseSession)


async def test_listen_of_unknown_worker_is_not_found(gateway):
    gateway.engine.answers[m.OpenSession] = lambda q: refusal(Code.NOT_FOUND, "worker not found")
    stream = gateway.server_stream(
        "/Dispatcher/ListenV2", d.WorkerListenRequest(worker_id=new_id()), d.AssignedAction
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stream.read()
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_trigger_gives_a_run_id_and_a_traceparent(gateway):
    response = await gateway.unary("/WorkflowService/TriggerWorkflow", w.TriggerWorkflowResponse)(
        trigger_pb2.TriggerWorkflowRequest(
            name="flow", input='{"n": 1}', additional_metadata='{"a": "b"}', priority=3
        )
    )
    (trigger,) = gateway.engine.of(m.TriggerRuns)
    (run,) = trigger.runs
    assert run.run_id == response.workflow_run_id
    assert run.input == b'{"n": 1}'
    assert run.priority == 3
    metadata = json.loads(run.metadata)
    assert metadata["a"] == "b"
    assert metadata["traceparent"].startswith(f"00-{run.run_id.replace('-', '')}-")


async def test_workflow_is_registered(gateway):
    response = await gateway.unary("/v1.AdminService/PutWorkflow", v1.CreateWorkflowVersionResponse)(
        v1.CreateWorkflowVersionRequest(
            name="Flow",
            tasks=[v1.CreateTaskOpts(readable_id="step", action="Flow:step", timeout="60s", retries=2)],
        )
    )
    assert response.id
    (put,) = gateway.engine.of(m.PutWorkflow)
    (task,) = put.definition.tasks
    assert (task.action, task.execution_timeout, task.schedule_timeout) == ("flow:step", "60s", "5m")
    assert task.slot_requests == {"default": 1}


async def test_results_are_delivered_to_who_subscribed(gateway):
    stream = gateway.both_stream("/Dispatcher/SubscribeToWorkflowRuns", d.WorkflowRunEvent)
    run_id = new_id()
    await stream.write(d.SubscribeToWorkflowRunsRequest(workflow_run_id="no id"))
    await stream.write(d.SubscribeToWorkflowRunsRequest(workflow_run_id=run_id))
    (watch,) = await gateway.engine.seen(m.WatchRuns)
    assert watch == m.WatchRuns(TENANT, (run_id,))
    gateway.engine.push(
        m.RunFinished(
            TENANT,
            run_id,
            TaskRunState.CANCELLED,
            (
                m.TaskResult(new_id(), "a", TaskRunState.COMPLETED, b"", None),
                m.TaskResult(new_id(), "b", TaskRunState.CANCELLED, None, None),
                m.TaskResult(new_id(), "c", TaskRunState.FAILED, None, b"E: x"),
            ),
        )
    )
    event = await stream.read()
    done, cancelled, failed = event.results
    assert done.HasField("output")
    assert not done.HasField("error")
    assert cancelled.HasField("error")
    assert cancelled.error == ""
    assert failed.error == "E: x"
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_batched_worker_registers_gets_batches_and_acknowledgements(gateway):
    stream = gateway.both_stream("/broadaxe.v1.Engine/WorkerStream", s.WorkerDown)
    await stream.write(
        s.WorkerUp(hello=s.Hello(worker_name="w", actions=["f:s"], slot_config={"default": 9}))
    )
    welcome = (await stream.read()).welcome
    assert welcome.worker_id == gateway.engine.worker_id
    assert welcome.heartbeat_interval_ms == 4000
    session = gateway.engine.session_id
    first = tuple(make_assignment() for _ in range(3))
    gateway.engine.push(m.StartTasks(session, first), m.StartTasks(session, (make_assignment(),)))
    down = await stream.read()
    assert down.batch == 1
    assert len(down.assignments) == 4
    assert [step.ref for step in down.steps] == [1]
    assert down.assignments[0].run_id == ""
    gateway.engine.push(m.StartTasks(session, (make_assignment(),)))
    down = await stream.read()
    assert (down.batch, len(down.steps)) == (2, 0)

    held: list[m.ReportTasks] = []
    gateway.engine.answers[m.ReportTasks] = lambda q: held.append(q) or NO_ANSWER
    for number, start in enumerate(first[:2], 1):
        report = s.TaskReport(task_run_id=start.task_run_id, kind=s.REPORT_KIND_COMPLETED)
        await stream.write(s.WorkerUp(reports=[report], report_batch=number, heartbeat=True))
    await gateway.engine.seen(m.ReportTasks, 2)
    # The second is committed first: nothing may be told before the first is.
    gateway.engine.push(m.Reply(held[1].request_id, m.ReportsTaken((True,))))
    gateway.engine.push(m.Reply(held[0].request_id, m.ReportsTaken((True,))))
    down = await stream.read()
    assert down.committed_report_batch == 2
    assert len(gateway.engine.of(m.Heartbeat)) == 2
    await stream.write(s.WorkerUp(goodbye=True))
    assert await stream.read() is grpc.aio.EOF
    await gateway.engine.seen(m.StopWorker)
    await gateway.engine.seen(m.CloseSession)


async def test_client_stream_triggers_watches_and_is_told(gateway):
    stream = gateway.both_stream("/broadaxe.v1.Engine/ClientStream", s.ClientDown)
    run_id = new_id()
    bad = s.TriggerRuns(request=8, runs=[s.NewRun(workflow_name="f", input=b"{")])
    good = s.TriggerRuns(
        request=7, watch=True, runs=[s.NewRun(workflow_name="f", run_id=run_id, input=b"{}")]
    )
    await stream.write(s.ClientUp(triggers=[bad, good]))
    replies = []
    while len(replies) < 2:
        replies += (await stream.read()).replies
    by_request = {reply.request: reply for reply in replies}
    assert by_request[8].refusal.code == 3
    assert "not valid JSON" in by_request[8].refusal.message
    assert list(by_request[7].run_ids) == [run_id]
    kinds = [type(message) for message in gateway.engine.messages]
    assert kinds.index(m.TriggerRuns) < kinds.index(m.WatchRuns)
    gateway.engine.push(
        m.RunFinished(
            TENANT,
            run_id,
            TaskRunState.COMPLETED,
            (m.TaskResult(run_id, "s", TaskRunState.COMPLETED, b"1", None),),
        )
    )
    (finished,) = (await stream.read()).finished
    assert finished.state == s.FINAL_STATE_COMPLETED
    assert finished.results[0].output == b"1"
    stream.cancel()


async def test_stopping_server_ends_streams_with_unavailable():
    async with running_gateway() as gateway:
        stream = gateway.server_stream(
            "/Dispatcher/ListenV2", d.WorkerListenRequest(worker_id=new_id()), d.AssignedAction
        )
        await stream.initial_metadata()
        async with asyncio.timeout(5):
            await gateway.services.close()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stream.read()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
