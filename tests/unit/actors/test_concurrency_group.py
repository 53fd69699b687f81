"""A concurrency group: who is admitted, who has to go, and that no place is given twice, lost or left free while somebody waits."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from broadaxe_actors.admission import GroupKey, Strategy
from broadaxe_actors.concurrency import (
    CANCEL_IN_PROGRESS,
    CANCEL_NEWEST,
    CANCEL_QUEUED_EXCEPT_NEWEST,
    CANCEL_QUEUED_EXCEPT_OLDEST,
    GROUP_ROUND_ROBIN,
    STRATEGIES,
    Ask,
)
from broadaxe_actors.concurrency_group import ConcurrencyGroup
from broadaxe_actors.runtime.testing import Probe, peer

KEY = GroupKey("version/workflow0", "a")


class Bench:
    """A group and the tracker beside it: what it was told, in order."""

    def __init__(self, name=GROUP_ROUND_ROBIN, max_runs=2):
        self.strategy = Strategy(name, max_runs)
        self.tracker = peer("tracker")
        self.probe = Probe(ConcurrencyGroup, KEY, self.tracker)
        self.tickets = 0
        self.born = 0
        self.is_retired = False

    def call(self, method, *args):
        said = self.probe.call(method, *args)
        self.is_retired = said.is_retiring
        return {sent.method: sent.args for sent in said.sends}

    def ask(self, *names, priority=1, is_again=False):
        asks = []
        for name in names:
            self.tickets += 1
            self.born += 1
            asks.append(Ask(name, self.tickets, priority, (self.born, name), is_again))
        return self.call("ask", self.strategy, tuple(asks))


def names(told, method):
    return [member for member, _ in told[method][-1]] if method in told else []


def test_a_group_admits_as_many_as_it_may_and_then_the_next_in_line():
    bench = Bench()
    told = bench.ask("a", "b", "c", "d")
    assert told["admitted"] == (KEY, (("a", 1), ("b", 2)))
    assert bench.call("leave", ("b",))["admitted"] == (KEY, (("c", 3),))
    assert bench.call("leave", ("a", "c"))["admitted"] == (KEY, (("d", 4),))
    assert not bench.is_retired
    assert bench.call("leave", ("d",)) == {}
    assert bench.is_retired


def test_who_waits_with_a_higher_priority_is_admitted_first_and_equals_in_turn():
    bench = Bench(max_runs=1)
    bench.ask("holder")
    bench.ask("low", "low2")
    bench.ask("high", priority=3)
    bench.ask("retry", priority=4, is_again=True)
    order = []
    holder = "holder"
    for _ in range(4):
        (holder,) = names(bench.call("leave", (holder,)), "admitted")
        order.append(holder)
    assert order == ["retry", "high", "low", "low2"]


def test_who_stops_waiting_is_passed_over():
    bench = Bench(max_runs=1)
    bench.ask("holder", "gone", "next")
    bench.call("leave", ("gone",))
    assert names(bench.call("leave", ("holder",)), "admitted") == ["next"]


def test_cancel_in_progress_displaces_the_oldest_and_waits_until_it_has_left():
    bench = Bench(CANCEL_IN_PROGRESS, 2)
    assert names(bench.ask("a", "b"), "admitted") == ["a", "b"]
    told = bench.ask("c")
    assert told == {"displaced": (KEY, bench.strategy, (("a", 1),))}
    assert names(bench.ask("d", "e"), "displaced") == ["b", "c"]  # c before it was ever admitted
    assert names(bench.call("leave", ("a", "c")), "admitted") == ["d"]
    assert names(bench.call("leave", ("b",)), "admitted") == ["e"]


def test_a_retry_is_no_newer_than_it_was():
    bench = Bench(CANCEL_IN_PROGRESS, 1)
    old = Ask("old", 1, 1, (1, "old"), False)
    bench.call("ask", bench.strategy, (old,))
    bench.call("leave", ("old",))
    bench.call("ask", bench.strategy, (Ask("new", 2, 1, (2, "new"), False),))
    told = bench.call("ask", bench.strategy, (old._replace(ticket=3, is_again=True),))
    assert told == {"displaced": (KEY, bench.strategy, (("old", 3),))}


def test_cancel_newest_turns_newcomers_away_but_has_retries_wait():
    bench = Bench(CANCEL_NEWEST, 1)
    bench.ask("a")
    assert bench.ask("b") == {"displaced": (KEY, bench.strategy, (("b", 2),))}
    assert bench.ask("retry", is_again=True) == {}
    assert names(bench.call("leave", ("a",)), "admitted") == ["retry"]


@pytest.mark.parametrize(
    ("name", "gone", "then"),
    [
        (CANCEL_QUEUED_EXCEPT_NEWEST, ["b", "c"], "d"),
        (CANCEL_QUEUED_EXCEPT_OLDEST, ["c", "d"], "b"),
    ],
)
def test_only_one_of_those_that_wait_stays(name, gone, then):
    bench = Bench(name, 1)
    assert names(bench.ask("a", "b", "c", "d"), "displaced") == gone
    assert names(bench.call("leave", ("a",)), "admitted") == [then]


def test_what_ran_before_a_restart_holds_its_place_even_beyond_the_limit():
    bench = Bench(max_runs=1)
    held = tuple(Ask(name, 9, 1, (0, name), False) for name in ("a", "b"))
    bench.call("hold", bench.strategy, held)
    assert bench.ask("c") == {}
    assert bench.call("leave", ("a",)) == {}
    assert names(bench.call("leave", ("b",)), "admitted") == ["c"]


def test_a_limit_that_was_raised_admits_more():
    bench = Bench(max_runs=1)
    bench.ask("a", "b", "c")
    bench.strategy = Strategy(GROUP_ROUND_ROBIN, 3)
    assert names(bench.ask("d"), "admitted") == ["b", "c"]


def test_a_message_to_a_group_without_members_does_not_keep_it():
    bench = Bench()
    assert bench.call("leave", ("nobody",)) == {}
    assert bench.is_retired


class Lives(RuleBasedStateMachine):
    """Members that come, go, retry and are displaced; now and then the engine crashes, and the record is all that is left."""

    members = Bundle("members")

    @initialize(name=st.sampled_from(sorted(STRATEGIES)), max_runs=st.integers(1, 4))
    def begin(self, name, max_runs):
        self.strategy = Strategy(name, max_runs)
        self.number = 0
        self.waiting, self.held, self.told_to_go = {}, {}, set()
        self.asks = {}
        self.bring_up()

    def bring_up(self):
        self.tracker = peer("tracker")
        self.probe = Probe(ConcurrencyGroup, KEY, self.tracker)

    def call(self, method, *args):
        said = self.probe.call(method, *args)
        for sent in said.sends:
            if sent.method == "admitted":
                for member, ticket in sent.args[1]:
                    assert self.waiting.pop(member) == ticket  # who waits, once, by its last request
                    self.held[member] = ticket
            else:
                assert sent.method == "displaced"
                assert self.strategy.name != GROUP_ROUND_ROBIN
                for member, ticket in sent.args[2]:
                    assert ticket in (self.waiting.get(member), self.held.get(member))
                    assert member not in self.told_to_go
                    self.told_to_go.add(member)
                    self.waiting.pop(member, None)
        if said.is_retiring:
            assert not self.held
            assert not self.waiting
            self.bring_up()

    @rule(target=members, priority=st.integers(1, 3))
    def come(self, priority):
        self.number += 1
        name = f"m{self.number}"
        ask = self.asks[name] = Ask(name, self.number, priority, (self.number, name), False)
        self.waiting[name] = ask.ticket
        self.call("ask", self.strategy, (ask,))
        return name

    @rule(name=consumes(members))
    def go(self, name):
        self.waiting.pop(name, None)
        self.held.pop(name, None)
        self.told_to_go.discard(name)
        self.call("leave", (name,))

    @rule(name=members)
    def back_off_and_come_again(self, name):
        if name not in self.held or name in self.told_to_go:
            return
        del self.held[name]
        self.call("leave", (name,))
        self.number += 1
        ask = self.asks[name] = self.asks[name]._replace(ticket=self.number, priority=4, is_again=True)
        self.waiting[name] = ask.ticket
        self.call("ask", self.strategy, (ask,))

    @rule()
    def crash(self):
        """Holders hold; who was told to go and has not been is told again, or stays; the others ask in the order in which they came."""
        self.bring_up()
        self.told_to_go.clear()
        held = [self.asks[name] for name in self.held]
        if held:
            self.call("hold", self.strategy, tuple(held))
        waiting = sorted((self.asks[name] for name in self.waiting), key=lambda ask: ask.rank)
        for ask in waiting:
            if ask.member_id in self.waiting:
                self.call("ask", self.strategy, (ask,))

    @invariant()
    def never_more_than_the_limit_and_nobody_is_forgotten(self):
        if not hasattr(self, "held"):
            return
        assert len(self.held) <= self.strategy.max_runs
        if self.waiting:
            assert len(self.held) == self.strategy.max_runs
        alive = len(self.held) + len(self.waiting) - len(self.told_to_go & self.held.keys())
        if self.strategy.name == CANCEL_IN_PROGRESS:
            assert alive <= self.strategy.max_runs


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
