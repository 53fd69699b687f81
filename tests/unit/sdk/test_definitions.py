"""How tasks and workflows are declared: what reaches the wire, and what is refused where it is written."""

# ruff: noqa: A002 - `input` is the documented name of a task's first parameter

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, TypedDict

import pytest
from pydantic import BaseModel

from broadaxe import (
    Broadaxe,
    ConcurrencyExpression,
    ConcurrencyLimitStrategy,
    Context,
    DefaultFilter,
    DefinitionError,
    Depends,
    DesiredWorkerLabel,
    EmptyModel,
    ParentCondition,
    RateLimit,
    RateLimitDuration,
    SleepCondition,
    Standalone,
    StickyStrategy,
    TaskDefaults,
    UserEventCondition,
    WorkerLabelComparator,
    or_,
)
from broadaxe.wire.v1 import workflows_pb2 as wire
from broadaxe.wire.v1.shared import condition_pb2


class Order(BaseModel):
    number: int


@pytest.fixture
def client() -> Broadaxe:
    return Broadaxe(namespace="")


def test_plain_decorator_and_decorator_with_parentheses_do_the_same(client):
    @client.task
    def first(input: Order, ctx: Context) -> None: ...

    @client.task()
    def second(input: Order, ctx: Context) -> None: ...

    assert isinstance(first, Standalone)
    assert (first.name, second.name) == ("first", "second")
    assert first.tasks[0].input_type is second.tasks[0].input_type is Order


def test_every_task_setting_reaches_the_wire(client):
    @client.task(
        name="Everything",
        description="does it all",
        on_events=["order:*"],
        on_crons=["0 0 * * *"],
        cron_input=Order(number=1),
        version="v7",
        sticky=StickyStrategy.HARD,
        default_priority=3,
        concurrency=[
            ConcurrencyExpression(
                expression="input.number",
                max_runs=2,
                limit_strategy=ConcurrencyLimitStrategy.CANCEL_NEWEST,
            )
        ],
        schedule_timeout=timedelta(hours=2),
        execution_timeout="90s",
        retries=4,
        rate_limits=[
            RateLimit(static_key="api", units=2),
            RateLimit(dynamic_key="input.user", units="input.n", limit=10, duration=RateLimitDuration.DAY),
        ],
        desired_worker_labels={
            "memory": DesiredWorkerLabel(value=256, required=True, comparator=WorkerLabelComparator.LESS_THAN)
        },
        backoff_factor=2.0,
        backoff_max_seconds=60,
        default_filters=[DefaultFilter(expression="true", scope="s", payload={"a": 1})],
        default_additional_metadata={"team": "x"},
    )
    async def everything(input: Order, ctx: Context) -> None: ...

    request = everything.to_wire()
    assert (request.name, request.description, request.version) == ("Everything", "does it all", "v7")
    assert list(request.event_triggers) == ["order:*"]
    assert (list(request.cron_triggers), request.cron_input) == (["0 0 * * *"], '{"number":1}')
    assert (request.sticky, request.default_priority) == (wire.HARD, 3)
    assert request.HasField("sticky")
    assert request.default_filters[0] == wire.DefaultFilter(expression="true", scope="s", payload=b'{"a":1}')
    assert b'"number"' in request.input_json_schema
    (task,) = request.tasks
    assert (task.readable_id, task.action) == ("Everything", "everything:everything")
    assert (task.schedule_timeout, task.timeout, task.retries) == ("2h", "90s", 4)
    assert (task.backoff_factor, task.backoff_max_seconds) == (2.0, 60)
    assert dict(task.slot_requests) == {"default": 1}
    assert task.concurrency[0].limit_strategy == wire.CANCEL_NEWEST
    static, dynamic = task.rate_limits
    assert (static.key, static.units, static.limit_values_expr) == ("api", 2, "-1")
    assert (dynamic.key_expr, dynamic.units_expr, dynamic.limit_values_expr) == (
        "input.user",
        "input.n",
        "10",
    )
    assert dynamic.duration == wire.DAY
    label = task.worker_labels["memory"]
    assert (label.int_value, label.required, label.comparator) == (256, True, 4)


