"""Starting runs and waiting for them: from what users give to what the transport carries, and back.

One implementation under both faces: everything is posted to the transport and answered by a future; the synchronous face waits for
it, the asynchronous one awaits it. Encoding happens on the caller's thread, in chunks that leave as soon as they are full.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

from broadaxe._context import Context, current_context
from broadaxe._errors import (
    BroadaxeError,
    BulkTriggerIdempotencyCollisionError,
    DefinitionError,
    FailedRunError,
    IdempotencyCollisionError,
    InvalidInputError,
    InvalidOutputError,
    RequestRefusedError,
    RunCancelledError,
    TaskRunError,
)
from broadaxe._ids import new_run_ids
from broadaxe._options import DesiredLabels, TriggerWorkflowOptions, WorkflowRunTriggerConfig, labels_to_wire
from broadaxe._transport.base import MAX_RUNS_PER_TRIGGER, Gather, TriggerTicket, encode_runs
from broadaxe._validation import EMPTY_OBJECT, Shape, dump
from broadaxe.wire.stream_pb2 import (
    FINAL_STATE_CANCELLED,
    FINAL_STATE_FAILED,
    NewRun,
    RunFinished,
    TaskResult,
)

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe

logger = logging.getLogger("broadaxe")

T = TypeVar("T")
Decode = Callable[[RunFinished], T]


class BulkRunOptions(TypedDict, total=False):
    """Options of one run of a bulk call as keywords; they win over `options`. See `TriggerWorkflowOptions`."""

    child_key: str | None
    additional_metadata: Mapping[str, Any] | None
    priority: int | None
    sticky: bool
    desired_worker_id: str | None
    desired_worker_label: DesiredLabels | None
    desired_worker_labels: DesiredLabels | None


class RunOptions(BulkRunOptions, total=False):
    """Options of one run as keywords; they win over `options`. See `TriggerWorkflowOptions` for what each means."""

    key: str | None


OPTION_NAMES = frozenset(RunOptions.__annotations__)
_SYNONYMS = {"desired_worker_labels": "desired_worker_label"}


def merged_options(
    options: TriggerWorkflowOptions | None, given: Mapping[str, Any]
) -> TriggerWorkflowOptions | None:
    """The options with keywords laid over them; None when nothing is said at all."""
    if not given:
        return options
    unknown = given.keys() - OPTION_NAMES
    if unknown:
        raise TypeError(
            f"unknown option {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(OPTION_NAMES))}"
        )
    update = {_SYNONYMS.get(name, name): value for name, value in given.items() if value is not None}
    base = options or TriggerWorkflowOptions()
    return base.model_copy(update=update) if update else options


class Runs:
    """Starts runs of one client and waits for their results."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    # ---- many runs

    def _tickets(
        self, configs: Iterable[WorkflowRunTriggerConfig], count: int, gather: Gather | None
    ) -> Iterator[TriggerTicket]:
        """Posts chunk after chunk, so that the first travels while the next is encoded."""
        transport = self._client.transport
        offset = 0
        for chunk in encode_runs(self._wire_runs(configs, count), self._client.max_send_bytes):
            ticket = TriggerTicket(chunk, gather, offset)
            offset += len(chunk.run_ids)
            transport.post_trigger(ticket)
            yield ticket

    def _wire_runs(self, configs: Iterable[WorkflowRunTriggerConfig], count: int) -> Iterator[NewRun]:
        context = current_context.get()
        for run_id, config in zip(new_run_ids(count), configs, strict=True):
            if context is None and config.options is None and config.key is None:
                yield NewRun(
                    run_id=run_id,
                    workflow_name=config.workflow_name,
                    input=config.input,
                    metadata=config.metadata,
                )
            else:
                yield _wire_run(run_id, config, context)

    def start_one(self, config: WorkflowRunTriggerConfig) -> str:
        with _single():
            return self.start_many((config,))[0]

    async def aio_start_one(self, config: WorkflowRunTriggerConfig) -> str:
        with _single():
            return (await self.aio_start_many((config,)))[0]

    def run_one(self, config: WorkflowRunTriggerConfig) -> RunFinished:
        with _single():
            return cast("RunFinished", self.run_many((config,))[0])

    async def aio_run_one(self, config: WorkflowRunTriggerConfig) -> RunFinished:
        with _single():
            return cast("RunFinished", (await self.aio_run_many((config,)))[0])

    def start_many(self, configs: Sequence[WorkflowRunTriggerConfig]) -> list[str]:
        tickets = list(self._tickets(configs, len(configs), None))
        return _ids_of(tickets)

    async def aio_start_many(self, configs: Sequence[WorkflowRunTriggerConfig]) -> list[str]:
        tickets = await self._aio_tickets(configs, None)
        await _settled(tickets)
        return _ids_of(tickets)

    def run_many(
        self, configs: Sequence[WorkflowRunTriggerConfig], keeps_collisions: bool = False
    ) -> list[RunFinished | BroadaxeError]:
        """Results in the order of the configs, once the last has ended.

        keeps_collisions: runs that others' idempotency keys kept from being created have their error in the list.
        """
        gather = Gather(len(configs), keeps_collisions)
        tickets = list(self._tickets(configs, len(configs), gather))
        return self._wait(gather, tickets)

    async def aio_run_many(
        self, configs: Sequence[WorkflowRunTriggerConfig], keeps_collisions: bool = False
    ) -> list[RunFinished | BroadaxeError]:
        gather = Gather(len(configs), keeps_collisions)
        tickets = await self._aio_tickets(configs, gather)
        return await self._aio_wait(gather, tickets)

    async def _aio_tickets(
        self, configs: Sequence[WorkflowRunTriggerConfig], gather: Gather | None
    ) -> list[TriggerTicket]:
        tickets = []
        for ticket in self._tickets(configs, len(configs), gather):
            tickets.append(ticket)
            if len(configs) > MAX_RUNS_PER_TRIGGER:
                await asyncio.sleep(0)  # the caller's loop has other things to do between chunks
        return tickets

    # ---- results

    def wait_for(self, run_ids: Sequence[str]) -> list[RunFinished]:
        """Results of runs by id, in order; waits for the last."""
        gather = Gather(len(run_ids))
        if run_ids:
            self._client.transport.post_watch(run_ids, gather)
        try:
            return _blocking(gather)
        except BaseException:
            self._client.transport.post_unwatch(run_ids, gather)
            raise

    async def aio_wait_for(self, run_ids: Sequence[str]) -> list[RunFinished]:
        """As `wait_for`. Cancelling it takes the watch back."""
        gather = Gather(len(run_ids))
        if run_ids:
            self._client.transport.post_watch(run_ids, gather)
        try:
            return await _awaited(gather)
        except BaseException:
            self._client.transport.post_unwatch(run_ids, gather)
            raise

    def _wait(self, gather: Gather, tickets: list[TriggerTicket]) -> list[RunFinished | BroadaxeError]:
        try:
            return _blocking(gather)
        except RequestRefusedError as error:
            self._forget(gather, tickets)
            wait([ticket.ids for ticket in tickets])
            raise _of_all_parts(error, tickets) from None
        except BaseException:
            self._forget(gather, tickets)
            raise

    async def _aio_wait(
        self, gather: Gather, tickets: list[TriggerTicket]
    ) -> list[RunFinished | BroadaxeError]:
        try:
            return await _awaited(gather)
        except RequestRefusedError as error:
            self._forget(gather, tickets)
            await _settled(tickets)
            raise _of_all_parts(error, tickets) from None
        except BaseException:
            self._forget(gather, tickets)
            raise

    def _forget(self, gather: Gather, tickets: list[TriggerTicket]) -> None:
        for ticket in tickets:
            self._client.transport.post_unwatch(ticket.chunk.run_ids, gather)


