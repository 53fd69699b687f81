# ruff: noqa: A002 - tasks call their input `input`
"""Settings of flow control and routing: how they reach the wire, and which are refused where they are written."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from broadaxe import (
    Broadaxe,
    ConcurrencyExpression,
    ConcurrencyLimitStrategy,
    Context,
    DefinitionError,
    DesiredWorkerLabel,
    EmptyModel,
    InvalidInputError,
    Priority,
    RateLimit,
    RateLimitDuration,
    StickyStrategy,
    TaskDefaults,
    TriggerWorkflowOptions,
    WorkerLabelComparator,
)
from broadaxe.wire.v1 import workflows_pb2 as wire
from tests.unit.sdk.clients import make_client
from tests.unit.sdk.fake_engine import COMPLETED, FAILED, FakeEngine
from tests.unit.sdk.worker_tools import running

ROUND_ROBIN = ConcurrencyLimitStrategy.GROUP_ROUND_ROBIN


@pytest.fixture
def client() -> Broadaxe:
    return Broadaxe(namespace="")


def job(input: EmptyModel, ctx: Context) -> None: ...


def declared(client: Broadaxe, **settings: Any) -> wire.CreateTaskOpts:
    (task,) = client.task(name="job", **settings)(job).to_wire().tasks
    return task


def refusal(client: Broadaxe, **settings: Any) -> str:
    with pytest.raises(DefinitionError) as caught:
        declared(client, **settings)
    return str(caught.value)


def by(expression: str = "input.k", most: int | str = 1, **more: Any) -> ConcurrencyExpression:
    return ConcurrencyExpression(expression=expression, max_runs=most, limit_strategy=ROUND_ROBIN, **more)


# ---- concurrency


@pytest.mark.parametrize("is_list", [False, True])
def test_one_expression_may_stand_alone_or_in_a_list(client, is_list):
    (entry,) = declared(client, concurrency=[by(most=3)] if is_list else by(most=3)).concurrency
    assert (entry.expression, entry.max_runs, entry.limit_strategy) == (
        "input.k",
        3,
        wire.GROUP_ROUND_ROBIN,
    )


def test_several_expressions_keep_their_order_at_both_levels(client):
    workflow = client.workflow(name="w", concurrency=[by("input.a"), by("input.b")])
    workflow.task(name="t", concurrency=[by("input.c"), by("input.d")])(job)
    request = workflow.to_wire()
    assert [entry.expression for entry in request.concurrency_arr] == ["input.a", "input.b"]
    assert [entry.expression for entry in request.tasks[0].concurrency] == ["input.c", "input.d"]


@pytest.mark.parametrize("level", ["workflow", "task"])
def test_number_is_a_constant_key_admitted_in_turn(client, level):
    workflow = client.workflow(name="w", concurrency=4 if level == "workflow" else None)
    workflow.task(name="t", concurrency=4 if level == "task" else None)(job)
    request = workflow.to_wire()
    (entry,) = request.concurrency_arr if level == "workflow" else request.tasks[0].concurrency
    assert (entry.expression, entry.max_runs, entry.limit_strategy) == (
        "'constant'",
        4,
        wire.GROUP_ROUND_ROBIN,
    )


def test_limit_may_be_an_expression(client):
    (entry,) = declared(client, concurrency=by(most="input.tier == 'gold' ? 10 : 1")).concurrency
    assert (entry.max_runs, entry.max_runs_expression) == (1, "input.tier == 'gold' ? 10 : 1")


@pytest.mark.parametrize(
    ("concurrency", "words"),
    [
        (0, ("task 'job'", "concurrency is 0")),
        (-2, ("concurrency is -2",)),
        (True, ("concurrency is True",)),
        (2_000_000, ("concurrency is 2000000", "1,000,000")),
        (by(" "), ("task 'job'", "expression is empty")),
        (by(most=0), ("'input.k'", "max_runs is 0")),
        (by(most=" "), ("'input.k'", "max_runs is empty")),
        (by(is_tenant_scoped=True), ("'input.k'", "tenant-scoped")),
        ("input.k", ("concurrency is 'input.k'", "ConcurrencyExpression")),
        ([by(), "input.k"], ("concurrency is 'input.k'",)),
    ],
)
def test_concurrency_that_cannot_be_is_refused(client, concurrency, words):
    text = refusal(client, concurrency=concurrency)
    for word in words:
        assert word in text


def test_concurrency_of_a_workflow_is_refused_by_its_name(client):
    with pytest.raises(DefinitionError, match="workflow 'w': concurrency is 0"):
        client.workflow(name="w", concurrency=0)


# ---- rate limits


def test_static_limit_says_that_it_does_not_define_the_limit(client):
    (limit,) = declared(client, rate_limits=[RateLimit(static_key="api", units=2)]).rate_limits
    assert (limit.key, limit.units, limit.limit_values_expr) == ("api", 2, "-1")
    assert not limit.HasField("key_expr")


def test_dynamic_limit_carries_expressions_and_numbers(client):
    given = RateLimit(dynamic_key="input.user", limit="input.most", duration=RateLimitDuration.YEAR)
    (limit,) = declared(client, rate_limits=[given]).rate_limits
    assert (limit.key, limit.key_expr, limit.units) == ("input.user", "input.user", 1)
    assert (limit.limit_values_expr, limit.duration) == ("input.most", wire.YEAR)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (RateLimit(), ("task 'job'", "exactly one of static_key and dynamic_key")),
        (RateLimit(static_key="a", dynamic_key="b", limit=1), ("exactly one",)),
        (RateLimit(dynamic_key="input.user"), ("'input.user'", "needs a limit")),
        (RateLimit(static_key="api", units=-1), ("'api'", "units is -1")),
        (RateLimit(static_key="api", units=" "), ("'api'", "units is empty")),
        (RateLimit(dynamic_key="input.user", limit=-1), ("'input.user'", "limit is -1")),
        (RateLimit(dynamic_key="input.user", limit=""), ("'input.user'", "limit is empty")),
    ],
)
def test_rate_limit_that_cannot_be_is_refused(client, limit, words):
    text = refusal(client, rate_limits=[limit])
    for word in words:
        assert word in text


# ---- priority


def test_priority_by_name_number_and_defaults(client):
    assert client.task(name="a", default_priority=Priority.HIGH)(job).to_wire().default_priority == 3
    assert client.task(name="b", default_priority=2)(job).to_wire().default_priority == 2
    workflow = client.workflow(name="c", task_defaults=TaskDefaults(priority=2))
    workflow.task(name="t")(job)
    assert workflow.to_wire().default_priority == 2


@pytest.mark.parametrize("priority", [0, 4, -1])
def test_priority_out_of_range_is_refused(client, priority):
    assert f"default_priority is {priority}" in refusal(client, default_priority=priority)


# ---- desired labels


def test_label_is_a_preference_of_weight_100_unless_it_says_otherwise(client):
    """Weight and comparator are left to the engine, whose defaults they are."""
    label = declared(client, desired_worker_labels={"gpu": DesiredWorkerLabel(value="a")}).worker_labels[
        "gpu"
    ]
    assert (label.str_value, label.required) == ("a", False)
    assert not label.HasField("weight")
    assert not label.HasField("comparator")


@pytest.mark.parametrize("is_list", [False, True])
@pytest.mark.parametrize("comparator", list(WorkerLabelComparator))
def test_mapping_and_list_say_the_same(client, is_list, comparator):
    label = DesiredWorkerLabel(key="memory", value=4, comparator=comparator, required=True, weight=7)
    given = [label] if is_list else {"memory": label}
    found = declared(client, desired_worker_labels=given).worker_labels["memory"]
    assert (found.int_value, found.comparator, found.required, found.weight) == (4, comparator, True, 7)


BAD_LABELS = [
    ([DesiredWorkerLabel(value=1)], ("label 1 ", "give it a key")),
    ([DesiredWorkerLabel(key="a", value=1), DesiredWorkerLabel(key="a", value=2)], ("'a'", "twice")),
    ({"a": DesiredWorkerLabel(value=2**31)}, ("'a'", "value is 2147483648")),
    ({"a": DesiredWorkerLabel(value=1, weight=2**40)}, ("'a'", "weight is")),
    (
        {"a": DesiredWorkerLabel(value="big", comparator=WorkerLabelComparator.GREATER_THAN)},
        ("'a'", "GREATER_THAN needs a number", "'big'"),
    ),
]


@pytest.mark.parametrize(("labels", "words"), BAD_LABELS)
def test_label_that_no_worker_can_have_is_refused(client, labels, words):
    text = refusal(client, desired_worker_labels=labels)
    for word in ("task 'job'", *words):
        assert word in text


def test_unknown_comparator_is_refused():
    with pytest.raises(ValidationError, match="comparator"):
        DesiredWorkerLabel(value=1, comparator=9)  # type: ignore[arg-type]


# ---- at the trigger, and sticky children


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def connected(engine: FakeEngine) -> Iterator[Broadaxe]:
    client = make_client(engine)
    yield client
    client.close()


@pytest.mark.parametrize(("labels", "words"), BAD_LABELS)
def test_label_of_a_trigger_is_refused_as_input(engine, connected, labels, words):
    task = connected.task(name="job")(job)
    with pytest.raises(InvalidInputError) as caught:
        task.run(desired_worker_labels=labels)
    for word in ("run of", "job", *words):
        assert word in str(caught.value)
    assert not engine.runs


@pytest.mark.parametrize("name", ["desired_worker_label", "desired_worker_labels"])
@pytest.mark.parametrize("is_bulk", [False, True])
def test_labels_of_a_trigger_by_either_name(engine, connected, name, is_bulk):
    task = connected.task(name="job")(job)
    options: dict[str, Any] = {name: [DesiredWorkerLabel(key="gpu", value="a", required=True)]}
    if is_bulk:
        task.run_many_no_wait([task.create_bulk_run_item(**options)])
    else:
        task.run_no_wait(**options)
    (run,) = engine.runs.values()
    assert run.request.desired_worker_labels["gpu"].str_value == "a"


def spawning(connected: Broadaxe, child: Any, **options: Any) -> Any:
    """A task that spawns the child, sticky, and returns what happened."""

    @connected.task(name="parent")
    async def parent(input: EmptyModel, ctx: Context) -> dict[str, str]:
        try:
            await child.aio_run_no_wait(options=TriggerWorkflowOptions(sticky=True, **options))
        except InvalidInputError as error:
            return {"refused": str(error)}
        return {"worker": ctx.worker_id}

    return parent


def outcome(engine: FakeEngine, name: str) -> dict[str, str]:
    run_id = engine.trigger(name)
    engine.wait_until(lambda: engine.runs[run_id].state is not None, f"the end of {name}", 10)
    assert engine.runs[run_id].state in (COMPLETED, FAILED)
    answer: dict[str, str] = json.loads(engine.runs[run_id].results[0].output)
    return answer


@pytest.mark.parametrize("strategy", list(StickyStrategy))
def test_sticky_child_asks_for_the_worker_of_its_parent(engine, connected, strategy):
    child = connected.task(name="child", sticky=strategy)(job)
    parent = spawning(connected, child)
    with running(connected.worker("w", workflows=[parent, child])):
        worker_id = outcome(engine, "parent")["worker"]
        (spawned,) = [run for run in engine.runs.values() if run.request.workflow_name.endswith("child")]
    assert spawned.request.desired_worker_id == worker_id


def test_sticky_child_without_a_strategy_is_refused_by_name(engine, connected):
    child = connected.task(name="child")(job)
    parent = spawning(connected, child)
    with running(connected.worker("w", workflows=[parent, child])):
        text = outcome(engine, "parent")["refused"]
    assert "child" in text
    assert "sticky=StickyStrategy.SOFT" in text


def test_sticky_child_that_the_worker_does_not_serve_is_refused_by_name(engine, connected):
    child = connected.task(name="child", sticky=StickyStrategy.SOFT)(job)
    parent = spawning(connected, child)
    with running(connected.worker("w", workflows=[parent])):
        text = outcome(engine, "parent")["refused"]
    assert "child" in text
    assert "does not serve" in text


def test_worker_given_by_its_id_is_not_judged(engine, connected):
    other = "0196a1b2-0000-7000-8000-000000000001"
    child = connected.task(name="child")(job)
    parent = spawning(connected, child, desired_worker_id=other)
    with running(connected.worker("w", workflows=[parent])):
        assert "worker" in outcome(engine, "parent")
        (spawned,) = [run for run in engine.runs.values() if run.request.workflow_name.endswith("child")]
    assert spawned.request.desired_worker_id == other
