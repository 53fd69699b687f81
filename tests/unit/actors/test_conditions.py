"""Gates, waits and the index of waits: what the documents say of conditions, each a case."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_actors import cel
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition, validate
from broadaxe_actors.errors import InvalidDefinition
from broadaxe_actors.gates import Gate, Verdict, make_plan
from broadaxe_actors.wait_index import Wait, WaitIndex
from broadaxe_actors.waits import Waits
from broadaxe_storage.records import TaskRunState

S = TaskRunState
_groups = itertools.count()


def on(parent, action="QUEUE", expression="", group=None):
    return {
        "kind": "parent",
        "parent": parent,
        "action": action,
        "expression": expression,
        "readable_data_key": parent,
        "or_group_id": group or f"g{next(_groups)}",
    }


def sleep(duration, action="QUEUE", group=None):
    return {
        "kind": "sleep",
        "sleep_for": duration,
        "action": action,
        "expression": "",
        "readable_data_key": f"sleep:{duration}",
        "or_group_id": group or f"g{next(_groups)}",
    }


def event(key, action="QUEUE", group=None, expression="", scope=None):
    return {
        "kind": "event",
        "event_key": key,
        "event_scope": scope,
        "action": action,
        "expression": expression,
        "readable_data_key": key,
        "or_group_id": group or f"g{next(_groups)}",
    }


def make_gate(parents, *conditions):
    tasks = [TaskDefinition(name, f"w:{name}") for name in parents]
    tasks.append(TaskDefinition("t", "w:t", parents=tuple(parents), conditions=conditions))
    definition = WorkflowDefinition("w", tuple(tasks))
    validate(definition)
    return Gate(make_plan(definition, len(parents)))


def end(gate, parent, state=S.COMPLETED, *, is_skipped=None, truth=True):
    """A parent's end; every expression on its output comes to `truth`."""
    rules = gate.plan.rules[parent]
    results = {rule.expression: truth for rule in rules if rule.expression is not None}
    gate.parent_ended(
        parent, state, is_skipped=state == S.SKIPPED if is_skipped is None else is_skipped, results=results
    )
    return gate.first_verdict()


# ---------------------------------------------------------------- first stage


def test_a_task_without_conditions_waits_for_all_its_parents():
    gate = make_gate(["a", "b"])
    assert end(gate, 0) is Verdict.OPEN
    assert end(gate, 1) is Verdict.QUEUE


def test_a_task_without_parents_may_start_at_once():
    assert make_gate([]).first_verdict() is Verdict.QUEUE


@pytest.mark.parametrize("state", [S.FAILED, S.CANCELLED])
def test_a_parent_that_failed_or_was_cancelled_cancels_whatever_else_is_declared(state):
    assert end(make_gate(["a", "b"]), 0, state) is Verdict.CANCEL
    assert end(make_gate(["a", "b"], on("b", "CANCEL", "output.x")), 0, state) is Verdict.CANCEL
    assert end(make_gate(["a", "b"], on("a", "SKIP", "output.x")), 0, state) is Verdict.CANCEL


def test_a_task_is_skipped_by_default_only_if_all_its_parents_were():
    gate = make_gate(["a", "b"])
    end(gate, 0, S.SKIPPED)
    assert end(gate, 1, S.SKIPPED) is Verdict.SKIP
    gate = make_gate(["a", "b"])
    end(gate, 0, S.SKIPPED)
    assert end(gate, 1, S.COMPLETED) is Verdict.QUEUE


def test_an_output_that_says_skipped_counts_as_skipped():
    gate = make_gate(["a"])
    assert end(gate, 0, S.COMPLETED, is_skipped=True) is Verdict.SKIP


def test_a_declared_skip_takes_the_place_of_the_default_ones_of_all_parents():
    gate = make_gate(["a", "b"], on("a", "SKIP", "output.x"))
    end(gate, 0, S.SKIPPED, truth=False)
    assert end(gate, 1, S.SKIPPED) is Verdict.QUEUE


def test_skip_fires_while_other_parents_still_run():
    gate = make_gate(["a", "b"], on("a", "SKIP", "output.x"))
    assert end(gate, 0) is Verdict.SKIP


