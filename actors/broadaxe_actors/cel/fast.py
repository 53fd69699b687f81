"""Evaluates simple expressions directly: paths, literals, `has`, comparisons of them, `!`, `&&` and `||`. Pure.

Everything is one call of the same functions that the library's runner calls, so that both ways give the same; a property test compares.
"""

from collections.abc import Callable
from typing import Any

from broadaxe_actors.cel import operators
from broadaxe_actors.cel.nodes import AllOf, AnyOf, Call, HasPath, Literal, Node, Path
from broadaxe_actors.cel.operators import Failed
from broadaxe_actors.cel.values import Values

Evaluation = Callable[[Values], Any]


def build(node: Node) -> Evaluation | None:
    """A function from values to the result, which raises `Failed`; None if the node holds anything that is not simple."""
    match node:
        case Literal(value):
            return lambda _: value
        case Path(segments):
            return lambda values: values.lookup(segments)
        case HasPath(segments):
            return lambda values: values.has(segments)
        case Call("!_", (operand,)):
            inner = build(operand)
            return None if inner is None else lambda values: operators.is_not(inner(values))
        case Call(name, (left, right)) if name in operators.COMPARISONS:
            return _comparison(operators.COMPARISONS[name], build(left), build(right))
        case AnyOf(items):
            return _combination(items, decides=True, combine=operators.either)
        case AllOf(items):
            return _combination(items, decides=False, combine=operators.both)
        case _:
            return None


def _comparison(
    compare: Callable[[Any, Any], bool], left: Evaluation | None, right: Evaluation | None
) -> Evaluation | None:
    if left is None or right is None:
        return None
    return lambda values: compare(left(values), right(values))


def _combination(
    items: tuple[Node, ...], *, decides: bool, combine: Callable[[list[Any]], Any]
) -> Evaluation | None:
    built = [build(item) for item in items]
    parts = [part for part in built if part is not None]
    if len(parts) < len(built):
        return None

    def run(values: Values) -> Any:
        results: list[Any] = []
        for part in parts:
            try:
                result = part(values)
            except Failed as failure:
                result = failure
            if result is decides:
                return decides
            results.append(result)
        combined = combine(results)
        if isinstance(combined, Failed):
            raise combined
        return combined

    return run
