"""Runs in every state, a kill -9 of the engine, and each goes on as if nothing had happened, deadlines kept to within a second.

One kill serves all tests here: the fixture brings a run into each state, notes when what it waits for is due, kills, restarts, and listens to
the workers. A test then looks at its run.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.calls import (
    BATCH,
    QUEUE,
    SKIP,
    START,
    STOP,
    Step,
    all_of,
    by_event,
    by_parent,
    by_sleep,
    cancel,
    payload_of,
    push,
    put,
    refresh,
    release,
    replay,
    results_of,
    send_batch,
)
from tests.compat.wire import Wire, code_of, unique
from tests.processes import Server, closing, server_directory, wait_until

pytestmark = pytest.mark.timeout(180)

LATER = 15.0
"""Seconds of every deadline that is to be met after the restart: more than it takes to prepare, kill and restart on a busy machine."""
SOON = 1.0
"""Seconds of every deadline that passes while the engine is down."""
EARLY, LATE = 0.2, 1.0
"""How far off a deadline may be met, in seconds."""
STARTED, COMPLETED = dispatcher.STEP_EVENT_TYPE_STARTED, dispatcher.STEP_EVENT_TYPE_COMPLETED
Item = dispatcher.BatchActionEventItem


class Hand:
    """A worker that outlives the engine: registered once, it listens again, beats, and writes down what arrives and when."""

    def __init__(self, wire: Wire, *actions: str, slots: int = 100) -> None:
        self.id = wire.register(*actions, slots=slots)
        self.arrived: list[tuple[float, dispatcher.AssignedAction]] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.listen(wire)

    def listen(self, wire: Wire) -> None:
        self._over = threading.Event()
        stream = wire.listen(self.id)
        over = self._over

        def read() -> None:
            while not over.is_set():
                try:
                    action = stream.next(timeout=0.2)
                except AssertionError as nothing:
                    if "ended" in str(nothing):
                        return
                    continue
                self.arrived.append((time.monotonic(), action))

        def beat() -> None:
            while True:
                try:
                    wire.heartbeat(self.id)
                except (grpc.RpcError, ValueError):
                    return  # the engine is gone, or the channel was closed
                if over.wait(1.0):
                    return

        self._threads = [threading.Thread(target=work, daemon=True) for work in (read, beat)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=20)

    def actions(
        self, task: str | None = None, kind: Any = START
    ) -> list[tuple[float, dispatcher.AssignedAction]]:
        return [
            (at, action)
            for at, action in list(self.arrived)
            if action.action_type == kind and task in (None, action.task_name)
        ]

    def wait(
        self, task: str | None = None, kind: Any = START, *, count: int = 1, timeout: float = LATER + 20
    ) -> tuple[float, dispatcher.AssignedAction]:
        """When the `count`th action of that kind for a task arrived, and the action."""

        def found() -> list[Any] | None:
            seen = self.actions(task, kind)
            return seen if len(seen) >= count else None

        what = f"action {count} of kind {kind} for {task}"
        seen: list[tuple[float, dispatcher.AssignedAction]] = wait_until(found, what=what, timeout=timeout)
        return seen[count - 1]


class Scene:
    """One run in one state."""

    def __init__(self, stage: "Stage", *steps: Step, slots: int = 100, **fields: Any) -> None:
        self.stage = stage
        self.name = unique("survives")
        self.hand = Hand(stage.wire, *put(stage.wire, self.name, *steps, **fields), slots=slots)
        stage.hands.append(self.hand)
        self.due = 0.0
        """When what the run waits for is to happen, on the clock of `time.monotonic`."""
        self.run_id = ""

    def trigger(self, value: str = '{"n": 1}', **fields: Any) -> str:
        self.run_id = self.stage.wire.trigger(self.name, value, **fields)
        return self.run_id

    def started(self, task: str, count: int = 1) -> dispatcher.AssignedAction:
        """The start of a task, reported as begun, as a worker does."""
        action = self.hand.wait(task, count=count)[1]
        self.stage.wire.report(action, STARTED, worker_id=self.hand.id)
        return action

    def complete(self, action: dispatcher.AssignedAction, output: str = '{"v": 1}') -> None:
        self.stage.wire.complete(action, output, worker_id=self.hand.id)

    def assert_on_time(self, at: float) -> None:
        """It happened when it was due, or as soon as the engine was back if it was due before that."""
        expected = max(self.due, self.stage.back_at)
        assert expected - EARLY <= at <= expected + LATE, f"{at - expected:+.2f} s off"


class Stage:
    """The server, and what is going on in it when it is killed."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.wire = Wire(server.grpc_address, server.token)
        self.hands: list[Hand] = []
        self.back_at = 0.0
        self.scenes: dict[str, Scene] = {}
        self.kept: dict[str, Any] = {}
        self.ended: dict[str, float] = {}

    def __getitem__(self, name: str) -> Scene:
        return self.scenes[name]

    def close(self) -> None:
        for hand in self.hands:
            hand.stop()
        self.wire.close()

    # ---- a state each

    def prepare(self) -> None:
        """The runs whose deadlines pass in the downtime come last."""
        for name, bring in PREPARED.items():
            self.scenes[name] = bring(self)

    def kill_and_restart(self, kill: Callable[[Server], None]) -> None:
        for hand in self.hands:
            hand.stop()
        self.wire.close()
        kill(self.server)
        self.server.restart()
        self.back_at = time.monotonic()
        self.wire = Wire(self.server.grpc_address, self.server.token)
        for hand in self.hands:
            hand.listen(self.wire)
        self._watch_ends()
        for scene in self.scenes.values():  # what is under way says so, as workers do after a break
            for _, action in scene.hand.actions():
                self.wire.report(action, STARTED, worker_id=scene.hand.id)
            for _, batch in scene.hand.actions(kind=BATCH):
                items = [Item(task_run_external_id=member) for member in payload_of(batch)]
                send_batch(self.wire, batch, STARTED, items, scene.hand.id)

    def _watch_ends(self) -> None:
        """Writes down when each run ends, from now on."""
        stream = self.wire.runs(*(scene.run_id for scene in self.scenes.values()))

        def read() -> None:
            while True:
                try:
                    event = stream.next(timeout=600)
                except AssertionError:
                    return  # the stream ends with the stage
                self.ended[event.workflow_run_id] = time.monotonic()

        threading.Thread(target=read, daemon=True).start()

    def end_of(self, run_id: str) -> float:
        """When a run ended, on the clock of `time.monotonic`."""
        return wait_until(lambda: self.ended.get(run_id), what=f"run {run_id} to end", timeout=LATER + 20)


