"""Workflows of one or more tasks: how they are declared and run. Their runs return the outputs of the tasks by name.

Every method that talks to the server has a blocking form and an `aio_` form of the same name.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any, Concatenate, Literal, Protocol, Unpack, cast, overload

from broadaxe._annotations import caller_locals
from broadaxe._batch_context import BatchContext, BatchMemberId
from broadaxe._conditions import Condition, OrGroup
from broadaxe._context import Context
from broadaxe._options import BatchTaskConfig
from broadaxe._refs import WorkflowRunRef
from broadaxe._runnable import Runnable
from broadaxe._runs import outputs_by_name
from broadaxe._task import Task, TaskPlace, TaskSettings
from broadaxe._types import P, R, TInput
from broadaxe.wire.stream_pb2 import RunFinished


class TaskDecorator(Protocol[TInput]):
    """Turns a function into a task of a workflow whose input type is known."""

    @overload
    def __call__(
        self, fn: Callable[Concatenate[TInput, Context, P], Coroutine[Any, Any, R]], /
    ) -> Task[TInput, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[TInput, Context, P], R], /) -> Task[TInput, R]: ...


class BatchTaskDecorator(Protocol[TInput]):
    """Turns a function of a batch into a task of a workflow. It takes inputs by member id, and returns outputs by member id."""

    @overload
    def __call__(
        self,
        fn: Callable[
            Concatenate[dict[BatchMemberId, TInput], BatchContext, P],
            Coroutine[Any, Any, Mapping[BatchMemberId, R]],
        ],
        /,
    ) -> Task[TInput, R]: ...
    @overload
    def __call__(
        self,
        fn: Callable[Concatenate[dict[BatchMemberId, TInput], BatchContext, P], Mapping[BatchMemberId, R]],
        /,
    ) -> Task[TInput, R]: ...


class BroadcastBatchTaskDecorator(Protocol[TInput]):
    """Turns a function of a batch into a task of a workflow. What it returns is the output of every member."""

    @overload
    def __call__(
        self,
        fn: Callable[Concatenate[dict[BatchMemberId, TInput], BatchContext, P], Coroutine[Any, Any, R]],
        /,
    ) -> Task[TInput, R]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[dict[BatchMemberId, TInput], BatchContext, P], R], /
    ) -> Task[TInput, R]: ...


class Workflow(Runnable[TInput, dict[str, Any], WorkflowRunRef]):
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
    def batch_task(
        self,
        name: str | None = None,
        *,
        batch_max_size: int,
        batch_max_interval: timedelta | None = None,
        batch_group_key: str | None = None,
        batch_group_max_runs: int | None = None,
        broadcast_output: Literal[False] = False,
        parents: Sequence[Task[TInput, Any]] | None = None,
        **settings: Unpack[TaskSettings],
    ) -> BatchTaskDecorator[TInput]: ...
    @overload
    def batch_task(
        self,
        name: str | None = None,
        *,
        batch_max_size: int,
        batch_max_interval: timedelta | None = None,
        batch_group_key: str | None = None,
        batch_group_max_runs: int | None = None,
        broadcast_output: Literal[True],
        parents: Sequence[Task[TInput, Any]] | None = None,
        **settings: Unpack[TaskSettings],
    ) -> BroadcastBatchTaskDecorator[TInput]: ...
    def batch_task(
        self,
        name: str | None = None,
        *,
        batch_max_size: int,
        batch_max_interval: timedelta | None = None,
        batch_group_key: str | None = None,
        batch_group_max_runs: int | None = None,
        broadcast_output: bool = False,
        parents: Sequence[Task[TInput, Any]] | None = None,
        **settings: Any,
    ) -> Any:
        """Declare a task of this workflow that runs of the workflow do together, in batches. See `Broadaxe.batch_task`."""
        batch = BatchTaskConfig(
            batch_max_size=batch_max_size,
            batch_max_interval=batch_max_interval,
            batch_group_key=batch_group_key,
            batch_group_max_runs=batch_group_max_runs,
            broadcast_output=broadcast_output,
        )
        place = TaskPlace(parents or (), batch=batch)
        return self._decorator(None, name, cast("TaskSettings", settings), place)

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

    def get_run_ref(self, run_id: str) -> WorkflowRunRef:
        """A reference to a run of this workflow by its id. Asks nobody whether it exists."""
        return WorkflowRunRef(self._client, run_id)

    def decode(self, finished: RunFinished) -> dict[str, Any]:
        return outputs_by_name(finished)
