"""Clocks and ids."""

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_actors.runtime import SeededRng, SystemClock, SystemRng, VirtualClock


def test_system_clock_counts_microseconds():
    clock = SystemClock()
    assert abs(clock.now() - time.time_ns() // 1_000) < 1_000_000
    assert clock.monotonic() <= clock.monotonic()


def test_virtual_clock_stands_still_until_advanced():
    clock = VirtualClock(start_us=5)
    clock.advance(10)
    assert (clock.now(), clock.monotonic()) == (15, 10)
    clock.shift_wall(-100)
    assert (clock.now(), clock.monotonic()) == (-85, 10)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


@given(st.integers(0, 2**60), st.integers(0, 2**48 * 1_000 - 1))
def test_uuid7_is_canonical_and_tells_its_millisecond(seed, now_us):
    text = SeededRng(seed).uuid7(now_us)
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == now_us // 1_000


@given(st.lists(st.integers(0, 2**40), min_size=2))
def test_uuid7_only_grows_whatever_the_clock_does(times):
    rng = SystemRng()
    ids = [rng.uuid7(at) for at in times]
    assert ids == sorted(set(ids))


def test_seeded_rng_repeats_itself():
    one, two = SeededRng(7), SeededRng(7)
    assert [one.uuid7(1), one.random(), one.getrandbits(9)] == [
        two.uuid7(1),
        two.random(),
        two.getrandbits(9),
    ]
    assert SystemRng().uuid7(1) != SystemRng().uuid7(1)
