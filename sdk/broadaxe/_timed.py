"""Runs for later: `schedule` and `create_cron` of a workflow or a standalone task."""

# ruff: noqa: A002 - `input` is the documented name

from collections.abc import Coroutine, Mapping
from datetime import datetime
from typing import Any, Generic

from broadaxe._definition import BaseWorkflow, with_namespace
from broadaxe._errors import InvalidInputError
from broadaxe._options import ScheduleTriggerWorkflowOptions
from broadaxe._rest import in_thread
from broadaxe._scheduled import WorkflowSchedule, schedule_of, schedule_request
from broadaxe._types import TInput
from broadaxe._validation import dump, plain_object
from broadaxe.models_timers import CronWorkflows
from broadaxe.wire import workflows_pb2


class Timed(BaseWorkflow[TInput], Generic[TInput]):
    """See the module."""

    def schedule(
        self,
        run_at: datetime,
        input: TInput | None = None,
        options: ScheduleTriggerWorkflowOptions | None = None,
        *,
        child_key: str | None = None,
        additional_metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
    ) -> WorkflowSchedule:
        """Have it run at a time; at once if that has passed. Durable when the call returns.

        run_at: local, if it has no time zone. The keywords win over `options`. The result's `id` is for the `scheduled` client.
        Raises `InvalidInputError`, `RequestRefusedError`, `ServerUnavailableError`.
        """
        work = self._schedule(run_at, input, options, child_key, additional_metadata, priority)
        return schedule_of(self._client.transport.submit(work).result())

    async def aio_schedule(
        self,
        run_at: datetime,
        input: TInput | None = None,
        options: ScheduleTriggerWorkflowOptions | None = None,
        *,
        child_key: str | None = None,
        additional_metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
    ) -> WorkflowSchedule:
        """As `schedule`."""
        work = self._schedule(run_at, input, options, child_key, additional_metadata, priority)
        return schedule_of(await self._client.on_io(work))

    def _schedule(
        self,
        run_at: datetime,
        given_input: TInput | None,
        options: ScheduleTriggerWorkflowOptions | None,
        child_key: str | None,
        additional_metadata: Mapping[str, Any] | None,
        priority: int | None,
    ) -> Coroutine[Any, Any, workflows_pb2.WorkflowVersion]:
        options = options or ScheduleTriggerWorkflowOptions()
        update = {
            "child_key": child_key,
            "additional_metadata": additional_metadata,
            "priority": priority,
        }
        options = options.model_copy(
            update={name: value for name, value in update.items() if value is not None}
        )
        if options.priority is not None and not 1 <= options.priority <= 3:
            raise InvalidInputError(
                f"workflow {self.base_name!r}: priority is {options.priority}, expected 1 to 3"
            )
        name = self.name if options.namespace is None else with_namespace(self.base_name, options.namespace)
        merged = {**self.settings.default_additional_metadata, **options.additional_metadata}
        metadata = dump(merged, f"the metadata of {self.base_name!r}", InvalidInputError)
        request = schedule_request(name, run_at, self.input_shape.dump_given(given_input), metadata, options)
        return self._client.transport.schedule_workflow(request)

    def create_cron(
        self,
        cron_name: str,
        expression: str,
        input: TInput | None = None,
        additional_metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
    ) -> CronWorkflows:
        """Have it run whenever a cron expression says, from now on. Durable when the call returns. See `CronClient.create`."""
        given = plain_object(self.input_shape.dump_given(input), f"the input of cron {cron_name!r}")
        merged = {**self.settings.default_additional_metadata, **(additional_metadata or {})}
        return self._client.cron.create(self.name, cron_name, expression, given, merged, priority)

    aio_create_cron = in_thread(create_cron)
