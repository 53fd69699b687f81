"""The string functions: the extension library that Google's implementation for Go calls `strings`, and `checksum`. Pure.

Indexes count code points. What is out of range is an error, as there; a `limit` below zero means no limit.
"""

import hashlib
import re
from typing import Any

from broadaxe_actors.cel.numbers import plain_double, show
from broadaxe_actors.cel.operators import (
    MAX_CHARACTERS,
    Failed,
    checked_list,
    checked_string,
    kind_of,
    too_long,
)

_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_UPPER = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}
_SURROGATE = re.compile("[\ud800-\udfff]")
_CLAUSE = re.compile(r"%(?:(%)|(?:\.(\d{1,3}))?([a-zA-Z])|(.?))", re.DOTALL)


def well_formed(text: str) -> str:
    """The text with half surrogate pairs, which JSON can write and UTF-8 cannot, replaced by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def checksum(text: str) -> str:
    """SHA-256 of the text as UTF-8, in lower-case hexadecimal."""
    return hashlib.sha256(well_formed(text).encode()).hexdigest()


def char_at(text: str, index: int) -> str:
    if not 0 <= index <= len(text):
        raise Failed(f"index out of range: {index}")
    return text[index : index + 1]


def index_of(text: str, part: str, offset: int = 0) -> int:
    if offset < 0:
        raise Failed(f"index out of range: {offset}")
    return offset if not part else text.find(part, offset)


def last_index_of(text: str, part: str, offset: int | None = None) -> int:
    if offset is None:
        return text.rfind(part)
    if offset < 0:
        raise Failed(f"index out of range: {offset}")
    if offset >= len(text):
        return -1
    return text.rfind(part, 0, offset + len(part))


def join(parts: list[Any], separator: str = "") -> str:
    for part in parts:
        if not isinstance(part, str):
            raise Failed(f"no such overload: join of a list with a {kind_of(part)}")
    length = sum(map(len, parts)) + len(separator) * max(len(parts) - 1, 0)
    if length > MAX_CHARACTERS:
        raise too_long(length)
    return separator.join(parts)


def lower_ascii(text: str) -> str:
    return text.translate(_LOWER)


def upper_ascii(text: str) -> str:
    return text.translate(_UPPER)


def replace(text: str, old: str, new: str, limit: int = -1) -> str:
    count = len(text) + 1 if not old else text.count(old)
    count = count if limit < 0 else min(count, limit)
    length = len(text) + count * (len(new) - len(old))
    if length > MAX_CHARACTERS:
        raise too_long(length)
    return text.replace(old, new, count)


def split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if separator:
        return checked_list(text.split(separator, -1 if limit < 0 else limit - 1))
    if limit < 0 or limit >= len(text):
        return checked_list(list(text))
    return checked_list([*text[: limit - 1], text[limit - 1 :]])


def substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if not 0 <= start <= len(text) or not 0 <= stop <= len(text):
        raise Failed(f"index out of range: substring from {start} to {stop} of {len(text)} characters")
    if start > stop:
        raise Failed(f"invalid substring range. start: {start}, end: {stop}")
    return text[start:stop]


def trim(text: str) -> str:
    return text.strip(_SPACE)


def reverse(text: str) -> str:
    return text[::-1]


def quote(text: str) -> str:
    """The text as a literal, in double quotes."""
    escapes = {
        "\a": "\\a",
        "\b": "\\b",
        "\f": "\\f",
        "\n": "\\n",
        "\r": "\\r",
        "\t": "\\t",
        "\v": "\\v",
        "\\": "\\\\",
        '"': '\\"',
    }
    return checked_string('"' + "".join(escapes.get(letter, letter) for letter in well_formed(text)) + '"')


def format_(template: str, arguments: list[Any]) -> str:
    """`template` with its clauses (%s %d %f %e %b %x %X %o, with a precision for %f and %e, and %%) filled in turn."""
    waiting = iter(arguments)
    used = 0
    parts: list[str] = []
    length = position = 0
    for match in _CLAUSE.finditer(template):
        percent, precision, clause, _ = match.groups()
        if percent:
            text = "%"
        elif clause is None:
            raise Failed(f"could not parse formatting clause: {match.group()!r}")
        else:
            if used >= len(arguments):
                raise Failed(f"index {used} out of range: format has {len(arguments)} arguments")
            used += 1
            text = _clause(clause, None if precision is None else int(precision), next(waiting))
        parts += (template[position : match.start()], text)
        position = match.end()
        length += len(parts[-1]) + len(parts[-2])
        if length > MAX_CHARACTERS:
            raise too_long(length)
    return checked_string("".join(parts) + template[position:])


def _clause(clause: str, precision: int | None, value: Any) -> str:
    kind = kind_of(value)
    is_int = kind in {"int", "uint"}
    match clause:
        case "s":
            return _shown(value, kind)
        case "d" if is_int:
            return str(int(value))
        case "f" | "e" if kind in {"double", "int", "uint"}:
            number = float(value)
            return (
                f"{number:.{6 if precision is None else precision}{clause}}"
                if number - number == 0
                else plain_double(number)
            )
        case "b" if is_int or kind == "bool":
            return f"{int(value):b}"
        case "o" if is_int:
            return f"{int(value):o}"
        case "x" | "X" if is_int:
            return f"{int(value):{clause}}"
        case "x" | "X" if kind in {"string", "bytes"}:
            digits = (well_formed(value).encode() if kind == "string" else value).hex()
            return digits.upper() if clause == "X" else digits
        case "d" | "f" | "e" | "b" | "o" | "x" | "X":
            raise Failed(f"error during formatting: %{clause} was given a {kind}")
        case _:
            raise Failed(f"could not parse formatting clause: unrecognized formatting clause {clause!r}")


def _shown(value: Any, kind: str) -> str:
    """The value for %s; lists and maps in full, with strings unquoted."""
    if kind == "double":
        return plain_double(value)
    if kind == "list":
        return "[" + ", ".join(_shown(item, kind_of(item)) for item in value) + "]"
    if kind == "map":
        pairs = sorted(
            (_shown(key, kind_of(key)), _shown(item, kind_of(item))) for key, item in value.items()
        )
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
    if kind == "null_type":
        return "null"
    if kind == "type":
        return str(value.name)
    return show(value)
