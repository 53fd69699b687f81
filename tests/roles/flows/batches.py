"""Tasks that run in batches: by size, by interval, by group, and with one output for all."""

import asyncio
from datetime import timedelta
from typing import Any

from flows.base import Flows, Plan, note, opened


def declare(flows: Flows) -> None:
    batch(flows, "by-size", batch_max_size=3, batch_max_interval=timedelta(seconds=60))
    batch(flows, "by-interval", batch_max_size=1000, batch_max_interval=timedelta(seconds=2))
    batch(
        flows,
        "by-group",
        batch_max_size=2,
        batch_max_interval=timedelta(seconds=60),
        batch_group_key="input.group",
    )
    batch(
        flows,
        "one-at-a-time",
        batch_max_size=2,
        batch_max_interval=timedelta(seconds=1),
        batch_group_key="input.group",
        batch_group_max_runs=1,
    )

    batch(
        flows,
        "metered-batch",
        batch_max_size=2,
        batch_max_interval=timedelta(milliseconds=500),
        batch_group_key="input.group",
        rate_limits=[
            flows.sdk.RateLimit(
                dynamic_key="input.group", units=1, limit=4, duration=flows.sdk.RateLimitDuration.HOUR
            )
        ],
    )

    @flows.client.batch_task(
        name="broadcast",
        input_validator=Plan,
        batch_max_size=3,
        batch_max_interval=timedelta(seconds=60),
        broadcast_output=True,
    )
    async def broadcast(members: dict[str, Plan], ctx: Any) -> dict[str, Any]:
        return {"members": len(members), "groups": sorted(plan.group for plan in members.values())}

    @flows.client.batch_task(
        name="fails-as-one",
        input_validator=Plan,
        batch_max_size=2,
        batch_max_interval=timedelta(seconds=60),
    )
    async def fails_as_one(members: dict[str, Plan], ctx: Any) -> dict[str, dict[str, Any]]:
        raise RuntimeError(f"the batch of {len(members)} fails")

    @flows.client.batch_task(
        name="batch-times-out",
        input_validator=Plan,
        batch_max_size=2,
        batch_max_interval=timedelta(seconds=60),
        execution_timeout=timedelta(seconds=1),
    )
    async def batch_times_out(members: dict[str, Plan], ctx: Any) -> dict[str, dict[str, Any]]:
        await asyncio.sleep(30)  # the body is the wait
        return {member: {"late": True} for member in members}

    flows.add("broadcast", broadcast)
    flows.add("fails-as-one", fails_as_one)
    flows.add("batch-times-out", batch_times_out)


def batch(flows: Flows, name: str, **settings: Any) -> None:
    """A batch task that answers each member its own group and who was with it."""

    @flows.client.batch_task(name=name, input_validator=Plan, **settings)
    async def body(members: dict[str, Plan], ctx: Any) -> dict[str, dict[str, Any]]:
        first = next(iter(members.values()))
        companions = sorted(members)
        note(first, ctx, name, "starts", members=companions)
        if first.do.get(name, {}).get("gate"):
            await opened(first.do[name]["gate"])
        note(first, ctx, name, "ends", members=companions)
        return {
            member: {"group": plan.group, "companions": companions, "member": member}
            for member, plan in members.items()
        }

    flows.add(name, body)
