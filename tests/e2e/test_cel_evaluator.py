"""The process for long expressions: its limit, its end and replacement, its queue. Real processes, on both event loops."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
import uvloop

from broadaxe_actors import cel
from broadaxe_actors.cel import Document, Environment, EvaluationFailed, Evaluator
from broadaxe_actors.cel import evaluator as module

ELEMENTS = b'{"list": [' + b",".join([b"1"] * 400) + b"]}"
QUICK = cel.compile("input.list.exists(x, x == 2)", Environment.EVENT_FILTER)
SLOW = cel.compile(
    "input.list.all(a, input.list.all(b, input.list.all(c, a + b > c)))", Environment.EVENT_FILTER
)
KEY = cel.compile("input.a + checksum(workflow_run_id)", Environment.CONCURRENCY_KEY)


@pytest.fixture
async def evaluator() -> AsyncIterator[Evaluator]:
    evaluator = Evaluator()
    yield evaluator
    await evaluator.close()


async def test_results_and_errors_come_back(evaluator: Evaluator) -> None:
    assert evaluator.process_id is None
    assert await evaluator.evaluate_apart(QUICK, {"input": b'{"list": [1, 2]}'}) is True
    first = evaluator.process_id
    assert await evaluator.evaluate_apart(QUICK, {"input": Document('{"list": [1]}')}) is False
    assert await evaluator.evaluate_apart(QUICK, {"input": {"list": [2]}}) is True
    values = {"input": '{"a": "é\\ud800"}', "workflow_run_id": "r"}
    assert await evaluator.evaluate_apart(KEY, values) == KEY.evaluate(values)
    with pytest.raises(EvaluationFailed) as caught:
        await evaluator.evaluate_apart(QUICK, {"input": b"{}"})
    assert (
        str(caught.value)
        == "CEL expression `input.list.exists(x, x == 2)` failed: no such key: 'list' (reading input.list)"
    )
    with pytest.raises(EvaluationFailed, match="additional_metadata is no JSON object"):
        await evaluator.evaluate_apart(KEY, {**values, "additional_metadata": b"[]"})
    assert evaluator.process_id == first


async def test_an_input_of_megabytes_is_no_overrun(evaluator: Evaluator) -> None:
    path = cel.compile("input.key", Environment.CONCURRENCY_KEY)
    large = b'{"key": "k", "rows": [' + b",".join([b'{"a": [1, 2, 3], "b": "text"}'] * 100_000) + b"]}"
    assert await evaluator.evaluate_apart(path, {"input": large}) == "k"


async def test_an_overrun_ends_the_process_and_the_next_one_serves(evaluator: Evaluator) -> None:
    assert await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS}) is False
    first = evaluator.process_id
    with pytest.raises(EvaluationFailed, match="it took longer than 50 ms"):
        await evaluator.evaluate_apart(SLOW, {"input": ELEMENTS})
    assert evaluator.process_id not in {None, first}
    assert await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS}) is False


async def test_an_overrun_fails_itself_alone(evaluator: Evaluator) -> None:
    outcomes = await asyncio.gather(
        *[evaluator.evaluate_apart(SLOW if turn == 2 else QUICK, {"input": ELEMENTS}) for turn in range(6)],
        return_exceptions=True,
    )
    assert [outcome if isinstance(outcome, bool) else type(outcome) for outcome in outcomes] == [
        False,
        False,
        EvaluationFailed,
        False,
        False,
        False,
    ]


async def test_a_process_that_died_is_replaced(evaluator: Evaluator) -> None:
    await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS})
    first = evaluator.process_id
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS}) is False
    assert evaluator.process_id != first


async def test_an_expression_that_kills_its_process_twice_fails(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_frame", lambda expression, values: module.LENGTH.pack(3) + b"no!")
    with pytest.raises(EvaluationFailed, match="its process died twice"):
        await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS})
    monkeypatch.undo()
    assert await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS}) is False


async def test_no_process_to_be_had_is_an_error(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(EvaluationFailed, match=r"no process evaluated it: .*No such file"):
        await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS})
    monkeypatch.undo()
    assert await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS}) is False


async def test_past_its_bound_the_queue_refuses(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    calls = [asyncio.ensure_future(evaluator.evaluate_apart(QUICK, {"input": ELEMENTS})) for _ in range(5)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert outcomes[:3] == [False] * 3
    assert all("overloaded: 3 evaluations" in str(outcome) for outcome in outcomes[3:])


async def test_a_caller_that_goes_away_leaves_the_order_of_answers(evaluator: Evaluator) -> None:
    calls = [
        asyncio.ensure_future(
            evaluator.evaluate_apart(KEY, {"input": {"a": str(turn)}, "workflow_run_id": "r"})
        )
        for turn in range(5)
    ]
    await asyncio.sleep(0)  # they are in the queue now
    calls[0].cancel()
    calls[3].cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(outcome)[:1] for outcome in outcomes] == ["", "1", "2", "", "4"]


async def test_closing_ends_the_process_and_fails_what_waits() -> None:
    evaluator = Evaluator()
    await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS})
    process_id = evaluator.process_id
    assert process_id is not None
    waiting = [asyncio.ensure_future(evaluator.evaluate_apart(QUICK, {"input": ELEMENTS})) for _ in range(3)]
    await asyncio.sleep(0)
    await evaluator.close()
    await evaluator.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all("the engine is stopping" in str(outcome) for outcome in outcomes)
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)
    with pytest.raises(EvaluationFailed, match="stopping"):
        await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS})


def test_it_works_on_uvloop() -> None:
    async def run() -> None:
        evaluator = Evaluator()
        assert await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS}) is False
        with pytest.raises(EvaluationFailed, match="longer than 50 ms"):
            await evaluator.evaluate_apart(SLOW, {"input": ELEMENTS})
        assert await evaluator.evaluate_apart(QUICK, {"input": ELEMENTS}) is False
        await evaluator.close()

    uvloop.run(run())
