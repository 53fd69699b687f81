"""Reads any expression with the library's grammar, into nodes. The library is imported by the first call.

Each refusal is a `SyntaxFailed` with the cause; a text of any shape ends in nodes or in that, with bounded recursion.
"""

import importlib
import re
from functools import cache
from typing import Any

from broadaxe_actors.cel.nodes import (
    RELATIONS,
    TYPE_NAMES,
    Call,
    Conditional,
    Literal,
    Local,
    Macro,
    Node,
    Path,
    all_of,
    any_of,
    has_field,
    select,
)
from broadaxe_actors.cel.operators import INT_RANGE, UINT_RANGE, TypeName, Uint

MAX_DEPTH = 100
"""Of nested parentheses, calls, operators of one rank in a row and the like; `&&` and `||` count once however many they join."""
MAX_TOKENS = 1_000
"""Names, literals and symbols; the library needs some 70 us for each, and compiling happens on the event loop."""
MAX_MACROS = 30
"""In one expression, one inside or after the other; each costs the library's runner several Python calls of depth."""
MACROS = frozenset({"all", "exists", "exists_one", "map", "filter"})

_SYMBOLS = {
    **{
        f"relation_{name}": RELATIONS[symbol]
        for name, symbol in zip(
            ("lt", "le", "gt", "ge", "eq", "ne"), ["<", "<=", ">", ">=", "==", "!="], strict=True
        )
    },
    "relation_in": "_in_",
    "addition_add": "_+_",
    "addition_sub": "_-_",
    "multiplication_mul": "_*_",
    "multiplication_div": "_/_",
    "multiplication_mod": "_%_",
}
_WRAPPERS = frozenset(
    {
        "expr",
        "conditionalor",
        "conditionaland",
        "relation",
        "addition",
        "multiplication",
        "unary",
        "member",
        "primary",
        "paren_expr",
    }
)
_ESCAPE = re.compile(
    r"\\(?:(?P<letter>[abfnrtv\"'`?\\])|[xX](?P<byte>[0-9a-fA-F]{2})|u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8})"
    r"|(?P<octal>[0-3][0-7]{2})|(?P<bad>.?))",
    re.DOTALL,
)
_ROUGH_TOKEN = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|\w+|[=!<>&|]{2}|[^\s\w]")
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class SyntaxFailed(Exception):
    """Why a text is no expression."""


@cache
def _parser() -> Any:
    celpy = importlib.import_module("celpy.celparser")
    evaluation = importlib.import_module("celpy.evaluation")
    return celpy.CELParser(tree_class=evaluation.TranspilerTree), celpy.CELParseError


def parse(text: str) -> Node:
    """The nodes of the expression."""
    tokens = sum(1 for _ in _ROUGH_TOKEN.finditer(text))
    if tokens > MAX_TOKENS:
        raise SyntaxFailed(
            f"it has about {tokens:,} names, literals and symbols, and may have {MAX_TOKENS:,}"
        )
    parser, parse_error = _parser()
    try:
        tree = parser.parse(text)
    except parse_error as failure:
        where = (
            "at its end"
            if failure.line is None or failure.line < 0
            else f"at line {failure.line}, column {failure.column}"
        )
        raise SyntaxFailed(f"syntax error {where}") from None
    return _Converter().node(tree, 0)


