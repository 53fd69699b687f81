"""What can be known about an expression before it has values: that its names exist, and that its types can be right. Pure.

Types are kinds (`string`, `int`, ...), and `dyn` for what only evaluation will tell: every value that comes out of JSON is that.
"""

import difflib
from collections.abc import Iterable

from broadaxe_actors.cel.environments import Environment
from broadaxe_actors.cel.functions import CHECKSUM, CHECKSUM_DECLARED, STANDARD, STRINGS, Function, written
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
)

RESULTS = {
    "bool": frozenset({"bool"}),
    "string": frozenset({"string"}),
    "int": frozenset({"int", "uint", "double"}),
}
"""The kinds that may come out, by the type that is wanted."""

_NUMBERS = RESULTS["int"]
_RANGES = frozenset({"list", "map", "dyn"})


class CheckFailed(Exception):
    """Why an expression cannot work."""


def functions_of(environment: Environment) -> dict[str, Function]:
    """The functions that an environment has, by name."""
    place = environment.value
    functions = STANDARD | STRINGS if place.has_strings else dict(STANDARD)
    if place.checksum != "unknown":
        functions["checksum"] = CHECKSUM if place.checksum == "bound" else CHECKSUM_DECLARED
    return functions


FUNCTIONS = {environment: functions_of(environment) for environment in Environment}


def check(node: Node, environment: Environment) -> None:
    """Nothing, or `CheckFailed`."""
    kind = _Checker(environment).kind(node)
    if kind != "dyn" and kind not in RESULTS[environment.result]:
        raise CheckFailed(
            f"{_with_article(environment)} must be a {environment.result}, and this is a {kind}"
        )


class _Checker:
    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._functions = FUNCTIONS[environment]

    def kind(self, node: Node) -> str:  # noqa: C901 - one case a kind of node
        """The type of the node."""
        match node:
            case Literal(_, kind):
                return kind
            case Path(segments):
                return self._path(str(segments[0]), len(segments))
            case Local():
                return "dyn"
            case HasPath(segments):
                self._path(str(segments[0]), len(segments))
                return "bool"
            case Has(operand, field):
                kind = self.kind(operand)
                if kind not in {"map", "dyn"}:
                    raise CheckFailed(f"a {kind} has no field {field}")
                return "bool"
            case AnyOf(items) | AllOf(items):
                for item in items:
                    self._bool(item, "||" if isinstance(node, AnyOf) else "&&")
                return "bool"
            case Conditional(condition, yes, no):
                self._bool(condition, "?:")
                kinds = {self.kind(yes), self.kind(no)}
                return kinds.pop() if len(kinds) == 1 else "dyn"
            case Macro():
                return self._macro(node)
            case _:
                return self._call(node)

    def _path(self, name: str, length: int) -> str:
        variables = self._environment.variables
        if name not in variables:
            if name in self._functions:
                raise CheckFailed(f"{name} is a function, and needs its arguments in parentheses")
            raise CheckFailed(
                f"there is no variable {name} in {_with_article(self._environment)}{_hint(name, variables)}"
            )
        if variables[name] == "string":
            if length > 1:
                raise CheckFailed(f"{name} is a string, which has no fields")
            return "string"
        return "map" if length == 1 else "dyn"

    def _bool(self, node: Node, where: str) -> None:
        kind = self.kind(node)
        if kind not in {"bool", "dyn"}:
            raise CheckFailed(f"{where} needs a bool, and is given a {kind}")

    def _macro(self, node: Macro) -> str:
        kind = self.kind(node.over)
        if kind not in _RANGES:
            raise CheckFailed(f"{node.name}() needs a list or a map, and is given a {kind}")
        if node.name == "map":
            self.kind(node.body)
            return "list"
        self._bool(node.body, f"{node.name}()")
        return "list" if node.name == "filter" else "bool"

    def _call(self, node: Call) -> str:
        kinds = [self.kind(argument) for argument in node.arguments]
        if node.name in {"[]", "{}"}:
            if node.name == "{}" and any(
                kind not in {"string", "int", "uint", "bool", "dyn"} for kind in kinds[::2]
            ):
                raise CheckFailed("the keys of a map are strings, ints or bools")
            return "list" if node.name == "[]" else "map"
        function = self._functions.get(node.name)
        if function is None:
            if node.name in STRINGS or node.name == "checksum":
                raise CheckFailed(f"there is no function {node.name} in {_with_article(self._environment)}")
            raise CheckFailed(f"there is no function {node.name}{_hint(node.name, self._functions)}")
        fitting = [
            overload
            for overload in function.overloads
            if overload.is_member == node.is_member and overload.fits(kinds)
        ]
        if not fitting or (node.name in {"_==_", "_!=_"} and not _comparable(*kinds)):
            raise CheckFailed(f"no such overload: {written(node.name, kinds, is_member=node.is_member)}")
        results = {overload.result for overload in fitting}
        return results.pop() if len(results) == 1 else "dyn"


def _with_article(environment: Environment) -> str:
    name = environment.value.name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _comparable(a: str, b: str) -> bool:
    return a == b or not {"dyn", "null_type"}.isdisjoint({a, b}) or {a, b} <= _NUMBERS


def _hint(name: str, known: Iterable[str]) -> str:
    """What the name may have been meant to be."""
    names = sorted(
        candidate
        for candidate in known
        if candidate.replace(".", "").isidentifier() and not candidate.startswith("_")
    )
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(names)}" if len(names) < 8 else ""