def test_defaults_are_the_documented_ones(client):
    @client.task()
    def plain(input: EmptyModel, ctx: Context) -> None: ...

    (task,) = plain.to_wire().tasks
    assert (task.schedule_timeout, task.timeout, task.retries) == ("5m", "60s", 0)
    assert not plain.to_wire().HasField("sticky")
    assert plain.to_wire().default_priority == 1


def test_integer_concurrency_is_a_limit_over_all_runs(client):
    workflow = client.workflow(name="w", concurrency=5)

    @workflow.task
    def step(input: EmptyModel, ctx: Context) -> None: ...

    (group,) = workflow.to_wire().concurrency_arr
    assert (group.expression, group.max_runs) == ("'constant'", 5)
    assert group.limit_strategy == wire.GROUP_ROUND_ROBIN


def test_dag_with_conditions_and_last_tasks_reaches_the_wire(client):
    workflow = client.workflow(
        name="Dag", input_validator=Order, task_defaults=TaskDefaults(retries=2, execution_timeout="5m")
    )

    @workflow.task()
    def start(input: Order, ctx: Context) -> dict[str, int]:
        return {"n": input.number}

    @workflow.task(
        parents=[start],
        retries=0,
        wait_for=[or_(SleepCondition("10s"), UserEventCondition("go", expression="input.ok"))],
        skip_if=[ParentCondition(start, expression="output.n > 5")],
    )
    def left(input: Order, ctx: Context) -> None: ...

    @workflow.task(parents=[start])
    async def right(input: Order, ctx: Context) -> None: ...

    @workflow.on_success_task()
    def finish(input: Order, ctx: Context) -> None: ...

    @workflow.on_failure_task
    def rescue(input: Order, ctx: Context) -> None: ...

    request = workflow.to_wire()
    by_name = {task.readable_id: task for task in request.tasks}
    assert list(by_name) == ["start", "left", "right", "finish"]
    assert list(by_name["left"].parents) == ["start"]
    assert sorted(by_name["finish"].parents) == ["left", "right"]
    assert request.on_failure_task.readable_id == "rescue"
    assert (by_name["start"].retries, by_name["left"].retries, by_name["right"].timeout) == (2, 0, "5m")
    conditions = by_name["left"].conditions
    sleep, event, parent = (
        conditions.sleep_conditions[0],
        conditions.user_event_conditions[0],
        conditions.parent_override_conditions[0],
    )
    assert sleep.base.or_group_id == event.base.or_group_id != parent.base.or_group_id
    assert (sleep.base.readable_data_key, event.base.readable_data_key) == ("sleep:10s", "go")
    assert (sleep.base.action, parent.base.action) == (condition_pb2.QUEUE, condition_pb2.SKIP)
    assert [task.name for task in workflow.tasks] == ["start", "left", "right", "finish", "rescue"]


def test_namespace_stands_before_every_name():
    client = Broadaxe(namespace="Dev")

    @client.task(on_events=["user:new"])
    def job(input: EmptyModel, ctx: Context) -> None: ...

    request = job.to_wire()
    assert (request.name, list(request.event_triggers)) == ("dev_job", ["dev_user:new"])
    assert request.tasks[0].action == "dev_job:job"
    assert job.tasks[0].action_id == "dev_job:job"


@dataclass
class Point:
    x: int


class Named(TypedDict):
    name: str


@pytest.mark.parametrize("kind", [Point, Named, dict[str, int], dict, Order, EmptyModel, list[int]])
def test_input_type_is_that_of_the_first_parameter(client, kind):
    def job(input, ctx): ...

    job.__annotations__ = {"input": kind}
    assert client.task(job).tasks[0].input_type == kind


def test_annotations_written_as_text_may_name_local_classes(client):
    class Local(BaseModel):
        a: int

    @client.task()
    def job(input: "Local", ctx: "Unknown") -> "Local": ...  # noqa: F821 - what only type checkers know does no harm

    assert job.tasks[0].input_type is Local
    assert job.tasks[0].output_shape.declared is Local


# ---- what is refused


def refusal(declare: Any) -> str:
    with pytest.raises(DefinitionError) as caught:
        declare()
    return str(caught.value)


def test_function_without_context_is_refused_with_the_right_form(client):
    def job(input: EmptyModel) -> None: ...

    text = refusal(lambda: client.task(job))
    assert "job(input: broadaxe" in text or "job(input:" in text
    assert "def job(input: MyInput, ctx: Context)" in text