PREPARED: dict[str, Callable[[Stage], Scene]] = {}


def scene(bring: Callable[[Stage], Scene]) -> Callable[[Stage], Scene]:
    PREPARED[bring.__name__] = bring
    return bring


@scene
def waiting_on_parent(stage: Stage) -> Scene:
    one = Scene(stage, Step("top"), Step("low", ["top"]))
    one.trigger()
    one.started("top")
    return one


@scene
def waiting_on_second_parent(stage: Stage) -> Scene:
    one = Scene(stage, Step("left"), Step("right"), Step("low", ["left", "right"]))
    one.trigger()
    one.complete(one.started("left"), '{"v": "left"}')
    one.started("right")
    return one


@scene
def sleeping(stage: Stage) -> Scene:
    one = Scene(stage, Step("top"), Step("low", ["top"], by_sleep(QUEUE, f"{LATER:.0f}s")))
    one.trigger()
    one.complete(one.started("top"))
    one.due = time.monotonic() + LATER
    return one


@scene
def waiting_for_event(stage: Stage) -> Scene:
    key = unique("event")
    one = Scene(stage, Step("top"), Step("low", ["top"], by_event(QUEUE, key, "input.right", key="told")))
    one.trigger()
    one.complete(one.started("top"))
    stage.kept["waiting_for_event"] = key
    return one


