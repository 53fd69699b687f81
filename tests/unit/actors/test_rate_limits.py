"""Windows of rate limits, what definitions do to them, and what is stored of them."""

import pytest

from broadaxe_actors.rate_limits import (
    MAX_DEFINITIONS,
    MAX_LIMIT,
    MINUTE_US,
    SECOND_US,
    WINDOWS_US,
    Bucket,
    key_problem,
    units_of,
    window_text,
)
from tests.factories import TENANT

WALL = 1_750_000_000_000_000
"""The wall clock when the monotonic one is at 0."""
HOUR_US = WINDOWS_US["HOUR"]


def bucket_of(limit=10, window_us=MINUTE_US, at=0):
    bucket = Bucket()
    assert bucket.put(limit, window_us, at, WALL + at)
    return bucket


def stored(bucket, now, wall=None, timeline=1):
    return bucket.to_row(TENANT, "k", now, WALL + now if wall is None else wall, timeline)


# ---------------------------------------------------------------- windows


def test_a_bucket_that_was_not_put_has_no_units():
    bucket = Bucket()
    assert bucket.take(1) == 0
    assert bucket.is_over(0)


def test_units_come_back_all_at_once_when_the_window_is_over():
    bucket = bucket_of(10)
    assert (bucket.take(4), bucket.take(9), bucket.take(1)) == (4, 6, 0)
    assert not bucket.is_over(MINUTE_US - 1)
    assert bucket.is_over(MINUTE_US)
    bucket.begin(MINUTE_US + 5, WALL)
    assert (bucket.take(20), bucket.ends_at) == (10, 2 * MINUTE_US + 5)


def test_units_given_back_never_make_more_than_the_limit():
    bucket = bucket_of(10)
    bucket.take(4)
    bucket.give_back(3)
    assert bucket.left == 9
    bucket.give_back(100)
    assert bucket.left == 10


def test_what_is_left_is_only_ever_lowered_by_another_limit():
    bucket = bucket_of(10)
    bucket.take(3)
    assert bucket.put(8, MINUTE_US, 1, WALL)
    assert bucket.left == 7
    bucket.put(5, MINUTE_US, 1, WALL)
    assert bucket.left == 5
    bucket.put(100, MINUTE_US, 1, WALL)
    assert bucket.left == 5
    assert not bucket.put(100, MINUTE_US, 1, WALL)
    bucket.begin(MINUTE_US, WALL)
    assert bucket.left == 100


def test_another_length_acts_on_the_window_under_way():
    bucket = bucket_of(10)
    bucket.take(10)
    bucket.put(10, HOUR_US, 5, WALL)
    assert (bucket.ends_at, bucket.left) == (HOUR_US, 0)
    bucket.put(10, SECOND_US, MINUTE_US, WALL)
    assert bucket.is_over(MINUTE_US)


def test_a_longer_window_does_not_bring_back_what_was_spent_of_one_that_has_ended():
    bucket = bucket_of(10, SECOND_US)
    bucket.take(10)
    bucket.put(10, HOUR_US, 10 * SECOND_US, WALL)
    assert bucket.is_over(10 * SECOND_US)


def test_a_pause_ends_by_the_wall_clock():
    bucket = bucket_of()
    assert not bucket.is_paused(WALL)
    bucket.paused_until = WALL + 5
    assert bucket.is_paused(WALL + 4)
    assert not bucket.is_paused(WALL + 5)


# ---------------------------------------------------------------- dynamic definitions


def defined(bucket, limit, window_us=MINUTE_US, at=0):
    bucket.define(limit, window_us, at, WALL + at)
    return bucket.limit, bucket.window_us


def test_a_negative_limit_leaves_the_bucket_alone():
    bucket = bucket_of(7)
    assert not bucket.define(-1, HOUR_US, 0, WALL)
    assert (bucket.limit, bucket.window_us) == (7, MINUTE_US)
    bucket = Bucket()
    assert not bucket.define(-1, HOUR_US, 0, WALL)
    assert bucket.limit is None


def test_a_definition_makes_the_bucket_and_another_changes_it():
    bucket = Bucket()
    assert bucket.define(5, SECOND_US, 0, WALL)
    assert bucket.left == 5
    assert not bucket.define(5, SECOND_US, 1, WALL)
    assert defined(bucket, 6, SECOND_US, at=HOUR_US) == (6, SECOND_US)
    assert defined(bucket, MAX_LIMIT + 9, SECOND_US, at=2 * HOUR_US) == (MAX_LIMIT, SECOND_US)


def test_of_definitions_in_use_the_lower_limit_and_the_longer_window_win():
    bucket = Bucket()
    assert defined(bucket, 5, SECOND_US) == (5, SECOND_US)
    assert defined(bucket, 9, MINUTE_US, at=1) == (5, MINUTE_US)
    assert defined(bucket, 5, SECOND_US, at=2) == (5, MINUTE_US)
    assert defined(bucket, 3, SECOND_US, at=3) == (3, MINUTE_US)


