"""How often one client may call the operations that are worth guarding (rest 0.5). Memory is bounded by `RateLimiter`.

The client is the address that the connection comes from, or what a trusted proxy says of it. Of IPv6 the first 64 bits count: who has one
address there has them all.
"""

import ipaddress
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import cast

from fastapi import Request

from broadaxe_gateway.auth_config import AuthConfig, Network
from broadaxe_gateway.http.errors import RequestRefused
from broadaxe_gateway.rpc.limits import RateLimiter

MAX_FORWARDED = 20
"""Addresses of X-Forwarded-For that are looked at, from the last on."""


class Throttle:
    """Counts calls by client and operation."""

    def __init__(self, config: AuthConfig, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limiter = RateLimiter(config.requests_per_second, monotonic)
        self._trusted = config.trusted_proxies

    def check(self, request: Request, operation: str) -> None:
        """Raises `RequestRefused` (429) past the limit."""
        peer = request.client.host if request.client else ""
        client = client_of(peer, request.headers.getlist("x-forwarded-for"), self._trusted)
        if not self._limiter.try_take(f"{operation} {client}"):
            raise RequestRefused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"more than {self._limiter.rate:g} requests a second for this from one client: slow down",
            )


def limited(operation: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that limits a route."""

    async def check(request: Request) -> None:
        cast(Throttle, request.app.state.throttle).check(request, operation)

    return check


def client_of(peer: str, forwarded: list[str], trusted: tuple[Network, ...]) -> str:
    """The client's address: the last one that no trusted proxy has, going back from the connection."""
    hops = [hop.strip() for line in forwarded for hop in line.split(",")][-MAX_FORWARDED:]
    client = peer
    while hops and _is_within(client, trusted):
        client = hops.pop()
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        # A proxy that writes something else is taken at its word, but not for more than this.
        return client[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _is_within(text: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return any(address in network for network in networks)
