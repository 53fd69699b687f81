"""Unary calls that fail: which are repeated, and what is said of a server that cannot be reached."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from broadaxe import RequestRefusedError, ServerUnavailableError
from broadaxe._config import ClientConfig, ClientTLSConfig, TenacityConfig, load_settings
from broadaxe._transport import channel
from broadaxe._transport.channel import call_unary, unavailable_text

TOKEN = "e30.eyJzdWIiOiJ4IiwiZ3JwY19icm9hZGNhc3RfYWRkcmVzcyI6ImE6MSJ9.x"


@pytest.mark.parametrize(
    ("strategy", "details", "hint"),
    [
        (
            "tls",
            "SSL routines: CERTIFICATE_VERIFY_FAILED: self signed",
            "set BROADAXE_CLIENT_TLS_ROOT_CA_FILE or",
        ),
        (
            "tls",
            "SSL routines: WRONG_VERSION_NUMBER",
            "It serves no TLS: set BROADAXE_CLIENT_TLS_STRATEGY=none.",
        ),
        ("tls", "Connection refused", "Is it running? If it serves no TLS"),
        ("none", "Connection refused", "Is it running? If it serves TLS"),
    ],
)
def test_hint_fits_the_cause(strategy, details, hint):
    settings = load_settings(
        ClientConfig(token=TOKEN, tls_config=ClientTLSConfig(strategy=strategy)), {"BROADAXE_HOME": "/nobody"}
    )
    text = unavailable_text("trigger", details, settings)
    assert text.startswith("trigger: the server at a:1 cannot be reached")
    assert hint in text
    assert text.endswith(".")


class Failing:
    """A method of the contract that always fails."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = code
        self.calls = 0

    def __call__(self, request, *, metadata, timeout):
        self.calls += 1

        async def fail():
            raise AioRpcError(self.code, Metadata(), Metadata(), details="because")

        return fail()


Code = grpc.StatusCode
MAY_PASS = (
    Code.DEADLINE_EXCEEDED,
    Code.INTERNAL,
    Code.RESOURCE_EXHAUSTED,
    Code.ABORTED,
    Code.UNKNOWN,
)
FINAL = (
    Code.UNIMPLEMENTED,
    Code.NOT_FOUND,
    Code.INVALID_ARGUMENT,
    Code.ALREADY_EXISTS,
    Code.UNAUTHENTICATED,
    Code.PERMISSION_DENIED,
)


async def calls_of(code: grpc.StatusCode, monkeypatch, patience_s=None, **given) -> int:
    monkeypatch.setattr(channel.Backoff, "wait", no_wait)
    config = ClientConfig(token=TOKEN, tenacity=TenacityConfig(**given))
    settings = load_settings(config, {"BROADAXE_HOME": "/nobody"})
    method = Failing(code)
    with pytest.raises((RequestRefusedError, ServerUnavailableError), match="because"):
        await call_unary(method, None, what="ask", settings=settings, metadata=None, patience_s=patience_s)
    return method.calls


async def no_wait(backoff, at_most=0.0):
    return None


@pytest.mark.parametrize("code", [*MAY_PASS, *FINAL])
async def test_unary_calls_are_repeated_where_that_may_help(code, monkeypatch):
    wanted = 5 if code in MAY_PASS else 1
    assert await calls_of(code, monkeypatch) == wanted


@pytest.mark.parametrize(("attempts", "calls"), [(0, 1), (1, 1), (3, 3)])
async def test_unary_calls_are_made_as_often_as_the_client_is_set_to(attempts, calls, monkeypatch):
    assert await calls_of(Code.INTERNAL, monkeypatch, max_attempts=attempts) == calls


async def test_a_server_that_is_away_is_asked_until_the_patience_ends(monkeypatch):
    assert await calls_of(Code.UNAVAILABLE, monkeypatch, patience_s=0.05) > 5
    assert await calls_of(Code.UNAVAILABLE, monkeypatch, patience_s=30, max_attempts=0) == 1