@scene
def event_came_before_parents_ended(stage: Stage) -> Scene:
    key = unique("event")
    one = Scene(stage, Step("top"), Step("low", ["top"], by_event(QUEUE, key, key="told")))
    one.trigger()
    one.started("top")
    push(stage.wire, key, {"early": True})
    return one


@scene
def half_of_two_groups(stage: Stage) -> Scene:
    """Its event has come; its sleep is not over."""
    key = unique("event")
    both = all_of(by_event(QUEUE, key, key="told"), by_sleep(QUEUE, f"{LATER:.0f}s"))
    one = Scene(stage, Step("top"), Step("low", ["top"], both))
    one.trigger()
    one.complete(one.started("top"))
    one.due = time.monotonic() + LATER
    push(stage.wire, key, {"kept": True})
    return one


@scene
def skipped_by_event_later(stage: Stage) -> Scene:
    key = unique("event")
    both = all_of(by_event(SKIP, key), by_sleep(QUEUE, "10m"))
    one = Scene(stage, Step("top"), Step("low", ["top"], both), Step("last", ["top", "low"]))
    one.trigger()
    one.complete(one.started("top"))
    stage.kept["skipped_by_event_later"] = key
    return one


@scene
def already_skipped(stage: Stage) -> Scene:
    skip = by_parent(SKIP, "top", "output.v == 1")
    one = Scene(stage, Step("top"), Step("low", ["top"], skip), Step("aside"), Step("last", ["low", "aside"]))
    one.trigger()
    one.started("aside")
    one.complete(one.started("top"))
    return one


@scene
def backing_off(stage: Stage) -> Scene:
    one = Scene(stage, Step("only", fields={"retries": 3, "backoff_factor": LATER}))
    one.trigger()
    stage.wire.fail(one.started("only"), "once", worker_id=one.hand.id)
    one.due = time.monotonic() + LATER
    return one


@scene
def running(stage: Stage) -> Scene:
    one = Scene(stage, Step("only", fields={"timeout": "10m"}))
    one.trigger()
    one.started("only")
    return one


@scene
def cancelling(stage: Stage) -> Scene:
    one = Scene(stage, Step("top"), Step("low", ["top"]))
    one.trigger()
    one.started("top")
    return one  # its cancel comes last of all: see `survived`


@scene
def timing_out(stage: Stage) -> Scene:
    one = Scene(stage, Step("only", fields={"timeout": f"{LATER:.0f}s", "retries": 1}))
    one.trigger()
    one.started("only")
    one.due = time.monotonic() + LATER
    return one


@scene
def timing_out_refreshed(stage: Stage) -> Scene:
    one = Scene(stage, Step("only", fields={"timeout": "5s"}))
    one.trigger()
    one.started("only")
    one.due = time.monotonic() + LATER
    refresh(stage.wire, one.run_id, f"{LATER - 5:.0f}s")
    return one


@scene
def waiting_for_a_worker(stage: Stage) -> Scene:
    one = Scene(
        stage, Step("only", fields={"schedule_timeout": f"{LATER:.0f}s", "slot_requests": {"default": 500}})
    )
    one.trigger()
    one.due = time.monotonic() + LATER
    return one


@scene
def slot_released(stage: Stage) -> Scene:
    one = Scene(stage, Step("only", fields={"timeout": "10m"}), slots=1)
    one.trigger()
    one.started("only")
    release(stage.wire, one.run_id)
    return one


@scene
def failing_later(stage: Stage) -> Scene:
    one = Scene(stage, Step("bad"), Step("low", ["bad"]), on_failure=Step("oops"))
    one.trigger()
    one.started("bad")
    return one


@scene
def replayed(stage: Stage) -> Scene:
    """One branch is being replayed; the other keeps its result."""
    one = Scene(stage, Step("left"), Step("right"), Step("low", ["left", "right"]))
    one.trigger()
    one.complete(one.started("right"), '{"v": "kept"}')
    stage.wire.fail(one.started("left"), "no", worker_id=one.hand.id)
    results = results_of(stage.wire, one.run_id)
    replay(stage.wire, results["left"].task_run_external_id)
    one.started("left", count=2)
    return one


