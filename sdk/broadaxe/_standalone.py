"""Standalone tasks: workflows of one task, whose runs return what its function returns."""

# ruff: noqa: A002 - `input` is the documented name

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Protocol,
    cast,
    overload,
)

from broadaxe._batch_context import BatchContext, BatchMemberId
from broadaxe._context import Context
from broadaxe._definition import WorkflowSettings
from broadaxe._options import (
    BatchTaskConfig,
    DefaultFilter,
    IdempotencyConfig,
    StickyStrategy,
)
from broadaxe._refs import TaskRunRef
from broadaxe._runnable import Runnable
from broadaxe._runs import completed_results
from broadaxe._task import Task, TaskPlace, TaskSettings
from broadaxe._types import P, R, TInput
from broadaxe._validation import parse_output
from broadaxe.wire.stream_pb2 import RunFinished

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe


class Standalone(Runnable[TInput, R, TaskRunRef[TInput, R]], Generic[TInput, R]):
    """A task that is a workflow of its own, made by `Broadaxe.task`. Its runs return what its function returns."""

    def __init__(
        self,
        client: "Broadaxe",
        fn: Callable[..., Any],
        settings: WorkflowSettings,
        task_settings: TaskSettings,
        local_names: Mapping[str, Any],
        batch: BatchTaskConfig | None = None,
    ) -> None:
        super().__init__(client, settings)
        place = TaskPlace(batch=batch)
        self.task: Task[TInput, R] = self._add(fn, settings.name, task_settings, place, local_names)

    @property
    def fn(self) -> Callable[..., Any]:
        """The user's function."""
        return self.task.fn

    # ---- running

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


class StandaloneDecorator(Protocol):
    """Turns a function into a standalone task whose input type is that of the function's first parameter."""

    @overload
    def __call__(
        self, fn: Callable[Concatenate[TInput, Context, P], Coroutine[Any, Any, R]], /
    ) -> Standalone[TInput, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[TInput, Context, P], R], /) -> Standalone[TInput, R]: ...


class TypedStandaloneDecorator(Protocol[TInput]):
    """Turns a function into a standalone task whose input type was given as `input_validator`."""

    @overload
    def __call__(
        self, fn: Callable[Concatenate[TInput, Context, P], Coroutine[Any, Any, R]], /
    ) -> Standalone[TInput, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[TInput, Context, P], R], /) -> Standalone[TInput, R]: ...


class BatchDecorator(Protocol):
    """Turns a function of a batch into a standalone task. It takes inputs by member id, and returns outputs by member id."""

    @overload
    def __call__(
        self,
        fn: Callable[
            Concatenate[dict[BatchMemberId, TInput], BatchContext, P],
            Coroutine[Any, Any, Mapping[BatchMemberId, R]],
        ],
        /,
    ) -> Standalone[TInput, R]: ...
    @overload
    def __call__(
        self,
        fn: Callable[Concatenate[dict[BatchMemberId, TInput], BatchContext, P], Mapping[BatchMemberId, R]],
        /,
    ) -> Standalone[TInput, R]: ...


class BroadcastBatchDecorator(Protocol):
    """Turns a function of a batch into a standalone task. What it returns is the output of every member."""

    @overload
    def __call__(
        self,
        fn: Callable[Concatenate[dict[BatchMemberId, TInput], BatchContext, P], Coroutine[Any, Any, R]],
        /,
    ) -> Standalone[TInput, R]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[dict[BatchMemberId, TInput], BatchContext, P], R], /
    ) -> Standalone[TInput, R]: ...


class StandaloneSettings(TaskSettings, total=False):
    """Settings of a standalone task: those of any task, and those of the workflow that it is.

    description: for people. on_events, on_crons: what starts runs by itself; `*` in an event key stands for anything.
    cron_input: the input of runs started by a cron. version: for people. sticky: whether children stay on a worker.
    default_priority: 1 to 3 for runs that do not say. default_filters: event filters to create with the task.
    default_additional_metadata: metadata of every run, under its own.
    idempotency: what keeps two runs with the same key from being created; then a trigger raises `IdempotencyCollisionError`.
    """

    description: str | None
    on_events: Sequence[str] | None
    on_crons: Sequence[str] | None
    cron_input: Any
    version: str | None
    sticky: StickyStrategy | None
    default_priority: int
    default_filters: Sequence[DefaultFilter] | None
    default_additional_metadata: Mapping[str, Any] | None
    idempotency: IdempotencyConfig | None


_WORKFLOW_KEYS = StandaloneSettings.__annotations__.keys() - TaskSettings.__annotations__.keys()


def split_settings(settings: StandaloneSettings) -> tuple[dict[str, Any], TaskSettings]:
    """Settings of the workflow and of its task. What was given as None counts as not given."""
    known = _WORKFLOW_KEYS | TaskSettings.__annotations__.keys()
    unknown = settings.keys() - known
    if unknown:
        raise TypeError(
            f"unknown task setting {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(known))}"
        )
    own = {name: value for name, value in settings.items() if name in _WORKFLOW_KEYS and value is not None}
    of_task = {name: value for name, value in settings.items() if name not in _WORKFLOW_KEYS}
    return own, cast("TaskSettings", of_task)
