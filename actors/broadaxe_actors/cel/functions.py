"""Every function and operator of an expression: its overloads, for the compiler and for each call, and what it does.

A line of the table is an overload as the language's reference writes it: `receiver.name(arguments) result`. The type `dyn` takes
anything. What is not in the table does not exist; where a name is in the table but no line fits the types at hand, there is no such
overload, which is an error when compiling if the types are known by then, and else when evaluating.
"""

import importlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from broadaxe_actors.cel import numbers, operators, strings
from broadaxe_actors.cel.operators import Failed, TypeName, kind_of

KINDS_KEPT = 200


class Overload(NamedTuple):
    """One line of the table."""

    is_member: bool
    parameters: tuple[str, ...]
    result: str

    def fits(self, kinds: Sequence[str]) -> bool:
        """Whether arguments of these kinds may be given; `dyn` is a kind that is not known yet."""
        return len(kinds) == len(self.parameters) and all(
            kind == parameter or "dyn" in {kind, parameter}
            for kind, parameter in zip(kinds, self.parameters, strict=True)
        )


class Function:
    """A function by name; `call` is what evaluation uses."""

    __slots__ = ("_known", "name", "overloads", "python")

    def __init__(self, name: str, overloads: tuple[Overload, ...], python: Callable[..., Any]) -> None:
        self.name = name
        self.overloads = overloads
        self.python = python
        self._known: set[tuple[str, ...]] = set()

    def call(self, *arguments: Any) -> Any:
        """The result; `Failed` where no overload takes the arguments, or where the function fails on them."""
        kinds = tuple([kind_of(argument) for argument in arguments])
        if kinds not in self._known:
            if not any(overload.fits(kinds) for overload in self.overloads):
                raise Failed(f"no such overload: {written(self.name, kinds)}")
            if len(self._known) < KINDS_KEPT:
                self._known.add(kinds)
        return self.python(*arguments)


def written(name: str, kinds: Sequence[str], *, is_member: bool = False) -> str:
    """A call in a message: types in the place of arguments."""
    if name in {"_[_]", "_._"}:
        return f"{kinds[0]}[{kinds[1]}]"
    if name.endswith("_"):
        symbol = name.strip("_")
        return f"{kinds[0]} {symbol} {kinds[1]}" if len(kinds) == 2 else f"{symbol}{kinds[0]}"
    if is_member:
        return f"{kinds[0]}.{name}({', '.join(kinds[1:])})"
    return f"{name}({', '.join(kinds)})"


def _size(value: Any) -> int:
    return len(value)


def _contains(text: str, part: str) -> bool:
    return part in text


def _matches(text: str, pattern: str) -> bool:
    compiled, cause = _pattern(pattern)
    if compiled is None:
        raise Failed(f"matches: {operators.shown(pattern)} is no pattern: {cause}")
    return compiled.search(strings.well_formed(text)) is not None


@cache
def _re2() -> Any:
    return importlib.import_module("re2")


def _pattern(pattern: str) -> tuple[Any, str]:
    """The compiled pattern, or none and why. RE2 takes time linear in the text, and keeps the patterns that it compiled last."""
    re2 = _re2()
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(strings.well_formed(pattern), options), ""
    except re2.error as failure:
        return None, str(failure)


def _type_of(value: Any) -> TypeName:
    kind = kind_of(value)
    return TypeName(
        {"timestamp": "google.protobuf.Timestamp", "duration": "google.protobuf.Duration"}.get(kind, kind)
    )


def _bytes_of(value: Any) -> bytes:
    return value if isinstance(value, bytes) else strings.well_formed(value).encode()


def _not_bound(_value: str) -> str:
    raise Failed("checksum is not available in event filters")


_COMPARABLE = ("bool", "string", "bytes", "timestamp", "duration")
_PAIRS = [(a, b) for a in ("int", "uint", "double") for b in ("int", "uint", "double")] + [
    (kind, kind) for kind in _COMPARABLE
]
_ORDER = " | ".join(f"({a}, {b}) bool" for a, b in _PAIRS)
_PARTS_OF_TIME = "timestamp.() int | timestamp.(string) int"
_PARTS_OF_BOTH = f"{_PARTS_OF_TIME} | duration.() int"

