"""Numbers, times and their texts: conversions and arithmetic. Times are the library's, which is imported when the first is made."""

import datetime as dt
import importlib
import math
import re
from collections.abc import Callable
from typing import Any

from broadaxe_actors.cel.operators import (
    INT_RANGE,
    UINT_RANGE,
    Failed,
    Uint,
    checked_list,
    checked_string,
    kind_of,
    shown,
)

_INT = re.compile(r"[+-]?[0-9]+", re.ASCII)
_FLOAT = re.compile(
    r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:inf|infinity)|nan",
    re.IGNORECASE | re.ASCII,
)
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})",
    re.IGNORECASE | re.ASCII,
)
_DURATION = re.compile(r"[+-]?(?:[0-9]{1,12}(?:\.[0-9]{0,12})?(?:ns|us|ms|s|m|h))+", re.ASCII)
_DURATION_PART = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?)(?P<unit>[a-z]+)", re.ASCII)
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BOOLS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


def ranged_int(value: int) -> int:
    """The int, if 64 bits hold it."""
    if not INT_RANGE[0] <= value < INT_RANGE[1]:
        raise Failed("integer overflow")
    return value


def ranged_uint(value: int) -> Uint:
    """The uint, if 64 bits hold it."""
    if not UINT_RANGE[0] <= value < UINT_RANGE[1]:
        raise Failed("unsigned integer overflow")
    return Uint(value)


def to_int(value: Any) -> int:
    """`int(value)`: of a double the part before the point, of a time its Unix seconds."""
    if isinstance(value, dt.datetime):
        return int(value.timestamp())
    return ranged_int(_whole(value, "int"))


def to_uint(value: Any) -> Uint:
    """`uint(value)`."""
    return ranged_uint(_whole(value, "uint"))


def _whole(value: Any, name: str) -> int:
    if isinstance(value, str):
        if not _INT.fullmatch(value) or len(value) > 40:
            raise Failed(f"cannot convert {shown(value)} to {name}")
        return int(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise Failed(f"cannot convert {plain_double(value)} to {name}")
    return int(value)


def to_double(value: Any) -> float:
    """`double(value)`."""
    if isinstance(value, str) and not _FLOAT.fullmatch(value):
        raise Failed(f"cannot convert {shown(value)} to double")
    return float(value)


def to_bool(value: Any) -> bool:
    """`bool(value)`, of a bool or one of the words that Go takes for one."""
    if isinstance(value, bool):
        return value
    if value not in _BOOLS:
        raise Failed(f"cannot convert {shown(value)} to bool")
    return _BOOLS[value]


def show(value: Any) -> str:
    """`string(value)`. A double is written as Go's %g writes it: 4 for 4.0, 1e+06 for a million."""
    kind = kind_of(value)
    if kind == "bool":
        return "true" if value else "false"
    if kind == "double":
        return short_double(value)
    if kind == "bytes":
        try:
            return checked_string(value.decode())
        except UnicodeDecodeError:
            raise Failed("invalid UTF-8 in bytes, cannot convert to string") from None
    if kind in {"int", "uint"}:
        return str(int(value))
    if kind == "duration":
        return plain_double(value.total_seconds()) + "s"
    if kind == "timestamp":
        utc = value.astimezone(dt.UTC)
        fraction = f".{utc.microsecond:06d}".rstrip("0") if utc.microsecond else ""
        return f"{utc.year:04d}-{utc:%m-%dT%H:%M:%S}{fraction}Z"
    return str(value)


def _digits(value: float) -> tuple[str, str, int]:
    """Sign, shortest digits that give the double again, and where the point stands after the first of them."""
    mantissa, exponent = f"{value!r}".lower(), 0
    sign = "-" if mantissa.startswith("-") else ""
    mantissa = mantissa.removeprefix("-")
    if "e" in mantissa:
        mantissa, power = mantissa.split("e")
        exponent = int(power)
    whole, _, fraction = mantissa.partition(".")
    digits = whole + fraction
    point = len(whole) + exponent
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    stripped = stripped.rstrip("0")
    return (sign, stripped, point) if stripped else (sign, "0", 1)


def _special(value: float) -> str | None:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return None


def short_double(value: float) -> str:
    """The double with the fewest digits, with an exponent if that is below -4 or above 5."""
    special = _special(value)
    if special is not None:
        return special
    sign, digits, point = _digits(value)
    exponent = point - 1
    if exponent < -4 or exponent >= 6:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    return plain_double(value)


def plain_double(value: float) -> str:
    """The double with the fewest digits, without an exponent and without a point if it is whole."""
    special = _special(value)
    if special is not None:
        return special
    sign, digits, point = _digits(value)
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if point >= len(digits):
        return f"{sign}{digits}{'0' * (point - len(digits))}"
    return f"{sign}{digits[:point]}.{digits[point:]}"


# ---- arithmetic, by the kinds that the table of `functions` lets through


def add(a: Any, b: Any) -> Any:
    """`a + b` of two numbers of one kind, two strings, bytes or lists, or of times."""
    kind = kind_of(a)
    if kind == "string":
        return checked_string(a + b)
    if kind == "list":
        return checked_list([*a, *b])
    return _arithmetic(a, b, lambda: a + b)


def subtract(a: Any, b: Any) -> Any:
    """`a - b`."""
    return _arithmetic(a, b, lambda: a - b)


def multiply(a: Any, b: Any) -> Any:
    """`a * b`."""
    return _arithmetic(a, b, lambda: a * b)


def divide(a: Any, b: Any) -> Any:
    """`a / b`: ints towards zero; doubles to infinity or NaN by zero."""
    if isinstance(a, float):
        if b == 0:
            return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)
        return a / b
    if b == 0:
        raise Failed("divide by zero")
    quotient = abs(int(a)) // abs(int(b))
    return _arithmetic(a, b, lambda: quotient if (a < 0) == (b < 0) else -quotient)


