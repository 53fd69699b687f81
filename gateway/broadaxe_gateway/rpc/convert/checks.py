"""Checks of single values that come over the wire: ids, JSON texts, names, priorities. Pure; raises `Refused`."""

import json
import math
import re
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from broadaxe_actors.definitions import duration_us
from broadaxe_actors.errors import Code, Refused

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_ACTION = re.compile(r"[^:\s\0]+:[^:\s\0]+(?::[^:\s\0]+)?")
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_SHOWN = 120
_NULL_CHARACTER = "it holds an invalid null character (\\u0000)"

LONGEST_DURATION_US: Final = 10 * 365 * 24 * 3_600_000_000
"""Ten years: a longer one is a slip of units, and its deadline would run out of what Postgres can write."""
_LONGEST_DURATION_TEXT = 100
MIN_TIME_US: Final = -62_135_596_800_000_000
MAX_TIME_US: Final = 253_402_300_799_999_999
"""The years 1 to 9999: what Postgres, Python and RFC 3339 can all write."""

OFF_LOOP_BYTES: Final = 256 * 1024
"""A message of more bytes than this is converted in a thread."""


def refuse(message: str) -> Refused:
    """The caller's mistake, to be raised."""
    return Refused(Code.INVALID_ARGUMENT, message)


def shown(value: object) -> str:
    """A value as an error quotes it: whole when short."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"


def find_uuid(text: str) -> str | None:
    """The id in canonical form, or None if it is no UUID."""
    if _UUID.fullmatch(text):
        return text
    lowered = text.lower()
    return lowered if _UUID.fullmatch(lowered) else None


def check_uuid(text: str, field: str) -> str:
    """The id in canonical form."""
    if _UUID.fullmatch(text):
        return text
    found = find_uuid(text)
    if found is None:
        raise refuse(f"{field} is not a UUID: {shown(text)}")
    return found


def check_name(text: str, field: str) -> str:
    if not _NAME.fullmatch(text):
        raise refuse(f"{field} {shown(text)} is not valid: use letters, digits, '.', '-' and '_' only")
    return text


def check_action(text: str, field: str) -> str:
    """The action id, lower case, as queues are keyed by it."""
    if not _ACTION.fullmatch(text):
        raise refuse(f"{field} {shown(text)} is not valid: expected 'workflow:task'")
    return text.lower()


def check_text(text: str, field: str) -> str:
    """Text that Postgres can keep: it has no null character."""
    if "\0" in text:
        raise refuse(f"{field} holds a null character, which text may not")
    return text


def has_escaped_null(json_text: str) -> bool:
    """Whether a string within a JSON text holds a null character."""
    return "\\u0000" in json_text and _ESCAPED_NUL.search(json_text) is not None


def check_priority(value: int, field: str = "priority") -> int:
    if not 1 <= value <= 3:
        raise refuse(f"{field} is {value}, expected 1 (low) to 3 (high)")
    return value


def check_duration(text: str, field: str) -> int:
    """Microseconds of a duration such as `1h30m`; zero is one (behaviour-core 2.10)."""
    if len(text) > _LONGEST_DURATION_TEXT:
        raise refuse(f"{field} {shown(text)} is not a duration")
    try:
        found = duration_us(text)
    except ValueError as error:
        raise refuse(f"{field}: {error}") from error
    if found > LONGEST_DURATION_US:
        raise refuse(f"{field} is {text}, expected at most ten years (87600h)")
    return found


def check_time(time: Timestamp, field: str) -> int:
    """Microseconds since the epoch, of a time between the years 1 and 9999."""
    try:
        return time.ToMicroseconds()
    except ValueError as error:
        raise refuse(f"{field} is no time between the years 1 and 9999: {error}") from error


def check_time_us(microseconds: int, field: str) -> int:
    """The same for what comes as a number."""
    if not MIN_TIME_US <= microseconds <= MAX_TIME_US:
        raise refuse(f"{field} is no time between the years 1 and 9999: {microseconds} microseconds")
    return microseconds


def find_time(time: Timestamp) -> int:
    """The same for what is only shown: 0, which is unknown, for what is no time."""
    try:
        return time.ToMicroseconds()
    except ValueError:
        return 0


class _NotJsonError(ValueError):
    """Why a text is not JSON."""


def _refuse_constant(name: str) -> Any:
    raise _NotJsonError(f"{name} is not a JSON value")


def _keep_nothing(_pairs: list[tuple[str, Any]]) -> None:
    return None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotJsonError(f"number {shown(text)} is out of range")
    return number


# Made once: `json.loads` would make a decoder a call.
_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_decode = _decoder.decode
_raw_decode = _decoder.raw_decode
_decode_finite = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).decode
# A function of ours for each object keeps nothing of it, and lets other threads run in between: the parser alone would hold the
# interpreter from the first byte to the last.
_decode_large = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_keep_nothing).decode


def json_problem(text: str) -> str | None:
    """Why a text cannot be kept as JSON, or None if it can."""
    size = len(text)
    try:
        # Nearly every text is one value with nothing around it: this takes half the time of what follows.
        if size <= OFF_LOOP_BYTES and _raw_decode(text)[1] == size:
            return _NULL_CHARACTER if has_escaped_null(text) else None
    except (ValueError, RecursionError):
        pass  # told below, with white space allowed for
    try:
        (_decode_large if size > OFF_LOOP_BYTES else _decode)(text)
    except RecursionError:
        return "it is nested too deeply"
    except ValueError as error:
        return str(error)
    return _NULL_CHARACTER if has_escaped_null(text) else None


def check_json(text: str, field: str) -> bytes:
    """The text as bytes, unchanged. Empty stays empty."""
    if not text:
        return b""
    problem = json_problem(text)
    if problem is not None:
        raise refuse(f"{field} is not valid JSON: {problem}")
    return text.encode()


def check_json_bytes(data: bytes, field: str) -> bytes:
    """The same for what comes as bytes."""
    if not data:
        return b""
    check_json(utf8(data, field), field)
    return data


def utf8(data: bytes, field: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise refuse(f"{field} is not UTF-8: {error}") from error


def check_object(text: str, field: str) -> dict[str, Any]:
    """A JSON object that Postgres can keep as jsonb: no escaped NUL, no half of a surrogate pair, no number beyond a double."""
    try:
        value = _decode_finite(text)
    except RecursionError as error:
        raise refuse(f"{field} is nested too deeply") from error
    except ValueError as error:
        raise refuse(f"{field} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise refuse(f"{field} is not a JSON object: {shown(text)}")
    if "\\u" in text:
        if has_escaped_null(text):
            raise refuse(f"{field} holds an invalid null character (\\u0000)")
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise refuse(f"{field} holds half of a surrogate pair, which is no character") from error
    return value
