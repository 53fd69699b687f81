"""What the routes of crons and scheduled runs share: bodies, filters, pages, errors."""

import asyncio
import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.http.errors import RequestRefused, problems_text
from broadaxe_gateway.http.rest.dependencies import EngineLink
from broadaxe_gateway.rpc.convert.checks import (
    OFF_LOOP_BYTES,
    check_json,
    check_object,
    check_text,
    refuse,
    shown,
)

DEFAULT_LIMIT = 50
MAX_LIMIT = 10_000
Model = TypeVar("Model", bound=BaseModel)


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """How the OpenAPI document describes a body that the route reads itself."""
    schema = {"schema": model.model_json_schema()}
    return {"requestBody": {"required": True, "content": {"application/json": schema}}}


async def read_body(request: Request, model: type[Model]) -> Model:
    """The body as a model, a large one read in a thread. Raises `RequestRefused`."""
    body = await request.body()
    try:
        if len(body) > OFF_LOOP_BYTES:
            return await asyncio.to_thread(model.model_validate_json, body)
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, problems_text(error.errors())) from None


def input_bytes(given: dict[str, Any]) -> bytes:
    """JSON text of an input."""
    return check_json(json.dumps(given, ensure_ascii=False), "input")


def metadata_text(given: dict[str, Any]) -> str:
    """JSON text of metadata, which Postgres can keep."""
    text = json.dumps(given, ensure_ascii=False)
    check_object(text, "additionalMetadata")
    return text


def metadata_items(items: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """A filter on metadata: `key:value` with exactly one colon (rest 0.7)."""
    found = []
    for text in items or ():
        key, _, value = text.partition(":")
        if text.count(":") != 1 or not key:
            raise refuse(f"additionalMetadata {shown(text)} is not valid: expected key:value, with one colon")
        found.append((check_text(key, "metadata key"), check_text(value, "metadata value")))
    return tuple(found)


async def ask_for_workflow(engine: EngineLink, message: type, tenant: str, *fields: object) -> Any:
    """Ask the engine for something about a workflow by name: an unknown one is 400 here (rest 7)."""
    try:
        return await engine.ask(message, tenant, *fields)
    except Refused as refused:
        if refused.code == Code.NOT_FOUND:
            raise Refused(Code.INVALID_ARGUMENT, refused.message) from None
        raise
