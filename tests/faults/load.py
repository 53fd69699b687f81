"""A fan-out under which something is killed, and the checks that nothing was lost by it."""

import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.faults.conftest import Field
from tests.processes import Process, wait_until

COMPLETED = 6
"""`TaskRunState.COMPLETED` as stored."""


class Fanout:
    """`count` recorded tasks through one SDK, with its client waiting for every result."""

    def __init__(self, ground: Field, sdk: str, count: int, *, seconds: float = 0.0) -> None:
        self.ground = ground
        self.count = count
        self.client: Process = ground.client(sdk)
        self.client.call(do="warm", timeout=90)
        items = [{"index": index, "seconds": seconds} for index in range(count)]
        self._triggers_first = sdk != "broadaxe"
        self.client.send(do="trigger", task="recorded", items=items)
        if self._triggers_first:
            # An unmodified client repeats a trigger whose answer was lost as a new one (behaviour-core 1.6), so that
            # a kill during its trigger would create tasks twice; ours repeats the same run ids, and may be hit at any time.
            self.client.receive(timeout=120)
        self.client.send(do="results")

    def hit(self, times: int, strike: Callable[[], None], *, seed: int | None = None) -> int:
        """Calls `strike` at so many random moments of the fan-out, spread over its progress; returns the seed used."""
        seed = random.randrange(2**32) if seed is None else seed
        rng = random.Random(seed)
        print(f"seed {seed}")
        # Once right at the beginning, for our SDK while it still triggers; then spread over the progress made.
        moments = [0, *sorted(rng.sample(range(1, int(self.count * 0.9)), times - 1))]
        for moment in moments:
            wait_until(
                partial(self._has_reached, moment),
                what=f"{moment} of {self.count} executions",
                timeout=90,
            )
            time.sleep(rng.random() * 0.05)  # the moment is random on purpose
            strike()
        return seed

    def _has_reached(self, executions: int) -> bool:
        return self.ground.executed() >= executions

    def outcome(self, *, timeout: float = 240) -> list[dict[str, Any]]:
        """All results in order of the triggers; fails on a missing one."""
        if not self._triggers_first:
            triggered = self.client.receive(timeout=timeout)
            assert len(triggered["run_ids"]) == self.count
            assert len(set(triggered["run_ids"])) == self.count
        results = self.client.receive(timeout=timeout)["results"]
        assert len(results) == self.count
        return list(results)

    async def check(self, *, within: float = 240) -> None:
        """Every task completed with its own output, none is left, none was lost; prints the duplicate executions."""
        results = self.outcome(timeout=within)
        wrong = [(index, result) for index, result in enumerate(results) if result != {"index": index}]
        assert not wrong, f"{len(wrong)} wrong results, first {wrong[:3]}"
        executions = self.ground.executions()
        times = Counter(execution.index for execution in executions)
        lost = [index for index in range(self.count) if times[index] == 0]
        assert not lost, f"{len(lost)} tasks completed without an execution: {lost[:5]}"
        same_attempt = Counter((execution.index, execution.attempt) for execution in executions)
        print(
            f"{self.count} tasks, {len(executions)} executions: {len(executions) - self.count} duplicates, "
            f"{sum(n - 1 for n in same_attempt.values())} of them within one attempt, "
            f"{sum(execution.attempt > 0 for execution in executions)} of later attempts"
        )
        assert await self.ground.live() == 0
        assert await self.ground.ended() == Counter({COMPLETED: self.count})
