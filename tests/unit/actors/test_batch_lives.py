"""Hundreds of random lives of batches, through tracker, queue and buffers: each run ends, no limit is broken, and every slot comes back.

The driver delivers messages in any order that keeps those to one actor in line, commits when it likes, and lets an engine crash: what was
not committed is lost then, while the worker goes on with what it holds.
"""

import random
from collections import Counter, deque
from dataclasses import replace

import pytest

from broadaxe_actors.batch_buffer import BatchBuffer
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.messages import (
    CancelRuns,
    HeldAttempt,
    NewRun,
    PutWorkflow,
    ReleaseSlot,
    ReportKind,
    ReportTasks,
    TaskReport,
    TriggerRuns,
)
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.runtime import Actor, Directory
from broadaxe_actors.runtime.clock import SeededRng, VirtualClock
from broadaxe_actors.runtime.testing import Probe, peer
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.states import HELD_STATES
from broadaxe_actors.telemetry import Telemetry
from broadaxe_actors.tenant_queue import TenantQueue
from broadaxe_storage.memory import MemoryStore
from broadaxe_storage.records import (
    FINAL_STATES,
    TaskRunFinish,
    TaskRunRow,
    TaskRunUpdate,
)
from tests.factories import TENANT, new_id

SLOTS = 2
MAX_SIZE = 3
MAX_RUNS = 2
BATCH = {"max_size": MAX_SIZE, "max_interval_ms": 1_000, "group_key": "input.g", "group_max_runs": MAX_RUNS}
CHANGED = tuple(name for name in TaskRunUpdate._fields if name not in ("id", "tenant_id", "expected_attempt"))


class Granter(Actor):
    """Stands for a rate-limit bucket that always has units."""

    def __init__(self, queue, granted):
        super().__init__()
        self._queue = queue
        self._granted = granted

    def ask(self, units):
        self._granted["units"] += units
        self._queue.credits.send("k", units)

    def give_back(self, units):
        self._granted["units"] -= units


