"""Runs that may exist once: by time and by status, of single tasks and of a graph."""

from datetime import timedelta

from flows.base import Flows


def declare(flows: Flows) -> None:
    sdk = flows.sdk
    ttl = sdk.TTLBasedIdempotencyConfig(key_expression="input.group", ttl=timedelta(seconds=3))
    flows.single("once-for-a-time", idempotency=ttl)
    by_status = sdk.StatusBasedIdempotencyConfig(
        key_expression="input.group", fallback_ttl=timedelta(minutes=10)
    )
    flows.single("once-while-it-runs", idempotency=by_status, retries=1)
    flows.single("also-once-while-it-runs", idempotency=by_status)
    brief = sdk.StatusBasedIdempotencyConfig(key_expression="input.group", fallback_ttl=timedelta(seconds=2))
    flows.single("once-briefly", idempotency=brief)
    by_metadata = sdk.TTLBasedIdempotencyConfig(
        key_expression="additional_metadata.request", ttl=timedelta(minutes=10)
    )
    flows.single("once-by-metadata", idempotency=by_metadata)
    graph = flows.workflow("once-as-graph", idempotency=by_status)
    first = flows.step(graph, "first")
    flows.step(graph, "second", [first])
