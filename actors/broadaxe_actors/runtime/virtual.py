"""An asyncio loop in virtual time: when nothing is ready, time jumps to the next timer. For tests and simulation.

The same seed and program give the same order of everything, as long as the program asks only its `World` for time
and randomness and orders nothing by hash. Threads and sockets do not belong here: nothing waits for real time, so a loop on
which nothing is due is a deadlock and is reported as one.
"""

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, NoReturn, TypeVar

from broadaxe_actors.runtime.clock import SeededRng, VirtualClock

T = TypeVar("T")


class StandStillError(RuntimeError):
    """Every task waits and no timer is set: time has nowhere to go."""


class _JumpingSelector(selectors.SelectSelector):
    """Advances the clock instead of waiting."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise StandStillError(
                f"virtual time stands still at {self._clock.monotonic()} us: "
                "every task waits for something that no timer and no task will bring"
            )
        if timeout > 0:
            # Rounded up, so that the timer that is waited for is due afterwards.
            self._clock.advance(math.ceil(round(timeout * 1_000_000, 3)))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time` is a `VirtualClock`."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_JumpingSelector(clock))
        self.clock = clock
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.clock.monotonic() / 1_000_000

    def run_in_executor(self, *_args: Any) -> NoReturn:  # type: ignore[override]  # never returns
        raise RuntimeError("a thread takes real time: it cannot be part of a run in virtual time")


class World(NamedTuple):
    """What a program in virtual time is given."""

    clock: VirtualClock
    rng: SeededRng
    loop: VirtualLoop
    seed: int


def run_virtual(main: Callable[[World], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T], seed: int = 0) -> T:
    """Run `main` on a fresh virtual loop to its end and return its result; tasks left over are cancelled.

    `main` is a coroutine function that is given the `World`, or a coroutine (it finds the clock at
    `asyncio.get_running_loop().clock`). Raises what it raises, and `StandStillError` for a deadlock.
    """
    clock = VirtualClock()
    loop = VirtualLoop(clock)
    world = World(clock, SeededRng(seed), loop, seed)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main if isinstance(main, Coroutine) else main(world))
