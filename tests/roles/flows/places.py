"""Flows whose runs hold places in concurrency groups, and flows in which priority decides."""

import inspect
import os
from datetime import timedelta
from typing import Any

from flows.base import Flows, Plan, act, at_most

ALL_SLOTS = 10
"""Of the worker that serves these."""
HOUR = timedelta(hours=1)


def declare(flows: Flows) -> None:
    groups(flows)
    graphs(flows)
    retried(flows)
    wrong_keys(flows)
    ordered(flows)


def groups(flows: Flows) -> None:
    """One task each; the group is the plan's."""
    sdk = flows.sdk
    flows.single("free")
    flows.single("in-turn", concurrency=at_most(sdk, "input.group", 1), schedule_timeout=HOUR)
    flows.single("in-turn-wide", concurrency=at_most(sdk, "input.group", 10_000), schedule_timeout=HOUR)
    flows.single("two-at-a-time", concurrency=2, schedule_timeout=HOUR)
    flows.single("latest", concurrency=at_most(sdk, "input.group", 1, "CANCEL_IN_PROGRESS"))
    flows.single("latest-two", concurrency=at_most(sdk, "input.group", 2, "CANCEL_IN_PROGRESS"))
    flows.single("first", concurrency=at_most(sdk, "input.group", 1, "CANCEL_NEWEST"))
    flows.single("first-two", concurrency=at_most(sdk, "input.group", 2, "CANCEL_NEWEST"))
    flows.single(
        "team-and-account",
        concurrency=[at_most(sdk, "input.group", 2), at_most(sdk, "additional_metadata.account", 1)],
    )
    if "is_tenant_scoped" in sdk.ConcurrencyExpression.model_fields:
        of_newer_clients(flows)
    flows.single("by-run", concurrency=at_most(sdk, "workflow_run_id", 1))
    flows.single(
        "impatient", concurrency=at_most(sdk, "input.group", 1), schedule_timeout=timedelta(seconds=1)
    )


def of_newer_clients(flows: Flows) -> None:
    sdk = flows.sdk
    flows.single("by-tier", concurrency=at_most(sdk, "input.group", "input.count > 1 ? 3 : 1"))
    name = f"shared-{os.environ['HATCHET_CLIENT_NAMESPACE']}"
    for flow in ("shares", "shares-too"):
        shared = at_most(sdk, "input.group", 1, name=name, is_tenant_scoped=True)
        flows.single(flow, concurrency=[shared])
    flows.single("keeps-newest", concurrency=at_most(sdk, "input.group", 1, "CANCEL_QUEUED_EXCEPT_NEWEST"))
    flows.single("keeps-oldest", concurrency=at_most(sdk, "input.group", 1, "CANCEL_QUEUED_EXCEPT_OLDEST"))


def graphs(flows: Flows) -> None:
    """Places of whole runs, of tasks, and of both."""
    sdk = flows.sdk
    run_level = flows.workflow("graph", concurrency=at_most(sdk, "input.group", 1))
    top = flows.step(run_level, "top")
    flows.step(run_level, "low", [top], retries=1, backoff_factor=1.0)
    flows.step(run_level, "aside", [top])
    _on_failure(run_level)

    task_level = flows.workflow("half-limited")
    flows.step(task_level, "limited", concurrency=[at_most(sdk, "input.group", 1)])
    flows.step(task_level, "unlimited")

    both = flows.workflow(
        "both-levels",
        concurrency=[at_most(sdk, "input.group", 2), at_most(sdk, "additional_metadata.account", 3)],
    )
    first = flows.step(both, "first")
    flows.step(both, "narrow", [first], concurrency=1)


def _on_failure(workflow: Any) -> None:
    @workflow.on_failure_task(name="oops")
    async def oops(plan: Plan, ctx: Any) -> dict[str, Any]:
        return await act(plan, ctx, "oops")


def retried(flows: Flows) -> None:
    sdk = flows.sdk
    flows.single("retries-at-once", concurrency=at_most(sdk, "input.group", 1), retries=2)
    flows.single("backs-off", concurrency=at_most(sdk, "input.group", 1), retries=1, backoff_factor=1.0)


def wrong_keys(flows: Flows) -> None:
    """Expressions that compile, and give no text."""
    sdk = flows.sdk
    flows.single("no-such-key", concurrency=at_most(sdk, "input.do.nobody", 1), retries=3)
    flows.single("number-key", concurrency=at_most(sdk, "input.count", 1), retries=3)
    workflow = flows.workflow("no-such-key-in-graph")
    top = flows.step(workflow, "top")
    flows.step(workflow, "low", [top], concurrency=[at_most(sdk, "additional_metadata.nobody", 1)])


def ordered(flows: Flows) -> None:
    """One at a time, as each needs every slot; newer clients alone can say so."""
    sdk = flows.sdk
    flows.single("line", concurrency=1, schedule_timeout=HOUR)
    flows.single("urgent-line", concurrency=1, schedule_timeout=HOUR, default_priority=sdk.Priority.HIGH)
    if "slot_cost" not in inspect.signature(flows.client.task).parameters and not flows.is_ours:
        return
    flows.single("whole", slot_cost=ALL_SLOTS, schedule_timeout=HOUR, retries=1)
    flows.single(
        "whole-urgent", slot_cost=ALL_SLOTS, default_priority=sdk.Priority.HIGH, schedule_timeout=HOUR
    )
    flows.single("six-slots", slot_cost=6, schedule_timeout=HOUR)
    flows.single("too-many-slots", slot_cost=ALL_SLOTS + 1, schedule_timeout=timedelta(seconds=1))
