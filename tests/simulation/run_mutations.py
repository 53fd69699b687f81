"""Mistakes that a change to the engine could make with runs of several tasks, waits, replays and keys: `test_mutations` plants each of them."""

from typing import NamedTuple

import pytest

from broadaxe_actors.claims import Claims
from broadaxe_actors.event_router import EventRouter
from broadaxe_actors.followers import RecentResults
from broadaxe_actors.gates import Action, Gate, Verdict
from broadaxe_actors.run import Run
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.runtime.actor import Actor
from broadaxe_actors.states import HELD_STATES
from broadaxe_actors.task_run import TaskRun
from broadaxe_actors.wait_index import WaitIndex
from broadaxe_actors.waits import Waits
from broadaxe_storage.records import TaskRunSettle, TaskRunState
from tests.simulation.mutations import replace_handler

# ---------------------------------------------------------------- runs of several tasks


def never_judge_on_failure(monkeypatch):
    """The on-failure task is left undecided."""
    monkeypatch.setattr(RunTracker, "_judge_on_failure", lambda *_: None)


def judge_on_failure_always_as_needed(monkeypatch):
    """The on-failure task runs although nothing failed."""
    monkeypatch.setattr(Run, "failures", lambda _run: [("nothing", b"")])


def end_a_run_one_task_early(monkeypatch):
    """The end of a run is recorded when one of its tasks has yet to end."""
    real = RunTracker._note_end

    def note_end(tracker, run, index, ended):
        real(tracker, run, index, ended)
        if run.open_count == 1:
            run.open_count = 0

    monkeypatch.setattr(RunTracker, "_note_end", note_end)


def do_not_record_the_end_of_a_task(monkeypatch):
    """The end of a task of a run of several stays in memory."""
    real = Actor.record

    def record(actor, item):
        if not isinstance(item, TaskRunSettle):
            real(actor, item)

    monkeypatch.setattr(Actor, "record", record)


def run_children_of_failed_parents(monkeypatch):
    """A parent that failed counts as one that completed."""
    real = Gate.parent_ended

    def parent_ended(gate, parent, state, **fields):
        if state == TaskRunState.FAILED:
            fields["results"] = dict.fromkeys(gate.plan.expressions[parent], True)
            state = TaskRunState.COMPLETED
        real(gate, parent, state, **fields)

    monkeypatch.setattr(Gate, "parent_ended", parent_ended)


def cancel_before_skip(monkeypatch):
    """What would skip and cancel at once cancels."""
    first, second = Gate.first_verdict, Gate.second_verdict

    def is_cancelled(gate, held):
        cancel = gate.plan.all_groups[Action.CANCEL]
        return cancel and held == cancel

    def first_verdict(gate):
        return Verdict.CANCEL if is_cancelled(gate, gate._held[Action.CANCEL]) else first(gate)

    def second_verdict(gate, met):
        held = gate._held[Action.CANCEL]
        for number in met:
            rule = gate.plan.waits[number]
            held |= (rule.action == Action.CANCEL) << rule.group
        return Verdict.CANCEL if is_cancelled(gate, held) else second(gate, met)

    monkeypatch.setattr(Gate, "first_verdict", first_verdict)
    monkeypatch.setattr(Gate, "second_verdict", second_verdict)


def start_a_child_with_its_first_parent(monkeypatch):
    """A child does not wait for all of its parents."""
    real = Gate.first_verdict

    def first_verdict(gate):
        verdict = real(gate)
        return Verdict.QUEUE if verdict is Verdict.OPEN and gate._ended and not gate.plan.waits else verdict

    monkeypatch.setattr(Gate, "first_verdict", first_verdict)


def keep_outputs_from_children(monkeypatch):
    """A child is started without what its parents left."""
    monkeypatch.setattr(Run, "outputs_for", lambda *_: ())


def leave_out_the_unspill_record(monkeypatch):
    """A run that comes into memory still waits in Postgres by the record."""
    real = RunTracker._hydrate

    def hydrate(tracker, rows):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tracker, "record", lambda _item: None)
            real(tracker, rows)

    monkeypatch.setattr(RunTracker, "_hydrate", hydrate)


# ---------------------------------------------------------------- sleeps and events


def ignore_scopes(monkeypatch):
    """An event of another scope ends a wait."""
    real = WaitIndex.add
    monkeypatch.setattr(WaitIndex, "add", lambda index, wait: real(index, wait._replace(scope=None)))


def do_not_look_back(monkeypatch):
    """A wait does not see the events of before."""

    def add_waits(router, waits):
        for wait in waits:
            router._waits.add(wait)
        router._tracker.waits_checked.send(tuple((wait.task_run_id, wait.attempt) for wait in waits))

    replace_handler(monkeypatch, EventRouter, "add_waits", add_waits)


def forget_filters_at_recovery(monkeypatch):
    """The engine knows no filters after a restart."""
    replace_handler(monkeypatch, EventRouter, "restore_filters", lambda _router, _rows: None)


