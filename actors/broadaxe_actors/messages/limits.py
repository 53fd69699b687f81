"""Messages about limits of tenants."""

from typing import NamedTuple


class GetUsage(NamedTuple):
    """Reply: a tuple of `ResourceUsage` of the limited resources that the tracker counts."""

    request_id: int
    tenant_id: str


class GetWorkerUsage(NamedTuple):
    """Reply: likewise of those that the registry of workers counts."""

    request_id: int
    tenant_id: str
