"""Retries, timeouts and cancellation: what one task goes through."""

import asyncio
import time
from datetime import timedelta
from typing import Any

from flows.base import Flows, Plan, act, is_open, note, opened

TOO_MANY_SLOTS = 100_000
"""More than any worker of the tests has: such a task is never scheduled."""


def declare(flows: Flows) -> None:
    flows.single("retried", retries=3)
    flows.single("backed-off", retries=2, backoff_factor=1.5, backoff_max_seconds=2)
    flows.single("cancellable", retries=3)
    flows.single("slow-retry", retries=3, backoff_factor=60.0)
    flows.single("times-out", retries=1, execution_timeout=timedelta(seconds=1))
    never_scheduled(flows)
    final(flows)
    threads(flows)
    refreshed(flows)
    cancels_itself(flows)


def final(flows: Flows) -> None:
    @flows.client.task(name="final", input_validator=Plan, retries=3)
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        note(plan, ctx, "final", "starts")
        raise flows.sdk.NonRetryableException("this is final")

    flows.add("final", body)


def never_scheduled(flows: Flows) -> None:
    workflow = flows.workflow("starved")
    start = flows.step(workflow, "start")
    starved = flows.step(
        workflow,
        "starved",
        [start],
        slot_cost=TOO_MANY_SLOTS,
        schedule_timeout=timedelta(seconds=1),
        retries=3,
    )
    flows.step(workflow, "below", [starved])
    flows.step(workflow, "aside", [start])

    @workflow.on_failure_task(name="rescue")
    async def on_failure(plan: Plan, ctx: Any) -> dict[str, Any]:
        return await act(plan, ctx, "rescue")

    flows.single("queued", slot_cost=TOO_MANY_SLOTS)


def threads(flows: Flows) -> None:
    """Blocking tasks: they are signalled, and look at the flag themselves."""

    def watch(plan: Plan, ctx: Any, name: str) -> dict[str, Any]:
        note(plan, ctx, name, "starts")
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if ctx.exit_flag:
                note(plan, ctx, name, "sees the flag")
                raise RuntimeError(f"{name} stops as it was told")
            if is_open(plan.group):
                return {"retry_count": ctx.retry_count}
            time.sleep(0.02)  # between two looks
        return {"never": "told"}

    @flows.client.task(name="thread", input_validator=Plan, retries=3)
    def thread(plan: Plan, ctx: Any) -> dict[str, Any]:
        return watch(plan, ctx, "thread")

    @flows.client.task(name="thread-times-out", input_validator=Plan, retries=1, execution_timeout="1s")
    def thread_times_out(plan: Plan, ctx: Any) -> dict[str, Any]:
        if ctx.retry_count:
            return {"retry_count": ctx.retry_count}
        return watch(plan, ctx, "thread-times-out")

    flows.add("thread", thread)
    flows.add("thread-times-out", thread_times_out)


def refreshed(flows: Flows) -> None:
    """Adds `count` times a second to its two, then waits for its gate."""

    @flows.client.task(name="refreshed", input_validator=Plan, execution_timeout=timedelta(seconds=2))
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        note(plan, ctx, "refreshed", "starts")
        for _ in range(plan.count):
            await asyncio.to_thread(ctx.refresh_timeout, timedelta(seconds=1))
        note(plan, ctx, "refreshed", "has refreshed")
        try:
            await opened(plan.group)
        except asyncio.CancelledError:
            note(plan, ctx, "refreshed", "is told to stop")
            raise
        return {"retry_count": ctx.retry_count}

    flows.add("refreshed", body)


def cancels_itself(flows: Flows) -> None:
    @flows.client.task(name="cancels-itself", input_validator=Plan, retries=3)
    async def from_a_coroutine(plan: Plan, ctx: Any) -> dict[str, Any]:
        note(plan, ctx, "cancels-itself", "starts")
        try:
            await ctx.aio_cancel()  # it may be stopped here already
            await asyncio.sleep(30)  # the body is the wait: it is to be stopped here at the latest
        except asyncio.CancelledError:
            note(plan, ctx, "cancels-itself", "is told to stop")
            raise
        return {"never": "stopped"}

    @flows.client.task(name="cancels-itself-in-thread", input_validator=Plan, retries=3)
    def from_a_thread(plan: Plan, ctx: Any) -> dict[str, Any]:
        note(plan, ctx, "cancels-itself-in-thread", "starts")
        ctx.cancel()
        note(plan, ctx, "cancels-itself-in-thread", "has cancelled", flag=ctx.exit_flag)
        return {"late": "answer"}

    flows.add("cancels-itself", from_a_coroutine)
    flows.add("cancels-itself-in-thread", from_a_thread)
