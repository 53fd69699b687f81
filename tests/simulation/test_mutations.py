"""Proof that the simulation can fail: each mutation of the engine, planted on purpose, is caught within some seeds."""

import pytest

from tests.simulation import mutations, run_mutations
from tests.simulation.planted import is_caught

MUTATIONS = (
    run_mutations.never_judge_on_failure,
    run_mutations.judge_on_failure_always_as_needed,
    run_mutations.end_a_run_one_task_early,
    run_mutations.do_not_record_the_end_of_a_task,
    run_mutations.run_children_of_failed_parents,
    run_mutations.cancel_before_skip,
    run_mutations.start_a_child_with_its_first_parent,
    run_mutations.keep_outputs_from_children,
    run_mutations.leave_out_the_unspill_record,
    run_mutations.ignore_scopes,
    run_mutations.do_not_look_back,
    run_mutations.forget_filters_at_recovery,
    run_mutations.take_failed_filters_for_true,
    run_mutations.give_filters_to_every_task,
    run_mutations.end_sleeps_early,
    run_mutations.end_sleeps_late,
    run_mutations.forget_waits_at_recovery,
    run_mutations.cancel_only_what_runs,
    run_mutations.keep_the_attempt_in_a_replay,
    run_mutations.replay_what_was_meant_alone,
    run_mutations.tell_the_former_end_of_a_replayed_run,
    run_mutations.count_a_released_slot,
    run_mutations.extend_no_deadline,
    run_mutations.never_release_a_key,
    run_mutations.give_every_key_to_who_asks,
    mutations.answer_before_the_commit,
    mutations.run_before_the_commit,
    mutations.take_unknown_for_written,
    mutations.drop_what_postgres_does_not_take,
    mutations.keep_the_slot_of_a_failed_attempt,
    mutations.give_a_slot_twice,
    mutations.forget_who_is_lost,
    mutations.believe_every_report,
    mutations.forget_paging,
    mutations.let_newcomers_overtake,
    mutations.forget_spawn_keys,
    mutations.restart_the_attempt_count,
    mutations.ignore_what_a_worker_brings_back,
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_planted_mistake_is_caught(mutation, monkeypatch):
    mutation(monkeypatch)
    assert is_caught(), f"no seed noticed: {mutation.__doc__}"