def test_skip_goes_before_cancel_and_cancel_before_queue():
    gate = make_gate(["a"], on("a", "SKIP", "output.x"), on("a", "CANCEL", "output.y"))
    assert end(gate, 0) is Verdict.SKIP
    gate = make_gate(["a"], on("a", "CANCEL"))
    assert end(gate, 0, is_skipped=True) is Verdict.SKIP
    gate = make_gate(["a"], on("a", "SKIP", "output.x"), on("a", "CANCEL", ""))
    assert end(gate, 0, truth=False) is Verdict.CANCEL


def test_wait_for_takes_the_place_of_the_default_and_dead_conditions_are_told():
    gate = make_gate(["a", "b"], on("a", "QUEUE", "output.x"))
    end(gate, 1)
    assert end(gate, 0, truth=False) is Verdict.DEAD
    assert "parent 'a' with output.x" in gate.dead_reason()


def test_one_condition_of_an_or_group_suffices():
    gate = make_gate(["a", "b"], on("a", group="g"), on("b", group="g"))
    assert end(gate, 0) is Verdict.QUEUE


def test_all_groups_of_an_action_must_hold():
    gate = make_gate(["a", "b"], on("a", "SKIP", "output.x"), on("b", "SKIP", "output.x"))
    assert end(gate, 0) is Verdict.OPEN
    assert end(gate, 1) is Verdict.SKIP


def test_an_end_that_is_told_twice_counts_once():
    gate = make_gate(["a", "b"])
    end(gate, 0)
    assert end(gate, 0) is Verdict.OPEN


# ---------------------------------------------------------------- second stage


def test_sleeps_and_events_come_after_the_parents():
    gate = make_gate(["a"], sleep("1s"))
    assert gate.first_verdict() is Verdict.OPEN
    assert end(gate, 0) is Verdict.WAIT
    assert gate.second_verdict(set()) is Verdict.OPEN
    assert gate.second_verdict({0}) is Verdict.QUEUE


def test_conjunctive_normal_form_of_waits():
    gate = make_gate([], sleep("1s", group="x"), event("e", group="x"), event("f", group="y"))
    assert gate.second_verdict({0, 1}) is Verdict.OPEN
    assert gate.second_verdict({1, 2}) is Verdict.QUEUE


def test_a_skip_event_beats_the_sleep_that_ends_with_it():
    gate = make_gate([], sleep("1s"), event("e", "SKIP"))
    assert gate.second_verdict({0, 1}) is Verdict.SKIP
    gate = make_gate([], sleep("1s"), event("e", "CANCEL"))
    assert gate.second_verdict({0, 1}) is Verdict.CANCEL


def test_a_group_of_parent_and_event_is_fulfilled_by_either():
    gate = make_gate(["a"], on("a", "QUEUE", "output.x", "g"), event("e", group="g"))
    assert end(gate, 0, truth=False) is Verdict.WAIT
    assert gate.second_verdict({0}) is Verdict.QUEUE
    gate = make_gate(["a"], on("a", "QUEUE", "output.x", "g"), event("e", group="g"))
    assert end(gate, 0, truth=True) is Verdict.WAIT
    assert gate.second_verdict(set()) is Verdict.QUEUE
    assert not gate.is_needed(gate.plan.waits[0])


def test_a_parent_that_fails_while_the_task_waits_cancels_it():
    gate = make_gate(["a", "b"], on("a", group="g"), on("b", group="g"), sleep("1s"))
    assert end(gate, 0) is Verdict.WAIT
    end(gate, 1, S.FAILED)
    assert gate.second_verdict(set()) is Verdict.CANCEL


def test_a_task_with_nothing_but_skip_events_starts_unless_one_has_come():
    gate = make_gate(["a"], event("e", "SKIP"))
    assert end(gate, 0) is Verdict.WAIT
    assert gate.second_verdict(set()) is Verdict.QUEUE
    assert gate.second_verdict({0}) is Verdict.SKIP


@given(
    st.lists(st.sampled_from([S.COMPLETED, S.SKIPPED, S.FAILED, S.CANCELLED]), min_size=1, max_size=6),
    st.randoms(),
)
def test_the_order_in_which_parents_end_does_not_matter_for_tasks_without_conditions(states, rng):
    verdicts = set()
    for _ in range(3):
        gate = make_gate([f"p{index}" for index in range(len(states))])
        order = list(range(len(states)))
        rng.shuffle(order)
        for index in order:
            verdict = end(gate, index, states[index])
        verdicts.add(verdict)
    expected = (
        Verdict.CANCEL
        if {S.FAILED, S.CANCELLED} & set(states)
        else Verdict.SKIP
        if set(states) == {S.SKIPPED}
        else Verdict.QUEUE
    )
    assert verdicts == {expected}


