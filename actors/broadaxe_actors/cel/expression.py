"""`compile` and `Expression`: from text to value. Pure but for the library's import, which the first expression that needs it causes.

text -> nodes (`simple`, else `parsing`) -> names and types (`checking`) -> a function (`fast`) or a program (`program`) -> a value,
whose type the environment decides.
"""

import importlib
import logging
from functools import lru_cache
from typing import Any

from broadaxe_actors.cel import fast, parsing, simple
from broadaxe_actors.cel.checking import FUNCTIONS, RESULTS, CheckFailed, check
from broadaxe_actors.cel.environments import Environment
from broadaxe_actors.cel.errors import EvaluationFailed, InvalidExpression
from broadaxe_actors.cel.nodes import AllOf, Call, HasPath, Literal, Macro, Node, Path, PathKey, walk
from broadaxe_actors.cel.operators import Failed, kind_of
from broadaxe_actors.cel.strings import well_formed
from broadaxe_actors.cel.values import Given, Values, size_of

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 10_000
"""Of an expression's text."""
CHEAP_BYTES = 65_536
"""Of the JSON that an expression reads, for it to be evaluated on the event loop."""
KEPT = 2_048
"""Compiled expressions, most recently used first."""


class Expression:
    """A compiled expression; made by `compile`, shared by all who compile the same text, and never changed."""

    __slots__ = ("_evaluate", "_has_macro", "_node", "environment", "names", "text")

    def __init__(self, text: str, environment: Environment, node: Node) -> None:
        self.text = text
        self.environment = environment
        self.names: frozenset[PathKey] = frozenset(
            part.segments for part in walk(node) if isinstance(part, Path | HasPath)
        )
        """The paths that it reads, as ('input', 'user', 'id'); an int among the parts is an index."""
        self._node = node
        self._has_macro = any(isinstance(part, Macro) for part in walk(node))
        evaluate = fast.build(node)
        if evaluate is None:
            # Not imported above: the program brings the library with it.
            program = importlib.import_module("broadaxe_actors.cel.program")
            evaluate = program.Program(node, FUNCTIONS[environment]).evaluate
        self._evaluate: fast.Evaluation = evaluate

    def __repr__(self) -> str:
        return f"Expression({self.text!r}, {self.environment.name})"

    def is_cheap(self, values: Given) -> bool:
        """Whether `evaluate` is quick enough for the event loop: without a macro, and on at most 64 KB of JSON.

        Of variables given as text the whole text counts, since it is parsed; of others only what the expression reads of them.
        """
        return not self._has_macro and size_of(values, self.names, CHEAP_BYTES) <= CHEAP_BYTES

    def evaluate(self, values: Given) -> bool | str | int:
        """The result, of the type that the environment wants. May take long, see `is_cheap`.

        Objects are given as JSON text, as a `Document` or as a mapping; strings such as `event_key` as they are.
        Raises `EvaluationFailed`, whatever the values are.
        """
        return self.run(self.read(values))

    def read(self, values: Given) -> Values:
        """The values, with the JSON that the expression reads parsed: the part of `evaluate` whose time depends on sizes only."""
        ready = Values(self.environment, values)
        for path in self.names:
            try:
                ready.root(str(path[0]))
            except Failed:
                continue  # whether the expression fails by it is for `run` to find out
        return ready

    def run(self, values: Values) -> bool | str | int:
        """The part of `evaluate` that the expression's writer decides about."""
        try:
            values.check()
            return self._result(self._evaluate(values))
        except Failed as failure:
            raise EvaluationFailed(self.text, str(failure)) from None
        except RecursionError:
            raise EvaluationFailed(self.text, "its values nest too deep") from None
        except MemoryError:
            raise EvaluationFailed(self.text, "it needs too much memory") from None
        except Exception as failure:
            logger.exception("evaluating %r met a mistake of ours", self.text)
            raise EvaluationFailed(self.text, f"{type(failure).__name__}: {failure}") from failure

    def _result(self, value: Any) -> bool | str | int:
        kind, wanted = kind_of(value), self.environment.result
        if kind not in RESULTS[wanted]:
            raise Failed(f"expected {wanted} output, got {kind}")
        if wanted == "bool":
            return bool(value)
        if wanted == "string":
            if "\0" in value:
                raise Failed("its result holds the character U+0000, which cannot be stored")
            return well_formed(str(value))
        try:
            whole = int(value)
        except (ValueError, OverflowError):
            raise Failed(f"expected int output, got the double {value}") from None
        if not -(2**63) <= whole < 2**63:
            raise Failed(f"expected int output, got {value}, which 64 bits do not hold")
        return whole

    def equality_conjuncts(self) -> list[tuple[PathKey, str]]:
        """The comparisons `path == 'text'` of which all must be true for the expression to be: what an index can look up."""
        found: list[tuple[PathKey, str]] = []
        for node in self._node.items if isinstance(self._node, AllOf) else (self._node,):
            match node:
                case Call(
                    "_==_", (Path(path), Literal(text, "string")) | (Literal(text, "string"), Path(path))
                ):
                    if all(isinstance(part, str) for part in path):
                        found.append((path, text))
        return found


@lru_cache(maxsize=KEPT)
def compile(text: str, environment: Environment) -> Expression:  # noqa: A001 - cel.compile reads right
    """The expression of the text; `InvalidExpression` if it is none, or none for this environment. Kept, so asking again is cheap."""
    if len(text) > MAX_CHARACTERS:
        raise InvalidExpression(text, f"it has {len(text):,} characters, and may have {MAX_CHARACTERS:,}")
    if not text.strip():
        raise InvalidExpression(text, "it is empty")
    try:
        node = simple.parse(text) or parsing.parse(text)
        check(node, environment)
        return Expression(text, environment, node)
    except (parsing.SyntaxFailed, CheckFailed) as failure:
        raise InvalidExpression(text, str(failure)) from None
    except RecursionError:
        raise InvalidExpression(text, f"it nests deeper than {parsing.MAX_DEPTH} levels") from None
