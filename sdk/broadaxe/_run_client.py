"""Runs by id and by filter: their state, their details, their streams; and cancelling and replaying them.

Cancels and replays, results, details and states go over gRPC: the connection is there already, it waits for a server that restarts, and
works where the REST port is not open. Lists, and what only they show, go over REST.
"""

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ConfigDict, model_validator

from broadaxe._errors import InvalidInputError
from broadaxe._options import TriggerWorkflowOptions, WorkflowRunTriggerConfig
from broadaxe._refs import RunStream, WorkflowRunRef
from broadaxe._rest import DEFAULT_AGE, as_model, in_thread, metadata_items, time_text
from broadaxe._run_details import RunDetails, RunStatus, details_of
from broadaxe._runs import outputs_by_name
from broadaxe._validation import dump
from broadaxe.models import (
    V1BranchDurableTaskResponse,
    V1TaskStatus,
    V1TaskSummary,
    V1TaskSummaryList,
    V1WorkflowRunDetails,
)
from broadaxe.wire.stream_pb2 import RunFinished
from broadaxe.wire.v1 import workflows_pb2 as wire

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe

PAGE = 500
CANCELLABLE = (V1TaskStatus.QUEUED, V1TaskStatus.RUNNING)
REPLAYABLE = (V1TaskStatus.FAILED, V1TaskStatus.CANCELLED)
"""What bulk operations over pages are about, unless they are told."""
IDS_AT_ONCE = 500


class RunFilter(BaseModel):
    """Which runs a bulk operation is about: those created since `since` and, if given, until `until`, in one of the statuses, of
    one of the workflows, with one of the metadata entries. What is not given does not restrict.
    """

    model_config = ConfigDict(frozen=True)

    since: datetime
    until: datetime | None = None
    statuses: Sequence[V1TaskStatus] | None = None
    workflow_ids: Sequence[str] | None = None
    additional_metadata: Mapping[str, str] | None = None

    def to_wire(self) -> wire.TasksFilter:
        found = wire.TasksFilter(
            statuses=[status.value for status in self.statuses or ()],
            workflow_ids=list(self.workflow_ids or ()),
            additional_metadata=metadata_items(self.additional_metadata) or [],
            since=_timestamp(self.since),
        )
        if self.until is not None:
            found.until.CopyFrom(_timestamp(self.until))
        return found


class BulkCancelReplayOpts(BaseModel):
    """What a bulk operation is about: `ids` of runs and task runs, or `filters`; exactly one of them."""

    model_config = ConfigDict(frozen=True)

    ids: Sequence[str] | None = None
    filters: RunFilter | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.ids is None) == (self.filters is None):
            raise ValueError("give either ids or filters, and not both")
        return self


