"""Reads of runs, their logs, and what is used of limits: the part of `RunTracker` that changes no state of a task run."""

import logging
from collections.abc import Sequence
from typing import Any

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    GetRun,
    GetUsage,
    PutLogs,
    Reply,
    RunDetails,
    TaskDetails,
)
from broadaxe_actors.resource_limits import Resource
from broadaxe_actors.run import SKIPPED_OUTPUT
from broadaxe_actors.run_tracker.state import TrackerState
from broadaxe_actors.runtime import Handle
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import (
    RUN_STEP,
    FinishedTaskRun,
    LogRow,
    TaskRunRow,
    TaskRunState,
)

logger = logging.getLogger(__name__)

S = TaskRunState
MAX_LOG_LINES = 1_000
"""Log lines kept of one task run, as the user documentation has it."""
LOGGERS_REMEMBERED = 20_000
"""Task runs whose lines are counted; of one that has been silent for so long they are counted anew."""


class Reading(TrackerState):
    """Run details, logs."""

    def get_run(self, gateway: "Handle[Any]", message: GetRun) -> None:
        """A run with its tasks."""
        details = self._live_details(message.run_id)
        if details is not None:
            self._reply(gateway, message.request_id, details)
        elif self._recent.is_uncommitted(message.run_id):
            self.send_after_commit(self.me.get_run, gateway, message)
        else:
            self.fetch(
                self._load_any,
                [message.run_id],
                then=self.me.run_loaded,
                context=(gateway, message),
            )

    def run_loaded(
        self,
        context: tuple["Handle[Any]", GetRun],
        result: tuple[list[TaskRunRow], list[FinishedTaskRun]] | None,
        error: BaseException | None,
    ) -> None:
        """A run that memory did not hold."""
        gateway, message = context
        if error is not None:
            self._refuse_while_away(gateway, message.request_id, error)
            return
        assert result is not None
        live, finished = result
        details = self._live_details(message.run_id)
        for rows, is_done in ((finished, True), (live, False)):
            details = details or self._stored_details(message.run_id, rows, is_done=is_done)
        if details is not None:
            self._reply(gateway, message.request_id, details)
        else:
            self._refuse(
                gateway,
                message.request_id,
                Refused(Code.NOT_FOUND, f"workflow run {message.run_id} not found"),
            )

    def _live_details(self, run_id: str) -> RunDetails | None:
        """Of a run in memory."""
        run = self._runs.get(run_id)
        if run is not None:
            return RunDetails(run.id, S.WAITING, False, run.input, run.metadata, run.details())
        task = self._live.get(run_id)
        if task is None or task.run is not None:
            return None
        details = TaskDetails(task.id, task.step.ref.task_name, task.state, task.attempt, None, None)
        return RunDetails(task.run_id, task.state, False, task.input, task.metadata, (details,))

    def _stored_details(
        self, run_id: str, rows: Sequence[TaskRunRow | FinishedTaskRun], *, is_done: bool
    ) -> RunDetails | None:
        """Of a run as the record has it: one that waits there, or one that has ended."""
        head = next((row for row in rows if row.id == run_id == row.run_id), None)
        if head is None:
            return None
        version = self._catalog.version(head.workflow_version_id)
        tasks = tuple(
            TaskDetails(
                row.id,
                version.steps[row.step_index].ref.task_name if version else "",
                row.state,
                row.attempt,
                SKIPPED_OUTPUT if row.state == S.SKIPPED else row.output,
                row.error,
            )
            for row in sorted(rows, key=lambda row: row.step_index)
            if row.run_id == run_id and row.step_index != RUN_STEP
        )
        return RunDetails(run_id, head.state, is_done, head.input, head.metadata, tasks)

    def count_usage(self) -> None:
        """Have the record tell what was used before of the windows under way."""
        if self._usage:
            now = self.clock.now()
            self.fetch(
                self._store.count_usage,
                self._tenant_id,
                self._usage.began_at(Resource.EVENT, now),
                self._usage.began_at(Resource.TASK_RUN, now),
                now,
                self._usage.most(),
                then=self.me.usage_counted,
                context=now,
            )

    def usage_counted(self, before: int, counts: tuple[int, int] | None, error: BaseException | None) -> None:
        """What was used before then."""
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            self.set_timer("usage", 250_000, self.me.count_usage)
            return
        assert counts is not None
        now = self.clock.now()
        for resource, count in zip((Resource.EVENT, Resource.TASK_RUN), counts, strict=True):
            # Of a window that has ended meanwhile nothing counts any more.
            if self._usage.began_at(resource, now) <= before:
                self._usage.add(resource, count, now)

    def get_usage(self, gateway: "Handle[Any]", message: GetUsage) -> None:
        """What of its limits the tenant has used, for a gateway."""
        self._reply(gateway, message.request_id, self._usage.usages(self.clock.now()))

    def put_logs(self, gateway: "Handle[Any]", message: PutLogs) -> None:
        """Keep log lines; they are buffered by the journal."""
        missing = None
        for line in message.lines:
            task = self._live.get(line.task_run_id)
            if task is None and not self._has_ended(line.task_run_id):
                missing = missing or line.task_run_id
                continue
            if self._settings.is_log_ingestion_enabled and self._may_log(line.task_run_id):
                attempt = line.attempt if line.attempt is not None else (task.attempt if task else 0)
                self.record(
                    LogRow(
                        self._tenant_id,
                        line.task_run_id,
                        attempt,
                        line.created_at,
                        line.level,
                        line.metadata,
                        line.message,
                    )
                )
        if missing is not None:
            self._refuse(
                gateway, message.request_id, Refused(Code.NOT_FOUND, f"task run {missing} not found")
            )
        elif message.request_id:
            gateway.deliver.send((Reply(message.request_id, None),))

    def _may_log(self, task_run_id: str) -> bool:
        """Whether a task run may log one more line. Lines travel in the background, so many come after its end."""
        count = self._logged.pop(task_run_id, 0) + 1
        self._logged[task_run_id] = count  # at the end: the ones that have logged lately are remembered
        if len(self._logged) > LOGGERS_REMEMBERED:
            del self._logged[next(iter(self._logged))]
        if count == MAX_LOG_LINES + 1:
            logger.info(
                "task run %s has logged %d lines: what follows is dropped", task_run_id, MAX_LOG_LINES
            )
        return count <= MAX_LOG_LINES