_STANDARD: dict[str, tuple[str, Callable[..., Any]]] = {
    "_==_": ("(dyn, dyn) bool", operators.equal),
    "_!=_": ("(dyn, dyn) bool", operators.unequal),
    "_<_": (_ORDER, operators.less),
    "_<=_": (_ORDER, operators.less_or_equal),
    "_>_": (_ORDER, operators.greater),
    "_>=_": (_ORDER, operators.greater_or_equal),
    "_in_": ("(dyn, list) bool | (dyn, map) bool", operators.is_in),
    "_[_]": ("(map, dyn) dyn | (list, int) dyn | (list, uint) dyn | (list, double) dyn", operators.select),
    "_._": ("(map, string) dyn", operators.select),
    "!_": ("(bool) bool", operators.is_not),
    "-_": ("(int) int | (double) double", numbers.negate),
    "_+_": (
        (
            "(int, int) int | (uint, uint) uint | (double, double) double | (string, string) string | (bytes, bytes) bytes"
            " | (list, list) list | (timestamp, duration) timestamp | (duration, timestamp) timestamp | (duration, duration) duration"
        ),
        numbers.add,
    ),
    "_-_": (
        (
            "(int, int) int | (uint, uint) uint | (double, double) double | (timestamp, duration) timestamp"
            " | (timestamp, timestamp) duration | (duration, duration) duration"
        ),
        numbers.subtract,
    ),
    "_*_": ("(int, int) int | (uint, uint) uint | (double, double) double", numbers.multiply),
    "_/_": ("(int, int) int | (uint, uint) uint | (double, double) double", numbers.divide),
    "_%_": ("(int, int) int | (uint, uint) uint", numbers.modulo),
    "size": (
        "(string) int | (bytes) int | (list) int | (map) int | string.() int | bytes.() int | list.() int | map.() int",
        _size,
    ),
    "contains": ("string.(string) bool", _contains),
    "startsWith": ("string.(string) bool", str.startswith),
    "endsWith": ("string.(string) bool", str.endswith),
    "matches": ("string.(string) bool | (string, string) bool", _matches),
    "bool": ("(bool) bool | (string) bool", numbers.to_bool),
    "bytes": ("(bytes) bytes | (string) bytes", _bytes_of),
    "double": ("(double) double | (int) double | (uint) double | (string) double", numbers.to_double),
    "int": ("(int) int | (uint) int | (double) int | (string) int | (timestamp) int", numbers.to_int),
    "uint": ("(uint) uint | (int) uint | (double) uint | (string) uint", numbers.to_uint),
    "string": (
        (
            "(string) string | (bool) string | (int) string | (uint) string | (double) string | (bytes) string"
            " | (timestamp) string | (duration) string"
        ),
        numbers.show,
    ),
    "timestamp": ("(timestamp) timestamp | (string) timestamp | (int) timestamp", numbers.timestamp),
    "duration": ("(duration) duration | (string) duration", numbers.duration),
    "dyn": ("(dyn) dyn", lambda value: value),
    "type": ("(dyn) type", _type_of),
    **{
        name: (_PARTS_OF_TIME, numbers.part_of_time(name))
        for name in ("getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getMonth")
    },
    **{
        name: (_PARTS_OF_BOTH, numbers.part_of_time(name))
        for name in ("getHours", "getMinutes", "getSeconds", "getMilliseconds")
    },
}

_STRINGS: dict[str, tuple[str, Callable[..., Any]]] = {
    "charAt": ("string.(int) string", strings.char_at),
    "format": ("string.(list) string", strings.format_),
    "indexOf": ("string.(string) int | string.(string, int) int", strings.index_of),
    "join": ("list.() string | list.(string) string", strings.join),
    "lastIndexOf": ("string.(string) int | string.(string, int) int", strings.last_index_of),
    "lowerAscii": ("string.() string", strings.lower_ascii),
    "replace": ("string.(string, string) string | string.(string, string, int) string", strings.replace),
    "reverse": ("string.() string", strings.reverse),
    "split": ("string.(string) list | string.(string, int) list", strings.split),
    "strings.quote": ("(string) string", strings.quote),
    "substring": ("string.(int) string | string.(int, int) string", strings.substring),
    "trim": ("string.() string", strings.trim),
    "upperAscii": ("string.() string", strings.upper_ascii),
}

_OVERLOAD = re.compile(r"(?:(?P<receiver>\w+)\.)?\((?P<arguments>[\w, ]*)\) (?P<result>\w+)")


def _function(name: str, overloads: str, python: Callable[..., Any]) -> Function:
    lines: list[Overload] = []
    for text in overloads.split(" | "):
        match = _OVERLOAD.fullmatch(text)
        assert match is not None, text
        parameters = tuple(filter(None, match["arguments"].split(", ")))
        receiver = match["receiver"]
        lines.append(
            Overload(
                receiver is not None, (receiver, *parameters) if receiver else parameters, match["result"]
            )
        )
    return Function(name, tuple(lines), python)


STANDARD = {name: _function(name, *entry) for name, entry in _STANDARD.items()}
"""What is in every environment."""

STRINGS = {name: _function(name, *entry) for name, entry in _STRINGS.items()}
"""What environments with the string extension have too."""

CHECKSUM = _function("checksum", "(string) string", strings.checksum)
CHECKSUM_DECLARED = _function("checksum", "(string) string", _not_bound)
"""The same for event filters: an expression with it compiles, and fails."""