class RunsClient:
    """Reads, cancels and replays runs, and follows their streams.

    Methods that read raise `NotFoundError` for an unknown id.
    """

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    @property
    def _tenant(self) -> str:
        return f"/api/v1/stable/tenants/{self._client.tenant_id}"

    # ---- one run

    def get(self, workflow_run_id: str) -> V1WorkflowRunDetails:
        """A run with its tasks, and what happened to them."""
        return self._client.rest.get(V1WorkflowRunDetails, f"/api/v1/stable/workflow-runs/{workflow_run_id}")

    aio_get = in_thread(get)

    def get_task_run(self, task_run_id: str) -> V1TaskSummary:
        """One task run, by its id."""
        return self._client.rest.get(V1TaskSummary, f"/api/v1/stable/tasks/{task_run_id}")

    aio_get_task_run = in_thread(get_task_run)

    def get_details(self, external_id: str) -> RunDetails:
        """A run's state, input, and each task's output or error, as the engine has them now."""
        transport = self._client.transport
        return details_of(external_id, transport.submit(transport.get_run_details(external_id)).result())

    async def aio_get_details(self, external_id: str) -> RunDetails:
        """As `get_details`."""
        return details_of(
            external_id, await self._client.on_io(self._client.transport.get_run_details(external_id))
        )

    def get_status(self, workflow_run_id: str) -> V1TaskStatus:
        """Where a run stands; an evicted one is running."""
        return _status(self.get_details(workflow_run_id))

    async def aio_get_status(self, workflow_run_id: str) -> V1TaskStatus:
        """As `get_status`."""
        return _status(await self.aio_get_details(workflow_run_id))

    def get_result(self, run_id: str) -> dict[str, Any]:
        """Wait for a run's end: what its task returned, or for a workflow of several tasks their outputs by name.

        Raises `FailedRunError` or `RunCancelledError`.
        """
        return _result(self._client.started.wait_for((run_id,))[0])

    async def aio_get_result(self, run_id: str) -> dict[str, Any]:
        """As `get_result`."""
        return _result((await self._client.started.aio_wait_for((run_id,)))[0])

    def get_run_ref(self, workflow_run_id: str) -> WorkflowRunRef:
        """A reference to a run by its id. Asks nobody whether it exists."""
        return WorkflowRunRef(self._client, workflow_run_id)

    def subscribe_to_stream(self, workflow_run_id: str) -> AsyncIterator[str]:
        """The chunks that a run's tasks put into its stream, from the first iteration on. Iterate with `async for`."""
        return RunStream(self._client, workflow_run_id)

    def create(
        self,
        workflow_name: str,
        input: Mapping[str, Any],  # noqa: A002 - the documented name
        additional_metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
    ) -> V1WorkflowRunDetails:
        """Start a run of a workflow by name, and return its details. Prefer `run` of a workflow, or of a stub of one."""
        config = self._config(workflow_name, input, additional_metadata, priority)
        return self.get(self._client.started.start_one(config))

    async def aio_create(
        self,
        workflow_name: str,
        input: Mapping[str, Any],  # noqa: A002 - the documented name
        additional_metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
    ) -> V1WorkflowRunDetails:
        """As `create`."""
        config = self._config(workflow_name, input, additional_metadata, priority)
        return await self.aio_get(await self._client.started.aio_start_one(config))

    def _config(
        self,
        workflow_name: str,
        given: Mapping[str, Any],
        additional_metadata: Mapping[str, Any] | None,
        priority: int | None,
    ) -> WorkflowRunTriggerConfig:
        options = TriggerWorkflowOptions(additional_metadata=additional_metadata or {}, priority=priority)
        raw = dump(dict(given), f"the input of {workflow_name!r}", InvalidInputError)
        return WorkflowRunTriggerConfig(self._client.namespaced(workflow_name), raw, options)

    def reset_durable_task(
        self, task_external_id: str, node_id: int, branch_id: int
    ) -> V1BranchDurableTaskResponse:
        """Run a durable task again from one of its steps on, on a branch of its own. The engine refuses it so far."""
        path = f"{self._tenant}/durable-tasks/branch"
        body = {"taskExternalId": task_external_id, "nodeId": node_id, "branchId": branch_id}
        answer = self._client.rest.call("POST", path, body=body, attempts=1)
        return as_model(V1BranchDurableTaskResponse, answer, path)

    aio_reset_durable_task = in_thread(reset_durable_task)

    # ---- lists

    def list(
        self,
        since: datetime | None = None,
        only_tasks: bool = False,
        offset: int | None = None,
        limit: int | None = None,
        statuses: Sequence[V1TaskStatus] | None = None,
        until: datetime | None = None,
        additional_metadata: Mapping[str, str] | None = None,
        workflow_ids: Sequence[str] | None = None,
        worker_id: str | None = None,
        parent_task_external_id: str | None = None,
        triggering_event_external_id: str | None = None,
        include_payloads: bool = True,
    ) -> V1TaskSummaryList:
        """A page of runs, newest first; with `only_tasks` of task runs.

        since: 24 hours ago if not given. limit: 50 if not given. worker_id: needs `only_tasks`. parent_task_external_id: the
        children of that task run. include_payloads: with inputs and outputs.
        """
        query = {
            **_filter_query(since, until, statuses, additional_metadata, workflow_ids),
            "only_tasks": only_tasks,
            "offset": offset,
            "limit": limit,
            "worker_id": worker_id,
            "parent_task_external_id": parent_task_external_id,
            "triggering_event_external_id": triggering_event_external_id,
            "include_payloads": include_payloads,
        }
        return self._client.rest.get(V1TaskSummaryList, f"{self._tenant}/workflow-runs", query)

    aio_list = in_thread(list)  # noqa: A003 - the method above

    def list_with_pagination(
        self,
        since: datetime | None = None,
        only_tasks: bool = False,
        offset: int | None = None,
        limit: int | None = None,
        statuses: Sequence[V1TaskStatus] | None = None,
        until: datetime | None = None,
        additional_metadata: Mapping[str, str] | None = None,
        workflow_ids: Sequence[str] | None = None,
        worker_id: str | None = None,
        parent_task_external_id: str | None = None,
        triggering_event_external_id: str | None = None,
        include_payloads: bool = True,
    ) -> builtins.list[V1TaskSummary]:
        """All runs that match, over as many pages as it takes; at most `limit` of them, if given. See `list`."""
        until = until or datetime.now(UTC)  # runs created meanwhile would push others from page to page
        rows: dict[str, V1TaskSummary] = {}
        start = offset or 0
        while limit is None or len(rows) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(rows))
            page = self.list(
                since,
                only_tasks,
                start,
                size,
                statuses,
                until,
                additional_metadata,
                workflow_ids,
                worker_id,
                parent_task_external_id,
                triggering_event_external_id,
                include_payloads,
            ).rows
            rows |= {row.metadata.id: row for row in page}
            start += len(page)
            if len(page) < size:
                break
        return [*rows.values()]

    aio_list_with_pagination = in_thread(list_with_pagination)

    # ---- cancelling and replaying

    def cancel(self, run_id: str) -> None:
        """Cancel a run, or a task run. One that has ended, or is unknown, is left as it is."""
        self.bulk_cancel(BulkCancelReplayOpts(ids=[run_id]))

    async def aio_cancel(self, run_id: str) -> None:
        """As `cancel`."""
        await self.aio_bulk_cancel(BulkCancelReplayOpts(ids=[run_id]))

    def replay(self, run_id: str) -> None:
        """Run an ended run again, or a task run and what depends on it. One that has not ended is left as it is."""
        self.bulk_replay(BulkCancelReplayOpts(ids=[run_id]))

    async def aio_replay(self, run_id: str) -> None:
        """As `replay`."""
        await self.aio_bulk_replay(BulkCancelReplayOpts(ids=[run_id]))

    def bulk_cancel(self, opts: BulkCancelReplayOpts) -> builtins.list[str]:
        """Cancel runs by ids, or up to 20,000 by filter. Returns the ids that the engine has acted on."""
        transport = self._client.transport
        return transport.submit(transport.cancel_tasks(_cancel_request(opts))).result()

    async def aio_bulk_cancel(self, opts: BulkCancelReplayOpts) -> builtins.list[str]:
        """As `bulk_cancel`."""
        return await self._client.on_io(self._client.transport.cancel_tasks(_cancel_request(opts)))

    def bulk_replay(self, opts: BulkCancelReplayOpts) -> builtins.list[str]:
        """Replay runs by ids, or up to 1,000 by filter. Returns the ids of the task runs that run again."""
        transport = self._client.transport
        return transport.submit(transport.replay_tasks(_replay_request(opts))).result()

    async def aio_bulk_replay(self, opts: BulkCancelReplayOpts) -> builtins.list[str]:
        """As `bulk_replay`."""
        return await self._client.on_io(self._client.transport.replay_tasks(_replay_request(opts)))

    def bulk_cancel_by_filters_with_pagination(
        self,
        sleep_time: float = 3,
        chunk_size: int = IDS_AT_ONCE,
        since: datetime | None = None,
        until: datetime | None = None,
        statuses: Sequence[V1TaskStatus] | None = None,
        additional_metadata: Mapping[str, str] | None = None,
        workflow_ids: Sequence[str] | None = None,
    ) -> None:
        """Cancel any number of runs by filter: their ids are fetched, and cancelled in chunks with `sleep_time` seconds between.

        Without `statuses` those that are queued or running.
        """
        query = _filter_query(since, until, statuses or CANCELLABLE, additional_metadata, workflow_ids)
        self._in_chunks(self.bulk_cancel, query, chunk_size, sleep_time)

    async def aio_bulk_cancel_by_filters_with_pagination(
        self,
        sleep_time: float = 3,
        chunk_size: int = IDS_AT_ONCE,
        since: datetime | None = None,
        until: datetime | None = None,
        statuses: Sequence[V1TaskStatus] | None = None,
        additional_metadata: Mapping[str, str] | None = None,
        workflow_ids: Sequence[str] | None = None,
    ) -> None:
        """As `bulk_cancel_by_filters_with_pagination`."""
        query = _filter_query(since, until, statuses or CANCELLABLE, additional_metadata, workflow_ids)
        await self._aio_in_chunks(self.aio_bulk_cancel, query, chunk_size, sleep_time)

    def bulk_replay_by_filters_with_pagination(
        self,
        sleep_time: float = 3,
        chunk_size: int = IDS_AT_ONCE,
        since: datetime | None = None,
        until: datetime | None = None,
        statuses: Sequence[V1TaskStatus] | None = None,
        additional_metadata: Mapping[str, str] | None = None,
        workflow_ids: Sequence[str] | None = None,
    ) -> None:
        """Replay any number of runs by filter: their ids are fetched, and replayed in chunks with `sleep_time` seconds between.

        Without `statuses` those that failed or were cancelled.
        """
        query = _filter_query(since, until, statuses or REPLAYABLE, additional_metadata, workflow_ids)
        self._in_chunks(self.bulk_replay, query, chunk_size, sleep_time)

    async def aio_bulk_replay_by_filters_with_pagination(
        self,
        sleep_time: float = 3,
        chunk_size: int = IDS_AT_ONCE,
        since: datetime | None = None,
        until: datetime | None = None,
        statuses: Sequence[V1TaskStatus] | None = None,
        additional_metadata: Mapping[str, str] | None = None,
        workflow_ids: Sequence[str] | None = None,
    ) -> None:
        """As `bulk_replay_by_filters_with_pagination`."""
        query = _filter_query(since, until, statuses or REPLAYABLE, additional_metadata, workflow_ids)
        await self._aio_in_chunks(self.aio_bulk_replay, query, chunk_size, sleep_time)

    def _in_chunks(
        self, act: Callable[[BulkCancelReplayOpts], object], query: Mapping[str, Any], size: int, pause: float
    ) -> None:
        for number, chunk in enumerate(_chunks(self._ids(query), size)):
            if number:
                time.sleep(pause)
            act(chunk)

    async def _aio_in_chunks(
        self,
        act: Callable[[BulkCancelReplayOpts], Awaitable[object]],
        query: Mapping[str, Any],
        size: int,
        pause: float,
    ) -> None:
        for number, chunk in enumerate(_chunks(await asyncio.to_thread(self._ids, query), size)):
            if number:
                await asyncio.sleep(pause)
            await act(chunk)

    def _ids(self, query: Mapping[str, Any]) -> builtins.list[str]:
        answer = self._client.rest.call("GET", f"{self._tenant}/workflow-runs/external-ids", query=query)
        return [str(run_id) for run_id in answer or ()]


