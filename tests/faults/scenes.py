"""Runs brought into every state, to be looked at after a kill of the engine. See `test_runs_survive.py`."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.calls import (
    BATCH,
    QUEUE,
    SKIP,
    START,
    Step,
    all_of,
    by_event,
    by_parent,
    by_sleep,
    payload_of,
    push,
    put,
    refresh,
    release,
    replay,
    results_of,
    send_batch,
)
from tests.compat.wire import Wire, unique
from tests.processes import Server, wait_until

LATER = 12.0
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

    def ask_to_stop(self) -> None:
        self._over.set()

    def join(self) -> None:
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
        action = self.hand.wait(task, count=count, timeout=5)[1]
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
        self._failed: dict[str, Exception] = {}
        self.kept: dict[str, Any] = {}
        self.ended: dict[str, float] = {}

    def __getitem__(self, name: str) -> Scene:
        """A scene; a run that could not be brought into its state fails its own test alone."""
        if name in self._failed:
            raise self._failed[name]
        return self.scenes[name]

    def close(self) -> None:
        self._stop_hands()
        self.wire.close()

    def _stop_hands(self) -> None:
        for hand in self.hands:
            hand.ask_to_stop()
        for hand in self.hands:
            hand.join()

    # ---- a state each

    def prepare(self) -> None:
        """The runs whose deadlines pass in the downtime come last."""
        for name, bring in PREPARED.items():
            try:
                self.scenes[name] = bring(self)
            except Exception as error:
                self._failed[name] = error

    def kill_and_restart(self, kill: Callable[[Server], None]) -> None:
        kill(self.server)
        self._stop_hands()
        self.wire.close()
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
    one = Scene(stage, Step("top"), Step("low", ["top"], by_event(QUEUE, key, "input.right", name="told")))
    one.trigger()
    one.complete(one.started("top"))
    stage.kept["waiting_for_event"] = key
    return one


@scene
def event_came_before_parents_ended(stage: Stage) -> Scene:
    key = unique("event")
    one = Scene(stage, Step("top"), Step("low", ["top"], by_event(QUEUE, key, name="told")))
    one.trigger()
    one.started("top")
    push(stage.wire, key, {"early": True})
    return one


@scene
def half_of_two_groups(stage: Stage) -> Scene:
    """Its event has come; its sleep is not over."""
    key = unique("event")
    both = all_of(by_event(QUEUE, key, name="told"), by_sleep(QUEUE, f"{LATER:.0f}s"))
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
    one.hand.wait(kind=BATCH, timeout=5)
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
