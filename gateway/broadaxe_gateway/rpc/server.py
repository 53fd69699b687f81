"""The gRPC services put together: every method of the wire contract under its wire name, wrapped by the guard.

Our message classes carry a package of our own, so that a process may import other clients of the contract as well; the methods are
registered by their paths. One look-up by path serves every call.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from broadaxe.wire import dispatcher_pb2, events_pb2, stream_pb2, workflows_pb2
from broadaxe.wire.v1 import dispatcher_pb2 as v1_dispatcher_pb2
from broadaxe.wire.v1 import workflows_pb2 as v1_workflows_pb2
from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.hub import Hub
from broadaxe_gateway.rpc.guard import CallCounts, Guard, TokenVerifier
from broadaxe_gateway.rpc.limits import DISPATCHER_RATE_FACTOR, GrpcLimits, RateLimiter
from broadaxe_gateway.rpc.outlet import OpenStreams
from broadaxe_gateway.rpc.reports import ReportDesk
from broadaxe_gateway.rpc.services.admin import AdminService
from broadaxe_gateway.rpc.services.dispatcher import DispatcherService
from broadaxe_gateway.rpc.services.durable import DurableService
from broadaxe_gateway.rpc.services.events import EventsService, FetchEvent
from broadaxe_gateway.rpc.services.workflows import WorkflowService
from broadaxe_gateway.rpc.stream import EngineService

MISSING: Mapping[str, str] = {
    "/Dispatcher/SendGroupKeyActionEvent": "group keys are computed by the engine from expressions, never by workers",
    "/Dispatcher/RestoreEvictedTask": "durable tasks are not supported yet",
    "/WorkflowService/PutWorkflow": "this older form is not supported: register through v1.AdminService/PutWorkflow",
    "/v1.AdminService/BranchDurableTask": "durable tasks are not supported yet",
    "/v1.V1Dispatcher/DurableTask": "durable tasks are not supported yet",
    "/v1.V1Dispatcher/RegisterDurableEvent": "durable tasks are not supported yet",
    "/v1.V1Dispatcher/ListenForDurableEvent": "durable tasks are not supported yet",
}
"""Methods of the contract that no service has, and what is missing."""


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """All methods by path; any other path is answered UNIMPLEMENTED by name."""

    def __init__(self, handlers: Mapping[str, Any], guard: Guard, limiter: RateLimiter) -> None:
        self._handlers = handlers
        self._guard = guard
        self._limiter = limiter

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        found = self._handlers.get(path)
        if found is not None:
            return found
        call = self._guard.stream("unknown", _missing(path, "this server has no such method"), self._limiter)
        return grpc.stream_stream_rpc_method_handler(call)


def _missing(path: str, reason: str) -> Any:
    async def call(*_: object) -> None:
        raise Refused(Code.UNIMPLEMENTED, f"{path} is not implemented: {reason}")

    return call


@dataclass(slots=True)
class RpcServices:
    """The services of one server."""

    streams: OpenStreams
    desk: ReportDesk
    counts: CallCounts

    async def close(self) -> None:
        """End every open stream with UNAVAILABLE and wait until they have ended. Call before the server is stopped."""
        await self.streams.close()

    def counters(self) -> dict[tuple[Any, ...], float]:
        """Figures for `/metrics`: (name, tenant or None, (label, value)...) to value."""
        found: dict[tuple[Any, ...], float] = {
            ("broadaxe_grpc_open_streams", None): len(self.streams),
            ("broadaxe_grpc_held_report_bytes", None): self.desk.held_bytes,
        }
        for (method, code), count in self.counts.handled.items():
            found["broadaxe_grpc_calls_total", None, ("method", method), ("code", code)] = count
        for method, seconds in self.counts.seconds.items():
            found["broadaxe_grpc_call_seconds_total", None, ("method", method)] = seconds
        return found


def add_services(
    server: grpc.aio.Server,
    *,
    hub: Hub,
    tokens: TokenVerifier,
    config: GrpcLimits,
    version: str,
    fetch_event: FetchEvent,
    is_replay_enabled: bool = True,
) -> RpcServices:
    """Register every wire service on a server that has not started. `version` is what `GetVersion` answers.

    `fetch_event` reads an event of a tenant by its id.
    """
    streams = OpenStreams()
    desk = ReportDesk(hub, config.held_report_bytes)
    counts = CallCounts()
    guard = Guard(tokens, counts)
    usual = RateLimiter(config.requests_per_second, time.monotonic)
    worker = RateLimiter(config.requests_per_second * DISPATCHER_RATE_FACTOR, time.monotonic)
    handlers: dict[str, Any] = {}
    for name, descriptor, service, limiter in (
        (
            "Dispatcher",
            _service(dispatcher_pb2, "Dispatcher"),
            DispatcherService(hub, desk, streams, config, version),
            worker,
        ),
        ("EventsService", _service(events_pb2, "EventsService"), EventsService(hub, fetch_event), usual),
        ("WorkflowService", _service(workflows_pb2, "WorkflowService"), WorkflowService(hub), usual),
        (
            "v1.AdminService",
            _service(v1_workflows_pb2, "AdminService"),
            AdminService(hub, config, is_replay_enabled=is_replay_enabled),
            usual,
        ),
        ("v1.V1Dispatcher", _service(v1_dispatcher_pb2, "V1Dispatcher"), DurableService(), worker),
        (
            "broadaxe.v1.Engine",
            _service(stream_pb2, "Engine"),
            EngineService(hub, desk, streams, config),
            worker,
        ),
    ):
        for method in descriptor.methods:
            path = f"/{name}/{method.name}"
            found = getattr(service, method.name, None) or _missing(path, MISSING[path])
            handlers[path] = _handler(guard, path, method, found, limiter)
    server.add_generic_rpc_handlers((_Handlers(handlers, guard, usual),))
    return RpcServices(streams, desk, counts)


def _service(module: Any, name: str) -> ServiceDescriptor:
    found: ServiceDescriptor = module.DESCRIPTOR.services_by_name[name]
    return found


def _handler(guard: Guard, path: str, method: MethodDescriptor, found: Any, limiter: RateLimiter) -> Any:
    codecs = {
        "request_deserializer": GetMessageClass(method.input_type).FromString,
        "response_serializer": GetMessageClass(method.output_type).SerializeToString,
    }
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(guard.stream(path, found, limiter), **codecs)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(guard.stream(path, found, limiter), **codecs)
    return grpc.unary_unary_rpc_method_handler(guard.unary(path, found, limiter), **codecs)
