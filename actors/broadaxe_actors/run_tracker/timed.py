"""Runs that crons and scheduled runs make, as `Timetable` asks for them; and what a registration says of crons. A part of `RunTracker`."""

from typing import Any

from broadaxe_actors import timers
from broadaxe_actors.catalog import Version
from broadaxe_actors.definitions import WorkflowDefinition
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.run_tracker.pausing import Pausing
from broadaxe_actors.runtime import Handle
from broadaxe_actors.timers import TimedStart
from broadaxe_actors.timetable_requests import WorkflowFacts
from broadaxe_storage.records_timers import TimerDrop, TimerKind


class Timed(Pausing):
    """See the module."""

    _timetable: Handle[Any]

    def connect_timetable(self, timetable: "Handle[Any]") -> None:
        """Who says when crons and scheduled runs make their runs."""
        self._timetable = timetable

    def start_timed(self, timetable: "Handle[Any]", number: int, start: TimedStart) -> None:
        """Make the run of a timer, recorded with what the timer says of it. Answered by `deliver`: run ids, or None for one dropped."""
        version = self._catalog.find(start.workflow_name)
        if version is None or version.workflow_id != start.workflow_id:
            text = f"workflow {start.workflow_name!r} ({start.workflow_id}) is not registered any more"
            self._refuse(timetable, number, Refused(Code.NOT_FOUND, text))
            return
        is_cron = start.kind == TimerKind.CRON
        if is_cron and start.change is not None:
            drops = self._drops_cron(start.workflow_id)
        else:
            drops = start.dropped is not None and self._drops_scheduled(start.workflow_id)
        if drops:
            if self._may_record(start):
                self.record(start.dropped)
            self._reply(timetable, number, None)
            return
        self._creation.begin_timed(timetable, number, start)

    def _may_record(self, start: TimedStart) -> bool:
        """Whether a timer is still there. One of a definition may have gone with it since it was read."""
        if start.declared_expression is None:
            return True
        version = self._catalog.find(start.workflow_name)
        return version is not None and start.declared_expression in version.definition.cron_triggers

    def _declare_crons(self, before: WorkflowDefinition | None, version: Version, now: int) -> None:
        """In the commit of a new version: its crons, in place of those of the version before."""
        found = timers.declare(self._tenant_id, version.workflow_id, before, version.definition, now)
        for record in (*found.rows, *found.drops):
            self.record(record)
        self._tell_timetable(version)
        if found.timers:
            self.send_after_commit(self._timetable.declared, found.timers)

    def _drop_declared_crons(self, versions: list[Version]) -> None:
        """With their workflow. What was made by API stays, and says that the workflow is gone when its time has come."""
        if not versions:
            return
        latest = max(versions, key=lambda version: version.number)
        for text in dict.fromkeys(latest.definition.cron_triggers):
            self.record(TimerDrop(timers.cron_id(latest.workflow_id, text), self._tenant_id))

    def _tell_timetable(self, version: Version) -> None:
        self.send_after_commit(self._timetable.set_workflow, version.definition.name, facts_of(version))


def facts_of(version: Version) -> WorkflowFacts:
    return WorkflowFacts(version.workflow_id, version.id, version.number, version.created_at)
