"""What CEL expressions cost: `python benchmarks/cel_bench.py [--quick]`.

Prints a table, and as its last line one JSON object with microseconds. `path` and `comparison` are evaluated directly, `compiled` by the
library's runner; `apart` is one round trip to the process for long expressions, `apart, first` includes its start. A large input is
measured as text, which each evaluation parses, and as a `Document`, which is parsed once for all.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable

from broadaxe_actors import cel
from broadaxe_actors.cel import Document, Environment, Evaluator
from broadaxe_actors.cel.expression import compile as kept_compile

FILTER = Environment.EVENT_FILTER
KEY = Environment.CONCURRENCY_KEY
SMALL = b'{"user": {"id": "u1", "name": "Ada"}, "n": 51, "list": [1, 2, 3, 4, 5]}'
COMPILED = "input.user.name.lowerAscii() + '-' + string(input.n)"


def large_input(kilobytes: int) -> bytes:
    """A JSON object of that size, made of small rows."""
    row = {"id": 123456, "name": "a name of some length", "tags": ["one", "two"], "score": 0.5}
    return json.dumps(
        {"user": {"id": "u1"}, "rows": [row] * (kilobytes * 1024 // len(json.dumps(row)))}
    ).encode()


def microseconds(call: Callable[[], object], rounds: int) -> float:
    """The time of one call: the best of five runs of `rounds` calls."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(rounds):
            call()
        best = min(best, time.perf_counter() - started)
    return best / rounds * 1e6


def evaluation(text: str, environment: Environment, given: bytes | Document, rounds: int) -> float:
    """Microseconds of one evaluation."""
    expression = cel.compile(text, environment)
    values = {"input": given}
    expression.evaluate(values)
    return microseconds(lambda: expression.evaluate(values), rounds)


def compilation(text: str, environment: Environment, rounds: int) -> float:
    """Microseconds to compile a text that is not kept."""

    def compile_anew() -> None:
        kept_compile.cache_clear()
        cel.compile(text, environment)

    compile_anew()
    return microseconds(compile_anew, rounds)


async def apart(rounds: int) -> dict[str, float]:
    """The process: its start, then a small macro, then 90 KB that it must be sent and parse."""
    evaluator = Evaluator()
    macro = cel.compile("input.list.exists(x, x == 5)", FILTER)
    path = cel.compile("input.user.id", KEY)
    figures: dict[str, float] = {}

    async def measure(name: str, expression: cel.Expression, given: bytes, times: int) -> None:
        started = time.perf_counter()
        for _ in range(times):
            await evaluator.evaluate_apart(expression, {"input": given})
        figures[name] = (time.perf_counter() - started) / times * 1e6

    await measure("apart, first", macro, SMALL, 1)
    await measure("apart, macro over 5", macro, SMALL, rounds)
    await measure("apart, path in 90 KB", path, large_input(90), max(1, rounds // 10))
    await evaluator.close()
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it works")
    rounds = 100 if parser.parse_args().quick else 5_000
    few = max(5, rounds // 100)
    ninety = large_input(90)
    figures = {
        "path": evaluation("input.user.id", KEY, SMALL, rounds),
        "path, parsed before": evaluation("input.user.id", KEY, Document(SMALL), rounds),
        "comparison": evaluation("input.n > 50", FILTER, SMALL, rounds),
        "comparison, parsed before": evaluation("input.n > 50", FILTER, Document(SMALL), rounds),
        "two comparisons and has": evaluation(
            "has(input.n) && input.n > 50 && input.user.id == 'u1'", FILTER, SMALL, rounds
        ),
        "compiled": evaluation(COMPILED, KEY, SMALL, rounds),
        "compiled, parsed before": evaluation(COMPILED, KEY, Document(SMALL), rounds),
        "compiled, macro over 5": evaluation("input.list.exists(x, x == 5)", FILTER, SMALL, rounds),
        "path in 64 KB": evaluation("input.user.id", KEY, large_input(64), few),
        "path in 90 KB": evaluation("input.user.id", KEY, ninety, few),
        "path in 90 KB, parsed before": evaluation("input.user.id", KEY, Document(ninety), rounds),
        "compile a path": compilation("input.user.id", KEY, few),
        "compile a comparison": compilation("input.n > 50 && input.user.id == 'u1'", FILTER, few),
        "compile by the library": compilation(COMPILED, KEY, few),
        "compile 1,000 symbols": compilation(" + ".join(["[1, 1, 1]"] * 90) + " == []", FILTER, 1),
        **asyncio.run(apart(rounds // 5)),
    }
    for name, figure in figures.items():
        print(f"{name:<32}{figure:>12,.1f} us")
    print(json.dumps({name: round(figure, 2) for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
