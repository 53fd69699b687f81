"""The subtle places of the wire contract (`behaviour-core.md` 7.7) around groups, limits, timeouts and routing, by their ranks there.

Each speaks the bare wire, as `test_subtle_places.py` does. Those without a rank are the rules of its sections 6.1 to 6.9 on which the ranked
ones rest. Where this engine keeps a documented promise rather than an accident, the test says so.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire import workflows_pb2 as workflows
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2 as triggers
from tests.compat.calls import START, STOP, Step, put, replay, results_of
from tests.compat.conftest import Workers
from tests.compat.wire import BareWorker, Wire, code_of, unique, wire_labels
from tests.processes import Server, wait_until
from tests.rest import Rest

pytestmark = pytest.mark.timeout(120)
BareWorkers = type[Workers]
QUIET = 0.3
"""Seconds in which nothing may arrive; what could arrive has been given the time by the calls before."""
ROUND_ROBIN, IN_PROGRESS, NEWEST = v1.GROUP_ROUND_ROBIN, v1.CANCEL_IN_PROGRESS, v1.CANCEL_NEWEST


def group(expression: str = "input.k", most: int = 1, strategy: Any = ROUND_ROBIN) -> v1.Concurrency:
    return v1.Concurrency(expression=expression, max_runs=most, limit_strategy=strategy)


def limit(key: str, units: int = 1, **fields: Any) -> v1.CreateTaskRateLimit:
    return v1.CreateTaskRateLimit(key=key, units=units, **fields)


def put_limit(wire: Wire, key: str, most: int, duration: Any = v1.HOUR) -> None:
    request = workflows.PutRateLimitRequest(key=key, limit=most, duration=duration)
    wire.unary("/WorkflowService/PutRateLimit", request, workflows.PutRateLimitResponse)


def serving(
    wire: Wire, workers: BareWorkers, *steps: Step, slots: int = 10, **fields: Any
) -> tuple[BareWorker, str]:
    """A workflow of those steps (one called `only`, if none is given) and a worker that serves it."""
    name = unique("flow")
    return workers.of(*put(wire, name, *(steps or (Step("only"),)), **fields), slots=slots), name


def single(wire: Wire, workers: BareWorkers, *, slots: int = 10, **fields: Any) -> tuple[BareWorker, str]:
    """A workflow of one task with those fields of `CreateTaskOpts`, and its worker."""
    return serving(wire, workers, Step("only", fields=fields), slots=slots)


def keyed(wire: Wire, name: str, key: str = "a", **fields: Any) -> str:
    return wire.trigger(name, json.dumps({"k": key}), **fields)


def next_start(worker: BareWorker, run_id: str | None = None) -> dispatcher.AssignedAction:
    action = worker.next()
    assert action.action_type == START
    if run_id is not None:
        assert action.task_run_external_id == run_id
    return action


def cancelled(wire: Wire, run_id: str) -> bool:
    """Waits for the end: cancelled as rank 1 says it, the error present and empty."""
    result = wire.result(run_id)
    return result.HasField("error") and not result.error and wire.details(run_id).status == v1.CANCELLED


@pytest.fixture
def rest(server: Server) -> Iterator[Rest]:
    bare = Rest(server.http_url, server.token)
    yield bare
    bare.close()


# ---- 1 and 6: what a strategy cancels


def test_01_run_cancelled_by_its_group_has_an_error_present_and_empty(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, name = single(wire, bare_worker, concurrency=[group(strategy=NEWEST)], retries=3)
    first = keyed(wire, name)
    next_start(worker, first)
    assert cancelled(wire, keyed(wire, name))
    assert worker.stream.silent_for(QUIET)


def test_06_run_cancelled_in_progress_is_told_by_its_retry_count(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, name = single(wire, bare_worker, concurrency=[group(strategy=IN_PROGRESS)], retries=3)
    first = keyed(wire, name)
    wire.fail(next_start(worker, first), "once")
    assert next_start(worker, first).retry_count == 1
    second = keyed(wire, name)
    actions = {action.action_type: action for action in (worker.next(), worker.next())}
    assert actions[START].task_run_external_id == second
    assert (actions[STOP].task_run_external_id, actions[STOP].retry_count) == (first, 1)
    assert cancelled(wire, first)


# ---- 2: static limits that arrive as dynamic ones


def test_02_limit_of_minus_one_uses_the_bucket_that_was_put(wire: Wire, bare_worker: BareWorkers) -> None:
    key = unique("api")
    put_limit(wire, key, 2)
    worker, name = single(wire, bare_worker, rate_limits=[limit(key, limit_values_expr="-1")])
    runs = [wire.trigger(name) for _ in range(3)]
    assert [next_start(worker).task_run_external_id for _ in range(2)] == runs[:2]
    assert worker.stream.silent_for(QUIET)
    assert wire.details(runs[2]).status == v1.QUEUED


def test_02_limit_of_minus_one_waits_while_there_is_no_bucket(wire: Wire, bare_worker: BareWorkers) -> None:
    key = unique("api")
    worker, name = single(wire, bare_worker, rate_limits=[limit(key, limit_values_expr="-1")])
    run_id = wire.trigger(name)
    assert worker.stream.silent_for(QUIET)
    put_limit(wire, key, 1)
    next_start(worker, run_id)


def test_02_limit_of_minus_one_leaves_window_and_limit_as_they_were_put(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    """It says MINUTE, as SDKs fill it in: the window that was put stays a second."""
    key = unique("api")
    put_limit(wire, key, 1, v1.SECOND)
    limits = [limit(key, limit_values_expr="-1", duration=v1.MINUTE)]
    worker, name = single(wire, bare_worker, rate_limits=limits)
    runs = [wire.trigger(name) for _ in range(3)]
    assert [worker.next(timeout=5).task_run_external_id for _ in range(3)] == runs


def test_02_limit_without_any_expression_is_static_too(wire: Wire, bare_worker: BareWorkers) -> None:
    key = unique("api")
    worker, name = single(wire, bare_worker, rate_limits=[limit(key)])
    run_id = wire.trigger(name)
    assert worker.stream.silent_for(QUIET)
    put_limit(wire, key, 1)
    next_start(worker, run_id)


def test_limit_is_spent_at_the_start_and_not_given_back(wire: Wire, bare_worker: BareWorkers) -> None:
    key = unique("api")
    put_limit(wire, key, 2)
    worker, name = single(wire, bare_worker, rate_limits=[limit(key)], retries=5)
    run_id = wire.trigger(name)
    for attempt in range(2):
        action = next_start(worker, run_id)
        assert action.retry_count == attempt
        wire.fail(action, "again")
    assert worker.stream.silent_for(QUIET)  # the third attempt has nothing to spend
    assert wire.details(run_id).status == v1.QUEUED


def test_blocked_task_does_not_hold_up_those_behind_it(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("flow")
    fields = {"rate_limits": [limit("k", key_expr="input.k", limit_values_expr="1")]}
    worker = bare_worker.of(*put(wire, name, Step("only", fields=fields)))
    prefix = unique("key")
    first, second = keyed(wire, name, f"{prefix}-a"), keyed(wire, name, f"{prefix}-a")
    third = keyed(wire, name, f"{prefix}-b")
    assert [next_start(worker).task_run_external_id for _ in range(2)] == [first, third]
    assert wire.details(second).status == v1.QUEUED


def test_units_above_the_limit_fail_at_once(wire: Wire, bare_worker: BareWorkers) -> None:
    """A promise kept: the original lets it wait for its schedule timeout, and says nothing."""
    key = unique("api")
    put_limit(wire, key, 2)
    worker, name = single(wire, bare_worker, rate_limits=[limit(key, 3)], retries=3)
    error = wire.result(wire.trigger(name)).error
    for word in (key, "3", "2"):
        assert word in error
    assert worker.stream.silent_for(QUIET)


def test_put_of_a_lower_limit_lowers_what_is_left_and_a_higher_one_does_not_raise_it(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    key = unique("api")
    put_limit(wire, key, 5)
    worker, name = single(wire, bare_worker, rate_limits=[limit(key)])
    next_start(worker, wire.trigger(name))
    put_limit(wire, key, 2)
    put_limit(wire, key, 50)
    runs = [wire.trigger(name) for _ in range(4)]
    assert [next_start(worker).task_run_external_id for _ in range(2)] == runs[:2]
    assert worker.stream.silent_for(QUIET)


# ---- 10 and 18: places


def test_18_keys_are_told_when_the_task_is_created(wire: Wire, bare_worker: BareWorkers) -> None:
    """A key that cannot be told fails the task at its creation, before any wait, and is not retried."""
    worker, name = single(wire, bare_worker, concurrency=[group(), group("input.missing")], retries=3)
    first = keyed(wire, name)
    result = wire.result(first)
    assert "input.missing" in result.error
    assert wire.details(first).task_runs["only"].status == v1.FAILED
    assert worker.stream.silent_for(QUIET)
    assert wire.details(first).done


@pytest.mark.parametrize("value", ["1", "true", "[1]", "null", '{"a": 1}'])
def test_18_key_that_is_no_text_fails_the_task(wire: Wire, bare_worker: BareWorkers, value: str) -> None:
    _, name = single(wire, bare_worker, concurrency=[group()])
    error = wire.result(wire.trigger(name, f'{{"k": {value}}}')).error
    assert "input.k" in error
    assert "string" in error


def test_18_parents_in_a_key_compile_and_fail(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name = serving(
        wire,
        bare_worker,
        Step("top"),
        Step("low", ["top"], fields={"concurrency": [group("parents.top.v")]}),
    )
    run_id = wire.trigger(name)
    wire.complete(next_start(worker), '{"v": "a"}')
    assert "parents.top.v" in results_of(wire, run_id)["low"].error


def test_18_workflow_entries_come_before_those_of_the_task(wire: Wire, bare_worker: BareWorkers) -> None:
    """Of a single task both act on it: the one that waits for its workflow's place holds none of its own yet."""
    worker, name = serving(
        wire,
        bare_worker,
        Step("only", fields={"concurrency": [group("input.b")]}),
        concurrency_arr=[group("input.a")],
    )
    first = wire.trigger(name, '{"a": "1", "b": "x"}')
    held = next_start(worker, first)
    second = wire.trigger(name, '{"a": "1", "b": "y"}')  # waits for a
    third = wire.trigger(name, '{"a": "2", "b": "y"}')
    next_start(worker, third)  # takes b, as the second has not got so far
    wire.complete(held)
    assert worker.stream.silent_for(QUIET)  # the second has a now, and waits for b
    assert wire.details(second).status == v1.QUEUED