def test_parameter_that_nothing_fills_is_refused(client):
    def job(input: EmptyModel, ctx: Context, extra: int) -> None: ...

    assert "'extra'" in refusal(lambda: client.task(job))


def test_dependency_with_a_wrong_signature_is_refused(client):
    def broken() -> int:
        return 1

    def job(input: EmptyModel, ctx: Context, dep: Annotated[int, Depends(broken)]) -> None: ...

    assert "dependency 'broken'" in refusal(lambda: client.task(job))


def test_generator_function_is_refused(client):
    def job(input: EmptyModel, ctx: Context) -> Any:
        yield 1

    assert "put_stream" in refusal(lambda: client.task(job))


def test_unresolvable_annotation_is_refused_naming_it(client):
    def job(input: "Nowhere", ctx: Context) -> None: ...  # noqa: F821 - that is the point

    assert "'Nowhere'" in refusal(lambda: client.task(job))


def test_type_that_cannot_be_validated_is_refused(client):
    class Opaque: ...

    def job(input: EmptyModel, ctx: Context) -> Opaque:
        return Opaque()

    assert "Opaque" in refusal(lambda: client.task(job))


def test_duplicate_task_names_are_refused_also_in_other_case(client):
    workflow = client.workflow(name="w")

    @workflow.task(name="Step")
    def one(input: EmptyModel, ctx: Context) -> None: ...

    def two(input: EmptyModel, ctx: Context) -> None: ...

    assert "two tasks named 'step'" in refusal(lambda: workflow.task(name="step")(two))
    assert len(workflow.tasks) == 1


def test_foreign_parent_is_refused_so_that_no_cycle_can_be_written(client):
    workflow, other = client.workflow(name="w"), client.workflow(name="o")

    @other.task()
    def theirs(input: EmptyModel, ctx: Context) -> None: ...

    def mine(input: EmptyModel, ctx: Context) -> None: ...

    text = refusal(lambda: workflow.task(parents=[theirs])(mine))
    assert "parent 'theirs' is not a task of this workflow" in text
    assert "expected tasks" in refusal(lambda: workflow.task(parents=["x"])(mine))  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"retries": -1}, "retries is -1, expected a whole number from 0 to 1,000,000"),
        ({"retries": 10**9}, "retries is 1000000000"),
        ({"retries": "3"}, "retries is '3'"),
        ({"retries": True}, "retries is True"),
        ({"execution_timeout": timedelta(seconds=-1)}, "execution_timeout is datetime.timedelta"),
        ({"execution_timeout": "0s"}, "execution_timeout is '0s': expected 1 ms or more"),
        ({"execution_timeout": timedelta(0)}, "expected 1 ms or more"),
        ({"schedule_timeout": "-5s"}, "schedule_timeout is '-5s'"),
        ({"schedule_timeout": "1000000h"}, "expected at most 36,500 days"),
        ({"backoff_factor": 1001.0}, "backoff_factor is 1001.0"),
        ({"backoff_max_seconds": 86_401}, "backoff_max_seconds is 86401"),
        ({"slot_cost": 0}, "slot_cost is 0"),
        ({"name": "two words"}, "'two words'"),
        ({"execution_timeout": "3d"}, "execution_timeout is '3d'"),
        ({"schedule_timeout": 5}, "schedule_timeout is 5"),
        ({"backoff_factor": 0.5}, "backoff_factor is 0.5"),
        ({"backoff_max_seconds": 0}, "backoff_max_seconds is 0"),
        ({"slot_cost": -1}, "slot_cost is -1"),
        ({"default_priority": 4}, "default_priority is 4"),
        ({"rate_limits": [RateLimit(units=1)]}, "exactly one of static_key"),
        ({"concurrency": 0}, "concurrency is 0, expected a whole number from 1"),
        ({"desired_worker_labels": [DesiredWorkerLabel(value=1)]}, "give it a key"),
    ],
)
def test_settings_that_the_engine_would_refuse_are_refused_here(client, settings, told):
    def job(input: EmptyModel, ctx: Context) -> None: ...

    assert told in refusal(lambda: client.task(**settings)(job))


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ({"wait_for": [SleepCondition(timedelta(seconds=-1))]}, "wait_for: the duration of a SleepCondition"),
        ({"wait_for": [SleepCondition("soon")]}, "is 'soon'"),
        ({"wait_for": SleepCondition("1s")}, "wait_for is SleepCondition"),
        ({"wait_for": ["1s"]}, "wait_for holds '1s', which is no condition"),
        ({"skip_if": [UserEventCondition("")]}, "skip_if: a UserEventCondition needs an event_key"),
        (
            {"cancel_if": [UserEventCondition("go", expression=" ")]},
            "the condition on event 'go' has the expression",
        ),
        ({"skip_if": ["start", "other"]}, "skip_if holds 'start'"),
    ],
)
def test_conditions_that_could_never_hold_are_refused_naming_task_and_setting(client, place, told):
    def job(input: EmptyModel, ctx: Context) -> None: ...

    text = refusal(lambda: client.workflow(name="w").task(**place)(job))
    assert text.startswith("task 'job' of workflow 'w'")
    assert told in text


