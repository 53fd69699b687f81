"""What type checkers must see: checked by mypy in `test_types.py`, never run. Lines marked `# error` must fail to check."""

# ruff: noqa: A002 - `input` is the documented name of a task's first parameter

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, assert_type

from pydantic import BaseModel

from broadaxe import (
    BatchContext,
    BatchMemberId,
    Broadaxe,
    BroadaxeError,
    Context,
    Depends,
    EmptyModel,
    Standalone,
    Task,
    TaskRunError,
    TaskRunRef,
    TriggerWorkflowOptions,
    TTLBasedIdempotencyConfig,
    V1LogLineList,
    V1TaskStatus,
    V1TaskSummary,
    V1TaskSummaryList,
    V1WorkflowRunDetails,
    Workflow,
    WorkflowRunRef,
)

broadaxe = Broadaxe()


class Number(BaseModel):
    n: int


@dataclass
class Text:
    text: str


def dependency(input: Number, ctx: Context) -> str:
    return "x"


@broadaxe.task
def plain(input: EmptyModel, ctx: Context) -> dict[str, int]:
    return {}


@broadaxe.task(retries=3, execution_timeout="5m")
def inferred(input: Number, ctx: Context) -> Text:
    return Text("")


@broadaxe.task(name="other", input_validator=Number)
async def validated(input: Number, ctx: Context, dep: Annotated[str, Depends(dependency)]) -> Text:
    return Text("")


assert_type(plain, Standalone[EmptyModel, dict[str, int]])
assert_type(inferred, Standalone[Number, Text])
assert_type(validated, Standalone[Number, Text])

assert_type(plain.run(), dict[str, int])
assert_type(inferred.run(Number(n=1)), Text)
assert_type(inferred.run(Number(n=1), priority=3, key="k"), Text)
assert_type(inferred.run(Number(n=1), TriggerWorkflowOptions(priority=3)), Text)
assert_type(inferred.run(Number(n=1), wait_for_result=False), TaskRunRef[Number, Text])
assert_type(inferred.run_no_wait(Number(n=1)), TaskRunRef[Number, Text])
assert_type(inferred.run_no_wait(Number(n=1)).result(), Text)
assert_type(inferred.run_many([inferred.create_bulk_run_item(Number(n=1))]), list[Text])
assert_type(inferred.run_many([], return_exceptions=True), list[Text | BroadaxeError])
assert_type(inferred.run_many([], wait_for_result=False), list[TaskRunRef[Number, Text]])
assert_type(inferred.get_result("id"), Text)
assert_type(inferred.mock_run(Number(n=1)), Text)


@broadaxe.batch_task(batch_max_size=10)
async def batched(inputs: dict[BatchMemberId, Number], ctx: Context) -> dict[BatchMemberId, Text]:
    return {member: Text("") for member in inputs}


@broadaxe.batch_task(batch_max_size=10, broadcast_output=True)
def broadcast(inputs: dict[BatchMemberId, Number], ctx: BatchContext) -> Text:
    return Text("")


assert_type(batched, Standalone[Number, Text])
assert_type(broadcast, Standalone[Number, Text])
assert_type(batched.run(Number(n=1)), Text)

stub = broadaxe.stubs.task(name="s", input_validator=Number, output_validator=Text)
assert_type(stub.run(Number(n=1)), Text)

workflow = broadaxe.workflow(name="w", input_validator=Number)
untyped = broadaxe.workflow(name="u")
assert_type(workflow, Workflow[Number])
assert_type(untyped, Workflow[EmptyModel])


@workflow.task()
def first(input: Number, ctx: Context) -> Text:
    return Text("")


@workflow.task(parents=[first], retries=1)
async def second(input: Number, ctx: Context) -> int:
    return 1


@workflow.on_failure_task
def rescue(input: Number, ctx: Context) -> None: ...


@workflow.batch_task(batch_max_size=2, parents=[first])
def together(inputs: dict[BatchMemberId, Number], ctx: BatchContext) -> dict[BatchMemberId, int]:
    return {}


assert_type(together, Task[Number, int])
assert_type(first, Task[Number, Text])
assert_type(second, Task[Number, int])
assert_type(rescue, Task[Number, None])
assert_type(workflow.run(Number(n=1)), dict[str, Any])
assert_type(workflow.run(Number(n=1), wait_for_result=False), WorkflowRunRef)


@workflow.task(parents=[first, second], release_slot_while_waiting=True)
async def third(input: Number, ctx: Context) -> None:
    assert_type(ctx.task_output(first), Text)
    assert_type(ctx.task_output(second), int)
    assert_type(await ctx.aio_task_output(first), Text)
    assert_type(ctx.get_task_run_error(first), TaskRunError | None)


assert_type(broadaxe.runs.list(), V1TaskSummaryList)
assert_type(broadaxe.runs.list().rows[0].status, V1TaskStatus)
assert_type(broadaxe.runs.list_with_pagination(), list[V1TaskSummary])
assert_type(broadaxe.runs.get("id"), V1WorkflowRunDetails)
assert_type(workflow.list_runs(), list[V1TaskSummary])
assert_type(
    broadaxe.workflow(
        name="i",
        idempotency=TTLBasedIdempotencyConfig(key_expression="input.id", ttl=timedelta(minutes=1)),
    ),
    Workflow[EmptyModel],
)


async def asynchronous() -> None:
    assert_type(await broadaxe.runs.aio_list(limit=3), V1TaskSummaryList)
    assert_type(await broadaxe.logs.aio_list("id"), V1LogLineList)
    await broadaxe.runs.aio_list(limmit=3)  # error
    assert_type(await inferred.aio_run(Number(n=1)), Text)
    assert_type(await validated.aio_run(Number(n=1)), Text)
    assert_type(await inferred.aio_run(Number(n=1), wait_for_result=False), TaskRunRef[Number, Text])
    assert_type(await inferred.aio_run_many([]), list[Text])
    assert_type(await (await inferred.aio_run_no_wait(Number(n=1))).aio_result(), Text)
    assert_type(await validated.aio_mock_run(Number(n=1)), Text)
    assert_type(await workflow.aio_run(Number(n=1)), dict[str, Any])


inferred.run(Text("wrong input"))  # error
inferred.run(Number(n=1), prioritty=3)  # error
inferred.create_bulk_run_item({"n": 1})  # error
broadaxe.task(retrys=3)  # error
broadaxe.workflow(input_validator=Number)  # error
workflow.task(parents=["first"])  # error


@broadaxe.batch_task(batch_max_size=2)  # error
def not_by_member(inputs: Number, ctx: Context) -> None: ...


@broadaxe.task  # error
def without_context(input: Number) -> None: ...


@workflow.task()  # error
def other_input(input: Text, ctx: Context) -> None: ...
