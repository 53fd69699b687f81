"""What workflows and standalone tasks share: names, tasks, the definition on the wire, and the making of runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, Unpack

from broadaxe._crons import check_on_cron
from broadaxe._errors import (
    DefinitionError,
)
from broadaxe._options import (
    Concurrency,
    DefaultFilter,
    IdempotencyConfig,
    StickyStrategy,
    TaskDefaults,
    TriggerWorkflowOptions,
    WorkflowRunTriggerConfig,
    concurrency_to_wire,
)
from broadaxe._rest import in_thread
from broadaxe._runs import BulkRunOptions, merged_options, metadata_text
from broadaxe._task import Task, TaskPlace, TaskSettings, check_name
from broadaxe._types import EmptyModel, TInput
from broadaxe._validation import Shape, dump
from broadaxe.models import V1Filter, V1TaskStatus, V1TaskSummary
from broadaxe.models import Workflow as WorkflowModel
from broadaxe.wire.v1 import workflows_pb2 as wire

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe


LOOKED_AT_ONCE = 100
"""Workflows asked for at a time when one is looked for by its name."""


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
    idempotency: IdempotencyConfig | None = None


class BaseWorkflow(Generic[TInput]):
    """What workflows and standalone tasks share. Equal only to itself."""

    def __init__(self, client: "Broadaxe", settings: WorkflowSettings) -> None:
        self._client = client
        self.settings = settings
        self.base_name = settings.name
        """The name without the namespace."""
        if not settings.name:
            raise DefinitionError("a workflow needs a name")
        check_name(settings.name, f"workflow {self.base_name!r}")
        if settings.task_defaults.priority is not None and settings.default_priority == 1:
            self._priority = int(settings.task_defaults.priority)
        else:
            self._priority = int(settings.default_priority)
        if not 1 <= self._priority <= 3:
            raise DefinitionError(
                f"workflow {self.base_name!r}: default_priority is {self._priority}, expected 1 to 3"
            )
        concurrency_to_wire(settings.concurrency, f"workflow {self.base_name!r}")
        for text in settings.on_crons or ():
            check_on_cron(text, f"workflow {self.base_name!r}")
        self._idempotency = self._checked_idempotency()
        self._tasks: list[Task[Any, Any]] = []
        self._metadata = metadata_text(
            settings.default_additional_metadata, f"default_additional_metadata of {self.base_name!r}"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_name!r})"

    def _checked_idempotency(self) -> wire.IdempotencyConfig | None:
        config = self.settings.idempotency
        if config is None:
            return None
        where = f"workflow {self.base_name!r}"
        if not isinstance(config, IdempotencyConfig):
            raise DefinitionError(
                f"{where}: idempotency is {config!r}: expected a TTLBasedIdempotencyConfig or a StatusBasedIdempotencyConfig"
            )
        return config.to_wire(where)

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
        return self._client.namespaced(name)

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
        for index, parent in enumerate(place.parents):
            self._check_parent(task, parent)
            if parent in place.parents[:index]:
                raise DefinitionError(f"{task.where}: parents holds {parent.name!r} twice")
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
            concurrency_arr=concurrency_to_wire(settings.concurrency, f"workflow {self.base_name!r}"),
            default_filters=[
                wire.DefaultFilter(
                    expression=item.expression,
                    scope=item.scope,
                    payload=dump(item.payload, f"a default filter of {self.base_name!r}", DefinitionError),
                )
                for item in settings.default_filters or ()
            ],
            input_json_schema=self.input_shape.json_schema(),
            idempotency=self._idempotency,
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

    # ---- as the server has it

    @cached_property
    def id(self) -> str:
        """The id of this workflow on the server. Asks it once; raises ValueError when it is not registered."""
        offset = 0
        while rows := self._client.workflows.list(self.name, limit=LOOKED_AT_ONCE, offset=offset).rows:
            for row in rows:
                if row.name == self.name:
                    return row.metadata.id
            offset += len(rows)
        raise ValueError(f"the server has no workflow {self.name!r}: start a worker that serves it first")

    def list_runs(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        offset: int | None = None,
        statuses: Sequence[V1TaskStatus] | None = None,
        additional_metadata: Mapping[str, str] | None = None,
        worker_id: str | None = None,
        parent_task_external_id: str | None = None,
        only_tasks: bool = False,
        triggering_event_external_id: str | None = None,
    ) -> list[V1TaskSummary]:
        """Runs of this workflow, newest first. See `RunsClient.list`."""
        return self._client.runs.list(
            since,
            only_tasks,
            offset,
            limit,
            statuses,
            until,
            additional_metadata,
            [self.id],
            worker_id,
            parent_task_external_id,
            triggering_event_external_id,
        ).rows

    aio_list_runs = in_thread(list_runs)

    def pause(
        self,
        queue_ttl: timedelta,
        paused_workflow_cron_run_queue_behavior: Literal["DROP", "QUEUE"] = "QUEUE",
        paused_workflow_scheduled_run_queue_behavior: Literal["DROP", "QUEUE"] = "QUEUE",
    ) -> WorkflowModel:
        """Hold the runs of this workflow. See `WorkflowsClient.pause`."""
        return self._client.workflows.pause(
            self.id,
            queue_ttl,
            paused_workflow_cron_run_queue_behavior,
            paused_workflow_scheduled_run_queue_behavior,
        )

    aio_pause = in_thread(pause)

    def unpause(self) -> WorkflowModel:
        """Let its runs go on."""
        return self._client.workflows.unpause(self.id)

    aio_unpause = in_thread(unpause)

    def delete(self) -> None:
        """Delete this workflow on the server. See `WorkflowsClient.delete`."""
        self._client.workflows.delete(self.id)
        del self.id  # registered again, it is another one

    aio_delete = in_thread(delete)

    def create_filter(
        self, expression: str, scope: str, payload: Mapping[str, Any] | None = None
    ) -> V1Filter:
        """Have events of `scope` start a run when `expression` (CEL) is true. See `FiltersClient.create`."""
        return self._client.filters.create(self.id, expression, scope, payload)

    aio_create_filter = in_thread(create_filter)


def with_namespace(name: str, namespace: str) -> str:
    """`name` with the namespace before it, unless it has it."""
    namespace = namespace.lower()
    if namespace and not namespace.endswith("_"):
        namespace += "_"
    return name if not namespace or name.startswith(namespace) else namespace + name
