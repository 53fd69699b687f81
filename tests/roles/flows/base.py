"""What every flow is made of: an input that says what each task is to do, a body that does it, and notes of what happened.

May touch only the standard library, pydantic and the SDK it is handed: the same flows run under `broadaxe` and under unmodified
`hatchet_sdk`. A task does nothing by itself: the run's `Plan` says what it waits for, how often it fails and what it returns, so that a
test reads as one: it gives the plan and looks at the notes. Notes are lines in a file of this process, whole even after a SIGKILL.
"""

import asyncio
import importlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

RECORDS = "ROLE_RECORDS"
"""Variable with the directory of notes and gates."""
WORKER = "ROLE_WORKER"
"""Variable with the name of the worker whose process this is."""


class Plan(BaseModel):
    """Input of every flow. `do` says by task name what that task does; see `act`. `group` and `count` are for flows that say so."""

    tag: str = ""
    do: dict[str, dict[str, Any]] = {}
    group: str = ""
    count: int = 0
    depth: int = 0


class Planned(Exception):
    """What a task raises because its plan says so."""


def records() -> Path:
    return Path(os.environ[RECORDS])


def run_ids(ctx: Any) -> tuple[str, str]:
    """The run and the task run of a context of either SDK."""
    task_run = getattr(ctx, "task_run_id", None) or ctx.step_run_id
    return ctx.workflow_run_id, task_run


def note(plan: Plan, ctx: Any, task: str, what: str, **more: Any) -> None:
    """Writes down that something happened in a task, now."""
    run, task_run = run_ids(ctx)
    line = {
        "tag": plan.tag,
        "group": plan.group,
        "worker": os.environ.get(WORKER, ""),
        "priority": getattr(ctx, "priority", None),
        "task": task,
        "what": what,
        "run": run,
        "workflow": ctx.workflow_id,
        "task_run": task_run,
        "retry_count": ctx.retry_count,
        "attempt_number": ctx.attempt_number,
        "at": time.time(),
        **more,
    }
    path = records() / f"notes-{os.getpid()}.jsonl"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)


def is_open(gate: str) -> bool:
    return (records() / f"gate-{gate}").exists()


async def opened(gate: str) -> None:
    """Returns when the test has opened the gate."""
    while not is_open(gate):  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.02)  # between two looks


async def act(plan: Plan, ctx: Any, task: str, parents: Sequence[Any] = ()) -> dict[str, Any]:
    """The body of nearly every task. Its part of the plan may hold:

    gate: wait until the test opens it. error, fail_attempts: raise `error` while the retry count is below `fail_attempts` (always, when only
    `error` is given). value: a number of its own. output: more keys of its output. asks_for: a parent whose output it asks for.
    The output holds the value, the values of its parents by name ("skipped" for one that was skipped), and which attempt made it.
    """
    step = plan.do.get(task, {})
    note(plan, ctx, task, "starts")
    try:
        if gate := step.get("gate"):
            await opened(gate)
    except asyncio.CancelledError:
        note(plan, ctx, task, "is told to stop")
        raise
    if "error" in step or "fail_attempts" in step:
        until = step.get("fail_attempts", 1_000_000)
        if ctx.retry_count < until:
            raise Planned(step.get("error", f"attempt {ctx.attempt_number} of {task} fails"))
    seen = {
        parent.name: "skipped" if ctx.was_skipped(parent) else ctx.task_output(parent).get("value")
        for parent in parents
    }
    if asked := step.get("asks_for"):
        parent = next(parent for parent in parents if parent.name == asked)
        try:
            step = {**step, "output": {"asked": ctx.task_output(parent)}}
        except ValueError as error:
            step = {**step, "output": {"asked": f"ValueError: {error}"}}
    note(plan, ctx, task, "ends", parents=seen)
    return {
        "task": task,
        "value": step.get("value", 1),
        "parents": seen,
        "retry_count": ctx.retry_count,
        "attempt_number": ctx.attempt_number,
        **step.get("output", {}),
    }


def at_most(
    sdk: ModuleType, expression: str, count: int | str, strategy: str = "GROUP_ROUND_ROBIN", **more: Any
) -> Any:
    """A concurrency expression of the SDK; the strategy by its name."""
    return sdk.ConcurrencyExpression(
        expression=expression, max_runs=count, limit_strategy=sdk.ConcurrencyLimitStrategy[strategy], **more
    )


def desired_label(
    sdk: ModuleType, value: str | int, comparator: str = "EQUAL", *, key: str | None = None, **more: Any
) -> Any:
    """A desired worker label of the SDK; the comparator by its name, `more` is required and weight."""
    return sdk.DesiredWorkerLabel(
        key=key, value=value, comparator=sdk.WorkerLabelComparator[comparator], **more
    )


class Flows:
    """Declares flows of one topic and knows them by name."""

    def __init__(self, client: Any, sdk: ModuleType) -> None:
        self.client = client
        self.sdk = sdk
        self.by_name: dict[str, Any] = {}

        @client.task(name="ping", input_validator=Plan)
        async def ping(plan: Plan, ctx: Any) -> dict[str, str]:
            return {"ping": plan.tag}

        self.by_name["ping"] = ping

    @property
    def is_ours(self) -> bool:
        return self.sdk.__name__ == "broadaxe"

    def workflow(self, name: str, **settings: Any) -> Any:
        made = self.client.workflow(name=name, input_validator=Plan, **settings)
        self.by_name[name] = made
        return made

    def add(self, name: str, flow: Any) -> None:
        self.by_name[name] = flow

    def step(self, workflow: Any, name: str, parents: Sequence[Any] = (), **settings: Any) -> Any:
        """A task of a workflow whose body is `act`."""

        @workflow.task(name=name, parents=list(parents), **settings)
        async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
            return await act(plan, ctx, name, parents)

        return body

    def single(self, name: str, **settings: Any) -> Any:
        """A standalone task whose body is `act`."""

        @self.client.task(name=name, input_validator=Plan, **settings)
        async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
            return await act(plan, ctx, name)

        self.by_name[name] = body
        return body


def connect(sdk: str, **config: Any) -> tuple[Any, ModuleType]:
    """A client of the SDK by module name, configured by its environment variables, and the module."""
    module = importlib.import_module(sdk)
    make = getattr(module, "Broadaxe" if sdk == "broadaxe" else "Hatchet")
    if config:
        return make(config=module.ClientConfig(**config)), module
    return make(), module


def declared(sdk: str, topics: str) -> Flows:
    """The flows of `flows/<topic>.py` under an SDK, for each of the topics joined by `+`."""
    modules = [importlib.import_module(f"flows.{topic}") for topic in topics.split("+")]
    config: dict[str, Any] = {}
    for module in modules:
        config.update(getattr(module, "CONFIG", {}))
    client, package = connect(sdk, **config)
    flows = Flows(client, package)
    for module in modules:
        module.declare(flows)
    return flows
