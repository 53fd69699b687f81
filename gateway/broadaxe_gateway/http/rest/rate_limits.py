"""Rate limits: list them, delete one (rest 7.3). Lists read the record, a deletion is the engine's, which holds those in use.

A limit is put, and paused, over gRPC.
"""

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from broadaxe_actors.messages import DeleteRateLimit
from broadaxe_actors.rate_limits import units_of, window_text
from broadaxe_gateway.http.rest.dependencies import (
    Engine,
    Offset,
    Read,
    Tenant,
)
from broadaxe_gateway.http.rest.models.common import list_pages, made, time_text
from broadaxe_gateway.http.rest.models.rate_limits import (
    OrderDirection,
    RateLimit,
    RateLimitList,
    RateLimitOrder,
)
from broadaxe_gateway.rpc.convert.checks import check_text
from broadaxe_gateway.rpc.convert.rate_limits import check_key
from broadaxe_storage.records import RateLimitRow
from broadaxe_storage.summaries import RateLimitQuery

DEFAULT_LIMIT = 50
MAX_LIMIT = 10_000
_ORDERS: Mapping[RateLimitOrder, Literal["key", "value", "limit"]] = {
    RateLimitOrder.KEY: "key",
    RateLimitOrder.VALUE: "value",
    RateLimitOrder.LIMIT_VALUE: "limit",
}

router = APIRouter(prefix="/api/v1")


@router.get("/tenants/{tenant}/rate-limits", response_model=RateLimitList)
async def list_rate_limits(
    tenant: Tenant,
    reads: Read,
    offset: Offset = 0,
    limit: Annotated[int, Query(le=MAX_LIMIT)] = DEFAULT_LIMIT,
    search: str = "",
    order_by_field: Annotated[RateLimitOrder, Query(alias="orderByField")] = RateLimitOrder.KEY,
    order_by_direction: Annotated[OrderDirection, Query(alias="orderByDirection")] = OrderDirection.ASC,
) -> Response:
    """Each with the units that it has now."""
    limit = limit if limit > 0 else DEFAULT_LIMIT
    query = RateLimitQuery(
        check_text(search, "search"), _ORDERS[order_by_field], order_by_direction is OrderDirection.DESC
    )
    now = time.time_ns() // 1000
    rows = await reads.list_rate_limits(tenant, query, now, limit=limit, offset=offset)
    pages = list_pages(offset, limit, await reads.count_rate_limits(tenant, query))
    return await made(
        lambda: RateLimitList(pagination=pages, rows=[_rate_limit(row, now) for row in rows]), len(rows)
    )


@router.delete("/tenants/{tenant}/rate-limits", status_code=HTTPStatus.NO_CONTENT)
async def delete_rate_limit(tenant: Tenant, engine: Engine, key: Annotated[str, Query()]) -> Response:
    """Task runs that need it wait until it is put, or defined, again."""
    await engine.ask(DeleteRateLimit, tenant, check_key(key))
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _rate_limit(row: RateLimitRow, now: int) -> RateLimit:
    return RateLimit(
        key=row.key,
        tenant_id=row.tenant_id,
        # One that was only paused gives nothing until it is put, as one with the limit 0.
        limit_value=row.limit_value or 0,
        value=units_of(row, now),
        window=window_text(row.window_us),
        last_refill=time_text(row.window_start),
        paused_until=(
            time_text(row.paused_until) if row.paused_until is not None and row.paused_until > now else None
        ),
    )
