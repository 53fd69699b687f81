"""Reads the expressions that most definitions hold: paths, comparisons of them with literals, `!`, `&&`, `||`, `has`. Pure.

It is an exact part of CEL: what it reads, the library's parser reads into the same nodes (a property test holds them together), and
what it does not know it leaves alone. It saves the library's import and some 99 % of the time to compile.
"""

import re
from typing import NamedTuple

from broadaxe_actors.cel.nodes import (
    RELATIONS,
    TYPE_NAMES,
    Call,
    HasPath,
    Literal,
    Node,
    Path,
    all_of,
    any_of,
    select,
)

MAX_DEPTH = 20
_TOKEN = re.compile(
    r"""[\t\n\f\r ]*(?:
        (?P<double>-?[0-9]{1,15}\.[0-9]{1,15}(?![\w.]))
        |(?P<int>-?[0-9]{1,18}(?![\w.]))
        |(?P<string>'[^'\\\n\r]*'|"[^"\\\n\r]*")
        |(?P<word>[_a-zA-Z][_a-zA-Z0-9]*)
        |(?P<symbol>==|!=|<=|>=|&&|\|\||[<>!().\[\]])
    )""",
    re.VERBOSE | re.ASCII,
)
_CONSTANTS = {
    "true": Literal(True, "bool"),
    "false": Literal(False, "bool"),
    "null": Literal(None, "null_type"),
}


class _Token(NamedTuple):
    kind: str
    text: str


_END = _Token("end", "")


class _NotSimple(Exception):
    """The text holds something that is left to the library."""


def parse(text: str) -> Node | None:
    """The expression, or None if it is not of the simple kind, or none at all."""
    try:
        return _Reader(text).whole()
    except _NotSimple:
        return None


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[_Token] = []
        self._at = 0
        self._depth = 0
        text = text.rstrip("\t\n\f\r ")
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise _NotSimple
            assert match.lastgroup is not None
            self._tokens.append(_Token(match.lastgroup, match[match.lastgroup]))
            position = match.end()
        self._tokens.append(_END)

    def whole(self) -> Node:
        node = self._either()
        if self._tokens[self._at] is not _END:
            raise _NotSimple
        return node

    def _is_next(self, symbol: str) -> bool:
        """Whether the next token is this symbol; if so, it is taken."""
        if self._tokens[self._at] == ("symbol", symbol):
            self._at += 1
            return True
        return False

    def _expect(self, symbol: str) -> None:
        if not self._is_next(symbol):
            raise _NotSimple

    def _either(self) -> Node:
        items = [self._both()]
        while self._is_next("||"):
            items.append(self._both())
        return any_of(items) if len(items) > 1 else items[0]

    def _both(self) -> Node:
        items = [self._relation()]
        while self._is_next("&&"):
            items.append(self._relation())
        return all_of(items) if len(items) > 1 else items[0]

    def _relation(self) -> Node:
        left = self._operand()
        kind, symbol = self._tokens[self._at]
        if kind != "symbol" or symbol not in RELATIONS:
            return left
        self._at += 1
        node = Call(RELATIONS[symbol], (left, self._operand()))
        kind, symbol = self._tokens[self._at]
        if kind == "symbol" and symbol in RELATIONS:  # a chain
            raise _NotSimple
        return node

    def _operand(self) -> Node:
        kind, text = self._tokens[self._at]
        self._at += 1
        match kind:
            case "string":
                return Literal(text[1:-1], "string")
            case "int":
                return Literal(int(text), "int")
            case "double":
                return Literal(float(text), "double")
            case "word" if text in _CONSTANTS:
                return _CONSTANTS[text]
            case "word" if text == "has":
                return self._has()
            case "word":
                return self._path(text)[0]
            case "symbol" if text in {"!", "("}:
                return self._nested(text)
            case _:
                raise _NotSimple

    def _nested(self, opening: str) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _NotSimple
        if opening == "!":
            node: Node = Call("!_", (self._operand(),))
        else:
            node = self._either()
            self._expect(")")
        self._depth -= 1
        return node

    def _path(self, variable: str) -> tuple[Node, bool]:
        """The path that begins with this word, and whether it ends with `.field`."""
        if variable == "in" or variable in TYPE_NAMES:
            raise _NotSimple
        node: Node = Path((variable,))
        ends_with_field = False
        while True:
            if self._is_next("."):
                kind, text = self._tokens[self._at]
                if kind != "word" or text in _CONSTANTS or text == "in":
                    raise _NotSimple
                node, ends_with_field = select(node, Literal(text, "string"), is_field=True), True
            elif self._is_next("["):
                kind, text = self._tokens[self._at]
                if kind not in {"string", "int"}:
                    raise _NotSimple
                key = Literal(text[1:-1], kind) if kind == "string" else Literal(int(text), kind)
                node, ends_with_field = select(node, key), False
            else:
                return node, ends_with_field
            self._at += 1
            if not ends_with_field:
                self._expect("]")

    def _has(self) -> Node:
        self._expect("(")
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind != "word" or text in _CONSTANTS or text == "has":
            raise _NotSimple
        node, ends_with_field = self._path(text)
        self._expect(")")
        if not ends_with_field or not isinstance(node, Path):
            raise _NotSimple
        return HasPath(node.segments)
