"""What the function of a batch task sees: the inputs of some runs at once, and a context for all of them and for each."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NewType, get_args, get_origin

from broadaxe._annotations import UNKNOWN
from broadaxe._context import Context
from broadaxe._durations import duration_to_wire
from broadaxe._errors import DefinitionError, InvalidOutputError
from broadaxe._services import awaitable
from broadaxe._types import Duration

if TYPE_CHECKING:
    from broadaxe._task import Task

BatchMemberId = NewType("BatchMemberId", str)
"""The id of one run in a batch: its task run id."""


class BatchContext(Context):
    """The context of a batch. What a task does through it (logs, streams, cancel, timeouts) it does for every member.

    members: the context of each member by its id, for what is one run's own: metadata, parents' outputs, `exit_flag`, logs.
    Ids and the like of the batch context itself are those of its first member, whose children are the runs that it spawns.
    """

    __slots__ = ("members",)

    def __init__(self, members: Sequence[Context]) -> None:
        first = members[0]
        super().__init__(first._assignment, first._step, first._services, first._task)  # noqa: SLF001 - one class in two parts
        self.members: Mapping[BatchMemberId, Context] = {
            BatchMemberId(member.task_run_id): member for member in members
        }

    def _live(self) -> list[Context]:
        return [member for member in self.members.values() if not member.exit_flag]

    def put_log_line(self, text: str, level: str, created_at_us: int = 0) -> None:
        for member in self.members.values():
            member.put_log_line(text, level, created_at_us)

    def put_stream(self, data: str | bytes) -> None:
        self.has_chunks = True
        for member in self.members.values():
            member.put_stream(data)

    def cancel(self) -> None:
        """Cancel every member. See `Context.cancel`."""
        for asked in self._ask_to_cancel():
            asked.result()

    async def aio_cancel(self) -> None:
        """Cancel every member. See `Context.aio_cancel`."""
        for asked in self._ask_to_cancel():
            await awaitable(asked)

    def _ask_to_cancel(self) -> "list[Future[None]]":
        live = self._live()
        self.exit_flag = True
        for member in live:
            member.exit_flag = True
        return [self._services.cancel(member.task_run_id, member.retry_count) for member in live]

    def refresh_timeout(self, increment_by: Duration) -> None:
        """Add to the execution timeout of every member. See `Context.refresh_timeout`."""
        for asked in self._ask_to_refresh(increment_by):
            asked.result()

    async def aio_refresh_timeout(self, increment_by: Duration) -> None:
        """Add to the execution timeout of every member. See `Context.refresh_timeout`."""
        for asked in self._ask_to_refresh(increment_by):
            await awaitable(asked)

    def _ask_to_refresh(self, increment_by: Duration) -> "list[Future[None]]":
        increment = duration_to_wire(increment_by, "increment_by", is_zero_allowed=False)
        return [self._services.refresh_timeout(member.task_run_id, increment) for member in self._live()]

    def release_slot(self) -> None:
        """Give the one slot of the batch to another task. See `Context.release_slot`."""
        for member in self._live():
            member.release_slot()
        self._is_slot_released = True

    async def aio_release_slot(self) -> None:
        """Give the one slot of the batch to another task. See `Context.release_slot`."""
        for member in self._live():
            await member.aio_release_slot()
        self._is_slot_released = True


def member_type(annotation: Any, where: str) -> Any:
    """The type of one member in the annotation of a dictionary by member id. Raises `DefinitionError` for anything else."""
    if annotation is UNKNOWN or annotation in (dict, Mapping, Any):
        return UNKNOWN
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return arguments[1]
    raise DefinitionError(
        f"{where} is {annotation!r}: a batch task takes and returns dictionaries by member id, as in "
        "def f(inputs: dict[BatchMemberId, MyInput], ctx: Context) -> dict[BatchMemberId, MyOutput]"
    )


def given_alone(task: "Task[Any, Any]", value: Any, context: Context) -> tuple[Any, Context]:
    """What the function is called with for one run by itself: for a batch task, a batch of one."""
    if task.batch is None:
        return value, context
    return {BatchMemberId(context.task_run_id): value}, BatchContext([context])


def taken_alone(task: "Task[Any, Any]", context: Context, output: Any) -> Any:
    """The output of one run by itself, from what the function returned."""
    if task.batch is None:
        return output
    return outputs_by_member(task, output, [context.task_run_id], set())[context.task_run_id]


def outputs_by_member(
    task: "Task[Any, Any]", output: Any, ids: Sequence[str], dispensable: set[str]
) -> Mapping[str, Any]:
    """Each member's output. dispensable: members of which none is needed, as they were cancelled.

    Raises `InvalidOutputError` when the function returned no dictionary, or one with other ids.
    """
    assert task.batch is not None
    if task.batch.broadcast_output:
        return dict.fromkeys(ids, output)
    if not isinstance(output, Mapping):
        raise InvalidOutputError(
            f"batch {task.where} returned a {type(output).__name__}: expected a dictionary with an output for each member id "
            "(or broadcast_output=True, and one output for all)"
        )
    missing = [member for member in ids if member not in output and member not in dispensable]
    known = set(ids)
    foreign = [member for member in output if member not in known]
    if missing or foreign:
        raise InvalidOutputError(
            f"batch {task.where} returned the wrong member ids: "
            + "; ".join(
                f"{what}: {', '.join(map(str, found[:10]))}{' and more' if len(found) > 10 else ''}"
                for what, found in (("no output for", missing), ("not in this batch", foreign))
                if found
            )
        )
    return output
