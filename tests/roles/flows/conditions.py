"""A workflow for each kind of condition, and for what they are combined to. The keys of events are the names of their workflows."""

from datetime import timedelta
from typing import Any

from flows.base import Flows, Plan, act, note

LONG = timedelta(minutes=10)


def seconds(number: int) -> timedelta:
    return timedelta(seconds=number)


def declare(flows: Flows) -> None:
    sleeps(flows)
    events(flows)
    skips_and_cancels(flows)
    parents(flows)
    groups(flows)
    lone(flows)
    mistakes(flows)


def noting(flows: Flows, workflow: Any, name: str, parents: list[Any], **settings: Any) -> Any:
    """A task that notes what satisfied its conditions."""

    @workflow.task(name=name, parents=parents, **settings)
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        triggers = dict(ctx.triggers if flows.is_ours else ctx.trigger_data)
        note(plan, ctx, name, "sees triggers", triggers=triggers)
        return await act(plan, ctx, name, parents)

    return body


def sleeps(flows: Flows) -> None:
    sleep = flows.sdk.SleepCondition
    workflow = flows.workflow("sleeps")
    start = flows.step(workflow, "start")
    slept = noting(flows, workflow, "slept", [start], wait_for=[sleep(seconds(2))])
    flows.step(workflow, "after", [slept])


def events(flows: Flows) -> None:
    event = flows.sdk.UserEventCondition
    for name in ("event", "event-early", "event-old", "event-twice"):
        workflow = flows.workflow(name)
        start = flows.step(workflow, "start")
        noting(flows, workflow, "waiting", [start], wait_for=[event(event_key=name)])

    workflow = flows.workflow("event-filtered")
    start = flows.step(workflow, "start")
    noting(
        flows,
        workflow,
        "waiting",
        [start],
        wait_for=[event(event_key="event-filtered", expression="input.amount > 5 && input.kind == 'order'")],
    )

    workflow = flows.workflow("event-scoped")
    start = flows.step(workflow, "start")
    noting(flows, workflow, "waiting", [start], wait_for=[event(event_key="event-scoped", scope="mine")])

    workflow = flows.workflow("event-at-root")
    root = noting(flows, workflow, "root", [], wait_for=[event(event_key="event-at-root")])
    flows.step(workflow, "after", [root])


def skips_and_cancels(flows: Flows) -> None:
    event, sleep = flows.sdk.UserEventCondition, flows.sdk.SleepCondition
    for kind in ("skip", "cancel"):
        # Waits long, unless the event comes.
        workflow = flows.workflow(f"{kind}s-on-event")
        start = flows.step(workflow, "start")
        settings = {f"{kind}_if": [event(event_key=f"{kind}s-on-event")]}
        chosen = flows.step(workflow, "chosen", [start], wait_for=[sleep(LONG)], **settings)
        flows.step(workflow, "below", [chosen])
        flows.step(workflow, "join", [start, chosen])
        flows.step(workflow, "aside", [start])

        # Nothing to wait for: runs at once, unless the event has come already.
        workflow = flows.workflow(f"{kind}-only")
        start = flows.step(workflow, "start")
        flows.step(workflow, "chosen", [start], **{f"{kind}_if": [event(event_key=f"{kind}-only")]})


