"""Thousands of random lives of random runs, through the tracker alone: each ends once, in one state, and nothing runs after its end.

The driver delivers what the tracker sends itself in random order among workers' reports, deadlines, events and cancels. What it records is
kept in a book that checks every transition against the table, as the journal's guards would.
"""

import random
from collections import Counter

import pytest

from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition, validate
from broadaxe_actors.matching import Proposal, Ready
from broadaxe_actors.messages import (
    CancelRuns,
    NewRun,
    PutWorkflow,
    ReportKind,
    ReportTasks,
    RunFinished,
    TaskReport,
    TriggerRuns,
    WatchRuns,
)
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.runtime.testing import Probe, peer
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.states import TRANSITIONS, is_final, run_state
from broadaxe_actors.telemetry import Telemetry
from broadaxe_storage.memory import MemoryStore
from broadaxe_storage.records import (
    FINAL_STATES,
    RUN_STEP,
    RunFinish,
    TaskRunFinish,
    TaskRunRow,
    TaskRunSettle,
    TaskRunState,
    TaskRunUpdate,
)
from tests.factories import TENANT, new_id

S = TaskRunState
REACHABLE = {(before, after) for (before, _), after in TRANSITIONS.items()}
OUTPUTS = (b'{"n":1}', b'{"n":9}', b"", b"null", b'{"skipped":true}', b"[1]")


def make_workflow(rng: random.Random) -> WorkflowDefinition:
    """Up to nine tasks in random order of dependence, with conditions of every kind here and there."""
    count = rng.randint(2, 9)
    tasks = []
    for index in range(count):
        parents = tuple(f"t{other}" for other in range(index) if rng.random() < 0.35)
        tasks.append(
            TaskDefinition(
                f"t{index}",
                f"w:t{index}",
                parents=parents,
                retries=rng.choice((0, 0, 1)),
                conditions=tuple(make_conditions(rng, parents)),
            )
        )
    on_failure = TaskDefinition("cleanup", "w:cleanup") if rng.random() < 0.4 else None
    definition = WorkflowDefinition("w", tuple(tasks), on_failure_task=on_failure)
    validate(definition)
    return definition


def make_conditions(rng: random.Random, parents: tuple[str, ...]):
    groups = [new_id() for _ in range(2)]
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        base = {
            "action": rng.choice(("QUEUE", "QUEUE", "SKIP", "CANCEL")),
            "or_group_id": rng.choice(groups),
            "expression": "",
        }
        kind = rng.choice(("parent", "sleep", "event"))
        if kind == "parent" and parents:
            parent = rng.choice(parents)
            expression = rng.choice(("", "output.n > 5.0", "has(output.n) && output.n < 5.0"))
            yield {
                **base,
                "kind": "parent",
                "parent": parent,
                "readable_data_key": parent,
                "expression": expression,
            }
        elif kind == "sleep":
            yield {
                **base,
                "kind": "sleep",
                "sleep_for": rng.choice(("1s", "5s")),
                "readable_data_key": "sleep",
            }
        elif kind == "event":
            yield {**base, "kind": "event", "event_key": "go", "event_scope": None, "readable_data_key": "go"}


class Book:
    """The record: rows by id, and what was ever said of them."""

    def __init__(self) -> None:
        self.states: dict[str, S] = {}
        self.attempts: dict[str, int] = {}
        self.live_rows: set[str] = set()
        self.ended_run: RunFinish | TaskRunFinish | None = None

    def write(self, record: object) -> None:
        assert self.ended_run is None, f"{record} after the end of its run"
        if isinstance(record, TaskRunRow):
            if record.step_index != RUN_STEP:
                assert record.id not in self.states
                self.states[record.id] = S(record.state)
                self.attempts[record.id] = record.attempt
        elif isinstance(record, TaskRunUpdate | TaskRunSettle):
            before, after = self.states[record.id], S(record.state)
            assert self.attempts[record.id] == record.expected_attempt
            assert before not in FINAL_STATES
            assert before == after or self._reachable(before, after), f"{before.name} to {after.name}"
            self.states[record.id], self.attempts[record.id] = after, record.attempt
        elif isinstance(record, RunFinish):
            assert all(is_final(state) for state in self.states.values())
            assert record.task_count == len(self.states)
            assert record.state == run_state(self.states.values())
            self.ended_run = record

    def _reachable(self, before: S, after: S) -> bool:
        # Records of transitions that did not last may be left out, so a path is enough.
        seen, front = {before}, {before}
        while front:
            front = {b for a, b in REACHABLE if a in front and a not in FINAL_STATES} - seen
            seen |= front
        return after in seen