@scene
def spawning(stage: Stage) -> Scene:
    one = Scene(stage, Step("only", fields={"timeout": "10m"}))
    one.trigger()
    one.started("only")
    stage.kept["spawning"] = stage.wire.trigger(
        one.name, parent_task_run_external_id=one.run_id, child_index=0
    )
    return one


@scene
def claimed(stage: Stage) -> Scene:
    config = v1.IdempotencyConfig(expression="input.key", ttl_ms=600_000, method=v1.STATUS)
    one = Scene(stage, Step("only", fields={"timeout": "10m"}), idempotency=config)
    stage.kept["claimed"] = json.dumps({"key": unique("key")})
    one.trigger(stage.kept["claimed"])
    one.started("only")
    return one


@scene
def gathering_a_batch(stage: Stage) -> Scene:
    config = v1.TaskBatchConfig(batch_max_size=2, batch_max_interval_ms=600_000)
    one = Scene(stage, Step("only", fields={"batch": config}))
    one.trigger()
    return one


@scene
def running_a_batch(stage: Stage) -> Scene:
    config = v1.TaskBatchConfig(batch_max_size=2, batch_max_interval_ms=600_000)
    one = Scene(stage, Step("only", fields={"batch": config, "timeout": "10m"}))
    one.trigger()
    stage.kept["running_a_batch"] = (one.run_id, one.trigger())
    one.hand.wait(kind=BATCH)
    return one


@scene
def due_while_down(stage: Stage) -> Scene:
    """A sleep, a back-off and two timeouts that are over before the engine is back."""
    duration = f"{SOON:.0f}s"
    one = Scene(
        stage,
        Step("slept", conditions=by_sleep(QUEUE, duration)),
        Step("again", fields={"retries": 1, "backoff_factor": 1.0}),
        Step("slow", fields={"timeout": duration}),
        Step("starved", fields={"schedule_timeout": duration, "slot_requests": {"default": 500}}),
    )
    one.trigger()
    again, slow = one.started("again"), one.started("slow")
    stage.wire.fail(again, "once", worker_id=one.hand.id)
    assert slow.retry_count == 0
    one.due = time.monotonic() + SOON
    return one


# ---- the kill


def kill_engine(server: Server) -> None:
    server.kill9()


def kill_both(server: Server) -> None:
    """Postgres goes down with the engine, as at a power cut; the engine's start brings it back."""
    server.kill9()
    server.postgres_kill9()


