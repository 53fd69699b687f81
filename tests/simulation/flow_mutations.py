"""Mistakes that a change to the engine could make with concurrency groups and rate limits: `test_mutations` plants each of them."""

from broadaxe_actors.concurrency import Group
from broadaxe_actors.credits import Credits
from broadaxe_actors.rate_limits import Bucket
from broadaxe_actors.run_tracker import RunTracker


def forget_who_holds_a_place(monkeypatch):
    """After a restart nobody holds a place."""
    monkeypatch.setattr(RunTracker, "_hold_places", lambda *_: None)


def leave_the_begin_of_a_run_unrecorded(monkeypatch):
    """A run that has begun asks for its places again after a restart."""
    monkeypatch.setattr(RunTracker, "_record_start", lambda tracker, task: tracker._save(task))


def admit_one_too_many(monkeypatch):
    """A group is not full when it is."""
    real = Group.admit

    def admit(group):
        limit = group.strategy
        group.strategy = limit._replace(max_runs=limit.max_runs + 1)
        try:
            return real(group)
        finally:
            group.strategy = limit

    monkeypatch.setattr(Group, "admit", admit)


def keep_the_place_of_who_has_ended(monkeypatch):
    """A place is not given up, now and then."""
    real = Group.leave
    count = iter(range(1 << 40))

    def leave(group, member_id):
        if next(count) % 10 != 9:
            real(group, member_id)

    monkeypatch.setattr(Group, "leave", leave)


def displace_nobody(monkeypatch):
    """Whoever a strategy cancels goes on."""
    monkeypatch.setattr(RunTracker, "_cancel_member", lambda *_: None)


def keep_credits_of_a_window_that_is_over(monkeypatch):
    """What a window has left is used in the next one as well."""
    monkeypatch.setattr(Credits, "expire", lambda *_: None)


def grant_more_than_the_window_has(monkeypatch):
    """A bucket gives whoever asks what he wants."""

    def take(_bucket, wanted):
        return wanted

    monkeypatch.setattr(Bucket, "take", take)
