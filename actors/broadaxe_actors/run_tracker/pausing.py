"""Paused workflows: the part of `RunTracker` that holds their task runs.

What becomes ready while its workflow is paused is held aside, before it asks for a place or a slot; what stood in line already is held there
by `TenantQueue`. All of it stays QUEUED, and each line as long as it was, so that no more is read from Postgres than without a pause. Held
task runs do not run into their schedule timeout but into the pause's TTL; when the pause ends they go on in their order, with a fresh
timeout: those in Postgres, too, whose rows tell the old one. Nobody is told of the end of a pause before it is committed.

Source: behaviour-core 6.14.
"""

from collections import deque
from typing import Any

from broadaxe_actors.catalog import Version
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import PauseWorkflow, UnpauseWorkflow
from broadaxe_actors.pauses import Pause, Phase
from broadaxe_actors.run_tracker.state import TrackerState
from broadaxe_actors.runtime import Handle
from broadaxe_actors.task_run import TaskRun
from broadaxe_actors.turn import Turn
from broadaxe_storage.records import TaskRunRow, TaskRunState, WorkflowPause

S = TaskRunState
SLICE = 200
"""Task runs that go on in one turn."""
DEADLINES_SLICE = 1_000
"""Task runs that get another deadline in one turn."""


class Pausing(TrackerState):
    """See the module."""

    # ------------------------------------------------------------ requests

    def pause_workflow(self, gateway: "Handle[Any]", message: PauseWorkflow) -> None:
        """Pause a workflow, or give its pause other settings; answered after the commit with the `WorkflowPause`."""
        versions = self._catalog.of_workflow(message.workflow_id)
        if not versions or self._catalog.is_deleted(message.workflow_id):
            self._refuse_unknown(gateway, message)
            return
        pause = self._pauses.get(message.workflow_id)
        is_paused = pause is not None and pause.is_paused
        row = WorkflowPause(
            message.workflow_id,
            self._tenant_id,
            pause.row.paused_at if pause is not None and is_paused else self.clock.now(),
            pause.row.unpaused_at if pause is not None else None,
            message.queue_ttl,
            message.cron_behavior,
            message.scheduled_behavior,
        )
        if pause is None:
            pause = self._pauses[message.workflow_id] = Pause(row, 0)
        else:
            pause.begin(row)
        self.record(row)
        if not is_paused:
            self._mute(pause, versions)
        self._set_deadlines_of(pause, versions)
        self._reply(gateway, message.request_id, row)

    def unpause_workflow(self, gateway: "Handle[Any]", message: UnpauseWorkflow) -> None:
        """End a pause; answered after the commit with the `WorkflowPause`. One that is over, or never was, is fine."""
        versions = self._catalog.of_workflow(message.workflow_id)
        if not versions:
            self._refuse_unknown(gateway, message)
            return
        self._end_pause(message.workflow_id, versions)
        pause = self._pauses.get(message.workflow_id)
        row = pause.row if pause is not None else None
        self._reply(gateway, message.request_id, row or _never(message.workflow_id, self._tenant_id))

    def _end_pause(self, workflow_id: str, versions: list[Version]) -> None:
        """Record the end of a pause, if there is one."""
        pause = self._pauses.get(workflow_id)
        if pause is not None and pause.is_paused:
            now = self.clock.now()
            pause.end(pause.row._replace(paused_at=None, unpaused_at=now), _longest_timeout(versions))
            self.record(pause.row)
            self.send_after_commit(self.me.lift_pause, workflow_id, now)

    def _refuse_unknown(self, gateway: "Handle[Any]", message: PauseWorkflow | UnpauseWorkflow) -> None:
        text = f"workflow {message.workflow_id} is not known"
        self._refuse(gateway, message.request_id, Refused(Code.NOT_FOUND, text))

    def restore_pauses(self, rows: tuple[WorkflowPause, ...]) -> None:
        """Pauses from the record; called once the versions are known, before any task run is restored."""
        for row in rows:
            versions = self._catalog.of_workflow(row.workflow_id)
            if versions:
                pause = self._pauses[row.workflow_id] = Pause(row, _longest_timeout(versions))
                self._forget_later(pause)

    # ------------------------------------------------------------ what crons and schedules ask

    def _drops_cron(self, workflow_id: str) -> bool:
        """Whether a cron makes no run of this workflow now; otherwise it does, which is held if the workflow is paused."""
        pause = self._pauses.get(workflow_id)
        return pause is not None and pause.is_paused and pause.row.cron_behavior == "DROP"

    def _drops_scheduled(self, workflow_id: str) -> bool:
        """Likewise of scheduled runs."""
        pause = self._pauses.get(workflow_id)
        return pause is not None and pause.is_paused and pause.row.scheduled_behavior == "DROP"

    # ------------------------------------------------------------ what stands in line already

    def _mute(self, pause: Pause, versions: list[Version]) -> None:
        """Have the queue hold what it has of a workflow. An action that another workflow has too stays: its task runs are
        refused as they are proposed, and held aside then.
        """
        actions = {step.definition.action for version in versions for step in version.steps}
        actions -= self._catalog.actions_of_others(pause.row.workflow_id, actions)
        pause.muted = tuple(sorted(actions | set(pause.muted)))
        if pause.muted:
            self._queue.set_paused.send(pause.muted, True)

    def _unmute(self, pause: Pause, actions: tuple[str, ...]) -> None:
        if actions:
            self._queue.set_paused.send(actions, False)
            pause.muted = tuple(action for action in pause.muted if action not in actions)

    def _unmute_shared(self, version: Version) -> None:
        """A workflow is registered: what it shares with a paused one must not wait with that."""
        actions = {step.definition.action for step in version.steps}
        for workflow_id, pause in self._pauses.items():
            if workflow_id != version.workflow_id and pause.muted:
                self._unmute(pause, tuple(action for action in pause.muted if action in actions))

    # ------------------------------------------------------------ what becomes ready

    def _is_paused(self, task: TaskRun) -> bool:
        """Whether no worker may have a task run now. To be asked only while `_pauses` has any."""
        pause = self._pauses.get(task.step.ref.workflow_id)
        return pause is not None and pause.is_holding

    def _hold_aside(self, task: TaskRun) -> bool:
        """Keep a task run that is ready, if its workflow is paused. To be asked only while `_pauses` has any."""
        pause = self._pauses.get(task.step.ref.workflow_id)
        if pause is None:
            return False
        if not pause.holds_newcomers:
            if not pause.is_holding:
                task.schedule_deadline = self._waits_until(task)
            return False
        pause.held[task.id] = task
        self._set_deadline(task, self._waits_until(task))
        return True

    def _put_back(self, task: TaskRun, turn: Turn) -> None:
        """The queue proposed a task run of a paused workflow, as it had not heard of the pause: it keeps its place in line."""
        pause = self._pauses[task.step.ref.workflow_id]
        if task.step.definition.action not in pause.muted:
            pause.is_mixed = True
            self._line_up(task, turn)
            return
        before = len(turn.ready)
        pause.is_passing = True
        self._line_up(task, turn)
        pause.is_passing = False
        turn.first += turn.ready[before:]
        del turn.ready[before:]
        self._set_deadline(task, self._waits_until(task))

    def _unhold(self, task: TaskRun) -> None:
        """A task run does not wait any more."""
        pause = self._pauses.get(task.step.ref.workflow_id)
        if pause is not None:
            pause.held.pop(task.id, None)

    # ------------------------------------------------------------ until when

    def _waits_until(self, task: TaskRun) -> int | None:
        """Until when a queued task run may wait."""
        pause = self._pauses.get(task.step.ref.workflow_id) if self._pauses else None
        if pause is None:
            return task.schedule_deadline
        return pause.deadline(task.queued_at, task.schedule_deadline, task.step.schedule_timeout)

    def _row_waits_until(self, row: TaskRunRow) -> int | None:
        """Likewise of one that waits in Postgres."""
        pause = self._pauses.get(row.workflow_id) if self._pauses else None
        if pause is None:
            return row.schedule_deadline
        step = self._version_of(row).steps[row.step_index]
        return pause.deadline(row.queued_at, row.schedule_deadline, step.schedule_timeout)

    def _has_outlasted(self, task: TaskRun, now: int) -> bool:
        """Whether a queued task run whose deadline has come may wait no longer; otherwise it gets the one that counts."""
        deadline = self._waits_until(task)
        if deadline is None or deadline > now:
            self._set_deadline(task, deadline)
            return False
        return True

    def _expiry_text(self, task: TaskRun) -> str | None:
        """Why a task run may wait no longer, if that is because of a pause."""
        pause = self._pauses.get(task.step.ref.workflow_id)
        if pause is None or not pause.is_paused:
            return None
        return (
            f"workflow {task.step.workflow.name!r} is paused, and task {task.step.ref.task_name!r} has waited for longer than "
            f"the {pause.queue_ttl / 1e6:g} s for which its pause keeps what is queued"
        )

    def _waiting_workflows(self, now: int) -> tuple[str, ...]:
        """Workflows whose rows in Postgres tell deadlines that do not count now.

        Of a paused one the rows expire as they are read, in the order of their line, when those before them have.
        """
        return tuple(
            workflow_id
            for workflow_id, pause in self._pauses.items()
            if pause.phase is not Phase.OVER or pause.fresh_until > now
        )

    def _set_deadlines_of(self, pause: Pause, versions: list[Version]) -> None:
        """What waits in memory gets the deadlines that count from now on."""
        actions = dict.fromkeys(step.definition.action for version in versions for step in version.steps)
        tasks = deque(task for action in actions for task in self._counts.queued_of(action))
        if tasks:
            self.set_deadlines(tasks)

    def set_deadlines(self, tasks: deque[TaskRun]) -> None:
        """The next of them. One that is not reached before its old deadline is looked at then."""
        for _ in range(min(DEADLINES_SLICE, len(tasks))):
            task = tasks.popleft()
            if task.state == S.QUEUED and self._live.get(task.id) is task:
                self._set_deadline(task, self._waits_until(task))
        self._arm()
        if tasks:
            self.me.set_deadlines.send(tasks)

    # ------------------------------------------------------------ the end of a pause

    def lift_pause(self, workflow_id: str, unpaused_at: int) -> None:
        """The end of a pause is committed."""
        pause = self._pauses.get(workflow_id)
        if pause is None or pause.phase is not Phase.ENDING or pause.unpaused_at != unpaused_at:
            return  # it was paused again meanwhile
        pause.phase = Phase.LIFTING
        pause.sort()
        self._unmute(pause, pause.muted)
        self._set_deadlines_of(pause, self._catalog.of_workflow(workflow_id))
        self.lift_more(workflow_id)

    def lift_more(self, workflow_id: str) -> None:
        """What was held aside goes on, a slice at a time."""
        pause = self._pauses.get(workflow_id)
        if pause is None or pause.phase is not Phase.LIFTING:
            return
        turn = Turn()
        pause.is_passing = True
        for _ in range(min(SLICE, len(pause.held))):
            _, task = pause.held.popitem(last=False)
            self._line_up(task, turn)
        pause.is_passing = False
        if pause.held:
            self.me.lift_more.send(workflow_id)
        else:
            pause.phase = Phase.OVER
            self._forget_later(pause)
        self._close(turn)

    def _forget_later(self, pause: Pause) -> None:
        """Once nothing is left that was queued before its end, a pause matters to nobody."""
        if pause.phase is Phase.OVER:
            workflow_id = pause.row.workflow_id
            delay = pause.fresh_until - self.clock.now()
            self.set_timer(("pause", workflow_id), max(0, delay), self.me.forget_pause, workflow_id)

    def forget_pause(self, workflow_id: str) -> None:
        """A pause may have been over for long enough."""
        pause = self._pauses.get(workflow_id)
        if pause is not None and pause.phase is Phase.OVER and pause.fresh_until <= self.clock.now():
            del self._pauses[workflow_id]

    # ------------------------------------------------------------ what other parts do

    def _line_up(self, task: TaskRun, turn: Turn) -> None:
        """`lines`: a task run is ready for the next stage."""
        raise NotImplementedError


def _longest_timeout(versions: list[Version]) -> int:
    return max(step.schedule_timeout for version in versions for step in version.steps)


def _never(workflow_id: str, tenant_id: str) -> WorkflowPause:
    return WorkflowPause(workflow_id, tenant_id, None, None, None, None, None)
