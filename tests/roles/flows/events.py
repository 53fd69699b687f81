"""Workflows that events start: by an exact key, by patterns, by filters that come with them, as one task and as several."""

from typing import Any

from flows.base import Flows, Plan, act, note


def declare(flows: Flows) -> None:
    telling(flows, "listens", on_events=["told:exactly", "told:*:by-pattern", "told:exactly"])
    telling(flows, "listens-too", on_events=["*:exactly"])
    telling(flows, "by-api", on_events=["by-api"])
    default = flows.sdk.DefaultFilter
    filters = [
        default(expression="input.count > 1", scope="shop", payload={"who": "Anna", "n": 1}),
        default(
            expression="input.count > 5 && payload.who == 'Stiva'", scope="shop", payload={"who": "Stiva"}
        ),
        default(expression="input.group == input.tag", scope="shop", payload={"who": "same"}),
        default(expression="input.missing == 1", scope="broken", payload={}),
    ]
    telling(flows, "filtered", on_events=["filtered"], default_filters=filters)

    workflow = flows.workflow("filtered-graph", on_events=["filtered-graph"], default_filters=filters[:1])
    first = telling_step(flows, workflow, "first", [])
    telling_step(flows, workflow, "second", [first])


def told(ctx: Any) -> dict[str, Any]:
    """What a context says of the event and the filter that started its run."""
    return {
        "filter": dict(ctx.filter_payload),
        "by_event": ctx.was_triggered_by_event,
        "metadata": {key: value for key, value in ctx.additional_metadata.items() if "hatchet__event" in key},
    }


def telling(flows: Flows, name: str, **settings: Any) -> None:
    """A standalone task that notes what started it."""

    @flows.client.task(name=name, input_validator=Plan, retries=1, **settings)
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        note(plan, ctx, name, "sees", **told(ctx))
        return await act(plan, ctx, name)

    flows.add(name, body)


def telling_step(flows: Flows, workflow: Any, name: str, parents: list[Any]) -> Any:
    """The same as a step."""

    @workflow.task(name=name, parents=parents)
    async def body(plan: Plan, ctx: Any) -> dict[str, Any]:
        note(plan, ctx, name, "sees", **told(ctx))
        return await act(plan, ctx, name, parents)

    return body
