"""The pure parts: transitions, retry, deadlines, durations, definitions, catalog."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_actors import definitions, retry
from broadaxe_actors.catalog import Catalog
from broadaxe_actors.deadlines import BUCKET_US, Deadlines
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.errors import EngineBug, InvalidDefinition, Refused
from broadaxe_actors.followers import RecentResults
from broadaxe_actors.messages import RunFinished, TaskResult
from broadaxe_actors.runtime.clock import SeededRng
from broadaxe_actors.states import HELD_STATES, TRANSITIONS, Transition, after, after_or_none, is_final
from broadaxe_storage.records import FINAL_STATES, TaskRunState

states = st.sampled_from(TaskRunState)
transitions = st.sampled_from(Transition)


# ---------------------------------------------------------------- transitions


@given(states, transitions)
def test_the_table_is_what_is_answered(state, transition):
    expected = TRANSITIONS.get((state, transition))
    assert after_or_none(state, transition) == expected
    if expected is None:
        with pytest.raises(EngineBug, match=f"{state.name} cannot {transition.name}"):
            after(state, transition)
    else:
        assert after(state, transition) == expected


@given(states, transitions)
def test_only_a_replay_leaves_a_final_state(state, transition):
    if is_final(state) and transition is not Transition.REPLAY:
        assert after_or_none(state, transition) is None


def test_every_live_state_can_be_cancelled_and_reaches_an_end():
    for state in set(TaskRunState) - FINAL_STATES:
        assert after(state, Transition.CANCEL) == TaskRunState.CANCELLED


def test_every_state_is_reached_from_the_first_ones():
    reached = {TaskRunState.QUEUED, TaskRunState.WAITING}
    while True:
        more = {to for (state, _), to in TRANSITIONS.items() if state in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == set(TaskRunState)


def test_what_gives_an_attempt_up_leaves_its_worker():
    for transition in (Transition.RETRY, Transition.BACK_OFF, Transition.REASSIGN, Transition.EVICT):
        for state in HELD_STATES:
            assert after(state, transition) not in HELD_STATES


# ---------------------------------------------------------------- retry


def make_task(**fields):
    return TaskDefinition(**{"name": "t", "action": "w:t", **fields})


@given(st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_retries_are_bounded_by_the_budget(retries, done, should_not_retry):
    task = make_task(retries=retries)
    assert retry.has_retry_left(task, done, should_not_retry=should_not_retry) == (
        not should_not_retry and done < retries
    )


@given(st.floats(1, 1e6), st.one_of(st.none(), st.integers(1, 10**6)), st.integers(1, 5_000))
def test_a_pause_grows_to_its_maximum(factor, maximum, number):
    task = make_task(backoff_factor=factor, backoff_max_seconds=maximum)
    pause = retry.backoff_us(task, number)
    assert 0 <= pause <= (maximum or 86_400) * 1_000_000
    assert pause <= retry.backoff_us(task, number + 1)


def test_no_factor_is_no_pause():
    assert retry.backoff_us(make_task(), 3) == 0
    assert retry.backoff_us(make_task(backoff_factor=2.0, backoff_max_seconds=60), 3) == 8_000_000


# ---------------------------------------------------------------- deadlines


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.integers(0, 5_000_000)))))
def test_a_deadline_is_told_once_never_early_and_a_bucket_late_at_most(changes):
    deadlines, model = Deadlines(), {}
    for key, at in changes:
        if at is None:
            deadlines.drop(key)
            model.pop(key, None)
        else:
            deadlines.set(key, at)
            model[key] = at
    assert len(deadlines) == len(model)
    told = {}
    while (due := deadlines.next_due()) is not None:
        assert deadlines.pop_due(due - 1) == []
        told.update(dict.fromkeys(deadlines.pop_due(due), due))
    assert told.keys() == model.keys()
    assert all(0 <= told[key] - at < BUCKET_US for key, at in model.items())
    assert not len(deadlines)


# ---------------------------------------------------------------- definitions


@pytest.mark.parametrize(
    ("text", "us"),
    [("500ms", 500_000), ("90s", 90_000_000), ("1h30m", 5_400_000_000), ("1.5s", 1_500_000), ("0s", 0)],
)
def test_durations(text, us):
    assert definitions.duration_us(text) == us


@pytest.mark.parametrize("text", ["", "5", "s", "1d", "-1s", "1s ", "1 s", "m5"])
def test_what_is_no_duration_is_named(text):
    with pytest.raises(ValueError, match="is not valid"):
        definitions.duration_us(text)


def make_workflow(*tasks, **fields):
    return WorkflowDefinition(**{"name": "w", "tasks": tasks or (make_task(),), **fields})


DIAMOND = (
    make_task(name="a"),
    make_task(name="b", parents=("a",)),
    make_task(name="c", parents=("a",)),
    make_task(name="d", parents=("b", "c")),
)


@given(st.randoms(use_true_random=False))
def test_the_order_of_tasks_does_not_change_the_checksum(shuffler: random.Random):
    tasks = list(DIAMOND)
    shuffler.shuffle(tasks)
    assert definitions.checksum(make_workflow(*tasks)) == definitions.checksum(make_workflow(*DIAMOND))


@pytest.mark.parametrize(
    "change",
    [{"retries": 1}, {"execution_timeout": "6m"}, {"backoff_factor": 2.0}, {"slot_requests": {"gpu": 1}}],
)
def test_what_changes_a_task_changes_the_checksum(change):
    changed = dataclasses.replace(make_task(), **change)
    assert definitions.checksum(make_workflow(changed)) != definitions.checksum(make_workflow())


def test_the_name_of_an_or_group_does_not_count():
    def with_group(name):
        return make_workflow(make_task(conditions=({"kind": "sleep", "or_group_id": name},)))

    assert definitions.checksum(with_group("x")) == definitions.checksum(with_group("y"))


def test_json_is_read_back():
    workflow = make_workflow(*DIAMOND, on_failure_task=make_task(name="f"), event_triggers=("k",))
    assert definitions.from_json(definitions.to_json(workflow)) == workflow


@pytest.mark.parametrize(
    ("workflow", "text"),
    [
        (make_workflow(name="with space"), "workflow name 'with space' is not valid"),
        (WorkflowDefinition("w", ()), "has no tasks"),
        (make_workflow(default_priority=4), "default_priority is 4"),
        (make_workflow(make_task(), make_task()), "two tasks named 't'"),
        (make_workflow(make_task(parents=("x",))), "parent 'x' is not a task"),
        (
            make_workflow(make_task(name="a", parents=("b",)), make_task(name="b", parents=("a",))),
            "cycle",
        ),
        (make_workflow(make_task(action="nothing")), "action 'nothing' is not valid"),
        (make_workflow(make_task(retries=-1)), "retries is -1"),
        (make_workflow(make_task(schedule_timeout="soon")), "schedule_timeout: duration 'soon'"),
    ],
)
def test_what_is_wrong_with_a_definition_is_named(workflow, text):
    with pytest.raises(InvalidDefinition, match=text):
        definitions.validate(workflow)


# ---------------------------------------------------------------- catalog

TENANT = "4da5e709-d471-4d60-88a7-0639eb1167b3"


def test_a_version_is_new_only_when_the_definition_changed():
    catalog, rng = Catalog(), SeededRng(1)
    first, row = catalog.put(TENANT, make_workflow(), rng.uuid7, 1)
    assert row is not None
    assert catalog.put(TENANT, make_workflow(), rng.uuid7, 2) == (first, None)
    second, row = catalog.put(TENANT, make_workflow(make_task(retries=2)), rng.uuid7, 3)
    assert row is not None
    assert (second.number, second.workflow_id) == (2, first.workflow_id)
    assert catalog.latest("w") is second
    assert catalog.version(first.id) is first


def test_the_highest_number_is_the_latest_whatever_the_order_of_recovery():
    catalog, rng = Catalog(), SeededRng(1)
    rows = [
        catalog.put(TENANT, make_workflow(make_task(retries=number)), rng.uuid7, number)[1]
        for number in range(3)
    ]
    restored = Catalog()
    for row in (rows[2], rows[0], rows[1]):
        restored.restore(row)
    assert restored.latest("w").number == 3
    assert restored.version(rows[0].id).number == 1


def test_an_unknown_workflow_is_refused_with_the_nearest_name():
    catalog = Catalog()
    catalog.put(TENANT, make_workflow(name="resize-image"), SeededRng(1).uuid7, 1)
    with pytest.raises(Refused, match="did you mean 'resize-image'"):
        catalog.latest("resize-images")


# ---------------------------------------------------------------- results of runs that ended


def make_finished(run_id):
    result = TaskResult(run_id, "t", TaskRunState.COMPLETED, b"{}", None)
    return RunFinished("tenant", run_id, TaskRunState.COMPLETED, (result,))


def test_a_run_whose_result_was_dropped_is_still_known_to_have_ended(monkeypatch):
    monkeypatch.setattr("broadaxe_actors.followers.RECENT_RESULTS", 1)
    monkeypatch.setattr("broadaxe_actors.followers.ENDED_KEPT", 2)
    recent = RecentResults()
    for run_id in "abcdef":
        recent.put(make_finished(run_id))
        recent.committed((run_id,))
    assert [run_id for run_id in "abcdef" if recent.get(run_id) is not None] == ["f"]
    assert [run_id for run_id in "abcdef" if recent.has_ended(run_id)] == ["c", "d", "e", "f"]
    recent.forget("d")
    recent.forget("e")
    assert [run_id for run_id in "abcdef" if recent.has_ended(run_id)] == ["c", "f"]


def test_a_result_that_a_replay_replaced_goes_in_its_turn(monkeypatch):
    monkeypatch.setattr("broadaxe_actors.followers.RECENT_RESULTS", 2)
    recent = RecentResults()
    recent.put(make_finished("a"))
    recent.committed(("a",))
    recent.forget("a")
    recent.put(make_finished("b"))
    recent.put(make_finished("a"))
    recent.committed(("b",))
    assert recent.get("a") is not None
    assert recent.is_uncommitted("a")
    recent.put(make_finished("c"))
    recent.committed(("a", "c"))
    assert [run_id for run_id in "abc" if recent.get(run_id) is not None] == ["a", "c"]
