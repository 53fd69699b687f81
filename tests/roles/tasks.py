"""The tasks that tests and benchmarks run, declared once for either SDK.

May touch only the standard library, pydantic and the SDK it is handed: the same file runs under `broadaxe`, under the newest
`hatchet_sdk` and under 1.37.5 in an environment of its own.
"""

import asyncio
import importlib
import os
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel

LONG = timedelta(hours=24)


class Item(BaseModel):
    """Input of most tasks: who it is, and how long the body takes."""

    index: int = 0
    text: str = ""
    seconds: float = 0.0
    fail_attempts: int = 0


class Children(BaseModel):
    """Input of a parent: how many children, and of which kind."""

    count: int
    text: str = ""


def item(index: int, size: int = 100) -> Item:
    """An input of `size` bytes as JSON."""
    empty = len(Item(index=index).model_dump_json())
    return Item(index=index, text="x" * max(0, size - empty))


def connect(sdk: str) -> Any:
    """A client of the SDK by module name, configured by its environment variables."""
    module = importlib.import_module(sdk)
    return getattr(module, "Broadaxe" if sdk == "broadaxe" else "Hatchet")()


def record(index: int, attempt: int, run_id: str) -> None:
    """Leaves one line that survives a SIGKILL of this process: index, attempt, nanoseconds, process, run."""
    path = Path(os.environ["ROLE_RECORDS"]) / f"executions-{os.getpid()}.txt"
    line = f"{index} {attempt} {time.time_ns()} {os.getpid()} {run_id}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def declare(client: Any) -> SimpleNamespace:  # noqa: C901 - one short function a task
    """All tasks, as attributes by name."""

    @client.task(name="noop", input_validator=Item, schedule_timeout=LONG)
    async def noop(input: Item, ctx: Any) -> None:  # noqa: A002 - the SDKs' own name
        return None

    ten = client.workflow(name="ten", input_validator=Item)

    @ten.task(name="first", schedule_timeout=LONG)
    async def first(input: Item, ctx: Any) -> None:  # noqa: A002
        return None

    middles = []
    for number in range(8):

        @ten.task(name=f"middle{number}", parents=[first], schedule_timeout=LONG)
        async def middle(input: Item, ctx: Any) -> None:  # noqa: A002
            return None

        middles.append(middle)

    @ten.task(name="last", parents=middles, schedule_timeout=LONG)
    async def last(input: Item, ctx: Any) -> None:  # noqa: A002
        return None

    @client.task(name="stamp", input_validator=Item, schedule_timeout=LONG)
    async def stamp(input: Item, ctx: Any) -> dict[str, int]:  # noqa: A002
        return {"started_ns": time.time_ns()}

    @client.task(name="hold", input_validator=Item, schedule_timeout=LONG)
    async def hold(input: Item, ctx: Any) -> None:  # noqa: A002
        return None

    @client.task(name="echo", input_validator=Item)
    async def echo(input: Item, ctx: Any) -> dict[str, Any]:  # noqa: A002
        return {
            "index": input.index,
            "text": input.text,
            "workflow_run_id": ctx.workflow_run_id,
            "retry_count": ctx.retry_count,
            "metadata": dict(ctx.additional_metadata),
        }

    @client.task(name="echo-in-thread", input_validator=Item)
    def echo_in_thread(input: Item, ctx: Any) -> dict[str, Any]:  # noqa: A002
        time.sleep(input.seconds)  # the body is the wait
        return {"index": input.index}

    @client.task(name="fail", input_validator=Item)
    async def fail(input: Item, ctx: Any) -> None:  # noqa: A002
        raise ValueError(f"task {input.index} refused: {input.text}")

    @client.task(name="flaky", input_validator=Item, retries=3)
    async def flaky(input: Item, ctx: Any) -> dict[str, int]:  # noqa: A002
        if ctx.retry_count < input.fail_attempts:
            raise RuntimeError(f"attempt {ctx.retry_count} fails")
        return {"retry_count": ctx.retry_count}

    @client.task(
        name="recorded",
        input_validator=Item,
        schedule_timeout=LONG,
        execution_timeout=timedelta(seconds=int(os.environ.get("ROLE_EXECUTION_TIMEOUT", "600"))),
        retries=2,
    )
    async def recorded(input: Item, ctx: Any) -> dict[str, int]:  # noqa: A002
        record(input.index, ctx.retry_count, ctx.workflow_run_id)
        if input.seconds:
            await asyncio.sleep(input.seconds)  # the body is the wait
        if ctx.retry_count < input.fail_attempts:
            raise RuntimeError(f"attempt {ctx.retry_count} fails")
        return {"index": input.index}

    @client.task(
        name="parent",
        input_validator=Children,
        schedule_timeout=LONG,
        execution_timeout=timedelta(minutes=10),
    )
    async def parent(input: Children, ctx: Any) -> dict[str, Any]:  # noqa: A002
        started = time.perf_counter()
        results = await noop.aio_run_many(
            [noop.create_bulk_run_item(input=item(index)) for index in range(input.count)]
        )
        return {"children": len(results), "seconds": time.perf_counter() - started}

    @client.task(name="family", input_validator=Children, execution_timeout=timedelta(minutes=2))
    async def family(input: Children, ctx: Any) -> dict[str, Any]:  # noqa: A002
        one = await echo.aio_run(Item(index=100, text=input.text))
        many = await echo.aio_run_many(
            [echo.create_bulk_run_item(input=Item(index=index)) for index in range(input.count)]
        )
        return {
            "one": one,
            "many": [result["index"] for result in many],
            "metadata": many[0]["metadata"] if many else {},
        }

    @client.task(name="chunks", input_validator=Item)
    async def chunks(input: Item, ctx: Any) -> dict[str, int]:  # noqa: A002
        # The subscriber says by a file that it listens: a stream does not replay what came before it.
        while not Path(input.text).exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.02)  # between two looks at the file
        for index in range(input.index):
            await ctx.aio_put_stream(f"chunk {index};")
        return {"chunks": input.index}

    @client.task(name="unserialisable", input_validator=Item)
    async def unserialisable(input: Item, ctx: Any) -> dict[str, Any]:  # noqa: A002
        return {"index": object()}

    flow = declare_flow(client) if type(client).__module__.startswith("broadaxe") else {}
    return SimpleNamespace(
        **flow,
        noop=noop,
        ten=ten,
        stamp=stamp,
        hold=hold,
        echo=echo,
        echo_in_thread=echo_in_thread,
        fail=fail,
        flaky=flaky,
        recorded=recorded,
        parent=parent,
        family=family,
        chunks=chunks,
        unserialisable=unserialisable,
    )


