"""What a delivery carries, as the payload of an event: a JSON object (rest 9.5). Pure; raises `DeliveryRefused`.

JSON that needs no change is passed on byte for byte.
"""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from broadaxe_gateway.rpc.convert.checks import has_escaped_null
from broadaxe_gateway.webhooks.definition import Source
from broadaxe_gateway.webhooks.signatures import DeliveryRefused

FORM = "application/x-www-form-urlencoded"
FORM_SOURCES = frozenset({Source.SLACK, Source.GENERIC})
MAX_FORM_FIELDS = 1_000
SLACK_FIELD = "payload"
_NOT_OF_THE_SENDER = ("tenant", "v1-webhook")
"""Names of the path's parameters: what a body has under them is dropped, as the contract has it."""


class Payload(NamedTuple):
    """An event's payload, for expressions and as JSON text."""

    value: dict[str, Any]
    text: bytes


def challenge_of(source: Source, body: bytes) -> str | None:
    """What Slack wants to hear back when the URL of a webhook is given to it."""
    if source is not Source.SLACK:
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    challenge = value.get("challenge") if isinstance(value, dict) else None
    return challenge if isinstance(challenge, str) and challenge else None


def read_body(source: Source, content_type: str, body: bytes, static: Mapping[str, Any] | None) -> Payload:
    """The payload: the body's object with the static one over it."""
    if FORM in content_type.lower():
        value, text = _read_form(source, body)
    else:
        value, text = _parse_object(body, "the body"), body
    merged = {name: item for name, item in value.items() if name not in _NOT_OF_THE_SENDER} | dict(
        static or {}
    )
    if len(merged) == len(value) and not static and text is not None:
        return Payload(value, text)
    return Payload(merged, json.dumps(merged, separators=(",", ":"), ensure_ascii=False).encode())


def _read_form(source: Source, body: bytes) -> tuple[dict[str, Any], bytes | None]:
    if source not in FORM_SOURCES:
        raise _refused(
            f"the body is form data, which is not supported for source {source}: have it sent as application/json"
        )
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=MAX_FORM_FIELDS,
        )
    except ValueError as error:
        raise _refused(f"the body is no form data: {error}") from error
    fields: dict[str, Any] = {}
    for name, item in pairs:
        fields.setdefault(name, item)
    if any("\0" in name or "\0" in item for name, item in pairs):
        raise _refused("the body holds a null character, which cannot be stored")
    if source is Source.SLACK and SLACK_FIELD in fields:
        text = fields[SLACK_FIELD].encode()
        return _parse_object(text, f"the form field {SLACK_FIELD}"), text
    return fields, None


def _parse_object(text: bytes, what: str) -> dict[str, Any]:
    try:
        # Half of a surrogate pair would survive JSON's escapes and then fit no column.
        decoded = text.decode()
        value = json.loads(decoded, parse_constant=_no_constant, parse_float=_finite)
        if "\\u" in decoded:
            if has_escaped_null(decoded):
                raise _refused(f"{what} holds a null character (\\u0000), which cannot be stored")
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise _refused(f"{what} is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise _refused(f"{what} holds half of a surrogate pair, which is no character") from error
    except ValueError as error:
        raise _refused(f"{what} is no valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise _refused(f"{what} is no JSON object but {_kind(value)}")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number {text[:40]} is out of range")
    return number


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return (
        "null"
        if value is None
        else f"a {'number' if isinstance(value, int | float) and not isinstance(value, bool) else 'string' if isinstance(value, str) else 'boolean'}"
    )


def _refused(message: str) -> DeliveryRefused:
    return DeliveryRefused(HTTPStatus.BAD_REQUEST, message)
