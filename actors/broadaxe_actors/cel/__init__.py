"""CEL expressions of workflow definitions, filters and waits: compiled, fenced, evaluated. Knows nothing of actors.

    expression = compile("input.user.id", Environment.CONCURRENCY_KEY)
    if expression.is_cheap(values):
        key = expression.evaluate(values)
    else:
        key = await evaluator.evaluate_apart(expression, values)

The library is cel-python: its grammar reads what is no simple comparison, its compiled runner evaluates it, its types hold times.
What Hatchet's users see is Google's implementation for Go, though, and the library differs from it where it matters here (an int
equals no double, `has(a) && has(b)` fails, a Python attribute is in reach of a name), so every operator and function that it calls
is ours, see `functions`. `expression.py` lists the steps from text to value. Nothing here imports the library before an
expression needs it.
"""

from broadaxe_actors.cel.environments import Environment
from broadaxe_actors.cel.errors import CelError, EvaluationFailed, InvalidExpression
from broadaxe_actors.cel.evaluator import AnyEvaluator, Evaluator, InlineEvaluator
from broadaxe_actors.cel.expression import Expression, compile  # noqa: A004 - cel.compile reads right
from broadaxe_actors.cel.values import Document

__all__ = [
    "AnyEvaluator",
    "CelError",
    "Document",
    "Environment",
    "EvaluationFailed",
    "Evaluator",
    "Expression",
    "InlineEvaluator",
    "InvalidExpression",
    "compile",
]
