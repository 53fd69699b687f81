"""Durations as users write them and as the wire carries them. Pure."""

import re
from datetime import timedelta

from broadaxe._errors import DefinitionError
from broadaxe._types import Duration

_FORM = re.compile(r"^(\d+(\.\d+)?(ms|s|m|h))+$")


def duration_to_wire(value: Duration, what: str) -> str:
    """The wire's text for a duration: a whole number with the largest unit that divides it.

    Text passes as it is when it has the wire's form. Raises `DefinitionError` naming `what` for anything else.
    """
    if isinstance(value, str):
        if not _FORM.match(value):
            raise DefinitionError(
                f"{what} is {value!r}: expected a timedelta, or one or more of <number><ms|s|m|h>, such as '90s' or '1h30m'"
            )
        return value
    if not isinstance(value, timedelta):
        raise DefinitionError(f"{what} is {value!r}: expected a timedelta or text such as '90s'")
    milliseconds = round(value.total_seconds() * 1000)
    if milliseconds < 0:
        raise DefinitionError(f"{what} is {value!r}: expected 0 or more")
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"