def _ids_of(tickets: list[TriggerTicket]) -> list[str]:
    try:
        return [run_id for ticket in tickets for run_id in ticket.ids.result()]
    except RequestRefusedError as error:
        wait([ticket.ids for ticket in tickets])
        raise _of_all_parts(error, tickets) from None


async def _settled(tickets: list[TriggerTicket]) -> None:
    """Return when all are answered, whatever they hold."""
    await asyncio.gather(*(asyncio.wrap_future(ticket.ids) for ticket in tickets), return_exceptions=True)


def _of_all_parts(error: RequestRefusedError, tickets: list[TriggerTicket]) -> RequestRefusedError:
    """Of a bulk call in several parts, all answered: the error that says what was done in each."""
    created: list[str] = []
    collisions: list[IdempotencyCollisionError] = []
    for ticket in tickets:
        refusal = ticket.ids.exception()
        if refusal is None:
            created += ticket.ids.result()
        elif isinstance(refusal, BulkTriggerIdempotencyCollisionError):
            created += refusal.successful_workflow_run_external_ids
            collisions += refusal.collisions
    if isinstance(error, BulkTriggerIdempotencyCollisionError):
        return BulkTriggerIdempotencyCollisionError(created, collisions)
    if len(tickets) > 1:
        error.created_run_ids = tuple(created)
    return error


@contextmanager
def _single() -> Iterator[None]:
    """A trigger of one run raises the error of that run."""
    try:
        yield
    except BulkTriggerIdempotencyCollisionError as error:
        raise error.collisions[0] from None


def _blocking(gather: Gather) -> list[Any]:
    """Wait for results in this thread: in a task until it is cancelled, and without its slot if it says so."""
    context = current_context.get()
    if context is None:
        return gather.future.result()
    _warn_if_blocking()
    if context.takes_leave_of_slot():
        try:
            context.release_slot()
        except BroadaxeError as error:
            _tell_of_kept_slot(context, error)
    return context.wait(gather.future)


