"""The functions that the library's runner calls, by their dotted names. Errors are values here, as the library has it."""

from typing import Any

from celpy.evaluation import CELEvalError

from broadaxe_actors.cel import operators
from broadaxe_actors.cel.functions import Function
from broadaxe_actors.cel.operators import Failed, kind_of


def call(function: Function, *arguments: Any) -> Any:
    """The function's result, or the first error among its arguments."""
    for argument in arguments:
        if isinstance(argument, CELEvalError):
            return argument
    try:
        return function.call(*arguments)
    except Failed as failure:
        return CELEvalError(str(failure))


def either(*values: Any) -> Any:
    """`||`."""
    return _back(operators.either([_failed(value) for value in values]))


def both(*values: Any) -> Any:
    """`&&`."""
    return _back(operators.both([_failed(value) for value in values]))


def choose(condition: Any, yes: Any, no: Any) -> Any:
    """`condition ? yes : no`; an error of the one not chosen is ignored."""
    if isinstance(condition, CELEvalError):
        return condition
    if not isinstance(condition, bool):
        return _back(operators.not_a_bool(condition, "?:"))
    return yes if condition else no


def has(container: Any, field: str) -> Any:
    """`has(container.field)`."""
    if isinstance(container, CELEvalError):
        return container
    try:
        return operators.has(container, field)
    except Failed as failure:
        return _back(failure)


def make_list(*items: Any) -> Any:
    """`[a, b]`."""
    return _first_error(items) or list(items)


def make_map(*items: Any) -> Any:
    """`{a: b, c: d}`, from keys and values in turn."""
    error = _first_error(items)
    if error is not None:
        return error
    made: dict[Any, Any] = {}
    for key, value in zip(items[::2], items[1::2], strict=True):
        if kind_of(key) not in {"string", "int", "uint", "bool"}:
            return CELEvalError(f"a {kind_of(key)} cannot be the key of a map")
        if key in made:
            return CELEvalError(f"the key {operators.shown(key)} is twice in a map")
        made[key] = value
    return made


def over(container: Any) -> Any:
    """What a macro goes through. An error is one element, since the library cannot give it otherwise; `pair` hands it on."""
    if isinstance(container, CELEvalError):
        return [container]
    if isinstance(container, list | dict):
        return list(container)
    return [CELEvalError(f"no such overload: a macro over a {kind_of(container)}")]


def pair(element: Any, result: Any) -> Any:
    """An element and what the macro's body made of it."""
    return element, result


def fold(name: str, pairs: "list[Any]") -> Any:
    """The result of a macro."""
    for element, _ in pairs:
        if isinstance(element, CELEvalError):
            return element
    results = [result for _, result in pairs]
    if name == "all":
        return both(*results)
    if name == "exists":
        return either(*results)
    error = _first_error(results)
    if error is not None:
        return error
    if name == "map":
        return results
    for result in results:
        if not isinstance(result, bool):
            return _back(operators.not_a_bool(result, f"{name}()"))
    if name == "filter":
        return [element for element, result in pairs if result]
    return sum(results) == 1  # exists_one


def _first_error(values: Any) -> Any:
    return next((value for value in values if isinstance(value, CELEvalError)), None)


def _failed(value: Any) -> Any:
    return Failed(value.args[0]) if isinstance(value, CELEvalError) else value


def _back(value: Any) -> Any:
    return CELEvalError(str(value)) if isinstance(value, Failed) else value
