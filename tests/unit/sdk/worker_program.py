"""A worker as users run it, in a process of its own: `python -m tests.unit.sdk.worker_program ADDRESS`.

Prints what its tasks do, a word a line.
"""

import ctypes
import logging
import sys
import time
from collections.abc import AsyncGenerator

from broadaxe import Context, EmptyModel
from tests.unit.sdk.clients import make_client

client = make_client(sys.argv[1])


def say(word: str) -> None:
    print(word, flush=True)


async def lifespan() -> AsyncGenerator[None, None]:
    say("up")
    yield
    say("down")


@client.task(name="nap")
def nap(input: EmptyModel, ctx: Context) -> dict[str, float]:  # noqa: A002
    say("napping")
    time.sleep(input.seconds)  # type: ignore[attr-defined]
    return {"slept": input.seconds}  # type: ignore[attr-defined]


@client.task(name="hog")
async def hog(input: EmptyModel, ctx: Context) -> dict[str, bool]:  # noqa: A002
    """Hold the interpreter lock in one C call: PyDLL does not release it."""
    say("hogging")
    ctypes.PyDLL(None).sleep(int(input.seconds))  # type: ignore[attr-defined]
    return {"held": True}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    client.worker("program", slots=5, workflows=[nap, hog], lifespan=lifespan).start()
    say("ended")
