"""Scheduled runs: made by `schedule` of a workflow over gRPC, or here by name, and managed over REST.

Every method has an asynchronous form, with `aio_` before its name. A time without a time zone is local, as everywhere in Python.
"""

import builtins
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from broadaxe._context import current_context
from broadaxe._crons import workflows_path
from broadaxe._errors import InvalidInputError
from broadaxe._options import ScheduleTriggerWorkflowOptions
from broadaxe._rest import as_model, in_thread, metadata_items, time_text
from broadaxe._validation import checked_json
from broadaxe.models_timers import (
    ScheduledRunStatus,
    ScheduledWorkflows,
    ScheduledWorkflowsBulkDeleteResponse,
    ScheduledWorkflowsBulkUpdateItem,
    ScheduledWorkflowsBulkUpdateResponse,
    ScheduledWorkflowsList,
    ScheduledWorkflowsOrderByField,
    WorkflowRunOrderByDirection,
)
from broadaxe.wire import workflows_pb2

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe

IDS_AT_ONCE = 500
"""Scheduled runs that the server takes in one bulk call."""


@dataclass(frozen=True, slots=True)
class ScheduledWorkflow:
    """One scheduled run, as `schedule` returns it."""

    id: str
    trigger_at: datetime


@dataclass(frozen=True, slots=True)
class WorkflowSchedule:
    """What `schedule` has made."""

    workflow_id: str
    workflow_version_id: str
    """The latest version now; the run is of the latest version then."""
    scheduled_workflows: tuple[ScheduledWorkflow, ...]

    @property
    def id(self) -> str:
        """The id of the scheduled run, for the `scheduled` client."""
        return self.scheduled_workflows[0].id


