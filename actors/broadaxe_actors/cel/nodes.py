"""The parts of an expression, as both parsers make them. Pure.

A way from a variable through literal keys (`input.user["id"]`, `input.items[0].id`) is one `Path`, so that evaluation can take its value
out of the parsed JSON without looking at the rest. Operators are calls of the names that CEL gives them (`_==_`). The builders keep the
two parsers at one: equal texts give equal nodes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Segment = str | int
PathKey = tuple[Segment, ...]

RELATIONS = {"==": "_==_", "!=": "_!=_", "<": "_<_", "<=": "_<=_", ">": "_>_", ">=": "_>=_", "in": "_in_"}
TYPE_NAMES = frozenset(
    {"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"}
)


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; `kind` is its CEL type, for Python holds that 1 == 1.0 == True."""

    value: Any
    kind: str


@dataclass(frozen=True, slots=True)
class Path:
    """A variable, or what literal keys and indexes lead to from it."""

    segments: PathKey


@dataclass(frozen=True, slots=True)
class Local:
    """The variable of a macro that surrounds it; `depth` counts those macros from the outermost, so that names need not differ."""

    depth: int


@dataclass(frozen=True, slots=True)
class HasPath:
    """`has(...)` of a path, whose last segment is the field."""

    segments: PathKey


@dataclass(frozen=True, slots=True)
class Has:
    """`has(operand.field)` of another operand."""

    operand: "Node"
    field: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function, operator, selection (`_[_]`), list (`[]`) or map (`{}`); the receiver is the first argument."""

    name: str
    arguments: tuple["Node", ...]
    is_member: bool = False


@dataclass(frozen=True, slots=True)
class AnyOf:
    """`a || b || ...`: true if one is true, whatever the others are; else the error of one that failed; else false."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """`a && b && ...`: false if one is false, whatever the others are; else the error of one that failed; else true."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Conditional:
    """`condition ? yes : no`."""

    condition: "Node"
    yes: "Node"
    no: "Node"


@dataclass(frozen=True, slots=True)
class Macro:
    """`over.name(x, body)`; `depth` is that of its `Local`."""

    name: str
    over: "Node"
    depth: int
    body: "Node"


Node = Literal | Path | Local | HasPath | Has | Call | AnyOf | AllOf | Conditional | Macro


def select(operand: Node, key: Node, *, is_field: bool = False) -> Node:
    """`operand[key]`, or `operand.key`: a longer path where it can be one."""
    if isinstance(operand, Path) and isinstance(key, Literal) and key.kind in {"string", "int"}:
        return Path((*operand.segments, key.value))
    return Call("_._" if is_field else "_[_]", (operand, key))


def has_field(operand: Node, field: str) -> Node:
    """`has(operand.field)`."""
    return HasPath((*operand.segments, field)) if isinstance(operand, Path) else Has(operand, field)


def any_of(items: list[Node]) -> Node:
    """`||` of the items."""
    flat = [part for item in items for part in (item.items if isinstance(item, AnyOf) else (item,))]
    return AnyOf(tuple(flat))


def all_of(items: list[Node]) -> Node:
    """`&&` of the items."""
    flat = [part for item in items for part in (item.items if isinstance(item, AllOf) else (item,))]
    return AllOf(tuple(flat))


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below."""
    match node:
        case Has(operand):
            return (operand,)
        case Call(_, arguments):
            return arguments
        case AnyOf(items) | AllOf(items):
            return items
        case Conditional(condition, yes, no):
            return (condition, yes, no)
        case Macro(_, over, _, body):
            return (over, body)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(children(node))
