"""A server that only answers: what an unmodified hatchet-sdk reaches when the engine costs next to nothing.

`python -m benchmarks.stub_server GRPC_PORT HTTP_PORT SLOTS` speaks just enough of the wire contract for that SDK's worker and client:
it keeps runs in a dictionary, hands a task to the worker as soon as one of its slots is free, passes the result on, and stores
nothing. The slots are kept because the SDK behaves otherwise with thousands of tasks at once: the worker must see the same load from
both servers. May touch only the wire messages.
"""

import asyncio
import base64
import json
import sys
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import uvloop

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire import events_pb2 as events
from broadaxe.wire import workflows_pb2 as workflows
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2 as trigger

TENANT = "707d0855-80ab-4e1f-a156-f1c4546cbf52"
VERSION = "v0.79.0"
END = grpc.aio.EOF


def token(grpc_port: int, http_port: int) -> str:
    """A token that the SDK can read; nobody checks its signature."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {
        "sub": TENANT,
        "server_url": f"http://127.0.0.1:{http_port}",
        "grpc_broadcast_address": f"127.0.0.1:{grpc_port}",
        "exp": 4_102_444_800,
    }
    return f"{part({'alg': 'ES256', 'typ': 'JWT'})}.{part(claims)}.{part({})}"


class Stub:
    """All state of the stub: definitions, ready runs, results, and who listens."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._ready: deque[dispatcher.AssignedAction] = deque()
        self._actions: dict[str, tuple[str, str, str]] = {}
        self._listeners: list[asyncio.Queue[dispatcher.AssignedAction]] = []
        self._results: dict[str, tuple[str, str, str | None]] = {}
        self._watchers: dict[str, list[asyncio.Queue[dispatcher.WorkflowRunEvent]]] = {}
        self._names: dict[str, str] = {}

    async def get_version(self, request: Any, context: Any) -> dispatcher.GetVersionResponse:
        return dispatcher.GetVersionResponse(version=VERSION)

    async def register(
        self, request: dispatcher.WorkerRegisterRequest, context: Any
    ) -> dispatcher.WorkerRegisterResponse:
        return dispatcher.WorkerRegisterResponse(
            tenant_id=TENANT, worker_id=str(uuid.uuid4()), worker_name=request.worker_name
        )

    async def heartbeat(self, request: Any, context: Any) -> dispatcher.HeartbeatResponse:
        return dispatcher.HeartbeatResponse()

    async def unsubscribe(self, request: Any, context: Any) -> dispatcher.WorkerUnsubscribeResponse:
        return dispatcher.WorkerUnsubscribeResponse(tenant_id=TENANT, worker_id=request.worker_id)

    async def upsert_labels(self, request: Any, context: Any) -> dispatcher.UpsertWorkerLabelsResponse:
        return dispatcher.UpsertWorkerLabelsResponse(tenant_id=TENANT, worker_id=request.worker_id)

    async def put_workflow(
        self, request: v1.CreateWorkflowVersionRequest, context: Any
    ) -> v1.CreateWorkflowVersionResponse:
        task = request.tasks[0]
        version = v1.CreateWorkflowVersionResponse(id=str(uuid.uuid4()), workflow_id=str(uuid.uuid4()))
        self._actions[request.name] = (task.action, task.readable_id, version.workflow_id)
        return version

    async def put_log(self, request: Any, context: Any) -> events.PutLogResponse:
        return events.PutLogResponse()

    async def trigger_one(
        self, request: trigger.TriggerWorkflowRequest, context: Any
    ) -> workflows.TriggerWorkflowResponse:
        if request.name not in self._actions:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unknown workflow {request.name!r}")
        run_id = self._create(request)
        self._dispatch()
        return workflows.TriggerWorkflowResponse(workflow_run_id=run_id)

    async def bulk_trigger(
        self, request: workflows.BulkTriggerWorkflowRequest, context: Any
    ) -> workflows.BulkTriggerWorkflowResponse:
        unknown = {entry.name for entry in request.workflows} - set(self._actions)
        if unknown:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unknown workflows {sorted(unknown)}")
        ids = [self._create(entry) for entry in request.workflows]
        self._dispatch()
        return workflows.BulkTriggerWorkflowResponse(workflow_run_ids=ids)

    def _create(self, request: trigger.TriggerWorkflowRequest) -> str:
        run_id = str(uuid.uuid4())
        action, task_name, workflow_id = self._actions[request.name]
        self._names[run_id] = task_name
        payload = (
            f'{{"input":{request.input or "{}"},"triggered_by":"manual","parents":{{}},'
            '"triggers":{"filter_payload":null},"user_data":null,"overrides":null}'
        )
        self._ready.append(
            dispatcher.AssignedAction(
                tenant_id=TENANT,
                workflow_run_id=run_id,
                job_id=workflow_id,
                job_name=task_name,
                job_run_id=run_id,
                task_id=workflow_id,
                task_run_external_id=run_id,
                action_id=action.lower(),
                action_payload=payload,
                task_name=task_name,
                additional_metadata=request.additional_metadata or "{}",
                priority=1,
                workflow_id=workflow_id,
                workflow_version_id=workflow_id,
            )
        )
        return run_id

    def _dispatch(self) -> None:
        while self._ready and self._free and self._listeners:
            self._free -= 1
            self._listeners[-1].put_nowait(self._ready.popleft())

    async def listen(self, request: Any, context: Any) -> AsyncIterator[dispatcher.AssignedAction]:
        queue: asyncio.Queue[dispatcher.AssignedAction] = asyncio.Queue()
        self._listeners.append(queue)
        self._dispatch()
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove(queue)

    async def step_event(
        self, request: dispatcher.StepActionEvent, context: Any
    ) -> dispatcher.ActionEventResponse:
        run_id = request.task_run_external_id
        failed = request.event_type == dispatcher.STEP_EVENT_TYPE_FAILED
        if failed or request.event_type == dispatcher.STEP_EVENT_TYPE_COMPLETED:
            self._free += 1
            self._results[run_id] = (
                self._names[run_id],
                "" if failed else request.event_payload,
                request.event_payload if failed else None,
            )
            for watcher in self._watchers.pop(run_id, ()):
                watcher.put_nowait(self._finished(run_id))
            self._dispatch()
        return dispatcher.ActionEventResponse(tenant_id=TENANT, worker_id=request.worker_id)

    def _finished(self, run_id: str) -> dispatcher.WorkflowRunEvent:
        name, output, error = self._results[run_id]
        result = dispatcher.StepRunResult(
            task_run_external_id=run_id, job_run_id=run_id, task_name=name, output=output
        )
        if error is not None:
            result.error = error
        return dispatcher.WorkflowRunEvent(workflow_run_id=run_id, results=[result])

    async def subscribe_runs(
        self, requests: AsyncIterator[dispatcher.SubscribeToWorkflowRunsRequest], context: Any
    ) -> AsyncIterator[dispatcher.WorkflowRunEvent]:
        queue: asyncio.Queue[dispatcher.WorkflowRunEvent] = asyncio.Queue()

        async def read() -> None:
            async for request in requests:
                if request.workflow_run_id in self._results:
                    queue.put_nowait(self._finished(request.workflow_run_id))
                else:
                    self._watchers.setdefault(request.workflow_run_id, []).append(queue)

        reader = asyncio.create_task(read())
        try:
            while True:
                yield await queue.get()
        finally:
            reader.cancel()


