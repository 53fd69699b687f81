"""Long lists converted without keeping the loop: in slices on it when the items are small, in a thread when they are large.

A thread is for the few large ones: Python code in a thread makes the loop wait a switch interval (5 ms) at each of its turns.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from broadaxe_actors.errors import Refused
from broadaxe_gateway.rpc.convert.checks import OFF_LOOP_BYTES

T = TypeVar("T")

SLICE_ITEMS = 200
"""About 2 ms of conversion."""


async def convert_all(
    convert: Callable[..., list[T]], size: int, first: Sequence[Any], *others: Sequence[Any]
) -> tuple[T, ...]:
    """`convert(first, *others)` of parallel lists, `size` bytes in all.

    A `Refused` that it raises names the item's place in the list when there are several.
    """
    found: list[T] = []
    count = len(first)
    # By the slice: many small items are soon converted here, and a thread would only fight for the interpreter.
    is_heavy = size * min(count, SLICE_ITEMS) > OFF_LOOP_BYTES * count
    for start in range(0, count, SLICE_ITEMS):
        lists = [items[start : start + SLICE_ITEMS] for items in (first, *others)]
        try:
            if is_heavy:
                found += await asyncio.to_thread(convert, *lists)
            else:
                found += convert(*lists)
        except Refused:
            if count == 1:
                raise
            raise _placed(convert, start, count, lists) from None
        if start + SLICE_ITEMS < count:
            await asyncio.sleep(0)
    return tuple(found)


def _placed(convert: Callable[..., list[Any]], start: int, count: int, lists: list[Sequence[Any]]) -> Refused:
    """The refusal of the first bad item of a slice, with its place."""
    for index in range(len(lists[0])):
        try:
            convert(*(items[index : index + 1] for items in lists))
        except Refused as error:
            return Refused(error.code, f"entry {start + index} of {count}: {error.message}")
    raise AssertionError("a slice was refused, but none of its items")