class Life:
    """Some runs, one worker, and everything that happens to them."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.clock = VirtualClock()
        self.hits = Counter()
        self.rows = {}
        self.worker_id = new_id()
        self.running = {}
        """What the worker runs: attempt to the batch by which it got it, or None."""
        self.stale = []
        """Reports that may be sent once more."""
        self.requests = 10
        self.keys = {}
        self.begin()
        batch = TaskDefinition(
            "t", "b:t", batch=BATCH, retries=1, execution_timeout="5s", schedule_timeout="30s"
        )
        metered = replace(batch, action="m:t", rate_limits=({"key": "k", "units": 1},))
        alone = TaskDefinition("t", "n:t", execution_timeout="5s")
        for number, (name, task) in enumerate((("b", batch), ("m", metered), ("n", alone))):
            self.call(
                self.tracker,
                "put_workflow",
                self.gateway,
                PutWorkflow(number + 1, TENANT, WorkflowDefinition(name, (task,))),
            )
        self.versions = [record for records, _ in self.journal for record in records]
        self.pump()

    # ------------------------------------------------------------ an engine

    def begin(self):
        """A generation of actors."""
        self.inboxes = {}
        self.journal = deque()
        self.timers = {}
        self.probes = {}
        self.gateway, self.worker = peer("gateway"), peer("worker")
        self.tracker, self.queue = peer("tracker"), peer("queue")
        self.alias = {}
        self.granted, self.metered = Counter(), 0
        tracker = self.add(self.tracker, RunTracker, TENANT, MemoryStore(), ShardSettings(), Telemetry())
        self.add(self.queue, TenantQueue)
        self.buffers = Directory(tracker.runtime, self.spawn_buffer)
        buckets = Directory(tracker.runtime, self.spawn_bucket)
        self.call(self.tracker, "connect", self.queue, peer("claims"), peer("router"), peer("supervisor"))
        self.call(self.tracker, "connect_timetable", peer("timetable"))
        self.call(self.tracker, "connect_buffers", self.buffers)
        self.call(self.tracker, "connect_buckets", buckets)
        self.call(self.queue, "connect_buckets", buckets)
        self.call(self.queue, "connect", self.tracker)
        self.call(self.queue, "connect_buffers", self.buffers)
        self.call(
            self.queue, "put_worker", self.worker_id, frozenset({"b:t", "m:t", "n:t"}), (("default", SLOTS),)
        )
        self.call(self.tracker, "worker_joined", self.worker_id, self.worker)

    def add(self, handle, actor_class, *args):
        probe = Probe(
            actor_class, *args, lane=TENANT, clock=self.clock, rng=SeededRng(self.rng.getrandbits(32))
        )
        self.probes[handle] = probe
        self.alias[probe.handle] = handle
        return probe

    def send(self, sent):
        self.inboxes.setdefault(self.alias.get(sent.to, sent.to), deque()).append((sent.method, sent.args))

    def mail(self):
        """Who has any."""
        return [handle for handle in (*self.probes, self.worker) if self.inboxes.get(handle)]

    def spawn_buffer(self, key):
        handle = peer(f"buffer {key.group}")
        self.new_buffers.append((handle, key))
        return handle

    def spawn_bucket(self, key):
        assert key == "k"
        handle = peer("bucket k")
        self.new_buffers.append((handle, None))
        return handle

    def restart(self):
        """The engine crashes; another reads the record, and the worker comes back to it."""
        self.begin()
        self.held = {}
        self.call(self.tracker, "restore_versions", tuple(self.versions))
        live = sorted(
            (row for row in self.rows.values() if row.state not in FINAL_STATES), key=lambda row: row.seq
        )
        self.call(self.tracker, "restore_seq", max((row.seq for row in self.rows.values()), default=0))
        for row in live:
            self.call(self.tracker, "restore_task_runs", (row,))
        self.call(self.tracker, "restored")
        while self.inboxes.get(self.worker):
            self.deliver_to(self.worker)
        known = dict(self.held)
        for attempt, batch_id in known.items():
            self.running.setdefault(attempt, batch_id)  # it is sent again
        # What has ended is told by a look-up in Postgres, which is not played here.
        self.running = {
            item: batch_id for item, batch_id in self.running.items() if self.is_known(item.task_run_id)
        }
        unknown = tuple(attempt for attempt in self.running if attempt not in known)
        if unknown:
            self.call(self.tracker, "adopt", self.worker_id, unknown)
        self.call(self.queue, "set_open", self.worker_id, True)

    def call(self, handle, method, *args):
        probe = self.probes[handle]
        self.new_buffers = []
        said = probe.call(method, *args)
        for buffer, key in self.new_buffers:
            if key is None:
                self.add(buffer, Granter, self.queue, self.granted)
                continue
            self.add(buffer, BatchBuffer, key, self.queue, self.tracker, 100_000)
            self.keys[buffer] = key
        for sent in said.sends:
            self.send(sent)
        self.journal.append((said.records, said.effects))
        for key in said.cancelled:
            self.timers.pop((handle, key), None)
        for timer in said.timers:
            self.timers[handle, timer.key] = (self.clock.monotonic() + timer.delay_us, timer)
        assert not said.fetches
        if said.is_retiring and not self.inboxes.get(handle):
            self.retire(handle)
        if handle is self.tracker:
            self.check_limits()

    def retire(self, handle):
        self.hits["retired"] += 1
        self.buffers.forget(self.keys[handle])
        del self.probes[handle]
        self.timers = {key: timer for key, timer in self.timers.items() if key[0] is not handle}

    # ------------------------------------------------------------ invariants

    def check_limits(self):
        book = self.probes[self.tracker].actor._batches
        # What a worker has by batches that were lost in a crash is counted, but came without a slot.
        running = [batch for batch in book.running.values() if not batch.is_adopted]
        assert all(batch.members for batch in book.running.values())
        assert max(Counter(batch.key for batch in running if batch.key).values(), default=0) <= MAX_RUNS
        if not self.hits["restart"]:
            held = [
                task for task in self.probes[self.tracker].actor._live.values() if task.state in HELD_STATES
            ]
            alone = [task for task in held if task.batching is None and not task.is_slot_released]
            assert sum(bool(batch.holding) for batch in running) + len(alone) <= SLOTS

    def check_batch(self, start):
        assert 1 <= len(start.members) <= MAX_SIZE
        assert {item.input for item in start.members} == {b'{"g":"%s"}' % start.key.encode()}

    # ------------------------------------------------------------ steps

    def deliver_to(self, handle):
        method, args = self.inboxes[handle].popleft()
        if handle in self.probes:
            self.call(handle, method, *args)
        elif handle is self.worker:
            self.take_by_worker(method, args)

    def take_by_worker(self, method, args):
        if method == "start_batches":
            for start in args[0]:
                self.check_batch(start)
                self.metered += sum(item.step.action == "m:t" for item in start.members)
                assert self.metered <= self.granted["units"]
                self.running.update(
                    (HeldAttempt(item.task_run_id, item.attempt), start.batch_id) for item in start.members
                )
        elif method == "start_tasks":
            self.running.update((HeldAttempt(item.task_run_id, item.attempt), None) for item in args[0])
            assert all(item.step.action == "n:t" for item in args[0])
        elif method == "holds_batches":
            for start, _ in args[0]:
                self.held.update(
                    (HeldAttempt(item.task_run_id, item.attempt), start.batch_id) for item in start.members
                )
        elif method == "holds":
            self.held.update((HeldAttempt(item.task_run_id, item.attempt), None) for item, _ in args[0])
        elif method == "cancel":
            for order in args[0]:
                self.running.pop(HeldAttempt(order.task_run_id, order.attempt), None)

    def deliver(self):
        self.deliver_to(self.rng.choice(self.mail()))

    def commit(self):
        records, effects = self.journal.popleft()
        for record in records:
            if isinstance(record, TaskRunRow):
                self.rows[record.id] = record
            elif isinstance(record, TaskRunUpdate):
                row = self.rows[record.id]
                assert row.attempt == record.expected_attempt
                self.rows[record.id] = row._replace(**{name: getattr(record, name) for name in CHANGED})
            elif isinstance(record, TaskRunFinish):
                row = self.rows[record.id]
                assert row.attempt == record.expected_attempt
                assert row.state not in FINAL_STATES
                self.rows[record.id] = row._replace(state=record.state, attempt=record.attempt)
        for sent in effects:
            self.send(sent)

    def trigger(self):
        self.requests += 1
        runs = []
        for _ in range(self.rng.randint(1, 4)):
            name, group = self.rng.choice((("b", b"x"), ("b", b"y"), ("m", b"x"), ("n", b"z")))
            runs.append(NewRun(name, b'{"g":"%s"}' % group, "{}", new_id(), self.rng.choice((None, 3))))
        self.call(self.tracker, "trigger", self.gateway, TriggerRuns(self.requests, TENANT, tuple(runs)))

    def say(self, *reports):
        self.requests += 1
        self.call(
            self.tracker, "report", self.gateway, ReportTasks(self.requests, TENANT, self.worker_id, reports)
        )

    def is_known(self, task_run_id):
        return self.probes[self.tracker].actor._is_known(task_run_id)

    def report(self):
        attempt = self.rng.choice(list(self.running))
        batch_id = self.running[attempt]
        kind = self.rng.choice([ReportKind.STARTED] * 3 + [ReportKind.COMPLETED] * 4 + [ReportKind.FAILED])
        number = attempt.attempt if batch_id is None or self.rng.random() < 0.5 else None
        report = TaskReport(attempt.task_run_id, number, kind, b"{}", batch_id=batch_id or "")
        if kind != ReportKind.STARTED:
            del self.running[attempt]
            self.stale.append(report)
        if self.is_known(report.task_run_id):
            self.say(report)

    def repeat(self):
        report = self.rng.choice(self.stale)
        if self.is_known(report.task_run_id):
            self.say(report)

    def timer(self):
        (handle, key), (at, timer) = self.rng.choice(
            sorted(self.timers.items(), key=lambda item: item[1][0])[:3]
        )
        del self.timers[handle, key]
        self.clock.advance(max(0, at - self.clock.monotonic()))
        self.call(handle, timer.method, *timer.args)

    def lose(self):
        held = tuple(item for item in self.running if self.rng.random() < 0.7)
        for item in held:
            del self.running[item]
        self.call(self.tracker, "worker_lost", self.worker_id, held, "gone")

    def cancel(self):
        self.requests += 1
        live = list(self.probes[self.tracker].actor._live)
        if live:
            ids = tuple(self.rng.sample(live, min(2, len(live))))
            self.call(self.tracker, "cancel_runs", self.gateway, CancelRuns(self.requests, TENANT, ids))

    def release(self):
        self.requests += 1
        attempt = self.rng.choice(list(self.running))
        self.call(
            self.tracker,
            "release_slot",
            self.gateway,
            ReleaseSlot(self.requests, TENANT, attempt.task_run_id),
        )

    def pause(self):
        self.call(self.queue, "set_open", self.worker_id, self.rng.random() < 0.7)

    # ------------------------------------------------------------ a life

    def pump(self):
        """Until nobody has anything to say."""
        while self.mail() or self.journal:
            if self.journal and (not self.mail() or self.rng.random() < 0.5):
                self.commit()
            else:
                self.deliver()

    def step(self):
        rng = self.rng
        choices = ["deliver"] * (12 * bool(self.mail())) + ["commit"] * (6 * bool(self.journal))
        choices += ["report"] * (3 * bool(self.running)) + ["trigger"]
        choices += ["timer"] * bool(self.timers) + ["repeat"] * (bool(self.stale) and rng.random() < 0.2)
        choices += ["lose", "cancel", "pause"] * (rng.random() < 0.15)
        choices += ["release"] * (bool(self.running) and rng.random() < 0.2)
        choices += ["restart"] * (rng.random() < 0.02)
        what = rng.choice(choices)
        self.hits[what] += 1
        getattr(self, what)()

    def live(self):
        self.call(self.queue, "set_open", self.worker_id, True)
        for _ in range(400):
            self.step()
        self.call(self.queue, "set_open", self.worker_id, True)
        for _ in range(2_000):
            self.pump()
            if not self.probes[self.tracker].actor._live:
                break
            self.report() if self.running and self.rng.random() < 0.7 else self.timer()
        self.pump()
        self.check_end()

    def check_end(self):
        actor = self.probes[self.tracker].actor
        assert not actor._live
        assert all(row.state in FINAL_STATES for row in self.rows.values())
        assert actor._batches.running == {}
        assert not actor._batches.has_work
        assert actor._ledger.lines() == []
        assert actor._counts.all() == []
        queue = self.probes[self.queue].actor
        assert queue.slots_of(self.worker_id) == ({"default": SLOTS}, {"default": SLOTS})
        assert queue._tickets == {}
        assert len(self.buffers) == 0


@pytest.mark.parametrize("block", range(5))
def test_every_life_with_batches_ends_and_every_slot_comes_back(block):
    hits = Counter()
    for seed in range(block * 40, block * 40 + 40):
        life = Life(seed)
        try:
            life.live()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        hits += life.hits
        hits["metered"] += life.metered
    assert {"restart", "lose", "cancel", "release", "repeat", "pause", "retired"} <= set(hits)
    assert hits["metered"]