def test_18_places_are_kept_while_waiting_for_the_next(wire: Wire, bare_worker: BareWorkers) -> None:
    fields = {"concurrency": [group("input.a"), group("input.b")]}
    worker, name = serving(wire, bare_worker, Step("only", fields=fields))
    wire.trigger(name, '{"a": "1", "b": "x"}')
    held = next_start(worker)
    second = wire.trigger(name, '{"a": "2", "b": "x"}')  # has a, waits for b
    third = wire.trigger(name, '{"a": "2", "b": "y"}')  # b is free, a is held by the second
    assert worker.stream.silent_for(QUIET)
    wire.complete(held)
    action = next_start(worker, second)
    assert worker.stream.silent_for(QUIET)
    wire.complete(action)
    next_start(worker, third)


def test_18_place_is_kept_while_waiting_for_a_worker(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("flow")
    actions = put(wire, name, Step("only", fields={"concurrency": [group()]}))
    first, second = keyed(wire, name), keyed(wire, name, priority=3)
    worker = bare_worker.of(*actions)
    wire.complete(next_start(worker, first))  # it had the place before the other came
    next_start(worker, second)


def test_18_place_of_a_run_is_shared_by_its_tasks(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name = serving(
        wire, bare_worker, Step("top"), Step("low", ["top"], fields={"retries": 1}), concurrency_arr=[group()]
    )
    first, second = keyed(wire, name), keyed(wire, name)
    wire.complete(next_start(worker))
    low = next_start(worker)
    assert (low.task_name, low.workflow_run_id) == ("low", first)
    wire.fail(low, "once")
    again = next_start(worker)
    assert (again.task_name, again.workflow_run_id, again.retry_count) == ("low", first, 1)
    assert worker.stream.silent_for(QUIET)
    wire.complete(again)
    assert next_start(worker).workflow_run_id == second


def test_18_place_of_a_run_is_held_while_a_task_sleeps_or_waits(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name = serving(
        wire,
        bare_worker,
        Step("only", fields={"retries": 1, "backoff_factor": 1.0}),
        Step("other"),
        concurrency_arr=[group()],
    )
    first, second = keyed(wire, name), keyed(wire, name)
    for action in (worker.next(), worker.next()):
        assert action.workflow_run_id == first
        if action.task_name == "only":
            wire.fail(action, "once")
        else:
            wire.complete(action)
    back = worker.next(timeout=5)
    assert (back.task_name, back.workflow_run_id, back.retry_count) == ("only", first, 1)
    wire.complete(back)
    assert {worker.next().workflow_run_id for _ in range(2)} == {second}


def test_18_back_off_gives_the_place_of_the_task_up(wire: Wire, bare_worker: BareWorkers) -> None:
    fields = {"concurrency": [group()], "retries": 1, "backoff_factor": 1.0}
    worker, name = single(wire, bare_worker, **fields)
    first, second = keyed(wire, name), keyed(wire, name)
    wire.fail(next_start(worker, first), "once")
    other = next_start(worker, second)
    assert worker.stream.silent_for(1.5)  # the back-off is over, and the place is taken
    wire.complete(other)
    assert next_start(worker, first).retry_count == 1


def test_18_immediate_retry_is_not_overtaken(wire: Wire, bare_worker: BareWorkers) -> None:
    """A promise kept: the place stays with the task, whatever the priority of those who wait."""
    worker, name = single(wire, bare_worker, concurrency=[group()], retries=1)
    first, _ = keyed(wire, name, priority=1), keyed(wire, name, priority=3)
    wire.fail(next_start(worker, first), "once")
    assert next_start(worker, first).retry_count == 1
    assert worker.stream.silent_for(QUIET)


def test_18_key_of_a_plain_retry_is_not_told_again_and_of_a_replay_it_is(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, name = single(wire, bare_worker, concurrency=[group()], retries=1)
    first = keyed(wire, name)
    wire.fail(next_start(worker, first), "once")
    wire.complete(next_start(worker, first))
    wire.result(first)
    second = keyed(wire, name)
    held = next_start(worker, second)
    replay(wire, first)
    assert worker.stream.silent_for(QUIET)  # the replay waits for the place
    wire.complete(held)
    assert next_start(worker, first).retry_count == 2


def test_18_versions_do_not_share_groups(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name = single(wire, bare_worker, concurrency=[group()])
    old = next_start(worker, keyed(wire, name))
    put(wire, name, Step("only", fields={"concurrency": [group()], "retries": 1}))
    new = keyed(wire, name)
    assert next_start(worker, new).workflow_version_id != old.workflow_version_id


def test_10_on_failure_task_needs_no_place_of_the_run(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name = serving(wire, bare_worker, Step("top"), on_failure=Step("oops"), concurrency_arr=[group()])
    first, second = keyed(wire, name), keyed(wire, name)
    wire.fail(next_start(worker), "no")
    seen = {(action.workflow_run_id, action.task_name) for action in (worker.next(), worker.next())}
    assert seen == {(first, "oops"), (second, "top")}


# ---- 19: the schedule timeout, stage by stage


def test_19_schedule_timeout_counts_in_the_line_of_a_group(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name = single(wire, bare_worker, concurrency=[group()], schedule_timeout="1s", retries=3)
    held = next_start(worker, keyed(wire, name))
    assert cancelled(wire, keyed(wire, name))
    wire.complete(held)
    next_start(worker, keyed(wire, name))  # who is gone is not waited for


def test_19_each_stage_starts_the_schedule_timeout_anew(wire: Wire, bare_worker: BareWorkers) -> None:
    """1.4 s for a place and 1.4 s for a worker are not 2 s for either."""
    name = unique("flow")
    fields = {"concurrency": [group()], "schedule_timeout": "2s"}
    actions = put(wire, name, Step("only", fields=fields))
    worker = bare_worker.of(*actions)
    held = next_start(worker, keyed(wire, name))
    second = keyed(wire, name)
    assert worker.stream.silent_for(1.4)  # the first stage: it is full
    worker.stop_beating()
    worker.stream.cancel()
    wire.complete(held)
    time.sleep(1.4)  # the second stage: nobody serves it
    assert not wire.details(second).done
    assert cancelled(wire, second)


def test_19_schedule_timeout_of_a_task_below_cancels_its_children_and_fires_no_on_failure_task(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    fields = {"concurrency": [group()], "schedule_timeout": "1s"}
    worker, name = serving(
        wire,
        bare_worker,
        Step("top", fields=fields),
        Step("low", ["top"]),
        on_failure=Step("oops"),
    )
    keyed(wire, name)
    next_start(worker)
    second = keyed(wire, name)
    results = results_of(wire, second)
    assert {task: results[task].error for task in ("top", "low")} == {"top": "", "low": ""}
    assert wire.details(second).status == v1.CANCELLED
    assert worker.stream.silent_for(QUIET)


# ---- order in a queue and in a line


def test_line_of_a_group_is_served_by_priority_then_age(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name = single(wire, bare_worker, concurrency=[group()])
    held = next_start(worker, keyed(wire, name))
    waiting = [(priority, keyed(wire, name, priority=priority)) for priority in (1, 3, 2, 1, 3)]
    order = []
    for _ in waiting:
        wire.complete(held)
        held = next_start(worker)
        order.append(held.task_run_external_id)
    assert order == [run_id for _, run_id in sorted(waiting, key=lambda run: -run[0])]


def test_groups_are_served_in_turn(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("flow")
    actions = put(wire, name, Step("only", fields={"concurrency": [group(most=100)]}))
    runs = {key: [keyed(wire, name, key) for _ in range(5)] for key in ("a", "b", "c")}
    worker = bare_worker.of(*actions, slots=1)
    order = []
    for _ in range(15):
        action = next_start(worker)
        order.append(action.task_run_external_id)
        wire.complete(action)
    for turn in range(5):
        assert set(order[3 * turn : 3 * turn + 3]) == {of_key[turn] for of_key in runs.values()}


def test_retry_goes_first_and_shows_its_own_priority(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name = single(wire, bare_worker, slots=1, retries=1)
    low = wire.trigger(name, priority=1)
    first = next_start(worker, low)
    for _ in range(3):
        wire.trigger(name, priority=3)
    wire.fail(first, "once")
    action = next_start(worker)
    if (
        action.task_run_external_id != low
    ):  # the slot was free before the failure was committed, and the retry came after it
        wire.complete(action)
        action = next_start(worker, low)
    assert (action.retry_count, action.priority) == (1, 1)


# ---- sticky


def two_workers(
    wire: Wire, workers: BareWorkers, *steps: Step, **fields: Any
) -> tuple[BareWorker, BareWorker, str]:
    name = unique("flow")
    actions = put(wire, name, *steps, **fields)
    return workers.of(*actions, slots=1), workers.of(*actions, slots=1), name


def from_either(
    one: BareWorker, other: BareWorker
) -> tuple[BareWorker, BareWorker, dispatcher.AssignedAction]:
    """Who got the next action, who did not, and the action."""

    def arrived() -> tuple[BareWorker, BareWorker, dispatcher.AssignedAction] | None:
        for worker, idle in ((one, other), (other, one)):
            try:
                return worker, idle, worker.next(timeout=0.05)
            except AssertionError:
                continue
        return None

    return wait_until(arrived, what="an action at either worker", timeout=15)


def test_worker_asked_for_is_ignored_without_a_sticky_strategy(wire: Wire, bare_worker: BareWorkers) -> None:
    one, other, name = two_workers(wire, bare_worker, Step("only"))
    runs = [wire.trigger(name, desired_worker_id=one.id) for _ in range(2)]
    assert {one.next().task_run_external_id, other.next().task_run_external_id} == set(runs)


def test_soft_takes_another_worker_and_hard_waits(wire: Wire, bare_worker: BareWorkers) -> None:
    one, other, soft = two_workers(wire, bare_worker, Step("only"), sticky=v1.SOFT)
    first, second = (wire.trigger(soft, desired_worker_id=one.id) for _ in range(2))
    next_start(one, first)
    next_start(other, second)
    one, other, hard = two_workers(wire, bare_worker, Step("only"), sticky=v1.HARD)
    first, second = (wire.trigger(hard, desired_worker_id=one.id) for _ in range(2))
    held = next_start(one, first)
    assert other.stream.silent_for(QUIET)
    wire.complete(held)
    next_start(one, second)


def test_hard_without_a_worker_asked_for_takes_any(wire: Wire, bare_worker: BareWorkers) -> None:
    one, other, name = two_workers(wire, bare_worker, Step("only"), sticky=v1.HARD)
    runs = [wire.trigger(name) for _ in range(2)]
    assert {one.next().task_run_external_id, other.next().task_run_external_id} == set(runs)


def test_hard_does_not_hold_up_those_behind_it(wire: Wire, bare_worker: BareWorkers) -> None:
    one, other, name = two_workers(wire, bare_worker, Step("only"), sticky=v1.HARD)
    next_start(one, wire.trigger(name, desired_worker_id=one.id))
    waiting = [wire.trigger(name, desired_worker_id=one.id) for _ in range(150)]
    free = wire.trigger(name)
    next_start(other, free)
    assert wire.details(waiting[0]).status == v1.QUEUED


def test_19_hard_that_waits_in_vain_is_cancelled_and_names_the_worker(
    wire: Wire, bare_worker: BareWorkers, rest: Rest
) -> None:
    one, other, name = two_workers(
        wire, bare_worker, Step("only", fields={"schedule_timeout": "1s"}), sticky=v1.HARD
    )
    request = dispatcher.WorkerUnsubscribeRequest(worker_id=one.id)
    wire.unary("/Dispatcher/Unsubscribe", request, dispatcher.WorkerUnsubscribeResponse)
    run_id = wire.trigger(name, desired_worker_id=one.id)
    assert cancelled(wire, run_id)
    assert one.id in rest.get(f"S/tasks/{run_id}")["errorMessage"]
    assert other.stream.silent_for(QUIET)


def test_tasks_below_stay_with_the_worker_of_their_parent(wire: Wire, bare_worker: BareWorkers) -> None:
    one, other, name = two_workers(
        wire, bare_worker, Step("top"), Step("low", ["top"], fields={"retries": 1}), sticky=v1.HARD
    )
    wire.trigger(name)
    home, away, top = from_either(one, other)
    wire.complete(top)
    low = next_start(home)
    wire.fail(low, "once")
    assert next_start(home).retry_count == 1  # a retry keeps it
    assert away.stream.silent_for(QUIET)


# ---- labels


def wanted(value: str | int, **fields: Any) -> triggers.DesiredWorkerLabels:
    which = "int_value" if isinstance(value, int) else "str_value"
    return triggers.DesiredWorkerLabels(**{which: value}, **fields)


def test_weight_is_100_and_required_false_unless_said(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("flow")
    labels = {"a": wanted("x"), "b": wanted("x", weight=99)}
    actions = put(wire, name, Step("only", fields={"worker_labels": labels}))
    b = bare_worker.of(*actions, labels={"b": "x"})
    a = bare_worker.of(*actions, labels={"a": "x"})
    neither = bare_worker.of(*actions)
    for _ in range(3):
        next_start(a, wire.trigger(name))
    assert b.stream.silent_for(QUIET)
    assert neither.stream.silent_for(0.05)


def test_negative_weight_turns_a_worker_away_and_does_not_exclude_it(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    name = unique("flow")
    actions = put(wire, name, Step("only", fields={"worker_labels": {"a": wanted("x", weight=-1)}}))
    a = bare_worker.of(*actions, labels={"a": "x"}, slots=1)
    other = bare_worker.of(*actions, slots=1)
    first, second = wire.trigger(name), wire.trigger(name)
    next_start(other, first)
    next_start(a, second)


@pytest.mark.parametrize(
    ("comparator", "value", "labels", "is_met"),
    [
        (triggers.EQUAL, 5, {"a": 5}, True),
        (triggers.EQUAL, 5, {"a": "5"}, False),
        (triggers.EQUAL, "5", {"a": 5}, False),
        (triggers.NOT_EQUAL, 5, {"a": 6}, True),
        (triggers.NOT_EQUAL, 5, {"a": 5}, False),
        (triggers.NOT_EQUAL, 5, {}, False),
        (triggers.GREATER_THAN, 5, {"a": 6}, True),
        (triggers.GREATER_THAN, 5, {"a": 5}, False),
        (triggers.GREATER_THAN, 5, {"a": "9"}, False),
        (triggers.GREATER_THAN_OR_EQUAL, 5, {"a": 5}, True),
        (triggers.LESS_THAN, 5, {"a": 4}, True),
        (triggers.LESS_THAN, 5, {}, False),
        (triggers.LESS_THAN_OR_EQUAL, -5, {"a": -5}, True),
        (triggers.LESS_THAN_OR_EQUAL, -5, {"a": 0}, False),
    ],
)
def test_comparators(
    wire: Wire,
    bare_worker: BareWorkers,
    comparator: Any,
    value: str | int,
    labels: dict[str, str | int],
    is_met: bool,
) -> None:
    """The label is the worker's, on the left: `worker > wanted`."""
    name = unique("flow")
    desired = {"a": wanted(value, comparator=comparator, required=True)}
    worker = bare_worker.of(*put(wire, name, Step("only", fields={"worker_labels": desired})), labels=labels)
    run_id = wire.trigger(name)
    if is_met:
        next_start(worker, run_id)
    else:
        assert worker.stream.silent_for(QUIET)


def test_labels_of_a_trigger_replace_those_of_every_step(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("flow")
    needs_a = {"worker_labels": {"a": wanted("x", required=True)}}
    actions = put(wire, name, Step("top", fields=needs_a), Step("low", ["top"], fields=needs_a))
    a = bare_worker.of(*actions, labels={"a": "x"})
    b = bare_worker.of(*actions, labels={"b": "x"})
    wire.trigger(name, desired_worker_labels={"b": wanted("x", required=True)})
    wire.complete(next_start(b))
    assert next_start(b).task_name == "low"
    assert a.stream.silent_for(QUIET)


def test_labels_are_upserted_by_key_for_the_next_dispatch(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("flow")
    both = {"a": wanted(1, required=True), "b": wanted("new", required=True)}
    worker = bare_worker.of(
        *put(wire, name, Step("only", fields={"worker_labels": both})), labels={"a": 1, "b": "old"}
    )
    run_id = wire.trigger(name)
    assert worker.stream.silent_for(QUIET)
    request = dispatcher.UpsertWorkerLabelsRequest(worker_id=worker.id, labels=wire_labels({"b": "new"}))
    wire.unary("/Dispatcher/UpsertWorkerLabels", request, dispatcher.UpsertWorkerLabelsResponse)
    next_start(worker, run_id)  # `a` was not removed
    later = dispatcher.UpsertWorkerLabelsRequest(worker_id=worker.id, labels=wire_labels({"a": 2}))
    wire.unary("/Dispatcher/UpsertWorkerLabels", later, dispatcher.UpsertWorkerLabelsResponse)
    wire.trigger(name)
    assert worker.stream.silent_for(QUIET)


# ---- values that this engine does not know


@pytest.mark.parametrize("strategy", [1, 2, 7])
def test_strategy_that_is_not_known_is_refused_and_not_taken_for_the_default(
    wire: Wire, strategy: int
) -> None:
    entry = group(strategy=strategy)
    code, text = code_of(lambda: put(wire, unique("flow"), Step("only", fields={"concurrency": [entry]})))
    assert code.name == "INVALID_ARGUMENT"
    assert "limit_strategy" in text
