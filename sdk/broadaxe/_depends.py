"""Dependencies of tasks: functions of (input, ctx) whose results are passed to the task as parameters.

    def connection(input: EmptyModel, ctx: Context) -> Connection: ...

    @broadaxe.task()
    def save(input: EmptyModel, ctx: Context, conn: Annotated[Connection, Depends(connection)]) -> None: ...

A dependency is a function, sync or async. One that yields once is a context manager, with or without the decorators of `contextlib`: what
follows its yield runs after the task, last opened first closed. It may have dependencies itself. A function is called once a task
run, however often it is named. Synchronous ones run in threads, so that they may block.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from broadaxe._annotations import UNKNOWN, Signature
from broadaxe._errors import DefinitionError

if TYPE_CHECKING:
    from broadaxe._context import Context


class Depends:
    """Marks a parameter, as `Annotated[Type, Depends(function)]`."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __repr__(self) -> str:
        return f"Depends({getattr(self.fn, '__name__', self.fn)})"


@contextmanager
def _sync_sample() -> Any:
    yield


@asynccontextmanager
async def _async_sample() -> Any:
    yield


# What the decorators of contextlib return. Only these are entered: a dependency that returns an open connection or a lock
# hands it over as it is.
_SYNC_MANAGER = type(_sync_sample())
_ASYNC_MANAGER = type(_async_sample())


@dataclass(eq=False, slots=True)
class Dependency:
    """One function and what it needs itself."""

    fn: Callable[..., Any]
    needs: "Dependencies" = field(default_factory=dict)


Dependencies = Mapping[str, Dependency]
"""By parameter name."""


def find_dependencies(signature: Signature, skip: int = 2) -> Dependencies:
    """The dependencies that a function declares after its first `skip` parameters.

    Raises `DefinitionError` for a parameter that nothing would fill, and for a dependency with a wrong signature.
    """
    return _find(signature, skip, ())


def _find(signature: Signature, skip: int, path: tuple[Callable[..., Any], ...]) -> Dependencies:
    found: dict[str, Dependency] = {}
    for parameter in signature.parameters[skip:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        marker = _marker(signature.parameter_type(parameter))
        if marker is None:
            if parameter.default is UNKNOWN:
                raise DefinitionError(
                    f"{signature.where}: nothing fills the parameter {parameter.name!r}; after input and ctx, parameters are "
                    "declared as Annotated[Type, Depends(function)] or have a default"
                )
            continue
        found[parameter.name] = _dependency(marker.fn, signature, path)
    return found


def _marker(annotation: Any) -> Depends | None:
    if get_origin(annotation) is not Annotated:
        return None
    return next((extra for extra in get_args(annotation)[1:] if isinstance(extra, Depends)), None)


def _dependency(fn: Callable[..., Any], of: Signature, path: tuple[Callable[..., Any], ...]) -> Dependency:
    where = f"dependency {getattr(fn, '__name__', fn)!r} of {of.where}"
    if not callable(fn):
        raise DefinitionError(f"{where}: Depends takes a function, not {fn!r}")
    if fn in path:
        raise DefinitionError(f"{where} depends on itself")
    inner = Signature(fn, where, of.local_names)
    check_input_and_context(inner)
    needs = _find(inner, 2, (*path, fn))
    if inspect.isasyncgenfunction(fn):
        fn = asynccontextmanager(fn)
    elif inspect.isgeneratorfunction(fn):
        fn = contextmanager(fn)
    return Dependency(fn, needs)


def check_input_and_context(signature: Signature) -> None:
    """Raises `DefinitionError` unless the function takes input and context as its first two positional parameters."""
    positional = [
        parameter
        for parameter in signature.parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) < 2 and not any(
        parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters
    ):
        name = getattr(signature.fn, "__name__", "function")
        raise DefinitionError(
            f"{signature.where}: {name}{inspect.signature(signature.fn)} must take the input and the context: "
            f"def {name}(input: MyInput, ctx: Context)"
        )


@asynccontextmanager
async def resolve_dependencies(
    dependencies: Dependencies, value: Any, context: "Context"
) -> AsyncIterator[dict[str, Any]]:
    """Call what a task depends on; gives the values by parameter name, and closes what was opened at the end.

    An error of the task is raised inside the open dependencies, as in a `with` block.
    """
    async with AsyncExitStack() as stack:
        known: dict[Callable[..., Any], Any] = {}
        yield await _resolve_all(dependencies, value, context, stack, known)


async def _resolve_all(
    dependencies: Dependencies,
    value: Any,
    context: "Context",
    stack: AsyncExitStack,
    known: dict[Callable[..., Any], Any],
) -> dict[str, Any]:
    return {
        name: await _resolve(dependency, value, context, stack, known)
        for name, dependency in dependencies.items()
    }


async def _resolve(
    dependency: Dependency,
    value: Any,
    context: "Context",
    stack: AsyncExitStack,
    known: dict[Callable[..., Any], Any],
) -> Any:
    key = inspect.unwrap(dependency.fn)
    if key in known:
        return known[key]
    needs = await _resolve_all(dependency.needs, value, context, stack, known)
    if inspect.iscoroutinefunction(dependency.fn):
        result = await dependency.fn(value, context, **needs)
    elif inspect.isasyncgenfunction(key):
        result = await stack.enter_async_context(dependency.fn(value, context, **needs))
    else:
        result = await asyncio.to_thread(dependency.fn, value, context, **needs)
        if inspect.isawaitable(result):
            result = await result
        elif isinstance(result, _SYNC_MANAGER):
            result = await _enter_in_thread(stack, result)
        elif isinstance(result, _ASYNC_MANAGER):
            result = await stack.enter_async_context(result)
    known[key] = result
    return result


async def _enter_in_thread(stack: AsyncExitStack, manager: Any) -> Any:
    async def leave(*failure: Any) -> bool | None:
        answer: bool | None = await asyncio.to_thread(manager.__exit__, *failure)
        return answer

    result = await asyncio.to_thread(manager.__enter__)
    stack.push_async_exit(leave)
    return result
