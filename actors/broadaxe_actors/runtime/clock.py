"""Time, randomness and ids, injected everywhere so that the same actors run under virtual time.

Touches `time`, `random`, `os.urandom` and the machine's boot id; nothing else in the engine may. Times are integers in microseconds. Facts to know:
wall time (`now`) may jump and is for what people read and what is stored; deadlines use `monotonic`.
"""

import os
import random
import time
import uuid
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Where actors read the time."""

    timeline: int
    """Whose `monotonic` this is: of one timeline, times of another process may be compared with ours. Fits 63 bits."""

    def now(self) -> int:
        """Wall time: microseconds since the Unix epoch, UTC. May jump either way."""
        ...

    def monotonic(self) -> int:
        """Microseconds since some fixed moment of the timeline. Never goes back."""
        ...


class Rng(Protocol):
    """Where actors take randomness and ids from."""

    def uuid7(self, now_us: int, /) -> str:
        """A UUIDv7 as canonical lower-case text, greater than every earlier one of this source."""
        ...

    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def getrandbits(self, bits: int, /) -> int:
        """A non-negative integer of at most `bits` bits."""
        ...


BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """The machine's clocks. On Linux monotonic time goes on from process to process until the machine is started anew."""

    def __init__(self) -> None:
        self.timeline = _boot_timeline()

    def now(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> int:
        return time.monotonic_ns() // 1_000


def _boot_timeline() -> int:
    try:
        boot = uuid.UUID(BOOT_ID.read_text().strip()).int
    except (OSError, ValueError):
        boot = int.from_bytes(os.urandom(8), "big")
    return boot % 2**63


class VirtualClock:
    """A clock that stands still until it is advanced. `virtual.run_virtual` advances it from timer to timer."""

    def __init__(self, start_us: int = 1_750_000_000_000_000) -> None:
        self.timeline = 0
        self._wall_us = start_us
        self._elapsed_us = 0

    def now(self) -> int:
        return self._wall_us + self._elapsed_us

    def monotonic(self) -> int:
        return self._elapsed_us

    def advance(self, delta_us: int) -> None:
        """Let time pass. Raises `ValueError` for a negative delta: monotonic time never goes back."""
        if delta_us < 0:
            raise ValueError(f"cannot advance the clock by {delta_us} us: time does not go back")
        self._elapsed_us += delta_us

    def shift_wall(self, delta_us: int) -> None:
        """Step the wall clock, as an operator or NTP would. Monotonic time does not notice."""
        self._wall_us += delta_us


class SeededRng(random.Random):
    """The same numbers and ids for the same seed and the same calls. Not for secrets."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._last_us = -1
        self._low = 0

    def uuid7(self, now_us: int, /) -> str:
        """See `Rng.uuid7`. Layout: 48 bits of milliseconds, 12 bits of the fraction, 62 bits random.

        Ids asked for within one microsecond, or after wall time went back, count on from the last one, so that
        the order of ids is the order of asking.
        """
        if now_us > self._last_us:
            self._last_us = now_us
            # The top bit stays free: some 2**37 ids fit before the count could overflow 62 bits.
            self._low = self.getrandbits(61)
        else:
            now_us = self._last_us
            self._low += 1 + self.getrandbits(24)
        milliseconds, rest = divmod(now_us, 1_000)
        text = f"{milliseconds << 80 | 7 << 76 | (rest << 12) // 1_000 << 64 | 2 << 62 | self._low:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class SystemRng(SeededRng):
    """Seeded by the operating system. Ids are unique, not unguessable: secrets come from `secrets`."""

    def __init__(self) -> None:
        super().__init__(int.from_bytes(os.urandom(32), "big"))