def test_a_parent_condition_needs_a_declared_parent(client):
    workflow = client.workflow(name="w")

    @workflow.task()
    def start(input: EmptyModel, ctx: Context) -> None: ...

    @workflow.task()
    def other(input: EmptyModel, ctx: Context) -> None: ...

    def job(input: EmptyModel, ctx: Context) -> None: ...

    condition = ParentCondition(start, expression="output.n > 1")
    text = refusal(lambda: workflow.task(parents=[other], wait_for=[or_(condition)])(job))
    assert "is on 'start', which is not a parent of this task (those are: 'other')" in text
    assert "not a parent" in refusal(lambda: workflow.task(skip_if=[ParentCondition("start")])(job))  # type: ignore[arg-type]
    empty = ParentCondition(start, expression="")
    assert "parent 'start' has the expression ''" in refusal(
        lambda: workflow.task(parents=[start], skip_if=[empty])(job)
    )
    assert [task.name for task in workflow.tasks] == ["start", "other"]


def test_or_takes_conditions_only(client):
    assert "at least one" in refusal(or_)
    assert "or_() holds OrGroup" in refusal(lambda: or_(or_(SleepCondition("1s"))))  # type: ignore[arg-type]


def test_a_parent_named_twice_is_refused(client):
    workflow = client.workflow(name="w")

    @workflow.task()
    def start(input: EmptyModel, ctx: Context) -> None: ...

    def job(input: EmptyModel, ctx: Context) -> None: ...

    assert "'start' twice" in refusal(lambda: workflow.task(parents=[start, start])(job))


@pytest.mark.parametrize("kind", ["on_failure_task", "on_success_task"])
def test_there_is_one_last_task_of_a_kind_and_it_is_nobodys_parent(client, kind):
    workflow = client.workflow(name="w")

    @workflow.task()
    def start(input: EmptyModel, ctx: Context) -> None: ...

    @getattr(workflow, kind)()
    def last(input: EmptyModel, ctx: Context) -> None: ...

    def another(input: EmptyModel, ctx: Context) -> None: ...

    assert f"two {kind[:-5]} tasks: declare one" in refusal(lambda: getattr(workflow, kind)()(another))
    assert "cannot be a parent" in refusal(lambda: workflow.task(parents=[last])(another))


def test_a_workflow_of_last_tasks_alone_cannot_be_registered(client):
    workflow = client.workflow(name="w")

    @workflow.on_failure_task()
    def rescue(input: EmptyModel, ctx: Context) -> None: ...

    assert "no tasks" in refusal(workflow.to_wire)


def test_names_that_the_engine_would_refuse_are_refused_here(client):
    assert "'my workflow'" in refusal(lambda: client.workflow(name="my workflow"))


def test_unknown_setting_is_refused_by_name(client):
    with pytest.raises(TypeError, match="retrys"):
        client.task(retrys=3)


def test_workflow_without_tasks_cannot_be_registered(client):
    assert "no tasks" in refusal(client.workflow(name="w").to_wire)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (timedelta(hours=2), "2h"),
        (timedelta(minutes=90), "90m"),
        (timedelta(seconds=61), "61s"),
        (timedelta(milliseconds=250), "250ms"),
        ("1h30m", "1h30m"),
        ("90", "90s"),
    ],
)
def test_durations_are_written_with_the_largest_unit_that_fits(client, given, written):
    @client.task(execution_timeout=given)
    def job(input: EmptyModel, ctx: Context) -> None: ...

    assert job.to_wire().tasks[0].timeout == written
