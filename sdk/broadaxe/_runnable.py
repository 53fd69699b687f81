"""How a workflow, and a standalone task, is run: what differs is what a run returns, and its reference.

Every method that talks to the server has a blocking form and an `aio_` form of the same name.
"""

# ruff: noqa: A002 - `input` is the documented name

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar, Unpack, cast, overload

from broadaxe._errors import BroadaxeError, FailedRunError, InvalidOutputError, RunCancelledError
from broadaxe._options import TriggerWorkflowOptions, WorkflowRunTriggerConfig
from broadaxe._runs import RunOptions
from broadaxe._timed import Timed
from broadaxe._types import R, TInput
from broadaxe.wire.stream_pb2 import RunFinished

TRef = TypeVar("TRef")


class Runnable(Timed[TInput], Generic[TInput, R, TRef]):
    """Runs that return `R`, and references to them of type `TRef`."""

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
    ) -> TRef: ...
    def run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: bool = True,
        **given: Unpack[RunOptions],
    ) -> R | TRef:
        """Run it, wait for its end, and return its output: of a task what its function returns, of a workflow the outputs of its tasks by name.

        With `wait_for_result=False` returns a reference as soon as the run is durable. Raises `InvalidInputError`,
        `RequestRefusedError` (`IdempotencyCollisionError` among them), `ServerUnavailableError`; and, when waiting, `FailedRunError` or `RunCancelledError`.
        """
        config = self._config(input, options, given)
        if wait_for_result:
            return self._run(config)
        return self.get_run_ref(self._client.started.start_one(config))

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
    ) -> TRef: ...
    async def aio_run(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        *,
        wait_for_result: bool = True,
        **given: Unpack[RunOptions],
    ) -> R | TRef:
        """As `run`."""
        config = self._config(input, options, given)
        if wait_for_result:
            return await self._aio_run(config)
        return self.get_run_ref(await self._client.started.aio_start_one(config))

    def run_no_wait(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        **given: Unpack[RunOptions],
    ) -> TRef:
        """Start a run, and return a reference as soon as it is durable."""
        return self.run(input, options, wait_for_result=False, **given)

    async def aio_run_no_wait(
        self,
        input: TInput | None = None,
        options: TriggerWorkflowOptions | None = None,
        **given: Unpack[RunOptions],
    ) -> TRef:
        """As `run_no_wait`."""
        return await self.aio_run(input, options, wait_for_result=False, **given)

    @overload
    def run_many(
        self,
        workflows: Sequence[WorkflowRunTriggerConfig],
        return_exceptions: Literal[False] = False,
        wait_for_result: Literal[True] = True,
    ) -> list[R]: ...
    @overload
    def run_many(
        self,
        workflows: Sequence[WorkflowRunTriggerConfig],
        return_exceptions: Literal[True],
        wait_for_result: Literal[True] = True,
    ) -> list[R | BroadaxeError]: ...
    @overload
    def run_many(
        self,
        workflows: Sequence[WorkflowRunTriggerConfig],
        return_exceptions: bool = False,
        *,
        wait_for_result: Literal[False],
    ) -> list[TRef]: ...
    def run_many(
        self,
        workflows: Sequence[WorkflowRunTriggerConfig],
        return_exceptions: bool = False,
        wait_for_result: bool = True,
    ) -> list[Any]:
        """Start many runs together, wait until all have ended, and return their outputs in order.

        With `wait_for_result=False` it does what `run_many_no_wait` does.

        Runs are sent in parts of up to 100, each created as a whole or not at all. The first failed or cancelled run
        raises, after all have ended; with `return_exceptions` its error stands in the list instead. Runs whose idempotency keys
        others hold are not created: a `BulkTriggerIdempotencyCollisionError` tells which and is raised at once, while the others
        run; with `return_exceptions` an `IdempotencyCollisionError` stands in the place of each.
        """
        if not wait_for_result:
            return self.run_many_no_wait(workflows)
        return self._decode_all(
            self._client.started.run_many(workflows, return_exceptions), return_exceptions
        )

    @overload
    async def aio_run_many(
        self,
        workflows: Sequence[WorkflowRunTriggerConfig],
        return_exceptions: Literal[False] = False,
        wait_for_result: Literal[True] = True,
    ) -> list[R]: ...
    @overload
    async def aio_run_many(
        self,
        workflows: Sequence[WorkflowRunTriggerConfig],
        return_exceptions: Literal[True],
        wait_for_result: Literal[True] = True,
    ) -> list[R | BroadaxeError]: ...
    @overload
    async def aio_run_many(
        self,
        workflows: Sequence[WorkflowRunTriggerConfig],
        return_exceptions: bool = False,
        *,
        wait_for_result: Literal[False],
    ) -> list[TRef]: ...
    async def aio_run_many(
        self,
        workflows: Sequence[WorkflowRunTriggerConfig],
        return_exceptions: bool = False,
        wait_for_result: bool = True,
    ) -> list[Any]:
        """As `run_many`."""
        if not wait_for_result:
            return await self.aio_run_many_no_wait(workflows)
        return self._decode_all(
            await self._client.started.aio_run_many(workflows, return_exceptions), return_exceptions
        )

    def run_many_no_wait(self, workflows: Sequence[WorkflowRunTriggerConfig]) -> list[TRef]:
        """Start many runs together, and return references as soon as all are durable.

        Raises `BulkTriggerIdempotencyCollisionError`, which names the runs that were created, when others hold idempotency keys.
        """
        return [self.get_run_ref(run_id) for run_id in self._client.started.start_many(workflows)]

    async def aio_run_many_no_wait(self, workflows: Sequence[WorkflowRunTriggerConfig]) -> list[TRef]:
        """As `run_many_no_wait`."""
        return [self.get_run_ref(run_id) for run_id in await self._client.started.aio_start_many(workflows)]

    def get_run_ref(self, run_id: str) -> TRef:
        """A reference to a run of it by its id. Asks nobody whether it exists."""
        raise NotImplementedError

    # ---- results

    def decode(self, finished: RunFinished) -> R:
        """What a run returned. Raises `FailedRunError`, `RunCancelledError` or `InvalidOutputError`."""
        raise NotImplementedError

    def _decode_all(self, results: list[RunFinished | BroadaxeError], return_exceptions: bool) -> list[Any]:
        if not return_exceptions:
            return [self.decode(cast("RunFinished", finished)) for finished in results]
        decoded: list[Any] = []
        for finished in results:
            if isinstance(finished, BroadaxeError):
                decoded.append(finished)
                continue
            try:
                decoded.append(self.decode(finished))
            except (FailedRunError, RunCancelledError, InvalidOutputError) as error:
                decoded.append(error)
        return decoded

    def _run(self, config: WorkflowRunTriggerConfig) -> R:
        return self.decode(self._client.started.run_one(config))

    async def _aio_run(self, config: WorkflowRunTriggerConfig) -> R:
        return self.decode(await self._client.started.aio_run_one(config))
