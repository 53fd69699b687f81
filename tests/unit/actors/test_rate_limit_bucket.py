"""What a rate-limit bucket grants, records and tells, a handler at a time."""

import asyncio

import pytest

from broadaxe_actors.messages import DeleteRateLimit, PauseRateLimit, PutRateLimit, Reply
from broadaxe_actors.rate_limit_bucket import RateLimitBucket, RateLimitReader
from broadaxe_actors.rate_limits import MINUTE_US, SECOND_US
from broadaxe_actors.runtime import ActorStopped
from broadaxe_actors.runtime.testing import Probe, Sent, peer
from broadaxe_actors.telemetry import Telemetry
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.memory import MemoryStore
from broadaxe_storage.records import RateLimitDrop
from tests.factories import TENANT, make_rate_limit

GATEWAY = peer("gateway")


class Bench:
    """A bucket that has read its row (none, unless given), with a limit of 10 a minute if `limit` is."""

    def __init__(self, limit=None, window_us=MINUTE_US, row=None):
        self.queue, self.telemetry = peer("queue"), Telemetry()
        reader = RateLimitReader(MemoryStore(), TENANT)
        self.probe = Probe(RateLimitBucket, TENANT, "k", reader, self.queue, self.telemetry, lane=TENANT)
        self.probe.clock.advance(7 * SECOND_US)
        (self.read,) = self.probe.born.fetches
        self.loaded = self.call("loaded", None, row, None)
        if limit is not None:
            self.put(limit, window_us)

    @property
    def clock(self):
        return self.probe.clock

    def call(self, method, *args):
        return self.probe.call(method, *args)

    def put(self, limit, window_us=MINUTE_US):
        return self.commit(self.call("put", GATEWAY, PutRateLimit(1, TENANT, "k", limit, window_us)))

    def commit(self, said):
        """Let out what waits for the commit; all that was said of it."""
        commits = [effect for effect in said.effects if effect.method == "committed"]
        return [said, *(self.call("committed", *commit.args) for commit in commits)]

    def ask(self, units):
        return self.commit(self.call("ask", units))

    def credits(self, found):
        """Units that the queue got."""
        return [sent.args[1] for said in found for sent in said.sends if sent.method == "credits"]

    def wake(self):
        """The timer that was set last has come."""
        return self.call("wake")


def told(said):
    return [(sent.method, *sent.args) for sent in said.sends]


# ---------------------------------------------------------------- granting


def test_units_are_granted_once_their_spend_is_committed():
    bench = Bench(limit=10)
    said = bench.call("ask", 4)
    assert told(said) == [("limit_is", "k", 10)]
    assert [(row.key, row.units_left) for row in said.records] == [("k", 6)]
    committed = bench.commit(said)[1]
    assert committed.sends == [Sent(bench.queue, "credits", ("k", 4))]


def test_what_the_window_has_not_comes_with_the_next_one():
    bench = Bench(limit=10)
    found = bench.ask(25)
    assert bench.credits(found) == [10]
    bench.clock.advance(MINUTE_US - 1)
    (timer,) = bench.wake().timers
    assert (timer.key, timer.delay_us) == ("wake", 1)
    bench.clock.advance(1)
    (fetch,) = bench.wake().fetches
    assert (fetch.function, fetch.args) == (bench.queue.credits_over.remote, ("k",))
    found = bench.commit(bench.call("dropped", None, None, None))
    assert bench.credits(found) == [10]
    bench.clock.advance(MINUTE_US)
    bench.wake()
    assert bench.credits(bench.commit(bench.call("dropped", None, None, None))) == [5]


def test_an_ask_counts_all_that_is_wanted_and_what_is_under_way_is_not_granted_twice():
    bench = Bench(limit=10)
    first = bench.call("ask", 4)
    second = bench.call("ask", 5)
    assert [row.units_left for row in (*first.records, *second.records)] == [6, 5]
    assert bench.credits([*bench.commit(first), *bench.commit(second)]) == [4, 1]


def test_units_that_nobody_wants_any_more_when_they_are_committed_stay_here():
    bench = Bench(limit=10)
    said = bench.call("ask", 4)
    bench.call("ask", 1)
    assert bench.credits(bench.commit(said)) == [1]
    assert bench.probe.actor._bucket.left == 9


def test_units_committed_after_their_window_are_lost_and_granted_again_of_the_next():
    bench = Bench(limit=10)
    said = bench.call("ask", 4)
    bench.clock.advance(MINUTE_US)
    assert not bench.wake().records
    found = bench.commit(said)
    assert bench.credits(found) == []
    assert [row.units_left for row in found[1].records] == [6]
    assert bench.credits(bench.commit(found[1])) == [4]


