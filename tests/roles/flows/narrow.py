"""For a worker with one slot: who holds it, who gives it back, who needs none."""

import time
from datetime import timedelta
from typing import Any

from flows.base import Flows, Plan, is_open, note, opened


def declare(flows: Flows) -> None:
    small = flows.single("small", schedule_timeout=timedelta(minutes=5))
    starving = flows.single("starving", schedule_timeout=timedelta(seconds=2))
    deadlock(flows, starving)
    releases(flows)
    sleeper(flows)
    if flows.is_ours:
        generous(flows, small)


def deadlock(flows: Flows, starving: Any) -> None:
    """Holds the only slot while it waits for a child that needs it."""

    @flows.client.task(name="greedy", input_validator=Plan, execution_timeout=timedelta(seconds=60))
    async def greedy(plan: Plan, ctx: Any) -> dict[str, Any]:
        ref = await starving.aio_run_no_wait(Plan(tag=plan.tag))
        note(plan, ctx, "greedy", "has spawned", ids=[ref.workflow_run_id])
        try:
            result = await ref.aio_result()
        except Exception as error:
            return {"raised": type(error).__name__, "text": str(error)}
        return {"result": result}

    flows.add("greedy", greedy)


def releases(flows: Flows) -> None:
    """Give the slot back and go on until the gate opens."""

    @flows.client.task(name="releases", input_validator=Plan)
    async def from_a_coroutine(plan: Plan, ctx: Any) -> dict[str, Any]:
        note(plan, ctx, "releases", "starts")
        await ctx.aio_release_slot()
        await ctx.aio_release_slot()  # harmless when repeated
        note(plan, ctx, "releases", "has released")
        try:
            await opened(plan.group)
        except BaseException as error:
            note(plan, ctx, "releases", "is told to stop", error=type(error).__name__)
            raise
        return {"released": True}

    @flows.client.task(name="releases-in-thread", input_validator=Plan)
    def from_a_thread(plan: Plan, ctx: Any) -> dict[str, Any]:
        note(plan, ctx, "releases-in-thread", "starts")
        ctx.release_slot()
        note(plan, ctx, "releases-in-thread", "has released")
        while not is_open(plan.group):
            time.sleep(0.02)  # between two looks
        return {"released": True}

    @flows.client.task(
        name="releases-and-times-out", input_validator=Plan, execution_timeout=timedelta(seconds=2)
    )
    async def times_out(plan: Plan, ctx: Any) -> dict[str, Any]:
        await ctx.aio_release_slot()
        note(plan, ctx, "releases-and-times-out", "has released")
        await opened(plan.group)
        return {"released": True}

    flows.add("releases", from_a_coroutine)
    flows.add("releases-in-thread", from_a_thread)
    flows.add("releases-and-times-out", times_out)


def sleeper(flows: Flows) -> None:
    """A graph whose task sleeps, and one whose task waits for an event: neither may hold the slot."""
    sdk = flows.sdk
    workflow = flows.workflow("sleeper")
    start = flows.step(workflow, "start")
    flows.step(workflow, "slept", [start], wait_for=[sdk.SleepCondition(timedelta(seconds=3))])
    flows.step(workflow, "waiting", [start], wait_for=[sdk.UserEventCondition(event_key="sleeper:go")])


def generous(flows: Flows, small: Any) -> None:
    """Waits for children without holding its slot: a setting of our SDK, off unless asked for."""

    @flows.client.task(name="generous", input_validator=Plan, release_slot_while_waiting=True)
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        results = await small.aio_run_many(
            [small.create_bulk_run_item(input=Plan(tag=plan.tag)) for _ in range(plan.count)]
        )
        again = await small.aio_run(Plan(tag=plan.tag))
        return {"children": len(results), "again": again["task"]}

    flows.add("generous", body)