def handlers(stub: Stub) -> tuple[grpc.GenericRpcHandler, ...]:
    """The services under their wire names."""

    def unary(method: Callable[..., Any], request: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            method,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def down(method: Callable[..., Any], request: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_stream_rpc_method_handler(
            method,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    subscribe = grpc.stream_stream_rpc_method_handler(
        stub.subscribe_runs,
        request_deserializer=dispatcher.SubscribeToWorkflowRunsRequest.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    services = {
        "Dispatcher": {
            "GetVersion": unary(stub.get_version, dispatcher.GetVersionRequest),
            "Register": unary(stub.register, dispatcher.WorkerRegisterRequest),
            "Heartbeat": unary(stub.heartbeat, dispatcher.HeartbeatRequest),
            "Unsubscribe": unary(stub.unsubscribe, dispatcher.WorkerUnsubscribeRequest),
            "UpsertWorkerLabels": unary(stub.upsert_labels, dispatcher.UpsertWorkerLabelsRequest),
            "SendStepActionEvent": unary(stub.step_event, dispatcher.StepActionEvent),
            "ListenV2": down(stub.listen, dispatcher.WorkerListenRequest),
            "SubscribeToWorkflowRuns": subscribe,
        },
        "v1.AdminService": {"PutWorkflow": unary(stub.put_workflow, v1.CreateWorkflowVersionRequest)},
        "WorkflowService": {
            "TriggerWorkflow": unary(stub.trigger_one, trigger.TriggerWorkflowRequest),
            "BulkTriggerWorkflow": unary(stub.bulk_trigger, workflows.BulkTriggerWorkflowRequest),
        },
        "EventsService": {"PutLog": unary(stub.put_log, events.PutLogRequest)},
    }
    return tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())


async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers any REST call as the worker that asked: only the pause at a worker's shutdown comes here."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(
        (
            int(line.split(":")[1])
            for line in head.split("\r\n")
            if line.lower().startswith("content-length:")
        ),
        0,
    )
    await reader.readexactly(length)
    worker = head.split()[1].rsplit("/", 1)[-1]
    now = "2026-01-01T00:00:00Z"
    body = json.dumps(
        {
            "metadata": {"id": worker, "createdAt": now, "updatedAt": now},
            "name": "worker",
            "type": "SELFHOSTED",
        }
    ).encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    await writer.drain()
    writer.close()


async def serve(grpc_port: int, http_port: int, slots: int) -> None:
    server = grpc.aio.server(
        options=[
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_ping_strikes", 0),
        ]
    )
    server.add_generic_rpc_handlers(handlers(Stub(slots)))
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    await server.start()
    http = await asyncio.start_server(answer_http, "127.0.0.1", http_port)
    print(f"stub is ready: token={token(grpc_port, http_port)}", flush=True)
    async with http:
        await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(*(int(argument) for argument in sys.argv[1:4])))
