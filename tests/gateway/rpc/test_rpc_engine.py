"""The gRPC services on a real shard over an in-memory store, every batch pickled: what users would see, through both contracts."""

import asyncio

import pytest

from broadaxe.wire import dispatcher_pb2 as d
from broadaxe.wire import events_pb2 as e
from broadaxe.wire import stream_pb2 as s
from broadaxe.wire import workflows_pb2 as w
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2 as t
from broadaxe_actors.shard import Shard
from broadaxe_storage.memory import MemoryStore
from tests.gateway.rpc.fakes import new_id, running_gateway


@pytest.fixture
async def gateway():
    shard = await Shard.start(MemoryStore())
    try:
        async with running_gateway(shard.connect_gateway("gateway", is_pickling=True)) as running:
            await running.unary("/v1.AdminService/PutWorkflow", v1.CreateWorkflowVersionResponse)(
                v1.CreateWorkflowVersionRequest(
                    name="flow",
                    event_triggers=["order:paid"],
                    tasks=[v1.CreateTaskOpts(readable_id="step", action="flow:step", timeout="60s")],
                )
            )
            yield running
    finally:
        await shard.stop()


async def start_batched_worker(gateway, slots=10):
    stream = gateway.both_stream("/broadaxe.v1.Engine/WorkerStream", s.WorkerDown)
    hello = s.Hello(worker_name="w", actions=["flow:step"], slot_config={"default": slots})
    await stream.write(s.WorkerUp(hello=hello))
    assert (await stream.read()).welcome.worker_id
    return stream


async def work(stream):
    """Complete everything that comes, each batch with one report."""
    number = 0
    while (down := await stream.read()).batch or down.committed_report_batch:
        if down.batch:
            number += 1
            reports = [
                s.TaskReport(
                    task_run_id=start.task_run_id,
                    attempt=start.attempt,
                    kind=s.REPORT_KIND_COMPLETED,
                    payload=start.input,
                )
                for start in down.assignments
            ]
            await stream.write(s.WorkerUp(reports=reports, report_batch=number, received_batch=down.batch))


async def test_fan_out_over_the_batched_streams_comes_back_whole(gateway):
    worker = asyncio.create_task(work(await start_batched_worker(gateway)))
    client = gateway.both_stream("/broadaxe.v1.Engine/ClientStream", s.ClientDown)
    inputs = {new_id(): b'{"n":%d}' % number for number in range(500)}
    runs = [s.NewRun(run_id=run_id, workflow_name="flow", input=data) for run_id, data in inputs.items()]
    trigger = s.TriggerRuns(request=1, watch=True, runs=runs)
    await client.write(s.ClientUp(triggers=[trigger]))
    # The same again, as after a lost answer: no second run comes of it.
    trigger.request, trigger.is_repeat = 2, True
    await client.write(s.ClientUp(triggers=[trigger]))
    replies, outputs = {}, {}
    async with asyncio.timeout(20):
        while len(outputs) < len(inputs) or len(replies) < 2:
            down = await client.read()
            replies.update((reply.request, reply) for reply in down.replies)
            outputs.update((done.run_id, done.results[0].output) for done in down.finished)
    assert outputs == inputs
    assert list(replies[1].run_ids) == list(replies[2].run_ids) == list(inputs)
    worker.cancel()
    client.cancel()


async def test_unknown_workflow_is_refused_by_name(gateway):
    client = gateway.both_stream("/broadaxe.v1.Engine/ClientStream", s.ClientDown)
    run = s.NewRun(run_id=new_id(), workflow_name="flwo")
    await client.write(s.ClientUp(triggers=[s.TriggerRuns(request=1, runs=[run], watch=True)]))
    (reply,) = (await client.read()).replies
    assert reply.refusal.code == 3
    assert "flwo" in reply.refusal.message
    client.cancel()


async def test_unary_worker_and_client_fail_and_complete(gateway):
    worker = await gateway.unary("/Dispatcher/Register", d.WorkerRegisterResponse)(
        d.WorkerRegisterRequest(worker_name="w", actions=["flow:step"], slots=2)
    )
    actions = gateway.server_stream(
        "/Dispatcher/ListenV2", d.WorkerListenRequest(worker_id=worker.worker_id), d.AssignedAction
    )
    beat = gateway.unary("/Dispatcher/Heartbeat", d.HeartbeatResponse)
    await actions.initial_metadata()
    await beat(d.HeartbeatRequest(worker_id=worker.worker_id))
    bulk = await gateway.unary("/WorkflowService/BulkTriggerWorkflow", w.BulkTriggerWorkflowResponse)(
        w.BulkTriggerWorkflowRequest(
            workflows=[t.TriggerWorkflowRequest(name="flow", input="{}") for _ in range(2)]
        )
    )
    results = gateway.both_stream("/Dispatcher/SubscribeToWorkflowRuns", d.WorkflowRunEvent)
    details = gateway.unary("/v1.AdminService/GetRunDetails", v1.GetRunDetailsResponse)
    report = gateway.unary("/Dispatcher/SendStepActionEvent", d.ActionEventResponse)
    good, bad = bulk.workflow_run_ids
    assert not (await details(v1.GetRunDetailsRequest(external_id=good))).done
    for _ in range(2):
        action = await actions.read()
        is_good = action.workflow_run_id == good
        await report(
            d.StepActionEvent(
                worker_id=worker.worker_id,
                task_run_external_id=action.task_run_external_id,
                retry_count=action.retry_count,
                event_type=d.STEP_EVENT_TYPE_COMPLETED if is_good else d.STEP_EVENT_TYPE_FAILED,
                event_payload='{"ok":true}' if is_good else "ValueError: no",
            )
        )
    found = {}
    for run_id in (good, bad):
        await results.write(d.SubscribeToWorkflowRunsRequest(workflow_run_id=run_id))
        event = await results.read()
        found[event.workflow_run_id] = event.results[0]
    assert found[good].output == '{"ok":true}'
    assert not found[good].HasField("error")
    assert found[bad].error == "ValueError: no"
    ended = await details(v1.GetRunDetailsRequest(external_id=bad))
    assert (ended.done, ended.status) == (True, v1.FAILED)
    actions.cancel()
    results.cancel()


async def test_event_starts_a_run_whose_metadata_has_a_trace(gateway):
    worker = await start_batched_worker(gateway)
    event = await gateway.unary("/EventsService/Push", e.Event)(
        e.PushEventRequest(key="order:paid", payload='{"a":1}', additional_metadata='{"who":"me"}')
    )
    assert (event.additional_metadata, event.payload) == ('{"who":"me"}', '{"a":1}')
    (start,) = (await worker.read()).assignments
    assert start.input == b'{"a":1}'
    assert start.triggering_event_id == event.event_id
    assert b'"traceparent"' in start.metadata
    assert b'"who"' in start.metadata
    worker.cancel()
