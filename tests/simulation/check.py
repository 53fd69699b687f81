"""The invariants of a simulation that are checked as things happen: what the engine says, and what the outside does.

`record` checks what is written, `final` what is left when all has come to rest.
"""

import hashlib
import json
from collections import Counter, defaultdict
from typing import Any

from broadaxe_actors.errors import Code
from broadaxe_actors.messages import (
    EventsPushed,
    GetRun,
    IdempotencyCollisions,
    PushEvents,
    PutWorkflow,
    RegisterWorker,
    ReleaseSlot,
    ReportKind,
    ReportTasks,
    TriggerRuns,
    WorkflowRegistered,
)
from broadaxe_actors.states import HELD_STATES
from broadaxe_actors.task_run import RETRY_PRIORITY
from broadaxe_actors.tenant_queue import TenantQueue
from broadaxe_storage.records import FINAL_STATES, RUN_STEP, FinishedTaskRun, TaskRunRow, TaskRunState
from tests.simulation import oracle
from tests.simulation.chaos import Before, Violation
from tests.simulation.oracle import End, Pushed
from tests.simulation.record import SKIPPED_OUTPUT, Record
from tests.simulation.timed import TimerCheck

S = TaskRunState
CRASH_MOMENT_US = 50_000
"""How long after a crash something that the crashed generation had sent may still arrive."""


