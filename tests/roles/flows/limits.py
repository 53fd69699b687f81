"""Flows whose tasks spend from rate limits. Groups of the plan are keys of dynamic limits; static keys carry the namespace."""

import os
from datetime import timedelta
from typing import Any

from flows.base import Flows

HOUR = timedelta(hours=1)


def declare(flows: Flows) -> None:
    static(flows)
    dynamic(flows)
    several(flows)
    of_a_run(flows)


def key(name: str) -> str:
    """Limits belong to the tenant, which all namespaces share."""
    return f"{name}-{os.environ['HATCHET_CLIENT_NAMESPACE']}"


def dynamic_limit(flows: Flows, expression: str, *, window: str = "HOUR", **more: Any) -> Any:
    duration = flows.sdk.RateLimitDuration[window]
    return flows.sdk.RateLimit(dynamic_key=expression, duration=duration, **more)


def static(flows: Flows) -> None:
    limit = flows.sdk.RateLimit
    flows.single("calls-api", rate_limits=[limit(static_key=key("api"), units=1)], schedule_timeout=HOUR)
    flows.single("calls-api-too", rate_limits=[limit(static_key=key("api"), units=1)], schedule_timeout=HOUR)
    flows.single("waits-for-limit", rate_limits=[limit(static_key=key("absent"), units=1)])
    flows.single("lowered", rate_limits=[limit(static_key=key("lowered"), units="input.count")])
    flows.single("paced", rate_limits=[limit(static_key=key("paced"), units=1)], schedule_timeout=HOUR)
    flows.single(
        "impatient-caller",
        rate_limits=[limit(static_key=key("never-put"), units=1)],
        schedule_timeout=timedelta(seconds=1),
    )


def dynamic(flows: Flows) -> None:
    flows.single("metered", rate_limits=[dynamic_limit(flows, "input.group", units=1, limit=3)], retries=5)
    flows.single("by-the-second", rate_limits=[dynamic_limit(flows, "input.group", limit=4, window="SECOND")])
    flows.single(
        "by-input",
        rate_limits=[dynamic_limit(flows, "input.group", units="input.count", limit="input.depth")],
    )
    flows.single(
        "by-metadata",
        rate_limits=[
            dynamic_limit(
                flows, "'user-' + additional_metadata.user", units=1, limit="input.count > 1 ? 2 : 1"
            )
        ],
    )
    flows.single("no-such-user", rate_limits=[dynamic_limit(flows, "input.do.user", limit=3)], retries=3)
    flows.single(
        "units-of-text", rate_limits=[dynamic_limit(flows, "input.group", units="input.group", limit=3)]
    )
    flows.single("limit-of-text", rate_limits=[dynamic_limit(flows, "input.group", limit="input.group")])


def several(flows: Flows) -> None:
    plenty = dynamic_limit(flows, "'plenty-' + input.group", limit=10)
    scarce = dynamic_limit(flows, "'scarce-' + input.group", limit=1)
    flows.single("plenty-and-scarce", rate_limits=[plenty, scarce])
    flows.single(
        "plenty",
        rate_limits=[dynamic_limit(flows, "'plenty-' + input.group", units="input.count", limit=10)],
    )
    flows.single("scarce-then-plenty", rate_limits=[scarce, plenty])


def of_a_run(flows: Flows) -> None:
    """Three tasks of a run, one key: `workflow_run_id`, of which two may start."""
    workflow = flows.workflow("metered-run")
    limit = dynamic_limit(flows, "workflow_run_id", limit=2)
    top = flows.step(workflow, "top", rate_limits=[limit])
    low = flows.step(workflow, "low", [top], rate_limits=[limit])
    flows.step(workflow, "last", [low], rate_limits=[limit], schedule_timeout=timedelta(seconds=1))
