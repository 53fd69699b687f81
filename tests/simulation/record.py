"""Every write of a simulation's store, checked against what stood there before, and remembered for what is checked later."""

import json
from collections import defaultdict
from typing import Any, NamedTuple

from broadaxe_actors import definitions
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_storage.records import (
    FINAL_STATES,
    RUN_STEP,
    Batch,
    FinishedTaskRun,
    RunRevival,
    TaskEventKind,
    TaskRunRow,
    TaskRunState,
)
from tests.simulation.chaos import Before
from tests.simulation.oracle import Pushed
from tests.simulation.places import Places
from tests.simulation.rates import Rates

S = TaskRunState
SKIPPED_OUTPUT = b'{"skipped":true}'


class StoredWaits(NamedTuple):
    """What a task run's row last said of its waits."""

    since: int
    until: int | None
    events: dict[int, Any]
    """Payload by number of the wait."""


class StoredEvent(NamedTuple):
    """A committed event."""

    id: str
    event: Pushed
    created_at: int
    committed_at: int


class RunEnd(NamedTuple):
    """A committed end of a run."""

    state: int
    results: tuple[tuple[str, int, bytes | None, bytes | None], ...]
    """Id, state, output and error of each task run, in the order of the steps."""
    committed_at: int
    commit: int
    """How many commits there were then."""


