"""Workflows and standalone tasks: how they are declared, run, and written on the wire.

`Workflow` holds tasks and returns their outputs by name; `Standalone` is a workflow of one task, and returns that task's output as its
declared type. Every method that talks to the server has a blocking form and an `aio_` form of the same name.
"""

# ruff: noqa: A002 - `input` is the documented name

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, Protocol, Unpack, cast, overload

from broadaxe._annotations import caller_locals
from broadaxe._conditions import Condition, OrGroup
from broadaxe._context import Context
from broadaxe._definition import BaseWorkflow, WorkflowSettings, with_namespace
from broadaxe._errors import BroadaxeError, InvalidOutputError
from broadaxe._options import TriggerWorkflowOptions, WorkflowRunTriggerConfig
from broadaxe._refs import TaskRunRef, WorkflowRunRef
from broadaxe._runs import RunOptions, completed_results
from broadaxe._task import Task, TaskPlace, TaskSettings
from broadaxe._types import P, R, TInput
from broadaxe._validation import Shape, parse_output
from broadaxe.wire.stream_pb2 import RunFinished

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe

__all__ = ["BaseWorkflow", "Standalone", "Task", "Workflow", "WorkflowSettings", "with_namespace"]


class TaskDecorator(Protocol[TInput]):
    """Turns a function into a task of a workflow whose input type is known."""

    @overload
    def __call__(
        self, fn: Callable[Concatenate[TInput, Context, P], Coroutine[Any, Any, R]], /
    ) -> Task[TInput, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[TInput, Context, P], R], /) -> Task[TInput, R]: ...


