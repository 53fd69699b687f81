"""What CEL's operators mean on parsed JSON. Pure, without the library; both ways to evaluate call these.

Values are Python's own: JSON as `json` reads it with every number a float (CEL's double), `int` for a CEL int, `Uint`, `bytes`, datetime's
types for times. Semantics are those of Google's implementation for Go with values whose type is not known when compiling: values of different types are
unequal, all numbers compare with each other, and an operator with no meaning for its operands is an error.
"""

import datetime as dt
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

INT_RANGE = (-(2**63), 2**63)
UINT_RANGE = (0, 2**64)
MAX_CHARACTERS = 262_144
"""Of any string that an expression builds; it bounds time and memory, since replacements can multiply."""
MAX_ITEMS = 100_000
"""Of any list that an expression builds."""


class Failed(Exception):
    """An evaluation error; the text is the cause, without the expression."""


class Uint(int):
    """A CEL uint."""


class TypeName(NamedTuple):
    """A CEL type as a value, as `type(x)` gives it."""

    name: str


_KINDS: dict[type, str] = {
    bool: "bool",
    int: "int",
    Uint: "uint",
    float: "double",
    str: "string",
    bytes: "bytes",
    type(None): "null_type",
    list: "list",
    dict: "map",
    TypeName: "type",
}
_NUMBERS = frozenset({"int", "uint", "double"})
_ORDERED = frozenset({"bool", "string", "bytes", "timestamp", "duration"})


def kind_of(value: Any) -> str:
    """The CEL type of a value."""
    kind = _KINDS.get(type(value))
    if kind is not None:
        return kind
    if isinstance(value, dt.datetime):
        return "timestamp"
    if isinstance(value, dt.timedelta):
        return "duration"
    for base in (list, dict, str, float, int):  # the library's types are subclasses
        if isinstance(value, base):
            return _KINDS[base]
    raise Failed(f"a {type(value).__name__} is no CEL value")


def equal(a: Any, b: Any) -> bool:
    """`a == b`."""
    kind_a, kind_b = kind_of(a), kind_of(b)
    if kind_a != kind_b:
        if kind_a not in _NUMBERS or kind_b not in _NUMBERS:
            return False
        if "double" in {kind_a, kind_b}:
            return float(a) == float(b)  # so a large literal equals the double that JSON made of it
        return bool(int(a) == int(b))
    if kind_a == "list":
        return len(a) == len(b) and all(map(equal, a, b))
    if kind_a == "map":
        return len(a) == len(b) and all(key in b and equal(value, b[key]) for key, value in a.items())
    return bool(a == b)


def unequal(a: Any, b: Any) -> bool:
    """`a != b`."""
    return not equal(a, b)


def _ordered(a: Any, b: Any, symbol: str, is_so: Callable[[Any, Any], bool]) -> bool:
    kind_a, kind_b = kind_of(a), kind_of(b)
    if kind_a in _NUMBERS and kind_b in _NUMBERS:
        if "double" in {kind_a, kind_b}:
            a, b = float(a), float(b)
            if math.isnan(a) or math.isnan(b):
                raise Failed("NaN values cannot be ordered")
        return is_so(a, b)
    if kind_a != kind_b or kind_a not in _ORDERED:
        raise Failed(f"no such overload: {kind_a} {symbol} {kind_b}")
    return is_so(a, b)


less: Callable[[Any, Any], bool] = partial(_ordered, symbol="<", is_so=lambda a, b: a < b)
less_or_equal: Callable[[Any, Any], bool] = partial(_ordered, symbol="<=", is_so=lambda a, b: a <= b)
greater: Callable[[Any, Any], bool] = partial(_ordered, symbol=">", is_so=lambda a, b: a > b)
greater_or_equal: Callable[[Any, Any], bool] = partial(_ordered, symbol=">=", is_so=lambda a, b: a >= b)

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "_==_": equal,
    "_!=_": unequal,
    "_<_": less,
    "_<=_": less_or_equal,
    "_>_": greater,
    "_>=_": greater_or_equal,
}


def is_not(value: Any) -> bool:
    """`!value`."""
    if value is True:
        return False
    if value is False:
        return True
    raise Failed(f"no such overload: !{kind_of(value)}")


def select(container: Any, key: Any) -> Any:
    """`container[key]`; `container.key` is the same with a string."""
    if isinstance(container, Mapping):
        found = _stored(container, key)
        if not found:
            raise Failed(f"no such key: {shown(key)}")
        return container[found[0]]
    kind = kind_of(key)
    if isinstance(container, list) and kind in _NUMBERS:
        if not math.isfinite(key) or int(key) != key:
            raise Failed(f"a list has no index {shown(key)}")
        if not 0 <= key < len(container):
            raise Failed(f"index out of bounds: {shown(key)} in a list of {len(container)}")
        return container[int(key)]
    raise Failed(f"no such overload: {kind_of(container)}[{kind}], looking for {shown(key)}")


def is_in(item: Any, container: Any) -> bool:
    """`item in container`: an element of a list, or a key of a map."""
    if isinstance(container, Mapping):
        return bool(_stored(container, item))
    if isinstance(container, list):
        return any(equal(item, element) for element in container)
    raise Failed(f"no such overload: {kind_of(item)} in {kind_of(container)}")


def has(container: Any, field: str) -> bool:
    """`has(container.field)`: true for a null too."""
    if isinstance(container, Mapping):
        return field in container
    raise Failed(f"no such overload: has(_.{field}) of a {kind_of(container)}")


def either(results: "list[Any]") -> Any:
    """`||` of values, some of which may be `Failed`; returns a bool or a `Failed`."""
    return _combined(results, decides=True, symbol="||")


def both(results: "list[Any]") -> Any:
    """`&&`, as `either`."""
    return _combined(results, decides=False, symbol="&&")


def _combined(results: "list[Any]", *, decides: bool, symbol: str) -> Any:
    failure: Failed | None = None
    for result in results:
        if result is decides:
            return decides
        if not isinstance(result, bool) and failure is None:
            failure = result if isinstance(result, Failed) else not_a_bool(result, symbol)
    return not decides if failure is None else failure


def not_a_bool(value: Any, where: str) -> Failed:
    """The failure of a value that stands where a bool must."""
    return Failed(f"no such overload: {where} needs a bool, got a {kind_of(value)}")


def shown(value: Any) -> str:
    """A value in a message, short."""
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def checked_string(text: str) -> str:
    """The text, if it is not too long."""
    if len(text) > MAX_CHARACTERS:
        raise too_long(len(text))
    return text


def too_long(characters: int) -> Failed:
    """The failure of a string of that many characters."""
    return Failed(f"a string of {characters:,} characters: an expression may build {MAX_CHARACTERS:,}")


def checked_list(items: "list[Any]") -> "list[Any]":
    """The list, if it is not too long."""
    if len(items) > MAX_ITEMS:
        raise Failed(f"a list of {len(items):,} items: an expression may build {MAX_ITEMS:,}")
    return items


def _stored(container: Mapping[Any, Any], key: Any) -> "list[Any]":
    """The key of a map that equals this one, in a list: none, or it. Python takes 1 and true for the same key, CEL does not."""
    if isinstance(key, str):
        return [key] if key in container else []
    return [stored for stored in container if not isinstance(stored, str) and equal(stored, key)]