def declare_flow(client: Any) -> dict[str, Any]:
    """Tasks whose flow the benchmarks measure, by our SDK alone."""
    broadaxe = importlib.import_module("broadaxe")
    one_a_key = broadaxe.ConcurrencyExpression(
        expression="input.text",
        max_runs=1,
        limit_strategy=broadaxe.ConcurrencyLimitStrategy.GROUP_ROUND_ROBIN,
    )

    @client.task(name="keyed", input_validator=Item, schedule_timeout=LONG, concurrency=one_a_key)
    async def keyed(input: Item, ctx: Any) -> None:  # noqa: A002
        return None

    many_a_key = one_a_key.model_copy(update={"max_runs": 1_000})

    @client.task(name="keyed-wide", input_validator=Item, schedule_timeout=LONG, concurrency=many_a_key)
    async def keyed_wide(input: Item, ctx: Any) -> None:  # noqa: A002
        return None

    fast = {"pool": broadaxe.DesiredWorkerLabel(value="fast", required=True)}

    @client.task(name="labelled", input_validator=Item, schedule_timeout=LONG, desired_worker_labels=fast)
    async def labelled(input: Item, ctx: Any) -> None:  # noqa: A002
        return None

    return {"keyed": keyed, "keyed_wide": keyed_wide, "labelled": labelled}
