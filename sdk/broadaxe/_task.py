"""One task: the user's function and how it is to be run. Knows how it is written on the wire; does not talk to a server."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypedDict, cast

from pydantic import ValidationError

from broadaxe._annotations import UNKNOWN, Signature
from broadaxe._batch_context import given_alone, member_type, taken_alone
from broadaxe._conditions import Condition, OrGroup, check_conditions, conditions_to_wire
from broadaxe._context import Context, current_context
from broadaxe._depends import Dependencies, check_input_and_context, find_dependencies
from broadaxe._durations import duration_to_wire
from broadaxe._errors import DefinitionError
from broadaxe._options import (
    BatchTaskConfig,
    Concurrency,
    DesiredLabels,
    RateLimit,
    check_number,
    concurrency_to_wire,
    labels_to_wire,
)
from broadaxe._types import Duration, EmptyModel, R, TInput
from broadaxe._validation import Shape
from broadaxe.wire.v1 import workflows_pb2 as wire

if TYPE_CHECKING:
    from broadaxe._definition import BaseWorkflow

MOST_RETRIES = 1_000_000
MOST_SLOTS = 1_000_000
NAME_LETTERS = re.compile(r"[A-Za-z0-9._-]+")
DEFAULT_SCHEDULE_TIMEOUT: Duration = "5m"
DEFAULT_EXECUTION_TIMEOUT: Duration = "60s"


def check_name(name: str, where: str) -> None:
    """Refuse a name that the engine would refuse. Raises `DefinitionError`."""
    if not NAME_LETTERS.fullmatch(name):
        raise DefinitionError(f"{where}: a name has only letters, digits and . _ - (of ASCII)")


class TaskSettings(TypedDict, total=False):
    """How a task is run. What is not given comes from the workflow's `task_defaults`, then from the default named here.

    schedule_timeout: longest wait for a worker, 5 minutes; then the run is cancelled.
    execution_timeout: longest run of one attempt, 60 seconds; then it fails and may be retried.
    retries: further attempts after a failure, 0. backoff_factor, backoff_max_seconds: the wait before retry n is
    factor to the power n seconds, at most the maximum; without them a retry is at once.
    rate_limits: what an attempt spends. concurrency: how many may run at once, by key.
    desired_worker_labels: which workers it may, or should, run on. slot_cost: slots that it takes, 1.
    release_slot_while_waiting: give the slot back the first time that an attempt waits for the result of another run, so that
    parents cannot hold all the slots that their children need; False. Nothing takes the slot again: after the wait the attempt
    runs beside a full worker, and if that worker dies the attempt is not given to another (see `Context.release_slot`).
    """

    schedule_timeout: Duration | None
    execution_timeout: Duration | None
    retries: int | None
    rate_limits: Sequence[RateLimit] | None
    desired_worker_labels: DesiredLabels | None
    backoff_factor: float | None
    backoff_max_seconds: int | None
    concurrency: Concurrency | None
    slot_cost: int | None
    release_slot_while_waiting: bool | None


@dataclass
class TaskPlace:
    """Where a task stands in its workflow."""

    parents: "Sequence[Task[Any, Any]]" = ()
    wait_for: Sequence[Condition | OrGroup] = ()
    skip_if: Sequence[Condition | OrGroup] = ()
    cancel_if: Sequence[Condition | OrGroup] = ()
    is_on_failure: bool = False
    is_on_success: bool = False
    batch: BatchTaskConfig | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Task(Generic[TInput, R]):
    """A task of a workflow, made by a decorator.

    name: unique in its workflow. fn: the user's function, as it was. dependencies: what `Depends` declares, by parameter.
    """

    is_durable = False

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        workflow: "BaseWorkflow[Any]",
        name: str | None,
        input_validator: Any,
        settings: TaskSettings,
        place: TaskPlace,
        local_names: Mapping[str, Any],
    ) -> None:
        if not callable(fn):
            raise DefinitionError(
                f"workflow {workflow.base_name!r}: a task is made of a function, not of {fn!r}"
            )
        self.fn = fn
        self.name: str = name or str(getattr(fn, "__name__", ""))
        self.workflow = workflow
        self.where = f"task {self.name!r} of workflow {workflow.base_name!r}"
        if not self.name or self.name == "<lambda>":
            raise DefinitionError(f"workflow {workflow.base_name!r}: give the task a name: name='...'")
        check_name(self.name, self.where)
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise DefinitionError(
                f"{self.where}: the function yields; a task returns its output (use ctx.put_stream to send parts of it)"
            )
        signature = Signature(fn, self.where, local_names)
        check_input_and_context(signature)
        self.is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
            getattr(fn, "__call__", None)  # noqa: B004 - asks whether it is async, not whether it is callable
        )
        self.dependencies: Dependencies = find_dependencies(signature)
        self.batch = place.batch
        """How its runs are brought together; None for a task whose runs run each by itself."""
        self.input_type = input_validator
        if input_validator is None:
            annotated = signature.parameter_type(signature.parameters[0])
            if self.batch is not None:
                annotated = member_type(annotated, f"{self.where}: the first parameter")
            self.input_type = EmptyModel if annotated is UNKNOWN else annotated
        self.input_shape = Shape(self.input_type, f"the input of {self.where}")
        returned = signature.return_type()
        if self.batch is not None and not self.batch.broadcast_output:
            returned = member_type(returned, f"{self.where}: what it returns")
        self.output_shape = Shape(returned, f"the output of {self.where}")
        for shape in (self.input_shape, self.output_shape):
            _ = shape.adapter  # a type that cannot be validated is told here, not at the first run
        self.settings = settings
        self.parents = tuple(place.parents)
        self.place = place

    def __repr__(self) -> str:
        return f"Task({self.name!r}, workflow={self.workflow.base_name!r})"

    @property
    def action_id(self) -> str:
        """`workflow:task` with the namespace, lower case: the key by which workers advertise and queues are kept."""
        return f"{self.workflow.name}:{self.name}".lower()

    @property
    def execution_timeout(self) -> Duration:
        return self._duration(
            "execution_timeout", self.workflow.task_defaults.execution_timeout, DEFAULT_EXECUTION_TIMEOUT
        )

    @property
    def schedule_timeout(self) -> Duration:
        return self._duration(
            "schedule_timeout", self.workflow.task_defaults.schedule_timeout, DEFAULT_SCHEDULE_TIMEOUT
        )

    @property
    def retries(self) -> int:
        if self.batch is not None:
            return 0
        return cast("int", self._setting("retries", self.workflow.task_defaults.retries) or 0)

    @property
    def slot_cost(self) -> int:
        return cast("int", self._setting("slot_cost", 1))

    @property
    def releases_slot(self) -> bool:
        """Whether the first wait for another run gives the slot back."""
        return bool(self.settings.get("release_slot_while_waiting"))

    @property
    def slot_pool(self) -> str:
        return "durable" if self.is_durable else "default"

    def _duration(self, name: str, default: Duration | None, fallback: Duration) -> Duration:
        value = self._setting(name, default)
        return fallback if value is None else cast("Duration", value)

    def _setting(self, name: str, default: Any) -> Any:
        given = self.settings.get(name)
        return default if given is None else given

    def _timeout(self, name: str, value: Duration) -> str:
        return duration_to_wire(value, f"{self.where}: {name}", is_zero_allowed=False)

    def check(self) -> None:
        """Refuse settings that the engine would refuse, where they are written. Raises `DefinitionError`."""
        defaults = self.workflow.task_defaults
        factor = self._setting("backoff_factor", defaults.backoff_factor)
        longest = self._setting("backoff_max_seconds", defaults.backoff_max_seconds)
        check_number(self.where, "retries", self.retries, 0, MOST_RETRIES)
        if self.batch is not None and self.settings.get("retries"):
            raise DefinitionError(f"{self.where}: retries is given, but batch tasks are not retried")
        check_number(self.where, "slot_cost", self.slot_cost, 1, MOST_SLOTS)
        if factor is not None:
            check_number(self.where, "backoff_factor", factor, 1, 1000, is_whole=False)
        if longest is not None:
            check_number(self.where, "backoff_max_seconds", longest, 1, 86_400)
        for what in ("wait_for", "skip_if", "cancel_if"):
            check_conditions(getattr(self.place, what), what, self.where, self.parents)
        self.to_wire()

    def to_wire(self) -> wire.CreateTaskOpts:
        """The definition of this task. The workflow's namespace is applied."""
        defaults = self.workflow.task_defaults
        concurrency = self.settings.get("concurrency")
        return wire.CreateTaskOpts(
            readable_id=self.name,
            action=self.action_id,
            timeout=self._timeout("execution_timeout", self.execution_timeout),
            inputs="{}",
            parents=[parent.name for parent in self.parents],
            retries=self.retries,
            rate_limits=[limit.to_wire(self.where) for limit in self.settings.get("rate_limits") or ()],
            worker_labels=labels_to_wire(self.settings.get("desired_worker_labels"), self.where),
            backoff_factor=self._setting("backoff_factor", defaults.backoff_factor),
            backoff_max_seconds=self._setting("backoff_max_seconds", defaults.backoff_max_seconds),
            concurrency=concurrency_to_wire(concurrency, self.where),
            conditions=conditions_to_wire(
                self.place.wait_for, self.place.skip_if, self.place.cancel_if, self.workflow.namespaced
            ),
            schedule_timeout=self._timeout("schedule_timeout", self.schedule_timeout),
            is_durable=self.is_durable,
            slot_requests={self.slot_pool: self.slot_cost},
            batch=self.batch.to_wire(self.where) if self.batch is not None else None,
        )

    # ---- without a server

    def mock_run(
        self,
        input: TInput | None = None,  # noqa: A002 - the documented name
        additional_metadata: Mapping[str, Any] | None = None,
        parent_outputs: Mapping[str, Any] | None = None,
        retry_count: int = 0,
        lifespan: Any = None,
        dependencies: Mapping[str, Any] | None = None,
    ) -> R:
        """Call the function of a synchronous task as a worker would, here and now, without a server.

        parent_outputs: outputs of parent tasks by task name, for `ctx.task_output`. dependencies: the values themselves, by
        parameter name. Raises what the function raises, and TypeError for an async task.
        """
        if self.is_async:
            raise TypeError(f"{self.where} is async: use aio_mock_run")
        value, context, values = self._mock(
            input, additional_metadata, parent_outputs, retry_count, lifespan, dependencies
        )
        token = current_context.set(context)
        try:
            return cast("R", taken_alone(self, context, self.fn(value, context, **values)))
        finally:
            current_context.reset(token)

    async def aio_mock_run(
        self,
        input: TInput | None = None,  # noqa: A002 - the documented name
        additional_metadata: Mapping[str, Any] | None = None,
        parent_outputs: Mapping[str, Any] | None = None,
        retry_count: int = 0,
        lifespan: Any = None,
        dependencies: Mapping[str, Any] | None = None,
    ) -> R:
        """As `mock_run`, for async tasks. Raises TypeError for a synchronous one."""
        if not self.is_async:
            raise TypeError(f"{self.where} is not async: use mock_run")
        value, context, values = self._mock(
            input, additional_metadata, parent_outputs, retry_count, lifespan, dependencies
        )
        token = current_context.set(context)
        try:
            return cast("R", taken_alone(self, context, await self.fn(value, context, **values)))
        finally:
            current_context.reset(token)

    def _mock(
        self,
        given: Any,
        additional_metadata: Mapping[str, Any] | None,
        parent_outputs: Mapping[str, Any] | None,
        retry_count: int,
        lifespan: Any,
        dependencies: Mapping[str, Any] | None,
    ) -> tuple[Any, Context, Mapping[str, Any]]:
        values = dict(dependencies or {})
        for name in values.keys() ^ self.dependencies.keys():
            raise TypeError(
                f"{self.where} has no dependency {name!r}"
                if name in values
                else f"{self.where} needs dependencies={{{name!r}: ...}}: pass the value, not the Depends"
            )
        try:
            value = given if given is not None else self.input_shape.adapter.validate_json(b"{}")
        except ValidationError as error:
            raise TypeError(f"{self.where} needs an input of type {self.input_type!r}") from error
        raw = self.input_shape.adapter.dump_python(value, mode="json")
        context = Context.for_test(
            input=raw if isinstance(raw, dict) else {},
            additional_metadata=additional_metadata,
            parent_outputs=parent_outputs,
            retry_count=retry_count,
            lifespan=lifespan,
            task_name=self.name,
            task=self,
        )
        value, context = given_alone(self, value, context)
        return value, context, values