@pytest.fixture(
    scope="module",
    params=[kill_engine, pytest.param(kill_both, marks=pytest.mark.slow)],
    ids=["engine", "both"],
)
def survived(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with server_directory() as directory, closing(server := Server(directory)):
        stage = Stage(server.start())
        try:
            stage.prepare()
            cancel(stage.wire, stage["cancelling"].run_id)
            stage.kill_and_restart(request.param)
            yield stage
        finally:
            stage.close()


# ---- what has become of each; those whose deadlines are near come first


def test_what_was_due_in_the_downtime_happens_at_once(survived: Stage) -> None:
    one = survived["due_while_down"]
    for task, count in (("slept", 1), ("again", 2)):
        at, action = one.hand.wait(task, count=count)
        one.assert_on_time(at)
        one.complete(action)
    results = results_of(survived.wire, one.run_id, timeout=30)
    assert time.monotonic() - survived.back_at < 30
    assert results["slow"].error == "Task exceeded timeout of 1s"
    assert results["starved"].HasField("error")
    assert results["starved"].error == ""
    assert [len(one.hand.actions(task)) for task in ("slept", "again", "slow", "starved")] == [1, 2, 1, 0]


def test_waiting_on_a_parent(survived: Stage) -> None:
    one = survived["waiting_on_parent"]
    one.complete(one.hand.wait("top")[1], '{"v": "after the kill"}')
    low = one.hand.wait("low")[1]
    assert payload_of(low)["parents"] == {"top": {"v": "after the kill"}}
    one.complete(low)
    assert results_of(survived.wire, one.run_id)["low"].output == '{"v": 1}'
    assert len(one.hand.actions("top")) == 1


def test_waiting_on_the_second_of_two_parents(survived: Stage) -> None:
    one = survived["waiting_on_second_parent"]
    one.complete(one.hand.wait("right")[1], '{"v": "right"}')
    low = one.hand.wait("low")[1]
    assert payload_of(low)["parents"] == {"left": {"v": "left"}, "right": {"v": "right"}}
    assert len(one.hand.actions("left")) == 1
    one.complete(low)


def test_running(survived: Stage) -> None:
    one = survived["running"]
    assert survived.wire.details(one.run_id).status == v1.RUNNING
    one.complete(one.hand.wait("only")[1], '{"v": "kept on"}')
    assert survived.wire.result(one.run_id).output == '{"v": "kept on"}'
    assert len(one.hand.actions("only")) == 1


def test_cancelled_just_before(survived: Stage) -> None:
    one = survived["cancelling"]
    assert survived.wire.details(one.run_id).status == v1.CANCELLED
    stop = one.hand.wait("top", STOP, timeout=15)[1]  # before the kill or after it
    assert stop.retry_count == 0
    one.complete(one.hand.wait("top")[1])
    results = results_of(survived.wire, one.run_id)
    assert (results["top"].error, results["low"].error) == ("", "")
    assert survived.wire.details(one.run_id).status == v1.CANCELLED
    assert one.hand.actions("low") == []


def test_waiting_for_an_event(survived: Stage) -> None:
    one, key = survived["waiting_for_event"], survived.kept["waiting_for_event"]
    push(survived.wire, key, {"right": False})
    push(survived.wire, key, {"right": True})
    low = one.hand.wait("low")[1]
    assert payload_of(low)["triggers"]["told"] == {"right": True}
    one.complete(low)


def test_event_that_came_before_the_kill_counts(survived: Stage) -> None:
    one = survived["event_came_before_parents_ended"]
    one.complete(one.hand.wait("top")[1])
    low = one.hand.wait("low")[1]
    assert payload_of(low)["triggers"]["told"] == {"early": True}
    one.complete(low)


def test_skipped_by_an_event(survived: Stage) -> None:
    one = survived["skipped_by_event_later"]
    push(survived.wire, survived.kept["skipped_by_event_later"])
    last = one.hand.wait("last")[1]
    assert payload_of(last)["parents"] == {"top": {"v": 1}, "low": {"skipped": True}}
    one.complete(last)
    results_of(survived.wire, one.run_id)
    assert one.hand.actions("low") == []


def test_skipped_before_the_kill(survived: Stage) -> None:
    one = survived["already_skipped"]
    one.complete(one.hand.wait("aside")[1])
    last = one.hand.wait("last")[1]
    assert payload_of(last)["parents"]["low"] == {"skipped": True}
    one.complete(last)
    results_of(survived.wire, one.run_id)


def test_released_slot_is_still_released(survived: Stage) -> None:
    one = survived["slot_released"]
    first = one.hand.wait("only")[1]
    other = survived.wire.trigger(one.name)
    second = one.hand.wait("only", count=2, timeout=15)[1]
    assert second.task_run_external_id == other
    one.complete(first, '{"v": "first"}')
    assert survived.wire.result(one.run_id).output == '{"v": "first"}'
    one.complete(second)


def test_failing_fires_the_on_failure_task(survived: Stage) -> None:
    one = survived["failing_later"]
    survived.wire.fail(one.hand.wait("bad")[1], "after the kill", worker_id=one.hand.id)
    oops = one.hand.wait("oops")[1]
    assert payload_of(oops)["step_run_errors"] == {"bad": "after the kill"}
    one.complete(oops)
    assert results_of(survived.wire, one.run_id)["bad"].error == "after the kill"


def test_replayed_branch(survived: Stage) -> None:
    one = survived["replayed"]
    left = one.hand.wait("left", count=2)[1]
    assert left.retry_count == 1
    one.complete(left, '{"v": "replayed"}')
    low = one.hand.wait("low")[1]
    assert payload_of(low)["parents"] == {"left": {"v": "replayed"}, "right": {"v": "kept"}}
    one.complete(low)
    assert len(one.hand.actions("right")) == 1


def test_spawn_memory(survived: Stage) -> None:
    one, child = survived["spawning"], survived.kept["spawning"]
    fields = {"parent_task_run_external_id": one.run_id}
    assert survived.wire.trigger(one.name, child_index=0, **fields) == child
    assert survived.wire.trigger(one.name, child_index=1, **fields) != child


def test_claimed_key(survived: Stage) -> None:
    one, value = survived["claimed"], survived.kept["claimed"]
    code, text = code_of(lambda: survived.wire.trigger(one.name, value))
    assert (code, text) == (grpc.StatusCode.ALREADY_EXISTS, "idempotency key collision")
    one.complete(one.hand.wait("only")[1])
    survived.wire.result(one.run_id)
    assert survived.wire.trigger(one.name, value) != one.run_id


def test_batch_that_gathers(survived: Stage) -> None:
    one = survived["gathering_a_batch"]
    second = survived.wire.trigger(one.name)
    batch = one.hand.wait(kind=BATCH)[1]
    assert sorted(payload_of(batch)) == sorted((one.run_id, second))


def test_batch_that_runs(survived: Stage) -> None:
    one, members = survived["running_a_batch"], survived.kept["running_a_batch"]
    batch = one.hand.wait(kind=BATCH)[1]
    items = [Item(task_run_external_id=member, event_payload='{"v": 1}') for member in members]
    send_batch(survived.wire, batch, COMPLETED, items, one.hand.id)
    assert [survived.wire.result(member).output for member in members] == ['{"v": 1}'] * 2
    assert len(one.hand.actions(kind=BATCH)) == 1


def test_sleeping(survived: Stage) -> None:
    one = survived["sleeping"]
    at, low = one.hand.wait("low")
    one.assert_on_time(at)
    one.complete(low)
    results_of(survived.wire, one.run_id)
    assert len(one.hand.actions("low")) == 1


def test_one_of_two_groups_satisfied(survived: Stage) -> None:
    one = survived["half_of_two_groups"]
    at, low = one.hand.wait("low")
    one.assert_on_time(at)
    assert payload_of(low)["triggers"]["told"] == {"kept": True}
    one.complete(low)


def test_backing_off(survived: Stage) -> None:
    one = survived["backing_off"]
    at, again = one.hand.wait("only", count=2)
    one.assert_on_time(at)
    assert again.retry_count == 1
    one.complete(again)
    survived.wire.result(one.run_id)


def test_timing_out(survived: Stage) -> None:
    one = survived["timing_out"]
    at, stop = one.hand.wait("only", STOP)
    one.assert_on_time(at)
    assert stop.retry_count == 0
    again = one.hand.wait("only", count=2)[1]
    assert again.retry_count == 1
    one.complete(again)
    survived.wire.result(one.run_id)


def test_timing_out_after_a_refresh(survived: Stage) -> None:
    one = survived["timing_out_refreshed"]
    at, _ = one.hand.wait("only", STOP)
    one.assert_on_time(at)
    assert survived.wire.result(one.run_id).error == "Task exceeded timeout of 5s"


def test_waiting_for_a_worker(survived: Stage) -> None:
    one = survived["waiting_for_a_worker"]
    one.assert_on_time(survived.end_of(one.run_id))
    result = survived.wire.result(one.run_id)
    assert result.HasField("error")
    assert result.error == ""
    assert survived.wire.details(one.run_id).status == v1.CANCELLED