def parents(flows: Flows) -> None:
    condition = flows.sdk.ParentCondition

    # The example of the documents: one of two branches.
    workflow = flows.workflow("branches")
    start = flows.step(workflow, "start")
    left = flows.step(
        workflow, "left", [start], skip_if=[condition(parent=start, expression="output.value > 50")]
    )
    right = flows.step(
        workflow, "right", [start], skip_if=[condition(parent=start, expression="output.value <= 50")]
    )
    left_leaf = flows.step(workflow, "left-leaf", [left])
    right_leaf = flows.step(workflow, "right-leaf", [right])
    flows.step(workflow, "join", [left, right, left_leaf, right_leaf])

    workflow = flows.workflow("cancels-by-parent")
    start = flows.step(workflow, "start")
    chosen = flows.step(
        workflow, "chosen", [start], cancel_if=[condition(parent=start, expression="output.value > 50")]
    )
    flows.step(workflow, "below", [chosen])
    flows.step(workflow, "aside", [start])

    workflow = flows.workflow("waits-for-parent")
    start = flows.step(workflow, "start")
    chosen = flows.step(
        workflow, "chosen", [start], wait_for=[condition(parent=start, expression="output.value > 50")]
    )
    flows.step(workflow, "below", [chosen])

    # Skip, cancel and wait are all true at the same moment.
    workflow = flows.workflow("all-three")
    start = flows.step(workflow, "start")
    always = {"parent": start, "expression": "output.value > 50"}
    flows.step(
        workflow,
        "chosen",
        [start],
        wait_for=[condition(**always)],
        skip_if=[condition(**always)],
        cancel_if=[condition(**always)],
    )

    # Cancel and wait are.
    workflow = flows.workflow("cancel-and-wait")
    start = flows.step(workflow, "start")
    always = {"parent": start, "expression": "output.value > 50"}
    flows.step(workflow, "chosen", [start], wait_for=[condition(**always)], cancel_if=[condition(**always)])

    # A skip condition on one parent takes the default skip of the other away.
    workflow = flows.workflow("one-skip-declared")
    one = flows.step(workflow, "one")
    two = flows.step(workflow, "two")
    chosen = flows.step(
        workflow, "chosen", [one, two], skip_if=[condition(parent=one, expression="output.value > 50")]
    )
    flows.step(workflow, "sees", [one, chosen])


def groups(flows: Flows) -> None:
    sdk = flows.sdk
    for name, duration in (("either-by-event", LONG), ("either-by-sleep", seconds(1))):
        workflow = flows.workflow(name)
        start = flows.step(workflow, "start")
        either = sdk.or_(sdk.SleepCondition(duration), sdk.UserEventCondition(event_key=name))
        noting(flows, workflow, "chosen", [start], wait_for=[either])

    # (A or B) and (A or C): A the parent's output, B a sleep, C an event.
    for name, duration in (("both-groups", seconds(2)), ("both-groups-long", LONG)):
        workflow = flows.workflow(name)
        start = flows.step(workflow, "start")

        def big(parent: Any = start) -> Any:
            return sdk.ParentCondition(parent=parent, expression="output.value > 50")

        flows.step(
            workflow,
            "chosen",
            [start],
            wait_for=[
                sdk.or_(big(), sdk.SleepCondition(duration)),
                sdk.or_(big(), sdk.UserEventCondition(event_key=name)),
            ],
        )


def lone(flows: Flows) -> None:
    """Workflows of one task that waits, and one that is skipped or cancelled by an event while it waits."""
    sdk = flows.sdk
    flows.step(flows.workflow("lone-sleep"), "only", wait_for=[sdk.SleepCondition(seconds(2))])
    flows.step(
        flows.workflow("lone-event"), "only", wait_for=[sdk.UserEventCondition(event_key="lone-event")]
    )
    for kind in ("skip", "cancel"):
        name = f"lone-{kind}"
        settings = {f"{kind}_if": [sdk.UserEventCondition(event_key=name)]}
        flows.step(flows.workflow(name), "only", wait_for=[sdk.SleepCondition(LONG)], **settings)


def mistakes(flows: Flows) -> None:
    """Expressions that compile and fail when they meet the data."""
    sdk = flows.sdk
    for field in ("wait_for", "skip_if", "cancel_if"):
        workflow = flows.workflow(f"fails-in-{field.replace('_', '-')}")
        start = flows.step(workflow, "start")
        condition = sdk.ParentCondition(parent=start, expression="output.missing.deeper > 1")
        flows.step(workflow, "chosen", [start], **{field: [condition]})

    workflow = flows.workflow("event-expression-fails")
    start = flows.step(workflow, "start")
    noting(
        flows,
        workflow,
        "waiting",
        [start],
        wait_for=[
            sdk.UserEventCondition(event_key="event-expression-fails", expression="input.deep.er == 1")
        ],
    )
