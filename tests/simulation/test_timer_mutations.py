"""As `test_mutations`, with crons and scheduled runs; a file of its own, so that both run side by side."""

import pytest

from tests.simulation import timer_mutations
from tests.simulation.planted import is_caught

MUTATIONS = (
    timer_mutations.make_runs_without_what_their_timers_say,
    timer_mutations.fire_early,
    timer_mutations.read_no_page,
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_planted_mistake_is_caught(mutation, monkeypatch):
    mutation(monkeypatch)
    assert is_caught(), f"no seed noticed: {mutation.__doc__}"
