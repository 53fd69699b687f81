"""Large runs: a random graph whose result can be computed without running it, and parents whose outputs are too much for one message."""

from typing import Any

from flows.base import Flows, Plan, note
from flows.random_graph import edges, value


def declare(flows: Flows) -> None:
    random_graph(flows)
    heavy(flows)


def random_graph(flows: Flows) -> None:
    workflow = flows.workflow("random-graph")
    tasks: list[Any] = []
    for node, parents in enumerate(edges()):
        tasks.append(node_task(flows, workflow, node, [tasks[parent] for parent in parents]))


def node_task(flows: Flows, workflow: Any, node: int, parents: list[Any]) -> Any:
    @workflow.task(name=f"node-{node}", parents=parents)
    async def body(plan: Plan, ctx: Any) -> dict[str, int]:
        return {"value": value(node, [ctx.task_output(parent)["value"] for parent in parents])}

    return body


def heavy(flows: Flows) -> None:
    """Each of three parents returns as many bytes as its plan says."""
    workflow = flows.workflow("heavy")
    parents = [weight(flows, workflow, name) for name in ("brick", "stone", "feather")]

    @workflow.task(name="carrier", parents=parents)
    async def carrier(plan: Plan, ctx: Any) -> dict[str, int]:
        note(plan, ctx, "carrier", "starts")
        return {parent.name: len(ctx.task_output(parent)["text"]) for parent in parents}


def weight(flows: Flows, workflow: Any, name: str) -> Any:
    @workflow.task(name=name)
    async def body(plan: Plan, ctx: Any) -> dict[str, str]:
        return {"text": "x" * int(plan.do.get(name, {}).get("bytes", 10))}

    return body
