"""The client: where the server is, how tasks and workflows are declared, and how runs are reached.

Making one reads no setting and opens no connection: both happen at first use, so that a module which declares tasks can be imported
anywhere, also before a fork and in tests without a server.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Concatenate, Literal, Self, TypeVar, Unpack, cast, overload

from broadaxe._annotations import caller_locals
from broadaxe._config import (
    ClientConfig,
    Settings,
    load_max_send_bytes,
    load_namespace,
    load_settings,
    with_arguments,
)
from broadaxe._context import Context
from broadaxe._crons import CronClient
from broadaxe._definition import BaseWorkflow, WorkflowSettings, with_namespace
from broadaxe._errors import ConfigurationError
from broadaxe._events import EventClient
from broadaxe._filters import CELClient, FiltersClient
from broadaxe._options import (
    BatchTaskConfig,
    Concurrency,
    DefaultFilter,
    IdempotencyConfig,
    StickyStrategy,
    TaskDefaults,
)
from broadaxe._rate_limits import RateLimitsClient
from broadaxe._resource_clients import LogsClient, MetricsClient, WorkersClient, WorkflowsClient
from broadaxe._rest import RestClient
from broadaxe._run_client import RunsClient
from broadaxe._runs import Runs
from broadaxe._scheduled import ScheduledClient
from broadaxe._standalone import (
    BatchDecorator,
    BroadcastBatchDecorator,
    Standalone,
    StandaloneDecorator,
    StandaloneSettings,
    TypedStandaloneDecorator,
    split_settings,
)
from broadaxe._stubs import StubsClient
from broadaxe._tenant import TenantClient
from broadaxe._transport.base import Transport
from broadaxe._transport.stream import StreamTransport
from broadaxe._types import EmptyModel, P, R, TInput
from broadaxe._webhooks import WebhooksClient
from broadaxe._workflow import Workflow

if TYPE_CHECKING:
    from broadaxe._worker import Worker

T = TypeVar("T")


class Broadaxe:
    """A client of one tenant on one server.

    token, host_port, namespace: the settings most often given; `config` has all of them. What is not given comes from
    `BROADAXE_CLIENT_*`, then `HATCHET_CLIENT_*`, then the profile that a server on this machine has written; so with a
    local server nothing need be given. Wrong or missing settings raise `ConfigurationError` at first use.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        host_port: str | None = None,
        namespace: str | None = None,
        config: ClientConfig | None = None,
        debug: bool = False,
    ) -> None:
        self._config = with_arguments(config, token=token, host_port=host_port, namespace=namespace)
        self._lock = threading.Lock()
        self._settings: Settings | None = None
        self._transport: Transport | None = None
        self.debug = debug
        self.started = Runs(self)
        """Starts runs and waits for them, below the typed surface."""

    def __repr__(self) -> str:
        where = self._settings.host_port if self._settings is not None else "not connected"
        return f"Broadaxe({where})"

    # ---- connection

    @property
    def settings(self) -> Settings:
        """Every setting, decided at the first look. Raises `ConfigurationError`."""
        if self._settings is None:
            self._settings = load_settings(self._config)
        return self._settings

    @cached_property
    def namespace(self) -> str:
        """What stands before the names of workflows, workers and events: lower case, ending in `_`, or empty."""
        return load_namespace(self._config)

    def namespaced(self, name: str) -> str:
        """A name with the namespace before it, unless it has it."""
        return with_namespace(name, self.namespace)

    @property
    def max_send_bytes(self) -> int:
        """The largest message that may be sent; known without a token."""
        return (
            self._settings.max_send_bytes if self._settings is not None else load_max_send_bytes(self._config)
        )

    @property
    def tenant_id(self) -> str:
        """The tenant of the API token."""
        return self.settings.tenant_id

    @property
    def transport(self) -> Transport:
        """The connection, opened at the first use."""
        if self._transport is None:
            with self._lock:
                if self._transport is None:
                    self._transport = StreamTransport(self.settings)
        return self._transport

    @contextmanager
    def using(self, transport: Transport) -> Iterator[None]:
        """Within the block, this client talks to `transport` instead of a server. For tests; see `broadaxe.testing`."""
        before, self._transport = self._transport, transport
        try:
            yield
        finally:
            self._transport = before

    async def on_io(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that runs on the transport's loop."""
        return await asyncio.wrap_future(self.transport.submit(work))

    def close(self) -> None:
        """Send what is queued, and close the connection. The client cannot be used afterwards. May be called twice."""
        if self._transport is not None:
            self._transport.close()

    async def aio_close(self) -> None:
        """As `close`."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aio_close()

    # ---- parts

    @cached_property
    def event(self) -> EventClient:
        """Pushes and reads events."""
        return EventClient(self)

    @cached_property
    def filters(self) -> FiltersClient:
        """Creates, reads, changes and deletes event filters."""
        return FiltersClient(self)

    @cached_property
    def cel(self) -> CELClient:
        """Tries expressions of event filters."""
        return CELClient(self)

    @cached_property
    def runs(self) -> RunsClient:
        """Reads, cancels and replays runs, and follows their streams."""
        return RunsClient(self)

    @cached_property
    def logs(self) -> LogsClient:
        """Reads the logs of tasks."""
        return LogsClient(self)

    @cached_property
    def workers(self) -> WorkersClient:
        """Reads and pauses workers."""
        return WorkersClient(self)

    @cached_property
    def workflows(self) -> WorkflowsClient:
        """Reads and pauses registered workflows: the declarations. Their runs are read by `runs`."""
        return WorkflowsClient(self)

    @cached_property
    def metrics(self) -> MetricsClient:
        """Reads how much waits and runs, and the tenant's metrics."""
        return MetricsClient(self)

    @cached_property
    def tenant(self) -> TenantClient:
        """Reads the tenant of the API token."""
        return TenantClient(self)

    @cached_property
    def rate_limits(self) -> RateLimitsClient:
        """Sets, pauses and reads rate limits."""
        return RateLimitsClient(self)

    @cached_property
    def cron(self) -> CronClient:
        """Makes, lists and deletes crons."""
        return CronClient(self)

    @cached_property
    def scheduled(self) -> ScheduledClient:
        """Makes, lists, moves and deletes scheduled runs."""
        return ScheduledClient(self)

    @cached_property
    def webhooks(self) -> WebhooksClient:
        """Incoming webhooks."""
        return WebhooksClient(self)

    @cached_property
    def rest(self) -> RestClient:
        """The REST calls below the typed surface."""
        return RestClient(self.settings)

    @cached_property
    def stubs(self) -> StubsClient:
        """Tasks and workflows that live elsewhere, by name and types."""
        return StubsClient(self)

    # ---- declaring

    @overload
    def task(
        self, fn: Callable[Concatenate[TInput, Context, P], Coroutine[Any, Any, R]], /
    ) -> Standalone[TInput, R]: ...
    @overload
    def task(self, fn: Callable[Concatenate[TInput, Context, P], R], /) -> Standalone[TInput, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        input_validator: type[TInput],
        **settings: Unpack[StandaloneSettings],
    ) -> TypedStandaloneDecorator[TInput]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        input_validator: None = None,
        **settings: Unpack[StandaloneSettings],
    ) -> StandaloneDecorator: ...
    def task(  # type: ignore[misc]  # mypy: **Any does not count as accepting a TypedDict
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        input_validator: Any = None,
        **settings: Any,
    ) -> Any:
        """Declare a standalone task; with or without parentheses.

        name: the function's own when not given. input_validator: the input's type, when it is not the annotation of the
        function's first parameter. For the rest see `StandaloneSettings`. The function takes the input and a `Context`.
        Raises `DefinitionError` for a wrong signature or setting.
        """
        local_names = caller_locals()
        own, of_task = split_settings(cast("StandaloneSettings", settings))

        def declare(function: Callable[..., Any]) -> Standalone[Any, Any]:
            workflow_settings = WorkflowSettings(
                name=name or str(getattr(function, "__name__", "")), input_validator=input_validator, **own
            )
            return Standalone(self, function, workflow_settings, of_task, local_names)

        return declare if fn is None else declare(fn)

    @overload
    def batch_task(
        self,
        *,
        name: str | None = None,
        input_validator: Any = None,
        batch_max_size: int = 1,
        batch_max_interval: timedelta | None = None,
        batch_group_key: str | None = None,
        batch_group_max_runs: int | None = None,
        broadcast_output: Literal[False] = False,
        **settings: Unpack[StandaloneSettings],
    ) -> BatchDecorator: ...
    @overload
    def batch_task(
        self,
        *,
        name: str | None = None,
        input_validator: Any = None,
        batch_max_size: int = 1,
        batch_max_interval: timedelta | None = None,
        batch_group_key: str | None = None,
        batch_group_max_runs: int | None = None,
        broadcast_output: Literal[True],
        **settings: Unpack[StandaloneSettings],
    ) -> BroadcastBatchDecorator: ...
    def batch_task(
        self,
        *,
        name: str | None = None,
        input_validator: Any = None,
        batch_max_size: int = 1,
        batch_max_interval: timedelta | None = None,
        batch_group_key: str | None = None,
        batch_group_max_runs: int | None = None,
        broadcast_output: bool = False,
        **settings: Any,
    ) -> Any:
        """Declare a standalone task whose runs are done together: one call of the function for a batch of them, in one slot.

        The function takes a dictionary of inputs by member id, and a `BatchContext`; it returns a dictionary with an output
        for each of these ids, or with `broadcast_output` one output for all. Each run keeps its own id, result and metadata. What
        the function raises fails every member; batch tasks are not retried.

        batch_max_size: runs in a batch. batch_max_interval: how long to wait for more, 1 second if not given.
        batch_group_key: CEL over the input that gives a string; runs with different keys are never in one batch.
        batch_group_max_runs: batches of a key at once, 100 if not given. For the rest see `StandaloneSettings`.
        """
        local_names = caller_locals()
        own, of_task = split_settings(cast("StandaloneSettings", settings))
        batch = BatchTaskConfig(
            batch_max_size=batch_max_size,
            batch_max_interval=batch_max_interval,
            batch_group_key=batch_group_key,
            batch_group_max_runs=batch_group_max_runs,
            broadcast_output=broadcast_output,
        )

        def declare(function: Callable[..., Any]) -> Standalone[Any, Any]:
            workflow_settings = WorkflowSettings(
                name=name or str(getattr(function, "__name__", "")), input_validator=input_validator, **own
            )
            return Standalone(self, function, workflow_settings, of_task, local_names, batch)

        return declare

    @overload
    def workflow(
        self,
        *,
        name: str,
        input_validator: type[TInput],
        description: str | None = None,
        on_events: Sequence[str] | None = None,
        on_crons: Sequence[str] | None = None,
        cron_input: TInput | None = None,
        version: str | None = None,
        sticky: StickyStrategy | None = None,
        default_priority: int = 1,
        concurrency: Concurrency | None = None,
        task_defaults: TaskDefaults | None = None,
        default_filters: Sequence[DefaultFilter] | None = None,
        default_additional_metadata: Mapping[str, Any] | None = None,
        idempotency: IdempotencyConfig | None = None,
    ) -> Workflow[TInput]: ...
    @overload
    def workflow(
        self,
        *,
        name: str,
        input_validator: None = None,
        description: str | None = None,
        on_events: Sequence[str] | None = None,
        on_crons: Sequence[str] | None = None,
        cron_input: EmptyModel | None = None,
        version: str | None = None,
        sticky: StickyStrategy | None = None,
        default_priority: int = 1,
        concurrency: Concurrency | None = None,
        task_defaults: TaskDefaults | None = None,
        default_filters: Sequence[DefaultFilter] | None = None,
        default_additional_metadata: Mapping[str, Any] | None = None,
        idempotency: IdempotencyConfig | None = None,
    ) -> Workflow[EmptyModel]: ...
    def workflow(
        self,
        *,
        name: str,
        input_validator: Any = None,
        description: str | None = None,
        on_events: Sequence[str] | None = None,
        on_crons: Sequence[str] | None = None,
        cron_input: Any = None,
        version: str | None = None,
        sticky: StickyStrategy | None = None,
        default_priority: int = 1,
        concurrency: Concurrency | None = None,
        task_defaults: TaskDefaults | None = None,
        default_filters: Sequence[DefaultFilter] | None = None,
        default_additional_metadata: Mapping[str, Any] | None = None,
        idempotency: IdempotencyConfig | None = None,
    ) -> Workflow[Any]:
        """Declare a workflow; its tasks are declared with its own `task` decorator.

        input_validator: type of the input of all its tasks; any object when not given. on_events, on_crons: what starts runs by
        itself. concurrency: how many runs at once, by key; a number is a limit over all. task_defaults: settings for tasks
        that do not say. idempotency: what keeps two runs with the same key from being created. The rest is as for `task`.
        """
        settings = WorkflowSettings(
            name=name,
            description=description,
            input_validator=input_validator,
            on_events=on_events or (),
            on_crons=on_crons or (),
            cron_input=cron_input,
            version=version,
            sticky=sticky,
            default_priority=default_priority,
            concurrency=concurrency,
            task_defaults=task_defaults or TaskDefaults(),
            default_filters=default_filters or (),
            default_additional_metadata=default_additional_metadata or {},
            idempotency=idempotency,
        )
        return Workflow(self, settings)

    def worker(
        self,
        name: str,
        *,
        slots: int | None = None,
        durable_slots: int | None = None,
        labels: Mapping[str, str | int] | None = None,
        workflows: Sequence[BaseWorkflow[Any]] | None = None,
        lifespan: Callable[[], AsyncGenerator[Any, None]] | None = None,
    ) -> "Worker":
        """A worker for these workflows and standalone tasks; `start` runs it. See `Worker`."""
        from broadaxe._worker import Worker  # noqa: PLC0415 - a process that only triggers has no use for it

        for item in workflows or ():
            if not isinstance(item, BaseWorkflow):
                raise ConfigurationError(
                    f"worker {name!r}: workflows holds {item!r}: expected workflows and standalone tasks"
                )
        return Worker(
            self,
            name,
            slots=slots,
            durable_slots=durable_slots,
            labels=labels,
            workflows=cast("Sequence[Workflow[Any] | Standalone[Any, Any]]", workflows or ()),
            lifespan=lifespan,
        )