def test_nothing_is_granted_until_the_queue_has_dropped_what_it_had_of_the_last_window():
    bench = Bench(limit=10)
    bench.ask(10)
    bench.clock.advance(MINUTE_US)
    assert bench.call("ask", 3).fetches
    assert not bench.call("ask", 4).records
    # This was said before the queue heard of the window's end: it is of the old one.
    assert not bench.call("give_back", 6).records
    assert bench.credits(bench.commit(bench.call("dropped", None, None, None))) == [4]
    assert bench.probe.actor._bucket.left == 6


def test_a_queue_that_has_gone_is_waited_for_no_more():
    bench = Bench(limit=10)
    bench.ask(10)
    bench.clock.advance(MINUTE_US)
    bench.wake()
    assert bench.call("dropped", None, None, ActorStopped("gone")).is_silent
    with pytest.raises(ValueError, match="ours"):
        bench.call("dropped", None, None, ValueError("ours"))


def test_units_given_back_may_be_granted_again_within_their_window():
    bench = Bench(limit=10)
    bench.ask(10)
    assert bench.credits(bench.ask(3)) == []
    assert bench.credits(bench.commit(bench.call("give_back", 2))) == [2]
    # More than it was given cannot come back.
    bench.call("ask", 0)
    bench.call("give_back", 100)
    assert bench.probe.actor._bucket.left == 10


def test_task_runs_held_by_a_limit_are_counted_once():
    bench = Bench(limit=10)
    count = bench.telemetry.counters["rate_limited"]
    bench.ask(8)
    assert count[TENANT] == 0
    bench.ask(5)
    bench.ask(3)
    assert count[TENANT] == 3
    bench.ask(4)
    assert count[TENANT] == 4


# ---------------------------------------------------------------- limits


def test_a_limit_is_put_and_answered_after_its_commit():
    bench = Bench()
    said = bench.call("put", GATEWAY, PutRateLimit(5, TENANT, "k", 10, MINUTE_US))
    (row,) = said.records
    assert (row.tenant_id, row.key, row.limit_value, row.window_us, row.units_left) == (
        TENANT,
        "k",
        10,
        MINUTE_US,
        10,
    )
    assert said.effects[-1] == Sent(GATEWAY, "deliver", ((Reply(5, None),),))
    again = bench.call("put", GATEWAY, PutRateLimit(6, TENANT, "k", 10, MINUTE_US))
    assert not again.records
    assert again.effects == [Sent(GATEWAY, "deliver", ((Reply(6, None),),))]


def test_who_waits_for_a_limit_gets_units_when_it_is_put():
    bench = Bench()
    found = bench.ask(3)
    assert told(found[0]) == [("limit_is", "k", None)]
    assert not found[0].records
    assert not found[0].timers
    found = bench.put(2)
    assert told(found[0]) == [("limit_is", "k", 2)]
    assert bench.credits(found) == [2]


def test_the_queue_hears_of_each_change_once_it_has_asked():
    bench = Bench(limit=10)
    assert told(bench.put(9)[0]) == []
    assert told(bench.ask(1)[0]) == [("limit_is", "k", 9)]
    assert told(bench.ask(1)[0]) == []
    assert told(bench.put(3)[0]) == [("limit_is", "k", 3)]
    assert told(bench.put(3, SECOND_US)[0]) == []
    assert told(bench.call("define", 2, 1)) == [("limit_is", "k", 2)]
    assert told(bench.call("define", -1, 1)) == []


def test_a_lower_limit_leaves_no_more_than_itself():
    bench = Bench(limit=10)
    bench.ask(3)
    bench.put(2)
    bench.call("dropped", None, 0, None)
    assert bench.credits(bench.ask(9)) == [2]


def test_a_lower_limit_takes_back_what_the_queue_has_not_used():
    bench = Bench(limit=10)
    bench.ask(6)
    (said, *_) = bench.put(5)
    assert [fetch.args for fetch in said.fetches] == [("k",)]
    # One of the six was used.
    bench.commit(bench.call("dropped", None, 5, None))
    assert bench.probe.actor._bucket.left == 5
    assert not bench.put(8)[0].fetches


def test_a_definition_makes_a_bucket():
    bench = Bench()
    (row,) = bench.call("define", 5, 60).records
    assert (row.limit_value, row.window_us) == (5, MINUTE_US)
    assert not bench.call("define", 5, 60).records
    assert bench.credits(bench.ask(9)) == [5]


