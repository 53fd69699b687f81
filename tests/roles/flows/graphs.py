"""Workflows of several tasks: shapes, on-failure, on-success, defaults, and what cancel and replay act on."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from flows.base import Flows, Plan, act, note


def declare(flows: Flows) -> None:
    diamond(flows)
    chain(flows)
    fork(flows)
    handled(flows)
    praised(flows)
    defaults(flows)
    flows.single("lone")
    flows.single("lone-retried", retries=1)


def diamond(flows: Flows) -> None:
    workflow = flows.workflow("diamond")
    top = flows.step(workflow, "top")
    left = flows.step(workflow, "left", [top])
    right = flows.step(workflow, "right", [top])
    flows.step(workflow, "bottom", [left, right])


def chain(flows: Flows) -> None:
    workflow = flows.workflow("chain")
    one = flows.step(workflow, "one", retries=1)
    two = flows.step(workflow, "two", [one])
    flows.step(workflow, "three", [two])


def fork(flows: Flows) -> None:
    """Two branches below one task, and a task that runs on failure."""
    workflow = flows.workflow("fork")
    start = flows.step(workflow, "start")
    broken = flows.step(workflow, "broken", [start])
    below = flows.step(workflow, "below", [broken])
    flows.step(workflow, "far-below", [below])
    fine = flows.step(workflow, "fine", [start])
    after = flows.step(workflow, "after", [fine])
    flows.step(workflow, "both", [after, below])
    rescue(flows, workflow)


def rescue(flows: Flows, workflow: Any, asks_for: Sequence[Any] = (), **settings: Any) -> None:
    @workflow.on_failure_task(name="rescue", **settings)
    async def on_failure(plan: Plan, ctx: Any) -> dict[str, Any]:
        errors = {name: str(text) for name, text in ctx.task_run_errors.items()}
        note(plan, ctx, "rescue", "sees errors", errors=errors)
        error_of = {task.name: str(ctx.get_task_run_error(task)) for task in asks_for}
        return {**await act(plan, ctx, "rescue"), "errors": errors, "error_of": error_of, "tag": plan.tag}


def handled(flows: Flows) -> None:
    """One task and one that runs on failure; both may be retried."""
    workflow = flows.workflow("handled")
    risky = flows.step(workflow, "risky", retries=1)
    rescue(flows, workflow, [risky], retries=1)


def praised(flows: Flows) -> None:
    """Three tasks, two of them leaves, and one that runs on success."""
    workflow = flows.workflow("praised")
    first = flows.step(workflow, "first")
    flows.step(workflow, "second", [first])
    flows.step(workflow, "third", [first])

    @workflow.on_success_task(name="praise")
    async def on_success(plan: Plan, ctx: Any) -> dict[str, Any]:
        return await act(plan, ctx, "praise")


def defaults(flows: Flows) -> None:
    """Tasks that say nothing take what the workflow says; one that says something keeps it."""
    task_defaults = flows.sdk.TaskDefaults(retries=2, execution_timeout=timedelta(seconds=1))
    workflow = flows.workflow("defaults", task_defaults=task_defaults)
    flows.step(workflow, "plain")
    flows.step(workflow, "own", retries=1, execution_timeout=timedelta(seconds=30))