# ---------------------------------------------------------------- waits


def test_a_sleep_keeps_its_deadline_over_a_restart():
    plan = make_gate([], sleep("10s"), sleep("2s")).plan
    waits = Waits.from_json(Waits(1_000_000).to_json())
    assert waits.next_deadline(plan, 1_000_000) == 3_000_000
    assert waits.met(plan, 2_999_999) == set()
    assert waits.met(plan, 3_000_000) == {1}
    assert waits.next_deadline(plan, 3_000_000) == 11_000_000
    assert waits.next_deadline(plan, 11_000_000) is None


def test_what_let_a_task_start_is_told_by_its_readable_keys():
    plan = make_gate([], sleep("1s"), event("paid"), event("stop", "SKIP")).plan
    waits = Waits(0)
    assert waits.meet(1, '{"amount":7}')
    assert not waits.meet(1, '{"amount":8}')
    waits.meet(2, "{}")
    waits.until = 1_000_000
    restored = Waits.from_json(waits.to_json())
    assert restored.triggers(plan) == '{"sleep:1s":{"sleep_duration": "1s"},"paid":{"amount":7}}'
    assert list(restored.open_events(plan)) == []


def test_a_sleep_that_ends_after_the_decision_did_not_let_the_task_start():
    plan = make_gate([], sleep("10s", group="g"), event("e", group="g")).plan
    waits = Waits(0)
    waits.meet(1, "{}")
    waits.until = 1_000_000
    assert waits.met(plan, 60_000_000) == {1}


# ---------------------------------------------------------------- index


def make_wait(task_run_id, number=0, key="k", scope=None, expression=None):
    compiled = cel.compile(expression, cel.Environment.EVENT_CONDITION) if expression else None
    return Wait(task_run_id, 0, number, key, scope, compiled, 0)


def found(index, payload, key="k", scope=None):
    return sorted(wait.task_run_id for wait in index.candidates(key, scope, payload))


def test_waits_are_found_by_key_scope_and_what_their_expression_demands():
    index = WaitIndex()
    index.add(make_wait("plain"))
    index.add(make_wait("scoped", scope="s"))
    index.add(make_wait("one", expression="input.order == '1'"))
    index.add(make_wait("two", expression="input.order == '2' && input.n > 3.0"))
    index.add(make_wait("open", expression="input.n > 3.0"))
    index.add(make_wait("other", key="other"))
    assert found(index, b'{"order":"1"}') == ["one", "open", "plain"]
    assert found(index, b'{"order":"2"}', scope="s") == ["open", "plain", "scoped", "two"]
    assert found(index, b"", key="other") == ["other"]
    assert found(index, b'{"order":{"deep":1}}') == ["open", "plain"]


def test_a_dropped_wait_is_gone_and_leaves_nothing():
    index = WaitIndex()
    for number in range(3):
        index.add(make_wait("a", number, expression=f"input.x == '{number}'" if number else None))
    index.add(make_wait("a", 0))
    assert len(index) == 3
    index.drop("a")
    index.drop("a")
    assert len(index) == 0
    assert index._by_key == {}


# ---------------------------------------------------------------- definitions


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (on("nobody"), "'nobody', which is not a task"),
        (on("b"), "not among its parents"),
        (on("a", expression="output.n >"), "output.n >"),
        (sleep("-5s"), "sleep condition"),
        (event("e", expression="nonsense.x"), "nonsense"),
    ],
)
def test_a_condition_that_cannot_be_is_refused_naming_workflow_task_and_cause(condition, text):
    definition = WorkflowDefinition(
        "w",
        (
            TaskDefinition("a", "w:a"),
            TaskDefinition("b", "w:b"),
            TaskDefinition("t", "w:t", parents=("a",), conditions=(condition,)),
        ),
    )
    with pytest.raises(InvalidDefinition) as refusal:
        validate(definition)
    for part in ("'w'", "'t'", text):
        assert part in str(refusal.value)