def modulo(a: Any, b: Any) -> Any:
    """`a % b` of ints; the sign is that of `a`."""
    if b == 0:
        raise Failed("modulus by zero")
    rest = abs(int(a)) % abs(int(b))
    return _arithmetic(a, b, lambda: -rest if a < 0 else rest)


def negate(a: Any) -> Any:
    """`-a`."""
    return -a if isinstance(a, float) else ranged_int(-a)


def _arithmetic(a: Any, b: Any, result: Callable[[], Any]) -> Any:
    try:
        value = result()
    except OverflowError:
        raise Failed("a time beyond its range") from None
    if isinstance(a, Uint) and isinstance(b, Uint):
        return ranged_uint(value)
    return ranged_int(value) if type(value) is int else value


# ---- times


def timestamp(value: Any) -> Any:
    """`timestamp(value)`, of an RFC 3339 text or Unix seconds."""
    if isinstance(value, dt.datetime):
        return value
    if isinstance(value, str) and not _RFC3339.fullmatch(value):  # the library would take any date
        raise Failed(f"cannot convert {shown(value)} to a timestamp: it is not written as RFC 3339 wants")
    types = importlib.import_module("celpy.celtypes")
    try:
        if isinstance(value, str):
            return types.TimestampType(value.upper())
        return types.TimestampType(dt.datetime.fromtimestamp(value, dt.UTC))
    except (ValueError, OverflowError, OSError) as failure:
        raise Failed(f"cannot convert {shown(value)} to a timestamp: {failure}") from None


def duration(value: Any) -> Any:
    """`duration(value)`, of a text such as 1h30m. Not left to the library, whose pattern takes exponential time on some texts."""
    if isinstance(value, dt.timedelta):
        return value
    match = _DURATION.fullmatch(value)
    if not match:
        raise Failed(
            f"cannot convert {shown(value)} to a duration: a number and a unit (h, m, s, ms, us, ns) are needed"
        )
    seconds = math.fsum(
        float(part["number"]) * _UNITS[part["unit"]] for part in _DURATION_PART.finditer(value)
    )
    try:
        return importlib.import_module("celpy.celtypes").DurationType(
            dt.timedelta(seconds=-seconds if value.startswith("-") else seconds)
        )
    except (ValueError, OverflowError) as failure:
        raise Failed(f"cannot convert {shown(value)} to a duration: {failure}") from None


def part_of_time(name: str) -> Callable[..., int]:
    """The function that takes a part, such as `getHours`, of a timestamp (in a zone, if one is given) or of a duration."""

    def part(value: Any, zone: str | None = None) -> int:
        try:
            found = getattr(value, name)() if zone is None else getattr(value, name)(zone)
        except (ValueError, OverflowError, OSError) as failure:  # an OSError is a zone that is no file
            raise Failed(f"{name}: {failure}") from None
        return int(found)

    return part