class Record:
    """See the module."""

    def __init__(self, sim: Any, check: Any) -> None:
        self._sim = sim
        self._disk = sim.disk
        self._check = check
        self.definitions: dict[str, WorkflowDefinition] = {}
        """By version id."""
        self.members: dict[str, dict[int, str]] = defaultdict(dict)
        """By run of several tasks: task run ids by step index."""
        self.bases: dict[str, int] = {}
        """By task run: its attempt when it last began anew."""
        self.anew_at: dict[str, int] = {}
        """By task run that began anew: when."""
        self.kept: dict[str, frozenset[str]] = {}
        """By task run that began anew: names of the tasks that kept their results then."""
        self.revived_at: dict[str, int] = {}
        """By run: when its last replay was committed."""
        self.revivals: dict[str, int] = {}
        """By run: how many commits there were when its last replay was one."""
        self.ends: dict[str, list[RunEnd]] = defaultdict(list)
        self.waits: dict[tuple[str, int], StoredWaits] = {}
        """By task run and attempt."""
        self.wait_committed_at: dict[tuple[str, int], int] = {}
        self.events: list[StoredEvent] = []
        self.claims: dict[tuple[str, str], list[Any]] = defaultdict(list)
        """Idempotency key rows by tenant and key, the newest last."""
        self.extended: dict[tuple[str, int], int] = {}
        """By task run and attempt: the latest deadline that a worker was told."""
        self.places = Places(self, sim.disk, sim.chaos.did, check.fail)
        self.rates = Rates(self, sim.disk, sim.chaos.did, check.fail)
        self.moved_at = 0
        """When a task run was written last."""

    # ------------------------------------------------------------ looking up

    def definition_of(self, row: TaskRunRow | FinishedTaskRun) -> WorkflowDefinition:
        version_id = row.workflow_version_id
        found = self.definitions.get(version_id)
        if found is None:
            text = self._disk.versions[version_id].definition
            found = self.definitions[version_id] = definitions.from_json(text)
        return found

    def task_of(self, row: TaskRunRow | FinishedTaskRun) -> TaskDefinition:
        return self.definition_of(row).all_tasks[row.step_index]

    def stored(self, row_id: str) -> TaskRunRow | FinishedTaskRun | None:
        return self._disk.live.get(row_id) or self._disk.finished.get(row_id)

    def tasks_of(self, run_id: str) -> dict[str, TaskRunRow | FinishedTaskRun]:
        """The stored rows of the tasks of a run of several, by task name."""
        found: dict[str, TaskRunRow | FinishedTaskRun] = {}
        for row_id in self.members[run_id].values():
            row = self.stored(row_id)
            if row is not None:
                found[self.task_of(row).name] = row
        return found

    # ------------------------------------------------------------ writes

    def written(self, batch: Batch, before: Before) -> None:  # noqa: C901 - one loop a kind of record
        """Attempts and retries only grow, what has ended stays as it is unless it is replayed, and an end is what its tasks say."""
        now = self._sim.clock.now()
        revived = {item.run_id for item in batch.revived}
        if any((batch.created, batch.updated, batch.finished, batch.settled)):
            self.moved_at = now
        for row in batch.created:
            self._created(row, before, now, is_revived=row.run_id in revived)
        for item in batch.revived:
            self._revived(item, before.revived[item.run_id], batch, now)
        for update in (*batch.updated, *batch.finished, *batch.settled):
            self._moved(update, before.live[update.id])
        for row in (*batch.created, *batch.updated, *batch.settled):
            self._check_residence(row.id)
        for update in batch.updated:
            self._note_waits(update.id, update.attempt, update.waits, now)
        for finish in batch.finished:
            if before.finished[finish.id] is not None:
                self._fail(f"run {finish.id} had ended, and ended again: {finish}")
            row = self._disk.finished[finish.id]
            self.ends[finish.id].append(RunEnd(row.state, (_result(row),), now, self._disk.commits))
        for end in batch.ended:
            self._ended(end.run_id, now)
        for event in batch.events:
            pushed = Pushed(event.tenant_id, event.key, event.scope, json.loads(event.payload or b"{}"))
            self.events.append(StoredEvent(event.id, pushed, event.created_at, now))
        self._claimed(batch, before, now)
        self.places.written(batch)
        self.rates.written(batch)
        for entry in batch.task_events:
            if entry.kind == TaskEventKind.TIMED_OUT:
                self.timed_out(entry.task_run_id, entry.attempt, entry.at)

    def _fail(self, text: str) -> None:
        self._check.fail(text)

    def _created(self, row: TaskRunRow, before: Before, now: int, *, is_revived: bool) -> None:
        if before.finished[row.id] is not None and not is_revived:
            self._fail(f"run {row.run_id} had ended and is made again: {row}")
        if row.step_index == RUN_STEP:
            if row.spill_queue is not None:
                self._sim.chaos.did("run of several tasks waited in Postgres")
            return
        if row.id != row.run_id:
            known = self.members[row.run_id].setdefault(row.step_index, row.id)
            if known != row.id:
                self._fail(f"step {row.step_index} of run {row.run_id} has two task runs: {known}, {row.id}")
        self._note_waits(row.id, row.attempt, row.waits, now)

    def _check_residence(self, row_id: str) -> None:
        """A run that waits in Postgres as a whole does so: else recovery would leave it there."""
        row = self._disk.live.get(row_id)
        head = self._disk.live.get(row.run_id) if row is not None else None
        if row is None or head is None or row.step_index == RUN_STEP or head.step_index != RUN_STEP:
            return
        if head.spill_queue is not None and row.spill_queue is None:
            self._fail(f"run {head.id} waits in Postgres as a whole by the record, and {row} does not")

    def _note_waits(self, row_id: str, attempt: int, waits: str | None, now: int) -> None:
        if waits is not None:
            raw = json.loads(waits)
            events = {int(number): payload for number, payload in raw["events"].items()}
            self.waits[row_id, attempt] = StoredWaits(raw["since"], raw["until"], events)
            self.wait_committed_at.setdefault((row_id, attempt), now)

    def _moved(self, update: Any, old: TaskRunRow | None) -> None:
        if old is not None and (
            update.attempt < old.attempt
            or update.app_retries < old.app_retries
            or update.internal_retries < old.internal_retries
        ):
            self._fail(f"a retry count went back: {old} then {update}")
        if old is not None and old.state in FINAL_STATES:
            self._fail(f"a task run had ended and was written again: {old} then {update}")
        if self.stored(update.id) is not None and self.stored(update.id).step_index == RUN_STEP:  # type: ignore[union-attr]
            return
        if update.attempt - self.bases.get(update.id, 0) != update.app_retries + update.internal_retries:
            self._fail(f"retries and attempts do not add up: {update}")
        if update.internal_retries > self._sim.settings.max_internal_retries:
            self._fail(f"reassigned more often than the budget: {update}")

    def _ended(self, run_id: str, now: int) -> None:
        head = self._disk.finished[run_id]
        rows = [self._disk.finished[row_id] for _, row_id in sorted(self.members[run_id].items())]
        definition = self.definition_of(head)
        if len(rows) != len(definition.all_tasks):
            self._fail(
                f"run {run_id} ended with {len(rows)} of its {len(definition.all_tasks)} tasks: {rows}"
            )
        states = {row.state for row in rows}
        expected = S.FAILED if S.FAILED in states else S.CANCELLED if S.CANCELLED in states else S.COMPLETED
        if head.state != expected:
            self._fail(f"run {run_id} ended as {S(head.state).name} with tasks {sorted(states)}")
        self.ends[run_id].append(RunEnd(head.state, tuple(map(_result, rows)), now, self._disk.commits))
        self._sim.chaos.did("run of several tasks ended")

    # ------------------------------------------------------------ replays

    def _revived(self, item: RunRevival, old: list[FinishedTaskRun], batch: Batch, now: int) -> None:
        """What was not meant keeps its result; what was meant, and all below it, begins anew, one attempt on."""
        self.revived_at[item.run_id] = now
        self.revivals[item.run_id] = self._disk.commits
        new = {row.id: row for row in batch.created if row.run_id == item.run_id}
        if set(new) != {row.id for row in old}:
            self._fail(f"a replay of run {item.run_id} lost or made task runs: {old} became {list(new)}")
            return
        tasks = [row for row in old if row.step_index != RUN_STEP]
        anew = {row.step_index for row in tasks if new[row.id].state not in FINAL_STATES}
        definition = self.definition_of(old[0])
        names = [task.name for task in definition.all_tasks]
        kept = frozenset(names[row.step_index] for row in tasks if row.step_index not in anew)
        for row in tasks:
            again = new[row.id]
            if row.step_index not in anew:
                self._sim.chaos.did("result kept in a replay")
                same = (again.state, again.attempt, again.output, again.error, again.finished_at)
                if same != (row.state, row.attempt, row.output, row.error, row.finished_at):
                    self._fail(f"a replay changed a result that was to be kept: {row} became {again}")
                continue
            if (again.attempt, again.app_retries, again.internal_retries) != (row.attempt + 1, 0, 0):
                self._fail(f"a replay does not begin one attempt on with fresh budgets: {row} became {again}")
            if again.output is not None or again.error is not None:
                self._fail(f"a replayed task run still has a result: {again}")
            self.bases[row.id] = again.attempt
            self.anew_at[row.id] = again.queued_at
            self.kept[row.id] = kept
        self._check_meant(item.run_id, definition, tasks, anew)

    def _check_meant(
        self, run_id: str, definition: WorkflowDefinition, tasks: list[FinishedTaskRun], anew: set[int]
    ) -> None:
        is_whole = run_id in self._check.replay_asked or self._check.is_replay_filtered
        if is_whole and len(anew) == len(tasks):
            return
        names = [task.name for task in definition.all_tasks]
        meant = {
            row.step_index for row in tasks if row.step_index in anew and row.id in self._check.replay_asked
        }
        while True:
            below = {
                index
                for index, task in enumerate(definition.all_tasks)
                if any(names.index(parent) in meant for parent in task.parents)
            }
            if below <= meant:
                break
            meant |= below
        if definition.on_failure_task is not None:
            meant.add(len(names) - 1)
        if meant != anew or not anew:
            self._fail(
                f"a replay of run {run_id} began {sorted(anew)} anew, and was to begin {sorted(meant)}"
            )

    # ------------------------------------------------------------ idempotency keys

    def _claimed(self, batch: Batch, before: Before, now: int) -> None:
        released = {(item.tenant_id, item.key, item.run_id) for item in batch.released_keys}
        for claim in batch.claimed_keys:
            held = before.keys[claim.tenant_id, claim.key]
            if (
                held is not None
                and held.run_id != claim.run_id
                and held.expires_at > now
                and (held.tenant_id, held.key, held.run_id) not in released
            ):
                self._fail(f"two runs hold one idempotency key: {held}, {claim}")
            self.claims[claim.tenant_id, claim.key].append(claim)
        for row in (*batch.finished, *batch.ended):
            run_id = getattr(row, "run_id", None) or row.id  # type: ignore[union-attr]
            head = self._disk.finished[run_id]
            idempotency = self.definition_of(head).idempotency
            if head.idempotency_key is None or idempotency is None or idempotency["method"] != "STATUS":
                continue
            stored = self._disk.idempotency_keys.get((head.tenant_id, head.idempotency_key))
            if stored is not None and stored.run_id == run_id:
                self._fail(f"run {run_id} has ended and still holds {stored}")
            self._sim.chaos.did("key of an ended run free again")

    # ------------------------------------------------------------ time-outs

    def timed_out(self, row_id: str, attempt: int, at: int) -> None:
        """No attempt runs out of time before the deadline that its worker was told last."""
        if at < self.extended.get((row_id, attempt), 0):
            self._fail(f"attempt {attempt} of {row_id} timed out at {at}, before its extended deadline")


def _result(row: FinishedTaskRun) -> tuple[str, int, bytes | None, bytes | None]:
    return row.id, row.state, SKIPPED_OUTPUT if row.state == S.SKIPPED else row.output, row.error
