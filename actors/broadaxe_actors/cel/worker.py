"""The process that evaluates what may take long: `python -m broadaxe_actors.cel.worker LIMIT_SECONDS`, started by `Evaluator`.

Reads requests from its standard input and writes answers to its standard output until the input ends. The kernel ends it by SIGPROF
when one evaluation takes more processor time than the limit, and refuses it memory past 1 GiB.
"""

import importlib
import json
import pickle
import signal
import sys
from contextlib import suppress
from typing import BinaryIO

from broadaxe_actors.cel.environments import Environment
from broadaxe_actors.cel.errors import CelError
from broadaxe_actors.cel.evaluator import LENGTH
from broadaxe_actors.cel.expression import compile as compile_expression

MEMORY_BYTES = 1 << 30


def main() -> None:
    """Serve until the input ends."""
    limit_seconds = float(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine, which then closes the input
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with suppress(ImportError, ValueError, OSError):  # a system that has no such limit
        resource = importlib.import_module("resource")
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    importlib.import_module("broadaxe_actors.cel.program")  # the library, before anybody waits for it
    serve(sys.stdin.buffer, sys.stdout.buffer, limit_seconds)


def serve(requests: BinaryIO, answers: BinaryIO, limit_seconds: float) -> None:
    """Answer each request in turn."""
    while True:
        header = requests.read(LENGTH.size)
        if len(header) < LENGTH.size:
            return
        body = requests.read(LENGTH.unpack(header)[0])
        answer = json.dumps(_answer(body, limit_seconds)).encode()
        answers.write(LENGTH.pack(len(answer)) + answer)
        answers.flush()


def _answer(body: bytes, limit_seconds: float) -> dict[str, bool | str | int]:
    text, environment, values = pickle.loads(body)  # noqa: S301 - the engine wrote it
    try:
        expression = compile_expression(text, Environment[environment])
        ready = expression.read(values)
        signal.setitimer(signal.ITIMER_PROF, limit_seconds)
        try:
            return {"value": expression.run(ready)}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except CelError as failure:
        return {"failed": failure.cause}


if __name__ == "__main__":
    main()
