"""Idempotency keys, through `Claims` and through the tracker: one run a key at a time, whatever crosses whatever."""

import pytest

from broadaxe_actors.claims import Claims, KeyRequest
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.errors import Code
from broadaxe_actors.messages import (
    IdempotencyCollision,
    IdempotencyCollisions,
    NewRun,
    PutWorkflow,
    Refusal,
    TriggerRuns,
)
from broadaxe_actors.run_tracker import RunTracker
from broadaxe_actors.runtime.testing import Probe, Sent, peer
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.telemetry import Telemetry
from broadaxe_storage.memory import MemoryStore
from broadaxe_storage.records import IdempotencyKeyRow, TaskRunRow
from tests.factories import TENANT, new_id

LATE = 1 << 60
"""A time at which no claim of these tests has expired."""

# ---------------------------------------------------------------- claims


@pytest.fixture
def claims():
    probe = Probe(Claims, TENANT, MemoryStore())
    probe.call("connect", peer("tracker"))
    return probe


def ask(claims, job, *keys_and_runs):
    return claims.call("claim_keys", job, tuple(KeyRequest(key, run, LATE) for key, run in keys_and_runs))


def answer_read(claims, fetch, *rows):
    return claims.call("keys_loaded", fetch.context, list(rows), None)


def owners(said):
    (sent,) = said.sends
    assert sent.method == "keys_claimed"
    return sent.args[1]


def test_a_key_that_was_released_while_it_was_read_is_free(claims):
    (fetch,) = ask(claims, 1, ("k", "new")).fetches
    claims.call("release_key", "k", "old")
    said = answer_read(claims, fetch, IdempotencyKeyRow(TENANT, "k", "old", LATE))
    assert owners(said) == ("new",)


def test_a_key_whose_release_is_not_committed_yet_is_free(claims):
    claims.call("release_key", "k", "old")
    (fetch,) = ask(claims, 1, ("k", "new")).fetches
    said = answer_read(claims, fetch, IdempotencyKeyRow(TENANT, "k", "old", LATE))
    assert owners(said) == ("new",)


def test_a_claim_that_a_slow_read_does_not_know_is_not_forgotten_before_its_answer(claims, monkeypatch):
    monkeypatch.setattr("broadaxe_actors.claims.KEYS_KEPT", 0)
    (first,) = ask(claims, 1, ("k", "a")).fetches
    (second,) = ask(claims, 2, ("k", "b")).fetches
    assert owners(answer_read(claims, first)) == ("a",)
    claims.call("keys_committed", (("k", "a"),))
    assert owners(answer_read(claims, second)) == ("a",)


def test_a_key_forgotten_while_another_of_its_request_was_read_is_read_too(claims, monkeypatch):
    (fetch,) = ask(claims, 1, ("k", "a")).fetches
    answer_read(claims, fetch)
    monkeypatch.setattr("broadaxe_actors.claims.KEYS_KEPT", 0)
    (fetch,) = ask(claims, 2, ("k", "b"), ("other", "c")).fetches
    assert fetch.args[1] == ["k", "other"]
    claims.call("keys_committed", (("k", "a"),))
    said = answer_read(claims, fetch, IdempotencyKeyRow(TENANT, "k", "a", LATE))
    assert owners(said) == ("a", "c")


def test_the_commit_of_a_former_claim_says_nothing_of_the_next(claims, monkeypatch):
    (fetch,) = ask(claims, 1, ("k", "a")).fetches
    answer_read(claims, fetch)
    claims.call("release_key", "k", "a")
    assert owners(ask(claims, 2, ("k", "b"))) == ("b",)
    monkeypatch.setattr("broadaxe_actors.claims.KEYS_KEPT", 0)
    claims.call("keys_committed", (("k", "a"),))
    assert owners(ask(claims, 3, ("k", "c"))) == ("b",)


# ---------------------------------------------------------------- the way of a trigger


