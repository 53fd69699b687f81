"""The values of an expression's variables: JSON, parsed when an expression first reads it, and ways into it. Pure.

Nothing is converted: JSON is parsed with every number a double, and a path is followed through the dictionaries. Only values that the
caller gives as Python objects are looked through for ints, and only those that a path leads to.
"""

import json
from collections.abc import Mapping
from typing import Any

from broadaxe_actors.cel.environments import Environment
from broadaxe_actors.cel.nodes import PathKey
from broadaxe_actors.cel.operators import Failed, has, kind_of, select, shown


def parse_json(text: bytes | str) -> Any:
    """The value, every number a double; `Failed` if it is no JSON."""
    try:
        return json.loads(text, parse_int=float, parse_constant=_no_constant)
    except RecursionError:
        raise Failed("JSON that nests too deep") from None
    except ValueError as failure:
        raise Failed(f"no valid JSON: {failure}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


class Document:
    """A JSON text that is parsed once, however many expressions read it. Make one for an event or a run, and drop it after."""

    __slots__ = ("_failure", "_value", "text")

    def __init__(self, text: bytes | str) -> None:
        self.text = text
        self._value: Any = None
        self._failure: Failed | bool | None = None
        """None before parsing, False after it went well."""

    def value(self) -> Any:
        """The parsed value; `Failed` if the text is no JSON. An empty text is null."""
        if self._failure is None:
            try:
                self._value = parse_json(self.text) if self.text else None
                self._failure = False
            except Failed as failure:
                self._failure = failure
        if isinstance(self._failure, Failed):
            raise self._failure
        return self._value


Given = Mapping[str, bytes | str | Mapping[str, Any] | Document]


def size_of(given: Given, paths: frozenset[PathKey], limit: int) -> int:
    """About how many bytes of JSON an expression that reads these paths must go through; counting may end above the limit."""
    total = 0
    for name in {str(path[0]) for path in paths}:
        value = given.get(name)
        if isinstance(value, Document):
            value = value.text
        if isinstance(value, bytes | str):
            total += len(value)
    for path in paths:
        value = given.get(str(path[0]))
        if isinstance(value, Mapping) and total <= limit:
            total += _size(_follow(value, path), limit - total)
    return total


def _follow(value: Any, path: PathKey) -> Any:
    for key in path[1:]:
        try:
            value = value[key]
        except (LookupError, TypeError):
            return None
    return value


def _size(value: Any, limit: int) -> int:
    total = 0
    waiting = [value]
    while waiting and total <= limit:
        value = waiting.pop()
        if isinstance(value, Mapping):
            total += sum(len(str(key)) + 4 for key in value)
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
            total += len(value)
        else:
            total += len(value) + 2 if isinstance(value, str) else 8
    return total


class Values:
    """What the variables of one evaluation hold."""

    __slots__ = ("_environment", "_given", "_roots")

    def __init__(self, environment: Environment, given: Given) -> None:
        self._environment = environment
        self._given = given
        self._roots: dict[str, Any] = {}

    def check(self) -> None:
        """`Failed` if the values make every expression of the environment fail."""
        if self._environment.value.needs_metadata_object:
            metadata = self._given.get("additional_metadata", b"")
            text = metadata.text if isinstance(metadata, Document) else metadata
            if isinstance(text, Mapping):
                return
            start = text.lstrip()[:4]
            if start[:1] not in {"{", b"{"} and start not in {"", b"", "null", b"null"}:
                raise Failed("additional_metadata is no JSON object")

    def root(self, name: str) -> Any:
        """The value of a variable."""
        if name not in self._roots:
            self._roots[name] = self._read(name)
        return self._roots[name]

    def _read(self, name: str) -> Any:
        kind = self._environment.variables[name]
        if kind == "absent":
            raise Failed(f"{name} cannot be read in this kind of expression")
        given = self._given.get(name)
        if kind == "string":
            if given is None:
                raise Failed(f"{name} is not known here")
            return given.decode() if isinstance(given, bytes) else given
        if isinstance(given, Mapping):
            return given
        try:
            value = given.value() if isinstance(given, Document) else parse_json(given) if given else None
        except Failed as failure:
            raise Failed(f"{name} is {failure}") from None
        if isinstance(value, dict):
            return value
        if value is None or name in self._environment.value.lenient:
            return {}
        raise Failed(f"{name} is a {kind_of(value)}, and no JSON object")

    def lookup(self, path: PathKey) -> Any:
        """What the path leads to; a missing key is an error that names the whole path."""
        value = self._follow(path)
        if isinstance(self._given.get(str(path[0])), Mapping):
            return as_cel(value)
        return value

    def has(self, path: PathKey) -> bool:
        """Whether the last step of the path leads to anything; a step before that must."""
        return has(self._follow(path[:-1]), str(path[-1]))

    def _follow(self, path: PathKey) -> Any:
        value = self.root(str(path[0]))
        for key in path[1:]:
            if type(key) is str and type(value) is dict and key in value:
                value = value[key]
            else:
                value = _step(value, key, path)
        return value


def _step(value: Any, key: Any, path: PathKey) -> Any:
    try:
        return select(list(value) if isinstance(value, tuple) else value, key)
    except Failed as failure:
        where = str(path[0]) + "".join(
            f".{part}" if isinstance(part, str) else f"[{part}]" for part in path[1:]
        )
        raise Failed(f"{failure} (reading {shown(where)[1:-1]})") from None


def as_cel(value: Any) -> Any:
    """A Python object as parsing its JSON would give it: its ints doubles, its sequences lists."""
    if isinstance(value, bool | str | float) or value is None:
        return value
    if isinstance(value, int):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): as_cel(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_cel(item) for item in value]
    raise Failed(f"a {type(value).__name__} is no JSON value")
