"""`Evaluator`: expressions that may take long, in a process of their own with a limit on its time. `InlineEvaluator`: without one.

The process (`worker.py`) is started by the first request, kept, and replaced when it died. Requests go to it one at a time. It
limits itself: past 50 ms of processor time on one evaluation the kernel ends it, whatever it is doing, and however busy this loop
or the machine is; that end is told from others by the signal. One evaluator belongs to one event loop.
"""

import asyncio
import json
import logging
import pickle
import signal
import struct
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from broadaxe_actors.cel.errors import EvaluationFailed
from broadaxe_actors.cel.expression import Expression
from broadaxe_actors.cel.values import Document, Given

logger = logging.getLogger(__name__)

LIMIT_SECONDS = 0.05
"""Processor time of one evaluation, from when the process has its values parsed."""
MAX_WAITING = 1_000
"""Evaluations that may wait for the process."""
ANSWER_SECONDS = 10.0
"""How long an answer may take in all, the start of the process included: only a stuck machine needs this."""
LENGTH = struct.Struct(">I")
"""Frames both ways: the length, then a pickle to the process, JSON from it."""


class AnyEvaluator(Protocol):
    """What the shard's actors use."""

    async def evaluate_apart(self, expression: Expression, values: Given) -> bool | str | int:
        """As `Expression.evaluate`, for expressions that are not cheap."""

    async def close(self) -> None:
        """End what was started; safe to call twice."""


class InlineEvaluator:
    """Evaluates here, without a limit: for tests and simulation, where nothing may depend on the machine's speed."""

    async def evaluate_apart(self, expression: Expression, values: Given) -> bool | str | int:
        """The result; raises `EvaluationFailed`."""
        return expression.evaluate(values)

    async def close(self) -> None:
        """Nothing to end."""


@dataclass(slots=True, eq=False)
class _Request:
    expression: Expression
    values: Given
    answer: "asyncio.Future[bool | str | int]"


class _Died(Exception):
    """The process ended before it answered."""

    def __init__(self, returncode: int) -> None:
        super().__init__(f"exit status {returncode}")
        self.returncode = returncode


class Evaluator:
    """Evaluates in another process. Close it, or the process lives until this one ends."""

    def __init__(self) -> None:
        self._waiting: deque[_Request] = deque()
        self._worker: asyncio.subprocess.Process | None = None
        self._serving: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def process_id(self) -> int | None:
        """The process that is kept, if there is one."""
        return None if self._worker is None else self._worker.pid

    async def evaluate_apart(self, expression: Expression, values: Given) -> bool | str | int:
        """The result; raises `EvaluationFailed` for an error, for more than 50 ms, and when too many wait already."""
        if self._is_closed:
            raise EvaluationFailed(expression.text, "the engine is stopping")
        if len(self._waiting) >= MAX_WAITING:
            raise EvaluationFailed(
                expression.text, f"overloaded: {MAX_WAITING:,} evaluations of long expressions wait already"
            )
        request = _Request(expression, values, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(), name="cel evaluator")
        return await request.answer

    async def close(self) -> None:
        """End the process; what waits fails. Safe to call twice."""
        self._is_closed = True
        if self._serving is not None:
            self._serving.cancel()
            with suppress(asyncio.CancelledError):
                await self._serving
            self._serving = None
        for request in self._waiting:
            if not request.answer.done():
                request.answer.set_exception(
                    EvaluationFailed(request.expression.text, "the engine is stopping")
                )
        self._waiting.clear()
        await self._end()

    async def _serve(self) -> None:
        """Answer what waits, one after the other; ends when nothing does."""
        while self._waiting:
            request = self._waiting[0]
            if not request.answer.done():  # else its caller went away
                try:
                    value = await self._ask(request.expression, request.values)
                except EvaluationFailed as failure:
                    _settle(request.answer, failure)
                except Exception as failure:
                    # No process to be had is one reason; whatever it is, those who wait behind this one must be served.
                    logger.exception("a CEL expression could not be evaluated apart")
                    _settle(
                        request.answer,
                        EvaluationFailed(request.expression.text, f"no process evaluated it: {failure}"),
                    )
                else:
                    _settle(request.answer, value)
            self._waiting.popleft()

    async def _ask(self, expression: Expression, values: Given) -> bool | str | int:
        """Have the process evaluate; once more if it died of something else than this."""
        frame = _frame(expression, values)
        for is_last in (False, True):
            worker = self._worker or await self._start()
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    answer = await _exchange(worker, frame)
            except TimeoutError:
                await self._end()
                raise EvaluationFailed(expression.text, f"no answer within {ANSWER_SECONDS:.0f} s") from None
            except _Died as death:
                self._worker = None
                if death.returncode == -signal.SIGPROF:
                    await self._start()  # it warms up while the caller hears of this
                    raise EvaluationFailed(
                        expression.text, f"it took longer than {LIMIT_SECONDS * 1000:.0f} ms"
                    ) from None
                logger.warning(
                    "the process for long CEL expressions died (%s) evaluating %r", death, expression.text
                )
                if is_last:
                    raise EvaluationFailed(expression.text, f"its process died twice ({death})") from None
                continue
            if "failed" in answer:
                raise EvaluationFailed(expression.text, answer["failed"])
            value: bool | str | int = answer["value"]
            return value
        raise AssertionError("the last round returns or raises")

    async def _start(self) -> asyncio.subprocess.Process:
        self._worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # nothing is imported from the working directory
            "-m",
            "broadaxe_actors.cel.worker",
            str(LIMIT_SECONDS),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return self._worker

    async def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        with suppress(ProcessLookupError):
            worker.kill()
        assert worker.stdin is not None
        worker.stdin.close()
        await worker.wait()


def _settle(answer: "asyncio.Future[bool | str | int]", outcome: bool | str | int | EvaluationFailed) -> None:
    if answer.done():
        return
    if isinstance(outcome, EvaluationFailed):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _frame(expression: Expression, values: Given) -> bytes:
    plain = {
        name: _plain(values[name])
        for name in {str(path[0]) for path in expression.names} | {"additional_metadata"}
        if name in values
    }
    body = pickle.dumps((expression.text, expression.environment.name, plain), pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def _plain(value: Any) -> Any:
    if isinstance(value, Document):
        return value.text
    return dict(value) if isinstance(value, Mapping) else value


async def _exchange(worker: asyncio.subprocess.Process, frame: bytes) -> dict[str, Any]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(frame)
        await worker.stdin.drain()
        (length,) = LENGTH.unpack(await worker.stdout.readexactly(LENGTH.size))
        answer: dict[str, Any] = json.loads(await worker.stdout.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        worker.stdin.close()
        raise _Died(await worker.wait()) from None
    return answer
