"""What every call passes, outermost first: errors to status, counting and logging, tenant from token, rate limit.

Handlers are wrapped once, at registration: grpc's interceptors would cost every call an await and a lookup each.
"""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import grpc

from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.rpc.convert.collisions import trailer_of
from broadaxe_gateway.rpc.limits import RateLimiter
from broadaxe_gateway.rpc.outlet import token_of_call
from broadaxe_gateway.rpc.status import status_of
from broadaxe_gateway.tokens import Identity, Unauthenticated

logger = logging.getLogger("broadaxe.grpc")

SCHEME = "bearer"
IDLE_METHODS = frozenset({"/Dispatcher/Heartbeat"})
"""What an idle worker calls: these must cost no SQL."""

Context = grpc.aio.ServicerContext
UnaryMethod = Callable[[str, Any], Awaitable[Any]]
"""Tenant and request to response, or to a `WithTrailer`."""
StreamMethod = Callable[[str, Any, Any], Awaitable[None]]
"""Tenant, request (or iterator of requests) and context; writes its answers itself."""


class WithTrailer(NamedTuple):
    """A response with trailing metadata: for what our own clients read and others do not miss."""

    response: Any
    trailer: tuple[tuple[str, str], ...]


class TokenVerifier(Protocol):
    async def verify(self, token: str, *, is_activity: bool = True) -> Identity:
        """Raises `Unauthenticated`. A known token is not looked up again for what is no activity."""
        ...


class CallCounts:
    """Calls answered, by method and status; streams count when they end."""

    def __init__(self) -> None:
        self.handled: dict[tuple[str, str], int] = {}
        self.seconds: dict[str, float] = {}

    def add(self, method: str, code: str, seconds: float) -> None:
        key = (method, code)
        self.handled[key] = self.handled.get(key, 0) + 1
        self.seconds[method] = self.seconds.get(method, 0.0) + seconds


class Guard:
    """Wraps the methods of the services."""

    def __init__(self, tokens: TokenVerifier, counts: CallCounts) -> None:
        self._tokens = tokens
        self._counts = counts

    async def _admit(self, path: str, context: Any, limiter: RateLimiter) -> str:
        """The tenant of a call. Raises `Unauthenticated`, or `Refused` past the rate limit."""
        header: Any = None
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                header = value
                break
        if not isinstance(header, str):
            raise Unauthenticated("the call has no authorization header")
        scheme, _, token = header.partition(" ")
        if scheme.lower() != SCHEME:
            raise Unauthenticated(f"authorization scheme {scheme[:20]!r} is not {SCHEME}")
        identity = await self._tokens.verify(token.strip(), is_activity=path not in IDLE_METHODS)
        if not limiter.try_take(identity.token_id):
            raise Refused(
                Code.RESOURCE_EXHAUSTED,
                f"more than {limiter.rate:,.0f} calls a second came with this API token: slow down, or raise SERVER_GRPC_RATE_LIMIT",
            )
        token_of_call.set(identity.token_id)
        return identity.tenant_id

    def unary(
        self, path: str, method: UnaryMethod, limiter: RateLimiter
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        counts = self._counts

        async def call(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            try:
                tenant_id = await self._admit(path, context, limiter)
                response = await method(tenant_id, request)
                if type(response) is WithTrailer:
                    context.set_trailing_metadata(response.trailer)
                    response = response.response
            except Exception as error:  # noqa: BLE001 - every error becomes a status, in one place
                await self._fail(path, error, context, started)
            else:
                counts.add(path, "OK", time.perf_counter() - started)
                return response

        return call

    def stream(
        self, path: str, method: StreamMethod, limiter: RateLimiter
    ) -> Callable[[Any, Any], Awaitable[None]]:
        counts = self._counts

        async def call(request: Any | AsyncIterator[Any], context: Any) -> None:
            started = time.perf_counter()
            try:
                tenant_id = await self._admit(path, context, limiter)
                await method(tenant_id, request, context)
            except Exception as error:  # noqa: BLE001 - every error becomes a status, in one place
                await self._fail(path, error, context, started, is_stream=True)
            else:
                counts.add(path, "OK", time.perf_counter() - started)

        return call

    async def _fail(
        self, path: str, error: Exception, context: Any, started: float, *, is_stream: bool = False
    ) -> None:
        if context.cancelled() or context.done():
            # The client has gone; whatever a write or read raised then is no news to anybody.
            self._counts.add(path, grpc.StatusCode.CANCELLED.name, time.perf_counter() - started)
            logger.debug("%s: the client left: %s", path, error)
            return
        code, text = status_of(error, path)
        if is_stream and code is grpc.StatusCode.INTERNAL:
            # Some workers take any other end of a stream for a reason to stop for good (behaviour-core 2.3).
            code = grpc.StatusCode.UNAVAILABLE
        self._counts.add(path, code.name, time.perf_counter() - started)
        if isinstance(error, Unauthenticated):
            logger.info("%s refused: %s", path, error)
        else:
            logger.debug("%s answered %s: %s", path, code.name, text)
        detail = error.detail if isinstance(error, Refused) else None
        await context.abort(code, text, trailer_of(detail, code.value[0], text))