def test_a_window_that_a_shorter_length_ends_gives_way_to_the_next():
    bench = Bench(limit=10)
    bench.ask(15)
    bench.clock.advance(2 * SECOND_US)
    (said, *_) = bench.put(10, SECOND_US)
    assert said.fetches
    assert bench.credits(bench.commit(bench.call("dropped", None, None, None))) == [5]


def test_a_limit_of_zero_grants_nothing_and_sets_no_timer():
    bench = Bench(limit=0)
    found = bench.ask(1)
    assert told(found[0]) == [("limit_is", "k", 0)]
    assert not found[0].timers


def test_a_deleted_limit_is_as_one_that_was_never_put():
    bench = Bench(limit=10)
    bench.ask(4)
    said = bench.call("delete", GATEWAY, DeleteRateLimit(8, TENANT, "k"))
    assert said.records == [RateLimitDrop(TENANT, "k")]
    assert told(said) == [("limit_is", "k", None)]
    assert said.effects[-1] == Sent(GATEWAY, "deliver", ((Reply(8, None),),))
    assert said.fetches  # what the queue has of it is dropped
    bench.commit(said)
    bench.call("dropped", None, None, None)
    assert bench.credits(bench.ask(1)) == []
    assert bench.credits(bench.put(10)) == [1]


def test_a_spend_under_way_when_its_bucket_is_deleted_grants_nothing():
    bench = Bench(limit=10)
    said = bench.call("ask", 4)
    bench.call("delete", GATEWAY, DeleteRateLimit(8, TENANT, "k"))
    assert bench.credits(bench.commit(said)) == []


# ---------------------------------------------------------------- pauses


def pause(bench, seconds):
    until = bench.clock.now() + seconds * SECOND_US
    return until, bench.call("pause", GATEWAY, PauseRateLimit(9, TENANT, "k", until))


def test_nothing_is_granted_while_paused():
    bench = Bench(limit=10)
    until, said = pause(bench, 30)
    assert [row.paused_until for row in said.records] == [until]
    assert said.effects[-1] == Sent(GATEWAY, "deliver", ((Reply(9, until),),))
    bench.commit(said)
    found = bench.ask(4)
    assert bench.credits(found) == []
    assert found[0].timers[-1].delay_us == 30 * SECOND_US
    bench.clock.advance(30 * SECOND_US)
    assert bench.credits(bench.commit(bench.wake())) == [4]


def test_a_pause_takes_back_what_the_queue_has_and_what_is_under_way():
    bench = Bench(limit=10)
    bench.ask(4)
    under_way = bench.call("ask", 2)
    _, said = pause(bench, 30)
    assert said.fetches
    assert bench.credits(bench.commit(under_way)) == []
    bench.call("dropped", None, None, None)
    assert bench.probe.actor._bucket.left == 6
    bench.clock.advance(30 * SECOND_US)
    assert bench.credits(bench.commit(bench.wake())) == [2]


def test_a_pause_is_never_shortened():
    bench = Bench(limit=10)
    until, _ = pause(bench, 30)
    _, said = pause(bench, 10)
    assert not said.records
    assert said.effects == [Sent(GATEWAY, "deliver", ((Reply(9, until),),))]
    longer, said = pause(bench, 40)
    assert [row.paused_until for row in said.records] == [longer]


def test_a_pause_ends_when_the_wall_clock_says_so():
    bench = Bench(limit=10)
    pause(bench, 3_600)
    bench.ask(4)
    bench.clock.shift_wall(3_601 * SECOND_US)
    bench.clock.advance(MINUTE_US)
    assert bench.credits(bench.commit(bench.wake())) == [4]


def test_a_key_without_a_limit_may_be_paused():
    bench = Bench()
    _, said = pause(bench, 30)
    (row,) = said.records
    assert (row.limit_value, row.units_left) == (None, 0)
    bench.ask(1)
    assert bench.credits(bench.put(5)) == []


# ---------------------------------------------------------------- coming and going


def test_what_comes_before_the_row_is_read_is_kept():
    queue = peer("queue")
    probe = Probe(RateLimitBucket, TENANT, "k", RateLimitReader(MemoryStore(), TENANT), queue, Telemetry())
    for method, args in (
        ("define", (10, 60)),
        ("ask", (7,)),
        ("give_back", (1,)),
        ("pause", (GATEWAY, PauseRateLimit(1, TENANT, "k", 5))),
        ("put", (GATEWAY, PutRateLimit(2, TENANT, "k", 9, MINUTE_US))),
    ):
        assert probe.call(method, *args).is_silent
    said = probe.call("loaded", None, make_rate_limit(units_left=4), None)
    assert [sent.args[0][0] for sent in said.effects if sent.method == "deliver"] == [
        Reply(1, 5),
        Reply(2, None),
    ]
    assert said.records[-1].units_left == 0
    late = Probe(RateLimitBucket, TENANT, "k", RateLimitReader(MemoryStore(), TENANT), queue, Telemetry())
    assert late.call("delete", GATEWAY, DeleteRateLimit(1, TENANT, "k")).is_silent
    assert late.call("loaded", None, make_rate_limit(), None).records == [RateLimitDrop(TENANT, "k")]


