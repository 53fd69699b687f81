"""What listings are built of, without a database: filters on metadata, and places where pages ended."""

import pytest

from broadaxe_storage.metadata_filter import MAX_ITEMS, MetadataFilter, metadata_filter
from broadaxe_storage.positions import KEPT_SECONDS, LEAST_OFFSET, MAX_POSITIONS, Position, Positions
from broadaxe_storage.summaries import RunQuery

QUERY = RunQuery(since=1)


def filtered(*items: tuple[str, str], needs_all: bool = False) -> MetadataFilter:
    return metadata_filter(QUERY._replace(metadata=items, needs_all_metadata=needs_all))


def test_strings_to_be_met_all_together_are_an_object() -> None:
    assert filtered() == MetadataFilter()
    assert filtered(("a", "x")) == MetadataFilter(contains='{"a": "x"}')
    assert filtered(("a", "x"), ("b", 'y"'), needs_all=True).contains == '{"a": "x", "b": "y\\""}'


def test_other_strings_are_a_path() -> None:
    found = filtered(("a", "x"), ("b c", "y"))
    assert found == MetadataFilter(
        path='($."a" == "x" && $."a".type() == "string") || ($."b c" == "y" && $."b c".type() == "string")'
    )
    # No object has a key twice.
    assert " && " in (filtered(("a", "x"), ("a", "y"), needs_all=True).path or "")


@pytest.mark.parametrize("value", ["5", "-5.0", "0", "true", "false"])
def test_a_value_that_reads_as_another_kind_is_looked_for_as_both_and_compared_as_text(value: str) -> None:
    found = filtered(("a", value))
    assert found.contains is None
    assert f'$."a" == {value})' in (found.path or "")
    assert f'== "{value}"' in (found.path or "")
    assert (found.keys, found.values, found.least) == (["a"], [value], 1)


@pytest.mark.parametrize("value", ["05", "1e3", "5.", "null", "True", "", " 5"])
def test_a_value_that_only_resembles_another_kind_is_a_string(value: str) -> None:
    assert filtered(("a", value)).contains is not None


@pytest.mark.parametrize("value", ['{"b": 1}', " [1]"])
def test_objects_and_lists_are_compared_row_by_row(value: str) -> None:
    found = filtered(("a", value), ("b", "x"), needs_all=True)
    assert found == MetadataFilter(None, None, ["a", "b"], [value, "x"], 2)


def test_many_items_are_compared_row_by_row() -> None:
    items = [(f"k{n}", "x") for n in range(MAX_ITEMS + 1)]
    assert filtered(*items).path is None
    assert filtered(*items[:-1]).path is not None


# ---------------------------------------------------------------- positions


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_page_goes_on_where_the_last_one_ended_for_a_while() -> None:
    clock = Clock()
    positions = Positions(clock)
    end = Position(7, "a")
    positions.keep("t", QUERY, LEAST_OFFSET, end)
    assert positions.find("t", QUERY, LEAST_OFFSET) == end
    # Offsets count from the end of the range, not from its beginning, which clients move on.
    assert positions.find("t", QUERY._replace(since=99), LEAST_OFFSET) == end
    clock.now += KEPT_SECONDS
    assert positions.find("t", QUERY, LEAST_OFFSET) is None


def test_a_position_is_one_of_its_listing_and_offset() -> None:
    positions = Positions(Clock())
    positions.keep("t", QUERY, LEAST_OFFSET, Position(7, "a"))
    assert positions.find("u", QUERY, LEAST_OFFSET) is None
    assert positions.find("t", QUERY._replace(states=(6,)), LEAST_OFFSET) is None
    assert positions.find("t", QUERY, LEAST_OFFSET + 50) is None


def test_few_positions_are_kept_and_none_of_first_pages() -> None:
    positions = Positions(Clock())
    positions.keep("t", QUERY, LEAST_OFFSET - 1, Position(7, "a"))
    assert positions.find("t", QUERY, LEAST_OFFSET - 1) is None
    for number in range(MAX_POSITIONS + 1):
        positions.keep("t", QUERY, LEAST_OFFSET + number, Position(number, "a"))
    assert positions.find("t", QUERY, LEAST_OFFSET) is None
    assert positions.find("t", QUERY, LEAST_OFFSET + 1) == Position(1, "a")
