"""Imports both packages in the order given, and runs one task through each: `both.py PACKAGE PACKAGE`.

Ours takes the documented `HATCHET_CLIENT_*` variables where its own are not set, so both work in one namespace.
"""

import asyncio
import importlib
import sys

import tasks
from tasks import Item


async def run() -> str:
    for package in sys.argv[1:]:
        importlib.import_module(package)
    answers = []
    for index, package in enumerate(sys.argv[1:]):
        declared = tasks.declare(tasks.connect(package))
        output = await declared.echo.aio_run(Item(index=index))
        answers.append(f"{package} ran {output['index']}")
    return "; ".join(answers)


if __name__ == "__main__":
    print(asyncio.run(run()))
