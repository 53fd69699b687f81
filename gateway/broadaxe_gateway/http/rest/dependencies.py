"""What the REST routes are given: the engine, the reads, the tenant of the path, and parameters in the forms of the wire document."""

from datetime import datetime
from typing import Annotated, Any, Protocol, cast
from uuid import UUID

from fastapi import Depends, Path, Query, Request

from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.http.auth import Credentials, access_to, role_for
from broadaxe_gateway.http.metrics import TelemetrySource
from broadaxe_gateway.http.rest.models.common import microseconds
from broadaxe_gateway.http.rest.reads import Reads
from broadaxe_gateway.http.rest.versions import Versions


class EngineLink(Protocol):
    """The part of the hub that REST uses."""

    def new_id(self) -> str: ...

    async def ask(self, message: type, tenant_id: str, *fields: object) -> Any: ...


async def _engine(request: Request) -> EngineLink:
    return cast(EngineLink, request.app.state.hub)


async def _reads(request: Request) -> Reads:
    return cast(Reads, request.app.state.reads)


async def _versions(request: Request) -> Versions:
    return cast(Versions, request.app.state.versions)


async def _is_replay_enabled(request: Request) -> bool:
    return cast(bool, request.app.state.is_replay_enabled)


async def _telemetry(request: Request) -> TelemetrySource:
    return cast(TelemetrySource, request.app.state.telemetry)


async def _tenant(tenant: Annotated[UUID, Path()], request: Request, credentials: Credentials) -> str:
    """The tenant of the path, in which the caller may read, or for other methods be a member."""
    return (await access_to(request, str(tenant), credentials, role_for(request.method))).tenant_id


MOST = 2**31 - 1
"""Of a number that comes from outside and goes to the record."""

Offset = Annotated[int, Query(ge=0, le=MOST)]
Attempt = Annotated[int | None, Query(ge=1, le=MOST)]
Engine = Annotated[EngineLink, Depends(_engine)]
Read = Annotated[Reads, Depends(_reads)]
KnownVersions = Annotated[Versions, Depends(_versions)]
Telemetry = Annotated[TelemetrySource, Depends(_telemetry)]
ReplayEnabled = Annotated[bool, Depends(_is_replay_enabled)]
Tenant = Annotated[str, Depends(_tenant)]


def unknown(what: str, resource_id: object) -> Refused:
    """404. One of another tenant is answered alike, so that ids tell nothing."""
    return Refused(Code.NOT_FOUND, f"{what} {resource_id} is not known")


def optional_us(at: datetime | None) -> int | None:
    return None if at is None else microseconds(at)


def texts(ids: list[UUID] | None) -> tuple[str, ...]:
    """Ids in canonical form, each once."""
    return tuple(dict.fromkeys(map(str, ids or ())))