class Workflow(BaseWorkflow[TInput]):
    """A workflow of one or more tasks, made by `Broadaxe.workflow`."""

    # ---- declaring

    @overload
    def task(
        self, fn: Callable[Concatenate[TInput, Context, P], Coroutine[Any, Any, R]], /
    ) -> Task[TInput, R]: ...
    @overload
    def task(self, fn: Callable[Concatenate[TInput, Context, P], R], /) -> Task[TInput, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        parents: Sequence[Task[TInput, Any]] | None = None,
        wait_for: Sequence[Condition | OrGroup] | None = None,
        skip_if: Sequence[Condition | OrGroup] | None = None,
        cancel_if: Sequence[Condition | OrGroup] | None = None,
        **settings: Unpack[TaskSettings],
    ) -> TaskDecorator[TInput]: ...
    def task(  # type: ignore[misc]  # mypy: **Any does not count as accepting a TypedDict
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        parents: Sequence[Task[TInput, Any]] | None = None,
        wait_for: Sequence[Condition | OrGroup] | None = None,
        skip_if: Sequence[Condition | OrGroup] | None = None,
        cancel_if: Sequence[Condition | OrGroup] | None = None,
        **settings: Any,
    ) -> Any:
        """Declare a task of this workflow; with or without parentheses.

        name: the function's own when not given. parents: tasks, declared before, that must end first.
        wait_for, skip_if, cancel_if: conditions for starting, skipping, cancelling. For the rest see `TaskSettings`.
        Raises `DefinitionError` for a duplicate name, a foreign parent, a wrong signature or setting.
        """
        place = TaskPlace(parents or (), wait_for or (), skip_if or (), cancel_if or ())
        return self._decorator(fn, name, cast("TaskSettings", settings), place)

    @overload
    def on_failure_task(
        self, fn: Callable[Concatenate[TInput, Context, P], Coroutine[Any, Any, R]], /
    ) -> Task[TInput, R]: ...
    @overload
    def on_failure_task(self, fn: Callable[Concatenate[TInput, Context, P], R], /) -> Task[TInput, R]: ...
    @overload
    def on_failure_task(
        self, *, name: str | None = None, **settings: Unpack[TaskSettings]
    ) -> TaskDecorator[TInput]: ...
    def on_failure_task(  # type: ignore[misc]  # mypy: **Any does not count as accepting a TypedDict
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        **settings: Any,
    ) -> Any:
        """Declare the task that runs when any other task of a run has failed for good. One a workflow."""
        return self._decorator(fn, name, cast("TaskSettings", settings), TaskPlace(is_on_failure=True))

    @overload
    def on_success_task(
        self, fn: Callable[Concatenate[TInput, Context, P], Coroutine[Any, Any, R]], /
    ) -> Task[TInput, R]: ...
    @overload
    def on_success_task(self, fn: Callable[Concatenate[TInput, Context, P], R], /) -> Task[TInput, R]: ...
    @overload
    def on_success_task(
        self, *, name: str | None = None, **settings: Unpack[TaskSettings]
    ) -> TaskDecorator[TInput]: ...
    def on_success_task(  # type: ignore[misc]  # mypy: **Any does not count as accepting a TypedDict
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        **settings: Any,
    ) -> Any:
        """Declare the task that runs when all other tasks of a run have succeeded. One a workflow."""
        return self._decorator(fn, name, cast("TaskSettings", settings), TaskPlace(is_on_success=True))

    def _decorator(
        self, fn: Callable[..., Any] | None, name: str | None, settings: TaskSettings, place: TaskPlace
    ) -> Any:
        unknown = settings.keys() - TaskSettings.__annotations__.keys()
        if unknown:
            raise TypeError(f"unknown task setting {', '.join(sorted(unknown))}")
        local_names = caller_locals()

        def declare(function: Callable[..., Any]) -> Task[Any, Any]:
            return self._add(function, name, settings, place, local_names)

        return declare if fn is None else declare(fn)

    # ---- running

    @overload
    def run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: Literal[True] = True,
        **given: Unpack[RunOptions],
    ) -> dict[str, Any]: ...
    @overload
    def run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: Literal[False],
        **given: Unpack[RunOptions],
    ) -> WorkflowRunRef: ...
    def run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: bool = True,
        **given: Unpack[RunOptions],
    ) -> dict[str, Any] | WorkflowRunRef:
        """Run the workflow, wait for its end, and return the outputs of its tasks by name.

        With `wait_for_result=False` returns a reference as soon as the run is durable. Raises `InvalidInputError`,
        `RequestRefusedError`, `ServerUnavailableError`; and, when waiting, `FailedRunError` or `RunCancelledError`.
        """
        config = self._config(input, options, given)
        if wait_for_result:
            return cast("dict[str, Any]", self._run(config))
        return self._ref(self._client.started.start_many((config,))[0])

    @overload
    async def aio_run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: Literal[True] = True,
        **given: Unpack[RunOptions],
    ) -> dict[str, Any]: ...
    @overload
    async def aio_run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: Literal[False],
        **given: Unpack[RunOptions],
    ) -> WorkflowRunRef: ...
    async def aio_run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: bool = True,
        **given: Unpack[RunOptions],
    ) -> dict[str, Any] | WorkflowRunRef:
        """As `run`."""
        config = self._config(input, options, given)
        if wait_for_result:
            return cast("dict[str, Any]", await self._aio_run(config))
        return self._ref((await self._client.started.aio_start_many((config,)))[0])

    def run_no_wait(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        **given: Unpack[RunOptions],
    ) -> WorkflowRunRef:
        """Start a run, and return a reference as soon as it is durable."""
        return self.run(input, options, wait_for_result=False, **given)

    async def aio_run_no_wait(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        **given: Unpack[RunOptions],
    ) -> WorkflowRunRef:
        """As `run_no_wait`."""
        return await self.aio_run(input, options, wait_for_result=False, **given)

    @overload
    def run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: Literal[False] = False
    ) -> list[dict[str, Any]]: ...
    @overload
    def run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: Literal[True]
    ) -> list[dict[str, Any] | BroadaxeError]: ...
    def run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: bool = False
    ) -> list[Any]:
        """Start many runs together, wait until all have ended, and return their results in order.

        Up to 1,000 runs are created together or not at all; more are sent in parts. The first failed or cancelled run
        raises, after all have ended; with `return_exceptions` its error stands in the list instead.
        """
        return self._decode_all(self._client.started.run_many(workflows), return_exceptions)

    @overload
    async def aio_run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: Literal[False] = False
    ) -> list[dict[str, Any]]: ...
    @overload
    async def aio_run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: Literal[True]
    ) -> list[dict[str, Any] | BroadaxeError]: ...
    async def aio_run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: bool = False
    ) -> list[Any]:
        """As `run_many`."""
        return self._decode_all(await self._client.started.aio_run_many(workflows), return_exceptions)

    def run_many_no_wait(self, workflows: Sequence[WorkflowRunTriggerConfig]) -> list[WorkflowRunRef]:
        """Start many runs together, and return references as soon as all are durable."""
        return [self._ref(run_id) for run_id in self._client.started.start_many(workflows)]

    async def aio_run_many_no_wait(
        self, workflows: Sequence[WorkflowRunTriggerConfig]
    ) -> list[WorkflowRunRef]:
        """As `run_many_no_wait`."""
        return [self._ref(run_id) for run_id in await self._client.started.aio_start_many(workflows)]

    def get_run_ref(self, run_id: str) -> WorkflowRunRef:
        """A reference to a run of this workflow by its id. Asks nobody whether it exists."""
        return self._ref(run_id)

    def _ref(self, run_id: str) -> WorkflowRunRef:
        return WorkflowRunRef(self._client, run_id, self)

    def decode(self, finished: RunFinished) -> dict[str, Any]:
        any_shape = Shape(Any, f"the output of {self.base_name!r}")
        return {
            result.task_name: any_shape.parse(result.output, InvalidOutputError)
            for result in completed_results(finished)
        }


