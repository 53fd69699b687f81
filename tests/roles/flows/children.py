"""Tasks that spawn runs: by index, by key, one by one, several levels deep."""

import asyncio
from datetime import timedelta
from typing import Any

from flows.base import Flows, Plan, Planned, note, run_ids

HOUR = timedelta(hours=1)


def declare(flows: Flows) -> None:
    child = flows.single("child", schedule_timeout=HOUR)
    told(flows)
    by_index(flows, child)
    by_key(flows, child)
    one_by_one(flows, child)
    waits(flows, child)
    careful(flows, child)
    of_workflows(flows)
    levels(flows)


def told(flows: Flows) -> None:
    """A child that tells what it knows of its parent, and a parent that asks it."""

    @flows.client.task(name="knows-parent", input_validator=Plan)
    async def knows_parent(plan: Plan, ctx: Any) -> dict[str, Any]:
        return {
            "parent": ctx.parent_workflow_run_id,
            "metadata": dict(ctx.additional_metadata),
            "run": ctx.workflow_run_id,
        }

    @flows.client.task(name="has-child", input_validator=Plan)
    async def has_child(plan: Plan, ctx: Any) -> dict[str, Any]:
        told = await knows_parent.aio_run(plan, additional_metadata={"from": "child", "own": "yes"})
        run, task_run = run_ids(ctx)
        return {"child": told, "run": run, "task_run": task_run}

    workflow = flows.workflow("has-child-in-graph")
    first = flows.step(workflow, "first")

    @workflow.task(name="spawner", parents=[first])
    async def spawner(plan: Plan, ctx: Any) -> dict[str, Any]:
        told = await knows_parent.aio_run(plan)
        run, task_run = run_ids(ctx)
        return {"child": told, "run": run, "task_run": task_run}

    flows.add("knows-parent", knows_parent)
    flows.add("has-child", has_child)


def attempts_of(plan: Plan) -> int:
    return int(plan.do.get("parent", {}).get("fail_attempts", 0))


def by_index(flows: Flows, child: Any) -> None:
    """Spawns `count` children in bulk, notes their ids, and fails afterwards as often as its plan says."""

    @flows.client.task(name="by-index", input_validator=Plan, retries=2)
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        items = [
            child.create_bulk_run_item(input=Plan(tag=plan.tag, group=f"child-{index}"))
            for index in range(
                plan.count + ctx.retry_count
            )  # each attempt spawns one more than the one before
        ]
        refs = await child.aio_run_many_no_wait(items)
        ids = [ref.workflow_run_id for ref in refs]
        note(plan, ctx, "parent", "has spawned", ids=ids)
        results = await asyncio.gather(*(ref.aio_result() for ref in refs))
        if ctx.retry_count < attempts_of(plan):
            raise Planned("the parent fails after it has spawned")
        return {"ids": ids, "tasks": [result["task"] for result in results]}

    flows.add("by-index", body)


def by_key(flows: Flows, child: Any) -> None:
    """As `by-index`, with keys, and in another order at each attempt."""

    @flows.client.task(name="by-key", input_validator=Plan, retries=2)
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        keys = [f"key-{index}" for index in range(plan.count)]
        if ctx.retry_count % 2:
            keys.reverse()
        items = [
            child.create_bulk_run_item(input=Plan(tag=plan.tag, group=key), child_key=key) for key in keys
        ]
        refs = await child.aio_run_many_no_wait(items)
        ids = {key: ref.workflow_run_id for key, ref in zip(keys, refs, strict=True)}
        note(plan, ctx, "parent", "has spawned", ids=ids)
        if ctx.retry_count < attempts_of(plan):
            raise Planned("the parent fails after it has spawned")
        return {"ids": ids}

    flows.add("by-key", body)