class Bench:
    """A tracker and the claims that it asks, between peers."""

    def __init__(self):
        self.probe = Probe(RunTracker, TENANT, MemoryStore(), ShardSettings(), Telemetry(), lane=TENANT)
        self.claims, self.gateway = peer("claims"), peer("gateway")
        self.probe.call("connect", peer("queue"), self.claims, peer("router"), peer("supervisor"))
        self.probe.call("connect_timetable", peer("timetable"))
        once = {"expression": "input.key", "ttl_ms": 60_000, "method": "STATUS"}
        definition = WorkflowDefinition("w", (TaskDefinition("t", "w:t"),), idempotency=once)
        self.probe.call("put_workflow", self.gateway, PutWorkflow(1, TENANT, definition))

    def trigger(self, *runs, owners, is_repeat=False):
        """Create runs, of which `owners` have the keys; what the tracker said last."""
        said = self.probe.call("trigger", self.gateway, TriggerRuns(7, TENANT, runs, is_repeat))
        for fetch in said.fetches:
            said = self.probe.call(fetch.then, fetch.context, ([], []), None)
        asked = [sent for sent in said.sends if sent.method == "claim_keys"]
        for sent in asked:
            assert len(sent.args[1]) == len(owners)
            said = self.probe.call("keys_claimed", sent.args[0], owners)
        assert bool(asked) == bool(owners)
        return said

    def commit(self, said):
        return [
            self.probe.call(sent.method, *sent.args) for sent in said.effects if sent.to is self.probe.handle
        ]

    def answers(self, said):
        return [message for sent in said.effects if sent.to is self.gateway for message in sent.args[0]]


def make_run():
    return NewRun("w", b'{"key":"k"}', run_id=new_id())


def test_a_run_with_a_key_that_the_record_refuses_costs_its_caller_only():
    bench = Bench()
    run = make_run()
    said = bench.trigger(run, owners=(run.run_id,))
    kinds = [type(record) for record in said.records]
    assert kinds == [TaskRunRow, IdempotencyKeyRow]
    effects = tuple((getattr(sent.to, sent.method), sent.args) for sent in said.effects)
    refused = bench.probe.call("records_refused", tuple(said.records), effects, "value out of range")
    assert Sent(bench.claims, "unclaim_keys", ((("k", run.run_id),),)) in refused.sends
    (told,) = [sent.args[0][0] for sent in refused.sends if sent.to is bench.gateway]
    assert (told.request_id, told.code) == (7, Code.INVALID_ARGUMENT)
    assert not bench.probe.actor._live


def test_a_trigger_with_collisions_that_the_record_refuses_is_answered_too():
    bench = Bench()
    run, lost = make_run(), make_run()
    said = bench.trigger(run, lost, owners=(run.run_id, run.run_id))
    effects = tuple((getattr(sent.to, sent.method), sent.args) for sent in said.effects)
    refused = bench.probe.call("records_refused", tuple(said.records), effects, "value out of range")
    (told,) = bench.answers(refused)
    assert (told.request_id, told.code) == (7, Code.INVALID_ARGUMENT)


def test_a_collision_with_a_run_that_the_record_refused_may_be_tried_again():
    bench = Bench()
    run, lost = make_run(), make_run()
    first = bench.trigger(run, owners=(run.run_id,))
    second = bench.trigger(lost, owners=(run.run_id,))
    effects = tuple((getattr(sent.to, sent.method), sent.args) for sent in first.effects)
    bench.probe.call("records_refused", tuple(first.records), effects, "value out of range")
    (then,) = bench.commit(second)
    (told,) = bench.answers(then)
    assert (told.code, run.run_id in told.message) == (Code.UNAVAILABLE, True)


def test_a_repeat_tells_its_collisions_beside_the_runs_that_exist():
    bench = Bench()
    run, lost = make_run(), make_run()
    bench.commit(bench.trigger(run, owners=(run.run_id,)))
    said = bench.trigger(run, lost, owners=(run.run_id,), is_repeat=True)
    assert said.records == []
    (then,) = bench.commit(said)
    (told,) = bench.answers(then)
    assert isinstance(told, Refusal)
    assert told.detail == IdempotencyCollisions(
        (run.run_id,), (IdempotencyCollision(run.run_id, lost.run_id),)
    )


def test_a_repeat_of_a_run_that_lives_does_not_ask_for_its_key_again():
    bench = Bench()
    run = make_run()
    bench.commit(bench.trigger(run, owners=(run.run_id,)))
    said = bench.trigger(run, owners=(), is_repeat=True)
    assert said.records == []
    (then,) = bench.commit(said)
    assert bench.answers(then)[0].value == (run.run_id,)


def test_a_run_id_twice_does_not_take_the_key_of_the_run_that_lives():
    bench = Bench()
    run = make_run()
    message = TriggerRuns(7, TENANT, (run,))
    first, second = (
        next(
            sent.args[0]
            for sent in bench.probe.call("trigger", bench.gateway, message).sends
            if sent.method == "claim_keys"
        )
        for _ in range(2)
    )
    bench.commit(bench.probe.call("keys_claimed", first, (run.run_id,)))
    said = bench.probe.call("keys_claimed", second, (run.run_id,))
    assert bench.answers(said)[0].code == Code.ALREADY_EXISTS
    assert [sent for sent in said.sends if sent.method == "unclaim_keys"] == []