async def _awaited(gather: Gather) -> list[Any]:
    context = current_context.get()
    if context is not None and context.takes_leave_of_slot():
        try:
            await context.aio_release_slot()
        except BroadaxeError as error:
            _tell_of_kept_slot(context, error)
    return await asyncio.wrap_future(gather.future)


def _tell_of_kept_slot(context: Context, error: BroadaxeError) -> None:
    logger.warning(
        "task %s (run %s) keeps its slot while it waits for other runs: %s",
        context.task_name,
        context.workflow_run_id,
        error,
    )


def _warn_if_blocking() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    logger.warning(
        "a blocking run() inside an async task holds up every async task of this worker: await aio_run() instead"
    )


def _wire_run(run_id: str, config: WorkflowRunTriggerConfig, context: Context | None) -> NewRun:
    options = config.options
    run = NewRun(
        run_id=run_id,
        workflow_name=config.workflow_name,
        input=config.input,
        metadata=config.metadata,
    )
    if context is not None:
        run.parent_task_run_id = context.task_run_id
        run.child_index = context.next_child_index()
    key = config.key
    if options is not None:
        _apply_options(run, config, options, context)
        key = options.child_key or options.key or key
    if key is not None:
        run.child_key = key
        if not run.HasField("child_index"):
            run.child_index = 0
    return run


def _apply_options(
    run: NewRun, config: WorkflowRunTriggerConfig, options: TriggerWorkflowOptions, context: Context | None
) -> None:
    where = f"run of {config.workflow_name!r}"
    if options.parent_step_run_id:
        run.parent_task_run_id = options.parent_step_run_id
    if options.child_index is not None:
        run.child_index = options.child_index
    if options.priority is not None:
        if not 1 <= options.priority <= 3:
            raise InvalidInputError(f"{where}: priority is {options.priority}, expected 1 to 3")
        run.priority = options.priority
    if options.additional_metadata:
        merged = {**config.default_metadata, **options.additional_metadata}
        run.metadata = dump(merged, f"the metadata of a {where}", InvalidInputError)
    if options.desired_worker_id:
        run.desired_worker_id = options.desired_worker_id
    elif options.sticky:
        run.desired_worker_id = _parents_worker(where, config.workflow_name, context)
    try:
        labels = labels_to_wire(options.desired_worker_label, where)
    except DefinitionError as error:
        raise InvalidInputError(str(error)) from None
    for label, wanted in labels.items():
        run.desired_worker_labels[label].CopyFrom(wanted)


def _parents_worker(where: str, workflow_name: str, context: Context | None) -> str:
    """The worker that a sticky child is to run on. Raises `InvalidInputError` for a child that cannot, or would not, run there."""
    if context is None:
        raise InvalidInputError(
            f"{where}: sticky=True keeps a child on its parent's worker; there is no parent outside of a task"
        )
    strategies = context.sticky_strategies
    if strategies is not None:
        if workflow_name not in strategies:
            raise InvalidInputError(
                f"{where}: sticky=True runs a child on its parent's worker, and that worker does not serve {workflow_name!r}: "
                "register it there too, or leave sticky out"
            )
        if strategies[workflow_name] is None:
            raise InvalidInputError(
                f"{where}: sticky=True needs a child that is sticky itself: declare {workflow_name!r} with "
                "sticky=StickyStrategy.SOFT or HARD, or leave sticky out"
            )
    return context.worker_id


def completed_results(finished: RunFinished) -> Sequence[TaskResult]:
    """The tasks of a run that completed. Raises `FailedRunError` or `RunCancelledError` for any other end."""
    if finished.state == FINAL_STATE_FAILED:
        errors = [
            TaskRunError.from_wire(
                result.error.decode("utf-8", "replace"), result.task_run_id, result.task_name
            )
            for result in finished.results
            if result.state == FINAL_STATE_FAILED
        ]
        raise FailedRunError(
            finished.run_id, errors or [TaskRunError("the run failed, and the engine gave no error text")]
        )
    if finished.state == FINAL_STATE_CANCELLED:
        reasons = (
            TaskRunError.from_wire(result.error.decode("utf-8", "replace")).summary
            for result in finished.results
            if result.state == FINAL_STATE_CANCELLED and result.error
        )
        raise RunCancelledError(finished.run_id, next(reasons, ""))
    return finished.results


def outputs_by_name(finished: RunFinished) -> dict[str, Any]:
    """What the tasks of a run returned, by their names: `{"skipped": True}` of a skipped one, None of one that returned nothing.

    Raises `FailedRunError`, `RunCancelledError`, or `InvalidOutputError`.
    """
    return {
        result.task_name: Shape(Any, f"the output of task {result.task_name!r}").parse(
            result.output, InvalidOutputError
        )
        for result in completed_results(finished)
    }


def metadata_text(metadata: Mapping[str, Any], where: str) -> bytes:
    """JSON text of default metadata. Raises `InvalidInputError` naming `where`."""
    return dump(dict(metadata), where, InvalidInputError) if metadata else EMPTY_OBJECT
