"""The subtle places of the wire contract (`behaviour-core.md` 7.7) around conditions, by their rank there.

Each speaks the bare wire: what it sends and what it must see are the contract, whatever an SDK makes of it.
"""

import json
import time

import pytest

from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.calls import (
    CANCEL,
    QUEUE,
    SKIP,
    Step,
    all_of,
    by_event,
    by_parent,
    by_sleep,
    payload_of,
    push,
    put,
    replay,
    results_of,
    take,
)
from tests.compat.conftest import Workers
from tests.compat.wire import BareWorker, Wire, unique

pytestmark = pytest.mark.timeout(120)
BareWorkers = type[Workers]

SKIPPED = {"skipped": True}


def graph(
    wire: Wire, workers: BareWorkers, *steps: Step, on_failure: Step | None = None, value: str = '{"n": 1}'
) -> tuple[BareWorker, str, str]:
    """A worker of all tasks of a graph, the graph's name, and the id of a run just triggered."""
    name = unique("graph")
    worker = workers.of(*put(wire, name, *steps, on_failure=on_failure))
    return worker, name, wire.trigger(name, value)


def statuses(wire: Wire, run_id: str) -> dict[str, str]:
    return {name: v1.RunStatus.Name(task.status) for name, task in wire.details(run_id).task_runs.items()}


# ---- 16: waits


