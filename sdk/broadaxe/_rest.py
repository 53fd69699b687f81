"""The REST calls of the SDK, for what no gRPC call offers: lists, details, logs, workers. One small blocking client on the standard
library; asynchronous callers run it in a thread.

Calls are repeated as `TenacityConfig` says: by default up to five attempts for answers of 5xx, and for a 404 to a read, because a server may
show a run a moment after it has created it. What is not repeated unless that is asked for: a 429, and calls whose answer has not come,
such as on refused connections and timeouts.
"""

import asyncio
import functools
import http.client
import json
import random
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPMethod, HTTPStatus
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic import BaseModel, ValidationError

from broadaxe._config import RetrySettings, Settings
from broadaxe._errors import (
    BroadaxeError,
    ConfigurationError,
    NotAuthenticatedError,
    NotFoundError,
    RequestRefusedError,
    ServerUnavailableError,
)

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 30.0
DEFAULT_AGE = timedelta(days=1)
"""How far back is looked where that is not told."""
CALL_TIMEOUT_S = 30.0

_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
}
"""Names of gRPC statuses for those of HTTP, so that an error has one set of codes whatever carried it."""
_AWAY = frozenset({502, 503, 504})

Owner = TypeVar("Owner")
P = ParamSpec("P")
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


def in_thread(
    method: Callable[Concatenate[Owner, P], T],
) -> Callable[Concatenate[Owner, P], Coroutine[Any, Any, T]]:
    """The asynchronous form of a blocking method, with the same parameters."""

    @functools.wraps(method)
    async def call(owner: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(method, owner, *args, **kwargs)

    call.__name__ = f"aio_{method.__name__}"
    return call


class RestClient:
    """Calls of one tenant's token. Safe in any thread: a call is a connection of its own."""

    def __init__(self, settings: Settings) -> None:
        self._base = settings.server_url.rstrip("/")
        self._token = settings.token
        self._root_ca = settings.tls.root_ca
        self._retries = settings.retries

    def get(self, kind: type[Model], path: str, query: Mapping[str, Any] | None = None) -> Model:
        """The answer to a read, as `kind`. Raises the SDK's errors."""
        answer = self.call("GET", path, query=query)
        return as_model(kind, answer, path)

    def get_text(self, path: str) -> str:
        """The answer to a read that is no JSON. Raises the SDK's errors."""
        return self._call("GET", path).decode()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One call and the JSON value that it answers. See `_call` for the options, and for what it raises."""
        raw = self._call(method, path, **options)
        try:
            return json.loads(raw) if raw else None
        except ValueError as error:
            raise BroadaxeError(
                f"{method} {path}: {self._base} answered no JSON but {raw[:80]!r}: is it the address of the server's REST API?"
            ) from error

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        attempts: int | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> bytes:
        """One call, repeated where that may help, and what it answers.

        query: what is None is left out, a list repeats its name. attempts: instead of what the client is set to. Raises `NotFoundError`, `NotAuthenticatedError`,
        `RequestRefusedError`, or `ServerUnavailableError`.
        """
        if not self._base:
            raise ConfigurationError(
                "the address of the server's REST API is not known: the token names none; set BROADAXE_CLIENT_SERVER_URL"
            )
        what = f"{method} {path}"
        url = f"{self._base}{path}{_query_text(query or {})}"
        most = self._retries.max_attempts if attempts is None else attempts
        for attempt in range(1, most + 1):
            is_last = attempt == most
            try:
                return self._once(method, url, body, timeout_s)
            except urllib.error.HTTPError as error:
                if is_last or not may_help(error.code, method, self._retries):
                    raise self._refusal(error, what) from error
                error.close()
            except (OSError, ValueError, http.client.HTTPException) as error:
                if is_last or not may_be_sent_again(method, self._retries):
                    raise ServerUnavailableError(
                        f"{what}: {self._base} cannot be reached ({error})"
                    ) from error
            longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
            time.sleep(longest * random.uniform(0.5, 1))  # noqa: S311 - spreads calls, guards nothing
        raise AssertionError("the last attempt returns or raises")

    def _once(self, method: str, url: str, body: Mapping[str, Any] | None, timeout_s: float) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - the server's own address, from the user's settings
            url,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout_s, context=self._tls(url)) as answer:  # noqa: S310 - see above
            return bytes(answer.read())

    def _tls(self, url: str) -> ssl.SSLContext | None:
        if not url.startswith("https:"):
            return None
        context = ssl.create_default_context()
        if self._root_ca:
            context.load_verify_locations(cadata=self._root_ca.decode())
        return context

    def _refusal(self, error: urllib.error.HTTPError, what: str) -> BroadaxeError:
        reason = _reason(error)
        if error.code in _AWAY:
            return ServerUnavailableError(
                f"{what}: the server at {self._base} is not available: {reason} ({error.code})"
            )
        code = _CODES.get(error.code, f"HTTP_{error.code}")
        if error.code in {401, 403}:
            return NotAuthenticatedError(
                code, f"{reason}: the server at {self._base} does not accept this API token for it", what
            )
        if error.code == HTTPStatus.NOT_FOUND:
            return NotFoundError(code, reason, what)
        return RequestRefusedError(code, reason, what)


def may_help(status: int, method: str, retries: RetrySettings) -> bool:
    """Whether the same call may get another answer than this one soon."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return retries.retry_429
    return status >= 500 or (status == HTTPStatus.NOT_FOUND and method == HTTPMethod.GET)


def may_be_sent_again(method: str, retries: RetrySettings) -> bool:
    """Whether a call of which no answer has come may be repeated: the server may have done what it asks for."""
    return retries.retry_transport_errors and method in retries.retry_transport_methods


def as_model(kind: type[Model], answer: Any, path: str) -> Model:
    """Raises `BroadaxeError` for an answer of another form."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        raise BroadaxeError(f"the server's answer to {path} is not a {kind.__name__}: {error}") from error


def time_text(moment: datetime | None) -> str | None:
    """A time for a query. One without a time zone is local, as everywhere in Python."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def metadata_items(metadata: Mapping[str, Any] | None) -> list[str] | None:
    """A filter on metadata as servers take it: texts as they are, other values as JSON."""
    if metadata is None:
        return None
    return [
        f"{key}:{value if isinstance(value, str) else json.dumps(value)}" for key, value in metadata.items()
    ]


def _query_text(query: Mapping[str, Any]) -> str:
    pairs = [
        (name, str(item).lower() if isinstance(item, bool) else str(item))
        for name, value in query.items()
        if value is not None
        for item in (value if isinstance(value, list | tuple) else (value,))
    ]
    return "?" + urllib.parse.urlencode(pairs) if pairs else ""


def _reason(error: urllib.error.HTTPError) -> str:
    """The server's own words, in one of the forms that it has for them."""
    raw = error.read()
    try:
        body = json.loads(raw)
        texts = [entry["description"] for entry in body.get("errors") or ()]
        return "; ".join(texts) or str(body.get("message") or body.get("description") or error.reason)
    except (ValueError, AttributeError, KeyError, TypeError):
        return raw[:200].decode("utf-8", "replace").strip() or str(error.reason)
