"""What tasks say while they run: log lines, stream chunks, metadata."""

import asyncio
import logging
from typing import Any

from flows.base import Flows, Plan, note, opened

CONFIG: dict[str, Any] = {"logger": logging.getLogger()}
logging.getLogger().setLevel(logging.INFO)
logger = logging.getLogger(__name__)


def declare(flows: Flows) -> None:
    logs(flows)
    streams(flows)
    metadata(flows)


def logs(flows: Flows) -> None:
    @flows.client.task(name="logs", input_validator=Plan)
    async def by_context(plan: Plan, ctx: Any) -> dict[str, int]:
        for index in range(plan.count):
            ctx.log(f"line {index}")
        ctx.log({"kind": "mapping"})
        return {"lines": plan.count + 1}

    @flows.client.task(name="logs-by-package", input_validator=Plan)
    async def by_package(plan: Plan, ctx: Any) -> dict[str, int]:
        for index in range(plan.count):
            logger.info("packaged %d", index)
        logger.error("packaged error")
        return {"lines": plan.count}

    @flows.client.task(name="logs-in-thread", input_validator=Plan)
    def in_thread(plan: Plan, ctx: Any) -> dict[str, int]:
        logger.info("from a thread")
        ctx.log("said in a thread")
        return {"lines": 2}

    @flows.client.task(name="logs-and-fails", input_validator=Plan, retries=1)
    async def fails(plan: Plan, ctx: Any) -> dict[str, int]:
        ctx.log(f"attempt {ctx.attempt_number}")
        if not ctx.retry_count:
            raise RuntimeError("once")
        return {"lines": 1}

    flows.add("logs", by_context)
    flows.add("logs-by-package", by_package)
    flows.add("logs-in-thread", in_thread)
    flows.add("logs-and-fails", fails)


def streams(flows: Flows) -> None:
    """Says "ready" until the gate opens, for a stream is not replayed; then counts, then says "end"."""

    @flows.client.task(name="streams", input_validator=Plan)
    async def body(plan: Plan, ctx: Any) -> dict[str, int]:
        note(plan, ctx, "streams", "starts")
        await opened(plan.group)
        for index in range(plan.count):
            await ctx.aio_put_stream(f"{index};")
            if index % 50 == 0:
                await asyncio.sleep(0)  # so that the tasks that stream take turns
        await ctx.aio_put_stream("end")
        return {"chunks": plan.count}

    flows.add("streams", body)


def metadata(flows: Flows) -> None:
    async def echo(plan: Plan, ctx: Any) -> dict[str, Any]:
        return {"metadata": dict(ctx.additional_metadata)}

    flows.add("metadata", flows.client.task(name="metadata", input_validator=Plan)(echo))
    flows.add(
        "metadata-by-default",
        flows.client.task(
            name="metadata-by-default",
            input_validator=Plan,
            default_additional_metadata={"team": "default", "tier": "gold"},
        )(echo),
    )
    by_event = flows.client.task(name="metadata-by-event", input_validator=Plan, on_events=["metadata:event"])

    async def noted(plan: Plan, ctx: Any) -> dict[str, Any]:
        note(plan, ctx, "metadata-by-event", "starts", metadata=dict(ctx.additional_metadata))
        return {}

    flows.add("metadata-by-event", by_event(noted))