class Life:
    """One run and everything that happens to it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.hits: Counter[str] = Counter()
        self.book = Book()
        self.probe = Probe(RunTracker, TENANT, MemoryStore(), ShardSettings(), Telemetry(), lane=TENANT)
        self.queue, self.claims, self.router = peer("queue"), peer("claims"), peer("router")
        self.supervisor, self.gateway, self.worker = peer("supervisor"), peer("gateway"), peer("worker")
        self.inbox: list[tuple[str, tuple]] = []
        self.ready: dict[str, Ready] = {}
        self.running: dict[str, int] = {}
        self.waits: dict[tuple[str, int], list[int]] = {}
        self.timers: dict[object, object] = {}
        self.finished: list[RunFinished] = []
        self.requests = 10
        self.definition = make_workflow(rng)
        self.call("connect", self.queue, self.claims, self.router, self.supervisor)
        self.call("connect_timetable", peer("timetable"))
        self.call("worker_joined", "worker", self.worker)
        self.call("put_workflow", self.gateway, PutWorkflow(1, TENANT, self.definition))
        self.run_id = new_id()
        self.call(
            "trigger", self.gateway, TriggerRuns(2, TENANT, (NewRun("w", b'{"a":1}', run_id=self.run_id),))
        )
        self.call("watch", self.gateway, WatchRuns(TENANT, (self.run_id,)))

    def call(self, method: str, *args: object) -> None:
        self.take(self.probe.call(method, *args))

    def take(self, said) -> None:  # noqa: C901 - one case a receiver
        for record in said.records:
            self.book.write(record)
        for sent in (*said.sends, *said.effects):
            if sent.to is self.probe.handle:
                self.inbox.append((sent.method, sent.args))
            elif sent.to is self.queue and sent.method == "enqueue":
                self.ready.update((item.task_run_id, item) for item in sent.args[0])
            elif sent.to is self.worker and sent.method == "start_tasks":
                for assignment in sent.args[0]:
                    assert self.book.ended_run is None
                    self.running[assignment.task_run_id] = assignment.attempt
            elif sent.to is self.router and sent.method == "add_waits":
                for wait in sent.args[0]:
                    self.waits.setdefault((wait.task_run_id, wait.attempt), []).append(wait.number)
            elif sent.to is self.gateway and sent.method == "deliver":
                self.finished += [item for item in sent.args[0] if isinstance(item, RunFinished)]
        for key in said.cancelled:
            self.timers.pop(key, None)
        for timer in said.timers:
            self.timers[timer.key] = timer
        assert not said.fetches

    def step(self) -> None:
        """Something happens."""
        choices = []
        choices += ["deliver"] * (3 * bool(self.inbox))
        choices += ["propose"] * (2 * bool(self.ready))
        choices += ["report"] * (2 * bool(self.running))
        choices += ["event"] * bool(self.waits)
        is_idle = not (self.inbox or self.ready or self.running)
        choices += ["timer"] * bool(self.timers and (is_idle or self.rng.random() < 0.15))
        choices += ["lose"] * bool(self.running and self.rng.random() < 0.1)
        choices += ["cancel"] * bool(self.rng.random() < 0.02)
        if not choices:
            return
        what = self.rng.choice(choices)
        self.hits[what] += 1
        getattr(self, what)()

    def deliver(self) -> None:
        method, args = self.inbox.pop(0)
        self.call(method, *args)

    def propose(self) -> None:
        item = self.ready.pop(self.rng.choice(list(self.ready)))
        self.call("propose", (Proposal(item.task_run_id, item.attempt, "worker", item.demand.slots),))

    def report(self) -> None:
        task_run_id = self.rng.choice(list(self.running))
        attempt = self.running[task_run_id]
        kinds = [ReportKind.STARTED] * 4 + [ReportKind.COMPLETED] * 10 + [ReportKind.FAILED]
        kind = self.rng.choice(kinds)
        if kind != ReportKind.STARTED and self.rng.random() < 0.8:
            del self.running[task_run_id]  # else it will be reported again, which must change nothing
        payload = self.rng.choice(OUTPUTS) if kind == ReportKind.COMPLETED else b"boom"
        self.requests += 1
        report = TaskReport(task_run_id, attempt, kind, payload)
        self.call("report", self.gateway, ReportTasks(self.requests, TENANT, "worker", (report,)))

    def event(self) -> None:
        (task_run_id, attempt), numbers = self.rng.choice(list(self.waits.items()))
        if self.rng.random() < 0.5:
            self.call("waits_checked", ((task_run_id, attempt),))
        else:
            self.call("waits_met", ((task_run_id, attempt, self.rng.choice(numbers), '{"x":1}'),))
        if self.rng.random() < 0.3:
            self.call("waits_checked", ((task_run_id, attempt),))
            del self.waits[task_run_id, attempt]

    def timer(self) -> None:
        timer = self.timers.pop(self.rng.choice(list(self.timers)))
        self.take(self.probe.fire(timer))

    def lose(self) -> None:
        from broadaxe_actors.messages import HeldAttempt

        held = tuple(HeldAttempt(*item) for item in self.running.items())
        self.running.clear()
        self.call("worker_lost", "worker", held, "gone")

    def cancel(self) -> None:
        self.requests += 1
        known = [self.run_id, *self.book.states]
        self.call("cancel_runs", self.gateway, CancelRuns(self.requests, TENANT, (self.rng.choice(known),)))

    def live(self) -> None:
        for _ in range(3_000):
            if self.book.ended_run is not None and not self.inbox:
                break
            self.step()
            if not (self.inbox or self.ready or self.running or self.timers):
                for (task_run_id, attempt), numbers in list(self.waits.items()):
                    self.call("waits_checked", ((task_run_id, attempt),))
                    for number in numbers:
                        self.call("waits_met", ((task_run_id, attempt, number, "{}"),))
                    del self.waits[task_run_id, attempt]
        assert self.book.ended_run is not None, self.stuck()
        while self.inbox:
            self.deliver()
        (finished,) = self.finished
        assert finished.run_id == self.run_id
        assert finished.state == self.book.ended_run.state
        names = [result.task_name for result in finished.results]
        assert sorted(names) == sorted(task.name for task in self.definition.all_tasks)
        tracker = self.probe.actor
        assert not tracker._live
        assert not tracker._runs
        assert not tracker._settled
        assert tracker._ledger._bytes == 0
        assert tracker._ledger.lines() == []

    def stuck(self) -> str:
        return f"{self.definition}\n{self.book.states}"


@pytest.mark.parametrize("block", range(20))
def test_every_life_of_a_run_ends_once_and_nothing_is_left(block):
    hits: Counter[str] = Counter()
    for seed in range(block * 100, block * 100 + 100):
        life = Life(seed)
        try:
            life.live()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        hits += life.hits
    assert set(hits) == {"deliver", "propose", "report", "event", "timer", "lose", "cancel"}
