"""Mistakes that a change to the engine could make with crons and scheduled runs: `test_timer_mutations` plants each of them."""

from broadaxe_actors import timers
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.timers import Hints


def make_runs_without_what_their_timers_say(monkeypatch):
    """A run is made, and its timer does not know."""
    monkeypatch.setattr(RunTracker, "_may_record", lambda *_: False)


def fire_early(monkeypatch):
    """What is due within a second counts as due."""
    real = timers.tick_of
    monkeypatch.setattr(timers, "tick_of", lambda row, now, up_since: real(row, now + 1_000_000, up_since))
    take = Hints.take_due
    monkeypatch.setattr(Hints, "take_due", lambda hints, now, *most: take(hints, now + 1_000_000, *most))


def read_no_page(monkeypatch):
    """After a restart only new timers fire."""
    real = Hints.page_read
    monkeypatch.setattr(Hints, "page_read", lambda hints, page, **_: real(hints, [], is_last=True))
