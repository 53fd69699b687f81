"""Mistakes that a change to the engine could make with single task runs: `test_mutations` plants each of them.

A mutation replaces a handler or an inner method while it is tried.
"""

from types import MappingProxyType

from broadaxe_actors.claims import Claims
from broadaxe_actors.connected_worker import ConnectedWorker
from broadaxe_actors.journal import Journal
from broadaxe_actors.matching import Matcher
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.runtime.actor import Actor
from broadaxe_actors.spill import SpillLedger
from broadaxe_actors.task_run import TaskRun


def replace_handler(monkeypatch, actor_class, name, function):
    function.__name__ = name
    monkeypatch.setattr(actor_class, "handlers", MappingProxyType({**actor_class.handlers, name: function}))
    monkeypatch.setattr(actor_class, name, function)


def answer_before_the_commit(monkeypatch):
    """A reply leaves when the handler returns."""
    real = Actor.send_after_commit

    def send_after_commit(actor, method, *args):
        if isinstance(actor, RunTracker) and method.name == "deliver":
            method.send(*args)
        else:
            real(actor, method, *args)

    monkeypatch.setattr(Actor, "send_after_commit", send_after_commit)


def run_before_the_commit(monkeypatch):
    """A retry, or a child, is queued before what leads to it is committed."""
    real = Actor.send_after_commit

    def send_after_commit(actor, method, *args):
        if method.name == "queued":
            method.send(*args)
        else:
            real(actor, method, *args)

    monkeypatch.setattr(Actor, "send_after_commit", send_after_commit)


def take_unknown_for_written(monkeypatch):
    """A commit of unknown outcome counts as done."""
    monkeypatch.setattr(Journal, "_ask_outcome", Journal._succeed)


def drop_what_postgres_does_not_take(monkeypatch):
    """A flush is dropped when Postgres is away."""

    def pause(journal, then):
        journal._succeed(journal._in_flight)

    monkeypatch.setattr(Journal, "_pause", pause)


def keep_the_slot_of_a_failed_attempt(monkeypatch):
    """A slot is not given back, now and then."""
    real = Matcher.release
    count = iter(range(1 << 40))

    def release(matcher, *args):
        if next(count) % 40 != 39:
            real(matcher, *args)

    monkeypatch.setattr(Matcher, "release", release)


def give_a_slot_twice(monkeypatch):
    """A match takes no slot."""
    real = Matcher.match

    def match(matcher, limit):
        proposals = real(matcher, limit)
        for proposal in proposals[:1]:
            matcher.release(proposal.worker_id, proposal.task_run_id, proposal.attempt)
        return proposals

    monkeypatch.setattr(Matcher, "match", match)


def forget_who_is_lost(monkeypatch):
    """The attempts of a lost worker are not taken back."""
    replace_handler(monkeypatch, RunTracker, "worker_lost", lambda *_: None)


def believe_every_report(monkeypatch):
    """A late report of an old attempt ends the run."""
    real = RunTracker.report

    def report(tracker, gateway, message):
        items = tuple(item._replace(attempt=None) for item in message.reports)
        real(tracker, gateway, message._replace(reports=items))

    replace_handler(monkeypatch, RunTracker, "report", report)


def forget_paging(monkeypatch):
    """What waits in Postgres is not read again after the first page."""

    def paged_in(ledger, line):
        state = ledger._lines.get(line)
        return None if state is None or state.after_seq else real(ledger, line)

    real = SpillLedger.next_page
    monkeypatch.setattr(SpillLedger, "next_page", paged_in)


def let_newcomers_overtake(monkeypatch):
    """A newcomer enters memory although its line waits in Postgres."""

    def enter(ledger, line):
        state = ledger._lines.get(line)
        if state is not None and state.in_memory < ledger._high:
            state.in_memory += 1
            return False
        return real(ledger, line)

    real = SpillLedger.enter
    monkeypatch.setattr(SpillLedger, "enter", enter)


def forget_spawn_keys(monkeypatch):
    """A retried parent spawns its children again."""

    def claim(claims, job, requests):
        claims._tracker.claimed.send(job, tuple(request.run_id for request in requests))

    replace_handler(monkeypatch, Claims, "claim", claim)


def restart_the_attempt_count(monkeypatch):
    """A retry does not count."""
    real = TaskRun.update_record

    def update_record(task, tenant_id):
        return real(task, tenant_id)._replace(app_retries=0)

    monkeypatch.setattr(TaskRun, "update_record", update_record)


def ignore_what_a_worker_brings_back(monkeypatch):
    """A returning batched worker's list of attempts is not compared."""
    monkeypatch.setattr(ConnectedWorker, "_reconcile", lambda *_: None)
