"""The gRPC side: wire services over the engine's messages, and the batched streams of our own SDK."""

from broadaxe_gateway.rpc.limits import GrpcLimits, server_options
from broadaxe_gateway.rpc.server import RpcServices, add_services

__all__ = ["GrpcLimits", "RpcServices", "add_services", "server_options"]
