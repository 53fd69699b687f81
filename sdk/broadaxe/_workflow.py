"""Workflows and standalone tasks: how they are declared, run, and written on the wire.

`Workflow` holds tasks and returns their outputs by name; `Standalone` is a workflow of one task, and returns that task's output as its
declared type. Every method that talks to the server has a blocking form and an `aio_` form of the same name.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from broadaxe._annotations import caller_locals
from broadaxe._conditions import Condition, OrGroup
from broadaxe._context import Context
from broadaxe._errors import (
    BroadaxeError,
    DefinitionError,
    FailedRunError,
    InvalidInputError,
    InvalidOutputError,
    RunCancelledError,
)
from broadaxe._options import (
    Concurrency,
    DefaultFilter,
    StickyStrategy,
    TaskDefaults,
    TriggerWorkflowOptions,
    WorkflowRunTriggerConfig,
    concurrency_to_wire,
)
from broadaxe._refs import TaskRunRef, WorkflowRunRef
from broadaxe._runs import BulkRunOptions, RunOptions, completed_results, merged_options, metadata_text
from broadaxe._task import Task, TaskPlace, TaskSettings
from broadaxe._types import EmptyModel, P, R, TInput
from broadaxe._validation import Shape, dump, parse_output
from broadaxe.wire.stream_pb2 import RunFinished
from broadaxe.wire.v1 import workflows_pb2 as wire

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe

__all__ = ["BaseWorkflow", "Standalone", "Task", "Workflow", "WorkflowSettings"]

W = TypeVar("W", bound="BaseWorkflow[Any]")


@dataclass(kw_only=True)
class WorkflowSettings:
    """What a workflow declares beside its tasks; the parameters of `Broadaxe.workflow` and `Broadaxe.task` say what each means."""

    name: str
    description: str | None = None
    input_validator: Any = None
    on_events: Sequence[str] = ()
    on_crons: Sequence[str] = ()
    cron_input: Any = None
    version: str | None = None
    sticky: StickyStrategy | None = None
    default_priority: int = 1
    concurrency: Concurrency | None = None
    task_defaults: TaskDefaults = field(default_factory=TaskDefaults)
    default_filters: Sequence[DefaultFilter] = ()
    default_additional_metadata: Mapping[str, Any] = field(default_factory=dict)


class BaseWorkflow(Generic[TInput]):
    """What workflows and standalone tasks share. Equal only to itself."""

    def __init__(self, client: "Broadaxe", settings: WorkflowSettings) -> None:
        self._client = client
        self.settings = settings
        self.base_name = settings.name
        """The name without the namespace."""
        if not settings.name:
            raise DefinitionError("a workflow needs a name")
        if settings.task_defaults.priority is not None and settings.default_priority == 1:
            self._priority = int(settings.task_defaults.priority)
        else:
            self._priority = int(settings.default_priority)
        if not 1 <= self._priority <= 3:
            raise DefinitionError(
                f"workflow {self.base_name!r}: default_priority is {self._priority}, expected 1 to 3"
            )
        concurrency_to_wire(settings.concurrency)
        self._tasks: list[Task[Any, Any]] = []
        self._metadata = metadata_text(
            settings.default_additional_metadata, f"default_additional_metadata of {self.base_name!r}"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_name!r})"

    @cached_property
    def name(self) -> str:
        """The name with the client's namespace."""
        return self.namespaced(self.base_name)

    @property
    def tasks(self) -> list[Task[Any, Any]]:
        """Every task, in declared order, on-success and on-failure tasks included."""
        return list(self._tasks)

    @property
    def task_defaults(self) -> TaskDefaults:
        return self.settings.task_defaults

    def namespaced(self, name: str) -> str:
        """A name with the client's namespace before it, unless it has it."""
        return with_namespace(name, self._client.namespace)

    def _add(
        self,
        fn: Callable[..., Any],
        name: str | None,
        settings: TaskSettings,
        place: TaskPlace,
        local_names: Mapping[str, Any],
    ) -> Task[Any, Any]:
        """Declare one task. Raises `DefinitionError`; nothing is declared then."""
        task: Task[Any, Any] = Task(
            fn,
            workflow=self,
            name=name,
            input_validator=self.settings.input_validator,
            settings=settings,
            place=place,
            local_names=local_names,
        )
        if any(known.name.lower() == task.name.lower() for known in self._tasks):
            raise DefinitionError(
                f"workflow {self.base_name!r} has two tasks named {task.name!r}: task names must differ, also in lower case"
            )
        for kind in ("is_on_failure", "is_on_success"):
            if getattr(place, kind) and any(getattr(known.place, kind) for known in self._tasks):
                raise DefinitionError(f"workflow {self.base_name!r} has two {kind[3:]} tasks: declare one")
        for parent in place.parents:
            self._check_parent(task, parent)
        task.check()
        self._tasks.append(task)
        return task

    def _check_parent(self, task: Task[Any, Any], parent: object) -> None:
        names = ", ".join(repr(known.name) for known in self._tasks) or "none yet"
        if not isinstance(parent, Task):
            raise DefinitionError(
                f"{task.where}: parents holds {parent!r}: expected tasks of this workflow, declared before ({names})"
            )
        if parent not in self._tasks:
            raise DefinitionError(
                f"{task.where}: parent {parent.name!r} is not a task of this workflow declared before it (those are: {names})"
            )
        if parent.place.is_on_failure or parent.place.is_on_success:
            raise DefinitionError(
                f"{task.where}: parent {parent.name!r} runs at the end of the workflow and cannot be a parent"
            )

    # ---- the wire

    def to_wire(self) -> wire.CreateWorkflowVersionRequest:
        """The definition to register, with the namespace applied. Raises `DefinitionError` without tasks."""
        ordinary = [
            task for task in self._tasks if not task.place.is_on_failure and not task.place.is_on_success
        ]
        if not ordinary:
            raise DefinitionError(f"workflow {self.base_name!r} has no tasks: declare at least one")
        settings = self.settings
        request = wire.CreateWorkflowVersionRequest(
            name=self.name,
            description=settings.description or "",
            version=settings.version or "",
            event_triggers=[self.namespaced(key) for key in settings.on_events or ()],
            cron_triggers=list(settings.on_crons or ()),
            tasks=[task.to_wire() for task in ordinary],
            sticky=wire.StickyStrategy.Value(settings.sticky.value) if settings.sticky is not None else None,
            default_priority=self._priority,
            concurrency_arr=concurrency_to_wire(settings.concurrency),
            default_filters=[
                wire.DefaultFilter(
                    expression=item.expression,
                    scope=item.scope,
                    payload=dump(item.payload, f"a default filter of {self.base_name!r}", DefinitionError),
                )
                for item in settings.default_filters or ()
            ],
            input_json_schema=self.input_shape.json_schema(),
        )
        if settings.cron_input is not None:
            request.cron_input = self.input_shape.dump_given(settings.cron_input).decode()
        for task in self._tasks:
            if task.place.is_on_failure:
                request.on_failure_task.CopyFrom(task.to_wire())
            elif task.place.is_on_success:
                has_child = {parent.name for other in ordinary for parent in other.parents}
                opts = task.to_wire()
                opts.parents.extend(other.name for other in ordinary if other.name not in has_child)
                request.tasks.append(opts)
        return request

    @cached_property
    def input_shape(self) -> Shape:
        """What `run` accepts: the validator given, or else what the tasks say, when they agree."""
        declared = self.settings.input_validator
        if declared is None:
            types = [task.input_type for task in self._tasks]
            declared = types[0] if types and all(other == types[0] for other in types) else EmptyModel
        return Shape(declared, f"the input of {self.base_name!r}")

    # ---- runs

    def create_bulk_run_item(
        self,
        input: TInput | None = None,  # noqa: A002 - the documented name
        key: str | None = None,
        options: TriggerWorkflowOptions | None = None,
        **given: Unpack[BulkRunOptions],
    ) -> WorkflowRunTriggerConfig:
        """One run for the `run_many` methods. The input is validated and written now.

        key: identity of a child among its parent's children: a retried parent gets the same child back.
        Raises `InvalidInputError`.
        """
        return self._config(input, options, given, key)

    def _config(
        self,
        given_input: Any,
        options: TriggerWorkflowOptions | None,
        given: Mapping[str, Any],
        key: str | None = None,
    ) -> WorkflowRunTriggerConfig:
        if given:
            options = merged_options(options, given)
        name = self.name
        if options is not None and options.namespace is not None:
            name = with_namespace(self.base_name, options.namespace)
        return WorkflowRunTriggerConfig(
            name,
            self.input_shape.dump_given(given_input),
            options,
            key,
            self._metadata,
            self.settings.default_additional_metadata,
        )

    def decode(self, finished: RunFinished) -> Any:
        """What a run returned. Raises `FailedRunError`, `RunCancelledError` or `InvalidOutputError`."""
        raise NotImplementedError

    def _decode_all(self, results: list[RunFinished], return_exceptions: bool) -> list[Any]:
        if not return_exceptions:
            return [self.decode(finished) for finished in results]
        decoded: list[Any] = []
        for finished in results:
            try:
                decoded.append(self.decode(finished))
            except (FailedRunError, RunCancelledError, InvalidOutputError) as error:
                decoded.append(error)
        return decoded

    def _run(self, config: WorkflowRunTriggerConfig) -> Any:
        return self.decode(self._client.started.run_many((config,))[0])

    async def _aio_run(self, config: WorkflowRunTriggerConfig) -> Any:
        return self.decode((await self._client.started.aio_run_many((config,)))[0])


def with_namespace(name: str, namespace: str) -> str:
    """`name` with the namespace before it, unless it has it."""
    namespace = namespace.lower()
    if namespace and not namespace.endswith("_"):
        namespace += "_"
    return name if not namespace or name.startswith(namespace) else namespace + name


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
        raw = results[0].output if results else b""
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
