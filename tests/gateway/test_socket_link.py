"""A second gateway process on the shard's Unix socket serves workers and clients like the one in the engine's process."""

import asyncio
import stat
import sys
from contextlib import asynccontextmanager

import grpc

from broadaxe.wire import dispatcher_pb2 as d
from broadaxe.wire import workflows_pb2 as w
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2
from broadaxe_actors.messages import GetStats, Reply
from broadaxe_actors.shard import Shard
from broadaxe_actors.socket_link import connect_link, serve_links
from broadaxe_storage.memory import MemoryStore
from tests.gateway.rpc.fakes import TENANT, Gateway
from tests.processes import REPOSITORY


@asynccontextmanager
async def second_process(path):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.gateway.second_process",
        str(path),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        port = int(line.partition("port=")[2])
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        yield process, Gateway(None, None, None, channel, port)
        await channel.close()
    finally:
        if process.returncode is None:
            process.stdin.close()
            async with asyncio.timeout(20):
                await process.wait()


@asynccontextmanager
async def serving_shard(tmp_path):
    path = tmp_path / "shard.sock"
    shard = await Shard.start(MemoryStore())
    server = await serve_links(shard, path)
    try:
        yield shard, path
    finally:
        server.close()
        await shard.stop()


async def register(gateway):
    await gateway.unary("/v1.AdminService/PutWorkflow", v1.CreateWorkflowVersionResponse)(
        v1.CreateWorkflowVersionRequest(
            name="flow", tasks=[v1.CreateTaskOpts(readable_id="step", action="flow:step")]
        )
    )
    worker = await gateway.unary("/Dispatcher/Register", d.WorkerRegisterResponse)(
        d.WorkerRegisterRequest(worker_name="w", actions=["flow:step"], slot_config={"default": 5})
    )
    stream = gateway.server_stream(
        "/Dispatcher/ListenV2", d.WorkerListenRequest(worker_id=worker.worker_id), d.AssignedAction
    )
    await stream.initial_metadata()
    return worker.worker_id, stream


async def test_run_goes_through_a_second_gateway_process(tmp_path):
    async with serving_shard(tmp_path) as (_, path), second_process(path) as (_, gateway):
        worker_id, stream = await register(gateway)
        run = await gateway.unary("/WorkflowService/TriggerWorkflow", w.TriggerWorkflowResponse)(
            trigger_pb2.TriggerWorkflowRequest(name="flow", input='{"n":1}')
        )
        action = await stream.read()
        assert action.workflow_run_id == run.workflow_run_id
        await gateway.unary("/Dispatcher/SendStepActionEvent", d.ActionEventResponse)(
            d.StepActionEvent(
                worker_id=worker_id,
                task_run_external_id=action.task_run_external_id,
                event_type=d.STEP_EVENT_TYPE_COMPLETED,
                event_payload='{"ok":1}',
                retry_count=0,
            )
        )
        details = await gateway.unary("/v1.AdminService/GetRunDetails", v1.GetRunDetailsResponse)(
            v1.GetRunDetailsRequest(external_id=run.workflow_run_id)
        )
        assert details.done
        assert details.task_runs["step"].output == b'{"ok":1}'
        stream.cancel()


async def test_killed_gateway_process_takes_its_sessions_along_and_another_serves_the_worker(tmp_path):
    async with serving_shard(tmp_path) as (_, path):
        async with second_process(path) as (process, gateway):
            worker_id, _ = await register(gateway)
            process.kill()
            await process.wait()
        async with second_process(path) as (_, gateway):
            stream = gateway.server_stream(
                "/Dispatcher/ListenV2", d.WorkerListenRequest(worker_id=worker_id), d.AssignedAction
            )
            await stream.initial_metadata()
            await gateway.unary("/WorkflowService/TriggerWorkflow", w.TriggerWorkflowResponse)(
                trigger_pb2.TriggerWorkflowRequest(name="flow", input="{}")
            )
            assert (await stream.read()).action_id == "flow:step"
            stream.cancel()


async def test_socket_is_for_its_owner_alone_and_links_carry_batches(tmp_path):
    async with serving_shard(tmp_path) as (_, path):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        link = await connect_link(path, "third")
        answered = asyncio.get_running_loop().create_future()
        link.on_batch(answered.set_result)
        link.submit([GetStats(1, TENANT)])
        async with asyncio.timeout(10):
            (reply,) = await answered
        assert isinstance(reply, Reply)
        await link.close()
