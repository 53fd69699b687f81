"""Bad input around groups, limits, priority and routing is refused by name, and nothing is registered or started."""

from typing import Any

import grpc
import pytest

from broadaxe.wire import workflows_pb2 as workflows
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2 as triggers
from tests.compat.calls import Step, definition, put
from tests.compat.wire import Wire, code_of, unique

pytestmark = pytest.mark.timeout(60)
INVALID = grpc.StatusCode.INVALID_ARGUMENT
Limit = v1.CreateTaskRateLimit
Desired = triggers.DesiredWorkerLabels


def refused(wire: Wire, *words: str, step: dict[str, Any] | None = None, **fields: Any) -> None:
    """Registering is refused; the text names the workflow and each of the words; the workflow does not exist after it."""
    name = unique("bad")
    code, text = code_of(lambda: wire.put(definition(name, Step("only", fields=step or {}), **fields)))
    assert code == INVALID
    for word in (name, *words):
        assert word in text
    assert code_of(lambda: wire.trigger(name))[0] == INVALID


def group(expression: str = "input.k", **fields: Any) -> v1.Concurrency:
    return v1.Concurrency(expression=expression, **fields)


# ---- concurrency


@pytest.mark.parametrize("level", ["workflow", "task"])
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (group(""), ("concurrency", "expression")),
        (group("input.("), ("concurrency", "input.(")),
        (group("nobody.knows"), ("concurrency", "nobody")),
        (group("1 + 2 +"), ("concurrency", "1 + 2 +")),
        (group(max_runs=0), ("concurrency", "max_runs", "0")),
        (group(max_runs=-3), ("concurrency", "max_runs", "-3")),
        (group(max_runs_expression="input.("), ("max_runs_expression", "input.(")),
        (group(is_tenant_scoped=True), ("concurrency", "input.k", "name")),
        (group(limit_strategy=1), ("limit_strategy", "DROP_NEWEST")),
        (group(limit_strategy=2), ("limit_strategy", "QUEUE_NEWEST")),
        (group(limit_strategy=9), ("limit_strategy", "9")),
    ],
    ids=[
        "empty",
        "syntax",
        "unknown-name",
        "unfinished",
        "zero",
        "negative",
        "limit-syntax",
        "shared-by-no-name",
        "drop",
        "queue",
        "unknown",
    ],
)
def test_concurrency(wire: Wire, level: str, entry: v1.Concurrency, words: tuple[str, ...]) -> None:
    if level == "workflow":
        refused(wire, *words, concurrency_arr=[entry])
    else:
        refused(wire, "only", *words, step={"concurrency": [entry]})


def test_wrong_one_of_several_entries_is_named(wire: Wire) -> None:
    refused(wire, "input.(", concurrency_arr=[group(), group("input.("), group()])


# ---- rate limits


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Limit(units=1), ("rate limit", "key")),
        (Limit(key="api"), ("api", "units")),
        (Limit(key="api", units=-1), ("api", "units", "-1")),
        (Limit(key="api", units=1, duration=9), ("api", "duration", "9")),
        (Limit(key="x", key_expr="input.(", units=1, limit_values_expr="1"), ("key_expr", "input.(")),
        (Limit(key="x", units_expr="input.(", limit_values_expr="1"), ("units_expr", "input.(")),
        (Limit(key="x", units=1, limit_values_expr="nobody"), ("limit_values_expr", "nobody")),
    ],
    ids=["no-key", "no-units", "negative", "window", "key-expr", "units-expr", "limit-expr"],
)
def test_rate_limit(wire: Wire, limit: v1.CreateTaskRateLimit, words: tuple[str, ...]) -> None:
    refused(wire, "only", *words, step={"rate_limits": [limit]})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"key": "", "limit": 1}, ("key",)),
        ({"key": "api", "limit": -1}, ("limit", "-1")),
        ({"key": "api", "limit": 1, "duration": 7}, ("duration", "7")),
    ],
    ids=["no-key", "negative", "window"],
)
def test_put_rate_limit(wire: Wire, fields: dict[str, Any], words: tuple[str, ...]) -> None:
    request = workflows.PutRateLimitRequest(**fields)
    code, text = code_of(
        lambda: wire.unary("/WorkflowService/PutRateLimit", request, workflows.PutRateLimitResponse)
    )
    assert code == INVALID
    for word in words:
        assert word in text


# ---- priority


@pytest.mark.parametrize("priority", [0, 4, -1, 100])
def test_priority(wire: Wire, priority: int) -> None:
    refused(wire, "default_priority", str(priority), "1", "3", default_priority=priority)
    name = unique("bad")
    put(wire, name, Step("only"))
    code, text = code_of(lambda: wire.trigger(name, priority=priority))
    assert code == INVALID
    assert "priority" in text
    assert str(priority) in text


# ---- routing


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (Desired(str_value="a", comparator=9), ("comparator", "9")),
        (Desired(str_value="a", int_value=1), ("text", "number")),
        (Desired(required=True), ("value",)),
        (Desired(str_value="big", comparator=triggers.GREATER_THAN), ("GREATER_THAN", "number")),
        (Desired(str_value="big", comparator=triggers.LESS_THAN_OR_EQUAL), ("LESS_THAN_OR_EQUAL", "number")),
    ],
    ids=["comparator", "two-values", "no-value", "text-is-greater", "text-is-less"],
)
def test_desired_label(wire: Wire, label: triggers.DesiredWorkerLabels, words: tuple[str, ...]) -> None:
    refused(wire, "only", "gpu", *words, step={"worker_labels": {"gpu": label}})
    name = unique("bad")
    put(wire, name, Step("only"))
    code, text = code_of(lambda: wire.trigger(name, desired_worker_labels={"gpu": label}))
    assert code == INVALID
    for word in (name, "gpu", *words):
        assert word in text


def test_sticky_strategy(wire: Wire) -> None:
    refused(wire, "sticky", "5", sticky=5)


def test_desired_worker(wire: Wire) -> None:
    name = unique("bad")
    put(wire, name, Step("only"))
    code, text = code_of(lambda: wire.trigger(name, desired_worker_id="the-big-one"))
    assert code == INVALID
    assert "desired_worker_id" in text
    assert "the-big-one" in text


@pytest.mark.parametrize(("pool", "units"), [("default", 0), ("default", -1), ("", 1)])
def test_slot_request(wire: Wire, pool: str, units: int) -> None:
    refused(wire, "only", "slot request", str(units), step={"slot_requests": {pool: units}})
