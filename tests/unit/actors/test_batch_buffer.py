"""When a batch starts, and who is in it: a group against a model, and the buffer actor alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_actors.batch_buffer import BatchBuffer
from broadaxe_actors.batches import BATCH_SLOTS, TICKET, BatchKey, BatchRules, Draw, Member, WaitingGroup
from broadaxe_actors.matching import Demand
from broadaxe_actors.runtime.testing import Probe, peer
from tests.factories import TENANT

KEY = BatchKey("step", "group")
INTERVAL_US = 1_000_000
DEMAND = Demand("w:t|default=1|", "w:t", BATCH_SLOTS)


def member(name, priority=1, seq=0, size=10, attempt=0):
    return Member(name, attempt, priority, seq, size)


class Bench:
    """A buffer between queue and tracker."""

    def __init__(self, max_size=3, group_max_runs=100, max_bytes=1_000):
        self.rules = BatchRules("w:t", DEMAND, max_size, INTERVAL_US, group_max_runs, "'x'")
        self.queue, self.tracker = peer("queue"), peer("tracker")
        self.probe = Probe(BatchBuffer, KEY, self.queue, self.tracker, max_bytes, lane=TENANT)
        self.timer = None
        self.seq = 0
        self.tickets = []
        """In line, those that the queue was told to forget left out."""

    def call(self, method, *args):
        return self.take(self.probe.call(method, *args))

    def take(self, said):
        for timer in said.timers:
            self.timer = timer
        if said.cancelled:
            self.timer = None
        for sent in said.sends:
            if sent.method == "ask":
                assert sent.args[0] == KEY
                self.tickets += [ticket.task_run_id for ticket in sent.args[1]]
            elif sent.method == "withdraw":
                self.tickets = [ticket for ticket in self.tickets if ticket not in sent.args[0]]
        return said

    def add(self, *members):
        return self.call("add", self.rules, members)

    def add_many(self, count, **fields):
        members = []
        for _ in range(count):
            self.seq += 1
            members.append(member(f"m{self.seq}", seq=self.seq, **fields))
        self.add(*members)

    def pass_interval(self):
        self.probe.clock.advance(INTERVAL_US)
        return self.call("interval_over")

    def grant(self, batch_id=None):
        """The slot of the first ticket in line is there. Returns the batch that starts, or None when the slot came back."""
        batch_id = batch_id or self.tickets.pop(0)
        said = self.call("granted", batch_id, "worker")
        draws = [sent.args[0] for sent in said.sends if sent.method == "start_batch"]
        released = [sent.args[0] for sent in said.sends if sent.method == "release"]
        assert len(draws) + len(released) == 1
        if released:
            assert released == [(("worker", batch_id, TICKET),)]
            return None
        (draw,) = draws
        assert (draw.key, draw.batch_id, draw.worker_id) == (KEY, batch_id, "worker")
        return draw


def names(draw: Draw):
    return [item.task_run_id for item in draw.members]


# ---------------------------------------------------------------- a group


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 30), st.integers(1, 4), st.integers(1, 60)),
            st.tuples(st.just("remove"), st.integers(0, 30)),
            st.tuples(st.just("draw"), st.integers(1, 5)),
        )
    )
)
def test_a_group_draws_by_priority_then_age_within_size_and_bytes(steps):
    group = WaitingGroup(100)
    model = {}
    for seq, step in enumerate(steps):
        if step[0] == "add":
            name = f"m{step[1]}"
            added = member(name, step[2], seq, step[3])
            group.add(added)
            model.setdefault(name, added)
        elif step[0] == "remove":
            name = f"m{step[1]}"
            group.remove(name, 1)
            group.remove(name, 0)
            model.pop(name, None)
        else:
            expected = []
            for item in sorted(model.values(), key=lambda item: (-item.priority, item.seq)):
                if len(expected) == step[1] or (
                    expected and sum(other.size for other in expected) + item.size > 100
                ):
                    break
                expected.append(item)
            assert list(group.draw(step[1])) == expected
            for item in expected:
                del model[item.task_run_id]
        assert len(group) == len(model)
        assert group.top_priority == max((item.priority for item in model.values()), default=0)
        by_bytes = sum(item.size for item in model.values()) // 100
        assert group.full_batches(4)[0] == max(len(model) // 4, by_bytes)


def test_those_who_left_a_group_take_no_room():
    group = WaitingGroup(1_000_000)
    for number in range(10_000):
        group.add(member(f"m{number}", seq=number))
        group.remove(f"m{number}", 0)
    assert len(group._order) < 100


# ---------------------------------------------------------------- when


def test_a_full_batch_asks_for_one_slot_and_starts_when_it_is_there():
    bench = Bench(max_size=3)
    bench.add_many(2)
    assert bench.tickets == []
    said = bench.add(member("m3", seq=3))
    ((_, (ticket,)),) = [sent.args for sent in said.sends if sent.method == "ask"]
    assert (ticket.attempt, ticket.demand) == (TICKET, DEMAND)
    draw = bench.grant()
    assert names(draw) == ["m1", "m2", "m3"]
    assert draw.reason == "the batch has reached its size of 3"


def test_as_many_batches_are_asked_for_as_are_full():
    bench = Bench(max_size=3)
    bench.add_many(10)
    assert len(bench.tickets) == 3
    assert [len(bench.grant().members) for _ in range(3)] == [3, 3, 3]
    assert bench.tickets == []
    bench.pass_interval()
    assert names(bench.grant()) == ["m10"]


def test_the_interval_counts_from_the_first_member_and_then_from_the_last_flush():
    bench = Bench(max_size=3)
    bench.add_many(1)
    assert bench.timer.delay_us == INTERVAL_US
    bench.probe.clock.advance(INTERVAL_US - 1)
    bench.call("interval_over")
    assert bench.tickets == []
    bench.add_many(3)
    bench.grant()
    bench.probe.clock.advance(INTERVAL_US - 1)
    bench.call("interval_over")
    assert bench.tickets == []
    bench.probe.clock.advance(1)
    bench.take(bench.probe.call("interval_over"))
    draw = bench.grant()
    assert names(draw) == ["m4"]
    assert draw.reason == "the interval of 1,000 ms has passed"


def test_a_group_that_was_empty_comes_into_being_anew():
    bench = Bench()
    bench.add_many(3)
    bench.grant()
    bench.probe.clock.advance(10 * INTERVAL_US)
    bench.add_many(1)
    assert bench.tickets == []
    assert bench.timer.delay_us == INTERVAL_US


def test_payloads_that_no_message_could_carry_start_a_batch():
    bench = Bench(max_size=100, max_bytes=1_000)
    bench.add_many(3, size=333)
    assert bench.tickets == []
    bench.add_many(1, size=2)
    draw = bench.grant()
    assert names(draw) == ["m1", "m2", "m3"]
    assert draw.reason == "the payloads have reached 1,001 bytes"
    assert bench.tickets == []


def test_a_member_that_is_too_large_starts_alone():
    bench = Bench(max_size=100, max_bytes=1_000)
    bench.add_many(1, size=5_000)
    assert names(bench.grant()) == ["m1"]


def test_who_comes_before_the_slot_is_drawn_by_priority():
    bench = Bench(max_size=2)
    bench.add_many(2)
    bench.add(member("urgent", priority=3, seq=9), member("retry", priority=4, seq=10))
    assert names(bench.grant()) == ["retry", "urgent"]
    assert names(bench.grant()) == ["m1", "m2"]


def test_a_more_urgent_member_does_not_wait_at_the_place_of_the_others():
    bench = Bench(max_size=2)
    bench.add_many(2)
    (before,) = bench.tickets
    said = bench.add(member("urgent", priority=3))
    ((withdrawn,),) = [sent.args for sent in said.sends if sent.method == "withdraw"]
    ((_, (ticket,)),) = [sent.args for sent in said.sends if sent.method == "ask"]
    assert withdrawn == (before,)
    assert ticket.queue_priority == 3
    assert bench.grant(before) is None
    assert names(bench.grant()) == ["urgent", "m1"]


# ---------------------------------------------------------------- how many


def test_no_more_batches_of_a_group_run_than_may():
    bench = Bench(max_size=1, group_max_runs=2)
    bench.add_many(4)
    first, second = bench.grant(), bench.grant()
    assert bench.tickets == []
    bench.call("ended", (first.batch_id,))
    bench.grant()
    assert bench.tickets == []
    bench.call("ended", (second.batch_id,))
    assert names(bench.grant()) == ["m4"]


def test_batches_that_recovery_finds_count():
    bench = Bench(max_size=1, group_max_runs=1)
    bench.call("running", ("old",))
    bench.add_many(1)
    assert bench.tickets == []
    bench.call("ended", ("old",))
    assert names(bench.grant()) == ["m1"]


# ---------------------------------------------------------------- who leaves


def test_a_slot_for_which_nobody_is_left_goes_back_and_the_rest_waits_its_time():
    bench = Bench(max_size=2)
    bench.add_many(2)
    bench.call("leave", (("m1", 0),))
    assert bench.grant() is None
    assert bench.tickets == []
    bench.pass_interval()
    assert names(bench.grant()) == ["m2"]


def test_an_attempt_that_left_does_not_take_a_later_one_with_it():
    bench = Bench(max_size=2)
    bench.add(member("m", attempt=1))
    bench.call("leave", (("m", 0), ("unknown", 0)))
    bench.pass_interval()
    assert names(bench.grant()) == ["m"]


def test_an_empty_buffer_takes_its_tickets_back_and_retires():
    bench = Bench(max_size=2)
    bench.add_many(2)
    said = bench.call("leave", (("m1", 0), ("m2", 0)))
    assert bench.tickets == []
    assert said.is_retiring
    assert bench.timer is None


def test_a_grant_that_crosses_with_the_end_of_a_buffer_comes_back():
    bench = Bench()
    said = bench.probe.call("granted", "of-another-life", "worker")
    assert [sent.args for sent in said.sends] == [((("worker", "of-another-life", TICKET),),)]
    assert said.is_retiring


@pytest.mark.parametrize("is_running", [True, False])
def test_a_buffer_with_running_batches_stays(is_running):
    bench = Bench(max_size=1)
    bench.add_many(1)
    said = bench.probe.call("granted", bench.tickets[0], "worker")
    assert not said.is_retiring
    assert bench.probe.call("ended", (bench.tickets[0] if not is_running else "other",)).is_retiring is not (
        is_running
    )