class _Converter:
    """Turns the library's tree, of up to ten levels for each that was written, into nodes."""

    def __init__(self) -> None:
        self._scope: list[str] = []
        self._macros = 0

    def node(self, tree: Any, depth: int) -> Node:  # noqa: C901 - one case a rule of the grammar
        tree = _unwrapped(tree)
        if depth > MAX_DEPTH:
            raise SyntaxFailed(f"it nests deeper than {MAX_DEPTH} levels")
        kind = str(tree.data)
        parts = tree.children
        match kind:
            case "literal":
                return _literal(parts[0])
            case "ident" | "dot_ident":
                return self._name(str(parts[0]))
            case "ident_arg" | "dot_ident_arg":
                return self._call(str(parts[0]), None, _arguments(parts[1:]), depth)
            case "member_dot":
                return select(self.node(parts[0], depth + 1), Literal(str(parts[1]), "string"), is_field=True)
            case "member_index":
                return select(self.node(parts[0], depth + 1), self.node(parts[1], depth + 1))
            case "member_dot_arg":
                return self._call(str(parts[1]), parts[0], _arguments(parts[2:]), depth)
            case "conditionalor" | "conditionaland":
                items = [self.node(item, depth + 1) for item in _chain(tree, kind)]
                return (any_of if kind == "conditionalor" else all_of)(items)
            case "expr":
                return Conditional(*[self.node(part, depth + 1) for part in parts])
            case "relation" | "addition" | "multiplication":
                operator = parts[0]
                operands = (self.node(operator.children[0], depth + 1), self.node(parts[1], depth + 1))
                return Call(_SYMBOLS[str(operator.data)], operands)
            case "unary":
                return Call("!_" if parts[0].data == "unary_not" else "-_", (self.node(parts[1], depth + 1),))
            case "list_lit":
                return Call("[]", tuple(self.node(part, depth + 1) for part in _arguments(parts)))
            case "map_lit":
                return Call("{}", tuple(self.node(part, depth + 1) for part in _arguments(parts)))
            case _:
                raise SyntaxFailed("it builds a message, and no message types exist here")

    def _name(self, name: str) -> Node:
        for depth, bound in reversed(list(enumerate(self._scope))):
            if bound == name:
                return Local(depth)
        return Literal(TypeName(name), "type") if name in TYPE_NAMES else Path((name,))

    def _call(self, name: str, receiver: Any, arguments: list[Any], depth: int) -> Node:
        if receiver is None:
            if name == "has":
                return self._has(arguments, depth)
            return Call(name, tuple(self.node(argument, depth + 1) for argument in arguments))
        if name in MACROS:
            return self._macro(name, receiver, arguments, depth)
        if name == "quote" and self._is_name(receiver, "strings"):
            return Call("strings.quote", tuple(self.node(argument, depth + 1) for argument in arguments))
        nodes = (self.node(receiver, depth + 1), *[self.node(argument, depth + 1) for argument in arguments])
        return Call(name, nodes, is_member=True)

    def _is_name(self, tree: Any, name: str) -> bool:
        tree = _unwrapped(tree)
        return tree.data == "ident" and str(tree.children[0]) == name and name not in self._scope

    def _has(self, arguments: list[Any], depth: int) -> Node:
        tested = _unwrapped(arguments[0]) if len(arguments) == 1 else None
        if tested is None or tested.data != "member_dot":
            raise SyntaxFailed("has() takes one selection of a field, as has(input.name)")
        return has_field(self.node(tested.children[0], depth + 1), str(tested.children[1]))

    def _macro(self, name: str, receiver: Any, arguments: list[Any], depth: int) -> Node:
        wanted = (2, 3) if name == "map" else (2,)
        bound = _unwrapped(arguments[0]) if arguments else None
        if len(arguments) not in wanted or bound is None or bound.data != "ident":
            raise SyntaxFailed(
                f"{name}() takes the name of a variable and what to do with it, as list.{name}(item, item.size)"
            )
        self._macros += 1
        if self._macros > MAX_MACROS:
            raise SyntaxFailed(f"it holds more than {MAX_MACROS} macros ({', '.join(sorted(MACROS))})")
        over = self.node(receiver, depth + 1)
        here = len(self._scope)
        self._scope.append(str(bound.children[0]))
        bodies = [self.node(body, depth + 1) for body in arguments[1:]]
        self._scope.pop()
        if len(bodies) == 2:
            over = Macro("filter", over, here, bodies[0])
        return Macro(name, over, here, bodies[-1])


def _unwrapped(tree: Any) -> Any:
    """The first tree below that stands for something written; parentheses are no such thing."""
    while tree.data in _WRAPPERS and len(tree.children) == 1:
        tree = tree.children[0]
    return tree


def _chain(tree: Any, kind: str) -> list[Any]:
    """The operands of a row of `||` or of `&&`, which the grammar nests to the left."""
    items: list[Any] = []
    while tree.data == kind and len(tree.children) == 2:
        items.append(tree.children[1])
        tree = tree.children[0]
    items.append(tree)
    return items[::-1]


def _arguments(parts: list[Any]) -> list[Any]:
    return list(parts[0].children) if parts else []


def _literal(token: Any) -> Literal:
    text = str(token)
    match token.type:
        case "BOOL_LIT":
            return Literal(text == "true", "bool")
        case "NULL_LIT":
            return Literal(None, "null_type")
        case "FLOAT_LIT":
            return Literal(float(text), "double")
        case "INT_LIT":
            return Literal(_integer(text, INT_RANGE), "int")
        case "UINT_LIT":
            return Literal(Uint(_integer(text[:-1], UINT_RANGE)), "uint")
        case "BYTES_LIT":
            is_raw = text[1] in "rR"
            return Literal(
                _unescaped(text[2:] if is_raw else text[1:], is_raw=is_raw, is_bytes=True), "bytes"
            )
        case _:
            is_raw = text[0] in "rR"
            return Literal(_unescaped(text[1:] if is_raw else text, is_raw=is_raw, is_bytes=False), "string")


def _integer(text: str, bounds: tuple[int, int]) -> int:
    is_hexadecimal = text.lstrip("-").lower().startswith("0x")
    if len(text) > 40 or not bounds[0] <= (value := int(text, 16 if is_hexadecimal else 10)) < bounds[1]:
        raise SyntaxFailed(f"the number {text[:40]} does not fit into 64 bits")
    return value


def _unescaped(text: str, *, is_raw: bool, is_bytes: bool) -> str | bytes:
    body = text[3:-3] if len(text) >= 6 and text[:3] in {"'''", '"""'} else text[1:-1]
    if is_raw or "\\" not in body:
        return body.encode() if is_bytes else body
    if not is_bytes:
        return _ESCAPE.sub(lambda match: _code(match, is_bytes=False), body)
    parts, position = [], 0
    for match in _ESCAPE.finditer(body):
        parts += [body[position : match.start()].encode(), _code(match, is_bytes=True).encode("latin-1")]
        position = match.end()
    return b"".join(parts) + body[position:].encode()


def _code(match: re.Match[str], *, is_bytes: bool) -> str:
    """What an escape sequence stands for."""
    if match["letter"]:
        return _LETTERS.get(match["letter"], match["letter"])
    digits = match["byte"] or match["short"] or match["long"]
    if match["bad"] is not None or (is_bytes and (match["short"] or match["long"])):
        raise SyntaxFailed(
            f"{match.group()!r} is no escape sequence; a backslash in a string is written \\\\"
        )
    code = int(match["octal"], 8) if match["octal"] else int(digits, 16)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise SyntaxFailed(f"{match.group()} is no character")
    return chr(code)
