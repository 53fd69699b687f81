"""Keeps Python's cycle collector from stopping the loop.

With 20,000 live task runs a full collection takes 160 ms, in which nothing is dispatched; measured beside a fan-out, collections were the
longest pauses of the engine. Almost everything here dies by reference count, so full collections are left to a timer: what survived
the last one is frozen and not looked at again, which keeps each of them short. May touch nothing but the collector.
"""

import asyncio
import gc

YOUNG = 20_000
MIDDLE = 3
OLD = 1_000_000
"""Thresholds: a young collection each 20,000 net allocations, a middle one each 3 of those, a full one by `tidy` alone.

A middle collection looks at all that survived since the one before it: at each 50 it took 25 to 35 ms beside a fan-out, every few seconds.
"""
TIDY_SECONDS = 600.0


def settle() -> None:
    """Once the server is up: what exists now stays, and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)


async def tidy() -> None:
    """For as long as the server runs: free the cycles that grew old, every ten minutes."""
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        settle()
