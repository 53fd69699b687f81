"""A client process: `client.py SDK`. Reads one JSON command a line, answers each by one line that opens with `@@ `.

A command is `{"do": <name of a function below>, ...its arguments}`.
"""

import asyncio
import json
import resource
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tasks
from pydantic import BaseModel
from tasks import Children, Item, item


def options(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


class Commands:
    """What a client process can be told to do; each public method is one command."""

    def __init__(self, sdk: str) -> None:
        self._sdk = sdk
        self._client = tasks.connect(sdk)
        self._tasks: SimpleNamespace = tasks.declare(self._client)
        self._refs: list[Any] = []

    def _task(self, name: str) -> Any:
        return getattr(self._tasks, name)

    async def warm(self, *, within: float = 60.0) -> dict[str, Any]:
        """Runs one task, again while the engine does not know it yet: then a worker serves."""
        deadline = time.monotonic() + within
        while True:
            try:
                await asyncio.wait_for(self._tasks.echo.aio_run(Item(index=1)), deadline - time.monotonic())
            except TimeoutError:  # on 3.11 it is asyncio's too
                raise
            except Exception:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)  # between two looks for the workflow
            else:
                return {"warm": True}

    async def fanout(self, *, count: int, size: int = 100, task: str = "noop") -> dict[str, Any]:
        """Triggers `count` tasks in bulk and waits for every result. The clock runs from the first trigger to the last result."""
        chosen = self._task(task)
        items = [chosen.create_bulk_run_item(input=item(index, size)) for index in range(count)]
        began_ns = time.time_ns()
        started = time.perf_counter()
        results = await chosen.aio_run_many(items)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "results": len(results), "began_ns": began_ns}

    async def one_by_one(self, *, count: int, task: str = "noop") -> dict[str, Any]:
        """Runs tasks one after the other, each triggered when the one before has its result."""
        chosen = self._task(task)
        started = time.perf_counter()
        for index in range(count):
            await chosen.aio_run(item(index))
        return {"seconds": time.perf_counter() - started}

    async def enqueue(self, *, count: int, chunk: int, task: str = "hold") -> dict[str, Any]:
        """Triggers `count` tasks in bulk calls of `chunk` without waiting for a result."""
        chosen = self._task(task)
        started = time.perf_counter()
        for begin in range(0, count, chunk):
            await chosen.aio_run_many_no_wait(
                [
                    chosen.create_bulk_run_item(input=item(index))
                    for index in range(begin, min(begin + chunk, count))
                ]
            )
        return {"seconds": time.perf_counter() - started}

    async def queue(
        self, *, count: int, task: str, keys: int = 1, name: str = "key", chunk: int = 10_000
    ) -> dict[str, Any]:
        """Triggers `count` tasks in bulk, of `keys` texts in turn, without waiting; `drain` waits for their results."""
        chosen = self._task(task)
        started = time.perf_counter()
        for begin in range(0, count, chunk):
            self._refs += await chosen.aio_run_many_no_wait(
                [
                    chosen.create_bulk_run_item(input=Item(index=index, text=f"{name} {index % keys:070d}"))
                    for index in range(begin, min(begin + chunk, count))
                ]
            )
        return {"seconds": time.perf_counter() - started}

    async def drain(self, *, last: int | None = None) -> dict[str, Any]:
        """Waits for the results of what `queue` triggered, or of the last of it. Raises when a task failed."""
        kept = len(self._refs) - last if last is not None else 0
        refs, self._refs = self._refs[kept:], self._refs[:kept]
        started = time.perf_counter()
        await asyncio.gather(*(ref.aio_result() for ref in refs))
        return {"seconds": time.perf_counter() - started, "results": len(refs)}

    async def singles(self, *, rate: float, seconds: float, task: str = "stamp") -> dict[str, Any]:
        """Triggers single tasks at a steady rate, however long the answers take (an open loop).

        Start latency runs from the call to the first line of the task's body, result latency from the call to the value.
        """
        chosen = self._task(task)
        start_ms: list[float] = []
        result_ms: list[float] = []
        late_ms: list[float] = []

        async def one(index: int) -> None:
            called_ns = time.time_ns()
            output = await chosen.aio_run(item(index))
            ended_ns = time.time_ns()
            start_ms.append((output["started_ns"] - called_ns) / 1e6)
            result_ms.append((ended_ns - called_ns) / 1e6)

        loop = asyncio.get_running_loop()
        begin = loop.time()
        running = []
        for index in range(int(rate * seconds)):
            due = begin + index / rate
            delay = due - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)  # the rate is the measure
            late_ms.append(max(0.0, (loop.time() - due) * 1e3))
            running.append(asyncio.create_task(one(index)))
        await asyncio.gather(*running)
        return {
            "start_ms": start_ms,
            "result_ms": result_ms,
            "late_ms": late_ms,
            "seconds": loop.time() - begin,
        }

    async def spawn(self, *, count: int) -> dict[str, Any]:
        """One parent task that runs `count` children and gathers their results."""
        started = time.perf_counter()
        output = await self._tasks.parent.aio_run(Children(count=count))
        return {"seconds": time.perf_counter() - started, **{f"parent_{k}": v for k, v in output.items()}}

    async def family(self, *, count: int) -> dict[str, Any]:
        return dict(await self._tasks.family.aio_run(Children(count=count, text="one")))

    async def run(
        self, *, task: str, item: dict[str, Any], metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Runs one task and answers its output, or what was raised."""
        return await self._outcome(self._awaited(task, item, metadata))

    async def _awaited(self, task: str, value: dict[str, Any], metadata: dict[str, Any] | None) -> Any:
        return await self._task(task).aio_run(Item(**value), **options(additional_metadata=metadata))

    async def run_sync(self, *, task: str, item: dict[str, Any]) -> dict[str, Any]:
        """The synchronous call, in a thread of its own."""
        return await self._outcome(asyncio.to_thread(self._task(task).run, Item(**item)))

    async def run_many(self, *, task: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Runs several tasks in bulk; failures stand in their places."""
        chosen = self._task(task)
        results = await chosen.aio_run_many(
            [chosen.create_bulk_run_item(input=Item(**value)) for value in items], return_exceptions=True
        )
        return {"results": [self._plain(result) for result in results]}

    async def trigger(
        self,
        *,
        task: str,
        items: list[dict[str, Any]],
        chunk: int = 1000,
    ) -> dict[str, Any]:
        """Triggers tasks in bulk without waiting; `results` collects them."""
        chosen = self._task(task)
        ids = []
        for begin in range(0, len(items), chunk):
            refs = await chosen.aio_run_many_no_wait(
                [chosen.create_bulk_run_item(input=Item(**value)) for value in items[begin : begin + chunk]]
            )
            self._refs += refs
            ids += [ref.workflow_run_id for ref in refs]
        return {"run_ids": ids}

    async def results(self) -> dict[str, Any]:
        """Waits for everything triggered so far and not collected yet."""
        refs, self._refs = self._refs, []
        results = await asyncio.gather(*(ref.aio_result() for ref in refs), return_exceptions=True)
        return {"results": [self._plain(result) for result in results]}

    async def stream(self, *, count: int, gate: str) -> dict[str, Any]:
        """Subscribes to a task's stream, opens the gate for it to begin, and answers the chunks."""
        ref = await self._tasks.chunks.aio_run_no_wait(Item(index=count, text=gate))
        received: list[str] = []

        async def consume() -> None:
            async for chunk in self._client.runs.subscribe_to_stream(ref.workflow_run_id):
                received.append(chunk if isinstance(chunk, str) else bytes(chunk).decode())  # noqa: PERF401 - kept on a time-out

        consumer = asyncio.create_task(consume())
        await asyncio.sleep(1.5)  # neither SDK says when its subscription stands at the engine
        Path(gate).touch()  # noqa: ASYNC240 - a touch
        await asyncio.wait_for(consumer, 30)
        output = await ref.aio_result()
        return {"chunks": received, "output": output}

    async def usage(self) -> dict[str, Any]:
        """CPU seconds of this process so far."""
        spent = resource.getrusage(resource.RUSAGE_SELF)
        return {"cpu_seconds": spent.ru_utime + spent.ru_stime}

    async def _outcome(self, awaitable: Any) -> dict[str, Any]:
        try:
            return {"output": self._plain(await awaitable)}
        except Exception as error:
            return {"raised": self._plain(error)}

    def _plain(self, value: Any) -> Any:
        if isinstance(value, BaseException):
            texts = [str(value), *(str(inner) for inner in getattr(value, "exceptions", ()))]
            return {"raised": type(value).__name__, "text": "\n".join(texts)}
        if isinstance(value, BaseModel):
            return value.model_dump()
        return value


async def serve(sdk: str) -> None:
    commands = Commands(sdk)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = json.dumps(await getattr(commands, command.pop("do"))(**command))
        except Exception:
            answer = json.dumps({"error": traceback.format_exc()})
        print("@@ " + answer, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
