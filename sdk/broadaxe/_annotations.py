"""Annotations of user functions, resolved one at a time, so that a name that only type checkers know harms nothing else."""

import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from broadaxe._errors import DefinitionError

UNKNOWN: Any = inspect.Parameter.empty
"""There is no annotation."""


def caller_locals() -> Mapping[str, Any]:
    """Names of the function in which the user stands, for annotations written as text that name its local classes."""
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to the caller
    while frame is not None and frame.f_globals.get("__name__", "").startswith("broadaxe."):
        frame = frame.f_back  # type: ignore[assignment]
    return dict(frame.f_locals) if frame is not None and frame.f_code.co_name != "<module>" else {}


@dataclass(frozen=True)
class Signature:
    """Parameters and return of a user function, with what is needed to resolve their annotations."""

    fn: Callable[..., Any]
    where: str
    """How errors call the function, such as `task 'x'`."""
    local_names: Mapping[str, Any]

    @property
    def parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.fn).parameters.values())

    def parameter_type(self, parameter: inspect.Parameter) -> Any:
        """The parameter's annotation, `UNKNOWN` without one."""
        return self._resolve(parameter.annotation, f"parameter {parameter.name!r}")

    def return_type(self) -> Any:
        """What the function returns, `UNKNOWN` without an annotation."""
        return self._resolve(inspect.signature(self.fn).return_annotation, "return type")

    def _resolve(self, annotation: Any, what: str) -> Any:
        if annotation is UNKNOWN:
            return UNKNOWN
        target = inspect.unwrap(self.fn)
        holder = SimpleNamespace(__annotations__={"it": annotation})
        try:
            hints = typing.get_type_hints(
                holder, getattr(target, "__globals__", {}), dict(self.local_names), include_extras=True
            )
        except (NameError, AttributeError, SyntaxError, TypeError) as error:
            raise DefinitionError(
                f"{self.where}: the {what} {annotation!r} cannot be resolved ({error}); a type that the SDK must read has to be "
                "imported at run time, not under TYPE_CHECKING"
            ) from error
        return hints["it"]
