"""Shapes of rate limits (rest 7.3)."""

from enum import StrEnum

from broadaxe_gateway.http.rest.models.common import Pagination, Wire


class RateLimitOrder(StrEnum):
    """`RateLimitOrderByField`."""

    KEY = "key"
    VALUE = "value"
    LIMIT_VALUE = "limitValue"


class OrderDirection(StrEnum):
    """`RateLimitOrderByDirection`."""

    ASC = "asc"
    DESC = "desc"


class RateLimit(Wire):
    """`RateLimit`."""

    key: str
    tenant_id: str
    limit_value: int
    value: int
    window: str
    last_refill: str
    paused_until: str | None = None


class RateLimitList(Wire):
    """`RateLimitList`."""

    pagination: Pagination
    rows: list[RateLimit]
