"""Inputs and outputs between Python values and JSON text, by the types that users declare. Errors name the task.

Pydantic models, dataclasses, TypedDicts, and anything else that pydantic can validate. Values are written by pydantic's own writer,
which knows dates, UUIDs, enums and the like.
"""

import re
import sys
import types
import typing
import warnings
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NotRequired

import typing_extensions
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from broadaxe._annotations import UNKNOWN
from broadaxe._errors import BroadaxeError, DefinitionError, InvalidInputError, InvalidOutputError
from broadaxe._types import EmptyModel

if TYPE_CHECKING:
    from broadaxe._task import Task

# An odd number of backslashes before u0000: an escaped NUL, which no database text can hold.
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
EMPTY_OBJECT = b"{}"


class Shape:
    """What a declared type accepts and how it is written. `UNKNOWN` accepts anything."""

    def __init__(self, declared: Any, where: str) -> None:
        self.declared = declared
        self.where = where
        """How errors call it, such as `the input of task 'x'`."""
        self._is_open = declared in (UNKNOWN, Any)

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Raises `DefinitionError` for a type that cannot be validated."""
        if self._is_open:
            return _anything()
        try:
            return TypeAdapter(_portable(self.declared))
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise DefinitionError(
                f"{self.where} is declared as {self.declared!r}, which cannot be validated: use a pydantic model, a dataclass, a "
                f"TypedDict, or types of the standard library ({str(error).splitlines()[0]})"
            ) from error

    @property
    def is_empty_model(self) -> bool:
        return self.declared is EmptyModel

    def dump_given(self, value: Any) -> bytes:
        """JSON text of a value that a user gave for this type; one of another type is validated first."""
        if type(value) is not self.declared and not self._is_open:
            try:
                value = self.adapter.validate_python({} if value is None else value)
            except ValidationError as error:
                raise InvalidInputError(f"{self.where} does not fit: {_first_problems(error)}") from error
        return dump(value, self.where, InvalidInputError)

    def parse(self, raw: bytes, error_type: type[BroadaxeError]) -> Any:
        """The value in JSON text; nothing at all stands for null, or for an empty object where null does not fit."""
        try:
            if raw and raw not in {b"null", EMPTY_OBJECT}:
                return self.adapter.validate_json(raw)
            return self._nothing if raw != EMPTY_OBJECT else self._empty
        except ValidationError as error:
            raise error_type(f"{self.where} does not fit: {_first_problems(error)}") from error

    @property
    def _nothing(self) -> Any:
        try:
            return self.adapter.validate_python(None)
        except ValidationError:
            return self.adapter.validate_json(EMPTY_OBJECT)

    @property
    def _empty(self) -> Any:
        """The value for an empty object. An engine sends it, too, for a task that returned nothing."""
        try:
            return self.adapter.validate_json(EMPTY_OBJECT)
        except ValidationError as error:
            try:
                return self.adapter.validate_python(None)
            except ValidationError:
                raise error from None

    def json_schema(self) -> bytes | None:
        """The type as JSON schema, None where it has none to tell."""
        if self._is_open or self.is_empty_model:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return to_json(self.adapter.json_schema())
            except PydanticUserError:
                return None  # validates, but has no schema (an arbitrary class with a validator, say)


@cache
def _anything() -> TypeAdapter[Any]:
    """Made once: to make it takes longer than to parse most outputs, and each result of a workflow asks for it."""
    return TypeAdapter(Any)


def _portable(declared: Any) -> Any:
    """The type with each TypedDict of `typing` made one of `typing_extensions`: before Python 3.12 pydantic takes only those."""
    if sys.version_info >= (3, 12):
        return declared
    if typing.is_typeddict(declared) and not hasattr(declared, "__pydantic_core_schema__"):
        fields = {
            name: (kind if name in declared.__required_keys__ else NotRequired[kind])
            for name, kind in (
                (name, _portable(kind)) for name, kind in typing.get_type_hints(declared).items()
            )
        }
        return typing_extensions.TypedDict(declared.__name__, fields)  # type: ignore[operator]
    arguments = typing.get_args(declared)
    changed = tuple(_portable(argument) for argument in arguments)
    if changed == arguments:
        return declared
    origin: Any = typing.get_origin(declared)
    return typing.Union[changed] if origin in (typing.Union, types.UnionType) else origin[changed]  # noqa: UP007


def plain_object(raw: bytes, where: str) -> dict[str, Any]:
    """The object that a JSON text holds. Raises `InvalidInputError` for any other value."""
    value = from_json(raw)
    if not isinstance(value, dict):
        raise InvalidInputError(f"{where} is no object but {value!r}")
    return value


def checked_json(value: Any, where: str) -> dict[str, Any]:
    """A mapping as what JSON can hold. Raises `InvalidInputError` naming `where`."""
    return plain_object(dump(value, where, InvalidInputError), where)


def dump(value: Any, where: str, error_type: type[BroadaxeError]) -> bytes:
    """JSON text of any value. Raises `error_type` naming `where` for one that JSON cannot hold."""
    try:
        raw = to_json(value)
    except (PydanticSerializationError, RecursionError, ValueError) as error:
        raise error_type(f"{where} cannot be written as JSON: {error}") from error
    if b"NaN" in raw or b"Infinity" in raw:
        try:
            from_json(raw, allow_inf_nan=False)
        except ValueError as error:
            raise error_type(
                f"{where} cannot be written as JSON: it holds a NaN or an infinite number"
            ) from error
    if b"\\u0000" in raw and _ESCAPED_NUL.search(raw):
        raise error_type(f"{where} holds a NUL character (U+0000), which the engine cannot store")
    return raw


def parse_input(task: "Task[Any, Any]", raw: bytes) -> Any:
    """The input object of a task from JSON text. Raises `InvalidInputError`."""
    return task.input_shape.parse(raw or EMPTY_OBJECT, InvalidInputError)


def dump_output(task: "Task[Any, Any]", value: Any) -> bytes:
    """JSON text of what a task returned; `b""` for None. Raises `InvalidOutputError`."""
    if value is None:
        return b""
    return dump(value, task.output_shape.where, InvalidOutputError)


def parse_output(task: "Task[Any, Any]", raw: bytes) -> Any:
    """What a task returned, as its declared return type. Raises `InvalidOutputError`."""
    return task.output_shape.parse(raw, InvalidOutputError)


def _first_problems(error: ValidationError, limit: int = 5) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=True)
    told = [
        f"{'.'.join(map(str, problem['loc'])) or 'value'}: {problem['msg']} (got {problem['input']!r:.80})"
        for problem in problems[:limit]
    ]
    rest = len(problems) - limit
    return "; ".join(told) + (f"; and {rest} more" if rest > 0 else "")
