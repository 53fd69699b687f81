"""Channels, unary calls with their retries, and the one place where gRPC's errors become the SDK's."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from broadaxe._config import Settings
from broadaxe._errors import (
    BroadaxeError,
    NotAuthenticatedError,
    RequestRefusedError,
    RunNotFoundError,
    ServerUnavailableError,
)
from broadaxe._transport.collisions import collisions_in

Code = grpc.StatusCode

NEVER_RETRIED = frozenset(
    {
        Code.UNIMPLEMENTED,
        Code.INVALID_ARGUMENT,
        Code.ALREADY_EXISTS,
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
        Code.NOT_FOUND,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
    }
)
CALL_TIMEOUT_SECONDS = 30.0


def open_channel(settings: Settings) -> grpc.aio.Channel:
    """A channel to the server; connects at the first call. To be made on the loop that uses it."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", settings.max_send_bytes),
        ("grpc.max_receive_message_length", settings.max_receive_bytes),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 0),
        # A server that restarts is found again quickly; the defaults wait for up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.enable_retries", 0),
        # Clients of one process and address must not share a connection: flow control of one would hold the other.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    tls = settings.tls
    if tls.strategy == "none":
        return grpc.aio.insecure_channel(settings.host_port, options=options)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc.ssl_channel_credentials(tls.root_ca, tls.key, tls.cert)
    return grpc.aio.secure_channel(settings.host_port, credentials, options=options)


def sdk_error(error: grpc.aio.AioRpcError, what: str, settings: Settings) -> BroadaxeError:
    """The SDK's error for a failed call. `what` names the operation."""
    code = error.code()
    details = error.details() or "no reason given"
    if code in {Code.UNAUTHENTICATED, Code.PERMISSION_DENIED}:
        return NotAuthenticatedError(
            code.name,
            f"{details}: the server at {settings.host_port} does not accept this API token; check that it is of this "
            "server, and neither expired nor revoked",
            what,
        )
    if code in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED}:
        return ServerUnavailableError(unavailable_text(what, details, settings))
    if code is Code.ALREADY_EXISTS:
        collisions = collisions_in(error.trailing_metadata())
        if collisions is not None:
            return collisions
    if code is Code.NOT_FOUND:
        return RunNotFoundError(code.name, details, what)
    return RequestRefusedError(code.name, details, what)


def unavailable_text(what: str, details: str, settings: Settings) -> str:
    """What could not be done, where, gRPC's reason, and what to look at."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        hint = (
            "Its certificate is not trusted, or is for another name: set BROADAXE_CLIENT_TLS_ROOT_CA_FILE "
            "or BROADAXE_CLIENT_TLS_SERVER_NAME."
        )
    elif "WRONG_VERSION_NUMBER" in details:
        hint = "It serves no TLS: set BROADAXE_CLIENT_TLS_STRATEGY=none."
    elif settings.tls.strategy == "none":
        hint = "Is it running? If it serves TLS, set BROADAXE_CLIENT_TLS_STRATEGY=tls."
    else:
        hint = "Is it running? If it serves no TLS, set BROADAXE_CLIENT_TLS_STRATEGY=none."
    return f"{what}: the server at {settings.host_port} cannot be reached ({details}). {hint}"


class Backoff:
    """Waits that double from 50 ms to 5 s, each with up to half of it taken off at random."""

    def __init__(self, first: float = 0.05, longest: float = 5.0) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def reset(self) -> None:
        self._next = self._first

    async def wait(self, at_most: float = math.inf) -> None:
        """at_most: seconds, for who has to be back in time."""
        delay = self._next * random.uniform(0.5, 1.0)  # noqa: S311 - not for secrets
        self._next = min(self._next * 2, self._longest)
        await asyncio.sleep(min(delay, at_most))


async def call_unary(
    method: Callable[..., Any],
    request: Any,
    *,
    what: str,
    settings: Settings,
    metadata: Any,
    patience_s: float | None = None,
) -> tuple[Any, Mapping[str, str]]:
    """One unary call, repeated while the error may pass: its response and trailing metadata. Raises the SDK's errors.

    A server that answers is asked as often as `TenacityConfig` says; one that cannot be reached, unless nothing is to be repeated, for
    `patience_s` seconds, or `connect_timeout_seconds` if that is None.
    """
    backoff = Backoff(first=0.1)
    patience = settings.connect_timeout_seconds if patience_s is None else patience_s
    give_up_at = time.monotonic() + patience
    attempt = 0
    while True:
        attempt += 1
        call = method(request, metadata=metadata, timeout=CALL_TIMEOUT_SECONDS)
        try:
            return await call, dict(await call.trailing_metadata() or ())
        except grpc.aio.AioRpcError as error:
            left = give_up_at - time.monotonic()
            if error.code() is Code.UNAVAILABLE:
                is_final = left <= 0 or settings.retries.max_attempts == 1
            else:
                is_final = error.code() in NEVER_RETRIED or attempt >= settings.retries.max_attempts
                left = math.inf
            if is_final:
                raise sdk_error(error, what, settings) from error
        await backoff.wait(left)
