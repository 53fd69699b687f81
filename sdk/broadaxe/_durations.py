"""Durations as users write them and as the wire carries them. Pure."""

import re
from datetime import timedelta

from broadaxe._errors import DefinitionError
from broadaxe._types import Duration

_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
LONGEST = timedelta(days=36_500)
"""A century: what is longer is taken for a slip."""


def duration_to_wire(value: Duration, what: str, *, is_zero_allowed: bool = True) -> str:
    """The wire's text for a duration: a whole number with the largest unit that divides it.

    Text passes as it is when it has the wire's form; a bare number is seconds. Raises `DefinitionError` naming `what` for
    anything else, for what is negative or longer than `LONGEST`, and for nothing at all where that makes no sense.
    """
    if isinstance(value, str):
        text = f"{value}s" if value.isascii() and value.isdigit() else value
        seconds = _seconds(text)
        if seconds is None:
            raise DefinitionError(
                f"{what} is {value!r}: expected a timedelta, or one or more of <number><ms|s|m|h>, such as '90s' or '1h30m'"
            )
    elif isinstance(value, timedelta):
        seconds = value.total_seconds()
        text = _largest_unit(round(seconds * 1000))
    else:
        raise DefinitionError(f"{what} is {value!r}: expected a timedelta or text such as '90s'")
    if seconds < 0:
        raise DefinitionError(f"{what} is {value!r}: expected 0 or more")
    if seconds > LONGEST.total_seconds():
        raise DefinitionError(f"{what} is {value!r}: expected at most {LONGEST.days:,} days")
    if not is_zero_allowed and seconds < 0.001:
        raise DefinitionError(f"{what} is {value!r}: expected 1 ms or more")
    return text


def _seconds(text: str) -> float | None:
    """None for text that is no duration."""
    parts = _FORM.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _largest_unit(milliseconds: int) -> str:
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"