class Check:
    """Sees everything that the outside sees, and the store's every write."""

    def __init__(self, sim: Any) -> None:
        self._sim = sim
        self._disk = sim.disk
        self._trace = hashlib.sha256()
        self.steps = 0
        self.replay_asked: set[str] = set()
        """Ids that somebody wanted replayed."""
        self.is_replay_filtered = False
        """A filter that may mean any run was replayed."""
        self.cancel_asked: set[str] = set()
        """Ids that somebody wanted cancelled."""
        self.record = Record(sim, self)
        self.timers = TimerCheck(sim.disk, sim.chaos.did, self.fail)
        self.acknowledged: dict[str, str] = {}
        """Runs whose trigger was acknowledged, with their tenant."""
        self.events: dict[str, Pushed] = {}
        """Acknowledged events by id."""
        self.pushed: dict[int, Pushed] = {}
        """Every event that was sent, by its nonce."""
        self.reported: dict[tuple[str, int], set[bytes]] = defaultdict(set)
        self._owners: dict[tuple[str, int], tuple[str, int]] = {}
        self._order: dict[int, dict[tuple[str, int], int]] = {}
        self._slots: dict[str, tuple[bool, int]] = {}
        self._families: dict[tuple[str, str], str] = {}
        self._crashed_at = -CRASH_MOMENT_US
        self.generation = 0
        """Counts crashes, of the engine and of tenants."""
        self._troubles: list[tuple[int, int]] = []
        """When the engine, a tenant or Postgres was down: from, to, on the wall clock."""
        self._in_trouble: dict[str, int] = {}

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

    @property
    def now(self) -> int:
        """Microseconds since the epoch."""
        return int(self._sim.clock.now())

    @property
    def commits(self) -> int:
        """How often the store was written."""
        return int(self._disk.commits)

    # ------------------------------------------------------------ trouble

    def trouble_begins(self, what: str) -> None:
        """From now on nothing has to be on time."""
        self._in_trouble.setdefault(what, self._sim.clock.now())

    def trouble_ends(self, what: str) -> None:
        since = self._in_trouble.pop(what, None)
        if since is not None:
            self._troubles.append((since, self._sim.clock.now()))

    def was_calm(self, since: int, until: int) -> bool:
        """Whether the engine, its tenants and Postgres were up all the time."""
        return not any(began <= until and ended >= since for began, ended in self._troubles) and not any(
            began <= until for began in self._in_trouble.values()
        )

    # ------------------------------------------------------------ the store

    def written(self, batch: Any, before: Before) -> None:
        self.see(
            "commit",
            *(tuple(row.id for row in rows) for rows in batch[:3]),
            len(batch.task_events),
            len(batch.workers),
            tuple((row.id, row.state) for row in batch.settled),
            tuple((row.run_id, row.state) for row in batch.ended),
            tuple(row.run_id for row in batch.revived),
        )
        self.record.written(batch, before)
        self.timers.written(batch)

    def ledger(self, tracker: Any, given: set[str]) -> None:
        """Nobody is given more than its slots, by the engine's own ledger of held attempts.

        A worker may have more after a crash: a report frees its slot at once, and the crash takes that report back.
        """
        held = Counter(
            task.worker_id
            for task in tracker._live.values()
            if task.state in HELD_STATES and not task.is_slot_released
        )
        for worker_id in sorted(given):
            is_batched, slots = self._slots.get(worker_id, (True, 1_000))
            # What a unary worker had before a crash is known by its reports alone, which may cross with an assignment.
            if held[worker_id] > slots and (is_batched or not self.generation):
                self.fail(f"worker {worker_id} was given {held[worker_id]} attempts in {slots} slots")

    def stored(self, row_id: str) -> TaskRunRow | FinishedTaskRun | None:
        return self.record.stored(row_id)

    # ------------------------------------------------------------ what the engine says

    def replied(self, asked: Any, value: Any) -> None:  # noqa: C901 - one case a message
        """An answer never precedes the commit of what it tells."""
        self.see("reply", type(asked).__name__, value if not isinstance(asked, PushEvents) else "")
        if isinstance(asked, TriggerRuns):
            self._created(asked, value)
        elif isinstance(asked, PushEvents):
            assert isinstance(value, EventsPushed)
            stored = {row.id for row in self._disk.events}
            for event_id, event in zip(value.event_ids, asked.events, strict=True):
                if event_id not in stored:
                    self.fail(f"event {event_id} was acknowledged before its commit")
                payload = json.loads(event.payload)
                self.events[event_id] = Pushed(asked.tenant_id, event.key, event.scope, payload)
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
        elif isinstance(asked, ReleaseSlot):
            self._sim.chaos.did("slot released")
        elif isinstance(asked, GetRun):
            self._read(value)

    def _created(self, asked: TriggerRuns, run_ids: Any) -> None:
        for run_id in run_ids:
            if self.stored(run_id) is None:
                self.fail(f"trigger of run {run_id} was acknowledged before its commit")
            self.acknowledged[run_id] = asked.tenant_id

    def collided(self, asked: TriggerRuns, detail: IdempotencyCollisions, sent_at: int) -> None:
        """A run is left out for its idempotency key only while another has it, and the others of its trigger are made."""
        self._created(asked, detail.created_run_ids)
        lost = {item.colliding_run_id for item in detail.collisions}
        if lost | set(detail.created_run_ids) != {run.run_id for run in asked.runs}:
            self.fail(f"a trigger of {asked.runs} was answered {detail}")
        ids = {run.run_id for run in asked.runs}
        for item in detail.collisions:
            if self.stored(item.colliding_run_id) is not None:
                self.fail(f"run {item.colliding_run_id} exists, and is said to collide")
            holder = self.stored(item.existing_run_id)
            if holder is None:
                self.fail(f"run {item.existing_run_id} is said to hold a key, and does not exist")
                continue
            idempotency = self.record.definition_of(holder).idempotency
            assert idempotency is not None
            claims = self.record.claims[holder.tenant_id, holder.idempotency_key or ""]
            own = [claim for claim in claims if claim.run_id == holder.id]
            if not own or own[-1].expires_at <= sent_at:
                self.fail(f"run {holder.id} is said to hold a key that is free: {claims}")
            ends = self.record.ends[holder.id]
            if idempotency["method"] == "STATUS" and ends and ends[0].committed_at < sent_at:
                self.fail(f"run {holder.id} has ended and is said to hold its key still")
            self._sim.chaos.did(f"key taken by {idempotency['method']}")
            if item.existing_run_id in ids:
                self._sim.chaos.did("key taken within a bulk")

    def _report_acknowledged(self, report: Any) -> None:
        row = self.stored(report.task_run_id)
        if row is None:
            self.fail(f"a report of the unknown task run {report.task_run_id} was acknowledged")
        elif isinstance(row, TaskRunRow) and row.attempt <= report.attempt and row.state not in FINAL_STATES:
            self.fail(f"the report of attempt {report.attempt} was acknowledged, and not committed: {row}")

    def _read(self, details: Any) -> None:
        """What is read of an ended run is its end."""
        self._sim.chaos.did("run read")
        if not details.is_done:
            return
        read = tuple((task.task_run_id, task.state, task.output, task.error) for task in details.tasks)
        ends = self.record.ends[details.run_id]
        if (details.state, read) not in [(end.state, end.results) for end in ends]:
            self.fail(f"run {details.run_id} reads as {details}, and ended as {ends}")

    def refused(self, asked: Any, refusal: Any) -> None:
        self.see("refusal", type(asked).__name__, refusal.code, refusal.message)
        if isinstance(asked, ReportTasks) and refusal.code != Code.RESOURCE_EXHAUSTED:
            self.fail(f"a report was refused: {refusal}")

    # ------------------------------------------------------------ starts

    def assigned(self, worker: Any, assignments: Any) -> None:
        """One attempt goes to one worker, unless there was a crash between; its attempt is committed, and has not ended."""
        now = self._sim.clock.monotonic()
        for item in assignments:
            self.see("start", worker.id, item.task_run_id, item.attempt)
            row = self.stored(item.task_run_id)
            if row is None or row.attempt < item.attempt:
                self.fail(f"attempt {item.attempt} of {item.task_run_id} left before its commit: {row}")
                continue
            key = (item.task_run_id, item.attempt)
            owner, since = self._owners.setdefault(key, (worker.id, now))
            if owner != worker.id:
                # What a crashed generation had sent may arrive in the moment after.
                if since > self._crashed_at:
                    self.fail(f"attempt {key} is with {owner}, and was given to {worker.id} too")
                self._owners[key] = (worker.id, now)
            is_over = row.attempt > item.attempt or row.state in FINAL_STATES
            if now - self._crashed_at < CRASH_MOMENT_US:
                continue
            self._check_filter(item, row)
            if is_over:
                self.fail(f"attempt {item.attempt} of {item.task_run_id} was started after its end: {row}")
            elif item.run_id != item.task_run_id:
                self._started(item, row)

    def _check_filter(self, item: Any, row: TaskRunRow | FinishedTaskRun) -> None:
        """Tasks without parents are given the payload of the filter that started their run, no others are."""
        run = self.stored(item.run_id)
        task = self.record.task_of(row)
        is_first = not task.parents and task is not self.record.definition_of(row).on_failure_task
        expected = json.loads(run.filter)["payload"] if run is not None and run.filter and is_first else None
        if (json.loads(item.filter_payload) if item.filter_payload else None) != expected:
            self.fail(f"{row} was given the filter payload {item.filter_payload!r}, and not {expected}")

    def _started(self, item: Any, row: TaskRunRow | FinishedTaskRun) -> None:
        """A task starts only when all that it needs is committed, and is given what its parents left."""
        task = self.record.task_of(row)
        rows = self.record.tasks_of(item.run_id)
        ended = {
            name: End(name, found.state, found.output, found.finished_at or 0)
            for name, found in rows.items()
            if name in task.parents and found.state in FINAL_STATES
        }
        waits = self.record.waits.get((row.id, self.record.bases.get(row.id, 0)))
        met: set[int] = set()
        if waits is not None:
            until = waits.until if waits.until is not None else waits.since
            met = set(waits.events) | oracle.sleeps_over(task, waits.since, until)
        if oracle.waits_say(task, ended, met) == "OPEN":
            self.fail(f"{row} was started before what it waits for was committed: {ended}, {waits}")
        given = {parent.task_name: parent.output for parent in item.parents if parent.is_direct}
        for name, end in ended.items():
            if end.state == S.COMPLETED and given.get(name) != (end.output or b""):
                self.fail(f"{row} was started without the output of {name}: {given}")
            if end.state == S.SKIPPED and given.get(name) != SKIPPED_OUTPUT:
                self.fail(f"{row} was started without word of {name}, which was skipped: {given}")
        if task is self.record.definition_of(row).on_failure_task:
            self._check_errors(item.errors, rows, row)

    def _check_errors(self, errors: Any, rows: dict[str, Any], row: TaskRunRow | FinishedTaskRun) -> None:
        """The on-failure task hears why it runs; of failures that are not committed yet it may hear, too."""
        failed = {name: found.error for name, found in rows.items() if found.state == S.FAILED}
        told = dict(errors)
        if not failed.keys() & told.keys():
            self.fail(f"the on-failure task {row} was told {errors}, and there failed {failed}")
        for name, text in told.items():
            found = rows.get(name)
            if found is not None and found.state in FINAL_STATES and failed.get(name, b"").decode() != text:
                self.fail(f"the on-failure task {row} was told {errors}, and there failed {failed}")

    # ------------------------------------------------------------ ends

    def run_finished(self, message: Any, watched_at: int) -> None:
        """A result never precedes its commit, and is what is read back; of a replayed run, that of the last replay before the question."""
        self.see("finished", message.run_id, message.state)
        told = tuple((item.task_run_id, item.state, item.output, item.error) for item in message.results)
        ends = self.record.ends[message.run_id]
        if (message.state, told) not in [(end.state, end.results) for end in ends]:
            self.fail(f"run {message.run_id} was told as {message}, and ended as {ends}")
            return
        revived_at = self.record.revivals.get(message.run_id)
        if revived_at is not None and revived_at <= watched_at:
            late = [(end.state, end.results) for end in ends if end.commit >= revived_at]
            if (message.state, told) not in late:
                self.fail(f"run {message.run_id} was replayed, and its former end was told: {message}")

    def cancelled(self, asked_at: int, ids: tuple[str, ...], tenant_id: str, metadata: str | None) -> None:
        """What was cancelled has ended by the time of the answer; by filter, all that was meant."""
        for item in ids:
            self._gone(item, asked_at)
        if metadata is not None:
            for run_id, owner in self.acknowledged.items():
                if owner == tenant_id and self._sim.metadata.get(run_id) == metadata:
                    self._gone(run_id, asked_at, is_by_filter=True)

    def _gone(self, item: str, asked_at: int, *, is_by_filter: bool = False) -> None:
        row = self.stored(item)
        if row is None:
            self.fail(f"{item} was cancelled and is not known")
            return
        if self.record.revived_at.get(row.run_id, -1) >= asked_at:
            return
        if is_by_filter and self._sim.acknowledged_at.get(item, asked_at) >= asked_at:
            return
        if row.step_index != RUN_STEP:
            is_over = row.state in FINAL_STATES
            is_right = is_over if is_by_filter else row.state == S.CANCELLED
            if not is_right:
                self.fail(f"{row} was cancelled, and has not ended so")
            return
        if isinstance(row, FinishedTaskRun):
            if row.state == S.COMPLETED and not is_by_filter:
                self.fail(f"{row} was cancelled, and completed")
            return
        definition = self.record.definition_of(row)
        rows = self.record.tasks_of(item)
        for task in definition.tasks:
            found = rows.get(task.name)
            if found is None or found.state not in FINAL_STATES:
                self.fail(f"run {item} was cancelled, and its task {task.name} has not ended: {found}")

    def replayed(self, asked_at: int, ids: tuple[str, ...]) -> None:
        """What was replayed has begun anew by the time of the answer."""
        for item in ids:
            row = self.stored(item)
            if row is None or self.record.revived_at.get(row.run_id, -1) < asked_at:
                self.fail(f"{item} is said to be replayed, and is not: {row}")

    def extended(self, item: Any, deadline: int) -> None:
        """A worker was told a later deadline."""
        self._sim.chaos.did("time-out extended")
        key = (item.task_run_id, item.attempt)
        row = self.stored(item.task_run_id)
        if row is None or row.attempt != item.attempt or row.state in FINAL_STATES:
            return
        assert isinstance(row, TaskRunRow)
        if row.state in HELD_STATES and (row.execution_deadline or 0) < deadline:
            self.fail(f"the deadline {deadline} of {item.task_run_id} was told before its commit: {row}")
        self.record.extended[key] = max(deadline, self.record.extended.get(key, 0))

    def slot_released(self, item: Any) -> None:
        """A slot that was given back is free, and counts no more."""
        row = self.stored(item.task_run_id)
        if not isinstance(row, TaskRunRow) or row.attempt != item.attempt or row.state not in HELD_STATES:
            return
        if not row.is_slot_released:
            self.fail(f"the slot of {row} is said to be released, and is not by the record")
        for queue in self._sim.actors(TenantQueue):
            for worker_id, worker in queue._matcher._workers.items():
                if (item.task_run_id, item.attempt) in worker.held:
                    self.fail(f"worker {worker_id} still holds the released slot of {row}")

    def proposed(self, tracker: Any, task: Any) -> None:
        """First in, first out, inside an action and a priority."""
        if task.step.is_gated and (
            task.queue_priority == RETRY_PRIORITY
            or "exists" in "".join(entry["expression"] for entry in task.step.definition.concurrency)
        ):
            return  # one retry has kept its place, another waits for one; and a key evaluated apart comes when it comes
        line = task.line
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

    def did_report(self, report: Any) -> None:
        self.see("report", report.task_run_id, report.attempt, report.kind)
        if report.kind in (ReportKind.COMPLETED, ReportKind.FAILED):
            self.reported[report.task_run_id, report.attempt].add(report.payload)

    def children_spawned(self, runs: Any, ids: Any) -> None:
        """A spawn key names one child for ever."""
        for run, run_id in zip(runs, ids, strict=True):
            key = (run.parent_task_run_id, run.child_key or str(run.child_index))
            if self._families.setdefault(key, run_id) != run_id:
                self.fail(f"spawn key {key} names {self._families[key]}, and then {run_id}")

    def unfinished(self) -> list[str]:
        """Acknowledged runs that have not ended."""
        return [run_id for run_id in self.acknowledged if run_id not in self._disk.finished]
