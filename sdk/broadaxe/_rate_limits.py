"""Rate limits on the server: put and paused over gRPC, listed and deleted over REST. Every method has an asynchronous form, with `aio_`
before its name.
"""

from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from broadaxe._errors import InvalidInputError
from broadaxe._options import RateLimitDuration
from broadaxe._rest import in_thread
from broadaxe.models import RateLimitList, RateLimitOrderByDirection, RateLimitOrderByField
from broadaxe.wire import workflows_pb2

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe

_MAX_LIMIT = 2**31 - 1


class RateLimitsClient:
    """Sets the limits that tasks name by `RateLimit(static_key=...)`, and reads them all. Keys have no namespace."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def put(self, key: str, limit: int, duration: RateLimitDuration = RateLimitDuration.SECOND) -> None:
        """Let tasks spend at most `limit` units of `key` in each `duration`. Returns once it is durable.

        A window that is under way goes on; a lower limit counts at once, a higher one from the next window on.
        """
        self._client.transport.submit(self._put(key, limit, duration)).result()

    async def aio_put(
        self, key: str, limit: int, duration: RateLimitDuration = RateLimitDuration.SECOND
    ) -> None:
        """As `put`."""
        await self._client.on_io(self._put(key, limit, duration))

    def pause(self, key: str, until: datetime) -> datetime:
        """Start no task that spends of `key` until then; what runs goes on. Returns until when it is paused.

        That is later than `until` if a longer pause was asked for before: a pause is never shortened. A time without a zone is local.
        """
        return _time_of(self._client.transport.submit(self._pause(key, until)).result())

    async def aio_pause(self, key: str, until: datetime) -> datetime:
        """As `pause`."""
        return _time_of(await self._client.on_io(self._pause(key, until)))

    def list(
        self,
        offset: int | None = None,
        limit: int | None = None,
        search: str | None = None,
        order_by_field: RateLimitOrderByField | None = None,
        order_by_direction: RateLimitOrderByDirection | None = None,
    ) -> RateLimitList:
        """Rate limits with the units that each has now, a page of 50 if `limit` is not given.

        search: text within the key. By key if no order is given.
        """
        return self._client.rest.get(
            RateLimitList,
            self._path,
            {
                "offset": offset,
                "limit": limit,
                "search": search,
                "orderByField": order_by_field,
                "orderByDirection": order_by_direction,
            },
        )

    aio_list = in_thread(list)  # noqa: A003 - the method above

    def delete(self, key: str) -> None:
        """Forget a limit: tasks that spend of it wait until it is put again. One that does not exist is fine."""
        self._client.rest.call("DELETE", self._path, query={"key": key})

    aio_delete = in_thread(delete)

    @property
    def _path(self) -> str:
        return f"/api/v1/tenants/{self._client.tenant_id}/rate-limits"

    def _put(self, key: str, limit: int, duration: RateLimitDuration) -> Coroutine[Any, Any, None]:
        if not key:
            raise InvalidInputError("a rate limit needs a key: it is empty")
        if not 0 <= limit <= _MAX_LIMIT:
            raise InvalidInputError(f"rate limit {key!r}: limit is {limit}, expected 0 to {_MAX_LIMIT:,}")
        request = workflows_pb2.PutRateLimitRequest(
            key=key, limit=limit, duration=workflows_pb2.RateLimitDuration.Value(duration)
        )
        return self._client.transport.put_rate_limit(request)

    def _pause(self, key: str, until: datetime) -> Coroutine[Any, Any, workflows_pb2.PauseRateLimitResponse]:
        request = workflows_pb2.PauseRateLimitRequest(key=key)
        request.paused_until.FromDatetime(until.astimezone(UTC))
        return self._client.transport.pause_rate_limit(request)


def _time_of(response: workflows_pb2.PauseRateLimitResponse) -> datetime:
    return response.paused_until.ToDatetime(tzinfo=UTC)