def _filter_query(
    since: datetime | None,
    until: datetime | None,
    statuses: Sequence[V1TaskStatus] | None,
    additional_metadata: Mapping[str, str] | None,
    workflow_ids: Sequence[str] | None,
) -> dict[str, Any]:
    """The parameters that lists of runs and of their ids have in common."""
    return {
        "since": time_text(since or datetime.now(UTC) - DEFAULT_AGE),
        "until": time_text(until),
        "statuses": [V1TaskStatus(status).value for status in statuses or ()],
        "additional_metadata": metadata_items(additional_metadata),
        "workflow_ids": [*(workflow_ids or ())],
    }


def _chunks(ids: Sequence[str], size: int) -> Iterator[BulkCancelReplayOpts]:
    if size < 1:
        raise ValueError(f"chunk_size is {size}, expected 1 or more")
    for start in range(0, len(ids), size):
        yield BulkCancelReplayOpts(ids=ids[start : start + size])


def _cancel_request(opts: BulkCancelReplayOpts) -> wire.CancelTasksRequest:
    if opts.filters is not None:
        return wire.CancelTasksRequest(filter=opts.filters.to_wire())
    return wire.CancelTasksRequest(external_ids=opts.ids)


def _replay_request(opts: BulkCancelReplayOpts) -> wire.ReplayTasksRequest:
    if opts.filters is not None:
        return wire.ReplayTasksRequest(filter=opts.filters.to_wire())
    return wire.ReplayTasksRequest(external_ids=opts.ids)


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment.astimezone(UTC))  # one without a time zone is local
    return stamp


def _status(details: RunDetails) -> V1TaskStatus:
    return V1TaskStatus.RUNNING if details.status is RunStatus.EVICTED else V1TaskStatus(details.status.value)


def _result(finished: RunFinished) -> dict[str, Any]:
    outputs = outputs_by_name(finished)
    is_one_task = len(finished.results) == 1 and finished.results[0].task_run_id == finished.run_id
    return (next(iter(outputs.values())) or {}) if is_one_task else outputs
