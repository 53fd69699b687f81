"""The order of stream chunks, by their index."""

from hypothesis import given
from hypothesis import strategies as st

from broadaxe_actors.messages import RunEvent, RunEventKind
from broadaxe_gateway.rpc.reorder import ReorderBuffer


def chunk(index, attempt=0, task="t"):
    return RunEvent("r", False, task, RunEventKind.STREAM, 0, b"", attempt, index)


def indexes(events):
    return [event.index for event in events]


def test_expected_index_passes_with_its_successors():
    buffer = ReorderBuffer()
    assert indexes(buffer.add(chunk(2), 0)) == []
    assert indexes(buffer.add(chunk(1), 0)) == []
    assert indexes(buffer.add(chunk(0), 0)) == [0, 1, 2]
    assert buffer.deadline() is None


def test_gap_is_waited_for_five_seconds_and_then_skipped():
    buffer = ReorderBuffer()
    buffer.add(chunk(5), 10.0)
    buffer.add(chunk(3), 12.0)
    assert buffer.deadline() == 15.0
    assert buffer.expire(14.9) == []
    assert indexes(buffer.expire(15.0)) == [3, 5]
    assert indexes(buffer.add(chunk(6), 16.0)) == [6]


def test_chunk_without_index_passes_at_once():
    assert indexes(ReorderBuffer().add(chunk(None), 0)) == [None]


def test_end_of_a_task_lets_go_of_what_it_held():
    buffer = ReorderBuffer()
    buffer.add(chunk(4), 0)
    buffer.add(chunk(2, task="other"), 0)
    end = RunEvent("r", False, "t", RunEventKind.COMPLETED, 0)
    assert [event.index for event in buffer.add(end, 0)] == [4, None]
    hangup = RunEvent("r", True, "r", RunEventKind.COMPLETED, 0)
    assert [event.index for event in buffer.add(hangup, 0)] == [2, None]


def test_attempts_count_for_themselves():
    buffer = ReorderBuffer()
    assert indexes(buffer.add(chunk(0), 0)) == [0]
    assert indexes(buffer.add(chunk(1), 0)) == [1]
    assert indexes(buffer.add(chunk(0, attempt=1), 0)) == [0]
    assert indexes(buffer.add(chunk(1, attempt=1), 0)) == [1]


def test_unknown_attempt_starts_again_at_zero():
    buffer = ReorderBuffer()
    for index in (0, 1):
        buffer.add(chunk(index, attempt=None), 0)
    buffer.add(chunk(3, attempt=None), 0)
    assert indexes(buffer.add(chunk(0, attempt=None), 0)) == [3, 0]
    assert indexes(buffer.add(chunk(1, attempt=None), 0)) == [1]


@given(st.permutations(range(8)))
def test_any_arrival_leaves_in_order_and_whole(order):
    buffer = ReorderBuffer()
    passed = [event.index for index in order for event in buffer.add(chunk(index), 0)]
    assert passed == list(range(8))