def test_a_definition_that_nobody_lines_up_with_any_more_is_forgotten():
    bucket = Bucket()
    defined(bucket, 5, SECOND_US)
    bucket.unwaited_at = 1
    assert defined(bucket, 9, SECOND_US, at=2 * SECOND_US) == (5, SECOND_US)
    assert defined(bucket, 9, SECOND_US, at=2 * SECOND_US + 1) == (9, SECOND_US)
    # Of longer windows, a minute is enough.
    assert defined(bucket, 9, HOUR_US, at=10 * SECOND_US)[1] == HOUR_US
    bucket.unwaited_at = 11 * SECOND_US
    assert defined(bucket, 9, SECOND_US, at=70 * SECOND_US + 1)[1] == SECOND_US


def test_a_definition_stays_in_use_while_units_are_waited_for():
    bucket = Bucket()
    defined(bucket, 5, SECOND_US, at=5)
    bucket.unwaited_at = 5
    assert defined(bucket, 9, SECOND_US, at=MINUTE_US) == (5, SECOND_US)
    assert defined(bucket, 9, SECOND_US, at=5 * MINUTE_US + 6) == (9, SECOND_US)


def test_a_limit_that_is_put_takes_the_place_of_all_definitions():
    bucket = Bucket()
    defined(bucket, 5, HOUR_US)
    bucket.put(20, SECOND_US, 1, WALL)
    assert (bucket.limit, bucket.window_us) == (20, SECOND_US)
    assert defined(bucket, 9, SECOND_US, at=2) == (9, SECOND_US)


def test_definitions_that_are_remembered_have_a_bound():
    bucket = Bucket()
    for limit in range(1, MAX_DEFINITIONS + 3):
        bucket.define(limit, MINUTE_US, limit, WALL)
    assert bucket.limit == 3


# ---------------------------------------------------------------- the record


def test_a_window_goes_on_where_it_was():
    bucket = bucket_of(10, at=7)
    bucket.take(4)
    bucket.paused_until = WALL + 99
    row = stored(bucket, 20)
    again = Bucket.restored(row, 30, WALL + 30, 1)
    assert (again.limit, again.window_us, again.left, again.started_at) == (10, MINUTE_US, 6, 7)
    assert again.paused_until == WALL + 99
    assert stored(again, 40) == row._replace(updated_at=WALL + 40)


@pytest.mark.parametrize("step", [-HOUR_US, HOUR_US])
def test_a_step_of_the_wall_clock_changes_nothing_within_a_timeline(step):
    row = stored(bucket_of(at=7), 20)
    assert Bucket.restored(row, 30, WALL + step, 1).started_at == 7


def test_another_timeline_goes_by_the_wall_clock():
    row = stored(bucket_of(at=7), 20)
    # A machine that was started anew: its monotonic clock reads 1 second, the wall clock 30 seconds on.
    again = Bucket.restored(row, SECOND_US, WALL + 30 * SECOND_US, 2)
    assert again.ends_at == SECOND_US + MINUTE_US - (30 * SECOND_US - 7)
    late = Bucket.restored(row, SECOND_US, WALL + HOUR_US, 2)
    assert late.is_over(SECOND_US)


def test_a_clock_that_was_set_back_makes_no_window_longer():
    row = stored(bucket_of(at=7), 20)
    again = Bucket.restored(row, 5, WALL - HOUR_US, 2)
    assert again.ends_at == 5 + MINUTE_US
    assert stored(again, 5, WALL - HOUR_US, 2).window_start == WALL - HOUR_US


def test_the_stored_start_follows_a_step_of_the_wall_clock():
    bucket = bucket_of(at=7)
    assert stored(bucket, 20, WALL + 22).window_start == WALL + 7
    row = stored(bucket, 20, WALL + 20 + HOUR_US)
    assert row.window_start == WALL + 7 + HOUR_US


def test_units_of_a_row_are_those_after_its_refill():
    bucket = bucket_of(10, at=0)
    bucket.take(10)
    row = stored(bucket, 1)
    assert units_of(row, WALL + MINUTE_US - 1) == 0
    assert units_of(row, WALL + MINUTE_US) == 10
    assert units_of(row._replace(limit_value=None), WALL + MINUTE_US) == 0


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("name", WINDOWS_US)
def test_windows_have_the_names_of_durations(name):
    assert window_text(WINDOWS_US[name]) == f"1 {name.lower()}"


def test_any_other_window_is_told_in_seconds():
    assert window_text(90 * SECOND_US) == "90 seconds"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("k", None),
        ("x" * 10_000, None),
        ("", "is empty"),
        ("x" * 10_001, "10,001 characters"),
        ("a\0", "null character"),
        ("\ud800", "surrogate"),
    ],
    ids=["short", "long", "empty", "too long", "null", "surrogate"],
)
def test_keys_are_checked(key, problem):
    found = key_problem(key)
    assert (found is None) if problem is None else problem in found
