"""The subtle places of the wire contract (`behaviour-core.md` 7.7) around runs of several tasks, by their rank there.

Each speaks the bare wire: what it sends and what it must see are the contract, whatever an SDK makes of it.
"""

import json
import time

import pytest

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.calls import (
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
    release,
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


# ---- 1: results


def test_01_results_of_a_graph_tell_each_task_apart(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(
        wire, bare_worker, Step("good"), Step("bad"), Step("below", ["bad"]), Step("next", ["good"])
    )
    first = take(worker, "good", "bad")
    wire.complete(first["good"], '{"v": 1}')
    wire.fail(first["bad"], "broken")
    wire.complete(take(worker, "next")["next"], "")
    results = results_of(wire, run_id)
    assert not results["good"].HasField("error")
    assert json.loads(results["good"].output) == {"v": 1}
    assert results["bad"].error == "broken"
    assert results["below"].HasField("error")
    assert results["below"].error == ""
    assert not results["next"].HasField("error")
    assert results["next"].output == ""
    assert len({result.task_run_external_id for result in results.values()} | {run_id}) == 5
    assert wire.details(run_id).status == v1.FAILED


def test_01_skipped_tasks_are_completed_with_an_output_that_says_so(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    skip = by_parent(SKIP, "top", "output.v > 0")
    worker, _, run_id = graph(
        wire, bare_worker, Step("top"), Step("low", ["top"], skip), on_failure=Step("oops")
    )
    wire.complete(take(worker, "top")["top"], '{"v": 1}')
    results = results_of(wire, run_id)
    for name in ("low", "oops"):
        assert not results[name].HasField("error")
        assert json.loads(results[name].output) == SKIPPED
    details = wire.details(run_id)
    assert (details.status, details.task_runs["low"].status) == (v1.COMPLETED, v1.COMPLETED)


# ---- 6: one retry count over retries and replays


def test_06_replay_counts_on_where_retries_left_it(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(wire, bare_worker, Step("only", fields={"retries": 1}))
    counts = []
    for _ in range(2):
        action = worker.next()
        counts.append(action.retry_count)
        wire.fail(action, "no")
    assert wire.result(run_id).error == "no"
    assert replay(wire, run_id) == [run_id]
    for _ in range(2):  # the budget is whole again
        action = worker.next()
        counts.append(action.retry_count)
        wire.fail(action, "no again")
    assert counts == [0, 1, 2, 3]
    assert wire.result(run_id).error == "no again"


def test_06_report_of_the_attempt_before_a_replay_is_stale(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(wire, bare_worker, Step("only"))
    first = worker.next()
    wire.fail(first, "no")
    wire.result(run_id)
    replay(wire, run_id)
    second = worker.next()
    assert second.retry_count == 1
    wire.complete(first, '{"stale": true}', retry_count=0)
    wire.complete(second, '{"fresh": true}')
    assert json.loads(wire.result(run_id).output) == {"fresh": True}


def test_06_cancel_action_names_the_attempt_to_stop(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(wire, bare_worker, Step("only", fields={"retries": 2}))
    wire.fail(worker.next(), "once")
    second = worker.next()
    cancel(wire, run_id)
    stop = worker.next()
    assert (stop.action_type, stop.retry_count) == (STOP, second.retry_count)
    assert stop.retry_count == 1
    assert stop.action_payload == ""


# ---- 8 and 9: the payload of a start


def test_08_parents_hold_the_output_of_every_finished_task(wire: Wire, bare_worker: BareWorkers) -> None:
    skip = by_parent(SKIP, "top", "output.v > 0")
    worker, _, _ = graph(
        wire,
        bare_worker,
        Step("top"),
        Step("silent", ["top"]),
        Step("null", ["top"]),
        Step("skipped", ["top"], skip),
        Step("last", ["silent", "null", "skipped"]),
    )
    wire.complete(take(worker, "top")["top"], '{"v": 1, "deep": {"er": [1]}}')
    second = take(worker, "silent", "null")
    assert payload_of(second["silent"])["parents"]["top"] == {"v": 1, "deep": {"er": [1]}}
    wire.complete(second["silent"], "")
    wire.complete(second["null"], "null")
    parents = payload_of(take(worker, "last")["last"])["parents"]
    assert parents == {
        "top": {"v": 1, "deep": {"er": [1]}},  # not a direct parent
        "silent": {},
        "null": {},  # a null would break the decoding of the whole payload
        "skipped": SKIPPED,
    }


@pytest.mark.parametrize("output", ["[1, 2]", "3", '"text"'])
def test_08_output_that_is_no_object_does_not_stop_the_children(
    wire: Wire, bare_worker: BareWorkers, output: str
) -> None:
    condition = by_parent(SKIP, "top", "has(output.v)")
    worker, _, run_id = graph(
        wire, bare_worker, Step("top"), Step("plain", ["top"]), Step("choosy", ["top"], condition)
    )
    wire.complete(take(worker, "top")["top"], output)
    actions = take(worker, "plain", "choosy")
    assert payload_of(actions["plain"])["parents"] in ({}, {"top": {}})
    for action in actions.values():
        wire.complete(action)
    assert results_of(wire, run_id)["top"].output == output


def test_08_retried_parent_gives_its_latest_output(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(wire, bare_worker, Step("top"), Step("low", ["top"]))
    wire.complete(take(worker, "top")["top"], '{"v": 1}')
    wire.complete(take(worker, "low")["low"])
    results_of(wire, run_id)
    replay(wire, run_id)
    wire.complete(take(worker, "top")["top"], '{"v": 2}')
    assert payload_of(take(worker, "low")["low"])["parents"] == {"top": {"v": 2}}


def test_09_triggers_are_an_object_on_every_task(wire: Wire, bare_worker: BareWorkers) -> None:
    key = unique("event")
    waits = all_of(by_event(QUEUE, key, name="paid"), by_sleep(QUEUE, "1s", key="rest"))
    worker, _, _ = graph(wire, bare_worker, Step("top"), Step("low", ["top"], waits))
    top = take(worker, "top")["top"]
    assert payload_of(top)["triggers"] == {"filter_payload": None}
    wire.complete(top)
    push(wire, key, {"amount": 7})
    low = payload_of(take(worker, "low")["low"])
    assert low["triggers"] == {
        "filter_payload": None,
        "paid": {"amount": 7},
        "rest": {"sleep_duration": "1s"},
    }
    assert low["input"] == {"n": 1}
    assert low["triggered_by"] == "manual"
    assert "step_run_errors" not in low


def test_08_ids_of_a_task_in_a_graph(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name, run_id = graph(wire, bare_worker, Step("top"), Step("low", ["top"]))
    top = take(worker, "top")["top"]
    assert top.workflow_run_id == run_id
    assert top.task_run_external_id == top.job_run_id != run_id
    assert top.job_id == top.task_id
    assert (top.task_name, top.job_name) == ("top", "top")
    assert top.action_id == f"{name}:top"
    wire.complete(top)
    low = take(worker, "low")["low"]
    assert low.workflow_run_id == run_id
    assert (low.workflow_id, low.workflow_version_id) == (top.workflow_id, top.workflow_version_id)
    assert low.task_id != top.task_id


def test_08_one_task_with_an_on_failure_task_is_a_graph(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(wire, bare_worker, Step("only"), on_failure=Step("oops"))
    assert take(worker, "only")["only"].task_run_external_id != run_id


# ---- 10: the on-failure task


def test_10_on_failure_fires_at_the_first_failure(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(
        wire,
        bare_worker,
        Step("done"),
        Step("bad", ["done"]),
        Step("slow", ["done"]),
        on_failure=Step("oops"),
    )
    wire.complete(take(worker, "done")["done"], '{"v": 1}')
    two = take(worker, "bad", "slow")
    wire.fail(two["bad"], "ValueError: no")
    oops = take(worker, "oops")["oops"]  # while the other branch still runs
    payload = payload_of(oops)
    assert payload["step_run_errors"] == {"bad": "ValueError: no"}
    assert payload["parents"] == {"done": {"v": 1}}
    assert payload["input"] == {"n": 1}
    wire.complete(two["slow"])
    assert not wire.details(run_id).done  # the run is final only with it
    wire.complete(oops, '{"cleaned": true}')
    results = results_of(wire, run_id)
    assert json.loads(results["oops"].output) == {"cleaned": True}
    assert wire.details(run_id).status == v1.FAILED


def test_10_on_failure_fires_once_for_two_failures(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(wire, bare_worker, Step("one"), Step("two"), on_failure=Step("oops"))
    both = take(worker, "one", "two")
    wire.fail(both["one"], "first")
    wire.fail(both["two"], "second")
    wire.complete(take(worker, "oops")["oops"])
    results_of(wire, run_id)
    assert worker.stream.silent_for(0.5)


def test_10_on_failure_does_not_fire_while_retries_are_left(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(wire, bare_worker, Step("only", fields={"retries": 1}), on_failure=Step("oops"))
    wire.fail(take(worker, "only")["only"], "once")
    wire.complete(take(worker, "only")["only"])
    assert json.loads(results_of(wire, run_id)["oops"].output) == SKIPPED
    assert worker.stream.silent_for(0.3)


def test_10_failed_on_failure_task_is_told(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(wire, bare_worker, Step("only"), on_failure=Step("oops"))
    wire.fail(take(worker, "only")["only"], "first")
    wire.fail(take(worker, "oops")["oops"], "and the cleaning failed")
    results = results_of(wire, run_id)
    assert (results["only"].error, results["oops"].error) == ("first", "and the cleaning failed")


# ---- 11 and 12: subscriptions


def test_11_run_subscription_answers_again_after_a_replay(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(wire, bare_worker, Step("top"), Step("low", ["top"]))
    for output in ('{"v": 1}', '{"v": 2}'):
        wire.complete(take(worker, "top")["top"], output)
        wire.complete(take(worker, "low")["low"], output)
        assert results_of(wire, run_id)["low"].output == output
        replay(wire, run_id)
        pending = wire.runs(run_id)
        assert pending.silent_for(1.2)  # the run is not final any more, so there is no old answer
        pending.cancel()


def test_12_started_is_told_once_a_task_when_it_is_created(wire: Wire, bare_worker: BareWorkers) -> None:
    skip = by_parent(SKIP, "top", "output.v > 0")
    worker, _, run_id = graph(
        wire, bare_worker, Step("top"), Step("low", ["top"], skip), Step("other", ["top"])
    )
    stream = wire.run_events(run_id)
    top = take(worker, "top")["top"]
    for _ in range(100):  # until the subscription stands: streams are not replayed
        wire.put_stream(top.task_run_external_id, b"probe")
        try:
            stream.next(timeout=0.1)
        except AssertionError:
            continue
        break
    wire.complete(top, '{"v": 1}')
    wire.complete(take(worker, "other")["other"])
    ids = {name: task.external_id for name, task in wire.details(run_id).task_runs.items()}
    told = [
        (event.resource_id, dispatcher.ResourceEventType.Name(event.event_type))
        for event in stream.rest()
        if event.event_type != dispatcher.RESOURCE_EVENT_TYPE_STREAM
    ]
    started, completed = "RESOURCE_EVENT_TYPE_STARTED", "RESOURCE_EVENT_TYPE_COMPLETED"
    assert [one for one in told if one == (ids["low"], started)] == [(ids["low"], started)]
    assert [one for one in told if one == (ids["other"], started)] == [(ids["other"], started)]
    assert told.index((ids["other"], started)) < told.index((ids["other"], completed))
    assert (ids["top"], completed) in told
    assert told[-1] == (run_id, completed)


# ---- 19: schedule timeout


def test_19_schedule_timeout_in_a_graph_cancels_what_is_below(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("starves")
    put(
        wire,
        name,
        Step("top"),
        Step("starved", ["top"], fields={"schedule_timeout": "1s", "retries": 3}),
        Step("low", ["starved"]),
        on_failure=Step("oops"),
    )
    worker = bare_worker.of(f"{name}:top", f"{name}:low", f"{name}:oops")  # nobody serves `starved`
    run_id = wire.trigger(name)
    wire.complete(take(worker, "top")["top"])
    results = results_of(wire, run_id, timeout=20)
    for task in ("starved", "low"):
        assert results[task].HasField("error")
        assert results[task].error == ""
    assert json.loads(results["oops"].output) == SKIPPED
    assert wire.details(run_id).status == v1.CANCELLED


def test_19_schedule_timeout_starts_anew_for_each_attempt(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(
        wire, bare_worker, Step("only", fields={"schedule_timeout": "2s", "retries": 1})
    )
    action = worker.next()
    time.sleep(1.5)  # of the two seconds, had they gone on
    wire.fail(action, "once")
    action = worker.next()
    assert (action.action_type, action.retry_count) == (START, 1)
    time.sleep(1.5)
    wire.complete(action, '{"v": 1}')
    assert json.loads(wire.result(run_id).output) == {"v": 1}


# ---- 25, and what cancel does


def test_25_cancel_reaches_a_task_that_has_released_its_slot(wire: Wire, bare_worker: BareWorkers) -> None:
    """In the original the worker hears nothing of it."""
    worker, _, run_id = graph(wire, bare_worker, Step("only"))
    worker.next()
    release(wire, run_id)
    cancel(wire, run_id)
    stop = worker.next()
    assert (stop.action_type, stop.task_run_external_id) == (STOP, run_id)
    assert statuses(wire, run_id) == {"only": "CANCELLED"}


def test_cancel_of_a_run_stops_each_running_task_and_cancels_the_rest(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    worker, _, run_id = graph(
        wire, bare_worker, Step("one"), Step("two"), Step("low", ["one", "two"]), on_failure=Step("oops")
    )
    take(worker, "one", "two")
    assert cancel(wire, run_id) == [run_id]
    stops = take(worker, "one", "two")
    assert {stop.action_type for stop in stops.values()} == {STOP}
    assert wire.details(run_id).done  # at once, whatever the worker does
    assert statuses(wire, run_id) | {"oops": ""} == {
        "one": "CANCELLED",
        "two": "CANCELLED",
        "low": "CANCELLED",
        "oops": "",
    }
    assert worker.stream.silent_for(0.5)


def test_late_result_of_a_cancelled_task_changes_nothing_below(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, run_id = graph(wire, bare_worker, Step("top"), Step("low", ["top"]))
    top = take(worker, "top")["top"]
    cancel(wire, run_id)
    wire.complete(top, '{"late": true}')
    results = results_of(wire, run_id)
    assert results["top"].error == results["low"].error == ""
    assert worker.next().action_type == STOP
    assert worker.stream.silent_for(0.5)
