"""Flows that say which worker is to run them. Served by two workers: see `EAST` and `WEST` of `tests/e2e/flow/conftest.py`."""

from datetime import timedelta
from typing import Any

from flows.base import Flows, Plan, at_most, desired_label, note, opened

SOON = timedelta(seconds=2)


def declare(flows: Flows) -> None:
    compared(flows)
    weighed(flows)
    told_at_run_time(flows)
    sticky_graphs(flows)
    children(flows)
    combined(flows)


def compared(flows: Flows) -> None:
    """One required label, by each comparator."""
    for comparator, value in {
        "EQUAL": 512,
        "NOT_EQUAL": 512,
        "GREATER_THAN": 256,
        "GREATER_THAN_OR_EQUAL": 512,
        "LESS_THAN": 512,
        "LESS_THAN_OR_EQUAL": 256,
    }.items():
        wanted = desired_label(flows.sdk, value, comparator, key="memory", required=True)
        flows.single(f"memory-{comparator}", desired_worker_labels=[wanted])
    for comparator in ("EQUAL", "NOT_EQUAL"):
        wanted = desired_label(flows.sdk, "small", comparator, required=True)
        flows.single(f"model-{comparator}", desired_worker_labels={"model": wanted})


def weighed(flows: Flows) -> None:
    def single(name: str, *labels: Any, **settings: Any) -> None:
        flows.single(name, desired_worker_labels=list(labels), **settings)

    def label(key: str, value: str | int, comparator: str = "EQUAL", **more: Any) -> Any:
        return desired_label(flows.sdk, value, comparator, key=key, **more)

    single("heavier", label("region", "east", weight=10), label("memory", 256, weight=50))
    single(
        "sum-of-weights",
        label("region", "east", weight=30),
        label("memory", 512, "GREATER_THAN_OR_EQUAL", weight=30),
        label("model", "small", weight=50),
    )
    single(
        "required-beats-weight", label("model", "large", required=True), label("region", "west", weight=1000)
    )
    single("avoids", label("region", "east", weight=-10))
    single("default-weight", label("region", "west"), label("model", "large", weight=99))
    single("nowhere", label("region", "moon", required=True), schedule_timeout=SOON)
    single("without-the-label", label("colour", 3, "NOT_EQUAL", required=True), schedule_timeout=SOON)
    single("text-is-no-number", label("region", 3, "GREATER_THAN", required=True), schedule_timeout=SOON)


def told_at_run_time(flows: Flows) -> None:
    flows.single("anywhere")
    flows.single(
        "wants-east",
        desired_worker_labels=[desired_label(flows.sdk, "east", key="region", required=True)],
    )

    graph = flows.workflow("plain-graph")
    one = flows.step(graph, "one")
    flows.step(graph, "two", [one])

    @flows.client.task(name="loads", input_validator=Plan)
    def from_a_thread(plan: Plan, ctx: Any) -> dict[str, Any]:
        note(plan, ctx, "loads", "starts")
        # The documented form; through it the newest official client sends no worker id.
        upsert = ctx.worker.upsert_labels if flows.is_ours else ctx.upsert_worker_labels
        upsert({plan.group: plan.count})
        return {"labels": dict(ctx.worker_labels)}

    @flows.client.task(name="aio-loads", input_validator=Plan)
    async def from_a_coroutine(plan: Plan, ctx: Any) -> dict[str, Any]:
        note(plan, ctx, "aio-loads", "starts")
        await ctx.aio_upsert_worker_labels({plan.group: plan.count})
        return {"labels": dict(ctx.worker_labels)}

    flows.add("loads", from_a_thread)
    flows.add("aio-loads", from_a_coroutine)


def sticky_graphs(flows: Flows) -> None:
    sdk = flows.sdk
    for name, strategy in (("soft", "SOFT"), ("hard", "HARD")):
        workflow = flows.workflow(name, sticky=sdk.StickyStrategy[strategy])
        one = flows.step(workflow, "one")
        two = flows.step(workflow, "two", [one], retries=1)
        flows.step(workflow, "three", [two])

    short = flows.workflow("hard-short", sticky=sdk.StickyStrategy.HARD)
    one = flows.step(short, "one")
    flows.step(short, "two", [one], schedule_timeout=SOON)

    roots = flows.workflow("hard-roots", sticky=sdk.StickyStrategy.HARD)
    left, right = flows.step(roots, "left"), flows.step(roots, "right")
    flows.step(roots, "join", [left, right])

    placed = flows.workflow("hard-placed", sticky=sdk.StickyStrategy.HARD)
    wanted = desired_label(sdk, "west", key="region", required=True)
    one = flows.step(placed, "one", desired_worker_labels=[wanted])
    flows.step(placed, "two", [one])


def children(flows: Flows) -> None:
    sdk = flows.sdk
    soft = flows.single("soft-child", sticky=sdk.StickyStrategy.SOFT)
    hard = flows.single("hard-child", sticky=sdk.StickyStrategy.HARD)
    loose = flows.single("loose-child")

    @flows.client.task(name="stranger", input_validator=Plan, sticky=sdk.StickyStrategy.SOFT)
    async def stranger(plan: Plan, ctx: Any) -> dict[str, Any]:  # declared here, and served by no worker
        return {}

    spawned = {"soft-child": soft, "hard-child": hard, "loose-child": loose, "stranger": stranger}

    @flows.client.task(name="sticky-parent", input_validator=Plan)
    async def parent(plan: Plan, ctx: Any) -> dict[str, Any]:
        """Spawns `count` children of the plan's group, sticky, and says what became of that."""
        note(plan, ctx, "sticky-parent", "starts")
        child = spawned[plan.group]
        options = sdk.TriggerWorkflowOptions(sticky=True)
        items = [
            child.create_bulk_run_item(input=Plan(tag=plan.tag, do=plan.do), options=options)
            for _ in range(plan.count)
        ]
        try:
            refs = await child.aio_run_many_no_wait(items)
        except Exception as error:
            return {"raised": type(error).__name__, "text": str(error)}
        note(plan, ctx, "sticky-parent", "has spawned", ids=[ref.workflow_run_id for ref in refs])
        if gate := plan.do.get("sticky-parent", {}).get("gate"):
            await opened(gate)
        return {"children": len(refs)}

    flows.add("sticky-parent", parent)


def combined(flows: Flows) -> None:
    """A place in a group, a rate limit, a worker with the memory, and priority."""
    sdk = flows.sdk
    flows.single(
        "everything",
        concurrency=at_most(sdk, "input.group", 1),
        rate_limits=[
            sdk.RateLimit(
                dynamic_key="'all-' + input.tag + input.group", limit=3, duration=sdk.RateLimitDuration.HOUR
            )
        ],
        desired_worker_labels=[desired_label(sdk, 512, "GREATER_THAN_OR_EQUAL", key="memory", required=True)],
    )
