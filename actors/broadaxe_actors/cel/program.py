"""An expression as a program of the library's `CompiledRunner`. Imported, and the library with it, for the first that needs one.

The library writes Python from its tree. Ours is a tree that we build from checked nodes: variables, constants and functions are names
that we give (`p0`, `t0`, `k0`, `v0`), so that no name or literal of a user gets into that Python; and every operator is a call of `bound`.
"""

import logging
import sys
from collections.abc import Callable
from types import CodeType, SimpleNamespace
from typing import Any

import celpy
import celpy.evaluation
from celpy.evaluation import CELEvalError, TranspilerTree
from lark import Token

import broadaxe_actors.cel.bound
from broadaxe_actors.cel.functions import Function
from broadaxe_actors.cel.nodes import (
    AllOf,
    AnyOf,
    Call,
    Conditional,
    Has,
    HasPath,
    Literal,
    Local,
    Macro,
    Node,
    Path,
    PathKey,
)
from broadaxe_actors.cel.operators import Failed
from broadaxe_actors.cel.values import Values

_BOUND = broadaxe_actors.cel.bound
_LIBRARY = {
    "call": _BOUND.call,
    "either": _BOUND.either,
    "both": _BOUND.both,
    "choose": _BOUND.choose,
    "has field": _BOUND.has,  # `has` itself is a macro of the library
    "[]": _BOUND.make_list,
    "{}": _BOUND.make_map,
    "over": _BOUND.over,
    "pair": _BOUND.pair,
    "fold": _BOUND.fold,
}


def _environment() -> Any:
    """The library's environment; making it raises the interpreter's recursion limit, which is not for it to decide."""
    limit = sys.getrecursionlimit()
    try:
        return celpy.Environment(runner_class=celpy.CompiledRunner)
    finally:
        sys.setrecursionlimit(limit)


_ENVIRONMENT = _environment()
logging.getLogger("celpy").setLevel(
    logging.CRITICAL
)  # a user's mistake is answered to the user, and not logged here


class _Names(SimpleNamespace):
    """The library's activation, as small as its compiled programs need it: names, and more names inside a macro."""

    def nested_activation(self, vars: dict[str, Any]) -> "_Names":  # noqa: A002 - the library's name
        return _Names(**self.__dict__, **vars)


class Program:
    """A compiled expression; `evaluate` may be called again and again."""

    __slots__ = ("_code", "_constants", "_paths", "_tests")

    def __init__(self, node: Node, functions: dict[str, Function]) -> None:
        writer = _Writer(functions)
        tree = writer.tree(node)
        runner = celpy.CompiledRunner(_ENVIRONMENT, tree, functions=_LIBRARY)
        self._code: CodeType = runner.tp.executable_code
        self._constants = writer.constants
        self._paths = {name: path for path, name in writer.paths.items()}
        self._tests = {name: path for path, name in writer.tests.items()}

    def evaluate(self, values: Values) -> Any:
        """The result; raises `Failed`."""
        names = _Names(**self._constants)
        for name, path in self._paths.items():
            setattr(names, name, _value_or_error(values.lookup, path))
        for name, path in self._tests.items():
            setattr(names, name, _value_or_error(values.has, path))
        scope: dict[str, Any] = {
            "celpy": celpy,
            "broadaxe_actors": broadaxe_actors,
            "CELEvalError": CELEvalError,
            "base_activation": names,
        }
        exec(self._code, scope)  # noqa: S102 - as the library does it; the code holds no text of a user, see above
        result = scope["CEL"]
        if isinstance(result, CELEvalError):
            raise Failed(str(result.args[0]))
        return result


def _value_or_error(read: Callable[[PathKey], Any], path: PathKey) -> Any:
    try:
        return read(path)
    except Failed as failure:
        return CELEvalError(str(failure))


class _Writer:
    """Makes the library's tree, and collects what its names stand for."""

    def __init__(self, functions: dict[str, Function]) -> None:
        self._functions = functions
        self.constants: dict[str, Any] = {}
        self.paths: dict[PathKey, str] = {}
        self.tests: dict[PathKey, str] = {}

    def tree(self, node: Node) -> TranspilerTree:  # noqa: C901 - one case a kind of node
        match node:
            case Literal(value):
                return self._constant(value)
            case Path(segments):
                return _name(self.paths.setdefault(segments, f"p{len(self.paths)}"))
            case Local(depth):
                return _name(f"v{depth}")
            case HasPath(segments):
                return _name(self.tests.setdefault(segments, f"t{len(self.tests)}"))
            case Has(operand, field):
                return _call("has field", self.tree(operand), self._constant(field))
            case AnyOf(items):
                return _call("either", *map(self.tree, items))
            case AllOf(items):
                return _call("both", *map(self.tree, items))
            case Conditional(condition, yes, no):
                return _call("choose", self.tree(condition), self.tree(yes), self.tree(no))
            case Macro(name, over, depth, body):
                local = _name(f"v{depth}")
                made = TranspilerTree(
                    "member_dot_arg",
                    [
                        _call("over", self.tree(over)),
                        Token("IDENT", "map"),
                        TranspilerTree("exprlist", [local, _call("pair", local, self.tree(body))]),
                    ],
                )
                return _call("fold", self._constant(name), made)
            case Call("[]" | "{}" as name, items):
                return _call(name, *map(self.tree, items))
            case Call(name, arguments):
                return _call("call", self._constant(self._functions[name]), *map(self.tree, arguments))
            case _:
                raise AssertionError(node)

    def _constant(self, value: Any) -> TranspilerTree:
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return _name(name)


def _name(name: str) -> TranspilerTree:
    return TranspilerTree("ident", [Token("IDENT", name)])


def _call(name: str, *arguments: TranspilerTree) -> TranspilerTree:
    parts = [Token("IDENT", name)]
    return TranspilerTree(
        "ident_arg", [*parts, TranspilerTree("exprlist", list(arguments))] if arguments else parts
    )