def test_a_row_that_cannot_be_read_is_read_again():
    reader = RateLimitReader(MemoryStore(), TENANT)
    probe = Probe(RateLimitBucket, TENANT, "k", reader, peer("queue"), Telemetry())
    (timer,) = probe.call("loaded", None, None, Unavailable("away")).timers
    assert probe.fire(timer).fetches
    with pytest.raises(ValueError, match="ours"):
        probe.call("loaded", None, None, ValueError("ours"))


def test_a_bucket_retires_when_nobody_has_asked_for_two_windows():
    bench = Bench(limit=10, window_us=SECOND_US)
    bench.ask(4)
    bench.clock.advance(SECOND_US)
    bench.wake()
    said = bench.call("dropped", None, None, None)
    assert not said.is_retiring
    bench.clock.advance(SECOND_US)
    assert bench.wake().is_retiring


def test_a_bucket_of_a_long_window_retires_once_the_queue_holds_nothing_of_it():
    bench = Bench(limit=10, window_us=3_600 * SECOND_US)
    bench.ask(4)
    bench.call("give_back", 1)
    bench.clock.advance(60 * SECOND_US)
    said = bench.wake()
    assert said.fetches
    # What came back is worth a record before the bucket is forgotten.
    said = bench.call("dropped", None, None, None)
    assert [row.units_left for row in said.records] == [7]
    assert not said.is_retiring
    assert bench.commit(said)[1].is_retiring


def test_a_bucket_does_not_retire_before_its_records_are_committed():
    bench = Bench()
    said = bench.call("put", GATEWAY, PutRateLimit(5, TENANT, "k", 10, SECOND_US))
    bench.clock.advance(10 * SECOND_US)
    assert not bench.wake().is_retiring
    assert bench.commit(said)[1].is_retiring


def test_a_bucket_that_somebody_waits_for_stays():
    bench = Bench(limit=0, window_us=SECOND_US)
    bench.ask(4)
    bench.clock.advance(1_000 * SECOND_US)
    assert not bench.wake().is_retiring


def test_a_bucket_goes_on_with_what_is_stored():
    bench = Bench(row=make_rate_limit(units_left=4, window_start=0, timeline=0, monotonic_start=SECOND_US))
    assert bench.credits(bench.ask(9)) == [4]
    bench.clock.advance(MINUTE_US - 6 * SECOND_US)
    bench.wake()
    assert bench.credits(bench.commit(bench.call("dropped", None, None, None))) == [5]


# ---------------------------------------------------------------- reading


class CountingStore(MemoryStore):
    def __init__(self):
        super().__init__()
        self.reads = []

    async def fetch_rate_limits(self, tenant_id, keys):
        self.reads.append(tuple(keys))
        return await super().fetch_rate_limits(tenant_id, keys)


async def test_buckets_that_come_up_together_are_read_together():
    store = CountingStore()
    store.disk.rate_limits[TENANT, "k1"] = row = make_rate_limit("k1")
    reader = RateLimitReader(store, TENANT)
    found = await asyncio.gather(*(reader.fetch(f"k{number}") for number in range(2_500)))
    assert [item for item in found if item is not None] == [row]
    assert [len(keys) for keys in store.reads] == [1_000, 1_000, 500]
    assert await reader.fetch("k1") == row


async def test_a_read_that_fails_fails_for_all_and_not_for_who_comes_after():
    store = CountingStore()
    reader = RateLimitReader(store, TENANT)
    store.crash()
    results = await asyncio.gather(reader.fetch("a"), reader.fetch("b"), return_exceptions=True)
    assert [type(error) for error in results] == [Unavailable, Unavailable]
    store._is_closed = False
    assert await reader.fetch("a") is None


async def test_who_stops_waiting_for_a_read_stops_nobody_else():
    reader = RateLimitReader(CountingStore(), TENANT)
    first = asyncio.create_task(reader.fetch("a"))
    second = asyncio.create_task(reader.fetch("b"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is None
    assert first.cancelled()
