"""The invariants of a simulation that are checked when all has come to rest: each end has its reason, and nothing is left."""

import json
from collections import Counter
from typing import Any

from broadaxe_actors.claims import Claims
from broadaxe_actors.concurrency_group import ConcurrencyGroup
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.event_router import EventRouter
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.tenant_queue import TenantQueue
from broadaxe_storage.records import FINAL_STATES, RUN_STEP, FinishedTaskRun, TaskRunRow, TaskRunState
from tests.simulation import oracle
from tests.simulation.oracle import End, Pushed
from tests.simulation.record import StoredWaits
from tests.simulation.workflows import FILTERS, LISTENERS, MAY_BE_DISPLACED, MAY_TIME_OUT, kind_of

S = TaskRunState
LATE_US = 300_000
"""How late a wait may end while everything is up: 0.2 s, and a moment for the way there."""
Row = TaskRunRow | FinishedTaskRun
_VERDICTS = {"RAN": "QUEUE", "SKIPPED": "SKIP", "CANCELLED": "CANCEL", "DEAD": "DEAD", "UNCLEAR": "FAIL"}


class Final:
    """See the module."""

    def __init__(self, sim: Any) -> None:
        self._sim = sim
        self._check = sim.check
        self._record = sim.check.record
        self._disk = sim.disk

    def _fail(self, text: str) -> None:
        self._check.fail(text)

    def check(self) -> None:
        """After everything has come to rest."""
        for run_id in self._check.unfinished():
            self._fail(f"an acknowledged run has not ended: {self._check.stored(run_id)}")
        for row in self._disk.live.values():
            self._fail(f"a task run is stuck: {row}; {self._sim.describe(row)}")
        for row in list(self._disk.finished.values()):
            if row.step_index != RUN_STEP:
                self._check_reason(row)
            if row.id == row.run_id:
                self._check_run(row)
        self._check_events()
        self._check_children()
        self._check_keys()
        self._check.timers.final(self._check.stored)
        for gateway in self._sim.gateways:
            for asked, _ in gateway.pending.values():
                self._fail(f"a request was never answered: {asked}")
            for _, run_id in gateway.watches:
                self._fail(f"the end of run {run_id} was never told: {self._check.stored(run_id)}")
        self._check_memory()

    # ------------------------------------------------------------ ends

    def _check_reason(self, row: FinishedTaskRun) -> None:
        """Somebody said so, or something that may end a task run did."""
        kind = kind_of(self._record.task_of(row).name)
        text = (row.error or b"").decode()
        if row.state == S.COMPLETED:
            if row.output not in self._check.reported[row.id, row.attempt]:
                self._fail(f"nobody reported the result of {row}")
        elif row.state == S.FAILED:
            is_reported = row.error in self._check.reported[row.id, row.attempt]
            ours = (
                "whose limit is",
                "was reassigned",
                "exceeded timeout",
                "Traceback",
                "could not be evaluated",
            )
            if not is_reported and not any(part in text for part in ours):
                self._fail(f"nobody reported the failure of {row}")
            self._check_text(row, kind, text)
        elif row.state == S.CANCELLED and "no worker had" in text:
            if kind != "unserved":
                self._fail(f"a task run that has workers was not scheduled: {row}")
        elif row.state == S.CANCELLED and "by concurrency strategy" in text:
            self._check_displaced(row)
        elif row.state == S.CANCELLED and row.assigned_at is not None and not self._is_cancel_asked(row):
            self._fail(f"nobody cancelled {row}")

    def _check_text(self, row: FinishedTaskRun, kind: str, text: str) -> None:
        if "whose limit is" in text:
            if self._record.definition_of(row).name != "rated-much":
                self._fail(f"a task run that wants no more than there is was refused: {row}")
            self._sim.chaos.did("more units than a limit has")
        elif "exceeded timeout" in text:
            if kind not in MAY_TIME_OUT:
                self._fail(f"a task run that was to end by itself timed out: {row}")
            self._record.timed_out(row.id, row.attempt, row.finished_at)

    def _check_displaced(self, row: FinishedTaskRun) -> None:
        if self._record.definition_of(row).name not in MAY_BE_DISPLACED:
            self._fail(f"a group without such a strategy had {row} cancelled")
        self._sim.chaos.did("displaced by a concurrency strategy")

    def _is_cancel_asked(self, row: Row) -> bool:
        asked = self._check.cancel_asked
        head = self._check.stored(row.run_id)
        assert head is not None
        # Children have the metadata of their parents.
        return bool({row.id, row.run_id, json.loads(head.metadata).get("batch")} & asked)

    def _check_run(self, head: FinishedTaskRun) -> None:
        definition = self._record.definition_of(head)
        if head.step_index != RUN_STEP:
            self._judge(head, definition, definition.tasks[0], head, {})
            return
        if head.workflow_version_id not in self._sim.latest_versions.values():
            self._sim.chaos.did("run of an older version ended")
        rows = self._record.tasks_of(head.id)
        for task in definition.tasks:
            self._judge(head, definition, task, rows[task.name], rows)
        if definition.on_failure_task is not None:
            self._judge_on_failure(definition, rows)

    def _judge_on_failure(self, definition: WorkflowDefinition, rows: dict[str, Row]) -> None:
        """It runs when a task has failed for good, and is skipped when none has."""
        assert definition.on_failure_task is not None
        row = rows[definition.on_failure_task.name]
        has_failed = any(rows[task.name].state == S.FAILED for task in definition.tasks)
        is_named = row.state == S.CANCELLED and row.id in self._check.cancel_asked
        if not has_failed and row.state != S.SKIPPED and not is_named:
            self._fail(f"an on-failure task ran, and nothing had failed: {row}")
        if has_failed and row.state == S.SKIPPED:
            self._fail(f"an on-failure task was skipped, and a task had failed: {rows}")
        if has_failed and row.state == S.CANCELLED and not self._is_cancel_asked(row):
            self._fail(f"nobody cancelled {row}")
        self._sim.chaos.did("on-failure task ran" if has_failed else "on-failure task skipped")

    def _judge(
        self,
        head: FinishedTaskRun,
        definition: WorkflowDefinition,
        task: TaskDefinition,
        row: Row,
        rows: dict[str, Row],
    ) -> None:
        """What became of a task is what the oracle says of its parents, events and the clock."""
        ends = [_end_of(name, rows[name]) for name in dict.fromkeys(task.parents)]
        slow = any(
            oracle.may_be_slow(item["expression"]) for item in task.conditions if item["kind"] == "parent"
        )
        said = oracle.outcomes(task, ends, self._record.kept.get(row.id, ()), is_unordered=slow)
        found = _what_became(row)
        waits = self._record.waits.get((row.id, self._record.bases.get(row.id, 0)))
        if found == "ENGINE" or (row.state == S.CANCELLED and self._is_cancel_asked(row)):
            return
        chaos = self._sim.chaos
        expected = _VERDICTS[found]
        is_late = expected in ("SKIP", "CANCEL") and expected not in said and "WAIT" in said
        if waits is not None or is_late:
            if "WAIT" not in said:
                self._fail(f"{row} waited, and its parents say {said}: {ends}")
            if waits is None:
                # It began and ended in one flush, of which the record keeps the end.
                since = max((end.at for end in ends), default=self._base_of(head, row))
                waits = StoredWaits(since, None, {})
            self._judge_waits(head, task, row, ends, waits, found)
            return
        if expected not in said:
            self._fail(f"{row} of {task} should have been {said}, not {found}, by {ends}")
        for verdict, work in (
            ("SKIP", "task skipped by its parents"),
            ("CANCEL", "task cancelled by its parents"),
            ("DEAD", "task that could never start"),
            ("FAIL", "expression on an output failed"),
        ):
            if expected == verdict:
                chaos.did(work)

    # ------------------------------------------------------------ waits

    def _judge_waits(
        self,
        head: FinishedTaskRun,
        task: TaskDefinition,
        row: Row,
        ends: list[End],
        waits: StoredWaits,
        found: str,
    ) -> None:
        """The second stage: decided by what had come when it was decided, and not late."""
        until = waits.until if waits.until is not None else row.finished_at
        assert until is not None
        base = self._base_of(head, row)
        events = self._sure_events(head, task, waits, base)
        possible = events | oracle.events_met(
            task, (item.event for item in self._record.events if self._is_seen(item, row, base, until))
        )
        sleeps = oracle.sleeps_over(task, waits.since, until)
        expected = _VERDICTS[found]
        sets = [events] if waits.until is not None else list(oracle.subsets(events, possible))
        ways = {
            oracle.waits_say(task, ended, met | sleeps)
            for met in sets
            for ended in self._heard(ends, waits.since, until)
        }
        if expected not in ways:
            self._fail(f"{row} of {task} should have been {ways} by its waits {waits}, not {found}")
        if found == "RAN" and waits.until is None:
            self._fail(f"{row} ran, and the record does not say when its waits were over")
        self._note(task, row, waits, events, sleeps, found, base)
        self._check_late(task, row, ends, waits.since, until, base)

    def _heard(self, ends: list[End], since: int, until: int) -> list[dict[str, End]]:
        """Which ends of parents may have counted: those of before the wait, and more and more of those that came in it."""
        sure = {end.name: end for end in ends if end.at <= since}
        ways = [sure]
        for end in sorted((end for end in ends if since < end.at <= until), key=lambda end: end.at):
            ways.append({**ways[-1], end.name: end})
        return ways

    def _base_of(self, head: FinishedTaskRun, row: Row) -> int:
        """Events since then count: since the run was created, or replayed."""
        if row.id in self._record.bases:
            return self._record.anew_at[row.id]
        return head.created_at

    def _is_seen(self, item: Any, row: Row, base: int, until: int) -> bool:
        return item.event.tenant_id == row.tenant_id and base <= item.created_at <= until

    def _sure_events(
        self, head: FinishedTaskRun, task: TaskDefinition, waits: StoredWaits, base: int
    ) -> set[int]:
        """The events that the record says have counted: each was pushed, fits, and did not come too early."""
        conditions = oracle.waits_of(task)
        created = {item.event.payload.get("nonce"): item.created_at for item in self._record.events}
        for number, payload in waits.events.items():
            event: Pushed | None = self._check.pushed.get(payload.get("nonce"))
            if event is None or event.payload != payload or event.tenant_id != head.tenant_id:
                self._fail(f"a wait of {task} was ended by an event that nobody pushed: {payload}")
            elif conditions[number]["kind"] != "event" or not oracle.fits(conditions[number], event):
                self._fail(f"wait {number} of {task} was ended by an event that does not fit: {event}")
            elif created.get(payload["nonce"], base) < base:
                self._fail(f"wait {number} of {task} was ended by an event of before its time: {event}")
        return set(waits.events)

    def _note(
        self,
        task: TaskDefinition,
        row: Row,
        waits: StoredWaits,
        events: set[int],
        sleeps: set[int],
        found: str,
        base: int,
    ) -> None:
        did = self._sim.chaos.did
        did(
            {"RAN": "task queued after waits", "SKIPPED": "task skipped after waits"}.get(
                found, "task cancelled after waits"
            )
        )
        if sleeps:
            did("sleep ended a wait")
        if events:
            did("event ended a wait")
        nonces = {payload.get("nonce") for payload in waits.events.values()}
        if any(
            item.event.payload.get("nonce") in nonces and base <= item.created_at < waits.since
            for item in self._record.events
        ):
            did("event of before the wait counted")

    def _check_late(
        self, task: TaskDefinition, row: Row, ends: list[End], since: int, until: int, base: int
    ) -> None:
        """While everything is up, a wait ends when the first thing that decides it comes."""
        key = (row.id, self._record.bases.get(row.id, 0))
        if key not in self._record.wait_committed_at:
            return
        begun = max(since, self._record.wait_committed_at[key])
        if not self._check.was_calm(begun, until):
            return
        at = self._decided_at(task, row, ends, begun, since, until, base)
        if at is not None and until - at > LATE_US:
            self._fail(f"{row} of {task} waited until {until}, and was to go on at {at}")

    def _decided_at(
        self, task: TaskDefinition, row: Row, ends: list[End], begun: int, since: int, until: int, base: int
    ) -> int | None:
        """The first moment at which what is committed decides a wait."""
        waits = oracle.waits_of(task)
        seen = [item for item in self._record.events if self._is_seen(item, row, base, until)]
        moments = {begun, *(max(begun, item.committed_at) for item in seen)}
        moments |= {
            max(begun, since + oracle.duration_us(item["sleep_for"]))
            for item in waits
            if item["kind"] == "sleep"
        }
        ended = {end.name: end for end in ends if end.at <= since}
        for at in sorted(moments):
            met = oracle.sleeps_over(task, since, at) | oracle.events_met(
                task, (item.event for item in seen if item.committed_at <= at)
            )
            if oracle.waits_say(task, ended, met) != "OPEN":
                return at
        return None

    def check_waiting(self) -> None:
        """Nothing that still waits has missed what it waits for. Called when nothing moves any more."""
        now = self._sim.clock.now()
        for row in list(self._disk.live.values()):
            key = (row.id, self._record.bases.get(row.id, 0))
            waits = self._record.waits.get(key)
            if row.state != S.WAITING or waits is None:
                continue
            head = self._disk.live[row.run_id]
            task = self._record.task_of(row)
            rows = self._record.tasks_of(row.run_id) if row.id != row.run_id else {}
            ends = [
                _end_of(name, rows[name])
                for name in dict.fromkeys(task.parents)
                if name in rows and rows[name].state in FINAL_STATES
            ]
            base = self._base_of(head, row)
            at = self._decided_at(
                task, row, ends, self._record.wait_committed_at[key], waits.since, now, base
            )
            if at is not None and now - at > 5_000_000 and self._check.was_calm(now - 5_000_000, now):
                self._fail(
                    f"{row} of {task} still waits, and was to go on at {at}; {self._sim.describe(row)}"
                )

    # ------------------------------------------------------------ what else must hold

    def _check_events(self) -> None:
        started: dict[str, Counter[tuple[str, int] | None]] = {}
        for row in self._sim.created.values():
            if row.id == row.run_id and row.triggering_event_id is not None:
                by_filter = None
                if row.filter is not None:
                    payload = json.loads(row.filter)["payload"]
                    by_filter = (payload["of"], payload["number"])
                    self._sim.chaos.did("run started by a filter")
                started.setdefault(row.triggering_event_id, Counter())[by_filter] += 1
        for event_id, event in self._check.events.items():
            expected = oracle.runs_of(event, LISTENERS, FILTERS)
            if started.get(event_id, Counter()) != expected:
                self._fail(f"event {event_id} ({event}) started {started.get(event_id)}, not {expected}")

    def _check_children(self) -> None:
        seen: dict[tuple[str, str], str] = {}
        for row in self._sim.created.values():
            if row.parent_task_run_id is not None and row.child_index is not None:
                key = (row.parent_task_run_id, row.child_key or str(row.child_index))
                if key in seen:
                    self._fail(f"spawn key {key} made two children: {seen[key]} and {row.id}")
                seen[key] = row.id
                parent = self._check.stored(row.parent_task_run_id)
                if parent is not None and parent.id != parent.run_id:
                    self._sim.chaos.did("children of a task of several")

    def _check_keys(self) -> None:
        for key in self._disk.idempotency_keys.values():
            row = self._disk.finished.get(key.run_id)
            if row is None:
                self._fail(f"a key is held by a run that does not exist: {key}")
                continue
            idempotency = self._record.definition_of(row).idempotency
            if idempotency is None or idempotency["method"] == "STATUS":
                self._fail(f"run {row.id} has ended and holds {key}")
        now = self._sim.clock.now()
        for claims in self._sim.actors(Claims):
            for name, claim in claims._keys.items():
                stored = self._disk.idempotency_keys.get((claims._tenant_id, name))
                held = claim.run_id if claim is not None and claim.expires_at > now else None
                known = stored.run_id if stored is not None and stored.expires_at > now else None
                if held != known:
                    self._fail(f"key {name!r} is held by {held} in memory, and by {known} in the record")

    def _check_memory(self) -> None:
        """Nothing is left behind in memory: slots, lines, deadlines, waits, bytes."""
        for tracker in self._sim.actors(RunTracker):
            for name, held in (
                ("live task runs", tracker._live),
                ("runs", tracker._runs),
                ("settled task runs", tracker._settled),
                ("ends that nobody has heard of", dict.fromkeys(range(len(tracker._to_progress)))),
                ("counts of what waits or runs", {item.action: item for item in tracker._counts.all()}),
                ("counts of places", dict.fromkeys(tracker._flows.actions())),
                ("asks for places", dict.fromkeys((*tracker._seeking.later, *tracker._seeking.unheld))),
                ("repeated triggers", tracker._creation._repeats),
                ("deadlines", tracker._deadlines._where),
                ("lines", tracker._ledger._lines),
                ("jobs", tracker._creation._jobs),
                ("triggers in slices", dict.fromkeys(tracker._creation._waiting)),
                ("held back", tracker._held_back),
                ("unsaved", tracker._unsaved),
                ("parents with children", dict.fromkeys(tracker._parents_with_children)),
            ):
                if held:
                    self._fail(f"{name} are left in the tracker: {dict(list(held.items())[:5])}")
            groups = [group._key for group in self._sim.actors(ConcurrencyGroup)]
            if groups:
                self._fail(f"concurrency groups are left: {groups}")
            if tracker._ledger._bytes:
                self._fail(f"{tracker._ledger._bytes} bytes are left in the tracker's ledger")
            if tracker._uncommitted_spills:
                self._fail(f"{tracker._uncommitted_spills} uncommitted spills are left in the tracker")
        self._check_neighbours()

    def _check_neighbours(self) -> None:
        for router in self._sim.actors(EventRouter):
            if len(router._waits) or router._waits._by_key:
                self._fail(f"waits are left in the router: {router._waits._by_task_run}")
            if router._apart or router._wait_for_apart:
                self._fail(f"pushes are left in the router: {router._apart}, {router._wait_for_apart}")
            if router._uncommitted or router._to_look_up:
                self._fail(f"events are left in the router: {router._uncommitted}, {router._to_look_up}")
        for queue in self._sim.actors(TenantQueue):
            for worker_id, worker in queue._matcher._workers.items():
                if worker.free != worker.total or worker.held:
                    self._fail(
                        f"worker {worker_id} has {worker.free} free of {worker.total}, and holds {worker.held}"
                    )


def _end_of(name: str, row: Row) -> End:
    assert row.finished_at is not None
    return End(name, row.state, row.output, row.finished_at)


def _what_became(row: Row) -> str:
    """RAN, SKIPPED, CANCELLED, DEAD, UNCLEAR (an expression failed) or ENGINE (quarantined)."""
    text = (row.error or b"").decode()
    if row.state == S.SKIPPED:
        return "SKIPPED"
    if row.state == S.FAILED and "could not be evaluated" in text:
        return "UNCLEAR"
    if row.state == S.FAILED and "Traceback" in text:
        return "ENGINE"
    if row.state == S.CANCELLED and "can never start" in text:
        return "DEAD"
    if row.state == S.CANCELLED and "by concurrency strategy" in text:
        return "RAN"  # its parents had nothing to do with it
    if row.state == S.CANCELLED and row.assigned_at is None and "no worker had" not in text:
        return "CANCELLED"
    return "RAN"
