"""What all shapes share: their base, times, pages, JSON that is passed on as it is, and how an answer is written.

Payloads are JSON texts already and may be large: `Raw` carries one through a model, and `write` splices it into the text unparsed.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Response
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

from broadaxe_gateway.rpc.convert.checks import OFF_LOOP_BYTES

NIL_ID = "00000000-0000-0000-0000-000000000000"
ZERO_TIME = "0001-01-01T00:00:00Z"
"""How several shapes say that a time is not set."""
MAX_ON_LOOP = 100
"""Rows built and written at once: about 5 ms."""
_BLANKS = b" \t\r\n"


class Wire(BaseModel):
    """A shape whose names are camel case on the wire."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


class SnakeWire(BaseModel):
    """One of the few whose names are snake case on the wire."""

    model_config = ConfigDict(extra="ignore")


class Raw:
    """JSON object text that goes into an answer as it stands."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(_serialize, info_arg=True)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "object"}


EMPTY = Raw(b"{}")

payloads_hidden: ContextVar[bool] = ContextVar("payloads_hidden", default=False)
"""Whether the answer that is being made is for a member who may not view payloads; set by who checks the caller (`http.auth`)."""


def _serialize_payload(value: Raw, info: core_schema.SerializationInfo) -> Any:
    return _serialize(EMPTY if payloads_hidden.get() else value, info)


Payload = Annotated[Raw, PlainSerializer(_serialize_payload), WithJsonSchema({"type": "object"})]
"""What users put into runs and events, and get out of them: an empty object for who may not view it."""


class WithPayloads(Wire):
    """A shape that says when its payloads are left out."""

    payloads_restricted: bool | None = Field(default_factory=lambda: payloads_hidden.get() or None)


def raw_object(text: bytes | None) -> Raw:
    """The text if it is a JSON object; an empty one for nothing, null, and whatever else: clients accept objects alone."""
    if not text:
        return EMPTY
    first = text[:1]
    if first in _BLANKS:
        first = text.lstrip(_BLANKS)[:1]
    return Raw(text) if first == b"{" else EMPTY


class _Splices:
    """The texts of one answer, and the mark that stands for them until they are spliced in. Nobody can guess it."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.mark = secrets.token_hex(16)

    def put(self, text: bytes) -> str:
        self.texts.append(text)
        return f"{self.mark}{len(self.texts) - 1}."


def _serialize(value: Raw, info: core_schema.SerializationInfo) -> Any:
    if isinstance(info.context, _Splices):
        return info.context.put(value.text)
    return json.loads(value.text)


def write(model: BaseModel) -> bytes:
    """JSON of a model: unset fields left out, raw texts spliced in."""
    splices = _Splices()
    text = model.model_dump_json(by_alias=True, exclude_none=True, context=splices).encode()
    if not splices.texts:
        return text
    mark = re.compile(rb'"%b(\d+)\."' % splices.mark.encode())
    return mark.sub(lambda found: splices.texts[int(found[1])], text)


async def answer(model: BaseModel) -> Response:
    """The response that carries a small model."""
    return json_response(write(model))


async def made(make: Callable[[], BaseModel], items: int, payload_bytes: int = 0) -> Response:
    """The response that carries what `make` builds of so many rows; in a thread if that would keep the loop."""
    if items > MAX_ON_LOOP or payload_bytes > OFF_LOOP_BYTES:
        return json_response(await asyncio.to_thread(lambda: write(make())))
    return json_response(write(make()))


def json_response(content: bytes) -> Response:
    return Response(content, media_type="application/json")


# ---------------------------------------------------------------- times


def time_text(at: int) -> str:
    """RFC 3339 in UTC of microseconds since the epoch."""
    return (
        datetime.fromtimestamp(at // 1_000_000, UTC)
        .replace(microsecond=at % 1_000_000)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


def optional_time(at: int | None) -> str | None:
    return None if at is None else time_text(at)


def time_or_zero(at: int | None) -> str:
    return ZERO_TIME if at is None else time_text(at)


def microseconds(at: datetime) -> int:
    """Microseconds since the epoch of a time as a client gave it; one without a zone is UTC."""
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    delta = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


# ---------------------------------------------------------------- shapes


class ResourceMeta(Wire):
    """`APIResourceMeta`."""

    id: str
    created_at: str
    updated_at: str


def meta(resource_id: str, created_at: int, updated_at: int | None = None) -> ResourceMeta:
    created = time_text(created_at)
    return ResourceMeta(
        id=resource_id,
        created_at=created,
        updated_at=created if updated_at is None else time_text(updated_at),
    )


class Pagination(SnakeWire):
    """`PaginationResponse`; each listing has rules of its own (rest 0.6)."""

    current_page: int | None = None
    next_page: int | None = None
    num_pages: int | None = None


def run_pages(offset: int, limit: int, total: int) -> Pagination:
    """Pages of runs and tasks: the next one is named even on the last."""
    current = offset // limit + 1
    return Pagination(current_page=current, next_page=current + 1, num_pages=-(-total // limit))


def list_pages(offset: int, limit: int, total: int) -> Pagination:
    """Pages of workflows and workers: the last one names itself as the next."""
    current = 1 + -(-offset // limit)
    pages = -(-total // limit)
    return Pagination(
        current_page=current, next_page=current if current >= pages else current + 1, num_pages=pages
    )