def take_failed_filters_for_true(monkeypatch):
    """A filter that cannot be evaluated on an event starts a run."""
    monkeypatch.setattr(
        EventRouter, "_note_failure", lambda router, push, question, _: router._start_by(push, question)
    )


def give_filters_to_every_task(monkeypatch):
    """Tasks below the first ones of a run are given the filter's payload, too."""
    monkeypatch.setattr(Run, "filter_for", lambda run, _step: run.filter)


def end_sleeps_early(monkeypatch):
    """A sleep ends 100 ms before its time."""
    met, next_deadline = Waits.met, Waits.next_deadline

    def early_deadline(waits, plan, now):
        found = next_deadline(waits, plan, now + 100_000)
        return None if found is None else found - 100_000

    monkeypatch.setattr(Waits, "met", lambda waits, plan, now: met(waits, plan, now + 100_000))
    monkeypatch.setattr(Waits, "next_deadline", early_deadline)


def end_sleeps_late(monkeypatch):
    """A sleep ends 400 ms after its time."""
    real = Waits.met
    monkeypatch.setattr(
        Waits,
        "met",
        lambda waits, plan, now: real(waits, plan, now - (400_000 if waits.until is None else 0)),
    )
    real_deadline = Waits.next_deadline

    def next_deadline(waits, plan, now):
        found = real_deadline(waits, plan, now - 400_000)
        return None if found is None else found + 400_000

    monkeypatch.setattr(Waits, "next_deadline", next_deadline)


def forget_waits_at_recovery(monkeypatch):
    """Nobody is told again of the waits that the record has."""
    real = RunTracker._watch

    def watch(tracker, task, gate, turn):
        if not task.is_recovered or task.attempt:
            real(tracker, task, gate, turn)

    monkeypatch.setattr(RunTracker, "_watch", watch)


# ---------------------------------------------------------------- cancel, replay, slots, keys


def cancel_only_what_runs(monkeypatch):
    """A cancelled run keeps those of its tasks that no worker holds."""
    real = RunTracker._cancel_run

    def cancel_run(tracker, run, turn):
        hidden = {
            index: entry
            for index, entry in enumerate(run.entries)
            if isinstance(entry, TaskRun) and entry.state not in HELD_STATES
        }
        for index, entry in hidden.items():
            run.entries[index] = Spared(entry)
        real(tracker, run, turn)
        for index, entry in hidden.items():
            run.entries[index] = entry

    monkeypatch.setattr(RunTracker, "_cancel_run", cancel_run)


def keep_the_attempt_in_a_replay(monkeypatch):
    """A replayed task run begins anew at the attempt at which it had ended."""
    real = RunTracker._anew
    monkeypatch.setattr(
        RunTracker, "_anew", lambda tracker, row: real(tracker, row)._replace(attempt=row.attempt)
    )


def replay_what_was_meant_alone(monkeypatch):
    """What is below a replayed task keeps its result."""
    real = RunTracker._revive_run

    def revive_run(tracker, run_id, rows, wanted, turn):
        version = tracker._catalog.version(rows[0].workflow_version_id)
        children, version.children = version.children, ((),) * len(version.steps)
        try:
            return real(tracker, run_id, rows, wanted, turn)
        finally:
            version.children = children

    monkeypatch.setattr(RunTracker, "_revive_run", revive_run)


def tell_the_former_end_of_a_replayed_run(monkeypatch):
    """A watcher of a replayed run is told how it had ended."""
    monkeypatch.setattr(RecentResults, "forget", lambda *_: None)


def count_a_released_slot(monkeypatch):
    """A slot that was given back stays taken."""
    real = RunTracker.release_slot

    def release_slot(tracker, gateway, message):
        queue, tracker._queue = tracker._queue, Silent()
        real(tracker, gateway, message)
        tracker._queue = queue

    replace_handler(monkeypatch, RunTracker, "release_slot", release_slot)


def extend_no_deadline(monkeypatch):
    """An attempt that was given more time is ended at the former deadline."""
    real = RunTracker.refresh_timeout

    def refresh_timeout(tracker, gateway, message):
        task = tracker._live.get(message.task_run_id)
        former = task and task.execution_deadline
        real(tracker, gateway, message)
        if former and tracker._live.get(message.task_run_id) is task:
            tracker._set_deadline(task, former)

    replace_handler(monkeypatch, RunTracker, "refresh_timeout", refresh_timeout)


def never_release_a_key(monkeypatch):
    """An ended run keeps its idempotency key although its method is STATUS."""
    monkeypatch.setattr(RunTracker, "_end_claim", lambda *_: None)


def give_every_key_to_who_asks(monkeypatch):
    """Two runs of one key are both made."""

    def claim_keys(claims, job, requests):
        claims._tracker.keys_claimed.send(job, tuple(request.run_id for request in requests))

    replace_handler(monkeypatch, Claims, "claim_keys", claim_keys)


class Spared(NamedTuple):
    """Stands in for a task run that a cancel does not see."""

    task: TaskRun


class Silent:
    """A neighbour that hears nothing."""

    def __getattr__(self, _name):
        return self

    def send(self, *_args):
        pass