def one_by_one(flows: Flows, child: Any) -> None:
    """Single spawns: an awaited one, one not awaited, and one by the blocking call."""

    @flows.client.task(name="one-by-one", input_validator=Plan, retries=1)
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        awaited = await child.aio_run(Plan(tag=plan.tag, group="awaited"))
        ref = await child.aio_run_no_wait(Plan(tag=plan.tag, group="not awaited"))
        note(plan, ctx, "parent", "has spawned", ids=[ref.workflow_run_id])
        if ctx.retry_count < attempts_of(plan):
            raise Planned("the parent fails after it has spawned")
        return {"awaited": awaited, "not_awaited": (await ref.aio_result())["task"]}

    @flows.client.task(name="from-a-thread", input_validator=Plan)
    def blocking(plan: Plan, ctx: Any) -> dict[str, Any]:
        one = child.run(Plan(tag=plan.tag))
        many = child.run_many([child.create_bulk_run_item(input=Plan(tag=plan.tag)) for _ in range(3)])
        return {"one": one["task"], "many": [result["task"] for result in many]}

    flows.add("one-by-one", body)
    flows.add("from-a-thread", blocking)


def waits(flows: Flows, child: Any) -> None:
    """Waits for a child that waits for its gate, and says when it is told to stop."""

    @flows.client.task(name="waits-for-child", input_validator=Plan)
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        ref = await child.aio_run_no_wait(Plan(tag=plan.tag, do=plan.do))
        note(plan, ctx, "parent", "has spawned", ids=[ref.workflow_run_id])
        try:
            return {"child": await ref.aio_result()}
        except asyncio.CancelledError:
            note(plan, ctx, "parent", "is told to stop")
            raise

    flows.add("waits-for-child", body)


def careful(flows: Flows, child: Any) -> None:
    """Catches what its child raises; gathers with failures in their places."""

    @flows.client.task(name="careful", input_validator=Plan)
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        failing = Plan(tag=plan.tag, do={"child": {"error": "the child says no"}})
        try:
            await child.aio_run(failing)
        except Exception as error:
            texts = [str(error), *(str(one) for one in getattr(error, "exceptions", ()))]
            caught = "\n".join(texts)
        else:
            caught = "nothing"
        results = await child.aio_run_many(
            [
                child.create_bulk_run_item(input=Plan(tag=plan.tag)),
                child.create_bulk_run_item(input=failing),
                child.create_bulk_run_item(input=Plan(tag=plan.tag)),
            ],
            return_exceptions=True,
        )
        return {"caught": caught, "failed": [isinstance(result, Exception) for result in results]}

    flows.add("careful", body)


def of_workflows(flows: Flows) -> None:
    """A parent whose children are workflows of two tasks, as in the documents' fan-out."""
    workflow = flows.workflow("child-graph")
    process = flows.step(workflow, "process")
    flows.step(workflow, "process2", [process])

    @flows.client.task(name="spawns-graphs", input_validator=Plan)
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        results = await workflow.aio_run_many(
            [
                workflow.create_bulk_run_item(
                    input=Plan(tag=plan.tag, do={"process": {"value": index}}), key=f"child{index}"
                )
                for index in range(plan.count)
            ]
        )
        return {"seen": [result["process2"]["parents"]["process"] for result in results]}

    flows.add("spawns-graphs", body)


def levels(flows: Flows) -> None:
    """`count` tasks a level, `depth` levels: the first spawns the first level in bulk, each task below spawns one of the next."""

    @flows.client.task(name="level", input_validator=Plan, schedule_timeout=HOUR, execution_timeout=HOUR)
    async def level(plan: Plan, ctx: Any) -> dict[str, Any]:
        if plan.depth == 0:
            return {"sum": plan.count}
        below = Plan(tag=plan.tag, count=plan.count, depth=plan.depth - 1)
        return {"sum": (await level.aio_run(below))["sum"] + 1}

    @flows.client.task(name="levels", input_validator=Plan, schedule_timeout=HOUR, execution_timeout=HOUR)
    async def levels_(plan: Plan, ctx: Any) -> dict[str, Any]:
        results = await level.aio_run_many(
            [
                level.create_bulk_run_item(input=Plan(tag=plan.tag, count=index, depth=plan.depth - 1))
                for index in range(plan.count)
            ]
        )
        return {"sums": [result["sum"] for result in results]}

    flows.add("level", level)
    flows.add("levels", levels_)
