"""Addresses that clients are told, worked out from where the server listens. Pure."""

from broadaxe_gateway.config import ServerConfig
from broadaxe_gateway.tokens import Audience


def host_to_reach(bind_address: str) -> str:
    """The host by which a process on this machine reaches a listener."""
    if bind_address in ("", "0.0.0.0", "::", "[::]", "*"):
        return "127.0.0.1"
    return bind_address


def join(host: str, port: int) -> str:
    """`host:port`, an IPv6 host in brackets."""
    host = host.strip("[]")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_address(bind_address: str, port: int) -> str:
    """`host:port` for a client on this machine."""
    return join(host_to_reach(bind_address), port)


def audience(config: ServerConfig, *, grpc_broadcast_address: str, server_url: str) -> Audience:
    """What tokens of this server say: the configured addresses, else those given."""
    return Audience(
        server_url=config.http.server_url or server_url,
        grpc_broadcast_address=config.grpc.broadcast_address or grpc_broadcast_address,
        is_port_compared=config.http.server_url is not None,
    )
