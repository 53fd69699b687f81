"""As `test_mutations`, with concurrency groups and rate limits; a file of its own, so that both run side by side."""

import pytest

from tests.simulation import flow_mutations
from tests.simulation.planted import is_caught

MUTATIONS = (
    flow_mutations.forget_who_holds_a_place,
    flow_mutations.leave_the_begin_of_a_run_unrecorded,
    flow_mutations.admit_one_too_many,
    flow_mutations.keep_the_place_of_who_has_ended,
    flow_mutations.displace_nobody,
    flow_mutations.keep_credits_of_a_window_that_is_over,
    flow_mutations.grant_more_than_the_window_has,
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_planted_mistake_is_caught(mutation, monkeypatch):
    mutation(monkeypatch)
    assert is_caught(), f"no seed noticed: {mutation.__doc__}"