class Standalone(BaseWorkflow[TInput], Generic[TInput, R]):
    """A task that is a workflow of its own, made by `Broadaxe.task`. Its runs return what its function returns."""

    def __init__(
        self,
        client: "Broadaxe",
        fn: Callable[..., Any],
        settings: WorkflowSettings,
        task_settings: TaskSettings,
        local_names: Mapping[str, Any],
    ) -> None:
        super().__init__(client, settings)
        self.task: Task[TInput, R] = self._add(fn, settings.name, task_settings, TaskPlace(), local_names)

    @property
    def fn(self) -> Callable[..., Any]:
        """The user's function."""
        return self.task.fn

    # ---- running

    @overload
    def run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: Literal[True] = True,
        **given: Unpack[RunOptions],
    ) -> R: ...
    @overload
    def run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: Literal[False],
        **given: Unpack[RunOptions],
    ) -> TaskRunRef[TInput, R]: ...
    def run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: bool = True,
        **given: Unpack[RunOptions],
    ) -> R | TaskRunRef[TInput, R]:
        """Run the task, wait for its end, and return its output.

        With `wait_for_result=False` returns a reference as soon as the run is durable. Raises `InvalidInputError`,
        `RequestRefusedError`, `ServerUnavailableError`; and, when waiting, `FailedRunError` or `RunCancelledError`.
        """
        config = self._config(input, options, given)
        if wait_for_result:
            return cast("R", self._run(config))
        return self.get_run_ref(self._client.started.start_many((config,))[0])

    @overload
    async def aio_run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: Literal[True] = True,
        **given: Unpack[RunOptions],
    ) -> R: ...
    @overload
    async def aio_run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: Literal[False],
        **given: Unpack[RunOptions],
    ) -> TaskRunRef[TInput, R]: ...
    async def aio_run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: bool = True,
        **given: Unpack[RunOptions],
    ) -> R | TaskRunRef[TInput, R]:
        """As `run`."""
        config = self._config(input, options, given)
        if wait_for_result:
            return cast("R", await self._aio_run(config))
        return self.get_run_ref((await self._client.started.aio_start_many((config,)))[0])

    def run_no_wait(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        **given: Unpack[RunOptions],
    ) -> TaskRunRef[TInput, R]:
        """Start a run, and return a reference as soon as it is durable."""
        return self.run(input, options, wait_for_result=False, **given)

    async def aio_run_no_wait(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        **given: Unpack[RunOptions],
    ) -> TaskRunRef[TInput, R]:
        """As `run_no_wait`."""
        return await self.aio_run(input, options, wait_for_result=False, **given)

    @overload
    def run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: Literal[False] = False
    ) -> list[R]: ...
    @overload
    def run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: Literal[True]
    ) -> list[R | BroadaxeError]: ...
    def run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: bool = False
    ) -> list[Any]:
        """Start many runs together, wait until all have ended, and return their outputs in order.

        Up to 1,000 runs are created together or not at all; more are sent in parts. The first failed or cancelled run
        raises, after all have ended; with `return_exceptions` its error stands in the list instead.
        """
        return self._decode_all(self._client.started.run_many(workflows), return_exceptions)

    @overload
    async def aio_run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: Literal[False] = False
    ) -> list[R]: ...
    @overload
    async def aio_run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: Literal[True]
    ) -> list[R | BroadaxeError]: ...
    async def aio_run_many(
        self, workflows: Sequence[WorkflowRunTriggerConfig], return_exceptions: bool = False
    ) -> list[Any]:
        """As `run_many`."""
        return self._decode_all(await self._client.started.aio_run_many(workflows), return_exceptions)

    def run_many_no_wait(self, workflows: Sequence[WorkflowRunTriggerConfig]) -> list[TaskRunRef[TInput, R]]:
        """Start many runs together, and return references as soon as all are durable."""
        return [self.get_run_ref(run_id) for run_id in self._client.started.start_many(workflows)]

    async def aio_run_many_no_wait(
        self, workflows: Sequence[WorkflowRunTriggerConfig]
    ) -> list[TaskRunRef[TInput, R]]:
        """As `run_many_no_wait`."""
        return [self.get_run_ref(run_id) for run_id in await self._client.started.aio_start_many(workflows)]

    def get_run_ref(self, run_id: str) -> TaskRunRef[TInput, R]:
        """A reference to a run of this task by its id. Asks nobody whether it exists."""
        return TaskRunRef(self._client, run_id, self)

    def get_result(self, run_id: str) -> R:
        """Wait for the end of a run by its id, and return its output."""
        return self.get_run_ref(run_id).result()

    async def aio_get_result(self, run_id: str) -> R:
        """As `get_result`."""
        return await self.get_run_ref(run_id).aio_result()

    def decode(self, finished: RunFinished) -> R:
        results = completed_results(finished)
        name = self.task.name.lower()
        own = next((result for result in results if result.task_name.lower() == name), None)
        if own is None and results:
            own = results[0]
        raw = own.output if own is not None else b""
        return cast("R", parse_output(self.task, raw))

    # ---- without a server

    def mock_run(
        self,
        input: TInput | None = None,
        additional_metadata: Mapping[str, Any] | None = None,
        parent_outputs: Mapping[str, Any] | None = None,
        retry_count: int = 0,
        lifespan: Any = None,
        dependencies: Mapping[str, Any] | None = None,
    ) -> R:
        """Call a synchronous task's function without a server. See `Task.mock_run`."""
        return self.task.mock_run(
            input, additional_metadata, parent_outputs, retry_count, lifespan, dependencies
        )

    async def aio_mock_run(
        self,
        input: TInput | None = None,
        additional_metadata: Mapping[str, Any] | None = None,
        parent_outputs: Mapping[str, Any] | None = None,
        retry_count: int = 0,
        lifespan: Any = None,
        dependencies: Mapping[str, Any] | None = None,
    ) -> R:
        """Call an async task's function without a server. See `Task.aio_mock_run`."""
        return await self.task.aio_mock_run(
            input, additional_metadata, parent_outputs, retry_count, lifespan, dependencies
        )
