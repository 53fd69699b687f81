"""The invariants of a simulation, checked as things happen and once more at the end."""

import hashlib
from collections import Counter, defaultdict
from typing import Any

from broadaxe_actors.errors import Code
from broadaxe_actors.messages import (
    EventsPushed,
    PushEvents,
    PutWorkflow,
    RegisterWorker,
    ReportKind,
    ReportTasks,
    TriggerRuns,
    WorkflowRegistered,
)
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.states import HELD_STATES
from broadaxe_actors.tenant_queue import TenantQueue
from broadaxe_storage.records import FinishedTaskRun, TaskRunRow, TaskRunState
from tests.simulation.chaos import Violation


class Check:
    """Sees everything that the outside sees, and the store's every write."""

    def __init__(self, sim: Any) -> None:
        self._sim = sim
        self._disk = sim.disk
        self._trace = hashlib.sha256()
        self.steps = 0
        self.acknowledged: dict[str, str] = {}
        """Runs whose trigger was acknowledged, with their tenant."""
        self.events: dict[str, tuple[str, str]] = {}
        """Acknowledged events: tenant and key."""
        self._reported: dict[tuple[str, int], set[bytes]] = defaultdict(set)
        self._owners: dict[tuple[str, int], tuple[str, int]] = {}
        self._order: dict[int, dict[tuple[str, int], int]] = {}
        self._slots: dict[str, tuple[bool, int]] = {}
        self._families: dict[tuple[str, str], str] = {}
        self._crashed_at = -1
        self.generation = 0
        """Counts crashes, of the engine and of tenants."""

    def fail(self, text: str) -> None:
        self._sim.fail(Violation(f"at {self._sim.clock.monotonic() / 1e6:.6f} s: {text}"))

    def see(self, *facts: object) -> None:
        """One step, part of the trace."""
        self.steps += 1
        self._trace.update(f"{self._sim.clock.monotonic()}|{facts!r}\n".encode())
        if self._sim.log is not None:
            self._sim.log(f"{self._sim.clock.monotonic() / 1e6:10.6f} {facts!r}")

    @property
    def trace(self) -> str:
        return self._trace.hexdigest()

    # ------------------------------------------------------------ the store

    def written(self, batch: Any, before: dict[str, Any], ended: dict[str, Any]) -> None:
        """Attempts and retries only grow, and what has ended stays as it is."""
        self.see(
            "commit",
            *(tuple(row.id for row in rows) for rows in batch[:3]),
            len(batch.task_events),
            len(batch.workers),
        )
        for row in (*batch.updated, *batch.finished):
            old = before[row.id]
            if old is not None and (
                row.attempt < old.attempt
                or row.app_retries < old.app_retries
                or row.internal_retries < old.internal_retries
            ):
                self.fail(f"a retry count went back: {old} then {row}")
            if row.attempt != row.app_retries + row.internal_retries:
                self.fail(f"retries and attempts do not add up: {row}")
            if row.internal_retries > self._sim.settings.max_internal_retries:
                self.fail(f"reassigned more often than the budget: {row}")
        for row_id, old in ended.items():
            if old is not None:
                self.fail(f"run {row_id} had ended as {TaskRunState(old.state).name} and was written again")

    def ledger(self, tracker: Any, given: set[str]) -> None:
        """Nobody is given more than its slots, by the engine's own ledger of held attempts.

        A worker may have more after a crash: a report frees its slot at once, and the crash takes that report back.
        """
        held = Counter(task.worker_id for task in tracker._live.values() if task.state in HELD_STATES)
        for worker_id in sorted(given):
            is_batched, slots = self._slots.get(worker_id, (True, 1_000))
            # What a unary worker had before a crash is known by its reports alone, which may cross with an assignment.
            if held[worker_id] > slots and (is_batched or not self.generation):
                self.fail(f"worker {worker_id} was given {held[worker_id]} attempts in {slots} slots")

    def stored(self, run_id: str) -> TaskRunRow | FinishedTaskRun | None:
        return self._disk.finished.get(run_id) or self._disk.live.get(run_id)

    # ------------------------------------------------------------ what the engine says

    def replied(self, asked: Any, value: Any) -> None:  # noqa: C901 - one case a message
        """An answer never precedes the commit of what it tells."""
        self.see("reply", type(asked).__name__, value if not isinstance(asked, PushEvents) else "")
        if isinstance(asked, TriggerRuns):
            for run_id in value:
                if self.stored(run_id) is None:
                    self.fail(f"trigger of run {run_id} was acknowledged before its commit")
                self.acknowledged[run_id] = asked.tenant_id
        elif isinstance(asked, PushEvents):
            assert isinstance(value, EventsPushed)
            stored = {row.id for row in self._disk.events}
            for event_id, event in zip(value.event_ids, asked.events, strict=True):
                if event_id not in stored:
                    self.fail(f"event {event_id} was acknowledged before its commit")
                self.events[event_id] = (asked.tenant_id, event.key)
        elif isinstance(asked, PutWorkflow):
            assert isinstance(value, WorkflowRegistered)
            if value.version_id not in self._disk.versions:
                self.fail(f"version {value.version_id} was acknowledged before its commit")
        elif isinstance(asked, RegisterWorker):
            if value not in self._disk.workers:
                self.fail(f"worker {value} was acknowledged before its commit")
        elif isinstance(asked, ReportTasks):
            for report in asked.reports:
                if report.kind in (ReportKind.COMPLETED, ReportKind.FAILED):
                    self._report_acknowledged(report)

    def _report_acknowledged(self, report: Any) -> None:
        row = self.stored(report.task_run_id)
        if row is None:
            self.fail(f"a report of the unknown task run {report.task_run_id} was acknowledged")
        elif isinstance(row, TaskRunRow) and row.attempt <= report.attempt:
            self.fail(f"the report of attempt {report.attempt} was acknowledged, and not committed: {row}")

    def refused(self, asked: Any, refusal: Any) -> None:
        self.see("refusal", type(asked).__name__, refusal.code, refusal.message)
        if isinstance(asked, ReportTasks) and refusal.code != Code.RESOURCE_EXHAUSTED:
            self.fail(f"a report was refused: {refusal}")

    def assigned(self, worker: Any, assignments: Any) -> None:
        """One attempt goes to one worker, unless there was a crash between; its attempt is committed."""
        for item in assignments:
            self.see("start", worker.id, item.task_run_id, item.attempt)
            row = self.stored(item.task_run_id)
            if row is None or row.attempt < item.attempt:
                self.fail(f"attempt {item.attempt} of {item.task_run_id} left before its commit: {row}")
            key = (item.task_run_id, item.attempt)
            now = self._sim.clock.monotonic()
            owner, since = self._owners.setdefault(key, (worker.id, now))
            if owner != worker.id:
                # What a crashed generation had sent may arrive in the moment after.
                if since > self._crashed_at:
                    self.fail(f"attempt {key} is with {owner}, and was given to {worker.id} too")
                self._owners[key] = (worker.id, now)

    def run_finished(self, message: Any) -> None:
        """A result never precedes its commit, and is what is read back."""
        self.see("finished", message.run_id, message.state)
        row = self._disk.finished.get(message.run_id)
        result = message.results[0]
        if row is None:
            self.fail(f"the end of run {message.run_id} was told before its commit")
        elif (row.state, row.output, row.error) != (result.state, result.output, result.error):
            self.fail(f"run {message.run_id} was told as {message}, and reads {row}")

    def proposed(self, tracker: Any, task: Any) -> None:
        """First in, first out, inside an action and a priority."""
        line = (task.step.queue_key, task.queue_priority)
        lines = self._order.setdefault(id(tracker), {})
        if task.seq <= lines.get(line, 0):
            self.fail(f"{task.id} (seq {task.seq}) was overtaken in {line}, which was at {lines[line]}")
        lines[line] = task.seq

    def crashed(self) -> None:
        self.generation += 1
        self._crashed_at = self._sim.clock.monotonic()
        self._order.clear()

    # ------------------------------------------------------------ what the outside does

    def worker_registered(self, worker: Any) -> None:
        self._slots[worker.id] = (worker.is_batched, worker.slots)

    def reported(self, report: Any) -> None:
        self.see("report", report.task_run_id, report.attempt, report.kind)
        if report.kind in (ReportKind.COMPLETED, ReportKind.FAILED):
            self._reported[report.task_run_id, report.attempt].add(report.payload)

    def children_spawned(self, tenant_id: str, runs: Any, ids: Any) -> None:
        """A spawn key names one child for ever."""
        for run, run_id in zip(runs, ids, strict=True):
            key = (run.parent_task_run_id, run.child_key or str(run.child_index))
            if self._families.setdefault(key, run_id) != run_id:
                self.fail(f"spawn key {key} names {self._families[key]}, and then {run_id}")

    # ------------------------------------------------------------ the end

    def unfinished(self) -> list[str]:
        return [run_id for run_id in self.acknowledged if run_id not in self._disk.finished]

    def final(self) -> None:
        """After everything has come to rest."""
        for run_id in self.unfinished():
            self.fail(f"an acknowledged run has not ended: {self.stored(run_id)}")
        for row in self._disk.live.values():
            self.fail(f"a task run is stuck: {row}; {self._sim.describe(row)}")
        for row in self._disk.finished.values():
            self._check_finished(row)
        self._check_events()
        self._check_children()
        for gateway in self._sim.gateways:
            for asked, _ in gateway.pending.values():
                self.fail(f"a request was never answered: {asked}")
            for _, run_id in gateway.watches:
                self.fail(f"the end of run {run_id} was never told: {self.stored(run_id)}")
        self._check_memory()

    def _check_finished(self, row: FinishedTaskRun) -> None:
        kind = self._sim.names[row.workflow_id]
        if row.state == TaskRunState.COMPLETED:
            if row.output not in self._reported[row.id, row.attempt]:
                self.fail(f"nobody reported the result of {row}")
        elif row.state == TaskRunState.FAILED:
            is_reported = row.error in self._reported[row.id, row.attempt]
            text = (row.error or b"").decode()
            if not (
                is_reported or "was reassigned" in text or "exceeded timeout" in text or "Traceback" in text
            ):
                self.fail(f"nobody reported the failure of {row}")
            if "exceeded timeout" in text and kind != "hang":
                self.fail(f"a task run that nobody ran timed out: {row}")
        elif kind not in ("unserved", "hang"):
            self.fail(f"nobody cancelled {row}")

    def _check_events(self) -> None:
        started: dict[str, int] = Counter(row.triggering_event_id or "" for row in self._sim.created.values())
        for event_id, (_, key) in self.events.items():
            expected = 1 if key == "order:created" else 0
            if started[event_id] != expected:
                self.fail(f"event {event_id} ({key}) started {started[event_id]} runs, not {expected}")

    def _check_children(self) -> None:
        seen: dict[tuple[str, str], str] = {}
        for row in self._sim.created.values():
            if row.parent_task_run_id is not None and row.child_index is not None:
                key = (row.parent_task_run_id, row.child_key or str(row.child_index))
                if key in seen:
                    self.fail(f"spawn key {key} made two children: {seen[key]} and {row.id}")
                seen[key] = row.id

    def _check_memory(self) -> None:
        """Nothing is left behind in memory: slots, lines, deadlines."""
        for tracker in self._sim.actors(RunTracker):
            for name, held in (
                ("live task runs", tracker._live),
                ("running", tracker._running),
                ("deadlines", tracker._deadlines._where),
                ("lines", tracker._ledger._lines),
                ("jobs", tracker._creation._jobs),
                ("triggers in slices", dict.fromkeys(tracker._creation._waiting)),
                ("held back", tracker._held_back),
            ):
                if held:
                    self.fail(f"{name} are left in the tracker: {dict(list(held.items())[:5])}")
        for queue in self._sim.actors(TenantQueue):
            for worker_id, worker in queue._matcher._workers.items():
                if worker.free != worker.total:
                    self.fail(
                        f"worker {worker_id} has {worker.free} free of {worker.total}, and holds nothing"
                    )
