"""`python -m benchmarks.event_roles worker|client`: the two processes of the measures of events, with our SDK.

The worker notes when the bodies of its tasks begin; each run knows from its event when that was pushed. Both read one JSON command a line, and
answer each by one line that opens with `@@ `.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from broadaxe import Broadaxe, Context, EmptyModel, UserEventCondition

LISTENERS = 10
CROWDS = 100
"""Workflows that most of the waiting runs belong to; a literal in a condition is all that tells one run from another."""
TARGETS = 40
"""Workflows with one waiting run each."""
TICK, ANSWER = "tick:now", "answer"


class Tick(BaseModel):
    at_ns: int = 0


def declare(client: Broadaxe, noted: list[float]) -> list[Any]:
    """Ten tasks that listen to one key, half of them by patterns; and workflows that wait for an event with a payload of their own."""
    found: list[Any] = []
    for number in range(LISTENERS):

        @client.task(
            name=f"listener-{number}", on_events=[TICK if number % 2 else f"tick:*{'' if number else 'now'}"]
        )
        async def listen(tick: Tick, _: Context) -> None:
            noted.append((time.time_ns() - tick.at_ns) / 1e6)

        found.append(listen)
    for name in (
        *(f"crowd-{number}" for number in range(CROWDS)),
        *(f"target-{number}" for number in range(TARGETS)),
    ):
        workflow = client.workflow(name=name, input_validator=EmptyModel)
        condition = UserEventCondition(event_key=ANSWER, expression=f"input.id == '{name}'")

        @workflow.task(name="wait", wait_for=[condition], schedule_timeout=timedelta(hours=1))
        async def waited(_: EmptyModel, ctx: Context) -> None:
            (payload,) = ctx.triggers.values()
            noted.append((time.time_ns() - payload["at_ns"]) / 1e6)

        found.append(workflow)
    return found


class Client:
    """What the client can be told to do; each public method is one command."""

    def __init__(self) -> None:
        self._client = Broadaxe()
        self._flows = {flow.base_name: flow for flow in declare(self._client, [])}

    async def push(self, *, rate: float, seconds: float) -> dict[str, Any]:
        """Events at a steady rate, however long the answers take."""
        call_ms: list[float] = []
        late_ms: list[float] = []

        async def one() -> None:
            began_ns = time.time_ns()
            await self._client.event.aio_push(TICK, {"at_ns": began_ns})
            call_ms.append((time.time_ns() - began_ns) / 1e6)

        loop = asyncio.get_running_loop()
        begin = loop.time()
        running = []
        for index in range(int(rate * seconds)):
            delay = begin + index / rate - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)  # the rate is the measure
            late_ms.append(max(0.0, -delay * 1e3))
            running.append(asyncio.create_task(one()))
        await asyncio.gather(*running)
        return {"call_ms": call_ms, "late_ms": late_ms}

    async def wait_for(self, *, name: str, count: int) -> dict[str, Any]:
        """Triggers runs that wait."""
        flow = self._flows[name]
        await flow.aio_run_many_no_wait([flow.create_bulk_run_item() for _ in range(count)])
        return {}

    async def answer(self, *, name: str) -> dict[str, Any]:
        """Pushes the event that the runs of one workflow wait for."""
        began_ns = time.time_ns()
        await self._client.event.aio_push(ANSWER, {"id": name, "at_ns": began_ns})
        return {"call_ms": (time.time_ns() - began_ns) / 1e6}

    async def serve(self) -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            reply(await getattr(self, command.pop("do"))(**command))


def work() -> None:
    """A worker that tells what it has noted when it is asked."""
    noted: list[float] = []
    client = Broadaxe()
    worker = client.worker("events", slots=400, workflows=declare(client, noted))

    def answer_commands(stop: Callable[[], None]) -> None:
        for _ in sys.stdin:
            told, noted[:] = list(noted), []
            reply({"body_ms": told})
        stop()

    threading.Thread(target=answer_commands, args=(worker.stop,), daemon=True).start()
    worker.start()


def reply(answer: dict[str, Any]) -> None:
    print("@@ " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        work()
    else:
        asyncio.run(Client().serve())