class ScheduledClient:
    """Makes, lists, moves and deletes scheduled runs."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def create(
        self,
        workflow_name: str,
        trigger_at: datetime,
        input: Mapping[str, Any],  # noqa: A002 - the documented name
        additional_metadata: Mapping[str, Any],
        priority: int | None = None,
    ) -> ScheduledWorkflows:
        """Have a workflow run at a time; at once if that has passed. Prefer `schedule` of a workflow. Raises `RequestRefusedError`."""
        body = {
            "triggerAt": time_text(trigger_at),
            "input": checked_json(input, f"the input of {workflow_name!r}"),
            "additionalMetadata": checked_json(
                additional_metadata, f"the additional_metadata of {workflow_name!r}"
            ),
            **({} if priority is None else {"priority": int(priority)}),
        }
        name = urllib.parse.quote(self._client.namespaced(workflow_name), safe="")
        path = f"{workflows_path(self._client)}/{name}/scheduled"
        return as_model(ScheduledWorkflows, self._client.rest.call("POST", path, body=body), path)

    aio_create = in_thread(create)

    def delete(self, scheduled_id: str) -> None:
        """Delete a scheduled run; the run that it has made goes on. Raises `NotFoundError`."""
        self._client.rest.call("DELETE", self._path(scheduled_id))

    aio_delete = in_thread(delete)

    def update(self, scheduled_id: str, trigger_at: datetime) -> ScheduledWorkflows:
        """Give a scheduled run another time. Raises `NotFoundError`, and `RequestRefusedError` for one that has been triggered."""
        path = self._path(scheduled_id)
        answer = self._client.rest.call("PATCH", path, body={"triggerAt": time_text(trigger_at)})
        return as_model(ScheduledWorkflows, answer, path)

    aio_update = in_thread(update)

    def bulk_delete(
        self,
        *,
        scheduled_ids: builtins.list[str] | None = None,
        workflow_id: str | None = None,
        parent_workflow_run_id: str | None = None,
        parent_step_run_id: str | None = None,
        statuses: builtins.list[ScheduledRunStatus] | None = None,
        additional_metadata: Mapping[str, Any] | None = None,
    ) -> ScheduledWorkflowsBulkDeleteResponse:
        """Delete scheduled runs by ids, or all that fit the filters. What could not be deleted is among the errors.

        Raises ValueError when neither ids nor a filter is given.
        """
        has_filter = any(
            value is not None
            for value in (
                workflow_id,
                parent_workflow_run_id,
                parent_step_run_id,
                statuses,
                additional_metadata,
            )
        )
        if not scheduled_ids and not has_filter:
            raise InvalidInputError("bulk_delete needs scheduled_ids, or at least one filter")
        if scheduled_ids and has_filter:
            raise InvalidInputError("bulk_delete takes scheduled_ids or filters, not both")
        if statuses is not None:
            # The server's filter has no statuses: those that have them are looked up first.
            scheduled_ids = self._ids(
                workflow_id, parent_workflow_run_id, parent_step_run_id, statuses, additional_metadata
            )
        elif not scheduled_ids:
            return self._delete_by_filter(
                {
                    "workflowId": workflow_id,
                    "parentWorkflowRunId": parent_workflow_run_id,
                    "parentStepRunId": parent_step_run_id,
                    "additionalMetadata": metadata_items(additional_metadata),
                }
            )
        found = ScheduledWorkflowsBulkDeleteResponse(deleted_ids=[], errors=[])
        for chunk in _chunks(scheduled_ids or []):
            done = self._bulk_delete({"scheduledWorkflowRunIds": chunk})
            found.deleted_ids += done.deleted_ids
            found.errors += done.errors
        return found

    aio_bulk_delete = in_thread(bulk_delete)

    def _delete_by_filter(self, given: dict[str, Any]) -> ScheduledWorkflowsBulkDeleteResponse:
        body = {"filter": {name: value for name, value in given.items() if value is not None}}
        found = self._bulk_delete(body)
        # One call deletes a bounded number.
        while done := self._bulk_delete(body).deleted_ids if found.deleted_ids else None:
            found.deleted_ids += done
        return found

    def _bulk_delete(self, body: dict[str, Any]) -> ScheduledWorkflowsBulkDeleteResponse:
        path = f"{workflows_path(self._client)}/scheduled/bulk-delete"
        answer = self._client.rest.call("POST", path, body=body)
        return as_model(ScheduledWorkflowsBulkDeleteResponse, answer, path)

    def _ids(
        self,
        workflow_id: str | None,
        parent_workflow_run_id: str | None,
        parent_step_run_id: str | None,
        statuses: builtins.list[ScheduledRunStatus],
        additional_metadata: Mapping[str, Any] | None,
    ) -> builtins.list[str]:
        found: builtins.list[str] = []
        while True:
            rows = (
                self._list(
                    len(found),
                    IDS_AT_ONCE,
                    workflow_id,
                    parent_workflow_run_id,
                    parent_step_run_id,
                    statuses,
                    additional_metadata,
                    ScheduledWorkflowsOrderByField.CREATEDAT,
                    WorkflowRunOrderByDirection.ASC,
                ).rows
                or []
            )
            found += [row.metadata.id for row in rows]
            if len(rows) < IDS_AT_ONCE:
                return list(dict.fromkeys(found))

    def bulk_update(
        self,
        updates: Sequence[ScheduledWorkflowsBulkUpdateItem | tuple[str, datetime]],
    ) -> ScheduledWorkflowsBulkUpdateResponse:
        """Give many scheduled runs other times. Those that are unknown, or have been triggered, are among the errors."""
        items = [
            (item.id, item.trigger_at) if isinstance(item, ScheduledWorkflowsBulkUpdateItem) else item
            for item in updates
        ]
        path = f"{workflows_path(self._client)}/scheduled/bulk-update"
        found = ScheduledWorkflowsBulkUpdateResponse(updated_ids=[], errors=[])
        for chunk in _chunks(items):
            body = {
                "updates": [
                    {"id": item_id, "triggerAt": time_text(trigger_at)} for item_id, trigger_at in chunk
                ]
            }
            answer = self._client.rest.call("POST", path, body=body)
            done = as_model(ScheduledWorkflowsBulkUpdateResponse, answer, path)
            found.updated_ids += done.updated_ids
            found.errors += done.errors
        return found

    aio_bulk_update = in_thread(bulk_update)

    def list(
        self,
        offset: int | None = None,
        limit: int | None = None,
        workflow_id: str | None = None,
        parent_workflow_run_id: str | None = None,
        statuses: builtins.list[ScheduledRunStatus] | None = None,
        additional_metadata: Mapping[str, Any] | None = None,
        order_by_field: ScheduledWorkflowsOrderByField | None = None,
        order_by_direction: WorkflowRunOrderByDirection | None = None,
    ) -> ScheduledWorkflowsList:
        """Scheduled runs, a page of 50 if `limit` is not given, those with the latest times first.

        parent_workflow_run_id: scheduled within this run. additional_metadata: all of these entries.
        """
        return self._list(
            offset,
            limit,
            workflow_id,
            parent_workflow_run_id,
            None,
            statuses,
            additional_metadata,
            order_by_field,
            order_by_direction,
        )

    aio_list = in_thread(list)  # noqa: A003 - the method above

    def _list(
        self,
        offset: int | None,
        limit: int | None,
        workflow_id: str | None,
        parent_workflow_run_id: str | None,
        parent_step_run_id: str | None,
        statuses: builtins.list[ScheduledRunStatus] | None,
        additional_metadata: Mapping[str, Any] | None,
        order_by_field: ScheduledWorkflowsOrderByField | None,
        order_by_direction: WorkflowRunOrderByDirection | None,
    ) -> ScheduledWorkflowsList:
        query = {
            "offset": offset,
            "limit": limit,
            "workflowId": workflow_id,
            "parentWorkflowRunId": parent_workflow_run_id,
            "parentStepRunId": parent_step_run_id,
            "statuses": statuses,
            "additionalMetadata": metadata_items(additional_metadata),
            "orderByField": order_by_field,
            "orderByDirection": order_by_direction,
        }
        return self._client.rest.get(
            ScheduledWorkflowsList, f"{workflows_path(self._client)}/scheduled", query
        )

    def get(self, scheduled_id: str) -> ScheduledWorkflows:
        """A scheduled run by its id. Raises `NotFoundError`."""
        return self._client.rest.get(ScheduledWorkflows, self._path(scheduled_id))

    aio_get = in_thread(get)

    def _path(self, scheduled_id: str) -> str:
        return f"{workflows_path(self._client)}/scheduled/{scheduled_id}"


def _chunks(items: builtins.list[Any]) -> builtins.list[builtins.list[Any]]:
    return [items[start : start + IDS_AT_ONCE] for start in range(0, len(items), IDS_AT_ONCE)]


def schedule_request(
    name: str,
    run_at: datetime,
    raw: bytes,
    metadata: bytes,
    options: ScheduleTriggerWorkflowOptions,
) -> workflows_pb2.ScheduleWorkflowRequest:
    """What `schedule` sends. Within a task it says which one, so that lists find what a run has scheduled."""
    context = current_context.get()
    parent_id, parent_task, index = options.parent_id, options.parent_step_run_id, options.child_index
    if context is not None and parent_id is None and parent_task is None:
        parent_id, parent_task = context.workflow_run_id, context.task_run_id
        index = 0 if index is None else index
    request = workflows_pb2.ScheduleWorkflowRequest(
        name=name,
        input=raw.decode(),
        parent_id=parent_id,
        parent_task_run_external_id=parent_task,
        child_index=index,
        child_key=options.child_key,
        additional_metadata=metadata.decode(),
        priority=None if options.priority is None else int(options.priority),
    )
    request.schedules.add().FromDatetime(run_at.astimezone(UTC))
    return request


def schedule_of(answer: workflows_pb2.WorkflowVersion) -> WorkflowSchedule:
    return WorkflowSchedule(
        answer.workflow_id,
        answer.id,
        tuple(
            ScheduledWorkflow(item.id, item.trigger_at.ToDatetime(tzinfo=UTC))
            for item in answer.scheduled_workflows
        ),
    )
