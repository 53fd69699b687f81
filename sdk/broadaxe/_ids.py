"""Run ids: UUIDv7 in canonical lower-case text, made by the client so that a repeated trigger names the same run.

Ids of one call sort in its order: the 12 bits after the milliseconds count up, and carry into them. Written for speed
(under a microsecond an id in bulk): a bulk trigger makes tens of thousands.
"""

import os
import time

_VARIANT = "89ab"


def new_run_ids(count: int) -> list[str]:
    """`count` fresh ids, ascending."""
    start = (time.time_ns() // 1_000_000) << 12
    noise = os.urandom(8 * count).hex()
    ids: list[str] = []
    for first in range(0, count, 4096):
        head = f"{(start + first) >> 12:012x}"
        prefix = f"{head[:8]}-{head[8:]}-7"
        tails = range(first * 16, min(first + 4096, count) * 16, 16)
        ids += [
            f"{prefix}{index:03x}-{_VARIANT[index & 3]}{noise[at : at + 3]}-{noise[at + 3 : at + 15]}"
            for index, at in enumerate(tails)
        ]
    return ids


def new_run_id() -> str:
    """One fresh id."""
    value = (time.time_ns() * 4096) // 1_000_000  # the 12 bits hold a fraction of the millisecond
    head = f"{value:015x}"
    tail = os.urandom(8).hex()
    return f"{head[:8]}-{head[8:12]}-7{head[12:]}-{_VARIANT[int(tail[0], 16) & 3]}{tail[1:4]}-{tail[4:]}"
