"""References to runs: their ids, their results, their streams."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Generic

from broadaxe._runs import outputs_by_name
from broadaxe._types import R, TInput
from broadaxe.wire import dispatcher_pb2
from broadaxe.wire.stream_pb2 import RunFinished

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe
    from broadaxe._standalone import Standalone


class RunStream:
    """What a run's tasks put into its stream, as text, from the moment of the first `next` until the run ends.

    Iterate with `for` or `async for`, once. Chunks that were put before are not repeated.
    """

    def __init__(self, client: "Broadaxe", run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._events: AsyncIterator[dispatcher_pb2.WorkflowEvent] | None = None

    async def _next(self) -> str | None:
        """On the transport's loop: the next chunk, or None at the end."""
        if self._events is None:
            self._events = self._client.transport.subscribe_events(self._run_id)
        async for event in self._events:
            if event.event_type == dispatcher_pb2.RESOURCE_EVENT_TYPE_STREAM:
                return event.event_payload
        return None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        chunk = self._client.transport.submit(self._next()).result()
        if chunk is None:
            raise StopIteration
        return chunk

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        chunk = await self._client.on_io(self._next())
        if chunk is None:
            raise StopAsyncIteration
        return chunk


class _RunRef:
    """What both kinds of reference share."""

    def __init__(self, client: "Broadaxe", run_id: str) -> None:
        self._client = client
        self.workflow_run_id = run_id
        """The id of the run."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.workflow_run_id!r})"

    def stream(self) -> RunStream:
        """The chunks that the run's tasks put into its stream, from now on."""
        return RunStream(self._client, self.workflow_run_id)

    def _finished(self) -> RunFinished:
        return self._client.started.wait_for((self.workflow_run_id,))[0]

    async def _aio_finished(self) -> RunFinished:
        return (await self._client.started.aio_wait_for((self.workflow_run_id,)))[0]


class WorkflowRunRef(_RunRef):
    """A run of a workflow."""

    def result(self) -> dict[str, Any]:
        """Wait for the run's end, and return the outputs of its tasks by name.

        Raises `FailedRunError` or `RunCancelledError`.
        """
        return outputs_by_name(self._finished())

    async def aio_result(self) -> dict[str, Any]:
        """As `result`."""
        return outputs_by_name(await self._aio_finished())


class TaskRunRef(_RunRef, Generic[TInput, R]):
    """A run of a standalone task."""

    def __init__(self, client: "Broadaxe", run_id: str, task: "Standalone[TInput, R]") -> None:
        super().__init__(client, run_id)
        self._task = task

    def result(self) -> R:
        """Wait for the run's end, and return the task's output.

        Raises `FailedRunError`, with the task's error and traceback, or `RunCancelledError`.
        """
        return self._task.decode(self._finished())

    async def aio_result(self) -> R:
        """As `result`."""
        return self._task.decode(await self._aio_finished())