def test_16_event_between_the_start_of_the_run_and_the_wait_counts(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    """The original loses it; the user documentation promises that a wait sees what was pushed since the run began."""
    key = unique("event")
    worker, _, _ = graph(wire, bare_worker, Step("top"), Step("low", ["top"], by_event(QUEUE, key)))
    top = take(worker, "top")["top"]
    push(wire, key, {"early": 1})
    wire.complete(top)
    assert payload_of(take(worker, "low")["low"])["triggers"][key] == {"early": 1}


def test_16_sleep_begins_after_the_parents(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, _ = graph(wire, bare_worker, Step("top"), Step("low", ["top"], by_sleep(QUEUE, "2s")))
    top = take(worker, "top")["top"]
    time.sleep(1.0)  # the parents' time must not count
    wire.complete(top)
    began = time.monotonic()
    take(worker, "low")
    assert 1.9 <= time.monotonic() - began < 3.5


def test_16_single_task_with_a_wait_waits_and_starts(wire: Wire, bare_worker: BareWorkers) -> None:
    """The original accepts the run and never starts it."""
    key = unique("event")
    worker, _, run_id = graph(wire, bare_worker, Step("only", conditions=by_event(QUEUE, key, "input.ok")))
    push(wire, key, {"ok": False})
    assert worker.stream.silent_for(0.5)
    assert wire.details(run_id).status == v1.QUEUED
    push(wire, key, {"ok": True})
    action = worker.next()
    assert action.task_run_external_id == run_id
    wire.complete(action)
    wire.result(run_id)


def test_16_key_of_an_event_must_be_equal_and_scopes_are_heeded(wire: Wire, bare_worker: BareWorkers) -> None:
    key = unique("event")
    worker, _, _ = graph(
        wire,
        bare_worker,
        Step("scoped", conditions=by_event(QUEUE, key, scope="mine")),
        Step("unscoped", conditions=by_event(QUEUE, key)),
    )
    push(wire, f"{key}:more", scope="mine")
    push(wire, key.upper(), scope="mine")
    assert worker.stream.silent_for(0.5)
    push(wire, key, scope="another")
    take(worker, "unscoped")  # without a scope, any will do
    assert worker.stream.silent_for(0.5)
    push(wire, key, scope="mine")
    take(worker, "scoped")


def test_16_cancel_condition_without_a_wait_does_not_hold_the_task(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    """The original queues it never: nothing could."""
    worker, _, _ = graph(
        wire, bare_worker, Step("top"), Step("low", ["top"], by_event(CANCEL, unique("never")))
    )
    wire.complete(take(worker, "top")["top"])
    take(worker, "low")


# ---- 17: which action wins


@pytest.mark.parametrize(
    ("actions", "outcome"),
    [
        ((QUEUE, SKIP, CANCEL), "skipped"),
        ((QUEUE, SKIP), "skipped"),
        ((SKIP, CANCEL), "skipped"),
        ((QUEUE, CANCEL), "cancelled"),
        ((QUEUE,), "queued"),
    ],
)
def test_17_skip_beats_cancel_beats_queue(
    wire: Wire, bare_worker: BareWorkers, actions: tuple[int, ...], outcome: str
) -> None:
    always = all_of(*(by_parent(action, "top", "output.v > 0") for action in actions))
    worker, _, run_id = graph(wire, bare_worker, Step("top"), Step("low", ["top"], always))
    wire.complete(take(worker, "top")["top"], '{"v": 1}')
    if outcome == "queued":
        wire.complete(take(worker, "low")["low"])
    low = results_of(wire, run_id)["low"]
    if outcome == "skipped":
        assert json.loads(low.output) == SKIPPED
    assert low.HasField("error") == (outcome == "cancelled")


def test_17_skip_beats_cancel_among_events(wire: Wire, bare_worker: BareWorkers) -> None:
    key = unique("event")
    both = all_of(by_event(SKIP, key), by_event(CANCEL, key), by_sleep(QUEUE, "10m"))
    worker, _, run_id = graph(wire, bare_worker, Step("top"), Step("low", ["top"], both))
    wire.complete(take(worker, "top")["top"])
    push(wire, key)
    assert json.loads(results_of(wire, run_id)["low"].output) == SKIPPED


def test_17_default_skip_needs_all_parents(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(
        wire, bare_worker, Step("one"), Step("two"), Step("low", ["one", "two"]), Step("lower", ["low"])
    )
    both = take(worker, "one", "two")
    wire.complete(both["one"], json.dumps(SKIPPED))
    wire.complete(both["two"], json.dumps(SKIPPED))
    results = results_of(wire, run_id)
    assert json.loads(results["low"].output) == json.loads(results["lower"].output) == SKIPPED
    replay(wire, run_id)
    both = take(worker, "one", "two")
    wire.complete(both["one"], json.dumps(SKIPPED))
    wire.complete(both["two"], '{"skipped": false}')
    take(worker, "low")


def test_17_declared_skip_on_one_parent_removes_the_defaults_of_all(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    declared = by_parent(SKIP, "one", "output.go_away")
    worker, _, _ = graph(wire, bare_worker, Step("one"), Step("two"), Step("low", ["one", "two"], declared))
    both = take(worker, "one", "two")
    wire.complete(both["one"], '{"skipped": true, "go_away": false}')
    wire.complete(both["two"], json.dumps(SKIPPED))
    take(worker, "low")


def test_17_skip_fires_while_other_parents_run(wire: Wire, bare_worker: BareWorkers) -> None:
    declared = by_parent(SKIP, "one", "output.v > 0")
    worker, _, _ = graph(
        wire,
        bare_worker,
        Step("one"),
        Step("two"),
        Step("low", ["one", "two"], declared),
        Step("after", ["one", "low"]),
    )
    wire.complete(take(worker, "one", "two")["one"], '{"v": 1}')
    after = take(worker, "after")["after"]
    assert payload_of(after)["parents"] == {"one": {"v": 1}, "low": SKIPPED}


def test_17_failed_parent_cancels_though_another_has_a_cancel_condition(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    """The original leaves such a task undecided for ever."""
    declared = by_parent(CANCEL, "one", "output.v > 100")
    worker, _, run_id = graph(
        wire, bare_worker, Step("one"), Step("two"), Step("low", ["one", "two"], declared)
    )
    both = take(worker, "one", "two")
    wire.fail(both["two"], "no")
    wire.complete(both["one"], '{"v": 1}')
    low = results_of(wire, run_id)["low"]
    assert low.HasField("error")
    assert low.error == ""


def test_17_condition_without_an_expression_is_true(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(wire, bare_worker, Step("top"), Step("low", ["top"], by_parent(SKIP, "top")))
    wire.complete(take(worker, "top")["top"])
    assert json.loads(results_of(wire, run_id)["low"].output) == SKIPPED


def test_17_numbers_of_json_compare_with_numbers_of_expressions(wire: Wire, bare_worker: BareWorkers) -> None:
    expression = "output.n == 3 && output.x > 2.4 && output.list[1] == 2 && size(output.text) == 4"
    worker, _, run_id = graph(
        wire, bare_worker, Step("top"), Step("low", ["top"], by_parent(SKIP, "top", expression))
    )
    wire.complete(take(worker, "top")["top"], '{"n": 3, "x": 2.5, "list": [1, 2], "text": "four"}')
    assert json.loads(results_of(wire, run_id)["low"].output) == SKIPPED
