"""Reads of runs, and their logs: the part of `RunTracker` that changes no state of a task run."""

from typing import Any

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import (
    GetRun,
    GetStats,
    PutLogs,
    Reply,
    RunDetails,
    TaskDetails,
    TenantStats,
)
from broadaxe_actors.run_tracker.state import TrackerState
from broadaxe_actors.runtime import Handle
from broadaxe_actors.task_run import TaskRun
from broadaxe_storage.records import (
    FinishedTaskRun,
    LogRow,
    TaskRunRow,
)


class Reading(TrackerState):
    """Run details, logs, counters."""

    def get_run(self, gateway: "Handle[Any]", message: GetRun) -> None:
        """A run with its tasks."""
        task = self._live.get(message.run_id)
        if task is not None:
            self._reply(gateway, message.request_id, self._details(task))
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
        task = self._live.get(message.run_id)
        if task is not None:
            self._reply(gateway, message.request_id, self._details(task))
        elif finished:
            row = finished[0]
            details = TaskDetails(row.id, self._task_name(row), row.state, row.attempt, row.output, row.error)
            self._reply(
                gateway,
                message.request_id,
                RunDetails(row.run_id, row.state, True, row.input, row.metadata, (details,)),
            )
        elif live:
            waiting = live[0]
            version = self._catalog.version(waiting.workflow_version_id)
            name = version.steps[waiting.step_index].ref.task_name if version else ""
            details = TaskDetails(waiting.id, name, waiting.state, waiting.attempt, None, None)
            self._reply(
                gateway,
                message.request_id,
                RunDetails(waiting.run_id, waiting.state, False, waiting.input, waiting.metadata, (details,)),
            )
        else:
            self._refuse(
                gateway,
                message.request_id,
                Refused(Code.NOT_FOUND, f"workflow run {message.run_id} not found"),
            )

    def _details(self, task: TaskRun) -> RunDetails:
        details = TaskDetails(task.id, task.step.ref.task_name, task.state, task.attempt, None, None)
        return RunDetails(task.run_id, task.state, False, task.input, task.metadata, (details,))

    def put_logs(self, gateway: "Handle[Any]", message: PutLogs) -> None:
        """Keep log lines; they are buffered by the journal."""
        missing = None
        for line in message.lines:
            task = self._live.get(line.task_run_id)
            recent = self._recent.get(line.task_run_id) if task is None else None
            if task is None and recent is None:
                missing = missing or line.task_run_id
                continue
            if self._settings.is_log_ingestion_enabled:
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

    def get_stats(self, gateway: "Handle[Any]", message: GetStats) -> None:
        """Counters of this tenant."""
        queued: dict[str, int] = {}
        for line in self._ledger.lines():
            action = line[0].split("|", 1)[0]
            queued[action] = queued.get(action, 0) + self._ledger.depth(line)
        total, used = self._telemetry.slots.get(self._tenant_id, (0, 0))
        self._reply(
            gateway,
            message.request_id,
            TenantStats(tuple(queued.items()), tuple(self._running.items()), total, used),
        )
